#include "server/codec_messages.h"

#include <stdlib.h>
#include <string.h>

#include "server/codec_grammar.h"
#include "server/codec_tools.h"
#include "server/sse.h"

/* What the l4_chat of a request points to and the body's tree does not hold. */
struct messages_storage {
    struct l4_message *messages;
    struct turn_storage {
        struct l4_buf joined; /* content of several blocks */
        struct l4_tool_call *calls;
    } * turns; /* one a message */
    size_t n_turns;
    struct tool_texts tools;
};

/* ---- blocks -------------------------------------------------------------------------------------------------------
 */

/* A block's type: text or, where that is not NULL, the other one. */
static int check_type(const cJSON *block, const char *other, bool *is_other, struct codec_err *err) {
    struct l4_text type = {0};
    int rc;
    if (!cJSON_IsObject(block))
        return codec_fail(err, "", "a content block must be an object, not %s", codec_kind(block));
    if ((rc = codec_get_text(block, "type", &type, err)))
        return rc;
    if (!type.data)
        return codec_fail(err, "type", "the 'type' of a content block is missing");
    *is_other = other && strcmp(type.data, other) == 0;
    if (*is_other || strcmp(type.data, "text") == 0)
        return 0;
    const char * or = other ? "' or '" : "";
    if (strcmp(type.data, "image") == 0 || strcmp(type.data, "document") == 0)
        return codec_fail(err, "type", "%ss are not served: content blocks here must be of type 'text%s%s'", type.data,
                          or, other ? other : "");
    return codec_fail(err, "type", "content blocks here must be of type 'text%s%s', not '%.40s'", or,
                      other ? other : "", type.data);
}

static int add_text(struct l4_message *message, struct turn_storage *turn, struct l4_text text, struct codec_err *err) {
    l4_buf_append(&turn->joined, text.data, text.len_bytes);
    if (turn->joined.failed)
        return codec_no_memory(err);
    message->content = (struct l4_text){turn->joined.data, turn->joined.len};
    return 0;
}

static int decode_text_block(const cJSON *block, struct l4_message *message, struct turn_storage *turn,
                             struct codec_err *err) {
    struct l4_text text = {0};
    int rc = codec_get_text(block, "text", &text, err);
    if (rc)
        return rc;
    if (!text.data)
        return codec_fail(err, "text", "the 'text' of a content block is missing");
    return add_text(message, turn, text, err);
}

static int decode_tool_use(const cJSON *block, struct codec_slice slice, struct l4_tool_call *call,
                           struct codec_err *err) {
    struct l4_text id = {0};
    const cJSON *input = NULL;
    int rc;
    if ((rc = codec_get_text(block, "id", &id, err)) || (rc = codec_get_text(block, "name", &call->name, err)) ||
        (rc = codec_get_object(block, "input", &input, err)))
        return rc;
    if (!id.data)
        return codec_fail(err, "id", "the 'id' of a tool_use block is missing");
    if (!call->name.data)
        return codec_fail(err, "name", "the 'name' of a tool_use block is missing");
    if (!input)
        return codec_fail(err, "input", "the 'input' of a tool_use block is missing");
    slice = codec_slice_child(slice, block, input);
    call->arguments_json = (struct l4_text){slice.p, (size_t)(slice.end - slice.p)};
    return tools_check_json(slice, "input", err);
}

/* n_max: calls that the message may come to have. */
static int add_tool_use(const cJSON *block, struct codec_slice slice, struct l4_message *message,
                        struct turn_storage *turn, size_t n_max, struct codec_err *err) {
    if (!turn->calls)
        turn->calls = calloc(n_max, sizeof *turn->calls);
    if (!turn->calls)
        return codec_no_memory(err);
    message->tool_calls = turn->calls;
    return decode_tool_use(block, slice, &turn->calls[message->n_tool_calls++], err);
}

