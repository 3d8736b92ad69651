/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which nodes carry a gang: the core is told of nodes by their Hello and of jobs by Submit, and its
 * Starts say where it put them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "accel/v1/agent.pb-c.h"
#include "accel/v1/job.pb-c.h"
#include "accel/v1/trust.pb-c.h"
#include "common/limits.h"
#include "scheduler/coord.h"
#include "scheduler/store.h"

#define NODES_MAX 8u
#define NOW_MS    1000

static const struct rpc_identity root = {
    .role = RPC_ROLE_ADMIN, .uid = 0, .user = "root", .is_local = true};

struct world {
    struct store *store;
    struct coord *core;
    struct coord_batch batch;
    uint64_t calls;
    int64_t now_ms;
    uint8_t requests;
    const char *names[NODES_MAX]; /* of the node whose session is call i + 1 */
    char placed[256];             /* of the last submit: "a:0-1 b:2-3" in order of node rank */
    char devices[256];            /* same: of its last node, "gpu:0 gpu:1" */
    char error[ACCEL_ERROR_TEXT];
};

static void load_one(void *ctx, const struct record *rec)
{
    coord_load(ctx, rec);
}

static void commit(struct world *w)
{
    coord_collect(w->core, &w->batch);
    const struct store_txn txn = {w->batch.records, w->batch.record_count, coord_epoch(w->core)};
    assert_int_equal(w->store->ops->commit(w->store, &txn, NULL), 0);
}

/* A coordinator that knows what the store knows; no node has a session. */
static void restart(struct world *w)
{
    const struct coord_config config = {.session_grace_ms = LIMIT_SESSION_GRACE_MS,
                                        .history_jobs = LIMIT_HISTORY_JOBS,
                                        .history_ms = LIMIT_HISTORY_MS};
    coord_destroy(w->core);
    coord_batch_reset(&w->batch);
    w->core = coord_create(&config);
    assert_int_equal(w->store->ops->load(w->store, load_one, w->core, NULL), 0);
    coord_start(w->core, NOW_MS, NOW_MS, 7);
    w->now_ms = NOW_MS;
    commit(w);
    w->calls = 0;
}

static int setup(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    w->store = store_mem_create(7);
    coord_batch_init(&w->batch);
    restart(w);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    coord_destroy(w->core);
    coord_batch_done(&w->batch);
    w->store->ops->close(w->store);
    free(w);
    return 0;
}

static void step_as(struct world *w, enum coord_method method, enum rpc_event_type type,
                    uint64_t call, const ProtobufCMessage *msg, const struct coord_grant *grant)
{
    struct coord_event ev = {.type = COORD_EV_CALL,
                             .now_ms = w->now_ms,
                             .wall_ms = NOW_MS,
                             .method = method,
                             .rpc_type = type,
                             .call = call,
                             .who = &root,
                             .msg = msg,
                             .grant = grant};
    coord_batch_reset(&w->batch);
    coord_step(w->core, &ev, &w->batch);
    coord_check_all(w->core);
    commit(w);
}

static void step(struct world *w, enum coord_method method, enum rpc_event_type type, uint64_t call,
                 const ProtobufCMessage *msg)
{
    step_as(w, method, type, call, msg, NULL);
}

static void hello(struct world *w, const char *name, Accel__V1__Device *const *devices,
                  size_t count, Accel__V1__Slice *slice)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Hello m = ACCEL__V1__HELLO__INIT;
    Accel__V1__Node node = ACCEL__V1__NODE__INIT;
    node.name = (char *)name;
    node.n_devices = count;
    node.devices = (Accel__V1__Device **)devices;
    node.memory_bytes = 1ull << 30;
    node.cpus = 8;
    node.incarnation = 1;
    node.slice = slice;
    m.node = &node;
    m.machine_id = (char *)name;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_HELLO;
    up.hello = &m;
    w->names[w->calls++] = name;
    step(w, COORD_SESSION, RPC_OPEN, w->calls, NULL);
    step(w, COORD_SESSION, RPC_MESSAGE, w->calls, &up.base);
}

