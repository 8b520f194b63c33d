#include "core/base/cpus.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/cgroup.h"
#include "core/base/checked.h"

enum { MAX_CPUS = 1 << 20, MAX_NODES = 1 << 12 }; /* a larger number is no number of a processor or a node */

/* ---- small files ---------------------------------------------------------------------------------------------- */

/* The rest of the first line that begins with `key`; NULL if there is none.  The caller frees it. */
L4_PRINTF(2, 3) static char *read_line(const char *key, const char *fmt, ...) {
    char path[PATH_MAX], *line = NULL;
    size_t cap = 0, key_len = strlen(key);
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(path, sizeof path, fmt, args);
    va_end(args);
    FILE *file = n > 0 && (size_t)n < sizeof path ? fopen(path, "re") : NULL;
    if (!file)
        return NULL;
    bool found = false;
    while (!found && getline(&line, &cap, file) >= 0)
        found = strncmp(line, key, key_len) == 0;
    fclose(file);
    if (!found) {
        free(line);
        return NULL;
    }
    line[strcspn(line, "\n")] = '\0';
    memmove(line, line + key_len, strlen(line) - key_len + 1);
    return line;
}

/* A number in front of *text, 0..max; moves past it. */
static bool take_number(const char **text, int64_t max, int64_t *out) {
    char *end;
    errno = 0;
    long long value = strtoll(*text, &end, 10);
    if (end == *text || errno != 0 || value < 0 || value > max)
        return false;
    *text = end;
    *out = value;
    return true;
}

/* The next range of a list as the kernel writes them, "0-3,8"; false at its end and where it makes no sense. */
static bool take_range(const char **list, int64_t max, int64_t *first, int64_t *last) {
    while (**list == ',' || **list == ' ' || **list == '\t')
        ++*list;
    if (!take_number(list, max, first))
        return false;
    *last = *first;
    if (**list == '-') {
        ++*list;
        return take_number(list, max, last) && *last >= *first;
    }
    return true;
}

static bool list_has(const char *list, int64_t number) {
    int64_t first, last;
    while (take_range(&list, INT32_MAX, &first, &last))
        if (number >= first && number <= last)
            return true;
    return false;
}

/* ---- hardware threads ----------------------------------------------------------------------------------------- */

struct cpu {
    int cpu, core, node; /* core: its first hardware thread */
    int sibling;         /* which hardware thread of its core, of those allowed */
    int turn;            /* which core of its node */
};

struct cpu_list {
    struct cpu *cpus; /* ascending */
    size_t n, cap;
};

static bool list_push(struct cpu_list *list, int cpu) {
    if (!checked_grow((void **)&list->cpus, &list->cap, list->n + 1, sizeof *list->cpus))
        return false;
    list->cpus[list->n++] = (struct cpu){.cpu = cpu, .core = cpu};
    return true;
}

/* The affinity mask, on machines with more processors than a fixed cpu_set_t holds, too: the mask grows until the
 * kernel's fits.  Nothing is added where it cannot be had. */
static bool push_affinity(struct cpu_list *list) {
    for (int n_cpus = 1024; n_cpus <= MAX_CPUS; n_cpus *= 2) {
        cpu_set_t *mask = CPU_ALLOC(n_cpus);
        size_t size = CPU_ALLOC_SIZE(n_cpus);
        if (!mask)
            return false;
        int rc = sched_getaffinity(0, size, mask);
        int reason = errno;
        bool ok = true;
        for (int cpu = 0; rc == 0 && ok && cpu < n_cpus; cpu++)
            if (CPU_ISSET_S(cpu, size, mask))
                ok = list_push(list, cpu);
        CPU_FREE(mask);
        if (rc == 0 || reason != EINVAL)
            return ok;
    }
    return true;
}

static bool push_list(struct cpu_list *list, const char *text) {
    int64_t first, last;
    while (take_range(&text, MAX_CPUS - 1, &first, &last))
        for (int64_t cpu = first; cpu <= last; cpu++)
            if (!list_push(list, (int)cpu))
                return false;
    return true;
}

/* Nobody says what is allowed: what there is. */
static bool push_online(struct cpu_list *list) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    for (int cpu = 0; cpu < (n > 0 && n <= MAX_CPUS ? n : 1); cpu++)
        if (!list_push(list, cpu))
            return false;
    return true;
}

/* ---- cores and nodes ------------------------------------------------------------------------------------------ */

static bool find_cores(struct cpu_list *list, const char *root) {
    int most = list->cpus[list->n - 1].cpu;
    int *n_siblings = calloc((size_t)most + 1, sizeof *n_siblings);
    if (!n_siblings)
        return false;
    for (size_t i = 0; i < list->n; i++) {
        struct cpu *cpu = &list->cpus[i];
        char *siblings = read_line("", "%s/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", root, cpu->cpu);
        const char *text = siblings;
        int64_t first;
        if (siblings && list_has(siblings, cpu->cpu) && take_number(&text, cpu->cpu, &first))
            cpu->core = (int)first;
        free(siblings);
        cpu->sibling = n_siblings[cpu->core]++;
    }
    free(n_siblings);
    return true;
}

