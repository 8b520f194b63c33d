/* load - what a server gives over HTTP: N streams at a time against a running daemon, on plain sockets and one epoll.
 *
 *   load [--streams N] [--requests N] [--runs N] [--max-tokens N] [--prompt-words N] [--seconds N] [--model NAME]
 *        [--chat] URL
 *
 * A run sends `requests` requests (as many as streams by default), each streamed, greedy, without end token, so that it
 * gives exactly max-tokens tokens.  Prints the median over the runs of tokens a second from the first token on, summed
 * over the streams, as bench_engine counts them; time to first token; time between chunks.  Exits 1 if a request failed
 * or `seconds` were up. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "llama4/buf.h"

struct samples {
    double *values;
    size_t len, cap;
};

enum part { PART_HEAD, PART_SIZE, PART_DATA, PART_CRLF, PART_LAST, PART_END };

struct stream {
    int fd;
    struct l4_buf request;
    size_t sent;
    struct l4_buf frame, line; /* what there is of a line of HTTP, of the event stream */
    enum part part;
    size_t left; /* of the chunk */
    bool is_done;
    int status;
    double last_s; /* of the request, then of the last content */
    long n_content;
};

static struct {
    char host[256], port[16];
    const char *path, *model;
    int n_streams, n_runs, max_tokens, prompt_words;
    long n_requests;
    double seconds;
    bool is_chat;
} options = {
    .path = "/v1/completions", .n_streams = 16, .n_runs = 1, .max_tokens = 128, .prompt_words = 8, .seconds = 60};

static struct {
    int epoll;
    long n_started, n_finished, n_failed, n_tokens, n_chunks;
    double first_s;                  /* first content of a run */
    struct samples first_token, gap; /* milliseconds */
} load;

