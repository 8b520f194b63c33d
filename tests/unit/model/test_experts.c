/* The experts backends against a plain double-precision loop, against the reference outputs, and against each other. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/format/safetensors.h"
#include "core/model/experts.h"
#include "tests/lib/failmalloc.h"
#include "tests/lib/pack_matrix.h"
#include "tests/lib/random_data.h"
#include "tests/lib/sanitized.h"

/* A layer's experts and a batch for them, random. */
struct problem {
    struct experts experts;
    int64_t n_tokens;
    enum dtype type;
    void *gate_up_weights, *down_weights;
    struct matrix *gate_up, *down;
    void *shared_weights[3]; /* gate, up, down */
    float *hidden_states, *top_k_weights;
    int32_t *top_k_index;
};

static void *must_alloc(size_t n, size_t size) {
    void *p = calloc(n + 1, size);
    assert_non_null(p);
    return p;
}

/* Matrices over stacked weights [num_experts][in][out]. */
static struct matrix *stacked(enum dtype type, const void *data, int32_t n_experts, int64_t in, int64_t out) {
    struct matrix *m = must_alloc((size_t)n_experts, sizeof *m);
    for (int32_t e = 0; e < n_experts; e++)
        m[e] = (struct matrix){.type = type,
                               .layout = MATRIX_IN_OUT,
                               .n = out,
                               .k = in,
                               .stride = out,
                               .data = (const char *)data + (size_t)(e * in * out) * dtype_size(type)};
    return m;
}

/* A linear layer [out][in]. */
static struct matrix linear(enum dtype type, struct rng *rng, int64_t in, int64_t out, void **weights) {
    *weights = rng_weights(rng, type, (size_t)(in * out), 0.3f);
    return (struct matrix){.type = type, .layout = MATRIX_OUT_IN, .n = out, .k = in, .stride = in, .data = *weights};
}

static void add_shared(struct problem *p, struct rng *rng, int64_t width) {
    int64_t hidden = p->experts.hidden_size;
    p->experts.shared_gate = linear(p->type, rng, hidden, width, &p->shared_weights[0]);
    p->experts.shared_up = linear(p->type, rng, hidden, width, &p->shared_weights[1]);
    p->experts.shared_down = linear(p->type, rng, width, hidden, &p->shared_weights[2]);
}

static void problem_init(struct problem *p, struct rng *rng, enum dtype type, int32_t n_experts, int32_t hidden,
                         int32_t intermediate, int32_t top_k, int64_t n_tokens) {
    size_t n_pairs = (size_t)n_tokens * (size_t)top_k, h = (size_t)hidden, i = (size_t)intermediate;
    *p = (struct problem){
        .experts = {.num_experts = n_experts, .hidden_size = hidden, .intermediate_size = intermediate, .top_k = top_k},
        .n_tokens = n_tokens,
        .type = type};
    p->gate_up_weights = rng_weights(rng, type, (size_t)n_experts * h * 2 * i, 0.3f);
    p->down_weights = rng_weights(rng, type, (size_t)n_experts * i * h, 0.3f);
    p->experts.gate_up = p->gate_up = stacked(type, p->gate_up_weights, n_experts, hidden, 2 * intermediate);
    p->experts.down = p->down = stacked(type, p->down_weights, n_experts, intermediate, hidden);
    p->hidden_states = must_alloc((size_t)n_tokens * h, sizeof(float));
    rng_fill(rng, p->hidden_states, (size_t)n_tokens * h, 1);
    p->top_k_weights = must_alloc(n_pairs, sizeof(float));
    p->top_k_index = must_alloc(n_pairs, sizeof(int32_t));
    for (size_t j = 0; j < n_pairs; j++) { /* one in six lives elsewhere, with a weight that must not be looked at */
        bool elsewhere = rng_below(rng, 6) == 0;
        p->top_k_index[j] = elsewhere ? n_experts : (int32_t)rng_below(rng, n_experts);
        p->top_k_weights[j] = elsewhere ? NAN : fabsf(rng_float(rng));
    }
}

