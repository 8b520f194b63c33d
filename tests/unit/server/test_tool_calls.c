/* Tool calls taken out of text: what counts as one, what its arguments become, and that nothing else is lost, however
 * the text is cut into pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cjson/cJSON.h>

#include "server/tool_calls.h"
#include "tests/lib/failmalloc.h"
#include "tests/lib/random_data.h"
#include "tests/lib/sanitized.h"

/* What a parse gave, as text: content, and calls as <<name|arguments>>, or <<name|arguments!>> where one broke. */
struct parse {
    struct l4_buf shown;
    struct l4_buf source; /* the text again */
    struct l4_buf arguments;
    size_t n_begun;
    bool in_call;
};

static bool memory_fails;

static void on_event(void *user, const struct tool_event *event) {
    struct parse *parse = user;
    const char *text = event->text.data;
    size_t len = event->text.len_bytes;
    bool is_of_call =
        event->type == TOOL_CALL_ARGUMENTS || event->type == TOOL_CALL_END || event->type == TOOL_CALL_BROKEN;
    assert_true(len > 0);
    if (!memory_fails)
        assert_int_equal(is_of_call, parse->in_call);
    if (event->type == TOOL_CALL_BEGIN) {
        assert_int_equal(event->call, parse->n_begun++);
        l4_buf_puts(&parse->shown, "<<");
        l4_buf_append(&parse->shown, text, len);
        l4_buf_puts(&parse->shown, "|");
        if (!memory_fails)
            l4_buf_clear(&parse->arguments);
    } else if (event->type == TOOL_CALL_ARGUMENTS) {
        assert_int_equal(event->call, parse->n_begun - 1);
        l4_buf_append(&parse->shown, text, len);
        l4_buf_append(&parse->arguments, text, len);
    } else {
        l4_buf_append(&parse->source, text, len);
    }
    if ((event->type == TOOL_CALL_END || event->type == TOOL_CALL_BROKEN) && !memory_fails) {
        const char *arguments = parse->arguments.data ? parse->arguments.data : "";
        cJSON *json = cJSON_ParseWithOpts(arguments, NULL, true);
        if (event->type == TOOL_CALL_END ? !cJSON_IsObject(json) : json != NULL)
            fail_msg("arguments: %s", arguments);
        cJSON_Delete(json);
    }
    if (event->type == TOOL_CALL_END || event->type == TOOL_CALL_BROKEN)
        l4_buf_puts(&parse->shown, event->type == TOOL_CALL_END ? ">>" : "!>>");
    if (event->type == TOOL_CONTENT || event->type == TOOL_CALL_BROKEN)
        l4_buf_append(&parse->shown, text, len);
    parse->in_call = event->type == TOOL_CALL_BEGIN || event->type == TOOL_CALL_ARGUMENTS;
}

static struct tool_names *names;
static size_t max_calls;

static int open_names(void **state) {
    static const char *const all[] = {"get_weather", "get_time", "add", "f", "g", "a-b.c"};
    (void)state;
    names = tool_names_open();
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!tool_names_add(names, (struct l4_text){all[i], strlen(all[i])}))
            return 1;
    return 0;
}

static int close_names(void **state) {
    (void)state;
    tool_names_close(names);
    return 0;
}

static void parse_free(struct parse *parse) {
    l4_buf_free(&parse->shown);
    l4_buf_free(&parse->source);
    l4_buf_free(&parse->arguments);
}

/* Pieces of at most piece bytes; with rng, of 1 to piece. */
static bool parse_text(struct parse *parse, const char *text, size_t len, size_t piece, struct rng *rng) {
    *parse = (struct parse){0};
    struct tool_calls *calls = tool_calls_open(names, max_calls, on_event, parse);
    if (!calls)
        return false;
    for (size_t i = 0, n; i < len; i += n) {
        n = rng ? 1 + (size_t)rng_below(rng, (int64_t)piece) : piece;
        n = n < len - i ? n : len - i;
        char *copy = malloc(n); /* of its own: reading past it is seen */
        if (copy)
            memcpy(copy, text + i, n);
        if (copy)
            tool_calls_feed(calls, copy, n);
        free(copy);
        if (!copy) {
            tool_calls_close(calls);
            return false;
        }
    }
    tool_calls_finish(calls);
    bool ok = !tool_calls_failed(calls) && !parse->shown.failed && !parse->source.failed && !parse->arguments.failed;
    tool_calls_close(calls);
    return ok;
}

