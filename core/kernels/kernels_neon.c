/* The kernels for NEON.  Compiled with that instruction set switched on: nothing but kernels_fill_neon may leave this
 * file. */
#include "core/kernels/variants.h"

#if defined(__aarch64__)

#include "core/kernels/simd_table.h"

#if VEC_WIDTH != 4
#error "compiled without the flags for NEON"
#endif

void kernels_fill_neon(struct kernels *table) {
    fill_table(table);
}

#endif
