/* Strings: lengths and formats.  A format is the inside of a string, in GBNF; none holds what JSON would escape. */
#include <string.h>

#include "core/grammar/schema.h"

#define DIGIT2 "[0-9]{2}"
#define DATE                                                                                                           \
    "[1-9] [0-9]{3} \"-\" ((\"0\" [13578] | \"1\" [02]) \"-\" (\"0\" [1-9] | [12] [0-9] | \"3\" [01]) | "              \
    "(\"0\" [469] | \"11\") \"-\" (\"0\" [1-9] | [12] [0-9] | \"30\") | \"02-\" (\"0\" [1-9] | \"1\" [0-9] | \"2\" "   \
    "[0-8]))"
#define OFFSET "(\"Z\" | [-+] (\"0\" [0-9] | \"1\" [0-4]) \":\" [0-5] [0-9])"
#define TIME   "([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9] \":\" [0-5] [0-9] (\".\" [0-9]{1,6})? " OFFSET
#define LABEL  "[a-z0-9] ([-a-z0-9]{0,30} [a-z0-9])?"
#define HOST   "[a-z] ([-a-z0-9]{0,30} [a-z0-9])? (\".\" " LABEL "){1,4}"
#define OCTET  "(\"25\" [0-5] | \"2\" [0-4] [0-9] | \"1\" [0-9]{2} | [1-9] [0-9] | [0-9])"
#define HEX4   "[0-9a-f]{1,4}"

/* n_min, n_max: characters. */
static const struct format {
    const char *name, *gbnf;
    uint32_t n_min, n_max;
} formats[] = {
    {"date", DATE, 10, 10},
    {"time", TIME, 9, 22},
    {"date-time", DATE " \"T\" " TIME, 20, 33},
    {"duration", "\"P\" ([0-9]{1,4} \"W\" | [0-9]{1,4} \"D\" (\"T\" [0-9]{1,4} [HMS])? | \"T\" [0-9]{1,4} [HMS])", 3,
     12},
    {"email", "[a-z0-9] ([-+_a-z0-9]{0,40} [a-z0-9])? \"@\" " HOST, 5, 210},
    {"hostname", HOST, 3, 164},
    {"ipv4", OCTET " (\".\" " OCTET "){3}", 7, 15},
    {"ipv6", HEX4 " (\":\" " HEX4 "){7} | \"::\" | " HEX4 " \"::\" " HEX4 " (\":\" " HEX4 "){0,4}", 2, 39},
    {"uuid", "[0-9a-f]{8} \"-\" [0-9a-f]{4} \"-\" [1-5] [0-9a-f]{3} \"-\" [89ab] [0-9a-f]{3} \"-\" [0-9a-f]{12}", 36,
     36},
    {"uri",
     "\"http\" \"s\"? \"://\" " HOST " (\":\" [1-9] [0-9]{0,3})? (\"/\" [-._~a-zA-Z0-9]{0,64}){0,8} "
     "(\"?\" [-._~a-zA-Z0-9=&]{0,64})? (\"#\" [-._~a-zA-Z0-9]{0,32})?",
     10, 900},
};

static int find_format(struct schema *s, uint32_t node, const struct format **format) {
    size_t n;
    const char *name = schema_text(s, node, &n);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (n == strlen(formats[i].name) && memcmp(name, formats[i].name, n) == 0) {
            *format = &formats[i];
            return 0;
        }
    return schema_fail(s, node,
                       "the format is not supported: date, time, date-time, duration, email, hostname, ipv4, ipv6, "
                       "uuid and uri are");
}

static int fits(struct schema *s, const struct schema_all *all, uint32_t low, uint32_t high, uint32_t min,
                uint32_t max) {
    if (low >= min && high <= max)
        return 0;
    return schema_fail(s, all->nodes[0],
                       "minLength and maxLength beside a pattern or format are supported only where "
                       "every match keeps to them");
}

int schema_put_string(struct schema *s, const struct schema_all *all, struct l4_buf *out) {
    uint32_t min = 0, max = GRAMMAR_NO_MAX, pattern = 0, format_node = 0, n_shapes = 0, low, high;
    const struct format *format = NULL;
    int rc = 0;
    for (size_t i = 0; i < all->n && rc == 0; i++) {
        uint32_t node = all->nodes[i], at, count;
        if ((at = schema_get(s, node, "minLength")) && !(rc = schema_count(s, at, &count)) && count > min)
            min = count;
        if (rc == 0 && (at = schema_get(s, node, "maxLength")) && !(rc = schema_count(s, at, &count)) && count < max)
            max = count;
        if ((at = schema_get(s, node, "pattern")) && ++n_shapes)
            pattern = at;
        if ((at = schema_get(s, node, "format")) && ++n_shapes)
            format_node = at;
    }
    if (rc)
        return rc;
    if (n_shapes > 1)
        return schema_fail(s, pattern ? pattern : format_node,
                           "more than one pattern or format for a string is not supported");
    if (min > max)
        return schema_fail(s, all->nodes[0], "minLength is larger than maxLength");
    if (pattern) {
        l4_buf_puts(out, "\"\\\"\" (");
        rc = schema_put_pattern(s, pattern, &low, &high, out);
        l4_buf_puts(out, ") \"\\\"\"");
        return rc ? rc : fits(s, all, low, high, min, max);
    }
    if (format_node) {
        if ((rc = find_format(s, format_node, &format)) || (rc = fits(s, all, format->n_min, format->n_max, min, max)))
            return rc;
        l4_buf_printf(out, "\"\\\"\" (%s) \"\\\"\"", format->gbnf);
    } else if (max != GRAMMAR_NO_MAX) {
        l4_buf_printf(out, "\"\\\"\" char{%u,%u} \"\\\"\"", (unsigned)min, (unsigned)max);
    } else {
        l4_buf_printf(out, "\"\\\"\" char{%u,} \"\\\"\"", (unsigned)min);
    }
    return 0;
}
