/* The arithmetic of a key's tokens a minute, with a clock of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/rate.h"

static const uint64_t S = 1000000000;
static const uint64_t START = 5000000000000; /* some time after the machine's */

static void a_full_bucket_is_a_minute(void **state) {
    (void)state;
    struct rate rate;
    rate_init(&rate, 600, START);
    for (int i = 0; i < 600; i++) {
        assert_int_equal(rate_wait_s(&rate, START), 0);
        rate_take(&rate, 1, START);
    }
    assert_int_equal(rate_wait_s(&rate, START), 1);
    assert_int_equal(rate_wait_s(&rate, START + S / 100), 0); /* a part of a token is something */
    assert_int_equal(rate_wait_s(&rate, START + S), 0);
}

static void it_fills_evenly_and_no_further(void **state) {
    (void)state;
    struct rate rate;
    rate_init(&rate, 60, START);
    rate_take(&rate, 60, START);
    assert_int_equal(rate_wait_s(&rate, START + 30 * S), 0); /* 30 are there */
    rate_take(&rate, 40, START + 30 * S);
    assert_int_equal(rate_wait_s(&rate, START + 30 * S), 11); /* 10 are owed, and one must be there */
    assert_int_equal(rate_wait_s(&rate, START + 35 * S), 6);
    assert_int_equal(rate_wait_s(&rate, START + 3600 * S), 0);
    rate_take(&rate, 61, START + 3600 * S); /* an hour's rest has not left more than a minute's tokens */
    assert_int_equal(rate_wait_s(&rate, START + 3600 * S), 2);
}

/* Whoever comes back when he was told to is let in, and a second before that he would not have been. */
static void the_wait_is_true(void **state) {
    (void)state;
    static const int64_t rates[] = {1, 7, 59, 60, 61, 1000, 123457, 1000000000000};
    static const int64_t debts[] = {0, 1, 2, 59, 100, 99999, 123456789};
    for (size_t r = 0; r < sizeof rates / sizeof rates[0]; r++)
        for (size_t d = 0; d < sizeof debts / sizeof debts[0]; d++) {
            struct rate rate;
            rate_init(&rate, rates[r], START);
            rate_take(&rate, rates[r] + debts[d], START);
            int64_t wait_s = rate_wait_s(&rate, START);
            assert_true(wait_s >= 1);
            struct rate later = rate;
            assert_int_equal(rate_wait_s(&later, START + (uint64_t)wait_s * S), 0);
            later = rate;
            if (wait_s > 61) /* one token may take a minute */
                assert_int_not_equal(rate_wait_s(&later, START + (uint64_t)(wait_s - 61) * S), 0);
        }
}

static void a_change_keeps_what_is_owed(void **state) {
    (void)state;
    struct rate rate;
    rate_init(&rate, 60, START);
    rate_take(&rate, 160, START);
    rate_change(&rate, 600, START);
    assert_int_equal(rate_wait_s(&rate, START), 11); /* 101 at 10 a second */
    rate_init(&rate, 600, START);
    rate_change(&rate, 60, START);
    rate_take(&rate, 60, START);
    assert_int_equal(rate_wait_s(&rate, START), 1); /* no more than fits was kept */
}

static void tokens_come_back_and_clocks_do_not(void **state) {
    (void)state;
    struct rate rate;
    rate_init(&rate, 60, START);
    rate_take(&rate, 100, START);
    rate_take(&rate, -50, START);
    assert_int_equal(rate_wait_s(&rate, START), 0);
    rate_take(&rate, 20, START);
    assert_int_equal(rate_wait_s(&rate, START - 1000 * S), 11);
    assert_int_equal(rate_wait_s(&rate, START - 1000 * S), 11);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_bucket_is_a_minute),
        cmocka_unit_test(it_fills_evenly_and_no_further),
        cmocka_unit_test(the_wait_is_true),
        cmocka_unit_test(a_change_keeps_what_is_owed),
        cmocka_unit_test(tokens_come_back_and_clocks_do_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
