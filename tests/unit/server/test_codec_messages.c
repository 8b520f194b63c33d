/* POST /v1/messages decoded, field by field; its answers, whole and as events. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/codec_messages.h"
#include "tests/lib/failmalloc.h"

static struct codec_limits limits = {
    .model_name = "demo", .vocab_size = 2048, .max_choices = 64, .defaults = {.temperature = 1}};
static struct messages_request request;
static struct codec_err err;

#define HELLO "\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]"
#define TOOL                                                                                                           \
    "{\"name\":\"f\",\"description\":\"Does \\\"f\\\".\",\"input_schema\":{ \"type\":\"object\",\"properties\":"       \
    "{\"n\":{\"type\":\"integer\",\"maximum\":12345678901234567890}}},\"cache_control\":{\"type\":\"ephemeral\"}}"

static int decode_for(enum messages_use use, const char *text) {
    memset(&err, 0, sizeof err);
    return messages_decode(text, strlen(text), use, &limits, &request, &err);
}

static int decode(const char *text) {
    return decode_for(MESSAGES_ANSWER, text);
}

static void decode_ok(const char *text) {
    if (decode(text))
        fail_msg("%s: '%s' %s", text, err.param, err.message);
}

static void assert_text(struct l4_text text, const char *want) {
    if (text.len_bytes != strlen(want) || memcmp(text.data, want, text.len_bytes) != 0)
        fail_msg("'%.*s' is not '%s'", (int)text.len_bytes, text.data, want);
}

static void assert_message(size_t i, const char *role, const char *content) {
    assert_true(i < request.chat.n_messages);
    assert_string_equal(request.chat.messages[i].role, role);
    assert_text(request.chat.messages[i].content, content);
}

static void test_what_a_request_leaves_out(void **state) {
    (void)state;
    decode_ok("{" HELLO "}");
    assert_int_equal(request.chat.n_messages, 1);
    assert_message(0, "user", "Hi");
    assert_int_equal(request.chat.n_tools, 0);
    assert_null(request.tools);
    assert_null(request.params.grammar);
    assert_true(request.parallel_tool_calls);
    assert_true(request.chat.add_generation_prompt);
    assert_false(request.chat.continue_final_message);
    assert_int_equal(request.params.max_tokens, 5);
    assert_int_equal(request.params.n, 1);
    assert_int_equal(request.params.best_of, 1);
    assert_int_equal(request.params.n_stop, 0);
    assert_false(request.params.stream);
    messages_request_free(&request);
}

static void test_own_and_shared_fields(void **state) {
    (void)state;
    decode_ok(
        "{" HELLO ",\"model\":\"demo\",\"temperature\":2,\"top_p\":0.5,\"top_k\":3,\"stream\":true,"
        "\"stop_sequences\":[\"END\",\"\\n\"],\"metadata\":{\"user_id\":\"u\"},\"thinking\":{\"type\":\"disabled\"},"
        "\"seed\":18446744073709551615,\"min_p\":0.25,\"ignore_eos\":true,\"cache_prompt\":false,"
        "\"cache_salt\":\"s\",\"output_config\":{\"effort\":\"low\"},\"service_tier\":\"auto\","
        "\"n\":7,\"stop\":\"no field of this endpoint\",\"stream_options\":5}");
    assert_true(request.params.sampling.temperature == 2 && request.params.sampling.top_p == 0.5f);
    assert_int_equal(request.params.sampling.top_k, 3);
    assert_true(request.params.sampling.min_p == 0.25f && request.params.sampling.seed == UINT64_MAX);
    assert_true(request.params.stream && request.params.ignore_eos && request.params.no_prefix_cache);
    assert_string_equal(request.params.salt, "s");
    assert_int_equal(request.params.n_stop, 2);
    assert_text(request.params.stop[0], "END");
    assert_text(request.params.stop[1], "\n");
    assert_int_equal(request.params.n, 1);
    messages_request_free(&request);
    static const char *const held[] = {
        "\"grammar\":\"root ::= [a-z]\"",
        "\"output_config\":{\"format\":{\"type\":\"json_schema\",\"schema\":{\"type\":\"integer\"}}}"};
    for (size_t i = 0; i < 2; i++) {
        char text[512];
        snprintf(text, sizeof text, "{" HELLO ",%s}", held[i]);
        decode_ok(text);
        assert_non_null(request.params.grammar);
        messages_request_free(&request);
    }
}

static void test_max_tokens_is_not_needed_to_count(void **state) {
    (void)state;
    const char *text = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}";
    assert_int_equal(decode_for(MESSAGES_COUNT, text), 0);
    messages_request_free(&request);
    assert_int_equal(decode(text), L4_E_INVALID);
    assert_string_equal(err.param, "max_tokens");
    messages_request_free(&request);
    assert_int_equal(decode_for(MESSAGES_COUNT, "{\"max_tokens\":0,\"messages\":[]}"), L4_E_INVALID);
    assert_string_equal(err.param, "max_tokens");
    messages_request_free(&request);
}

static void test_system(void **state) {
    (void)state;
    static const struct {
        const char *system, *want;
    } cases[] = {
        {"\"Be brief.\"", "Be brief."},
        {"[{\"type\":\"text\",\"text\":\"Be \",\"cache_control\":{\"type\":\"ephemeral\"}},"
         "{\"type\":\"text\",\"text\":\"brief.\"}]",
         "Be brief."},
        {"\"\"", NULL},
        {"[]", NULL},
        {"[{\"type\":\"text\",\"text\":\"\"}]", NULL},
        {"null", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        snprintf(text, sizeof text, "{" HELLO ",\"system\":%s}", cases[i].system);
        decode_ok(text);
        assert_int_equal(request.chat.n_messages, cases[i].want ? 2 : 1);
        if (cases[i].want)
            assert_message(0, "system", cases[i].want);
        assert_message(request.chat.n_messages - 1, "user", "Hi");
        messages_request_free(&request);
    }
}

static void test_messages(void **state) {
    (void)state;
    decode_ok(
        "{\"max_tokens\":1,\"system\":\"S\",\"messages\":["
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"one \"},{\"text\":\"two\",\"type\":\"text\"}]},"
        "{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"I look.\"},"
        "{\"type\":\"tool_use\",\"id\":\"a\",\"name\":\"f\",\"input\":{\"n\": 12345678901234567890}},"
        "{\"input\":{},\"type\":\"tool_use\",\"id\":\"b\",\"name\":\"g\"}]},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"a\",\"content\":\"3\"},"
        "{\"type\":\"tool_result\",\"tool_use_id\":\"b\",\"is_error\":true,\"content\":[{\"type\":\"text\",\"text\":"
        "\"no \"},{\"type\":\"text\",\"text\":\"way\"}]},{\"type\":\"tool_result\",\"tool_use_id\":\"c\"},"
        "{\"type\":\"text\",\"text\":\"And\"},{\"type\":\"text\",\"text\":\" now?\"}]},"
        "{\"role\":\"assistant\",\"content\":[]},{\"role\":\"system\",\"content\":\"T\"}]}");
    assert_int_equal(request.chat.n_messages, 9);
    assert_message(0, "system", "S");
    assert_message(1, "user", "one two");
    assert_message(2, "assistant", "I look.");
    const struct l4_message *calls = &request.chat.messages[2];
    assert_int_equal(calls->n_tool_calls, 2);
    assert_text(calls->tool_calls[0].name, "f");
    assert_text(calls->tool_calls[0].arguments_json, "{\"n\": 12345678901234567890}");
    assert_text(calls->tool_calls[1].name, "g");
    assert_text(calls->tool_calls[1].arguments_json, "{}");
    assert_message(3, "tool", "3");
    assert_message(4, "tool", "Error: no way");
    assert_message(5, "tool", "");
    assert_message(6, "user", "And now?");
    assert_message(7, "assistant", "");
    assert_message(8, "system", "T");
    assert_true(request.chat.add_generation_prompt);
    messages_request_free(&request);
}

static void test_a_last_message_of_the_assistant_goes_on(void **state) {
    (void)state;
    static const char *const contents[] = {"\"The capital\"", "[{\"type\":\"text\",\"text\":\"The capital\"}]", "\"\"",
                                           "[]"};
    for (size_t i = 0; i < 4; i++) {
        char text[256];
        snprintf(text, sizeof text,
                 "{\"max_tokens\":1,\"messages\":[{\"role\":\"user\",\"content\":\"?\"},"
                 "{\"role\":\"assistant\",\"content\":%s}]}",
                 contents[i]);
        decode_ok(text);
        assert_message(1, "assistant", i < 2 ? "The capital" : "");
        assert_true(request.chat.continue_final_message);
        assert_false(request.chat.add_generation_prompt);
        messages_request_free(&request);
    }
}

static void test_tools_have_the_form_of_the_chat_api(void **state) {
    (void)state;
    decode_ok("{" HELLO ",\"tools\":[" TOOL ",{\"type\":\"custom\",\"name\":\"g\",\"input_schema\":{}}]}");
    assert_int_equal(request.chat.n_tools, 2);
    assert_text(
        request.chat.tools_json[0],
        "{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"Does \\\"f\\\".\",\"parameters\":"
        "{ \"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\",\"maximum\":12345678901234567890}}}}}");
    assert_text(request.chat.tools_json[1], "{\"type\":\"function\",\"function\":{\"name\":\"g\",\"parameters\":{}}}");
    assert_true(tool_names_has(request.tools, (struct l4_text){"f", 1}));
    assert_true(tool_names_has(request.tools, (struct l4_text){"g", 1}));
    messages_request_free(&request);
    decode_ok("{" HELLO ",\"tools\":[],\"tool_choice\":{\"type\":\"auto\"}}");
    assert_int_equal(request.chat.n_tools, 0);
    assert_null(request.tools);
    messages_request_free(&request);
}

static void test_tool_choice(void **state) {
    (void)state;
    static const struct {
        const char *choice;
        bool tools, grammar, parallel;
    } cases[] = {
        {"null", true, false, true},
        {"{\"type\":\"auto\"}", true, false, true},
        {"{\"type\":\"auto\",\"disable_parallel_tool_use\":true}", true, false, false},
        {"{\"type\":\"any\"}", true, true, true},
        {"{\"type\":\"any\",\"disable_parallel_tool_use\":true}", true, true, false},
        {"{\"type\":\"tool\",\"name\":\"f\"}", true, true, true},
        {"{\"type\":\"none\"}", false, false, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        snprintf(text, sizeof text, "{" HELLO ",\"tools\":[" TOOL "],\"tool_choice\":%s}", cases[i].choice);
        decode_ok(text);
        assert_int_equal(request.tools != NULL, cases[i].tools);
        assert_int_equal(request.chat.n_tools, cases[i].tools);
        assert_int_equal(request.params.grammar != NULL, cases[i].grammar);
        assert_int_equal(request.parallel_tool_calls, cases[i].parallel);
        messages_request_free(&request);
    }
}

/* Every known field with a wrong type or out of range is named. */
static void test_bad_fields_are_named(void **state) {
    (void)state;
    static const struct {
        const char *field, *param;
    } cases[] = {
        {"\"max_tokens\":0", "max_tokens"},
        {"\"max_tokens\":-1", "max_tokens"},
        {"\"max_tokens\":1.5", "max_tokens"},
        {"\"max_tokens\":\"5\"", "max_tokens"},
        {"\"max_tokens\":1e300", "max_tokens"},
        {"\"max_tokens\":null", "max_tokens"},
        {"\"model\":5", "model"},
        {"\"temperature\":2.5", "temperature"},
        {"\"temperature\":-1", "temperature"},
        {"\"top_p\":1.5", "top_p"},
        {"\"top_k\":-1", "top_k"},
        {"\"stream\":1", "stream"},
        {"\"stop_sequences\":\"END\"", "stop_sequences"},
        {"\"stop_sequences\":[5]", "stop_sequences"},
        {"\"stop_sequences\":[\"\"]", "stop_sequences"},
        {"\"stop_sequences\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\",\"12\",\"13\","
         "\"14\",\"15\",\"16\",\"17\"]",
         "stop_sequences"},
        {"\"metadata\":\"u\"", "metadata"},
        {"\"metadata\":{\"user_id\":5}", "metadata.user_id"},
        {"\"thinking\":true", "thinking"},
        {"\"thinking\":{}", "thinking.type"},
        {"\"thinking\":{\"type\":5}", "thinking.type"},
        {"\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":1024}", "thinking.type"},
        {"\"output_config\":5", "output_config"},
        {"\"output_config\":{\"effort\":5}", "output_config.effort"},
        {"\"output_config\":{\"format\":5}", "output_config.format"},
        {"\"output_config\":{\"format\":{}}", "output_config.format.type"},
        {"\"output_config\":{\"format\":{\"type\":\"json_schema\"}}", "output_config.format.schema"},
        {"\"output_config\":{\"format\":{\"type\":\"json_schema\",\"schema\":{\"not\":{}}}}",
         "output_config.format.schema"},
        {"\"output_config\":{\"format\":{\"type\":\"json_schema\",\"schema\":{}}},\"grammar\":\"root ::= .\"",
         "output_config.format"},
        {"\"thread\":{\"type\":\"create\"}", "thread"},
        {"\"thread\":5", "thread"},
        {"\"system\":5", "system"},
        {"\"system\":{\"type\":\"text\",\"text\":\"x\"}", "system"},
        {"\"system\":[\"x\"]", "system[0]"},
        {"\"system\":[{\"type\":\"text\"}]", "system[0].text"},
        {"\"system\":[{\"type\":\"text\",\"text\":\"x\"},{\"type\":\"tool_result\"}]", "system[1].type"},
        {"\"tools\":{}", "tools"},
        {"\"tools\":[5]", "tools[0]"},
        {"\"tools\":[{}]", "tools[0].name"},
        {"\"tools\":[{\"name\":5}]", "tools[0].name"},
        {"\"tools\":[{\"name\":\"a b\"}]", "tools[0].name"},
        {"\"tools\":[{\"name\":\"f\",\"description\":5}]", "tools[0].description"},
        {"\"tools\":[{\"name\":\"f\"}]", "tools[0].input_schema"},
        {"\"tools\":[{\"name\":\"f\",\"input_schema\":\"x\"}]", "tools[0].input_schema"},
        {"\"tools\":[{\"name\":\"f\",\"input_schema\":{\"maximum\":1e999}}]", "tools[0].input_schema"},
        {"\"tools\":[{\"type\":5,\"name\":\"f\",\"input_schema\":{}}]", "tools[0].type"},
        {"\"tools\":[{\"type\":\"web_search_20250305\",\"name\":\"web_search\"}]", "tools[0].type"},
        {"\"tools\":[" TOOL "," TOOL "]", "tools[1].name"},
        {"\"tool_choice\":\"auto\"", "tool_choice"},
        {"\"tool_choice\":{}", "tool_choice.type"},
        {"\"tool_choice\":{\"type\":5}", "tool_choice.type"},
        {"\"tool_choice\":{\"type\":\"required\"}", "tool_choice.type"},
        {"\"tool_choice\":{\"type\":\"auto\",\"disable_parallel_tool_use\":1}",
         "tool_choice.disable_parallel_tool_use"},
        {"\"tool_choice\":{\"type\":\"any\"}", "tool_choice"},
        {"\"tool_choice\":{\"type\":\"tool\",\"name\":\"f\"}", "tool_choice"},
        {"\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"tool\"}", "tool_choice.name"},
        {"\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"tool\",\"name\":5}", "tool_choice.name"},
        {"\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"tool\",\"name\":\"g\"}", "tool_choice.name"},
        {"\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"any\"},\"grammar\":\"root ::= .\"", "tool_choice"},
        {"\"tools\":[{\"name\":\"g\",\"input_schema\":{\"not\":{}}}],\"tool_choice\":{\"type\":\"any\"}", "tools[0]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        snprintf(text, sizeof text, "{" HELLO ",%s}", cases[i].field);
        if (decode(text) != L4_E_INVALID || err.status != 400 || strcmp(err.param, cases[i].param) != 0)
            fail_msg("%s: status %d, param '%s', '%s'", cases[i].field, err.status, err.param, err.message);
        messages_request_free(&request);
    }
    assert_int_equal(decode("{" HELLO ",\"model\":\"claude\"}"), L4_E_INVALID);
    assert_int_equal(err.status, 404);
    messages_request_free(&request);
}

#define USER(blocks)      "[{\"role\":\"user\",\"content\":[" blocks "]}]"
#define ASSISTANT(blocks) "[{\"role\":\"assistant\",\"content\":[" blocks "]},{\"role\":\"user\",\"content\":\"x\"}]"

static void test_bad_messages_are_named(void **state) {
    (void)state;
    static const struct {
        const char *messages, *param;
    } cases[] = {
        {"null", "messages"},
        {"\"Hi\"", "messages"},
        {"[]", "messages"},
        {"[\"Hi\"]", "messages[0]"},
        {"[[0, 2], [3]]", "messages[0]"},
        {"[{\"content\":\"x\"}]", "messages[0].role"},
        {"[{\"role\":\"tool\",\"content\":\"x\"}]", "messages[0].role"},
        {"[{\"role\":5,\"content\":\"x\"}]", "messages[0].role"},
        {"[{\"role\":\"user\"}]", "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":null}]", "messages[0].content"},
        {"[{\"role\":\"assistant\",\"content\":5}]", "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":{}}]", "messages[0].content"},
        {USER(""), "messages[0].content"},
        {USER("\"x\""), "messages[0].content[0]"},
        {USER("{}"), "messages[0].content[0].type"},
        {USER("{\"type\":5}"), "messages[0].content[0].type"},
        {USER("{\"type\":\"text\"}"), "messages[0].content[0].text"},
        {USER("{\"type\":\"text\",\"text\":5}"), "messages[0].content[0].text"},
        {USER("{\"type\":\"text\",\"text\":\"x\"},{\"type\":\"image\",\"source\":{}}"), "messages[0].content[1].type"},
        {USER("{\"type\":\"document\",\"source\":{}}"), "messages[0].content[0].type"},
        {USER("{\"type\":\"tool_use\",\"id\":\"a\",\"name\":\"f\",\"input\":{}}"), "messages[0].content[0].type"},
        {USER("{\"type\":\"tool_result\"}"), "messages[0].content[0].tool_use_id"},
        {USER("{\"type\":\"tool_result\",\"tool_use_id\":5}"), "messages[0].content[0].tool_use_id"},
        {USER("{\"type\":\"tool_result\",\"tool_use_id\":\"a\",\"is_error\":1}"), "messages[0].content[0].is_error"},
        {USER("{\"type\":\"tool_result\",\"tool_use_id\":\"a\",\"content\":5}"), "messages[0].content[0].content"},
        {USER("{\"type\":\"tool_result\",\"tool_use_id\":\"a\",\"content\":[{\"type\":\"text\",\"text\":\"x\"},"
              "{\"type\":\"image\"}]}"),
         "messages[0].content[0].content[1].type"},
        {ASSISTANT("{\"type\":\"tool_result\",\"tool_use_id\":\"a\"}"), "messages[0].content[0].type"},
        {ASSISTANT("{\"type\":\"thinking\",\"thinking\":\"x\",\"signature\":\"\"}"), "messages[0].content[0].type"},
        {ASSISTANT("{\"type\":\"tool_use\",\"name\":\"f\",\"input\":{}}"), "messages[0].content[0].id"},
        {ASSISTANT("{\"type\":\"tool_use\",\"id\":\"a\",\"input\":{}}"), "messages[0].content[0].name"},
        {ASSISTANT("{\"type\":\"tool_use\",\"id\":\"a\",\"name\":\"f\"}"), "messages[0].content[0].input"},
        {ASSISTANT("{\"type\":\"tool_use\",\"id\":\"a\",\"name\":\"f\",\"input\":\"{}\"}"),
         "messages[0].content[0].input"},
        {ASSISTANT("{\"type\":\"tool_use\",\"id\":\"a\",\"name\":\"f\",\"input\":{\"n\":1e999}}"),
         "messages[0].content[0].input"},
        {"[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":[{\"type\":\"tool_use\",\"id\":"
         "\"a\",\"name\":\"f\",\"input\":{}}]}]",
         "messages[1].content"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        snprintf(text, sizeof text, "{\"max_tokens\":1,\"messages\":%s}", cases[i].messages);
        if (decode(text) != L4_E_INVALID || err.status != 400 || strcmp(err.param, cases[i].param) != 0)
            fail_msg("%s: status %d, param '%s', '%s'", cases[i].messages, err.status, err.param, err.message);
        messages_request_free(&request);
    }
    for (int i = 0; i < 2; i++) {
        static const char *const types[] = {"image", "document"};
        char text[256], want[64];
        snprintf(text, sizeof text, "{\"max_tokens\":1,\"messages\":" USER("{\"type\":\"%s\"}") "}", types[i]);
        snprintf(want, sizeof want, "%ss are not served", types[i]);
        assert_int_equal(decode(text), L4_E_INVALID);
        assert_non_null(strstr(err.message, want));
        messages_request_free(&request);
    }
}

/* The template shows the tools in the first turn, and that as the user's. */
static void test_tools_need_a_first_message_of_the_user(void **state) {
    (void)state;
    static const char *const first[] = {
        "{\"role\":\"assistant\",\"content\":\"x\"}", "{\"role\":\"system\",\"content\":\"x\"}",
        "{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"a\"}]}"};
    for (size_t i = 0; i < 6; i++) {
        char text[1024];
        snprintf(text, sizeof text, "{\"max_tokens\":1,\"system\":\"%s\",\"messages\":[%s],\"tools\":[" TOOL "]}",
                 i < 3 ? "" : "S", first[i % 3]);
        assert_int_equal(decode(text), L4_E_INVALID);
        assert_string_equal(err.param, "messages");
        messages_request_free(&request);
    }
    decode_ok("{" HELLO ",\"system\":\"S\",\"tools\":[" TOOL "]}");
    messages_request_free(&request);
}

static void test_every_allocation_may_fail(void **state) {
    (void)state;
    const char *text =
        "{\"max_tokens\":1,\"system\":[{\"type\":\"text\",\"text\":\"S\"}],\"messages\":["
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]},"
        "{\"role\":\"assistant\",\"content\":[{\"type\":\"tool_use\",\"id\":\"a\",\"name\":\"f\","
        "\"input\":{}}]},{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"a\","
        "\"is_error\":true,\"content\":\"x\"}]}],"
        "\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"any\"},\"logit_bias\":{\"5\":1}}";
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
        messages_request_free(&request);
    }
    assert_true(n_failed > (FAILMALLOC_SEES_LIBRARIES ? 20 : 6)); /* most are cJSON's */
    struct gen_params params = {.n_stop = 1, .stop = {{"END", 3}}};
    FAILMALLOC_EACH(n) {
        struct messages_answer *answer = messages_answer_open(&params);
        assert_true(failmalloc_disarm() == (answer == NULL));
        messages_answer_close(answer);
    }
}