static void assert_same(const struct l4_buf *got, const char *want, size_t len, const char *what) {
    if (got->len != len || (len && memcmp(got->data, want, len) != 0))
        fail_msg("%s: got [%.*s], want [%.*s]", what, (int)got->len, got->len ? got->data : "", (int)len, want);
}

/* Whole, byte by byte and in random pieces: the same, and the text comes back. */
static void check(const char *text, size_t len, const char *want) {
    struct rng rng = {len};
    struct parse whole, parse;
    assert_true(parse_text(&whole, text, len, len ? len : 1, NULL));
    assert_same(&whole.source, text, len, "source");
    if (want)
        assert_same(&whole.shown, want, strlen(want), text);
    for (int i = 0; i < (SANITIZED && len > 10000 ? 2 : 6); i++) {
        assert_true(parse_text(&parse, text, len, i == 0 ? 1 : (size_t)(3 * i), i == 0 ? NULL : &rng));
        assert_same(&parse.shown, whole.shown.data, whole.shown.len, "in pieces");
        assert_same(&parse.source, text, len, "source in pieces");
        parse_free(&parse);
    }
    parse_free(&whole);
}

#define CITY   "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}"
#define CALLED "<<get_weather|{\"city\": \"Paris\"}>>"
#define START  "<|python_start|>"
#define END    "<|python_end|>"

