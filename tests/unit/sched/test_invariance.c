/* What a request gets depends on the request alone.
 *
 * 64 requests of mixed lengths, greedy and sampled, run alone, one after the other, without a prefix cache; then all
 * together: arriving in random order and at random times, their prompts cut into random chunks, with sequences set back
 * at random and for want of pages, with a prefix cache and without one; some of the prompts begin alike, and of some an
 * embedding is wanted.  Tokens, text, ends, embeddings and all log-probabilities must be the same, bit for bit, for
 * every batch-invariant experts backend, with one thread and with two, on F32, BF16, Q8_0, Q4_0 and Q4_K weights, and
 * with every type of KV cache; where arithmetic is not batch-invariant (eager, gemm = openblas), log-probabilities and
 * embeddings agree to 1e-4.  A kernel that is broken on purpose must be found out by the very same comparison.
 *
 * Built with a sanitizer, which makes everything ten to a hundred times slower, 16 shorter requests run instead of 64,
 * and the demo model with the default settings only; the small fixtures still go through every combination. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/format/safetensors.h"
#include "llama4/quantize.h"
#include "tests/lib/sanitized.h"
#include "tests/lib/session.h"
#include "tests/lib/tempdir.h"

#if SANITIZED
enum { N_REQUESTS = 16, MAX_PROMPT = 70, MAX_ANSWER = 20, WHOLE = 0 };
#else
enum { N_REQUESTS = 64, MAX_PROMPT = 160, MAX_ANSWER = 40, WHOLE = 1 };
#endif
enum { N_TOP = 3, CONTEXT = 256, MAX_CHUNK = 48, MAX_HIDDEN = 256 };
static const double LOGPROB_TOLERANCE = 1e-4;

/* Random numbers from a fixed seed. */
struct random {
    uint64_t state;
};
static uint32_t random_below(struct random *random, uint32_t n) {
    random->state = random->state * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)((random->state >> 33) % n);
}

/* ---- requests and answers ------------------------------------------------------------------------------------- */

struct answer {
    int32_t ids[MAX_ANSWER];
    float logprobs[MAX_ANSWER];
    struct l4_logprob top[MAX_ANSWER][N_TOP];
    int n_ids;
    float prompt_logprobs[MAX_PROMPT];
    int n_prompt;
    float embedding[MAX_HIDDEN];
    int n_embedding;
    char text[MAX_ANSWER * 64];
    size_t text_bytes;
    enum l4_finish finish;
    int stop_index;
    int32_t stop_token;
    bool ended;
};

static void take_event(void *user, const struct l4_event *event) {
    struct answer *answer = user;
    assert_false(answer->ended);
    assert_int_not_equal(event->type, L4_EVENT_ERROR);
    if (event->type == L4_EVENT_PROMPT) {
        assert_true(answer->n_prompt < MAX_PROMPT);
        answer->prompt_logprobs[answer->n_prompt++] = event->token.logprob;
        return;
    }
    if (event->type == L4_EVENT_EMBEDDING) {
        assert_in_range(event->n_embedding, 1, MAX_HIDDEN);
        answer->n_embedding = event->n_embedding;
        memcpy(answer->embedding, event->embedding, (size_t)event->n_embedding * sizeof(float));
        return;
    }
    if (event->type == L4_EVENT_TOKEN) {
        assert_true(answer->n_ids < MAX_ANSWER && event->n_top == N_TOP);
        answer->ids[answer->n_ids] = event->token.id;
        answer->logprobs[answer->n_ids] = event->token.logprob;
        memcpy(answer->top[answer->n_ids++], event->top, sizeof answer->top[0]);
    }
    assert_true(answer->text_bytes + event->text_bytes < sizeof answer->text);
    if (event->text_bytes > 0)
        memcpy(answer->text + answer->text_bytes, event->text, event->text_bytes);
    answer->text_bytes += event->text_bytes;
    if (event->type == L4_EVENT_DONE) {
        answer->finish = event->finish;
        answer->stop_index = event->stop_index;
        answer->stop_token = event->stop_token;
        answer->ended = true;
    }
}

