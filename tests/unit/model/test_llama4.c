/* The whole model: a row's logits and hidden states depend on its own sequence alone, failed allocations lose nothing.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/format/safetensors.h"
#include "core/model/llama4.h"
#include "core/model/llama4_weights.h"
#include "core/model/rope.h"
#include "tests/lib/failmalloc.h"
#include "tests/lib/random_data.h"
#include "tests/lib/sanitized.h"

enum { N_SEQS = 5, MAX_TOKENS = 90 };

static struct arena gemm_arena;

struct fixture {
    struct checkpoint *checkpoint;
    const struct model_config *config;
    struct exec exec;
    struct llama4 *model;
    struct kv_pool *pool;
};

static struct fixture fixture_open(const char *dir, int n_threads, const char *variant) {
    struct fixture f = {.exec = {.kernels = kernels_by_name(variant), .arena = &gemm_arena}};
    assert_int_equal(checkpoint_open(&f.checkpoint, dir, NULL, NULL, NULL), 0);
    f.config = checkpoint_config(f.checkpoint);
    assert_int_equal(pool_open(&f.exec.pool, n_threads, GEMM_SCRATCH_BYTES, NULL), 0);
    int64_t n_pages = N_SEQS * kv_pages_needed(f.config, MAX_TOKENS, MAX_TOKENS);
    assert_int_equal(kv_pool_open(&f.pool, f.config, DT_F32, n_pages, NULL), 0);
    struct kv_seq *seq; /* the last user of the pages left NaN behind */
    assert_int_equal(kv_seq_open(&seq, f.pool, NULL), 0);
    assert_int_equal(kv_seq_reserve(seq, KV_PAGE_TOKENS), 0);
    for (int layer = 0; layer < f.config->n_layers; layer++)
        memset(kv_seq_k(seq, layer, 0, 0), 0xff, kv_seq_layout(seq)->page_bytes); /* NaN */
    kv_seq_close(seq);
    return f;
}

static void fixture_start(struct fixture *f, const char *experts) {
    const struct experts_backend *backend;
    assert_int_equal(experts_backend_find(&backend, experts, NULL), 0);
    assert_int_equal(llama4_open(&f->model, f->checkpoint, &f->exec, backend, NULL, NULL), 0);
}

static void fixture_close(struct fixture *f) {
    llama4_close(f->model);
    kv_pool_close(f->pool);
    pool_close(f->exec.pool);
    arena_fini(&gemm_arena);
    checkpoint_close(f->checkpoint);
}

static struct kv_seq *open_seq(const struct fixture *f) {
    struct kv_seq *kv;
    assert_int_equal(kv_seq_open(&kv, f->pool, NULL), 0);
    return kv;
}

struct sequence {
    struct kv_seq *kv;
    int32_t tokens[MAX_TOKENS];
    int64_t n_tokens;
    float *logits;      /* [n_tokens, vocab] */
    double *hidden_sum; /* [hidden_size] */
};

/* All sequences to their ends in random steps; at_once: each in one step of its own. */
static void run_all(struct fixture *f, struct sequence *seqs, struct rng *rng, bool at_once) {
    int64_t vocab = f->config->vocab_size;
    float *step_logits = calloc((size_t)(N_SEQS * MAX_TOKENS * vocab), sizeof *step_logits);
    assert_non_null(step_logits);
    for (int i = 0; i < N_SEQS; i++)
        seqs[i].kv = open_seq(f);
    for (int alone = 0, done = 0; done < N_SEQS; alone++) {
        struct llama4_segment segments[N_SEQS];
        int of_segment[N_SEQS], n_segments = 0;
        done = 0;
        for (int i = 0; i < N_SEQS; i++) {
            int64_t left = seqs[i].n_tokens - kv_seq_length(seqs[i].kv);
            int64_t n = at_once ? (alone == i ? left : 0) : rng_below(rng, 4) ? 1 : rng_below(rng, 25);
            n = n < left ? n : left;
            done += left == 0;
            if (n == 0)
                continue;
            assert_int_equal(kv_seq_reserve(seqs[i].kv, n), 0);
            of_segment[n_segments] = i;
            segments[n_segments++] = (struct llama4_segment){
                .kv = seqs[i].kv,
                .tokens = seqs[i].tokens + kv_seq_length(seqs[i].kv),
                .n_tokens = (int32_t)n,
                .n_logits = (int32_t)n,
                .hidden_sum = seqs[i].hidden_sum,
            };
        }
        assert_int_equal(llama4_forward(f->model, segments, n_segments, step_logits, NULL, NULL), 0);
        const float *from = step_logits;
        for (int s = 0; s < n_segments; s++) {
            struct sequence *seq = &seqs[of_segment[s]];
            int64_t n = segments[s].n_tokens, first = kv_seq_length(seq->kv) - n;
            memcpy(seq->logits + first * vocab, from, (size_t)(n * vocab) * sizeof *from);
            from += n * vocab;
        }
    }
    for (int i = 0; i < N_SEQS; i++)
        kv_seq_close(seqs[i].kv);
    free(step_logits);
}

