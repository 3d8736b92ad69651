/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store by its contract, against real files: what is committed is loaded, in order and the same
 * by both implementations; epochs fence; files that are not ours, damaged, newer or locked are
 * refused with a way out and stay as they are; migrations, snapshots and checks. What the disk may
 * do wrong is in tests/fault.
 */
#include "tests/unit/test_store_lib.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/path.h"
#include "scheduler/schema.h"
#include "scheduler/store_sqlite.h"

struct fixture {
    char dir[4096], db[4200];
    struct step step;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    make_dir(f->dir, sizeof(f->dir));
    snprintf(f->db, sizeof(f->db), "%s/accel.db", f->dir);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    remove_dir(f->dir);
    free(f);
    return 0;
}

static struct store *open_ok(struct fixture *f)
{
    struct accel_error err = {0};
    struct store *s = NULL;
    int r = store_sqlite_open(f->dir, &s, &err);
    if (r != 0) {
        fail_msg("open: %s", err.text);
    }
    return s;
}

static void open_fails(struct fixture *f, int code, const char *text)
{
    struct accel_error err = {0};
    struct store *s = NULL;
    int r = store_sqlite_open(f->dir, &s, &err);
    if (r != code || strstr(err.text, text) == NULL || err.code != code) {
        fail_msg("wanted %s '%s', got %s '%s'", accel_error_name(code), text, accel_error_name(r),
                 err.text);
    }
    assert_null(s);
}

static void commit_ok(struct store *s, const struct store_txn *txn)
{
    struct accel_error err = {0};
    int r = s->ops->commit(s, txn, &err);
    if (r != 0) {
        fail_msg("commit: %s", err.text);
    }
}

static int commit_one(struct store *s, const struct record *rec, struct accel_error *err)
{
    return s->ops->commit(s, &(struct store_txn){rec, 1, 100}, err);
}

static void write_text(const char *path, const char *data, size_t len)
{
    int r = path_write_atomic(AT_FDCWD, path, data, len, 0600, false, NULL);
    assert_int_equal(r, 0);
}

static void run_sql(const char *path, const char *sql)
{
    sqlite3 *db = NULL;
    char *message = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK) {
        fail_msg("%s: %s", sql, message);
    }
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static int count_row(void *ctx, int n, char **values, char **names)
{
    str_adds(ctx, values[0] != NULL ? values[0] : "NULL");
    str_addc(ctx, '\n');
    return 0;
}

/* First column of all rows; the caller frees it. */
static char *query(const char *path, const char *sql)
{
    sqlite3 *db = NULL;
    char *message = NULL;
    struct str s;
    str_init(&s);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, count_row, &s, &message) != SQLITE_OK) {
        fail_msg("%s: %s", sql, message);
    }
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    return str_steal(&s);
}

static void assert_query(const char *path, const char *sql, const char *want)
{
    AUTO_FREE char *found = query(path, sql);
    assert_string_equal(found, want);
}

static char *file_bytes(const char *path, size_t *ret_len)
{
    char *data = NULL;
    int r = path_read_all(AT_FDCWD, path, 1u << 28, &data, ret_len, NULL);
    assert_int_equal(r, 0);
    return data;
}

/* ---- what is kept ---- */

static void keep_era(void *ctx, const struct record *rec)
{
    if (rec->table == RECORD_META) {
        *(uint64_t *)ctx = rec->u.meta.era;
    }
}

