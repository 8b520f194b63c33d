/* Checkpoint directories that are wrong somewhere: index, shards, tensors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/format/checkpoint.h"
#include "tests/lib/failmalloc.h"
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

static void expect_opens(void) {
    struct checkpoint *checkpoint = NULL;
    struct l4_err err;
    if (checkpoint_open(&checkpoint, dir.path, NULL, NULL, &err) != 0)
        fail_msg("%s", err.message);
    checkpoint_close(checkpoint);
}

static void expect_refused(int code, const char *why) {
    struct checkpoint *checkpoint = NULL;
    struct l4_err err = {0};
    int rc = checkpoint_open(&checkpoint, dir.path, NULL, NULL, &err);
    if (rc != code || strstr(err.message, why) == NULL)
        fail_msg("code %d, \"%s\", expected code %d, \"%s\"", rc, err.message, code, why);
    assert_null(checkpoint);
}

static char *read_text(const char *path) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *text = calloc(1, 1 << 20);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
    fclose(file);
    return text;
}

static void replace_all(char *text, const char *from, const char *to) {
    assert_int_equal(strlen(from), strlen(to)); /* in place */
    assert_non_null(strstr(text, from));
    for (char *at = text; (at = strstr(at, from)) != NULL;)
        memcpy(at, to, strlen(to));
}

/* The directory becomes a copy of a fixture whose safetensors files are links. */
static void copy_fixture(const char *name, int n_shards) {
    tempdir_fini(&dir);
    tempdir_init(&dir);
    char path[256], file[64];
    snprintf(path, sizeof path, "tests/fixtures/%s/config.json", name);
    char *text = read_text(path);
    tempdir_puts(&dir, "config.json", text);
    free(text);
    for (int i = 0; i <= n_shards; i++) {
        if (n_shards == 0)
            snprintf(file, sizeof file, "model.safetensors");
        else if (i == 0)
            continue;
        else
            snprintf(file, sizeof file, "model-%05d-of-%05d.safetensors", i, n_shards);
        snprintf(path, sizeof path, "tests/fixtures/%s/%s", name, file);
        char *target = realpath(path, NULL);
        assert_non_null(target);
        assert_int_equal(symlink(target, tempdir_file(&dir, file)), 0);
        free(target);
    }
    if (n_shards > 0) {
        snprintf(path, sizeof path, "tests/fixtures/%s/model.safetensors.index.json", name);
        text = read_text(path);
        tempdir_puts(&dir, "model.safetensors.index.json", text);
        free(text);
    }
}

static void edit(const char *file, const char *from, const char *to) {
    char *text = read_text(tempdir_file(&dir, file));
    replace_all(text, from, to);
    tempdir_puts(&dir, file, text);
    free(text);
}

/* ---- config.json against the tensors ---------------------------------------------------------------------------- */

