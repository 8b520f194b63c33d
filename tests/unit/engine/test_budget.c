/* How long a context and how large a KV cache, for models and machines of all sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/engine_internal.h"

static const int64_t GIB = (int64_t)1 << 30;

/* Scout: 48 layers, every fourth without chunks. */
static void scout(struct model_config *config) {
    memset(config, 0, sizeof *config);
    config->n_layers = 48;
    config->n_kv_heads = 8;
    config->head_dim = 128;
    config->max_position_embeddings = 10485760;
    config->attention_chunk_size = 8192;
    for (int i = 0; i < config->n_layers; i++)
        config->layers[i].is_chunked = i % 4 != 3;
}

static struct memory_limits machine(int64_t total, int64_t available, int64_t cgroup) {
    return (struct memory_limits){total, available, cgroup};
}

static struct l4_engine_options defaults(void) {
    struct l4_engine_options options;
    l4_engine_options_init(&options);
    options.kv_cache_type = "f32";
    return options;
}

static void check_holds_one(const struct engine_budget *budget, const struct l4_engine_options *options,
                            const struct model_config *config) {
    assert_true(kv_pages_needed(config, budget->max_context_tokens, options->max_chunk_tokens) <= budget->kv_pages);
    assert_true(kv_pages_needed(config, budget->kv_capacity_tokens, options->max_chunk_tokens) <= budget->kv_pages);
    assert_true(kv_pages_needed(config, budget->kv_capacity_tokens + 1, options->max_chunk_tokens) > budget->kv_pages);
    assert_true(budget->kv_capacity_tokens >= budget->max_context_tokens);
    assert_int_equal(budget->kv_bytes, budget->kv_pages * (int64_t)kv_page_bytes(config, budget->kv_type));
}

static void defaults_are_bounded_by_model_memory_and_need(void **state) {
    (void)state;
    struct model_config config;
    struct engine_budget budget;
    struct l4_engine_options options = defaults();
    struct memory_limits memory = machine(512 * GIB, 500 * GIB, INT64_MAX);
    scout(&config);
    assert_int_equal(engine_budget(&budget, &options, &config, &memory, NULL), 0);
    assert_int_equal(budget.max_context_tokens, 32768); /* not ten million */
    assert_true(budget.kv_bytes <= 75 * GIB);
    check_holds_one(&budget, &options, &config);

    memory.available_bytes = 30 * GIB; /* 15% do not hold 32,768 tokens: a shorter context */
    assert_int_equal(engine_budget(&budget, &options, &config, &memory, NULL), 0);
    assert_in_range(budget.max_context_tokens, 1024, 32767);
    assert_true(budget.kv_bytes <= 30 * GIB / 100 * 15);
    check_holds_one(&budget, &options, &config);

    memory = machine(512 * GIB, 500 * GIB, 20 * GIB); /* the control group counts */
    assert_int_equal(engine_budget(&budget, &options, &config, &memory, NULL), 0);
    assert_true(budget.kv_bytes <= 20 * GIB / 100 * 15);

    config.max_position_embeddings = 512; /* a small model gets what it can use and no more */
    memory = machine(512 * GIB, 500 * GIB, INT64_MAX);
    assert_int_equal(engine_budget(&budget, &options, &config, &memory, NULL), 0);
    assert_int_equal(budget.max_context_tokens, 512);
    assert_int_equal(budget.kv_pages, kv_pages_needed(&config, 512, options.max_chunk_tokens) * 8);
    check_holds_one(&budget, &options, &config);
}

static void settings_are_kept(void **state) {
    (void)state;
    struct model_config config;
    struct engine_budget budget;
    struct l4_engine_options options = defaults();
    struct memory_limits memory = machine(64 * GIB, 60 * GIB, INT64_MAX);
    scout(&config);
    options.max_context_tokens = 1000000;
    options.kv_cache_bytes = 0; /* one context at least, even past the usual share */
    memory = machine(512 * GIB, 300 * GIB, INT64_MAX);
    assert_int_equal(engine_budget(&budget, &options, &config, &memory, NULL), 0);
    assert_int_equal(budget.max_context_tokens, 1000000);
    assert_true(budget.kv_bytes > 300 * GIB / 100 * 15);
    check_holds_one(&budget, &options, &config);

    options.max_context_tokens = 0;
    options.kv_cache_bytes = 2 * GIB;
    assert_int_equal(engine_budget(&budget, &options, &config, &memory, NULL), 0);
    assert_in_range(budget.kv_bytes, 2 * GIB - (int64_t)kv_page_bytes(&config, budget.kv_type), 2 * GIB);
    check_holds_one(&budget, &options, &config);
}

