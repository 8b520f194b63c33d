/* The prefix cache: sequences with tokens in common, random lives of them against a simple model that knows exactly
 * what is kept, what is given up and when; that no page is ever read as what it is not; and running out of memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/cache/prefix.h"
#include "tests/lib/failmalloc.h"

enum { P = KV_PAGE_TOKENS, N_LAYERS = 3, MAX_BLOCKS = 14, MAX_TOKENS = MAX_BLOCKS * P, N_SEQS = 5, N_SALTS = 2 };

/* Layers 0 and 2 chunked, 1 full; or all of a kind. */
static struct model_config small_config(int64_t chunk) {
    struct model_config config = {.n_layers = N_LAYERS, .n_kv_heads = 1, .head_dim = 4, .attention_chunk_size = chunk};
    config.layers[0].is_chunked = config.layers[2].is_chunked = true;
    return config;
}

static struct kv_salt salt_of(int i) {
    struct kv_salt salt = {{0}};
    salt.bytes[0] = (char)i;
    return salt;
}

/* ---- what a position's page must hold: a hash of the salt, all tokens up to it, and the layer ------------------- */

struct text {
    int salt;
    int32_t tokens[MAX_TOKENS];
    float values[MAX_TOKENS];
};

/* The tokens of a block are one of three kinds: kinds says which. */
static void make_text(struct text *text, int salt, const int *kinds) {
    uint32_t hash = 2166136261U + (uint32_t)salt;
    text->salt = salt;
    for (int t = 0; t < MAX_TOKENS; t++) {
        text->tokens[t] = kinds[t / P] * 1000 + t % P;
        hash = (hash ^ (uint32_t)text->tokens[t]) * 16777619U;
        text->values[t] = (float)(hash >> 12);
    }
}

static void compute(struct kv_seq *seq, const struct text *text, int64_t n) {
    int64_t from = kv_seq_length(seq);
    for (int layer = 0; layer < N_LAYERS; layer++)
        for (int64_t t = from; t < from + n; t++) {
            float *keys = kv_seq_k(seq, layer, t, 0), *values = kv_seq_v(seq, layer, t, 0);
            keys[t % P] = text->values[t] + (float)layer;
            values[t % P * 4] = text->values[t] - (float)layer;
        }
    kv_seq_advance(seq, text->tokens + from, n);
}

static void check_values(const struct model_config *config, const struct kv_seq *seq, const struct text *text) {
    int64_t length = kv_seq_length(seq), start = length - length % config->attention_chunk_size;
    for (int layer = 0; layer < N_LAYERS; layer++)
        for (int64_t t = config->layers[layer].is_chunked ? start : 0; t < length; t++) {
            const float *keys = kv_seq_k(seq, layer, t, 0), *values = kv_seq_v(seq, layer, t, 0);
            assert_true(keys[t % P] == text->values[t] + (float)layer);
            assert_true(values[t % P * 4] == text->values[t] - (float)layer);
        }
}

static struct kv_pool *open_pool(const struct model_config *config, int64_t n_pages) {
    struct kv_pool *pool;
    assert_int_equal(kv_pool_open(&pool, config, DT_F32, n_pages, NULL), 0);
    assert_int_equal(kv_pool_cache_prefixes(pool, NULL), 0);
    return pool;
}

/* A sequence that has n tokens of the text, as many of them as possible from the cache. */
static struct kv_seq *open_seq(struct kv_pool *pool, const struct text *text, int64_t n, int64_t want_reused) {
    struct kv_seq *seq;
    struct kv_salt salt = salt_of(text->salt);
    assert_int_equal(kv_seq_open(&seq, pool, NULL), 0);
    kv_seq_share(seq, &salt);
    int64_t reused = kv_seq_reuse(seq, text->tokens, n);
    assert_int_equal(reused, want_reused);
    assert_int_equal(kv_seq_reserve(seq, n - reused), 0);
    compute(seq, text, n - reused);
    return seq;
}

/* ---- one thing at a time ---------------------------------------------------------------------------------------- */

static const int zeros[MAX_BLOCKS];

