/* The sampler against a plain restatement of its rules in double with a full sort, and against its own promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/sample/sampler.h"
#include "tests/lib/failmalloc.h"
#include "tests/lib/random_data.h"

enum { MAX_VOCAB = 5000 };

static const struct kernels *kernels;

static struct l4_sampling plain(float temperature) {
    return (struct l4_sampling){.temperature = temperature, .top_p = 1, .repetition_penalty = 1};
}

static struct sampler *open_sampler(int32_t vocab_size) {
    struct sampler *sampler = NULL;
    assert_int_equal(sampler_open(&sampler, vocab_size, kernels), 0);
    return sampler;
}

static uint64_t random_state;
static uint64_t random_next(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}
static double random_unit(void) {
    return (double)(random_next() >> 11) * 0x1p-53;
}

/* ---- the restatement -------------------------------------------------------------------------------------------- */

struct seen {
    int prompt[MAX_VOCAB], answer[MAX_VOCAB]; /* counts */
};

struct ranked {
    double value;
    int id;
};

static int by_value(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    return x->id - y->id;
}

static void expected_probs(const struct l4_sampling *s, const struct seen *seen, const float *logits, int n,
                           double *probs) {
    static struct ranked ranked[MAX_VOCAB];
    for (int i = 0; i < n; i++) {
        double x = isnan(logits[i]) ? -INFINITY : (double)logits[i];
        for (size_t b = 0; b < s->n_logit_bias; b++)
            if (s->logit_bias[b].id == i)
                x += (double)s->logit_bias[b].bias;
        if (seen->prompt[i] + seen->answer[i] > 0)
            x = x > 0 ? x / (double)s->repetition_penalty : x * (double)s->repetition_penalty;
        if (seen->answer[i] > 0)
            x -= (double)s->presence_penalty + (double)s->frequency_penalty * seen->answer[i];
        ranked[i] = (struct ranked){x, i};
        probs[i] = 0;
    }
    qsort(ranked, (size_t)n, sizeof *ranked, by_value);
    int kept = s->top_k > 0 && s->top_k < n ? s->top_k : n;
    while (kept < n && ranked[kept].value == ranked[kept - 1].value)
        kept++;
    double max = ranked[0].value, total = 0, before = 0;
    if (s->temperature == 0)
        kept = 1;
    for (int i = 0; i < kept; i++)
        total += s->temperature == 0 ? 1 : exp((ranked[i].value - max) / (double)s->temperature);
    int last = 0;
    for (; last < kept; last++) {
        double p = s->temperature == 0 ? 1 : exp((ranked[last].value - max) / (double)s->temperature) / total;
        if ((last > 0 && s->top_p < 1 && before >= (double)s->top_p) || p * total < (double)s->min_p)
            break;
        before += p;
        probs[ranked[last].id] = p;
    }
    for (int i = 0; i < n; i++)
        probs[i] /= before;
}

static void assert_probs(const float *probs, const double *expected, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        if (fabs((double)probs[i] - expected[i]) > 2e-6)
            fail_msg("id %d: %.9g, expected %.9g", i, (double)probs[i], expected[i]);
        if (probs[i] == 0 ? expected[i] > 1e-20 : expected[i] == 0)
            fail_msg("id %d: %.9g, expected %.9g", i, (double)probs[i], expected[i]);
        sum += (double)probs[i];
    }
    assert_true(fabs(sum - 1) < 1e-5);
}

