/* KV cache: fixed-size pages from one pool, a block table per sequence and layer.
 *
 * A page (kv_page.h) holds the keys and values of KV_PAGE_TOKENS positions of one layer.
 * Position p lies in page p / KV_PAGE_TOKENS of its sequence, at slot p % KV_PAGE_TOKENS.
 *
 * With a prefix cache, sequences that were told to (kv_seq_share) have their full pages in common: a page is entered
 * into an index (prefix.h) when its last position is there, and never written again.  It stays after the sequence until
 * somebody needs a page and none is free.  What a sequence reads is the same with and without.
 * Thread: engine. */
#ifndef CORE_CACHE_KV_H
#define CORE_CACHE_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/cache/kv_page.h"
#include "llama4/error.h"

/* Sequences share pages only under the same salt.  Padded with zeros. */
enum { KV_SALT_BYTES = 64 };
struct kv_salt {
    char bytes[KV_SALT_BYTES];
};

struct kv_pool;
struct kv_seq;

/* Bytes of one page with keys and values of a type; 0 if the product overflows. */
size_t kv_page_bytes(const struct model_config *config, enum dtype type);
/* Pages that one sequence of n_tokens needs at its worst moment, when it is computed in steps of at most
 * max_step_tokens: chunked layers hold their current chunk and what one step adds. */
int64_t kv_pages_needed(const struct model_config *config, int64_t n_tokens, int64_t max_step_tokens);

/* kv_pool_open - n_pages pages, reserved, touched only when used.  config is borrowed until close. */
int kv_pool_open(struct kv_pool **out, const struct model_config *config, enum dtype type, int64_t n_pages,
                 struct l4_err *err) L4_MUST_CHECK;
void kv_pool_close(struct kv_pool *pool); /* every sequence must be closed; NULL is allowed */
/* kv_pool_cache_prefixes - from now on pages may be shared and kept.  Before the first sequence.  Errors: L4_E_NOMEM.
 */
int kv_pool_cache_prefixes(struct kv_pool *pool, struct l4_err *err) L4_MUST_CHECK;
/* Pages that no sequence uses, the cached ones among them. */
int64_t kv_pool_free_pages(const struct kv_pool *pool);
int64_t kv_pool_total_pages(const struct kv_pool *pool);
/* Pages that no sequence uses, kept for the next one; and how many such were given up for others so far. */
int64_t kv_pool_cached_pages(const struct kv_pool *pool);
uint64_t kv_pool_evicted_pages(const struct kv_pool *pool);

int kv_seq_open(struct kv_seq **out, struct kv_pool *pool, struct l4_err *err) L4_MUST_CHECK;
void kv_seq_close(struct kv_seq *seq); /* gives its pages back; NULL is allowed */

/* kv_seq_share - find and leave full pages in the pool's prefix cache, if it has one, among those of this salt.  At
 * length 0, nothing reserved; kv_seq_clear does not undo it. */
void kv_seq_share(struct kv_seq *seq, const struct kv_salt *salt);
/* Whether it does so, which it ceases to when it runs out of memory. */
bool kv_seq_shares(const struct kv_seq *seq);
/* kv_seq_reuse - go on with cached pages as far as they hold what this sequence would compute next.
 *   tokens [n_tokens]: the sequence's own from position 0; at most all of them are covered.
 *   Returns by how many positions the sequence is longer now: a multiple of KV_PAGE_TOKENS, 0 where nothing fits. */
int64_t kv_seq_reuse(struct kv_seq *seq, const int32_t *tokens, int64_t n_tokens);

/* kv_seq_reserve - pages for positions length .. length + n_tokens - 1 of every layer.
 *   Errors: L4_E_KV_FULL (nothing was taken), L4_E_NOMEM. */
int kv_seq_reserve(struct kv_seq *seq, int64_t n_tokens) L4_MUST_CHECK;
/* kv_seq_advance - n_tokens more positions hold data, that of tokens[0 .. n_tokens - 1]; gives back the pages of
 * chunked layers that no later position sees. */
void kv_seq_advance(struct kv_seq *seq, const int32_t *tokens, int64_t n_tokens);
/* kv_seq_clear - back to length 0, all pages given back. */
void kv_seq_clear(struct kv_seq *seq);
int64_t kv_seq_length(const struct kv_seq *seq);
/* Pages that the sequence uses, its own and shared ones. */
int64_t kv_seq_pages(const struct kv_seq *seq);

/* kv_seq_write - the keys and values [n_kv_heads][head_dim] of one position of a layer, into their page, which must be
 * reserved and not given back.  Thread: any; each position once. */
void kv_seq_write(const struct kv_seq *seq, int layer, int64_t position, const float *keys, const float *values);
/* The keys and the values of one KV head in the page that holds position: the parts of kv_page.h. */
void *kv_seq_k(const struct kv_seq *seq, int layer, int64_t position, int kv_head);
void *kv_seq_v(const struct kv_seq *seq, int layer, int64_t position, int kv_head);
const struct kv_layout *kv_seq_layout(const struct kv_seq *seq);

#endif
