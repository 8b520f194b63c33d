#include "server/cmd_key.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "server/auth_file.h"

enum { EXIT_USAGE = 2, KEY_BYTES = 32 };

/* The alphabet of RFC 4648, section 5, without padding. */
static void put_base64url(const unsigned char *bytes, size_t n_bytes, char *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    unsigned bits = 0, n_bits = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        bits = bits << 8 | bytes[i];
        for (n_bits += 8; n_bits >= 6; n_bits -= 6)
            *out++ = digits[bits >> (n_bits - 6) & 63];
    }
    if (n_bits > 0)
        *out++ = digits[bits << (6 - n_bits) & 63];
    *out = '\0';
}

int cmd_key(int argc, char **argv) {
    unsigned char random[KEY_BYTES], hash[AUTH_HASH_BYTES];
    char key[3 + (KEY_BYTES * 8 + 5) / 6 + 1] = "sk-", text[AUTH_HASH_TEXT_BYTES];
    if (argc != 1 || !auth_name_is_valid(argv[0], strlen(argv[0]))) {
        fprintf(stderr, "usage: llama4d key NAME\n  NAME is %s\n", AUTH_NAME_ALLOWED);
        return EXIT_USAGE;
    }
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random)) {
        fputs("llama4d: key: the system gave no random bytes\n", stderr);
        return EXIT_FAILURE;
    }
    put_base64url(random, sizeof(random), key + strlen(key));
    auth_hash(key, strlen(key), hash);
    auth_hash_text(hash, text);
    printf("%s\n%s %s\n", key, argv[0], text);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fputs("llama4d: key: the output could not be written\n", stderr);
        return EXIT_FAILURE;
    }
    fputs("The first line is the key, for the client; it is kept nowhere.  The second is for the file that "
          "api_keys_file\n"
          "names; max_concurrent=N and tokens_per_minute=N may follow on it.\n",
          stderr);
    return EXIT_SUCCESS;
}
