/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread in which the store blocks, so that the loop does not. The lock guards two hand-overs
 * and nothing else: what the thread is to do (commit, operations, stop) and what it has done. The
 * store itself belongs to the thread until it has ended. Callbacks run on the loop only, without
 * the lock. This file decides nothing about the data, and knows no kind of store.
 */
#include "scheduler/store_thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "common/clock.h"

enum op_kind { OP_SNAPSHOT, OP_CHECK };

struct store_op {
    struct store_op *next;
    enum op_kind kind;
    int r;
    struct accel_error error;
    char *path; /* OP_SNAPSHOT */
    uint64_t bytes;
    char *problems[LIMIT_STORE_PROBLEMS + 2]; /* OP_CHECK; NULL-terminated */
    size_t problem_count;
    void (*on_snapshot)(void *ctx, int r, uint64_t bytes, const struct accel_error *err);
    void (*on_check)(void *ctx, int r, const char *const *problems, const struct accel_error *err);
    void *ctx;
};

struct op_queue {
    struct store_op *first, **tail;
    unsigned count;
};

struct store_thread {
    uv_async_t async;
    uv_thread_t thread;
    struct store *store;
    struct store_thread_callbacks cb;
    void *ctx;
    void (*on_stopped)(void *ctx);
    void *stop_ctx;

    uv_mutex_t lock; /* guards all below */
    uv_cond_t wake;
    const struct store_txn *txn; /* to be committed; NULL: none */
    int64_t try_at_ms;           /* not before this (back-off) */
    int64_t retry_ms;            /* the next back-off; 0: not failing */
    struct op_queue todo, done;
    bool is_stopping;
    bool is_committed, is_failing, is_stale, is_ended; /* results for the loop */
    struct accel_error commit_error;                   /* of is_failing and is_stale */
};

/* ---- operations ---- */

static void queue_init(struct op_queue *q)
{
    *q = (struct op_queue){.tail = &q->first};
}

static void queue_push(struct op_queue *q, struct store_op *op)
{
    op->next = NULL;
    *q->tail = op;
    q->tail = &op->next;
    q->count++;
}

static struct store_op *queue_pop(struct op_queue *q)
{
    struct store_op *op = q->first;
    if (op != NULL) {
        q->first = op->next;
        q->tail = q->first == NULL ? &q->first : q->tail;
        q->count--;
    }
    return op;
}

static void on_problem(void *ctx, const char *text)
{
    struct store_op *op = ctx;
    if (op->problem_count > LIMIT_STORE_PROBLEMS) {
        return;
    }
    bool is_last = op->problem_count == LIMIT_STORE_PROBLEMS;
    op->problems[op->problem_count++] = xstrdup(is_last ? "and more" : text);
}

static void op_run(struct store *store, struct store_op *op)
{
    if (op->kind == OP_SNAPSHOT) {
        op->r = store->ops->snapshot(store, op->path, &op->bytes, &op->error);
    } else {
        op->r = store->ops->check(store, on_problem, op, &op->error);
    }
}

/* On the loop: tells the caller and frees op. */
static void op_finish(struct store_op *op)
{
    const struct accel_error *err = op->r == 0 ? NULL : &op->error;
    if (op->kind == OP_SNAPSHOT) {
        op->on_snapshot(op->ctx, op->r, op->bytes, err);
    } else {
        op->on_check(op->ctx, op->r, (const char *const *)op->problems, err);
    }
    for (size_t i = 0; i < op->problem_count; i++) {
        free(op->problems[i]);
    }
    free(op->path);
    free(op);
}

/* ---- the thread ---- */

/* With the lock held, which is given up while the store works. */
static void run_commit(struct store_thread *t)
{
    struct accel_error error = {0};
    const struct store_txn *txn = t->txn;
    uv_mutex_unlock(&t->lock);
    int r = t->store->ops->commit(t->store, txn, &error);
    uv_mutex_lock(&t->lock);
    if (r == 0) {
        t->txn = NULL;
        t->retry_ms = 0;
        t->is_committed = true;
    } else {
        t->commit_error = error;
        t->is_stale = r == ACCEL_ESTALE;
        t->is_failing |= !t->is_stale;
        t->retry_ms = t->retry_ms == 0 ? LIMIT_STORE_RETRY_MIN_MS
                                       : MIN(t->retry_ms * 2, LIMIT_STORE_RETRY_MAX_MS);
        t->try_at_ms = clock_mono_ms() + t->retry_ms;
        if (t->is_stale || t->is_stopping) {
            t->txn = NULL; /* given up */
        }
    }
    uv_mutex_unlock(&t->lock); /* the loop wakes at once and wants it */
    uv_async_send(&t->async);
    uv_mutex_lock(&t->lock);
}

