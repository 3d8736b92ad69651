/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel enforces, with real processes and the cgroups of this machine: memory, processes,
 * CPU time, devices, a /tmp of one's own, and jobs that run as their own user. Root only.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher_world.h"

#include "common/limits.h"

#define NOBODY 65534u
#define MAJOR_NVIDIA                                                                               \
    195 /* a node of it can be made anywhere; opening it finds no driver: ENXIO                    \
         */

static char greedy_path[400]; /* beside naughty */

static bool has_limit(const struct seen *a, const char *text)
{
    for (size_t i = 0; a->start != NULL && i < a->start->n_limits; i++) {
        if (strstr(a->start->limits[i], text) != NULL) {
            return true;
        }
    }
    return false;
}

/* Whether the kind is to be had on this machine; says so if not. */
static bool is_enforced(const struct seen *a, const char *kind)
{
    char missing[64];
    snprintf(missing, sizeof(missing), "%s: not enforced", kind);
    if (!has_limit(a, missing)) {
        return true;
    }
    print_message("# skipped: %s limits are not to be had here\n", kind);
    return false;
}

static void start_shell(struct start *s, uint64_t job_id, size_t ranks, const char *script)
{
    start_init(s, job_id, 1, ranks, "/bin/sh", "-c", script, NULL);
}

/* ---- limits ---- */

static void test_memory(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    start_init(&s, 1, 1, 2, greedy_path, "hog", "512", NULL);
    s.spec.memory_bytes = 96u << 20;
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    if (!is_enforced(a, "memory")) {
        world_close(&w);
        skip();
    }
    assert_true(has_limit(a, "memory: 96.0 MiB (cgroup v"));
    assert_int_equal(a->exits[0]->signal, SIGKILL);
    assert_true(a->exits[0]->oom_killed);
    assert_true(a->record->oom_killed);
    assert_true(a->record->ranks[a->exits[0]->rank]->oom_killed);
    world_close(&w);
}

/* SIGKILL from elsewhere is not taken for it. */
static void test_memory_not_guilty(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    start_shell(&s, 1, 1, "kill -9 $$");
    s.spec.memory_bytes = 96u << 20;
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->exits[0]->signal, SIGKILL);
    assert_false(a->exits[0]->oom_killed);
    assert_false(a->record->oom_killed);
    world_close(&w);
}

/* Of its children, a rank may survive what killed them: the record says it all the same. */
static void test_memory_of_a_child(void **state)
{
    struct world w;
    struct start s;
    char script[700];
    (void)state;
    world_open(&w);
    snprintf(script, sizeof(script), "%s hog 512; test $? = 137 && exit 3", greedy_path);
    start_shell(&s, 1, 1, script);
    s.spec.memory_bytes = 96u << 20;
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    if (!is_enforced(a, "memory")) {
        world_close(&w);
        skip();
    }
    assert_int_equal(a->exits[0]->exit_code, 3);
    assert_false(a->exits[0]->oom_killed);
    assert_true(a->record->oom_killed);
    world_close(&w);
}

static void test_pids(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    start_init(&s, 1, 1, 1, greedy_path, "bomb", "64", NULL);
    s.spec.pids = 24;
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    if (!is_enforced(a, "processes")) {
        world_close(&w);
        skip();
    }
    assert_true(has_limit(a, "processes: 24 (cgroup v"));
    assert_int_equal(a->exits[0]->exit_code, EAGAIN);
    world_close(&w);
}

static void test_cpu(void **state)
{
    struct world w;
    struct start s;
    size_t len;
    (void)state;
    world_open(&w);
    start_shell(
        &s, 1, 1,
        "p=$(sed -n 's/^[0-9]*:cpu\\(,[a-z,]*\\)\\{0,1\\}:\\(.*\\)/\\2/p' /proc/self/cgroup); "
        "if [ -n \"$p\" ]; then for d in cpu cpu,cpuacct; do "
        "cat /sys/fs/cgroup/$d$p/cpu.cfs_quota_us 2>/dev/null; done; else "
        "cat /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/cpu.max; fi");
    s.spec.cpus = 3;
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    if (!is_enforced(a, "cpu")) {
        world_close(&w);
        skip();
    }
    assert_true(has_limit(a, "cpu: 3 CPUs (cgroup v"));
    char *text = world_read(&w, a->id, "0.out", &len);
    assert_int_equal(strncmp(text, "300000", 6), 0);
    free(text);
    world_close(&w);
}

