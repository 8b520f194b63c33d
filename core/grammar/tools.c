/* Calls of tools in Llama 4's JSON form. */
#include <stdio.h>
#include <string.h>

#include "core/grammar/json_grammar.h"
#include "core/grammar/schema.h"

static uint32_t function_of(const struct schema *s) {
    uint32_t function = json_tree_member(&s->tree, JSON_TREE_ROOT, "function");
    return function ? function : JSON_TREE_ROOT;
}

/* The rule tN of a call of one tool.  *taken false: another tool is asked for. */
static int put_tool(struct schema *s, size_t i, const char *only, bool *taken, struct l4_buf *out) {
    uint32_t function = function_of(s), name = json_tree_member(&s->tree, function, "name");
    uint32_t parameters = json_tree_member(&s->tree, function, "parameters");
    char rule[32];
    size_t n = 0;
    const char *text = schema_text(s, name, &n);
    if (!name || s->tree.nodes[name].kind != JSON_TREE_STRING || n == 0)
        return l4_err_set(s->err, L4_E_INVALID, "the tool has no name");
    *taken = !only || (strlen(only) == n && memcmp(only, text, n) == 0);
    if (!*taken)
        return 0;
    snprintf(rule, sizeof rule, "p%zu", i);
    if (parameters && s->tree.nodes[parameters].child) {
        int rc = schema_compile(s, parameters, rule, out);
        if (rc)
            return rc;
    } else {
        l4_buf_printf(out, "%s ::= object\n", rule);
    }
    l4_buf_printf(out, "t%zu ::= \"{\\\"name\\\":\" \" \"? ", i);
    schema_put_value(s, name, out);
    l4_buf_printf(out, " \",\" \" \"? \"\\\"parameters\\\":\" \" \"? %s \"}\"\n", rule);
    return 0;
}

int l4_grammar_from_tools(const struct l4_text *tools_json, size_t n_tools, const char *only, bool parallel,
                          struct l4_buf *gbnf, struct l4_err *err) {
    struct l4_buf names = {0};
    int rc = 0;
    for (size_t i = 0; i < n_tools && rc == 0; i++) {
        char prefix[32];
        bool taken = false;
        snprintf(prefix, sizeof prefix, "t%zu-", i);
        struct schema s = {.prefix = prefix, .err = err};
        rc = json_tree_parse(&s.tree, tools_json[i].data, tools_json[i].len_bytes, err);
        if (rc == 0)
            rc = put_tool(&s, i, only, &taken, gbnf);
        json_tree_fini(&s.tree);
        if (rc && rc != L4_E_NOMEM)
            (void)l4_err_context(err, "tools[%zu]", i);
        if (taken)
            l4_buf_printf(&names, "%st%zu", names.len ? " | " : "", i);
    }
    if (rc == 0 && names.len == 0 && !names.failed)
        rc = l4_err_set(err, L4_E_INVALID, "there is no tool named '%.100s'", only ? only : "");
    l4_buf_printf(gbnf, parallel ? "call ::= %s\nroot ::= call (\"; \"? call){0,127}\n" : "root ::= %s\n",
                  names.data ? names.data : "");
    json_grammar_put_rules(gbnf);
    if (rc == 0 && (gbnf->failed || names.failed))
        rc = l4_err_set(err, L4_E_NOMEM, "no memory for a grammar of %zu tools", n_tools);
    l4_buf_free(&names);
    return rc;
}
