/* Quantising: error bounds, the same bytes as another engine's quantizer, odd values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/format/dequant.h"
#include "core/format/gguf.h"
#include "core/format/quantize.h"
#include "core/format/safetensors.h"
#include "tests/lib/random_data.h"

static const enum dtype TYPES[] = {DT_Q8_0, DT_Q4_0, DT_Q4_K, DT_Q6_K};
enum { N_TYPES = sizeof TYPES / sizeof *TYPES, N = 4096 };

static void test_f16(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        const float value = f16_to_f32((uint16_t)bits);
        const uint16_t back = f32_to_f16(value);
        if (isnan(value))
            assert_true(isnan(f16_to_f32(back)));
        else
            assert_int_equal(back, bits);
        if ((bits & 0x7fff) >= 0x7bff) /* the last finite one and above have no neighbour */
            continue;
        const float next = f16_to_f32((uint16_t)(bits + 1)), middle = value + (next - value) / 2;
        assert_int_equal(f32_to_f16(middle), bits % 2 ? bits + 1 : bits); /* a tie: to even */
        assert_int_equal(f32_to_f16(nextafterf(middle, value)), bits);
        assert_int_equal(f32_to_f16(nextafterf(middle, next)), bits + 1);
    }
    assert_int_equal(f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(f32_to_f16(65520), 0x7c00);
    assert_int_equal(f32_to_f16(-1e30f), 0xfc00);
}

/* Root of the mean squared error, as a share of the values' own. */
static double relative_error(enum dtype type, const float *x, const void *quantized, int64_t n) {
    float *back = malloc((size_t)n * sizeof *back);
    double error = 0, size = 0;
    assert_non_null(back);
    dequantize_row(type, quantized, back, n);
    for (int64_t i = 0; i < n; i++) {
        assert_true(isfinite(back[i]));
        error += ((double)back[i] - (double)x[i]) * ((double)back[i] - (double)x[i]);
        size += (double)x[i] * (double)x[i];
    }
    free(back);
    return size > 0 ? sqrt(error / size) : 0;
}

static void test_error_bounds(void **state) {
    (void)state;
    static float x[N], back[N];
    static uint8_t blocks[N * 2];
    struct rng rng = {7};
    rng_fill(&rng, x, N, 1);
    for (int i = 0; i < N; i++)
        x[i] *= i / 256 % 3 == 0 ? 1e-3f : i % 97 == 0 ? 30.0f : 1;
    for (int t = 0; t < N_TYPES; t++) {
        assert_true(quantize_has_type(TYPES[t]));
        quantize_row(TYPES[t], x, blocks, N);
        dequantize_row(TYPES[t], blocks, back, N);
        for (int b = 0; b < N; b += 32) {
            float low = 0, high = 0;
            for (int i = b; i < b + 32; i++) {
                low = fminf(low, x[i]);
                high = fmaxf(high, x[i]);
            }
            const float largest = fmaxf(high, -low);
            for (int i = b; i < b + 32; i++) {
                const float error = fabsf(back[i] - x[i]);
                if (TYPES[t] == DT_Q8_0)
                    assert_true(error <=
                                largest / 127 * 0.501f + largest * 0x1p-11f + 0x1p-18f); /* a subnormal scale */
                else if (TYPES[t] == DT_Q4_0)
                    assert_true(error <= largest / 8 * 1.01f);
                else if (TYPES[t] == DT_Q6_K) /* the scales are rounded to 1/128 of the largest of sixteen */
                    assert_true(error <= largest / 32 * 1.1f + 30.0f / 256);
                else /* the scales are rounded to 1/63 of the largest of eight */
                    assert_true(error <= (high - low) / 15 * 1.5f + 0.6f);
            }
        }
    }
    assert_false(quantize_has_type(DT_Q5_K) || quantize_has_type(DT_F32));
}

