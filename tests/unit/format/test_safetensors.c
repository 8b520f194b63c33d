/* The safetensors reader: what it gives for good files, and what it says about bad ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/format/safetensors.h"
#include "llama4/engine.h"
#include "tests/lib/tempdir.h"

static struct tempdir dir;

static int setup(void **state) {
    (void)state;
    tempdir_init(&dir);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    tempdir_fini(&dir);
    return 0;
}

static void expect_refused(const char *path, int code, const char *why) {
    struct safetensors *file = NULL;
    struct l4_err err = {0};
    assert_int_equal(safetensors_open(&file, path, &err), code);
    assert_null(file);
    assert_int_equal(err.code, code);
    if (strstr(err.message, why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.message, why);
    assert_non_null(strstr(err.message, strrchr(path, '/') + 1)); /* the file is always named */
    assert_null(strchr(err.message, '\n'));
}

static void test_fixture(void **state) {
    (void)state;
    struct safetensors *file;
    struct l4_err err;
    assert_int_equal(safetensors_open(&file, "tests/fixtures/scout/model.safetensors", &err), 0);
    const struct tensor *tensor = safetensors_find(file, "model.layers.0.feed_forward.experts.gate_up_proj");
    assert_non_null(tensor);
    assert_int_equal(tensor->type, DT_F32);
    assert_int_equal(tensor->n_dims, 3);
    assert_int_equal(tensor->shape[0], 4);
    assert_int_equal(tensor->shape[1], 48);
    assert_int_equal(tensor->shape[2], 128);
    assert_int_equal(tensor->size_bytes, 4 * 48 * 128 * 4);
    assert_string_equal(safetensors_name(file, 0), "lm_head.weight");
    assert_ptr_equal(safetensors_at(file, 0), safetensors_find(file, "lm_head.weight"));
    assert_null(safetensors_find(file, "lm_head"));
    assert_null(safetensors_find(file, "__metadata__"));
    for (size_t i = 0; i < safetensors_count(file); i++)
        assert_ptr_equal(safetensors_find(file, safetensors_name(file, i)), safetensors_at(file, i));
    safetensors_close(file);
}

/* The bytes that a tensor points at are those of the file, whatever the order of names and places. */
static void test_data(void **state) {
    (void)state;
    const char header[] = "{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[4,7]},"
                          "\"a\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]},"
                          "\"none\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[4,4]}} ";
    assert_int_equal(strlen(header) % 4, 0);
    const char *path = tempdir_safetensors(&dir, "data", header, 0);
    FILE *append = fopen(path, "ab");
    assert_non_null(append);
    assert_int_equal(fwrite("\1\2\0\0xyz", 1, 7, append), 7);
    fclose(append);

    struct safetensors *file;
    struct l4_err err;
    if (safetensors_open(&file, path, &err) != 0)
        fail_msg("%s", err.message);
    assert_int_equal(safetensors_count(file), 3);
    assert_string_equal(safetensors_name(file, 0), "b");
    assert_memory_equal(safetensors_at(file, 0)->data, "xyz", 3);
    assert_int_equal(*(const int32_t *)safetensors_find(file, "a")->data, 0x201);
    assert_int_equal(safetensors_find(file, "a")->n_dims, 0);
    assert_int_equal(safetensors_find(file, "none")->size_bytes, 0);
    safetensors_close(file);
}

