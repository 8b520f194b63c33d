/* Matrix products over vec.h, compiled once for each instruction set.
 *
 * [out, in] matrices: the lanes run along K.  Every output has one vector of partial sums, lane l summing k = l,
 * l + VEC_WIDTH, ... in that order, and one tree of additions at the end.
 * [in, out] matrices: the lanes are columns.  Every output is one sum in the order of k.
 * Neither order knows of rows, columns or blocks, so that blocks are free to follow speed: where a sum is interrupted,
 * its full state (the vector; the float in y) is put away and taken up again, exactly.
 *
 * Up to TILE_ROWS rows read the weights where they lie: memory is the limit.  More rows work on blocks: a block of
 * weights is widened to f32 and packed once, in the order of reading, for all rows. */
#ifndef CORE_KERNELS_SIMD_GEMM_H
#define CORE_KERNELS_SIMD_GEMM_H

#include "core/kernels/kernels.h"
#include "core/kernels/vec.h"

#if defined(VEC_WIDTH)

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Register tiles.  [out, in]: DOT_ROWS x DOT_COLUMNS vectors of sums.  [in, out]: AXPY_ROWS x (AXPY_VECTORS *
 * VEC_WIDTH) sums.  Sums, one column's vectors and one operand fill the registers: 16 with AVX2, else 32. */
#if VEC_WIDTH == 8
enum { DOT_ROWS = 3, AXPY_ROWS = 6, AXPY_VECTORS = 2 };
#else
enum { DOT_ROWS = 6, AXPY_ROWS = 6, AXPY_VECTORS = 4 };
#endif
enum { DOT_COLUMNS = 4, AXPY_COLUMNS = AXPY_VECTORS * VEC_WIDTH };

/* Blocks. */
enum {
    DOT_BLOCK_ROWS = 96,
    DOT_BLOCK_COLUMNS = 64,
    DOT_BLOCK_K = 512,
    AXPY_BLOCK_COLUMNS = 256,
    AXPY_BLOCK_K = 256,
    AXPY_BLOCK_ROWS = 96,
    AXPY_NARROW_COLUMNS = 128,  /* up to here a few rows' sums stay in registers for all of K */
    AXPY_STREAM_K = 8,          /* rows of weights read side by side */
    AXPY_STREAM_COLUMNS = 4096, /* of y, all rows together: stays in the first-level cache */
    WIDTH = VEC_WIDTH
};
_Static_assert((DOT_BLOCK_ROWS * DOT_BLOCK_COLUMNS * WIDTH + (DOT_BLOCK_ROWS + DOT_BLOCK_COLUMNS) * DOT_BLOCK_K) * 4 <=
                   GEMM_SCRATCH_BYTES,
               "sums and both packed blocks fit in scratch");
_Static_assert(AXPY_BLOCK_COLUMNS *AXPY_BLOCK_K * 4 <= GEMM_SCRATCH_BYTES, "the packed block fits in scratch");

ALWAYS_INLINE int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- weights ---- */
ALWAYS_INLINE const void *weight_at(enum dtype type, const void *data, int64_t i) {
    return (const char *)data + i * (type == DT_F32 ? 4 : 2);
}
ALWAYS_INLINE vf weight_load(enum dtype type, const void *p) {
    return type == DT_F32 ? vf_load(p) : type == DT_F16 ? vf_load_f16(p) : vf_load_bf16(p);
}
ALWAYS_INLINE vf weight_load_n(enum dtype type, const void *p, int n) {
    return type == DT_F32 ? vf_load_n(p, n) : type == DT_F16 ? vf_load_f16_n(p, n) : vf_load_bf16_n(p, n);
}

/* Rows cut into ceil(rows / most) tiles of nearly equal height: first those one higher. */
struct row_tiles {
    int64_t n;
    int64_t height; /* of the lower ones */
    int64_t higher; /* how many are one higher */
};
ALWAYS_INLINE struct row_tiles row_tiles(int64_t rows, int64_t most) {
    const int64_t n = (rows + most - 1) / most;
    return (struct row_tiles){n, rows / n, rows % n};
}

/* ---- [out, in] ---- */

