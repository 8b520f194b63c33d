#include "core/base/checked.h"
#include "core/engine_internal.h"

enum {
    DEFAULT_CONTEXT_TOKENS = 32768, /* where the model claims more: Scout claims ten million */
    DEFAULT_KV_PERCENT = 15,        /* of the memory that is available */
    RUNNING_PER_CONTEXT = 4         /* a full context of KV cache for every so many running sequences */
};

static int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The longest sequence of at most `most` tokens that n_pages hold; 0 if not even one token fits. */
static int64_t longest_context(const struct model_config *config, int64_t n_pages, int64_t most, int64_t max_step) {
    int64_t fits = 0, too_long = most + 1;
    while (too_long - fits > 1) {
        int64_t tokens = fits + (too_long - fits) / 2;
        if (kv_pages_needed(config, tokens, max_step) <= n_pages)
            fits = tokens;
        else
            too_long = tokens;
    }
    return fits;
}

/* Context and pages for a cache of at most most_pages; fewer are taken where they are enough for all that runs. */
static int fit_context(struct engine_budget *budget, const struct l4_engine_options *options,
                       const struct model_config *config, int64_t page_bytes, int64_t most_pages, struct l4_err *err) {
    int64_t model_tokens = config->max_position_embeddings, max_step = options->max_chunk_tokens;
    int64_t context = options->max_context_tokens, default_context = min_i64(model_tokens, DEFAULT_CONTEXT_TOKENS);
    if (context > model_tokens)
        return l4_err_set(err, L4_E_INVALID, "max_context is %lld tokens, but the model knows only %lld positions",
                          (long long)context, (long long)model_tokens);
    if (context == 0)
        context = longest_context(config, most_pages, default_context, max_step);
    int64_t need = kv_pages_needed(config, context > 0 ? context : 1, max_step), need_bytes;
    if (!checked_mul_i64(need, page_bytes, &need_bytes))
        need_bytes = INT64_MAX;
    if (context == 0 || (options->kv_cache_bytes > 0 && need > most_pages))
        return l4_err_set(err, options->kv_cache_bytes > 0 ? L4_E_INVALID : L4_E_NOMEM,
                          "a context of %lld tokens needs a KV cache of %lld bytes, but %lld are %s",
                          (long long)(context > 0 ? context : 1), (long long)need_bytes,
                          (long long)(most_pages * page_bytes),
                          options->kv_cache_bytes > 0 ? "allowed (kv_cache)" : "to be had");
    if (options->kv_cache_bytes > 0) {
        budget->kv_pages = most_pages;
    } else {
        int64_t contexts = options->max_running / RUNNING_PER_CONTEXT, want;
        if (!checked_mul_i64(need, contexts > 0 ? contexts : 1, &want))
            want = INT64_MAX;
        budget->kv_pages = min_i64(want, most_pages) > need ? min_i64(want, most_pages) : need;
    }
    budget->max_context_tokens = context;
    return 0;
}

int engine_budget(struct engine_budget *budget, const struct l4_engine_options *options,
                  const struct model_config *config, const struct memory_limits *memory, struct l4_err *err) {
    int rc = kv_type_find(&budget->kv_type, options->kv_cache_type, err);
    if (rc != 0)
        return rc;
    int64_t page_bytes = (int64_t)kv_page_bytes(config, budget->kv_type);
    int64_t limit_bytes = min_i64(memory->total_bytes, memory->cgroup_bytes);
    int64_t available_bytes = min_i64(memory->available_bytes, limit_bytes);
    int64_t cache_bytes =
        options->kv_cache_bytes > 0 ? options->kv_cache_bytes : available_bytes / 100 * DEFAULT_KV_PERCENT;
    if (page_bytes <= 0)
        return l4_err_set(err, L4_E_NOMEM, "a KV page of this model is larger than the address space");
    rc = fit_context(budget, options, config, page_bytes, min_i64(cache_bytes / page_bytes, INT32_MAX), err);
    if (rc != 0)
        return rc;
    if (!checked_mul_i64(budget->kv_pages, page_bytes, &budget->kv_bytes))
        budget->kv_bytes = INT64_MAX;
    if (budget->kv_bytes > limit_bytes)
        return l4_err_set(err, L4_E_NOMEM,
                          "a KV cache of %lld MiB (a context of %lld tokens) does not fit into %lld MiB of memory%s",
                          engine_mib(budget->kv_bytes), (long long)budget->max_context_tokens, engine_mib(limit_bytes),
                          memory->cgroup_bytes < memory->total_bytes ? " (the control group's limit)" : "");
    int64_t most_tokens;
    if (!checked_mul_i64(budget->kv_pages, KV_PAGE_TOKENS, &most_tokens))
        most_tokens = INT64_MAX - 1;
    budget->kv_capacity_tokens = longest_context(config, budget->kv_pages, most_tokens, options->max_chunk_tokens);
    return 0;
}
