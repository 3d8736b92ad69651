/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Users: what they want of the coordinator, asked again with the same request id until it is
 * answered. Neighbour: world_books.c, which hears every answer. A user never looks into the
 * coordinator.
 */
#include <stdio.h>
#include <string.h>

#include "tests/lib/world.h"

static void op_begin(void *ctx);

static const char *const methods[] = {
    [OP_SUBMIT] = "/accel.v1.Jobs/Submit", [OP_WATCH] = "/accel.v1.Jobs/Watch",
    [OP_CANCEL] = "/accel.v1.Jobs/Cancel", [OP_LIST] = "/accel.v1.Jobs/List",
    [OP_GET] = "/accel.v1.Jobs/Get",       [OP_NODES] = "/accel.v1.Nodes/List",
    [OP_EVENTS] = "/accel.v1.Events/Watch"};

static const char *const state_names[] = {"UNKNOWN",  "PENDING", "STARTING", "RUNNING",
                                          "STOPPING", "HELD",    "ENDED"};
static const char *const result_names[] = {"NONE",      "SUCCEEDED", "FAILED",
                                           "CANCELLED", "TIMED_OUT", "LOST"};

static void op_later(struct world_op *op, int64_t delay_ms)
{
    world_timer_set(op->client->world, &op->timer, delay_ms, op_begin, op);
}

static void op_again(struct world_op *op)
{
    struct world *w = op->client->world;
    op->tries++;
    op_later(op, world_draw(w, w->config.retry));
}

static void draw_request_id(struct world *w, uint8_t *id)
{
    for (size_t i = 0; i < LIMIT_REQUEST_ID_BYTES; i++)
        id[i] = (uint8_t)prng_below(&w->prng, 256);
}

/* --- answers --- */

static void on_submitted(struct world_op *op, const Accel__V1__SubmitReply *m)
{
    struct world *w = op->client->world;
    struct world_job *job = op->job;
    bool is_first = job->id == 0;
    books_reply_submit(w, job, m->job_id);
    job->id = m->job_id;
    world_say(w, op->client->name, "%s is job %llu", job->name, (unsigned long long)job->id);
    if (!is_first)
        return;
    if (job->is_watched)
        client_do(op->client, OP_WATCH, job, 0)->is_owner = job->is_owner;
    if (job->cancel_after_ms)
        client_do(op->client, OP_CANCEL, job, job->cancel_after_ms)->is_kill = job->cancel_kill;
}

static void say_job(struct world_op *op, const Accel__V1__Job *j)
{
    struct world *w = op->client->world;
    if (j->state == ACCEL__V1__JOB_STATE__JOB_ENDED)
        world_say(w, op->client->name, "sees job %llu ENDED %s, exit %d: %s",
                  (unsigned long long)j->id, result_names[j->result], j->exit_code, j->reason);
    else
        world_say(w, op->client->name, "sees job %llu %s, attempt %u%s%s",
                  (unsigned long long)j->id, state_names[j->state], j->attempt,
                  j->reason[0] ? ": " : "", j->reason);
}

static void on_watched(struct world_op *op, const Accel__V1__WatchReply *m)
{
    struct world *w = op->client->world;
    WORLD_CHECK(w, m->job && m->job->id == op->job->id, "another job");
    WORLD_CHECK(w, !op->told_end, "%s is told of an end twice", op->client->name);
    op->told_end = m->job->state == ACCEL__V1__JOB_STATE__JOB_ENDED;
    say_job(op, m->job);
    books_told_job(w, m->job);
    if (w->is_ending && op->job->plan.run_ms < 0 && !op->job->is_cancelled &&
        m->job->state == ACCEL__V1__JOB_STATE__JOB_RUNNING) {
        op->job->is_cancelled = true;
        client_do(op->client, OP_CANCEL, op->job, 0);
    }
}

static void on_cancelled(struct world_op *op, const Accel__V1__CancelReply *m)
{
    struct world *w = op->client->world;
    WORLD_CHECK(w, m->n_jobs == 1 && m->jobs[0]->job_id == op->job->id, "another job");
    bool is_accepted = m->jobs[0]->error[0] == 0;
    world_say(w, op->client->name, "cancel of job %llu: %s", (unsigned long long)op->job->id,
              is_accepted ? "accepted" : m->jobs[0]->error);
    books_reply_cancel(w, op->job->id, is_accepted);
}

