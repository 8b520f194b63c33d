/* Answers of POST /v1/responses put together out of pieces: the object, the events, and every allocation that may fail.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/responses_answer.h"
#include "tests/lib/failmalloc.h"

static struct answer_head head;
static struct answer_usage usage = {.prompt_tokens = 10, .completion_tokens = 4, .cached_tokens = 6};

static int open_head(void **state) {
    (void)state;
    answer_head_init(&head, "resp_0123456789abcdef", "response", 5, "demo", "fp_1");
    return head.text.failed;
}

static int close_head(void **state) {
    (void)state;
    answer_head_free(&head);
    return 0;
}

static struct responses_answer *open_answer(bool is_stream) {
    struct l4_buf echo = {0};
    l4_buf_puts(&echo, "\"tools\":[]");
    struct responses_answer *answer = echo.failed ? NULL : responses_answer_open(&echo, is_stream);
    l4_buf_free(&echo);
    return answer;
}

static void put_text(struct l4_buf *out, struct responses_answer *answer, const char *text, const char *logprobs) {
    struct answer_choice choice = {.text = {text, strlen(text)}, .stop_index = -1};
    struct logprob_list list = {0};
    if (logprobs) {
        l4_buf_puts(&list.parts[0], logprobs);
        choice.logprobs = &list;
    }
    if (!list.parts[0].failed)
        responses_put_text(out, answer, &head, &choice);
    else
        out->failed = true;
    logprob_list_free(&list);
}

/* The name of a call that begins, or a piece of its arguments. */
static void put_call(struct l4_buf *out, struct responses_answer *answer, const char *name, const char *arguments) {
    struct answer_call call = {.id = "call_ab12"};
    l4_buf_puts(&call.name, name);
    l4_buf_puts(&call.arguments, arguments);
    struct answer_choice choice = {.calls = &call, .n_calls = 1, .begins_call = !arguments[0], .stop_index = -1};
    if (call.name.failed || call.arguments.failed)
        out->failed = true;
    else
        responses_put_call(out, answer, &choice);
    l4_buf_free(&call.name);
    l4_buf_free(&call.arguments);
}

static void end_call(struct l4_buf *out, struct responses_answer *answer, bool breaks) {
    struct answer_choice choice = {.breaks_call = breaks, .stop_index = -1};
    responses_put_call_end(out, answer, &choice);
}

static void finish(struct l4_buf *out, struct responses_answer *answer, const char *reason) {
    struct answer_choice choice = {.text = {"", 0}, .finish_reason = reason, .stop_index = -1};
    responses_put_finish(out, answer, &head, &choice);
}

#define RESPONSE(status, incomplete, output)                                                                           \
    "{\"id\":\"resp_0123456789abcdef\",\"object\":\"response\",\"created_at\":5,\"status\":\"" status                  \
    "\",\"error\":null,\"incomplete_details\":" incomplete ",\"model\":\"demo\",\"output\":[" output "],\"usage\":"
#define USAGE                                                                                                          \
    "{\"input_tokens\":10,\"input_tokens_details\":{\"cached_tokens\":6,\"cache_write_tokens\":0},"                    \
    "\"output_tokens\":4,\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":14},\"tools\":[]}"
#define MSG(n) "msg_0123456789abcdef000" n
#define MESSAGE(n, status, text, logprobs)                                                                             \
    "{\"id\":\"" MSG(n) "\",\"type\":\"message\",\"status\":\"" status                                                 \
                        "\",\"role\":\"assistant\",\"content\":[" PART(text, logprobs) "]}"
#define PART(text, logprobs)                                                                                           \
    "{\"type\":\"output_text\",\"text\":\"" text "\",\"annotations\":[],\"logprobs\":[" logprobs "]}"
#define CALL(status, arguments)                                                                                        \
    "{\"id\":\"fc_ab12\",\"type\":\"function_call\",\"status\":\"" status                                              \
    "\",\"call_id\":\"call_ab12\",\"name\":\"f\",\"arguments\":\"" arguments "\"}"

static void assert_whole(struct responses_answer *answer, struct l4_buf *out, const char *want) {
    assert_int_equal(out->len, 0); /* pieces of a whole answer write nothing */
    responses_put_whole(out, answer, &head, &usage);
    assert_string_equal(out->data, want);
    l4_buf_free(out);
    responses_answer_close(answer);
}

