/* JSON schemas: each keyword with texts that its grammar derives and texts that it does not; what is refused, and how
 * the message names it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/failmalloc.h"
#include "tests/lib/sanitized.h"
#include "tests/unit/grammar/derive.h"

static struct l4_grammar *compile(const char *schema) {
    struct l4_grammar *grammar;
    struct l4_buf gbnf = {0};
    struct l4_err err;
    if (l4_grammar_from_schema(schema, strlen(schema), &gbnf, &err))
        fail_msg("%s\n%s", schema, err.message);
    if (l4_grammar_open(&grammar, gbnf.data, gbnf.len, &err))
        fail_msg("%s\n%s\n%s", schema, gbnf.data, err.message);
    l4_buf_free(&gbnf);
    return grammar;
}

static void check(const char *schema, const char *const *yes, const char *const *no) {
    struct l4_grammar *grammar = compile(schema);
    for (; *yes; yes++)
        if (derive(grammar, *yes, strlen(*yes)) != 1)
            fail_msg("%s\ndoes not derive '%s'\n%s", schema, *yes, grammar->text);
    for (; *no; no++)
        if (derive(grammar, *no, strlen(*no)) != 0)
            fail_msg("%s\nderives '%s'\n%s", schema, *no, grammar->text);
    l4_grammar_close(grammar);
}
#define TEXTS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NONE       ((const char *const[]){NULL})

static void test_types(void **state) {
    (void)state;
    check("{}", TEXTS("1", "null", "[1, {\"a\": [true]}]", "\"x\"", "{}", "[]"),
          TEXTS("", "nul", "[1,]", "{a:1}", "1 "));
    check("true", TEXTS("1", "{}"), TEXTS("x"));
    check("{\"type\":\"null\"}", TEXTS("null"), TEXTS("0"));
    check("{\"type\":\"boolean\"}", TEXTS("true", "false"), TEXTS("null", "True"));
    check("{\"type\":[\"string\",\"null\"]}", TEXTS("null", "\"\""), TEXTS("1"));
    check("{\"type\":\"integer\"}", TEXTS("0", "-5", "123456789012345"),
          TEXTS("01", "1.5", "1e3", "1234567890123456", "-"));
    check("{\"type\":\"number\"}", TEXTS("0", "-5.25", "1e3", "1.5E-10"), TEXTS(".5", "1.", "+1", "0x1", "NaN"));
    check("{\"type\":\"string\"}", TEXTS("\"a\\n\\u00e9\xc3\xa9\"", "\"\\ud83d\\ude00\""),
          TEXTS("\"a\nb\"", "\"\\x\"", "\"\\ud83d\"", "\"\\ud83d\\u0041\"", "\"\\ude00\"", "\"a"));
    check("{\"type\":\"array\"}", TEXTS("[]", "[ 1, \"a\" ]"), TEXTS("{}", "[1 2]"));
    check("{\"type\":\"object\"}", TEXTS("{}", "{\"a\": 1}", "{\n  \"a\": {\n    \"b\": []\n  }\n}"),
          TEXTS("[]", "{\"a\" 1}", "{  \"a\": 1}", "{\n\n\"a\": 1}"));
}

static void test_enum(void **state) {
    (void)state;
    check("{\"enum\":[\"a\",1,null,[1,2],{\"k\":true}]}", TEXTS("\"a\"", "1", "null", "[1, 2]", "{\"k\": true}"),
          TEXTS("\"b\"", "2", "true", "\"\""));
    check("{\"const\":\"a\\\"b\"}", TEXTS("\"a\\\"b\""), TEXTS("\"a\"b\"", "\"\""));
    check("{\"type\":\"string\",\"enum\":[\"a\",1]}", TEXTS("\"a\""), TEXTS("1"));
    check("{\"allOf\":[{\"enum\":[1,2,3]},{\"enum\":[2,3,4]}]}", TEXTS("2", "3"), TEXTS("1", "4"));
    check("{\"enum\":[1.0,2.5]}", TEXTS("1.0", "2.5"), TEXTS("1"));
}

static void test_strings(void **state) {
    (void)state;
    check("{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
          TEXTS("\"ab\"", "\"abc\"", "\"\xc3\xa9\\n\"", "\"\\ud83d\\ude00x\""), TEXTS("\"\"", "\"a\"", "\"abcd\""));
    check("{\"pattern\":\"^[a-c]+\\\\d{2}$\"}", TEXTS("\"a12\"", "\"abc00\""),
          TEXTS("\"12\"", "\"a1\"", "\"a123\"", "\"xa12\""));
    check("{\"pattern\":\"b\"}", TEXTS("\"b\"", "\"abc\"", "\"\\nb\""), TEXTS("\"\"", "\"ac\""));
    check("{\"pattern\":\"^a|b$\"}", TEXTS("\"ax\"", "\"xb\""), TEXTS("\"xa\"", "\"bx\""));
    check("{\"pattern\":\"^(?:x|(y{2,3})|[^a-z\\\"])*?$\"}", TEXTS("\"\"", "\"xyyAx\"", "\"\\\\\"", "\"\\n\\u0001\""),
          TEXTS("\"y\"", "\"a\"", "\"\\\"\""));
    check("{\"pattern\":\"^\\\"\\\\\\\\\\\\/$\"}", TEXTS("\"\\\"\\\\/\""), TEXTS("\"\"\\\\/\""));
    check("{\"pattern\":\"^.\\\\s\\\\w\\\\W$\"}", TEXTS("\"a b-\"", "\"\xc3\xa9\\t_!\""),
          TEXTS("\"\\n b-\"", "\"a bb\""));
    check("{\"pattern\":\"^[\\\\]\\\\-x]\\\\u00e9\\\\x41$\"}",
          TEXTS("\"]\xc3\xa9"
                "A\"",
                "\"-\xc3\xa9"
                "A\""),
          TEXTS("\"a\xc3\xa9"
                "A\""));
    check("{\"pattern\":\"^a{2,4}$\",\"minLength\":1,\"maxLength\":4}", TEXTS("\"aa\""), TEXTS("\"a\""));
    check("{\"format\":\"date\"}", TEXTS("\"2024-02-28\"", "\"1999-12-31\""),
          TEXTS("\"2024-13-01\"", "\"2024-04-31\"", "\"24-01-01\""));
    check("{\"format\":\"date-time\"}", TEXTS("\"2024-02-28T23:59:59Z\"", "\"2024-02-28T00:00:00.123+02:00\""),
          TEXTS("\"2024-02-28\"", "\"2024-02-28T24:00:00Z\""));
    check("{\"format\":\"time\"}", TEXTS("\"12:30:00Z\""), TEXTS("\"12:30\""));
    check("{\"format\":\"email\"}", TEXTS("\"ab@example.org\""), TEXTS("\"ab@\"", "\"@example.org\""));
    check("{\"format\":\"uuid\"}", TEXTS("\"123e4567-e89b-12d3-a456-426614174000\""), TEXTS("\"123e4567\""));
    check("{\"format\":\"ipv4\"}", TEXTS("\"255.0.10.199\""), TEXTS("\"256.0.0.1\"", "\"1.2.3\"", "\"01.2.3.4\""));
    check("{\"format\":\"ipv6\"}", TEXTS("\"::\"", "\"1:2:3:4:5:6:7:8\"", "\"fe80::1:2\""),
          TEXTS("\"1:2\"", "\"1::2::3\""));
    check("{\"format\":\"uri\"}", TEXTS("\"https://example.org/a/b?x=1#y\""), TEXTS("\"example.org\"", "\"http://\""));
    check("{\"format\":\"hostname\"}", TEXTS("\"a.example.org\""), TEXTS("\"-a.org\""));
    check("{\"format\":\"duration\"}", TEXTS("\"P3D\"", "\"PT5M\""), TEXTS("\"P\"", "\"3D\""));
}

/* Bounds of integers: every value within them tried, and some beyond. */
static void integers(long low, long high) {
    char schema[160], text[32];
    snprintf(schema, sizeof schema, "{\"type\":\"integer\",\"minimum\":%ld,\"exclusiveMaximum\":%ld}", low, high + 1);
    struct l4_grammar *grammar = compile(schema);
    for (long x = low - 13; x <= high + 13; x += SANITIZED ? 13 : 1) {
        snprintf(text, sizeof text, "%ld", x);
        if (derive(grammar, text, strlen(text)) != (x >= low && x <= high))
            fail_msg("%s: %s\n%s", schema, text, grammar->text);
    }
    l4_grammar_close(grammar);
}

