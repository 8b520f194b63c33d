/* POST /v1/completions decoded, field by field; the fields that it shares with chat; its answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/codec_completions.h"
#include "tests/lib/failmalloc.h"

static struct codec_limits limits = {
    .model_name = "demo",
    .vocab_size = 2048,
    .max_choices = 1024,
    .defaults = {.temperature = 0.6f, .top_p = 0.9f, .top_k = 7, .repetition_penalty = 1},
};

static struct completions_request request;
static struct codec_err err;

static int decode(const char *text) {
    memset(&err, 0, sizeof err);
    return completions_decode(text, strlen(text), &limits, &request, &err);
}

static void decode_ok(const char *text) {
    if (decode(text))
        fail_msg("%s: %s", text, err.message);
}

static void test_what_a_request_leaves_out(void **state) {
    (void)state;
    decode_ok("{\"prompt\":\"Hi\"}");
    const struct gen_params *p = &request.params;
    assert_int_equal(request.n_prompts, 1);
    assert_string_equal(request.prompts[0].text.data, "Hi");
    assert_int_equal(p->max_tokens, 16);
    assert_int_equal(p->n, 1);
    assert_int_equal(p->best_of, 1);
    assert_true(p->sampling.temperature == 0.6f && p->sampling.top_p == 0.9f && p->sampling.top_k == 7);
    assert_false(p->has_seed || p->stream || p->include_usage || p->logprobs || p->echo || p->ignore_eos);
    assert_false(p->no_prefix_cache);
    assert_string_equal(p->salt, "");
    assert_int_equal(p->n_stop + p->n_stop_ids + p->sampling.n_logit_bias, 0);
    completions_request_free(&request);
}

static void test_every_field(void **state) {
    (void)state;
    decode_ok("{\"model\":\"demo\",\"prompt\":\"a\",\"max_tokens\":0,\"temperature\":0,\"top_p\":0.5,\"top_k\":3,"
              "\"min_p\":0.25,\"n\":2,\"best_of\":4,\"stop\":[\"x\",\"yz\"],\"stop_token_ids\":[0,2047],"
              "\"ignore_eos\":true,\"logit_bias\":{\"5\":-100,\"2047\":1.5,\"5\":2},\"presence_penalty\":-2,"
              "\"frequency_penalty\":2,\"repetition_penalty\":1.5,\"seed\":42,\"logprobs\":5,\"echo\":true,"
              "\"suffix\":null,\"user\":\"me\",\"cache_prompt\":false,\"cache_salt\":\"me\",\"what is this\":[{}]}");
    const struct gen_params *p = &request.params;
    const struct l4_sampling *s = &p->sampling;
    assert_int_equal(p->max_tokens, 0);
    assert_true(p->no_prefix_cache);
    assert_string_equal(p->salt, "me");
    assert_true(s->temperature == 0 && s->top_p == 0.5f && s->top_k == 3 && s->min_p == 0.25f);
    assert_true(s->presence_penalty == -2 && s->frequency_penalty == 2 && s->repetition_penalty == 1.5f);
    assert_int_equal(p->n, 2);
    assert_int_equal(p->best_of, 4);
    assert_int_equal(p->n_stop, 2);
    assert_string_equal(p->stop[1].data, "yz");
    assert_int_equal(p->n_stop_ids, 2);
    assert_int_equal(p->stop_ids[1], 2047);
    assert_int_equal(s->n_logit_bias, 2);
    assert_true(s->logit_bias[0].id == 5 && s->logit_bias[0].bias == 2);
    assert_true(s->logit_bias[1].id == 2047 && s->logit_bias[1].bias == 1.5f);
    assert_true(p->has_seed && s->seed == 42);
    assert_true(p->logprobs && p->n_top_logprobs == 5 && p->echo && p->ignore_eos);
    completions_request_free(&request);
    decode_ok("{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"stop\":\"one\"}");
    assert_true(request.params.stream && request.params.include_usage);
    assert_int_equal(request.params.n_stop, 1);
    completions_request_free(&request);
}

static void test_null_counts_as_absent(void **state) {
    (void)state;
    decode_ok("{\"prompt\":\"a\",\"model\":null,\"max_tokens\":null,\"temperature\":null,\"n\":null,\"best_of\":null,"
              "\"stop\":null,\"stop_token_ids\":null,\"logit_bias\":null,\"seed\":null,\"logprobs\":null,"
              "\"echo\":null,\"stream\":null,\"stream_options\":null,\"user\":null}");
    assert_int_equal(request.params.max_tokens, 16);
    assert_false(request.params.logprobs || request.params.has_seed);
    completions_request_free(&request);
}

static void test_four_forms_of_prompt(void **state) {
    (void)state;
    decode_ok("{\"prompt\":[\"a\",\"\",\"c\"]}");
    assert_int_equal(request.n_prompts, 3);
    assert_int_equal(request.prompts[1].text.len_bytes, 0);
    assert_non_null(request.prompts[1].text.data);
    completions_request_free(&request);
    decode_ok("{\"prompt\":[0,5,2047]}");
    assert_int_equal(request.n_prompts, 1);
    assert_null(request.prompts[0].text.data);
    assert_int_equal(request.prompts[0].n_ids, 3);
    assert_int_equal(request.prompts[0].ids[2], 2047);
    completions_request_free(&request);
    decode_ok("{\"prompt\":[[1],[2,3]]}");
    assert_int_equal(request.n_prompts, 2);
    assert_int_equal(request.prompts[1].n_ids, 2);
    completions_request_free(&request);
}

static void test_seeds_are_exact(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t seed;
    } cases[] = {
        {"0", 0},
        {"9007199254740993", 9007199254740993u}, /* 2^53 + 1: no double */
        {"18446744073709551615", UINT64_MAX},
        {"9223372036854775808", 1ull << 63},
        {"-1", UINT64_MAX},
        {"-9223372036854775808", 1ull << 63},
        {"1e3", 1000},
        {"7.0", 7},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[96];
        snprintf(text, sizeof text, "{\"prompt\":\"a\", \"seed\" : %s }", cases[i].text);
        decode_ok(text);
        assert_true(request.params.has_seed);
        if (request.params.sampling.seed != cases[i].seed)
            fail_msg("seed %s was read as %llu", cases[i].text, (unsigned long long)request.params.sampling.seed);
        completions_request_free(&request);
    }
}

