/* The Llama 4 text model.  llama4_forward is the whole network; a layer is attention(), project_and_route() and
 * feed_forward(): four dispatches of the pool.  What is done to rows between two matrix products is no dispatch of its
 * own: it comes along as the `make` of a product's input, and is done by the thread that needs a row first. */
#include "core/model/llama4.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/model/attention.h"
#include "core/model/experts_counts.h"
#include "core/model/llama4_weights.h"
#include "core/model/rope.h"
#include "core/model/router.h"
#include "core/model/rows.h"

struct llama4 {
    const struct model_config *config;
    const struct exec *exec;
    const struct experts_backend *backend;
    struct llama4_weights weights;
    struct experts_counts experts_counts;
    double *inv_freq;           /* [head_dim / 2] */
    struct arena step_arena;    /* the activations of one step */
    struct arena experts_arena; /* the working storage of one layer's experts */
};

struct row {
    struct kv_seq *kv;
    int64_t position;
    int32_t token;
};

/* Behind the last layer's attention only the rows count that somebody wants something of; at the head those with
 * logits. They are the last ones of each segment. */
enum rows { ROWS_ALL, ROWS_WANTED, ROWS_LOGITS };

static int64_t rows_of(const struct llama4_segment *segment, enum rows which) {
    return which == ROWS_ALL || (which == ROWS_WANTED && segment->hidden_sum) ? segment->n_tokens : segment->n_logits;
}

/* One step: a batch of rows, one a token, in the order of the segments. */
struct step {
    struct llama4 *model;
    const struct llama4_segment *segments;
    int n_segments;
    int64_t n_rows;
    enum rows kept; /* which of the segments' rows n_rows counts */
    struct row *rows;
    struct attention attention;
    float *cos, *sin; /* [n_rows, head_dim / 2] */

    float *hidden_states; /* [n_rows, hidden]: the residual stream */
    float *normed;        /* [n_rows, hidden] */
    float *delta;         /* [n_rows, hidden]: what attention adds to the residual stream */
    float *qkv;           /* [n_rows, (n_heads + 2 n_kv_heads) head_dim] */
    float *q;             /* [n_kv_heads][n_rows][n_heads / n_kv_heads][head_dim] */
    float *attended;      /* [n_rows, n_heads head_dim] */
    float *router_logits; /* [n_rows, num_experts] */
    float *top_k_weights; /* [n_rows, top_k] */
    int32_t *top_k_index; /* [n_rows, top_k] */

    /* What the row functions below work on. */
    int layer;
    const float *norm_weight;
};

/* ---- row by row: everything that is not a matrix product ------------------------------------------------------- */

static void embed_rows(void *ctx, int64_t begin, int64_t end) {
    const struct step *s = ctx;
    const struct matrix *embed = &s->model->weights.embed_tokens;
    int64_t half = s->model->config->head_dim / 2;
    for (int64_t i = begin; i < end; i++) {
        kernels_widen(s->model->exec->kernels, embed->type, s->hidden_states + i * embed->k,
                      matrix_at(embed, s->rows[i].token, 0), embed->k);
        rope_angles(s->model->inv_freq, (int32_t)half, s->rows[i].position, s->cos + i * half, s->sin + i * half);
    }
}

/* normed = rms_norm(hidden_states) */
static void norm_rows(void *ctx, int64_t begin, int64_t end) {
    const struct step *s = ctx;
    const struct model_config *config = s->model->config;
    for (int64_t i = begin; i < end; i++)
        s->model->exec->kernels->rms_norm(s->normed + i * config->hidden_size,
                                          s->hidden_states + i * config->hidden_size, s->norm_weight,
                                          config->hidden_size, config->rms_norm_eps);
}

/* hidden_states += delta; normed = rms_norm(hidden_states) */
static void add_and_norm_rows(void *ctx, int64_t begin, int64_t end) {
    const struct step *s = ctx;
    int64_t hidden = s->model->config->hidden_size;
    s->model->exec->kernels->add(s->hidden_states + begin * hidden, s->delta + begin * hidden, (end - begin) * hidden);
    norm_rows(ctx, begin, end);
}

/* RoPE, then QK-norm where the model has it. */
static void rotate_head(const struct step *s, int64_t row, float *head) {
    const struct model_config *config = s->model->config;
    const struct kernels *kernels = s->model->exec->kernels;
    int64_t half = config->head_dim / 2;
    kernels->rope(head, s->cos + row * half, s->sin + row * half, config->head_dim);
    if (config->use_qk_norm)
        kernels->rms_norm(head, head, NULL, config->head_dim, config->rms_norm_eps);
}

/* NoPE layers sharpen the attention of late positions; source: attn_temperature_tuning in modeling_llama4. */
static double temperature(const struct model_config *config, int64_t position) {
    if (!config->attn_temperature_tuning)
        return 1;
    return log1p(floor(((double)position + 1) / config->floor_scale)) * config->attn_scale + 1;
}

