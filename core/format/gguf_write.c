#include "core/format/gguf_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/checked.h"
#include "core/format/gguf_internal.h"
#include "llama4/buf.h"

enum { VERSION = 3, ALIGNMENT = 32, MAX_NAME_BYTES = 63, MAX_DIMS = 4 };

struct placed {
    char name[MAX_NAME_BYTES + 1];
    uint64_t offset, size_bytes; /* offset from the start of the data */
};

struct gguf_writer {
    char *path, *temporary; /* temporary NULL until it was created, and again once it has its name */
    bool overwrite;
    int fd;
    struct l4_buf keys, table;
    uint64_t n_keys;
    struct placed *tensors;
    size_t n_tensors, cap_tensors;
    uint64_t data_offset, data_bytes;
};

/* ---- little-endian bytes ----------------------------------------------------------------------------------------- */

static void put_number(struct l4_buf *out, uint64_t value, size_t n_bytes) {
    unsigned char bytes[8];
    for (size_t i = 0; i < n_bytes; i++)
        bytes[i] = (unsigned char)(value >> 8 * i);
    l4_buf_append(out, (const char *)bytes, n_bytes);
}

static void put_text(struct l4_buf *out, const char *text, size_t len_bytes) {
    put_number(out, len_bytes, 8);
    l4_buf_append(out, text, len_bytes);
}

static void put_key(struct gguf_writer *writer, const char *key, enum gguf_type type) {
    writer->n_keys++;
    put_text(&writer->keys, key, strlen(key));
    put_number(&writer->keys, type, 4);
}

static uint64_t aligned(uint64_t n) {
    return (n + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1);
}

/* ---- metadata ---------------------------------------------------------------------------------------------------- */

void gguf_write_u32(struct gguf_writer *writer, const char *key, uint32_t value) {
    put_key(writer, key, GGUF_UINT32);
    put_number(&writer->keys, value, 4);
}

void gguf_write_f32(struct gguf_writer *writer, const char *key, float value) {
    union {
        float f;
        uint32_t u;
    } bits = {.f = value};
    put_key(writer, key, GGUF_FLOAT32);
    put_number(&writer->keys, bits.u, 4);
}

void gguf_write_bool(struct gguf_writer *writer, const char *key, bool value) {
    put_key(writer, key, GGUF_BOOL);
    put_number(&writer->keys, value, 1);
}

void gguf_write_string(struct gguf_writer *writer, const char *key, const char *text, size_t len_bytes) {
    put_key(writer, key, GGUF_STRING);
    put_text(&writer->keys, text, len_bytes);
}

void gguf_write_array(struct gguf_writer *writer, const char *key, enum gguf_type type, uint64_t n) {
    put_key(writer, key, GGUF_ARRAY);
    put_number(&writer->keys, type, 4);
    put_number(&writer->keys, n, 8);
}

void gguf_write_element_string(struct gguf_writer *writer, const char *text, size_t len_bytes) {
    put_text(&writer->keys, text, len_bytes);
}

void gguf_write_element_i32(struct gguf_writer *writer, int32_t value) {
    put_number(&writer->keys, (uint32_t)value, 4);
}

static const unsigned char *end_of_value(const struct gguf_value *value) {
    if (value->type == GGUF_STRING)
        return value->data + value->n;
    if (value->type != GGUF_ARRAY)
        return value->data + gguf_type_bytes(value->type);
    if (value->element != GGUF_STRING)
        return value->data + value->n * gguf_type_bytes(value->element);
    struct gguf_array strings = {.n = value->n, .type = GGUF_STRING, .next = value->data};
    struct gguf_text text;
    while (gguf_next_string(&strings, &text)) {
    }
    return strings.next;
}

/* By place in the file: the reader keeps them sorted by name. */
static int compare_places(const void *a, const void *b) {
    const char *x = (*(const struct gguf_entry *const *)a)->key.data;
    const char *y = (*(const struct gguf_entry *const *)b)->key.data;
    return (x > y) - (x < y);
}

