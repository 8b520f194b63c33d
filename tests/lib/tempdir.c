#include "tests/lib/tempdir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void tempdir_init(struct tempdir *dir) {
    strcpy(dir->path, "/tmp/l4test.XXXXXX");
    assert_non_null(mkdtemp(dir->path));
}

static void remove_entries(const char *path, int levels) {
    DIR *entries = opendir(path);
    assert_non_null(entries);
    const struct dirent *entry;
    while ((entry = readdir(entries)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char child[512];
        assert_true(snprintf(child, sizeof child, "%s/%s", path, entry->d_name) < (int)sizeof child);
        if (unlink(child) != 0) {
            assert_true(levels > 0);
            remove_entries(child, levels - 1);
        }
    }
    closedir(entries);
    assert_int_equal(rmdir(path), 0);
}

void tempdir_fini(struct tempdir *dir) {
    remove_entries(dir->path, TEMPDIR_MAX_DEPTH);
}

const char *tempdir_file(const struct tempdir *dir, const char *name) {
    static char paths[8][TEMPDIR_PATH_BYTES];
    static unsigned next;
    char *path = paths[next++ % 8];
    assert_true(snprintf(path, sizeof paths[0], "%s/%s", dir->path, name) < (int)sizeof paths[0]);
    return path;
}

static void make_directories(const char *path) {
    char parent[TEMPDIR_PATH_BYTES];
    strcpy(parent, path);
    for (char *slash = strchr(parent + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        assert_true(mkdir(parent, 0700) == 0 || errno == EEXIST);
        *slash = '/';
    }
}

const char *tempdir_write(const struct tempdir *dir, const char *name, const void *bytes, size_t n_bytes) {
    const char *path = tempdir_file(dir, name);
    make_directories(path);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n_bytes, file), n_bytes);
    assert_int_equal(fclose(file), 0);
    return path;
}

const char *tempdir_puts(const struct tempdir *dir, const char *name, const char *text) {
    return tempdir_write(dir, name, text, strlen(text));
}

const char *tempdir_safetensors(const struct tempdir *dir, const char *name, const char *header,
                                unsigned long long data_bytes) {
    uint64_t header_bytes = strlen(header);
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++)
        prefix[i] = (unsigned char)(header_bytes >> 8 * i);
    const char *path = tempdir_write(dir, name, prefix, sizeof prefix);
    FILE *file = fopen(path, "ab");
    assert_non_null(file);
    assert_int_equal(fwrite(header, 1, header_bytes, file), header_bytes);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(truncate(path, (off_t)(sizeof prefix + header_bytes + data_bytes)), 0);
    return path;
}
