/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS of the module: credentials from PEM texts, their change while the server runs, and who is at
 * the other end of a call. Neighbours: pki.c, which reads certificates. Nothing here decides who
 * may do what.
 */
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/pki.h"
#include "common/rpc_grpc_internal.h"
#include "common/str.h"

struct wire_tls {
    pthread_mutex_t lock; /* handshakes ask on gRPC's threads */
    char *ca_pem, *cert_pem, *key_pem;
    unsigned version, told; /* told: what the last handshake was given */
};

/* Each connection when it is made, whoever makes it: gRPC has no word for this, and thousands of
 * agents are idle most of the time. Without records on the way it keeps no buffers for them (34
 * kB), and it gives out no tickets, which nobody here would redeem. */
static void on_ssl_new(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    (void)ptr, (void)ad, (void)idx, (void)argl, (void)argp;
    SSL_set_mode(parent, SSL_MODE_RELEASE_BUFFERS);
    SSL_set_num_tickets(parent, 0);
}

void wire_tls_prepare(void)
{
    CHECK(SSL_get_ex_new_index(0, NULL, on_ssl_new, NULL, NULL) >= 0);
}

int wire_tls_check(const struct remote_tls *tls, bool is_server, struct accel_error *err)
{
    struct pki_cert cert;
    if (!tls->ca_pem || !tls->ca_pem[0])
        return error_set(err, ACCEL_EINVAL, "the certificate of the authority is missing");
    if (!tls->cert_pem && !tls->key_pem && !is_server)
        return 0;
    if (!tls->cert_pem || !tls->key_pem)
        return error_set(err, ACCEL_EINVAL, "a certificate and its key are needed");
    int r = pki_ops.parse(tls->cert_pem, &cert, err);
    if (r < 0)
        return error_wrap(err, r, "the certificate cannot be used");
    r = pki_ops.match(tls->key_pem, tls->cert_pem, err);
    return r < 0 ? error_wrap(err, r, "the key cannot be used") : 0;
}

int wire_tls_set(struct wire_tls *t, const struct remote_tls *tls, struct accel_error *err)
{
    int r = wire_tls_check(tls, true, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&t->lock);
    free(t->ca_pem);
    free(t->cert_pem);
    free(t->key_pem);
    t->ca_pem = xstrdup(tls->ca_pem);
    t->cert_pem = xstrdup(tls->cert_pem);
    t->key_pem = xstrdup(tls->key_pem);
    t->version++;
    pthread_mutex_unlock(&t->lock);
    return 0;
}

int wire_tls_create(const struct remote_tls *tls, struct wire_tls **ret_tls,
                    struct accel_error *err)
{
    struct wire_tls *t = xcalloc(1, sizeof(*t));
    CHECK(pthread_mutex_init(&t->lock, NULL) == 0);
    int r = wire_tls_set(t, tls, err);
    if (r < 0) {
        wire_tls_destroy(t);
        return r;
    }
    *ret_tls = t;
    return 0;
}

void wire_tls_destroy(struct wire_tls *t)
{
    if (!t)
        return;
    pthread_mutex_destroy(&t->lock);
    free(t->ca_pem);
    free(t->cert_pem);
    if (t->key_pem)
        explicit_bzero(t->key_pem, strlen(t->key_pem));
    free(t->key_pem);
    free(t);
}

/* Before each handshake, on a thread of gRPC. */
static grpc_ssl_certificate_config_reload_status on_handshake(
    void *ctx, grpc_ssl_server_certificate_config **ret_config)
{
    struct wire_tls *t = ctx;
    grpc_ssl_certificate_config_reload_status status = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    pthread_mutex_lock(&t->lock);
    if (t->told != t->version) {
        grpc_ssl_pem_key_cert_pair pair = {t->key_pem, t->cert_pem};
        *ret_config = grpc_ssl_server_certificate_config_create(t->ca_pem, &pair, 1);
        t->told = t->version;
        status = *ret_config ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW
                             : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_FAIL;
    }
    pthread_mutex_unlock(&t->lock);
    return status;
}

/* A certificate is asked for and verified when given; what a caller without one may do is decided
 * by the roles. */
grpc_server_credentials *wire_tls_credentials(struct wire_tls *t)
{
    return grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY, on_handshake, t));
}

static const char *kind_name(enum pki_kind kind)
{
    switch (kind) {
    case PKI_NODE: return "node";
    case PKI_USER: return "user";
    case PKI_COORDINATOR: return "coordinator";
    }
    return "";
}

static void peer_certificate(const grpc_auth_context *auth, struct remote_peer *p)
{
    struct pki_cert cert;
    struct accel_error err;
    grpc_auth_property_iterator it =
        grpc_auth_context_find_properties_by_name(auth, GRPC_X509_PEM_CERT_PROPERTY_NAME);
    const grpc_auth_property *pem = grpc_auth_property_iterator_next(&it);
    if (!grpc_auth_context_peer_is_authenticated(auth) || !pem)
        return;
    AUTO_FREE char *text = xcalloc(1, pem->value_length + 1);
    memcpy(text, pem->value, pem->value_length);
    p->has_certificate = true;
    if (pki_ops.parse(text, &cert, &err) < 0)
        return; /* of our authority, but not as we make them: it names nobody */
    str_copy(p->serial, sizeof(p->serial), cert.serial);
    str_copy(p->kind, sizeof(p->kind), kind_name(cert.kind));
    str_copy(p->name, sizeof(p->name), cert.name);
    p->not_after_ms = cert.end_ms;
    p->has_expired = cert.end_ms < clock_wall_ms();
}

void wire_tls_peer(grpc_call *call, struct remote_peer *ret_peer)
{
    *ret_peer = (struct remote_peer){.has_certificate = false};
    char *address = grpc_call_get_peer(call);
    snprintf(ret_peer->address, sizeof(ret_peer->address), "%s", address ? address : "");
    gpr_free(address);
    grpc_auth_context *auth = grpc_call_auth_context(call);
    if (!auth)
        return;
    peer_certificate(auth, ret_peer);
    grpc_auth_context_release(auth);
}
