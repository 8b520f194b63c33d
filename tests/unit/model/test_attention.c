/* Attention against a plain double-precision loop; the same bits however sequences are cut and batched; pages full of
 * NaN beyond what a row may see. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/model/attention.h"
#include "tests/lib/random_data.h"

enum { N_SEQS = 4, N_LAYERS = 2, MAX_TOKENS = 400 }; /* layer 0 full, layer 1 chunked */

/* A sequence and all that is to be written for it: the same keys and values in both layers. */
struct sequence {
    struct kv_seq *kv;
    int64_t n_tokens;
    float *q, *k, *v; /* [n_tokens][n_heads or n_kv_heads][head_dim] */
    float *out[N_LAYERS];
};

static void *must_alloc(size_t n, size_t size) {
    void *p = calloc(n + 1, size);
    assert_non_null(p);
    return p;
}

static struct model_config make_config(int32_t n_heads, int32_t n_kv_heads, int32_t head_dim, int64_t chunk) {
    struct model_config config = {.n_layers = N_LAYERS,
                                  .n_heads = n_heads,
                                  .n_kv_heads = n_kv_heads,
                                  .head_dim = head_dim,
                                  .attention_chunk_size = chunk};
    config.layers[1].is_chunked = true;
    return config;
}

static void sequence_init(struct sequence *s, const struct model_config *config, struct rng *rng, int64_t n_tokens) {
    size_t q = (size_t)(n_tokens * config->n_heads * config->head_dim);
    size_t kv = (size_t)(n_tokens * config->n_kv_heads * config->head_dim);
    *s = (struct sequence){.n_tokens = n_tokens,
                           .q = must_alloc(q, sizeof(float)),
                           .k = must_alloc(kv, sizeof(float)),
                           .v = must_alloc(kv, sizeof(float))};
    for (int layer = 0; layer < N_LAYERS; layer++)
        s->out[layer] = must_alloc(q, sizeof(float));
    rng_fill(rng, s->q, q, 2);
    rng_fill(rng, s->k, kv, 2);
    rng_fill(rng, s->v, kv, 1);
}

static void sequence_fini(struct sequence *s) {
    free(s->q);
    free(s->k);
    free(s->v);
    for (int layer = 0; layer < N_LAYERS; layer++)
        free(s->out[layer]);
}

static void naive_row(const struct model_config *config, const struct sequence *s, int layer, int64_t position,
                      int32_t head, double *out) {
    int64_t d = config->head_dim, kv_head = head / (config->n_heads / config->n_kv_heads),
            chunk = config->attention_chunk_size;
    const float *q = s->q + (position * config->n_heads + head) * d;
    double total = 0;
    memset(out, 0, (size_t)d * sizeof *out);
    for (int64_t j = 0; j <= position; j++) {
        if (config->layers[layer].is_chunked && j / chunk != position / chunk)
            continue;
        double score = 0;
        for (int64_t i = 0; i < d; i++)
            score += (double)q[i] * s->k[(j * config->n_kv_heads + kv_head) * d + i];
        total += exp(score);
        for (int64_t i = 0; i < d; i++)
            out[i] += exp(score) * s->v[(j * config->n_kv_heads + kv_head) * d + i];
    }
    for (int64_t i = 0; i < d; i++)
        out[i] /= total;
}

