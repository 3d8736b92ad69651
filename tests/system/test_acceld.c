/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node alone: real acceld, accel-spawn and shims under a coordinator that this test plays. What
 * is shown: a gang's whole life, ends by their causes, adoption after kill -9, the fences of era
 * and epoch, output and input, and how the daemon itself ends.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/path.h"
#include "tests/system/acceld_world.h"

static struct world w;

static int setup(void **state)
{
    (void)state;
    world_init(&w);
    world_serve(&w);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    world_done(&w);
    return 0;
}

static void open_session(void)
{
    world_start(&w, "--devices", "cpu:16", NULL);
    world_wait_session(&w, 1);
}

static void assert_text(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no '%s' in '%s'", part, text);
}

static void test_life_of_a_gang(void **state)
{
    char ready[8] = "";
    (void)state;
    open_session();
    assert_string_equal(w.hello->hello->node->name, "n1");
    assert_int_equal(w.hello->hello->node->n_devices, 16);
    assert_int_equal(w.hello->hello->node->incarnation, 1);
    assert_int_equal(read(w.ready_fd, ready, 6), 6);
    assert_string_equal(ready, "ready\n");
    assert_int_equal(read(w.ready_fd, ready, 6), 0);

    world_start_job(&w, 7, 1, 2, "echo rank $RANK of $WORLD_SIZE; echo attempt $ACCEL_ATTEMPT >&2");
    const Accel__V1__Report *started = world_wait_started(&w, 7, 1);
    assert_int_equal(started->started->n_ranks, 2);
    assert_true(started->started->ranks[1]->pid > 0);
    assert_true(started->started->master_port >= 20000 && started->started->master_port < 30000);
    const Accel__V1__Report *ended = world_wait_ended(&w, 7, 1);
    assert_int_equal(ended->ended->cause, ACCEL__V1__CAUSE__CAUSE_SUCCEEDED);
    assert_int_equal(ended->ended->first_failed_rank, -1);
    assert_true(ended->seq > started->seq);

    uint64_t id = world_read_log(&w, 7, 1, 1, 0, true);
    const Accel__V1__LogData *log = world_wait_log(&w, id);
    assert_int_equal(log->reply->n_chunks, 1);
    assert_int_equal(log->reply->chunks[0]->data.len, 12);
    assert_memory_equal(log->reply->chunks[0]->data.data, "rank 1 of 2\n", 12);
    assert_true(log->reply->chunks[0]->eof && log->reply->ended);

    assert_true(world_has_file(&w, "attempts/7.1/exit"));
    world_ack(&w, ended->seq);
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__Forget forget = ACCEL__V1__FORGET__INIT;
    world_start_job(&w, 7, 1, 1, "exit 5"); /* late: refused by its number */
    ended = world_wait_next(&w)->report;
    assert_int_equal(ended->ended->cause, ACCEL__V1__CAUSE__CAUSE_FENCED);
    assert_true(ended->ended->never_started);
    assert_true(world_has_file(&w, "attempts/7.1/exit.acked"));
    world_ack(&w, ended->seq);
    forget.job_id = 7;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_FORGET;
    down.forget = &forget;
    world_send(&w, &down);
    world_start_job(&w, 8, 1, 1, "true"); /* what was sent before it has been done */
    world_wait_ended(&w, 8, 1);
    assert_false(world_has_file(&w, "attempts/7.1"));
    assert_int_equal(world_end_acceld(&w, SIGTERM), 0);
}

static void test_first_failing_rank(void **state)
{
    (void)state;
    open_session();
    /* Rank 1 dies by a signal once rank 0 runs; rank 0 would run for ever. */
    world_start_job(&w, 1, 1, 2,
                    "if [ $RANK = 1 ]; then echo last words >&2; kill -9 $$; fi; exec sleep 1000");
    const Accel__V1__AttemptEnded *ended = world_wait_ended(&w, 1, 1)->ended;
    char text[128];
    snprintf(text, sizeof(text), "rank 1 (pid %" PRIu32 ") was killed by signal 9 (Killed)",
             ended->ranks[1]->pid);
    assert_string_equal(ended->text, text);
    assert_int_equal(ended->cause, ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED);
    assert_int_equal(ended->first_failed_rank, 1);
    assert_int_equal(ended->ranks[0]->signal, SIGTERM);
    assert_int_equal(ended->ranks[1]->stderr_tail.len, 11);
    assert_memory_equal(ended->ranks[1]->stderr_tail.data, "last words\n", 11);
    assert_true(ended->first_failed_age_ns > 0);

    world_start_job(&w, 2, 1, 1, "exit 3");
    ended = world_wait_ended(&w, 2, 1)->ended;
    snprintf(text, sizeof(text), "rank 0 (pid %" PRIu32 ") exited with code 3",
             ended->ranks[0]->pid);
    assert_string_equal(ended->text, text);
}

