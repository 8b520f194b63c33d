/* golden experts: caseN.{hidden_states, top_k_index, top_k_weights, gate_up_proj, down_proj, output} of a file. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/golden/golden.h"
#include "tests/golden/golden_exec.h"

/* Relative to the largest element of the case's output. */
static const double TOLERANCE = 1e-5;

struct experts_case {
    const struct tensor *hidden_states, *top_k_index, *top_k_weights, *gate_up_proj, *down_proj, *output;
};

static const struct {
    const char *name;
    enum dtype type;
    int n_dims;
    size_t offset; /* in struct experts_case */
} PARTS[] = {
    {"hidden_states", DT_F32, 2, offsetof(struct experts_case, hidden_states)},
    {"top_k_index", DT_I32, 2, offsetof(struct experts_case, top_k_index)},
    {"top_k_weights", DT_F32, 2, offsetof(struct experts_case, top_k_weights)},
    {"gate_up_proj", DT_COUNT, 3, offsetof(struct experts_case, gate_up_proj)}, /* DT_COUNT: any weight type */
    {"down_proj", DT_COUNT, 3, offsetof(struct experts_case, down_proj)},
    {"output", DT_F32, 2, offsetof(struct experts_case, output)},
};
enum { N_PARTS = sizeof PARTS / sizeof PARTS[0] };

/* Puts a tensor where its name says. */
static void take_tensor(struct experts_case *cases, int n_cases, const char *path, const char *name,
                        const struct tensor *tensor) {
    int index = -1, end = 0;
    if (sscanf(name, "case%d.%n", &index, &end) != 1 || end == 0 || index < 0 || index >= n_cases)
        golden_fail("%s: tensor %s is of no known kind", path, name);
    for (int p = 0; p < N_PARTS; p++) {
        if (strcmp(name + end, PARTS[p].name) != 0)
            continue;
        bool right_type = PARTS[p].type == DT_COUNT ? tensor->type <= DT_BF16 : tensor->type == PARTS[p].type;
        if (!right_type || tensor->n_dims != PARTS[p].n_dims)
            golden_fail("%s: %s has the wrong type or shape", path, name);
        memcpy((char *)&cases[index] + PARTS[p].offset, &tensor, sizeof tensor);
        return;
    }
    golden_fail("%s: tensor %s is of no known kind", path, name);
}

static void check_shapes(const struct experts_case *c, const char *path, int index) {
    for (int p = 0; p < N_PARTS; p++) {
        const struct tensor *tensor;
        memcpy(&tensor, (const char *)c + PARTS[p].offset, sizeof tensor);
        if (!tensor)
            golden_fail("%s: case%d.%s is missing", path, index, PARTS[p].name);
    }
    int64_t n_tokens = c->hidden_states->shape[0], hidden = c->hidden_states->shape[1];
    int64_t top_k = c->top_k_index->shape[1], n_experts = c->down_proj->shape[0], inter = c->down_proj->shape[1];
    if (c->output->shape[0] != n_tokens || c->output->shape[1] != hidden || c->top_k_index->shape[0] != n_tokens ||
        c->top_k_weights->shape[0] != n_tokens || c->top_k_weights->shape[1] != top_k ||
        c->gate_up_proj->shape[0] != n_experts || c->gate_up_proj->shape[1] != hidden ||
        c->gate_up_proj->shape[2] != 2 * inter || c->down_proj->shape[2] != hidden)
        golden_fail("%s: the shapes of case%d do not fit together", path, index);
    for (int64_t i = 0; i < n_tokens * top_k; i++)
        if (((const int32_t *)c->top_k_index->data)[i] < 0 || ((const int32_t *)c->top_k_index->data)[i] > n_experts)
            golden_fail("%s: case%d.top_k_index is out of range", path, index);
}

static struct matrix *stacked(const struct tensor *tensor) {
    int64_t n = tensor->shape[0], in = tensor->shape[1], out = tensor->shape[2];
    struct matrix *matrices = calloc((size_t)n, sizeof *matrices);
    if (!matrices)
        golden_fail("out of memory");
    for (int64_t e = 0; e < n; e++)
        matrices[e] = (struct matrix){
            tensor->type, MATRIX_IN_OUT,
            out,          in,
            out,          (const char *)tensor->data + (size_t)(e * in * out) * dtype_size(tensor->type)};
    return matrices;
}