static void problem_fini(struct problem *p) {
    for (int i = 0; i < 3; i++)
        free(p->shared_weights[i]);
    free(p->gate_up_weights);
    free(p->down_weights);
    free(p->gate_up);
    free(p->down);
    free(p->hidden_states);
    free(p->top_k_weights);
    free(p->top_k_index);
}

static void naive_expert(const struct problem *p, int32_t e, double weight, const float *x, double *sum) {
    int64_t hidden = p->experts.hidden_size, inter = p->experts.intermediate_size;
    double *activated = must_alloc((size_t)inter, sizeof *activated);
    for (int64_t j = 0; j < inter; j++) {
        double gate = 0, up = 0;
        for (int64_t i = 0; i < hidden; i++) {
            size_t at = (size_t)((e * hidden + i) * 2 * inter + j);
            gate += weight * x[i] * weight_at(p->type, p->gate_up_weights, at);
            up += weight * x[i] * weight_at(p->type, p->gate_up_weights, at + (size_t)inter);
        }
        activated[j] = gate / (1 + exp(-gate)) * up;
    }
    for (int64_t i = 0; i < hidden; i++)
        for (int64_t j = 0; j < inter; j++)
            sum[i] += activated[j] * weight_at(p->type, p->down_weights, (size_t)((e * inter + j) * hidden + i));
    free(activated);
}

static void naive_shared(const struct problem *p, const float *x, double *sum) {
    int64_t hidden = p->experts.hidden_size, width = p->experts.shared_gate.n;
    for (int64_t j = 0; j < width; j++) {
        double gate = 0, up = 0;
        for (int64_t i = 0; i < hidden; i++) {
            gate += x[i] * weight_at(p->type, p->shared_weights[0], (size_t)(j * hidden + i));
            up += x[i] * weight_at(p->type, p->shared_weights[1], (size_t)(j * hidden + i));
        }
        for (int64_t i = 0; i < hidden; i++)
            sum[i] += gate / (1 + exp(-gate)) * up * weight_at(p->type, p->shared_weights[2], (size_t)(i * width + j));
    }
}

static double *naive_forward(const struct problem *p) {
    int64_t hidden = p->experts.hidden_size, top_k = p->experts.top_k;
    double *out = must_alloc((size_t)(p->n_tokens * hidden), sizeof *out);
    for (int64_t pair = 0; pair < p->n_tokens * top_k; pair++)
        if (p->top_k_index[pair] < p->experts.num_experts)
            naive_expert(p, p->top_k_index[pair], p->top_k_weights[pair], p->hidden_states + pair / top_k * hidden,
                         out + pair / top_k * hidden);
    for (int64_t t = 0; t < p->n_tokens && p->experts.shared_gate.n; t++)
        naive_shared(p, p->hidden_states + t * hidden, out + t * hidden);
    return out;
}

static struct exec exec_open(int n_threads, const char *variant) {
    static struct arena arena; /* one exec at a time */
    struct exec exec = {.gemm = GEMM_OWN, .kernels = kernels_by_name(variant), .arena = &arena};
    assert_non_null(exec.kernels);
    assert_int_equal(pool_open(&exec.pool, n_threads, GEMM_SCRATCH_BYTES, NULL), 0);
    return exec;
}

static void exec_close(struct exec *exec) {
    pool_close(exec->pool);
    arena_fini(exec->arena);
}

/* Rows from .. to-1 of the problem, added to nothing. */
static void forward(const struct problem *p, const struct experts_backend *backend, const struct exec *exec,
                    int64_t from, int64_t to, float *out) {
    struct arena arena = {0};
    int64_t hidden = p->experts.hidden_size, top_k = p->experts.top_k;
    for (int64_t i = from * hidden; i < to * hidden; i++)
        out[i] = 0;
    assert_int_equal(experts_forward(backend, &p->experts, exec, &arena, p->hidden_states + from * hidden,
                                     p->top_k_index + from * top_k, p->top_k_weights + from * top_k, to - from,
                                     out + from * hidden),
                     0);
    arena_fini(&arena);
}