static const struct {
    const char *text, *want; /* want NULL: all of it is content */
} cases[] = {
    /* no calls */
    {"", NULL},
    {"It is sunny.", NULL},
    {"  two  spaces \n", NULL},
    {"a [1] b {2} c < d; e, f", NULL},
    {"[link](http://x)", NULL},
    {"{\"a\": 1}", NULL},
    {"{\"name\": \"Bob\", \"parameters\": {}}", NULL}, /* no tool of that name */
    {"{\"name\": \"get_weather2\"}", NULL},
    {"{\"name\": 5}", NULL},
    {"{\"name\": \"get_wea", NULL},
    {"[get_wea", NULL},
    {"[h(a=1)]", NULL},
    {"get_weather(city=\"Paris\")", NULL}, /* not in brackets */
    {"[1, 2]", NULL},
    {"[]", NULL},
    {"{}", NULL},
    {"<|python_start|", NULL},
    {START "x = 1" END, NULL},
    {"<|python_middle|>", NULL},
    {"{\"parameters\": {\"a\": 1}}", NULL},
    {"{\"name\": \"get\\u005fweather\"}", NULL},
    {"{\"type\": \"object\", \"name\": \"f\"}", NULL},
    /* JSON */
    {CITY, CALLED},
    {"{\"name\":\"get_weather\",\"parameters\":{\"city\":\"Paris\"}}", CALLED},
    {"\n {\n \"name\" :\t\"get_weather\" ,\n\"parameters\" : { \"city\" : \"Paris\" } }\n", CALLED},
    {"{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}", CALLED},
    {"{\"type\": \"function\", \"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}", CALLED},
    {"{\"parameters\": {\"city\": \"Paris\"}, \"name\": \"get_weather\"}", CALLED},
    {"{'name': 'get_weather', 'parameters': {'city': 'Paris'}}", CALLED},
    {"{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}", CALLED}, /* the last brace is missing */
    {"{\"name\": \"get_time\", \"parameters\": {}}", "<<get_time|{}>>"},
    {"{\"name\": \"get_time\"}", "<<get_time|{}>>"},
    {"{\"name\": \"a-b.c\"}", "<<a-b.c|{}>>"},
    {"{\"name\": \"add\", \"parameters\": {\"a\": -45, \"b\": 9.5e-3}}", "<<add|{\"a\": -45, \"b\": 9.5e-3}>>"},
    {"{\"name\": \"f\", \"parameters\": {\"x\": [1, [-2, []], {\"y\": {}}], \"z\": {\"k\": [{\"l\": null}]}}}",
     "<<f|{\"x\": [1, [-2, []], {\"y\": {}}], \"z\": {\"k\": [{\"l\": null}]}}>>"},
    {"{\"name\": \"f\", \"parameters\": {\"a\": true, \"b\": True, \"c\": false, \"d\": False, \"e\": null, \"g\": "
     "None}}",
     "<<f|{\"a\": true, \"b\": true, \"c\": false, \"d\": false, \"e\": null, \"g\": null}>>"},
    {"{\"name\": \"f\", \"parameters\": {\"s\": \"}]){[(,:;'\"}}", "<<f|{\"s\": \"}]){[(,:;'\"}>>"},
    {"{\"name\": \"f\", \"parameters\": {\"s\": \"a\\\"b\\\\c\\/d\\n\\u00e9\\ud83d\\ude00\"}}",
     "<<f|{\"s\": \"a\\\"b\\\\c/d\\n\xc3\xa9\xf0\x9f\x98\x80\"}>>"},
    {"{\"name\": \"f\", \"parameters\": {\"s\": \"two\nlines\"}}", "<<f|{\"s\": \"two\\nlines\"}>>"},
    {"{\"name\": \"f\", \"parameters\": {\"n\": 12345678901234567890123}}", "<<f|{\"n\": 12345678901234567890123}>>"},
    {"{\"name\": \"f\", \"parameters\": {\"s\": \"\xe6\x9d\xb1\xe4\xba\xac\"}}",
     "<<f|{\"s\": \"\xe6\x9d\xb1\xe4\xba\xac\"}>>"},
    /* pythonic */
    {"[get_weather(city=\"Paris\")]", CALLED},
    {"[get_weather(city='Paris')]", CALLED},
    {"[ get_weather ( city = 'Paris' , ) , ]", CALLED},
    {"[get_weather(city='Paris')", CALLED},
    {"[get_time()]", "<<get_time|{}>>"},
    {"[a-b.c()]", "<<a-b.c|{}>>"},
    {"[add(a=-1, b=+2), f(x=.5, y=5., z=1_000, e=1E+5, n=-0.25)]",
     "<<add|{\"a\": -1, \"b\": 2}>><<f|{\"x\": 0.5, \"y\": 5.0, \"z\": 1000, \"e\": 1e+5, \"n\": -0.25}>>"},
    {"[f(a=[1, -2, ['x']], b={'k': {\"l\": [True, None,],},}, c=False, d=true)]",
     "<<f|{\"a\": [1, -2, [\"x\"]], \"b\": {\"k\": {\"l\": [true, null]}}, \"c\": false, \"d\": true}>>"},
    {"[f(s='it\\'s \"so\"', t=\"C:\\dir\", u='\\x41\\U0001F600\\a', v='a\\\nb')]",
     "<<f|{\"s\": \"it's \\\"so\\\"\", \"t\": \"C:\\\\dir\", \"u\": \"A\xf0\x9f\x98\x80\\u0007\", \"v\": \"ab\"}>>"},
    {"[f(s='(]),')]", "<<f|{\"s\": \"(]),\"}>>"},
    /* tags */
    {START CITY END, CALLED},
    {START "[get_weather(city='Paris')]" END, CALLED},
    {START END CITY, CALLED},
    {START "\n" CITY "\n" END "\n", CALLED},
    {CITY START, CALLED},
    {START CITY, CALLED},
    {CITY END " Done.", CALLED " Done."},
    {START CITY END START CITY END, CALLED CALLED},
    /* several, and prose */
    {CITY CITY, CALLED CALLED},
    {CITY "; " CITY, CALLED CALLED},
    {CITY ";" CITY " ", CALLED CALLED},
    {CITY ", " CITY, CALLED CALLED},
    {CITY "\n\n" CITY, CALLED CALLED},
    {"[" CITY ", " CITY "]", CALLED CALLED},
    {"[get_time()]\n[f()]", "<<get_time|{}>><<f|{}>>"},
    {"[get_time(); f()]", "<<get_time|{}>><<f|{}>>"},
    {"[get_time()\n" CITY, "<<get_time|{}>>" CALLED},
    {"Let me look. " CITY, "Let me look." CALLED},
    {"I'll call [it] {now}: " CITY " and wait.", "I'll call [it] {now}:" CALLED " and wait."},
    {"Prose [get_time()] more " CITY, "Prose<<get_time|{}>> more" CALLED},
    {CITY ";; x", CALLED ";; x"},
    {CITY ";", CALLED ";"},
    {"```json\n" CITY "\n```", "```json" CALLED "\n```"},
    {"{" CITY "}", "{" CALLED "}"},
    {"[[get_time()]", "[<<get_time|{}>>"},
    {"<" START CITY, "<" CALLED},
    /* what begins like a call and does not go on: the name was known, the rest is content after all */
    {CITY ", get_time", CALLED ", get_time"},
    {"[get_time(), other()]", "<<get_time|{}>>, other()]"},
    {"{\"name\": \"f\", \"parameters\": 5}", "<<f|!>>{\"name\": \"f\", \"parameters\": 5}"},
    {"{\"name\": \"f\", \"why\": 5}", "<<f|!>>{\"name\": \"f\", \"why\": 5}"},
    {"{\"name\": \"f\", \"name\": \"g\"}", "<<f|!>>{\"name\": \"f\", \"name\": \"g\"}"},
    {"{\"name\": \"f\", \"parameters\": {\"a\": 1", "<<f|{\"a\": !>>{\"name\": \"f\", \"parameters\": {\"a\": 1"},
    {"{\"name\": \"f\", \"parameters\": {\"a\": oops}} x",
     "<<f|{\"a\": 0!>>{\"name\": \"f\", \"parameters\": {\"a\": oops}} x"},
    {"{\"name\": \"f\", \"parameters\": {\"a\": }}", "<<f|{\"a\": !>>{\"name\": \"f\", \"parameters\": {\"a\": }}"},
    {"{\"name\": \"f\", \"parameters\": {\"a\": ]}}", "<<f|{\"a\": !>>{\"name\": \"f\", \"parameters\": {\"a\": ]}}"},
    {"{\"name\": \"f\", \"parameters\": {1: 2}}", "<<f|{!>>{\"name\": \"f\", \"parameters\": {1: 2}}"},
    {"{\"name\": \"f\", \"parameters\": {\"a\": \"\\ud83d\"}}",
     "<<f|{\"a\": \"!>>{\"name\": \"f\", \"parameters\": {\"a\": \"\\ud83d\"}}"},
    {"{\"name\": \"f\", \"parameters\": {\"a\": \"\\u0000\"}}",
     "<<f|{\"a\": \"!>>{\"name\": \"f\", \"parameters\": {\"a\": \"\\u0000\"}}"},
    {"{\"name\": \"f\", \"parameters\": {\"a\": \"\\u12g4\"}}",
     "<<f|{\"a\": \"!>>{\"name\": \"f\", \"parameters\": {\"a\": \"\\u12g4\"}}"},
    {"{\"name\": \"f\", \"parameters\": {}, \"why\": 5}", "<<f|{!>>{\"name\": \"f\", \"parameters\": {}, \"why\": 5}"},
    {"[f(a='\\udc00')]", "<<f|{\"a\": \"!>>[f(a='\\udc00')]"},
    {"[f(a='\\ud83d\\ud83d')]", "<<f|{\"a\": \"!>>[f(a='\\ud83d\\ud83d')]"},
    {"[f(a='\\U0000d83d')]", "<<f|{\"a\": \"!>>[f(a='\\U0000d83d')]"},
    {"[f(a='\\U00110000')]", "<<f|{\"a\": \"!>>[f(a='\\U00110000')]"},
    {"[f(1)]", "<<f|{!>>[f(1)]"},
    {"[f(a=g())]", "<<f|{\"a\": 0!>>[f(a=g())]"},
    {"[f(a=007)]", "<<f|{\"a\": 007!>>[f(a=007)]"},
    {"[f(a=0x1f)]", "<<f|{\"a\": 0!>>[f(a=0x1f)]"},
    {"[f(a=1__0)]", "<<f|{\"a\": 10!>>[f(a=1__0)]"},
    {"[f(a=-)]", "<<f|{\"a\": -0!>>[f(a=-)]"},
    {"[f(a=.)]", "<<f|{\"a\": 0.0!>>[f(a=.)]"},
    {"[f(a=1e)]", "<<f|{\"a\": 1e!>>[f(a=1e)]"},
    {"[f(a=1) [g()]", "<<f|{\"a\": 1}>><<g|{}>>"},
    {" [f(a='x", "<<f|{\"a\": \"x!>> [f(a='x"},
    {"[f(a=1 [g()]", "<<f|{\"a\": 1!>>[f(a=1 <<g|{}>>"},
};

