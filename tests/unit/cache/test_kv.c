/* KV pages: random lives of sequences against a simple model; no page twice, none lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/cache/kv.h"
#include "tests/lib/failmalloc.h"

enum { N_SEQS = 6, MAX_PAGES = 400, N_KV_HEADS = 2, HEAD_DIM = 8 };

/* Layers 0 and 2 chunked, 1 full. */
static struct model_config small_config(int64_t chunk) {
    struct model_config config = {
        .n_layers = 3, .n_kv_heads = N_KV_HEADS, .head_dim = HEAD_DIM, .attention_chunk_size = chunk};
    config.layers[0].is_chunked = config.layers[2].is_chunked = true;
    return config;
}

static int64_t div_ceil(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* The simple model of one sequence. */
struct life {
    struct kv_seq *seq;
    int64_t length, reserved; /* in tokens */
    uint32_t id;
};

static int64_t model_first_page(const struct model_config *config, const struct life *life, int layer) {
    int64_t start = config->layers[layer].is_chunked
                        ? life->length / config->attention_chunk_size * config->attention_chunk_size
                        : 0;
    return start / KV_PAGE_TOKENS;
}

static int64_t model_pages(const struct model_config *config, const struct life *life, int layer) {
    return div_ceil(life->reserved, KV_PAGE_TOKENS) - model_first_page(config, life, layer);
}

/* Every page that the model says is held: distinct, of the pool, and with the data that was put there. */
static void check_all(const struct model_config *config, struct kv_pool *pool, const struct life *lives) {
    const float *seen[MAX_PAGES];
    int64_t n_seen = 0;
    for (int s = 0; s < N_SEQS; s++) {
        if (!lives[s].seq)
            continue;
        assert_int_equal(kv_seq_length(lives[s].seq), lives[s].length);
        for (int layer = 0; layer < config->n_layers; layer++) {
            int64_t first = model_first_page(config, &lives[s], layer);
            for (int64_t p = first; p < first + model_pages(config, &lives[s], layer); p++) {
                const float *page = kv_seq_k(lives[s].seq, layer, p * KV_PAGE_TOKENS, 0);
                for (int64_t i = 0; i < n_seen; i++)
                    assert_ptr_not_equal(page, seen[i]);
                seen[n_seen++] = page;
                for (int64_t t = p * KV_PAGE_TOKENS; t < (p + 1) * KV_PAGE_TOKENS && t < lives[s].length; t++) {
                    float want = (float)(lives[s].id * 1000003 + (uint32_t)layer * 7 + (uint32_t)t);
                    int64_t slot = t % KV_PAGE_TOKENS * config->head_dim;
                    for (int h = 0; h < config->n_kv_heads; h++) {
                        const float *keys = kv_seq_k(lives[s].seq, layer, t, h);
                        const float *values = kv_seq_v(lives[s].seq, layer, t, h);
                        assert_true(keys[t % KV_PAGE_TOKENS] == want + (float)h);
                        assert_true(values[slot + config->head_dim - 1] == -want - (float)h);
                    }
                }
            }
        }
    }
    assert_int_equal(kv_pool_free_pages(pool) + n_seen, kv_pool_total_pages(pool));
}

static void fill(const struct model_config *config, const struct life *life, int64_t from, int64_t n) {
    for (int layer = 0; layer < config->n_layers; layer++)
        for (int64_t t = from; t < from + n; t++) {
            float value = (float)(life->id * 1000003 + (uint32_t)layer * 7 + (uint32_t)t);
            float keys[N_KV_HEADS][HEAD_DIM] = {{0}}, values[N_KV_HEADS][HEAD_DIM] = {{0}};
            for (int h = 0; h < N_KV_HEADS; h++) {
                keys[h][0] = value + (float)h;
                values[h][HEAD_DIM - 1] = -value - (float)h;
            }
            kv_seq_write(life->seq, layer, t, keys[0], values[0]);
        }
}

static void random_lives(int64_t chunk, int64_t n_pages, unsigned seed, int *n_full) {
    struct model_config config = small_config(chunk);
    struct life lives[N_SEQS] = {0};
    struct kv_pool *pool;
    assert_int_equal(kv_pool_open(&pool, &config, DT_F32, n_pages, NULL), 0);
    for (int step = 0; step < 1500; step++) {
        struct life *life = &lives[rand_r(&seed) % N_SEQS];
        int action = rand_r(&seed) % 16;
        if (!life->seq) {
            *life = (struct life){.id = (uint32_t)step % 16};
            assert_int_equal(kv_seq_open(&life->seq, pool, NULL), 0);
        } else if (action == 0) {
            kv_seq_close(life->seq);
            life->seq = NULL;
        } else if (action == 1) {
            kv_seq_clear(life->seq);
            life->length = life->reserved = 0;
        } else if (action < 9) {
            int64_t n = rand_r(&seed) % (action < 4 ? 5 * KV_PAGE_TOKENS : KV_PAGE_TOKENS / 2), missing = 0;
            struct life want = *life;
            if (life->length + n > want.reserved)
                want.reserved = life->length + n;
            for (int layer = 0; layer < config.n_layers; layer++)
                missing += model_pages(&config, &want, layer) - model_pages(&config, life, layer);
            int64_t n_free = kv_pool_free_pages(pool);
            int rc = kv_seq_reserve(life->seq, n);
            assert_int_equal(rc, missing > n_free ? L4_E_KV_FULL : 0);
            assert_int_equal(kv_pool_free_pages(pool), n_free - (rc ? 0 : missing));
            *n_full += rc != 0;
            if (!rc)
                *life = want;
        } else if (life->reserved > life->length) {
            int64_t n = 1 + rand_r(&seed) % (life->reserved - life->length);
            fill(&config, life, life->length, n);
            kv_seq_advance(life->seq, NULL, n);
            life->length += n;
        }
        if (step % 8 == 0)
            check_all(&config, pool, lives);
    }
    for (int s = 0; s < N_SEQS; s++)
        kv_seq_close(lives[s].seq);
    assert_int_equal(kv_pool_free_pages(pool), n_pages);
    kv_pool_close(pool);
}

static void test_random_lives(void **state) {
    (void)state;
    static const int64_t chunks[] = {16, 48, KV_PAGE_TOKENS, 2 * KV_PAGE_TOKENS, 200, 8192};
    int n_full = 0;
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++)
        for (unsigned seed = 1; seed <= 4; seed++)
            random_lives(chunks[i], i % 2 ? 60 : MAX_PAGES, seed, &n_full);
    assert_true(n_full > 100); /* the pool did run out */
}