/* What this client was told of before is there, or has left the history. */
static void on_listed(struct world_op *op, const Accel__V1__ListReply *m)
{
    struct world *w = op->client->world;
    for (size_t i = 0; i < m->n_jobs; i++)
        books_told_job(w, m->jobs[i]);
    for (size_t i = 0; i < w->job_count; i++) {
        const struct world_job *job = &w->jobs[i];
        bool found = false;
        if (job->client != op->client || job->id == 0 || book_of(w, job->id)->is_deleted)
            continue;
        for (size_t k = 0; k < m->n_jobs; k++)
            found |= m->jobs[k]->id == job->id;
        WORLD_CHECK(w, found, "job %llu is not listed", (unsigned long long)job->id);
    }
}

static void on_nodes(struct world_op *op, const Accel__V1__NodesReply *m)
{
    struct world *w = op->client->world;
    for (size_t i = 0; i < m->n_nodes && w->is_healed; i++) {
        const Accel__V1__Node *n = m->nodes[i];
        WORLD_CHECK(w, n->n_uses == 0, "%s: %s is held", n->name, n->uses[0]->device);
        WORLD_CHECK(w, strcmp(n->state, "READY") == 0, "%s is %s", n->name, n->state);
    }
    WORLD_CHECK(w, !w->is_healed || m->n_nodes == w->config.node_count, "%zu nodes", m->n_nodes);
}

static void on_events(struct world_op *op, const Accel__V1__EventsReply *m)
{
    struct world *w = op->client->world;
    for (size_t i = 0; i < m->n_events; i++) {
        const Accel__V1__Event *e = m->events[i];
        WORLD_CHECK(w, e->seq > op->after_seq, "event %llu after %llu", (unsigned long long)e->seq,
                    (unsigned long long)op->after_seq);
        op->after_seq = e->seq;
        if (strcmp(e->kind, "job.ended") == 0)
            book_of(w, e->job_id)->ended_events++;
        if (strcmp(e->kind, "job.submitted") == 0)
            book_of(w, e->job_id)->submitted_events++;
    }
}

static void on_message(void *ctx, const ProtobufCMessage *msg)
{
    struct world_op *op = ctx;
    switch (op->kind) {
    case OP_SUBMIT: on_submitted(op, (const Accel__V1__SubmitReply *)msg); break;
    case OP_WATCH: on_watched(op, (const Accel__V1__WatchReply *)msg); break;
    case OP_CANCEL: on_cancelled(op, (const Accel__V1__CancelReply *)msg); break;
    case OP_LIST: on_listed(op, (const Accel__V1__ListReply *)msg); break;
    case OP_GET: books_told_job(op->client->world, ((const Accel__V1__GetReply *)msg)->job); break;
    case OP_NODES: on_nodes(op, (const Accel__V1__NodesReply *)msg); break;
    case OP_EVENTS: on_events(op, (const Accel__V1__EventsReply *)msg); break;
    }
}

static void on_end(void *ctx, int code, const char *text)
{
    struct world_op *op = ctx;
    struct world *w = op->client->world;
    op->call = NULL;
    /* The other nodes have not said Hello for the first time yet. */
    bool is_early = op->kind == OP_SUBMIT && op->job->nodes > 1 && code == ACCEL_EINVAL;
    if (code == ACCEL_ECLOSED || code == ACCEL_EUNAVAIL || is_early) {
        op_again(op);
        return;
    }
    bool is_pruned = code == ACCEL_ENOENT && op->job && book_of(w, op->job->id)->is_deleted;
    WORLD_CHECK(w, code == 0 || is_pruned, "%s %s: %s: %s", op->client->name, methods[op->kind],
                accel_error_name(code), text);
    if (op->kind == OP_WATCH)
        WORLD_CHECK(w, op->told_end || is_pruned, "a watch of job %llu ends before the job",
                    (unsigned long long)op->job->id);
    WORLD_CHECK(w, op->kind != OP_EVENTS, "a follower of events is told to go");
    op->is_done = true;
}

static const struct rpc_call_handlers handlers = {on_message, on_end};

/* --- questions --- */