static void test_choices_of_a_prompt_have_different_seeds(void **state) {
    (void)state;
    struct gen_params a = {.sampling.seed = 1}, b = {.sampling.seed = 2};
    assert_true(params_choice_seed(&a, 0) == 1);
    assert_true(params_choice_seed(&a, 1) == params_choice_seed(&a, 1));
    assert_true(params_choice_seed(&a, 1) != params_choice_seed(&a, 2));
    assert_true(params_choice_seed(&a, 1) != params_choice_seed(&b, 0));
    assert_true(params_choice_seed(&a, 2) != params_choice_seed(&b, 1));
}

static void test_bad_fields_are_named(void **state) {
    (void)state;
    static const struct {
        const char *field, *param;
    } cases[] = {
        {"\"model\":5", "model"},
        {"\"max_tokens\":-1", "max_tokens"},
        {"\"max_tokens\":1.5", "max_tokens"},
        {"\"max_tokens\":1e308", "max_tokens"},
        {"\"max_tokens\":9223372036854775808", "max_tokens"},
        {"\"max_tokens\":\"5\"", "max_tokens"},
        {"\"temperature\":-0.1", "temperature"},
        {"\"temperature\":2.1", "temperature"},
        {"\"temperature\":1e308", "temperature"},
        {"\"temperature\":\"NaN\"", "temperature"},
        {"\"temperature\":true", "temperature"},
        {"\"top_p\":1.01", "top_p"},
        {"\"top_p\":-1", "top_p"},
        {"\"min_p\":2", "min_p"},
        {"\"top_k\":-1", "top_k"},
        {"\"top_k\":0.5", "top_k"},
        {"\"top_k\":9223372036854775808", "top_k"},
        {"\"n\":0", "n"},
        {"\"n\":129", "n"},
        {"\"n\":1000000000", "n"},
        {"\"n\":1.5", "n"},
        {"\"n\":[]", "n"},
        {"\"best_of\":0", "best_of"},
        {"\"n\":3,\"best_of\":2", "best_of"},
        {"\"best_of\":2,\"stream\":true", "best_of"},
        {"\"presence_penalty\":-2.1", "presence_penalty"},
        {"\"frequency_penalty\":2.1", "frequency_penalty"},
        {"\"repetition_penalty\":0", "repetition_penalty"},
        {"\"repetition_penalty\":1e308", "repetition_penalty"},
        {"\"seed\":1.5", "seed"},
        {"\"seed\":\"1\"", "seed"},
        {"\"seed\":18446744073709551616", "seed"},
        {"\"seed\":-9223372036854775809", "seed"},
        {"\"seed\":1e308", "seed"},
        {"\"logprobs\":-1", "logprobs"},
        {"\"logprobs\":21", "logprobs"},
        {"\"logprobs\":true", "logprobs"},
        {"\"echo\":1", "echo"},
        {"\"suffix\":\"x\"", "suffix"},
        {"\"stream\":\"yes\"", "stream"},
        {"\"stream\":true,\"stream_options\":true", "stream_options"},
        {"\"stream_options\":{}", "stream_options"},
        {"\"stream\":true,\"stream_options\":{\"include_usage\":1}", "stream_options.include_usage"},
        {"\"stop\":5", "stop"},
        {"\"stop\":\"\"", "stop"},
        {"\"stop\":[\"a\",5]", "stop"},
        {"\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\",\"12\",\"13\",\"14\",\"15\","
         "\"16\",\"17\"]",
         "stop"},
        {"\"stop_token_ids\":5", "stop_token_ids"},
        {"\"stop_token_ids\":[-1]", "stop_token_ids"},
        {"\"stop_token_ids\":[2048]", "stop_token_ids"},
        {"\"stop_token_ids\":[1.5]", "stop_token_ids"},
        {"\"logit_bias\":[]", "logit_bias"},
        {"\"logit_bias\":{\"2048\":1}", "logit_bias"},
        {"\"logit_bias\":{\"-1\":1}", "logit_bias"},
        {"\"logit_bias\":{\"4294967296\":1}", "logit_bias"},
        {"\"logit_bias\":{\"99999999999999999999\":1}", "logit_bias"},
        {"\"logit_bias\":{\"05\":1}", "logit_bias"},
        {"\"logit_bias\":{\"\":1}", "logit_bias"},
        {"\"logit_bias\":{\"cat\":1}", "logit_bias"},
        {"\"logit_bias\":{\"5\":101}", "logit_bias"},
        {"\"logit_bias\":{\"5\":-1e308}", "logit_bias"},
        {"\"logit_bias\":{\"5\":\"1\"}", "logit_bias"},
        {"\"logit_bias\":{\"5\":null}", "logit_bias"},
        {"\"ignore_eos\":0", "ignore_eos"},
        {"\"user\":5", "user"},
        {"\"cache_prompt\":\"no\"", "cache_prompt"},
        {"\"cache_salt\":1", "cache_salt"},
        {"\"cache_salt\":\"0123456789012345678901234567890123456789012345678901234567890123x\"", "cache_salt"},
        {"\"grammar\":\"root ::= x\"", "grammar"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"prompt\":\"a\",%s}", cases[i].field);
        if (decode(text) != L4_E_INVALID || err.status != 400 || strcmp(err.param, cases[i].param) != 0)
            fail_msg("%s: status %d, param '%s', '%s'", cases[i].field, err.status, err.param, err.message);
        completions_request_free(&request);
    }
}