static void test_cases(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check(cases[i].text, strlen(cases[i].text), cases[i].want ? cases[i].want : cases[i].text);
}

/* As soon as the name is known, not when the call is whole; and pieces of arguments as they come. */
static void test_a_call_is_announced_by_its_name(void **state) {
    (void)state;
    static const char *const begins[] = {"Look: {\"name\": \"get_weather\"", "[get_weather("};
    for (size_t i = 0; i < 2; i++) {
        struct parse parse = {0};
        struct tool_calls *calls = tool_calls_open(names, 0, on_event, &parse);
        size_t len = strlen(begins[i]);
        tool_calls_feed(calls, begins[i], len - 1);
        assert_int_equal(parse.n_begun, 0);
        tool_calls_feed(calls, begins[i] + len - 1, 1);
        assert_int_equal(parse.n_begun, 1);
        const char *more = i == 0 ? ", \"parameters\": {\"city\": \"Par" : "city=\"Par";
        tool_calls_feed(calls, more, strlen(more));
        assert_string_equal(parse.arguments.data, "{\"city\": \"Par");
        tool_calls_close(calls);
        parse_free(&parse);
    }
}

static void test_one_call_at_most(void **state) {
    (void)state;
    max_calls = 1;
    check(CITY CITY, strlen(CITY CITY), CALLED);
    check(CITY "; [f(a=1), g()] Done.", strlen(CITY "; [f(a=1), g()] Done."), CALLED " Done.");
    check("[f(1), " CITY, strlen("[f(1), " CITY), "<<f|{!>>[f(1)," CALLED); /* one that broke was none */
    check(CITY "[f(1)]", strlen(CITY "[f(1)]"), CALLED "[f(1)]");
    max_calls = 0;
}

