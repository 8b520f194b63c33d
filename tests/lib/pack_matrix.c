#include "tests/lib/pack_matrix.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/format/quantize.h"
#include "core/kernels/packed.h"
#include "tests/lib/random_data.h"

static void *must_alloc(size_t bytes) {
    void *p = aligned_alloc(PACKED_ALIGNMENT, (bytes + PACKED_ALIGNMENT - 1) & ~(size_t)(PACKED_ALIGNMENT - 1));
    if (!p) {
        fprintf(stderr, "pack_matrix: out of memory\n");
        exit(2);
    }
    return p;
}

void *pack_matrix(struct matrix *matrix, enum dtype type) {
    const int64_t n = matrix->n, k = matrix->k;
    const size_t row_bytes = dtype_bytes(type, k), panel_bytes = packed_panel_bytes(type, k);
    const int64_t n_panels = (n + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    char *panels = must_alloc((size_t)n_panels * panel_bytes), *blocks = must_alloc(PANEL_COLUMNS * row_bytes);
    float *row = must_alloc((size_t)k * sizeof *row);
    for (int64_t panel = 0; panel < n_panels; panel++) {
        const int64_t first = panel * PANEL_COLUMNS, left = n - first < PANEL_COLUMNS ? n - first : PANEL_COLUMNS;
        for (int64_t j = 0; j < left; j++) {
            for (int64_t i = 0; i < k; i++) {
                const bool out_in = matrix->layout == MATRIX_OUT_IN;
                const int64_t at = out_in ? (first + j) * matrix->stride + i : i * matrix->stride + first + j;
                row[i] = weight_at(matrix->type, matrix->data, (size_t)at);
            }
            quantize_row(type, row, blocks + (size_t)j * row_bytes, k);
        }
        pack_panel(type, blocks, row_bytes, (int)left, k, panels + (size_t)panel * panel_bytes);
    }
    free(blocks);
    free(row);
    *matrix = (struct matrix){.type = type, .layout = MATRIX_PACKED, .n = n, .k = k, .data = panels};
    return panels;
}
