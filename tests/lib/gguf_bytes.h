/* GGUF files put together byte by byte, broken ones included. */
#ifndef TESTS_LIB_GGUF_BYTES_H
#define TESTS_LIB_GGUF_BYTES_H

#include <stdint.h>

#include "core/format/gguf.h"
#include "llama4/buf.h"

/* Appends fail the cmocka test that runs when out of memory. */
void gguf_put(struct l4_buf *out, uint64_t value, int n_bytes); /* little-endian */
void gguf_put_text(struct l4_buf *out, const char *text);
/* "GGUF", the version, the counts */
void gguf_put_header(struct l4_buf *out, uint32_t version, uint64_t n_tensors, uint64_t n_keys);
/* A key and its type; the value follows. */
void gguf_put_key(struct l4_buf *out, const char *key, uint32_t type);
void gguf_put_u32(struct l4_buf *out, const char *key, uint32_t value);
void gguf_put_f32(struct l4_buf *out, const char *key, float value);
void gguf_put_string(struct l4_buf *out, const char *key, const char *value);
/* A key and the head of its array; the elements follow. */
void gguf_put_array(struct l4_buf *out, const char *key, uint32_t element_type, uint64_t n);
/* A tensor's entry; dims [n_dims], innermost first. */
void gguf_put_tensor(struct l4_buf *out, const char *name, uint32_t n_dims, const uint64_t *dims, uint32_t type,
                     uint64_t offset);
/* Zeros up to a multiple of alignment, then n_bytes more. */
void gguf_put_zeros(struct l4_buf *out, size_t alignment, size_t n_bytes);

#endif
