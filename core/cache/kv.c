#include "core/cache/kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/checked.h"
#include "core/cache/prefix.h"

struct kv_pool {
    const struct model_config *config;
    struct kv_layout layout;
    char *base; /* [n_pages][layout.page_bytes], mapped without reserving memory */
    size_t mapped_bytes;
    int32_t n_pages;
    int32_t n_fresh;       /* pages n_fresh.. were never handed out: no memory stands behind them yet */
    int32_t n_free;        /* pages given back, last in first out: the next user finds them warm */
    int32_t *free;         /* [n_pages] */
    bool has_chunked;      /* any layer is */
    struct prefix *prefix; /* holds the others that no sequence uses; NULL = no prefix cache */
};

/* Page numbers of positions first_page * KV_PAGE_TOKENS and on. */
struct block_table {
    int32_t *pages;
    size_t n_pages, cap;
    int64_t first_page;
};

struct kv_seq {
    struct kv_pool *pool;
    int64_t length;

    /* The first n_blocks pages belong to the index: the sequence uses the full parts of all of them and the chunked
     * parts from first_chunked on.  While is_shared, n_blocks = length / KV_PAGE_TOKENS. */
    bool may_share, is_shared; /* may_share: after kv_seq_clear again */
    struct kv_salt salt;
    XXH128_hash_t key; /* of the last block */
    struct prefix_block **blocks;
    size_t n_blocks, blocks_cap;
    int64_t first_chunked;
    int32_t tokens[KV_PAGE_TOKENS]; /* of the page that is not full yet */

    struct block_table tables[]; /* [n_layers] */
};

size_t kv_page_bytes(const struct model_config *config, enum dtype type) {
    struct kv_layout layout;
    return kv_layout_init(&layout, config, type) ? layout.page_bytes : 0;
}

