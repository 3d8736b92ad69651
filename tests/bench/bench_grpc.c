/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_grpc over mutual TLS on loopback, between two processes: round trips of 64 bytes, and bytes a
 * second in each direction, beside the bound of the machine in the same run: 64 bytes to and fro
 * over bare TCP. One JSON line per row. Usage: bench_grpc [COUNT].
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "accel/v1/job.pb-c.h"
#include "common/clock.h"
#include "common/pki.h"
#include "common/remote.h"
#include "common/str.h"
#include "tests/bench/bench.h"

#define SMALL  64u
#define LARGE  (256u << 10) /* of a log or a file at a time */
#define BYTES  (64u << 20)  /* in each direction */
#define WINDOW 64u
#define DAY_MS (24ll * 3600 * 1000)

static struct {
    const struct remote_ops *ops;
    char *ca, *ca_key, *server, *server_key, *user, *user_key;
    struct rpc_server *serving;
    uint8_t data[LARGE];
} b;

/* --- certificates --- */

static void make_cert(enum pki_kind kind, const char *name, char **ret_key, char **ret_pem)
{
    struct pki_cert cert;
    AUTO_FREE char *csr = NULL;
    CHECK(b.ops->pki->make_key(name, ret_key, &csr, NULL) == 0);
    CHECK(b.ops->pki->sign(b.ca_key, b.ca, csr, kind, name, clock_wall_ms(), DAY_MS, ret_pem, &cert,
                           NULL) == 0);
}

static void make_certs(void)
{
    CHECK(b.ops->pki->make_ca(clock_wall_ms(), &b.ca_key, &b.ca, NULL) == 0);
    make_cert(PKI_COORDINATOR, PKI_COORDINATOR_NAME, &b.server_key, &b.server);
    make_cert(PKI_USER, "ada", &b.user_key, &b.user);
}

/* --- the other process --- */

static pid_t fork_child(void)
{
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    return pid;
}

/* Answers with as many bytes as are asked for by job_id. */
static void on_event(void *ctx, const struct rpc_event *ev)
{
    static uint8_t buf[LARGE + 16];
    Accel__V1__LogChunk m = ACCEL__V1__LOG_CHUNK__INIT;
    if (ev->type != RPC_OPEN)
        return;
    m.data = (ProtobufCBinaryData){((const Accel__V1__InputRequest *)ev->msg)->job_id, b.data};
    CHECK(m.data.len <= LARGE);
    rpc_server_end(b.serving, ev->call, buf, accel__v1__log_chunk__pack(&m, buf), 0, NULL);
}

static const struct rpc_method methods[] = {
    {"/accel.v1.Bench/Move", &accel__v1__input_request__descriptor,
     &accel__v1__log_chunk__descriptor, false, false, RPC_ROLE_USER, LARGE + 64, on_event, 0},
};
static const struct rpc_service service = {methods, 1, NULL};

static _Noreturn void serve(int pipe_fd)
{
    uv_loop_t loop;
    struct remote_server_config config = {
        .host = "127.0.0.1", .tls = {b.ca, b.server, b.server_key}, .service = &service, .tag = 1};
    CHECK(uv_loop_init(&loop) == 0);
    CHECK(b.ops->server_create(&loop, &config, &b.serving, NULL) == 0);
    uint16_t port = b.ops->server_port(b.serving);
    CHECK(write(pipe_fd, &port, sizeof(port)) == sizeof(port));
    uv_run(&loop, UV_RUN_DEFAULT);
    _exit(0);
}

/* --- rows --- */

static int tcp_socket(void)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0 && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0);
    return fd;
}

static void bench_bare(size_t n)
{
    char buf[SMALL] = {0};
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(sa);
    int listener = tcp_socket(), fd = tcp_socket();
    struct samples s;
    CHECK(bind(listener, (struct sockaddr *)&sa, len) == 0 && listen(listener, 1) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&sa, &len) == 0);
    pid_t pid = fork_child();
    if (pid == 0) {
        close(fd);
        fd = accept(listener, NULL, NULL);
        while (recv(fd, buf, SMALL, MSG_WAITALL) == SMALL && write(fd, buf, SMALL) == SMALL)
            ;
        _exit(0);
    }
    CHECK(connect(fd, (struct sockaddr *)&sa, len) == 0);
    samples_init(&s, n);
    for (size_t i = 0; i < n; i++) {
        uint64_t from_ns = bench_now_ns();
        CHECK(write(fd, buf, SMALL) == SMALL && recv(fd, buf, SMALL, MSG_WAITALL) == SMALL);
        samples_add(&s, bench_now_ns() - from_ns);
    }
    close(fd);
    close(listener);
    waitpid(pid, NULL, 0);
    samples_report(&s, "grpc: bare TCP");
}

