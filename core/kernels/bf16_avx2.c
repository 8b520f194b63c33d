/* Products with packed BF16 weights for AVX2.  Compiled with that instruction set switched on: nothing but
 * kernels_fill_bf16_avx2 may leave this file. */
#include "core/kernels/variants.h"

#if defined(__x86_64__)

#include "core/kernels/bf16_loops.h"

KERNELS_FILL_BF16(avx2)

#endif
