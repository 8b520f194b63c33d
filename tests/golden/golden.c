#include "tests/golden/golden.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    const char *usage;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"model", "[--experts NAME|all] [--gemm own|openblas] DIR...", golden_model},
    {"experts", "[--experts NAME|all] FILE.safetensors...", golden_experts},
    {"variants", "(the kernel variants of this processor)", golden_variants},
    {"text", "MODEL FILE.json", golden_text},
    {"generate",
     "[--experts NAME|all] [--gemm own|openblas] [--activations f32|bf16] [--kv-cache-type NAME] [--logprobs Z] "
     "[--nll-tolerance X] [--perplexity X | --like MODEL [--tolerance Y]] MODEL FILE.json",
     golden_generate},
    {"pretokenize", "FILE.json", golden_pretokenize},
    {"sampler", "PREFIX (of PREFIX.json and PREFIX.safetensors)", golden_sampler},
    {"gguf-types", "PREFIX (of PREFIX.gguf and PREFIX.safetensors)", golden_gguf_types},
    {NULL, NULL, NULL}, /* ends the table */
};

_Noreturn void golden_fail(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fputs("golden: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    exit(GOLDEN_MISMATCH);
}

char *golden_read_file(const char *path, size_t *len_bytes) {
    FILE *file = fopen(path, "rb");
    if (!file)
        golden_fail("%s: %s", path, strerror(errno));
    long size = -1;
    if (fseek(file, 0, SEEK_END) == 0)
        size = ftell(file);
    if (size < 0 || fseek(file, 0, SEEK_SET) != 0)
        golden_fail("%s: %s", path, strerror(errno));
    char *data = malloc((size_t)size + 1);
    if (!data)
        golden_fail("%s: out of memory", path);
    if (fread(data, 1, (size_t)size, file) != (size_t)size)
        golden_fail("%s: cannot read all of it", path);
    fclose(file);
    data[size] = 0;
    *len_bytes = (size_t)size;
    return data;
}

cJSON *golden_read_json(const char *path) {
    size_t len_bytes = 0;
    char *text = golden_read_file(path, &len_bytes);
    cJSON *json = cJSON_ParseWithLength(text, len_bytes + 1);
    free(text);
    if (!json)
        golden_fail("%s: not JSON", path);
    return json;
}

bool golden_report(const char *kind, size_t matched, size_t total) {
    printf("%s: %zu of %zu match\n", kind, matched, total);
    return total > 0 && matched == total;
}

static void print_usage(FILE *to) {
    fputs("usage:\n", to);
    for (size_t i = 0; commands[i].name; i++)
        fprintf(to, "  golden %s %s\n", commands[i].name, commands[i].usage);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        print_usage(stderr);
        return GOLDEN_USAGE;
    }
    for (size_t i = 0; commands[i].name; i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        int rc = commands[i].run(argc - 1, argv + 1);
        if (rc == GOLDEN_USAGE)
            fprintf(stderr, "usage: golden %s %s\n", commands[i].name, commands[i].usage);
        return rc;
    }
    fprintf(stderr, "golden: no subcommand \"%s\"\n", argv[1]);
    print_usage(stderr);
    return GOLDEN_USAGE;
}
