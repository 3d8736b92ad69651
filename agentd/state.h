/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.h - what a node remembers: STATE/lock (one acceld each: "PID", "PID ending"),
 * STATE/incarnation (of the last start, bumped by each), STATE/seen ("ERA EPOCH" of the highest
 * coordinator obeyed), STATE/seal ("ERA EPOCH HEX", its proof of that), STATE/attempts/. Blocking;
 * durable when a function has returned 0.
 */
#ifndef ACCEL_AGENTD_STATE_H
#define ACCEL_AGENTD_STATE_H

#include <limits.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/hash.h"

struct state {
    char dir[PATH_MAX];
    char attempts_dir[PATH_MAX];
    int lock_fd;
    uint64_t incarnation, seen_era, seen_epoch;
    uint8_t seal[HASH_BYTES]; /* of seen_era and seen_epoch */
    bool has_seal;
};
/* Makes and locks the directory and bumps the incarnation. ACCEL_EBUSY: another acceld has it.
 * is_shared: state_prepare_shared() has made it. */
int state_open(struct state *s, const char *dir, bool is_shared, struct accel_error *err);
/* Where each job runs as its own user, by root: the directory belongs to acceld's user and can be
 * passed through by all; STATE/attempts belongs to root, so that nobody but accel-spawn makes or
 * renames an attempt's directory. */
int state_prepare_shared(const char *dir, uid_t uid, gid_t gid, struct accel_error *err);
/* Before the session ends: whoever is started in our place waits for us, and is not refused. */
void state_say_ending(struct state *s);
void state_close(struct state *s); /* accepts one that is all zero but lock_fd -1 */
/* seal: HASH_BYTES, NULL for none. The pair is higher than the one before, or its seal is news. */
int state_save_seen(struct state *s, uint64_t era, uint64_t epoch, const uint8_t *seal,
                    struct accel_error *err);

#endif
