#include "server/codec_tools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int tools_open_names(const cJSON *tools, struct tool_names **names, struct codec_err *err) {
    int n = cJSON_GetArraySize(tools);
    if (n > TOOLS_MAX_N)
        return codec_fail(err, "tools", "'tools' holds %d tools, %d are allowed", n, TOOLS_MAX_N);
    *names = tool_names_open();
    return *names ? 0 : codec_no_memory(err);
}

int tools_add_name(struct tool_names *names, struct l4_text name, const char *param, struct codec_err *err) {
    if (name.len_bytes == 0)
        return codec_fail(err, param, "the name of a tool is missing");
    if (!tool_name_is_valid(name))
        return codec_fail(err, param,
                          "the name of a tool must be 1 to %d letters, digits, '_', '-' and '.', not '%.40s'",
                          TOOL_CALLS_MAX_NAME_BYTES, name.data);
    if (tool_names_has(names, name))
        return codec_fail(err, param, "two tools are named '%.128s'", name.data);
    return tool_names_add(names, name) ? 0 : codec_no_memory(err);
}

int tools_read(const struct codec_body *body, tools_read_one *read_one, void *user, struct tool_names **names,
               struct tool_texts *texts, struct codec_err *err) {
    const cJSON *tools = NULL, *tool;
    int rc = codec_get_array(body->root, "tools", &tools, err);
    if (rc || !tools || !tools->child || (rc = tools_open_names(tools, names, err)))
        return rc;
    size_t n = (size_t)cJSON_GetArraySize(tools);
    texts->json = calloc(n, sizeof *texts->json);
    texts->storage = calloc(n, sizeof *texts->storage);
    if (!texts->json || !texts->storage)
        return codec_no_memory(err);
    struct codec_slice cursor = codec_slice_enter(codec_slice_child(codec_slice_root(body), body->root, tools));
    cJSON_ArrayForEach(tool, tools) {
        size_t i = texts->n++;
        struct l4_buf *text = &texts->storage[i];
        if (read_one(user, tool, codec_slice_next(&cursor, false), i, *names, text, err))
            return codec_within(err, "tools[%zu]", i);
        if (text->failed)
            return codec_no_memory(err);
        texts->json[i] = (struct l4_text){text->data, text->len};
    }
    return 0;
}

void tool_texts_free(struct tool_texts *texts) {
    for (size_t i = 0; i < texts->n; i++)
        l4_buf_free(&texts->storage[i]);
    free(texts->storage);
    free(texts->json);
    *texts = (struct tool_texts){0};
}

int tools_check_json(struct codec_slice json, const char *param, struct codec_err *err) {
    struct l4_buf ignored = {0};
    struct l4_err why;
    int rc = l4_json_python(json.p, (size_t)(json.end - json.p), 0, &ignored, &why);
    l4_buf_free(&ignored);
    if (rc == 0)
        return 0;
    return rc == L4_E_NOMEM ? codec_no_memory(err) : codec_fail(err, param, "'%s': %.300s", param, why.message);
}

int tools_force_call(const struct l4_chat *chat, const char *only, bool parallel, struct l4_grammar **grammar,
                     struct codec_err *err) {
    struct l4_buf gbnf = {0};
    struct l4_err why;
    if (*grammar)
        return codec_fail(err, "tool_choice",
                          "a 'tool_choice' that forces a call excludes 'grammar' and every format but text");
    int rc = l4_grammar_from_tools(chat->tools_json, chat->n_tools, only, parallel, &gbnf, &why);
    if (rc == 0)
        rc = l4_grammar_open(grammar, gbnf.data, gbnf.len, &why);
    l4_buf_free(&gbnf);
    if (rc == 0)
        return 0;
    if (why.code == L4_E_NOMEM)
        return codec_no_memory(err);
    char param[sizeof err->param]; /* "tools[0].function.parameters: ..." */
    bool has_place = strncmp(why.message, "tools[", 6) == 0;
    snprintf(param, sizeof param, "%.*s", has_place ? (int)strcspn(why.message, ":") : 0, why.message);
    return codec_fail(err, has_place ? param : "tools", "'tool_choice' forces a call, but not of these tools: %.300s",
                      why.message);
}
