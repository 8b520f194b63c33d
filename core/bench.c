/* The engine's parts without its thread: a test calls the model itself, so that it can say which tokens come. */
#include "llama4/bench.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/checked.h"
#include "core/bench_work.h"
#include "core/engine_internal.h"
#include "core/kernels/limits.h"
#include "core/model/llama4_weights.h"

struct l4_bench {
    struct engine_parts parts;
    struct limits_meter *limits;
    struct bench_work work;
    int64_t max_tokens;
    int max_batch;
    int max_chunk_tokens; /* of a prompt in one step, as the server has it */

    struct kv_seq **sequences;         /* [max_batch] */
    struct llama4_segment *segments;   /* [max_batch] */
    int32_t *tokens;                   /* [max_batch][max_chunk_tokens] */
    float *logits;                     /* [max_batch][vocab] */
    unsigned char *hit;                /* [n_experts] */
    int64_t n_hits[CONFIG_MAX_LAYERS]; /* of the step */

    struct arena experts_arena;
    float *hidden_states, *experts_out; /* [L4_BENCH_MAX_EXPERT_TOKENS][hidden], made when first asked for */
    float *top_k_weights;
    int32_t *top_k_index;
};

/* ---- random numbers: the same in every run, a stream of its own for each sequence ---------------------------------
 */

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static int32_t random_below(uint64_t *state, int32_t n) {
    return (int32_t)((next_random(state) >> 32) * (uint64_t)n >> 32);
}

/* ---- opening ------------------------------------------------------------------------------------------------------
 */

static int open_parts(struct l4_bench *bench, const struct l4_engine_options *options, struct l4_err *err) {
    struct l4_engine_options own = *options;
    own.wakeup = NULL;
    own.max_context_tokens = bench->max_tokens;
    own.kv_cache_bytes = 0;
    own.max_running = bench->max_batch < L4_MAX_RUNNING / 4 ? 4 * bench->max_batch : L4_MAX_RUNNING; /* for the cache */
    bench->max_chunk_tokens = options->max_chunk_tokens;
    int rc = engine_parts_open(&bench->parts, &own, &(struct engine_overrides){0}, err);
    if (rc == 0)
        engine_parts_pin(&bench->parts, &own, pthread_self());
    return rc;
}

static int open_storage(struct l4_bench *bench, struct l4_err *err) {
    const struct model_config *config = checkpoint_config(bench->parts.checkpoint);
    const size_t n = (size_t)bench->max_batch;
    bench->sequences = checked_array(n, sizeof *bench->sequences);
    bench->segments = checked_array(n, sizeof *bench->segments);
    bench->tokens = checked_array(n * (size_t)bench->max_chunk_tokens, sizeof *bench->tokens);
    bench->logits = checked_array(n * (size_t)config->vocab_size, sizeof *bench->logits);
    bench->hit = checked_array((size_t)config->n_experts + 1, sizeof *bench->hit);
    if (!bench->sequences || !bench->segments || !bench->tokens || !bench->logits || !bench->hit)
        return l4_err_set(err, L4_E_NOMEM, "no memory for %d sequences", bench->max_batch);
    for (int i = 0; i < bench->max_batch; i++)
        bench->sequences[i] = NULL;
    for (int i = 0; i < bench->max_batch; i++) {
        int rc = kv_seq_open(&bench->sequences[i], bench->parts.kv, err);
        if (rc != 0)
            return rc;
    }
    return limits_open(&bench->limits, bench->parts.pool, err);
}

int l4_bench_open(struct l4_bench **out, const struct l4_engine_options *options, int64_t max_tokens, int max_batch,
                  struct l4_err *err) {
    if (max_tokens < 1 || max_batch < 1 || max_batch > L4_MAX_RUNNING)
        return l4_err_set(err, L4_E_INVALID, "%d sequences of %lld tokens: allowed are 1 to %d of at least 1",
                          max_batch, (long long)max_tokens, L4_MAX_RUNNING);
    struct l4_bench *bench = calloc(1, sizeof *bench);
    if (!bench)
        return l4_err_set(err, L4_E_NOMEM, "no memory for the bench");
    bench->max_tokens = max_tokens;
    bench->max_batch = max_batch;
    int rc = open_parts(bench, options, err);
    if (rc == 0) {
        bench_work_init(&bench->work, checkpoint_config(bench->parts.checkpoint),
                        llama4_model_weights(bench->parts.model), bench->parts.budget.kv_type);
        rc = open_storage(bench, err);
    }
    if (rc != 0) {
        l4_bench_close(bench);
        return rc;
    }
    *out = bench;
    return 0;
}

