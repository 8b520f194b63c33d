/* GGUF files as checkpoints: the configuration they lead to, the tensors, and what is said about wrong ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/format/checkpoint.h"
#include "llama4/text.h"
#include "tests/lib/failmalloc.h"
#include "tests/lib/tempdir.h"

static const char DEMO[] = "tests/models/demo-Q4_0.gguf";
static struct tempdir dir;
static char *demo; /* the whole file */
static size_t demo_bytes;

static int setup(void **state) {
    (void)state;
    tempdir_init(&dir);
    FILE *file = fopen(DEMO, "rb");
    assert_non_null(file);
    demo = malloc(8 << 20);
    assert_non_null(demo);
    demo_bytes = fread(demo, 1, 8 << 20, file);
    fclose(file);
    return demo_bytes > 6000000 ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    free(demo);
    tempdir_fini(&dir);
    return 0;
}

/* Where a text stands in the file, its length in front of it. */
static char *find_text(const char *text) {
    const size_t n = strlen(text);
    for (size_t at = 8; at + n < demo_bytes && at < 70000; at++)
        if (demo[at - 8] == (char)n && demo[at - 7] == 0 && memcmp(demo + at, text, n) == 0)
            return demo + at;
    fail_msg("%s is not in the file", text);
    return NULL;
}

static void test_demo(void **state) {
    (void)state;
    struct checkpoint *checkpoint;
    struct l4_err err;
    if (checkpoint_open(&checkpoint, DEMO, NULL, NULL, &err) != 0)
        fail_msg("%s", err.message);
    const struct model_config *config = checkpoint_config(checkpoint);
    assert_int_equal(config->vocab_size, 2048);
    assert_int_equal(config->hidden_size, 256);
    assert_int_equal(config->n_layers, 8);
    assert_int_equal(config->n_heads, 8);
    assert_int_equal(config->n_kv_heads, 2);
    assert_int_equal(config->head_dim, 32);
    assert_int_equal(config->intermediate_size, 256);
    assert_int_equal(config->intermediate_size_mlp, 512);
    assert_int_equal(config->n_experts, 8);
    assert_int_equal(config->n_experts_per_tok, 1);
    assert_int_equal(config->max_position_embeddings, 8192);
    assert_int_equal(config->attention_chunk_size, 8192);
    assert_true(config->rms_norm_eps == 1e-5F);
    assert_true(config->use_qk_norm && config->attn_temperature_tuning);
    assert_false(config->attention_bias || config->tie_word_embeddings || config->rope_llama3);
    assert_true(config->floor_scale == 8192 && config->attn_scale == 0.1F && config->rope_theta == 10000);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(config->layers[i].is_moe, i % 2);
        assert_int_equal(config->layers[i].use_rope, i % 4 != 3);
        assert_int_equal(config->layers[i].is_chunked, i % 4 != 3);
    }
    assert_int_equal(config->bos_id, 2029);
    assert_int_equal(config->n_eos_ids, 2);
    assert_int_equal(config->eos_ids[0], 2037);
    assert_int_equal(config->eos_ids[1], 2036);
    const struct layer_weights *layer = &checkpoint_weights(checkpoint)->layers[1];
    assert_int_equal(layer->experts_gate.type, DT_Q4_0);
    assert_int_equal(layer->experts_down.shape[0], 8);
    assert_null(layer->gate_up_proj.data);
    assert_null(checkpoint_weights(checkpoint)->rope_freqs.data);
    assert_string_equal(checkpoint_quantization(checkpoint), "q4_0");
    assert_string_equal(checkpoint_tokenizer_path(checkpoint), DEMO);
    struct checkpoint *original; /* the same parameters, however they are stored */
    assert_int_equal(checkpoint_open(&original, "tests/models/demo", NULL, NULL, NULL), 0);
    assert_int_equal(checkpoint_parameters(checkpoint), checkpoint_parameters(original));
    assert_int_equal(checkpoint_active_parameters(checkpoint), checkpoint_active_parameters(original));
    checkpoint_close(original);
    checkpoint_close(checkpoint);
}

