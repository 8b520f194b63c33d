#include "core/base/arena.h"

#include <stdint.h>
#include <stdlib.h>

#include "core/base/checked.h"

enum { ARENA_ALIGN = 64, ARENA_MIN_BLOCK_BYTES = 64 << 10 };

struct arena_block {
    struct arena_block *older;
    size_t size_bytes; /* of the storage that follows the header, which takes one ARENA_ALIGN */
};

_Static_assert(sizeof(struct arena_block) <= ARENA_ALIGN, "the header fits in front of the first allocation");

static struct arena_block *block_new(size_t size_bytes, struct arena_block *older) {
    size_t total;
    if (!checked_add_size(size_bytes, ARENA_ALIGN, &total))
        return NULL;
    struct arena_block *block = aligned_alloc(ARENA_ALIGN, total);
    if (block)
        *block = (struct arena_block){older, size_bytes};
    return block;
}

void *arena_alloc(struct arena *arena, size_t n, size_t size) {
    size_t bytes;
    if (!checked_mul_size(n, size, &bytes) || !checked_add_size(bytes, ARENA_ALIGN - 1, &bytes))
        return NULL;
    bytes &= ~(size_t)(ARENA_ALIGN - 1);
    if (!arena->blocks || arena->blocks->size_bytes - arena->used_bytes < bytes) {
        size_t want = arena->total_bytes < ARENA_MIN_BLOCK_BYTES ? ARENA_MIN_BLOCK_BYTES : arena->total_bytes;
        struct arena_block *block = block_new(want < bytes ? bytes : want, arena->blocks);
        if (!block)
            return NULL;
        arena->blocks = block;
        arena->used_bytes = 0;
        arena->total_bytes += block->size_bytes;
    }
    void *p = (char *)arena->blocks + ARENA_ALIGN + arena->used_bytes;
    arena->used_bytes += bytes;
    return p;
}

void arena_reset(struct arena *arena) {
    arena->used_bytes = 0;
    if (!arena->blocks || !arena->blocks->older)
        return;
    size_t total = arena->total_bytes;
    arena_fini(arena);
    /* If one block as large as all of them is not to be had, the next arena_alloc says so. */
    arena->blocks = block_new(total, NULL);
    if (arena->blocks)
        arena->total_bytes = total;
}

void arena_fini(struct arena *arena) {
    while (arena->blocks) {
        struct arena_block *older = arena->blocks->older;
        free(arena->blocks);
        arena->blocks = older;
    }
    *arena = (struct arena){0};
}
