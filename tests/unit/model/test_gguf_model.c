/* A checkpoint and the same one as GGUF: other names, experts apart and the other way round, RoPE scaling as divisors -
 * and the same logits.  The file comes from a script of the tests, and from l4_quantize. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/model/llama4.h"
#include "llama4/quantize.h"
#include "tests/lib/random_data.h"
#include "tests/lib/tempdir.h"

enum { N_TOKENS = 40 };

static float *forward(const char *path, const char *experts, int64_t *vocab) {
    struct checkpoint *checkpoint;
    struct arena arena = {0};
    struct exec exec = {.arena = &arena};
    struct llama4 *model;
    struct kv_pool *pool;
    struct kv_seq *kv;
    const struct experts_backend *backend;
    struct l4_err err;
    if (checkpoint_open(&checkpoint, path, NULL, NULL, &err) != 0)
        fail_msg("%s", err.message);
    const struct model_config *config = checkpoint_config(checkpoint);
    assert_int_equal(kernels_get(&exec.kernels, NULL), 0);
    assert_int_equal(pool_open(&exec.pool, 2, GEMM_SCRATCH_BYTES, NULL), 0);
    assert_int_equal(experts_backend_find(&backend, experts, NULL), 0);
    assert_int_equal(llama4_open(&model, checkpoint, &exec, backend, NULL, NULL), 0);
    assert_int_equal(kv_pool_open(&pool, config, DT_F32, kv_pages_needed(config, N_TOKENS, N_TOKENS), NULL), 0);
    assert_int_equal(kv_seq_open(&kv, pool, NULL), 0);
    assert_int_equal(kv_seq_reserve(kv, N_TOKENS), 0);
    int32_t tokens[N_TOKENS];
    struct rng rng = {11};
    for (int i = 0; i < N_TOKENS; i++)
        tokens[i] = (int32_t)rng_below(&rng, config->vocab_size);
    *vocab = config->vocab_size;
    float *logits = calloc((size_t)(N_TOKENS * *vocab), sizeof *logits);
    assert_non_null(logits);
    struct llama4_segment segment = {.kv = kv, .tokens = tokens, .n_tokens = N_TOKENS, .n_logits = N_TOKENS};
    assert_int_equal(llama4_forward(model, &segment, 1, logits, NULL, NULL), 0);
    kv_seq_close(kv);
    kv_pool_close(pool);
    llama4_close(model);
    pool_close(exec.pool);
    arena_fini(&arena);
    checkpoint_close(checkpoint);
    return logits;
}

/* What a GGUF file cannot say takes its conventional value in the original, too. */
static void copy_config(const char *from, const char *to) {
    static const struct {
        const char *key, *value;
    } conventions[] = {{"\"attention_chunk_size\": ", "8192"},
                       {"\"floor_scale\": ", "8192"},
                       {"\"attn_temperature_tuning\": ", "true"}};
    static char text[16384];
    FILE *file = fopen(from, "rb");
    assert_non_null(file);
    size_t n = fread(text, 1, sizeof text - 64, file);
    text[n] = '\0';
    fclose(file);
    for (size_t i = 0; i < 3; i++) {
        char *value = strstr(text, conventions[i].key);
        assert_non_null(value);
        value += strlen(conventions[i].key);
        const char *rest = value + strcspn(value, ",\n");
        memmove(value + 4, rest, strlen(rest) + 1);
        memcpy(value, conventions[i].value, 4);
    }
    file = fopen(to, "wb");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void same_logits(const char *path, const char *experts, const float *want) {
    int64_t vocab;
    float *have = forward(path, experts, &vocab);
    for (int64_t i = 0; i < N_TOKENS * vocab; i++)
        if (!(fabsf(have[i] - want[i]) <= 1e-4F))
            fail_msg("%s, %s: logit %lld is %g instead of %g", path, experts, (long long)i, (double)have[i],
                     (double)want[i]);
    free(have);
}

static void check_same(const char *fixture) {
    static const char *const experts[] = {"auto", "batched_mm", "grouped_mm", "eager"};
    struct tempdir dir;
    char command[1024], from[256], to[256];
    int64_t vocab;
    tempdir_init(&dir);
    assert_true(snprintf(command, sizeof command,
                         "/usr/bin/python3 tests/golden/hf_to_gguf.py %s %s/model.gguf && mkdir %s/hf && "
                         "cp %s/*.safetensors %s/hf/",
                         fixture, dir.path, dir.path, fixture, dir.path) < (int)sizeof command);
    assert_int_equal(system(command), 0); /* NOLINT: fixed words and a path of our own */
    snprintf(from, sizeof from, "%s/config.json", fixture);
    snprintf(to, sizeof to, "%s/hf/config.json", dir.path);
    copy_config(from, to);
    snprintf(from, sizeof from, "%s/hf", dir.path);
    snprintf(to, sizeof to, "%s/model.gguf", dir.path);
    float *want = forward(from, "auto", &vocab);
    for (int e = 0; e < 4; e++)
        same_logits(to, experts[e], want);
    snprintf(to, sizeof to, "%s/written.gguf", dir.path);
    const struct l4_quantize_options options = {.source = from, .target = to, .type = "f32", .threads = 2};
    struct l4_err err;
    if (l4_quantize(&options, NULL, &err) != 0)
        fail_msg("%s", err.message);
    same_logits(to, "auto", want);
    free(want);
    tempdir_fini(&dir);
}

static void test_scaled_rope(void **state) {
    (void)state;
    check_same("tests/fixtures/scout");
}
static void test_biases_and_tied_embeddings(void **state) {
    (void)state;
    check_same("tests/fixtures/top2");
}

static void test_interpolated_rope_and_dense_layers(void **state) {
    (void)state;
    check_same("tests/fixtures/interp");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scaled_rope),
        cmocka_unit_test(test_biases_and_tied_embeddings),
        cmocka_unit_test(test_interpolated_rope_and_dense_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
