/* The scheduler over a fake model and a fake clock: who runs when, what happens when pages or memory run out, and that
 * none of it shows in the answers.  All of it runs with a prefix cache and without one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/sched/sched_internal.h"
#include "tests/lib/failmalloc.h"
#include "tests/lib/sched_rig.h"

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
    struct l4_request request = prompt_of(prompt, 140, 9, 12);
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
        rig_open(&b, &(struct setup){.max_chunk = 70});
        failmalloc_arm(n);
        for (int i = 0; i < 2; i++) {
            struct l4_request from = i == 0 ? demanding(prompt, &bias) : prompt_of(prompt, 140, 9, 12);
            struct answer *answer = &b.answers[b.n_answers];
            struct request *request;
            from.user = answer;
            if (rig_request(&from, &request, NULL) != 0)
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
    const struct CMUnitTest both[] = {
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
    int n_failed = cmocka_run_group_tests_name("without a prefix cache", both, NULL, NULL);
    rig_prefix_cache = true;
    return n_failed + cmocka_run_group_tests_name("with a prefix cache", both, NULL, NULL);
}
