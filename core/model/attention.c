#include "core/model/attention.h"

#include <math.h>
#include <stdatomic.h>

enum {
    BLOCK_TOKENS = 2 * KV_PAGE_TOKENS, /* keys a block of the online softmax */
    TILE_TOKENS = 32,                  /* queries that go through the keys together; a page is a multiple */
    SEGMENT_TOKENS = 4 * BLOCK_TOKENS, /* the shortest segment */
    MAX_SEGMENTS = 64,                 /* about: a longer context has longer segments */
    ITEMS_PER_THREAD = 4,              /* a work item should be at most this part of a thread's share */
    MOST_PARTIAL_FLOATS = 1 << 24      /* of all segments that are work items of their own */
};

static int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The first multiple of step past position. */
static int64_t next_multiple(int64_t position, int64_t step) {
    return position - position % step + step;
}

/* ---- planning ------------------------------------------------------------------------------------------------- */

/* All that the segments depend on is where the row stands; the rows of a tile agree. */
static int64_t segment_tokens(int64_t position, int64_t first) {
    int64_t tokens = SEGMENT_TOKENS, seen = position - position % TILE_TOKENS - first;
    while (seen / tokens >= MAX_SEGMENTS)
        tokens *= 2;
    return tokens;
}

static struct attention_tile make_tile(const struct attention_span *span, int64_t position, int64_t end,
                                       int64_t chunk_tokens) {
    int64_t first = chunk_tokens ? position - position % chunk_tokens : 0;
    int64_t tokens = segment_tokens(position, first);
    return (struct attention_tile){.kv = span->kv,
                                   .position = position,
                                   .row = span->row + position - span->position,
                                   .n_tokens = end - position,
                                   .first = first,
                                   .first_row = span->row + (first > span->position ? first - span->position : 0),
                                   .segment_tokens = tokens,
                                   .n_segments = (end - 1) / tokens - first / tokens + 1};
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
                tiles[n] = make_tile(span, position, next, chunk_tokens);
            n++;
        }
    }
    return n;
}

/* What a softmax over some of the keys leaves for each query row. */
struct partial {
    float *weighted; /* [n_rows][head_dim]: sum of exp(score - largest) * value */
    float *largest;  /* [n_rows]: the largest score so far */
    float *total;    /* [n_rows]: sum of exp(score - largest) */
};

static size_t partial_floats(const struct model_config *config, int64_t n_tokens) {
    size_t n_rows = (size_t)(n_tokens * (config->n_heads / config->n_kv_heads));
    return (n_rows * ((size_t)config->head_dim + 2) + 15) / 16 * 16;
}

static struct partial partial_at(float *floats, int64_t n_rows, int64_t head_dim) {
    float *largest = floats + n_rows * head_dim;
    return (struct partial){floats, largest, largest + n_rows};
}

static double tile_work(const struct attention_tile *tile) {
    return (double)tile->n_tokens * (double)(tile->position + tile->n_tokens - tile->first);
}

/* Storage for the segments of the tiles that are too long for one work item a KV head. */
static int split_tiles(struct attention_work *work, const struct model_config *config, int n_threads,
                       struct arena *arena) {
    double total = 0;
    size_t n_floats = 0;
    for (int64_t i = 0; i < work->n_tiles; i++)
        total += tile_work(&work->tiles[i]);
    double most = total * config->n_kv_heads / (n_threads * ITEMS_PER_THREAD);
    work->n_items = 0;
    for (struct attention_tile *tile = work->tiles; tile < work->tiles + work->n_tiles; tile++) {
        size_t floats = (size_t)(config->n_kv_heads * tile->n_segments) * partial_floats(config, tile->n_tokens);
        work->n_items++;
        if (n_threads == 1 || tile->n_segments == 1 || tile_work(tile) <= most ||
            n_floats + floats > MOST_PARTIAL_FLOATS)
            continue;
        n_floats += floats;
        work->n_items += tile->n_segments - 1;
        tile->partials = arena_alloc(arena, floats, sizeof(float));
        tile->pending = arena_alloc(arena, (size_t)config->n_kv_heads, sizeof *tile->pending);
        if (!tile->partials || !tile->pending)
            return L4_E_NOMEM;
        for (int32_t h = 0; h < config->n_kv_heads; h++)
            atomic_init(&tile->pending[h], (int)tile->n_segments);
    }
    return 0;
}

