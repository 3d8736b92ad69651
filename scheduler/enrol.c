/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys, signatures and tokens of the coordinator; see enrol.h. Neighbours: shell.c, which carries
 * what is made here into the core and its answers out, and common/pki.h, which does the
 * cryptography. It must not decide who gets what.
 */
#include "scheduler/enrol.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "accel/v1/trust.pb-c.h"
#include "common/clock.h"
#include "common/path.h"
#include "common/token.h"

struct enrol {
    const struct remote_ops *remote;
    const struct pki_ops *pki;
    char dir[PATH_MAX];
    char *ca_key, *ca, *server_key, *server;
    int64_t renew_ms, certificate_ms;
    char **addresses;
    size_t address_count;
};

/* --- files --- */

static int file_path(const struct enrol *e, const char *name, char *path, size_t size,
                     struct accel_error *err)
{
    if ((size_t)snprintf(path, size, "%s/%s", e->dir, name) >= size)
        return error_set(err, ACCEL_EINVAL, "%s: the path is too long", e->dir);
    return 0;
}

static int read_pem(const struct enrol *e, const char *name, char **ret_pem,
                    struct accel_error *err)
{
    char path[PATH_MAX];
    size_t len;
    int r = file_path(e, name, path, sizeof(path), err);

    if (r == 0)
        r = path_read_all(AT_FDCWD, path, PKI_PEM_BYTES, ret_pem, &len, err);
    return r == 0 && strstr(name, ".key") ? path_check_secret(path, err) : r;
}

static int write_pem(const struct enrol *e, const char *name, const char *pem,
                     struct accel_error *err)
{
    char path[PATH_MAX];
    int r = file_path(e, name, path, sizeof(path), err);

    return r < 0 ? r : path_write_atomic(AT_FDCWD, path, pem, strlen(pem), 0600, true, err);
}

static int broken(const struct enrol *e, const char *what, struct accel_error *err)
{
    return error_set(err, ACCEL_ECORRUPT,
                     "%s in %s\nwhy: every certificate of the cluster hangs on it\ntry: put the"
                     " files back from a backup; without them, remove the directory, and enrol"
                     " every node and user again",
                     what, e->dir);
}

/* --- the CA --- */

static int make_ca(struct enrol *e, struct accel_error *err)
{
    int r = e->pki->make_ca(clock_wall_ms(), &e->ca_key, &e->ca, err);

    if (r == 0)
        r = write_pem(e, "ca.key", e->ca_key, err);
    if (r == 0)
        r = write_pem(e, "ca.pem", e->ca, err);
    return r;
}

static int open_ca(struct enrol *e, struct accel_error *err)
{
    struct accel_error why = {0};
    int key = read_pem(e, "ca.key", &e->ca_key, &why);
    int cert = read_pem(e, "ca.pem", &e->ca, &why);

    if (key == ACCEL_ENOENT && cert == ACCEL_ENOENT)
        return make_ca(e, err);
    if (key == ACCEL_ENOENT || cert == ACCEL_ENOENT)
        return broken(e, key < 0 ? "ca.key is missing" : "ca.pem is missing", err);
    if (key < 0 || cert < 0) {
        *err = why;
        return why.code;
    }
    return e->pki->match(e->ca_key, e->ca, NULL) < 0
               ? broken(e, "ca.key and ca.pem do not belong together", err)
               : 0;
}

/* --- our own certificate --- */

static void set_renewal(struct enrol *e, const struct pki_cert *cert)
{
    e->renew_ms = pki_renew_ms(cert);
}

int enrol_renew(struct enrol *e, struct accel_error *err)
{
    AUTO_FREE char *key = NULL, *csr = NULL, *pem = NULL;
    struct pki_cert cert;
    int r = e->pki->make_key(PKI_COORDINATOR_NAME, &key, &csr, err);

    if (r == 0)
        r = e->pki->sign(e->ca_key, e->ca, csr, PKI_COORDINATOR, PKI_COORDINATOR_NAME,
                         clock_wall_ms(), LIMIT_CERTIFICATE_MS, &pem, &cert, err);
    if (r == 0)
        r = write_pem(e, "server.key", key, err);
    if (r == 0)
        r = write_pem(e, "server.pem", pem, err);
    if (r < 0)
        return r;
    free(e->server_key);
    free(e->server);
    e->server_key = STEAL_PTR(key);
    e->server = STEAL_PTR(pem);
    set_renewal(e, &cert);
    return 0;
}

