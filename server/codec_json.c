#include "server/codec_json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- errors -------------------------------------------------------------------------------------------------------
 */

int codec_fail(struct codec_err *err, const char *param, const char *fmt, ...) {
    err->status = 400;
    err->code = NULL;
    snprintf(err->param, sizeof err->param, "%s", param ? param : "");
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);
    return L4_E_INVALID;
}

int codec_no_memory(struct codec_err *err) {
    codec_fail(err, NULL, "%s", l4_error_text(L4_E_NOMEM));
    err->status = 503;
    err->code = "out_of_memory";
    return L4_E_NOMEM;
}

int codec_within(struct codec_err *err, const char *fmt, ...) {
    if (err->status != 400) /* our own fault: no field to blame */
        return L4_E_NOMEM;
    char path[2 * sizeof err->param];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(path, sizeof err->param, fmt, args);
    va_end(args);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof err->param ? (size_t)n : sizeof err->param - 1;
    bool joined = err->param[0] == '\0' || err->param[0] == '[';
    snprintf(path + len, sizeof path - len, "%s%s", joined ? "" : ".", err->param);
    memcpy(err->param, path, sizeof err->param - 1);
    err->param[sizeof err->param - 1] = '\0';
    return L4_E_INVALID;
}

/* ---- bodies -------------------------------------------------------------------------------------------------------
 */

