#include "server/cmd_quantize.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama4/engine.h"
#include "llama4/quantize.h"
#include "server/log.h"

enum { EXIT_USAGE = 2 };

static volatile sig_atomic_t stop_signal;

static void on_signal(int number) {
    stop_signal = number;
}

static void catch_signals(void) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        sigaction(numbers[i], &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file-size limit then is an error like a full disk */
}

static bool on_progress(void *user, double fraction) {
    (void)user;
    log_progress("quantizing", fraction);
    return stop_signal == 0;
}

static void print_usage(void) {
    fputs("usage: llama4d quantize [--force] [--threads N] SRC OUT.gguf TYPE\n  TYPE is one of", stderr);
    for (const char *const *name = l4_quantize_types(); *name != NULL; name++)
        fprintf(stderr, "%s %s", name == l4_quantize_types() ? "" : ",", *name);
    fputs("\n", stderr);
}

/* The options in front of or among the arguments; false where one is unknown or its value wrong. */
static bool take_options(int *argc, char **argv, struct l4_quantize_options *options) {
    int kept = 0;
    for (int i = 0; i < *argc; i++) {
        if (strcmp(argv[i], "--force") == 0) {
            options->overwrite = true;
        } else if (strcmp(argv[i], "--threads") == 0 && i + 1 < *argc) {
            char *end;
            errno = 0;
            const long n = strtol(argv[++i], &end, 10);
            if (errno != 0 || *end != '\0' || end == argv[i] || n < 0 || n > L4_MAX_THREADS) {
                fprintf(stderr, "llama4d: --threads \"%s\": allowed is a whole number from 0 to %d\n", argv[i],
                        L4_MAX_THREADS);
                return false;
            }
            options->threads = (int)n;
        } else if (strncmp(argv[i], "--", 2) == 0) {
            fprintf(stderr, "llama4d: unknown option \"%s\"\n", argv[i]);
            print_usage();
            return false;
        } else {
            argv[kept++] = argv[i];
        }
    }
    *argc = kept;
    return true;
}

static bool is_type(const char *name) {
    for (const char *const *type = l4_quantize_types(); *type != NULL; type++)
        if (strcmp(*type, name) == 0)
            return true;
    return false;
}

static void print_result(const struct l4_quantize_options *options, const struct l4_quantize_result *result) {
    const double mib = 1 << 20;
    printf("%s: %s, %lld tensors, %.1f MiB of weights in a file of %.1f MiB\n", options->target, options->type,
           (long long)result->n_tensors, (double)result->source_bytes / mib, (double)result->target_bytes / mib);
    if (result->n_fallback > 0)
        printf("%lld tensors have rows of no whole number of blocks and took a wider type\n",
               (long long)result->n_fallback);
    if (result->n_requantized > 0)
        printf("%lld tensors were quantised before, to another type: quantise the original for better quality\n",
               (long long)result->n_requantized);
    if (!result->has_tokenizer)
        puts("the source has no tokenizer, and so the file has none: it cannot be served");
}

int cmd_quantize(int argc, char **argv) {
    struct l4_quantize_options options = {.progress = on_progress};
    struct l4_quantize_result result;
    struct l4_err err;
    if (!take_options(&argc, argv, &options))
        return EXIT_USAGE;
    if (argc != 3) {
        print_usage();
        return EXIT_USAGE;
    }
    options.source = argv[0];
    options.target = argv[1];
    options.type = argv[2];
    if (!is_type(options.type)) {
        fprintf(stderr, "llama4d: unknown type \"%s\"\n", options.type);
        print_usage();
        return EXIT_USAGE;
    }
    catch_signals();
    if (l4_install_fault_handler(EXIT_FAILURE) != 0)
        fputs("llama4d: a source that is truncated while in use will not be explained\n", stderr);
    if (l4_quantize(&options, &result, &err) != 0) {
        fprintf(stderr, "%sllama4d: quantize: %s\n", stop_signal != 0 ? "\n" : "", err.message);
        return EXIT_FAILURE;
    }
    print_result(&options, &result);
    return EXIT_SUCCESS;
}