/* Request i of a model: the same whenever it is asked for.  Lengths lean towards short ones. */
static void submit(struct session *session, int i, struct answer *answer) {
    struct random random = {(uint64_t)i * 977 + 5};
    struct l4_engine_info info;
    l4_engine_info(session->engine, &info);
    int32_t prompt[MAX_PROMPT];
    uint32_t n = 1 + random_below(&random, random_below(&random, 4) == 0 ? MAX_PROMPT : MAX_PROMPT / 4);
    bool begins_like_others = i % 3 == 1 || (SANITIZED && i % 3 == 2); /* of few requests many, so that some meet */
    if (begins_like_others)
        n = 1 + KV_PAGE_TOKENS + random_below(&random, MAX_PROMPT - KV_PAGE_TOKENS);
    struct random common = {(uint64_t)i % 2};
    for (uint32_t j = 0; j < n; j++)
        prompt[j] = (int32_t)random_below(begins_like_others && j < 2 * KV_PAGE_TOKENS ? &common : &random,
                                          (uint32_t)info.vocab_size);
    const struct l4_text stop = {"the", 3};
    const struct l4_logit_bias bias = {prompt[0], 1.5F};
    struct l4_request request = {
        .prompt = prompt,
        .n_prompt = n,
        .max_tokens = 1 + random_below(&random, MAX_ANSWER),
        .ignore_eos = i % 8 != 0,
        .logprobs = true,
        .n_top_logprobs = N_TOP,
        .prompt_logprobs = i % 5 == 0,
        .embed = i % 9 == 4,
        .user = answer,
    };
    l4_sampling_init(&request.sampling);
    request.sampling.temperature = i % 2 == 0 ? 0.0F : 1.0F;
    request.sampling.seed = (uint64_t)i * 31;
    if (i % 6 == 1)
        request.sampling.top_p = 0.9F;
    if (i % 6 == 3) {
        request.sampling.top_k = 40;
        request.sampling.repetition_penalty = 1.2F;
        request.sampling.frequency_penalty = 0.3F;
    }
    if (i % 7 == 2) {
        request.sampling.logit_bias = &bias;
        request.sampling.n_logit_bias = 1;
    }
    if (i % 4 == 1 && l4_engine_tokenizer(session->engine)) {
        request.stop = &stop;
        request.n_stop = 1;
    }
    uint64_t id;
    struct l4_err err;
    if (l4_engine_submit(session->engine, &request, &id, &err) != 0)
        fail_msg("submit: %s", err.message);
}

/* ---- the comparison ------------------------------------------------------------------------------------------- */