/* `text` is overwritten at `at` from its start on with the bytes given; the file is refused and says `why`. */
static void expect_refused(const char *text, size_t at, const void *bytes, size_t n_bytes, int code, const char *why) {
    char saved[16];
    char *place = find_text(text) + at;
    struct checkpoint *checkpoint = NULL;
    struct l4_tokenizer *tokenizer = NULL;
    struct l4_err err = {0};
    memcpy(saved, place, n_bytes);
    memcpy(place, bytes, n_bytes);
    const char *path = tempdir_write(&dir, "demo.gguf", demo, demo_bytes);
    memcpy(place, saved, n_bytes);
    int rc = checkpoint_open(&checkpoint, path, NULL, NULL, &err);
    if (rc == 0)
        rc = l4_tokenizer_open(&tokenizer, path, &err);
    checkpoint_close(checkpoint);
    l4_tokenizer_close(tokenizer);
    if (rc != code || strstr(err.message, why) == NULL)
        fail_msg("%d \"%s\" does not say \"%s\"", rc, rc ? err.message : "", why);
    assert_non_null(strstr(err.message, "demo.gguf"));
}

/* A key of another name is a key that is missing. */
static void test_missing_keys(void **state) {
    (void)state;
    static const char *const keys[] = {
        "general.architecture",        "llama4.block_count",
        "llama4.context_length",       "llama4.embedding_length",
        "llama4.feed_forward_length",  "llama4.expert_feed_forward_length",
        "llama4.attention.head_count", "llama4.attention.layer_norm_rms_epsilon",
        "llama4.rope.freq_base",       "llama4.expert_count",
        "llama4.expert_used_count",    "llama4.interleave_moe_layer_step",
        "tokenizer.ggml.pre",          "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",   "tokenizer.ggml.merges",
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char why[80];
        snprintf(why, sizeof why, "%s: expected ", keys[i]);
        expect_refused(keys[i], 0, "X", 1, L4_E_FORMAT, why);
    }
}

