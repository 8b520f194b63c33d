/* Products with [out, in] matrices over vec.h: the lanes run along K.  Every output has four partial sums, by fused
 * multiply-adds: partial l takes k = l, l + 4, ... in that order; then (0 + 1) + (2 + 3).  A vector holds the partial
 * sums of QUADS columns.  All instruction sets thus give the same bits.
 *
 * Between two blocks of K the partial sums stand in scratch, exactly.  Few rows read the weights where they lie: memory
 * is the limit.  More rows work on blocks: a block of weights is widened and packed once, in the order of reading. */
#ifndef CORE_KERNELS_SIMD_DOT_H
#define CORE_KERNELS_SIMD_DOT_H

#include "core/kernels/simd_common.h"

#if defined(VEC_WIDTH)

enum {
    PARTIALS = 4,
    QUADS = WIDTH / PARTIALS,
    /* A register tile is DOT_ROWS x DOT_VECTORS vectors of partial sums; with the weights of one step and a value of x
     * it fills the registers, 16 with AVX2, else 32.  Column PARTIALS * q + v is quarter q of vector v. */
    DOT_ROWS = WIDTH == 8 ? 3 : 6,
    DOT_VECTORS = 4,
    DOT_COLUMNS = DOT_VECTORS * QUADS,
    /* Storing partial sums between two blocks of K takes as long as some 13 elements of K.  A wide tile reads so little
     * of x for its work that it may come from the last cache: one group of columns at a time, and many K.  A narrow one
     * wants x in the second-level cache, and uses it for several groups. */
    DOT_BLOCK_ROWS = 192,
    DOT_BLOCK_COLUMNS = WIDTH == 16 ? DOT_COLUMNS : 64,
    DOT_BLOCK_K = WIDTH == 16 ? 2048 : 384,
    DOT_SUMS = DOT_VECTORS * WIDTH /* floats that hold the partial sums of one row by DOT_COLUMNS */
};
_Static_assert((int)DOT_VECTORS == (int)PARTIALS, "the sums of a row of a tile are one vector");
_Static_assert((DOT_BLOCK_ROWS * DOT_BLOCK_COLUMNS * PARTIALS + DOT_BLOCK_COLUMNS * DOT_BLOCK_K) * 4 <=
                   KERNEL_SCRATCH_BYTES,
               "partial sums and the packed block fit in scratch");

/* Rows of weights of one group of columns: a group at the edge repeats the last row, and its results are thrown away.
 */
ALWAYS_INLINE void dot_group(enum dtype type, const struct matrix *w, int64_t j, int64_t n_end, int64_t k,
                             const void *group[DOT_COLUMNS]) {
    for (int c = 0; c < DOT_COLUMNS; c++)
        group[c] = weight_at(type, w->data, min_i64(j + c, n_end - 1) * w->stride + k);
}

/* steps[i] = for each column of vector v its weights k + 4 i ... k + 4 i + 3; those from k + n on are 0 */
ALWAYS_INLINE void dot_load(enum dtype type, const void *const group[DOT_COLUMNS], int v, int64_t k, int64_t n,
                            vf steps[QUADS]) {
    const void *rows[QUADS];
    UNROLL
    for (int q = 0; q < QUADS; q++)
        rows[q] = weight_at(type, group[PARTIALS * q + v], k);
    if (n >= WIDTH && type == DT_F32) {
        vf_load_quads(rows, steps);
    } else if (n >= WIDTH && type == DT_BF16) {
        vf_load_quads_bf16(rows, steps);
    } else {
        UNROLL
        for (int q = 0; q < QUADS; q++)
            steps[q] = weight_load_some(type, rows[q], n);
        vf_transpose_quads(steps);
    }
}

