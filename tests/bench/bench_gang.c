/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A gang over many nodes, both cores as the daemons link them, in one process and with every
 * message packed and unpacked: from the submission over PREPARE and GO until every rank's
 * environment is complete, a signal and a cancel to all of them, and the same for a job on JAX,
 * whose contract names all nodes to each. Beside it the work that no coordinator could save, in the
 * same run: one Start and one Go read by each node and the environments built, or the commands
 * read. One JSON line per row. Usage: bench_gang [NODES [RANKS_PER_NODE]].
 */
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "agentd/agent.h"
#include "agentd/environ.h"
#include "common/limits.h"
#include "scheduler/coord.h"
#include "tests/bench/bench.h"

#define NODES_MAX 8192u
#define RANKS_MAX 64u
#define VARIABLES 60u /* of a shell in which somebody trains; 80 bytes each */

struct message {
    STAILQ_ENTRY(message) link;
    size_t node, len;
    uint8_t data[];
};
STAILQ_HEAD(messages, message);

struct node {
    struct agent *core;
    struct agent_actions actions;
    char name[16];
};

static struct bench {
    size_t node_count, rank_count; /* rank_count: of one node */
    struct node *nodes;
    struct coord *coord;
    struct coord_batch batch;
    struct messages to_coord, to_node;
    size_t downs[32], ups[32]; /* by kind of body */
    size_t down_bytes;
    uint64_t coord_ns, rows, environments, ended;
    uint64_t calls;       /* of people, so far */
    struct messages kept; /* Start and Go of each node, for the bound */
    bool is_keeping;
} b;

static void put(struct messages *list, size_t node, const void *data, size_t len)
{
    struct message *m = xcalloc(1, sizeof(*m) + len);
    m->node = node;
    m->len = len;
    memcpy(m->data, data, len);
    STAILQ_INSERT_TAIL(list, m, link);
}

/* --- nodes --- */

static const Accel__V1__Device *const *devices(void)
{
    static Accel__V1__Device all[RANKS_MAX];
    static const Accel__V1__Device *list[RANKS_MAX];
    static char ids[RANKS_MAX][40];
    for (size_t i = 0; i < b.rank_count; i++) {
        accel__v1__device__init(&all[i]);
        snprintf(ids[i], sizeof(ids[i]), "gpu:GPU-0000%02zu", i);
        all[i].id = ids[i];
        all[i].visible = ids[i] + 4;
        all[i].kind = ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
        all[i].index = (uint32_t)i;
        list[i] = &all[i];
    }
    return list;
}

static Accel__V1__AttemptSpec *build(const struct node *n, const Accel__V1__Start *start,
                                     const Accel__V1__Go *go, struct arena *arena)
{
    struct environ_input in = {.start = start,
                               .devices = devices(),
                               .device_count = b.rank_count,
                               .master_addr = go->master_addr,
                               .master_port = go->master_port,
                               .pet_port = go->pet_port,
                               .aux_port = go->aux_port,
                               .peers = (const Accel__V1__Peer *const *)go->peers,
                               .peer_count = go->n_peers,
                               .node_list = go->node_list,
                               .tasks_per_node = go->tasks_per_node,
                               .ifname = "eth0",
                               .node_name = n->name,
                               .incarnation = 1,
                               .attempts_dir = "/var/lib/accel/node/attempts",
                               .wall_ms = 1};
    Accel__V1__AttemptSpec *spec;
    struct accel_error err;
    int r = environ_build(&in, arena, &spec, &err);
    CHECK(r == 0 && spec->n_ranks == b.rank_count);
    return spec;
}

static void node_step(size_t node, struct agent_event *ev);

