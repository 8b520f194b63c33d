/* The yardstick: every loop does as many multiplications as it says, and the meter gives figures. */
#include <string.h>

#include "core/kernels/limits.h"
#include "tests/kernels/check.h"

static void test_loops(enum peak_kind kind) {
    for (int i = 0; peak_loop_at(kind, i); i++) {
        const struct peak_loop *loop = peak_loop_at(kind, i);
        for (int64_t rounds = 0; rounds < 100; rounds += 33) {
            const double products = (double)rounds * loop->ops_per_round / 2, total = loop->run(rounds);
            check(total == products * loop->product, "%s: %lld rounds sum up to %.0f", loop->name, (long long)rounds,
                  total);
        }
    }
}

static void test_meter(int n_threads) {
    struct l4_err err;
    struct pool *pool;
    struct limits_meter *meter;
    struct l4_bench_limits limits;
    if (pool_open(&pool, n_threads, 64, &err) != L4_OK || limits_open(&meter, pool, &err) != L4_OK) {
        check(false, "%s", err.message);
        return;
    }
    limits_measure(meter, &limits);
    check(limits.read_bytes_per_s > 0 && limits.int8_ops_per_s > 0 && limits.bf16_flops_per_s > 0 &&
              limits.f32_flops_per_s > 0,
          "limits of %d threads: %g %g %g %g", n_threads, limits.read_bytes_per_s, limits.int8_ops_per_s,
          limits.bf16_flops_per_s, limits.f32_flops_per_s);
    limits_close(meter);
    pool_close(pool);
}

int main(int argc, char **argv) {
    const bool quick = argc == 2 && strcmp(argv[1], "--quick") == 0;
    if (argc > 2 || (argc == 2 && !quick)) {
        printf("usage: test_limits [--quick]\n");
        return 2;
    }
    for (int kind = 0; kind < N_PEAK_KINDS; kind++)
        test_loops((enum peak_kind)kind);
    if (!quick) /* under an emulator that takes minutes */
        test_meter(2);
    limits_close(NULL);
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}
