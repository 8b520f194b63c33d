/* Numbers within bounds, digit by digit. */
#include <stdio.h>
#include <string.h>

#include "core/grammar/schema.h"

/* Bounds are whole numbers of units of 10^-15: 15 digits before the point and 15 behind it. */
__extension__ typedef __int128 units;

#define POW15 INT64_C(1000000000000000)

struct bounds {
    units low, high; /* inclusive */
    bool has_low, has_high;
};

static int n_digits(int64_t value) {
    int n = 1;
    for (; value >= 10; value /= 10)
        n++;
    return n;
}

/* A number's text as units; those too large to matter are cut at 10^15. */
static int read_units(struct schema *s, uint32_t node, units *out) {
    size_t n, i = 0;
    const char *text = schema_text(s, node, &n);
    if (!schema_is_number(s, node))
        return schema_fail(s, node, "must be a number");
    bool negative = text[0] == '-';
    char digits[40]; /* significant ones */
    int n_kept = 0, point = 0, exponent = 0;
    bool behind = false, exact = true;
    for (i = negative; i < n && text[i] != 'e'; i++) {
        if (text[i] == '.') {
            behind = true;
            continue;
        }
        if (n_kept < 40 && (n_kept > 0 || text[i] != '0'))
            digits[n_kept++] = text[i];
        else if (n_kept == 40)
            exact &= text[i] == '0' || !behind;
        point += (n_kept > 0 && !behind) - (n_kept == 0 && behind);
    }
    if (i < n) {
        bool minus = text[i + 1] == '-';
        for (i += 2; i < n && exponent < 10000; i++)
            exponent = exponent * 10 + (text[i] - '0');
        exponent = minus ? -exponent : exponent;
    }
    point += exponent; /* digits before the point */
    *out = 0;
    if (n_kept > 0 && point > 15) {
        *out = (units)POW15 * POW15;
    } else {
        for (int k = 0; k < point + 15; k++)
            *out = *out * 10 + (k < n_kept ? digits[k] - '0' : 0);
        for (int k = point + 15 < 0 ? 0 : point + 15; k < n_kept; k++)
            exact &= digits[k] == '0';
    }
    if (!exact)
        return schema_fail(s, node, "has more than %d digits behind the point", SCHEMA_MAX_DIGITS);
    *out = negative ? -*out : *out;
    return 0;
}

static void raise_low(struct bounds *b, units low) {
    if (!b->has_low || low > b->low)
        b->low = low;
    b->has_low = true;
}

static void lower_high(struct bounds *b, units high) {
    if (!b->has_high || high < b->high)
        b->high = high;
    b->has_high = true;
}

/* Both spellings of exclusive bounds: a number of their own, and true beside minimum. */
static int find_bounds(struct schema *s, const struct schema_all *all, units step, struct bounds *b) {
    *b = (struct bounds){0};
    for (size_t i = 0; i < all->n; i++) {
        uint32_t node = all->nodes[i];
        uint32_t low = schema_get(s, node, "minimum"), above = schema_get(s, node, "exclusiveMinimum");
        uint32_t high = schema_get(s, node, "maximum"), below = schema_get(s, node, "exclusiveMaximum");
        bool old_above = schema_is(s, above, "true"), old_below = schema_is(s, below, "true");
        units x;
        int rc = 0;
        if (low && !(rc = read_units(s, low, &x)))
            raise_low(b, x + old_above);
        if (rc == 0 && high && !(rc = read_units(s, high, &x)))
            lower_high(b, x - old_below);
        if (rc == 0 && above && !old_above && !schema_is(s, above, "false") && !(rc = read_units(s, above, &x)))
            raise_low(b, x + 1);
        if (rc == 0 && below && !old_below && !schema_is(s, below, "false") && !(rc = read_units(s, below, &x)))
            lower_high(b, x - 1);
        if (rc)
            return rc;
    }
    const units most = (units)POW15 * POW15 - step;
    if (!b->has_low || b->low < -most)
        b->low = -most;
    if (!b->has_high || b->high > most)
        b->high = most;
    if (b->low > b->high)
        return schema_fail(s, all->nodes[0], "no number of up to %d digits lies within the bounds", SCHEMA_MAX_DIGITS);
    return 0;
}

/* ---- digits ------------------------------------------------------------------------------------------------------ */

static void put_class(char from, char to, struct l4_buf *out) {
    if (from == to)
        l4_buf_printf(out, "\"%c\" ", from);
    else
        l4_buf_printf(out, "[%c-%c] ", from, to);
}

static void put_any(int n, struct l4_buf *out) {
    if (n > 0)
        l4_buf_printf(out, "[0-9]{%d} ", n);
}

/* Texts of n digits from low to high. */
static void put_same_length(const char *low, const char *high, int n, struct l4_buf *out) {
    while (n > 0 && *low == *high) {
        put_class(*low, *low, out);
        low++, high++, n--;
    }
    bool from_zero = true, to_nine = true;
    for (int i = 1; i < n; i++) {
        from_zero &= low[i] == '0';
        to_nine &= high[i] == '9';
    }
    if (n == 0)
        return;
    if (from_zero && to_nine) {
        put_class(*low, *high, out);
        put_any(n - 1, out);
        return;
    }
    char first = from_zero ? *low : (char)(*low + 1), last = to_nine ? *high : (char)(*high - 1);
    const char *bar = "";
    l4_buf_puts(out, "(");
    if (!from_zero) {
        put_class(*low, *low, out);
        put_same_length(low + 1, "999999999999999", n - 1, out);
        bar = "| ";
    }
    if (first <= last) {
        l4_buf_puts(out, bar);
        put_class(first, last, out);
        put_any(n - 1, out);
        bar = "| ";
    }
    if (!to_nine) {
        l4_buf_puts(out, bar);
        put_class(*high, *high, out);
        put_same_length("000000000000000", high + 1, n - 1, out);
    }
    l4_buf_puts(out, ") ");
}

