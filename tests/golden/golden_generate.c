/* golden generate MODEL FILE.json - what the whole engine makes of a checkpoint: the likelihood of documents, and
 * greedy answers.  Goes through the public API, as the server does.
 *
 * The KV cache is f32 unless --kv-cache-type says otherwise: f16 alone moves a router here and there.
 * --nll-tolerance X: of each document, a token; greedy answers are not compared.
 * --perplexity X: the model is a quantised one.  It need not agree with the file, but its perplexity over the documents
 * must be X, give or take Y of it.  --like MODEL: X is the perplexity of that model.
 * --logprobs Z: activations are rounded.  Log-probabilities agree to Z only, and answers may part where the two best
 * tokens are closer than that. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama4/engine.h"
#include "tests/golden/golden.h"
#include "tests/lib/session.h"

/* Numbers in the file have six digits after the point.  Greedy answers may part ways where the two best tokens are
 * closer than the margin. */
static const double LOGPROB_TOLERANCE = 1e-3, NLL_TOLERANCE = 1e-4, MARGIN = 1e-3;

/* What is asked for on the command line. */
struct wanted {
    const char *experts, *gemm, *activations, *kv_cache_type;
    const char *like;  /* NULL: no other model */
    double perplexity; /* negative: what the file says, and greedy answers too */
    double tolerance;
    double logprob_tolerance, nll_tolerance, margin;
    bool nll_only;
};

static void open_model(struct session *session, const char *model, const struct wanted *wanted) {
    struct l4_engine_options options;
    struct l4_err err;
    l4_engine_options_init(&options);
    options.model = model;
    options.experts_implementation = wanted->experts;
    options.gemm = wanted->gemm;
    options.activations = wanted->activations;
    options.kv_cache_type = wanted->kv_cache_type;
    options.max_queue = L4_MAX_QUEUE;
    if (session_open(session, &options, NULL, &err) != 0)
        golden_fail("%s: %s", model, err.message);
    if (!l4_engine_tokenizer(session->engine))
        golden_fail("%s: has no tokenizer", model);
}

/* ---- one request, and what came back -------------------------------------------------------------------------- */

struct answer {
    double *logprobs; /* of the prompt's tokens, then of the answer's */
    size_t n_logprobs;
    struct l4_tokens ids; /* of the answer */
    struct l4_buf text;
    size_t n_scored;
    double prompt_nll; /* over all prompt tokens but the first */
    bool ended;
};

static void take_event(void *user, const struct l4_event *event) {
    struct answer *answer = user;
    switch (event->type) {
    case L4_EVENT_PROMPT:
        if (!isnan(event->token.logprob)) {
            answer->prompt_nll -= (double)event->token.logprob;
            answer->n_scored++;
        }
        return;
    case L4_EVENT_TOKEN:
        answer->logprobs = realloc(answer->logprobs, (answer->n_logprobs + 1) * sizeof *answer->logprobs);
        if (!answer->logprobs || l4_tokens_push(&answer->ids, event->token.id) != 0)
            golden_fail("out of memory");
        answer->logprobs[answer->n_logprobs++] = (double)event->token.logprob;
        l4_buf_append(&answer->text, event->text, event->text_bytes);
        return;
    case L4_EVENT_EMBEDDING: /* nobody asked */
        return;
    case L4_EVENT_DONE:
        l4_buf_append(&answer->text, event->text, event->text_bytes);
        answer->ended = true;
        return;
    case L4_EVENT_ERROR:
        golden_fail("the engine failed: %s", event->error.message);
    }
}

static void submit(struct session *session, struct l4_request *request, struct answer *answer) {
    uint64_t id;
    struct l4_err err;
    request->user = answer;
    if (l4_engine_submit(session->engine, request, &id, &err) != 0)
        golden_fail("%s", err.message);
}

static void wait_for_all(struct session *session, const struct answer *answers, size_t n) {
    size_t n_ended = 0;
    while (n_ended < n) {
        session_wait(session, take_event);
        n_ended = 0;
        for (size_t i = 0; i < n; i++)
            n_ended += answers[i].ended;
    }
}

static void answer_free(struct answer *answer) {
    free(answer->logprobs);
    l4_tokens_free(&answer->ids);
    l4_buf_free(&answer->text);
}

static struct answer *answers_new(size_t n) {
    struct answer *answers = calloc(n ? n : 1, sizeof *answers);
    if (!answers)
        golden_fail("out of memory");
    return answers;
}

static void answers_free(struct answer *answers, size_t n) {
    for (size_t i = 0; i < n; i++)
        answer_free(&answers[i]);
    free(answers);
}

/* ---- reading the file ----------------------------------------------------------------------------------------- */

static const cJSON *member(const cJSON *object, const char *name, cJSON_bool (*is_type)(const cJSON *)) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!value || !is_type(value))
        golden_fail("\"%s\" is missing or of another type", name);
    return value;
}

static void read_ids(const cJSON *array, struct l4_tokens *ids) {
    const cJSON *value;
    cJSON_ArrayForEach(value, array) {
        if (l4_tokens_push(ids, value->valueint) != 0)
            golden_fail("out of memory");
    }
}

