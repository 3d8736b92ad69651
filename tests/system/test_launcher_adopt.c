/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acceld goes and another one comes: running attempts are taken over, ends that nobody heard are
 * read from disk, and what has neither shim nor record is swept. world_abandon() is what the
 * kernel does for a killed acceld: every descriptor closes. test_killed_for_real kills a process.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/codec.h"
#include "launcher_world.h"

static const struct attempt_id one = {1, 1};

/* Runs on until the file is there; the file's own existence is what is awaited. */
static void await_file(struct world *w, struct attempt_id id, const char *file)
{
    char path[512];
    uv_loop_t loop;
    snprintf(path, sizeof(path), "%s/%llu.%u/%s", w->attempts, (unsigned long long)id.job_id,
             id.attempt, file);
    assert_int_equal(uv_loop_init(&loop), 0);
    while (access(path, F_OK) < 0) {
        uv_run(&loop, UV_RUN_NOWAIT);
        sched_yield();
    }
    uv_loop_close(&loop);
}

static void test_nothing_there(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    world_adopt(&w);
    assert_int_equal(w.seen_count, 0);
    world_close(&w);
}

static void test_live(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(
        &w, 1, 3,
        "[ $RANK = 2 ] && exit 4; echo before; trap 'echo after; exit 9' USR1; touch up$RANK; "
        "while :; do tail -f /dev/null & wait; done");
    world_wait_text(&w, a, "0.out", "before");
    world_wait_text(&w, a, "1.out", "before");
    world_wait_size(&w, &a->exit_count, 1);
    uint32_t pids[3];
    for (size_t i = 0; i < 3; i++) {
        pids[i] = a->start->ranks[i]->pid;
    }
    world_abandon(&w);
    world_reopen(&w);
    world_adopt(&w);
    a = world_seen(&w, one);
    assert_true(a->found && a->found_live && a->found_started);
    assert_int_equal(a->hello->n_ranks, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(a->hello->ranks[i]->pid, pids[i]);
        assert_int_equal(a->hello->ranks[i]->exited, i == 2);
    }
    assert_int_equal(a->hello->ranks[2]->exit_code, 4);
    w.l->ops->signal(w.l, one, -1, SIGUSR1);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->started, 0);    /* not repeated */
    assert_int_equal(a->exit_count, 2); /* hello told the third */
    assert_int_equal(a->record->ranks[0]->exit_code, 9);
    assert_int_equal(a->record->ranks[2]->exit_code, 4);
    size_t len;
    char *text = world_read(&w, one, "0.out", &len);
    assert_string_equal(text, "before\nafter\n");
    free(text);
    world_close(&w);
}

/* It ends while no acceld is there. */
static void test_ended_alone(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 1, 2, "read x; echo $x; exit 6");
    world_wait(&w, &a->started, 1);
    a = world_launch_shell(&w, 2, 2,
                           "trap 'echo done; exit 6' TERM; echo up; "
                           "while :; do tail -f /dev/null & wait; done");
    world_wait_text(&w, a, "0.out", "up");
    world_wait_text(&w, a, "1.out", "up");
    uint32_t pids[2] = {a->start->ranks[0]->pid, a->start->ranks[1]->pid};
    struct attempt_id id = a->id;
    char parent[1024];
    world_cgroup_parent(&w, parent, sizeof(parent));
    world_abandon(&w);
    assert_true(parent[0] == '\0' || access(parent, F_OK) == 0); /* ranks live in it */
    kill((pid_t)pids[1], SIGTERM);
    kill((pid_t)pids[0], SIGTERM);
    await_file(&w, id, "exit");
    while (parent[0] != '\0' && access(parent, F_OK) == 0) { /* goes with the last shim */
        sched_yield();
    }
    world_reopen(&w);
    world_adopt(&w);
    a = world_seen(&w, id);
    assert_true(a->found && !a->found_live && !a->shim_lost);
    assert_int_equal(a->record->ranks[0]->exit_code, 6);
    assert_int_equal(a->record->ranks[1]->exit_code, 6);
    assert_int_equal(a->record->ranks[0]->stdout_bytes, 8);
    w.l->ops->mark_acked(w.l, id);
    world_close(&w);
}

