/* Writes a tokenizer as GGUF metadata: what tokenizer_gguf.c reads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/checked.h"
#include "core/format/config.h"
#include "core/format/file.h"
#include "core/format/gguf_write.h"
#include "core/format/json.h"
#include "core/text/byte_level.h"
#include "core/text/tokenizer.h"
#include "llama4/buf.h"

enum { MAX_SETTINGS_BYTES = 16 << 20, MAX_TEMPLATE_BYTES = 1 << 20 };

/* ---- vocabulary and merges --------------------------------------------------------------------------------------- */

static const int TYPE_OF_KIND[] = {
    [TOKEN_GAP] = TOKENIZER_GGUF_UNUSED,      [TOKEN_PIECE] = TOKENIZER_GGUF_NORMAL,
    [TOKEN_OPAQUE] = TOKENIZER_GGUF_NORMAL,   [TOKEN_ADDED] = TOKENIZER_GGUF_USER_DEFINED,
    [TOKEN_SPECIAL] = TOKENIZER_GGUF_CONTROL,
};

/* A piece is spelled in the byte-level alphabet, anything else stands as it is. */
static void spell(const struct vocab *vocab, int32_t id, struct l4_buf *out) {
    size_t n_bytes;
    const char *bytes = vocab_bytes(vocab, id, &n_bytes);
    char *spelled = vocab_kind(vocab, id) == TOKEN_PIECE ? checked_array(n_bytes, 2) : NULL;
    if (vocab_kind(vocab, id) != TOKEN_PIECE)
        l4_buf_append(out, bytes, n_bytes);
    else if (spelled == NULL)
        out->failed = true;
    else
        l4_buf_append(out, spelled, byte_level_encode(bytes, n_bytes, spelled));
    free(spelled);
}

static int out_of_memory(struct l4_err *err) {
    return l4_err_set(err, L4_E_NOMEM, "out of memory for the tokenizer's metadata");
}

static int write_tokens(const struct l4_tokenizer *tokenizer, int32_t n_ids, struct gguf_writer *writer,
                        struct l4_err *err) {
    const struct vocab *vocab = &tokenizer->vocab;
    struct l4_buf text = {0};
    gguf_write_array(writer, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)n_ids);
    for (int32_t id = 0; id < n_ids && !text.failed; id++) {
        l4_buf_clear(&text);
        if (vocab_kind(vocab, id) == TOKEN_GAP)
            l4_buf_printf(&text, "[PAD%d]", id);
        else
            spell(vocab, id, &text);
        gguf_write_element_string(writer, text.data, text.len);
    }
    const bool failed = text.failed;
    l4_buf_free(&text);
    gguf_write_array(writer, "tokenizer.ggml.token_type", GGUF_INT32, (uint64_t)n_ids);
    for (int32_t id = 0; id < n_ids; id++)
        gguf_write_element_i32(writer, TYPE_OF_KIND[vocab_kind(vocab, id)]);
    return failed ? out_of_memory(err) : 0;
}

static int compare_ranks(const void *a, const void *b) {
    const struct vocab_merge *x = *(const struct vocab_merge *const *)a, *y = *(const struct vocab_merge *const *)b;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

static int write_merges(const struct vocab *vocab, struct gguf_writer *writer, struct l4_err *err) {
    const struct vocab_merge **merges = checked_array(vocab->n_merges, sizeof(struct vocab_merge *));
    struct l4_buf text = {0};
    size_t n = 0;
    if (merges == NULL)
        return out_of_memory(err);
    for (size_t i = 0; i < vocab->n_merge_slots; i++)
        if (vocab->merges[i].merged >= 0)
            merges[n++] = &vocab->merges[i];
    if (n > 0)
        qsort(merges, n, sizeof *merges, compare_ranks);
    gguf_write_array(writer, "tokenizer.ggml.merges", GGUF_STRING, n);
    for (size_t i = 0; i < n && !text.failed; i++) {
        l4_buf_clear(&text);
        spell(vocab, merges[i]->left, &text);
        l4_buf_puts(&text, " ");
        spell(vocab, merges[i]->right, &text);
        gguf_write_element_string(writer, text.data, text.len);
    }
    const bool failed = text.failed;
    l4_buf_free(&text);
    free(merges);
    return failed ? out_of_memory(err) : 0;
}

/* ---- special ids ------------------------------------------------------------------------------------------------- */

static bool write_id(struct gguf_writer *writer, const char *key, int32_t id) {
    if (id >= 0)
        gguf_write_u32(writer, key, (uint32_t)id);
    return id >= 0;
}

/* tokenizer_config.json names a token by its text, or by an object with the text as "content"; -1 where it does not. */
static int32_t named_token(const struct l4_tokenizer *tokenizer, const cJSON *settings, const char *key) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(settings, key);
    if (cJSON_IsObject(value))
        value = cJSON_GetObjectItemCaseSensitive(value, "content");
    return cJSON_IsString(value) ? l4_tokenizer_find(tokenizer, value->valuestring) : -1;
}

