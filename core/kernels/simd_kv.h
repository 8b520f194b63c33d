/* Products with 8-bit keys and values over vec.h: as simd_axpy.h has them, the integers widened in registers.
 *
 * Few rows, as in decoding, read the integers where they lie; more rows share a widened and packed block. */
#ifndef CORE_KERNELS_SIMD_KV_H
#define CORE_KERNELS_SIMD_KV_H

#include "core/kernels/simd_axpy.h"
#include "core/kernels/simd_rows.h"

#if defined(VEC_WIDTH)

enum {
    KV_SCALES_FLOATS = KV_Q8_ELEMENTS / KV_Q8_BLOCK * KV_Q8_POSITIONS,
    KV_BLOCK_K = AXPY_BLOCK_K /* whole blocks of a key */
};
_Static_assert(KV_BLOCK_K % KV_Q8_BLOCK == 0 && KV_Q8_BLOCK % WIDTH == 0, "a vector of columns has one block");
_Static_assert((KV_SCALES_FLOATS + KV_BLOCK_K * AXPY_COLUMNS) * 4 <= KERNEL_SCRATCH_BYTES, "both fit in scratch");

/* A part with its scales widened. */
struct q8_wide {
    const struct kv_q8 *w;
    const float *scales; /* [blocks][positions] */
    int64_t positions;
};

ALWAYS_INLINE struct q8_wide q8_widen_scales(const bool keys, const struct kv_q8 *w, float *scratch) {
    const int64_t elements = keys ? w->k : w->n, positions = keys ? w->n : w->k;
    for (int64_t b = 0; b * KV_Q8_BLOCK < elements; b++)
        widen_f16(scratch + b * positions, w->scales + b * w->scales_stride, positions);
    return (struct q8_wide){w, scratch, positions};
}

/* The scales of `vectors` vectors of columns from j on, for row k of the part; the last vector holds `last` columns. */
ALWAYS_INLINE void q8_scales(const bool keys, const int vectors, const struct q8_wide *q, int64_t k, int64_t j,
                             int64_t last, vf *scales) {
    UNROLL
    for (int v = 0; v < vectors; v++) {
        const int64_t at = j + v * WIDTH;
        if (keys)
            scales[v] = vf_load_some(q->scales + k / KV_Q8_BLOCK * q->positions + at, v + 1 < vectors ? WIDTH : last);
        else
            scales[v] = vf_set1(q->scales[at / KV_Q8_BLOCK * q->positions + k]);
    }
}

ALWAYS_INLINE vf q8_load_some(const int8_t *p, int64_t n) {
    return n >= WIDTH ? vf_load_i8(p) : n > 0 ? vf_load_i8_n(p, (int)n) : vf_zero();
}

/* As axpy_narrow_tile. */
ALWAYS_INLINE void q8_tile(const bool keys, const int rows, const int vectors, const struct q8_wide *q, int64_t j,
                           const float *x, int64_t ldx, float *y, int64_t ldy, int64_t last) {
    const struct kv_q8 *w = q->w;
    vf acc[TILE_ROWS][AXPY_VECTORS], scales[AXPY_VECTORS], ws[AXPY_VECTORS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++)
            acc[r][v] = vf_load_some(y + r * ldy + j + v * WIDTH, v + 1 < vectors ? WIDTH : last);
    }
    const int8_t *quants = w->quants + j;
    for (int64_t k = 0; k < w->k;) {
        const int64_t end = keys ? min_i64(k + KV_Q8_BLOCK, w->k) : w->k;
        if (keys)
            q8_scales(true, vectors, q, k, j, last, scales);
        for (; k < end; k++, quants += w->stride) {
            __builtin_prefetch(quants + NARROW_AHEAD_BYTES);
            if (!keys)
                q8_scales(false, vectors, q, k, j, last, scales);
            UNROLL
            for (int v = 0; v < vectors; v++)
                ws[v] = vf_mul(q8_load_some(quants + v * WIDTH, v + 1 < vectors ? WIDTH : last), scales[v]);
            UNROLL
            for (int r = 0; r < rows; r++) {
                const vf xs = vf_set1(x[r * ldx + k]);
                UNROLL
                for (int v = 0; v < vectors; v++)
                    acc[r][v] = vf_fma(xs, ws[v], acc[r][v]);
            }
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++)
            vf_store_some(y + r * ldy + j + v * WIDTH, acc[r][v], v + 1 < vectors ? WIDTH : last);
    }
}

