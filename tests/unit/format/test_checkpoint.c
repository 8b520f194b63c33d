/* Every shipped checkpoint opens with the values its config.json says, and every tensor in place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/format/checkpoint.h"
#include "llama4/buf.h"
#include "tests/lib/tempdir.h"

static struct checkpoint *open_or_fail(const char *path) {
    struct checkpoint *checkpoint = NULL;
    struct l4_err err;
    if (checkpoint_open(&checkpoint, path, NULL, NULL, &err) != 0)
        fail_msg("%s", err.message);
    return checkpoint;
}

static void assert_layers(const struct model_config *config, const char *moe, const char *rope, const char *chunked) {
    assert_int_equal(strlen(moe), config->n_layers);
    for (int i = 0; i < config->n_layers; i++) {
        assert_int_equal(config->layers[i].is_moe, moe[i] == '1');
        assert_int_equal(config->layers[i].use_rope, rope[i] == '1');
        assert_int_equal(config->layers[i].is_chunked, chunked[i] == '1');
    }
}

static void assert_shape(const struct tensor *tensor, int n_dims, int64_t d0, int64_t d1, int64_t d2) {
    const int64_t dims[] = {d0, d1, d2};
    assert_non_null(tensor->data);
    assert_int_equal(tensor->n_dims, n_dims);
    for (int i = 0; i < n_dims; i++)
        assert_int_equal(tensor->shape[i], dims[i]);
}

static void test_scout(void **state) {
    (void)state;
    struct checkpoint *checkpoint = open_or_fail("tests/fixtures/scout");
    const struct model_config *config = checkpoint_config(checkpoint);
    assert_int_equal(config->vocab_size, 160);
    assert_int_equal(config->hidden_size, 48);
    assert_int_equal(config->n_layers, 5);
    assert_int_equal(config->n_heads, 4);
    assert_int_equal(config->n_kv_heads, 2);
    assert_int_equal(config->head_dim, 16);
    assert_int_equal(config->intermediate_size, 64);
    assert_int_equal(config->intermediate_size_mlp, 96);
    assert_int_equal(config->n_experts, 4);
    assert_int_equal(config->n_experts_per_tok, 1);
    assert_int_equal(config->max_position_embeddings, 512);
    assert_int_equal(config->attention_chunk_size, 16);
    assert_true(config->rms_norm_eps == 1e-5F);
    assert_true(config->use_qk_norm);
    assert_false(config->attention_bias);
    assert_false(config->tie_word_embeddings);
    assert_true(config->attn_temperature_tuning);
    assert_true(config->floor_scale == 8 && config->attn_scale == 0.1F);
    assert_true(config->rope_theta == 500000);
    assert_true(config->rope_llama3);
    assert_true(config->rope_factor == 16 && config->rope_low_freq_factor == 1 && config->rope_high_freq_factor == 1);
    assert_int_equal(config->rope_original_context, 32);
    assert_layers(config, "11111", "11101", "11101");
    assert_int_equal(config->bos_id, 1);
    assert_int_equal(config->n_eos_ids, 2);
    assert_int_equal(config->eos_ids[0], 2);
    assert_int_equal(config->eos_ids[1], 3);
    assert_false(config->is_multimodal);

    const struct generation_config *generation = checkpoint_generation_config(checkpoint);
    assert_false(generation->has_temperature || generation->has_top_p || generation->has_top_k ||
                 generation->has_repetition_penalty);
    assert_int_equal(generation->n_eos_ids, 2);

    const struct checkpoint_weights *weights = checkpoint_weights(checkpoint);
    assert_shape(&weights->embed_tokens, 2, 160, 48, 0);
    assert_shape(&weights->lm_head, 2, 160, 48, 0);
    assert_ptr_not_equal(weights->lm_head.data, weights->embed_tokens.data);
    assert_shape(&weights->norm, 1, 48, 0, 0);
    const struct layer_weights *layer = &weights->layers[4];
    assert_shape(&layer->input_layernorm, 1, 48, 0, 0);
    assert_shape(&layer->post_attention_layernorm, 1, 48, 0, 0);
    assert_shape(&layer->q_proj, 2, 64, 48, 0);
    assert_shape(&layer->k_proj, 2, 32, 48, 0);
    assert_shape(&layer->v_proj, 2, 32, 48, 0);
    assert_shape(&layer->o_proj, 2, 48, 64, 0);
    assert_null(layer->q_bias.data);
    assert_shape(&layer->router, 2, 4, 48, 0);
    assert_shape(&layer->gate_up_proj, 3, 4, 48, 128);
    assert_shape(&layer->experts_down, 3, 4, 64, 48);
    assert_shape(&layer->gate_proj, 2, 64, 48, 0);
    assert_shape(&layer->down_proj, 2, 48, 64, 0);
    assert_null(checkpoint_tokenizer_path(checkpoint));
    assert_string_equal(checkpoint_quantization(checkpoint), "f32");
    checkpoint_close(checkpoint);
}

static void test_maverick(void **state) {
    (void)state;
    struct checkpoint *checkpoint = open_or_fail("tests/fixtures/maverick");
    const struct model_config *config = checkpoint_config(checkpoint);
    assert_layers(config, "010101", "111011", "111011");
    assert_false(config->use_qk_norm);
    assert_false(config->rope_llama3);
    assert_true(config->rope_theta == 10000);
    assert_int_equal(config->attention_chunk_size, 32);
    assert_int_equal(config->n_experts, 8);
    const struct checkpoint_weights *weights = checkpoint_weights(checkpoint);
    assert_shape(&weights->layers[0].gate_proj, 2, 96, 48, 0);
    assert_shape(&weights->layers[0].down_proj, 2, 48, 96, 0);
    assert_null(weights->layers[0].router.data);
    assert_null(weights->layers[0].gate_up_proj.data);
    assert_shape(&weights->layers[5].gate_up_proj, 3, 8, 48, 128);
    assert_int_equal(weights->layers[5].gate_up_proj.type, DT_BF16);
    assert_string_equal(checkpoint_quantization(checkpoint), "bf16");
    checkpoint_close(checkpoint);
}

/* The published checkpoints' spelling: rope_theta and rope_scaling, empty no_rope_layers, no moe_layers. */
static void test_interp(void **state) {
    (void)state;
    struct checkpoint *checkpoint = open_or_fail("tests/fixtures/interp");
    const struct model_config *config = checkpoint_config(checkpoint);
    assert_layers(config, "0101", "1110", "1110");
    assert_true(config->attn_temperature_tuning);
    assert_true(config->rope_theta == 500);
    assert_true(config->rope_llama3);
    assert_true(config->rope_factor == 8 && config->rope_low_freq_factor == 1 && config->rope_high_freq_factor == 4);
    assert_int_equal(config->rope_original_context, 64);
    assert_int_equal(config->n_eos_ids, 1);
    assert_int_equal(config->eos_ids[0], 2);
    assert_int_equal(config->n_kv_heads, 1);
    checkpoint_close(checkpoint);
}