/* y[r][0..n-1] = sums (+ y) */
ALWAYS_INLINE void dot_finish(const int rows, vf acc[DOT_ROWS][DOT_VECTORS], float *y, int64_t ldy, int64_t n,
                              bool accumulate) {
    UNROLL
    for (int r = 0; r < rows; r++) {
        const vf sums = vf_sum_quads(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
        vf_store_some(y + r * ldy, accumulate ? vf_add(sums, vf_load_some(y + r * ldy, n)) : sums, n);
    }
}

/* ---- few rows ---- */

struct dot_few {
    const void *group[DOT_COLUMNS];
    int64_t next_bytes; /* to the next group, which is fetched ahead; 0 if there is none */
    int64_t k;
    const float *x;
    int64_t ldx;
    float *y;
    int64_t ldy, columns;
    bool accumulate;
};

ALWAYS_INLINE void dot_few_tile(const int rows, enum dtype type, const struct dot_few *s) {
    vf acc[DOT_ROWS][DOT_VECTORS], steps[QUADS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < DOT_VECTORS; v++)
            acc[r][v] = vf_zero();
    }
    int64_t k = 0;
    for (; k + WIDTH <= s->k; k += WIDTH) {
        UNROLL
        for (int v = 0; v < DOT_VECTORS; v++) {
            if (k * weight_bytes(type) % FETCH_LINE_BYTES == 0) {
                UNROLL
                for (int q = 0; q < QUADS; q++)
                    __builtin_prefetch((const char *)weight_at(type, s->group[PARTIALS * q + v], k) + s->next_bytes, 0,
                                       2);
            }
            dot_load(type, s->group, v, k, WIDTH, steps);
            UNROLL
            for (int i = 0; i < QUADS; i++) {
                UNROLL
                for (int r = 0; r < rows; r++)
                    acc[r][v] = vf_fma(vf_quad(s->x + r * s->ldx + k + i * PARTIALS), steps[i], acc[r][v]);
            }
        }
    }
    UNROLL
    for (int v = 0; v < DOT_VECTORS; v++) {
        if (k == s->k)
            break;
        dot_load(type, s->group, v, k, s->k - k, steps);
        UNROLL
        for (int i = 0; i < QUADS; i++) {
            const int64_t left = s->k - k - i * PARTIALS;
            UNROLL
            for (int r = 0; r < rows; r++) {
                if (left > 0)
                    acc[r][v] = vf_fma(vf_quad_some(s->x + r * s->ldx + k + i * PARTIALS, left), steps[i], acc[r][v]);
            }
        }
    }
    dot_finish(rows, acc, s->y, s->ldy, s->columns, s->accumulate);
}

ALWAYS_INLINE void dot_few_tile_of_height(int64_t rows, enum dtype type, const struct dot_few *few) {
    switch (rows) {
#define X(n)                                                                                                           \
    case n:                                                                                                            \
        if (n <= DOT_ROWS)                                                                                             \
            dot_few_tile(n <= DOT_ROWS ? n : 1, type, few);                                                            \
        break;
        FOR_EACH_HEIGHT(X)
#undef X
    }
}

/* Up to TILE_ROWS rows; where a register tile has fewer, the second one finds the weights in the cache. */
ALWAYS_INLINE void dot_few(enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x,
                           int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate) {
    const struct row_tiles tiles = row_tiles(m, DOT_ROWS);
    struct dot_few few = {.k = w->k, .ldx = ldx, .ldy = ldy, .accumulate = accumulate};
    for (int64_t j = n_begin; j < n_end; j += DOT_COLUMNS) {
        dot_group(type, w, j, n_end, 0, few.group);
        few.next_bytes = j + DOT_COLUMNS < n_end ? DOT_COLUMNS * w->stride * weight_bytes(type) : 0;
        few.columns = min_i64(n_end - j, DOT_COLUMNS);
        for (int64_t tile = 0, row = 0; tile < tiles.n; tile++) {
            const int64_t height = tiles.height + (tile < tiles.higher);
            few.x = x + row * ldx;
            few.y = y + row * ldy + j;
            dot_few_tile_of_height(height, type, &few);
            row += height;
        }
    }
}

/* ---- many rows ---- */

