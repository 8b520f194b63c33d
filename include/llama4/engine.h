/* The engine: a Llama 4 checkpoint, a KV cache, a scheduler and a thread that runs them.
 *
 * Three things cross between the caller and the engine thread: submit (a request, moved), cancel (a flag), and events
 * (moved).  The engine speaks no JSON and no HTTP, prints nothing and never exits the process. */
#ifndef LLAMA4_ENGINE_H
#define LLAMA4_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llama4/error.h"
#include "llama4/grammar.h"
#include "llama4/text.h"

struct l4_engine;

enum l4_log_level { L4_LOG_ERROR, L4_LOG_WARN, L4_LOG_INFO, L4_LOG_DEBUG };

enum {
    L4_MAX_THREADS = 1024,
    L4_MAX_RUNNING = 1024,
    L4_MAX_QUEUE = 1000000,
    L4_MAX_STEP_MS = 600000,
    L4_MAX_CHUNK_TOKENS = 16384,
};

struct l4_engine_options {
    const char *model;                  /* a checkpoint directory, or a GGUF file (of a split model: its first part) */
    const char *experts_implementation; /* "auto", "eager", "batched_mm", "grouped_mm" */
    const char *gemm;                   /* "own", "openblas" */
    const char *quantization;           /* what float matrices become as they load: "none", "q8_0", "q4_0", "q4_k" */
    const char *activations;   /* what multiplies BF16 matrices: "f32", or "bf16": rounded, by bf16 dot products */
    const char *kv_cache_type; /* "f32", "f16", "bf16", "q8_0": how keys and values are stored */
    const char *weight_cache;  /* a directory that keeps packed weights for the next start; NULL or "" = none */
    bool verify;               /* check all of a weight cache, not a sample */
    int threads;               /* 0 = the physical cores that affinity mask and control groups' CPU quota allow */
    bool pin_threads; /* each on a core of its own; refused where there are fewer hardware threads than threads */
    const char *numa; /* "off"; "interleave": weights and KV cache page by page on all nodes that may be used */
    int64_t max_context_tokens; /* 0 = the model's, bounded by 32,768 and by what the KV cache holds */
    int64_t kv_cache_bytes;     /* 0 = see engine.c: enough for a few full contexts within a share of memory */
    int max_running;            /* sequences that decode together */
    int max_queue;              /* requests beyond max_running; one more is refused with L4_E_QUEUE_FULL */
    int max_step_ms;            /* a prefill chunk beside running decodes is cut so that a step stays below this */
    int max_chunk_tokens;       /* and never holds more prompt tokens than this */
    bool prefix_cache; /* pages of the KV cache are shared between prompts that begin alike, and kept for later ones */

    /* Called from the engine thread (log: also from the opening thread); must not block; `user` is handed through. */
    void (*wakeup)(void *user); /* events are waiting; coalesce freely */
    void (*log)(void *user, enum l4_log_level level, const char *message);
    /* Called from the opening thread with 0..1 while a checkpoint loads; NULL is allowed. */
    void (*progress)(void *user, const char *what, double fraction);
    void *user;
};

/* Fills in the defaults of every field. */
void l4_engine_options_init(struct l4_engine_options *options);

/* What experts_implementation, gemm, quantization, activations, kv_cache_type and numa may be: a NULL-terminated list
 * of names. */
const char *const *l4_engine_experts_names(void);
const char *const *l4_engine_gemm_names(void);
const char *const *l4_engine_quantization_names(void);
const char *const *l4_engine_activations_names(void);
const char *const *l4_engine_kv_cache_type_names(void);
const char *const *l4_engine_numa_names(void);

/* l4_engine_open - map and check a checkpoint, start the threads.  Blocks while loading; any thread.
 *   *options and its strings are borrowed for the call only, `user` and the callbacks until close.
 *   Errors: anything from the loader, L4_E_INVALID (names the option and what is allowed), L4_E_NOMEM. */
int l4_engine_open(struct l4_engine **out, const struct l4_engine_options *options, struct l4_err *err) L4_MUST_CHECK;

/* l4_engine_close - cancel what runs, join the threads, free.  Events not yet polled are dropped.  NULL is allowed. */
void l4_engine_close(struct l4_engine *engine);

/* Borrowed, valid until close, never NULL except the tokenizer of a checkpoint without one. */
const struct l4_tokenizer *l4_engine_tokenizer(const struct l4_engine *engine);