static void tell_started(size_t node, struct attempt_id id)
{
    Accel__V1__ShimStarted started = ACCEL__V1__SHIM_STARTED__INIT;
    Accel__V1__RankExit ranks[RANKS_MAX], *list[RANKS_MAX];
    for (size_t i = 0; i < b.rank_count; i++) {
        accel__v1__rank_exit__init(&ranks[i]);
        ranks[i].rank = (uint32_t)(node * b.rank_count + i);
        ranks[i].pid = (uint32_t)(100 + i);
        list[i] = &ranks[i];
    }
    started.n_ranks = b.rank_count;
    started.ranks = list;
    node_step(node, &(struct agent_event){.type = AGENT_EV_STARTED, .id = id, .started = &started});
}

static void tell_ended(size_t node, struct attempt_id id, uint32_t cause)
{
    Accel__V1__ExitRecord record = ACCEL__V1__EXIT_RECORD__INIT;
    record.stop_cause = cause;
    for (size_t i = 0; i < b.rank_count; i++) {
        Accel__V1__RankExit rank = ACCEL__V1__RANK_EXIT__INIT;
        rank.rank = (uint32_t)(node * b.rank_count + i);
        rank.exited = rank.stopped = true;
        rank.signal = 15;
        node_step(node, &(struct agent_event){.type = AGENT_EV_EXITED, .id = id, .exit = &rank});
    }
    node_step(node, &(struct agent_event){
                        .type = AGENT_EV_GONE, .id = id, .record = &record, .exists = true});
    b.ended++;
}

static void node_step(size_t node, struct agent_event *ev)
{
    struct node *n = &b.nodes[node];
    struct attempt_id prepared = {0}, launched = {0}, stopped = {0};
    uint32_t cause = 0;
    ev->now_ms = 1000;
    ev->now_ns = bench_now_ns();
    agent_step(n->core, ev, &n->actions);
    for (size_t i = 0; i < n->actions.len; i++) {
        const struct agent_action *act = &n->actions.items[i];
        if (act->type == AGENT_ACT_SEND)
            put(&b.to_coord, node, act->data, act->len);
        if (act->type == AGENT_ACT_PREPARE)
            prepared = act->id;
        if (act->type == AGENT_ACT_LAUNCH) {
            launched = act->id;
            b.environments += build(n, act->start, act->go, &n->actions.arena)->n_ranks;
        }
        if (act->type == AGENT_ACT_STOP) {
            stopped = act->id;
            cause = act->cause;
        }
    }
    agent_actions_reset(&n->actions);
    if (stopped.job_id)
        tell_ended(node, stopped, cause);
    if (prepared.job_id)
        node_step(node, &(struct agent_event){.type = AGENT_EV_PREPARED,
                                              .id = prepared,
                                              .master_port = node ? 0 : 20000,
                                              .pet_port = node ? 0 : 20001,
                                              .aux_port = node ? 0 : 20002});
    if (launched.job_id)
        tell_started(node, launched);
}

static void node_take(const struct message *m)
{
    Accel__V1__CoordDown *down = accel__v1__coord_down__unpack(NULL, m->len, m->data);
    CHECK(down && down->body_case < ARRAY_LEN(b.downs));
    b.downs[down->body_case]++;
    b.down_bytes += m->len;
    bool is_start = down->body_case == ACCEL__V1__COORD_DOWN__BODY_START ||
                    down->body_case == ACCEL__V1__COORD_DOWN__BODY_GO;
    if (b.is_keeping && is_start)
        put(&b.kept, m->node, m->data, m->len);
    node_step(m->node, &(struct agent_event){.type = AGENT_EV_DOWN, .down = down});
    accel__v1__coord_down__free_unpacked(down, NULL);
}

/* --- the coordinator --- */

