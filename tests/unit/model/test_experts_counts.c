/* What the experts were given, counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "core/model/experts_counts.h"

static const struct experts_backend *backend(const char *name) {
    const struct experts_backend *found;
    assert_int_equal(experts_backend_find(&found, name, NULL), 0);
    return found;
}

static uint64_t layers_of(const struct l4_experts_stats *stats, const char *name) {
    for (int i = 0; experts_backend_names()[i]; i++)
        if (strcmp(experts_backend_names()[i], name) == 0)
            return stats->n_layers[i];
    return UINT64_MAX;
}

static void tokens_and_layers(void **state) {
    (void)state;
    static struct model_config config = {.n_layers = 4, .n_experts = 3, .n_experts_per_tok = 2};
    config.layers[1].is_moe = config.layers[3].is_moe = true;
    struct experts_counts counts;
    struct l4_experts_stats stats;
    static const int32_t first[] = {0, 2, 2, 1, 3, 2}, second[] = {1, 3}; /* 3: it lives elsewhere */
    assert_int_equal(experts_counts_init(&counts, &config, NULL), 0);
    experts_counts_add(&counts, backend("grouped_mm"), 1, first, 6);
    experts_counts_add(&counts, backend("batched_mm"), 3, second, 2);
    experts_counts_add(&counts, backend("batched_mm"), 1, second, 2);
    experts_counts_stats(&counts, &stats);
    assert_int_equal(stats.n_experts, 3);
    assert_int_equal(stats.n_moe_layers, 2);
    assert_int_equal(stats.moe_layers[0], 1);
    assert_int_equal(stats.moe_layers[1], 3);
    static const uint64_t expected[] = {0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 1, 0};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        assert_int_equal(stats.n_tokens[i], expected[i]);
    assert_int_equal(layers_of(&stats, "grouped_mm"), 1);
    assert_int_equal(layers_of(&stats, "batched_mm"), 2);
    assert_int_equal(layers_of(&stats, "eager"), 0);
    assert_int_equal(layers_of(&stats, "auto"), 0);
    experts_counts_fini(&counts);
}

static void auto_says_what_it_picks(void **state) {
    (void)state;
    const struct experts experts = {.num_experts = 16, .top_k = 1};
    assert_ptr_equal(experts_backend_choose(backend("auto"), &experts, 1), backend("batched_mm"));
    assert_ptr_equal(experts_backend_choose(backend("auto"), &experts, 2048), backend("grouped_mm"));
    assert_ptr_equal(experts_backend_choose(backend("eager"), &experts, 2048), backend("eager"));
    assert_ptr_equal(experts_backend_choose(backend("batched_mm"), &experts, 2048), backend("batched_mm"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(tokens_and_layers), cmocka_unit_test(auto_says_what_it_picks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
