/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock.h - one coordinator per state directory. DIR/lock is held by flock for the process' life and
 * says who holds it.
 */
#ifndef ACCEL_SCHEDULER_LOCK_H
#define ACCEL_SCHEDULER_LOCK_H

#include "common/error.h"

/* Takes DIR/lock. A holder that still serves its socket is refused at once (ACCEL_EBUSY); one that
 * is just ending or has only begun is waited for, at most LIMIT_DAEMON_START_MS. Blocking; called
 * before the loop. */
int state_lock(const char *dir, const char *socket_path, int *ret_fd, struct accel_error *err);
/* From here on the socket answers; tells those who wait in state_lock(). */
void state_lock_serves(int fd, const char *socket_path);

#endif
