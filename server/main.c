/* llama4d: commands and exit statuses.  0 = fine, 1 = it could not run, 2 = wrong arguments or settings. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/cmd_bench.h"
#include "server/cmd_key.h"
#include "server/cmd_quantize.h"
#include "server/serve.h"
#include "server/version.h"

enum { EXIT_USAGE = 2 };

static void print_help(void) {
    puts("llama4d answers HTTP completion requests from a Llama 4 checkpoint.\n"
         "\n"
         "  llama4d serve [--config FILE] [--some-setting VALUE ...]\n"
         "        run the daemon; SIGTERM and SIGINT finish what runs, SIGHUP reads the settings again\n"
         "  llama4d check-config [--config FILE] [--some-setting VALUE ...]\n"
         "        check the settings and print them as they would be used\n"
         "  llama4d check-config --print-default\n"
         "        print every setting with its default\n"
         "  llama4d key NAME\n"
         "        make an API key: its first line of output is the key, the second the line for api_keys_file\n"
         "  llama4d quantize [--force] [--threads N] SRC OUT.gguf TYPE\n"
         "        write a checkpoint (a directory or a GGUF file) as a GGUF file; TYPE is q8_0, q4_0, q4_k, bf16, f16 "
         "or\n"
         "        f32; --force: OUT.gguf may be there already");
    bench_print_help(stdout);
    puts("  llama4d --help, llama4d --version\n"
         "\n"
         "Settings: defaults, then the file, then the flags.\n");
    config_print_help(stdout);
}

/* Takes `--config FILE` and `--config=FILE` out of argv; false when it was given without a value or twice. */
static bool take_config_flag(int *argc, char **argv, const char **path) {
    int kept = 0;
    for (int i = 0; i < *argc; i++) {
        const char *value = NULL;
        if (strncmp(argv[i], "--config=", 9) == 0)
            value = argv[i] + 9;
        else if (strcmp(argv[i], "--config") == 0)
            value = i + 1 < *argc ? argv[++i] : "";
        if (value == NULL) {
            argv[kept++] = argv[i];
            continue;
        }
        if (value[0] == '\0' || *path != NULL) {
            fputs(*path != NULL ? "llama4d: --config was given twice\n"
                                : "llama4d: --config needs the path of a file\n",
                  stderr);
            return false;
        }
        *path = value;
    }
    *argc = kept;
    return true;
}

static int settle(struct config *config, const struct serve_source *source, bool needs_model) {
    struct config_errors errors = {0};
    int rc = serve_settings(config, source, &errors);
    if (rc == 0 && needs_model && config_check(config, &errors) != 0) {
        config_fini(config);
        rc = L4_E_INVALID;
    }
    if (rc != 0)
        fprintf(stderr, "%s", errors.text != NULL ? errors.text : "llama4d: out of memory\n");
    config_errors_free(&errors);
    return rc;
}

static int command_serve(const struct serve_source *source) {
    struct config config;
    if (settle(&config, source, true) != 0)
        return EXIT_USAGE;
    int status = serve_run(&config, source);
    config_fini(&config);
    return status;
}

static int command_check_config(const struct serve_source *source) {
    struct config config;
    struct serve_source wanted = *source;
    if (wanted.path == NULL && wanted.argc == 1 && strcmp(wanted.argv[0], "--print-default") == 0)
        wanted.argc = 0;
    if (settle(&config, &wanted, false) != 0)
        return EXIT_USAGE;
    config_print(&config, stdout);
    config_fini(&config);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    const char *command = argc > 1 ? argv[1] : "";
    struct serve_source source = {.argc = argc - 2, .argv = argv + 2};
    bool serve = strcmp(command, "serve") == 0;
    if (serve || strcmp(command, "check-config") == 0) {
        if (!take_config_flag(&source.argc, argv + 2, &source.path))
            return EXIT_USAGE;
        return serve ? command_serve(&source) : command_check_config(&source);
    }
    if (strcmp(command, "bench") == 0)
        return cmd_bench(argc - 2, argv + 2);
    if (strcmp(command, "key") == 0)
        return cmd_key(argc - 2, argv + 2);
    if (strcmp(command, "quantize") == 0)
        return cmd_quantize(argc - 2, argv + 2);
    if (argc == 2 && strcmp(command, "--help") == 0) {
        print_help();
        return EXIT_SUCCESS;
    }
    if (argc == 2 && strcmp(command, "--version") == 0) {
        puts("llama4d " LLAMA4D_VERSION);
        return EXIT_SUCCESS;
    }
    fprintf(stderr, "usage: llama4d serve|check-config|bench|key|quantize|--help|--version\n");
    return EXIT_USAGE;
}