/* Queries: rotated (RoPE layers) or sharpened (NoPE layers), scaled for the softmax, put where the attention of their
 * KV head finds them.  Keys: rotated, into their page.  Values: into their page. */
static void place_qkv_row(void *ctx, int64_t i) {
    const struct step *s = ctx;
    const struct model_config *config = s->model->config;
    const struct layer_config *layer = &config->layers[s->layer];
    int64_t head_dim = config->head_dim, n_rep = config->n_heads / config->n_kv_heads;
    const struct row *row = &s->rows[i];
    float *head = s->qkv + i * (config->n_heads + 2 * config->n_kv_heads) * head_dim;
    double scale = (layer->use_rope ? 1 : temperature(config, row->position)) / sqrt((double)head_dim);
    for (int32_t h = 0; h < config->n_heads; h++, head += head_dim) {
        if (layer->use_rope)
            rotate_head(s, i, head);
        float *q = s->q + ((h / n_rep * s->n_rows + i) * n_rep + h % n_rep) * head_dim;
        s->model->exec->kernels->scale(q, head, (float)scale, head_dim);
    }
    const float *keys = head, *values = head + config->n_kv_heads * head_dim;
    for (; head < values && layer->use_rope; head += head_dim)
        rotate_head(s, i, head);
    kv_seq_write(row->kv, s->layer, row->position, keys, values);
}

/* ---- a layer --------------------------------------------------------------------------------------------------- */

/* y = x W^T + bias for all rows of the step */
static struct gemm_task product(const struct step *s, const struct matrix *w, const float *bias, const float *x,
                                int64_t ldx, float *y, int64_t ldy) {
    return (struct gemm_task){
        .impl = s->model->exec->gemm, .w = *w, .bias = bias, .x = x, .ldx = ldx, .m = s->n_rows, .y = y, .ldy = ldy};
}

/* attended = softmax(q . k) v, with q, k and v of normed = rms_norm(hidden_states).  Errors: L4_E_NOMEM. */
static int attention(struct step *s, const struct llama4_layer *layer) {
    const struct exec *exec = s->model->exec;
    int64_t hidden = s->model->config->hidden_size;
    int64_t q_width = layer->q_proj.n, kv_width = layer->k_proj.n, width = q_width + 2 * kv_width;
    struct gemm_task qkv[] = {
        product(s, &layer->q_proj, layer->q_bias, s->normed, hidden, s->qkv, width),
        product(s, &layer->k_proj, layer->k_bias, s->normed, hidden, s->qkv + q_width, width),
        product(s, &layer->v_proj, layer->v_bias, s->normed, hidden, s->qkv + q_width + kv_width, width),
    };
    s->norm_weight = layer->input_layernorm;
    for (int i = 0; i < 3; i++)
        qkv[i].from = (struct gemm_source){.make = norm_rows, .ctx = s};
    if (gemm_run(exec, qkv, 3))
        return L4_E_NOMEM;
    attention_forward(&s->attention, exec, s->layer, place_qkv_row, s, s->q, s->attended);
    return 0;
}

/* hidden_states += o_proj(attended), normed = rms_norm(hidden_states), and on MoE layers router_logits =
 * router(normed). Errors: L4_E_NOMEM. */
static int project_and_route(struct step *s, const struct llama4_layer *layer) {
    int64_t hidden = s->model->config->hidden_size;
    struct gemm_task tasks[] = {
        product(s, &layer->o_proj, layer->o_bias, s->attended, layer->o_proj.k, s->delta, hidden),
        product(s, &layer->router, NULL, s->normed, hidden, s->router_logits, layer->router.n),
    };
    s->norm_weight = layer->post_attention_layernorm;
    tasks[1].from = (struct gemm_source){.make = add_and_norm_rows, .ctx = s, .after_begin = 0, .after_end = 1};
    return gemm_run(s->model->exec, tasks, 2);
}

/* hidden_states += the layer's experts(normed); in a dense layer the shared expert is all there is.
 * Errors: L4_E_NOMEM. */
static int feed_forward(struct step *s, const struct llama4_layer *layer, const struct llama4_probe *probe) {
    struct llama4 *model = s->model;
    const struct experts *experts = &layer->experts;
    if (experts->num_experts > 0) {
        router_top_k(s->router_logits, s->n_rows, experts->num_experts, experts->top_k, s->top_k_weights,
                     s->top_k_index);
        if (probe && probe->router)
            probe->router(probe->user, s->layer, s->router_logits, s->top_k_index, s->top_k_weights, s->n_rows,
                          experts->num_experts, experts->top_k);
        experts_counts_add(&model->experts_counts, experts_backend_choose(model->backend, experts, s->n_rows), s->layer,
                           s->top_k_index, s->n_rows * experts->top_k);
    }
    arena_reset(&model->experts_arena);
    return experts_forward(model->backend, experts, model->exec, &model->experts_arena, s->normed, s->top_k_index,
                           s->top_k_weights, s->n_rows, s->hidden_states);
}

