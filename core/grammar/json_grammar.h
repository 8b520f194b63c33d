/* The parts of JSON in GBNF that every grammar made here uses. */
#ifndef CORE_GRAMMAR_JSON_GRAMMAR_H
#define CORE_GRAMMAR_JSON_GRAMMAR_H

#include "llama4/grammar.h"

/* json_grammar_put_rules - append the rules ws, value, object, member, array, string, char, unit, hex, integer, digits
 * and number. */
void json_grammar_put_rules(struct l4_buf *gbnf);

#endif
