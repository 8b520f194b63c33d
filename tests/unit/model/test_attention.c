/* Attention against a plain double-precision loop; the same bits however sequences are cut and batched, whatever the
 * number of threads and the type of the KV cache; pages full of NaN beyond what a row may see; how much is read. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/model/attention.h"
#include "tests/lib/random_data.h"
#include "tests/lib/sanitized.h"

enum { N_SEQS = 4, N_LAYERS = 2, MAX_TOKENS = 400, LONG_TOKENS = 1700 }; /* layer 0 full, layer 1 chunked */
enum { N_VARIANTS = SANITIZED ? 1 : 99, POSITIONS_APART = SANITIZED ? 37 : 1 };

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

/* attention_forward's place: it must come once for each row. */
struct placing {
    const struct model_config *config;
    struct sequence *seqs;
    const struct attention_span *spans; /* in the order of the sequences that have tokens */
    const int64_t *n_tokens;
    int layer;
    int64_t n_rows;
    float *q;
    atomic_int *n_placed; /* [n_rows] */
};

static void place_row(void *ctx, int64_t row) {
    const struct placing *p = ctx;
    const struct model_config *config = p->config;
    int64_t d = config->head_dim, n_rep = config->n_heads / config->n_kv_heads;
    const struct attention_span *span = p->spans;
    int i = 0;
    while (p->n_tokens[i] == 0 || row >= span->row + span->n_tokens)
        span += p->n_tokens[i++] > 0;
    const struct sequence *seq = &p->seqs[i];
    int64_t position = span->position + row - span->row;
    for (int64_t h = 0; h < config->n_heads; h++)
        memcpy(p->q + ((h / n_rep * p->n_rows + row) * n_rep + h % n_rep) * d,
               seq->q + (position * config->n_heads + h) * d, (size_t)d * sizeof *p->q);
    int64_t from = position * config->n_kv_heads * d;
    kv_seq_write(seq->kv, p->layer, position, seq->k + from, seq->v + from);
    atomic_fetch_add(&p->n_placed[row], 1);
}

