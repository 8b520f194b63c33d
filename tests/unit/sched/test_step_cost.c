/* What the scheduler learns about the time of steps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/sched/step_cost.h"

enum { MAX_CHUNK = 512 };

static void unknown_machine_starts_small(void **state) {
    (void)state;
    struct step_cost cost = {0};
    assert_int_equal(step_cost_chunk(&cost, 0, 0.5, MAX_CHUNK), 32);
    assert_int_equal(step_cost_chunk(&cost, 0, 0.5, 8), 8);
    assert_int_equal(step_cost_chunk(&cost, 3, 0.5, MAX_CHUNK), 0); /* first what decoding costs */
    step_cost_observe(&cost, 3, 0, 0.1);
    assert_int_equal(step_cost_chunk(&cost, 3, 0.5, MAX_CHUNK), 32);
}

/* A machine: so long for the weights, so long for a row of either kind. */
struct machine {
    double base_s, decode_s, prompt_s;
};

static double run(const struct machine *m, struct step_cost *cost, int64_t n_decode, int64_t n_prompt) {
    double seconds = m->base_s + m->decode_s * (double)n_decode + m->prompt_s * (double)n_prompt;
    step_cost_observe(cost, n_decode, n_prompt, seconds);
    return seconds;
}

/* Beside decodes the chunk settles where the step takes most of what is allowed and never more. */
static void check_machine(struct machine m, int64_t n_decode, double max_step_s) {
    struct step_cost cost = {0};
    double seconds = 0;
    for (int i = 0; i < 5; i++)
        run(&m, &cost, n_decode, 0);
    for (int i = 0; i < 60; i++) {
        int64_t chunk = step_cost_chunk(&cost, n_decode, max_step_s, MAX_CHUNK);
        assert_in_range(chunk, 1, MAX_CHUNK);
        seconds = run(&m, &cost, n_decode, chunk);
        if (i > 0) /* the first chunk was a guess */
            assert_true(seconds <= max_step_s);
        if (chunk == MAX_CHUNK)
            return;
    }
    assert_true(seconds >= max_step_s * 0.6);
}

static void steps_stay_below_the_bound(void **state) {
    (void)state;
    check_machine((struct machine){0.010, 0.001, 0.002}, 4, 0.5);
    check_machine((struct machine){0.200, 0.001, 0.010}, 16, 0.5);
    check_machine((struct machine){0.001, 0.0001, 0.00005}, 16, 0.5);
    check_machine((struct machine){0.300, 0.002, 0.0003}, 32, 1.0);
}

static void slower_prompts_get_shorter_chunks(void **state) {
    (void)state;
    struct step_cost cost = {0};
    int64_t before = 0, after = 0;
    for (int i = 0; i < 20; i++) {
        before = step_cost_chunk(&cost, 1, 0.5, MAX_CHUNK);
        step_cost_observe(&cost, 1, before, 0.002 * (double)before);
    }
    for (int i = 0; i < 20; i++) {
        after = step_cost_chunk(&cost, 1, 0.5, MAX_CHUNK);
        step_cost_observe(&cost, 1, after, 0.01 * (double)after);
    }
    assert_in_range(before, 150, 250);
    assert_in_range(after, 30, 50);
}

/* Decodes that leave little of the bound, but some: the bound holds, and prompts still go on. */
static void little_time_is_not_exceeded(void **state) {
    (void)state;
    const struct machine m = {0.45, 0.001, 0.005};
    struct step_cost cost = {0};
    for (int i = 0; i < 5; i++)
        run(&m, &cost, 1, 0);
    run(&m, &cost, 1, 32);
    for (int i = 0; i < 10; i++)
        assert_true(run(&m, &cost, 1, step_cost_chunk(&cost, 1, 0.5, MAX_CHUNK)) <= 0.5);
}

static void slow_decodes_do_not_starve_prompts(void **state) {
    (void)state;
    const struct machine m = {1.2, 0.01, 0.005};
    struct step_cost cost = {0};
    for (int i = 0; i < 5; i++)
        run(&m, &cost, 1, 0);
    for (int i = 0; i < 30; i++)
        run(&m, &cost, 1, step_cost_chunk(&cost, 1, 0.5, MAX_CHUNK));
    assert_in_range(step_cost_chunk(&cost, 1, 0.5, MAX_CHUNK), 100, 130); /* 1.21 / 2 / 0.005 */
}

/* With nothing decoding a step may be longer, but not without end: cancel waits for it. */
static void idle_steps_are_bounded_too(void **state) {
    (void)state;
    const struct machine m = {0.0, 0.0, 0.2};
    struct step_cost cost = {0};
    for (int i = 0; i < 30; i++)
        run(&m, &cost, 0, step_cost_chunk(&cost, 0, 0.5, MAX_CHUNK));
    double seconds = 0.2 * (double)step_cost_chunk(&cost, 0, 0.5, MAX_CHUNK);
    assert_true(seconds <= 0.5 * STEP_COST_IDLE_FACTOR);
    assert_true(seconds > 0.5);
}

/* While prompts keep coming there is no step that only decodes to learn from: what one row cost, or what rows cost
 * while weights still came from disk, must not hide what prompts cost. */
static void old_decode_times_do_not_hide_prompts(void **state) {
    (void)state;
    const struct machine m = {0.2, 0.002, 0.017};
    const struct {
        int64_t decode_rows;
        double decode_s;
    } pasts[] = {{1, 0.2}, {4, 0.5}, {10, 0.3}, {16, 5}};
    for (size_t past = 0; past < sizeof pasts / sizeof pasts[0]; past++) {
        struct step_cost cost = {0};
        run(&m, &cost, 0, 32);
        for (int i = 0; i < 5; i++)
            step_cost_observe(&cost, pasts[past].decode_rows, 0, pasts[past].decode_s);
        for (int i = 0; i < 100; i++) {
            double seconds = run(&m, &cost, 16, step_cost_chunk(&cost, 16, 0.5, MAX_CHUNK));
            assert_true(i == 0 || seconds <= 0.5); /* the first step shows how old the estimate is */
        }
    }
}

static void decode_estimate_grows_with_rows(void **state) {
    (void)state;
    struct step_cost cost = {0};
    assert_true(step_cost_decode_s(&cost, 4) == 0);
    step_cost_observe(&cost, 4, 0, 0.1);
    assert_true(step_cost_decode_s(&cost, 0) == 0);
    assert_true(step_cost_decode_s(&cost, 1) == 0.1); /* fewer rows read the same weights */
    assert_true(step_cost_decode_s(&cost, 8) == 0.2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_machine_starts_small),       cmocka_unit_test(steps_stay_below_the_bound),
        cmocka_unit_test(slower_prompts_get_shorter_chunks),  cmocka_unit_test(little_time_is_not_exceeded),
        cmocka_unit_test(slow_decodes_do_not_starve_prompts), cmocka_unit_test(idle_steps_are_bounded_too),
        cmocka_unit_test(decode_estimate_grows_with_rows),    cmocka_unit_test(old_decode_times_do_not_hide_prompts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
