/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's thread with a real loop over a store that fails on demand: results come on the loop
 * and in order, a failing commit is the same transaction again with growing pauses until the fault
 * is lifted, snapshots and checks run between commits and during the pauses, and a stop ends all
 * of it. The loop's own timer only ends a test that hangs.
 */
#include "tests/unit/test_store_lib.h"

#include "common/clock.h"
#include "scheduler/store_sqlite.h"
#include "scheduler/store_thread.h"

#define HANG_MS 20000
#define COMMITS 200
#define LOG_MAX 64

/* Passes on to a store in memory; what it does is set by atomics, as it runs in the thread. */
struct fake_store {
    struct store base;
    struct store *inner;
    int fail_code; /* 0: commits pass */
    int problems;  /* found by check */
    unsigned tries, idles, closes;
    uv_sem_t idle; /* posted by each idle() */
    int64_t try_ms[LOG_MAX];
    const struct store_txn *try_txn[LOG_MAX];
};

static int fake_commit(struct store *base, const struct store_txn *txn, struct accel_error *err)
{
    struct fake_store *f = CONTAINER_OF(base, struct fake_store, base);
    unsigned n = __atomic_fetch_add(&f->tries, 1, __ATOMIC_SEQ_CST);
    f->try_ms[n % LOG_MAX] = clock_mono_ms();
    f->try_txn[n % LOG_MAX] = txn;
    int code = __atomic_load_n(&f->fail_code, __ATOMIC_SEQ_CST);
    return code != 0 ? error_set(err, code, "fault") : f->inner->ops->commit(f->inner, txn, err);
}

static void fake_idle(struct store *base)
{
    struct fake_store *f = CONTAINER_OF(base, struct fake_store, base);
    f->idles++;
    uv_sem_post(&f->idle);
}

static int fake_snapshot(struct store *base, const char *path, uint64_t *ret_bytes,
                         struct accel_error *err)
{
    if (strcmp(path, "bad") == 0) {
        return error_set(err, ACCEL_EEXIST, "exists");
    }
    *ret_bytes = strlen(path);
    return 0;
}

static int fake_check(struct store *base, void (*on_problem)(void *ctx, const char *text),
                      void *ctx, struct accel_error *err)
{
    struct fake_store *f = CONTAINER_OF(base, struct fake_store, base);
    for (int i = 0; i < f->problems; i++) {
        char text[32];
        snprintf(text, sizeof(text), "problem %d", i);
        on_problem(ctx, text);
    }
    return 0;
}

static void fake_close(struct store *base)
{
    struct fake_store *f = CONTAINER_OF(base, struct fake_store, base);
    f->closes++;
}

static const struct store_ops fake_ops = {
    .commit = fake_commit, .idle = fake_idle, .snapshot = fake_snapshot,
    .check = fake_check,   .close = fake_close,
};

struct fixture {
    uv_loop_t loop;
    uv_timer_t hang;
    struct fake_store fake;
    struct store_thread *thread;
    struct step step;
    uint64_t k;
    unsigned committed, failing, stale, stopped, ops_done;
    unsigned lift_after; /* failures told, then the fault is lifted */
    bool snapshot_first; /* give a snapshot with each commit */
    bool is_pause_op;    /* give a check at the first failure */
    struct str log;
};

static void on_stopped(void *ctx)
{
    struct fixture *f = ctx;
    f->stopped++;
    f->thread = NULL;
    str_adds(&f->log, "stopped ");
}

static void on_hang(uv_timer_t *timer)
{
    fail_msg("the loop waits for something that does not come");
}

static void on_snapshot(void *ctx, int r, uint64_t bytes, const struct accel_error *err)
{
    struct fixture *f = ctx;
    f->ops_done++;
    str_addf(&f->log, "snapshot:%s:%" PRIu64 " ", accel_error_name(r), bytes);
    assert_true((r == 0) == (err == NULL));
}

