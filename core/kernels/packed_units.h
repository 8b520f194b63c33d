/* Where things lie in a unit of a packed panel (see packed.h). */
#ifndef CORE_KERNELS_PACKED_UNITS_H
#define CORE_KERNELS_PACKED_UNITS_H

#include "core/kernels/packed.h"

enum {
    SHORT_UNIT_BLOCKS = 4, /* Q4_0, Q8_0, MXFP4: units of 128 */
    LONG_UNIT_BLOCKS = 8,  /* the others: units of 256, always whole */
    NIBBLES_BYTES = PANEL_COLUMNS * PACKED_BLOCK / 2,
    BYTES_BYTES = PANEL_COLUMNS * PACKED_BLOCK,
    HALVES_BYTES = PANEL_COLUMNS * 2, /* 16 f16 */

    /* Q4_K and Q5_K: values, high bits, then [8][16] bytes scale | minimum << 4 (low four bits of each), [4][16] bytes
     * with the high two bits: of the even block's scale, the odd one's, the even one's minimum, the odd one's; d; d_min
     */
    K_HIGH_BIT_BYTES = PANEL_COLUMNS * PACKED_BLOCK / 8,
    K_SCALES_BYTES = LONG_UNIT_BLOCKS * PANEL_COLUMNS + LONG_UNIT_BLOCKS / 2 * PANEL_COLUMNS,
    Q4_K_SCALES = LONG_UNIT_BLOCKS * NIBBLES_BYTES,
    Q4_K_BYTES = Q4_K_SCALES + K_SCALES_BYTES + 2 * HALVES_BYTES,
    Q5_K_HIGH = LONG_UNIT_BLOCKS * NIBBLES_BYTES,
    Q5_K_SCALES = Q5_K_HIGH + LONG_UNIT_BLOCKS * K_HIGH_BIT_BYTES,
    Q5_K_BYTES = Q5_K_SCALES + K_SCALES_BYTES + 2 * HALVES_BYTES,

    /* Q6_K: values, two high bits, [16][16] scales i8, one for 16 elements; d; filled up to 64 */
    Q6_K_HIGH = LONG_UNIT_BLOCKS * NIBBLES_BYTES,
    Q6_K_HIGH_BYTES = PANEL_COLUMNS * PACKED_BLOCK / 4,
    Q6_K_SCALES = Q6_K_HIGH + LONG_UNIT_BLOCKS * Q6_K_HIGH_BYTES,
    Q6_K_D = Q6_K_SCALES + 2 * LONG_UNIT_BLOCKS * PANEL_COLUMNS,
    Q6_K_BYTES = Q6_K_D + HALVES_BYTES + 32,

    /* IQ4_XS: values, [4][16] bytes with the low four bits of the even and the odd block's scale, [2][16] bytes with
     * the high two bits of four blocks; d */
    IQ4_XS_LOW = LONG_UNIT_BLOCKS * NIBBLES_BYTES,
    IQ4_XS_HIGH = IQ4_XS_LOW + LONG_UNIT_BLOCKS / 2 * PANEL_COLUMNS,
    IQ4_XS_D = IQ4_XS_HIGH + LONG_UNIT_BLOCKS / 4 * PANEL_COLUMNS,
    IQ4_XS_BYTES = IQ4_XS_D + HALVES_BYTES
};

/* X(type, name, blocks a unit, bytes a block, scales and all).  A unit with fewer blocks has the values of these, then
 * their scales. */
#define PACKED_TYPES(X)                                                                                                \
    X(Q4_0, q4_0, SHORT_UNIT_BLOCKS, NIBBLES_BYTES + HALVES_BYTES)                                                     \
    X(Q8_0, q8_0, SHORT_UNIT_BLOCKS, BYTES_BYTES + HALVES_BYTES)                                                       \
    X(MXFP4, mxfp4, SHORT_UNIT_BLOCKS, NIBBLES_BYTES + PANEL_COLUMNS)                                                  \
    X(Q4_K, q4_k, LONG_UNIT_BLOCKS, Q4_K_BYTES / LONG_UNIT_BLOCKS)                                                     \
    X(Q5_K, q5_k, LONG_UNIT_BLOCKS, Q5_K_BYTES / LONG_UNIT_BLOCKS)                                                     \
    X(Q6_K, q6_k, LONG_UNIT_BLOCKS, Q6_K_BYTES / LONG_UNIT_BLOCKS)                                                     \
    X(IQ4_XS, iq4_xs, LONG_UNIT_BLOCKS, IQ4_XS_BYTES / LONG_UNIT_BLOCKS)

/* The 16 values of a code, + 128; MXFP4's doubled. */
static const uint8_t IQ4_CODES[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t MXFP4_CODES[16] = {128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116};

/* Has the type a minimum, which is taken off beside the scale?  The others are symmetric. */
static inline bool packed_has_min(enum dtype type) {
    return type == DT_Q4_K || type == DT_Q5_K;
}

_Static_assert(Q4_K_BYTES % 64 == 0 && Q5_K_BYTES % 64 == 0 && Q6_K_BYTES % 64 == 0 && IQ4_XS_BYTES % 64 == 0,
               "vectors of a unit are aligned");

#endif
