/* Between gguf.c (files, splits), gguf_header.c (what a header holds) and gguf_metadata.c (typed reads). */
#ifndef CORE_FORMAT_GGUF_INTERNAL_H
#define CORE_FORMAT_GGUF_INTERNAL_H

#include "core/format/gguf.h"
#include "core/format/json.h"

struct gguf_value {
    enum gguf_type type, element; /* element: of an array */
    uint64_t n;                   /* elements of an array; bytes of a string */
    const unsigned char *data;    /* the value, the string's bytes, the first element */
};

struct gguf_entry {
    struct gguf_text key;
    struct gguf_value value;
};

struct gguf_tensor_entry {
    struct gguf_text name;
    struct tensor tensor;
    uint64_t offset; /* from the start of the data section */
    size_t part;
};

struct gguf_part {
    char *path;
    struct file_mapping mapping;
};

struct gguf {
    struct gguf_part *parts;
    size_t n_parts, cap_parts;
    struct gguf_entry *entries; /* of the first part, sorted by key */
    size_t n_entries, cap_entries;
    struct gguf_tensor_entry *tensors; /* of all parts, sorted by name */
    size_t n_tensors, cap_tensors;
};

/* gguf_header_read - parse the part's header: its keys into *entries, sorted, its tensors behind those that
 * gguf->tensors holds. */
int gguf_header_read(struct gguf *gguf, size_t part, struct gguf_entry **entries, size_t *n_entries,
                     size_t *cap_entries, struct l4_err *err) L4_MUST_CHECK;
/* gguf_index_tensors - sort the tensors by name; L4_E_FORMAT where two have one name. */
int gguf_index_tensors(struct gguf *gguf, struct l4_err *err) L4_MUST_CHECK;

int gguf_compare_text(struct gguf_text a, struct gguf_text b);
const struct gguf_entry *gguf_find_entry(const struct gguf_entry *entries, size_t n, const char *key);
/* Text from the file, cut and without control characters, fit for a message. */
const char *gguf_show_text(char buf[JSON_SHOWN_BYTES], struct gguf_text text);
const char *gguf_type_name(enum gguf_type type);
size_t gguf_type_bytes(enum gguf_type type); /* 0 for strings and arrays */
/* The value as an integer; false where its type is none or it exceeds int64_t. */
bool gguf_value_integer(const struct gguf_value *value, int64_t *out);
uint64_t gguf_load(const unsigned char *p, size_t n_bytes); /* little-endian */

#endif
