/* golden text: tokenization, decoding and chat prompts against a file of `texts` and `chats`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/text/json_tree.h"
#include "llama4/text.h"
#include "tests/golden/golden.h"

/* cJSON cuts a text at its first NUL, and the texts hold one. */
struct file {
    const char *path;
    struct json_tree tree;
};

static const struct json_node *node_at(const struct file *file, uint32_t node) {
    return &file->tree.nodes[node];
}

static struct l4_text text_at(const struct file *file, uint32_t node) {
    if (!node || node_at(file, node)->kind != JSON_TREE_STRING)
        golden_fail("%s: a string is missing", file->path);
    return (struct l4_text){file->tree.text.data + node_at(file, node)->text, node_at(file, node)->text_bytes};
}

static bool is_literal(const struct file *file, uint32_t node, const char *literal) {
    const struct json_node *at = node_at(file, node);
    return node && at->kind == JSON_TREE_LITERAL && at->text_bytes == strlen(literal) &&
           memcmp(file->tree.text.data + at->text, literal, at->text_bytes) == 0;
}

static size_t count_children(const struct file *file, uint32_t node) {
    size_t n = 0;
    for (uint32_t child = node_at(file, node)->child; child; child = node_at(file, child)->next)
        n++;
    return n;
}

static bool same_ids(const struct file *file, uint32_t list, const struct l4_tokens *tokens) {
    if (!list || node_at(file, list)->kind != JSON_TREE_ARRAY)
        golden_fail("%s: a list of ids is missing", file->path);
    size_t n = 0;
    for (uint32_t id = node_at(file, list)->child; id; id = node_at(file, id)->next, n++) {
        char want[24];
        if (n == tokens->len)
            return false;
        snprintf(want, sizeof want, "%d", tokens->ids[n]);
        if (!is_literal(file, id, want))
            return false;
    }
    return n == tokens->len;
}

static bool encodes_to(const struct file *file, const struct l4_tokenizer *tokenizer, struct l4_text text,
                       unsigned flags, uint32_t ids) {
    struct l4_tokens tokens = {0};
    struct l4_err err;
    if (l4_encode(tokenizer, text.data, text.len_bytes, flags, &tokens, &err) < 0)
        golden_fail("%s", err.message);
    bool same = same_ids(file, ids, &tokens);
    l4_tokens_free(&tokens);
    return same;
}

static bool decodes_to(const struct file *file, const struct l4_tokenizer *tokenizer, uint32_t ids,
                       struct l4_text text) {
    struct l4_buf out = {0};
    struct l4_detok detok;
    l4_detok_init(&detok, tokenizer, true);
    for (uint32_t id = node_at(file, ids)->child; id; id = node_at(file, id)->next) {
        char number[24];
        snprintf(number, sizeof number, "%.*s", (int)node_at(file, id)->text_bytes,
                 file->tree.text.data + node_at(file, id)->text);
        l4_detok_push(&detok, atoi(number), &out);
    }
    l4_detok_finish(&detok, &out);
    bool same = out.len == text.len_bytes && (out.len == 0 || memcmp(out.data, text.data, out.len) == 0);
    l4_buf_free(&out);
    return same;
}

static bool check_texts(const struct file *file, const struct l4_tokenizer *tokenizer, uint32_t texts) {
    size_t n = 0, n_plain = 0, n_bos = 0, n_decoded = 0;
    for (uint32_t item = node_at(file, texts)->child; item; item = node_at(file, item)->next, n++) {
        struct l4_text text = text_at(file, json_tree_member(&file->tree, item, "text"));
        uint32_t ids = json_tree_member(&file->tree, item, "ids");
        uint32_t bos = json_tree_member(&file->tree, item, "ids_with_bos");
        n_plain += encodes_to(file, tokenizer, text, L4_ENCODE_SPECIAL, ids);
        n_bos += encodes_to(file, tokenizer, text, L4_ENCODE_SPECIAL | L4_ENCODE_BOS, bos);
        n_decoded += decodes_to(file, tokenizer, ids, text_at(file, json_tree_member(&file->tree, item, "decoded")));
    }
    bool ok = golden_report("texts: ids", n_plain, n);
    ok &= golden_report("texts: ids with begin_of_text", n_bos, n);
    ok &= golden_report("texts: decoded", n_decoded, n);
    return ok;
}

