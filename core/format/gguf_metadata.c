/* Typed reads of GGUF metadata. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/format/gguf_internal.h"

static const struct {
    const char *name;
    size_t bytes;
} TYPES[] = {
#define X(name, id, bytes) [GGUF_##name] = {#name, bytes},
    GGUF_TYPES(X)
#undef X
};

const char *gguf_type_name(enum gguf_type type) {
    return TYPES[type].name;
}

size_t gguf_type_bytes(enum gguf_type type) {
    return TYPES[type].bytes;
}

uint64_t gguf_load(const unsigned char *p, size_t n_bytes) {
    uint64_t value = 0;
    for (size_t i = n_bytes; i-- > 0;)
        value = value << 8 | p[i];
    return value;
}

int gguf_compare_text(struct gguf_text a, struct gguf_text b) {
    const size_t n = a.len_bytes < b.len_bytes ? a.len_bytes : b.len_bytes;
    const int order = n > 0 ? memcmp(a.data, b.data, n) : 0;
    return order != 0 ? order : (a.len_bytes > b.len_bytes) - (a.len_bytes < b.len_bytes);
}

static int compare_key(const void *key, const void *entry) {
    return gguf_compare_text(*(const struct gguf_text *)key, ((const struct gguf_entry *)entry)->key);
}

const struct gguf_entry *gguf_find_entry(const struct gguf_entry *entries, size_t n, const char *key) {
    const struct gguf_text text = {key, strlen(key)};
    return n > 0 ? bsearch(&text, entries, n, sizeof *entries, compare_key) : NULL;
}

const char *gguf_show_text(char buf[JSON_SHOWN_BYTES], struct gguf_text text) {
    char copy[2 * JSON_SHOWN_BYTES]; /* longer than what is shown, so that the cut is seen */
    const size_t n = text.len_bytes < sizeof copy - 1 ? text.len_bytes : sizeof copy - 1;
    if (n > 0)
        memcpy(copy, text.data, n);
    copy[n] = '\0';
    return json_show_text(buf, copy);
}

bool gguf_text_is(struct gguf_text text, const char *literal) {
    return text.len_bytes == strlen(literal) && memcmp(text.data, literal, text.len_bytes) == 0;
}

bool gguf_value_integer(const struct gguf_value *value, int64_t *out) {
    switch (value->type) {
    case GGUF_UINT8:
    case GGUF_UINT16:
    case GGUF_UINT32:
        *out = (int64_t)gguf_load(value->data, gguf_type_bytes(value->type));
        return true;
    case GGUF_UINT64: {
        const uint64_t number = gguf_load(value->data, 8);
        *out = number <= INT64_MAX ? (int64_t)number : INT64_MAX;
        return number <= INT64_MAX;
    }
    case GGUF_INT8:
        *out = (int8_t)gguf_load(value->data, 1);
        return true;
    case GGUF_INT16:
        *out = (int16_t)gguf_load(value->data, 2);
        return true;
    case GGUF_INT32:
        *out = (int32_t)gguf_load(value->data, 4);
        return true;
    case GGUF_INT64:
        *out = (int64_t)gguf_load(value->data, 8);
        return true;
    default:
        return false;
    }
}

static bool value_number(const struct gguf_value *value, double *out) {
    union {
        uint64_t u;
        uint32_t u32;
        double d;
        float f;
    } bits;
    int64_t integer;
    if (value->type == GGUF_FLOAT32) {
        bits.u32 = (uint32_t)gguf_load(value->data, 4);
        *out = (double)bits.f;
        return true;
    }
    if (value->type == GGUF_FLOAT64) {
        bits.u = gguf_load(value->data, 8);
        *out = bits.d;
        return true;
    }
    *out = gguf_value_integer(value, &integer) ? (double)integer : 0;
    return value->type != GGUF_STRING && value->type != GGUF_ARRAY && value->type != GGUF_BOOL;
}

/* A value as a message shows it. */
static const char *show_value(char buf[JSON_SHOWN_BYTES], const struct gguf_value *value) {
    char text[JSON_SHOWN_BYTES];
    double number;
    int64_t integer;
    if (value == NULL)
        snprintf(buf, JSON_SHOWN_BYTES, "nothing");
    else if (value->type == GGUF_ARRAY)
        snprintf(buf, JSON_SHOWN_BYTES, "an array of %llu %s", (unsigned long long)value->n,
                 gguf_type_name(value->element));
    else if (value->type == GGUF_STRING)
        snprintf(buf, JSON_SHOWN_BYTES, "\"%.*s\"", JSON_SHOWN_BYTES - 3,
                 gguf_show_text(text, (struct gguf_text){(const char *)value->data, (size_t)value->n}));
    else if (value->type == GGUF_BOOL)
        snprintf(buf, JSON_SHOWN_BYTES, "%s", *value->data ? "true" : "false");
    else if (gguf_value_integer(value, &integer))
        snprintf(buf, JSON_SHOWN_BYTES, "%lld", (long long)integer);
    else if (value->type == GGUF_UINT64)
        snprintf(buf, JSON_SHOWN_BYTES, "%llu", (unsigned long long)gguf_load(value->data, 8));
    else if (value_number(value, &number))
        snprintf(buf, JSON_SHOWN_BYTES, "%g", number);
    return buf;
}

