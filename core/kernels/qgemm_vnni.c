/* Products with packed weights for AVX-512 with VNNI.  Compiled with that instruction set switched on: nothing but
 * kernels_fill_packed_vnni may leave this file.
 *
 * The 32 x 16 weights of a block of two panels are expanded into registers and multiplied by up to QROWS_TILE rows,
 * whose elements come from memory four at a time, to all lanes (= columns).  Every output is one sequence of operations
 * whatever the rows: per part of 128, its blocks' integer sums times their scales, in order; then the part times the
 * row's scale. */
#include "core/kernels/variants.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "core/kernels/packed_units.h"
#include "core/kernels/quantize_rows.h"

#if !defined(__AVX512VNNI__)
#error "compiled without the flags for AVX-512 VNNI"
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Two panels (16 registers of weights) times two or four rows: as many sums as hide the latency of a product, and all
 * fits in the registers. */
enum { MAX_PANELS = 2, MAX_ROWS_AT_ONCE = 4, PREFETCH_BYTES = 4096 };

/* Q6_K has two sums for each output, Q4_K and Q5_K hold minima as well. */
ALWAYS_INLINE int rows_at_once(enum dtype type) {
    return type == DT_Q6_K || packed_has_min(type) ? 2 : MAX_ROWS_AT_ONCE;
}

struct block {
    __m512i w[PACKED_GROUPS]; /* unsigned: true value + 128 (where the type has no minimum), times a power of two */
    __m512 scale, scale_high; /* scale_high: of the last 16 elements, Q6_K only */
    __m512 min;               /* taken off for every element; Q4_K and Q5_K only */
};

struct tile {
    __m512 sums[QROWS_TILE]; /* of one part of K, without the row's scale */
    __m512 totals[QROWS_TILE];
};

/* Where a block lies in its part of K: the first one begins the sums, the last one adds them to the totals, which those
 * of the first part begin. */
struct place {
    bool first, last, first_part;
};

/* What the sums are multiplied by at last: undoes the power of two in w. */
ALWAYS_INLINE float last_scale(enum dtype type) {
    return type == DT_Q4_0 ? 1.0f / 16 : type == DT_Q6_K ? 1.0f / 4 : type == DT_MXFP4 ? 1.0f / 2 : 1;
}

ALWAYS_INLINE __m512 load_halves(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
ALWAYS_INLINE __m512i load_bytes(const uint8_t *p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
}
ALWAYS_INLINE __m512i low_bits(__m512i v, int shift, int mask) {
    return _mm512_and_si512(_mm512_srli_epi32(v, (unsigned)shift), _mm512_set1_epi32(mask));
}

/* ---- values ---- */

/* Four vectors of 4-bit codes to eight of bytes with the code in the low half. */
ALWAYS_INLINE void load_nibbles(const uint8_t *p, __m512i w[PACKED_GROUPS]) {
    const __m512i mask = _mm512_set1_epi8(15);
    for (int i = 0; i < PACKED_GROUPS / 2; i++) {
        const __m512i v = _mm512_loadu_si512(p + i * PACKED_GROUP_BYTES);
        w[i] = _mm512_and_si512(v, mask);
        w[i + PACKED_GROUPS / 2] = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
    }
}

/* The same with the code in the high half. */
ALWAYS_INLINE void load_nibbles_high(const uint8_t *p, __m512i w[PACKED_GROUPS]) {
    const __m512i mask = _mm512_set1_epi8((char)0xf0);
    for (int i = 0; i < PACKED_GROUPS / 2; i++) {
        const __m512i v = _mm512_loadu_si512(p + i * PACKED_GROUP_BYTES);
        w[i] = _mm512_and_si512(_mm512_slli_epi16(v, 4), mask);
        w[i + PACKED_GROUPS / 2] = _mm512_and_si512(v, mask);
    }
}

ALWAYS_INLINE void load_table(const uint8_t *p, const uint8_t values[16], __m512i w[PACKED_GROUPS]) {
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)values));
    load_nibbles(p, w);
    for (int i = 0; i < PACKED_GROUPS; i++)
        w[i] = _mm512_shuffle_epi8(table, w[i]);
}

ALWAYS_INLINE void add_fifth_bits(const uint8_t *p, __m512i w[PACKED_GROUPS]) {
    const __m512i bits = _mm512_loadu_si512(p), mask = _mm512_set1_epi8(16);
    for (int g = 0; g < PACKED_GROUPS; g++) {
        const __m512i moved =
            g < 4 ? _mm512_slli_epi16(bits, (unsigned)(4 - g) & 15) : _mm512_srli_epi16(bits, (unsigned)(g - 4) & 15);
        w[g] = _mm512_ternarylogic_epi32(w[g], moved, mask, 0xf8); /* a | b & c */
    }
}

