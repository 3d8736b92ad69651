/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.h - what a node remembers: STATE/lock (one acceld each), STATE/incarnation (of the last
 * start, bumped by each), STATE/seen ("ERA EPOCH" of the highest coordinator obeyed),
 * STATE/attempts/. Blocking; durable when a function has returned 0.
 */
#ifndef ACCEL_AGENTD_STATE_H
#define ACCEL_AGENTD_STATE_H

#include <limits.h>

#include "common/error.h"

struct state {
    char dir[PATH_MAX];
    char attempts_dir[PATH_MAX];
    int lock_fd;
    uint64_t incarnation, seen_era, seen_epoch;
};
/* Makes and locks the directory and bumps the incarnation. ACCEL_EBUSY: another acceld has it. */
int state_open(struct state *s, const char *dir, struct accel_error *err);
void state_close(struct state *s); /* accepts one that is all zero but lock_fd -1 */
int state_save_seen(struct state *s, uint64_t era, uint64_t epoch, struct accel_error *err);

#endif
