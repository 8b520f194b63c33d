#include "server/http_tls.h"

#include <gnutls/x509.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/log.h"
#include "server/small_file.h"

enum { MAX_FILE_BYTES = 1 << 20 };

struct tls_identity {
    int n_refs;
    gnutls_certificate_credentials_t credentials;
};

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* A chain and its key while they are read. */
struct pair {
    gnutls_x509_crt_t *chain;
    unsigned n_chain;
    gnutls_x509_privkey_t key;
};

static int read_chain(struct pair *pair, const char *path, struct l4_err *err) {
    struct l4_buf text = {0};
    int rc = small_file_read(path, MAX_FILE_BYTES, &text, NULL, err);
    if (rc == 0) {
        gnutls_datum_t pem = {(unsigned char *)text.data, (unsigned)text.len};
        int why = gnutls_x509_crt_list_import2(&pair->chain, &pair->n_chain, &pem, GNUTLS_X509_FMT_PEM, 0);
        if (why < 0 || pair->n_chain == 0)
            rc = l4_err_set(err, L4_E_INVALID, "%s: no certificates in PEM form: %s", path, gnutls_strerror(why));
        else if (gnutls_x509_crt_get_expiration_time(pair->chain[0]) < time(NULL))
            log_event(L4_LOG_WARN, NULL, "%s: the certificate has expired", path);
    }
    l4_buf_free(&text);
    return rc;
}

static int read_key(struct pair *pair, const char *path, struct l4_err *err) {
    struct l4_buf text = {0};
    bool others = false;
    int rc = small_file_read(path, MAX_FILE_BYTES, &text, &others, err);
    if (rc == 0) {
        gnutls_datum_t pem = {(unsigned char *)text.data, (unsigned)text.len};
        int why = gnutls_x509_privkey_init(&pair->key);
        if (why == 0)
            why = gnutls_x509_privkey_import2(pair->key, &pem, GNUTLS_X509_FMT_PEM, NULL, 0);
        if (why < 0)
            rc = l4_err_set(err, L4_E_INVALID, "%s: no private key in PEM form without a password: %s", path,
                            gnutls_strerror(why));
        else if (others)
            log_event(L4_LOG_WARN, NULL, "%s can be read or changed by every user of this machine: chmod o-rw", path);
        explicit_bzero(text.data, text.len);
    }
    l4_buf_free(&text);
    return rc;
}

static void free_pair(struct pair *pair) {
    for (unsigned i = 0; i < pair->n_chain; i++)
        gnutls_x509_crt_deinit(pair->chain[i]);
    gnutls_free(pair->chain);
    gnutls_x509_privkey_deinit(pair->key);
}

int tls_open(struct tls_identity **out, const char *certificate_path, const char *key_path, struct l4_err *err) {
    struct pair pair = {0};
    struct tls_identity *identity = calloc(1, sizeof(*identity));
    if (identity == NULL || gnutls_certificate_allocate_credentials(&identity->credentials) != 0) {
        free(identity);
        return l4_err_set(err, L4_E_NOMEM, "%s: out of memory", certificate_path);
    }
    identity->n_refs = 1;
    int rc = read_chain(&pair, certificate_path, err);
    if (rc == 0)
        rc = read_key(&pair, key_path, err);
    if (rc == 0) {
        int why = gnutls_certificate_set_x509_key(identity->credentials, pair.chain, (int)pair.n_chain, pair.key);
        if (why == GNUTLS_E_CERTIFICATE_KEY_MISMATCH)
            rc = l4_err_set(err, L4_E_INVALID, "%s: is not the key of the first certificate in %s", key_path,
                            certificate_path);
        else if (why < 0)
            rc = l4_err_set(err, L4_E_INVALID, "%s: %s", certificate_path, gnutls_strerror(why));
    }
    free_pair(&pair);
    if (rc == 0)
        *out = identity;
    else
        tls_unref(identity);
    return rc;
}

struct tls_identity *tls_ref(struct tls_identity *identity) {
    identity->n_refs++;
    return identity;
}

void tls_unref(struct tls_identity *identity) {
    if (identity == NULL || --identity->n_refs > 0)
        return;
    gnutls_certificate_free_credentials(identity->credentials);
    free(identity);
}

/* ---- sessions ---------------------------------------------------------------------------------------------------- */

int tls_begin(gnutls_session_t session, struct tls_identity *identity, gnutls_handshake_hook_func on_finished,
              void *user, struct l4_err *err) {
    int rc = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, identity->credentials);
    if (rc < 0)
        return l4_err_set(err, L4_E_INTERNAL, "TLS: %s", gnutls_strerror(rc));
    gnutls_db_set_ptr(session, user); /* no sessions are kept: the pointer is free, the other one is libmicrohttpd's */
    gnutls_handshake_set_hook_function(session, GNUTLS_HANDSHAKE_FINISHED, GNUTLS_HOOK_POST, on_finished);
    return 0;
}

bool tls_send(gnutls_session_t session, const char *bytes, size_t len_bytes) {
    while (len_bytes > 0) {
        ssize_t n = gnutls_record_send(session, bytes, len_bytes);
        if (n <= 0)
            return false;
        bytes += n;
        len_bytes -= (size_t)n;
    }
    return gnutls_bye(session, GNUTLS_SHUT_WR) == 0;
}

int tls_no_certificate(gnutls_session_t session, const gnutls_datum_t *ca_names, int n_ca_names,
                       const gnutls_pk_algorithm_t *algorithms, int n_algorithms, gnutls_pcert_st **certificates,
                       unsigned *n_certificates, gnutls_privkey_t *key) {
    (void)session, (void)ca_names, (void)n_ca_names, (void)algorithms, (void)n_algorithms;
    (void)certificates, (void)n_certificates, (void)key;
    return -1;
}