/* The next node: cpus CPU slots and chips TPU chips; slice "" for none. */
static void join(struct world *w, const char *name, uint32_t cpus, uint32_t chips,
                 const char *slice, uint32_t slice_nodes, uint32_t worker)
{
    Accel__V1__Slice s = ACCEL__V1__SLICE__INIT;
    Accel__V1__Device devices[32], *list[32];
    char ids[32][16];
    for (uint32_t i = 0; i < cpus + chips; i++) {
        accel__v1__device__init(&devices[i]);
        snprintf(ids[i], sizeof(ids[i]), "%s:%u", i < cpus ? "cpu" : "tpu", i);
        devices[i].id = ids[i];
        devices[i].index = i;
        devices[i].kind =
            i < cpus ? ACCEL__V1__DEVICE_KIND__DEVICE_CPU : ACCEL__V1__DEVICE_KIND__DEVICE_TPU;
        list[i] = &devices[i];
    }
    s.name = (char *)slice;
    s.nodes = slice_nodes;
    s.worker = worker;
    hello(w, name, list, cpus + chips, *slice ? &s : NULL);
}

struct link {
    uint32_t from, to;
    const char *kind; /* "part": parts of one GPU */
};

/* The next node, with GPUs. Of two that are linked the first tells of it. */
static void join_gpus(struct world *w, const char *name, uint32_t gpus, const struct link *links,
                      size_t count)
{
    Accel__V1__Device devices[16], *list[16];
    Accel__V1__DeviceLink told[32], *of_device[16][32];
    char ids[16][16];
    for (uint32_t i = 0; i < gpus; i++) {
        accel__v1__device__init(&devices[i]);
        snprintf(ids[i], sizeof(ids[i]), "gpu:%u", i);
        devices[i].id = devices[i].visible = ids[i];
        devices[i].index = i;
        devices[i].kind = ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
        devices[i].links = of_device[i];
        list[i] = &devices[i];
    }
    for (size_t i = 0; i < count; i++) {
        Accel__V1__Device *d = &devices[links[i].from];
        if (!strcmp(links[i].kind, "part")) {
            d->parent = devices[links[i].to].parent = (char *)"GPU-x";
            continue;
        }
        accel__v1__device_link__init(&told[i]);
        told[i].index = links[i].to;
        told[i].kind = (char *)links[i].kind;
        d->links[d->n_links++] = &told[i];
    }
    hello(w, name, list, gpus, NULL);
}

static void note_starts(struct world *w)
{
    char of_rank[NODES_MAX][64] = {{0}};
    for (size_t i = 0; i < w->batch.output_count; i++) {
        const struct coord_output *o = &w->batch.outputs[i];
        if (o->call > NODES_MAX || !o->data)
            continue;
        Accel__V1__CoordDown *down = accel__v1__coord_down__unpack(NULL, o->len, o->data);
        assert_non_null(down);
        const Accel__V1__Start *st = down->start;
        if (down->body_case == ACCEL__V1__COORD_DOWN__BODY_START) {
            w->devices[0] = 0;
            for (size_t k = 0, used = 0; k < st->n_devices && used < sizeof(w->devices); k++)
                used += (size_t)snprintf(w->devices + used, sizeof(w->devices) - used, "%s%s",
                                         k ? " " : "", st->devices[k]);
            snprintf(of_rank[st->node_rank], sizeof(of_rank[0]), "%s%s:%u-%u",
                     st->node_rank ? " " : "", w->names[o->call - 1], st->first_rank,
                     st->first_rank + st->local_size - 1);
        }
        accel__v1__coord_down__free_unpacked(down, NULL);
    }
    for (size_t i = 0, used = 0; i < NODES_MAX && used < sizeof(w->placed); i++)
        used += (size_t)snprintf(w->placed + used, sizeof(w->placed) - used, "%s", of_rank[i]);
}