/* Largest |a - b| over the largest |b|. */
static double relative_error(const float *a, const double *b, size_t n) {
    double error = 0, largest = 1e-30;
    for (size_t i = 0; i < n; i++) {
        if (!(fabs(a[i] - b[i]) <= error)) /* NaN counts */
            error = isnan(a[i]) ? INFINITY : fabs(a[i] - b[i]);
        largest = fmax(largest, fabs(b[i]));
    }
    return error / largest;
}

static void test_random_shapes(void **state) {
    (void)state;
    static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16};
    struct rng rng = {7};
    struct exec exec = exec_open(2, kernels_names()[0]);
    for (int round = 0; round < 30; round++) {
        struct problem p;
        problem_init(&p, &rng, types[round % 3], 1 + (int32_t)rng_below(&rng, 9), 1 + (int32_t)rng_below(&rng, 90),
                     1 + (int32_t)rng_below(&rng, 70), 1 + round % 3, rng_below(&rng, 50));
        size_t n = (size_t)(p.n_tokens * p.experts.hidden_size);
        if (round % 2)
            add_shared(&p, &rng, 1 + rng_below(&rng, 80));
        if (round == 7) { /* a dense layer */
            p.experts.num_experts = p.experts.top_k = 0;
        }
        if (round == 4) /* all to one */
            for (int64_t j = 0; j < p.n_tokens * p.experts.top_k; j++)
                p.top_k_index[j] = 0, p.top_k_weights[j] = 0.5f;
        if (round == 5) /* all elsewhere */
            for (int64_t j = 0; j < p.n_tokens * p.experts.top_k; j++)
                p.top_k_index[j] = p.experts.num_experts, p.top_k_weights[j] = NAN;
        double *want = naive_forward(&p);
        float *out = must_alloc(n, sizeof *out);
        for (int b = 0; experts_backend_at(b); b++) {
            forward(&p, experts_backend_at(b), &exec, 0, p.n_tokens, out);
            assert_true(relative_error(out, want, n) < 1e-5);
        }
        free(out);
        free(want);
        problem_fini(&p);
    }
    exec_close(&exec);
}

/* eager, whose activations are never quantised, gives about the same. */
static void check_eager(const struct problem *p, const struct exec *exec, const float *want, size_t n,
                        double tolerance) {
    const struct experts_backend *eager;
    float *out = must_alloc(n, sizeof *out);
    double *wide = must_alloc(n, sizeof *wide);
    for (size_t i = 0; i < n; i++)
        wide[i] = want[i];
    assert_int_equal(experts_backend_find(&eager, "eager", NULL), 0);
    forward(p, eager, exec, 0, p->n_tokens, out);
    assert_true(relative_error(out, wide, n) < tolerance);
    free(out);
    free(wide);
}

enum { MAX_PANELS = 64 };

/* Packs every matrix; returns how many panels there are to free. */
static int pack(struct problem *p, enum dtype type, void *panels[MAX_PANELS]) {
    int n = 0;
    for (int32_t e = 0; e < p->experts.num_experts; e++) {
        panels[n++] = pack_matrix(&p->gate_up[e], type);
        panels[n++] = pack_matrix(&p->down[e], type);
    }
    panels[n++] = pack_matrix(&p->experts.shared_gate, type);
    panels[n++] = pack_matrix(&p->experts.shared_up, type);
    panels[n++] = pack_matrix(&p->experts.shared_down, type);
    return n;
}

