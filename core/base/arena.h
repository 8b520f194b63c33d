/* A bump allocator: the activations of one step, freed all at once. */
#ifndef CORE_BASE_ARENA_H
#define CORE_BASE_ARENA_H

#include <stddef.h>

#include "llama4/error.h"

struct arena_block;

/* Caller's storage; all zero is an empty arena.  One thread at a time. */
struct arena {
    struct arena_block *blocks; /* newest first */
    size_t used_bytes;          /* in the newest block */
    size_t total_bytes;         /* capacity of all blocks */
};

/* arena_alloc - n * size bytes, 64-byte aligned, not cleared; NULL when out of memory or when n * size overflows.
 * After an arena_reset the same sequence of requests takes no memory from the system. */
void *arena_alloc(struct arena *arena, size_t n, size_t size) __attribute__((malloc, warn_unused_result));

/* arena_reset - forget every allocation; keeps the storage, merged into one block. */
void arena_reset(struct arena *arena);
void arena_fini(struct arena *arena);

#endif