void l4_bench_close(struct l4_bench *bench) {
    if (!bench)
        return;
    for (int i = 0; bench->sequences && i < bench->max_batch; i++)
        kv_seq_close(bench->sequences[i]);
    limits_close(bench->limits);
    engine_parts_close(&bench->parts);
    arena_fini(&bench->experts_arena);
    free(bench->sequences);
    free(bench->segments);
    free(bench->tokens);
    free(bench->logits);
    free(bench->hit);
    free(bench->hidden_states);
    free(bench->experts_out);
    free(bench->top_k_weights);
    free(bench->top_k_index);
    free(bench);
}

/* ---- what there is ------------------------------------------------------------------------------------------------
 */

static enum l4_bench_arithmetic arithmetic(const struct exec *exec, const struct matrix *w) {
    if (exec->gemm != GEMM_OWN || w->layout != MATRIX_PACKED)
        return L4_BENCH_F32;
    return w->type == DT_BF16 ? L4_BENCH_BF16 : L4_BENCH_INT8;
}

void l4_bench_info(const struct l4_bench *bench, struct l4_bench_info *info) {
    static const char *const ACTIVATIONS[] = {
        [L4_BENCH_INT8] = "int8 per block", [L4_BENCH_BF16] = "bf16", [L4_BENCH_F32] = "f32"};
    const struct model_config *config = checkpoint_config(bench->parts.checkpoint);
    /* The feed-forward's second matrix has the type of most. */
    const struct matrix *w = &llama4_model_weights(bench->parts.model)->layers[0].experts.shared_down;
    *info = (struct l4_bench_info){.engine = bench->parts.info, .arithmetic = arithmetic(&bench->parts.exec, w)};
    info->activations = ACTIVATIONS[info->arithmetic];
    for (int i = 0; i < config->n_layers; i++)
        info->n_moe_layers += config->layers[i].is_moe;
}

void l4_bench_limits(struct l4_bench *bench, struct l4_bench_limits *limits) {
    limits_measure(bench->limits, limits);
}

/* ---- a test ---------------------------------------------------------------------------------------------------------
 */

static void count_hits(void *user, int layer, const float *router_logits, const int32_t *top_k_index,
                       const float *top_k_weights, int64_t n_rows, int32_t num_experts, int32_t top_k) {
    struct l4_bench *bench = user;
    (void)router_logits;
    (void)top_k_weights;
    memset(bench->hit, 0, (size_t)num_experts);
    int64_t n_hits = 0;
    for (int64_t i = 0; i < n_rows * top_k; i++) {
        n_hits += !bench->hit[top_k_index[i]];
        bench->hit[top_k_index[i]] = 1;
    }
    bench->n_hits[layer] = n_hits;
}

