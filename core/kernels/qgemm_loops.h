/* The loops around the products of one expanded block, for the instruction sets that expand blocks to memory.  The file
 * that includes this has `add_block` and `add_part`, and then says QGEMM_OF_EVERY_TYPE. */
#ifndef CORE_KERNELS_QGEMM_LOOPS_H
#define CORE_KERNELS_QGEMM_LOOPS_H

#include "core/kernels/packed_expand.h"
#include "core/kernels/quantize_rows.h"
#include "core/kernels/variants.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

struct tile_sums {
    _Alignas(64) float part[QROWS_TILE][PANEL_COLUMNS]; /* of one part of K, without the row's scale */
    float whole[QROWS_TILE][PANEL_COLUMNS];
};

/* sums->part[r] += block b of the part */
ALWAYS_INLINE void add_block(enum dtype type, const struct expanded *block, const struct qrows_part *part, int b,
                             struct tile_sums *sums);
/* sums->whole[r] += sums->part[r] * the row's scale */
ALWAYS_INLINE void add_part(const struct qrows_part *part, struct tile_sums *sums);

ALWAYS_INLINE void panel_tile(enum dtype type, int64_t unit_blocks, int64_t block_bytes, const uint8_t *panel,
                              const struct quantized_rows *x, int64_t row, struct tile_sums *sums) {
    const int64_t blocks = x->k / PACKED_BLOCK;
    memset(sums->whole, 0, sizeof sums->whole);
    for (int64_t at = 0; at < blocks; at += QROWS_BLOCKS) {
        const struct qrows_part part = qrows_part(x, row, at / QROWS_BLOCKS);
        memset(sums->part, 0, sizeof sums->part);
        for (int64_t i = at; i < at + QROWS_BLOCKS && i < blocks; i++) {
            const int64_t first = i - i % unit_blocks;
            const int64_t n = blocks - first < unit_blocks ? blocks - first : unit_blocks;
            struct expanded block;
            expand_block(type, panel + first * block_bytes, n, (int)(i - first), &block);
            add_block(type, &block, &part, (int)(i - at), sums);
        }
        add_part(&part, sums);
    }
}

ALWAYS_INLINE void qgemm(enum dtype type, int64_t unit_blocks, int64_t block_bytes, const struct matrix *w,
                         int64_t n_begin, int64_t n_end, const struct quantized_rows *x, int64_t row_begin,
                         int64_t row_end, float *y, int64_t ldy, bool accumulate) {
    const size_t panel_bytes = packed_panel_bytes(type, w->k);
    for (int64_t row = row_begin; row < row_end; row += QROWS_TILE)
        for (int64_t column = n_begin - n_begin % PANEL_COLUMNS; column < n_end; column += PANEL_COLUMNS) {
            struct tile_sums sums;
            panel_tile(type, unit_blocks, block_bytes,
                       (const uint8_t *)w->data + (size_t)(column / PANEL_COLUMNS) * panel_bytes, x, row, &sums);
            for (int64_t r = 0; r < QROWS_TILE && row + r < row_end; r++)
                for (int64_t j = n_begin > column ? n_begin : column; j < column + PANEL_COLUMNS && j < n_end; j++) {
                    float *out = &y[(row + r) * ldy + j];
                    *out = accumulate ? sums.whole[r][j - column] + *out : sums.whole[r][j - column];
                }
        }
}

#define QGEMM_ENTRY(type, name, unit_blocks, block_bytes)                                                              \
    static void qgemm_##name(const struct matrix *w, int64_t n_begin, int64_t n_end, const struct quantized_rows *x,   \
                             int64_t row_begin, int64_t row_end, float *y, int64_t ldy, bool accumulate) {             \
        qgemm(DT_##type, unit_blocks, block_bytes, w, n_begin, n_end, x, row_begin, row_end, y, ldy, accumulate);      \
    }
#define QGEMM_FILL(type, name, unit_blocks, block_bytes) table->qgemm[DT_##type] = qgemm_##name;
#define QGEMM_OF_EVERY_TYPE                                                                                            \
    PACKED_TYPES(QGEMM_ENTRY)                                                                                          \
    static void fill_packed(struct kernels *table) {                                                                   \
        table->quantize_rows = quantize_rows;                                                                          \
        PACKED_TYPES(QGEMM_FILL)                                                                                       \
    }

#endif
