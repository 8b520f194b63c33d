/* Products with packed BF16 weights for AVX-512 with BF16.  Compiled with that instruction set switched on: nothing but
 * kernels_fill_bf16_dpbf16 may leave this file.
 *
 * A register tile is TILE_HEIGHT rows by two panels; a pair of every row comes from memory to all lanes (= columns).
 * Parts of K in the outer loop: the two panels' share of one stays in the first-level cache while the rows pass, all
 * rows' share in the second-level cache while the panels pass.  Sums wait in y from one part to the next, so that every
 * output is one sequence of operations however it is cut. */
#include "core/kernels/variants.h"

#if defined(__x86_64__)

#include "core/kernels/bf16_rows.h"
#include "core/kernels/packed.h"
#include "core/kernels/simd_common.h"

#if !defined(__AVX512BF16__)
#error "compiled without the flags for AVX-512 BF16"
#endif

enum {
    MAX_PANELS = 2,
    TILE_HEIGHT = 12, /* 24 sums, two vectors of weights, one of x */
    PART_PAIRS = 256,
    PREFETCH_PAIRS = 32
};
/* One copy of a tile for each height: its sums must sit in registers. */
#define FOR_EACH_TILE_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#if defined(__clang__)
#define UNROLL_TILE _Pragma("clang loop unroll(full)")
#else
#define UNROLL_TILE _Pragma("GCC unroll 12")
#endif

/* Neighbouring panels' part of K times a few rows, added to y. */
struct part {
    const char *w[MAX_PANELS];
    const char *fetch[MAX_PANELS]; /* what to fetch meanwhile: as many lines as w has */
    int64_t n_pairs;
    const char *x;
    int64_t stride_bytes;
    float *y; /* column 0 of the first panel */
    int64_t ldy;
    __mmask16 mask[MAX_PANELS]; /* wanted columns */
    bool accumulate;
};

ALWAYS_INLINE __m512bh broadcast_pair(const char *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}

ALWAYS_INLINE void tile(const int rows, const int panels, const struct part *part) {
    __m512 sums[TILE_HEIGHT][MAX_PANELS];
    UNROLL_TILE
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < panels; p++) {
            const __mmask16 mask = part->accumulate ? part->mask[p] : 0;
            sums[r][p] = _mm512_maskz_loadu_ps(mask, part->y + r * part->ldy + p * PANEL_COLUMNS);
        }
    const char *x[(TILE_HEIGHT + 2) / 3]; /* of every third row; the two after it by the processor's addressing */
    for (int r = 0; r < rows; r += 3)
        x[r / 3] = part->x + r * part->stride_bytes;
    const int64_t stride = part->stride_bytes;
    for (int64_t i = 0; i < part->n_pairs; i++) {
        __m512bh w[MAX_PANELS];
        UNROLL_TILE
        for (int p = 0; p < panels; p++) {
            w[p] = (__m512bh)_mm512_loadu_si512(part->w[p] + i * PACKED_PAIRS_BYTES);
            _mm_prefetch(part->fetch[p] + i * PACKED_PAIRS_BYTES, _MM_HINT_T0);
        }
        UNROLL_TILE
        for (int r = 0; r < rows; r++) {
            const __m512bh pair = broadcast_pair(x[r / 3] + r % 3 * stride + 4 * i);
            UNROLL_TILE
            for (int p = 0; p < panels; p++)
                sums[r][p] = _mm512_dpbf16_ps(sums[r][p], w[p], pair);
        }
    }
    UNROLL_TILE
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < panels; p++)
            _mm512_mask_storeu_ps(part->y + r * part->ldy + p * PANEL_COLUMNS, part->mask[p], sums[r][p]);
}

ALWAYS_INLINE void tile_of_height(int64_t rows, const int panels, const struct part *part) {
    switch (rows) {
#define X(n)                                                                                                           \
    case n:                                                                                                            \
        tile(n, panels, part);                                                                                         \
        break;
        FOR_EACH_TILE_HEIGHT(X)
#undef X
    }
}

/* All rows of one part.  What comes next is fetched beside the first tiles, one panel each. */
ALWAYS_INLINE void part_rows(struct part part, int64_t rows, const char *const next[MAX_PANELS]) {
    const struct row_tiles tiles = row_tiles(rows, TILE_HEIGHT);
    for (int64_t t = 0; t < tiles.n; t++) {
        const int64_t height = tiles.height + (t < tiles.higher);
        const bool alone = tiles.n == 1;
        for (int p = 0; p < MAX_PANELS; p++)
            part.fetch[p] = alone || t == p ? next[p] : part.w[p];
        if (part.mask[1])
            tile_of_height(height, MAX_PANELS, &part);
        else
            tile_of_height(height, 1, &part);
        part.x += height * part.stride_bytes;
        part.y += height * part.ldy;
    }
}

ALWAYS_INLINE __mmask16 wanted(int64_t column, int64_t n_begin, int64_t n_end) {
    const int64_t first = n_begin > column ? n_begin - column : 0;
    const int64_t end = min_i64(n_end - column, PANEL_COLUMNS);
    return end > 0 ? (__mmask16)(((1u << end) - 1) & ~((1u << first) - 1)) : 0;
}

static void qgemm_bf16(const struct matrix *w, int64_t n_begin, int64_t n_end, const struct quantized_rows *x,
                       int64_t row_begin, int64_t row_end, float *y, int64_t ldy, bool accumulate) {
    enum { STEP = MAX_PANELS * PANEL_COLUMNS };
    const int64_t n_pairs = (w->k + 1) / 2, panel_bytes = n_pairs * PACKED_PAIRS_BYTES;
    const int64_t stride_bytes = bf16_rows_stride(w->k) * (int64_t)sizeof(uint16_t), rows = row_end - row_begin;
    const int64_t begin = n_begin - n_begin % PANEL_COLUMNS, part_pairs = rows <= TILE_HEIGHT ? n_pairs : PART_PAIRS;
    for (int64_t pair = 0; pair < n_pairs; pair += part_pairs)
        for (int64_t column = begin; column < n_end; column += STEP) {
            struct part part = {
                .n_pairs = min_i64(n_pairs - pair, part_pairs),
                .x = (const char *)x->data + row_begin * stride_bytes + 4 * pair,
                .stride_bytes = stride_bytes,
                .y = y + row_begin * ldy + column,
                .ldy = ldy,
                .accumulate = accumulate || pair > 0,
            };
            const char *next[MAX_PANELS];
            for (int p = 0; p < MAX_PANELS; p++) {
                const int64_t panel = column / PANEL_COLUMNS + p;
                part.mask[p] = wanted(panel * PANEL_COLUMNS, n_begin, n_end);
                part.w[p] = (const char *)w->data + panel * panel_bytes + pair * PACKED_PAIRS_BYTES;
                next[p] = rows <= TILE_HEIGHT     ? part.w[p] + PREFETCH_PAIRS * PACKED_PAIRS_BYTES
                          : column + STEP < n_end ? part.w[p] + MAX_PANELS * panel_bytes
                                                  : (const char *)w->data + (begin / PANEL_COLUMNS + p) * panel_bytes +
                                                        (pair + part_pairs) * PACKED_PAIRS_BYTES;
            }
            part_rows(part, rows, next);
        }
}

void kernels_fill_bf16_dpbf16(struct kernels *table) {
    table->round_rows = round_rows;
    table->qgemm[DT_BF16] = qgemm_bf16;
}

#endif
