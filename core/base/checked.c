#include "core/base/checked.h"

#include <stdlib.h>

void *checked_array(size_t n, size_t size) {
    size_t bytes;
    if (!checked_mul_size(n, size, &bytes))
        return NULL;
    return malloc(bytes ? bytes : 1);
}

bool checked_grow(void **array, size_t *cap, size_t need, size_t size) {
    if (need <= *cap)
        return true;
    size_t want = *cap < 16 ? 16 : *cap, bytes;
    while (want < need)
        if (!checked_mul_size(want, 2, &want))
            return false;
    if (!checked_mul_size(want, size, &bytes))
        return false;
    void *grown = realloc(*array, bytes);
    if (!grown)
        return false;
    *array = grown;
    *cap = want;
    return true;
}