/* n_tokens more of each sequence, in one step. */
static void run_step(const struct model_config *config, const struct exec *exec, struct sequence *seqs,
                     const int64_t *n_tokens) {
    struct attention_span spans[N_SEQS];
    struct arena arena = {0};
    int64_t d = config->head_dim, n_rows = 0, n_rep = config->n_heads / config->n_kv_heads;
    int n_spans = 0;
    for (int i = 0; i < N_SEQS; i++) {
        if (n_tokens[i] == 0)
            continue;
        assert_int_equal(kv_seq_reserve(seqs[i].kv, n_tokens[i]), 0);
        spans[n_spans++] = (struct attention_span){seqs[i].kv, kv_seq_length(seqs[i].kv), n_rows, n_tokens[i]};
        n_rows += n_tokens[i];
    }
    size_t n_floats = (size_t)(n_rows * config->n_heads * d);
    float *q = must_alloc(n_floats, sizeof *q), *out = must_alloc(n_floats, sizeof *out);
    for (int layer = 0; layer < N_LAYERS; layer++) {
        for (int i = 0, span = 0; i<N_SEQS; span += n_tokens[i++]> 0)
            for (int64_t t = 0; t < n_tokens[i]; t++) {
                int64_t position = spans[span].position + t, row = spans[span].row + t;
                for (int64_t h = 0; h < config->n_heads; h++)
                    memcpy(q + ((h / n_rep * n_rows + row) * n_rep + h % n_rep) * d,
                           seqs[i].q + (position * config->n_heads + h) * d, (size_t)d * sizeof *q);
                int64_t from = position * config->n_kv_heads * d;
                kv_seq_write(seqs[i].kv, layer, position, seqs[i].k + from, seqs[i].v + from);
            }
        struct attention plan;
        assert_int_equal(attention_plan(&plan, config, spans, n_spans, pool_n_threads(exec->pool), &arena), 0);
        attention_forward(&plan, exec, layer, q, out);
        for (int i = 0, span = 0; i<N_SEQS; span += n_tokens[i++]> 0)
            if (n_tokens[i] > 0)
                memcpy(seqs[i].out[layer] + spans[span].position * config->n_heads * d,
                       out + spans[span].row * config->n_heads * d,
                       (size_t)(n_tokens[i] * config->n_heads * d) * sizeof *out);
    }
    for (int i = 0; i < N_SEQS; i++)
        kv_seq_advance(seqs[i].kv, NULL, n_tokens[i]);
    free(q);
    free(out);
    arena_fini(&arena);
}

/* A pool whose pages are full of NaN, as after sequences that went wrong. */
static struct kv_pool *poisoned_pool(const struct model_config *config) {
    struct kv_pool *pool;
    struct kv_seq *seq;
    assert_int_equal(kv_pool_open(&pool, config, DT_F32, N_SEQS * N_LAYERS * (MAX_TOKENS / KV_PAGE_TOKENS + 2), NULL),
                     0);
    assert_int_equal(kv_seq_open(&seq, pool, NULL), 0);
    int64_t n_tokens = kv_pool_total_pages(pool) / N_LAYERS * KV_PAGE_TOKENS;
    assert_int_equal(kv_seq_reserve(seq, n_tokens), 0);
    for (int64_t p = 0; p < n_tokens; p += KV_PAGE_TOKENS)
        for (int layer = 0; layer < N_LAYERS; layer++)
            memset(kv_seq_k(seq, layer, p, 0), 0xff, kv_seq_layout(seq)->page_bytes);
    kv_seq_close(seq);
    return pool;
}

/* All sequences to their end; pieces: at most so many tokens of one in a step, 0 = all at once. */
static void run_all(const struct model_config *config, const struct exec *exec, struct sequence *seqs, struct rng *rng,
                    int64_t pieces) {
    struct kv_pool *pool = poisoned_pool(config);
    for (int i = 0; i < N_SEQS; i++)
        assert_int_equal(kv_seq_open(&seqs[i].kv, pool, NULL), 0);
    for (bool more = true; more;) {
        int64_t n_tokens[N_SEQS], n = 0;
        more = false;
        for (int i = 0; i < N_SEQS; i++) {
            int64_t left = seqs[i].n_tokens - kv_seq_length(seqs[i].kv);
            n_tokens[i] = pieces ? rng_below(rng, pieces + 1) : left;
            n_tokens[i] = n_tokens[i] < left ? n_tokens[i] : left;
            more |= left > 0;
            n += n_tokens[i];
        }
        if (n > 0)
            run_step(config, exec, seqs, n_tokens);
    }
    for (int i = 0; i < N_SEQS; i++)
        kv_seq_close(seqs[i].kv);
    kv_pool_close(pool);
}

static void check_naive(const struct model_config *config, const struct sequence *s) {
    double want[256];
    int64_t d = config->head_dim;
    for (int layer = 0; layer < N_LAYERS; layer++)
        for (int64_t position = 0; position < s->n_tokens; position++)
            for (int32_t head = 0; head < config->n_heads; head++) {
                naive_row(config, s, layer, position, head, want);
                for (int64_t j = 0; j < d; j++)
                    assert_true(fabs(s->out[layer][(position * config->n_heads + head) * d + j] - want[j]) < 2e-5);
            }
}

