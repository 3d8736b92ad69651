/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core_world.h - the coordinator's core for unit tests: a store in memory, both clocks, nodes that
 * greet, jobs, and what each step said. A program has one such world at a time. Sessions of nodes
 * are calls 1, 2, ... in the order of their Hello; other calls begin at CALLS_FROM.
 */
#ifndef ACCEL_TESTS_UNIT_CORE_WORLD_H
#define ACCEL_TESTS_UNIT_CORE_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "accel/v1/agent.pb-c.h"
#include "accel/v1/event.pb-c.h"
#include "accel/v1/job.pb-c.h"
#include "accel/v1/node.pb-c.h"
#include "accel/v1/trust.pb-c.h"
#include "common/limits.h"
#include "scheduler/coord.h"
#include "scheduler/store.h"

#define CALLS_FROM 1000u

static const struct rpc_identity root = {
    .role = RPC_ROLE_ADMIN, .uid = 0, .user = "root", .is_local = true};

static struct core_world {
    struct store *store;
    struct coord *core;
    struct coord_batch batch; /* of the last step */
    struct coord_config config;
    int64_t now_ms, wall_ms;
    uint64_t sessions, calls;
    uint8_t requests;
    Accel__V1__Slice *slice; /* that the next Hello tells; NULL: none */
} w;

static inline void load_one(void *ctx, const struct record *rec)
{
    coord_load(ctx, rec);
}

static inline void commit(void)
{
    coord_collect(w.core, &w.batch);
    const struct store_txn txn = {w.batch.records, w.batch.record_count, coord_epoch(w.core)};
    assert_int_equal(w.store->ops->commit(w.store, &txn, NULL), 0);
}

/* A coordinator that knows what the store knows; no node has a session, no call is open. */
static inline void restart(void)
{
    coord_destroy(w.core);
    coord_batch_reset(&w.batch);
    w.core = coord_create(&w.config);
    assert_int_equal(w.store->ops->load(w.store, load_one, w.core, NULL), 0);
    coord_start(w.core, w.now_ms, w.wall_ms, 7);
    commit();
    w.sessions = 0;
}

static inline int setup(void **state)
{
    (void)state;
    w = (struct core_world){.config = {.session_grace_ms = LIMIT_SESSION_GRACE_MS,
                                       .history_jobs = LIMIT_HISTORY_JOBS,
                                       .history_ms = LIMIT_HISTORY_MS},
                            .now_ms = 1000,
                            .wall_ms = 1795000000000ll,
                            .calls = CALLS_FROM};
    w.store = store_mem_create(7);
    coord_batch_init(&w.batch);
    restart();
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    coord_destroy(w.core);
    coord_batch_done(&w.batch);
    w.store->ops->close(w.store);
    return 0;
}

static inline void step(struct coord_event *ev)
{
    ev->now_ms = w.now_ms;
    ev->wall_ms = w.wall_ms;
    coord_batch_reset(&w.batch);
    coord_step(w.core, ev, &w.batch);
    coord_check_all(w.core);
    commit();
}

static inline void step_call(enum coord_method method, enum rpc_event_type type, uint64_t call,
                             const struct rpc_identity *who, const void *msg)
{
    step(&(struct coord_event){.type = COORD_EV_CALL,
                               .method = method,
                               .rpc_type = type,
                               .call = call,
                               .who = who,
                               .msg = msg});
}

/* Both clocks go on; timers that come due fire in their order. */
static inline void pass(int64_t ms)
{
    int64_t until_ms = w.now_ms + ms, due_ms;

    while ((due_ms = coord_deadline_ms(w.core)) >= 0 && due_ms <= until_ms) {
        w.wall_ms += MAX(due_ms - w.now_ms, 0);
        w.now_ms = MAX(w.now_ms, due_ms);
        step(&(struct coord_event){.type = COORD_EV_TICK});
    }
    w.wall_ms += until_ms - w.now_ms;
    w.now_ms = until_ms;
}

