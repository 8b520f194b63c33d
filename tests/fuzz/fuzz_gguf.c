/* Any bytes as a GGUF file: refused with a message, or metadata and tensors that lie within the file; then read as a
 * model and as a tokenizer, which refuse or work. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/format/checkpoint.h"
#include "core/format/gguf_internal.h"
#include "core/text/tokenizer.h"

static void require(int ok) {
    if (!ok)
        abort();
}

static void check_error(const struct l4_err *err) {
    require(err->code < 0 && err->message[0] != '\0' && strchr(err->message, '\n') == NULL);
}

static void touch(const void *data, size_t n_bytes) {
    const volatile unsigned char *bytes = data;
    unsigned sum = 0;
    for (size_t i = 0; i < n_bytes; i++) /* past the mapping it would fault */
        sum += bytes[i];
    (void)sum;
}

static void check_file(const struct gguf *gguf) {
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        const struct tensor *tensor = &gguf->tensors[i].tensor;
        size_t bytes;
        require(tensor->n_dims >= 1 && tensor->n_dims <= TENSOR_MAX_DIMS);
        require(dtype_bytes_checked(tensor->type, tensor_elements(tensor), &bytes) && bytes == tensor->size_bytes);
        touch(tensor->data, tensor->size_bytes);
    }
    for (size_t i = 0; i < gguf->n_entries; i++) {
        char key[64];
        const struct gguf_text name = gguf->entries[i].key;
        if (name.len_bytes >= sizeof key || memchr(name.data, 0, name.len_bytes))
            continue;
        memcpy(key, name.data, name.len_bytes);
        key[name.len_bytes] = '\0';
        struct l4_err err = {0};
        struct gguf_reader reader = {.gguf = gguf, .err = &err};
        struct gguf_array array;
        struct gguf_text text;
        double number;
        require(gguf_has(&reader, key));
        if (gguf_read_array(&reader, key, GGUF_REQUIRED, GGUF_STRING, &array))
            while (gguf_next_string(&array, &text))
                touch(text.data, text.len_bytes);
        else
            check_error(&err);
        reader.rc = 0;
        if (gguf_string(&reader, key, GGUF_REQUIRED, &text))
            touch(text.data, text.len_bytes);
        reader.rc = 0;
        if (gguf_number(&reader, key, GGUF_REQUIRED, -1, 1, &number))
            require(number >= -1 && number <= 1);
    }
}

static void check_checkpoint(const char *path) {
    struct checkpoint *checkpoint = NULL;
    struct l4_err err = {0};
    if (checkpoint_open(&checkpoint, path, NULL, NULL, &err) != 0) {
        check_error(&err);
        return;
    }
    const struct model_config *config = checkpoint_config(checkpoint);
    require(config->n_layers >= 1 && config->n_layers <= CONFIG_MAX_LAYERS &&
            config->n_heads % config->n_kv_heads == 0);
    require(config->n_experts_per_tok <= config->n_experts && config->n_eos_ids <= CONFIG_MAX_STOP_IDS);
    checkpoint_close(checkpoint);
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

    struct gguf *gguf = NULL;
    struct l4_tokenizer *tokenizer = NULL;
    struct l4_err err = {0};
    if (gguf_open(&gguf, path, &err) != 0) {
        check_error(&err);
        return 0;
    }
    check_file(gguf);
    check_checkpoint(path);
    require(tokenizer_new(&tokenizer, NULL) == 0);
    if (tokenizer_read_metadata(tokenizer, gguf, path, &err) != 0)
        check_error(&err);
    l4_tokenizer_close(tokenizer);
    gguf_close(gguf);
    return 0;
}
