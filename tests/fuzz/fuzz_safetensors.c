/* Any bytes as a safetensors file: refused with a message, or a list of tensors that lie within the file. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/format/safetensors.h"

static void require(int ok) {
    if (!ok)
        abort();
}

static void check_tensor(const struct safetensors *file, size_t i) {
    const struct tensor *tensor = safetensors_at(file, i);
    const volatile unsigned char *data = tensor->data;
    size_t n_elements = 1;
    require(tensor == safetensors_find(file, safetensors_name(file, i)));
    require(tensor->n_dims >= 0 && tensor->n_dims <= TENSOR_MAX_DIMS);
    for (int dim = 0; dim < tensor->n_dims; dim++)
        n_elements *= (size_t)tensor->shape[dim];
    require(tensor->size_bytes == n_elements * dtype_size(tensor->type));
    require((uintptr_t)data % dtype_size(tensor->type) == 0);
    unsigned sum = 0;
    for (size_t at = 0; at < tensor->size_bytes; at++) /* past the mapping it would fault */
        sum += data[at];
    (void)sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        require(fd >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    require(ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);

    struct safetensors *file = NULL;
    struct l4_err err = {0};
    if (safetensors_open(&file, path, &err) != 0) {
        require(err.code < 0 && err.message[0] != '\0' && strchr(err.message, '\n') == NULL);
        return 0;
    }
    for (size_t i = 0; i < safetensors_count(file); i++)
        check_tensor(file, i);
    safetensors_close(file);
    return 0;
}
