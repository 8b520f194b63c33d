/* Which NUMA node memory lies on.  The one place that calls libnuma. */
#ifndef CORE_BASE_PLACEMENT_H
#define CORE_BASE_PLACEMENT_H

#include "llama4/error.h"

enum { PLACEMENT_MAX_NODES = 4096 }; /* more than any kernel is built for */

/* A thread's memory policy. */
struct placement {
    int mode;
    unsigned long nodes[PLACEMENT_MAX_NODES / (8 * sizeof(unsigned long))];
};

/* placement_interleave - from now on what this thread, and every thread that it starts, touches first is spread page by
 * page over all nodes whose memory this process may use: weights, KV cache and activations alike, and pages of mapped
 * files that these threads are the first to read.  Pages that the page cache already holds stay where they are.
 *   *before is what applied to this thread until now, for placement_restore.
 *   Errors: L4_E_UNSUPPORTED (the kernel or a filter of system calls refuses); nothing has changed then. */
int placement_interleave(struct placement *before, struct l4_err *err) L4_MUST_CHECK;

/* placement_restore - this thread's own policy is again what it was; threads that it started in between keep theirs.
 */
void placement_restore(const struct placement *before);

#endif
