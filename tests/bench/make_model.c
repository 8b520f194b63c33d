/* Writes a GGUF checkpoint with the layer shapes of a Llama 4 model and random weights, about as fast as the disk takes
 * it: a few MiB of random blocks, repeated from changing places.
 *
 *   make_model OUT.gguf [--type q4_0|q8_0|q4_k|q6_k|bf16|f16|f32] [--shape scout|maverick|small] [--layers N] [--vocab
 * N]
 *
 * The tokenizer is the demo model's, filled up with unused tokens. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "core/format/tensor.h"
#include "llama4/buf.h"
#include "tests/lib/random_data.h"

enum { ALIGNMENT = 32, POOL_BYTES = 32 << 20, MAX_NAME = 64 };

static const struct shape {
    const char *name;
    int hidden, n_heads, n_kv_heads, head_dim, expert_ff, dense_ff, n_experts, moe_step, n_layers;
} SHAPES[] = {
    {"scout", 5120, 40, 8, 128, 8192, 16384, 16, 1, 2},
    {"maverick", 5120, 40, 8, 128, 8192, 16384, 128, 2, 2},
    {"small", 1024, 16, 4, 64, 1024, 2048, 16, 1, 8},
};
static const enum dtype TYPES[] = {DT_Q4_0, DT_Q8_0, DT_Q4_K, DT_Q6_K, DT_BF16, DT_F16, DT_F32};

struct weight {
    char name[MAX_NAME];
    int n_dims;
    int64_t dims[3]; /* innermost first, as GGUF has them */
    enum dtype type;
    double scale; /* standard deviation; 0: all ones */
};

struct writer {
    FILE *file;
    struct shape shape;
    enum dtype type;
    int vocab;
    struct l4_buf metadata, infos;
    uint32_t n_metadata;
    struct weight *weights;
    size_t n_weights, cap;
    uint64_t offset;
    struct rng rng;
};

static _Noreturn void die(const char *what, const char *why) {
    fprintf(stderr, "make_model: %s: %s\n", what, why);
    exit(1);
}

/* ---- metadata ------------------------------------------------------------------------------------------------------
 */

static void put(struct l4_buf *buf, const void *bytes, size_t n) {
    l4_buf_append(buf, bytes, n);
}
static void put_u32(struct l4_buf *buf, uint32_t value) {
    put(buf, &value, sizeof value);
}
static void put_u64(struct l4_buf *buf, uint64_t value) {
    put(buf, &value, sizeof value);
}
static void put_string(struct l4_buf *buf, const char *text) {
    put_u64(buf, strlen(text));
    put(buf, text, strlen(text));
}

enum { KIND_U32 = 4, KIND_I32 = 5, KIND_F32 = 6, KIND_STRING = 8, KIND_ARRAY = 9 };
static void put_key(struct writer *w, const char *key, uint32_t kind) {
    put_string(&w->metadata, key);
    put_u32(&w->metadata, kind);
    w->n_metadata++;
}
static void put_number(struct writer *w, const char *key, int value) {
    put_key(w, key, KIND_U32);
    put_u32(&w->metadata, (uint32_t)value);
}
static void put_float(struct writer *w, const char *key, float value) {
    put_key(w, key, KIND_F32);
    put(&w->metadata, &value, sizeof value);
}
static void put_text(struct writer *w, const char *key, const char *text) {
    put_key(w, key, KIND_STRING);
    put_string(&w->metadata, text);
}
static void put_array(struct writer *w, const char *key, uint32_t kind, size_t n) {
    put_key(w, key, KIND_ARRAY);
    put_u32(&w->metadata, kind);
    put_u64(&w->metadata, n);
}

