/* An exchange from the handler's side: what was asked, the answer, the stream. */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <utlist.h>

#include "server/auth.h"
#include "server/http_internal.h"
#include "server/log.h"
#include "server/metrics.h"

/* A reader that does not read would otherwise take megabytes of the kernel's memory. */
enum { STREAM_SNDBUF_BYTES = 64 * 1024, STREAM_BLOCK_BYTES = 32 * 1024 };

static bool is_sane_id(const char *id) {
    if (id == NULL || id[0] == '\0' || strlen(id) >= HTTP_REQUEST_ID_BYTES)
        return false;
    return strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == strlen(id);
}

/* splitmix64: ids that do not repeat and do not tell how many requests there were. */
void exchange_new_id(struct httpd *httpd, char id[HTTP_REQUEST_ID_BYTES]) {
    uint64_t z = httpd->id_random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    snprintf(id, HTTP_REQUEST_ID_BYTES, "req-%016llx", (unsigned long long)(z ^ (z >> 31)));
}

struct http_exchange *exchange_open(struct http_conn *conn, const char *method, const char *path) {
    struct http_exchange *x = calloc(1, sizeof(*x));
    if (x == NULL)
        return NULL;
    x->method = strdup(method);
    x->path = strdup(path);
    l4_buf_append(&x->body, "", 0); /* a body is never NULL */
    if (x->method == NULL || x->path == NULL || x->body.failed) {
        free(x->method);
        free(x->path);
        l4_buf_free(&x->body);
        free(x);
        return NULL;
    }
    x->httpd = conn->httpd;
    x->conn = conn;
    x->n_refs = 1;
    x->start_ns = uv_hrtime();
    x->prompt_tokens = x->completion_tokens = -1;
    x->route = -1;
    x->retry_after_s = 1;
    const char *id = MHD_lookup_connection_value(conn->mhd, MHD_HEADER_KIND, "x-request-id");
    if (is_sane_id(id))
        snprintf(x->request_id, sizeof(x->request_id), "%s", id);
    else
        exchange_new_id(conn->httpd, x->request_id);
    return x;
}

static void free_headers(struct http_exchange *x) {
    while (x->headers != NULL) {
        struct http_header *next = x->headers->next;
        free(x->headers);
        x->headers = next;
    }
}

void exchange_unref(struct http_exchange *x) {
    if (--x->n_refs > 0)
        return;
    if (x->is_due)
        DL_DELETE2(x->httpd->due, x, due_prev, due_next);
    http_body_done(x);
    free_headers(x);
    l4_buf_free(&x->out);
    free(x->method);
    free(x->path);
    free(x);
}

void exchange_due(struct http_exchange *x) {
    if (x->is_due)
        return;
    x->is_due = true;
    DL_APPEND2(x->httpd->due, x, due_prev, due_next);
}

/* The handler has no more to do with x. */
static void disown(struct http_exchange *x) {
    x->owned = false;
    x->gone = NULL;
    exchange_unref(x);
}

void exchange_lose(struct http_exchange *x, const char *why) {
    if (!x->lost)
        x->why_lost = why;
    x->lost = true;
    if (!x->owned || x->gone == NULL)
        return; /* a handler that set no callback finds out by itself: what it still sends goes nowhere */
    void (*gone)(void *user) = x->gone;
    x->owned = false;
    x->gone = NULL;
    gone(x->gone_user);
    exchange_unref(x);
}

void exchange_ended(struct http_exchange *x) {
    double seconds = (double)(uv_hrtime() - x->start_ns) * 1e-9;
    const char *client = http_client_name(x);
    char path[256], tokens[96] = "";
    if (x->prompt_tokens >= 0)
        snprintf(tokens, sizeof(tokens), " prompt_tokens=%lld completion_tokens=%lld", (long long)x->prompt_tokens,
                 (long long)x->completion_tokens);
    bool probe = x->status == 200 && (strcmp(x->path, "/health") == 0 || strcmp(x->path, "/ready") == 0 ||
                                      strcmp(x->path, "/metrics") == 0);
    log_event(probe ? L4_LOG_DEBUG : L4_LOG_INFO, x->request_id,
              "request method=%.20s path=%s status=%d duration_ms=%.1f%s%s%s%s%s", x->method,
              log_quote(path, sizeof(path), x->path), x->status, seconds * 1e3, client != NULL ? " key=" : "",
              client != NULL ? client : "", tokens, x->lost ? " cut=" : "", x->lost ? x->why_lost : "");
    metrics_request(x->httpd->metrics, x->route, x->status, seconds);
    if (x->client != NULL)
        auth_end(x->client, x->client_running);
    x->client = NULL;
}

/* ---- what was asked ---------------------------------------------------------------------------------------------- */

