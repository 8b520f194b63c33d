/* Embeddings over a fake model: the mean over all tokens, once each, whatever the scheduler does with them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "core/sched/sched_internal.h"
#include "tests/lib/failmalloc.h"
#include "tests/lib/sched_rig.h"

static struct l4_request embedding_of(int32_t *prompt, int n, int salt) {
    struct l4_request request = prompt_of(prompt, n, salt, -1);
    request.embed = true;
    return request;
}

static struct answer *add_embedding(struct rig *b, int n, int salt) {
    int32_t prompt[CONTEXT];
    return add(b, embedding_of(prompt, n, salt));
}

static void check_embedding(const struct rig *b, const struct answer *answer, int n, int salt) {
    int32_t prompt[CONTEXT];
    double sum[FAKE_MODEL_HIDDEN] = {0}, square = 0;
    prompt_of(prompt, n, salt, 0);
    for (int t = 1; t <= n; t++) {
        float hidden[FAKE_MODEL_HIDDEN];
        fake_model_hidden(&b->config, prompt, t, hidden);
        for (int i = 0; i < FAKE_MODEL_HIDDEN; i++)
            sum[i] += (double)hidden[i];
    }
    for (int i = 0; i < FAKE_MODEL_HIDDEN; i++)
        square += sum[i] * sum[i];
    assert_int_equal(answer->n_embeddings, 1);
    for (int i = 0; i < FAKE_MODEL_HIDDEN; i++)
        assert_true(answer->embedding[i] == (float)(sum[i] / sqrt(square)));
    assert_false(answer->failed);
    assert_int_equal(answer->n_ids + answer->n_prompt_events, 0);
    assert_int_equal(answer->finish, L4_FINISH_STOP);
    assert_int_equal(answer->last.n_prompt, n);
    assert_int_equal(answer->last.n_generated, 0);
    assert_int_equal(answer->last.n_cached, 0);
}

static void one_prompt_in_chunks(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){.max_chunk = 48});
    struct answer *answer = add_embedding(&b, 500, 1), *shortest = add_embedding(&b, 1, 2);
    run(&b);
    check_embedding(&b, answer, 500, 1);
    check_embedding(&b, shortest, 1, 2);
    assert_in_range(b.model.n_steps, 500 / 48, 500 / 48 + 2);
    for (int i = 0; i < b.model.n_steps; i++)
        assert_int_equal(b.model.logits[i], 0);
    assert_int_equal(stats_of(&b).prompt_tokens, 501);
    assert_int_equal(stats_of(&b).generated_tokens, 0);
    rig_close(&b);
}

/* The fields of an answer do not matter; the prompt may fill the context. */
static void what_counts_is_the_prompt(void **state) {
    (void)state;
    static struct rig b;
    int32_t prompt[CONTEXT + 1];
    struct request *refused;
    struct l4_err err = {0};
    rig_open(&b, &(struct setup){0});
    struct l4_request request = embedding_of(prompt, CONTEXT, 3);
    request.max_tokens = 100;
    request.prompt_logprobs = request.logprobs = true;
    request.sampling.repetition_penalty = 1.5F;
    struct answer *answer = add(&b, request);
    request.n_prompt = 0;
    assert_int_equal(rig_request(&request, &refused, &err), L4_E_INVALID);
    request.n_prompt = CONTEXT + 1;
    assert_int_equal(rig_request(&request, &refused, &err), L4_E_CONTEXT_LENGTH);
    assert_string_equal(err.message, "1025 tokens do not fit: this server's context is 1024 tokens");
    run(&b);
    check_embedding(&b, answer, CONTEXT, 3);
    rig_close(&b);
}

/* The same prompt is in the cache, and all of it is computed all the same; nor does it leave anything there. */
static void cached_tokens_are_computed_again(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){0});
    add_plain(&b, 400, 5, 3);
    run(&b);
    int64_t cached = stats_of(&b).kv_pages_cached;
    assert_int_equal(cached > 0, rig_prefix_cache);
    struct answer *answer = add_embedding(&b, 400, 5), *other = add_embedding(&b, 300, 6);
    run(&b);
    check_embedding(&b, answer, 400, 5);
    check_embedding(&b, other, 300, 6);
    assert_int_equal(stats_of(&b).kv_pages_cached, cached);
    assert_int_equal(stats_of(&b).prefix_hits, 0);
    rig_close(&b);
}

