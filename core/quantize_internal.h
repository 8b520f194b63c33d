/* Between quantize.c (the whole run), quantize_plan.c (which tensors, in which types) and quantize_tensor.c (one of
 * them). */
#ifndef CORE_QUANTIZE_INTERNAL_H
#define CORE_QUANTIZE_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/pool.h"
#include "core/format/checkpoint.h"
#include "core/format/gguf_write.h"

enum { QUANTIZE_NAME_BYTES = 64 };

/* A tensor of the new file, and where its numbers come from. */
struct quantize_tensor {
    char name[QUANTIZE_NAME_BYTES];
    enum dtype type;
    int n_dims;
    int64_t shape[3];     /* outermost first */
    struct tensor source; /* of the same shape; or, transposed, [experts, in, columns] for [experts, out, in] */
    bool is_transposed;   /* as experts are in a Hugging Face checkpoint ... */
    int64_t first_column; /* ... of which the `out` columns from this one on are taken */
    bool is_fallback;     /* its type is not the wanted one, but one that its rows fit */
};

struct quantize_plan {
    struct quantize_tensor *tensors; /* in the file's order */
    size_t n_tensors, cap_tensors;
    float *rope_freqs; /* storage of the tensor of that name where the source has none */
};

/* quantize_plan_init - every tensor of a checkpoint under its GGUF name: first those of the whole model, then layer by
 * layer, each group in the order of names, as llama.cpp's quantizer has them.  Borrows from the checkpoint.
 *   Errors: L4_E_NOMEM (nothing to free then). */
int quantize_plan_init(struct quantize_plan *plan, const struct checkpoint *checkpoint, enum dtype type,
                       struct l4_err *err) L4_MUST_CHECK;
void quantize_plan_fini(struct quantize_plan *plan);

/* quantize_scratch_bytes - what each thread of the pool needs for the plan's tensors. */
size_t quantize_scratch_bytes(const struct quantize_plan *plan);

/* quantize_tensor_write - the data of one tensor, number `index` of the writer.
 *   progress (NULL is allowed) is called now and then from the calling thread with the bytes written since the last
 * call, rounded down; false stops.      Errors: L4_E_FORMAT, L4_E_IO, L4_E_CANCELLED. */
int quantize_tensor_write(const struct quantize_tensor *tensor, struct gguf_writer *writer, size_t index,
                          struct pool *pool, bool (*progress)(void *user, uint64_t bytes), void *user,
                          struct l4_err *err) L4_MUST_CHECK;

#endif
