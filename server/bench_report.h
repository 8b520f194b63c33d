/* What `llama4d bench` has measured, and how it is told. */
#ifndef SERVER_BENCH_REPORT_H
#define SERVER_BENCH_REPORT_H

#include <stdio.h>

#include "llama4/bench.h"

enum { BENCH_MAX_REPEATS = 101, BENCH_MAX_BACKENDS = 8, BENCH_N_LIMITS = 4, BENCH_TABLE_ROWS = 12 };

/* Values in the order in which they were measured. */
struct bench_series {
    int n;
    double values[BENCH_MAX_REPEATS];
};
void bench_series_add(struct bench_series *series, double value);

/* One row of the results. */
struct bench_row {
    struct l4_bench_test test;
    struct l4_bench_result result; /* ops, bytes and distinct_experts: the same in every repeat */
    struct bench_series seconds;
};

/* The experts of one layer at one number of tokens. */
struct bench_experts_row {
    int64_t n_tokens;
    struct bench_series seconds[BENCH_MAX_BACKENDS]; /* in the order of l4_engine_experts_names */
};

struct bench_report {
    struct l4_bench_info info;
    int repeats;
    struct bench_series limits[BENCH_N_LIMITS]; /* in the order of struct l4_bench_limits */
    struct bench_row *rows;
    int n_rows;
    int n_experts_rows; /* 0: no table was asked for */
    struct bench_experts_row experts[BENCH_TABLE_ROWS];
};

/* bench_share - of the limit, medians by medians: a prefill's is the arithmetic in the model's mode, ops / peak; a
 * decode's the slower of that and of reading, bytes / read_bytes_per_s. */
double bench_share(const struct bench_report *report, const struct bench_row *row);

void bench_print_text(const struct bench_report *report, FILE *out);
/* bench_print_json - Errors: L4_E_NOMEM. */
int bench_print_json(const struct bench_report *report, FILE *out) L4_MUST_CHECK;

#endif
