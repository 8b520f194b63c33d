/* The attention of one decoded token in a layer of Scout, by context and type of KV cache: what grows with the context,
 * and what a chunk of 8,192 bounds.
 *
 *   bench_attention [THREADS]          two threads
 *
 * KiB: of keys and values that the token sees.  Median of RUNS runs; full and chunked layers take turns. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/model/attention.h"
#include "tests/lib/random_data.h"

enum { RUNS = 15, FULL = 0, CHUNKED = 1, N_LAYERS = 2, N_HEADS = 40, N_KV_HEADS = 8, HEAD_DIM = 128, CHUNK = 8192 };
static const int64_t CONTEXTS[] = {512, 2048, 8192, 16384, 32768};
enum { N_CONTEXTS = sizeof CONTEXTS / sizeof CONTEXTS[0] };

static void must(int rc, const char *what) {
    if (rc != 0) {
        fprintf(stderr, "bench_attention: %s\n", what);
        exit(1);
    }
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The sequence grows to length tokens of a few different keys and values. */
static void grow(struct kv_seq *kv, int64_t length) {
    static float vectors[16][N_KV_HEADS * HEAD_DIM];
    struct rng rng = {3};
    for (int i = 0; i < 16; i++)
        rng_fill(&rng, vectors[i], N_KV_HEADS * HEAD_DIM, 1);
    for (int64_t t = kv_seq_length(kv); t < length; t++) {
        must(kv_seq_reserve(kv, 1), "no pages");
        for (int layer = 0; layer < N_LAYERS; layer++)
            kv_seq_write(kv, layer, t, vectors[t % 16], vectors[t % 13]);
        kv_seq_advance(kv, NULL, 1);
    }
}

/* attention_forward's place, of rows that are in their pages already. */
static void is_placed(void *ctx, int64_t row) {
    (void)ctx;
    (void)row;
}

/* The token at the end of a context: kv holds all of it. */
static void measure(const struct model_config *config, const struct exec *exec, const struct kv_seq *kv,
                    int64_t context) {
    static float q[N_HEADS * HEAD_DIM], out[N_HEADS * HEAD_DIM];
    struct attention_span span = {.kv = kv, .position = context - 1, .n_tokens = 1};
    struct arena arena = {0};
    struct attention plan;
    struct rng rng = {4};
    double us[N_LAYERS][RUNS];
    rng_fill(&rng, q, N_HEADS * HEAD_DIM, 0.1F);
    must(attention_plan(&plan, config, &span, 1, pool_n_threads(exec->pool), &arena), "no memory");
    for (int run = 0; run < RUNS; run++)
        for (int layer = 0; layer < N_LAYERS; layer++) {
            double start = now_us();
            attention_forward(&plan, exec, layer, is_placed, NULL, q, out);
            us[layer][run] = now_us() - start;
        }
    const struct kv_layout *layout = kv_seq_layout(kv);
    printf("%-5s %8lld", kv_type_name(layout->type), (long long)context);
    for (int layer = 0; layer < N_LAYERS; layer++) {
        int64_t seen = layer == FULL ? context : (context - 1) % CHUNK + 1;
        double bytes = (double)layout->page_bytes / KV_PAGE_TOKENS * (double)seen;
        qsort(us[layer], RUNS, sizeof us[layer][0], by_value);
        double median = us[layer][RUNS / 2];
        printf("   %8.0f %8.0f %6.1f", bytes / 1024, median, bytes / median * 1e-3);
    }
    printf("\n");
    arena_fini(&arena);
}

int main(int argc, char **argv) {
    struct model_config config = {.n_layers = N_LAYERS,
                                  .n_heads = N_HEADS,
                                  .n_kv_heads = N_KV_HEADS,
                                  .head_dim = HEAD_DIM,
                                  .attention_chunk_size = CHUNK};
    config.layers[CHUNKED].is_chunked = true;
    struct exec exec = {0};
    must(kernels_get(&exec.kernels, NULL), "no kernels");
    must(pool_open(&exec.pool, argc > 1 ? atoi(argv[1]) : 2, GEMM_SCRATCH_BYTES, NULL), "no threads");
    printf("attention of one token, 40 heads, 8 KV heads of 128; %d threads, kernels %s\n", pool_n_threads(exec.pool),
           exec.kernels->name);
    printf("%-5s %8s   %8s %8s %6s   %8s %8s %6s\n", "type", "context", "full KiB", "us", "GB/s", "chunked", "us",
           "GB/s");
    for (const char *const *name = kv_type_names(); *name; name++) {
        enum dtype type;
        struct kv_pool *pool;
        struct kv_seq *kv;
        int64_t longest = CONTEXTS[N_CONTEXTS - 1];
        must(kv_type_find(&type, *name, NULL), "no such type");
        must(kv_pool_open(&pool, &config, type, kv_pages_needed(&config, longest, 1), NULL), "no memory");
        must(kv_seq_open(&kv, pool, NULL), "no memory");
        for (int i = 0; i < N_CONTEXTS; i++) {
            grow(kv, CONTEXTS[i] - 1); /* and the token itself, whose pages stay where they are while it is measured */
            must(kv_seq_reserve(kv, 1), "no pages");
            measure(&config, &exec, kv, CONTEXTS[i]);
        }
        kv_seq_close(kv);
        kv_pool_close(pool);
    }
    pool_close(exec.pool);
    return 0;
}