static void put_config(struct writer *w) {
    const struct shape *s = &w->shape;
    char name[MAX_NAME];
    snprintf(name, sizeof name, "bench-%s-%s", s->name, dtype_name(w->type));
    put_text(w, "general.architecture", "llama4");
    put_text(w, "general.name", name);
    const struct {
        const char *key;
        int value;
    } numbers[] = {{"block_count", s->n_layers},
                   {"context_length", 131072},
                   {"embedding_length", s->hidden},
                   {"feed_forward_length", s->dense_ff},
                   {"expert_feed_forward_length", s->expert_ff},
                   {"attention.head_count", s->n_heads},
                   {"attention.head_count_kv", s->n_kv_heads},
                   {"attention.key_length", s->head_dim},
                   {"attention.value_length", s->head_dim},
                   {"rope.dimension_count", s->head_dim},
                   {"expert_count", s->n_experts},
                   {"expert_used_count", 1},
                   {"interleave_moe_layer_step", s->moe_step},
                   {"vocab_size", w->vocab}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        snprintf(name, sizeof name, "llama4.%s", numbers[i].key);
        put_number(w, name, numbers[i].value);
    }
    put_float(w, "llama4.attention.layer_norm_rms_epsilon", 1e-5f);
    put_float(w, "llama4.rope.freq_base", 500000);
}

static cJSON *read_json(const char *path) {
    FILE *f = fopen(path, "rb");
    long size;
    if (!f || fseek(f, 0, SEEK_END) || (size = ftell(f)) < 0 || fseek(f, 0, SEEK_SET))
        die(path, strerror(errno));
    char *text = malloc((size_t)size + 1);
    if (!text || fread(text, 1, (size_t)size, f) != (size_t)size)
        die(path, "cannot be read");
    fclose(f);
    cJSON *json = cJSON_ParseWithLength(text, (size_t)size);
    if (!json)
        die(path, "is no JSON");
    free(text);
    return json;
}

static void put_tokens(struct writer *w, const cJSON *vocab, const cJSON *added) {
    enum { NORMAL = 1, CONTROL = 3, UNUSED = 5 };
    const char **names = calloc((size_t)w->vocab, sizeof *names);
    int32_t *types = calloc((size_t)w->vocab, sizeof *types);
    const cJSON *item;
    if (!names || !types)
        die("tokenizer", "out of memory");
    cJSON_ArrayForEach(item, vocab) {
        if (item->valueint < 0 || item->valueint >= w->vocab)
            die("--vocab", "smaller than the tokenizer's");
        names[item->valueint] = item->string;
        types[item->valueint] = NORMAL;
    }
    cJSON_ArrayForEach(item, added) {
        const int id = cJSON_GetObjectItem(item, "id")->valueint;
        const char *name = cJSON_GetObjectItem(item, "content")->valuestring;
        const char *key = strcmp(name, "<|begin_of_text|>") == 0        ? "tokenizer.ggml.bos_token_id"
                          : strcmp(name, "<|eot|>") == 0                ? "tokenizer.ggml.eos_token_id"
                          : strcmp(name, "<|finetune_right_pad|>") == 0 ? "tokenizer.ggml.padding_token_id"
                                                                        : NULL;
        if (id < 0 || id >= w->vocab)
            die("--vocab", "smaller than the tokenizer's");
        names[id] = name;
        types[id] = CONTROL;
        if (key)
            put_number(w, key, id);
    }
    put_array(w, "tokenizer.ggml.tokens", KIND_STRING, (size_t)w->vocab);
    for (int i = 0; i < w->vocab; i++) {
        char unused[32];
        snprintf(unused, sizeof unused, "<|unused_%d|>", i);
        put_string(&w->metadata, names[i] ? names[i] : unused);
        types[i] = names[i] ? types[i] : UNUSED;
    }
    put_array(w, "tokenizer.ggml.token_type", KIND_I32, (size_t)w->vocab);
    put(&w->metadata, types, (size_t)w->vocab * sizeof *types);
    free(names);
    free(types);
}

