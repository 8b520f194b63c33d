/* Packed weights: matrices in the order in which the integer and the bf16 kernels read them.
 *
 * A panel is 16 columns (outputs) for all of K, panels one after the other; missing columns of the last panel are 0.
 * BF16: vectors of [16 columns][2 elements], "pairs"; what an odd K lacks is 0.
 * In a panel of a block type, K is cut into units of 128 (Q4_0, Q8_0, MXFP4; the last may be 32, 64 or 96) or 256
 * elements (the K types, IQ4_XS), each cut into blocks of 32.  A block's values come as vectors of [16 columns][4
 * elements], "groups" (Q8_0: eight vectors, groups 0..7, value + 128; 4-bit types: four vectors, vector i holds groups
 * i, low halves, and i + 4; Q5_K, Q6_K: the high bits behind all low ones, a byte holding those of several groups, the
 * first lowest), then the unit's scales, 16 columns side by side.  As many bytes as in GGUF, but for Q6_K's (1% more:
 * 64-byte units). */
#ifndef CORE_KERNELS_PACKED_H
#define CORE_KERNELS_PACKED_H

#include "core/kernels/kernels.h"

enum {
    PANEL_COLUMNS = 16,
    PACKED_BLOCK = 32,
    PACKED_GROUP = 4,
    PACKED_GROUPS = PACKED_BLOCK / PACKED_GROUP,
    PACKED_GROUP_BYTES = PANEL_COLUMNS * PACKED_GROUP,
    PACKED_PAIRS_BYTES = PANEL_COLUMNS * 2 * 2, /* of one pair of all columns: BF16 */
    PACKED_ALIGNMENT = 64
};

/* packed_has_type - can matrices of this type be packed (and are there kernels for them)? */
bool packed_has_type(enum dtype type);
/* packed_panel_bytes - of one panel of k elements, whole blocks of the type; a multiple of PACKED_ALIGNMENT. */
size_t packed_panel_bytes(enum dtype type, int64_t k);
/* packed_bytes - of a matrix; false when k is no whole number of blocks or the size overflows. */
bool packed_bytes(enum dtype type, int64_t n, int64_t k, size_t *bytes);

/* pack_panel - one panel from up to 16 rows of a checkpoint; pure: panels may be packed in any order, on any thread.
 *   rows: n_columns rows of k elements in blocks of `type`, row_bytes apart, no alignment needed
 *   panel [packed_panel_bytes(type, k)], caller's, PACKED_ALIGNMENT-aligned; wholly written */
void pack_panel(enum dtype type, const void *rows, size_t row_bytes, int n_columns, int64_t k, void *panel);

/* pack_panels_in_out - the same of BF16 where a row is one input's weights: n_columns neighbouring columns to
 * ceil(n_columns / 16) panels.  32 columns or more use whole cache lines.
 *   rows: [k] rows of n_columns elements, row_bytes apart, aligned to an element */
void pack_panels_in_out(const uint16_t *rows, size_t row_bytes, int64_t n_columns, int64_t k, void *panels);

/* packed_widen - dst[j * stride + i] = w(column + j, k + i), j < n_columns, i < n; as dequantize_row has them, to f32
 * rounding.  column, k: multiples of 16 and of 32. */
void packed_widen(const struct matrix *w, int64_t column, int64_t n_columns, int64_t k, int64_t n, float *dst,
                  int64_t stride);

#endif
