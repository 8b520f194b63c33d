/* Packing while loading: packed values are the stored ones, quantised where asked; the stored form leaves memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/format/dequant.h"
#include "core/format/quantize.h"
#include "core/kernels/packed.h"
#include "core/model/weights_pack.h"
#include "tests/lib/random_data.h"

enum { MAX_N = 70, MAX_K = 600 };

static struct exec exec;

static int open_exec(void **state) {
    (void)state;
    assert_int_equal(kernels_get(&exec.kernels, NULL), 0);
    return pool_open(&exec.pool, 2, GEMM_SCRATCH_BYTES, NULL);
}

static int close_exec(void **state) {
    (void)state;
    pool_close(exec.pool);
    return 0;
}

static void count_progress(void *user, double fraction) {
    double *last = user;
    assert_true(fraction >= *last && fraction <= 1);
    *last = fraction;
}

/* bytes of a file, mapped as checkpoints are: `contents`, or zeros. */
static void *map_file(const void *contents, size_t bytes) {
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(ftruncate(fileno(file), (off_t)bytes), 0);
    if (contents)
        assert_int_equal(pwrite(fileno(file), contents, bytes, 0), (ssize_t)bytes);
    void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fileno(file), 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    fclose(file);
    return map;
}

/* A matrix as it lies in a checkpoint, and what each of its outputs is worth: the stored value, or that quantised. */
struct sample {
    struct matrix stored;
    void *data;
    size_t data_bytes;
    float want[MAX_N * MAX_K];
};

static void sample_init(struct sample *s, struct rng *rng, enum dtype type, enum matrix_layout layout, int64_t n,
                        int64_t k, enum dtype packed) {
    static float values[MAX_N * MAX_K];
    static uint8_t blocks[MAX_K * 4];
    void *data;
    const int64_t stride = layout == MATRIX_IN_OUT ? n : k;
    if ((int)type < DT_N_WEIGHT_TYPES) {
        data = rng_weights(rng, type, (size_t)(n * k), 1);
    } else {
        rng_fill(rng, values, (size_t)(n * k), 1);
        data = malloc(dtype_bytes(type, n * k));
        assert_non_null(data);
        quantize_row(type, values, data, n * k);
    }
    dequantize_row(type, data, values, n * k);
    s->data_bytes = dtype_bytes(type, n * k);
    s->data = map_file(data, s->data_bytes);
    free(data);
    s->stored = (struct matrix){type, layout, n, k, stride, s->data};
    for (int64_t j = 0; j < n; j++) {
        float *want = s->want + j * k;
        for (int64_t i = 0; i < k; i++)
            want[i] = layout == MATRIX_IN_OUT ? values[i * n + j] : values[j * k + i];
        if (packed != type && packed_has_type(packed)) {
            quantize_row(packed, want, blocks, k);
            dequantize_row(packed, blocks, want, k);
        }
    }
}

