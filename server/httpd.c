/* libmicrohttpd 0.9.75 on the libuv loop.
 *
 * Its epoll descriptor is polled by libuv, its time-out is a libuv timer.  A connection is suspended while the engine
 * works.  MHD_resume_connection wakes nothing, so everything that becomes due in one turn of the loop is resumed at the
 * turn's end, followed by one MHD_run: all chunks of a turn go out in one send. */
#include "server/httpd.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "server/cors.h"
#include "server/http_internal.h"
#include "server/http_tcp.h"
#include "server/log.h"
#include "server/metrics.h"

enum {
    CONNECTION_MEMORY_BYTES = 256 * 1024, /* above our own header limits, so that those answer first */
    SPARE_CONNECTIONS = 64,               /* above max_connections: they are told so, and /health answers */
    OTHER_DESCRIPTORS = 128,              /* of the loop, the engine and the libraries */
    BACKLOG = 1024,
    MAX_PASSES = 8,          /* of a flush before other events of the loop get their turn */
    UNWANTED_BODY_MS = 2000, /* that a body gets to arrive whose answer is known: refused, or the server shuts down */
};

/* TLS 1.2 and 1.3. */
static const char TLS_PRIORITIES[] = "NORMAL:-VERS-TLS1.0:-VERS-TLS1.1:%SERVER_PRECEDENCE";

/* ---- connections ------------------------------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *handle) {
    struct http_conn *conn = handle->data;
    struct httpd *httpd = conn->httpd;
    if (--conn->n_handles > 0)
        return;
    free(conn);
    if (--httpd->n_handles == 0)
        free(httpd);
}

void conn_cut(struct http_conn *conn) {
    shutdown(conn->fd, SHUT_RDWR);
    if (conn->x != NULL && conn->x->suspended)
        exchange_due(conn->x);
}

static bool send_raw(struct http_conn *conn, const char *bytes, size_t len_bytes) {
    if (conn->tls_session != NULL)
        return tls_send(conn->tls_session, bytes, len_bytes);
    return send(conn->fd, bytes, len_bytes, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len_bytes;
}

void conn_refuse_raw(struct http_conn *conn, int status, const char *request_id, const char *code,
                     const char *message) {
    struct l4_buf body = {0}, answer = {0};
    const char *path = conn->x != NULL ? conn->x->path : NULL;
    http_error_json(&body, path, request_id, &(struct http_error){status, NULL, code, message});
    l4_buf_printf(&answer, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n", status,
                  MHD_get_reason_phrase_for((unsigned)status), body.len);
    if (http_is_messages(path))
        l4_buf_printf(&answer, "request-id: %s\r\n", request_id);
    if (status == 429 || status == 503)
        l4_buf_printf(&answer, "Retry-After: %lld\r\n", conn->x != NULL ? (long long)conn->x->retry_after_s : 1LL);
    for (const struct http_header *header = conn->x != NULL ? conn->x->headers : NULL; header; header = header->next)
        l4_buf_printf(&answer, "%s: %s\r\n", header->name, header->value);
    l4_buf_printf(&answer, "x-request-id: %s\r\nConnection: close\r\n\r\n", request_id);
    if (!body.failed)
        l4_buf_append(&answer, body.data, body.len);
    if (!answer.failed && !send_raw(conn, answer.data, answer.len))
        log_event(L4_LOG_DEBUG, request_id, "the client did not take the answer %d", status);
    l4_buf_free(&body);
    l4_buf_free(&answer);
    if (conn->x != NULL)
        conn->x->status = status;
    conn_cut(conn);
}

/* The request has been refused and its body does not come to an end. */
static void refuse_body(struct http_exchange *x, const char *why_lost) {
    exchange_lose(x, why_lost);
    conn_refuse_raw(x->conn, x->refuse_status, x->request_id, x->refuse_code, x->refuse_why);
}

