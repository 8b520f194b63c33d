#include "server/codec_responses.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/codec_content.h"
#include "server/codec_grammar.h"
#include "server/codec_tools.h"

/* What the l4_chat of a request points to and the body's tree does not hold. */
struct responses_storage {
    struct l4_message *messages;
    struct l4_buf *joined; /* content of several parts; one a message */
    size_t n_messages;
    struct l4_tool_call *calls; /* of all messages, in their order */
    size_t n_calls;
    struct tool_texts tools;
    struct l4_buf tools_echo;
};

/* ---- input --------------------------------------------------------------------------------------------------------
 */

/* Room for the messages of n items and for instructions. */
static int open_messages(struct responses_request *request, size_t n, struct codec_err *err) {
    struct responses_storage *storage = request->storage;
    storage->messages = calloc(n + 1, sizeof *storage->messages);
    storage->joined = calloc(n + 1, sizeof *storage->joined);
    storage->calls = calloc(n + 1, sizeof *storage->calls);
    if (!storage->messages || !storage->joined || !storage->calls)
        return codec_no_memory(err);
    request->chat.messages = storage->messages;
    request->chat.add_generation_prompt = true;
    return 0;
}

static struct l4_message *add_message(struct responses_request *request, const char *role) {
    struct l4_message *message = &request->storage->messages[request->storage->n_messages++];
    *message = (struct l4_message){.role = role};
    request->chat.n_messages = request->storage->n_messages;
    return message;
}

/* The content of the message that was added last: the member `name` of an item. */
static int decode_content(struct responses_request *request, const cJSON *item, const char *name,
                          struct codec_err *err) {
    static const struct content_part_type types[] = {
        {"input_text", "text"}, {"output_text", "text"}, {"refusal", "refusal"}, {NULL, NULL}};
    size_t last = request->storage->n_messages - 1;
    struct l4_text *text = &request->storage->messages[last].content;
    int rc = content_decode(item, name, types, &request->storage->joined[last], text, err);
    if (rc == 0 && !text->data)
        return codec_fail(err, name, "the '%s' of an item is missing", name);
    return rc;
}

static int decode_message(struct responses_request *request, const cJSON *item, struct codec_err *err) {
    static const char *const roles[][2] = {
        {"user", "user"}, {"assistant", "assistant"}, {"system", "system"}, {"developer", "system"}};
    struct l4_text role = {0};
    size_t i = 0, n = sizeof roles / sizeof *roles;
    int rc = codec_get_text(item, "role", &role, err);
    if (rc)
        return rc;
    while (role.data && i < n && strcmp(role.data, roles[i][0]) != 0)
        i++;
    if (!role.data || i == n)
        return codec_fail(err, "role", "the 'role' of a message must be 'user', 'assistant', 'system' or 'developer'");
    add_message(request, roles[i][1]);
    return decode_content(request, item, "content", err);
}

static int get_call_id(const cJSON *item, struct codec_err *err) {
    struct l4_text call_id = {0};
    int rc = codec_get_text(item, "call_id", &call_id, err);
    return rc || call_id.data ? rc : codec_fail(err, "call_id", "the 'call_id' of an item is missing");
}

static int decode_call(struct responses_request *request, const cJSON *item, struct codec_err *err) {
    struct responses_storage *storage = request->storage;
    struct l4_tool_call *call = &storage->calls[storage->n_calls++];
    struct l4_text *arguments = &call->arguments_json;
    int rc = get_call_id(item, err);
    if (rc || (rc = codec_get_text(item, "name", &call->name, err)) ||
        (rc = codec_get_text(item, "arguments", arguments, err)))
        return rc;
    if (!call->name.data)
        return codec_fail(err, "name", "the 'name' of a function_call is missing");
    if (!arguments->data)
        return codec_fail(err, "arguments", "the 'arguments' of a function_call are missing");
    if (arguments->len_bytes == 0) /* what clients write for a call without arguments */
        *arguments = (struct l4_text){"{}", 2};
    struct codec_slice json = {arguments->data, arguments->data + arguments->len_bytes};
    if ((rc = tools_check_json(json, "arguments", err)))
        return rc;
    struct l4_message *message = storage->n_messages > 0 ? &storage->messages[storage->n_messages - 1] : NULL;
    if (!message || strcmp(message->role, "assistant") != 0) {
        message = add_message(request, "assistant");
        message->content.data = "";
    }
    message->tool_calls = message->n_tool_calls++ == 0 ? call : message->tool_calls;
    return 0;
}

