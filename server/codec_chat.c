#include "server/codec_chat.h"

#include <stdlib.h>
#include <string.h>

#include "server/codec_content.h"
#include "server/codec_tools.h"

/* What the l4_chat of a request points to and the body's tree does not hold. */
struct chat_storage {
    struct l4_message *messages;
    struct l4_text *tools;
    struct message_storage {
        struct l4_buf joined; /* content of several parts */
        struct l4_tool_call *calls;
    } * parts; /* one a message */
    size_t n_parts;
};

static const char *decode_role(const cJSON *message) {
    static const char *const roles[][2] = {{"system", "system"}, {"developer", "system"}, {"user", "user"},
                                           {"tool", "tool"},     {"ipython", "ipython"},  {"assistant", "assistant"}};
    const cJSON *role = codec_get(message, "role");
    for (size_t i = 0; cJSON_IsString(role) && i < sizeof roles / sizeof *roles; i++)
        if (strcmp(role->valuestring, roles[i][0]) == 0)
            return roles[i][1];
    return NULL;
}

static int decode_call(const cJSON *call, struct codec_slice slice, struct l4_tool_call *out, struct codec_err *err) {
    struct l4_text id, type = {0};
    const cJSON *function = NULL;
    int rc;
    if (!cJSON_IsObject(call))
        return codec_fail(err, "", "a tool call must be an object, not %s", codec_kind(call));
    if ((rc = codec_get_text(call, "id", &id, err)) || (rc = codec_get_text(call, "type", &type, err)) ||
        (rc = codec_get_object(call, "function", &function, err)))
        return rc;
    if (type.data && strcmp(type.data, "function") != 0)
        return codec_fail(err, "type", "the 'type' of a tool call must be 'function', not '%.40s'", type.data);
    if (!function)
        return codec_fail(err, "function", "the 'function' of a tool call is missing");
    if ((rc = codec_get_text(function, "name", &out->name, err)))
        return codec_within(err, "function");
    if (!out->name.data)
        return codec_fail(err, "function.name", "the name of a tool call is missing");
    const cJSON *arguments = codec_get(function, "arguments");
    if (cJSON_IsObject(arguments)) {
        slice = codec_slice_child(codec_slice_child(slice, call, function), function, arguments);
        out->arguments_json = (struct l4_text){slice.p, (size_t)(slice.end - slice.p)};
    } else if (cJSON_IsString(arguments)) {
        out->arguments_json = codec_text(arguments);
    } else if (arguments) {
        return codec_fail(err, "function.arguments", "the arguments of a tool call must be JSON in a string, not %s",
                          codec_kind(arguments));
    }
    if (out->arguments_json.len_bytes == 0) /* what clients write for a call without arguments */
        out->arguments_json = (struct l4_text){"{}", 2};
    return 0;
}

static int decode_calls(const cJSON *object, struct codec_slice slice, struct l4_message *message,
                        struct message_storage *storage, struct codec_err *err) {
    const cJSON *calls = NULL, *call;
    int rc = codec_get_array(object, "tool_calls", &calls, err);
    if (rc || !calls || !calls->child)
        return rc;
    if (strcmp(message->role, "assistant") != 0)
        return codec_fail(err, "tool_calls", "only messages of the assistant have 'tool_calls'");
    storage->calls = calloc((size_t)cJSON_GetArraySize(calls), sizeof *storage->calls);
    if (!storage->calls)
        return codec_no_memory(err);
    struct codec_slice cursor = codec_slice_enter(codec_slice_child(slice, object, calls));
    cJSON_ArrayForEach(call, calls) {
        rc = decode_call(call, codec_slice_next(&cursor, false), &storage->calls[message->n_tool_calls], err);
        if (rc)
            return codec_within(err, "tool_calls[%zu]", message->n_tool_calls);
        message->n_tool_calls++;
    }
    message->tool_calls = storage->calls;
    return 0;
}

static int decode_message(const cJSON *object, struct codec_slice slice, struct l4_message *message,
                          struct message_storage *storage, struct codec_err *err) {
    static const struct content_part_type types[] = {{"text", "text"}, {"refusal", "refusal"}, {NULL, NULL}};
    struct l4_text ignored;
    int rc;
    if (!cJSON_IsObject(object))
        return codec_fail(err, "", "a message must be an object, not %s", codec_kind(object));
    message->role = decode_role(object);
    if (!message->role)
        return codec_fail(err, "role",
                          "the 'role' of a message must be 'system', 'developer', 'user', 'assistant' or 'tool'");
    if ((rc = decode_calls(object, slice, message, storage, err)) ||
        (rc = codec_get_text(object, "name", &ignored, err)) ||
        (rc = codec_get_text(object, "tool_call_id", &ignored, err)))
        return rc;
    message->content.data = strcmp(message->role, "assistant") == 0 ? "" : NULL; /* the others must have one */
    rc = content_decode(object, "content", types, &storage->joined, &message->content, err);
    if (rc == 0 && !message->content.data)
        return codec_fail(err, "content", "the 'content' of a message is missing");
    return rc;
}

