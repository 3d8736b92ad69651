/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The coordinator's half of a session, played by a test, and the processes around it. The programs
 * under test are named by ACCELD and ACCEL_SPAWN in the environment. Neighbour: test_acceld.c.
 */
#include "tests/system/acceld_world.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/path.h"
#include "common/rpc_local.h"

#define LIMIT_WAIT_MS 30000 /* a machine under sanitizers and load; nothing waits for it */

/* ---- the coordinator ---- */

static void on_session(void *ctx, const struct rpc_event *ev)
{
    struct world *w = ctx;
    if (ev->type == RPC_OPEN) {
        w->call = ev->call;
        w->sessions++;
        if (!ev->msg)
            return;
    }
    if (ev->type == RPC_HALF_CLOSE || ev->type == RPC_CLOSED) {
        if (w->call == ev->call)
            w->call = 0;
        return;
    }
    size_t len = protobuf_c_message_get_packed_size(ev->msg);
    uint8_t *packed = xcalloc(1, len + 1);
    protobuf_c_message_pack(ev->msg, packed);
    Accel__V1__AgentUp *up = accel__v1__agent_up__unpack(NULL, len, packed);
    free(packed);
    assert_non_null(up);
    if (up->body_case == ACCEL__V1__AGENT_UP__BODY_HELLO) {
        accel__v1__agent_up__free_unpacked(w->hello, NULL);
        w->hello = up;
        if (w->is_welcoming) {
            Accel__V1__Welcome welcome = ACCEL__V1__WELCOME__INIT;
            Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
            welcome.era = w->era;
            welcome.epoch = w->epoch;
            down.body_case = ACCEL__V1__COORD_DOWN__BODY_WELCOME;
            down.welcome = &welcome;
            world_send(w, &down);
        }
        return;
    }
    assert_true(w->up_count < UPS_MAX);
    w->ups[w->up_count++] = up;
}

static struct rpc_method methods[1];

void world_send(struct world *w, Accel__V1__CoordDown *down)
{
    size_t len = accel__v1__coord_down__get_packed_size(down);
    uint8_t *packed = xcalloc(1, len + 1);
    accel__v1__coord_down__pack(down, packed);
    assert_true(w->call != 0);
    rpc_server_send(w->server, w->call, packed, len);
    free(packed);
}

void world_serve(struct world *w)
{
    static struct rpc_service service;
    struct accel_error err;
    int fd;
    methods[0] = (struct rpc_method){
        .name = "/accel.v1.Agent/Session",
        .request = &accel__v1__agent_up__descriptor,
        .response = &accel__v1__coord_down__descriptor,
        .is_client_stream = true,
        .is_server_stream = true,
        .role = RPC_ROLE_NODE,
        .cap_bytes = 1u << 20,
        .handler = on_session,
    };
    service = (struct rpc_service){.methods = methods, .count = 1, .ctx = w};
    if (path_socket_listen(w->socket, 16, &fd, &err) < 0)
        fail_msg("%s", err.text);
    if (rpc_local_server_create(&w->loop, fd, &service, &w->server, &err) < 0)
        fail_msg("%s", err.text);
}

static void on_stopped(void *ctx)
{
    *(bool *)ctx = true;
}

static bool is_set(struct world *w, void *arg)
{
    (void)w;
    return *(bool *)arg;
}

void world_stop_serving(struct world *w)
{
    bool is_stopped = false;
    if (!w->server)
        return;
    rpc_server_stop(w->server, on_stopped, &is_stopped);
    w->server = NULL;
    w->call = 0;
    world_run_until(w, is_set, &is_stopped);
}

/* ---- waiting ---- */

static void on_limit(uv_timer_t *timer)
{
    *(bool *)timer->data = true;
}

void world_run_until(struct world *w, bool (*is_true)(struct world *w, void *arg), void *arg)
{
    bool is_late = false;
    w->limit.data = &is_late;
    uv_timer_start(&w->limit, on_limit, LIMIT_WAIT_MS, 0);
    while (!is_true(w, arg)) {
        if (is_late)
            fail_msg("nothing came for %d s", LIMIT_WAIT_MS / 1000);
        uv_run(&w->loop, UV_RUN_ONCE);
    }
    uv_timer_stop(&w->limit);
}

