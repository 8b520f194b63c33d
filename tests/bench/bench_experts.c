/* The experts backends side by side: one MoE layer, bf16, from one token to many.
 *
 *   bench_experts [HIDDEN INTERMEDIATE EXPERTS [THREADS]]          1024 1024 16, two threads
 *
 * Prints the median of RUNS runs in microseconds; the backends take turns, and so do several copies of the weights,
 * as layers do in a model, so that they come from memory. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/model/experts.h"
#include "tests/lib/random_data.h"

enum { RUNS = 15, MAX_BACKENDS = 8, MAX_TOKENS = 256, N_LAYERS = 3 };

struct layer {
    struct experts experts;
    struct matrix *matrices; /* gate_up of all, then down of all */
    void *weights;
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

static void layer_init(struct layer *layer, struct rng *rng, int32_t hidden, int32_t intermediate, int32_t n_experts) {
    size_t n = (size_t)hidden * (size_t)intermediate;
    uint16_t *weights = rng_weights(rng, DT_BF16, (size_t)n_experts * n * 3, 0.05f);
    layer->weights = weights;
    layer->matrices = must_alloc(2 * (size_t)n_experts, sizeof *layer->matrices);
    for (int32_t e = 0; e < n_experts; e++) {
        layer->matrices[e] = (struct matrix){DT_BF16, MATRIX_IN_OUT,    2 * intermediate,
                                             hidden,  2 * intermediate, weights + (size_t)e * 2 * n};
        layer->matrices[n_experts + e] = (struct matrix){
            DT_BF16, MATRIX_IN_OUT, hidden, intermediate, hidden, weights + (2 * (size_t)n_experts + (size_t)e) * n};
    }
    layer->experts = (struct experts){.num_experts = n_experts,
                                      .hidden_size = hidden,
                                      .intermediate_size = intermediate,
                                      .top_k = 1,
                                      .gate_up = layer->matrices,
                                      .down = layer->matrices + n_experts};
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    int32_t sizes[4] = {1024, 1024, 16, 2};
    for (int i = 1; i < argc && i <= 4; i++)
        sizes[i - 1] = atoi(argv[i]) > 0 ? atoi(argv[i]) : sizes[i - 1];
    struct arena gemm_arena = {0};
    struct exec exec = {.gemm = GEMM_OWN, .arena = &gemm_arena};
    struct l4_err err;
    if (kernels_get(&exec.kernels, &err) || pool_open(&exec.pool, sizes[3], GEMM_SCRATCH_BYTES, &err)) {
        fprintf(stderr, "bench_experts: %s\n", err.message);
        return 1;
    }
    struct rng rng = {1};
    struct layer layers[N_LAYERS];
    for (int l = 0; l < N_LAYERS; l++)
        layer_init(&layers[l], &rng, sizes[0], sizes[1], sizes[2]);
    size_t n = MAX_TOKENS * (size_t)sizes[0];
    float *hidden_states = must_alloc(n, sizeof(float)), *out = must_alloc(n, sizeof(float));
    float *weights = must_alloc(MAX_TOKENS, sizeof(float));
    int32_t *index = must_alloc(MAX_TOKENS, sizeof(int32_t));
    rng_fill(&rng, hidden_states, n, 1);

    printf("experts, hidden %d, intermediate %d, %d experts, bf16, %s, %d threads; median of %d, us\n%8s", sizes[0],
           sizes[1], sizes[2], exec.kernels->name, sizes[3], RUNS, "tokens");
    for (int b = 0; experts_backend_at(b); b++)
        printf("%12s", experts_backend_at(b)->name);
    puts("");
    struct arena arena = {0};
    for (int64_t n_tokens = 1; n_tokens <= MAX_TOKENS; n_tokens *= 2) {
        double times[MAX_BACKENDS][RUNS];
        for (int run = 0; run < RUNS; run++) {
            for (int64_t t = 0; t < n_tokens; t++) {
                weights[t] = 0.5f;
                index[t] = (int32_t)rng_below(&rng, sizes[2]);
            }
            for (int b = 0; experts_backend_at(b); b++) {
                arena_reset(&arena);
                double start = now_us();
                if (experts_forward(experts_backend_at(b), &layers[(run + b) % N_LAYERS].experts, &exec, &arena,
                                    hidden_states, index, weights, n_tokens, out)) {
                    fprintf(stderr, "bench_experts: out of memory\n");
                    return 1;
                }
                times[b][run] = now_us() - start;
            }
        }
        printf("%8lld", (long long)n_tokens);
        for (int b = 0; experts_backend_at(b); b++) {
            qsort(times[b], RUNS, sizeof times[b][0], by_value);
            printf("%12.1f", times[b][RUNS / 2]);
        }
        puts("");
    }
    for (int l = 0; l < N_LAYERS; l++) {
        free(layers[l].weights);
        free(layers[l].matrices);
    }
    arena_fini(&arena);
    arena_fini(&gemm_arena);
    free(hidden_states);
    free(out);
    free(weights);
    free(index);
    pool_close(exec.pool);
    return 0;
}
