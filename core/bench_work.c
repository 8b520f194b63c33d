#include "core/bench_work.h"

#include "core/cache/kv.h"

static void add(double *n_weights, double *bytes, const struct matrix *w) {
    if (!w || !w->data)
        return;
    *n_weights += (double)(w->n * w->k);
    *bytes += (double)dtype_bytes(w->type, w->n * w->k);
}

void bench_work_init(struct bench_work *work, const struct model_config *config, const struct llama4_weights *weights,
                     enum dtype kv_type) {
    *work = (struct bench_work){
        .config = config,
        .embedding_bytes = (double)dtype_bytes(weights->embed_tokens.type, config->hidden_size),
        .kv_bytes = (double)kv_page_bytes(config, kv_type) / KV_PAGE_TOKENS,
    };
    add(&work->head_weights, &work->head_bytes, &weights->lm_head);
    for (int i = 0; i < config->n_layers; i++) {
        const struct llama4_layer *from = &weights->layers[i];
        struct layer_work *to = &work->layers[i];
        const struct experts *experts = &from->experts;
        const struct matrix *const dense[] = {&from->q_proj,       &from->k_proj,        &from->v_proj,
                                              &from->o_proj,       &from->router,        &experts->shared_gate,
                                              &experts->shared_up, &experts->shared_down};
        const struct matrix *const expert[] = {experts->gate_up, experts->gate, experts->up, experts->down};
        for (size_t j = 0; j < sizeof dense / sizeof *dense; j++)
            add(&to->dense_weights, &to->dense_bytes, dense[j]);
        for (size_t j = 0; j < sizeof expert / sizeof *expert; j++) /* the first stands for all */
            add(&to->expert_weights, &to->expert_bytes, expert[j]);
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
