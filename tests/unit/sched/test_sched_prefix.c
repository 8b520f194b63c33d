/* The scheduler with a prefix cache: what is computed and what is not, and that it does not show in the answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/sched_rig.h"

enum { P = KV_PAGE_TOKENS };

/* Tokens that went through the model so far. */
static int64_t computed(const struct rig *b) {
    int64_t n = 0;
    for (int i = 0; i < b->model.n_steps; i++)
        n += b->model.tokens[i];
    return n;
}

static void cache_repeated_prompts(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){0});
    static const struct {
        int n_prompt, want_cached;
    } cases[] = {{3 * P + 10, 0}, {3 * P + 10, 3 * P}, {3 * P + 1, 3 * P}, {3 * P, 2 * P}, {P, 0},
                 {9, 0},          {8 * P, 3 * P}};
    int64_t n_prompt = 0, n_cached = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t before = computed(&b);
        struct answer *answer = add_plain(&b, cases[i].n_prompt, 0, 5);
        run(&b);
        check_greedy(&b, answer, cases[i].n_prompt, 0, 5);
        assert_int_equal(answer->last.n_prompt, cases[i].n_prompt);
        assert_int_equal(answer->last.n_cached, cases[i].want_cached);
        assert_int_equal(computed(&b) - before, cases[i].n_prompt - cases[i].want_cached + 4);
        n_prompt += cases[i].n_prompt;
        n_cached += cases[i].want_cached;
    }
    assert_int_equal(stats_of(&b).prompt_tokens, n_prompt);
    assert_int_equal(stats_of(&b).prefix_hit_tokens, n_cached);
    assert_int_equal(stats_of(&b).prefix_lookups, 7);
    assert_int_equal(stats_of(&b).prefix_hits, 4);
    assert_int_equal(stats_of(&b).kv_pages_used, 0);
    assert_int_equal(stats_of(&b).kv_pages_cached, 8 * 2);
    rig_close(&b);
}

/* Each turn's prompt is all that was said before, the answers included, and a little more: answers are cached, too. */
static void cache_a_growing_chat(void **state) {
    (void)state;
    static const int64_t chunks[] = {16, P, 100, 3 * P, 8192};
    for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) {
        static struct rig b;
        rig_open(&b, &(struct setup){.chunk = chunks[c]});
        int32_t chat[CONTEXT];
        int n = 0;
        for (int turn = 0; turn < 8; turn++) {
            int n_before = n;
            for (int i = 0; i < 20 + turn; i++)
                chat[n++] = (turn * 5 + i) % VOCAB;
            struct l4_request request = {.prompt = chat, .n_prompt = (size_t)n, .max_tokens = 70, .ignore_eos = true};
            l4_sampling_init(&request.sampling);
            request.sampling.temperature = 0;
            struct answer *answer = add(&b, request);
            run(&b);
            assert_int_equal(answer->n_ids, 70);
            /* all full pages of the last turn, whose very last token was never computed */
            assert_int_equal(answer->last.n_cached, n_before > 0 ? (n_before - 1) / P * P : 0);
            memcpy(chat + n, answer->ids, 70 * sizeof *chat);
            n += 70;
        }
        rig_close(&b);
    }
}

static void cache_keeps_salts_apart(void **state) {
    (void)state;
    static struct rig b;
    int32_t prompt[CONTEXT];
    rig_open(&b, &(struct setup){0});
    const char *const salts[] = {NULL, "one", "two", "tw", "", "one"};
    static const int64_t cached[] = {0, 0, 0, 0, 4 * P, 4 * P};
    for (int i = 0; i < 6; i++) {
        struct l4_request request = prompt_of(prompt, 4 * P + 1, 1, 3);
        request.salt = salts[i];
        struct answer *answer = add(&b, request);
        run(&b);
        assert_int_equal(answer->last.n_cached, cached[i]);
        check_greedy(&b, answer, 4 * P + 1, 1, 3);
    }
    for (int i = 0; i < 2; i++) { /* and who wants none of it neither finds nor leaves anything */
        struct l4_request request = prompt_of(prompt, 4 * P + 1, 1 + i, 3);
        request.no_prefix_cache = true;
        assert_int_equal((add(&b, request), run(&b), b.answers[b.n_answers - 1].last.n_cached), 0);
    }
    add_plain(&b, 4 * P + 1, 2, 3);
    run(&b);
    assert_int_equal(b.answers[b.n_answers - 1].last.n_cached, 0);
    assert_int_equal(stats_of(&b).prefix_lookups, 7);
    rig_close(&b);
}