static void check_shape(const struct model_config *config, const char *variant, struct rng *rng) {
    struct exec exec = {.kernels = kernels_by_name(variant)};
    struct sequence seqs[N_SEQS];
    float *first[N_SEQS][N_LAYERS];
    size_t row_floats = (size_t)(config->n_heads * config->head_dim);
    for (int i = 0; i < N_SEQS; i++) {
        sequence_init(&seqs[i], config, rng, 1 + rng_below(rng, i == 0 ? MAX_TOKENS : 100));
        for (int layer = 0; layer < N_LAYERS; layer++)
            first[i][layer] = must_alloc((size_t)seqs[i].n_tokens * row_floats, sizeof(float));
    }
    static const int64_t pieces[] = {0, 1, 7, 50};
    for (int run = 0; run < 4; run++) {
        assert_int_equal(pool_open(&exec.pool, 1 + run % 3, GEMM_SCRATCH_BYTES, NULL), 0);
        run_all(config, &exec, seqs, rng, pieces[run]);
        pool_close(exec.pool);
        for (int i = 0; i < N_SEQS; i++)
            for (int layer = 0; layer < N_LAYERS; layer++) {
                size_t n = (size_t)seqs[i].n_tokens * row_floats;
                if (run == 0)
                    memcpy(first[i][layer], seqs[i].out[layer], n * sizeof(float));
                assert_memory_equal(seqs[i].out[layer], first[i][layer], n * sizeof(float));
            }
        if (run == 0)
            for (int i = 0; i < N_SEQS; i++)
                check_naive(config, &seqs[i]);
    }
    for (int i = 0; i < N_SEQS; i++) {
        sequence_fini(&seqs[i]);
        for (int layer = 0; layer < N_LAYERS; layer++)
            free(first[i][layer]);
    }
}

static void test_shapes(void **state) {
    (void)state;
    struct rng rng = {5};
    for (int v = 0; kernels_names()[v]; v++) {
        struct model_config shapes[] = {
            make_config(4, 2, 16, 16),  make_config(6, 3, 8, 24),   make_config(5, 1, 20, 64),
            make_config(2, 2, 32, 100), make_config(4, 1, 6, 8192),
        };
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
            check_shape(&shapes[i], kernels_names()[v], &rng);
    }
}

/* Scores so far apart that exp underflows or would overflow: the largest is always taken off first. */
static void test_extreme_scores(void **state) {
    (void)state;
    struct model_config config = make_config(1, 1, 4, 8192);
    struct rng rng = {9};
    struct exec exec = {.kernels = kernels_by_name(kernels_names()[0])};
    struct sequence seqs[N_SEQS];
    for (int i = 0; i < N_SEQS; i++)
        sequence_init(&seqs[i], &config, &rng, 300);
    for (int64_t t = 0; t < 300; t++) /* one dimension, growing, falling, alternating, constant */
        for (int i = 0; i < N_SEQS; i++)
            for (int j = 0; j < 4; j++) {
                const float keys[N_SEQS] = {(float)t * 3, (float)-t * 3, t % 2 ? 1e4f : -1e4f, 500};
                seqs[i].q[t * 4 + j] = j == 0;
                seqs[i].k[t * 4 + j] = j == 0 ? keys[i] : 0;
            }
    assert_int_equal(pool_open(&exec.pool, 2, GEMM_SCRATCH_BYTES, NULL), 0);
    run_all(&config, &exec, seqs, &rng, 0);
    pool_close(exec.pool);
    for (int i = 0; i < N_SEQS;
         i++) { /* only the keys near the largest count; the loop in double cannot hold exp(900) */
        const float *last = seqs[i].out[0] + 299 * 4;
        double want[4] = {0}, total = 0;
        const double largest[N_SEQS] = {299 * 3, 0, 1e4, 500};
        for (int64_t t = 0; t < 300; t++) {
            double weight = exp(seqs[i].k[t * 4] - largest[i]);
            total += weight;
            for (int j = 0; j < 4; j++)
                want[j] += weight * seqs[i].v[t * 4 + j];
        }
        for (int j = 0; j < 4; j++)
            assert_true(fabs(last[j] - want[j] / total) < 1e-5);
        sequence_fini(&seqs[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_extreme_scores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
