/* What an answer is held to: `response_format` and `grammar` to a compiled grammar.  Pure functions.  Thread: any. */
#ifndef SERVER_CODEC_GRAMMAR_H
#define SERVER_CODEC_GRAMMAR_H

#include "llama4/grammar.h"
#include "server/codec_json.h"

/* grammar_decode - the grammar of a request, NULL where any text will do; the caller closes it.
 *   Errors: L4_E_INVALID (*err names the field and, in the message, the place in the schema or the line of the
 * grammar), L4_E_NOMEM (*err filled). */
int grammar_decode(const struct codec_body *body, struct l4_grammar **grammar, struct codec_err *err) L4_MUST_CHECK;
/* grammar_decode_format - the same of {"type": "text" | "json_object" | "json_schema"}, whose text is slice and which
 * stands at param. */
enum grammar_format {
    GRAMMAR_FORMAT_NESTED, /* "json_schema": {"name", "schema", ...}: chat */
    GRAMMAR_FORMAT_FLAT    /* "name", "schema", ... beside the type: responses */
};
int grammar_decode_format(const cJSON *format, struct codec_slice slice, const char *param, enum grammar_format form,
                          struct l4_grammar **grammar, struct codec_err *err) L4_MUST_CHECK;
/* grammar_from_schema - the same of a schema's text, which stands at param. */
int grammar_from_schema(struct codec_slice schema, const char *param, struct l4_grammar **grammar,
                        struct codec_err *err) L4_MUST_CHECK;

#endif