static void coord_take(enum coord_method method, enum rpc_event_type type, uint64_t call,
                       const ProtobufCMessage *msg)
{
    static const struct rpc_identity root = {
        .role = RPC_ROLE_ADMIN, .uid = 0, .user = "root", .is_local = true};
    uint64_t from_ns = bench_now_ns();
    struct coord_event ev = {.type = COORD_EV_CALL,
                             .now_ms = 1000,
                             .wall_ms = 1795000000000ll,
                             .method = method,
                             .rpc_type = type,
                             .call = call,
                             .who = &root,
                             .msg = msg};
    coord_batch_reset(&b.batch);
    coord_step(b.coord, &ev, &b.batch);
    coord_collect(b.coord, &b.batch);
    b.coord_ns += bench_now_ns() - from_ns;
    b.rows += b.batch.record_count;
    for (size_t i = 0; i < b.batch.output_count; i++) {
        const struct coord_output *o = &b.batch.outputs[i];
        CHECK(o->code == 0);
        if (o->call <= b.node_count)
            put(&b.to_node, o->call - 1, o->data, o->len);
    }
}

static void coord_take_message(const struct message *m)
{
    Accel__V1__AgentUp *up = accel__v1__agent_up__unpack(NULL, m->len, m->data);
    CHECK(up && up->body_case < ARRAY_LEN(b.ups));
    b.ups[up->body_case]++;
    coord_take(COORD_SESSION, RPC_MESSAGE, m->node + 1, &up->base);
    accel__v1__agent_up__free_unpacked(up, NULL);
}

static void run(void)
{
    for (struct message *m;;) {
        if ((m = STAILQ_FIRST(&b.to_node))) {
            STAILQ_REMOVE_HEAD(&b.to_node, link);
            node_take(m);
        } else if ((m = STAILQ_FIRST(&b.to_coord))) {
            STAILQ_REMOVE_HEAD(&b.to_coord, link);
            coord_take_message(m);
        } else {
            return;
        }
        free(m);
    }
}

/* --- the rows --- */

static void join(size_t i)
{
    struct node *n = &b.nodes[i];
    Accel__V1__Node node = ACCEL__V1__NODE__INIT;
    snprintf(n->name, sizeof(n->name), "n%zu", i);
    struct agent_config config = {.incarnation = 1,
                                  .local_address = "10.0.0.1",
                                  .ifname = "eth0",
                                  .node_name = n->name,
                                  .machine_id = n->name,
                                  .attempts_dir = "/var/lib/accel/node/attempts"};
    n->core = agent_create(&config, 0, 0);
    agent_actions_init(&n->actions);
    node.name = n->name;
    node.address = (char *)"10.0.0.1";
    node.cpus = 96;
    node.memory_bytes = 1ull << 40;
    node.n_devices = b.rank_count;
    node.devices = (Accel__V1__Device **)devices();
    node_step(i, &(struct agent_event){.type = AGENT_EV_NODE, .node = &node});
    coord_take(COORD_SESSION, RPC_OPEN, i + 1, NULL);
    node_step(i, &(struct agent_event){.type = AGENT_EV_SESSION_OPEN});
}

static uint64_t next_call(void)
{
    return b.node_count + ++b.calls;
}

static void submit(Accel__V1__Launcher launcher)
{
    static char text[VARIABLES][80];
    ProtobufCBinaryData env[VARIABLES],
        argv[] = {{15, (uint8_t *)"/usr/bin/python"}, {8, (uint8_t *)"train.py"}};
    Accel__V1__SubmitRequest rq = ACCEL__V1__SUBMIT_REQUEST__INIT;
    Accel__V1__JobSpec spec = ACCEL__V1__JOB_SPEC__INIT;
    uint8_t id[LIMIT_REQUEST_ID_BYTES] = {1, (uint8_t)launcher};
    for (size_t i = 0; i < VARIABLES; i++) {
        memset(text[i], 'x', sizeof(text[i]));
        env[i] = (ProtobufCBinaryData){sizeof(text[i]), (uint8_t *)text[i]};
        text[i][snprintf(text[i], 16, "VARIABLE_%02zu=", i)] = 'x';
    }
    spec.argv = argv;
    spec.n_argv = ARRAY_LEN(argv);
    spec.env = env;
    spec.n_env = VARIABLES;
    spec.cwd = (ProtobufCBinaryData){1, (uint8_t *)"/"};
    spec.nodes = (uint32_t)b.node_count;
    spec.procs_per_node = (uint32_t)b.rank_count;
    spec.device_kind = ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
    spec.launcher = launcher;
    rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
    rq.spec = &spec;
    coord_take(COORD_SUBMIT, RPC_OPEN, next_call(), &rq.base);
}

