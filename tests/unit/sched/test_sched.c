/* The scheduler over a fake model and a fake clock: who runs when, what happens when pages or memory run out, and that
 * none of it shows in the answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/kernels/kernels.h"
#include "core/sched/sched.h"
#include "core/sched/sched_internal.h"
#include "tests/lib/failmalloc.h"
#include "tests/lib/fake_model.h"

enum { VOCAB = 50, CONTEXT = 1024, CHUNK = 64, MAX_REQUESTS = 80, END_ID = 7 };

/* What a request was told. */
struct answer {
    atomic_bool cancelled;
    int32_t ids[CONTEXT];
    float logprobs[CONTEXT];
    int n_ids;
    int32_t prompt_ids[CONTEXT];
    int n_prompt_events;
    int n_ends;
    bool failed;
    enum l4_finish finish;
    int32_t stop_token;
    int ended_at, first_at; /* steps */
    struct l4_event last;
};

struct rig {
    struct model_config config;
    struct fake_model model;
    struct kv_pool *kv;
    struct sched *sched;
    int32_t end_id;
    int n_steps;
    struct answer answers[MAX_REQUESTS];
    int n_answers;
};

struct setup {
    int max_running;
    int64_t n_pages; /* 0 = plenty */
    int32_t max_chunk;
    double max_step_s;
    struct sched_hooks hooks;
};

static void rig_open(struct rig *b, const struct setup *setup) {
    memset(b, 0, sizeof *b);
    fake_model_config(&b->config, VOCAB, CONTEXT, CHUNK);
    b->model = (struct fake_model){.config = &b->config, .step_s = 0.001, .decode_s = 0.001, .token_s = 0.001};
    b->end_id = END_ID;
    int32_t max_chunk = setup->max_chunk ? setup->max_chunk : 32;
    int64_t n_pages = setup->n_pages ? setup->n_pages : 4096;
    struct l4_err err;
    assert_int_equal(kv_pool_open(&b->kv, &b->config, n_pages, &err), 0);
    struct sched_config config = {
        .model = {fake_model_forward, &b->model},
        .model_config = &b->config,
        .kv = b->kv,
        .kernels = kernels_by_name("ref"),
        .end_ids = &b->end_id,
        .n_end_ids = 1,
        .max_running = setup->max_running ? setup->max_running : 8,
        .max_step_s = setup->max_step_s > 0 ? setup->max_step_s : 1,
        .max_chunk_tokens = max_chunk,
        .now = fake_model_now,
        .now_ctx = &b->model,
        .hooks = setup->hooks,
    };
    assert_int_equal(sched_open(&b->sched, &config, &err), 0);
}

static void rig_close(struct rig *b) {
    sched_close(b->sched);
    assert_int_equal(kv_pool_free_pages(b->kv), kv_pool_total_pages(b->kv));
    kv_pool_close(b->kv);
}

static int open_request(const struct l4_request *from, struct request **request, struct l4_err *err) {
    const struct request_limits limits = {.vocab_size = VOCAB, .max_context_tokens = CONTEXT};
    return request_open(request, from, &limits, err);
}

static struct answer *add(struct rig *b, struct l4_request from) {
    struct answer *answer = &b->answers[b->n_answers];
    struct request *request;
    struct l4_err err = {0};
    from.user = answer;
    int rc = open_request(&from, &request, &err);
    if (rc != 0)
        fail_msg("request_open: %s", err.message);
    request->id = (uint64_t)++b->n_answers;
    request->cancelled = &answer->cancelled;
    request->submitted_s = b->model.clock_s;
    sched_add(b->sched, request);
    return answer;
}