static void test_top2(void **state) {
    (void)state;
    struct checkpoint *checkpoint = open_or_fail("tests/fixtures/top2");
    const struct model_config *config = checkpoint_config(checkpoint);
    assert_int_equal(config->n_experts_per_tok, 2);
    assert_true(config->attention_bias);
    assert_true(config->tie_word_embeddings);
    assert_false(config->attn_temperature_tuning);
    const struct checkpoint_weights *weights = checkpoint_weights(checkpoint);
    assert_ptr_equal(weights->lm_head.data, weights->embed_tokens.data);
    assert_shape(&weights->layers[0].q_bias, 1, 48, 0, 0);
    assert_shape(&weights->layers[0].k_bias, 1, 24, 0, 0);
    assert_shape(&weights->layers[0].v_bias, 1, 24, 0, 0);
    assert_shape(&weights->layers[3].o_bias, 1, 48, 0, 0);
    /* embeddings and norm; a layer: norms, attention with biases, router, shared expert, six experts of which two act
     */
    const int64_t outside = 160 * 48 + 48, expert = 3 * 48 * 64;
    const int64_t layer = 2 * 48 + 2 * 48 * 48 + 2 * 24 * 48 + 48 + 24 + 24 + 48 + 6 * 48 + expert;
    assert_int_equal(checkpoint_parameters(checkpoint), outside + 4 * (layer + 6 * expert));
    assert_int_equal(checkpoint_active_parameters(checkpoint), outside + 4 * (layer + 2 * expert));
    checkpoint_close(checkpoint);
}

static void test_multimodal(void **state) {
    (void)state;
    struct checkpoint *checkpoint = open_or_fail("tests/fixtures/multimodal");
    const struct model_config *config = checkpoint_config(checkpoint);
    assert_true(config->is_multimodal);
    assert_int_equal(config->vocab_size, 170);
    assert_layers(config, "11", "11", "11");
    assert_int_equal(config->attention_chunk_size, 64);
    checkpoint_close(checkpoint);
}

static void count_progress(void *user, double fraction) {
    double *last = user;
    assert_true(fraction > *last && fraction <= 1);
    *last = fraction;
}

static void test_demo(void **state) {
    (void)state;
    struct checkpoint *checkpoint = NULL;
    struct l4_err err;
    double fraction = 0;
    assert_int_equal(checkpoint_open(&checkpoint, "tests/models/demo", count_progress, &fraction, &err), 0);
    assert_true(fraction == 1);
    const struct model_config *config = checkpoint_config(checkpoint);
    assert_int_equal(config->vocab_size, 2048);
    assert_int_equal(config->bos_id, 2029);
    assert_int_equal(config->n_eos_ids, 3);
    assert_layers(config, "01010101", "11101110", "11101110");
    const struct generation_config *generation = checkpoint_generation_config(checkpoint);
    assert_true(generation->has_temperature && generation->temperature == 0.6F);
    assert_true(generation->has_top_p && generation->top_p == 0.9F);
    assert_false(generation->has_top_k || generation->has_repetition_penalty);
    assert_int_equal(generation->n_eos_ids, 3);
    assert_int_equal(generation->eos_ids[2], 2037);
    assert_int_equal(checkpoint_parameters(checkpoint), 11022592); /* as its index says */
    assert_string_equal(checkpoint_quantization(checkpoint), "bf16");
    assert_string_equal(checkpoint_tokenizer_path(checkpoint), "tests/models/demo/tokenizer.json");
    checkpoint_close(checkpoint);
}