/* ---- chats --------------------------------------------------------------------------------------------------------
 */

/* Everything a chat borrows; freed at once. */
struct chat_store {
    void *blocks[256];
    size_t n_blocks;
};

static void *keep(struct chat_store *store, void *block) {
    if (!block || store->n_blocks == sizeof store->blocks / sizeof store->blocks[0])
        golden_fail("a chat is too large");
    store->blocks[store->n_blocks++] = block;
    return block;
}

static struct l4_text rendered(const struct file *file, struct chat_store *store, uint32_t node) {
    struct l4_buf buf = {0};
    struct l4_text text = {NULL, 0};
    json_tree_write(&file->tree, node, 0, &buf);
    text.data = keep(store, l4_buf_take(&buf, &text.len_bytes));
    return text;
}

/* A list of parts: the texts joined, the places of the images remembered. */
static void read_parts(const struct file *file, struct chat_store *store, uint32_t parts, struct l4_message *message) {
    struct l4_buf buf = {0};
    size_t *offsets = keep(store, calloc(count_children(file, parts) + 1, sizeof *offsets));
    for (uint32_t part = node_at(file, parts)->child; part; part = node_at(file, part)->next) {
        struct l4_text type = text_at(file, json_tree_member(&file->tree, part, "type"));
        if (type.len_bytes == 5 && memcmp(type.data, "image", 5) == 0) {
            offsets[message->n_images++] = buf.len;
            continue;
        }
        struct l4_text text = text_at(file, json_tree_member(&file->tree, part, "text"));
        l4_buf_append(&buf, text.data, text.len_bytes);
    }
    message->content.data = keep(store, l4_buf_take(&buf, &message->content.len_bytes));
    message->image_offsets = offsets;
}

static void read_tool_calls(const struct file *file, struct chat_store *store, uint32_t calls,
                            struct l4_message *message) {
    struct l4_tool_call *list = keep(store, calloc(count_children(file, calls) + 1, sizeof *list));
    message->tool_calls = list;
    for (uint32_t call = node_at(file, calls)->child; call; call = node_at(file, call)->next) {
        uint32_t function = json_tree_member(&file->tree, call, "function");
        if (!function)
            golden_fail("%s: a tool call without a function", file->path);
        uint32_t arguments = json_tree_member(&file->tree, function, "arguments");
        struct l4_tool_call *at = &list[message->n_tool_calls++];
        at->name = text_at(file, json_tree_member(&file->tree, function, "name"));
        at->arguments_json = node_at(file, arguments)->kind == JSON_TREE_STRING ? text_at(file, arguments)
                                                                                : rendered(file, store, arguments);
    }
}

static void read_message(const struct file *file, struct chat_store *store, uint32_t node, struct l4_message *message) {
    struct l4_text role = text_at(file, json_tree_member(&file->tree, node, "role"));
    message->role = keep(store, strndup(role.data, role.len_bytes));
    message->content.data = "";
    uint32_t content = json_tree_member(&file->tree, node, "content");
    if (content && node_at(file, content)->kind == JSON_TREE_ARRAY)
        read_parts(file, store, content, message);
    else if (content && !is_literal(file, content, "null"))
        message->content = text_at(file, content);
    uint32_t calls = json_tree_member(&file->tree, node, "tool_calls");
    if (calls && node_at(file, calls)->kind == JSON_TREE_ARRAY)
        read_tool_calls(file, store, calls, message);
}