/* [ceil(k / 4)][DOT_VECTORS][WIDTH] of one group of columns */
ALWAYS_INLINE void dot_pack(enum dtype type, const void *const group[DOT_COLUMNS], int64_t k, float *packed) {
    vf steps[QUADS];
    int64_t at = 0;
    for (; at + WIDTH <= k; at += WIDTH, packed += QUADS * DOT_SUMS) {
        UNROLL
        for (int v = 0; v < DOT_VECTORS; v++) {
            dot_load(type, group, v, at, WIDTH, steps);
            UNROLL
            for (int i = 0; i < QUADS; i++)
                vf_store(packed + i * DOT_SUMS + v * WIDTH, steps[i]);
        }
    }
    for (int v = 0; v < DOT_VECTORS && at < k; v++) {
        dot_load(type, group, v, at, k - at, steps);
        for (int i = 0; i < QUADS && at + i * PARTIALS < k; i++)
            vf_store(packed + i * DOT_SUMS + v * WIDTH, steps[i]);
    }
}

/* A tile of rows by a group of columns, for one block of K. */
struct dot_tile {
    const float *x, *w; /* w packed */
    int64_t ldx, k;
    float *sums; /* [rows][DOT_SUMS]: where the partial sums stand between two blocks of K */
    bool first, last;
    float *y;
    int64_t ldy, columns;
    bool accumulate;
    struct fetch *fetch;
};

ALWAYS_INLINE void dot_tile(const int rows, const struct dot_tile *s) {
    const float *x = s->x, *w = s->w;
    const int64_t ldx = s->ldx;
    vf acc[DOT_ROWS][DOT_VECTORS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < DOT_VECTORS; v++)
            acc[r][v] = s->first ? vf_zero() : vf_load(s->sums + r * DOT_SUMS + v * WIDTH);
    }
    for (int64_t left = s->k / PARTIALS; left > 0; left -= FETCH_STEPS) {
        fetch_step(s->fetch);
        for (int64_t i = min_i64(left, FETCH_STEPS); i > 0; i--, x += PARTIALS, w += DOT_SUMS) {
            vf ws[DOT_VECTORS];
            UNROLL
            for (int v = 0; v < DOT_VECTORS; v++)
                ws[v] = vf_load(w + v * WIDTH);
            UNROLL
            for (int r = 0; r < rows; r++) {
                const vf xs = vf_quad(x + r * ldx);
                UNROLL
                for (int v = 0; v < DOT_VECTORS; v++)
                    acc[r][v] = vf_fma(xs, ws[v], acc[r][v]);
            }
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        if (s->k % PARTIALS == 0)
            break;
        const vf xs = vf_quad_some(x + r * ldx, s->k % PARTIALS);
        UNROLL
        for (int v = 0; v < DOT_VECTORS; v++)
            acc[r][v] = vf_fma(xs, vf_load(w + v * WIDTH), acc[r][v]);
    }
    if (s->last) {
        dot_finish(rows, acc, s->y, s->ldy, s->columns, s->accumulate);
        return;
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < DOT_VECTORS; v++)
            vf_store(s->sums + r * DOT_SUMS + v * WIDTH, acc[r][v]);
    }
}

static void dot_tile_of_height(int64_t rows, const struct dot_tile *tile) {
    switch (rows) {
#define X(n)                                                                                                           \
    case n:                                                                                                            \
        if (n <= DOT_ROWS)                                                                                             \
            dot_tile(n <= DOT_ROWS ? n : 1, tile);                                                                     \
        break;
        FOR_EACH_HEIGHT(X)
#undef X
    }
}

