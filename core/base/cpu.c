#include "core/base/cpu.h"

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
