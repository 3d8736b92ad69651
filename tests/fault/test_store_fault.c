/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SQLite store on a disk that fails. One day in the life of a coordinator (new store, commits,
 * write-back, snapshot, stop, start) is lived again and again, with the first, second, third...
 * write, sync, open, delete or allocation failing, until a day passes without meeting its fault.
 * After each: what was acknowledged is there, the transaction that failed is there wholly or not
 * at all, and its retry succeeds. The model is the store in memory.
 */
#include "tests/unit/test_store_lib.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "scheduler/store_sqlite.h"
#include "tests/fault/fault_vfs.h"

#define DAY_COMMITS 9
#define CASES_MAX 3000 /* a day has some 500 calls */
#define SEEDS 3

static const struct store_sqlite_options options = {.vfs = "fault", .idle_pages = 20};

struct day {
    char dir[4096];
    struct step step;
    uint64_t acked;   /* transactions that commit() said were durable */
    bool is_patient;  /* a failure is met by a retry, up to twice */
    bool is_uncut;    /* no clean stop at the end */
    unsigned failures;
    int last_code;
    struct accel_error err;
};

static bool day_failed(struct day *d, int r)
{
    if (r != 0) {
        d->failures++;
        d->last_code = r;
        if (d->err.text[0] == '\0' || d->err.code != r) {
            fail_msg("failure %s without a text: '%s'", accel_error_name(r), d->err.text);
        }
    }
    return r != 0;
}

static struct store *day_open(struct day *d)
{
    struct store *s = NULL;
    for (int i = 0; i < (d->is_patient ? 3 : 1); i++) {
        d->err = (struct accel_error){0};
        if (!day_failed(d, store_sqlite_open_with(d->dir, &options, &s, &d->err))) {
            return s;
        }
    }
    return NULL;
}

static bool day_commit(struct day *d, struct store *s, uint64_t k)
{
    const struct store_txn *txn = step_make(&d->step, k, 1);
    for (int i = 0; i < (d->is_patient ? 3 : 1); i++) {
        d->err = (struct accel_error){0};
        if (!day_failed(d, s->ops->commit(s, txn, &d->err))) {
            d->acked = k;
            return true;
        }
    }
    return false;
}

/* Lives from the first transaction that is not acknowledged; NULL: ended early or properly. With
 * is_uncut the store that is still open. */
static struct store *day_live(struct day *d)
{
    struct store *s = day_open(d);
    while (s != NULL && d->acked < DAY_COMMITS) {
        if (!day_commit(d, s, d->acked + 1)) {
            break;
        }
        if (d->acked % 3 == 0) {
            s->ops->idle(s);
        }
        if (d->acked == 5) {
            char copy[4200];
            uint64_t bytes;
            d->err = (struct accel_error){0};
            snprintf(copy, sizeof(copy), "%s/copy", d->dir);
            unlink(copy);
            day_failed(d, s->ops->snapshot(s, copy, &bytes, &d->err));
        }
        if (d->acked == 7) {
            s->ops->close(s);
            s = day_open(d);
        }
    }
    if (s != NULL && !d->is_uncut) {
        s->ops->close(s);
        s = NULL;
    }
    return s;
}

static void on_problem(void *ctx, const char *text)
{
    fail_msg("check: %s", text);
}

/* Made once for each k: it is the same every day. */
static const char *model_after(struct day *d, uint64_t k)
{
    static char *texts[DAY_COMMITS + 1];
    assert_true(k < ARRAY_LEN(texts));
    if (texts[k] == NULL) {
        struct store *model = store_mem_create(1);
        for (uint64_t i = 1; i <= k; i++) {
            assert_int_equal(model->ops->commit(model, step_make(&d->step, i, 1), NULL), 0);
        }
        texts[k] = dump_store(model);
        model->ops->close(model);
    }
    return texts[k];
}

/* What a coordinator finds that starts now, with a disk in order. */
static struct store *assert_recovered(struct day *d, const char *what, unsigned n)
{
    struct accel_error err = {0};
    struct store *s = NULL;
    int r = store_sqlite_open_with(d->dir, &options, &s, &err);
    if (r != 0) {
        fail_msg("%s %u: open: %s", what, n, err.text);
    }
    AUTO_FREE char *found = dump_store(s);
    const char *with = model_after(d, d->acked);
    const char *next = model_after(d, MIN(d->acked + 1, DAY_COMMITS));
    if (strcmp(found, with) != 0 && strcmp(found, next) != 0) {
        fail_msg("%s %u: neither the %" PRIu64 " acknowledged transactions nor one more:\n%s", what,
                 n, d->acked, found);
    }
    r = s->ops->check(s, on_problem, NULL, &err);
    if (r != 0) {
        fail_msg("%s %u: check: %s", what, n, err.text);
    }
    return s;
}

