/* Cuts matrix products into tiles and runs them in one dispatch.  The list of tiles is never written down: a tile's
 * number leads to its task through running totals, and to its place by division.
 *
 * Tasks that do not wait for each other make up a stage.  Items of the dispatch go through the stages in order, so that
 * a tile comes after all tiles that write its x, and may wait for them. */
#include "core/kernels/gemm.h"

#include <assert.h>
#include <limits.h>
#include <string.h>

#include "core/kernels/gemm_inputs.h"
#include "core/kernels/gemm_openblas.h"
#include "core/kernels/packed.h"

enum {
    COLUMN_UNIT = 16,        /* tiles begin on multiples: a cache line of y belongs to one thread */
    TILES_PER_THREAD = 8,    /* wanted: enough to even out threads of different speed */
    TILE_MIN_MACS = 1 << 15, /* some microseconds */
    PACKED_READ_MACS = 8
};

/* How large a tile may be.  Few rows: the product is bound by reading weights, in runs as long as possible - an
 * [in, out] matrix is read across its rows, a run of each, and every run costs a look at another page: 2,048 columns of
 * bf16 stream at twice the speed of 512. */
struct tile_limit {
    int64_t few_rows; /* up to this many rows ... */
    int64_t few_rows_columns_min, few_rows_columns_max;
    int64_t few_rows_scale; /* tiles this many times larger than wanted otherwise */
    int64_t rows, columns;  /* more rows: the blocks of the kernels */
    int64_t
        band_bytes; /* of x: tiles go through all columns before they leave a band of rows, so that x stays cached */
};
static const struct tile_limit LIMITS[][MATRIX_N_LAYOUTS] = {
    [GEMM_OWN] = {{6, COLUMN_UNIT, 1024, 1, 192, 256, 8 << 20},
                  {6, 256, 8192, 4, 512, 512, 8 << 20},
                  {QROWS_TILE, COLUMN_UNIT, 512, 1, 128, 64, 8 << 20}},
    [GEMM_OPENBLAS] = {{6, COLUMN_UNIT, 1024, 1, 1024, 512, 8 << 20},
                       {6, 256, 8192, 4, 1024, 512, 8 << 20},
                       {6, COLUMN_UNIT, 1024, 1, 1024, 512, 8 << 20}},
};

static const struct tile_limit PACKED_BF16_LIMIT = {12, 2 * PANEL_COLUMNS, 512, 1, 192, 512, 8 << 20};

/* How one task is cut. */
struct cut {
    int64_t rows, columns; /* of a tile */
    int64_t row_tiles, column_tiles;
};

struct task_state {
    struct cut cut;
    int64_t tiles_before; /* of all tasks before */
    atomic_int tiles_left;
};

struct stage {
    int64_t first_tile, n_tiles, n_spread; /* the first n_spread come between the others */
};

struct job {
    const struct exec *exec;
    const struct gemm_task *tasks;
    int n_tasks;
    const struct gemm_input **inputs; /* [n_tasks] */
    struct task_state *states;        /* [n_tasks] */
    struct stage *stages;             /* [at most n_tasks] */
    int n_stages;
    int64_t tile_macs;
};

static int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static int64_t max_i64(int64_t a, int64_t b) {
    return a > b ? a : b;
}
static int64_t div_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static const struct tile_limit *tile_limit(enum gemm_impl impl, const struct matrix *w) {
    return impl == GEMM_OWN && w->layout == MATRIX_PACKED && w->type == DT_BF16 ? &PACKED_BF16_LIMIT
                                                                                : &LIMITS[impl][w->layout];
}

/* What one row of tiles costs for each weight.  Reading a packed weight costs about as much as PACKED_READ_MACS
 * products do. */
static int64_t row_cost(const struct gemm_task *task, int64_t rows) {
    return task->w.layout == MATRIX_PACKED ? max_i64(rows, PACKED_READ_MACS) : rows;
}

static int64_t task_macs(const struct gemm_task *task) {
    return task->m > 0 ? row_cost(task, task->m) * task->w.n * max_i64(task->w.k, 1) : 0;
}