static int decode_result_blocks(const cJSON *content, struct l4_message *message, struct turn_storage *turn,
                                struct codec_err *err) {
    const cJSON *block;
    int n = 0;
    cJSON_ArrayForEach(block, content) {
        bool is_other;
        int rc = check_type(block, NULL, &is_other, err);
        if (rc || (rc = decode_text_block(block, message, turn, err)))
            return codec_within(err, "content[%d]", n);
        n++;
    }
    return 0;
}

static int decode_tool_result(const cJSON *block, struct l4_message *message, struct turn_storage *turn,
                              struct codec_err *err) {
    struct l4_text id = {0};
    bool is_error = false;
    int rc;
    if ((rc = codec_get_text(block, "tool_use_id", &id, err)) ||
        (rc = codec_get_bool(block, "is_error", &is_error, err)))
        return rc;
    if (!id.data)
        return codec_fail(err, "tool_use_id", "the 'tool_use_id' of a tool_result block is missing");
    if (is_error && (rc = add_text(message, turn, (struct l4_text){"Error: ", 7}, err)))
        return rc;
    const cJSON *content = codec_get(block, "content");
    if (cJSON_IsArray(content))
        return decode_result_blocks(content, message, turn, err);
    if (cJSON_IsString(content))
        return add_text(message, turn, codec_text(content), err);
    return content ? codec_fail(err, "content", "'content' must be a string or an array of blocks, not %s",
                                codec_kind(content))
                   : 0;
}

/* ---- messages -----------------------------------------------------------------------------------------------------
 */

/* The chat's next message, empty so far; *turn its storage.  There is room: count_turns. */
static struct l4_message *add_message(struct messages_request *request, const char *role, struct turn_storage **turn) {
    struct messages_storage *storage = request->storage;
    struct l4_message *message = &storage->messages[storage->n_turns];
    *turn = &storage->turns[storage->n_turns++];
    *message = (struct l4_message){.role = role, .content = {"", 0}};
    request->chat.n_messages = storage->n_turns;
    return message;
}

/* The assistant's blocks are one message.  A tool's result is a message of its own among those of the user. */
static int decode_blocks(struct messages_request *request, const char *role, const char *name, const cJSON *blocks,
                         struct codec_slice slice, struct codec_err *err) {
    bool is_assistant = strcmp(role, "assistant") == 0;
    const char *other = is_assistant ? "tool_use" : strcmp(role, "user") == 0 ? "tool_result" : NULL;
    struct turn_storage *turn = NULL;
    struct l4_message *message = is_assistant ? add_message(request, role, &turn) : NULL;
    struct codec_slice cursor = codec_slice_enter(slice);
    const cJSON *block;
    int n = 0;
    cJSON_ArrayForEach(block, blocks) {
        struct codec_slice here = codec_slice_next(&cursor, false);
        bool is_other = false;
        int rc = check_type(block, other, &is_other, err);
        if (rc == 0 && is_other && !is_assistant) {
            struct l4_message *result = add_message(request, "tool", &turn);
            rc = decode_tool_result(block, result, turn, err);
            message = NULL;
        } else if (rc == 0) {
            message = message ? message : add_message(request, role, &turn);
            rc = is_other ? add_tool_use(block, here, message, turn, (size_t)cJSON_GetArraySize(blocks), err)
                          : decode_text_block(block, message, turn, err);
        }
        if (rc)
            return codec_within(err, "%s[%d]", name, n);
        n++;
    }
    return 0;
}

static int decode_content(struct messages_request *request, const char *role, const char *name, const cJSON *content,
                          struct codec_slice slice, struct codec_err *err) {
    struct turn_storage *turn;
    if (cJSON_IsArray(content))
        return decode_blocks(request, role, name, content, slice, err);
    if (!cJSON_IsString(content))
        return codec_fail(err, name, "'%s' must be a string or an array of blocks, not %s", name, codec_kind(content));
    add_message(request, role, &turn)->content = codec_text(content);
    return 0;
}