/* ---- answers */

#define USAGE                                                                                                          \
    "\"usage\":{\"input_tokens\":6,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":64,"                  \
    "\"output_tokens\":4}"
#define START "{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"a \\\"b\\\"\""

static const struct answer_usage usage = {.prompt_tokens = 70, .completion_tokens = 4, .cached_tokens = 64};
static const struct gen_params stops = {.n_stop = 3, .stop = {{"END", 3}, {"\n\n", 2}, {"\"", 1}}};
static struct answer_head head;
static struct messages_answer *answer;
static struct answer_calls calls;
static struct l4_buf out;

static int begin_answer(void **state) {
    (void)state;
    answer_head_init(&head, "msg_1", "message", 5, "a \"b\"", "fp_1");
    answer = messages_answer_open(&stops);
    struct answer_call *call = answer_calls_add(&calls, (struct l4_text){"f", 1});
    if (!answer || !call)
        return -1;
    snprintf(call->id, sizeof call->id, ANSWER_CALL_PREFIX "0123");
    return 0;
}

static int end_answer(void **state) {
    (void)state;
    answer_head_free(&head);
    messages_answer_close(answer);
    answer_calls_free(&calls);
    l4_buf_free(&out);
    return 0;
}

static void test_whole_answers(void **state) {
    (void)state;
    struct answer_choice choice = {.text = {"say \"hi\"", 8}, .finish_reason = "stop", .stop_index = -1};
    messages_put_whole(&out, &head, &usage, answer, &choice);
    assert_string_equal(out.data, START ",\"content\":[{\"type\":\"text\",\"text\":\"say \\\"hi\\\"\"}],"
                                        "\"stop_reason\":\"end_turn\",\"stop_sequence\":null," USAGE "}");
    l4_buf_clear(&out);
    l4_buf_puts(&calls.list[0].arguments, "{\"a\": 1}");
    choice.calls = calls.list;
    choice.n_calls = 1;
    choice.finish_reason = "tool_calls";
    messages_put_whole(&out, &head, &usage, answer, &choice);
    assert_string_equal(out.data, START ",\"content\":[{\"type\":\"text\",\"text\":\"say \\\"hi\\\"\"},"
                                        "{\"type\":\"tool_use\",\"id\":\"toolu_0123\",\"name\":\"f\",\"input\":"
                                        "{\"a\": 1}}],\"stop_reason\":\"tool_use\",\"stop_sequence\":null," USAGE "}");
    l4_buf_clear(&out);
    choice = (struct answer_choice){.text = {"", 0}, .finish_reason = "length", .stop_index = -1};
    messages_put_whole(&out, &head, &usage, answer, &choice);
    assert_string_equal(out.data,
                        START ",\"content\":[],\"stop_reason\":\"max_tokens\",\"stop_sequence\":null," USAGE "}");
}