/* batched_mm, grouped_mm and auto: the same bits for any cut of the batch and any number of threads. */
static void check_same_bits(enum dtype packed) {
    struct rng rng = {11};
    for (int v = 0; kernels_names()[v]; v++) {
        for (int n_threads = 1; n_threads <= 4; n_threads += SANITIZED ? 2 : 1) {
            struct exec exec = exec_open(n_threads, kernels_names()[v]);
            void *panels[MAX_PANELS];
            struct problem p;
            problem_init(&p, &rng, n_threads % 2 ? DT_BF16 : DT_F32, 6, packed == DT_F32 ? 72 : 64,
                         packed == DT_F32 ? 56 : 96, 1 + n_threads % 3, 60);
            add_shared(&p, &rng, 160);
            int n_panels = packed == DT_F32 ? 0 : pack(&p, packed, panels);
            size_t n = (size_t)(p.n_tokens * p.experts.hidden_size);
            float *want = must_alloc(n, sizeof *want), *out = must_alloc(n, sizeof *out);
            for (int64_t t = 0; t < p.n_tokens; t++) {
                forward(&p, experts_backend_at(0), &exec, t, t + 1, want);
            }
            for (int b = 0; experts_backend_at(b); b++) {
                if (!experts_backend_at(b)->batch_invariant)
                    continue;
                for (int cut = 0; cut < 4; cut++) {
                    for (int64_t from = 0, to; from < p.n_tokens; from = to) {
                        to = cut == 0 ? p.n_tokens : from + 1 + rng_below(&rng, p.n_tokens - from);
                        forward(&p, experts_backend_at(b), &exec, from, to, out);
                    }
                    assert_memory_equal(out, want, n * sizeof *out);
                }
            }
            check_eager(&p, &exec, want, n, packed == DT_F32 ? 1e-5 : 2e-2);
            free(out);
            free(want);
            problem_fini(&p);
            while (n_panels > 0)
                free(panels[--n_panels]);
            exec_close(&exec);
        }
    }
}

static void test_same_bits(void **state) {
    (void)state;
    check_same_bits(DT_F32);
}

static void test_same_bits_packed(void **state) {
    (void)state;
    check_same_bits(DT_Q8_0);
    check_same_bits(DT_Q4_0);
}

/* One dispatch, whatever the number of experts; each call adds to what is there. */
static void test_one_dispatch(void **state) {
    (void)state;
    struct rng rng = {17};
    struct exec exec = exec_open(2, kernels_names()[0]);
    struct problem p;
    problem_init(&p, &rng, DT_F32, 7, 40, 30, 2, 33);
    add_shared(&p, &rng, 50);
    size_t n = (size_t)(p.n_tokens * p.experts.hidden_size);
    float *once = must_alloc(n, sizeof *once), *twice = must_alloc(n, sizeof *twice);
    for (int b = 0; experts_backend_at(b); b++) {
        struct arena arena = {0};
        uint64_t before = pool_n_dispatches(exec.pool);
        forward(&p, experts_backend_at(b), &exec, 0, p.n_tokens, once);
        if (experts_backend_at(b)->batch_invariant)
            assert_int_equal(pool_n_dispatches(exec.pool) - before, 1);
        memcpy(twice, once, n * sizeof *once);
        assert_int_equal(experts_forward(experts_backend_at(b), &p.experts, &exec, &arena, p.hidden_states,
                                         p.top_k_index, p.top_k_weights, p.n_tokens, twice),
                         0);
        for (size_t i = 0; i < n; i++)
            assert_true(twice[i] == 2 * once[i]);
        arena_fini(&arena);
    }
    free(once);
    free(twice);
    problem_fini(&p);
    exec_close(&exec);
}

/* What the backends ask of the kernels: own products by number of rows.  One thread runs them. */
static const struct kernels *counted;
static int64_t n_products, most_rows;

static void counting_gemm(const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x, int64_t ldx,
                          int64_t m, float *y, int64_t ldy, bool accumulate, void *scratch) {
    n_products++;
    most_rows = m > most_rows ? m : most_rows;
    counted->gemm[w->type][w->layout](w, n_begin, n_end, x, ldx, m, y, ldy, accumulate, scratch);
}

static void count(const struct problem *p, const char *name, const struct exec *exec, int64_t n_tokens, float *out) {
    const struct experts_backend *backend = NULL;
    assert_int_equal(experts_backend_find(&backend, name, NULL), 0);
    n_products = most_rows = 0;
    forward(p, backend, exec, 0, n_tokens, out);
}

/* batched_mm multiplies single rows, grouped_mm all rows of an expert at once, auto goes by the tokens an expert
 * gets, eager asks OpenBLAS; and what lives elsewhere is asked of nobody. */
