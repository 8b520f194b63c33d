#include "server/auth.h"

#include <gnutls/gnutls.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>
#include <uv.h>

#include "server/auth_file.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/rate.h"
#include "server/small_file.h"

struct auth_client {
    struct auth_client *prev, *next;
    struct auth_key key;
    bool is_gone; /* from the file */
    struct rate rate;
    size_t n_open, n_running; /* requests that were begun; those of them that count against max_concurrent */
    uint64_t n_requests, n_refused, prompt_tokens, completion_tokens;
};

struct auth {
    char *path;
    struct auth_client *clients; /* in the order of the file; those that are gone are in no list */
};

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static struct auth_client *find_name(struct auth_client *clients, const char *name) {
    struct auth_client *client;
    DL_FOREACH(clients, client) {
        if (strcmp(client->key.name, name) == 0)
            return client;
    }
    return NULL;
}

static void set_key(struct auth_client *client, const struct auth_key *key) {
    uint64_t now_ns = uv_hrtime();
    if (client->key.tokens_per_minute == 0 && key->tokens_per_minute != 0)
        rate_init(&client->rate, key->tokens_per_minute, now_ns);
    else if (key->tokens_per_minute != 0)
        rate_change(&client->rate, key->tokens_per_minute, now_ns);
    client->key = *key;
}

static void free_list(struct auth_client *clients) {
    struct auth_client *client, *next;
    DL_FOREACH_SAFE(clients, client, next) {
        free(client);
    }
}

/* Allocates first, so that nothing has changed when there is no memory. */
static int take_keys(struct auth *auth, const struct auth_keys *keys) {
    struct auth_client *fresh = NULL, *client, *next;
    for (size_t i = 0; i < keys->n; i++) {
        client = calloc(1, sizeof(*client));
        if (client == NULL) {
            free_list(fresh);
            return L4_E_NOMEM;
        }
        set_key(client, &keys->list[i]);
        DL_APPEND(fresh, client);
    }
    struct auth_client *merged = NULL;
    DL_FOREACH_SAFE(fresh, client, next) {
        struct auth_client *known = find_name(auth->clients, client->key.name);
        if (known != NULL) {
            set_key(known, &client->key);
            DL_DELETE(auth->clients, known);
            free(client);
        }
        struct auth_client *kept = known != NULL ? known : client;
        DL_APPEND(merged, kept);
    }
    DL_FOREACH_SAFE(auth->clients, client, next) {
        client->is_gone = true;
        if (client->n_open == 0)
            free(client); /* else its last request does it */
    }
    auth->clients = merged;
    return 0;
}

int auth_reload(struct auth *auth, struct config_errors *errors) {
    struct l4_buf text = {0};
    struct auth_keys keys;
    struct l4_err err;
    bool others = false;
    int rc = small_file_read(auth->path, AUTH_MAX_FILE_BYTES, &text, &others, &err);
    if (rc != 0)
        config_complain(errors, "%s", err.message);
    else if ((rc = auth_file_parse(&keys, auth->path, text.data, text.len, errors)) == 0) {
        rc = take_keys(auth, &keys);
        if (rc == 0)
            log_event(keys.n > 0 ? L4_LOG_INFO : L4_LOG_WARN, NULL, "%s: %zu API keys%s", auth->path, keys.n,
                      keys.n > 0 ? "" : ": every request that needs one will be refused");
        auth_keys_free(&keys);
    }
    if (rc == L4_E_NOMEM)
        config_complain(errors, "%s: out of memory", auth->path);
    if (rc == 0 && others)
        log_event(L4_LOG_WARN, NULL, "%s can be read or changed by every user of this machine: chmod o-rw", auth->path);
    l4_buf_free(&text);
    return rc;
}

int auth_open(struct auth **out, const char *path, struct config_errors *errors) {
    struct auth *auth = calloc(1, sizeof(*auth));
    if (auth != NULL)
        auth->path = strdup(path);
    if (auth == NULL || auth->path == NULL) {
        free(auth);
        config_complain(errors, "%s: out of memory", path);
        return L4_E_NOMEM;
    }
    int rc = auth_reload(auth, errors);
    if (rc != 0) {
        auth_close(auth);
        return rc;
    }
    *out = auth;
    return 0;
}

