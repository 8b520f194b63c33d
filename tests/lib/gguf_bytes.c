#include "tests/lib/gguf_bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

static void append(struct l4_buf *out, const void *bytes, size_t n) {
    l4_buf_append(out, bytes, n);
    assert_false(out->failed);
}

void gguf_put(struct l4_buf *out, uint64_t value, int n_bytes) {
    unsigned char bytes[8];
    for (int i = 0; i < n_bytes; i++)
        bytes[i] = (unsigned char)(value >> 8 * i);
    append(out, bytes, (size_t)n_bytes);
}

void gguf_put_text(struct l4_buf *out, const char *text) {
    gguf_put(out, strlen(text), 8);
    append(out, text, strlen(text));
}

void gguf_put_header(struct l4_buf *out, uint32_t version, uint64_t n_tensors, uint64_t n_keys) {
    append(out, "GGUF", 4);
    gguf_put(out, version, 4);
    gguf_put(out, n_tensors, 8);
    gguf_put(out, n_keys, 8);
}

void gguf_put_key(struct l4_buf *out, const char *key, uint32_t type) {
    gguf_put_text(out, key);
    gguf_put(out, type, 4);
}

void gguf_put_u32(struct l4_buf *out, const char *key, uint32_t value) {
    gguf_put_key(out, key, GGUF_UINT32);
    gguf_put(out, value, 4);
}

void gguf_put_f32(struct l4_buf *out, const char *key, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    gguf_put_key(out, key, GGUF_FLOAT32);
    gguf_put(out, bits, 4);
}

void gguf_put_string(struct l4_buf *out, const char *key, const char *value) {
    gguf_put_key(out, key, GGUF_STRING);
    gguf_put_text(out, value);
}

void gguf_put_array(struct l4_buf *out, const char *key, uint32_t element_type, uint64_t n) {
    gguf_put_key(out, key, GGUF_ARRAY);
    gguf_put(out, element_type, 4);
    gguf_put(out, n, 8);
}

void gguf_put_tensor(struct l4_buf *out, const char *name, uint32_t n_dims, const uint64_t *dims, uint32_t type,
                     uint64_t offset) {
    gguf_put_text(out, name);
    gguf_put(out, n_dims, 4);
    for (uint32_t i = 0; i < n_dims; i++)
        gguf_put(out, dims[i], 8);
    gguf_put(out, type, 4);
    gguf_put(out, offset, 8);
}

void gguf_put_zeros(struct l4_buf *out, size_t alignment, size_t n_bytes) {
    size_t n = (alignment - out->len % alignment) % alignment + n_bytes;
    while (n-- > 0)
        gguf_put(out, 0, 1);
}