static void repeat(struct l4_buf *out, const char *text, int n) {
    while (n-- > 0)
        l4_buf_puts(out, text);
}

static void test_bounds(void **state) {
    (void)state;
    for (int extra = 0; extra < 2; extra++) { /* depth: the object of the arguments is one level */
        struct l4_buf text = {0}, want = {0};
        int n = TOOL_CALLS_MAX_DEPTH - 1 + extra;
        l4_buf_puts(&text, "{\"name\": \"f\", \"parameters\": {\"a\": ");
        repeat(&text, "[", n);
        repeat(&text, "]", n);
        l4_buf_puts(&text, "}}");
        l4_buf_puts(&want, "<<f|{\"a\": ");
        repeat(&want, "[", TOOL_CALLS_MAX_DEPTH - 1);
        repeat(&want, "]", extra ? 0 : n);
        l4_buf_puts(&want, extra ? "!>>" : "}>>");
        if (extra)
            l4_buf_append(&want, text.data, text.len);
        check(text.data, text.len, want.data);
        l4_buf_free(&text);
        l4_buf_free(&want);
    }
    static const struct {
        const char *begin, *repeated;
        int n;
        const char *end;
    } long_texts[] = {
        {"", " ", 5000, ""},
        {"", START, 5000, ""},
        {"", "[", 100000, ""},
        {"", "{", 100000, ""},
        {"", "{\"name\": \"f\"", 20000, ""},
        {"", "[f(a=[", 20000, ""},
        {"{\"name\": \"", "a", 5000, "\"}"},
        {"[", "a", 5000, "()]"},
        {"[f(a=", "1", 5000, ")]"},
        {"[f(", "a", 5000, "=1)]"},
        {"[f(s='", "0123456789abcdef", TOOL_CALLS_MAX_BYTES / 16 + 1, "')] and on"},
        {"{", " ", TOOL_CALLS_MAX_BYTES + 1, "\"name\": \"f\"}"},
    };
    for (size_t i = 0; i < sizeof long_texts / sizeof *long_texts; i++) {
        struct l4_buf text = {0};
        l4_buf_puts(&text, long_texts[i].begin);
        repeat(&text, long_texts[i].repeated, long_texts[i].n);
        l4_buf_puts(&text, long_texts[i].end);
        struct parse parse;
        check(text.data, text.len, NULL);
        assert_true(parse_text(&parse, text.data, text.len, 977, NULL));
        if (parse.shown.len) /* none of these is a call: broken ones show a mark */
            assert_null(strstr(parse.shown.data, "}>>"));
        parse_free(&parse);
        l4_buf_free(&text);
    }
    char digits[700] = "[f(a=";
    memset(digits + 5, '7', 500);
    strcpy(digits + 505, ")]");
    struct parse parse;
    assert_true(parse_text(&parse, digits, strlen(digits), 9, NULL));
    assert_int_equal(parse.shown.len, 4 + 6 + 500 + 3);
    parse_free(&parse);
}

