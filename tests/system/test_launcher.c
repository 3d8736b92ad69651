/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The launcher with real processes: starting, ending, signals, stdin, refusals. One story a test;
 * run once without cgroups and once with them. Trees, output and adoption have their own files.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "launcher_world.h"

#include "common/limits.h"

static void assert_file(struct world *w, const struct seen *a, const char *file, const char *text)
{
    size_t len;
    char *data = world_read(w, a->id, file, &len);
    assert_string_equal(data, text);
    free(data);
}

/* ---- starting and ending ---- */

static void test_echo(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    start_init(&s, 1, 1, 1, "/bin/echo", "hello", "world", NULL);
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->started, 1);
    assert_int_equal(a->start->n_ranks, 1);
    assert_true(a->start->ranks[0]->pid > 1);
    assert_true(a->start->ranks[0]->start_ms > 0);
    assert_int_equal(a->exit_count, 1);
    assert_int_equal(a->exits[0]->exit_code, 0);
    assert_int_equal(a->exits[0]->signal, 0);
    assert_int_equal(a->exits[0]->stdout_bytes, 12);
    assert_true(a->exits[0]->end_boot_ns > 0);
    assert_false(a->record->start_failed);
    assert_false(a->shim_lost);
    assert_int_equal(a->record->era, 1);
    assert_file(&w, a, "0.out", "hello world\n");
    assert_file(&w, a, "0.err", "");
    world_close(&w);
}

static void test_exit_codes(void **state)
{
    static const int codes[] = {0, 1, 3, 77, 255};
    struct world w;
    (void)state;
    world_open(&w);
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        char script[64];
        snprintf(script, sizeof(script), "echo oops >&2; exit %d", codes[i]);
        struct seen *a = world_launch_shell(&w, i + 1, 1, script);
        world_wait(&w, &a->gone, 1);
        assert_int_equal(a->exits[0]->exit_code, codes[i]);
        assert_int_equal(a->record->ranks[0]->exit_code, codes[i]);
        assert_int_equal(a->exits[0]->stderr_tail.len, 5);
        assert_memory_equal(a->exits[0]->stderr_tail.data, "oops\n", 5);
        assert_false(a->exits[0]->stopped);
    }
    world_close(&w);
}

static void test_signal_exit(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 1, 1, "kill -SEGV $$");
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->exits[0]->signal, SIGSEGV);
    assert_true(a->exits[0]->exited);
    world_close(&w);
}

static void test_ranks(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 9, WORLD_RANKS, "echo $RANK; exit $RANK");
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->exit_count, WORLD_RANKS);
    assert_int_equal(a->record->n_ranks, WORLD_RANKS);
    for (size_t i = 0; i < WORLD_RANKS; i++) {
        char file[16];
        char text[16];
        snprintf(file, sizeof(file), "%zu.out", i);
        snprintf(text, sizeof(text), "%zu\n", i);
        assert_int_equal(a->record->ranks[i]->rank, i);
        assert_int_equal(a->record->ranks[i]->exit_code, i);
        assert_int_equal(a->record->ranks[i]->pid, a->start->ranks[i]->pid);
        assert_file(&w, a, file, text);
    }
    world_close(&w);
}

/* Waits for the state (a letter of proc(5)) of a process that is not our child. */
static void await_state(pid_t pid, const char *wanted)
{
    char path[64];
    char text[512] = "";
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    while (strstr(text, wanted) == NULL) {
        int fd = open(path, O_RDONLY);
        assert_true(fd >= 0);
        ssize_t n = read(fd, text, sizeof(text) - 1);
        text[n > 0 ? n : 0] = '\0';
        close(fd);
        sched_yield();
    }
}

/* Two ranks die while the shim cannot look: the one that died first is told first. */
static void test_order_of_deaths(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 1, 4, "exec tail -f /dev/null");
    world_wait(&w, &a->started, 1);
    pid_t shim = world_shim_pid(&w, a->id);
    static const size_t order[] = {2, 0, 3, 1};
    kill(shim, SIGSTOP);
    for (size_t i = 0; i < ARRAY_LEN(order); i++) {
        pid_t pid = (pid_t)a->start->ranks[order[i]]->pid;
        kill(pid, SIGKILL);
        await_state(pid, ") Z "); /* dead, not reaped */
    }
    kill(shim, SIGCONT);
    world_wait(&w, &a->gone, 1);
    for (size_t i = 0; i < ARRAY_LEN(order); i++) {
        assert_int_equal(a->exits[i]->rank, order[i]);
        assert_int_equal(a->exits[i]->signal, SIGKILL);
    }
    world_close(&w);
}