/* Two nodes of NVIDIA's major: the one that is ours is let through to the missing driver. */
static void test_devices(void **state)
{
    struct world w;
    struct start s;
    char ours[300], other[300], script[2048];
    size_t len;
    (void)state;
    world_open(&w);
    snprintf(ours, sizeof(ours), "%s/gpu0", w.dir);
    snprintf(other, sizeof(other), "%s/gpu1", w.dir);
    assert_int_equal(mknod(ours, S_IFCHR | 0666, makedev(MAJOR_NVIDIA, 0)), 0);
    assert_int_equal(mknod(other, S_IFCHR | 0666, makedev(MAJOR_NVIDIA, 1)), 0);
    snprintf(script, sizeof(script), "%s open %s; %s open %s; %s open /dev/null", greedy_path, ours,
             greedy_path, other, greedy_path);
    start_shell(&s, 1, 1, script);
    char *paths[] = {ours};
    s.spec.limit_devices = true;
    s.spec.device_paths = paths;
    s.spec.n_device_paths = 1;
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    unlink(ours);
    unlink(other);
    if (!is_enforced(a, "devices")) {
        world_close(&w);
        skip();
    }
    char *text = world_read(&w, a->id, "0.out", &len);
    assert_string_equal(text, "No such device or address\nOperation not permitted\nSuccess\n");
    free(text);
    world_close(&w);
}

/* Not in a chroot, whose root is no mount: there the attempt is told that it shares them. */
static bool can_part_mounts(void)
{
    int status = -1;
    pid_t pid = fork();

    if (pid == 0)
        _exit(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0
                  ? 0
                  : 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status == 0;
}

static void test_private_tmp(void **state)
{
    struct world w;
    struct start s;
    char outside[64];
    char script[256];
    (void)state;
    if (!can_part_mounts())
        skip();
    world_open(&w);
    snprintf(outside, sizeof(outside), "/dev/shm/accel-limits-%d", (int)getpid());
    snprintf(script, sizeof(script), "test -z \"$(ls -A /tmp /dev/shm | grep -v :)\" && touch %s",
             outside);
    start_shell(&s, 1, 1, script);
    s.spec.cwd = bytes_of("/");
    s.spec.private_tmp = true;
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->exits[0]->exit_code, 0);
    assert_true(has_limit(a, "/tmp, /dev/shm: its own"));
    assert_int_equal(access(outside, F_OK), -1);
    world_close(&w);
}

/* In a mount namespace of the test: the job runs, and it is said what does not hold. */
static void test_read_only(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0) {
        print_message("# skipped: no mount namespace is to be had here\n");
        skip();
    }
    static const char *const places[] = {"memory", "cpu", "pids", "devices", "unified", ""};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        char path[64];
        snprintf(path, sizeof(path), "/sys/fs/cgroup/%s", places[i]);
        (void)!mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL);
    }
    world_mode = "none";
    world_open(&w);
    start_shell(&s, 1, 1, "exit 0");
    s.spec.memory_bytes = 1u << 30;
    s.spec.cpus = 1;
    s.spec.pids = 100;
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->exits[0]->exit_code, 0);
    assert_true(has_limit(a, "memory: not enforced (cgroups are read-only)"));
    assert_true(has_limit(a, "cpu: not enforced (cgroups are read-only)"));
    assert_true(has_limit(a, "processes: not enforced (cgroups are read-only)"));
    world_close(&w);
}

/* ---- users ---- */

static void open_switching(struct world *w)
{
    world_is_switching = true;
    world_open(w);
    assert_int_equal(chmod(w->dir, 0711), 0); /* as state_prepare_shared() has it */
    assert_int_equal(chmod(w->attempts, 0751), 0);
    assert_int_equal(chown(w->attempts, 0, WORLD_AGENT_UID), 0);
}

/* A shim of a user cannot remove its groups: accel-spawn does, after its end. */
static void close_switching(struct world *w)
{
    for (size_t i = 0; i < w->seen_count; i++) {
        pid_t pid = w->seen[i].gone > 0 && world_size(w, w->seen[i].id, "pid") > 0
                        ? world_shim_pid(w, w->seen[i].id)
                        : 0;
        struct pollfd p = {.fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1,
                           .events = POLLIN};
        if (p.fd >= 0) {
            assert_int_equal(poll(&p, 1, WORLD_WAIT_MS), 1);
            close(p.fd);
        }
    }
    world_close(w);
    world_is_switching = false;
}

