/* Sizes and packing.  A row's blocks are taken apart into vectors of [16 columns][4 elements]. */
#include "core/kernels/packed.h"

#include <assert.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/kernels/packed_expand.h"

/* Packs n blocks of 32 (one unit) of one row into column c of a unit. */
typedef void pack_fn(const uint8_t *row, int64_t n, int c, uint8_t *unit);

/* 16 bytes that hold elements j (low) and j + 16 (high) */
static void put_nibbles(const uint8_t *q, int c, uint8_t *block) {
    for (int i = 0; i < PACKED_GROUPS / 2; i++)
        memcpy(block + i * PACKED_GROUP_BYTES + c * PACKED_GROUP, q + i * PACKED_GROUP, PACKED_GROUP);
}

static void pack_q4_0(const uint8_t *row, int64_t n, int c, uint8_t *unit) {
    for (int64_t b = 0; b < n; b++, row += 18) {
        memcpy(unit + n * NIBBLES_BYTES + b * HALVES_BYTES + 2 * c, row, 2);
        put_nibbles(row + 2, c, unit + b * NIBBLES_BYTES);
    }
}

static void pack_q8_0(const uint8_t *row, int64_t n, int c, uint8_t *unit) {
    for (int64_t b = 0; b < n; b++, row += 34) {
        memcpy(unit + n * BYTES_BYTES + b * HALVES_BYTES + 2 * c, row, 2);
        for (int g = 0; g < PACKED_GROUPS; g++) {
            uint32_t four;
            memcpy(&four, row + 2 + g * PACKED_GROUP, sizeof four);
            four ^= 0x80808080;
            memcpy(unit + b * BYTES_BYTES + g * PACKED_GROUP_BYTES + c * PACKED_GROUP, &four, sizeof four);
        }
    }
}

static void pack_mxfp4(const uint8_t *row, int64_t n, int c, uint8_t *unit) {
    for (int64_t b = 0; b < n; b++, row += 17) {
        unit[n * NIBBLES_BYTES + b * PANEL_COLUMNS + c] = row[0];
        put_nibbles(row + 1, c, unit + b * NIBBLES_BYTES);
    }
}

/* 32 bytes that hold the elements of an even block (low) and of the odd one after it (high), as two blocks' nibbles */
static void put_two_blocks(const uint8_t *q, int c, uint8_t *even) {
    uint8_t blocks[2][16];
    for (int j = 0; j < 16; j++) {
        blocks[0][j] = (uint8_t)((q[j] & 15) | q[j + 16] << 4);
        blocks[1][j] = (uint8_t)(q[j] >> 4 | (q[j + 16] & 0xf0));
    }
    put_nibbles(blocks[0], c, even);
    put_nibbles(blocks[1], c, even + NIBBLES_BYTES);
}

/* Eight scales and minima of six bits, and the two f16 that stand before them. */
static void put_k_scales(const uint8_t *row, int c, uint8_t *scales) {
    const uint8_t *s = row + 4;
    uint8_t scale[LONG_UNIT_BLOCKS], min[LONG_UNIT_BLOCKS];
    for (int b = 0; b < LONG_UNIT_BLOCKS; b++) {
        scale[b] = (uint8_t)(b < 4 ? s[b] & 63 : (s[b + 4] & 15) | s[b - 4] >> 6 << 4);
        min[b] = (uint8_t)(b < 4 ? s[b + 4] & 63 : s[b + 4] >> 4 | s[b] >> 6 << 4);
        scales[b * PANEL_COLUMNS + c] = (uint8_t)((scale[b] & 15) | min[b] << 4);
    }
    for (int b = 0; b < LONG_UNIT_BLOCKS; b += 2)
        scales[(LONG_UNIT_BLOCKS + b / 2) * PANEL_COLUMNS + c] =
            (uint8_t)(scale[b] >> 4 | scale[b + 1] >> 4 << 2 | min[b] >> 4 << 4 | min[b + 1] >> 4 << 6);
    memcpy(scales + K_SCALES_BYTES + 2 * c, row, 2);
    memcpy(scales + K_SCALES_BYTES + HALVES_BYTES + 2 * c, row + 2, 2);
}

static void pack_q4_k(const uint8_t *row, int64_t n, int c, uint8_t *unit) {
    for (int b = 0; b < n; b += 2)
        put_two_blocks(row + 16 + b * 16, c, unit + b * NIBBLES_BYTES);
    put_k_scales(row, c, unit + Q4_K_SCALES);
}