static void test_what_is_computed(void **state) {
    (void)state;
    struct rng rng = {17};
    struct exec exec = exec_open(1, kernels_names()[0]);
    struct kernels counting = *exec.kernels;
    counted = exec.kernels;
    for (int type = 0; type < DT_N_WEIGHT_TYPES; type++)
        for (int layout = 0; layout < MATRIX_N_ROW_LAYOUTS; layout++)
            counting.gemm[type][layout] = counting_gemm;
    exec.kernels = &counting;
    struct problem p;
    problem_init(&p, &rng, DT_BF16, 4, 48, 32, 1, 64);
    float *out = must_alloc((size_t)(p.n_tokens * p.experts.hidden_size), sizeof *out);
    for (int64_t t = 0; t < p.n_tokens; t++)
        p.top_k_index[t] = (int32_t)(t % 4), p.top_k_weights[t] = 0.5f;
    count(&p, "batched_mm", &exec, 64, out);
    assert_true(most_rows == 1 && n_products >= 64 * 2); /* gate and up in one, down */
    count(&p, "grouped_mm", &exec, 64, out);
    assert_int_equal(most_rows, 16);
    count(&p, "auto", &exec, 64, out);
    assert_int_equal(most_rows, 16);
    count(&p, "auto", &exec, 1, out);
    assert_int_equal(most_rows, 1);
    count(&p, "eager", &exec, 64, out);
    assert_int_equal(n_products, 0);
    for (int64_t t = 0; t < p.n_tokens; t++)
        p.top_k_index[t] = p.experts.num_experts, p.top_k_weights[t] = NAN;
    for (int b = 0; experts_backend_at(b); b++) {
        count(&p, experts_backend_at(b)->name, &exec, 64, out);
        assert_int_equal(n_products, 0);
    }
    free(out);
    problem_fini(&p);
    exec_close(&exec);
}

/* The mistake that still gives fluent text: the routing weight on the expert's output instead of its input. */
static int weight_on_output(const struct experts *experts, const struct exec *exec, struct arena *arena,
                            const float *hidden_states, const int32_t *top_k_index, const float *top_k_weights,
                            int64_t n_tokens, float *out) {
    assert_int_equal(experts->top_k, 1);
    float *ones = must_alloc((size_t)n_tokens, sizeof *ones);
    for (int64_t t = 0; t < n_tokens; t++)
        ones[t] = 1;
    int rc = experts_backend_at(0)->forward(experts, exec, arena, hidden_states, top_k_index, ones, n_tokens, out);
    for (int64_t t = 0; t < n_tokens; t++)
        for (int32_t i = 0; i < experts->hidden_size && top_k_index[t] < experts->num_experts; i++)
            out[t * experts->hidden_size + i] *= top_k_weights[t];
    free(ones);
    return rc;
}

static const struct tensor *case_tensor(const struct safetensors *file, int i, const char *what) {
    char name[64];
    snprintf(name, sizeof name, "case%d.%s", i, what);
    return safetensors_find(file, name);
}