static void on_conn_timer(uv_timer_t *timer) {
    struct http_conn *conn = timer->data;
    struct http_exchange *x = conn->x;
    if (x != NULL && x->dispatched) {
        exchange_keepalive(x);
    } else if (x != NULL && x->refuse_status != 0) {
        refuse_body(x, "body_refused");
    } else if (x != NULL && conn->httpd->draining) {
        exchange_lose(x, "shutdown");
        conn_refuse_raw(conn, 503, x->request_id, "shutting_down", "the server is shutting down");
    } else if (x != NULL) {
        exchange_lose(x, "body_timeout");
        conn_refuse_raw(conn, 408, x->request_id, NULL, "the body did not arrive in time");
    } else if (conn->tls_session != NULL && !conn->tls_ready) {
        log_event(L4_LOG_INFO, NULL, "connection cut=handshake_timeout");
        conn_cut(conn);
    } else if (tcp_received_bytes(conn->fd) > conn->idle_bytes) {
        char id[HTTP_REQUEST_ID_BYTES];
        exchange_new_id(conn->httpd, id);
        log_event(L4_LOG_INFO, id, "request status=408 cut=header_timeout");
        metrics_request(conn->httpd->metrics, -1, 408, (double)conn->httpd->config->header_timeout_s);
        conn_refuse_raw(conn, 408, id, NULL, "the headers did not arrive in time");
    } else {
        conn_cut(conn);
    }
}

void conn_start_timer(struct http_conn *conn, int64_t ms) {
    uv_timer_start(&conn->timer, on_conn_timer, (uint64_t)ms, 0);
}

/* The deadline of a body that is arriving. */
static void start_body_timer(struct http_conn *conn) {
    int64_t ms = conn->httpd->config->body_timeout_s * 1000;
    bool unwanted = conn->httpd->draining || conn->x->refuse_status != 0;
    conn_start_timer(conn, unwanted && ms > UNWANTED_BODY_MS ? UNWANTED_BODY_MS : ms);
}

/* Bytes that the kernel holds. */
static size_t unread_bytes(int fd) {
    int n_bytes = 0;
    return ioctl(fd, FIONREAD, &n_bytes) == 0 && n_bytes > 0 ? (size_t)n_bytes : 0;
}

static bool has_unread_bytes(const struct http_conn *conn) {
    return unread_bytes(conn->fd) > 0 ||
           (conn->tls_session != NULL && gnutls_record_check_pending(conn->tls_session) > 0);
}

static void on_watch(uv_poll_t *watch, int status, int events) {
    struct http_conn *conn = watch->data;
    if (status == 0 && !(events & UV_DISCONNECT))
        return;
    /* libmicrohttpd, edge-triggered, misses an end that came together with bytes of the body: what it has not read may
     * be all of the rest, after that nothing more comes. */
    bool in_body = conn->x != NULL && !conn->x->dispatched;
    if (in_body && status == 0 && has_unread_bytes(conn))
        return;
    uv_poll_stop(watch); /* it is level-triggered */
    conn->watching = false;
    if (conn->x != NULL)
        exchange_lose(conn->x, in_body ? "incomplete_body" : "client_gone");
    conn_cut(conn);
}

static bool open_watch(struct http_conn *conn) {
    if (!conn->watch_open && uv_poll_init(conn->httpd->loop, &conn->watch, conn->fd) == 0) {
        conn->watch.data = conn;
        conn->watch_open = true;
        conn->n_handles++;
    }
    return conn->watch_open;
}

void conn_watch(struct http_conn *conn) {
    if (conn->watching)
        return;
    if (!open_watch(conn))
        return; /* a client that goes is then noticed at the next write */
    conn->watching = uv_poll_start(&conn->watch, UV_DISCONNECT, on_watch) == 0;
}

static void conn_unwatch(struct http_conn *conn) {
    if (conn->watching)
        uv_poll_stop(&conn->watch);
    conn->watching = false;
}

static struct http_conn *conn_of(struct MHD_Connection *mhd) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info != NULL ? info->socket_context : NULL;
}