static void write_special_ids(const struct l4_tokenizer *tokenizer, const struct model_config *config,
                              const cJSON *settings, struct gguf_writer *writer) {
    const int32_t eot = l4_tokenizer_find(tokenizer, "<|eot|>");
    int32_t bos = tokenizer->bos, eos = named_token(tokenizer, settings, "eos_token");
    int32_t pad = named_token(tokenizer, settings, "pad_token");
    if (bos < 0)
        bos = l4_tokenizer_find(tokenizer, "<|begin_of_text|>");
    if (eos < 0)
        eos = eot >= 0 || config->n_eos_ids == 0 ? eot : config->eos_ids[0];
    if (pad < 0)
        pad = l4_tokenizer_find(tokenizer, "<|finetune_right_pad|>");
    (void)write_id(writer, "tokenizer.ggml.bos_token_id", bos);
    (void)write_id(writer, "tokenizer.ggml.eos_token_id", eos);
    (void)write_id(writer, "tokenizer.ggml.eot_token_id", eot);
    (void)write_id(writer, "tokenizer.ggml.eom_token_id", l4_tokenizer_find(tokenizer, "<|eom|>"));
    (void)write_id(writer, "tokenizer.ggml.padding_token_id", pad);
    if (tokenizer->bos < 0) /* readers put one in front unless told not to */
        gguf_write_bool(writer, "tokenizer.ggml.add_bos_token", false);
}

/* ---- files of the directory that need not be there --------------------------------------------------------------- */

static int read_settings(cJSON **settings, const char *dir, struct l4_err *err) {
    char *path;
    if (asprintf(&path, "%s/tokenizer_config.json", dir) < 0)
        return out_of_memory(err);
    int rc = access(path, F_OK) == 0 ? json_read_file(settings, path, MAX_SETTINGS_BYTES, err) : 0;
    free(path);
    return rc;
}

static int write_template_file(const char *path, struct gguf_writer *writer, struct l4_err *err) {
    char *text = NULL;
    size_t len_bytes;
    int rc = file_read_whole(path, MAX_TEMPLATE_BYTES, &text, &len_bytes, err);
    if (rc == 0)
        gguf_write_string(writer, "tokenizer.chat_template", text, len_bytes);
    free(text);
    return rc;
}

/* Copied for other engines; never run here. */
static int write_template(const char *dir, const cJSON *settings, struct gguf_writer *writer, struct l4_err *err) {
    const cJSON *in_settings = cJSON_GetObjectItemCaseSensitive(settings, "chat_template");
    char *path;
    int rc = 0;
    if (asprintf(&path, "%s/chat_template.jinja", dir) < 0)
        return out_of_memory(err);
    if (access(path, F_OK) == 0)
        rc = write_template_file(path, writer, err);
    else if (cJSON_IsString(in_settings))
        gguf_write_string(writer, "tokenizer.chat_template", in_settings->valuestring,
                          strlen(in_settings->valuestring));
    free(path);
    return rc;
}

/* ------------------------------------------------------------------------------------------------------------------ */

static int check_can_say(const struct l4_tokenizer *tokenizer, const struct model_config *config, const char *dir,
                         struct l4_err *err) {
    const struct vocab *vocab = &tokenizer->vocab;
    if (!tokenizer->is_llama4)
        return l4_err_set(err, L4_E_UNSUPPORTED,
                          "%s/tokenizer.json: pre_tokenizer: a GGUF file can only say Llama 4's regular expression",
                          dir);
    if (!tokenizer->ignore_merges)
        return l4_err_set(err, L4_E_UNSUPPORTED,
                          "%s/tokenizer.json: model.ignore_merges is false: a GGUF file always stands for true", dir);
    if (vocab->n_ids > (size_t)config->vocab_size)
        return l4_err_set(err, L4_E_INVALID, "%s/tokenizer.json: %zu ids, but the model has only %d", dir, vocab->n_ids,
                          config->vocab_size);
    for (int32_t id = 0; id < (int32_t)vocab->n_ids; id++) {
        size_t n_bytes;
        const enum token_kind kind = vocab_kind(vocab, id);
        const char *bytes = kind != TOKEN_GAP ? vocab_bytes(vocab, id, &n_bytes) : NULL;
        if ((kind == TOKEN_ADDED || kind == TOKEN_SPECIAL) && added_find(&tokenizer->added, bytes, n_bytes) != id)
            return l4_err_set(err, L4_E_UNSUPPORTED,
                              "%s/tokenizer.json: added token %d: a GGUF file can hold it as a piece or as an added "
                              "token, not as both",
                              dir, id);
    }
    return 0;
}

int tokenizer_write_gguf(const struct l4_tokenizer *tokenizer, const struct model_config *config, const char *dir,
                         struct gguf_writer *writer, struct l4_err *err) {
    cJSON *settings = NULL;
    int rc = check_can_say(tokenizer, config, dir, err);
    if (rc == 0)
        rc = read_settings(&settings, dir, err);
    if (rc == 0) {
        gguf_write_string(writer, "tokenizer.ggml.model", "gpt2", 4);
        gguf_write_string(writer, "tokenizer.ggml.pre", "llama4", 6);
        rc = write_tokens(tokenizer, config->vocab_size, writer, err);
    }
    if (rc == 0)
        rc = write_merges(&tokenizer->vocab, writer, err);
    if (rc == 0) {
        write_special_ids(tokenizer, config, settings, writer);
        rc = write_template(dir, settings, writer, err);
    }
    cJSON_Delete(settings);
    return rc;
}
