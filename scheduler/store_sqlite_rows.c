/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records to rows and back. For each table one function names its fields in the order of the SQL
 * beside it; the same function binds a record to a statement and reads it from a result, so the
 * two cannot drift apart. Transactions, files and error texts are store_sqlite.c's; the tables
 * are schema.c's.
 */
#include "scheduler/store_sqlite.h"

#include <string.h>

#include "accel/v1/job.pb-c.h"
#include "accel/v1/trust.pb-c.h"
#include "common/pki.h"

/* ---- one field ---- */

struct row_io {
    sqlite3_stmt *stmt;
    bool is_read;
    int at; /* the next parameter (from 1) or column (from 0) */
    int r;  /* SQLITE_OK so far; the first failure stays */
};

static void io_fail(struct row_io *io, int r)
{
    if (io->r == SQLITE_OK) {
        io->r = r;
    }
}

static int64_t io_int(struct row_io *io, int64_t value, int64_t min, int64_t max)
{
    if (!io->is_read) {
        io_fail(io, sqlite3_bind_int64(io->stmt, io->at++, value));
        return value;
    }
    int64_t found = sqlite3_column_int64(io->stmt, io->at++);
    if (found < min || found > max) {
        io_fail(io, SQLITE_CORRUPT);
        return value;
    }
    return found;
}

/* Beyond 2^63 a number would look negative to people, but it comes back as it was. */
static void io_u64(struct row_io *io, uint64_t *p)
{
    *p = (uint64_t)io_int(io, (int64_t)*p, INT64_MIN, INT64_MAX);
}

static void io_i64(struct row_io *io, int64_t *p)
{
    *p = io_int(io, *p, INT64_MIN, INT64_MAX);
}

static void io_u32(struct row_io *io, uint32_t *p)
{
    *p = (uint32_t)io_int(io, *p, 0, UINT32_MAX);
}

static void io_i32(struct row_io *io, int32_t *p)
{
    *p = (int32_t)io_int(io, *p, INT32_MIN, INT32_MAX);
}

static void io_bool(struct row_io *io, bool *p)
{
    *p = io_int(io, *p, 0, 1) != 0;
}

static void io_text(struct row_io *io, const char **p)
{
    if (!io->is_read) {
        const char *text = *p != NULL ? *p : "";
        io_fail(io, sqlite3_bind_text(io->stmt, io->at++, text, -1, SQLITE_STATIC));
        return;
    }
    *p = (const char *)sqlite3_column_text(io->stmt, io->at++);
    if (*p == NULL) { /* the columns are NOT NULL: memory ended */
        *p = "";
        io_fail(io, SQLITE_NOMEM);
    }
}

static void io_blob_or(struct row_io *io, struct record_blob *b, bool empty_is_null)
{
    if (io->is_read) {
        b->data = sqlite3_column_blob(io->stmt, io->at);
        b->len = (size_t)sqlite3_column_bytes(io->stmt, io->at);
        io->at++;
        if (b->data == NULL && b->len > 0) {
            b->len = 0;
            io_fail(io, SQLITE_NOMEM);
        }
    } else if (b->len == 0 && empty_is_null) {
        io_fail(io, sqlite3_bind_null(io->stmt, io->at++));
    } else if (b->len == 0) {
        io_fail(io, sqlite3_bind_zeroblob(io->stmt, io->at++, 0));
    } else {
        io_fail(io, sqlite3_bind_blob64(io->stmt, io->at++, b->data, b->len, SQLITE_STATIC));
    }
}

static void io_blob(struct row_io *io, struct record_blob *b)
{
    io_blob_or(io, b, false);
}

/* An enumeration as its name; names[0] may be NULL where 0 is no value of a row. */
static void io_enum(struct row_io *io, uint32_t *p, const char *const *names, size_t count)
{
    const char *text = !io->is_read && *p < count ? names[*p] : NULL;
    if (!io->is_read && text == NULL) {
        io->at++;
        io_fail(io, SQLITE_MISMATCH);
        return;
    }
    io_text(io, &text);
    for (size_t i = 0; i < count && io->is_read; i++) {
        if (names[i] != NULL && strcmp(names[i], text) == 0) {
            *p = (uint32_t)i;
            return;
        }
    }
    if (io->is_read) {
        io_fail(io, SQLITE_CORRUPT);
    }
}

