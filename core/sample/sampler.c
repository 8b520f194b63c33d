#include "core/sample/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/sample/history.h"

enum { SUM_BLOCK = 1024 };

struct sampler {
    int32_t vocab_size;
    const struct kernels *kernels;
    float *adjusted; /* [vocab_size] logits after bias and penalties */

    /* What is left to draw from: ids ascending, weights in proportion to the probabilities. */
    int32_t *ids;
    float *weights;
    int32_t n;
    double total;
};

int sampler_open(struct sampler **out, int32_t vocab_size, const struct kernels *kernels) {
    struct sampler *sampler = calloc(1, sizeof *sampler);
    if (sampler == NULL)
        return L4_E_NOMEM;
    size_t n = (size_t)vocab_size;
    sampler->vocab_size = vocab_size;
    sampler->kernels = kernels;
    sampler->adjusted = checked_array(n, sizeof *sampler->adjusted);
    sampler->ids = checked_array(n, sizeof *sampler->ids);
    sampler->weights = checked_array(n, sizeof *sampler->weights);
    if (sampler->adjusted == NULL || sampler->ids == NULL || sampler->weights == NULL) {
        sampler_close(sampler);
        return L4_E_NOMEM;
    }
    *out = sampler;
    return 0;
}

void sampler_close(struct sampler *sampler) {
    if (sampler == NULL)
        return;
    free(sampler->adjusted);
    free(sampler->ids);
    free(sampler->weights);
    free(sampler);
}

/* ---- selection -------------------------------------------------------------------------------------------------- */

/* Unsigned integers in the order of the floats (no NaN; -0 counts as below 0). */
static uint32_t order_key(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000U ? ~bits : bits | 0x80000000U;
}