/* n_tokens more random tokens in each of n sequences; logits of the last of each where wanted. */
static int step(struct l4_bench *bench, int n, int64_t n_tokens, uint64_t *seeds, bool wants_logits,
                struct l4_bench_result *result, struct l4_err *err) {
    const int32_t vocab = checkpoint_config(bench->parts.checkpoint)->vocab_size;
    const int64_t position = kv_seq_length(bench->sequences[0]);
    for (int i = 0; i < n; i++) {
        int32_t *tokens = bench->tokens + i * n_tokens;
        for (int64_t t = 0; t < n_tokens; t++)
            tokens[t] = random_below(&seeds[i], vocab);
        bench->segments[i] =
            (struct llama4_segment){bench->sequences[i], tokens, (int32_t)n_tokens, wants_logits, NULL};
        int rc = kv_seq_reserve(bench->sequences[i], n_tokens);
        if (rc != 0)
            return l4_err_set(err, rc, "the KV cache does not hold %d sequences of %lld tokens", n,
                              (long long)(position + n_tokens));
    }
    const struct llama4_probe probe = {.router = count_hits, .user = bench};
    int rc = llama4_forward(bench->parts.model, bench->segments, n, bench->logits, &probe, err);
    if (rc != 0)
        return rc;
    result->ops += bench_work_ops(&bench->work, n * n_tokens, wants_logits ? n : 0);
    result->bytes += bench_work_bytes(&bench->work, n * n_tokens, bench->n_hits) +
                     n * bench_work_kv_bytes(&bench->work, position, n_tokens);
    for (int i = 0; i < checkpoint_config(bench->parts.checkpoint)->n_layers; i++)
        result->distinct_experts += (double)bench->n_hits[i];
    return 0;
}

static int steps(struct l4_bench *bench, const struct l4_bench_test *test, struct l4_bench_result *result,
                 struct l4_err *err) {
    const int64_t total = test->n_prompt + test->n_gen;
    const int64_t most = test->n_prompt > 0 ? bench->max_chunk_tokens / test->batch : 1;
    uint64_t seeds[L4_MAX_RUNNING];
    int64_t n_steps = 0;
    for (int i = 0; i < test->batch; i++)
        seeds[i] = (uint64_t)(i + 1) << 32;
    for (int64_t done = 0; done < total; n_steps++) {
        const int64_t left = total - done, n_tokens = left < most ? left : most > 0 ? most : 1;
        int rc = step(bench, test->batch, n_tokens, seeds, test->n_gen > 0 || n_tokens == left, result, err);
        if (rc != 0)
            return rc;
        done += n_tokens;
    }
    struct l4_bench_info info;
    l4_bench_info(bench, &info);
    if (info.n_moe_layers > 0)
        result->distinct_experts /= (double)(n_steps * info.n_moe_layers);
    return 0;
}

/* OpenBLAS's threads go on looking for work for some 100 ms after a product: not beside what is measured next. */
static void let_openblas_sleep(const struct l4_bench *bench, const struct experts_backend *backend) {
    if (!backend->batch_invariant || bench->parts.exec.gemm != GEMM_OWN)
        nanosleep(&(struct timespec){.tv_nsec = 120 * 1000 * 1000}, NULL);
}

int l4_bench_run(struct l4_bench *bench, const struct l4_bench_test *test, struct l4_bench_result *result,
                 struct l4_err *err) {
    const int64_t tokens = test->n_prompt > 0 ? test->n_prompt : test->n_gen;
    if (test->batch < 1 || test->batch > bench->max_batch)
        return l4_err_set(err, L4_E_INVALID, "batch is %d: allowed are 1 to %d", test->batch, bench->max_batch);
    if (test->n_prompt < 0 || test->n_gen < 0 || (test->n_prompt > 0) == (test->n_gen > 0) ||
        tokens > bench->max_tokens)
        return l4_err_set(err, L4_E_INVALID,
                          "a prompt of %lld and %lld tokens after it: allowed is one of the two, 1 "
                          "to %lld",
                          (long long)test->n_prompt, (long long)test->n_gen, (long long)bench->max_tokens);
    const struct experts_backend *backend;
    int rc = experts_backend_find(&backend, test->experts, err);
    if (rc != 0)
        return rc;
    llama4_set_experts(bench->parts.model, backend);
    *result = (struct l4_bench_result){0};
    const double start_s = engine_now_s(NULL);
    rc = steps(bench, test, result, err);
    result->seconds = engine_now_s(NULL) - start_s;
    let_openblas_sleep(bench, backend);
    for (int i = 0; i < bench->max_batch; i++)
        kv_seq_clear(bench->sequences[i]);
    return rc;
}

/* ---- the experts alone ---------------------------------------------------------------------------------------------
 */

