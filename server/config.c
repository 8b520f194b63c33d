#include "server/config.h"

#include <errno.h>
#include <ini.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "llama4/buf.h"
#include "llama4/engine.h"
#include "server/cors.h"
#include "server/log.h"

enum setting_type { STRING, INT, AUTO_INT, BYTES, SWITCH, CHOICE, OPT_INT, OPT_REAL };

typedef const char *const *choices_fn(void);

struct setting {
    const char *name;
    enum setting_type type;
    double min, max; /* every bound in the table is exact as a double */
    choices_fn *choices;
    const char *default_text;
    bool reloadable;
    const char *help;
    size_t offset;
};

static const struct setting SETTINGS[] = {
#define SETTING(name, type, min, max, choices, default_text, reloadable, help)                                         \
    {#name, type, (double)(min), (double)(max), choices, default_text, reloadable, help, offsetof(struct config, name)},
#include "server/config.def"
#undef SETTING
};
enum { N_SETTINGS = sizeof(SETTINGS) / sizeof(SETTINGS[0]) };

enum { VALUE_BYTES = 64, ALLOWED_BYTES = 256, MAX_LINE_BYTES = 8192 };

static void *field(struct config *config, const struct setting *setting) {
    return (char *)config + setting->offset;
}
static const void *const_field(const struct config *config, const struct setting *setting) {
    return (const char *)config + setting->offset;
}

/* ---- complaints -------------------------------------------------------------------------------------------------- */

void config_errors_free(struct config_errors *errors) {
    free(errors->text);
    *errors = (struct config_errors){0};
}

void config_complain(struct config_errors *errors, const char *fmt, ...) {
    char *line = NULL;
    va_list args;
    va_start(args, fmt);
    int len = vasprintf(&line, fmt, args);
    va_end(args);
    errors->count++;
    if (len < 0)
        return;
    struct l4_buf buf = {0};
    if (errors->text != NULL)
        l4_buf_append(&buf, errors->text, errors->len_bytes);
    l4_buf_append(&buf, line, (size_t)len);
    l4_buf_puts(&buf, "\n");
    free(line);
    if (buf.failed) {
        l4_buf_free(&buf);
        return; /* the count still says that something was wrong */
    }
    free(errors->text);
    errors->text = l4_buf_take(&buf, &errors->len_bytes);
}

/* "16M": in the largest unit that divides it. */
static const char *bytes_text(int64_t value, char out[VALUE_BYTES]) {
    int unit = 0;
    while (unit < 3 && value != 0 && value % 1024 == 0) {
        value /= 1024;
        unit++;
    }
    snprintf(out, VALUE_BYTES, "%lld%.*s", (long long)value, unit > 0, &" KMG"[unit]);
    return out;
}

/* What a setting may be, for people: "a whole number from 0 to 65535". */
static const char *allowed(const struct setting *setting, char *out, size_t out_bytes) {
    char min[VALUE_BYTES], max[VALUE_BYTES];
    const char *unset = setting->type == OPT_INT || setting->type == OPT_REAL ? "unset or " : "";
    switch (setting->type) {
    case STRING:
        snprintf(out, out_bytes, "text");
        break;
    case INT:
    case OPT_INT:
        snprintf(out, out_bytes, "%sa whole number from %.0f to %.0f", unset, setting->min, setting->max);
        break;
    case AUTO_INT:
        snprintf(out, out_bytes, "auto or a whole number from %.0f to %.0f", setting->min, setting->max);
        break;
    case BYTES:
        snprintf(out, out_bytes, "a number of bytes from %s to %s (K, M, G: units of 1024)",
                 bytes_text((int64_t)setting->min, min), bytes_text((int64_t)setting->max, max));
        break;
    case SWITCH:
        snprintf(out, out_bytes, "on or off");
        break;
    case OPT_REAL:
        snprintf(out, out_bytes, "%sa number from %g to %g", unset, setting->min, setting->max);
        break;
    case CHOICE: {
        size_t len = (size_t)snprintf(out, out_bytes, "one of");
        for (const char *const *name = setting->choices(); *name != NULL && len < out_bytes; name++)
            len += (size_t)snprintf(out + len, out_bytes - len, "%s %s", name == setting->choices() ? "" : ",", *name);
        break;
    }
    }
    return out;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

static bool parse_int(const char *text, bool suffix_allowed, double min, double max, int64_t *out) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || errno != 0 || text[0] == ' ')
        return false;
    if (suffix_allowed && *end != '\0') {
        const char *units = "KMG";
        const char *unit = strchr(units, *end >= 'a' && *end <= 'z' ? *end - 'a' + 'A' : *end);
        if (unit == NULL || __builtin_mul_overflow(value, 1LL << (10 * (unit - units + 1)), &value))
            return false;
        end++;
    }
    if (*end != '\0' || (double)value < min || (double)value > max)
        return false;
    *out = value;
    return true;
}

