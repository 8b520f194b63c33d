/* Any bytes as the file of API keys: complaints that name a line, or keys that nobody has twice. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/auth_file.h"

static void require(int ok) {
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct auth_keys keys;
    struct config_errors errors = {0};
    char *text = malloc(size > 0 ? size : 1); /* of that size, so that a step too far is seen */
    require(text != NULL);
    memcpy(text, data, size);
    int rc = auth_file_parse(&keys, "f", text, size, &errors);
    free(text);
    require(rc == 0 ? errors.count == 0 : rc == L4_E_INVALID && keys.n == 0 && strncmp(errors.text, "f:", 2) == 0);
    require(keys.n <= AUTH_MAX_KEYS);
    for (size_t i = 0; i < keys.n; i++) {
        const struct auth_key *key = &keys.list[i];
        require(auth_name_is_valid(key->name, strlen(key->name)));
        require(key->max_concurrent >= 0 && key->tokens_per_minute >= 0);
        for (size_t k = 0; k < i; k++)
            require(strcmp(key->name, keys.list[k].name) != 0 &&
                    memcmp(key->hash, keys.list[k].hash, AUTH_HASH_BYTES) != 0);
    }
    auth_keys_free(&keys);
    config_errors_free(&errors);
    return 0;
}
