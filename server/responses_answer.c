#include "server/responses_answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/sse.h"

enum status { IN_PROGRESS, COMPLETED, INCOMPLETE, FAILED };
static const char *const STATUS[] = {"in_progress", "completed", "incomplete", "failed"};

/* A message or a call. */
struct item {
    bool is_call, is_broken;
    enum status status;
    char id[64];
    char call_id[32];
    struct l4_buf name, text; /* a call's name and arguments */
    struct l4_buf logprobs;   /* a message's: entries with commas between them */
};

struct responses_answer {
    struct l4_buf echo;
    bool is_stream;
    long long sequence_number; /* of the next event */
    enum status status;
    struct item *items;
    size_t n_items, cap;
    bool is_open;           /* the last item goes on */
    bool is_after_call;     /* nothing came since a call ended */
    struct l4_buf logprobs; /* of tokens whose text has not come, or is no text */
};

struct responses_answer *responses_answer_open(struct l4_buf *take_echo, bool is_stream) {
    struct responses_answer *answer = calloc(1, sizeof *answer);
    if (answer) {
        answer->echo = *take_echo;
        answer->is_stream = is_stream;
        *take_echo = (struct l4_buf){0};
    }
    return answer;
}

void responses_answer_close(struct responses_answer *answer) {
    if (!answer)
        return;
    for (size_t i = 0; i < answer->n_items; i++) {
        l4_buf_free(&answer->items[i].name);
        l4_buf_free(&answer->items[i].text);
        l4_buf_free(&answer->items[i].logprobs);
    }
    free(answer->items);
    l4_buf_free(&answer->logprobs);
    l4_buf_free(&answer->echo);
    free(answer);
}

/* ---- objects ------------------------------------------------------------------------------------------------------
 */

static void put_buf(struct l4_buf *out, const struct l4_buf *text) {
    codec_put_string(out, text->data ? text->data : "", text->len);
}

/* {"type":"output_text",...}; is_new: before its text. */
static void put_part(struct l4_buf *out, const struct item *item, bool is_new) {
    static const struct l4_buf nothing = {0};
    const struct l4_buf *logprobs = is_new ? &nothing : &item->logprobs;
    l4_buf_puts(out, "{\"type\":\"output_text\",\"text\":");
    put_buf(out, is_new ? &nothing : &item->text);
    l4_buf_puts(out, ",\"annotations\":[],\"logprobs\":[");
    l4_buf_append(out, logprobs->data, logprobs->len);
    l4_buf_puts(out, "]}");
}

static void put_item(struct l4_buf *out, const struct item *item, bool is_new) {
    l4_buf_printf(out, "{\"id\":\"%s\",\"type\":\"%s\",\"status\":\"%s\",", item->id,
                  item->is_call ? "function_call" : "message", STATUS[item->status]);
    if (item->is_call) {
        l4_buf_printf(out, "\"call_id\":\"%s\",\"name\":", item->call_id);
        put_buf(out, &item->name);
        l4_buf_puts(out, ",\"arguments\":");
        put_buf(out, &item->text);
        l4_buf_puts(out, "}");
        return;
    }
    l4_buf_puts(out, "\"role\":\"assistant\",\"content\":[");
    if (!is_new)
        put_part(out, item, false);
    l4_buf_puts(out, "]}");
}

static void put_usage(struct l4_buf *out, const struct answer_usage *usage) {
    l4_buf_printf(out,
                  "{\"input_tokens\":%lld,\"input_tokens_details\":{\"cached_tokens\":%lld,\"cache_write_tokens\":0},"
                  "\"output_tokens\":%lld,\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":%lld}",
                  (long long)usage->prompt_tokens, (long long)usage->cached_tokens, (long long)usage->completion_tokens,
                  (long long)(usage->prompt_tokens + usage->completion_tokens));
}

