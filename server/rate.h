/* A bucket of tokens: it holds what a minute brings and fills up evenly.  What a request costs is known afterwards, so
 * a bucket may be owed tokens, and nothing more is admitted until they have come in.  Times are a steady clock's
 * nanoseconds, which the caller reads. */
#ifndef SERVER_RATE_H
#define SERVER_RATE_H

#include <stdint.h>

struct rate {
    double per_minute, level; /* level <= per_minute; below 0: owed */
    uint64_t at_ns;           /* when the level was that */
};

/* rate_init - a full bucket.  per_minute > 0. */
void rate_init(struct rate *rate, int64_t per_minute, uint64_t now_ns);
/* rate_change - another size; what is in it or owed stays. */
void rate_change(struct rate *rate, int64_t per_minute, uint64_t now_ns);
/* rate_take - n more tokens were used; negative: given back. */
void rate_take(struct rate *rate, int64_t n, uint64_t now_ns);
/* rate_wait_s - 0: something is left.  Else the whole seconds, at least 1, after which there is if nothing is taken. */
int64_t rate_wait_s(struct rate *rate, uint64_t now_ns);

#endif
