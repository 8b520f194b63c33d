#include "server/codec_grammar.h"

#include <stdio.h>
#include <string.h>

static int refuse(struct codec_err *err, const char *param, const struct l4_err *why) {
    return why->code == L4_E_NOMEM ? codec_no_memory(err) : codec_fail(err, param, "'%s': %.300s", param, why->message);
}

/* param: what is to blame when the text is refused. */
static int compile(struct l4_text gbnf, const char *param, struct l4_grammar **grammar, struct codec_err *err) {
    struct l4_err why;
    if (l4_grammar_open(grammar, gbnf.data ? gbnf.data : "", gbnf.len_bytes, &why))
        return refuse(err, param, &why);
    return 0;
}

static int compile_buf(struct l4_buf *gbnf, const char *param, struct l4_grammar **grammar, struct codec_err *err) {
    int rc =
        gbnf->failed ? codec_no_memory(err) : compile((struct l4_text){gbnf->data, gbnf->len}, param, grammar, err);
    l4_buf_free(gbnf);
    return rc;
}

int grammar_from_schema(struct codec_slice schema, const char *param, struct l4_grammar **grammar,
                        struct codec_err *err) {
    struct l4_buf gbnf = {0};
    struct l4_err why;
    if (l4_grammar_from_schema(schema.p, (size_t)(schema.end - schema.p), &gbnf, &why)) {
        l4_buf_free(&gbnf);
        return refuse(err, param, &why);
    }
    return compile_buf(&gbnf, param, grammar, err);
}

/* spec: {"name", "description", "strict", "schema"}, at the place `at`. */
static int decode_schema(const cJSON *spec, struct codec_slice slice, const char *at, struct l4_grammar **grammar,
                         struct codec_err *err) {
    const cJSON *schema = NULL;
    struct l4_text name = {0}, ignored;
    struct l4_buf gbnf = {0};
    char param[64];
    bool strict;
    int rc;
    if ((rc = codec_get_text(spec, "name", &name, err)) || (rc = codec_get_text(spec, "description", &ignored, err)) ||
        (rc = codec_get_bool(spec, "strict", &strict, err)) || (rc = codec_get_object(spec, "schema", &schema, err)))
        return codec_within(err, "%s", at);
    if (!name.data) {
        codec_fail(err, "name", "the 'name' of '%s' is missing", at);
        return codec_within(err, "%s", at);
    }
    snprintf(param, sizeof param, "%s.schema", at);
    if (schema)
        return grammar_from_schema(codec_slice_child(slice, spec, schema), param, grammar, err);
    l4_grammar_put_json_object(&gbnf);
    return compile_buf(&gbnf, param, grammar, err);
}

int grammar_decode_format(const cJSON *format, struct codec_slice slice, const char *param, enum grammar_format form,
                          struct l4_grammar **grammar, struct codec_err *err) {
    struct l4_text type = {0};
    struct l4_buf gbnf = {0};
    const cJSON *spec = NULL;
    char at[64];
    int rc = codec_get_text(format, "type", &type, err);
    if (rc)
        return codec_within(err, "%s", param);
    if (type.data && strcmp(type.data, "text") == 0)
        return 0;
    if (type.data && strcmp(type.data, "json_object") == 0) {
        l4_grammar_put_json_object(&gbnf);
        return compile_buf(&gbnf, param, grammar, err);
    }
    if (!type.data || strcmp(type.data, "json_schema") != 0) {
        codec_fail(err, "type", "the 'type' of '%s' must be 'text', 'json_object' or 'json_schema'", param);
        return codec_within(err, "%s", param);
    }
    if (form == GRAMMAR_FORMAT_FLAT)
        return decode_schema(format, slice, param, grammar, err);
    if ((rc = codec_get_object(format, "json_schema", &spec, err)))
        return codec_within(err, "%s", param);
    snprintf(at, sizeof at, "%s.json_schema", param);
    if (!spec)
        return codec_fail(err, at, "'%s' is missing", at);
    return decode_schema(spec, codec_slice_child(slice, format, spec), at, grammar, err);
}

static int decode_response_format(const struct codec_body *body, const cJSON *format, struct l4_grammar **grammar,
                                  struct codec_err *err) {
    struct codec_slice slice = codec_slice_child(codec_slice_root(body), body->root, format);
    return grammar_decode_format(format, slice, "response_format", GRAMMAR_FORMAT_NESTED, grammar, err);
}

int grammar_decode(const struct codec_body *body, struct l4_grammar **grammar, struct codec_err *err) {
    const cJSON *format = NULL;
    struct l4_text gbnf = {0};
    int rc;
    *grammar = NULL;
    if ((rc = codec_get_text(body->root, "grammar", &gbnf, err)) ||
        (rc = codec_get_object(body->root, "response_format", &format, err)) ||
        (rc = format ? decode_response_format(body, format, grammar, err) : 0) || !gbnf.data)
        return rc;
    if (*grammar)
        return codec_fail(err, "grammar", "'grammar' and a 'response_format' other than text exclude each other");
    return compile(gbnf, "grammar", grammar, err);
}