static void full_pages_stay_and_are_reused(void **state) {
    (void)state;
    struct model_config config = small_config(8192);
    struct kv_pool *pool = open_pool(&config, 100);
    struct text text, other;
    make_text(&text, 0, zeros);
    make_text(&other, 0, (const int[MAX_BLOCKS]){0, 0, 1});
    struct kv_seq *a = open_seq(pool, &text, 3 * P + 10, 0);
    assert_int_equal(kv_pool_cached_pages(pool), 0); /* in use */
    kv_seq_close(a);
    assert_int_equal(kv_pool_cached_pages(pool), 3 * N_LAYERS); /* the last page was not full */
    assert_int_equal(kv_pool_free_pages(pool), 100);
    struct kv_seq *b = open_seq(pool, &text, 5 * P, 3 * P);
    struct kv_seq *c = open_seq(pool, &other, 4 * P, 2 * P);
    assert_int_equal(kv_pool_free_pages(pool), 100 - 7 * N_LAYERS); /* two pages a layer are shared */
    assert_int_equal(kv_seq_pages(b) + kv_seq_pages(c), 9 * N_LAYERS);
    check_values(&config, b, &text);
    check_values(&config, c, &other);
    kv_seq_close(b);
    check_values(&config, c, &other);
    kv_seq_close(c);
    assert_int_equal(kv_pool_cached_pages(pool), 7 * N_LAYERS);
    assert_int_equal(kv_pool_evicted_pages(pool), 0);
    kv_pool_close(pool);
}

static void no_more_is_reused_than_was_asked_for(void **state) {
    (void)state;
    struct model_config config = small_config(8192);
    struct kv_pool *pool = open_pool(&config, 100);
    struct text text;
    make_text(&text, 0, zeros);
    kv_seq_close(open_seq(pool, &text, 3 * P, 0));
    static const int64_t asked[] = {0, 1, P - 1, P, 3 * P - 1, 3 * P, 3 * P + 1};
    static const int64_t reused[] = {0, 0, 0, P, 2 * P, 3 * P, 3 * P};
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++)
        kv_seq_close(open_seq(pool, &text, asked[i], reused[i]));
    struct kv_seq *plain; /* a sequence that was not told to share neither finds nor leaves anything */
    assert_int_equal(kv_seq_open(&plain, pool, NULL), 0);
    assert_int_equal(kv_seq_reuse(plain, text.tokens, 3 * P), 0);
    assert_int_equal(kv_seq_reserve(plain, 5 * P), 0);
    compute(plain, &text, 5 * P);
    kv_seq_close(plain);
    assert_int_equal(kv_pool_cached_pages(pool), 3 * N_LAYERS);
    kv_pool_close(pool);
}

static void salts_share_nothing(void **state) {
    (void)state;
    struct model_config config = small_config(8192);
    struct kv_pool *pool = open_pool(&config, 100);
    struct text text[N_SALTS];
    for (int i = 0; i < N_SALTS; i++) {
        make_text(&text[i], i, zeros);
        kv_seq_close(open_seq(pool, &text[i], 3 * P, 0));
    }
    assert_int_equal(kv_pool_cached_pages(pool), N_SALTS * 3 * N_LAYERS);
    for (int i = 0; i < N_SALTS; i++)
        kv_seq_close(open_seq(pool, &text[i], 3 * P, 3 * P));
    kv_pool_close(pool);
}

