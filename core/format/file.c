#include "core/format/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/sigbus.h"

int file_open(const char *path, int *fd, uint64_t *size_bytes, struct l4_err *err) {
    /* Without O_NONBLOCK the open of a FIFO waits for a writer. */
    int opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (opened < 0)
        return l4_err_set(err, errno == ENOENT || errno == ENOTDIR ? L4_E_NOT_FOUND : L4_E_IO, "%s: %s", path,
                          strerror(errno));
    struct stat st;
    int rc = 0;
    if (fstat(opened, &st) != 0)
        rc = l4_err_set(err, L4_E_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = l4_err_set(err, L4_E_IO, "%s: not a regular file", path);
    if (rc != 0) {
        close(opened);
        return rc;
    }
    *fd = opened;
    *size_bytes = (uint64_t)st.st_size;
    return 0;
}

int file_read(int fd, const char *path, uint64_t offset, size_t n_bytes, char **text, struct l4_err *err) {
    char *copy = n_bytes < SIZE_MAX ? malloc(n_bytes + 1) : NULL;
    if (copy == NULL)
        return l4_err_set(err, L4_E_NOMEM, "%s: out of memory for %zu bytes", path, n_bytes);
    size_t done = 0;
    while (done < n_bytes) {
        ssize_t got = pread(fd, copy + done, n_bytes - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            int rc = got < 0 ? l4_err_set(err, L4_E_IO, "%s: %s", path, strerror(errno))
                             : l4_err_set(err, L4_E_IO, "%s: ends at byte %llu, expected %zu more", path,
                                          (unsigned long long)(offset + done), n_bytes - done);
            free(copy);
            return rc;
        }
        done += (size_t)got;
    }
    copy[n_bytes] = '\0';
    *text = copy;
    return 0;
}

int file_read_whole(const char *path, size_t max_bytes, char **text, size_t *len_bytes, struct l4_err *err) {
    int fd;
    uint64_t size_bytes;
    int rc = file_open(path, &fd, &size_bytes, err);
    if (rc != 0)
        return rc;
    if (size_bytes > max_bytes)
        rc = l4_err_set(err, L4_E_FORMAT, "%s: %llu bytes long, at most %zu are accepted", path,
                        (unsigned long long)size_bytes, max_bytes);
    else
        rc = file_read(fd, path, 0, (size_t)size_bytes, text, err);
    close(fd);
    *len_bytes = (size_t)size_bytes;
    return rc;
}

int file_map(struct file_mapping *mapping, int fd, const char *path, uint64_t size_bytes, struct l4_err *err) {
    struct stat st;
    *mapping = (struct file_mapping){0};
    if (fstat(fd, &st) != 0)
        return l4_err_set(err, L4_E_IO, "%s: %s", path, strerror(errno));
    /* Read-ahead as the kernel does it by default: matrices are read from front to back. */
    void *data = size_bytes <= SIZE_MAX ? mmap(NULL, (size_t)size_bytes, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (data == MAP_FAILED)
        return l4_err_set(err, errno == ENOMEM ? L4_E_NOMEM : L4_E_IO, "%s: cannot map %llu bytes: %s", path,
                          (unsigned long long)size_bytes, strerror(errno));
    *mapping = (struct file_mapping){path, data, (size_t)size_bytes,
                                     (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec};
    sigbus_watch(data, mapping->size_bytes, path);
    return 0;
}

void file_unmap(struct file_mapping *mapping) {
    if (mapping->data != NULL) {
        sigbus_unwatch(mapping->data);
        munmap(mapping->data, mapping->size_bytes);
    }
    *mapping = (struct file_mapping){0};
}

const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}