static int decode_system(struct messages_request *request, struct codec_err *err) {
    const cJSON *root = request->body.root, *system = codec_get(root, "system");
    if (!system)
        return 0;
    int rc = decode_content(request, "system", "system", system,
                            codec_slice_child(codec_slice_root(&request->body), root, system), err);
    if (rc == 0 && request->chat.n_messages > 0 && request->storage->messages[0].content.len_bytes == 0) {
        l4_buf_free(&request->storage->turns[0].joined); /* an empty one is none */
        request->chat.n_messages = request->storage->n_turns = 0;
    }
    return rc;
}

static int decode_message(struct messages_request *request, const cJSON *object, struct codec_slice slice,
                          struct codec_err *err) {
    static const char *const roles[] = {"user", "assistant", "system"};
    struct l4_text role = {0};
    size_t i = 0;
    int rc;
    if (!cJSON_IsObject(object))
        return codec_fail(err, "", "a message must be an object, not %s", codec_kind(object));
    if ((rc = codec_get_text(object, "role", &role, err)))
        return rc;
    while (role.data && i < 3 && strcmp(role.data, roles[i]) != 0)
        i++;
    if (!role.data || i == 3)
        return codec_fail(err, "role", "the 'role' of a message must be 'user', 'assistant' or 'system'");
    const cJSON *content = codec_get(object, "content");
    if (!content)
        return codec_fail(err, "content", "the 'content' of a message is missing");
    if (cJSON_IsArray(content) && !content->child && strcmp(roles[i], "assistant") != 0)
        return codec_fail(err, "content", "'content' must not be an empty array");
    return decode_content(request, roles[i], "content", content, codec_slice_child(slice, object, content), err);
}

/* At most how many messages the chat has. */
static size_t count_turns(const cJSON *messages) {
    const cJSON *item;
    size_t n = 1; /* system */
    cJSON_ArrayForEach(item, messages) {
        const cJSON *content = codec_get(item, "content");
        n += cJSON_IsArray(content) && content->child ? (size_t)cJSON_GetArraySize(content) : 1;
    }
    return n;
}

static int decode_messages(struct messages_request *request, struct codec_err *err) {
    const cJSON *root = request->body.root, *messages = NULL, *item;
    struct messages_storage *storage = request->storage;
    int rc = codec_get_array(root, "messages", &messages, err);
    if (rc)
        return rc;
    if (!messages || !messages->child)
        return codec_fail(err, "messages", "'messages' must hold at least one message");
    size_t n = count_turns(messages);
    storage->messages = calloc(n, sizeof *storage->messages);
    storage->turns = calloc(n, sizeof *storage->turns);
    if (!storage->messages || !storage->turns)
        return codec_no_memory(err);
    request->chat.messages = storage->messages;
    if ((rc = decode_system(request, err)))
        return rc;
    struct codec_slice cursor = codec_slice_enter(codec_slice_child(codec_slice_root(&request->body), root, messages));
    n = 0;
    cJSON_ArrayForEach(item, messages) {
        if (decode_message(request, item, codec_slice_next(&cursor, false), err))
            return codec_within(err, "messages[%zu]", n);
        n++;
    }
    const struct l4_message *last = &storage->messages[storage->n_turns - 1];
    if (last->n_tool_calls > 0) {
        codec_fail(err, "content", "the last message asks for tools: what they answered must follow as 'tool_result'");
        return codec_within(err, "messages[%zu]", n - 1);
    }
    request->chat.continue_final_message = strcmp(last->role, "assistant") == 0;
    request->chat.add_generation_prompt = !request->chat.continue_final_message;
    return 0;
}

/* ---- tools --------------------------------------------------------------------------------------------------------
 */