/* Which node each belongs to. */
static void find_cpu_nodes(struct cpu_list *list, const char *root) {
    char *nodes = read_line("", "%s/sys/devices/system/node/online", root);
    const char *text = nodes;
    int64_t first_node, last_node, first, last;
    while (text && take_range(&text, MAX_NODES - 1, &first_node, &last_node))
        for (int64_t node = first_node; node <= last_node; node++) {
            char *cpus = read_line("", "%s/sys/devices/system/node/node%d/cpulist", root, (int)node);
            const char *range = cpus;
            while (range && take_range(&range, MAX_CPUS - 1, &first, &last))
                for (size_t i = 0; i < list->n; i++)
                    if (list->cpus[i].cpu >= first && list->cpus[i].cpu <= last)
                        list->cpus[i].node = (int)node;
            free(cpus);
        }
    free(nodes);
}

static int count_memory_nodes(const char *root) {
    char *nodes = read_line("", "%s/sys/devices/system/node/has_memory", root);
    char *allowed = read_line("Mems_allowed_list:", "%s/proc/self/status", root);
    const char *text = nodes;
    int64_t first, last;
    int n = 0;
    while (text && take_range(&text, MAX_NODES - 1, &first, &last))
        for (int64_t node = first; node <= last; node++)
            n += !allowed || list_has(allowed, node);
    free(nodes);
    free(allowed);
    return n > 0 ? n : 1;
}

static int by_node(const void *a, const void *b) {
    const struct cpu *x = a, *y = b;
    if (x->sibling != y->sibling)
        return x->sibling - y->sibling;
    return x->node != y->node ? x->node - y->node : x->cpu - y->cpu;
}

static int by_turn(const void *a, const void *b) {
    const struct cpu *x = a, *y = b;
    if (x->sibling != y->sibling)
        return x->sibling - y->sibling;
    return x->turn != y->turn ? x->turn - y->turn : x->node - y->node;
}

static void sort_by_turns(struct cpu_list *list) {
    qsort(list->cpus, list->n, sizeof *list->cpus, by_node);
    for (size_t i = 1; i < list->n; i++) {
        const struct cpu *before = &list->cpus[i - 1];
        struct cpu *cpu = &list->cpus[i];
        cpu->turn = cpu->sibling == before->sibling && cpu->node == before->node ? before->turn + 1 : 0;
    }
    qsort(list->cpus, list->n, sizeof *list->cpus, by_turn);
}

/* ---- quota ---------------------------------------------------------------------------------------------------- */

/* Version 2: "max 100000" or "150000 100000".  Version 1: two files, quota -1 = none. */
static void read_quota(void *ctx, const char *directory) {
    double *tightest = ctx;
    int64_t quota = 0, period = 0;
    char *both = read_line("", "%s/cpu.max", directory);
    char *old_quota = read_line("", "%s/cpu.cfs_quota_us", directory);
    char *old_period = read_line("", "%s/cpu.cfs_period_us", directory);
    const char *text = both, *old_text = old_quota, *old_period_text = old_period;
    bool known = (text && take_number(&text, INT64_MAX, &quota) && take_number(&text, INT64_MAX, &period)) ||
                 (old_text && take_number(&old_text, INT64_MAX, &quota) && old_period &&
                  take_number(&old_period_text, INT64_MAX, &period));
    if (known && quota > 0 && period > 0)
        *tightest = fmin(*tightest, (double)quota / (double)period);
    free(both);
    free(old_quota);
    free(old_period);
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

static bool fill(struct cpus *cpus, struct cpu_list *list, const char *root, const char *allowed) {
    if (!(allowed ? push_list(list, allowed) : push_affinity(list)) || (list->n == 0 && !push_online(list)) ||
        !find_cores(list, root))
        return false;
    find_cpu_nodes(list, root);
    sort_by_turns(list);
    cpus->order = checked_array(list->n, sizeof *cpus->order);
    if (!cpus->order)
        return false;
    cpus->n_allowed = (int)list->n;
    for (size_t i = 0; i < list->n; i++) {
        cpus->order[i] = list->cpus[i].cpu;
        cpus->n_cores += list->cpus[i].sibling == 0;
    }
    cpus->n_nodes = count_memory_nodes(root);
    cpus->quota = INFINITY;
    cgroup_walk(root, "cpu", read_quota, &cpus->quota);
    return true;
}

int cpus_read(struct cpus *cpus, const char *root, const char *allowed, struct l4_err *err) {
    struct cpu_list list = {0};
    *cpus = (struct cpus){0};
    bool ok = fill(cpus, &list, root, allowed);
    free(list.cpus);
    return ok ? 0 : l4_err_set(err, L4_E_NOMEM, "no memory for the list of processors");
}

void cpus_fini(struct cpus *cpus) {
    free(cpus->order);
    *cpus = (struct cpus){0};
}

int cpus_threads(const struct cpus *cpus) {
    double quota = ceil(cpus->quota); /* more than 0, so at least 1 */
    return quota < cpus->n_cores ? (int)quota : cpus->n_cores;
}

int cpu_threads_auto(void) {
    struct cpus cpus;
    if (cpus_read(&cpus, "", NULL, NULL) != 0)
        return 1;
    int n = cpus_threads(&cpus);
    cpus_fini(&cpus);
    return n;
}

int cpus_pin(pthread_t thread, int cpu) {
    cpu_set_t *mask = CPU_ALLOC(cpu + 1);
    size_t size = CPU_ALLOC_SIZE(cpu + 1);
    if (!mask)
        return ENOMEM;
    CPU_ZERO_S(size, mask);
    CPU_SET_S(cpu, size, mask);
    int rc = pthread_setaffinity_np(thread, size, mask);
    CPU_FREE(mask);
    return rc;
}