static void read_chat(const struct file *file, struct chat_store *store, uint32_t item, struct l4_chat *chat) {
    uint32_t messages = json_tree_member(&file->tree, item, "messages");
    uint32_t tools = json_tree_member(&file->tree, item, "tools");
    if (!messages)
        golden_fail("%s: a chat without messages", file->path);
    struct l4_message *list = keep(store, calloc(count_children(file, messages) + 1, sizeof *list));
    for (uint32_t node = node_at(file, messages)->child; node; node = node_at(file, node)->next)
        read_message(file, store, node, &list[chat->n_messages++]);
    chat->messages = list;
    if (tools && node_at(file, tools)->kind == JSON_TREE_ARRAY) {
        struct l4_text *texts = keep(store, calloc(count_children(file, tools) + 1, sizeof *texts));
        for (uint32_t tool = node_at(file, tools)->child; tool; tool = node_at(file, tool)->next)
            texts[chat->n_tools++] = rendered(file, store, tool);
        chat->tools_json = texts;
    }
    chat->add_generation_prompt =
        is_literal(file, json_tree_member(&file->tree, item, "add_generation_prompt"), "true");
}

static bool check_chats(const struct file *file, const struct l4_tokenizer *tokenizer, uint32_t chats) {
    size_t n = 0, n_text = 0, n_ids = 0;
    for (uint32_t item = node_at(file, chats)->child; item; item = node_at(file, item)->next, n++) {
        struct chat_store store = {.n_blocks = 0};
        struct l4_chat chat = {.n_messages = 0};
        struct l4_tokens tokens = {0};
        struct l4_buf text = {0};
        struct l4_err err;
        read_chat(file, &store, item, &chat);
        if (l4_chat_encode(tokenizer, &chat, &tokens, &text, &err) < 0)
            golden_fail("%s: chats[%zu]: %s", file->path, n, err.message);
        struct l4_text want = text_at(file, json_tree_member(&file->tree, item, "text"));
        n_text += text.len == want.len_bytes && memcmp(text.data, want.data, want.len_bytes) == 0;
        n_ids += same_ids(file, json_tree_member(&file->tree, item, "ids"), &tokens);
        l4_tokens_free(&tokens);
        l4_buf_free(&text);
        for (size_t i = 0; i < store.n_blocks; i++)
            free(store.blocks[i]);
    }
    bool ok = golden_report("chats: text", n_text, n);
    ok &= golden_report("chats: ids", n_ids, n);
    return ok;
}

/* MODEL is a checkpoint directory or the tokenizer's file itself. */
static struct l4_tokenizer *open_tokenizer(const char *model) {
    struct l4_buf path = {0};
    struct stat stat_buf;
    bool directory = stat(model, &stat_buf) == 0 && S_ISDIR(stat_buf.st_mode);
    l4_buf_printf(&path, directory ? "%s/tokenizer.json" : "%s", model);
    struct l4_tokenizer *tokenizer = NULL;
    struct l4_err err;
    if (l4_tokenizer_open(&tokenizer, path.data, &err) < 0)
        golden_fail("%s", err.message);
    l4_buf_free(&path);
    return tokenizer;
}

int golden_text(int argc, char **argv) {
    if (argc != 3)
        return GOLDEN_USAGE;
    struct l4_tokenizer *tokenizer = open_tokenizer(argv[1]);
    struct file file = {.path = argv[2]};
    struct l4_err err;
    size_t len_bytes = 0;
    char *json = golden_read_file(file.path, &len_bytes);
    if (json_tree_parse(&file.tree, json, len_bytes, &err) < 0)
        golden_fail("%s: %s", file.path, err.message);
    uint32_t texts = json_tree_member(&file.tree, JSON_TREE_ROOT, "texts");
    uint32_t chats = json_tree_member(&file.tree, JSON_TREE_ROOT, "chats");
    if (!texts && !chats)
        golden_fail("%s: neither texts nor chats", file.path);
    bool ok = !texts || check_texts(&file, tokenizer, texts);
    ok &= !chats || check_chats(&file, tokenizer, chats);
    json_tree_fini(&file.tree);
    free(json);
    l4_tokenizer_close(tokenizer);
    return ok ? GOLDEN_OK : GOLDEN_MISMATCH;
}
