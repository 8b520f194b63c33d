/* config.json and generation_config.json: spellings, defaults, and everything that can be wrong in them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/format/config.h"
#include "tests/lib/tempdir.h"

static struct tempdir dir;

static int setup(void **state) {
    (void)state;
    tempdir_init(&dir);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    tempdir_fini(&dir);
    return 0;
}

/* A config.json of `members` after the model type. */
static int read_members(struct model_config *config, const char *members, struct l4_err *err) {
    static char text[65536];
    int len =
        snprintf(text, sizeof text, "{\"model_type\":\"llama4_text\"%s%s}", members[0] != '\0' ? "," : "", members);
    assert_true(len < (int)sizeof text);
    tempdir_puts(&dir, "config.json", text);
    return model_config_read(config, dir.path, err);
}

static struct model_config config_of(const char *members) {
    struct model_config config;
    struct l4_err err;
    if (read_members(&config, members, &err) != 0)
        fail_msg("%s: %s", members, err.message);
    return config;
}

static void expect_message(int rc, int code, const struct l4_err *err, const char *context, const char *why) {
    if (rc != code || strstr(err->message, why) == NULL)
        fail_msg("%s: code %d, \"%s\", expected code %d, \"%s\"", context, rc, err->message, code, why);
    assert_non_null(strstr(err->message, "config.json"));
    assert_null(strchr(err->message, '\n'));
}

static void expect_refused(const char *members, int code, const char *why) {
    struct model_config config;
    struct l4_err err = {0};
    expect_message(read_members(&config, members, &err), code, &err, members, why);
}

/* What transformers gives for a config.json that says nothing: Scout's sizes. */
static void test_defaults(void **state) {
    (void)state;
    struct model_config config = config_of("");
    assert_int_equal(config.vocab_size, 202048);
    assert_int_equal(config.hidden_size, 5120);
    assert_int_equal(config.intermediate_size, 8192);
    assert_int_equal(config.intermediate_size_mlp, 16384);
    assert_int_equal(config.n_layers, 48);
    assert_int_equal(config.n_heads, 40);
    assert_int_equal(config.n_kv_heads, 8);
    assert_int_equal(config.head_dim, 128);
    assert_int_equal(config.max_position_embeddings, 131072);
    assert_true(config.rms_norm_eps == 1e-5F);
    assert_int_equal(config.bos_id, 1);
    assert_int_equal(config.n_eos_ids, 1);
    assert_int_equal(config.eos_ids[0], 2);
    assert_false(config.tie_word_embeddings || config.attention_bias || config.rope_llama3 || config.is_multimodal);
    assert_int_equal(config.n_experts_per_tok, 1);
    assert_int_equal(config.n_experts, 16);
    assert_true(config.use_qk_norm && config.attn_temperature_tuning);
    assert_int_equal(config.attention_chunk_size, 8192);
    assert_true(config.floor_scale == 8192 && config.attn_scale == 0.1F && config.rope_theta == 500000);
    for (int i = 0; i < 48; i++) {
        assert_true(config.layers[i].is_moe);
        assert_int_equal(config.layers[i].use_rope, (i + 1) % 4 != 0);
        assert_int_equal(config.layers[i].is_chunked, (i + 1) % 4 != 0);
    }
}

/* The multimodal file nests the text model; its own members and the vision tower's do not count. */
static void test_nested(void **state) {
    (void)state;
    struct model_config config;
    struct l4_err err;
    tempdir_puts(&dir, "config.json",
                 "{\"model_type\":\"llama4\",\"hidden_size\":7,\"vision_config\":{\"hidden_size\":9},"
                 "\"text_config\":{\"model_type\":\"llama4_text\",\"hidden_size\":64,\"eos_token_id\":[5,6]}}");
    assert_int_equal(model_config_read(&config, dir.path, &err), 0);
    assert_true(config.is_multimodal);
    assert_int_equal(config.hidden_size, 64);
    assert_int_equal(config.n_eos_ids, 2);
    tempdir_puts(&dir, "config.json", "{\"model_type\":\"llama4\"}");
    assert_int_equal(model_config_read(&config, dir.path, &err), 0);
    assert_true(config.is_multimodal);
    assert_int_equal(config.hidden_size, 5120);
    tempdir_puts(&dir, "config.json", "{\"model_type\":\"llama4\",\"text_config\":{\"head_dim\":3}}");
    expect_message(model_config_read(&config, dir.path, &err), L4_E_FORMAT, &err, "nested",
                   "text_config.head_dim: expected an even number 2..4096");
    tempdir_puts(&dir, "config.json", "{\"model_type\":\"llama4\",\"text_config\":[1]}");
    expect_message(model_config_read(&config, dir.path, &err), L4_E_FORMAT, &err, "nested",
                   "text_config: expected an object, found an array of 1");
    tempdir_puts(&dir, "config.json", "{\"model_type\":\"llama4\",\"text_config\":{\"model_type\":\"qwen3\"}}");
    expect_message(model_config_read(&config, dir.path, &err), L4_E_UNSUPPORTED, &err, "nested",
                   "text_config.model_type: expected \"llama4_text\", found \"qwen3\"");
}