static int decode_output(struct responses_request *request, const cJSON *item, struct codec_err *err) {
    int rc = get_call_id(item, err);
    if (rc)
        return rc;
    add_message(request, "tool");
    return decode_content(request, item, "output", err);
}

static int decode_item(struct responses_request *request, const cJSON *item, struct codec_err *err) {
    static const struct {
        const char *type;
        int (*decode)(struct responses_request *request, const cJSON *item, struct codec_err *err);
    } kinds[] = {{"message", decode_message},
                 {"function_call", decode_call},
                 {"function_call_output", decode_output},
                 {"reasoning", NULL}};
    struct l4_text type = {"message", 7}, ignored;
    int rc;
    if (!cJSON_IsObject(item))
        return codec_fail(err, "", "an item of 'input' must be an object, not %s", codec_kind(item));
    if ((rc = codec_get_text(item, "type", &type, err)) || (rc = codec_get_text(item, "id", &ignored, err)) ||
        (rc = codec_get_text(item, "status", &ignored, err)))
        return rc;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(type.data, kinds[i].type) == 0)
            return kinds[i].decode ? kinds[i].decode(request, item, err) : 0;
    if (strcmp(type.data, "item_reference") == 0)
        return codec_fail(err, "type", "answers are not kept: send the item itself, not a reference to it");
    return codec_fail(err, "type",
                      "items of type '%.40s' are not served: 'type' must be 'message', 'function_call', "
                      "'function_call_output' or 'reasoning'",
                      type.data);
}

static int decode_input(struct responses_request *request, struct codec_err *err) {
    const cJSON *root = request->body.root, *input = codec_get(root, "input"), *item;
    struct l4_text instructions = {0};
    int rc = codec_get_text(root, "instructions", &instructions, err);
    if (rc)
        return rc;
    if (!input)
        return codec_fail(err, "input", "'input' is missing: a string, or an array of items");
    if (!cJSON_IsString(input) && !cJSON_IsArray(input))
        return codec_fail(err, "input", "'input' must be a string or an array of items, not %s", codec_kind(input));
    if ((rc = open_messages(request, cJSON_IsArray(input) ? (size_t)cJSON_GetArraySize(input) : 1, err)))
        return rc;
    if (instructions.data)
        add_message(request, "system")->content = instructions;
    size_t before = request->chat.n_messages, n = 0;
    if (cJSON_IsString(input))
        add_message(request, "user")->content = codec_text(input);
    for (item = cJSON_IsArray(input) ? input->child : NULL; item; item = item->next, n++)
        if (decode_item(request, item, err))
            return codec_within(err, "input[%zu]", n);
    return request->chat.n_messages > before ? 0 : codec_fail(err, "input", "'input' must hold at least one message");
}

/* ---- tools --------------------------------------------------------------------------------------------------------
 */

/* "name":...,"parameters":... */
static void put_members(struct l4_buf *out, const cJSON *tool, struct codec_slice slice) {
    struct codec_slice cursor = codec_slice_enter(slice);
    const char *comma = "";
    const cJSON *member;
    cJSON_ArrayForEach(member, tool) {
        struct codec_slice value = codec_slice_next(&cursor, true);
        if (cJSON_IsNull(member) || strcmp(member->string, "type") == 0)
            continue;
        l4_buf_puts(out, comma);
        codec_put_string(out, member->string, strlen(member->string));
        l4_buf_puts(out, ":");
        codec_put_compact(out, value);
        comma = ",";
    }
}

/* The tool as clients expect to find it in the answer: members that may be left out are null. */
static void put_tool_echo(struct l4_buf *out, const cJSON *tool, struct codec_slice slice) {
    static const char *const optional[] = {"description", "parameters", "strict"};
    l4_buf_puts(out, out->len ? ",{\"type\":\"function\"," : "{\"type\":\"function\",");
    put_members(out, tool, slice);
    for (size_t i = 0; i < sizeof optional / sizeof *optional; i++)
        if (!codec_get(tool, optional[i]))
            l4_buf_printf(out, ",\"%s\":null", optional[i]);
    l4_buf_puts(out, "}");
}