static void check_same_bits(const char *dir) {
    static const char *const experts[] = {"batched_mm", "grouped_mm", "auto", "grouped_mm"};
    struct rng rng = {3};
    for (int v = 0; kernels_names()[v] && v < (SANITIZED ? 1 : 99); v++) {
        struct sequence seqs[N_SEQS] = {0};
        float *want[N_SEQS] = {0};
        double *want_sum[N_SEQS] = {0};
        for (int run = 0; run < 4; run++) { /* the first: each sequence alone and at once */
            struct fixture f = fixture_open(dir, 1 + run % 3, kernels_names()[v]);
            fixture_start(&f, experts[run]);
            size_t hidden = (size_t)f.config->hidden_size;
            for (int i = 0; i < N_SEQS && run == 0; i++) {
                seqs[i].n_tokens = 1 + rng_below(&rng, MAX_TOKENS);
                for (int64_t t = 0; t < seqs[i].n_tokens; t++)
                    seqs[i].tokens[t] = (int32_t)rng_below(&rng, f.config->vocab_size);
                size_t n = (size_t)(seqs[i].n_tokens * f.config->vocab_size);
                if (i % 2 == 0) /* the others want logits only */
                    seqs[i].hidden_sum = calloc(2 * hidden, sizeof(double));
                want_sum[i] = seqs[i].hidden_sum ? seqs[i].hidden_sum + hidden : NULL;
                seqs[i].logits = calloc(n, sizeof(float));
                want[i] = calloc(n, sizeof(float));
                assert_true(seqs[i].logits && want[i]);
            }
            for (int i = 0; i < N_SEQS; i += 2)
                memset(seqs[i].hidden_sum, 0, hidden * sizeof(double));
            run_all(&f, seqs, &rng, run == 0);
            for (int i = 0; i < N_SEQS; i++) {
                size_t n = (size_t)(seqs[i].n_tokens * f.config->vocab_size);
                if (run == 0)
                    memcpy(want[i], seqs[i].logits, n * sizeof(float));
                for (size_t j = 0; j < n; j++)
                    assert_true(isfinite(seqs[i].logits[j]));
                assert_memory_equal(seqs[i].logits, want[i], n * sizeof(float));
                if (!want_sum[i])
                    continue;
                if (run == 0)
                    memcpy(want_sum[i], seqs[i].hidden_sum, hidden * sizeof(double));
                for (size_t j = 0; j < hidden; j++)
                    assert_true(isfinite(want_sum[i][j]) && want_sum[i][j] != 0);
                assert_memory_equal(seqs[i].hidden_sum, want_sum[i], hidden * sizeof(double));
            }
            fixture_close(&f);
        }
        for (int i = 0; i < N_SEQS; i++) {
            free(seqs[i].logits);
            free(seqs[i].hidden_sum);
            free(want[i]);
        }
    }
}

static void test_same_bits_f32(void **state) {
    (void)state;
    check_same_bits("tests/fixtures/scout");
    check_same_bits("tests/fixtures/top2");
}
static void test_same_bits_bf16(void **state) {
    (void)state;
    check_same_bits("tests/fixtures/maverick");
}

/* n_logits picks the last rows; 0 is allowed and still writes the keys and values. */
static void test_n_logits(void **state) {
    (void)state;
    struct fixture f = fixture_open("tests/fixtures/scout", 2, kernels_names()[0]);
    fixture_start(&f, "auto");
    int32_t tokens[20];
    int64_t vocab = f.config->vocab_size;
    float *all = calloc((size_t)(20 * vocab), sizeof *all), *some = calloc((size_t)(20 * vocab), sizeof *some);
    assert_true(all && some);
    for (int i = 0; i < 20; i++)
        tokens[i] = (i * 37 + 5) % (int32_t)vocab;
    struct kv_seq *a = open_seq(&f), *b = open_seq(&f);
    assert_int_equal(kv_seq_reserve(a, 20) + kv_seq_reserve(b, 20), 0);
    struct llama4_segment whole = {a, tokens, 20, 20, NULL};
    assert_int_equal(llama4_forward(f.model, &whole, 1, all, NULL, NULL), 0);
    some[0] = 77;
    struct llama4_segment none = {b, tokens, 13, 0, NULL}, last = {b, tokens + 13, 7, 3, NULL};
    assert_int_equal(llama4_forward(f.model, &none, 1, some, NULL, NULL), 0);
    assert_true(some[0] == 77 && kv_seq_length(b) == 13);
    assert_int_equal(llama4_forward(f.model, &last, 1, some, NULL, NULL), 0);
    assert_memory_equal(some, all + 17 * vocab, (size_t)(3 * vocab) * sizeof *some);
    free(all);
    free(some);
    kv_seq_close(a);
    kv_seq_close(b);
    fixture_close(&f);
}