/* n_tokens more of each sequence, in one step. */
static void run_step(const struct model_config *config, const struct exec *exec, struct sequence *seqs,
                     const int64_t *n_tokens) {
    struct attention_span spans[N_SEQS];
    struct arena arena = {0};
    int64_t d = config->head_dim, n_rows = 0;
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
        atomic_int *n_placed = must_alloc((size_t)n_rows, sizeof *n_placed);
        struct placing placing = {config, seqs, spans, n_tokens, layer, n_rows, q, n_placed};
        struct attention plan;
        assert_int_equal(attention_plan(&plan, config, spans, n_spans, pool_n_threads(exec->pool), &arena), 0);
        attention_forward(&plan, exec, layer, place_row, &placing, q, out);
        for (int64_t row = 0; row < n_rows; row++)
            assert_int_equal(atomic_load(&n_placed[row]), 1);
        free(n_placed);
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
static struct kv_pool *poisoned_pool(const struct model_config *config, enum dtype type) {
    struct kv_pool *pool;
    struct kv_seq *seq;
    int64_t n_pages = N_LAYERS * (LONG_TOKENS / KV_PAGE_TOKENS + 2 + (N_SEQS - 1) * (MAX_TOKENS / KV_PAGE_TOKENS + 2));
    assert_int_equal(kv_pool_open(&pool, config, type, n_pages, NULL), 0);
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
                    int64_t pieces, enum dtype type) {
    struct kv_pool *pool = poisoned_pool(config, type);
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

/* Every row of a short sequence, some of a long one, its last among them. */
static void check_naive(const struct model_config *config, const struct sequence *s) {
    double want[256];
    int64_t d = config->head_dim, step = 1 + s->n_tokens / MAX_TOKENS * 23;
    for (int layer = 0; layer < N_LAYERS; layer++)
        for (int64_t position = (s->n_tokens - 1) % step; position < s->n_tokens; position += step)
            for (int32_t head = 0; head < config->n_heads; head++) {
                naive_row(config, s, layer, position, head, want);
                for (int64_t j = 0; j < d; j++)
                    assert_true(fabs(s->out[layer][(position * config->n_heads + head) * d + j] - want[j]) < 2e-5);
            }
}

/* Keys and values as a page of the type keeps them, so that the loop in double sees the same numbers. */
static void round_to(const struct model_config *config, enum dtype type, struct sequence *s) {
    const struct kernels *ref = kernels_by_name("ref");
    struct kv_layout layout;
    int64_t d = config->head_dim;
    assert_true(kv_layout_init(&layout, config, type));
    char *page = must_alloc(1, layout.page_bytes);
    float *unit = must_alloc((size_t)d, sizeof *unit), one = 1;
    void *scratch = aligned_alloc(64, KERNEL_SCRATCH_BYTES);
    assert_non_null(scratch);
    for (int64_t t = 0; t < s->n_tokens; t++) {
        float *k = s->k + t * config->n_kv_heads * d, *v = s->v + t * config->n_kv_heads * d;
        kv_page_write(&layout, page, 5, k, v);
        for (int32_t h = 0; h < config->n_kv_heads; h++) {
            const char *keys = page + 2 * (size_t)h * layout.part_bytes;
            for (int64_t i = 0; i < d; i++) {
                unit[i] = 1;
                kv_keys_scores(&layout, ref, keys, 5, 1, unit, 1, k + h * d + i, 1, scratch);
                unit[i] = 0;
            }
            kv_values_sum(&layout, ref, keys + layout.part_bytes, 5, 1, &one, 1, 1, v + h * d, false, scratch);
        }
    }
    free(page);
    free(unit);
    free(scratch);
}

static void check_shape(const struct model_config *config, const char *variant, enum dtype type, int64_t most_tokens,
                        struct rng *rng) {
    struct exec exec = {.kernels = kernels_by_name(variant)};
    struct sequence seqs[N_SEQS];
    float *first[N_SEQS][N_LAYERS];
    size_t row_floats = (size_t)(config->n_heads * config->head_dim);
    for (int i = 0; i < N_SEQS; i++) {
        sequence_init(&seqs[i], config, rng, i == 0 ? most_tokens - rng_below(rng, 200) : 1 + rng_below(rng, 100));
        round_to(config, type, &seqs[i]);
        for (int layer = 0; layer < N_LAYERS; layer++)
            first[i][layer] = must_alloc((size_t)seqs[i].n_tokens * row_floats, sizeof(float));
    }
    static const int64_t pieces[] = {0, 1, 7, 50};
    for (int run = 0; run < 4; run++) {
        assert_int_equal(pool_open(&exec.pool, 1 + run % 3, GEMM_SCRATCH_BYTES, NULL), 0);
        run_all(config, &exec, seqs, rng, pieces[run], type);
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
    static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0};
    for (int v = 0; v < N_VARIANTS && kernels_names()[v]; v++)
        for (size_t t = 0; t < sizeof types / sizeof types[0]; t += SANITIZED ? 3 : 1) {
            struct model_config shapes[] = {
                make_config(4, 2, 16, 16),  make_config(6, 3, 8, 24),   make_config(5, 1, 20, 64),
                make_config(2, 2, 32, 100), make_config(4, 1, 6, 8192),
            };
            for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
                check_shape(&shapes[i], kernels_names()[v], types[t], MAX_TOKENS, &rng);
        }
}

/* Contexts of several segments, cut and whole, on one thread and as work of several. */
static void test_segments(void **state) {
    (void)state;
    struct rng rng = {6};
    for (int v = 0; v < N_VARIANTS && kernels_names()[v]; v++) {
        struct model_config shapes[] = {make_config(2, 1, 8, 8192), make_config(2, 2, 8, 900)};
        check_shape(&shapes[0], kernels_names()[v], DT_F32, LONG_TOKENS, &rng);
        check_shape(&shapes[1], kernels_names()[v], DT_Q8_0, LONG_TOKENS, &rng);
    }
}

/* ---- how much is read ----------------------------------------------------------------------------------------- */

static struct kernels counting;
static gemm_fn *counted_gemm[DT_N_WEIGHT_TYPES];
static kv_q8_fn *counted_keys, *counted_values;
static int64_t n_read; /* numbers of keys and values that products went through */

static void count_gemm(const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x, int64_t ldx, int64_t m,
                       float *y, int64_t ldy, bool accumulate, void *scratch) {
    n_read += (n_end - n_begin) * w->k;
    counted_gemm[w->type](w, n_begin, n_end, x, ldx, m, y, ldy, accumulate, scratch);
}

static void count_keys(const struct kv_q8 *w, const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy,
                       bool accumulate, void *scratch) {
    n_read += w->n * w->k;
    counted_keys(w, x, ldx, m, y, ldy, accumulate, scratch);
}

static void count_values(const struct kv_q8 *w, const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy,
                         bool accumulate, void *scratch) {
    n_read += w->n * w->k;
    counted_values(w, x, ldx, m, y, ldy, accumulate, scratch);
}

static void count_kernels(void) {
    counting = *kernels_by_name(kernels_names()[0]);
    for (int type = 0; type < DT_N_WEIGHT_TYPES; type++) {
        counted_gemm[type] = counting.gemm[type][MATRIX_IN_OUT];
        counting.gemm[type][MATRIX_IN_OUT] = count_gemm;
    }
    counted_keys = counting.kv_q8_keys;
    counted_values = counting.kv_q8_values;
    counting.kv_q8_keys = count_keys;
    counting.kv_q8_values = count_values;
}

/* attention_forward's place, of rows that are in their pages already. */
static void is_placed(void *ctx, int64_t row) {
    (void)ctx;
    (void)row;
}

/* A decoded token reads each key and each value that it sees once for all query heads of their group: its cost grows
 * with the context, and in a chunked layer no further than the chunk. */
static void test_work_of_a_decoded_token(void **state) {
    (void)state;
    enum { CHUNK = 256, N_KV_HEADS = 2, HEAD_DIM = 16 };
    static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0};
    struct model_config config = make_config(10, N_KV_HEADS, HEAD_DIM, CHUNK);
    float q[10 * HEAD_DIM] = {0}, out[10 * HEAD_DIM], vectors[N_KV_HEADS * HEAD_DIM] = {0};
    struct exec exec = {.kernels = &counting};
    count_kernels();
    assert_int_equal(pool_open(&exec.pool, 1, GEMM_SCRATCH_BYTES, NULL), 0);
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        struct kv_pool *pool = poisoned_pool(&config, types[t]);
        struct attention_span span = {.n_tokens = 1};
        struct kv_seq *kv;
        struct arena arena = {0};
        assert_int_equal(kv_seq_open(&kv, pool, NULL), 0);
        for (int64_t position = 0; position < LONG_TOKENS; position++) {
            struct attention plan;
            assert_int_equal(kv_seq_reserve(kv, 1), 0);
            span.kv = kv;
            span.position = position;
            arena_reset(&arena);
            assert_int_equal(attention_plan(&plan, &config, &span, 1, 1, &arena), 0);
            for (int layer = 0; layer < N_LAYERS; layer++)
                kv_seq_write(kv, layer, position, vectors, vectors);
            for (int layer = 0; layer < N_LAYERS && position % POSITIONS_APART == 0; layer++) {
                int64_t seen = layer == 0 ? position + 1 : position % CHUNK + 1;
                n_read = 0;
                attention_forward(&plan, &exec, layer, is_placed, NULL, q, out);
                assert_int_equal(n_read, 2 * seen * N_KV_HEADS * HEAD_DIM);
            }
            kv_seq_advance(kv, NULL, 1);
        }
        kv_seq_close(kv);
        kv_pool_close(pool);
        arena_fini(&arena);
    }
    pool_close(exec.pool);
}

