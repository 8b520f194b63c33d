/* The experts backends side by side: one MoE layer with its shared expert, from one token to many.
 *
 *   bench_experts [HIDDEN INTERMEDIATE EXPERTS [THREADS [RUNS [MAX_TOKENS]]]]     1024 1024 16, two threads, 15, 2048
 *
 * Prints the median of the runs in microseconds for weights in bf16, packed Q4_0 and packed Q8_0, and how far auto is
 * from the best; the backends take turns, and so do several copies of the weights, as layers do in a model, so that
 * they come from memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/model/experts.h"
#include "tests/lib/pack_matrix.h"
#include "tests/lib/random_data.h"

enum { MAX_RUNS = 101, MAX_BACKENDS = 8, N_LAYERS = 3 };

struct layer {
    struct experts experts;
    struct matrix *matrices; /* gate_up of all, then down of all */
    void *weights, *shared_weights;
    void **panels; /* of packed layers; NULL-terminated */
};

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static void *must_alloc(size_t n, size_t size) {
    void *p = calloc(n, size);
    if (!p) {
        fprintf(stderr, "bench_experts: out of memory\n");
        exit(1);
    }
    return p;
}

static void layer_init(struct layer *layer, struct rng *rng, const int32_t *sizes, enum dtype type) {
    const int32_t hidden = sizes[0], intermediate = sizes[1], n_experts = sizes[2];
    const size_t n = (size_t)hidden * (size_t)intermediate;
    uint16_t *weights = rng_weights(rng, DT_BF16, (size_t)n_experts * n * 3, 0.05f);
    uint16_t *shared = rng_weights(rng, DT_BF16, n * 3, 0.05f);
    *layer = (struct layer){.weights = weights, .shared_weights = shared};
    layer->matrices = must_alloc(2 * (size_t)n_experts, sizeof *layer->matrices);
    for (int32_t e = 0; e < n_experts; e++) {
        layer->matrices[e] = (struct matrix){DT_BF16, MATRIX_IN_OUT,    2 * intermediate,
                                             hidden,  2 * intermediate, weights + (size_t)e * 2 * n};
        layer->matrices[n_experts + e] = (struct matrix){
            DT_BF16, MATRIX_IN_OUT, hidden, intermediate, hidden, weights + (2 * (size_t)n_experts + (size_t)e) * n};
    }
    struct experts *experts = &layer->experts;
    *experts = (struct experts){.num_experts = n_experts,
                                .hidden_size = hidden,
                                .intermediate_size = intermediate,
                                .top_k = 1,
                                .gate_up = layer->matrices,
                                .down = layer->matrices + n_experts};
    experts->shared_gate = (struct matrix){DT_BF16, MATRIX_OUT_IN, intermediate, hidden, hidden, shared};
    experts->shared_up = (struct matrix){DT_BF16, MATRIX_OUT_IN, intermediate, hidden, hidden, shared + n};
    experts->shared_down = (struct matrix){DT_BF16, MATRIX_OUT_IN, hidden, intermediate, intermediate, shared + 2 * n};
    layer->panels = must_alloc(2 * (size_t)n_experts + 4, sizeof *layer->panels);
    if (type == DT_BF16)
        return;
    void **panels = layer->panels;
    for (int32_t e = 0; e < 2 * n_experts; e++)
        *panels++ = pack_matrix(&layer->matrices[e], type);
    *panels++ = pack_matrix(&experts->shared_gate, type);
    *panels++ = pack_matrix(&experts->shared_up, type);
    *panels++ = pack_matrix(&experts->shared_down, type);
}

