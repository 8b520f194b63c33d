#include "server/sse.h"

void sse_open(struct l4_buf *out) {
    l4_buf_append(out, "data: ", 6);
}
void sse_open_event(struct l4_buf *out, const char *name) {
    l4_buf_printf(out, "event: %s\n", name);
    sse_open(out);
}
void sse_close(struct l4_buf *out) {
    l4_buf_append(out, "\n\n", 2);
}
void sse_done(struct l4_buf *out) {
    l4_buf_puts(out, "data: [DONE]\n\n");
}
