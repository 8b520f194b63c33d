/* One tensor: blocks of rows are widened to float32, checked, narrowed and written, each by one thread. */
#include <math.h>
#include <string.h>

#include "core/format/dequant.h"
#include "core/format/quantize.h"
#include "core/quantize_internal.h"

/* What one thread holds: some MiB of numbers, and at least a row. */
enum { MAX_ROWS = 128, BLOCK_FLOATS = 1 << 19, TILE = 16 };

/* Scales are float16: what no scale reaches is refused, as is what float16 itself does not hold. */
static const float LARGEST_F16 = 65504;

static int64_t row_length(const struct quantize_tensor *tensor) {
    return tensor->shape[tensor->n_dims - 1];
}

/* Rows of one expert, or of a tensor that has none. */
static int64_t rows_a_slice(const struct quantize_tensor *tensor) {
    return tensor->n_dims > 1 ? tensor->shape[tensor->n_dims - 2] : 1;
}

static int64_t n_slices(const struct quantize_tensor *tensor) {
    return tensor->n_dims > 2 ? tensor->shape[0] : 1;
}

static int64_t rows_a_block(const struct quantize_tensor *tensor) {
    const int64_t fit = BLOCK_FLOATS / row_length(tensor), most = fit < MAX_ROWS ? fit : MAX_ROWS;
    const int64_t rows = rows_a_slice(tensor);
    return most < 1 ? 1 : most < rows ? most : rows;
}

/* Floats of a block, a tile for transposing, and the block in its new type, which takes no more than the floats. */
static size_t scratch_floats(const struct quantize_tensor *tensor) {
    return (size_t)(2 * rows_a_block(tensor) * row_length(tensor) + TILE * MAX_ROWS);
}

size_t quantize_scratch_bytes(const struct quantize_plan *plan) {
    size_t most = 0;
    for (size_t i = 0; i < plan->n_tensors; i++) {
        const size_t n = scratch_floats(&plan->tensors[i]);
        most = n > most ? n : most;
    }
    return most * sizeof(float);
}

/* ---- one block of rows ------------------------------------------------------------------------------------------- */

struct job {
    const struct quantize_tensor *tensor;
    struct gguf_writer *writer;
    size_t index;
    struct pool *pool;
    int64_t rows, blocks_a_slice;
    int64_t first_item;
    atomic_flag failed;
    int rc; /* of whoever set failed first; read after the dispatch */
    struct l4_err err;
};

static const char *at_element(const struct tensor *source, int64_t element) {
    return (const char *)source->data +
           (size_t)(element / dtype_block_elements(source->type)) * dtype_block_bytes(source->type);
}

/* x [n_rows, k] = columns `column`.. of w [k, n_columns], which begins at that element: in tiles that the cache holds.
 */
static void read_transposed(const struct tensor *source, int64_t begin, int64_t n_columns, int64_t column,
                            int64_t n_rows, int64_t k, float *x, float *tile) {
    for (int64_t first = 0; first < k; first += TILE) {
        const int64_t depth = k - first < TILE ? k - first : TILE;
        for (int64_t i = 0; i < depth; i++)
            dequantize_row(source->type, at_element(source, begin + (first + i) * n_columns + column),
                           tile + i * MAX_ROWS, n_rows);
        for (int64_t row = 0; row < n_rows; row++)
            for (int64_t i = 0; i < depth; i++)
                x[row * k + first + i] = tile[i * MAX_ROWS + row];
    }
}

static int check_numbers(const struct quantize_tensor *tensor, int64_t first_row, int64_t n, const float *x,
                         struct l4_err *err) {
    const float most = tensor->type == DT_F32 || tensor->type == DT_BF16 ? INFINITY : LARGEST_F16;
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(x[i]) <= most) || isinf(x[i])) {
            const int64_t k = row_length(tensor);
            return l4_err_set(err, L4_E_FORMAT, "tensor %s: row %lld, element %lld: %g: expected a number%s",
                              tensor->name, (long long)(first_row + i / k), (long long)(i % k), (double)x[i],
                              most == LARGEST_F16 ? " of at most 65504, the range of float16" : "");
        }
    return 0;
}