static void test_values(void **state) {
    (void)state;
    static const struct {
        enum dtype type;
        enum matrix_layout layout;
        int64_t n, k;
        enum dtype quantization, packed; /* F32: stays */
        bool bf16_activations;
    } cases[] = {
        {DT_Q4_0, MATRIX_OUT_IN, 70, 96, DT_F32, DT_Q4_0, false},
        {DT_Q8_0, MATRIX_OUT_IN, 1, 32, DT_F32, DT_Q8_0, false},
        {DT_Q4_K, MATRIX_OUT_IN, 33, 512, DT_Q8_0, DT_Q4_K, false},
        {DT_BF16, MATRIX_OUT_IN, 50, 96, DT_F32, DT_F32, false},
        {DT_BF16, MATRIX_OUT_IN, 50, 96, DT_Q4_0, DT_Q4_0, false},
        {DT_BF16, MATRIX_IN_OUT, 47, 512, DT_Q4_K, DT_Q4_K, false},
        {DT_F16, MATRIX_IN_OUT, 64, 96, DT_Q8_0, DT_Q8_0, false},
        {DT_F32, MATRIX_OUT_IN, 17, 96, DT_Q4_K, DT_Q8_0, false},
        {DT_F32, MATRIX_IN_OUT, 17, 100, DT_Q8_0, DT_F32, false},
        {DT_BF16, MATRIX_OUT_IN, 50, 96, DT_F32, DT_BF16, true},
        {DT_BF16, MATRIX_IN_OUT, 47, 96, DT_F32, DT_BF16, true},
        {DT_BF16, MATRIX_IN_OUT, 47, 96, DT_Q8_0, DT_Q8_0, true},
        {DT_F16, MATRIX_OUT_IN, 50, 96, DT_F32, DT_F32, true},
        {DT_F32, MATRIX_IN_OUT, 50, 96, DT_F32, DT_F32, true},
    };
    enum { N_CASES = sizeof cases / sizeof cases[0] };
    static struct sample samples[N_CASES];
    static float have[MAX_N * MAX_K];
    struct rng rng = {7};
    for (int i = 0; i < N_CASES; i++) {
        struct sample *s = &samples[i];
        sample_init(s, &rng, cases[i].type, cases[i].layout, cases[i].n, cases[i].k, cases[i].packed);
        struct matrix m[2] = {s->stored, {0}}, *list[] = {&m[0], &m[1]};
        struct weights_storage storage;
        double last = 0;
        const struct weights_loading loading = {.quantization = cases[i].quantization,
                                                .bf16_activations = cases[i].bf16_activations,
                                                .progress = count_progress,
                                                .user = &last};
        assert_int_equal(weights_pack(&storage, list, 2, NULL, &exec, &loading, NULL), 0);
        assert_null(m[1].data);
        if (cases[i].packed == DT_F32) {
            assert_ptr_equal(m[0].data, s->data);
            assert_int_equal(m[0].layout, cases[i].layout);
        } else {
            assert_int_equal(m[0].layout, MATRIX_PACKED);
            assert_int_equal(m[0].type, cases[i].packed);
            assert_true(last == 1);
            const int64_t k = m[0].k - m[0].k % PACKED_BLOCK;
            packed_widen(&m[0], 0, m[0].n, 0, k, have, k);
            for (int64_t j = 0; j < m[0].n * k; j++)
                if (have[j] != s->want[j])
                    fail_msg("case %d: value %lld is %g, not %g", i, (long long)j, (double)have[j], (double)s->want[j]);
        }
        weights_storage_fini(&storage);
        munmap(s->data, s->data_bytes);
    }
}

/* Resident bytes of the mapping that begins at `start`. */
static size_t resident_bytes(const void *start) {
    FILE *smaps = fopen("/proc/self/smaps", "r");
    assert_non_null(smaps);
    char line[512];
    unsigned long begin, kib;
    bool inside = false;
    size_t bytes = SIZE_MAX;
    while (bytes == SIZE_MAX && fgets(line, sizeof line, smaps)) {
        if (sscanf(line, "%lx-", &begin) == 1 && strchr(line, '-') != NULL)
            inside = begin == (unsigned long)start;
        else if (inside && sscanf(line, "Rss: %lu kB", &kib) == 1)
            bytes = kib * 1024;
    }
    fclose(smaps);
    assert_true(bytes != SIZE_MAX);
    return bytes;
}

static size_t largest_resident;
static const void *watched;

static void watch_progress(void *user, double fraction) {
    (void)user;
    (void)fraction;
    const size_t bytes = resident_bytes(watched);
    if (bytes > largest_resident)
        largest_resident = bytes;
}

/* A file of matrices one after another, as experts are stored. */
static void test_stored_form_leaves_memory(void **state) {
    (void)state;
    enum { N = 512, K = 4096, COUNT = 16 };
    const size_t bytes = dtype_bytes(DT_Q8_0, (int64_t)N * K);
    char *map = map_file(NULL, COUNT * bytes);
    struct matrix m[COUNT], *list[COUNT];
    for (int i = 0; i < COUNT; i++) {
        m[i] = (struct matrix){DT_Q8_0, MATRIX_OUT_IN, N, K, K, map + (size_t)i * bytes};
        list[i] = &m[i];
    }
    struct weights_storage storage;
    watched = map;
    const struct weights_loading loading = {.progress = watch_progress};
    assert_int_equal(weights_pack(&storage, list, COUNT, NULL, &exec, &loading, NULL), 0);
    assert_true(largest_resident <= bytes + bytes / 4);
    weights_storage_fini(&storage);
    munmap(map, COUNT * bytes);
}

static void test_too_large(void **state) {
    (void)state;
    struct matrix m = {DT_Q8_0, MATRIX_OUT_IN, (int64_t)1 << 45, 1 << 10, 1 << 10, ""}, before = m, *list[] = {&m};
    struct weights_storage storage;
    struct l4_err err;
    assert_int_equal(weights_pack(&storage, list, 1, NULL, &exec, NULL, &err), L4_E_NOMEM);
    assert_non_null(strstr(err.message, "MiB of packed weights"));
    assert_memory_equal(&m, &before, sizeof m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_stored_form_leaves_memory),
        cmocka_unit_test(test_too_large),
    };
    return cmocka_run_group_tests_name("weights_pack", tests, open_exec, close_exec);
}
