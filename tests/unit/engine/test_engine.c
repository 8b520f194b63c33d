/* The public API over the demo model: opening, events, stop strings, queue, cancel, drain, an idle engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/lib/failmalloc.h"
#include "tests/lib/sanitized.h"
#include "tests/lib/session.h"
#include "tests/lib/tempdir.h"

static const char DEMO[] = "tests/models/demo", SCOUT[] = "tests/fixtures/scout",
                  DEMO_Q4_0[] = "tests/models/demo-Q4_0.gguf";

struct answer {
    struct l4_buf text;
    struct l4_tokens ids;
    int n_ends;
    bool failed;
    int64_t n_generated;
    int place; /* among all that have ended */
    enum l4_finish finish;
    int stop_index;
    int32_t stop_token;
};

static int n_places;

static void take_event(void *user, const struct l4_event *event) {
    struct answer *answer = user;
    assert_int_equal(answer->n_ends, 0);
    l4_buf_append(&answer->text, event->text ? event->text : "", event->text_bytes);
    if (event->type == L4_EVENT_TOKEN) {
        assert_true(isnan(event->token.logprob) && event->n_top == 0); /* not asked for */
        assert_int_equal(l4_tokens_push(&answer->ids, event->token.id), 0);
        if (event->is_stop_token)
            assert_int_equal(event->text_bytes, 0);
    } else {
        answer->n_ends++;
        answer->failed = event->type == L4_EVENT_ERROR;
        answer->finish = event->finish;
        answer->stop_index = event->stop_index;
        answer->stop_token = event->stop_token;
        answer->n_generated = event->n_generated;
        answer->place = ++n_places;
        assert_true(event->queue_s >= 0 && event->prefill_s >= 0 && event->decode_s >= 0);
    }
}

static void answer_free(struct answer *answer) {
    l4_buf_free(&answer->text);
    l4_tokens_free(&answer->ids);
    *answer = (struct answer){0};
}

static struct l4_engine_options options_for(const char *model) {
    struct l4_engine_options options;
    l4_engine_options_init(&options);
    options.model = model;
    options.threads = 2;
    return options;
}

static void open_session(struct session *session, struct l4_engine_options options) {
    struct l4_err err;
    if (session_open(session, &options, NULL, &err) != 0)
        fail_msg("%s", err.message);
}

static const int32_t some_ids[] = {1, 20, 130, 4, 50, 60, 7, 80};

static struct l4_request plain(int64_t max_tokens, struct answer *answer) {
    struct l4_request request = {.prompt = some_ids,
                                 .n_prompt = 8,
                                 .max_tokens = max_tokens,
                                 .ignore_eos = true,
                                 .log_id = "test",
                                 .user = answer};
    l4_sampling_init(&request.sampling);
    request.sampling.temperature = 0;
    return request;
}

static uint64_t submit(struct session *session, const struct l4_request *request) {
    uint64_t id = 0;
    struct l4_err err;
    if (l4_engine_submit(session->engine, request, &id, &err) != 0)
        fail_msg("%s", err.message);
    assert_int_not_equal(id, 0);
    return id;
}

static void wait_for(struct session *session, const struct answer *answer) {
    while (answer->n_ends == 0)
        session_wait(session, take_event);
}

/* ---- opening -------------------------------------------------------------------------------------------------- */

static void refused(struct l4_engine_options options, int code, const char *words) {
    struct l4_engine *engine = NULL;
    struct l4_err err = {0};
    assert_int_equal(l4_engine_open(&engine, &options, &err), code);
    assert_null(engine);
    if (!strstr(err.message, words))
        fail_msg("\"%s\" does not say \"%s\"", err.message, words);
}