/* A tool's fields; its name goes into *names. */
static int check_tool(const cJSON *tool, struct tool_names *names, struct codec_err *err) {
    struct l4_text type = {0}, name = {0}, description;
    const cJSON *parameters = NULL;
    bool strict;
    int rc;
    if (!cJSON_IsObject(tool))
        return codec_fail(err, "", "a tool must be an object, not %s", codec_kind(tool));
    if ((rc = codec_get_text(tool, "type", &type, err)))
        return rc;
    if (!type.data)
        return codec_fail(err, "type", "the 'type' of a tool is missing: it must be 'function'");
    if (strcmp(type.data, "function") != 0)
        return codec_fail(err, "type",
                          "tools of type '%.40s' are not served: 'type' must be 'function', which the client runs",
                          type.data);
    if ((rc = codec_get_text(tool, "name", &name, err)) || (rc = tools_add_name(names, name, "name", err)) ||
        (rc = codec_get_text(tool, "description", &description, err)) ||
        (rc = codec_get_object(tool, "parameters", &parameters, err)))
        return rc;
    return codec_get_bool(tool, "strict", &strict, err);
}

static int decode_tool(void *user, const cJSON *tool, struct codec_slice slice, size_t i, struct tool_names *names,
                       struct l4_buf *out, struct codec_err *err) {
    struct responses_storage *storage = user;
    char param[32];
    snprintf(param, sizeof param, "tools[%zu]", i);
    int rc = check_tool(tool, names, err);
    if (rc)
        return rc;
    if ((rc = tools_check_json(slice, param, err))) {
        err->param[0] = '\0'; /* all of the tool */
        return rc;
    }
    l4_buf_puts(out, "{\"type\":\"function\",\"function\":{");
    put_members(out, tool, slice);
    l4_buf_puts(out, "}}");
    put_tool_echo(&storage->tools_echo, tool, slice);
    return storage->tools_echo.failed ? codec_no_memory(err) : 0;
}

static int decode_tools(struct responses_request *request, struct codec_err *err) {
    struct tool_texts *tools = &request->storage->tools;
    int rc = tools_read(&request->body, decode_tool, request->storage, &request->tools, tools, err);
    request->chat.tools_json = tools->json;
    request->chat.n_tools = tools->n;
    return rc;
}

/* The template puts the tools into the first turn after the system's, as the user's. */
static int check_place_of_tools(const struct l4_chat *chat, struct codec_err *err) {
    size_t first = chat->n_messages > 1 && strcmp(chat->messages[0].role, "system") == 0;
    const char *role = chat->messages[first].role;
    if (chat->n_tools == 0 || strcmp(role, "user") == 0 || strcmp(role, "system") == 0)
        return 0;
    return codec_fail(err, "input", "with 'tools' the talk in 'input' must begin with a message of the user");
}

/* {"type": "function", "name"}: *only is the name. */
static int decode_named_choice(const struct responses_request *request, const cJSON *choice, const char **only,
                               struct codec_err *err) {
    struct l4_text type = {0}, name = {0};
    if (codec_get_text(choice, "type", &type, err) || codec_get_text(choice, "name", &name, err))
        return codec_within(err, "tool_choice");
    if (!type.data || strcmp(type.data, "function") != 0)
        return codec_fail(err, "tool_choice.type", "a 'tool_choice' that is an object must be of type 'function'");
    if (!name.data)
        return codec_fail(err, "tool_choice.name", "the 'name' of the function in 'tool_choice' is missing");
    if (request->tools && !tool_names_has(request->tools, name))
        return codec_fail(err, "tool_choice.name", "'tool_choice' names '%.40s', which is not in 'tools'", name.data);
    *only = name.data;
    return 0;
}

static int decode_tool_choice(struct responses_request *request, struct codec_err *err) {
    const cJSON *root = request->body.root, *choice = codec_get(root, "tool_choice");
    const char *only = NULL, *word = cJSON_IsString(choice) ? choice->valuestring : "";
    int rc;
    request->parallel_tool_calls = true;
    if ((rc = codec_get_bool(root, "parallel_tool_calls", &request->parallel_tool_calls, err)) || !choice ||
        strcmp(word, "auto") == 0)
        return rc;
    if (strcmp(word, "none") == 0) { /* the model is not told of them, and its answer is text */
        tool_names_close(request->tools);
        request->tools = NULL;
        request->chat.n_tools = 0;
        return 0;
    }
    if (!cJSON_IsObject(choice) && strcmp(word, "required") != 0)
        return codec_fail(err, "tool_choice",
                          "'tool_choice' must be 'none', 'auto', 'required' or an object that names a function");
    if (cJSON_IsObject(choice) && (rc = decode_named_choice(request, choice, &only, err)))
        return rc;
    if (!request->tools)
        return codec_fail(err, "tool_choice", "'tool_choice' forces a call, but there are no 'tools'");
    return tools_force_call(&request->chat, only, request->parallel_tool_calls, &request->params.grammar, err);
}