const char *http_method(const struct http_exchange *x) {
    return x->method;
}
const char *http_path(const struct http_exchange *x) {
    return x->path;
}
const char *http_request_id(const struct http_exchange *x) {
    return x->request_id;
}

const char *http_header(const struct http_exchange *x, const char *name) {
    return x->conn != NULL ? MHD_lookup_connection_value(x->conn->mhd, MHD_HEADER_KIND, name) : NULL;
}

const char *http_body(const struct http_exchange *x, size_t *len_bytes) {
    *len_bytes = x->body.len;
    return x->body.data;
}

void http_body_done(struct http_exchange *x) {
    x->httpd->body_bytes -= x->body.len;
    l4_buf_free(&x->body);
}

/* ---- the answer -------------------------------------------------------------------------------------------------- */

void http_add_header(struct http_exchange *x, const char *name, const char *value) {
    size_t name_bytes = strlen(name) + 1, value_bytes = strlen(value) + 1;
    struct http_header *header = malloc(sizeof(*header) + name_bytes + value_bytes);
    if (header == NULL)
        return; /* the answer goes out without it */
    memcpy(header->name, name, name_bytes);
    memcpy(header->name + name_bytes, value, value_bytes);
    header->value = header->name + name_bytes;
    header->next = x->headers;
    x->headers = header;
}

static int64_t max_0(int64_t n) {
    return n > 0 ? n : 0;
}

void http_note_tokens(struct http_exchange *x, int64_t prompt_tokens, int64_t completion_tokens) {
    if (x->client != NULL)
        auth_charge(x->client, prompt_tokens - max_0(x->prompt_tokens), completion_tokens - max_0(x->completion_tokens),
                    uv_hrtime());
    x->prompt_tokens = prompt_tokens;
    x->completion_tokens = completion_tokens;
}

void http_note_route(struct http_exchange *x, int route) {
    x->route = route;
}

const char *http_client_name(const struct http_exchange *x) {
    return x->client != NULL ? auth_client_name(x->client) : NULL;
}

void http_note_client(struct http_exchange *x, struct auth_client *client, bool is_running) {
    x->client = client;
    x->client_running = is_running;
}

void http_retry_after(struct http_exchange *x, int64_t seconds) {
    x->retry_after_s = seconds;
}

void http_refuse(struct http_exchange *x, int status, const char *code, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(x->refuse_why, sizeof(x->refuse_why), fmt, args);
    va_end(args);
    x->refuse_status = status;
    x->refuse_code = code;
}

void http_on_gone(struct http_exchange *x, void (*gone)(void *user), void *user) {
    x->gone = gone;
    x->gone_user = user;
    if (x->lost)
        exchange_due(x);
}

static void set_headers(struct http_exchange *x, const char *content_type) {
    bool ok = MHD_add_response_header(x->response, "x-request-id", x->request_id) == MHD_YES;
    if (content_type != NULL)
        ok = MHD_add_response_header(x->response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type) == MHD_YES && ok;
    if (http_is_messages(x->path))
        ok = MHD_add_response_header(x->response, "request-id", x->request_id) == MHD_YES && ok;
    for (const struct http_header *header = x->headers; header != NULL; header = header->next)
        ok = MHD_add_response_header(x->response, header->name, header->value) == MHD_YES && ok;
    if (x->httpd->draining || (x->conn != NULL && x->conn->over_limit))
        ok = MHD_add_response_header(x->response, MHD_HTTP_HEADER_CONNECTION, "close") == MHD_YES && ok;
    if (!ok)
        log_event(L4_LOG_WARN, x->request_id, "an answer's header was refused");
}

enum MHD_Result exchange_queue(struct http_exchange *x) {
    struct MHD_Response *response = x->response;
    x->response = NULL;
    enum MHD_Result result =
        response != NULL ? MHD_queue_response(x->conn->mhd, (unsigned)x->status, response) : MHD_NO;
    if (response != NULL)
        MHD_destroy_response(response);
    return result;
}

void http_reply(struct http_exchange *x, int status, const char *content_type, struct l4_buf *take_body) {
    size_t len_bytes = 0;
    char *data = take_body->failed ? NULL : l4_buf_take(take_body, &len_bytes);
    l4_buf_free(take_body);
    if (x->lost) {
        free(data);
        disown(x);
        return;
    }
    x->status = status;
    if (data != NULL) {
        x->response = MHD_create_response_from_buffer(len_bytes, data, MHD_RESPMEM_MUST_FREE);
        if (x->response == NULL)
            free(data);
    } else {
        const char *text = http_error_no_memory(x->path);
        x->status = 503;
        content_type = "application/json";
        x->response = MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
    }
    if (x->response != NULL)
        set_headers(x, content_type);
    exchange_due(x);
    disown(x);
}

