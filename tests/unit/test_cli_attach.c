/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launch, wait and logs against a coordinator that dies, refuses or is slow at the worst moments: a
 * server of this test on a real socket, each life of it a process that ends where its script says.
 * Output must be there once, the job submitted once, the exit code right.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "accel/v1/admin.pb-c.h"
#include "accel/v1/job.pb-c.h"
#include "client/accelctl/cli.h"
#include "common/limits.h"
#include "common/path.h"
#include "common/rpc_local.h"

#define DEADLINE_S 60     /* of one accelctl: what hangs ends by SIGALRM */
#define WAITED     1500   /* jobs; more than LIMIT_CALLS_PER_CONNECTION */
#define FAILED_JOB 1400   /* of them */
#define QUIET_MS   100    /* after the last Watch, before they end */
#define READER_MS  11000  /* a reader stands still; longer than the end of the output is awaited */
#define LONG_BYTES 100000 /* of output; more than a pipe of one page holds */

enum { SUBMIT, WATCH, READ, STATUS, INPUT, GET };

/* Shared by the lives of the server and the test. */
struct shared {
    int life; /* from 1 */
    uint8_t request_id[LIMIT_REQUEST_ID_BYTES];
    int submits, wrong_ids, watches, owners;
    uint64_t offset_after_break;
    int inputs, reads, open, most_open;
    char input[16];
    size_t input_len;
    bool is_input_over;
};
static struct shared *shared;
static struct rpc_server *server;
static void (*story)(const struct rpc_event *ev); /* what the server does; inherited by its lives */
static uv_loop_t loop;
static uint64_t watch_call;
static char dir[64], socket_path[96];

static void send_message(uint64_t call, const ProtobufCMessage *msg, bool is_last)
{
    AUTO_FREE uint8_t *buf = xcalloc(1, protobuf_c_message_get_packed_size(msg) + 1);
    size_t len = protobuf_c_message_pack(msg, buf);

    if (is_last)
        rpc_server_end(server, call, buf, len, 0, "");
    else
        rpc_server_send(server, call, buf, len);
}

static void tell_job(uint32_t attempt, bool is_ended)
{
    Accel__V1__WatchReply reply = ACCEL__V1__WATCH_REPLY__INIT;
    Accel__V1__Job job = ACCEL__V1__JOB__INIT;
    Accel__V1__Attempt ended = ACCEL__V1__ATTEMPT__INIT, *attempts[] = {&ended};
    Accel__V1__Rank rank = ACCEL__V1__RANK__INIT, *ranks[] = {&rank};

    rank.pid = 42;
    rank.exited = true;
    rank.signal = 9;
    ended.number = is_ended ? 2 : 1;
    ended.cause = ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED;
    ended.ranks = ranks;
    ended.n_ranks = 1;
    job.id = 7;
    job.name = "story";
    job.attempt = attempt;
    job.procs = 1;
    job.state = is_ended ? ACCEL__V1__JOB_STATE__JOB_ENDED : ACCEL__V1__JOB_STATE__JOB_RUNNING;
    job.result =
        is_ended ? ACCEL__V1__JOB_RESULT__RESULT_FAILED : ACCEL__V1__JOB_RESULT__RESULT_NONE;
    job.exit_code = is_ended ? 5 : 0;
    if (attempt > 1 || is_ended) {
        job.attempts = attempts;
        job.n_attempts = 1;
    }
    reply.job = &job;
    send_message(watch_call, &reply.base, is_ended);
}

static void send_output(uint64_t call, uint32_t attempt, uint64_t offset, const char *text,
                        bool is_ended)
{
    Accel__V1__LogReadReply reply = ACCEL__V1__LOG_READ_REPLY__INIT;
    Accel__V1__LogChunk chunk = ACCEL__V1__LOG_CHUNK__INIT, *chunks[] = {&chunk};

    chunk.offset = offset;
    chunk.data.data = (uint8_t *)text;
    chunk.data.len = strlen(text);
    chunk.eof = is_ended;
    reply.attempt = attempt;
    reply.chunks = chunks;
    reply.n_chunks = 1;
    reply.ended = is_ended;
    send_message(call, &reply.base, true);
}

/* Life 1 dies over Submit. 2 answers it, sends part of the output, dies over the next read. 3
 * sends a part again and the rest, a second attempt, and the end. */