static void test_numbers(void **state) {
    (void)state;
    integers(0, 9);
    integers(-5, 17);
    integers(95, 1203);
    integers(-1203, -95);
    integers(7, 7);
    check("{\"type\":\"integer\",\"minimum\":0.5}", TEXTS("1", "99"), TEXTS("0", "-1"));
    check("{\"type\":\"integer\",\"minimum\":-1e30,\"maximum\":10}", TEXTS("-999999999999999", "10"), TEXTS("11"));
    check("{\"minimum\":0,\"maximum\":1}", TEXTS("0", "0.5", "1", "0.0001", "1.0"), TEXTS("-1", "1.01", "2", "1e0"));
    check("{\"exclusiveMinimum\":0,\"exclusiveMaximum\":1}", TEXTS("0.5", "0.00000000000001", "0.99999999999999"),
          TEXTS("0", "1", "0.0", "1.0"));
    check("{\"minimum\":-1.25,\"maximum\":2.5}", TEXTS("-1.25", "-0.3", "0", "2.49", "2.5", "1.999"),
          TEXTS("-1.26", "-1.3", "2.51", "2.6", "-2"));
    check("{\"minimum\":1.25,\"maximum\":1.3,\"type\":\"number\"}", TEXTS("1.25", "1.299", "1.3"),
          TEXTS("1", "1.2", "1.31", "1.24"));
    check("{\"minimum\":100}", TEXTS("100", "100.0", "123456.5"), TEXTS("99.9", "99", "1e3"));
    check("{\"minimum\":5,\"exclusiveMinimum\":true,\"type\":\"integer\"}", TEXTS("6"), TEXTS("5"));
    check("{\"allOf\":[{\"minimum\":3},{\"maximum\":4}],\"type\":\"integer\"}", TEXTS("3", "4"), TEXTS("2", "5"));
    check("{\"type\":\"number\",\"multipleOf\":1}", TEXTS("3"), TEXTS("3.5"));
}

