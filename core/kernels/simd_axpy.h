/* Products with [in, out] matrices over vec.h: the lanes are columns, every output is one sum in the order of k, by
 * fused multiply-adds.  Between two blocks of K it stands in y.
 *
 * Few rows read the weights where they lie: memory is the limit.  More rows work on blocks: a block of weights is
 * widened and packed once, in the order of reading, for all rows. */
#ifndef CORE_KERNELS_SIMD_AXPY_H
#define CORE_KERNELS_SIMD_AXPY_H

#include "core/kernels/simd_common.h"

#if defined(VEC_WIDTH)

enum {
    /* A register tile is TILE_ROWS x AXPY_VECTORS vectors of sums; with those of one row of weights and a value of x it
     * fills the registers, 16 with AVX2, else 32. */
    AXPY_VECTORS = WIDTH == 8 ? 2 : 4,
    AXPY_COLUMNS = AXPY_VECTORS * WIDTH,
    AXPY_BLOCK_ROWS = 512,
    AXPY_BLOCK_COLUMNS = 256,
    AXPY_BLOCK_K = 256,
    AXPY_NARROW_COLUMNS = 128, /* up to here a few rows' sums stay in registers for all of K */
    NARROW_AHEAD_BYTES = 2048, /* fetched ahead there: keys and values come from memory, a few KiB in a run */
    AXPY_STREAM_K = 8,         /* rows of weights read side by side */
    AXPY_STREAM_COLUMNS = 8192 /* of y, all rows together: about the first-level cache */
};
_Static_assert(AXPY_BLOCK_COLUMNS *AXPY_BLOCK_K * 4 <= KERNEL_SCRATCH_BYTES, "the packed block fits in scratch");

/* y[r][0..n-1] += sum over u < depth of x[r][u] * w[u][0..n-1], for one vector of columns */
ALWAYS_INLINE void axpy_vector(const int rows, const int depth, enum dtype type, const void *w, int64_t stride,
                               const float *x, int64_t ldx, float *y, int64_t ldy, int64_t n) {
    vf acc[TILE_ROWS];
    UNROLL
    for (int r = 0; r < rows; r++)
        acc[r] = vf_load_some(y + r * ldy, n);
    for (int u = 0; u < depth; u++) {
        const vf weights = weight_load_some(type, weight_at(type, w, u * stride), n);
        UNROLL
        for (int r = 0; r < rows; r++)
            acc[r] = vf_fma(vf_set1(x[r * ldx + u]), weights, acc[r]);
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        vf_store_some(y + r * ldy, acc[r], n);
}

/* `depth` rows of weights side by side, in runs as long as the columns */
ALWAYS_INLINE void axpy_rows(const int rows, const int depth, enum dtype type, const void *w, int64_t stride,
                             int64_t columns, const float *x, int64_t ldx, float *y, int64_t ldy, bool more) {
    int64_t j = 0;
    for (; j + WIDTH <= columns; j += WIDTH) {
        for (int u = 0; u < depth && more; u++)
            __builtin_prefetch(weight_at(type, w, (depth + u) * stride + j), 0, 2);
        axpy_vector(rows, depth, type, weight_at(type, w, j), stride, x, ldx, y + j, ldy, WIDTH);
    }
    if (j < columns)
        axpy_vector(rows, depth, type, weight_at(type, w, j), stride, x, ldx, y + j, ldy, columns - j);
}

ALWAYS_INLINE void axpy_direct(const int rows, enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end,
                               const float *x, int64_t ldx, float *y, int64_t ldy) {
    for (int64_t j = n_begin; j < n_end; j += AXPY_STREAM_COLUMNS / rows) {
        const int64_t columns = min_i64(n_end - j, AXPY_STREAM_COLUMNS / rows);
        int64_t k = 0;
        for (; k + AXPY_STREAM_K <= w->k; k += AXPY_STREAM_K)
            axpy_rows(rows, AXPY_STREAM_K, type, weight_at(type, w->data, k * w->stride + j), w->stride, columns, x + k,
                      ldx, y + j, ldy, k + 2 * AXPY_STREAM_K <= w->k);
        for (; k < w->k; k++)
            axpy_rows(rows, 1, type, weight_at(type, w->data, k * w->stride + j), w->stride, columns, x + k, ldx, y + j,
                      ldy, false);
    }
}

/* `vectors` vectors of columns from the first k to the last, the sums in registers; the last vector holds `last` of
 * them. */
ALWAYS_INLINE void axpy_narrow_tile(const int rows, const int vectors, enum dtype type, const void *w, int64_t stride,
                                    int64_t k, const float *x, int64_t ldx, float *y, int64_t ldy, int64_t last) {
    vf acc[TILE_ROWS][AXPY_VECTORS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++)
            acc[r][v] = vf_load_some(y + r * ldy + v * WIDTH, v + 1 < vectors ? WIDTH : last);
    }
    for (int64_t at = 0; at < k; at++, w = weight_at(type, w, stride)) {
        vf ws[AXPY_VECTORS];
        UNROLL
        for (int v = 0; v < vectors; v++) {
            __builtin_prefetch((const char *)weight_at(type, w, v * WIDTH) + NARROW_AHEAD_BYTES);
            ws[v] = weight_load_some(type, weight_at(type, w, v * WIDTH), v + 1 < vectors ? WIDTH : last);
        }
        UNROLL
        for (int r = 0; r < rows; r++) {
            const vf xs = vf_set1(x[r * ldx + at]);
            UNROLL
            for (int v = 0; v < vectors; v++)
                acc[r][v] = vf_fma(xs, ws[v], acc[r][v]);
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++)
            vf_store_some(y + r * ldy + v * WIDTH, acc[r][v], v + 1 < vectors ? WIDTH : last);
    }
}