/* What the last step said to a call; NULL: nothing. */
static inline const struct coord_output *said_to(uint64_t call)
{
    for (size_t i = 0; i < w.batch.output_count; i++)
        if (w.batch.outputs[i].call == call)
            return &w.batch.outputs[i];
    return NULL;
}

static inline uint64_t open_as(const struct rpc_identity *who, enum coord_method method,
                               const void *msg)
{
    step_call(method, RPC_OPEN, ++w.calls, who, msg);
    return w.calls;
}

/* With what the shell gives to calls that need a key; the answer, or that of a stream so far. */
static inline const struct coord_output *open_granted(const struct rpc_identity *who,
                                                      enum coord_method method, const void *msg,
                                                      const struct coord_grant *grant)
{
    step(&(struct coord_event){.type = COORD_EV_CALL,
                               .method = method,
                               .rpc_type = RPC_OPEN,
                               .call = ++w.calls,
                               .who = who,
                               .msg = msg,
                               .grant = grant});
    return said_to(w.calls);
}

/* A unary call that is answered at once, with this message. Free it. */
static inline void *ask(enum coord_method method, const void *msg,
                        const ProtobufCMessageDescriptor *reply)
{
    const struct coord_output *o = said_to(open_as(&root, method, msg));

    assert_non_null(o);
    assert_true(o->is_end);
    assert_int_equal(o->code, 0);
    ProtobufCMessage *m = protobuf_c_message_unpack(reply, NULL, o->len, o->data);
    assert_non_null(m);
    return m;
}

static inline void free_message(void *m)
{
    protobuf_c_message_free_unpacked(m, NULL);
}

/* --- nodes --- */

static inline void say(uint64_t session, const Accel__V1__AgentUp *up)
{
    step_call(COORD_SESSION, RPC_MESSAGE, session, &root, up);
}

static inline void hang_up(uint64_t session)
{
    step_call(COORD_SESSION, RPC_CLOSED, session, &root, NULL);
}

/* A node opens a session and says Hello; its number is returned. attempts: what it has of them. */
static inline uint64_t hello(const char *name, Accel__V1__Device *const *devices, size_t count,
                             Accel__V1__AttemptStatus *const *attempts, size_t attempt_count)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Hello m = ACCEL__V1__HELLO__INIT;
    Accel__V1__Node node = ACCEL__V1__NODE__INIT;

    node.name = (char *)name;
    node.n_devices = count;
    node.devices = (Accel__V1__Device **)devices;
    node.memory_bytes = 1ull << 30;
    node.cpus = 8;
    node.slice = w.slice;
    node.incarnation = 1;
    node.address = (char *)name;
    m.node = &node;
    m.machine_id = (char *)name;
    m.n_attempts = attempt_count;
    m.attempts = (Accel__V1__AttemptStatus **)attempts;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_HELLO;
    up.hello = &m;
    step_call(COORD_SESSION, RPC_OPEN, ++w.sessions, &root, NULL);
    say(w.sessions, &up);
    return w.sessions;
}

/* With so many CPU slots. */
static inline uint64_t join_with(const char *name, uint32_t cpus,
                                 Accel__V1__AttemptStatus *const *attempts, size_t attempt_count)
{
    Accel__V1__Device devices[32], *list[32];
    char ids[32][16];

    assert_true(cpus <= ARRAY_LEN(list));
    for (uint32_t i = 0; i < cpus; i++) {
        accel__v1__device__init(&devices[i]);
        snprintf(ids[i], sizeof(ids[i]), "cpu:%u", i);
        devices[i].id = ids[i];
        devices[i].index = i;
        devices[i].kind = ACCEL__V1__DEVICE_KIND__DEVICE_CPU;
        list[i] = &devices[i];
    }
    return hello(name, list, cpus, attempts, attempt_count);
}

static inline uint64_t join(const char *name, uint32_t cpus)
{
    return join_with(name, cpus, NULL, 0);
}

/* --- jobs --- */