void http_reply_error(struct http_exchange *x, int status, const char *param, const char *code, const char *fmt, ...) {
    char message[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    struct l4_buf body = {0};
    http_error_json(&body, x->path, x->request_id, &(struct http_error){status, param, code, message});
    if (status == 429 || status == 503) {
        char seconds[24];
        snprintf(seconds, sizeof(seconds), "%lld", (long long)x->retry_after_s);
        http_add_header(x, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    }
    http_reply(x, status, "application/json", &body);
}

void http_reply_err(struct http_exchange *x, const char *param, const struct l4_err *err) {
    http_reply_error(x, http_err_status(err->code), param, http_err_code(err->code), "%s", err->message);
}

/* ---- the stream -------------------------------------------------------------------------------------------------- */

static size_t pending_bytes(const struct http_exchange *x) {
    return x->out.len - x->out_read;
}

/* libmicrohttpd takes what is queued; with nothing queued the connection sleeps until the next flush. */
static ssize_t read_stream(void *user, uint64_t pos, char *to, size_t max_bytes) {
    struct http_exchange *x = user;
    (void)pos;
    if (x->lost || x->out.failed)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = pending_bytes(x);
    if (n == 0) {
        if (x->ended)
            return MHD_CONTENT_READER_END_OF_STREAM;
        x->suspended = true;
        MHD_suspend_connection(x->conn->mhd);
        conn_watch(x->conn);
        return 0;
    }
    if (n > max_bytes)
        n = max_bytes;
    memcpy(to, x->out.data + x->out_read, n);
    x->out_read += n;
    if (pending_bytes(x) == 0) {
        l4_buf_clear(&x->out);
        x->out_read = 0;
    }
    return (ssize_t)n;
}

static void free_stream(void *user) {
    exchange_unref(user);
}

void http_stream_begin(struct http_exchange *x) {
    if (x->lost)
        return;
    x->status = 200;
    x->streaming = true;
    x->sent_ms = uv_now(x->httpd->loop);
    x->response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, read_stream, x, free_stream);
    if (x->response == NULL) {
        x->out.failed = true;
        exchange_due(x);
        return;
    }
    x->n_refs++;
    set_headers(x, "text/event-stream; charset=utf-8");
    if (MHD_add_response_header(x->response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache") != MHD_YES)
        log_event(L4_LOG_WARN, x->request_id, "an answer's header was refused");
    int bytes = STREAM_SNDBUF_BYTES;
    setsockopt(x->conn->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    conn_start_timer(x->conn, x->httpd->config->sse_keepalive_s * 1000);
    exchange_due(x);
}

void http_stream_send(struct http_exchange *x, const char *bytes, size_t len_bytes) {
    if (x->lost)
        return;
    /* What is left from earlier turns is what the client did not take; a burst within one turn is not its fault. */
    if (x->out_turn != x->httpd->turn) {
        x->out_turn = x->httpd->turn;
        x->sent_ms = uv_now(x->httpd->loop);
        if (pending_bytes(x) > (size_t)x->httpd->config->stream_buffer_bytes)
            x->out.failed = true;
    }
    if (x->out_read > x->out.len / 2) {
        memmove(x->out.data, x->out.data + x->out_read, pending_bytes(x));
        x->out.len -= x->out_read;
        x->out_read = 0;
    }
    l4_buf_append(&x->out, bytes, len_bytes);
    exchange_due(x);
}

void http_stream_end(struct http_exchange *x) {
    x->ended = true;
    exchange_due(x);
    disown(x);
}

void http_stream_fail(struct http_exchange *x, const struct l4_err *err) {
    struct l4_buf chunk = {0};
    const struct http_error error = {
        .status = http_err_status(err->code), .code = http_err_code(err->code), .message = err->message};
    l4_buf_puts(&chunk, http_is_messages(x->path) ? "event: error\ndata: " : "data: ");
    http_error_json(&chunk, x->path, x->request_id, &error);
    l4_buf_puts(&chunk, "\n\n");
    if (!chunk.failed)
        http_stream_send(x, chunk.data, chunk.len);
    l4_buf_free(&chunk);
    http_stream_end(x);
}

void exchange_keepalive(struct http_exchange *x) {
    if (!x->streaming || x->ended || x->lost)
        return;
    int64_t period_ms = x->httpd->config->sse_keepalive_s * 1000;
    int64_t silent_ms = (int64_t)(uv_now(x->httpd->loop) - x->sent_ms);
    if (silent_ms >= period_ms) {
        if (pending_bytes(x) == 0)
            http_stream_send(x, ":\n\n", 3);
        silent_ms = 0;
    }
    conn_start_timer(x->conn, period_ms - silent_ms);
}
