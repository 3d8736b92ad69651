/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launch, wait and logs against a coordinator that dies at the worst moments: a server of this test
 * on a real socket, each life of it a process that ends where its script says. Output must be there
 * once, the job submitted once, the exit code right.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
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

enum { SUBMIT, WATCH, READ, STATUS };

/* Shared by the lives of the server and the test. */
struct shared {
    int life; /* from 1 */
    uint8_t request_id[LIMIT_REQUEST_ID_BYTES];
    int submits, wrong_ids, watches, owners;
    uint64_t offset_after_break;
};
static struct shared *shared;
static struct rpc_server *server;
static uint64_t watch_call;
static char dir[64], socket_path[96];

static void send_message(uint64_t call, const ProtobufCMessage *msg, bool is_last)
{
    uint8_t buf[4096];
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
static void on_call(void *ctx, const struct rpc_event *ev)
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
    };
    const struct rpc_service svc = {methods, ARRAY_LEN(methods), NULL};
    uv_loop_t loop;

    uv_loop_init(&loop);
    if (listen_fd < 0 && path_socket_listen(socket_path, 8, &listen_fd, NULL) < 0)
        _exit(1);
    if (rpc_local_server_create(&loop, listen_fd, &svc, &server, NULL) < 0)
        _exit(1);
    uv_run(&loop, UV_RUN_DEFAULT);
    _exit(1);
}

/* The parent of all lives; its pid is also their process group. */
static pid_t start_server(void)
{
    int listen_fd = -1;
    pid_t pid;

    assert_int_equal(path_socket_listen(socket_path, 8, &listen_fd, NULL), 0);
    memset(shared, 0, sizeof *shared);
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

/* Runs the verb in a child with stdout and stderr in files. */
static int run_verb(verb_function *verb, char **argv)
{
    int argc = 0, status;
    pid_t pid;

    while (argv[argc])
        argc++;
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct cli cli = {0};
        int code;

        dup2(open("/dev/null", O_RDONLY), 0);
        dup2(open("out", O_CREAT | O_TRUNC | O_WRONLY, 0600), 1);
        dup2(open("err", O_CREAT | O_TRUNC | O_WRONLY, 0600), 2);
        if (options_parse(argc, argv, &cli.opt, NULL) < 0)
            _exit(99);
        code = verb(&cli);
        options_done(&cli.opt);
        _exit(code);
    }
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
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
    pid_t pid = start_server();

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
        cmocka_unit_test(test_launch_over_two_deaths),
        cmocka_unit_test(test_nobody_answers),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