static bool parse_real(const char *text, double min, double max, double *out) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || errno != 0 || !isfinite(value) || value < min || value > max)
        return false;
    *out = value;
    return true;
}

/* 0, L4_E_INVALID (not an allowed value; nothing changed) or L4_E_NOMEM. */
L4_MUST_CHECK static int assign(struct config *config, const struct setting *setting, const char *text) {
    void *to = field(config, setting);
    bool unset = strcmp(text, "unset") == 0;
    bool ok = true;
    switch (setting->type) {
    case STRING: {
        char *copy = strdup(text);
        if (copy == NULL)
            return L4_E_NOMEM;
        free(*(char **)to);
        *(char **)to = copy;
        break;
    }
    case AUTO_INT:
        ok = parse_int(strcmp(text, "auto") == 0 ? "0" : text, false, 0, 0, to) ||
             parse_int(text, false, setting->min, setting->max, to);
        break;
    case INT:
    case BYTES:
        ok = parse_int(text, setting->type == BYTES, setting->min, setting->max, to);
        break;
    case SWITCH:
        ok = strcmp(text, "on") == 0 || strcmp(text, "off") == 0;
        if (ok)
            *(bool *)to = text[1] == 'n';
        break;
    case OPT_INT: {
        struct config_opt_int value = {.is_set = !unset};
        ok = unset || parse_int(text, false, setting->min, setting->max, &value.value);
        if (ok)
            *(struct config_opt_int *)to = value;
        break;
    }
    case OPT_REAL: {
        struct config_opt_real value = {.is_set = !unset};
        ok = unset || parse_real(text, setting->min, setting->max, &value.value);
        if (ok)
            *(struct config_opt_real *)to = value;
        break;
    }
    case CHOICE: {
        const char *const *name = setting->choices();
        while (*name != NULL && strcmp(*name, text) != 0)
            name++;
        ok = *name != NULL;
        if (ok)
            *(const char **)to = *name;
        break;
    }
    }
    return ok ? 0 : L4_E_INVALID;
}

/* The value as it would be written in the file; borrowed or in `out`. */
static const char *value_text(const struct config *config, const struct setting *setting, char out[VALUE_BYTES]) {
    const void *from = const_field(config, setting);
    switch (setting->type) {
    case STRING:
    case CHOICE:
        return *(const char *const *)from;
    case AUTO_INT:
        if (*(const int64_t *)from == 0)
            return "auto";
        /* fall through */
    case INT:
        snprintf(out, VALUE_BYTES, "%lld", (long long)*(const int64_t *)from);
        return out;
    case BYTES:
        return bytes_text(*(const int64_t *)from, out);
    case SWITCH:
        return *(const bool *)from ? "on" : "off";
    case OPT_INT: {
        const struct config_opt_int *value = from;
        if (!value->is_set)
            return "unset";
        snprintf(out, VALUE_BYTES, "%lld", (long long)value->value);
        return out;
    }
    case OPT_REAL: {
        const struct config_opt_real *value = from;
        if (!value->is_set)
            return "unset";
        snprintf(out, VALUE_BYTES, "%.6g", value->value);
        if (strtod(out, NULL) != value->value)
            snprintf(out, VALUE_BYTES, "%.17g", value->value);
        return out;
    }
    }
    return "";
}

int config_init(struct config *config) {
    memset(config, 0, sizeof(*config));
    for (int i = 0; i < N_SETTINGS; i++) {
        int rc = assign(config, &SETTINGS[i], SETTINGS[i].default_text);
        if (rc != 0) {
            config_fini(config);
            return rc;
        }
    }
    return 0;
}

void config_fini(struct config *config) {
    for (int i = 0; i < N_SETTINGS; i++)
        if (SETTINGS[i].type == STRING)
            free(*(char **)field(config, &SETTINGS[i]));
    memset(config, 0, sizeof(*config));
}

/* ---- file -------------------------------------------------------------------------------------------------------- */

struct file_reader {
    struct config *config;
    struct config_errors *errors;
    const char *path;
    FILE *file;
    int line;
    bool nomem;
    int first_line[N_SETTINGS]; /* where a setting was given, 0 = not yet */
};

static const struct setting *find_setting(const char *name) {
    for (int i = 0; i < N_SETTINGS; i++)
        if (strcmp(SETTINGS[i].name, name) == 0)
            return &SETTINGS[i];
    return NULL;
}