static bool same_floats(const float *a, const float *b, int n) {
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

/* Whether two runs of a request gave the same, bit for bit. */
static bool same_answer(const struct answer *a, const struct answer *b) {
    return a->n_ids == b->n_ids && a->n_prompt == b->n_prompt && a->text_bytes == b->text_bytes &&
           a->finish == b->finish && a->stop_index == b->stop_index && a->stop_token == b->stop_token &&
           memcmp(a->ids, b->ids, (size_t)a->n_ids * sizeof a->ids[0]) == 0 &&
           memcmp(a->text, b->text, a->text_bytes) == 0 && same_floats(a->logprobs, b->logprobs, a->n_ids) &&
           memcmp(a->top, b->top, (size_t)a->n_ids * sizeof a->top[0]) == 0 &&
           same_floats(a->prompt_logprobs, b->prompt_logprobs, a->n_prompt) && a->n_embedding == b->n_embedding &&
           same_floats(a->embedding, b->embedding, a->n_embedding);
}

static int count_different(const struct answer *alone, const struct answer *together) {
    int n = 0;
    for (int i = 0; i < N_REQUESTS; i++)
        n += !same_answer(&alone[i], &together[i]);
    return n;
}

static void expect_close(double a, double b) {
    if (!(fabs(a - b) <= LOGPROB_TOLERANCE) && !(isnan(a) && isnan(b)))
        fail_msg("log-probabilities %.7f and %.7f differ by more than %g", a, b, LOGPROB_TOLERANCE);
}

/* Where arithmetic is not batch-invariant: log-probabilities agree to the tolerance as long as the tokens are the same.
 * Returns whether the tokens part ways; a greedy answer may do so only between two tokens that are as good as level. */
static bool check_close(const struct answer *a, const struct answer *b, bool greedy) {
    assert_int_equal(a->n_prompt, b->n_prompt);
    for (int i = 0; i < a->n_prompt; i++)
        expect_close((double)a->prompt_logprobs[i], (double)b->prompt_logprobs[i]);
    assert_int_equal(a->n_embedding, b->n_embedding);
    for (int i = 0; i < a->n_embedding; i++)
        expect_close((double)a->embedding[i], (double)b->embedding[i]);
    for (int i = 0; i < a->n_ids && i < b->n_ids; i++) {
        for (int j = 0; j < N_TOP; j++)
            expect_close((double)a->top[i][j].logprob, (double)b->top[i][j].logprob);
        if (a->ids[i] != b->ids[i]) {
            if (greedy)
                expect_close((double)a->logprobs[i], (double)b->logprobs[i]);
            return true;
        }
        expect_close((double)a->logprobs[i], (double)b->logprobs[i]);
    }
    assert_int_equal(a->n_ids, b->n_ids);
    return false;
}

/* ---- runs ----------------------------------------------------------------------------------------------------- */

struct variant {
    const char *model;
    const char *experts, *gemm;
    int threads;
    bool prefix_cache;             /* where requests run together */
    const struct kernels *kernels; /* NULL = the best */
    const char *activations, *kv_cache_type;
};

/* Everything at random that must not matter. */
struct chaos {
    struct random arrivals; /* used by the test's thread; all below by the engine's */
    struct random decisions;
    int until_preempt; /* steps */
    int most_running;
};

static int32_t random_chunk(void *user, int32_t planned) {
    struct chaos *chaos = user;
    return 1 + (int32_t)random_below(&chaos->decisions, (uint32_t)planned);
}
static int random_preempt(void *user, int n_running) {
    struct chaos *chaos = user;
    chaos->most_running = n_running > chaos->most_running ? n_running : chaos->most_running;
    if (chaos->until_preempt-- > 0)
        return 0;
    chaos->until_preempt = (int)random_below(&chaos->decisions, 20);
    return 1 + (int)random_below(&chaos->decisions, (uint32_t)n_running / 4 + 1);
}

static void open_variant(struct session *session, const struct variant *variant, const struct engine_overrides *with,
                         int64_t kv_bytes, bool prefix_cache) {
    struct l4_engine_options options;
    struct l4_err err;
    l4_engine_options_init(&options);
    options.model = variant->model;
    options.experts_implementation = variant->experts;
    options.gemm = variant->gemm;
    options.activations = variant->activations;
    options.kv_cache_type = variant->kv_cache_type;
    options.threads = variant->threads;
    options.max_context_tokens = CONTEXT;
    options.kv_cache_bytes = kv_bytes;
    options.max_running = N_REQUESTS;
    options.max_chunk_tokens = MAX_CHUNK;
    options.prefix_cache = prefix_cache;
    if (session_open(session, &options, with, &err) != 0)
        fail_msg("%s: %s", variant->model, err.message);
}

static void run_alone(const struct variant *variant, struct answer *answers) {
    struct session session;
    open_variant(&session, variant, &(struct engine_overrides){.kernels = variant->kernels}, 0, false);
    memset(answers, 0, N_REQUESTS * sizeof *answers);
    for (int i = 0; i < N_REQUESTS; i++) {
        submit(&session, i, &answers[i]);
        while (!answers[i].ended)
            session_wait(&session, take_event);
    }
    session_close(&session);
}

/* KV pages for about half of what wants to run together. */
static int64_t tight_kv_bytes(const struct variant *variant) {
    struct checkpoint *checkpoint;
    struct l4_err err;
    enum dtype type = DT_F32;
    if (checkpoint_open(&checkpoint, variant->model, NULL, NULL, &err) != 0 ||
        kv_type_find(&type, variant->kv_cache_type, &err) != 0)
        fail_msg("%s: %s", variant->model, err.message);
    const struct model_config *config = checkpoint_config(checkpoint);
    int64_t one = kv_pages_needed(config, CONTEXT, MAX_CHUNK), mean = kv_pages_needed(config, 2 * KV_PAGE_TOKENS, 1);
    int64_t pages = mean * N_REQUESTS / 2 > one ? mean * N_REQUESTS / 2 : one;
    int64_t bytes = pages * (int64_t)kv_page_bytes(config, type);
    checkpoint_close(checkpoint);
    return bytes;
}

static void run_together(const struct variant *variant, uint64_t seed, struct answer *answers) {
    struct chaos chaos = {.arrivals = {seed}, .decisions = {seed + 1}, .until_preempt = 5};
    const struct engine_overrides overrides = {
        .kernels = variant->kernels,
        .hooks = {.chunk = random_chunk, .preempt = random_preempt, .user = &chaos},
    };
    struct session session;
    struct l4_engine_stats stats;
    int order[N_REQUESTS], n_submitted = 0, n_ended = 0;
    open_variant(&session, variant, &overrides, tight_kv_bytes(variant), variant->prefix_cache);
    memset(answers, 0, N_REQUESTS * sizeof *answers);
    for (int i = 0; i < N_REQUESTS; i++) {
        int j = (int)random_below(&chaos.arrivals, (uint32_t)i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (uint32_t burst = N_REQUESTS / 2; n_ended < N_REQUESTS; burst = 1 + random_below(&chaos.arrivals, 12)) {
        for (; burst > 0 && n_submitted < N_REQUESTS; burst--, n_submitted++)
            submit(&session, order[n_submitted], &answers[order[n_submitted]]);
        session_wait(&session, take_event);
        n_ended = 0;
        for (int i = 0; i < N_REQUESTS; i++)
            n_ended += answers[i].ended;
    }
    l4_engine_stats(session.engine, &stats);
    session_close(&session);
    assert_true(stats.preemptions > 0 && chaos.most_running >= N_REQUESTS / 8);
    assert_int_equal(stats.prefix_hits > 0, variant->prefix_cache);
    print_message("           %s, gemm %s, KV cache %s, %d threads: %llu steps, up to %d together, %llu set back, %llu "
                  "tokens from the "
                  "prefix cache\n",
                  variant->experts, variant->gemm, variant->kv_cache_type, variant->threads,
                  (unsigned long long)stats.steps, chaos.most_running, (unsigned long long)stats.preemptions,
                  (unsigned long long)stats.prefix_hit_tokens);
}

static struct answer alone[N_REQUESTS], together[N_REQUESTS];

static void check_variant(const char *model, const char *experts, int threads, bool prefix_cache,
                          const char *activations, uint64_t seed) {
    const struct variant variant = {model, experts, "own", threads, prefix_cache, NULL, activations, "f32"};
    run_together(&variant, seed, together);
    assert_int_equal(count_different(alone, together), 0);
}

static void check_model(const char *model, bool every_combination, const char *activations) {
    static const char *const backends[] = {"batched_mm", "grouped_mm", "auto"};
    const struct variant variant = {model, "auto", "own", 1, false, NULL, activations, "f32"};
    uint64_t seed = 1;
    run_alone(&variant, alone);
    if (!every_combination) {
        check_variant(model, "auto", 2, true, activations, seed);
        return;
    }
    for (int i = 0; i < 3; i++)
        for (int threads = 1; threads <= 2; threads++)
            check_variant(model, backends[i], threads, (i + threads) % 2 == 1, activations, seed++);
}

/* Sampled answers may part where a random number falls between two nearly equal sums: rarely. */
static void check_model_close(const char *model, const char *experts, const char *gemm) {
    struct variant variant = {model, experts, gemm, 2, true, NULL, "f32", "f32"};
    int n_parted = 0;
    run_alone(&variant, alone);
    run_together(&variant, 99, together);
    for (int i = 0; i < N_REQUESTS; i++)
        n_parted += check_close(&alone[i], &together[i], i % 2 == 0);
    print_message("           %d of %d answers part at a choice that is as good as level\n", n_parted, N_REQUESTS);
    assert_true(n_parted <= N_REQUESTS / 8);
}

/* ---- a copy of the demo model with its weights widened to F32, and with small attention chunks ------------------ */

/* Chunks that begin inside a page and are longer: what comes out of the prefix cache has a part of a chunk before it.
 */
static void shrink_chunks(char *config, size_t n) {
    static const char key[] = "\"attention_chunk_size\": 8192", small[] = "\"attention_chunk_size\": 96  ";
    char *at = memmem(config, n, key, strlen(key));
    assert_non_null(at);
    memcpy(at, small, strlen(small));
}

static void copy_file(const struct tempdir *dir, const char *name) {
    char from[128];
    snprintf(from, sizeof from, "tests/models/demo/%s", name);
    FILE *in = fopen(from, "rb");
    assert_non_null(in);
    char *bytes = malloc(4 << 20);
    size_t n = fread(bytes, 1, 4 << 20, in);
    assert_true(feof(in));
    fclose(in);
    if (strcmp(name, "config.json") == 0)
        shrink_chunks(bytes, n);
    tempdir_write(dir, name, bytes, n);
    free(bytes);
}

static void put_tensor(cJSON *header, const char *name, const struct tensor *tensor, uint64_t *offset) {
    assert_int_equal(tensor->type, DT_BF16);
    cJSON *entry = cJSON_AddObjectToObject(header, name), *shape, *offsets;
    cJSON_AddStringToObject(entry, "dtype", "F32");
    shape = cJSON_AddArrayToObject(entry, "shape");
    for (int i = 0; i < tensor->n_dims; i++)
        cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)tensor->shape[i]));
    offsets = cJSON_AddArrayToObject(entry, "data_offsets");
    cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)*offset));
    *offset += 2 * tensor->size_bytes;
    cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)*offset));
}

