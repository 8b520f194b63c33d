/* Writing a checkpoint as a GGUF file, quantised or not. */
#ifndef LLAMA4_QUANTIZE_H
#define LLAMA4_QUANTIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "llama4/error.h"

struct l4_quantize_options {
    const char *source; /* a checkpoint directory, or a GGUF file (of a split model: its first part) */
    const char *target; /* the file to write; its name ends in ".gguf" */
    const char *type;   /* one of l4_quantize_types() */
    bool overwrite;     /* a file that is there may be replaced, the source itself never */
    int threads;        /* 0 = physical cores that the affinity mask allows */

    /* Called from the calling thread with 0..1; false stops the work with L4_E_CANCELLED.  NULL is allowed. */
    bool (*progress)(void *user, double fraction);
    void *user;
};

struct l4_quantize_result {
    int64_t n_tensors;
    uint64_t source_bytes, target_bytes; /* of the tensors; of the file */
    int64_t n_fallback;                  /* matrices in a wider type, as their rows are no multiple of a block */
    int64_t n_requantized;               /* matrices that were quantised, and otherwise, before */
    bool has_tokenizer;
};

/* What type may be: a NULL-terminated list of names. */
const char *const *l4_quantize_types(void);

/* l4_quantize - read a checkpoint, write it as GGUF version 3 with the keys, tensor names and types that llama.cpp
 * gives such a file: norms, biases and routers in F32; under q4_0 and q4_k the output matrix in Q6_K and the keys' and
 * values' projections in Q8_0; rows of no whole number of blocks in Q8_0, or else in F16.  What already has the wanted
 * type is copied bit for bit.  *result may be NULL. Memory: some MiB a thread beside the mapped source, whatever the
 * model's size.  Any thread; blocks. On an error no file is left, and one that was there is as it was. Errors: those of
 * opening a checkpoint; L4_E_INVALID (names what is wrong and what is allowed), L4_E_UNSUPPORTED (the model has what
 * GGUF cannot say), L4_E_FORMAT (a weight that is no number, or beyond what the type holds; names the tensor and the
 * element), L4_E_NOT_FOUND, L4_E_IO, L4_E_NOMEM, L4_E_CANCELLED. */
int l4_quantize(const struct l4_quantize_options *options, struct l4_quantize_result *result,
                struct l4_err *err) L4_MUST_CHECK;

#endif