/* libmicrohttpd 0.9.75 takes a socket for readable throughout a handshake and would try it again and again without a
 * pause.  So a connection that waits for its client is suspended, and resumed when there is something to read. */
static void unpark(struct http_conn *conn) {
    uv_poll_stop(&conn->watch);
    conn->parked = false;
    MHD_resume_connection(conn->mhd);
}

static void on_handshake_step(uv_poll_t *watch, int status, int events) {
    struct http_conn *conn = watch->data;
    (void)status, (void)events; /* an end and an error are libmicrohttpd's to find */
    unpark(conn);
    conn->httpd->run_again = true;
}

static void park(struct http_conn *conn) {
    int events = gnutls_record_get_direction(conn->tls_session) == 1 ? UV_WRITABLE : UV_READABLE;
    if (!open_watch(conn) || uv_poll_start(&conn->watch, events | UV_DISCONNECT, on_handshake_step) != 0) {
        conn_cut(conn);
        return;
    }
    conn->parked = true;
    MHD_suspend_connection(conn->mhd);
}

/* Between two runs of libmicrohttpd, when none of its connections is half closed. */
static void park_handshakes(struct httpd *httpd) {
    struct http_conn *conn;
    if (httpd->n_shaking == 0 || httpd->closing)
        return;
    DL_FOREACH(httpd->conns, conn) {
        if (conn->tls_session != NULL && !conn->tls_ready && !conn->parked)
            park(conn);
    }
}

/* The client's last message has been read, and no byte behind it: from here on it is a request's. */
static int on_handshake(gnutls_session_t session, unsigned type, unsigned when, unsigned incoming,
                        const gnutls_datum_t *message) {
    (void)type, (void)when, (void)message;
    struct http_conn *conn = gnutls_db_get_ptr(session);
    if (incoming && !conn->tls_ready) {
        conn->tls_ready = true;
        conn->httpd->n_shaking--;
        conn->idle_bytes = tcp_received_bytes(conn->fd) - unread_bytes(conn->fd);
    }
    return 0;
}

static void begin_tls(struct http_conn *conn) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn->mhd, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    struct l4_err err = {0};
    conn->tls_session = info != NULL ? (gnutls_session_t)info->tls_session : NULL;
    conn->tls_identity = tls_ref(conn->httpd->tls);
    if (conn->tls_session == NULL || tls_begin(conn->tls_session, conn->tls_identity, on_handshake, conn, &err) != 0) {
        log_event(L4_LOG_WARN, NULL, "a connection got no certificate. %s", err.message);
        conn->tls_session = NULL;
        conn_cut(conn);
        return;
    }
    conn->httpd->n_shaking++;
}

static void on_connection(void *user, struct MHD_Connection *mhd, void **socket_context,
                          enum MHD_ConnectionNotificationCode code) {
    struct httpd *httpd = user;
    struct http_conn *conn = *socket_context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
        conn = info != NULL ? calloc(1, sizeof(*conn)) : NULL;
        if (conn == NULL) {
            if (info != NULL)
                shutdown(info->connect_fd, SHUT_RDWR);
            return;
        }
        *socket_context = conn;
        conn->httpd = httpd;
        conn->mhd = mhd;
        conn->fd = info->connect_fd;
        uv_timer_init(httpd->loop, &conn->timer);
        conn->timer.data = conn;
        conn->n_handles = 1;
        httpd->n_handles++;
        httpd->n_conns++;
        conn->over_limit = httpd->n_conns > (size_t)httpd->config->max_connections;
        DL_APPEND(httpd->conns, conn);
        if (httpd->tls != NULL)
            begin_tls(conn);
        conn_start_timer(conn, httpd->config->header_timeout_s * 1000);
    } else if (conn != NULL) {
        DL_DELETE(httpd->conns, conn);
        httpd->n_shaking -= conn->tls_session != NULL && !conn->tls_ready;
        tls_unref(conn->tls_identity);
        conn->tls_session = NULL; /* libmicrohttpd's */
        conn->tls_identity = NULL;
        httpd->n_conns--;
        httpd->run_again = true;
        uv_close((uv_handle_t *)&conn->timer, on_handle_closed);
        if (conn->watch_open)
            uv_close((uv_handle_t *)&conn->watch, on_handle_closed);
    }
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