/* Bit b of high[l] is the fifth of element l of block b; here bit g of byte i is that of element 4 g + i. */
static void pack_q5_k(const uint8_t *row, int64_t n, int c, uint8_t *unit) {
    const uint8_t *high = row + 16;
    for (int b = 0; b < n; b++) {
        uint8_t *out = unit + Q5_K_HIGH + b * K_HIGH_BIT_BYTES + c * PACKED_GROUP;
        for (int i = 0; i < PACKED_GROUP; i++) {
            unsigned bits = 0;
            for (int g = 0; g < PACKED_GROUPS; g++)
                bits |= (high[g * PACKED_GROUP + i] >> b & 1u) << g;
            out[i] = (uint8_t)bits;
        }
        if (b % 2 == 0)
            put_two_blocks(row + 48 + b * 16, c, unit + b * NIBBLES_BYTES);
    }
    put_k_scales(row, c, unit + Q5_K_SCALES);
}

static void pack_q6_k(const uint8_t *row, int64_t n, int c, uint8_t *unit) {
    for (int b = 0; b < n; b++) {
        const uint8_t *low = row + b / 4 * 64 + b % 2 * 32, *high = row + 128 + b / 4 * 32;
        const int low_shift = b % 4 / 2 * 4, high_shift = b % 4 * 2;
        uint8_t nibbles[16], *out = unit + Q6_K_HIGH + b * Q6_K_HIGH_BYTES + c * PACKED_GROUP;
        for (int j = 0; j < 16; j++)
            nibbles[j] = (uint8_t)((low[j] >> low_shift & 15) | (low[j + 16] >> low_shift & 15) << 4);
        put_nibbles(nibbles, c, unit + b * NIBBLES_BYTES);
        for (int half = 0; half < 2; half++)
            for (int i = 0; i < PACKED_GROUP; i++) {
                unsigned bits = 0;
                for (int g = 0; g < 4; g++)
                    bits |= (high[half * 16 + g * PACKED_GROUP + i] >> high_shift & 3u) << 2 * g;
                out[half * PACKED_GROUP_BYTES + i] = (uint8_t)bits;
            }
        unit[Q6_K_SCALES + 2 * b * PANEL_COLUMNS + c] = row[192 + 2 * b];
        unit[Q6_K_SCALES + (2 * b + 1) * PANEL_COLUMNS + c] = row[192 + 2 * b + 1];
    }
    memcpy(unit + Q6_K_D + 2 * c, row + 208, 2);
}

static void pack_iq4_xs(const uint8_t *row, int64_t n, int c, uint8_t *unit) {
    for (int b = 0; b < n; b++)
        put_nibbles(row + 8 + b * 16, c, unit + b * NIBBLES_BYTES);
    for (int i = 0; i < LONG_UNIT_BLOCKS / 2; i++)
        unit[IQ4_XS_LOW + i * PANEL_COLUMNS + c] = row[4 + i];
    for (int i = 0; i < LONG_UNIT_BLOCKS / 4; i++)
        unit[IQ4_XS_HIGH + i * PANEL_COLUMNS + c] = row[2 + i];
    memcpy(unit + IQ4_XS_D + 2 * c, row, 2);
}

static const struct packing {
    int64_t unit_blocks, block_bytes;
    pack_fn *pack;
} PACKINGS[DT_COUNT] = {
#define X(type, name, unit_blocks, block_bytes) [DT_##type] = {unit_blocks, block_bytes, pack_##name},
    PACKED_TYPES(X)
#undef X
};

bool packed_has_type(enum dtype type) {
    return type == DT_BF16 || PACKINGS[type].unit_blocks != 0;
}

size_t packed_panel_bytes(enum dtype type, int64_t k) {
    if (type == DT_BF16)
        return (size_t)((k + 1) / 2) * PACKED_PAIRS_BYTES;
    const size_t bytes = (size_t)(k / PACKED_BLOCK * PACKINGS[type].block_bytes);
    return (bytes + PACKED_ALIGNMENT - 1) & ~(size_t)(PACKED_ALIGNMENT - 1);
}

bool packed_bytes(enum dtype type, int64_t n, int64_t k, size_t *bytes) {
    size_t row_bytes; /* a panel has at most 32 times as many: of a row that fits in half of memory */
    return packed_has_type(type) && n >= 0 && k > 0 && dtype_bytes_checked(type, k, &row_bytes) &&
           row_bytes < SIZE_MAX / 64 &&
           checked_mul_size((size_t)(n / PANEL_COLUMNS + (n % PANEL_COLUMNS != 0)), packed_panel_bytes(type, k), bytes);
}

