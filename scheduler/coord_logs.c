/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coord_logs.c - the way of output and input between users and the agent that has them: Logs.Read
 * and Jobs.Input are forwarded to the node of the attempt and answered with what comes back. Reads
 * of an attempt that does not exist yet are parked here. Nothing is buffered: one read, one answer,
 * which is the flow control. A read over several nodes is one read of each; their answers are
 * joined, and one that waits is answered with the first that brings something.
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
    if (!a || a->end_ms || j->state != JOB_STARTING)
        return !a;
    for (size_t i = 0; i < a->share_count; i++)
        if (!a->shares[i].started)
            return true;
    return false;
}

static bool attempt_had_process(const struct attempt *a)
{
    for (uint32_t i = 0; i < a->world_size; i++)
        if (a->workers[i].pid)
            return true;
    return a->end_ms == 0;
}

/* --- reads over several nodes --- */

static bool share_has(const struct share *s, uint32_t rank)
{
    return rank >= s->first_rank && rank - s->first_rank < s->local_size;
}

static bool share_had_process(const struct share *s)
{
    for (uint32_t i = 0; i < s->local_size; i++)
        if (s->attempt->workers[s->first_rank + i].pid)
            return true;
    return false;
}

/* What of the request is about ranks of this node; NULL: nothing. */
static Accel__V1__LogReadRequest *part_request(struct coord *c, const struct share *s,
                                               const Accel__V1__LogReadRequest *rq)
{
    struct arena *a = &c->out->arena;
    Accel__V1__LogReadRequest *part = ARENA_NEW(a, Accel__V1__LogReadRequest);

    *part = *rq;
    part->n_cursors = part->n_ranks = 0;
    part->cursors = ARENA_ARRAY(a, Accel__V1__LogCursor *, rq->n_cursors + 1);
    part->ranks = ARENA_ARRAY(a, uint32_t, rq->n_ranks + s->local_size);
    for (size_t i = 0; i < rq->n_cursors; i++)
        if (share_has(s, rq->cursors[i]->rank))
            part->cursors[part->n_cursors++] = rq->cursors[i];
    for (size_t i = 0; i < rq->n_ranks && rq->n_cursors == 0; i++)
        if (share_has(s, rq->ranks[i]))
            part->ranks[part->n_ranks++] = rq->ranks[i];
    for (uint32_t i = 0; rq->n_cursors == 0 && rq->n_ranks == 0 && i < s->local_size; i++)
        part->ranks[part->n_ranks++] = s->first_rank + i;
    bool is_asked = part->n_cursors || part->n_ranks;
    return is_asked && share_had_process(s) ? part : NULL;
}

#define PART_BYTES_MIN 4096u /* of one answer, where many share the room */

/* All who wait are answered at once when something comes: together they must fit into the session.
 * With much room everybody gets what he asks for. */
static uint32_t take_room(struct call *call, uint32_t wanted)
{
    struct node *n = call->node;
    uint64_t left = LIMIT_LOG_NODE_BYTES - MIN(n->log_bytes, LIMIT_LOG_NODE_BYTES);

    CHECK(call->max_bytes == 0);
    if (wanted == 0 || wanted > LIMIT_LOG_CHUNK_BYTES)
        wanted = LIMIT_LOG_CHUNK_BYTES;
    call->max_bytes = MAX((uint32_t)MIN(wanted, left / 4), MIN(wanted, PART_BYTES_MIN));
    n->log_bytes += call->max_bytes;
    return call->max_bytes;
}

static void send_read(struct coord *c, struct call *call, uint32_t attempt,
                      const Accel__V1__LogReadRequest *rq)
{
    Accel__V1__LogReadRequest cut = *rq;
    Accel__V1__LogRead read = ACCEL__V1__LOG_READ__INIT;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;

    cut.max_bytes = take_room(call, rq->max_bytes);
    read.id = call->id;
    read.attempt = attempt;
    read.request = &cut;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_LOG_READ;
    down.log_read = &read;
    node_send(c, call->node, &down);
}

