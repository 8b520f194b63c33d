#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/model/router.h"
#include "tests/lib/random_data.h"

enum { MAX_EXPERTS = 40, MAX_K = 5 };

/* Sort all by (logit, index), slowly. */
static void naive_top_k(const float *logits, int32_t n, int32_t top_k, int32_t *index) {
    int32_t order[MAX_EXPERTS];
    for (int32_t i = 0; i < n; i++)
        order[i] = i;
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j + 1 < n; j++)
            if (logits[order[j + 1]] > logits[order[j]]) {
                int32_t swap = order[j];
                order[j] = order[j + 1];
                order[j + 1] = swap;
            }
    for (int32_t k = 0; k < top_k; k++)
        index[k] = order[k];
}

static void test_against_naive(void **state) {
    (void)state;
    struct rng rng = {1};
    for (int round = 0; round < 500; round++) {
        int32_t n = 1 + (int32_t)rng_below(&rng, MAX_EXPERTS), top_k = 1 + (int32_t)rng_below(&rng, MAX_K);
        if (top_k > n)
            top_k = n;
        float logits[3 * MAX_EXPERTS], weights[3 * MAX_K];
        int32_t index[3 * MAX_K], want[MAX_K];
        for (int i = 0; i < 3 * n; i++) /* few different values: many ties */
            logits[i] = round % 2 ? 8 * rng_float(&rng) : (float)rng_below(&rng, 4);
        router_top_k(logits, 3, n, top_k, weights, index);
        for (int t = 0; t < 3; t++) {
            naive_top_k(logits + t * n, n, top_k, want);
            for (int32_t k = 0; k < top_k; k++) {
                assert_int_equal(index[t * top_k + k], want[k]);
                double sigmoid = 1 / (1 + exp(-(double)logits[t * n + want[k]]));
                assert_true(fabs(weights[t * top_k + k] - sigmoid) < 1e-6);
            }
        }
    }
}

static void test_extremes(void **state) {
    (void)state;
    const float logits[4][4] = {{-1000, INFINITY, 1000, -INFINITY},
                                {NAN, NAN, NAN, NAN},
                                {NAN, -INFINITY, NAN, -3},
                                {-INFINITY, -INFINITY, NAN, -INFINITY}};
    const int32_t want[4][3] = {{1, 2, 0}, {0, 1, 2}, {3, 0, 1}, {0, 1, 2}};
    float weights[12];
    int32_t index[12];
    router_top_k(logits[0], 4, 4, 3, weights, index);
    for (int t = 0; t < 4; t++)
        for (int k = 0; k < 3; k++)
            assert_int_equal(index[t * 3 + k], want[t][k]);
    assert_true(weights[0] == 1 && weights[1] == 1 && weights[2] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_naive),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
