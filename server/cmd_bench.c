#include "server/cmd_bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/bench_report.h"
#include "server/config.h"
#include "server/log.h"

enum {
    EXIT_USAGE = 2,
    MAX_BATCHES = 16,
    MAX_TEST_TOKENS = 1 << 20,
    ROW_RUNS_MIN = 2,       /* however slow a test is; more only while they take ... */
    ROW_S = 60,             /* ... less than this together */
    EXPERTS_ROUNDS = 3,     /* of the table for every repeat of the tests: they are short */
    EXPERTS_ROUNDS_MIN = 3, /* and at least that many ... */
    EXPERTS_ROW_S = 20      /* ... even where a row takes longer than this */
};

struct arguments {
    int64_t n_prompt, n_gen, repeats;
    int64_t batches[MAX_BATCHES];
    int n_batches;
    const char *experts; /* a name, "all", or NULL: the setting */
    bool is_json;
    char **settings; /* the other flags, for config_read_flags; storage for all arguments */
    int n_settings;
};

struct bench_run {
    struct l4_bench *bench;
    struct bench_report *report;
    int n_steps, n_done; /* of everything, for the progress bar */
};

void bench_print_help(FILE *out) {
    fputs("  llama4d bench -m PATH [-p TOKENS] [-n TOKENS] [-b LIST] [-t THREADS] [-r REPEATS] [--experts NAME|all]\n"
          "                [--format text|json] [--some-setting VALUE ...]\n"
          "        measure prefill and decode beside the limits of the machine; the settings are the engine's\n"
          "        -m PATH     checkpoint directory or GGUF file, as --model\n"
          "        -p TOKENS   prompt to prefill; 0 = no prefill (default 512)\n"
          "        -n TOKENS   tokens to decode in each sequence; 0 = no decode (default 64)\n"
          "        -b LIST     sequences decoded together, such as 1,4,16 (default 1)\n"
          "        -t THREADS  as --threads\n"
          "        -r REPEATS  of each test, of which the median counts (default 5);\n"
          "                    a test that takes long is repeated less often\n"
          "        --experts   backend to measure; all = each of them, and a table of them by number of tokens\n",
          out);
}

/* ---- arguments ----------------------------------------------------------------------------------------------------
 */

/* A whole number within bounds that ends where `end` says. */
static bool read_number(const char *text, const char *end, int64_t min, int64_t max, int64_t *value) {
    char *stop;
    errno = 0;
    long long number = strtoll(text, &stop, 10);
    if (stop != end || stop == text || text[0] < '0' || text[0] > '9' || errno != 0 || number < min || number > max)
        return false;
    *value = number;
    return true;
}

static bool take_number(const char *flag, const char *text, int64_t min, int64_t max, int64_t *value) {
    char quoted[128];
    if (read_number(text, text + strlen(text), min, max, value))
        return true;
    fprintf(stderr, "llama4d bench: %s %s: allowed is a whole number from %lld to %lld\n", flag,
            log_quote(quoted, sizeof(quoted), text), (long long)min, (long long)max);
    return false;
}

static bool take_batches(struct arguments *arguments, const char *text) {
    char quoted[128];
    arguments->n_batches = 0;
    for (const char *at = text;; at++) {
        const char *end = at + strcspn(at, ",");
        if (arguments->n_batches == MAX_BATCHES ||
            !read_number(at, end, 1, L4_MAX_RUNNING, &arguments->batches[arguments->n_batches])) {
            fprintf(stderr, "llama4d bench: -b %s: allowed are up to %d whole numbers from 1 to %d, such as 1,4,16\n",
                    log_quote(quoted, sizeof(quoted), text), MAX_BATCHES, (int)L4_MAX_RUNNING);
            return false;
        }
        arguments->n_batches++;
        at = end;
        if (*at == '\0')
            return true;
    }
}

