/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many nodes of 8 GPUs in one process, with acceld's own uplink and no worker: enrols COUNT of
 * them, opens all sessions at once, beats, and says on stdout, one JSON line each, when all are
 * welcomed: at first and after each loss (restart the coordinator to make one). When a line comes
 * on stdin: a gang of all of them is started, gets a signal and is cancelled; the lines say how
 * long it took the last node to have it, and the bound is that many bytes over that many bare TCP
 * connections. Ends when stdin does.
 *
 *   bench_agents COUNT SOCKET tcp:HOST:PORT DIR [BEAT_MS]
 *
 * SOCKET: of a coordinator whose admin we are. DIR: where the keys go.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
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
#define GPUS      8u
#define BYTES     64u /* of a command, for the bound */

enum phase { IDLE, STARTING, SIGNALLED, STOPPING, ENDING }; /* of the gang */

struct agent {
    unsigned index;
    uint64_t job_id, era;
    uint32_t attempt, first_rank;
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
    enum phase phase;
    unsigned have; /* nodes that have what this phase brings them */
    uint64_t job_id, sent_ns;
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
    uint8_t buf[4096];
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
    Accel__V1__Device gpus[GPUS], *list[GPUS];
    Accel__V1__DeviceLink link = ACCEL__V1__DEVICE_LINK__INIT, *links[GPUS - 1];
    char ids[GPUS][64], *paths[] = {(char *)"/dev/nvidia0"};
    link.kind = (char *)"nvlink";
    link.count = 18;
    for (uint32_t i = 0; i < GPUS - 1; i++)
        links[i] = &link;
    for (uint32_t i = 0; i < GPUS; i++) {
        accel__v1__device__init(list[i] = &gpus[i]);
        snprintf(ids[i], sizeof(ids[i]), "gpu:GPU-%08x-1c5d-4f6a-9b1e-%012x", a->index, i);
        gpus[i].id = ids[i];
        gpus[i].visible = ids[i] + 4;
        gpus[i].kind = ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
        gpus[i].model = (char *)"NVIDIA H100 80GB HBM3";
        gpus[i].memory_bytes = 80ull << 30;
        gpus[i].index = i;
        gpus[i].vendor = (char *)"nvidia";
        gpus[i].bus = (char *)"0000:3b:00.0";
        gpus[i].paths = paths;
        gpus[i].n_paths = 1;
        gpus[i].links = links;
        gpus[i].n_links = GPUS - 1;
    }
    node.name = a->name;
    node.address = (char *)"127.0.0.1";
    node.version = (char *)ACCEL_VERSION;
    node.incarnation = 1;
    node.devices = list;
    node.n_devices = GPUS;
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

/* --- one gang over all of them --- */

static void call_job(const char *method, const ProtobufCMessage *rq,
                     const ProtobufCMessageDescriptor *reply, enum phase next);

/* Who reads what was written: one process for all, as there is one coordinator. */
static void bound_child(const int *fds, int done_fd)
{
    char buf[BYTES];
    struct pollfd *polls = xcalloc(b.count, sizeof(*polls));
    for (unsigned i = 0; i < b.count; i++)
        polls[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    for (unsigned got = 0; got < b.count;) {
        CHECK(poll(polls, b.count, -1) > 0);
        for (unsigned i = 0; i < b.count; i++) {
            if (!(polls[i].revents & POLLIN))
                continue;
            CHECK(read(polls[i].fd, buf, BYTES) == BYTES);
            polls[i].fd = -1;
            got++;
        }
    }
    CHECK(write(done_fd, buf, 1) == 1);
    _exit(0);
}

static double bound_ms(uint64_t *ret_took_ns)
{
    uint64_t begun_ns = bench_now_ns();
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(sa);
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1, done[2];
    int *near = xcalloc(b.count, sizeof(int)), *far = xcalloc(b.count, sizeof(int));
    char buf[BYTES] = {0};
    CHECK(bind(listener, (struct sockaddr *)&sa, len) == 0 && listen(listener, 128) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&sa, &len) == 0 && pipe(done) == 0);
    for (unsigned i = 0; i < b.count; i++) {
        near[i] = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(connect(near[i], (struct sockaddr *)&sa, len) == 0);
        CHECK(setsockopt(near[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0);
        CHECK((far[i] = accept(listener, NULL, NULL)) >= 0);
    }
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        bound_child(far, done[1]);
    }
    uint64_t from_ns = bench_now_ns();
    for (unsigned i = 0; i < b.count; i++)
        CHECK(write(near[i], buf, BYTES) == BYTES);
    CHECK(read(done[0], buf, 1) == 1);
    double ms = (double)(bench_now_ns() - from_ns) / 1e6;
    waitpid(pid, NULL, 0);
    for (unsigned i = 0; i < b.count; i++) {
        close(near[i]);
        close(far[i]);
    }
    close(listener);
    close(done[0]);
    close(done[1]);
    free(near);
    free(far);
    *ret_took_ns = bench_now_ns() - begun_ns;
    return ms;
}

static void say_phase(const char *row, double bound)
{
    double ms = (double)(bench_now_ns() - b.sent_ns) / 1e6;
    printf("{\"row\": \"%s\", \"nodes\": %u, \"ms\": %.1f", row, b.count, ms);
    if (bound > 0)
        printf(", \"bound_ms\": %.1f, \"ratio\": %.1f", bound, ms / bound);
    puts("}");
    fflush(stdout);
}

static void gang_signal(void)
{
    Accel__V1__SignalRequest rq = ACCEL__V1__SIGNAL_REQUEST__INIT;
    rq.job_id = b.job_id;
    rq.signo = 10;
    call_job("/accel.v1.Jobs/Signal", &rq.base, &accel__v1__signal_reply__descriptor, SIGNALLED);
}

static void gang_cancel(void)
{
    Accel__V1__CancelRequest rq = ACCEL__V1__CANCEL_REQUEST__INIT;
    uint8_t id[16] = {2};
    rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
    rq.job_ids = &b.job_id;
    rq.n_job_ids = 1;
    call_job("/accel.v1.Jobs/Cancel", &rq.base, &accel__v1__cancel_reply__descriptor, STOPPING);
}

/* One node more has what this phase brings. */
static void gang_has(enum phase phase)
{
    static double bound; /* measured once, when nobody waits for us */
    uint64_t took_ns;
    if (b.phase != phase || ++b.have < b.count)
        return;
    b.have = 0;
    switch (phase) {
    case STARTING:
        say_phase("submit to the last node's Go", 0);
        gang_signal();
        break;
    case SIGNALLED:
        bound = bound_ms(&took_ns);
        b.sent_ns += took_ns;
        say_phase("signal to the last node", bound);
        gang_cancel();
        break;
    case STOPPING:
        say_phase("cancel to the last node", bound);
        b.phase = ENDING; /* what was acknowledged meanwhile is counted from the first */
        break;
    default: break;
    }
}

static unsigned acked;

static void send_report(struct agent *a, bool is_end)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Report report = ACCEL__V1__REPORT__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    Accel__V1__AttemptStarted started = ACCEL__V1__ATTEMPT_STARTED__INIT;
    Accel__V1__AttemptEnded ended = ACCEL__V1__ATTEMPT_ENDED__INIT;
    Accel__V1__Rank ranks[GPUS], *list[GPUS];
    ref.job_id = a->job_id;
    ref.attempt = a->attempt;
    ref.era = a->era;
    for (uint32_t i = 0; i < GPUS; i++) {
        accel__v1__rank__init(list[i] = &ranks[i]);
        ranks[i].rank = a->first_rank + i;
        ranks[i].local_rank = i;
        ranks[i].pid = 100 + i;
        ranks[i].exited = is_end;
        ranks[i].signal = is_end ? 15 : 0;
        ranks[i].stdout_path = ranks[i].stderr_path =
            (ProtobufCBinaryData){16, (uint8_t *)"/var/lib/accel/0"};
    }
    started.ref = ended.ref = &ref;
    started.ranks = ended.ranks = list;
    started.n_ranks = ended.n_ranks = GPUS;
    ended.cause = ACCEL__V1__CAUSE__CAUSE_CANCELLED;
    ended.first_failed_rank = -1;
    report.seq = is_end ? 2 : 1;
    report.body_case = is_end ? ACCEL__V1__REPORT__BODY_ENDED : ACCEL__V1__REPORT__BODY_STARTED;
    if (is_end)
        report.ended = &ended;
    else
        report.started = &started;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_REPORT;
    up.report = &report;
    send_up(a, &up);
}

static void on_start(struct agent *a, const Accel__V1__Start *m)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Prepared prepared = ACCEL__V1__PREPARED__INIT;
    prepared.ref = m->ref;
    prepared.address = (char *)"127.0.0.1";
    prepared.master_port = 20000;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_PREPARED;
    up.prepared = &prepared;
    a->job_id = m->ref->job_id;
    a->attempt = m->ref->attempt;
    a->era = m->ref->era;
    a->first_rank = m->first_rank;
    CHECK(m->prepare && m->local_size == GPUS);
    send_up(a, &up);
}

