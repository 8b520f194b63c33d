/* Out of memory in the hash table: the block is not added. */
#define HASH_NONFATAL_OOM          1
#define uthash_nonfatal_oom(block) ((block)->n_children = -1)

#include "core/cache/prefix.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

struct prefix {
    const struct model_config *config;
    struct prefix_block *blocks; /* by key (uthash) */
    struct prefix_part *idle;    /* least recently used first (utlist) */
    int32_t n_layers[PREFIX_N_KINDS];
    int64_t n_blocks, max_blocks, n_idle_pages;
    uint64_t n_evicted_pages;
    void (*give_back)(void *ctx, int32_t page);
    void *ctx;
};

int prefix_open(struct prefix **out, const struct model_config *config, int64_t max_blocks,
                void (*give_back)(void *ctx, int32_t page), void *ctx) {
    struct prefix *prefix = calloc(1, sizeof *prefix);
    if (!prefix)
        return L4_E_NOMEM;
    *prefix = (struct prefix){.config = config, .max_blocks = max_blocks, .give_back = give_back, .ctx = ctx};
    for (int i = 0; i < config->n_layers; i++)
        prefix->n_layers[prefix_kind_of(config, i)]++;
    *out = prefix;
    return 0;
}

void prefix_close(struct prefix *prefix) {
    if (!prefix)
        return;
    struct prefix_block *block, *next;
    HASH_ITER(hh, prefix->blocks, block, next) {
        assert(block->parts[PREFIX_FULL].n_users + block->parts[PREFIX_CHUNKED].n_users == 0);
        HASH_DEL(prefix->blocks, block);
        free(block);
    }
    free(prefix);
}

/* ---- keys ----------------------------------------------------------------------------------------------------- */

XXH128_hash_t prefix_root_key(const struct kv_salt *salt) {
    return XXH3_128bits(salt, sizeof *salt);
}

XXH128_hash_t prefix_next_key(XXH128_hash_t key, const int32_t *tokens) {
    struct {
        XXH128_hash_t key;
        int32_t tokens[KV_PAGE_TOKENS];
    } input = {.key = key};
    memcpy(input.tokens, tokens, sizeof input.tokens);
    return XXH3_128bits(&input, sizeof input);
}

static struct prefix_block *find_key(const struct prefix *prefix, const XXH128_hash_t *key) {
    struct prefix_block *block;
    HASH_FIND_BYHASHVALUE(hh, prefix->blocks, key, sizeof *key, (unsigned)key->low64, block);
    return block;
}

struct prefix_block *prefix_find(const struct prefix *prefix, XXH128_hash_t key, const struct prefix_block *parent,
                                 const struct kv_salt *salt, const int32_t *tokens) {
    struct prefix_block *block = find_key(prefix, &key);
    if (!block || block->parent != parent || memcmp(&block->salt, salt, sizeof *salt) != 0 ||
        memcmp(block->tokens, tokens, sizeof block->tokens) != 0)
        return NULL;
    return block;
}

struct prefix_block *prefix_add(struct prefix *prefix, XXH128_hash_t key, struct prefix_block *parent,
                                const struct kv_salt *salt, const int32_t *tokens) {
    assert(!parent || parent->parts[PREFIX_FULL].n_users > 0);
    while (prefix->n_blocks == prefix->max_blocks && prefix->idle) /* only where blocks may hold no page at all */
        prefix_evict(prefix);
    if (prefix->n_blocks == prefix->max_blocks || find_key(prefix, &key))
        return NULL;
    struct prefix_block *block = calloc(1, sizeof *block + (size_t)prefix->config->n_layers * sizeof block->pages[0]);
    if (!block)
        return NULL;
    block->key = key;
    block->parent = parent;
    block->salt = *salt;
    memcpy(block->tokens, tokens, sizeof block->tokens);
    for (int kind = 0; kind < PREFIX_N_KINDS; kind++)
        block->parts[kind].block = block;
    HASH_ADD_BYHASHVALUE(hh, prefix->blocks, key, sizeof block->key, (unsigned)key.low64, block);
    if (block->n_children < 0) {
        free(block);
        return NULL;
    }
    prefix->n_blocks++;
    if (parent)
        parent->n_children++;
    return block;
}

/* ---- use and eviction ----------------------------------------------------------------------------------------- */

void prefix_use(struct prefix *prefix, struct prefix_block *block, enum prefix_kind kind) {
    struct prefix_part *part = &block->parts[kind];
    if (part->has_pages && part->n_users == 0) {
        DL_DELETE(prefix->idle, part);
        prefix->n_idle_pages -= prefix->n_layers[kind];
    }
    part->has_pages = true;
    part->n_users++;
}

void prefix_release(struct prefix *prefix, struct prefix_block *block, enum prefix_kind kind) {
    struct prefix_part *part = &block->parts[kind];
    assert(part->n_users > 0);
    if (--part->n_users > 0)
        return;
    DL_APPEND(prefix->idle, part);
    prefix->n_idle_pages += prefix->n_layers[kind];
}

static void evict_part(struct prefix *prefix, struct prefix_block *block, enum prefix_kind kind) {
    struct prefix_part *part = &block->parts[kind];
    if (!part->has_pages)
        return;
    assert(part->n_users == 0);
    DL_DELETE(prefix->idle, part);
    part->has_pages = false;
    for (int i = 0; i < prefix->config->n_layers; i++)
        if (prefix_kind_of(prefix->config, i) == kind)
            prefix->give_back(prefix->ctx, block->pages[i]);
    prefix->n_idle_pages -= prefix->n_layers[kind];
    prefix->n_evicted_pages += (uint64_t)prefix->n_layers[kind];
}

void prefix_evict(struct prefix *prefix) {
    assert(prefix->idle);
    struct prefix_block *block = prefix->idle->block;
    bool whole = prefix->idle == &block->parts[PREFIX_FULL];
    evict_part(prefix, block, PREFIX_CHUNKED);
    if (!whole)
        return;
    assert(block->n_children == 0);
    evict_part(prefix, block, PREFIX_FULL);
    if (block->parent)
        block->parent->n_children--;
    HASH_DEL(prefix->blocks, block);
    prefix->n_blocks--;
    free(block);
}

int64_t prefix_idle_pages(const struct prefix *prefix) {
    return prefix->n_idle_pages;
}

uint64_t prefix_evicted_pages(const struct prefix *prefix) {
    return prefix->n_evicted_pages;
}