static void test_shapes(void **state) {
    (void)state;
    copy_fixture("scout", 0);
    expect_opens();
    static const struct {
        const char *from, *to, *why;
    } cases[] = {
        {"\"vocab_size\": 160", "\"vocab_size\": 161",
         "tensor model.embed_tokens.weight: expected F32, F16 or BF16 [161, 48], found F32 [160, 48] in "
         "model.safetensors"},
        {"\"head_dim\": 16", "\"head_dim\": 18",
         "tensor model.layers.0.self_attn.q_proj.weight: expected F32, F16 or BF16 [72, 48], found F32 [64, 48]"},
        {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4",
         "tensor model.layers.0.self_attn.k_proj.weight: expected F32, F16 or BF16 [64, 48], found F32 [32, 48]"},
        {"\"num_local_experts\": 4", "\"num_local_experts\": 5",
         "tensor model.layers.0.feed_forward.router.weight: expected F32, F16 or BF16 [5, 48], found F32 [4, 48]"},
        {"\"intermediate_size\": 64", "\"intermediate_size\": 66",
         "shared_expert.gate_proj.weight: expected F32, F16 or BF16 [66, 48], found F32 [64, 48]"},
        {"\"num_hidden_layers\": 5", "\"num_hidden_layers\": 6", "no_rope_layers: expected an array of 6"},
        {"\"attention_bias\": false", "\"attention_bias\": true ",
         "tensor model.layers.0.self_attn.q_proj.bias: expected F32, F16 or BF16 [64], found nothing in "
         "model.safetensors"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        copy_fixture("scout", 0);
        edit("config.json", cases[i].from, cases[i].to);
        expect_refused(L4_E_FORMAT, cases[i].why);
    }
    copy_fixture("maverick", 7);
    edit("config.json", "\"moe_layers\": [\n    1,", "\"moe_layers\": [\n    0,");
    expect_refused(L4_E_FORMAT, "tensor model.layers.0.feed_forward.router.weight: expected F32, F16 or BF16 [8, 48], "
                                "found nothing in the index");
}

/* ---- the index -------------------------------------------------------------------------------------------------- */

static void test_index(void **state) {
    (void)state;
    static const char index[] = "model.safetensors.index.json", shard[] = "model-00003-of-00007.safetensors";
    copy_fixture("maverick", 7);
    expect_opens();
    edit(index, shard, "../el-00003-of-00007.safetensors");
    expect_refused(L4_E_FORMAT, "expected the name of a file in the same directory, found \"../el-00003");
    copy_fixture("maverick", 7);
    edit(index, shard, "/etc/passwd-of-00007.safetensors");
    expect_refused(L4_E_FORMAT, "expected the name of a file in the same directory, found \"/etc/passwd");
    copy_fixture("maverick", 7);
    edit(index, shard, "model-00003-of-00008.safetensors");
    expect_refused(L4_E_NOT_FOUND, "model-00003-of-00008.safetensors: No such file");
    copy_fixture("maverick", 7);
    assert_int_equal(unlink(tempdir_file(&dir, shard)), 0);
    expect_refused(L4_E_NOT_FOUND, "model-00003-of-00007.safetensors: No such file");
    copy_fixture("maverick", 7);
    edit(index, "model.norm.weight", "model.nork.weight");
    expect_refused(L4_E_FORMAT, "model.norm.weight: expected F32, F16 or BF16 [48], found nothing in the index");
    copy_fixture("maverick", 7);
    edit(index, shard, "model-00004-of-00007.safetensors"); /* all of it said to be in another shard */
    expect_refused(L4_E_FORMAT, "found nothing in model-00004-of-00007.safetensors");

    static const struct {
        const char *text, *why;
    } cases[] = {
        {"{}", "weight_map: expected an object, found nothing"},
        {"{\"weight_map\":[]}", "weight_map: expected an object, found an array of 0"},
        {"{\"weight_map\":{\"a\":1}}", "weight_map.a: expected the name of a file in the same directory, found 1"},
        {"{\"weight_map\":{\"a\":\"\"}}", "found \"\""},
        {"{\"weight_map\":{\"a\":\"..\"}}", "found \"..\""},
        {"{\"weight_map\":{\"a\":\"x\\n.safetensors\"}}", "found \"x?.safetensors\""},
        {"{\"weight_map\":{\"a\":\"x\",\"a\":\"y\"}}", "weight_map.a stands there twice"},
        {"{\"weight_map\":{}}", "model.embed_tokens.weight: expected F32, F16 or BF16 [160, 48], found nothing"},
        {"[", "not JSON"},
        {"7", "expected an object, found 7"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tempdir_puts(&dir, index, cases[i].text);
        expect_refused(L4_E_FORMAT, cases[i].why);
    }
    assert_int_equal(truncate(tempdir_file(&dir, index), 100 << 20), 0);
    expect_refused(L4_E_FORMAT, "at most 67108864 are accepted");
    unlink(tempdir_file(&dir, index));
    expect_refused(L4_E_NOT_FOUND, "holds neither model.safetensors nor model.safetensors.index.json");
}

/* Shards that hold nothing of the text model are not even looked for. */
static void test_vision_untouched(void **state) {
    (void)state;
    static const char index[] = "model.safetensors.index.json";
    copy_fixture("multimodal", 4);
    cJSON *root = NULL;
    char *text = read_text(tempdir_file(&dir, index));
    root = cJSON_Parse(text);
    free(text);
    cJSON *map = cJSON_GetObjectItemCaseSensitive(root, "weight_map"), *member;
    int n_other = 0;
    cJSON_ArrayForEach(member, map) {
        if (strncmp(member->string, "language_model.", 15) != 0) {
            assert_non_null(cJSON_SetValuestring(member, "gone.safetensors"));
            n_other++;
        }
    }
    assert_true(n_other > 10);
    text = cJSON_Print(root);
    tempdir_puts(&dir, index, text);
    cJSON_free(text);
    cJSON_Delete(root);
    expect_opens();
}

/* ---- types ------------------------------------------------------------------------------------------------------ */

struct builder {
    char header[8192];
    size_t len;
    unsigned long long data_bytes;
};

static void add(struct builder *b, const char *name, const char *dtype, int size, int d0, int d1) {
    unsigned long long n_bytes = (unsigned long long)size * (unsigned)d0 * (unsigned)(d1 > 0 ? d1 : 1);
    char shape[32];
    snprintf(shape, sizeof shape, d1 > 0 ? "[%d,%d]" : "[%d]", d0, d1);
    b->len += (size_t)snprintf(b->header + b->len, sizeof b->header - b->len,
                               "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%llu,%llu]}",
                               b->len == 0 ? "{" : ",", name, dtype, shape, b->data_bytes, b->data_bytes + n_bytes);
    b->data_bytes += n_bytes;
}

/* One dense layer: every tensor of whichever type it likes. */
static const struct {
    const char *name, *dtype;
    int size, d0, d1;
} tensors[] = {
    {"model.layers.0.self_attn.q_proj.weight", NULL, 0, 8, 4},
    {"model.layers.0.self_attn.k_proj.weight", "F16", 2, 4, 4},
    {"model.layers.0.self_attn.v_proj.weight", "BF16", 2, 4, 4},
    {"model.layers.0.self_attn.o_proj.weight", "BF16", 2, 4, 8},
    {"model.layers.0.input_layernorm.weight", "F32", 4, 4, 0},
    {"model.layers.0.post_attention_layernorm.weight", "F16", 2, 4, 0},
    {"model.layers.0.feed_forward.gate_proj.weight", "F16", 2, 6, 4},
    {"model.layers.0.feed_forward.up_proj.weight", "BF16", 2, 6, 4},
    {"model.layers.0.feed_forward.down_proj.weight", "F32", 4, 4, 6},
    {"model.embed_tokens.weight", "F16", 2, 100, 4},
    {"model.norm.weight", "BF16", 2, 4, 0},
};

static void build(const char *q_dtype, int q_size) {
    struct builder b = {0};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        bool is_q = tensors[i].dtype == NULL;
        add(&b, tensors[i].name, is_q ? q_dtype : tensors[i].dtype, is_q ? q_size : tensors[i].size, tensors[i].d0,
            tensors[i].d1);
    }
    while (b.len % 8 != 7)
        b.header[b.len++] = ' ';
    b.header[b.len] = '}';
    tempdir_safetensors(&dir, "model.safetensors", b.header, b.data_bytes);
    tempdir_puts(&dir, "config.json",
                 "{\"model_type\":\"llama4_text\",\"num_hidden_layers\":1,\"hidden_size\":4,\"num_attention_heads\":2,"
                 "\"num_key_value_heads\":1,\"head_dim\":4,\"vocab_size\":100,\"moe_layers\":[],"
                 "\"intermediate_size_mlp\":6,\"tie_word_embeddings\":true}");
}

static void test_types(void **state) {
    (void)state;
    tempdir_fini(&dir);
    tempdir_init(&dir);
    build("F32", 4);
    struct checkpoint *checkpoint;
    struct l4_err err;
    if (checkpoint_open(&checkpoint, dir.path, NULL, NULL, &err) != 0)
        fail_msg("%s", err.message);
    const struct layer_weights *layer = &checkpoint_weights(checkpoint)->layers[0];
    assert_int_equal(layer->q_proj.type, DT_F32);
    assert_int_equal(layer->k_proj.type, DT_F16);
    assert_int_equal(layer->v_proj.type, DT_BF16);
    assert_string_equal(checkpoint_quantization(checkpoint), "f16"); /* the embeddings weigh most */
    checkpoint_close(checkpoint);

    build("F64", 8);
    expect_refused(L4_E_FORMAT, "model.layers.0.self_attn.q_proj.weight: expected F32, F16 or BF16 [8, 4], found F64");
    build("F8_E4M3", 1);
    expect_refused(L4_E_FORMAT, "found F8_E4M3 [8, 4] in model.safetensors");
}

/* Whatever allocation fails, the answer is an error and nothing is left behind (the address sanitizer looks). */
static void test_failing_allocations(void **state) {
    (void)state;
    tempdir_fini(&dir);
    tempdir_init(&dir);
    build("F32", 4);
    assert_int_equal(rename(tempdir_file(&dir, "model.safetensors"), tempdir_file(&dir, "one.safetensors")), 0);
    char index[4096];
    size_t len = (size_t)snprintf(index, sizeof index, "{\"weight_map\":{\"other\":\"other.safetensors\"");
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        len += (size_t)snprintf(index + len, sizeof index - len, ",\"%s\":\"one.safetensors\"", tensors[i].name);
    snprintf(index + len, sizeof index - len, "}}");
    tempdir_puts(&dir, "model.safetensors.index.json", index);
    tempdir_puts(&dir, "generation_config.json", "{\"temperature\":0.5,\"eos_token_id\":[1,2]}");
    tempdir_puts(&dir, "tokenizer.json", "");
    size_t n_failed = 0;
    FAILMALLOC_EACH(n) {
        struct checkpoint *checkpoint = NULL;
        struct l4_err err = {0};
        int rc = checkpoint_open(&checkpoint, dir.path, NULL, NULL, &err);
        bool failed = failmalloc_disarm();
        n_failed += failed;
        assert_int_equal(rc != 0, failed);
        assert_true(rc == 0 || err.message[0] != '\0');
        checkpoint_close(checkpoint);
    }
    assert_true(n_failed > 20); /* without a sanitizer more than 300: those of cJSON come in */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_vision_untouched),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