static int open_experts_storage(struct l4_bench *bench, struct l4_err *err) {
    const struct model_config *config = checkpoint_config(bench->parts.checkpoint);
    const size_t n = L4_BENCH_MAX_EXPERT_TOKENS, n_floats = n * (size_t)config->hidden_size;
    const size_t n_pairs = n * (size_t)config->n_experts_per_tok;
    if (bench->top_k_index)
        return 0;
    free(bench->hidden_states), free(bench->experts_out), free(bench->top_k_weights);
    bench->hidden_states = checked_array(n_floats, sizeof *bench->hidden_states);
    bench->experts_out = checked_array(n_floats, sizeof *bench->experts_out);
    bench->top_k_weights = checked_array(n_pairs, sizeof *bench->top_k_weights);
    if (!bench->hidden_states || !bench->experts_out || !bench->top_k_weights ||
        !(bench->top_k_index = checked_array(n_pairs, sizeof *bench->top_k_index)))
        return l4_err_set(err, L4_E_NOMEM, "no memory for the hidden states of %zu tokens", n);
    uint64_t seed = 1;
    for (size_t i = 0; i < n_floats; i++)
        bench->hidden_states[i] = (float)random_below(&seed, 1 << 16) / (1 << 15) - 1;
    for (size_t i = 0; i < n_pairs; i++)
        bench->top_k_weights[i] = 0.5f;
    return 0;
}

/* Every token goes to top_k different experts. */
static void route_at_random(struct l4_bench *bench, int64_t n_tokens, uint64_t seed) {
    const struct model_config *config = checkpoint_config(bench->parts.checkpoint);
    const int32_t top_k = config->n_experts_per_tok, n_experts = config->n_experts;
    for (int64_t t = 0; t < n_tokens; t++) {
        const int32_t first = random_below(&seed, n_experts);
        for (int32_t k = 0; k < top_k; k++)
            bench->top_k_index[t * top_k + k] = (first + k) % n_experts;
    }
}

static int nth_moe_layer(const struct model_config *config, unsigned n) {
    for (int i = 0; i < config->n_layers; i++)
        if (config->layers[i].is_moe && n-- == 0)
            return i;
    return -1;
}

int l4_bench_experts(struct l4_bench *bench, const char *experts, int64_t n_tokens, unsigned layer, uint64_t seed,
                     double *seconds, struct l4_err *err) {
    const struct model_config *config = checkpoint_config(bench->parts.checkpoint);
    const struct experts_backend *backend;
    struct l4_bench_info info;
    l4_bench_info(bench, &info);
    int rc = experts_backend_find(&backend, experts, err);
    if (rc == 0 && info.n_moe_layers == 0)
        rc = l4_err_set(err, L4_E_INVALID, "the model has no layer with experts");
    if (rc == 0 && (n_tokens < 1 || n_tokens > L4_BENCH_MAX_EXPERT_TOKENS))
        rc = l4_err_set(err, L4_E_INVALID, "%lld tokens: allowed are 1 to %d", (long long)n_tokens,
                        (int)L4_BENCH_MAX_EXPERT_TOKENS);
    if (rc == 0)
        rc = open_experts_storage(bench, err);
    if (rc != 0)
        return rc;
    const int moe_layer = nth_moe_layer(config, layer % (unsigned)info.n_moe_layers);
    route_at_random(bench, n_tokens, seed);
    arena_reset(&bench->experts_arena);
    memset(bench->experts_out, 0, (size_t)n_tokens * (size_t)config->hidden_size * sizeof *bench->experts_out);
    const double start_s = engine_now_s(NULL);
    rc = experts_forward(backend, &llama4_model_weights(bench->parts.model)->layers[moe_layer].experts,
                         &bench->parts.exec, &bench->experts_arena, bench->hidden_states, bench->top_k_index,
                         bench->top_k_weights, n_tokens, bench->experts_out);
    *seconds = engine_now_s(NULL) - start_s;
    let_openblas_sleep(bench, backend);
    return rc == 0 ? 0 : l4_err_set(err, rc, "no memory for the experts of %lld tokens", (long long)n_tokens);
}
