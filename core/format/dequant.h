/* What the stored types mean in float32. */
#ifndef CORE_FORMAT_DEQUANT_H
#define CORE_FORMAT_DEQUANT_H

#include <stdint.h>

#include "core/format/tensor.h"

/* dequantize_row - dst[i] = element i of src, for any type that dtype_is_weight.
 *   src: n elements, a whole number of blocks; block types need no alignment.      dst [n] f32, caller's
 *   Any bytes are a valid block: no index leaves its table.
 *   Source: the block layouts of the ggml library. */
void dequantize_row(enum dtype type, const void *src, float *dst, int64_t n);

#endif
