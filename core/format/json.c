#include "core/format/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/checked.h"
#include "core/format/file.h"

/* Bounds what the parser will build, in one pass that knows strings from structure and nothing else. */
static int scan(const char *text, size_t len_bytes, const char *what, struct l4_err *err) {
    size_t depth = 0, n_values = 1;
    bool in_string = false;
    for (size_t i = 0; i < len_bytes; i++) {
        char c = text[i];
        if (c == '\0')
            return l4_err_set(err, L4_E_FORMAT, "%s: not JSON: a NUL at byte %zu", what, i);
        if (in_string) {
            if (c == '\\') {
                if (strncmp(text + i, "\\u0000", 6) == 0)
                    return l4_err_set(err, L4_E_FORMAT, "%s: \\u0000 in the string at byte %zu", what, i);
                i += text[i + 1] != '\0';
            } else if (c == '"') {
                in_string = false;
            }
            continue;
        }
        if (c == '"')
            in_string = true;
        else if (c == ']' || c == '}')
            depth -= depth > 0;
        else if (c == '[' || c == '{') {
            n_values++;
            if (++depth > JSON_MAX_DEPTH)
                return l4_err_set(err, L4_E_FORMAT, "%s: nested deeper than %d at byte %zu", what, JSON_MAX_DEPTH, i);
        } else if (c == ',' && ++n_values > JSON_MAX_VALUES)
            return l4_err_set(err, L4_E_FORMAT, "%s: holds more than %d values", what, JSON_MAX_VALUES);
    }
    return 0;
}

int json_parse(cJSON **out, const char *text, size_t len_bytes, const char *what, struct l4_err *err) {
    int rc = scan(text, len_bytes, what, err);
    if (rc != 0)
        return rc;
    const char *end = NULL;
    /* With the NUL: the parser then has an end to stop at, and insists on it. */
    *out = cJSON_ParseWithLengthOpts(text, len_bytes + 1, &end, 1);
    if (*out != NULL)
        return 0;
    size_t at = end != NULL && end >= text ? (size_t)(end - text) : 0;
    return l4_err_set(err, L4_E_FORMAT, "%s: not JSON (or no memory left for it): byte %zu of %zu", what, at,
                      len_bytes);
}

int json_read_file(cJSON **out, const char *path, size_t max_bytes, struct l4_err *err) {
    char *text = NULL;
    size_t len_bytes;
    int rc = file_read_whole(path, max_bytes, &text, &len_bytes, err);
    if (rc == 0)
        rc = json_parse(out, text, len_bytes, path, err);
    free(text);
    return rc;
}

const char *json_show_text(char buf[JSON_SHOWN_BYTES], const char *text) {
    size_t n = 0;
    for (; text[n] != '\0' && n < JSON_SHOWN_BYTES - 4; n++)
        buf[n] = text[n] >= ' ' && text[n] <= '~' ? text[n] : '?';
    memcpy(buf + n, text[n] != '\0' ? "..." : "", text[n] != '\0' ? 4 : 1);
    return buf;
}

const char *json_show(char buf[JSON_SHOWN_BYTES], const cJSON *value) {
    char text[JSON_SHOWN_BYTES];
    if (cJSON_IsNumber(value))
        snprintf(buf, JSON_SHOWN_BYTES, "%.16g", value->valuedouble);
    else if (cJSON_IsString(value))
        snprintf(buf, JSON_SHOWN_BYTES, "\"%.*s\"", JSON_SHOWN_BYTES - 3, json_show_text(text, value->valuestring));
    else if (cJSON_IsArray(value))
        snprintf(buf, JSON_SHOWN_BYTES, "an array of %d", cJSON_GetArraySize(value));
    else
        snprintf(buf, JSON_SHOWN_BYTES, "%s",
                 value == NULL           ? "nothing"
                 : cJSON_IsObject(value) ? "an object"
                 : cJSON_IsTrue(value)   ? "true"
                 : cJSON_IsFalse(value)  ? "false"
                                         : "null");
    return buf;
}

