#include "llama4/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"

/* Room for n_bytes more and the NUL. */
static bool buf_reserve(struct l4_buf *buf, size_t n_bytes) {
    size_t need;
    if (!buf->failed && !(checked_add_size(buf->len, n_bytes, &need) && checked_add_size(need, 1, &need) &&
                          checked_grow((void **)&buf->data, &buf->cap, need, 1)))
        buf->failed = true;
    return !buf->failed;
}

void l4_buf_append(struct l4_buf *buf, const char *bytes, size_t n_bytes) {
    if (!buf_reserve(buf, n_bytes))
        return;
    if (n_bytes)
        memcpy(buf->data + buf->len, bytes, n_bytes);
    buf->len += n_bytes;
    buf->data[buf->len] = '\0';
}

void l4_buf_puts(struct l4_buf *buf, const char *text) {
    l4_buf_append(buf, text, strlen(text));
}

void l4_buf_printf(struct l4_buf *buf, const char *fmt, ...) {
    char small[256];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(small, sizeof small, fmt, args);
    va_end(args);
    if (n < 0) {
        buf->failed = true;
    } else if ((size_t)n < sizeof small) {
        l4_buf_append(buf, small, (size_t)n);
    } else if (buf_reserve(buf, (size_t)n)) {
        va_start(args, fmt);
        vsnprintf(buf->data + buf->len, (size_t)n + 1, fmt, args);
        va_end(args);
        buf->len += (size_t)n;
    }
}

void l4_buf_clear(struct l4_buf *buf) {
    buf->len = 0;
    buf->failed = false;
    if (buf->data)
        buf->data[0] = '\0';
}

void l4_buf_free(struct l4_buf *buf) {
    free(buf->data);
    *buf = (struct l4_buf){0};
}

char *l4_buf_take(struct l4_buf *buf, size_t *len_bytes) {
    char *data = NULL;
    l4_buf_append(buf, "", 0);
    if (len_bytes)
        *len_bytes = buf->failed ? 0 : buf->len;
    if (!buf->failed) {
        data = buf->data;
        buf->data = NULL;
    }
    l4_buf_free(buf);
    return data;
}
