#include "server/tool_value.h"

#include <string.h>

void tool_value_init(struct tool_value *value) {
    value->state = VALUE_BEGIN;
    value->depth = 0;
    value->needs_comma = value->is_key = false;
    value->high = 0;
    value->word_bytes = 0;
}

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_word(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' || c == '-' || c == '.' ||
           c == '_';
}

/* ---- strings ------------------------------------------------------------------------------------------------------
 */

void tool_value_put_char(struct l4_buf *out, uint32_t c) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *at = c && c < 0x80 ? strchr(from, (int)c) : NULL;
    char text[4];
    size_t n = 0;
    if (at) {
        text[n++] = '\\';
        text[n++] = to[at - from];
    } else if (c < 0x20) {
        l4_buf_printf(out, "\\u%04x", (unsigned)c);
    } else if (c < 0x80) {
        text[n++] = (char)c;
    } else if (c < 0x800) {
        text[n++] = (char)(0xc0 | c >> 6);
    } else if (c < 0x10000) {
        text[n++] = (char)(0xe0 | c >> 12);
        text[n++] = (char)(0x80 | (c >> 6 & 0x3f));
    } else {
        text[n++] = (char)(0xf0 | c >> 18);
        text[n++] = (char)(0x80 | (c >> 12 & 0x3f));
        text[n++] = (char)(0x80 | (c >> 6 & 0x3f));
    }
    if (c >= 0x80)
        text[n++] = (char)(0x80 | (c & 0x3f));
    l4_buf_append(out, text, n);
}

static enum tool_value_result end_value(struct tool_value *v) {
    v->state = VALUE_NEXT;
    return v->depth == 0 ? TOOL_VALUE_DONE : TOOL_VALUE_MORE;
}

static enum tool_value_result step_string(struct tool_value *v, char c, struct l4_buf *out) {
    if (c == '\0' || (v->high && c != '\\'))
        return TOOL_VALUE_BAD;
    if (c == '\\') {
        v->state = VALUE_ESCAPE;
        return TOOL_VALUE_MORE;
    }
    if (c != v->quote) {
        if ((unsigned char)c < 0x80)
            tool_value_put_char(out, (unsigned char)c);
        else
            l4_buf_append(out, &c, 1);
        return TOOL_VALUE_MORE;
    }
    l4_buf_puts(out, "\"");
    if (!v->is_key)
        return end_value(v);
    v->state = VALUE_COLON;
    return TOOL_VALUE_MORE;
}

static enum tool_value_result step_escape(struct tool_value *v, char c, struct l4_buf *out) {
    static const char from[] = "\"\\'/abfnrtv", to[] = "\"\\'/\a\b\f\n\r\t\v";
    const char *at = c ? strchr(from, c) : NULL;
    if (c == '\0' || (v->high && c != 'u'))
        return TOOL_VALUE_BAD;
    v->state = VALUE_STRING;
    if (at) {
        tool_value_put_char(out, (unsigned char)to[at - from]);
    } else if (c == 'x' || c == 'u' || c == 'U') {
        v->state = VALUE_HEX;
        v->escape = c;
        v->hex_left = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        v->code = 0;
    } else if (c != '\n') { /* a line that goes on; anything else keeps its backslash */
        tool_value_put_char(out, '\\');
        return step_string(v, c, out);
    }
    return TOOL_VALUE_MORE;
}

/* Only JSON's escape comes in surrogate pairs; half of one is no character. */
static enum tool_value_result end_hex(struct tool_value *v, struct l4_buf *out) {
    uint32_t code = v->code;
    bool is_low = code >= 0xdc00 && code <= 0xdfff;
    v->state = VALUE_STRING;
    if (v->high && is_low)
        code = 0x10000 + ((v->high - 0xd800) << 10) + (code - 0xdc00);
    else if (v->high || is_low || code == 0 || code > 0x10ffff)
        return TOOL_VALUE_BAD;
    v->high = 0;
    if (code >= 0xd800 && code <= 0xdbff) {
        v->high = code;
        return v->escape == 'u' ? TOOL_VALUE_MORE : TOOL_VALUE_BAD;
    }
    tool_value_put_char(out, code);
    return TOOL_VALUE_MORE;
}

static enum tool_value_result step_hex(struct tool_value *v, char c, struct l4_buf *out) {
    static const char digits[] = "0123456789abcdef";
    char lower = c >= 'A' && c <= 'F' ? (char)(c + 'a' - 'A') : c;
    const char *at = c ? strchr(digits, lower) : NULL;
    if (!at)
        return TOOL_VALUE_BAD;
    v->code = v->code << 4 | (uint32_t)(at - digits);
    return --v->hex_left > 0 ? TOOL_VALUE_MORE : end_hex(v, out);
}

/* ---- numbers and literals -----------------------------------------------------------------------------------------
 */

/* Digits with single '_' between them, appended without; returns how many bytes, 0 for none. */
static size_t put_digits(struct l4_buf *out, const char *text, size_t len) {
    size_t i = 0;
    while (i < len && (is_digit(text[i]) || (text[i] == '_' && i > 0 && text[i - 1] != '_'))) {
        if (text[i] != '_')
            l4_buf_append(out, &text[i], 1);
        i++;
    }
    return i > 0 && text[i - 1] == '_' ? 0 : i;
}