/* ---- other fields -------------------------------------------------------------------------------------------------
 */

/* What would change the answer if it were served: to ignore it would be a lie. */
static int refuse_fields(const cJSON *root, struct codec_err *err) {
    static const char not_kept[] = "answers are not kept: send the whole talk in 'input'";
    static const char *const refused[][2] = {
        {"previous_response_id", not_kept},
        {"conversation", not_kept},
        {"prompt", "templates are not kept: send their text in 'instructions' and 'input'"},
        {"response_format", "this endpoint calls it 'text.format'"},
        {"max_tokens", "this endpoint calls it 'max_output_tokens'"},
        {"max_completion_tokens", "this endpoint calls it 'max_output_tokens'"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (codec_get(root, refused[i][0]))
            return codec_fail(err, refused[i][0], "'%s' is not served: %s", refused[i][0], refused[i][1]);
    return 0;
}

/* {"format", "verbosity"} */
static int decode_text(struct responses_request *request, struct codec_err *err) {
    const cJSON *root = request->body.root, *text = NULL, *format = NULL;
    struct l4_grammar *grammar = NULL;
    struct l4_text verbosity;
    int rc = codec_get_object(root, "text", &text, err);
    if (rc || !text)
        return rc;
    if (codec_get_text(text, "verbosity", &verbosity, err) || codec_get_object(text, "format", &format, err))
        return codec_within(err, "text");
    if (!format)
        return 0;
    struct codec_slice slice = codec_slice_child(codec_slice_root(&request->body), root, text);
    slice = codec_slice_child(slice, text, format);
    if ((rc = grammar_decode_format(format, slice, "text.format", GRAMMAR_FORMAT_FLAT, &grammar, err)) || !grammar)
        return rc;
    if (request->params.grammar) {
        l4_grammar_close(grammar);
        return codec_fail(err, "grammar", "'grammar' and a 'text.format' other than text exclude each other");
    }
    request->params.grammar = grammar;
    return 0;
}

/* Of what may be included only log-probabilities exist here; top_logprobs asks for them, too. */
static int decode_logprobs(const cJSON *root, struct gen_params *params, struct codec_err *err) {
    const cJSON *include = NULL, *item;
    int64_t n_top = 0;
    int rc = codec_get_array(root, "include", &include, err);
    if (rc || (rc = codec_get_int(root, "top_logprobs", 0, L4_MAX_TOP_LOGPROBS, &n_top, err)))
        return rc;
    cJSON_ArrayForEach(item, include) {
        if (!cJSON_IsString(item))
            return codec_fail(err, "include", "'include' must hold strings, not %s", codec_kind(item));
        params->logprobs |= strcmp(item->valuestring, "message.output_text.logprobs") == 0;
    }
    params->n_top_logprobs = (int)n_top;
    params->logprobs |= n_top > 0;
    return 0;
}

static int decode_metadata(const cJSON *root, struct codec_err *err) {
    const cJSON *metadata = NULL, *item;
    int rc = codec_get_object(root, "metadata", &metadata, err);
    if (rc)
        return rc;
    cJSON_ArrayForEach(item, metadata) {
        if (!cJSON_IsString(item))
            return codec_fail(err, "metadata", "'metadata' must hold strings, but '%.40s' is %s", item->string,
                              codec_kind(item));
    }
    return 0;
}

static int decode_cache_key(const cJSON *root, struct gen_params *params, struct codec_err *err) {
    struct l4_text key = {0};
    int rc = codec_get_text(root, "prompt_cache_key", &key, err);
    if (rc || !key.data)
        return rc;
    if (key.len_bytes > L4_MAX_SALT_BYTES)
        return codec_fail(err, "prompt_cache_key", "'prompt_cache_key' has %zu bytes, %d are allowed", key.len_bytes,
                          L4_MAX_SALT_BYTES);
    if (params->salt[0] == '\0')
        memcpy(params->salt, key.data, key.len_bytes + 1);
    return 0;
}

/* Fields without effect here whose type is checked all the same. */
static int check_rest(const cJSON *root, struct codec_err *err) {
    const cJSON *options = NULL, *reasoning = NULL;
    bool store, obfuscation;
    int64_t max_tool_calls;
    struct l4_text ignored;
    int rc;
    if ((rc = codec_get_bool(root, "store", &store, err)) ||
        (rc = codec_get_text(root, "service_tier", &ignored, err)) ||
        (rc = codec_get_text(root, "safety_identifier", &ignored, err)) ||
        (rc = codec_get_int(root, "max_tool_calls", 1, INT32_MAX, &max_tool_calls, err)) ||
        (rc = codec_get_object(root, "reasoning", &reasoning, err)) ||
        (rc = codec_get_object(root, "stream_options", &options, err)))
        return rc;
    if (options && codec_get_bool(options, "include_obfuscation", &obfuscation, err))
        return codec_within(err, "stream_options");
    return 0;
}

static int decode_own(struct responses_request *request, struct codec_err *err) {
    const cJSON *root = request->body.root;
    struct gen_params *params = &request->params;
    struct l4_text truncation = {0};
    bool background = false;
    int rc;
    if ((rc = codec_get_int(root, "max_output_tokens", 1, INT32_MAX, &params->max_tokens, err)) ||
        (rc = codec_get_bool(root, "background", &background, err)) ||
        (rc = codec_get_text(root, "truncation", &truncation, err)) || (rc = decode_logprobs(root, params, err)) ||
        (rc = decode_metadata(root, err)) || (rc = decode_cache_key(root, params, err)) ||
        (rc = check_rest(root, err)) || (rc = decode_text(request, err)))
        return rc;
    if (params->n != 1)
        return codec_fail(err, "n", "'n' must be 1, not %d: this endpoint gives one answer", params->n);
    if (background)
        return codec_fail(err, "background", "'background' is not served: answers are not kept");
    if (truncation.data && strcmp(truncation.data, "disabled") != 0)
        return codec_fail(err, "truncation", "'truncation' must be 'disabled', not '%.40s': input is never dropped",
                          truncation.data);
    return 0;
}

/* ---- what the answer repeats --------------------------------------------------------------------------------------
 */

static void put_string_field(struct l4_buf *out, const cJSON *root, const char *name) {
    const cJSON *item = codec_get(root, name);
    l4_buf_printf(out, "\"%s\":", name);
    if (item)
        codec_put_string(out, item->valuestring, strlen(item->valuestring));
    else
        l4_buf_puts(out, "null");
    l4_buf_puts(out, ",");
}

static void put_int_field(struct l4_buf *out, const cJSON *root, const char *name) {
    const cJSON *item = codec_get(root, name);
    if (item)
        l4_buf_printf(out, "\"%s\":%lld,", name, (long long)item->valuedouble);
    else
        l4_buf_printf(out, "\"%s\":null,", name);
}

/* Of a schema's members those that are known. */
static void put_format(struct l4_buf *out, const cJSON *format, struct codec_slice slice) {
    static const char *const members[] = {"name", "description", "strict", "schema"};
    const char *type = format ? codec_get(format, "type")->valuestring : "text";
    l4_buf_printf(out, "{\"type\":\"%s\"", type);
    for (size_t i = 0; strcmp(type, "json_schema") == 0 && i < sizeof members / sizeof *members; i++) {
        const cJSON *member = codec_get(format, members[i]);
        if (!member)
            continue;
        l4_buf_printf(out, ",\"%s\":", members[i]);
        codec_put_compact(out, codec_slice_child(slice, format, member));
    }
    l4_buf_puts(out, "}");
}

static void put_text(struct l4_buf *out, const cJSON *root, struct codec_slice slice) {
    const cJSON *text = codec_get(root, "text"), *format = codec_get(text, "format");
    const cJSON *verbosity = codec_get(text, "verbosity");
    if (format)
        slice = codec_slice_child(codec_slice_child(slice, root, text), text, format);
    l4_buf_puts(out, "\"text\":{\"format\":");
    put_format(out, format, slice);
    l4_buf_puts(out, ",\"verbosity\":");
    codec_put_string(out, verbosity ? verbosity->valuestring : "medium",
                     verbosity ? strlen(verbosity->valuestring) : 6);
    l4_buf_puts(out, "},");
}

static void put_tool_choice(struct l4_buf *out, const cJSON *root) {
    const cJSON *choice = codec_get(root, "tool_choice");
    l4_buf_puts(out, "\"tool_choice\":");
    if (cJSON_IsObject(choice)) {
        const char *name = codec_get(choice, "name")->valuestring;
        l4_buf_puts(out, "{\"type\":\"function\",\"name\":");
        codec_put_string(out, name, strlen(name));
        l4_buf_puts(out, "},");
    } else {
        l4_buf_printf(out, "\"%s\",", choice ? choice->valuestring : "auto");
    }
}

/* Strings, as the client wrote them. */
static void put_metadata(struct l4_buf *out, const cJSON *root, struct codec_slice slice) {
    const cJSON *metadata = codec_get(root, "metadata");
    l4_buf_puts(out, "\"metadata\":");
    if (metadata)
        codec_put_compact(out, codec_slice_child(slice, root, metadata));
    else
        l4_buf_puts(out, "{}");
    l4_buf_puts(out, ",");
}

static int put_echo(struct responses_request *request, struct codec_err *err) {
    const cJSON *root = request->body.root;
    const struct gen_params *params = &request->params;
    struct codec_slice slice = codec_slice_root(&request->body);
    struct l4_buf *out = &request->echo, *tools = &request->storage->tools_echo;
    l4_buf_puts(out, "\"background\":false,");
    put_string_field(out, root, "instructions");
    put_int_field(out, root, "max_output_tokens");
    put_int_field(out, root, "max_tool_calls");
    put_metadata(out, root, slice);
    l4_buf_printf(out, "\"parallel_tool_calls\":%s,\"previous_response_id\":null,",
                  request->parallel_tool_calls ? "true" : "false");
    put_string_field(out, root, "prompt_cache_key");
    l4_buf_puts(out, "\"reasoning\":{\"effort\":null,\"summary\":null},");
    put_string_field(out, root, "safety_identifier");
    /* Seven digits: what a float keeps of the number that the client wrote. */
    l4_buf_printf(out, "\"service_tier\":\"default\",\"store\":false,\"temperature\":%.7g,",
                  (double)params->sampling.temperature);
    put_text(out, root, slice);
    put_tool_choice(out, root);
    l4_buf_puts(out, "\"tools\":[");
    l4_buf_append(out, tools->data, tools->len);
    l4_buf_puts(out, "],");
    put_string_field(out, root, "user");
    l4_buf_printf(out, "\"top_logprobs\":%d,\"top_p\":%.7g,\"truncation\":\"disabled\"", params->n_top_logprobs,
                  (double)params->sampling.top_p);
    return out->failed || tools->failed ? codec_no_memory(err) : 0;
}

int responses_decode(const char *text, size_t len_bytes, const struct codec_limits *limits,
                     struct responses_request *request, struct codec_err *err) {
    int rc;
    *request = (struct responses_request){0};
    request->storage = calloc(1, sizeof *request->storage);
    if (!request->storage)
        return codec_no_memory(err);
    if ((rc = codec_body_parse(&request->body, text, len_bytes, err)) ||
        (rc = refuse_fields(request->body.root, err)) ||
        (rc = params_decode(&request->body, limits, &request->params, err)) || (rc = decode_own(request, err)) ||
        (rc = decode_input(request, err)) || (rc = decode_tools(request, err)) ||
        (rc = decode_tool_choice(request, err)) || (rc = check_place_of_tools(&request->chat, err)))
        return rc;
    return put_echo(request, err);
}

void responses_request_free(struct responses_request *request) {
    struct responses_storage *storage = request->storage;
    if (storage) {
        for (size_t i = 0; i < storage->n_messages; i++)
            l4_buf_free(&storage->joined[i]);
        tool_texts_free(&storage->tools);
        l4_buf_free(&storage->tools_echo);
        free(storage->messages);
        free(storage->joined);
        free(storage->calls);
        free(storage);
    }
    tool_names_close(request->tools);
    l4_buf_free(&request->echo);
    params_free(&request->params);
    codec_body_free(&request->body);
    *request = (struct responses_request){0};
}
