#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "llama4/engine.h"
#include "server/config.h"
#include "tests/lib/failmalloc.h"

/* Reads `text` as a file on top of the defaults; the complaints are the caller's to free. */
static int read_text(struct config *config, const char *text, size_t len, struct config_errors *errors) {
    char path[] = "/tmp/llama4d-config-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), len);
    close(fd);
    assert_int_equal(config_init(config), 0);
    int rc = config_read_file(config, path, errors);
    unlink(path);
    return rc;
}

static void test_defaults(void **state) {
    (void)state;
    struct config config;
    assert_int_equal(config_init(&config), 0);
    assert_string_equal(config.host, "127.0.0.1");
    assert_int_equal(config.port, 8080);
    assert_string_equal(config.model, "");
    assert_string_equal(config.experts_implementation, "auto");
    assert_int_equal(config.max_body_bytes, 16 << 20);
    assert_false(config.temperature.is_set);
    assert_false(config.top_k.is_set);
    struct config_errors errors = {0};
    assert_int_equal(config_check(&config, &errors), L4_E_INVALID);
    assert_int_equal(errors.count, 1);
    config_errors_free(&errors);
    config_fini(&config);
}

static void test_values(void **state) {
    (void)state;
    static const char text[] = "model = /a b/c\n[llama4d]\nport:0\n  kv_cache = 2g\n  top_p = 0.25\ntop_k = 7\n"
                               "repetition_penalty = unset\npresence_penalty = -1.5\ngemm = openblas";
    struct config config;
    struct config_errors errors = {0};
    assert_int_equal(read_text(&config, text, strlen(text), &errors), 0);
    assert_null(errors.text);
    assert_string_equal(config.model, "/a b/c");
    assert_int_equal(config.port, 0);
    assert_int_equal(config.kv_cache, 2LL << 30);
    assert_true(config.top_p.is_set && config.top_p.value == 0.25);
    assert_true(config.top_k.is_set && config.top_k.value == 7);
    assert_true(config.presence_penalty.is_set && config.presence_penalty.value == -1.5);
    assert_false(config.repetition_penalty.is_set);
    assert_string_equal(config.gemm, "openblas");
    assert_int_equal(config_check(&config, &errors), 0);
    config_fini(&config);
}

static void test_bounds(void **state) {
    (void)state;
    static const struct {
        const char *line;
        int rc;
    } cases[] = {
        {"port = 65535", 0},
        {"port = 65536", L4_E_INVALID},
        {"port = -1", L4_E_INVALID},
        {"port = 1K", L4_E_INVALID},
        {"port = 99999999999999999999", L4_E_INVALID},
        {"port =", L4_E_INVALID},
        {"port = 1 2", L4_E_INVALID},
        {"max_body_bytes = 4G", 0},
        {"max_body_bytes = 4097M", L4_E_INVALID},
        {"max_body_bytes = 9007199254740993G", L4_E_INVALID},
        {"top_p = 1", 0},
        {"top_p = 1.0000001", L4_E_INVALID},
        {"top_p = nan", L4_E_INVALID},
        {"top_p = inf", L4_E_INVALID},
        {"top_p = -0.1", L4_E_INVALID},
        {"top_p = 0.5x", L4_E_INVALID},
        {"repetition_penalty = 0", L4_E_INVALID},
        {"top_k = 1.5", L4_E_INVALID},
        {"log_level = INFO", L4_E_INVALID},
        {"log_level =", L4_E_INVALID},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct config config;
        struct config_errors errors = {0};
        assert_int_equal(read_text(&config, cases[i].line, strlen(cases[i].line), &errors), cases[i].rc);
        assert_int_equal(errors.count, cases[i].rc != 0);
        if (cases[i].rc != 0)
            assert_non_null(strstr(errors.text, ": allowed is "));
        config_errors_free(&errors);
        config_fini(&config);
    }
}

/* A value that is refused leaves the setting as it was. */
static void test_refused_value_changes_nothing(void **state) {
    (void)state;
    static const char text[] = "port = 70000\ntop_p = 7\ngemm = fast\ntop_k = x\n";
    struct config config;
    struct config_errors errors = {0};
    assert_int_equal(read_text(&config, text, strlen(text), &errors), L4_E_INVALID);
    assert_int_equal(errors.count, 4);
    assert_int_equal(config.port, 8080);
    assert_false(config.top_p.is_set || config.top_k.is_set);
    assert_string_equal(config.gemm, "own");
    config_errors_free(&errors);
    config_fini(&config);
}