/* Segments that want sums beside those that want logits, all, some or none: nobody gets another's rows. */
static void test_sums_beside_logits(void **state) {
    (void)state;
    struct fixture f = fixture_open("tests/fixtures/scout", 2, kernels_names()[0]);
    fixture_start(&f, "auto");
    int32_t tokens[20];
    size_t vocab = (size_t)f.config->vocab_size, hidden = (size_t)f.config->hidden_size;
    float *alone = calloc(3 * vocab, sizeof *alone), *beside = calloc(3 * vocab, sizeof *beside);
    double *sums = calloc(4 * hidden, sizeof *sums);
    struct kv_seq *kv[6];
    assert_true(alone && beside && sums);
    for (int i = 0; i < 20; i++)
        tokens[i] = (i * 37 + 5) % (int32_t)vocab;
    for (int i = 0; i < 6; i++) {
        kv[i] = open_seq(&f);
        assert_int_equal(kv_seq_reserve(kv[i], 20), 0);
    }
    struct llama4_segment sum = {kv[0], tokens, 20, 0, sums}, last = {kv[1], tokens, 13, 3, NULL};
    alone[0] = 77;
    assert_int_equal(llama4_forward(f.model, &sum, 1, alone, NULL, NULL), 0);
    assert_true(alone[0] == 77); /* no head */
    assert_int_equal(llama4_forward(f.model, &last, 1, alone, NULL, NULL), 0);
    struct llama4_segment together[] = {
        {kv[2], tokens, 20, 0, sums + hidden},
        {kv[3], tokens + 1, 5, 0, NULL},
        {kv[4], tokens, 13, 3, sums + 2 * hidden}, /* both */
        {kv[5], tokens, 20, 0, sums + 3 * hidden},
    };
    assert_int_equal(llama4_forward(f.model, together, 4, beside, NULL, NULL), 0);
    assert_memory_equal(beside, alone, 3 * vocab * sizeof *alone);
    assert_memory_equal(sums + hidden, sums, hidden * sizeof *sums);
    assert_memory_equal(sums + 3 * hidden, sums, hidden * sizeof *sums);
    for (size_t i = 0; i < hidden; i++)
        assert_true(sums[2 * hidden + i] != sums[i]);
    for (int i = 0; i < 6; i++)
        kv_seq_close(kv[i]);
    free(alone);
    free(beside);
    free(sums);
    fixture_close(&f);
}

/* The mean of the reference's last hidden states behind the final norm, which is done here in double. */
static void check_golden_mean(const char *dir) {
    char path[128], name[32];
    struct safetensors *golden;
    struct l4_err err;
    snprintf(path, sizeof path, "%s/golden.safetensors", dir);
    assert_int_equal(safetensors_open(&golden, path, &err), 0);
    struct fixture f = fixture_open(dir, 2, kernels_names()[0]);
    fixture_start(&f, "auto");
    snprintf(name, sizeof name, "hidden_states.%d", (int)f.config->n_layers);
    const struct tensor *ids = safetensors_find(golden, "input_ids"), *states = safetensors_find(golden, name);
    assert_true(ids && states && ids->type == DT_I32 && states->type == DT_F32);
    int64_t hidden = f.config->hidden_size, n = (int64_t)(ids->size_bytes / sizeof(int32_t));
    assert_int_equal(states->size_bytes, (size_t)(n * hidden) * sizeof(float));
    double *sum = calloc((size_t)hidden, sizeof *sum), *want = calloc((size_t)hidden, sizeof *want);
    assert_true(sum && want && n <= N_SEQS * MAX_TOKENS);
    for (int64_t row = 0; row < n; row++) {
        const float *state = (const float *)states->data + row * hidden;
        double square = 0;
        for (int64_t i = 0; i < hidden; i++)
            square += (double)state[i] * (double)state[i];
        for (int64_t i = 0; i < hidden; i++)
            want[i] += (double)state[i] / sqrt(square / (double)hidden + (double)f.config->rms_norm_eps) *
                       (double)llama4_model_weights(f.model)->norm[i];
    }
    struct kv_seq *kv = open_seq(&f);
    assert_int_equal(kv_seq_reserve(kv, n), 0);
    struct llama4_segment segment = {kv, ids->data, (int32_t)n, 0, sum};
    assert_int_equal(llama4_forward(f.model, &segment, 1, NULL, NULL, &err), 0);
    for (int64_t i = 0; i < hidden; i++)
        assert_true(fabs(sum[i] - want[i]) / (double)n < 2e-4);
    free(sum);
    free(want);
    kv_seq_close(kv);
    fixture_close(&f);
    safetensors_close(golden);
}

