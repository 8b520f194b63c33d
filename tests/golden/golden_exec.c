#include "tests/golden/golden_exec.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/golden/golden.h"

static int set_experts(struct golden_exec *golden, const char *name) {
    struct l4_err err;
    golden->n_backends = 0;
    if (strcmp(name, "all") == 0) {
        while (experts_backend_at(golden->n_backends)) {
            golden->backends[golden->n_backends] = experts_backend_at(golden->n_backends);
            golden->n_backends++;
        }
        return 0;
    }
    golden->n_backends = 1;
    if (experts_backend_find(&golden->backends[0], name, &err) == 0)
        return 0;
    fprintf(stderr, "golden: %s, all\n", err.message);
    return GOLDEN_USAGE;
}

static int set_gemm(struct golden_exec *golden, const char *name) {
    const char *const *names = gemm_impl_names();
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0) {
            golden->exec.gemm = (enum gemm_impl)i;
            return 0;
        }
    fprintf(stderr, "golden: --gemm %s is unknown\n", name);
    return GOLDEN_USAGE;
}

int golden_exec_open(struct golden_exec *golden, int argc, char **argv) {
    struct l4_err err;
    *golden = (struct golden_exec){.exec.gemm = GEMM_OWN};
    int i = 1, rc = set_experts(golden, "auto");
    for (; rc == 0 && i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
        if (strcmp(argv[i], "--experts") == 0)
            rc = set_experts(golden, argv[i + 1]);
        else if (strcmp(argv[i], "--gemm") == 0)
            rc = set_gemm(golden, argv[i + 1]);
        else
            return GOLDEN_USAGE;
    }
    if (rc || i >= argc)
        return GOLDEN_USAGE;
    golden->exec.arena = &golden->gemm_arena;
    golden->paths = argv + i;
    golden->n_paths = argc - i;
    if (kernels_get(&golden->exec.kernels, &err) || pool_open(&golden->exec.pool, 2, GEMM_SCRATCH_BYTES, &err))
        golden_fail("%s", err.message);
    return 0;
}

int golden_variants(int argc, char **argv) {
    (void)argv;
    for (const char *const *name = kernels_names(); *name; name++)
        puts(*name);
    return argc == 1 ? GOLDEN_OK : GOLDEN_USAGE;
}

void golden_exec_close(struct golden_exec *golden) {
    pool_close(golden->exec.pool);
    arena_fini(&golden->gemm_arena);
}

const struct tensor *golden_tensor(const struct safetensors *file, const char *path, const char *name,
                                   enum dtype type) {
    const struct tensor *tensor = safetensors_find(file, name);
    if (!tensor)
        golden_fail("%s: no tensor %s", path, name);
    if (tensor->type != type)
        golden_fail("%s: %s is %s, expected %s", path, name, dtype_name(tensor->type), dtype_name(type));
    return tensor;
}

int64_t golden_elements(const struct tensor *tensor) {
    int64_t n = 1;
    for (int i = 0; i < tensor->n_dims; i++)
        n *= tensor->shape[i];
    return n;
}

double golden_largest_error(const float *a, const float *b, size_t n) {
    double largest = 0;
    for (size_t i = 0; i < n; i++) {
        double error = fabs((double)a[i] - b[i]);
        if (isnan(error))
            return INFINITY;
        largest = error > largest ? error : largest;
    }
    return largest;
}

double golden_largest(const float *a, size_t n) {
    double largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = fabs(a[i]) > largest ? fabs(a[i]) : largest;
    return largest;
}
