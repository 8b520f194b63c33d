/* golden model: a checkpoint directory against every tensor of its golden.safetensors.
 *
 * The whole of input_ids runs as one chunk with every intermediate result recorded; greedy decoding runs with the KV
 * cache, and the prompt runs again in odd pieces, which must not change a bit. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/model/llama4.h"
#include "tests/golden/golden.h"
#include "tests/golden/golden_exec.h"

static const double TOLERANCE = 2e-4;     /* absolute, on everything that is a float */
static const float ROUTER_MARGIN = 1e-4f; /* router logits closer than this may swap places */
static const float GREEDY_MARGIN = 1e-3f; /* logits closer than this may swap places */
enum { ODD_PIECES = 5 };
static const int64_t ODD_PIECE[ODD_PIECES] = {1, 7, 3, 18, 5};

/* What one forward pass over input_ids gave. */
struct record {
    int64_t n_rows;
    float *hidden_states[CONFIG_MAX_LAYERS + 1];
    float *router_logits[CONFIG_MAX_LAYERS], *top_k_weights[CONFIG_MAX_LAYERS];
    int32_t *top_k_index[CONFIG_MAX_LAYERS];
    float *logits;
};

struct fixture {
    const char *dir;
    char path[4096]; /* of golden.safetensors */
    struct safetensors *file;
    struct checkpoint *checkpoint;
    const struct model_config *config;
    struct llama4 *model;
    struct kv_pool *pool;
    bool batch_invariant;
    const int32_t *ids;
    int64_t n_ids;
    struct record record;
};

static void *copy(const void *from, size_t n, size_t size) {
    void *to = malloc(n * size + 1);
    if (!to)
        golden_fail("out of memory");
    return from ? memcpy(to, from, n * size) : to;
}

static void record_hidden_states(void *user, int layer, const float *rows, int64_t n_rows, int64_t hidden_size) {
    struct record *record = user;
    record->hidden_states[layer] = copy(rows, (size_t)(n_rows * hidden_size), sizeof *rows);
}

static void record_router(void *user, int layer, const float *router_logits, const int32_t *top_k_index,
                          const float *top_k_weights, int64_t n_rows, int32_t num_experts, int32_t top_k) {
    struct record *record = user;
    record->router_logits[layer] = copy(router_logits, (size_t)(n_rows * num_experts), sizeof(float));
    record->top_k_index[layer] = copy(top_k_index, (size_t)(n_rows * top_k), sizeof(int32_t));
    record->top_k_weights[layer] = copy(top_k_weights, (size_t)(n_rows * top_k), sizeof(float));
}

static void record_free(struct record *record) {
    for (int i = 0; i < CONFIG_MAX_LAYERS; i++) {
        free(record->hidden_states[i]);
        free(record->router_logits[i]);
        free(record->top_k_weights[i]);
        free(record->top_k_index[i]);
    }
    free(record->hidden_states[CONFIG_MAX_LAYERS]);
    free(record->logits);
}

/* ---- running --------------------------------------------------------------------------------------------------- */

/* n ids more for a sequence; logits [n, vocab_size]. */
static void forward(const struct fixture *f, struct kv_seq *kv, const int32_t *ids, int64_t n, float *logits,
                    const struct llama4_probe *probe) {
    struct l4_err err = {0};
    struct llama4_segment segment = {.kv = kv, .tokens = ids, .n_tokens = (int32_t)n, .n_logits = (int32_t)n};
    if (kv_seq_reserve(kv, n))
        golden_fail("%s: no KV pages", f->dir);
    if (llama4_forward(f->model, &segment, 1, logits, probe, &err))
        golden_fail("%s: %s", f->dir, err.message);
}

static struct kv_seq *open_seq(const struct fixture *f) {
    struct l4_err err;
    struct kv_seq *kv;
    if (kv_seq_open(&kv, f->pool, &err))
        golden_fail("%s: %s", f->dir, err.message);
    return kv;
}

static void run_whole(struct fixture *f) {
    struct llama4_probe probe = {record_hidden_states, record_router, &f->record};
    struct kv_seq *kv = open_seq(f);
    f->record.n_rows = f->n_ids;
    f->record.logits = copy(NULL, (size_t)(f->n_ids * f->config->vocab_size), sizeof(float));
    forward(f, kv, f->ids, f->n_ids, f->record.logits, &probe);
    kv_seq_close(kv);
}