/* ---- nll: documents ------------------------------------------------------------------------------------------- */

/* The documents, each with its summed negative log-likelihood: answers [n], the caller's. */
static struct answer *score_documents(struct session *session, const cJSON *documents) {
    size_t n = (size_t)cJSON_GetArraySize(documents), i = 0;
    struct answer *answers = answers_new(n);
    const cJSON *document;
    cJSON_ArrayForEach(document, documents) {
        struct l4_tokens prompt = {0};
        struct l4_err err;
        const char *text = member(document, "text", cJSON_IsString)->valuestring;
        if (l4_encode(l4_engine_tokenizer(session->engine), text, strlen(text), L4_ENCODE_BOS | L4_ENCODE_SPECIAL,
                      &prompt, &err) != 0)
            golden_fail("%s", err.message);
        struct l4_request request = {.prompt = prompt.ids, .n_prompt = prompt.len, .prompt_logprobs = true};
        l4_sampling_init(&request.sampling);
        submit(session, &request, &answers[i++]);
        l4_tokens_free(&prompt);
    }
    wait_for_all(session, answers, n);
    return answers;
}

static double perplexity_of(const struct answer *answers, size_t n) {
    double nll = 0;
    size_t n_tokens = 0;
    for (size_t i = 0; i < n; i++) {
        nll += answers[i].prompt_nll;
        n_tokens += answers[i].n_scored;
    }
    return exp(nll / (double)n_tokens);
}

static bool check_nll(struct session *session, const cJSON *documents, const struct wanted *wanted) {
    size_t n = (size_t)cJSON_GetArraySize(documents), i = 0, n_matched = 0, n_tokens = 0;
    struct answer *answers = score_documents(session, documents);
    double want_nll = 0, worst = 0;
    const cJSON *document;
    cJSON_ArrayForEach(document, documents) {
        const struct answer *answer = &answers[i++];
        double want = member(document, "nll", cJSON_IsNumber)->valuedouble;
        double error = fabs(answer->prompt_nll - want) / (double)(answer->n_scored ? answer->n_scored : 1);
        bool same_length = answer->n_scored + 1 == (size_t)member(document, "tokens", cJSON_IsNumber)->valueint;
        n_matched += same_length && error <= wanted->nll_tolerance;
        worst = error > worst ? error : worst;
        want_nll += want;
        n_tokens += answer->n_scored;
    }
    double perplexity = perplexity_of(answers, n), want = exp(want_nll / (double)n_tokens);
    answers_free(answers, n);
    if (wanted->perplexity >= 0) {
        bool near = fabs(perplexity / wanted->perplexity - 1) <= wanted->tolerance;
        printf("perplexity %.6f, expected %.6f within %.0e: %s (%.6f before quantisation)\n", perplexity,
               wanted->perplexity, wanted->tolerance, near ? "equal" : "DIFFERENT", want);
        return n > 0 && near;
    }
    bool same = llround(perplexity * 1e4) == llround(want * 1e4);
    printf("nll: %zu of %zu match, largest error a token %.2e; perplexity %.6f, expected %.6f: %s to 4 digits\n",
           n_matched, n, worst, perplexity, want, same ? "equal" : "DIFFERENT");
    return n > 0 && n_matched == n && same;
}

/* ---- greedy: answers ------------------------------------------------------------------------------------------ */

/* How many leading tokens agree in id and log-probability. */
static size_t agreement(const struct answer *answer, const struct l4_tokens *want, const cJSON *logprobs,
                        double tolerance, double *worst) {
    size_t i = 0;
    while (i < answer->ids.len && i < want->len && answer->ids.ids[i] == want->ids[i]) {
        double error = fabs(answer->logprobs[i] - cJSON_GetArrayItem(logprobs, (int)i)->valuedouble);
        *worst = error > *worst ? error : *worst;
        if (error > tolerance)
            break;
        i++;
    }
    return i;
}

