/* The registry of variants: builds each table once, picks one by processor or by L4_CPU. */
#include "core/kernels/kernels.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/cpu.h"
#include "core/format/dequant.h"
#include "core/kernels/variants.h"

static bool have_ref(const struct cpu_features *cpu) {
    (void)cpu;
    return true;
}
static void fill_ref(struct kernels *table, const struct cpu_features *cpu) {
    (void)cpu;
    kernels_fill_ref(table);
    kernels_fill_packed_ref(table);
    kernels_fill_bf16_ref(table);
}

#if defined(__x86_64__)
static bool have_avx512(const struct cpu_features *cpu) {
    return cpu->avx512;
}
static void fill_avx512(struct kernels *table, const struct cpu_features *cpu) {
    kernels_fill_avx512(table);
    (cpu->avx512_vnni ? kernels_fill_packed_vnni : kernels_fill_packed_avx2)(table);
    (cpu->avx512_bf16 ? kernels_fill_bf16_dpbf16 : kernels_fill_bf16_avx512)(table);
}
static bool have_avx2(const struct cpu_features *cpu) {
    return cpu->avx2;
}
static void fill_avx2(struct kernels *table, const struct cpu_features *cpu) {
    (void)cpu;
    kernels_fill_avx2(table);
    kernels_fill_packed_avx2(table);
    kernels_fill_bf16_avx2(table);
}
#elif defined(__aarch64__)
static bool have_neon(const struct cpu_features *cpu) {
    return cpu->neon;
}
static void fill_neon(struct kernels *table, const struct cpu_features *cpu) {
    (void)cpu;
    kernels_fill_neon(table);
    kernels_fill_packed_neon(table);
    kernels_fill_bf16_neon(table);
}
#endif

/* Best first; the reference runs everywhere. */
static const struct variant {
    const char *name;
    bool (*have)(const struct cpu_features *cpu);
    void (*fill)(struct kernels *table, const struct cpu_features *cpu);
} VARIANTS[] = {
#if defined(__x86_64__)
    {"avx512", have_avx512, fill_avx512},
    {"avx2", have_avx2, fill_avx2},
#elif defined(__aarch64__)
    {"neon", have_neon, fill_neon},
#endif
    {"ref", have_ref, fill_ref},
};
enum { N_VARIANTS = sizeof VARIANTS / sizeof *VARIANTS };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct kernels tables[N_VARIANTS]; /* those that this processor can run, best first */
static const char *names[N_VARIANTS + 1];

static void build_tables(void) {
    struct cpu_features cpu;
    cpu_features(&cpu);
    int n = 0;
    for (int i = 0; i < N_VARIANTS; i++) {
        if (!VARIANTS[i].have(&cpu))
            continue;
        fill_ref(&tables[n], &cpu);
        VARIANTS[i].fill(&tables[n], &cpu);
        tables[n].name = VARIANTS[i].name;
        names[n++] = VARIANTS[i].name;
    }
}

const char *const *kernels_names(void) {
    pthread_once(&once, build_tables);
    return names;
}

const struct kernels *kernels_by_name(const char *name) {
    const char *const *known = kernels_names();
    for (int i = 0; known[i]; i++) {
        if (strcmp(known[i], name) == 0)
            return &tables[i];
    }
    return NULL;
}

void kernels_widen(const struct kernels *kernels, enum dtype type, float *dst, const void *src, int64_t n) {
    if (kernels_have_type(type))
        kernels->widen[type](dst, src, n);
    else
        dequantize_row(type, src, dst, n);
}

int kernels_get(const struct kernels **out, struct l4_err *err) {
    const char *const *known = kernels_names();
    const char *wanted = getenv("L4_CPU");
    *out = wanted && *wanted ? kernels_by_name(wanted) : &tables[0];
    if (*out)
        return L4_OK;
    char list[64] = "";
    for (int i = 0; known[i]; i++) {
        strncat(list, i ? ", " : "", sizeof list - strlen(list) - 1);
        strncat(list, known[i], sizeof list - strlen(list) - 1);
    }
    return l4_err_set(err, L4_E_INVALID, "L4_CPU=%s: no such kernels on this processor, which has: %s", wanted, list);
}