/* One line for inih, which hands no line numbers on and would take the rest of a cut line for a line of its own. */
static char *read_line(char *line, int line_bytes, void *user) {
    struct file_reader *reader = user;
    if (fgets(line, line_bytes, reader->file) == NULL)
        return NULL;
    reader->line++;
    size_t len = strlen(line);
    int c = len > 0 && line[len - 1] == '\n' ? '\n' : getc(reader->file);
    if (c != '\n' && c != EOF) {
        config_complain(reader->errors, "%s:%d: the line is longer than %d bytes or holds a NUL", reader->path,
                        reader->line, line_bytes - 1);
        while (c != '\n' && c != EOF)
            c = getc(reader->file);
        line[0] = '\0';
    }
    return line;
}

static int take_line(void *user, const char *section, const char *name, const char *value) {
    struct file_reader *reader = user;
    const char *path = reader->path;
    int line = reader->line;
    char quoted[ALLOWED_BYTES], allow[ALLOWED_BYTES];
    if (section[0] != '\0' && strcmp(section, "llama4d") != 0) {
        config_complain(reader->errors,
                        "%s:%d: section [%s] is not known: settings stand before any section or under [llama4d]", path,
                        line, section);
        return 1;
    }
    const struct setting *setting = find_setting(name);
    if (setting == NULL) {
        config_complain(reader->errors, "%s:%d: unknown setting %s; \"llama4d --help\" lists the settings", path, line,
                        log_quote(quoted, sizeof(quoted), name));
        return 1;
    }
    if (value == NULL) {
        config_complain(reader->errors, "%s:%d: %s has no value: write %s = VALUE", path, line, name, name);
        return 1;
    }
    int *first_line = &reader->first_line[setting - SETTINGS];
    if (*first_line != 0) {
        config_complain(reader->errors, "%s:%d: %s was set before, in line %d", path, line, name, *first_line);
        return 1;
    }
    *first_line = line;
    int rc = assign(reader->config, setting, value);
    if (rc == L4_E_INVALID)
        config_complain(reader->errors, "%s:%d: %s = %s: allowed is %s", path, line, name,
                        log_quote(quoted, sizeof(quoted), value), allowed(setting, allow, sizeof(allow)));
    reader->nomem |= rc == L4_E_NOMEM;
    return 1;
}

int config_read_file(struct config *config, const char *path, struct config_errors *errors) {
    struct file_reader reader = {.config = config, .errors = errors, .path = path};
    int before = errors->count;
    reader.file = fopen(path, "re");
    if (reader.file == NULL) {
        config_complain(errors, "%s: %s", path, strerror(errno));
        return L4_E_IO;
    }
    ini_use_stack = false;
    ini_allow_multiline = false;
    ini_allow_no_value = true;
    ini_max_line = ini_initial_alloc = MAX_LINE_BYTES;
    int bad_line = ini_parse_stream(read_line, &reader, take_line, &reader);
    bool failed = ferror(reader.file) != 0;
    int read_errno = errno;
    fclose(reader.file);
    if (failed) {
        config_complain(errors, "%s: %s", path, strerror(read_errno));
        return L4_E_IO;
    }
    if (bad_line > 0)
        config_complain(errors, "%s:%d: neither a setting (name = value) nor a [section]", path, bad_line);
    if (bad_line < 0 || reader.nomem)
        return L4_E_NOMEM;
    return errors->count > before ? L4_E_INVALID : 0;
}

/* ---- flags ------------------------------------------------------------------------------------------------------- */

/* "max-queue" of [len] against "max_queue"; an underscore in the flag is no dash. */
static bool flag_is(const char *flag, size_t len, const char *name) {
    if (strlen(name) != len)
        return false;
    for (size_t i = 0; i < len; i++)
        if (flag[i] != (name[i] == '_' ? '-' : name[i]))
            return false;
    return true;
}

int config_read_flags(struct config *config, int argc, char *const *argv, struct config_errors *errors) {
    bool given[N_SETTINGS] = {false};
    int before = errors->count;
    for (int i = 0; i < argc; i++) {
        const char *flag = argv[i];
        char quoted[ALLOWED_BYTES], allow[ALLOWED_BYTES];
        if (strncmp(flag, "--", 2) != 0) {
            config_complain(errors, "unexpected argument %s: flags are --some-name VALUE",
                            log_quote(quoted, sizeof(quoted), flag));
            continue;
        }
        size_t len = strcspn(flag + 2, "=");
        const struct setting *setting = NULL;
        for (int k = 0; k < N_SETTINGS && setting == NULL; k++)
            if (flag_is(flag + 2, len, SETTINGS[k].name))
                setting = &SETTINGS[k];
        const char *value = flag[2 + len] == '=' ? flag + 3 + len : NULL;
        bool value_follows = value == NULL && i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0;
        if (value_follows)
            value = argv[++i];
        else if (value == NULL && setting != NULL && setting->type == SWITCH)
            value = "on";
        if (setting == NULL) {
            config_complain(errors, "unknown flag %.*s; \"llama4d --help\" lists the flags", (int)len + 2,
                            log_quote(quoted, sizeof(quoted), flag) + 1);
            continue;
        }
        if (value == NULL) {
            config_complain(errors, "%s needs a value: %s", flag, allowed(setting, allow, sizeof(allow)));
            continue;
        }
        if (given[setting - SETTINGS]) {
            config_complain(errors, "%.*s was given twice", (int)len + 2, flag);
            continue;
        }
        given[setting - SETTINGS] = true;
        int rc = assign(config, setting, value);
        if (rc == L4_E_NOMEM)
            return rc;
        if (rc != 0)
            config_complain(errors, "%.*s %s: allowed is %s", (int)len + 2, flag,
                            log_quote(quoted, sizeof(quoted), value), allowed(setting, allow, sizeof(allow)));
    }
    return errors->count > before ? L4_E_INVALID : 0;
}