static bool take_choice(const char *flag, const char *text, const char *first, const char *const *others) {
    char quoted[128];
    bool is_known = strcmp(text, first) == 0;
    for (int i = 0; others[i] != NULL; i++)
        is_known |= strcmp(text, others[i]) == 0;
    if (is_known)
        return true;
    fprintf(stderr, "llama4d bench: %s %s: allowed is one of %s", flag, log_quote(quoted, sizeof(quoted), text), first);
    for (int i = 0; others[i] != NULL; i++)
        fprintf(stderr, ", %s", others[i]);
    fputc('\n', stderr);
    return false;
}

static bool take_value(struct arguments *arguments, const char *flag, const char *value) {
    static const char *const formats[] = {"json", NULL};
    if (strcmp(flag, "-p") == 0)
        return take_number(flag, value, 0, MAX_TEST_TOKENS, &arguments->n_prompt);
    if (strcmp(flag, "-n") == 0)
        return take_number(flag, value, 0, MAX_TEST_TOKENS, &arguments->n_gen);
    if (strcmp(flag, "-r") == 0)
        return take_number(flag, value, 1, BENCH_MAX_REPEATS / EXPERTS_ROUNDS, &arguments->repeats);
    if (strcmp(flag, "-b") == 0)
        return take_batches(arguments, value);
    if (strcmp(flag, "--experts") == 0) {
        arguments->experts = value;
        return take_choice(flag, value, "all", l4_engine_experts_names());
    }
    arguments->is_json = strcmp(value, "json") == 0;
    return take_choice(flag, value, "text", formats);
}

static bool read_arguments(struct arguments *arguments, int argc, char **argv) {
    static const char *const own[] = {"-p", "-n", "-r", "-b", "--experts", "--format"};
    static char model[] = "--model", threads[] = "--threads";
    for (int i = 0; i < argc; i++) {
        const char *flag = NULL, *value = NULL;
        for (size_t k = 0; k < sizeof(own) / sizeof(own[0]) && flag == NULL; k++) {
            size_t len = strlen(own[k]);
            if (strcmp(argv[i], own[k]) == 0)
                flag = own[k];
            else if (len > 2 && strncmp(argv[i], own[k], len) == 0 && argv[i][len] == '=')
                flag = own[k], value = argv[i] + len + 1;
        }
        if (flag == NULL) {
            bool is_model = strcmp(argv[i], "-m") == 0, is_threads = strcmp(argv[i], "-t") == 0;
            arguments->settings[arguments->n_settings++] = is_model ? model : is_threads ? threads : argv[i];
            continue;
        }
        if (value == NULL && i + 1 == argc) {
            fprintf(stderr, "llama4d bench: %s needs a value\n", flag);
            return false;
        }
        if (!take_value(arguments, flag, value != NULL ? value : argv[++i]))
            return false;
    }
    if (arguments->n_prompt + arguments->n_gen > 0)
        return true;
    fputs("llama4d bench: -p 0 and -n 0 leave nothing to measure\n", stderr);
    return false;
}

/* ---- measuring ----------------------------------------------------------------------------------------------------
 */

static void show(struct bench_run *run, const char *what) {
    log_progress(what, run->n_done < run->n_steps ? (double)run->n_done / run->n_steps : 1);
    run->n_done++;
}

static void measure_limits(struct bench_run *run) {
    struct l4_bench_limits limits;
    show(run, "limits");
    l4_bench_limits(run->bench, &limits);
    bench_series_add(&run->report->limits[0], limits.read_bytes_per_s);
    bench_series_add(&run->report->limits[1], limits.int8_ops_per_s);
    bench_series_add(&run->report->limits[2], limits.bf16_flops_per_s);
    bench_series_add(&run->report->limits[3], limits.f32_flops_per_s);
}

