/* GGUF files, one or a split set of them, mapped read-only: typed metadata and named tensors. */
#ifndef CORE_FORMAT_GGUF_H
#define CORE_FORMAT_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/format/file.h"
#include "core/format/tensor.h"
#include "llama4/error.h"

/* X(name, id, bytes) - the types of metadata values; strings and arrays have no fixed size. */
#define GGUF_TYPES(X)                                                                                                  \
    X(UINT8, 0, 1)                                                                                                     \
    X(INT8, 1, 1)                                                                                                      \
    X(UINT16, 2, 2)                                                                                                    \
    X(INT16, 3, 2)                                                                                                     \
    X(UINT32, 4, 4)                                                                                                    \
    X(INT32, 5, 4)                                                                                                     \
    X(FLOAT32, 6, 4)                                                                                                   \
    X(BOOL, 7, 1)                                                                                                      \
    X(STRING, 8, 0)                                                                                                    \
    X(ARRAY, 9, 0)                                                                                                     \
    X(UINT64, 10, 8)                                                                                                   \
    X(INT64, 11, 8)                                                                                                    \
    X(FLOAT64, 12, 8)

enum gguf_type {
#define X(name, id, bytes) GGUF_##name = (id),
    GGUF_TYPES(X)
#undef X
};

struct gguf;

/* gguf_open - map a file, and where its metadata says that it is the first part of a split model, the others beside it;
 * check every key, value, tensor type, shape and place.
 *   Versions 2 and 3, little-endian.  No tensor data is read.  Time (but for two sorts) and memory are linear in the
 *   size of the headers; nothing is allocated by a count that the file merely claims.
 *   Errors: L4_E_NOT_FOUND, L4_E_IO, L4_E_FORMAT (names the file, the key or tensor, what was found, what is allowed),
 *   L4_E_UNSUPPORTED (other versions, big-endian), L4_E_NOMEM.
 *   Source: the GGUF description in the ggml repository. */
int gguf_open(struct gguf **out, const char *path, struct l4_err *err) L4_MUST_CHECK;
void gguf_close(struct gguf *gguf);

/* gguf_is_file - does the file begin as GGUF files do?  False where it cannot be read. */
bool gguf_is_file(const char *path);

/* Of all parts together.  Borrowed until close. */
size_t gguf_n_tensors(const struct gguf *gguf);
/* gguf_find_tensor - NULL if there is none of that name; file_name (NULL is allowed) is the part it is in. */
const struct tensor *gguf_find_tensor(const struct gguf *gguf, const char *name, const char **file_name);

/* gguf_mapping - part i of the model, NULL behind the last.  Borrowed until close. */
const struct file_mapping *gguf_mapping(const struct gguf *gguf, size_t i);

/* ---- metadata, of the first part ------------------------------------------------------------------------------- */

/* Typed reads whose errors name file, key, what was found and what is allowed.  The first error stays in rc and *err,
 * and every later read does nothing, so that a row of reads is checked once, at the end. */
struct gguf_reader {
    const struct gguf *gguf;
    struct l4_err *err;
    int rc;
};

/* Text in the file: borrowed, not terminated. */
struct gguf_text {
    const char *data;
    size_t len_bytes;
};

/* An array, read front to back. */
struct gguf_array {
    uint64_t n, at;
    enum gguf_type type;
    const unsigned char *next;
};

enum gguf_presence { GGUF_OPTIONAL, GGUF_REQUIRED };

bool gguf_has(const struct gguf_reader *reader, const char *key);
/* False, and *out as it was, where an optional key is absent or after an error; bounds are inclusive. */
bool gguf_integer(struct gguf_reader *reader, const char *key, enum gguf_presence presence, int64_t min, int64_t max,
                  int64_t *out);
bool gguf_number(struct gguf_reader *reader, const char *key, enum gguf_presence presence, double min, double max,
                 double *out);
bool gguf_bool(struct gguf_reader *reader, const char *key, enum gguf_presence presence, bool *out);
bool gguf_string(struct gguf_reader *reader, const char *key, enum gguf_presence presence, struct gguf_text *out);
bool gguf_read_array(struct gguf_reader *reader, const char *key, enum gguf_presence presence, enum gguf_type type,
                     struct gguf_array *out);
/* The next element of an array of that type; false at its end. */
bool gguf_next_string(struct gguf_array *array, struct gguf_text *out);
bool gguf_next_i32(struct gguf_array *array, int32_t *out);

bool gguf_text_is(struct gguf_text text, const char *literal);

/* gguf_fail - set the reader's error: "FILE: KEY: expected EXPECTED, found VALUE"; keeps an earlier one. */
void gguf_fail(struct gguf_reader *reader, const char *key, int code, const char *expected, ...) L4_PRINTF(4, 5);

#endif
