/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h - where the coordinator's truth is durable. A small vtable so that PostgreSQL can serve
 * later; store_sqlite is the real one, store_mem keeps rows in memory (simulator). Every function
 * blocks and is called from one thread at a time (store_thread.h); none keeps a pointer into its
 * arguments.
 *
 * commit() is atomic, and durable when it returns 0. After a failure all of it or nothing is found
 * by a reopen (the failure may have come after the data reached the disk), and the same transaction
 * may be retried: it is idempotent, all rows are upserts or deletes by key.
 */
#ifndef ACCEL_SCHEDULER_STORE_H
#define ACCEL_SCHEDULER_STORE_H

#include "common/error.h"
#include "scheduler/record.h"

struct store_txn {
    const struct record *records; /* at most one per (table, key) */
    size_t count;
    uint64_t epoch; /* of the writer; ACCEL_ESTALE if the store has a higher one. A RECORD_META in
                     * the txn may raise it */
};

struct store;
struct store_ops {
    /* Calls on_record for every row: meta first, then environments, jobs by id, attempts by (job,
     * number), workers by (job, attempt, rank), nodes, devices, requests, events by seq, users,
     * certificates, tokens (all by their keys). Records are borrowed during the callback. On a
     * failure some may have been given already. The spec of an ENDED job comes empty. */
    int (*load)(struct store *s, void (*on_record)(void *ctx, const struct record *rec), void *ctx,
                struct accel_error *err);
    /* Of a job that exists only what may change is written: state, result, reason, attempt,
     * restarts, max_restarts, exit_code, start_ms, end_ms, end_seq; the other fields may be empty
     * in the record then. Deleting a job takes its attempts, workers and events along, deleting an
     * attempt its workers. ACCEL_EEXIST: a request_id is that of another job. ACCEL_EINVAL: a
     * state, result, cause or kind that has no name. ACCEL_ENOSPC, ACCEL_EIO, ACCEL_ENOMEM: may
     * pass; retry. */
    int (*commit)(struct store *s, const struct store_txn *txn, struct accel_error *err);
    /* Housekeeping when the queue is idle (write-back of the WAL on the one connection). */
    void (*idle)(struct store *s);
    /* A consistent copy at path, which must not exist (ACCEL_EEXIST), fsynced; ret_bytes is its
     * size. */
    int (*snapshot)(struct store *s, const char *path, uint64_t *ret_bytes,
                    struct accel_error *err);
    /* Calls on_problem once per finding (integrity_check, rows without their parents, impossible
     * states); 0 when the check could run. The text is borrowed during the callback. */
    int (*check)(struct store *s, void (*on_problem)(void *ctx, const char *text), void *ctx,
                 struct accel_error *err);
    const char *(*describe)(struct store *s); /* "sqlite 3.40.1 DIR/accel.db"; as long as s */
    void (*close)(struct store *s);           /* frees s */
};
struct store { /* first member of an implementation's own struct */
    const struct store_ops *ops;
    uint64_t row_writes, commits; /* since open; read by the loop thread with relaxed atomics */
};

/* Opens or creates DIR/accel.db (0600): WAL, synchronous=FULL, locking_mode=EXCLUSIVE, one
 * connection, DIR/accel.db.lock under flock. DIR must exist. Numbered migrations (schema.h) with a
 * backup file DIR/accel.db.before-vN made before each. A new store gets the time in ms as its era,
 * and zeros. ACCEL_ENOENT, ACCEL_EPERM: of DIR or a file in it. ACCEL_EBUSY: another process has
 * it. ACCEL_ENEWER: made by a newer version (text names both versions and what to do).
 * ACCEL_ECORRUPT: not a database, another program's (application_id), damaged, cut or empty; the
 * text says how to set it aside. ACCEL_ENOSPC, ACCEL_EIO, ACCEL_ENOMEM. A file that is refused is
 * not written to. */
int store_sqlite_open(const char *dir, struct store **ret_store, struct accel_error *err);

/* In memory; aborts when memory ends. Rows live until close(): a coordinator that crashes in the
 * simulator forgets the store's answer, not its rows, and loads again. snapshot: ACCEL_EUNIMPL. */
struct store *store_mem_create(uint64_t era);
/* The next `count` commits fail with ACCEL_ENOSPC (before or after applying, by `applied`). */
void store_mem_fail_commits(struct store *s, unsigned count, bool applied);

#endif
