/* Products with packed BF16 weights: the reference in plain C. */
#include "core/kernels/bf16_rows.h"
#include "core/kernels/packed.h"
#include "core/kernels/variants.h"

/* One addition an iteration: of two, GCC 12 at -O3 makes vectors that pair the wrong elements. */
static float dot(const uint16_t *w, const uint16_t *x, int64_t n_pairs, float sum) {
    for (int64_t i = 0; i < 2 * n_pairs; i++) {
        const int64_t k = i ^ 1; /* the second of a pair first; products are exact */
        sum += bf16_to_f32(w[k / 2 * 2 * PANEL_COLUMNS + k % 2]) * bf16_to_f32(x[k]);
    }
    return sum;
}

static void qgemm_bf16(const struct matrix *w, int64_t n_begin, int64_t n_end, const struct quantized_rows *x,
                       int64_t row_begin, int64_t row_end, float *y, int64_t ldy, bool accumulate) {
    const int64_t n_pairs = (w->k + 1) / 2, stride = bf16_rows_stride(w->k);
    for (int64_t j = n_begin; j < n_end; j++) {
        const int64_t in_panel = j % PANEL_COLUMNS;
        const uint16_t *column = (const uint16_t *)w->data + 2 * ((j - in_panel) * n_pairs + in_panel);
        for (int64_t row = row_begin; row < row_end; row++)
            y[row * ldy + j] =
                dot(column, (const uint16_t *)x->data + row * stride, n_pairs, accumulate ? y[row * ldy + j] : 0);
    }
}

void kernels_fill_bf16_ref(struct kernels *table) {
    table->round_rows = round_rows;
    table->qgemm[DT_BF16] = qgemm_bf16;
}
