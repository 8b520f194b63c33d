/* POST /v1/chat/completions decoded, field by field; its answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/codec_chat.h"
#include "tests/lib/failmalloc.h"

static struct codec_limits limits = {
    .model_name = "demo", .vocab_size = 2048, .max_choices = 64, .defaults = {.temperature = 1}};
static struct chat_request request;
static struct codec_err err;

#define HELLO "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]"

static int decode(const char *text) {
    memset(&err, 0, sizeof err);
    return chat_decode(text, strlen(text), &limits, &request, &err);
}

static void decode_ok(const char *text) {
    if (decode(text))
        fail_msg("%s: %s", text, err.message);
}

static void assert_text(struct l4_text text, const char *want) {
    assert_int_equal(text.len_bytes, strlen(want));
    assert_memory_equal(text.data, want, text.len_bytes);
}

static void test_what_a_request_leaves_out(void **state) {
    (void)state;
    decode_ok("{" HELLO "}");
    assert_int_equal(request.chat.n_messages, 1);
    assert_string_equal(request.chat.messages[0].role, "user");
    assert_text(request.chat.messages[0].content, "Hi");
    assert_int_equal(request.chat.n_tools, 0);
    assert_true(request.chat.add_generation_prompt);
    assert_false(request.chat.continue_final_message);
    assert_int_equal(request.params.max_tokens, -1);
    assert_false(request.params.logprobs);
    chat_request_free(&request);
}

static void test_messages(void **state) {
    (void)state;
    decode_ok(
        "{\"messages\":[{\"role\":\"developer\",\"content\":\"Be brief.\"},"
        "{\"role\":\"user\",\"name\":\"Ann\",\"content\":[{\"type\":\"text\",\"text\":\"one \"},"
        "{\"text\":\"two\",\"type\":\"text\"}]},"
        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":"
        "{\"name\":\"add\",\"arguments\":\"{\\\"a\\\": 1.0}\"}},"
        "{\"function\":{\"arguments\": {\"n\": 12345678901234567890, \"f\":1.0},\"name\":\"raw\"}},"
        "{\"function\":{\"name\":\"bare\",\"arguments\":\"\"}}]},"
        "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"3\"},"
        "{\"role\":\"assistant\",\"content\":[{\"type\":\"refusal\",\"refusal\":\"No.\"}]}]}");
    const struct l4_message *m = request.chat.messages;
    assert_int_equal(request.chat.n_messages, 5);
    assert_string_equal(m[0].role, "system");
    assert_text(m[1].content, "one two");
    assert_text(m[2].content, "");
    assert_int_equal(m[2].n_tool_calls, 3);
    assert_text(m[2].tool_calls[0].name, "add");
    assert_text(m[2].tool_calls[0].arguments_json, "{\"a\": 1.0}");
    assert_text(m[2].tool_calls[1].arguments_json, "{\"n\": 12345678901234567890, \"f\":1.0}");
    assert_text(m[2].tool_calls[2].arguments_json, "{}");
    assert_string_equal(m[3].role, "tool");
    assert_text(m[4].content, "No.");
    chat_request_free(&request);
}

#define TOOL "{\"type\":\"function\",\"function\":{ \"name\":\"f\", \"zeta\":1.0,\"alpha\":12345678901234567890}}"

static void test_tools_are_the_clients_own_text(void **state) {
    (void)state;
    decode_ok("{" HELLO ",\"tools\":[ " TOOL " ,{\"function\":{\"name\":\"g\"},\"type\":\"function\"}]}");
    assert_int_equal(request.chat.n_tools, 2);
    assert_text(request.chat.tools_json[0], TOOL);
    assert_true(tool_names_has(request.tools, (struct l4_text){"f", 1}));
    assert_text(request.chat.tools_json[1], "{\"function\":{\"name\":\"g\"},\"type\":\"function\"}");
    chat_request_free(&request);
    decode_ok("{\"tools\":[" TOOL "],\"tool_choice\":\"none\",\"parallel_tool_calls\":false," HELLO "}");
    assert_int_equal(request.chat.n_tools, 0);
    assert_null(request.tools);
    assert_false(request.parallel_tool_calls);
    chat_request_free(&request);
    decode_ok("{\"tools\":[" TOOL "],\"tool_choice\":\"auto\"," HELLO "}");
    assert_int_equal(request.chat.n_tools, 1);
    assert_non_null(request.tools);
    assert_true(request.parallel_tool_calls);
    chat_request_free(&request);
    decode_ok("{\"tools\":[" TOOL "],\"tool_choice\":\"required\"," HELLO "}");
    assert_non_null(request.params.grammar);
    assert_null(request.only_tool);
    chat_request_free(&request);
    decode_ok("{\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}," HELLO "}");
    assert_non_null(request.params.grammar);
    assert_string_equal(request.only_tool, "f");
    chat_request_free(&request);
    decode_ok("{\"tools\":[]," HELLO "}");
    assert_int_equal(request.chat.n_tools, 0);
    chat_request_free(&request);
}

static void test_own_fields(void **state) {
    (void)state;
    decode_ok("{" HELLO ",\"max_tokens\":9,\"max_completion_tokens\":5,\"logprobs\":true,\"top_logprobs\":20,\"n\":3,"
              "\"response_format\":{\"type\":\"text\"},\"seed\":18446744073709551615,\"store\":false,"
              "\"messages_of_another\":1}");
    assert_int_equal(request.params.max_tokens, 5);
    assert_null(request.params.grammar);
    assert_true(request.params.logprobs);
    assert_int_equal(request.params.n_top_logprobs, 20);
    assert_int_equal(request.params.n, 3);
    assert_true(request.params.sampling.seed == UINT64_MAX);
    chat_request_free(&request);
    decode_ok("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}],"
              "\"continue_final_message\":true}");
    assert_true(request.chat.continue_final_message);
    assert_false(request.chat.add_generation_prompt);
    chat_request_free(&request);
    decode_ok("{" HELLO ",\"add_generation_prompt\":false}");
    assert_false(request.chat.add_generation_prompt);
    chat_request_free(&request);
    static const char *const held[] = {
        "\"response_format\":{\"type\":\"json_object\"}", "\"grammar\":\"root ::= [a-z]\"",
        ("\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"strict\":true,"
         "\"schema\":{\"type\":\"integer\"}}}")};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) {
        char text[512];
        snprintf(text, sizeof text, "{" HELLO ",%s}", held[i]);
        decode_ok(text);
        assert_non_null(request.params.grammar);
        chat_request_free(&request);
    }
}

static void test_bad_fields_are_named(void **state) {
    (void)state;
    static const struct {
        const char *field, *param;
    } cases[] = {
        {"\"max_tokens\":0", "max_tokens"},
        {"\"max_tokens\":-1", "max_tokens"},
        {"\"max_completion_tokens\":0", "max_completion_tokens"},
        {"\"max_completion_tokens\":1e308", "max_completion_tokens"},
        {"\"max_completion_tokens\":\"many\"", "max_completion_tokens"},
        {"\"logprobs\":5", "logprobs"},
        {"\"logprobs\":true,\"top_logprobs\":21", "top_logprobs"},
        {"\"logprobs\":true,\"top_logprobs\":-1", "top_logprobs"},
        {"\"top_logprobs\":3", "top_logprobs"},
        {"\"temperature\":3", "temperature"},
        {"\"n\":0", "n"},
        {"\"n\":65", "n"},
        {"\"tools\":{}", "tools"},
        {"\"tools\":[5]", "tools[0]"},
        {"\"tools\":[{\"type\":\"retrieval\"}]", "tools[0].type"},
        {"\"tools\":[{\"type\":\"function\"}]", "tools[0].function"},
        {"\"tools\":[{\"type\":\"function\",\"function\":5}]", "tools[0].function"},
        {"\"tools\":[" TOOL ",{\"type\":\"function\",\"function\":{}}]", "tools[1].function.name"},
        {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":5}}]", "tools[0].function.name"},
        {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":\"x\"}}]",
         "tools[0].function.parameters"},
        {"\"tool_choice\":\"required\"", "tool_choice"},
        {"\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}", "tool_choice"},
        {"\"tool_choice\":\"maybe\"", "tool_choice"},
        {"\"tool_choice\":5", "tool_choice"},
        {"\"parallel_tool_calls\":1", "parallel_tool_calls"},
        {"\"response_format\":\"json\"", "response_format"},
        {"\"response_format\":{}", "response_format.type"},
        {"\"response_format\":{\"type\":5}", "response_format.type"},
        {"\"response_format\":{\"type\":\"yaml\"}", "response_format.type"},
        {"\"response_format\":{\"type\":\"json_schema\"}", "response_format.json_schema"},
        {"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}", "response_format.json_schema.name"},
        {"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"schema\":3}}",
         "response_format.json_schema.schema"},
        {"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"schema\":{\"not\":{}}}}",
         "response_format.json_schema.schema"},
        {"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"strict\":1}}",
         "response_format.json_schema.strict"},
        {"\"response_format\":{\"type\":\"json_object\"},\"grammar\":\"root ::= .\"", "grammar"},
        {"\"grammar\":\"root ::= x\"", "grammar"},
        {"\"continue_final_message\":1", "continue_final_message"},
        {"\"continue_final_message\":true", "continue_final_message"},
        {"\"continue_final_message\":true,\"add_generation_prompt\":true", "add_generation_prompt"},
        {"\"add_generation_prompt\":\"no\"", "add_generation_prompt"},
        {"\"functions\":[]", "functions"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        snprintf(text, sizeof text, "{" HELLO ",%s}", cases[i].field);
        if (decode(text) != L4_E_INVALID || err.status != 400 || strcmp(err.param, cases[i].param) != 0)
            fail_msg("%s: status %d, param '%s', '%s'", cases[i].field, err.status, err.param, err.message);
        chat_request_free(&request);
    }
}

static void test_bad_messages_are_named(void **state) {
    (void)state;
    static const struct {
        const char *messages, *param;
    } cases[] = {
        {"null", "messages"},
        {"\"Hi\"", "messages"},
        {"[]", "messages"},
        {"[\"Hi\"]", "messages[0]"},
        {"[{\"content\":\"x\"}]", "messages[0].role"},
        {"[{\"role\":\"wizard\",\"content\":\"x\"}]", "messages[0].role"},
        {"[{\"role\":5,\"content\":\"x\"}]", "messages[0].role"},
        {"[{\"role\":\"user\"}]", "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":null}]", "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":5}]", "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":[]}]", "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":[\"x\"]}]", "messages[0].content[0]"},
        {"[{\"role\":\"user\",\"content\":[{}]}]", "messages[0].content[0].type"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", "messages[0].content[0].text"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":5}]}]", "messages[0].content[0].text"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"},{\"type\":\"image_url\",\"image_url\":"
         "{\"url\":\"http://x/y.png\"}}]}]",
         "messages[0].content[1].type"},
        {"[{\"role\":\"user\",\"content\":\"x\",\"name\":5}]", "messages[0].name"},
        {"[{\"role\":\"tool\",\"content\":\"x\",\"tool_call_id\":5}]", "messages[0].tool_call_id"},
        {"[{\"role\":\"user\",\"content\":\"x\",\"tool_calls\":[{}]}]", "messages[0].tool_calls"},
        {"[{\"role\":\"assistant\",\"tool_calls\":5}]", "messages[0].tool_calls"},
        {"[{\"role\":\"assistant\",\"tool_calls\":[5]}]", "messages[0].tool_calls[0]"},
        {"[{\"role\":\"assistant\",\"tool_calls\":[{}]}]", "messages[0].tool_calls[0].function"},
        {"[{\"role\":\"assistant\",\"tool_calls\":[{\"type\":\"x\"}]}]", "messages[0].tool_calls[0].type"},
        {"[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{}}]}]", "messages[0].tool_calls[0].function.name"},
        {"[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":5}}]}]",
         "messages[0].tool_calls[0].function.arguments"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"messages\":%s}", cases[i].messages);
        if (decode(text) != L4_E_INVALID || err.status != 400 || strcmp(err.param, cases[i].param) != 0)
            fail_msg("%s: status %d, param '%s', '%s'", cases[i].messages, err.status, err.param, err.message);
        chat_request_free(&request);
    }
    assert_int_equal(decode("{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}"),
                     L4_E_INVALID);
    assert_non_null(strstr(err.message, "images are not served"));
    chat_request_free(&request);
}

static void test_every_allocation_may_fail(void **state) {
    (void)state;
    const char *text = "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]},"
                       "{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{}}}]}],"
                       "\"tools\":[" TOOL "],\"tool_choice\":\"required\",\"logit_bias\":{\"5\":1}}";
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
        chat_request_free(&request);
    }
    assert_true(n_failed > (FAILMALLOC_SEES_LIBRARIES ? 20 : 3)); /* most are cJSON's */
}