struct l4_engine_info {
    const char *name;                   /* the last path component of the model */
    const char *quantization;           /* of most weights: "bf16", "q4_k", ... */
    const char *experts_implementation; /* as configured: "auto" stays "auto" */
    const char *gemm, *kv_cache_type;
    const char *activations; /* "bf16" where weights that stayed BF16 are multiplied so; else "f32" */
    const char *cpu_kernels; /* "avx512", ... */
    int threads;
    bool batch_invariant; /* false with eager or openblas */
    int32_t hidden_size;  /* of an embedding, too */
    int64_t max_context_tokens;
    int64_t model_context_tokens; /* what the checkpoint claims */
    int64_t kv_capacity_tokens;   /* tokens of one long sequence that the KV cache holds */
    int64_t parameters, active_parameters;
    int32_t vocab_size;
    /* Defaults from generation_config.json; has_* false where the file says nothing. */
    bool has_temperature, has_top_p, has_min_p, has_top_k, has_repetition_penalty;
    float temperature, top_p, min_p, repetition_penalty;
    int top_k;
};
/* Borrowed strings, valid until close. */
void l4_engine_info(const struct l4_engine *engine, struct l4_engine_info *info);

/* ---- requests ------------------------------------------------------------------------------------------------------
 */

struct l4_logit_bias {
    int32_t id;
    float bias; /* added to the logit */
};

/* Order of application: logit_bias, penalties, temperature, top_k, top_p, min_p. */
struct l4_sampling {
    float temperature;        /* 0 = greedy */
    int top_k;                /* 0 = off */
    float top_p;              /* 1 = off; the token that crosses p is kept */
    float min_p;              /* 0 = off; keeps p >= min_p * max */
    float repetition_penalty; /* 1 = off; once per id seen in prompt or answer */
    float presence_penalty;   /* 0 = off; answer only */
    float frequency_penalty;  /* 0 = off; answer only */
    uint64_t seed;            /* same seed, same tokens */
    const struct l4_logit_bias *logit_bias;
    size_t n_logit_bias;
};
void l4_sampling_init(struct l4_sampling *sampling); /* all off, temperature 1 */

enum {
    L4_MAX_TOP_LOGPROBS = 20,
    L4_MAX_STOP_STRINGS = 16,
    L4_MAX_STOP_BYTES = 4096, /* of one stop string */
    L4_MAX_STOP_IDS = 128,
    L4_MAX_TEMPERATURE = 100,
    L4_MAX_PENALTY = 100, /* presence, frequency: -100 .. 100; repetition: 0.01 .. 100 */
    L4_MAX_SALT_BYTES = 64,
};

/* Everything is borrowed for the call of l4_engine_submit only: the engine keeps a copy of its own. */
struct l4_request {
    const int32_t *prompt;
    size_t n_prompt;    /* at least 1 */
    int64_t max_tokens; /* >= 0; -1 = to the end of the context.  0 scores the prompt and generates nothing */
    struct l4_sampling sampling;
    const struct l4_text *stop; /* not part of the text; the one that is complete first ends the answer */
    size_t n_stop;
    const int32_t *stop_ids; /* besides the model's own end tokens */
    size_t n_stop_ids;
    bool ignore_eos;      /* the model's own end tokens do not stop (stop_ids still do) */
    bool show_special;    /* special tokens appear in the text */
    bool logprobs;        /* token events carry log-probabilities ... */
    int n_top_logprobs;   /* ... and this many alternatives, 0..L4_MAX_TOP_LOGPROBS */
    bool prompt_logprobs; /* L4_EVENT_PROMPT events: one per prompt token, in order, before the first token */
    bool embed;           /* an L4_EVENT_EMBEDDING instead of an answer: of the fields above only the prompt counts */
    /* The prefix cache changes no token, but how soon the first one comes tells what others have asked before. Requests
     * of different salts share nothing. */
    const char *salt;     /* at most L4_MAX_SALT_BYTES; NULL = "" */
    bool no_prefix_cache; /* neither use cached pages nor leave any */
    /* The answer's text is one that it derives, unless it is cut (max_tokens, stop); NULL = any text.  End tokens and
     * stop_ids come only where it may end.  The engine takes a reference. */
    struct l4_grammar *grammar;
    const char *log_id; /* for log lines; copied, cut at 63 bytes */
    void *user;         /* comes back in every event */
};

/* l4_engine_submit - queue a request.  Any thread; never blocks on the model.
 *   *id is the name that cancel takes.
 *   Errors: L4_E_INVALID (names the field and what is allowed), L4_E_CONTEXT_LENGTH (prompt + max_tokens can never fit;
 * the message gives both and the limit), L4_E_QUEUE_FULL, L4_E_SHUTDOWN, L4_E_NOMEM.  On error no event will come. */
int l4_engine_submit(struct l4_engine *engine, const struct l4_request *request, uint64_t *id,
                     struct l4_err *err) L4_MUST_CHECK;

