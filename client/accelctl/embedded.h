/* SPDX-License-Identifier: Apache-2.0 */
/*
 * embedded.h - the embedded default: with no coordinator configured, the user's own coordinator and
 * node daemon are started when nobody answers on the user's socket. Any number of commands at once
 * start one pair. Blocking; one thread.
 *
 * Settings: $XDG_RUNTIME_DIR and $XDG_STATE_HOME (common/path.h), $ACCEL_IDLE_EXIT (seconds,
 * default 60), $ACCEL_DEVICES (given to acceld as --devices).
 */
#ifndef ACCEL_CLIENT_EMBEDDED_H
#define ACCEL_CLIENT_EMBEDDED_H

#include "common/error.h"

/* Connects to the user's own coordinator, starting it and acceld if nobody answers. *ret_path
 * (PATH_MAX bytes) is the socket. */
int embedded_connect(char *ret_path, int *ret_fd, struct accel_error *err);

/* A daemon on its way. */
struct embedded_start {
    int ready_fd; /* one byte: it is ready; end of file: it has died; -1: none */
    int lock_fd;  /* start.lock; released by embedded_start_done */
    char log_path[4096 + 32];
    long log_offset; /* where its log began */
};
/* Starts acceld for the coordinator at socket_path. 0 and a ready_fd to wait for; ACCEL_EBUSY if
 * somebody else is starting one (nothing to wait for). */
int embedded_start_agent(const char *socket_path, struct embedded_start *ret_start,
                         struct accel_error *err);
/* Reads ready_fd, which is readable (or blocks). 0: ready, or another acceld is there already;
 * else why it died. */
int embedded_start_result(struct embedded_start *start, struct accel_error *err);
/* Waits for it first, at most LIMIT_DAEMON_START_MS. */
int embedded_start_wait(struct embedded_start *start, struct accel_error *err);
void embedded_start_done(struct embedded_start *start);

#endif
