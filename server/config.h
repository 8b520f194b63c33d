/* Settings: defaults, then the file, then the flags.  config.def is the only list of them. */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "llama4/engine.h"

struct config_opt_int {
    bool is_set;
    int64_t value;
};
struct config_opt_real {
    bool is_set;
    double value;
};

#define CONFIG_C_STRING   char * /* never NULL; owned by the config */
#define CONFIG_C_INT      int64_t
#define CONFIG_C_AUTO_INT int64_t /* 0 = auto */
#define CONFIG_C_BYTES    int64_t
#define CONFIG_C_SWITCH   bool
#define CONFIG_C_CHOICE   const char * /* one of the choices, which are static */
#define CONFIG_C_OPT_INT  struct config_opt_int
#define CONFIG_C_OPT_REAL struct config_opt_real

struct config {
#define SETTING(name, type, min, max, choices, default_text, reloadable, help) CONFIG_C_##type name;
#include "server/config.def"
#undef SETTING
};

/* Complaints are collected, one a line, so that all of them can be shown at once. */
struct config_errors {
    char *text; /* owned; NULL when there are none */
    size_t len_bytes;
    int count;
};
void config_errors_free(struct config_errors *errors);
/* config_complain - one more.  count grows even where there is no memory for the text. */
void config_complain(struct config_errors *errors, const char *fmt, ...) L4_PRINTF(2, 3);

/* config_init - every setting at its default.  Errors: L4_E_NOMEM. */
int config_init(struct config *config) L4_MUST_CHECK;
void config_fini(struct config *config);

/* config_read_file - take the settings of an INI file: `name = value` before any section or under [llama4d]; lines
 * that begin with # or ; are comments.  The complaints name file, line, setting and what is allowed.
 *   Errors: L4_E_IO (cannot be read), L4_E_INVALID (*errors says what), L4_E_NOMEM. */
int config_read_file(struct config *config, const char *path, struct config_errors *errors) L4_MUST_CHECK;

/* config_read_flags - take `--some-name value` and `--some-name=value`; a switch alone is on; argv[0] is the first
 * flag.
 *   Errors: L4_E_INVALID (*errors says what), L4_E_NOMEM. */
int config_read_flags(struct config *config, int argc, char *const *argv, struct config_errors *errors) L4_MUST_CHECK;

/* config_check - what no type can tell: a model is named, a certificate has a key, origins are origins.  Errors:
 * L4_E_INVALID. */
int config_check(const struct config *config, struct config_errors *errors) L4_MUST_CHECK;

/* config_reload - copy the reloadable settings of *from into *to; calls changed(user, name, is_reloadable) for each
 * setting that differs, whether it was taken or needs a restart. */
void config_reload(struct config *to, const struct config *from,
                   void (*changed)(void *user, const char *name, bool is_reloadable), void *user);

/* config_engine_options - the engine's options as set; callbacks stay empty, strings are borrowed. */
void config_engine_options(const struct config *config, struct l4_engine_options *options);

/* config_print - the settings as a file: each with its help, commented out where it has its default. */
void config_print(const struct config *config, FILE *out);
/* config_print_help - the flags with their help, bounds and defaults. */
void config_print_help(FILE *out);

#endif