/* Two that compute the same side by side end up with one copy, and go on from what the other has done. */
static void the_same_computed_twice_is_kept_once(void **state) {
    (void)state;
    struct model_config config = small_config(8192);
    struct kv_pool *pool = open_pool(&config, 100);
    struct text text;
    make_text(&text, 0, zeros);
    struct kv_seq *a = open_seq(pool, &text, P / 2, 0), *b = open_seq(pool, &text, P / 2, 0);
    assert_int_equal(kv_pool_free_pages(pool), 100 - 2 * N_LAYERS);
    assert_int_equal(kv_seq_reserve(a, 3 * P), 0);
    compute(a, &text, 3 * P);
    assert_int_equal(kv_seq_reuse(b, text.tokens, 3 * P), 0); /* in the middle of a page */
    assert_int_equal(kv_seq_reserve(b, 2 * P), 0);
    assert_int_equal(kv_pool_free_pages(pool), 100 - 7 * N_LAYERS);
    compute(b, &text, P / 2);
    assert_int_equal(kv_pool_free_pages(pool), 100 - 6 * N_LAYERS);
    assert_int_equal(kv_seq_reuse(b, text.tokens, MAX_TOKENS), 2 * P); /* what was reserved for them is free again */
    assert_int_equal(kv_pool_free_pages(pool), 100 - 4 * N_LAYERS);
    check_values(&config, a, &text);
    check_values(&config, b, &text);
    kv_seq_close(a);
    assert_int_equal(kv_seq_reserve(b, P), 0);
    compute(b, &text, P);
    check_values(&config, b, &text);
    kv_seq_close(b);
    kv_pool_close(pool);
}

/* The longest unused leave first, and of a sequence its end before its beginning. */
static void least_recently_used_pages_leave_first(void **state) {
    (void)state;
    struct model_config config = small_config(8192);
    struct kv_pool *pool = open_pool(&config, 9 * N_LAYERS);
    struct text a, b, c;
    make_text(&a, 0, zeros);
    make_text(&b, 0, (const int[MAX_BLOCKS]){1});
    make_text(&c, 0, (const int[MAX_BLOCKS]){2});
    kv_seq_close(open_seq(pool, &a, 4 * P, 0));
    kv_seq_close(open_seq(pool, &b, 4 * P, 0));
    kv_seq_close(open_seq(pool, &a, 2 * P, 2 * P)); /* the first half of a is younger than all of b now */
    struct kv_seq *seq = open_seq(pool, &c, 2 * P, 0);
    assert_int_equal(kv_pool_evicted_pages(pool), N_LAYERS); /* the last page of a */
    assert_int_equal(kv_seq_reserve(seq, 2 * P), 0);
    assert_int_equal(kv_pool_evicted_pages(pool), 3 * N_LAYERS); /* the third of a, the last of b */
    compute(seq, &c, 2 * P);
    kv_seq_close(seq);
    kv_seq_close(open_seq(pool, &a, 2 * P, 2 * P));
    kv_seq_close(open_seq(pool, &b, 3 * P, 3 * P));
    kv_seq_close(open_seq(pool, &c, 4 * P, 4 * P));
    assert_int_equal(kv_pool_cached_pages(pool), 9 * N_LAYERS);
    seq = open_seq(pool, &(struct text){.salt = 1}, 9 * P, 0); /* one that needs all gets all */
    assert_int_equal(kv_pool_free_pages(pool), 0);
    assert_int_equal(kv_seq_reserve(seq, 1), L4_E_KV_FULL);
    kv_seq_close(seq);
    kv_pool_close(pool);
}

/* A hit needs the chunked layers' pages of its own chunk only; those of chunks that are past go first. */
static void chunked_layers_keep_what_the_next_turn_needs(void **state) {
    (void)state;
    struct model_config config = small_config(4 * P);
    struct kv_pool *pool = open_pool(&config, 7 * N_LAYERS); /* 7 full, 14 chunked pages */
    struct text text, other;
    make_text(&text, 0, zeros);
    make_text(&other, 1, zeros);
    struct kv_seq *seq = open_seq(pool, &text, 6 * P, 0); /* in two chunks */
    assert_int_equal(kv_seq_pages(seq), 6 + 2 * 2);
    assert_int_equal(kv_pool_cached_pages(pool), 2 * 4); /* the first chunk's, though the sequence goes on */
    kv_seq_close(seq);
    seq = open_seq(pool, &text, 6 * P, 6 * P);
    assert_int_equal(kv_seq_pages(seq), 6 + 2 * 2);
    check_values(&config, seq, &text);
    kv_seq_close(seq);
    seq = open_seq(pool, &text, 3 * P, 3 * P); /* and one that branches off in the first chunk */
    check_values(&config, seq, &text);
    kv_seq_close(seq);

    kv_seq_close(open_seq(pool, &text, 6 * P, 6 * P));
    kv_seq_close(open_seq(pool, &other, 2 * P, 0)); /* three pages are free: takes two times two of the first chunk */
    assert_int_equal(kv_pool_evicted_pages(pool), 4);
    seq = open_seq(pool, &text, 6 * P, 6 * P); /* the end is still there: its chunk is */
    check_values(&config, seq, &text);
    kv_seq_close(seq);
    kv_pool_close(pool);
}

