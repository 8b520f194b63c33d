#include "core/cache/kv_page.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/format/quantize.h"

enum { BLOCK = KV_Q8_BLOCK };
_Static_assert((int)KV_PAGE_TOKENS <= (int)KV_Q8_POSITIONS && KV_PAGE_TOKENS % 2 == 0,
               "kernels take a page, scales are aligned");

static const enum dtype TYPES[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0};
static const char *const NAMES[] = {"f32", "f16", "bf16", "q8_0", NULL};
enum { N_TYPES = sizeof TYPES / sizeof *TYPES };

const char *const *kv_type_names(void) {
    return NAMES;
}

const char *kv_type_name(enum dtype type) {
    int i = 0;
    while (TYPES[i] != type) {
        i++;
        assert(i < N_TYPES);
    }
    return NAMES[i];
}

int kv_type_find(enum dtype *type, const char *name, struct l4_err *err) {
    for (int i = 0; i < N_TYPES; i++)
        if (strcmp(NAMES[i], name) == 0) {
            *type = TYPES[i];
            return 0;
        }
    return l4_err_set(err, L4_E_INVALID, "kv_cache_type '%s' is unknown; valid are: f32, f16, bf16, q8_0", name);
}

static int64_t n_blocks(const struct kv_layout *layout) {
    return ((int64_t)layout->head_dim + BLOCK - 1) / BLOCK;
}

static size_t quants_bytes(const struct kv_layout *layout) {
    return (size_t)layout->head_dim * KV_PAGE_TOKENS;
}

bool kv_layout_init(struct kv_layout *layout, const struct model_config *config, enum dtype type) {
    *layout = (struct kv_layout){.type = type, .n_kv_heads = config->n_kv_heads, .head_dim = config->head_dim};
    size_t vector_bytes = (size_t)config->head_dim * sizeof(int8_t) + (size_t)n_blocks(layout) * sizeof(uint16_t);
    if (type != DT_Q8_0 && !checked_mul_size((size_t)config->head_dim, dtype_size(type), &vector_bytes))
        return false;
    return checked_mul_size(vector_bytes, KV_PAGE_TOKENS, &layout->part_bytes) &&
           checked_mul_size(layout->part_bytes, 2 * (size_t)config->n_kv_heads, &layout->page_bytes);
}

/* ---- writing -------------------------------------------------------------------------------------------------- */

static float clamp(float value, float most) { /* NaN stays NaN */
    return value > most ? most : value < -most ? -most : value;
}

static uint16_t round_f16(float value) {
    return f32_to_f16(clamp(value, 65504));
}

static uint16_t round_bf16(float value) {
    uint32_t bits;
    if (isnan(value))
        return 0x7fc0;
    value = clamp(value, 0x1.fep127f);
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* One head's vector: element i to quants[i * stride], the scale of block b to scales[b * KV_PAGE_TOKENS]. */
static void write_q8(const float *vector, int64_t n, int8_t *quants, int64_t stride, uint16_t *scales) {
    for (int64_t i = 0; i < n; i += BLOCK, scales += KV_PAGE_TOKENS) {
        float padded[BLOCK] = {0};
        struct {
            uint16_t scale;
            int8_t quants[BLOCK];
        } block;
        int64_t some = n - i < BLOCK ? n - i : BLOCK;
        memcpy(padded, vector + i, (size_t)some * sizeof *padded);
        quantize_row(DT_Q8_0, padded, &block, BLOCK);
        *scales = block.scale;
        for (int64_t j = 0; j < some; j++)
            quants[(i + j) * stride] = block.quants[j];
    }
}

/* One head's vector: element i to element first + i * stride of the part. */
static void write_vector(const struct kv_layout *layout, void *part, int64_t slot, int64_t first, int64_t stride,
                         const float *vector) {
    float *floats = part;
    uint16_t *halves = part;
    int64_t n = layout->head_dim;
    switch (layout->type) {
    case DT_F32:
        for (int64_t i = 0; i < n; i++)
            floats[first + i * stride] = vector[i];
        break;
    case DT_F16:
        for (int64_t i = 0; i < n; i++)
            halves[first + i * stride] = round_f16(vector[i]);
        break;
    case DT_BF16:
        for (int64_t i = 0; i < n; i++)
            halves[first + i * stride] = round_bf16(vector[i]);
        break;
    default:
        write_q8(vector, n, (int8_t *)part + first, stride, halves + quants_bytes(layout) / sizeof *halves + slot);
    }
}

void kv_page_write(const struct kv_layout *layout, void *page, int64_t slot, const float *keys, const float *values) {
    char *part = page;
    for (int64_t h = 0; h < layout->n_kv_heads; h++, part += 2 * layout->part_bytes) {
        write_vector(layout, part, slot, slot, KV_PAGE_TOKENS, keys + h * layout->head_dim);
        write_vector(layout, part + layout->part_bytes, slot, slot * layout->head_dim, 1,
                     values + h * layout->head_dim);
    }
}

/* ---- multiplying ---------------------------------------------------------------------------------------------- */

static struct kv_q8 q8_part(const struct kv_layout *layout, const void *part, int64_t first, int64_t stride,
                            int64_t slot) {
    return (struct kv_q8){.stride = stride,
                          .quants = (const int8_t *)part + first,
                          .scales = (const uint16_t *)part + quants_bytes(layout) / sizeof(uint16_t) + slot,
                          .scales_stride = KV_PAGE_TOKENS};
}

void kv_keys_scores(const struct kv_layout *layout, const struct kernels *kernels, const void *part, int64_t slot,
                    int64_t n, const float *x, int64_t m, float *y, int64_t ldy, void *scratch) {
    int64_t head_dim = layout->head_dim;
    if (layout->type == DT_Q8_0) {
        struct kv_q8 w = q8_part(layout, part, slot, KV_PAGE_TOKENS, slot);
        w.n = n;
        w.k = head_dim;
        kernels->kv_q8_keys(&w, x, head_dim, m, y, ldy, false, scratch);
        return;
    }
    const char *first = (const char *)part + (size_t)slot * dtype_size(layout->type);
    struct matrix w = {layout->type, MATRIX_IN_OUT, n, head_dim, KV_PAGE_TOKENS, first};
    kernels->gemm[w.type][MATRIX_IN_OUT](&w, 0, n, x, head_dim, m, y, ldy, false, scratch);
}

void kv_values_sum(const struct kv_layout *layout, const struct kernels *kernels, const void *part, int64_t slot,
                   int64_t n, const float *x, int64_t ldx, int64_t m, float *y, bool accumulate, void *scratch) {
    int64_t head_dim = layout->head_dim;
    if (layout->type == DT_Q8_0) {
        struct kv_q8 w = q8_part(layout, part, slot * head_dim, head_dim, slot);
        w.n = head_dim;
        w.k = n;
        kernels->kv_q8_values(&w, x, ldx, m, y, head_dim, accumulate, scratch);
        return;
    }
    const char *first = (const char *)part + (size_t)(slot * head_dim) * dtype_size(layout->type);
    struct matrix w = {layout->type, MATRIX_IN_OUT, head_dim, n, head_dim, first};
    kernels->gemm[w.type][MATRIX_IN_OUT](&w, 0, head_dim, x, ldx, m, y, head_dim, accumulate, scratch);
}
