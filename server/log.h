/* Log lines on stderr, one an event: time, level, request id and a message of key=value pairs.  Never a prompt's text.
 * Any thread. */
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

#include <stddef.h>

#include "llama4/engine.h"

/* The names of the levels, most severe first; NULL-terminated. */
const char *const *log_level_names(void);
/* Least severe level that is written; a name that is not in the list changes nothing. */
void log_set_level(const char *name);

/* log_event - one line.  request_id may be NULL.  Control characters in the message are written as \xHH. */
void log_event(enum l4_log_level level, const char *request_id, const char *fmt, ...) L4_PRINTF(3, 4);

/* log_quote - text as the value of a key: in double quotes, with quotes, backslashes, control characters and bytes that
 * are no ASCII escaped; cut with "..." where out is too small.  Returns out. */
const char *log_quote(char *out, size_t out_bytes, const char *text);

/* log_progress - a line that rewrites itself, when stderr is a terminal; fraction >= 1 ends it. */
void log_progress(const char *what, double fraction);

#endif