static bool has_session(struct world *w, void *arg)
{
    return w->sessions >= *(unsigned *)arg && w->hello && w->call;
}

void world_wait_session(struct world *w, unsigned count)
{
    if (w->sessions < count && w->hello) {
        accel__v1__agent_up__free_unpacked(w->hello, NULL);
        w->hello = NULL;
    }
    world_run_until(w, has_session, &count);
}

struct search {
    int what;   /* body case of AgentUp */
    int report; /* body case of Report */
    uint64_t job, id;
    uint32_t attempt;
    const Accel__V1__AgentUp *found;
};

static bool is_report_of(const Accel__V1__Report *r, const struct search *f)
{
    const Accel__V1__AttemptRef *ref =
        r->body_case == ACCEL__V1__REPORT__BODY_STARTED ? r->started->ref : r->ended->ref;
    return (int)r->body_case == f->report && ref->job_id == f->job && ref->attempt == f->attempt;
}

static bool find_up(struct world *w, void *arg)
{
    struct search *f = arg;
    for (size_t i = w->up_count; i-- > 0;) {
        const Accel__V1__AgentUp *up = w->ups[i];
        bool is_it = (int)up->body_case == f->what;
        if (is_it && f->what == ACCEL__V1__AGENT_UP__BODY_REPORT)
            is_it = is_report_of(up->report, f);
        if (is_it && f->what == ACCEL__V1__AGENT_UP__BODY_LOG_DATA)
            is_it = up->log_data->id == f->id;
        if (is_it && f->what == ACCEL__V1__AGENT_UP__BODY_INPUT_DONE)
            is_it = up->input_done->id == f->id;
        if (is_it) {
            f->found = up;
            return true;
        }
    }
    return false;
}

static const Accel__V1__AgentUp *wait_up(struct world *w, struct search f)
{
    world_run_until(w, find_up, &f);
    return f.found;
}

const Accel__V1__Report *world_wait_started(struct world *w, uint64_t job, uint32_t attempt)
{
    return wait_up(w, (struct search){.what = ACCEL__V1__AGENT_UP__BODY_REPORT,
                                      .report = ACCEL__V1__REPORT__BODY_STARTED,
                                      .job = job,
                                      .attempt = attempt})
        ->report;
}

const Accel__V1__Report *world_wait_ended(struct world *w, uint64_t job, uint32_t attempt)
{
    return wait_up(w, (struct search){.what = ACCEL__V1__AGENT_UP__BODY_REPORT,
                                      .report = ACCEL__V1__REPORT__BODY_ENDED,
                                      .job = job,
                                      .attempt = attempt})
        ->report;
}

const Accel__V1__LogData *world_wait_log(struct world *w, uint64_t id)
{
    return wait_up(w, (struct search){.what = ACCEL__V1__AGENT_UP__BODY_LOG_DATA, .id = id})
        ->log_data;
}

const Accel__V1__InputDone *world_wait_input(struct world *w, uint64_t id)
{
    return wait_up(w, (struct search){.what = ACCEL__V1__AGENT_UP__BODY_INPUT_DONE, .id = id})
        ->input_done;
}

static bool has_more_than(struct world *w, void *arg)
{
    return w->up_count > *(size_t *)arg;
}

const Accel__V1__AgentUp *world_wait_next(struct world *w)
{
    size_t before = w->up_count;
    world_run_until(w, has_more_than, &before);
    return w->ups[before];
}

void world_forget_ups(struct world *w)
{
    for (size_t i = 0; i < w->up_count; i++)
        accel__v1__agent_up__free_unpacked(w->ups[i], NULL);
    w->up_count = 0;
}

/* ---- commands ---- */

void world_start_full(struct world *w, Accel__V1__Start *start)
{
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
    start->ref->era = w->era;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_START;
    down.start = start;
    world_send(w, &down);
}

