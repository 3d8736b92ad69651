/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_thread.h - the store's own thread: takes one job at a time from a queue and hands results back to the loop through one
 * uv_async; the loop drains all of them per wake. A commit that fails is retried as the same transaction with back-off
 * (LIMIT_STORE_RETRY_*) until it succeeds or the thread is stopped; on_commit_failing tells the loop of each failure.
 */
#ifndef ACCEL_SCHEDULER_STORE_THREAD_H
#define ACCEL_SCHEDULER_STORE_THREAD_H

#include <uv.h>

#include "scheduler/store.h"

struct store_thread;
struct store_thread_callbacks { /* all on the loop's thread */
    void (*on_committed)(void *ctx);                                    /* the transaction given last is durable */
    void (*on_commit_failing)(void *ctx, const struct accel_error *err); /* it failed, and will be retried */
    void (*on_stale)(void *ctx, const struct accel_error *err);          /* a higher epoch wrote: we must exit */
};
/* Takes over `store` (closes it in stop). */
int store_thread_start(uv_loop_t *loop, struct store *store, const struct store_thread_callbacks *cb, void *ctx,
                       struct store_thread **ret_thread, struct accel_error *err);
/* One at a time: not again before on_committed. txn and what it points to must live until then. */
void store_thread_commit(struct store_thread *t, const struct store_txn *txn);
/* snapshot and check run between commits; done is called on the loop's thread. problems: NULL-terminated array, valid in it. */
void store_thread_snapshot(struct store_thread *t, const char *path,
                           void (*done)(void *ctx, int r, uint64_t bytes, const struct accel_error *err), void *ctx);
void store_thread_check(struct store_thread *t,
                        void (*done)(void *ctx, int r, const char *const *problems, const struct accel_error *err),
                        void *ctx);
/* Finishes the running job (a failing commit is given up), closes the store, joins, then calls on_stopped from the loop. */
void store_thread_stop(struct store_thread *t, void (*on_stopped)(void *ctx), void *ctx);

#endif
