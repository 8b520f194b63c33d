#include "core/format/tensor.h"

#include <assert.h>

#include "core/base/checked.h"

static const struct {
    const char *name;
    int64_t block_elements;
    size_t block_bytes;
    int gguf_id;
} DTYPE_INFO[DT_COUNT] = {
#define X(name, text, elements, bytes, gguf_id) [DT_##name] = {text, elements, bytes, gguf_id},
    DTYPES(X)
#undef X
};

const char *dtype_name(enum dtype type) {
    return DTYPE_INFO[type].name;
}

size_t dtype_size(enum dtype type) {
    assert(DTYPE_INFO[type].block_elements == 1);
    return DTYPE_INFO[type].block_bytes;
}

int64_t dtype_block_elements(enum dtype type) {
    return DTYPE_INFO[type].block_elements;
}

size_t dtype_block_bytes(enum dtype type) {
    return DTYPE_INFO[type].block_bytes;
}

size_t dtype_bytes(enum dtype type, int64_t n) {
    assert(n % DTYPE_INFO[type].block_elements == 0);
    return (size_t)(n / DTYPE_INFO[type].block_elements) * DTYPE_INFO[type].block_bytes;
}

bool dtype_bytes_checked(enum dtype type, int64_t n, size_t *bytes) {
    return n >= 0 && n % DTYPE_INFO[type].block_elements == 0 &&
           checked_mul_size((size_t)(n / DTYPE_INFO[type].block_elements), DTYPE_INFO[type].block_bytes, bytes);
}

bool dtype_is_weight(enum dtype type) {
    return (int)type < DT_N_WEIGHT_TYPES || (int)type >= DT_FIRST_BLOCK_TYPE;
}

bool dtype_from_gguf(uint32_t id, enum dtype *type) {
    for (int i = 0; i < DT_COUNT; i++)
        if (DTYPE_INFO[i].gguf_id >= 0 && (uint32_t)DTYPE_INFO[i].gguf_id == id) {
            *type = (enum dtype)i;
            return true;
        }
    return false;
}

int dtype_gguf_id(enum dtype type) {
    return DTYPE_INFO[type].gguf_id;
}

int64_t tensor_elements(const struct tensor *tensor) {
    int64_t n = tensor->data != NULL ? 1 : 0;
    for (int i = 0; i < tensor->n_dims; i++)
        n *= tensor->shape[i];
    return n;
}

float f16_to_f32(uint16_t bits) {
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    const uint32_t exponent = (bits >> 10) & 0x1fu;
    const uint32_t fraction = bits & 0x3ffu;
    union {
        uint32_t u;
        float f;
    } v;
    if (exponent == 0x1f) { /* infinity, NaN */
        v.u = sign | 0x7f800000u | fraction << 13;
    } else if (exponent != 0) {
        v.u = sign | (exponent + 127 - 15) << 23 | fraction << 13;
    } else { /* zero, subnormal: fraction * 2^-24 is exact in f32 */
        v.f = (float)fraction * 0x1p-24f;
        v.u |= sign;
    }
    return v.f;
}

uint16_t f32_to_f16(float value) {
    union {
        float f;
        uint32_t u;
    } v = {.f = value}, magnitude;
    const uint32_t sign = v.u >> 16 & 0x8000u;
    magnitude.u = v.u & 0x7fffffffu;
    if (magnitude.u > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (magnitude.f < 0x1p-14f) { /* subnormal: 2^-24 is the last bit of a number next to 0.5 */
        magnitude.f += 0.5f;
        return (uint16_t)(sign | (magnitude.u - 0x3f000000u));
    }
    magnitude.u += 0xfffu + (magnitude.u >> 13 & 1u); /* to the nearest in the upper bits */
    if (magnitude.u >= 0x47800000u)
        return (uint16_t)(sign | 0x7c00u);
    return (uint16_t)(sign | ((magnitude.u >> 13) - ((127u - 15u) << 10)));
}