static float *run_case(const struct experts_case *c, const struct experts_backend *backend, const struct exec *exec) {
    struct matrix *gate_up = stacked(c->gate_up_proj), *down = stacked(c->down_proj);
    struct experts experts = {.num_experts = (int32_t)c->down_proj->shape[0],
                              .hidden_size = (int32_t)c->down_proj->shape[2],
                              .intermediate_size = (int32_t)c->down_proj->shape[1],
                              .top_k = (int32_t)c->top_k_index->shape[1],
                              .gate_up = gate_up,
                              .down = down};
    struct arena arena = {0};
    float *out = calloc((size_t)golden_elements(c->output) + 1, sizeof *out);
    if (!out || experts_forward(backend, &experts, exec, &arena, c->hidden_states->data, c->top_k_index->data,
                                c->top_k_weights->data, c->hidden_states->shape[0], out))
        golden_fail("out of memory");
    arena_fini(&arena);
    free(gate_up);
    free(down);
    return out;
}

static double relative(double error, const struct experts_case *c) {
    double largest = golden_largest(c->output->data, (size_t)golden_elements(c->output));
    return error == 0 ? 0 : error / largest;
}

static bool report_error(const char *what, double error) {
    printf("%s: largest relative error %.2e, allowed %.0e\n", what, error, TOLERANCE);
    return error <= TOLERANCE;
}

static bool check_file(const struct golden_exec *golden, const char *path) {
    struct l4_err err;
    struct safetensors *file;
    if (safetensors_open(&file, path, &err))
        golden_fail("%s", err.message);
    int n_cases = (int)(safetensors_count(file) / N_PARTS);
    struct experts_case *cases = calloc((size_t)n_cases + 1, sizeof *cases);
    if (!cases)
        golden_fail("out of memory");
    for (size_t i = 0; i < safetensors_count(file); i++)
        take_tensor(cases, n_cases, path, safetensors_name(file, i), safetensors_at(file, i));

    double errors[GOLDEN_MAX_BACKENDS] = {0}, disagreement = 0;
    size_t n_same = 0, n_compared = 0;
    for (int i = 0; i < n_cases; i++) {
        const struct experts_case *c = &cases[i];
        check_shapes(c, path, i);
        size_t n = (size_t)golden_elements(c->output);
        float *outputs[GOLDEN_MAX_BACKENDS];
        const float *invariant = NULL; /* the first batch-invariant backend's: all of them give the same bits */
        for (int b = 0; b < golden->n_backends; b++) {
            outputs[b] = run_case(c, golden->backends[b], &golden->exec);
            errors[b] = fmax(errors[b], relative(golden_largest_error(outputs[b], c->output->data, n), c));
            for (int a = 0; a < b; a++)
                disagreement = fmax(disagreement, relative(golden_largest_error(outputs[a], outputs[b], n), c));
            if (!golden->backends[b]->batch_invariant)
                continue;
            if (invariant) {
                n_same += memcmp(invariant, outputs[b], n * sizeof(float)) == 0;
                n_compared++;
            } else {
                invariant = outputs[b];
            }
        }
        for (int b = 0; b < golden->n_backends; b++)
            free(outputs[b]);
    }
    bool ok = n_cases > 0;
    char what[128];
    for (int b = 0; b < golden->n_backends; b++) {
        snprintf(what, sizeof what, "%s: output, %d cases", golden->backends[b]->name, n_cases);
        ok &= report_error(what, errors[b]);
    }
    if (golden->n_backends > 1) {
        ok &= report_error("backends against each other", disagreement);
        ok &= golden_report("batch-invariant backends, bit for bit", n_same, n_compared);
    }
    free(cases);
    safetensors_close(file);
    return ok;
}

int golden_experts(int argc, char **argv) {
    struct golden_exec golden;
    if (golden_exec_open(&golden, argc, argv))
        return GOLDEN_USAGE;
    bool ok = true;
    for (int i = 0; i < golden.n_paths; i++)
        ok &= check_file(&golden, golden.paths[i]);
    golden_exec_close(&golden);
    return ok ? GOLDEN_OK : GOLDEN_MISMATCH;
}