/* ---- the whole network ----------------------------------------------------------------------------------------- */

static int64_t count_rows(const struct step *s, enum rows which) {
    int64_t n = 0;
    for (int i = 0; i < s->n_segments; i++)
        n += rows_of(&s->segments[i], which);
    return n;
}

/* to[] = the rows of from[] that `which` names; to may be from.  Rows of `width` floats. */
static void copy_rows(const struct step *s, enum rows which, float *to, const float *from, int64_t width) {
    for (int i = 0; i < s->n_segments; i++) {
        int64_t n_from = rows_of(&s->segments[i], s->kept), n = rows_of(&s->segments[i], which);
        memmove(to, from + (n_from - n) * width, (size_t)(n * width) * sizeof *to);
        from += n_from * width;
        to += n * width;
    }
}

static void keep_wanted_rows(struct step *s) {
    int64_t n_wanted = count_rows(s, ROWS_WANTED);
    if (n_wanted < s->n_rows) {
        int64_t q_width = s->model->config->n_heads * (int64_t)s->model->config->head_dim;
        copy_rows(s, ROWS_WANTED, s->hidden_states, s->hidden_states, s->model->config->hidden_size);
        copy_rows(s, ROWS_WANTED, s->attended, s->attended, q_width);
    }
    s->n_rows = n_wanted;
    s->kept = ROWS_WANTED;
}

/* logits = lm_head(rms_norm(hidden_states)) of the rows that want them; hidden_states stay as they are.
 * Errors: L4_E_NOMEM. */
static int head(const struct step *s, float *logits) {
    const struct llama4 *model = s->model;
    struct step of_logits = *s;
    of_logits.n_rows = count_rows(s, ROWS_LOGITS);
    if (of_logits.n_rows == 0)
        return 0;
    if (of_logits.n_rows < s->n_rows) {
        of_logits.hidden_states = s->delta;
        copy_rows(s, ROWS_LOGITS, s->delta, s->hidden_states, model->config->hidden_size);
    }
    struct gemm_task task = product(&of_logits, &model->weights.lm_head, NULL, s->normed, model->config->hidden_size,
                                    logits, model->config->vocab_size);
    of_logits.norm_weight = model->weights.norm;
    task.from = (struct gemm_source){.make = norm_rows, .ctx = &of_logits};
    return gemm_run(model->exec, &task, 1);
}

/* hidden_sum += rms_norm(hidden_states), row by row: the order is the sequence's, however it is cut into steps. */
static void sum_hidden_states(struct step *s) {
    int64_t hidden = s->model->config->hidden_size, row = 0;
    s->norm_weight = s->model->weights.norm;
    for (const struct llama4_segment *segment = s->segments; segment < s->segments + s->n_segments; segment++) {
        int64_t end = row + rows_of(segment, s->kept);
        if (segment->hidden_sum)
            norm_rows(s, row, end);
        for (; segment->hidden_sum && row < end; row++)
            for (int64_t i = 0; i < hidden; i++)
                segment->hidden_sum[i] += (double)s->normed[row * hidden + i];
        row = end;
    }
}

static void probe_hidden_states(const struct step *s, const struct llama4_probe *probe, int layer) {
    if (probe && probe->hidden_states)
        probe->hidden_states(probe->user, layer, s->hidden_states, s->n_rows, s->model->config->hidden_size);
}