/* Where a chunk's pages are gone, the hit ends at the last position that needs none of them. */
static void a_hit_ends_where_chunked_pages_are_missing(void **state) {
    (void)state;
    struct model_config config = small_config(4 * P);
    struct kv_pool *pool = open_pool(&config, 41);
    struct text text, other;
    make_text(&text, 0, zeros);
    make_text(&other, 1, zeros);
    struct kv_seq *longest = open_seq(pool, &text, 10 * P, 0); /* keeps the full pages; uses chunked ones from 8 on */
    struct kv_seq *greedy;
    int64_t n_free = kv_pool_free_pages(pool);
    assert_int_equal(kv_pool_cached_pages(pool), 2 * 8);
    struct kv_salt salt = salt_of(1);
    assert_int_equal(kv_seq_open(&greedy, pool, NULL), 0);
    kv_seq_share(greedy, &salt);
    assert_int_equal(kv_seq_reserve(greedy, n_free / N_LAYERS * P), 0); /* all chunked pages of the first two chunks */
    assert_int_equal(kv_pool_cached_pages(pool), 0);
    static const int64_t asked[] = {3 * P, 4 * P, 7 * P, 8 * P, 9 * P, 10 * P};
    static const int64_t reused[] = {0, 4 * P, 4 * P, 8 * P, 9 * P, 10 * P};
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        struct kv_seq *seq;
        salt = salt_of(0);
        assert_int_equal(kv_seq_open(&seq, pool, NULL), 0);
        kv_seq_share(seq, &salt);
        assert_int_equal(kv_seq_reuse(seq, text.tokens, asked[i]), reused[i]);
        check_values(&config, seq, &text);
        kv_seq_close(seq);
    }
    kv_seq_close(greedy);
    /* Computed again, they are there again, beside the full pages that never left. */
    struct kv_seq *again = open_seq(pool, &text, 3 * P, 0);
    check_values(&config, again, &text);
    kv_seq_close(again);
    kv_seq_close(open_seq(pool, &text, 3 * P, 3 * P));
    check_values(&config, longest, &text);
    kv_seq_close(longest);
    kv_pool_close(pool);
}

static void models_with_one_kind_of_layer(void **state) {
    (void)state;
    struct text text, other;
    make_text(&text, 0, zeros);
    make_text(&other, 0, (const int[MAX_BLOCKS]){1});
    for (int is_chunked = 0; is_chunked < 2; is_chunked++) {
        struct model_config config = small_config(is_chunked ? 2 * P : 1);
        for (int i = 0; i < N_LAYERS; i++)
            config.layers[i].is_chunked = is_chunked;
        struct kv_pool *pool = open_pool(&config, 6 * N_LAYERS);
        for (int round = 0; round < 20; round++) {
            kv_seq_close(open_seq(pool, &text, 5 * P, round == 0 ? 0 : 5 * P));
            kv_seq_close(open_seq(pool, &text, 5 * P, 5 * P));
        }
        kv_seq_close(open_seq(pool, &other, 2 * P, 0));
        struct kv_seq *seq;
        struct kv_salt salt = salt_of(0);
        assert_int_equal(kv_seq_open(&seq, pool, NULL), 0);
        kv_seq_share(seq, &salt);
        assert_true(kv_seq_reuse(seq, text.tokens, 5 * P) >= 4 * P);
        check_values(&config, seq, &text);
        kv_seq_close(seq);
        kv_pool_close(pool);
    }
}

static void count_page(void *ctx, int32_t page) {
    (void)page;
    ++*(int *)ctx;
}

