/* SPDX-License-Identifier: Apache-2.0 */
/*
 * names.h - users of other machines as this host's name service knows them: uid and gid by name,
 * kept for a minute. The name service (files, LDAP, ...) may hang, so it is asked on threads of
 * their own. The loop's thread; nothing blocks.
 */
#ifndef ACCEL_SCHEDULER_NAMES_H
#define ACCEL_SCHEDULER_NAMES_H

#include <uv.h>

#include "common/base.h"

struct names; /* opaque */

/* on_news is called from the loop when a names_get() that was false may be true now. */
struct names *names_create(uv_loop_t *loop, void (*on_news)(void *ctx), void *ctx);
/* True: what is known; UINT32_MAX: nobody of that name, or no answer within 2 s. False:
 * it is being asked. */
bool names_get(struct names *n, const char *name, uint32_t *ret_uid, uint32_t *ret_gid);
/* Freed by the loop; accepts NULL. A thread that hangs is left behind. */
void names_destroy(struct names *n);

#endif
