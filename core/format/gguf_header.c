/* The header of one GGUF file, byte by byte.  Every length is held against what is left of the file before it is
 * believed. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/format/gguf_internal.h"

enum {
    DEFAULT_ALIGNMENT = 32,
    MAX_DIMS = 4,
    /* The least that an entry takes: what a count can be held against. */
    MIN_KEY_BYTES = 8 + 1 + 4 + 1,
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8,
};

/* Where the reader stands in a mapped file. */
struct cursor {
    const char *path;
    const unsigned char *begin, *at, *end;
    struct l4_err *err;
};

static int fail(const struct cursor *cursor, const char *fmt, ...) L4_PRINTF(2, 3);
static int fail(const struct cursor *cursor, const char *fmt, ...) {
    char reason[320];
    va_list args;
    va_start(args, fmt);
    vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);
    return l4_err_set(cursor->err, L4_E_FORMAT, "%s: %s", cursor->path, reason);
}

static size_t bytes_left(const struct cursor *cursor) {
    return (size_t)(cursor->end - cursor->at);
}

static int ends_early(const struct cursor *cursor, const char *what) {
    return fail(cursor, "the file ends at byte %zu, within %s", (size_t)(cursor->end - cursor->begin), what);
}

/* A little-endian number of n_bytes. */
static int take(struct cursor *cursor, size_t n_bytes, const char *what, uint64_t *out) {
    *out = 0;
    if (bytes_left(cursor) < n_bytes)
        return ends_early(cursor, what);
    *out = gguf_load(cursor->at, n_bytes);
    cursor->at += n_bytes;
    return 0;
}

static int take_text(struct cursor *cursor, const char *what, struct gguf_text *out) {
    uint64_t n;
    int rc = take(cursor, 8, what, &n);
    if (rc != 0)
        return rc;
    if (n > bytes_left(cursor))
        return fail(cursor, "%s: a length of %llu bytes at byte %zu, but only %zu are left", what,
                    (unsigned long long)n, (size_t)(cursor->at - cursor->begin) - 8, bytes_left(cursor));
    *out = (struct gguf_text){(const char *)cursor->at, (size_t)n};
    cursor->at += n;
    return 0;
}

static bool is_type(uint64_t id) {
    return id <= GGUF_FLOAT64;
}