static int64_t div_ceil(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

/* The first page that position `next` still sees in layers of this kind. */
static int64_t first_visible_page(const struct kv_pool *pool, enum prefix_kind kind, int64_t next) {
    if (kind == PREFIX_FULL)
        return 0;
    if (!pool->has_chunked)
        return next / KV_PAGE_TOKENS;
    return (next - next % pool->config->attention_chunk_size) / KV_PAGE_TOKENS;
}

int64_t kv_pages_needed(const struct model_config *config, int64_t n_tokens, int64_t max_step_tokens) {
    int64_t full = div_ceil(n_tokens, KV_PAGE_TOKENS), chunked = full, span;
    /* Worst for a chunked layer: all of its chunk but the last token, and then a whole step. */
    if (checked_add_i64(config->attention_chunk_size - 1, max_step_tokens, &span) && span < n_tokens) {
        chunked = div_ceil(span, KV_PAGE_TOKENS);
        if (config->attention_chunk_size % KV_PAGE_TOKENS != 0 && chunked < full)
            chunked++; /* the chunk may begin inside a page */
    }
    int64_t pages = 0, layer_pages;
    for (int i = 0; i < config->n_layers; i++) {
        layer_pages = config->layers[i].is_chunked ? chunked : full;
        if (!checked_add_i64(pages, layer_pages, &pages))
            return INT64_MAX;
    }
    return pages;
}

int kv_pool_open(struct kv_pool **out, const struct model_config *config, enum dtype type, int64_t n_pages,
                 struct l4_err *err) {
    struct kv_layout layout;
    size_t mapped_bytes;
    if (n_pages < 1 || n_pages > INT32_MAX)
        return l4_err_set(err, L4_E_INVALID, "KV cache of %lld pages: allowed are 1 to %d", (long long)n_pages,
                          INT32_MAX);
    if (!kv_layout_init(&layout, config, type) || !checked_mul_size(layout.page_bytes, (size_t)n_pages, &mapped_bytes))
        return l4_err_set(err, L4_E_NOMEM, "KV cache of %lld pages is larger than the address space",
                          (long long)n_pages);
    struct kv_pool *pool = calloc(1, sizeof *pool);
    int32_t *list = checked_array((size_t)n_pages, sizeof *list);
    void *base = mmap(NULL, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!pool || !list || base == MAP_FAILED) {
        if (base != MAP_FAILED)
            munmap(base, mapped_bytes);
        free(list);
        free(pool);
        return l4_err_set(err, L4_E_NOMEM, "cannot map a KV cache of %zu bytes", mapped_bytes);
    }
    *pool = (struct kv_pool){.config = config,
                             .layout = layout,
                             .base = base,
                             .mapped_bytes = mapped_bytes,
                             .n_pages = (int32_t)n_pages,
                             .free = list};
    for (int i = 0; i < config->n_layers; i++)
        pool->has_chunked |= config->layers[i].is_chunked;
    *out = pool;
    return 0;
}

void kv_pool_close(struct kv_pool *pool) {
    if (!pool)
        return;
    assert(kv_pool_free_pages(pool) == pool->n_pages); /* every sequence is closed */
    prefix_close(pool->prefix);
    munmap(pool->base, pool->mapped_bytes);
    free(pool->free);
    free(pool);
}

static void page_give(void *ctx, int32_t page) {
    struct kv_pool *pool = ctx;
    pool->free[pool->n_free++] = page;
}

int kv_pool_cache_prefixes(struct kv_pool *pool, struct l4_err *err) {
    assert(!pool->prefix && pool->n_fresh == 0);
    if (prefix_open(&pool->prefix, pool->config, pool->n_pages, page_give, pool) != 0)
        return l4_err_set(err, L4_E_NOMEM, "no memory for the prefix cache");
    return 0;
}

int64_t kv_pool_cached_pages(const struct kv_pool *pool) {
    return pool->prefix ? prefix_idle_pages(pool->prefix) : 0;
}

uint64_t kv_pool_evicted_pages(const struct kv_pool *pool) {
    return pool->prefix ? prefix_evicted_pages(pool->prefix) : 0;
}

int64_t kv_pool_free_pages(const struct kv_pool *pool) {
    return (int64_t)pool->n_pages - pool->n_fresh + pool->n_free + kv_pool_cached_pages(pool);
}

int64_t kv_pool_total_pages(const struct kv_pool *pool) {
    return pool->n_pages;
}

/* kv_pool_free_pages is not 0. */
static int32_t page_take(struct kv_pool *pool) {
    if (pool->n_free == 0 && pool->n_fresh < pool->n_pages)
        return pool->n_fresh++;
    while (pool->n_free == 0)
        prefix_evict(pool->prefix);
    return pool->free[--pool->n_free];
}

/* Take the first n pages out of a table; the sequence's own ones are free again. */
static void table_drop(struct kv_seq *seq, struct block_table *table, size_t n) {
    assert(n <= table->n_pages);
    for (size_t i = 0; i < n; i++)
        if ((size_t)table->first_page + i >= seq->n_blocks)
            page_give(seq->pool, table->pages[i]);
    table->n_pages -= n;
    if (n > 0 && table->n_pages > 0)
        memmove(table->pages, table->pages + n, table->n_pages * sizeof *table->pages);
}

int kv_seq_open(struct kv_seq **out, struct kv_pool *pool, struct l4_err *err) {
    size_t n_layers = (size_t)pool->config->n_layers;
    struct kv_seq *seq = calloc(1, sizeof *seq + n_layers * sizeof seq->tables[0]);
    if (!seq)
        return l4_err_set(err, L4_E_NOMEM, "no memory for a sequence's block tables");
    seq->pool = pool;
    *out = seq;
    return 0;
}

/* ---- sharing -------------------------------------------------------------------------------------------------- */

void kv_seq_share(struct kv_seq *seq, const struct kv_salt *salt) {
    assert(seq->length == 0);
    seq->may_share = seq->is_shared = seq->pool->prefix != NULL;
    seq->salt = *salt;
    seq->key = prefix_root_key(salt);
}

bool kv_seq_shares(const struct kv_seq *seq) {
    return seq->is_shared;
}

/* The sequence's pages of block b in layers of this kind are those of the block, which it uses from now on.  Where the
 * block has none, it takes the sequence's. */
static void use_part(struct kv_seq *seq, struct prefix_block *block, size_t b, enum prefix_kind kind) {
    struct kv_pool *pool = seq->pool;
    bool has_pages = block->parts[kind].has_pages;
    for (int i = 0; i < pool->config->n_layers; i++) {
        struct block_table *table = &seq->tables[i];
        if (prefix_kind_of(pool->config, i) != kind)
            continue;
        size_t at = b - (size_t)table->first_page;
        assert(at <= table->n_pages && (at < table->n_pages || has_pages));
        if (at == table->n_pages)
            table->n_pages++;
        else if (has_pages)
            page_give(pool, table->pages[at]);
        if (has_pages)
            table->pages[at] = block->pages[i];
        else
            block->pages[i] = table->pages[at];
    }
    prefix_use(pool->prefix, block, kind);
}

/* seq->tokens are complete: enter their page into the index, or find that another sequence has done so. */
static void share_block(struct kv_seq *seq) {
    struct prefix *prefix = seq->pool->prefix;
    struct prefix_block *parent = seq->n_blocks > 0 ? seq->blocks[seq->n_blocks - 1] : NULL;
    XXH128_hash_t key = prefix_next_key(seq->key, seq->tokens);
    struct prefix_block *block = prefix_find(prefix, key, parent, &seq->salt, seq->tokens);
    if (!block)
        block = prefix_add(prefix, key, parent, &seq->salt, seq->tokens);
    if (!block) {
        seq->is_shared = false; /* its pages are its own from here on */
        return;
    }
    use_part(seq, block, seq->n_blocks, PREFIX_FULL);
    use_part(seq, block, seq->n_blocks, PREFIX_CHUNKED);
    seq->blocks[seq->n_blocks++] = block;
    seq->key = key;
}

static void share_tokens(struct kv_seq *seq, const int32_t *tokens, int64_t n_tokens) {
    for (int64_t i = 0; i < n_tokens && seq->is_shared; i++) {
        int64_t slot = (seq->length + i) % KV_PAGE_TOKENS;
        seq->tokens[slot] = tokens[i];
        if (slot == KV_PAGE_TOKENS - 1)
            share_block(seq);
    }
}

/* No position sees the chunked layers before page `first` any more. */
static void release_chunked(struct kv_seq *seq, int64_t first) {
    for (; seq->first_chunked < first; seq->first_chunked++)
        if ((size_t)seq->first_chunked < seq->n_blocks)
            prefix_release(seq->pool->prefix, seq->blocks[seq->first_chunked], PREFIX_CHUNKED);
}

/* The last one first: the beginning of a sequence is worth most and is kept longest. */
static void release_blocks(struct kv_seq *seq) {
    for (; seq->n_blocks > 0; seq->n_blocks--) {
        struct prefix_block *block = seq->blocks[seq->n_blocks - 1];
        if ((int64_t)seq->n_blocks > seq->first_chunked)
            prefix_release(seq->pool->prefix, block, PREFIX_CHUNKED);
        prefix_release(seq->pool->prefix, block, PREFIX_FULL);
    }
    seq->first_chunked = 0;
    seq->is_shared = seq->may_share;
    seq->key = prefix_root_key(&seq->salt);
}

/* The blocks that follow what the sequence has, as far as tokens go; of these, returns the number up to the last
 * position where chunked layers have all that is seen from there. */
static size_t find_blocks(struct kv_seq *seq, const int32_t *tokens, int64_t n_tokens) {
    const struct kv_pool *pool = seq->pool;
    XXH128_hash_t key = seq->key;
    size_t n_usable = seq->n_blocks;
    int64_t first_complete = seq->first_chunked; /* from this block on none lacks its chunked part */
    for (int64_t b = (int64_t)seq->n_blocks; b < n_tokens / KV_PAGE_TOKENS; b++) {
        const int32_t *own = tokens + b * KV_PAGE_TOKENS;
        const struct prefix_block *parent = b > 0 ? seq->blocks[b - 1] : NULL;
        key = prefix_next_key(key, own);
        struct prefix_block *block = prefix_find(pool->prefix, key, parent, &seq->salt, own);
        if (!block ||
            !checked_grow((void **)&seq->blocks, &seq->blocks_cap, (size_t)b + 1, sizeof(struct prefix_block *)))
            break;
        seq->blocks[b] = block;
        if (!block->parts[PREFIX_CHUNKED].has_pages)
            first_complete = b + 1;
        if (first_visible_page(pool, PREFIX_CHUNKED, (b + 1) * KV_PAGE_TOKENS) >= first_complete)
            n_usable = (size_t)b + 1;
    }
    return n_usable;
}

/* Give back what was reserved beyond the blocks, and what lies before page `first`. */
static void table_begin(struct kv_seq *seq, struct block_table *table, int64_t first) {
    while (table->n_pages > 0 && (size_t)table->first_page + table->n_pages > seq->n_blocks)
        page_give(seq->pool, table->pages[--table->n_pages]);
    int64_t n = first - table->first_page;
    table_drop(seq, table, (size_t)n < table->n_pages ? (size_t)n : table->n_pages);
    table->first_page = first;
}

int64_t kv_seq_reuse(struct kv_seq *seq, const int32_t *tokens, int64_t n_tokens) {
    const struct model_config *config = seq->pool->config;
    if (!seq->is_shared || seq->length % KV_PAGE_TOKENS != 0)
        return 0;
    size_t end = find_blocks(seq, tokens, n_tokens);
    int64_t gained = (int64_t)(end - seq->n_blocks) * KV_PAGE_TOKENS;
    if (gained == 0)
        return 0;
    for (int i = 0; i < config->n_layers; i++) {
        struct block_table *table = &seq->tables[i];
        if (!checked_grow((void **)&table->pages, &table->cap, end - (size_t)table->first_page, sizeof *table->pages))
            return 0;
    }
    int64_t first[PREFIX_N_KINDS];
    for (int kind = 0; kind < PREFIX_N_KINDS; kind++)
        first[kind] = first_visible_page(seq->pool, kind, seq->length + gained);
    for (int i = 0; i < config->n_layers; i++)
        table_begin(seq, &seq->tables[i], first[prefix_kind_of(config, i)]);
    release_chunked(seq, first[PREFIX_CHUNKED]);
    for (size_t b = seq->n_blocks; b < end; b++) {
        use_part(seq, seq->blocks[b], b, PREFIX_FULL);
        if ((int64_t)b >= seq->first_chunked)
            use_part(seq, seq->blocks[b], b, PREFIX_CHUNKED);
    }
    seq->n_blocks = end;
    seq->key = seq->blocks[end - 1]->key;
    seq->length += gained;
    return gained;
}

void kv_seq_close(struct kv_seq *seq) {
    if (!seq)
        return;
    kv_seq_clear(seq);
    for (int i = 0; i < seq->pool->config->n_layers; i++)
        free(seq->tables[i].pages);
    free(seq->blocks);
    free(seq);
}

int kv_seq_reserve(struct kv_seq *seq, int64_t n_tokens) {
    struct kv_pool *pool = seq->pool;
    int n_layers = pool->config->n_layers;
    int64_t end, missing = 0;
    if (!checked_add_i64(seq->length, n_tokens, &end))
        return L4_E_KV_FULL;
    int64_t end_page = div_ceil(end, KV_PAGE_TOKENS);
    for (int i = 0; i < n_layers; i++) {
        const struct block_table *table = &seq->tables[i];
        int64_t have = table->first_page + (int64_t)table->n_pages;
        if (end_page > have && !checked_add_i64(missing, end_page - have, &missing))
            return L4_E_KV_FULL;
    }
    if (missing > kv_pool_free_pages(pool))
        return L4_E_KV_FULL;
    /* All that can fail comes first. */
    if (seq->is_shared &&
        !checked_grow((void **)&seq->blocks, &seq->blocks_cap, (size_t)end_page, sizeof(struct prefix_block *)))
        return L4_E_NOMEM;
    for (int i = 0; i < n_layers; i++) {
        struct block_table *table = &seq->tables[i];
        if (end_page > table->first_page && !checked_grow((void **)&table->pages, &table->cap,
                                                          (size_t)(end_page - table->first_page), sizeof *table->pages))
            return L4_E_NOMEM;
    }
    for (int i = 0; i < n_layers; i++) {
        struct block_table *table = &seq->tables[i];
        while (table->first_page + (int64_t)table->n_pages < end_page)
            table->pages[table->n_pages++] = page_take(pool);
    }
    return 0;
}

void kv_seq_advance(struct kv_seq *seq, const int32_t *tokens, int64_t n_tokens) {
    const struct model_config *config = seq->pool->config;
    assert(n_tokens >= 0);
    if (seq->is_shared)
        share_tokens(seq, tokens, n_tokens); /* while the chunked layers still have their pages */
    seq->length += n_tokens;
    release_chunked(seq, first_visible_page(seq->pool, PREFIX_CHUNKED, seq->length));
    for (int i = 0; i < config->n_layers; i++) {
        struct block_table *table = &seq->tables[i];
        assert(seq->length <= (table->first_page + (int64_t)table->n_pages) * KV_PAGE_TOKENS);
        int64_t first = first_visible_page(seq->pool, prefix_kind_of(config, i), seq->length);
        table_drop(seq, table, (size_t)(first - table->first_page));
        table->first_page = first;
    }
}

void kv_seq_clear(struct kv_seq *seq) {
    for (int i = 0; i < seq->pool->config->n_layers; i++) {
        table_drop(seq, &seq->tables[i], seq->tables[i].n_pages);
        seq->tables[i].first_page = 0;
    }
    release_blocks(seq);
    seq->length = 0;
}

int64_t kv_seq_pages(const struct kv_seq *seq) {
    int64_t n = 0;
    for (int i = 0; i < seq->pool->config->n_layers; i++)
        n += (int64_t)seq->tables[i].n_pages;
    return n;
}

int64_t kv_seq_length(const struct kv_seq *seq) {
    return seq->length;
}

static char *page_of(const struct kv_seq *seq, int layer, int64_t position) {
    const struct block_table *table = &seq->tables[layer];
    int64_t i = position / KV_PAGE_TOKENS - table->first_page;
    assert(i >= 0 && (size_t)i < table->n_pages);
    return seq->pool->base + (size_t)table->pages[i] * seq->pool->layout.page_bytes;
}

void kv_seq_write(const struct kv_seq *seq, int layer, int64_t position, const float *keys, const float *values) {
    kv_page_write(&seq->pool->layout, page_of(seq, layer, position), position % KV_PAGE_TOKENS, keys, values);
}

void *kv_seq_k(const struct kv_seq *seq, int layer, int64_t position, int kv_head) {
    return page_of(seq, layer, position) + 2 * (size_t)kv_head * seq->pool->layout.part_bytes;
}

void *kv_seq_v(const struct kv_seq *seq, int layer, int64_t position, int kv_head) {
    return page_of(seq, layer, position) + (2 * (size_t)kv_head + 1) * seq->pool->layout.part_bytes;
}

const struct kv_layout *kv_seq_layout(const struct kv_seq *seq) {
    return &seq->pool->layout;
}