static void test_stop_reasons(void **state) {
    (void)state;
    static const struct {
        const char *finish;
        int stop;
        size_t n_broken;
        const char *want;
    } cases[] = {
        {"stop", -1, 0, "\"end_turn\",\"stop_sequence\":null"},
        {"stop", 0, 0, "\"stop_sequence\",\"stop_sequence\":\"END\""},
        {"stop", 1, 0, "\"stop_sequence\",\"stop_sequence\":\"\\n\\n\""},
        {"stop", 2, 0, "\"stop_sequence\",\"stop_sequence\":\"\\\"\""},
        {"length", -1, 0, "\"max_tokens\",\"stop_sequence\":null"},
        {"length", -1, 1, "\"max_tokens\",\"stop_sequence\":null"},
        {"tool_calls", -1, 0, "\"tool_use\",\"stop_sequence\":null"},
        {"tool_calls", 0, 0, "\"tool_use\",\"stop_sequence\":null"}, /* what matters is that there is something to do */
        {"tool_calls", -1, 1, "\"end_turn\",\"stop_sequence\":null"},
        {"tool_calls", 0, 1, "\"stop_sequence\",\"stop_sequence\":\"END\""},
        {"stop", -1, 1, "\"end_turn\",\"stop_sequence\":null"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct answer_choice choice = {
            .finish_reason = cases[i].finish, .stop_index = cases[i].stop, .n_broken_calls = cases[i].n_broken};
        char want[512];
        l4_buf_clear(&out);
        messages_put_finish(&out, answer, &usage, &choice);
        snprintf(want, sizeof want,
                 "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":%s}," USAGE
                 "}\n\n",
                 cases[i].want);
        assert_string_equal(out.data, want);
    }
}

