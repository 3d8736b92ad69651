/* SPDX-License-Identifier: Apache-2.0 */
/*
 * identity.h - who a job runs as on this node. acceld asks the name service (identity_lookup.h) and
 * accel-spawn, which is static and so has none, checks the answer by rules of its own: it is the
 * side with the rights, and does not trust blindly. Single-threaded; reads /etc/passwd and
 * /etc/group.
 */
#ifndef ACCEL_AGENTD_IDENTITY_H
#define ACCEL_AGENTD_IDENTITY_H

#include <sys/types.h>

#include "accel/v1/shim.pb-c.h"
#include "common/error.h"

#define IDENTITY_MIN_UID                                                                           \
    1000u /* login.defs of most distributions: below are the system's users                        \
           */
#define IDENTITY_GROUPS_MAX 1024u /* supplementary groups of a user; more are refused */

/* Which jobs accel-spawn starts. */
struct identity_rules {
    bool is_switching; /* false: all run as accel-spawn itself, and no other uid is served */
    uid_t min_uid;     /* lower ones are refused, and groups below need proof */
    uid_t agent_uid;   /* acceld's: owns nothing of a job but may read and write its files */
    gid_t agent_gid;
};

/* What a shim becomes. */
struct identity {
    bool is_switched; /* false: nothing below is used */
    uid_t uid;
    gid_t gid;
    gid_t *groups; /* freed by identity_done */
    size_t group_count;
    size_t dropped; /* groups asked for and not given */
};

/* Whether the job may run, and as what. Never uid or gid 0, never acceld's own, never below
 * min_uid. A group below min_uid is given only if /etc/passwd has it as the user's own or
 * /etc/group names the user; others are left out (dropped), of supplementary ones. ACCEL_EPERM,
 * err->sys EPERM. */
int identity_check(const struct identity_rules *rules, const Accel__V1__AttemptSpec *spec,
                   struct identity *ret_identity, struct accel_error *err);
void identity_done(struct identity *id);
/* This process becomes the user, for good: groups, gid, uid, all capabilities gone. -errno. */
int identity_switch(const struct identity *id);

#endif
