/* What a model does on this machine, beside what the machine could do: the engine's side of `llama4d bench`.
 *
 * Everything here runs on the calling thread and on the threads of its own pool, one call at a time; nothing prints.
 * What is counted is useful work, so that anybody can check a share of a limit:
 *   ops    2 for every multiply-add of the matrix products with weights: 2 M N K with M the tokens that go through the
 *          matrix - of an expert's the tokens routed to it - and the head for the tokens whose logits are wanted: of a
 *          prompt the last, of each decode step every sequence's.  Norms, rotations, softmax and the products of
 *          attention itself (below 1% of Scout's at 512 tokens) are left out.
 *   bytes  for every step of the model: each weight matrix once, of the routed experts only those that were hit, in the
 *          bytes of its type; the embeddings of the tokens; the keys and values that they see (of a prompt's step
 *          once, of a decoded token each). */
#ifndef LLAMA4_BENCH_H
#define LLAMA4_BENCH_H

#include "llama4/engine.h"

struct l4_bench;

/* Of all threads together, each measured for some ten milliseconds. */
struct l4_bench_limits {
    double read_bytes_per_s; /* a sum over a buffer much larger than the caches */
    double int8_ops_per_s;   /* registers only: the widest dot-product instruction for int8 that the processor has, */
    double bf16_flops_per_s; /* for bf16 (without one: f32's, which bf16 is widened to), */
    double f32_flops_per_s;  /* and multiply-add for f32 */
};

/* In which arithmetic most of a model's products are done. */
enum l4_bench_arithmetic { L4_BENCH_INT8, L4_BENCH_BF16, L4_BENCH_F32 };

struct l4_bench_info {
    struct l4_engine_info engine;
    enum l4_bench_arithmetic arithmetic;
    const char *activations; /* the same in words: "int8 per block", "bf16", "f32" */
    int n_moe_layers;
};

/* l4_bench_open - map a checkpoint as l4_engine_open does, with the same options, for tests of at most max_batch
 * sequences of at most max_tokens tokens.  Of the options max_context_tokens, max_running and kv_cache_bytes are not
 * looked at, wakeup is not called.  pin_threads pins the calling thread with the others, and for good; with numa =
 * "interleave" its memory is spread until close, which is this thread's, too.
 *   Errors: as l4_engine_open. */
int l4_bench_open(struct l4_bench **out, const struct l4_engine_options *options, int64_t max_tokens, int max_batch,
                  struct l4_err *err) L4_MUST_CHECK;
void l4_bench_close(struct l4_bench *bench); /* NULL is allowed */

/* Strings are borrowed until close. */
void l4_bench_info(const struct l4_bench *bench, struct l4_bench_info *info);

/* l4_bench_limits - measure them now. */
void l4_bench_limits(struct l4_bench *bench, struct l4_bench_limits *limits);

/* One test: a prefill of n_prompt tokens in every sequence (n_gen 0), or n_gen decode steps of all sequences together,
 * each from an empty context (n_prompt 0).  The tokens are random, the same in every run, independent in each sequence;
 * what the model answers is not looked at.  Every layer does its full work, the last included, so that the figures of a
 * file with few layers stand for one with many. */
struct l4_bench_test {
    const char *experts; /* a name of l4_engine_experts_names */
    int64_t n_prompt, n_gen;
    int batch;
};

struct l4_bench_result {
    double seconds;
    double ops, bytes;
    double distinct_experts; /* that a step hit: the mean over steps and MoE layers; 0 without such layers */
};

/* l4_bench_run - one run of one test.
 *   Errors: L4_E_INVALID (names the field and what is allowed), L4_E_KV_FULL, L4_E_NOMEM. */
int l4_bench_run(struct l4_bench *bench, const struct l4_bench_test *test, struct l4_bench_result *result,
                 struct l4_err *err) L4_MUST_CHECK;

/* l4_bench_experts - the seconds that the experts of one MoE layer, the shared one too, take for n_tokens tokens.
 *   layer: which of the MoE layers, counted modulo: neighbouring calls take different ones, so that weights come from
 *          memory as they do in a model
 *   seed: which routing, at random: compare backends at the same one
 *   Errors: L4_E_INVALID (no such backend, no MoE layer, n_tokens not 1..L4_BENCH_MAX_EXPERT_TOKENS), L4_E_NOMEM. */
enum { L4_BENCH_MAX_EXPERT_TOKENS = 2048 };
int l4_bench_experts(struct l4_bench *bench, const char *experts, int64_t n_tokens, unsigned layer, uint64_t seed,
                     double *seconds, struct l4_err *err) L4_MUST_CHECK;

#endif
