#include "core/model/weights_pack.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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
    size_t row_bytes = dtype_bytes(to->type, to->k);
    const char *rows;
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
    const size_t panel_bytes = packed_panel_bytes(to->type, to->k);
    char *panel = work->panels + (size_t)(column / PANEL_COLUMNS) * panel_bytes;
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

int weights_pack(struct weights_storage *storage, struct matrix *const *matrices, size_t n_matrices,
                 const struct exec *exec, const struct weights_loading *loading, struct l4_err *err) {
    if (loading == NULL)
        loading = &AS_STORED;
    *storage = (struct weights_storage){0};
    struct planned *planned = checked_array(n_matrices, sizeof *planned);
    size_t total_bytes;
    if (planned == NULL || !plan(planned, matrices, n_matrices, loading, &total_bytes)) {
        free(planned);
        return l4_err_set(err, L4_E_NOMEM, "no memory for the packed weights' tables");
    }
    int rc = 0;
    if (total_bytes != 0) {
        void *map = mmap(NULL, total_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map != MAP_FAILED) {
            *storage = (struct weights_storage){map, total_bytes};
            madvise(map, total_bytes, MADV_HUGEPAGE);
            for (size_t i = 0; i < n_matrices; i++)
                planned[i].to.data = (char *)map + planned[i].at;
        }
        if (map == MAP_FAILED || !pack_all(planned, matrices, n_matrices, exec, loading, map, total_bytes)) {
            rc = l4_err_set(err, L4_E_NOMEM, "no memory for %zu MiB of packed weights", total_bytes >> 20);
            weights_storage_fini(storage);
        }
    }
    for (size_t i = 0; rc == 0 && i < n_matrices; i++)
        if (planned[i].to.n != 0)
            *matrices[i] = planned[i].to;
    free(planned);
    return rc;
}

void weights_storage_fini(struct weights_storage *storage) {
    if (storage->map != NULL)
        munmap(storage->map, storage->map_bytes);
    *storage = (struct weights_storage){0};
}
