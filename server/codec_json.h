/* JSON in and out, on top of cJSON: checked bodies, typed fields, raw slices, and text written by hand.
 *
 * Pure functions: no engine, no HTTP.  Thread: any, an object belongs to one at a time.
 *
 * What a request body may be: an object in UTF-8 without a NUL, raw or as \u0000 (cJSON would cut the string there),
 * at most CODEC_MAX_DEPTH levels and CODEC_MAX_VALUES values.  null counts as absent.  Of a key that occurs twice the
 * last one counts, as in Python, JavaScript and Go. */
#ifndef SERVER_CODEC_JSON_H
#define SERVER_CODEC_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "llama4/buf.h"
#include "llama4/text.h"

enum { CODEC_MAX_DEPTH = 256, CODEC_MAX_VALUES = 1 << 20 };

/* Why a request is refused.  status is an HTTP status; param and code are empty where there is none. */
struct codec_err {
    int status;
    const char *code;
    char param[96];
    char message[400];
};

/* codec_fail - fill *err with status 400; returns L4_E_INVALID.  param NULL: no field to name. */
int codec_fail(struct codec_err *err, const char *param, const char *fmt, ...) L4_PRINTF(3, 4);
/* codec_no_memory - status 503; returns L4_E_NOMEM. */
int codec_no_memory(struct codec_err *err);
/* codec_within - put where in front of err->param: "messages[3]" + "content" = "messages[3].content".
 * Returns L4_E_INVALID, or L4_E_NOMEM (and touches nothing) where the request is not to blame. */
int codec_within(struct codec_err *err, const char *fmt, ...) L4_PRINTF(2, 3);

/* A parsed body.  text is borrowed and must outlive it: slices point into it. */
struct codec_body {
    cJSON *root;
    const char *text, *end;
};
int codec_body_parse(struct codec_body *body, const char *text, size_t len_bytes, struct codec_err *err) L4_MUST_CHECK;
void codec_body_free(struct codec_body *body); /* all zero is allowed */

/* The last member of that name, NULL if there is none, it is null, or `object` is no object (an array's items have no
 * name). */
const cJSON *codec_get(const cJSON *object, const char *name);

/* Typed fields: absent leaves *out as it is.  Errors name the field, what it must be and what it was. */
int codec_get_bool(const cJSON *object, const char *name, bool *out, struct codec_err *err) L4_MUST_CHECK;
int codec_get_float(const cJSON *object, const char *name, double min, double max, float *out,
                    struct codec_err *err) L4_MUST_CHECK;
int codec_get_int(const cJSON *object, const char *name, int64_t min, int64_t max, int64_t *out,
                  struct codec_err *err) L4_MUST_CHECK;
/* Borrowed from the tree. */
int codec_get_text(const cJSON *object, const char *name, struct l4_text *out, struct codec_err *err) L4_MUST_CHECK;
int codec_get_array(const cJSON *object, const char *name, const cJSON **out, struct codec_err *err) L4_MUST_CHECK;
int codec_get_object(const cJSON *object, const char *name, const cJSON **out, struct codec_err *err) L4_MUST_CHECK;

/* codec_to_int - a number without a fraction between min and max (|bounds| <= 2^53). */
bool codec_to_int(const cJSON *item, int64_t min, int64_t max, int64_t *out);
struct l4_text codec_text(const cJSON *string);
/* "a string", "a number", ... for messages. */
const char *codec_kind(const cJSON *item);

/* ---- the text behind a value: number text and key order as the client wrote them ---- */

struct codec_slice {
    const char *p, *end;
};
struct codec_slice codec_slice_root(const struct codec_body *body);
/* The text of a child of the object or array `parent`, whose own text is `slice`. */
struct codec_slice codec_slice_child(struct codec_slice slice, const cJSON *parent, const cJSON *child);
/* Walk the values of an array or object: enter gives a cursor, next the next value's text (p NULL at the end). */
struct codec_slice codec_slice_enter(struct codec_slice container);
struct codec_slice codec_slice_next(struct codec_slice *cursor, bool has_keys);

/* ---- writing ---- */

/* codec_put_string - a JSON string, quotes included.  Bytes that are not UTF-8 become U+FFFD. */
void codec_put_string(struct l4_buf *out, const char *text, size_t len_bytes);
void codec_put_int(struct l4_buf *out, int64_t value);
/* codec_put_compact - a value's own text without the white space between its tokens: on one line. */
void codec_put_compact(struct l4_buf *out, struct codec_slice json);
/* codec_put_float - nine digits, which name a float exactly; NaN as null; infinities as -9999 and 9999. */
void codec_put_float(struct l4_buf *out, double value);

bool codec_utf8_is_valid(const char *text, size_t len_bytes);

#endif
