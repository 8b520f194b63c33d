/* A weight cache is used when it is whole and made of the same checkpoint, and not otherwise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/format/weight_cache.h"
#include "tests/lib/random_data.h"
#include "tests/lib/tempdir.h"

enum { DATA_BYTES = (100 << 20) + 12345 };

static struct tempdir dir;
static struct weight_cache_key key;
static char path[512];

static int n_files(void) {
    DIR *d = opendir(dir.path);
    assert_non_null(d);
    int n = 0;
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static uint32_t value_at(size_t i) {
    return (uint32_t)i * 2654435761u;
}

static void write_cache(void) {
    struct weight_cache cache;
    struct l4_err err;
    assert_int_equal(weight_cache_create(&cache, &key, &err), 0);
    uint32_t *data = cache.data;
    for (size_t i = 0; i < DATA_BYTES / sizeof *data; i++)
        data[i] = value_at(i);
    assert_int_equal(weight_cache_seal(&cache, &key, &err), 0);
    assert_true(data[1] == value_at(1)); /* stays usable */
    snprintf(path, sizeof path, "%s", cache.path);
    weight_cache_close(&cache);
    assert_int_equal(n_files(), 1);
}

static int make(void **state) {
    (void)state;
    tempdir_init(&dir);
    key = (struct weight_cache_key){dir.path, "model", 11, 22, DATA_BYTES};
    write_cache();
    return 0;
}

static int clean(void **state) {
    (void)state;
    tempdir_fini(&dir);
    return 0;
}

static void maps(bool verify) {
    struct weight_cache cache;
    struct l4_err err;
    if (weight_cache_map(&cache, &key, verify, &err) != 0)
        fail_msg("%s", err.message);
    const uint32_t *data = cache.data;
    assert_int_equal((uintptr_t)data % 64, 0);
    for (size_t i = 0; i < DATA_BYTES / sizeof *data; i += 1009)
        assert_true(data[i] == value_at(i));
    weight_cache_close(&cache);
}

static void refuses(bool verify, int code, const char *words) {
    struct weight_cache cache;
    struct l4_err err;
    assert_int_equal(weight_cache_map(&cache, &key, verify, &err), code);
    assert_null(cache.data);
    if (!strstr(err.message, words))
        fail_msg("\"%s\" does not say \"%s\"", err.message, words);
}

static void spoil(off_t at) {
    int fd = open(path, O_RDWR | O_CLOEXEC);
    unsigned char byte = 0;
    assert_true(fd >= 0 && pread(fd, &byte, 1, at) == 1);
    byte ^= 4;
    assert_true(pwrite(fd, &byte, 1, at) == 1);
    close(fd);
}

static void test_whole(void **state) {
    (void)state;
    maps(false);
    maps(true);
    write_cache(); /* in the place of the old one */
    maps(false);
}

static void test_other_checkpoint_or_layout(void **state) {
    (void)state;
    key.checkpoint_hash++;
    refuses(false, L4_E_FORMAT, "the checkpoint has changed");
    key.checkpoint_hash--;
    key.layout_hash++;
    refuses(false, L4_E_NOT_FOUND, "model-");
    key.layout_hash--;
    key.data_bytes += 4;
    refuses(false, L4_E_FORMAT, "it was packed in another way");
    key.data_bytes -= 4;
    maps(true);
}

static void test_damage(void **state) {
    (void)state;
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    const off_t data = st.st_size - DATA_BYTES;
    static const off_t in_header[] = {0, 9, 20, 30, 40, 50};
    for (size_t i = 0; i < sizeof in_header / sizeof in_header[0]; i++) {
        spoil(in_header[i]);
        refuses(false, L4_E_FORMAT, "its header is damaged");
        spoil(in_header[i]);
    }
    spoil(500);
    refuses(false, L4_E_FORMAT, "its table is damaged");
    spoil(500);
    const off_t seen[] = {data, data + 1000, st.st_size - 1};
    for (size_t i = 0; i < sizeof seen / sizeof seen[0]; i++) {
        spoil(seen[i]);
        refuses(false, L4_E_FORMAT, "its data are damaged");
        spoil(seen[i]);
    }
    spoil(data + (1 << 20) + 5); /* between two samples */
    maps(false);
    refuses(true, L4_E_FORMAT, "its data are damaged");
    spoil(data + (1 << 20) + 5);
    maps(true);
    assert_int_equal(truncate(path, st.st_size - 1), 0);
    refuses(false, L4_E_FORMAT, "it is cut short");
    assert_int_equal(truncate(path, 20), 0);
    refuses(false, L4_E_FORMAT, "too short");
    assert_int_equal(truncate(path, 0), 0);
    refuses(false, L4_E_FORMAT, "empty");
    assert_int_equal(unlink(path), 0);
    refuses(false, L4_E_NOT_FOUND, path);
    write_cache();
    maps(true);
}

static void test_not_sealed(void **state) {
    (void)state;
    struct weight_cache cache;
    assert_int_equal(weight_cache_create(&cache, &key, NULL), 0);
    assert_int_equal(n_files(), 2);
    weight_cache_close(&cache);
    weight_cache_close(&cache);
    assert_int_equal(n_files(), 1);
    struct l4_err err;
    struct weight_cache_key other = key;
    other.dir = path; /* a file */
    assert_int_equal(weight_cache_create(&cache, &other, &err), L4_E_IO);
    assert_non_null(strstr(err.message, path));
    other = key;
    other.data_bytes = (size_t)1 << 56; /* more than any disk */
    assert_int_equal(weight_cache_create(&cache, &other, &err), L4_E_IO);
    assert_int_equal(n_files(), 1);
}

static void test_file_hash(void **state) {
    (void)state;
    static unsigned char bytes[1 << 20];
    struct rng rng = {1};
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)rng_next(&rng);
    struct file_mapping file = {"a/b.gguf", bytes, sizeof bytes, 77};
    const uint64_t first = weight_cache_hash_file(&file, 0);
    assert_true(weight_cache_hash_file(&file, 1) != first);
    file.path = "elsewhere/b.gguf"; /* a checkpoint may move */
    assert_true(weight_cache_hash_file(&file, 0) == first);
    file.path = "a/c.gguf";
    assert_true(weight_cache_hash_file(&file, 0) != first);
    file.path = "a/b.gguf";
    file.mtime_ns++;
    assert_true(weight_cache_hash_file(&file, 0) != first);
    file.mtime_ns--;
    file.size_bytes--;
    assert_true(weight_cache_hash_file(&file, 0) != first);
    file.size_bytes++;
    static const size_t places[] = {0, 65535, sizeof bytes - 1, (sizeof bytes - 4096) / 2};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        bytes[places[i]] ^= 1;
        assert_true(weight_cache_hash_file(&file, 0) != first);
        bytes[places[i]] ^= 1;
    }
    assert_true(weight_cache_hash_file(&file, 0) == first);
    file.size_bytes = 3;
    assert_true(weight_cache_hash_file(&file, 0) != first);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),     cmocka_unit_test(test_other_checkpoint_or_layout),
        cmocka_unit_test(test_damage),    cmocka_unit_test(test_not_sealed),
        cmocka_unit_test(test_file_hash),
    };
    return cmocka_run_group_tests_name("weight_cache", tests, make, clean);
}
