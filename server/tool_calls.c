#include "server/tool_calls.h"

#include <stdlib.h>
#include <string.h>

#include "server/tool_value.h"

enum state {
    TEXT, /* content; held: space, tags, a separator after a call */
    TAG,
    LIST_FIRST,   /* after "[" */
    LIST_ELEMENT, /* after "," in it */
    LIST_NEXT,    /* after a call in it */
    OBJECT_FIRST, /* after "{" */
    OBJECT_KEY,   /* after "," in it */
    OBJECT_KEY_STRING,
    OBJECT_COLON,
    OBJECT_VALUE,
    OBJECT_STRING, /* the name's or the type's */
    OBJECT_DICT,   /* the arguments */
    OBJECT_NEXT,
    FUNCTION_NAME,
    FUNCTION_OPEN,  /* the "(" that follows the name */
    FUNCTION_FIRST, /* after it */
    FUNCTION_KEY,   /* after "," */
    FUNCTION_KEY_WORD,
    FUNCTION_EQUALS,
    FUNCTION_VALUE,
    FUNCTION_NEXT,
};

enum { MEMBER_NAME = 1, MEMBER_ARGUMENTS = 2, MEMBER_TYPE = 4 };

struct tool_names {
    char **names;
    size_t n, cap;
};

struct tool_calls {
    const struct tool_names *names;
    size_t max_calls;
    tool_event_fn *on_event;
    void *user;
    bool failed;

    enum state state;
    bool in_list;
    bool after_call; /* nothing but markup since the last call ... */
    bool separated;  /* ... among it one separator */
    size_t n_begun, n_whole;

    struct l4_buf content;   /* to be shown at the end of this feed */
    struct l4_buf held;      /* bytes of which it is open what they are */
    struct l4_buf arguments; /* of the call, not yet handed on */
    bool begun;              /* its name is known */
    bool is_hidden;          /* one call too many */
    unsigned members, member;
    bool needs_comma; /* between arguments of a function */
    char quote;
    char word[TOOL_CALLS_MAX_NAME_BYTES];
    size_t word_bytes;
    struct tool_value value;
};

/* ---- names --------------------------------------------------------------------------------------------------------
 */

struct tool_names *tool_names_open(void) {
    return calloc(1, sizeof(struct tool_names));
}

void tool_names_close(struct tool_names *names) {
    if (!names)
        return;
    for (size_t i = 0; i < names->n; i++)
        free(names->names[i]);
    free(names->names);
    free(names);
}

bool tool_names_add(struct tool_names *names, struct l4_text name) {
    if (names->n == names->cap) {
        size_t cap = names->cap ? 2 * names->cap : 8;
        char **grown = realloc(names->names, cap * sizeof *grown);
        if (!grown)
            return false;
        names->names = grown;
        names->cap = cap;
    }
    char *copy = strndup(name.data, name.len_bytes);
    if (copy)
        names->names[names->n++] = copy;
    return copy != NULL;
}