static int plan_work(struct attention_work *work, const struct model_config *config, const struct attention_span *spans,
                     int n_spans, int64_t chunk_tokens, int n_threads, struct arena *arena) {
    work->n_tiles = cut(spans, n_spans, chunk_tokens, NULL);
    work->tiles = arena_alloc(arena, (size_t)work->n_tiles, sizeof *work->tiles);
    if (!work->tiles)
        return L4_E_NOMEM;
    cut(spans, n_spans, chunk_tokens, work->tiles);
    if (split_tiles(work, config, n_threads, arena))
        return L4_E_NOMEM;
    work->items = arena_alloc(arena, (size_t)work->n_items, sizeof *work->items);
    if (!work->items)
        return L4_E_NOMEM;
    struct attention_item *item = work->items;
    for (struct attention_tile *tile = work->tiles + work->n_tiles; tile-- > work->tiles;) { /* long ones first */
        if (!tile->partials)
            *item++ = (struct attention_item){tile, -1};
        for (int64_t i = 0; tile->partials && i < tile->n_segments; i++)
            *item++ = (struct attention_item){tile, i};
    }
    return 0;
}

int attention_plan(struct attention *plan, const struct model_config *config, const struct attention_span *spans,
                   int n_spans, int n_threads, struct arena *arena) {
    int64_t most_tokens = 0;
    *plan = (struct attention){.config = config};
    for (int i = 0; i < n_spans; i++) {
        plan->n_rows += spans[i].n_tokens;
        most_tokens = spans[i].n_tokens > most_tokens ? spans[i].n_tokens : most_tokens;
    }
    most_tokens = min_i64(most_tokens, TILE_TOKENS);
    size_t n_rows = (size_t)(most_tokens * (config->n_heads / config->n_kv_heads));
    plan->workspace_floats = n_rows * BLOCK_TOKENS + 2 * partial_floats(config, most_tokens);
    plan->workspace = arena_alloc(arena, (size_t)n_threads, plan->workspace_floats * sizeof(float));
    plan->placed = arena_alloc(arena, (size_t)plan->n_rows, sizeof *plan->placed);
    if (!plan->workspace || !plan->placed || plan_work(&plan->full, config, spans, n_spans, 0, n_threads, arena) ||
        plan_work(&plan->chunked, config, spans, n_spans, config->attention_chunk_size, n_threads, arena))
        return L4_E_NOMEM;
    return 0;
}

/* ---- one segment ---------------------------------------------------------------------------------------------- */

struct attention_call {
    const struct attention *plan;
    const struct exec *exec;
    int layer;
    const struct attention_work *work;
    void (*place)(void *ctx, int64_t row);
    void *place_ctx;
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
    const float *q;                  /* [n_rows][head_dim] */
    float *scores;                   /* [n_rows][BLOCK_TOKENS] */
    void *scratch;
};

/* scores[row][j] = q[row] . key at start + j */
static void block_scores(const struct tile_call *c, int64_t start, int64_t end) {
    for (int64_t at = start, next; at < end; at = next) {
        next = min_i64(end, next_multiple(at, KV_PAGE_TOKENS));
        kv_keys_scores(c->layout, c->kernels, kv_seq_k(c->tile->kv, c->layer, at, c->kv_head), at % KV_PAGE_TOKENS,
                       next - at, c->q, c->n_rows, c->scores + (at - start), BLOCK_TOKENS, c->scratch);
    }
}

