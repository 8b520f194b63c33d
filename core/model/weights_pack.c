#include "core/model/weights_pack.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/base/checked.h"
#include "core/format/quantize.h"
#include "core/kernels/packed.h"

enum {
    ITEM_COLUMNS = 2 * PANEL_COLUMNS, /* of bf16 a cache line where inputs are rows */
    GATHER_ROWS = 16                  /* f32: a cache line where outputs are rows */
};

static const struct weights_loading AS_STORED;

/* What a matrix becomes; false: it stays as it is. */
static bool packed_type(const struct matrix *matrix, const struct weights_loading *loading, enum dtype *type) {
    if (matrix->data == NULL || matrix->layout == MATRIX_PACKED)
        return false;
    *type = matrix->type;
    if ((int)matrix->type < DT_N_WEIGHT_TYPES && loading->quantization != DT_F32)
        *type = matrix->k % dtype_block_elements(loading->quantization) == 0 ? loading->quantization : DT_Q8_0;
    if (*type == DT_BF16 && !loading->bf16_activations)
        return false;
    return packed_has_type(*type) && matrix->k % dtype_block_elements(*type) == 0;
}

/* ---- one matrix -------------------------------------------------------------------------------------------------- */

struct pack_work {
    const struct kernels *kernels;
    const struct matrix *from, *to;
    char *panels;  /* of `to` */
    char *scratch; /* [n_threads][scratch_bytes], where values change */
    size_t scratch_bytes;
};

/* A thread's share, in whole cache lines: the values and the blocks of ITEM_COLUMNS outputs. */
static size_t columns_bytes(enum dtype type, int64_t k) {
    const size_t bytes = ITEM_COLUMNS * ((size_t)k * sizeof(float) + dtype_bytes(type, k));
    return (bytes + PACKED_ALIGNMENT - 1) & ~(size_t)(PACKED_ALIGNMENT - 1);
}

static size_t max_bytes(size_t a, size_t b) {
    return a > b ? a : b;
}

/* dst [n_columns][k] f32 = the weights of the outputs column .. column + n_columns - 1 */
static void gather(const struct pack_work *work, int64_t column, int64_t n_columns, float *dst) {
    const struct matrix *from = work->from;
    float rows[GATHER_ROWS][ITEM_COLUMNS];
    if (from->layout == MATRIX_OUT_IN) {
        for (int64_t c = 0; c < n_columns; c++)
            kernels_widen(work->kernels, from->type, dst + c * from->k, matrix_at(from, column + c, 0), from->k);
        return;
    }
    for (int64_t k = 0; k < from->k; k += GATHER_ROWS) {
        const int64_t n = from->k - k < GATHER_ROWS ? from->k - k : GATHER_ROWS;
        for (int64_t i = 0; i < n; i++)
            kernels_widen(work->kernels, from->type, rows[i], matrix_at(from, k + i, column), n_columns);
        for (int64_t c = 0; c < n_columns; c++)
            for (int64_t i = 0; i < n; i++)
                dst[c * from->k + k + i] = rows[i][c];
    }
}

static void pack_columns(void *ctx, int item, int thread) {
    const struct pack_work *work = ctx;
    const struct matrix *from = work->from, *to = work->to;
    const int64_t column = (int64_t)item * ITEM_COLUMNS;
    const int64_t n = to->n - column < ITEM_COLUMNS ? to->n - column : ITEM_COLUMNS;
    const size_t panel_bytes = packed_panel_bytes(to->type, to->k);
    char *panel = work->panels + (size_t)(column / PANEL_COLUMNS) * panel_bytes;
    size_t row_bytes = dtype_bytes(to->type, to->k);
    const char *rows;
    if (from->type == to->type && from->layout == MATRIX_IN_OUT) {
        pack_panels_in_out(matrix_at(from, 0, column), dtype_bytes(from->type, from->stride), n, to->k, panel);
        return;
    }
    if (from->type == to->type) {
        rows = matrix_at(from, column, 0);
        row_bytes = dtype_bytes(from->type, from->stride);
    } else {
        float *values = (float *)(work->scratch + (size_t)thread * work->scratch_bytes);
        char *blocks = (char *)(values + ITEM_COLUMNS * to->k);
        gather(work, column, n, values);
        for (int64_t c = 0; c < n; c++)
            quantize_row(to->type, values + c * to->k, blocks + (size_t)c * row_bytes, to->k);
        rows = blocks;
    }
    for (int64_t c = 0; c < n; c += PANEL_COLUMNS, panel += panel_bytes)
        pack_panel(to->type, rows + (size_t)c * row_bytes, row_bytes,
                   (int)(n - c < PANEL_COLUMNS ? n - c : PANEL_COLUMNS), to->k, panel);
}

