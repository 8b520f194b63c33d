#include "server/small_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int read_all(int fd, const char *path, size_t max_bytes, struct l4_buf *out, struct l4_err *err) {
    char piece[16 * 1024];
    size_t n_bytes = 0;
    for (;;) {
        ssize_t n = read(fd, piece, sizeof(piece));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return l4_err_set(err, L4_E_IO, "%s: %s", path, strerror(errno));
        n_bytes += (size_t)n;
        if (n_bytes > max_bytes)
            return l4_err_set(err, L4_E_IO, "%s: has more than the %zu bytes that are allowed", path, max_bytes);
        l4_buf_append(out, piece, (size_t)n);
        if (out->failed)
            return l4_err_set(err, L4_E_NOMEM, "%s: out of memory", path);
        if (n == 0)
            return 0;
    }
}

int small_file_read(const char *path, size_t max_bytes, struct l4_buf *out, bool *others, struct l4_err *err) {
    struct stat stat;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not hold up the loop */
    if (fd < 0)
        return l4_err_set(err, L4_E_IO, "%s: %s", path, strerror(errno));
    int rc;
    if (fstat(fd, &stat) != 0)
        rc = l4_err_set(err, L4_E_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(stat.st_mode))
        rc = l4_err_set(err, L4_E_IO, "%s: is no regular file", path);
    else
        rc = read_all(fd, path, max_bytes, out, err);
    if (rc == 0 && others != NULL)
        *others = (stat.st_mode & (S_IROTH | S_IWOTH)) != 0;
    close(fd);
    return rc;
}
