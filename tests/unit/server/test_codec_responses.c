/* POST /v1/responses decoded, field by field, and what its answer will repeat. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/codec_chat.h"
#include "server/codec_responses.h"
#include "tests/lib/failmalloc.h"

static struct codec_limits limits = {
    .model_name = "demo", .vocab_size = 2048, .max_choices = 64, .defaults = {.temperature = 0.7f, .top_p = 0.9f}};
static struct responses_request request;
static struct codec_err err;

#define HI "\"input\":\"Hi\""

static int decode(const char *text) {
    memset(&err, 0, sizeof err);
    return responses_decode(text, strlen(text), &limits, &request, &err);
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
    decode_ok("{" HI "}");
    assert_int_equal(request.chat.n_messages, 1);
    assert_string_equal(request.chat.messages[0].role, "user");
    assert_text(request.chat.messages[0].content, "Hi");
    assert_int_equal(request.chat.n_tools, 0);
    assert_true(request.chat.add_generation_prompt);
    assert_false(request.chat.continue_final_message);
    assert_true(request.parallel_tool_calls);
    assert_null(request.tools);
    assert_null(request.params.grammar);
    assert_int_equal(request.params.max_tokens, -1);
    assert_false(request.params.logprobs);
    assert_string_equal(request.params.salt, "");
    assert_string_equal(
        request.echo.data,
        "\"background\":false,\"instructions\":null,\"max_output_tokens\":null,\"max_tool_calls\":null,\"metadata\":{},"
        "\"parallel_tool_calls\":true,\"previous_response_id\":null,\"prompt_cache_key\":null,"
        "\"reasoning\":{\"effort\":null,\"summary\":null},\"safety_identifier\":null,\"service_tier\":\"default\","
        "\"store\":false,\"temperature\":0.7,\"text\":{\"format\":{\"type\":\"text\"},\"verbosity\":\"medium\"},"
        "\"tool_choice\":\"auto\",\"tools\":[],\"user\":null,\"top_logprobs\":0,\"top_p\":0.9,"
        "\"truncation\":\"disabled\"");
    responses_request_free(&request);
}

static void test_items(void **state) {
    (void)state;
    decode_ok(
        "{\"instructions\":\"Be brief.\",\"input\":["
        "{\"role\":\"developer\",\"content\":\"Be kind.\"},"
        "{\"type\":\"message\",\"role\":\"user\",\"id\":\"msg_1\",\"status\":\"completed\",\"content\":["
        "{\"type\":\"input_text\",\"text\":\"one \"},{\"text\":\"two\",\"type\":\"input_text\"}]},"
        "{\"type\":\"reasoning\",\"id\":\"rs_1\",\"summary\":[]},"
        "{\"type\":\"function_call\",\"id\":\"fc_1\",\"call_id\":\"call_1\",\"name\":\"add\","
        "\"arguments\":\"{\\\"a\\\": 1.0}\"},"
        "{\"type\":\"function_call_output\",\"call_id\":\"call_1\",\"output\":\"3\"},"
        "{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"Let me \","
        "\"annotations\":[]},{\"type\":\"refusal\",\"refusal\":\"see.\"}]},"
        "{\"type\":\"function_call\",\"call_id\":\"call_2\",\"name\":\"f\",\"arguments\":\"\"},"
        "{\"type\":\"reasoning\",\"summary\":[]},"
        "{\"type\":\"function_call\",\"call_id\":\"call_3\",\"name\":\"g\",\"arguments\":\"{}\"},"
        "{\"type\":\"function_call_output\",\"call_id\":\"call_3\",\"output\":[{\"type\":\"input_text\","
        "\"text\":\"four\"}]},"
        "{\"role\":\"assistant\",\"content\":\"\"},{\"role\":\"system\",\"content\":\"x\"}]}");
    const struct l4_message *m = request.chat.messages;
    static const struct {
        const char *role, *content;
        size_t n_calls;
    } want[] = {{"system", "Be brief.", 0}, {"system", "Be kind.", 0}, {"user", "one two", 0},
                {"assistant", "", 1},       {"tool", "3", 0},          {"assistant", "Let me see.", 2},
                {"tool", "four", 0},        {"assistant", "", 0},      {"system", "x", 0}};
    assert_int_equal(request.chat.n_messages, sizeof want / sizeof *want);
    for (size_t i = 0; i < request.chat.n_messages; i++) {
        assert_string_equal(m[i].role, want[i].role);
        assert_text(m[i].content, want[i].content);
        assert_int_equal(m[i].n_tool_calls, want[i].n_calls);
    }
    assert_text(m[3].tool_calls[0].name, "add");
    assert_text(m[3].tool_calls[0].arguments_json, "{\"a\": 1.0}");
    assert_text(m[5].tool_calls[0].name, "f");
    assert_text(m[5].tool_calls[0].arguments_json, "{}");
    assert_text(m[5].tool_calls[1].name, "g");
    responses_request_free(&request);
}

#define FLAT                                                                                                           \
    "{ \"name\":\"f\",\"type\":\"function\", \"strict\":null,\"description\":\"a \\\"b\\\"\",\n"                       \
    "\"parameters\":{\"type\" : \"object\",\"maximum\":12345678901234567890}}"

/* The model is shown what chat shows it. */
static void test_tools(void **state) {
    (void)state;
    struct chat_request chat;
    const char *text =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"tools\":[{\"type\":\"function\","
        "\"function\":{\"name\":\"f\",\"description\":\"a \\\"b\\\"\",\"parameters\":{\"type\":\"object\","
        "\"maximum\":12345678901234567890}}}]}";
    assert_int_equal(chat_decode(text, strlen(text), &limits, &chat, &err), 0);
    decode_ok("{\"tools\":[ " FLAT " ,{\"type\":\"function\",\"name\":\"g\",\"strict\":true}]," HI "}");
    assert_int_equal(request.chat.n_tools, 2);
    assert_int_equal(request.chat.tools_json[0].len_bytes, chat.chat.tools_json[0].len_bytes);
    assert_memory_equal(request.chat.tools_json[0].data, chat.chat.tools_json[0].data,
                        chat.chat.tools_json[0].len_bytes);
    assert_text(request.chat.tools_json[1], "{\"type\":\"function\",\"function\":{\"name\":\"g\",\"strict\":true}}");
    assert_true(tool_names_has(request.tools, (struct l4_text){"g", 1}));
    assert_non_null(strstr(request.echo.data,
                           "\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"description\":\"a \\\"b\\\"\","
                           "\"parameters\":{\"type\":\"object\",\"maximum\":12345678901234567890},\"strict\":null},"
                           "{\"type\":\"function\",\"name\":\"g\",\"strict\":true,\"description\":null,"
                           "\"parameters\":null}]"));
    chat_request_free(&chat);
    responses_request_free(&request);
}