/* Cut out of the proto's enums: the CHECK constraints of schema.c list the same words. */
static const char *const state_names[] = {
    [ACCEL__V1__JOB_STATE__JOB_PENDING] = "pending",
    [ACCEL__V1__JOB_STATE__JOB_STARTING] = "starting",
    [ACCEL__V1__JOB_STATE__JOB_RUNNING] = "running",
    [ACCEL__V1__JOB_STATE__JOB_STOPPING] = "stopping",
    [ACCEL__V1__JOB_STATE__JOB_HELD] = "held",
    [ACCEL__V1__JOB_STATE__JOB_ENDED] = "ended",
};
static const char *const result_names[] = {
    [ACCEL__V1__JOB_RESULT__RESULT_NONE] = "none",
    [ACCEL__V1__JOB_RESULT__RESULT_SUCCEEDED] = "succeeded",
    [ACCEL__V1__JOB_RESULT__RESULT_FAILED] = "failed",
    [ACCEL__V1__JOB_RESULT__RESULT_CANCELLED] = "cancelled",
    [ACCEL__V1__JOB_RESULT__RESULT_TIMED_OUT] = "timed_out",
    [ACCEL__V1__JOB_RESULT__RESULT_LOST] = "lost",
};
static const char *const cause_names[] = {
    [ACCEL__V1__CAUSE__CAUSE_NONE] = "none",
    [ACCEL__V1__CAUSE__CAUSE_SUCCEEDED] = "succeeded",
    [ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED] = "worker_failed",
    [ACCEL__V1__CAUSE__CAUSE_START_FAILED] = "start_failed",
    [ACCEL__V1__CAUSE__CAUSE_CANCELLED] = "cancelled",
    [ACCEL__V1__CAUSE__CAUSE_TIME_LIMIT] = "time_limit",
    [ACCEL__V1__CAUSE__CAUSE_SHIM_LOST] = "shim_lost",
    [ACCEL__V1__CAUSE__CAUSE_NODE_LOST] = "node_lost",
    [ACCEL__V1__CAUSE__CAUSE_FENCED] = "fenced",
    [ACCEL__V1__CAUSE__CAUSE_DEVICE_FAULT] = "device_fault",
};
static const char *const kind_names[] = {
    [ACCEL__V1__DEVICE_KIND__DEVICE_AUTO] = "auto",
    [ACCEL__V1__DEVICE_KIND__DEVICE_CPU] = "cpu",
    [ACCEL__V1__DEVICE_KIND__DEVICE_GPU] = "gpu",
    [ACCEL__V1__DEVICE_KIND__DEVICE_TPU] = "tpu",
};
static const char *const role_names[] = {
    [ACCEL__V1__USER_ROLE__USER_ROLE_USER] = "user",
    [ACCEL__V1__USER_ROLE__USER_ROLE_OPERATOR] = "operator",
    [ACCEL__V1__USER_ROLE__USER_ROLE_ADMIN] = "admin",
};
static const char *const holder_names[] = {[PKI_NODE] = "node", [PKI_USER] = "user"};

/* ---- the fields of each table; the first `keys` of them are the key ---- */

static void meta_fields(struct row_io *io, struct record *rec)
{
    struct record_meta *m = &rec->u.meta;
    io_u64(io, &m->era);
    io_u64(io, &m->epoch);
    io_u64(io, &m->seq_reserved);
    io_u64(io, &m->job_id_floor);
}

static void environment_key(struct row_io *io, struct record *rec)
{
    io_u64(io, &rec->u.environment.id);
}

static void environment_fields(struct row_io *io, struct record *rec)
{
    environment_key(io, rec);
    io_blob(io, &rec->u.environment.env);
}

static void job_key(struct row_io *io, struct record *rec)
{
    io_u64(io, &rec->u.job.id);
}