static void test_objects(void **state) {
    (void)state;
    static const char person[] =
        "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\"},"
        "\"ok\":{\"type\":\"boolean\"}},\"required\":[\"age\"],\"additionalProperties\":false}";
    check(person,
          TEXTS("{\"name\":\"x\",\"age\":3,\"ok\":true}", "{ \"age\": 3 }", "{\n\t\"age\": 3,\n\t\"ok\": false\n}",
                "{\"name\":\"x\",\"age\":3}"),
          TEXTS("{}", "{\"name\":\"x\"}", "{\"age\":3,\"name\":\"x\"}", "{\"age\":3,}", "{\"age\":3,\"z\":1}",
                "{,\"age\":3}"));
    check("{\"properties\":{\"a\":{},\"b\":{}}}", TEXTS("{}", "{\"a\":1}", "{\"b\":1}", "{\"a\":1,\"b\":2}"),
          TEXTS("{\"c\":1}", "{\"b\":1,\"a\":2}"));
    check("{\"type\":\"object\",\"properties\":{\"ab\":{\"const\":1},\"a\":{\"const\":2},\"\xc3\xa9\":true},"
          "\"additionalProperties\":{\"type\":\"null\"}}",
          TEXTS("{}", "{\"ab\":1,\"a\":2,\"x\":null,\"y\":null}", "{\"abc\":null}", "{\"\":null}", "{\"b\":null}",
                "{\"\xc3\xaa\":null}", "{\"\xc3\xa9\":7}"),
          TEXTS("{\"x\":1}", "{\"a\":null}", "{\"ab\":null}", "{\"x\":null,\"a\":2}", "{\"\\u0061\":null}"));
    check("{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}", TEXTS("{}", "{\"x\":1, \"y\":2}"),
          TEXTS("{\"x\":\"1\"}"));
    check("{\"type\":\"object\",\"additionalProperties\":false}", TEXTS("{}", "{ }"), TEXTS("{\"x\":1}"));
    check("{\"type\":\"object\",\"required\":[\"k\"]}", TEXTS("{\"k\":1}", "{\"k\":1,\"l\":2}"),
          TEXTS("{}", "{\"l\":2}"));
    check("{\"properties\":{\"a\":false,\"b\":{}},\"additionalProperties\":false}", TEXTS("{}", "{\"b\":1}"),
          TEXTS("{\"a\":1}"));
    check("{\"properties\":{\"a\\n\\\"\":{\"const\":1}},\"required\":[\"a\\n\\\"\"]}", TEXTS("{\"a\\n\\\"\":1}"), NONE);
    check("{\"properties\":{\"a\":{}},\"required\":[\"a\"],\"minProperties\":1,\"maxProperties\":2,"
          "\"additionalProperties\":false}",
          TEXTS("{\"a\":1}"), TEXTS("{}"));
}