static void story_of_deaths(const struct rpc_event *ev)
{
    static bool has_read;

    if (ev->type != RPC_OPEN)
        return;
    if (ev->method->id == SUBMIT) {
        const Accel__V1__SubmitRequest *req = (const Accel__V1__SubmitRequest *)ev->msg;
        Accel__V1__SubmitReply reply = ACCEL__V1__SUBMIT_REPLY__INIT;

        if (shared->submits++ == 0)
            memcpy(shared->request_id, req->request_id.data, sizeof shared->request_id);
        else if (memcmp(shared->request_id, req->request_id.data, sizeof shared->request_id) != 0)
            shared->wrong_ids++;
        if (shared->life == 1)
            _exit(0);
        reply.job_id = 7;
        send_message(ev->call, &reply.base, true);
    } else if (ev->method->id == WATCH) {
        watch_call = ev->call;
        shared->watches++;
        shared->owners += ((const Accel__V1__WatchRequest *)ev->msg)->owner;
        tell_job(1, false);
    } else if (ev->method->id == READ) {
        const Accel__V1__LogReadRequest *req = (const Accel__V1__LogReadRequest *)ev->msg;

        if (shared->life == 2 && has_read)
            _exit(0);
        has_read = true;
        if (shared->life == 2) {
            send_output(ev->call, 1, 0, "hello ", false);
        } else if (req->attempt == 1) {
            shared->offset_after_break = req->cursors[0]->offset;
            send_output(ev->call, 1, 3, "lo world\n", true);
            tell_job(2, false);
        } else {
            send_output(ev->call, 2, 0, "second\n", true);
            tell_job(2, true);
        }
    } else {
        Accel__V1__StatusReply reply = ACCEL__V1__STATUS_REPLY__INIT;

        reply.nodes_ready = 1;
        send_message(ev->call, &reply.base, true);
    }
}

static void submitted(const struct rpc_event *ev)
{
    Accel__V1__SubmitReply reply = ACCEL__V1__SUBMIT_REPLY__INIT;

    reply.job_id = 7;
    send_message(ev->call, &reply.base, true);
}

/* The job has ended before its output is read; that is longer than its reader's pipe. */
static void story_of_slow_reader(const struct rpc_event *ev)
{
    static char text[LONG_BYTES + 1];

    if (ev->type != RPC_OPEN)
        return;
    if (ev->method->id == SUBMIT) {
        submitted(ev);
    } else if (ev->method->id == WATCH) {
        watch_call = ev->call;
        tell_job(1, true);
    } else if (ev->method->id == READ) {
        memset(text, 'x', LONG_BYTES);
        if (shared->reads++ == 0)
            send_output(ev->call, 1, 0, text, false);
        else
            send_output(ev->call, 1, LONG_BYTES, "end\n", true);
    }
}

/* Each chunk is refused three times, while nothing changes with the job. */
static void take_input(const struct rpc_event *ev)
{
    const Accel__V1__InputRequest *req = (const Accel__V1__InputRequest *)ev->msg;
    static const int codes[] = {ACCEL_EUNAVAIL, ACCEL_EBUSY, ACCEL_EINTERNAL};
    Accel__V1__InputReply reply = ACCEL__V1__INPUT_REPLY__INIT;
    size_t n = (size_t)shared->inputs++ % (ARRAY_LEN(codes) + 1);

    if (n < ARRAY_LEN(codes)) {
        rpc_server_end(server, ev->call, NULL, 0, codes[n], "no input now");
        return;
    }
    if (req->data.len > 0 && req->offset == shared->input_len &&
        req->data.len <= sizeof shared->input - shared->input_len) {
        memcpy(shared->input + shared->input_len, req->data.data, req->data.len);
        shared->input_len += req->data.len;
    }
    shared->is_input_over = req->eof;
    send_message(ev->call, &reply.base, true);
}

static void story_of_input(const struct rpc_event *ev)
{
    static uint64_t read_call;

    if (ev->type != RPC_OPEN)
        return;
    if (ev->method->id == SUBMIT) {
        submitted(ev);
    } else if (ev->method->id == WATCH) {
        watch_call = ev->call;
        tell_job(1, false);
    } else if (ev->method->id == READ) {
        read_call = ev->call;
    } else if (ev->method->id == INPUT) {
        take_input(ev);
        if (!shared->is_input_over)
            return;
        send_output(read_call, 1, 0, "", true);
        tell_job(1, true);
    }
}

static struct watch {
    uint64_t call, job;
} watches[WAITED + 1];