static void test_stops(void **state)
{
    (void)state;
    open_session();
    world_start_job(&w, 1, 1, 2, "exec sleep 1000");
    world_stop_job(&w, 1, 1, ACCEL__V1__CAUSE__CAUSE_CANCELLED, 20000); /* before it started */
    assert_int_equal(world_wait_ended(&w, 1, 1)->ended->cause, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    world_start_job(&w, 2, 1, 1, "trap '' TERM; echo deaf; while :; do sleep 1000; done");
    world_wait_log(&w, world_read_log(&w, 2, 1, 0, 0, true));
    world_stop_job(&w, 2, 1, ACCEL__V1__CAUSE__CAUSE_TIME_LIMIT, 1000000);
    world_stop_job(&w, 2, 1, ACCEL__V1__CAUSE__CAUSE_CANCELLED, 0); /* only shortens */
    const Accel__V1__AttemptEnded *ended = world_wait_ended(&w, 2, 1)->ended;
    assert_int_equal(ended->cause, ACCEL__V1__CAUSE__CAUSE_TIME_LIMIT);
    assert_int_equal(ended->ranks[0]->signal, SIGKILL);
    world_stop_job(&w, 99, 3, ACCEL__V1__CAUSE__CAUSE_CANCELLED, 0);
    ended = world_wait_ended(&w, 99, 3)->ended;
    assert_int_equal(ended->cause, ACCEL__V1__CAUSE__CAUSE_NODE_LOST);
    assert_true(ended->never_started);
}

static void test_start_that_fails(void **state)
{
    Accel__V1__Start start = ACCEL__V1__START__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    Accel__V1__JobSpec spec = ACCEL__V1__JOB_SPEC__INIT;
    char missing[] = "/no/such/program", cwd[] = "/";
    ProtobufCBinaryData argv[] = {{sizeof(missing) - 1, (uint8_t *)missing}};
    char *devices[] = {(char *)"gpu:7"};
    (void)state;
    open_session();
    ref.job_id = 1;
    ref.attempt = 1;
    spec.argv = argv;
    spec.n_argv = 1;
    spec.cwd = (ProtobufCBinaryData){1, (uint8_t *)cwd};
    start.ref = &ref;
    start.spec = &spec;
    start.world_size = start.local_size = start.node_count = 1;
    start.uid = getuid();
    start.gid = getgid();
    world_start_full(&w, &start);
    const Accel__V1__AttemptEnded *ended = world_wait_ended(&w, 1, 1)->ended;
    assert_int_equal(ended->cause, ACCEL__V1__CAUSE__CAUSE_START_FAILED);
    assert_text(ended->text, "No such file");
    assert_false(ended->never_started);
    ref.job_id = 2;
    start.devices = devices;
    start.n_devices = 1;
    world_start_full(&w, &start);
    ended = world_wait_ended(&w, 2, 1)->ended;
    assert_int_equal(ended->cause, ACCEL__V1__CAUSE__CAUSE_START_FAILED);
    assert_true(ended->never_started);
    assert_text(ended->text, "gpu:7");
    assert_false(world_has_file(&w, "attempts/2.1"));
}

/* A reader that waits before the attempt has a directory; output in two pieces around an input. */
static void test_output_and_input(void **state)
{
    (void)state;
    open_session();
    world_start_job(&w, 1, 1, 1, "echo name?; read name; echo hello $name; cat; echo eof");
    const Accel__V1__LogData *log = world_wait_log(&w, world_read_log(&w, 1, 1, 0, 0, true));
    assert_int_equal(log->code, 0);
    assert_memory_equal(log->reply->chunks[0]->data.data, "name?\n", 6);
    uint64_t parked = world_read_log(&w, 1, 1, 0, 6, true);
    uint64_t input = world_send_input(&w, 1, 1, 0, "you\n", false);
    assert_false(world_wait_input(&w, input)->reply->closed);
    log = world_wait_log(&w, parked);
    assert_int_equal(log->reply->chunks[0]->offset, 6);
    assert_memory_equal(log->reply->chunks[0]->data.data, "hello you\n", 10);
    world_wait_input(&w, world_send_input(&w, 1, 1, 4, "more\n", true));
    world_wait_ended(&w, 1, 1);
    log = world_wait_log(&w, world_read_log(&w, 1, 1, 0, 16, true));
    assert_memory_equal(log->reply->chunks[0]->data.data, "more\neof\n", 9);
    assert_true(world_wait_input(&w, world_send_input(&w, 1, 1, 9, "late", false))->reply->closed);
    log = world_wait_log(&w, world_read_log(&w, 55, 1, 0, 0, true));
    assert_int_equal(log->code, 5 /* NOT_FOUND */);
    assert_text(log->text, "the logs of job 55 attempt 1 are gone from node n1");
}

/* kill -9 of acceld: one rank runs through, one gang ends while nobody watches. */
static void test_adoption(void **state)
{
    (void)state;
    open_session();
    world_start_job(&w, 1, 1, 2, "[ $RANK = 1 ] && exec sleep 1000; read x; echo got $x; exit 4");
    world_start_job(&w, 2, 1, 1, "read x; exit 6");
    const Accel__V1__Report *first = world_wait_started(&w, 1, 1);
    uint32_t pid = first->started->ranks[0]->pid;
    world_wait_started(&w, 2, 1);
    assert_int_equal(world_end_acceld(&w, SIGKILL), SIGKILL);
    assert_int_equal(kill((pid_t)pid, 0), 0);
    world_start(&w, NULL);
    world_wait_session(&w, 2);
    assert_int_equal(w.hello->hello->node->incarnation, 2);
    assert_int_equal(w.hello->hello->n_attempts, 2);
    assert_string_equal(w.hello->hello->attempts[0]->state, "RUNNING");
    assert_int_equal(kill((pid_t)pid, 0), 0);
    world_wait_input(&w, world_send_input(&w, 1, 1, 0, "it\n", true));
    const Accel__V1__AttemptEnded *ended = world_wait_ended(&w, 1, 1)->ended;
    assert_int_equal(ended->cause, ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED);
    assert_int_equal(ended->first_failed_rank, 0);
    assert_int_equal(ended->ranks[0]->pid, pid);
    assert_int_equal(ended->ranks[0]->exit_code, 4);
    const Accel__V1__LogData *log = world_wait_log(&w, world_read_log(&w, 1, 1, 0, 0, true));
    assert_memory_equal(log->reply->chunks[0]->data.data, "got it\n", 7);
    world_wait_input(&w, world_send_input(&w, 2, 1, 0, "\n", true));
    assert_int_equal(world_wait_ended(&w, 2, 1)->ended->ranks[0]->exit_code, 6);
}

/* Ended and never acknowledged: told again by the next acceld, acknowledged, then no more. */
static void test_end_survives_acceld(void **state)
{
    (void)state;
    open_session();
    world_start_job(&w, 1, 1, 1, "exit 6");
    world_wait_ended(&w, 1, 1);
    assert_int_equal(world_end_acceld(&w, SIGKILL), SIGKILL);
    world_start(&w, NULL);
    world_wait_session(&w, 2);
    assert_int_equal(w.hello->hello->n_attempts, 1);
    assert_string_equal(w.hello->hello->attempts[0]->state, "EXITED");
    world_forget_ups(&w);
    const Accel__V1__Report *ended = world_wait_ended(&w, 1, 1);
    assert_int_equal(ended->ended->ranks[0]->exit_code, 6);
    world_ack(&w, ended->seq);
    world_start_job(&w, 2, 1, 1, "true");
    world_wait_ended(&w, 2, 1);
    assert_true(world_has_file(&w, "attempts/1.1/exit.acked"));
    assert_int_equal(world_end_acceld(&w, SIGTERM), 0);
    world_start(&w, NULL);
    world_wait_session(&w, 3);
    assert_int_equal(w.hello->hello->n_attempts, 1); /* 2.1 only */
    assert_int_equal(w.hello->hello->attempts[0]->ref->job_id, 2);
}

static void test_era_and_epoch(void **state)
{
    (void)state;
    w.epoch = 5;
    open_session();
    world_start_job(&w, 1, 1, 1, "exec sleep 1000");
    world_wait_started(&w, 1, 1);
    w.epoch = 4; /* a coordinator of the past */
    world_stop_serving(&w);
    world_serve(&w);
    world_wait_session(&w, 2);
    assert_int_equal(w.hello->hello->epoch, 5);
    world_wait_session(&w, 3); /* it hung up and came again */
    w.epoch = 6;
    world_wait_session(&w, 4);
    world_stop_serving(&w);
    w.era = 2; /* the store was rolled back: what runs is fenced */
    w.epoch = 1;
    world_serve(&w);
    world_wait_session(&w, 5);
    const Accel__V1__AttemptEnded *ended = world_wait_ended(&w, 1, 1)->ended;
    assert_int_equal(ended->cause, ACCEL__V1__CAUSE__CAUSE_FENCED);
    assert_int_equal(ended->ref->era, 1);
    world_end_acceld(&w, SIGTERM);
    world_start(&w, NULL);
    world_wait_session(&w, 6);
    assert_int_equal(w.hello->hello->era, 2); /* durable */
    assert_int_equal(w.hello->hello->epoch, 1);
}

/* A coordinator that welcomes and then ends each session is asked less and less often. */
static void test_sessions_that_end(void **state)
{
    (void)state;
    open_session();
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (unsigned i = 2; i <= 7; i++) { /* at once, then 25, 50, 100, 200, 400 ms at least */
        rpc_server_end(w.server, w.call, NULL, 0, ACCEL_EPROTO, "not you");
        world_wait_session(&w, i);
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    int64_t ms = (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000;
    assert_true(ms >= 700);
}

static void test_second_acceld(void **state)
{
    pid_t first;
    (void)state;
    open_session();
    first = w.acceld;
    world_start(&w, NULL);
    assert_int_equal(WEXITSTATUS(world_wait_exit(&w)), 1);
    AUTO_FREE char *text = world_stderr(&w);
    assert_text(text, "another acceld");
    w.acceld = first;
}

/* Holds STATE/lock, as an acceld that ends, until the other end of the pipe is closed. */
static pid_t hold_lock(const int ends[2])
{
    char byte, path[PATH_MAX], text[32];
    snprintf(path, sizeof(path), "%s/lock", w.state);
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[1]);
        int fd = open(path, O_RDWR);
        int len = snprintf(text, sizeof(text), "%d ending\n", (int)getpid());
        bool is_held = flock(fd, LOCK_EX) == 0 && pwrite(fd, text, (size_t)len, 0) == len;
        if (is_held && write(ready[1], "", 1) == 1)
            (void)!read(ends[0], &byte, 1);
        _exit(0);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

/* Started when the session of the one before has ended but its process has not: it waits. */
static void test_successor(void **state)
{
    char path[PATH_MAX], expected[32], events[4096];
    int ends[2];
    size_t len;
    (void)state;
    open_session();
    snprintf(expected, sizeof(expected), "%d ending\n", (int)w.acceld);
    kill(w.acceld, SIGTERM);
    assert_int_equal(world_wait_exit(&w), 0);
    AUTO_FREE char *text = NULL;
    snprintf(path, sizeof(path), "%s/lock", w.state);
    assert_int_equal(path_read_all(AT_FDCWD, path, 64, &text, &len, NULL), 0);
    assert_string_equal(text, expected);

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t holder = hold_lock(ends);
    AUTO_CLOSE int watch = inotify_init1(IN_CLOEXEC);
    assert_true(inotify_add_watch(watch, path, IN_CLOSE_WRITE | IN_CLOSE_NOWRITE) >= 0);
    world_start(&w, "--devices", "cpu:16", NULL);
    for (int closes = 0; closes < 2;) { /* it tried the lock, and read whose it is */
        ssize_t n = read(watch, events, sizeof(events));
        assert_true(n > 0);
        for (char *e = events; e < events + n; closes++)
            e += sizeof(struct inotify_event) + ((struct inotify_event *)e)->len;
    }
    close(ends[0]);
    close(ends[1]); /* the holder ends */
    assert_int_equal(waitpid(holder, NULL, 0), holder);
    world_wait_session(&w, 2);
}

static void test_idle_exit(void **state)
{
    (void)state;
    world_stop_serving(&w);
    world_start(&w, "--idle-exit", "1", NULL);
    assert_int_equal(world_wait_exit(&w), 0);
}

static void test_bad_options(void **state)
{
    (void)state;
    world_start(&w, "--devices", "abacus", NULL);
    assert_int_equal(WEXITSTATUS(world_wait_exit(&w)), 2);
    AUTO_FREE char *text = world_stderr(&w);
    assert_text(text, "abacus");
    world_start(&w, "--colour", NULL);
    assert_int_equal(WEXITSTATUS(world_wait_exit(&w)), 2);
}

static bool has_beat(struct world *world, void *arg)
{
    (void)arg;
    for (size_t i = 0; i < world->up_count; i++) {
        if (world->ups[i]->body_case == ACCEL__V1__AGENT_UP__BODY_BEAT)
            return true;
    }
    return false;
}

static void test_fake_devices(void **state)
{
    char path[128], option[160], next[128];
    (void)state;
    snprintf(path, sizeof(path), "%s/devices", w.dir);
    snprintf(next, sizeof(next), "%s/devices.new", w.dir);
    snprintf(option, sizeof(option), "fake:%s", path);
    FILE *f = fopen(path, "w");
    fputs("gpu gpu:GPU-0 model=H200 memory=141G\ngpu gpu:GPU-1\n", f);
    fclose(f);
    world_start(&w, "--devices", option, NULL);
    world_wait_session(&w, 1);
    assert_int_equal(w.hello->hello->node->n_devices, 2);
    assert_string_equal(w.hello->hello->node->devices[0]->model, "H200");
    f = fopen(next, "w");
    fputs("gpu gpu:GPU-0 model=H200 memory=141G\ngpu gpu:GPU-1 fault=XID 79\n", f);
    fclose(f);
    assert_int_equal(rename(next, path), 0);
    world_run_until(&w, has_beat, NULL);
    assert_string_equal(w.ups[w.up_count - 1]->beat->devices[1]->fault, "XID 79");
}

static void test_shim_lost(void **state)
{
    char path[256], text[64] = "";
    (void)state;
    open_session();
    world_start_job(&w, 1, 1, 2, "exec sleep 1000");
    world_wait_started(&w, 1, 1);
    snprintf(path, sizeof(path), "%s/attempts/1.1/pid", w.state);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(fgets(text, sizeof(text), f));
    fclose(f);
    assert_int_equal(kill((pid_t)strtol(text, NULL, 10), SIGKILL), 0);
    const Accel__V1__AttemptEnded *ended = world_wait_ended(&w, 1, 1)->ended;
    assert_int_equal(ended->cause, ACCEL__V1__CAUSE__CAUSE_SHIM_LOST);
    assert_int_equal(ended->first_failed_rank, -1);
    for (size_t i = 0; i < ended->n_ranks; i++)
        assert_int_equal(kill((pid_t)ended->ranks[i]->pid, 0), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_life_of_a_gang, setup, teardown),
        cmocka_unit_test_setup_teardown(test_first_failing_rank, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stops, setup, teardown),
        cmocka_unit_test_setup_teardown(test_start_that_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_output_and_input, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adoption, setup, teardown),
        cmocka_unit_test_setup_teardown(test_end_survives_acceld, setup, teardown),
        cmocka_unit_test_setup_teardown(test_era_and_epoch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sessions_that_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_second_acceld, setup, teardown),
        cmocka_unit_test_setup_teardown(test_successor, setup, teardown),
        cmocka_unit_test_setup_teardown(test_idle_exit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_options, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fake_devices, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shim_lost, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
