/* What is refused at the door, in words that say what is allowed; which states a request may go through. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "core/sched/request.h"
#include "tests/lib/failmalloc.h"

enum { VOCAB = 100, CONTEXT = 64 };

static struct l4_tokenizer *tokenizer;
static struct request_limits limits = {.vocab_size = VOCAB, .max_context_tokens = CONTEXT};
static const int32_t prompt[CONTEXT + 1] = {1, 2, 3};

static struct l4_request base(void) {
    struct l4_request request = {.prompt = prompt, .n_prompt = 10, .max_tokens = 5};
    l4_sampling_init(&request.sampling);
    return request;
}

static void refused(const struct l4_request *from, int code, const char *words) {
    struct request *request = NULL;
    struct l4_err err = {0};
    assert_int_equal(request_open(&request, from, &limits, &err), code);
    assert_int_equal(err.code, code);
    if (!strstr(err.message, words))
        fail_msg("\"%s\" does not say \"%s\"", err.message, words);
}

static struct request *accepted(const struct l4_request *from) {
    struct request *request = NULL;
    struct l4_err err = {0};
    if (request_open(&request, from, &limits, &err) != 0)
        fail_msg("%s", err.message);
    return request;
}

static void what_can_never_fit_is_refused(void **state) {
    (void)state;
    struct l4_request request = base();
    request.max_tokens = 55;
    refused(&request, L4_E_CONTEXT_LENGTH, "a prompt of 10 tokens and 55 more (max_tokens) do not fit");
    refused(&request, L4_E_CONTEXT_LENGTH, "context is 64 tokens");
    request.max_tokens = INT64_MAX;
    refused(&request, L4_E_CONTEXT_LENGTH, "9223372036854775807 more");
    request.max_tokens = -1;
    request.n_prompt = CONTEXT;
    refused(&request, L4_E_CONTEXT_LENGTH, "at least 1 more");
    request.max_tokens = 0;
    request.n_prompt = CONTEXT + 1;
    refused(&request, L4_E_CONTEXT_LENGTH, "a prompt of 65 tokens");
    request.n_prompt = SIZE_MAX;
    refused(&request, L4_E_CONTEXT_LENGTH, "a prompt of 18446744073709551615 tokens");

    request.n_prompt = CONTEXT; /* scoring a full context fits */
    request_close(accepted(&request));
    request = base();
    request.max_tokens = 54;
    request_close(accepted(&request));
    request.max_tokens = -1;
    struct request *open = accepted(&request);
    assert_int_equal(open->max_tokens, 54);
    request_close(open);
}

static void bad_fields_are_named(void **state) {
    (void)state;
    struct l4_request request = base();
    request.n_prompt = 0;
    refused(&request, L4_E_INVALID, "prompt");
    request = base();
    request.max_tokens = -2;
    refused(&request, L4_E_INVALID, "max_tokens is -2");
    request = base();
    const int32_t outside[] = {1, VOCAB, -1};
    request.prompt = outside;
    request.n_prompt = 2;
    refused(&request, L4_E_INVALID, "prompt[1] is 100: allowed are 0 to 99");
    request.prompt = outside + 2;
    request.n_prompt = 1;
    refused(&request, L4_E_INVALID, "prompt[0] is -1");
    request = base();
    request.stop_ids = outside;
    request.n_stop_ids = 3;
    refused(&request, L4_E_INVALID, "stop_ids[1] is 100");
    request.n_stop_ids = L4_MAX_STOP_IDS + 1;
    refused(&request, L4_E_INVALID, "stop_ids has 129 entries: allowed are at most 128");
    request = base();
    request.n_top_logprobs = 21;
    refused(&request, L4_E_INVALID, "n_top_logprobs is 21: allowed are 0 to 20");
    request = base();
    request.salt = "0123456789012345678901234567890123456789012345678901234567890123x";
    refused(&request, L4_E_INVALID, "salt has 65 bytes: allowed are at most 64");
}

static void sampling_is_bounded(void **state) {
    (void)state;
    static const struct {
        size_t offset;
        float low, high; /* one step outside */
        const char *name;
    } fields[] = {
#define FIELD(name, low, high) {offsetof(struct l4_sampling, name), low, high, #name}
        FIELD(temperature, -0.1F, 101),    FIELD(top_p, -0.1F, 1.1F),          FIELD(min_p, -0.1F, 1.1F),
        FIELD(repetition_penalty, 0, 101), FIELD(presence_penalty, -101, 101), FIELD(frequency_penalty, -101, 101),
#undef FIELD
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const float bad[] = {fields[i].low, fields[i].high, INFINITY, -INFINITY, NAN};
        for (size_t j = 0; j < sizeof bad / sizeof bad[0]; j++) {
            struct l4_request request = base();
            memcpy((char *)&request.sampling + fields[i].offset, &bad[j], sizeof bad[j]);
            refused(&request, L4_E_INVALID, fields[i].name);
        }
    }
    struct l4_request request = base();
    request.sampling.top_k = -1;
    refused(&request, L4_E_INVALID, "top_k is -1");
    struct l4_logit_bias bias = {VOCAB, 1};
    request = base();
    request.sampling.logit_bias = &bias;
    request.sampling.n_logit_bias = 1;
    refused(&request, L4_E_INVALID, "logit_bias: id 100: allowed are 0 to 99");
    bias = (struct l4_logit_bias){1, INFINITY};
    refused(&request, L4_E_INVALID, "bias of id 1 is not a finite number");
    request.sampling.n_logit_bias = VOCAB + 1;
    refused(&request, L4_E_INVALID, "logit_bias has 101 entries");
}

