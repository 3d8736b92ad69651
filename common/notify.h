/* SPDX-License-Identifier: Apache-2.0 */
/*
 * notify.h - tells the service manager how the daemon is: the protocol of sd_notify(3), written
 * here because libsystemd is a large library for one datagram. Without NOTIFY_SOCKET in the
 * environment everything here does nothing. Loop's thread; never blocks; a manager that does not
 * take the datagram is not waited for.
 */
#ifndef ACCEL_COMMON_NOTIFY_H
#define ACCEL_COMMON_NOTIFY_H

#include <uv.h>

#include "common/base.h"

/* Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment, so that no child has
 * them. Before any thread and any child. */
void notify_init(void);
/* READY=1. With a watchdog the loop pets it at half its time from now on: one that hangs is
 * restarted. */
void notify_ready(uv_loop_t *loop);
void notify_reloading(void);                                /* then notify_ready() again */
void notify_stopping(void);                                 /* also closes the watchdog's timer */
void notify_status(const char *fmt, ...) PRINTF_LIKE(1, 2); /* one line for people */
/* Of a start that goes on: it may take `ms` more from now, however little the manager gives it. */
void notify_extend(unsigned ms);

#endif
