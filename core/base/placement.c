#include "core/base/placement.h"

#include <errno.h>
#include <numaif.h>
#include <string.h>

enum { MAX_NODE_ARGUMENT = PLACEMENT_MAX_NODES + 1 }; /* the kernel takes one bit less than it is told */

int placement_interleave(struct placement *before, struct l4_err *err) {
    struct placement spread = {.mode = MPOL_INTERLEAVE};
    if (get_mempolicy(&before->mode, before->nodes, MAX_NODE_ARGUMENT, NULL, 0) != 0 ||
        get_mempolicy(NULL, spread.nodes, MAX_NODE_ARGUMENT, NULL, MPOL_F_MEMS_ALLOWED) != 0 ||
        set_mempolicy(spread.mode, spread.nodes, MAX_NODE_ARGUMENT) != 0)
        return l4_err_set(err, L4_E_UNSUPPORTED, "memory cannot be spread over NUMA nodes: %s", strerror(errno));
    return 0;
}

void placement_restore(const struct placement *before) {
    if (set_mempolicy(before->mode, before->nodes, MAX_NODE_ARGUMENT) != 0)
        return; /* it was this thread's own a moment ago: a filter that came in between is nothing to fail for */
}