/* l4_engine_cancel - a flag: the request ends within one step with an L4_EVENT_DONE of L4_FINISH_CANCELLED.
 * Unknown and finished ids are ignored.  Any thread. */
void l4_engine_cancel(struct l4_engine *engine, uint64_t id);

/* l4_engine_drain - from now on submit gives L4_E_SHUTDOWN; what is queued or runs goes on.  Any thread. */
void l4_engine_drain(struct l4_engine *engine);

enum l4_event_type {
    L4_EVENT_PROMPT, /* a prompt token's log-probabilities (prompt_logprobs only); the first token's logprob is NAN */
    L4_EVENT_TOKEN,  /* a generated token, the one that ends the answer included (is_stop_token) */
    L4_EVENT_EMBEDDING, /* what a prompt means, as a vector (embed only) */
    L4_EVENT_DONE,      /* the last event of a request that ran or was cancelled */
    L4_EVENT_ERROR,     /* the last event of a request that failed through no fault of the request */
};

enum l4_finish { L4_FINISH_STOP, L4_FINISH_LENGTH, L4_FINISH_CANCELLED };

struct l4_logprob {
    int32_t id;
    float logprob; /* natural log, of the raw logits */
};

struct l4_event {
    struct l4_event *next;
    enum l4_event_type type;
    uint64_t id;
    void *user;

    /* PROMPT, TOKEN */
    struct l4_logprob token; /* logprob NAN where not asked for */
    struct l4_logprob *top;  /* [n_top], best first; owned by the event */
    int n_top;
    bool is_stop_token; /* TOKEN: this id ended the answer: an end token or one of stop_ids; it adds no text */

    /* EMBEDDING: the mean of the last hidden states of all of the prompt's tokens, behind the final norm, of length 1;
     * owned by the event. */
    float *embedding;
    int32_t n_embedding; /* hidden_size */

    /* TOKEN, DONE: text that may be shown now: whole UTF-8, no beginning of a stop string.  May be empty ("" or NULL);
     * a DONE carries what was still held back.  Owned by the event. */
    char *text;
    size_t text_bytes;

    /* DONE */
    enum l4_finish finish;
    int stop_index;     /* which stop string ended it, -1 if none did */
    int32_t stop_token; /* which token id ended it, -1 if none did */

    /* DONE, ERROR */
    int64_t n_prompt, n_generated; /* n_generated counts the stop token, too */
    int64_t n_cached;              /* prompt tokens that came out of the prefix cache */
    double queue_s, prefill_s, decode_s;
    struct l4_err error; /* ERROR */
};

/* l4_engine_poll - all waiting events, oldest first, as a list that the caller owns; NULL if there are none.
 * Events of one request are in order.  One thread at a time. */
struct l4_event *l4_engine_poll(struct l4_engine *engine);
void l4_event_free(struct l4_event *event); /* one event, not the list */

/* What the routers and the experts have done since the start.  The arrays are the engine's, borrowed until close, and
 * go on counting while they are read. */
struct l4_experts_stats {
    int32_t n_experts, n_moe_layers;
    const int32_t *moe_layers;             /* [n_moe_layers], their numbers in the model */
    const atomic_uint_least64_t *n_tokens; /* [layers of the model][n_experts]: tokens that each expert was given */
    const atomic_uint_least64_t *n_layers; /* [l4_engine_experts_names]: layers that each backend computed; `auto`
                                              computes none itself */
};

struct l4_engine_stats {
    int64_t n_queued, n_running;
    int64_t kv_pages_used, kv_pages_total; /* used: by what runs */
    int64_t kv_pages_cached;               /* in the prefix cache, used by nobody: there for whoever needs a page */
    uint64_t steps, preemptions, prompt_tokens, generated_tokens; /* prompt_tokens: computed or cached */
    uint64_t prefix_lookups, prefix_hits;                         /* requests: that might use cached tokens, that did */
    uint64_t prefix_hit_tokens, prefix_evicted_pages;
    struct l4_experts_stats experts;
};
/* A snapshot, any thread. */
void l4_engine_stats(struct l4_engine *engine, struct l4_engine_stats *stats);

/* l4_install_fault_handler - for SIGBUS: when a checkpoint file is truncated, or its disk fails, while it is mapped,
 * write "error: FILE: truncated, or no longer readable, while in use" to descriptor 2 and _exit(exit_status).  A SIGBUS
 * from elsewhere keeps its default action.  Call once, before l4_engine_open; process-wide.  This is the one place
 * where the engine prints and exits: in a signal handler nobody is left who could be told otherwise.
 *   Returns 0 or L4_E_INTERNAL. */
int l4_install_fault_handler(int exit_status) L4_MUST_CHECK;

#endif
