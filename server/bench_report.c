#include "server/bench_report.h"

#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

static const struct {
    const char *key, *name, *unit;
} LIMITS[BENCH_N_LIMITS] = {
    {"read_bytes_per_s", "memory read", "GB/s"},
    {"int8_ops_per_s", "int8 dot products", "GOP/s"},
    {"bf16_flops_per_s", "bf16 dot products", "GFLOP/s"},
    {"f32_flops_per_s", "f32 multiply-add", "GFLOP/s"},
};
static const int PEAK_OF[] = {[L4_BENCH_INT8] = 1, [L4_BENCH_BF16] = 2, [L4_BENCH_F32] = 3};

/* ---- series ---------------------------------------------------------------------------------------------------------
 */

void bench_series_add(struct bench_series *series, double value) {
    if (series->n < BENCH_MAX_REPEATS)
        series->values[series->n++] = value;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value below which that share of them lies: 0 the least, 0.5 the median, 1 the most. */
static double quantile(const struct bench_series *series, double share) {
    double sorted[BENCH_MAX_REPEATS];
    if (series->n == 0)
        return 0;
    memcpy(sorted, series->values, (size_t)series->n * sizeof(*sorted));
    qsort(sorted, (size_t)series->n, sizeof(*sorted), by_value);
    double place = share * (series->n - 1);
    int low = (int)place;
    return low + 1 < series->n ? sorted[low] + (place - low) * (sorted[low + 1] - sorted[low]) : sorted[low];
}

static double median(const struct bench_series *series) {
    return quantile(series, 0.5);
}

static double row_tokens(const struct bench_row *row) {
    return (double)((row->test.n_prompt + row->test.n_gen) * row->test.batch);
}

double bench_share(const struct bench_report *report, const struct bench_row *row) {
    double limit_s = row->result.ops / median(&report->limits[PEAK_OF[report->info.arithmetic]]);
    double read_s = row->result.bytes / median(&report->limits[0]);
    if (row->test.n_gen > 0 && read_s > limit_s)
        limit_s = read_s;
    return limit_s / median(&row->seconds);
}

static const char *test_name(const struct bench_row *row) {
    return row->test.n_gen > 0 ? "decode" : "prefill";
}

/* How much slower than the best of the others `auto` is, run by run. */
static void compare_auto(const struct bench_experts_row *row, struct bench_series *ratios) {
    const char *const *names = l4_engine_experts_names();
    *ratios = (struct bench_series){0};
    int best = -1, own = -1;
    for (int b = 0; names[b] != NULL; b++) {
        if (strcmp(names[b], "auto") == 0)
            own = b;
        else if (best < 0 || median(&row->seconds[b]) < median(&row->seconds[best]))
            best = b;
    }
    for (int i = 0; own >= 0 && best >= 0 && i < row->seconds[own].n; i++)
        bench_series_add(ratios, row->seconds[own].values[i] / row->seconds[best].values[i]);
}

/* ---- text -----------------------------------------------------------------------------------------------------------
 */

static void print_experts(const struct bench_report *report, FILE *out) {
    const char *const *names = l4_engine_experts_names();
    fprintf(out, "\nexperts of one layer, routed and shared, milliseconds (median), tokens routed at random\n%8s",
            "tokens");
    for (int b = 0; names[b] != NULL; b++)
        fprintf(out, "%12s", names[b]);
    fprintf(out, "   auto / best other (quartiles)   runs\n");
    for (int i = 0; i < report->n_experts_rows; i++) {
        const struct bench_experts_row *row = &report->experts[i];
        struct bench_series ratios;
        fprintf(out, "%8lld", (long long)row->n_tokens);
        for (int b = 0; names[b] != NULL; b++)
            fprintf(out, "%12.3f", median(&row->seconds[b]) * 1e3);
        compare_auto(row, &ratios);
        fprintf(out, "   %14.2f (%.2f to %.2f) %9d\n", median(&ratios), quantile(&ratios, 0.25),
                quantile(&ratios, 0.75), ratios.n);
    }
}

void bench_print_text(const struct bench_report *report, FILE *out) {
    const struct l4_engine_info *info = &report->info.engine;
    fprintf(out,
            "%s: %s, %.1fM parameters (%.1fM active); %d threads, kernels %s, gemm %s, activations %s\n"
            "medians of up to %d runs (least to most); limits and tests take turns\n\n",
            info->name, info->quantization, (double)info->parameters * 1e-6, (double)info->active_parameters * 1e-6,
            info->threads, info->cpu_kernels, info->gemm, report->info.activations, report->repeats);
    for (int i = 0; i < BENCH_N_LIMITS; i++) {
        const struct bench_series *limit = &report->limits[i];
        fprintf(out, "limit: %-20s %9.1f %-8s (%.1f to %.1f)\n", LIMITS[i].name, median(limit) * 1e-9, LIMITS[i].unit,
                quantile(limit, 0) * 1e-9, quantile(limit, 1) * 1e-9);
    }
    fprintf(out, "\n%-13s %-12s %5s %10s %-22s %9s %9s %8s %9s %5s\n", "test", "experts", "batch", "tokens/s",
            "(least to most)", "of limit", "Gop/token", "MB/token", "experts", "runs");
    for (int i = 0; i < report->n_rows; i++) {
        const struct bench_row *row = &report->rows[i];
        const double tokens = row_tokens(row);
        char test[32], range[48];
        snprintf(test, sizeof(test), "%s %lld", test_name(row), (long long)(row->test.n_prompt + row->test.n_gen));
        snprintf(range, sizeof(range), "(%.1f to %.1f)", tokens / quantile(&row->seconds, 1),
                 tokens / quantile(&row->seconds, 0));
        fprintf(out, "%-13s %-12s %5d %10.1f %-22s %8.1f%% %9.3f %8.1f %9.1f %5d\n", test, row->test.experts,
                row->test.batch, tokens / median(&row->seconds), range, 100 * bench_share(report, row),
                row->result.ops / tokens * 1e-9, row->result.bytes / tokens * 1e-6, row->result.distinct_experts,
                row->seconds.n);
    }
    fprintf(out,
            "\nof limit: of a prefill its operations at the %s rate; of a decode that or its bytes at the memory's, "
            "whichever is slower\nexperts: different ones hit in a step, mean over layers\n",
            LIMITS[PEAK_OF[report->info.arithmetic]].name);
    if (report->n_experts_rows > 0)
        print_experts(report, out);
}

/* ---- JSON -----------------------------------------------------------------------------------------------------------
 */

static void add_range(cJSON *array, double low, double high) {
    const double range[] = {low, high};
    cJSON_AddItemToArray(array, cJSON_CreateDoubleArray(range, 2));
}

static void add_results(cJSON *root, const struct bench_report *report) {
    cJSON *results = cJSON_AddArrayToObject(root, "results");
    cJSON *ranges = cJSON_AddArrayToObject(root, "tokens_per_s_range");
    for (int i = 0; i < report->n_rows; i++) {
        const struct bench_row *row = &report->rows[i];
        const double seconds = median(&row->seconds), tokens = row_tokens(row);
        cJSON *o = cJSON_CreateObject();
        cJSON_AddItemToArray(results, o);
        cJSON_AddStringToObject(o, "test", test_name(row));
        cJSON_AddNumberToObject(o, "n_prompt", (double)row->test.n_prompt);
        cJSON_AddNumberToObject(o, "n_gen", (double)row->test.n_gen);
        cJSON_AddNumberToObject(o, "batch", row->test.batch);
        cJSON_AddStringToObject(o, "experts", row->test.experts);
        cJSON_AddNumberToObject(o, "tokens_per_s", tokens / seconds);
        cJSON_AddNumberToObject(o, "share_of_limit", bench_share(report, row));
        cJSON_AddNumberToObject(o, "seconds", seconds);
        cJSON_AddNumberToObject(o, "ops", row->result.ops);
        cJSON_AddNumberToObject(o, "bytes", row->result.bytes);
        cJSON_AddNumberToObject(o, "distinct_experts", row->result.distinct_experts);
        add_range(ranges, tokens / quantile(&row->seconds, 1), tokens / quantile(&row->seconds, 0));
    }
}

static void add_experts(cJSON *root, const struct bench_report *report) {
    const char *const *names = l4_engine_experts_names();
    cJSON *table = cJSON_AddArrayToObject(root, "experts_by_tokens");
    for (int i = 0; i < report->n_experts_rows; i++) {
        const struct bench_experts_row *row = &report->experts[i];
        struct bench_series ratios;
        cJSON *o = cJSON_CreateObject();
        cJSON_AddItemToArray(table, o);
        cJSON_AddNumberToObject(o, "tokens", (double)row->n_tokens);
        cJSON *seconds = cJSON_AddObjectToObject(o, "seconds");
        for (int b = 0; names[b] != NULL; b++)
            cJSON_AddNumberToObject(seconds, names[b], median(&row->seconds[b]));
        compare_auto(row, &ratios);
        cJSON_AddNumberToObject(o, "auto_to_best", median(&ratios));
        const double quartiles[] = {quantile(&ratios, 0.25), quantile(&ratios, 0.75)};
        cJSON_AddItemToObject(o, "auto_to_best_quartiles", cJSON_CreateDoubleArray(quartiles, 2));
    }
}

int bench_print_json(const struct bench_report *report, FILE *out) {
    const struct l4_engine_info *info = &report->info.engine;
    cJSON *root = cJSON_CreateObject();
    cJSON *run = cJSON_AddObjectToObject(root, "run");
    cJSON_AddStringToObject(run, "model", info->name);
    cJSON_AddStringToObject(run, "quantization", info->quantization);
    cJSON_AddStringToObject(run, "activations", report->info.activations);
    cJSON_AddStringToObject(run, "gemm", info->gemm);
    cJSON_AddStringToObject(run, "kernels", info->cpu_kernels);
    cJSON_AddNumberToObject(run, "threads", info->threads);
    cJSON_AddNumberToObject(run, "repeats", report->repeats);
    cJSON *limits = cJSON_AddObjectToObject(root, "limits");
    cJSON *ranges = cJSON_AddObjectToObject(root, "limits_range");
    for (int i = 0; i < BENCH_N_LIMITS; i++) {
        const double range[] = {quantile(&report->limits[i], 0), quantile(&report->limits[i], 1)};
        cJSON_AddNumberToObject(limits, LIMITS[i].key, median(&report->limits[i]));
        cJSON_AddItemToObject(ranges, LIMITS[i].key, cJSON_CreateDoubleArray(range, 2));
    }
    add_results(root, report);
    if (report->n_experts_rows > 0)
        add_experts(root, report);
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    if (text == NULL)
        return L4_E_NOMEM;
    fprintf(out, "%s\n", text);
    cJSON_free(text);
    return 0;
}
