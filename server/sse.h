/* Framing of an event stream: "data: {json}\n\n" a chunk, "data: [DONE]\n\n" at the end; with named events
 * "event: NAME\ndata: {json}\n\n" each. */
#ifndef SERVER_SSE_H
#define SERVER_SSE_H

#include "llama4/buf.h"

void sse_open(struct l4_buf *out); /* the JSON of one chunk follows: no line break inside */
void sse_open_event(struct l4_buf *out, const char *name);
void sse_close(struct l4_buf *out);
void sse_done(struct l4_buf *out);

#endif
