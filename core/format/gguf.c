/* Mapping of GGUF files, and the parts of a split model. */
#include "core/format/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/checked.h"
#include "core/format/gguf_internal.h"

enum { MAX_PARTS = 65535 }; /* split.count is a UINT16 */

/* Takes the path over. */
static int map_part(struct gguf *gguf, char *take_path, struct l4_err *err) {
    int fd, rc;
    uint64_t size_bytes;
    if (take_path == NULL ||
        !checked_grow((void **)&gguf->parts, &gguf->cap_parts, gguf->n_parts + 1, sizeof *gguf->parts)) {
        free(take_path);
        return l4_err_set(err, L4_E_NOMEM, "out of memory for a GGUF file");
    }
    struct gguf_part *part = &gguf->parts[gguf->n_parts++];
    *part = (struct gguf_part){.path = take_path};
    rc = file_open(part->path, &fd, &size_bytes, err);
    if (rc != 0)
        return rc;
    if (size_bytes == 0) {
        rc = l4_err_set(err, L4_E_FORMAT, "%s: not a GGUF file: it is %llu bytes long", part->path,
                        (unsigned long long)size_bytes);
    } else {
        rc = file_map(&part->mapping, fd, part->path, size_bytes, err);
    }
    close(fd);
    return rc;
}

/* ---- split models ---------------------------------------------------------------------------------------------- */

/* What the split keys of one part say; absent keys mean one part of one. */
struct split {
    int64_t no, count, n_tensors; /* n_tensors: -1 = not said */
};

static int read_split_key(const struct gguf_part *part, const struct gguf_entry *entries, size_t n_entries,
                          const char *key, int64_t min, int64_t max, int64_t *out, struct l4_err *err) {
    const struct gguf_entry *entry = gguf_find_entry(entries, n_entries, key);
    if (entry == NULL)
        return 0;
    if (!gguf_value_integer(&entry->value, out))
        return l4_err_set(err, L4_E_FORMAT, "%s: %s: expected an integer, found %s", part->path, key,
                          gguf_type_name(entry->value.type));
    if (*out < min || *out > max)
        return l4_err_set(err, L4_E_FORMAT, "%s: %s: expected %lld..%lld, found %lld", part->path, key, (long long)min,
                          (long long)max, (long long)*out);
    return 0;
}

static int read_split(const struct gguf_part *part, const struct gguf_entry *entries, size_t n_entries,
                      struct split *split, struct l4_err *err) {
    *split = (struct split){.count = 1, .n_tensors = -1};
    int rc = read_split_key(part, entries, n_entries, "split.count", 0, MAX_PARTS, &split->count, err);
    if (split->count == 0) /* as the splitting tool writes when it merges */
        split->count = 1;
    if (rc == 0)
        rc = read_split_key(part, entries, n_entries, "split.no", 0, split->count - 1, &split->no, err);
    if (rc == 0)
        rc = read_split_key(part, entries, n_entries, "split.tensors.count", 0, INT64_MAX, &split->n_tensors, err);
    return rc;
}

/* "NAME-00001-of-00003.gguf": the path of another part, malloc'ed; NULL in *out where the path is not of that form. */
static int part_path(char **out, const char *path, int64_t no, int64_t count, struct l4_err *err) {
    char suffix[40];
    const int n = snprintf(suffix, sizeof suffix, "-of-%05lld.gguf", (long long)count);
    const size_t length = strlen(path), tail = (size_t)n + 6; /* "-00001" before it */
    *out = NULL;
    if (length < tail || strcmp(path + length - (size_t)n, suffix) != 0 || path[length - tail] != '-' ||
        strspn(path + length - tail + 1, "0123456789") != 5)
        return 0;
    if (asprintf(out, "%.*s-%05lld%s", (int)(length - tail), path, (long long)no + 1, suffix) < 0) {
        *out = NULL;
        return l4_err_set(err, L4_E_NOMEM, "%s: out of memory", path);
    }
    return 0;
}