static void bad_options_are_named(void **state) {
    (void)state;
    struct l4_engine_options options = options_for(NULL);
    refused(options, L4_E_INVALID, "no model");
    refused(options_for("tests/no_such_model"), L4_E_NOT_FOUND, "tests/no_such_model");
    options = options_for(DEMO);
    options.experts_implementation = "magic";
    refused(options, L4_E_INVALID, "'magic' is unknown; valid are: auto, batched_mm, grouped_mm, eager");
    options = options_for(DEMO);
    options.gemm = "magic";
    refused(options, L4_E_INVALID, "gemm 'magic' is unknown; valid are: own, openblas");
    options = options_for(DEMO);
    options.quantization = "magic";
    refused(options, L4_E_INVALID, "quantization 'magic' is unknown; valid are: none, q8_0, q4_0, q4_k");
    options = options_for(DEMO);
    options.activations = "f16";
    refused(options, L4_E_INVALID, "activations 'f16' is unknown; valid are: f32, bf16");
    options = options_for(DEMO_Q4_0);
    options.weight_cache = "tests/no_such_directory";
    refused(options, L4_E_IO, "weight_cache: tests/no_such_directory is no directory");
    options = options_for(DEMO);
    options.threads = -1;
    refused(options, L4_E_INVALID, "threads is -1: allowed are 0 to 1024");
    options = options_for(DEMO);
    options.max_running = 0;
    refused(options, L4_E_INVALID, "max_running is 0: allowed are 1 to");
    options = options_for(DEMO);
    options.max_queue = -1;
    refused(options, L4_E_INVALID, "max_queue is -1");
    options = options_for(DEMO);
    options.max_context_tokens = 8193;
    refused(options, L4_E_INVALID, "the model knows only 8192 positions");
    options = options_for(DEMO);
    options.kv_cache_bytes = 1 << 20;
    options.max_context_tokens = 8192;
    refused(options, L4_E_INVALID, "1048576 are allowed (kv_cache)");
}

static void info_tells_what_was_chosen(void **state) {
    (void)state;
    struct session session;
    struct l4_engine_info info;
    struct l4_engine_options options = options_for("tests/models/../models/demo/");
    options.max_context_tokens = 1000;
    open_session(&session, options);
    l4_engine_info(session.engine, &info);
    assert_string_equal(info.name, "demo");
    assert_string_equal(info.quantization, "bf16");
    assert_string_equal(info.experts_implementation, "auto");
    assert_string_equal(info.gemm, "own");
    assert_string_equal(info.activations, "f32");
    assert_string_equal(info.kv_cache_type, "f16");
    assert_true(info.batch_invariant);
    assert_int_equal(info.threads, 2);
    assert_int_equal(info.max_context_tokens, 1000);
    assert_int_equal(info.model_context_tokens, 8192);
    assert_int_equal(info.vocab_size, 2048);
    assert_int_equal(info.hidden_size, 256);
    assert_true(info.has_temperature && info.has_top_p && !info.has_top_k);
    assert_true(info.temperature == 0.6F && info.top_p == 0.9F);
    assert_non_null(l4_engine_tokenizer(session.engine));
    session_close(&session);
    options = options_for(SCOUT);
    options.experts_implementation = "eager";
    open_session(&session, options);
    l4_engine_info(session.engine, &info);
    assert_string_equal(info.quantization, "f32");
    assert_false(info.batch_invariant);
    assert_null(l4_engine_tokenizer(session.engine));
    session_close(&session);
}

static struct l4_buf log_lines;
static void keep_log(void *user, enum l4_log_level level, const char *message) {
    (void)user;
    l4_buf_printf(&log_lines, "%d %s\n", (int)level, message);
}

static void too_little_memory_is_told_in_numbers(void **state) {
    (void)state;
    struct tempdir dir;
    struct l4_err err;
    struct session session;
    struct l4_engine_options options = options_for(DEMO);
    tempdir_init(&dir);
    char command[512];
    snprintf(command, sizeof command,
             "cd '%s' && mkdir -p proc/self sys/fs/cgroup && echo 0::/ > proc/self/cgroup && "
             "echo 16777216 > sys/fs/cgroup/memory.max && "
             "printf 'MemTotal: 1000000 kB\\nMemAvailable: 900000 kB\\n' > proc/meminfo",
             dir.path);
    assert_int_equal(system(command), 0);
    const struct engine_overrides overrides = {.system_root = dir.path};
    options.log = keep_log;
    assert_int_equal(session_open(&session, &options, &overrides, &err), 0);
    assert_non_null(strstr(log_lines.data, "1 weights of 21 MiB and a KV cache of 2 MiB exceed the control group's "
                                           "memory limit of 16 MiB"));
    session_close(&session);
    options.kv_cache_bytes = 32 << 20;
    assert_int_equal(session_open(&session, &options, &overrides, &err), L4_E_NOMEM);
    assert_non_null(strstr(err.message, "does not fit into 16 MiB of memory (the control group's limit)"));
    l4_buf_free(&log_lines);
    snprintf(command, sizeof command, "rm -r '%s'/proc '%s'/sys", dir.path, dir.path);
    assert_int_equal(system(command), 0);
    tempdir_fini(&dir);
}