static void test_arrays(void **state) {
    (void)state;
    check("{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":3}",
          TEXTS("[1]", "[1,2, 3]"), TEXTS("[]", "[1,2,3,4]", "[\"a\"]"));
    check("{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", TEXTS("[]", "[ ]", "[1,2,3,4,5]"), TEXTS("[1,]"));
    check("{\"type\":\"array\",\"maxItems\":0}", TEXTS("[]"), TEXTS("[1]"));
    check("{\"type\":\"array\",\"items\":false}", TEXTS("[]"), TEXTS("[1]"));
    check("{\"type\":\"array\",\"minItems\":2}", TEXTS("[1,[]]"), TEXTS("[1]"));
    check("{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}],\"items\":false}", TEXTS("[1,\"a\"]"),
          TEXTS("[1]", "[\"a\",1]", "[1,\"a\",2]"));
    check("{\"prefixItems\":[{\"type\":\"integer\"}],\"items\":{\"type\":\"null\"},\"maxItems\":3}",
          TEXTS("[1]", "[1,null]", "[1,null,null]"), TEXTS("[1,1]", "[1,null,null,null]"));
    check("{\"items\":[{\"type\":\"integer\"}],\"minItems\":2}", TEXTS("[1,true]"), TEXTS("[1]"));
}

