/* Writing GGUF files, version 3: metadata first, then the tensors' table, then their data piece by piece.
 *
 * The file grows under a name of its own beside the final one, which it takes when it is complete and on the disk: no
 * half-written file is ever found under the final name.  Memory is that of the header alone.
 *
 * Order of calls: open; keys and tensors in any order; begin; put; commit; close. */
#ifndef CORE_FORMAT_GGUF_WRITE_H
#define CORE_FORMAT_GGUF_WRITE_H

#include "core/format/gguf.h"

struct gguf_writer;

/* gguf_writer_open - for a file at `path`.  Nothing is created before gguf_writer_begin.
 *   overwrite: a regular file that is there may be replaced.
 *   Errors: L4_E_INVALID (path is taken: a file without overwrite, a directory, a device), L4_E_NOMEM. */
int gguf_writer_open(struct gguf_writer **out, const char *path, bool overwrite, struct l4_err *err) L4_MUST_CHECK;
/* gguf_writer_close - without a commit before it, no file is left.  NULL is allowed. */
void gguf_writer_close(struct gguf_writer *writer);

/* ---- metadata.  Running out of memory is remembered and reported by gguf_writer_begin. */

void gguf_write_u32(struct gguf_writer *writer, const char *key, uint32_t value);
void gguf_write_f32(struct gguf_writer *writer, const char *key, float value);
void gguf_write_bool(struct gguf_writer *writer, const char *key, bool value);
void gguf_write_string(struct gguf_writer *writer, const char *key, const char *text, size_t len_bytes);
/* gguf_write_array - an array of n STRING or INT32 elements, which must follow at once. */
void gguf_write_array(struct gguf_writer *writer, const char *key, enum gguf_type type, uint64_t n);
void gguf_write_element_string(struct gguf_writer *writer, const char *text, size_t len_bytes);
void gguf_write_element_i32(struct gguf_writer *writer, int32_t value);
/* gguf_write_keys_of - every key of another file, byte for byte and in its order, for which keep() says so. */
void gguf_write_keys_of(struct gguf_writer *writer, const struct gguf *from, bool (*keep)(struct gguf_text key));

/* ---- tensors */

/* gguf_write_tensor - the next tensor in the file's order, which is also that of its data.
 *   shape: outermost dimension first, 1 to 4 of them; rows are whole blocks of `type`, which GGUF knows.
 *   Errors: L4_E_INVALID (the name is taken, or longer than 63 bytes, which other engines refuse; a size that
 *   overflows), L4_E_NOMEM. */
int gguf_write_tensor(struct gguf_writer *writer, const char *name, enum dtype type, int n_dims, const int64_t *shape,
                      struct l4_err *err) L4_MUST_CHECK;

/* gguf_writer_begin - create the file, write its header, reserve room for all of it.
 *   *size_bytes (NULL is allowed): of the whole file.
 *   Errors: L4_E_NOT_FOUND (its directory), L4_E_IO (says how many bytes there is no room for), L4_E_NOMEM. */
int gguf_writer_begin(struct gguf_writer *writer, uint64_t *size_bytes, struct l4_err *err) L4_MUST_CHECK;

/* gguf_writer_put - n_bytes of the data of tensor number `tensor`, from byte `offset` of it on.  Any thread, after
 * begin; pieces in any order.  Errors: L4_E_IO. */
int gguf_writer_put(const struct gguf_writer *writer, size_t tensor, uint64_t offset, const void *bytes, size_t n_bytes,
                    struct l4_err *err) L4_MUST_CHECK;

/* gguf_writer_commit - all is written: to the disk with it, and under its name.
 *   Errors: L4_E_IO; L4_E_INVALID (a file has appeared there since, and overwrite is not set). */
int gguf_writer_commit(struct gguf_writer *writer, struct l4_err *err) L4_MUST_CHECK;

#endif