static void on_quiet(uv_timer_t *timer)
{
    int count = shared->open;

    shared->open = 0;
    for (int i = 0; i < count; i++) {
        Accel__V1__WatchReply reply = ACCEL__V1__WATCH_REPLY__INIT;
        Accel__V1__Job job = ACCEL__V1__JOB__INIT;

        job.id = watches[i].job;
        job.name = "many";
        job.state = ACCEL__V1__JOB_STATE__JOB_ENDED;
        job.result = job.id == FAILED_JOB ? ACCEL__V1__JOB_RESULT__RESULT_FAILED
                                          : ACCEL__V1__JOB_RESULT__RESULT_SUCCEEDED;
        job.exit_code = job.id == FAILED_JOB ? 5 : 0;
        reply.job = &job;
        send_message(watches[i].call, &reply.base, true);
    }
}

/* Watches end together, and only once no more of them come. */
static void story_of_many(const struct rpc_event *ev)
{
    static uv_timer_t timer;

    if (ev->type != RPC_OPEN || ev->method->id != WATCH || shared->open > WAITED)
        return;
    if (shared->watches++ == 0)
        uv_timer_init(&loop, &timer);
    watches[shared->open++] =
        (struct watch){ev->call, ((const Accel__V1__WatchRequest *)ev->msg)->job_id};
    shared->most_open = MAX(shared->most_open, shared->open);
    uv_timer_start(&timer, on_quiet, QUIET_MS, 0);
}

/* All of them run and none ends. */
static void story_of_running(const struct rpc_event *ev)
{
    if (ev->method->id != WATCH)
        return;
    if (ev->type != RPC_OPEN) {
        shared->open--;
        return;
    }
    shared->watches++;
    shared->open++;
    shared->most_open = MAX(shared->most_open, shared->open);
    watch_call = ev->call;
    tell_job(1, false);
}

/* The first life dies over the read, the second has an agent that is away. */
static void story_of_logs(const struct rpc_event *ev)
{
    if (ev->type != RPC_OPEN)
        return;
    if (ev->method->id == GET) {
        Accel__V1__GetReply reply = ACCEL__V1__GET_REPLY__INIT;
        Accel__V1__Job job = ACCEL__V1__JOB__INIT;

        job.id = 7;
        job.attempt = job.procs = 1;
        job.state = ACCEL__V1__JOB_STATE__JOB_RUNNING;
        reply.job = &job;
        send_message(ev->call, &reply.base, true);
    } else if (ev->method->id == READ) {
        shared->reads++;
        if (shared->life == 1)
            _exit(0);
        rpc_server_end(server, ev->call, NULL, 0, ACCEL_EUNAVAIL,
                       "the logs of job 7 attempt 1 are on node n\nwhy: its acceld is away\n"
                       "try: again when it is back");
    }
}

/* What is there, or nothing; and that node n1 is away. */
static void send_missing(uint64_t call, const char *text)
{
    Accel__V1__LogReadReply reply = ACCEL__V1__LOG_READ_REPLY__INIT;
    Accel__V1__LogChunk chunk = ACCEL__V1__LOG_CHUNK__INIT, *chunks[] = {&chunk};
    char *missing[] = {(char *)"n1"};

    chunk.data.data = (uint8_t *)text;
    chunk.data.len = text ? strlen(text) : 0;
    reply.attempt = 1;
    reply.chunks = chunks;
    reply.n_chunks = text != NULL;
    reply.missing_nodes = missing;
    reply.n_missing_nodes = 1;
    send_message(call, &reply.base, true);
}

/* One of two nodes is away. */
static void story_of_half_the_logs(const struct rpc_event *ev)
{
    if (ev->type == RPC_OPEN && ev->method->id == READ) {
        assert_true(((const Accel__V1__LogReadRequest *)ev->msg)->tell_missing);
        send_missing(ev->call, shared->reads++ == 0 ? "here\n" : NULL);
    } else {
        story_of_logs(ev);
    }
}

/* The only node of attempt 1 is away, and there is an attempt 2. */
static void story_of_a_lost_past(const struct rpc_event *ev)
{
    if (ev->type != RPC_OPEN)
        return;
    if (ev->method->id == WATCH) {
        watch_call = ev->call;
        tell_job(2, false);
    } else if (ev->method->id == READ && ((Accel__V1__LogReadRequest *)ev->msg)->attempt == 1) {
        shared->reads++;
        send_missing(ev->call, NULL);
    } else if (ev->method->id == READ) {
        send_output(ev->call, 2, 0, "second\n", true);
        tell_job(2, true);
    } else {
        story_of_deaths(ev);
    }
}