static void test_new_store(void **state)
{
    struct fixture *f = *state;
    struct store *s = open_ok(f);
    struct stat st;
    uint64_t era = 0;
    uint64_t again = 0;
    AUTO_FREE char *text = dump_store(s);
    assert_string_equal(text, "meta epoch 0 seq 0 floor 0\n");
    assert_int_equal(s->ops->load(s, keep_era, &era, NULL), 0);
    assert_true(era > 0 && era < 1ull << 62);
    assert_non_null(strstr(s->ops->describe(s), f->db));
    assert_int_equal(stat(f->db, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    s->ops->close(s);
    s = open_ok(f);
    assert_int_equal(s->ops->load(s, keep_era, &again, NULL), 0);
    assert_true(era == again);
    s->ops->close(s);
    assert_query(f->db, "PRAGMA journal_mode", "wal\n");
    assert_query(f->db, "PRAGMA integrity_check", "ok\n");
}

static void test_same_as_model(void **state)
{
    struct fixture *f = *state;
    struct store *s = open_ok(f);
    struct store *model = store_mem_create(1);
    size_t written = 0;
    for (uint64_t k = 1; k <= 40; k++) {
        const struct store_txn *txn = step_make(&f->step, k, 1 + k / 10);
        commit_ok(s, txn);
        commit_ok(model, txn);
        commit_ok(s, txn); /* idempotent */
        written += 2 * txn->count;
        assert_same_store(s, model);
        if (k % 7 == 0) {
            s->ops->close(s);
            s = open_ok(f);
            written = 0;
            assert_same_store(s, model);
        }
    }
    assert_true(written > 0);
    assert_true(s->row_writes == written);
    assert_true(s->commits == 10);
    s->ops->close(s);
    model->ops->close(model);
}

static void on_find(void *ctx, const char *text)
{
    str_addf(ctx, "%s\n", text);
}

static void assert_check(struct store *s, const char *want)
{
    AUTO_STR struct str found;
    str_init(&found);
    assert_int_equal(s->ops->check(s, on_find, &found, NULL), 0);
    assert_string_equal(found.data, want);
}

/* What was submitted stays when a later record does not carry it; ended jobs load without spec. */
static void test_job_update(void **state)
{
    struct fixture *f = *state;
    struct store *stores[] = {open_ok(f), store_mem_create(1)};
    for (size_t i = 0; i < ARRAY_LEN(stores); i++) {
        struct record rec = {.table = RECORD_JOB,
                             .u.job = {.id = 1, .name = "a", .user = "u", .reason = "",
                                       .state = ACCEL__V1__JOB_STATE__JOB_PENDING, .command = "c",
                                       .request_id = {"0123456789abcdef", 16}, .spec = {"s", 1}}};
        assert_int_equal(commit_one(stores[i], &rec, NULL), 0);
        rec.u.job = (struct record_job){.id = 1, .name = "", .user = "", .reason = "r",
                                        .state = ACCEL__V1__JOB_STATE__JOB_HELD, .command = ""};
        assert_int_equal(commit_one(stores[i], &rec, NULL), 0);
        AUTO_FREE char *held = dump_store(stores[i]);
        assert_non_null(strstr(held, "job 1 a u 0:0 state 5 result 0 'r'"));
        assert_non_null(strstr(held, "'c' env 0 16:30313233343536373839616263646566 1:73\n"));
        rec.u.job.state = ACCEL__V1__JOB_STATE__JOB_ENDED;
        rec.u.job.result = ACCEL__V1__JOB_RESULT__RESULT_LOST;
        assert_int_equal(commit_one(stores[i], &rec, NULL), 0);
        AUTO_FREE char *ended = dump_store(stores[i]);
        assert_non_null(strstr(ended, "16:30313233343536373839616263646566 0:\n"));
    }
    assert_same_store(stores[0], stores[1]);
    stores[0]->ops->close(stores[0]);
    stores[1]->ops->close(stores[1]);
    assert_query(f->db, "SELECT state || ' ' || result || ' ' || spec FROM jobs", "ended lost s\n");
}

/* A request id names one job; a refused transaction leaves nothing. */
static void test_refused(void **state)
{
    struct fixture *f = *state;
    struct store *stores[] = {open_ok(f), store_mem_create(1)};
    for (size_t i = 0; i < ARRAY_LEN(stores); i++) {
        struct store *s = stores[i];
        struct accel_error err = {0};
        commit_ok(s, step_make(&f->step, 1, 3));
        AUTO_FREE char *before = dump_store(s);
        struct record recs[2] = {f->step.records[f->step.count - 1], f->step.records[5]};
        recs[0].u.request.method = "new";
        assert_int_equal(recs[1].table, RECORD_JOB);
        recs[1].u.job.id = 77;
        int r = s->ops->commit(s, &(struct store_txn){recs, 2, 3}, &err);
        assert_int_equal(r, ACCEL_EEXIST);
        recs[1].u.job.request_id.len = 0; /* none at all is no clash */
        recs[1].u.job.state = ACCEL__V1__JOB_STATE__JOB_UNKNOWN;
        r = s->ops->commit(s, &(struct store_txn){recs, 2, 3}, &err);
        assert_int_equal(r, ACCEL_EINVAL);
        r = s->ops->commit(s, &(struct store_txn){recs, 1, 2}, &err);
        assert_int_equal(r, ACCEL_ESTALE);
        struct record meta = {.table = RECORD_META, .u.meta.epoch = 2};
        r = commit_one(s, &meta, &err);
        assert_int_equal(r, ACCEL_ESTALE);
        AUTO_FREE char *after = dump_store(s);
        assert_string_equal(before, after);
        recs[1].u.job.state = ACCEL__V1__JOB_STATE__JOB_HELD;
        assert_int_equal(s->ops->commit(s, &(struct store_txn){recs, 2, 4}, &err), 0);
        recs[1].u.job.id = 78;
        assert_int_equal(s->ops->commit(s, &(struct store_txn){recs, 2, 4}, &err), 0);
    }
    assert_same_store(stores[0], stores[1]);
    stores[0]->ops->close(stores[0]);
    stores[1]->ops->close(stores[1]);
}

static void test_deletes(void **state)
{
    struct fixture *f = *state;
    struct store *stores[] = {open_ok(f), store_mem_create(1)};
    for (size_t i = 0; i < ARRAY_LEN(stores); i++) {
        struct store *s = stores[i];
        for (uint64_t k = 1; k <= 5; k++) {
            commit_ok(s, step_make(&f->step, k, 1));
        }
        struct record recs[] = {
            {.table = RECORD_JOB, .is_delete = true, .u.job.id = 1},
            {.table = RECORD_ATTEMPT, .is_delete = true, .u.attempt = {.job_id = 3, .attempt = 1}},
            {.table = RECORD_WORKER, .is_delete = true, .u.worker = {.job_id = 2, .attempt = 1}},
            {.table = RECORD_NODE, .is_delete = true, .u.node.name = "n1"},
            {.table = RECORD_DEVICE, .is_delete = true, .u.device = {.node = "n1", .id = "cpu:1"}},
            {.table = RECORD_ENVIRONMENT, .is_delete = true, .u.environment.id = 1},
            {.table = RECORD_REQUEST, .is_delete = true,
             .u.request.id = {"\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1", 16}},
            {.table = RECORD_EVENT, .is_delete = true, .u.event.seq = 49},
            {.table = RECORD_EVENT, .is_delete = true, .u.event.seq = 4711}, /* not there */
        };
        struct store_txn txn = {recs, ARRAY_LEN(recs), 1};
        commit_ok(s, &txn);
        AUTO_FREE char *text = dump_store(s);
        assert_null(strstr(text, "job 1 "));
        assert_null(strstr(text, "attempt 1."));
        assert_null(strstr(text, "worker "));
        assert_null(strstr(text, "attempt 3.1"));
        assert_non_null(strstr(text, "attempt 2.1"));
        assert_null(strstr(text, "event 39 ")); /* of job 1 */
        assert_null(strstr(text, "event 49 "));
        assert_non_null(strstr(text, "event 59 "));
        assert_non_null(strstr(text, "device n1 cpu:0"));
        assert_null(strstr(text, "cpu:1"));
        assert_null(strstr(text, "environment"));
    }
    assert_same_store(stores[0], stores[1]);
    stores[0]->ops->close(stores[0]);
    stores[1]->ops->close(stores[1]);
}

static void test_extremes(void **state)
{
    struct fixture *f = *state;
    struct store *s = open_ok(f);
    size_t len = 3u << 20;
    AUTO_FREE char *bulk = xcalloc(1, len);
    struct record recs[] = {
        {.table = RECORD_EVENT, .u.event = {.seq = INT64_MAX, .time_ms = INT64_MIN, .kind = "",
                                            .job_id = UINT64_MAX, .attempt = UINT32_MAX,
                                            .node = NULL, .text = "\xff\xfe '%s\n"}},
        {.table = RECORD_WORKER, .u.worker = {.job_id = 5, .exit_code = INT32_MIN, .node = "",
                                              .signal = INT32_MAX, .devices = "", .error = "",
                                              .stderr_tail = {bulk, len}}},
    };
    commit_ok(s, &(struct store_txn){recs, 2, 0});
    recs[0].u.event.node = "";
    AUTO_STR struct str want;
    str_init(&want);
    str_adds(&want, "meta epoch 0 seq 0 floor 0\n");
    dump_record(&want, &recs[1]);
    dump_record(&want, &recs[0]);
    AUTO_FREE char *text = dump_store(s);
    assert_true(strcmp(want.data, text) == 0);
    s->ops->close(s);
}

/* ---- files that are refused ---- */

static void refuse_unchanged(struct fixture *f, int code, const char *text)
{
    size_t before_len;
    size_t after_len;
    AUTO_FREE char *before = file_bytes(f->db, &before_len);
    open_fails(f, code, text);
    AUTO_FREE char *after = file_bytes(f->db, &after_len);
    assert_int_equal(before_len, after_len);
    assert_memory_equal(before, after, before_len);
}

static void test_not_ours(void **state)
{
    struct fixture *f = *state;
    write_text(f->db, "", 0);
    refuse_unchanged(f, ACCEL_ECORRUPT, "was cut to 0 bytes");
    write_text(f->db, "short", 5);
    refuse_unchanged(f, ACCEL_ECORRUPT, "was cut to 5 bytes");
    AUTO_FREE char *noise = xcalloc(1, 8192);
    memset(noise, 'x', 8192);
    write_text(f->db, noise, 8192);
    refuse_unchanged(f, ACCEL_ECORRUPT, "is not a database");
    unlink(f->db);
    run_sql(f->db, "CREATE TABLE cars (id); PRAGMA application_id = 77; PRAGMA user_version = 1");
    refuse_unchanged(f, ACCEL_ECORRUPT, "another program (application_id 0x4d)");
    unlink(f->db);
    assert_int_equal(mkdir(f->db, 0700), 0);
    open_fails(f, ACCEL_EINVAL, "accel.db");
}

static void test_newer(void **state)
{
    struct fixture *f = *state;
    struct store *s = open_ok(f);
    s->ops->close(s);
    run_sql(f->db, "PRAGMA user_version = 9");
    refuse_unchanged(f, ACCEL_ENEWER, "has version 9 of the tables, but this program (");
    open_fails(f, ACCEL_ENEWER, "mv accel.db.before-v3 accel.db");
}

static void test_truncated(void **state)
{
    struct fixture *f = *state;
    struct store *s = open_ok(f);
    for (uint64_t k = 1; k <= 20; k++) {
        commit_ok(s, step_make(&f->step, k, 1));
    }
    s->ops->close(s);
    size_t len;
    AUTO_FREE char *data = file_bytes(f->db, &len);
    write_text(f->db, data, len / 2);
    refuse_unchanged(f, ACCEL_ECORRUPT, "was cut: ");
    memset(data + 4096, 0x5a, len - 4096); /* damaged, not cut: the load tells */
    write_text(f->db, data, len);
    struct accel_error err = {0};
    int r = store_sqlite_open(f->dir, &s, &err);
    if (r == 0) {
        AUTO_STR struct str sink;
        str_init(&sink);
        r = s->ops->load(s, dump_record, &sink, &err);
        AUTO_STR struct str found;
        str_init(&found);
        assert_int_equal(s->ops->check(s, on_find, &found, NULL), 0);
        assert_true(found.len > 0);
        s->ops->close(s);
    }
    assert_int_equal(r, ACCEL_ECORRUPT);
    assert_non_null(strstr(err.text, "set the file aside"));
}

static void test_wal_without_database(void **state)
{
    struct fixture *f = *state;
    char wal[4300];
    snprintf(wal, sizeof(wal), "%s-wal", f->db);
    write_text(wal, "something", 9);
    open_fails(f, ACCEL_ECORRUPT, "its write-ahead log accel.db-wal is there");
    assert_int_equal(access(f->db, F_OK), -1);
    assert_int_equal(access(wal, F_OK), 0);
}

static void test_no_folder(void **state)
{
    struct fixture f = {.dir = "/nonexistent/accel"};
    open_fails(&f, ACCEL_ENOENT, "cannot use the folder /nonexistent/accel");
    memset(f.dir, 'x', sizeof(f.dir) - 1);
    open_fails(&f, ACCEL_EINVAL, "is too long");
}

/* As somebody else, so that it is seen by root as well. 0: as expected. */
static int open_as_other(struct fixture *f)
{
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) {
        return 10;
    }
    struct accel_error err = {0};
    struct store *s = NULL;
    int r = store_sqlite_open(f->dir, &s, &err);
    if (r != ACCEL_EPERM || strstr(err.text, f->dir) == NULL) {
        print_message("# %s %s\n", accel_error_name(r), err.text);
        return 1;
    }
    return 0;
}

static void test_unwritable(void **state)
{
    struct fixture *f = *state;
    char lock[4300];
    snprintf(lock, sizeof(lock), "%s.lock", f->db);
    for (int round = 0; round < 2; round++) {
        if (round == 1) { /* only the database is not writable */
            assert_int_equal(chmod(f->dir, 0755), 0);
            struct store *s = open_ok(f);
            s->ops->close(s);
            assert_int_equal(chmod(f->db, 0444), 0);
            assert_int_equal(chmod(lock, 0666), 0);
        }
        assert_int_equal(chmod(f->dir, round == 0 ? 0555 : 0777), 0);
        pid_t pid = fork();
        if (pid == 0) {
            _exit(open_as_other(f));
        }
        int status = -1;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
}

static void test_two_processes(void **state)
{
    struct fixture *f = *state;
    struct store *s = open_ok(f);
    pid_t pid = fork();
    if (pid == 0) {
        struct accel_error err = {0};
        struct store *other = NULL;
        int r = store_sqlite_open(f->dir, &other, &err);
        _exit(r == ACCEL_EBUSY && strstr(err.text, "in use by another") != NULL ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    commit_ok(s, step_make(&f->step, 1, 1)); /* undisturbed */
    s->ops->close(s);
    s = open_ok(f);
    s->ops->close(s);
}

/* Not one of ours, but a person with sqlite3 in a transaction. */
static void test_locked_by_person(void **state)
{
    struct fixture *f = *state;
    struct store *s = open_ok(f);
    s->ops->close(s);
    int pipe_fds[2];
    char byte = 0;
    assert_int_equal(pipe(pipe_fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        sqlite3 *db = NULL;
        int r = sqlite3_open(f->db, &db);
        r = r != SQLITE_OK ? r : sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
        if (write(pipe_fds[1], r == SQLITE_OK ? "y" : "n", 1) == 1) {
            pause();
        }
        _exit(0);
    }
    assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    open_fails(f, ACCEL_EBUSY, "another process has it open");
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    s = open_ok(f);
    s->ops->close(s);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void test_moved_away(void **state)
{
    struct fixture *f = *state;
    struct store *s = open_ok(f);
    struct accel_error err = {0};
    char aside[4300];
    snprintf(aside, sizeof(aside), "%s.aside", f->db);
    commit_ok(s, step_make(&f->step, 1, 1));
    assert_int_equal(rename(f->db, aside), 0);
    int r = s->ops->commit(s, step_make(&f->step, 2, 1), &err);
    assert_int_equal(r, ACCEL_EIO);
    assert_non_null(strstr(err.text, "moved or removed"));
    assert_int_equal(rename(aside, f->db), 0);
    commit_ok(s, step_make(&f->step, 2, 1));
    s->ops->close(s);
}

/* ---- a killed process ---- */

static void test_kill(void **state)
{
    struct fixture *f = *state;
    struct store *model = store_mem_create(1);
    int pipe_fds[2];
    char byte;
    assert_int_equal(pipe(pipe_fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct store *s = open_ok(f);
        for (uint64_t k = 1; k <= 30; k++) {
            commit_ok(s, step_make(&f->step, k, 1));
        }
        if (write(pipe_fds[1], "y", 1) == 1) {
            pause();
        }
        _exit(0);
    }
    assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    for (uint64_t k = 1; k <= 30; k++) {
        commit_ok(model, step_make(&f->step, k, 1));
    }
    struct store *s = open_ok(f);
    assert_same_store(s, model);
    s->ops->close(s);
    model->ops->close(model);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

/* ---- migrations, snapshots, checks ---- */

static void test_migration(void **state)
{
    struct fixture *f = *state;
    const char *steps[] = {schema_migrations[0], schema_migrations[1],
                           "CREATE TABLE later (id INTEGER) STRICT",
                           "INSERT INTO nowhere VALUES (1)"};
    static_assert(SCHEMA_VERSION == 2, "the steps above");
    struct accel_error err = {0};
    char backup[4300];
    struct store *s = open_ok(f);
    struct store *model = store_mem_create(1);
    commit_ok(s, step_make(&f->step, 1, 1));
    commit_ok(model, step_make(&f->step, 1, 1));
    s->ops->close(s);
    struct store_sqlite_options options = {.migrations = steps, .version = 3};
    assert_int_equal(store_sqlite_open_with(f->dir, &options, &s, &err), 0);
    assert_same_store(s, model);
    s->ops->close(s);
    assert_query(f->db, "PRAGMA user_version", "3\n");
    assert_query(f->db, "SELECT count(*) FROM later", "0\n");
    snprintf(backup, sizeof(backup), "%s.before-v3", f->db);
    assert_query(backup, "PRAGMA user_version", "2\n");
    assert_query(backup, "PRAGMA application_id", "1094927180\n");
    assert_query(backup, "SELECT count(*) FROM jobs", "1\n");
    options.version = 4; /* one that fails changes nothing */
    int r = store_sqlite_open_with(f->dir, &options, &s, &err);
    assert_int_equal(r, ACCEL_EINTERNAL);
    assert_non_null(strstr(err.text, "cannot migrate"));
    assert_query(f->db, "PRAGMA user_version", "3\n");
    open_fails(f, ACCEL_ENEWER, "has version 3");
    assert_int_equal(rename(backup, f->db), 0); /* as the text says */
    s = open_ok(f);
    assert_same_store(s, model);
    s->ops->close(s);
    model->ops->close(model);
}

/* What 0.1.0 left is taken over whole, and its copy stays beside. */
static void test_from_version_1(void **state)
{
    struct fixture *f = *state;
    char backup[4300];
    size_t len;
    char *sql = NULL;
    assert_int_equal(
        path_read_all(AT_FDCWD, FIXTURES "/store_version1.sql", 1u << 20, &sql, &len, NULL), 0);
    run_sql(f->db, sql);
    free(sql);
    AUTO_FREE char *devices = query(f->db, "SELECT node || id || kind || ordinal FROM devices");
    struct store *s = open_ok(f);
    AUTO_FREE char *text = dump_store(s);
    assert_non_null(strstr(text, "meta epoch 1 seq 100001 floor 0\n"));
    assert_non_null(strstr(text, "job 3 long root 0:0 state 2 result 0"));
    assert_non_null(strstr(text, "worker 4.1.0 vm 0 pid 29437 1 exit 0 signal 15"));
    assert_non_null(strstr(text, "device vm cpu:15   '' 1 15 0\n"));
    assert_null(strstr(text, "certificate"));
    assert_check(s, "");
    struct record tpu = {.table = RECORD_DEVICE};
    tpu.u.device = (struct record_device){.node = "vm", .id = "tpu:0", .kind = 3};
    assert_int_equal(commit_one(s, &tpu, NULL), 0);
    commit_ok(s, step_make(&f->step, 1, 1000));
    s->ops->close(s);
    snprintf(backup, sizeof(backup), "%s.before-v2", f->db);
    assert_query(backup, "SELECT node || id || kind || ordinal FROM devices", devices);
    assert_query(f->db, "SELECT name || role FROM users", "annuser\n");
    assert_query(f->db, "PRAGMA integrity_check", "ok\n");
}

static void test_snapshot(void **state)
{
    struct fixture *f = *state;
    struct accel_error err = {0};
    struct store *s = open_ok(f);
    char path[4300];
    char none[4300];
    uint64_t bytes = 0;
    struct stat st;
    for (uint64_t k = 1; k <= 4; k++) {
        commit_ok(s, step_make(&f->step, k, 1));
    }
    snprintf(path, sizeof(path), "%s/copy'.db", f->dir);
    snprintf(none, sizeof(none), "%s/none/copy.db", f->dir);
    int r = s->ops->snapshot(s, path, &bytes, &err);
    assert_int_equal(r, 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_true((uint64_t)st.st_size == bytes);
    assert_query(path, "SELECT group_concat(state) FROM jobs", "ended,ended,running,pending\n");
    assert_query(path, "SELECT kind FROM history WHERE job_id = 1 AND kind NOT LIKE 'node%'",
                 "job.submitted\nattempt.started\nattempt.running\nattempt.ended\njob.ended\n");
    assert_query(path, "SELECT time FROM history WHERE kind = 'node.ready' LIMIT 1",
                 "2023-11-14T22:13:20.123Z\n");
    r = s->ops->snapshot(s, path, &bytes, &err);
    assert_int_equal(r, ACCEL_EEXIST);
    r = s->ops->snapshot(s, none, &bytes, &err);
    assert_int_equal(r, ACCEL_ENOENT);
    commit_ok(s, step_make(&f->step, 5, 1)); /* still in use */
    s->ops->close(s);
}

static void test_check(void **state)
{
    struct fixture *f = *state;
    struct store *s = open_ok(f);
    for (uint64_t k = 1; k <= 8; k++) {
        commit_ok(s, step_make(&f->step, k, 1));
    }
    assert_check(s, "");
    s->ops->close(s);
    run_sql(f->db, "UPDATE jobs SET state = 'running' WHERE id = 5;"
                   "DELETE FROM attempts WHERE job_id = 6; DELETE FROM environments;"
                   "DELETE FROM jobs WHERE id <> 5 AND id <> 6; DELETE FROM nodes;");
    s = open_ok(f);
    AUTO_STR struct str found;
    str_init(&found);
    assert_int_equal(s->ops->check(s, on_find, &found, NULL), 0);
    const char *wanted[] = {
        "attempt 1 of job 4: there is no such job",
        "rank 0 of job 6 attempt 1: there is no such attempt",
        "job 5: its environment 1 is missing",
        "device cpu:0: there is no node n1",
        "job 5 is running but has the result failed",
    };
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        if (strstr(found.data, wanted[i]) == NULL) {
            fail_msg("'%s' is not in:\n%s", wanted[i], found.data);
        }
    }
    s->ops->close(s);
}

/* The log is written back when idle, and does not grow for ever when never idle. */
static void test_wal_size(void **state)
{
    struct fixture *f = *state;
    struct store *s = open_ok(f);
    struct stat st;
    char wal[4300];
    size_t len = 1u << 20;
    AUTO_FREE char *bulk = xcalloc(1, len);
    off_t largest = 0;
    snprintf(wal, sizeof(wal), "%s-wal", f->db);
    struct record rec = {.table = RECORD_ENVIRONMENT, .u.environment = {1, {bulk, len}}};
    for (int i = 0; i < 50; i++) {
        bulk[0] = (char)i;
        assert_int_equal(commit_one(s, &rec, NULL), 0);
        assert_int_equal(stat(wal, &st), 0);
        largest = MAX(largest, st.st_size);
    }
    assert_true(largest > (off_t)20 << 20);
    assert_true(largest < (off_t)(LIMIT_STORE_WAL_PAGES + 600) * 4200);
    s->ops->close(s);
    assert_int_equal(stat(wal, &st), -1);
    s = open_ok(f);
    for (int i = 0; i < 12; i++) {
        assert_int_equal(commit_one(s, &rec, NULL), 0);
        s->ops->idle(s);
    }
    assert_int_equal(stat(wal, &st), 0);
    assert_true(st.st_size < (off_t)(LIMIT_STORE_WAL_IDLE_PAGES + 600) * 4200);
    s->ops->close(s);
}

/* 40 commits and no end; how often the log got longer, 255 for a failure. */
static int commit_and_die(struct fixture *f, const char *wal)
{
    struct store *s = open_ok(f);
    struct stat st = {0};
    int longer = 0;
    for (uint64_t i = 1; i <= 40; i++) {
        struct record rec = {.table = RECORD_ENVIRONMENT, .u.environment = {i, {"A=1", 3}}};
        off_t before = st.st_size;
        if (commit_one(s, &rec, NULL) != 0 || stat(wal, &st) != 0) {
            return 255;
        }
        longer += st.st_size != before;
    }
    return longer;
}

/* The log is filled with zeros ahead of what is used: few commits change its size, and a crash
 * leaves zeros at its end, which are no rows. */
static void test_wal_ahead(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    char wal[4300];
    char last[4096];
    snprintf(wal, sizeof(wal), "%s-wal", f->db);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(commit_and_die(f, wal));
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) >= 1 && WEXITSTATUS(status) <= 4);
    AUTO_CLOSE int fd = open(wal, O_RDONLY | O_CLOEXEC);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(pread(fd, last, sizeof(last), st.st_size - (off_t)sizeof(last)),
                     sizeof(last));
    for (size_t i = 0; i < sizeof(last); i++) {
        assert_int_equal(last[i], 0);
    }
    struct store *s = open_ok(f);
    s->ops->close(s);
    assert_query(f->db, "SELECT count(*) FROM environments", "40\n");
    assert_query(f->db, "PRAGMA integrity_check", "ok\n");
}

static void test_mem_failures(void **state)
{
    struct fixture *f = *state;
    struct store *s = store_mem_create(5);
    AUTO_FREE char *empty = dump_store(s);
    store_mem_fail_commits(s, 1, false);
    int r = s->ops->commit(s, step_make(&f->step, 1, 1), NULL);
    assert_int_equal(r, ACCEL_ENOSPC);
    AUTO_FREE char *still = dump_store(s);
    assert_string_equal(empty, still);
    store_mem_fail_commits(s, 1, true);
    r = s->ops->commit(s, step_make(&f->step, 1, 1), NULL);
    assert_int_equal(r, ACCEL_ENOSPC);
    AUTO_FREE char *applied = dump_store(s);
    assert_non_null(strstr(applied, "job 1 "));
    commit_ok(s, step_make(&f->step, 1, 1));
    AUTO_FREE char *retried = dump_store(s);
    assert_string_equal(applied, retried);
    assert_check(s, "");
    s->ops->close(s);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_new_store),
        TEST(test_same_as_model),
        TEST(test_job_update),
        TEST(test_refused),
        TEST(test_deletes),
        TEST(test_extremes),
        TEST(test_not_ours),
        TEST(test_newer),
        TEST(test_truncated),
        TEST(test_wal_without_database),
        TEST(test_no_folder),
        TEST(test_unwritable),
        TEST(test_two_processes),
        TEST(test_locked_by_person),
        TEST(test_moved_away),
        TEST(test_kill),
        TEST(test_migration),
        TEST(test_from_version_1),
        TEST(test_snapshot),
        TEST(test_check),
        TEST(test_wal_size),
        TEST(test_wal_ahead),
        TEST(test_mem_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