static void start_as(struct start *s, uint64_t job_id, const char *user, const char *script)
{
    start_shell(s, job_id, 1, script);
    s->spec.user = (char *)user;
    s->spec.uid = 4242; /* of the coordinator's host: it counts for nothing here */
    s->spec.cwd = bytes_of("/");
    s->spec.umask = 027;
}

static struct seen *launch_as(struct world *w, uint64_t job_id, const char *user,
                              const char *script)
{
    struct start s;
    start_as(&s, job_id, user, script);
    return world_launch(w, &s);
}

static void test_user(void **state)
{
    struct world w;
    struct start s;
    struct stat st;
    char path[320];
    size_t len;
    (void)state;
    open_switching(&w);
    start_as(&s, 1, "nobody",
             "id -u; id -g; id -G; umask; echo $HOME; grep CapEff /proc/self/status; "
             "cat /proc/self/oom_score_adj; touch $ACCEL_ATTEMPT_DIR/mine");
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->exits[0]->exit_code, 0);
    char *text = world_read(&w, a->id, "0.out", &len);
    assert_string_equal(text, "65534\n65534\n65534\n0027\n/nonexistent\n"
                              "CapEff:\t0000000000000000\n0\n");
    free(text);
    snprintf(path, sizeof(path), "%s/1.1", w.attempts);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_uid, NOBODY);
    assert_int_equal(st.st_gid, WORLD_AGENT_UID);
    assert_int_equal(st.st_mode & 07777, 02770);
    snprintf(path, sizeof(path), "%s/1.1/exit", w.attempts);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_gid, WORLD_AGENT_UID);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_true(has_limit(a, "processes: "));
    w.l->ops->mark_acked(w.l, a->id);
    w.l->ops->forget(w.l, 1); /* accel-spawn does it, after what was asked before */
    struct seen *b = launch_as(&w, 2, "nobody", "exit 0");
    world_wait(&w, &b->gone, 1);
    snprintf(path, sizeof(path), "%s/1.1", w.attempts);
    assert_int_equal(access(path, F_OK), -1);
    close_switching(&w);
}

/* False: even root may not, as in a container. */
static bool set_oom_score_adj(const char *text)
{
    FILE *f = fopen("/proc/self/oom_score_adj", "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    return fclose(f) == 0;
}

/* What favours acceld does not favour jobs; what limits them can be read by them. */
static void test_user_favour(void **state)
{
    struct world w;
    struct start s;
    size_t len;
    (void)state;
    bool is_favoured = set_oom_score_adj("-500");
    open_switching(&w);
    for (uint64_t id = 1; id <= 2; id++) {
        start_as(&s, id, "nobody",
                 "cat /proc/self/oom_score_adj; p=$(sed -n 's/^0:://p' /proc/self/cgroup); "
                 "test \"${p##*/}\" != ranks || test -r /sys/fs/cgroup${p%/*}/cgroup.procs -o "
                 "-r /sys/fs/cgroup/unified${p%/*}/cgroup.procs || echo closed");
        s.spec.memory_bytes = id == 2 ? 96u << 20 : 0;
        struct seen *a = world_launch(&w, &s);
        world_wait(&w, &a->gone, 1);
        char *text = world_read(&w, a->id, "0.out", &len);
        assert_string_equal(text, "0\n");
        free(text);
    }
    close_switching(&w);
    assert_true(set_oom_score_adj("0"));
    if (!is_favoured)
        print_message("# not looked at: nobody can be favoured here\n");
}

static void test_unknown_user(void **state)
{
    struct world w;
    (void)state;
    open_switching(&w);
    struct seen *a = launch_as(&w, 1, "no-such-user-here", "exit 0");
    world_wait(&w, &a->refused, 1);
    assert_non_null(strstr(a->refusal, "user no-such-user-here is not known on this node"));
    close_switching(&w);
}

/* Root, users of the system and acceld's own never run jobs, whatever is asked. */
static void test_refused_users(void **state)
{
    static const struct {
        const char *user, *why;
    } cases[] = {{"root", "never"}, {"bin", "it is below --min-uid"}, {"daemon", "acceld's own"}};
    struct world w;
    (void)state;
    open_switching(&w);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct seen *a = launch_as(&w, i + 1, cases[i].user, "exit 0");
        world_wait(&w, &a->gone, 1);
        assert_int_equal(a->started, 0);
        assert_true(a->record->start_failed);
        assert_non_null(strstr(a->record->text, "this node runs no job as user id"));
        assert_non_null(strstr(a->record->text, cases[i].why));
    }
    close_switching(&w);
}

