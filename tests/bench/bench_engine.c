/* Tokens a second through the engine's public API: one stream, sixteen, and a long prompt.
 *
 *   bench_engine [MODEL [THREADS]]          the demo model, two threads
 *
 * Prints the median of RUNS runs and the range; the three kinds take turns, so that a slow moment hits all of them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "llama4/engine.h"

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

static void on_wakeup(void *user) {
    const uint64_t one = 1;
    if (write(*(const int *)user, &one, sizeof one) < 0 && errno != EAGAIN)
        fail("eventfd", strerror(errno));
}

static void submit(struct l4_engine *engine, int32_t n_prompt, int32_t n_answer, unsigned seed) {
    int32_t prompt[LONG_PROMPT_TOKENS];
    struct l4_engine_info info;
    l4_engine_info(engine, &info);
    prompt[0] = l4_tokenizer_bos(l4_engine_tokenizer(engine));
    for (int32_t i = 1; i < n_prompt; i++) {
        seed = seed * 1664525U + 1013904223U;
        prompt[i] = (int32_t)((seed >> 8) % (unsigned)(info.vocab_size / 2));
    }
    struct l4_request request = {
        .prompt = prompt, .n_prompt = (size_t)n_prompt, .max_tokens = n_answer, .ignore_eos = true};
    l4_sampling_init(&request.sampling);
    request.sampling.temperature = 0;
    uint64_t id;
    struct l4_err err;
    if (l4_engine_submit(engine, &request, &id, &err) != 0)
        fail("submit", err.message);
}

/* Waits until n requests have ended; *first_s is when the first token came, *end_s when the last request ended. */
static void wait_for(struct l4_engine *engine, int wake, int n, double *first_s, double *end_s) {
    *first_s = 0;
    while (n > 0) {
        uint64_t count;
        if (read(wake, &count, sizeof count) < 0 && errno != EINTR)
            fail("eventfd", strerror(errno));
        *end_s = now_s();
        for (struct l4_event *event = l4_engine_poll(engine), *next; event; event = next) {
            next = event->next;
            if (event->type == L4_EVENT_ERROR)
                fail("request", event->error.message);
            if (event->type == L4_EVENT_TOKEN && *first_s == 0)
                *first_s = *end_s;
            if (event->type == L4_EVENT_DONE)
                n--;
            l4_event_free(event);
        }
    }
}

/* Tokens a second of n_streams answers, from the first token on. */
static double decode_rate(struct l4_engine *engine, int wake, int n_streams) {
    double first_s, end_s;
    for (int i = 0; i < n_streams; i++)
        submit(engine, PROMPT_TOKENS, ANSWER_TOKENS, (unsigned)i + 1);
    wait_for(engine, wake, n_streams, &first_s, &end_s);
    return n_streams * (ANSWER_TOKENS - 1) / (end_s - first_s);
}

static double prefill_rate(struct l4_engine *engine, int wake) {
    double first_s, end_s, start_s = now_s();
    submit(engine, LONG_PROMPT_TOKENS, 1, 1);
    wait_for(engine, wake, 1, &first_s, &end_s);
    return LONG_PROMPT_TOKENS / (first_s - start_s);
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
    int wake = eventfd(0, EFD_CLOEXEC);
    struct l4_engine_options options;
    struct l4_engine *engine;
    struct l4_err err;
    l4_engine_options_init(&options);
    options.model = argc > 1 ? argv[1] : "tests/models/demo";
    options.threads = argc > 2 ? atoi(argv[2]) : 2;
    options.wakeup = on_wakeup;
    options.user = &wake;
    if (l4_engine_open(&engine, &options, &err) != 0)
        fail(options.model, err.message);
    struct l4_engine_info info;
    l4_engine_info(engine, &info);
    if (!l4_engine_tokenizer(engine) || info.max_context_tokens < LONG_PROMPT_TOKENS + 1)
        fail(options.model, "needs a tokenizer and a context of 2049 tokens");
    printf("engine: %s, %s, %d threads, kernels %s, experts %s, gemm %s\n", info.name, info.quantization, info.threads,
           info.cpu_kernels, info.experts_implementation, info.gemm);
    double one[RUNS], many[RUNS], prefill[RUNS];
    decode_rate(engine, wake, 1); /* pages in, clocks up */
    for (int i = 0; i < RUNS; i++) {
        one[i] = decode_rate(engine, wake, 1);
        many[i] = decode_rate(engine, wake, MANY_STREAMS);
        prefill[i] = prefill_rate(engine, wake);
    }
    print("decode, 1 stream", one);
    print("decode, 16 streams in total", many);
    print("prefill, 2048 tokens", prefill);
    l4_engine_close(engine);
    close(wake);
    return 0;
}
