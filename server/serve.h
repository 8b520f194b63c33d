/* The daemon's life: listen, load, serve, drain. */
#ifndef SERVER_SERVE_H
#define SERVER_SERVE_H

#include "server/config.h"

/* How the settings came about, so that SIGHUP can read them again.  path may be NULL. */
struct serve_source {
    const char *path;
    int argc;
    char *const *argv;
};

/* serve_settings - defaults, file, flags into *config (initialised here).
 *   Errors: as config_read_file and config_read_flags; *config is then empty. */
int serve_settings(struct config *config, const struct serve_source *source,
                   struct config_errors *errors) L4_MUST_CHECK;

/* serve_run - until a signal ends it.  Returns the exit status: 0 after SIGTERM or SIGINT, also when the drain was cut
 * short; 1 when it could not listen or the model could not be loaded. */
int serve_run(struct config *config, const struct serve_source *source);

#endif