static void on_check(void *ctx, int r, const char *const *problems, const struct accel_error *err)
{
    struct fixture *f = ctx;
    size_t count = 0;
    while (r == 0 && problems[count] != NULL) {
        count++;
    }
    f->ops_done++;
    str_addf(&f->log, "check:%s:%zu%s ", accel_error_name(r), count,
             count > LIMIT_STORE_PROBLEMS ? problems[LIMIT_STORE_PROBLEMS] : "");
    if (f->is_pause_op) { /* ran although a commit is failing: now let that one pass */
        assert_int_equal(f->committed, 0);
        __atomic_store_n(&f->fake.fail_code, 0, __ATOMIC_SEQ_CST);
    }
}

static void next_commit(struct fixture *f)
{
    f->k++;
    if (f->snapshot_first && f->k % 10 == 0) {
        store_thread_snapshot(f->thread, "path", on_snapshot, f);
    }
    store_thread_commit(f->thread, step_make(&f->step, f->k, 1));
}

static void on_committed(void *ctx)
{
    struct fixture *f = ctx;
    f->committed++;
    /* The loop is told of the very transaction that is in the store: not before, none skipped. */
    assert_int_equal(f->committed, f->k);
    assert_int_equal(__atomic_load_n(&f->fake.inner->commits, __ATOMIC_RELAXED), f->k);
    if (f->committed < COMMITS && f->lift_after == 0 && !f->is_pause_op) {
        next_commit(f);
    } else {
        store_thread_stop(f->thread, on_stopped, f);
    }
}

static void on_failing(void *ctx, const struct accel_error *err)
{
    struct fixture *f = ctx;
    f->failing++;
    assert_int_equal(err->code, ACCEL_ENOSPC);
    if (f->failing == f->lift_after) {
        __atomic_store_n(&f->fake.fail_code, 0, __ATOMIC_SEQ_CST);
    }
    if (f->is_pause_op && f->failing == 1) {
        store_thread_check(f->thread, on_check, f);
    }
}

static void on_stale(void *ctx, const struct accel_error *err)
{
    struct fixture *f = ctx;
    f->stale++;
    assert_int_equal(err->code, ACCEL_ESTALE);
    store_thread_stop(f->thread, on_stopped, f);
}

static int set_up(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));
    f->fake.base.ops = &fake_ops;
    f->fake.inner = store_mem_create(1);
    assert_int_equal(uv_sem_init(&f->fake.idle, 0), 0);
    str_init(&f->log);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(uv_timer_init(&f->loop, &f->hang), 0);
    assert_int_equal(uv_timer_start(&f->hang, on_hang, HANG_MS, 0), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    uv_close((uv_handle_t *)&f->hang, NULL);
    assert_int_equal(uv_run(&f->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&f->loop), 0); /* BUSY: a handle is left */
    f->fake.inner->ops->close(f->fake.inner);
    uv_sem_destroy(&f->fake.idle);
    str_done(&f->log);
    free(f);
    return 0;
}

static void start(struct fixture *f, struct store *store,
                  void (*committed)(void *), void (*failing)(void *, const struct accel_error *))
{
    struct store_thread_callbacks callbacks = {committed, failing, on_stale};
    int r = store_thread_start(&f->loop, store, &callbacks, f, &f->thread, NULL);
    assert_int_equal(r, 0);
}

static void start_fake(struct fixture *f)
{
    start(f, &f->fake.base, on_committed, on_failing);
}

