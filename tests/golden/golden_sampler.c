/* golden sampler PREFIX: the distribution that is sampled from, against transformers' logits processors.
 * PREFIX.json holds one object of settings a case, PREFIX.safetensors its caseN.logits, caseN.history (prompt ids,
 * optional) and caseN.probs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/format/safetensors.h"
#include "core/sample/sampler.h"
#include "tests/golden/golden.h"

/* Probabilities are compared absolutely.  What one side drops must be dropped, or next to nothing, on the other. */
static const double TOLERANCE = 2e-5, NEXT_TO_NOTHING = 1e-20;
static const char ORDER[] = "repetition_penalty, temperature, top_k, top_p, min_p";

static double number(const cJSON *settings, const char *key, double absent) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(settings, key);
    return cJSON_IsNumber(value) ? value->valuedouble : absent;
}

static const struct tensor *find(const struct safetensors *file, int i, const char *what, bool required) {
    char name[64];
    snprintf(name, sizeof name, "case%d.%s", i, what);
    const struct tensor *tensor = safetensors_find(file, name);
    if (tensor == NULL && required)
        golden_fail("no tensor %s", name);
    if (tensor != NULL && tensor->n_dims != 1)
        golden_fail("tensor %s: expected one dimension", name);
    return tensor;
}

static struct sample_history *read_history(const struct tensor *ids, int32_t vocab_size) {
    struct sample_history *history = NULL;
    if (sample_history_open(&history) != 0)
        golden_fail("out of memory");
    for (int64_t i = 0; ids != NULL && i < ids->shape[0]; i++) {
        int64_t id = ids->type == DT_I32   ? ((const int32_t *)ids->data)[i]
                     : ids->type == DT_I64 ? ((const int64_t *)ids->data)[i]
                                           : -1;
        if (id < 0 || id >= vocab_size)
            golden_fail("history: expected I32 or I64 ids 0..%d", vocab_size - 1);
        if (sample_history_add(history, (int32_t)id, false) != 0)
            golden_fail("out of memory");
    }
    return history;
}

/* True when one case matches; *worst grows to the largest difference. */
static bool check_case(const struct safetensors *file, const cJSON *settings, int i, double *worst) {
    const cJSON *order = cJSON_GetObjectItemCaseSensitive(settings, "order");
    if (cJSON_IsString(order) && strcmp(order->valuestring, ORDER) != 0)
        golden_fail("case %d: order \"%s\", this engine applies \"%s\"", i, order->valuestring, ORDER);
    const struct tensor *logits = find(file, i, "logits", true), *expected = find(file, i, "probs", true);
    if (logits->type != DT_F32 || expected->type != DT_F32 || logits->shape[0] != expected->shape[0] ||
        logits->shape[0] < 1 || logits->shape[0] > INT32_MAX)
        golden_fail("case %d: logits and probs: expected F32 of one length", i);
    const struct l4_sampling sampling = {
        .temperature = (float)number(settings, "temperature", 1),
        .top_k = (int)number(settings, "top_k", 0),
        .top_p = (float)number(settings, "top_p", 1),
        .min_p = (float)number(settings, "min_p", 0),
        .repetition_penalty = (float)number(settings, "repetition_penalty", 1),
    };
    int32_t vocab_size = (int32_t)logits->shape[0];
    struct sample_history *history = read_history(find(file, i, "history", false), vocab_size);
    const struct kernels *kernels;
    struct l4_err err;
    struct sampler *sampler;
    if (kernels_get(&kernels, &err) != 0)
        golden_fail("%s", err.message);
    float *probs = malloc((size_t)vocab_size * sizeof *probs);
    if (probs == NULL || sampler_open(&sampler, vocab_size, kernels) != 0)
        golden_fail("out of memory");
    sampler_probs(sampler, &sampling, history, logits->data, probs);

    bool matches = true;
    const float *want = expected->data;
    for (int32_t id = 0; id < vocab_size; id++) {
        double difference = fabs((double)probs[id] - (double)want[id]);
        *worst = difference > *worst ? difference : *worst;
        double support = probs[id] == 0 ? (double)want[id] : want[id] == 0 ? (double)probs[id] : 0;
        if (!(difference <= TOLERANCE) || support > NEXT_TO_NOTHING)
            matches = false;
    }
    free(probs);
    sampler_close(sampler);
    sample_history_close(history);
    return matches;
}

int golden_sampler(int argc, char **argv) {
    if (argc != 2)
        return GOLDEN_USAGE;
    char path[4096];
    snprintf(path, sizeof path, "%s.json", argv[1]);
    cJSON *cases = golden_read_json(path);
    snprintf(path, sizeof path, "%s.safetensors", argv[1]);
    struct safetensors *file;
    struct l4_err err;
    if (safetensors_open(&file, path, &err) != 0)
        golden_fail("%s", err.message);

    size_t matched = 0, total = 0;
    double worst = 0;
    const cJSON *settings;
    cJSON_ArrayForEach(settings, cases) {
        matched += check_case(file, settings, (int)total, &worst);
        total++;
    }
    printf("sampler: largest absolute error %.2g\n", worst);
    bool ok = golden_report("sampler", matched, total);
    safetensors_close(file);
    cJSON_Delete(cases);
    return ok ? GOLDEN_OK : GOLDEN_MISMATCH;
}
