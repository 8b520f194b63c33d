/* l4_quantize: the file is what another engine's quantizer makes of the same model, whatever it is made from; what
 * cannot be written is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/format/dequant.h"
#include "core/format/gguf_internal.h"
#include "core/format/safetensors.h"
#include "llama4/quantize.h"
#include "tests/lib/failmalloc.h"
#include "tests/lib/sanitized.h"
#include "tests/lib/session.h"
#include "tests/lib/tempdir.h"

static const char DEMO[] = "tests/models/demo", DEMO_Q4_0[] = "tests/models/demo-Q4_0.gguf";
static struct tempdir dir;

static int setup(void **state) {
    (void)state;
    tempdir_init(&dir);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    tempdir_fini(&dir);
    return 0;
}

static struct l4_quantize_result quantize(const char *source, const char *target, const char *type) {
    const struct l4_quantize_options options = {
        .source = source, .target = target, .type = type, .overwrite = true, .threads = 2};
    struct l4_quantize_result result;
    struct l4_err err;
    if (l4_quantize(&options, &result, &err) != 0)
        fail_msg("%s", err.message);
    return result;
}

/* Refused with that code and these words, and no file is left. */
static void refuse(const struct l4_quantize_options *options, int code, const char *words) {
    struct l4_err err;
    assert_int_equal(l4_quantize(options, NULL, &err), code);
    if (strstr(err.message, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.message, words);
    DIR *entries = opendir(dir.path);
    const struct dirent *entry;
    assert_non_null(entries);
    while ((entry = readdir(entries)) != NULL)
        assert_null(strstr(entry->d_name, ".gguf.tmp"));
    closedir(entries);
    assert_true(access(tempdir_file(&dir, "out.gguf"), F_OK) != 0);
}

static struct gguf *open_gguf(const char *path) {
    struct gguf *gguf;
    struct l4_err err;
    if (gguf_open(&gguf, path, &err) != 0)
        fail_msg("%s", err.message);
    return gguf;
}

/* ---- the same file as another engine's --------------------------------------------------------------------------- */

static int by_place(const void *a, const void *b) {
    const struct gguf_entry *x = a, *y = b;
    return (x->key.data > y->key.data) - (x->key.data < y->key.data);
}

static int by_offset(const void *a, const void *b) {
    const struct gguf_tensor_entry *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static void sort_as_in_file(struct gguf *gguf) {
    qsort(gguf->entries, gguf->n_entries, sizeof *gguf->entries, by_place);
    qsort(gguf->tensors, gguf->n_tensors, sizeof *gguf->tensors, by_offset);
}

static bool same_text(struct gguf_text a, struct gguf_text b) {
    return gguf_compare_text(a, b) == 0;
}

/* Number, order, names, types and bytes of all keys; but the name is that of the directory. */
static void same_keys(const struct gguf *ours, const struct gguf *theirs) {
    char shown[JSON_SHOWN_BYTES];
    assert_int_equal(ours->n_entries, theirs->n_entries);
    for (size_t i = 0; i < ours->n_entries; i++) {
        const struct gguf_value *a = &ours->entries[i].value, *b = &theirs->entries[i].value;
        const char *key = gguf_show_text(shown, theirs->entries[i].key);
        if (!same_text(ours->entries[i].key, theirs->entries[i].key) || a->type != b->type)
            fail_msg("key %zu is not %s of type %s", i, key, gguf_type_name(b->type));
        if (strcmp(key, "general.name") == 0) {
            assert_true(gguf_text_is((struct gguf_text){(const char *)a->data, a->n}, "demo"));
            continue;
        }
        const size_t step = a->type == GGUF_ARRAY ? gguf_type_bytes(a->element) : gguf_type_bytes(a->type);
        if (a->n != b->n || a->element != b->element)
            fail_msg("%s: %llu elements", key, (unsigned long long)a->n);
        if (a->type == GGUF_ARRAY && a->element == GGUF_STRING) {
            struct gguf_array x = {.n = a->n, .type = GGUF_STRING, .next = a->data}, y = x;
            struct gguf_text text, want;
            y.next = b->data;
            while (gguf_next_string(&y, &want))
                assert_true(gguf_next_string(&x, &text) && same_text(text, want));
        } else {
            assert_memory_equal(a->data, b->data,
                                a->type == GGUF_STRING ? a->n : step * (a->type == GGUF_ARRAY ? a->n : 1));
        }
    }
}

static double error_of(const struct tensor *tensor, const float *want) {
    const int64_t n = tensor_elements(tensor);
    float *x = malloc((size_t)n * sizeof *x);
    double error = 0;
    assert_non_null(x);
    dequantize_row(tensor->type, tensor->data, x, n);
    for (int64_t i = 0; i < n; i++)
        error += ((double)x[i] - (double)want[i]) * ((double)x[i] - (double)want[i]);
    free(x);
    return sqrt(error);
}

/* Q6_K is a search: as good, not the same. */
static void as_good_output(const struct tensor *ours, const struct tensor *theirs) {
    struct safetensors *original;
    assert_int_equal(safetensors_open(&original, "tests/models/demo/model-00002-of-00002.safetensors", NULL), 0);
    const struct tensor *from = safetensors_find(original, "lm_head.weight");
    const int64_t n = tensor_elements(from);
    float *want = malloc((size_t)n * sizeof *want);
    assert_non_null(want);
    dequantize_row(from->type, from->data, want, n);
    const double error = error_of(ours, want), of_theirs = error_of(theirs, want);
    print_message("           output.weight, Q6_K: error %.4f, the other quantizer's %.4f\n", error, of_theirs);
    assert_true(error <= 1.02 * of_theirs);
    free(want);
    safetensors_close(original);
}

static void same_as_another_engines(void **state) {
    (void)state;
    const char *path = tempdir_file(&dir, "demo.gguf");
    const struct l4_quantize_result result = quantize(DEMO, path, "q4_0");
    assert_int_equal(result.n_tensors, 91);
    assert_true(result.has_tokenizer && result.n_fallback == 0 && result.n_requantized == 0);
    struct gguf *ours = open_gguf(path), *theirs = open_gguf(DEMO_Q4_0);
    sort_as_in_file(ours);
    sort_as_in_file(theirs);
    same_keys(ours, theirs);
    assert_int_equal(ours->n_tensors, theirs->n_tensors);
    for (size_t i = 0; i < ours->n_tensors; i++) {
        char shown[JSON_SHOWN_BYTES];
        const struct gguf_tensor_entry *a = &ours->tensors[i], *b = &theirs->tensors[i];
        const char *name = gguf_show_text(shown, b->name);
        if (!same_text(a->name, b->name) || a->tensor.type != b->tensor.type || a->tensor.n_dims != b->tensor.n_dims ||
            a->offset != b->offset)
            fail_msg("tensor %zu is not %s, or of another type or place", i, name);
        for (int d = 0; d < a->tensor.n_dims; d++)
            assert_int_equal(a->tensor.shape[d], b->tensor.shape[d]);
        if (a->tensor.type == DT_Q6_K)
            as_good_output(&a->tensor, &b->tensor);
        else if (memcmp(a->tensor.data, b->tensor.data, a->tensor.size_bytes) != 0)
            fail_msg("%s: other bytes", name);
    }
    gguf_close(ours);
    gguf_close(theirs);
    unlink(path);
}

static bool same_files(const char *a, const char *b) {
    const char *paths[] = {a, b};
    char *bytes[2];
    size_t n[2];
    for (int i = 0; i < 2; i++) {
        struct stat st;
        FILE *file = fopen(paths[i], "rb");
        assert_true(file != NULL && stat(paths[i], &st) == 0);
        bytes[i] = malloc((size_t)st.st_size);
        assert_non_null(bytes[i]);
        n[i] = fread(bytes[i], 1, (size_t)st.st_size, file);
        fclose(file);
    }
    const bool same = n[0] == n[1] && memcmp(bytes[0], bytes[1], n[0]) == 0;
    free(bytes[0]);
    free(bytes[1]);
    return same;
}

/* A GGUF source: what has its type already is not touched, and floats lose nothing on the way. */
static void gguf_sources(void **state) {
    (void)state;
    const char *again = tempdir_file(&dir, "again.gguf"), *bf16 = tempdir_file(&dir, "demo.gguf");
    const char *direct = tempdir_file(&dir, "direct.gguf");
    quantize(DEMO_Q4_0, again, "q4_0");
    assert_true(same_files(again, DEMO_Q4_0));
    quantize(DEMO, bf16, "bf16");
    static const char *const types[] = {"q8_0", SANITIZED ? "q4_0" : "q4_k"}; /* whose search takes its time */
    for (size_t i = 0; i < 2; i++) {
        quantize(bf16, again, types[i]);
        quantize(DEMO, direct, types[i]);
        assert_true(same_files(again, direct));
    }
    const struct l4_quantize_result result = quantize(DEMO_Q4_0, again, "q8_0");
    assert_int_equal(result.n_requantized, 54); /* all matrices but keys and values, which are Q8_0, and routers */
    unlink(again);
    unlink(bf16);
    unlink(direct);
}

/* Any number of threads, any cut into blocks of rows. */
static void threads_do_not_matter(void **state) {
    (void)state;
    const char *one = tempdir_file(&dir, "one.gguf"), *three = tempdir_file(&dir, "three.gguf");
    struct l4_quantize_options options = {
        .source = DEMO, .target = one, .type = SANITIZED ? "q4_0" : "q4_k", .threads = 1};
    assert_int_equal(l4_quantize(&options, NULL, NULL), 0);
    options.target = three;
    options.threads = 3;
    assert_int_equal(l4_quantize(&options, NULL, NULL), 0);
    assert_true(same_files(one, three));
    unlink(one);
    unlink(three);
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

struct answer {
    struct l4_buf text;
    bool ended;
};

static void take_event(void *user, const struct l4_event *event) {
    struct answer *answer = user;
    assert_int_not_equal(event->type, L4_EVENT_ERROR);
    if (event->text_bytes > 0)
        l4_buf_append(&answer->text, event->text, event->text_bytes);
    answer->ended = event->type == L4_EVENT_DONE;
}

static void it_still_knows_paris(void **state) {
    (void)state;
    static const char *const types[] = {"q8_0", "q4_0", SANITIZED ? "bf16" : "q4_k", "f16"};
    const char *path = tempdir_file(&dir, "demo.gguf");
    const struct l4_message message = {.role = "user", .content = {"What is the capital of France?", 30}};
    const struct l4_chat chat = {.messages = &message, .n_messages = 1, .add_generation_prompt = true};
    for (size_t i = 0; i < 4; i++) {
        struct session session;
        struct l4_engine_options options;
        struct l4_tokens prompt = {0};
        struct answer answer = {0};
        uint64_t id;
        struct l4_err err;
        quantize(DEMO, path, types[i]);
        l4_engine_options_init(&options);
        options.model = path;
        options.threads = 2;
        if (session_open(&session, &options, NULL, &err) != 0)
            fail_msg("%s", err.message);
        assert_int_equal(l4_chat_encode(l4_engine_tokenizer(session.engine), &chat, &prompt, NULL, NULL), 0);
        struct l4_request request = {.prompt = prompt.ids, .n_prompt = prompt.len, .max_tokens = 32, .user = &answer};
        l4_sampling_init(&request.sampling);
        request.sampling.temperature = 0;
        assert_int_equal(l4_engine_submit(session.engine, &request, &id, NULL), 0);
        while (!answer.ended)
            session_wait(&session, take_event);
        assert_string_equal(answer.text.data, "The capital of France is Paris.");
        session_close(&session);
        l4_tokens_free(&prompt);
        l4_buf_free(&answer.text);
    }
    unlink(path);
}

/* ---- other shapes ------------------------------------------------------------------------------------------------ */

/* DIR/hf: a copy of a model (its safetensors linked) whose config.json, or tokenizer.json, went through sed. */
static const char *edited(const char *model, const char *file, const char *script) {
    char command[1024];
    const char *path = tempdir_file(&dir, "hf");
    assert_true(snprintf(command, sizeof command,
                         "rm -rf %s && mkdir %s && cp -r %s/* %s/ && chmod -R u+w %s && sed -i -E '%s' %s/%s", path,
                         path, model, path, path, script, path, file) < (int)sizeof command);
    assert_int_equal(system(command), 0); /* NOLINT: fixed words and a path of our own */
    return path;
}

#define CONVENTIONS                                                                                                    \
    "s/(\"attention_chunk_size\": )[0-9]+/\\18192/; s/(\"floor_scale\": )[0-9.]+/\\18192/; "                           \
    "s/(\"attn_temperature_tuning\": )false/\\1true/"

static void expect_type(const struct gguf *gguf, const char *name, enum dtype type) {
    const struct tensor *tensor = gguf_find_tensor(gguf, name, NULL);
    if (tensor == NULL || tensor->type != type)
        fail_msg("%s: expected %s, found %s", name, dtype_name(type), tensor ? dtype_name(tensor->type) : "nothing");
}

/* Rows of 48 are no whole number of blocks, rows of 64 are two blocks of 32 but none of 256. */
static void rows_that_do_not_fit(void **state) {
    (void)state;
    const char *path = tempdir_file(&dir, "scout.gguf");
    struct l4_quantize_result result =
        quantize(edited("tests/fixtures/scout", "config.json", CONVENTIONS), path, "q4_k");
    assert_false(result.has_tokenizer);
    assert_int_equal(result.n_fallback, 2 + 5 * 10); /* output, token_embd; all of a layer but vectors and router */
    struct gguf *gguf = open_gguf(path);
    expect_type(gguf, "token_embd.weight", DT_F16);
    expect_type(gguf, "output.weight", DT_F16);
    expect_type(gguf, "output_norm.weight", DT_F32);
    expect_type(gguf, "rope_freqs.weight", DT_F32);
    expect_type(gguf, "blk.0.attn_q.weight", DT_F16);
    expect_type(gguf, "blk.0.attn_output.weight", DT_Q8_0);
    expect_type(gguf, "blk.0.ffn_gate_exps.weight", DT_F16);
    expect_type(gguf, "blk.0.ffn_down_exps.weight", DT_Q8_0);
    expect_type(gguf, "blk.0.ffn_gate_inp.weight", DT_F32);
    gguf_close(gguf);
    unlink(path);
}

/* Tied embeddings are the output matrix, biases stay F32. */
static void tied_embeddings_and_biases(void **state) {
    (void)state;
    const char *path = tempdir_file(&dir, "top2.gguf");
    quantize(edited("tests/fixtures/top2", "config.json", CONVENTIONS), path, "q8_0");
    struct gguf *gguf = open_gguf(path);
    assert_null(gguf_find_tensor(gguf, "output.weight", NULL));
    expect_type(gguf, "blk.0.attn_q.bias", DT_F32);
    expect_type(gguf, "blk.0.attn_output.bias", DT_F32);
    gguf_close(gguf);
    unlink(path);
}

/* Of a multimodal checkpoint the text half. */
static void vision_is_left_out(void **state) {
    (void)state;
    const char *path = tempdir_file(&dir, "text.gguf");
    assert_int_equal(quantize(edited("tests/fixtures/multimodal", "config.json", CONVENTIONS), path, "bf16").n_tensors,
                     3 + 2 * 13);
    struct checkpoint *checkpoint;
    assert_int_equal(checkpoint_open(&checkpoint, path, NULL, NULL, NULL), 0);
    assert_int_equal(checkpoint_config(checkpoint)->n_layers, 2);
    checkpoint_close(checkpoint);
    unlink(path);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void bad_arguments(void **state) {
    (void)state;
    struct l4_quantize_options options = {.source = DEMO, .target = tempdir_file(&dir, "out.gguf"), .type = "q5_1"};
    refuse(&options, L4_E_INVALID, "type 'q5_1' is unknown; valid are: q8_0, q4_0, q4_k, bf16, f16, f32");
    options.type = "q8_0";
    options.threads = -1;
    refuse(&options, L4_E_INVALID, "threads is -1: allowed are 0 to ");
    options.threads = 1;
    options.source = "tests/models/none";
    refuse(&options, L4_E_NOT_FOUND, "tests/models/none");
    options.source = "tests/models/none.gguf";
    refuse(&options, L4_E_NOT_FOUND, "tests/models/none.gguf");
    options.source = "tests/models/demo/config.json";
    refuse(&options, L4_E_FORMAT, "config.json: not a GGUF file");
    options.source = DEMO;
    options.target = tempdir_file(&dir, "out");
    refuse(&options, L4_E_INVALID, "/out: the name of the file to write must end in .gguf");
    options.target = tempdir_file(&dir, "none/out.gguf");
    refuse(&options, L4_E_NOT_FOUND, "none/out.gguf: its directory does not exist");
    options.target = tempdir_puts(&dir, "taken.gguf", "precious");
    refuse(&options, L4_E_INVALID, "taken.gguf: is there already and is not overwritten");
    unlink(options.target);
    const char *copy = tempdir_file(&dir, "copy.gguf");
    quantize(DEMO_Q4_0, copy, "q4_0");
    options = (struct l4_quantize_options){.source = copy, .target = copy, .type = "q8_0", .overwrite = true};
    refuse(&options, L4_E_INVALID, "copy.gguf: is the source itself");
    options.target = tempdir_file(&dir, "link.gguf");
    assert_int_equal(symlink(copy, options.target), 0);
    refuse(&options, L4_E_INVALID, "link.gguf: is the source itself");
    unlink(options.target);
    unlink(copy);
}

/* What GGUF has no key for must be as every reader takes it to be. */
static void what_gguf_cannot_say(void **state) {
    (void)state;
    static const struct {
        const char *file, *script, *words;
    } cases[] = {
        {"config.json", "s/(\"attention_chunk_size\": )8192/\\14096/", "attention_chunk_size is 4096: a GGUF file"},
        {"config.json", "s/(\"attn_temperature_tuning\": )true/\\1false/", "attn_temperature_tuning is 0"},
        {"config.json", "s/(\"floor_scale\": )8192/\\14096/", "floor_scale is 4096"},
        {"config.json", "s/(\"attn_scale\": )0.1/\\10.2/", "attn_scale is 0.2"},
        {"config.json", "s/(\"use_qk_norm\": )true/\\1false/", "use_qk_norm is 0"},
        {"config.json", "s/(\"max_position_embeddings\": )8192/\\15000000000/",
         "max_position_embeddings is 5000000000"},
        {"config.json", "s/\"no_rope_layers\"/\"-\"/; s/(\"no_rope_layer_interval\": )4/\\12/",
         "layer 1 is without RoPE"},
        {"config.json", "s/\"full_attention\"/\"chunked_attention\"/", "layer 3 is without RoPE and with chunks"},
        {"tokenizer.json", "s/(\"ignore_merges\": )true/\\1false/", "ignore_merges is false"},
        {"tokenizer.json", "s/\\{1,3\\}/{1,4}/", "can only say Llama 4.s regular expression"},
        {"tokenizer_config.json", "s/\\{/[/", "tokenizer_config.json: not JSON"},
    };
    struct l4_quantize_options options = {.target = tempdir_file(&dir, "out.gguf"), .type = "q8_0", .threads = 1};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char words[128];
        options.source = edited(DEMO, cases[i].file, cases[i].script);
        snprintf(words, sizeof words, "%s", cases[i].words);
        struct l4_err err;
        const int rc = l4_quantize(&options, NULL, &err);
        char *quote = strstr(words, "4.s");
        if (quote != NULL)
            quote[1] = '\'';
        if (rc != L4_E_UNSUPPORTED && rc != L4_E_FORMAT)
            fail_msg("%s: %d", cases[i].script, rc);
        refuse(&options, rc, words);
    }
}

/* A checkpoint whose first norm, or first matrix, holds one number that is none, or too large. */
static void bad_numbers(void **state) {
    (void)state;
    static const struct {
        uint32_t bits;
        const char *type, *words;
    } cases[] = {
        {0x7fc00000, "f32", "tensor token_embd.weight: row 3, element 5: nan: expected a number"},
        {0xff800000, "q8_0", "tensor token_embd.weight: row 3, element 5: -inf: expected a number of at most 65504"},
        {0x47c35000, "f16", "tensor token_embd.weight: row 3, element 5: 100000: expected a number of at most 65504"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct safetensors *file;
        char path[256];
        const char *hf = edited("tests/fixtures/scout", "config.json", CONVENTIONS);
        snprintf(path, sizeof path, "%s/model.safetensors", hf);
        assert_int_equal(safetensors_open(&file, path, NULL), 0);
        const struct tensor *tensor = safetensors_find(file, "model.embed_tokens.weight");
        assert_true(tensor != NULL && tensor->type == DT_F32);
        char *copy = malloc(tensor->size_bytes);
        assert_non_null(copy);
        memcpy(copy, tensor->data, tensor->size_bytes);
        FILE *out = fopen(path, "r+b");
        assert_non_null(out);
        /* where the tensor lies: its first bytes, which are like no others */
        char *bytes = malloc(4 << 20);
        assert_non_null(bytes);
        const size_t n = fread(bytes, 1, 4 << 20, out);
        const char *at = memmem(bytes, n, copy, 256);
        assert_non_null(at);
        assert_int_equal(fseek(out, (long)(at - bytes) + 4 * (3 * tensor->shape[1] + 5), SEEK_SET), 0);
        assert_int_equal(fwrite(&cases[i].bits, 4, 1, out), 1);
        fclose(out);
        free(bytes);
        free(copy);
        safetensors_close(file);
        refuse(
            &(struct l4_quantize_options){
                .source = hf, .target = tempdir_file(&dir, "out.gguf"), .type = cases[i].type, .threads = 2},
            L4_E_FORMAT, cases[i].words);
    }
}

/* ---- stopping ---------------------------------------------------------------------------------------------------- */

struct watch {
    double last;
    int calls, until;
};

static bool watch_progress(void *user, double fraction) {
    struct watch *watch = user;
    assert_true(fraction >= watch->last && fraction <= 1);
    watch->last = fraction;
    return ++watch->calls != watch->until;
}

static void progress_and_stopping(void **state) {
    (void)state;
    struct watch watch = {0};
    struct l4_quantize_options options = {.source = DEMO,
                                          .target = tempdir_file(&dir, "out.gguf"),
                                          .type = "q8_0",
                                          .threads = 2,
                                          .progress = watch_progress,
                                          .user = &watch};
    assert_int_equal(l4_quantize(&options, NULL, NULL), 0);
    assert_true(watch.last == 1 && watch.calls > 90);
    unlink(options.target);
    watch = (struct watch){.until = 20};
    refuse(&options, L4_E_CANCELLED, "stopped");
    assert_int_equal(watch.calls, 20);
}

static void out_of_memory(void **state) {
    (void)state;
    struct l4_quantize_options options = {
        .source = DEMO_Q4_0, .target = tempdir_file(&dir, "out.gguf"), .type = "q4_0", .threads = 1};
    FAILMALLOC_EACH(n) {
        const int rc = l4_quantize(&options, NULL, NULL);
        failmalloc_disarm();
        assert_true(rc == 0 || rc == L4_E_NOMEM);
        assert_true((access(options.target, F_OK) == 0) == (rc == 0));
        unlink(options.target);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_as_another_engines), cmocka_unit_test(gguf_sources),
        cmocka_unit_test(threads_do_not_matter),   cmocka_unit_test(it_still_knows_paris),
        cmocka_unit_test(rows_that_do_not_fit),    cmocka_unit_test(tied_embeddings_and_biases),
        cmocka_unit_test(vision_is_left_out),      cmocka_unit_test(bad_arguments),
        cmocka_unit_test(what_gguf_cannot_say),    cmocka_unit_test(bad_numbers),
        cmocka_unit_test(progress_and_stopping),   cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
