/* The GGUF writer: what it writes is read back, and what it cannot write leaves no file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/format/gguf_write.h"
#include "tests/lib/failmalloc.h"
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

static int n_files(void) {
    DIR *entries = opendir(dir.path);
    const struct dirent *entry;
    int n = 0;
    assert_non_null(entries);
    while ((entry = readdir(entries)) != NULL)
        n += entry->d_name[0] != '.';
    closedir(entries);
    return n;
}

static const float VALUES[6] = {1, 2, 3, 4, 5, 6};
static const uint8_t BLOCKS[36] = {7, 8, 9};

/* Some keys and two tensors; 0 or the error. */
static int write_small(const char *path, bool overwrite, struct l4_err *err) {
    struct gguf_writer *writer;
    uint64_t size_bytes;
    int rc = gguf_writer_open(&writer, path, overwrite, err);
    if (rc != 0)
        return rc;
    gguf_write_string(writer, "general.architecture", "llama4", 6);
    gguf_write_u32(writer, "a.number", 4000000000U);
    gguf_write_f32(writer, "a.real", 0.5F);
    gguf_write_bool(writer, "a.flag", false);
    gguf_write_array(writer, "texts", GGUF_STRING, 2);
    gguf_write_element_string(writer, "", 0);
    gguf_write_element_string(writer, "two words", 9);
    gguf_write_array(writer, "ids", GGUF_INT32, 2);
    gguf_write_element_i32(writer, -7);
    gguf_write_element_i32(writer, 8);
    rc = gguf_write_tensor(writer, "floats", DT_F32, 2, (const int64_t[]){2, 3}, err);
    if (rc == 0)
        rc = gguf_write_tensor(writer, "blocks", DT_Q4_0, 1, (const int64_t[]){64}, err);
    if (rc == 0)
        rc = gguf_writer_begin(writer, &size_bytes, err);
    if (rc == 0)
        rc = gguf_writer_put(writer, 1, 0, BLOCKS, sizeof BLOCKS, err);
    for (size_t i = 2; rc == 0 && i-- > 0;) /* back to front, in pieces */
        rc = gguf_writer_put(writer, 0, 12 * i, VALUES + 3 * i, 12, err);
    if (rc == 0)
        rc = gguf_writer_commit(writer, err);
    if (rc == 0) {
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, size_bytes);
    }
    gguf_writer_close(writer);
    return rc;
}

static void check_small(const char *path) {
    struct gguf *gguf;
    struct l4_err err;
    if (gguf_open(&gguf, path, &err) != 0)
        fail_msg("%s", err.message);
    struct gguf_reader reader = {.gguf = gguf, .err = &err};
    struct gguf_text text;
    struct gguf_array array;
    int64_t number;
    int32_t id;
    double real;
    bool flag = true;
    assert_true(gguf_string(&reader, "general.architecture", GGUF_REQUIRED, &text) && gguf_text_is(text, "llama4"));
    assert_true(gguf_integer(&reader, "a.number", GGUF_REQUIRED, 0, INT64_MAX, &number) && number == 4000000000);
    assert_true(gguf_number(&reader, "a.real", GGUF_REQUIRED, 0, 1, &real) && real == 0.5);
    assert_true(gguf_bool(&reader, "a.flag", GGUF_REQUIRED, &flag) && !flag);
    assert_true(gguf_read_array(&reader, "texts", GGUF_REQUIRED, GGUF_STRING, &array) && array.n == 2);
    assert_true(gguf_next_string(&array, &text) && text.len_bytes == 0);
    assert_true(gguf_next_string(&array, &text) && gguf_text_is(text, "two words"));
    assert_true(gguf_read_array(&reader, "ids", GGUF_REQUIRED, GGUF_INT32, &array) && array.n == 2);
    assert_true(gguf_next_i32(&array, &id) && id == -7);
    assert_true(gguf_next_i32(&array, &id) && id == 8);
    const struct tensor *floats = gguf_find_tensor(gguf, "floats", NULL);
    const struct tensor *blocks = gguf_find_tensor(gguf, "blocks", NULL);
    assert_int_equal(gguf_n_tensors(gguf), 2);
    assert_true(floats && floats->type == DT_F32 && floats->n_dims == 2 && floats->shape[0] == 2);
    assert_true(floats->shape[1] == 3);
    assert_memory_equal(floats->data, VALUES, sizeof VALUES);
    assert_true(blocks && blocks->type == DT_Q4_0 && blocks->n_dims == 1 && blocks->shape[0] == 64);
    assert_memory_equal(blocks->data, BLOCKS, sizeof BLOCKS);
    gguf_close(gguf);
}

