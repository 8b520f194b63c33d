/* The instruction-set variants of the kernel table, one file each. */
#ifndef CORE_KERNELS_VARIANTS_H
#define CORE_KERNELS_VARIANTS_H

#include "core/kernels/kernels.h"

/* Each writes the entries that it has over those already in the table.  The caller has made sure that the processor can
 * run them; on another architecture, or when the compiler could not build the variant, it is not called. */
void kernels_fill_ref(struct kernels *table);
void kernels_fill_avx2(struct kernels *table);
void kernels_fill_avx512(struct kernels *table);
void kernels_fill_neon(struct kernels *table);

/* The same for the entries that belong to packed weights. */
void kernels_fill_packed_ref(struct kernels *table);
void kernels_fill_packed_avx2(struct kernels *table);
void kernels_fill_packed_vnni(struct kernels *table);
void kernels_fill_packed_neon(struct kernels *table);

/* And for those of packed BF16. */
void kernels_fill_bf16_ref(struct kernels *table);
void kernels_fill_bf16_avx2(struct kernels *table);
void kernels_fill_bf16_avx512(struct kernels *table);
void kernels_fill_bf16_dpbf16(struct kernels *table);
void kernels_fill_bf16_neon(struct kernels *table);

#endif