/* Codes of six bits, times 4. */
ALWAYS_INLINE void load_six_bits(const uint8_t *low, const uint8_t *high, __m512i w[PACKED_GROUPS]) {
    const __m512i low_mask = _mm512_set1_epi8(0x3c), high_mask = _mm512_set1_epi8((char)0xc0);
    for (int g = 0; g < PACKED_GROUPS; g++) {
        const __m512i v = _mm512_loadu_si512(low + g % 4 * PACKED_GROUP_BYTES);
        const __m512i bits = _mm512_loadu_si512(high + g / 4 * PACKED_GROUP_BYTES);
        const __m512i moved = g < 4 ? _mm512_slli_epi16(v, 2) : _mm512_srli_epi16(v, 2);
        const __m512i top = _mm512_slli_epi16(bits, (unsigned)(6 - g % 4 * 2));
        w[g] = _mm512_or_si512(_mm512_and_si512(moved, low_mask), _mm512_and_si512(top, high_mask));
    }
}

/* ---- scales ---- */

/* Six-bit scales and minima of Q4_K and Q5_K, block b of a unit. */
ALWAYS_INLINE void load_k_scales(const uint8_t *scales, int b, struct block *block) {
    const uint8_t *halves = scales + K_SCALES_BYTES;
    const __m512i low = load_bytes(scales + b * PANEL_COLUMNS);
    const __m512i high = load_bytes(scales + (LONG_UNIT_BLOCKS + b / 2) * PANEL_COLUMNS);
    const __m512i scale = _mm512_or_si512(low_bits(low, 0, 15), _mm512_slli_epi32(low_bits(high, b % 2 * 2, 3), 4));
    const __m512i min = _mm512_or_si512(low_bits(low, 4, 15), _mm512_slli_epi32(low_bits(high, 4 + b % 2 * 2, 3), 4));
    block->scale = _mm512_mul_ps(_mm512_cvtepi32_ps(scale), load_halves(halves));
    block->min = _mm512_mul_ps(_mm512_cvtepi32_ps(min), load_halves(halves + HALVES_BYTES));
}

ALWAYS_INLINE __m512 load_q6_k_scale(const uint8_t *unit, int half) {
    const __m512i scale =
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(unit + Q6_K_SCALES + half * PANEL_COLUMNS)));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(scale), load_halves(unit + Q6_K_D));
}

ALWAYS_INLINE __m512 load_iq4_xs_scale(const uint8_t *unit, int b) {
    const __m512i low = low_bits(load_bytes(unit + IQ4_XS_LOW + b / 2 * PANEL_COLUMNS), b % 2 * 4, 15);
    const __m512i high = low_bits(load_bytes(unit + IQ4_XS_HIGH + b / 4 * PANEL_COLUMNS), b % 4 * 2, 3);
    const __m512i scale = _mm512_sub_epi32(_mm512_or_si512(low, _mm512_slli_epi32(high, 4)), _mm512_set1_epi32(32));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(scale), load_halves(unit + IQ4_XS_D));
}

/* 2^(e - 127); subnormal for e = 0 */
ALWAYS_INLINE __m512 load_powers(const uint8_t *p) {
    const __m512i e = load_bytes(p);
    const __mmask16 is_0 = _mm512_cmpeq_epi32_mask(e, _mm512_setzero_si512());
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(_mm512_slli_epi32(e, 23), is_0, _mm512_set1_epi32(0x00400000)));
}

/* Block b of a unit of n blocks. */
ALWAYS_INLINE void load_block(enum dtype type, const uint8_t *unit, int64_t n, int b, struct block *block) {
    const uint8_t *nibbles = unit + b * NIBBLES_BYTES;
    switch (type) {
    case DT_Q4_0:
        load_nibbles_high(nibbles, block->w);
        block->scale = load_halves(unit + n * NIBBLES_BYTES + b * HALVES_BYTES);
        break;
    case DT_Q8_0:
        for (int g = 0; g < PACKED_GROUPS; g++)
            block->w[g] = _mm512_loadu_si512(unit + b * BYTES_BYTES + g * PACKED_GROUP_BYTES);
        block->scale = load_halves(unit + n * BYTES_BYTES + b * HALVES_BYTES);
        break;
    case DT_MXFP4:
        load_table(nibbles, MXFP4_CODES, block->w);
        block->scale = load_powers(unit + n * NIBBLES_BYTES + b * PANEL_COLUMNS);
        break;
    case DT_Q4_K:
        load_nibbles(nibbles, block->w);
        load_k_scales(unit + Q4_K_SCALES, b, block);
        break;
    case DT_Q5_K:
        load_nibbles(nibbles, block->w);
        add_fifth_bits(unit + Q5_K_HIGH + b * K_HIGH_BIT_BYTES, block->w);
        load_k_scales(unit + Q5_K_SCALES, b, block);
        break;
    case DT_Q6_K:
        load_six_bits(nibbles, unit + Q6_K_HIGH + b * Q6_K_HIGH_BYTES, block->w);
        block->scale = load_q6_k_scale(unit, 2 * b);
        block->scale_high = load_q6_k_scale(unit, 2 * b + 1);
        break;
    default: /* DT_IQ4_XS */
        load_table(nibbles, IQ4_CODES, block->w);
        block->scale = load_iq4_xs_scale(unit, b);
    }
}