static int measure_row(struct bench_run *run, struct bench_row *row, bool counts, struct l4_err *err) {
    char what[64];
    double spent_s = 0;
    for (int i = 0; i < row->seconds.n; i++)
        spent_s += row->seconds.values[i];
    snprintf(what, sizeof(what), "%s of %lld x %d, %s", row->test.n_gen > 0 ? "decode" : "prefill",
             (long long)(row->test.n_gen + row->test.n_prompt), row->test.batch, row->test.experts);
    show(run, what);
    if (row->seconds.n >= ROW_RUNS_MIN && spent_s > ROW_S)
        return 0;
    int rc = l4_bench_run(run->bench, &row->test, &row->result, err);
    if (rc == 0 && counts)
        bench_series_add(&row->seconds, row->result.seconds);
    return rc;
}

/* The backends take turns at the same routing, each at another layer, and another one begins every time; eager, after
 * which caches and clocks are cold, comes last, so that this meets the others in turns. */
static int measure_experts(struct bench_run *run, struct bench_experts_row *row, struct l4_err *err) {
    const char *const *names = l4_engine_experts_names();
    int n_backends = 0, rc = 0;
    char what[64];
    while (names[n_backends] != NULL && n_backends < BENCH_MAX_BACKENDS)
        n_backends++;
    snprintf(what, sizeof(what), "experts of %lld tokens", (long long)row->n_tokens);
    show(run, what);
    const int rounds = run->report->repeats * EXPERTS_ROUNDS;
    double spent_s = 0;
    for (int round = -1; round < rounds && (round < EXPERTS_ROUNDS_MIN || spent_s < EXPERTS_ROW_S); round++) {
        for (int i = 0; i < n_backends && rc == 0; i++) {
            const int b = i < n_backends - 1 ? (round + 1 + i) % (n_backends - 1) : i;
            double seconds = 0;
            rc = l4_bench_experts(run->bench, names[b], row->n_tokens, (unsigned)(round + 1 + i), (uint64_t)(round + 1),
                                  &seconds, err);
            if (round >= 0) /* the first warms up */
                bench_series_add(&row->seconds[b], seconds);
            spent_s += seconds;
        }
        if (rc != 0)
            break;
    }
    return rc;
}

static int measure(struct bench_run *run, struct l4_err *err) {
    struct bench_report *report = run->report;
    int rc = measure_row(run, &report->rows[0], false, err); /* weights into memory, clocks up */
    for (int i = 0; i < report->repeats && rc == 0; i++) {
        measure_limits(run);
        for (int r = 0; r < report->n_rows && rc == 0; r++)
            rc = measure_row(run, &report->rows[r], true, err);
    }
    for (int i = 0; i < report->n_experts_rows && rc == 0; i++)
        rc = measure_experts(run, &report->experts[i], err);
    if (rc == 0)
        show(run, "measured");
    return rc;
}

/* ---- the whole ----------------------------------------------------------------------------------------------------
 */

/* The rows of every backend that is asked for.  Errors: L4_E_NOMEM. */
static int plan_rows(struct bench_report *report, const struct arguments *arguments, const char *setting) {
    const char *const *names = l4_engine_experts_names();
    const bool is_all = arguments->experts != NULL && strcmp(arguments->experts, "all") == 0;
    const char *wanted = arguments->experts != NULL ? arguments->experts : setting;
    report->rows = calloc((MAX_BATCHES + 1) * BENCH_MAX_BACKENDS, sizeof(*report->rows));
    if (report->rows == NULL)
        return L4_E_NOMEM;
    for (int b = 0; names[b] != NULL && b < BENCH_MAX_BACKENDS; b++) {
        if (!is_all && strcmp(names[b], wanted) != 0)
            continue;
        if (arguments->n_prompt > 0)
            report->rows[report->n_rows++].test = (struct l4_bench_test){names[b], arguments->n_prompt, 0, 1};
        for (int i = 0; i < arguments->n_batches && arguments->n_gen > 0; i++)
            report->rows[report->n_rows++].test =
                (struct l4_bench_test){names[b], 0, arguments->n_gen, (int)arguments->batches[i]};
    }
    return 0;
}