/* Length in bytes of the UTF-8 character at p (at least 1 byte left), 0 if it is none. */
static size_t utf8_char_bytes(const char *p, size_t left) {
    const unsigned char *s = (const unsigned char *)p;
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    size_t n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (left < n)
        return 0;
    /* The second byte excludes overlong forms, surrogates and what lies past U+10FFFF. */
    unsigned char low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

bool codec_utf8_is_valid(const char *text, size_t len_bytes) {
    for (size_t i = 0, n; i < len_bytes; i += n)
        if ((n = utf8_char_bytes(text + i, len_bytes - i)) == 0)
            return false;
    return true;
}

/* What cJSON does not check or would take without a word: encoding, NUL, control characters, depth, number of values.
 * Brackets that do not match are left to cJSON. */
static int check_text(const char *text, size_t len_bytes, struct codec_err *err) {
    bool in_string = false;
    int depth = 0, n_values = 0;
    for (size_t i = 0, n; i < len_bytes; i += n) {
        unsigned char c = (unsigned char)text[i];
        if ((n = utf8_char_bytes(text + i, len_bytes - i)) == 0)
            return codec_fail(err, NULL, "the body is not valid UTF-8 at byte %zu", i);
        if (c == '\0')
            return codec_fail(err, NULL, "the body has a NUL at byte %zu", i);
        if (in_string) {
            if (c < 0x20)
                return codec_fail(err, NULL, "the body is not valid JSON: control character in a string at byte %zu",
                                  i);
            if (c == '\\' && i + 1 < len_bytes && (unsigned char)text[i + 1] < 0x80) {
                if (len_bytes - i >= 6 && memcmp(text + i, "\\u0000", 6) == 0)
                    return codec_fail(err, NULL, "the string at byte %zu holds \\u0000, which is not allowed", i);
                n = 2;
            } else if (c == '"') {
                in_string = false;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > CODEC_MAX_DEPTH)
                return codec_fail(err, NULL, "the body is nested deeper than %d levels", CODEC_MAX_DEPTH);
            n_values++;
        } else if (c == '}' || c == ']') {
            depth--;
        } else if (c == ',') {
            n_values++;
        }
        if (n_values > CODEC_MAX_VALUES)
            return codec_fail(err, NULL, "the body holds more than %d values", CODEC_MAX_VALUES);
    }
    return 0;
}

int codec_body_parse(struct codec_body *body, const char *text, size_t len_bytes, struct codec_err *err) {
    *body = (struct codec_body){.text = text, .end = text + len_bytes};
    if (len_bytes == 0)
        return codec_fail(err, NULL, "the body is empty: send a JSON object");
    int rc = check_text(text, len_bytes, err);
    if (rc)
        return rc;
    const char *stop = NULL;
    errno = 0;
    body->root = cJSON_ParseWithLengthOpts(text, len_bytes, &stop, false);
    if (!body->root && errno == ENOMEM) /* cJSON itself does not tell */
        return codec_no_memory(err);
    if (!body->root)
        return codec_fail(err, NULL, "the body is not valid JSON near byte %zu", stop ? (size_t)(stop - text) : 0);
    while (stop < body->end && (unsigned char)*stop <= ' ')
        stop++;
    if (stop < body->end) {
        codec_body_free(body);
        return codec_fail(err, NULL, "the body goes on after the JSON value, at byte %zu", (size_t)(stop - text));
    }
    if (!cJSON_IsObject(body->root)) {
        codec_fail(err, NULL, "the body must be a JSON object, not %s", codec_kind(body->root));
        codec_body_free(body);
        return L4_E_INVALID;
    }
    return 0;
}

void codec_body_free(struct codec_body *body) {
    cJSON_Delete(body->root);
    *body = (struct codec_body){0};
}

/* ---- fields -------------------------------------------------------------------------------------------------------
 */

const cJSON *codec_get(const cJSON *object, const char *name) {
    const cJSON *found = NULL, *member;
    if (!cJSON_IsObject(object))
        return NULL;
    cJSON_ArrayForEach(member, object) if (strcmp(member->string, name) == 0) found = member;
    return found && !cJSON_IsNull(found) ? found : NULL;
}

const char *codec_kind(const cJSON *item) {
    return cJSON_IsString(item)   ? "a string"
           : cJSON_IsNumber(item) ? "a number"
           : cJSON_IsBool(item)   ? "a boolean"
           : cJSON_IsArray(item)  ? "an array"
           : cJSON_IsObject(item) ? "an object"
                                  : "null";
}

struct l4_text codec_text(const cJSON *string) {
    return (struct l4_text){string->valuestring, strlen(string->valuestring)};
}

bool codec_to_int(const cJSON *item, int64_t min, int64_t max, int64_t *out) {
    if (!cJSON_IsNumber(item))
        return false;
    double x = item->valuedouble;
    if (!(x >= (double)min && x <= (double)max) || x != floor(x))
        return false;
    *out = (int64_t)x;
    return true;
}

int codec_get_bool(const cJSON *object, const char *name, bool *out, struct codec_err *err) {
    const cJSON *item = codec_get(object, name);
    if (item && !cJSON_IsBool(item))
        return codec_fail(err, name, "'%s' must be true or false, not %s", name, codec_kind(item));
    if (item)
        *out = cJSON_IsTrue(item);
    return 0;
}

int codec_get_float(const cJSON *object, const char *name, double min, double max, float *out, struct codec_err *err) {
    const cJSON *item = codec_get(object, name);
    if (!item)
        return 0;
    if (!cJSON_IsNumber(item))
        return codec_fail(err, name, "'%s' must be a number from %g to %g, not %s", name, min, max, codec_kind(item));
    if (!(item->valuedouble >= min && item->valuedouble <= max))
        return codec_fail(err, name, "'%s' must be from %g to %g, not %g", name, min, max, item->valuedouble);
    *out = (float)item->valuedouble;
    return 0;
}

int codec_get_int(const cJSON *object, const char *name, int64_t min, int64_t max, int64_t *out,
                  struct codec_err *err) {
    const cJSON *item = codec_get(object, name);
    if (!item || codec_to_int(item, min, max, out))
        return 0;
    if (!cJSON_IsNumber(item))
        return codec_fail(err, name, "'%s' must be an integer from %lld to %lld, not %s", name, (long long)min,
                          (long long)max, codec_kind(item));
    return codec_fail(err, name, "'%s' must be an integer from %lld to %lld, not %.17g", name, (long long)min,
                      (long long)max, item->valuedouble);
}

int codec_get_text(const cJSON *object, const char *name, struct l4_text *out, struct codec_err *err) {
    const cJSON *item = codec_get(object, name);
    if (item && !cJSON_IsString(item))
        return codec_fail(err, name, "'%s' must be a string, not %s", name, codec_kind(item));
    if (item)
        *out = codec_text(item);
    return 0;
}

int codec_get_array(const cJSON *object, const char *name, const cJSON **out, struct codec_err *err) {
    const cJSON *item = codec_get(object, name);
    if (item && !cJSON_IsArray(item))
        return codec_fail(err, name, "'%s' must be an array, not %s", name, codec_kind(item));
    *out = item;
    return 0;
}

int codec_get_object(const cJSON *object, const char *name, const cJSON **out, struct codec_err *err) {
    const cJSON *item = codec_get(object, name);
    if (item && !cJSON_IsObject(item))
        return codec_fail(err, name, "'%s' must be an object, not %s", name, codec_kind(item));
    *out = item;
    return 0;
}

/* ---- raw slices: cJSON has accepted the text, so only strings and brackets matter ----------------------------------
 */

static const char *skip_space(const char *p, const char *end) {
    while (p < end && (unsigned char)*p <= ' ')
        p++;
    return p;
}

static const char *skip_string(const char *p, const char *end) {
    for (p++; p < end && *p != '"'; p++)
        if (*p == '\\')
            p++;
    return p < end ? p + 1 : end;
}

static const char *skip_value(const char *p, const char *end) {
    int depth = 0;
    do {
        p = skip_space(p, end);
        if (p == end)
            return end;
        if (*p == '"') {
            p = skip_string(p, end);
        } else if (*p == '{' || *p == '[') {
            depth++;
            p++;
        } else if (*p == '}' || *p == ']') {
            depth--;
            p++;
        } else if (*p == ',' || *p == ':') {
            p++;
        } else {
            while (p < end && (unsigned char)*p > ' ' && !strchr(",:]}", *p))
                p++;
        }
    } while (depth > 0);
    return p;
}

struct codec_slice codec_slice_root(const struct codec_body *body) {
    const char *p = body->text;
    if (body->end - p >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0) /* cJSON skips a byte order mark */
        p += 3;
    p = skip_space(p, body->end);
    return (struct codec_slice){p, skip_value(p, body->end)};
}

struct codec_slice codec_slice_enter(struct codec_slice container) {
    return (struct codec_slice){container.p + 1, container.end - 1};
}

struct codec_slice codec_slice_next(struct codec_slice *cursor, bool has_keys) {
    const char *p = skip_space(cursor->p, cursor->end);
    if (p < cursor->end && *p == ',')
        p = skip_space(p + 1, cursor->end);
    if (p == cursor->end)
        return (struct codec_slice){NULL, NULL};
    if (has_keys) {
        p = skip_space(skip_string(p, cursor->end), cursor->end);
        p = skip_space(p + 1, cursor->end); /* the colon */
    }
    cursor->p = skip_value(p, cursor->end);
    return (struct codec_slice){p, cursor->p};
}

struct codec_slice codec_slice_child(struct codec_slice slice, const cJSON *parent, const cJSON *child) {
    struct codec_slice cursor = codec_slice_enter(slice), value = {NULL, NULL};
    const cJSON *at;
    cJSON_ArrayForEach(at, parent) {
        value = codec_slice_next(&cursor, cJSON_IsObject(parent));
        if (at == child)
            break;
    }
    return value;
}

/* ---- writing ------------------------------------------------------------------------------------------------------
 */

static void put_escape(struct l4_buf *out, unsigned char c) {
    static const char hex[] = "0123456789abcdef";
    char text[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *at = c ? strchr(from, c) : NULL;
    if (at)
        text[1] = to[at - from];
    l4_buf_append(out, text, at ? 2 : 6);
}

static void put_escaped(struct l4_buf *out, const char *text, size_t len_bytes) {
    size_t done = 0, i = 0;
    while (i < len_bytes) {
        unsigned char c = (unsigned char)text[i];
        size_t n = c < 0x80 ? 1 : utf8_char_bytes(text + i, len_bytes - i);
        if (n > 0 && c >= 0x20 && c != '"' && c != '\\') {
            i += n;
            continue;
        }
        l4_buf_append(out, text + done, i - done);
        if (n == 0)
            l4_buf_append(out, "\xef\xbf\xbd", 3);
        else
            put_escape(out, c);
        done = ++i;
    }
    l4_buf_append(out, text + done, len_bytes - done);
}

void codec_put_string(struct l4_buf *out, const char *text, size_t len_bytes) {
    l4_buf_append(out, "\"", 1);
    put_escaped(out, text, len_bytes);
    l4_buf_append(out, "\"", 1);
}

void codec_put_compact(struct l4_buf *out, struct codec_slice json) {
    for (const char *p = json.p, *end; p < json.end; p = end) {
        if ((unsigned char)*p <= ' ') {
            end = skip_space(p, json.end);
            continue;
        }
        for (end = p; end < json.end && (unsigned char)*end > ' ';)
            end = *end == '"' ? skip_string(end, json.end) : end + 1;
        l4_buf_append(out, p, (size_t)(end - p));
    }
}

void codec_put_int(struct l4_buf *out, int64_t value) {
    char text[24], *p = text + sizeof text;
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do
        *--p = (char)('0' + rest % 10);
    while (rest /= 10);
    if (value < 0)
        *--p = '-';
    l4_buf_append(out, p, (size_t)(text + sizeof text - p));
}

void codec_put_float(struct l4_buf *out, double value) {
    if (isnan(value))
        l4_buf_puts(out, "null");
    else if (isinf(value))
        l4_buf_puts(out, value < 0 ? "-9999.0" : "9999.0");
    else
        l4_buf_printf(out, "%.9g", value);
}