/* *out: the tool as the chat API has it. */
static int decode_tool(void *user, const cJSON *tool, struct codec_slice slice, size_t i, struct tool_names *names,
                       struct l4_buf *out, struct codec_err *err) {
    (void)user, (void)i;
    struct l4_text type = {0}, name = {0}, description = {0};
    const cJSON *schema = NULL;
    int rc;
    if (!cJSON_IsObject(tool))
        return codec_fail(err, "", "a tool must be an object, not %s", codec_kind(tool));
    if ((rc = codec_get_text(tool, "type", &type, err)))
        return rc;
    if (type.data && strcmp(type.data, "custom") != 0)
        return codec_fail(err, "type",
                          "tools that the server runs are not served: 'type' must be 'custom', not '%.40s'", type.data);
    if ((rc = codec_get_text(tool, "name", &name, err)) || (rc = tools_add_name(names, name, "name", err)) ||
        (rc = codec_get_text(tool, "description", &description, err)) ||
        (rc = codec_get_object(tool, "input_schema", &schema, err)))
        return rc;
    if (!schema)
        return codec_fail(err, "input_schema", "the 'input_schema' of a tool is missing");
    slice = codec_slice_child(slice, tool, schema);
    if ((rc = tools_check_json(slice, "input_schema", err)))
        return rc;
    l4_buf_puts(out, "{\"type\":\"function\",\"function\":{\"name\":");
    codec_put_string(out, name.data, name.len_bytes);
    if (description.data) {
        l4_buf_puts(out, ",\"description\":");
        codec_put_string(out, description.data, description.len_bytes);
    }
    l4_buf_puts(out, ",\"parameters\":");
    l4_buf_append(out, slice.p, (size_t)(slice.end - slice.p));
    l4_buf_puts(out, "}}");
    return 0;
}

static int decode_tools(struct messages_request *request, struct codec_err *err) {
    struct tool_texts *tools = &request->storage->tools;
    int rc = tools_read(&request->body, decode_tool, NULL, &request->tools, tools, err);
    request->chat.tools_json = tools->json;
    request->chat.n_tools = tools->n;
    return rc;
}

/* A choice that forces a call; only: the tool that it names. */
static int force_call(struct messages_request *request, const char *only, struct codec_err *err) {
    if (!request->tools)
        return codec_fail(err, "tool_choice", "'tool_choice' forces a call, but there are no 'tools'");
    if (only && !tool_names_has(request->tools, (struct l4_text){only, strlen(only)}))
        return codec_fail(err, "tool_choice.name", "'tool_choice' names '%.40s', which is not in 'tools'", only);
    return tools_force_call(&request->chat, only, request->parallel_tool_calls, &request->params.grammar, err);
}

static int decode_tool_choice(struct messages_request *request, struct codec_err *err) {
    const cJSON *choice = NULL;
    struct l4_text type = {0}, name = {0};
    bool one_at_most = false;
    int rc;
    request->parallel_tool_calls = true;
    if ((rc = codec_get_object(request->body.root, "tool_choice", &choice, err)) || !choice)
        return rc;
    if (codec_get_text(choice, "type", &type, err) || codec_get_text(choice, "name", &name, err) ||
        codec_get_bool(choice, "disable_parallel_tool_use", &one_at_most, err))
        return codec_within(err, "tool_choice");
    request->parallel_tool_calls = !one_at_most;
    if (type.data && strcmp(type.data, "auto") == 0)
        return 0;
    if (type.data && strcmp(type.data, "any") == 0)
        return force_call(request, NULL, err);
    if (type.data && strcmp(type.data, "tool") == 0)
        return name.data ? force_call(request, name.data, err)
                         : codec_fail(err, "tool_choice.name", "the 'name' of the tool in 'tool_choice' is missing");
    if (!type.data || strcmp(type.data, "none") != 0)
        return codec_fail(err, "tool_choice.type",
                          "the 'type' of 'tool_choice' must be 'auto', 'any', 'tool' or 'none'");
    tool_names_close(request->tools); /* the model is not told of them, and its answer is text */
    request->tools = NULL;
    request->chat.n_tools = 0;
    return 0;
}

/* The template puts the tools into the first turn after the system's, as the user's. */
static int check_place_of_tools(const struct l4_chat *chat, struct codec_err *err) {
    size_t first = chat->n_messages > 1 && strcmp(chat->messages[0].role, "system") == 0;
    if (chat->n_tools == 0 || strcmp(chat->messages[first].role, "user") == 0)
        return 0;
    return codec_fail(err, "messages", "with 'tools' the first of 'messages' must be the user's, and begin with text");
}