struct row {
    struct rpc_channel *channel;
    size_t begun, count, up, down;
    struct samples samples;
    struct slot {
        struct row *row;
        uint64_t from_ns;
    } slots[WINDOW];
};

static void on_end(void *ctx, int code, const char *text);

static void begin(struct slot *s)
{
    static const struct rpc_call_handlers handlers = {NULL, on_end};
    Accel__V1__InputRequest m = ACCEL__V1__INPUT_REQUEST__INIT;
    m.data = (ProtobufCBinaryData){s->row->up, b.data};
    m.job_id = s->row->down;
    s->row->begun++;
    s->from_ns = bench_now_ns();
    rpc_channel_call(s->row->channel, methods[0].name, &m.base, methods[0].response, &handlers, s);
}

static void on_end(void *ctx, int code, const char *text)
{
    struct slot *s = ctx;
    if (code < 0)
        fprintf(stderr, "bench_grpc: %s\n", text);
    CHECK(code == 0);
    samples_add(&s->row->samples, bench_now_ns() - s->from_ns);
    if (s->row->begun < s->row->count)
        begin(s);
}

static void bench_calls(uv_loop_t *loop, struct rpc_channel *channel, const char *name, size_t n,
                        size_t window, size_t up, size_t down)
{
    struct row row = {.channel = channel, .count = n, .up = up, .down = down};
    samples_init(&row.samples, n);
    uint64_t from_ns = bench_now_ns();
    for (size_t i = 0; i < window && i < n; i++) {
        row.slots[i].row = &row;
        begin(&row.slots[i]);
    }
    while (row.samples.count < n)
        uv_run(loop, UV_RUN_ONCE);
    double seconds = (double)(bench_now_ns() - from_ns) / 1e9;
    samples_report(&row.samples, name);
    printf("{\"row\": \"%s: rate\", \"per_second\": %.0f, \"mib_per_s\": %.0f}\n", name,
           (double)n / seconds, (double)(n * (up + down)) / seconds / (1 << 20));
}

int main(int argc, char **argv)
{
    uint64_t n = 20000;
    int ends[2];
    uint16_t port = 0;
    uv_loop_t loop;
    struct rpc_channel *channel;
    if (argc > 1 && parse_u64(argv[1], 100, BENCH_SAMPLES_MAX, &n) < 0) {
        fprintf(stderr, "usage: %s [COUNT]\n", argv[0]);
        return 2;
    }
    bench_bare(n);
    CHECK(remote_load(&b.ops, NULL) == 0); /* no thread before the fork */
    make_certs();
    CHECK(pipe(ends) == 0);
    pid_t pid = fork_child();
    if (pid == 0)
        serve(ends[1]);
    CHECK(read(ends[0], &port, sizeof(port)) == sizeof(port));
    struct remote_channel_config config = {
        .host = "127.0.0.1", .port = port, .tls = {b.ca, b.user, b.user_key}};
    CHECK(uv_loop_init(&loop) == 0);
    CHECK(b.ops->channel_create(&loop, &config, &channel, NULL) == 0);
    bench_calls(&loop, channel, "grpc: to connect", 1, 1, SMALL, SMALL);
    bench_calls(&loop, channel, "grpc: unary, 1 outstanding", n, 1, SMALL, SMALL);
    bench_calls(&loop, channel, "grpc: unary, 64 outstanding", n, WINDOW, SMALL, SMALL);
    bench_calls(&loop, channel, "grpc: 256 KiB up, 4 outstanding", BYTES / LARGE, 4, LARGE, 0);
    bench_calls(&loop, channel, "grpc: 256 KiB down, 4 outstanding", BYTES / LARGE, 4, 0, LARGE);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    fflush(stdout);
    _exit(0);
}