static void narrow(enum dtype type, const float *x, void *out, int64_t n) {
    uint16_t *bits = out;
    if (type == DT_F32) {
        memcpy(out, x, (size_t)n * sizeof *x);
    } else if (type == DT_F16 || type == DT_BF16) {
        for (int64_t i = 0; i < n; i++)
            bits[i] = type == DT_F16 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]);
    } else {
        quantize_row(type, x, out, n);
    }
}

static int write_block(const struct job *job, int64_t item, float *scratch, struct l4_err *err) {
    const struct quantize_tensor *tensor = job->tensor;
    const struct tensor *source = &tensor->source;
    const int64_t k = row_length(tensor), slice_rows = rows_a_slice(tensor);
    const int64_t slice = item / job->blocks_a_slice, row = item % job->blocks_a_slice * job->rows;
    const int64_t n_rows = slice_rows - row < job->rows ? slice_rows - row : job->rows, n = n_rows * k;
    const int64_t first_row = slice * slice_rows + row;
    const uint64_t offset = dtype_bytes(tensor->type, first_row * k);
    const size_t n_bytes = dtype_bytes(tensor->type, n);
    float *tile = scratch, *x = tile + TILE * MAX_ROWS, *out = x + job->rows * k;
    if (!tensor->is_transposed && source->type == tensor->type && dtype_block_elements(source->type) > 1)
        return gguf_writer_put(job->writer, job->index, offset, at_element(source, first_row * k), n_bytes, err);
    if (tensor->is_transposed)
        read_transposed(source, slice * source->shape[1] * source->shape[2], source->shape[2],
                        tensor->first_column + row, n_rows, k, x, tile);
    else
        dequantize_row(source->type, at_element(source, first_row * k), x, n);
    int rc = check_numbers(tensor, first_row, n, x, err);
    if (rc != 0)
        return rc;
    narrow(tensor->type, x, out, n);
    return gguf_writer_put(job->writer, job->index, offset, out, n_bytes, err);
}

static void work(void *ctx, int item, int thread) {
    struct job *job = ctx;
    struct l4_err err;
    const int rc = write_block(job, job->first_item + item, pool_scratch(job->pool, thread), &err);
    if (rc != 0 && !atomic_flag_test_and_set(&job->failed)) {
        job->rc = rc;
        job->err = err;
    }
}

/* ------------------------------------------------------------------------------------------------------------------ */

int quantize_tensor_write(const struct quantize_tensor *tensor, struct gguf_writer *writer, size_t index,
                          struct pool *pool, bool (*progress)(void *user, uint64_t bytes), void *user,
                          struct l4_err *err) {
    enum { BLOCKS_A_THREAD = 8 }; /* between two looks at whether to go on */
    struct job job = {.tensor = tensor, .writer = writer, .index = index, .pool = pool, .failed = ATOMIC_FLAG_INIT};
    job.rows = rows_a_block(tensor);
    job.blocks_a_slice = (rows_a_slice(tensor) + job.rows - 1) / job.rows;
    const int64_t n_items = n_slices(tensor) * job.blocks_a_slice, most = BLOCKS_A_THREAD * pool_n_threads(pool);
    const uint64_t bytes =
        (uint64_t)dtype_bytes(tensor->type, n_slices(tensor) * rows_a_slice(tensor) * row_length(tensor));
    for (; job.first_item < n_items; job.first_item += most) {
        const int64_t n = n_items - job.first_item < most ? n_items - job.first_item : most;
        pool_for(pool, (int)n, work, &job);
        if (job.rc != 0) {
            if (err != NULL)
                *err = job.err;
            return job.rc;
        }
        if (progress != NULL && !progress(user, bytes / (uint64_t)n_items * (uint64_t)n))
            return l4_err_set(err, L4_E_CANCELLED, "stopped");
    }
    return 0;
}