int config_check(const struct config *config, struct config_errors *errors) {
    struct l4_err err;
    int before = errors->count;
    if (config->model[0] == '\0')
        config_complain(errors, "no model: give --model PATH or, in the file, model = PATH");
    if ((config->tls_certificate[0] == '\0') != (config->tls_key[0] == '\0'))
        config_complain(errors, "tls_certificate and tls_key are both needed for TLS: %s is not set",
                        config->tls_key[0] == '\0' ? "tls_key" : "tls_certificate");
    if (cors_check(config->cors_origins, &err) != 0)
        config_complain(errors, "cors_origins: %s", err.message);
    return errors->count > before ? L4_E_INVALID : 0;
}

void config_reload(struct config *to, const struct config *from,
                   void (*changed)(void *user, const char *name, bool is_reloadable), void *user) {
    for (int i = 0; i < N_SETTINGS; i++) {
        const struct setting *setting = &SETTINGS[i];
        char old_text[VALUE_BYTES], new_text[VALUE_BYTES];
        const char *text = value_text(from, setting, new_text);
        if (strcmp(value_text(to, setting, old_text), text) == 0)
            continue;
        /* A value that was valid there is valid here: at most there is no memory for a STRING. */
        bool taken = setting->reloadable && assign(to, setting, text) == 0;
        changed(user, setting->name, taken);
    }
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

void config_print(const struct config *config, FILE *out) {
    fputs(
        "# Settings of llama4d, each with its default.  Take the # away to change one.  Every setting is also a flag,\n"
        "# which goes before this file: max_queue = 100 here is --max-queue 100 there.\n"
        "# A ; after a blank begins a comment.\n",
        out);
    for (int i = 0; i < N_SETTINGS; i++) {
        const struct setting *setting = &SETTINGS[i];
        char text[VALUE_BYTES], allow[ALLOWED_BYTES];
        const char *value = value_text(config, setting, text);
        fprintf(out, "\n# %s\n", setting->help);
        if (setting->type != STRING)
            fprintf(out, "# %s\n", allowed(setting, allow, sizeof(allow)));
        fprintf(out, "%s%s =%s%s\n", strcmp(value, setting->default_text) == 0 ? "#" : "", setting->name,
                value[0] != '\0' ? " " : "", value);
    }
}

void config_print_help(FILE *out) {
    for (int i = 0; i < N_SETTINGS; i++) {
        const struct setting *setting = &SETTINGS[i];
        char flag[VALUE_BYTES], allow[ALLOWED_BYTES];
        snprintf(flag, sizeof(flag), "%s", setting->name);
        for (char *p = flag; *p != '\0'; p++)
            if (*p == '_')
                *p = '-';
        fprintf(out, "  --%s VALUE\n        %s\n", flag, setting->help);
        if (setting->type != STRING)
            fprintf(out, "        %s; default %s\n", allowed(setting, allow, sizeof(allow)), setting->default_text);
        else if (setting->default_text[0] != '\0')
            fprintf(out, "        default %s\n", setting->default_text);
    }
}

void config_engine_options(const struct config *config, struct l4_engine_options *options) {
    l4_engine_options_init(options);
    options->model = config->model;
    options->experts_implementation = config->experts_implementation;
    options->gemm = config->gemm;
    options->quantization = config->quantization;
    options->activations = config->activations;
    options->kv_cache_type = config->kv_cache_type;
    options->weight_cache = config->weight_cache;
    options->verify = config->verify;
    options->threads = (int)config->threads;
    options->pin_threads = config->pin_threads;
    options->numa = config->numa;
    options->max_context_tokens = config->max_context;
    options->kv_cache_bytes = config->kv_cache;
    options->max_running = (int)config->max_running;
    options->max_queue = (int)config->max_queue;
    options->max_step_ms = (int)config->max_step_ms;
    options->max_chunk_tokens = (int)config->max_chunk_tokens;
    options->prefix_cache = config->prefix_cache;
}
