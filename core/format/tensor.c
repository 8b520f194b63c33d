#include "core/format/tensor.h"

static const struct {
    const char *name;
    size_t size;
} DTYPE_INFO[DT_COUNT] = {
#define X(name, text, size) [DT_##name] = {text, size},
    DTYPES(X)
#undef X
};

const char *dtype_name(enum dtype type) {
    return DTYPE_INFO[type].name;
}

size_t dtype_size(enum dtype type) {
    return DTYPE_INFO[type].size;
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