static void put_tokenizer(struct writer *w, const char *path) {
    cJSON *json = read_json(path);
    const cJSON *model = cJSON_GetObjectItem(json, "model"), *merges = cJSON_GetObjectItem(model, "merges"), *item;
    put_text(w, "tokenizer.ggml.model", "gpt2");
    put_text(w, "tokenizer.ggml.pre", "llama4");
    put_tokens(w, cJSON_GetObjectItem(model, "vocab"), cJSON_GetObjectItem(json, "added_tokens"));
    put_array(w, "tokenizer.ggml.merges", KIND_STRING, (size_t)cJSON_GetArraySize(merges));
    cJSON_ArrayForEach(item, merges) {
        struct l4_buf pair = {0};
        if (cJSON_IsString(item))
            l4_buf_puts(&pair, item->valuestring);
        else
            l4_buf_printf(&pair, "%s %s", cJSON_GetArrayItem(item, 0)->valuestring,
                          cJSON_GetArrayItem(item, 1)->valuestring);
        put_u64(&w->metadata, pair.len);
        put(&w->metadata, pair.data, pair.len);
        l4_buf_free(&pair);
    }
    cJSON_Delete(json);
}

/* ---- tensors -------------------------------------------------------------------------------------------------------
 */

static uint32_t gguf_id(enum dtype type) {
    enum dtype found;
    for (uint32_t id = 0; id < 64; id++)
        if (dtype_from_gguf(id, &found) && found == type)
            return id;
    die(dtype_name(type), "is no type of GGUF");
}

static int64_t weight_elements(const struct weight *weight) {
    int64_t n = 1;
    for (int i = 0; i < weight->n_dims; i++)
        n *= weight->dims[i];
    return n;
}

/* A matrix of rows x k, or n_experts of them; without rows a vector of ones.  Random values of standard deviation
 * gain / sqrt(k) keep what goes through the layers at one size. */