void world_start_job(struct world *w, uint64_t job, uint32_t attempt, uint32_t ranks,
                     const char *line)
{
    Accel__V1__Start start = ACCEL__V1__START__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    Accel__V1__JobSpec spec = ACCEL__V1__JOB_SPEC__INIT;
    char sh[] = "/bin/sh", dash_c[] = "-c", path[] = "PATH=/usr/bin:/bin";
    ProtobufCBinaryData argv[] = {{sizeof(sh) - 1, (uint8_t *)sh},
                                  {sizeof(dash_c) - 1, (uint8_t *)dash_c},
                                  {strlen(line), (uint8_t *)line}};
    ProtobufCBinaryData env[] = {{sizeof(path) - 1, (uint8_t *)path}};
    char devices_text[64][12], *devices[64];
    assert_true(ranks <= 64);
    for (uint32_t i = 0; i < ranks; i++) {
        snprintf(devices_text[i], sizeof(devices_text[i]), "cpu:%" PRIu32, i % 16);
        devices[i] = devices_text[i];
    }
    ref.job_id = job;
    ref.attempt = attempt;
    spec.argv = argv;
    spec.n_argv = 3;
    spec.env = env;
    spec.n_env = 1;
    spec.cwd = (ProtobufCBinaryData){strlen(w->dir), (uint8_t *)w->dir};
    spec.umask = 022;
    spec.want_stdin = true;
    start.ref = &ref;
    start.spec = &spec;
    start.world_size = start.local_size = ranks;
    start.node_count = 1;
    start.devices = devices;
    start.n_devices = ranks;
    start.uid = getuid();
    start.gid = getgid();
    start.job_name = (char *)"test";
    world_start_full(w, &start);
}

void world_stop_job(struct world *w, uint64_t job, uint32_t attempt, uint32_t cause,
                    uint64_t grace_ms)
{
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__Stop stop = ACCEL__V1__STOP__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    ref.job_id = job;
    ref.attempt = attempt;
    ref.era = w->era;
    stop.ref = &ref;
    stop.cause = (Accel__V1__Cause)cause;
    stop.grace_ms = grace_ms;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_STOP;
    down.stop = &stop;
    world_send(w, &down);
}

void world_ack(struct world *w, uint64_t seq)
{
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__ReportAck ack = ACCEL__V1__REPORT_ACK__INIT;
    ack.seq = seq;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_REPORT_ACK;
    down.report_ack = &ack;
    world_send(w, &down);
}

uint64_t world_read_log(struct world *w, uint64_t job, uint32_t attempt, uint32_t rank,
                        uint64_t offset, bool wait)
{
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__LogRead read = ACCEL__V1__LOG_READ__INIT;
    Accel__V1__LogReadRequest request = ACCEL__V1__LOG_READ_REQUEST__INIT;
    Accel__V1__LogCursor cursor = ACCEL__V1__LOG_CURSOR__INIT;
    Accel__V1__LogCursor *cursors[] = {&cursor};
    cursor.rank = rank;
    cursor.offset = offset;
    request.job_id = job;
    request.wait = wait;
    request.cursors = cursors;
    request.n_cursors = 1;
    read.id = ++w->next_id;
    read.attempt = attempt;
    read.request = &request;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_LOG_READ;
    down.log_read = &read;
    world_send(w, &down);
    return read.id;
}

uint64_t world_send_input(struct world *w, uint64_t job, uint32_t attempt, uint64_t offset,
                          const char *data, bool eof)
{
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__Input input = ACCEL__V1__INPUT__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    Accel__V1__InputRequest request = ACCEL__V1__INPUT_REQUEST__INIT;
    ref.job_id = request.job_id = job;
    ref.attempt = attempt;
    ref.era = w->era;
    request.offset = offset;
    request.data = (ProtobufCBinaryData){strlen(data), (uint8_t *)data};
    request.eof = eof;
    input.ref = &ref;
    input.id = ++w->next_id;
    input.data = &request;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_INPUT;
    down.input = &input;
    world_send(w, &down);
    return input.id;
}

/* ---- acceld ---- */