static float from_order_key(uint32_t key) {
    uint32_t bits = key & 0x80000000U ? key & 0x7fffffffU : ~key;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The highest digit at which *above plus the sums from the top down reach the amount; where rounding leaves them short
 * of it, the lowest digit that occurs.  Adds to *above what lies over that digit. */
static uint32_t crossing_digit(const double *sums, uint32_t n_digits, double amount, double *above) {
    double sum = *above;
    uint32_t found = 0;
    for (uint32_t digit = n_digits; digit-- > 0;) {
        if (!(sums[digit] > 0))
            continue;
        found = digit;
        *above = sum;
        sum += sums[digit];
        if (sum >= amount)
            break;
    }
    return found;
}

/* The largest value t among those of x[] that are >= least, such that the values >= t amount to `amount`: in number, or
 * (by_sum; x >= 0) in their sum.  *above is what the values > t amount to.  A radix selection in three passes. */
static float threshold(const float *x, int32_t n, float least, bool by_sum, double amount, double *above) {
    enum { MAX_DIGITS = 1 << 11 };
    static const struct {
        int shift;
        uint32_t n_digits;
    } passes[] = {{21, 1 << 11}, {10, 1 << 11}, {0, 1 << 10}};
    uint32_t fixed = 0, fixed_mask = 0;
    *above = 0;
    for (int pass = 0; pass < 3; pass++) {
        const int shift = passes[pass].shift;
        const uint32_t n_digits = passes[pass].n_digits;
        double sums[MAX_DIGITS] = {0};
        for (int32_t i = 0; i < n; i++) {
            if (!(x[i] >= least))
                continue;
            uint32_t key = order_key(x[i]);
            if ((key & fixed_mask) == fixed)
                sums[key >> shift & (n_digits - 1)] += by_sum ? (double)x[i] : 1;
        }
        fixed |= crossing_digit(sums, n_digits, amount, above) << shift;
        fixed_mask |= (n_digits - 1) << shift;
    }
    return from_order_key(fixed);
}

/* ---- the steps, in their order ---------------------------------------------------------------------------------- */

static float finite_or_minus_inf(float x) {
    return x <= FLT_MAX ? x : x > FLT_MAX ? FLT_MAX : -INFINITY;
}

static void apply_bias_and_penalties(struct sampler *sampler, const struct l4_sampling *sampling,
                                     const struct sample_history *history, const float *logits) {
    float *adjusted = sampler->adjusted;
    for (int32_t i = 0; i < sampler->vocab_size; i++)
        adjusted[i] = finite_or_minus_inf(logits[i]);
    for (size_t i = 0; i < sampling->n_logit_bias; i++) {
        float *logit = &adjusted[sampling->logit_bias[i].id];
        *logit = finite_or_minus_inf(*logit + sampling->logit_bias[i].bias);
    }
    if (history == NULL ||
        (sampling->repetition_penalty == 1 && sampling->presence_penalty == 0 && sampling->frequency_penalty == 0))
        return;
    for (size_t i = 0; i < history->cap; i++) {
        const struct history_entry *entry = &history->entries[i];
        if (entry->id == -1)
            continue;
        float logit = adjusted[entry->id];
        logit = logit > 0 ? logit / sampling->repetition_penalty : logit * sampling->repetition_penalty;
        if (entry->n_answer > 0)
            logit -= sampling->presence_penalty + sampling->frequency_penalty * (float)entry->n_answer;
        adjusted[entry->id] = finite_or_minus_inf(logit);
    }
}

static int32_t largest(const float *x, int32_t n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

/* Candidates: the top_k logits, or all that are not -inf; weights still hold their logits. */
static void keep_top_k(struct sampler *sampler, int top_k) {
    float least = -FLT_MAX;
    double above;
    if (top_k > 0 && top_k < sampler->vocab_size)
        least = fmaxf(least, threshold(sampler->adjusted, sampler->vocab_size, least, false, top_k, &above));
    int32_t n = 0;
    for (int32_t i = 0; i < sampler->vocab_size; i++) {
        sampler->ids[n] = i;
        sampler->weights[n] = sampler->adjusted[i];
        n += sampler->adjusted[i] >= least;
    }
    sampler->n = n;
}

/* weight = exp((logit - largest) / temperature) */
static void apply_temperature(struct sampler *sampler, float temperature, float max_logit) {
    const float exp_underflows = -110;
    float *weights = sampler->weights;
    for (int32_t i = 0; i < sampler->n; i++) {
        float x = (weights[i] - max_logit) / temperature;
        weights[i] = x > exp_underflows ? x : exp_underflows;
    }
    sampler->kernels->exp_sum(weights, weights, sampler->n, 0);
}

static void sum_weights(struct sampler *sampler) {
    enum { LANES = 8 };
    double sums[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= sampler->n; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sums[lane] += (double)sampler->weights[i + lane];
    for (; i < sampler->n; i++)
        sums[0] += (double)sampler->weights[i];
    sampler->total = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

/* From the most probable down, as long as what came before is less than top_p of the whole. */
static void keep_top_p(struct sampler *sampler, float top_p) {
    const double amount = (double)top_p * sampler->total;
    /* All weights below this come to less than 1 - top_p of the whole: none of them is reached. */
    const float least = (float)((1 - (double)top_p) * sampler->total / sampler->n * 0.999);
    double before;
    const float last = threshold(sampler->weights, sampler->n, least, true, amount, &before);
    int32_t n = 0;
    bool any_equal = false;
    for (int32_t i = 0; i < sampler->n; i++) {
        const float weight = sampler->weights[i];
        bool kept = weight > last;
        if (weight == last && (before < amount || !any_equal)) {
            kept = any_equal = true;
            before += (double)weight;
        }
        sampler->ids[n] = sampler->ids[i];
        sampler->weights[n] = weight;
        n += kept;
    }
    sampler->n = n;
}

static void keep_min_p(struct sampler *sampler, float min_p) {
    const float least = min_p * sampler->kernels->max(sampler->weights, sampler->n);
    int32_t n = 0;
    for (int32_t i = 0; i < sampler->n; i++) {
        const float weight = sampler->weights[i];
        sampler->ids[n] = sampler->ids[i];
        sampler->weights[n] = weight;
        n += weight >= least;
    }
    sampler->n = n;
}

static void find_candidates(struct sampler *sampler, const struct l4_sampling *sampling,
                            const struct sample_history *history, const float *logits) {
    apply_bias_and_penalties(sampler, sampling, history, logits);
    const int32_t best = largest(sampler->adjusted, sampler->vocab_size);
    const float max_logit = sampler->adjusted[best];
    if (!(sampling->temperature > 0) || max_logit == -INFINITY) {
        sampler->ids[0] = best;
        sampler->weights[0] = 1;
        sampler->n = 1;
        sampler->total = 1;
        return;
    }
    keep_top_k(sampler, sampling->top_k);
    apply_temperature(sampler, sampling->temperature, max_logit);
    sum_weights(sampler);
    if (sampling->top_p < 1)
        keep_top_p(sampler, sampling->top_p);
    if (sampling->min_p > 0)
        keep_min_p(sampler, sampling->min_p);
    sum_weights(sampler);
}

void sampler_probs(struct sampler *sampler, const struct l4_sampling *sampling, const struct sample_history *history,
                   const float *logits, float *probs) {
    find_candidates(sampler, sampling, history, logits);
    memset(probs, 0, (size_t)sampler->vocab_size * sizeof *probs);
    for (int32_t i = 0; i < sampler->n; i++)
        probs[sampler->ids[i]] = (float)((double)sampler->weights[i] / sampler->total);
}

/* ---- drawing ---------------------------------------------------------------------------------------------------- */

/* splitmix64's output function. */
static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9U;
    x = (x ^ x >> 27) * 0x94d049bb133111ebU;
    return x ^ x >> 31;
}

/* Uniform in [0, 1). */
static double uniform(uint64_t seed, uint64_t index) {
    const uint64_t step = 0x9e3779b97f4a7c15U;
    return (double)(mix(mix(seed + step) + (index + 1) * step) >> 11) * 0x1p-53;
}

int32_t sampler_next(struct sampler *sampler, const struct l4_sampling *sampling, const struct sample_history *history,
                     const float *logits, uint64_t index) {
    find_candidates(sampler, sampling, history, logits);
    const double target = uniform(sampling->seed, index) * sampler->total;
    double sum = 0;
    int32_t last = 0; /* rounding may leave the sum short of the total: then the last that has a weight */
    for (int32_t i = 0; i < sampler->n; i++) {
        if (!(sampler->weights[i] > 0))
            continue;
        last = i;
        sum += (double)sampler->weights[i];
        if (sum > target)
            break;
    }
    return sampler->ids[last];
}

/* ---- log-probabilities ------------------------------------------------------------------------------------------ */

static float log_prob(float logit, float max_logit, double log_sum) {
    return logit == -INFINITY ? -INFINITY : (float)((double)logit - (double)max_logit - log_sum);
}

void sampler_logprobs(struct sampler *sampler, const float *logits, int32_t id, struct l4_logprob *token,
                      struct l4_logprob *top, int n_top) {
    const int32_t vocab_size = sampler->vocab_size;
    float *clean = sampler->adjusted;
    for (int32_t i = 0; i < vocab_size; i++)
        clean[i] = finite_or_minus_inf(logits[i]);
    const float max_logit = sampler->kernels->max(clean, vocab_size);
    double sum = 0;
    for (int32_t i = 0; i < vocab_size && max_logit > -INFINITY; i += SUM_BLOCK) {
        const int32_t n = vocab_size - i < SUM_BLOCK ? vocab_size - i : SUM_BLOCK;
        sum += (double)sampler->kernels->exp_sum(NULL, clean + i, n, max_logit);
    }
    const double log_sum = log(sum);
    *token = (struct l4_logprob){.id = id, .logprob = log_prob(clean[id], max_logit, log_sum)};

    /* The best so far, kept in order; few of the vocabulary get past the first comparison. */
    int n = 0;
    for (int32_t i = 0; i < vocab_size && n_top > 0; i++) {
        if (n == n_top && !(clean[i] > top[n - 1].logprob))
            continue;
        int at = n < n_top ? n++ : n - 1;
        for (; at > 0 && clean[i] > top[at - 1].logprob; at--)
            top[at] = top[at - 1];
        top[at] = (struct l4_logprob){.id = i, .logprob = clean[i]};
    }
    for (int i = 0; i < n; i++)
        top[i].logprob = log_prob(top[i].logprob, max_logit, log_sum);
    for (int i = n; i < n_top; i++)
        top[i] = (struct l4_logprob){.id = -1, .logprob = -INFINITY};
}