static int decode_messages(struct chat_request *request, struct codec_err *err) {
    const cJSON *root = request->body.root, *messages = NULL, *item;
    struct chat_storage *storage = request->storage;
    int rc = codec_get_array(root, "messages", &messages, err);
    if (rc)
        return rc;
    if (!messages || !messages->child)
        return codec_fail(err, "messages", "'messages' must hold at least one message");
    size_t n = (size_t)cJSON_GetArraySize(messages);
    storage->messages = calloc(n, sizeof *storage->messages);
    storage->parts = calloc(n, sizeof *storage->parts);
    if (!storage->messages || !storage->parts)
        return codec_no_memory(err);
    struct codec_slice cursor = codec_slice_enter(codec_slice_child(codec_slice_root(&request->body), root, messages));
    cJSON_ArrayForEach(item, messages) {
        size_t i = storage->n_parts++;
        rc = decode_message(item, codec_slice_next(&cursor, false), &storage->messages[i], &storage->parts[i], err);
        if (rc)
            return codec_within(err, "messages[%zu]", i);
    }
    request->chat.messages = storage->messages;
    request->chat.n_messages = n;
    return 0;
}

/* A tool's fields; its name goes into *names. */
static int check_tool(const cJSON *tool, struct tool_names *names, struct codec_err *err) {
    struct l4_text type = {0}, name = {0}, description;
    const cJSON *function = NULL, *parameters;
    bool strict;
    int rc;
    if (!cJSON_IsObject(tool))
        return codec_fail(err, "", "a tool must be an object, not %s", codec_kind(tool));
    if ((rc = codec_get_text(tool, "type", &type, err)) || (rc = codec_get_object(tool, "function", &function, err)))
        return rc;
    if (!type.data || strcmp(type.data, "function") != 0)
        return codec_fail(err, "type", "the 'type' of a tool must be 'function'");
    if (!function)
        return codec_fail(err, "function", "the 'function' of a tool is missing");
    if ((rc = codec_get_text(function, "name", &name, err)) ||
        (rc = codec_get_text(function, "description", &description, err)) ||
        (rc = codec_get_object(function, "parameters", &parameters, err)) ||
        (rc = codec_get_bool(function, "strict", &strict, err)))
        return codec_within(err, "function");
    return tools_add_name(names, name, "function.name", err);
}

static int decode_tools(struct chat_request *request, struct codec_err *err) {
    const cJSON *root = request->body.root, *tools = NULL, *tool;
    struct chat_storage *storage = request->storage;
    int rc = codec_get_array(root, "tools", &tools, err);
    if (rc || !tools || !tools->child || (rc = tools_open_names(tools, &request->tools, err)))
        return rc;
    storage->tools = calloc((size_t)cJSON_GetArraySize(tools), sizeof *storage->tools);
    if (!storage->tools)
        return codec_no_memory(err);
    struct codec_slice cursor = codec_slice_enter(codec_slice_child(codec_slice_root(&request->body), root, tools));
    size_t n = 0;
    cJSON_ArrayForEach(tool, tools) {
        struct codec_slice slice = codec_slice_next(&cursor, false);
        if ((rc = check_tool(tool, request->tools, err)))
            return codec_within(err, "tools[%zu]", n);
        storage->tools[n++] = (struct l4_text){slice.p, (size_t)(slice.end - slice.p)};
    }
    request->chat.tools_json = storage->tools;
    request->chat.n_tools = n;
    return 0;
}

/* {"type": "function", "function": {"name": ...}} */
static int decode_named_choice(struct chat_request *request, const cJSON *choice, struct codec_err *err) {
    struct l4_text type = {0}, name = {0};
    const cJSON *function = NULL;
    int rc;
    if ((rc = codec_get_text(choice, "type", &type, err)) ||
        (rc = codec_get_object(choice, "function", &function, err)))
        return codec_within(err, "tool_choice");
    if (!type.data || strcmp(type.data, "function") != 0)
        return codec_fail(err, "tool_choice.type", "the 'type' of 'tool_choice' must be 'function'");
    if (!function)
        return codec_fail(err, "tool_choice.function", "the 'function' of 'tool_choice' is missing");
    if ((rc = codec_get_text(function, "name", &name, err)))
        return codec_within(err, "tool_choice.function");
    if (!name.data)
        return codec_fail(err, "tool_choice.function.name", "the name of the function in 'tool_choice' is missing");
    if (request->tools && !tool_names_has(request->tools, name))
        return codec_fail(err, "tool_choice.function.name", "'tool_choice' names '%.40s', which is not in 'tools'",
                          name.data);
    request->tool_choice = CHAT_TOOLS_REQUIRED;
    request->only_tool = name.data;
    return 0;
}

