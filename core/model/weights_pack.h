/* Packing: once, while a checkpoint loads, its matrices are brought into the order that the integer kernels read, and
 * quantised first where that was asked for. */
#ifndef CORE_MODEL_WEIGHTS_PACK_H
#define CORE_MODEL_WEIGHTS_PACK_H

#include "core/kernels/gemm.h"
#include "core/kernels/kernels.h"

/* How weights are loaded.  All zero: types as stored. */
struct weights_loading {
    enum dtype quantization; /* F32: none; else what float matrices become, as quantize_has_type has it;
                                Q8_0 where k is no whole number of its blocks but of 32 */
    /* NULL is allowed; called with 0..1 from the loading thread. */
    void (*progress)(void *user, double fraction);
    void *user;
};

/* The memory behind packed matrices. */
struct weights_storage {
    void *map; /* NULL = none */
    size_t map_bytes;
};

/* weights_pack - pack every matrix of the list whose type (after quantising) can be packed; *matrices[i] then is a
 * MATRIX_PACKED in *storage.  Their data lie in mapped files (MAP_SHARED).  A matrix that has been packed is dropped
 * from this process's memory (not from its file), so that at no time both forms are there.  loading NULL = all zero.
 *   Errors: L4_E_NOMEM; *matrices are as they were.  Thread: the pool's caller. */
int weights_pack(struct weights_storage *storage, struct matrix *const *matrices, size_t n_matrices,
                 const struct exec *exec, const struct weights_loading *loading, struct l4_err *err) L4_MUST_CHECK;
void weights_storage_fini(struct weights_storage *storage);

#endif