static void test_full_takes_nothing(void **state) {
    (void)state;
    enum { P = KV_PAGE_TOKENS };
    struct model_config config = small_config(2 * P);
    struct kv_pool *pool;
    struct kv_seq *a, *b;
    assert_int_equal(kv_pool_open(&pool, &config, DT_F32, 7, NULL), 0);
    assert_int_equal(kv_seq_open(&a, pool, NULL), 0);
    assert_int_equal(kv_seq_open(&b, pool, NULL), 0);
    assert_int_equal(kv_seq_reserve(a, P + 1), 0); /* two pages of each layer */
    assert_int_equal(kv_pool_free_pages(pool), 1);
    assert_int_equal(kv_seq_reserve(b, 1), L4_E_KV_FULL);
    assert_int_equal(kv_seq_reserve(a, 2 * P + 1), L4_E_KV_FULL);
    assert_int_equal(kv_seq_reserve(a, INT64_MAX), L4_E_KV_FULL);
    assert_int_equal(kv_pool_free_pages(pool), 1);
    assert_int_equal(kv_seq_reserve(a, 2 * P), 0); /* still fits into what it has */
    kv_seq_clear(a);
    assert_int_equal(kv_seq_reserve(b, 2 * P), 0);
    kv_seq_close(a);
    kv_seq_close(b);
    kv_pool_close(pool);
}