/* Tokens of a run, and what was logged while opening. */
static void run_logged(struct l4_engine_options options, struct answer *answer, const char *logged) {
    struct session session;
    options.log = keep_log;
    open_session(&session, options);
    const struct l4_request request = plain(12, answer);
    submit(&session, &request);
    wait_for(&session, answer);
    session_close(&session);
    if (!strstr(log_lines.data, logged))
        fail_msg("\"%s\" does not say \"%s\"", log_lines.data, logged);
    l4_buf_free(&log_lines);
}

static void weight_cache_changes_nothing(void **state) {
    (void)state;
    struct tempdir dir;
    tempdir_init(&dir);
    static const struct {
        const char *model, *quantization, *activations, *logged;
    } cases[] = {{DEMO_Q4_0, "none", "f32", ", q4_0, "},
                 {DEMO, "q8_0", "f32", ", q8_0, "},
                 {DEMO, "q4_k", "f32", ", q4_k, "},
                 {DEMO, "none", "bf16", ", activations bf16, "}};
    for (size_t i = 0; i < (SANITIZED ? 1 : sizeof cases / sizeof cases[0]); i++) {
        struct answer plain_answer = {0}, answers[3] = {0};
        struct l4_engine_options options = options_for(cases[i].model);
        options.quantization = cases[i].quantization;
        options.activations = cases[i].activations;
        run_logged(options, &plain_answer, cases[i].logged);
        options.weight_cache = dir.path;
        run_logged(options, &answers[0], "model ");
        run_logged(options, &answers[1], "packed weights from ");
        options.verify = true;
        run_logged(options, &answers[2], "packed weights from ");
        for (int j = 0; j < 3; j++) {
            assert_int_equal(answers[j].ids.len, plain_answer.ids.len);
            assert_memory_equal(answers[j].ids.ids, plain_answer.ids.ids,
                                plain_answer.ids.len * sizeof plain_answer.ids.ids[0]);
            answer_free(&answers[j]);
        }
        answer_free(&plain_answer);
    }
    tempdir_fini(&dir);
}