/* ---- products ---- */

ALWAYS_INLINE __m512i broadcast4(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}

/* sums[p][r] (+)= the block of panel p times row r, for rows r..r+count-1.  All sums are interleaved, so that no
 * instruction waits for the last one, and what is loaded of a row serves every panel. */
ALWAYS_INLINE void block_rows(const int count, const int panels, enum dtype type, const struct block *blocks,
                              const struct qrows_part *part, int b, struct place place, int64_t r, struct tile *tile) {
    const int8_t *q = part->q + (b * part->rows + r) * QROWS_BLOCK;
    __m512i low[MAX_PANELS][MAX_ROWS_AT_ONCE], high[MAX_PANELS][MAX_ROWS_AT_ONCE];
    for (int i = 0; i < count; i++) {
        __m512i start = _mm512_setzero_si512(), start_high = start;
        if (type == DT_Q6_K) {
            start = _mm512_set1_epi32(part->bias16[2 * b * part->rows + r + i]);
            start_high = _mm512_set1_epi32(part->bias16[(2 * b + 1) * part->rows + r + i]);
        } else if (!packed_has_min(type)) {
            start = _mm512_set1_epi32(part->bias32[b * part->rows + r + i]);
        }
        for (int p = 0; p < panels; p++) {
            low[p][i] = start;
            high[p][i] = start_high;
        }
    }
    for (int g = 0; g < PACKED_GROUPS; g++)
        for (int i = 0; i < count; i++) {
            const __m512i x = broadcast4(q + i * QROWS_BLOCK + g * PACKED_GROUP);
            for (int p = 0; p < panels; p++) {
                __m512i *sum = type == DT_Q6_K && g >= PACKED_GROUPS / 2 ? &high[p][i] : &low[p][i];
                *sum = _mm512_dpbusd_epi32(*sum, blocks[p].w[g], x);
            }
        }
    for (int i = 0; i < count; i++)
        for (int p = 0; p < panels; p++) {
            const __m512 product = _mm512_cvtepi32_ps(low[p][i]);
            __m512 s = place.first ? _mm512_mul_ps(product, blocks[p].scale)
                                   : _mm512_fmadd_ps(product, blocks[p].scale, tile[p].sums[r + i]);
            if (type == DT_Q6_K)
                s = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high[p][i]), blocks[p].scale_high, s);
            if (packed_has_min(type))
                s = _mm512_fnmadd_ps(_mm512_set1_ps(part->sum[b * part->rows + r + i]), blocks[p].min, s);
            if (!place.last) {
                tile[p].sums[r + i] = s;
                continue;
            }
            const __m512 scale = _mm512_set1_ps(part->scale[r + i]);
            tile[p].totals[r + i] =
                place.first_part ? _mm512_mul_ps(s, scale) : _mm512_fmadd_ps(s, scale, tile[p].totals[r + i]);
        }
}

ALWAYS_INLINE void block_all_rows(const int panels, enum dtype type, const struct block *blocks,
                                  const struct qrows_part *part, int b, struct place place, struct tile *tile) {
    const int most = rows_at_once(type);
    int64_t r = 0;
    for (; r + most <= part->rows; r += most)
        block_rows(most, panels, type, blocks, part, b, place, r, tile);
    for (; r + 2 <= part->rows; r += 2)
        block_rows(2, panels, type, blocks, part, b, place, r, tile);
    for (; r < part->rows; r++)
        block_rows(1, panels, type, blocks, part, b, place, r, tile);
}