static void test_answers(void **state) {
    (void)state;
    struct answer_head head;
    struct l4_buf out = {0};
    struct answer_choice choice = {.index = 2, .text = {"say \"hi\"", 8}};
    answer_head_init(&head, "chatcmpl-1", "chat.completion.chunk", 5, "demo", "fp_1");
#define HEAD                                                                                                           \
    "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":5,\"model\":\"demo\","                    \
    "\"system_fingerprint\":\"fp_1\",\"choices\":[{\"index\":2,"
    chat_put_chunk(&out, &head, CHAT_DELTA_ROLE, &choice, false);
    assert_string_equal(out.data, HEAD "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                                       "\"finish_reason\":null}]}");
    l4_buf_clear(&out);
    chat_put_chunk(&out, &head, CHAT_DELTA_TEXT, &choice, true);
    assert_string_equal(out.data, HEAD "\"delta\":{\"content\":\"say \\\"hi\\\"\"},\"logprobs\":null,"
                                       "\"finish_reason\":null}],\"usage\":null}");
    l4_buf_clear(&out);
    choice.finish_reason = "length";
    chat_put_chunk(&out, &head, CHAT_DELTA_FINISH, &choice, false);
    assert_string_equal(out.data, HEAD "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\"}]}");
    l4_buf_clear(&out);
    struct answer_usage usage = {.prompt_tokens = 3, .completion_tokens = 4};
    chat_put_whole(&out, &head, &choice, 1, &usage);
    cJSON *answer = cJSON_Parse(out.data);
    assert_non_null(answer);
    const cJSON *first = codec_get(answer, "choices")->child, *message = codec_get(first, "message");
    assert_string_equal(codec_get(message, "role")->valuestring, "assistant");
    assert_string_equal(codec_get(message, "content")->valuestring, "say \"hi\"");
    assert_string_equal(codec_get(first, "finish_reason")->valuestring, "length");
    assert_int_equal(codec_get(codec_get(answer, "usage"), "total_tokens")->valueint, 7);
    cJSON_Delete(answer);
    l4_buf_free(&out);
    answer_head_free(&head);
}

