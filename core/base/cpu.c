#include "core/base/cpu.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

void cpu_features(struct cpu_features *features) {
    *features = (struct cpu_features){0};
#if defined(__x86_64__)
    __builtin_cpu_init();
    unsigned eax, ebx, ecx, edx;
    bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C); /* clang has no name for it above */
    features->avx2 = f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    features->avx512 = features->avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    features->avx512_vnni = features->avx512 && __builtin_cpu_supports("avx512vnni");
    features->avx512_bf16 = features->avx512 && __builtin_cpu_supports("avx512bf16");
    features->avx_vnni = features->avx2 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1 << 4);
#elif defined(__aarch64__)
    features->neon = true;
    features->neon_dotprod = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#endif
}

/* The first hardware thread of the core that cpu belongs to; cpu itself where the system does not say. */
static int first_sibling(int cpu) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *f = fopen(path, "re");
    if (!f)
        return cpu;
    int first;
    if (fscanf(f, "%d", &first) != 1)
        first = cpu;
    fclose(f);
    return first;
}

int cpu_threads_auto(void) {
    /* Machines with more processors than a fixed cpu_set_t holds: grow until the kernel's mask fits. */
    for (int n_cpus = 1024; n_cpus <= 1 << 20; n_cpus *= 2) {
        cpu_set_t *mask = CPU_ALLOC(n_cpus), *cores = CPU_ALLOC(n_cpus);
        size_t size = CPU_ALLOC_SIZE(n_cpus);
        int count = 0;
        int failed = !mask || !cores || sched_getaffinity(0, size, mask) != 0;
        int reason = errno;
        if (!failed) {
            CPU_ZERO_S(size, cores);
            for (int cpu = 0; cpu < n_cpus; cpu++)
                if (CPU_ISSET_S(cpu, size, mask))
                    CPU_SET_S(first_sibling(cpu), size, cores);
            count = CPU_COUNT_S(size, cores);
        }
        CPU_FREE(mask);
        CPU_FREE(cores);
        if (!failed)
            return count > 0 ? count : 1;
        if (reason != EINVAL)
            break;
    }
    return 1;
}