/* The Response object.  usage NULL: not known; failure NULL: none. */
static void put_response(struct l4_buf *out, const struct responses_answer *answer, const struct answer_head *head,
                         const struct answer_usage *usage, const struct responses_failure *failure) {
    const char *comma = "";
    l4_buf_printf(out,
                  "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"error\":", head->id,
                  head->created_s, STATUS[answer->status]);
    if (failure) {
        l4_buf_printf(out, "{\"code\":\"%s\",\"message\":", failure->is_ours ? "server_error" : "invalid_prompt");
        codec_put_string(out, failure->message, strlen(failure->message));
        l4_buf_puts(out, "}");
    } else {
        l4_buf_puts(out, "null");
    }
    l4_buf_printf(out, ",\"incomplete_details\":%s,\"model\":",
                  answer->status == INCOMPLETE ? "{\"reason\":\"max_output_tokens\"}" : "null");
    codec_put_string(out, head->model, strlen(head->model));
    l4_buf_puts(out, ",\"output\":[");
    for (size_t i = 0; i < answer->n_items; i++) {
        if (answer->items[i].is_broken)
            continue;
        l4_buf_puts(out, comma);
        put_item(out, &answer->items[i], false);
        comma = ",";
    }
    l4_buf_puts(out, "],\"usage\":");
    if (usage)
        put_usage(out, usage);
    else
        l4_buf_puts(out, "null");
    l4_buf_puts(out, ",");
    l4_buf_append(out, answer->echo.data, answer->echo.len);
    l4_buf_puts(out, "}");
}

/* ---- events -------------------------------------------------------------------------------------------------------
 */

static void open_event(struct l4_buf *out, struct responses_answer *answer, const char *type) {
    sse_open_event(out, type);
    l4_buf_printf(out, "{\"type\":\"%s\",\"sequence_number\":%lld,", type, answer->sequence_number++);
}

static void close_event(struct l4_buf *out) {
    l4_buf_puts(out, "}");
    sse_close(out);
}

/* An event of the last item, which it names. */
static const struct item *open_item_event(struct l4_buf *out, struct responses_answer *answer, const char *type) {
    const struct item *item = &answer->items[answer->n_items - 1];
    open_event(out, answer, type);
    l4_buf_printf(out, "\"output_index\":%zu,\"item_id\":\"%s\",", answer->n_items - 1, item->id);
    if (!item->is_call)
        l4_buf_puts(out, "\"content_index\":0,");
    return item;
}

static void put_delta_event(struct l4_buf *out, struct responses_answer *answer, const char *type,
                            struct l4_text text) {
    open_item_event(out, answer, type);
    l4_buf_puts(out, "\"delta\":");
    codec_put_string(out, text.data, text.len_bytes);
}

static void put_whole_item_event(struct l4_buf *out, struct responses_answer *answer, const char *type, bool is_new) {
    open_event(out, answer, type);
    l4_buf_printf(out, "\"output_index\":%zu,\"item\":", answer->n_items - 1);
    put_item(out, &answer->items[answer->n_items - 1], is_new);
    close_event(out);
}

static void put_part_event(struct l4_buf *out, struct responses_answer *answer, const char *type, bool is_new) {
    const struct item *item = open_item_event(out, answer, type);
    l4_buf_puts(out, "\"part\":");
    put_part(out, item, is_new);
    close_event(out);
}

static void put_response_event(struct l4_buf *out, struct responses_answer *answer, const struct answer_head *head,
                               const struct answer_usage *usage, const struct responses_failure *failure,
                               const char *type) {
    open_event(out, answer, type);
    l4_buf_puts(out, "\"response\":");
    put_response(out, answer, head, usage, failure);
    close_event(out);
}

/* ---- items --------------------------------------------------------------------------------------------------------
 */

/* The next item; NULL when out of memory. */
static struct item *add_item(struct l4_buf *out, struct responses_answer *answer, bool is_call) {
    if (answer->n_items == answer->cap) {
        size_t cap = answer->cap ? 2 * answer->cap : 4;
        struct item *items = realloc(answer->items, cap * sizeof *items);
        if (!items) {
            out->failed = true;
            return NULL;
        }
        answer->items = items;
        answer->cap = cap;
    }
    struct item *item = &answer->items[answer->n_items++];
    *item = (struct item){.is_call = is_call};
    answer->is_open = true;
    return item;
}

