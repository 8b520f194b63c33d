/* What the subcommands that run parts of the model share: options, kernels, threads, comparison. */
#ifndef TESTS_GOLDEN_GOLDEN_EXEC_H
#define TESTS_GOLDEN_GOLDEN_EXEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/format/safetensors.h"
#include "core/kernels/gemm.h"
#include "core/model/experts.h"

enum { GOLDEN_MAX_BACKENDS = 16 };

struct golden_exec {
    struct exec exec;
    struct arena gemm_arena;
    const struct experts_backend *backends[GOLDEN_MAX_BACKENDS]; /* one, or all */
    int n_backends;
    char **paths;
    int n_paths;
};

/* golden_exec_open - read [--experts NAME|all] [--gemm own|openblas] PATH... and start two threads.  Returns 0, or
 * GOLDEN_USAGE after saying what is wrong. */
int golden_exec_open(struct golden_exec *golden, int argc, char **argv);
void golden_exec_close(struct golden_exec *golden);

/* The tensor, which must be there, of that type; exits with a message otherwise. */
const struct tensor *golden_tensor(const struct safetensors *file, const char *path, const char *name, enum dtype type);
int64_t golden_elements(const struct tensor *tensor);

/* Largest |a[i] - b[i]|; infinite where either is NaN. */
double golden_largest_error(const float *a, const float *b, size_t n);
double golden_largest(const float *a, size_t n);

#endif