static _Noreturn void die(const char *fmt, ...) L4_PRINTF(1, 2);
static void die(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    exit(2);
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void add_sample(struct samples *s, double value) {
    if (s->len == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 4096;
        s->values = realloc(s->values, s->cap * sizeof *s->values);
        if (!s->values)
            die("out of memory");
    }
    s->values[s->len++] = value;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(struct samples *s, double p) {
    if (s->len == 0)
        return 0;
    qsort(s->values, s->len, sizeof *s->values, by_value);
    return s->values[(size_t)(p * (double)(s->len - 1))];
}

/* ---- one stream ---------------------------------------------------------------------------------------------------
 */

static void put_request(struct l4_buf *out, long index) {
    static const char *const words[] = {"Once", "upon", "a", "time", "there", "was", "kind", "fox"};
    struct l4_buf body = {0};
    l4_buf_puts(&body, options.is_chat ? "{\"messages\":[{\"role\":\"user\",\"content\":\"" : "{\"prompt\":\"");
    for (int i = 0; i < options.prompt_words; i++)
        l4_buf_printf(&body, "%s%s", i ? " " : "", words[(size_t)(i * (index + 1)) % 8]);
    l4_buf_puts(&body, options.is_chat ? "\"}]" : "\"");
    if (options.model)
        l4_buf_printf(&body, ",\"model\":\"%s\"", options.model);
    l4_buf_printf(&body,
                  ",\"max_tokens\":%d,\"temperature\":0,\"ignore_eos\":true,\"stream\":true,"
                  "\"stream_options\":{\"include_usage\":true}}",
                  options.max_tokens);
    l4_buf_clear(out);
    l4_buf_printf(out,
                  "POST %s HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                  options.path, options.host, options.port, body.len);
    l4_buf_append(out, body.data, body.len);
    if (body.failed || out->failed)
        die("out of memory");
    l4_buf_free(&body);
}

static void watch(struct stream *s, int op, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = s};
    if (epoll_ctl(load.epoll, op, s->fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
}

static void begin_connection(struct stream *s) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found = NULL;
    int rc = getaddrinfo(options.host, options.port, &hints, &found);
    if (rc != 0)
        die("%s:%s: %s", options.host, options.port, gai_strerror(rc));
    int one = 1;
    s->fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->fd < 0 || connect(s->fd, found->ai_addr, found->ai_addrlen) != 0)
        die("%s:%s: %s", options.host, options.port, strerror(errno));
    freeaddrinfo(found);
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
    watch(s, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

static void begin_request(struct stream *s) {
    if (load.n_started == options.n_requests) {
        close(s->fd);
        s->fd = -1;
        return;
    }
    put_request(&s->request, load.n_started++);
    l4_buf_clear(&s->frame);
    l4_buf_clear(&s->line);
    l4_buf_append(&s->frame, "", 0); /* never NULL */
    l4_buf_append(&s->line, "", 0);
    s->status = 0;
    s->sent = 0;
    s->part = PART_HEAD;
    s->is_done = false;
    s->n_content = 0;
    s->last_s = now_s();
    watch(s, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

static void end_request(struct stream *s, bool ok) {
    load.n_finished++;
    load.n_failed += !ok;
    if (!ok && s->fd >= 0) {
        close(s->fd);
        begin_connection(s);
    }
    begin_request(s);
}

/* One line of the event stream. */
static void take_event(struct stream *s, const char *line, double now) {
    if (strncmp(line, "data: ", 6) != 0)
        return;
    if (strcmp(line + 6, "[DONE]") == 0) {
        s->is_done = true;
        return;
    }
    const char *usage = strstr(line, "\"completion_tokens\":");
    if (usage)
        load.n_tokens += strtol(usage + strlen("\"completion_tokens\":"), NULL, 10);
    const char *text = strstr(line, options.is_chat ? "\"content\":\"" : "\"text\":\"");
    text = text ? strchr(text, ':') + 2 : "\"";
    if (*text == '"')
        return;
    if (load.first_s == 0)
        load.first_s = now;
    add_sample(s->n_content++ == 0 ? &load.first_token : &load.gap, (now - s->last_s) * 1e3);
    s->last_s = now;
    load.n_chunks++;
}

/* Bytes of the event stream; a line may go on in the next chunk. */
static void take_payload(struct stream *s, const char *bytes, size_t n, double now) {
    while (n > 0) {
        const char *end = memchr(bytes, '\n', n);
        size_t len = end ? (size_t)(end - bytes) : n;
        l4_buf_append(&s->line, bytes, len);
        if (!end)
            return;
        take_event(s, s->line.data, now);
        l4_buf_clear(&s->line);
        bytes += len + 1;
        n -= len + 1;
    }
}

/* A line of HTTP: of the head, a chunk's size, or what follows a chunk. */
static void take_frame(struct stream *s) {
    const char *line = s->frame.data;
    bool is_empty = s->frame.len == 0 || line[0] == '\r';
    if (s->part == PART_HEAD && strncmp(line, "HTTP/1.1 ", 9) == 0)
        s->status = atoi(line + 9);
    else if (s->part == PART_HEAD && is_empty)
        s->part = s->status == 200 ? PART_SIZE : PART_END;
    else if (s->part == PART_SIZE)
        s->part = (s->left = strtoul(line, NULL, 16)) > 0 ? PART_DATA : PART_LAST;
    else if (s->part == PART_CRLF)
        s->part = PART_SIZE;
    else if (s->part == PART_LAST)
        s->part = PART_END;
    l4_buf_clear(&s->frame);
}

static void take_bytes(struct stream *s, const char *bytes, size_t n, double now) {
    while (n > 0 && s->part != PART_END) {
        size_t len = n;
        if (s->part == PART_DATA) {
            len = n < s->left ? n : s->left;
            take_payload(s, bytes, len, now);
            if ((s->left -= len) == 0)
                s->part = PART_CRLF;
        } else {
            const char *end = memchr(bytes, '\n', n);
            len = end ? (size_t)(end - bytes) + 1 : n;
            l4_buf_append(&s->frame, bytes, end ? len - 1 : len);
            if (end)
                take_frame(s);
        }
        bytes += len;
        n -= len;
    }
}

static void send_more(struct stream *s) {
    ssize_t n = send(s->fd, s->request.data + s->sent, s->request.len - s->sent, MSG_NOSIGNAL);
    if (n > 0)
        s->sent += (size_t)n;
    if (s->sent == s->request.len)
        watch(s, EPOLL_CTL_MOD, EPOLLIN);
}

static void receive_more(struct stream *s) {
    char bytes[65536];
    ssize_t n = recv(s->fd, bytes, sizeof bytes, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0)
        take_bytes(s, bytes, (size_t)n, now_s());
    if (n <= 0 || s->part == PART_END)
        end_request(s, s->part == PART_END && s->is_done && s->status == 200);
}

/* ---- all of them --------------------------------------------------------------------------------------------------
 */

static void parse_url(const char *url) {
    const char *host = strncmp(url, "http://", 7) == 0 ? url + 7 : url;
    size_t len = strcspn(host, ":/");
    snprintf(options.host, sizeof options.host, "%.*s", (int)len, host);
    snprintf(options.port, sizeof options.port, "%s", host[len] == ':' ? host + len + 1 : "80");
    options.port[strcspn(options.port, "/")] = '\0';
}

static long number(const char *text, long min, long max) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || end == text || value < min || value > max)
        die("'%s' must be a number from %ld to %ld", text, min, max);
    return value;
}

static void parse_options(int argc, char **argv) {
    static const struct option names[] = {
        {"streams", required_argument, NULL, 's'},
        {"requests", required_argument, NULL, 'r'},
        {"max-tokens", required_argument, NULL, 't'},
        {"prompt-words", required_argument, NULL, 'w'},
        {"seconds", required_argument, NULL, 'd'},
        {"model", required_argument, NULL, 'm'},
        {"runs", required_argument, NULL, 'n'},
        {"chat", no_argument, NULL, 'c'},
        {0},
    };
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (c == 's')
            options.n_streams = (int)number(optarg, 1, 10000);
        else if (c == 'r')
            options.n_requests = number(optarg, 1, 100000000);
        else if (c == 'n')
            options.n_runs = (int)number(optarg, 1, 10000);
        else if (c == 't')
            options.max_tokens = (int)number(optarg, 1, 10000000);
        else if (c == 'w')
            options.prompt_words = (int)number(optarg, 1, 1000000);
        else if (c == 'd')
            options.seconds = (double)number(optarg, 1, 86400);
        else if (c == 'm')
            options.model = optarg;
        else if (c == 'c')
            options.is_chat = true;
        else
            exit(2);
    }
    if (optind != argc - 1)
        die("usage: load [--streams N] [--requests N] [--runs N] [--max-tokens N] [--prompt-words N] [--seconds N] "
            "[--model NAME] "
            "[--chat] URL");
    parse_url(argv[optind]);
    options.path = options.is_chat ? "/v1/chat/completions" : "/v1/completions";
    if (options.n_requests == 0)
        options.n_requests = options.n_streams;
    if (options.n_streams > options.n_requests)
        options.n_streams = (int)options.n_requests;
}

/* One run: n_requests answered by n_streams connections.  Returns tokens a second from the first token on. */
static double run(struct stream *streams, double deadline_s) {
    long n_before = load.n_finished, n_tokens = load.n_tokens;
    load.n_started = 0;
    load.first_s = 0;
    for (int i = 0; i < options.n_streams; i++) {
        begin_connection(&streams[i]);
        begin_request(&streams[i]);
    }
    while (load.n_finished - n_before < options.n_requests && now_s() < deadline_s) {
        struct epoll_event events[64];
        int n = epoll_wait(load.epoll, events, 64, 100);
        for (int i = 0; i < n; i++) {
            struct stream *s = events[i].data.ptr;
            if (s->fd >= 0 && (events[i].events & EPOLLOUT))
                send_more(s);
            if (s->fd >= 0 && (events[i].events & ~(uint32_t)EPOLLOUT))
                receive_more(s);
        }
    }
    return (double)(load.n_tokens - n_tokens - options.n_requests) / (now_s() - load.first_s);
}

static void print_results(struct samples *rates) {
    double median = percentile(rates, 0.5);
    printf("http, %d stream%-14s %8.0f tokens/s   (%.0f to %.0f in %zu runs)\n", options.n_streams,
           options.n_streams == 1 ? "" : "s in total", median, (double)rates->values[0],
           (double)rates->values[rates->len - 1], rates->len);
    printf("  time to first token p50 %.2f ms, p99 %.2f ms; between chunks p50 %.2f ms, p99 %.2f ms; %ld tokens in %ld "
           "chunks\n",
           percentile(&load.first_token, 0.5), percentile(&load.first_token, 0.99), percentile(&load.gap, 0.5),
           percentile(&load.gap, 0.99), load.n_tokens, load.n_chunks);
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    struct stream *streams = calloc((size_t)options.n_streams, sizeof *streams);
    struct samples rates = {0};
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!streams || load.epoll < 0)
        die("cannot start: %s", strerror(errno));
    double deadline_s = now_s() + options.seconds;
    long n_left = options.n_requests * options.n_runs;
    for (int i = 0; i < options.n_runs && now_s() < deadline_s; i++)
        add_sample(&rates, run(streams, deadline_s));
    n_left -= load.n_finished;
    print_results(&rates);
    if (load.n_failed || n_left)
        printf("load: %ld requests failed, %ld were not finished in time\n", load.n_failed, n_left);
    for (int i = 0; i < options.n_streams; i++) {
        l4_buf_free(&streams[i].request);
        l4_buf_free(&streams[i].line);
        l4_buf_free(&streams[i].frame);
    }
    free(streams);
    free(rates.values);
    free(load.first_token.values);
    free(load.gap.values);
    return load.n_failed || n_left ? 1 : 0;
}
