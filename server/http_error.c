/* Error objects, and the one table from engine errors to HTTP. */
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

/* "type" by status; what is not here follows its class. */
static const struct {
    int status;
    const char *type;
} STATUS_TYPE[] = {
    {401, "invalid_api_key"},     {404, "not_found_error"}, {408, "timeout_error"},       {413, "request_too_large"},
    {429, "rate_limit_exceeded"}, {500, "server_error"},    {503, "service_unavailable"},
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

static const char *status_type(int status) {
    for (size_t i = 0; i < sizeof(STATUS_TYPE) / sizeof(STATUS_TYPE[0]); i++)
        if (STATUS_TYPE[i].status == status)
            return STATUS_TYPE[i].type;
    return status >= 500 ? "server_error" : "invalid_request_error";
}

static void append_string(struct l4_buf *out, const char *text) {
    if (text != NULL)
        codec_put_string(out, text, strlen(text));
    else
        l4_buf_puts(out, "null");
}

void http_error_json(struct l4_buf *out, int status, const char *param, const char *code, const char *message) {
    l4_buf_puts(out, "{\"error\": {\"message\": ");
    append_string(out, message);
    l4_buf_puts(out, ", \"type\": ");
    append_string(out, status_type(status));
    l4_buf_puts(out, ", \"param\": ");
    append_string(out, param);
    l4_buf_puts(out, ", \"code\": ");
    append_string(out, code);
    l4_buf_puts(out, "}}");
}
