/* The kernels for AVX2.  Compiled with that instruction set switched on: nothing but kernels_fill_avx2 may leave this
 * file. */
#include "core/kernels/variants.h"

#if defined(__x86_64__)

#include "core/kernels/simd_table.h"

#if VEC_WIDTH != 8
#error "compiled without the flags for AVX2"
#endif

void kernels_fill_avx2(struct kernels *table) {
    fill_table(table);
}

#endif