/* Sees the address as it came, before the path is decoded and cut at a NUL. */
static void *on_uri(void *user, const char *uri, struct MHD_Connection *mhd) {
    (void)user;
    struct http_conn *conn = conn_of(mhd);
    if (conn != NULL) {
        conn->uri_bytes = strlen(uri);
        conn->uri_has_nul = strstr(uri, "%00") != NULL;
    }
    return NULL;
}

static enum MHD_Result begin_request(struct http_conn *conn, const char *method, const char *path, const char *version,
                                     void **request_context) {
    struct http_exchange *x = exchange_open(conn, method, path);
    if (x == NULL)
        return MHD_NO;
    *request_context = conn->x = x;
    conn->httpd->n_active++;
    cors_begin(x, conn->httpd->config->cors_origins);
    int status = limits_check(x, version, x->refuse_why, sizeof(x->refuse_why));
    if (status == 0 && conn->httpd->admit != NULL)
        conn->httpd->admit(conn->httpd->user, x);
    /* A refusal here would end the connection: but for clients that wait for a word, it comes after the body. */
    if (status == 0 && (x->refuse_status == 0 || !x->expects_continue)) {
        start_body_timer(conn);
        conn_watch(conn);
        return MHD_YES;
    }
    if (status != 0)
        x->refuse_status = status;
    uv_timer_stop(&conn->timer);
    x->n_refs++;
    x->owned = true;
    http_reply_error(x, x->refuse_status, NULL, x->refuse_code, "%s", x->refuse_why);
    return exchange_queue(x);
}

static enum MHD_Result finish_request(struct http_exchange *x) {
    struct httpd *httpd = x->httpd;
    if (!x->dispatched) {
        uv_timer_stop(&x->conn->timer);
        x->dispatched = true;
        x->n_refs++;
        x->owned = true;
        if (x->refuse_status == 413)
            http_reply_error(x, 413, NULL, NULL, "the body has %zu bytes; at most %lld are allowed", x->swallowed_bytes,
                             (long long)httpd->config->max_body_bytes);
        else if (x->refuse_status != 0)
            http_reply_error(x, x->refuse_status, NULL, x->refuse_code, "%s", x->refuse_why);
        else
            httpd->handler(httpd->user, x);
    }
    if (x->lost)
        return MHD_NO;
    if (x->status != 0) {
        if (!x->streaming)
            conn_unwatch(x->conn); /* a client that closed its half for writing still reads the answer */
        return exchange_queue(x);
    }
    x->suspended = true;
    MHD_suspend_connection(x->conn->mhd);
    conn_watch(x->conn);
    return MHD_YES;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *mhd, const char *url, const char *method,
                                  const char *version, const char *upload_data, size_t *upload_data_size,
                                  void **request_context) {
    (void)user;
    struct http_exchange *x = *request_context;
    if (x == NULL) {
        struct http_conn *conn = conn_of(mhd);
        return conn != NULL ? begin_request(conn, method, url, version, request_context) : MHD_NO;
    }
    if (*upload_data_size == 0)
        return finish_request(x);
    if (x->lost)
        return MHD_NO;
    if (!limits_body(x, upload_data, *upload_data_size)) {
        refuse_body(x, x->refuse_status == 413 ? "body_too_large" : "body_refused");
        return MHD_NO;
    }
    *upload_data_size = 0;
    return MHD_YES;
}

