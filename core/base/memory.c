#include "core/base/memory.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

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

/* The limits of a group and of all groups above it.  group: "/a/b", written to. */
static void read_groups(struct memory_limits *limits, const char *root, const char *mount, const char *file_name,
                        char *group) {
    for (;;) {
        char path[PATH_MAX];
        int64_t bytes;
        int n = snprintf(path, sizeof path, "%s/sys/fs/cgroup%s%s/%s", root, mount, group, file_name);
        if (n > 0 && (size_t)n < sizeof path && read_number(path, &bytes) && bytes < limits->cgroup_bytes)
            limits->cgroup_bytes = bytes;
        char *slash = strrchr(group, '/');
        if (!slash)
            return;
        *slash = '\0';
    }
}

void memory_limits_read(struct memory_limits *limits, const char *root) {
    char path[PATH_MAX], line[PATH_MAX];
    *limits = (struct memory_limits){INT64_MAX, INT64_MAX, INT64_MAX};
    read_meminfo(limits, root);
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "r");
    if (!file)
        return;
    /* ID:CONTROLLERS:GROUP; version 2 has one line without controllers, version 1 one for memory. */
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        if (controllers[1] == '\0')
            read_groups(limits, root, "", "memory.max", group);
        else if (strcmp(controllers + 1, "memory") == 0)
            read_groups(limits, root, "/memory", "memory.limit_in_bytes", group);
    }
    fclose(file);
}