static void on_call(void *ctx, const struct rpc_event *ev)
{
    story(ev);
}

static void serve(int listen_fd)
{
    const struct rpc_method methods[] = {
        {"/accel.v1.Jobs/Submit", &accel__v1__submit_request__descriptor,
         &accel__v1__submit_reply__descriptor, false, false, RPC_ROLE_USER, LIMIT_SPEC_BYTES,
         on_call, SUBMIT},
        {"/accel.v1.Jobs/Watch", &accel__v1__watch_request__descriptor,
         &accel__v1__watch_reply__descriptor, false, true, RPC_ROLE_USER, LIMIT_SMALL_MESSAGE_BYTES,
         on_call, WATCH},
        {"/accel.v1.Logs/Read", &accel__v1__log_read_request__descriptor,
         &accel__v1__log_read_reply__descriptor, false, false, RPC_ROLE_USER,
         LIMIT_SMALL_MESSAGE_BYTES, on_call, READ},
        {"/accel.v1.Admin/Status", &accel__v1__status_request__descriptor,
         &accel__v1__status_reply__descriptor, false, false, RPC_ROLE_USER,
         LIMIT_SMALL_MESSAGE_BYTES, on_call, STATUS},
        {"/accel.v1.Jobs/Input", &accel__v1__input_request__descriptor,
         &accel__v1__input_reply__descriptor, false, false, RPC_ROLE_USER,
         2 * LIMIT_INPUT_CHUNK_BYTES, on_call, INPUT},
        {"/accel.v1.Jobs/Get", &accel__v1__get_request__descriptor,
         &accel__v1__get_reply__descriptor, false, false, RPC_ROLE_USER, LIMIT_SMALL_MESSAGE_BYTES,
         on_call, GET},
    };
    const struct rpc_service svc = {methods, ARRAY_LEN(methods), NULL};

    uv_loop_init(&loop);
    if (listen_fd < 0 && path_socket_listen(socket_path, 8, &listen_fd, NULL) < 0)
        _exit(1);
    if (rpc_local_server_create(&loop, listen_fd, &svc, &server, NULL) < 0)
        _exit(1);
    uv_run(&loop, UV_RUN_DEFAULT);
    _exit(1);
}

/* The parent of all lives; its pid is also their process group. */
static pid_t start_server(void (*what)(const struct rpc_event *ev))
{
    int listen_fd = -1;
    pid_t pid;

    unlink(socket_path); /* of a server that was killed */
    assert_int_equal(path_socket_listen(socket_path, 8, &listen_fd, NULL), 0);
    memset(shared, 0, sizeof *shared);
    story = what;
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setpgid(0, 0);
        for (shared->life = 1; shared->life <= 3; shared->life++) {
            pid_t life = fork();
            int status;

            if (life == 0)
                serve(shared->life == 1 ? listen_fd : -1);
            base_close_fd(&listen_fd);
            waitpid(life, &status, 0);
        }
        _exit(0);
    }
    setpgid(pid, pid);
    close(listen_fd);
    return pid;
}

