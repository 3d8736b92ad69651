/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many nodes in one process, with acceld's own uplink and no worker: enrols COUNT of them, opens
 * all sessions at once, beats, and says on stdout, one JSON line each, when all are welcomed: at
 * first and after each loss (restart the coordinator to make one). Ends when stdin does.
 *
 *   bench_agents COUNT SOCKET tcp:HOST:PORT DIR [BEAT_MS]
 *
 * SOCKET: of a coordinator whose admin we are. DIR: where the keys go.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "accel/v1/trust.pb-c.h"
#include "agentd/uplink.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/path.h"
#include "common/pki.h"
#include "common/remote.h"
#include "common/rpc_local.h"
#include "common/token.h"
#include "tests/bench/bench.h"

#define COUNT_MAX 4000u
#define BATCH     64u /* enrolments under way */

struct agent {
    unsigned index;
    char name[32], dir[256];
    char *key, *csr;
    struct uplink *uplink;
    bool is_enrolled, is_open, is_welcomed;
};
static struct {
    uv_loop_t loop;
    const struct remote_ops *remote;
    struct rpc_channel *local, *enrol;
    struct remote_address address;
    const char *address_text, *dir;
    struct agent *agents;
    unsigned count, begun, enrolled, welcomed, next_beat;
    uint64_t since_ns; /* of the storm that is on */
    bool is_storm;
    uv_timer_t beat;
    uv_poll_t in;
    uint64_t beat_ms;
} b = {.beat_ms = 10000};

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[320];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

/* --- enrolment --- */

static void enrol_next(void);

static void on_end(void *ctx, int code, const char *text)
{
    (void)ctx;
    if (code < 0)
        fprintf(stderr, "bench_agents: %s\n", text);
    CHECK(code == 0);
}

static void on_certificate(void *ctx, const ProtobufCMessage *msg)
{
    struct agent *a = ctx;
    const Accel__V1__EnrollReply *m = (const Accel__V1__EnrollReply *)msg;
    CHECK(mkdir(a->dir, 0700) == 0);
    write_file(a->dir, "ca.pem", m->ca_pem);
    write_file(a->dir, "node.pem", m->certificate_pem);
    write_file(a->dir, "node.key", a->key);
    free(a->key);
    free(a->csr);
}

static void on_enrolled(void *ctx, int code, const char *text)
{
    on_end(ctx, code, text);
    b.enrolled++;
    enrol_next();
}

static void on_token(void *ctx, const ProtobufCMessage *msg)
{
    static const struct rpc_call_handlers handlers = {on_certificate, on_enrolled};
    struct agent *a = ctx;
    const Accel__V1__CreateNodeTokenReply *m = (const Accel__V1__CreateNodeTokenReply *)msg;
    AUTO_FREE uint8_t *data = NULL;
    size_t len;
    CHECK(token_decode(m->token, &data, &len, NULL) == 0);
    Accel__V1__EnrolToken *token = accel__v1__enrol_token__unpack(NULL, len, data);
    CHECK(token != NULL);
    if (!b.enrol) {
        struct remote_channel_config config = {
            .host = b.address.host, .port = b.address.port, .tls = {.ca_pem = token->ca_pem}};
        CHECK(b.remote->channel_create(&b.loop, &config, &b.enrol, NULL) == 0);
    }
    CHECK(b.remote->pki->make_key(a->name, &a->key, &a->csr, NULL) == 0);
    Accel__V1__EnrollRequest rq = ACCEL__V1__ENROLL_REQUEST__INIT;
    uint8_t id[16] = {0};
    CHECK(b.remote->pki->random(id, sizeof(id), NULL) == 0);
    rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
    rq.secret = token->secret;
    rq.node = a->name;
    rq.machine_id = a->name;
    rq.csr_pem = a->csr;
    rpc_channel_call(b.enrol, "/accel.v1.Trust/Enroll", &rq.base,
                     &accel__v1__enroll_reply__descriptor, &handlers, a);
    accel__v1__enrol_token__free_unpacked(token, NULL);
}

static void enrol_next(void)
{
    static const struct rpc_call_handlers handlers = {on_token, on_end};
    Accel__V1__CreateNodeTokenRequest rq = ACCEL__V1__CREATE_NODE_TOKEN_REQUEST__INIT;
    while (b.begun < b.count && b.begun - b.enrolled < BATCH)
        rpc_channel_call(b.local, "/accel.v1.Trust/CreateNodeToken", &rq.base,
                         &accel__v1__create_node_token_reply__descriptor, &handlers,
                         &b.agents[b.begun++]);
}

/* --- sessions --- */

static void send_up(struct agent *a, const Accel__V1__AgentUp *up)
{
    uint8_t buf[1024];
    size_t len = accel__v1__agent_up__get_packed_size(up);
    CHECK(len <= sizeof(buf));
    accel__v1__agent_up__pack(up, buf);
    uplink_send(a->uplink, buf, len);
}

