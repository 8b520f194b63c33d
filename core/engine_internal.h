/* Between the files of the engine, and for its tests. */
#ifndef CORE_ENGINE_INTERNAL_H
#define CORE_ENGINE_INTERNAL_H

#include "core/base/cpus.h"
#include "core/base/memory.h"
#include "core/base/placement.h"
#include "core/base/pool.h"
#include "core/format/checkpoint.h"
#include "core/kernels/gemm.h"
#include "core/model/experts.h"
#include "core/model/llama4.h"
#include "core/sched/sched.h"
#include "llama4/engine.h"

/* For messages: whole MiB. */
static inline long long engine_mib(int64_t bytes) {
    return (long long)(bytes >> 20);
}

/* ---- engine_budget.c: how long a context, how large a KV cache ---- */

struct engine_budget {
    int64_t max_context_tokens;
    enum dtype kv_type;
    int64_t kv_pages;
    int64_t kv_bytes;
    int64_t kv_capacity_tokens; /* of one long sequence */
};

/* engine_budget - resolve options->max_context_tokens, kv_cache_bytes (0 = choose), kv_cache_type against the model and
 * the memory. The pool always holds one sequence of max_context_tokens. Errors: L4_E_INVALID (settings that contradict
 * the model or each other), L4_E_NOMEM (a KV cache larger than the memory); the messages give the numbers. */
int engine_budget(struct engine_budget *budget, const struct l4_engine_options *options,
                  const struct model_config *config, const struct memory_limits *memory,
                  struct l4_err *err) L4_MUST_CHECK;

/* ---- engine_parts.c: everything that is loaded before the first step ---- */

/* What tests put in the place of the engine's own choice. */
struct engine_overrides {
    const struct kernels *kernels; /* NULL = the best for this processor */
    struct sched_hooks hooks;
    const char *system_root; /* where proc and sys are looked for; NULL = "" */
};

/* As l4_engine_numa_names lists them. */
enum engine_numa { ENGINE_NUMA_OFF, ENGINE_NUMA_INTERLEAVE };

struct engine_parts {
    struct checkpoint *checkpoint;
    struct l4_tokenizer *tokenizer; /* may be NULL */
    struct cpus cpus;
    struct placement placement_before; /* of the opening thread */
    bool interleaving;                 /* while it opens: threads that start inherit it */
    struct pool *pool;
    struct arena gemm_arena;
    struct exec exec;
    const struct experts_backend *backend;
    struct llama4 *model;
    struct kv_pool *kv;
    struct sched *sched;
    int32_t *end_ids; /* the model's own end tokens */
    char *name;
    const char *quantization; /* of most weights, as they are multiplied with */
    const char *activations;  /* what multiplies them if they are BF16 */
    struct engine_budget budget;
    struct l4_engine_info info;
};

/* engine_parts_open - on error everything is freed again. */
int engine_parts_open(struct engine_parts *parts, const struct l4_engine_options *options,
                      const struct engine_overrides *overrides, struct l4_err *err) L4_MUST_CHECK;
void engine_parts_close(struct engine_parts *parts);

const char *const *engine_quantization_names(void);
const char *const *engine_activations_names(void);

/* engine_parts_pin - put the workers, `engine_thread` as the first of them, on cores of their own where
 * options->pin_threads says so.  A system that does not allow it gets a warning. */
void engine_parts_pin(struct engine_parts *parts, const struct l4_engine_options *options, pthread_t engine_thread);
/* engine_parts_started - once all threads of the engine run: engine_parts_pin, and end for the calling thread what
 * numa = interleave changed; without it engine_parts_close ends that.  From the thread that called engine_parts_open.
 */
void engine_parts_started(struct engine_parts *parts, const struct l4_engine_options *options, pthread_t engine_thread);

/* The engine's clock: seconds, monotonic.  ctx is not used. */
double engine_now_s(void *ctx);

/* ---- engine.c ---- */

/* engine_open_with - l4_engine_open with overrides; NULL = none. */
int engine_open_with(struct l4_engine **out, const struct l4_engine_options *options,
                     const struct engine_overrides *overrides, struct l4_err *err) L4_MUST_CHECK;

#endif
