#include "tests/lib/fail_alloc.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

static atomic_bool armed;
static atomic_long countdown, n_failing, n_failed;

static bool fails(void) {
    if (!atomic_load_explicit(&armed, memory_order_relaxed))
        return false;
    long left = atomic_fetch_sub(&countdown, 1);
    if (left > 1 || left <= 1 - atomic_load(&n_failing))
        return false;
    atomic_fetch_add(&n_failed, 1);
    errno = ENOMEM;
    return true;
}

void fail_alloc_at(long n, long n_times) {
    atomic_store(&countdown, n);
    atomic_store(&n_failing, n_times);
    atomic_store(&n_failed, 0);
    atomic_store(&armed, true);
}

long fail_alloc_off(void) {
    atomic_store(&armed, false);
    return atomic_load(&n_failed);
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);

void *__wrap_malloc(size_t size) {
    return fails() ? NULL : __real_malloc(size);
}
void *__wrap_calloc(size_t n, size_t size) {
    return fails() ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t size) {
    return fails() ? NULL : __real_realloc(p, size);
}
void *__wrap_aligned_alloc(size_t alignment, size_t size) {
    return fails() ? NULL : __real_aligned_alloc(alignment, size);
}