/* A prompt of n tokens that is like no other. */
static struct l4_request prompt_of(int32_t *prompt, int n, int salt, int64_t max_tokens) {
    for (int i = 0; i < n; i++)
        prompt[i] = (i * 7 + salt * 13 + i * i * salt) % VOCAB;
    struct l4_request request = {.prompt = prompt, .n_prompt = (size_t)n, .max_tokens = max_tokens, .ignore_eos = true};
    l4_sampling_init(&request.sampling);
    request.sampling.temperature = 0;
    return request;
}

static struct answer *add_plain(struct rig *b, int n_prompt, int salt, int64_t max_tokens) {
    int32_t prompt[CONTEXT];
    return add(b, prompt_of(prompt, n_prompt, salt, max_tokens));
}

static void take_event(struct rig *b, const struct l4_event *event) {
    struct answer *answer = event->user;
    assert_int_equal(answer->n_ends, 0); /* nothing comes after the last event */
    switch (event->type) {
    case L4_EVENT_PROMPT:
        assert_int_equal(answer->n_ids, 0);
        answer->logprobs[answer->n_prompt_events] = event->token.logprob;
        answer->prompt_ids[answer->n_prompt_events++] = event->token.id;
        break;
    case L4_EVENT_TOKEN:
        if (answer->n_ids == 0)
            answer->first_at = b->n_steps;
        answer->ids[answer->n_ids++] = event->token.id;
        break;
    case L4_EVENT_DONE:
    case L4_EVENT_ERROR:
        answer->failed = event->type == L4_EVENT_ERROR;
        answer->finish = event->finish;
        answer->stop_token = event->stop_token;
        answer->ended_at = b->n_steps;
        answer->last = *event;
        answer->last.text = NULL;
        answer->n_ends++;
        break;
    }
}

static void step(struct rig *b) {
    b->n_steps++;
    sched_step(b->sched);
    for (struct l4_event *event = sched_take_events(b->sched), *next; event; event = next) {
        next = event->next;
        take_event(b, event);
        l4_event_free(event);
    }
}

static void run(struct rig *b) {
    for (int i = 0; sched_busy(b->sched); i++) {
        assert_true(i < 4000); /* it comes to an end */
        step(b);
    }
    for (int i = 0; i < b->n_answers; i++)
        assert_int_equal(b->answers[i].n_ends, 1);
}

/* What greedy decoding of prompt_of(n_prompt, salt) must give. */
static void check_greedy(const struct rig *b, const struct answer *answer, int n_prompt, int salt, int n_answer) {
    int32_t tokens[CONTEXT];
    float logits[VOCAB];
    prompt_of(tokens, n_prompt, salt, n_answer);
    assert_int_equal(answer->n_ids, n_answer);
    for (int i = 0; i < n_answer; i++) {
        fake_model_logits(&b->config, tokens, n_prompt + i, logits);
        int32_t best = 0;
        for (int32_t v = 1; v < VOCAB; v++)
            if (logits[v] > logits[best])
                best = v;
        assert_int_equal(answer->ids[i], best);
        tokens[n_prompt + i] = best;
    }
}

static struct l4_engine_stats stats_of(const struct rig *b) {
    struct l4_engine_stats stats;
    sched_stats(b->sched, &stats);
    return stats;
}

/* ---- one request ---------------------------------------------------------------------------------------------- */

static void one_request_runs_to_its_length(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){0});
    struct answer *answer = add_plain(&b, 100, 1, 20);
    run(&b);
    check_greedy(&b, answer, 100, 1, 20);
    assert_int_equal(answer->finish, L4_FINISH_LENGTH);
    assert_int_equal(answer->last.n_prompt, 100);
    assert_int_equal(answer->last.n_generated, 20);
    assert_int_equal(answer->last.stop_index, -1);
    assert_int_equal(answer->stop_token, -1);
    assert_true(answer->last.prefill_s > 0 && answer->last.decode_s > 0);
    assert_int_equal(stats_of(&b).prompt_tokens, 100);
    assert_int_equal(stats_of(&b).generated_tokens, 20);
    rig_close(&b);
}