static void fill_spec(const struct world_job *job, Accel__V1__JobSpec *spec,
                      ProtobufCBinaryData argv[2], char *plan, size_t plan_size)
{
    static ProtobufCBinaryData env[] = {{6, (uint8_t *)"HOME=/"}, {8, (uint8_t *)"PATH=bin"}};
    plan_format(&job->plan, plan, plan_size);
    argv[0] = (ProtobufCBinaryData){8, (uint8_t *)"/bin/job"};
    argv[1] = (ProtobufCBinaryData){strlen(plan), (uint8_t *)plan};
    spec->name = (char *)job->name;
    spec->n_argv = 2;
    spec->argv = argv;
    spec->n_env = ARRAY_LEN(env);
    spec->env = env;
    spec->cwd = (ProtobufCBinaryData){1, (uint8_t *)"/"};
    spec->nodes = job->nodes;
    spec->procs_per_node = job->procs;
    spec->n_nodelist = job->nodelist != NULL;
    spec->nodelist = (char **)&job->nodelist;
    spec->gpus_per_node = job->gpus;
    spec->device_kind = job->device_kind;
    spec->max_restarts = job->max_restarts;
    spec->time_limit_ms = job->time_limit_ms;
    spec->stop_grace_ms = job->stop_grace_ms;
    spec->kill_on_disconnect = job->kill_on_disconnect;
}

static struct rpc_call *start_call(struct world_op *op, const ProtobufCMessage *msg,
                                   const ProtobufCMessageDescriptor *response)
{
    return rpc_channel_call(op->client->channel, methods[op->kind], msg, response, &handlers, op);
}

static struct rpc_call *call_submit_op(struct world_op *op)
{
    Accel__V1__SubmitRequest m = ACCEL__V1__SUBMIT_REQUEST__INIT;
    Accel__V1__JobSpec spec = ACCEL__V1__JOB_SPEC__INIT;
    ProtobufCBinaryData argv[2];
    char plan[128];
    fill_spec(op->job, &spec, argv, plan, sizeof(plan));
    m.request_id = (ProtobufCBinaryData){LIMIT_REQUEST_ID_BYTES, op->job->request_id};
    m.spec = &spec;
    world_say(op->client->world, op->client->name, "submits %s%s", op->job->name,
              op->tries ? " again" : "");
    return start_call(op, &m.base, &accel__v1__submit_reply__descriptor);
}

static struct rpc_call *call_cancel_op(struct world_op *op)
{
    Accel__V1__CancelRequest m = ACCEL__V1__CANCEL_REQUEST__INIT;
    m.request_id = (ProtobufCBinaryData){LIMIT_REQUEST_ID_BYTES, op->request_id};
    m.n_job_ids = 1;
    m.job_ids = &op->job->id;
    m.kill = op->is_kill;
    world_say(op->client->world, op->client->name, "cancels job %llu%s%s",
              (unsigned long long)op->job->id, op->is_kill ? " without grace" : "",
              op->tries ? " again" : "");
    return start_call(op, &m.base, &accel__v1__cancel_reply__descriptor);
}

static struct rpc_call *call_op(struct world_op *op)
{
    Accel__V1__WatchRequest watch = ACCEL__V1__WATCH_REQUEST__INIT;
    Accel__V1__ListRequest list = ACCEL__V1__LIST_REQUEST__INIT;
    Accel__V1__GetRequest get = ACCEL__V1__GET_REQUEST__INIT;
    Accel__V1__NodesRequest nodes = ACCEL__V1__NODES_REQUEST__INIT;
    Accel__V1__EventsRequest events = ACCEL__V1__EVENTS_REQUEST__INIT;
    switch (op->kind) {
    case OP_SUBMIT: return call_submit_op(op);
    case OP_CANCEL: return call_cancel_op(op);
    case OP_WATCH:
        watch.job_id = op->job->id;
        watch.owner = op->is_owner;
        return start_call(op, &watch.base, &accel__v1__watch_reply__descriptor);
    case OP_LIST:
        list.all_states = list.all_users = true;
        return start_call(op, &list.base, &accel__v1__list_reply__descriptor);
    case OP_GET:
        get.job_id = op->job->id;
        return start_call(op, &get.base, &accel__v1__get_reply__descriptor);
    case OP_NODES: return start_call(op, &nodes.base, &accel__v1__nodes_reply__descriptor);
    case OP_EVENTS:
        events.follow = true;
        events.after_seq = op->after_seq;
        return start_call(op, &events.base, &accel__v1__events_reply__descriptor);
    }
    CHECK(!"a known kind");
}

