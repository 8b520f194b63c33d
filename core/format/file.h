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

/* file_name - the last component of a path; borrowed from it. */
const char *file_name(const char *path);

#endif