/* Random texts out of what calls are made of: cut anyhow they give the same, and no byte is lost. */
static void test_random_texts(void **state) {
    (void)state;
    static const char *const parts[] = {"{",
                                        "}",
                                        "[",
                                        "]",
                                        "(",
                                        ")",
                                        ",",
                                        ";",
                                        ":",
                                        "=",
                                        " ",
                                        "\n",
                                        "\"",
                                        "'",
                                        "\\",
                                        "\\u",
                                        "00e9",
                                        "d83d",
                                        "-",
                                        "1",
                                        ".5",
                                        "true",
                                        "None",
                                        "f",
                                        "g",
                                        "get_time",
                                        "\"name\"",
                                        "\"parameters\"",
                                        "{\"name\": \"f\"",
                                        ", \"parameters\": {",
                                        "[f(",
                                        "a=",
                                        "<",
                                        START,
                                        END,
                                        "'k': ",
                                        "word",
                                        "\xc3\xa9",
                                        "{}",
                                        "[]",
                                        "}}",
                                        ")]",
                                        "{\"name\": \"get_time\", \"parameters\": {\"a\": "};
    struct rng rng = {5};
    for (int i = 0; i < 4000; i++) {
        struct l4_buf text = {0};
        int n = 1 + (int)rng_below(&rng, 24);
        while (n-- > 0)
            l4_buf_puts(&text, parts[rng_below(&rng, (int64_t)(sizeof parts / sizeof *parts))]);
        max_calls = (size_t)rng_below(&rng, 3);
        check(text.data, text.len, NULL);
        l4_buf_free(&text);
    }
    max_calls = 0;
}

static void test_names(void **state) {
    (void)state;
    char text[TOOL_CALLS_MAX_NAME_BYTES + 1];
    memset(text, 'a', sizeof text);
    assert_true(tool_name_is_valid((struct l4_text){text, sizeof text - 1}));
    assert_false(tool_name_is_valid((struct l4_text){text, sizeof text}));
    assert_false(tool_name_is_valid((struct l4_text){"", 0}));
    assert_false(tool_name_is_valid((struct l4_text){"a b", 3}));
    assert_false(tool_name_is_valid((struct l4_text){"a\"", 2}));
    assert_true(tool_names_has(names, (struct l4_text){"get_weather", 11}));
    assert_false(tool_names_has(names, (struct l4_text){"get_weather", 10}));
    tool_names_close(NULL);
    tool_calls_close(NULL);
}

static void test_out_of_memory(void **state) {
    (void)state;
    static const char text[] = "Prose {x} " CITY "; [f(a=['b', -1]), f(1)] and more";
    struct parse parse;
    assert_true(parse_text(&parse, text, sizeof text - 1, 5, NULL));
    char *want = strdup(parse.shown.data);
    parse_free(&parse);
    memory_fails = true;
    FAILMALLOC_EACH(n) {
        bool ok = parse_text(&parse, text, sizeof text - 1, 5, NULL);
        assert_true(failmalloc_disarm() != ok);
        if (ok)
            assert_string_equal(parse.shown.data, want);
        parse_free(&parse);
    }
    memory_fails = false;
    FAILMALLOC_EACH(n) {
        struct tool_names *some = tool_names_open();
        bool ok =
            some && tool_names_add(some, (struct l4_text){"x", 1}) && tool_names_add(some, (struct l4_text){"y", 1});
        if (!failmalloc_disarm())
            assert_true(ok);
        tool_names_close(some);
    }
    free(want);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),         cmocka_unit_test(test_a_call_is_announced_by_its_name),
        cmocka_unit_test(test_bounds),        cmocka_unit_test(test_one_call_at_most),
        cmocka_unit_test(test_names),         cmocka_unit_test(test_random_texts),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, open_names, close_names);
}