static void test_environment(void **state)
{
    struct world w;
    struct start s;
    ProtobufCBinaryData own = bytes_of("A=rank");
    char dir[512];
    (void)state;
    world_open(&w);
    start_init(&s, 7, 2, 1, "/bin/sh", "-c",
               "umask; pwd; echo $A $B $ACCEL_ATTEMPT_DIR; ulimit -n; "
               "ls /proc/self/fd | wc -l; tty; grep -E 'Sig(Blk|Ign)' /proc/self/status; "
               "readlink /proc/self/fd/0",
               NULL);
    start_env(&s, "A=common");
    start_env(&s, "B=kept");
    s.ranks[0].env = &own;
    s.ranks[0].n_env = 1;
    s.spec.umask = 027;
    s.spec.cwd = bytes_of("/usr");
    accel__v1__rlimit__init(&s.limits[0]);
    s.limits[0].resource = 7; /* RLIMIT_NOFILE */
    s.limits[0].soft = 123;
    s.limits[0].hard = 456;
    s.limit_list[0] = &s.limits[0];
    s.spec.n_rlimits = 1;
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    snprintf(dir, sizeof(dir),
             "0027\n/usr\nrank kept %s/7.2\n123\n4\nnot a tty\nSigBlk:\t0000000000000000\n"
             "SigIgn:\t0000000000000000\n/dev/null\n",
             w.attempts);
    assert_file(&w, a, "0.out", dir);
    world_close(&w);
}

static void test_existing_directory_refuses(void **state)
{
    struct world w;
    struct start s;
    struct accel_error err = {0};
    char path[512];
    (void)state;
    world_open(&w);
    snprintf(path, sizeof(path), "%s/5.1", w.attempts);
    assert_int_equal(mkdir(path, 0700), 0);
    start_init(&s, 5, 1, 1, "/bin/true", NULL);
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    assert_true(a->exists);
    assert_int_equal(a->started, 0);
    assert_non_null(strstr(a->record->text, "5.1"));
    /* While it runs, it is known at once. */
    a = world_launch_shell(&w, 6, 1, "exec tail -f /dev/null");
    start_init(&s, 6, 1, 1, "/bin/true", NULL);
    assert_int_equal(w.l->ops->launch(w.l, &s.spec, &err), ACCEL_EEXIST);
    world_wait(&w, &a->started, 1);
    world_close(&w);
}

static void test_wrong_user(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    start_init(&s, 5, 1, 1, "/bin/true", NULL);
    s.spec.uid = geteuid() + 1;
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    assert_false(a->exists);
    assert_true(a->record->start_failed);
    assert_non_null(strstr(a->record->text, "user id"));
    world_close(&w);
}

/* ---- programs that cannot be started ---- */

struct bad_program {
    const char *argv0;
    int code, sys;
    const char *text;
};

static void make_file(struct world *w, const char *name, const char *content, mode_t mode,
                      char *path, size_t size)
{
    snprintf(path, size, "%s/%s", w->dir, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, strlen(content)), strlen(content));
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void check_bad(struct world *w, uint64_t job_id, const struct bad_program *bad)
{
    struct start s;
    start_init(&s, job_id, 1, 2, bad->argv0, NULL);
    struct seen *a = world_launch(w, &s);
    world_wait(w, &a->gone, 1);
    assert_int_equal(a->started, 1);
    assert_true(a->record->start_failed);
    assert_non_null(strstr(a->record->text, bad->argv0));
    size_t failed = 0;
    for (size_t i = 0; i < 2; i++) {
        const Accel__V1__RankExit *x = a->record->ranks[i];
        assert_true(x->exited);
        if (x->stopped) { /* killed on its way, because the other one had failed */
            assert_int_equal(x->signal, SIGKILL);
            continue;
        }
        failed++;
        assert_int_equal(x->exit_code, bad->code);
        assert_int_equal(x->signal, 0);
        assert_int_equal(x->start_errno, bad->sys);
        assert_non_null(strstr(x->error, bad->argv0));
        assert_non_null(strstr(x->error, bad->text));
        assert_string_equal(a->start->ranks[i]->error, x->error);
    }
    assert_true(failed > 0);
}