static void test_golden_means(void **state) {
    (void)state;
    check_golden_mean("tests/fixtures/scout");
    check_golden_mean("tests/fixtures/maverick");
    check_golden_mean("tests/fixtures/interp");
    check_golden_mean("tests/fixtures/top2");
}

static void test_open_out_of_memory(void **state) {
    (void)state;
    struct fixture f = fixture_open("tests/fixtures/top2", 1, kernels_names()[0]);
    long failed = 1;
    for (long n = 1; failed > 0; n++) {
        assert_true(n < 50);
        struct l4_err err;
        failmalloc_arm((size_t)n);
        int rc = llama4_open(&f.model, f.checkpoint, &f.exec, experts_backend_at(0), NULL, &err);
        failed = failmalloc_disarm();
        assert_int_equal(rc, failed ? L4_E_NOMEM : 0);
    }
    fixture_close(&f);
}

/* Every dispatch of the pool ends in a barrier: four a layer, one for the embeddings, one for the head. */
static void test_barriers(void **state) {
    (void)state;
    static const char *const dirs[] = {"tests/fixtures/scout", "tests/fixtures/maverick", "tests/fixtures/top2"};
    static const char *const experts[] = {"batched_mm", "grouped_mm", "auto"};
    for (int d = 0; d < 3; d++) {
        struct fixture f = fixture_open(dirs[d], 2, kernels_names()[0]);
        float *logits = calloc((size_t)(MAX_TOKENS * f.config->vocab_size), sizeof *logits);
        int32_t tokens[MAX_TOKENS] = {0};
        assert_non_null(logits);
        for (int e = 0; e < 3; e++) {
            fixture_start(&f, experts[e]);
            for (int32_t n = 1; n < MAX_TOKENS; n *= 4) {
                struct kv_seq *kv = open_seq(&f);
                assert_int_equal(kv_seq_reserve(kv, n), 0);
                struct llama4_segment segment = {kv, tokens, n, n, NULL};
                uint64_t before = pool_n_dispatches(f.exec.pool);
                assert_int_equal(llama4_forward(f.model, &segment, 1, logits, NULL, NULL), 0);
                assert_in_range(pool_n_dispatches(f.exec.pool) - before, 1, 4 * f.config->n_layers + 2);
                kv_seq_close(kv);
            }
            llama4_close(f.model);
        }
        free(logits);
        f.model = NULL;
        fixture_close(&f);
    }
}

/* A step that runs out of memory anywhere leaves the sequence as it was and may be repeated. */
static void check_step_out_of_memory(const char *experts) {
    struct fixture f = fixture_open("tests/fixtures/top2", 2, kernels_names()[0]);
    int32_t tokens[30];
    size_t n_logits = (size_t)(30 * f.config->vocab_size);
    size_t hidden = (size_t)f.config->hidden_size;
    float *want = calloc(n_logits, sizeof *want), *logits = calloc(n_logits, sizeof *logits);
    double *want_sum = calloc(hidden, sizeof *want_sum), *sum = calloc(hidden, sizeof *sum);
    assert_true(want && logits && want_sum && sum);
    for (int i = 0; i < 30; i++)
        tokens[i] = i;
    long failed = 1, n;
    for (n = 0; failed > 0 || n < 2; n++) { /* n = 0: nothing fails */
        assert_true(n < 200);
        fixture_start(&f, experts); /* a new model: its arenas are empty */
        arena_fini(&gemm_arena);
        struct kv_seq *kv = open_seq(&f);
        assert_int_equal(kv_seq_reserve(kv, 30), 0);
        struct llama4_segment segment = {kv, tokens, 30, 30, sum};
        memset(sum, 0, hidden * sizeof *sum);
        struct l4_err err;
        if (n > 0)
            failmalloc_arm((size_t)n);
        int rc = llama4_forward(f.model, &segment, 1, logits, NULL, &err);
        failed = failmalloc_disarm();
        if (n == 0)
            memcpy(want, logits, n_logits * sizeof *want), memcpy(want_sum, sum, hidden * sizeof *sum);
        assert_true(rc == 0 || rc == L4_E_NOMEM);
        if (rc) {
            assert_int_equal(kv_seq_length(kv), 0);
            assert_int_equal(llama4_forward(f.model, &segment, 1, logits, NULL, &err), 0);
        }
        assert_int_equal(kv_seq_length(kv), 30);
        assert_memory_equal(logits, want, n_logits * sizeof *want);
        assert_memory_equal(sum, want_sum, hidden * sizeof *sum);
        kv_seq_close(kv);
        llama4_close(f.model);
    }
    assert_true(n >= 4); /* the step's arena and the experts' both ran out once */
    free(sum);
    free(want_sum);
    free(want);
    free(logits);
    f.model = NULL;
    fixture_close(&f);
}