void gguf_write_keys_of(struct gguf_writer *writer, const struct gguf *from, bool (*keep)(struct gguf_text key)) {
    const struct gguf_entry **entries = checked_array(from->n_entries, sizeof(struct gguf_entry *));
    size_t n = 0;
    if (entries == NULL) {
        writer->keys.failed = true;
        return;
    }
    for (size_t i = 0; i < from->n_entries; i++)
        if (keep(from->entries[i].key))
            entries[n++] = &from->entries[i];
    if (n > 0)
        qsort(entries, n, sizeof *entries, compare_places);
    for (size_t i = 0; i < n; i++) {
        const char *begin = entries[i]->key.data - 8; /* its length */
        l4_buf_append(&writer->keys, begin, (size_t)((const char *)end_of_value(&entries[i]->value) - begin));
    }
    writer->n_keys += n;
    free(entries);
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

int gguf_write_tensor(struct gguf_writer *writer, const char *name, enum dtype type, int n_dims, const int64_t *shape,
                      struct l4_err *err) {
    int64_t elements = 1;
    size_t size_bytes, end;
    bool fits = n_dims >= 1 && n_dims <= MAX_DIMS && dtype_gguf_id(type) >= 0 &&
                shape[n_dims - 1] % dtype_block_elements(type) == 0;
    for (int i = 0; fits && i < n_dims; i++)
        fits = shape[i] > 0 && checked_mul_i64(elements, shape[i], &elements);
    if (!fits || !dtype_bytes_checked(type, elements, &size_bytes) ||
        !checked_add_size((size_t)writer->data_bytes, size_bytes, &end) || end > INT64_MAX)
        return l4_err_set(err, L4_E_INVALID, "%s: tensor %s: not of a shape that %s can have", writer->path, name,
                          dtype_name(type));
    if (strlen(name) > MAX_NAME_BYTES)
        return l4_err_set(err, L4_E_INVALID, "%s: tensor %s: names are at most %d bytes long", writer->path, name,
                          MAX_NAME_BYTES);
    for (size_t i = 0; i < writer->n_tensors; i++)
        if (strcmp(writer->tensors[i].name, name) == 0)
            return l4_err_set(err, L4_E_INVALID, "%s: tensor %s: was given twice", writer->path, name);
    if (!checked_grow((void **)&writer->tensors, &writer->cap_tensors, writer->n_tensors + 1, sizeof *writer->tensors))
        return l4_err_set(err, L4_E_NOMEM, "%s: out of memory for its tensors", writer->path);
    struct placed *tensor = &writer->tensors[writer->n_tensors++];
    *tensor = (struct placed){.offset = writer->data_bytes, .size_bytes = size_bytes};
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    writer->data_bytes = aligned(end);
    put_text(&writer->table, name, strlen(name));
    put_number(&writer->table, (uint64_t)n_dims, 4);
    for (int i = n_dims - 1; i >= 0; i--)
        put_number(&writer->table, (uint64_t)shape[i], 8);
    put_number(&writer->table, (uint64_t)dtype_gguf_id(type), 4);
    put_number(&writer->table, tensor->offset, 8);
    return 0;
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static int is_taken(const char *path, struct l4_err *err) {
    return l4_err_set(err, L4_E_INVALID, "%s: is there already and is not overwritten", path);
}

int gguf_writer_open(struct gguf_writer **out, const char *path, bool overwrite, struct l4_err *err) {
    struct stat st;
    if (stat(path, &st) == 0) {
        if (!S_ISREG(st.st_mode))
            return l4_err_set(err, L4_E_INVALID, "%s: is there already and is not a regular file", path);
        if (!overwrite)
            return is_taken(path, err);
    }
    struct gguf_writer *writer = calloc(1, sizeof *writer);
    char *copy = strdup(path);
    if (writer == NULL || copy == NULL) {
        free(writer);
        free(copy);
        return l4_err_set(err, L4_E_NOMEM, "%s: out of memory", path);
    }
    *writer = (struct gguf_writer){.path = copy, .overwrite = overwrite, .fd = -1};
    *out = writer;
    return 0;
}

static int write_at(const struct gguf_writer *writer, uint64_t offset, const char *bytes, size_t n_bytes,
                    struct l4_err *err) {
    while (n_bytes > 0) {
        const ssize_t n = pwrite(writer->fd, bytes, n_bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return l4_err_set(err, L4_E_IO, "%s: cannot write %zu bytes at byte %llu: %s", writer->path, n_bytes,
                              (unsigned long long)offset, n < 0 ? strerror(errno) : "nothing was taken");
        bytes += n;
        offset += (uint64_t)n;
        n_bytes -= (size_t)n;
    }
    return 0;
}

static int create(struct gguf_writer *writer, struct l4_err *err) {
    if (asprintf(&writer->temporary, "%s.tmp.%ld", writer->path, (long)getpid()) < 0) {
        writer->temporary = NULL;
        return l4_err_set(err, L4_E_NOMEM, "%s: out of memory", writer->path);
    }
    writer->fd = open(writer->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (writer->fd >= 0)
        return 0;
    const int rc =
        errno == ENOENT || errno == ENOTDIR
            ? l4_err_set(err, L4_E_NOT_FOUND, "%s: its directory does not exist", writer->path)
            : l4_err_set(err, L4_E_IO, "%s: cannot create %s: %s", writer->path, writer->temporary, strerror(errno));
    free(writer->temporary);
    writer->temporary = NULL;
    return rc;
}

/* So that a full disk shows now and not hours later.  File systems that cannot reserve get the size alone. */
static int reserve(const struct gguf_writer *writer, uint64_t size_bytes, struct l4_err *err) {
    int rc;
    do
        rc = fallocate(writer->fd, 0, 0, (off_t)size_bytes);
    while (rc != 0 && errno == EINTR);
    if (rc != 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
        rc = ftruncate(writer->fd, (off_t)size_bytes);
    return rc == 0 ? 0
                   : l4_err_set(err, L4_E_IO, "%s: cannot reserve %llu bytes: %s", writer->path,
                                (unsigned long long)size_bytes, strerror(errno));
}

int gguf_writer_begin(struct gguf_writer *writer, uint64_t *size_bytes, struct l4_err *err) {
    struct l4_buf header = {0};
    l4_buf_append(&header, "GGUF", 4);
    put_number(&header, VERSION, 4);
    put_number(&header, writer->n_tensors, 8);
    put_number(&header, writer->n_keys, 8);
    const size_t keys_offset = header.len, table_offset = keys_offset + writer->keys.len;
    if (header.failed || writer->keys.failed || writer->table.failed) {
        l4_buf_free(&header);
        return l4_err_set(err, L4_E_NOMEM, "%s: out of memory for its header", writer->path);
    }
    writer->data_offset = aligned(table_offset + writer->table.len);
    const uint64_t total = writer->data_offset + writer->data_bytes;
    int rc = create(writer, err);
    if (rc == 0)
        rc = reserve(writer, total, err);
    if (rc == 0)
        rc = write_at(writer, 0, header.data, header.len, err);
    if (rc == 0)
        rc = write_at(writer, keys_offset, writer->keys.data, writer->keys.len, err);
    if (rc == 0)
        rc = write_at(writer, table_offset, writer->table.data, writer->table.len, err);
    l4_buf_free(&header);
    if (rc == 0 && size_bytes != NULL)
        *size_bytes = total;
    return rc;
}

int gguf_writer_put(const struct gguf_writer *writer, size_t tensor, uint64_t offset, const void *bytes, size_t n_bytes,
                    struct l4_err *err) {
    const struct placed *to = &writer->tensors[tensor];
    return write_at(writer, writer->data_offset + to->offset + offset, bytes, n_bytes, err);
}

/* The directory, so that the new name lasts.  One that cannot be opened or synchronised has no better to offer. */
static void sync_directory(const char *path) {
    const char *slash = strrchr(path, '/');
    char *directory = slash == NULL ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
    const int fd = directory != NULL ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    free(directory);
}

int gguf_writer_commit(struct gguf_writer *writer, struct l4_err *err) {
    if (fsync(writer->fd) != 0)
        return l4_err_set(err, L4_E_IO, "%s: cannot write all of it: %s", writer->path, strerror(errno));
    int rc = renameat2(AT_FDCWD, writer->temporary, AT_FDCWD, writer->path, writer->overwrite ? 0 : RENAME_NOREPLACE);
    if (rc != 0 && (errno == EINVAL || errno == ENOSYS)) /* a file system that knows no such flag */
        rc = rename(writer->temporary, writer->path);
    if (rc != 0)
        return errno == EEXIST ? is_taken(writer->path, err)
                               : l4_err_set(err, L4_E_IO, "%s: cannot rename %s to it: %s", writer->path,
                                            writer->temporary, strerror(errno));
    free(writer->temporary);
    writer->temporary = NULL;
    sync_directory(writer->path);
    return 0;
}

void gguf_writer_close(struct gguf_writer *writer) {
    if (writer == NULL)
        return;
    if (writer->fd >= 0)
        close(writer->fd);
    if (writer->temporary != NULL)
        unlink(writer->temporary);
    free(writer->temporary);
    free(writer->path);
    free(writer->tensors);
    l4_buf_free(&writer->keys);
    l4_buf_free(&writer->table);
    free(writer);
}