static void run(struct fixture *f)
{
    while (f->stopped == 0) {
        uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_int_equal(f->stopped, 1);
}

static void run_fake(struct fixture *f)
{
    run(f);
    assert_int_equal(f->fake.closes, 1);
}

static void test_order(void **state)
{
    struct fixture *f = *state;
    f->snapshot_first = true;
    start_fake(f);
    next_commit(f);
    run_fake(f);
    assert_int_equal(f->committed, COMMITS);
    assert_int_equal(f->fake.tries, COMMITS);
    assert_int_equal(f->failing, 0);
    assert_int_equal(f->ops_done, COMMITS / 10);
}

static void test_retry(void **state)
{
    struct fixture *f = *state;
    f->fake.fail_code = ACCEL_ENOSPC;
    f->lift_after = 4;
    start_fake(f);
    next_commit(f);
    run_fake(f);
    assert_int_equal(f->committed, 1);
    assert_true(f->fake.tries >= 5);
    assert_true(f->failing >= 4);
    for (unsigned i = 1; i < f->fake.tries; i++) {
        int64_t pause_ms = f->fake.try_ms[i] - f->fake.try_ms[i - 1];
        int64_t want_ms = (int64_t)LIMIT_STORE_RETRY_MIN_MS << (i - 1);
        assert_true(pause_ms >= MIN(want_ms, LIMIT_STORE_RETRY_MAX_MS));
        assert_ptr_equal(f->fake.try_txn[i], f->fake.try_txn[0]); /* the same transaction */
    }
}

static void test_operation_in_pause(void **state)
{
    struct fixture *f = *state;
    f->fake.fail_code = ACCEL_ENOSPC;
    f->is_pause_op = true;
    start_fake(f);
    next_commit(f);
    run_fake(f);
    assert_int_equal(f->committed, 1);
    assert_int_equal(f->ops_done, 1);
}

static void on_failing_stop(void *ctx, const struct accel_error *err)
{
    struct fixture *f = ctx;
    f->failing++;
    if (f->failing == 1) {
        store_thread_snapshot(f->thread, "late", on_snapshot, f);
        store_thread_stop(f->thread, on_stopped, f);
        store_thread_snapshot(f->thread, "later", on_snapshot, f);
    }
}

static void test_stop_while_failing(void **state)
{
    struct fixture *f = *state;
    f->fake.fail_code = ACCEL_EIO;
    start(f, &f->fake.base, on_committed, on_failing_stop);
    store_thread_commit(f->thread, step_make(&f->step, 1, 1));
    run_fake(f);
    assert_int_equal(f->committed, 0);
    assert_int_equal(f->fake.tries, 1);
    assert_int_equal(f->ops_done, 2);
    assert_non_null(strstr(f->log.data, "snapshot:ECANCELLED:0 "));
    assert_non_null(strstr(f->log.data, "stopped "));
}

static void on_committed_last(void *ctx)
{
    struct fixture *f = ctx;
    f->committed++;
    assert_int_equal(f->stopped, 0);
    store_thread_commit(f->thread, step_make(&f->step, 2, 1)); /* dropped: it is stopping */
}

static void on_committed_stay(void *ctx)
{
    ((struct fixture *)ctx)->committed++;
}

static void on_snapshot_stop(void *ctx, int r, uint64_t bytes, const struct accel_error *err)
{
    struct fixture *f = ctx;
    on_snapshot(ctx, r, bytes, err);
    store_thread_stop(f->thread, on_stopped, f);
}

static void test_commit_before_stop(void **state)
{
    struct fixture *f = *state;
    start(f, &f->fake.base, on_committed_last, on_failing);
    store_thread_commit(f->thread, step_make(&f->step, 1, 1));
    store_thread_stop(f->thread, on_stopped, f);
    assert_int_equal(f->committed, 0); /* never from within a call */
    run_fake(f);
    assert_int_equal(f->committed, 1);
    assert_int_equal(f->fake.inner->commits, 1);
}

/* The idle time comes once after a commit, not before and not again. */
static void test_idle(void **state)
{
    struct fixture *f = *state;
    start(f, &f->fake.base, on_committed_stay, on_failing);
    store_thread_commit(f->thread, step_make(&f->step, 1, 1));
    uv_sem_wait(&f->fake.idle);
    store_thread_snapshot(f->thread, "x", on_snapshot_stop, f);
    run_fake(f);
    assert_int_equal(f->committed, 1);
    assert_int_equal(f->fake.idles, 1);
}

static void test_stale(void **state)
{
    struct fixture *f = *state;
    f->fake.fail_code = ACCEL_ESTALE;
    start_fake(f);
    next_commit(f);
    run_fake(f);
    assert_int_equal(f->stale, 1);
    assert_int_equal(f->fake.tries, 1);
    assert_int_equal(f->committed + f->failing, 0);
}

static void on_last_check(void *ctx, int r, const char *const *problems,
                          const struct accel_error *err)
{
    struct fixture *f = ctx;
    on_check(ctx, r, problems, err);
    if (f->ops_done == 3) {
        store_thread_stop(f->thread, on_stopped, f);
    }
}

static void test_operations(void **state)
{
    struct fixture *f = *state;
    f->fake.problems = LIMIT_STORE_PROBLEMS + 50;
    start_fake(f);
    store_thread_snapshot(f->thread, "bad", on_snapshot, f);
    store_thread_snapshot(f->thread, "good", on_snapshot, f);
    store_thread_check(f->thread, on_last_check, f);
    assert_int_equal(f->ops_done, 0);
    run_fake(f);
    assert_string_equal(f->log.data,
                        "snapshot:EEXIST:0 snapshot:OK:4 check:OK:101and more stopped ");
}

static void on_capped(void *ctx, int r, uint64_t bytes, const struct accel_error *err)
{
    struct fixture *f = ctx;
    on_snapshot(ctx, r, bytes, err);
    if (f->ops_done == LIMIT_STORE_OPERATIONS * 4) {
        store_thread_stop(f->thread, on_stopped, f);
    }
}

static void test_operations_cap(void **state)
{
    struct fixture *f = *state;
    start_fake(f);
    for (unsigned i = 0; i < LIMIT_STORE_OPERATIONS * 4; i++) {
        store_thread_snapshot(f->thread, "x", on_capped, f);
    }
    run_fake(f);
    assert_int_equal(f->ops_done, LIMIT_STORE_OPERATIONS * 4); /* each is told, done or refused */
    assert_null(strstr(f->log.data, "snapshot:ENOMEM"));
    assert_non_null(strstr(f->log.data, "snapshot:OK:1"));
}

/* With a real file, so that the whole way is walked: commit, snapshot, check, close. */
static void test_sqlite(void **state)
{
    struct fixture *f = *state;
    struct store *s = NULL;
    char dir[4096];
    char copy[4200];
    make_dir(dir, sizeof(dir));
    snprintf(copy, sizeof(copy), "%s/copy", dir);
    assert_int_equal(store_sqlite_open(dir, &s, NULL), 0);
    start(f, s, on_committed_last, on_failing);
    store_thread_snapshot(f->thread, copy, on_snapshot, f);
    store_thread_check(f->thread, on_check, f);
    while (f->ops_done < 2) {
        uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_non_null(strstr(f->log.data, "check:OK:0 "));
    assert_int_equal(access(copy, F_OK), 0);
    store_thread_commit(f->thread, step_make(&f->step, 1, 1));
    store_thread_stop(f->thread, on_stopped, f);
    run(f);
    assert_int_equal(f->committed, 1);
    assert_int_equal(store_sqlite_open(dir, &s, NULL), 0);
    AUTO_FREE char *text = dump_store(s);
    assert_non_null(strstr(text, "job 1 train"));
    s->ops->close(s);
    remove_dir(dir);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_order),
        TEST(test_retry),
        TEST(test_operation_in_pause),
        TEST(test_stop_while_failing),
        TEST(test_commit_before_stop),
        TEST(test_idle),
        TEST(test_stale),
        TEST(test_operations),
        TEST(test_operations_cap),
        TEST(test_sqlite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
