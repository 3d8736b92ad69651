/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_files.h - the calls of api_files.c, for the service table and the shell.
 */
#ifndef ACCEL_SCHEDULER_API_FILES_H
#define ACCEL_SCHEDULER_API_FILES_H

#include "common/rpc.h"
#include "scheduler/coord.h"

struct shell;
enum { API_FILES_STAT = COORD_METHOD_COUNT + 100, API_FILES_PUT };

void api_files_on_call(void *ctx, const struct rpc_event *ev); /* ctx is the shell */
/* An agent's message on its session: true if it was a read of an archive, and was answered. */
bool api_files_on_session(struct shell *s, const struct rpc_event *ev);

#endif