static void test_wrong_values(void **state) {
    (void)state;
    static const struct {
        const char *key;
        uint32_t value;
        int code;
        const char *why;
    } cases[] = {
        {"llama4.block_count", 0, L4_E_FORMAT, "block_count: expected an integer 1..512, found 0"},
        {"llama4.block_count", UINT32_MAX, L4_E_FORMAT, "expected an integer 1..512, found 4294967295"},
        {"llama4.block_count", 9, L4_E_FORMAT,
         "blk.8.attn_norm.weight: expected F32, F16 or BF16 [256], found nothing"},
        {"llama4.embedding_length", 128, L4_E_FORMAT,
         "token_embd.weight: expected F32, F16, BF16 or a quantised type [2048, 128], found Q4_0 [2048, 256]"},
        {"llama4.vocab_size", 2030, L4_E_FORMAT,
         "tokenizer.ggml.eos_token_id: expected an integer 0..2029, found 2037"},
        {"llama4.attention.head_count", 0, L4_E_FORMAT, "head_count: expected an integer 1..16384, found 0"},
        {"llama4.attention.head_count_kv", 3, L4_E_FORMAT, "a divisor of llama4.attention.head_count, 8, found 3"},
        {"llama4.attention.key_length", 31, L4_E_FORMAT, "key_length: expected an even number"},
        {"llama4.attention.value_length", 16, L4_E_UNSUPPORTED, "value_length: expected the size of a head, 32"},
        {"llama4.rope.dimension_count", 16, L4_E_UNSUPPORTED, "dimension_count: expected the size of a head, 32"},
        {"llama4.attention.layer_norm_rms_epsilon", 0x7fc00000, L4_E_FORMAT, "expected a number 1e-20..1, found nan"},
        {"llama4.rope.freq_base", 0, L4_E_FORMAT, "freq_base: expected a number 1..1e+18, found 0"},
        {"llama4.expert_count", 0, L4_E_FORMAT, "expert_count: expected an integer 1..65536, found 0"},
        {"llama4.expert_count", 4, L4_E_FORMAT, "blk.1.ffn_gate_inp.weight: expected"},
        {"llama4.expert_used_count", 9, L4_E_FORMAT, "expert_used_count: expected an integer 1..8, found 9"},
        {"llama4.interleave_moe_layer_step", 0, L4_E_FORMAT, "interleave_moe_layer_step: expected an integer 1.."},
        {"tokenizer.ggml.bos_token_id", 2048, L4_E_FORMAT, "bos_token_id: expected an integer 0..2047, found 2048"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(cases[i].key, strlen(cases[i].key) + 4, &cases[i].value, 4, cases[i].code, cases[i].why);
    expect_refused("llama4", 0, "llama3", 6, L4_E_UNSUPPORTED,
                   "general.architecture: expected \"llama4\", found \"llama3\"");
    expect_refused("gpt2", 0, "bert", 4, L4_E_UNSUPPORTED, "tokenizer.ggml.model: expected \"gpt2\", found \"bert\"");
}

static void test_wrong_tensors(void **state) {
    (void)state;
    const uint32_t q4_0 = 2, one = 1;
    expect_refused("blk.3.ffn_up_exps.weight", 0, "X", 1, L4_E_FORMAT,
                   "tensor blk.3.ffn_up_exps.weight: expected F32, F16, BF16 or a quantised type [8, 256, 256], found");
    expect_refused("blk.2.attn_norm.weight", 22 + 4 + 8, &q4_0, 4, L4_E_FORMAT,
                   "tensor blk.2.attn_norm.weight: expected F32, F16 or BF16 [256], found Q4_0 [256]");
    expect_refused("blk.5.attn_q.weight", 19, &one, 4, L4_E_FORMAT, "demo.gguf: ");
}

static void test_wrong_tokens(void **state) {
    (void)state;
    const int32_t type = 9;
    const uint64_t more = 2049;
    char *types = find_text("tokenizer.ggml.token_type");
    assert_int_equal(*(types + 25), 9); /* an array: type, element type, count, elements */
    expect_refused("tokenizer.ggml.token_type", 25 + 16 + 4 * 7, &type, 4, L4_E_FORMAT,
                   "tokenizer.ggml.token_type[7]: expected 1..6, found 9");
    expect_refused("tokenizer.ggml.merges", 21 + 16 + 8 + 2, "x", 1, L4_E_FORMAT,
                   "tokenizer.ggml.merges[0]: expected two");
    expect_refused("tokenizer.ggml.token_type", 25 + 8, &more, 8, L4_E_FORMAT, "demo.gguf: ");
    expect_refused("tokenizer.ggml.tokens", 21 + 16 + 8, "\"", 1, L4_E_FORMAT, "have the same text");
}

static void test_not_found(void **state) {
    (void)state;
    struct checkpoint *checkpoint = NULL;
    struct l4_err err;
    assert_int_equal(checkpoint_open(&checkpoint, tempdir_file(&dir, "none.gguf"), NULL, NULL, &err), L4_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "none.gguf: No such file"));
    assert_int_equal(checkpoint_open(&checkpoint, "tests/models/demo/config.json", NULL, NULL, &err), L4_E_FORMAT);
    assert_non_null(strstr(err.message, "config.json: not a GGUF file"));
}

static void test_failed_allocations(void **state) {
    (void)state;
    FAILMALLOC_EACH(n) {
        struct checkpoint *checkpoint = NULL;
        struct l4_err err;
        int rc = checkpoint_open(&checkpoint, DEMO, NULL, NULL, &err);
        failmalloc_disarm();
        assert_true(rc == 0 || rc == L4_E_NOMEM);
        checkpoint_close(checkpoint);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_demo),
        cmocka_unit_test(test_missing_keys),
        cmocka_unit_test(test_wrong_values),
        cmocka_unit_test(test_wrong_tensors),
        cmocka_unit_test(test_wrong_tokens),
        cmocka_unit_test(test_not_found),
        cmocka_unit_test(test_failed_allocations),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