/* The rest of the day, beginning with the transaction that failed. */
static void assert_finishes(struct day *d, const char *what, unsigned n)
{
    struct store *s = assert_recovered(d, what, n);
    s->ops->close(s);
    unsigned before = d->failures;
    d->is_uncut = false;
    day_live(d);
    if (d->failures != before || d->acked != DAY_COMMITS) {
        fail_msg("%s %u: goes on failing on a good disk: %s", what, n, d->err.text);
    }
    s = assert_recovered(d, what, n);
    s->ops->close(s);
}

static void day_begin(struct day *d, bool is_patient, bool is_uncut)
{
    memset(d, 0, sizeof(*d));
    make_dir(d->dir, sizeof(d->dir));
    d->is_patient = is_patient;
    d->is_uncut = is_uncut;
}

static void day_end(struct day *d)
{
    remove_dir(d->dir);
    fault_vfs_forget();
}

/* ---- the disk ---- */

/* It fails once: the retry on the same connection succeeds, nothing else happens. */
static void fail_once(bool is_full, unsigned stride)
{
    static struct day d;
    unsigned n = 1;
    for (bool hit = true; hit; n += stride) {
        assert_true(n < CASES_MAX);
        day_begin(&d, true, false);
        fault_vfs_arm(FAULT_ONCE, n, is_full);
        day_live(&d);
        hit = fault_vfs_hit();
        if (d.acked != DAY_COMMITS || d.failures > 1 || (!hit && d.failures > 0)) {
            fail_msg("fault at %u: %u failures, %" PRIu64 " done: %s", n, d.failures, d.acked,
                     d.err.text);
        }
        fault_vfs_arm(FAULT_NONE, 0, false);
        struct store *s = assert_recovered(&d, "once", n);
        s->ops->close(s);
        day_end(&d);
    }
    assert_true(n > 100);
}

static void test_error_once(void **state)
{
    fail_once(false, 1);
}

static void test_full_once(void **state)
{
    fail_once(true, 3);
}

/* It fails until somebody helps; meanwhile the coordinator is restarted. */
static void test_sticky(void **state)
{
    static struct day d;
    unsigned n = 1;
    unsigned full = 0;
    for (bool hit = true; hit; n++) {
        assert_true(n < CASES_MAX);
        day_begin(&d, true, false);
        fault_vfs_arm(FAULT_STICKY, n, true);
        day_live(&d);
        hit = fault_vfs_hit();
        full += d.last_code == ACCEL_ENOSPC;
        if (d.last_code == ACCEL_ENOSPC) {
            assert_non_null(strstr(d.err.text, "\nwhy: "));
            assert_non_null(strstr(d.err.text, "\ntry: "));
        }
        fault_vfs_arm(FAULT_NONE, 0, false);
        assert_finishes(&d, "sticky", n);
        day_end(&d);
    }
    assert_true(full > 20);
}

/* Power fails: sectors that were not synced are there or not, each by itself. */
static void test_crash(void **state)
{
    static struct day d;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        unsigned n = 1 + (unsigned)seed;
        for (bool hit = true; hit; n += seed == 0 ? 1 : SEEDS) {
            assert_true(n < CASES_MAX);
            day_begin(&d, false, true);
            fault_vfs_arm(FAULT_CRASH, n, false);
            struct store *s = day_live(&d);
            hit = fault_vfs_hit();
            if (!hit) { /* the last case: at the end of the day, before a clean stop */
                fault_vfs_arm(FAULT_CRASH, 1, false);
            }
            if (s != NULL) {
                s->ops->close(s);
            }
            fault_vfs_power_cycle(seed == 0 ? 0 : seed * 1000 + n);
            assert_finishes(&d, "crash", n);
            day_end(&d);
        }
    }
}

/* A sync fails once, and what it was to write is lost unless it is written again. Everything
 * seems fine until, much later, power fails. */
static void test_failed_sync_is_remembered(void **state)
{
    static struct day d;
    unsigned n = 1;
    for (bool hit = true; hit; n++) {
        assert_true(n < CASES_MAX);
        day_begin(&d, true, true);
        fault_vfs_arm(FAULT_SYNC, n, false);
        struct store *s = day_live(&d);
        hit = fault_vfs_hit();
        assert_int_equal(d.acked, DAY_COMMITS);
        fault_vfs_arm(FAULT_CRASH, 1, false);
        s->ops->close(s);
        fault_vfs_power_cycle(0);
        assert_finishes(&d, "sync", n);
        day_end(&d);
    }
    assert_true(n > DAY_COMMITS);
}

/* ---- memory ---- */

static sqlite3_mem_methods real_mem;
static unsigned mem_at, mem_calls;
static bool mem_is_sticky, mem_hit;

static bool mem_strikes(void)
{
    mem_calls++;
    bool now = mem_at != 0 && (mem_calls == mem_at || (mem_is_sticky && mem_calls > mem_at));
    mem_hit |= now;
    return now;
}

static void *mem_malloc(int size)
{
    return mem_strikes() ? NULL : real_mem.xMalloc(size);
}

static void *mem_realloc(void *p, int size)
{
    return mem_strikes() ? NULL : real_mem.xRealloc(p, size);
}

