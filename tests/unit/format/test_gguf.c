/* The GGUF reader: what it gives for good files, one or split, and what it says about bad ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/format/gguf.h"
#include "tests/lib/failmalloc.h"
#include "tests/lib/gguf_bytes.h"
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

static const char *write_file(const char *name, struct l4_buf *bytes) {
    const char *path = tempdir_write(&dir, name, bytes->data, bytes->len);
    l4_buf_free(bytes);
    return path;
}

static void expect_refused_at(const char *path, int code, const char *why) {
    struct gguf *gguf = NULL;
    struct l4_err err = {0};
    assert_int_equal(gguf_open(&gguf, path, &err), code);
    assert_null(gguf);
    assert_int_equal(err.code, code);
    if (strstr(err.message, why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.message, why);
    assert_non_null(strstr(err.message, dir.path)); /* the file is always named */
    assert_null(strchr(err.message, '\n'));
}

static void expect_refused(struct l4_buf *bytes, const char *why) {
    expect_refused_at(write_file("bad.gguf", bytes), L4_E_FORMAT, why);
}

static struct gguf *open_or_fail(const char *path) {
    struct gguf *gguf = NULL;
    struct l4_err err;
    if (gguf_open(&gguf, path, &err) != 0)
        fail_msg("%s", err.message);
    return gguf;
}

/* ---- good files ------------------------------------------------------------------------------------------------ */

static void test_fixture(void **state) {
    (void)state;
    struct gguf *gguf = open_or_fail("tests/fixtures/gguf_types.gguf");
    const char *file_name = NULL;
    assert_int_equal(gguf_n_tensors(gguf), 23);
    const struct tensor *tensor = gguf_find_tensor(gguf, "q4_k", &file_name);
    assert_non_null(tensor);
    assert_string_equal(file_name, "gguf_types.gguf");
    assert_int_equal(tensor->type, DT_Q4_K);
    assert_int_equal(tensor->n_dims, 2);
    assert_int_equal(tensor->shape[0], 4);
    assert_int_equal(tensor->shape[1], 512);
    assert_int_equal(tensor->size_bytes, 4 * 2 * 144);
    assert_null(gguf_find_tensor(gguf, "q4_", NULL));
    gguf_close(gguf);
    assert_true(gguf_is_file("tests/fixtures/gguf_types.gguf"));
    assert_false(gguf_is_file("tests/fixtures/gguf_types.safetensors"));
    assert_false(gguf_is_file("tests/fixtures"));
}

/* One key of each type, one tensor of three dimensions, an alignment of its own. */
static struct l4_buf good_file(uint32_t version) {
    struct l4_buf b = {0};
    const uint64_t dims[] = {4, 3, 2}, row[] = {32};
    gguf_put_header(&b, version, 2, 10);
    gguf_put_u32(&b, "u32", 4000000000);
    gguf_put_f32(&b, "f32", 0.5F);
    gguf_put_string(&b, "text", "some");
    gguf_put_key(&b, "i8", GGUF_INT8), gguf_put(&b, 0xfe, 1);
    gguf_put_key(&b, "i64", GGUF_INT64), gguf_put(&b, UINT64_MAX, 8);
    gguf_put_key(&b, "u64", GGUF_UINT64), gguf_put(&b, UINT64_MAX, 8);
    gguf_put_key(&b, "yes", GGUF_BOOL), gguf_put(&b, 1, 1);
    gguf_put_array(&b, "ids", GGUF_INT32, 2), gguf_put(&b, 7, 4), gguf_put(&b, 0xffffffff, 4);
    gguf_put_array(&b, "names", GGUF_STRING, 3), gguf_put_text(&b, "a"), gguf_put_text(&b, ""), gguf_put_text(&b, "bc");
    gguf_put_u32(&b, "general.alignment", 64);
    gguf_put_tensor(&b, "second", 1, row, 8, 128);
    gguf_put_tensor(&b, "first", 3, dims, 0, 0);
    gguf_put_zeros(&b, 64, 96);
    gguf_put_zeros(&b, 64, 0);
    gguf_put(&b, 0x3c00, 2);
    for (int i = 0; i < 32; i++)
        gguf_put(&b, (uint64_t)i, 1);
    return b;
}