static void put_padded(int64_t low, int64_t high, int n, struct l4_buf *out) {
    char a[32], b[32];
    snprintf(a, sizeof a, "%0*lld", n, (long long)low);
    snprintf(b, sizeof b, "%0*lld", n, (long long)high);
    put_same_length(a, b, n, out);
}

/* Whole numbers from low to high, 0 <= low <= high < 10^15, each with a suffix. */
static void put_whole(int64_t low, int64_t high, const char *suffix, const char **bar, struct l4_buf *out) {
    while (low <= high) {
        int n = n_digits(low);
        int64_t last = 9;
        for (int i = 1; i < n; i++)
            last = last * 10 + 9;
        last = last < high ? last : high;
        l4_buf_puts(out, *bar);
        put_padded(low, last, n, out);
        l4_buf_puts(out, suffix);
        *bar = " | ";
        low = last + 1;
    }
}

/* ---- integers ---------------------------------------------------------------------------------------------------- */

static int64_t floor_units(units x) {
    return (int64_t)(x >= 0 ? x / POW15 : -((-x + POW15 - 1) / POW15));
}

static int put_integer(struct schema *s, const struct schema_all *all, struct l4_buf *out) {
    struct bounds b;
    int rc = find_bounds(s, all, POW15, &b);
    if (rc)
        return rc;
    int64_t low = -floor_units(-b.low), high = floor_units(b.high);
    const char *bar = "";
    if (low > high)
        return schema_fail(s, all->nodes[0], "no integer lies within the bounds");
    l4_buf_puts(out, "(");
    if (low < 0) {
        l4_buf_puts(out, "\"-\" (");
        put_whole(high < 0 ? -high : 1, -low, "", &bar, out);
        l4_buf_puts(out, ")");
        bar = " | ";
    }
    if (high >= 0)
        put_whole(low > 0 ? low : 0, high, "", &bar, out);
    l4_buf_puts(out, ")");
    return 0;
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

/* What may follow the whole part `whole`: nothing, or a fraction from low to high (units below 10^15).  All digits
 * together are at most 15, so that no two numbers are the same double. */
static void put_fraction(int64_t whole, int64_t low, int64_t high, const char **bar, struct l4_buf *out) {
    int most = SCHEMA_MAX_DIGITS - n_digits(whole);
    int64_t unit = POW15;
    const char *inner = "";
    struct l4_buf text = {0};
    if (low == 0) {
        l4_buf_puts(&text, "\"\"");
        inner = " | ";
    }
    for (int n = 1; n <= most; n++) {
        unit /= 10;
        int64_t first = (low + unit - 1) / unit, last = high / unit;
        if (first > last)
            continue;
        l4_buf_printf(&text, "%s\".\" ", inner);
        put_padded(first, last, n, &text);
        inner = " | ";
    }
    if (text.len > 0) {
        l4_buf_printf(out, "%s\"%lld\" (%s)", *bar, (long long)whole, text.data);
        *bar = " | ";
    }
    out->failed |= text.failed;
    l4_buf_free(&text);
}

/* Numbers from low to high, 0 <= low <= high. */
static void put_positive(units low, units high, const char **bar, struct l4_buf *out) {
    int64_t first = (int64_t)(low / POW15), last = (int64_t)(high / POW15);
    int64_t low_rest = (int64_t)(low % POW15), high_rest = (int64_t)(high % POW15);
    char suffix[64] = "";
    if (first == last) {
        put_fraction(first, low_rest, high_rest, bar, out);
        return;
    }
    if (low_rest > 0)
        put_fraction(first++, low_rest, POW15 - 1, bar, out);
    if (high_rest < POW15 - 1)
        put_fraction(last--, 0, high_rest, bar, out);
    /* digits behind the point: so few that nothing is rounded up to a bound; without a bound there is none to meet */
    int most = last + 1 == POW15 ? 6 : SCHEMA_MAX_DIGITS - n_digits(last + 1);
    if (most > 0)
        snprintf(suffix, sizeof suffix, "(\".\" [0-9]{1,%d})?", most);
    if (first <= last)
        put_whole(first, last, suffix, bar, out);
}

int schema_put_number(struct schema *s, const struct schema_all *all, bool integer, struct l4_buf *out) {
    struct bounds b;
    const char *bar = "";
    if (integer)
        return put_integer(s, all, out);
    int rc = find_bounds(s, all, 1, &b);
    if (rc)
        return rc;
    if (!b.has_low && !b.has_high) {
        l4_buf_puts(out, "number");
        return 0;
    }
    size_t begin = out->len;
    l4_buf_puts(out, "(");
    if (b.low < 0) {
        l4_buf_puts(out, "\"-\" (");
        put_positive(b.high < 0 ? -b.high : 1, -b.low, &bar, out);
        l4_buf_puts(out, ")");
        if (!*bar) /* too narrow for any number of 15 digits */
            out->len = begin + 1;
    }
    if (b.high >= 0) {
        put_positive(b.low > 0 ? b.low : 0, b.high, &bar, out);
    }
    l4_buf_puts(out, ")");
    if (!*bar)
        return schema_fail(s, all->nodes[0], "no number of up to %d digits lies within the bounds", SCHEMA_MAX_DIGITS);
    return 0;
}