static void bf16_activations_without_bf16_weights_are_named(void **state) {
    (void)state;
    static const struct {
        const char *model, *quantization;
    } cases[] = {{SCOUT, "none"}, {DEMO, "q8_0"}, {DEMO_Q4_0, "none"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct session session;
        struct l4_err err;
        struct l4_engine_info info;
        struct l4_engine_options options = options_for(cases[i].model);
        options.quantization = cases[i].quantization;
        options.activations = "bf16";
        options.log = keep_log;
        if (session_open(&session, &options, NULL, &err) != 0)
            fail_msg("%s", err.message);
        l4_engine_info(session.engine, &info);
        session_close(&session);
        assert_string_equal(info.activations, "f32");
        assert_non_null(strstr(log_lines.data, "1 activations = bf16 changes nothing: no weights are BF16"));
        l4_buf_free(&log_lines);
    }
}

static void opening_survives_any_failed_allocation(void **state) {
    (void)state;
    struct l4_engine_options options = options_for(SCOUT);
    int n_failed = 0;
    FAILMALLOC_EACH(n) {
        struct l4_engine *engine;
        struct l4_err err = {0};
        int rc = l4_engine_open(&engine, &options, &err);
        bool failed = failmalloc_disarm();
        assert_true(rc == 0 || failed);
        n_failed += rc != 0;
        if (rc == 0)
            l4_engine_close(engine);
        else
            assert_true(strlen(err.message) > 0);
    }
    assert_true(n_failed > 20);
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

static void chat_answers(void **state) {
    (void)state;
    struct session session;
    struct answer answer = {0};
    struct l4_tokens prompt = {0};
    struct l4_err err;
    const struct l4_message message = {.role = "user", .content = {"What is the capital of France?", 30}};
    const struct l4_chat chat = {.messages = &message, .n_messages = 1, .add_generation_prompt = true};
    open_session(&session, options_for(DEMO));
    assert_int_equal(l4_chat_encode(l4_engine_tokenizer(session.engine), &chat, &prompt, NULL, &err), 0);
    struct l4_request request = plain(-1, &answer);
    request.prompt = prompt.ids;
    request.n_prompt = prompt.len;
    request.ignore_eos = false;
    submit(&session, &request);
    wait_for(&session, &answer);
    assert_non_null(strstr(answer.text.data, "Paris"));
    assert_int_equal(answer.finish, L4_FINISH_STOP);
    assert_int_equal(answer.stop_token, l4_tokenizer_find(l4_engine_tokenizer(session.engine), "<|eot|>"));
    assert_int_equal(answer.n_generated, answer.ids.len);
    l4_tokens_free(&prompt);
    answer_free(&answer);
    session_close(&session);
}

/* Stretches of a known answer, taken as stop string, cut the answer exactly there, whatever tokens they span. */
static void check_stop_strings(size_t n_stretches, const struct engine_overrides *overrides) {
    enum { N = 24 };
    struct session session;
    struct answer whole = {0}, cut[N] = {{{0}, {0}, 0, false, 0, 0, 0, 0, 0}};
    char stops[N][16];
    struct l4_engine_options options = options_for(DEMO);
    struct l4_err err;
    assert_int_equal(session_open(&session, &options, overrides, &err), 0);
    struct l4_request request = plain(60, &whole);
    submit(&session, &request);
    wait_for(&session, &whole);
    assert_true(whole.text.len > 100);
    for (size_t i = 0; i < n_stretches; i++) {
        size_t at = i * (whole.text.len - 16) / n_stretches, len = 2 + i % 12;
        while (((unsigned char)whole.text.data[at] & 0xC0) == 0x80)
            at++;
        memcpy(stops[i], whole.text.data + at, len);
        const struct l4_text stop[] = {{"\x01 never", 7}, {stops[i], len}};
        request.stop = stop;
        request.n_stop = 2;
        request.user = &cut[i];
        submit(&session, &request);
        wait_for(&session, &cut[i]);
        const char *first = memmem(whole.text.data, whole.text.len, stops[i], len);
        assert_int_equal(cut[i].finish, L4_FINISH_STOP);
        assert_int_equal(cut[i].stop_index, 1);
        assert_int_equal(cut[i].stop_token, -1);
        assert_int_equal(cut[i].text.len, first - whole.text.data);
        assert_memory_equal(cut[i].text.data ? cut[i].text.data : "", whole.text.data, cut[i].text.len);
        assert_true(cut[i].ids.len <= whole.ids.len);
        answer_free(&cut[i]);
    }
    answer_free(&whole);
    session_close(&session);
}

static void stop_strings_cut_across_tokens(void **state) {
    (void)state;
    check_stop_strings(SANITIZED ? 8 : 24, NULL);
}

static int preempt_all(void *user, int n_running) {
    (void)user;
    return n_running;
}

/* Text that is held back outlives its request's being set back: here before every step, so that each token costs a
 * prefill. */
static void stop_strings_cut_across_preemption(void **state) {
    (void)state;
    check_stop_strings(SANITIZED ? 2 : 5, &(struct engine_overrides){.hooks = {.preempt = preempt_all}});
}

static void sampling_repeats_with_its_seed(void **state) {
    (void)state;
    struct session session;
    struct answer answers[3] = {{{0}, {0}, 0, false, 0, 0, 0, 0, 0}};
    open_session(&session, options_for(DEMO));
    for (int i = 0; i < 3; i++) {
        struct l4_request request = plain(30, &answers[i]);
        request.sampling.temperature = 1;
        request.sampling.seed = i < 2 ? 7 : 8;
        submit(&session, &request);
    }
    for (int i = 0; i < 3; i++)
        wait_for(&session, &answers[i]);
    assert_memory_equal(answers[0].ids.ids, answers[1].ids.ids, 30 * sizeof(int32_t));
    assert_memory_not_equal(answers[0].ids.ids, answers[2].ids.ids, 30 * sizeof(int32_t));
    for (int i = 0; i < 3; i++)
        answer_free(&answers[i]);
    session_close(&session);
}

/* ---- queue, cancel, drain ------------------------------------------------------------------------------------- */

static void queue_is_bounded(void **state) {
    (void)state;
    struct session session;
    struct answer answers[4] = {{{0}, {0}, 0, false, 0, 0, 0, 0, 0}};
    struct l4_engine_options options = options_for(DEMO);
    struct l4_engine_stats stats;
    struct l4_err err;
    uint64_t ids[3], id;
    options.max_running = 1;
    options.max_queue = 2;
    open_session(&session, options);
    for (int i = 0; i < 3; i++) {
        struct l4_request request = plain(-1, &answers[i]);
        ids[i] = submit(&session, &request);
    }
    struct l4_request request = plain(5, &answers[3]);
    assert_int_equal(l4_engine_submit(session.engine, &request, &id, &err), L4_E_QUEUE_FULL);
    l4_engine_cancel(session.engine, 0);
    l4_engine_cancel(session.engine, UINT64_MAX);
    l4_engine_cancel(session.engine, ids[1]); /* queued */
    wait_for(&session, &answers[1]);
    assert_int_equal(answers[1].finish, L4_FINISH_CANCELLED);
    assert_int_equal(answers[1].ids.len, 0);
    l4_engine_cancel(session.engine, ids[1]); /* over: ignored, also by whoever has its place now */
    submit(&session, &request);
    l4_engine_cancel(session.engine, ids[1]);
    l4_engine_cancel(session.engine, ids[0]); /* running */
    l4_engine_cancel(session.engine, ids[2]);
    for (int i = 0; i < 4; i++)
        wait_for(&session, &answers[i]);
    assert_int_equal(answers[0].finish, L4_FINISH_CANCELLED);
    assert_int_equal(answers[2].finish, L4_FINISH_CANCELLED);
    assert_int_equal(answers[3].finish, L4_FINISH_LENGTH);
    l4_engine_stats(session.engine, &stats);
    assert_int_equal(stats.n_queued + stats.n_running + stats.kv_pages_used, 0);
    for (int i = 0; i < 4; i++)
        answer_free(&answers[i]);
    session_close(&session);
}

/* What is submitted while a step runs waits in the order of the calls. */
struct gate {
    sem_t open;
    bool passed;
};

static int32_t wait_at_gate(void *user, int32_t planned) {
    struct gate *gate = user;
    while (!gate->passed && sem_wait(&gate->open) != 0)
        continue;
    gate->passed = true;
    return planned;
}

static void requests_run_in_the_order_of_submission(void **state) {
    (void)state;
    enum { N = 6 };
    struct session session;
    struct answer answers[N];
    struct gate gate = {.passed = false};
    const struct engine_overrides overrides = {.hooks = {.chunk = wait_at_gate, .user = &gate}};
    struct l4_engine_options options = options_for(DEMO);
    struct l4_err err;
    memset(answers, 0, sizeof answers);
    options.max_running = 1;
    assert_int_equal(sem_init(&gate.open, 0, 0), 0);
    assert_int_equal(session_open(&session, &options, &overrides, &err), 0);
    for (int i = 0; i < N; i++) {
        struct l4_request request = plain(3, &answers[i]);
        submit(&session, &request);
    }
    sem_post(&gate.open);
    for (int i = 0; i < N; i++)
        wait_for(&session, &answers[i]);
    for (int i = 1; i < N; i++)
        assert_true(answers[i].place > answers[i - 1].place);
    for (int i = 0; i < N; i++)
        answer_free(&answers[i]);
    session_close(&session);
    sem_destroy(&gate.open);
}

static void draining_finishes_what_runs(void **state) {
    (void)state;
    struct session session;
    struct answer answer = {0};
    struct l4_err err;
    uint64_t id;
    open_session(&session, options_for(DEMO));
    struct l4_request request = plain(50, &answer);
    submit(&session, &request);
    l4_engine_drain(session.engine);
    assert_int_equal(l4_engine_submit(session.engine, &request, &id, &err), L4_E_SHUTDOWN);
    wait_for(&session, &answer);
    assert_int_equal(answer.ids.len, 50);
    answer_free(&answer);
    session_close(&session);
}

static void closing_drops_what_runs(void **state) {
    (void)state;
    struct session session;
    struct answer answer = {0};
    struct l4_engine_options options = options_for(DEMO);
    options.max_running = 2;
    open_session(&session, options);
    for (int i = 0; i < 6; i++) {
        struct l4_request request = plain(-1, &answer);
        submit(&session, &request);
    }
    session_wait(&session, take_event);
    session_close(&session);
    answer.n_ends = 0;
    answer_free(&answer);
    l4_engine_close(NULL);
}

struct caller {
    struct l4_engine *engine;
    atomic_int *n_accepted;
    struct answer *answers; /* [10] */
    int seed;
};

static void *call(void *arg) {
    struct caller *caller = arg;
    for (int i = 0; i < 10; i++) {
        uint64_t id;
        struct l4_engine_stats stats;
        struct l4_request request = plain(1 + (i * 7 + caller->seed) % 20, &caller->answers[i]);
        if (l4_engine_submit(caller->engine, &request, &id, NULL) != 0)
            continue;
        atomic_fetch_add(caller->n_accepted, 1);
        if (i % 3 == 0)
            l4_engine_cancel(caller->engine, id);
        l4_engine_stats(caller->engine, &stats);
    }
    return NULL;
}

static void any_thread_may_submit_and_cancel(void **state) {
    (void)state;
    enum { N = 4 };
    struct session session;
    static struct answer answers[N][10];
    struct caller callers[N];
    pthread_t threads[N];
    atomic_int n_accepted = 0;
    int n_ended = 0;
    open_session(&session, options_for(SCOUT));
    for (int i = 0; i < N; i++) {
        callers[i] = (struct caller){session.engine, &n_accepted, answers[i], i};
        assert_int_equal(pthread_create(&threads[i], NULL, call, &callers[i]), 0);
    }
    for (int i = 0; i < N; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(atomic_load(&n_accepted), N * 10);
    while (n_ended < N * 10) {
        session_wait(&session, take_event);
        n_ended = 0;
        for (int i = 0; i < N * 10; i++)
            n_ended += answers[i / 10][i % 10].n_ends;
    }
    for (int i = 0; i < N * 10; i++)
        answer_free(&answers[i / 10][i % 10]);
    session_close(&session);
}

/* ---- waking and sleeping -------------------------------------------------------------------------------------- */

static void count_wakeup(void *user) {
    atomic_fetch_add((atomic_int *)user, 1);
}

static void wait_until_idle(struct l4_engine *engine) {
    struct l4_engine_stats stats;
    do {
        nanosleep(&(struct timespec){0, 1000000}, NULL);
        l4_engine_stats(engine, &stats);
    } while (stats.n_queued + stats.n_running > 0);
}

static void wakeups_are_coalesced(void **state) {
    (void)state;
    struct l4_engine_options options = options_for(DEMO);
    struct l4_engine *engine;
    struct answer answer = {0};
    struct l4_err err;
    uint64_t id;
    atomic_int n_wakeups = 0;
    options.wakeup = count_wakeup;
    options.user = &n_wakeups;
    assert_int_equal(l4_engine_open(&engine, &options, &err), 0);
    struct l4_request request = plain(20, &answer);
    for (int i = 1; i <= 2; i++) {
        assert_int_equal(l4_engine_submit(engine, &request, &id, &err), 0);
        wait_until_idle(engine);
        assert_int_equal(atomic_load(&n_wakeups), i); /* one for 21 events: nobody polled in between */
        int n_events = 0;
        for (struct l4_event *event = l4_engine_poll(engine), *next; event; event = next, n_events++) {
            next = event->next;
            l4_event_free(event);
        }
        assert_int_equal(n_events, 21);
        assert_null(l4_engine_poll(engine));
    }
    l4_engine_close(engine);
}

static double cpu_s(void) {
    struct timespec t;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void idle_engine_uses_no_cpu(void **state) {
    (void)state;
    struct session session;
    struct answer answer = {0};
    open_session(&session, options_for(DEMO));
    struct l4_request request = plain(20, &answer);
    submit(&session, &request);
    wait_for(&session, &answer);
    nanosleep(&(struct timespec){0, 100000000}, NULL); /* the workers stop looking for more */
    double before = cpu_s();
    nanosleep(&(struct timespec){0, 500000000}, NULL);
    assert_true(cpu_s() - before < 0.02); /* of half a second and two threads */
    answer_free(&answer);
    session_close(&session);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_options_are_named),
        cmocka_unit_test(info_tells_what_was_chosen),
        cmocka_unit_test(too_little_memory_is_told_in_numbers),
        cmocka_unit_test(weight_cache_changes_nothing),
        cmocka_unit_test(bf16_activations_without_bf16_weights_are_named),
        cmocka_unit_test(opening_survives_any_failed_allocation),
        cmocka_unit_test(chat_answers),
        cmocka_unit_test(stop_strings_cut_across_tokens),
        cmocka_unit_test(stop_strings_cut_across_preemption),
        cmocka_unit_test(sampling_repeats_with_its_seed),
        cmocka_unit_test(queue_is_bounded),
        cmocka_unit_test(requests_run_in_the_order_of_submission),
        cmocka_unit_test(draining_finishes_what_runs),
        cmocka_unit_test(closing_drops_what_runs),
        cmocka_unit_test(any_thread_may_submit_and_cancel),
        cmocka_unit_test(wakeups_are_coalesced),
        cmocka_unit_test(idle_engine_uses_no_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
