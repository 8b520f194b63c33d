/* An engine without a model, for tests of the server: the answer is fixed, the timing is chosen.
 *
 * The model is named "fake:key=value,key=value".  Keys:
 *   delay_ms    between two steps; each running request gets one token a step (default 0: as fast as it can)
 *   prefill_ms  before a request's first token (default 0)
 *   load_ms     that opening takes (default 0)        fail  1: opening fails
 *   tokens      length of the answer, after which comes the end token (default 24)
 *   answer      a file whose text is the answer, once, in place of the fixed one
 * The tokenizer is the demo model's.  At level debug it logs requests that come in, and cancelled ones with the state
 * they were in. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "llama4/bench.h"

enum { FAKE_HIDDEN = 16 };
static const char TOKENIZER[] = "tests/models/demo/tokenizer.json";
static const char ANSWER[] = "Paris is the capital of France. The cat sat on the mat. ";

struct fake_request {
    struct fake_request *next;
    uint64_t id;
    void *user;
    int32_t *prompt;
    size_t n_prompt;
    int64_t max_tokens, n_generated;
    bool ignore_eos, logprobs, prompt_logprobs, embed, cancelled, running;
    int n_top;
    char **stop;
    size_t n_stop;
    struct l4_detok detok;
    struct l4_buf text; /* all of the answer so far */
    int64_t prefill_left_ms;
};

struct l4_engine {
    struct l4_engine_options options;
    char name[64];
    int delay_ms, prefill_ms;
    int64_t n_answer; /* tokens before the end token */
    struct l4_tokenizer *tokenizer;
    struct l4_tokens answer;
    int32_t end_id;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closing, draining;
    uint64_t next_id;
    struct fake_request *requests; /* oldest first; the first max_running of them run */
    struct l4_event *events, **events_end;
    struct l4_engine_stats stats;
};

void l4_engine_options_init(struct l4_engine_options *options) {
    *options = (struct l4_engine_options){.experts_implementation = "auto",
                                          .gemm = "own",
                                          .numa = "off",
                                          .kv_cache_type = "f16",
                                          .max_running = 64,
                                          .max_queue = 256,
                                          .max_step_ms = 100,
                                          .max_chunk_tokens = 512};
}

const char *const *l4_engine_experts_names(void) {
    static const char *const names[] = {"auto", "batched_mm", "grouped_mm", "eager", NULL};
    return names;
}

const char *const *l4_engine_activations_names(void) {
    static const char *const names[] = {"f32", "bf16", NULL};
    return names;
}
const char *const *l4_engine_quantization_names(void) {
    static const char *const names[] = {"none", "q8_0", "q4_0", "q4_k", NULL};
    return names;
}

const char *const *l4_engine_numa_names(void) {
    static const char *const names[] = {"off", "interleave", NULL};
    return names;
}

const char *const *l4_engine_gemm_names(void) {
    static const char *const names[] = {"own", "openblas", NULL};
    return names;
}

const char *const *l4_engine_kv_cache_type_names(void) {
    static const char *const names[] = {"f32", "f16", "bf16", "q8_0", NULL};
    return names;
}