static void stop_strings_are_bounded(void **state) {
    (void)state;
    static char big[L4_MAX_STOP_BYTES + 1];
    struct l4_text stop[L4_MAX_STOP_STRINGS + 1];
    for (size_t i = 0; i <= L4_MAX_STOP_STRINGS; i++)
        stop[i] = (struct l4_text){"x", 1};
    struct l4_request request = base();
    request.stop = stop;
    request.n_stop = 1;
    refused(&request, L4_E_INVALID, "no tokenizer");
    limits.tokenizer = tokenizer;
    request.n_stop = L4_MAX_STOP_STRINGS + 1;
    refused(&request, L4_E_INVALID, "stop has 17 entries: allowed are at most 16");
    request.n_stop = 2;
    stop[1] = (struct l4_text){"", 0};
    refused(&request, L4_E_INVALID, "stop[1] has 0 bytes: allowed are 1 to 4096");
    stop[1] = (struct l4_text){big, sizeof big};
    refused(&request, L4_E_INVALID, "stop[1] has 4097 bytes");
    stop[1] = (struct l4_text){"\xa9xx", 3};
    refused(&request, L4_E_INVALID, "stop[1] begins inside a character");
    limits.tokenizer = NULL;
}

static void fields_are_copied(void **state) {
    (void)state;
    int32_t ids[] = {4, 5}, stop_ids[] = {6};
    struct l4_logit_bias bias = {7, 0.5F};
    struct l4_request from = base();
    from.prompt = ids;
    from.n_prompt = 2;
    from.stop_ids = stop_ids;
    from.n_stop_ids = 1;
    from.sampling.logit_bias = &bias;
    from.sampling.n_logit_bias = 1;
    from.log_id = "a name that is longer than the sixty-three bytes which are kept of it, by far";
    struct request *request = accepted(&from);
    ids[0] = stop_ids[0] = bias.id = 99;
    assert_int_equal(request->tokens.ids[0], 4);
    assert_int_equal(request->stop_ids[0], 6);
    assert_int_equal(request->sampling.logit_bias[0].id, 7);
    assert_int_equal(strlen(request->log_id), 63);
    assert_int_equal(request_n_generated(request), 0);
    assert_int_equal(request_n_pending(request), 2);
    request_close(request);
}

static void states_follow_the_table(void **state) {
    (void)state;
    static const enum request_state life[] = {REQUEST_QUEUED,  REQUEST_PREFILL, REQUEST_QUEUED,
                                              REQUEST_PREFILL, REQUEST_DECODE,  REQUEST_QUEUED,
                                              REQUEST_PREFILL, REQUEST_DECODE,  REQUEST_DONE};
    struct l4_request from = base();
    struct request *request = accepted(&from);
    for (size_t i = 1; i < sizeof life / sizeof life[0]; i++) {
        assert_int_equal(request->state, life[i - 1]);
        request_set_state(request, life[i]);
    }
    assert_string_equal(request_state_name(request->state), "DONE");
    for (int from_state = 0; from_state < REQUEST_N_STATES; from_state++)
        for (int to = 0; to < REQUEST_N_STATES; to++) {
            bool ended = from_state >= REQUEST_DONE;
            if (ended || (from_state == REQUEST_QUEUED && (to == REQUEST_DECODE || to == REQUEST_DONE)))
                assert_false(request_may_go((enum request_state)from_state, (enum request_state)to));
            else if (to == REQUEST_CANCELLED || to == REQUEST_FAILED)
                assert_true(request_may_go((enum request_state)from_state, (enum request_state)to));
        }
    request_close(request);
}

static void running_out_of_memory_is_told(void **state) {
    (void)state;
    const int32_t ids[] = {1};
    const struct l4_logit_bias bias = {7, 0.5F};
    const struct l4_text stop = {"stop", 4};
    struct l4_request from = base();
    from.stop_ids = ids;
    from.n_stop_ids = 1;
    from.sampling.logit_bias = &bias;
    from.sampling.n_logit_bias = 1;
    from.stop = &stop;
    from.n_stop = 1;
    limits.tokenizer = tokenizer;
    FAILMALLOC_EACH(n) {
        struct request *request;
        int rc = request_open(&request, &from, &limits, NULL);
        if (failmalloc_disarm()) {
            assert_int_equal(rc, L4_E_NOMEM);
            continue;
        }
        assert_int_equal(rc, 0);
        request_close(request);
    }
    limits.tokenizer = NULL;
}

static int open_tokenizer(void **state) {
    (void)state;
    return l4_tokenizer_open(&tokenizer, "tests/models/demo/tokenizer.json", NULL);
}
static int close_tokenizer(void **state) {
    (void)state;
    l4_tokenizer_close(tokenizer);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_can_never_fit_is_refused),
        cmocka_unit_test(bad_fields_are_named),
        cmocka_unit_test(sampling_is_bounded),
        cmocka_unit_test(stop_strings_are_bounded),
        cmocka_unit_test(fields_are_copied),
        cmocka_unit_test(states_follow_the_table),
        cmocka_unit_test(running_out_of_memory_is_told),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