static void on_completed(void *user, struct MHD_Connection *mhd, void **request_context,
                         enum MHD_RequestTerminationCode code) {
    struct httpd *httpd = user;
    struct http_exchange *x = *request_context;
    struct http_conn *conn = conn_of(mhd);
    *request_context = NULL;
    if (conn != NULL) {
        conn_unwatch(conn);
        conn->x = NULL;
        conn->idle_bytes = tcp_received_bytes(conn->fd);
        conn_start_timer(conn, (httpd->config->idle_timeout_s + httpd->config->header_timeout_s) * 1000);
    }
    if (x == NULL) {
        log_event(L4_LOG_DEBUG, NULL, "a request was refused while its headers were read");
        return;
    }
    if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK || x->owned)
        exchange_lose(x, code == MHD_REQUEST_TERMINATED_TIMEOUT_REACHED ? "idle_timeout"
                         : x->status == 0 && !x->dispatched             ? "incomplete_body"
                                                                        : "client_gone");
    exchange_ended(x);
    if (x->response != NULL) { /* an answer that came too late to be handed on */
        struct MHD_Response *response = x->response;
        x->response = NULL;
        MHD_destroy_response(response);
    }
    x->conn = NULL;
    httpd->n_active--;
    exchange_unref(x);
}

/* ---- the loop ---------------------------------------------------------------------------------------------------- */

static void run_mhd(struct httpd *httpd);

static void on_mhd_timer(uv_timer_t *timer) {
    run_mhd(timer->data);
}

static void on_busy(uv_idle_t *busy) {
    run_mhd(busy->data);
}

static void look_at_due(struct http_exchange *x) {
    x->n_refs++;
    if (x->out.failed && !x->lost) {
        exchange_lose(x, "reader_too_slow");
        if (x->conn != NULL)
            conn_cut(x->conn);
    } else if (x->lost) {
        exchange_lose(x, x->why_lost); /* a `gone` that was set after the client went */
    }
    if (x->suspended && x->conn != NULL) {
        x->suspended = false;
        MHD_resume_connection(x->conn->mhd);
    }
    exchange_unref(x);
}

static void run_mhd(struct httpd *httpd) {
    int passes = 0;
    do {
        httpd->turn++;
        httpd->run_again = false;
        while (httpd->due != NULL) {
            struct http_exchange *x = httpd->due;
            DL_DELETE2(httpd->due, x, due_prev, due_next);
            x->is_due = false;
            look_at_due(x);
        }
        if (MHD_run(httpd->mhd) != MHD_YES)
            log_event(L4_LOG_ERROR, NULL, "libmicrohttpd could not be run");
        park_handshakes(httpd);
    } while ((httpd->due != NULL || httpd->run_again) && ++passes < MAX_PASSES);

    /* No timer of 0 ms: libuv 1.44 runs one that starts itself again for ever. */
    MHD_UNSIGNED_LONG_LONG timeout_ms;
    bool has_timeout = MHD_get_timeout(httpd->mhd, &timeout_ms) == MHD_YES;
    if (httpd->due != NULL || httpd->run_again || (has_timeout && timeout_ms == 0))
        uv_idle_start(&httpd->busy, on_busy);
    else
        uv_idle_stop(&httpd->busy);
    if (has_timeout && timeout_ms > 0)
        uv_timer_start(&httpd->timer, on_mhd_timer, timeout_ms, 0);
    else
        uv_timer_stop(&httpd->timer);
}

static void on_mhd_readable(uv_poll_t *poll, int status, int events) {
    (void)status;
    (void)events;
    run_mhd(poll->data);
}

static void on_prepare(uv_prepare_t *prepare) {
    struct httpd *httpd = prepare->data;
    if (httpd->due != NULL || httpd->run_again)
        run_mhd(httpd);
}