static void test_bad_programs(void **state)
{
    struct world w;
    char plain[300];
    char noexec[300];
    char headless[300];
    (void)state;
    world_open(&w);
    make_file(&w, "plain", "just text\n", 0755, plain, sizeof(plain));
    make_file(&w, "noexec", "#!/bin/sh\n", 0644, noexec, sizeof(noexec));
    make_file(&w, "headless", "#!/no/such/python3 -u\n", 0755, headless, sizeof(headless));
    const struct bad_program bad[] = {
        {"/no/such/program", 127, ENOENT, "No such file"},
        {noexec, 126, EACCES, "Permission denied"},
        {"/usr", 126, EACCES, "directory"},
        {plain, 126, ENOEXEC, "#!"},
        {headless, 127, ENOENT, "/no/such/python3"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        check_bad(&w, i + 1, &bad[i]);
    }
    world_close(&w);
}

static void test_bad_directory(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    start_init(&s, 1, 1, 1, "/bin/true", NULL);
    s.spec.cwd = bytes_of("/no/such/place");
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    assert_true(a->record->start_failed);
    assert_non_null(strstr(a->record->text, "/no/such/place"));
    world_close(&w);
}

static void test_argument_too_long(void **state)
{
    struct world w;
    struct start s;
    const size_t size = 131072; /* MAX_ARG_STRLEN, with the NUL: one byte too long */
    char *arg = malloc(size + 1);
    (void)state;
    assert_non_null(arg);
    memset(arg, 'a', size);
    arg[size] = '\0';
    world_open(&w);
    start_init(&s, 1, 1, 1, "/bin/true", arg, NULL);
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->record->ranks[0]->start_errno, E2BIG);
    assert_non_null(strstr(a->record->text, "13"));
    assert_non_null(strstr(a->record->text, "bytes"));
    world_close(&w);
    free(arg);
}

/* One bad rank ends the others. */
static void test_one_bad_rank(void **state)
{
    struct world w;
    struct start s;
    char path[300];
    (void)state;
    world_open(&w);
    snprintf(path, sizeof(path), "%s/no/out", w.dir);
    start_init(&s, 1, 1, 3, "/bin/sh", "-c", "exec tail -f /dev/null", NULL);
    s.ranks[1].output_file = bytes_of(path);
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->started, 1);
    assert_true(a->record->start_failed);
    assert_non_null(strstr(a->record->text, path));
    assert_true(a->record->ranks[1]->exited);
    assert_int_equal(a->record->ranks[1]->start_errno, ENOENT);
    assert_int_equal(a->record->ranks[0]->pid, 0);
    assert_int_equal(a->exit_count, 0);
    world_close(&w);
}

static void test_no_process_to_be_had(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    /* A missing attempts directory is the nearest to an accel-spawn that can do nothing. */
    char moved[512];
    snprintf(moved, sizeof(moved), "%s.moved", w.attempts);
    assert_int_equal(rename(w.attempts, moved), 0);
    assert_int_equal(rmdir(moved), 0);
    start_init(&s, 1, 1, 1, "/bin/true", NULL);
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    assert_true(a->record->start_failed);
    assert_false(a->exists);
    assert_non_null(strstr(a->record->text, "cannot make directory"));
    world_close(&w);
}

/* ---- stopping ---- */

static void test_stop_with_grace(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(
        &w, 1, 2,
        "trap 'echo bye; exit 5' TERM; echo up; while :; do tail -f /dev/null & wait; done");
    world_wait(&w, &a->started, 1);
    world_wait_text(&w, a, "0.out", "up");
    world_wait_text(&w, a, "1.out", "up");
    w.l->ops->stop(w.l, a->id, 30000, ACCEL__V1__CAUSE__CAUSE_TIME_LIMIT);
    world_wait(&w, &a->gone, 1);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(a->exits[i]->exit_code, 5);
        assert_true(a->exits[i]->stopped);
    }
    assert_int_equal(a->record->stop_cause, ACCEL__V1__CAUSE__CAUSE_TIME_LIMIT);
    assert_file(&w, a, "1.out", "up\nbye\n");
    world_close(&w);
}