static void test_step_out_of_memory(void **state) {
    (void)state;
    check_step_out_of_memory("batched_mm");
    check_step_out_of_memory("grouped_mm");
    check_step_out_of_memory("eager");
}

/* After the first steps a token costs no allocation. */
static void test_no_malloc_per_token(void **state) {
    (void)state;
    struct fixture f = fixture_open("tests/fixtures/scout", 2, kernels_names()[0]);
    fixture_start(&f, "auto");
    float *logits = calloc((size_t)f.config->vocab_size, sizeof *logits);
    assert_non_null(logits);
    struct kv_seq *kv = open_seq(&f);
    int32_t token = 3;
    struct llama4_segment segment = {kv, &token, 1, 1, NULL};
    assert_int_equal(kv_seq_reserve(kv, 40), 0);
    for (int i = 0; i < 40; i++) {
        if (i >= 2)
            failmalloc_arm(1);
        assert_int_equal(llama4_forward(f.model, &segment, 1, logits, NULL, NULL), 0);
        assert_false(failmalloc_disarm());
    }
    free(logits);
    kv_seq_close(kv);
    fixture_close(&f);
}

static void test_rope(void **state) {
    (void)state;
    struct model_config config = {.head_dim = 128,
                                  .rope_theta = 500000,
                                  .rope_llama3 = true,
                                  .rope_factor = 8,
                                  .rope_low_freq_factor = 1,
                                  .rope_high_freq_factor = 4,
                                  .rope_original_context = 8192};
    double freq[64];
    rope_frequencies(&config, NULL, freq);
    int n_kept = 0, n_scaled = 0, n_between = 0;
    for (int j = 0; j < 64; j++) {
        double plain = pow(500000, -j / 64.0), wavelength = 2 * M_PI / plain;
        if (wavelength < 8192 / 4.0) {
            n_kept++;
            assert_true(fabs(freq[j] / plain - 1) < 1e-12);
        } else if (wavelength > 8192) {
            n_scaled++;
            assert_true(fabs(freq[j] * 8 / plain - 1) < 1e-12);
        } else {
            n_between++;
            assert_true(freq[j] > plain / 8 && freq[j] < plain && freq[j] < freq[j - 1]);
        }
    }
    assert_true(n_kept > 0 && n_scaled > 0 && n_between > 0);
    config.rope_low_freq_factor = config.rope_high_freq_factor = 1; /* as in published Scout: nothing between */
    rope_frequencies(&config, NULL, freq);
    for (int j = 0; j < 64; j++) {
        double plain = pow(500000, -j / 64.0);
        assert_true(fabs(freq[j] * (2 * M_PI / plain < 8192 ? 1 : 8) / plain - 1) < 1e-12);
    }
    float cosine, sine; /* ten million positions in: still right to float precision */
    const double one = 1;
    rope_angles(&one, 1, 10000000, &cosine, &sine);
    assert_true(fabsl(cosine - cosl(10000000.0L)) < 1e-6 && fabsl(sine - sinl(10000000.0L)) < 1e-6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits_f32),
        cmocka_unit_test(test_same_bits_bf16),
        cmocka_unit_test(test_n_logits),
        cmocka_unit_test(test_sums_beside_logits),
        cmocka_unit_test(test_golden_means),
        cmocka_unit_test(test_barriers),
        cmocka_unit_test(test_open_out_of_memory),
        cmocka_unit_test(test_step_out_of_memory),
        cmocka_unit_test(test_no_malloc_per_token),
        cmocka_unit_test(test_rope),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