static void test_round_trip(void **state) {
    (void)state;
    const char *path = tempdir_file(&dir, "small.gguf");
    assert_int_equal(write_small(path, false, NULL), 0);
    check_small(path);
    struct stat st;
    const mode_t mask = umask(0);
    umask(mask);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0666 & ~mask);
    assert_int_equal(n_files(), 1);
    unlink(path);
}

static void same_bytes_of_keys(const char *a, const char *b) {
    static char bytes[2][4096];
    size_t n[2];
    const char *paths[] = {a, b};
    for (int i = 0; i < 2; i++) {
        FILE *file = fopen(paths[i], "rb");
        assert_non_null(file);
        n[i] = fread(bytes[i], 1, sizeof bytes[i], file);
        fclose(file);
    }
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(bytes[0], bytes[1], n[0]);
}

static bool keep_all(struct gguf_text key) {
    (void)key;
    return true;
}
static bool keep_texts(struct gguf_text key) {
    return gguf_text_is(key, "texts");
}

/* All keys of another file: its bytes; some: only those. */
static void test_keys_of_another_file(void **state) {
    (void)state;
    const char *path = tempdir_file(&dir, "small.gguf"), *copy = tempdir_file(&dir, "copy.gguf");
    struct gguf *gguf;
    struct gguf_writer *writer;
    assert_int_equal(write_small(path, false, NULL), 0);
    for (int all = 0; all < 2; all++) {
        assert_int_equal(gguf_open(&gguf, path, NULL), 0);
        assert_int_equal(gguf_writer_open(&writer, copy, true, NULL), 0);
        gguf_write_keys_of(writer, gguf, all ? keep_all : keep_texts);
        assert_int_equal(gguf_write_tensor(writer, "floats", DT_F32, 2, (const int64_t[]){2, 3}, NULL), 0);
        assert_int_equal(gguf_write_tensor(writer, "blocks", DT_Q4_0, 1, (const int64_t[]){64}, NULL), 0);
        assert_int_equal(gguf_writer_begin(writer, NULL, NULL), 0);
        assert_int_equal(gguf_writer_put(writer, 0, 0, VALUES, sizeof VALUES, NULL), 0);
        assert_int_equal(gguf_writer_put(writer, 1, 0, BLOCKS, sizeof BLOCKS, NULL), 0);
        assert_int_equal(gguf_writer_commit(writer, NULL), 0);
        gguf_writer_close(writer);
        gguf_close(gguf);
        assert_int_equal(gguf_open(&gguf, copy, NULL), 0);
        const struct gguf_reader reader = {.gguf = gguf};
        assert_true(gguf_has(&reader, "texts"));
        assert_true(gguf_has(&reader, "ids") == (all == 1));
        gguf_close(gguf);
    }
    same_bytes_of_keys(path, copy);
    unlink(path);
    unlink(copy);
}

static void says(const struct l4_err *err, const char *words) {
    if (strstr(err->message, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err->message, words);
}

static void test_what_is_there_stays(void **state) {
    (void)state;
    struct l4_err err;
    const char *path = tempdir_puts(&dir, "taken.gguf", "precious");
    assert_int_equal(write_small(path, false, &err), L4_E_INVALID);
    says(&err, "taken.gguf: is there already and is not overwritten");
    assert_int_equal(write_small(path, true, &err), 0);
    check_small(path);
    assert_int_equal(write_small(dir.path, true, &err), L4_E_INVALID);
    says(&err, "is not a regular file");
    assert_int_equal(write_small(tempdir_file(&dir, "no/such.gguf"), false, &err), L4_E_NOT_FOUND);
    says(&err, "no/such.gguf: its directory does not exist");
    assert_int_equal(write_small(tempdir_file(&dir, "taken.gguf/small.gguf"), false, &err), L4_E_NOT_FOUND);
    assert_int_equal(n_files(), 1);
    unlink(path);
}

/* Somebody else is faster. */
static void test_a_file_that_appears(void **state) {
    (void)state;
    struct l4_err err;
    struct gguf_writer *writer;
    const char *path = tempdir_file(&dir, "late.gguf");
    assert_int_equal(gguf_writer_open(&writer, path, false, NULL), 0);
    assert_int_equal(gguf_writer_begin(writer, NULL, NULL), 0);
    tempdir_puts(&dir, "late.gguf", "precious");
    assert_int_equal(gguf_writer_commit(writer, &err), L4_E_INVALID);
    says(&err, "is there already");
    gguf_writer_close(writer);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 8);
    assert_int_equal(n_files(), 1);
    unlink(path);
}

