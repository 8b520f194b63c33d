/* Products with packed BF16 weights for NEON.  Compiled with that instruction set switched on: nothing but
 * kernels_fill_bf16_neon may leave this file. */
#include "core/kernels/variants.h"

#if defined(__aarch64__)

#include "core/kernels/bf16_loops.h"

KERNELS_FILL_BF16(neon)

#endif
