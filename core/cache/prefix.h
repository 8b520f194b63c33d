/* The prefix index: which pages hold the keys and values of which tokens, also after the request that computed them has
 * ended.
 *
 * A block is KV_PAGE_TOKENS consecutive tokens of a sequence, from a multiple of KV_PAGE_TOKENS on, and the page of
 * each layer that holds them.  It knows the block before it, so it stands for all tokens up to its end.  Its key is the
 * XXH3-128 of the key of the block before (the first block: of the salt) and of its own tokens; a match is a match of
 * the block before, the tokens and the salt themselves, so that colliding hashes never mix pages up.
 *
 * A block has two parts: the pages of full layers, which every later position sees, and those of chunked layers, which
 * only its chunk sees.  Sequences that use a part are counted.  A part that nobody uses is idle: it waits in a list,
 * least recently used first, until it is used again or evicted.  A block without its chunked part still serves beyond
 * that chunk; with its full part the block itself leaves.
 *
 * Whoever uses a full part uses that of the block before, too, and releases the later one first.  So a block comes
 * after those that follow it in the list, and never leaves before them. Thread: engine. */
#ifndef CORE_CACHE_PREFIX_H
#define CORE_CACHE_PREFIX_H

#include <stdbool.h>
#include <uthash.h>
#include <xxhash.h>

#include "core/cache/kv.h"

enum prefix_kind { PREFIX_FULL, PREFIX_CHUNKED, PREFIX_N_KINDS };

struct prefix_part {
    struct prefix_part *prev, *next; /* while idle (utlist) */
    struct prefix_block *block;
    bool has_pages;
    int32_t n_users;
};

struct prefix_block {
    UT_hash_handle hh;
    XXH128_hash_t key;
    struct prefix_block *parent; /* the block before; NULL = none */
    int32_t n_children;
    struct kv_salt salt;
    int32_t tokens[KV_PAGE_TOKENS];
    struct prefix_part parts[PREFIX_N_KINDS];
    int32_t pages[]; /* [n_layers]: page numbers, of the parts that have them */
};

struct prefix;

static inline enum prefix_kind prefix_kind_of(const struct model_config *config, int layer) {
    return config->layers[layer].is_chunked ? PREFIX_CHUNKED : PREFIX_FULL;
}

/* prefix_open - an empty index of at most max_blocks blocks.  config is borrowed until close; give_back(ctx, page)
 * takes the pages of what is evicted.  Errors: L4_E_NOMEM. */
int prefix_open(struct prefix **out, const struct model_config *config, int64_t max_blocks,
                void (*give_back)(void *ctx, int32_t page), void *ctx) L4_MUST_CHECK;
void prefix_close(struct prefix *prefix); /* everything is idle; pages are not given back; NULL is allowed */

/* The key before the first block, and after one more block of KV_PAGE_TOKENS tokens. */
XXH128_hash_t prefix_root_key(const struct kv_salt *salt);
XXH128_hash_t prefix_next_key(XXH128_hash_t key, const int32_t *tokens);

/* prefix_find - the block of these tokens after parent; NULL if there is none. */
struct prefix_block *prefix_find(const struct prefix *prefix, XXH128_hash_t key, const struct prefix_block *parent,
                                 const struct kv_salt *salt, const int32_t *tokens);
/* prefix_add - a block that prefix_find did not find, without pages.  The parent's full part is in use, and the new
 * block's must be before anything is evicted.  NULL: no memory, no place, or its key is another's. */
struct prefix_block *prefix_add(struct prefix *prefix, XXH128_hash_t key, struct prefix_block *parent,
                                const struct kv_salt *salt, const int32_t *tokens);

/* prefix_use - one more sequence uses a part; where it had no pages, the caller has set block->pages of its layers. */
void prefix_use(struct prefix *prefix, struct prefix_block *block, enum prefix_kind kind);
void prefix_release(struct prefix *prefix, struct prefix_block *block, enum prefix_kind kind);

/* prefix_evict - give back the pages of the least recently used idle part; there is one. */
void prefix_evict(struct prefix *prefix);

int64_t prefix_idle_pages(const struct prefix *prefix);
uint64_t prefix_evicted_pages(const struct prefix *prefix);

#endif
