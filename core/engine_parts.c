#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/checked.h"
#include "core/engine_internal.h"
#include "core/kernels/packed.h"

/* ---- options -------------------------------------------------------------------------------------------------- */

static int check_option(const char *name, int64_t value, int64_t min, int64_t max, struct l4_err *err) {
    if (value >= min && value <= max)
        return 0;
    return l4_err_set(err, L4_E_INVALID, "%s is %lld: allowed are %lld to %lld", name, (long long)value, (long long)min,
                      (long long)max);
}

static int check_options(const struct l4_engine_options *options, struct l4_err *err) {
    const struct {
        const char *name;
        int64_t value, min, max;
    } checks[] = {
        {"threads", options->threads, 0, L4_MAX_THREADS},
        {"max_context", options->max_context_tokens, 0, INT64_MAX},
        {"kv_cache", options->kv_cache_bytes, 0, INT64_MAX},
        {"max_running", options->max_running, 1, L4_MAX_RUNNING},
        {"max_queue", options->max_queue, 0, L4_MAX_QUEUE},
        {"max_step_ms", options->max_step_ms, 1, L4_MAX_STEP_MS},
        {"max_chunk_tokens", options->max_chunk_tokens, 1, L4_MAX_CHUNK_TOKENS},
    };
    if (!options->model)
        return l4_err_set(err, L4_E_INVALID,
                          "no model was given: it is the path of a checkpoint directory or of a GGUF file");
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        int rc = check_option(checks[i].name, checks[i].value, checks[i].min, checks[i].max, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* *index = where `name` stands in the list. */
static int find_name(int *index, const char *option, const char *name, const char *const *names, struct l4_err *err) {
    struct l4_buf list = {0};
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], name) == 0) {
            *index = i;
            l4_buf_free(&list);
            return 0;
        }
        l4_buf_printf(&list, "%s%s", i > 0 ? ", " : "", names[i]);
    }
    int rc =
        l4_err_set(err, L4_E_INVALID, "%s '%s' is unknown; valid are: %s", option, name, list.data ? list.data : "");
    l4_buf_free(&list);
    return rc;
}

static const enum dtype QUANTIZATIONS[] = {DT_F32, DT_Q8_0, DT_Q4_0, DT_Q4_K};

const char *const *engine_quantization_names(void) {
    static const char *const names[] = {"none", "q8_0", "q4_0", "q4_k", NULL};
    return names;
}

enum { ACTIVATIONS_F32, ACTIVATIONS_BF16 };