struct ask {
    uint32_t nodes, procs, kind;
    const char *nodelist, *exclude; /* one name each; NULL: none */
    uint32_t cpus;                  /* for each process */
};

static const char *submit(struct world *w, struct ask ask)
{
    Accel__V1__SubmitRequest rq = ACCEL__V1__SUBMIT_REQUEST__INIT;
    Accel__V1__JobSpec spec = ACCEL__V1__JOB_SPEC__INIT;
    ProtobufCBinaryData argv[] = {{9, (uint8_t *)"/bin/true"}};
    uint8_t id[LIMIT_REQUEST_ID_BYTES] = {++w->requests};
    spec.n_argv = 1;
    spec.argv = argv;
    spec.cwd = (ProtobufCBinaryData){1, (uint8_t *)"/"};
    spec.nodes = ask.nodes;
    spec.procs_per_node = ask.procs;
    spec.device_kind = (Accel__V1__DeviceKind)ask.kind;
    spec.cpus_per_proc = ask.cpus;
    spec.n_nodelist = ask.nodelist != NULL;
    spec.nodelist = (char **)&ask.nodelist;
    spec.n_exclude = ask.exclude != NULL;
    spec.exclude = (char **)&ask.exclude;
    rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
    rq.spec = &spec;
    step(w, COORD_SUBMIT, RPC_OPEN, 100 + w->requests, &rq.base);
    w->placed[0] = w->error[0] = 0;
    for (size_t i = 0; i < w->batch.output_count; i++)
        if (w->batch.outputs[i].code)
            snprintf(w->error, sizeof(w->error), "%s", w->batch.outputs[i].text);
    note_starts(w);
    return w->placed;
}

#define CPU ACCEL__V1__DEVICE_KIND__DEVICE_CPU
#define GPU ACCEL__V1__DEVICE_KIND__DEVICE_GPU
#define TPU ACCEL__V1__DEVICE_KIND__DEVICE_TPU

static void assert_refused(struct world *w, const char *words)
{
    assert_string_equal(w->placed, "");
    assert_non_null(strstr(w->error, words));
    assert_non_null(strstr(w->error, "\nwhy: "));
    assert_non_null(strstr(w->error, "\ntry: "));
}

static void test_fullest_first(void **state)
{
    struct world *w = *state;
    join(w, "a", 8, 0, "", 0, 0);
    join(w, "b", 4, 0, "", 0, 0);
    join(w, "c", 8, 0, "", 0, 0);
    join(w, "d", 4, 0, "", 0, 0);
    assert_string_equal(submit(w, (struct ask){2, 2, CPU, NULL, NULL, 0}), "b:0-1 d:2-3");
    assert_string_equal(submit(w, (struct ask){3, 2, CPU, NULL, NULL, 0}), "a:0-1 b:2-3 d:4-5");
    assert_string_equal(submit(w, (struct ask){2, 6, CPU, NULL, NULL, 0}), "a:0-5 c:6-11");
    /* All could, and none has room now: it waits, and is not refused. */
    assert_string_equal(submit(w, (struct ask){4, 4, CPU, NULL, NULL, 0}), "");
    assert_string_equal(w->error, "");
}

/* Small jobs fill up what is begun, so that whole nodes stay for gangs. */
static void test_one_node_is_the_fullest(void **state)
{
    struct world *w = *state;
    join(w, "b", 8, 0, "", 0, 0);
    join(w, "a", 8, 0, "", 0, 0);
    join(w, "c", 4, 0, "", 0, 0);
    assert_string_equal(submit(w, (struct ask){1, 2, CPU, NULL, NULL, 0}), "c:0-1");
    assert_string_equal(submit(w, (struct ask){1, 1, CPU, NULL, NULL, 0}), "c:0-0");
    assert_string_equal(submit(w, (struct ask){1, 2, CPU, NULL, NULL, 0}), "a:0-1"); /* by name */
    assert_string_equal(submit(w, (struct ask){1, 2, CPU, NULL, NULL, 0}), "a:0-1");
    assert_string_equal(submit(w, (struct ask){1, 8, CPU, NULL, NULL, 0}), "b:0-7");
}

