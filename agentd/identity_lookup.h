/* SPDX-License-Identifier: Apache-2.0 */
/*
 * identity_lookup.h - user names to numbers by the name service (files, LDAP, ...), which may hang:
 * on threads of libuv, with a deadline, and never more than IDENTITY_LOOKUPS at once so that a dead
 * server does not take all threads.
 */
#ifndef ACCEL_AGENTD_IDENTITY_LOOKUP_H
#define ACCEL_AGENTD_IDENTITY_LOOKUP_H

#include <sys/types.h>
#include <uv.h>

#include "agentd/identity.h"
#include "common/error.h"

struct identity_account {
    uid_t uid;
    gid_t gid;
    char *home;
    gid_t *groups; /* without gid */
    size_t group_count;
};

/* Blocks for as long as the name service does. ACCEL_ENOENT: no such user here; ACCEL_EIO. The
 * account is freed with identity_account_done. */
int identity_lookup_now(const char *user, struct identity_account *ret_account,
                        struct accel_error *err);
void identity_account_done(struct identity_account *a);

struct identity_lookups;
struct identity_lookups *identity_lookups_create(uv_loop_t *loop);
/* done is called once from the loop, never from inside: with the account (borrowed), or NULL and
 * err (also ACCEL_ETIME when the name service does not answer). */
void identity_lookup(struct identity_lookups *l, const char *user,
                     void (*done)(void *ctx, const struct identity_account *a,
                                  const struct accel_error *err),
                     void *ctx);
/* Calls no done() any more. Lookups that hang keep their memory. on_closed when handles are. */
void identity_lookups_destroy(struct identity_lookups *l, void (*on_closed)(void *), void *ctx);

#endif