static size_t stored_bytes(const struct matrix *matrix) {
    return dtype_bytes(matrix->type, (matrix->layout == MATRIX_IN_OUT ? matrix->k : matrix->n) * matrix->stride);
}

/* Whole pages: what a neighbour shares with it comes back from the file when it is touched. */
static void drop(const struct matrix *matrix) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), begin = (size_t)matrix->data & ~(page - 1);
    const size_t end = ((size_t)matrix->data + stored_bytes(matrix) + page - 1) & ~(page - 1);
    madvise((void *)begin, end - begin, MADV_DONTNEED);
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

/* What becomes of a matrix; n = 0: it stays. */
struct planned {
    struct matrix to;
    size_t at, bytes; /* in the storage */
};

static bool plan(struct planned *planned, struct matrix *const *matrices, size_t n_matrices,
                 const struct weights_loading *loading, size_t *total_bytes) {
    *total_bytes = 0;
    for (size_t i = 0; i < n_matrices; i++) {
        struct planned *p = &planned[i];
        enum dtype type;
        *p = (struct planned){.at = *total_bytes};
        if (!packed_type(matrices[i], loading, &type))
            continue;
        p->to = (struct matrix){.type = type, .layout = MATRIX_PACKED, .n = matrices[i]->n, .k = matrices[i]->k};
        if (!packed_bytes(type, p->to.n, p->to.k, &p->bytes) || !checked_add_size(p->at, p->bytes, total_bytes))
            return false;
    }
    return true;
}

static bool pack_all(const struct planned *planned, struct matrix *const *matrices, size_t n_matrices,
                     const struct exec *exec, const struct weights_loading *loading, char *map, size_t total_bytes) {
    struct pack_work work = {.kernels = exec->kernels};
    for (size_t i = 0; i < n_matrices; i++)
        if (planned[i].to.n != 0 && planned[i].to.type != matrices[i]->type)
            work.scratch_bytes = max_bytes(work.scratch_bytes, columns_bytes(planned[i].to.type, planned[i].to.k));
    work.scratch = checked_array((size_t)pool_n_threads(exec->pool), work.scratch_bytes);
    if (work.scratch == NULL)
        return false;
    for (size_t i = 0; i < n_matrices; i++) {
        if (planned[i].to.n == 0)
            continue;
        work.from = matrices[i];
        work.to = &planned[i].to;
        work.panels = map + planned[i].at;
        pool_for(exec->pool, (int)((work.to->n + ITEM_COLUMNS - 1) / ITEM_COLUMNS), pack_columns, &work);
        drop(work.from);
        if (loading->progress != NULL)
            loading->progress(loading->user, (double)(planned[i].at + planned[i].bytes) / (double)total_bytes);
    }
    free(work.scratch);
    return true;
}

/* ---- where the packed form lies ---------------------------------------------------------------------------------- */

L4_PRINTF(3, 4) static void say(const struct weights_loading *loading, enum l4_log_level level, const char *fmt, ...) {
    char line[512];
    va_list args;
    if (loading->log == NULL)
        return;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    loading->log(loading->user, level, line);
}

static struct weight_cache_key key_of(const struct planned *planned, struct matrix *const *matrices, size_t n_matrices,
                                      size_t total_bytes, const struct checkpoint *checkpoint,
                                      const struct weights_loading *loading) {
    struct weight_cache_key key = {loading->cache_dir, loading->cache_name, 0, 0, total_bytes};
    const struct file_mapping *file;
    for (size_t i = 0; (file = checkpoint_mapping(checkpoint, i)) != NULL; i++)
        key.checkpoint_hash = weight_cache_hash_file(file, key.checkpoint_hash);
    for (size_t i = 0; i < n_matrices; i++) {
        const struct matrix *to = &planned[i].to;
        const uint64_t parts[] = {(uint64_t)to->n, (uint64_t)to->k, (uint64_t)to->type, (uint64_t)matrices[i]->type,
                                  planned[i].at};
        key.layout_hash = XXH3_64bits_withSeed(parts, sizeof parts, key.layout_hash);
    }
    return key;
}

