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
/* Before loops over a register tile: unrolled early, or the tile stays in memory. */
#if defined(__clang__)
#define UNROLL      _Pragma("clang loop unroll(full)")
#define UNROLL_TILE UNROLL
#else
#define UNROLL      _Pragma("GCC unroll 8")
#define UNROLL_TILE _Pragma("GCC unroll 24")
#endif

/* A register tile is TILE_ROWS x TILE_VECTORS vectors of sums; with those of one operand and one of the other it fills
 * the registers, 16 with AVX2, else 32. */
#if VEC_WIDTH == 8
enum { TILE_VECTORS = 2 };
#else
enum { TILE_VECTORS = 4 };
#endif
enum { TILE_ROWS = 6, DOT_COLUMNS = TILE_VECTORS, AXPY_COLUMNS = TILE_VECTORS * VEC_WIDTH };

/* Blocks. */
enum {
    DOT_BLOCK_ROWS = 48,
    DOT_BLOCK_COLUMNS = 64,
    DOT_BLOCK_K = 512,
    AXPY_BLOCK_COLUMNS = 512,
    AXPY_BLOCK_K = 128,
    AXPY_BLOCK_ROWS = 192,
    AXPY_NARROW_COLUMNS = 128,  /* up to here a few rows' sums stay in registers for all of K */
    AXPY_STREAM_K = 8,          /* rows of weights read side by side */
    AXPY_STREAM_COLUMNS = 8192, /* of y, all rows together: stays in the first-level cache */
    FETCH_STEPS = 4,            /* of K between two looks at what to fetch ahead */
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
ALWAYS_INLINE int64_t weight_bytes(enum dtype type) {
    return type == DT_F32 ? 4 : 2;
}
ALWAYS_INLINE const void *weight_at(enum dtype type, const void *data, int64_t i) {
    return (const char *)data + i * weight_bytes(type);
}
ALWAYS_INLINE vf weight_load(enum dtype type, const void *p) {
    return type == DT_F32 ? vf_load(p) : type == DT_F16 ? vf_load_f16(p) : vf_load_bf16(p);
}
ALWAYS_INLINE vf weight_load_some(enum dtype type, const void *p, int64_t n) {
    if (n >= WIDTH)
        return weight_load(type, p);
    if (n <= 0)
        return vf_zero();
    return type == DT_F32   ? vf_load_n(p, (int)n)
           : type == DT_F16 ? vf_load_f16_n(p, (int)n)
                            : vf_load_bf16_n(p, (int)n);
}

/* ---- the next block's operands, fetched into the second-level cache while this block is computed ---- */
enum { FETCH_LINE_BYTES = 64, FETCH_PIECE_BYTES = 4 * FETCH_LINE_BYTES };
struct ahead {
    const char *row;
    int64_t row_bytes, stride_bytes; /* of each row, and from one to the next */
    int64_t rows;                    /* left */
    int64_t at;
};

ALWAYS_INLINE void fetch_piece(struct ahead *ahead) {
    if (ahead->rows <= 0)
        return;
    const char *from = ahead->row + ahead->at;
    const int64_t bytes = min_i64(ahead->row_bytes - ahead->at, FETCH_PIECE_BYTES);
    for (int64_t b = 0; b < bytes; b += FETCH_LINE_BYTES)
        __builtin_prefetch(from + b, 0, 2);
    ahead->at += FETCH_PIECE_BYTES;
    if (ahead->at >= ahead->row_bytes) {
        ahead->at = 0;
        ahead->row += ahead->stride_bytes;
        ahead->rows--;
    }
}

/* Both operands of a block, and how many pieces are due at each step of the work. */
struct fetch {
    struct ahead w, x;
    int w_pieces;
};
ALWAYS_INLINE void fetch_step(struct fetch *fetch) {
    for (int i = 0; i < fetch->w_pieces; i++)
        fetch_piece(&fetch->w);
    fetch_piece(&fetch->x);
}
ALWAYS_INLINE int64_t fetch_pieces(const struct ahead *ahead) {
    return ahead->rows * ((ahead->row_bytes + FETCH_PIECE_BYTES - 1) / FETCH_PIECE_BYTES);
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

/* Fewer rows than a tile has leave registers for more columns. */
enum { DOT_MAX_COLUMNS = 8 };
ALWAYS_INLINE int dot_direct_columns(int rows) {
    const int most = TILE_ROWS * TILE_VECTORS / rows;
    return most >= 8 ? 8 : most >= 4 ? 4 : 2;
}

/* Weight rows of one group of columns: groups at the edge repeat the last one, and throw its results away. */
ALWAYS_INLINE void group_rows(const int columns, enum dtype type, const struct matrix *w, int64_t j, int64_t n_end,
                              int64_t k, const void *rows[]) {
    for (int c = 0; c < columns; c++)
        rows[c] = weight_at(type, w->data, min_i64(j + c, n_end - 1) * w->stride + k);
}

ALWAYS_INLINE void dot_step(const int rows, const int columns, vf acc[][DOT_MAX_COLUMNS], const vf x[], const vf w[]) {
    UNROLL
    for (int c = 0; c < columns; c++) {
        UNROLL
        for (int r = 0; r < rows; r++)
            acc[r][c] = vf_fma(x[r], w[c], acc[r][c]);
    }
}

/* y[r][0..n-1] = sums (+ y) */
ALWAYS_INLINE void dot_finish(const int rows, const int columns, vf acc[][DOT_MAX_COLUMNS], float *y, int64_t ldy,
                              int64_t n, bool accumulate) {
    float sums[TILE_ROWS * DOT_MAX_COLUMNS];
    const int total = rows * columns;
    UNROLL_TILE
    for (int i = 0; i < total; i += 4) {
        const int i1 = i + 1 < total ? i + 1 : i, i2 = i + 2 < total ? i + 2 : i, i3 = i + 3 < total ? i + 3 : i1;
        vf_sum4(acc[i / columns][i % columns], acc[i1 / columns][i1 % columns], acc[i2 / columns][i2 % columns],
                acc[i3 / columns][i3 % columns], sums + i);
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        for (int64_t c = 0; c < n; c++)
            y[r * ldy + c] = accumulate ? sums[r * columns + c] + y[r * ldy + c] : sums[r * columns + c];
}

ALWAYS_INLINE void dot_direct(const int rows, enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end,
                              const float *x, int64_t ldx, float *y, int64_t ldy, bool accumulate) {
    const int columns = dot_direct_columns(rows);
    const int64_t whole = w->k / WIDTH * WIDTH;
    const int64_t tail = w->k - whole;
    for (int64_t j = n_begin; j < n_end; j += columns) {
        const void *w_rows[DOT_MAX_COLUMNS], *next_rows[DOT_MAX_COLUMNS];
        vf acc[TILE_ROWS][DOT_MAX_COLUMNS], xs[TILE_ROWS], ws[DOT_MAX_COLUMNS];
        group_rows(columns, type, w, j, n_end, 0, w_rows);
        group_rows(columns, type, w, j + columns, n_end, 0, next_rows);
        UNROLL
        for (int r = 0; r < rows; r++) {
            UNROLL
            for (int c = 0; c < columns; c++)
                acc[r][c] = vf_zero();
        }
        for (int64_t k = 0; k < whole; k += WIDTH) {
            UNROLL
            for (int r = 0; r < rows; r++)
                xs[r] = vf_load(x + r * ldx + k);
            UNROLL
            for (int c = 0; c < columns; c++) {
                __builtin_prefetch(weight_at(type, next_rows[c], k), 0, 2);
                ws[c] = weight_load(type, weight_at(type, w_rows[c], k));
            }
            dot_step(rows, columns, acc, xs, ws);
        }
        if (tail) {
            UNROLL
            for (int r = 0; r < rows; r++)
                xs[r] = vf_load_some(x + r * ldx + whole, tail);
            UNROLL
            for (int c = 0; c < columns; c++)
                ws[c] = weight_load_some(type, weight_at(type, w_rows[c], whole), tail);
            dot_step(rows, columns, acc, xs, ws);
        }
        dot_finish(rows, columns, acc, y + j, ldy, min_i64(n_end - j, columns), accumulate);
    }
}

/* [k/WIDTH][DOT_COLUMNS][WIDTH] of one group of columns */
ALWAYS_INLINE void dot_pack_w(enum dtype type, const void *const rows[], int64_t k, float *packed) {
    const int64_t whole = k / WIDTH * WIDTH;
    for (int64_t at = 0; at < whole; at += WIDTH)
        for (int c = 0; c < DOT_COLUMNS; c++, packed += WIDTH)
            vf_store(packed, weight_load(type, weight_at(type, rows[c], at)));
    for (int c = 0; c < DOT_COLUMNS && whole < k; c++, packed += WIDTH)
        vf_store(packed, weight_load_some(type, weight_at(type, rows[c], whole), k - whole));
}

/* [k/WIDTH][rows][WIDTH] of one tile of rows */
static void dot_pack_x(const float *x, int64_t ldx, int64_t rows, int64_t k, float *packed) {
    const int64_t whole = k / WIDTH * WIDTH;
    for (int64_t at = 0; at < whole; at += WIDTH)
        for (int64_t r = 0; r < rows; r++, packed += WIDTH)
            vf_store(packed, vf_load(x + r * ldx + at));
    for (int64_t r = 0; r < rows && whole < k; r++, packed += WIDTH)
        vf_store(packed, vf_load_some(x + r * ldx + whole, k - whole));
}

/* One tile of rows by all columns of a block, for one block of K. */
struct dot_strip {
    const float *x;                    /* packed */
    const float *w;                    /* packed, or f32 as it lies: */
    int64_t w_column, w_step, w_group; /* from one column, one step of K, one group of columns to the next */
    int64_t columns, k;
    float *sums; /* [column groups][rows][DOT_COLUMNS][WIDTH]: where the sums stand between two blocks of K */
    bool first, last;
    float *y;
    int64_t ldy;
    bool accumulate;
    struct fetch *fetch;
};

ALWAYS_INLINE void dot_strip(const int rows, const struct dot_strip *s) {
    const int64_t steps = (s->k + WIDTH - 1) / WIDTH;
    const int64_t w_column = s->w_column, w_step = s->w_step;
    float *sums = s->sums;
    for (int64_t j = 0; j < s->columns; j += DOT_COLUMNS, sums += rows * DOT_COLUMNS * WIDTH) {
        const float *x = s->x, *w = s->w + j / DOT_COLUMNS * s->w_group;
        vf acc[TILE_ROWS][DOT_MAX_COLUMNS];
        UNROLL
        for (int r = 0; r < rows; r++) {
            UNROLL
            for (int c = 0; c < DOT_COLUMNS; c++)
                acc[r][c] = s->first ? vf_zero() : vf_load(sums + (r * DOT_COLUMNS + c) * WIDTH);
        }
        for (int64_t left = steps; left > 0; left -= FETCH_STEPS) {
            fetch_step(s->fetch);
            for (int64_t i = min_i64(left, FETCH_STEPS); i > 0; i--, x += rows * WIDTH, w += w_step) {
                vf xs[TILE_ROWS], ws[DOT_COLUMNS];
                UNROLL
                for (int r = 0; r < rows; r++)
                    xs[r] = vf_load(x + r * WIDTH);
                UNROLL
                for (int c = 0; c < DOT_COLUMNS; c++)
                    ws[c] = vf_load(w + c * w_column);
                dot_step(rows, DOT_COLUMNS, acc, xs, ws);
            }
        }
        if (s->last) {
            dot_finish(rows, DOT_COLUMNS, acc, s->y + j, s->ldy, min_i64(s->columns - j, DOT_COLUMNS), s->accumulate);
            continue;
        }
        UNROLL
        for (int r = 0; r < rows; r++) {
            UNROLL
            for (int c = 0; c < DOT_COLUMNS; c++)
                vf_store(sums + (r * DOT_COLUMNS + c) * WIDTH, acc[r][c]);
        }
    }
}

/* One copy for each height: the sums must sit in registers. */
#define FOR_EACH_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6)

static void dot_strip_of_height(int64_t rows, const struct dot_strip *strip) {
    switch (rows) {
#define X(n)                                                                                                           \
    case n:                                                                                                            \
        dot_strip(n, strip);                                                                                           \
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
    float *const sums = scratch;
    float *const x_packed = sums + DOT_BLOCK_ROWS * DOT_BLOCK_COLUMNS * WIDTH;
    float *const w_packed = x_packed + DOT_BLOCK_ROWS * DOT_BLOCK_K;
    const struct row_tiles tiles = row_tiles(m, TILE_ROWS);
    for (int64_t k = 0; k < w->k; k += DOT_BLOCK_K) {
        const int64_t depth = min_i64(w->k - k, DOT_BLOCK_K), steps = (depth + WIDTH - 1) / WIDTH;
        const bool as_it_lies = type == DT_F32 && depth % WIDTH == 0 && (n_end - n_begin) % DOT_COLUMNS == 0;
        for (int64_t j = n_begin; j < n_end && !as_it_lies; j += DOT_COLUMNS) {
            const void *rows[DOT_COLUMNS];
            group_rows(DOT_COLUMNS, type, w, j, n_end, k, rows);
            dot_pack_w(type, rows, depth, w_packed + (j - n_begin) * steps * WIDTH);
        }
        struct fetch fetch = dot_next_block(type, w, n_begin, n_end, n_limit, x, ldx, m, k);
        const int64_t fetch_steps =
            tiles.n * ((n_end - n_begin + DOT_COLUMNS - 1) / DOT_COLUMNS) * ((steps + FETCH_STEPS - 1) / FETCH_STEPS);
        fetch.w_pieces = (int)((fetch_pieces(&fetch.w) + fetch_steps - 1) / fetch_steps);
        struct dot_strip strip = {.x = x_packed,
                                  .w = as_it_lies ? weight_at(type, w->data, n_begin * w->stride + k) : w_packed,
                                  .w_column = as_it_lies ? w->stride : WIDTH,
                                  .w_step = as_it_lies ? WIDTH : DOT_COLUMNS * WIDTH,
                                  .w_group = DOT_COLUMNS * (as_it_lies ? w->stride : steps * WIDTH),
                                  .columns = n_end - n_begin,
                                  .k = depth,
                                  .sums = sums,
                                  .first = k == 0,
                                  .last = k + depth == w->k,
                                  .y = y + n_begin,
                                  .ldy = ldy,
                                  .accumulate = accumulate,
                                  .fetch = &fetch};
        for (int64_t tile = 0, row = 0; tile < tiles.n; tile++) {
            const int64_t height = tiles.height + (tile < tiles.higher);
            dot_pack_x(x + row * ldx + k, ldx, height, depth, x_packed);
            dot_strip_of_height(height, &strip);
            strip.y += height * ldy;
            strip.sums += height * DOT_BLOCK_COLUMNS * WIDTH;
            row += height;
        }
    }
}

ALWAYS_INLINE void gemm_dot(enum dtype type, const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x,
                            int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate, void *scratch) {
    switch (w->k > 0 ? m : 0) {
#define X(n)                                                                                                           \
    case n:                                                                                                            \
        dot_direct(n, type, w, n_begin, n_end, x, ldx, y, ldy, accumulate);                                            \
        return;
        FOR_EACH_HEIGHT(X)
#undef X
    case 0:
        for (int64_t i = 0; i < m && !accumulate; i++)
            memset(y + i * ldy + n_begin, 0, (size_t)(n_end - n_begin) * sizeof *y);
        return;
    }
    for (int64_t i = 0; i < m; i += DOT_BLOCK_ROWS)
        for (int64_t j = n_begin; j < n_end; j += DOT_BLOCK_COLUMNS)
            dot_block(type, w, j, min_i64(j + DOT_BLOCK_COLUMNS, n_end), n_end, x + i * ldx, ldx,
                      min_i64(m - i, DOT_BLOCK_ROWS), y + i * ldy, ldy, accumulate, scratch);
}

/* ---- [in, out] ---- */

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
    vf acc[TILE_ROWS][TILE_VECTORS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++)
            acc[r][v] = vf_load_some(y + r * ldy + v * WIDTH, v + 1 < vectors ? WIDTH : last);
    }
    for (int64_t at = 0; at < k; at++, w = weight_at(type, w, stride)) {
        vf ws[TILE_VECTORS];
        UNROLL
        for (int v = 0; v < vectors; v++) {
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
        axpy_narrow_tile(rows, TILE_VECTORS, type, weight_at(type, w->data, j), w->stride, w->k, x, ldx, y + j, ldy,
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
    vf acc[TILE_ROWS][TILE_VECTORS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < TILE_VECTORS; v++)
            acc[r][v] = vf_load_some(y + r * ldy + v * WIDTH, columns - v * WIDTH);
    }
    for (int64_t left = k; left > 0; left -= FETCH_STEPS) {
        fetch_step(fetch);
        for (int64_t s = min_i64(left, FETCH_STEPS); s > 0; s--, w += AXPY_COLUMNS, x++) {
            vf ws[TILE_VECTORS];
            UNROLL
            for (int v = 0; v < TILE_VECTORS; v++)
                ws[v] = vf_load(w + v * WIDTH);
            UNROLL
            for (int r = 0; r < rows; r++) {
                const vf xs = vf_set1(x[r * ldx]);
                UNROLL
                for (int v = 0; v < TILE_VECTORS; v++)
                    acc[r][v] = vf_fma(xs, ws[v], acc[r][v]);
            }
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < TILE_VECTORS; v++)
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
        struct fetch fetch = axpy_next_block(type, w, n_begin, n_end, n_limit, x, ldx, m, k);
        const int64_t fetch_steps =
            tiles.n * ((n_end - n_begin + AXPY_COLUMNS - 1) / AXPY_COLUMNS) * ((depth + FETCH_STEPS - 1) / FETCH_STEPS);
        fetch.w_pieces = (int)((fetch_pieces(&fetch.w) + fetch_steps - 1) / fetch_steps);
        for (int64_t tile = 0, row = 0; tile < tiles.n; tile++) {
            const int64_t height = tiles.height + (tile < tiles.higher);
            for (int64_t j = n_begin; j < n_end; j += AXPY_COLUMNS)
                axpy_tile_of_height(height, w_packed + (j - n_begin) * depth, depth, x + row * ldx + k, ldx,
                                    y + row * ldy + j, ldy, min_i64(n_end - j, AXPY_COLUMNS), &fetch);
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
            axpy_block(type, w, j, min_i64(j + AXPY_BLOCK_COLUMNS, n_end), n_end, x + i * ldx, ldx,
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