static void end_tokens_and_stop_ids_end_the_answer(void **state) {
    (void)state;
    static struct rig b;
    int32_t prompt[8];
    rig_open(&b, &(struct setup){0});
    struct answer *free_running = add_plain(&b, 8, 3, 12);
    run(&b);
    int32_t third = free_running->ids[2];
    struct l4_request request = prompt_of(prompt, 8, 3, 12);
    request.stop_ids = &third;
    request.n_stop_ids = 1;
    struct answer *stopped = add(&b, request);
    request.stop_ids = NULL;
    request.n_stop_ids = 0;
    b.end_id = third; /* now the model's own */
    struct answer *ignored = add(&b, request);
    request.ignore_eos = false;
    struct answer *ended = add(&b, request);
    run(&b);
    for (int i = 0; i < 2; i++) {
        struct answer *answer = i == 0 ? stopped : ended;
        assert_int_equal(answer->finish, L4_FINISH_STOP);
        assert_int_equal(answer->stop_token, third);
        assert_true(answer->n_ids <= 3 && answer->ids[answer->n_ids - 1] == third);
    }
    assert_int_equal(ignored->n_ids, 12);
    rig_close(&b);
}

static void scoring_gives_each_prompt_token_once(void **state) {
    (void)state;
    static struct rig b;
    int32_t prompt[300];
    rig_open(&b, &(struct setup){.max_chunk = 200});
    struct l4_request request = prompt_of(prompt, 300, 5, 0);
    request.prompt_logprobs = true;
    struct answer *answer = add(&b, request);
    request.max_tokens = 3;
    struct answer *and_more = add(&b, request);
    struct answer *plain = add_plain(&b, 300, 5, 0);
    run(&b);
    assert_int_equal(answer->n_prompt_events, 300);
    assert_int_equal(answer->n_ids, 0);
    assert_int_equal(answer->finish, L4_FINISH_LENGTH);
    assert_memory_equal(answer->prompt_ids, prompt, sizeof prompt);
    assert_true(answer->logprobs[0] != answer->logprobs[0]); /* NAN */
    for (int i = 1; i < 300; i++)
        assert_true(answer->logprobs[i] <= 0);
    assert_memory_equal(answer->logprobs, and_more->logprobs, sizeof(float) * 300);
    check_greedy(&b, and_more, 300, 5, 3);
    assert_int_equal(plain->n_prompt_events + plain->n_ids, 0);
    for (int i = 0; i < b.model.n_steps; i++) /* the rows of logits stay within their bound */
        assert_true(b.model.logits[i] <= SCHED_PROMPT_LOGITS_ROWS + 8);
    rig_close(&b);
}

/* ---- order ---------------------------------------------------------------------------------------------------- */

static void first_come_first_served(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){.max_running = 2});
    for (int i = 0; i < 8; i++)
        add_plain(&b, i % 2 ? 5 : 150, i, 10);
    run(&b);
    for (int i = 0; i < 8; i++) {
        check_greedy(&b, &b.answers[i], i % 2 ? 5 : 150, i, 10);
        if (i > 0)
            assert_true(b.answers[i].first_at >= b.answers[i - 1].first_at);
    }
    assert_int_equal(stats_of(&b).preemptions, 0);
    rig_close(&b);
}

static void requests_join_and_leave_between_steps(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){0});
    struct answer *longer = add_plain(&b, 10, 1, 60);
    for (int i = 0; i < 10; i++)
        step(&b);
    struct answer *shorter = add_plain(&b, 10, 2, 5);
    run(&b);
    assert_true(shorter->first_at == 11 && shorter->ended_at == 15);
    assert_int_equal(longer->ended_at, 60); /* never waited */
    check_greedy(&b, longer, 10, 1, 60);
    check_greedy(&b, shorter, 10, 2, 5);
    rig_close(&b);
}