static void on_open(void *ctx)
{
    struct agent *a = ctx;
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Hello hello = ACCEL__V1__HELLO__INIT;
    Accel__V1__Node node = ACCEL__V1__NODE__INIT;
    node.name = a->name;
    node.address = (char *)"127.0.0.1";
    node.version = (char *)ACCEL_VERSION;
    node.incarnation = 1;
    hello.node = &node;
    hello.machine_id = a->name;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_HELLO;
    up.hello = &hello;
    a->is_open = true;
    send_up(a, &up);
}

static void report(const char *row)
{
    struct rusage u;
    CHECK(getrusage(RUSAGE_SELF, &u) == 0);
    printf("{\"row\": \"%s\", \"agents\": %u, \"seconds\": %.3f, \"own_cpu_s\": %.2f}\n", row,
           b.count, (double)(bench_now_ns() - b.since_ns) / 1e9,
           (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
               (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
    fflush(stdout);
}

static void on_down(void *ctx, const Accel__V1__CoordDown *msg)
{
    struct agent *a = ctx;
    if (msg->body_case != ACCEL__V1__COORD_DOWN__BODY_WELCOME || a->is_welcomed)
        return;
    a->is_welcomed = true;
    if (++b.welcomed < b.count)
        return;
    report("all_welcomed");
    b.is_storm = false;
}

static void on_lost(void *ctx, const char *why)
{
    struct agent *a = ctx;
    (void)why;
    b.welcomed -= a->is_welcomed;
    a->is_welcomed = a->is_open = false;
    if (!b.is_storm)
        b.since_ns = bench_now_ns();
    b.is_storm = true;
}

static void on_beat(uv_timer_t *timer)
{
    static uint64_t sent, begun_ns;
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Beat beat = ACCEL__V1__BEAT__INIT;
    (void)timer;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_BEAT;
    up.beat = &beat;
    if (begun_ns == 0)
        begun_ns = bench_now_ns();
    uint64_t due = (bench_now_ns() - begun_ns) / 1000000 * b.count / b.beat_ms;
    for (; sent < due; sent++) {
        struct agent *a = &b.agents[b.next_beat++ % b.count];
        if (a->is_welcomed)
            send_up(a, &up);
    }
}

static void on_stdin(uv_poll_t *poll, int status, int events)
{
    char byte;
    (void)poll;
    (void)status;
    (void)events;
    if (read(0, &byte, 1) <= 0)
        _exit(0); /* the sessions' ends are no part of what is measured */
}

int main(int argc, char **argv)
{
    static const struct uplink_callbacks callbacks = {on_open, on_down, on_lost};
    struct accel_error err = {0};
    int fd;
    if (argc < 5)
        return 2;
    log_init("bench_agents", getenv("BENCH_VERBOSE") ? LOG_LEVEL_WARN : LOG_LEVEL_ERROR);
    b.count = (unsigned)strtoul(argv[1], NULL, 10);
    CHECK(b.count > 0 && b.count <= COUNT_MAX);
    if (argc > 5)
        b.beat_ms = strtoul(argv[5], NULL, 10);
    b.address_text = argv[3];
    b.dir = argv[4];
    b.agents = xcalloc(b.count, sizeof(*b.agents));
    CHECK(uv_loop_init(&b.loop) == 0);
    CHECK(remote_address_parse(argv[3], &b.address, &err) == 0);
    CHECK(remote_load(&b.remote, &err) == 0);
    CHECK(path_socket_connect(argv[2], &fd, &err) == 0);
    CHECK(rpc_local_channel_create(&b.loop, fd, NULL, NULL, &b.local, &err) == 0);
    for (unsigned i = 0; i < b.count; i++) {
        struct agent *a = &b.agents[i];
        a->index = i;
        snprintf(a->name, sizeof(a->name), "sim-%04u", i);
        snprintf(a->dir, sizeof(a->dir), "%.200s/%u", b.dir, i);
    }
    enrol_next();
    while (b.enrolled < b.count)
        uv_run(&b.loop, UV_RUN_ONCE);
    rpc_channel_close(b.enrol, NULL, NULL);
    rpc_channel_close(b.local, NULL, NULL);
    b.since_ns = bench_now_ns();
    b.is_storm = true;
    for (unsigned i = 0; i < b.count; i++)
        CHECK(uplink_create(&b.loop, b.address_text, b.agents[i].dir, &callbacks, &b.agents[i],
                            &b.agents[i].uplink, &err) == 0);
    uv_timer_init(&b.loop, &b.beat);
    uv_timer_start(&b.beat, on_beat, 10, 10);
    uv_poll_init(&b.loop, &b.in, 0);
    uv_poll_start(&b.in, UV_READABLE | UV_DISCONNECT, on_stdin);
    uv_run(&b.loop, UV_RUN_DEFAULT);
    return 1;
}