static void job_fields(struct row_io *io, struct record *rec)
{
    struct record_job *j = &rec->u.job;
    job_key(io, rec);
    io_text(io, &j->name);
    io_text(io, &j->user);
    io_u32(io, &j->uid);
    io_u32(io, &j->gid);
    io_enum(io, &j->state, state_names, ARRAY_LEN(state_names));
    io_enum(io, &j->result, result_names, ARRAY_LEN(result_names));
    io_text(io, &j->reason);
    io_u32(io, &j->attempt);
    io_u32(io, &j->restarts);
    io_u32(io, &j->max_restarts);
    io_i32(io, &j->exit_code);
    io_i64(io, &j->submit_ms);
    io_i64(io, &j->start_ms);
    io_i64(io, &j->end_ms);
    io_u64(io, &j->submit_seq);
    io_u64(io, &j->end_seq);
    io_text(io, &j->command);
    io_u64(io, &j->environment_id);
    io_blob_or(io, &j->request_id, true); /* NULLs do not clash in a UNIQUE column */
    io_blob(io, &j->spec);
}

static void attempt_key(struct row_io *io, struct record *rec)
{
    io_u64(io, &rec->u.attempt.job_id);
    io_u32(io, &rec->u.attempt.attempt);
}

static void attempt_fields(struct row_io *io, struct record *rec)
{
    struct record_attempt *a = &rec->u.attempt;
    attempt_key(io, rec);
    io_enum(io, &a->cause, cause_names, ARRAY_LEN(cause_names));
    io_text(io, &a->text);
    io_i64(io, &a->start_ms);
    io_i64(io, &a->run_ms);
    io_i64(io, &a->end_ms);
    io_u64(io, &a->start_seq);
    io_u64(io, &a->run_seq);
    io_u64(io, &a->end_seq);
    io_i32(io, &a->first_failed_rank);
    io_text(io, &a->master_addr);
    io_u32(io, &a->master_port);
    io_text(io, &a->placement);
}

static void worker_key(struct row_io *io, struct record *rec)
{
    io_u64(io, &rec->u.worker.job_id);
    io_u32(io, &rec->u.worker.attempt);
    io_u32(io, &rec->u.worker.rank);
}

static void worker_fields(struct row_io *io, struct record *rec)
{
    struct record_worker *w = &rec->u.worker;
    worker_key(io, rec);
    io_text(io, &w->node);
    io_u32(io, &w->local_rank);
    io_u32(io, &w->pid);
    io_bool(io, &w->exited);
    io_i32(io, &w->exit_code);
    io_i32(io, &w->signal);
    io_i64(io, &w->start_ms);
    io_i64(io, &w->end_ms);
    io_text(io, &w->devices);
    io_text(io, &w->error);
    io_blob(io, &w->stderr_tail);
    io_blob(io, &w->stdout_path);
    io_blob(io, &w->stderr_path);
}

static void node_key(struct row_io *io, struct record *rec)
{
    io_text(io, &rec->u.node.name);
}

static void node_fields(struct row_io *io, struct record *rec)
{
    struct record_node *n = &rec->u.node;
    node_key(io, rec);
    io_text(io, &n->machine_id);
    io_text(io, &n->address);
    io_text(io, &n->version);
    io_text(io, &n->state);
    io_text(io, &n->reason);
    io_text(io, &n->isolation);
    io_i64(io, &n->since_ms);
    io_u64(io, &n->incarnation);
    io_u32(io, &n->cpus);
    io_u64(io, &n->memory_bytes);
}

static void device_key(struct row_io *io, struct record *rec)
{
    io_text(io, &rec->u.device.node);
    io_text(io, &rec->u.device.id);
}

static void device_fields(struct row_io *io, struct record *rec)
{
    struct record_device *d = &rec->u.device;
    device_key(io, rec);
    io_text(io, &d->model);
    io_text(io, &d->visible);
    io_text(io, &d->fault);
    io_enum(io, &d->kind, kind_names, ARRAY_LEN(kind_names));
    io_u32(io, &d->index);
    io_u64(io, &d->memory_bytes);
}

static void request_key(struct row_io *io, struct record *rec)
{
    io_blob(io, &rec->u.request.id);
}

static void request_fields(struct row_io *io, struct record *rec)
{
    struct record_request *q = &rec->u.request;
    request_key(io, rec);
    io_text(io, &q->method);
    io_i64(io, &q->created_ms);
    io_blob(io, &q->reply);
}