/* One that is missing, old or of another CA is made anew: nobody else has it. */
static int open_server(struct enrol *e, struct accel_error *err)
{
    struct pki_cert cert;
    int64_t now_ms = clock_wall_ms();

    if (read_pem(e, "server.key", &e->server_key, NULL) < 0 ||
        read_pem(e, "server.pem", &e->server, NULL) < 0 ||
        e->pki->match(e->server_key, e->server, NULL) < 0 ||
        e->pki->verify(e->ca, e->server, now_ms, NULL) < 0 ||
        e->pki->parse(e->server, &cert, NULL) < 0)
        return enrol_renew(e, err);
    set_renewal(e, &cert);
    return e->renew_ms <= now_ms ? enrol_renew(e, err) : 0;
}

struct remote_tls enrol_tls(const struct enrol *e)
{
    return (struct remote_tls){.ca_pem = e->ca, .cert_pem = e->server, .key_pem = e->server_key};
}

void enrol_seal_key(const struct enrol *e, uint8_t ret_key[PKI_HASH_BYTES])
{
    AUTO_STR struct str text = {0};

    str_init(&text);
    str_addf(&text, "accel seal of eras and epochs\n%s", e->ca_key);
    e->pki->sha256(text.data, text.len, ret_key);
    explicit_bzero(text.data, text.len);
}

int64_t enrol_renew_ms(const struct enrol *e)
{
    return e->renew_ms;
}

/* --- life --- */

int enrol_create(const struct enrol_config *config, struct enrol **ret_enrol,
                 struct accel_error *err)
{
    struct enrol *e = xcalloc(1, sizeof(*e));
    int r = 0;

    e->remote = config->remote;
    e->pki = config->remote->pki;
    e->certificate_ms = config->certificate_ms;
    e->address_count = config->address_count;
    e->addresses = xcalloc(config->address_count + 1, sizeof(char *));
    for (size_t i = 0; i < config->address_count; i++)
        e->addresses[i] = xstrdup(config->addresses[i]);
    if ((size_t)snprintf(e->dir, sizeof(e->dir), "%s/tls", config->state_dir) >= sizeof(e->dir))
        r = error_set(err, ACCEL_EINVAL, "%s: the path is too long", config->state_dir);
    if (r == 0)
        r = path_make_private(e->dir, err);
    if (r == 0)
        r = open_ca(e, err);
    if (r == 0)
        r = open_server(e, err);
    if (r < 0) {
        enrol_destroy(e);
        return r;
    }
    *ret_enrol = e;
    return 0;
}

void enrol_destroy(struct enrol *e)
{
    if (!e)
        return;
    for (size_t i = 0; i < e->address_count; i++)
        free(e->addresses[i]);
    free(e->addresses);
    free(e->ca_key);
    free(e->ca);
    free(e->server_key);
    free(e->server);
    free(e);
}

/* --- grants --- */

static int grant_certificate(struct enrol *e, struct enrol_grant *g, enum pki_kind kind,
                             const char *name, const char *csr_pem, struct accel_error *err)
{
    int r = e->pki->sign(e->ca_key, e->ca, csr_pem, kind, name, clock_wall_ms(), e->certificate_ms,
                         &g->certificate_pem, &g->certificate, err);

    if (r < 0)
        return r;
    g->grant.certificate_pem = g->certificate_pem;
    g->grant.ca_pem = e->ca;
    g->grant.serial = g->certificate.serial;
    g->grant.not_after_ms = g->certificate.end_ms;
    return 0;
}

static int grant_token(struct enrol *e, struct enrol_grant *g, uint64_t life_ms,
                       struct accel_error *err)
{
    Accel__V1__EnrolToken token = ACCEL__V1__ENROL_TOKEN__INIT;
    uint8_t secret[TOKEN_SECRET_BYTES];

