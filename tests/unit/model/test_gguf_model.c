/* A checkpoint and the same one as GGUF: other names, experts apart and the other way round, RoPE scaling as divisors -
 * and the same logits. */
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
#include "tests/lib/random_data.h"
#include "tests/lib/tempdir.h"

enum { N_TOKENS = 40 };

static float *forward(const char *path, const char *experts, int64_t *vocab) {
    struct checkpoint *checkpoint;
    struct exec exec = {0};
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
    assert_int_equal(kv_pool_open(&pool, config, kv_pages_needed(config, N_TOKENS, N_TOKENS), NULL), 0);
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
    checkpoint_close(checkpoint);
    return logits;
}

/* What a GGUF file cannot say takes its conventional value in the original, too. */
static void copy_config(const char *from, const char *to) {
    static const struct {
        const char *key, *value;
    } conventions[] = {{"\"attention_chunk_size\": ", "8192"}, {"\"floor_scale\": ", "8192"}};
    static char text[16384];
    FILE *file = fopen(from, "rb");
    assert_non_null(file);
    size_t n = fread(text, 1, sizeof text - 64, file);
    text[n] = '\0';
    fclose(file);
    for (size_t i = 0; i < 2; i++) {
        char *value = strstr(text, conventions[i].key);
        assert_non_null(value);
        value += strlen(conventions[i].key);
        const char *rest = value + strspn(value, "0123456789.");
        memmove(value + 4, rest, strlen(rest) + 1);
        memcpy(value, conventions[i].value, 4);
    }
    file = fopen(to, "wb");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
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
    for (int e = 0; e < 4; e++) {
        float *have = forward(to, experts[e], &vocab);
        for (int64_t i = 0; i < N_TOKENS * vocab; i++)
            if (!(fabsf(have[i] - want[i]) <= 1e-4F))
                fail_msg("%s, %s: logit %lld is %g instead of %g", fixture, experts[e], (long long)i, (double)have[i],
                         (double)want[i]);
        free(have);
    }
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scaled_rope),
        cmocka_unit_test(test_biases_and_tied_embeddings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