static void check_good(uint32_t version) {
    struct l4_buf bytes = good_file(version);
    struct gguf *gguf = open_or_fail(write_file("good.gguf", &bytes));
    struct l4_err err = {0};
    struct gguf_reader reader = {.gguf = gguf, .err = &err};
    int64_t integer = 5;
    double number = 5;
    bool yes = false;
    int32_t id;
    struct gguf_text text;
    struct gguf_array array;
    assert_true(gguf_has(&reader, "u32"));
    assert_false(gguf_has(&reader, "u3"));
    assert_true(gguf_integer(&reader, "u32", GGUF_REQUIRED, 0, INT64_MAX, &integer));
    assert_int_equal(integer, 4000000000);
    assert_true(gguf_integer(&reader, "i8", GGUF_REQUIRED, -5, 5, &integer));
    assert_int_equal(integer, -2);
    assert_true(gguf_integer(&reader, "i64", GGUF_REQUIRED, -5, 5, &integer));
    assert_int_equal(integer, -1);
    assert_false(gguf_integer(&reader, "none", GGUF_OPTIONAL, 0, 9, &integer));
    assert_int_equal(integer, -1);
    assert_true(gguf_number(&reader, "f32", GGUF_REQUIRED, 0, 1, &number));
    assert_true(number == 0.5);
    assert_true(gguf_bool(&reader, "yes", GGUF_REQUIRED, &yes));
    assert_true(yes);
    assert_true(gguf_string(&reader, "text", GGUF_REQUIRED, &text));
    assert_true(gguf_text_is(text, "some"));
    assert_false(gguf_text_is(text, "somewhat"));
    assert_true(gguf_read_array(&reader, "ids", GGUF_REQUIRED, GGUF_INT32, &array));
    assert_true(gguf_next_i32(&array, &id) && id == 7);
    assert_true(gguf_next_i32(&array, &id) && id == -1);
    assert_false(gguf_next_i32(&array, &id));
    assert_true(gguf_read_array(&reader, "names", GGUF_REQUIRED, GGUF_STRING, &array));
    assert_true(gguf_next_string(&array, &text) && gguf_text_is(text, "a"));
    assert_true(gguf_next_string(&array, &text) && gguf_text_is(text, ""));
    assert_true(gguf_next_string(&array, &text) && gguf_text_is(text, "bc"));
    assert_false(gguf_next_string(&array, &text));
    assert_int_equal(reader.rc, 0);

    const struct tensor *first = gguf_find_tensor(gguf, "first", NULL),
                        *second = gguf_find_tensor(gguf, "second", NULL);
    assert_int_equal(first->n_dims, 3);
    assert_int_equal(first->shape[0], 2); /* outermost first */
    assert_int_equal(first->shape[2], 4);
    assert_int_equal((const char *)second->data - (const char *)first->data, 128);
    assert_int_equal(((const unsigned char *)second->data)[1], 0x3c);
    assert_int_equal(second->size_bytes, 34);
    gguf_close(gguf);
}