static void test_bad_prompts_are_named(void **state) {
    (void)state;
    static const struct {
        const char *prompt, *param;
    } cases[] = {
        {"null", "prompt"},
        {"5", "prompt"},
        {"{}", "prompt"},
        {"[]", "prompt"},
        {"[[]]", "prompt[0]"},
        {"[1,-1]", "prompt[1]"},
        {"[1,2048]", "prompt[1]"},
        {"[1,0.5]", "prompt[1]"},
        {"[1,\"a\"]", "prompt[1]"},
        {"[\"a\",5]", "prompt[1]"},
        {"[\"a\",[5]]", "prompt"},
        {"[[5],\"a\"]", "prompt"},
        {"[[5],[6,1e99]]", "prompt[1][1]"},
        {"[true]", "prompt[0]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[64];
        snprintf(text, sizeof text, "{\"prompt\":%s}", cases[i].prompt);
        if (decode(text) != L4_E_INVALID || err.status != 400 || strcmp(err.param, cases[i].param) != 0)
            fail_msg("%s: status %d, param '%s', '%s'", cases[i].prompt, err.status, err.param, err.message);
        completions_request_free(&request);
    }
}

static void test_prompts_times_n_are_bounded(void **state) {
    (void)state;
    struct l4_buf text = {0};
    l4_buf_puts(&text, "{\"n\":128,\"prompt\":[\"a\"");
    for (int i = 0; i < 8; i++)
        l4_buf_puts(&text, ",\"a\"");
    l4_buf_puts(&text, "]}");
    assert_int_equal(decode(text.data), L4_E_INVALID);
    assert_string_equal(err.param, "n");
    assert_string_equal(err.message,
                        "9 prompts times 128 choices are more than the 1024 that this server takes at once");
    completions_request_free(&request);
    l4_buf_free(&text);
}

static void test_a_megabyte_of_stop(void **state) {
    (void)state;
    struct l4_buf text = {0};
    l4_buf_puts(&text, "{\"prompt\":\"a\",\"stop\":\"");
    for (int i = 0; i < 1 << 20; i++)
        l4_buf_puts(&text, "x");
    l4_buf_puts(&text, "\"}");
    assert_int_equal(decode(text.data), L4_E_INVALID);
    assert_string_equal(err.param, "stop");
    completions_request_free(&request);
    l4_buf_free(&text);
}

static void test_unknown_model_is_not_found(void **state) {
    (void)state;
    assert_int_equal(decode("{\"prompt\":\"a\",\"model\":\"other\"}"), L4_E_INVALID);
    assert_int_equal(err.status, 404);
    assert_string_equal(err.code, "model_not_found");
    assert_string_equal(err.param, "model");
    completions_request_free(&request);
}

static void test_every_allocation_may_fail(void **state) {
    (void)state;
    const char *text =
        "{\"prompt\":[[1,2],[3]],\"stop\":[\"a\"],\"stop_token_ids\":[1],\"logit_bias\":{\"5\":1},\"seed\":1}";
    int n_failed = 0;
    FAILMALLOC_EACH(n) {
        int rc = decode(text);
        if (failmalloc_disarm()) {
            assert_int_equal(rc, L4_E_NOMEM);
            assert_int_equal(err.status, 503);
            assert_string_equal(err.param, "");
            n_failed++;
        } else {
            assert_int_equal(rc, 0);
        }
        completions_request_free(&request);
    }
    assert_true(n_failed > (FAILMALLOC_SEES_LIBRARIES ? 20 : 3)); /* most are cJSON's */
}

static void test_answers(void **state) {
    (void)state;
    struct answer_head head;
    struct l4_buf out = {0};
    answer_head_init(&head, "cmpl-1", "text_completion", 5, "de\"mo", "fp_1");
    struct answer_choice choices[2] = {{.index = 0, .text = {"a\n", 2}}, {.index = 1, .text = {"", 0}}};
    completions_put_chunk(&out, &head, &choices[0], true);
    assert_string_equal(out.data,
                        "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":5,\"model\":\"de\\\"mo\","
                        "\"system_fingerprint\":\"fp_1\",\"choices\":[{\"index\":0,\"text\":\"a\\n\",\"logprobs\":null,"
                        "\"finish_reason\":null}],\"usage\":null}");
    l4_buf_clear(&out);
    choices[0].finish_reason = choices[1].finish_reason = "stop";
    struct answer_usage usage = {
        .prompt_tokens = 3, .completion_tokens = 4, .cached_tokens = 1, .prefill_s = 0.5, .decode_s = 2};
    completions_put_whole(&out, &head, choices, 2, &usage);
    cJSON *answer = cJSON_Parse(out.data);
    assert_non_null(answer);
    assert_int_equal(cJSON_GetArraySize(codec_get(answer, "choices")), 2);
    const cJSON *counts = codec_get(answer, "usage");
    assert_int_equal(codec_get(counts, "total_tokens")->valueint, 7);
    assert_int_equal(codec_get(codec_get(counts, "prompt_tokens_details"), "cached_tokens")->valueint, 1);
    cJSON_Delete(answer);
    l4_buf_clear(&out);
    answer_put_usage_chunk(&out, &head, &usage);
    answer = cJSON_Parse(out.data);
    assert_non_null(answer);
    assert_int_equal(cJSON_GetArraySize(codec_get(answer, "choices")), 0);
    assert_int_equal(codec_get(codec_get(answer, "usage"), "completion_tokens")->valueint, 4);
    cJSON_Delete(answer);
    assert_non_null(strstr(out.data, "\"timings\":{\"cache_n\":1,\"prompt_n\":2,\"prompt_ms\":500.000,"
                                     "\"prompt_per_second\":4.000,\"predicted_n\":4,\"predicted_ms\":2000.000,"
                                     "\"predicted_per_second\":2.000}}"));
    l4_buf_free(&out);
    answer_head_free(&head);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_request_leaves_out),
        cmocka_unit_test(test_every_field),
        cmocka_unit_test(test_null_counts_as_absent),
        cmocka_unit_test(test_four_forms_of_prompt),
        cmocka_unit_test(test_seeds_are_exact),
        cmocka_unit_test(test_choices_of_a_prompt_have_different_seeds),
        cmocka_unit_test(test_bad_fields_are_named),
        cmocka_unit_test(test_bad_prompts_are_named),
        cmocka_unit_test(test_prompts_times_n_are_bounded),
        cmocka_unit_test(test_a_megabyte_of_stop),
        cmocka_unit_test(test_unknown_model_is_not_found),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