static void test_tool_choice(void **state) {
    (void)state;
    static const struct {
        const char *choice;
        bool has_tools, forced;
    } cases[] = {{"null", true, false},
                 {"\"auto\"", true, false},
                 {"\"none\"", false, false},
                 {"\"required\"", true, true},
                 {"{\"type\":\"function\",\"name\":\"f\"}", true, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512], want[128];
        snprintf(text, sizeof text, "{" HI ",\"tools\":[" FLAT "],\"parallel_tool_calls\":false,\"tool_choice\":%s}",
                 cases[i].choice);
        snprintf(want, sizeof want, "\"tool_choice\":%s,\"tools\":[{", i ? cases[i].choice : "\"auto\"");
        decode_ok(text);
        assert_int_equal(request.chat.n_tools, cases[i].has_tools);
        assert_true(!!request.tools == cases[i].has_tools);
        assert_true(!!request.params.grammar == cases[i].forced);
        assert_false(request.parallel_tool_calls);
        assert_non_null(strstr(request.echo.data, want));
        assert_non_null(strstr(request.echo.data, "\"parallel_tool_calls\":false"));
        responses_request_free(&request);
    }
}

static void test_own_fields(void **state) {
    (void)state;
    decode_ok(
        "{" HI ",\"max_output_tokens\":5,\"include\":[\"reasoning.encrypted_content\","
        "\"message.output_text.logprobs\"],\"top_logprobs\":20,\"temperature\":0.3,\"top_p\":1,\"seed\":7,\"n\":1,"
        "\"stop\":[\"x\"],\"metadata\":{\"a\" : \"b\\n\"},\"user\":\"u\",\"store\":true,\"background\":false,"
        "\"truncation\":\"disabled\",\"reasoning\":{\"effort\":\"low\"},\"service_tier\":\"auto\","
        "\"prompt_cache_key\":\"key\",\"safety_identifier\":\"s\",\"max_tool_calls\":3,"
        "\"text\":{\"verbosity\":\"low\",\"format\":{ \"type\":\"json_object\" }},\"instructions\":\"Be \\\"it\\\"\","
        "\"stream\":true,\"stream_options\":{\"include_obfuscation\":false},\"previous_response_id\":null,"
        "\"never_heard_of\":{}}");
    assert_int_equal(request.params.max_tokens, 5);
    assert_true(request.params.logprobs);
    assert_int_equal(request.params.n_top_logprobs, 20);
    assert_int_equal(request.params.n_stop, 1);
    assert_true(request.params.has_seed);
    assert_true(request.params.stream);
    assert_non_null(request.params.grammar);
    assert_string_equal(request.params.salt, "key");
    static const char *const echoed[] = {
        "\"background\":false,\"instructions\":\"Be \\\"it\\\"\",\"max_output_tokens\":5,\"max_tool_calls\":3,"
        "\"metadata\":{\"a\":\"b\\n\"},",
        "\"prompt_cache_key\":\"key\",\"reasoning\":{\"effort\":null,\"summary\":null},\"safety_identifier\":\"s\","
        "\"service_tier\":\"default\",\"store\":false,\"temperature\":0.3,"
        "\"text\":{\"format\":{\"type\":\"json_object\"},\"verbosity\":\"low\"},",
        "\"user\":\"u\",\"top_logprobs\":20,\"top_p\":1,\"truncation\":\"disabled\""};
    for (size_t i = 0; i < sizeof echoed / sizeof *echoed; i++)
        if (!strstr(request.echo.data, echoed[i]))
            fail_msg("%s is not in %s", echoed[i], request.echo.data);
    assert_null(strchr(request.echo.data, '\n')); /* it goes into a stream's line */
    responses_request_free(&request);
    decode_ok("{" HI
              ",\"include\":[\"message.output_text.logprobs\"],\"prompt_cache_key\":\"a\",\"cache_salt\":\"b\"}");
    assert_true(request.params.logprobs);
    assert_int_equal(request.params.n_top_logprobs, 0);
    assert_string_equal(request.params.salt, "b");
    responses_request_free(&request);
    decode_ok("{" HI ",\"top_logprobs\":1,\"include\":[],\"text\":{\"format\":{\"type\":\"text\"}},"
              "\"grammar\":\"root ::= [a-z]\"}");
    assert_true(request.params.logprobs);
    assert_non_null(request.params.grammar);
    responses_request_free(&request);
    decode_ok("{" HI
              ",\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"a\",\"strict\":true,\"description\":\"d\","
              "\"schema\":{\"type\" : \"integer\"}}}}");
    assert_non_null(request.params.grammar);
    assert_non_null(strstr(request.echo.data,
                           "\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"a\","
                           "\"description\":\"d\",\"strict\":true,\"schema\":{\"type\":\"integer\"}},"
                           "\"verbosity\":\"medium\"}"));
    responses_request_free(&request);
}