static void test_versions(void **state) {
    (void)state;
    check_good(2);
    check_good(3);
    static const struct {
        uint32_t version;
        const char *why;
    } cases[] = {{1, "version 1"}, {4, "version 4"}, {0, "version 0"}, {0x03000000, "big-endian"}, {0x02000000, "big"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct l4_buf bytes = good_file(cases[i].version);
        expect_refused_at(write_file("bad.gguf", &bytes), L4_E_UNSUPPORTED, cases[i].why);
    }
}

static void expect_key(struct gguf *gguf, const char *key, const char *why) {
    struct l4_err err = {0};
    struct gguf_reader reader = {.gguf = gguf, .err = &err};
    struct gguf_array array;
    struct gguf_text text;
    double number;
    int64_t integer;
    bool yes;
    if (strcmp(key, "names") == 0)
        assert_false(gguf_read_array(&reader, key, GGUF_REQUIRED, GGUF_INT32, &array));
    else if (strcmp(key, "ids") == 0)
        assert_false(gguf_string(&reader, key, GGUF_REQUIRED, &text));
    else if (strcmp(key, "f32") == 0)
        assert_false(gguf_bool(&reader, key, GGUF_REQUIRED, &yes));
    else if (strcmp(key, "text") == 0)
        assert_false(gguf_number(&reader, key, GGUF_REQUIRED, 0, 1, &number));
    else
        assert_false(gguf_integer(&reader, key, GGUF_REQUIRED, 0, 9, &integer));
    assert_int_equal(reader.rc, L4_E_FORMAT);
    if (strstr(err.message, why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.message, why);
    assert_false(gguf_integer(&reader, "none", GGUF_OPTIONAL, 0, 9, &integer)); /* the first error stays */
    assert_non_null(strstr(err.message, why));
}

static void test_wrong_types(void **state) {
    (void)state;
    struct l4_buf bytes = good_file(3);
    struct gguf *gguf = open_or_fail(write_file("good.gguf", &bytes));
    expect_key(gguf, "u32", "good.gguf: u32: expected an integer 0..9, found 4000000000");
    expect_key(gguf, "u64", "u64: expected an integer 0..9, found 18446744073709551615");
    expect_key(gguf, "i8", "found -2");
    expect_key(gguf, "yes", "expected an integer 0..9, found true");
    expect_key(gguf, "none", "none: expected an integer, found nothing");
    expect_key(gguf, "names", "expected an array of INT32, found an array of 3 STRING");
    expect_key(gguf, "ids", "expected a string, found an array of 2 INT32");
    expect_key(gguf, "f32", "expected true or false, found 0.5");
    expect_key(gguf, "text", "expected a number 0..1, found \"some\"");
    gguf_close(gguf);
}

/* ---- threats: counts and lengths ------------------------------------------------------------------------------- */

static const uint64_t HUGE_COUNTS[] = {1000,        0x7fffffff,         0x80000000,         0xffffffff,     0x100000000,
                                       0x100000001, 0x0fffffffffffffff, 0x7fffffffffffffff, UINT64_MAX - 1, UINT64_MAX};
enum { N_HUGE = sizeof HUGE_COUNTS / sizeof *HUGE_COUNTS };

static void test_huge_counts(void **state) {
    (void)state;
    for (int i = 0; i < N_HUGE; i++) {
        struct l4_buf keys = {0}, tensors = {0}, name = {0}, value = {0}, array = {0}, strings = {0}, inner = {0};
        gguf_put_header(&keys, 3, 0, HUGE_COUNTS[i]);
        gguf_put_u32(&keys, "a", 1);
        expect_refused(&keys, "keys are announced, the file has room for 1 at most");

        gguf_put_header(&tensors, 3, HUGE_COUNTS[i], 0);
        gguf_put_zeros(&tensors, 1, 40);
        expect_refused(&tensors, "tensors are announced, the file has room for 1 at most");

        gguf_put_header(&name, 3, 0, 1);
        gguf_put(&name, HUGE_COUNTS[i], 8);
        gguf_put_zeros(&name, 1, 20);
        expect_refused(&name, "the name of a key: a length of");

        gguf_put_header(&value, 3, 0, 1);
        gguf_put_key(&value, "long", GGUF_STRING);
        gguf_put(&value, HUGE_COUNTS[i], 8);
        gguf_put_zeros(&value, 1, 20);
        expect_refused(&value, "long: a length of");

        gguf_put_header(&array, 3, 0, 1);
        gguf_put_array(&array, "many", i % 2 ? GGUF_UINT8 : GGUF_FLOAT64, HUGE_COUNTS[i]);
        gguf_put_zeros(&array, 1, 20);
        expect_refused(&array, "many: an array of");

        gguf_put_header(&strings, 3, 0, 1);
        gguf_put_array(&strings, "many", GGUF_STRING, HUGE_COUNTS[i]);
        gguf_put_zeros(&strings, 1, 20);
        expect_refused(&strings, "many: an array of");

        gguf_put_header(&inner, 3, 0, 1);
        gguf_put_array(&inner, "some", GGUF_STRING, 2);
        gguf_put_text(&inner, "a");
        gguf_put(&inner, HUGE_COUNTS[i], 8);
        gguf_put_zeros(&inner, 1, 20);
        expect_refused(&inner, "some: a length of");
    }
}

/* A good file cut anywhere is refused, and whatever else is wrong is seen before memory is touched. */
static void test_cut_anywhere(void **state) {
    (void)state;
    struct l4_buf whole = good_file(3);
    for (size_t n = 0; n < whole.len; n++)
        expect_refused_at(tempdir_write(&dir, "cut.gguf", whole.data, n), L4_E_FORMAT, "cut.gguf: ");
    l4_buf_free(&whole);
    expect_refused_at(tempdir_puts(&dir, "other.gguf", "GGML and more bytes"), L4_E_FORMAT, "begin with \"GGUF\"");
    expect_refused_at(tempdir_file(&dir, "missing.gguf"), L4_E_NOT_FOUND, "No such file");
    expect_refused_at(dir.path, L4_E_IO, "not a regular file");
}

static void test_bad_values(void **state) {
    (void)state;
    struct l4_buf type = {0}, nested = {0}, element = {0}, boolean = {0}, empty = {0}, twice = {0};
    gguf_put_header(&type, 3, 0, 1);
    gguf_put_key(&type, "odd\n", 13);
    gguf_put_zeros(&type, 1, 20);
    expect_refused(&type, ": a value of type 13, allowed are 0..12");

    gguf_put_header(&nested, 3, 0, 1);
    gguf_put_array(&nested, "nested", GGUF_ARRAY, 1);
    gguf_put_zeros(&nested, 1, 20);
    expect_refused(&nested, "nested: an array of elements of type 9");

    gguf_put_header(&element, 3, 0, 1);
    gguf_put_array(&element, "odd", 77, 0);
    expect_refused(&element, "odd: an array of elements of type 77");

    gguf_put_header(&boolean, 3, 0, 1);
    gguf_put_key(&boolean, "perhaps", GGUF_BOOL), gguf_put(&boolean, 2, 1);
    expect_refused(&boolean, "perhaps: a BOOL of 2");

    gguf_put_header(&empty, 3, 0, 1);
    gguf_put_u32(&empty, "", 1);
    gguf_put_zeros(&empty, 1, 8);
    expect_refused(&empty, "key 0 has an empty name");

    gguf_put_header(&twice, 3, 0, 3);
    gguf_put_u32(&twice, "same", 1);
    gguf_put_u32(&twice, "other", 1);
    gguf_put_string(&twice, "same", "x");
    expect_refused(&twice, "the key same stands there twice");
}

/* ---- threats: alignment and tensors ---------------------------------------------------------------------------- */

static void test_alignment(void **state) {
    (void)state;
    static const uint32_t bad[] = {0, 3, 24, 33, 0x80000001, UINT32_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct l4_buf b = {0};
        gguf_put_header(&b, 3, 0, 1);
        gguf_put_u32(&b, "general.alignment", bad[i]);
        expect_refused(&b, "general.alignment: expected a power of two, found ");
    }
    const uint64_t dims[] = {1};
    struct l4_buf text = {0}, huge = {0};
    gguf_put_header(&text, 3, 0, 1);
    gguf_put_string(&text, "general.alignment", "32");
    expect_refused(&text, "general.alignment: expected a UINT32, found STRING");
    gguf_put_header(&huge, 3, 1, 1);
    gguf_put_u32(&huge, "general.alignment", 0x80000000);
    gguf_put_tensor(&huge, "t", 1, dims, 0, 0);
    gguf_put_zeros(&huge, 64, 64);
    expect_refused(&huge, "would start at byte 2147483648, past the end");
}

/* One tensor in a file of 128 bytes of data. */
static void expect_tensor_refused(uint32_t n_dims, const uint64_t *dims, uint32_t type, uint64_t offset,
                                  const char *why) {
    struct l4_buf b = {0};
    char named[128];
    gguf_put_header(&b, 3, 1, 0);
    gguf_put_text(&b, "t.weight");
    gguf_put(&b, n_dims, 4);
    for (uint32_t i = 0; i < n_dims && i < 8; i++)
        gguf_put(&b, dims[i], 8);
    gguf_put(&b, type, 4);
    gguf_put(&b, offset, 8);
    gguf_put_zeros(&b, 32, 128);
    snprintf(named, sizeof named, "tensor t.weight: %s", why);
    expect_refused(&b, named);
}

static void test_shapes(void **state) {
    (void)state;
    const uint64_t one[] = {1, 1, 1, 1, 1, 1, 1, 1};
    expect_tensor_refused(0, one, 0, 0, "0 dimensions, allowed are 1..4");
    expect_tensor_refused(5, one, 0, 0, "5 dimensions, allowed are 1..4");
    expect_tensor_refused(UINT32_MAX, one, 0, 0, "4294967295 dimensions");
    for (uint32_t at = 0; at < 4; at++) {
        uint64_t dims[] = {1, 1, 1, 1};
        dims[at] = 0;
        expect_tensor_refused(4, dims, 0, 0, "a dimension of 0, allowed are 1..2^63-1");
        dims[at] = (uint64_t)1 << 63;
        expect_tensor_refused(4, dims, 0, 0, "a dimension of 9223372036854775808");
        dims[at] = UINT64_MAX;
        expect_tensor_refused(4, dims, 0, 0, "a dimension of 18446744073709551615");
        dims[at] = INT64_MAX;
        expect_tensor_refused(4, dims, 0, 0, "its size in bytes overflows");
        dims[at] = (uint64_t)1 << 40;
        expect_tensor_refused(4, dims, 0, 0, "4398046511104 bytes at byte 0 of the data reach past its end at 128");
    }
    static const uint64_t products[][4] = {{(uint64_t)1 << 32, (uint64_t)1 << 32, 1, 1},
                                           {(uint64_t)1 << 62, 4, 1, 1},
                                           {65536, 65536, 65536, 65536},
                                           {3037000500, 3037000500, 1, 1}};
    for (size_t i = 0; i < 4; i++)
        expect_tensor_refused(4, products[i], 0, 0, "its number of elements overflows");
    static const uint64_t bytes[][2] = {{(uint64_t)1 << 31, (uint64_t)1 << 31}, {(uint64_t)1 << 62, 1}};
    for (size_t i = 0; i < 2; i++)
        expect_tensor_refused(2, bytes[i], 28, 0, "its size in bytes overflows");
    const uint64_t ragged[] = {33, 32}, k_ragged[] = {32, 256};
    expect_tensor_refused(2, ragged, 2, 0, "rows of 33 elements, Q4_0 wants a multiple of 32");
    expect_tensor_refused(2, k_ragged, 12, 0, "rows of 32 elements, Q4_K wants a multiple of 256");
}

static void test_types(void **state) {
    (void)state;
    const uint64_t dims[] = {256};
    static const uint32_t unknown[] = {4, 5, 9, 15, 31, 36, 38, 40, 255, 0x80000000, UINT32_MAX};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        char why[40];
        snprintf(why, sizeof why, "type %u is not one that is known", unknown[i]);
        expect_tensor_refused(1, dims, unknown[i], 0, why);
    }
}

static void test_places(void **state) {
    (void)state;
    const uint64_t dims[] = {8}, long_dims[] = {33}, f64[] = {1};
    expect_tensor_refused(1, dims, 0, 16, "starts at byte 16 of the data, which is no multiple of 32");
    expect_tensor_refused(1, dims, 0, 128, "32 bytes at byte 128 of the data reach past its end at 128");
    expect_tensor_refused(1, long_dims, 0, 0, "132 bytes at byte 0 of the data reach past its end at 128");
    static const uint64_t offsets[] = {0xffffffe0, 0x100000000, (uint64_t)1 << 63, UINT64_MAX - 31};
    for (size_t i = 0; i < 4; i++)
        expect_tensor_refused(1, dims, 0, offsets[i], "32 bytes at byte ");

    struct l4_buf odd = {0};
    gguf_put_header(&odd, 3, 1, 1);
    gguf_put_u32(&odd, "general.alignment", 1);
    gguf_put_tensor(&odd, "t.weight", 1, f64, 28, odd.len % 2 ? 0 : 1);
    gguf_put_zeros(&odd, 1, 64);
    expect_refused(&odd, "tensor t.weight: is not aligned to its element size 8");

    struct l4_buf overlap = {0}, name = {0}, twice = {0};
    gguf_put_header(&overlap, 3, 2, 0);
    gguf_put_tensor(&overlap, "b", 1, (const uint64_t[]){8}, 0, 32);
    gguf_put_tensor(&overlap, "a", 1, (const uint64_t[]){9}, 0, 0);
    gguf_put_zeros(&overlap, 32, 128);
    expect_refused(&overlap, "tensor b: starts at byte 32 of the data, within the tensor before it");

    gguf_put_header(&name, 3, 1, 0);
    gguf_put_tensor(&name, "", 1, dims, 0, 0);
    gguf_put_zeros(&name, 32, 128);
    expect_refused(&name, "a tensor has an empty name");

    gguf_put_header(&twice, 3, 2, 0);
    gguf_put_tensor(&twice, "same", 1, dims, 0, 32);
    gguf_put_tensor(&twice, "same", 1, dims, 0, 0);
    gguf_put_zeros(&twice, 32, 128);
    expect_refused(&twice, "the tensor same stands there twice");
}

/* ---- split models ---------------------------------------------------------------------------------------------- */

struct part {
    const char *file, *tensor;
    int no, count, n_tensors; /* -1: the key is left out */
};

static const char *write_part(const struct part *part) {
    struct l4_buf b = {0};
    const uint64_t dims[] = {8};
    const int n_keys = (part->no >= 0) + (part->count >= 0) + (part->n_tensors >= 0);
    gguf_put_header(&b, 3, part->tensor != NULL, (uint64_t)n_keys);
    if (part->no >= 0)
        gguf_put_key(&b, "split.no", GGUF_UINT16), gguf_put(&b, (uint64_t)part->no, 2);
    if (part->count >= 0)
        gguf_put_key(&b, "split.count", GGUF_UINT16), gguf_put(&b, (uint64_t)part->count, 2);
    if (part->n_tensors >= 0)
        gguf_put_key(&b, "split.tensors.count", GGUF_INT32), gguf_put(&b, (uint64_t)part->n_tensors, 4);
    if (part->tensor != NULL)
        gguf_put_tensor(&b, part->tensor, 1, dims, 0, 0);
    gguf_put_zeros(&b, 32, 32);
    return write_file(part->file, &b);
}

static void test_split(void **state) {
    (void)state;
    static const struct part parts[] = {{"m-00001-of-00003.gguf", NULL, 0, 3, 2},
                                        {"m-00002-of-00003.gguf", "b", 1, 3, 2},
                                        {"m-00003-of-00003.gguf", "a", 2, 3, 2}};
    const char *paths[3], *file_name;
    for (int i = 0; i < 3; i++)
        paths[i] = write_part(&parts[i]);
    struct gguf *gguf = open_or_fail(paths[0]);
    assert_int_equal(gguf_n_tensors(gguf), 2);
    assert_non_null(gguf_find_tensor(gguf, "a", &file_name));
    assert_string_equal(file_name, "m-00003-of-00003.gguf");
    assert_non_null(gguf_find_tensor(gguf, "b", &file_name));
    assert_string_equal(file_name, "m-00002-of-00003.gguf");
    gguf_close(gguf);
    expect_refused_at(paths[1], L4_E_FORMAT, "part 2 of 3: open the first, NAME-00001-of-00003.gguf");
    FAILMALLOC_EACH(n) {
        struct l4_err err;
        int rc = gguf_open(&gguf, paths[0], &err);
        failmalloc_disarm();
        if (rc == 0)
            gguf_close(gguf);
        else
            assert_int_equal(rc, L4_E_NOMEM);
    }

    write_part(&(struct part){"m-00002-of-00003.gguf", "a", 1, 3, 2});
    expect_refused_at(paths[0], L4_E_FORMAT, "the tensor a stands there twice");
    write_part(&(struct part){"m-00002-of-00003.gguf", "b", 2, 3, 2});
    expect_refused_at(paths[0], L4_E_FORMAT, "split.no and split.count: expected 1 and 3, found 2 and 3");
    write_part(&(struct part){"m-00002-of-00003.gguf", "b", 1, 4, 2});
    expect_refused_at(paths[0], L4_E_FORMAT, "expected 1 and 3, found 1 and 4");
    write_part(&(struct part){"m-00002-of-00003.gguf", "b", -1, -1, -1});
    expect_refused_at(paths[0], L4_E_FORMAT, "expected 1 and 3, found 0 and 1");
    write_part(&(struct part){"m-00002-of-00003.gguf", NULL, 1, 3, 2});
    expect_refused_at(paths[0], L4_E_FORMAT, "split.tensors.count: expected 1, the number of tensors, found 2");
    assert_int_equal(unlink(paths[1]), 0);
    expect_refused_at(paths[0], L4_E_NOT_FOUND, "part 2 of 3 is missing: ");
    expect_refused_at(write_part(&(struct part){"whole.gguf", "a", 0, 3, 1}), L4_E_FORMAT,
                      "the first of 3 parts must be named NAME-00001-of-00003.gguf");
    expect_refused_at(write_part(&(struct part){"00001-of-00003.gguf", "a", 0, 3, 1}), L4_E_FORMAT, "must be named");
    expect_refused_at(write_part(&(struct part){"n-00001-of-00003.gguf", "a", 3, 3, 1}), L4_E_FORMAT,
                      "split.no: expected 0..2, found 3");
    expect_refused_at(write_part(&(struct part){"n-00001-of-65535.gguf", "a", 0, 65535, 1}), L4_E_NOT_FOUND,
                      "part 2 of 65535 is missing");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixture),     cmocka_unit_test(test_versions),     cmocka_unit_test(test_wrong_types),
        cmocka_unit_test(test_huge_counts), cmocka_unit_test(test_cut_anywhere), cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_alignment),   cmocka_unit_test(test_shapes),       cmocka_unit_test(test_types),
        cmocka_unit_test(test_places),      cmocka_unit_test(test_split),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
