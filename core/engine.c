#include "llama4/engine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "core/base/checked.h"
#include "core/engine_internal.h"

/* A request's place in the engine.  Its number is part of the request's id, so that cancel finds it at once. */
struct slot {
    uint64_t id; /* 0 = free */
    atomic_bool cancelled;
};
enum { SLOT_BITS = 24 };
_Static_assert((int64_t)L4_MAX_RUNNING + L4_MAX_QUEUE <= 1 << SLOT_BITS, "every slot has a number");

struct l4_engine {
    struct engine_parts parts;
    struct request_limits limits;
    void (*wakeup)(void *user);
    void *user;
    pthread_t thread;
    int32_t n_slots;

    pthread_mutex_t mutex; /* all below */
    pthread_cond_t work;
    bool draining, closing;
    struct request *inbox; /* submitted, not yet with the scheduler (utlist) */
    int n_inbox;
    struct slot *slots;  /* [n_slots]: as many as may run or wait */
    int32_t *free_slots; /* [n_free] of n_slots */
    int n_free;
    uint64_t n_submitted;
    struct l4_event *events, *last_event; /* not yet polled */
    struct l4_engine_stats stats;         /* as the last step left it */
};

static int32_t slot_of(uint64_t id) {
    return (int32_t)(id & ((1U << SLOT_BITS) - 1));
}

/* ---- options and information ---------------------------------------------------------------------------------- */

void l4_engine_options_init(struct l4_engine_options *options) {
    *options = (struct l4_engine_options){
        .experts_implementation = "auto",
        .gemm = "own",
        .quantization = "none",
        .activations = "f32",
        .numa = "off",
        .kv_cache_type = "f16",
        .max_running = 32,
        .max_queue = 256,
        .max_step_ms = 500,
        .max_chunk_tokens = 512,
        .prefix_cache = true,
    };
}

