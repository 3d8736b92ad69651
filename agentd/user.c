/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From root to acceld's own user. Neighbours: main.c, identity.c. Nothing of the network is open
 * yet when this runs.
 */
#include "agentd/user.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int acceld_user_find(struct acceld_user *u, const char *name, const char *state_dir,
                     struct accel_error *err)
{
    if (geteuid() != 0)
        return error_set(err, ACCEL_EPERM,
                         "--user %s: only root can run jobs as their own users\n"
                         "try: start acceld as root, or without --user for your own jobs",
                         name);
    int r = identity_lookup_now(name, &u->account, err);
    if (r < 0)
        return r;
    if (u->account.uid == 0 || u->account.gid == 0)
        return error_set(err, ACCEL_EPERM, "--user %s: it must be neither root nor of its group",
                         name);
    u->is_given = true;
    return state_prepare_shared(state_dir, u->account.uid, u->account.gid, err);
}

int acceld_user_state(const struct acceld_user *u, struct state *s, const char *dir,
                      struct accel_error *err)
{
    if (!u->is_given)
        return state_open(s, dir, false, err);
    if (setegid(u->account.gid) < 0 || seteuid(u->account.uid) < 0)
        return error_sys(err, errno, "cannot take on user id %u", (unsigned)u->account.uid);
    int r = state_open(s, dir, true, err);
    CHECK(seteuid(0) == 0 && setegid(0) == 0);
    return r;
}

int acceld_user_become(const struct acceld_user *u, struct accel_error *err)
{
    if (!u->is_given)
        return 0;
    const struct identity id = {.is_switched = true,
                                .uid = u->account.uid,
                                .gid = u->account.gid,
                                .groups = u->account.groups,
                                .group_count = u->account.group_count};
    int r = identity_switch(&id);
    if (r < 0)
        return error_sys(err, -r, "cannot become user id %u", (unsigned)id.uid);
    /* Else /proc/self/fd would be root's, and sockets of attempts are found through it. */
    prctl(PR_SET_DUMPABLE, 1);
    return 0;
}