/* Equal keys are not enough: the block before, the salt and the tokens themselves must be the same. */
static void colliding_keys_are_told_apart(void **state) {
    (void)state;
    struct model_config config = small_config(8192);
    struct prefix *prefix;
    struct prefix_block *first, *second;
    int n_given = 0;
    assert_int_equal(prefix_open(&prefix, &config, 2, count_page, &n_given), 0);
    struct kv_salt salt = salt_of(0), other_salt = salt_of(1);
    int32_t tokens[P] = {1}, other[P] = {2};
    const XXH128_hash_t root = prefix_root_key(&salt), key = prefix_next_key(root, tokens), more = {key.low64, 7};
    first = prefix_add(prefix, key, NULL, &salt, tokens);
    assert_non_null(first);
    assert_ptr_equal(prefix_find(prefix, key, NULL, &salt, tokens), first);
    assert_null(prefix_find(prefix, key, NULL, &salt, other));
    assert_null(prefix_find(prefix, key, NULL, &other_salt, tokens));
    assert_null(prefix_find(prefix, key, first, &salt, tokens));
    assert_null(prefix_find(prefix, more, NULL, &salt, tokens));
    assert_null(prefix_add(prefix, key, NULL, &salt, other)); /* the place is taken */
    prefix_use(prefix, first, PREFIX_FULL);
    second = prefix_add(prefix, more, first, &salt, tokens); /* half the key is the same */
    assert_non_null(second);
    assert_ptr_equal(prefix_find(prefix, more, first, &salt, tokens), second);
    assert_ptr_equal(prefix_find(prefix, key, NULL, &salt, tokens), first);
    prefix_use(prefix, second, PREFIX_FULL);
    prefix_use(prefix, second, PREFIX_CHUNKED);
    assert_null(prefix_add(prefix, root, second, &salt, tokens)); /* all in use, none can make room */
    prefix_release(prefix, second, PREFIX_CHUNKED);
    prefix_release(prefix, second, PREFIX_FULL);
    assert_int_equal(prefix_idle_pages(prefix), N_LAYERS);
    second = prefix_add(prefix, root, first, &salt, other); /* the idle one makes room */
    assert_non_null(second);
    assert_int_equal(n_given, N_LAYERS);
    assert_null(prefix_find(prefix, more, first, &salt, tokens));
    prefix_use(prefix, second, PREFIX_FULL);
    prefix_release(prefix, second, PREFIX_FULL);
    prefix_release(prefix, first, PREFIX_FULL);
    prefix_close(prefix);
    prefix_close(NULL);

    /* And each part of what goes before tells in the key. */
    assert_false(XXH128_isEqual(root, prefix_root_key(&other_salt)));
    assert_false(XXH128_isEqual(key, prefix_next_key(root, other)));
    assert_false(XXH128_isEqual(key, prefix_next_key(key, tokens)));
}

/* ---- random lives against a simple model ------------------------------------------------------------------------ */

/* A block of the model: kinds[0 .. n - 1] under a salt. */
struct model_block {
    bool exists;
    int salt, n, kinds[MAX_BLOCKS];
    bool has[PREFIX_N_KINDS];
    int users[PREFIX_N_KINDS];
    long released[PREFIX_N_KINDS]; /* when */
};

struct model_seq {
    struct kv_seq *seq;
    struct text text;
    int kinds[MAX_BLOCKS];
    int64_t length, reserved; /* tokens */
    int n_blocks;             /* shared ones */
};

enum { MAX_MODEL_BLOCKS = 600 };

struct world {
    struct model_config config;
    struct kv_pool *pool;
    int64_t n_pages;
    struct model_block blocks[MAX_MODEL_BLOCKS];
    struct model_seq seqs[N_SEQS];
    long now;
    uint64_t n_evicted;
    int n_full, n_reused, n_cut_short;
};

static const int layers_of[PREFIX_N_KINDS] = {1, 2};

static struct model_block *model_find(struct world *w, const struct model_seq *s, int n) {
    for (int i = 0; i < MAX_MODEL_BLOCKS; i++) {
        struct model_block *b = &w->blocks[i];
        if (b->exists && b->salt == s->text.salt && b->n == n &&
            memcmp(b->kinds, s->kinds, (size_t)n * sizeof(int)) == 0)
            return b;
    }
    return NULL;
}