/* Few rows by few columns, as attention has them: nothing is packed, and no sum leaves its register. */
ALWAYS_INLINE void axpy_narrow(const int rows, enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end,
                               const float *x, int64_t ldx, float *y, int64_t ldy) {
    int64_t j = n_begin;
    for (; j + AXPY_COLUMNS <= n_end; j += AXPY_COLUMNS)
        axpy_narrow_tile(rows, AXPY_VECTORS, type, weight_at(type, w->data, j), w->stride, w->k, x, ldx, y + j, ldy,
                         WIDTH);
    for (; j + 2 * WIDTH <= n_end; j += 2 * WIDTH)
        axpy_narrow_tile(rows, 2, type, weight_at(type, w->data, j), w->stride, w->k, x, ldx, y + j, ldy, WIDTH);
    for (; j < n_end; j += WIDTH)
        axpy_narrow_tile(rows, 1, type, weight_at(type, w->data, j), w->stride, w->k, x, ldx, y + j, ldy,
                         min_i64(n_end - j, WIDTH));
}

/* [k][AXPY_COLUMNS] of one group of columns; missing columns are 0 */
ALWAYS_INLINE void axpy_pack_w(enum dtype type, const void *w, int64_t stride, int64_t k, int64_t columns,
                               float *packed) {
    for (int64_t at = 0; at < k; at++, w = weight_at(type, w, stride)) {
        for (int64_t j = 0; j < AXPY_COLUMNS; j += WIDTH, packed += WIDTH)
            vf_store(packed, weight_load_some(type, weight_at(type, w, j), columns - j));
    }
}

ALWAYS_INLINE void axpy_tile(const int rows, const float *w, int64_t k, const float *x, int64_t ldx, float *y,
                             int64_t ldy, int64_t columns, struct fetch *fetch) {
    vf acc[TILE_ROWS][AXPY_VECTORS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < AXPY_VECTORS; v++)
            acc[r][v] = vf_load_some(y + r * ldy + v * WIDTH, columns - v * WIDTH);
    }
    for (int64_t left = k; left > 0; left -= FETCH_STEPS) {
        fetch_step(fetch);
        for (int64_t s = min_i64(left, FETCH_STEPS); s > 0; s--, w += AXPY_COLUMNS, x++) {
            vf ws[AXPY_VECTORS];
            UNROLL
            for (int v = 0; v < AXPY_VECTORS; v++)
                ws[v] = vf_load(w + v * WIDTH);
            UNROLL
            for (int r = 0; r < rows; r++) {
                const vf xs = vf_set1(x[r * ldx]);
                UNROLL
                for (int v = 0; v < AXPY_VECTORS; v++)
                    acc[r][v] = vf_fma(xs, ws[v], acc[r][v]);
            }
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < AXPY_VECTORS; v++)
            vf_store_some(y + r * ldy + v * WIDTH, acc[r][v], columns - v * WIDTH);
    }
}

