#include "core/sample/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/sample/history.h"

/* Blocks are what is looked at first: one whose largest value is too small is passed over as a whole. */
enum { BLOCK = 64 };

struct sampler {
    int32_t vocab_size;
    const struct kernels *kernels;
    float *adjusted; /* [vocab_size] logits after bias and penalties; in sampler_logprobs the raw ones */

    /* What is left to draw from, in the order of ids: n weights in proportion to the probabilities, their sum, and
     * the sum of each block of them.  Weight i belongs to ids[i], or to id i while every id is there (dense). */
    float *weights;
    int32_t *ids;
    bool dense;
    int32_t n;
    double total;
    double *block_sums;

    float *block_max; /* scratch: [blocks] */
    float *selection; /* scratch of threshold: [vocab_size] */
};

static int32_t n_blocks(int32_t n) {
    return (n + BLOCK - 1) / BLOCK;
}

static int32_t block_size(int32_t n, int32_t block) {
    return n - block * BLOCK < BLOCK ? n - block * BLOCK : BLOCK;
}

int sampler_open(struct sampler **out, int32_t vocab_size, const struct kernels *kernels) {
    struct sampler *sampler = calloc(1, sizeof *sampler);
    if (sampler == NULL)
        return L4_E_NOMEM;
    const size_t n = (size_t)vocab_size, blocks = (size_t)n_blocks(vocab_size);
    sampler->vocab_size = vocab_size;
    sampler->kernels = kernels;
    sampler->adjusted = checked_array(n, sizeof *sampler->adjusted);
    sampler->weights = checked_array(n, sizeof *sampler->weights);
    sampler->ids = checked_array(n, sizeof *sampler->ids);
    sampler->selection = checked_array(n, sizeof *sampler->selection);
    sampler->block_max = checked_array(blocks, sizeof *sampler->block_max);
    sampler->block_sums = checked_array(blocks, sizeof *sampler->block_sums);
    if (sampler->adjusted == NULL || sampler->weights == NULL || sampler->ids == NULL || sampler->selection == NULL ||
        sampler->block_max == NULL || sampler->block_sums == NULL) {
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
    free(sampler->weights);
    free(sampler->ids);
    free(sampler->selection);
    free(sampler->block_max);
    free(sampler->block_sums);
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

/* The largest value t in x[n] such that the values >= t amount to `amount`: in number, or (by_sum; x >= 0) in their
 * sum. *above is what the values > t amount to.  A radix selection: each pass keeps the values that share one more
 * digit with t.  The first digit takes the exponent in. */
static float threshold(struct sampler *sampler, const float *x, int32_t n, bool by_sum, double amount, double *above) {
    enum { MAX_DIGITS = 1 << 11 };
    static const struct {
        int shift;
        uint32_t n_digits;
    } passes[] = {{21, 1 << 11}, {14, 1 << 7}, {7, 1 << 7}, {0, 1 << 7}};
    uint32_t fixed = 0;
    *above = 0;
    for (int pass = 0; pass < 4; pass++) {
        const int shift = passes[pass].shift;
        const uint32_t n_digits = passes[pass].n_digits;
        double sums[MAX_DIGITS];
        memset(sums, 0, n_digits * sizeof *sums);
        for (int32_t i = 0; i < n; i++)
            sums[order_key(x[i]) >> shift & (n_digits - 1)] += by_sum ? (double)x[i] : 1;
        const uint32_t digit = crossing_digit(sums, n_digits, amount, above);
        fixed |= digit << shift;
        int32_t n_kept = 0;
        for (int32_t i = 0; i < n; i++) {
            const float value = x[i];
            sampler->selection[n_kept] = value; /* x may be selection: never written before it is read */
            n_kept += (order_key(value) >> shift & (n_digits - 1)) == digit;
        }
        x = sampler->selection;
        n = n_kept;
    }
    return from_order_key(fixed);
}

static void find_block_maxima(struct sampler *sampler, const float *x, int32_t n) {
    for (int32_t block = 0; block < n_blocks(n); block++)
        sampler->block_max[block] = sampler->kernels->max(x + block * BLOCK, block_size(n, block));
}

/* From x[n], whose block maxima are known, keep what is >= least.  ids NULL: x[i] belongs to id i.  x and ids may be
 * the sampler's own. */
static void gather(struct sampler *sampler, const float *x, const int32_t *ids, int32_t n, float least) {
    int32_t n_kept = 0;
    for (int32_t block = 0; block < n_blocks(n); block++) {
        if (!(sampler->block_max[block] >= least))
            continue;
        const int32_t end = block * BLOCK + block_size(n, block);
        for (int32_t i = block * BLOCK; i < end; i++) {
            const float value = x[i];
            sampler->ids[n_kept] = ids != NULL ? ids[i] : i;
            sampler->weights[n_kept] = value;
            n_kept += value >= least;
        }
    }
    sampler->n = n_kept;
    sampler->dense = false;
}

/* ---- the steps, in their order ---------------------------------------------------------------------------------- */

static float finite_or_minus_inf(float x) {
    return x <= FLT_MAX ? x : x > FLT_MAX ? FLT_MAX : -INFINITY;
}

/* Low enough for nothing to come near it, high enough to stay finite under every bias and penalty. */
static float allowed_logit(float logit) {
    return logit > -1e30F ? finite_or_minus_inf(logit) : -1e30F;
}

static void apply_mask(struct sampler *sampler, const struct sample_mask *mask, const float *logits) {
    float *adjusted = sampler->adjusted;
    for (int32_t begin = 0; begin < sampler->vocab_size; begin += 64) {
        const uint64_t word = mask->bits[begin / 64];
        const int32_t end = begin + (sampler->vocab_size - begin < 64 ? sampler->vocab_size - begin : 64);
        for (int32_t i = begin; i < end; i++)
            adjusted[i] = word >> (i - begin) & 1 ? allowed_logit(logits[i]) : -INFINITY;
    }
    for (size_t i = 0; i < mask->n_also; i++)
        adjusted[mask->also[i]] = allowed_logit(logits[mask->also[i]]);
}

static void apply_bias_and_penalties(struct sampler *sampler, const struct l4_sampling *sampling,
                                     const struct sample_history *history, const struct sample_mask *mask,
                                     const float *logits) {
    float *adjusted = sampler->adjusted;
    if (mask != NULL)
        apply_mask(sampler, mask, logits);
    else
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

/* Candidates: the logits that are at least the k-th largest. */
static void keep_top_k(struct sampler *sampler, int32_t k) {
    /* The k-th largest of the blocks' maxima has at least k logits at or above it, and few more. */
    const int32_t n = sampler->vocab_size, blocks = n_blocks(n);
    double above;
    float least = -FLT_MAX;
    if (k <= blocks)
        least = fmaxf(least, threshold(sampler, sampler->block_max, blocks, false, k, &above));
    gather(sampler, sampler->adjusted, NULL, n, least);
    if (sampler->n > k) {
        least = threshold(sampler, sampler->weights, sampler->n, false, k, &above);
        find_block_maxima(sampler, sampler->weights, sampler->n);
        gather(sampler, sampler->weights, sampler->ids, sampler->n, least);
    }
}

/* weight = exp((logit - largest) / temperature) */
static void apply_temperature(struct sampler *sampler, const float *logits, float temperature, float max_logit) {
    for (int32_t i = 0; i < sampler->n; i++)
        sampler->weights[i] = (logits[i] - max_logit) / temperature;
    sampler->kernels->exp_sum(sampler->weights, sampler->weights, sampler->n, 0);
}

static void sum_weights(struct sampler *sampler) {
    sampler->total = 0;
    for (int32_t block = 0; block < n_blocks(sampler->n); block++) {
        const float *weights = sampler->weights + block * BLOCK;
        const int32_t n = block_size(sampler->n, block);
        double sums[4] = {0};
        for (int32_t i = 0; i < n; i++)
            sums[i % 4] += (double)weights[i];
        sampler->block_sums[block] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        sampler->total += sampler->block_sums[block];
    }
}

/* From the most probable down, as long as what came before is less than `amount`. */
static void keep_amount(struct sampler *sampler, double amount) {
    double before;
    const float last = threshold(sampler, sampler->weights, sampler->n, true, amount, &before);
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

static void keep_top_p_min_p(struct sampler *sampler, float top_p, float min_p) {
    sum_weights(sampler);
    find_block_maxima(sampler, sampler->weights, sampler->n);
    float least = FLT_MIN;
    if (min_p > 0)
        least = fmaxf(least, min_p * sampler->kernels->max(sampler->block_max, n_blocks(sampler->n)));
    /* Weights below an n-th of 1 - top_p come to less than 1 - top_p together: none of them is reached. */
    if (top_p < 1)
        least = fmaxf(least, (float)((1 - (double)top_p) * 0.999 * sampler->total / sampler->n));
    gather(sampler, sampler->weights, sampler->dense ? NULL : sampler->ids, sampler->n, least);
    if (top_p < 1)
        keep_amount(sampler, (double)top_p * sampler->total);
}

static void find_candidates(struct sampler *sampler, const struct l4_sampling *sampling,
                            const struct sample_history *history, const struct sample_mask *mask, const float *logits) {
    apply_bias_and_penalties(sampler, sampling, history, mask, logits);
    find_block_maxima(sampler, sampler->adjusted, sampler->vocab_size);
    const float max_logit = sampler->kernels->max(sampler->block_max, n_blocks(sampler->vocab_size));
    sampler->dense = false;
    if (!(sampling->temperature > 0) || max_logit == -INFINITY) {
        int32_t best = 0;
        while (sampler->adjusted[best] != max_logit)
            best++;
        sampler->ids[0] = best;
        sampler->weights[0] = 1;
        sampler->n = 1;
    } else if (sampling->top_k > 0 && sampling->top_k < sampler->vocab_size) {
        keep_top_k(sampler, sampling->top_k);
        apply_temperature(sampler, sampler->weights, sampling->temperature, max_logit);
    } else {
        sampler->dense = true;
        sampler->n = sampler->vocab_size;
        apply_temperature(sampler, sampler->adjusted, sampling->temperature, max_logit);
    }
    if (sampling->top_p < 1 || sampling->min_p > 0)
        keep_top_p_min_p(sampler, sampling->top_p, sampling->min_p);
    sum_weights(sampler);
}

static int32_t candidate(const struct sampler *sampler, int32_t i) {
    return sampler->dense ? i : sampler->ids[i];
}

void sampler_probs(struct sampler *sampler, const struct l4_sampling *sampling, const struct sample_history *history,
                   const float *logits, float *probs) {
    find_candidates(sampler, sampling, history, NULL, logits);
    memset(probs, 0, (size_t)sampler->vocab_size * sizeof *probs);
    for (int32_t i = 0; i < sampler->n; i++)
        probs[candidate(sampler, i)] = (float)((double)sampler->weights[i] / sampler->total);
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
    return sampler_next_masked(sampler, sampling, history, NULL, logits, index);
}

int32_t sampler_next_masked(struct sampler *sampler, const struct l4_sampling *sampling,
                            const struct sample_history *history, const struct sample_mask *mask, const float *logits,
                            uint64_t index) {
    find_candidates(sampler, sampling, history, mask, logits);
    double rest = uniform(sampling->seed, index) * sampler->total;
    int32_t block = 0, last_block = n_blocks(sampler->n) - 1;
    for (; block < last_block && rest >= sampler->block_sums[block]; block++)
        rest -= sampler->block_sums[block];
    /* Where rounding leaves something over at the end, it goes to the last that has a weight. */
    while (!(sampler->block_sums[block] > 0))
        block--;
    const int32_t begin = block * BLOCK, end = begin + block_size(sampler->n, block);
    int32_t drawn = begin;
    for (int32_t i = begin; i < end; i++) {
        const double weight = (double)sampler->weights[i];
        if (!(weight > 0))
            continue;
        drawn = i;
        if (rest < weight)
            break;
        rest -= weight;
    }
    return candidate(sampler, drawn);
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
    find_block_maxima(sampler, clean, vocab_size);
    const float max_logit = sampler->kernels->max(sampler->block_max, n_blocks(vocab_size));
    double sum = 0;
    for (int32_t block = 0; block < n_blocks(vocab_size) && max_logit > -INFINITY; block++)
        sum += (double)sampler->kernels->exp_sum(NULL, clean + block * BLOCK, block_size(vocab_size, block), max_logit);
    const double log_sum = log(sum);
    *token = (struct l4_logprob){.id = id, .logprob = log_prob(clean[id], max_logit, log_sum)};

    int n = 0; /* the best so far, in order */
    for (int32_t block = 0; block < n_blocks(vocab_size) && n_top > 0; block++) {
        if (n == n_top && !(sampler->block_max[block] > top[n - 1].logprob))
            continue;
        const int32_t end = block * BLOCK + block_size(vocab_size, block);
        for (int32_t i = block * BLOCK; i < end; i++) {
            if (n == n_top && !(clean[i] > top[n - 1].logprob))
                continue;
            int at = n < n_top ? n++ : n - 1;
            for (; at > 0 && clean[i] > top[at - 1].logprob; at--)
                top[at] = top[at - 1];
            top[at] = (struct l4_logprob){.id = i, .logprob = clean[i]};
        }
    }
    for (int i = 0; i < n; i++)
        top[i].logprob = log_prob(top[i].logprob, max_logit, log_sum);
    for (int i = n; i < n_top; i++)
        top[i] = (struct l4_logprob){.id = -1, .logprob = -INFINITY};
}