static void test_random_settings(void **state) {
    (void)state;
    static float logits[MAX_VOCAB], probs[MAX_VOCAB];
    static double expected[MAX_VOCAB];
    static struct seen seen;
    random_state = 88172645463325252U;
    for (int round = 0; round < 400; round++) {
        int n = 1 + (int)(random_next() % (round % 10 == 0 ? MAX_VOCAB : 300));
        bool coarse = round % 3 == 0; /* many equal logits */
        struct l4_logit_bias biases[4];
        struct l4_sampling s = plain((float)(0.2 + 2 * random_unit()));
        struct sample_history *history;
        assert_int_equal(sample_history_open(&history), 0);
        memset(&seen, 0, sizeof seen);
        for (int i = 0; i < n; i++) {
            double x = 3 * (random_unit() + random_unit() + random_unit() + random_unit() - 2);
            logits[i] = coarse ? (float)floor(2 * x) / 2 : (float)x;
            if (random_next() % 50 == 0 && i > 0)
                logits[i] = random_next() % 2 ? -INFINITY : NAN;
        }
        for (int i = (int)(random_next() % 200); i > 0; i--) {
            int id = (int)(random_next() % (unsigned)n);
            bool is_answer = random_next() % 2;
            is_answer ? seen.answer[id]++ : seen.prompt[id]++;
            assert_int_equal(sample_history_add(history, id, is_answer), 0);
        }
        if (random_next() % 2)
            s.top_k = (int)(random_next() % 60);
        if (random_next() % 2)
            s.top_p = (float)random_unit();
        if (random_next() % 2)
            s.min_p = (float)(0.3 * random_unit());
        if (random_next() % 2) {
            s.repetition_penalty = (float)(0.5 + random_unit());
            s.presence_penalty = (float)(4 * random_unit() - 2);
            s.frequency_penalty = (float)(4 * random_unit() - 2);
        }
        if (random_next() % 8 == 0)
            s.temperature = 0;
        s.n_logit_bias = random_next() % 5;
        s.logit_bias = biases;
        for (size_t b = 0; b < s.n_logit_bias; b++)
            biases[b] = (struct l4_logit_bias){(int32_t)(random_next() % (unsigned)n), b == 0 ? -100 : (float)b};

        struct sampler *sampler = open_sampler(n);
        sampler_probs(sampler, &s, history, logits, probs);
        expected_probs(&s, &seen, logits, n, expected);
        assert_probs(probs, expected, n);
        int32_t id = sampler_next(sampler, &s, history, logits, (uint64_t)round);
        assert_in_range(id, 0, n - 1);
        assert_true(expected[id] > 0);
        sampler_close(sampler);
        sample_history_close(history);
    }
}

/* ---- by hand ---------------------------------------------------------------------------------------------------- */

static void test_ties(void **state) {
    (void)state;
    struct sampler *sampler = open_sampler(6);
    const float logits[] = {1, 3, 3, 0, 3, 1};
    float probs[6];
    struct l4_sampling s = plain(0);
    assert_int_equal(sampler_next(sampler, &s, NULL, logits, 0), 1);

    s = plain(1);
    s.top_p = 0.5F; /* two of three equals reach it, the first two ids */
    sampler_probs(sampler, &s, NULL, logits, probs);
    assert_true(probs[1] == 0.5F && probs[2] == 0.5F && probs[4] == 0);
    s.top_p = 0; /* the token that crosses p is kept, always */
    sampler_probs(sampler, &s, NULL, logits, probs);
    assert_true(probs[1] == 1);

    s = plain(1);
    s.top_k = 2; /* equals of the second largest stay, as in transformers */
    sampler_probs(sampler, &s, NULL, logits, probs);
    assert_true(probs[1] == probs[4] && probs[1] > 0.33F && probs[0] == 0);
    sampler_close(sampler);
}

/* 0.5, 0.3, 0.2: the token that crosses p is kept. */
static void test_top_p_boundary(void **state) {
    (void)state;
    struct sampler *sampler = open_sampler(3);
    const float logits[] = {logf(0.2F), logf(0.5F), logf(0.3F)};
    float probs[3];
    struct l4_sampling s = plain(1);
    s.top_p = 0.49F;
    sampler_probs(sampler, &s, NULL, logits, probs);
    assert_true(probs[0] == 0 && probs[1] == 1 && probs[2] == 0);
    s.top_p = 0.51F;
    sampler_probs(sampler, &s, NULL, logits, probs);
    assert_true(probs[0] == 0 && fabsf(probs[1] - 0.625F) < 1e-6F && fabsf(probs[2] - 0.375F) < 1e-6F);
    s.top_p = 0.81F;
    sampler_probs(sampler, &s, NULL, logits, probs);
    assert_true(fabsf(probs[0] - 0.2F) < 1e-6F);
    sampler_close(sampler);
}

