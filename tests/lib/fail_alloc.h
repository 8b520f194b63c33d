/* An allocator that fails on demand: the linker sends malloc, calloc, realloc and aligned_alloc of unit tests and of
 * the code under test here (--wrap); those inside the C library stay as they are. */
#ifndef TESTS_LIB_FAIL_ALLOC_H
#define TESTS_LIB_FAIL_ALLOC_H

#include <stdbool.h>

/* fail_alloc_at - let the n-th allocation from now on fail (1 = the next one), on whatever thread, and n_times - 1
 * after it. */
void fail_alloc_at(long n, long n_times);
/* fail_alloc_off - back to normal; returns how many allocations were made to fail. */
long fail_alloc_off(void);

#endif