/* The packed form is in *storage, written by this process or an earlier one. */
static int pack_cached(struct weights_storage *storage, struct planned *planned, struct matrix *const *matrices,
                       size_t n_matrices, const struct exec *exec, const struct weights_loading *loading,
                       const struct weight_cache_key *key, struct l4_err *err) {
    struct l4_err why = {0};
    struct stat st;
    if (stat(key->dir, &st) != 0 || !S_ISDIR(st.st_mode))
        return l4_err_set(err, L4_E_IO, "weight_cache: %s is no directory", key->dir);
    int rc = weight_cache_map(&storage->cache, key, loading->verify, &why);
    if (rc == 0) {
        say(loading, L4_LOG_INFO, "packed weights from %s", storage->cache.path);
        return 0;
    }
    if (rc != L4_E_NOT_FOUND)
        say(loading, L4_LOG_WARN, "%s: weights are packed again", why.message);
    rc = weight_cache_create(&storage->cache, key, &why);
    if (rc == 0 && !pack_all(planned, matrices, n_matrices, exec, loading, storage->cache.data, key->data_bytes)) {
        weight_cache_close(&storage->cache);
        return l4_err_set(err, L4_E_NOMEM, "no memory to pack weights");
    }
    if (rc == 0)
        rc = weight_cache_seal(&storage->cache, key, &why);
    if (rc != 0)
        say(loading, L4_LOG_WARN, "weight_cache: %s", why.message);
    return 0;
}

static int pack_in_memory(struct weights_storage *storage, struct planned *planned, struct matrix *const *matrices,
                          size_t n_matrices, const struct exec *exec, const struct weights_loading *loading,
                          size_t total_bytes, struct l4_err *err) {
    void *map = mmap(NULL, total_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map != MAP_FAILED) {
        storage->map = map;
        storage->map_bytes = total_bytes;
        madvise(map, total_bytes, MADV_HUGEPAGE);
    }
    if (map != MAP_FAILED && pack_all(planned, matrices, n_matrices, exec, loading, map, total_bytes))
        return 0;
    return l4_err_set(err, L4_E_NOMEM, "no memory for %zu MiB of packed weights", total_bytes >> 20);
}

int weights_pack(struct weights_storage *storage, struct matrix *const *matrices, size_t n_matrices,
                 const struct checkpoint *checkpoint, const struct exec *exec, const struct weights_loading *loading,
                 struct l4_err *err) {
    if (loading == NULL)
        loading = &AS_STORED;
    *storage = (struct weights_storage){0};
    struct planned *planned = checked_array(n_matrices, sizeof *planned);
    size_t total_bytes;
    int rc = 0;
    if (planned == NULL || !plan(planned, matrices, n_matrices, loading, &total_bytes)) {
        free(planned);
        return l4_err_set(err, L4_E_NOMEM, "no memory for the packed weights' tables");
    }
    if (total_bytes != 0 && loading->cache_dir != NULL) {
        const struct weight_cache_key key = key_of(planned, matrices, n_matrices, total_bytes, checkpoint, loading);
        rc = pack_cached(storage, planned, matrices, n_matrices, exec, loading, &key, err);
    }
    if (rc == 0 && total_bytes != 0 && storage->cache.data == NULL)
        rc = pack_in_memory(storage, planned, matrices, n_matrices, exec, loading, total_bytes, err);
    const char *base = storage->cache.data != NULL ? storage->cache.data : storage->map;
    for (size_t i = 0; rc == 0 && i < n_matrices; i++)
        if (planned[i].to.n != 0) {
            *matrices[i] = planned[i].to;
            matrices[i]->data = base + planned[i].at;
        }
    free(planned);
    if (rc != 0)
        weights_storage_fini(storage);
    return rc;
}

void weights_storage_fini(struct weights_storage *storage) {
    weight_cache_close(&storage->cache);
    if (storage->map != NULL)
        munmap(storage->map, storage->map_bytes);
    *storage = (struct weights_storage){0};
}
