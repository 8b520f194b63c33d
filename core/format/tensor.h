/* A tensor as it lies in a checkpoint: type, shape, borrowed bytes. */
#ifndef CORE_FORMAT_TENSOR_H
#define CORE_FORMAT_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(name, text in safetensors, bytes an element) */
#define DTYPES(X)                                                                                                      \
    X(F32, "F32", 4)                                                                                                   \
    X(F16, "F16", 2)                                                                                                   \
    X(BF16, "BF16", 2)                                                                                                 \
    X(F64, "F64", 8)                                                                                                   \
    X(I64, "I64", 8)                                                                                                   \
    X(I32, "I32", 4)                                                                                                   \
    X(I16, "I16", 2)                                                                                                   \
    X(I8, "I8", 1)                                                                                                     \
    X(U64, "U64", 8)                                                                                                   \
    X(U32, "U32", 4)                                                                                                   \
    X(U16, "U16", 2)                                                                                                   \
    X(U8, "U8", 1)                                                                                                     \
    X(BOOL, "BOOL", 1)                                                                                                 \
    X(F8_E4M3, "F8_E4M3", 1)                                                                                           \
    X(F8_E5M2, "F8_E5M2", 1)

/* F32, F16 and BF16 come first: kernels index tables by them. */
enum dtype {
#define X(name, text, size) DT_##name,
    DTYPES(X)
#undef X
        DT_COUNT
};
enum { DT_N_WEIGHT_TYPES = DT_BF16 + 1 };

enum { TENSOR_MAX_DIMS = 8 };

struct tensor {
    enum dtype type;
    int n_dims;
    int64_t shape[TENSOR_MAX_DIMS]; /* outermost first; row-major */
    const void *data;               /* borrowed; aligned to the element size */
    size_t size_bytes;
};

const char *dtype_name(enum dtype type); /* "F32", ... */
size_t dtype_size(enum dtype type);

static inline float bf16_to_f32(uint16_t bits) {
    union {
        uint32_t u;
        float f;
    } v = {.u = (uint32_t)bits << 16};
    return v.f;
}
/* f16_to_f32 - exact, subnormals and infinities included. */
float f16_to_f32(uint16_t bits);

#endif
