/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_thread.h - the store's own thread: takes one operation at a time from a queue and hands
 * results back to the loop through one uv_async; the loop drains all of them per wake. A commit
 * that fails is retried as the same transaction with back-off (LIMIT_STORE_RETRY_*) until it
 * succeeds or the thread is stopped; on_commit_failing tells the loop. All functions are called on
 * the loop's thread and do not block; all callbacks come from the loop.
 */
#ifndef ACCEL_SCHEDULER_STORE_THREAD_H
#define ACCEL_SCHEDULER_STORE_THREAD_H

#include <uv.h>

#include "scheduler/store.h"

struct store_thread;
struct store_thread_callbacks {
    /* The transaction given last is durable. The next may be given from within. */
    void (*on_committed)(void *ctx);
    /* It failed, and will be retried. Failures between two wakes of the loop are told once. */
    void (*on_commit_failing)(void *ctx, const struct accel_error *err);
    /* A higher epoch wrote: it is not retried, we must exit. */
    void (*on_stale)(void *ctx, const struct accel_error *err);
};
/* Takes over `store` if it succeeds (closes it in stop). cb is copied. */
int store_thread_start(uv_loop_t *loop, struct store *store,
                       const struct store_thread_callbacks *cb, void *ctx,
                       struct store_thread **ret_thread, struct accel_error *err);
/* One at a time: not again before on_committed. txn and what it points to must live until then, or
 * until on_stopped. */
void store_thread_commit(struct store_thread *t, const struct store_txn *txn);
/* snapshot and check run between commits; done is called on the loop's thread, always, never from
 * within this call. path is copied. ACCEL_EFULL: LIMIT_STORE_OPERATIONS of them wait already;
 * ACCEL_ECANCELLED: stopped before it began. problems: NULL-terminated array, valid in the
 * callback, at most LIMIT_STORE_PROBLEMS and one that says that there are more. */
void store_thread_snapshot(struct store_thread *t, const char *path,
                           void (*done)(void *ctx, int r, uint64_t bytes,
                                        const struct accel_error *err),
                           void *ctx);
void store_thread_check(struct store_thread *t,
                        void (*done)(void *ctx, int r, const char *const *problems,
                                     const struct accel_error *err),
                        void *ctx);
/* Finishes the running operation and a commit that was given (one try; a failing one is given up),
 * closes the store, joins, frees t, then calls on_stopped, the last callback. Until then t may be
 * called: a commit given after stop is dropped without an answer, operations get
 * ACCEL_ECANCELLED. */
void store_thread_stop(struct store_thread *t, void (*on_stopped)(void *ctx), void *ctx);

#endif