static void test_hostile_logits(void **state) {
    (void)state;
    enum { N = 1000 };
    static float logits[N], probs[N];
    struct sampler *sampler = open_sampler(N);
    static const float fills[] = {-INFINITY, NAN, INFINITY, 0, -0.0F, 3.4e38F, -3.4e38F, 1e-45F};
    for (size_t fill = 0; fill < sizeof fills / sizeof *fills; fill++) {
        for (int i = 0; i < N; i++)
            logits[i] = fills[fill];
        for (int variant = 0; variant < 6; variant++) {
            struct l4_sampling s = plain(variant == 0 ? 0 : variant == 1 ? 1e-45F : 1);
            s.top_k = variant == 2 ? 3 : 0;
            s.top_p = variant == 3 ? 0.5F : 1;
            s.min_p = variant == 4 ? 1 : 0;
            const struct l4_logit_bias bias = {7, 100};
            s.logit_bias = &bias;
            s.n_logit_bias = variant == 5;
            sampler_probs(sampler, &s, NULL, logits, probs);
            double sum = 0;
            for (int i = 0; i < N; i++) {
                assert_true(probs[i] >= 0);
                sum += (double)probs[i];
            }
            assert_true(fabs(sum - 1) < 1e-5);
            int32_t id = sampler_next(sampler, &s, NULL, logits, 5);
            assert_in_range(id, 0, N - 1);
            if (variant == 0 || !(fills[fill] >= -FLT_MAX)) /* greedy; or nothing to choose by */
                assert_int_equal(id, 0);
            struct l4_logprob token, top[3];
            sampler_logprobs(sampler, logits, 4, &token, top, 3);
            assert_false(isnan(token.logprob));
            for (int i = 0; i < 3; i++) {
                assert_int_equal(top[i].id, i);
                assert_false(isnan(top[i].logprob));
            }
        }
    }
    /* NaN beside real logits is never chosen, and does not change what the others get */
    for (int i = 0; i < N; i++)
        logits[i] = i % 2 ? NAN : 0;
    struct l4_sampling s = plain(1);
    sampler_probs(sampler, &s, NULL, logits, probs);
    for (int i = 0; i < N; i++)
        assert_true(fabsf(probs[i] - (i % 2 ? 0 : 2.0F / N)) < 1e-8F);
    sampler_close(sampler);
}

static void test_penalties(void **state) {
    (void)state;
    struct sampler *sampler = open_sampler(4);
    struct sample_history *history;
    assert_int_equal(sample_history_open(&history), 0);
    assert_int_equal(sample_history_add(history, 0, false), 0);
    assert_int_equal(sample_history_add(history, 0, false), 0);
    assert_int_equal(sample_history_add(history, 1, true), 0);
    assert_int_equal(sample_history_add(history, 1, true), 0);
    const float logits[] = {2, 2, -2, 2};
    float probs[4];
    struct l4_sampling s = plain(1);
    s.repetition_penalty = 2;
    sampler_probs(sampler, &s, history, logits, probs); /* once per id: 1, 1, -2, 2 */
    assert_true(fabsf(logf(probs[3] / probs[0]) - 1) < 1e-5F && probs[0] == probs[1]);
    s = plain(1);
    s.presence_penalty = 0.5F;
    s.frequency_penalty = 0.25F;
    sampler_probs(sampler, &s, history, logits, probs); /* answer only: 2, 2 - 0.5 - 2 * 0.25, -2, 2 */
    assert_true(fabsf(logf(probs[3] / probs[1]) - 1) < 1e-5F && probs[0] == probs[3]);
    sample_history_close(history);
    sampler_close(sampler);
}

