/* The Llama 4 chat template, built in: a template from a checkpoint is a program from a stranger. */
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/text/json_tree.h"
#include "core/text/utf8.h"
#include "llama4/text.h"

#define BEGIN_OF_TEXT "<|begin_of_text|>"
#define HEADER_START  "<|header_start|>"
#define HEADER_END    "<|header_end|>"
#define EOT           "<|eot|>"
#define PYTHON_START  "<|python_start|>"
#define PYTHON_END    "<|python_end|>"
#define IMAGE         "<|image|>"

static const char TOOLS_INTRODUCTION[] =
    "Given the following functions, please respond with a JSON for a function call with its proper arguments that best "
    "answers the given prompt.\n\n"
    "Respond in the format {\"name\": function name, \"parameters\": dictionary of argument name and its value}.Do not "
    "use variables.\n\n";

/* A marker's place in the prompt's text. */
struct marker {
    size_t start, end;
    int32_t id;
};

/* The prompt so far.  Markers are remembered by place, so that the same characters in a message stay what they are.
 * The first error stays in rc, and later steps do nothing. */
struct prompt {
    const struct l4_tokenizer *tokenizer;
    struct l4_buf text;
    struct marker *markers;
    size_t n_markers, cap_markers;
    int rc;
    struct l4_err *err;
};

static void put_marker(struct prompt *prompt, const char *marker) {
    if (prompt->rc < 0)
        return;
    int32_t id = l4_tokenizer_find(prompt->tokenizer, marker);
    if (!l4_tokenizer_is_special(prompt->tokenizer, id)) {
        prompt->rc = l4_err_set(prompt->err, L4_E_UNSUPPORTED, "chat: the vocabulary has no special token %s", marker);
        return;
    }
    if (!checked_grow((void **)&prompt->markers, &prompt->cap_markers, prompt->n_markers + 1,
                      sizeof *prompt->markers)) {
        prompt->rc = l4_err_set(prompt->err, L4_E_NOMEM, "out of memory for the prompt");
        return;
    }
    struct marker *place = &prompt->markers[prompt->n_markers++];
    place->start = prompt->text.len;
    l4_buf_puts(&prompt->text, marker);
    place->end = prompt->text.len;
    place->id = id;
}

static void put_text(struct prompt *prompt, const char *text, size_t len_bytes) {
    utf8_append_valid(&prompt->text, text, len_bytes);
}

static void put_header(struct prompt *prompt, const char *role) {
    put_marker(prompt, HEADER_START);
    put_text(prompt, role, strlen(role));
    put_marker(prompt, HEADER_END);
    put_text(prompt, "\n\n", 2);
}

/* content[start..end) with the images that stand there. */
static void put_content(struct prompt *prompt, const struct l4_message *message, size_t start, size_t end) {
    for (size_t i = 0; i < message->n_images; i++) {
        size_t at = message->image_offsets[i];
        at = at < end ? at : end;
        if (at > start) {
            put_text(prompt, message->content.data + start, at - start);
            start = at;
        }
        put_marker(prompt, IMAGE);
    }
    put_text(prompt, message->content.data + start, end - start);
}

/* White space as Python's str.strip takes it. */
static bool is_python_space(uint32_t code) {
    return (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x20) || code == 0x85 || code == 0xA0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
           code == 0x205F || code == 0x3000;
}

/* content without white space at either end. */
static void put_trimmed(struct prompt *prompt, const struct l4_message *message) {
    const char *text = message->content.data;
    size_t start = 0, end = message->content.len_bytes, n;
    while (start < end && utf8_next(text + start, end - start, &n) == UTF8_CHAR &&
           is_python_space(utf8_decode(text + start, n)))
        start += n;
    while (end > start) {
        size_t last = end - 1;
        while (last > start && end - last < 4 && ((unsigned char)text[last] & 0xC0) == 0x80)
            last--;
        if (utf8_next(text + last, end - last, &n) != UTF8_CHAR || last + n != end ||
            !is_python_space(utf8_decode(text + last, n)))
            break;
        end = last;
    }
    put_content(prompt, message, start, end);
}

static void put_json(struct prompt *prompt, struct l4_text json, int indent) {
    if (prompt->rc == 0)
        prompt->rc = l4_json_python(json.data, json.len_bytes, indent, &prompt->text, prompt->err);
}

static void put_tools(struct prompt *prompt, const struct l4_chat *chat) {
    put_text(prompt, TOOLS_INTRODUCTION, sizeof TOOLS_INTRODUCTION - 1);
    for (size_t i = 0; i < chat->n_tools && prompt->rc == 0; i++) {
        put_json(prompt, chat->tools_json[i], 4);
        if (prompt->rc < 0)
            l4_err_context(prompt->err, "tools[%zu]", i);
        put_text(prompt, "\n\n", 2);
    }
}

static void put_tool_calls(struct prompt *prompt, const struct l4_message *message, size_t index) {
    put_marker(prompt, PYTHON_START);
    put_content(prompt, message, 0, message->content.len_bytes);
    put_marker(prompt, PYTHON_END);
    for (size_t i = 0; i < message->n_tool_calls && prompt->rc == 0; i++) {
        const struct l4_tool_call *call = &message->tool_calls[i];
        l4_buf_puts(&prompt->text, "{\"name\": \"");
        put_text(prompt, call->name.data, call->name.len_bytes);
        l4_buf_puts(&prompt->text, "\", \"parameters\": ");
        put_json(prompt, call->arguments_json, 0);
        if (prompt->rc < 0)
            l4_err_context(prompt->err, "messages[%zu].tool_calls[%zu]: arguments", index, i);
        l4_buf_puts(&prompt->text, "}");
    }
}