static void layer_fini(struct layer *layer) {
    for (void **panels = layer->panels; *panels; panels++)
        free(*panels);
    free(layer->panels);
    free(layer->weights);
    free(layer->shared_weights);
    free(layer->matrices);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct batch {
    float *hidden_states, *out, *weights;
    int32_t *index;
};

static void batch_init(struct batch *batch, struct rng *rng, int64_t max_tokens, int32_t hidden) {
    const size_t n = (size_t)max_tokens * (size_t)hidden;
    *batch =
        (struct batch){must_alloc(n, sizeof(float)), must_alloc(n, sizeof(float)),
                       must_alloc((size_t)max_tokens, sizeof(float)), must_alloc((size_t)max_tokens, sizeof(int32_t))};
    rng_fill(rng, batch->hidden_states, n, 1);
    for (int64_t t = 0; t < max_tokens; t++)
        batch->weights[t] = 0.5f;
}

static void batch_fini(struct batch *batch) {
    free(batch->hidden_states);
    free(batch->out);
    free(batch->weights);
    free(batch->index);
}

/* One row of the table. */
static void bench_tokens(const struct layer *layers, const struct exec *exec, struct batch *batch, struct rng *rng,
                         int64_t n_tokens, int runs) {
    static struct arena arena;
    double times[MAX_BACKENDS][MAX_RUNS], best = 1e30, of_auto = 0;
    for (int run = 0; run < runs; run++) {
        for (int64_t t = 0; t < n_tokens; t++)
            batch->index[t] = (int32_t)rng_below(rng, layers->experts.num_experts);
        for (int b = 0; experts_backend_at(b); b++) {
            arena_reset(&arena);
            memset(batch->out, 0, (size_t)(n_tokens * layers->experts.hidden_size) * sizeof *batch->out);
            const double start = now_us();
            if (experts_forward(experts_backend_at(b), &layers[(run + b) % N_LAYERS].experts, exec, &arena,
                                batch->hidden_states, batch->index, batch->weights, n_tokens, batch->out)) {
                fprintf(stderr, "bench_experts: out of memory\n");
                exit(1);
            }
            times[b][run] = now_us() - start;
        }
    }
    printf("%8lld", (long long)n_tokens);
    for (int b = 0; experts_backend_at(b); b++) {
        qsort(times[b], (size_t)runs, sizeof times[b][0], by_value);
        const double median = times[b][runs / 2];
        printf("%12.1f", median);
        if (b == 0)
            of_auto = median;
        else if (median < best)
            best = median;
    }
    printf("%11.1f%%%11.1f%%\n", 100 * (of_auto / best - 1),
           100 * (times[0][runs * 3 / 4] - times[0][runs / 4]) / of_auto);
}

int main(int argc, char **argv) {
    static const enum dtype types[] = {DT_BF16, DT_Q4_0, DT_Q8_0};
    int32_t sizes[6] = {1024, 1024, 16, 2, 15, 2048};
    for (int i = 1; i < argc && i <= 6; i++)
        sizes[i - 1] = atoi(argv[i]) > 0 ? atoi(argv[i]) : sizes[i - 1];
    const int runs = sizes[4] < MAX_RUNS ? sizes[4] : MAX_RUNS;
    struct arena gemm_arena = {0};
    struct exec exec = {.gemm = GEMM_OWN, .arena = &gemm_arena};
    struct l4_err err;
    if (kernels_get(&exec.kernels, &err) || pool_open(&exec.pool, sizes[3], GEMM_SCRATCH_BYTES, &err)) {
        fprintf(stderr, "bench_experts: %s\n", err.message);
        return 1;
    }
    struct rng rng = {1};
    struct batch batch;
    batch_init(&batch, &rng, sizes[5], sizes[0]);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct layer layers[N_LAYERS];
        for (int l = 0; l < N_LAYERS; l++)
            layer_init(&layers[l], &rng, sizes, types[i]);
        printf("experts, hidden %d, intermediate %d, %d experts and a shared one, %s, %s, %d threads; median of %d, "
               "us\n%8s",
               sizes[0], sizes[1], sizes[2], dtype_name(types[i]), exec.kernels->name, sizes[3], runs, "tokens");
        for (int b = 0; experts_backend_at(b); b++)
            printf("%12s", experts_backend_at(b)->name);
        printf("%12s%12s\n", "auto - best", "its spread");
        for (int64_t n_tokens = 1; n_tokens <= sizes[5]; n_tokens *= 2)
            bench_tokens(layers, &exec, &batch, &rng, n_tokens, runs);
        for (int l = 0; l < N_LAYERS; l++)
            layer_fini(&layers[l]);
    }
    batch_fini(&batch);
    arena_fini(&gemm_arena);
    pool_close(exec.pool);
    return 0;
}
