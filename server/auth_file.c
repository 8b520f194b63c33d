#include "server/auth_file.h"

#include <gnutls/crypto.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COMPLAINTS = 20 };

static const char HASH_PREFIX[] = "sha256:";
enum { HASH_PREFIX_BYTES = sizeof(HASH_PREFIX) - 1 };

const char AUTH_NAME_ALLOWED[] = "1 to 64 letters, digits, '.', '_' and '-'";

struct parser {
    struct auth_keys *keys;
    int *lines; /* [AUTH_MAX_KEYS]: where each of them stands */
    const char *path;
    int line;
    struct config_errors *errors;
};

struct word {
    const char *p;
    size_t len;
};

/* ---- names and hashes -------------------------------------------------------------------------------------------- */

static bool is_name_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
}

bool auth_name_is_valid(const char *name, size_t len_bytes) {
    for (size_t i = 0; i < len_bytes; i++)
        if (!is_name_char(name[i]))
            return false;
    return len_bytes > 0 && len_bytes <= AUTH_MAX_NAME_BYTES;
}

void auth_hash(const char *key, size_t len_bytes, unsigned char hash[AUTH_HASH_BYTES]) {
    /* Fails for an unknown digest only; a hash of zeros is nobody's. */
    if (gnutls_hash_fast(GNUTLS_DIG_SHA256, key, len_bytes, hash) != 0)
        memset(hash, 0, AUTH_HASH_BYTES);
}