static void write_widened(FILE *out, const struct tensor *tensor) {
    const uint16_t *from = tensor->data;
    for (size_t i = 0; i < tensor->size_bytes / sizeof *from; i++) {
        float wide = bf16_to_f32(from[i]);
        assert_int_equal(fwrite(&wide, sizeof wide, 1, out), 1);
    }
}

static void make_f32_copy(const struct tempdir *dir) {
    struct safetensors *shards[2];
    uint64_t offset = 0;
    cJSON *header = cJSON_CreateObject();
    copy_file(dir, "config.json");
    copy_file(dir, "generation_config.json");
    copy_file(dir, "tokenizer.json");
    for (int i = 0; i < 2; i++) {
        char path[128];
        struct l4_err err;
        snprintf(path, sizeof path, "tests/models/demo/model-%05d-of-00002.safetensors", i + 1);
        if (safetensors_open(&shards[i], path, &err) != 0)
            fail_msg("%s", err.message);
        for (size_t j = 0; j < safetensors_count(shards[i]); j++)
            put_tensor(header, safetensors_name(shards[i], j), safetensors_at(shards[i], j), &offset);
    }
    char *text = cJSON_PrintUnformatted(header);
    uint64_t n_padded = (strlen(text) + 7) / 8 * 8; /* tensors begin aligned */
    FILE *out = fopen(tempdir_file(dir, "model.safetensors"), "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(&n_padded, sizeof n_padded, 1, out), 1);
    assert_int_equal(fprintf(out, "%-*s", (int)n_padded, text), n_padded);
    for (int i = 0; i < 2; i++) {
        for (size_t j = 0; j < safetensors_count(shards[i]); j++)
            write_widened(out, safetensors_at(shards[i], j));
        safetensors_close(shards[i]);
    }
    assert_int_equal(fclose(out), 0);
    cJSON_free(text);
    cJSON_Delete(header);
}

/* ---- tests ---------------------------------------------------------------------------------------------------- */

static void demo_bf16(void **state) {
    (void)state;
    check_model("tests/models/demo", WHOLE, "f32");
}

static void demo_f32(void **state) {
    (void)state;
    struct tempdir dir;
    tempdir_init(&dir);
    make_f32_copy(&dir);
    check_model(dir.path, WHOLE, "f32");
    tempdir_fini(&dir);
}

static void scout_f32(void **state) { /* attention chunks of 16: pages come and go */
    (void)state;
    check_model("tests/fixtures/scout", true, "f32");
}

static void maverick_bf16(void **state) {
    (void)state;
    check_model("tests/fixtures/maverick", WHOLE, "f32");
}

static void bf16_activations(void **state) {
    (void)state;
    check_model("tests/fixtures/maverick", WHOLE, "bf16");
    check_model("tests/models/demo", WHOLE, "bf16");
}

/* The demo model in a quantised file of its own. */
static const char *make_quantised(const struct tempdir *dir, const char *type) {
    const char *path = tempdir_file(dir, "demo.gguf");
    const struct l4_quantize_options options = {.source = "tests/models/demo", .target = path, .type = type};
    struct l4_err err;
    if (l4_quantize(&options, NULL, &err) != 0)
        fail_msg("%s", err.message);
    return path;
}

static void check_quantised(const char *type) {
    struct tempdir dir;
    tempdir_init(&dir);
    check_model(make_quantised(&dir, type), WHOLE, "f32");
    tempdir_fini(&dir);
}

static void demo_q8_0(void **state) {
    (void)state;
    check_quantised("q8_0");
}

static void demo_q4_0(void **state) {
    (void)state;
    check_quantised("q4_0");
}

static void demo_q4_k(void **state) {
    (void)state;
    check_quantised("q4_k");
}

/* Chunks of 16 that come and go, and a model of which all is seen; one run of each type. */
static void kv_cache_types(void **state) {
    (void)state;
    static const char *const models[] = {"tests/fixtures/scout", "tests/models/demo"};
    for (int i = 0; i < 1 + WHOLE; i++)
        for (const char *const *type = kv_type_names(); *type; type++) {
            struct variant variant = {models[i], "auto", "own", 1, i > 0, NULL, "f32", *type};
            run_alone(&variant, alone);
            variant.threads = 2;
            run_together(&variant, 11, together);
            assert_int_equal(count_different(alone, together), 0);
        }
}

static void eager_agrees_to_rounding(void **state) {
    (void)state;
    if (WHOLE)
        check_model_close("tests/models/demo", "eager", "own");
    check_model_close("tests/fixtures/scout", "eager", "own");
}

static void openblas_agrees_to_rounding(void **state) {
    (void)state;
    if (WHOLE)
        check_model_close("tests/models/demo", "auto", "openblas");
    check_model_close("tests/fixtures/scout", "auto", "openblas");
}

/* ---- a broken kernel ------------------------------------------------------------------------------------------ */

static const struct kernels *sound;

/* Right up to rounding, but four rows and more are summed in another order: what a library that picks its blocking by
 * the shape does. */
static void broken_gemm(const struct matrix *w, int64_t n_begin, int64_t n_end, const float *x, int64_t ldx, int64_t m,
                        float *y, int64_t ldy, bool accumulate, void *scratch) {
    gemm_fn *gemm = sound->gemm[w->type][w->layout];
    if (m < 4 || w->k < 2) {
        gemm(w, n_begin, n_end, x, ldx, m, y, ldy, accumulate, scratch);
        return;
    }
    struct matrix first = *w, second = *w;
    int64_t step = w->layout == MATRIX_OUT_IN ? 1 : w->stride;
    first.k = w->k / 2;
    second.k = w->k - first.k;
    second.data = (const char *)w->data + first.k * step * (int64_t)dtype_size(w->type);
    gemm(&second, n_begin, n_end, x + first.k, ldx, m, y, ldy, accumulate, scratch);
    gemm(&first, n_begin, n_end, x, ldx, m, y, ldy, true, scratch);
}

/* The last bit of what four rows and more give. */
static void broken_qgemm(const struct matrix *w, int64_t n_begin, int64_t n_end, const struct quantized_rows *x,
                         int64_t row_begin, int64_t row_end, float *y, int64_t ldy, bool accumulate) {
    sound->qgemm[w->type](w, n_begin, n_end, x, row_begin, row_end, y, ldy, accumulate);
    for (int64_t row = row_begin; row_end - row_begin >= 4 && row < row_end; row++)
        for (int64_t n = n_begin; n < n_end; n++)
            y[row * ldy + n] = nextafterf(y[row * ldy + n], INFINITY);
}

static void expect_found_out(const char *model, const struct kernels *broken) {
    struct variant variant = {model, "auto", "own", 2, true, broken, "f32", "f32"};
    run_alone(&variant, alone);
    run_together(&variant, 7, together);
    int n = count_different(alone, together);
    print_message("           broken kernel: %d of %d answers differ\n", n, N_REQUESTS);
    assert_true(n > N_REQUESTS / 4);
    variant.kernels = sound; /* and only the kernel was to blame */
    run_alone(&variant, alone);
    run_together(&variant, 7, together);
    assert_int_equal(count_different(alone, together), 0);
}

static void a_broken_kernel_is_found_out(void **state) {
    (void)state;
    struct l4_err err;
    struct tempdir dir;
    assert_int_equal(kernels_get(&sound, &err), 0);
    struct kernels broken = *sound;
    for (int type = 0; type < DT_N_WEIGHT_TYPES; type++)
        for (int layout = 0; layout < MATRIX_N_ROW_LAYOUTS; layout++)
            broken.gemm[type][layout] = broken_gemm;
    expect_found_out("tests/fixtures/scout", &broken);
    if (WHOLE)
        expect_found_out("tests/models/demo", &broken);

    broken = *sound;
    for (int type = 0; type < DT_COUNT; type++)
        broken.qgemm[type] = sound->qgemm[type] != NULL ? broken_qgemm : NULL;
    tempdir_init(&dir);
    expect_found_out(make_quantised(&dir, "q4_0"), &broken);
    tempdir_fini(&dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scout_f32),
        cmocka_unit_test(maverick_bf16),
        cmocka_unit_test(demo_bf16),
        cmocka_unit_test(demo_f32),
        cmocka_unit_test(bf16_activations),
        cmocka_unit_test(demo_q8_0),
        cmocka_unit_test(demo_q4_0),
        cmocka_unit_test(demo_q4_k),
        cmocka_unit_test(kv_cache_types),
        cmocka_unit_test(eager_agrees_to_rounding),
        cmocka_unit_test(openblas_agrees_to_rounding),
        cmocka_unit_test(a_broken_kernel_is_found_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