/* `what` names the key. */
static int take_array(struct cursor *cursor, const char *what, struct gguf_value *value) {
    uint64_t type;
    int rc = take(cursor, 4, what, &type);
    if (rc == 0)
        rc = take(cursor, 8, what, &value->n);
    if (rc != 0)
        return rc;
    if (!is_type(type) || type == GGUF_ARRAY)
        return fail(cursor, "%s: an array of elements of type %llu, allowed are 0..12 but not 9 (arrays)", what,
                    (unsigned long long)type);
    value->element = (enum gguf_type)type;
    value->data = cursor->at;
    const size_t bytes = gguf_type_bytes(value->element), least = bytes ? bytes : 8;
    if (value->n > bytes_left(cursor) / least)
        return fail(cursor, "%s: an array of %llu elements, but only %zu bytes are left", what,
                    (unsigned long long)value->n, bytes_left(cursor));
    if (bytes) {
        cursor->at += (size_t)value->n * bytes;
        return 0;
    }
    for (uint64_t i = 0; i < value->n; i++) {
        struct gguf_text text;
        rc = take_text(cursor, what, &text);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int take_value(struct cursor *cursor, const char *what, struct gguf_value *value) {
    uint64_t type;
    int rc = take(cursor, 4, what, &type);
    if (rc != 0)
        return rc;
    if (!is_type(type))
        return fail(cursor, "%s: a value of type %llu, allowed are 0..12", what, (unsigned long long)type);
    value->type = (enum gguf_type)type;
    if (value->type == GGUF_ARRAY)
        return take_array(cursor, what, value);
    if (value->type == GGUF_STRING) {
        struct gguf_text text;
        rc = take_text(cursor, what, &text);
        if (rc == 0) {
            value->data = (const unsigned char *)text.data;
            value->n = text.len_bytes;
        }
        return rc;
    }
    const size_t bytes = gguf_type_bytes(value->type);
    if (bytes_left(cursor) < bytes)
        return ends_early(cursor, what);
    value->data = cursor->at;
    cursor->at += bytes;
    if (value->type == GGUF_BOOL && *value->data > 1)
        return fail(cursor, "%s: a BOOL of %u, allowed are 0 and 1", what, *value->data);
    return 0;
}

static int compare_entries(const void *a, const void *b) {
    return gguf_compare_text(((const struct gguf_entry *)a)->key, ((const struct gguf_entry *)b)->key);
}

static int take_entries(struct cursor *cursor, uint64_t n, struct gguf_entry **entries, size_t *n_entries,
                        size_t *cap_entries) {
    char shown[JSON_SHOWN_BYTES];
    if (n > bytes_left(cursor) / MIN_KEY_BYTES)
        return fail(cursor, "%llu keys are announced, the file has room for %zu at most", (unsigned long long)n,
                    bytes_left(cursor) / MIN_KEY_BYTES);
    *n_entries = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (!checked_grow((void **)entries, cap_entries, *n_entries + 1, sizeof **entries))
            return l4_err_set(cursor->err, L4_E_NOMEM, "%s: out of memory for its keys", cursor->path);
        struct gguf_entry *entry = &(*entries)[(*n_entries)++];
        *entry = (struct gguf_entry){{0}, {0}};
        int rc = take_text(cursor, "the name of a key", &entry->key);
        if (rc != 0)
            return rc;
        if (entry->key.len_bytes == 0)
            return fail(cursor, "key %llu has an empty name", (unsigned long long)i);
        rc = take_value(cursor, gguf_show_text(shown, entry->key), &entry->value);
        if (rc != 0)
            return rc;
    }
    if (*n_entries > 0)
        qsort(*entries, *n_entries, sizeof **entries, compare_entries);
    for (size_t i = 1; i < *n_entries; i++)
        if (compare_entries(&(*entries)[i - 1], &(*entries)[i]) == 0)
            return fail(cursor, "the key %s stands there twice", gguf_show_text(shown, (*entries)[i].key));
    return 0;
}

/* ---- tensors --------------------------------------------------------------------------------------------------- */

static int bad_tensor(const struct cursor *cursor, struct gguf_text name, const char *fmt, ...) L4_PRINTF(3, 4);
static int bad_tensor(const struct cursor *cursor, struct gguf_text name, const char *fmt, ...) {
    char reason[256], shown[JSON_SHOWN_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);
    return fail(cursor, "tensor %s: %s", gguf_show_text(shown, name), reason);
}

/* The file has the innermost dimension first, struct tensor last. */
static int take_shape(struct cursor *cursor, struct gguf_tensor_entry *entry) {
    uint64_t n_dims, dim;
    struct tensor *tensor = &entry->tensor;
    int rc = take(cursor, 4, "the shape of a tensor", &n_dims);
    if (rc != 0)
        return rc;
    if (n_dims < 1 || n_dims > MAX_DIMS)
        return bad_tensor(cursor, entry->name, "%llu dimensions, allowed are 1..%d", (unsigned long long)n_dims,
                          MAX_DIMS);
    tensor->n_dims = (int)n_dims;
    for (int i = tensor->n_dims - 1; i >= 0; i--) {
        rc = take(cursor, 8, "the shape of a tensor", &dim);
        if (rc != 0)
            return rc;
        if (dim < 1 || dim > INT64_MAX)
            return bad_tensor(cursor, entry->name, "a dimension of %llu, allowed are 1..2^63-1",
                              (unsigned long long)dim);
        tensor->shape[i] = (int64_t)dim;
    }
    return 0;
}

static int take_tensor(struct cursor *cursor, struct gguf_tensor_entry *entry) {
    uint64_t type;
    struct tensor *tensor = &entry->tensor;
    int rc = take_text(cursor, "the name of a tensor", &entry->name);
    if (rc != 0)
        return rc;
    if (entry->name.len_bytes == 0)
        return fail(cursor, "a tensor has an empty name");
    rc = take_shape(cursor, entry);
    if (rc == 0)
        rc = take(cursor, 4, "the type of a tensor", &type);
    if (rc == 0)
        rc = take(cursor, 8, "the place of a tensor", &entry->offset);
    if (rc != 0)
        return rc;
    if (!dtype_from_gguf(type > UINT32_MAX ? UINT32_MAX : (uint32_t)type, &tensor->type))
        return bad_tensor(cursor, entry->name,
                          "type %llu is not one that is known (F32 0, F16 1, Q4_0 2, ... MXFP4 39)",
                          (unsigned long long)type);
    int64_t elements = 1;
    for (int i = 0; i < tensor->n_dims; i++)
        if (!checked_mul_i64(elements, tensor->shape[i], &elements))
            return bad_tensor(cursor, entry->name, "its number of elements overflows");
    if (tensor->shape[tensor->n_dims - 1] % dtype_block_elements(tensor->type) != 0)
        return bad_tensor(cursor, entry->name, "rows of %lld elements, %s wants a multiple of %lld",
                          (long long)tensor->shape[tensor->n_dims - 1], dtype_name(tensor->type),
                          (long long)dtype_block_elements(tensor->type));
    if (!dtype_bytes_checked(tensor->type, elements, &tensor->size_bytes))
        return bad_tensor(cursor, entry->name, "its size in bytes overflows");
    return 0;
}

static int compare_places(const void *a, const void *b) {
    const struct gguf_tensor_entry *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Every tensor lies aligned, within the file, and apart from the others. */
static int place_tensors(const struct cursor *cursor, struct gguf_tensor_entry *tensors, size_t n, uint64_t alignment) {
    const uint64_t file_bytes = (uint64_t)(cursor->end - cursor->begin);
    const uint64_t header_bytes = (uint64_t)(cursor->at - cursor->begin);
    uint64_t data_offset, tail = 0;
    if (__builtin_add_overflow(header_bytes, alignment - 1, &data_offset) ||
        (data_offset &= ~(alignment - 1)) > file_bytes)
        return fail(cursor, "the data of its tensors would start at byte %llu, past the end of the file at %llu",
                    (unsigned long long)data_offset, (unsigned long long)file_bytes);
    const uint64_t data_bytes = file_bytes - data_offset;
    qsort(tensors, n, sizeof *tensors, compare_places);
    for (size_t i = 0; i < n; i++) {
        struct gguf_tensor_entry *entry = &tensors[i];
        const unsigned long long offset = entry->offset;
        if (entry->offset % alignment != 0)
            return bad_tensor(cursor, entry->name, "starts at byte %llu of the data, which is no multiple of %llu",
                              offset, (unsigned long long)alignment);
        if (dtype_block_elements(entry->tensor.type) == 1 &&
            (data_offset + entry->offset) % dtype_size(entry->tensor.type) != 0)
            return bad_tensor(cursor, entry->name, "is not aligned to its element size %zu",
                              dtype_size(entry->tensor.type));
        if (entry->offset > data_bytes || entry->tensor.size_bytes > data_bytes - entry->offset)
            return bad_tensor(cursor, entry->name, "%zu bytes at byte %llu of the data reach past its end at %llu",
                              entry->tensor.size_bytes, offset, (unsigned long long)data_bytes);
        if (entry->offset < tail)
            return bad_tensor(cursor, entry->name, "starts at byte %llu of the data, within the tensor before it",
                              offset);
        tail = entry->offset + entry->tensor.size_bytes;
        entry->tensor.data = cursor->begin + data_offset + entry->offset;
    }
    return 0;
}

static int read_alignment(const struct cursor *cursor, const struct gguf_entry *entries, size_t n_entries,
                          uint64_t *alignment) {
    static const char key[] = "general.alignment";
    const struct gguf_entry *entry = gguf_find_entry(entries, n_entries, key);
    *alignment = DEFAULT_ALIGNMENT;
    if (entry == NULL)
        return 0;
    if (entry->value.type != GGUF_UINT32)
        return fail(cursor, "%s: expected a UINT32, found %s", key, gguf_type_name(entry->value.type));
    *alignment = gguf_load(entry->value.data, 4);
    if (*alignment == 0 || (*alignment & (*alignment - 1)) != 0)
        return fail(cursor, "%s: expected a power of two, found %llu", key, (unsigned long long)*alignment);
    return 0;
}

static int take_tensors(struct cursor *cursor, struct gguf *gguf, size_t part, uint64_t n, uint64_t alignment) {
    const size_t first = gguf->n_tensors;
    if (n > bytes_left(cursor) / MIN_TENSOR_BYTES)
        return fail(cursor, "%llu tensors are announced, the file has room for %zu at most", (unsigned long long)n,
                    bytes_left(cursor) / MIN_TENSOR_BYTES);
    for (uint64_t i = 0; i < n; i++) {
        if (!checked_grow((void **)&gguf->tensors, &gguf->cap_tensors, gguf->n_tensors + 1, sizeof *gguf->tensors))
            return l4_err_set(cursor->err, L4_E_NOMEM, "%s: out of memory for its tensors", cursor->path);
        struct gguf_tensor_entry *entry = &gguf->tensors[gguf->n_tensors++];
        *entry = (struct gguf_tensor_entry){.part = part};
        int rc = take_tensor(cursor, entry);
        if (rc != 0)
            return rc;
    }
    return n > 0 ? place_tensors(cursor, gguf->tensors + first, (size_t)n, alignment) : 0;
}

static int take_version(struct cursor *cursor) {
    uint64_t magic, version;
    int rc = take(cursor, 4, "its magic number", &magic);
    if (rc != 0)
        return rc;
    if (memcmp(cursor->begin, "GGUF", 4) != 0)
        return fail(cursor, "not a GGUF file: it does not begin with \"GGUF\"");
    rc = take(cursor, 4, "its version", &version);
    if (rc != 0)
        return rc;
    if (version != 0 && (version & 0xffff) == 0)
        return l4_err_set(cursor->err, L4_E_UNSUPPORTED,
                          "%s: a big-endian file (version %u); only little-endian is read", cursor->path,
                          __builtin_bswap32((uint32_t)version));
    if (version != 2 && version != 3)
        return l4_err_set(cursor->err, L4_E_UNSUPPORTED, "%s: GGUF version %llu, only 2 and 3 are read", cursor->path,
                          (unsigned long long)version);
    return 0;
}

int gguf_header_read(struct gguf *gguf, size_t part, struct gguf_entry **entries, size_t *n_entries,
                     size_t *cap_entries, struct l4_err *err) {
    const struct gguf_part *file = &gguf->parts[part];
    const unsigned char *begin = file->mapping.data;
    struct cursor cursor = {
        .path = file->path, .begin = begin, .at = begin, .end = begin + file->mapping.size_bytes, .err = err};
    uint64_t n_tensors, n_keys, alignment;
    int rc = take_version(&cursor);
    if (rc == 0)
        rc = take(&cursor, 8, "its number of tensors", &n_tensors);
    if (rc == 0)
        rc = take(&cursor, 8, "its number of keys", &n_keys);
    if (rc == 0)
        rc = take_entries(&cursor, n_keys, entries, n_entries, cap_entries);
    if (rc == 0)
        rc = read_alignment(&cursor, *entries, *n_entries, &alignment);
    if (rc == 0)
        rc = take_tensors(&cursor, gguf, part, n_tensors, alignment);
    return rc;
}

static int compare_names(const void *a, const void *b) {
    return gguf_compare_text(((const struct gguf_tensor_entry *)a)->name, ((const struct gguf_tensor_entry *)b)->name);
}

int gguf_index_tensors(struct gguf *gguf, struct l4_err *err) {
    char shown[JSON_SHOWN_BYTES];
    if (gguf->n_tensors > 0)
        qsort(gguf->tensors, gguf->n_tensors, sizeof *gguf->tensors, compare_names);
    for (size_t i = 1; i < gguf->n_tensors; i++) {
        const struct gguf_tensor_entry *entry = &gguf->tensors[i];
        if (compare_names(entry - 1, entry) == 0)
            return l4_err_set(err, L4_E_FORMAT, "%s: the tensor %s stands there twice", gguf->parts[entry->part].path,
                              gguf_show_text(shown, entry->name));
    }
    return 0;
}
