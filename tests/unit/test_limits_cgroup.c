/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is written into the files of controllers and read from them, on a tree of plain files in
 * place of the kernel's, so without root: version 2, version 1, and what is said where one is not
 * to be had. That a kernel enforces it is for test_launcher_limits and tests/vm.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agentd/limits_cgroup.h"
#include "common/path.h"

#define EVENTS "low 0\nhigh 0\nmax 9\noom 2\noom_kill %d\noom_group_kill 7\n"

/* TOP is acceld's group, TOP/parent where attempts go, TOP/parent/1.1 one of them. */
struct tree {
    char top[64];
    struct cgroup_root root;
    struct limits_root limits;
    char texts[LIMIT_KINDS][LIMIT_TEXT_BYTES];
};

static void put(const struct tree *t, const char *path, const char *text)
{
    char full[PATH_MAX];
    snprintf(full, sizeof(full), "%s/%s", t->top, path);
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void make(const struct tree *t, const char *path)
{
    char full[PATH_MAX];
    snprintf(full, sizeof(full), "%s/%s", t->top, path);
    assert_int_equal(mkdir(full, 0700), 0);
}

/* NULL: there is no such file. */
static void check_file(const struct tree *t, const char *path, const char *want)
{
    char full[PATH_MAX];
    AUTO_FREE char *text = NULL;
    size_t len;
    snprintf(full, sizeof(full), "%s/%s", t->top, path);
    int r = path_read_all(AT_FDCWD, full, 4096, &text, &len, NULL);
    if (want == NULL) {
        assert_int_equal(r, ACCEL_ENOENT);
    } else {
        assert_int_equal(r, 0);
        assert_string_equal(text, want);
    }
}

static void tree_make(struct tree *t, const char *controllers, const char *procs)
{
    *t = (struct tree){.limits.is_test = true};
    snprintf(t->top, sizeof(t->top), "/tmp/accel-limits.XXXXXX");
    assert_non_null(mkdtemp(t->top));
    make(t, "parent");
    make(t, "parent/1.1");
    put(t, "cgroup.type", "domain\n");
    put(t, "cgroup.controllers", controllers);
    put(t, "cgroup.procs", procs);
    put(t, "mounts", "");
    snprintf(t->root.path, sizeof(t->root.path), "%s/parent", t->top);
    t->root.fd = open(t->root.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(t->root.fd >= 0);
}

static void tree_init(struct tree *t, bool has_unified)
{
    char mounts[PATH_MAX];
    snprintf(mounts, sizeof(mounts), "%s/mounts", t->top);
    limits_root_init(&t->limits, has_unified ? &t->root : NULL, "parent", mounts);
    limits_describe(&t->limits, t->texts);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    return remove(path);
}

static void tree_done(struct tree *t)
{
    close(t->root.fd);
    assert_int_equal(nftw(t->top, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static void make_attempt(struct tree *t, const Accel__V1__AttemptSpec *spec, uint32_t default_pids,
                         struct limits *ret)
{
    int fd = openat(t->root.fd, "1.1", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    limits_make(&t->limits, "1.1", fd, spec, default_pids, ret);
    close(fd);
}

/* ---- version 2 ---- */

static void test_v2(void **state)
{
    struct tree t;
    struct limits s;
    char events[128];
    Accel__V1__AttemptSpec spec = ACCEL__V1__ATTEMPT_SPEC__INIT;
    (void)state;
    tree_make(&t, "cpuset cpu io memory hugetlb pids\n", "");
    tree_init(&t, true);
    assert_string_equal(t.texts[LIMIT_KIND_MEMORY], "memory: cgroup v2");
    assert_string_equal(t.texts[LIMIT_KIND_CPU], "cpu: cgroup v2");
    assert_string_equal(t.texts[LIMIT_KIND_PIDS], "processes: cgroup v2");
    check_file(&t, "cgroup.subtree_control", "+memory+cpu+pids");
    check_file(&t, "parent/cgroup.subtree_control", "+memory+cpu+pids");

    snprintf(events, sizeof(events), EVENTS, 0);
    put(&t, "parent/1.1/memory.events", events);
    spec.memory_bytes = 96u << 20;
    spec.cpus = 3;
    spec.pids = 24;
    make_attempt(&t, &spec, 32768, &s);
    check_file(&t, "parent/1.1/memory.max", "100663296");
    check_file(&t, "parent/1.1/memory.swap.max", "0");
    check_file(&t, "parent/1.1/cpu.max", "300000 100000");
    check_file(&t, "parent/1.1/pids.max", "24");
    assert_int_equal(s.text_count, 3);
    assert_string_equal(s.texts[0], "memory: 96.0 MiB (cgroup v2)");
    assert_string_equal(s.texts[1], "cpu: 3 CPUs (cgroup v2)");
    assert_string_equal(s.texts[2], "processes: 24 (cgroup v2)");
    assert_int_equal(limits_oom_kills(s.oom_fd), 0);
    snprintf(events, sizeof(events), EVENTS, 12);
    put(&t, "parent/1.1/memory.events", events);
    assert_int_equal(limits_oom_kills(s.oom_fd), 12);
    limits_done(&s);
    assert_int_equal(limits_oom_kills(s.oom_fd), 0);
    tree_done(&t);
}

/* Nothing asked, nothing set; but the number of processes that everybody has. */
static void test_v2_not_asked(void **state)
{
    struct tree t;
    struct limits s;
    Accel__V1__AttemptSpec spec = ACCEL__V1__ATTEMPT_SPEC__INIT;
    (void)state;
    tree_make(&t, "cpu memory pids\n", "");
    tree_init(&t, true);
    make_attempt(&t, &spec, 0, &s);
    assert_int_equal(s.text_count, 0);
    limits_done(&s);
    make_attempt(&t, &spec, 32768, &s);
    assert_int_equal(s.text_count, 1);
    check_file(&t, "parent/1.1/memory.max", NULL);
    check_file(&t, "parent/1.1/cpu.max", NULL);
    check_file(&t, "parent/1.1/pids.max", "32768");
    limits_done(&s);
    tree_done(&t);
}

static void test_v2_missing(void **state)
{
    struct tree t;
    struct limits s;
    Accel__V1__AttemptSpec spec = ACCEL__V1__ATTEMPT_SPEC__INIT;
    (void)state;
    tree_make(&t, "cpuset memory pids\n", ""); /* "cpu" is no part of "cpuset" */
    tree_init(&t, true);
    assert_string_equal(t.texts[LIMIT_KIND_CPU],
                        "cpu: not enforced (the controller is not given to the group of acceld)");
    check_file(&t, "cgroup.subtree_control", "+memory+pids");
    spec.cpus = 1;
    make_attempt(&t, &spec, 0, &s);
    assert_int_equal(s.text_count, 1);
    assert_string_equal(s.texts[0], t.texts[LIMIT_KIND_CPU]);
    limits_done(&s);
    limits_make(&t.limits, "1.1", -1, &spec, 64, &s); /* no group could be made */
    assert_string_equal(s.texts[1], "processes: not enforced (the attempt has no cgroup)");
    limits_done(&s);
    tree_done(&t);
}

/* cpu and pids could be enabled among processes, and would spoil the groups below. */
static void test_v2_crowded(void **state)
{
    struct tree t;
    (void)state;
    tree_make(&t, "cpu memory pids\n", "1\n");
    tree_init(&t, true);
    for (size_t i = 0; i < LIMIT_KIND_DEVICES; i++) {
        assert_non_null(strstr(t.texts[i], "(other processes are in the group of acceld)"));
    }
    check_file(&t, "cgroup.subtree_control", NULL);
    check_file(&t, "parent/cgroup.subtree_control", NULL);
    tree_done(&t);
}

/* Only accel-spawn and acceld are there: both move, and the way is free. */
static void test_v2_delegated(void **state)
{
    struct tree t;
    char procs[64];
    (void)state;
    snprintf(procs, sizeof(procs), "%d\n%d\n", (int)getppid(), (int)getpid());
    tree_make(&t, "memory\n", procs);
    tree_init(&t, true);
    snprintf(procs, sizeof(procs), "%d0", (int)getppid());
    check_file(&t, CGROUP_LEAF "/cgroup.procs", procs);
    check_file(&t, "cgroup.subtree_control", "+memory");
    assert_string_equal(t.texts[LIMIT_KIND_MEMORY], "memory: cgroup v2");
    tree_done(&t);
}

/* The root of the tree, which has no type, passes controllers on whoever is in it. */
static void test_v2_top(void **state)
{
    struct tree t;
    char path[PATH_MAX];
    (void)state;
    tree_make(&t, "memory\n", "1\n");
    snprintf(path, sizeof(path), "%s/cgroup.type", t.top);
    assert_int_equal(unlink(path), 0);
    tree_init(&t, true);
    assert_string_equal(t.texts[LIMIT_KIND_MEMORY], "memory: cgroup v2");
    tree_done(&t);
}

/* ---- version 1, and none ---- */

static void test_v1(void **state)
{
    struct tree t;
    struct limits s;
    char mounts[512];
    Accel__V1__AttemptSpec spec = ACCEL__V1__ATTEMPT_SPEC__INIT;
    (void)state;
    tree_make(&t, "", "");
    make(&t, "v1");
    make(&t, "v1/parent");
    make(&t, "v1/parent/1.1");
    put(&t, "v1/parent/1.1/cgroup.procs", "");
    put(&t, "v1/parent/1.1/memory.oom_control", "oom_kill_disable 5\nunder_oom 0\noom_kill 3\n");
    snprintf(mounts, sizeof(mounts),
             "cgroup %s/v1 cgroup rw,memory,cpu 0 0\nnone /x cgroup2 rw,pids 0 0\n", t.top);
    put(&t, "mounts", mounts);
    tree_init(&t, true);
    assert_string_equal(t.texts[LIMIT_KIND_MEMORY], "memory: cgroup v1");
    assert_string_equal(t.texts[LIMIT_KIND_CPU], "cpu: cgroup v1");
    assert_int_equal(t.limits.controllers[LIMIT_KIND_PIDS].version, 0);
    spec.memory_bytes = 3ull << 30;
    spec.cpus = 1;
    make_attempt(&t, &spec, 0, &s);
    check_file(&t, "v1/parent/1.1/memory.limit_in_bytes", "3221225472");
    check_file(&t, "v1/parent/1.1/memory.memsw.limit_in_bytes", "3221225472");
    check_file(&t, "v1/parent/1.1/cpu.cfs_period_us", "100000");
    check_file(&t, "v1/parent/1.1/cpu.cfs_quota_us", "100000");
    assert_string_equal(s.texts[0], "memory: 3.0 GiB (cgroup v1)");
    assert_string_equal(s.texts[1], "cpu: 1 CPU (cgroup v1)");
    assert_int_equal(limits_oom_kills(s.oom_fd), 3);
    limits_join(&s);
    check_file(&t, "v1/parent/1.1/cgroup.procs", "0");
    limits_done(&s);
    assert_false(limits_remove(&t.limits, "1.1")); /* not empty, as with processes in it */
    assert_true(limits_remove(&t.limits, "2.1"));
    tree_done(&t);
}

static void test_none(void **state)
{
    struct tree t;
    (void)state;
    tree_make(&t, "", "");
    tree_init(&t, false);
    for (size_t i = 0; i < LIMIT_KINDS; i++) {
        assert_int_equal(t.limits.controllers[i].version, 0);
        assert_non_null(strstr(t.texts[i], "(this machine has no such controller for us)"));
    }
    tree_done(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v2),           cmocka_unit_test(test_v2_not_asked),
        cmocka_unit_test(test_v2_missing),   cmocka_unit_test(test_v2_crowded),
        cmocka_unit_test(test_v2_delegated), cmocka_unit_test(test_v2_top),
        cmocka_unit_test(test_v1),           cmocka_unit_test(test_none),
    };
    return cmocka_run_group_tests_name("limits_cgroup", tests, NULL, NULL);
}
