/* Checked arithmetic: every size that comes from a file or a request goes through these. */
#ifndef CORE_BASE_CHECKED_H
#define CORE_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True and *out = a op b when the result fits; false and *out unspecified otherwise. */
static inline bool checked_mul_size(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool checked_add_size(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
static inline bool checked_mul_i64(int64_t a, int64_t b, int64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool checked_add_i64(int64_t a, int64_t b, int64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

/* checked_array - malloc(n * size) that fails with NULL when the product overflows; n == 0 gives a valid pointer. */
void *checked_array(size_t n, size_t size) __attribute__((malloc, warn_unused_result));

/* checked_grow - make room for at least `need` elements of `size` bytes in a doubling array; false when out of memory
 * (then nothing changed). */
bool checked_grow(void **array, size_t *cap, size_t need, size_t size) __attribute__((warn_unused_result));

#endif
