/* Causal attention over KV pages with an online softmax: the scores of a block of keys, never of all of them.
 *
 * A long context is a chain of segments, each with a softmax of its own, which are merged in order.  Its segments may
 * be work of several threads: one decoded token of a long context keeps all of them busy.
 *
 * What is computed for one query row depends on that row's sequence and position alone, bit for bit: blocks and
 * segments of keys begin at fixed positions, not where a batch or a piece of a prompt happens to begin, and segments
 * are merged the same way whoever computed them.  Slots that a row does not see are never read: they may hold anything.
 */
#ifndef CORE_MODEL_ATTENTION_H
#define CORE_MODEL_ATTENTION_H

#include <stdint.h>

#include "core/base/arena.h"
#include "core/cache/kv.h"
#include "core/kernels/gemm.h"

/* Consecutive tokens of one sequence: rows row .. row + n_tokens - 1 of the batch, at positions position .. */
struct attention_span {
    const struct kv_seq *kv;
    int64_t position, row, n_tokens;
};

/* A few tokens of one span whose positions lie in one page and one chunk, and the first position that they see. */
struct attention_tile {
    const struct kv_seq *kv;
    int64_t position, row, n_tokens;
    int64_t first;
    int64_t first_row; /* of the rows of this step that it sees, which end with its own */
    int64_t segment_tokens, n_segments;
    /* Of a tile whose segments are work items of their own. */
    float *partials;      /* [n_kv_heads][n_segments][partial_floats]; else NULL */
    _Atomic int *pending; /* [n_kv_heads]: segments that are not done yet */
};

/* One work item for each KV head: a tile, or one segment of it. */
struct attention_item {
    struct attention_tile *tile;
    int64_t segment; /* -1: all */
};

/* The tiles of a layer, and the work that they are: longest first. */
struct attention_work {
    int64_t n_tiles, n_items;
    struct attention_tile *tiles;
    struct attention_item *items;
};

/* How the attention of one step is cut into pieces of work; the same for every layer of a kind. */
struct attention {
    const struct model_config *config;
    int64_t n_rows;
    struct attention_work full, chunked;
    float *workspace; /* [n_threads][workspace_floats] */
    size_t workspace_floats;
    atomic_uchar *placed; /* pool_once: [n_rows] */
};

/* attention_plan - cut a step's spans into work for n_threads threads.  All storage comes from arena.  Errors:
 * L4_E_NOMEM. */
int attention_plan(struct attention *plan, const struct model_config *config, const struct attention_span *spans,
                   int n_spans, int n_threads, struct arena *arena) L4_MUST_CHECK;

/* attention_forward - out[row] = softmax(q . keys) values for every row and head, in one dispatch.
 *   place(ctx, row) puts the row's queries into q and its key and value into their page; called once for each row, on
 *   the thread that needs it first
 *   q   [n_kv_heads][n_rows][n_heads / n_kv_heads][head_dim] f32, the softmax scale already in it
 *   out [n_rows][n_heads * head_dim] f32, caller's */
void attention_forward(const struct attention *plan, const struct exec *exec, int layer,
                       void (*place)(void *ctx, int64_t row), void *ctx, const float *q, float *out);

#endif