/* scores = exp(scores - largest), where a larger score than before shrinks what was summed so far. */
static void block_softmax(const struct tile_call *c, const struct partial *sum, int64_t start, int64_t end,
                          bool is_first) {
    for (int64_t row = 0; row < c->n_rows; row++) {
        float *scores = c->scores + row * BLOCK_TOKENS;
        int64_t n_seen = min_i64(end, c->tile->position + row / c->n_rep + 1) - start;
        float largest = c->kernels->max(scores, n_seen);
        if (is_first) {
            sum->total[row] = c->kernels->exp_sum(scores, scores, n_seen, largest);
        } else {
            largest = fmaxf(largest, sum->largest[row]);
            float shrink = expf(sum->largest[row] - largest);
            sum->total[row] = sum->total[row] * shrink + c->kernels->exp_sum(scores, scores, n_seen, largest);
            if (shrink != 1) {
                float *weighted = sum->weighted + row * c->head_dim;
                c->kernels->scale(weighted, weighted, shrink, c->head_dim);
            }
        }
        sum->largest[row] = largest;
    }
}

/* weighted[row] (+)= sum over j < n of scores[row][j] * value at `at` + j, for the rows of tokens begin .. end - 1;
 * scores begin at position start. */
static void add_values(const struct tile_call *c, const struct partial *sum, int64_t begin, int64_t end, int64_t start,
                       int64_t at, int64_t n, bool is_first) {
    int64_t row = begin * c->n_rep, n_rows = (end - begin) * c->n_rep;
    kv_values_sum(c->layout, c->kernels, kv_seq_v(c->tile->kv, c->layer, at, c->kv_head), at % KV_PAGE_TOKENS, n,
                  c->scores + row * BLOCK_TOKENS + (at - start), BLOCK_TOKENS, n_rows,
                  sum->weighted + row * c->head_dim, !is_first, c->scratch);
}

static void block_values(const struct tile_call *c, const struct partial *sum, int64_t start, int64_t end,
                         bool is_first) {
    for (int64_t at = start, next; at < end; at = next, is_first = false) {
        next = min_i64(end, next_multiple(at, KV_PAGE_TOKENS));
        if (next <= c->tile->position + 1) {
            add_values(c, sum, 0, c->tile->n_tokens, start, at, next - at, is_first);
            continue;
        }
        for (int64_t t = 0; t < c->tile->n_tokens; t++) /* the tile's own page: each token sees up to itself */
            add_values(c, sum, t, t + 1, start, at, c->tile->position + t + 1 - at, is_first);
    }
}

static void attend_segment(const struct tile_call *c, int64_t segment, const struct partial *sum) {
    const struct attention_tile *tile = c->tile;
    int64_t tokens = tile->segment_tokens, number = tile->first / tokens + segment;
    int64_t begin = segment == 0 ? tile->first : number * tokens;
    int64_t last = min_i64(tile->position + tile->n_tokens, (number + 1) * tokens);
    for (int64_t start = begin, end; start < last; start = end) {
        end = min_i64(last, next_multiple(start, BLOCK_TOKENS));
        block_scores(c, start, end);
        block_softmax(c, sum, start, end, start == begin);
        block_values(c, sum, start, end, start == begin);
    }
}

/* ---- all segments --------------------------------------------------------------------------------------------- */

/* sum = sum and more; more is used up. */
static void merge(const struct tile_call *c, const struct partial *sum, const struct partial *more) {
    for (int64_t row = 0; row < c->n_rows; row++) {
        float *weighted = sum->weighted + row * c->head_dim, *addend = more->weighted + row * c->head_dim;
        float largest = fmaxf(sum->largest[row], more->largest[row]);
        float shrink = expf(sum->largest[row] - largest), shrink_more = expf(more->largest[row] - largest);
        sum->total[row] = sum->total[row] * shrink + more->total[row] * shrink_more;
        sum->largest[row] = largest;
        c->kernels->scale(weighted, weighted, shrink, c->head_dim);
        c->kernels->scale(addend, addend, shrink_more, c->head_dim);
        c->kernels->add(weighted, addend, c->head_dim);
    }
}

