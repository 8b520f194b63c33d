/* Files that a test makes, in a directory of its own. */
#ifndef TESTS_LIB_TEMPDIR_H
#define TESTS_LIB_TEMPDIR_H

#include <stddef.h>

/* All of it fails the cmocka test that runs when the system refuses. */
enum { TEMPDIR_MAX_DEPTH = 12, TEMPDIR_PATH_BYTES = 256 };
struct tempdir {
    char path[64];
};
void tempdir_init(struct tempdir *dir);
void tempdir_fini(struct tempdir *dir); /* removes the files in it and in its subdirectories, to TEMPDIR_MAX_DEPTH */

/* tempdir_file - DIR/name in one of eight static buffers, used in turn. */
const char *tempdir_file(const struct tempdir *dir, const char *name);
/* tempdir_write - write a file, with the directories that its name wants; returns its path as tempdir_file does. */
const char *tempdir_write(const struct tempdir *dir, const char *name, const void *bytes, size_t n_bytes);
const char *tempdir_puts(const struct tempdir *dir, const char *name, const char *text);

/* A safetensors file: the header's length, the header, then data_bytes of zeros (sparse). */
const char *tempdir_safetensors(const struct tempdir *dir, const char *name, const char *header,
                                unsigned long long data_bytes);

#endif