L4_PRINTF(2, 0) static void on_mhd_log(void *user, const char *fmt, va_list args) {
    (void)user;
    char text[512];
    vsnprintf(text, sizeof(text), fmt, args);
    text[strcspn(text, "\n")] = '\0';
    log_event(L4_LOG_DEBUG, NULL, "libmicrohttpd: %s", text);
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static int listen_on(const struct addrinfo *address) {
    int on = 1, off = 0, idle_s = 60, interval_s = 15, count = 4;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (address->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    /* Accepted sockets inherit these: tokens leave at once, and a client whose machine vanished is found out. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    if (bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

static int open_listener(struct httpd *httpd, struct l4_err *err) {
    const char *host = httpd->config->host;
    char service[16];
    snprintf(service, sizeof(service), "%d", (int)httpd->config->port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *addresses;
    int rc = getaddrinfo(host, service, &hints, &addresses);
    if (rc != 0)
        return l4_err_set(err, L4_E_INVALID, "host \"%s\": %s", host, gai_strerror(rc));
    for (const struct addrinfo *a = addresses; a != NULL && httpd->listen_fd < 0; a = a->ai_next)
        httpd->listen_fd = listen_on(a);
    int why = errno;
    freeaddrinfo(addresses);
    if (httpd->listen_fd < 0)
        return l4_err_set(err, L4_E_IO, "cannot listen on %s port %s: %s", host, service, strerror(why));

    struct sockaddr_storage bound;
    socklen_t len = sizeof(bound);
    if (getsockname(httpd->listen_fd, (struct sockaddr *)&bound, &len) != 0)
        return l4_err_set(err, L4_E_IO, "getsockname: %s", strerror(errno));
    int port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                 : ((struct sockaddr_in *)&bound)->sin_port);
    bool brackets = strchr(host, ':') != NULL;
    snprintf(httpd->url, sizeof(httpd->url), "http%s://%s%.253s%s:%d", httpd->tls != NULL ? "s" : "",
             brackets ? "[" : "", host, brackets ? "]" : "", port);
    return 0;
}

/* How many connections the limit on descriptors allows. */
static unsigned connection_limit(const struct config *config) {
    rlim_t wanted = (rlim_t)config->max_connections + SPARE_CONNECTIONS + OTHER_DESCRIPTORS;
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return (unsigned)config->max_connections;
    if (limit.rlim_cur < wanted) {
        limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
            getrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur >= wanted)
        return (unsigned)(wanted - OTHER_DESCRIPTORS);
    rlim_t room = limit.rlim_cur > 2 * OTHER_DESCRIPTORS ? limit.rlim_cur - OTHER_DESCRIPTORS : OTHER_DESCRIPTORS;
    log_event(L4_LOG_WARN, NULL, "the limit on open files, %llu, allows %llu connections; max_connections is %lld",
              (unsigned long long)limit.rlim_cur, (unsigned long long)room, (long long)config->max_connections);
    return (unsigned)room;
}

static int open_tls(struct tls_identity **out, const struct config *config, struct l4_err *err) {
    *out = NULL;
    return config->tls_certificate[0] != '\0' ? tls_open(out, config->tls_certificate, config->tls_key, err) : 0;
}

int httpd_reload_tls(struct httpd *httpd, struct l4_err *err) {
    struct tls_identity *fresh;
    int rc = httpd->tls != NULL ? open_tls(&fresh, httpd->config, err) : 0;
    if (rc != 0 || httpd->tls == NULL)
        return rc;
    tls_unref(httpd->tls);
    httpd->tls = fresh;
    log_event(L4_LOG_INFO, NULL, "%s: new connections get this certificate", httpd->config->tls_certificate);
    return 0;
}

static int start_mhd(struct httpd *httpd, struct l4_err *err) {
    bool tls = httpd->tls != NULL;
    httpd->mhd = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | (tls ? MHD_USE_TLS : 0), 0, NULL, NULL,
        on_request, httpd, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL, MHD_OPTION_LISTEN_SOCKET, httpd->listen_fd,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, httpd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, httpd,
        MHD_OPTION_URI_LOG_CALLBACK, on_uri, httpd, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY_BYTES,
        MHD_OPTION_CONNECTION_LIMIT, connection_limit(httpd->config), MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)httpd->config->idle_timeout_s, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
        tls ? MHD_OPTION_HTTPS_PRIORITIES : MHD_OPTION_END, TLS_PRIORITIES, MHD_OPTION_HTTPS_CERT_CALLBACK,
        tls_no_certificate, MHD_OPTION_END);
    if (httpd->mhd == NULL)
        return l4_err_set(err, L4_E_INTERNAL, "libmicrohttpd %s did not start", MHD_get_version());
    return 0;
}

int httpd_open(struct httpd **out, struct uv_loop_s *loop, const struct config *config, struct metrics *metrics,
               httpd_admit *admit, httpd_handler *handler, void *user, struct l4_err *err) {
    struct httpd *httpd = calloc(1, sizeof(*httpd));
    if (httpd == NULL)
        return l4_err_set(err, L4_E_NOMEM, "%s", l4_error_text(L4_E_NOMEM));
    httpd->loop = loop;
    httpd->config = config;
    httpd->metrics = metrics;
    httpd->admit = admit;
    httpd->handler = handler;
    httpd->user = user;
    httpd->listen_fd = -1;
    if (getrandom(&httpd->id_random, sizeof(httpd->id_random), 0) < 0)
        httpd->id_random = uv_hrtime();
    int rc = open_tls(&httpd->tls, config, err);
    if (rc == 0)
        rc = open_listener(httpd, err);
    if (rc == 0)
        rc = start_mhd(httpd, err);
    if (rc != 0) {
        if (httpd->listen_fd >= 0)
            close(httpd->listen_fd);
        tls_unref(httpd->tls);
        free(httpd);
        return rc;
    }
    uv_timer_init(loop, &httpd->timer);
    uv_prepare_init(loop, &httpd->prepare);
    uv_idle_init(loop, &httpd->busy);
    httpd->timer.data = httpd->prepare.data = httpd->busy.data = httpd->poll.data = httpd;
    httpd->n_handles = 3;
    uv_prepare_start(&httpd->prepare, on_prepare);
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(httpd->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    rc = info != NULL ? uv_poll_init(loop, &httpd->poll, info->epoll_fd) : UV_EBADF;
    if (rc != 0) {
        httpd_close(httpd);
        return l4_err_set(err, L4_E_INTERNAL, "polling libmicrohttpd: %s", uv_strerror(rc));
    }
    httpd->poll_open = true;
    httpd->n_handles++;
    uv_poll_start(&httpd->poll, UV_READABLE, on_mhd_readable);
    *out = httpd;
    return 0;
}

const char *httpd_url(const struct httpd *httpd) {
    return httpd->url;
}

void httpd_drain(struct httpd *httpd) {
    httpd->draining = true;
    struct http_conn *conn;
    DL_FOREACH(httpd->conns, conn) {
        if (conn->x != NULL && !conn->x->dispatched)
            start_body_timer(conn);
    }
}

size_t httpd_active(const struct httpd *httpd) {
    return httpd->n_active;
}

void httpd_abort(struct httpd *httpd) {
    struct http_conn *conn, *next;
    DL_FOREACH_SAFE(httpd->conns, conn, next) {
        if (conn->x != NULL)
            exchange_lose(conn->x, "shutdown");
        conn_cut(conn);
        if (conn->parked)
            unpark(conn);
    }
    run_mhd(httpd);
}

static void on_httpd_handle_closed(uv_handle_t *handle) {
    struct httpd *httpd = handle->data;
    if (--httpd->n_handles == 0)
        free(httpd);
}

void httpd_close(struct httpd *httpd) {
    MHD_socket fd = MHD_quiesce_daemon(httpd->mhd);
    if (fd != MHD_INVALID_SOCKET)
        close(fd);
    /* libmicrohttpd aborts the process when it is stopped with a connection suspended: with no new ones coming in, all
     * are resumed first. */
    httpd->closing = true;
    httpd_abort(httpd);
    MHD_stop_daemon(httpd->mhd);
    tls_unref(httpd->tls);
    uv_close((uv_handle_t *)&httpd->prepare, on_httpd_handle_closed);
    uv_close((uv_handle_t *)&httpd->timer, on_httpd_handle_closed);
    uv_close((uv_handle_t *)&httpd->busy, on_httpd_handle_closed);
    if (httpd->poll_open)
        uv_close((uv_handle_t *)&httpd->poll, on_httpd_handle_closed);
}