/* The first block that position n sees in a chunked layer. */
static int seen_from(const struct world *w, int64_t n) {
    return (int)(n / w->config.attention_chunk_size * w->config.attention_chunk_size / P);
}

static int64_t model_own_pages(const struct world *w, const struct model_seq *s) {
    int64_t end = (s->reserved + P - 1) / P, n = 0;
    for (int kind = 0; kind < PREFIX_N_KINDS; kind++) {
        int64_t begin = kind == PREFIX_FULL ? 0 : seen_from(w, s->length);
        begin = begin > s->n_blocks ? begin : s->n_blocks;
        n += end > begin ? (end - begin) * layers_of[kind] : 0;
    }
    return n;
}

static int64_t model_kept(const struct world *w, bool idle_only) {
    int64_t n = 0;
    for (int i = 0; i < MAX_MODEL_BLOCKS; i++)
        for (int kind = 0; kind < PREFIX_N_KINDS; kind++) {
            const struct model_block *b = &w->blocks[i];
            if (b->exists && b->has[kind] && !(idle_only && b->users[kind] > 0))
                n += layers_of[kind];
        }
    return n;
}

static int64_t model_unheld(const struct world *w) {
    int64_t n = w->n_pages - model_kept(w, false);
    for (int i = 0; i < N_SEQS; i++)
        if (w->seqs[i].seq)
            n -= model_own_pages(w, &w->seqs[i]);
    return n;
}

static void model_evict(struct world *w) {
    struct model_block *oldest = NULL;
    int oldest_kind = 0;
    for (int i = 0; i < MAX_MODEL_BLOCKS; i++)
        for (int kind = 0; kind < PREFIX_N_KINDS; kind++) {
            struct model_block *b = &w->blocks[i];
            if (b->exists && b->has[kind] && b->users[kind] == 0 &&
                (!oldest || b->released[kind] < oldest->released[oldest_kind])) {
                oldest = b;
                oldest_kind = kind;
            }
        }
    assert_non_null(oldest);
    w->n_evicted += (uint64_t)layers_of[oldest_kind];
    if (oldest_kind == PREFIX_FULL) {
        w->n_evicted += oldest->has[PREFIX_CHUNKED] ? (uint64_t)layers_of[PREFIX_CHUNKED] : 0;
        oldest->exists = false;
    }
    oldest->has[oldest_kind] = false;
}

static void model_release(struct world *w, struct model_block *b, int kind) {
    assert_true(b->users[kind] > 0);
    b->users[kind]--;
    b->released[kind] = ++w->now;
}

/* The sequence uses block n - 1 from now on, with its chunked part where it sees that. */
static void model_use(struct world *w, const struct model_seq *s, int n, bool chunked) {
    struct model_block *b = model_find(w, s, n);
    for (int i = 0; !b; i++) {
        assert_true(i < MAX_MODEL_BLOCKS);
        if (w->blocks[i].exists)
            continue;
        b = &w->blocks[i];
        *b = (struct model_block){.exists = true, .salt = s->text.salt, .n = n};
        memcpy(b->kinds, s->kinds, (size_t)n * sizeof(int));
    }
    b->has[PREFIX_FULL] = true;
    b->users[PREFIX_FULL]++;
    b->has[PREFIX_CHUNKED] |= chunked;
    b->users[PREFIX_CHUNKED] += chunked;
}

static void model_clear(struct world *w, struct model_seq *s) {
    int first = seen_from(w, s->length);
    for (int n = s->n_blocks; n > 0; n--) {
        struct model_block *b = model_find(w, s, n);
        if (n > first)
            model_release(w, b, PREFIX_CHUNKED);
        model_release(w, b, PREFIX_FULL);
    }
    s->n_blocks = 0;
    s->length = s->reserved = 0;
}

/* From a position where chunked layers have all that is seen. */
static bool model_can_go_on(struct world *w, const struct model_seq *s, int n) {
    for (int b = seen_from(w, (int64_t)n * P); b < n; b++)
        if (b >= s->n_blocks && !model_find(w, s, b + 1)->has[PREFIX_CHUNKED])
            return false;
    return true;
}

