/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_grpc_world.h - a server of the module that goes remote on a loopback port, certificates of a
 * CA of the test, and channels. test_rpc_grpc.c has the contract of every transport, and
 * test_rpc_grpc_peers.c what goes wrong between machines.
 */
#ifndef ACCEL_TESTS_UNIT_RPC_GRPC_WORLD_H
#define ACCEL_TESTS_UNIT_RPC_GRPC_WORLD_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>

#include "common/clock.h"
#include "common/pki.h"
#include "common/remote.h"
#include "rpc_world.h"

#define DAY_MS (24ll * 3600 * 1000)

/* Made once per program: keys cost milliseconds. */
struct cert {
    char *key, *pem;
    struct pki_cert is;
};
static struct {
    const struct remote_ops *ops;
    char *ca, *ca_key;
    struct cert server, user, node;
} r;

/* What identify() is told to do, and what it saw. */
static struct {
    struct remote_peer peer;
    unsigned identified, refused;
    uint16_t port; /* of the server, also after it has gone */
    char revoked[41];
} seen;

static inline void make_cert(const char *ca_key, const char *ca, enum pki_kind kind,
                             const char *name, int64_t begin_ms, int64_t life_ms, struct cert *ret)
{
    struct accel_error err;
    AUTO_FREE char *csr = NULL;
    assert_int_equal(r.ops->pki->make_key(name, &ret->key, &csr, &err), 0);
    assert_int_equal(
        r.ops->pki->sign(ca_key, ca, csr, kind, name, begin_ms, life_ms, &ret->pem, &ret->is, &err),
        0);
}

static inline void cert_done(struct cert *c)
{
    free(c->key);
    free(c->pem);
}

static inline int group_setup(void **state)
{
    (void)state;
    struct accel_error err = {0};
    int64_t now_ms = clock_wall_ms();
    if (remote_load(&r.ops, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    assert_int_equal(r.ops->pki->make_ca(now_ms - 20 * DAY_MS, &r.ca_key, &r.ca, &err), 0);
    make_cert(r.ca_key, r.ca, PKI_COORDINATOR, PKI_COORDINATOR_NAME, now_ms, DAY_MS, &r.server);
    make_cert(r.ca_key, r.ca, PKI_USER, "ada", now_ms, DAY_MS, &r.user);
    make_cert(r.ca_key, r.ca, PKI_NODE, "n1", now_ms, DAY_MS, &r.node);
    return 0;
}

static inline int group_teardown(void **state)
{
    (void)state;
    cert_done(&r.server);
    cert_done(&r.user);
    cert_done(&r.node);
    free(r.ca);
    free(r.ca_key);
    return 0;
}

/* Users are admins of this host here, so that they may call every method of the world. */
static inline int on_identify(void *ctx, const struct remote_peer *peer,
                              struct rpc_identity *ret_who, struct accel_error *err)
{
    (void)ctx;
    seen.peer = *peer;
    seen.identified++;
    if (peer->has_certificate && strcmp(peer->serial, seen.revoked) == 0)
        return error_set(err, ACCEL_EPERM, "the certificate of %s was revoked", peer->name);
    if (strcmp(peer->kind, "user") == 0) {
        ret_who->role = RPC_ROLE_ADMIN;
        ret_who->is_local = true;
    }
    snprintf(ret_who->user, sizeof(ret_who->user), "%s", peer->name);
    return 0;
}

static inline void on_refused(void *ctx, const char *text)
{
    (void)ctx;
    assert_true(text[0]);
    seen.refused++;
}

static inline struct remote_server_config server_config(void)
{
    return (struct remote_server_config){
        .host = "127.0.0.1",
        .tls = {r.ca, r.server.pem, r.server.key},
        .service = &service,
        .tag = 1,
        .identify = on_identify,
        .on_refused = on_refused,
    };
}

static inline int setup(void **state)
{
    (void)state;
    struct accel_error err;
    struct remote_server_config config = server_config();
    world_init();
    memset(&seen, 0, sizeof(seen));
    assert_int_equal(r.ops->server_create(&w.loop, &config, &w.server, &err), 0);
    seen.port = r.ops->server_port(w.server);
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    world_done();
    return 0;
}

static inline struct remote_channel_config channel_config(struct client *c, const struct cert *cert)
{
    struct remote_channel_config config = {
        .host = "127.0.0.1",
        .port = seen.port,
        .tls = {.ca_pem = r.ca},
        .on_lost = on_lost,
        .ctx = c,
    };
    if (cert) {
        config.tls.cert_pem = cert->pem;
        config.tls.key_pem = cert->key;
    }
    return config;
}

static inline void client_create(struct client *c, const struct remote_channel_config *config)
{
    struct accel_error err;
    memset(c, 0, sizeof(*c));
    assert_int_equal(r.ops->channel_create(&w.loop, config, &c->ch, &err), 0);
}

static inline void client_open(struct client *c, const struct cert *cert)
{
    struct remote_channel_config config = channel_config(c, cert);
    client_create(c, &config);
}

/* A plain socket to the server. */
static inline int raw_connect(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(seen.port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
