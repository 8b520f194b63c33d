/* What a page keeps of keys and values of each type, at the edges of their ranges too. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/cache/kv_page.h"

enum { HEAD_DIM = 40, N_KV_HEADS = 2, SLOT = 17 }; /* a block of 32 and one of 8 */

static const struct model_config config = {.n_kv_heads = N_KV_HEADS, .head_dim = HEAD_DIM};

/* Writes keys and values, and reads those of the second head back. */
static void keep(enum dtype type, float keys[][HEAD_DIM], float values[][HEAD_DIM], float *key, float *value) {
    const struct kernels *kernels = kernels_by_name("ref");
    struct kv_layout layout;
    assert_true(kv_layout_init(&layout, &config, type));
    char *page = malloc(layout.page_bytes), *before = malloc(layout.page_bytes);
    void *scratch = aligned_alloc(64, KERNEL_SCRATCH_BYTES);
    assert_true(page && before && scratch);
    memset(page, 0xff, layout.page_bytes);
    memcpy(before, page, layout.page_bytes);
    kv_page_write(&layout, page, SLOT, keys[0], values[0]);
    const char *part = page + 2 * layout.part_bytes;
    float unit[HEAD_DIM] = {0}, one = 1;
    for (int i = 0; i < HEAD_DIM; i++) {
        unit[i] = 1;
        kv_keys_scores(&layout, kernels, part, SLOT, 1, unit, 1, &key[i], 1, scratch);
        unit[i] = 0;
    }
    kv_values_sum(&layout, kernels, part + layout.part_bytes, SLOT, 1, &one, 1, 1, value, false, scratch);
    size_t n_changed = 0;
    for (size_t i = 0; i < layout.page_bytes; i++)
        n_changed += page[i] != before[i];
    assert_in_range(n_changed, 1, layout.page_bytes / KV_PAGE_TOKENS);
    free(page);
    free(before);
    free(scratch);
}

static void test_bytes(void **state) {
    (void)state;
    static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0};
    static const size_t bytes[] = {4 * HEAD_DIM, 2 * HEAD_DIM, 2 * HEAD_DIM, HEAD_DIM + 2 * 2};
    for (int i = 0; i < 4; i++) {
        struct kv_layout layout;
        enum dtype type;
        assert_true(kv_layout_init(&layout, &config, types[i]));
        assert_int_equal(layout.page_bytes, bytes[i] * KV_PAGE_TOKENS * 2 * N_KV_HEADS);
        assert_int_equal(kv_type_find(&type, kv_type_names()[i], NULL), 0);
        assert_int_equal(type, types[i]);
        assert_string_equal(kv_type_name(type), kv_type_names()[i]);
    }
    assert_null(kv_type_names()[4]);
}

/* Each number of the type's precision, at its own place. */
static void test_numbers(void **state) {
    (void)state;
    static const struct {
        enum dtype type;
        float error; /* relative; of q8_0 to the largest of the block */
    } types[] = {{DT_F32, 0}, {DT_F16, 0x1p-11F}, {DT_BF16, 0x1p-8F}, {DT_Q8_0, 0.0045F}};
    for (int t = 0; t < 4; t++) {
        float keys[N_KV_HEADS][HEAD_DIM], values[N_KV_HEADS][HEAD_DIM], key[HEAD_DIM], value[HEAD_DIM];
        for (int h = 0; h < N_KV_HEADS; h++)
            for (int i = 0; i < HEAD_DIM; i++) {
                keys[h][i] = (float)(1 + h) * sinf((float)i * 1.7F);
                values[h][i] = (float)(3 - h) * cosf((float)i * 0.9F);
            }
        keep(types[t].type, keys, values, key, value);
        for (int i = 0; i < HEAD_DIM; i++) {
            bool is_q8 = types[t].type == DT_Q8_0;
            assert_true(fabsf(key[i] - keys[1][i]) <= types[t].error * (is_q8 ? 2 : fabsf(keys[1][i])));
            assert_true(fabsf(value[i] - values[1][i]) <= types[t].error * (is_q8 ? 2 : fabsf(values[1][i])));
        }
    }
}

/* Too large: the largest that there is, not infinity, which would make NaN of a softmax. */
static void test_edges(void **state) {
    (void)state;
    float keys[N_KV_HEADS][HEAD_DIM] = {{0}}, values[N_KV_HEADS][HEAD_DIM] = {{0}}, key[HEAD_DIM], value[HEAD_DIM];
    values[1][0] = 1e6F;
    values[1][1] = -INFINITY;
    values[1][2] = 0x1p-24F;
    values[1][3] = 3.4e38F;
    keep(DT_F16, keys, values, key, value);
    assert_true(value[0] == 65504 && value[1] == -65504 && value[2] == 0x1p-24F && value[4] == 0 && key[0] == 0);
    keep(DT_BF16, keys, values, key, value);
    assert_true(value[1] == -0x1.fep127F && value[2] == 0x1p-24F && value[3] == 0x1.fep127F);
    keep(DT_Q8_0, keys, values, key, value);
    for (int i = 0; i < HEAD_DIM; i++)
        assert_true(isfinite(value[i]) && key[i] == 0);
    values[1][1] = NAN; /* what is no number does not become one */
    keep(DT_F16, keys, values, key, value);
    assert_true(isnan(value[1]));
    keep(DT_BF16, keys, values, key, value);
    assert_true(isnan(value[1]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