static void event_key(struct row_io *io, struct record *rec)
{
    io_u64(io, &rec->u.event.seq);
}

static void event_fields(struct row_io *io, struct record *rec)
{
    struct record_event *e = &rec->u.event;
    event_key(io, rec);
    io_i64(io, &e->time_ms);
    io_text(io, &e->kind);
    io_u64(io, &e->job_id);
    io_u32(io, &e->attempt);
    io_text(io, &e->node);
    io_text(io, &e->text);
}

static void user_key(struct row_io *io, struct record *rec)
{
    io_text(io, &rec->u.user.name);
}

static void user_fields(struct row_io *io, struct record *rec)
{
    struct record_user *u = &rec->u.user;
    user_key(io, rec);
    io_enum(io, &u->role, role_names, ARRAY_LEN(role_names));
    io_i64(io, &u->created_ms);
}

static void certificate_key(struct row_io *io, struct record *rec)
{
    io_text(io, &rec->u.certificate.serial);
}

static void certificate_fields(struct row_io *io, struct record *rec)
{
    struct record_certificate *c = &rec->u.certificate;
    certificate_key(io, rec);
    io_enum(io, &c->kind, holder_names, ARRAY_LEN(holder_names));
    io_text(io, &c->name);
    io_i64(io, &c->not_after_ms);
    io_i64(io, &c->revoked_ms);
}

static void token_key(struct row_io *io, struct record *rec)
{
    io_blob(io, &rec->u.token.hash);
}

static void token_fields(struct row_io *io, struct record *rec)
{
    struct record_token *t = &rec->u.token;
    token_key(io, rec);
    io_enum(io, &t->kind, holder_names, ARRAY_LEN(holder_names));
    io_i64(io, &t->expires_ms);
    io_i64(io, &t->used_ms);
    io_text(io, &t->by);
}

/* ---- the SQL of each table ---- */

#define SET(column) #column " = excluded." #column

struct row_table {
    void (*fields)(struct row_io *io, struct record *rec);
    void (*key)(struct row_io *io, struct record *rec); /* NULL: never deleted */
    const char *upsert;
    const char *erase[ROW_ERASES]; /* each takes the key */
    const char *select;
};