/* Weight rows of one group of columns: groups at the edge repeat the last one, and throw its results away. */
ALWAYS_INLINE void group_rows(enum dtype type, const struct matrix *w, int64_t j, int64_t n_end, int64_t k,
                              const void *rows[DOT_COLUMNS]) {
    for (int c = 0; c < DOT_COLUMNS; c++)
        rows[c] = weight_at(type, w->data, min_i64(j + c, n_end - 1) * w->stride + k);
}

ALWAYS_INLINE void dot_step(const int rows, vf acc[DOT_ROWS][DOT_COLUMNS], const vf x[DOT_ROWS],
                            const vf w[DOT_COLUMNS]) {
    for (int c = 0; c < DOT_COLUMNS; c++)
        for (int r = 0; r < rows; r++)
            acc[r][c] = vf_fma(x[r], w[c], acc[r][c]);
}

/* y[r][0..columns-1] = sums (+ y) */
ALWAYS_INLINE void dot_finish(const int rows, vf acc[DOT_ROWS][DOT_COLUMNS], float *y, int64_t ldy, int64_t columns,
                              bool accumulate) {
    for (int r = 0; r < rows; r++) {
        float sums[DOT_COLUMNS];
        vf_sum4(acc[r][0], acc[r][1], acc[r][2], acc[r][3], sums);
        for (int64_t c = 0; c < columns; c++)
            y[r * ldy + c] = accumulate ? sums[c] + y[r * ldy + c] : sums[c];
    }
}

ALWAYS_INLINE void dot_direct(const int rows, enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end,
                              const float *x, int64_t ldx, float *y, int64_t ldy, bool accumulate) {
    const int64_t whole = w->k / WIDTH * WIDTH;
    const int tail = (int)(w->k - whole);
    for (int64_t j = n_begin; j < n_end; j += DOT_COLUMNS) {
        const void *w_rows[DOT_COLUMNS], *next_rows[DOT_COLUMNS];
        vf acc[DOT_ROWS][DOT_COLUMNS], xs[DOT_ROWS], ws[DOT_COLUMNS];
        group_rows(type, w, j, n_end, 0, w_rows);
        group_rows(type, w, j + DOT_COLUMNS, n_end, 0, next_rows);
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < DOT_COLUMNS; c++)
                acc[r][c] = vf_zero();
        for (int64_t k = 0; k < whole; k += WIDTH) {
            for (int r = 0; r < rows; r++)
                xs[r] = vf_load(x + r * ldx + k);
            for (int c = 0; c < DOT_COLUMNS; c++) {
                __builtin_prefetch(weight_at(type, next_rows[c], k), 0, 2);
                ws[c] = weight_load(type, weight_at(type, w_rows[c], k));
            }
            dot_step(rows, acc, xs, ws);
        }
        if (tail) {
            for (int r = 0; r < rows; r++)
                xs[r] = vf_load_n(x + r * ldx + whole, tail);
            for (int c = 0; c < DOT_COLUMNS; c++)
                ws[c] = weight_load_n(type, weight_at(type, w_rows[c], whole), tail);
            dot_step(rows, acc, xs, ws);
        }
        dot_finish(rows, acc, y + j, ldy, min_i64(n_end - j, DOT_COLUMNS), accumulate);
    }
}

/* [k/WIDTH][4][WIDTH] of one group of columns */
ALWAYS_INLINE void dot_pack_w(enum dtype type, const void *const rows[DOT_COLUMNS], int64_t k, float *packed) {
    const int64_t whole = k / WIDTH * WIDTH;
    for (int64_t at = 0; at < whole; at += WIDTH)
        for (int c = 0; c < DOT_COLUMNS; c++, packed += WIDTH)
            vf_store(packed, weight_load(type, weight_at(type, rows[c], at)));
    for (int c = 0; c < DOT_COLUMNS && whole < k; c++, packed += WIDTH)
        vf_store(packed, weight_load_n(type, weight_at(type, rows[c], whole), (int)(k - whole)));
}