static void stop_server(pid_t pid)
{
    kill(-pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* Runs the verb in a child with stderr in a file. */
static pid_t start_verb(verb_function *verb, char **argv, int in_fd, int out_fd)
{
    int argc = 0;
    pid_t pid;

    while (argv[argc])
        argc++;
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct cli cli = {0};
        int code;

        alarm(DEADLINE_S);
        dup2(in_fd, 0);
        dup2(out_fd, 1);
        dup2(open("err", O_CREAT | O_TRUNC | O_WRONLY, 0600), 2);
        if (options_parse(argc, argv, &cli.opt, NULL) < 0)
            _exit(99);
        code = verb(&cli);
        options_done(&cli.opt);
        _exit(code);
    }
    close(in_fd);
    close(out_fd);
    return pid;
}

static int verb_exit_code(pid_t pid)
{
    int status;

    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Stdout in a file too. */
static int run_verb_with_input(verb_function *verb, char **argv, int in_fd)
{
    return verb_exit_code(
        start_verb(verb, argv, in_fd, open("out", O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600)));
}

static int run_verb(verb_function *verb, char **argv)
{
    return run_verb_with_input(verb, argv, open("/dev/null", O_RDONLY | O_CLOEXEC));
}

static char *read_file(const char *name)
{
    char *text = NULL;
    size_t len;

    assert_int_equal(path_read_all(AT_FDCWD, name, 1 << 20, &text, &len, NULL), 0);
    return text;
}

static void test_launch_over_two_deaths(void **state)
{
    char address[128];
    char *argv[] = {"accelctl", "launch", "--coordinator", address, "/bin/true", NULL};
    pid_t pid = start_server(story_of_deaths);

    snprintf(address, sizeof address, "unix:%s", socket_path);
    int code = run_verb(verb_launch, argv);

    stop_server(pid);
    AUTO_FREE char *out = read_file("out"), *err = read_file("err");

    assert_string_equal(out, "hello world\nsecond\n");
    assert_int_equal(code, 5);
    assert_int_equal(shared->submits, 2); /* once unanswered, once answered */
    assert_int_equal(shared->wrong_ids, 0);
    assert_int_equal(shared->watches, 2);
    assert_int_equal(shared->owners, 2);
    assert_int_equal(shared->offset_after_break, 6);
    const char *told = strstr(
        err,
        "attempt 1 ended: rank 0 (pid 42) was killed by signal 9 (Killed); starting attempt 2\n");

    assert_non_null(told);
    assert_null(strstr(told + 1, "attempt 1 ended"));
    assert_non_null(strstr(err, "job 7 (story) failed"));
}

/* The end of the output is awaited from answer to answer, however long its reader takes. */
static void test_slow_reader(void **state)
{
    char address[128], buf[4096];
    char *argv[] = {"accelctl", "launch", "--coordinator", address, "/bin/true", NULL};
    pid_t pid = start_server(story_of_slow_reader), verb;
    int fds[2];
    size_t total = 0;
    ssize_t n;

    snprintf(address, sizeof address, "unix:%s", socket_path);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_true(fcntl(fds[1], F_SETPIPE_SZ, 4096) > 0);
    verb = start_verb(verb_launch, argv, open("/dev/null", O_RDONLY | O_CLOEXEC), fds[1]);
    assert_int_equal(read(fds[0], buf, 1), 1); /* so the rest is being written */
    assert_int_equal(poll(NULL, 0, READER_MS), 0);
    for (total = 1; (n = read(fds[0], buf, sizeof buf)) > 0; total += (size_t)n)
        continue;
    close(fds[0]);
    int code = verb_exit_code(verb);

    stop_server(pid);
    AUTO_FREE char *err = read_file("err");

    assert_int_equal(total, LONG_BYTES + strlen("end\n"));
    assert_null(strstr(err, "could not be read"));
    assert_int_equal(code, 5);
}

static void test_refused_input(void **state)
{
    char address[128];
    char *argv[] = {"accelctl", "launch", "--coordinator", address, "/bin/cat", NULL};
    pid_t pid = start_server(story_of_input);
    int fds[2];

    snprintf(address, sizeof address, "unix:%s", socket_path);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(write(fds[1], "hello", 5), 5);
    close(fds[1]);
    int code = run_verb_with_input(verb_launch, argv, fds[0]);

    stop_server(pid);
    assert_int_equal(code, 5);
    assert_int_equal(shared->input_len, 5);
    assert_memory_equal(shared->input, "hello", 5);
    assert_true(shared->is_input_over);
    assert_int_equal(shared->inputs, 8); /* two chunks, the second is the end */
}

static int wait_for_many(void (*what)(const struct rpc_event *ev), char *option)
{
    static char ids[WAITED][12], address[128];
    char *argv[WAITED + 6] = {"accelctl", "wait", "--coordinator", address};
    pid_t pid = start_server(what);
    int argc = 4;

    if (option)
        argv[argc++] = option;
    snprintf(address, sizeof address, "unix:%s", socket_path);
    for (int i = 0; i < WAITED; i++) {
        snprintf(ids[i], sizeof ids[i], "%d", i + 1);
        argv[argc++] = ids[i];
    }
    int code = run_verb(verb_wait, argv);

    stop_server(pid);
    assert_int_equal(shared->watches, WAITED);
    assert_in_range(shared->most_open, 2, LIMIT_CALLS_PER_CONNECTION / 2);
    return code;
}

static void test_wait_for_many(void **state)
{
    assert_int_equal(wait_for_many(story_of_many, NULL), 5);
    AUTO_FREE char *err = read_file("err");

    assert_non_null(strstr(err, "job 1400 (many) failed"));
}

static void test_wait_for_many_to_run(void **state)
{
    assert_int_equal(wait_for_many(story_of_running, "--for=running"), 0);
}

/* Without -f nothing is watched; a new connection goes on reading, and the reason is told. */
static void test_logs_of_an_agent_away(void **state)
{
    char address[128];
    char *argv[] = {"accelctl", "logs", "--coordinator", address, "7", NULL};
    pid_t pid = start_server(story_of_logs);

    snprintf(address, sizeof address, "unix:%s", socket_path);
    int code = run_verb(verb_logs, argv);

    stop_server(pid);
    AUTO_FREE char *err = read_file("err");

    assert_string_equal(err, "accelctl: error: the logs of job 7 attempt 1 are on node n\n"
                             "why: its acceld is away\ntry: again when it is back\n");
    assert_int_equal(code, EXIT_CODE_UNREACHABLE);
    assert_int_equal(shared->reads, 2);
}

/* What there is is shown, and who is missing is said at once. */
static void test_logs_of_half_a_gang(void **state)
{
    char address[128];
    char *argv[] = {"accelctl", "logs", "--coordinator", address, "7", NULL};

    shared->reads = shared->life = 0;
    pid_t pid = start_server(story_of_half_the_logs);
    snprintf(address, sizeof address, "unix:%s", socket_path);
    int code = run_verb(verb_logs, argv);

    stop_server(pid);
    AUTO_FREE char *out = read_file("out");
    AUTO_FREE char *err = read_file("err");

    assert_string_equal(out, "here\n");
    assert_string_equal(err, "accelctl: attempt 1: the output of node n1 is missing: its acceld is "
                             "away\n"
                             "accelctl: error: the output of job 7 attempt 1 is on node n1\n"
                             "why: its acceld is away\ntry: again when it is back\n");
    assert_int_equal(code, EXIT_CODE_UNREACHABLE);
    assert_int_equal(shared->reads, 2);
}

/* It is not asked for again and again: the successor has output too. */
static void test_a_past_that_is_away(void **state)
{
    char address[128];
    char *argv[] = {"accelctl", "logs", "-f", "--coordinator", address, "7", NULL};

    shared->reads = shared->life = 0;
    pid_t pid = start_server(story_of_a_lost_past);
    snprintf(address, sizeof address, "unix:%s", socket_path);
    run_verb(verb_logs, argv);
    stop_server(pid);
    AUTO_FREE char *out = read_file("out");
    AUTO_FREE char *err = read_file("err");

    assert_string_equal(out, "second\n");
    assert_non_null(strstr(err, "the rest of the output of attempt 1 cannot be read: the output of "
                                "job 7 attempt 1 is on node n1\n"));
    assert_int_equal(shared->reads, 1);
}

static void test_nobody_answers(void **state)
{
    char address[128];
    char *argv[] = {"accelctl", "launch", "--coordinator", address, "/bin/true", NULL};

    unlink(socket_path);
    snprintf(address, sizeof address, "unix:%s", socket_path);
    assert_int_equal(run_verb(verb_launch, argv), EXIT_CODE_UNREACHABLE);
    AUTO_FREE char *err = read_file("err");

    assert_int_equal(strncmp(err, "accelctl: error: cannot reach the coordinator", 45), 0);
    assert_non_null(strstr(err, "\nwhy: "));
    assert_non_null(strstr(err, "\ntry: "));
}

static int setup(void **state)
{
    snprintf(dir, sizeof dir, "/tmp/accel-test-cli-XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(chdir(dir), 0);
    snprintf(socket_path, sizeof socket_path, "%s/sock", dir);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(shared, MAP_FAILED);
    return 0;
}

static int teardown(void **state)
{
    unlink("out");
    unlink("err");
    unlink("sock");
    assert_int_equal(chdir("/"), 0);
    munmap(shared, sizeof *shared);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_launch_over_two_deaths), cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_refused_input),          cmocka_unit_test(test_wait_for_many),
        cmocka_unit_test(test_wait_for_many_to_run),   cmocka_unit_test(test_logs_of_an_agent_away),
        cmocka_unit_test(test_logs_of_half_a_gang),    cmocka_unit_test(test_a_past_that_is_away),
        cmocka_unit_test(test_nobody_answers),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