/* The last item is over. */
static void close_item(struct l4_buf *out, struct responses_answer *answer, enum status status) {
    struct item *item = answer->is_open ? &answer->items[answer->n_items - 1] : NULL;
    answer->is_open = false;
    if (!item)
        return;
    item->status = status;
    if (!answer->is_stream)
        return;
    if (!item->is_call) {
        open_item_event(out, answer, "response.output_text.done");
        l4_buf_puts(out, "\"text\":");
        put_buf(out, &item->text);
        l4_buf_puts(out, ",\"logprobs\":[");
        l4_buf_append(out, item->logprobs.data, item->logprobs.len);
        l4_buf_puts(out, "]");
        close_event(out);
        put_part_event(out, answer, "response.content_part.done", false);
    } else if (status == COMPLETED) {
        open_item_event(out, answer, "response.function_call_arguments.done");
        l4_buf_puts(out, "\"name\":");
        put_buf(out, &item->name);
        l4_buf_puts(out, ",\"arguments\":");
        put_buf(out, &item->text);
        close_event(out);
    }
    put_whole_item_event(out, answer, "response.output_item.done", false);
}

/* Digits that no other answer has: what follows the prefix of an id. */
static const char *digits_of(const char *id) {
    const char *underscore = strchr(id, '_');
    return underscore ? underscore + 1 : id;
}

/* An open message. */
static struct item *need_message(struct l4_buf *out, struct responses_answer *answer, const struct answer_head *head) {
    if (answer->is_open)
        return &answer->items[answer->n_items - 1];
    struct item *item = add_item(out, answer, false);
    if (!item)
        return NULL;
    snprintf(item->id, sizeof item->id, "msg_%.40s%04zx", digits_of(head->id), answer->n_items - 1);
    if (answer->is_stream) {
        put_whole_item_event(out, answer, "response.output_item.added", true);
        put_part_event(out, answer, "response.content_part.added", true);
    }
    return item;
}

static void add_logprobs(struct l4_buf *to, const struct l4_buf *from) {
    if (to->len > 0 && from->len > 0)
        l4_buf_puts(to, ",");
    l4_buf_append(to, from->data, from->len);
}

void responses_put_begin(struct l4_buf *out, struct responses_answer *answer, const struct answer_head *head) {
    put_response_event(out, answer, head, NULL, NULL, "response.created");
    put_response_event(out, answer, head, NULL, NULL, "response.in_progress");
}

/* More of the message that is open, with the log-probabilities that were held. */
static void add_text(struct l4_buf *out, struct responses_answer *answer, struct item *item, struct l4_text text) {
    l4_buf_append(&item->text, text.data, text.len_bytes);
    add_logprobs(&item->logprobs, &answer->logprobs);
    out->failed |= item->text.failed || item->logprobs.failed;
    if (answer->is_stream) {
        put_delta_event(out, answer, "response.output_text.delta", text);
        l4_buf_puts(out, ",\"logprobs\":[");
        l4_buf_append(out, answer->logprobs.data, answer->logprobs.len);
        l4_buf_puts(out, "]");
        close_event(out);
    }
    l4_buf_clear(&answer->logprobs);
}

void responses_put_text(struct l4_buf *out, struct responses_answer *answer, const struct answer_head *head,
                        const struct answer_choice *choice) {
    bool has_text = choice->text.len_bytes > 0;
    /* Without text it is a token that text or a call may follow, or the one that has just ended a call. */
    if (choice->logprobs && (has_text || !answer->is_after_call))
        add_logprobs(&answer->logprobs, &choice->logprobs->parts[0]);
    answer->is_after_call = false;
    out->failed |= answer->logprobs.failed;
    struct item *item = has_text ? need_message(out, answer, head) : NULL;
    if (item)
        add_text(out, answer, item, choice->text);
}