void log_part_cancel(struct coord *c, const struct call *part)
{
    Accel__V1__LogCancel cancel = ACCEL__V1__LOG_CANCEL__INIT;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;

    if (c->is_closing || part->is_missing)
        return;
    cancel.id = part->id;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_LOG_CANCEL;
    down.log_cancel = &cancel;
    node_send(c, part->node, &down);
}

enum whereabouts { NODE_IS_HERE, NODE_IS_COMING, NODE_IS_AWAY, NODE_IS_GONE };

static enum whereabouts whereabouts(const struct coord *c, const char *name)
{
    const struct node *n = node_find(c, name);

    return !n                       ? NODE_IS_GONE
           : n->session             ? NODE_IS_HERE
           : n->grace.node.pos != 0 ? NODE_IS_COMING
                                    : NODE_IS_AWAY;
}

/* Within the grace: node_resume_parked() or node_fail_parked() goes on. */
static void log_wait_for_node(struct coord *c, uint64_t call_id, struct job *j, const char *name,
                              const Accel__V1__LogReadRequest *rq)
{
    call_set_node(call_park(c, call_id, j, rq), node_find(c, name));
}

/* None of the nodes that have the output can be asked. */
static void log_is_missing(struct coord *c, uint64_t call_id, const struct job *j,
                           const struct attempt *a, const char *name,
                           const Accel__V1__LogReadReply *missing)
{
    if (whereabouts(c, name) == NODE_IS_GONE)
        out_fail(c, call_id, ACCEL_ENOENT,
                 "the logs of job %llu attempt %u are gone with node %s\nwhy: it was removed",
                 (unsigned long long)j->id, a->number, name);
    else if (missing)
        out_end(c, call_id, &missing->base);
    else
        out_fail(c, call_id, ACCEL_EUNAVAIL,
                 "the logs of job %llu attempt %u are on node %s\nwhy: its acceld is away\n"
                 "try: again when it is back",
                 (unsigned long long)j->id, a->number, name);
}

static void reply_missing(struct arena *arena, const struct attempt *a,
                          Accel__V1__LogReadReply *ret)
{
    accel__v1__log_read_reply__init(ret);
    ret->attempt = a->number;
    ret->missing_nodes = ARENA_ARRAY(arena, char *, a->share_count + 1);
}

static void whole_join(struct call *whole, const Accel__V1__LogReadReply *reply)
{
    size_t len = accel__v1__log_read_reply__get_packed_size(reply);

    whole->joined = xrealloc(whole->joined, whole->joined_len + len + 1);
    whole->joined_len += accel__v1__log_read_reply__pack(reply, whole->joined + whole->joined_len);
}

static struct call *part_new(struct coord *c, struct call *whole, struct node *n)
{
    struct call *part = call_new(c, (uint64_t)CALL_TAG_PART << 61 | c->part_next++, CALL_LOG_PART);

    part->whole = whole;
    LIST_INSERT_HEAD(&whole->parts, part, of_whole);
    call_set_node(part, n);
    return part;
}

struct split {                         /* a read over the nodes of an attempt */
    Accel__V1__LogReadRequest **parts; /* by share; NULL: nothing is asked of it now */
    uint32_t count;                    /* of those that are asked */
    Accel__V1__LogReadReply missing;   /* who cannot be asked */
    const char *away, *gone;           /* one of them */
};

/* False: the read is parked, or was failed. */
static bool split_read(struct coord *c, uint64_t call_id, struct job *j, const struct attempt *a,
                       const Accel__V1__LogReadRequest *rq, struct split *ret)
{
    struct arena *arena = &c->out->arena;

    *ret = (struct split){.parts = ARENA_ARRAY(arena, Accel__V1__LogReadRequest *, a->share_count)};
    reply_missing(arena, a, &ret->missing);
    for (size_t i = 0; i < a->share_count; i++) {
        char *name = a->shares[i].node_name;
        ret->parts[i] = part_request(c, &a->shares[i], rq);
        if (!ret->parts[i])
            continue;
        enum whereabouts where = whereabouts(c, name);
        if (where == NODE_IS_COMING) {
            log_wait_for_node(c, call_id, j, name, rq);
            return false;
        }
        if (where == NODE_IS_HERE) {
            ret->count++;
            continue;
        }
        ret->parts[i] = NULL; /* what the others have is not lost */
        ret->missing.missing_nodes[ret->missing.n_missing_nodes++] = name;
        if (where == NODE_IS_GONE)
            ret->gone = name;
        else
            ret->away = name;
    }
    if (ret->count > 0 && (!ret->away || rq->tell_missing))
        return true;
    if (ret->away || ret->gone)
        log_is_missing(c, call_id, j, a, ret->away ? ret->away : ret->gone,
                       rq->tell_missing ? &ret->missing : NULL);
    else
        log_nothing(c, call_id, a->number);
    return false;
}