static const struct gguf_value *find_value(const struct gguf_reader *reader, const char *key) {
    const struct gguf_entry *entry = gguf_find_entry(reader->gguf->entries, reader->gguf->n_entries, key);
    return entry != NULL ? &entry->value : NULL;
}

void gguf_fail(struct gguf_reader *reader, const char *key, int code, const char *expected, ...) {
    char want[200], name[JSON_SHOWN_BYTES], found[JSON_SHOWN_BYTES];
    if (reader->rc != 0)
        return;
    va_list args;
    va_start(args, expected);
    vsnprintf(want, sizeof want, expected, args);
    va_end(args);
    reader->rc = l4_err_set(reader->err, code, "%s: %s: expected %s, found %s", reader->gguf->parts[0].path,
                            json_show_text(name, key), want, show_value(found, find_value(reader, key)));
}

/* The value, or NULL where it is absent (an error if required) or after an error. */
static const struct gguf_value *get(struct gguf_reader *reader, const char *key, enum gguf_presence presence,
                                    const char *expected) {
    if (reader->rc != 0)
        return NULL;
    const struct gguf_value *value = find_value(reader, key);
    if (value == NULL && presence == GGUF_REQUIRED)
        gguf_fail(reader, key, L4_E_FORMAT, "%s", expected);
    return value;
}

bool gguf_has(const struct gguf_reader *reader, const char *key) {
    return find_value(reader, key) != NULL;
}

bool gguf_integer(struct gguf_reader *reader, const char *key, enum gguf_presence presence, int64_t min, int64_t max,
                  int64_t *out) {
    int64_t integer = 0;
    const struct gguf_value *value = get(reader, key, presence, "an integer");
    if (value == NULL)
        return false;
    if (!gguf_value_integer(value, &integer) || integer < min || integer > max) {
        gguf_fail(reader, key, L4_E_FORMAT, "an integer %lld..%lld", (long long)min, (long long)max);
        return false;
    }
    *out = integer;
    return true;
}

bool gguf_number(struct gguf_reader *reader, const char *key, enum gguf_presence presence, double min, double max,
                 double *out) {
    double number = 0;
    const struct gguf_value *value = get(reader, key, presence, "a number");
    if (value == NULL)
        return false;
    if (!value_number(value, &number) || !(number >= min && number <= max)) { /* NaN is neither */
        gguf_fail(reader, key, L4_E_FORMAT, "a number %g..%g", min, max);
        return false;
    }
    *out = number;
    return true;
}

bool gguf_bool(struct gguf_reader *reader, const char *key, enum gguf_presence presence, bool *out) {
    const struct gguf_value *value = get(reader, key, presence, "true or false");
    if (value == NULL)
        return false;
    if (value->type != GGUF_BOOL) {
        gguf_fail(reader, key, L4_E_FORMAT, "true or false");
        return false;
    }
    *out = *value->data != 0;
    return true;
}

bool gguf_string(struct gguf_reader *reader, const char *key, enum gguf_presence presence, struct gguf_text *out) {
    const struct gguf_value *value = get(reader, key, presence, "a string");
    if (value == NULL)
        return false;
    if (value->type != GGUF_STRING) {
        gguf_fail(reader, key, L4_E_FORMAT, "a string");
        return false;
    }
    *out = (struct gguf_text){(const char *)value->data, (size_t)value->n};
    return true;
}

bool gguf_read_array(struct gguf_reader *reader, const char *key, enum gguf_presence presence, enum gguf_type type,
                     struct gguf_array *out) {
    char expected[40];
    snprintf(expected, sizeof expected, "an array of %s", gguf_type_name(type));
    const struct gguf_value *value = get(reader, key, presence, expected);
    if (value == NULL)
        return false;
    if (value->type != GGUF_ARRAY || value->element != type) {
        gguf_fail(reader, key, L4_E_FORMAT, "%s", expected);
        return false;
    }
    *out = (struct gguf_array){.n = value->n, .type = type, .next = value->data};
    return true;
}

bool gguf_next_string(struct gguf_array *array, struct gguf_text *out) {
    if (array->at == array->n || array->type != GGUF_STRING)
        return false;
    out->len_bytes = (size_t)gguf_load(array->next, 8);
    out->data = (const char *)array->next + 8;
    array->next += 8 + out->len_bytes;
    array->at++;
    return true;
}

bool gguf_next_i32(struct gguf_array *array, int32_t *out) {
    if (array->at == array->n || array->type != GGUF_INT32)
        return false;
    *out = (int32_t)gguf_load(array->next, 4);
    array->next += 4;
    array->at++;
    return true;
}