static void add(struct writer *w, const char *name, int layer, enum dtype type, int64_t k, int64_t rows,
                int64_t experts, double gain) {
    if (w->n_weights == w->cap) {
        w->cap = w->cap ? 2 * w->cap : 64;
        w->weights = realloc(w->weights, w->cap * sizeof *w->weights);
        if (!w->weights)
            die(name, "out of memory");
    }
    struct weight *weight = &w->weights[w->n_weights++];
    *weight = (struct weight){.n_dims = rows == 0      ? 1
                                        : experts == 0 ? 2
                                                       : 3,
                              .dims = {k, rows, experts},
                              .type = type,
                              .scale = rows == 0 ? 0 : gain / sqrt((double)k)};
    if (layer < 0)
        snprintf(weight->name, sizeof weight->name, "%s.weight", name);
    else
        snprintf(weight->name, sizeof weight->name, "blk.%d.%s.weight", layer, name);
    put_string(&w->infos, weight->name);
    put_u32(&w->infos, (uint32_t)weight->n_dims);
    for (int i = 0; i < weight->n_dims; i++)
        put_u64(&w->infos, (uint64_t)weight->dims[i]);
    put_u32(&w->infos, gguf_id(type));
    put_u64(&w->infos, w->offset);
    w->offset += (dtype_bytes(type, weight_elements(weight)) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void add_weights(struct writer *w) {
    const struct shape *s = &w->shape;
    const int64_t h = s->hidden, q = (int64_t)s->n_heads * s->head_dim, kv = (int64_t)s->n_kv_heads * s->head_dim;
    add(w, "token_embd", -1, w->type, h, w->vocab, 0, sqrt((double)h));
    add(w, "output_norm", -1, DT_F32, h, 0, 0, 0);
    add(w, "output", -1, w->type, h, w->vocab, 0, 1);
    for (int i = 0; i < s->n_layers; i++) {
        const bool is_moe = (i + 1) % s->moe_step == 0;
        const int64_t ff = is_moe ? s->expert_ff : s->dense_ff;
        add(w, "attn_norm", i, DT_F32, h, 0, 0, 0);
        add(w, "attn_q", i, w->type, h, q, 0, 1);
        add(w, "attn_k", i, w->type, h, kv, 0, 1);
        add(w, "attn_v", i, w->type, h, kv, 0, 1);
        add(w, "attn_output", i, w->type, q, h, 0, 1);
        add(w, "ffn_norm", i, DT_F32, h, 0, 0, 0);
        add(w, is_moe ? "ffn_gate_shexp" : "ffn_gate", i, w->type, h, ff, 0, 1);
        add(w, is_moe ? "ffn_up_shexp" : "ffn_up", i, w->type, h, ff, 0, 1);
        add(w, is_moe ? "ffn_down_shexp" : "ffn_down", i, w->type, ff, h, 0, 1);
        if (!is_moe)
            continue;
        add(w, "ffn_gate_inp", i, DT_F32, h, s->n_experts, 0, 2);
        add(w, "ffn_gate_exps", i, w->type, h, ff, s->n_experts, 1);
        add(w, "ffn_up_exps", i, w->type, h, ff, s->n_experts, 1);
        add(w, "ffn_down_exps", i, w->type, ff, h, s->n_experts, 1);
    }
}

static void put_f16(unsigned char *at, double value) {
    const uint16_t bits = f32_to_f16((float)value);
    memcpy(at, &bits, sizeof bits);
}

/* The lowest code has no positive one beside it.  Without it the mean is 0; with it, what all weights have in common
 * would grow from layer to layer until every token went to the same expert. */
static void balance(enum dtype type, unsigned char *codes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (type == DT_Q8_0)
            codes[i] = codes[i] == 0x80 ? 0 : codes[i];
        else
            codes[i] = (unsigned char)(codes[i] | (codes[i] & 0x0f ? 0 : 0x08) | (codes[i] & 0xf0 ? 0 : 0x80));
    }
}

/* Random blocks: any bytes are values; the scales are set, so that the values have about the wanted deviation. */
static void fill(struct writer *w, enum dtype type, unsigned char *pool, size_t n_blocks, double scale) {
    const size_t size = dtype_block_bytes(type);
    if (type == DT_F32 || type == DT_F16 || type == DT_BF16) {
        void *values = rng_weights(&w->rng, type, n_blocks, 0.9f); /* uniform: deviation 0.9 / sqrt(3) */
        for (size_t i = 0; i < n_blocks; i++) {
            const float value = weight_at(type, values, i) * (float)(scale * sqrt(3) / 0.9);
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            if (type == DT_F32)
                memcpy(pool + i * size, &bits, sizeof bits);
            else if (type == DT_F16)
                put_f16(pool + i * size, value);
            else
                memcpy(pool + i * size, (unsigned char *)&bits + 2, 2);
        }
        free(values);
        return;
    }
    for (size_t i = 0; i + 8 <= n_blocks * size; i += 8) {
        const uint64_t random = rng_next(&w->rng);
        memcpy(pool + i, &random, sizeof random);
    }
    for (unsigned char *block = pool; block < pool + n_blocks * size; block += size) {
        if (type == DT_Q4_0 || type == DT_Q8_0) {
            put_f16(block, scale / (type == DT_Q4_0 ? 4.2 : 73.5));
            balance(type, block + 2, size - 2);
        }
        if (type == DT_Q4_K)
            put_f16(block, scale / 150), put_f16(block + 2, scale / 150 * 7.5);
        if (type == DT_Q6_K)
            put_f16(block + 208, scale / 18.5 / 74);
    }
}

static void emit(struct writer *w, const void *bytes, size_t n) {
    if (fwrite(bytes, 1, n, w->file) != n)
        die("writing", strerror(errno));
}

static void pad(struct writer *w, uint64_t n_bytes) {
    static const unsigned char zeros[ALIGNMENT];
    emit(w, zeros, (size_t)(ALIGNMENT - n_bytes % ALIGNMENT) % ALIGNMENT);
}

static void emit_weights(struct writer *w) {
    struct {
        double scale;
        enum dtype type;
        unsigned char *bytes;
        size_t n_blocks;
    } pools[8];
    size_t n_pools = 0;
    for (const struct weight *weight = w->weights; weight < w->weights + w->n_weights; weight++) {
        const size_t size = dtype_block_bytes(weight->type);
        size_t p = 0, left = dtype_bytes(weight->type, weight_elements(weight)) / size;
        const float one = 1;
        for (; weight->scale == 0 && left > 0; left--)
            emit(w, &one, sizeof one);
        while (p < n_pools && (pools[p].scale != weight->scale || pools[p].type != weight->type))
            p++;
        if (left > 0 && p == n_pools) {
            pools[p].scale = weight->scale, pools[p].type = weight->type;
            pools[p].n_blocks = POOL_BYTES / size / 8 * 8;
            pools[p].bytes = n_pools < sizeof pools / sizeof *pools ? malloc(pools[p].n_blocks * size) : NULL;
            if (!pools[p].bytes)
                die(weight->name, "out of memory");
            fill(w, weight->type, pools[p].bytes, pools[p].n_blocks, weight->scale);
            n_pools++;
        }
        for (size_t n; left > 0; left -= n) {
            const size_t begin = (size_t)rng_below(&w->rng, (int64_t)pools[p].n_blocks / 2);
            n = pools[p].n_blocks - begin < left ? pools[p].n_blocks - begin : left;
            emit(w, pools[p].bytes + begin * size, n * size);
        }
        pad(w, dtype_bytes(weight->type, weight_elements(weight)));
    }
    while (n_pools > 0)
        free(pools[--n_pools].bytes);
}

/* ---- the whole ------------------------------------------------------------------------------------------------------
 */

static void read_arguments(struct writer *w, int argc, char **argv) {
    static const char usage[] = "OUT.gguf [--type q4_0|q8_0|q4_k|q6_k|bf16|f16|f32] [--shape scout|maverick|small] "
                                "[--layers N] [--vocab N]";
    if (argc < 2 || argc % 2 != 0)
        die("usage: make_model", usage);
    for (int i = 2; i < argc; i += 2) {
        const char *flag = argv[i], *value = argv[i + 1];
        bool is_known = false;
        for (size_t k = 0; strcmp(flag, "--type") == 0 && k < sizeof TYPES / sizeof *TYPES; k++)
            if (strcasecmp(value, dtype_name(TYPES[k])) == 0)
                w->type = TYPES[k], is_known = true;
        for (size_t k = 0; strcmp(flag, "--shape") == 0 && k < sizeof SHAPES / sizeof *SHAPES; k++)
            if (strcmp(value, SHAPES[k].name) == 0) {
                const int layers = w->shape.n_layers;
                w->shape = SHAPES[k], is_known = true;
                w->shape.n_layers = layers > 0 ? layers : -SHAPES[k].n_layers; /* negative: not asked for */
            }
        if (strcmp(flag, "--layers") == 0)
            is_known = (w->shape.n_layers = atoi(value)) > 0;
        if (strcmp(flag, "--vocab") == 0)
            is_known = (w->vocab = atoi(value)) > 0;
        if (!is_known)
            die(flag, usage);
    }
    w->shape.n_layers = abs(w->shape.n_layers);
}

int main(int argc, char **argv) {
    struct writer w = {.shape = SHAPES[0], .type = DT_Q4_0, .vocab = 32768, .rng = {1}};
    w.shape.n_layers = -SHAPES[0].n_layers;
    read_arguments(&w, argc, argv);
    put_config(&w);
    put_tokenizer(&w, "tests/models/demo/tokenizer.json");
    add_weights(&w);
    struct l4_buf head = {0};
    l4_buf_puts(&head, "GGUF");
    put_u32(&head, 3);
    put_u64(&head, w.n_weights);
    put_u64(&head, w.n_metadata);
    put(&head, w.metadata.data, w.metadata.len);
    put(&head, w.infos.data, w.infos.len);
    if (head.failed || w.metadata.failed || w.infos.failed)
        die("metadata", "out of memory");
    w.file = fopen(argv[1], "wb");
    if (!w.file)
        die(argv[1], strerror(errno));
    emit(&w, head.data, head.len);
    pad(&w, head.len);
    emit_weights(&w);
    if (fclose(w.file) != 0)
        die(argv[1], strerror(errno));
    printf("%s: %.2f GB, %zu tensors\n", argv[1], (double)w.offset * 1e-9, w.n_weights);
    l4_buf_free(&head);
    l4_buf_free(&w.metadata);
    l4_buf_free(&w.infos);
    free(w.weights);
    return 0;
}
