/* What the stored types mean, against the reference values of gguf_types. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/format/dequant.h"
#include "core/format/gguf.h"
#include "core/format/safetensors.h"
#include "tests/lib/random_data.h"

static struct gguf *gguf;
static struct safetensors *values;

static int setup(void **state) {
    (void)state;
    return gguf_open(&gguf, "tests/fixtures/gguf_types.gguf", NULL) ||
           safetensors_open(&values, "tests/fixtures/gguf_types.safetensors", NULL);
}

static int teardown(void **state) {
    (void)state;
    gguf_close(gguf);
    safetensors_close(values);
    return 0;
}

static void test_every_type(void **state) {
    (void)state;
    bool seen[DT_COUNT] = {false};
    assert_int_equal(safetensors_count(values), 23);
    for (size_t i = 0; i < safetensors_count(values); i++) {
        const struct tensor *want = safetensors_at(values, i);
        const struct tensor *have = gguf_find_tensor(gguf, safetensors_name(values, i), NULL);
        float row[4 * 512];
        assert_non_null(have);
        assert_int_equal(tensor_elements(have), 4 * 512);
        dequantize_row(have->type, have->data, row, 4 * 512);
        assert_memory_equal(row, want->data, sizeof row); /* to the bit */
        seen[have->type] = true;
    }
    for (int type = 0; type < DT_COUNT; type++)
        assert_int_equal(seen[type], dtype_is_weight((enum dtype)type));
}

/* A wrong byte anywhere in a block is a wrong value somewhere; where a scale is zero it may hide. */
static void test_spoiled_bytes(void **state) {
    (void)state;
    for (int type = DT_FIRST_BLOCK_TYPE; type < DT_COUNT; type++) {
        const size_t block_bytes = dtype_block_bytes((enum dtype)type);
        const int64_t n = dtype_block_elements((enum dtype)type);
        const struct tensor *tensor = NULL;
        for (size_t i = 0; i < safetensors_count(values) && (!tensor || tensor->type != (enum dtype)type); i++)
            tensor = gguf_find_tensor(gguf, safetensors_name(values, i), NULL);
        uint8_t block[256];
        float want[256], row[256];
        size_t n_noticed = 0;
        assert_true(block_bytes <= sizeof block && n <= 256);
        dequantize_row(tensor->type, tensor->data, want, n);
        for (size_t at = 0; at < block_bytes; at++) {
            memcpy(block, tensor->data, block_bytes);
            block[at] ^= 0x15;
            dequantize_row(tensor->type, block, row, n);
            n_noticed += memcmp(row, want, (size_t)n * sizeof *row) != 0;
        }
        if (n_noticed < block_bytes * 3 / 4)
            fail_msg("%s: %zu of %zu wrong bytes are noticed", dtype_name(tensor->type), n_noticed, block_bytes);
    }
}

/* Any bytes are a block: under the sanitizers no table is left. */
static void test_any_bytes(void **state) {
    (void)state;
    struct rng rng = {7};
    for (int type = DT_FIRST_BLOCK_TYPE; type < DT_COUNT; type++)
        for (int run = 0; run < 500; run++) {
            const size_t block_bytes = dtype_block_bytes((enum dtype)type);
            uint8_t *block = malloc(block_bytes); /* of its own, so that reading past the end is seen */
            float row[256];
            assert_non_null(block);
            for (size_t i = 0; i < block_bytes; i++)
                block[i] = run < 2 ? (run ? 0xff : 0) : (uint8_t)rng_next(&rng);
            dequantize_row((enum dtype)type, block, row, dtype_block_elements((enum dtype)type));
            free(block);
        }
}

static void test_sizes(void **state) {
    (void)state;
    size_t bytes;
    assert_true(dtype_bytes_checked(DT_Q4_K, 512, &bytes) && bytes == 288);
    assert_true(dtype_bytes_checked(DT_F32, 3, &bytes) && bytes == 12);
    assert_false(dtype_bytes_checked(DT_Q4_K, 511, &bytes));
    assert_false(dtype_bytes_checked(DT_F32, -1, &bytes));
    assert_false(dtype_bytes_checked(DT_F32, INT64_MAX, &bytes));
    assert_false(dtype_bytes_checked(DT_Q8_0, INT64_MAX / 32 * 32, &bytes) && bytes < INT64_MAX);
    enum dtype type;
    assert_true(dtype_from_gguf(39, &type) && type == DT_MXFP4);
    assert_false(dtype_from_gguf(UINT32_MAX, &type)); /* the types that GGUF has not have no id */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type),
        cmocka_unit_test(test_spoiled_bytes),
        cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