static void test_combined(void **state) {
    (void)state;
    check("{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"integer\",\"minimum\":5}]}", TEXTS("\"a\"", "7"),
          TEXTS("4", "null"));
    check("{\"oneOf\":[{\"const\":\"a\"},{\"type\":\"null\"},{\"enum\":[1,2]}]}", TEXTS("\"a\"", "null", "2"),
          TEXTS("1.5"));
    check("{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}", TEXTS("\"a\"", "null"), TEXTS("1"));
    check("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"],\"anyOf\":[{"
          "\"properties\":{\"b\":{\"const\":1}},\"required\":[\"b\"]},{\"type\":\"string\"}]}",
          TEXTS("{\"a\":1,\"b\":1}"), TEXTS("{\"a\":1}", "\"x\""));
    check("{\"oneOf\":[{\"properties\":{\"t\":{\"const\":\"x\"}},\"required\":[\"t\"]},{\"properties\":{\"t\":{"
          "\"enum\":[\"y\"]},\"v\":{}},\"required\":[\"t\",\"v\"]}]}",
          TEXTS("{\"t\":\"x\"}", "{\"t\":\"y\",\"v\":0}"), TEXTS("{\"t\":\"y\"}"));
    check("{\"allOf\":[{\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]},{\"properties\":{\"a\":{"
          "\"minimum\":3},\"b\":{}},\"required\":[\"b\"]}]}",
          TEXTS("{\"a\":3,\"b\":0}"), TEXTS("{\"a\":2,\"b\":0}", "{\"a\":3}"));
    check("{\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{"
          "\"$ref\":\"#/$defs/n\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"]}},\"$ref\":\"#/$defs/n\"}",
          TEXTS("{\"v\":1,\"next\":{\"v\":2,\"next\":null}}"), TEXTS("{\"v\":1}", "null"));
    check("{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}", TEXTS("[]", "[[],[[]]]"), TEXTS("[1]"));
    check("{\"definitions\":{\"a/b~c d\":{\"const\":1}},\"$ref\":\"#/definitions/a~1b~0c%20d\"}", TEXTS("1"),
          TEXTS("2"));
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void refused(const char *schema, const char *part) {
    struct l4_buf gbnf = {0};
    struct l4_grammar *grammar = NULL;
    struct l4_err err = {0};
    int rc = l4_grammar_from_schema(schema, strlen(schema), &gbnf, &err);
    if (rc == 0)
        rc = l4_grammar_open(&grammar, gbnf.data, gbnf.len, &err);
    l4_buf_free(&gbnf);
    if (rc != L4_E_INVALID || !strstr(err.message, part))
        fail_msg("%.200s: expected \"%s\", found %d: %s", schema, part, rc, err.message);
    l4_grammar_close(grammar);
}