/* Whoever does not care gets an accelerator while there is one. */
static void test_auto_takes_accelerators(void **state)
{
    struct world *w = *state;
    join(w, "a", 2, 0, "", 0, 0);
    join_gpus(w, "g", 2, NULL, 0);
    for (int i = 0; i < 2; i++)
        assert_string_equal(submit(w, (struct ask){1, 1, 0, NULL, NULL, 0}), "g:0-0");
    assert_string_equal(submit(w, (struct ask){1, 1, 0, NULL, NULL, 0}), "a:0-0");
}

/* The GPUs that a job of so many gets. */
static const char *gpus_for(struct world *w, uint32_t count)
{
    w->devices[0] = 0;
    submit(w, (struct ask){1, count, GPU, NULL, NULL, 0});
    assert_string_equal(w->error, "");
    return w->devices;
}

static void test_islands_stay_whole(void **state)
{
    static const struct link pairs[] = {{0, 1, "nvlink"}, {2, 3, "nvlink"}, {0, 2, "sys"}};
    struct world *w = *state;
    join_gpus(w, "a", 4, pairs, ARRAY_LEN(pairs));
    assert_string_equal(gpus_for(w, 1), "gpu:0");
    assert_string_equal(gpus_for(w, 2), "gpu:2 gpu:3");
    assert_string_equal(gpus_for(w, 1), "gpu:1");
}

static void test_islands_are_nested(void **state)
{
    /* 0 and 5, 1 and 4, 2 and 3 by NVLink; the first four of these on one switch. */
    static const struct link links[] = {
        {0, 5, "nvlink"}, {4, 1, "nvlink"}, {2, 3, "nvlink"}, {0, 1, "pxb"}};
    struct world *w = *state;
    join_gpus(w, "a", 6, links, ARRAY_LEN(links));
    assert_string_equal(gpus_for(w, 1), "gpu:2"); /* the switch stays whole */
    assert_string_equal(gpus_for(w, 2), "gpu:0 gpu:5");
    assert_string_equal(gpus_for(w, 3), "gpu:1 gpu:3 gpu:4"); /* over two of them, if it must be */
}

static void test_a_gpu_in_parts_is_filled_up(void **state)
{
    static const struct link links[] = {{1, 2, "part"}, {2, 3, "part"}};
    struct world *w = *state;
    join_gpus(w, "a", 4, links, ARRAY_LEN(links));
    assert_string_equal(gpus_for(w, 1), "gpu:0");
    assert_string_equal(gpus_for(w, 1), "gpu:1");
    assert_string_equal(gpus_for(w, 2), "gpu:2 gpu:3");
}

static void test_without_links_the_first(void **state)
{
    struct world *w = *state;
    join_gpus(w, "a", 4, NULL, 0);
    assert_string_equal(gpus_for(w, 3), "gpu:0 gpu:1 gpu:2");
    assert_string_equal(gpus_for(w, 1), "gpu:3");
}

static void test_names(void **state)
{
    struct world *w = *state;
    join(w, "node-a", 4, 0, "", 0, 0);
    join(w, "node-b", 4, 0, "", 0, 0);
    join(w, "node-c", 4, 0, "", 0, 0);
    assert_string_equal(submit(w, (struct ask){1, 1, CPU, "node-c", NULL, 0}), "node-c:0-0");
    assert_string_equal(submit(w, (struct ask){2, 1, CPU, NULL, "node-a", 0}),
                        "node-b:0-0 node-c:1-1");
    submit(w, (struct ask){1, 1, CPU, "node-d", NULL, 0});
    assert_refused(w, "no node node-d");
    assert_non_null(strstr(w->error, "try: node-"));
    submit(w, (struct ask){1, 1, CPU, NULL, "elsewhere", 0});
    assert_refused(w, "--exclude: no node elsewhere");
    submit(w, (struct ask){2, 1, CPU, "node-a", NULL, 0});
    assert_refused(w, "--nodelist names 1 node");
    submit(w, (struct ask){3, 1, CPU, NULL, "node-a", 0});
    assert_refused(w, "2 nodes have that");
    submit(w, (struct ask){4, 2, CPU, NULL, NULL, 0});
    assert_refused(w, "it asks for 4 nodes with 2 CPU slots each; 3 nodes have that");
}

