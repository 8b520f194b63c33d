/* What the matrix products over vec.h share: loading weights, cutting rows into register tiles, fetching ahead. */
#ifndef CORE_KERNELS_SIMD_COMMON_H
#define CORE_KERNELS_SIMD_COMMON_H

#include "core/kernels/kernels.h"
#include "core/kernels/vec.h"

#if defined(VEC_WIDTH)

#define ALWAYS_INLINE static inline __attribute__((always_inline))
/* Before loops over a register tile: unrolled early, or the tile stays in memory. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

enum {
    WIDTH = VEC_WIDTH,
    TILE_ROWS = 6,  /* the most rows of a register tile; up to here weights are read where they lie */
    FETCH_STEPS = 4 /* of a tile's inner loop between two looks at what to fetch ahead */
};
/* One copy of a tile for each height: its sums must sit in registers. */
#define FOR_EACH_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6)

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
enum {
    FETCH_LINE_BYTES = 64,
    FETCH_PIECE_BYTES = 4 * FETCH_LINE_BYTES,
    FETCH_MAX_ROWS = 128 /* of more, memory is no limit, and what is fetched drives out what is in use */
};
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
/* So many pieces at each of n_steps that the next weights are there in time. */
ALWAYS_INLINE void fetch_plan(struct fetch *fetch, int64_t n_steps) {
    const int64_t pieces = fetch->w.rows * ((fetch->w.row_bytes + FETCH_PIECE_BYTES - 1) / FETCH_PIECE_BYTES);
    fetch->w_pieces = (int)((pieces + n_steps - 1) / n_steps);
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

#endif
#endif