static void test_whole(void **state) {
    (void)state;
    struct l4_buf out = {0};
    struct responses_answer *answer = open_answer(false);
    put_text(&out, answer, "say ", "1");
    put_text(&out, answer, "\"hi\"", "2,3");
    put_text(&out, answer, "", "4"); /* the call's */
    put_call(&out, answer, "f", "");
    put_call(&out, answer, "f", "{\"a\"");
    put_text(&out, answer, "", "5");
    put_call(&out, answer, "f", ": 1}");
    end_call(&out, answer, false);
    put_text(&out, answer, "", "6");
    put_text(&out, answer, "", "7");
    put_text(&out, answer, "end", "8");
    finish(&out, answer, "tool_calls");
    assert_whole(answer, &out,
                 RESPONSE("completed", "null",
                          MESSAGE("0", "completed", "say \\\"hi\\\"", "1,2,3") "," CALL(
                              "completed", "{\\\"a\\\": 1}") "," MESSAGE("2", "completed", "end", "7,8")) USAGE);
}

static void test_cut(void **state) {
    (void)state;
    struct l4_buf out = {0};
    struct responses_answer *answer = open_answer(false);
    put_text(&out, answer, "a", NULL);
    put_call(&out, answer, "f", "");
    put_call(&out, answer, "f", "{");
    put_text(&out, answer, "", "1");
    end_call(&out, answer, true);
    put_text(&out, answer, "{f{", "2");
    finish(&out, answer, "length");
    assert_whole(answer, &out,
                 RESPONSE("incomplete", "{\"reason\":\"max_output_tokens\"}",
                          MESSAGE("0", "completed", "a", "") "," MESSAGE("2", "incomplete", "{f{", "1,2")) USAGE);
    answer = open_answer(false);
    put_text(&out, answer, "", "9"); /* a token without text */
    finish(&out, answer, "stop");
    assert_whole(answer, &out, RESPONSE("completed", "null", MESSAGE("0", "completed", "", "9")) USAGE);
}

/* The next event of a stream, which must be this one. */
static const char *expect(const char *at, int number, const char *type, const char *rest) {
    char want[2048];
    int n = snprintf(want, sizeof want, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%d,%s}\n\n", type, type,
                     number, rest);
    assert_in_range(n, 1, sizeof want - 1);
    if (strncmp(at, want, (size_t)n) != 0)
        fail_msg("%.*s\n is not\n%s", n, at, want);
    return at + n;
}

#define ITEM(n)       "\"output_index\":" n ",\"item\":"
#define OF_MESSAGE(n) "\"output_index\":" n ",\"item_id\":\"" MSG(n) "\",\"content_index\":0,"
#define OF_CALL(n)    "\"output_index\":" n ",\"item_id\":\"fc_ab12\","

static void test_stream(void **state) {
    (void)state;
    struct l4_buf out = {0};
    struct responses_answer *answer = open_answer(true);
    responses_put_begin(&out, answer, &head);
    put_text(&out, answer, "a", "1");
    put_text(&out, answer, "", "2");
    put_text(&out, answer, "b", "3");
    put_call(&out, answer, "f", "");
    put_call(&out, answer, "f", "{}");
    end_call(&out, answer, false);
    put_call(&out, answer, "f", "");
    put_call(&out, answer, "f", "{");
    end_call(&out, answer, true);
    put_text(&out, answer, "c", NULL);
    finish(&out, answer, "length");
    responses_put_end(&out, answer, &head, &usage);
    const char *at = out.data;
    int n = 0;
    at = expect(at, n++, "response.created", "\"response\":" RESPONSE("in_progress", "null", "") "null,\"tools\":[]}");
    at = expect(at, n++, "response.in_progress",
                "\"response\":" RESPONSE("in_progress", "null", "") "null,\"tools\":[]}");
    at = expect(at, n++, "response.output_item.added",
                ITEM("0") "{\"id\":\"" MSG("0") "\",\"type\":\"message\",\"status\":\"in_progress\","
                                                "\"role\":\"assistant\",\"content\":[]}");
    at = expect(at, n++, "response.content_part.added", OF_MESSAGE("0") "\"part\":" PART("", ""));
    at = expect(at, n++, "response.output_text.delta", OF_MESSAGE("0") "\"delta\":\"a\",\"logprobs\":[1]");
    at = expect(at, n++, "response.output_text.delta", OF_MESSAGE("0") "\"delta\":\"b\",\"logprobs\":[2,3]");
    at = expect(at, n++, "response.output_text.done", OF_MESSAGE("0") "\"text\":\"ab\",\"logprobs\":[1,2,3]");
    at = expect(at, n++, "response.content_part.done", OF_MESSAGE("0") "\"part\":" PART("ab", "1,2,3"));
    at = expect(at, n++, "response.output_item.done", ITEM("0") MESSAGE("0", "completed", "ab", "1,2,3"));
    at = expect(at, n++, "response.output_item.added", ITEM("1") CALL("in_progress", ""));
    at = expect(at, n++, "response.function_call_arguments.delta", OF_CALL("1") "\"delta\":\"{}\"");
    at = expect(at, n++, "response.function_call_arguments.done", OF_CALL("1") "\"name\":\"f\",\"arguments\":\"{}\"");
    at = expect(at, n++, "response.output_item.done", ITEM("1") CALL("completed", "{}"));
    at = expect(at, n++, "response.output_item.added", ITEM("2") CALL("in_progress", ""));
    at = expect(at, n++, "response.function_call_arguments.delta", OF_CALL("2") "\"delta\":\"{\"");
    at = expect(at, n++, "response.output_item.done", ITEM("2") CALL("incomplete", "{"));
    at = expect(at, n++, "response.output_item.added",
                ITEM("3") "{\"id\":\"" MSG("3") "\",\"type\":\"message\",\"status\":\"in_progress\","
                                                "\"role\":\"assistant\",\"content\":[]}");
    at = expect(at, n++, "response.content_part.added", OF_MESSAGE("3") "\"part\":" PART("", ""));
    at = expect(at, n++, "response.output_text.delta", OF_MESSAGE("3") "\"delta\":\"c\",\"logprobs\":[]");
    at = expect(at, n++, "response.output_text.done", OF_MESSAGE("3") "\"text\":\"c\",\"logprobs\":[]");
    at = expect(at, n++, "response.content_part.done", OF_MESSAGE("3") "\"part\":" PART("c", ""));
    at = expect(at, n++, "response.output_item.done", ITEM("3") MESSAGE("3", "incomplete", "c", ""));
    at = expect(at, n++, "response.incomplete",
                "\"response\":" RESPONSE("incomplete", "{\"reason\":\"max_output_tokens\"}",
                                         MESSAGE("0", "completed", "ab", "1,2,3") "," CALL(
                                             "completed", "{}") "," MESSAGE("3", "incomplete", "c", "")) USAGE);
    assert_string_equal(at, "");
    l4_buf_free(&out);
    responses_answer_close(answer);
}

