/* What the files behind http.h and httpd.h share: connections and exchanges.  Thread: the loop's. */
#ifndef SERVER_HTTP_INTERNAL_H
#define SERVER_HTTP_INTERNAL_H

#include <microhttpd.h>
#include <uv.h>

#include "server/http.h"
#include "server/http_tls.h"
#include "server/httpd.h"

enum { HTTP_REQUEST_ID_BYTES = 129, HTTP_MAX_URI_BYTES = 8192 };

struct httpd {
    uv_loop_t *loop;
    const struct config *config;
    struct metrics *metrics; /* may be NULL */
    httpd_admit *admit;      /* may be NULL */
    httpd_handler *handler;
    void *user;
    struct MHD_Daemon *mhd;
    struct tls_identity *tls; /* that new connections show; NULL: no TLS */
    int listen_fd;
    char url[300];

    uv_poll_t poll; /* libmicrohttpd's epoll descriptor */
    bool poll_open;
    uv_timer_t timer;     /* libmicrohttpd's time-out */
    uv_idle_t busy;       /* there is more to do at once, after the loop's other events had their turn */
    uv_prepare_t prepare; /* end of a turn of the loop: what was queued in it goes out */
    int n_handles;        /* that must close before *httpd is freed, those of connections included */

    struct http_conn *conns;
    struct http_exchange *due; /* those that flush must look at */
    size_t n_conns, n_active;
    size_t body_bytes; /* of all requests that are being received or worked on */
    uint64_t turn;     /* counts flushes */
    bool run_again;    /* a slot was freed: MHD_run offers it to the next one */
    size_t n_shaking;  /* connections that are not yet through with their handshake */
    bool draining, closing;
    uint64_t id_random;
};

struct http_conn {
    struct httpd *httpd;
    struct MHD_Connection *mhd;
    struct http_conn *prev, *next;
    struct http_exchange *x; /* the request that is being received or answered */
    int fd;
    gnutls_session_t tls_session;      /* NULL: no TLS */
    struct tls_identity *tls_identity; /* counted */
    bool tls_ready;                    /* hands have been shaken */
    bool parked;                       /* suspended until the client says more of its handshake */
    uv_timer_t timer;                  /* the deadline of headers or body; in a stream the keep-alive */
    uv_poll_t watch;                   /* tells in the body and while we are suspended that the client has gone */
    bool watch_open, watching;
    int n_handles;    /* that must close before *conn is freed */
    bool over_limit;  /* was accepted above max_connections */
    size_t uri_bytes; /* of the request that is being received */
    bool uri_has_nul;
    uint64_t idle_bytes; /* what the connection had received when the last request, or the handshake, ended */
};

struct http_header {
    struct http_header *next;
    const char *value; /* behind the name */
    char name[];
};

struct http_exchange {
    struct httpd *httpd;
    struct http_conn *conn; /* NULL once libmicrohttpd is done with the request */
    struct http_exchange *due_prev, *due_next;
    bool is_due;
    int n_refs; /* libmicrohttpd's request, the handler, the stream's reader */

    char *method, *path; /* in the exchange's own storage */
    char request_id[HTTP_REQUEST_ID_BYTES];
    uint64_t start_ns;

    struct l4_buf body;
    size_t swallowed_bytes;  /* of a body that nobody wants */
    int refuse_status;       /* 0, or what the request is refused with; its body is swallowed */
    const char *refuse_code; /* static */
    char refuse_why[256];
    bool expects_continue; /* the client sends no body before it is told to */
    int64_t retry_after_s;

    struct http_header *headers;
    struct MHD_Response *response; /* ours until queued */
    int status;                    /* 0 = no answer yet */
    bool dispatched;               /* the handler was called */
    bool owned;                    /* by the handler */
    bool suspended;
    bool lost; /* client gone, deadline passed or cut: nothing more is sent */

    bool streaming, ended;
    struct l4_buf out; /* of the stream, not yet taken by libmicrohttpd from out_read on */
    size_t out_read;
    uint64_t out_turn;    /* the turn of the last http_stream_send */
    uint64_t sent_ms;     /* loop time of the last http_stream_send */
    const char *why_lost; /* for the log */

    void (*gone)(void *user);
    void *gone_user;

    int64_t prompt_tokens, completion_tokens; /* -1 = not known */
    int route;                                /* -1 = none */
    struct auth_client *client;               /* whose key it came with, until the end; may be NULL */
    bool client_running;                      /* counts against that key's limit */
};

/* ---- http_exchange.c */

/* exchange_open - for a request whose headers have arrived; NULL when out of memory. */
struct http_exchange *exchange_open(struct http_conn *conn, const char *method, const char *path);
void exchange_unref(struct http_exchange *x);
/* exchange_new_id - for a request whose client gave it none. */
void exchange_new_id(struct httpd *httpd, char id[HTTP_REQUEST_ID_BYTES]);
/* exchange_lose - nothing more can be sent: tells the handler.  Inside MHD_run, too. */
void exchange_lose(struct http_exchange *x, const char *why);
/* exchange_queue - hand the answer to libmicrohttpd.  From its access handler only. */
enum MHD_Result exchange_queue(struct http_exchange *x);
/* exchange_due - look at x at the end of this turn. */
void exchange_due(struct http_exchange *x);
/* exchange_keepalive - the connection's timer in a stream. */
void exchange_keepalive(struct http_exchange *x);
/* exchange_ended - the one line of the access log, the metrics, the end for its key. */
void exchange_ended(struct http_exchange *x);

/* ---- http_limits.c */

/* limits_check - framing and limits of a request whose headers have arrived.
 * 0, or the status to refuse it with and why.  Sets x->expects_continue. */
int limits_check(struct http_exchange *x, const char *version, char *why, size_t why_bytes);
/* limits_body - take n more bytes of a body, or swallow them when it is to be refused; false: break the connection. */
bool limits_body(struct http_exchange *x, const char *bytes, size_t n_bytes);

/* ---- httpd.c */

/* conn_cut - get rid of a connection; libmicrohttpd sees the end at its next run. */
void conn_cut(struct http_conn *conn);
/* conn_refuse_raw - where libmicrohttpd takes no answer (headers not whole, middle of a body): write one past it, then
 * cut the connection. */
void conn_refuse_raw(struct http_conn *conn, int status, const char *request_id, const char *code, const char *message);
void conn_start_timer(struct http_conn *conn, int64_t ms);
/* conn_watch - have the end of the client noticed while its body arrives and while the connection is suspended. */
void conn_watch(struct http_conn *conn);

#endif
