#include "tests/lib/fake_model.h"

#include <assert.h>
#include <string.h>

void fake_model_config(struct model_config *config, int32_t vocab_size, int64_t max_tokens, int64_t chunk) {
    memset(config, 0, sizeof *config);
    config->vocab_size = vocab_size;
    config->hidden_size = FAKE_MODEL_HIDDEN;
    config->n_layers = 2;
    config->n_heads = config->n_kv_heads = 1;
    config->head_dim = 1;
    config->max_position_embeddings = max_tokens;
    config->attention_chunk_size = chunk;
    config->layers[1].is_chunked = true;
}

static uint64_t hash_start(void) {
    return 0x9E3779B97F4A7C15U;
}

static uint64_t hash_token(uint64_t hash, int32_t token) {
    hash = (hash ^ (uint64_t)(token + 1)) * 0xBF58476D1CE4E5B9U;
    return hash ^ hash >> 29;
}

static void logits_of(const struct model_config *config, uint64_t hash, float *logits) {
    for (int32_t v = 0; v < config->vocab_size; v++)
        logits[v] = (float)(hash_token(hash, v) >> 48) / 8192.0F;
}

static void hidden_of(const struct model_config *config, uint64_t hash, float *hidden) {
    for (int32_t i = 0; i < config->hidden_size; i++)
        hidden[i] = (float)(hash_token(hash, -2 - i) >> 48) / 32768.0F - 1;
}

static uint64_t hash_tokens(const int32_t *tokens, int64_t n) {
    uint64_t hash = hash_start();
    for (int64_t i = 0; i < n; i++)
        hash = hash_token(hash, tokens[i]);
    return hash;
}

void fake_model_hidden(const struct model_config *config, const int32_t *tokens, int64_t n, float *hidden) {
    hidden_of(config, hash_tokens(tokens, n), hidden);
}

void fake_model_logits(const struct model_config *config, const int32_t *tokens, int64_t n, float *logits) {
    logits_of(config, hash_tokens(tokens, n), logits);
}

double fake_model_now(void *ctx) {
    const struct fake_model *model = ctx;
    return model->clock_s;
}

static float *place(const struct kv_seq *kv, int layer, int64_t position) {
    float *keys = kv_seq_k(kv, layer, position, 0); /* one dimension */
    return keys + position % KV_PAGE_TOKENS;
}

/* What the sequence holds so far, from its pages; the chunked layer must agree within its chunk. */
static uint64_t read_back(const struct model_config *config, const struct kv_seq *kv, int64_t n) {
    uint64_t hash = hash_start();
    for (int64_t i = 0; i < n; i++)
        hash = hash_token(hash, (int32_t)*place(kv, 0, i));
    for (int64_t i = n - n % config->attention_chunk_size; i < n; i++)
        assert(*place(kv, 0, i) == *place(kv, 1, i));
    return hash;
}

static void add_hidden(const struct model_config *config, uint64_t hash, double *sum) {
    float hidden[FAKE_MODEL_HIDDEN];
    hidden_of(config, hash, hidden);
    for (int32_t i = 0; i < config->hidden_size; i++)
        sum[i] += (double)hidden[i];
}

static void run_segment(const struct model_config *config, const struct llama4_segment *segment, float **logits) {
    int64_t start = kv_seq_length(segment->kv);
    uint64_t hash = read_back(config, segment->kv, start);
    for (int32_t i = 0; i < segment->n_tokens; i++) {
        assert(segment->tokens[i] >= 0 && segment->tokens[i] < config->vocab_size);
        for (int layer = 0; layer < config->n_layers; layer++)
            *place(segment->kv, layer, start + i) = (float)segment->tokens[i];
        hash = hash_token(hash, segment->tokens[i]);
        if (segment->hidden_sum)
            add_hidden(config, hash, segment->hidden_sum);
        if (i >= segment->n_tokens - segment->n_logits) {
            logits_of(config, hash, *logits);
            *logits += config->vocab_size;
        }
    }
    kv_seq_advance(segment->kv, segment->tokens, segment->n_tokens);
}

int fake_model_forward(void *ctx, const struct llama4_segment *segments, int n_segments, float *logits,
                       struct l4_err *err) {
    struct fake_model *model = ctx;
    int64_t n_tokens = 0, n_logits = 0;
    double seconds = model->step_s;
    for (int i = 0; i < n_segments; i++) {
        assert(segments[i].n_tokens >= 1 && segments[i].n_logits >= 0 && segments[i].n_logits <= segments[i].n_tokens);
        n_tokens += segments[i].n_tokens;
        n_logits += segments[i].n_logits;
        seconds += segments[i].n_tokens == 1 ? model->decode_s : model->token_s * segments[i].n_tokens;
    }
    if (model->fail_code != 0)
        return l4_err_set(err, model->fail_code, "the fake model was told to fail");
    if (model->max_step_tokens > 0 && n_tokens > model->max_step_tokens)
        return l4_err_set(err, L4_E_NOMEM, "a step of %lld tokens is too large", (long long)n_tokens);
    for (int i = 0; i < n_segments; i++)
        run_segment(model->config, &segments[i], &logits);
    model->clock_s += seconds;
    assert(model->n_steps < FAKE_MODEL_MAX_STEPS);
    model->tokens[model->n_steps] = n_tokens;
    model->logits[model->n_steps] = n_logits;
    model->seconds[model->n_steps] = seconds;
    model->segments[model->n_steps++] = n_segments;
    return 0;
}