bool json_is_integer(const cJSON *value, int64_t min, int64_t max) {
    return cJSON_IsNumber(value) && value->valuedouble >= (double)min && value->valuedouble <= (double)max &&
           value->valuedouble == floor(value->valuedouble);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void json_object_init(struct json_object *object, const cJSON *value, const char *what, const char *prefix,
                      struct l4_err *err) {
    *object = (struct json_object){.what = what, .prefix = prefix, .value = value, .err = err};
    char shown[JSON_SHOWN_BYTES];
    if (!cJSON_IsObject(value)) {
        int len = (int)strlen(prefix); /* "text_config." stands for the member text_config */
        object->rc = l4_err_set(err, L4_E_FORMAT, "%s: %.*s%sexpected an object, found %s", what, len > 0 ? len - 1 : 0,
                                prefix, len > 0 ? ": " : "", json_show(shown, value));
        return;
    }
    size_t n = (size_t)cJSON_GetArraySize(value), i = 0;
    const char **names = checked_array(n, sizeof *names);
    if (names == NULL) {
        object->rc = l4_err_set(err, L4_E_NOMEM, "%s: out of memory", what);
        return;
    }
    const cJSON *member;
    cJSON_ArrayForEach(member, value) names[i++] = member->string;
    qsort(names, n, sizeof *names, compare_names);
    for (i = 1; i < n && object->rc == 0; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            object->rc = l4_err_set(err, L4_E_FORMAT, "%s: %s%s stands there twice", what, prefix,
                                    json_show_text(shown, names[i]));
    free(names);
}

const cJSON *json_get(const struct json_object *object, const char *key) {
    const cJSON *member = object->rc == 0 ? cJSON_GetObjectItemCaseSensitive(object->value, key) : NULL;
    return cJSON_IsNull(member) ? NULL : member;
}

void json_fail(struct json_object *object, const char *key, const cJSON *found, int code, const char *expected, ...) {
    if (object->rc != 0)
        return;
    char allowed[256], shown[JSON_SHOWN_BYTES];
    va_list args;
    va_start(args, expected);
    vsnprintf(allowed, sizeof allowed, expected, args);
    va_end(args);
    object->rc = l4_err_set(object->err, code, "%s: %s%s: expected %s, found %s", object->what, object->prefix, key,
                            allowed, json_show(shown, found));
}

int64_t json_integer(struct json_object *object, const char *key, int64_t absent, int64_t min, int64_t max) {
    const cJSON *value = json_get(object, key);
    if (value == NULL)
        return absent;
    if (json_is_integer(value, min, max))
        return (int64_t)value->valuedouble;
    json_fail(object, key, value, L4_E_FORMAT, "an integer %lld..%lld", (long long)min, (long long)max);
    return absent;
}

double json_number(struct json_object *object, const char *key, double absent, double min, double max) {
    const cJSON *value = json_get(object, key);
    if (value == NULL)
        return absent;
    if (cJSON_IsNumber(value) && value->valuedouble >= min && value->valuedouble <= max)
        return value->valuedouble;
    json_fail(object, key, value, L4_E_FORMAT, "a number %g..%g", min, max);
    return absent;
}

bool json_bool(struct json_object *object, const char *key, bool absent) {
    const cJSON *value = json_get(object, key);
    if (value == NULL)
        return absent;
    if (cJSON_IsBool(value))
        return cJSON_IsTrue(value);
    json_fail(object, key, value, L4_E_FORMAT, "true or false");
    return absent;
}

const char *json_string(struct json_object *object, const char *key, const char *absent) {
    const cJSON *value = json_get(object, key);
    if (value == NULL)
        return absent;
    if (cJSON_IsString(value))
        return value->valuestring;
    json_fail(object, key, value, L4_E_FORMAT, "a string");
    return absent;
}
