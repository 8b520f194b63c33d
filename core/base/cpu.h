/* What the processor has. */
#ifndef CORE_BASE_CPU_H
#define CORE_BASE_CPU_H

#include <stdbool.h>

struct cpu_features {
    bool avx2;         /* AVX2, FMA and F16C, usable under the running kernel */
    bool avx512;       /* AVX-512 F, BW, DQ and VL besides */
    bool avx512_vnni;  /* and VNNI */
    bool avx512_bf16;  /* and BF16 */
    bool avx_vnni;     /* AVX2 and VNNI on its registers */
    bool neon;         /* arm64 Advanced SIMD */
    bool neon_dotprod; /* and the dot products of int8 */
};

void cpu_features(struct cpu_features *features);

#endif
