#include "llama4/quantize.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/cpus.h"
#include "core/quantize_internal.h"
#include "core/text/tokenizer.h"
#include "llama4/buf.h"

enum { QUANTIZATION_VERSION = 2, MAX_THREADS = 1024 };

/* file_type: what general.file_type says of such a file.  Source: the ggml repository's description of GGUF. */
static const struct {
    enum dtype type;
    uint32_t file_type;
} TYPES[] = {{DT_Q8_0, 7}, {DT_Q4_0, 2}, {DT_Q4_K, 14}, {DT_BF16, 32}, {DT_F16, 1}, {DT_F32, 0}};
static const char *const TYPE_NAMES[] = {"q8_0", "q4_0", "q4_k", "bf16", "f16", "f32", NULL};

const char *const *l4_quantize_types(void) {
    return TYPE_NAMES;
}

struct run {
    const struct l4_quantize_options *options;
    int type; /* a row of TYPES */
    struct checkpoint *checkpoint;
    struct quantize_plan plan;
    struct gguf_writer *writer;
    struct pool *pool;
    uint64_t done_bytes, total_bytes;
    bool has_tokenizer;
};

/* ---- what is asked for ------------------------------------------------------------------------------------------- */

static int find_type(int *type, const char *name, struct l4_err *err) {
    struct l4_buf list = {0};
    for (int i = 0; TYPE_NAMES[i] != NULL; i++) {
        l4_buf_printf(&list, "%s%s", i > 0 ? ", " : "", TYPE_NAMES[i]);
        if (strcmp(TYPE_NAMES[i], name) == 0) {
            *type = i;
            l4_buf_free(&list);
            return 0;
        }
    }
    const int rc =
        l4_err_set(err, L4_E_INVALID, "type '%s' is unknown; valid are: %s", name, list.data != NULL ? list.data : "");
    l4_buf_free(&list);
    return rc;
}

static int check_options(const struct l4_quantize_options *options, int *type, struct l4_err *err) {
    static const char suffix[] = ".gguf";
    const size_t length = strlen(options->target), n = sizeof suffix - 1;
    int rc = find_type(type, options->type, err);
    if (rc != 0)
        return rc;
    if (length <= n || strcmp(options->target + length - n, suffix) != 0)
        return l4_err_set(err, L4_E_INVALID, "%s: the name of the file to write must end in .gguf", options->target);
    if (options->threads < 0 || options->threads > MAX_THREADS)
        return l4_err_set(err, L4_E_INVALID, "threads is %d: allowed are 0 to %d", options->threads, MAX_THREADS);
    return 0;
}

/* ---- metadata ---------------------------------------------------------------------------------------------------- */

/* What describes the model; not what describes the file that it came from. */
static bool is_kept(struct gguf_text key) {
    static const char *const dropped[] = {"general.alignment", "general.file_type", "general.quantization_version",
                                          "quantize.", "split."};
    for (size_t i = 0; i < sizeof dropped / sizeof dropped[0]; i++) {
        const size_t n = strlen(dropped[i]);
        const bool is_prefix = dropped[i][n - 1] == '.';
        if (key.len_bytes >= n && memcmp(key.data, dropped[i], n) == 0 && (is_prefix || key.len_bytes == n))
            return false;
    }
    return true;
}

/* The directory's own name, whatever the path to it looks like. */
static int write_model_keys(const struct run *run, struct l4_err *err) {
    const char *path = run->options->source;
    char *real = realpath(path, NULL);
    const char *full = real != NULL ? real : path, *slash = strrchr(full, '/');
    const int rc = model_config_write_gguf(checkpoint_config(run->checkpoint), run->writer,
                                           slash != NULL && slash[1] != '\0' ? slash + 1 : full, path, err);
    free(real);
    return rc;
}

static int write_tokenizer(struct run *run, struct l4_err *err) {
    struct l4_tokenizer *tokenizer;
    const char *path = checkpoint_tokenizer_path(run->checkpoint);
    run->has_tokenizer = path != NULL;
    if (path == NULL)
        return 0;
    int rc = l4_tokenizer_open(&tokenizer, path, err);
    if (rc != 0)
        return rc;
    rc = tokenizer_write_gguf(tokenizer, checkpoint_config(run->checkpoint), run->options->source, run->writer, err);
    l4_tokenizer_close(tokenizer);
    return rc;
}

