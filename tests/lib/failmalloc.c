#include "tests/lib/failmalloc.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED
#endif

#ifdef SANITIZED
#define REAL(name) __interceptor_##name
#else
#define REAL(name) __libc_##name
#endif

/* Runs before the sanitizers are ready to look: the loader allocates while they start. */
#define EARLY __attribute__((no_sanitize("address", "undefined", "thread")))

void *REAL(malloc)(size_t n_bytes);
void *REAL(calloc)(size_t n, size_t size);
void *REAL(realloc)(void *old, size_t n_bytes);
void *REAL(memalign)(size_t alignment, size_t n_bytes);

/* Initial-exec: the first use of a lazily allocated TLS block would call malloc from inside malloc. */
static __thread size_t countdown __attribute__((tls_model("initial-exec")));
static __thread bool fired __attribute__((tls_model("initial-exec")));

void failmalloc_arm(size_t n) {
    fired = false;
    countdown = n;
}

bool failmalloc_disarm(void) {
    countdown = 0;
    return fired;
}

bool failmalloc_next(size_t n) {
    failmalloc_disarm();
    if (n > 1 && !fired)
        return false;
    failmalloc_arm(n);
    return true;
}

static bool is_openblas(const void *caller) {
    Dl_info info;
    return dladdr(caller, &info) != 0 && info.dli_fname != NULL && strstr(info.dli_fname, "openblas") != NULL;
}

EARLY static bool fails(const void *caller) {
    if (countdown == 0 || is_openblas(caller) || --countdown > 0)
        return false;
    fired = true;
    errno = ENOMEM;
    return true;
}

/* Visible, or shared libraries would go on using the C library's.  Not under a sanitizer, which allocates through
 * shared libraries before its interceptors are there. */
#ifndef SANITIZED
#pragma GCC visibility push(default)
#endif

EARLY void *malloc(size_t n_bytes) {
    return fails(__builtin_return_address(0)) ? NULL : REAL(malloc)(n_bytes);
}

EARLY void *calloc(size_t n, size_t size) {
    return fails(__builtin_return_address(0)) ? NULL : REAL(calloc)(n, size);
}

EARLY void *realloc(void *old, size_t n_bytes) {
    return fails(__builtin_return_address(0)) ? NULL : REAL(realloc)(old, n_bytes);
}

EARLY void *aligned_alloc(size_t alignment, size_t n_bytes) {
    return fails(__builtin_return_address(0)) ? NULL : REAL(memalign)(alignment, n_bytes);
}

EARLY int posix_memalign(void **out, size_t alignment, size_t n_bytes) {
    void *block = fails(__builtin_return_address(0)) ? NULL : REAL(memalign)(alignment, n_bytes);
    if (!block)
        return ENOMEM;
    *out = block;
    return 0;
}

#ifndef SANITIZED
#pragma GCC visibility pop
#endif