/* The same prompt several times at once (n choices): while the first is computed the others wait, and then use it. */
static void cache_the_same_prompt_at_once(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){.max_chunk = 50});
    for (int i = 0; i < 4; i++)
        add_plain(&b, 6 * P + 3, 1, 5);
    run(&b);
    int64_t n_cached = 0;
    for (int i = 0; i < 4; i++) {
        check_greedy(&b, &b.answers[i], 6 * P + 3, 1, 5);
        n_cached += b.answers[i].last.n_cached;
    }
    assert_true(n_cached >= 3 * 5 * P);
    assert_int_equal(computed(&b), 4 * (6 * P + 3 + 4) - n_cached);
    assert_int_equal(stats_of(&b).prefix_hit_tokens, n_cached);
    rig_close(&b);
}

/* A cache that holds all pages is as good as an empty one: a request that finds nothing in it starts at once. */
static void cached_pages_make_nobody_wait(void **state) {
    (void)state;
    static struct rig b;
    struct model_config config;
    fake_model_config(&config, VOCAB, CONTEXT, CHUNK);
    rig_open(&b, &(struct setup){.max_chunk = 512, .n_pages = kv_pages_needed(&config, CONTEXT, 512)});
    int64_t n_pages = kv_pool_total_pages(b.kv);
    int32_t prompt[CONTEXT];
    struct l4_request request = prompt_of(prompt, 900, 0, 10);
    request.no_prefix_cache = true;
    add(&b, request); /* teaches the scheduler what a step costs, and leaves nothing */
    run(&b);
    assert_int_equal(stats_of(&b).kv_pages_cached, 0);
    int n_steps = 0, n_steps_beside = 0;
    for (int i = 1; i <= 4; i++) {
        int before = b.n_steps;
        struct answer *answer = add_plain(&b, 900, i, 10), *beside = add_plain(&b, 30, i + 10, 10);
        run(&b);
        if (i == 1) {
            n_steps = answer->first_at - before;
            n_steps_beside = beside->first_at - before;
        }
        assert_int_equal(answer->first_at - before, n_steps);
        assert_int_equal(beside->first_at - before, n_steps_beside);
        assert_int_equal(answer->last.n_cached, 0);
        check_greedy(&b, answer, 900, i, 10);
        assert_true(stats_of(&b).kv_pages_cached > 14 && stats_of(&b).kv_pages_cached <= n_pages);
    }
    assert_int_equal(stats_of(&b).preemptions, 0);
    assert_true(stats_of(&b).prefix_evicted_pages > 3 * 14);
    struct answer *last = add_plain(&b, 900, 4, 10); /* the last one is still there */
    run(&b);
    assert_int_equal(last->last.n_cached, 14 * P);
    rig_close(&b);
}

/* What is shared takes pages once, so more fit together. */
static void cache_makes_room_for_more(void **state) {
    (void)state;
    static struct rig b;
    struct model_config config;
    fake_model_config(&config, VOCAB, CONTEXT, CHUNK);
    rig_open(&b, &(struct setup){.n_pages = kv_pages_needed(&config, CONTEXT, 32) + 6});
    add_plain(&b, 700, 0, 1);
    run(&b);
    struct answer *first = add_plain(&b, 700, 0, 10), *second = add_plain(&b, 700, 0, 10);
    step(&b);
    assert_int_equal(stats_of(&b).n_running, 2);
    run(&b);
    assert_int_equal(first->last.n_cached + second->last.n_cached, 2 * 10 * P);
    assert_int_equal(stats_of(&b).preemptions, 0);
    rig_close(&b);
}

static void cancelled_requests_leave_their_pages(void **state) {
    (void)state;
    static struct rig b;
    rig_open(&b, &(struct setup){.max_chunk = 2 * P});
    struct answer *cancelled = add_plain(&b, 8 * P, 1, 5);
    while (computed(&b) < 3 * P)
        step(&b);
    int64_t n = computed(&b);
    assert_int_equal(cancelled->n_ids, 0);
    atomic_store(&cancelled->cancelled, true);
    step(&b);
    assert_int_equal(cancelled->finish, L4_FINISH_CANCELLED);
    struct answer *next = add_plain(&b, 8 * P, 1, 5);
    run(&b);
    assert_int_equal(next->last.n_cached, n / P * P);
    check_greedy(&b, next, 8 * P, 1, 5);
    rig_close(&b);
}

static int preempt_once(void *user, int n_running) {
    int *until = user;
    return (*until)-- == 0 ? n_running : 0;
}

