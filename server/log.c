#include "server/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 2048 };

static const char *const LEVEL_NAMES[] = {"error", "warn", "info", "debug", NULL};

static atomic_int max_level = L4_LOG_INFO;
/* Keeps the self-rewriting progress line and the log lines apart. */
static pthread_mutex_t terminal_lock = PTHREAD_MUTEX_INITIALIZER;
static bool progress_shown;

const char *const *log_level_names(void) {
    return LEVEL_NAMES;
}

void log_set_level(const char *name) {
    for (int i = 0; LEVEL_NAMES[i] != NULL; i++)
        if (strcmp(name, LEVEL_NAMES[i]) == 0)
            atomic_store_explicit(&max_level, i, memory_order_relaxed);
}

static void write_all(const char *bytes, size_t n_bytes) {
    while (n_bytes > 0) {
        ssize_t n = write(STDERR_FILENO, bytes, n_bytes);
        if (n <= 0)
            return; /* nobody is left to tell */
        bytes += n;
        n_bytes -= (size_t)n;
    }
}

/* "2026-01-31T12:00:00.123Z info  " */
static size_t write_head(char *line, size_t line_bytes, enum l4_log_level level) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct tm tm;
    gmtime_r(&now.tv_sec, &tm);
    size_t len = strftime(line, line_bytes, "%Y-%m-%dT%H:%M:%S", &tm);
    return len + (size_t)snprintf(line + len, line_bytes - len, ".%03dZ %-5s ", (int)(now.tv_nsec / 1000000),
                                  LEVEL_NAMES[level]);
}

void log_event(enum l4_log_level level, const char *request_id, const char *fmt, ...) {
    if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed))
        return;
    char message[LINE_BYTES / 2];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);

    char line[LINE_BYTES];
    size_t len = write_head(line, sizeof(line), level);
    len += (size_t)snprintf(line + len, 256, "%.200s ", request_id != NULL ? request_id : "-");
    for (const char *p = message; *p != '\0' && len < sizeof(line) - 8; p++) {
        unsigned char c = (unsigned char)*p;
        if (c < 0x20 || c == 0x7f)
            len += (size_t)snprintf(line + len, 8, "\\x%02x", c);
        else
            line[len++] = (char)c;
    }
    line[len++] = '\n';

    pthread_mutex_lock(&terminal_lock);
    if (progress_shown)
        write_all("\r\033[K", 4);
    progress_shown = false;
    write_all(line, len);
    pthread_mutex_unlock(&terminal_lock);
}

const char *log_quote(char *out, size_t out_bytes, const char *text) {
    enum { TAIL_BYTES = 5 }; /* ..." and the terminator */
    if (out_bytes < TAIL_BYTES + 6) {
        if (out_bytes > 0)
            out[0] = '\0';
        return out;
    }
    size_t len = 0;
    out[len++] = '"';
    for (const char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;
        if (len + 4 + TAIL_BYTES > out_bytes) {
            memcpy(out + len, "...", 3);
            len += 3;
            break;
        }
        if (c == '"' || c == '\\') {
            out[len++] = '\\';
            out[len++] = (char)c;
        } else if (c < 0x20 || c >= 0x7f) {
            len += (size_t)snprintf(out + len, 5, "\\x%02x", c);
        } else {
            out[len++] = (char)c;
        }
    }
    out[len++] = '"';
    out[len] = '\0';
    return out;
}

void log_progress(const char *what, double fraction) {
    if (!isatty(STDERR_FILENO))
        return;
    enum { BAR_CELLS = 30 };
    static const char full[] = "##############################", empty[] = "..............................";
    char line[160];
    int cells = fraction >= 1 ? BAR_CELLS : (int)(fraction * BAR_CELLS);
    int len = snprintf(line, sizeof(line), "\r\033[K[%.*s%.*s] %3d%% %.80s%s", cells, full, BAR_CELLS - cells, empty,
                       (int)(fraction * 100), what, fraction >= 1 ? "\n" : "");
    pthread_mutex_lock(&terminal_lock);
    write_all(line, (size_t)len);
    progress_shown = fraction < 1;
    pthread_mutex_unlock(&terminal_lock);
}
