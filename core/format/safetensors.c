#include "core/format/safetensors.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/checked.h"
#include "core/format/json.h"

enum { PREFIX_BYTES = 8, MAX_HEADER_BYTES = 100000000 };

struct entry {
    char *name;
    uint64_t begin, end; /* from the first byte behind the header */
    struct tensor tensor;
};

struct safetensors {
    char *path;
    struct file_mapping mapping;
    struct entry *entries; /* in the order of the header */
    size_t n_entries;
    struct entry **by_name; /* sorted */
};

static int find_dtype(const char *text, enum dtype *type) {
    for (int i = 0; i < DT_FIRST_BLOCK_TYPE; i++)
        if (strcmp(text, dtype_name((enum dtype)i)) == 0) {
            *type = (enum dtype)i;
            return 0;
        }
    return -1;
}

static int bad_tensor(const struct safetensors *file, const char *name, struct l4_err *err, const char *fmt, ...)
    L4_PRINTF(4, 5);
static int bad_tensor(const struct safetensors *file, const char *name, struct l4_err *err, const char *fmt, ...) {
    char reason[256], shown[JSON_SHOWN_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);
    return l4_err_set(err, L4_E_FORMAT, "%s: tensor %s: %s", file->path, json_show_text(shown, name), reason);
}

static int read_shape(const struct safetensors *file, const char *name, const cJSON *shape, struct tensor *tensor,
                      struct l4_err *err) {
    char shown[JSON_SHOWN_BYTES];
    if (!cJSON_IsArray(shape) || cJSON_GetArraySize(shape) > TENSOR_MAX_DIMS)
        return bad_tensor(file, name, err, "shape: expected an array of at most %d, found %s", TENSOR_MAX_DIMS,
                          json_show(shown, shape));
    tensor->size_bytes = dtype_size(tensor->type);
    const cJSON *dim;
    cJSON_ArrayForEach(dim, shape) {
        if (!json_is_integer(dim, 0, JSON_MAX_INTEGER))
            return bad_tensor(file, name, err, "shape: expected integers 0..2^53, found %s", json_show(shown, dim));
        int64_t n = (int64_t)dim->valuedouble;
        tensor->shape[tensor->n_dims++] = n;
        if (!checked_mul_size(tensor->size_bytes, (size_t)n, &tensor->size_bytes))
            return bad_tensor(file, name, err, "shape: its size in bytes overflows");
    }
    return 0;
}

/* Type, shape and place of one tensor; whether places overlap is seen later, when all are known. */
static int read_entry(const struct safetensors *file, const cJSON *member, uint64_t data_offset, uint64_t data_bytes,
                      struct entry *entry, struct l4_err *err) {
    char shown[JSON_SHOWN_BYTES], shown_name[JSON_SHOWN_BYTES];
    const char *name = entry->name;
    struct json_object object;
    json_object_init(&object, member, json_show_text(shown_name, name), "", err);
    if (object.rc != 0) {
        l4_err_context(err, "%s", file->path);
        return object.rc;
    }

    const cJSON *dtype = json_get(&object, "dtype");
    if (!cJSON_IsString(dtype) || find_dtype(dtype->valuestring, &entry->tensor.type) != 0)
        return bad_tensor(file, name, err, "dtype: expected F32, F16, BF16 or another known type, found %s",
                          json_show(shown, dtype));
    int rc = read_shape(file, name, json_get(&object, "shape"), &entry->tensor, err);
    if (rc != 0)
        return rc;

    const cJSON *offsets = json_get(&object, "data_offsets");
    const cJSON *begin = cJSON_IsArray(offsets) ? offsets->child : NULL;
    const cJSON *end = begin != NULL ? begin->next : NULL;
    if (end == NULL || end->next != NULL || !json_is_integer(begin, 0, JSON_MAX_INTEGER) ||
        !json_is_integer(end, 0, JSON_MAX_INTEGER))
        return bad_tensor(file, name, err, "data_offsets: expected two integers 0..2^53, found %s",
                          json_show(shown, offsets));
    entry->begin = (uint64_t)begin->valuedouble;
    entry->end = (uint64_t)end->valuedouble;
    unsigned long long first = entry->begin, last = entry->end;
    if (entry->begin > entry->end || entry->end > data_bytes)
        return bad_tensor(file, name, err, "data_offsets [%llu, %llu]: expected an ascending pair within 0..%llu",
                          first, last, (unsigned long long)data_bytes);
    if (entry->end - entry->begin != entry->tensor.size_bytes)
        return bad_tensor(file, name, err, "data_offsets [%llu, %llu]: expected %zu bytes for its type and shape",
                          first, last, entry->tensor.size_bytes);
    if ((data_offset + entry->begin) % dtype_size(entry->tensor.type) != 0)
        return bad_tensor(file, name, err,
                          "starts at byte %llu of the file, which is no multiple of its element size %zu",
                          (unsigned long long)(data_offset + entry->begin), dtype_size(entry->tensor.type));
    entry->tensor.data = (const char *)file->mapping.data + data_offset + entry->begin;
    return 0;
}