void auth_hash_text(const unsigned char hash[AUTH_HASH_BYTES], char text[AUTH_HASH_TEXT_BYTES]) {
    static const char digits[] = "0123456789abcdef";
    memcpy(text, HASH_PREFIX, HASH_PREFIX_BYTES);
    char *to = text + HASH_PREFIX_BYTES;
    for (size_t i = 0; i < AUTH_HASH_BYTES; i++) {
        *to++ = digits[hash[i] >> 4];
        *to++ = digits[hash[i] & 15];
    }
    *to = '\0';
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static bool parse_hash(struct word word, unsigned char hash[AUTH_HASH_BYTES]) {
    static const unsigned char zeros[AUTH_HASH_BYTES];
    if (word.len != HASH_PREFIX_BYTES + 2 * AUTH_HASH_BYTES || memcmp(word.p, HASH_PREFIX, HASH_PREFIX_BYTES) != 0)
        return false;
    const char *p = word.p + HASH_PREFIX_BYTES;
    for (size_t i = 0; i < AUTH_HASH_BYTES; i++, p += 2) {
        int high = hex_digit(p[0]), low = hex_digit(p[1]);
        if (high < 0 || low < 0)
            return false;
        hash[i] = (unsigned char)(high << 4 | low);
    }
    return memcmp(hash, zeros, AUTH_HASH_BYTES) != 0;
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

static bool is_blank(char c) {
    return c == ' ' || c == '\t';
}

/* The next word of *rest, which loses it; empty at the end of the line or where a comment begins. */
static struct word next_word(struct word *rest) {
    while (rest->len > 0 && is_blank(*rest->p)) {
        rest->p++;
        rest->len--;
    }
    struct word word = {rest->p, 0};
    while (word.len < rest->len && !is_blank(word.p[word.len]))
        word.len++;
    if (word.len > 0 && word.p[0] == '#')
        word.len = rest->len = 0;
    rest->p += word.len;
    rest->len -= word.len;
    return word;
}

static bool parse_number(const char *digits, size_t n_digits, int64_t max, int64_t *out) {
    int64_t value = 0;
    for (size_t i = 0; i < n_digits; i++) {
        if (digits[i] < '0' || digits[i] > '9' || value > max)
            return false;
        value = value * 10 + (digits[i] - '0');
    }
    *out = value;
    return n_digits > 0 && value >= 1 && value <= max;
}

static void parse_option(struct parser *parser, struct auth_key *key, struct word word) {
    const struct {
        const char *name;
        int64_t max, *to;
    } options[] = {
        {"max_concurrent", 1000000, &key->max_concurrent},
        {"tokens_per_minute", 1000000000000, &key->tokens_per_minute},
    };
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        size_t name_len = strlen(options[i].name);
        if (word.len <= name_len || memcmp(word.p, options[i].name, name_len) != 0 || word.p[name_len] != '=')
            continue;
        if (*options[i].to != 0)
            config_complain(parser->errors, "%s:%d: %s is given twice", parser->path, parser->line, options[i].name);
        else if (!parse_number(word.p + name_len + 1, word.len - name_len - 1, options[i].max, options[i].to))
            config_complain(parser->errors,
                            "%s:%d: %s: allowed is a whole number from 1 to %lld; leave it out for no limit",
                            parser->path, parser->line, options[i].name, (long long)options[i].max);
        return;
    }
    config_complain(parser->errors, "%s:%d: behind the hash, max_concurrent=N and tokens_per_minute=N are allowed",
                    parser->path, parser->line);
}

static void check_unique(struct parser *parser, const struct auth_key *key) {
    for (size_t i = 0; i < parser->keys->n; i++) {
        const struct auth_key *other = &parser->keys->list[i];
        if (strcmp(other->name, key->name) == 0)
            config_complain(parser->errors, "%s:%d: the name %s was given before, in line %d", parser->path,
                            parser->line, key->name, parser->lines[i]);
        else if (memcmp(other->hash, key->hash, AUTH_HASH_BYTES) == 0)
            config_complain(parser->errors, "%s:%d: %s has the same key as %s in line %d", parser->path, parser->line,
                            key->name, other->name, parser->lines[i]);
    }
}

static void parse_line(struct parser *parser, struct word line) {
    struct config_errors *errors = parser->errors;
    if (line.len > 0 && line.p[line.len - 1] == '\r')
        line.len--;
    if (line.len > AUTH_MAX_LINE_BYTES) {
        config_complain(errors, "%s:%d: the line has more than %d bytes", parser->path, parser->line,
                        AUTH_MAX_LINE_BYTES);
        return;
    }
    if (memchr(line.p, '\0', line.len) != NULL) {
        config_complain(errors, "%s:%d: the line holds a NUL", parser->path, parser->line);
        return;
    }
    struct word name = next_word(&line);
    if (name.len == 0)
        return;
    int before = errors->count;
    struct auth_key key = {0};
    if (!auth_name_is_valid(name.p, name.len))
        config_complain(errors, "%s:%d: a line begins with a name: %s", parser->path, parser->line, AUTH_NAME_ALLOWED);
    else
        memcpy(key.name, name.p, name.len);
    if (!parse_hash(next_word(&line), key.hash))
        config_complain(errors,
                        "%s:%d: behind the name stands sha256: with 64 hexadecimal digits; \"llama4d key NAME\" makes "
                        "a key and its line",
                        parser->path, parser->line);
    else
        for (struct word word = next_word(&line); word.len > 0; word = next_word(&line))
            parse_option(parser, &key, word);
    if (errors->count == before)
        check_unique(parser, &key);
    if (errors->count == before && parser->keys->n == AUTH_MAX_KEYS)
        config_complain(errors, "%s:%d: more than %d keys", parser->path, parser->line, AUTH_MAX_KEYS);
    if (errors->count > before)
        return;
    parser->lines[parser->keys->n] = parser->line;
    parser->keys->list[parser->keys->n++] = key;
}

int auth_file_parse(struct auth_keys *out, const char *path, const char *text, size_t len_bytes,
                    struct config_errors *errors) {
    struct parser parser = {.keys = out, .path = path, .errors = errors};
    int before = errors->count;
    *out = (struct auth_keys){.list = calloc(AUTH_MAX_KEYS, sizeof(*out->list))};
    parser.lines = calloc(AUTH_MAX_KEYS, sizeof(*parser.lines));
    if (out->list == NULL || parser.lines == NULL) {
        free(parser.lines);
        auth_keys_free(out);
        return L4_E_NOMEM;
    }
    for (const char *end = text + len_bytes; text < end;) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *line_end = newline != NULL ? newline : end;
        parser.line++;
        parse_line(&parser, (struct word){text, (size_t)(line_end - text)});
        text = newline != NULL ? newline + 1 : end;
        if (errors->count - before >= MAX_COMPLAINTS) {
            config_complain(errors, "%s: the rest was not looked at", path);
            break;
        }
    }
    free(parser.lines);
    if (errors->count == before)
        return 0;
    auth_keys_free(out);
    return L4_E_INVALID;
}

void auth_keys_free(struct auth_keys *keys) {
    free(keys->list);
    *keys = (struct auth_keys){0};
}