    if (life_ms > LIMIT_TOKEN_MAX_MS)
        return error_set(err, ACCEL_EINVAL, "a token lives for %u days at most",
                         (unsigned)(LIMIT_TOKEN_MAX_MS / (24 * 3600 * 1000)));
    int r = e->pki->random(secret, sizeof(secret), err);
    if (r < 0)
        return r;
    token.ca_pem = e->ca;
    token.addresses = e->addresses;
    token.n_addresses = e->address_count;
    token.secret = (ProtobufCBinaryData){sizeof(secret), secret};
    size_t len = accel__v1__enrol_token__get_packed_size(&token);
    AUTO_FREE uint8_t *packed = xcalloc(1, len);
    accel__v1__enrol_token__pack(&token, packed);
    str_init(&g->token);
    token_encode(packed, len, &g->token);
    e->pki->sha256(secret, sizeof(secret), g->hash);
    explicit_bzero(secret, sizeof(secret));
    explicit_bzero(packed, len);
    g->grant.token = g->token.data;
    g->grant.not_after_ms =
        clock_wall_ms() + (life_ms ? (int64_t)life_ms : (int64_t)LIMIT_TOKEN_MS);
    return 0;
}

static int grant_node(struct enrol *e, const struct coord *core, struct enrol_grant *g,
                      const Accel__V1__EnrollRequest *rq, struct accel_error *err)
{
    e->pki->sha256(rq->secret.len ? rq->secret.data : (const uint8_t *)"", rq->secret.len, g->hash);
    if (!coord_may_enroll(core, g->hash, clock_wall_ms()))
        return 0; /* the core says why, and counts it */
    return grant_certificate(e, g, PKI_NODE, rq->node, rq->csr_pem, err);
}

int enrol_grant(struct enrol *e, const struct coord *core, const struct rpc_event *ev,
                struct enrol_grant *ret_grant, struct accel_error *err)
{
    struct enrol_grant *g = ret_grant;
    const Accel__V1__SignUserRequest *user = (const Accel__V1__SignUserRequest *)ev->msg;
    int r = 0;

    *g = (struct enrol_grant){.grant = {.addresses = (const char *const *)e->addresses,
                                        .address_count = e->address_count}};
    g->grant.hash = g->hash;
    switch (ev->method->id) {
    case COORD_ENROLL:
        r = grant_node(e, core, g, (const Accel__V1__EnrollRequest *)ev->msg, err);
        break;
    case COORD_RENEW:
        if (ev->who->serial[0]) /* else the core refuses */
            r = grant_certificate(e, g, ev->who->role == RPC_ROLE_NODE ? PKI_NODE : PKI_USER,
                                  ev->who->user,
                                  ((const Accel__V1__RenewRequest *)ev->msg)->csr_pem, err);
        break;
    case COORD_CREATE_TOKEN:
        r = grant_token(e, g, ((const Accel__V1__CreateNodeTokenRequest *)ev->msg)->life_ms, err);
        break;
    case COORD_SIGN_USER:
        r = grant_certificate(e, g, PKI_USER, user->name, user->csr_pem, err);
        break;
    default: CHECK(!"a method with a grant");
    }
    return r;
}

void enrol_grant_done(struct enrol_grant *g)
{
    if (g->token.data)
        explicit_bzero(g->token.data, g->token.len);
    str_done(&g->token);
    free(g->certificate_pem);
    *g = (struct enrol_grant){0};
}

/* --- who a holder is --- */

int enrol_identify(const struct coord *core, const struct remote_peer *peer,
                   struct rpc_identity *ret_who, struct accel_error *err)
{
    enum pki_kind kind = !strcmp(peer->kind, "node") ? PKI_NODE : PKI_USER;

    ret_who->uid = ret_who->gid = UINT32_MAX;
    if (!peer->has_certificate)
        return 0; /* RPC_ROLE_NONE */
    if (kind == PKI_USER && strcmp(peer->kind, "user"))
        return error_set(err, ACCEL_EPERM, "the certificate names neither a node nor a user");
    return coord_identify(core, kind, peer->name, peer->serial, clock_wall_ms(), ret_who, err);
}