/* A cache line of every row at a time. */
static void pack_bf16(const uint8_t *rows, size_t row_bytes, int n_columns, int64_t k, uint8_t *panel) {
    enum { LINE_PAIRS = 16, PAIR_BYTES = 4 };
    for (int64_t pair = 0; pair < k / 2; pair += LINE_PAIRS) {
        const int64_t n = k / 2 - pair < LINE_PAIRS ? k / 2 - pair : LINE_PAIRS;
        for (int c = 0; c < n_columns; c++)
            for (int64_t i = pair; i < pair + n; i++)
                memcpy(panel + i * PACKED_PAIRS_BYTES + c * PAIR_BYTES, rows + (size_t)c * row_bytes + i * PAIR_BYTES,
                       PAIR_BYTES);
    }
    for (int c = 0; c < n_columns && k % 2; c++)
        memcpy(panel + k / 2 * PACKED_PAIRS_BYTES + c * PAIR_BYTES, rows + (size_t)c * row_bytes + (k - 1) * 2, 2);
}

void pack_panels_in_out(const uint16_t *rows, size_t row_bytes, int64_t n_columns, int64_t k, void *panels) {
    const size_t panel_bytes = packed_panel_bytes(DT_BF16, k);
    const int64_t n_panels = (n_columns + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    memset(panels, 0, (size_t)n_panels * panel_bytes);
    for (int64_t i = 0; i < k; i++) {
        const uint16_t *row = (const uint16_t *)((const char *)rows + (size_t)i * row_bytes);
        for (int64_t c = 0; c < n_columns; c += PANEL_COLUMNS) {
            const int64_t n = n_columns - c < PANEL_COLUMNS ? n_columns - c : PANEL_COLUMNS;
            uint16_t *pairs = (uint16_t *)((char *)panels + (size_t)(c / PANEL_COLUMNS) * panel_bytes) + i / 2 * 32;
            for (int64_t j = 0; j < n; j++)
                pairs[2 * j + i % 2] = row[c + j];
        }
    }
}

void pack_panel(enum dtype type, const void *rows, size_t row_bytes, int n_columns, int64_t k, void *panel) {
    const struct packing *packing = &PACKINGS[type];
    const int64_t blocks = k / PACKED_BLOCK;
    memset(panel, 0, packed_panel_bytes(type, k));
    if (type == DT_BF16) {
        pack_bf16(rows, row_bytes, n_columns, k, panel);
        return;
    }
    for (int64_t b = 0; b < blocks; b += packing->unit_blocks) {
        const int64_t n = blocks - b < packing->unit_blocks ? blocks - b : packing->unit_blocks;
        const size_t at = dtype_bytes(type, b * PACKED_BLOCK);
        for (int c = 0; c < n_columns; c++)
            packing->pack((const uint8_t *)rows + (size_t)c * row_bytes + at, n, c,
                          (uint8_t *)panel + b * packing->block_bytes);
    }
}

static void widen_bf16(const struct matrix *w, int64_t column, int64_t n_columns, int64_t k, int64_t n, float *dst,
                       int64_t stride) {
    const int64_t n_pairs = (w->k + 1) / 2;
    for (int64_t j = 0; j < n_columns; j++) {
        const int64_t in_panel = (column + j) % PANEL_COLUMNS;
        const uint16_t *pairs = (const uint16_t *)w->data + 2 * ((column + j - in_panel) * n_pairs + in_panel);
        for (int64_t i = 0; i < n; i++)
            dst[j * stride + i] = bf16_to_f32(pairs[(k + i) / 2 * 2 * PANEL_COLUMNS + (k + i) % 2]);
    }
}

void packed_widen(const struct matrix *w, int64_t column, int64_t n_columns, int64_t k, int64_t n, float *dst,
                  int64_t stride) {
    if (w->type == DT_BF16) {
        widen_bf16(w, column, n_columns, k, n, dst, stride);
        return;
    }
    const struct packing *packing = &PACKINGS[w->type];
    const int64_t blocks = w->k / PACKED_BLOCK, panel_bytes = (int64_t)packed_panel_bytes(w->type, w->k);
    for (int64_t j = 0; j < n_columns; j += PANEL_COLUMNS) {
        const uint8_t *panel = (const uint8_t *)w->data + (column + j) / PANEL_COLUMNS * panel_bytes;
        const int columns = (int)(n_columns - j < PANEL_COLUMNS ? n_columns - j : PANEL_COLUMNS);
        for (int64_t i = 0; i < n; i += PACKED_BLOCK) {
            const int64_t b = (k + i) / PACKED_BLOCK, first = b - b % packing->unit_blocks;
            const int64_t in_unit = blocks - first < packing->unit_blocks ? blocks - first : packing->unit_blocks;
            struct expanded block;
            expand_block(w->type, panel + first * packing->block_bytes, in_unit, (int)(b - first), &block);
            for (int c = 0; c < columns; c++)
                for (int e = 0; e < PACKED_BLOCK; e++)
                    dst[(j + c) * stride + i + e] =
                        (float)block.value[e / PACKED_GROUP][c][e % PACKED_GROUP] * block.scale[e / 16][c] -
                        block.min[c];
        }
    }
}