bool tool_names_has(const struct tool_names *names, struct l4_text name) {
    for (size_t i = 0; i < names->n; i++)
        if (strlen(names->names[i]) == name.len_bytes && memcmp(names->names[i], name.data, name.len_bytes) == 0)
            return true;
    return false;
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
static bool is_name_char(char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.';
}
static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

bool tool_name_is_valid(struct l4_text name) {
    for (size_t i = 0; i < name.len_bytes; i++)
        if (!is_name_char(name.data[i]))
            return false;
    return name.len_bytes > 0 && name.len_bytes <= TOOL_CALLS_MAX_NAME_BYTES;
}

/* ---- events -------------------------------------------------------------------------------------------------------
 */

static void emit(struct tool_calls *p, enum tool_event_type type, const char *text, size_t len_bytes) {
    struct tool_event event = {type, p->n_begun > 0 ? p->n_begun - 1 : 0, {text ? text : "", len_bytes}};
    if (!p->failed)
        p->on_event(p->user, &event);
}

static void flush(struct tool_calls *p, enum tool_event_type type, struct l4_buf *buf) {
    p->failed |= buf->failed;
    if (buf->len > 0)
        emit(p, type, buf->data, buf->len);
    l4_buf_clear(buf);
}

static void flush_arguments(struct tool_calls *p) {
    if (p->begun && p->is_hidden)
        l4_buf_clear(&p->arguments);
    else if (p->begun)
        flush(p, TOOL_CALL_ARGUMENTS, &p->arguments);
}

static void emit_held(struct tool_calls *p, enum tool_event_type type) {
    flush(p, TOOL_CONTENT, &p->content);
    flush(p, type, &p->held);
}

static void held_is_content(struct tool_calls *p) {
    p->failed |= p->held.failed;
    l4_buf_append(&p->content, p->held.data, p->held.len);
    l4_buf_clear(&p->held);
    p->after_call = p->separated = false;
}

static bool begin_call(struct tool_calls *p) {
    if (!tool_names_has(p->names, (struct l4_text){p->word, p->word_bytes}))
        return false;
    p->begun = true;
    p->is_hidden = p->max_calls > 0 && p->n_whole >= p->max_calls;
    if (p->is_hidden)
        return true;
    p->n_begun++;
    flush(p, TOOL_CONTENT, &p->content);
    emit(p, TOOL_CALL_BEGIN, p->word, p->word_bytes);
    return true;
}

static void reset_call(struct tool_calls *p) {
    p->failed |= p->arguments.failed;
    l4_buf_clear(&p->arguments);
    p->begun = p->needs_comma = false;
    p->members = 0;
    p->word_bytes = 0;
    tool_value_init(&p->value);
}

static void end_call(struct tool_calls *p) {
    bool is_hidden = p->is_hidden;
    l4_buf_puts(&p->arguments, p->members & MEMBER_ARGUMENTS ? "}" : "{}");
    flush_arguments(p);
    emit_held(p, is_hidden ? TOOL_MARKUP : TOOL_CALL_END);
    p->n_whole++;
    reset_call(p);
    p->after_call = true;
    p->separated = false;
    p->state = p->in_list ? LIST_NEXT : TEXT;
}

/* What is held is no call. */
static void reject(struct tool_calls *p) {
    if (p->begun && !p->is_hidden) {
        flush_arguments(p);
        emit_held(p, TOOL_CALL_BROKEN);
    }
    held_is_content(p);
    reset_call(p);
    p->in_list = false;
    p->state = TEXT;
}

/* ---- one byte: false = it does not go on like this; a byte that is taken is held ----------------------------------
 */

static bool go(struct tool_calls *p, enum state state) {
    p->state = state;
    return true;
}

static bool begin_word(struct tool_calls *p, enum state state) {
    p->word_bytes = 0;
    return go(p, state);
}

static bool begin_object(struct tool_calls *p) {
    reset_call(p);
    return go(p, OBJECT_FIRST);
}

static bool add_to_word(struct tool_calls *p, char c) {
    if (p->word_bytes == sizeof p->word)
        return false;
    p->word[p->word_bytes++] = c;
    return true;
}

static bool word_is(const struct tool_calls *p, const char *text) {
    return p->word_bytes == strlen(text) && memcmp(p->word, text, p->word_bytes) == 0;
}

static bool begin_string(struct tool_calls *p, char c, enum state state) {
    p->quote = c;
    return (c == '"' || c == '\'') && begin_word(p, state);
}

static bool end_key(struct tool_calls *p) {
    p->member = word_is(p, "name")                                    ? MEMBER_NAME
                : word_is(p, "parameters") || word_is(p, "arguments") ? MEMBER_ARGUMENTS
                : word_is(p, "type")                                  ? MEMBER_TYPE
                                                                      : 0;
    if (!p->member || (p->members & p->member))
        return false;
    p->members |= p->member;
    return go(p, OBJECT_COLON);
}

static bool step_dict(struct tool_calls *p, char c) {
    enum tool_value_result result = tool_value_step(&p->value, c, &p->arguments);
    /* The last brace comes with the end of the call: arguments of one that breaks are not whole. */
    if (result == TOOL_VALUE_DONE && p->arguments.len > 0)
        p->arguments.len--;
    return result == TOOL_VALUE_MORE || (result == TOOL_VALUE_DONE && go(p, OBJECT_NEXT));
}

static bool step_object_string(struct tool_calls *p, char c) {
    if (c != p->quote)
        return add_to_word(p, c);
    if (p->state == OBJECT_KEY_STRING)
        return end_key(p);
    return (p->member == MEMBER_NAME ? begin_call(p) : word_is(p, "function")) && go(p, OBJECT_NEXT);
}

/* A byte of {"name": ..., "parameters": {...}}.  *ends: it is the last one. */
static bool step_object(struct tool_calls *p, char c, bool *ends) {
    if (p->state == OBJECT_DICT)
        return step_dict(p, c);
    if (p->state == OBJECT_KEY_STRING || p->state == OBJECT_STRING)
        return step_object_string(p, c);
    if (is_space(c))
        return true;
    switch (p->state) {
    case OBJECT_FIRST:
    case OBJECT_KEY:
        return begin_string(p, c, OBJECT_KEY_STRING);
    case OBJECT_COLON:
        return c == ':' && go(p, OBJECT_VALUE);
    case OBJECT_VALUE:
        if (p->member != MEMBER_ARGUMENTS)
            return begin_string(p, c, OBJECT_STRING);
        return c == '{' && go(p, OBJECT_DICT) && step_dict(p, c);
    default: /* OBJECT_NEXT */
        *ends = c == '}' && p->begun;
        return *ends || (c == ',' && go(p, OBJECT_KEY));
    }
}

static bool step_function_value(struct tool_calls *p, char c, bool *ends);

static bool begin_function(struct tool_calls *p) {
    l4_buf_puts(&p->arguments, "{");
    return begin_call(p) && go(p, FUNCTION_FIRST);
}

static bool begin_argument(struct tool_calls *p) {
    l4_buf_puts(&p->arguments, p->needs_comma ? ", \"" : "\"");
    l4_buf_append(&p->arguments, p->word, p->word_bytes);
    l4_buf_puts(&p->arguments, "\": ");
    p->needs_comma = true;
    tool_value_init(&p->value);
    return go(p, FUNCTION_VALUE);
}

/* A byte of f(a=1, b="x").  *ends: it is the last one. */
static bool step_function(struct tool_calls *p, char c, bool *ends) {
    bool is_space_here = is_space(c);
    switch (p->state) {
    case FUNCTION_NAME:
        if (is_name_char(c))
            return add_to_word(p, c);
        return is_space_here ? go(p, FUNCTION_OPEN) : c == '(' && begin_function(p);
    case FUNCTION_OPEN:
        return is_space_here || (c == '(' && begin_function(p));
    case FUNCTION_KEY_WORD:
        if (is_letter(c) || (c >= '0' && c <= '9'))
            return add_to_word(p, c);
        return is_space_here ? go(p, FUNCTION_EQUALS) : c == '=' && begin_argument(p);
    case FUNCTION_EQUALS:
        return is_space_here || (c == '=' && begin_argument(p));
    case FUNCTION_VALUE:
        return step_function_value(p, c, ends);
    case FUNCTION_NEXT:
        *ends = c == ')';
        return *ends || is_space_here || (c == ',' && go(p, FUNCTION_KEY));
    default: /* FUNCTION_FIRST, FUNCTION_KEY */
        *ends = c == ')';
        return *ends || is_space_here || (is_letter(c) && begin_word(p, FUNCTION_KEY_WORD) && add_to_word(p, c));
    }
}

static bool step_function_value(struct tool_calls *p, char c, bool *ends) {
    enum tool_value_result result = tool_value_step(&p->value, c, &p->arguments);
    if (result == TOOL_VALUE_BAD)
        return false;
    if (result != TOOL_VALUE_MORE)
        p->state = FUNCTION_NEXT;
    return result != TOOL_VALUE_DONE_BEFORE || step_function(p, c, ends);
}

/* After "[" or after "," in it. */
static bool step_element(struct tool_calls *p, char c, bool *ends_list) {
    if (c == '{')
        return begin_object(p);
    *ends_list = c == ']' && p->state == LIST_ELEMENT;
    if (*ends_list || is_space(c))
        return true;
    if (!is_letter(c))
        return false;
    reset_call(p);
    p->members = MEMBER_ARGUMENTS;
    return begin_word(p, FUNCTION_NAME) && add_to_word(p, c);
}

/* Where a tag ends, and after a call there is nothing to wait for. */
static bool step_tag(struct tool_calls *p, char c) {
    static const char *const tags[] = {"<|python_start|>", "<|python_end|>"};
    if (!add_to_word(p, c))
        return false;
    for (size_t i = 0; i < 2; i++) {
        if (word_is(p, tags[i]))
            return go(p, TEXT);
        if (p->word_bytes < strlen(tags[i]) && memcmp(p->word, tags[i], p->word_bytes) == 0)
            return true;
    }
    return false;
}

static bool step_text(struct tool_calls *p, char c) {
    if (c == '{')
        return begin_object(p);
    if (c == '[') {
        p->in_list = true;
        return go(p, LIST_FIRST);
    }
    if (c == '<')
        return begin_word(p, TAG) && step_tag(p, c);
    if ((c == ';' || c == ',') && p->after_call && !p->separated) {
        p->separated = true;
        return true;
    }
    return is_space(c);
}

/* ---- the text -----------------------------------------------------------------------------------------------------
 */

static bool step(struct tool_calls *p, char c, bool *ends_call, bool *ends_list) {
    switch (p->state) {
    case TEXT:
        return step_text(p, c);
    case TAG:
        return step_tag(p, c);
    case LIST_FIRST:
    case LIST_ELEMENT:
        return step_element(p, c, ends_list);
    case LIST_NEXT:
        *ends_list = c == ']';
        return *ends_list || is_space(c) || ((c == ',' || c == ';') && go(p, LIST_ELEMENT));
    default:
        return p->state >= FUNCTION_NAME ? step_function(p, c, ends_call) : step_object(p, c, ends_call);
    }
}

static void end_list(struct tool_calls *p) {
    emit_held(p, TOOL_MARKUP);
    p->in_list = false;
    p->state = TEXT;
}

static void take(struct tool_calls *p, char c) {
    bool ends_call = false, ends_list = false, in_tag = p->state == TAG;
    if (!step(p, c, &ends_call, &ends_list)) {
        bool was_text = p->state == TEXT;
        if (p->state == LIST_NEXT) { /* no end, but the calls in it are whole */
            p->in_list = false;
            p->state = TEXT;
        } else {
            reject(p);
        }
        if (was_text)
            l4_buf_append(&p->content, &c, 1);
        else
            take(p, c); /* once: now in TEXT */
        return;
    }
    l4_buf_append(&p->held, &c, 1);
    if (ends_call)
        end_call(p);
    else if (ends_list)
        end_list(p);
    else if (in_tag && p->state == TEXT && p->after_call)
        emit_held(p, TOOL_MARKUP);
    else if (p->held.len >= (p->state == TEXT ? TOOL_CALLS_MAX_SPACE_BYTES : TOOL_CALLS_MAX_BYTES))
        reject(p);
}

void tool_calls_feed(struct tool_calls *p, const char *text, size_t len_bytes) {
    for (size_t i = 0; i < len_bytes && !p->failed; i++)
        take(p, text[i]);
    flush(p, TOOL_CONTENT, &p->content);
    flush_arguments(p);
    p->failed |= p->held.failed || p->arguments.failed;
}

void tool_calls_finish(struct tool_calls *p) {
    bool is_markup = p->after_call && !p->separated && (p->state == TEXT || p->state == LIST_NEXT);
    if (p->state == OBJECT_NEXT && p->begun && (p->members & MEMBER_ARGUMENTS))
        end_call(p);
    else if (is_markup)
        emit_held(p, TOOL_MARKUP);
    else
        reject(p);
    flush(p, TOOL_CONTENT, &p->content);
}

struct tool_calls *tool_calls_open(const struct tool_names *names, size_t max_calls, tool_event_fn *on_event,
                                   void *user) {
    struct tool_calls *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->names = names;
    p->max_calls = max_calls;
    p->on_event = on_event;
    p->user = user;
    return p;
}

bool tool_calls_failed(const struct tool_calls *p) {
    return p->failed;
}

void tool_calls_close(struct tool_calls *p) {
    if (!p)
        return;
    l4_buf_free(&p->content);
    l4_buf_free(&p->held);
    l4_buf_free(&p->arguments);
    free(p);
}
