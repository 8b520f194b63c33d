/* Any bytes as the text of an answer: calls have JSON arguments, nothing else is lost, and how the text is cut into
 * pieces changes nothing. */
#include <cjson/cJSON.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/tool_calls.h"

struct parse {
    struct l4_buf source, arguments, seen;
};

static void require(bool ok) {
    if (!ok)
        abort();
}

static void on_event(void *user, const struct tool_event *event) {
    struct parse *parse = user;
    struct l4_text text = event->text;
    require(text.len_bytes > 0);
    if (event->type == TOOL_CALL_BEGIN) {
        l4_buf_clear(&parse->arguments);
    } else if (event->type == TOOL_CALL_ARGUMENTS) {
        l4_buf_append(&parse->arguments, text.data, text.len_bytes);
    } else {
        l4_buf_append(&parse->source, text.data, text.len_bytes);
    }
    if (event->type == TOOL_CALL_END) {
        cJSON *json = cJSON_ParseWithOpts(parse->arguments.data, NULL, true);
        require(cJSON_IsObject(json));
        cJSON_Delete(json);
    }
    if (event->type != TOOL_CONTENT && event->type != TOOL_CALL_ARGUMENTS) {
        l4_buf_printf(&parse->seen, "%d %zu ", (int)event->type, event->call);
        l4_buf_append(&parse->seen, text.data, text.len_bytes);
        l4_buf_append(&parse->seen, parse->arguments.data ? parse->arguments.data : "", parse->arguments.len);
    }
}

static void run(struct parse *parse, const struct tool_names *names, const uint8_t *data, size_t size, size_t piece,
                size_t max_calls) {
    *parse = (struct parse){0};
    struct tool_calls *calls = tool_calls_open(names, max_calls, on_event, parse);
    require(calls != NULL);
    for (size_t i = 0, n; i < size; i += n) {
        n = size - i < piece ? size - i : piece;
        tool_calls_feed(calls, (const char *)data + i, n);
    }
    tool_calls_finish(calls);
    require(!tool_calls_failed(calls));
    require(parse->source.len == size && (size == 0 || memcmp(parse->source.data, data, size) == 0));
    tool_calls_close(calls);
}

static void parse_free(struct parse *parse) {
    l4_buf_free(&parse->source);
    l4_buf_free(&parse->arguments);
    l4_buf_free(&parse->seen);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tool_names *names = tool_names_open();
    require(names && tool_names_add(names, (struct l4_text){"f", 1}) &&
            tool_names_add(names, (struct l4_text){"get_weather", 11}));
    for (size_t max_calls = 0; max_calls < 2; max_calls++) {
        struct parse whole, bytes;
        run(&whole, names, data, size, size ? size : 1, max_calls);
        run(&bytes, names, data, size, 1, max_calls);
        require(whole.seen.len == bytes.seen.len &&
                (whole.seen.len == 0 || memcmp(whole.seen.data, bytes.seen.data, whole.seen.len) == 0));
        parse_free(&whole);
        parse_free(&bytes);
    }
    tool_names_close(names);
    return 0;
}