static struct cut task_cut(const struct job *job, const struct gemm_task *task) {
    if (task->m <= 0)
        return (struct cut){0};
    if (task->w.n <= 0) { /* rows to make */
        const int64_t rows = div_up(task->m, (int64_t)pool_n_threads(job->exec->pool) * TILES_PER_THREAD);
        return (struct cut){rows, 0, task->from.make ? div_up(task->m, rows) : 0, 1};
    }
    const struct tile_limit *limit = tile_limit(task->impl, &task->w);
    const bool few = task->m <= limit->few_rows;
    struct cut cut = {.row_tiles = few ? 1 : div_up(task->m, limit->rows)};
    cut.rows = div_up(task->m, cut.row_tiles);
    if (task->w.layout == MATRIX_PACKED && !few) {
        cut.rows = div_up(cut.rows, QROWS_TILE) * QROWS_TILE;
        cut.row_tiles = div_up(task->m, cut.rows);
    }
    const int64_t macs = job->tile_macs * (few ? limit->few_rows_scale : 1);
    const int64_t wanted = macs / (row_cost(task, cut.rows) * max_i64(task->w.k, 1));
    const int64_t low = few ? limit->few_rows_columns_min : COLUMN_UNIT;
    const int64_t high = few ? limit->few_rows_columns_max : limit->columns;
    const int64_t unit = task->w.layout == MATRIX_PACKED ? 2 * PANEL_COLUMNS : COLUMN_UNIT; /* panels go in pairs */
    cut.columns = div_up(min_i64(max_i64(wanted, low), high), unit) * unit;
    cut.column_tiles = div_up(task->w.n, cut.columns);
    cut.columns = div_up(div_up(task->w.n, cut.column_tiles), unit) * unit; /* all about equal */
    cut.column_tiles = div_up(task->w.n, cut.columns);
    return cut;
}

/* The panels of K are the same whatever the tile, and the f32 kernel adds one to the other in one order: the result is
 * as batch-invariant as the kernel. */
static void widened_tile(const struct kernels *kernels, const struct matrix *w, int64_t n_begin, int64_t n_end,
                         const float *x, int64_t ldx, int64_t m, float *y, int64_t ldy, bool accumulate,
                         void *scratch) {
    float *const rows = (float *)((char *)scratch + KERNEL_SCRATCH_BYTES);
    gemm_fn *const gemm = kernels->gemm[DT_F32][MATRIX_OUT_IN];
    for (int64_t j = n_begin; j < n_end; j += GEMM_PANEL_ROWS) {
        struct matrix panel = {.type = DT_F32, .layout = MATRIX_OUT_IN, .stride = GEMM_PANEL_K, .data = rows};
        panel.n = min_i64(n_end - j, GEMM_PANEL_ROWS);
        for (int64_t k = 0; k < w->k; k += GEMM_PANEL_K) {
            panel.k = min_i64(w->k - k, GEMM_PANEL_K);
            for (int64_t r = 0; r < panel.n; r++)
                kernels_widen(kernels, w->type, rows + r * GEMM_PANEL_K, matrix_at(w, j + r, k), panel.k);
            gemm(&panel, 0, panel.n, x + k, ldx, m, y + j, ldy, accumulate || k > 0, scratch);
        }
    }
}

/* Returns when rows begin .. end - 1 of the task's x are there. */
static void wait_for_rows(const struct job *job, int t, int64_t begin, int64_t end) {
    for (int i = job->tasks[t].from.after_begin; i < job->tasks[t].from.after_end; i++)
        pool_wait(&job->states[i].tiles_left);
    gemm_input_rows(job->inputs[t], begin, end);
}

static void run_tile(const struct job *job, int t, int64_t tile, void *scratch) {
    const struct gemm_task *task = &job->tasks[t];
    const struct cut *cut = &job->states[t].cut;
    /* band of rows, then column, then row inside the band */
    const int64_t row_bytes = max_i64(task->w.k, 1) * (int64_t)sizeof(float);
    const int64_t fitting = tile_limit(task->impl, &task->w)->band_bytes / (cut->rows * row_bytes);
    const int64_t band_tiles = min_i64(max_i64(fitting, 1), cut->row_tiles);
    const int64_t band = tile / (band_tiles * cut->column_tiles);
    const int64_t in_band = tile % (band_tiles * cut->column_tiles);
    const int64_t height = min_i64(band_tiles, cut->row_tiles - band * band_tiles);
    const int64_t row = (band * band_tiles + in_band % height) * cut->rows;
    const int64_t column = in_band / height * cut->columns;
    const int64_t rows = min_i64(cut->rows, task->m - row);
    const int64_t column_end = min_i64(column + cut->columns, task->w.n);

    wait_for_rows(job, t, row, row + rows);
    if (column >= column_end)
        return;
    const float *x = task->x + row * task->ldx;
    float *y = task->y + row * task->ldy;
    for (int64_t i = 0; i < rows && task->bias; i++)
        memcpy(y + i * task->ldy + column, task->bias + column, (size_t)(column_end - column) * sizeof(float));
    const struct kernels *kernels = job->exec->kernels;
    const bool accumulate = task->bias != NULL;
    const struct quantized_rows *packed = gemm_input_packed(job->inputs[t], task);
    if (task->impl == GEMM_OPENBLAS)
        gemm_openblas_tile(kernels, &task->w, column, column_end, x, task->ldx, rows, y, task->ldy, accumulate,
                           scratch);
    else if (packed)
        kernels->qgemm[task->w.type](&task->w, column, column_end, packed, row, row + rows, task->y, task->ldy,
                                     accumulate);
    else if (!kernels_have_type(task->w.type))
        widened_tile(kernels, &task->w, column, column_end, x, task->ldx, rows, y, task->ldy, accumulate, scratch);
    else
        kernels->gemm[task->w.type][task->w.layout](&task->w, column, column_end, x, task->ldx, rows, y, task->ldy,
                                                    accumulate, scratch);
}

