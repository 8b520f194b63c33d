/* Reading regular files, with errors that name them. */
#ifndef CORE_FORMAT_FILE_H
#define CORE_FORMAT_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "llama4/error.h"

/* file_open - open a regular file for reading; *fd is the caller's to close.  Never blocks on a FIFO.
 *   Errors: L4_E_NOT_FOUND (no such file), L4_E_IO (anything else; a directory, a FIFO or a device included). */
int file_open(const char *path, int *fd, uint64_t *size_bytes, struct l4_err *err) L4_MUST_CHECK;

/* file_read - a malloc'ed copy of n_bytes from offset, with a NUL behind it that is not counted.
 *   Errors: L4_E_IO (a file that ends early included), L4_E_NOMEM. */
int file_read(int fd, const char *path, uint64_t offset, size_t n_bytes, char **text, struct l4_err *err) L4_MUST_CHECK;

/* file_read_whole - all of a file of at most max_bytes, as file_read has it; *len_bytes without the NUL.
 *   Errors: those of file_open and file_read, L4_E_FORMAT (longer; the message gives both lengths). */
int file_read_whole(const char *path, size_t max_bytes, char **text, size_t *len_bytes,
                    struct l4_err *err) L4_MUST_CHECK;

/* A file in memory, read-only and shared; all zero is none. */
struct file_mapping {
    const char *path; /* borrowed */
    void *data;
    size_t size_bytes;
    int64_t mtime_ns;
};

/* file_map - all size_bytes (> 0) of an open file; a fault in it is put down to `path`, which must outlive the mapping.
 *   Errors: L4_E_IO, L4_E_NOMEM; *mapping is then all zero. */
int file_map(struct file_mapping *mapping, int fd, const char *path, uint64_t size_bytes,
             struct l4_err *err) L4_MUST_CHECK;
void file_unmap(struct file_mapping *mapping);

/* file_name - the last component of a path; borrowed from it. */
const char *file_name(const char *path);

#endif
