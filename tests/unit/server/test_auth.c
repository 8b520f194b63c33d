/* The file of keys, whose key is whose, and what a key's limits admit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/auth.h"
#include "server/auth_file.h"
#include "server/log.h"
#include "tests/lib/failmalloc.h"

/* Hashes of "sk-a", "sk-b" and "sk-c", as sha256sum gives them. */
#define HASH_A "sha256:a4a6d307ad00fa67176e1099fdbc4f4a09bb527a7f24718a5030f2f173d11f7f"
#define HASH_B "sha256:18519d64d0d18b0e84e43301547425933dc0394576666e8da1ef1790fb64ca9f"
#define HASH_C "sha256:923e700d172fdfb7e2d3d189270520d3f716e86cd133bd546c6eae20e158ed47"

static const uint64_t S = 1000000000;

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static struct auth_keys keys;
static struct config_errors errors;

static int parse(const char *text, size_t len_bytes) {
    char *copy = malloc(len_bytes + 1); /* of that size, so that a sanitizer sees a step too far */
    memcpy(copy, text, len_bytes);
    auth_keys_free(&keys);
    config_errors_free(&errors);
    char *exact = realloc(copy, len_bytes > 0 ? len_bytes : 1);
    int rc = auth_file_parse(&keys, "f", exact, len_bytes, &errors);
    free(exact);
    assert_int_equal(rc != 0, errors.count > 0);
    return rc;
}

static void expect_error(const char *text, size_t len_bytes, const char *line) {
    assert_int_equal(parse(text, len_bytes), L4_E_INVALID);
    assert_int_equal(keys.n, 0);
    if (strstr(errors.text, line) == NULL)
        fail_msg("no \"%s\" in: %s", line, errors.text);
}

static void test_lines(void **state) {
    (void)state;
    static const char text[] = "# the keys\n"
                               "\n"
                               "alice " HASH_A "\r\n"
                               "  \t b.o_b-2\t" HASH_B " max_concurrent=3 \ttokens_per_minute=1000000000000 # his\n"
                               "   # nobody\n"
                               "CAROL " HASH_C "   tokens_per_minute=1 #x max_concurrent=7";
    assert_int_equal(parse(text, sizeof(text) - 1), 0);
    assert_int_equal(keys.n, 3);
    assert_string_equal(keys.list[0].name, "alice");
    assert_int_equal(keys.list[0].hash[0], 0xa4);
    assert_int_equal(keys.list[0].hash[31], 0x7f);
    assert_int_equal(keys.list[0].max_concurrent, 0);
    assert_int_equal(keys.list[0].tokens_per_minute, 0);
    assert_string_equal(keys.list[1].name, "b.o_b-2");
    assert_int_equal(keys.list[1].max_concurrent, 3);
    assert_int_equal(keys.list[1].tokens_per_minute, 1000000000000);
    assert_string_equal(keys.list[2].name, "CAROL");
    assert_int_equal(keys.list[2].max_concurrent, 0);
    assert_int_equal(keys.list[2].tokens_per_minute, 1);
    static const char *const empty[] = {"", "\n", "# nothing", "\r\n\r\n", " \t"};
    for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++) {
        assert_int_equal(parse(empty[i], strlen(empty[i])), 0);
        assert_int_equal(keys.n, 0);
    }
}