/* Two slices of two hosts, told out of order, and a TPU VM of its own. */
static void test_slices_are_whole(void **state)
{
    struct world *w = *state;
    join(w, "y1", 0, 4, "y", 2, 1);
    join(w, "alone", 0, 4, "", 0, 0);
    join(w, "x1", 0, 4, "x", 2, 1);
    join(w, "x0", 0, 4, "x", 2, 0);
    assert_string_equal(submit(w, (struct ask){4, 1, TPU, NULL, NULL, 0}), "");
    assert_refused(w, "4 nodes");
    join(w, "y0", 0, 4, "y", 2, 0);
    assert_string_equal(submit(w, (struct ask){1, 1, TPU, NULL, NULL, 0}), "alone:0-0");
    assert_string_equal(submit(w, (struct ask){2, 1, TPU, NULL, NULL, 0}), "x0:0-0 x1:1-1");
    assert_string_equal(submit(w, (struct ask){3, 1, TPU, NULL, NULL, 0}), "");
    assert_refused(w, "no slices have 3 nodes");
    assert_string_equal(submit(w, (struct ask){2, 1, TPU, NULL, NULL, 0}), "y0:0-0 y1:1-1");
    assert_string_equal(submit(w, (struct ask){4, 1, TPU, NULL, NULL, 0}), "");
    assert_string_equal(w->error, ""); /* both slices together: possible, and it waits */
}

/* --- nodes that are known and not here --- */

/* What a Get of the job says that it waits for. */
static const char *reason_of(struct world *w, uint64_t job)
{
    Accel__V1__GetRequest rq = ACCEL__V1__GET_REQUEST__INIT;
    rq.job_id = job;
    step(w, COORD_GET, RPC_OPEN, 99, &rq.base);
    const struct coord_output *o = &w->batch.outputs[0];
    Accel__V1__GetReply *m = accel__v1__get_reply__unpack(NULL, o->len, o->data);
    assert_non_null(m);
    assert_int_equal(m->job->state, ACCEL__V1__JOB_STATE__JOB_PENDING);
    snprintf(w->error, sizeof(w->error), "%s", m->job->reason);
    accel__v1__get_reply__free_unpacked(m, NULL);
    return w->error;
}

/* Accepted, and placed nowhere yet. */
static void assert_waits(struct world *w, struct ask ask, uint64_t job, const char *words)
{
    assert_string_equal(submit(w, ask), "");
    assert_string_equal(w->error, "");
    assert_string_equal(reason_of(w, job), words);
}

static void test_nodes_of_the_store_count(void **state)
{
    struct world *w = *state;
    join(w, "a", 4, 0, "", 0, 0);
    join(w, "b", 4, 0, "", 0, 0);
    join(w, "c", 4, 0, "", 0, 0);
    restart(w);
    join(w, "a", 4, 0, "", 0, 0);
    assert_waits(w, (struct ask){3, 1, CPU, NULL, NULL, 0}, 1, "waits for nodes b, c to come back");
    join(w, "c", 4, 0, "", 0, 0);
    assert_string_equal(reason_of(w, 1), "waits for node b to come back");
    submit(w, (struct ask){4, 1, CPU, NULL, NULL, 0});
    assert_refused(w, "3 nodes have that");
    join(w, "b", 4, 0, "", 0, 0);
    note_starts(w);
    assert_string_equal(w->placed, "a:0-0 b:1-1 c:2-2");
}

