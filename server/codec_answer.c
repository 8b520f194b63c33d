#include "server/codec_answer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void answer_head_init(struct answer_head *head, const char *id, const char *object, long long created_s,
                      const char *model, const char *fingerprint) {
    struct l4_buf *out = &head->text;
    *head = (struct answer_head){.created_s = created_s, .model = model};
    snprintf(head->id, sizeof head->id, "%s", id);
    l4_buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", id, object, created_s);
    codec_put_string(out, model, strlen(model));
    l4_buf_printf(out, ",\"system_fingerprint\":\"%s\",\"choices\":[", fingerprint);
}

void answer_head_free(struct answer_head *head) {
    l4_buf_free(&head->text);
}

void answer_put_usage(struct l4_buf *out, const struct answer_usage *usage) {
    l4_buf_printf(out,
                  "{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%lld}}",
                  (long long)usage->prompt_tokens, (long long)usage->completion_tokens,
                  (long long)(usage->prompt_tokens + usage->completion_tokens), (long long)usage->cached_tokens);
}

static void put_timing(struct l4_buf *out, const char *what, int64_t n, double seconds) {
    l4_buf_printf(out, "\"%s_n\":%lld,\"%s_ms\":%.3f,\"%s_per_second\":%.3f", what, (long long)n, what, seconds * 1e3,
                  what, seconds > 0 ? (double)n / seconds : 0.0);
}

void answer_put_usage_chunk(struct l4_buf *out, const struct answer_head *head, const struct answer_usage *usage) {
    l4_buf_append(out, head->text.data, head->text.len);
    l4_buf_puts(out, "],\"usage\":");
    answer_put_usage(out, usage);
    l4_buf_printf(out, ",\"timings\":{\"cache_n\":%lld,", (long long)usage->cached_tokens);
    put_timing(out, "prompt", usage->prompt_tokens - usage->cached_tokens, usage->prefill_s);
    l4_buf_puts(out, ",");
    put_timing(out, "predicted", usage->completion_tokens, usage->decode_s);
    l4_buf_puts(out, "}}");
}

/* ---- tool calls ---------------------------------------------------------------------------------------------------
 */

struct answer_call *answer_calls_add(struct answer_calls *calls, struct l4_text name) {
    uint64_t random[2];
    calls->failed |= getrandom(random, sizeof random, 0) != (ssize_t)sizeof random;
    if (!calls->failed && calls->n == calls->cap) {
        size_t cap = calls->cap ? 2 * calls->cap : 2;
        struct answer_call *list = realloc(calls->list, cap * sizeof *list);
        calls->failed |= !list;
        if (list) {
            calls->list = list;
            calls->cap = cap;
        }
    }
    if (calls->failed)
        return NULL;
    struct answer_call *call = &calls->list[calls->n++];
    *call = (struct answer_call){0};
    snprintf(call->id, sizeof call->id, ANSWER_CALL_PREFIX "%016llx%08llx", (unsigned long long)random[0],
             (unsigned long long)(random[1] >> 32));
    l4_buf_append(&call->name, name.data, name.len_bytes);
    return call;
}

void answer_calls_drop_last(struct answer_calls *calls) {
    if (calls->n == 0)
        return;
    struct answer_call *call = &calls->list[--calls->n];
    l4_buf_free(&call->name);
    l4_buf_free(&call->arguments);
}

void answer_calls_free(struct answer_calls *calls) {
    while (calls->n > 0)
        answer_calls_drop_last(calls);
    free(calls->list);
    *calls = (struct answer_calls){0};
}

bool answer_calls_failed(const struct answer_calls *calls) {
    bool failed = calls->failed;
    for (size_t i = 0; i < calls->n; i++)
        failed |= calls->list[i].name.failed || calls->list[i].arguments.failed;
    return failed;
}

/* ---- log-probabilities --------------------------------------------------------------------------------------------
 */

/* A token that is not whole UTF-8 is written as bytes:\xe2\x80, which no two tokens share. */
static void put_token(struct l4_buf *out, const struct l4_tokenizer *tokenizer, int32_t id) {
    size_t len = 0;
    const char *bytes = l4_tokenizer_bytes(tokenizer, id, &len);
    if (!bytes || codec_utf8_is_valid(bytes, len)) {
        codec_put_string(out, bytes ? bytes : "", bytes ? len : 0);
        return;
    }
    l4_buf_puts(out, "\"bytes:");
    for (size_t i = 0; i < len; i++)
        l4_buf_printf(out, "\\\\x%02x", (unsigned char)bytes[i]);
    l4_buf_puts(out, "\"");
}

