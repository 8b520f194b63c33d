#include "core/base/memory.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>

#include "core/base/cgroup.h"

/* The first number in a file; false if there is none ("max", or no such file). */
static bool read_number(const char *path, int64_t *value) {
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    bool ok = fscanf(file, "%" SCNd64, value) == 1;
    fclose(file);
    return ok;
}

static void read_meminfo(struct memory_limits *limits, const char *root) {
    char path[PATH_MAX], line[256];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    FILE *file = fopen(path, "r");
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) {
        int64_t kib;
        if (sscanf(line, "MemTotal: %" SCNd64, &kib) == 1)
            limits->total_bytes = kib * 1024;
        else if (sscanf(line, "MemAvailable: %" SCNd64, &kib) == 1)
            limits->available_bytes = kib * 1024;
    }
    fclose(file);
}

/* Version 2, version 1. */
static void read_group(void *ctx, const char *directory) {
    static const char *const names[] = {"memory.max", "memory.limit_in_bytes"};
    struct memory_limits *limits = ctx;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[PATH_MAX];
        int64_t bytes;
        int n = snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        if (n > 0 && (size_t)n < sizeof path && read_number(path, &bytes) && bytes < limits->cgroup_bytes)
            limits->cgroup_bytes = bytes;
    }
}

void memory_limits_read(struct memory_limits *limits, const char *root) {
    *limits = (struct memory_limits){INT64_MAX, INT64_MAX, INT64_MAX};
    read_meminfo(limits, root);
    cgroup_walk(root, "memory", read_group, limits);
}