#define EVENT(type, rest) "event: " type "\ndata: {\"type\":\"" type "\"" rest "}\n\n"
#define TEXT_BLOCK(i)                                                                                                  \
    EVENT("content_block_start", ",\"index\":" i ",\"content_block\":{\"type\":\"text\",\"text\":\"\"}")
#define TEXT_DELTA(i, text)                                                                                            \
    EVENT("content_block_delta", ",\"index\":" i ",\"delta\":{\"type\":\"text_delta\",\"text\":\"" text "\"}")
#define CALL_BLOCK(i)                                                                                                  \
    EVENT("content_block_start", ",\"index\":" i ",\"content_block\":{\"type\":\"tool_use\",\"id\":\"toolu_0123\","    \
                                 "\"name\":\"f\",\"input\":{}}")
#define CALL_DELTA(i, json)                                                                                            \
    EVENT("content_block_delta",                                                                                       \
          ",\"index\":" i ",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"" json "\"}")
#define BLOCK_END(i) EVENT("content_block_stop", ",\"index\":" i)

static void put_text_piece(const char *text) {
    messages_put_text(&out, answer, (struct l4_text){text, strlen(text)});
}

static void put_call_piece(bool begins, const char *json) {
    struct answer_choice choice = {.calls = calls.list, .n_calls = 1, .begins_call = begins, .stop_index = -1};
    l4_buf_clear(&calls.list[0].arguments);
    l4_buf_puts(&calls.list[0].arguments, json);
    messages_put_call(&out, answer, &choice);
}