static void begin_call(struct l4_buf *out, struct responses_answer *answer, const struct answer_call *call) {
    close_item(out, answer, COMPLETED);
    struct item *item = add_item(out, answer, true);
    if (!item)
        return;
    snprintf(item->id, sizeof item->id, "fc_%s", digits_of(call->id));
    snprintf(item->call_id, sizeof item->call_id, "%s", call->id);
    l4_buf_append(&item->name, call->name.data, call->name.len);
    out->failed |= item->name.failed;
    if (answer->is_stream)
        put_whole_item_event(out, answer, "response.output_item.added", true);
}

/* The call that is open; NULL: out of memory when it began. */
static struct item *open_call(const struct responses_answer *answer) {
    struct item *last = answer->is_open ? &answer->items[answer->n_items - 1] : NULL;
    return last && last->is_call ? last : NULL;
}

void responses_put_call(struct l4_buf *out, struct responses_answer *answer, const struct answer_choice *choice) {
    const struct l4_buf *arguments = &choice->calls[0].arguments;
    if (choice->begins_call) {
        begin_call(out, answer, &choice->calls[0]);
        return;
    }
    struct item *item = open_call(answer);
    if (!item)
        return;
    l4_buf_append(&item->text, arguments->data, arguments->len);
    out->failed |= item->text.failed;
    if (answer->is_stream) {
        put_delta_event(out, answer, "response.function_call_arguments.delta",
                        (struct l4_text){arguments->data, arguments->len});
        close_event(out);
    }
}

void responses_put_call_end(struct l4_buf *out, struct responses_answer *answer, const struct answer_choice *choice) {
    struct item *item = open_call(answer);
    if (!item)
        return;
    item->is_broken = choice->breaks_call;
    close_item(out, answer, choice->breaks_call ? INCOMPLETE : COMPLETED);
    if (choice->breaks_call)
        return; /* its tokens are those of the text that follows */
    l4_buf_clear(&answer->logprobs);
    answer->is_after_call = true;
}

void responses_put_finish(struct l4_buf *out, struct responses_answer *answer, const struct answer_head *head,
                          const struct answer_choice *choice) {
    answer->status = strcmp(choice->finish_reason, "length") == 0 ? INCOMPLETE : COMPLETED;
    struct item *message =
        answer->n_items == 0 || (answer->is_open && !open_call(answer)) ? need_message(out, answer, head) : NULL;
    if (message && answer->logprobs.len > 0) /* of tokens without text */
        add_text(out, answer, message, (struct l4_text){"", 0});
    close_item(out, answer, answer->status);
}

void responses_put_end(struct l4_buf *out, struct responses_answer *answer, const struct answer_head *head,
                       const struct answer_usage *usage) {
    put_response_event(out, answer, head, usage, NULL,
                       answer->status == INCOMPLETE ? "response.incomplete" : "response.completed");
}

void responses_put_whole(struct l4_buf *out, const struct responses_answer *answer, const struct answer_head *head,
                         const struct answer_usage *usage) {
    put_response(out, answer, head, usage, NULL);
}

void responses_put_failure(struct l4_buf *out, struct responses_answer *answer, const struct answer_head *head,
                           const struct answer_usage *usage, const struct responses_failure *failure) {
    open_event(out, answer, "error");
    l4_buf_puts(out, "\"code\":");
    if (failure->code)
        codec_put_string(out, failure->code, strlen(failure->code));
    else
        l4_buf_puts(out, "null");
    l4_buf_puts(out, ",\"message\":");
    codec_put_string(out, failure->message, strlen(failure->message));
    l4_buf_printf(out, ",\"param\":null,%s", failure->error_member);
    close_event(out);
    answer->status = FAILED;
    if (answer->is_open)
        answer->items[answer->n_items - 1].status = INCOMPLETE;
    put_response_event(out, answer, head, usage, failure, "response.failed");
}
