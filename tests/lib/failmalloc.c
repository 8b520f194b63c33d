#include "tests/lib/failmalloc.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

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

static bool fails(void) {
    if (countdown == 0 || --countdown > 0)
        return false;
    fired = true;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t n_bytes) {
    return fails() ? NULL : REAL(malloc)(n_bytes);
}

void *calloc(size_t n, size_t size) {
    return fails() ? NULL : REAL(calloc)(n, size);
}

void *realloc(void *old, size_t n_bytes) {
    return fails() ? NULL : REAL(realloc)(old, n_bytes);
}

void *aligned_alloc(size_t alignment, size_t n_bytes) {
    return fails() ? NULL : REAL(memalign)(alignment, n_bytes);
}

int posix_memalign(void **out, size_t alignment, size_t n_bytes) {
    void *block = fails() ? NULL : REAL(memalign)(alignment, n_bytes);
    if (!block)
        return ENOMEM;
    *out = block;
    return 0;
}
