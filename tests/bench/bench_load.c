/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load on a running coordinator from one client, over rpc_local: what a command line per job would
 * hide behind its own start. Completion is told by Events.Watch, never asked for. One JSON line per
 * row on stdout. Nobody else may submit meanwhile. See bench_bound for the machine's bounds.
 *
 *   bench_load SOCKET submit N WINDOW wait|nowait COMMAND [ARG...]
 *                            N jobs, each with a request id of its own, WINDOW unanswered at a time
 *   bench_load SOCKET start N FIFO STAMP      one job after another: Submit until the worker's
 *                                             first instruction
 *   bench_load SOCKET restart N FIFO STAMP    a gang of 2 whose rank 1 is killed N times: SIGKILL
 *                                             until the first instruction of the last new worker
 *   bench_load SOCKET list N                  Jobs.List of everything, N times
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "accel/v1/event.pb-c.h"
#include "accel/v1/job.pb-c.h"
#include "common/clock.h"
#include "common/path.h"
#include "common/rpc_local.h"
#include "common/str.h"
#include "tests/bench/bench.h"

#define WINDOW_MAX 1000u /* calls per connection are capped */

static struct load {
    uv_loop_t loop;
    struct rpc_channel *ch;
    struct rpc_call *watch;
    uv_poll_t fifo_poll;
    int fifo;
    size_t count, window, begun, answered, ended;
    bool is_waiting; /* for the ends of the jobs, too */
    Accel__V1__JobSpec spec;
    uint64_t t0, t_answered;
    uint64_t *begun_ns; /* per slot of the window */
    struct samples rows, firsts;
    void (*on_watching)(void);
    void (*on_ended)(void);
    void (*on_stamp)(uint64_t ns, unsigned rank, unsigned attempt, pid_t pid);
    struct str stamps; /* read from the FIFO, not yet a line */
    pid_t pids[2];
    unsigned attempt, seen;
    uint64_t last_ns;
} load;

static void load_close(void)
{
    if (load.watch)
        rpc_call_cancel(load.watch);
    load.watch = NULL;
    if (load.fifo >= 0)
        uv_close((uv_handle_t *)&load.fifo_poll, NULL);
    rpc_channel_close(load.ch, NULL, NULL);
}

/* --- events --- */

static void on_events(void *ctx, const ProtobufCMessage *msg)
{
    const Accel__V1__EventsReply *reply = (const Accel__V1__EventsReply *)msg;
    if (load.on_watching) {
        void (*begin)(void) = load.on_watching;
        load.on_watching = NULL;
        begin();
        return; /* those of before */
    }
    for (size_t i = 0; i < reply->n_events; i++) {
        if (strcmp(reply->events[i]->kind, "job.ended") == 0) {
            load.ended++;
            load.on_ended();
        }
    }
}

static void on_broken(void *ctx, int code, const char *text)
{
    fprintf(stderr, "bench_load: the call ended: %s\n", text);
    exit(1);
}

static void watch_begin(void (*on_watching)(void), void (*on_ended)(void))
{
    static const struct rpc_call_handlers handlers = {on_events, on_broken};
    Accel__V1__EventsRequest m = ACCEL__V1__EVENTS_REQUEST__INIT;
    m.follow = true;
    m.limit = 1;
    load.on_watching = on_watching;
    load.on_ended = on_ended;
    load.watch = rpc_channel_call(load.ch, "/accel.v1.Events/Watch", &m.base,
                                  &accel__v1__events_reply__descriptor, &handlers, NULL);
}

/* --- submit --- */

static void on_answer_end(void *ctx, int code, const char *text);

static void submit_one(uint64_t *begun_ns)
{
    static const struct rpc_call_handlers handlers = {NULL, on_answer_end};
    Accel__V1__SubmitRequest m = ACCEL__V1__SUBMIT_REQUEST__INIT;
    uint8_t id[16];
    CHECK(getrandom(id, sizeof(id), 0) == sizeof(id));
    uint64_t ms = (uint64_t)clock_wall_ms(); /* the time first, as accelctl makes them */
    for (int i = 5; i >= 0; i--, ms >>= 8)
        id[i] = (uint8_t)ms;
    m.request_id = (ProtobufCBinaryData){sizeof(id), id};
    m.spec = &load.spec;
    load.begun++;
    *begun_ns = bench_now_ns();
    rpc_channel_call(load.ch, "/accel.v1.Jobs/Submit", &m.base,
                     &accel__v1__submit_reply__descriptor, &handlers, begun_ns);
}

