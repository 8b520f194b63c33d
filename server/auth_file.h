/* The file of API keys.  A line is
 *
 *     NAME sha256:HASH [max_concurrent=N] [tokens_per_minute=N]
 *
 * with blanks or tabs in between; a word that begins with # begins a comment.  NAME is 1 to 64 letters, digits, `.`,
 * `_` and `-`; HASH is the SHA-256 of the key in 64 hexadecimal digits.  Pure functions.  Thread: any. */
#ifndef SERVER_AUTH_FILE_H
#define SERVER_AUTH_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/config.h"

enum {
    AUTH_MAX_NAME_BYTES = 64,
    AUTH_HASH_BYTES = 32,
    AUTH_MAX_KEYS = 1024,
    AUTH_MAX_LINE_BYTES = 1024,
    AUTH_MAX_FILE_BYTES = 4 << 20,
};

struct auth_key {
    char name[AUTH_MAX_NAME_BYTES + 1];
    unsigned char hash[AUTH_HASH_BYTES];
    int64_t max_concurrent;    /* requests; 0 = no limit */
    int64_t tokens_per_minute; /* 0 = no limit */
};

struct auth_keys {
    struct auth_key *list; /* owned; no two of a name or a hash */
    size_t n;
};

/* auth_file_parse - text[len_bytes] is the file, path its name for the complaints: "path:line: what is allowed".  They
 * never show what stands where a hash should: it might be a key.
 *   Errors: L4_E_INVALID (*errors says what), L4_E_NOMEM.  *out is then empty. */
int auth_file_parse(struct auth_keys *out, const char *path, const char *text, size_t len_bytes,
                    struct config_errors *errors) L4_MUST_CHECK;
void auth_keys_free(struct auth_keys *keys);

bool auth_name_is_valid(const char *name, size_t len_bytes);
/* What a name may be, for people. */
extern const char AUTH_NAME_ALLOWED[];

/* auth_hash - SHA-256.  auth_hash_text - "sha256:" and 64 hexadecimal digits. */
enum { AUTH_HASH_TEXT_BYTES = 7 + 2 * AUTH_HASH_BYTES + 1 };
void auth_hash(const char *key, size_t len_bytes, unsigned char hash[AUTH_HASH_BYTES]);
void auth_hash_text(const unsigned char hash[AUTH_HASH_BYTES], char text[AUTH_HASH_TEXT_BYTES]);

#endif
