#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/grammar/grammar.h"

/* Rules point to the alternatives that call them, and each alternative counts the calls that are still open: time is
 * linear in the grammar, however its rules are ordered. */
struct analysis {
    struct l4_grammar *grammar;
    uint32_t *owner;         /* [n_elements] rule of the alternative that the element is in */
    uint32_t *first_call;    /* [n_rules + 1] into calls */
    uint32_t *calls;         /* elements that call the rule */
    uint32_t *open;          /* [n_alts] calls that are not settled */
    uint32_t *need;          /* [n_alts] height of those that are */
    uint32_t *alt_of;        /* [n_elements] */
    uint32_t *queue, *later; /* [n_alts] */
    uint8_t *state;          /* [n_rules] */
    struct left *stack;      /* [n_rules] */
    struct l4_err *err;
};

struct left {
    uint32_t rule, alt, element;
};

static int rule_fails(const struct analysis *a, uint32_t rule, const char *why) {
    const struct grammar_rule *r = &a->grammar->rules[rule];
    if (r->name_bytes == 0) {
        size_t line = 1;
        for (uint32_t i = 0; i < r->name; i++)
            line += a->grammar->text[i] == '\n';
        return l4_err_set(a->err, L4_E_INVALID, "line %zu: a group %s", line, why);
    }
    return l4_err_set(a->err, L4_E_INVALID, "the rule '%.*s' %s", (int)(r->name_bytes < 80 ? r->name_bytes : 80),
                      a->grammar->text + r->name, why);
}

static bool init(struct analysis *a) {
    struct l4_grammar *g = a->grammar;
    a->owner = calloc(g->n_elements, sizeof *a->owner);
    a->alt_of = calloc(g->n_elements, sizeof *a->alt_of);
    a->first_call = calloc(g->n_rules + 2, sizeof *a->first_call);
    a->calls = calloc(g->n_elements, sizeof *a->calls);
    a->open = calloc(g->n_alts, sizeof *a->open);
    a->need = calloc(g->n_alts, sizeof *a->need);
    a->queue = calloc(g->n_alts, sizeof *a->queue);
    a->later = calloc(g->n_alts, sizeof *a->later);
    a->state = calloc(g->n_rules, sizeof *a->state);
    a->stack = calloc(g->n_rules, sizeof *a->stack);
    if (!a->owner || !a->alt_of || !a->first_call || !a->calls || !a->open || !a->need || !a->queue || !a->later ||
        !a->state || !a->stack)
        return false;
    for (uint32_t rule = 0; rule < g->n_rules; rule++)
        for (uint32_t k = 0; k < g->rules[rule].n_alts; k++) {
            uint32_t alt = g->rules[rule].first_alt + k;
            for (uint32_t e = g->alts[alt]; g->elements[e].kind != GRAMMAR_END; e++) {
                a->owner[e] = rule;
                a->alt_of[e] = alt;
                if (g->elements[e].kind == GRAMMAR_CALL)
                    a->first_call[g->elements[e].arg + 2]++;
            }
        }
    for (size_t rule = 2; rule <= g->n_rules; rule++)
        a->first_call[rule] += a->first_call[rule - 1];
    for (uint32_t e = 0; e < g->n_elements; e++)
        if (g->elements[e].kind == GRAMMAR_CALL)
            a->calls[a->first_call[g->elements[e].arg + 1]++] = e;
    return true;
}

/* ---- heights and empty derivations: what a rule needs is known once one alternative's needs are -------------------
 */

/* nullable: count what keeps an alternative from being empty; else: the calls that it cannot do without. */
static bool blocks(const struct grammar_element *e, bool nullable) {
    return e->min > 0 && (e->kind == GRAMMAR_CALL || (nullable && e->kind == GRAMMAR_CHARS));
}

/* Rules are settled in the order of their height: `now` holds those of this height, `later` those of the next. */
static void settle(struct analysis *a, bool nullable) {
    struct l4_grammar *g = a->grammar;
    size_t n_now = 0, n_later = 0;
    uint32_t *now = a->queue, *later = a->later;
    for (uint32_t rule = 0; rule < g->n_rules; rule++)
        for (uint32_t k = 0; k < g->rules[rule].n_alts; k++)
            if (a->open[g->rules[rule].first_alt + k] == 0)
                now[n_now++] = rule;
    for (uint32_t height = 0; n_now > 0; height++) {
        while (n_now > 0) {
            uint32_t callee = now[--n_now];
            if (a->state[callee])
                continue;
            a->state[callee] = 1;
            if (!nullable)
                g->rules[callee].height = height;
            for (uint32_t i = a->first_call[callee]; i < a->first_call[callee + 1]; i++) {
                uint32_t e = a->calls[i], alt = a->alt_of[e];
                if (!blocks(&g->elements[e], nullable))
                    continue;
                uint32_t own = height + grammar_call_height(g, e);
                if (own > a->need[alt])
                    a->need[alt] = own;
                if (--a->open[alt] > 0)
                    continue;
                if (a->need[alt] > height)
                    later[n_later++] = a->owner[e];
                else
                    now[n_now++] = a->owner[e];
            }
        }
        uint32_t *swap = now;
        now = later;
        later = swap;
        n_now = n_later;
        n_later = 0;
    }
}