static void run_op(struct store_thread *t)
{
    struct store_op *op = queue_pop(&t->todo);
    uv_mutex_unlock(&t->lock);
    op_run(t->store, op);
    uv_mutex_lock(&t->lock);
    queue_push(&t->done, op);
    uv_async_send(&t->async);
}

/* Waits for something to do: the next try of a failing commit, the idle time after a commit
 * (*idle_at_ms, 0: not due), or a call of the loop. */
static void wait_for_work(struct store_thread *t, int64_t *idle_at_ms)
{
    int64_t until_ms = t->txn != NULL ? t->try_at_ms : *idle_at_ms;
    int64_t now_ms = clock_mono_ms();
    if (until_ms == 0) {
        uv_cond_wait(&t->wake, &t->lock);
    } else if (until_ms > now_ms) {
        uv_cond_timedwait(&t->wake, &t->lock, (uint64_t)(until_ms - now_ms) * 1000000u);
    } else if (t->txn == NULL) {
        *idle_at_ms = 0;
        uv_mutex_unlock(&t->lock);
        t->store->ops->idle(t->store);
        uv_mutex_lock(&t->lock);
    }
}

static void thread_main(void *arg)
{
    struct store_thread *t = arg;
    int64_t idle_at_ms = 0;
    uv_mutex_lock(&t->lock);
    for (;;) {
        bool is_failing = t->retry_ms != 0;
        if (t->is_stopping && is_failing) {
            t->txn = NULL; /* it had its try */
        }
        if (t->txn != NULL && (!is_failing || clock_mono_ms() >= t->try_at_ms)) {
            run_commit(t);
            idle_at_ms = clock_mono_ms() + LIMIT_STORE_IDLE_MS;
        } else if (t->is_stopping) {
            break;
        } else if (t->todo.first != NULL) {
            run_op(t);
        } else {
            wait_for_work(t, &idle_at_ms);
        }
    }
    for (struct store_op *op; (op = queue_pop(&t->todo)) != NULL;) {
        op->r = error_set(&op->error, ACCEL_ECANCELLED, "the coordinator is stopping");
        queue_push(&t->done, op);
    }
    uv_mutex_unlock(&t->lock);
    t->store->ops->close(t->store);
    uv_mutex_lock(&t->lock);
    t->is_ended = true;
    uv_async_send(&t->async);
    uv_mutex_unlock(&t->lock);
}

/* ---- the loop ---- */

static void on_unused_closed(uv_handle_t *handle)
{
    struct store_thread *t = handle->data;
    uv_cond_destroy(&t->wake);
    uv_mutex_destroy(&t->lock);
    free(t);
}

static void on_closed(uv_handle_t *handle)
{
    struct store_thread *t = handle->data;
    for (struct store_op *op; (op = queue_pop(&t->done)) != NULL;) {
        op_finish(op); /* given while the handle was closing */
    }
    void (*on_stopped)(void *ctx) = t->on_stopped;
    void *ctx = t->stop_ctx;
    uv_cond_destroy(&t->wake);
    uv_mutex_destroy(&t->lock);
    free(t);
    on_stopped(ctx);
}

/* Takes all results first and calls back afterwards: a callback may give the next commit. */
static void on_async(uv_async_t *async)
{
    struct store_thread *t = async->data;
    uv_mutex_lock(&t->lock);
    bool is_committed = t->is_committed;
    bool is_failing = t->is_failing;
    bool is_stale = t->is_stale;
    bool is_ended = t->is_ended;
    struct accel_error error = t->commit_error;
    struct store_op *op = t->done.first;
    queue_init(&t->done);
    t->is_committed = t->is_failing = t->is_stale = t->is_ended = false;
    uv_mutex_unlock(&t->lock);

    if (is_failing) {
        t->cb.on_commit_failing(t->ctx, &error);
    }
    if (is_committed) {
        t->cb.on_committed(t->ctx);
    }
    if (is_stale) {
        t->cb.on_stale(t->ctx, &error);
    }
    while (op != NULL) {
        struct store_op *next = op->next;
        op_finish(op);
        op = next;
    }
    if (is_ended) {
        int r = uv_thread_join(&t->thread);
        CHECK(r == 0);
        uv_close((uv_handle_t *)&t->async, on_closed);
    }
}