static void mem_arm(unsigned at, bool is_sticky)
{
    mem_at = at;
    mem_is_sticky = is_sticky;
    mem_calls = 0;
    mem_hit = false;
}

static void mem_install(void)
{
    int r = sqlite3_config(SQLITE_CONFIG_GETMALLOC, &real_mem);
    CHECK(r == SQLITE_OK);
    sqlite3_mem_methods mine = real_mem;
    mine.xMalloc = mem_malloc;
    mine.xRealloc = mem_realloc;
    r = sqlite3_config(SQLITE_CONFIG_MALLOC, &mine);
    CHECK(r == SQLITE_OK);
    /* Without its private pools every small thing is an allocation that can fail. */
    r = sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0);
    CHECK(r == SQLITE_OK);
}

static unsigned memory_case(struct day *d, unsigned n, bool is_sticky)
{
    day_begin(d, true, false);
    mem_arm(n, is_sticky);
    day_live(d);
    unsigned failures = d->failures;
    bool hit = mem_hit;
    mem_arm(0, false);
    if (d->last_code != 0 && d->last_code != ACCEL_ENOMEM && d->last_code != ACCEL_EIO) {
        fail_msg("allocation %u: %s", n, d->err.text);
    }
    assert_finishes(d, "allocation", n);
    day_end(d);
    return hit ? failures + 1 : 0;
}

static void test_memory(void **state)
{
    static struct day d;
    unsigned n = 1;
    unsigned failures = 0;
    day_begin(&d, true, false);
    mem_arm(0, false);
    day_live(&d);
    unsigned total = mem_calls;
    day_end(&d);
    assert_true(total > 500);
    /* All of the first ones (opening), then a spread: each case is a whole day. */
    for (; n <= total; n += n < 100 ? 1 : MAX(total / 150, 1)) {
        unsigned r = memory_case(&d, n, n % 2 == 0);
        failures += r > 0 ? r - 1 : 0;
    }
    assert_true(failures > 100);
}

/* ---- a real full disk ---- */

static int mount_small(const char *dir)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0) {
        return -1;
    }
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
        return -1;
    }
    return mount("none", dir, "tmpfs", 0, "size=600k,mode=0700");
}

/* Takes all room that is left but `keep` bytes. */
static void fill_disk(const char *path, off_t keep)
{
    char block[4096] = {1};
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct stat st;
    assert_true(fd >= 0);
    while (write(fd, block, sizeof(block)) == (ssize_t)sizeof(block)) {
    }
    assert_int_equal(errno, ENOSPC);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(ftruncate(fd, MAX(st.st_size - keep, 0)), 0);
    close(fd);
}

static void test_real_full_disk(void **state)
{
    static struct day d;
    char filler[4200];
    day_begin(&d, false, false);
    if (mount_small(d.dir) != 0) {
        remove_dir(d.dir);
        skip();
    }
    snprintf(filler, sizeof(filler), "%s/filler", d.dir);
    fill_disk(filler, 0);
    struct store *s = NULL;
    struct store *model = store_mem_create(1);
    int r = store_sqlite_open(d.dir, &s, &d.err);
    assert_int_equal(r, ACCEL_ENOSPC);
    unlink(filler);
    r = store_sqlite_open(d.dir, &s, &d.err);
    assert_int_equal(r, 0);
    fill_disk(filler, 100000);
    while (d.acked < 1000 && day_commit(&d, s, d.acked + 1)) {
    }
    assert_int_equal(d.last_code, ACCEL_ENOSPC);
    assert_non_null(strstr(d.err.text, "the file system is full"));
    assert_false(day_commit(&d, s, d.acked + 1)); /* nothing got better by itself */
    for (uint64_t k = 1; k <= d.acked; k++) {
        assert_int_equal(model->ops->commit(model, step_make(&d.step, k, 1), NULL), 0);
    }
    assert_same_store(s, model); /* reading goes on */
    unlink(filler);
    for (int i = 0; i < 3; i++) {
        if (!day_commit(&d, s, d.acked + 1)) {
            fail_msg("there is room again: %s", d.err.text);
        }
    }
    s->ops->close(s);
    assert_int_equal(store_sqlite_open(d.dir, &s, NULL), 0);
    for (uint64_t k = d.acked - 2; k <= d.acked; k++) {
        assert_int_equal(model->ops->commit(model, step_make(&d.step, k, 1), NULL), 0);
    }
    assert_same_store(s, model);
    model->ops->close(model);
    assert_int_equal(s->ops->check(s, on_problem, NULL, NULL), 0);
    s->ops->close(s);
    assert_int_equal(umount(d.dir), 0);
    day_end(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_once),
        cmocka_unit_test(test_full_once),
        cmocka_unit_test(test_sticky),
        cmocka_unit_test(test_crash),
        cmocka_unit_test(test_failed_sync_is_remembered),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_real_full_disk),
    };
    if (access("/dev/shm", W_OK) == 0) { /* hundreds of stores are made: no need of a real disk */
        setenv("TMPDIR", "/dev/shm", 0);
    }
    mem_install();
    fault_vfs_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