static void resolve(struct analysis *a, bool nullable) {
    struct l4_grammar *g = a->grammar;
    memset(a->state, 0, g->n_rules);
    memset(a->open, 0, g->n_alts * sizeof *a->open);
    memset(a->need, 0, g->n_alts * sizeof *a->need);
    for (uint32_t alt = 0; alt < g->n_alts; alt++)
        for (uint32_t e = g->alts[alt]; g->elements[e].kind != GRAMMAR_END; e++)
            a->open[alt] += blocks(&g->elements[e], nullable);
    settle(a, nullable);
}

static int find_heights(struct analysis *a) {
    struct l4_grammar *g = a->grammar;
    resolve(a, false);
    for (uint32_t rule = 0; rule < g->n_rules; rule++)
        if (!a->state[rule])
            return rule_fails(a, rule, "can never end: each of its alternatives needs itself again");
        else if (g->rules[rule].height > L4_GRAMMAR_MAX_DEPTH / 2)
            return rule_fails(a, rule, "nests too deep: its shortest text needs more than 96 levels of rules");
    for (size_t e = g->n_elements; e-- > 0;) {
        struct grammar_element *element = &g->elements[e];
        if (element->kind == GRAMMAR_END)
            continue;
        uint32_t own = 0;
        if (element->kind == GRAMMAR_CALL && element->min > 0)
            own = grammar_call_height(g, (uint32_t)e) + g->rules[element->arg].height;
        uint32_t rest = g->elements[e + 1].height;
        element->height = own > rest ? own : rest;
    }
    resolve(a, true);
    for (uint32_t rule = 0; rule < g->n_rules; rule++)
        g->rules[rule].nullable = a->state[rule];
    return 0;
}

/* ---- repetitions of what may be empty, left recursion -------------------------------------------------------------
 */

static int check_repeats(const struct analysis *a) {
    const struct l4_grammar *g = a->grammar;
    for (uint32_t e = 0; e < g->n_elements; e++) {
        const struct grammar_element *element = &g->elements[e];
        uint32_t most = element->max == GRAMMAR_INF ? element->min : element->max;
        if (element->kind == GRAMMAR_CALL && g->rules[element->arg].nullable && most > L4_GRAMMAR_MAX_EMPTY_REPEAT)
            return rule_fails(a, element->arg, "may be empty: it can be repeated at most 64 times, or without a bound");
    }
    return 0;
}

/* The next rule that can begin where the one on top of the stack begins; false when there is no more. */
static bool next_left(const struct l4_grammar *g, struct left *at, uint32_t *rule) {
    const struct grammar_rule *r = &g->rules[at->rule];
    while (at->alt < r->n_alts) {
        const struct grammar_element *e = &g->elements[g->alts[r->first_alt + at->alt] + at->element];
        bool call = e->kind == GRAMMAR_CALL;
        bool may_be_empty = e->kind != GRAMMAR_END && (e->min == 0 || (call && g->rules[e->arg].nullable));
        if (may_be_empty) {
            at->element++;
        } else {
            at->alt++;
            at->element = 0;
        }
        if (call) {
            *rule = e->arg;
            return true;
        }
    }
    return false;
}

static int check_left(struct analysis *a) {
    enum { NEW, OPEN, DONE };
    const struct l4_grammar *g = a->grammar;
    memset(a->state, NEW, g->n_rules);
    for (uint32_t start = 0; start < g->n_rules; start++) {
        size_t n = 0;
        if (a->state[start] == NEW) {
            a->state[start] = OPEN;
            a->stack[n++] = (struct left){.rule = start};
        }
        while (n > 0) {
            uint32_t rule;
            if (!next_left(g, &a->stack[n - 1], &rule)) {
                a->state[a->stack[--n].rule] = DONE;
            } else if (a->state[rule] == OPEN) {
                return rule_fails(a, rule, "is left-recursive: it begins with itself");
            } else if (a->state[rule] == NEW) {
                a->state[rule] = OPEN;
                a->stack[n++] = (struct left){.rule = rule};
            }
        }
    }
    return 0;
}

int grammar_analyse(struct l4_grammar *grammar, struct l4_err *err) {
    struct analysis a = {.grammar = grammar, .err = err};
    int rc = 0;
    if (!init(&a))
        rc = l4_err_set(err, L4_E_NOMEM, "no memory for a grammar");
    if (!rc)
        rc = find_heights(&a);
    if (!rc)
        rc = check_repeats(&a);
    if (!rc)
        rc = check_left(&a);
    free(a.owner);
    free(a.alt_of);
    free(a.first_call);
    free(a.calls);
    free(a.open);
    free(a.need);
    free(a.queue);
    free(a.later);
    free(a.state);
    free(a.stack);
    return rc;
}