/* Submits a job of so many nodes with one process each; returns its id. change may set more. */
static inline uint64_t submit_as(const struct rpc_identity *who, uint32_t nodes,
                                 void (*change)(Accel__V1__JobSpec *spec))
{
    Accel__V1__SubmitRequest rq = ACCEL__V1__SUBMIT_REQUEST__INIT;
    Accel__V1__JobSpec spec = ACCEL__V1__JOB_SPEC__INIT;
    ProtobufCBinaryData argv[] = {{9, (uint8_t *)"/bin/true"}};
    uint8_t id[LIMIT_REQUEST_ID_BYTES] = {++w.requests};

    spec.n_argv = 1;
    spec.argv = argv;
    spec.cwd = (ProtobufCBinaryData){1, (uint8_t *)"/"};
    spec.nodes = nodes;
    spec.procs_per_node = 1;
    if (change)
        change(&spec);
    rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
    rq.spec = &spec;
    const struct coord_output *o = said_to(open_as(who, COORD_SUBMIT, &rq));
    assert_non_null(o);
    assert_int_equal(o->code, 0);
    Accel__V1__SubmitReply *m = accel__v1__submit_reply__unpack(NULL, o->len, o->data);
    uint64_t job_id = m->job_id;
    accel__v1__submit_reply__free_unpacked(m, NULL);
    return job_id;
}

static inline uint64_t submit(uint32_t nodes)
{
    return submit_as(&root, nodes, NULL);
}

static inline Accel__V1__AttemptRef ref_of(uint64_t job, uint32_t attempt)
{
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;

    ref.job_id = job;
    ref.attempt = attempt;
    ref.era = coord_era(w.core);
    return ref;
}

static inline void say_prepared(uint64_t session, uint64_t job, uint32_t attempt)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Prepared m = ACCEL__V1__PREPARED__INIT;
    Accel__V1__AttemptRef ref = ref_of(job, attempt);

    m.ref = &ref;
    m.address = (char *)"here";
    m.master_port = 20000;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_PREPARED;
    up.prepared = &m;
    say(session, &up);
}

static inline void report(uint64_t session, Accel__V1__Report *m)
{
    static uint64_t seq;
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;

    m->seq = ++seq;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_REPORT;
    up.report = m;
    say(session, &up);
}

/* rank: of the one process there, with this pid. */
static inline void say_started(uint64_t session, uint64_t job, uint32_t attempt, uint32_t rank)
{
    Accel__V1__Report r = ACCEL__V1__REPORT__INIT;
    Accel__V1__AttemptStarted m = ACCEL__V1__ATTEMPT_STARTED__INIT;
    Accel__V1__AttemptRef ref = ref_of(job, attempt);
    Accel__V1__Rank each = ACCEL__V1__RANK__INIT, *ranks = &each;

    each.rank = rank;
    each.pid = 100 + rank;
    m.ref = &ref;
    m.n_ranks = 1;
    m.ranks = &ranks;
    r.body_case = ACCEL__V1__REPORT__BODY_STARTED;
    r.started = &m;
    report(session, &r);
}

static inline void say_ended(uint64_t session, uint64_t job, uint32_t attempt, uint32_t rank,
                             Accel__V1__Cause cause)
{
    Accel__V1__Report r = ACCEL__V1__REPORT__INIT;
    Accel__V1__AttemptEnded m = ACCEL__V1__ATTEMPT_ENDED__INIT;
    Accel__V1__AttemptRef ref = ref_of(job, attempt);
    Accel__V1__Rank each = ACCEL__V1__RANK__INIT, *ranks = &each;

    each.rank = rank;
    each.pid = 100 + rank;
    each.exited = true;
    m.ref = &ref;
    m.cause = cause;
    m.text = (char *)"";
    m.first_failed_rank = -1;
    m.n_ranks = 1;
    m.ranks = &ranks;
    r.body_case = ACCEL__V1__REPORT__BODY_ENDED;
    r.ended = &m;
    report(session, &r);
}

static inline Accel__V1__GetReply *get_job(uint64_t job)
{
    Accel__V1__GetRequest rq = ACCEL__V1__GET_REQUEST__INIT;

    rq.job_id = job;
    return ask(COORD_GET, &rq, &accel__v1__get_reply__descriptor);
}

#endif