/* The next acceld takes a user's attempt over and ends it; nothing is left of it. */
static void test_user_adopted(void **state)
{
    struct world w;
    (void)state;
    open_switching(&w);
    struct seen *a = launch_as(
        &w, 1, "nobody", "setsid sh -c 'trap \"\" TERM; sleep 1000 & wait' & echo ready; wait");
    world_wait_text(&w, a, "0.out", "ready");
    world_abandon(&w);
    world_reopen(&w);
    world_adopt(&w);
    a = world_seen(&w, (struct attempt_id){1, 1});
    assert_true(a->found_live);
    w.l->ops->stop(w.l, a->id, 0, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    world_wait(&w, &a->gone, 1);
    assert_false(a->shim_lost);
    assert_int_equal(world_count_marked(&w, a->id), 0);
    close_switching(&w);
}

/* A shim that was killed: all that it had is swept, also what left its groups. */
static void test_user_shim_killed(void **state)
{
    struct world w;
    (void)state;
    open_switching(&w);
    struct seen *a = launch_as(
        &w, 1, "nobody", "setsid sh -c 'trap \"\" TERM; sleep 1000 & wait' & echo ready; wait");
    world_wait_text(&w, a, "0.out", "ready");
    kill(world_shim_pid(&w, a->id), SIGKILL);
    world_wait(&w, &a->gone, 1);
    assert_true(a->shim_lost);
    assert_int_equal(world_count_marked(&w, a->id), 0);
    close_switching(&w);
}

/* What a user writes over his attempt's files must not lead root to another's process. */
static void test_user_forges(void **state)
{
    struct world w;
    char script[700];
    (void)state;
    pid_t victim = fork(); /* before there are descriptors that it could keep open */
    if (victim == 0) {
        pause();
        _exit(0);
    }
    open_switching(&w);
    snprintf(script, sizeof(script),
             "cd $ACCEL_ATTEMPT_DIR; s=$(cut -d' ' -f22 /proc/%d/stat); "
             "printf '%d %%s\\n/sys/fs/cgroup/unified\\n' $s > forged; mv -f forged pid; "
             "rm sock; echo ready; sleep 1000",
             (int)victim, (int)victim);
    struct seen *a = launch_as(&w, 1, "nobody", script);
    world_wait_text(&w, a, "0.out", "ready");
    world_abandon(&w);
    world_reopen(&w); /* accel-spawn is not the parent any more, so the file is asked */
    world_adopt(&w);
    a = world_seen(&w, (struct attempt_id){1, 1});
    w.l->ops->stop(w.l, a->id, 0, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(world_count_marked(&w, a->id), 0);
    assert_int_equal(kill(victim, 0), 0);
    snprintf(script, sizeof(script), "%s/1.1/pid", w.attempts);
    assert_int_equal(unlink(script), 0); /* it would mislead the test as well */
    kill(victim, SIGKILL);
    assert_int_equal(waitpid(victim, NULL, 0), victim);
    close_switching(&w);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_memory_not_guilty),
        cmocka_unit_test(test_memory_of_a_child),
        cmocka_unit_test(test_pids),
        cmocka_unit_test(test_cpu),
        cmocka_unit_test(test_devices),
        cmocka_unit_test(test_private_tmp),
        cmocka_unit_test(test_user),
        cmocka_unit_test(test_user_favour),
        cmocka_unit_test(test_unknown_user),
        cmocka_unit_test(test_refused_users),
        cmocka_unit_test(test_user_adopted),
        cmocka_unit_test(test_user_shim_killed),
        cmocka_unit_test(test_user_forges),
        cmocka_unit_test(test_read_only), /* last: its mounts stay */
    };
    if (geteuid() != 0) {
        printf("1..0 # SKIP skipped: not root\n");
        return 0;
    }
    if (!world_main(argc, argv)) {
        return 0;
    }
    snprintf(greedy_path, sizeof(greedy_path), "%.*sgreedy",
             (int)(strrchr(world_naughty_path, '/') + 1 - world_naughty_path), world_naughty_path);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