static void test_bad_tensors(void **state) {
    (void)state;
    static const struct {
        const char *name;
        enum dtype type;
        int64_t shape[2];
        const char *words;
    } bad[] = {
        {"twice", DT_F32, {1, 1}, "tensor twice: was given twice"},
        {"rows", DT_Q4_K, {2, 128}, "tensor rows: not of a shape that Q4_K can have"},
        {"none", DT_F32, {0, 4}, "tensor none: not of a shape"},
        {"huge", DT_F32, {INT64_MAX / 2, 4}, "tensor huge: not of a shape"},
        {"large", DT_F32, {INT64_MAX / 4, 1}, "tensor large: not of a shape"}, /* with the one before it */
        {"unknown", DT_U16, {1, 4}, "tensor unknown: not of a shape that U16 can have"},
        {"a name of more than sixty-three bytes, which other engines do not read", DT_F32, {1, 4}, "at most 63 bytes"},
    };
    struct gguf_writer *writer;
    struct l4_err err;
    assert_int_equal(gguf_writer_open(&writer, tempdir_file(&dir, "bad.gguf"), false, NULL), 0);
    assert_int_equal(gguf_write_tensor(writer, "twice", DT_F32, 1, (const int64_t[]){40}, NULL), 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(gguf_write_tensor(writer, bad[i].name, bad[i].type, 2, bad[i].shape, &err), L4_E_INVALID);
        says(&err, bad[i].words);
    }
    assert_int_equal(gguf_write_tensor(writer, "many", DT_F32, 5, (const int64_t[]){1, 1, 1, 1, 1}, &err),
                     L4_E_INVALID);
    gguf_writer_close(writer);
    assert_int_equal(n_files(), 0);
}

/* A limit on the size of files is what a full disk is. */
static void test_no_room(void **state) {
    (void)state;
    struct rlimit before, tight;
    struct l4_err err;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    tight = before;
    tight.rlim_cur = 100;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    const int rc = write_small(tempdir_file(&dir, "small.gguf"), false, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(rc, L4_E_IO);
    says(&err, "small.gguf: cannot reserve ");
    assert_int_equal(n_files(), 0);

    struct gguf_writer *writer; /* and one that comes later */
    assert_int_equal(gguf_writer_open(&writer, tempdir_file(&dir, "small.gguf"), false, NULL), 0);
    assert_int_equal(gguf_write_tensor(writer, "floats", DT_F32, 1, (const int64_t[]){6}, NULL), 0);
    assert_int_equal(gguf_writer_begin(writer, NULL, NULL), 0);
    tight.rlim_cur = 70; /* the first numbers lie at byte 64 */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    const int put = gguf_writer_put(writer, 0, 0, VALUES, sizeof VALUES, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(put, L4_E_IO);
    says(&err, "small.gguf: cannot write ");
    assert_int_equal(n_files(), 1);
    gguf_writer_close(writer);
    assert_int_equal(n_files(), 0);
}

static void test_no_memory(void **state) {
    (void)state;
    const char *path = tempdir_file(&dir, "small.gguf");
    struct l4_err err;
    FAILMALLOC_EACH(n) {
        const int rc = write_small(path, false, &err);
        failmalloc_disarm();
        assert_true(rc == 0 || rc == L4_E_NOMEM);
        assert_int_equal(n_files(), rc == 0);
        unlink(path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),          cmocka_unit_test(test_keys_of_another_file),
        cmocka_unit_test(test_what_is_there_stays), cmocka_unit_test(test_a_file_that_appears),
        cmocka_unit_test(test_bad_tensors),         cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