static void put_chat_token(struct l4_buf *out, const struct l4_tokenizer *tokenizer, const struct l4_logprob *token) {
    size_t len = 0;
    const char *bytes = l4_tokenizer_bytes(tokenizer, token->id, &len);
    l4_buf_puts(out, "{\"token\":");
    put_token(out, tokenizer, token->id);
    l4_buf_puts(out, ",\"logprob\":");
    codec_put_float(out, token->logprob);
    l4_buf_puts(out, ",\"bytes\":[");
    for (size_t i = 0; bytes && i < len; i++) {
        if (i)
            l4_buf_puts(out, ",");
        codec_put_int(out, (unsigned char)bytes[i]);
    }
    l4_buf_puts(out, "]");
}

static void add_chat(struct l4_buf *out, const struct l4_tokenizer *tokenizer, const struct logprob_entry *entry) {
    if (out->len)
        l4_buf_puts(out, ",");
    put_chat_token(out, tokenizer, &entry->token);
    l4_buf_puts(out, ",\"top_logprobs\":[");
    for (int i = 0; i < entry->n_top; i++) {
        if (i)
            l4_buf_puts(out, ",");
        put_chat_token(out, tokenizer, &entry->top[i]);
        l4_buf_puts(out, "}");
    }
    l4_buf_puts(out, "]}");
}

static void put_top_map(struct l4_buf *out, const struct l4_tokenizer *tokenizer, const struct logprob_entry *entry) {
    bool has_token = false;
    l4_buf_puts(out, "{");
    for (int i = 0; i <= entry->n_top; i++) {
        const struct l4_logprob *at = i < entry->n_top ? &entry->top[i] : &entry->token;
        if (i == entry->n_top && has_token)
            break; /* the chosen token is always in the map, once */
        has_token |= at->id == entry->token.id;
        if (i)
            l4_buf_puts(out, ",");
        put_token(out, tokenizer, at->id);
        l4_buf_puts(out, ":");
        codec_put_float(out, at->logprob);
    }
    l4_buf_puts(out, "}");
}

static void add_legacy(struct l4_buf parts[4], const struct l4_tokenizer *tokenizer,
                       const struct logprob_entry *entry) {
    if (parts[0].len)
        for (int i = 0; i < 4; i++)
            l4_buf_puts(&parts[i], ",");
    put_token(&parts[0], tokenizer, entry->token.id);
    codec_put_float(&parts[1], entry->token.logprob);
    if (isnan(entry->token.logprob))
        l4_buf_puts(&parts[2], "null");
    else
        put_top_map(&parts[2], tokenizer, entry);
    codec_put_int(&parts[3], entry->text_offset);
}

void logprob_list_add(struct logprob_list *list, enum logprobs_shape shape, const struct l4_tokenizer *tokenizer,
                      const struct logprob_entry *entry) {
    if (shape == LOGPROBS_CHAT)
        add_chat(&list->parts[0], tokenizer, entry);
    else
        add_legacy(list->parts, tokenizer, entry);
}

void logprob_list_put(struct l4_buf *out, enum logprobs_shape shape, const struct logprob_list *list) {
    static const char *const chat[] = {"{\"content\":[", NULL};
    static const char *const legacy[] = {"{\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[",
                                         "],\"text_offset\":[", NULL};
    const char *const *names = shape == LOGPROBS_CHAT ? chat : legacy;
    for (int i = 0; i < 4 && names[i]; i++) {
        l4_buf_puts(out, names[i]);
        l4_buf_append(out, list->parts[i].data, list->parts[i].len);
    }
    l4_buf_puts(out, shape == LOGPROBS_CHAT ? "],\"refusal\":null}" : "]}");
}

bool logprob_list_is_empty(const struct logprob_list *list) {
    return list->parts[0].len == 0;
}

bool logprob_list_failed(const struct logprob_list *list) {
    return list->parts[0].failed || list->parts[1].failed || list->parts[2].failed || list->parts[3].failed;
}

void logprob_list_clear(struct logprob_list *list) {
    for (int i = 0; i < 4; i++)
        l4_buf_clear(&list->parts[i]);
}

void logprob_list_free(struct logprob_list *list) {
    for (int i = 0; i < 4; i++)
        l4_buf_free(&list->parts[i]);
}