static void test_answers_with_calls(void **state) {
    (void)state;
    struct answer_calls calls = {0};
    struct answer_head head;
    struct answer_usage usage = {0};
    struct l4_buf out = {0};
    struct answer_call *call = answer_calls_add(&calls, (struct l4_text){"f", 1});
    assert_non_null(call);
    char id[32];
    memcpy(id, call->id, sizeof id);
    assert_int_equal(strlen(id), 5 + 24);
    answer_head_init(&head, "chatcmpl-1", "chat.completion.chunk", 5, "demo", "fp_1");
    struct answer_choice choice = {.index = 2, .calls = call, .n_calls = 1, .call = 3, .begins_call = true};
    chat_put_chunk(&out, &head, CHAT_DELTA_CALL, &choice, false);
    char want[512];
    snprintf(want, sizeof want,
             HEAD "\"delta\":{\"tool_calls\":[{\"index\":3,\"id\":\"%s\",\"type\":\"function\",\"function\":"
                  "{\"name\":\"f\",\"arguments\":\"\"}}]},\"logprobs\":null,\"finish_reason\":null}]}",
             id);
    assert_string_equal(out.data, want);
    l4_buf_clear(&out);
    l4_buf_puts(&call->arguments, "{\"a\": 1}");
    choice.begins_call = false;
    chat_put_chunk(&out, &head, CHAT_DELTA_CALL, &choice, false);
    assert_string_equal(out.data, HEAD "\"delta\":{\"tool_calls\":[{\"index\":3,\"function\":{\"arguments\":"
                                       "\"{\\\"a\\\": 1}\"}}]},\"logprobs\":null,\"finish_reason\":null}]}");
    l4_buf_clear(&out);
    assert_non_null(answer_calls_add(&calls, (struct l4_text){"g", 1}));
    assert_true(strcmp(calls.list[0].id, calls.list[1].id) != 0);
    assert_non_null(answer_calls_add(&calls, (struct l4_text){"broken", 6}));
    answer_calls_drop_last(&calls);
    choice = (struct answer_choice){.index = 2, .text = {"", 0}, .finish_reason = "tool_calls"};
    choice.calls = calls.list;
    choice.n_calls = calls.n;
    chat_put_whole(&out, &head, &choice, 1, &usage);
    snprintf(want, sizeof want,
             HEAD
             "\"message\":{\"role\":\"assistant\",\"content\":null,\"refusal\":null,\"tool_calls\":[{\"id\":\"%s\","
             "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\": 1}\"}},{\"id\":\"",
             id);
    assert_memory_equal(out.data, want, strlen(want));
    assert_non_null(strstr(out.data, "{\"name\":\"g\",\"arguments\":\"\"}}]},\"logprobs\":null,"
                                     "\"finish_reason\":\"tool_calls\"}]"));
    l4_buf_free(&out);
    answer_head_free(&head);
    FAILMALLOC_EACH(n) {
        struct answer_calls some = {0};
        for (int i = 0; i < 3; i++)
            if ((call = answer_calls_add(&some, (struct l4_text){"f", 1})))
                l4_buf_puts(&call->arguments, "{}");
        assert_true(failmalloc_disarm() == answer_calls_failed(&some));
        answer_calls_free(&some);
    }
    answer_calls_free(&calls);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_request_leaves_out),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_tools_are_the_clients_own_text),
        cmocka_unit_test(test_own_fields),
        cmocka_unit_test(test_bad_fields_are_named),
        cmocka_unit_test(test_bad_messages_are_named),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_answers_with_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