static bool check_greedy(struct session *session, const cJSON *cases, const struct wanted *wanted) {
    enum { MAX_NEW_TOKENS = 96 };
    size_t n = (size_t)cJSON_GetArraySize(cases), i = 0, n_matched = 0, n_close = 0;
    struct answer *answers = answers_new(n);
    const cJSON *one;
    cJSON_ArrayForEach(one, cases) {
        struct l4_tokens prompt = {0};
        read_ids(member(one, "prompt_ids", cJSON_IsArray), &prompt);
        struct l4_request request = {
            .prompt = prompt.ids, .n_prompt = prompt.len, .max_tokens = MAX_NEW_TOKENS, .logprobs = true};
        l4_sampling_init(&request.sampling);
        request.sampling.temperature = 0;
        submit(session, &request, &answers[i++]);
        l4_tokens_free(&prompt);
    }
    wait_for_all(session, answers, n);
    double worst = 0;
    i = 0;
    cJSON_ArrayForEach(one, cases) {
        struct answer *answer = &answers[i++];
        struct l4_tokens want = {0};
        read_ids(member(one, "ids", cJSON_IsArray), &want);
        const char *text = member(one, "text", cJSON_IsString)->valuestring;
        size_t n_agree =
            agreement(answer, &want, member(one, "logprobs", cJSON_IsArray), wanted->logprob_tolerance, &worst);
        bool same_text = answer->text.len == strlen(text) && memcmp(answer->text.data, text, answer->text.len) == 0;
        if (n_agree == want.len && answer->ids.len == want.len && same_text)
            n_matched++;
        else if (member(one, "smallest_top2_margin", cJSON_IsNumber)->valuedouble <= wanted->margin)
            n_close++;
        else
            fprintf(stderr, "greedy %zu: differs at token %zu of %zu\n", i - 1, n_agree, want.len);
        l4_tokens_free(&want);
    }
    printf("greedy: %zu of %zu match in ids, text and log-probabilities", n_matched, n);
    if (n_close > 0)
        printf(", %zu more part at a choice closer than %g", n_close, wanted->margin);
    printf("; largest error of a log-probability %.2e\n", worst);
    answers_free(answers, n);
    return n > 0 && n_matched + n_close == n;
}

static double perplexity_of_model(const struct wanted *wanted, const cJSON *file) {
    struct session session;
    const cJSON *documents = member(file, "nll", cJSON_IsArray);
    const struct wanted plain = {
        .experts = "auto", .gemm = wanted->gemm, .activations = "f32", .kv_cache_type = wanted->kv_cache_type};
    size_t n = (size_t)cJSON_GetArraySize(documents);
    open_model(&session, wanted->like, &plain);
    struct answer *answers = score_documents(&session, documents);
    double perplexity = perplexity_of(answers, n);
    answers_free(answers, n);
    session_close(&session);
    return perplexity;
}

static bool check_all(const char *model, const struct wanted *wanted, const cJSON *file) {
    bool has_nll = cJSON_HasObjectItem(file, "nll"), has_greedy = cJSON_HasObjectItem(file, "greedy"), ok = true;
    struct session session;
    if (!has_nll && !has_greedy)
        golden_fail("neither nll nor greedy in the file");
    printf("%s, gemm %s, activations %s, KV cache %s:\n", wanted->experts, wanted->gemm, wanted->activations,
           wanted->kv_cache_type);
    open_model(&session, model, wanted);
    if (has_nll || wanted->perplexity >= 0 || wanted->nll_only)
        ok = check_nll(&session, member(file, "nll", cJSON_IsArray), wanted);
    if (has_greedy && wanted->perplexity < 0 && !wanted->nll_only)
        ok = check_greedy(&session, member(file, "greedy", cJSON_IsArray), wanted) && ok;
    session_close(&session);
    return ok;
}

int golden_generate(int argc, char **argv) {
    struct wanted wanted = {.experts = "auto",
                            .gemm = "own",
                            .activations = "f32",
                            .kv_cache_type = "f32",
                            .perplexity = -1,
                            .tolerance = 5e-6,
                            .logprob_tolerance = LOGPROB_TOLERANCE,
                            .nll_tolerance = NLL_TOLERANCE,
                            .margin = MARGIN};
    int i = 1;
    for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
        if (strcmp(argv[i], "--experts") == 0)
            wanted.experts = argv[i + 1];
        else if (strcmp(argv[i], "--gemm") == 0)
            wanted.gemm = argv[i + 1];
        else if (strcmp(argv[i], "--activations") == 0)
            wanted.activations = argv[i + 1];
        else if (strcmp(argv[i], "--kv-cache-type") == 0)
            wanted.kv_cache_type = argv[i + 1];
        else if (strcmp(argv[i], "--perplexity") == 0)
            wanted.perplexity = atof(argv[i + 1]);
        else if (strcmp(argv[i], "--like") == 0)
            wanted.like = argv[i + 1];
        else if (strcmp(argv[i], "--nll-tolerance") == 0) {
            wanted.nll_tolerance = atof(argv[i + 1]);
            wanted.nll_only = true;
        } else if (strcmp(argv[i], "--tolerance") == 0)
            wanted.tolerance = atof(argv[i + 1]);
        else if (strcmp(argv[i], "--logprobs") == 0)
            wanted.logprob_tolerance = wanted.nll_tolerance = wanted.margin = atof(argv[i + 1]);
        else
            return GOLDEN_USAGE;
    }
    if (argc - i != 2)
        return GOLDEN_USAGE;
    cJSON *file = golden_read_json(argv[i + 1]);
    bool ok = true;
    if (wanted.like)
        wanted.perplexity = perplexity_of_model(&wanted, file);
    if (strcmp(wanted.experts, "all") == 0) {
        for (const char *const *name = l4_engine_experts_names(); *name; name++) {
            wanted.experts = *name;
            ok = check_all(argv[i], &wanted, file) && ok;
        }
    } else {
        ok = check_all(argv[i], &wanted, file);
    }
    cJSON_Delete(file);
    return ok ? GOLDEN_OK : GOLDEN_MISMATCH;
}
