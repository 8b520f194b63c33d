/* How much memory there is: the machine's and the control group's. */
#ifndef CORE_BASE_MEMORY_H
#define CORE_BASE_MEMORY_H

#include <stdint.h>

struct memory_limits {
    int64_t total_bytes;     /* of the machine; INT64_MAX where unknown */
    int64_t available_bytes; /* without swapping; INT64_MAX where unknown */
    int64_t cgroup_bytes;    /* the tightest memory limit of this process's control groups; INT64_MAX = none */
};

/* memory_limits_read - from ROOT/proc/meminfo, ROOT/proc/self/cgroup and ROOT/sys/fs/cgroup; root is "" but for tests.
 * What cannot be read counts as unlimited. */
void memory_limits_read(struct memory_limits *limits, const char *root);

#endif