/* A long prompt beside a running stream: every step brings the stream a token and stays below the bound. */
static void long_prompts_do_not_stall_decodes(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){.max_chunk = 512, .max_step_s = 0.1});
    b.model.token_s = 0.005;
    struct answer *stream = add_plain(&b, 4, 1, 200);
    for (int i = 0; i < 5; i++)
        step(&b);
    int before = stream->n_ids, steps = 0, last = b.model.n_steps;
    struct answer *late = add_plain(&b, 800, 2, 1);
    for (; late->n_ends == 0; steps++)
        step(&b);
    assert_int_equal(stream->n_ids - before, steps);
    for (int i = last + 1; i < b.model.n_steps; i++) /* the first one taught it the price */
        assert_true(b.model.seconds[i] <= 0.1);
    assert_in_range(steps, 800 / 19, 800 / 10); /* and the time that is left is used: at best 19 tokens a step */
    run(&b);
    check_greedy(&b, stream, 4, 1, 200);
    check_greedy(&b, late, 800, 2, 1);
    rig_close(&b);
}

static void chunks_are_bounded_when_nothing_decodes(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){.max_chunk = 48, .max_step_s = 1000});
    add_plain(&b, 500, 1, 1);
    add_plain(&b, 100, 2, 1);
    run(&b);
    for (int i = 0; i < b.model.n_steps; i++)
        assert_true(b.model.tokens[i] <= 48 + 1); /* and one that decodes */
    rig_close(&b);
}

/* ---- pages ---------------------------------------------------------------------------------------------------- */

/* Room for one full context and little more: answers that grow push the youngest back, and nothing else changes. */
static void youngest_is_set_back_when_pages_run_out(void **state) {
    (void)state;
    static struct rig b;
    struct model_config config;
    fake_model_config(&config, VOCAB, CONTEXT, CHUNK);
    rig_open(&b, &(struct setup){.max_running = 6, .n_pages = kv_pages_needed(&config, CONTEXT, 32)});
    int32_t prompt[CONTEXT];
    for (int i = 0; i < 6; i++) {
        struct l4_request request = prompt_of(prompt, 20 + i, i + 1, 400);
        request.prompt_logprobs = i % 2 == 1;
        add(&b, request);
    }
    run(&b);
    assert_true(stats_of(&b).preemptions > 0);
    for (int i = 0; i < 6; i++) {
        assert_false(b.answers[i].failed);
        assert_int_equal(b.answers[i].n_prompt_events, i % 2 == 1 ? 20 + i : 0);
        check_greedy(&b, &b.answers[i], 20 + i, i + 1, 400);
        if (i > 0) /* the older ones are never held up by younger ones */
            assert_true(b.answers[i].ended_at >= b.answers[i - 1].ended_at);
    }
    assert_int_equal(stats_of(&b).prompt_tokens, 6 * 20 + 15); /* recomputed ones are not counted twice */
    assert_int_equal(stats_of(&b).generated_tokens, 6 * 400);
    rig_close(&b);
}

static void a_prompt_waits_until_its_pages_are_free(void **state) {
    (void)state;
    static struct rig b;
    struct model_config config;
    fake_model_config(&config, VOCAB, CONTEXT, CHUNK);
    rig_open(&b, &(struct setup){.n_pages = kv_pages_needed(&config, CONTEXT, 32)});
    struct answer *first = add_plain(&b, 900, 1, 50);
    struct answer *second = add_plain(&b, 900, 2, 50);
    struct answer *third = add_plain(&b, 5, 3, 2); /* would fit, but does not overtake */
    run(&b);
    assert_int_equal(stats_of(&b).preemptions, 0);
    assert_true(second->first_at > first->ended_at);
    assert_true(third->first_at >= second->first_at);
    rig_close(&b);
}

/* ---- hooks: any chunks, any setting back ---------------------------------------------------------------------- */

struct chaos {
    unsigned seed;
};

