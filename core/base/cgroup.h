/* Control groups: where the limits of this process are written down. */
#ifndef CORE_BASE_CGROUP_H
#define CORE_BASE_CGROUP_H

/* cgroup_walk - visit(ctx, directory) for the control group of this process that `controller` ("cpu", "memory")
 * governs and for each group above it, innermost first.  Version 2 and version 1, both where both are mounted: a
 * directory may be visited that has not the file looked for, or that does not exist at all (a container sees its own
 * group as the root, under a path that the host gave).
 *   root: where proc/self/cgroup and sys/fs/cgroup are looked for; "" but for tests.  No groups: no visits. */
void cgroup_walk(const char *root, const char *controller, void (*visit)(void *ctx, const char *directory), void *ctx);

#endif