static void test_bad_lines(void **state) {
    (void)state;
#define NAME64 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    static const struct {
        const char *text, *line;
    } cases[] = {
        {"alice", "f:1: behind the name stands sha256: with 64 hexadecimal digits"},
        {"\nalice sk-secret", "f:2: behind the name"},
        {"alice sha256:", "f:1: behind the name"},
        {"alice sha256:00", "f:1: behind the name"},
        {"alice " HASH_A "0", "f:1: behind the name"},
        {"alice sha512:a4a6d307ad00fa67176e1099fdbc4f4a09bb527a7f24718a5030f2f173d11f7f", "f:1: behind the name"},
        {"alice SHA256:a4a6d307ad00fa67176e1099fdbc4f4a09bb527a7f24718a5030f2f173d11f7f", "f:1: behind the name"},
        {"alice sha256:g4a6d307ad00fa67176e1099fdbc4f4a09bb527a7f24718a5030f2f173d11f7f", "f:1: behind the name"},
        {"alice sha256:0000000000000000000000000000000000000000000000000000000000000000", "f:1: behind the name"},
        {"alice # " HASH_A, "f:1: behind the name"},
        {"al=ice " HASH_A, "f:1: a line begins with a name: 1 to 64 letters"},
        {"\xef\xbb\xbf"
         "alice " HASH_A,
         "f:1: a line begins with a name"},
        {NAME64 "a " HASH_A, "f:1: a line begins with a name"},
        {"alice " HASH_A " max_concurrent",
         "f:1: behind the hash, max_concurrent=N and tokens_per_minute=N are allowed"},
        {"alice " HASH_A " rate=1", "f:1: behind the hash"},
        {"alice " HASH_A "\rbob", "f:1: behind the name"},
        {"alice " HASH_A " max_concurrent=", "f:1: max_concurrent: allowed is a whole number from 1 to 1000000"},
        {"alice " HASH_A " max_concurrent=0", "f:1: max_concurrent: allowed"},
        {"alice " HASH_A " max_concurrent=-1", "f:1: max_concurrent: allowed"},
        {"alice " HASH_A " max_concurrent=1k", "f:1: max_concurrent: allowed"},
        {"alice " HASH_A " max_concurrent=1000001", "f:1: max_concurrent: allowed"},
        {"alice " HASH_A " max_concurrent=99999999999999999999999999", "f:1: max_concurrent: allowed"},
        {"alice " HASH_A " tokens_per_minute=1000000000001",
         "f:1: tokens_per_minute: allowed is a whole number from 1 "},
        {"alice " HASH_A " max_concurrent=1 max_concurrent=1", "f:1: max_concurrent is given twice"},
        {"alice " HASH_A "\n\nalice " HASH_B, "f:3: the name alice was given before, in line 1"},
        {"alice " HASH_A "\nbob " HASH_A, "f:2: bob has the same key as alice in line 1"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        expect_error(cases[i].text, strlen(cases[i].text), cases[i].line);
        assert_null(strstr(errors.text, "secret"));
    }
    assert_int_equal(parse(NAME64 " " HASH_A, strlen(NAME64 " " HASH_A)), 0);
    static const char nul[] = "alice " HASH_A "\nbob\0 " HASH_B, nul_in_comment[] = "# a\0b\n";
    expect_error(nul, sizeof(nul) - 1, "f:2: the line holds a NUL");
    expect_error(nul_in_comment, sizeof(nul_in_comment) - 1, "f:1: the line holds a NUL");
}

static void test_sizes(void **state) {
    (void)state;
    struct l4_buf text = {0};
    l4_buf_printf(&text, "#%*s\n", AUTH_MAX_LINE_BYTES - 1, "");
    assert_int_equal(parse(text.data, text.len), 0);
    l4_buf_clear(&text);
    l4_buf_printf(&text, "\n#%*s", AUTH_MAX_LINE_BYTES, "");
    expect_error(text.data, text.len, "f:2: the line has more than 1024 bytes");
    l4_buf_clear(&text);
    for (int i = 0; i < AUTH_MAX_KEYS; i++)
        l4_buf_printf(&text, "n%d sha256:%064x\n", i, (unsigned)i + 1);
    assert_int_equal(parse(text.data, text.len), 0);
    assert_int_equal(keys.n, AUTH_MAX_KEYS);
    l4_buf_printf(&text, "more " HASH_A "\n");
    expect_error(text.data, text.len, "f:1025: more than 1024 keys");
    l4_buf_clear(&text);
    for (int i = 0; i < 1000; i++)
        l4_buf_puts(&text, "a b\n");
    expect_error(text.data, text.len, "f: the rest was not looked at");
    assert_int_equal(errors.count, 21);
    l4_buf_free(&text);
    auth_keys_free(&keys);
    config_errors_free(&errors);
}

static void test_names_and_hashes(void **state) {
    (void)state;
    unsigned char hash[AUTH_HASH_BYTES];
    char text[AUTH_HASH_TEXT_BYTES];
    auth_hash("sk-a", 4, hash);
    auth_hash_text(hash, text);
    assert_string_equal(text, HASH_A);
    assert_true(auth_name_is_valid("a", 1));
    assert_false(auth_name_is_valid("", 0));
    assert_false(auth_name_is_valid("a b", 3));
    assert_false(auth_name_is_valid("a\0b", 3));
}

/* ---- clients ----------------------------------------------------------------------------------------------------- */

static char path[64];

static void write_keys(const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, 0600), 0);
}

static struct auth *open_auth(const char *text) {
    struct auth *auth = NULL;
    write_keys(text);
    assert_int_equal(auth_open(&auth, path, &errors), 0);
    return auth;
}