static void do_reuse(struct world *w, struct model_seq *s, int64_t n_tokens) {
    int longest = s->n_blocks, best;
    bool aligned = s->length % P == 0;
    while (aligned && (longest + 1) * P <= n_tokens && model_find(w, s, longest + 1))
        longest++;
    for (best = longest; best > s->n_blocks && !model_can_go_on(w, s, best);)
        best--;
    w->n_cut_short += best < longest;
    int64_t gained = aligned && best > s->n_blocks ? (int64_t)best * P - s->length : 0;
    assert_int_equal(kv_seq_reuse(s->seq, s->text.tokens, n_tokens), gained);
    if (gained == 0)
        return;
    w->n_reused++;
    int before = seen_from(w, s->length), after = seen_from(w, s->length + gained);
    for (int b = before; b < after && b < s->n_blocks; b++)
        model_release(w, model_find(w, s, b + 1), PREFIX_CHUNKED);
    for (int b = s->n_blocks; b < best; b++)
        model_use(w, s, b + 1, b >= after);
    s->n_blocks = best;
    s->length += gained;
    s->reserved = s->length;
}

static void do_reserve(struct world *w, struct model_seq *s, int64_t n) {
    struct model_seq want = *s;
    if (s->length + n > want.reserved)
        want.reserved = s->length + n;
    int64_t missing = model_own_pages(w, &want) - model_own_pages(w, s);
    bool fits = missing <= model_unheld(w) + model_kept(w, true);
    assert_int_equal(kv_seq_reserve(s->seq, n), fits ? 0 : L4_E_KV_FULL);
    w->n_full += !fits;
    if (!fits)
        return;
    while (model_unheld(w) < missing)
        model_evict(w);
    *s = want;
}

static void do_compute(struct world *w, struct model_seq *s, int64_t n) {
    compute(s->seq, &s->text, n);
    int before = seen_from(w, s->length);
    for (; (s->n_blocks + 1) * P <= s->length + n; s->n_blocks++)
        model_use(w, s, s->n_blocks + 1, true);
    s->length += n;
    for (int b = before; b < seen_from(w, s->length) && b < s->n_blocks; b++)
        model_release(w, model_find(w, s, b + 1), PREFIX_CHUNKED);
}

static void begin(struct world *w, struct model_seq *s, unsigned *seed) {
    *s = (struct model_seq){0};
    for (int i = 0; i < MAX_BLOCKS; i++)
        s->kinds[i] = rand_r(seed) % 8 < 6 ? 0 : 1 + rand_r(seed) % 2;
    make_text(&s->text, rand_r(seed) % 8 == 0, s->kinds);
    struct kv_salt salt = salt_of(s->text.salt);
    assert_int_equal(kv_seq_open(&s->seq, w->pool, NULL), 0);
    kv_seq_share(s->seq, &salt);
}

static void check_world(const struct world *w) {
    assert_int_equal(kv_pool_cached_pages(w->pool), model_kept(w, true));
    assert_int_equal(kv_pool_free_pages(w->pool), model_unheld(w) + model_kept(w, true));
    assert_int_equal(kv_pool_evicted_pages(w->pool), w->n_evicted);
    for (int i = 0; i < N_SEQS; i++)
        if (w->seqs[i].seq) {
            assert_int_equal(kv_seq_length(w->seqs[i].seq), w->seqs[i].length);
            check_values(&w->config, w->seqs[i].seq, &w->seqs[i].text);
        }
}