/* A long run in steps never holds more than kv_pages_needed said, and for whole chunks it said no more than needed. */
static void test_pages_needed(void **state) {
    (void)state;
    enum { P = KV_PAGE_TOKENS };
    static const int64_t chunks[] = {16, 48, P, 2 * P, 200}, steps[] = {1, 7, P, P + 30},
                         lengths[] = {1, P - 1, 2 * P, 1000};
    for (int c = 0; c < 5; c++)
        for (int s = 0; s < 4; s++)
            for (int l = 0; l < 4; l++) {
                struct model_config config = small_config(chunks[c]);
                struct kv_pool *pool;
                struct kv_seq *seq;
                int64_t needed = kv_pages_needed(&config, lengths[l], steps[s]), most = 0;
                assert_int_equal(kv_pool_open(&pool, &config, DT_F32, needed, NULL), 0);
                assert_int_equal(kv_seq_open(&seq, pool, NULL), 0);
                while (kv_seq_length(seq) < lengths[l]) {
                    int64_t left = lengths[l] - kv_seq_length(seq), n = steps[s] < left ? steps[s] : left;
                    assert_int_equal(kv_seq_reserve(seq, n), 0);
                    int64_t used = needed - kv_pool_free_pages(pool);
                    most = used > most ? used : most;
                    kv_seq_advance(seq, NULL, n);
                }
                assert_true(most <= needed);
                if (steps[s] == 1 && chunks[c] % KV_PAGE_TOKENS == 0)
                    assert_true(most + config.n_layers >= needed);
                kv_seq_close(seq);
                kv_pool_close(pool);
            }
    /* Scout at 1M tokens: all of them on 12 layers, 8192 on the other 36. */
    struct model_config scout = {.n_layers = 48, .n_kv_heads = 8, .head_dim = 128, .attention_chunk_size = 8192};
    for (int i = 0; i < 48; i++)
        scout.layers[i].is_chunked = (i + 1) % 4 != 0;
    assert_int_equal(kv_pages_needed(&scout, 1 << 20, 1), 12 * (1 << 20) / KV_PAGE_TOKENS + 36 * 8192 / KV_PAGE_TOKENS);
    scout.n_layers = CONFIG_MAX_LAYERS;
    assert_true(kv_pages_needed(&scout, INT64_MAX, INT64_MAX) == INT64_MAX);
}

static void test_bad_sizes(void **state) {
    (void)state;
    struct model_config config = small_config(64);
    struct kv_pool *pool = NULL;
    struct l4_err err;
    assert_int_equal(kv_page_bytes(&config, DT_F32), 2 * 2 * KV_PAGE_TOKENS * 8 * sizeof(float));
    assert_int_equal(kv_pool_open(&pool, &config, DT_F32, 0, &err), L4_E_INVALID);
    assert_int_equal(kv_pool_open(&pool, &config, DT_F32, -1, &err), L4_E_INVALID);
    assert_int_equal(kv_pool_open(&pool, &config, DT_F32, (int64_t)1 << 40, &err), L4_E_INVALID);
    config.n_kv_heads = config.head_dim = INT32_MAX;
    assert_int_equal(kv_page_bytes(&config, DT_F32), 0);
    assert_int_equal(kv_pool_open(&pool, &config, DT_F32, 1, &err), L4_E_NOMEM);
    config.n_kv_heads = 1 << 12;
    config.head_dim = 1 << 20;
    assert_int_equal(kv_pool_open(&pool, &config, DT_F32, INT32_MAX, &err), L4_E_NOMEM);
    assert_null(pool);
    kv_pool_close(NULL);
    kv_seq_close(NULL);
}

static void test_out_of_memory(void **state) {
    (void)state;
    struct model_config config = small_config(64);
    struct kv_pool *pool = NULL;
    struct kv_seq *seq = NULL;
    for (long n = 1; n <= 2; n++) {
        failmalloc_arm((size_t)n);
        assert_int_equal(kv_pool_open(&pool, &config, DT_F32, 30, NULL), L4_E_NOMEM);
        assert_true(failmalloc_disarm());
    }
    assert_int_equal(kv_pool_open(&pool, &config, DT_F32, 30, NULL), 0);
    failmalloc_arm(1);
    assert_int_equal(kv_seq_open(&seq, pool, NULL), L4_E_NOMEM);
    assert_true(failmalloc_disarm());
    assert_int_equal(kv_seq_open(&seq, pool, NULL), 0);
    for (long n = 1; n <= config.n_layers; n++) { /* the n-th layer's table cannot grow */
        failmalloc_arm(1);
        assert_int_equal(kv_seq_reserve(seq, 100), L4_E_NOMEM);
        assert_true(failmalloc_disarm());
        assert_int_equal(kv_pool_free_pages(pool), 30);
        if (n < config.n_layers) { /* let one more layer grow */
            failmalloc_arm(2);
            assert_int_equal(kv_seq_reserve(seq, 100), L4_E_NOMEM);
            failmalloc_disarm();
        }
    }
    assert_int_equal(kv_seq_reserve(seq, 100), 0);
    kv_seq_close(seq);
    kv_pool_close(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_lives),  cmocka_unit_test(test_full_takes_nothing),
        cmocka_unit_test(test_pages_needed),  cmocka_unit_test(test_bad_sizes),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