static void test_spellings(void **state) {
    (void)state;
    struct model_config config =
        config_of("\"rope_theta\":250.5,\"rope_scaling\":null,\"rope_parameters\":null,\"no_rope_layers\":[],"
                  "\"moe_layers\":null,\"layer_types\":null,\"num_hidden_layers\":6,\"interleave_moe_layer_step\":2,"
                  "\"no_rope_layer_interval\":3,\"attn_temperature_tuning\":0,\"dtype\":\"bfloat16\","
                  "\"torch_dtype\":7,\"unknown\":{\"a\":[1]}");
    assert_true(config.rope_theta == 250.5);
    assert_false(config.rope_llama3 || config.attn_temperature_tuning);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(config.layers[i].is_moe, i % 2);
        assert_int_equal(config.layers[i].use_rope, i % 3 != 2);
        assert_int_equal(config.layers[i].is_chunked, i % 3 != 2);
    }
    config = config_of("\"num_hidden_layers\":3,\"no_rope_layers\":[0,1,true],\"moe_layers\":[2,0],"
                       "\"layer_types\":[\"full_attention\",\"full_attention\",\"chunked_attention\"]");
    assert_true(!config.layers[0].use_rope && config.layers[1].use_rope && config.layers[2].use_rope);
    assert_true(!config.layers[0].is_chunked && !config.layers[1].is_chunked && config.layers[2].is_chunked);
    assert_true(config.layers[0].is_moe && !config.layers[1].is_moe && config.layers[2].is_moe);
    assert_false(config_of("\"moe_layers\":[]").layers[0].is_moe);

    assert_true(config_of("\"attn_temperature_tuning\":4").attn_temperature_tuning);
    assert_false(config_of("\"attn_temperature_tuning\":false").attn_temperature_tuning);
    assert_int_equal(config_of("\"num_key_value_heads\":null").n_kv_heads, 40);
    assert_int_equal(config_of("\"head_dim\":null,\"hidden_size\":640,\"num_attention_heads\":40").head_dim, 16);
    assert_int_equal(config_of("\"eos_token_id\":null").n_eos_ids, 0);
    assert_int_equal(config_of("\"eos_token_id\":200001").eos_ids[0], 200001);
    assert_int_equal(config_of("\"eos_token_id\":[]").n_eos_ids, 0);
    assert_int_equal(config_of("\"bos_token_id\":null").bos_id, -1);
    config = config_of("\"vocab_size\":1");
    assert_int_equal(config.bos_id, -1);
    assert_int_equal(config.n_eos_ids, 0);
}

