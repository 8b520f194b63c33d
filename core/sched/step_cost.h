/* What a step costs, learnt from the steps that were run: how many prompt tokens may ride along with running decodes.
 */
#ifndef CORE_SCHED_STEP_COST_H
#define CORE_SCHED_STEP_COST_H

#include <stdint.h>

/* Caller's storage; all zero = nothing known yet.  Seconds and counts, older ones faded. */
struct step_cost {
    double decode_s, decode_rows;   /* an average step that only decodes */
    double prompt_s, prompt_tokens; /* sums: what prompt tokens added to their steps */
};

/* step_cost_observe - a step of n_decode decoding sequences and n_prompt prompt tokens took `seconds`. */
void step_cost_observe(struct step_cost *cost, int64_t n_decode, int64_t n_prompt, double seconds);

/* step_cost_decode_s - what a step of n_decode decoding sequences alone is expected to take; 0 where nothing is
 * known. */
double step_cost_decode_s(const struct step_cost *cost, int64_t n_decode);

/* step_cost_chunk - how many prompt tokens a step may take, 1..max_chunk_tokens, or 0: a step that only
 * decodes is due, since what so many rows cost is not known.
 *   Beside decodes the step shall stay below max_step_s; where decoding alone takes longer than that, prompts get half
 * as long again, so that they come forward at all.  With nothing decoding only cancelling and arriving requests wait
 * for the step: it may be STEP_COST_IDLE_FACTOR times as long. */
enum { STEP_COST_IDLE_FACTOR = 8 };
int64_t step_cost_chunk(const struct step_cost *cost, int64_t n_decode, double max_step_s, int64_t max_chunk_tokens);

#endif
