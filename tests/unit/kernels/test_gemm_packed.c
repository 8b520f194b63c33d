/* Products with packed weights when memory runs out: y stays, and a repeated product takes none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/format/quantize.h"
#include "core/kernels/gemm.h"
#include "core/kernels/packed.h"
#include "tests/lib/failmalloc.h"
#include "tests/lib/random_data.h"

enum { N = 48, K = 256, M = 70, TASKS = 3 };

static void test_out_of_memory(void **state) {
    (void)state;
    static float rows[N * K], x[M * K], first[N * M], y[TASKS][N * M];
    static uint8_t blocks[N * K * 2];
    struct rng rng = {3};
    rng_fill(&rng, rows, N * K, 1);
    rng_fill(&rng, x, M * K, 1);
    quantize_row(DT_Q8_0, rows, blocks, N * K);
    size_t bytes;
    assert_true(packed_bytes(DT_Q8_0, N, K, &bytes));
    char *panels = aligned_alloc(PACKED_ALIGNMENT, bytes);
    assert_non_null(panels);
    const size_t row_bytes = dtype_bytes(DT_Q8_0, K), panel_bytes = packed_panel_bytes(DT_Q8_0, K);
    for (size_t j = 0; j < N / PANEL_COLUMNS; j++)
        pack_panel(DT_Q8_0, blocks + j * PANEL_COLUMNS * row_bytes, row_bytes, PANEL_COLUMNS, K,
                   panels + j * panel_bytes);

    struct arena arena = {0};
    struct exec exec = {.arena = &arena};
    assert_int_equal(kernels_get(&exec.kernels, NULL), 0);
    assert_int_equal(pool_open(&exec.pool, 2, GEMM_SCRATCH_BYTES, NULL), 0);
    struct gemm_task tasks[TASKS];
    for (int t = 0; t < TASKS; t++) /* the last one has an input of its own */
        tasks[t] = (struct gemm_task){.w = {DT_Q8_0, MATRIX_PACKED, N, K, 0, panels},
                                      .x = t < 2 ? x : x + K,
                                      .ldx = K,
                                      .m = M - 1,
                                      .y = y[t],
                                      .ldy = N};
    int n_failed = 0;
    FAILMALLOC_EACH(n) {
        memset(y, 0, sizeof y);
        const int rc = gemm_run(&exec, tasks, TASKS);
        const bool failed = failmalloc_disarm();
        assert_int_equal(rc, failed ? L4_E_NOMEM : L4_OK);
        for (int t = 0; t < TASKS; t++)
            assert_true((y[t][0] == 0) == failed);
        n_failed += failed;
        if (failed)
            arena_fini(&arena);
    }
    assert_true(n_failed >= 1);
    assert_int_equal(gemm_run(&exec, tasks, TASKS), L4_OK); /* the arena's blocks become one */
    memcpy(first, y[2], sizeof first);
    memset(y, 0, sizeof y);
    failmalloc_arm(1);
    assert_int_equal(gemm_run(&exec, tasks, TASKS), L4_OK);
    assert_false(failmalloc_disarm());
    assert_memory_equal(first, y[2], sizeof first);
    pool_close(exec.pool);
    arena_fini(&arena);
    free(panels);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