static void make_dir(struct world *w, const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", w->attempts, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static void put_file(struct world *w, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", w->attempts, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static bool world_has(struct world *w, const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", w->attempts, name);
    return access(path, F_OK) == 0;
}

/* What was acknowledged is not found again, but its directory still refuses a late start, and
 * forget removes it. */
static void test_acked(void **state)
{
    struct world w;
    struct start s;
    char path[512];
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 1, 1, "exit 0");
    world_wait(&w, &a->gone, 1);
    w.l->ops->mark_acked(w.l, one);
    world_abandon(&w);
    world_reopen(&w);
    world_adopt(&w);
    assert_int_equal(w.seen_count, 0);
    start_init(&s, 1, 1, 1, "/bin/true", NULL);
    a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    assert_true(a->exists);
    make_dir(&w, "1.1/made-by-a-rank");
    make_dir(&w, "1.1/made-by-a-rank/deeper");
    put_file(&w, "kept", "outside");
    put_file(&w, "1.1/made-by-a-rank/file", "x");
    snprintf(path, sizeof(path), "%s/1.1/made-by-a-rank/link", w.attempts);
    assert_int_equal(symlink(w.attempts, path), 0);
    w.l->ops->forget(w.l, 1);
    assert_true(world_has(&w, "kept")); /* links are removed, not followed */
    snprintf(path, sizeof(path), "%s/1.1", w.attempts);
    assert_int_equal(access(path, F_OK), -1);
    world_close(&w);
}

/* accel-spawn, acceld and the shim are all killed: the orphans went to somebody else. */
/* Its socket answers until it is dead, and who asks before finds it alive. */
static void kill_and_wait(pid_t pid)
{
    struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};

    assert_true(p.fd >= 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(poll(&p, 1, 60000), 1);
    close(p.fd);
}

static void test_all_killed(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    start_init(&s, 1, 1, 2, world_naughty_path, "deaf", "setsid", "double", "ignore", NULL);
    struct seen *a = world_launch(&w, &s);
    world_wait_text(&w, a, "0.out", "ready");
    world_wait_text(&w, a, "1.out", "ready");
    pid_t shim = world_shim_pid(&w, one);
    uint32_t pid = a->start->ranks[0]->pid;
    world_abandon(&w);
    kill_and_wait(shim);
    world_reopen(&w);
    world_adopt(&w);
    a = world_seen(&w, one);
    assert_true(a->found && !a->found_live && a->shim_lost);
    assert_int_equal(a->record->ranks[0]->pid, pid);
    assert_int_equal(world_count_marked(&w, one), 0);
    /* The record was made durable by the adoption: a third acceld finds the same. */
    world_abandon(&w);
    world_reopen(&w);
    world_adopt(&w);
    a = world_seen(&w, one);
    assert_true(a->found && !a->found_live && a->shim_lost);
    world_close(&w);
}

/* A crash between mkdir and fork; rubbish; a pid that is somebody else's by now. */
static void test_stale_directories(void **state)
{
    struct world w;
    char text[64];
    (void)state;
    world_open(&w);
    make_dir(&w, "1.1");
    make_dir(&w, "2.1");
    put_file(&w, "2.1/spec", "\xff\xff rubbish");
    make_dir(&w, "3.1");
    snprintf(text, sizeof(text), "%d 12345\n", (int)getpid()); /* alive, started otherwise */
    put_file(&w, "3.1/pid", text);
    make_dir(&w, "rubbish");
    make_dir(&w, "4.x");
    put_file(&w, "5.1", "a file");
    world_adopt(&w);
    for (uint64_t i = 1; i <= 3; i++) {
        struct seen *a = world_seen(&w, (struct attempt_id){i, 1});
        assert_true(a->found && !a->found_live);
        assert_int_equal(a->record->start_failed, i < 3);
        assert_int_equal(a->shim_lost, i == 3);
        assert_true(world_size(&w, a->id, "exit") >= 0);
    }
    struct seen *stray = world_seen(&w, (struct attempt_id){5, 1});
    assert_true(stray->found); /* a file in the place of a directory is not fatal */
    world_close(&w);
}

/* Connects to the shim by hand and says which incarnation we are. */
static int connect_shim(struct world *w, struct attempt_id id, uint64_t incarnation)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct str own;
    Accel__V1__ShimDown down = ACCEL__V1__SHIM_DOWN__INIT;
    Accel__V1__ShimOwn msg = ACCEL__V1__SHIM_OWN__INIT;
    assert_true(snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%llu.%u/sock", w->attempts,
                         (unsigned long long)id.job_id, id.attempt) < (int)sizeof(addr.sun_path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    msg.incarnation = incarnation;
    down.body_case = ACCEL__V1__SHIM_DOWN__BODY_OWN;
    down.own = &msg;
    str_init(&own);
    codec_add(&own, &down.base);
    assert_int_equal(codec_write_all(fd, own.data, own.len, NULL), 0);
    str_done(&own);
    return fd;
}