static void on_answer_end(void *ctx, int code, const char *text)
{
    uint64_t *begun_ns = ctx;
    if (code != 0)
        on_broken(NULL, code, text);
    if (load.on_stamp) /* the start is measured, not the answer */
        return;
    load.answered++;
    samples_add(&load.rows, bench_now_ns() - *begun_ns);
    if (load.answered == load.count)
        load.t_answered = bench_now_ns();
    if (load.begun < load.count)
        submit_one(begun_ns);
    else if (load.answered == load.count && !load.is_waiting)
        load_close();
}

static void submit_begin(void)
{
    load.t0 = bench_now_ns();
    for (size_t i = 0; i < load.window && i < load.count; i++)
        submit_one(&load.begun_ns[i]);
}

static void on_submit_ended(void)
{
    if (load.ended == load.count)
        load_close();
}

static void rate_report(const char *name, uint64_t ns)
{
    printf("{\"row\": \"%s\", \"count\": %zu, \"seconds\": %.4f, \"per_s\": %.1f}\n", name,
           load.count, (double)ns / 1e9, (double)load.count * 1e9 / (double)ns);
}

static void run_submit(void)
{
    load.begun_ns = xcalloc(load.window, sizeof(uint64_t));
    samples_init(&load.rows, load.count);
    if (load.is_waiting)
        watch_begin(submit_begin, on_submit_ended);
    else
        submit_begin();
    uv_run(&load.loop, UV_RUN_DEFAULT);
    uint64_t now = bench_now_ns();
    CHECK(load.answered == load.count);
    rate_report("accepted", load.t_answered - load.t0);
    samples_report(&load.rows, "answer");
    if (load.is_waiting)
        rate_report("completed", now - load.t0);
    free(load.begun_ns);
}

/* --- stamps --- */

static void on_fifo(uv_poll_t *poll, int status, int events)
{
    char buf[4096];
    ssize_t got = read(load.fifo, buf, sizeof(buf));
    if (got > 0)
        str_add(&load.stamps, buf, (size_t)got);
    for (char *end; (end = memchr(load.stamps.data, '\n', load.stamps.len));) {
        unsigned long long ns;
        unsigned rank, attempt;
        int pid;
        CHECK(sscanf(load.stamps.data, "%llu %u %u %d", &ns, &rank, &attempt, &pid) == 4);
        str_drop_front(&load.stamps, (size_t)(end + 1 - load.stamps.data));
        load.on_stamp(ns, rank, attempt, pid);
    }
}

static void fifo_open(const char *path)
{
    load.fifo = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    CHECK(load.fifo >= 0 && uv_poll_init(&load.loop, &load.fifo_poll, load.fifo) == 0);
    str_init(&load.stamps);
    CHECK(uv_poll_start(&load.fifo_poll, UV_READABLE, on_fifo) == 0);
}

static void start_next(void)
{
    submit_one(&load.t0);
}

static void on_start_stamp(uint64_t ns, unsigned rank, unsigned attempt, pid_t pid)
{
    samples_add(&load.rows, ns - load.t0);
}

static void on_start_ended(void)
{
    if (load.begun < load.count)
        start_next();
    else
        load_close();
}

static void run_start(void)
{
    load.on_stamp = on_start_stamp;
    samples_init(&load.rows, load.count);
    watch_begin(start_next, on_start_ended);
    uv_run(&load.loop, UV_RUN_DEFAULT);
    CHECK(load.rows.count == load.count);
    samples_report(&load.rows, "submit_to_first_instruction");
}

/* The attempt after the last kill runs on; the job is cancelled by whoever started us. */
static void on_restart_stamp(uint64_t ns, unsigned rank, unsigned attempt, pid_t pid)
{
    CHECK(rank < 2);
    load.pids[rank] = pid;
    load.seen++;
    if (load.seen == 1 && load.attempt > 0)
        samples_add(&load.firsts, ns - load.t0);
    load.last_ns = load.seen == 1 ? ns : MAX(ns, load.last_ns);
    if (load.seen < 2)
        return;
    if (load.attempt > 0)
        samples_add(&load.rows, load.last_ns - load.t0);
    load.seen = 0;
    if (load.attempt++ == load.count) {
        load_close();
        return;
    }
    load.t0 = bench_now_ns();
    CHECK(kill(load.pids[1], SIGKILL) == 0);
}

static void on_restart_ended(void)
{
    fprintf(stderr, "bench_load: the gang ended\n");
    exit(1);
}

