/* A growing byte buffer: text on its way out. */
#ifndef LLAMA4_BUF_H
#define LLAMA4_BUF_H

#include <stdbool.h>
#include <stddef.h>

#include "llama4/error.h"

/* All zero is an empty buffer.  data is always NUL-terminated once anything was appended; len does not count the NUL.
 * An append that runs out of memory sets `failed` and every later append is a no-op: check once, at the end. */
struct l4_buf {
    char *data;
    size_t len;
    size_t cap;
    bool failed;
};

void l4_buf_append(struct l4_buf *buf, const char *bytes, size_t n_bytes);
void l4_buf_puts(struct l4_buf *buf, const char *text);
void l4_buf_printf(struct l4_buf *buf, const char *fmt, ...) L4_PRINTF(2, 3);
void l4_buf_clear(struct l4_buf *buf); /* len = 0, failed = false, storage kept */
void l4_buf_free(struct l4_buf *buf);  /* back to all zero */

/* l4_buf_take - hand the malloc'ed, NUL-terminated storage to the caller; "" when empty; NULL when an append failed. */
char *l4_buf_take(struct l4_buf *buf, size_t *len_bytes);

#endif