static int decode_tool_choice(struct chat_request *request, struct codec_err *err) {
    static const char *const names[] = {"auto", "none", "required"}; /* in enum chat_tool_choice's order */
    const cJSON *root = request->body.root, *choice = codec_get(root, "tool_choice");
    size_t i = 0;
    int rc;
    request->parallel_tool_calls = true;
    if ((rc = codec_get_bool(root, "parallel_tool_calls", &request->parallel_tool_calls, err)) || !choice)
        return rc;
    if (cJSON_IsObject(choice)) {
        if ((rc = decode_named_choice(request, choice, err)))
            return rc;
    } else if (cJSON_IsString(choice)) {
        while (i < 3 && strcmp(choice->valuestring, names[i]) != 0)
            i++;
        if (i == 3)
            return codec_fail(err, "tool_choice",
                              "'tool_choice' must be 'none', 'auto', 'required' or an object that names a function");
        request->tool_choice = (enum chat_tool_choice)i;
    } else {
        return codec_fail(err, "tool_choice", "'tool_choice' must be a string or an object, not %s",
                          codec_kind(choice));
    }
    if (request->tool_choice == CHAT_TOOLS_REQUIRED && !request->tools)
        return codec_fail(err, "tool_choice", "'tool_choice' forces a call, but there are no 'tools'");
    if (request->tool_choice == CHAT_TOOLS_REQUIRED)
        return tools_force_call(&request->chat, request->only_tool, request->parallel_tool_calls,
                                &request->params.grammar, err);
    if (request->tool_choice == CHAT_TOOLS_NONE) { /* the model is not told of them, and its answer is text */
        tool_names_close(request->tools);
        request->tools = NULL;
        request->chat.n_tools = 0;
    }
    return 0;
}

static int decode_own(const cJSON *root, struct gen_params *params, struct codec_err *err) {
    int64_t n_top = -1;
    int rc;
    if ((rc = codec_get_int(root, "max_tokens", 1, INT32_MAX, &params->max_tokens, err)) ||
        (rc = codec_get_int(root, "max_completion_tokens", 1, INT32_MAX, &params->max_tokens, err)) ||
        (rc = codec_get_bool(root, "logprobs", &params->logprobs, err)) ||
        (rc = codec_get_int(root, "top_logprobs", 0, L4_MAX_TOP_LOGPROBS, &n_top, err)))
        return rc;
    if (n_top > 0 && !params->logprobs)
        return codec_fail(err, "top_logprobs", "'top_logprobs' is allowed only with 'logprobs': true");
    params->n_top_logprobs = n_top > 0 ? (int)n_top : 0;
    return 0;
}

static int decode_turns(struct chat_request *request, struct codec_err *err) {
    const cJSON *root = request->body.root;
    struct l4_chat *chat = &request->chat;
    int rc;
    if ((rc = codec_get_bool(root, "continue_final_message", &chat->continue_final_message, err)))
        return rc;
    chat->add_generation_prompt = !chat->continue_final_message;
    if ((rc = codec_get_bool(root, "add_generation_prompt", &chat->add_generation_prompt, err)) ||
        !chat->continue_final_message)
        return rc;
    const struct l4_message *last = &chat->messages[chat->n_messages - 1];
    if (chat->add_generation_prompt)
        return codec_fail(err, "add_generation_prompt",
                          "'add_generation_prompt' and 'continue_final_message' exclude each other");
    if (strcmp(last->role, "assistant") != 0 || last->n_tool_calls > 0)
        return codec_fail(err, "continue_final_message",
                          "'continue_final_message' needs a last message of the assistant without tool calls");
    return 0;
}

int chat_decode(const char *text, size_t len_bytes, const struct codec_limits *limits, struct chat_request *request,
                struct codec_err *err) {
    int rc;
    *request = (struct chat_request){0};
    request->storage = calloc(1, sizeof *request->storage);
    if (!request->storage)
        return codec_no_memory(err);
    if ((rc = codec_body_parse(&request->body, text, len_bytes, err)) ||
        (rc = params_decode(&request->body, limits, &request->params, err)) ||
        (rc = decode_own(request->body.root, &request->params, err)) ||
        (rc = params_check_choices(&request->params, limits, 1, err)) || (rc = decode_messages(request, err)) ||
        (rc = decode_turns(request, err)) || (rc = decode_tools(request, err)))
        return rc;
    return decode_tool_choice(request, err);
}

