/* The table behind struct sample_history, which the sampler walks. */
#ifndef CORE_SAMPLE_HISTORY_H
#define CORE_SAMPLE_HISTORY_H

#include <stddef.h>
#include <stdint.h>

#include "core/sample/sampler.h"

struct history_entry {
    int32_t id; /* -1: free */
    int32_t n_answer;
};

/* Open addressing; cap is a power of two, at most half of it used. */
struct sample_history {
    struct history_entry *entries;
    size_t cap, used;
};

#endif
