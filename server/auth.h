/* API keys: who may ask, how much at a time, and what each has asked for.
 *
 * A client is a name in the file of keys.  Clients, their counters and what they owe outlive a reload; one whose name
 * is gone from the file lives until its last request has ended.  Thread: the loop's. */
#ifndef SERVER_AUTH_H
#define SERVER_AUTH_H

#include "llama4/buf.h"
#include "llama4/engine.h"
#include "server/config.h"

struct auth;
struct auth_client;

/* auth_open - the keys of a file.  That the file can be read by everybody, or holds no key, is logged.
 *   Errors: L4_E_IO, L4_E_INVALID (*errors says what), L4_E_NOMEM. */
int auth_open(struct auth **out, const char *path, struct config_errors *errors) L4_MUST_CHECK;
/* auth_reload - read the file again.  On an error, as with auth_open, the keys stay what they are. */
int auth_reload(struct auth *auth, struct config_errors *errors) L4_MUST_CHECK;
/* auth_close - every request that was begun has ended. */
void auth_close(struct auth *auth);

/* auth_find - whose key this is; NULL: nobody's.  Takes as long whoever it is. */
struct auth_client *auth_find(const struct auth *auth, const char *key);
const char *auth_client_name(const struct auth_client *client);

/* auth_begin - a request of the client has come.  Where it is limited it counts against the client's limits:
 * 0, or, with the reason in `why`, the seconds after which it is worth trying again: it is to be refused.  An auth_end
 * follows either way. */
int64_t auth_begin(struct auth_client *client, bool is_limited, uint64_t now_ns, char *why,
                   size_t why_bytes) L4_MUST_CHECK;
/* auth_charge - tokens of a request that was begun; negative: it were fewer than was thought. */
void auth_charge(struct auth_client *client, int64_t prompt_tokens, int64_t completion_tokens, uint64_t now_ns);
/* auth_end - was_running: it was limited, and not refused. */
void auth_end(struct auth_client *take_client, bool was_running);

/* auth_mix_salt - replace a request's salt of the prefix cache by one that no other client's request has. */
void auth_mix_salt(const char *client_name, char salt[L4_MAX_SALT_BYTES + 1]);

/* auth_write_metrics - the counters of each client, for Prometheus. */
void auth_write_metrics(const struct auth *auth, struct l4_buf *out);

#endif