void l4_sampling_init(struct l4_sampling *sampling) {
    *sampling = (struct l4_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
}

const char *const *l4_engine_experts_names(void) {
    return experts_backend_names();
}

const char *const *l4_engine_gemm_names(void) {
    return gemm_impl_names();
}

const char *const *l4_engine_quantization_names(void) {
    return engine_quantization_names();
}

const char *const *l4_engine_activations_names(void) {
    return engine_activations_names();
}

const char *const *l4_engine_numa_names(void) {
    static const char *const names[] = {[ENGINE_NUMA_OFF] = "off", [ENGINE_NUMA_INTERLEAVE] = "interleave", NULL};
    return names;
}

const char *const *l4_engine_kv_cache_type_names(void) {
    return kv_type_names();
}

const struct l4_tokenizer *l4_engine_tokenizer(const struct l4_engine *engine) {
    return engine->parts.tokenizer;
}

void l4_engine_info(const struct l4_engine *engine, struct l4_engine_info *info) {
    *info = engine->parts.info;
}

/* ---- the engine thread ---------------------------------------------------------------------------------------- */

/* Waits for work and hands what was submitted to the scheduler; false when the engine closes. */
static bool take_work(struct l4_engine *engine) {
    struct sched *sched = engine->parts.sched;
    pthread_mutex_lock(&engine->mutex);
    while (!engine->closing && !engine->inbox && !sched_busy(sched))
        pthread_cond_wait(&engine->work, &engine->mutex);
    bool go_on = !engine->closing;
    struct request *inbox = NULL, *request, *next;
    if (go_on) {
        inbox = engine->inbox;
        engine->inbox = NULL;
        engine->stats.n_queued += engine->n_inbox;
        engine->n_inbox = 0;
    }
    pthread_mutex_unlock(&engine->mutex);
    DL_FOREACH_SAFE(inbox, request, next) {
        sched_add(sched, request);
    }
    return go_on;
}

/* Hands events to whoever polls, and frees the slots of requests that have ended. */
static void deliver(struct l4_engine *engine) {
    struct l4_event *events = sched_take_events(engine->parts.sched), *last = events;
    pthread_mutex_lock(&engine->mutex);
    bool wake = events && !engine->events;
    for (struct l4_event *event = events; event; event = event->next) {
        last = event;
        if (event->type == L4_EVENT_DONE || event->type == L4_EVENT_ERROR) {
            int32_t slot = slot_of(event->id);
            engine->slots[slot].id = 0;
            engine->free_slots[engine->n_free++] = slot;
        }
    }
    if (engine->events)
        engine->last_event->next = events;
    else
        engine->events = events;
    if (events)
        engine->last_event = last;
    sched_stats(engine->parts.sched, &engine->stats);
    pthread_mutex_unlock(&engine->mutex);
    if (wake && engine->wakeup)
        engine->wakeup(engine->user);
}

static void *engine_main(void *arg) {
    struct l4_engine *engine = arg;
    while (take_work(engine)) {
        sched_step(engine->parts.sched);
        deliver(engine);
    }
    return NULL;
}

/* ---- open and close ------------------------------------------------------------------------------------------- */

static void engine_free(struct l4_engine *engine) {
    struct request *request, *next;
    DL_FOREACH_SAFE(engine->inbox, request, next) {
        request_close(request);
    }
    for (struct l4_event *event = engine->events; event;) {
        struct l4_event *after = event->next;
        l4_event_free(event);
        event = after;
    }
    engine_parts_close(&engine->parts);
    pthread_mutex_destroy(&engine->mutex);
    pthread_cond_destroy(&engine->work);
    free(engine->slots);
    free(engine->free_slots);
    free(engine);
}

static int open_slots(struct l4_engine *engine, const struct l4_engine_options *options, struct l4_err *err) {
    int32_t n = options->max_running + options->max_queue;
    engine->n_slots = n;
    engine->slots = calloc((size_t)n, sizeof *engine->slots);
    engine->free_slots = checked_array((size_t)n, sizeof *engine->free_slots);
    if (!engine->slots || !engine->free_slots)
        return l4_err_set(err, L4_E_NOMEM, "no memory for a queue of %d requests", (int)n);
    for (int32_t i = n - 1; i >= 0; i--)
        engine->free_slots[engine->n_free++] = i;
    return 0;
}

int engine_open_with(struct l4_engine **out, const struct l4_engine_options *options,
                     const struct engine_overrides *overrides, struct l4_err *err) {
    static const struct engine_overrides none;
    *out = NULL;
    struct l4_engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return l4_err_set(err, L4_E_NOMEM, "no memory for the engine");
    pthread_mutex_init(&engine->mutex, NULL);
    pthread_cond_init(&engine->work, NULL);
    engine->wakeup = options->wakeup;
    engine->user = options->user;
    int rc = engine_parts_open(&engine->parts, options, overrides ? overrides : &none, err);
    if (rc == 0)
        rc = open_slots(engine, options, err);
    if (rc != 0) {
        engine_free(engine);
        return rc;
    }
    engine->limits = (struct request_limits){
        .vocab_size = engine->parts.info.vocab_size,
        .max_context_tokens = engine->parts.info.max_context_tokens,
        .tokenizer = engine->parts.tokenizer,
    };
    sched_stats(engine->parts.sched, &engine->stats);
    rc = pthread_create(&engine->thread, NULL, engine_main, engine);
    if (rc != 0) {
        engine_free(engine);
        return l4_err_set(err, L4_E_INTERNAL, "cannot start the engine's thread: %s", strerror(rc));
    }
    engine_parts_started(&engine->parts, options, engine->thread);
    *out = engine;
    return 0;
}

int l4_engine_open(struct l4_engine **out, const struct l4_engine_options *options, struct l4_err *err) {
    return engine_open_with(out, options, NULL, err);
}

void l4_engine_close(struct l4_engine *engine) {
    if (!engine)
        return;
    pthread_mutex_lock(&engine->mutex);
    engine->closing = true;
    pthread_cond_signal(&engine->work);
    pthread_mutex_unlock(&engine->mutex);
    pthread_join(engine->thread, NULL);
    engine_free(engine);
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

/* The mutex is held. */
static int enqueue(struct l4_engine *engine, struct request *request, struct l4_err *err) {
    if (engine->draining || engine->closing)
        return l4_err_set(err, L4_E_SHUTDOWN, "the engine takes no new requests: it is shutting down");
    if (engine->n_free == 0)
        return l4_err_set(err, L4_E_QUEUE_FULL, "all places are taken: %lld requests run, %lld wait",
                          (long long)engine->stats.n_running, (long long)(engine->stats.n_queued + engine->n_inbox));
    int32_t i = engine->free_slots[--engine->n_free];
    struct slot *slot = &engine->slots[i];
    slot->id = ++engine->n_submitted << SLOT_BITS | (uint64_t)i;
    atomic_store(&slot->cancelled, false);
    request->id = slot->id;
    request->cancelled = &slot->cancelled;
    request->submitted_s = engine_now_s(NULL);
    DL_APPEND(engine->inbox, request);
    engine->n_inbox++;
    pthread_cond_signal(&engine->work);
    return 0;
}

int l4_engine_submit(struct l4_engine *engine, const struct l4_request *request, uint64_t *id, struct l4_err *err) {
    struct request *copy;
    int rc = request_open(&copy, request, &engine->limits, err);
    if (rc != 0)
        return rc;
    pthread_mutex_lock(&engine->mutex);
    rc = enqueue(engine, copy, err);
    if (rc == 0)
        *id = copy->id;
    pthread_mutex_unlock(&engine->mutex);
    if (rc != 0)
        request_close(copy);
    return rc;
}

void l4_engine_cancel(struct l4_engine *engine, uint64_t id) {
    int32_t i = slot_of(id);
    pthread_mutex_lock(&engine->mutex);
    if (id != 0 && i < engine->n_slots && engine->slots[i].id == id)
        atomic_store(&engine->slots[i].cancelled, true);
    pthread_mutex_unlock(&engine->mutex);
}

void l4_engine_drain(struct l4_engine *engine) {
    pthread_mutex_lock(&engine->mutex);
    engine->draining = true;
    pthread_mutex_unlock(&engine->mutex);
}

struct l4_event *l4_engine_poll(struct l4_engine *engine) {
    pthread_mutex_lock(&engine->mutex);
    struct l4_event *events = engine->events;
    engine->events = engine->last_event = NULL;
    pthread_mutex_unlock(&engine->mutex);
    return events;
}

void l4_engine_stats(struct l4_engine *engine, struct l4_engine_stats *stats) {
    pthread_mutex_lock(&engine->mutex);
    *stats = engine->stats;
    stats->n_queued += engine->n_inbox;
    pthread_mutex_unlock(&engine->mutex);
    llama4_experts_stats(engine->parts.model, &stats->experts);
}