static bool put_number(struct l4_buf *out, const char *text, size_t len) {
    size_t i = 0, n_whole, n_part = 0;
    if (i < len && (text[i] == '-' || text[i] == '+'))
        i++;
    if (i > 0 && text[0] == '-')
        l4_buf_puts(out, "-");
    n_whole = put_digits(out, text + i, len - i);
    if (n_whole > 1 && text[i] == '0') /* neither language has leading zeros */
        return false;
    if (n_whole == 0)
        l4_buf_puts(out, "0");
    i += n_whole;
    if (i < len && text[i] == '.') {
        l4_buf_puts(out, ".");
        n_part = put_digits(out, text + i + 1, len - i - 1);
        if (n_part == 0)
            l4_buf_puts(out, "0");
        i += 1 + n_part;
    }
    if (n_whole + n_part == 0)
        return false;
    if (i < len && (text[i] == 'e' || text[i] == 'E')) {
        l4_buf_puts(out, "e");
        i++;
        if (i < len && (text[i] == '-' || text[i] == '+'))
            l4_buf_append(out, &text[i++], 1);
        size_t n = put_digits(out, text + i, len - i);
        if (n == 0)
            return false;
        i += n;
    }
    return i == len;
}

static bool put_word(struct tool_value *v, struct l4_buf *out) {
    static const char *const literals[][2] = {{"true", "true"},   {"True", "true"}, {"false", "false"},
                                              {"False", "false"}, {"null", "null"}, {"None", "null"}};
    for (size_t i = 0; i < sizeof literals / sizeof *literals; i++)
        if (v->word_bytes == strlen(literals[i][0]) && memcmp(v->word, literals[i][0], v->word_bytes) == 0) {
            l4_buf_puts(out, literals[i][1]);
            return true;
        }
    return put_number(out, v->word, v->word_bytes);
}

static enum tool_value_result step_word(struct tool_value *v, char c, struct l4_buf *out) {
    if (is_word(c)) {
        if (v->word_bytes == sizeof v->word)
            return TOOL_VALUE_BAD;
        v->word[v->word_bytes++] = c;
        return TOOL_VALUE_MORE;
    }
    if (!put_word(v, out))
        return TOOL_VALUE_BAD;
    v->word_bytes = 0;
    return end_value(v) == TOOL_VALUE_DONE ? TOOL_VALUE_DONE_BEFORE : tool_value_step(v, c, out);
}

/* ---- lists and dicts ----------------------------------------------------------------------------------------------
 */

static enum tool_value_result close_container(struct tool_value *v, char c, struct l4_buf *out) {
    if (v->depth == 0 || c != (v->in_dict[v->depth - 1] ? '}' : ']'))
        return TOOL_VALUE_BAD;
    l4_buf_append(out, &c, 1);
    v->depth--;
    v->needs_comma = false;
    return end_value(v);
}

static void put_comma(struct tool_value *v, struct l4_buf *out) {
    if (v->needs_comma)
        l4_buf_puts(out, ", ");
    v->needs_comma = false;
}

static enum tool_value_result begin_string(struct tool_value *v, char quote, bool is_key, struct l4_buf *out) {
    put_comma(v, out);
    v->state = VALUE_STRING;
    v->quote = quote;
    v->is_key = is_key;
    l4_buf_puts(out, "\"");
    return TOOL_VALUE_MORE;
}

static enum tool_value_result step_begin(struct tool_value *v, char c, struct l4_buf *out) {
    if (c == '"' || c == '\'')
        return begin_string(v, c, false, out);
    if (c == ']') /* an empty list, or a comma before its end; a dict's value is not missing like that */
        return close_container(v, c, out);
    if (c == '[' || c == '{') {
        if (v->depth == TOOL_CALLS_MAX_DEPTH)
            return TOOL_VALUE_BAD;
        put_comma(v, out);
        l4_buf_append(out, &c, 1);
        v->in_dict[v->depth++] = c == '{';
        v->state = c == '{' ? VALUE_KEY : VALUE_BEGIN;
        return TOOL_VALUE_MORE;
    }
    if (!is_word(c))
        return TOOL_VALUE_BAD;
    put_comma(v, out);
    v->state = VALUE_WORD;
    return step_word(v, c, out);
}

static enum tool_value_result step_next(struct tool_value *v, char c, struct l4_buf *out) {
    if (c != ',')
        return close_container(v, c, out);
    v->needs_comma = true;
    v->state = v->in_dict[v->depth - 1] ? VALUE_KEY : VALUE_BEGIN;
    return TOOL_VALUE_MORE;
}

enum tool_value_result tool_value_step(struct tool_value *v, char c, struct l4_buf *out) {
    bool skips_space = v->state <= VALUE_NEXT;
    if (skips_space && is_space(c))
        return TOOL_VALUE_MORE;
    switch (v->state) {
    case VALUE_BEGIN:
        return step_begin(v, c, out);
    case VALUE_KEY:
        return c == '"' || c == '\'' ? begin_string(v, c, true, out) : close_container(v, c, out);
    case VALUE_COLON:
        if (c != ':')
            return TOOL_VALUE_BAD;
        l4_buf_puts(out, ": ");
        v->state = VALUE_BEGIN;
        return TOOL_VALUE_MORE;
    case VALUE_NEXT:
        return step_next(v, c, out);
    case VALUE_STRING:
        return step_string(v, c, out);
    case VALUE_ESCAPE:
        return step_escape(v, c, out);
    case VALUE_HEX:
        return step_hex(v, c, out);
    case VALUE_WORD:
        return step_word(v, c, out);
    }
    return TOOL_VALUE_BAD;
}