static int write_metadata(struct run *run, struct l4_err *err) {
    const struct gguf *gguf = checkpoint_gguf(run->checkpoint);
    int rc = 0;
    if (gguf != NULL) {
        gguf_write_keys_of(run->writer, gguf, is_kept);
        run->has_tokenizer = checkpoint_tokenizer_path(run->checkpoint) != NULL;
    } else {
        rc = write_model_keys(run, err);
        if (rc == 0)
            rc = write_tokenizer(run, err);
    }
    gguf_write_u32(run->writer, "general.quantization_version", QUANTIZATION_VERSION);
    gguf_write_u32(run->writer, "general.file_type", TYPES[run->type].file_type);
    return rc;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

static bool on_progress(void *user, uint64_t bytes) {
    struct run *run = user;
    run->done_bytes += bytes;
    return run->options->progress == NULL ||
           run->options->progress(run->options->user, (double)run->done_bytes / (double)run->total_bytes);
}

static int write_tensors(struct run *run, struct l4_err *err) {
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < run->plan.n_tensors; i++)
        rc = quantize_tensor_write(&run->plan.tensors[i], run->writer, i, run->pool, on_progress, run, err);
    return rc;
}

/* By whatever name: a link would do. */
static bool is_source(const struct checkpoint *checkpoint, const char *path) {
    const struct file_mapping *file;
    struct stat target, part;
    if (stat(path, &target) != 0)
        return false;
    for (size_t i = 0; (file = checkpoint_mapping(checkpoint, i)) != NULL; i++)
        if (stat(file->path, &part) == 0 && part.st_dev == target.st_dev && part.st_ino == target.st_ino)
            return true;
    return false;
}

static int open_all(struct run *run, struct l4_err *err) {
    const struct l4_quantize_options *options = run->options;
    const int n_threads = options->threads > 0 ? options->threads : cpu_threads_auto();
    int rc = checkpoint_open(&run->checkpoint, options->source, NULL, NULL, err);
    if (rc == 0 && is_source(run->checkpoint, options->target))
        rc = l4_err_set(err, L4_E_INVALID, "%s: is the source itself", options->target);
    if (rc == 0)
        rc = gguf_writer_open(&run->writer, options->target, options->overwrite, err);
    if (rc == 0)
        rc = quantize_plan_init(&run->plan, run->checkpoint, TYPES[run->type].type, err);
    if (rc == 0)
        rc = pool_open(&run->pool, n_threads, quantize_scratch_bytes(&run->plan), err);
    for (size_t i = 0; rc == 0 && i < run->plan.n_tensors; i++) {
        const struct quantize_tensor *tensor = &run->plan.tensors[i];
        rc = gguf_write_tensor(run->writer, tensor->name, tensor->type, tensor->n_dims, tensor->shape, err);
    }
    return rc;
}

static int quantize(struct run *run, struct l4_err *err) {
    int rc = open_all(run, err);
    if (rc == 0)
        rc = write_metadata(run, err);
    if (rc == 0)
        rc = gguf_writer_begin(run->writer, &run->total_bytes, err);
    if (rc == 0)
        rc = write_tensors(run, err);
    if (rc == 0)
        rc = gguf_writer_commit(run->writer, err);
    if (rc == 0 && run->options->progress != NULL)
        (void)run->options->progress(run->options->user, 1);
    return rc;
}

static void fill_result(const struct run *run, struct l4_quantize_result *result) {
    *result = (struct l4_quantize_result){.n_tensors = (int64_t)run->plan.n_tensors,
                                          .target_bytes = run->total_bytes,
                                          .has_tokenizer = run->has_tokenizer};
    for (int type = 0; type < DT_COUNT; type++)
        result->source_bytes += checkpoint_bytes_of_type(run->checkpoint, (enum dtype)type);
    for (size_t i = 0; i < run->plan.n_tensors; i++) {
        const struct quantize_tensor *tensor = &run->plan.tensors[i];
        result->n_fallback += tensor->is_fallback;
        result->n_requantized += dtype_block_elements(tensor->source.type) > 1 &&
                                 dtype_block_elements(tensor->type) > 1 && tensor->source.type != tensor->type;
    }
}

int l4_quantize(const struct l4_quantize_options *options, struct l4_quantize_result *result, struct l4_err *err) {
    struct run run = {.options = options};
    int rc = check_options(options, &run.type, err);
    if (rc == 0)
        rc = quantize(&run, err);
    if (rc == 0 && result != NULL)
        fill_result(&run, result);
    gguf_writer_close(run.writer);
    pool_close(run.pool);
    quantize_plan_fini(&run.plan);
    checkpoint_close(run.checkpoint);
    return rc;
}
