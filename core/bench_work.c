#include "core/bench_work.h"

#include "core/cache/kv.h"

static void add(double *weights, double *bytes, const struct tensor *tensor, double share) {
    if (!tensor->data)
        return;
    *weights += (double)tensor_elements(tensor) * share;
    *bytes += (double)tensor->size_bytes * share;
}

void bench_work_init(struct bench_work *work, const struct checkpoint *checkpoint) {
    const struct checkpoint_weights *weights = checkpoint_weights(checkpoint);
    const struct model_config *config = checkpoint_config(checkpoint);
    *work = (struct bench_work){
        .config = config,
        .embedding_bytes = (double)weights->embed_tokens.size_bytes / config->vocab_size,
        .kv_bytes = (double)kv_page_bytes(config) / KV_PAGE_TOKENS,
    };
    add(&work->head_weights, &work->head_bytes, &weights->lm_head, 1);
    for (int i = 0; i < config->n_layers; i++) {
        const struct layer_weights *from = &weights->layers[i];
        struct layer_work *to = &work->layers[i];
        const struct tensor *const dense[] = {&from->q_proj,    &from->k_proj,  &from->v_proj,    &from->o_proj,
                                              &from->gate_proj, &from->up_proj, &from->down_proj, &from->router};
        const struct tensor *const experts[] = {&from->gate_up_proj, &from->experts_gate, &from->experts_up,
                                                &from->experts_down};
        for (size_t j = 0; j < sizeof dense / sizeof *dense; j++)
            add(&to->dense_weights, &to->dense_bytes, dense[j], 1);
        for (size_t j = 0; j < sizeof experts / sizeof *experts; j++)
            add(&to->expert_weights, &to->expert_bytes, experts[j], 1.0 / config->n_experts);
    }
}

double bench_work_ops(const struct bench_work *work, int64_t n_tokens, int64_t n_logits) {
    double weights = 0; /* that a token meets */
    for (int i = 0; i < work->config->n_layers; i++)
        weights += work->layers[i].dense_weights + work->config->n_experts_per_tok * work->layers[i].expert_weights;
    return 2 * (weights * (double)n_tokens + work->head_weights * (double)n_logits);
}

double bench_work_bytes(const struct bench_work *work, int64_t n_tokens, const int64_t *n_hits) {
    double bytes = work->head_bytes + work->embedding_bytes * (double)n_tokens;
    for (int i = 0; i < work->config->n_layers; i++)
        bytes += work->layers[i].dense_bytes + (double)n_hits[i] * work->layers[i].expert_bytes;
    return bytes;
}

double bench_work_kv_bytes(const struct bench_work *work, int64_t position, int64_t n_tokens) {
    const int64_t chunk = work->config->attention_chunk_size;
    int64_t seen = 0;
    for (int i = 0; i < work->config->n_layers; i++)
        seen += position + n_tokens - (work->config->layers[i].is_chunked ? position / chunk * chunk : 0);
    return work->kv_bytes * (double)seen;
}