/* `panels` neighbouring panels times one tile of rows: tile[p].totals[r] = the 16 outputs of row r. */
ALWAYS_INLINE void panel_tile(const int panels, enum dtype type, int64_t unit_blocks, int64_t block_bytes,
                              const uint8_t *panel, int64_t panel_bytes, const struct quantized_rows *x, int64_t row,
                              struct tile *tile) {
    const int64_t n_blocks = x->k / PACKED_BLOCK;
    for (int64_t at = 0; at < n_blocks; at += QROWS_BLOCKS) {
        const struct qrows_part part = qrows_part(x, row, at / QROWS_BLOCKS);
        const int64_t first = at - at % unit_blocks;
        const int64_t n = n_blocks - first < unit_blocks ? n_blocks - first : unit_blocks;
        for (int64_t i = at; i < at + QROWS_BLOCKS && i < n_blocks; i++) {
            struct block blocks[MAX_PANELS];
            for (int p = 0; p < panels; p++) {
                const uint8_t *unit = panel + p * panel_bytes + first * block_bytes;
                for (int64_t line = 0; line < block_bytes; line += 64)
                    _mm_prefetch((const char *)(unit + (i - first) * block_bytes + line + PREFETCH_BYTES), _MM_HINT_T0);
                load_block(type, unit, n, (int)(i - first), &blocks[p]);
            }
            const struct place place = {i == at, i == at + QROWS_BLOCKS - 1 || i == n_blocks - 1, at == 0};
            block_all_rows(panels, type, blocks, &part, (int)(i - at), place, tile);
        }
    }
}

/* y[r][columns of the panel that lie in n_begin..n_end-1] = totals (+ y) */
ALWAYS_INLINE void store_tile(const __m512 *totals, int64_t rows, float last, int64_t column, int64_t n_begin,
                              int64_t n_end, float *y, int64_t ldy, bool accumulate) {
    const int64_t skip = n_begin > column ? n_begin - column : 0;
    const int64_t end = n_end - column < PANEL_COLUMNS ? n_end - column : PANEL_COLUMNS;
    const __mmask16 mask = (__mmask16)(((1u << end) - 1) & ~((1u << skip) - 1));
    for (int64_t r = 0; r < rows; r++, y += ldy) {
        __m512 out = _mm512_mul_ps(totals[r], _mm512_set1_ps(last));
        if (accumulate)
            out = _mm512_add_ps(out, _mm512_maskz_loadu_ps(mask, y + column));
        _mm512_mask_storeu_ps(y + column, mask, out);
    }
}

ALWAYS_INLINE void qgemm(enum dtype type, int64_t unit_blocks, int64_t block_bytes, const struct matrix *w,
                         int64_t n_begin, int64_t n_end, const struct quantized_rows *x, int64_t row_begin,
                         int64_t row_end, float *y, int64_t ldy, bool accumulate) {
    const int64_t panel_bytes = (int64_t)packed_panel_bytes(type, w->k);
    for (int64_t row = row_begin; row < row_end; row += QROWS_TILE)
        for (int64_t column = n_begin - n_begin % PANEL_COLUMNS; column < n_end; column += MAX_PANELS * PANEL_COLUMNS) {
            struct tile tile[MAX_PANELS];
            const uint8_t *panel = (const uint8_t *)w->data + column / PANEL_COLUMNS * panel_bytes;
            const int64_t rows = row_end - row < QROWS_TILE ? row_end - row : QROWS_TILE;
            if (column + PANEL_COLUMNS < n_end)
                panel_tile(MAX_PANELS, type, unit_blocks, block_bytes, panel, panel_bytes, x, row, tile);
            else
                panel_tile(1, type, unit_blocks, block_bytes, panel, panel_bytes, x, row, tile);
            for (int p = 0; p < MAX_PANELS && column + p * PANEL_COLUMNS < n_end; p++)
                store_tile(tile[p].totals, rows, last_scale(type), column + p * PANEL_COLUMNS, n_begin, n_end,
                           y + row * ldy, ldy, accumulate);
        }
}

#define X(type, name, unit_blocks, block_bytes)                                                                        \
    static void qgemm_##name(const struct matrix *w, int64_t n_begin, int64_t n_end, const struct quantized_rows *x,   \
                             int64_t row_begin, int64_t row_end, float *y, int64_t ldy, bool accumulate) {             \
        qgemm(DT_##type, unit_blocks, block_bytes, w, n_begin, n_end, x, row_begin, row_end, y, ldy, accumulate);      \
    }
PACKED_TYPES(X)
#undef X

void kernels_fill_packed_vnni(struct kernels *table) {
    table->quantize_rows = quantize_rows;
#define X(type, name, unit_blocks, block_bytes) table->qgemm[DT_##type] = qgemm_##name;
    PACKED_TYPES(X)
#undef X
}

#endif