/* Lay out a step: its rows, their attention, and storage for everything. */
static int step_init(struct step *s, struct llama4 *model, const struct llama4_segment *segments, int n_segments) {
    const struct model_config *config = model->config;
    struct arena *arena = &model->step_arena;
    *s = (struct step){.model = model, .segments = segments, .n_segments = n_segments};
    arena_reset(arena);
    struct attention_span *spans = arena_alloc(arena, (size_t)n_segments, sizeof *spans);
    if (!spans)
        return L4_E_NOMEM;
    for (int i = 0; i < n_segments; i++) {
        spans[i] =
            (struct attention_span){segments[i].kv, kv_seq_length(segments[i].kv), s->n_rows, segments[i].n_tokens};
        s->n_rows += segments[i].n_tokens;
    }
    if (attention_plan(&s->attention, config, spans, n_segments, pool_n_threads(model->exec->pool), arena))
        return L4_E_NOMEM;

    size_t hidden = (size_t)config->hidden_size, head_dim = (size_t)config->head_dim;
    size_t n_heads = (size_t)config->n_heads, n_kv_heads = (size_t)config->n_kv_heads;
    struct {
        float **buffer;
        size_t row_floats;
    } buffers[] = {
        {&s->cos, head_dim / 2},
        {&s->sin, head_dim / 2},
        {&s->hidden_states, hidden},
        {&s->normed, hidden},
        {&s->delta, hidden},
        {&s->qkv, (n_heads + 2 * n_kv_heads) * head_dim},
        {&s->q, n_heads * head_dim},
        {&s->attended, n_heads * head_dim},
        {&s->router_logits, (size_t)config->n_experts},
        {&s->top_k_weights, (size_t)config->n_experts_per_tok},
    };
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
        *buffers[i].buffer = arena_alloc(arena, (size_t)s->n_rows, buffers[i].row_floats * sizeof(float));
        if (!*buffers[i].buffer)
            return L4_E_NOMEM;
    }
    s->top_k_index = arena_alloc(arena, (size_t)s->n_rows, (size_t)config->n_experts_per_tok * sizeof(int32_t));
    s->rows = arena_alloc(arena, (size_t)s->n_rows, sizeof *s->rows);
    if (!s->top_k_index || !s->rows)
        return L4_E_NOMEM;
    for (int i = 0; i < n_segments; i++)
        for (int32_t t = 0; t < segments[i].n_tokens; t++)
            s->rows[spans[i].row + t] = (struct row){segments[i].kv, spans[i].position + t, segments[i].tokens[t]};
    return 0;
}

int llama4_forward(struct llama4 *model, const struct llama4_segment *segments, int n_segments, float *logits,
                   const struct llama4_probe *probe, struct l4_err *err) {
    const struct model_config *config = model->config;
    struct step s;
    if (step_init(&s, model, segments, n_segments))
        return l4_err_set(err, L4_E_NOMEM, "no memory for the activations of a step");

    rows_for(model->exec, s.n_rows, config->hidden_size + config->head_dim * 20, embed_rows, &s);
    probe_hidden_states(&s, probe, 0);
    for (s.layer = 0; s.layer < config->n_layers; s.layer++) {
        const struct llama4_layer *layer = &model->weights.layers[s.layer];
        if (attention(&s, layer))
            return l4_err_set(err, L4_E_NOMEM, "no memory for the attention of %lld tokens", (long long)s.n_rows);
        if (s.layer == config->n_layers - 1 && !probe)
            keep_wanted_rows(&s);
        if (project_and_route(&s, layer) || feed_forward(&s, layer, probe))
            return l4_err_set(err, L4_E_NOMEM, "no memory for the feed-forward of %lld tokens", (long long)s.n_rows);
        probe_hidden_states(&s, probe, s.layer + 1);
    }
    if (head(&s, logits))
        return l4_err_set(err, L4_E_NOMEM, "no memory for the logits of %lld tokens", (long long)s.n_rows);

    sum_hidden_states(&s);
    for (int i = 0; i < n_segments; i++)
        kv_seq_advance(segments[i].kv, segments[i].tokens, segments[i].n_tokens);
    return 0;
}

int llama4_open(struct llama4 **out, const struct checkpoint *checkpoint, const struct exec *exec,
                const struct experts_backend *backend, const struct weights_loading *loading, struct l4_err *err) {
    struct llama4 *model = calloc(1, sizeof *model);
    if (!model)
        return l4_err_set(err, L4_E_NOMEM, "no memory for the model");
    model->config = checkpoint_config(checkpoint);
    model->exec = exec;
    model->backend = backend;
    model->inv_freq = checked_array((size_t)model->config->head_dim / 2, sizeof *model->inv_freq);
    int rc = model->inv_freq ? experts_counts_init(&model->experts_counts, model->config, err)
                             : l4_err_set(err, L4_E_NOMEM, "no memory for the model");
    if (rc == 0)
        rc = llama4_weights_init(&model->weights, checkpoint, exec, loading, err);
    if (rc) {
        experts_counts_fini(&model->experts_counts);
        free(model->inv_freq);
        free(model);
        return rc;
    }
    rope_frequencies(model->config, checkpoint_weights(checkpoint)->rope_freqs.data, model->inv_freq);
    *out = model;
    return 0;
}

void llama4_set_experts(struct llama4 *model, const struct experts_backend *backend) {
    model->backend = backend;
}

const struct llama4_weights *llama4_model_weights(const struct llama4 *model) {
    return &model->weights;
}

void llama4_experts_stats(const struct llama4 *model, struct l4_experts_stats *stats) {
    experts_counts_stats(&model->experts_counts, stats);
}

void llama4_close(struct llama4 *model) {
    if (!model)
        return;
    llama4_weights_fini(&model->weights);
    experts_counts_fini(&model->experts_counts);
    arena_fini(&model->step_arena);
    arena_fini(&model->experts_arena);
    free(model->inv_freq);
    free(model);
}
