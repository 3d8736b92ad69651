/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Round trips of rpc_local between two processes, beside the bound of the machine in the same run:
 * 64 bytes to and fro over a bare socketpair. One JSON line per row. Usage: bench_rpc [COUNT].
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "accel/v1/job.pb-c.h"
#include "common/clock.h"
#include "common/path.h"
#include "common/rpc_local.h"
#include "common/str.h"

#define BYTES     64u
#define COUNT_MAX 1000000u

static uint64_t *samples; /* ns */

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Returns the median. */
static double report(const char *name, size_t n, uint64_t total_ns, double bound_us)
{
    qsort(samples, n, sizeof(*samples), compare);
    double p50 = (double)samples[n / 2] / 1e3, p99 = (double)samples[n * 99 / 100] / 1e3;
    printf("{\"bench\":\"rpc\",\"name\":\"%s\",\"count\":%zu,\"p50_us\":%.1f,\"p99_us\":%.1f,"
           "\"per_second\":%.0f,\"ratio_to_bound\":%.2f}\n",
           name, n, p50, p99, (double)n * 1e9 / (double)total_ns,
           bound_us > 0 ? p50 / bound_us : 1);
    return p50;
}

static pid_t fork_child(void)
{
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    return pid;
}

static double bench_bare(size_t n)
{
    char buf[BYTES] = {0};
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    pid_t pid = fork_child();
    if (pid == 0) {
        close(pair[0]);
        while (read(pair[1], buf, BYTES) == BYTES && write(pair[1], buf, BYTES) == BYTES)
            ;
        _exit(0);
    }
    close(pair[1]);
    uint64_t start = clock_mono_ns(), last = start;
    for (size_t i = 0; i < n; i++) {
        CHECK(write(pair[0], buf, BYTES) == BYTES && read(pair[0], buf, BYTES) == BYTES);
        uint64_t now = clock_mono_ns();
        samples[i] = now - last;
        last = now;
    }
    close(pair[0]);
    waitpid(pid, NULL, 0);
    return report("bare socketpair", n, last - start, 0);
}

/* --- rpc --- */

static struct rpc_server *server;

static void on_event(void *ctx, const struct rpc_event *ev)
{
    uint8_t buf[BYTES + 16];
    Accel__V1__LogChunk m = ACCEL__V1__LOG_CHUNK__INIT;
    if (ev->type != RPC_OPEN)
        return;
    m.data = ((const Accel__V1__InputRequest *)ev->msg)->data;
    rpc_server_end(server, ev->call, buf, accel__v1__log_chunk__pack(&m, buf), 0, NULL);
}

static const struct rpc_method methods[] = {
    {"/accel.v1.Bench/Echo", &accel__v1__input_request__descriptor,
     &accel__v1__log_chunk__descriptor, false, false, RPC_ROLE_USER, BYTES + 16, on_event, 0},
};
static const struct rpc_service service = {methods, 1, NULL};

static _Noreturn void serve(int listen_fd)
{
    uv_loop_t loop;
    uv_loop_init(&loop);
    CHECK(rpc_local_server_create(&loop, listen_fd, &service, &server, NULL) == 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    _exit(0);
}

struct bench {
    struct rpc_channel *ch;
    size_t begun, done, count, window;
    uint64_t *begun_ns;
};
struct slot {
    struct bench *b;
    size_t index;
};

static void on_end(void *ctx, int code, const char *text);
static const struct rpc_call_handlers handlers = {NULL, on_end};

static void begin(struct slot *s)
{
    static uint8_t data[BYTES];
    Accel__V1__InputRequest m = ACCEL__V1__INPUT_REQUEST__INIT;
    m.data = (ProtobufCBinaryData){BYTES, data};
    s->index = s->b->begun++;
    s->b->begun_ns[s->index] = clock_mono_ns();
    rpc_channel_call(s->b->ch, methods[0].name, &m.base, methods[0].response, &handlers, s);
}

static void on_end(void *ctx, int code, const char *text)
{
    struct slot *s = ctx;
    struct bench *b = s->b;
    CHECK(code == 0);
    samples[s->index] = clock_mono_ns() - b->begun_ns[s->index];
    if (++b->done == b->count)
        rpc_channel_close(b->ch, NULL, NULL);
    else if (b->begun < b->count)
        begin(s);
}

static void bench_calls(const char *path, const char *name, size_t n, size_t window,
                        double bound_us)
{
    static struct slot slots[64];
    struct bench b = {.count = n, .window = window};
    uv_loop_t loop;
    int fd = -1;
    CHECK(window <= ARRAY_LEN(slots));
    uv_loop_init(&loop);
    CHECK(path_socket_connect(path, &fd, NULL) == 0);
    CHECK(rpc_local_channel_create(&loop, fd, NULL, NULL, &b.ch, NULL) == 0);
    b.begun_ns = xcalloc(n, sizeof(*b.begun_ns));
    uint64_t start = clock_mono_ns();
    for (size_t i = 0; i < window; i++) {
        slots[i].b = &b;
        begin(&slots[i]);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(b.done == n && uv_loop_close(&loop) == 0);
    report(name, n, clock_mono_ns() - start, bound_us);
    free(b.begun_ns);
}

int main(int argc, char **argv)
{
    uint64_t n = 50000;
    char dir[] = "/tmp/bench_rpc.XXXXXX", path[64];
    int fd = -1;
    if (argc > 1 && parse_u64(argv[1], 100, COUNT_MAX, &n) < 0) {
        fprintf(stderr, "usage: %s [COUNT]\n", argv[0]);
        return 2;
    }
    samples = xcalloc(n, sizeof(*samples));
    CHECK(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/socket", dir);
    CHECK(path_socket_listen(path, 16, &fd, NULL) == 0);
    double bound_us = bench_bare(n);
    pid_t pid = fork_child();
    if (pid == 0)
        serve(fd);
    close(fd);
    bench_calls(path, "unary, 1 outstanding", n, 1, bound_us);
    bench_calls(path, "unary, 16 outstanding", n, 16, bound_us);
    bench_calls(path, "unary, 64 outstanding", n, 64, bound_us);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    unlink(path);
    rmdir(dir);
    free(samples);
    return 0;
}
