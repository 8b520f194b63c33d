#include "core/model/attention.h"

#include <math.h>

enum {
    BLOCK_TOKENS = 2 * KV_PAGE_TOKENS, /* keys a block of the online softmax */
    TILE_TOKENS = 32                   /* queries that go through the keys together; a page is a multiple */
};

static int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The first multiple of step past position. */
static int64_t next_multiple(int64_t position, int64_t step) {
    return position - position % step + step;
}

/* Cuts the spans at multiples of TILE_TOKENS and where a chunk ends; tiles may be NULL.  Returns the number of tiles.
 */
static int64_t cut(const struct attention_span *spans, int n_spans, int64_t chunk_tokens,
                   struct attention_tile *tiles) {
    int64_t n = 0;
    for (const struct attention_span *span = spans; span < spans + n_spans; span++) {
        int64_t end = span->position + span->n_tokens;
        for (int64_t position = span->position, next; position < end; position = next) {
            next = min_i64(end, next_multiple(position, TILE_TOKENS));
            if (chunk_tokens)
                next = min_i64(next, next_multiple(position, chunk_tokens));
            if (tiles)
                tiles[n] = (struct attention_tile){.kv = span->kv,
                                                   .position = position,
                                                   .row = span->row + position - span->position,
                                                   .n_tokens = next - position,
                                                   .first = chunk_tokens ? position - position % chunk_tokens : 0};
            n++;
        }
    }
    return n;
}

/* One thread's storage for a tile of n_rows query rows. */
struct workspace {
    float *scores;   /* [n_rows][BLOCK_TOKENS] */
    float *weighted; /* [n_rows][head_dim]: sum of exp(score - largest) * value */
    float *largest;  /* [n_rows]: the largest score so far */
    float *total;    /* [n_rows]: sum of exp(score - largest) */
};

int attention_plan(struct attention *plan, const struct model_config *config, const struct attention_span *spans,
                   int n_spans, int n_threads, struct arena *arena) {
    int64_t chunk = config->attention_chunk_size, most_tokens = 0;
    *plan = (struct attention){
        .config = config, .n_full = cut(spans, n_spans, 0, NULL), .n_chunked = cut(spans, n_spans, chunk, NULL)};
    for (int i = 0; i < n_spans; i++) {
        plan->n_rows += spans[i].n_tokens;
        most_tokens = spans[i].n_tokens > most_tokens ? spans[i].n_tokens : most_tokens;
    }
    size_t n_rows = (size_t)(min_i64(most_tokens, TILE_TOKENS) * (config->n_heads / config->n_kv_heads));
    plan->workspace_floats = (n_rows * (BLOCK_TOKENS + (size_t)config->head_dim + 2) + 15) / 16 * 16;
    plan->full = arena_alloc(arena, (size_t)plan->n_full, sizeof *plan->full);
    plan->chunked = arena_alloc(arena, (size_t)plan->n_chunked, sizeof *plan->chunked);
    plan->workspace = arena_alloc(arena, (size_t)n_threads, plan->workspace_floats * sizeof(float));
    if (!plan->full || !plan->chunked || !plan->workspace)
        return L4_E_NOMEM;
    cut(spans, n_spans, 0, plan->full);
    cut(spans, n_spans, chunk, plan->chunked);
    return 0;
}

struct attention_call {
    const struct attention *plan;
    const struct exec *exec;
    int layer;
    const struct attention_tile *tiles;
    int64_t n_tiles;
    const float *q;
    float *out;
};

/* What one work item is about. */
struct tile_call {
    const struct attention_tile *tile;
    const struct kv_layout *layout;
    const struct kernels *kernels;
    int layer, kv_head;
    int64_t head_dim, n_rep, n_rows; /* n_rep query heads share a KV head; n_rows = tokens * n_rep */
    struct workspace work;
    void *scratch;
};

/* scores[row][j] = q[row] . key at start + j */
static void block_scores(const struct tile_call *c, const float *q, int64_t start, int64_t end) {
    for (int64_t at = start, next; at < end; at = next) {
        next = min_i64(end, next_multiple(at, KV_PAGE_TOKENS));
        kv_keys_scores(c->layout, c->kernels, kv_seq_k(c->tile->kv, c->layer, at, c->kv_head), at % KV_PAGE_TOKENS,
                       next - at, q, c->n_rows, c->work.scores + (at - start), BLOCK_TOKENS, c->scratch);
    }
}

