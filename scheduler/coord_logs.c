/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coord_logs.c - the way of output and input between users and the agent that has them: Logs.Read
 * and Jobs.Input are forwarded to the node of the attempt and answered with what comes back. Reads
 * of an attempt that does not exist yet are parked here. Nothing is buffered: one read, one answer,
 * which is the flow control.
 */
#include "scheduler/coord_internal.h"

static void call_set_job(struct call *call, struct job *j)
{
    call->job = j;
    LIST_INSERT_HEAD(&j->calls, call, of_job);
}

static void call_set_node(struct call *call, struct node *n)
{
    call->node = n;
    LIST_INSERT_HEAD(&n->calls, call, of_node);
}

static struct call *call_park(struct coord *c, uint64_t call_id, struct job *j,
                              const Accel__V1__LogReadRequest *rq)
{
    struct call *call = call_new(c, call_id, CALL_LOG);

    call_set_job(call, j);
    call->request_len = accel__v1__log_read_request__get_packed_size(rq);
    call->request = xcalloc(1, call->request_len + 1);
    accel__v1__log_read_request__pack(rq, call->request);
    return call;
}

static Accel__V1__LogReadRequest *call_request(struct coord *c, const struct call *call)
{
    ProtobufCAllocator alloc;
    Accel__V1__LogReadRequest *rq = accel__v1__log_read_request__unpack(
        arena_allocator(&c->out->arena, &alloc), call->request_len, call->request);

    CHECK(rq);
    return rq;
}

static void log_nothing(struct coord *c, uint64_t call, uint32_t attempt)
{
    Accel__V1__LogReadReply reply = ACCEL__V1__LOG_READ_REPLY__INIT;

    reply.attempt = attempt;
    reply.ended = true;
    out_end(c, call, &reply.base);
}

/* Its directory may still be that of another attempt, which refuses the start: read only once it
 * has started. */
static bool log_is_early(const struct job *j, const struct attempt *a)
{
    return !a || (a->end_ms == 0 && j->state == JOB_STARTING && !a->shares[0].started);
}

static bool attempt_had_process(const struct attempt *a)
{
    for (uint32_t i = 0; i < a->world_size; i++)
        if (a->workers[i].pid)
            return true;
    return a->end_ms == 0;
}

/* The attempt exists: to its node. Jobs span one node so far: the first share has all ranks. */
static void log_forward(struct coord *c, uint64_t call_id, struct job *j, const struct attempt *a,
                        const Accel__V1__LogReadRequest *rq)
{
    Accel__V1__LogRead read = ACCEL__V1__LOG_READ__INIT;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
    const char *name = a->share_count ? a->shares[0].node_name : "?";
    struct node *n = node_find(c, name);

    if (!attempt_had_process(a)) {
        log_nothing(c, call_id, a->number);
        return;
    }
    bool is_coming = n && !n->session && n->grace.node.pos != 0;
    if (is_coming) { /* within the grace: node_resume_parked() or node_fail_parked() goes on */
        struct call *call = call_park(c, call_id, j, rq);
        call_set_node(call, n);
        return;
    }
    if (!n || !n->session) {
        out_fail(c, call_id, ACCEL_EUNAVAIL,
                 "the logs of job %llu attempt %u are on node %s\nwhy: its acceld is away\n"
                 "try: again when it is back",
                 (unsigned long long)j->id, a->number, name);
        return;
    }
    struct call *call = call_new(c, call_id, CALL_LOG);
    call_set_job(call, j);
    call_set_node(call, n);
    read.id = call_id;
    read.attempt = a->number;
    read.request = (Accel__V1__LogReadRequest *)rq;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_LOG_READ;
    down.log_read = &read;
    node_send(c, n, &down);
}

void call_log_read(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__LogReadRequest *rq = (const Accel__V1__LogReadRequest *)ev->msg;
    struct job *j = call_job(c, ev, rq->job_id);

    if (!j)
        return;
    struct attempt *a = attempt_find(j, rq->attempt);
    if (!log_is_early(j, a)) {
        log_forward(c, ev->call, j, a, rq);
        return;
    }
    if (!a && rq->attempt && rq->attempt <= j->run->attempt) {
        out_fail(c, ev->call, ACCEL_ENOENT,
                 "attempt %u of job %llu is not kept\nwhy: the first and the last %u are",
                 rq->attempt, (unsigned long long)j->id, LIMIT_ATTEMPTS_KEPT - 1);
        return;
    }
    if (!job_is_live(j) || !rq->wait) {
        log_nothing(c, ev->call, a ? a->number : 0);
        return;
    }
    call_park(c, ev->call, j, rq);
}