/* ---- other fields -------------------------------------------------------------------------------------------------
 */

/* {"effort", "format": {"type": "json_schema", "schema"}}: the effort changes nothing here. */
static int decode_output_config(const cJSON *root, struct codec_slice slice, struct gen_params *params,
                                struct codec_err *err) {
    const cJSON *config = NULL, *format = NULL, *schema = NULL;
    struct l4_text effort, type = {0};
    int rc = codec_get_object(root, "output_config", &config, err);
    if (rc || !config)
        return rc;
    if (codec_get_text(config, "effort", &effort, err) || codec_get_object(config, "format", &format, err))
        return codec_within(err, "output_config");
    if (!format)
        return 0;
    if (codec_get_text(format, "type", &type, err) || codec_get_object(format, "schema", &schema, err))
        return codec_within(err, "output_config.format");
    if (!type.data || strcmp(type.data, "json_schema") != 0)
        return codec_fail(err, "output_config.format.type",
                          "the 'type' of 'output_config.format' must be 'json_schema'");
    if (!schema)
        return codec_fail(err, "output_config.format.schema", "the 'schema' of 'output_config.format' is missing");
    if (params->grammar)
        return codec_fail(err, "output_config.format",
                          "'output_config.format' excludes 'grammar' and 'response_format'");
    slice = codec_slice_child(codec_slice_child(slice, root, config), config, format);
    return grammar_from_schema(codec_slice_child(slice, format, schema), "output_config.format.schema",
                               &params->grammar, err);
}

static int decode_thinking(const cJSON *root, struct codec_err *err) {
    const cJSON *thinking = NULL;
    struct l4_text type = {0};
    int rc = codec_get_object(root, "thinking", &thinking, err);
    if (rc || !thinking)
        return rc;
    if (codec_get_text(thinking, "type", &type, err))
        return codec_within(err, "thinking");
    if (type.data && strcmp(type.data, "disabled") == 0)
        return 0;
    return codec_fail(err, "thinking.type", "thinking is not served: the 'type' of 'thinking' must be 'disabled'");
}

/* Later turns of a thread come without the earlier ones.  At this code Anthropic's clients send all of them instead. */
static int refuse_thread(const cJSON *root, struct codec_err *err) {
    if (!codec_get(root, "thread"))
        return 0;
    int rc = codec_fail(err, "thread", "threads are not served: nothing is kept, so 'messages' must hold all turns");
    err->code = "thread_unsupported_request";
    return rc;
}

static int decode_own(struct messages_request *request, enum messages_use use, struct codec_err *err) {
    const cJSON *root = request->body.root, *stops = NULL, *metadata = NULL;
    struct gen_params *params = &request->params;
    struct l4_text user;
    int rc;
    if ((rc = refuse_thread(root, err)) ||
        (rc = codec_get_int(root, "max_tokens", 1, INT32_MAX, &params->max_tokens, err)) ||
        (rc = codec_get_array(root, "stop_sequences", &stops, err)) ||
        (rc = params_decode_stops(stops, "stop_sequences", params, err)) ||
        (rc = codec_get_object(root, "metadata", &metadata, err)) || (rc = decode_thinking(root, err)) ||
        (rc = decode_output_config(root, codec_slice_root(&request->body), params, err)))
        return rc;
    if (use == MESSAGES_ANSWER && params->max_tokens < 0)
        return codec_fail(err, "max_tokens",
                          "'max_tokens' is missing: how many tokens the answer may have, at least 1");
    if (metadata && codec_get_text(metadata, "user_id", &user, err))
        return codec_within(err, "metadata");
    return 0;
}

int messages_decode(const char *text, size_t len_bytes, enum messages_use use, const struct codec_limits *limits,
                    struct messages_request *request, struct codec_err *err) {
    int rc;
    *request = (struct messages_request){0};
    request->storage = calloc(1, sizeof *request->storage);
    if (!request->storage)
        return codec_no_memory(err);
    if ((rc = codec_body_parse(&request->body, text, len_bytes, err)) ||
        (rc = params_decode_shared(&request->body, limits, &request->params, err)) ||
        (rc = decode_own(request, use, err)) || (rc = decode_messages(request, err)) ||
        (rc = decode_tools(request, err)) || (rc = decode_tool_choice(request, err)))
        return rc;
    return check_place_of_tools(&request->chat, err);
}