/* scores = exp(scores - largest), where a larger score than before shrinks what was summed so far. */
static void block_softmax(const struct tile_call *c, int64_t start, int64_t end) {
    for (int64_t row = 0; row < c->n_rows; row++) {
        float *scores = c->work.scores + row * BLOCK_TOKENS;
        int64_t n_seen = min_i64(end, c->tile->position + row / c->n_rep + 1) - start;
        float largest = c->kernels->max(scores, n_seen);
        if (start == c->tile->first) {
            c->work.total[row] = c->kernels->exp_sum(scores, scores, n_seen, largest);
        } else {
            largest = fmaxf(largest, c->work.largest[row]);
            float shrink = expf(c->work.largest[row] - largest);
            c->work.total[row] = c->work.total[row] * shrink + c->kernels->exp_sum(scores, scores, n_seen, largest);
            if (shrink != 1) {
                float *weighted = c->work.weighted + row * c->head_dim;
                c->kernels->scale(weighted, weighted, shrink, c->head_dim);
            }
        }
        c->work.largest[row] = largest;
    }
}

/* weighted[row] += sum over j of scores[row][j] * value at start + j, for the rows of tokens begin .. end - 1. */
static void add_values(const struct tile_call *c, int64_t begin, int64_t end, int64_t start, int64_t at, int64_t n) {
    int64_t row = begin * c->n_rep, n_rows = (end - begin) * c->n_rep;
    kv_values_sum(c->layout, c->kernels, kv_seq_v(c->tile->kv, c->layer, at, c->kv_head), at % KV_PAGE_TOKENS, n,
                  c->work.scores + row * BLOCK_TOKENS + (at - start), BLOCK_TOKENS, n_rows,
                  c->work.weighted + row * c->head_dim, at != c->tile->first, c->scratch);
}

static void block_values(const struct tile_call *c, int64_t start, int64_t end) {
    for (int64_t at = start, next; at < end; at = next) {
        next = min_i64(end, next_multiple(at, KV_PAGE_TOKENS));
        if (next <= c->tile->position + 1) {
            add_values(c, 0, c->tile->n_tokens, start, at, next - at);
            continue;
        }
        for (int64_t t = 0; t < c->tile->n_tokens; t++) /* the tile's own page: each token sees up to itself */
            add_values(c, t, t + 1, start, at, c->tile->position + t + 1 - at);
    }
}

static void attend_tile(void *ctx, int item, int thread) {
    const struct attention_call *call = ctx;
    const struct attention *plan = call->plan;
    const struct model_config *config = plan->config;
    const struct attention_tile *tile =
        &call->tiles[call->n_tiles - 1 - item / config->n_kv_heads]; /* long ones first */
    struct tile_call c = {.tile = tile,
                          .layout = kv_seq_layout(tile->kv),
                          .kernels = call->exec->kernels,
                          .layer = call->layer,
                          .kv_head = item % config->n_kv_heads,
                          .head_dim = config->head_dim,
                          .n_rep = config->n_heads / config->n_kv_heads,
                          .scratch = pool_scratch(call->exec->pool, thread)};
    c.n_rows = tile->n_tokens * c.n_rep;
    c.work.scores = plan->workspace + (size_t)thread * plan->workspace_floats;
    c.work.weighted = c.work.scores + c.n_rows * BLOCK_TOKENS;
    c.work.largest = c.work.weighted + c.n_rows * c.head_dim;
    c.work.total = c.work.largest + c.n_rows;

    const float *q = call->q + (c.kv_head * plan->n_rows + tile->row) * c.n_rep * c.head_dim;
    int64_t last = tile->position + tile->n_tokens;
    for (int64_t start = tile->first, end; start < last; start = end) {
        end = min_i64(last, next_multiple(start, BLOCK_TOKENS));
        block_scores(&c, q, start, end);
        block_softmax(&c, start, end);
        block_values(&c, start, end);
    }
    for (int64_t row = 0; row < c.n_rows; row++) {
        int64_t head = c.kv_head * c.n_rep + row % c.n_rep;
        float *out = call->out + ((tile->row + row / c.n_rep) * config->n_heads + head) * c.head_dim;
        c.kernels->scale(out, c.work.weighted + row * c.head_dim, 1 / c.work.total[row], c.head_dim);
    }
}

void attention_forward(const struct attention *plan, const struct exec *exec, int layer, const float *q, float *out) {
    bool is_chunked = plan->config->layers[layer].is_chunked;
    struct attention_call call = {.plan = plan,
                                  .exec = exec,
                                  .layer = layer,
                                  .tiles = is_chunked ? plan->chunked : plan->full,
                                  .n_tiles = is_chunked ? plan->n_chunked : plan->n_full,
                                  .q = q,
                                  .out = out};
    pool_for(exec->pool, (int)(call.n_tiles * plan->config->n_kv_heads), attend_tile, &call);
}