static unsigned chaos_next(struct chaos *chaos) {
    chaos->seed = chaos->seed * 1664525U + 1013904223U;
    return chaos->seed >> 8;
}
static int32_t chaos_chunk(void *user, int32_t planned) {
    return 1 + (int32_t)(chaos_next(user) % (unsigned)planned);
}
static int chaos_preempt(void *user, int n_running) {
    return chaos_next(user) % 5 == 0 ? (int)(chaos_next(user) % (unsigned)(n_running + 1)) : 0;
}

static void chaos_does_not_show(void **state) {
    (void)state;
    static struct rig b;
    struct chaos chaos = {1};
    rig_open(&b, &(struct setup){.max_running = 5, .hooks = {chaos_chunk, chaos_preempt, &chaos}});
    int32_t prompt[CONTEXT];
    for (int i = 0; i < 20; i++) {
        struct l4_request request = prompt_of(prompt, 10 + i * 5, i, 10 + i);
        request.prompt_logprobs = i % 3 == 0;
        add(&b, request);
        step(&b);
    }
    run(&b);
    assert_true(stats_of(&b).preemptions > 20);
    for (int i = 0; i < 20; i++) {
        check_greedy(&b, &b.answers[i], 10 + i * 5, i, 10 + i);
        assert_int_equal(b.answers[i].n_prompt_events, i % 3 == 0 ? 10 + i * 5 : 0);
    }
    rig_close(&b);
}

/* ---- cancel --------------------------------------------------------------------------------------------------- */

static void cancel_works_in_every_state(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){.max_running = 2, .max_chunk = 16});
    struct answer *decoding = add_plain(&b, 5, 1, 500);
    struct answer *prefilling = add_plain(&b, 900, 2, 5);
    struct answer *queued = add_plain(&b, 5, 3, 5);
    struct answer *next = add_plain(&b, 5, 4, 5);
    step(&b);
    step(&b);
    assert_true(decoding->n_ids > 0 && prefilling->n_ids == 0 && queued->n_ids == 0);
    int64_t used = stats_of(&b).kv_pages_used;
    atomic_store(&queued->cancelled, true);
    step(&b);
    assert_true(queued->n_ends == 1 && queued->finish == L4_FINISH_CANCELLED);
    assert_int_equal(stats_of(&b).n_queued, 1);
    atomic_store(&prefilling->cancelled, true);
    atomic_store(&decoding->cancelled, true);
    step(&b); /* frees all within one step, and starts the next in it */
    assert_true(prefilling->finish == L4_FINISH_CANCELLED && decoding->finish == L4_FINISH_CANCELLED);
    assert_int_equal(prefilling->n_ends + decoding->n_ends, 2);
    assert_true(stats_of(&b).kv_pages_used < used);
    assert_int_equal(next->n_ids, 1);
    run(&b);
    check_greedy(&b, next, 5, 4, 5);
    rig_close(&b);
}

static void cancel_while_set_back(void **state) {
    (void)state;
    static struct rig b;
    struct model_config config;
    fake_model_config(&config, VOCAB, CONTEXT, CHUNK);
    rig_open(&b, &(struct setup){.max_running = 2, .n_pages = kv_pages_needed(&config, CONTEXT, 32)});
    struct answer *older = add_plain(&b, 300, 1, 700), *younger = add_plain(&b, 300, 2, 700);
    while (stats_of(&b).preemptions == 0)
        step(&b);
    atomic_store(&younger->cancelled, true);
    step(&b);
    assert_true(younger->n_ends == 1 && younger->finish == L4_FINISH_CANCELLED && younger->n_ids > 0);
    run(&b);
    check_greedy(&b, older, 300, 1, 700);
    rig_close(&b);
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

static void steps_too_large_for_memory_are_made_smaller(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){.max_running = 8, .max_chunk = 64});
    b.model.max_step_tokens = 3;
    for (int i = 0; i < 8; i++)
        add_plain(&b, 30 + i, i, 10);
    run(&b);
    for (int i = 0; i < 8; i++)
        check_greedy(&b, &b.answers[i], 30 + i, i, 10);
    rig_close(&b);
}

