/* What a request may look like.  libmicrohttpd lets several framings through that two servers in a row may read in two
 * ways, so names and values are looked at here, before anything is done. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "server/http_internal.h"

enum { BODIES_IN_FLIGHT = 16 }; /* all bodies in memory together are at most this many of the largest size */

struct header_scan {
    size_t n_headers, n_bytes;
    int n_hosts, n_lengths, n_encodings;
    bool bad_name, bad_value, bad_length, bad_encoding, too_large;
    bool expects_continue;
    uint64_t length;
    uint64_t max_body_bytes;
};

/* A token in the sense of RFC 9110, 5.6.2. */
static bool is_token(const char *name, size_t len) {
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c <= 0x20 || c >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", c) != NULL)
            return false;
    }
    return len > 0;
}

static bool is_plain(const char *value, size_t len) {
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)value[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

static bool equals(const char *text, size_t len, const char *word) {
    return len == strlen(word) && strncasecmp(text, word, len) == 0;
}

static bool parse_length(const char *text, size_t len, uint64_t *out) {
    *out = 0;
    for (size_t i = 0; i < len; i++)
        if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(*out, 10, out) ||
            __builtin_add_overflow(*out, (uint64_t)(text[i] - '0'), out))
            return false;
    return len > 0;
}

static enum MHD_Result scan_header(void *user, enum MHD_ValueKind kind, const char *name, size_t name_len,
                                   const char *value, size_t value_len) {
    struct header_scan *scan = user;
    (void)kind;
    if (value == NULL)
        value = "";
    scan->n_headers++;
    scan->n_bytes += name_len + value_len + 4; /* ": " and the line's end */
    scan->bad_name |= !is_token(name, name_len);
    scan->bad_value |= !is_plain(value, value_len);
    if (equals(name, name_len, "Host")) {
        scan->n_hosts++;
    } else if (equals(name, name_len, "Content-Length")) {
        scan->n_lengths++;
        scan->bad_length |= !parse_length(value, value_len, &scan->length);
    } else if (equals(name, name_len, "Transfer-Encoding")) {
        scan->n_encodings++;
        scan->bad_encoding |= !equals(value, value_len, "chunked");
    } else if (equals(name, name_len, "Expect")) {
        scan->expects_continue |= equals(value, value_len, "100-continue");
    }
    return MHD_YES;
}

static int check_framing(const struct header_scan *scan, const char *version, const char **why) {
    bool http_1_1 = strcmp(version, "HTTP/1.1") == 0;
    if (!http_1_1 && strcmp(version, "HTTP/1.0") != 0) {
        *why = "the protocol is HTTP/1.1 or HTTP/1.0";
        return 505;
    }
    *why = scan->bad_name                   ? "a header's name holds a character that is not allowed there"
           : scan->bad_value                ? "a header's value holds a control character"
           : scan->n_hosts > 1              ? "more than one Host header"
           : scan->n_hosts == 0 && http_1_1 ? "the Host header is missing"
           : scan->n_lengths > 1            ? "more than one Content-Length header"
           : scan->bad_length               ? "Content-Length is not a number of bytes"
           : scan->n_encodings > 1          ? "more than one Transfer-Encoding header"
           : scan->n_encodings > 0 && scan->n_lengths > 0 ? "both Content-Length and Transfer-Encoding"
           : scan->bad_encoding                           ? "Transfer-Encoding may only be chunked"
           : scan->n_encodings > 0 && !http_1_1           ? "Transfer-Encoding needs HTTP/1.1"
                                                          : NULL;
    return *why != NULL ? 400 : 0;
}

int limits_check(struct http_exchange *x, const char *version, char *why, size_t why_bytes) {
    const struct http_conn *conn = x->conn;
    const struct config *config = conn->httpd->config;
    struct header_scan scan = {.n_bytes = conn->uri_bytes, .max_body_bytes = (uint64_t)config->max_body_bytes};
    MHD_get_connection_values_n(conn->mhd, MHD_HEADER_KIND, scan_header, &scan);
    x->expects_continue = scan.expects_continue;

    const char *reason;
    int status = check_framing(&scan, version, &reason);
    if (status != 0) {
        snprintf(why, why_bytes, "%s", reason);
        return status;
    }
    if (conn->uri_has_nul) {
        snprintf(why, why_bytes, "the path holds a NUL");
        return 400;
    }
    if (conn->uri_bytes > HTTP_MAX_URI_BYTES) {
        snprintf(why, why_bytes, "the address has %zu bytes; at most %d are allowed", conn->uri_bytes,
                 HTTP_MAX_URI_BYTES);
        return 414;
    }
    if (scan.n_headers > (size_t)config->max_headers) {
        snprintf(why, why_bytes, "the request has %zu headers; at most %lld are allowed", scan.n_headers,
                 (long long)config->max_headers);
        return 431;
    }
    if (scan.n_bytes > (size_t)config->max_header_bytes) {
        snprintf(why, why_bytes, "the headers have %zu bytes; at most %lld are allowed", scan.n_bytes,
                 (long long)config->max_header_bytes);
        return 431;
    }
    if (conn->over_limit && conn->httpd->n_conns > (size_t)config->max_connections && strcmp(x->path, "/health") != 0) {
        snprintf(why, why_bytes, "all %lld connections are taken; try again", (long long)config->max_connections);
        return 503;
    }
    /* A body that is not much too large is swallowed first: a client that writes before it reads sees the answer. */
    uint64_t refuse_bytes = scan.expects_continue ? scan.max_body_bytes : 2 * scan.max_body_bytes;
    if (scan.n_lengths > 0 && scan.length > refuse_bytes) {
        snprintf(why, why_bytes, "the body has %llu bytes; at most %lld are allowed", (unsigned long long)scan.length,
                 (long long)config->max_body_bytes);
        return 413;
    }
    return 0;
}

static bool swallow(struct http_exchange *x, size_t n_bytes) {
    x->httpd->body_bytes -= x->body.len;
    x->swallowed_bytes += x->body.len + n_bytes;
    l4_buf_free(&x->body);
    return x->swallowed_bytes <= 2 * (size_t)x->httpd->config->max_body_bytes;
}

bool limits_body(struct http_exchange *x, const char *bytes, size_t n_bytes) {
    size_t max_bytes = (size_t)x->httpd->config->max_body_bytes;
    if (x->refuse_status != 0)
        return swallow(x, n_bytes);
    if (n_bytes > max_bytes || x->body.len > max_bytes - n_bytes) {
        http_refuse(x, 413, NULL, "the body is larger than what is allowed");
        return swallow(x, n_bytes);
    }
    bool has_room = x->httpd->body_bytes + n_bytes <= BODIES_IN_FLIGHT * max_bytes;
    if (has_room)
        l4_buf_append(&x->body, bytes, n_bytes);
    if (!has_room || x->body.failed) {
        http_refuse(x, 503, NULL, "no memory for the body now; try again");
        return swallow(x, n_bytes);
    }
    x->httpd->body_bytes += n_bytes;
    return true;
}