/* Which tile an item is. */
static int64_t item_tile(const struct job *job, int64_t item) {
    const struct stage *stage = job->stages;
    while (item >= stage->first_tile + stage->n_tiles)
        stage++;
    const int64_t at = item - stage->first_tile;
    const int64_t n_before = div_up(at * stage->n_spread, stage->n_tiles); /* spread ones before this item */
    const bool is_spread = div_up((at + 1) * stage->n_spread, stage->n_tiles) > n_before;
    return stage->first_tile + (is_spread ? n_before : stage->n_spread + at - n_before);
}

static void work(void *ctx, int item, int thread) {
    const struct job *job = ctx;
    const int64_t tile = item_tile(job, item);
    int low = 0, high = job->n_tasks - 1; /* the last task with tiles_before <= tile */
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (job->states[middle].tiles_before <= tile)
            low = middle;
        else
            high = middle - 1;
    }
    run_tile(job, low, tile - job->states[low].tiles_before, pool_scratch(job->exec->pool, thread));
    atomic_fetch_sub_explicit(&job->states[low].tiles_left, 1, memory_order_release);
}

/* Cuts every task.  Returns the number of tiles. */
static int64_t lay_out(struct job *job) {
    struct stage *stage = NULL;
    int64_t tiles = 0;
    for (int t = 0, first = 0; t < job->n_tasks; t++) {
        const struct gemm_task *task = &job->tasks[t];
        assert(task->from.after_end <= t);
        if (!stage || task->from.after_end > first) {
            stage = &job->stages[job->n_stages++];
            *stage = (struct stage){.first_tile = tiles};
            first = t;
        }
        const struct cut cut = task_cut(job, task);
        const int64_t n = cut.row_tiles * cut.column_tiles;
        job->states[t].cut = cut;
        job->states[t].tiles_before = tiles;
        atomic_init(&job->states[t].tiles_left, (int)n);
        if (task->spread && stage->n_spread == stage->n_tiles)
            stage->n_spread += n;
        stage->n_tiles += n;
        tiles += n;
    }
    return tiles;
}

int gemm_run(const struct exec *exec, const struct gemm_task *tasks, int n_tasks) {
    if (n_tasks <= 0)
        return L4_OK;
    assert(pool_scratch_bytes(exec->pool) >= GEMM_SCRATCH_BYTES);
    arena_reset(exec->arena);
    struct job job = {.exec = exec, .tasks = tasks, .n_tasks = n_tasks};
    job.inputs = arena_alloc(exec->arena, (size_t)n_tasks, sizeof *job.inputs);
    job.states = arena_alloc(exec->arena, (size_t)n_tasks, sizeof *job.states);
    job.stages = arena_alloc(exec->arena, (size_t)n_tasks, sizeof *job.stages);
    if (!job.inputs || !job.states || !job.stages || gemm_inputs_find(job.inputs, exec, tasks, n_tasks))
        return L4_E_NOMEM;
    int64_t macs = 0;
    for (int t = 0; t < n_tasks; t++)
        macs += task_macs(&tasks[t]);
    const int n_threads = pool_n_threads(exec->pool);
    job.tile_macs = max_i64(macs / ((int64_t)n_threads * TILES_PER_THREAD), TILE_MIN_MACS);
    const int64_t tiles = lay_out(&job);
    assert(tiles <= INT_MAX);
    pool_for(exec->pool, (int)tiles, work, &job);
    return L4_OK;
}

const char *const *gemm_impl_names(void) {
    static const char *const NAMES[] = {
        [GEMM_OWN] = "own",
#if !defined(L4_NO_OPENBLAS)
        [GEMM_OPENBLAS] = "openblas",
#endif
        NULL,
    };
    return NAMES;
}