static void assert_events(const char *want) {
    assert_string_equal(out.data, want);
    l4_buf_clear(&out);
}

static void test_a_stream_of_blocks(void **state) {
    (void)state;
    const struct answer_usage at_first = {.prompt_tokens = 70};
    struct answer_choice end = {.finish_reason = "tool_calls", .stop_index = -1};
    messages_put_start(&out, &head, &at_first);
    assert_events(EVENT("message_start",
                        ",\"message\":" START ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":"
                        "{\"input_tokens\":70,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,"
                        "\"output_tokens\":0}}"));
    put_text_piece("a");
    put_text_piece("\"");
    assert_events(TEXT_BLOCK("0") TEXT_DELTA("0", "a") TEXT_DELTA("0", "\\\""));
    put_call_piece(true, "");
    put_call_piece(false, "{\"a\":");
    put_call_piece(false, " 1}");
    assert_events(BLOCK_END("0") CALL_BLOCK("1") CALL_DELTA("1", "{\\\"a\\\":") CALL_DELTA("1", " 1}"));
    put_call_piece(true, "");
    put_call_piece(false, "{}");
    assert_events(BLOCK_END("1") CALL_BLOCK("2") CALL_DELTA("2", "{}"));
    put_text_piece("");
    put_text_piece("b");
    assert_events(BLOCK_END("2") TEXT_BLOCK("3") TEXT_DELTA("3", "b"));
    messages_put_finish(&out, answer, &usage, &end);
    messages_put_end(&out);
    assert_events(BLOCK_END("3")
                      EVENT("message_delta", ",\"delta\":{\"stop_reason\":\"tool_use\",\"stop_sequence\":null}," USAGE)
                          EVENT("message_stop", ""));
}

