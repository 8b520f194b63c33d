/* A page of the KV cache: the keys and values of KV_PAGE_TOKENS positions of one layer, in one of four types.
 *
 * For each KV head a part of keys and then a part of values, in the order in which attention reads, the columns of each
 * of its products side by side:
 *   keys   [head_dim][KV_PAGE_TOKENS]
 *   values [KV_PAGE_TOKENS][head_dim]
 * f32, f16, bf16: just that.  q8_0: int8, then one f16 scale for every 32 elements of a head's vector, of keys and of
 * values [ceil(head_dim / 32)][KV_PAGE_TOKENS]; a vector's last block may be shorter.
 * A stored number is widened to f32 exactly, whatever the type, before it is multiplied: the types differ in what is
 * stored, not in arithmetic.  Thread: any; writers of different slots do not meet. */
#ifndef CORE_CACHE_KV_PAGE_H
#define CORE_CACHE_KV_PAGE_H

#include <stddef.h>
#include <stdint.h>

#include "core/format/config.h"
#include "core/kernels/kernels.h"

enum { KV_PAGE_TOKENS = 64 };

struct kv_layout {
    enum dtype type;
    int32_t n_kv_heads, head_dim;
    size_t part_bytes; /* the keys, or the values, of one head */
    size_t page_bytes;
};

/* kv_layout_init - false if a page would be larger than the address space.  type: one of kv_type_names. */
bool kv_layout_init(struct kv_layout *layout, const struct model_config *config, enum dtype type) L4_MUST_CHECK;

const char *const *kv_type_names(void); /* "f32", "f16", "bf16", "q8_0", NULL */
const char *kv_type_name(enum dtype type);
/* kv_type_find - Errors: L4_E_INVALID (the message lists the valid ones). */
int kv_type_find(enum dtype *type, const char *name, struct l4_err *err) L4_MUST_CHECK;

/* kv_page_write - the keys and values [n_kv_heads][head_dim] of one position, rounded to the nearest of the type; what
 * is beyond its range becomes its largest number. */
void kv_page_write(const struct kv_layout *layout, void *page, int64_t slot, const float *keys, const float *values);

/* kv_keys_scores - y[i][j] = x[i] . key of slot + j, for i < m, j < n.      x [m][head_dim], y rows ldy apart
 * kv_values_sum  - y[i] (+)= sum over j < n of x[i][j] * value of slot + j.  x rows ldx apart, y [m][head_dim]
 *   part: as above; slots outside slot .. slot + n - 1 are not read.  scratch: as for gemm. */
void kv_keys_scores(const struct kv_layout *layout, const struct kernels *kernels, const void *part, int64_t slot,
                    int64_t n, const float *x, int64_t m, float *y, int64_t ldy, void *scratch);
void kv_values_sum(const struct kv_layout *layout, const struct kernels *kernels, const void *part, int64_t slot,
                   int64_t n, const float *x, int64_t ldx, int64_t m, float *y, bool accumulate, void *scratch);

#endif