static int open_part(struct gguf *gguf, const struct split *first, int64_t no, struct l4_err *err) {
    char *path;
    struct split split;
    struct gguf_entry *entries = NULL;
    size_t n_entries = 0, cap_entries = 0;
    int rc = part_path(&path, gguf->parts[0].path, no, first->count, err);
    if (rc != 0)
        return rc;
    if (path == NULL)
        return l4_err_set(err, L4_E_FORMAT, "%s: the first of %lld parts must be named NAME-00001-of-%05lld.gguf",
                          gguf->parts[0].path, (long long)first->count, (long long)first->count);
    rc = map_part(gguf, path, err);
    if (rc != 0) {
        if (rc == L4_E_NOT_FOUND)
            l4_err_context(err, "part %lld of %lld is missing", (long long)no + 1, (long long)first->count);
        return rc;
    }
    const struct gguf_part *part = &gguf->parts[gguf->n_parts - 1];
    rc = gguf_header_read(gguf, gguf->n_parts - 1, &entries, &n_entries, &cap_entries, err);
    if (rc == 0)
        rc = read_split(part, entries, n_entries, &split, err);
    if (rc == 0 && (split.no != no || split.count != first->count))
        rc =
            l4_err_set(err, L4_E_FORMAT, "%s: split.no and split.count: expected %lld and %lld, found %lld and %lld",
                       part->path, (long long)no, (long long)first->count, (long long)split.no, (long long)split.count);
    free(entries);
    return rc;
}

static int open_parts(struct gguf *gguf, struct l4_err *err) {
    struct split first;
    const char *path = gguf->parts[0].path;
    int rc = gguf_header_read(gguf, 0, &gguf->entries, &gguf->n_entries, &gguf->cap_entries, err);
    if (rc == 0)
        rc = read_split(&gguf->parts[0], gguf->entries, gguf->n_entries, &first, err);
    if (rc != 0)
        return rc;
    if (first.no != 0)
        return l4_err_set(err, L4_E_FORMAT, "%s: part %lld of %lld: open the first, NAME-00001-of-%05lld.gguf", path,
                          (long long)first.no + 1, (long long)first.count, (long long)first.count);
    for (int64_t no = 1; rc == 0 && no < first.count; no++)
        rc = open_part(gguf, &first, no, err);
    if (rc == 0 && first.n_tensors >= 0 && (uint64_t)first.n_tensors != gguf->n_tensors)
        rc = l4_err_set(err, L4_E_FORMAT, "%s: split.tensors.count: expected %zu, the number of tensors, found %lld",
                        gguf->parts[0].path, gguf->n_tensors, (long long)first.n_tensors);
    return rc != 0 ? rc : gguf_index_tensors(gguf, err);
}

int gguf_open(struct gguf **out, const char *path, struct l4_err *err) {
    struct gguf *gguf = calloc(1, sizeof *gguf);
    if (gguf == NULL)
        return l4_err_set(err, L4_E_NOMEM, "%s: out of memory", path);
    int rc = map_part(gguf, strdup(path), err);
    if (rc == 0)
        rc = open_parts(gguf, err);
    if (rc != 0) {
        gguf_close(gguf);
        return rc;
    }
    *out = gguf;
    return 0;
}

void gguf_close(struct gguf *gguf) {
    if (gguf == NULL)
        return;
    for (size_t i = 0; i < gguf->n_parts; i++) {
        file_unmap(&gguf->parts[i].mapping);
        free(gguf->parts[i].path);
    }
    free(gguf->parts);
    free(gguf->entries);
    free(gguf->tensors);
    free(gguf);
}

bool gguf_is_file(const char *path) {
    char magic[4];
    int fd;
    uint64_t size_bytes;
    if (file_open(path, &fd, &size_bytes, NULL) != 0)
        return false;
    const bool is = pread(fd, magic, sizeof magic, 0) == sizeof magic && memcmp(magic, "GGUF", sizeof magic) == 0;
    close(fd);
    return is;
}

/* ---- look-ups -------------------------------------------------------------------------------------------------- */

const struct file_mapping *gguf_mapping(const struct gguf *gguf, size_t i) {
    return i < gguf->n_parts ? &gguf->parts[i].mapping : NULL;
}

size_t gguf_n_tensors(const struct gguf *gguf) {
    return gguf->n_tensors;
}

static int compare_tensor_key(const void *key, const void *entry) {
    return gguf_compare_text(*(const struct gguf_text *)key, ((const struct gguf_tensor_entry *)entry)->name);
}

const struct tensor *gguf_find_tensor(const struct gguf *gguf, const char *name, const char **file_name_out) {
    const struct gguf_text key = {name, strlen(name)};
    const struct gguf_tensor_entry *found = NULL;
    if (gguf->n_tensors > 0)
        found = bsearch(&key, gguf->tensors, gguf->n_tensors, sizeof *gguf->tensors, compare_tensor_key);
    if (found == NULL)
        return NULL;
    if (file_name_out != NULL)
        *file_name_out = file_name(gguf->parts[found->part].path);
    return &found->tensor;
}