void l4_sampling_init(struct l4_sampling *sampling) {
    *sampling = (struct l4_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
}

static void sleep_ms(int64_t ms) {
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (ms > 0 && nanosleep(&left, &left) != 0 && errno == EINTR)
        continue;
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static struct l4_event *push_event(struct l4_engine *engine, const struct fake_request *request,
                                   enum l4_event_type type) {
    struct l4_event *event = calloc(1, sizeof(*event));
    if (event == NULL)
        abort();
    event->type = type;
    event->id = request->id;
    event->user = request->user;
    event->token.logprob = NAN;
    event->stop_index = -1;
    event->stop_token = -1;
    event->n_prompt = (int64_t)request->n_prompt;
    event->n_generated = request->n_generated;
    *engine->events_end = event;
    engine->events_end = &event->next;
    return event;
}

static void set_logprobs(const struct l4_engine *engine, struct l4_event *event, int32_t id, int n_top) {
    event->token.id = id;
    event->token.logprob = -0.25f - 0.125f * (float)(id % 8);
    event->n_top = n_top;
    event->top = n_top > 0 ? calloc((size_t)n_top, sizeof(*event->top)) : NULL;
    for (int i = 0; i < n_top; i++) {
        event->top[i].id = (id + i) % l4_tokenizer_vocab_size(engine->tokenizer);
        event->top[i].logprob = event->token.logprob - 0.5f * (float)i;
    }
}

struct l4_event *l4_engine_poll(struct l4_engine *engine) {
    pthread_mutex_lock(&engine->lock);
    struct l4_event *events = engine->events;
    engine->events = NULL;
    engine->events_end = &engine->events;
    pthread_mutex_unlock(&engine->lock);
    return events;
}

void l4_event_free(struct l4_event *event) {
    free(event->top);
    free(event->embedding);
    free(event->text);
    free(event);
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static void free_request(struct fake_request *request) {
    for (size_t i = 0; i < request->n_stop; i++)
        free(request->stop[i]);
    free(request->stop);
    free(request->prompt);
    l4_buf_free(&request->text);
    free(request);
}

static bool finish(struct l4_engine *engine, struct fake_request *request, enum l4_finish why, int stop_index,
                   int32_t stop_token) {
    struct l4_event *event = push_event(engine, request, L4_EVENT_DONE);
    event->finish = why;
    event->stop_index = stop_index;
    event->stop_token = stop_token;
    return true;
}

/* Text that has come out since `before`, cut where a stop string begins.  What was already sent of it stays sent. */
static int take_text(struct fake_request *request, size_t before, struct l4_event *event) {
    int stop_index = -1;
    size_t end = request->text.len;
    for (size_t i = 0; i < request->n_stop && stop_index < 0; i++) {
        const char *at = strstr(request->text.data, request->stop[i]);
        if (at != NULL) {
            stop_index = (int)i;
            end = (size_t)(at - request->text.data);
        }
    }
    if (end < before)
        end = before;
    event->text = strndup(request->text.data + before, end - before);
    event->text_bytes = end - before;
    return stop_index;
}

/* One token; true when it was the last. */
static bool generate(struct l4_engine *engine, struct fake_request *request) {
    if (request->max_tokens == 0)
        return finish(engine, request, L4_FINISH_LENGTH, -1, -1);
    bool end = !request->ignore_eos && request->n_generated == engine->n_answer;
    int32_t id = end ? engine->end_id : engine->answer.ids[(size_t)request->n_generated % engine->answer.len];
    request->n_generated++;
    engine->stats.generated_tokens++;
    struct l4_event *event = push_event(engine, request, L4_EVENT_TOKEN);
    event->token.id = id;
    if (request->logprobs)
        set_logprobs(engine, event, id, request->n_top);
    event->is_stop_token = end;
    if (end) {
        event->text = strdup("");
        return finish(engine, request, L4_FINISH_STOP, -1, id);
    }
    size_t before = request->text.len;
    l4_detok_push(&request->detok, id, &request->text);
    int stop_index = take_text(request, before, event);
    if (stop_index >= 0)
        return finish(engine, request, L4_FINISH_STOP, stop_index, -1);
    if (request->n_generated == request->max_tokens)
        return finish(engine, request, L4_FINISH_LENGTH, -1, -1);
    return false;
}

/* How often ids of each remainder occur: mixing up prompts or losing a token shows. */
static bool embed(struct l4_engine *engine, struct fake_request *request) {
    struct l4_event *event = push_event(engine, request, L4_EVENT_EMBEDDING);
    double square = 0;
    event->n_embedding = FAKE_HIDDEN;
    event->embedding = calloc(FAKE_HIDDEN, sizeof(*event->embedding));
    for (size_t i = 0; i < request->n_prompt; i++)
        event->embedding[request->prompt[i] % FAKE_HIDDEN] += 1;
    for (int i = 0; i < FAKE_HIDDEN; i++)
        square += (double)event->embedding[i] * (double)event->embedding[i];
    for (int i = 0; i < FAKE_HIDDEN; i++)
        event->embedding[i] = (float)((double)event->embedding[i] / sqrt(square));
    return finish(engine, request, L4_FINISH_STOP, -1, -1);
}

/* True when the request is over. */
static bool step_request(struct l4_engine *engine, struct fake_request *request, int64_t elapsed_ms) {
    if (request->cancelled) {
        char line[128];
        snprintf(line, sizeof(line), "cancelled id=%llu state=%s generated=%lld", (unsigned long long)request->id,
                 !request->running           ? "queued"
                 : request->n_generated == 0 ? "prefill"
                                             : "decode",
                 (long long)request->n_generated);
        if (engine->options.log != NULL)
            engine->options.log(engine->options.user, L4_LOG_DEBUG, line);
        return finish(engine, request, L4_FINISH_CANCELLED, -1, -1);
    }
    if (!request->running)
        return false;
    if (request->prefill_left_ms > 0) {
        request->prefill_left_ms -= elapsed_ms > 0 ? elapsed_ms : 1;
        return false;
    }
    if (request->prompt_logprobs) {
        request->prompt_logprobs = false;
        for (size_t i = 0; i < request->n_prompt; i++) {
            struct l4_event *event = push_event(engine, request, L4_EVENT_PROMPT);
            set_logprobs(engine, event, request->prompt[i], i > 0 ? request->n_top : 0);
            if (i == 0)
                event->token.logprob = NAN;
        }
    }
    return request->embed ? embed(engine, request) : generate(engine, request);
}

static void step(struct l4_engine *engine, int64_t elapsed_ms) {
    engine->stats.steps++;
    engine->stats.n_running = engine->stats.n_queued = 0;
    int n_running = 0;
    for (struct fake_request **link = &engine->requests; *link != NULL;) {
        struct fake_request *request = *link;
        request->running = request->running || n_running < engine->options.max_running;
        n_running += request->running;
        if (step_request(engine, request, elapsed_ms)) {
            *link = request->next;
            free_request(request);
            continue;
        }
        engine->stats.n_running += request->running;
        engine->stats.n_queued += !request->running;
        link = &request->next;
    }
}

static void *run(void *user) {
    struct l4_engine *engine = user;
    pthread_mutex_lock(&engine->lock);
    while (!engine->closing) {
        if (engine->requests == NULL) {
            pthread_cond_wait(&engine->changed, &engine->lock);
            continue;
        }
        pthread_mutex_unlock(&engine->lock);
        int step_ms = engine->delay_ms > 0 ? engine->delay_ms : engine->prefill_ms > 0 ? 1 : 0;
        sleep_ms(step_ms);
        pthread_mutex_lock(&engine->lock);
        step(engine, step_ms);
        if (engine->events != NULL)
            engine->options.wakeup(engine->options.user);
    }
    pthread_mutex_unlock(&engine->lock);
    return NULL;
}

/* ---- open and close ---------------------------------------------------------------------------------------------- */

static int load_answer(struct l4_engine *engine, const char *path, struct l4_err *err) {
    char text[65536];
    size_t n = sizeof(ANSWER) - 1;
    memcpy(text, ANSWER, sizeof(ANSWER));
    if (path[0] != '\0') {
        FILE *file = fopen(path, "re");
        if (file == NULL)
            return l4_err_set(err, L4_E_IO, "%s: %s", path, strerror(errno));
        n = fread(text, 1, sizeof(text), file);
        fclose(file);
    }
    int rc = l4_encode(engine->tokenizer, text, n, L4_ENCODE_SPECIAL, &engine->answer, err);
    if (rc == 0 && engine->answer.len == 0)
        rc = l4_err_set(err, L4_E_INVALID, "the answer is empty");
    if (rc == 0 && path[0] != '\0')
        engine->n_answer = (int64_t)engine->answer.len;
    return rc;
}

static int load(struct l4_engine *engine, const char *model, struct l4_err *err) {
    char spec[512], answer[256] = "";
    int load_ms = 0, fail = 0;
    snprintf(spec, sizeof(spec), "%s", strncmp(model, "fake:", 5) == 0 ? model + 5 : "");
    char *save = NULL;
    for (char *item = strtok_r(spec, ",", &save); item != NULL; item = strtok_r(NULL, ",", &save)) {
        long long n_tokens;
        if (sscanf(item, "tokens=%lld", &n_tokens) == 1)
            engine->n_answer = n_tokens;
        else if (sscanf(item, "delay_ms=%d", &engine->delay_ms) != 1 &&
                 sscanf(item, "prefill_ms=%d", &engine->prefill_ms) != 1 && sscanf(item, "load_ms=%d", &load_ms) != 1 &&
                 sscanf(item, "fail=%d", &fail) != 1 && sscanf(item, "answer=%255s", answer) != 1)
            return l4_err_set(err, L4_E_INVALID, "fake engine: unknown \"%s\"", item);
    }
    for (int ms = 0; ms < load_ms; ms += 10) {
        sleep_ms(10);
        if (engine->options.progress != NULL)
            engine->options.progress(engine->options.user, "loading", (double)(ms + 10) / load_ms);
    }
    if (fail)
        return l4_err_set(err, L4_E_FORMAT, "%s: the fake checkpoint is broken", model);
    int rc = l4_tokenizer_open(&engine->tokenizer, TOKENIZER, err);
    if (rc != 0)
        return rc;
    engine->end_id = l4_tokenizer_find(engine->tokenizer, "<|eot|>");
    return load_answer(engine, answer, err);
}

int l4_engine_open(struct l4_engine **out, const struct l4_engine_options *options, struct l4_err *err) {
    struct l4_engine *engine = calloc(1, sizeof(*engine));
    if (engine == NULL)
        return l4_err_set(err, L4_E_NOMEM, "out of memory");
    engine->options = *options;
    engine->n_answer = 24;
    engine->next_id = 1;
    engine->events_end = &engine->events;
    const char *slash = strrchr(options->model, '/');
    snprintf(engine->name, sizeof(engine->name), "%s", slash != NULL ? slash + 1 : options->model);
    engine->name[strcspn(engine->name, ":")] = '\0';
    int rc = load(engine, options->model, err);
    pthread_mutex_init(&engine->lock, NULL);
    pthread_cond_init(&engine->changed, NULL);
    if (rc == 0 && pthread_create(&engine->thread, NULL, run, engine) != 0)
        rc = l4_err_set(err, L4_E_INTERNAL, "no thread");
    if (rc != 0) {
        l4_tokens_free(&engine->answer);
        l4_tokenizer_close(engine->tokenizer);
        free(engine);
        return rc;
    }
    *out = engine;
    return 0;
}

void l4_engine_close(struct l4_engine *engine) {
    if (engine == NULL)
        return;
    pthread_mutex_lock(&engine->lock);
    engine->closing = true;
    pthread_cond_signal(&engine->changed);
    pthread_mutex_unlock(&engine->lock);
    pthread_join(engine->thread, NULL);
    while (engine->requests != NULL) {
        struct fake_request *next = engine->requests->next;
        free_request(engine->requests);
        engine->requests = next;
    }
    while (engine->events != NULL) {
        struct l4_event *next = engine->events->next;
        l4_event_free(engine->events);
        engine->events = next;
    }
    pthread_mutex_destroy(&engine->lock);
    pthread_cond_destroy(&engine->changed);
    l4_tokens_free(&engine->answer);
    l4_tokenizer_close(engine->tokenizer);
    free(engine);
}

const struct l4_tokenizer *l4_engine_tokenizer(const struct l4_engine *engine) {
    return engine->tokenizer;
}

void l4_engine_info(const struct l4_engine *engine, struct l4_engine_info *info) {
    int64_t max_context = engine->options.max_context_tokens > 0 ? engine->options.max_context_tokens : 32768;
    *info = (struct l4_engine_info){.name = engine->name,
                                    .quantization = "bf16",
                                    .activations = "f32",
                                    .experts_implementation = engine->options.experts_implementation,
                                    .gemm = engine->options.gemm,
                                    .kv_cache_type = engine->options.kv_cache_type,
                                    .cpu_kernels = "none",
                                    .threads = 1,
                                    .batch_invariant = true,
                                    .max_context_tokens = max_context,
                                    .model_context_tokens = max_context,
                                    .kv_capacity_tokens = max_context * 2,
                                    .parameters = 1000,
                                    .active_parameters = 500,
                                    .vocab_size = l4_tokenizer_vocab_size(engine->tokenizer),
                                    .hidden_size = FAKE_HIDDEN};
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static struct fake_request *copy_request(struct l4_engine *engine, const struct l4_request *request) {
    struct fake_request *copy = calloc(1, sizeof(*copy));
    if (copy == NULL)
        abort();
    copy->user = request->user;
    copy->n_prompt = request->n_prompt;
    copy->prompt = calloc(request->n_prompt, sizeof(*copy->prompt));
    memcpy(copy->prompt, request->prompt, request->n_prompt * sizeof(*copy->prompt));
    copy->max_tokens = request->max_tokens;
    copy->embed = request->embed;
    copy->ignore_eos = request->ignore_eos;
    copy->logprobs = request->logprobs;
    copy->prompt_logprobs = request->prompt_logprobs && !request->embed;
    copy->n_top = request->n_top_logprobs;
    copy->n_stop = request->n_stop;
    copy->stop = calloc(request->n_stop + 1, sizeof(*copy->stop));
    for (size_t i = 0; i < request->n_stop; i++)
        copy->stop[i] = strndup(request->stop[i].data, request->stop[i].len_bytes);
    copy->prefill_left_ms = engine->prefill_ms;
    l4_detok_init(&copy->detok, engine->tokenizer, request->show_special);
    l4_buf_puts(&copy->text, "");
    return copy;
}

int l4_engine_submit(struct l4_engine *engine, const struct l4_request *request, uint64_t *id, struct l4_err *err) {
    struct l4_engine_info info;
    l4_engine_info(engine, &info);
    int64_t n_answer = request->max_tokens > 0 && !request->embed ? request->max_tokens : 0;
    if (request->n_prompt == 0)
        return l4_err_set(err, L4_E_INVALID, "the prompt is empty");
    if ((int64_t)request->n_prompt + n_answer > info.max_context_tokens)
        return l4_err_set(err, L4_E_CONTEXT_LENGTH, "%zu prompt tokens and %lld of the answer; the limit is %lld",
                          request->n_prompt, (long long)n_answer, (long long)info.max_context_tokens);
    pthread_mutex_lock(&engine->lock);
    int rc = 0;
    int64_t n_requests = 0;
    struct fake_request **end = &engine->requests;
    for (; *end != NULL; end = &(*end)->next)
        n_requests++;
    if (engine->draining)
        rc = l4_err_set(err, L4_E_SHUTDOWN, "the engine is shutting down");
    else if (n_requests >= (int64_t)engine->options.max_running + engine->options.max_queue)
        rc = l4_err_set(err, L4_E_QUEUE_FULL, "%d requests are waiting; try again later", engine->options.max_queue);
    if (rc == 0) {
        *end = copy_request(engine, request);
        *id = (*end)->id = engine->next_id++;
        engine->stats.prompt_tokens += request->n_prompt;
        pthread_cond_signal(&engine->changed);
    }
    pthread_mutex_unlock(&engine->lock);
    if (rc == 0 && engine->options.log != NULL)
        engine->options.log(engine->options.user, L4_LOG_DEBUG, "submitted");
    return rc;
}

void l4_engine_cancel(struct l4_engine *engine, uint64_t id) {
    pthread_mutex_lock(&engine->lock);
    for (struct fake_request *request = engine->requests; request != NULL; request = request->next)
        if (request->id == id)
            request->cancelled = true;
    pthread_mutex_unlock(&engine->lock);
}

void l4_engine_drain(struct l4_engine *engine) {
    pthread_mutex_lock(&engine->lock);
    engine->draining = true;
    pthread_mutex_unlock(&engine->lock);
}

void l4_engine_stats(struct l4_engine *engine, struct l4_engine_stats *stats) {
    pthread_mutex_lock(&engine->lock);
    *stats = engine->stats;
    pthread_mutex_unlock(&engine->lock);
}

/* ---- the bench measures real engines only ----------------------------------------------------------------------- */

int l4_bench_open(struct l4_bench **out, const struct l4_engine_options *options, int64_t max_tokens, int max_batch,
                  struct l4_err *err) {
    (void)out, (void)options, (void)max_tokens, (void)max_batch;
    return l4_err_set(err, L4_E_UNSUPPORTED, "the fake engine computes nothing");
}

void l4_bench_close(struct l4_bench *bench) {
    (void)bench;
}

void l4_bench_info(const struct l4_bench *bench, struct l4_bench_info *info) {
    (void)bench, (void)info;
}

void l4_bench_limits(struct l4_bench *bench, struct l4_bench_limits *limits) {
    (void)bench, (void)limits;
}

int l4_bench_run(struct l4_bench *bench, const struct l4_bench_test *test, struct l4_bench_result *result,
                 struct l4_err *err) {
    (void)bench, (void)test, (void)result;
    return l4_err_set(err, L4_E_UNSUPPORTED, "the fake engine computes nothing");
}

int l4_bench_experts(struct l4_bench *bench, const char *experts, int64_t n_tokens, unsigned layer, uint64_t seed,
                     double *seconds, struct l4_err *err) {
    (void)bench, (void)experts, (void)n_tokens, (void)layer, (void)seed, (void)seconds;
    return l4_err_set(err, L4_E_UNSUPPORTED, "the fake engine computes nothing");
}
