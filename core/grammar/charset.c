#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/base/checked.h"
#include "core/grammar/grammar.h"

static const uint32_t LAST_CODE = 0x10FFFF;
static const struct grammar_range PLAIN[] = {
    {0x20, 0x21}, {0x23, 0x5B}, {0x5D, 0x7E}, {0x80, 0xD7FF}, {0xE000, 0x10FFFF}};

bool grammar_is_plain(uint32_t code) {
    return code >= 0x20 && code != '"' && code != '\\' && code != 0x7F;
}

static int compare_ranges(const void *a, const void *b) {
    const struct grammar_range *x = a, *y = b;
    return x->low < y->low ? -1 : x->low > y->low;
}

/* Append low..high without the surrogates. */
static bool put_range(struct l4_grammar *grammar, uint32_t low, uint32_t high) {
    if (low > high)
        return true;
    if (low <= 0xDFFF && high >= 0xD800)
        return (low >= 0xD800 || put_range(grammar, low, 0xD7FF)) &&
               (high <= 0xDFFF || put_range(grammar, 0xE000, high));
    if (!checked_grow((void **)&grammar->ranges, &grammar->cap_ranges, grammar->n_ranges + 1, sizeof *grammar->ranges))
        return false;
    grammar->ranges[grammar->n_ranges++] = (struct grammar_range){low, high};
    return true;
}

static bool put_ranges(struct l4_grammar *grammar, const struct grammar_range *ranges, size_t n, bool negated) {
    uint32_t next = 0; /* the first code point that is not done */
    bool ok = true;
    for (size_t i = 0; i < n && ok;) {
        uint32_t low = ranges[i].low, high = ranges[i].high;
        for (i++; i < n && ranges[i].low <= high + 1; i++)
            if (ranges[i].high > high)
                high = ranges[i].high;
        if (!negated)
            ok = put_range(grammar, low, high);
        else if (low > next)
            ok = put_range(grammar, next, low - 1);
        next = high + 1;
    }
    if (negated && ok && next <= LAST_CODE)
        ok = put_range(grammar, next, LAST_CODE);
    return ok;
}

bool grammar_charset_meets(const struct l4_grammar *grammar, uint32_t charset, uint32_t low, uint32_t high) {
    const struct grammar_charset *set = &grammar->charsets[charset];
    const struct grammar_range *ranges = grammar->ranges + set->first_range;
    uint32_t begin = 0, end = set->n_ranges;
    while (begin < end) { /* the first range that ends at low or later */
        uint32_t middle = begin + (end - begin) / 2;
        if (ranges[middle].high < low)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin < set->n_ranges && ranges[begin].low <= high;
}

static bool holds(const struct l4_grammar *grammar, const struct grammar_charset *set, struct grammar_range range) {
    for (uint32_t i = 0; i < set->n_ranges; i++) {
        struct grammar_range has = grammar->ranges[set->first_range + i];
        if (has.low <= range.low && has.high >= range.high)
            return true;
    }
    return false;
}

static void describe(const struct l4_grammar *grammar, struct grammar_charset *set) {
    for (uint32_t i = 0; i < set->n_ranges; i++) {
        struct grammar_range range = grammar->ranges[set->first_range + i];
        for (uint32_t code = range.low; code <= range.high && code < 0x80; code++)
            set->ascii[code / 64] |= UINT64_C(1) << code % 64;
    }
    bool all = holds(grammar, set, (struct grammar_range){0x80, 0xD7FF}) &&
               holds(grammar, set, (struct grammar_range){0xE000, LAST_CODE});
    set->uniform = all || set->n_ranges == 0 || grammar->ranges[set->first_range + set->n_ranges - 1].high < 0x80;
    set->has_plain = true;
    for (size_t i = 0; i < sizeof PLAIN / sizeof *PLAIN; i++)
        set->has_plain &= holds(grammar, set, PLAIN[i]);
}

int grammar_charset_add(struct l4_grammar *grammar, struct grammar_range *ranges, size_t n, bool negated,
                        uint32_t *charset, struct l4_err *err) {
    size_t first = grammar->n_ranges;
    if (n > 1)
        qsort(ranges, n, sizeof *ranges, compare_ranges);
    if (!put_ranges(grammar, ranges, n, negated) || !checked_grow((void **)&grammar->charsets, &grammar->cap_charsets,
                                                                  grammar->n_charsets + 1, sizeof *grammar->charsets))
        return l4_err_set(err, L4_E_NOMEM, "no memory for a grammar");
    size_t n_bytes = (grammar->n_ranges - first) * sizeof *ranges;
    struct grammar_charset set = {.first_range = (uint32_t)first, .n_ranges = (uint32_t)(grammar->n_ranges - first)};
    set.hash = n_bytes ? XXH3_64bits(grammar->ranges + first, n_bytes) : 0;
    for (size_t i = 0; i < grammar->n_charsets; i++) {
        const struct grammar_charset *same = &grammar->charsets[i];
        if (same->hash == set.hash && same->n_ranges == set.n_ranges &&
            (n_bytes == 0 || memcmp(grammar->ranges + same->first_range, grammar->ranges + first, n_bytes) == 0)) {
            grammar->n_ranges = first;
            *charset = (uint32_t)i;
            return 0;
        }
    }
    describe(grammar, &set);
    *charset = (uint32_t)grammar->n_charsets;
    grammar->charsets[grammar->n_charsets++] = set;
    for (size_t i = 0; i < sizeof PLAIN / sizeof *PLAIN; i++)
        grammar->charsets[*charset].meets_plain |=
            grammar_charset_meets(grammar, *charset, PLAIN[i].low, PLAIN[i].high);
    return 0;
}