static bool check_pieces(const struct fixture *f) {
    size_t vocab = (size_t)f->config->vocab_size;
    float *logits = copy(NULL, (size_t)f->n_ids * vocab, sizeof *logits);
    struct kv_seq *kv = open_seq(f);
    for (int64_t at = 0, n, i = 0; at < f->n_ids; at += n, i++) {
        n = ODD_PIECE[i % ODD_PIECES] < f->n_ids - at ? ODD_PIECE[i % ODD_PIECES] : f->n_ids - at;
        forward(f, kv, f->ids + at, n, logits + (size_t)at * vocab, NULL);
    }
    kv_seq_close(kv);
    bool ok;
    if (f->batch_invariant) {
        size_t n_same = 0;
        for (int64_t row = 0; row < f->n_ids; row++)
            n_same += memcmp(logits + (size_t)row * vocab, f->record.logits + (size_t)row * vocab,
                             vocab * sizeof *logits) == 0;
        ok = golden_report("  prompt in odd pieces, logits bit for bit", n_same, (size_t)f->n_ids);
    } else {
        double error = golden_largest_error(logits, f->record.logits, (size_t)f->n_ids * vocab);
        printf("  prompt in odd pieces, logits: largest absolute error %.2e (not batch-invariant)\n", error);
        ok = error <= TOLERANCE;
    }
    free(logits);
    return ok;
}

static bool check_greedy(const struct fixture *f) {
    const struct tensor *want = golden_tensor(f->file, f->path, "greedy_ids", DT_I32);
    const struct tensor *prompt_len = golden_tensor(f->file, f->path, "greedy_prompt_len", DT_I32);
    int64_t n = golden_elements(want), n_prompt = *(const int32_t *)prompt_len->data;
    if (n_prompt < 1 || n_prompt > f->n_ids)
        golden_fail("%s: greedy_prompt_len is %lld", f->path, (long long)n_prompt);
    const int32_t *ids = want->data;
    int64_t vocab = f->config->vocab_size;
    float *logits = copy(NULL, (size_t)(n_prompt * vocab), sizeof *logits);
    struct kv_seq *kv = open_seq(f);
    forward(f, kv, f->ids, n_prompt, logits, NULL);
    size_t n_match = 0;
    for (int64_t i = 0; i < n; i++) {
        const float *last = logits + (i == 0 ? (n_prompt - 1) * vocab : 0);
        int32_t best = 0;
        for (int32_t j = 1; j < vocab; j++)
            if (last[j] > last[best])
                best = j;
        if (ids[i] < 0 || ids[i] >= vocab)
            golden_fail("%s: greedy_ids holds %d", f->path, ids[i]);
        n_match += last[best] - last[ids[i]] <= (best == ids[i] ? 0 : GREEDY_MARGIN);
        if (i + 1 < n)
            forward(f, kv, &ids[i], 1, logits, NULL);
    }
    kv_seq_close(kv);
    free(logits);
    return golden_report("  greedy_ids", n_match, (size_t)n);
}

/* ---- comparing ------------------------------------------------------------------------------------------------- */

/* One line of the report: all tensors of a kind. */
struct kind {
    const char *name; /* "logits", or "hidden_states." for hidden_states.N */
    const char *report;
    int n_tensors;
    double error;
    size_t n_match, n_total; /* of indices */
};

/* The tensor must have the record's number of elements. */
static void check_elements(const struct fixture *f, const char *name, const struct tensor *tensor, enum dtype type,
                           int64_t n) {
    if (tensor->type != type || golden_elements(tensor) != n)
        golden_fail("%s: %s is %s of %lld elements, expected %s of %lld", f->path, name, dtype_name(tensor->type),
                    (long long)golden_elements(tensor), dtype_name(type), (long long)n);
}

static void compare_floats(const struct fixture *f, const char *name, const struct tensor *tensor, const float *ours,
                           int64_t width, struct kind *kind) {
    if (!ours)
        golden_fail("%s: %s: this layer has nothing of the kind", f->path, name);
    check_elements(f, name, tensor, DT_F32, f->record.n_rows * width);
    kind->error = fmax(kind->error, golden_largest_error(ours, tensor->data, (size_t)(f->record.n_rows * width)));
    kind->n_tensors++;
}

/* An index may differ where the reference's own router logits are as good as equal; its weight is then another's, too.
 */