/* A lost node may never come back: who waits for it holds nobody up meanwhile. */
static void test_who_waits_for_a_lost_node_is_passed(void **state)
{
    struct world *w = *state;
    struct coord_event silence = {
        .type = COORD_EV_TICK, .now_ms = NOW_MS + LIMIT_SESSION_GRACE_MS, .wall_ms = NOW_MS};
    join(w, "a", 4, 0, "", 0, 0);
    join(w, "b", 4, 0, "", 0, 0);
    restart(w);
    join(w, "a", 4, 0, "", 0, 0);
    assert_waits(w, (struct ask){2, 1, CPU, NULL, NULL, 0}, 1, "waits for node b to come back");
    assert_waits(w, (struct ask){1, 1, CPU, NULL, NULL, 0}, 2, "waits behind job 1");
    coord_batch_reset(&w->batch);
    coord_step(w->core, &silence, &w->batch);
    coord_check_all(w->core);
    note_starts(w);
    assert_string_equal(w->placed, "a:0-0");
    commit(w);
    w->now_ms = silence.now_ms;
    assert_string_equal(reason_of(w, 1), "waits for node b to come back");
    assert_string_equal(submit(w, (struct ask){1, 1, CPU, NULL, NULL, 0}), "a:0-0");
    join(w, "b", 4, 0, "", 0, 0);
    note_starts(w);
    assert_string_equal(w->placed, "a:0-0 b:1-1");
}

/* A slice is told with the Hello only: until then its nodes might be any. */
static void test_slices_of_the_store_count(void **state)
{
    struct world *w = *state;
    join(w, "x0", 0, 4, "x", 2, 0);
    join(w, "x1", 0, 4, "x", 2, 1);
    join(w, "y0", 0, 4, "y", 2, 0);
    join(w, "y1", 0, 4, "y", 2, 1);
    join(w, "c", 4, 0, "", 0, 0);
    restart(w);
    join(w, "c", 4, 0, "", 0, 0);
    join(w, "x0", 0, 4, "x", 2, 0);
    join(w, "x1", 0, 4, "x", 2, 1);
    submit(w, (struct ask){5, 1, TPU, NULL, NULL, 0});
    assert_refused(w, "4 nodes have that");
    assert_waits(w, (struct ask){4, 1, TPU, NULL, NULL, 0}, 1,
                 "waits for nodes y0, y1 to tell what they are");
    assert_string_equal(submit(w, (struct ask){1, 1, CPU, NULL, NULL, 0}),
                        "c:0-0"); /* not behind */
    join(w, "y0", 0, 4, "y", 2, 0);
    assert_string_equal(reason_of(w, 1), "waits for node y1 to tell what it is");
    join(w, "y1", 0, 4, "y", 2, 1);
    note_starts(w);
    assert_string_equal(w->placed, "x0:0-0 x1:1-1 y0:2-2 y1:3-3");
}

static void enrol(struct world *w, const char *name)
{
    static const uint8_t hash[PKI_HASH_BYTES] = {9};
    Accel__V1__CreateNodeTokenRequest token = ACCEL__V1__CREATE_NODE_TOKEN_REQUEST__INIT;
    Accel__V1__EnrollRequest rq = ACCEL__V1__ENROLL_REQUEST__INIT;
    uint8_t id[LIMIT_REQUEST_ID_BYTES] = {++w->requests};
    const struct coord_grant grant = {.hash = hash,
                                      .certificate_pem = "cert",
                                      .ca_pem = "ca",
                                      .serial = name,
                                      .not_after_ms = LIMIT_CERTIFICATE_MS,
                                      .token = "token"};
    rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
    rq.node = (char *)name;
    rq.machine_id = (char *)name;
    step_as(w, COORD_CREATE_TOKEN, RPC_OPEN, 98, &token.base, &grant);
    step_as(w, COORD_ENROLL, RPC_OPEN, 97, &rq.base, &grant);
    assert_int_equal(w->batch.outputs[0].code, 0);
}