static void test_stop_deaf(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    start_init(&s, 1, 1, 1, world_naughty_path, "deaf", "ignore", NULL);
    struct seen *a = world_launch(&w, &s);
    world_wait_text(&w, a, "0.out", "ready");
    w.l->ops->stop(w.l, a->id, 50, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->exits[0]->signal, SIGKILL);
    assert_true(a->exits[0]->stopped);
    world_close(&w);
}

static void test_second_stop_shortens(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    start_init(&s, 1, 1, 1, world_naughty_path, "deaf", NULL);
    struct seen *a = world_launch(&w, &s);
    world_wait_text(&w, a, "0.out", "ready");
    w.l->ops->stop(w.l, a->id, 3600000, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    w.l->ops->stop(w.l, a->id, 7200000, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    w.l->ops->stop(w.l, a->id, 0, ACCEL__V1__CAUSE__CAUSE_TIME_LIMIT);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->exits[0]->signal, SIGKILL);
    assert_int_equal(a->record->stop_cause, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    world_close(&w);
}

/* Stopped ranks get a SIGCONT, else they could not see the SIGTERM. */
static void test_stop_of_a_stopped_rank(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    start_init(&s, 1, 1, 1, world_naughty_path, "stopped", NULL);
    struct seen *a = world_launch(&w, &s);
    world_wait_text(&w, a, "0.out", "ready");
    w.l->ops->signal(w.l, a->id, 0, SIGSTOP);
    w.l->ops->stop(w.l, a->id, 3600000, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->exits[0]->signal, SIGTERM);
    world_close(&w);
}

/* A stop right behind the start, before anything is exec'ed. */
static void test_stop_at_once(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    for (uint64_t i = 1; i <= 20; i++) {
        struct seen *a = world_launch_shell(&w, i, 2, "exec tail -f /dev/null");
        w.l->ops->stop(w.l, a->id, i % 2 == 0 ? 0 : 3600000, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
        world_wait(&w, &a->gone, 1);
        assert_int_equal(a->started, 1);
        assert_int_equal(a->exit_count, 2);
        assert_int_not_equal(a->exits[0]->signal, 0);
    }
    world_close(&w);
}

static void test_signal(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(
        &w, 1, 2, "trap 'echo usr1' USR1; echo up; while :; do tail -f /dev/null & wait; done");
    world_wait_text(&w, a, "0.out", "up");
    world_wait_text(&w, a, "1.out", "up");
    w.l->ops->signal(w.l, a->id, 1, SIGUSR1);
    world_wait_text(&w, a, "1.out", "usr1");
    w.l->ops->signal(w.l, a->id, -1, SIGUSR1);
    world_wait_text(&w, a, "0.out", "usr1");
    world_wait_text(&w, a, "1.out", "usr1\nusr1");
    assert_file(&w, a, "0.out", "up\nusr1\n");
    w.l->ops->signal(w.l, a->id, -1, 4711); /* no such signal: nothing happens */
    world_close(&w);
}

/* ---- stdin ---- */

static void send_input(struct world *w, struct seen *a, uint64_t id, uint64_t offset,
                       const char *data, size_t len, bool eof)
{
    Accel__V1__ShimInput in = ACCEL__V1__SHIM_INPUT__INIT;
    in.id = id;
    in.offset = offset;
    in.data = (ProtobufCBinaryData){.len = len, .data = (uint8_t *)data};
    in.eof = eof;
    w->l->ops->input(w->l, a->id, &in);
    while (a->input_id != id) {
        world_run_once(w);
    }
}

static void test_stdin(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    start_init(&s, 1, 1, 2, "/bin/sh", "-c", "cat; echo end", NULL);
    s.spec.want_stdin = true;
    struct seen *a = world_launch(&w, &s);
    send_input(&w, a, 1, 0, "one\n", 4, false);
    assert_false(a->input_closed);
    send_input(&w, a, 2, 0, "one\n", 4, false);    /* repeated: taken already */
    send_input(&w, a, 3, 2, "e\ntwo\n", 6, false); /* repeated in part */
    send_input(&w, a, 4, 8, "three\n", 6, true);
    world_wait(&w, &a->gone, 1);
    assert_file(&w, a, "0.out", "one\ntwo\nthree\nend\n");
    assert_file(&w, a, "1.out", "end\n"); /* only rank 0 has it */
    world_close(&w);
}

/* Of a later attempt: the client's offsets go on from the one before. */
static void test_stdin_goes_on(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    char gate[300], script[320];
    snprintf(gate, sizeof(gate), "%s/gate", w.dir);
    assert_int_equal(mkfifo(gate, 0600), 0);
    int gate_fd = open(gate, O_RDWR | O_CLOEXEC);
    /* cat ends with its input; its parent keeps the rank and its end of the pipe */
    snprintf(script, sizeof(script), "cat; read go <%s", gate);
    start_init(&s, 1, 2, 1, "/bin/sh", "-c", script, NULL);
    s.spec.want_stdin = true;
    struct seen *a = world_launch(&w, &s);
    send_input(&w, a, 1, 1000, "one\n", 4, false);
    send_input(&w, a, 2, 1000, "one\n", 4, false); /* asked again by another acceld */
    send_input(&w, a, 3, 1004, "two\n", 4, true);
    assert_false(a->input_closed);
    send_input(&w, a, 4, 1004, "two\n", 4, true); /* taken, not refused */
    assert_false(a->input_closed);
    assert_int_equal(write(gate_fd, "go\n", 3), 3);
    world_wait(&w, &a->gone, 1);
    close(gate_fd);
    assert_int_equal(unlink(gate), 0);
    assert_file(&w, a, "0.out", "one\ntwo\n");
    world_close(&w);
}

/* More than a pipe holds, to a rank that reads late. */
static void test_stdin_waits(void **state)
{
    struct world w;
    struct start s;
    char *big = malloc(LIMIT_INPUT_CHUNK_BYTES);
    (void)state;
    assert_non_null(big);
    memset(big, 'x', LIMIT_INPUT_CHUNK_BYTES);
    world_open(&w);
    start_init(&s, 1, 1, 1, "/bin/sh", "-c", "kill -STOP $$; exec wc -c", NULL);
    s.spec.want_stdin = true;
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->started, 1);
    await_state((pid_t)a->start->ranks[0]->pid, ") T ");
    send_input(&w, a, 1, 0, big, LIMIT_INPUT_CHUNK_BYTES, false);
    Accel__V1__ShimInput in = ACCEL__V1__SHIM_INPUT__INIT;
    in.id = 2;
    in.offset = LIMIT_INPUT_CHUNK_BYTES;
    in.data = (ProtobufCBinaryData){.len = LIMIT_INPUT_CHUNK_BYTES, .data = (uint8_t *)big};
    in.eof = true;
    w.l->ops->input(w.l, a->id, &in);
    w.l->ops->signal(w.l, a->id, 0, SIGCONT);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->input_id, 2);
    assert_file(&w, a, "0.out", "131072\n");
    world_close(&w);
    free(big);
}

static void test_stdin_closed_by_rank(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    start_init(&s, 1, 1, 1, "/bin/sh", "-c", "exec </dev/null; echo shut; exec tail -f /dev/null",
               NULL);
    s.spec.want_stdin = true;
    struct seen *a = world_launch(&w, &s);
    world_wait_text(&w, a, "0.out", "shut");
    send_input(&w, a, 1, 0, "one\n", 4, false);
    assert_true(a->input_closed);
    w.l->ops->stop(w.l, a->id, 0, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    world_wait(&w, &a->gone, 1);
    send_input(&w, a, 2, 4, "two\n", 4, false); /* after the end: answered, and closed */
    assert_true(a->input_closed);
    world_close(&w);
}

/* ---- claims, records, directories ---- */

static void test_claims(void **state)
{
    struct world w;
    struct start s;
    char name[64];
    (void)state;
    snprintf(name, sizeof(name), "test:%d", (int)getpid());
    world_open(&w);
    start_init(&s, 1, 1, 1, "/bin/sh", "-c", "exec tail -f /dev/null", NULL);
    s.claims[0] = name;
    s.spec.n_claims = 1;
    struct seen *first = world_launch(&w, &s);
    world_wait(&w, &first->started, 1);
    s.spec.job_id = 2;
    struct seen *second = world_launch(&w, &s);
    world_wait(&w, &second->gone, 1);
    assert_int_equal(second->started, 0);
    assert_true(second->record->start_failed);
    assert_non_null(strstr(second->record->text, name));
    assert_non_null(strstr(second->record->text, "in use"));
    /* The claim is free as soon as `gone` is told, not a moment later. */
    for (uint64_t i = 3; i < 10; i++) {
        w.l->ops->stop(w.l, first->id, 0, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
        world_wait(&w, &first->gone, 1);
        s.spec.job_id = i;
        first = world_launch(&w, &s);
        while (first->started == 0 && first->gone == 0) {
            world_run_once(&w);
        }
        assert_int_equal(first->gone, 0);
    }
    world_close(&w);
}

static void test_acked_and_forgotten(void **state)
{
    struct world w;
    char path[512];
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 1, 2, "echo x; echo y >&2");
    struct seen *b = world_launch_shell(&w, 2, 1, "exec tail -f /dev/null");
    world_wait(&w, &a->gone, 1);
    world_wait(&w, &b->started, 1);
    assert_true(world_size(&w, a->id, "exit") > 0);
    w.l->ops->mark_acked(w.l, a->id);
    assert_int_equal(world_size(&w, a->id, "exit"), -1);
    assert_true(world_size(&w, a->id, "exit.acked") > 0);
    w.l->ops->forget(w.l, 1);
    w.l->ops->forget(w.l, 2); /* it runs: nothing is removed */
    w.l->ops->forget(w.l, 3); /* there is none */
    snprintf(path, sizeof(path), "%s/1.1", w.attempts);
    assert_int_equal(access(path, F_OK), -1);
    assert_true(world_size(&w, b->id, "spec") > 0);
    world_close(&w);
}

/* The exit record holds what was told. */
static void test_record_on_disk(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 1, 3, "echo $RANK >&2; exit $RANK");
    world_wait(&w, &a->gone, 1);
    size_t len;
    char *data = world_read(&w, a->id, "exit", &len);
    Accel__V1__ExitRecord *record =
        accel__v1__exit_record__unpack(NULL, len, (const uint8_t *)data);
    assert_non_null(record);
    assert_int_equal(record->n_ranks, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(record->ranks[i]->exit_code, i);
        assert_int_equal(record->ranks[i]->stderr_tail.len, 2);
        assert_int_equal(record->ranks[i]->end_boot_ns, a->record->ranks[i]->end_boot_ns);
    }
    accel__v1__exit_record__free_unpacked(record, NULL);
    free(data);
    world_close(&w);
}

static void test_many(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    for (uint64_t i = 1; i <= WORLD_ATTEMPTS; i++) {
        start_init(&s, i, 1, 1, "/bin/true", NULL);
        world_launch(&w, &s);
    }
    for (size_t i = 0; i < WORLD_ATTEMPTS; i++) {
        world_wait(&w, &w.seen[i].gone, 1);
        assert_int_equal(w.seen[i].exits[0]->exit_code, 0);
    }
    world_close(&w);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_echo),
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_signal_exit),
        cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_order_of_deaths),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_existing_directory_refuses),
        cmocka_unit_test(test_wrong_user),
        cmocka_unit_test(test_bad_programs),
        cmocka_unit_test(test_bad_directory),
        cmocka_unit_test(test_argument_too_long),
        cmocka_unit_test(test_one_bad_rank),
        cmocka_unit_test(test_no_process_to_be_had),
        cmocka_unit_test(test_stop_with_grace),
        cmocka_unit_test(test_stop_deaf),
        cmocka_unit_test(test_second_stop_shortens),
        cmocka_unit_test(test_stop_of_a_stopped_rank),
        cmocka_unit_test(test_stop_at_once),
        cmocka_unit_test(test_signal),
        cmocka_unit_test(test_stdin),
        cmocka_unit_test(test_stdin_goes_on),
        cmocka_unit_test(test_stdin_waits),
        cmocka_unit_test(test_stdin_closed_by_rank),
        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_acked_and_forgotten),
        cmocka_unit_test(test_record_on_disk),
        cmocka_unit_test(test_many),
    };
    if (!world_main(argc, argv)) {
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