void messages_request_free(struct messages_request *request) {
    struct messages_storage *storage = request->storage;
    if (storage) {
        for (size_t i = 0; i < storage->n_turns; i++) {
            l4_buf_free(&storage->turns[i].joined);
            free(storage->turns[i].calls);
        }
        tool_texts_free(&storage->tools);
        free(storage->turns);
        free(storage->messages);
        free(storage);
    }
    tool_names_close(request->tools);
    params_free(&request->params);
    codec_body_free(&request->body);
    *request = (struct messages_request){0};
}

/* ---- answers ------------------------------------------------------------------------------------------------------
 */

enum block { BLOCK_NONE, BLOCK_TEXT, BLOCK_CALL };

struct messages_answer {
    enum block open;     /* in a stream */
    int index;           /* of the block that is open, or will be next */
    struct l4_buf stops; /* each with a NUL after it */
};

struct messages_answer *messages_answer_open(const struct gen_params *params) {
    struct messages_answer *answer = calloc(1, sizeof *answer);
    for (size_t i = 0; answer && i < params->n_stop; i++)
        l4_buf_append(&answer->stops, params->stop[i].data, params->stop[i].len_bytes + 1);
    if (answer && !answer->stops.failed)
        return answer;
    messages_answer_close(answer);
    return NULL;
}

void messages_answer_close(struct messages_answer *answer) {
    if (answer)
        l4_buf_free(&answer->stops);
    free(answer);
}

static void put_text(struct l4_buf *out, struct l4_text text) {
    codec_put_string(out, text.data, text.len_bytes);
}

static void put_usage(struct l4_buf *out, const struct answer_usage *usage) {
    l4_buf_printf(out,
                  "\"usage\":{\"input_tokens\":%lld,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":%lld,"
                  "\"output_tokens\":%lld}",
                  (long long)(usage->prompt_tokens - usage->cached_tokens), (long long)usage->cached_tokens,
                  (long long)usage->completion_tokens);
}

/* "stop_reason":...,"stop_sequence":... */
static void put_stop(struct l4_buf *out, const struct messages_answer *answer, const struct answer_choice *choice) {
    bool calls = strcmp(choice->finish_reason, "tool_calls") == 0 && choice->n_broken_calls == 0;
    const char *reason = strcmp(choice->finish_reason, "length") == 0 ? "max_tokens"
                         : calls                                      ? "tool_use"
                         : choice->stop_index >= 0                    ? "stop_sequence"
                                                                      : "end_turn";
    l4_buf_printf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", reason);
    if (strcmp(reason, "stop_sequence") == 0) {
        const char *stop = answer->stops.data;
        for (int i = 0; i < choice->stop_index; i++)
            stop += strlen(stop) + 1;
        codec_put_string(out, stop, strlen(stop));
    } else {
        l4_buf_puts(out, "null");
    }
}