/* Random bytes, and the shipped file with bytes changed: complaints, never more. */
static void test_noise(void **state) {
    (void)state;
    char text[16384];
    FILE *file = fopen("config/llama4d.conf", "re");
    assert_non_null(file);
    size_t len = fread(text, 1, sizeof(text), file);
    fclose(file);
    for (size_t i = 0; i < len; i++) /* every setting is given */
        if (text[i] == '#' && i + 1 < len && text[i + 1] >= 'a' && text[i + 1] <= 'z')
            text[i] = ' ';
    srand(1);
    for (int round = 0; round < 300; round++) {
        for (int i = 0; i < 20; i++)
            text[(size_t)rand() % len] = (char)rand();
        struct config config;
        struct config_errors errors = {0};
        int rc = read_text(&config, text, len, &errors);
        assert_int_equal(rc != 0, errors.count > 0);
        config_errors_free(&errors);
        config_fini(&config);
    }
}

static void test_flags(void **state) {
    (void)state;
    char *argv[] = {(char[]){"--max-queue"}, (char[]){"3"},        (char[]){"--presence-penalty"},
                    (char[]){"-1"},          (char[]){"--verify"}, (char[]){"--model=a=b"}};
    struct config config;
    struct config_errors errors = {0};
    assert_int_equal(config_init(&config), 0);
    assert_int_equal(config_read_flags(&config, 6, argv, &errors), 0);
    assert_int_equal(config.max_queue, 3);
    assert_true(config.verify);
    assert_true(config.presence_penalty.value == -1);
    assert_string_equal(config.model, "a=b");
    config_fini(&config);
}

/* Whichever allocation fails: an error, or all is as it should be; nothing is left behind. */
static void test_failing_allocations(void **state) {
    (void)state;
    char *argv[] = {(char[]){"--model"}, (char[]){"demo"}, (char[]){"--top-p=0.5"}};
    FAILMALLOC_EACH(n) {
        struct config config;
        struct config_errors errors = {0};
        int rc = config_init(&config);
        if (rc == 0) {
            rc = config_read_file(&config, "config/llama4d-minimal.conf", &errors);
            int flags_rc = config_read_flags(&config, 3, argv, &errors);
            rc = rc != 0 ? rc : flags_rc;
        }
        failmalloc_disarm();
        if (rc == 0) { /* stdio gets along without its buffer */
            assert_string_equal(config.host, "0.0.0.0");
            assert_string_equal(config.model, "demo");
            assert_true(config.top_p.value == 0.5);
        }
        config_errors_free(&errors);
        config_fini(&config);
    }
}

struct seen {
    int n_taken, n_restart;
};

static void count_changed(void *user, const char *name, bool is_reloadable) {
    struct seen *seen = user;
    assert_non_null(name);
    seen->n_taken += is_reloadable;
    seen->n_restart += !is_reloadable;
}

static void test_reload(void **state) {
    (void)state;
    struct config running, fresh;
    struct config_errors errors = {0};
    static const char text[] = "temperature = 0.1\nlog_level = debug\nport = 1\nmodel = other\nmax_queue = 1\n";
    assert_int_equal(config_init(&running), 0);
    assert_int_equal(read_text(&fresh, text, strlen(text), &errors), 0);
    struct seen seen = {0};
    config_reload(&running, &fresh, count_changed, &seen);
    assert_int_equal(seen.n_taken, 2);
    assert_int_equal(seen.n_restart, 3);
    assert_true(running.temperature.is_set && running.temperature.value == 0.1);
    assert_string_equal(running.log_level, "debug");
    assert_int_equal(running.port, 8080);
    assert_string_equal(running.model, "");
    seen = (struct seen){0};
    config_reload(&running, &running, count_changed, &seen);
    assert_int_equal(seen.n_taken + seen.n_restart, 0);
    config_fini(&fresh);
    config_fini(&running);
}

/* The table's defaults are what the engine's own would be, and its names are the engine's. */
static void test_table_agrees_with_the_engine(void **state) {
    (void)state;
    struct l4_engine_options options;
    l4_engine_options_init(&options);
    struct config config;
    assert_int_equal(config_init(&config), 0);
    assert_string_equal(config.experts_implementation, options.experts_implementation);
    assert_string_equal(config.gemm, options.gemm);
    assert_string_equal(config.kv_cache_type, options.kv_cache_type);
    config_fini(&config);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_refused_value_changes_nothing),
        cmocka_unit_test(test_noise),
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_failing_allocations),
        cmocka_unit_test(test_reload),
        cmocka_unit_test(test_table_agrees_with_the_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
