#include "core/sched/step_cost.h"

#include <stdbool.h>

/* Weight of the newest step.  A prompt's tokens grow dearer as it grows longer: a few steps is all the past that
 * counts. */
static const double NEWEST = 0.25;
/* Part of the bound that is planned for: steps of the same size differ. */
static const double MARGIN = 0.8;
/* A first chunk, when nothing is known of the machine and the model. */
enum { UNKNOWN_CHUNK_TOKENS = 32 };

double step_cost_decode_s(const struct step_cost *cost, int64_t n_decode) {
    if (n_decode == 0 || cost->decode_rows <= 0)
        return 0;
    /* Few rows are bound by reading the weights and cost about the same; more cost at most in proportion. */
    double ratio = (double)n_decode / cost->decode_rows;
    return cost->decode_s * (ratio > 1 ? ratio : 1);
}

/* Whether a step that only decodes is due: prompts that keep coming leave none to learn from. */
static bool decode_unknown(const struct step_cost *cost, int64_t n_decode) {
    return (double)n_decode > 2 * cost->decode_rows;
}

void step_cost_observe(struct step_cost *cost, int64_t n_decode, int64_t n_prompt, double seconds) {
    if (n_prompt == 0) {
        double newest = decode_unknown(cost, n_decode) ? 1 : NEWEST;
        cost->decode_s += newest * (seconds - cost->decode_s);
        cost->decode_rows += newest * ((double)n_decode - cost->decode_rows);
        return;
    }
    double decode_s = step_cost_decode_s(cost, n_decode);
    if (n_decode > 0 && decode_s >= seconds) { /* it was dearer once: to be learnt again; rows of both kinds alike */
        cost->decode_s = cost->decode_rows = 0;
        decode_s = seconds * (double)n_decode / (double)(n_decode + n_prompt);
    }
    cost->prompt_s = (1 - NEWEST) * cost->prompt_s + seconds - decode_s;
    cost->prompt_tokens = (1 - NEWEST) * cost->prompt_tokens + (double)n_prompt;
}

int64_t step_cost_chunk(const struct step_cost *cost, int64_t n_decode, double max_step_s, int64_t max_chunk_tokens) {
    if (decode_unknown(cost, n_decode))
        return 0;
    double decode_s = step_cost_decode_s(cost, n_decode), tokens = UNKNOWN_CHUNK_TOKENS, budget_s;
    if (n_decode == 0)
        budget_s = MARGIN * max_step_s * STEP_COST_IDLE_FACTOR;
    else
        budget_s = decode_s < max_step_s ? MARGIN * max_step_s - decode_s : decode_s / 2;
    if (cost->prompt_tokens > 0) {
        double token_s = cost->prompt_s / cost->prompt_tokens;
        tokens = budget_s < token_s * (double)max_chunk_tokens ? budget_s / token_s : (double)max_chunk_tokens;
    }
    if (!(tokens > 1)) /* no time left, or not a number */
        return 1;
    return tokens < (double)max_chunk_tokens ? (int64_t)tokens : max_chunk_tokens;
}
