/* Tokens a second through the engine's public API: one stream, sixteen, and a long prompt.
 *
 *   bench_engine [MODEL [THREADS]]          the demo model, two threads
 *
 * Prints the median of RUNS runs and the range; the three kinds take turns, so that a slow moment hits all of them. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "llama4/engine.h"
#include "tests/lib/session.h"

enum { RUNS = 9, PROMPT_TOKENS = 16, ANSWER_TOKENS = 256, LONG_PROMPT_TOKENS = 2048, MANY_STREAMS = 16 };

static _Noreturn void fail(const char *what, const char *why) {
    fprintf(stderr, "bench_engine: %s: %s\n", what, why);
    exit(1);
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* What has come back since the last look. */
struct seen {
    double first_s, end_s; /* when the first token came, when the last request ended */
    int n_ended;
};

static void submit(struct l4_engine *engine, int32_t n_prompt, int32_t n_answer, unsigned seed, struct seen *seen) {
    int32_t prompt[LONG_PROMPT_TOKENS];
    struct l4_engine_info info;
    l4_engine_info(engine, &info);
    prompt[0] = l4_tokenizer_bos(l4_engine_tokenizer(engine));
    for (int32_t i = 1; i < n_prompt; i++) {
        seed = seed * 1664525U + 1013904223U;
        prompt[i] = (int32_t)((seed >> 8) % (unsigned)(info.vocab_size / 2));
    }
    struct l4_request request = {
        .prompt = prompt, .n_prompt = (size_t)n_prompt, .max_tokens = n_answer, .ignore_eos = true, .user = seen};
    l4_sampling_init(&request.sampling);
    request.sampling.temperature = 0;
    uint64_t id;
    struct l4_err err;
    if (l4_engine_submit(engine, &request, &id, &err) != 0)
        fail("submit", err.message);
}

static void take_event(void *user, const struct l4_event *event) {
    struct seen *seen = user;
    if (event->type == L4_EVENT_ERROR)
        fail("request", event->error.message);
    if (event->type == L4_EVENT_TOKEN && seen->first_s == 0)
        seen->first_s = now_s();
    if (event->type == L4_EVENT_DONE) {
        seen->n_ended++;
        seen->end_s = now_s();
    }
}

/* Tokens a second of n_streams answers, from the first token on. */
static double decode_rate(struct session *session, int n_streams) {
    struct seen seen = {0};
    for (int i = 0; i < n_streams; i++)
        submit(session->engine, PROMPT_TOKENS, ANSWER_TOKENS, (unsigned)i + 1, &seen);
    while (seen.n_ended < n_streams)
        session_wait(session, take_event);
    return n_streams * (ANSWER_TOKENS - 1) / (seen.end_s - seen.first_s);
}

static double prefill_rate(struct session *session) {
    struct seen seen = {0};
    double start_s = now_s();
    submit(session->engine, LONG_PROMPT_TOKENS, 1, 1, &seen);
    while (seen.n_ended < 1)
        session_wait(session, take_event);
    return LONG_PROMPT_TOKENS / (seen.first_s - start_s);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const char *what, double *rates) {
    qsort(rates, RUNS, sizeof *rates, by_value);
    printf("%-28s %8.0f tokens/s   (%.0f to %.0f in %d runs)\n", what, rates[RUNS / 2], rates[0], rates[RUNS - 1],
           (int)RUNS);
}

int main(int argc, char **argv) {
    struct l4_engine_options options;
    struct session session;
    struct l4_err err;
    l4_engine_options_init(&options);
    options.model = argc > 1 ? argv[1] : "tests/models/demo";
    options.prefix_cache = false; /* each run computes the same prompts */
    options.threads = argc > 2 ? atoi(argv[2]) : 2;
    if (session_open(&session, &options, NULL, &err) != 0)
        fail(options.model, err.message);
    struct l4_engine_info info;
    l4_engine_info(session.engine, &info);
    if (!l4_engine_tokenizer(session.engine) || info.max_context_tokens < LONG_PROMPT_TOKENS + 1)
        fail(options.model, "needs a tokenizer and a context of 2049 tokens");
    printf("engine: %s, %s, %d threads, kernels %s, activations %s, experts %s, gemm %s\n", info.name,
           info.quantization, info.threads, info.cpu_kernels, info.activations, info.experts_implementation, info.gemm);
    double one[RUNS], many[RUNS], prefill[RUNS];
    decode_rate(&session, 1); /* pages in, clocks up */
    for (int i = 0; i < RUNS; i++) {
        one[i] = decode_rate(&session, 1);
        many[i] = decode_rate(&session, MANY_STREAMS);
        prefill[i] = prefill_rate(&session);
    }
    print("decode, 1 stream", one);
    print("decode, 16 streams in total", many);
    print("prefill, 2048 tokens", prefill);
    session_close(&session);
    return 0;
}
