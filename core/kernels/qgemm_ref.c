/* Products with packed weights: the reference in plain C. */
#include "core/kernels/qgemm_loops.h"

ALWAYS_INLINE void add_block(enum dtype type, const struct expanded *block, const struct qrows_part *part, int b,
                             struct tile_sums *sums) {
    (void)type;
    for (int64_t r = 0; r < part->rows; r++) {
        const int8_t *q = part->q + (b * part->rows + r) * QROWS_BLOCK;
        int32_t dots[2][PANEL_COLUMNS] = {{0}};
        for (int g = 0; g < PACKED_GROUPS; g++)
            for (int c = 0; c < PANEL_COLUMNS; c++)
                for (int i = 0; i < PACKED_GROUP; i++)
                    dots[g / 4][c] += block->value[g][c][i] * q[g * PACKED_GROUP + i];
        const float sum = part->sum[b * part->rows + r];
        for (int c = 0; c < PANEL_COLUMNS; c++) {
            sums->part[r][c] += (float)dots[0][c] * block->scale[0][c];
            sums->part[r][c] += (float)dots[1][c] * block->scale[1][c];
            sums->part[r][c] -= sum * block->min[c];
        }
    }
}

ALWAYS_INLINE void add_part(const struct qrows_part *part, struct tile_sums *sums) {
    for (int64_t r = 0; r < part->rows; r++)
        for (int c = 0; c < PANEL_COLUMNS; c++)
            sums->whole[r][c] += sums->part[r][c] * part->scale[r];
}

QGEMM_OF_EVERY_TYPE

void kernels_fill_packed_ref(struct kernels *table) {
    fill_packed(table);
}