static void log_split(struct coord *c, uint64_t call_id, struct job *j, const struct attempt *a,
                      const Accel__V1__LogReadRequest *rq)
{
    uint32_t max_bytes = rq->max_bytes ? rq->max_bytes : LIMIT_LOG_CHUNK_BYTES;
    struct split split;

    if (!split_read(c, call_id, j, a, rq, &split))
        return;
    struct call *whole = call_new(c, call_id, CALL_LOG);
    call_set_job(whole, j);
    whole->is_split = true;
    whole->is_waiting = rq->wait;
    whole->has_unended = split.away != NULL;
    whole->attempt = a->number;
    if (rq->tell_missing && split.missing.n_missing_nodes)
        whole_join(whole, &split.missing);
    for (size_t i = 0; i < a->share_count; i++) {
        struct node *n = node_find(c, a->shares[i].node_name);
        if (split.parts[i]) {
            struct call *part = part_new(c, whole, n);
            split.parts[i]->max_bytes = MAX(max_bytes / split.count, PART_BYTES_MIN);
            send_read(c, part, a->number, split.parts[i]);
        } else if (n && !n->session && rq->wait && part_request(c, &a->shares[i], rq)) {
            part_new(c, whole, n)->is_missing = true; /* it ends the read when it comes */
        }
    }
}

static bool is_through(const struct call *whole)
{
    const struct call *part;

    LIST_FOREACH(part, &whole->parts, of_whole)
    {
        if (!part->is_missing)
            return false;
    }
    return true;
}

/* Packed messages one after the other are one message: lists are joined. */
static void whole_answer(struct coord *c, struct call *whole)
{
    ProtobufCAllocator alloc;
    Accel__V1__LogReadReply *reply = accel__v1__log_read_reply__unpack(
        arena_allocator(&c->out->arena, &alloc), whole->joined_len, whole->joined);
    uint64_t id = whole->id;

    CHECK(reply);
    reply->ended = !whole->has_unended && LIST_EMPTY(&whole->parts);
    call_free(c, whole);
    out_end(c, id, &reply->base);
}

/* A node that was missing is back: the reader asks again. */
static void whole_answer_early(struct coord *c, struct call *whole)
{
    Accel__V1__LogReadReply reply = ACCEL__V1__LOG_READ_REPLY__INIT;
    uint64_t id = whole->id;

    reply.attempt = whole->attempt;
    call_free(c, whole);
    out_end(c, id, &reply.base);
}

static void part_answer(struct coord *c, struct call *part, const Accel__V1__LogData *msg)
{
    struct call *whole = part->whole;

    call_free(c, part);
    if (msg->code || !msg->reply) {
        uint64_t id = whole->id;
        call_free(c, whole);
        out_fail(c, id, accel_error_from_grpc(msg->code ? msg->code : 13), "%s", msg->text);
        return;
    }
    whole_join(whole, msg->reply);
    whole->has_unended |= !msg->reply->ended;
    if (is_through(whole) || (whole->is_waiting && msg->reply->n_chunks))
        whole_answer(c, whole);
}

