/* Products with weights of every block type: right, and the same bits whatever the number of rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/format/dequant.h"
#include "core/format/gguf.h"
#include "core/kernels/gemm.h"
#include "tests/lib/random_data.h"
#include "tests/lib/sanitized.h"

enum { N = 83, K = 5 * 512, M = 13 }; /* ragged panels both ways */

static void run(const struct kernels *kernels, enum gemm_impl impl, int n_threads, const struct matrix *w,
                const float *x, int64_t m, const float *bias, float *y) {
    struct arena arena = {0};
    struct exec exec = {.kernels = kernels, .arena = &arena};
    assert_int_equal(pool_open(&exec.pool, n_threads, GEMM_SCRATCH_BYTES, NULL), 0);
    struct gemm_task task = {.impl = impl, .w = *w, .bias = bias, .x = x, .ldx = K, .m = m, .y = y, .ldy = N};
    assert_int_equal(gemm_run(&exec, &task, 1), L4_OK);
    pool_close(exec.pool);
    arena_fini(&arena);
}

static void check_type(const struct tensor *rows, const float *x, const float *bias) {
    static float y[M * N], again[M * N], wide[K];
    const size_t row_bytes = dtype_bytes(rows->type, 512);
    uint8_t *data = malloc(N * 5 * row_bytes);
    assert_non_null(data);
    for (size_t i = 0; i < N * 5; i++) /* the fixture's four rows, again and again */
        memcpy(data + i * row_bytes, (const uint8_t *)rows->data + i * 7 % 4 * row_bytes, row_bytes);
    const struct matrix w = {.type = rows->type, .layout = MATRIX_OUT_IN, .n = N, .k = K, .stride = K, .data = data};
    for (int v = 0; kernels_names()[v]; v++) {
        const struct kernels *kernels = kernels_by_name(kernels_names()[v]);
        run(kernels, GEMM_OWN, 2, &w, x, M, bias, y);
        for (int64_t i = 0; i < M; i++) {
            run(kernels, GEMM_OWN, 1, &w, x + i * K, 1, bias, again);
            assert_memory_equal(again, y + i * N, N * sizeof *y);
        }
        run(kernels, GEMM_OPENBLAS, 2, &w, x, M, bias, again);
        for (int64_t j = 0; j < N; j++) {
            dequantize_row(w.type, data + (size_t)j * 5 * row_bytes, wide, K);
            for (int64_t i = 0; i < M; i++) {
                double want = bias ? (double)bias[j] : 0, scale = 1e-30;
                for (int64_t k = 0; k < K; k++) {
                    want += (double)x[i * K + k] * (double)wide[k];
                    scale += fabs((double)x[i * K + k] * (double)wide[k]);
                }
                assert_true(fabs((double)y[i * N + j] - want) <= 1e-5 * scale);
                assert_true(fabs((double)again[i * N + j] - want) <= 1e-5 * scale);
            }
        }
    }
    free(data);
}

static void test_block_types(void **state) {
    (void)state;
    static const char *const names[] = {"q4_0",   "q8_0",    "q4_k",  "q5_k",  "q6_k",
                                        "iq4_xs", "iq2_xxs", "iq1_m", "mxfp4", "q3_k"};
    static float x[M * K], bias[N];
    struct rng rng = {5};
    struct gguf *gguf;
    rng_fill(&rng, x, M * K, 1);
    rng_fill(&rng, bias, N, 1);
    assert_int_equal(gguf_open(&gguf, "tests/fixtures/gguf_types.gguf", NULL), 0);
    for (size_t i = 0; i < sizeof names / sizeof *names; i += SANITIZED ? 3 : 1)
        check_type(gguf_find_tensor(gguf, names[i], NULL), x, i % 2 ? bias : NULL);
    gguf_close(gguf);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_block_types)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
