/* What the steps of a test cost: see include/llama4/bench.h for what counts. */
#ifndef CORE_BENCH_WORK_H
#define CORE_BENCH_WORK_H

#include "core/model/llama4_weights.h"

/* What a layer's matrices hold. */
struct layer_work {
    double dense_weights, dense_bytes;   /* multiplied with every token: attention, router, shared expert or MLP */
    double expert_weights, expert_bytes; /* of one routed expert */
};

struct bench_work {
    const struct model_config *config;
    double head_weights, head_bytes;
    double embedding_bytes; /* of one token */
    double kv_bytes;        /* keys and values of one position in one layer */
    struct layer_work layers[CONFIG_MAX_LAYERS];
};

/* bench_work_init - config is borrowed.  Packed or not, a matrix counts with the bytes of its type. */
void bench_work_init(struct bench_work *work, const struct model_config *config, const struct llama4_weights *weights,
                     enum dtype kv_type);

/* bench_work_ops - of a step of n_tokens tokens, n_logits of which get logits. */
double bench_work_ops(const struct bench_work *work, int64_t n_tokens, int64_t n_logits);
/* bench_work_bytes - of the same step: n_hits[layer] routed experts were hit, 0 in layers without any. */
double bench_work_bytes(const struct bench_work *work, int64_t n_tokens, const int64_t *n_hits);
/* bench_work_kv_bytes - of the positions that n_tokens tokens see, the first of which is at `position`. */
double bench_work_kv_bytes(const struct bench_work *work, int64_t position, int64_t n_tokens);

#endif