static void test_bad_files(void **state) {
    (void)state;
    expect_refused(tempdir_file(&dir, "missing"), L4_E_NOT_FOUND, "No such file");
    expect_refused(dir.path, L4_E_IO, "not a regular file");
    const char *fifo = tempdir_file(&dir, "fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    expect_refused(fifo, L4_E_IO, "not a regular file");
    expect_refused(tempdir_puts(&dir, "empty", ""), L4_E_FORMAT, "too short");
    expect_refused(tempdir_write(&dir, "seven", "\0\0\0\0\0\0", 7), L4_E_FORMAT, "too short");
    static const unsigned char lengths[][8] = {
        {9}, {0, 0, 0, 0, 0, 0, 0, 0x80}, {255, 255, 255, 255, 255, 255, 255, 255}};
    for (int i = 0; i < 3; i++) {
        char bytes[16];
        memcpy(bytes, lengths[i], 8);
        memcpy(bytes + 8, "{}      ", 8);
        expect_refused(tempdir_write(&dir, "length", bytes, 16), L4_E_FORMAT, "reaches past the end of the file at 16");
    }
    const unsigned char huge[8] = {0x01, 0xe1, 0xf5, 0x05}; /* 100,000,001 bytes of header, all there (as a hole) */
    const char *path = tempdir_write(&dir, "huge", huge, 8);
    assert_int_equal(truncate(path, 100000001 + 8), 0);
    expect_refused(path, L4_E_FORMAT, "at most 100000000");
}

static void test_bad_json(void **state) {
    (void)state;
    static const struct {
        const char *header, *why;
    } cases[] = {
        {"", "begin with {"},
        {" {}", "begin with {"},
        {"[]", "begin with {"},
        {"{", "not JSON"},
        {"{\"a\":}", "not JSON"},
        {"{} {}", "not JSON"},
        {"{\"a", "not JSON"},
        {"{\"a\\", "not JSON"},
        {"{\"a\\u0000b\":{}}", "\\u0000"},
        {"{\"__metadata__\":3}", "__metadata__: expected an object, found 3"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}",
         "a stands there twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(tempdir_safetensors(&dir, "json", cases[i].header, 1), L4_E_FORMAT, cases[i].why);
    expect_refused(tempdir_write(&dir, "nul", "\4\0\0\0\0\0\0\0{}\0}", 12), L4_E_FORMAT, "a NUL at byte 2");

    size_t n = 100000;
    char *deep = malloc(6 * n + 1);
    assert_non_null(deep);
    for (size_t i = 0; i < n; i++)
        memcpy(deep + 5 * i, "{\"a\":", 5);
    memset(deep + 5 * n, '}', n);
    deep[6 * n] = '\0';
    expect_refused(tempdir_safetensors(&dir, "deep", deep, 0), L4_E_FORMAT, "nested deeper than 64");
    free(deep);

    n = 10000000; /* 20 MB of text that would be a gigabyte of values */
    char *wide = malloc(2 * n + 1);
    assert_non_null(wide);
    for (size_t i = 0; i < n; i++)
        memcpy(wide + 2 * i, "1,", 2);
    memcpy(wide, "{[", 2);
    wide[2 * n] = '\0';
    expect_refused(tempdir_safetensors(&dir, "wide", wide, 0), L4_E_FORMAT, "holds more than");
    free(wide);
}

/* One tensor "t" in a data section of 16 bytes. */
static void test_bad_tensors(void **state) {
    (void)state;
    static const struct {
        const char *entry, *why;
    } cases[] = {
        {"1", "expected an object, found 1"},
        {"[]", "expected an object, found an array of 0"},
        {"{}", "dtype: expected"},
        {"{\"dtype\":\"F32\",\"dtype\":\"F32\"}", "dtype stands there twice"},
        {"{\"dtype\":7}", "found 7"},
        {"{\"dtype\":\"F33\"}", "found \"F33\""},
        {"{\"dtype\":\"f32\\n\"}", "found \"f32?\""},
        {"{\"dtype\":\"F32\"}", "shape: expected an array of at most 8, found nothing"},
        {"{\"dtype\":\"F32\",\"shape\":4}", "shape: expected an array"},
        {"{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,4]}", "found an array of 9"},
        {"{\"dtype\":\"F32\",\"shape\":[-4]}", "found -4"},
        {"{\"dtype\":\"F32\",\"shape\":[1.5]}", "found 1.5"},
        {"{\"dtype\":\"F32\",\"shape\":[1e308]}", "found 1e+308"},
        {"{\"dtype\":\"F32\",\"shape\":[9007199254740993]}", "integers 0..2^53"},
        {"{\"dtype\":\"F32\",\"shape\":[\"4\"]}", "found \"4\""},
        {"{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296]}", "overflows"},
        {"{\"dtype\":\"F32\",\"shape\":[4611686018427387904]}", "integers 0..2^53"},
        {"{\"dtype\":\"F32\",\"shape\":[4]}", "data_offsets: expected two integers"},
        {"{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0]}", "data_offsets: expected two integers"},
        {"{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,8,16]}", "data_offsets: expected two integers"},
        {"{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[-16,0]}", "data_offsets: expected two integers"},
        {"{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,18446744073709551616]}", "expected two integers"},
        {"{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[16,0]}",
         "[16, 0]: expected an ascending pair within 0..16"},
        {"{\"dtype\":\"F32\",\"shape\":[5],\"data_offsets\":[0,20]}",
         "[0, 20]: expected an ascending pair within 0..16"},
        {"{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,16]}", "expected 12 bytes"},
        {"{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[0,16]}", "expected 8 bytes"},
        {"{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]}", "tensors end at byte 12 of the data section"},
        {"{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[4,16]}", "leaving a hole after"},
        {"{\"dtype\":\"U8\",\"shape\":[10],\"data_offsets\":[0,10]},"
         "\"u\":{\"dtype\":\"U8\",\"shape\":[10],\"data_offsets\":[6,16]}",
         "u: data starts at 6, overlapping"},
        {"{\"dtype\":\"U8\",\"shape\":[16],\"data_offsets\":[0,16]},"
         "\"u\":{\"dtype\":\"U8\",\"shape\":[16],\"data_offsets\":[0,16]}",
         "data starts at 0, overlapping"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char header[512];
        int len = snprintf(header, sizeof header, "{\"t\":%s}       ", cases[i].entry);
        header[len - len % 8] = '\0';
        expect_refused(tempdir_safetensors(&dir, "tensor", header, 16), L4_E_FORMAT, cases[i].why);
    }
    /* two bytes before an F32: each tensor fits, but no pointer to float could be made */
    char header[512];
    int len = snprintf(header, sizeof header,
                       "{\"a\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,2]},"
                       "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}       ");
    header[len - len % 8] = '\0';
    expect_refused(tempdir_safetensors(&dir, "odd", header, 6), L4_E_FORMAT, "no multiple of its element size 4");
}

static long resident_kib(void) {
    long size = 0, resident = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    assert_non_null(statm);
    assert_int_equal(fscanf(statm, "%ld %ld", &size, &resident), 2);
    fclose(statm);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* All of it a hole in the file: what is opened is as large as Scout, what is read is the header and one page. */
static void test_200_gigabytes(void **state) {
    (void)state;
    const size_t n = 100000000000;
    char header[256];
    int len = snprintf(header, sizeof header, "%s       ",
                       "{\"w\":{\"dtype\":\"BF16\",\"shape\":[100000,1000000],\"data_offsets\":[0,200000000000]}}");
    header[len - len % 8] = '\0';
    const char *path = tempdir_safetensors(&dir, "big", header, 2 * n);
    struct safetensors *file;
    struct l4_err err;
    long before = resident_kib();
    if (safetensors_open(&file, path, &err) != 0)
        fail_msg("%s", err.message);
    const struct tensor *w = safetensors_find(file, "w");
    assert_int_equal(w->size_bytes, 2 * n);
    assert_int_equal(((const uint16_t *)w->data)[n - 1], 0);
    assert_true(resident_kib() - before < 4096);
    safetensors_close(file);
}

/* What a process says and how it ends when its mapping loses the pages behind it. */
static int touch_truncated(const char *path, int handler_status, char *said, size_t said_bytes) {
    int to_parent[2], status;
    assert_int_equal(pipe(to_parent), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct safetensors *file;
        struct l4_err err;
        dup2(to_parent[1], STDERR_FILENO);
        if (l4_install_fault_handler(handler_status) != 0 || safetensors_open(&file, path, &err) != 0 ||
            truncate(path, 4096) != 0)
            _exit(1);
        const struct tensor *tensor = safetensors_find(file, "t");
        _exit(((const volatile unsigned char *)tensor->data)[tensor->size_bytes - 1] == 0 ? 2 : 3);
    }
    close(to_parent[1]);
    size_t n = 0;
    ssize_t got;
    while ((got = read(to_parent[0], said + n, said_bytes - 1 - n)) > 0)
        n += (size_t)got;
    said[n] = '\0';
    close(to_parent[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void test_truncated_while_mapped(void **state) {
    (void)state;
    const char header[] = "{\"t\":{\"dtype\":\"U8\",\"shape\":[1000000],\"data_offsets\":[0,1000000]}}";
    const char *path = tempdir_safetensors(&dir, "shrinks", header, 1000000);
    char said[1024], expected[512];
    int status = touch_truncated(path, 42, said, sizeof said);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);
    snprintf(expected, sizeof expected, "error: %s: truncated, or no longer readable, while in use\n", path);
    assert_string_equal(said, expected);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixture),
        cmocka_unit_test(test_data),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_bad_json),
        cmocka_unit_test(test_bad_tensors),
        cmocka_unit_test(test_200_gigabytes),
        cmocka_unit_test(test_truncated_while_mapped),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