ALWAYS_INLINE void q8_few(const bool keys, const int rows, const struct q8_wide *q, const float *x, int64_t ldx,
                          float *y, int64_t ldy) {
    const int64_t n = q->w->n;
    int64_t j = 0;
    for (; j + AXPY_COLUMNS <= n; j += AXPY_COLUMNS)
        q8_tile(keys, rows, AXPY_VECTORS, q, j, x, ldx, y, ldy, WIDTH);
    for (; j < n; j += WIDTH)
        q8_tile(keys, rows, 1, q, j, x, ldx, y, ldy, min_i64(n - j, WIDTH));
}

/* As axpy_pack_w: rows k .. k + depth - 1 of a group of columns from j on. */
ALWAYS_INLINE void q8_pack(const bool keys, const struct q8_wide *q, int64_t k, int64_t depth, int64_t j,
                           float *packed) {
    const struct kv_q8 *w = q->w;
    for (int64_t end = k + depth; k < end; k++) {
        for (int64_t at = j; at < j + AXPY_COLUMNS; at += WIDTH, packed += WIDTH) {
            const int64_t columns = w->n - at;
            vf scale = vf_zero();
            if (columns > 0)
                q8_scales(keys, 1, q, k, at, columns, &scale);
            vf_store(packed, vf_mul(q8_load_some(w->quants + k * w->stride + at, columns), scale));
        }
    }
}

ALWAYS_INLINE void q8_many(const bool keys, const struct q8_wide *q, const float *x, int64_t ldx, int64_t m, float *y,
                           int64_t ldy, float *packed) {
    const struct row_tiles tiles = row_tiles(m, TILE_ROWS);
    struct fetch nothing = {.w_pieces = 0};
    for (int64_t k = 0; k < q->w->k; k += KV_BLOCK_K) {
        const int64_t depth = min_i64(q->w->k - k, KV_BLOCK_K);
        for (int64_t j = 0; j < q->w->n; j += AXPY_COLUMNS) {
            q8_pack(keys, q, k, depth, j, packed);
            for (int64_t tile = 0, row = 0; tile < tiles.n; tile++) {
                const int64_t height = tiles.height + (tile < tiles.higher);
                axpy_tile_of_height(height, packed, depth, x + row * ldx + k, ldx, y + row * ldy + j, ldy,
                                    min_i64(q->w->n - j, AXPY_COLUMNS), &nothing);
                row += height;
            }
        }
    }
}

ALWAYS_INLINE void kv_q8(const bool keys, const struct kv_q8 *w, const float *x, int64_t ldx, int64_t m, float *y,
                         int64_t ldy, bool accumulate, float *scratch) {
    for (int64_t i = 0; i < m && !accumulate; i++)
        memset(y + i * ldy, 0, (size_t)w->n * sizeof *y);
    const struct q8_wide q = q8_widen_scales(keys, w, scratch);
    switch (m) {
#define X(rows)                                                                                                        \
    case rows:                                                                                                         \
        q8_few(keys, rows, &q, x, ldx, y, ldy);                                                                        \
        return;
        FOR_EACH_HEIGHT(X)
#undef X
    }
    if (m > 0)
        q8_many(keys, &q, x, ldx, m, y, ldy, scratch + KV_SCALES_FLOATS);
}

static void kv_q8_keys(const struct kv_q8 *w, const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy,
                       bool accumulate, void *scratch) {
    kv_q8(true, w, x, ldx, m, y, ldy, accumulate, scratch);
}

static void kv_q8_values(const struct kv_q8 *w, const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy,
                         bool accumulate, void *scratch) {
    kv_q8(false, w, x, ldx, m, y, ldy, accumulate, scratch);
}

#endif
#endif
