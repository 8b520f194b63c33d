/* The kernels for AVX-512.  Compiled with that instruction set switched on: nothing but kernels_fill_avx512 may leave
 * this file. */
#include "core/kernels/variants.h"

#if defined(__x86_64__)

#include "core/kernels/simd_table.h"

#if VEC_WIDTH != 16
#error "compiled without the flags for AVX-512"
#endif

void kernels_fill_avx512(struct kernels *table) {
    fill_table(table);
}

#endif