/* Signals are the loop's: with all of them blocked none ends up here and interrupts a write. */
static int create_quiet(uv_thread_t *thread, void (*entry)(void *), void *arg)
{
    sigset_t all;
    sigset_t old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = uv_thread_create(thread, entry, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r;
}

int store_thread_start(uv_loop_t *loop, struct store *store,
                       const struct store_thread_callbacks *cb, void *ctx,
                       struct store_thread **ret_thread, struct accel_error *err)
{
    struct store_thread *t = xcalloc(1, sizeof(*t));
    t->store = store;
    t->cb = *cb;
    t->ctx = ctx;
    queue_init(&t->todo);
    queue_init(&t->done);
    int r = uv_mutex_init(&t->lock);
    CHECK(r == 0);
    r = uv_cond_init(&t->wake);
    CHECK(r == 0);
    t->async.data = t;
    r = uv_async_init(loop, &t->async, on_async);
    if (r == 0) {
        r = create_quiet(&t->thread, thread_main, t);
        if (r != 0) {
            /* The loop still has to see the handle closed: it lives until then, callback-free. */
            uv_close((uv_handle_t *)&t->async, on_unused_closed);
            return error_sys(err, -r, "cannot start the store's thread");
        }
        *ret_thread = t;
        return 0;
    }
    uv_cond_destroy(&t->wake);
    uv_mutex_destroy(&t->lock);
    free(t);
    return error_sys(err, -r, "cannot start the store's thread");
}

void store_thread_commit(struct store_thread *t, const struct store_txn *txn)
{
    uv_mutex_lock(&t->lock);
    CHECK(t->txn == NULL);
    if (!t->is_stopping) {
        t->txn = txn;
        t->retry_ms = 0;
        t->try_at_ms = 0;
    }
    uv_mutex_unlock(&t->lock);
    uv_cond_signal(&t->wake); /* after: the thread wants the lock as soon as it wakes */
}

static void give(struct store_thread *t, struct store_op *op)
{
    uv_mutex_lock(&t->lock);
    if (t->is_stopping || t->todo.count >= LIMIT_STORE_OPERATIONS) {
        op->r = t->is_stopping
                    ? error_set(&op->error, ACCEL_ECANCELLED, "the coordinator is stopping")
                    : error_set(&op->error, ACCEL_EFULL,
                                "%u snapshots and checks are waiting already", t->todo.count);
        queue_push(&t->done, op);
        uv_async_send(&t->async);
    } else {
        queue_push(&t->todo, op);
        uv_cond_signal(&t->wake);
    }
    uv_mutex_unlock(&t->lock);
}

void store_thread_snapshot(struct store_thread *t, const char *path,
                           void (*done)(void *ctx, int r, uint64_t bytes,
                                        const struct accel_error *err),
                           void *ctx)
{
    struct store_op *op = xcalloc(1, sizeof(*op));
    op->kind = OP_SNAPSHOT;
    op->path = xstrdup(path);
    op->on_snapshot = done;
    op->ctx = ctx;
    give(t, op);
}

void store_thread_check(struct store_thread *t,
                        void (*done)(void *ctx, int r, const char *const *problems,
                                     const struct accel_error *err),
                        void *ctx)
{
    struct store_op *op = xcalloc(1, sizeof(*op));
    op->kind = OP_CHECK;
    op->on_check = done;
    op->ctx = ctx;
    give(t, op);
}

void store_thread_stop(struct store_thread *t, void (*on_stopped)(void *ctx), void *ctx)
{
    uv_mutex_lock(&t->lock);
    CHECK(!t->is_stopping);
    t->is_stopping = true;
    t->on_stopped = on_stopped;
    t->stop_ctx = ctx;
    uv_cond_signal(&t->wake);
    uv_mutex_unlock(&t->lock);
}