static void compare_routing(const struct fixture *f, const char *name, const struct tensor *tensor, int layer,
                            struct kind *kind, bool weights) {
    const struct record *r = &f->record;
    int64_t top_k = f->config->n_experts_per_tok, n_experts = f->config->n_experts, n = r->n_rows * top_k;
    if (layer >= f->config->n_layers || !r->top_k_index[layer])
        golden_fail("%s: %s: layer %d is not MoE", f->path, name, layer);
    char other[64];
    snprintf(other, sizeof other, "top_k_index.%d", layer);
    const int32_t *index = golden_tensor(f->file, f->path, other, DT_I32)->data;
    snprintf(other, sizeof other, "router_logits.%d", layer);
    const float *logits = golden_tensor(f->file, f->path, other, DT_F32)->data;
    check_elements(f, name, tensor, weights ? DT_F32 : DT_I32, n);
    for (int64_t i = 0; i < n; i++) {
        int32_t ours = r->top_k_index[layer][i];
        if (index[i] < 0 || index[i] >= n_experts)
            golden_fail("%s: top_k_index.%d holds %d", f->path, layer, index[i]);
        const float *row = logits + i / top_k * n_experts;
        bool near = ours == index[i] || fabsf(row[ours] - row[index[i]]) < ROUTER_MARGIN;
        if (weights && near)
            kind->error = fmax(kind->error,
                               golden_largest_error(&r->top_k_weights[layer][i], (const float *)tensor->data + i, 1));
        kind->n_match += !weights && near;
        kind->n_total += !weights;
    }
    kind->n_tensors++;
}

/* The N of "kind.N" of a tensor's name, -1 if the name is of another kind. */
static int number_after(const char *name, const char *kind) {
    size_t n = strlen(kind);
    char *end;
    if (strncmp(name, kind, n) != 0 || name[n] < '0' || name[n] > '9')
        return -1;
    long number = strtol(name + n, &end, 10);
    return *end || number > CONFIG_MAX_LAYERS ? -1 : (int)number;
}

/* Compares one tensor of the file; false if its name is of no known kind. */
static bool compare_tensor(const struct fixture *f, const char *name, const struct tensor *tensor, bool text_only,
                           struct kind *kinds) {
    const struct record *r = &f->record;
    int layer;
    if ((layer = number_after(name, "hidden_states.")) >= 0)
        compare_floats(f, name, tensor, r->hidden_states[layer], f->config->hidden_size, &kinds[0]);
    else if ((layer = number_after(name, "router_logits.")) >= 0)
        compare_floats(f, name, tensor, layer < CONFIG_MAX_LAYERS ? r->router_logits[layer] : NULL,
                       f->config->n_experts, &kinds[1]);
    else if ((layer = number_after(name, "top_k_index.")) >= 0)
        compare_routing(f, name, tensor, layer, &kinds[2], false);
    else if ((layer = number_after(name, "top_k_weights.")) >= 0)
        compare_routing(f, name, tensor, layer, &kinds[3], true);
    else if (strcmp(name, text_only ? "text_only_logits" : "logits") == 0)
        compare_floats(f, name, tensor, r->logits, f->config->vocab_size, &kinds[4]);
    else
        return false;
    return true;
}

/* Whether a tensor is an input, or compared elsewhere. */
static bool is_one_of(const char *name, const char *const *names) {
    for (; *names; names++)
        if (strcmp(name, *names) == 0)
            return true;
    return false;
}

static bool compare_all(const struct fixture *f, bool text_only) {
    static const char *const text[] = {"input_ids", "greedy_ids", "greedy_prompt_len", NULL};
    static const char *const image[] = {"input_ids", "logits", "pixel_values", "image_features", "text_only_ids", NULL};
    struct kind kinds[] = {{.report = "hidden_states"},
                           {.report = "router_logits"},
                           {.report = "top_k_index"},
                           {.report = "top_k_weights"},
                           {.report = text_only ? "text_only_logits" : "logits"}};
    for (size_t i = 0; i < safetensors_count(f->file); i++) {
        const char *name = safetensors_name(f->file, i);
        if (!compare_tensor(f, name, safetensors_at(f->file, i), text_only, kinds) &&
            !is_one_of(name, text_only ? image : text))
            golden_fail("%s: tensor %s is of no known kind", f->path, name);
    }
    bool ok = kinds[4].n_tensors == 1;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        char line[64];
        if (kinds[i].n_total > 0) {
            snprintf(line, sizeof line, "  %s (%d tensors)", kinds[i].report, kinds[i].n_tensors);
            ok &= golden_report(line, kinds[i].n_match, kinds[i].n_total);
        } else if (kinds[i].n_tensors > 0) {
            printf("  %s (%d tensors): largest absolute error %.2e, allowed %.0e\n", kinds[i].report,
                   kinds[i].n_tensors, kinds[i].error, TOLERANCE);
            ok &= kinds[i].error <= TOLERANCE;
        }
    }
    return ok;
}