/* The job changed: reads parked for an attempt go on when it exists, or end when it never will. */
void logs_attempt_changed(struct coord *c, struct job *j)
{
    struct call *call, *next;

    for (call = LIST_FIRST(&j->calls); call; call = next) {
        next = LIST_NEXT(call, of_job);
        if (call->kind != CALL_LOG || call->node)
            continue;
        const Accel__V1__LogReadRequest *rq = call_request(c, call);
        const struct attempt *a = attempt_find(j, rq->attempt);
        if (log_is_early(j, a) && job_is_live(j))
            continue;
        uint64_t id = call->id;
        call_free(c, call);
        if (a)
            log_forward(c, id, j, a, rq);
        else
            log_nothing(c, id, 0);
    }
}

static struct call *call_of(struct coord *c, uint64_t id, enum call_kind kind)
{
    struct call *call = NULL;

    HASH_FIND(hh, c->calls, &id, sizeof(id), call);
    return call && call->kind == kind ? call : NULL;
}

void logs_answer(struct coord *c, const struct node *n, const Accel__V1__LogData *msg)
{
    struct call *call = call_of(c, msg->id, CALL_LOG);

    if (!call || call->node != n)
        return; /* cancelled meanwhile, or not asked of it */
    uint64_t id = call->id;
    call_free(c, call);
    if (msg->code || !msg->reply)
        out_fail(c, id, accel_error_from_grpc(msg->code ? msg->code : 13), "%s", msg->text);
    else
        out_end(c, id, &msg->reply->base);
}

void call_input(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__InputRequest *rq = (const Accel__V1__InputRequest *)ev->msg;
    Accel__V1__InputReply closed = ACCEL__V1__INPUT_REPLY__INIT;
    Accel__V1__Input input = ACCEL__V1__INPUT__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
    struct job *j = call_job(c, ev, rq->job_id);

    if (!j)
        return;
    if (rq->data.len > LIMIT_INPUT_CHUNK_BYTES) {
        out_fail(c, ev->call, ACCEL_EFULL, "an input chunk of %zu bytes\nwhy: the limit is %u",
                 rq->data.len, LIMIT_INPUT_CHUNK_BYTES);
        return;
    }
    if (j->state == JOB_ENDED) {
        closed.closed = true;
        out_end(c, ev->call, &closed.base);
        return;
    }
    struct attempt *a = attempt_find(j, 0);
    if (j->state == JOB_PENDING || !a->shares[0].node || !a->shares[0].node->session) {
        out_fail(c, ev->call, ACCEL_EUNAVAIL, "job %llu takes no input now",
                 (unsigned long long)j->id);
        return;
    }
    struct call *call = call_new(c, ev->call, CALL_INPUT);
    call_set_job(call, j);
    call_set_node(call, a->shares[0].node);
    ref.job_id = j->id;
    ref.attempt = a->number;
    ref.era = c->era;
    input.ref = &ref;
    input.id = ev->call;
    input.data = (Accel__V1__InputRequest *)rq;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_INPUT;
    down.input = &input;
    node_send(c, call->node, &down);
}

void input_answer(struct coord *c, const struct node *n, const Accel__V1__InputDone *msg)
{
    struct call *call = call_of(c, msg->id, CALL_INPUT);

    if (!call || call->node != n)
        return;
    uint64_t id = call->id;
    call_free(c, call);
    if (msg->code || !msg->reply)
        out_fail(c, id, accel_error_from_grpc(msg->code ? msg->code : 13), "%s", msg->text);
    else
        out_end(c, id, &msg->reply->base);
}

/* Its acceld is back: reads that waited for it go on. */
void node_resume_parked(struct coord *c, struct node *n)
{
    struct call *call, *next;

    for (call = LIST_FIRST(&n->calls); call; call = next) {
        next = LIST_NEXT(call, of_node);
        if (!call->request)
            continue;
        const Accel__V1__LogReadRequest *rq = call_request(c, call);
        struct job *j = call->job;
        uint64_t id = call->id;
        const struct attempt *a = attempt_find(j, rq->attempt);
        call_free(c, call);
        if (a)
            log_forward(c, id, j, a, rq);
        else
            log_nothing(c, id, 0);
    }
}

void node_fail_parked(struct coord *c, struct node *n, const char *why)
{
    struct call *call, *next;

    for (call = LIST_FIRST(&n->calls); call; call = next) {
        next = LIST_NEXT(call, of_node);
        if (!call->request)
            continue;
        uint64_t id = call->id;
        call_free(c, call);
        out_fail(c, id, ACCEL_EUNAVAIL, "node %s has not come back\nwhy: %s\ntry: accelctl nodes",
                 n->name, why);
    }
}

void node_fail_calls(struct coord *c, struct node *n, const char *why)
{
    struct call *call;

    while ((call = LIST_FIRST(&n->calls))) {
        uint64_t id = call->id;
        call_free(c, call);
        out_fail(c, id, ACCEL_EUNAVAIL,
                 "node %s does not answer\nwhy: %s\ntry: again when it is back", n->name, why);
    }
}