static void plan_experts(struct bench_report *report) {
    for (int64_t n = 1; n <= L4_BENCH_MAX_EXPERT_TOKENS && report->n_experts_rows < BENCH_TABLE_ROWS; n *= 2)
        report->experts[report->n_experts_rows++].n_tokens = n;
}

static void on_log(void *user, enum l4_log_level level, const char *message) {
    (void)user;
    log_event(level, NULL, "%s", message);
}

static void on_progress(void *user, const char *what, double fraction) {
    (void)user;
    log_progress(what, fraction);
}

static int run(struct bench_report *report, const struct arguments *arguments, const struct config *config) {
    struct bench_run run = {.report = report};
    struct l4_engine_options options;
    struct l4_err err = {0};
    int64_t most_tokens = arguments->n_prompt > arguments->n_gen ? arguments->n_prompt : arguments->n_gen,
            most_batch = 1;
    for (int i = 0; i < arguments->n_batches; i++)
        most_batch = arguments->batches[i] > most_batch ? arguments->batches[i] : most_batch;
    config_engine_options(config, &options);
    options.log = on_log;
    options.progress = on_progress;
    int rc = plan_rows(report, arguments, config->experts_implementation);
    if (rc != 0)
        l4_err_set(&err, rc, "no memory for the results");
    if (rc == 0)
        rc = l4_bench_open(&run.bench, &options, most_tokens, (int)most_batch, &err);
    if (rc == 0) {
        l4_bench_info(run.bench, &report->info);
        if (arguments->experts != NULL && strcmp(arguments->experts, "all") == 0 && report->info.n_moe_layers > 0)
            plan_experts(report);
        run.n_steps = 1 + report->repeats * (1 + report->n_rows) + report->n_experts_rows;
        rc = measure(&run, &err);
    }
    if (rc == 0 && arguments->is_json && (rc = bench_print_json(report, stdout)) != 0)
        l4_err_set(&err, rc, "no memory for the report");
    else if (rc == 0 && !arguments->is_json)
        bench_print_text(report, stdout);
    if (rc != 0)
        fprintf(stderr, "llama4d bench: %s\n", err.message);
    l4_bench_close(run.bench);
    return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int bench_with(const struct arguments *arguments) {
    struct config config;
    struct config_errors errors = {0};
    int status = EXIT_USAGE;
    if (config_init(&config) != 0) {
        fputs("llama4d bench: out of memory\n", stderr);
        return EXIT_FAILURE;
    }
    if (config_read_flags(&config, arguments->n_settings, arguments->settings, &errors) != 0 ||
        config_check(&config, &errors) != 0) {
        fprintf(stderr, "%s", errors.text != NULL ? errors.text : "llama4d bench: out of memory\n");
    } else {
        struct bench_report *report = calloc(1, sizeof(*report));
        log_set_level("warn");
        if (report != NULL)
            report->repeats = (int)arguments->repeats;
        status = report != NULL ? run(report, arguments, &config) : EXIT_FAILURE;
        if (report == NULL)
            fputs("llama4d bench: out of memory\n", stderr);
        else
            free(report->rows);
        free(report);
    }
    config_errors_free(&errors);
    config_fini(&config);
    return status;
}

int cmd_bench(int argc, char **argv) {
    struct arguments arguments = {.n_prompt = 512, .n_gen = 64, .repeats = 5, .batches = {1}, .n_batches = 1};
    arguments.settings = calloc((size_t)argc + 1, sizeof(*arguments.settings));
    if (arguments.settings == NULL) {
        fputs("llama4d bench: out of memory\n", stderr);
        return EXIT_FAILURE;
    }
    int status = read_arguments(&arguments, argc, argv) ? bench_with(&arguments) : EXIT_USAGE;
    free(arguments.settings);
    return status;
}
