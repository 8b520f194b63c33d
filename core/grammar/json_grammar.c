/* The parts of JSON in GBNF that every grammar made here uses. */
#include "core/grammar/json_grammar.h"

/* White space is bounded: a model that only ever sends blanks would never come to an end. */
static const char RULES[] =
    "ws ::= (\" \" | \"\\n\" [ \\t]{0,32})?\n"
    "value ::= object | array | string | number | \"true\" | \"false\" | \"null\"\n"
    "object ::= \"{\" ws (member (ws \",\" ws member)* ws)? \"}\"\n"
    "member ::= string ws \":\" ws value\n"
    "array ::= \"[\" ws (value (ws \",\" ws value)* ws)? \"]\"\n"
    "string ::= \"\\\"\" char* \"\\\"\"\n"
    /* an escape is one character: pairs of surrogates stay together */
    "char ::= [^\"\\\\\\x00-\\x1f] | \"\\\\\" ([\"\\\\/bfnrt] | \"u\" unit)\n"
    "unit ::= [0-9a-cA-CefEF] hex{3} | [dD] [0-7] hex{2} | [dD] [89abAB] hex{2} \"\\\\u\" [dD] [c-fC-F] hex{2}\n"
    "hex ::= [0-9a-fA-F]\n"
    /* 15 digits: every reader's double holds them */
    "integer ::= \"-\"? digits\n"
    "digits ::= \"0\" | [1-9] [0-9]{0,14}\n"
    "number ::= integer (\".\" [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?\n";

void json_grammar_put_rules(struct l4_buf *gbnf) {
    l4_buf_puts(gbnf, RULES);
}

void l4_grammar_put_json_object(struct l4_buf *gbnf) {
    l4_buf_puts(gbnf, "root ::= object\n");
    json_grammar_put_rules(gbnf);
}