static int compare_names(const void *a, const void *b) {
    return strcmp((*(struct entry *const *)a)->name, (*(struct entry *const *)b)->name);
}

static int compare_places(const void *a, const void *b) {
    const struct entry *x = *(struct entry *const *)a, *y = *(struct entry *const *)b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* The format wants the data section tiled: no hole, no overlap, nothing behind. */
static int check_places(const struct safetensors *file, uint64_t data_bytes, struct l4_err *err) {
    uint64_t at = 0;
    qsort(file->by_name, file->n_entries, sizeof(struct entry *), compare_places);
    for (size_t i = 0; i < file->n_entries; i++) {
        const struct entry *entry = file->by_name[i];
        if (entry->begin != at)
            return bad_tensor(file, entry->name, err, "data starts at %llu, %s the end of the tensor before it, %llu",
                              (unsigned long long)entry->begin,
                              entry->begin < at ? "overlapping" : "leaving a hole after", (unsigned long long)at);
        at = entry->end;
    }
    if (at != data_bytes)
        return l4_err_set(err, L4_E_FORMAT, "%s: tensors end at byte %llu of the data section, which has %llu",
                          file->path, (unsigned long long)at, (unsigned long long)data_bytes);
    qsort(file->by_name, file->n_entries, sizeof(struct entry *), compare_names);
    return 0;
}

static int read_header(struct safetensors *file, cJSON *root, uint64_t data_offset, struct l4_err *err) {
    struct json_object object;
    json_object_init(&object, root, file->path, "", err); /* also finds names that stand there twice */
    if (object.rc != 0)
        return object.rc;
    const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(root, "__metadata__");
    if (metadata != NULL && !cJSON_IsObject(metadata))
        json_fail(&object, "__metadata__", metadata, L4_E_FORMAT, "an object");
    if (object.rc != 0)
        return object.rc;

    uint64_t data_bytes = file->mapping.size_bytes - data_offset;
    size_t n = (size_t)cJSON_GetArraySize(root);
    file->entries = calloc(n + 1, sizeof *file->entries);
    file->by_name = calloc(n + 1, sizeof(struct entry *));
    if (file->entries == NULL || file->by_name == NULL)
        return l4_err_set(err, L4_E_NOMEM, "%s: out of memory for %zu tensors", file->path, n);
    cJSON *member;
    cJSON_ArrayForEach(member, root) {
        if (member == metadata)
            continue;
        struct entry *entry = &file->entries[file->n_entries];
        file->by_name[file->n_entries++] = entry;
        entry->name = strdup(member->string);
        if (entry->name == NULL)
            return l4_err_set(err, L4_E_NOMEM, "%s: out of memory for %zu tensors", file->path, n);
        int rc = read_entry(file, member, data_offset, data_bytes, entry, err);
        if (rc != 0)
            return rc;
    }
    return check_places(file, data_bytes, err);
}

static int open_descriptor(struct safetensors *file, int fd, uint64_t size_bytes, struct l4_err *err) {
    unsigned char *prefix = NULL;
    char *text = NULL;
    cJSON *root = NULL;
    uint64_t header_bytes = 0;
    if (size_bytes < PREFIX_BYTES || size_bytes > SIZE_MAX)
        return l4_err_set(err, L4_E_FORMAT, "%s: %llu bytes long, too short for a safetensors file", file->path,
                          (unsigned long long)size_bytes);
    int rc = file_read(fd, file->path, 0, PREFIX_BYTES, (char **)&prefix, err);
    if (rc != 0)
        return rc;
    for (int i = PREFIX_BYTES - 1; i >= 0; i--)
        header_bytes = header_bytes << 8 | prefix[i];
    free(prefix);
    if (header_bytes > size_bytes - PREFIX_BYTES)
        return l4_err_set(err, L4_E_FORMAT, "%s: header of %llu bytes reaches past the end of the file at %llu",
                          file->path, (unsigned long long)header_bytes, (unsigned long long)size_bytes);
    if (header_bytes > MAX_HEADER_BYTES)
        return l4_err_set(err, L4_E_FORMAT, "%s: header of %llu bytes, at most %d are allowed", file->path,
                          (unsigned long long)header_bytes, MAX_HEADER_BYTES);
    rc = file_read(fd, file->path, PREFIX_BYTES, (size_t)header_bytes, &text, err);
    if (rc == 0 && text[0] != '{')
        rc = l4_err_set(err, L4_E_FORMAT, "%s: the header does not begin with {", file->path);
    if (rc == 0)
        rc = json_parse(&root, text, (size_t)header_bytes, file->path, err);
    if (rc == 0) {
        rc = file_map(&file->mapping, fd, file->path, size_bytes, err);
        if (rc == 0)
            rc = read_header(file, root, PREFIX_BYTES + header_bytes, err);
    }
    cJSON_Delete(root);
    free(text);
    return rc;
}

int safetensors_open(struct safetensors **out, const char *path, struct l4_err *err) {
    int fd;
    uint64_t size_bytes;
    int rc = file_open(path, &fd, &size_bytes, err);
    if (rc != 0)
        return rc;
    struct safetensors *file = calloc(1, sizeof *file);
    if (file == NULL || (file->path = strdup(path)) == NULL)
        rc = l4_err_set(err, L4_E_NOMEM, "%s: out of memory", path);
    else
        rc = open_descriptor(file, fd, size_bytes, err);
    close(fd);
    if (rc != 0) {
        safetensors_close(file);
        return rc;
    }
    *out = file;
    return 0;
}

void safetensors_close(struct safetensors *file) {
    if (file == NULL)
        return;
    file_unmap(&file->mapping);
    for (size_t i = 0; i < file->n_entries; i++)
        free(file->entries[i].name);
    free(file->entries);
    free(file->by_name);
    free(file->path);
    free(file);
}

const struct file_mapping *safetensors_mapping(const struct safetensors *file) {
    return &file->mapping;
}

size_t safetensors_count(const struct safetensors *file) {
    return file->n_entries;
}

const char *safetensors_name(const struct safetensors *file, size_t i) {
    return file->entries[i].name;
}

const struct tensor *safetensors_at(const struct safetensors *file, size_t i) {
    return &file->entries[i].tensor;
}

static int compare_key(const void *key, const void *member) {
    return strcmp(key, (*(struct entry *const *)member)->name);
}

const struct tensor *safetensors_find(const struct safetensors *file, const char *name) {
    struct entry **found = bsearch(name, file->by_name, file->n_entries, sizeof(struct entry *), compare_key);
    return found != NULL ? &(*found)->tensor : NULL;
}