static void test_enrolled_nodes_count(void **state)
{
    struct world *w = *state;
    join(w, "a", 4, 0, "", 0, 0);
    submit(w, (struct ask){2, 1, CPU, NULL, NULL, 0});
    assert_refused(w, "1 node has that");
    enrol(w, "b");
    restart(w);
    join(w, "a", 4, 0, "", 0, 0);
    assert_waits(w, (struct ask){2, 1, CPU, NULL, NULL, 0}, 1,
                 "waits for node b to tell what it is");
    assert_string_equal(submit(w, (struct ask){1, 1, CPU, NULL, NULL, 0}), "a:0-0");
    submit(w, (struct ask){3, 1, CPU, NULL, NULL, 0});
    assert_refused(w, "1 node has that");
    submit(w, (struct ask){2, 1, CPU, NULL, "b", 0}); /* it does not wait for whom it leaves out */
    assert_refused(w, "1 node has that");
    assert_waits(w, (struct ask){1, 1, CPU, "b", NULL, 0}, 3,
                 "waits for node b to tell what it is");
    join(w, "b", 4, 0, "", 0, 0);
    note_starts(w);
    assert_string_equal(w->placed, "b:0-0 b:1-1"); /* of two jobs */
}

/* Nodes here have 8 CPUs, and may have more slots. */
static void test_cpus_must_exist(void **state)
{
    struct world *w = *state;
    Accel__V1__GetRequest rq = ACCEL__V1__GET_REQUEST__INIT;
    join(w, "a", 16, 0, "", 0, 0);
    join(w, "b", 4, 0, "", 0, 0);
    submit(w, (struct ask){1, 1, CPU, NULL, NULL, LIMIT_CPUS_PER_PROC + 1});
    assert_non_null(strstr(w->error, "why: the limit is"));
    submit(w, (struct ask){1, 3, CPU, NULL, NULL, 4});
    assert_refused(w, "too few CPUs: 3 processes with 4 CPUs each on one node");
    assert_non_null(strstr(w->error, "try: fewer --procs, or --cpus-per-task 2"));
    submit(w, (struct ask){2, 1, CPU, NULL, NULL, 9});
    assert_refused(w, "1 process with 9 CPUs each on every node");
    submit(w, (struct ask){1, 20, CPU, NULL, NULL, 9}); /* and too few slots: that is said first */
    assert_refused(w, "20 CPU slots");
    assert_string_equal(submit(w, (struct ask){1, 2, CPU, NULL, NULL, 4}), "b:0-1");
    rq.job_id = 1;
    step(w, COORD_GET, RPC_OPEN, 99, &rq.base);
    Accel__V1__GetReply *m =
        accel__v1__get_reply__unpack(NULL, w->batch.outputs[0].len, w->batch.outputs[0].data);
    assert_int_equal(m->job->cpus_per_proc, 4);
    accel__v1__get_reply__free_unpacked(m, NULL);
}

static void test_left_out_nodes_are_named(void **state)
{
    struct world *w = *state;
    join(w, "a", 4, 0, "", 0, 0);
    join(w, "b", 4, 0, "", 0, 0);
    submit(w, (struct ask){2, 1, CPU, NULL, "b", 0});
    assert_refused(w, "why: left out by --exclude: b; node a has 4 CPU slots,");
    submit(w, (struct ask){1, 8, CPU, "a", NULL, 0});
    assert_refused(w, "why: left out by --nodelist: b; node a has 4 CPU slots,");
    submit(w, (struct ask){1, 8, CPU, NULL, NULL, 0});
    assert_refused(w, "why: node a has 4 CPU slots,");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fullest_first, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_node_is_the_fullest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_auto_takes_accelerators, setup, teardown),
        cmocka_unit_test_setup_teardown(test_islands_stay_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(test_islands_are_nested, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_gpu_in_parts_is_filled_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_links_the_first, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slices_are_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nodes_of_the_store_count, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_waits_for_a_lost_node_is_passed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slices_of_the_store_count, setup, teardown),
        cmocka_unit_test_setup_teardown(test_enrolled_nodes_count, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cpus_must_exist, setup, teardown),
        cmocka_unit_test_setup_teardown(test_left_out_nodes_are_named, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
