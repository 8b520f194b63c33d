/* TLS for connections that libmicrohttpd accepts: it makes a GnuTLS session for each, shakes hands and moves the bytes;
 * which certificate a session shows is said here.  A session keeps the one that was in use when its connection came,
 * so that a new one can take over at any time.  Thread: the loop's. */
#ifndef SERVER_HTTP_TLS_H
#define SERVER_HTTP_TLS_H

#include <gnutls/abstract.h>
#include <stdbool.h>

#include "llama4/error.h"

/* A certificate with its key, counted. */
struct tls_identity;

/* tls_open - from two PEM files: the certificate, followed by those that it needs up to the root, and its key.  Warns
 * of a certificate that has expired and of a key that everybody may read.
 *   Errors: L4_E_IO, L4_E_INVALID (both name the file), L4_E_NOMEM. */
int tls_open(struct tls_identity **out, const char *certificate_path, const char *key_path,
             struct l4_err *err) L4_MUST_CHECK;
struct tls_identity *tls_ref(struct tls_identity *identity);
void tls_unref(struct tls_identity *identity); /* NULL is allowed */

/* tls_begin - a session that has not begun its handshake shows this identity, which must live as long as the session.
 * on_finished is called with the client's last message of the handshake; there gnutls_db_get_ptr(session) is user.
 *   Errors: L4_E_INTERNAL. */
int tls_begin(gnutls_session_t session, struct tls_identity *identity, gnutls_handshake_hook_func on_finished,
              void *user, struct l4_err *err) L4_MUST_CHECK;

/* tls_send - all of a short answer past libmicrohttpd, and the end of what this side has to say.  False: the client
 * did not take it, or has not shaken hands. */
bool tls_send(gnutls_session_t session, const char *bytes, size_t len_bytes);

/* What libmicrohttpd wants to see of a server that has a certificate for each session.  Whoever gets here has none. */
int tls_no_certificate(gnutls_session_t session, const gnutls_datum_t *ca_names, int n_ca_names,
                       const gnutls_pk_algorithm_t *algorithms, int n_algorithms, gnutls_pcert_st **certificates,
                       unsigned *n_certificates, gnutls_privkey_t *key);

#endif