/* [k/WIDTH][rows][WIDTH] of one tile of rows */
static void dot_pack_x(const float *x, int64_t ldx, int64_t rows, int64_t k, float *packed) {
    const int64_t whole = k / WIDTH * WIDTH;
    for (int64_t at = 0; at < whole; at += WIDTH)
        for (int64_t r = 0; r < rows; r++, packed += WIDTH)
            vf_store(packed, vf_load(x + r * ldx + at));
    for (int64_t r = 0; r < rows && whole < k; r++, packed += WIDTH)
        vf_store(packed, vf_load_n(x + r * ldx + whole, (int)(k - whole)));
}

/* Where a tile's sums stand before and after a block of K. */
struct dot_state {
    float *sums; /* [DOT_ROWS][DOT_COLUMNS][WIDTH] */
    bool first, last;
    float *y;
    int64_t ldy, columns;
    bool accumulate;
};

ALWAYS_INLINE void dot_tile(const int rows, const float *x, const float *w, int64_t steps,
                            const struct dot_state *state) {
    vf acc[DOT_ROWS][DOT_COLUMNS], xs[DOT_ROWS], ws[DOT_COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < DOT_COLUMNS; c++)
            acc[r][c] = state->first ? vf_zero() : vf_load(state->sums + (r * DOT_COLUMNS + c) * WIDTH);
    for (int64_t s = 0; s < steps; s++, x += rows * WIDTH, w += DOT_COLUMNS * WIDTH) {
        for (int r = 0; r < rows; r++)
            xs[r] = vf_load(x + r * WIDTH);
        for (int c = 0; c < DOT_COLUMNS; c++)
            ws[c] = vf_load(w + c * WIDTH);
        dot_step(rows, acc, xs, ws);
    }
    if (state->last) {
        dot_finish(rows, acc, state->y, state->ldy, state->columns, state->accumulate);
        return;
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < DOT_COLUMNS; c++)
            vf_store(state->sums + (r * DOT_COLUMNS + c) * WIDTH, acc[r][c]);
}

/* One copy for each height: the sums must sit in registers. */
#define FOR_EACH_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6)

static void dot_tile_of_height(int64_t rows, const float *x, const float *w, int64_t steps,
                               const struct dot_state *state) {
    switch (rows) {
#define X(n)                                                                                                           \
    case n:                                                                                                            \
        if (n <= DOT_ROWS)                                                                                             \
            dot_tile(n <= DOT_ROWS ? n : 1, x, w, steps, state);                                                       \
        break;
        FOR_EACH_HEIGHT(X)
#undef X
    }
}

/* A block of rows by a block of columns, all of K. */
ALWAYS_INLINE void dot_block(enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x,
                             int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate, float *scratch) {
    float *const sums = scratch;
    float *const x_packed = sums + DOT_BLOCK_ROWS * DOT_BLOCK_COLUMNS * WIDTH;
    float *const w_packed = x_packed + DOT_BLOCK_ROWS * DOT_BLOCK_K;
    const struct row_tiles tiles = row_tiles(m, DOT_ROWS);
    for (int64_t k = 0; k < w->k; k += DOT_BLOCK_K) {
        const int64_t depth = min_i64(w->k - k, DOT_BLOCK_K), steps = (depth + WIDTH - 1) / WIDTH;
        for (int64_t j = n_begin; j < n_end; j += DOT_COLUMNS) {
            const void *rows[DOT_COLUMNS];
            group_rows(type, w, j, n_end, k, rows);
            dot_pack_w(type, rows, depth, w_packed + (j - n_begin) * steps * WIDTH);
        }
        struct dot_state state = {
            .sums = sums, .first = k == 0, .last = k + depth == w->k, .ldy = ldy, .accumulate = accumulate};
        for (int64_t tile = 0, row = 0; tile < tiles.n; tile++) {
            const int64_t height = tiles.height + (tile < tiles.higher);
            dot_pack_x(x + row * ldx + k, ldx, height, depth, x_packed);
            for (int64_t j = n_begin; j < n_end; j += DOT_COLUMNS, state.sums += DOT_ROWS * DOT_COLUMNS * WIDTH) {
                state.y = y + row * ldy + j;
                state.columns = min_i64(n_end - j, DOT_COLUMNS);
                dot_tile_of_height(height, x_packed, w_packed + (j - n_begin) * steps * WIDTH, steps, &state);
            }
            row += height;
        }
    }
}