/* {"id":...,"model":... without the end */
static void put_head(struct l4_buf *out, const struct answer_head *head) {
    l4_buf_printf(out, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", head->id);
    codec_put_string(out, head->model, strlen(head->model));
}

/* The block of a call up to its input. */
static void put_call_head(struct l4_buf *out, const struct answer_call *call) {
    l4_buf_printf(out, "{\"type\":\"tool_use\",\"id\":\"toolu_%s\",\"name\":", call->id + strlen(ANSWER_CALL_PREFIX));
    codec_put_string(out, call->name.data, call->name.len);
    l4_buf_puts(out, ",\"input\":");
}

void messages_put_whole(struct l4_buf *out, const struct answer_head *head, const struct answer_usage *usage,
                        const struct messages_answer *answer, const struct answer_choice *choice) {
    const char *comma = "";
    put_head(out, head);
    l4_buf_puts(out, ",\"content\":[");
    if (choice->text.len_bytes > 0) {
        l4_buf_puts(out, "{\"type\":\"text\",\"text\":");
        put_text(out, choice->text);
        l4_buf_puts(out, "}");
        comma = ",";
    }
    for (size_t i = 0; i < choice->n_calls; i++, comma = ",") {
        l4_buf_puts(out, comma);
        put_call_head(out, &choice->calls[i]);
        l4_buf_append(out, choice->calls[i].arguments.data, choice->calls[i].arguments.len);
        l4_buf_puts(out, "}");
    }
    l4_buf_puts(out, "],");
    put_stop(out, answer, choice);
    l4_buf_puts(out, ",");
    put_usage(out, usage);
    l4_buf_puts(out, "}");
}

/* ---- streams ------------------------------------------------------------------------------------------------------
 */

static void open_event(struct l4_buf *out, const char *type) {
    sse_open_event(out, type);
    l4_buf_printf(out, "{\"type\":\"%s\"", type);
}

static void close_event(struct l4_buf *out) {
    l4_buf_puts(out, "}");
    sse_close(out);
}

static void open_block_event(struct l4_buf *out, const char *type, const struct messages_answer *answer) {
    open_event(out, type);
    l4_buf_printf(out, ",\"index\":%d", answer->index);
}

static void close_block(struct l4_buf *out, struct messages_answer *answer) {
    if (answer->open == BLOCK_NONE)
        return;
    open_block_event(out, "content_block_stop", answer);
    close_event(out);
    answer->open = BLOCK_NONE;
    answer->index++;
}

static void open_block(struct l4_buf *out, struct messages_answer *answer, enum block kind) {
    close_block(out, answer);
    answer->open = kind;
    open_block_event(out, "content_block_start", answer);
    l4_buf_puts(out, ",\"content_block\":");
}

void messages_put_start(struct l4_buf *out, const struct answer_head *head, const struct answer_usage *usage) {
    open_event(out, "message_start");
    l4_buf_puts(out, ",\"message\":");
    put_head(out, head);
    l4_buf_puts(out, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,");
    put_usage(out, usage);
    l4_buf_puts(out, "}");
    close_event(out);
}

static void put_delta(struct l4_buf *out, const struct messages_answer *answer, const char *type, const char *field,
                      struct l4_text text) {
    open_block_event(out, "content_block_delta", answer);
    l4_buf_printf(out, ",\"delta\":{\"type\":\"%s\",\"%s\":", type, field);
    put_text(out, text);
    l4_buf_puts(out, "}");
    close_event(out);
}

void messages_put_text(struct l4_buf *out, struct messages_answer *answer, struct l4_text text) {
    if (text.len_bytes == 0)
        return;
    if (answer->open != BLOCK_TEXT) {
        open_block(out, answer, BLOCK_TEXT);
        l4_buf_puts(out, "{\"type\":\"text\",\"text\":\"\"}");
        close_event(out);
    }
    put_delta(out, answer, "text_delta", "text", text);
}

void messages_put_call(struct l4_buf *out, struct messages_answer *answer, const struct answer_choice *choice) {
    const struct answer_call *call = choice->calls;
    if (choice->begins_call) {
        open_block(out, answer, BLOCK_CALL);
        put_call_head(out, call);
        l4_buf_puts(out, "{}}");
        close_event(out);
    } else {
        put_delta(out, answer, "input_json_delta", "partial_json",
                  (struct l4_text){call->arguments.data, call->arguments.len});
    }
}

void messages_put_finish(struct l4_buf *out, struct messages_answer *answer, const struct answer_usage *usage,
                         const struct answer_choice *choice) {
    close_block(out, answer);
    open_event(out, "message_delta");
    l4_buf_puts(out, ",\"delta\":{");
    put_stop(out, answer, choice);
    l4_buf_puts(out, "},");
    put_usage(out, usage);
    close_event(out);
}

void messages_put_end(struct l4_buf *out) {
    open_event(out, "message_stop");
    close_event(out);
}