static int make_path(void **state) {
    (void)state;
    log_set_level("error");
    snprintf(path, sizeof(path), "/tmp/llama4d-keys-%d", (int)getpid());
    return 0;
}
static int remove_path(void **state) {
    (void)state;
    config_errors_free(&errors);
    unlink(path);
    return 0;
}

static void test_find(void **state) {
    (void)state;
    struct auth *auth = open_auth("a " HASH_A "\nb " HASH_B "\nc " HASH_C "\n");
    static const char *const names[] = {"a", "b", "c"};
    for (size_t i = 0; i < 3; i++) {
        char key[8];
        snprintf(key, sizeof(key), "sk-%s", names[i]);
        struct auth_client *client = auth_find(auth, key);
        assert_non_null(client);
        assert_string_equal(auth_client_name(client), names[i]);
    }
    static const char *const wrong[] = {"", "sk-", "sk-d", "sk-a ", " sk-a", "SK-A", "a", HASH_A};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_null(auth_find(auth, wrong[i]));
    auth_close(auth);
}

static int64_t begin(struct auth_client *client, bool is_limited, uint64_t now_ns) {
    char why[160] = "";
    int64_t wait_s = auth_begin(client, is_limited, now_ns, why, sizeof(why));
    assert_int_equal(wait_s > 0, why[0] != '\0');
    return wait_s;
}

static void test_max_concurrent(void **state) {
    (void)state;
    struct auth *auth = open_auth("a " HASH_A " max_concurrent=2\nb " HASH_B "\n");
    struct auth_client *a = auth_find(auth, "sk-a"), *b = auth_find(auth, "sk-b");
    assert_int_equal(begin(a, true, 0), 0);
    assert_int_equal(begin(a, true, 0), 0);
    assert_int_equal(begin(a, true, 0), 1);
    auth_end(a, false);
    assert_int_equal(begin(a, true, 0), 1); /* the end of a refused one makes no room */
    auth_end(a, false);
    assert_int_equal(begin(a, false, 0), 0);
    auth_end(a, false);
    for (int i = 0; i < 100; i++)
        assert_int_equal(begin(b, true, 0), 0);
    auth_end(a, true);
    assert_int_equal(begin(a, true, 0), 0);
    auth_close(auth);
}

static void test_tokens_per_minute(void **state) {
    (void)state;
    struct auth *auth = open_auth("a " HASH_A " tokens_per_minute=60\nb " HASH_B " tokens_per_minute=60\n");
    struct auth_client *a = auth_find(auth, "sk-a"), *b = auth_find(auth, "sk-b");
    uint64_t now_ns = 4000000000000000000; /* after the opening, which took the real clock */
    assert_int_equal(begin(a, true, now_ns), 0);
    auth_charge(a, 100, 0, now_ns);
    auth_charge(a, 0, 1, now_ns);
    assert_int_equal(begin(a, true, now_ns), 42); /* 41 are owed */
    assert_int_equal(begin(a, false, now_ns), 0);
    assert_int_equal(begin(b, true, now_ns), 0);
    assert_int_equal(begin(a, true, now_ns + 42 * S), 0);
    auth_close(auth);
}

static void expect_metric(const struct auth *auth, const char *line) {
    struct l4_buf out = {0};
    auth_write_metrics(auth, &out);
    if (strstr(out.data, line) == NULL)
        fail_msg("no \"%s\" in:\n%s", line, out.data);
    l4_buf_free(&out);
}