/* No token outside a mask is drawn, whatever its logit, and one inside always can be. */
static void test_masks(void **state) {
    (void)state;
    enum { N = 131 };
    struct sampler *sampler = open_sampler(N);
    struct rng rng = {5};
    float logits[N];
    const float odd[] = {NAN, INFINITY, -INFINITY, 1e38F, 0};
    const int32_t also[] = {130};
    for (int round = 0; round < 3000; round++) {
        uint64_t bits[3] = {0};
        struct sample_mask mask = {.bits = bits, .also = also, .n_also = round % 3 == 0};
        for (int i = 0; i < N; i++)
            logits[i] = round % 2 ? rng_float(&rng) * 9 : odd[rng_below(&rng, 5)];
        for (int64_t n = 1 + rng_below(&rng, 4); n > 0; n--) {
            int64_t id = rng_below(&rng, 130);
            bits[id / 64] |= UINT64_C(1) << id % 64;
        }
        struct l4_sampling s = plain((float)(round % 4));
        s.seed = (uint64_t)round;
        s.top_k = (int)rng_below(&rng, 4);
        s.top_p = round % 5 ? 1 : 0.3F;
        s.repetition_penalty = 50;
        int32_t id = sampler_next_masked(sampler, &s, NULL, &mask, logits, 0);
        assert_true((bits[id / 64] >> id % 64 & 1) || (mask.n_also && id == 130));
    }
    /* a mask of everything changes nothing */
    const uint64_t everything[3] = {UINT64_MAX, UINT64_MAX, UINT64_MAX};
    struct sample_mask mask = {.bits = everything};
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < N; i++)
            logits[i] = rng_float(&rng) * 9;
        struct l4_sampling s = plain(1);
        s.seed = (uint64_t)round;
        assert_int_equal(sampler_next_masked(sampler, &s, NULL, &mask, logits, 3),
                         sampler_next(sampler, &s, NULL, logits, 3));
    }
    sampler_close(sampler);
}

/* ---- drawing ---------------------------------------------------------------------------------------------------- */

/* 200,000 draws over 20 ids: chi-square with 19 degrees of freedom lies below 43.8 in 999 of 1000 runs; the seeds are
 * fixed, so the result is the same in every run. */
