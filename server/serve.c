#include "server/serve.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "server/auth.h"
#include "server/httpd.h"
#include "server/log.h"
#include "server/route.h"

enum { DRAIN_LOOK_MS = 10, CUT_GRACE_MS = 2000 };

struct daemon {
    struct server server;
    struct config *config;
    const struct serve_source *source;
    uv_loop_t loop;
    struct httpd *httpd;
    uv_signal_t sigterm, sigint, sighup;
    uv_timer_t drain_timer;
    uint64_t drain_until_ms, cut_until_ms; /* loop time; 0 = no end set */
    bool aborted;

    uv_thread_t opener;
    uv_async_t opened;
    bool opening;
    int open_rc;
    struct l4_err open_err;
    struct l4_engine *engine;

    int exit_status;
    bool stopping;
};

int serve_settings(struct config *config, const struct serve_source *source, struct config_errors *errors) {
    int rc = config_init(config);
    if (rc != 0)
        return rc;
    int file_rc = source->path != NULL ? config_read_file(config, source->path, errors) : 0;
    int flags_rc = config_read_flags(config, source->argc, source->argv, errors);
    rc = file_rc != 0 ? file_rc : flags_rc;
    if (rc != 0)
        config_fini(config);
    return rc;
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void stop(struct daemon *daemon) {
    if (daemon->stopping)
        return;
    daemon->stopping = true;
    if (daemon->opening) {
        /* The checkpoint is still being read on a thread that cannot be interrupted and holds nothing to lose. */
        log_event(L4_LOG_INFO, NULL, "stopped while loading");
        _exit(daemon->exit_status);
    }
    httpd_close(daemon->httpd);
    bridge_set_engine(daemon->server.bridge, NULL);
    l4_engine_close(daemon->engine);
    bridge_close(daemon->server.bridge);
    metrics_close(daemon->server.metrics);
    auth_close(daemon->server.auth);
    uv_close((uv_handle_t *)&daemon->opened, NULL);
    uv_close((uv_handle_t *)&daemon->sigterm, NULL);
    uv_close((uv_handle_t *)&daemon->sigint, NULL);
    uv_close((uv_handle_t *)&daemon->sighup, NULL);
    uv_close((uv_handle_t *)&daemon->drain_timer, NULL);
    /* One more signal must not change the exit status now that nobody listens. */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
}

/* What runs gets an error as its last event and a moment to be told so. */
static void cut(struct daemon *daemon, const char *why) {
    if (daemon->cut_until_ms != 0)
        return;
    log_event(L4_LOG_WARN, NULL, "%s: cutting %zu running requests short", why, httpd_active(daemon->httpd));
    daemon->cut_until_ms = uv_now(&daemon->loop) + CUT_GRACE_MS;
    struct l4_err err;
    l4_err_set(&err, L4_E_SHUTDOWN, "the server is shutting down");
    if (daemon->engine != NULL)
        l4_engine_drain(daemon->engine);
    bridge_cut(daemon->server.bridge, &err);
}

static void on_drain_look(uv_timer_t *timer) {
    struct daemon *daemon = timer->data;
    uint64_t now_ms = uv_now(&daemon->loop);
    if (httpd_active(daemon->httpd) == 0 && bridge_busy(daemon->server.bridge) == 0)
        stop(daemon);
    else if (daemon->cut_until_ms == 0 && now_ms >= daemon->drain_until_ms)
        cut(daemon, "drain time-out");
    else if (daemon->cut_until_ms != 0 && now_ms >= daemon->cut_until_ms && !daemon->aborted) {
        daemon->aborted = true;
        httpd_abort(daemon->httpd);
    }
}

static void drain(struct daemon *daemon) {
    daemon->server.state = SERVER_DRAINING;
    daemon->drain_until_ms = uv_now(&daemon->loop) + (uint64_t)daemon->config->drain_timeout_s * 1000;
    httpd_drain(daemon->httpd);
    uv_timer_start(&daemon->drain_timer, on_drain_look, 0, DRAIN_LOOK_MS);
}

static void on_stop_signal(uv_signal_t *handle, int number) {
    struct daemon *daemon = handle->data;
    const char *name = number == SIGTERM ? "SIGTERM" : "SIGINT";
    if (daemon->server.state == SERVER_DRAINING) {
        cut(daemon, name);
        return;
    }
    log_event(L4_LOG_INFO, NULL, "%s: draining, %zu requests running", name, httpd_active(daemon->httpd));
    drain(daemon);
}

/* ---- settings again ---------------------------------------------------------------------------------------------- */

static void on_changed(void *user, const char *name, bool is_reloadable) {
    (void)user;
    if (is_reloadable)
        log_event(L4_LOG_INFO, NULL, "setting %s changed", name);
    else
        log_event(L4_LOG_WARN, NULL, "setting %s changed in the file; a restart is needed for it", name);
}

static void log_errors(const struct config_errors *errors) {
    for (const char *line = errors->text; line != NULL && *line != '\0';) {
        size_t len = strcspn(line, "\n");
        log_event(L4_LOG_ERROR, NULL, "%.*s", (int)len, line);
        line += len + (line[len] == '\n');
    }
}

static void reload_keys(struct auth *auth) {
    struct config_errors errors = {0};
    if (auth != NULL && auth_reload(auth, &errors) != 0) {
        log_errors(&errors);
        log_event(L4_LOG_ERROR, NULL, "SIGHUP: the API keys stay as they are");
    }
    config_errors_free(&errors);
}

static void reload_tls(struct httpd *httpd) {
    struct l4_err err;
    if (httpd_reload_tls(httpd, &err) == 0)
        return;
    log_event(L4_LOG_ERROR, NULL, "%s", err.message);
    log_event(L4_LOG_ERROR, NULL, "SIGHUP: the certificate stays as it is");
}

static void on_reload_signal(uv_signal_t *handle, int number) {
    (void)number;
    struct daemon *daemon = handle->data;
    struct config fresh;
    struct config_errors errors = {0};
    int rc = serve_settings(&fresh, daemon->source, &errors);
    if (rc == 0 && (rc = config_check(&fresh, &errors)) != 0)
        config_fini(&fresh);
    if (rc != 0) {
        log_errors(&errors);
        log_event(L4_LOG_ERROR, NULL, "SIGHUP: the settings stay as they are");
    } else {
        config_reload(daemon->config, &fresh, on_changed, NULL);
        log_set_level(daemon->config->log_level);
        log_event(L4_LOG_INFO, NULL, "SIGHUP: settings read again");
        config_fini(&fresh);
    }
    config_errors_free(&errors);
    reload_keys(daemon->server.auth);
    reload_tls(daemon->httpd);
}

/* ---- the engine -------------------------------------------------------------------------------------------------- */

static void on_engine_log(void *user, enum l4_log_level level, const char *message) {
    (void)user;
    log_event(level, NULL, "%s", message);
}

static void on_engine_progress(void *user, const char *what, double fraction) {
    (void)user;
    log_progress(what, fraction);
}

/* On its own thread: reading a checkpoint takes as long as it takes. */
static void open_engine(void *user) {
    struct daemon *daemon = user;
    const struct config *config = daemon->config;
    struct l4_engine_options options;
    config_engine_options(config, &options);
    options.wakeup = bridge_wakeup;
    options.log = on_engine_log;
    options.progress = on_engine_progress;
    options.user = daemon->server.bridge;
    daemon->open_rc = l4_engine_open(&daemon->engine, &options, &daemon->open_err);
    if (daemon->open_rc == 0 && l4_engine_tokenizer(daemon->engine) == NULL) {
        /* The engine can do without; whoever speaks HTTP speaks text. */
        l4_engine_close(daemon->engine);
        daemon->engine = NULL;
        daemon->open_rc = l4_err_set(&daemon->open_err, L4_E_NOT_FOUND, "%s has no tokenizer.json", config->model);
    }
    uv_async_send(&daemon->opened);
}

static void on_opened(uv_async_t *async) {
    struct daemon *daemon = async->data;
    struct server *server = &daemon->server;
    uv_thread_join(&daemon->opener);
    daemon->opening = false;
    if (daemon->open_rc != 0) {
        log_event(L4_LOG_ERROR, NULL, "cannot load the model: %s", daemon->open_err.message);
        daemon->exit_status = 1;
        drain(daemon);
        return;
    }
    if (server->state == SERVER_DRAINING)
        return; /* nothing was let in, so the drain ends at its next look */
    server->engine = daemon->engine;
    l4_engine_info(server->engine, &server->info);
    server->model_name = daemon->config->model_name[0] != '\0' ? daemon->config->model_name : server->info.name;
    bridge_set_engine(server->bridge, server->engine);
    server->state = SERVER_READY;
    const struct l4_engine_info *info = &server->info;
    char name[256];
    log_event(L4_LOG_INFO, NULL,
              "ready model=%s quantization=%s activations=%s parameters=%lld experts_implementation=%s gemm=%s "
              "kernels=%s threads=%d "
              "max_context=%lld kv_cache_type=%s kv_tokens=%lld",
              log_quote(name, sizeof(name), server->model_name), info->quantization, info->activations,
              (long long)info->parameters, info->experts_implementation, info->gemm, info->cpu_kernels, info->threads,
              (long long)info->max_context_tokens, info->kv_cache_type, (long long)info->kv_capacity_tokens);
}

/* ---- the beginning ----------------------------------------------------------------------------------------------- */

static void on_http_headers(void *user, struct http_exchange *x) {
    route_admit(user, x);
}

static void on_http_request(void *user, struct http_exchange *take_x) {
    route_dispatch(user, take_x);
}

static void init_handles(struct daemon *daemon) {
    uv_async_init(&daemon->loop, &daemon->opened, on_opened);
    uv_signal_init(&daemon->loop, &daemon->sigterm);
    uv_signal_init(&daemon->loop, &daemon->sigint);
    uv_signal_init(&daemon->loop, &daemon->sighup);
    uv_timer_init(&daemon->loop, &daemon->drain_timer);
    daemon->opened.data = daemon->sigterm.data = daemon->sigint.data = daemon->sighup.data = daemon;
    daemon->drain_timer.data = daemon;
}

static int open_keys(struct auth **out, const char *path, struct l4_err *err) {
    struct config_errors errors = {0};
    int rc = path[0] != '\0' ? auth_open(out, path, &errors) : 0;
    log_errors(&errors);
    config_errors_free(&errors);
    return rc != 0 ? l4_err_set(err, rc, "the API keys of %s cannot be used", path) : 0;
}

static int start(struct daemon *daemon, struct l4_err *err) {
    struct server *server = &daemon->server;
    int n_routes;
    const struct metrics_route *routes = route_names(&n_routes);
    int rc = open_keys(&server->auth, daemon->config->api_keys_file, err);
    if (rc != 0)
        return rc;
    rc = metrics_open(&server->metrics, &daemon->loop, routes, n_routes, err);
    if (rc != 0)
        return rc;
    rc = bridge_open(&server->bridge, &daemon->loop, err);
    if (rc != 0) {
        metrics_close(server->metrics);
        return rc;
    }
    rc = httpd_open(&daemon->httpd, &daemon->loop, daemon->config, server->metrics, on_http_headers, on_http_request,
                    server, err);
    if (rc != 0) {
        metrics_close(server->metrics);
        bridge_close(server->bridge);
        return rc;
    }
    init_handles(daemon);
    uv_signal_start(&daemon->sigterm, on_stop_signal, SIGTERM);
    uv_signal_start(&daemon->sigint, on_stop_signal, SIGINT);
    uv_signal_start(&daemon->sighup, on_reload_signal, SIGHUP);
    log_event(L4_LOG_INFO, NULL, "listening on %s", httpd_url(daemon->httpd));
    daemon->opening = uv_thread_create(&daemon->opener, open_engine, daemon) == 0;
    if (!daemon->opening) {
        log_event(L4_LOG_ERROR, NULL, "cannot start a thread to load the model");
        daemon->exit_status = 1;
        drain(daemon);
    }
    return 0;
}

int serve_run(struct config *config, const struct serve_source *source) {
    struct daemon daemon = {.config = config, .source = source};
    daemon.server.state = SERVER_LOADING;
    daemon.server.config = config;
    daemon.server.model_name = "";
    daemon.server.started_s = (long long)time(NULL);
    log_set_level(config->log_level);
    signal(SIGPIPE, SIG_IGN);
    setenv("UV_THREADPOOL_SIZE", "2", 0); /* long prompts are tokenized there, beside the engine's threads */
    if (uv_loop_init(&daemon.loop) != 0) {
        log_event(L4_LOG_ERROR, NULL, "no event loop: %s", strerror(errno));
        return 1;
    }
    struct l4_err err;
    if (l4_install_fault_handler(EXIT_FAILURE) != 0)
        log_event(L4_LOG_WARN, NULL, "a checkpoint that is truncated while in use will not be explained");
    if (start(&daemon, &err) != 0) {
        log_event(L4_LOG_ERROR, NULL, "%s", err.message);
        auth_close(daemon.server.auth);
        daemon.exit_status = 1;
    }
    uv_run(&daemon.loop, UV_RUN_DEFAULT);
    uv_loop_close(&daemon.loop);
    if (daemon.exit_status == 0)
        log_event(L4_LOG_INFO, NULL, "stopped");
    return daemon.exit_status;
}