/* The attempt exists: to its node. */
static void log_forward(struct coord *c, uint64_t call_id, struct job *j, const struct attempt *a,
                        const Accel__V1__LogReadRequest *rq)
{
    char *name = a->share_count ? a->shares[0].node_name : (char *)"?";
    Accel__V1__LogReadReply missing;

    if (!attempt_had_process(a)) {
        log_nothing(c, call_id, a->number);
        return;
    }
    if (a->share_count > 1) {
        log_split(c, call_id, j, a, rq);
        return;
    }
    switch (whereabouts(c, name)) {
    case NODE_IS_COMING: log_wait_for_node(c, call_id, j, name, rq); return;
    case NODE_IS_AWAY:
    case NODE_IS_GONE:
        reply_missing(&c->out->arena, a, &missing);
        missing.missing_nodes[missing.n_missing_nodes++] = name;
        log_is_missing(c, call_id, j, a, name, rq->tell_missing ? &missing : NULL);
        return;
    case NODE_IS_HERE: break;
    }
    struct call *call = call_new(c, call_id, CALL_LOG);
    call_set_job(call, j);
    call_set_node(call, node_find(c, name));
    send_read(c, call, a->number, rq);
}

void call_log_read(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__LogReadRequest *rq = (const Accel__V1__LogReadRequest *)ev->msg;
    struct job *j = call_job(c, ev, rq->job_id);

    if (!j)
        return;
    const struct user *u = user_find(c, ev->who->user);
    if (u && u->log_reads >= LIMIT_LOG_READS_USER) {
        out_fail(c, ev->call, ACCEL_EFULL,
                 "%s has %u reads of output open\nwhy: that is the limit\ntry: end some accelctl"
                 " logs -f",
                 u->name, u->log_reads);
        return;
    }
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

/* A parked read goes on, in a step that may be of anybody. */
static void take_up(struct coord *c, struct call *call, struct job *j, const struct attempt *a,
                    const Accel__V1__LogReadRequest *rq)
{
    uint64_t id = call->id;

    c->for_user = call->user;
    call_free(c, call);
    if (a)
        log_forward(c, id, j, a, rq);
    else
        log_nothing(c, id, 0);
    c->for_user = NULL;
}

/* The job changed: reads parked for an attempt go on when it exists, or end when it never will. */
void logs_attempt_changed(struct coord *c, struct job *j)
{
    struct call *call, *next;

    for (call = LIST_FIRST(&j->calls); call; call = next) {
        next = LIST_NEXT(call, of_job);
        if (call->kind != CALL_LOG || call->node || call->is_split)
            continue;
        const Accel__V1__LogReadRequest *rq = call_request(c, call);
        const struct attempt *a = attempt_find(j, rq->attempt);
        if (log_is_early(j, a) && job_is_live(j))
            continue;
        take_up(c, call, j, a, rq);
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
    struct call *call =
        call_of(c, msg->id, CALL_TAG(msg->id) == CALL_TAG_PART ? CALL_LOG_PART : CALL_LOG);

    if (!call || call->node != n)
        return; /* cancelled meanwhile, or not asked of it */
    if (call->whole) {
        part_answer(c, call, msg);
        return;
    }
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
    orphan_heard(c, j);
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
    bool is_early = a && a->share_count > 1 && !a->shares[0].started;
    if (j->state == JOB_PENDING || is_early || !a->shares[0].node || !a->shares[0].node->session) {
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

    if (orphan_input_answer(c, n, msg))
        return;
    if (!call || call->node != n)
        return;
    uint64_t id = call->id;
    call_free(c, call);
    if (msg->code || !msg->reply)
        out_fail(c, id, accel_error_from_grpc(msg->code ? msg->code : 13), "%s", msg->text);
    else
        out_end(c, id, &msg->reply->base);
}

static void resume_parked(struct coord *c, struct call *call)
{
    const Accel__V1__LogReadRequest *rq = call_request(c, call);
    struct job *j = call->job;

    take_up(c, call, j, attempt_find(j, rq->attempt), rq);
}

/* Its acceld is back: reads that waited for it go on. */
void node_resume_parked(struct coord *c, struct node *n)
{
    struct call *call, *next;

    for (call = LIST_FIRST(&n->calls); call; call = next) {
        next = LIST_NEXT(call, of_node);
        if (call->is_missing)
            whole_answer_early(c, call->whole); /* of which this node has no other part */
        else if (call->request)
            resume_parked(c, call);
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
        call = call->whole ? call->whole : call;
        uint64_t id = call->id;
        call_free(c, call);
        out_fail(c, id, ACCEL_EUNAVAIL,
                 "node %s does not answer\nwhy: %s\ntry: again when it is back", n->name, why);
    }
}