/* ---- one directory --------------------------------------------------------------------------------------------- */

static bool check_backend(struct fixture *f, const struct golden_exec *golden, const struct experts_backend *backend) {
    struct l4_err err;
    const struct exec *exec = &golden->exec;
    bool text_only = safetensors_find(f->file, "pixel_values") != NULL;
    const char *ids_name = text_only ? "text_only_ids" : "input_ids";
    const struct tensor *ids = golden_tensor(f->file, f->path, ids_name, DT_I32);
    f->ids = ids->data;
    f->n_ids = golden_elements(ids);
    for (int64_t i = 0; i < f->n_ids; i++)
        if (f->ids[i] < 0 || f->ids[i] >= f->config->vocab_size)
            golden_fail("%s: %s holds %d", f->path, ids_name, f->ids[i]);
    f->record = (struct record){0};
    f->batch_invariant = backend->batch_invariant && exec->gemm == GEMM_OWN;
    if (llama4_open(&f->model, f->checkpoint, exec, backend, NULL, &err))
        golden_fail("%s: %s", f->dir, err.message);

    printf("%s: experts %s, gemm %s, kernels %s\n", f->dir, backend->name, gemm_impl_names()[exec->gemm],
           exec->kernels->name);
    if (text_only)
        puts("  image input is not served: input_ids, pixel_values, image_features, logits are not compared");
    run_whole(f);
    bool ok = compare_all(f, text_only);
    ok &= check_pieces(f);
    if (safetensors_find(f->file, "greedy_ids"))
        ok &= check_greedy(f);
    llama4_close(f->model);
    return ok;
}

/* Logits of the backends that must give the same bits. */
static bool check_agreement(const struct golden_exec *golden, const struct record *records, size_t n_logits) {
    const float *first = NULL;
    size_t n_same = 0, n_compared = 0;
    for (int b = 0; b < golden->n_backends; b++) {
        if (!golden->backends[b]->batch_invariant)
            continue;
        if (first) {
            n_same += memcmp(first, records[b].logits, n_logits * sizeof(float)) == 0;
            n_compared++;
        } else {
            first = records[b].logits;
        }
    }
    return golden_report("  logits of batch-invariant backends, bit for bit", n_same, n_compared);
}

static bool check_dir(const struct golden_exec *golden, const char *dir) {
    struct l4_err err;
    struct fixture f = {.dir = dir};
    snprintf(f.path, sizeof f.path, "%s/golden.safetensors", dir);
    if (checkpoint_open(&f.checkpoint, dir, NULL, NULL, &err) || safetensors_open(&f.file, f.path, &err))
        golden_fail("%s", err.message);
    f.config = checkpoint_config(f.checkpoint);
    int64_t n_tokens = 0;
    for (size_t i = 0; i < safetensors_count(f.file); i++) /* no sequence here is longer than all ids together */
        if (safetensors_at(f.file, i)->type == DT_I32)
            n_tokens += golden_elements(safetensors_at(f.file, i));
    if (kv_pool_open(&f.pool, f.config, DT_F32, kv_pages_needed(f.config, n_tokens, n_tokens), &err))
        golden_fail("%s: %s", dir, err.message);

    struct record records[GOLDEN_MAX_BACKENDS];
    bool ok = true;
    for (int b = 0; b < golden->n_backends; b++) {
        ok &= check_backend(&f, golden, golden->backends[b]);
        records[b] = f.record;
    }
    if (golden->n_backends > 1)
        ok &= check_agreement(golden, records, (size_t)(f.n_ids * f.config->vocab_size));
    for (int b = 0; b < golden->n_backends; b++)
        record_free(&records[b]);
    kv_pool_close(f.pool);
    safetensors_close(f.file);
    checkpoint_close(f.checkpoint);
    return ok;
}

int golden_model(int argc, char **argv) {
    struct golden_exec golden;
    if (golden_exec_open(&golden, argc, argv))
        return GOLDEN_USAGE;
    bool ok = true;
    for (int i = 0; i < golden.n_paths; i++)
        ok &= check_dir(&golden, golden.paths[i]);
    golden_exec_close(&golden);
    return ok ? GOLDEN_OK : GOLDEN_MISMATCH;
}