static void on_command(struct agent *a, const Accel__V1__CoordDown *msg)
{
    switch (msg->body_case) {
    case ACCEL__V1__COORD_DOWN__BODY_START: on_start(a, msg->start); break;
    case ACCEL__V1__COORD_DOWN__BODY_GO:
        send_report(a, false);
        gang_has(STARTING);
        break;
    case ACCEL__V1__COORD_DOWN__BODY_SIGNAL: gang_has(SIGNALLED); break;
    case ACCEL__V1__COORD_DOWN__BODY_STOP:
        send_report(a, true);
        gang_has(STOPPING);
        break;
    case ACCEL__V1__COORD_DOWN__BODY_REPORT_ACK:
        if (msg->report_ack->seq == 2 && ++acked == b.count)
            say_phase("cancel to the last end acknowledged", 0);
        break;
    default: break;
    }
}

static void on_submitted(void *ctx, const ProtobufCMessage *msg)
{
    (void)ctx;
    if (msg->descriptor == &accel__v1__submit_reply__descriptor)
        b.job_id = ((const Accel__V1__SubmitReply *)msg)->job_id;
}

static void call_job(const char *method, const ProtobufCMessage *rq,
                     const ProtobufCMessageDescriptor *reply, enum phase next)
{
    static const struct rpc_call_handlers handlers = {on_submitted, on_end};
    b.phase = next;
    b.sent_ns = bench_now_ns();
    rpc_channel_call(b.local, method, rq, reply, &handlers, NULL);
}

static void gang_submit(void)
{
    Accel__V1__SubmitRequest rq = ACCEL__V1__SUBMIT_REQUEST__INIT;
    Accel__V1__JobSpec spec = ACCEL__V1__JOB_SPEC__INIT;
    ProtobufCBinaryData argv = {9, (uint8_t *)"/bin/true"};
    uint8_t id[16] = {1};
    spec.argv = &argv;
    spec.n_argv = 1;
    spec.cwd = (ProtobufCBinaryData){1, (uint8_t *)"/"};
    spec.nodes = b.count;
    spec.procs_per_node = GPUS;
    spec.device_kind = ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
    rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
    rq.spec = &spec;
    call_job("/accel.v1.Jobs/Submit", &rq.base, &accel__v1__submit_reply__descriptor, STARTING);
}

/* --- the storm --- */

static void on_down(void *ctx, const Accel__V1__CoordDown *msg)
{
    struct agent *a = ctx;
    if (msg->body_case != ACCEL__V1__COORD_DOWN__BODY_WELCOME) {
        on_command(a, msg);
        return;
    }
    if (a->is_welcomed)
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
    if (b.phase == IDLE && b.count > 1)
        gang_submit();
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