static void test_failure(void **state) {
    (void)state;
    static const struct {
        bool is_ours;
        const char *code, *error_code, *response_code;
    } cases[] = {{true, "kv_cache_full", "\"kv_cache_full\"", "server_error"}, {false, NULL, "null", "invalid_prompt"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct l4_buf out = {0};
        struct responses_answer *answer = open_answer(true);
        struct responses_failure failure = {cases[i].is_ours, cases[i].code, "no \"more\"", "\"error\":{}"};
        char want[1024];
        put_text(&out, answer, "a", NULL);
        l4_buf_clear(&out);
        responses_put_failure(&out, answer, &head, &usage, &failure);
        snprintf(want, sizeof want, "\"code\":%s,\"message\":\"no \\\"more\\\"\",\"param\":null,\"error\":{}",
                 cases[i].error_code);
        const char *at = expect(out.data, 3, "error", want);
        snprintf(want, sizeof want,
                 "\"response\":{\"id\":\"resp_0123456789abcdef\",\"object\":\"response\",\"created_at\":5,"
                 "\"status\":\"failed\",\"error\":{\"code\":\"%s\",\"message\":\"no \\\"more\\\"\"},"
                 "\"incomplete_details\":null,\"model\":\"demo\",\"output\":[" MESSAGE("0", "incomplete", "a",
                                                                                       "") "],\"usage\":" USAGE,
                 cases[i].response_code);
        at = expect(at, 4, "response.failed", want);
        assert_string_equal(at, "");
        l4_buf_free(&out);
        responses_answer_close(answer);
    }
}

/* What was lost for want of memory is never sent as if it were whole. */
static void test_every_allocation_may_fail(void **state) {
    (void)state;
    int n_failed = 0;
    for (int is_stream = 0; is_stream < 2; is_stream++)
        FAILMALLOC_EACH(n) {
            struct l4_buf out = {0};
            struct responses_answer *answer = open_answer(is_stream);
            for (int i = 0; answer && i < 3; i++) {
                put_text(&out, answer, "text", "1");
                put_call(&out, answer, "f", "");
                put_call(&out, answer, "f", "{}");
                end_call(&out, answer, i == 1);
            }
            if (answer)
                finish(&out, answer, "stop");
            if (answer && is_stream)
                responses_put_end(&out, answer, &head, &usage);
            else if (answer)
                responses_put_whole(&out, answer, &head, &usage);
            bool failed = failmalloc_disarm();
            assert_true(out.failed || (failed ? !answer : out.len > 0));
            n_failed += failed;
            l4_buf_free(&out);
            responses_answer_close(answer);
        }
    assert_true(n_failed > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_failure),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, open_head, close_head);
}