/* Higher numbers win; a lower one is refused; the loser does not touch the attempt. */
static void test_incarnations(void **state)
{
    struct world w;
    uint8_t *data;
    size_t len;
    char byte;
    (void)state;
    world_open(&w);
    w.incarnation = 10;
    struct seen *a = world_launch_shell(&w, 1, 1, "echo up; exec tail -f /dev/null");
    world_wait_text(&w, a, "0.out", "up");
    pid_t shim = world_shim_pid(&w, one);
    int newer = connect_shim(&w, one, 20);
    assert_int_equal(codec_read_frame(newer, 1u << 20, &data, &len, NULL), 0);
    Accel__V1__ShimUp *up = accel__v1__shim_up__unpack(NULL, len, data);
    assert_non_null(up);
    assert_int_equal(up->body_case, ACCEL__V1__SHIM_UP__BODY_HELLO);
    assert_int_equal(up->hello->shim_pid, shim);
    assert_true(up->hello->started);
    accel__v1__shim_up__free_unpacked(up, NULL);
    free(data);
    int older = connect_shim(&w, one, 19);
    assert_int_equal(recv(older, &byte, 1, 0), 0); /* closed without a word */
    close(older);
    /* Our launcher has lost its connection and was refused: it leaves the attempt alone. */
    for (int i = 0; i < 100; i++) {
        uv_run(&w.loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(a->gone, 0);
    assert_int_equal(kill(shim, 0), 0);
    assert_true(world_count_marked(&w, one) > 0);
    /* The newer one is killed, and a newer still adopts. */
    close(newer);
    world_abandon(&w);
    w.incarnation = 29;
    world_reopen(&w);
    world_adopt(&w);
    a = world_seen(&w, one);
    assert_true(a->found_live);
    w.l->ops->stop(w.l, one, 0, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    world_wait(&w, &a->gone, 1);
    assert_false(a->shim_lost);
    world_close(&w);
}

/* A shim that takes offence at what was said closes; the launcher comes back to it. */
static void test_reconnect(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 1, 1,
                                        "trap 'exit 3' USR1; echo up; "
                                        "while :; do tail -f /dev/null & wait; done");
    world_wait_text(&w, a, "0.out", "up");
    int mine = connect_shim(&w, one, 1); /* as high as our launcher: allowed, takes it over */
    uint8_t *data;
    size_t len;
    assert_int_equal(codec_read_frame(mine, 1u << 20, &data, &len, NULL), 0);
    free(data);
    /* The launcher notices, connects again with the same number, and has it back. */
    char byte;
    struct timeval wait = {.tv_usec = 1000};
    setsockopt(mine, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    while (recv(mine, &byte, 1, 0) != 0) {
        uv_run(&w.loop, UV_RUN_NOWAIT);
    }
    close(mine);
    w.l->ops->watch(w.l, one);
    for (int i = 0; i < 100; i++) {
        uv_run(&w.loop, UV_RUN_NOWAIT);
    }
    w.l->ops->signal(w.l, one, 0, SIGUSR1);
    world_wait(&w, &a->gone, 1);
    assert_false(a->shim_lost);
    assert_int_equal(a->exits[0]->exit_code, 3);
    world_close(&w);
}

/* Dies with SIGKILL, not by closing politely: the child is acceld here. */
static void test_killed_for_real(void **state)
{
    struct world w;
    int ready[2];
    char byte;
    (void)state;
    world_open(&w);
    world_abandon(&w);
    assert_int_equal(pipe(ready), 0);
    pid_t acceld = fork();
    if (acceld == 0) {
        world_reopen(&w);
        struct seen *a = world_launch_shell(&w, 1, 2,
                                            "echo start; trap 'echo end; exit 8' USR1; "
                                            "echo armed; while :; do tail -f /dev/null & "
                                            "wait; done");
        world_wait_text(&w, a, "0.out", "armed");
        world_wait_text(&w, a, "1.out", "armed");
        if (write(ready[1], "x", 1) != 1) {
            _exit(1);
        }
        for (;;) {
            uv_run(&w.loop, UV_RUN_ONCE);
        }
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    kill(acceld, SIGKILL);
    assert_int_equal(waitpid(acceld, NULL, 0), acceld);
    close(ready[0]);
    close(ready[1]);
    w.incarnation++;
    world_reopen(&w);
    world_adopt(&w);
    struct seen *a = world_seen(&w, one);
    assert_true(a->found_live);
    w.l->ops->signal(w.l, one, -1, SIGUSR1);
    world_wait(&w, &a->gone, 1);
    size_t len;
    char *text = world_read(&w, one, "1.out", &len);
    assert_string_equal(text, "start\narmed\nend\n");
    free(text);
    assert_int_equal(a->exits[0]->exit_code, 8);
    world_close(&w);
}

/* A shim that does not answer must not keep acceld from starting. */
static void test_silent_shim(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 1, 2,
                                        "[ $RANK = 1 ] && exit 5; echo up; "
                                        "exec tail -f /dev/null");
    world_wait_text(&w, a, "0.out", "up");
    world_wait_size(&w, &a->exit_count, 1);
    uint32_t pid = a->start->ranks[0]->pid;
    pid_t shim = world_shim_pid(&w, one);
    world_abandon(&w);
    kill(shim, SIGSTOP);
    world_reopen(&w);
    world_adopt(&w);
    a = world_seen(&w, one);
    assert_true(a->found_live && a->found_started);
    assert_int_equal(a->hello->ranks[0]->pid, pid);
    assert_false(a->hello->ranks[1]->exited);
    kill(shim, SIGCONT);
    world_wait_size(&w, &a->exit_count, 1); /* what the late hello tells comes as news */
    assert_int_equal(a->exits[0]->exit_code, 5);
    w.l->ops->stop(w.l, one, 0, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->exit_count, 2);
    world_close(&w);
}

/* Connects until the shim's queue takes no more; the count of descriptors in fds. */
static size_t fill_queue(struct world *w, struct attempt_id id, int *fds, size_t cap)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t count = 0;
    assert_true(snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%llu.%u/sock", w->attempts,
                         (unsigned long long)id.job_id, id.attempt) < (int)sizeof(addr.sun_path));
    for (;;) {
        assert_true(count < cap);
        fds[count] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        assert_true(fds[count] >= 0);
        if (connect(fds[count++], (struct sockaddr *)&addr, sizeof(addr)) < 0) {
            assert_int_equal(errno, EAGAIN);
            return count;
        }
    }
}

/* A shim that stands still and takes no connection is alive all the same: its job is not swept, and
 * a stop that it cannot hear is said to it when it goes on. */
static void test_shim_behind(void **state)
{
    struct world w;
    int fds[256];
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 1, 1, "echo up; exec tail -f /dev/null");
    world_wait_text(&w, a, "0.out", "up");
    pid_t shim = world_shim_pid(&w, one);
    kill(shim, SIGSTOP);
    size_t count = fill_queue(&w, one, fds, 256);
    world_abandon(&w);
    world_reopen(&w);
    world_adopt(&w);
    a = world_seen(&w, one);
    assert_true(a->found_live && a->found_started);
    w.l->ops->stop(w.l, one, 0, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    for (int i = 0; i < 100; i++) {
        uv_run(&w.loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(a->gone, 0);
    for (size_t i = 0; i < count; i++) {
        close(fds[i]);
    }
    kill(shim, SIGCONT);
    world_wait(&w, &a->gone, 1);
    assert_false(a->shim_lost);
    assert_int_equal(a->record->stop_cause, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    world_close(&w);
}

/* One that never goes on does not keep a job alive that is to be stopped. */
static void test_shim_never_back(void **state)
{
    struct world w;
    int fds[256];
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 1, 1, "echo up; exec tail -f /dev/null");
    world_wait_text(&w, a, "0.out", "up");
    pid_t shim = world_shim_pid(&w, one);
    kill(shim, SIGSTOP);
    size_t count = fill_queue(&w, one, fds, 256);
    world_abandon(&w);
    world_reopen(&w);
    world_adopt(&w);
    a = world_seen(&w, one);
    w.l->ops->stop(w.l, one, 0, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    world_wait(&w, &a->gone, 1);
    assert_true(a->shim_lost);
    for (size_t i = 0; i < count; i++) {
        close(fds[i]);
    }
    world_close(&w);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_there),   cmocka_unit_test(test_live),
        cmocka_unit_test(test_ended_alone),     cmocka_unit_test(test_acked),
        cmocka_unit_test(test_all_killed),      cmocka_unit_test(test_stale_directories),
        cmocka_unit_test(test_incarnations),    cmocka_unit_test(test_reconnect),
        cmocka_unit_test(test_killed_for_real), cmocka_unit_test(test_silent_shim),
        cmocka_unit_test(test_shim_behind),     cmocka_unit_test(test_shim_never_back),
    };
    if (!world_main(argc, argv)) {
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