static const struct row_table row_tables[RECORD_TABLE_COUNT] = {
    [RECORD_META] =
        {
            .fields = meta_fields,
            .upsert = "INSERT OR REPLACE INTO meta (one, era, epoch, seq_reserved, job_id_floor)"
                      " VALUES (1, ?, ?, ?, ?)",
            .select = "SELECT era, epoch, seq_reserved, job_id_floor FROM meta",
        },
    [RECORD_ENVIRONMENT] =
        {
            .fields = environment_fields,
            .key = environment_key,
            .upsert = "INSERT OR REPLACE INTO environments (id, env) VALUES (?, ?)",
            .erase = {"DELETE FROM environments WHERE id = ?"},
            .select = "SELECT id, env FROM environments ORDER BY id",
        },
    [RECORD_JOB] =
        {
            .fields = job_fields,
            .key = job_key,
            /* What was submitted never changes: whose, what, its request and spec stay. */
            .upsert = "INSERT INTO jobs (id, name, user, uid, gid, state, result, reason, attempt,"
                      " restarts, max_restarts, exit_code, submit_ms, start_ms, end_ms,"
                      " submit_seq, end_seq, command, environment_id, request_id, spec)"
                      " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                      " ON CONFLICT (id) DO UPDATE SET " SET(state) ", " SET(result) ", "
                      SET(reason) ", " SET(attempt) ", " SET(restarts) ", " SET(max_restarts) ", "
                      SET(exit_code) ", " SET(start_ms) ", " SET(end_ms) ", " SET(end_seq),
            .erase = {"DELETE FROM workers WHERE job_id = ?",
                      "DELETE FROM attempts WHERE job_id = ?",
                      "DELETE FROM events WHERE job_id = ? AND job_id <> 0",
                      "DELETE FROM jobs WHERE id = ?"},
            /* The spec of an ended job is not wanted and may be on pages of its own. */
            .select = "SELECT id, name, user, uid, gid, state, result, reason, attempt, restarts,"
                      " max_restarts, exit_code, submit_ms, start_ms, end_ms, submit_seq, end_seq,"
                      " command, environment_id, request_id,"
                      " CASE state WHEN 'ended' THEN x'' ELSE spec END FROM jobs ORDER BY id",
        },
    [RECORD_ATTEMPT] =
        {
            .fields = attempt_fields,
            .key = attempt_key,
            .upsert = "INSERT OR REPLACE INTO attempts (job_id, attempt, cause, text, start_ms,"
                      " run_ms, end_ms, start_seq, run_seq, end_seq, first_failed_rank,"
                      " master_addr, master_port, placement)"
                      " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            .erase = {"DELETE FROM workers WHERE job_id = ? AND attempt = ?",
                      "DELETE FROM attempts WHERE job_id = ? AND attempt = ?"},
            .select = "SELECT job_id, attempt, cause, text, start_ms, run_ms, end_ms, start_seq,"
                      " run_seq, end_seq, first_failed_rank, master_addr, master_port, placement"
                      " FROM attempts ORDER BY job_id, attempt",
        },
    [RECORD_WORKER] =
        {
            .fields = worker_fields,
            .key = worker_key,
            .upsert = "INSERT OR REPLACE INTO workers (job_id, attempt, rank, node, local_rank,"
                      " pid, exited, exit_code, signal, start_ms, end_ms, devices, error,"
                      " stderr_tail, stdout_path, stderr_path)"
                      " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            .erase = {"DELETE FROM workers WHERE job_id = ? AND attempt = ? AND rank = ?"},
            .select = "SELECT job_id, attempt, rank, node, local_rank, pid, exited, exit_code,"
                      " signal, start_ms, end_ms, devices, error, stderr_tail, stdout_path,"
                      " stderr_path FROM workers ORDER BY job_id, attempt, rank",
        },
    [RECORD_NODE] =
        {
            .fields = node_fields,
            .key = node_key,
            .upsert = "INSERT OR REPLACE INTO nodes (name, machine_id, address, version, state,"
                      " reason, isolation, since_ms, incarnation, cpus, memory_bytes)"
                      " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            .erase = {"DELETE FROM nodes WHERE name = ?"},
            .select = "SELECT name, machine_id, address, version, state, reason, isolation,"
                      " since_ms, incarnation, cpus, memory_bytes FROM nodes ORDER BY name",
        },
    [RECORD_DEVICE] =
        {
            .fields = device_fields,
            .key = device_key,
            .upsert = "INSERT OR REPLACE INTO devices (node, id, model, visible, fault, kind,"
                      " ordinal, memory_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            .erase = {"DELETE FROM devices WHERE node = ? AND id = ?"},
            .select = "SELECT node, id, model, visible, fault, kind, ordinal, memory_bytes"
                      " FROM devices ORDER BY node, id",
        },
    [RECORD_REQUEST] =
        {
            .fields = request_fields,
            .key = request_key,
            .upsert = "INSERT OR REPLACE INTO requests (id, method, created_ms, reply)"
                      " VALUES (?, ?, ?, ?)",
            .erase = {"DELETE FROM requests WHERE id = ?"},
            .select = "SELECT id, method, created_ms, reply FROM requests ORDER BY id",
        },
    [RECORD_EVENT] =
        {
            .fields = event_fields,
            .key = event_key,
            .upsert = "INSERT OR REPLACE INTO events (seq, time_ms, kind, job_id, attempt, node,"
                      " text) VALUES (?, ?, ?, ?, ?, ?, ?)",
            .erase = {"DELETE FROM events WHERE seq = ?"},
            .select = "SELECT seq, time_ms, kind, job_id, attempt, node, text FROM events"
                      " ORDER BY seq",
        },
    [RECORD_USER] =
        {
            .fields = user_fields,
            .key = user_key,
            .upsert = "INSERT OR REPLACE INTO users (name, role, created_ms) VALUES (?, ?, ?)",
            .erase = {"DELETE FROM users WHERE name = ?"},
            .select = "SELECT name, role, created_ms FROM users ORDER BY name",
        },
    [RECORD_CERTIFICATE] =
        {
            .fields = certificate_fields,
            .key = certificate_key,
            .upsert = "INSERT OR REPLACE INTO certificates (serial, kind, name, not_after_ms,"
                      " revoked_ms) VALUES (?, ?, ?, ?, ?)",
            .erase = {"DELETE FROM certificates WHERE serial = ?"},
            .select = "SELECT serial, kind, name, not_after_ms, revoked_ms FROM certificates"
                      " ORDER BY serial",
        },
    [RECORD_TOKEN] =
        {
            .fields = token_fields,
            .key = token_key,
            .upsert = "INSERT OR REPLACE INTO tokens (hash, kind, expires_ms, used_ms, by)"
                      " VALUES (?, ?, ?, ?, ?)",
            .erase = {"DELETE FROM tokens WHERE hash = ?"},
            .select = "SELECT hash, kind, expires_ms, used_ms, by FROM tokens ORDER BY hash",
        },
};