static void test_rope(void **state) {
    (void)state;
    static const char llama3[] = "\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
                                 "\"original_max_position_embeddings\":8192";
    char members[512];
    static const char *const forms[] = {
        "\"rope_theta\":7.5,\"rope_scaling\":{\"rope_type\":\"llama3\",%s}",
        "\"rope_theta\":7.5,\"rope_scaling\":{\"type\":\"llama3\",%s}",
        "\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":7.5,%s}",
        "\"rope_theta\":9,\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":7.5,%s}",
        "\"rope_scaling\":{},\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":7.5,%s}",
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        const char *rest = strstr(forms[i], "%s");
        snprintf(members, sizeof members, "%.*s%s%s", (int)(rest - forms[i]), forms[i], llama3, rest + 2);
        struct model_config config = config_of(members);
        assert_true(config.rope_llama3 && config.rope_theta == 7.5 && config.rope_factor == 8);
        assert_true(config.rope_low_freq_factor == 1 && config.rope_high_freq_factor == 4);
        assert_int_equal(config.rope_original_context, 8192);
    }
    assert_false(config_of("\"rope_scaling\":{\"rope_type\":\"default\"}").rope_llama3);
    expect_refused("\"rope_scaling\":{\"rope_type\":\"yarn\"}", L4_E_UNSUPPORTED,
                   "rope_scaling.rope_type: expected \"default\" or \"llama3\", found \"yarn\"");
    expect_refused("\"rope_scaling\":{\"type\":\"linear\"}", L4_E_UNSUPPORTED, "rope_scaling.type:");
    expect_refused("\"rope_scaling\":{\"rope_type\":\"llama3\"}", L4_E_FORMAT,
                   "rope_scaling.factor: expected a number 1..1e+06, found nothing");
    expect_refused("\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":2,"
                   "\"high_freq_factor\":1,\"original_max_position_embeddings\":8192}",
                   L4_E_FORMAT, "rope_parameters.high_freq_factor: expected at least low_freq_factor, 2, found 1");
    expect_refused("\"rope_scaling\":[8]", L4_E_FORMAT, "rope_scaling: expected an object");
    expect_refused("\"rope_theta\":0", L4_E_FORMAT, "rope_theta: expected a number 1..1e+18, found 0");
    expect_refused("\"rope_parameters\":{\"rope_theta\":-1}", L4_E_FORMAT, "rope_parameters.rope_theta:");
    expect_refused("\"rope_parameters\":{\"rope_theta\":\"1\"}", L4_E_FORMAT, "found \"1\"");
    expect_refused("\"rope_parameters\":{\"rope_theta\":1,\"rope_theta\":2}", L4_E_FORMAT,
                   "rope_parameters.rope_theta stands there twice");
}

/* Every number that is read, given everything that it must not be. */
static void test_hostile_numbers(void **state) {
    (void)state;
    static const char *const keys[] = {
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "intermediate_size_mlp",
        "num_local_experts",
        "num_experts_per_tok",
        "max_position_embeddings",
        "attention_chunk_size",
        "rms_norm_eps",
        "floor_scale",
        "attn_scale",
        "interleave_moe_layer_step",
        "no_rope_layer_interval",
        "rope_theta",
        "bos_token_id",
        "eos_token_id",
    };
    static const char *const values[] = {"-1",
                                         "1e308",
                                         "1e999",
                                         "-1e308",
                                         "9223372036854775808",
                                         "18446744073709551615",
                                         "\"8\"",
                                         "[[]]",
                                         "{}",
                                         "false",
                                         "9999999999999999999999999999999999999999999999912345678901234567"};
    char members[256];
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            struct model_config config;
            struct l4_err err = {0};
            snprintf(members, sizeof members, "\"%s\":%s", keys[k], values[v]);
            /* what cJSON itself does not read as a number is no JSON, and need not name the key */
            int rc = read_members(&config, members, &err);
            bool is_json = strstr(err.message, "not JSON") == NULL;
            expect_message(rc, L4_E_FORMAT, &err, members, is_json ? keys[k] : "not JSON");
        }
    expect_refused("\"hidden_size\":5120.5", L4_E_FORMAT, "hidden_size: expected an integer 1..1048576, found 5120.5");
    expect_refused("\"num_hidden_layers\":0", L4_E_FORMAT, "num_hidden_layers: expected an integer 1..512, found 0");
    expect_refused("\"num_hidden_layers\":513", L4_E_FORMAT,
                   "num_hidden_layers: expected an integer 1..512, found 513");
    expect_refused("\"num_attention_heads\":12", L4_E_FORMAT, "a divisor of num_attention_heads, 12");
    expect_refused("\"head_dim\":15", L4_E_FORMAT, "head_dim: expected an even number");
    expect_refused("\"head_dim\":null,\"hidden_size\":40", L4_E_FORMAT, "head_dim: expected an even number");
    expect_refused("\"num_local_experts\":4,\"num_experts_per_tok\":5", L4_E_FORMAT,
                   "num_experts_per_tok: expected an integer 1..4, found 5");
    expect_refused("\"rms_norm_eps\":0", L4_E_FORMAT, "rms_norm_eps");
    expect_refused("\"interleave_moe_layer_step\":0", L4_E_FORMAT, "interleave_moe_layer_step");
    expect_refused("\"no_rope_layer_interval\":0", L4_E_FORMAT, "no_rope_layer_interval");
    expect_refused("\"vocab_size\":100,\"eos_token_id\":100", L4_E_FORMAT, "eos_token_id: expected token ids 0..99");
    expect_refused("\"vocab_size\":100,\"eos_token_id\":[3,-1]", L4_E_FORMAT, "found -1");
    expect_refused("\"vocab_size\":100,\"bos_token_id\":100", L4_E_FORMAT, "bos_token_id: expected an integer 0..99");
    expect_refused("\"eos_token_id\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", L4_E_FORMAT, "at most 16 ids");
}