/* --- connections --- */

static void on_lost(void *ctx)
{
    struct world_client *c = ctx;
    rpc_channel_close(c->channel, NULL, NULL);
    c->channel = NULL;
}

static void op_begin(void *ctx)
{
    struct world_op *op = ctx;
    struct world_client *c = op->client;
    CHECK(!op->call && !op->is_done);
    if (op->job && op->job->id == 0 && op->kind != OP_SUBMIT) {
        op_again(op);
        return;
    }
    if (!c->channel &&
        rpc_sim_connect(c->world->sim, "coordinator", &c->who, on_lost, c, &c->channel) < 0) {
        c->channel = NULL;
        op_again(op);
        return;
    }
    op->call = call_op(op);
}

struct world_op *client_do(struct world_client *c, enum world_op_kind kind, struct world_job *job,
                           int64_t delay_ms)
{
    struct world_op *op = xcalloc(1, sizeof(*op));
    op->client = c;
    op->kind = kind;
    op->job = job;
    draw_request_id(c->world, op->request_id);
    TAILQ_INSERT_TAIL(&c->world->ops, op, link);
    op_later(op, delay_ms);
    return op;
}

struct world_job *client_submit(struct world_client *c, const struct world_job *want,
                                int64_t delay_ms)
{
    struct world *w = c->world;
    CHECK(w->job_count < WORLD_JOBS);
    struct world_job *job = &w->jobs[w->job_count];
    *job = *want;
    job->client = c;
    snprintf(job->name, sizeof(job->name), "%c%zu", 'a' + (int)(c - w->clients), w->job_count);
    draw_request_id(w, job->request_id);
    w->job_count++;
    client_do(c, OP_SUBMIT, job, delay_ms);
    return job;
}

void client_cut(struct world_client *c)
{
    if (!c->channel)
        return;
    world_say(c->world, c->name, "connection cut");
    rpc_sim_cut(c->world->sim, c->channel, true);
}

void client_kill(struct world_client *c)
{
    struct world_op *op;
    if (!c->channel)
        return;
    world_say(c->world, c->name, "kill -9");
    rpc_sim_kill_channel(c->world->sim, c->channel);
    c->channel = NULL;
    TAILQ_FOREACH(op, &c->world->ops, link)
    {
        if (op->client != c || !op->call)
            continue;
        op->call = NULL;
        op_again(op);
    }
}

void client_leave(struct world_client *c)
{
    struct world_op *op;
    world_say(c->world, c->name, "kill -9, for good");
    if (c->channel)
        rpc_sim_kill_channel(c->world->sim, c->channel);
    c->channel = NULL;
    TAILQ_FOREACH(op, &c->world->ops, link)
    {
        if (op->client != c)
            continue;
        world_timer_clear(c->world, &op->timer);
        op->call = NULL;
        op->is_done = true;
    }
}

bool ops_are_done(struct world *w)
{
    const struct world_op *op;
    TAILQ_FOREACH(op, &w->ops, link)
    {
        if (!op->is_done && op->kind != OP_EVENTS)
            return false;
    }
    return true;
}

void clients_init(struct world *w)
{
    for (uint32_t i = 0; i < w->config.client_count; i++) {
        struct world_client *c = &w->clients[i];
        c->world = w;
        snprintf(c->name, sizeof(c->name), "user%u", i);
        c->who = (struct rpc_identity){.role = i ? RPC_ROLE_USER : RPC_ROLE_OPERATOR,
                                       .uid = 1000 + i,
                                       .gid = 1000 + i,
                                       .is_local = true};
        snprintf(c->who.user, sizeof(c->who.user), "user%u", i);
    }
}

void clients_done(struct world *w)
{
    struct world_op *op;
    for (uint32_t i = 0; i < w->config.client_count; i++) {
        if (w->clients[i].channel)
            rpc_sim_kill_channel(w->sim, w->clients[i].channel);
        w->clients[i].channel = NULL;
    }
    while ((op = TAILQ_FIRST(&w->ops))) {
        world_timer_clear(w, &op->timer);
        TAILQ_REMOVE(&w->ops, op, link);
        free(op);
    }
}
