#include "core/base/cgroup.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct walk {
    const char *root;
    void (*visit)(void *ctx, const char *directory);
    void *ctx;
};

/* group: "/a/b". */
static void visit_groups(const struct walk *walk, const char *mount, const char *group) {
    char directory[PATH_MAX];
    int n = snprintf(directory, sizeof directory, "%s/sys/fs/cgroup%s%s", walk->root, mount, group);
    if (n < 0 || (size_t)n >= sizeof directory)
        return;
    size_t top = (size_t)n - strlen(group);
    for (;;) {
        walk->visit(walk->ctx, directory);
        char *slash = strrchr(directory + top, '/');
        if (!slash)
            return;
        *slash = '\0';
    }
}

static bool list_has(const char *list, const char *name) {
    size_t len = strlen(name);
    for (const char *at = list; (at = strstr(at, name)) != NULL; at += len)
        if ((at == list || at[-1] == ',') && (at[len] == ',' || at[len] == '\0'))
            return true;
    return false;
}

void cgroup_walk(const char *root, const char *controller, void (*visit)(void *ctx, const char *directory), void *ctx) {
    const struct walk walk = {root, visit, ctx};
    char path[PATH_MAX], line[PATH_MAX], mount[PATH_MAX];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    /* ID:CONTROLLERS:GROUP; version 2 has one line without controllers, version 1 one for each of its mounts. */
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(++controllers, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        if (strcmp(group, "/") == 0)
            group[0] = '\0';
        if (controllers[0] == '\0') {
            visit_groups(&walk, "", group);
        } else if (list_has(controllers, controller)) {
            snprintf(mount, sizeof mount, "/%s", controller);
            visit_groups(&walk, mount, group);
            snprintf(mount, sizeof mount, "/%s", controllers); /* of several, where nobody made a link */
            if (strcmp(controllers, controller) != 0)
                visit_groups(&walk, mount, group);
        }
    }
    fclose(file);
}