static void test_hostile_lists(void **state) {
    (void)state;
    expect_refused("\"moe_layers\":3", L4_E_FORMAT, "moe_layers: expected an array of layer numbers, found 3");
    expect_refused("\"moe_layers\":[48]", L4_E_FORMAT, "moe_layers: expected layer numbers 0..47, found 48");
    expect_refused("\"moe_layers\":[0.5]", L4_E_FORMAT, "found 0.5");
    expect_refused("\"moe_layers\":[1e99]", L4_E_FORMAT, "found 1e+99");
    expect_refused("\"no_rope_layers\":[1,1]", L4_E_FORMAT,
                   "no_rope_layers: expected an array of 48, one for each layer");
    expect_refused("\"no_rope_layers\":7", L4_E_FORMAT, "no_rope_layers: expected an array of 48");
    expect_refused("\"num_hidden_layers\":2,\"no_rope_layers\":[1,2]", L4_E_FORMAT, "0 or 1 for each layer, found 2");
    expect_refused("\"num_hidden_layers\":2,\"no_rope_layers\":[1,null]", L4_E_FORMAT, "found null");
    expect_refused("\"num_hidden_layers\":1,\"layer_types\":[]", L4_E_FORMAT, "layer_types: expected an array of 1");
    expect_refused("\"num_hidden_layers\":1,\"layer_types\":[1]", L4_E_FORMAT, "found 1");
    expect_refused("\"num_hidden_layers\":1,\"layer_types\":[\"sliding_attention\"]", L4_E_UNSUPPORTED,
                   "found \"sliding_attention\"");
}

static void test_other_types(void **state) {
    (void)state;
    expect_refused("\"hidden_act\":\"gelu\"", L4_E_UNSUPPORTED, "hidden_act: expected \"silu\", found \"gelu\"");
    expect_refused("\"hidden_act\":3", L4_E_FORMAT, "hidden_act: expected a string, found 3");
    expect_refused("\"use_qk_norm\":1", L4_E_FORMAT, "use_qk_norm: expected true or false, found 1");
    expect_refused("\"tie_word_embeddings\":\"true\"", L4_E_FORMAT, "tie_word_embeddings");
    expect_refused("\"attention_bias\":[]", L4_E_FORMAT, "attention_bias");
    expect_refused("\"attn_temperature_tuning\":\"4\"", L4_E_FORMAT, "true, false or a number, found \"4\"");
    expect_refused("\"quantization_config\":{\"quant_method\":\"fbgemm_fp8\"}", L4_E_UNSUPPORTED,
                   "quantization_config");
    expect_refused("\"model_type\":\"llama4\"", L4_E_FORMAT, "model_type stands there twice");
    expect_refused("\"hidden_act\":\"\\ngelu\\u001b[31m\"", L4_E_UNSUPPORTED, "found \"?gelu?[31m\"");
}

static void expect_file_refused(const char *text, size_t len, int code, const char *why) {
    struct model_config config;
    struct l4_err err = {0};
    tempdir_write(&dir, "config.json", text, len);
    expect_message(model_config_read(&config, dir.path, &err), code, &err, "file", why);
}