ALWAYS_INLINE void gemm_dot(enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x,
                            int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate, void *scratch) {
    switch (w->k > 0 ? m : 0) {
#define X(n)                                                                                                           \
    case n:                                                                                                            \
        if (n <= DOT_ROWS) {                                                                                           \
            dot_direct(n <= DOT_ROWS ? n : 1, type, w, n_begin, n_end, x, ldx, y, ldy, accumulate);                    \
            return;                                                                                                    \
        }                                                                                                              \
        break;
        FOR_EACH_HEIGHT(X)
#undef X
    case 0:
        for (int64_t i = 0; i < m && !accumulate; i++)
            memset(y + i * ldy + n_begin, 0, (size_t)(n_end - n_begin) * sizeof *y);
        return;
    }
    for (int64_t i = 0; i < m; i += DOT_BLOCK_ROWS)
        for (int64_t j = n_begin; j < n_end; j += DOT_BLOCK_COLUMNS)
            dot_block(type, w, j, min_i64(j + DOT_BLOCK_COLUMNS, n_end), x + i * ldx, ldx,
                      min_i64(m - i, DOT_BLOCK_ROWS), y + i * ldy, ldy, accumulate, scratch);
}

/* ---- [in, out] ---- */

/* y[r][0..n-1] += sum over u < depth of x[r][u] * w[u][0..n-1], for one vector of columns */
ALWAYS_INLINE void axpy_vector(const int rows, const int depth, enum dtype type, const void *w, int64_t stride,
                               const float *x, int64_t ldx, float *y, int64_t ldy, int n) {
    vf acc[AXPY_ROWS];
    for (int r = 0; r < rows; r++)
        acc[r] = n == WIDTH ? vf_load(y + r * ldy) : vf_load_n(y + r * ldy, n);
    for (int u = 0; u < depth; u++) {
        const void *at = weight_at(type, w, u * stride);
        const vf weights = n == WIDTH ? weight_load(type, at) : weight_load_n(type, at, n);
        for (int r = 0; r < rows; r++)
            acc[r] = vf_fma(vf_set1(x[r * ldx + u]), weights, acc[r]);
    }
    for (int r = 0; r < rows; r++) {
        if (n == WIDTH)
            vf_store(y + r * ldy, acc[r]);
        else
            vf_store_n(y + r * ldy, acc[r], n);
    }
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
        axpy_vector(rows, depth, type, weight_at(type, w, j), stride, x, ldx, y + j, ldy, (int)(columns - j));
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
                                    int64_t k, const float *x, int64_t ldx, float *y, int64_t ldy, int last) {
    vf acc[AXPY_ROWS][AXPY_VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            acc[r][v] = v + 1 < vectors ? vf_load(y + r * ldy + v * WIDTH) : vf_load_n(y + r * ldy + v * WIDTH, last);
    for (int64_t at = 0; at < k; at++, w = weight_at(type, w, stride)) {
        vf ws[AXPY_VECTORS];
        for (int v = 0; v < vectors; v++) {
            const void *from = weight_at(type, w, v * WIDTH);
            ws[v] = v + 1 < vectors || last == WIDTH ? weight_load(type, from) : weight_load_n(type, from, last);
        }
        for (int r = 0; r < rows; r++) {
            const vf xs = vf_set1(x[r * ldx + at]);
            for (int v = 0; v < vectors; v++)
                acc[r][v] = vf_fma(xs, ws[v], acc[r][v]);
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v + 1 < vectors; v++)
            vf_store(y + r * ldy + v * WIDTH, acc[r][v]);
        vf_store_n(y + r * ldy + (vectors - 1) * WIDTH, acc[r][vectors - 1], last);
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
                         (int)min_i64(n_end - j, WIDTH));
}

/* [k][AXPY_COLUMNS] of one group of columns; missing columns are 0 */
ALWAYS_INLINE void axpy_pack_w(enum dtype type, const void *w, int64_t stride, int64_t k, int64_t columns,
                               float *packed) {
    for (int64_t at = 0; at < k; at++, w = weight_at(type, w, stride)) {
        for (int64_t j = 0; j < AXPY_COLUMNS; j += WIDTH, packed += WIDTH) {
            const int64_t n = columns - j;
            const void *from = weight_at(type, w, j);
            vf_store(packed, n >= WIDTH ? weight_load(type, from)
                             : n > 0    ? weight_load_n(type, from, (int)n)
                                        : vf_zero());
        }
    }
}

ALWAYS_INLINE vf edge_load(const float *p, int64_t n) {
    return n >= WIDTH ? vf_load(p) : n > 0 ? vf_load_n(p, (int)n) : vf_zero();
}
ALWAYS_INLINE void edge_store(float *p, vf a, int64_t n) {
    if (n >= WIDTH)
        vf_store(p, a);
    else if (n > 0)
        vf_store_n(p, a, (int)n);
}

ALWAYS_INLINE void axpy_tile(const int rows, const float *w, int64_t k, const float *x, int64_t ldx, float *y,
                             int64_t ldy, int64_t columns) {
    vf acc[AXPY_ROWS][AXPY_VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < AXPY_VECTORS; v++)
            acc[r][v] = edge_load(y + r * ldy + v * WIDTH, columns - v * WIDTH);
    for (int64_t at = 0; at < k; at++, w += AXPY_COLUMNS) {
        vf ws[AXPY_VECTORS];
        for (int v = 0; v < AXPY_VECTORS; v++)
            ws[v] = vf_load(w + v * WIDTH);
        for (int r = 0; r < rows; r++) {
            const vf xs = vf_set1(x[r * ldx + at]);
            for (int v = 0; v < AXPY_VECTORS; v++)
                acc[r][v] = vf_fma(xs, ws[v], acc[r][v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < AXPY_VECTORS; v++)
            edge_store(y + r * ldy + v * WIDTH, acc[r][v], columns - v * WIDTH);
}

static void axpy_tile_of_height(int64_t rows, const float *w, int64_t k, const float *x, int64_t ldx, float *y,
                                int64_t ldy, int64_t columns) {
    switch (rows) {
#define X(n)                                                                                                           \
    case n:                                                                                                            \
        axpy_tile(n, w, k, x, ldx, y, ldy, columns);                                                                   \
        break;
        FOR_EACH_HEIGHT(X)
#undef X
    }
}

ALWAYS_INLINE void axpy_block(enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x,
                              int64_t ldx, int64_t m, float *y, int64_t ldy, float *w_packed) {
    const struct row_tiles tiles = row_tiles(m, AXPY_ROWS);
    for (int64_t k = 0; k < w->k; k += AXPY_BLOCK_K) {
        const int64_t depth = min_i64(w->k - k, AXPY_BLOCK_K);
        for (int64_t j = n_begin; j < n_end; j += AXPY_COLUMNS)
            axpy_pack_w(type, weight_at(type, w->data, k * w->stride + j), w->stride, depth,
                        min_i64(n_end - j, AXPY_COLUMNS), w_packed + (j - n_begin) * depth);
        for (int64_t tile = 0, row = 0; tile < tiles.n; tile++) {
            const int64_t height = tiles.height + (tile < tiles.higher);
            for (int64_t j = n_begin; j < n_end; j += AXPY_COLUMNS)
                axpy_tile_of_height(height, w_packed + (j - n_begin) * depth, depth, x + row * ldx + k, ldx,
                                    y + row * ldy + j, ldy, min_i64(n_end - j, AXPY_COLUMNS));
            row += height;
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
            axpy_block(type, w, j, min_i64(j + AXPY_BLOCK_COLUMNS, n_end), x + i * ldx, ldx,
                       min_i64(m - i, AXPY_BLOCK_ROWS), y + i * ldy, ldy, scratch);
}

/* ---- the table's entries ---- */
#define X(name, type)                                                                                                  \
    static void gemm_##name##_out_in(const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x,           \
                                     int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate, void *scratch) {  \
        gemm_dot(type, w, n_begin, n_end, x, ldx, m, y, ldy, accumulate, scratch);                                     \
    }                                                                                                                  \
    static void gemm_##name##_in_out(const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x,           \
                                     int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate, void *scratch) {  \
        gemm_axpy(type, w, n_begin, n_end, x, ldx, m, y, ldy, accumulate, scratch);                                    \
    }
X(f32, DT_F32)
X(f16, DT_F16)
X(bf16, DT_BF16)
#undef X

#endif
#endif
