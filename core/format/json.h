/* JSON of checkpoint files: bounded parsing, and typed access whose errors name the place, what was found and what is
 * allowed. */
#ifndef CORE_FORMAT_JSON_H
#define CORE_FORMAT_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llama4/error.h"

enum {
    JSON_MAX_DEPTH = 64,       /* nesting of arrays and objects */
    JSON_MAX_VALUES = 1 << 22, /* a value takes some 100 bytes once parsed */
    JSON_SHOWN_BYTES = 96,     /* how much of a text a message quotes */
};
#define JSON_MAX_INTEGER 9007199254740991 /* 2^53 - 1: beyond it a double no longer tells neighbours apart */

/* json_parse - one JSON value, with nothing but white space around it.
 *   text [len_bytes], followed by a NUL that len_bytes does not count.  what: the file, for messages.
 *   Refused before the parser sees it: a NUL, \u0000 (cJSON would cut the string there), nesting deeper than
 *   JSON_MAX_DEPTH, more than JSON_MAX_VALUES values.  *out is freed with cJSON_Delete.
 *   Errors: L4_E_FORMAT (with the byte where the trouble is), L4_E_NOMEM. */
int json_parse(cJSON **out, const char *text, size_t len_bytes, const char *what, struct l4_err *err) L4_MUST_CHECK;

/* json_read_file - json_parse of a file of at most max_bytes.
 *   Errors: L4_E_NOT_FOUND, L4_E_IO, L4_E_FORMAT (names the limit), L4_E_NOMEM. */
int json_read_file(cJSON **out, const char *path, size_t max_bytes, struct l4_err *err) L4_MUST_CHECK;

/* json_show - a value as a message shows it: numbers as they are, strings quoted, cut, without control characters, or
 * "an object", "an array of 3".  NULL gives "nothing".  Returns buf. */
const char *json_show(char buf[JSON_SHOWN_BYTES], const cJSON *value);
/* json_show_text - text that came from a file, fit for a one-line message; not quoted.  Returns buf. */
const char *json_show_text(char buf[JSON_SHOWN_BYTES], const char *text);

/* json_is_integer - a number without a fraction within min..max (themselves within +-JSON_MAX_INTEGER). */
bool json_is_integer(const cJSON *value, int64_t min, int64_t max);

/* An object and the place it stands at.  The first error stays in rc and *err, and every later read does nothing, so
 * that a row of reads is checked once, at the end. */
struct json_object {
    const char *what;   /* "DIR/config.json" */
    const char *prefix; /* "", "text_config.": what stands before a key in messages */
    const cJSON *value;
    struct l4_err *err;
    int rc;
};

/* json_object_init - errors (in rc): value is not an object, or names a key twice. */
void json_object_init(struct json_object *object, const cJSON *value, const char *what, const char *prefix,
                      struct l4_err *err);

/* The member, or NULL where it is absent, null, or after an error. */
const cJSON *json_get(const struct json_object *object, const char *key);
/* What an absent or null member stands for is `absent`; bounds are inclusive. */
int64_t json_integer(struct json_object *object, const char *key, int64_t absent, int64_t min, int64_t max);
double json_number(struct json_object *object, const char *key, double absent, double min, double max);
bool json_bool(struct json_object *object, const char *key, bool absent);
const char *json_string(struct json_object *object, const char *key, const char *absent); /* borrowed */

/* json_fail - set the object's error: "FILE: PREFIXkey: expected EXPECTED, found VALUE"; keeps an earlier one. */
void json_fail(struct json_object *object, const char *key, const cJSON *found, int code, const char *expected, ...)
    L4_PRINTF(5, 6);

#endif