static void test_refused(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"{\"type\":", "expected a value"},
        {"3", "#: a schema must be an object"},
        {"false", "#: no value is allowed"},
        {"{\"type\":\"strin\"}", "#/type: a type must be"},
        {"{\"properties\":{\"a\":{\"items\":{\"not\":{}}}}}", "#/properties/a/items/not: 'not' is not supported"},
        {"{\"if\":{}}", "'if' is not supported"},
        {"{\"type\":\"array\",\"uniqueItems\":true}", "#/uniqueItems: 'uniqueItems' is not supported"},
        {"{\"patternProperties\":{\"a\":{}}}", "'patternProperties'"},
        {"{\"multipleOf\":0.5}", "'multipleOf'"},
        {"{\"$ref\":\"#/$defs/x\"}", "#/$ref: there is no '#/$defs/x'"},
        {"{\"$ref\":\"http://x/y\"}", "other documents"},
        {"{\"$ref\":\"#\"}", "refers to itself without an end"},
        {"{\"$defs\":{\"a\":{\"$ref\":\"#/$defs/b\"},\"b\":{\"$ref\":\"#/$defs/a\"}},\"$ref\":\"#/$defs/a\"}",
         "#/$defs/a: refers to itself"},
        {"{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "can never end"},
        {"{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}",
         "#/oneOf: alternatives 0 and 1 of 'oneOf' may both match"},
        {"{\"oneOf\":3}", "must be an array"},
        {"{\"enum\":[]}", "at least one value"},
        {"{\"type\":\"string\",\"enum\":[1]}", "no value is left"},
        {"{\"allOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}", "no type is left"},
        {"{\"minimum\":3,\"maximum\":2}", "within the bounds"},
        {"{\"minimum\":\"3\"}", "#/minimum: must be a number"},
        {"{\"type\":\"integer\",\"minimum\":0.1,\"maximum\":0.2}", "no integer lies within"},
        {"{\"minimum\":1e-20}", "more than 15 digits"},
        {"{\"minLength\":-1}", "#/minLength: must be a whole number"},
        {"{\"minLength\":3,\"maxLength\":2}", "minLength is larger"},
        {"{\"type\":\"array\",\"minItems\":3,\"maxItems\":2}", "no number of items"},
        {"{\"pattern\":\"a(\"}", "#/pattern: character 3 of the pattern"},
        {"{\"pattern\":\"(?=a)\"}", "looking ahead"},
        {"{\"pattern\":\"a\\\\b\"}", "this escape is not supported"},
        {"{\"pattern\":\"*\"}", "nothing to repeat"},
        {"{\"pattern\":\"[b-a]\"}", "a range must go"},
        {"{\"pattern\":\"a)\"}", "a closing parenthesis"},
        {"{\"pattern\":\"a^b\"}", "'^' and '$' are supported only"},
        {"{\"pattern\":\"(a?){100}\"}", "at most 64 times"},
        {"{\"pattern\":\"^a+$\",\"maxLength\":3}", "every match keeps to them"},
        {"{\"format\":\"regex\"}", "#/format: the format is not supported"},
        {"{\"properties\":{\"a\":{}},\"additionalProperties\":false,\"required\":[\"b\"]}",
         "required, and not allowed"},
        {"{\"type\":\"object\",\"minProperties\":1}", "'minProperties' is supported up to"},
        {"{\"properties\":[]}", "#/properties: must be an object"},
        {"{\"required\":3,\"type\":\"object\"}", "#/required: must be an array of names"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(cases[i][0], cases[i][1]);
}

/* Schemas made to be large or deep end soon, with the bound in the message or a grammar. */
static void test_hostile(void **state) {
    (void)state;
    struct l4_buf b = {0};
    for (int i = 0; i < 200; i++)
        l4_buf_puts(&b, "{\"items\":");
    l4_buf_puts(&b, "{}");
    for (int i = 0; i < 200; i++)
        l4_buf_puts(&b, "}");
    refused(b.data, "nested deeper than 100");
    l4_buf_clear(&b);
    for (int i = 0; i < 600; i++)
        l4_buf_puts(&b, "{\"items\":");
    refused(b.data, "nested deeper than 512");
    l4_buf_clear(&b);
    l4_buf_puts(&b, "{\"enum\":[0");
    for (int i = 1; i < 2000; i++)
        l4_buf_printf(&b, ",%d", i);
    l4_buf_puts(&b, "]}");
    refused(b.data, "more than 1000 values");
    l4_buf_clear(&b);
    l4_buf_puts(&b, "{\"properties\":{\"p\":{}");
    for (int i = 1; i < 2000; i++)
        l4_buf_printf(&b, ",\"p%d\":{}", i);
    l4_buf_puts(&b, "}}");
    refused(b.data, "more than 1000 properties");
    l4_buf_clear(&b); /* each of 20 definitions names the next one twice: 2^20 when written out */
    l4_buf_puts(&b, "{\"$ref\":\"#/$defs/d0\",\"$defs\":{\"d20\":{\"type\":\"null\"}");
    for (int i = 0; i < 20; i++)
        l4_buf_printf(&b,
                      ",\"d%d\":{\"properties\":{\"a\":{\"$ref\":\"#/$defs/d%d\"},\"b\":{\"$ref\":\"#/$defs/d%d\"}}}",
                      i, i + 1, i + 1);
    l4_buf_puts(&b, "}}");
    l4_grammar_close(compile(b.data));
    l4_buf_clear(&b); /* 2^12 combinations of alternatives */
    l4_buf_puts(&b, "{\"allOf\":[{}");
    for (int i = 0; i < 14; i++)
        l4_buf_printf(&b, ",{\"anyOf\":[{\"properties\":{\"a%d\":{}}},{\"properties\":{\"b%d\":{}}}]}", i, i);
    l4_buf_puts(&b, "]}");
    refused(b.data, "comes to a grammar of more than 1048576 bytes");
    l4_buf_clear(&b);
    l4_buf_puts(&b, "{\"pattern\":\"");
    for (int i = 0; i < 60000; i++)
        l4_buf_puts(&b, "(");
    l4_buf_puts(&b, "\"}");
    refused(b.data, "nested deeper than 50");
    l4_buf_clear(&b);
    for (int i = 0; i < 300000; i++)
        l4_buf_puts(&b, " ");
    refused(b.data, "allowed are at most 262144");
    l4_buf_free(&b);
}

/* ---- tools ------------------------------------------------------------------------------------------------------- */

static struct l4_grammar *compile_tools(const char *only, bool parallel) {
    static const char *const tools[] = {"{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{"
                                        "\"type\":\"object\",\"properties\":{\"city\":{\"$ref\":\"#/$defs/c\"}},"
                                        "\"required\":[\"city\"],\"$defs\":{\"c\":{\"type\":\"string\"}}}}}",
                                        "{\"name\":\"stop\"}"};
    struct l4_text texts[2] = {{tools[0], strlen(tools[0])}, {tools[1], strlen(tools[1])}};
    struct l4_buf gbnf = {0};
    struct l4_grammar *grammar = NULL;
    struct l4_err err;
    int rc = l4_grammar_from_tools(texts, 2, only, parallel, &gbnf, &err);
    if (rc == 0)
        rc = l4_grammar_open(&grammar, gbnf.data, gbnf.len, &err);
    if (rc && only && strcmp(only, "none") == 0)
        assert_non_null(strstr(err.message, "there is no tool named 'none'"));
    else if (rc)
        fail_msg("%s\n%s", err.message, gbnf.data);
    l4_buf_free(&gbnf);
    return grammar;
}

static void test_tools(void **state) {
    (void)state;
    static const char weather[] = "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}";
    static const char stop[] = "{\"name\": \"stop\", \"parameters\": {}}";
    char both[256];
    snprintf(both, sizeof both, "%s; %s", weather, stop);
    struct l4_grammar *one = compile_tools(NULL, false), *many = compile_tools(NULL, true),
                      *named = compile_tools("stop", false);
    assert_int_equal(derive(one, weather, strlen(weather)), 1);
    assert_int_equal(derive(one, stop, strlen(stop)), 1);
    assert_int_equal(derive(one, both, strlen(both)), 0);
    assert_int_equal(derive(many, both, strlen(both)), 1);
    assert_int_equal(derive(named, stop, strlen(stop)), 1);
    assert_int_equal(derive(named, weather, strlen(weather)), 0);
    assert_int_equal(derive(one, "{\"name\": \"get_weather\", \"parameters\": {}}", 41), 0);
    l4_grammar_close(one);
    l4_grammar_close(many);
    l4_grammar_close(named);
    assert_null(compile_tools("none", false));
    struct l4_text bad = {"{\"name\":\"x\",\"parameters\":{\"not\":{}}}", 36};
    struct l4_buf gbnf = {0};
    struct l4_err err;
    assert_int_equal(l4_grammar_from_tools(&bad, 1, NULL, true, &gbnf, &err), L4_E_INVALID);
    assert_string_equal(err.message, "tools[0]: #/not: 'not' is not supported");
    l4_buf_free(&gbnf);
}

static void test_nomem(void **state) {
    (void)state;
    static const char schema[] = "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"array\",\"items\":{\"enum\":["
                                 "1,2]}},\"b\":{\"pattern\":\"^a[^b]$\"}},"
                                 "\"required\":[\"a\"],\"additionalProperties\":{\"minimum\":1.5,\"maximum\":20}}";
    FAILMALLOC_EACH(n) {
        struct l4_buf gbnf = {0};
        struct l4_err err;
        int rc = l4_grammar_from_schema(schema, strlen(schema), &gbnf, &err);
        bool failed = failmalloc_disarm();
        if (rc != 0 && (rc != L4_E_NOMEM || !failed))
            fail_msg("allocation %zu: %d: %s", n, rc, err.message);
        if (rc == 0 && failed) { /* a sort that did without */
            struct l4_grammar *grammar;
            assert_int_equal(l4_grammar_open(&grammar, gbnf.data, gbnf.len, &err), 0);
            l4_grammar_close(grammar);
        }
        l4_buf_free(&gbnf);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),    cmocka_unit_test(test_enum),    cmocka_unit_test(test_strings),
        cmocka_unit_test(test_numbers),  cmocka_unit_test(test_objects), cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_combined), cmocka_unit_test(test_refused), cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_tools),    cmocka_unit_test(test_nomem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