static void random_lives(struct world *w, int64_t chunk, int64_t n_pages, unsigned seed) {
    w->config = small_config(chunk);
    w->n_pages = n_pages;
    w->pool = open_pool(&w->config, n_pages);
    memset(w->blocks, 0, sizeof w->blocks);
    memset(w->seqs, 0, sizeof w->seqs);
    w->n_evicted = 0;
    for (int step = 0; step < 1500; step++) {
        struct model_seq *s = &w->seqs[rand_r(&seed) % N_SEQS];
        unsigned action = (unsigned)rand_r(&seed) % 20;
        if (!s->seq) {
            begin(w, s, &seed);
        } else if (action == 0) {
            model_clear(w, s);
            kv_seq_close(s->seq);
            s->seq = NULL;
        } else if (action == 1) { /* set back */
            model_clear(w, s);
            kv_seq_clear(s->seq);
        } else if (action < 6) {
            do_reuse(w, s, rand_r(&seed) % (MAX_TOKENS + 1));
        } else if (action < 13) {
            int64_t left = MAX_TOKENS - s->length, n = rand_r(&seed) % (3 * P);
            if (n % 4 == 0)
                n = P - s->length % P; /* to the end of a page */
            do_reserve(w, s, n < left ? n : left);
        } else if (s->reserved > s->length) {
            int64_t n = s->reserved - s->length;
            do_compute(w, s, rand_r(&seed) % 2 ? n : 1 + rand_r(&seed) % n);
        }
        check_world(w);
    }
    for (int i = 0; i < N_SEQS; i++)
        kv_seq_close(w->seqs[i].seq);
    assert_int_equal(kv_pool_free_pages(w->pool), n_pages);
    kv_pool_close(w->pool);
}

static void random_lives_are_as_the_model_says(void **state) {
    (void)state;
    static struct world w;
    static const int64_t chunks[] = {16, 48, P, 2 * P, 200, 5 * P, 8192};
    uint64_t n_evicted = 0;
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++)
        for (unsigned seed = 1; seed <= 3; seed++) {
            random_lives(&w, chunks[i], seed == 1 ? 60 : seed == 2 ? 100 : 600, seed + (unsigned)i * 10);
            n_evicted += w.n_evicted;
        }
    assert_true(n_evicted > 1000 && w.n_full > 100 && w.n_reused > 1000 && w.n_cut_short > 50);
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

/* Whatever allocation fails: less is shared or a call says so; what is read is right, and no page is lost. */
static void any_allocation_may_fail(void **state) {
    (void)state;
    struct model_config config = small_config(2 * P);
    struct text text;
    struct kv_salt salt = salt_of(0);
    make_text(&text, 0, zeros);
    int n_failed = 0;
    FAILMALLOC_EACH(n) {
        struct kv_pool *pool = NULL;
        int rc = kv_pool_open(&pool, &config, DT_F32, 60, NULL);
        if (rc == 0)
            rc = kv_pool_cache_prefixes(pool, NULL);
        for (int round = 0; rc == 0 && round < 4; round++) {
            struct kv_seq *seq = NULL;
            rc = kv_seq_open(&seq, pool, NULL);
            if (rc != 0)
                break;
            kv_seq_share(seq, &salt);
            kv_seq_reuse(seq, text.tokens, 5 * P);
            while (rc == 0 && kv_seq_length(seq) < (round + 3) * P) {
                rc = kv_seq_reserve(seq, P / 2);
                if (rc == 0)
                    compute(seq, &text, P / 2);
            }
            check_values(&config, seq, &text);
            kv_seq_close(seq);
        }
        n_failed += failmalloc_disarm();
        assert_true(rc == 0 || rc == L4_E_NOMEM);
        if (pool)
            assert_int_equal(kv_pool_free_pages(pool), 60);
        kv_pool_close(pool);
    }
    assert_true(n_failed > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_pages_stay_and_are_reused),
        cmocka_unit_test(no_more_is_reused_than_was_asked_for),
        cmocka_unit_test(salts_share_nothing),
        cmocka_unit_test(the_same_computed_twice_is_kept_once),
        cmocka_unit_test(least_recently_used_pages_leave_first),
        cmocka_unit_test(chunked_layers_keep_what_the_next_turn_needs),
        cmocka_unit_test(a_hit_ends_where_chunked_pages_are_missing),
        cmocka_unit_test(models_with_one_kind_of_layer),
        cmocka_unit_test(colliding_keys_are_told_apart),
        cmocka_unit_test(random_lives_are_as_the_model_says),
        cmocka_unit_test(any_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
