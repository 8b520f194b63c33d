/* Errors, buffers, arena, checked arithmetic. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/arena.h"
#include "core/base/checked.h"
#include "core/base/cpu.h"
#include "core/base/cpus.h"
#include "llama4/buf.h"

static void error_message_gets_context(void **state) {
    (void)state;
    struct l4_err err = {0};
    assert_int_equal(l4_err_set(&err, L4_E_FORMAT, "offset %d is past the end", 7), L4_E_FORMAT);
    assert_int_equal(l4_err_context(&err, "tensor %s", "a.b"), L4_E_FORMAT);
    assert_string_equal(err.message, "tensor a.b: offset 7 is past the end");
    assert_int_equal(l4_err_set(NULL, L4_E_IO, "dropped"), L4_E_IO);
    assert_string_equal(l4_error_text(L4_E_NOMEM), "out of memory");
    assert_string_equal(l4_error_text(12345), "unknown error");
}

static void error_message_is_cut_not_overrun(void **state) {
    (void)state;
    char big[2000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    struct l4_err err = {0};
    l4_err_set(&err, L4_E_IO, "%s", big);
    l4_err_context(&err, "%s", big);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
}

static void buffer_grows_and_is_terminated(void **state) {
    (void)state;
    struct l4_buf buf = {0};
    char wide[600];
    memset(wide, 'w', sizeof wide - 1);
    wide[sizeof wide - 1] = '\0';
    l4_buf_puts(&buf, "a");
    l4_buf_append(&buf, "b\0c", 3);
    l4_buf_printf(&buf, "%d", 42);
    l4_buf_printf(&buf, "%s", wide);
    assert_int_equal(buf.len, 6 + 599);
    assert_memory_equal(buf.data, "ab\0c42w", 7);
    assert_int_equal(buf.data[buf.len], 0);
    size_t len;
    char *taken = l4_buf_take(&buf, &len);
    assert_int_equal(len, 605);
    assert_null(buf.data);
    free(taken);
    taken = l4_buf_take(&buf, &len);
    assert_string_equal(taken, "");
    free(taken);
}

static void buffer_refuses_the_impossible(void **state) {
    (void)state;
    struct l4_buf buf = {0};
    l4_buf_puts(&buf, "kept");
    l4_buf_append(&buf, "x", SIZE_MAX - 2);
    assert_true(buf.failed);
    assert_string_equal(buf.data, "kept");
    l4_buf_puts(&buf, "dropped");
    assert_null(l4_buf_take(&buf, NULL));
}

static void arena_gives_aligned_distinct_storage(void **state) {
    (void)state;
    struct arena arena = {0};
    for (int round = 0; round < 3; round++) {
        unsigned char *p[200];
        for (int i = 0; i < 200; i++) {
            p[i] = arena_alloc(&arena, (size_t)i * 37 + 1, 3);
            assert_non_null(p[i]);
            assert_int_equal((uintptr_t)p[i] % 64, 0);
            memset(p[i], i, ((size_t)i * 37 + 1) * 3);
        }
        for (int i = 0; i < 200; i++)
            for (size_t j = 0; j < ((size_t)i * 37 + 1) * 3; j++)
                assert_int_equal(p[i][j], i);
        size_t total = arena.total_bytes;
        arena_reset(&arena);
        if (round > 0)
            assert_int_equal(arena.total_bytes, total); /* settled: nothing more from the system */
    }
    assert_null(arena_alloc(&arena, SIZE_MAX / 2, 3));
    assert_null(arena_alloc(&arena, SIZE_MAX, 1));
    arena_fini(&arena);
}

static void growing_array_checks_sizes(void **state) {
    (void)state;
    int64_t *array = NULL;
    size_t cap = 0;
    assert_true(checked_grow((void **)&array, &cap, 1000, sizeof *array));
    assert_true(cap >= 1000);
    size_t before = cap;
    assert_false(checked_grow((void **)&array, &cap, SIZE_MAX / 4, sizeof *array));
    assert_int_equal(cap, before);
    free(array);
    assert_null(checked_array(SIZE_MAX / 2, 4));
    void *empty = checked_array(0, 8);
    assert_non_null(empty);
    free(empty);
}

static void processor_is_described(void **state) {
    (void)state;
    struct cpu_features features;
    cpu_features(&features);
    if (features.avx512)
        assert_true(features.avx2);
    assert_true(cpu_threads_auto() >= 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_message_gets_context),     cmocka_unit_test(error_message_is_cut_not_overrun),
        cmocka_unit_test(buffer_grows_and_is_terminated), cmocka_unit_test(buffer_refuses_the_impossible),
        cmocka_unit_test(growing_array_checks_sizes),     cmocka_unit_test(arena_gives_aligned_distinct_storage),
        cmocka_unit_test(processor_is_described),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