/* ---- writing and loading ---- */

static int run_cached(sqlite3 *db, sqlite3_stmt **cache, const char *sql,
                      void (*bind)(struct row_io *, struct record *), struct record *rec)
{
    int r;
    if (*cache == NULL) {
        r = sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, cache, NULL);
        if (r != SQLITE_OK) {
            return r;
        }
    }
    struct row_io io = {.stmt = *cache, .at = 1};
    bind(&io, rec);
    r = io.r;
    if (r == SQLITE_OK) {
        r = sqlite3_step(*cache);
        r = r == SQLITE_DONE ? SQLITE_OK : r;
    }
    /* Also after a failure: an unfinished statement would hold the transaction open. Its result
     * is that of the step; the caller's memory must not stay bound. */
    sqlite3_reset(*cache);
    sqlite3_clear_bindings(*cache);
    return r;
}

int rows_write(sqlite3 *db, struct row_statements *st, const struct record *rec)
{
    CHECK(rec->table > 0 && rec->table < RECORD_TABLE_COUNT);
    const struct row_table *t = &row_tables[rec->table];
    struct record copy = *rec; /* the field functions serve both ways, so they take no const */
    if (!rec->is_delete) {
        return run_cached(db, &st->upsert[rec->table], t->upsert, t->fields, &copy);
    }
    CHECK(t->key != NULL);
    for (size_t i = 0; i < ROW_ERASES && t->erase[i] != NULL; i++) {
        int r = run_cached(db, &st->erase[rec->table][i], t->erase[i], t->key, &copy);
        if (r != SQLITE_OK) {
            return r;
        }
    }
    return SQLITE_OK;
}

static int load_table(sqlite3 *db, enum record_table table,
                      void (*on_record)(void *ctx, const struct record *rec), void *ctx)
{
    sqlite3_stmt *stmt = NULL;
    int r = sqlite3_prepare_v2(db, row_tables[table].select, -1, &stmt, NULL);
    while (r == SQLITE_OK && (r = sqlite3_step(stmt)) == SQLITE_ROW) {
        struct record rec = {.table = table};
        struct row_io io = {.stmt = stmt, .is_read = true};
        row_tables[table].fields(&io, &rec);
        r = io.r;
        if (r == SQLITE_OK) {
            on_record(ctx, &rec);
        }
    }
    sqlite3_finalize(stmt);
    return r == SQLITE_DONE ? SQLITE_OK : r;
}

int rows_load(sqlite3 *db, void (*on_record)(void *ctx, const struct record *rec), void *ctx)
{
    /* The order of enum record_table is the order that store.h promises. */
    for (int table = RECORD_META; table < RECORD_TABLE_COUNT; table++) {
        int r = load_table(db, (enum record_table)table, on_record, ctx);
        if (r != SQLITE_OK) {
            return r;
        }
    }
    return SQLITE_OK;
}

void rows_done(struct row_statements *st)
{
    for (int table = 0; table < RECORD_TABLE_COUNT; table++) {
        sqlite3_finalize(st->upsert[table]);
        for (size_t i = 0; i < ROW_ERASES; i++) {
            sqlite3_finalize(st->erase[table][i]);
        }
    }
    *st = (struct row_statements){0};
}