/* One token of a long context is enough work items for many threads, as few as they need, and no more memory than a
 * part of what its keys and values take. */
static void test_long_contexts_are_shared_out(void **state) {
    (void)state;
    struct model_config config = make_config(40, 8, 128, 8192);
    const struct {
        int64_t position;
        int n_threads;
        int64_t full, chunked;
    } cases[] = {{100, 64, 1, 1},     {8191, 1, 1, 1},    {8191, 2, 1, 1},       {8191, 16, 16, 16},
                 {32767, 64, 64, 16}, {32768, 64, 33, 1}, {10000000, 64, 39, 12}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct attention_span span = {.position = cases[i].position, .n_tokens = 1};
        struct arena arena = {0};
        struct attention plan;
        assert_int_equal(attention_plan(&plan, &config, &span, 1, cases[i].n_threads, &arena), 0);
        assert_int_equal(plan.full.n_items, cases[i].full);
        assert_int_equal(plan.chunked.n_items, cases[i].chunked);
        arena_fini(&arena);
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
    run_all(&config, &exec, seqs, &rng, 0, DT_F32);
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

/* Where segments begin to be longer, in a chunk that begins inside a tile: a row's do not depend on where its piece of
 * the prompt began. */
static void test_segments_do_not_depend_on_the_cut(void **state) {
    (void)state;
    enum { CHUNK = 40001, BEGIN = CHUNK + 32700, N_TOKENS = 150 };
    struct model_config config = make_config(2, 1, 8, CHUNK);
    struct attention_span whole = {.position = BEGIN, .n_tokens = N_TOKENS};
    struct arena arena = {0};
    struct attention plan;
    bool longer = false;
    assert_int_equal(attention_plan(&plan, &config, &whole, 1, 1, &arena), 0);
    for (int64_t i = 0; i < plan.chunked.n_tiles; i++) {
        const struct attention_tile *tile = &plan.chunked.tiles[i];
        longer |= tile->segment_tokens != plan.chunked.tiles[0].segment_tokens;
        for (int64_t t = 0; t < tile->n_tokens; t++) {
            struct attention_span one = {.position = tile->position + t, .n_tokens = 1};
            struct arena small = {0};
            struct attention alone;
            assert_int_equal(attention_plan(&alone, &config, &one, 1, 1, &small), 0);
            assert_int_equal(alone.chunked.tiles[0].segment_tokens, tile->segment_tokens);
            assert_int_equal(alone.chunked.tiles[0].n_segments, tile->n_segments);
            arena_fini(&small);
        }
    }
    assert_true(longer);
    arena_fini(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_segments_do_not_depend_on_the_cut),
        cmocka_unit_test(test_work_of_a_decoded_token),
        cmocka_unit_test(test_long_contexts_are_shared_out),
        cmocka_unit_test(test_extreme_scores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