void world_start(struct world *w, ...)
{
    char address[128], ready[16];
    const char *argv[24] = {
        getenv("ACCELD"),      "--coordinator", address, "--state-dir", w->state, "--spawn",
        getenv("ACCEL_SPAWN"), "--node-name",   "n1",    "--ready-fd",  ready};
    size_t argc = 11;
    int ready_pipe[2], stderr_pipe[2];
    va_list args;
    if (!argv[0] || !argv[6])
        fail_msg("ACCELD and ACCEL_SPAWN have to name the programs under test");
    va_start(args, w);
    for (const char *arg; (arg = va_arg(args, const char *));) {
        assert_true(argc < ARRAY_LEN(argv) - 1);
        argv[argc++] = arg;
    }
    va_end(args);
    snprintf(address, sizeof(address), "unix:%s", w->socket);
    assert_int_equal(pipe2(ready_pipe, O_CLOEXEC), 0);
    assert_int_equal(pipe2(stderr_pipe, O_CLOEXEC), 0);
    fcntl(stderr_pipe[1], F_SETPIPE_SZ, 1 << 20); /* nobody reads before the end */
    snprintf(ready, sizeof(ready), "%d", ready_pipe[1]);
    w->acceld = fork();
    assert_true(w->acceld >= 0);
    if (w->acceld == 0) {
        fcntl(ready_pipe[1], F_SETFD, 0);
        dup2(stderr_pipe[1], 2);
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    close(ready_pipe[1]);
    close(stderr_pipe[1]);
    base_close_fd(&w->ready_fd);
    base_close_fd(&w->stderr_fd);
    w->ready_fd = ready_pipe[0];
    w->stderr_fd = stderr_pipe[0];
}

static bool has_exited(struct world *w, void *arg)
{
    pid_t pid = waitpid(w->acceld, arg, WNOHANG);
    assert_true(pid >= 0);
    return pid == w->acceld;
}

static void on_child(uv_signal_t *signal, int signo)
{
    (void)signal;
    (void)signo; /* it only turns the loop */
}

int world_wait_exit(struct world *w)
{
    int status = 0;
    uv_signal_t child;
    uv_signal_init(&w->loop, &child);
    uv_signal_start(&child, on_child, SIGCHLD);
    world_run_until(w, has_exited, &status);
    uv_close((uv_handle_t *)&child, NULL);
    uv_run(&w->loop, UV_RUN_NOWAIT);
    w->acceld = 0;
    return status;
}

int world_end_acceld(struct world *w, int signo)
{
    assert_int_equal(kill(w->acceld, signo), 0);
    return world_wait_exit(w);
}

char *world_stderr(struct world *w)
{
    struct str text;
    char buf[4096];
    ssize_t n;
    str_init(&text);
    fcntl(w->stderr_fd, F_SETFL, O_NONBLOCK); /* shims may hold the other end */
    while ((n = read(w->stderr_fd, buf, sizeof(buf))) > 0)
        str_add(&text, buf, (size_t)n);
    return str_steal(&text);
}

bool world_has_file(struct world *w, const char *fmt, ...)
{
    char path[512];
    int n = snprintf(path, sizeof(path), "%s/", w->state);
    va_list args;
    va_start(args, fmt);
    vsnprintf(path + n, sizeof(path) - (size_t)n, fmt, args);
    va_end(args);
    return access(path, F_OK) == 0;
}

/* ---- life ---- */

void world_init(struct world *w)
{
    *w =
        (struct world){.era = 1, .epoch = 1, .is_welcoming = true, .ready_fd = -1, .stderr_fd = -1};
    snprintf(w->dir, sizeof(w->dir), "/tmp/accel-test-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->state, sizeof(w->state), "%s/state", w->dir);
    snprintf(w->socket, sizeof(w->socket), "%s/sock", w->dir);
    assert_int_equal(uv_loop_init(&w->loop), 0);
    assert_int_equal(uv_timer_init(&w->loop, &w->limit), 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void world_done(struct world *w)
{
    if (w->acceld > 0)
        world_end_acceld(w, SIGTERM);
    world_stop_serving(w);
    uv_close((uv_handle_t *)&w->limit, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    accel__v1__agent_up__free_unpacked(w->hello, NULL);
    world_forget_ups(w);
    base_close_fd(&w->ready_fd);
    base_close_fd(&w->stderr_fd);
    nftw(w->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