static void test_a_stream_of_nothing(void **state) {
    (void)state;
    struct answer_choice end = {.finish_reason = "stop", .stop_index = -1};
    put_text_piece("");
    messages_put_finish(&out, answer, &usage, &end);
    assert_events(EVENT("message_delta", ",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null}," USAGE));
}

int main(void) {
#define ANSWER_TEST(test) cmocka_unit_test_setup_teardown(test, begin_answer, end_answer)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_request_leaves_out),
        cmocka_unit_test(test_own_and_shared_fields),
        cmocka_unit_test(test_max_tokens_is_not_needed_to_count),
        cmocka_unit_test(test_system),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_a_last_message_of_the_assistant_goes_on),
        cmocka_unit_test(test_tools_have_the_form_of_the_chat_api),
        cmocka_unit_test(test_tool_choice),
        cmocka_unit_test(test_bad_fields_are_named),
        cmocka_unit_test(test_bad_messages_are_named),
        cmocka_unit_test(test_tools_need_a_first_message_of_the_user),
        cmocka_unit_test(test_every_allocation_may_fail),
        ANSWER_TEST(test_whole_answers),
        ANSWER_TEST(test_stop_reasons),
        ANSWER_TEST(test_a_stream_of_blocks),
        ANSWER_TEST(test_a_stream_of_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
