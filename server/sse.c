#include "server/sse.h"

void sse_open(struct l4_buf *out) {
    l4_buf_append(out, "data: ", 6);
}
void sse_close(struct l4_buf *out) {
    l4_buf_append(out, "\n\n", 2);
}
void sse_done(struct l4_buf *out) {
    l4_buf_puts(out, "data: [DONE]\n\n");
}
