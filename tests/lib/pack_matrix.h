/* Packed weights for tests and benchmarks, from matrices in memory. */
#ifndef TESTS_LIB_PACK_MATRIX_H
#define TESTS_LIB_PACK_MATRIX_H

#include "core/kernels/kernels.h"

/* pack_matrix - *matrix, of floats in any layout, becomes a packed one of `type`; the data it had stay the caller's.
 * Returns its panels, to be freed; exits when memory runs out. */
void *pack_matrix(struct matrix *matrix, enum dtype type);

#endif
