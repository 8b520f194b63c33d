#include "core/cache/kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/checked.h"

struct kv_pool {
    const struct model_config *config;
    float *base; /* [n_pages][page_floats], mapped without reserving memory */
    size_t page_floats, mapped_bytes;
    int32_t n_pages;
    int32_t n_fresh; /* pages n_fresh.. were never handed out: no memory stands behind them yet */
    int32_t n_free;  /* pages given back, last in first out: the next user finds them warm */
    int32_t *free;   /* [n_pages] */
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
    struct block_table tables[]; /* [n_layers] */
};

size_t kv_page_bytes(const struct model_config *config) {
    size_t bytes = 2 * sizeof(float) * KV_PAGE_TOKENS;
    if (!checked_mul_size(bytes, (size_t)config->n_kv_heads, &bytes) ||
        !checked_mul_size(bytes, (size_t)config->head_dim, &bytes))
        return 0;
    return bytes;
}

static int64_t div_ceil(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

/* The first page of a layer that position `next` still sees. */
static int64_t first_visible_page(const struct model_config *config, int layer, int64_t next) {
    if (!config->layers[layer].is_chunked)
        return 0;
    return (next - next % config->attention_chunk_size) / KV_PAGE_TOKENS;
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

int kv_pool_open(struct kv_pool **out, const struct model_config *config, int64_t n_pages, struct l4_err *err) {
    size_t page_bytes = kv_page_bytes(config), mapped_bytes;
    if (n_pages < 1 || n_pages > INT32_MAX)
        return l4_err_set(err, L4_E_INVALID, "KV cache of %lld pages: allowed are 1 to %d", (long long)n_pages,
                          INT32_MAX);
    if (page_bytes == 0 || !checked_mul_size(page_bytes, (size_t)n_pages, &mapped_bytes))
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
                             .base = base,
                             .page_floats = page_bytes / sizeof(float),
                             .mapped_bytes = mapped_bytes,
                             .n_pages = (int32_t)n_pages,
                             .free = list};
    *out = pool;
    return 0;
}

void kv_pool_close(struct kv_pool *pool) {
    if (!pool)
        return;
    assert(pool->n_free == pool->n_fresh); /* every sequence is closed */
    munmap(pool->base, pool->mapped_bytes);
    free(pool->free);
    free(pool);
}

int64_t kv_pool_free_pages(const struct kv_pool *pool) {
    return (int64_t)pool->n_pages - pool->n_fresh + pool->n_free;
}

int64_t kv_pool_total_pages(const struct kv_pool *pool) {
    return pool->n_pages;
}

static int32_t page_take(struct kv_pool *pool) {
    if (pool->n_free > 0)
        return pool->free[--pool->n_free];
    assert(pool->n_fresh < pool->n_pages);
    return pool->n_fresh++;
}

/* Give back the first n pages of a table. */
static void table_drop(struct kv_pool *pool, struct block_table *table, size_t n) {
    assert(n <= table->n_pages);
    for (size_t i = 0; i < n; i++)
        pool->free[pool->n_free++] = table->pages[i];
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

void kv_seq_close(struct kv_seq *seq) {
    if (!seq)
        return;
    kv_seq_clear(seq);
    for (int i = 0; i < seq->pool->config->n_layers; i++)
        free(seq->tables[i].pages);
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

void kv_seq_advance(struct kv_seq *seq, int64_t n_tokens) {
    struct kv_pool *pool = seq->pool;
    seq->length += n_tokens;
    for (int i = 0; i < pool->config->n_layers; i++) {
        struct block_table *table = &seq->tables[i];
        assert(n_tokens >= 0 && seq->length <= (table->first_page + (int64_t)table->n_pages) * KV_PAGE_TOKENS);
        int64_t first = first_visible_page(pool->config, i, seq->length);
        table_drop(pool, table, (size_t)(first - table->first_page));
        table->first_page = first;
    }
}

void kv_seq_clear(struct kv_seq *seq) {
    for (int i = 0; i < seq->pool->config->n_layers; i++) {
        table_drop(seq->pool, &seq->tables[i], seq->tables[i].n_pages);
        seq->tables[i].first_page = 0;
    }
    seq->length = 0;
}

int64_t kv_seq_length(const struct kv_seq *seq) {
    return seq->length;
}

/* A page is n_kv_heads times the keys and then the values of one head. */
static float *head_part(const struct kv_seq *seq, int layer, int64_t position, int part) {
    const struct block_table *table = &seq->tables[layer];
    int64_t i = position / KV_PAGE_TOKENS - table->first_page;
    assert(i >= 0 && (size_t)i < table->n_pages);
    float *page = seq->pool->base + (size_t)table->pages[i] * seq->pool->page_floats;
    return page + (size_t)part * KV_PAGE_TOKENS * (size_t)seq->pool->config->head_dim;
}

float *kv_seq_k(const struct kv_seq *seq, int layer, int64_t position, int kv_head) {
    return head_part(seq, layer, position, 2 * kv_head);
}

float *kv_seq_v(const struct kv_seq *seq, int layer, int64_t position, int kv_head) {
    return head_part(seq, layer, position, 2 * kv_head + 1);
}
