/* SPDX-License-Identifier: Apache-2.0 */
/*
 * user.h - what acceld does as root before it becomes its own user (--user). Blocking, before the
 * loop; with a zeroed user each function does what needs no root.
 */
#ifndef ACCEL_AGENTD_USER_H
#define ACCEL_AGENTD_USER_H

#include "agentd/identity_lookup.h"
#include "agentd/state.h"

struct acceld_user {
    bool is_given; /* --user; false: everything runs as who we are */
    struct identity_account account;
};
/* Who that is; prepares the state directory for it. ACCEL_EPERM: we are not root, or it is root. */
int acceld_user_find(struct acceld_user *u, const char *name, const char *state_dir,
                     struct accel_error *err);
/* state_open() with the user's rights, so that it can go on with the files. */
int acceld_user_state(const struct acceld_user *u, struct state *s, const char *dir,
                      struct accel_error *err);
int acceld_user_become(const struct acceld_user *u, struct accel_error *err); /* for good */

#endif