static void check_frequencies(bool by_seed) {
    enum { N = 20, DRAWS = 200000 };
    float logits[N], probs[N];
    int counts[N] = {0};
    for (int i = 0; i < N; i++)
        logits[i] = (float)(i * 7 % N) / 8;
    struct sampler *sampler = open_sampler(N);
    struct l4_sampling s = plain(0.9F);
    for (int i = 0; i < DRAWS; i++) {
        s.seed = by_seed ? (uint64_t)i : 1;
        counts[sampler_next(sampler, &s, NULL, logits, by_seed ? 3 : (uint64_t)i)]++;
    }
    sampler_probs(sampler, &s, NULL, logits, probs);
    double chi_square = 0;
    for (int i = 0; i < N; i++) {
        double expected = DRAWS * (double)probs[i];
        chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    assert_true(chi_square < 43.8);
    assert_true(chi_square > 4.0); /* nor too even to be random (19 of 20,000 runs) */
    sampler_close(sampler);
}

static void test_frequencies(void **state) {
    (void)state;
    check_frequencies(false);
    check_frequencies(true);
}

/* The same arguments give the same token whatever was asked before; seed and index both matter. */
static void test_repeatable(void **state) {
    (void)state;
    enum { N = 500, LEN = 64 };
    float logits[N];
    int32_t first[LEN];
    int same_seed = 0, other_seed = 0, neighbours = 0;
    for (int i = 0; i < N; i++)
        logits[i] = (float)(i * 31 % 97) / 40;
    struct sampler *sampler = open_sampler(N), *other = open_sampler(N);
    struct l4_sampling s = plain(1), greedy = plain(0);
    s.seed = UINT64_MAX;
    for (int i = 0; i < LEN; i++)
        first[i] = sampler_next(sampler, &s, NULL, logits, (uint64_t)i);
    for (int i = LEN - 1; i >= 0; i--) {
        s.seed = UINT64_MAX;
        (void)sampler_next(other, &greedy, NULL, logits, 1);
        same_seed += sampler_next(other, &s, NULL, logits, (uint64_t)i) == first[i];
        s.seed = 0;
        other_seed += sampler_next(other, &s, NULL, logits, (uint64_t)i) == first[i];
        neighbours += i > 0 && first[i] == first[i - 1];
    }
    assert_int_equal(same_seed, LEN);
    assert_in_range(other_seed, 0, 4);
    assert_in_range(neighbours, 0, 4);
    sampler_close(sampler);
    sampler_close(other);
}

/* ---- log-probabilities ------------------------------------------------------------------------------------------ */

static void test_logprobs(void **state) {
    (void)state;
    enum { N = 3000, TOP = L4_MAX_TOP_LOGPROBS };
    static float logits[N];
    static struct ranked ranked[N];
    random_state = 2463534242U;
    for (int i = 0; i < N; i++)
        logits[i] = (float)floor(40 * random_unit()) / 2;
    logits[17] = -INFINITY;
    double sum = 0;
    for (int i = 0; i < N; i++) {
        ranked[i] = (struct ranked){(double)logits[i], i};
        sum += exp((double)logits[i]);
    }
    qsort(ranked, N, sizeof *ranked, by_value);
    struct sampler *sampler = open_sampler(N);
    struct l4_logprob token, top[TOP];
    sampler_logprobs(sampler, logits, 123, &token, top, TOP);
    assert_int_equal(token.id, 123);
    assert_true(fabs((double)token.logprob - ((double)logits[123] - log(sum))) < 1e-5);
    for (int i = 0; i < TOP; i++) {
        assert_int_equal(top[i].id, ranked[i].id);
        assert_true(fabs((double)top[i].logprob - (ranked[i].value - log(sum))) < 1e-5);
    }
    /* a token says the same of itself wherever it stands, bit for bit */
    sampler_logprobs(sampler, logits, top[5].id, &token, NULL, 0);
    assert_true(token.logprob == top[5].logprob);
    sampler_logprobs(sampler, logits, 17, &token, NULL, 0);
    assert_true(token.logprob == -INFINITY);
    sampler_close(sampler);

    sampler = open_sampler(2);
    sampler_logprobs(sampler, logits, 1, &token, top, 3);
    assert_int_equal(top[2].id, -1);
    assert_true(top[2].logprob == -INFINITY);
    sampler_close(sampler);
}

static void test_failing_allocations(void **state) {
    (void)state;
    size_t n_failed = 0;
    FAILMALLOC_EACH(n) {
        struct sampler *sampler = NULL;
        struct sample_history *history = NULL;
        int rc = sampler_open(&sampler, 1000, kernels);
        if (rc == 0)
            rc = sample_history_open(&history);
        for (int32_t id = 0; rc == 0 && id < 1000; id++)
            rc = sample_history_add(history, id, true);
        bool failed = failmalloc_disarm();
        n_failed += failed;
        assert_int_equal(rc, failed ? L4_E_NOMEM : 0);
        sampler_close(sampler);
        sample_history_close(history);
    }
    assert_true(n_failed > 10);
}

int main(void) {
    struct l4_err err;
    if (kernels_get(&kernels, &err) != 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_settings), cmocka_unit_test(test_ties),
        cmocka_unit_test(test_top_p_boundary),  cmocka_unit_test(test_hostile_logits),
        cmocka_unit_test(test_masks),           cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_frequencies),     cmocka_unit_test(test_repeatable),
        cmocka_unit_test(test_logprobs),        cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