static void test_weight_placement(void **state) {
    (void)state;
    const struct experts_backend wrong = {.name = "wrong", .forward = weight_on_output};
    struct exec exec = exec_open(1, "ref");
    struct safetensors *file;
    assert_int_equal(safetensors_open(&file, "tests/fixtures/experts.safetensors", NULL), 0);
    int n_compared = 0;
    for (int i = 0; case_tensor(file, i, "output"); i++) {
        const struct tensor *gate_up = case_tensor(file, i, "gate_up_proj"), *down = case_tensor(file, i, "down_proj"),
                            *index = case_tensor(file, i, "top_k_index"), *output = case_tensor(file, i, "output");
        if (index->shape[1] != 1)
            continue;
        struct problem p = {.experts = {.num_experts = (int32_t)down->shape[0],
                                        .hidden_size = (int32_t)down->shape[2],
                                        .intermediate_size = (int32_t)down->shape[1],
                                        .top_k = 1},
                            .n_tokens = index->shape[0]};
        size_t n = (size_t)(output->shape[0] * output->shape[1]);
        p.experts.gate_up = p.gate_up =
            stacked(gate_up->type, gate_up->data, p.experts.num_experts, gate_up->shape[1], gate_up->shape[2]);
        p.experts.down = p.down =
            stacked(down->type, down->data, p.experts.num_experts, down->shape[1], down->shape[2]);
        struct arena arena = {0};
        float *right_out = must_alloc(n, sizeof(float)), *wrong_out = must_alloc(n, sizeof(float));
        double *want = must_alloc(n, sizeof *want);
        for (size_t j = 0; j < n; j++)
            want[j] = ((const float *)output->data)[j];
        for (int w = 0; w < 2; w++)
            assert_int_equal(experts_forward(w ? &wrong : experts_backend_at(0), &p.experts, &exec, &arena,
                                             case_tensor(file, i, "hidden_states")->data, index->data,
                                             case_tensor(file, i, "top_k_weights")->data, p.n_tokens,
                                             w ? wrong_out : right_out),
                             0);
        const float *weights = case_tensor(file, i, "top_k_weights")->data;
        bool all_one = true; /* then the place does not matter */
        for (int64_t t = 0; t < p.n_tokens; t++)
            all_one &= weights[t] == 1;
        assert_true(relative_error(right_out, want, n) < 1e-5);
        assert_true(all_one || relative_error(wrong_out, want, n) > 1e-3);
        n_compared += !all_one;
        free(right_out);
        free(wrong_out);
        free(want);
        free(p.gate_up);
        free(p.down);
        arena_fini(&arena);
    }
    assert_true(n_compared >= 4);
    safetensors_close(file);
    exec_close(&exec);
}

/* Whichever allocation fails: L4_E_NOMEM, and out as it was. */
static void test_out_of_memory(void **state) {
    (void)state;
    struct rng rng = {13};
    struct exec exec = exec_open(2, kernels_names()[0]);
    struct problem p;
    problem_init(&p, &rng, DT_F32, 4, 600, 300, 2, 40);
    size_t n = (size_t)(p.n_tokens * p.experts.hidden_size);
    for (int64_t j = 0; j < p.n_tokens * p.experts.top_k; j++) /* something for every token */
        if (p.top_k_index[j] == p.experts.num_experts)
            p.top_k_index[j] = 0, p.top_k_weights[j] = 1;
    float *out = must_alloc(n, sizeof *out);
    for (int b = 0; experts_backend_at(b); b++) {
        long failed = 1, at;
        for (at = 1; failed > 0; at++) {
            struct arena arena = {0};
            arena_fini(exec.arena);
            for (size_t i = 0; i < n; i++)
                out[i] = 77;
            failmalloc_arm((size_t)at);
            int rc = experts_forward(experts_backend_at(b), &p.experts, &exec, &arena, p.hidden_states, p.top_k_index,
                                     p.top_k_weights, p.n_tokens, out);
            failed = failmalloc_disarm();
            assert_int_equal(rc, failed ? L4_E_NOMEM : 0);
            for (size_t i = 0; i < n; i++)
                assert_true((out[i] == 77) == (failed > 0));
            arena_fini(&arena);
        }
        assert_true(at > 3);
    }
    free(out);
    problem_fini(&p);
    exec_close(&exec);
}

static void test_registry(void **state) {
    (void)state;
    const struct experts_backend *backend = NULL;
    struct l4_err err;
    static const char *const names[] = {"auto", "eager", "batched_mm", "grouped_mm"};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(experts_backend_find(&backend, names[i], NULL), 0);
        assert_string_equal(backend->name, names[i]);
    }
    backend = NULL;
    assert_int_equal(experts_backend_find(&backend, "fastest", &err), L4_E_INVALID);
    assert_null(backend);
    for (int i = 0; i < 4; i++)
        assert_non_null(strstr(err.message, names[i]));
    assert_null(experts_backend_at(4));
    assert_null(experts_backend_at(-1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_shapes),    cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_same_bits_packed), cmocka_unit_test(test_one_dispatch),
        cmocka_unit_test(test_what_is_computed), cmocka_unit_test(test_weight_placement),
        cmocka_unit_test(test_out_of_memory),    cmocka_unit_test(test_registry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