/* ---- a checkpoint of Scout's sizes: sparse files, so that only what is read takes room ------------------------- */

struct shard_writer {
    const struct tempdir *dir;
    struct l4_buf header, index;
    unsigned long long data_bytes;
    int n_shards;
};

static void put_tensor(struct shard_writer *writer, const char *name, const char *shape, unsigned long long elements) {
    unsigned long long begin = writer->data_bytes;
    writer->data_bytes += 2 * elements;
    l4_buf_printf(&writer->header,
                  "%s\"language_model.%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
                  writer->header.len > 1 ? "," : "", name, shape, begin, writer->data_bytes);
    l4_buf_printf(&writer->index, ",\"language_model.%s\":\"%d.safetensors\"", name, writer->n_shards);
}

static void end_shard(struct shard_writer *writer) {
    char name[32];
    snprintf(name, sizeof name, "%d.safetensors", writer->n_shards++);
    l4_buf_puts(&writer->header, writer->header.len % 2 ? "}" : " }"); /* the data begins on an even byte */
    tempdir_safetensors(writer->dir, name, writer->header.data, writer->data_bytes);
    l4_buf_clear(&writer->header);
    l4_buf_puts(&writer->header, "{");
    writer->data_bytes = 0;
}

static void put_layer(struct shard_writer *writer, int layer) {
    static const struct {
        const char *name, *shape;
        unsigned long long elements;
    } tensors[] = {
        {"input_layernorm.weight", "5120", 5120},
        {"self_attn.q_proj.weight", "5120,5120", 5120ULL * 5120},
        {"self_attn.k_proj.weight", "1024,5120", 1024ULL * 5120},
        {"self_attn.v_proj.weight", "1024,5120", 1024ULL * 5120},
        {"self_attn.o_proj.weight", "5120,5120", 5120ULL * 5120},
        {"post_attention_layernorm.weight", "5120", 5120},
        {"feed_forward.router.weight", "16,5120", 16ULL * 5120},
        {"feed_forward.shared_expert.gate_proj.weight", "8192,5120", 8192ULL * 5120},
        {"feed_forward.shared_expert.up_proj.weight", "8192,5120", 8192ULL * 5120},
        {"feed_forward.shared_expert.down_proj.weight", "5120,8192", 5120ULL * 8192},
        {"feed_forward.experts.gate_up_proj", "16,5120,16384", 16ULL * 5120 * 16384},
        {"feed_forward.experts.down_proj", "16,8192,5120", 16ULL * 8192 * 5120},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%d.%s", layer, tensors[i].name);
        put_tensor(writer, name, tensors[i].shape, tensors[i].elements);
    }
    end_shard(writer);
}

/* 216 GB in 51 files, the default configuration; the file with the vision tensors is not even there. */
static void test_two_hundred_gigabytes(void **state) {
    (void)state;
    struct tempdir dir;
    tempdir_init(&dir);
    struct shard_writer writer = {.dir = &dir};
    l4_buf_puts(&writer.header, "{");
    l4_buf_puts(&writer.index, "{\"weight_map\":{\"vision_model.class_embedding\":\"vision.safetensors\"");
    put_tensor(&writer, "model.embed_tokens.weight", "202048,5120", 202048ULL * 5120);
    end_shard(&writer);
    for (int i = 0; i < 48; i++)
        put_layer(&writer, i);
    put_tensor(&writer, "model.norm.weight", "5120", 5120);
    end_shard(&writer);
    put_tensor(&writer, "lm_head.weight", "202048,5120", 202048ULL * 5120);
    end_shard(&writer);
    l4_buf_puts(&writer.index, "}}");
    tempdir_puts(&dir, "model.safetensors.index.json", writer.index.data);
    tempdir_puts(&dir, "config.json", "{\"model_type\":\"llama4\"}");

    struct checkpoint *checkpoint = open_or_fail(dir.path);
    const struct checkpoint_weights *weights = checkpoint_weights(checkpoint);
    assert_true(checkpoint_parameters(checkpoint) == 107769861120);
    assert_true(checkpoint_active_parameters(checkpoint) == 17172894720);
    for (int i = 0; i < 48; i++) { /* the very last byte is there to be read */
        const struct tensor *down = &weights->layers[i].experts_down;
        assert_shape(down, 3, 16, 8192, 5120);
        assert_int_equal(((const char *)down->data)[down->size_bytes - 1], 0);
    }
    checkpoint_close(checkpoint);
    l4_buf_free(&writer.header);
    l4_buf_free(&writer.index);
    tempdir_fini(&dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scout),
        cmocka_unit_test(test_maverick),
        cmocka_unit_test(test_interp),
        cmocka_unit_test(test_top2),
        cmocka_unit_test(test_multimodal),
        cmocka_unit_test(test_demo),
        cmocka_unit_test(test_two_hundred_gigabytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
