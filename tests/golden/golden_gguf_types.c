/* golden gguf-types PREFIX: every tensor of PREFIX.gguf, widened to float32, against PREFIX.safetensors. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/format/dequant.h"
#include "core/format/gguf.h"
#include "core/format/safetensors.h"
#include "llama4/buf.h"
#include "tests/golden/golden.h"

/* Of the largest value of the row: where a scaled value and a scaled minimum cancel, what is left is their rounding. */
static const float TOLERANCE = 0x1p-22F;

static bool row_matches(const float *row, const float *want, int64_t n, float *worst) {
    float largest = 0, error = 0;
    for (int64_t i = 0; i < n; i++) {
        largest = fmaxf(largest, fabsf(want[i]));
        if (!(fabsf(row[i] - want[i]) <= error)) /* NaN is an error too */
            error = isfinite(row[i]) ? fabsf(row[i] - want[i]) : INFINITY;
    }
    *worst = fmaxf(*worst, largest > 0 ? error / largest : error);
    return error <= TOLERANCE * largest;
}

static bool check_tensor(const char *name, const struct tensor *have, const struct tensor *want) {
    if (!have || !dtype_is_weight(have->type))
        golden_fail("%s: no such tensor of weights in the GGUF file", name);
    if (want->type != DT_F32 || want->n_dims != 2 || have->n_dims != 2 || want->shape[0] != have->shape[0] ||
        want->shape[1] != have->shape[1])
        golden_fail("%s: shapes or types are not of the form expected", name);
    const int64_t n_rows = want->shape[0], n = want->shape[1];
    const size_t row_bytes = dtype_bytes(have->type, n);
    float *row = malloc((size_t)n * sizeof *row), worst = 0;
    if (!row)
        golden_fail("out of memory");
    int64_t n_matched = 0;
    for (int64_t r = 0; r < n_rows; r++) {
        dequantize_row(have->type, (const char *)have->data + (size_t)r * row_bytes, row, n);
        n_matched += row_matches(row, (const float *)want->data + r * n, n, &worst);
    }
    free(row);
    printf("%-8s %lld of %lld rows match, largest error %.1e of the row's largest value\n", dtype_name(have->type),
           (long long)n_matched, (long long)n_rows, (double)worst);
    return n_rows > 0 && n_matched == n_rows;
}

int golden_gguf_types(int argc, char **argv) {
    struct gguf *gguf;
    struct safetensors *values;
    struct l4_buf path = {0};
    struct l4_err err;
    if (argc != 2)
        return GOLDEN_USAGE;
    l4_buf_printf(&path, "%s.gguf", argv[1]);
    if (gguf_open(&gguf, path.data, &err) != 0)
        golden_fail("%s", err.message);
    l4_buf_free(&path);
    l4_buf_printf(&path, "%s.safetensors", argv[1]);
    if (safetensors_open(&values, path.data, &err) != 0)
        golden_fail("%s", err.message);
    l4_buf_free(&path);
    size_t n = safetensors_count(values), n_matched = 0;
    for (size_t i = 0; i < n; i++) {
        const char *name = safetensors_name(values, i);
        n_matched += check_tensor(name, gguf_find_tensor(gguf, name, NULL), safetensors_at(values, i));
    }
    bool ok = golden_report("types", n_matched, n) && n == gguf_n_tensors(gguf);
    safetensors_close(values);
    gguf_close(gguf);
    return ok ? GOLDEN_OK : GOLDEN_MISMATCH;
}