static void put_tool_result(struct prompt *prompt, const struct l4_message *message, size_t index) {
    struct l4_buf valid = {0};
    if (message->n_images > 0 && prompt->rc == 0)
        prompt->rc = l4_err_set(prompt->err, L4_E_INVALID, "messages[%zu]: an image in a tool result", index);
    put_header(prompt, "ipython");
    utf8_append_valid(&valid, message->content.data, message->content.len_bytes);
    if (valid.failed)
        prompt->text.failed = true;
    else
        json_tree_write_string(valid.data, valid.len, &prompt->text);
    l4_buf_free(&valid);
}

static void put_message(struct prompt *prompt, const struct l4_message *message, size_t index) {
    if (message->n_tool_calls > 0) {
        put_header(prompt, "assistant");
        put_tool_calls(prompt, message, index);
    } else if (strcmp(message->role, "tool") == 0 || strcmp(message->role, "ipython") == 0) {
        put_tool_result(prompt, message, index);
    } else {
        put_header(prompt, message->role);
        put_content(prompt, message, 0, message->content.len_bytes);
    }
}

static void put_chat(struct prompt *prompt, const struct l4_chat *chat) {
    bool system = chat->n_messages > 0 && strcmp(chat->messages[0].role, "system") == 0;
    size_t with_tools = chat->n_tools > 0 ? system : SIZE_MAX; /* the message in whose turn the tools stand */
    put_marker(prompt, BEGIN_OF_TEXT);
    for (size_t i = 0; i < chat->n_messages && prompt->rc == 0; i++) {
        const struct l4_message *message = &chat->messages[i];
        if (i == 0 && system) {
            put_header(prompt, "system");
            if (chat->n_tools > 0)
                l4_buf_puts(&prompt->text, "Environment: ipython\n");
            put_trimmed(prompt, message);
        } else if (i == with_tools) {
            put_header(prompt, "user");
            put_tools(prompt, chat);
            put_trimmed(prompt, message);
        } else {
            put_message(prompt, message, i);
        }
        if (i + 1 < chat->n_messages || !chat->continue_final_message)
            put_marker(prompt, EOT);
    }
    if (chat->add_generation_prompt && !chat->continue_final_message)
        put_header(prompt, "assistant");
}

static int check_chat(const struct l4_chat *chat, struct l4_err *err) {
    size_t n = chat->n_messages;
    bool system = n > 0 && strcmp(chat->messages[0].role, "system") == 0;
    if (chat->n_tools > 0 && n <= system)
        return l4_err_set(err, L4_E_INVALID, "tools need a user message to sit in");
    if (chat->continue_final_message && (n == 0 || strcmp(chat->messages[n - 1].role, "assistant") != 0))
        return l4_err_set(err, L4_E_INVALID, "there is no last assistant message to continue");
    for (size_t i = 0; i < n; i++) {
        const struct l4_message *message = &chat->messages[i];
        for (size_t k = 0; k < message->n_images; k++)
            if (message->image_offsets[k] > message->content.len_bytes ||
                (k > 0 && message->image_offsets[k] < message->image_offsets[k - 1]))
                return l4_err_set(err, L4_E_INVALID, "messages[%zu]: image %zu stands outside the content", i, k);
    }
    return 0;
}

/* Markers by their ids, the text between them as ordinary text. */
static int encode_prompt(const struct prompt *prompt, struct l4_tokens *tokens, struct l4_err *err) {
    size_t from = tokens->len, at = 0;
    int rc = 0;
    for (size_t i = 0; i <= prompt->n_markers && rc == 0; i++) {
        size_t end = i < prompt->n_markers ? prompt->markers[i].start : prompt->text.len;
        if (end > at)
            rc = l4_encode(prompt->tokenizer, prompt->text.data + at, end - at, 0, tokens, err);
        if (rc < 0 || i == prompt->n_markers)
            break;
        at = prompt->markers[i].end;
        if (l4_tokens_push(tokens, prompt->markers[i].id) < 0)
            rc = l4_err_set(err, L4_E_NOMEM, "out of memory for the token ids");
    }
    if (rc < 0)
        tokens->len = from;
    return rc;
}

int l4_chat_encode(const struct l4_tokenizer *tokenizer, const struct l4_chat *chat, struct l4_tokens *tokens,
                   struct l4_buf *text, struct l4_err *err) {
    struct prompt prompt = {.tokenizer = tokenizer, .err = err};
    size_t n_before = tokens->len;
    prompt.rc = check_chat(chat, err);
    if (prompt.rc == 0)
        put_chat(&prompt, chat);
    if (prompt.rc == 0 && prompt.text.failed)
        prompt.rc = l4_err_set(err, L4_E_NOMEM, "out of memory for the prompt");
    if (prompt.rc == 0)
        prompt.rc = encode_prompt(&prompt, tokens, err);
    if (prompt.rc == 0 && text) {
        l4_buf_append(text, prompt.text.data, prompt.text.len);
        if (text->failed) {
            tokens->len = n_before;
            prompt.rc = l4_err_set(err, L4_E_NOMEM, "out of memory for the prompt");
        }
    }
    l4_buf_free(&prompt.text);
    free(prompt.markers);
    return prompt.rc;
}