static void test_reload(void **state) {
    (void)state;
    struct auth *auth = open_auth("a " HASH_A " tokens_per_minute=60 max_concurrent=1\nb " HASH_B "\n");
    struct auth_client *a = auth_find(auth, "sk-a"), *b = auth_find(auth, "sk-b");
    uint64_t now_ns = 4000000000000000000;
    assert_int_equal(begin(a, true, now_ns), 0);
    assert_int_equal(begin(b, true, now_ns), 0);
    auth_charge(a, 700, 30, now_ns);
    expect_metric(auth, "\nllama4d_key_prompt_tokens_total{key=\"a\"} 700\n");

    write_keys("nonsense\n");
    assert_int_equal(auth_reload(auth, &errors), L4_E_INVALID);
    assert_int_equal(errors.count, 1);
    assert_ptr_equal(auth_find(auth, "sk-a"), a);
    unlink(path);
    assert_int_equal(auth_reload(auth, &errors), L4_E_IO);
    assert_ptr_equal(auth_find(auth, "sk-a"), a);

    /* a has another key and other limits, what it owes and has running stays; b is gone; c is new */
    write_keys("c " HASH_C "\na " HASH_B " tokens_per_minute=600 max_concurrent=2\n");
    assert_int_equal(auth_reload(auth, &errors), 0);
    assert_null(auth_find(auth, "sk-a"));
    assert_ptr_equal(auth_find(auth, "sk-b"), a);
    assert_string_equal(auth_client_name(auth_find(auth, "sk-c")), "c");
    assert_true(begin(a, true, now_ns) > 60);
    auth_end(a, false);
    assert_string_equal(auth_client_name(b), "b"); /* until its last request has ended */
    auth_charge(b, 1, 1, now_ns);
    auth_end(b, true);
    expect_metric(auth, "\nllama4d_key_requests_running{key=\"c\"} 0\nllama4d_key_requests_running{key=\"a\"} 1\n");
    expect_metric(auth, "\nllama4d_key_requests_total{key=\"c\"} 0\nllama4d_key_requests_total{key=\"a\"} 2\n# HELP");
    expect_metric(auth, "\nllama4d_key_requests_refused_total{key=\"a\"} 1\n");
    expect_metric(auth, "\nllama4d_key_prompt_tokens_total{key=\"a\"} 700\n");
    expect_metric(auth, "\nllama4d_key_completion_tokens_total{key=\"a\"} 30\n");
    auth_end(a, true);
    write_keys("# nobody\n");
    assert_int_equal(auth_reload(auth, &errors), 0);
    assert_null(auth_find(auth, "sk-b"));
    auth_close(auth);
}

static void test_files(void **state) {
    (void)state;
    struct auth *auth = NULL;
    unlink(path);
    assert_int_equal(auth_open(&auth, path, &errors), L4_E_IO);
    assert_non_null(strstr(errors.text, "No such file"));
    assert_int_equal(auth_open(&auth, "/tmp", &errors), L4_E_IO);
    assert_non_null(strstr(errors.text, "/tmp: is no regular file"));
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(auth_open(&auth, path, &errors), L4_E_IO); /* nobody writes to it: and yet it does not wait */
    unlink(path);
    write_keys("");
    assert_int_equal(truncate(path, AUTH_MAX_FILE_BYTES + 1), 0);
    assert_int_equal(auth_open(&auth, path, &errors), L4_E_IO);
    assert_non_null(strstr(errors.text, "4194304 bytes"));
    assert_null(auth);
}

static void test_no_memory(void **state) {
    (void)state;
    struct auth *auth = open_auth("a " HASH_A "\nb " HASH_B "\n"), *other;
    write_keys("a " HASH_B "\nc " HASH_C "\n");
    int n_failed = 0;
    FAILMALLOC_EACH(n) {
        other = NULL;
        int rc = auth_open(&other, path, &errors);
        failmalloc_disarm();
        assert_int_equal(rc == 0, other != NULL);
        auth_close(other);
        config_errors_free(&errors);
    }
    FAILMALLOC_EACH(n) {
        int rc = auth_reload(auth, &errors);
        failmalloc_disarm();
        assert_int_equal(rc == 0, auth_find(auth, "sk-a") == NULL);
        assert_int_equal(rc == 0, auth_find(auth, "sk-c") != NULL);
        n_failed += rc != 0;
        config_errors_free(&errors);
        if (rc == 0)
            break;
    }
    assert_true(n_failed > 3);
    auth_close(auth);
}

static void test_salts(void **state) {
    (void)state;
    static const char *const pairs[][2] = {{"a", ""}, {"b", ""}, {"a", "b"}, {"ab", ""}, {"a", "bc"}, {"ab", "c"}};
    char salts[6][L4_MAX_SALT_BYTES + 1];
    for (size_t i = 0; i < 6; i++) {
        snprintf(salts[i], sizeof(salts[i]), "%s", pairs[i][1]);
        auth_mix_salt(pairs[i][0], salts[i]);
        assert_int_equal(strlen(salts[i]), 64);
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(salts[i], salts[k]);
    }
    char again[L4_MAX_SALT_BYTES + 1] = "bc", longest[L4_MAX_SALT_BYTES + 1], name[AUTH_MAX_NAME_BYTES + 1];
    auth_mix_salt("a", again);
    assert_string_equal(again, salts[4]);
    memset(longest, 'x', sizeof(longest) - 1);
    memset(name, 'y', sizeof(name) - 1);
    longest[L4_MAX_SALT_BYTES] = name[AUTH_MAX_NAME_BYTES] = '\0';
    auth_mix_salt(name, longest);
    assert_int_equal(strlen(longest), 64);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_names_and_hashes),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_max_concurrent),
        cmocka_unit_test(test_tokens_per_minute),
        cmocka_unit_test(test_reload),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_salts),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