static void a_failing_model_ends_requests_with_its_error(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){0});
    struct answer *first = add_plain(&b, 5, 1, 5), *second = add_plain(&b, 5, 2, 5);
    b.model.fail_code = L4_E_INTERNAL;
    run(&b);
    assert_true(first->failed && second->failed);
    assert_int_equal(first->last.error.code, L4_E_INTERNAL);
    b.model.fail_code = L4_E_NOMEM; /* not even one token */
    struct answer *third = add_plain(&b, 5, 3, 5);
    run(&b);
    assert_true(third->failed);
    assert_int_equal(third->last.error.code, L4_E_NOMEM);
    b.model.fail_code = 0; /* and it goes on */
    struct answer *fourth = add_plain(&b, 5, 4, 5);
    run(&b);
    check_greedy(&b, fourth, 5, 4, 5);
    rig_close(&b);
}

static struct l4_request demanding(int32_t *prompt, const struct l4_logit_bias *bias) {
    struct l4_request request = prompt_of(prompt, 40, 9, 12);
    request.sampling.repetition_penalty = 1.1F;
    request.sampling.logit_bias = bias;
    request.sampling.n_logit_bias = 1;
    request.logprobs = request.prompt_logprobs = true;
    request.n_top_logprobs = 3;
    request.stop_ids = &bias->id;
    request.n_stop_ids = 1;
    return request;
}

/* Whatever allocation fails, each request that was taken gets exactly one last event, and right answers stay right. */
static void any_allocation_may_fail(void **state) {
    (void)state;
    static struct rig b;
    int32_t prompt[CONTEXT];
    const struct l4_logit_bias bias = {3, -100};
    int n_errors = 0;
    bool failed = true;
    for (size_t n = 1; failed; n++) {
        rig_open(&b, &(struct setup){.max_chunk = 16});
        failmalloc_arm(n);
        for (int i = 0; i < 2; i++) {
            struct l4_request from = i == 0 ? demanding(prompt, &bias) : prompt_of(prompt, 40, 9, 12);
            struct answer *answer = &b.answers[b.n_answers];
            struct request *request;
            from.user = answer;
            if (open_request(&from, &request, NULL) != 0)
                continue;
            request->cancelled = &answer->cancelled;
            b.n_answers++;
            sched_add(b.sched, request);
        }
        run(&b);
        failed = failmalloc_disarm();
        for (int i = 0; i < b.n_answers; i++) {
            n_errors += b.answers[i].failed;
            if (b.answers[i].failed)
                assert_int_equal(b.answers[i].last.error.code, L4_E_NOMEM);
            else
                assert_int_equal(b.answers[i].n_ids, 12);
        }
        rig_close(&b);
    }
    assert_true(n_errors > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_request_runs_to_its_length),
        cmocka_unit_test(end_tokens_and_stop_ids_end_the_answer),
        cmocka_unit_test(scoring_gives_each_prompt_token_once),
        cmocka_unit_test(first_come_first_served),
        cmocka_unit_test(requests_join_and_leave_between_steps),
        cmocka_unit_test(long_prompts_do_not_stall_decodes),
        cmocka_unit_test(chunks_are_bounded_when_nothing_decodes),
        cmocka_unit_test(youngest_is_set_back_when_pages_run_out),
        cmocka_unit_test(a_prompt_waits_until_its_pages_are_free),
        cmocka_unit_test(chaos_does_not_show),
        cmocka_unit_test(cancel_works_in_every_state),
        cmocka_unit_test(cancel_while_set_back),
        cmocka_unit_test(steps_too_large_for_memory_are_made_smaller),
        cmocka_unit_test(a_failing_model_ends_requests_with_its_error),
        cmocka_unit_test(any_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
