/* Which processors this process may use: hardware threads, physical cores, control groups' quota, NUMA nodes. */
#ifndef CORE_BASE_CPUS_H
#define CORE_BASE_CPUS_H

#include <pthread.h>

#include "llama4/error.h"

struct cpus {
    int n_allowed; /* hardware threads in the affinity mask, at least 1 */
    int n_cores;   /* physical cores that they belong to, at least 1 */
    int n_nodes;   /* NUMA nodes whose memory may be used, at least 1 */
    double quota;  /* processors' worth of time that the tightest control group allows; INFINITY = no limit */
    int *order;    /* [n_allowed], owned: the hardware threads in the order in which workers are put on them */
};

/* cpus_read - from the calling thread's affinity mask and ROOT/sys/devices/system, ROOT/sys/fs/cgroup,
 * ROOT/proc/self/{cgroup,status}; root is "" but for tests.
 *   allowed: in place of the affinity mask for tests, as the kernel writes lists ("0-3,8"); NULL = the mask.
 *   order: one hardware thread of each core first, then the second of each, and so on; each time by turns of the nodes,
 *   so that few workers already read through the memory channels of all nodes.
 *   What cannot be read or makes no sense limits nothing: a hardware thread counts as a core of its own on node 0, a
 *   control group as one without quota, the machine as one node.
 *   Errors: L4_E_NOMEM.  cpus_fini frees. */
int cpus_read(struct cpus *cpus, const char *root, const char *allowed, struct l4_err *err) L4_MUST_CHECK;
void cpus_fini(struct cpus *cpus);

/* cpus_threads - how many threads keep them busy: the physical cores, but no more than the quota, rounded up. */
int cpus_threads(const struct cpus *cpus);
/* cpu_threads_auto - cpus_threads of this machine, 1 when out of memory. */
int cpu_threads_auto(void);

/* cpus_pin - from now on the thread runs on that hardware thread alone.  Returns 0 or an errno value. */
int cpus_pin(pthread_t thread, int cpu) L4_MUST_CHECK;

#endif
