/* Products with packed BF16 weights for instruction sets without bf16 dot products: both elements of a pair are widened
 * in registers.  Written over vec.h; the file that includes this says KERNELS_FILL_BF16(name). */
#ifndef CORE_KERNELS_BF16_LOOPS_H
#define CORE_KERNELS_BF16_LOOPS_H

#include "core/kernels/simd_common.h"

#if defined(VEC_WIDTH)

#include "core/kernels/bf16_rows.h"
#include "core/kernels/packed.h"
#include "core/kernels/variants.h"

enum {
    BF16_VECTORS = PANEL_COLUMNS / WIDTH,
    BF16_HEIGHT = WIDTH == 16 ? TILE_ROWS : 4, /* rows of a register tile: sums and widened weights fit */
    BF16_PART_PAIRS = 256                      /* of K: what a panel has of it stays in the first-level cache */
};

/* One panel's part of K times a few rows, added to y. */
struct bf16_part {
    const uint32_t *w; /* [n_pairs][PANEL_COLUMNS] */
    int64_t n_pairs;
    const uint16_t *x;
    int64_t stride;
    float *y; /* column 0 of the panel, of which first..end-1 are wanted */
    int64_t ldy;
    int first, end;
    bool accumulate;
};

ALWAYS_INLINE void bf16_tile(const int rows, const struct bf16_part *p) {
    vf sums[BF16_HEIGHT][BF16_VECTORS];
    float row[PANEL_COLUMNS] = {0};
    for (int r = 0; r < rows; r++) {
        if (p->accumulate)
            memcpy(row + p->first, p->y + r * p->ldy + p->first, (size_t)(p->end - p->first) * sizeof *row);
        for (int v = 0; v < BF16_VECTORS; v++)
            sums[r][v] = vf_load(row + v * WIDTH);
    }
    for (int64_t i = 0; i < p->n_pairs; i++) {
        vf first[BF16_VECTORS], second[BF16_VECTORS];
        UNROLL
        for (int v = 0; v < BF16_VECTORS; v++) {
            const void *w = p->w + i * PANEL_COLUMNS + v * WIDTH;
            first[v] = vf_bf16_first(w);
            second[v] = vf_bf16_second(w);
        }
        UNROLL
        for (int r = 0; r < rows; r++) {
            const vf x0 = vf_set1(bf16_to_f32(p->x[r * p->stride + 2 * i]));
            const vf x1 = vf_set1(bf16_to_f32(p->x[r * p->stride + 2 * i + 1]));
            UNROLL
            for (int v = 0; v < BF16_VECTORS; v++)
                sums[r][v] = vf_fma(x0, first[v], vf_fma(x1, second[v], sums[r][v]));
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < BF16_VECTORS; v++)
            vf_store(row + v * WIDTH, sums[r][v]);
        memcpy(p->y + r * p->ldy + p->first, row + p->first, (size_t)(p->end - p->first) * sizeof *row);
    }
}

ALWAYS_INLINE void bf16_rows_part(struct bf16_part p, int64_t rows) {
    const struct row_tiles tiles = row_tiles(rows, BF16_HEIGHT);
    for (int64_t tile = 0; tile < tiles.n; tile++) {
        const int64_t height = tiles.height + (tile < tiles.higher);
        switch (height) {
#define X(n)                                                                                                           \
    case n:                                                                                                            \
        if (n <= BF16_HEIGHT)                                                                                          \
            bf16_tile(n <= BF16_HEIGHT ? n : 1, &p);                                                                   \
        break;
            FOR_EACH_HEIGHT(X)
#undef X
        }
        p.x += height * p.stride;
        p.y += height * p.ldy;
    }
}

static void qgemm_bf16(const struct matrix *w, int64_t n_begin, int64_t n_end, const struct quantized_rows *x,
                       int64_t row_begin, int64_t row_end, float *y, int64_t ldy, bool accumulate) {
    const int64_t n_pairs = (w->k + 1) / 2, stride = bf16_rows_stride(w->k);
    for (int64_t column = n_begin - n_begin % PANEL_COLUMNS; column < n_end; column += PANEL_COLUMNS)
        for (int64_t pair = 0; pair < n_pairs; pair += BF16_PART_PAIRS) {
            const struct bf16_part part = {
                .w = (const uint32_t *)w->data + column * n_pairs + pair * PANEL_COLUMNS,
                .n_pairs = min_i64(n_pairs - pair, BF16_PART_PAIRS),
                .x = (const uint16_t *)x->data + row_begin * stride + 2 * pair,
                .stride = stride,
                .y = y + row_begin * ldy + column,
                .ldy = ldy,
                .first = (int)(n_begin > column ? n_begin - column : 0),
                .end = (int)min_i64(n_end - column, PANEL_COLUMNS),
                .accumulate = accumulate || pair > 0,
            };
            bf16_rows_part(part, row_end - row_begin);
        }
}

#define KERNELS_FILL_BF16(set)                                                                                         \
    void kernels_fill_bf16_##set(struct kernels *table) {                                                              \
        table->round_rows = round_rows;                                                                                \
        table->qgemm[DT_BF16] = qgemm_bf16;                                                                            \
    }

#endif
#endif
