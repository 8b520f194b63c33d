/* An allocator that fails on demand: every malloc, calloc, realloc and aligned allocation of the whole process goes
 * through here, those inside shared libraries included (PCRE2, cJSON), and one chosen call returns NULL.
 *
 * Those of OpenBLAS are left alone: its kernels for small matrices write through the NULL.
 *
 * The definitions take the place of the C library's by ordinary symbol resolution; a test program gets them by calling
 * anything below and needs no linker flag.  Under a sanitizer they hand on to its interceptors, so leaks and overruns
 * are seen as ever, and stand in for the program's own objects only (gcc's; clang's address sanitizer allocates before
 * it is ready for this).  Only the thread that armed it is affected, and no other thread while it is.
 *
 * Use: FAILMALLOC_EACH runs a body for n = 1, 2, ... with the n-th allocation failing, until a run needs fewer than n:
 *
 *     FAILMALLOC_EACH(n) {
 *         struct l4_err err;
 *         int rc = thing_open(&thing, &err);
 *         failmalloc_disarm();
 *         ... rc is 0 or an error; thing_close(thing) ...
 *     } */
#ifndef TESTS_LIB_FAILMALLOC_H
#define TESTS_LIB_FAILMALLOC_H

#include <stdbool.h>
#include <stddef.h>

/* Whether allocations inside shared libraries can be made to fail, too. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { FAILMALLOC_SEES_LIBRARIES = 0 };
#else
enum { FAILMALLOC_SEES_LIBRARIES = 1 };
#endif

/* failmalloc_arm - the n-th allocation of this thread from now on fails (n >= 1), once. */
void failmalloc_arm(size_t n);

/* failmalloc_disarm - allocations succeed again; true when one was made to fail since failmalloc_arm. */
bool failmalloc_disarm(void);

/* True as long as the run before this one (none before the first) had an allocation fail; arms the n-th. */
bool failmalloc_next(size_t n);

#define FAILMALLOC_EACH(n) for (size_t n = 1; failmalloc_next(n); n++)

#endif