/* Half the bytes a number, twice the context in the same memory. */
static void capacity_follows_the_type(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double bytes; /* of a number */
    } types[] = {{"f32", 4}, {"f16", 2}, {"bf16", 2}, {"q8_0", 34.0 / 32}};
    struct model_config config;
    struct engine_budget budget;
    struct l4_engine_options options = defaults();
    struct memory_limits memory = machine(64 * GIB, 60 * GIB, INT64_MAX);
    scout(&config);
    options.kv_cache_bytes = 8 * GIB;
    for (int i = 0; i < 4; i++) {
        options.kv_cache_type = types[i].name;
        assert_int_equal(engine_budget(&budget, &options, &config, &memory, NULL), 0);
        check_holds_one(&budget, &options, &config);
        double page = 64 * 8 * 2 * 128 * types[i].bytes, pages = (double)(8 * GIB) / page;
        assert_int_equal(budget.kv_pages, (int64_t)pages);
        /* 36 layers hold a chunk and a step of 512 tokens, 12 all of it */
        double tokens = (pages - 36 * ((8191 + 512 + 63) / 64)) / 12 * 64;
        assert_true(tokens - 64 <= (double)budget.kv_capacity_tokens && (double)budget.kv_capacity_tokens <= tokens);
    }
}

static void refused(const struct l4_engine_options *options, const struct model_config *config,
                    const struct memory_limits *memory, int code, const char *words) {
    struct engine_budget budget;
    struct l4_err err = {0};
    assert_int_equal(engine_budget(&budget, options, config, memory, &err), code);
    if (!strstr(err.message, words))
        fail_msg("\"%s\" does not say \"%s\"", err.message, words);
}

static void contradictions_are_told_in_numbers(void **state) {
    (void)state;
    struct model_config config;
    struct l4_engine_options options = defaults();
    struct memory_limits memory = machine(64 * GIB, 60 * GIB, INT64_MAX);
    scout(&config);
    options.kv_cache_type = "q4";
    refused(&options, &config, &memory, L4_E_INVALID, "kv_cache_type 'q4' is unknown; valid are: f32, f16, bf16, q8_0");
    options.kv_cache_type = "f32";
    options.max_context_tokens = 10485761;
    refused(&options, &config, &memory, L4_E_INVALID,
            "max_context is 10485761 tokens, but the model knows only 10485760");
    options.max_context_tokens = 32768;
    options.kv_cache_bytes = 1 * GIB;
    refused(&options, &config, &memory, L4_E_INVALID, "a context of 32768 tokens needs a KV cache of 5788139520 bytes");
    refused(&options, &config, &memory, L4_E_INVALID, "1073741824 are allowed (kv_cache)");
    options.kv_cache_bytes = 100 * GIB;
    refused(&options, &config, &memory, L4_E_NOMEM, "a KV cache of 102400 MiB");
    refused(&options, &config, &memory, L4_E_NOMEM, "65536 MiB of memory");
    memory.cgroup_bytes = 8 * GIB;
    options.kv_cache_bytes = 10 * GIB;
    refused(&options, &config, &memory, L4_E_NOMEM, "8192 MiB of memory (the control group's limit)");
    options.kv_cache_bytes = INT64_MAX;
    refused(&options, &config, &memory, L4_E_NOMEM, "does not fit");
    options.kv_cache_bytes = 1000; /* not a page */
    options.max_context_tokens = 0;
    refused(&options, &config, &memory, L4_E_INVALID, "a context of 1 tokens needs");
    memory = machine(1000, 1000, INT64_MAX);
    options.kv_cache_bytes = 0;
    refused(&options, &config, &memory, L4_E_NOMEM, "a context of 1 tokens needs");
    options.max_context_tokens = 10485760;
    memory = machine(64 * GIB, 60 * GIB, INT64_MAX);
    refused(&options, &config, &memory, L4_E_NOMEM, "a context of 10485760 tokens");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_bounded_by_model_memory_and_need),
        cmocka_unit_test(settings_are_kept),
        cmocka_unit_test(capacity_follows_the_type),
        cmocka_unit_test(contradictions_are_told_in_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