const char *const *engine_activations_names(void) {
    static const char *const names[] = {[ACTIVATIONS_F32] = "f32", [ACTIVATIONS_BF16] = "bf16", NULL};
    return names;
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

static int64_t weights_bytes(const struct checkpoint *checkpoint) {
    const struct checkpoint_weights *weights = checkpoint_weights(checkpoint);
    size_t bytes = weights->embed_tokens.size_bytes + weights->norm.size_bytes;
    if (weights->lm_head.data != weights->embed_tokens.data)
        bytes += weights->lm_head.size_bytes;
    for (int i = 0; i < checkpoint_config(checkpoint)->n_layers; i++) {
        const struct layer_weights *l = &weights->layers[i];
        const struct tensor *const tensors[] = {
            &l->input_layernorm, &l->post_attention_layernorm,
            &l->q_proj,          &l->q_bias,
            &l->k_proj,          &l->k_bias,
            &l->v_proj,          &l->v_bias,
            &l->o_proj,          &l->o_bias,
            &l->gate_proj,       &l->up_proj,
            &l->down_proj,       &l->router,
            &l->gate_up_proj,    &l->experts_gate,
            &l->experts_up,      &l->experts_down,
        };
        for (size_t j = 0; j < sizeof tensors / sizeof tensors[0]; j++)
            if (tensors[j]->data)
                bytes += tensors[j]->size_bytes;
    }
    return (int64_t)bytes;
}

static void say(const struct l4_engine_options *options, enum l4_log_level level, const char *fmt, ...) L4_PRINTF(3, 4);
static void say(const struct l4_engine_options *options, enum l4_log_level level, const char *fmt, ...) {
    if (!options->log)
        return;
    char line[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    options->log(options->user, level, line);
}

/* Mapped weights can be dropped from memory and read again, so too little of it is slow, not wrong: a warning. */
static void warn_memory(const struct engine_parts *parts, const struct l4_engine_options *options,
                        const struct memory_limits *memory) {
    int64_t weights = weights_bytes(parts->checkpoint), kv = parts->budget.kv_bytes;
    bool in_group = memory->cgroup_bytes < memory->total_bytes;
    int64_t limit = in_group ? memory->cgroup_bytes : memory->total_bytes;
    if (weights + kv > limit)
        say(options, L4_LOG_WARN,
            "weights of %lld MiB and a KV cache of %lld MiB exceed %s of %lld MiB: weights will be read from disk "
            "again and again",
            engine_mib(weights), engine_mib(kv), in_group ? "the control group's memory limit" : "the memory",
            engine_mib(limit));
    else if (kv > memory->available_bytes)
        say(options, L4_LOG_WARN, "a KV cache of %lld MiB exceeds the %lld MiB of memory that are available now",
            engine_mib(kv), engine_mib(memory->available_bytes));
}

/* ---- opening -------------------------------------------------------------------------------------------------- */

/* The directory's own name, whatever the path to it looks like. */
static char *model_name(const char *path) {
    static const char suffix[] = ".gguf";
    char *real = realpath(path, NULL);
    const char *full = real ? real : path, *slash = strrchr(full, '/');
    char *name = strdup(slash && slash[1] ? slash + 1 : full);
    free(real);
    size_t length = name ? strlen(name) : 0;
    if (length >= sizeof suffix && strcmp(name + length - (sizeof suffix - 1), suffix) == 0)
        name[length - (sizeof suffix - 1)] = '\0';
    return name;
}

/* end_ids = what config.json and generation_config.json name, and the tokens that always end a turn. */
static int collect_end_ids(struct engine_parts *parts, int *n_end_ids, struct l4_err *err) {
    static const char *const names[] = {"<|end_of_text|>", "<|eom|>", "<|eot|>"};
    enum { N_NAMES = sizeof names / sizeof names[0] };
    const struct model_config *config = checkpoint_config(parts->checkpoint);
    const struct generation_config *generation = checkpoint_generation_config(parts->checkpoint);
    int n = 0;
    parts->end_ids = checked_array(2 * CONFIG_MAX_STOP_IDS + N_NAMES, sizeof *parts->end_ids);
    if (!parts->end_ids)
        return l4_err_set(err, L4_E_NOMEM, "no memory for the end tokens");
    for (int i = 0; i < config->n_eos_ids; i++)
        parts->end_ids[n++] = config->eos_ids[i];
    for (int i = 0; i < generation->n_eos_ids; i++)
        parts->end_ids[n++] = generation->eos_ids[i];
    for (int i = 0; parts->tokenizer && i < N_NAMES; i++) {
        int32_t id = l4_tokenizer_find(parts->tokenizer, names[i]);
        if (id >= 0)
            parts->end_ids[n++] = id;
    }
    *n_end_ids = n;
    return 0;
}

struct progress {
    const struct l4_engine_options *options;
    const char *what;
};

static void on_progress(void *user, double fraction) {
    const struct progress *progress = user;
    if (progress->options->progress)
        progress->options->progress(progress->options->user, progress->what, fraction);
}

static void on_loading_log(void *user, enum l4_log_level level, const char *message) {
    const struct progress *progress = user;
    say(progress->options, level, "%s", message);
}

static int open_files(struct engine_parts *parts, const struct l4_engine_options *options, struct l4_err *err) {
    struct progress progress = {options, "loading"};
    int rc = checkpoint_open(&parts->checkpoint, options->model, on_progress, &progress, err);
    const char *tokenizer = rc == 0 ? checkpoint_tokenizer_path(parts->checkpoint) : NULL;
    if (tokenizer)
        rc = l4_tokenizer_open(&parts->tokenizer, tokenizer, err);
    if (rc != 0)
        return rc;
    if (parts->tokenizer &&
        l4_tokenizer_vocab_size(parts->tokenizer) > checkpoint_config(parts->checkpoint)->vocab_size)
        say(options, L4_LOG_WARN, "the tokenizer has %d ids, the model %d: a prompt that uses the others is refused",
            (int)l4_tokenizer_vocab_size(parts->tokenizer), (int)checkpoint_config(parts->checkpoint)->vocab_size);
    parts->name = model_name(options->model);
    return parts->name ? 0 : l4_err_set(err, L4_E_NOMEM, "no memory for the model's name");
}

/* How many threads, and the line that says from what. */
static int choose_threads(int *n_threads, const struct engine_parts *parts, const struct l4_engine_options *options,
                          struct l4_err *err) {
    const struct cpus *cpus = &parts->cpus;
    char quota[32] = "none";
    int most = options->pin_threads && cpus->n_allowed < L4_MAX_THREADS ? cpus->n_allowed : L4_MAX_THREADS;
    int n_auto = cpus_threads(cpus);
    *n_threads = options->threads > 0 ? options->threads : n_auto < most ? n_auto : most;
    if (*n_threads > most)
        return l4_err_set(err, L4_E_INVALID,
                          "threads is %d, but pin_threads has only %d hardware threads to put them on", *n_threads,
                          most);
    if (isfinite(cpus->quota))
        snprintf(quota, sizeof quota, "%.4g processors", cpus->quota);
    say(options, L4_LOG_INFO,
        "%d thread%s%s; %d physical cores (%d hardware threads) allowed, CPU quota %s, %d NUMA %s", *n_threads,
        *n_threads == 1 ? "" : "s", options->pin_threads ? ", pinned" : "", cpus->n_cores, cpus->n_allowed, quota,
        cpus->n_nodes, cpus->n_nodes == 1 ? "node" : "nodes");
    return 0;
}

static int open_exec(struct engine_parts *parts, const struct l4_engine_options *options, const struct kernels *kernels,
                     struct l4_err *err) {
    int n_threads, gemm = GEMM_OWN;
    int rc = choose_threads(&n_threads, parts, options, err);
    if (rc == 0)
        rc = find_name(&gemm, "gemm", options->gemm, gemm_impl_names(), err);
    parts->exec.gemm = (enum gemm_impl)gemm;
    if (rc == 0)
        rc = experts_backend_find(&parts->backend, options->experts_implementation, err);
    if (rc == 0 && kernels)
        parts->exec.kernels = kernels;
    else if (rc == 0)
        rc = kernels_get(&parts->exec.kernels, err);
    if (rc == 0)
        rc = pool_open(&parts->pool, n_threads, GEMM_SCRATCH_BYTES, err);
    parts->exec.pool = parts->pool;
    parts->exec.arena = &parts->gemm_arena;
    return rc;
}

static int open_model(struct engine_parts *parts, const struct l4_engine_options *options, struct l4_err *err) {
    struct progress progress = {options, "packing"};
    int quantization = 0, activations = ACTIVATIONS_F32;
    int rc = find_name(&quantization, "quantization", options->quantization, engine_quantization_names(), err);
    if (rc == 0)
        rc = find_name(&activations, "activations", options->activations, engine_activations_names(), err);
    const struct weights_loading loading = {
        .quantization = QUANTIZATIONS[quantization],
        .bf16_activations = activations == ACTIVATIONS_BF16,
        .cache_dir = options->weight_cache && options->weight_cache[0] ? options->weight_cache : NULL,
        .cache_name = parts->name,
        .verify = options->verify,
        .progress = on_progress,
        .log = on_loading_log,
        .user = &progress,
    };
    const struct checkpoint *checkpoint = parts->checkpoint;
    const int64_t float_bytes =
        (int64_t)(checkpoint_bytes_of_type(checkpoint, DT_F32) + checkpoint_bytes_of_type(checkpoint, DT_F16) +
                  checkpoint_bytes_of_type(checkpoint, DT_BF16));
    const bool changes = quantization != 0 && float_bytes > weights_bytes(checkpoint) / 2;
    parts->quantization = changes ? engine_quantization_names()[quantization] : checkpoint_quantization(checkpoint);
    if (activations == ACTIVATIONS_BF16 && (quantization != 0 || checkpoint_bytes_of_type(checkpoint, DT_BF16) == 0)) {
        say(options, L4_LOG_WARN, "activations = bf16 changes nothing: no weights are BF16");
        activations = ACTIVATIONS_F32;
    }
    parts->activations = engine_activations_names()[activations];
    return rc == 0 ? llama4_open(&parts->model, checkpoint, &parts->exec, parts->backend, &loading, err) : rc;
}

static int forward(void *ctx, const struct llama4_segment *segments, int n_segments, float *logits,
                   struct l4_err *err) {
    return llama4_forward(ctx, segments, n_segments, logits, NULL, err);
}

double engine_now_s(void *ctx) {
    (void)ctx;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int open_sched(struct engine_parts *parts, const struct l4_engine_options *options,
                      const struct sched_hooks *hooks, struct l4_err *err) {
    struct sched_config config = {
        .model = {forward, parts->model},
        .model_config = checkpoint_config(parts->checkpoint),
        .kv = parts->kv,
        .kernels = parts->exec.kernels,
        .tokenizer = parts->tokenizer,
        .max_running = options->max_running,
        .max_step_s = options->max_step_ms / 1000.0,
        .max_chunk_tokens = options->max_chunk_tokens,
        .now = engine_now_s,
        .log = options->log,
        .log_user = options->user,
        .hooks = *hooks,
    };
    int rc = collect_end_ids(parts, &config.n_end_ids, err);
    config.end_ids = parts->end_ids;
    return rc == 0 ? sched_open(&parts->sched, &config, err) : rc;
}

/* Correct, but a matrix is widened again for every step. */
static void warn_slow_types(const struct engine_parts *parts, const struct l4_engine_options *options) {
    for (int type = 0; type < DT_COUNT; type++) {
        const size_t bytes = checkpoint_bytes_of_type(parts->checkpoint, (enum dtype)type);
        if (bytes > 0 && !kernels_have_type((enum dtype)type) && !packed_has_type((enum dtype)type))
            say(options, L4_LOG_WARN, "%.1f MiB of weights are of type %s, which has no kernels of its own: slow",
                (double)bytes / (1 << 20), dtype_name((enum dtype)type));
    }
}

static void fill_info(struct engine_parts *parts, const struct l4_engine_options *options) {
    const struct model_config *config = checkpoint_config(parts->checkpoint);
    const struct generation_config *generation = checkpoint_generation_config(parts->checkpoint);
    parts->info = (struct l4_engine_info){
        .name = parts->name,
        .quantization = parts->quantization,
        .experts_implementation = parts->backend->name,
        .gemm = gemm_impl_names()[parts->exec.gemm],
        .activations = parts->activations,
        .kv_cache_type = kv_type_name(parts->budget.kv_type),
        .cpu_kernels = parts->exec.kernels->name,
        .threads = pool_n_threads(parts->pool),
        .batch_invariant = parts->backend->batch_invariant && parts->exec.gemm == GEMM_OWN,
        .max_context_tokens = parts->budget.max_context_tokens,
        .model_context_tokens = config->max_position_embeddings,
        .kv_capacity_tokens = parts->budget.kv_capacity_tokens,
        .parameters = checkpoint_parameters(parts->checkpoint),
        .active_parameters = checkpoint_active_parameters(parts->checkpoint),
        .vocab_size = config->vocab_size,
        .hidden_size = config->hidden_size,
        .has_temperature = generation->has_temperature,
        .has_top_p = generation->has_top_p,
        .has_min_p = generation->has_min_p,
        .has_top_k = generation->has_top_k,
        .has_repetition_penalty = generation->has_repetition_penalty,
        .temperature = generation->temperature,
        .top_p = generation->top_p,
        .min_p = generation->min_p,
        .repetition_penalty = generation->repetition_penalty,
        .top_k = generation->top_k,
    };
    const struct l4_engine_info *info = &parts->info;
    say(options, L4_LOG_INFO,
        "model %s: %.1fM parameters (%.1fM active), %s, %lld MiB of weights; %d threads, kernels %s, activations %s, "
        "experts %s, gemm %s%s; context %lld tokens, KV cache %s, %lld MiB for %lld tokens",
        info->name, (double)info->parameters * 1e-6, (double)info->active_parameters * 1e-6, info->quantization,
        engine_mib(weights_bytes(parts->checkpoint)), info->threads, info->cpu_kernels, info->activations,
        info->experts_implementation, info->gemm, info->batch_invariant ? "" : " (not batch-invariant)",
        (long long)info->max_context_tokens, info->kv_cache_type, engine_mib(parts->budget.kv_bytes),
        (long long)info->kv_capacity_tokens);
}

static const char *system_root(const struct engine_overrides *overrides) {
    return overrides->system_root ? overrides->system_root : "";
}

static void interleave(struct engine_parts *parts, const struct l4_engine_options *options) {
    struct l4_err err;
    if (parts->cpus.n_nodes == 1) {
        say(options, L4_LOG_INFO, "numa = interleave has nothing to do: there is one node");
        return;
    }
    parts->interleaving = placement_interleave(&parts->placement_before, &err) == 0;
    if (!parts->interleaving)
        say(options, L4_LOG_WARN, "%s", err.message);
}

static void end_interleaving(struct engine_parts *parts) {
    if (parts->interleaving)
        placement_restore(&parts->placement_before);
    parts->interleaving = false;
}

static int open_parts(struct engine_parts *parts, const struct l4_engine_options *options,
                      const struct engine_overrides *overrides, struct l4_err *err) {
    struct memory_limits memory;
    memory_limits_read(&memory, system_root(overrides));
    int rc = open_exec(parts, options, overrides->kernels, err);
    if (rc == 0)
        rc = open_files(parts, options, err);
    if (rc != 0)
        return rc;
    const struct model_config *config = checkpoint_config(parts->checkpoint);
    rc = engine_budget(&parts->budget, options, config, &memory, err);
    if (rc != 0)
        return rc;
    warn_memory(parts, options, &memory);
    rc = open_model(parts, options, err);
    if (rc == 0)
        rc = kv_pool_open(&parts->kv, config, parts->budget.kv_type, parts->budget.kv_pages, err);
    if (rc == 0 && options->prefix_cache)
        rc = kv_pool_cache_prefixes(parts->kv, err);
    if (rc == 0)
        rc = open_sched(parts, options, &overrides->hooks, err);
    if (rc == 0) {
        fill_info(parts, options);
        warn_slow_types(parts, options);
    }
    return rc;
}

int engine_parts_open(struct engine_parts *parts, const struct l4_engine_options *options,
                      const struct engine_overrides *overrides, struct l4_err *err) {
    int numa;
    *parts = (struct engine_parts){0};
    int rc = check_options(options, err);
    if (rc == 0)
        rc = find_name(&numa, "numa", options->numa, l4_engine_numa_names(), err);
    if (rc == 0)
        rc = cpus_read(&parts->cpus, system_root(overrides), NULL, err);
    if (rc == 0 && numa == ENGINE_NUMA_INTERLEAVE)
        interleave(parts, options);
    if (rc == 0)
        rc = open_parts(parts, options, overrides, err);
    if (rc != 0)
        engine_parts_close(parts);
    return rc;
}

void engine_parts_pin(struct engine_parts *parts, const struct l4_engine_options *options, pthread_t engine_thread) {
    int failed = options->pin_threads ? pool_pin(parts->pool, engine_thread, parts->cpus.order) : 0;
    if (failed != 0)
        say(options, L4_LOG_WARN, "threads cannot be pinned: %s", strerror(failed));
}

void engine_parts_started(struct engine_parts *parts, const struct l4_engine_options *options,
                          pthread_t engine_thread) {
    engine_parts_pin(parts, options, engine_thread);
    end_interleaving(parts);
}

void engine_parts_close(struct engine_parts *parts) {
    end_interleaving(parts);
    sched_close(parts->sched);
    kv_pool_close(parts->kv);
    llama4_close(parts->model);
    pool_close(parts->pool);
    cpus_fini(&parts->cpus);
    arena_fini(&parts->gemm_arena);
    l4_tokenizer_close(parts->tokenizer);
    checkpoint_close(parts->checkpoint);
    free(parts->end_ids);
    free(parts->name);
    *parts = (struct engine_parts){0};
}