/* Each is the whole of a request's fields but for what comes before it. */
static void assert_refused(const char *before, const char *field, const char *param, const char *message_part) {
    char text[1024];
    snprintf(text, sizeof text, "{%s%s}", before, field);
    if (decode(text) != L4_E_INVALID || err.status != 400 || strcmp(err.param, param) != 0 ||
        !strstr(err.message, message_part))
        fail_msg("%s: status %d, param '%s', '%s'", field, err.status, err.param, err.message);
    responses_request_free(&request);
}

static void test_bad_fields_are_named(void **state) {
    (void)state;
    static const struct {
        const char *field, *param;
    } cases[] = {
        {"\"max_output_tokens\":0", "max_output_tokens"},
        {"\"max_output_tokens\":1.5", "max_output_tokens"},
        {"\"max_output_tokens\":\"many\"", "max_output_tokens"},
        {"\"max_tokens\":5", "max_tokens"},
        {"\"max_completion_tokens\":5", "max_completion_tokens"},
        {"\"response_format\":{\"type\":\"text\"}", "response_format"},
        {"\"instructions\":[]", "instructions"},
        {"\"temperature\":3", "temperature"},
        {"\"n\":2", "n"},
        {"\"n\":0", "n"},
        {"\"include\":\"x\"", "include"},
        {"\"include\":[5]", "include"},
        {"\"top_logprobs\":21", "top_logprobs"},
        {"\"top_logprobs\":-1", "top_logprobs"},
        {"\"previous_response_id\":\"resp_1\"", "previous_response_id"},
        {"\"previous_response_id\":5", "previous_response_id"},
        {"\"conversation\":\"conv_1\"", "conversation"},
        {"\"conversation\":{\"id\":\"conv_1\"}", "conversation"},
        {"\"prompt\":{\"id\":\"pmpt_1\"}", "prompt"},
        {"\"background\":true", "background"},
        {"\"background\":1", "background"},
        {"\"store\":1", "store"},
        {"\"truncation\":\"auto\"", "truncation"},
        {"\"truncation\":5", "truncation"},
        {"\"metadata\":[]", "metadata"},
        {"\"metadata\":{\"a\":1}", "metadata"},
        {"\"metadata\":{\"a\":null}", "metadata"},
        {"\"user\":5", "user"},
        {"\"reasoning\":\"low\"", "reasoning"},
        {"\"service_tier\":1", "service_tier"},
        {"\"safety_identifier\":1", "safety_identifier"},
        {"\"max_tool_calls\":0", "max_tool_calls"},
        {"\"prompt_cache_key\":1", "prompt_cache_key"},
        {"\"prompt_cache_key\":\"0123456789012345678901234567890123456789012345678901234567890123x\"",
         "prompt_cache_key"},
        {"\"stream_options\":{}", "stream_options"},
        {"\"stream\":true,\"stream_options\":{\"include_obfuscation\":1}", "stream_options.include_obfuscation"},
        {"\"text\":\"json\"", "text"},
        {"\"text\":{\"verbosity\":1}", "text.verbosity"},
        {"\"text\":{\"format\":\"json\"}", "text.format"},
        {"\"text\":{\"format\":{}}", "text.format.type"},
        {"\"text\":{\"format\":{\"type\":5}}", "text.format.type"},
        {"\"text\":{\"format\":{\"type\":\"yaml\"}}", "text.format.type"},
        {"\"text\":{\"format\":{\"type\":\"json_schema\"}}", "text.format.name"},
        {"\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"a\",\"schema\":3}}", "text.format.schema"},
        {"\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"a\",\"schema\":{\"not\":{}}}}",
         "text.format.schema"},
        {"\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"a\",\"strict\":1}}", "text.format.strict"},
        {"\"text\":{\"format\":{\"type\":\"json_object\"}},\"grammar\":\"root ::= .\"", "grammar"},
        {"\"tools\":{}", "tools"},
        {"\"tools\":[5]", "tools[0]"},
        {"\"tools\":[{\"name\":\"f\"}]", "tools[0].type"},
        {"\"tools\":[{\"type\":\"web_search\"}]", "tools[0].type"},
        {"\"tools\":[{\"type\":\"function\"}]", "tools[0].name"},
        {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]", "tools[0].name"},
        {"\"tools\":[{\"type\":\"function\",\"name\":\"a b\"}]", "tools[0].name"},
        {"\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"description\":1}]", "tools[0].description"},
        {"\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"strict\":1}]", "tools[0].strict"},
        {"\"tools\":[" FLAT "," FLAT "]", "tools[1].name"},
        {"\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"parameters\":\"x\"}]", "tools[0].parameters"},
        {"\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"parameters\":{\"maximum\":1e999}}]", "tools[0]"},
        {"\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"x\":01}],\"tool_choice\":\"none\"", "tools[0]"},
        {"\"tool_choice\":\"required\"", "tool_choice"},
        {"\"tool_choice\":{\"type\":\"function\",\"name\":\"f\"}", "tool_choice"},
        {"\"tool_choice\":\"maybe\"", "tool_choice"},
        {"\"tool_choice\":5", "tool_choice"},
        {"\"tool_choice\":{\"type\":\"mcp\"}", "tool_choice.type"},
        {"\"tool_choice\":{\"type\":\"function\",\"name\":5}", "tool_choice.name"},
        {"\"tool_choice\":{\"type\":\"function\"},\"tools\":[" FLAT "]", "tool_choice.name"},
        {"\"tool_choice\":{\"type\":\"function\",\"name\":\"g\"},\"tools\":[" FLAT "]", "tool_choice.name"},
        {"\"tool_choice\":\"required\",\"tools\":[" FLAT "],\"grammar\":\"root ::= .\"", "tool_choice"},
        {"\"parallel_tool_calls\":1", "parallel_tool_calls"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(HI ",", cases[i].field, cases[i].param, "");
    assert_refused(HI ",", "\"tools\":[{\"type\":\"web_search\"}]", "tools[0].type", "'web_search'");
    assert_refused(HI ",", "\"previous_response_id\":\"resp_1\"", "previous_response_id", "not kept");
    assert_refused(HI ",", "\"max_tokens\":5", "max_tokens", "max_output_tokens");
    decode("{" HI ",\"model\":\"gpt-9\"}");
    assert_int_equal(err.status, 404);
    responses_request_free(&request);
}

static void test_bad_input_is_named(void **state) {
    (void)state;
    static const struct {
        const char *input, *param, *message_part;
    } cases[] = {
        {"null", "input", "missing"},
        {"5", "input", "a number"},
        {"{}", "input", "an object"},
        {"[]", "input", "at least one message"},
        {"[{\"type\":\"reasoning\"}]", "input", "at least one message"},
        {"[\"Hi\"]", "input[0]", "a string"},
        {"[{\"type\":5}]", "input[0].type", ""},
        {"[{\"type\":\"message\",\"role\":\"user\",\"content\":\"x\"},{\"type\":\"image_generation_call\"}]",
         "input[1].type", "'image_generation_call'"},
        {"[{\"type\":\"item_reference\",\"id\":\"msg_1\"}]", "input[0].type", "not kept"},
        {"[{\"content\":\"x\"}]", "input[0].role", ""},
        {"[{\"role\":\"tool\",\"content\":\"x\"}]", "input[0].role", "developer"},
        {"[{\"role\":5,\"content\":\"x\"}]", "input[0].role", ""},
        {"[{\"role\":\"user\",\"content\":\"x\",\"id\":5}]", "input[0].id", ""},
        {"[{\"role\":\"user\",\"content\":\"x\",\"status\":5}]", "input[0].status", ""},
        {"[{\"role\":\"user\"}]", "input[0].content", "missing"},
        {"[{\"role\":\"assistant\"}]", "input[0].content", "missing"},
        {"[{\"role\":\"user\",\"content\":5}]", "input[0].content", ""},
        {"[{\"role\":\"user\",\"content\":[]}]", "input[0].content", ""},
        {"[{\"role\":\"user\",\"content\":[\"x\"]}]", "input[0].content[0]", ""},
        {"[{\"role\":\"user\",\"content\":[{}]}]", "input[0].content[0].type", ""},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}]", "input[0].content[0].type",
         "'input_text', not 'text'"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\"}]}]", "input[0].content[0].text", "missing"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"x\"},{\"type\":\"input_image\"}]}]",
         "input[0].content[1].type", "images are not served"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"input_file\"}]}]", "input[0].content[0].type",
         "files are not served"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}]", "input[0].content[0].type",
         "not 'input_audio'"},
        {"[{\"type\":\"function_call\",\"name\":\"f\",\"arguments\":\"{}\"}]", "input[0].call_id", "missing"},
        {"[{\"type\":\"function_call\",\"call_id\":\"c\",\"arguments\":\"{}\"}]", "input[0].name", "missing"},
        {"[{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\"}]", "input[0].arguments", "missing"},
        {"[{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\",\"arguments\":{}}]", "input[0].arguments",
         "an object"},
        {"[{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\",\"arguments\":\"{no\"}]", "input[0].arguments",
         "byte"},
        {"[{\"type\":\"function_call_output\",\"output\":\"x\"}]", "input[0].call_id", "missing"},
        {"[{\"type\":\"function_call_output\",\"call_id\":5,\"output\":\"x\"}]", "input[0].call_id", ""},
        {"[{\"type\":\"function_call_output\",\"call_id\":\"c\"}]", "input[0].output", "missing"},
        {"[{\"type\":\"function_call_output\",\"call_id\":\"c\",\"output\":{}}]", "input[0].output", ""},
        {"[{\"type\":\"function_call_output\",\"call_id\":\"c\",\"output\":[{\"type\":\"input_image\"}]}]",
         "input[0].output[0].type", "images are not served"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char field[512];
        snprintf(field, sizeof field, "\"input\":%s", cases[i].input);
        assert_refused("", field, cases[i].param, cases[i].message_part);
    }
    assert_refused("\"tools\":[" FLAT "],",
                   "\"input\":[{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\",\"arguments\":\"{}\"}]",
                   "input", "begin with a message of the user");
}

static void test_every_allocation_may_fail(void **state) {
    (void)state;
    const char *text = "{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"a\"}]},"
                       "{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\",\"arguments\":\"{}\"}],"
                       "\"tools\":[" FLAT "],\"tool_choice\":\"required\",\"metadata\":{\"a\":\"b\"}}";
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
        responses_request_free(&request);
    }
    assert_true(n_failed > (FAILMALLOC_SEES_LIBRARIES ? 20 : 8)); /* most are cJSON's */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_request_leaves_out),
        cmocka_unit_test(test_items),
        cmocka_unit_test(test_tools),
        cmocka_unit_test(test_tool_choice),
        cmocka_unit_test(test_own_fields),
        cmocka_unit_test(test_bad_fields_are_named),
        cmocka_unit_test(test_bad_input_is_named),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
