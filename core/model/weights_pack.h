/* Packing: once, while a checkpoint loads, its matrices are brought into the order that their kernels read, and
 * quantised first where that was asked for. */
#ifndef CORE_MODEL_WEIGHTS_PACK_H
#define CORE_MODEL_WEIGHTS_PACK_H

#include "core/format/checkpoint.h"
#include "core/format/weight_cache.h"
#include "core/kernels/gemm.h"
#include "core/kernels/kernels.h"
#include "llama4/engine.h"

/* How weights are loaded.  All zero: types as stored. */
struct weights_loading {
    enum dtype quantization; /* F32: none; else what float matrices become, as quantize_has_type has it;
                                Q8_0 where k is no whole number of its blocks but of 32 */
    bool bf16_activations;   /* BF16 matrices that stay BF16 are packed, so that gemm_run rounds their activations */
    const char *cache_dir;   /* where packed weights are kept, weight_cache.h; NULL: nowhere */
    const char *cache_name;  /* what files there begin with */
    bool verify;             /* check all of a cache, not a sample */
    /* NULL is allowed; called from the loading thread, progress with 0..1. */
    void (*progress)(void *user, double fraction);
    void (*log)(void *user, enum l4_log_level level, const char *message);
    void *user;
};

/* The memory behind packed matrices. */
struct weights_storage {
    void *map; /* NULL = none */
    size_t map_bytes;
    struct weight_cache cache; /* instead of a map */
};

/* weights_pack - pack every matrix of the list whose type (after quantising) can be packed; *matrices[i] then is a
 * MATRIX_PACKED in *storage.  Their data lie in mapped files (MAP_SHARED).  A matrix that has been packed is dropped
 * from this process's memory (not from its file), so that at no time both forms are there.  loading NULL = all zero.
 *   With a cache directory: what a valid cache holds is mapped, else a cache is written; one that cannot be is a
 * warning. Errors: L4_E_IO (cache_dir is no directory), L4_E_NOMEM; *matrices are as they were.  Thread: the pool's
 * caller. */
int weights_pack(struct weights_storage *storage, struct matrix *const *matrices, size_t n_matrices,
                 const struct checkpoint *checkpoint, const struct exec *exec, const struct weights_loading *loading,
                 struct l4_err *err) L4_MUST_CHECK;
void weights_storage_fini(struct weights_storage *storage);

#endif
