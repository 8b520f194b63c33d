/* A tokenizer.json of any bytes is refused or works.  The input stands for the file; where it begins with a letter, it
 * is spliced into a sound one, at the place that the letter chooses, so that the fuzzer need not find 256 tokens. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "llama4/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const sound[] = {
    "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"",
    "\\\\s+|\\\\S+",
    ("\"},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},"
     "\"decoder\":{\"type\":\"ByteLevel\"},\"post_processor\":"),
    "null",
    ",\"added_tokens\":[",
    "{\"id\":300,\"content\":\"<s>\",\"special\":true}",
    "],\"model\":{\"ignore_merges\":",
    "true",
    ",\"merges\":[",
    "\"a b\"",
    "],\"vocab\":{",
    "\"ab\":256",
    "",
};
enum { N_PARTS = sizeof sound / sizeof sound[0] };

/* The file's text; `place` of its parts (odd numbers) is the input. */
static void write_file(struct l4_buf *file, size_t place, const char *input, size_t input_bytes) {
    for (size_t i = 0; i < N_PARTS; i++) {
        if (i == place)
            l4_buf_append(file, input, input_bytes);
        else
            l4_buf_puts(file, sound[i]);
    }
    for (unsigned byte = 0, other = 256; byte < 256; byte++) {
        int same = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        l4_buf_printf(file, ",\"\\u%04x\":%u", same ? byte : other++, byte);
    }
    l4_buf_puts(file, "}}}");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct l4_buf file = {0};
    const char *input = (const char *)data;
    if (size > 0 && input[0] >= 'a' && input[0] < 'a' + N_PARTS / 2)
        write_file(&file, 2 * (size_t)(input[0] - 'a') + 1, input + 1, size - 1);
    else
        l4_buf_append(&file, input, size);

    char path[64];
    int fd = memfd_create("tokenizer", MFD_CLOEXEC);
    if (fd < 0 || file.failed || write(fd, file.data, file.len) != (ssize_t)file.len)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct l4_tokenizer *tokenizer = NULL;
    struct l4_err err = {0};
    static const char text[] = "ab <s> abab\n\xE6\x97\xA5 12";
    if (l4_tokenizer_open(&tokenizer, path, &err) == 0) {
        struct l4_tokens tokens = {0};
        if (l4_encode(tokenizer, text, sizeof text - 1, L4_ENCODE_BOS | L4_ENCODE_SPECIAL, &tokens, &err) == 0)
            for (size_t i = 0; i < tokens.len; i++)
                if (tokens.ids[i] < 0 || tokens.ids[i] >= l4_tokenizer_vocab_size(tokenizer))
                    abort();
        l4_tokens_free(&tokens);
    } else if (!err.message[0]) {
        abort();
    }
    l4_tokenizer_close(tokenizer);
    l4_buf_free(&file);
    close(fd);
    return 0;
}