static size_t sum(const size_t *counts)
{
    size_t total = 0;
    for (size_t i = 0; i < ARRAY_LEN(b.downs); i++)
        total += counts[i];
    return total;
}

/* What each node has to do whoever coordinates: read its Start and its Go, build. */
static uint64_t bound_ns(void)
{
    struct message *m;
    Accel__V1__CoordDown **starts = xcalloc(b.node_count, sizeof(*starts));
    struct arena arena;
    uint64_t from_ns = bench_now_ns();
    arena_init(&arena);
    STAILQ_FOREACH(m, &b.kept, link)
    {
        Accel__V1__CoordDown *down = accel__v1__coord_down__unpack(NULL, m->len, m->data);
        if (down->body_case == ACCEL__V1__COORD_DOWN__BODY_START) {
            starts[m->node] = down;
            continue;
        }
        build(&b.nodes[m->node], starts[m->node]->start, down->go, &arena);
        arena_reset(&arena);
        accel__v1__coord_down__free_unpacked(down, NULL);
        accel__v1__coord_down__free_unpacked(starts[m->node], NULL);
    }
    arena_done(&arena);
    free(starts);
    return bench_now_ns() - from_ns;
}

static void begin(void)
{
    memset(b.downs, 0, sizeof(b.downs));
    memset(b.ups, 0, sizeof(b.ups));
    b.down_bytes = b.coord_ns = b.rows = b.environments = b.ended = 0;
}

static void forget_kept(void)
{
    for (struct message *m; (m = STAILQ_FIRST(&b.kept));) {
        STAILQ_REMOVE_HEAD(&b.kept, link);
        free(m);
    }
}

static void bench_start(const char *name, Accel__V1__Launcher launcher)
{
    begin();
    b.is_keeping = true;
    uint64_t from_ns = bench_now_ns();
    submit(launcher);
    run();
    uint64_t took_ns = bench_now_ns() - from_ns;
    CHECK(b.environments == b.node_count * b.rank_count);
    CHECK(b.downs[ACCEL__V1__COORD_DOWN__BODY_GO] == b.node_count);
    b.is_keeping = false;
    size_t messages = sum(b.downs) + sum(b.ups);
    double bound = (double)bound_ns();
    forget_kept();
    printf("{\"row\": \"%s: submit to every rank's environment and RUNNING\", \"nodes\": %zu, "
           "\"ranks\": %zu, \"ms\": %.1f, \"coordinator_ms\": %.1f, \"messages\": %zu, "
           "\"messages_per_node\": %.2f, \"bytes_per_node\": %.0f, \"rows\": %llu, "
           "\"bound_ms\": %.1f, \"ratio_to_bound\": %.2f}\n",
           name, b.node_count, b.node_count * b.rank_count, (double)took_ns / 1e6,
           (double)b.coord_ns / 1e6, messages, (double)messages / (double)b.node_count,
           (double)b.down_bytes / (double)b.node_count, (unsigned long long)b.rows, bound / 1e6,
           (double)took_ns / bound);
}

/* From the call until the last node's message is packed, and the bound: that many of this size
 * read. */
static void bench_fan_out(const char *name, enum coord_method method, const ProtobufCMessage *rq,
                          Accel__V1__CoordDown__BodyCase body)
{
    struct message *m;
    begin();
    uint64_t from_ns = bench_now_ns();
    coord_take(method, RPC_OPEN, next_call(), rq);
    uint64_t out_ns = bench_now_ns() - from_ns;
    size_t count = 0;
    from_ns = bench_now_ns();
    STAILQ_FOREACH(m, &b.to_node, link)
    {
        Accel__V1__CoordDown *down = accel__v1__coord_down__unpack(NULL, m->len, m->data);
        CHECK(down && down->body_case == body);
        accel__v1__coord_down__free_unpacked(down, NULL);
        count++;
    }
    double bound = (double)(bench_now_ns() - from_ns);
    CHECK(count == b.node_count);
    printf("{\"row\": \"%s\", \"nodes\": %zu, \"messages\": %zu, \"us\": %.1f, "
           "\"us_per_node\": %.3f, \"bound_us\": %.1f, \"ratio_to_bound\": %.2f}\n",
           name, b.node_count, count, (double)out_ns / 1e3, (double)out_ns / 1e3 / (double)count,
           bound / 1e3, (double)out_ns / bound);
}