void auth_close(struct auth *auth) {
    if (auth == NULL)
        return;
    free_list(auth->clients);
    free(auth->path);
    free(auth);
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

struct auth_client *auth_find(const struct auth *auth, const char *key) {
    unsigned char hash[AUTH_HASH_BYTES];
    auth_hash(key, strlen(key), hash);
    struct auth_client *client, *found = NULL;
    DL_FOREACH(auth->clients, client) {
        if (gnutls_memcmp(client->key.hash, hash, AUTH_HASH_BYTES) == 0)
            found = client; /* and on: where it stands shows in no time */
    }
    return found;
}

const char *auth_client_name(const struct auth_client *client) {
    return client->key.name;
}

static int64_t refuse(struct auth_client *client, int64_t seconds) {
    client->n_refused++;
    return seconds;
}

int64_t auth_begin(struct auth_client *client, bool is_limited, uint64_t now_ns, char *why, size_t why_bytes) {
    const struct auth_key *key = &client->key;
    client->n_open++;
    client->n_requests++;
    if (!is_limited)
        return 0;
    if (key->max_concurrent != 0 && client->n_running >= (size_t)key->max_concurrent) {
        snprintf(why, why_bytes, "this key has %zu requests running; at most %lld are allowed", client->n_running,
                 (long long)key->max_concurrent);
        return refuse(client, 1);
    }
    int64_t wait_s = key->tokens_per_minute != 0 ? rate_wait_s(&client->rate, now_ns) : 0;
    if (wait_s > 0) {
        snprintf(why, why_bytes, "this key has used up its %lld tokens a minute; try again in %lld s",
                 (long long)key->tokens_per_minute, (long long)wait_s);
        return refuse(client, wait_s);
    }
    client->n_running++;
    return 0;
}

void auth_charge(struct auth_client *client, int64_t prompt_tokens, int64_t completion_tokens, uint64_t now_ns) {
    client->prompt_tokens += (uint64_t)prompt_tokens;
    client->completion_tokens += (uint64_t)completion_tokens;
    if (client->key.tokens_per_minute != 0)
        rate_take(&client->rate, prompt_tokens + completion_tokens, now_ns);
}

void auth_end(struct auth_client *take_client, bool was_running) {
    take_client->n_running -= was_running;
    if (--take_client->n_open == 0 && take_client->is_gone)
        free(take_client);
}

/* The hash of both, with a byte in between that neither holds: as long as a salt may be, and nobody else's. */
void auth_mix_salt(const char *client_name, char salt[L4_MAX_SALT_BYTES + 1]) {
    char both[AUTH_MAX_NAME_BYTES + 1 + L4_MAX_SALT_BYTES], text[AUTH_HASH_TEXT_BYTES];
    unsigned char hash[AUTH_HASH_BYTES];
    _Static_assert(2 * AUTH_HASH_BYTES <= L4_MAX_SALT_BYTES, "the digits of a hash are a salt");
    size_t name_bytes = strlen(client_name) + 1, salt_bytes = strlen(salt);
    memcpy(both, client_name, name_bytes);
    memcpy(both + name_bytes, salt, salt_bytes);
    auth_hash(both, name_bytes + salt_bytes, hash);
    auth_hash_text(hash, text);
    memcpy(salt, strchr(text, ':') + 1, 2 * AUTH_HASH_BYTES + 1);
}

/* ---- metrics ----------------------------------------------------------------------------------------------------- */

void auth_write_metrics(const struct auth *auth, struct l4_buf *out) {
    static const struct {
        const char *name, *type, *help;
        size_t offset;
    } families[] = {
        {"key_requests_total", "counter", "Requests with each API key.", offsetof(struct auth_client, n_requests)},
        {"key_requests_refused_total", "counter", "Requests that the limits of their key refused.",
         offsetof(struct auth_client, n_refused)},
        {"key_prompt_tokens_total", "counter", "Prompt tokens of each API key's requests.",
         offsetof(struct auth_client, prompt_tokens)},
        {"key_completion_tokens_total", "counter", "Tokens that were generated for each API key's requests.",
         offsetof(struct auth_client, completion_tokens)},
    };
    const struct auth_client *client;
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
        metrics_put_family(out, families[i].name, families[i].type, families[i].help);
        DL_FOREACH(auth->clients, client) {
            uint64_t value;
            memcpy(&value, (const char *)client + families[i].offset, sizeof(value));
            l4_buf_printf(out, "llama4d_%s{key=\"%s\"} %" PRIu64 "\n", families[i].name, client->key.name, value);
        }
    }
    metrics_put_family(out, "key_requests_running", "gauge", "Requests of each API key that count against its limit.");
    DL_FOREACH(auth->clients, client) {
        l4_buf_printf(out, "llama4d_key_requests_running{key=\"%s\"} %zu\n", client->key.name, client->n_running);
    }
}
