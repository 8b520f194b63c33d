/* Error objects in the shapes of two APIs, and the one table from engine errors to HTTP. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/codec_json.h"
#include "server/http.h"

static const struct {
    int l4_code;
    int status;
    const char *code;
} ERR_STATUS[] = {
    {L4_E_NOMEM, 503, "out_of_memory"},
    {L4_E_IO, 500, NULL},
    {L4_E_FORMAT, 500, NULL},
    {L4_E_UNSUPPORTED, 400, "unsupported"},
    {L4_E_INVALID, 400, NULL},
    {L4_E_NOT_FOUND, 404, NULL},
    {L4_E_CONTEXT_LENGTH, 400, "context_length_exceeded"},
    {L4_E_QUEUE_FULL, 429, "rate_limit_exceeded"},
    {L4_E_SHUTDOWN, 503, "shutting_down"},
    {L4_E_CANCELLED, 503, "cancelled"},
    {L4_E_KV_FULL, 503, "kv_cache_full"},
    {L4_E_INTERNAL, 500, NULL},
};

/* "type" by status, for OpenAI's clients and for Anthropic's; what is not here follows its class. */
static const struct {
    int status;
    const char *openai, *anthropic;
} STATUS_TYPE[] = {
    {401, "invalid_api_key", "authentication_error"}, {403, "permission_error", "permission_error"},
    {404, "not_found_error", "not_found_error"},      {408, "timeout_error", "timeout_error"},
    {413, "request_too_large", "request_too_large"},  {429, "rate_limit_exceeded", "rate_limit_error"},
    {503, "service_unavailable", "overloaded_error"}, {529, "service_unavailable", "overloaded_error"},
};

int http_err_status(int l4_code) {
    for (size_t i = 0; i < sizeof(ERR_STATUS) / sizeof(ERR_STATUS[0]); i++)
        if (ERR_STATUS[i].l4_code == l4_code)
            return ERR_STATUS[i].status;
    return 500;
}

const char *http_err_code(int l4_code) {
    for (size_t i = 0; i < sizeof(ERR_STATUS) / sizeof(ERR_STATUS[0]); i++)
        if (ERR_STATUS[i].l4_code == l4_code)
            return ERR_STATUS[i].code;
    return NULL;
}

bool http_is_messages(const char *path) {
    static const char MESSAGES[] = "/v1/messages";
    size_t len = sizeof(MESSAGES) - 1;
    return path != NULL && strncmp(path, MESSAGES, len) == 0 && (path[len] == '\0' || path[len] == '/');
}

static const char *status_type(int status, bool anthropic) {
    for (size_t i = 0; i < sizeof(STATUS_TYPE) / sizeof(STATUS_TYPE[0]); i++)
        if (STATUS_TYPE[i].status == status)
            return anthropic ? STATUS_TYPE[i].anthropic : STATUS_TYPE[i].openai;
    return status < 500 ? "invalid_request_error" : anthropic ? "api_error" : "server_error";
}

static void append_string(struct l4_buf *out, const char *text) {
    if (text != NULL)
        codec_put_string(out, text, strlen(text));
    else
        l4_buf_puts(out, "null");
}

static void put_openai(struct l4_buf *out, const struct http_error *error) {
    l4_buf_puts(out, "{\"error\": {\"message\": ");
    append_string(out, error->message);
    l4_buf_puts(out, ", \"type\": ");
    append_string(out, status_type(error->status, false));
    l4_buf_puts(out, ", \"param\": ");
    append_string(out, error->param);
    l4_buf_puts(out, ", \"code\": ");
    append_string(out, error->code);
    l4_buf_puts(out, "}}");
}

/* The shape has no place for param: without it in the message nobody would know which block of which message it is. */
static void put_anthropic(struct l4_buf *out, const char *request_id, const struct http_error *error) {
    char message[1280];
    snprintf(message, sizeof(message), "%s%s%s", error->param != NULL ? error->param : "",
             error->param != NULL ? ": " : "", error->message);
    l4_buf_puts(out, "{\"type\": \"error\", \"error\": {\"type\": ");
    append_string(out, status_type(error->status, true));
    l4_buf_puts(out, ", \"message\": ");
    append_string(out, message);
    if (error->code != NULL) {
        l4_buf_puts(out, ", \"details\": {\"error_code\": ");
        append_string(out, error->code);
        l4_buf_puts(out, "}");
    }
    l4_buf_puts(out, "}");
    if (request_id != NULL) {
        l4_buf_puts(out, ", \"request_id\": ");
        append_string(out, request_id);
    }
    l4_buf_puts(out, "}");
}

void http_error_json(struct l4_buf *out, const char *path, const char *request_id, const struct http_error *error) {
    if (http_is_messages(path))
        put_anthropic(out, request_id, error);
    else
        put_openai(out, error);
}

const char *http_error_no_memory(const char *path) {
    return http_is_messages(path)
               ? "{\"type\": \"error\", \"error\": {\"type\": \"overloaded_error\", \"message\": \"out of memory\"}}"
               : "{\"error\": {\"message\": \"out of memory\", \"type\": \"service_unavailable\", \"param\": null, "
                 "\"code\": \"out_of_memory\"}}";
}