static void test_hostile_files(void **state) {
    (void)state;
    struct model_config config;
    struct l4_err err;
    assert_int_equal(model_config_read(&config, tempdir_file(&dir, "nowhere"), &err), L4_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "nowhere/config.json"));
    assert_int_equal(model_config_read(&config, "tests/fixtures/README.md", &err), L4_E_NOT_FOUND);

    static const struct {
        const char *text, *why;
        int code;
    } cases[] = {
        {"", "not JSON", L4_E_FORMAT},
        {"[]", "expected an object, found an array of 0", L4_E_FORMAT},
        {"null", "expected an object, found null", L4_E_FORMAT},
        {"{\"model_type\":\"llama4_text\"", "not JSON", L4_E_FORMAT},
        {"{\"model_type\":\"llama4_text\",", "not JSON", L4_E_FORMAT},
        {"{\"model_type\":\"llama4_text\"} x", "not JSON", L4_E_FORMAT},
        {"{\"model_type\":\"mixtral\"}", "expected \"llama4\" or \"llama4_text\", found \"mixtral\"", L4_E_UNSUPPORTED},
        {"{\"model_type\":4}", "model_type: expected a string", L4_E_FORMAT},
        {"{\"hidden_size\":NaN}", "not JSON", L4_E_FORMAT},
        {"{\"hidden_size\":Infinity}", "not JSON", L4_E_FORMAT},
        {"{\"a\":\"\\u0000\"}", "\\u0000 in the string", L4_E_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_file_refused(cases[i].text, strlen(cases[i].text), cases[i].code, cases[i].why);
    expect_file_refused("{\"a\0\":1}", 8, L4_E_FORMAT, "a NUL at byte 3");

    const size_t n = 100000;
    char *deep = malloc(n);
    assert_non_null(deep);
    memset(deep, '[', n);
    expect_file_refused(deep, n, L4_E_FORMAT, "nested deeper than 64");
    free(deep);

    const char *path = tempdir_puts(&dir, "config.json", "{}");
    assert_int_equal(truncate(path, 100 << 20), 0);
    expect_message(model_config_read(&config, dir.path, &err), L4_E_FORMAT, &err, "large",
                   "104857600 bytes long, at most 16777216 are accepted");
}

static int read_generation(struct generation_config *config, const char *text, struct l4_err *err) {
    if (text != NULL)
        tempdir_puts(&dir, "generation_config.json", text);
    return generation_config_read(config, dir.path, 100, err);
}

static void test_generation_config(void **state) {
    (void)state;
    struct generation_config config;
    struct l4_err err;
    unlink(tempdir_file(&dir, "generation_config.json"));
    assert_int_equal(read_generation(&config, NULL, &err), 0);
    assert_false(config.has_temperature || config.has_top_p || config.has_min_p || config.has_top_k ||
                 config.has_repetition_penalty);
    assert_int_equal(config.n_eos_ids, 0);

    assert_int_equal(read_generation(&config,
                                     "{\"temperature\":0.6,\"top_p\":0.9,\"top_k\":50,\"repetition_penalty\":1.1,"
                                     "\"min_p\":0.05,\"eos_token_id\":[1,99],\"do_sample\":true}",
                                     &err),
                     0);
    assert_true(config.has_temperature && config.temperature == 0.6F);
    assert_true(config.has_top_p && config.top_p == 0.9F);
    assert_true(config.has_min_p && config.min_p == 0.05F);
    assert_true(config.has_top_k && config.top_k == 50);
    assert_true(config.has_repetition_penalty && config.repetition_penalty == 1.1F);
    assert_int_equal(config.n_eos_ids, 2);
    assert_int_equal(read_generation(&config, "{\"top_k\":-1,\"temperature\":null,\"eos_token_id\":7}", &err), 0);
    assert_true(config.has_top_k && config.top_k == 0 && !config.has_temperature && config.eos_ids[0] == 7);
    assert_false(config.has_min_p);
    assert_int_equal(read_generation(&config, "{\"do_sample\":false,\"temperature\":0.6}", &err), 0);
    assert_true(config.has_temperature && config.temperature == 0);

    static const struct {
        const char *text, *why;
    } cases[] = {
        {"{\"temperature\":-1}", "temperature: expected a number 0..100, found -1"},
        {"{\"temperature\":1e308}", "temperature"},
        {"{\"temperature\":\"hot\"}", "found \"hot\""},
        {"{\"top_p\":1.5}", "top_p"},
        {"{\"min_p\":-0.1}", "min_p: expected a number 0..1, found -0.1"},
        {"{\"do_sample\":1}", "do_sample: expected true or false, found 1"},
        {"{\"top_k\":1e10}", "top_k"},
        {"{\"top_k\":0.5}", "top_k"},
        {"{\"repetition_penalty\":0}", "repetition_penalty"},
        {"{\"eos_token_id\":100}", "token ids 0..99, found 100"},
        {"{\"eos_token_id\":\"2\"}", "found \"2\""},
        {"[1]", "expected an object"},
        {"{", "not JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_message(read_generation(&config, cases[i].text, &err), L4_E_FORMAT, &err, cases[i].text, cases[i].why);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),          cmocka_unit_test(test_nested),
        cmocka_unit_test(test_spellings),         cmocka_unit_test(test_rope),
        cmocka_unit_test(test_hostile_numbers),   cmocka_unit_test(test_hostile_lists),
        cmocka_unit_test(test_other_types),       cmocka_unit_test(test_hostile_files),
        cmocka_unit_test(test_generation_config),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
