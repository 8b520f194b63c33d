/* Which file a memory fault came from.
 *
 * A mapped file that is truncated, or whose disk fails, while the engine computes raises SIGBUS in whatever thread
 * touched the page.  There is no result to salvage then: the weights are gone.  What is left to do is to say which file
 * it was, and to end with a status that a supervisor understands (l4_install_fault_handler in llama4/engine.h). */
#ifndef CORE_BASE_SIGBUS_H
#define CORE_BASE_SIGBUS_H

#include <stddef.h>

/* sigbus_watch - from now on a fault within size_bytes from start is put down to the file `path` (copied; the tail of a
 * long one).  Any thread.  Beyond some thousand ranges a range is not kept, and a fault there is not explained. */
void sigbus_watch(const void *start, size_t size_bytes, const char *path);
/* sigbus_unwatch - before the range is unmapped. */
void sigbus_unwatch(const void *start);

#endif
