/* SPDX-License-Identifier: Apache-2.0 */
/*
 * deferred.h - events of a transport that wait, in order, until the store can write again. Used by
 * shell.c and by the simulator's shell alike. One thread.
 */
#ifndef ACCEL_SCHEDULER_DEFERRED_H
#define ACCEL_SCHEDULER_DEFERRED_H

#include "common/rpc.h"

struct deferred_event; /* opaque */

struct deferred {
    struct deferred_event *head, **tail;
    size_t count, bytes;
};

void deferred_init(struct deferred *d);
/* Forgets what waits. Accepts one that is all zero. */
void deferred_done(struct deferred *d);
/* Keeps a copy. False: it is a message above LIMIT_DEFERRED_MESSAGES or LIMIT_DEFERRED_BYTES, so
 * the caller has to end its call; the transport says no more of a call that we have ended, so its
 * RPC_CLOSED was kept in place of the message. Other events are never dropped: there are only so
 * many per call. */
bool deferred_keep(struct deferred *d, const struct rpc_event *ev);
/* Gives what waited to `take`, in order, and forgets it. What is kept meanwhile waits for the next
 * time. The event is borrowed during the call. */
void deferred_replay(struct deferred *d, void (*take)(void *ctx, const struct rpc_event *ev),
                     void *ctx);

#endif