static void bench_signal(void)
{
    Accel__V1__SignalRequest rq = ACCEL__V1__SIGNAL_REQUEST__INIT;
    rq.job_id = 1;
    rq.signo = 10;
    bench_fan_out("gang: fan-out of a signal", COORD_SIGNAL, &rq.base,
                  ACCEL__V1__COORD_DOWN__BODY_SIGNAL);
    run();
}

/* The nodes' ranks are gone as soon as they are told. */
static void bench_cancel(const char *name, uint64_t job_id)
{
    char row[64];
    Accel__V1__CancelRequest rq = ACCEL__V1__CANCEL_REQUEST__INIT;
    uint8_t id[LIMIT_REQUEST_ID_BYTES] = {2, (uint8_t)job_id};
    rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
    rq.job_ids = &job_id;
    rq.n_job_ids = 1;
    snprintf(row, sizeof(row), "%s: fan-out of a cancel", name);
    bench_fan_out(row, COORD_CANCEL, &rq.base, ACCEL__V1__COORD_DOWN__BODY_STOP);
    uint64_t from_ns = bench_now_ns();
    run();
    CHECK(b.ended == b.node_count);
    printf("{\"row\": \"%s: cancel to the end on every node\", \"nodes\": %zu, \"ms\": %.1f, "
           "\"coordinator_ms\": %.1f, \"messages_per_node\": %.2f, \"rows\": %llu}\n",
           name, b.node_count, (double)(bench_now_ns() - from_ns) / 1e6, (double)b.coord_ns / 1e6,
           (double)(sum(b.downs) + sum(b.ups)) / (double)b.node_count, (unsigned long long)b.rows);
}

static size_t argument(int argc, char **argv, int at, unsigned usual, unsigned max)
{
    unsigned value = usual;
    if (argc > at && (sscanf(argv[at], "%u", &value) != 1 || value < 2 || value > max)) {
        fprintf(stderr, "usage: bench_gang [NODES [RANKS_PER_NODE]]: 2 to %u\n", max);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    const struct coord_config config = {.session_grace_ms = LIMIT_SESSION_GRACE_MS,
                                        .history_jobs = LIMIT_HISTORY_JOBS,
                                        .history_ms = LIMIT_HISTORY_MS};
    b.node_count = argument(argc, argv, 1, 1280, NODES_MAX);
    b.rank_count = argument(argc, argv, 2, 8, RANKS_MAX);
    b.nodes = xcalloc(b.node_count, sizeof(*b.nodes));
    STAILQ_INIT(&b.to_coord);
    STAILQ_INIT(&b.to_node);
    STAILQ_INIT(&b.kept);
    coord_batch_init(&b.batch);
    b.coord = coord_create(&config);
    coord_start(b.coord, 1000, 1795000000000ll, 7);
    for (size_t i = 0; i < b.node_count; i++)
        join(i);
    run();
    CHECK(coord_nodes_ready(b.coord) == b.node_count);
    bench_start("gang", ACCEL__V1__LAUNCHER__LAUNCHER_AUTO);
    bench_signal();
    bench_cancel("gang", 1);
    bench_start("gang of JAX", ACCEL__V1__LAUNCHER__LAUNCHER_JAX);
    bench_cancel("gang of JAX", 2);
    fflush(stdout);
    _exit(0); /* a hundred MB of objects, which the kernel takes back faster */
}