/* It goes on from its own pages, which is no hit: it never was computed by anybody else. */
static void set_back_requests_find_their_pages(void **state) {
    (void)state;
    static struct rig b;
    int until = 70;
    rig_open(&b, &(struct setup){.max_chunk = 512, .hooks = {NULL, preempt_once, &until}});
    struct answer *answer = add_plain(&b, 3 * P, 1, 100);
    run(&b);
    check_greedy(&b, answer, 3 * P, 1, 100);
    assert_int_equal(stats_of(&b).preemptions, 1);
    assert_int_equal(answer->last.n_cached, 0);
    assert_int_equal(stats_of(&b).prefix_hits, 0);
    assert_int_equal(stats_of(&b).prefix_lookups, 1);
    assert_int_equal(stats_of(&b).prompt_tokens, 3 * P);
    assert_in_range(computed(&b) - (3 * P + 99), 1, P - 1); /* it lost less than a page */
    rig_close(&b);
}

/* All logits are needed, so all is computed; but once they are out, nothing is special about such a request. */
static void scored_prompts_are_computed(void **state) {
    (void)state;
    static struct rig b;
    int32_t prompt[CONTEXT];
    int until = 9;
    rig_open(&b, &(struct setup){.max_chunk = 200, .hooks = {NULL, preempt_once, &until}});
    add_plain(&b, 5 * P, 0, 3);
    run(&b);
    int64_t before = computed(&b);
    struct l4_request request = prompt_of(prompt, 5 * P, 0, 3);
    request.prompt_logprobs = true;
    struct answer *answer = add(&b, request);
    run(&b); /* set back on the way, when its first pages need no more logits */
    assert_int_equal(stats_of(&b).preemptions, 1);
    assert_int_equal(answer->n_prompt_events, 5 * P);
    assert_memory_equal(answer->prompt_ids, prompt, 5 * P * sizeof *prompt);
    assert_int_equal(answer->last.n_cached, 0);
    assert_in_range(computed(&b) - before, 5 * P + 2, 6 * P + 2);
    check_greedy(&b, answer, 5 * P, 0, 3);
    rig_close(&b);
}

/* Random requests that begin alike, random chunks, setting back and cancelling, too few pages: the answers are right.
 */
static void cache_does_not_show(void **state) {
    (void)state;
    static const int64_t chunks[] = {16, 48, P, 100, 3 * P, 8192};
    uint64_t n_hits = 0, n_evicted = 0, n_preempted = 0;
    for (size_t c = 0; c < 2 * sizeof chunks / sizeof chunks[0]; c++) {
        static struct rig b;
        struct chaos chaos = {(unsigned)c + 1};
        struct model_config config;
        int32_t prompt[CONTEXT];
        int n_prompt[MAX_REQUESTS];
        fake_model_config(&config, VOCAB, CONTEXT, chunks[c / 2]);
        rig_open(&b, &(struct setup){.max_running = 6,
                                     .max_chunk = 150,
                                     .chunk = chunks[c / 2],
                                     .n_pages = kv_pages_needed(&config, CONTEXT, 150) + 10,
                                     .hooks = {chaos_chunk, chaos_preempt, &chaos}});
        static const char *const salts[] = {"", "a", "b"};
        for (int i = 0; i < 50; i++) {
            n_prompt[i] = 1 + (int)(chaos_next(&chaos) % 700);
            struct l4_request request = prompt_of(prompt, n_prompt[i], i % 3, 10 + i);
            request.prompt_logprobs = i % 7 == 0;
            request.salt = salts[i % 5 == 0 ? i % 3 : 0];
            struct answer *answer = add(&b, request);
            for (unsigned n = chaos_next(&chaos) % 12; n > 0; n--)
                step(&b);
            atomic_store(&answer->cancelled, i % 11 == 0);
        }
        run(&b);
        for (int i = 0; i < 50; i++) {
            if (b.answers[i].finish == L4_FINISH_CANCELLED)
                continue;
            check_greedy(&b, &b.answers[i], n_prompt[i], i % 3, 10 + i);
            assert_int_equal(b.answers[i].n_prompt_events, i % 7 == 0 ? n_prompt[i] : 0);
        }
        n_hits += stats_of(&b).prefix_hits;
        n_evicted += stats_of(&b).prefix_evicted_pages;
        n_preempted += stats_of(&b).preemptions;
        rig_close(&b);
    }
    assert_true(n_hits > 100 && n_evicted > 1000 && n_preempted > 100);
}

int main(void) {
    rig_prefix_cache = true;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cache_repeated_prompts),
        cmocka_unit_test(cache_a_growing_chat),
        cmocka_unit_test(cache_keeps_salts_apart),
        cmocka_unit_test(cache_the_same_prompt_at_once),
        cmocka_unit_test(cached_pages_make_nobody_wait),
        cmocka_unit_test(cache_makes_room_for_more),
        cmocka_unit_test(cancelled_requests_leave_their_pages),
        cmocka_unit_test(set_back_requests_find_their_pages),
        cmocka_unit_test(scored_prompts_are_computed),
        cmocka_unit_test(cache_does_not_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