/* What follows the block of K that starts at k: the next one, or the first one of the next columns. */
ALWAYS_INLINE struct fetch dot_next_block(enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end,
                                          int64_t n_limit, const float *x, int64_t ldx, int64_t m, int64_t k) {
    const bool same_columns = k + DOT_BLOCK_K < w->k;
    const int64_t first = same_columns ? n_begin : n_end;
    const int64_t columns = same_columns ? n_end - n_begin : min_i64(n_limit - n_end, DOT_BLOCK_COLUMNS);
    const int64_t from = same_columns ? k + DOT_BLOCK_K : 0, depth = min_i64(w->k - from, DOT_BLOCK_K);
    return (struct fetch){
        .w = {weight_at(type, w->data, first * w->stride + from), depth * weight_bytes(type),
              w->stride * weight_bytes(type), columns, 0},
        .x = {(const char *)(x + from), depth * (int64_t)sizeof *x, ldx * (int64_t)sizeof *x, columns > 0 ? m : 0, 0}};
}

/* A block of rows by a block of columns, all of K.  n_limit: where the columns of the whole call end. */
ALWAYS_INLINE void dot_block(enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end, int64_t n_limit,
                             const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate,
                             float *scratch) {
    float *const packed = scratch + DOT_BLOCK_ROWS * DOT_BLOCK_COLUMNS * PARTIALS;
    const struct row_tiles tiles = row_tiles(m, DOT_ROWS);
    const int64_t groups = (n_end - n_begin + DOT_COLUMNS - 1) / DOT_COLUMNS;
    for (int64_t k = 0; k < w->k; k += DOT_BLOCK_K) {
        const int64_t depth = min_i64(w->k - k, DOT_BLOCK_K), steps = (depth + PARTIALS - 1) / PARTIALS;
        for (int64_t g = 0; g < groups; g++) {
            const void *group[DOT_COLUMNS];
            dot_group(type, w, n_begin + g * DOT_COLUMNS, n_end, k, group);
            dot_pack(type, group, depth, packed + g * steps * DOT_SUMS);
        }
        struct fetch fetch = {0};
        if (m <= FETCH_MAX_ROWS)
            fetch = dot_next_block(type, w, n_begin, n_end, n_limit, x, ldx, m, k);
        fetch_plan(&fetch, tiles.n * groups * ((steps + FETCH_STEPS - 1) / FETCH_STEPS));
        struct dot_tile tile = {.ldx = ldx,
                                .k = depth,
                                .sums = scratch,
                                .first = k == 0,
                                .last = k + depth == w->k,
                                .ldy = ldy,
                                .accumulate = accumulate,
                                .fetch = &fetch};
        for (int64_t g = 0; g < groups; g++) { /* a group's weights stay cached for all rows */
            const int64_t j = n_begin + g * DOT_COLUMNS;
            tile.w = packed + g * steps * DOT_SUMS;
            tile.columns = min_i64(n_end - j, DOT_COLUMNS);
            tile.x = x + k;
            tile.y = y + j;
            for (int64_t t = 0; t < tiles.n; t++) {
                const int64_t height = tiles.height + (t < tiles.higher);
                dot_tile_of_height(height, &tile);
                tile.x += height * ldx;
                tile.y += height * ldy;
                tile.sums += height * DOT_SUMS;
            }
        }
    }
}

ALWAYS_INLINE void gemm_dot(enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x,
                            int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate, void *scratch) {
    if (m <= 0 || n_begin >= n_end)
        return;
    if (w->k == 0) {
        for (int64_t i = 0; i < m && !accumulate; i++)
            memset(y + i * ldy + n_begin, 0, (size_t)(n_end - n_begin) * sizeof *y);
        return;
    }
    if (m <= TILE_ROWS) {
        dot_few(type, w, n_begin, n_end, x, ldx, m, y, ldy, accumulate);
        return;
    }
    for (int64_t i = 0; i < m; i += DOT_BLOCK_ROWS)
        for (int64_t j = n_begin; j < n_end; j += DOT_BLOCK_COLUMNS)
            dot_block(type, w, j, min_i64(j + DOT_BLOCK_COLUMNS, n_end), n_end, x + i * ldx, ldx,
                      min_i64(m - i, DOT_BLOCK_ROWS), y + i * ldy, ldy, accumulate, scratch);
}

#endif
#endif
