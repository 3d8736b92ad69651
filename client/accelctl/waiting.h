/* SPDX-License-Identifier: Apache-2.0 */
/*
 * waiting.h - waiting for jobs without their output, for `wait` and `submit --wait`.
 */
#ifndef ACCEL_CLIENT_WAITING_H
#define ACCEL_CLIENT_WAITING_H

#include "client/accelctl/session.h"

/* Waits for every job (until it runs, with --for=running; at most --timeout) and returns the
 * exit code, after the report of what went wrong on stderr. python: for the report, or NULL. */
int wait_for_jobs(struct cli *cli, struct session *session, const uint64_t *ids, size_t count,
                  const char *python);

#endif