void chat_request_free(struct chat_request *request) {
    struct chat_storage *storage = request->storage;
    if (storage) {
        for (size_t i = 0; i < storage->n_parts; i++) {
            l4_buf_free(&storage->parts[i].joined);
            free(storage->parts[i].calls);
        }
        free(storage->parts);
        free(storage->messages);
        free(storage->tools);
        free(storage);
    }
    tool_names_close(request->tools);
    params_free(&request->params);
    codec_body_free(&request->body);
    *request = (struct chat_request){0};
}

/* ---- answers ------------------------------------------------------------------------------------------------------
 */

static void put_end_of_choice(struct l4_buf *out, const struct answer_choice *choice) {
    l4_buf_puts(out, "},\"logprobs\":");
    if (choice->logprobs)
        logprob_list_put(out, LOGPROBS_CHAT, choice->logprobs);
    else
        l4_buf_puts(out, "null");
    if (choice->finish_reason)
        l4_buf_printf(out, ",\"finish_reason\":\"%s\"}", choice->finish_reason);
    else
        l4_buf_puts(out, ",\"finish_reason\":null}");
}

/* The function's members without its braces: "name":...,"arguments":... */
static void put_function(struct l4_buf *out, const struct answer_call *call) {
    l4_buf_puts(out, "\"name\":");
    codec_put_string(out, call->name.data, call->name.len);
    l4_buf_puts(out, ",\"arguments\":");
    codec_put_string(out, call->arguments.data ? call->arguments.data : "", call->arguments.len);
}

static void put_call_piece(struct l4_buf *out, const struct answer_choice *choice) {
    const struct answer_call *call = choice->calls;
    l4_buf_printf(out, "\"tool_calls\":[{\"index\":%zu,", choice->call);
    if (choice->begins_call) {
        l4_buf_printf(out, "\"id\":\"%s\",\"type\":\"function\",\"function\":{", call->id);
        put_function(out, call);
    } else {
        l4_buf_puts(out, "\"function\":{\"arguments\":");
        codec_put_string(out, call->arguments.data, call->arguments.len);
    }
    l4_buf_puts(out, "}}]");
}

static void put_message(struct l4_buf *out, const struct answer_choice *choice) {
    l4_buf_puts(out, "{\"role\":\"assistant\",\"content\":");
    if (choice->n_calls > 0 && choice->text.len_bytes == 0)
        l4_buf_puts(out, "null");
    else
        codec_put_string(out, choice->text.data, choice->text.len_bytes);
    l4_buf_puts(out, ",\"refusal\":null");
    for (size_t i = 0; i < choice->n_calls; i++) {
        l4_buf_printf(out, "%s{\"id\":\"%s\",\"type\":\"function\",\"function\":{", i ? "," : ",\"tool_calls\":[",
                      choice->calls[i].id);
        put_function(out, &choice->calls[i]);
        l4_buf_puts(out, "}}");
    }
    if (choice->n_calls > 0)
        l4_buf_puts(out, "]");
}

void chat_put_chunk(struct l4_buf *out, const struct answer_head *head, enum chat_delta delta,
                    const struct answer_choice *choice, bool usage_null) {
    l4_buf_append(out, head->text.data, head->text.len);
    l4_buf_puts(out, "{\"index\":");
    codec_put_int(out, choice->index);
    l4_buf_puts(out, ",\"delta\":{");
    if (delta == CHAT_DELTA_ROLE) {
        l4_buf_puts(out, "\"role\":\"assistant\",\"content\":\"\"");
    } else if (delta == CHAT_DELTA_TEXT) {
        l4_buf_puts(out, "\"content\":");
        codec_put_string(out, choice->text.data, choice->text.len_bytes);
    } else if (delta == CHAT_DELTA_CALL) {
        put_call_piece(out, choice);
    }
    put_end_of_choice(out, choice);
    l4_buf_puts(out, usage_null ? "],\"usage\":null}" : "]}");
}

void chat_put_whole(struct l4_buf *out, const struct answer_head *head, const struct answer_choice *choices,
                    size_t n_choices, const struct answer_usage *usage) {
    l4_buf_append(out, head->text.data, head->text.len);
    for (size_t i = 0; i < n_choices; i++) {
        l4_buf_puts(out, i ? ",{\"index\":" : "{\"index\":");
        codec_put_int(out, choices[i].index);
        l4_buf_puts(out, ",\"message\":");
        put_message(out, &choices[i]);
        put_end_of_choice(out, &choices[i]);
    }
    l4_buf_puts(out, "],\"usage\":");
    answer_put_usage(out, usage);
    l4_buf_puts(out, "}");
}