static void run_restart(void)
{
    load.on_stamp = on_restart_stamp;
    load.spec.procs_per_node = 2;
    load.spec.max_restarts = (uint32_t)load.count;
    samples_init(&load.rows, load.count);
    samples_init(&load.firsts, load.count);
    watch_begin(start_next, on_restart_ended);
    uv_run(&load.loop, UV_RUN_DEFAULT);
    samples_report(&load.firsts, "kill_to_first_worker");
    samples_report(&load.rows, "kill_to_last_worker");
}

/* --- list --- */

static void list_one(void);

static void on_list(void *ctx, const ProtobufCMessage *msg)
{
    load.answered = ((const Accel__V1__ListReply *)msg)->n_jobs;
}

static void on_list_end(void *ctx, int code, const char *text)
{
    if (code != 0)
        on_broken(NULL, code, text);
    samples_add(&load.rows, bench_now_ns() - load.t0);
    if (load.begun < load.count)
        list_one();
    else
        load_close();
}

static void list_one(void)
{
    static const struct rpc_call_handlers handlers = {on_list, on_list_end};
    Accel__V1__ListRequest m = ACCEL__V1__LIST_REQUEST__INIT;
    load.begun++;
    load.t0 = bench_now_ns();
    rpc_channel_call(load.ch, "/accel.v1.Jobs/List", &m.base, &accel__v1__list_reply__descriptor,
                     &handlers, NULL);
}

static void run_list(void)
{
    samples_init(&load.rows, load.count);
    list_one();
    uv_run(&load.loop, UV_RUN_DEFAULT);
    printf("{\"row\": \"listed\", \"count\": %zu}\n", load.answered);
    samples_report(&load.rows, "list");
}

/* --- main --- */

/* What `accelctl submit` sends, from an ordinary shell. */
static void spec_fill(char **argv)
{
    static ProtobufCBinaryData args[64], env[4];
    static const char *const vars[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
        "LANG=C.UTF-8", "USER=root"};
    Accel__V1__JobSpec *spec = &load.spec;
    accel__v1__job_spec__init(spec);
    spec->name = (char *)"bench";
    spec->argv = args;
    for (size_t i = 0; argv[i]; i++) {
        CHECK(i < ARRAY_LEN(args));
        args[i] = (ProtobufCBinaryData){strlen(argv[i]), (uint8_t *)argv[i]};
        spec->n_argv = i + 1;
    }
    for (size_t i = 0; i < ARRAY_LEN(vars); i++)
        env[i] = (ProtobufCBinaryData){strlen(vars[i]), (uint8_t *)vars[i]};
    spec->env = env;
    spec->n_env = ARRAY_LEN(vars);
    spec->cwd = (ProtobufCBinaryData){1, (uint8_t *)"/"};
    spec->umask = 022;
    spec->device_kind = ACCEL__V1__DEVICE_KIND__DEVICE_CPU;
}

static int usage(void)
{
    fprintf(stderr, "usage: bench_load SOCKET submit N WINDOW wait|nowait COMMAND... | "
                    "start N FIFO STAMP | restart N FIFO STAMP | list N\n");
    return 2;
}

int main(int argc, char **argv)
{
    uint64_t n = 0, window = 1;
    struct accel_error err;
    int fd = -1;
    if (argc < 4 || parse_u64(argv[3], 1, BENCH_SAMPLES_MAX, &n) < 0)
        return usage();
    const char *mode = argv[2];
    bool is_submit = strcmp(mode, "submit") == 0, is_list = strcmp(mode, "list") == 0;
    bool has_stamp = strcmp(mode, "start") == 0 || strcmp(mode, "restart") == 0;
    if ((is_submit && (argc < 7 || parse_u64(argv[4], 1, WINDOW_MAX, &window) < 0)) ||
        (has_stamp && argc != 6) || !(is_submit || has_stamp || is_list))
        return usage();
    if (path_socket_connect(argv[1], &fd, &err) < 0) {
        fprintf(stderr, "bench_load: %s\n", err.text);
        return 1;
    }
    load.fifo = -1;
    load.count = n;
    load.window = window;
    uv_loop_init(&load.loop);
    CHECK(rpc_local_channel_create(&load.loop, fd, NULL, NULL, &load.ch, NULL) == 0);
    if (is_submit) {
        load.is_waiting = strcmp(argv[5], "wait") == 0;
        spec_fill(argv + 6);
        run_submit();
    } else if (is_list) {
        run_list();
    } else {
        char *hold = mode[0] == 'r' ? (char *)"hold" : NULL;
        fifo_open(argv[4]);
        spec_fill((char *[]){argv[5], argv[4], hold, NULL});
        if (hold)
            run_restart();
        else
            run_start();
    }
    if (load.fifo >= 0)
        close(load.fifo);
    str_done(&load.stamps);
    return 0;
}