static void beside_running_answers(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){.max_step_s = 0.02});
    struct answer *stream = add_plain(&b, 10, 1, 60);
    for (int i = 0; i < 5; i++)
        step(&b);
    struct answer *answer = add_embedding(&b, 300, 2);
    while (answer->n_ends == 0)
        step(&b);
    assert_true(stream->n_ids > 20 && stream->n_ends == 0); /* a token in every one of those steps */
    assert_int_equal(stream->n_ids, b.n_steps);
    run(&b);
    check_embedding(&b, answer, 300, 2);
    check_greedy(&b, stream, 10, 1, 60);
    rig_close(&b);
}

static void chaos_does_not_show(void **state) {
    (void)state;
    static struct rig b;
    struct chaos chaos = {1};
    rig_open(&b, &(struct setup){.max_running = 5, .hooks = {chaos_chunk, chaos_preempt, &chaos}});
    for (int i = 0; i < 20; i++) {
        if (i % 2)
            add_embedding(&b, 10 + i * 5, i % 5);
        else
            add_plain(&b, 10 + i * 5, i % 5, 10);
        step(&b);
    }
    run(&b);
    assert_true(stats_of(&b).preemptions > 10);
    for (int i = 0; i < 20; i++)
        if (i % 2)
            check_embedding(&b, &b.answers[i], 10 + i * 5, i % 5);
        else
            check_greedy(&b, &b.answers[i], 10 + i * 5, i % 5, 10);
    rig_close(&b);
}

/* An older answer grows until there are no pages left for the embedding beside it, which begins again. */
static void sums_begin_again_when_set_back(void **state) {
    (void)state;
    static struct rig b;
    struct model_config config;
    fake_model_config(&config, VOCAB, CONTEXT, CHUNK);
    rig_open(&b, &(struct setup){.max_running = 2, .max_chunk = 1, .n_pages = kv_pages_needed(&config, CONTEXT, 1)});
    struct answer *older = add_plain(&b, 20, 1, 1000), *answer = add_embedding(&b, 500, 2);
    run(&b);
    assert_true(stats_of(&b).preemptions > 0);
    check_embedding(&b, answer, 500, 2);
    check_greedy(&b, older, 20, 1, 1000);
    assert_int_equal(stats_of(&b).prompt_tokens, 520); /* recomputed ones are not counted twice */
    rig_close(&b);
}

static void steps_too_large_for_memory_are_made_smaller(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){.max_chunk = 64});
    b.model.max_step_tokens = 3;
    for (int i = 0; i < 4; i++)
        add_embedding(&b, 30 + i, i);
    run(&b);
    for (int i = 0; i < 4; i++)
        check_embedding(&b, &b.answers[i], 30 + i, i);
    rig_close(&b);
}

static void any_allocation_may_fail(void **state) {
    (void)state;
    static struct rig b;
    int32_t prompt[CONTEXT];
    int n_errors = 0;
    bool failed = true;
    for (size_t n = 1; failed; n++) {
        struct request *request;
        struct l4_request from = embedding_of(prompt, 140, 9);
        rig_open(&b, &(struct setup){.max_chunk = 70});
        from.user = &b.answers[0];
        failmalloc_arm(n);
        if (rig_request(&from, &request, NULL) == 0) {
            request->cancelled = &b.answers[0].cancelled;
            b.n_answers++;
            sched_add(b.sched, request);
            run(&b);
        }
        failed = failmalloc_disarm();
        if (b.n_answers > 0 && b.answers[0].failed) {
            n_errors++;
            assert_int_equal(b.answers[0].last.error.code, L4_E_NOMEM);
        } else if (b.n_answers > 0) {
            check_embedding(&b, &b.answers[0], 140, 9);
        }
        rig_close(&b);
    }
    assert_true(n_errors >= 3); /* the sum, the event, the vector */
}

int main(void) {
    const struct CMUnitTest both[] = {
        cmocka_unit_test(one_prompt_in_chunks),
        cmocka_unit_test(what_counts_is_the_prompt),
        cmocka_unit_test(cached_tokens_are_computed_again),
        cmocka_unit_test(beside_running_answers),
        cmocka_unit_test(chaos_does_not_show),
        cmocka_unit_test(sums_begin_again_when_set_back),
        cmocka_unit_test(steps_too_large_for_memory_are_made_smaller),
        cmocka_unit_test(any_allocation_may_fail),
    };
    int n_failed = cmocka_run_group_tests_name("without a prefix cache", both, NULL, NULL);
    rig_prefix_cache = true;
    return n_failed + cmocka_run_group_tests_name("with a prefix cache", both, NULL, NULL);
}
