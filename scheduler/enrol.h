/* SPDX-License-Identifier: Apache-2.0 */
/*
 * enrol.h - the coordinator's keys and signatures: the CA and the certificate of its own server in
 * STATE/tls/{ca.key,ca.pem,server.key,server.pem} (0600, made at first use), tokens, certificates
 * for nodes and users, and who a certificate's holder is. Whether any of it counts is the core's
 * decision. The loop's thread; signing blocks for tenths of a millisecond, opening on the disk.
 */
#ifndef ACCEL_SCHEDULER_ENROL_H
#define ACCEL_SCHEDULER_ENROL_H

#include "common/pki.h"
#include "common/remote.h"
#include "common/str.h"
#include "scheduler/coord.h"

struct enrol; /* opaque */

struct enrol_config {
    const struct remote_ops *remote;
    const char *state_dir;
    /* "tcp:HOST:PORT", where other machines find us: they go into tokens; copied */
    const char *const *addresses;
    size_t address_count;
    int64_t certificate_ms; /* life of those of nodes and users: LIMIT_CERTIFICATE_MS */
};
/* ACCEL_ECORRUPT: a key or certificate cannot be read, or one of two is missing; nothing was
 * written over it. */
int enrol_create(const struct enrol_config *config, struct enrol **ret_enrol,
                 struct accel_error *err);
void enrol_destroy(struct enrol *e); /* accepts NULL */

/* What the server shows; borrowed until the next enrol_renew(). */
struct remote_tls enrol_tls(const struct enrol *e);
/* When the server's own certificate is to be made anew (wall clock), and making it. */
int64_t enrol_renew_ms(const struct enrol *e);
int enrol_renew(struct enrol *e, struct accel_error *err);

/* A secret that hangs on the CA's key and on nothing else: see coord_set_seal_key(). */
void enrol_seal_key(const struct enrol *e, uint8_t ret_key[PKI_HASH_BYTES]);

/* What a call of Trust (RPC_OPEN) needs. ACCEL_EINVAL: a bad request or name. */
struct enrol_grant {
    struct coord_grant grant; /* points into the rest */
    uint8_t hash[PKI_HASH_BYTES];
    char *certificate_pem;
    struct pki_cert certificate;
    struct str token;
};
int enrol_grant(struct enrol *e, const struct coord *core, const struct rpc_event *ev,
                struct enrol_grant *ret_grant, struct accel_error *err);
void enrol_grant_done(struct enrol_grant *g); /* accepts one that is all zero */

/* For struct remote_server_config: no certificate gives RPC_ROLE_NONE; uid and gid are UINT32_MAX
 * (names.h knows them). ACCEL_EPERM. */
int enrol_identify(const struct coord *core, const struct remote_peer *peer,
                   struct rpc_identity *ret_who, struct accel_error *err);

#endif
