#include "server/rate.h"

#include <math.h>

static void fill(struct rate *rate, uint64_t now_ns) {
    if (now_ns <= rate->at_ns)
        return;
    rate->level += rate->per_minute / 60 * ((double)(now_ns - rate->at_ns) * 1e-9);
    rate->level = fmin(rate->level, rate->per_minute);
    rate->at_ns = now_ns;
}

void rate_init(struct rate *rate, int64_t per_minute, uint64_t now_ns) {
    *rate = (struct rate){.per_minute = (double)per_minute, .level = (double)per_minute, .at_ns = now_ns};
}

void rate_change(struct rate *rate, int64_t per_minute, uint64_t now_ns) {
    fill(rate, now_ns);
    rate->per_minute = (double)per_minute;
    rate->level = fmin(rate->level, rate->per_minute);
}

void rate_take(struct rate *rate, int64_t n, uint64_t now_ns) {
    fill(rate, now_ns);
    rate->level -= (double)n;
}

int64_t rate_wait_s(struct rate *rate, uint64_t now_ns) {
    fill(rate, now_ns);
    if (rate->level > 0)
        return 0;
    /* To one whole token, so that what rounding does to the level cannot make the answer wrong. */
    return (int64_t)ceil((fmin(1, rate->per_minute) - rate->level) * 60 / rate->per_minute);
}
