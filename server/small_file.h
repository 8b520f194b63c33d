/* Files that people write and that are read whole: API keys, certificates.  Thread: any. */
#ifndef SERVER_SMALL_FILE_H
#define SERVER_SMALL_FILE_H

#include <stddef.h>

#include "llama4/buf.h"

/* small_file_read - append all of the file to *out.  *others, which may be NULL, tells whether anybody on the machine
 * may read or change it.
 *   Errors: L4_E_IO (cannot be read, is no regular file or has more than max_bytes), L4_E_NOMEM; both name the file. */
int small_file_read(const char *path, size_t max_bytes, struct l4_buf *out, bool *others,
                    struct l4_err *err) L4_MUST_CHECK;

#endif