/* Tensors of a checkpoint in bf16, and their names in files of it that another engine's quantizer wrote. */
static const struct {
    const char *original, *quantized;
} SAME[] = {
    {"model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"},
    {"model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight"},
    {"model.layers.0.feed_forward.gate_proj.weight", "blk.0.ffn_gate.weight"},
    {"model.layers.0.feed_forward.up_proj.weight", "blk.0.ffn_up.weight"},
    {"model.layers.0.feed_forward.down_proj.weight", "blk.0.ffn_down.weight"},
};

static void each_pair(const char *path, enum dtype type, int least,
                      void (*visit)(const float *x, const struct tensor *theirs, const uint8_t *ours, int64_t n)) {
    struct safetensors *original;
    struct gguf *quantized;
    int n_seen = 0;
    assert_int_equal(safetensors_open(&original, "tests/models/demo/model-00001-of-00002.safetensors", NULL), 0);
    assert_int_equal(gguf_open(&quantized, path, NULL), 0);
    for (size_t i = 0; i < sizeof SAME / sizeof *SAME; i++) {
        const struct tensor *from = safetensors_find(original, SAME[i].original);
        const struct tensor *theirs = gguf_find_tensor(quantized, SAME[i].quantized, NULL);
        assert_non_null(from);
        assert_non_null(theirs);
        if (theirs->type != type) /* some tensors get a better type */
            continue;
        const int64_t n = tensor_elements(from);
        assert_int_equal(n, tensor_elements(theirs));
        float *x = malloc((size_t)n * sizeof *x);
        uint8_t *ours = malloc(theirs->size_bytes);
        assert_true(x && ours);
        dequantize_row(from->type, from->data, x, n);
        quantize_row(type, x, ours, n);
        visit(x, theirs, ours, n);
        free(x);
        free(ours);
        n_seen++;
    }
    assert_true(n_seen >= least);
    safetensors_close(original);
    gguf_close(quantized);
}

static void same_bytes(const float *x, const struct tensor *theirs, const uint8_t *ours, int64_t n) {
    (void)x;
    (void)n;
    assert_memory_equal(ours, theirs->data, theirs->size_bytes);
}

static void test_q4_0_bytes(void **state) {
    (void)state;
    each_pair("tests/models/demo-Q4_0.gguf", DT_Q4_0, 4, same_bytes);
}

static void as_good(const float *x, const struct tensor *theirs, const uint8_t *ours, int64_t n) {
    const enum dtype type = theirs->type;
    const double error = relative_error(type, x, ours, n), of_theirs = relative_error(type, x, theirs->data, n);
    print_message("           %s: error %.4f, the other quantizer's %.4f\n", dtype_name(type), error, of_theirs);
    assert_true(error <= 1.02 * of_theirs);
}

static void test_k_quality(void **state) {
    (void)state;
    each_pair("tests/models/demo-Q4_K_M.gguf", DT_Q4_K, 2, as_good);
    each_pair("tests/models/demo-Q4_K_M.gguf", DT_Q6_K, 1, as_good);
}

/* Zeros stay zeros; what is no number, or too large, gives finite numbers. */
static void test_special(void **state) {
    (void)state;
    static const float SPECIAL[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-45f, 0, -0.0f};
    float x[512] = {0};
    uint8_t blocks[1024];
    struct rng rng = {9};
    for (int t = 0; t < N_TYPES; t++) {
        memset(x, 0, sizeof x);
        quantize_row(TYPES[t], x, blocks, 512);
        float back[512];
        dequantize_row(TYPES[t], blocks, back, 512);
        for (int i = 0; i < 512; i++)
            assert_true(back[i] == 0);
        for (int round = 0; round < 200; round++) {
            rng_fill(&rng, x, 512, 1);
            for (int i = 0; i < 512; i += 1 + round)
                x[i] = SPECIAL[(i + round) % (int)(sizeof SPECIAL / sizeof *SPECIAL)];
            quantize_row(TYPES[t], x, blocks, 512);
            dequantize_row(TYPES[t], blocks, back, 512);
            for (int i = 0; i < 512; i++)
                assert_true(isfinite(back[i]));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f16),       cmocka_unit_test(test_error_bounds), cmocka_unit_test(test_q4_0_bytes),
        cmocka_unit_test(test_k_quality), cmocka_unit_test(test_special),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
