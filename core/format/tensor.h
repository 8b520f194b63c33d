/* A tensor as it lies in a checkpoint: type, shape, borrowed bytes. */
#ifndef CORE_FORMAT_TENSOR_H
#define CORE_FORMAT_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(name, text, elements a block, bytes a block, id in GGUF or -1).  A row of a block type is a whole number of blocks.
 */
#define DTYPES(X)                                                                                                      \
    X(F32, "F32", 1, 4, 0)                                                                                             \
    X(F16, "F16", 1, 2, 1)                                                                                             \
    X(BF16, "BF16", 1, 2, 30)                                                                                          \
    X(F64, "F64", 1, 8, 28)                                                                                            \
    X(I64, "I64", 1, 8, 27)                                                                                            \
    X(I32, "I32", 1, 4, 26)                                                                                            \
    X(I16, "I16", 1, 2, 25)                                                                                            \
    X(I8, "I8", 1, 1, 24)                                                                                              \
    X(U64, "U64", 1, 8, -1)                                                                                            \
    X(U32, "U32", 1, 4, -1)                                                                                            \
    X(U16, "U16", 1, 2, -1)                                                                                            \
    X(U8, "U8", 1, 1, -1)                                                                                              \
    X(BOOL, "BOOL", 1, 1, -1)                                                                                          \
    X(F8_E4M3, "F8_E4M3", 1, 1, -1)                                                                                    \
    X(F8_E5M2, "F8_E5M2", 1, 1, -1)                                                                                    \
    X(Q4_0, "Q4_0", 32, 18, 2)                                                                                         \
    X(Q4_1, "Q4_1", 32, 20, 3)                                                                                         \
    X(Q5_0, "Q5_0", 32, 22, 6)                                                                                         \
    X(Q5_1, "Q5_1", 32, 24, 7)                                                                                         \
    X(Q8_0, "Q8_0", 32, 34, 8)                                                                                         \
    X(Q2_K, "Q2_K", 256, 84, 10)                                                                                       \
    X(Q3_K, "Q3_K", 256, 110, 11)                                                                                      \
    X(Q4_K, "Q4_K", 256, 144, 12)                                                                                      \
    X(Q5_K, "Q5_K", 256, 176, 13)                                                                                      \
    X(Q6_K, "Q6_K", 256, 210, 14)                                                                                      \
    X(IQ4_NL, "IQ4_NL", 32, 18, 20)                                                                                    \
    X(IQ4_XS, "IQ4_XS", 256, 136, 23)                                                                                  \
    X(IQ2_XXS, "IQ2_XXS", 256, 66, 16)                                                                                 \
    X(IQ2_XS, "IQ2_XS", 256, 74, 17)                                                                                   \
    X(IQ2_S, "IQ2_S", 256, 82, 22)                                                                                     \
    X(IQ3_XXS, "IQ3_XXS", 256, 98, 18)                                                                                 \
    X(IQ3_S, "IQ3_S", 256, 110, 21)                                                                                    \
    X(IQ1_S, "IQ1_S", 256, 50, 19)                                                                                     \
    X(IQ1_M, "IQ1_M", 256, 56, 29)                                                                                     \
    X(MXFP4, "MXFP4", 32, 17, 39)

/* F32, F16 and BF16 come first: kernels index tables by them.  Block types come last. */
enum dtype {
#define X(name, text, elements, bytes, gguf_id) DT_##name,
    DTYPES(X)
#undef X
        DT_COUNT
};
enum { DT_N_WEIGHT_TYPES = DT_BF16 + 1, DT_FIRST_BLOCK_TYPE = DT_Q4_0 };

enum { TENSOR_MAX_DIMS = 8 };

struct tensor {
    enum dtype type;
    int n_dims;
    int64_t shape[TENSOR_MAX_DIMS]; /* outermost first; row-major */
    const void *data;               /* borrowed; aligned to the element size, block types to nothing */
    size_t size_bytes;
};

const char *dtype_name(enum dtype type); /* "F32", ... */
/* dtype_size - bytes an element; only of types that are stored element by element. */
size_t dtype_size(enum dtype type);
int64_t dtype_block_elements(enum dtype type);
size_t dtype_block_bytes(enum dtype type);
/* dtype_bytes - bytes of n elements, a whole number of blocks that is known to fit. */
size_t dtype_bytes(enum dtype type, int64_t n);
/* dtype_bytes_checked - the same of any n: false when it is negative, no whole number of blocks, or overflows. */
bool dtype_bytes_checked(enum dtype type, int64_t n, size_t *bytes);
/* dtype_is_weight - a type in which a matrix of weights may be stored: F32, F16, BF16 and the block types. */
bool dtype_is_weight(enum dtype type);
/* dtype_from_gguf - the type of a GGUF id; false if there is none. */
bool dtype_from_gguf(uint32_t id, enum dtype *type);

/* dtype_gguf_id - its id in GGUF; -1 where that has no such type. */
int dtype_gguf_id(enum dtype type);

/* tensor_elements - the product of the shape; 0 where there is no tensor. */
int64_t tensor_elements(const struct tensor *tensor);

static inline float bf16_to_f32(uint16_t bits) {
    union {
        uint32_t u;
        float f;
    } v = {.u = (uint32_t)bits << 16};
    return v.f;
}
/* f16_to_f32 - exact, subnormals and infinities included. */
float f16_to_f32(uint16_t bits);
/* f32_to_bf16 - the nearest, ties to even; NaN stays one. */
static inline uint16_t f32_to_bf16(float value) {
    union {
        float f;
        uint32_t u;
    } v = {.f = value};
    if ((v.u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(v.u >> 16 | 0x40u);
    return (uint16_t)((v.u + 0x7fffu + (v.u >> 16 & 1u)) >> 16);
}
/* f32_to_f16 - the nearest, ties to even; too large: infinity; NaN stays one. */
uint16_t f32_to_f16(float value);

#endif