static void write_out(const struct tile_call *c, const struct partial *sum, int32_t n_heads, float *out) {
    for (int64_t row = 0; row < c->n_rows; row++) {
        int64_t head = c->kv_head * c->n_rep + row % c->n_rep;
        c->kernels->scale(out + ((c->tile->row + row / c->n_rep) * n_heads + head) * c->head_dim,
                          sum->weighted + row * c->head_dim, 1 / sum->total[row], c->head_dim);
    }
}

/* One segment of several work items; whoever finishes the last one merges them all. */
static void attend_split(const struct tile_call *c, int64_t segment, const struct model_config *config, float *out) {
    const struct attention_tile *tile = c->tile;
    size_t floats = partial_floats(config, tile->n_tokens);
    float *partials = tile->partials + (size_t)(c->kv_head * tile->n_segments) * floats;
    struct partial own = partial_at(partials + (size_t)segment * floats, c->n_rows, c->head_dim);
    attend_segment(c, segment, &own);
    if (atomic_fetch_sub_explicit(&tile->pending[c->kv_head], 1, memory_order_acq_rel) > 1)
        return;
    atomic_store_explicit(&tile->pending[c->kv_head], (int)tile->n_segments, memory_order_relaxed); /* the next layer */
    struct partial sum = partial_at(partials, c->n_rows, c->head_dim);
    for (int64_t i = 1; i < tile->n_segments; i++) {
        struct partial more = partial_at(partials + (size_t)i * floats, c->n_rows, c->head_dim);
        merge(c, &sum, &more);
    }
    write_out(c, &sum, config->n_heads, out);
}

static void attend_item(void *ctx, int number, int thread) {
    const struct attention_call *call = ctx;
    const struct attention *plan = call->plan;
    const struct model_config *config = plan->config;
    const struct attention_item *item = &call->work->items[number / config->n_kv_heads];
    const struct attention_tile *tile = item->tile;
    struct tile_call c = {.tile = tile,
                          .layout = kv_seq_layout(tile->kv),
                          .kernels = call->exec->kernels,
                          .layer = call->layer,
                          .kv_head = number % config->n_kv_heads,
                          .head_dim = config->head_dim,
                          .n_rep = config->n_heads / config->n_kv_heads,
                          .scratch = pool_scratch(call->exec->pool, thread)};
    float *workspace = plan->workspace + (size_t)thread * plan->workspace_floats;
    size_t floats = partial_floats(config, tile->n_tokens);
    c.n_rows = tile->n_tokens * c.n_rep;
    c.q = call->q + (c.kv_head * plan->n_rows + tile->row) * c.n_rep * c.head_dim;
    c.scores = workspace + 2 * floats;
    pool_once(plan->placed, tile->first_row, tile->row + tile->n_tokens, call->place, call->place_ctx);
    if (item->segment >= 0) {
        attend_split(&c, item->segment, config, call->out);
        return;
    }
    struct partial sum = partial_at(workspace, c.n_rows, c.head_dim);
    struct partial more = partial_at(workspace + floats, c.n_rows, c.head_dim);
    attend_segment(&c, 0, &sum);
    for (int64_t i = 1; i < tile->n_segments; i++) {
        attend_segment(&c, i, &more);
        merge(&c, &sum, &more);
    }
    write_out(&c, &sum, config->n_heads, call->out);
}

void attention_forward(const struct attention *plan, const struct exec *exec, int layer,
                       void (*place)(void *ctx, int64_t row), void *ctx, const float *q, float *out) {
    struct attention_call call = {.plan = plan,
                                  .exec = exec,
                                  .layer = layer,
                                  .work = plan->config->layers[layer].is_chunked ? &plan->chunked : &plan->full,
                                  .place = place,
                                  .place_ctx = ctx,
                                  .q = q,
                                  .out = out};
    for (int64_t i = 0; i < plan->n_rows; i++)
        atomic_init(&plan->placed[i], 0);
    pool_for(exec->pool, (int)(call.work->n_items * plan->config->n_kv_heads), attend_item, &call);
}