static void axpy_tile_of_height(int64_t rows, const float *w, int64_t k, const float *x, int64_t ldx, float *y,
                                int64_t ldy, int64_t columns, struct fetch *fetch) {
    switch (rows) {
#define X(n)                                                                                                           \
    case n:                                                                                                            \
        axpy_tile(n, w, k, x, ldx, y, ldy, columns, fetch);                                                            \
        break;
        FOR_EACH_HEIGHT(X)
#undef X
    }
}

ALWAYS_INLINE struct fetch axpy_next_block(enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end,
                                           int64_t n_limit, const float *x, int64_t ldx, int64_t m, int64_t k) {
    const bool same_columns = k + AXPY_BLOCK_K < w->k;
    const int64_t first = same_columns ? n_begin : n_end;
    const int64_t columns = same_columns ? n_end - n_begin : min_i64(n_limit - n_end, AXPY_BLOCK_COLUMNS);
    const int64_t from = same_columns ? k + AXPY_BLOCK_K : 0, depth = min_i64(w->k - from, AXPY_BLOCK_K);
    return (struct fetch){
        .w = {weight_at(type, w->data, from * w->stride + first), columns * weight_bytes(type),
              w->stride * weight_bytes(type), columns > 0 ? depth : 0, 0},
        .x = {(const char *)(x + from), depth * (int64_t)sizeof *x, ldx * (int64_t)sizeof *x, columns > 0 ? m : 0, 0}};
}

ALWAYS_INLINE void axpy_block(enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end, int64_t n_limit,
                              const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy, float *w_packed) {
    const struct row_tiles tiles = row_tiles(m, TILE_ROWS);
    for (int64_t k = 0; k < w->k; k += AXPY_BLOCK_K) {
        const int64_t depth = min_i64(w->k - k, AXPY_BLOCK_K);
        for (int64_t j = n_begin; j < n_end; j += AXPY_COLUMNS)
            axpy_pack_w(type, weight_at(type, w->data, k * w->stride + j), w->stride, depth,
                        min_i64(n_end - j, AXPY_COLUMNS), w_packed + (j - n_begin) * depth);
        struct fetch fetch = {0};
        if (m <= FETCH_MAX_ROWS)
            fetch = axpy_next_block(type, w, n_begin, n_end, n_limit, x, ldx, m, k);
        fetch_plan(&fetch, tiles.n * ((n_end - n_begin + AXPY_COLUMNS - 1) / AXPY_COLUMNS) *
                               ((depth + FETCH_STEPS - 1) / FETCH_STEPS));
        for (int64_t j = n_begin; j < n_end; j += AXPY_COLUMNS) {
            for (int64_t tile = 0, row = 0; tile < tiles.n; tile++) {
                const int64_t height = tiles.height + (tile < tiles.higher);
                axpy_tile_of_height(height, w_packed + (j - n_begin) * depth, depth, x + row * ldx + k, ldx,
                                    y + row * ldy + j, ldy, min_i64(n_end - j, AXPY_COLUMNS), &fetch);
                row += height;
            }
        }
    }
}

ALWAYS_INLINE void gemm_axpy(enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x,
                             int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate, void *scratch) {
    for (int64_t i = 0; i < m && !accumulate; i++)
        memset(y + i * ldy + n_begin, 0, (size_t)(n_end - n_begin) * sizeof *y);
    switch (m) {
#define X(n)                                                                                                           \
    case n:                                                                                                            \
        if (n_end - n_begin <= AXPY_NARROW_COLUMNS) {                                                                  \
            axpy_narrow(n, type, w, n_begin, n_end, x, ldx, y, ldy);                                                   \
            return;                                                                                                    \
        }                                                                                                              \
        axpy_direct(n, type, w, n_begin, n_end, x, ldx, y, ldy);                                                       \
        return;
        FOR_EACH_HEIGHT(X)
#undef X
    }
    for (int64_t i = 0; i < m; i += AXPY_BLOCK_ROWS)
        for (int64_t j = n_begin; j < n_end; j += AXPY_BLOCK_COLUMNS)
            axpy_block(type, w, j, min_i64(j + AXPY_BLOCK_COLUMNS, n_end), n_end, x + i * ldx, ldx,
                       min_i64(m - i, AXPY_BLOCK_ROWS), y + i * ldy, ldy, scratch);
}

#endif
#endif
