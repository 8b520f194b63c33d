/* Quantising: float32 to block types, for checkpoints that are quantised as they load and for files that are written.
 */
#ifndef CORE_FORMAT_QUANTIZE_H
#define CORE_FORMAT_QUANTIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/format/tensor.h"

/* quantize_has_type - Q8_0, Q4_0, Q4_K and Q6_K. */
bool quantize_has_type(enum dtype type);

/* quantize_row - dst = src in blocks of `type`, so that dequantize_row gives about src.  Pure: rows in any order, on
 * any thread.      src [n] f32, n a whole number of blocks; borrowed      dst [dtype_bytes(type, n)], caller's Q8_0,
 * Q4_0: scales as ggml's quantizer chooses them, bit for bit; the largest magnitude is met by -8 with Q4_0. Q4_K, Q6_K:
 * scale (and minimum) of each 32 (16) by a search for the least weighted squared error. Numbers that are not finite, or
 * beyond what a float16 scale reaches, give a block of some finite numbers. */
void quantize_row(enum dtype type, const float *src, void *dst, int64_t n);

#endif
