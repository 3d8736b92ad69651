/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coord_job_calls.c - what users ask of jobs: submit, list, get, watch, cancel, signal; and the
 * list of nodes. Retries of mutating calls get their first answer by request id. Rights are checked
 * here: a job's owner and operators.
 */
#include "scheduler/coord_internal.h"
#include "scheduler/coord_trust.h"

/* --- requests: first answers of mutating calls --- */

static struct request *request_find(const struct coord *c, const uint8_t *id)
{
    struct request *r = NULL;

    HASH_FIND(hh, c->requests, id, LIMIT_REQUEST_ID_BYTES, r);
    return r;
}

static struct request *request_new(struct coord *c, const uint8_t *id, const char *method,
                                   int64_t created_ms, const void *reply, size_t len)
{
    struct request *r = xcalloc(1, sizeof(*r));

    memcpy(r->id, id, sizeof(r->id));
    r->created_ms = created_ms;
    r->method = xstrdup(method);
    r->reply = xmemdup(reply, len ? len : 1);
    r->reply_len = len;
    HASH_ADD(hh, c->requests, id, sizeof(r->id), r);
    struct request *older = TAILQ_LAST(&c->requests_by_age, request_list);
    while (older && older->created_ms > created_ms) /* only while loading: rows come by id */
        older = TAILQ_PREV(older, request_list, by_age);
    if (older)
        TAILQ_INSERT_AFTER(&c->requests_by_age, older, r, by_age);
    else
        TAILQ_INSERT_HEAD(&c->requests_by_age, r, by_age);
    return r;
}

void request_load(struct coord *c, const struct record_request *rec)
{
    if (rec->id.len != LIMIT_REQUEST_ID_BYTES || request_find(c, rec->id.data))
        return;
    request_new(c, rec->id.data, rec->method, rec->created_ms,
                rec->reply.data ? rec->reply.data : "", rec->reply.len);
}

static void requests_expire(struct coord *c)
{
    struct request *r;
    int64_t wall_ms = history_age_wall_ms(c);

    while ((r = TAILQ_FIRST(&c->requests_by_age)) &&
           (wall_ms - r->created_ms > LIMIT_REQUEST_KEEP_MS ||
            HASH_CNT(hh, c->requests) > LIMIT_REQUESTS)) {
        struct record *rec = mark_loose(c, RECORD_REQUEST);
        rec->is_delete = true;
        rec->u.request.id.data = arena_dup(&c->loose_arena, r->id, sizeof(r->id));
        rec->u.request.id.len = sizeof(r->id);
        rec->u.request.method = "";
        TAILQ_REMOVE(&c->requests_by_age, r, by_age);
        HASH_DELETE(hh, c->requests, r);
        free(r->method);
        free(r->reply);
        free(r);
    }
}

void request_remember(struct coord *c, const uint8_t *id, const char *method, const void *reply,
                      size_t len)
{
    if (request_find(c, id))
        return;
    struct request *r = request_new(c, id, method, c->wall_ms, reply, len);
    struct record_request *rec = &mark_loose(c, RECORD_REQUEST)->u.request;
    rec->id = (struct record_blob){arena_dup(&c->loose_arena, r->id, sizeof(r->id)), sizeof(r->id)};
    rec->method = arena_strdup(&c->loose_arena, method);
    rec->created_ms = r->created_ms;
    rec->reply = (struct record_blob){arena_dup(&c->loose_arena, reply, len), len};
    requests_expire(c);
}

bool request_answered(struct coord *c, const struct coord_event *ev, ProtobufCBinaryData id,
                      const char *method)
{
    if (id.len != LIMIT_REQUEST_ID_BYTES) {
        out_fail(c, ev->call, ACCEL_EINVAL, "the request id must have %u bytes",
                 LIMIT_REQUEST_ID_BYTES);
        return true;
    }
    struct request *r = request_find(c, id.data);
    if (!r)
        return false;
    if (strcmp(r->method, method)) {
        out_fail(c, ev->call, ACCEL_EEXIST, "the request id was used for another method");
        return true;
    }
    struct coord_batch *b = c->out;
    out_end(c, ev->call, NULL);
    struct coord_output *o = &b->outputs[b->output_count - 1];
    o->data = arena_dup(&b->arena, r->reply, r->reply_len + (r->reply_len == 0));
    o->len = r->reply_len;
    return true;
}

void request_end(struct coord *c, const struct coord_event *ev, ProtobufCBinaryData id,
                 const char *method, const ProtobufCMessage *reply)
{
    out_end(c, ev->call, reply);
    const struct coord_output *o = &c->out->outputs[c->out->output_count - 1];
    CHECK(o->is_end && o->call == ev->call);
    request_remember(c, id.data, method, o->data, o->len);
}

/* --- rights --- */

bool job_is_of(const struct job *j, const struct rpc_identity *who)
{
    return who->role != RPC_ROLE_NODE && !strcmp(j->user->name, who->user);
}

bool job_may_control(const struct job *j, const struct rpc_identity *who)
{
    return who->role >= RPC_ROLE_OPERATOR || job_is_of(j, who);
}

struct job *call_job(struct coord *c, const struct coord_event *ev, uint64_t job_id)
{
    struct job *j = job_find(c, job_id);

    if (!j) {
        if (c->job_count == 0)
            out_fail(c, ev->call, ACCEL_ENOENT,
                     "no job %llu\nwhy: no job was ever submitted here, or all have left the"
                     " history",
                     (unsigned long long)job_id);
        else
            out_fail(c, ev->call, ACCEL_ENOENT,
                     "no job %llu\nwhy: the jobs known here are %llu to %llu\ntry: accelctl ps"
                     " -a",
                     (unsigned long long)job_id, (unsigned long long)c->jobs[0]->id,
                     (unsigned long long)c->jobs[c->job_count - 1]->id);
        return NULL;
    }
    if (!job_may_control(j, ev->who)) {
        trust_refuse(c, COORD_REFUSED_RIGHTS, "%s asked for job %llu of %s", trust_who(c, ev->who),
                     (unsigned long long)job_id, j->user->name);
        out_fail(c, ev->call, ACCEL_EPERM,
                 "job %llu belongs to %s\nwhy: only its owner and operators see what it runs, and"
                 " end it\ntry: ask its owner, or an admin for the role of an operator",
                 (unsigned long long)job_id, j->user->name);
        return NULL;
    }
    return j;
}

/* --- submit --- */

static int check_room(const struct coord *c, const struct job *j, struct accel_error *err)
{
    uint64_t limit = c->config.live_bytes ? c->config.live_bytes : LIMIT_LIVE_BYTES;

    if (c->live_bytes + j->spec_len <= limit)
        return 0;
    return error_set(err, ACCEL_EFULL,
                     "arguments and environments of the jobs that wait or run fill %llu MiB\nwhy: "
                     "that is the limit\ntry: again when some have ended; what is large belongs "
                     "into files",
                     (unsigned long long)(limit >> 20));
}

void call_submit(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__SubmitRequest *rq = (const Accel__V1__SubmitRequest *)ev->msg;
    Accel__V1__SubmitReply reply = ACCEL__V1__SUBMIT_REPLY__INIT;
    struct accel_error err = {0};
    struct job *j;
    int r;

    if (request_answered(c, ev, rq->request_id, "Submit"))
        return;
    j = idset_find(&c->by_request, rq->request_id.data);
    if (j && !job_may_control(j, ev->who)) {
        out_fail(c, ev->call, ACCEL_EEXIST, "the request id was used by another user");
        return;
    }
    if (j) {
        reply.job_id = j->id;
        out_end(c, ev->call, &reply.base);
        return;
    }
    r = rq->spec ? spec_validate(rq->spec, &err) : error_set(&err, ACCEL_EINVAL, "no job spec");
    if (r < 0) {
        out_fail(c, ev->call, r, "%s", err.text);
        return;
    }
    if (c->live_count >= LIMIT_LIVE_JOBS) {
        out_fail(c, ev->call, ACCEL_EFULL,
                 "%u jobs are waiting or running\nwhy: that is the limit\ntry: again when some "
                 "have ended",
                 c->live_count);
        return;
    }
    j = job_new(c, c->job_id_next++);
    j->user = user_intern(c, ev->who->uid, ev->who->user);
    j->gid = ev->who->gid;
    job_set_request(c, j, rq->request_id.data);
    c->live_count++;
    queue_add(c, j);
    spec_to_job(c, j, rq->spec);
    if (j->env)
        environment_ref(c, j->env, true);
    r = check_room(c, j, &err);
    if (r == 0)
        r = place_feasible(c, j, &err);
    if (r < 0) {
        c->job_id_next--;
        job_free(c, j);
        out_fail(c, ev->call, r, "%s", err.text);
        return;
    }
    c->live_bytes += j->spec_len;
    j->submit_ms = c->wall_ms;
    j->submit_seq = history_add(c, EVENT_JOB_SUBMITTED, j->id, 0, NULL, "%s", "");
    mark_job(c, j);
    if (j->kill_on_disconnect)
        orphan_wait(c, j);
    if (c->config.trace)
        trace_add(c->config.trace, c->now_ms, "coord", "job %llu submitted",
                  (unsigned long long)j->id);
    reply.job_id = j->id;
    out_end(c, ev->call, &reply.base);
}

/* --- reading --- */

static bool list_wants(const Accel__V1__ListRequest *rq, const struct coord_event *ev,
                       const struct job *j)
{
    if (!rq->all_users && !job_is_of(j, ev->who))
        return false;
    return rq->all_states || job_is_live(j);
}

/* True when the list is short enough to be gone through. */
static bool count_allowed(struct coord *c, const struct coord_event *ev, size_t count,
                          const char *what)
{
    if (count <= LIMIT_LIST_JOBS)
        return true;
    out_fail(c, ev->call, ACCEL_EFULL, "%zu %s in one request\nwhy: the limit is %u", count, what,
             LIMIT_LIST_JOBS);
    return false;
}

/* Of other people's jobs a list shows that they are there, not what they run. */
static Accel__V1__Job *view_listed(struct coord *c, const struct coord_event *ev,
                                   const struct job *j, struct place_why *why)
{
    const Accel__V1__ListRequest *rq = (const Accel__V1__ListRequest *)ev->msg;
    Accel__V1__Job *v = view_job_brief(c, j, why);

    if (!job_may_control(j, ev->who))
        v->command.len = 0;
    else if (rq->with_spec)
        view_spec(&c->out->arena, j, v, false);
    return v;
}

static void list_named(struct coord *c, const struct coord_event *ev,
                       const Accel__V1__ListRequest *rq)
{
    Accel__V1__ListReply reply = ACCEL__V1__LIST_REPLY__INIT;

    struct place_why why;

    place_why_init(&why, c, &c->out->arena);
    reply.jobs = ARENA_ARRAY(&c->out->arena, Accel__V1__Job *, rq->n_ids);
    for (size_t i = 0; i < rq->n_ids; i++) {
        const struct job *j = job_find(c, rq->ids[i]);
        if (j && (rq->all_users || job_is_of(j, ev->who)))
            reply.jobs[reply.n_jobs++] = view_listed(c, ev, j, &why);
    }
    out_end(c, ev->call, &reply.base);
}

void call_list(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__ListRequest *rq = (const Accel__V1__ListRequest *)ev->msg;
    Accel__V1__ListReply reply = ACCEL__V1__LIST_REPLY__INIT;
    size_t limit = rq->limit && rq->limit < LIMIT_LIST_JOBS ? rq->limit : LIMIT_LIST_JOBS;
    size_t i = rq->after_id ? job_lower_bound(c, rq->after_id + 1) : 0;
    struct place_why why;

    if (!count_allowed(c, ev, rq->n_ids, "job ids"))
        return;
    if (rq->n_ids) {
        list_named(c, ev, rq);
        return;
    }

    place_why_init(&why, c, &c->out->arena);
    reply.jobs = ARENA_ARRAY(&c->out->arena, Accel__V1__Job *, MIN(limit, c->job_count - i) + 1);
    for (; i < c->job_count; i++) {
        if (!list_wants(rq, ev, c->jobs[i]))
            continue;
        if (reply.n_jobs == limit) {
            reply.more = true;
            break;
        }
        reply.jobs[reply.n_jobs++] = view_listed(c, ev, c->jobs[i], &why);
    }
    out_end(c, ev->call, &reply.base);
}

void call_get(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__GetRequest *rq = (const Accel__V1__GetRequest *)ev->msg;
    Accel__V1__GetReply reply = ACCEL__V1__GET_REPLY__INIT;
    struct job *j = call_job(c, ev, rq->job_id);

    if (!j)
        return;
    reply.job = view_job(c, j, true);
    out_end(c, ev->call, &reply.base);
}

/* Every change reaches every watcher; the one in which the job has ended is the last. */
void job_changed(struct coord *c, struct job *j)
{
    struct call *call, *next;

    logs_attempt_changed(c, j);
    for (call = LIST_FIRST(&j->calls); call; call = next) {
        next = LIST_NEXT(call, of_job);
        if (call->kind != CALL_WATCH)
            continue;
        Accel__V1__WatchReply reply = ACCEL__V1__WATCH_REPLY__INIT;
        reply.job = view_job(c, j, false);
        if (job_is_live(j)) {
            out_send(c, call->id, &reply.base);
        } else {
            out_end(c, call->id, &reply.base);
            call_free(c, call);
        }
    }
}

void call_watch(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__WatchRequest *rq = (const Accel__V1__WatchRequest *)ev->msg;
    Accel__V1__WatchReply reply = ACCEL__V1__WATCH_REPLY__INIT;
    struct job *j = call_job(c, ev, rq->job_id);

    if (!j)
        return;
    reply.job = view_job(c, j, false);
    if (!job_is_live(j)) {
        out_end(c, ev->call, &reply.base);
        return;
    }
    out_send(c, ev->call, &reply.base);
    struct call *call = call_new(c, ev->call, CALL_WATCH);
    call->job = j;
    call->is_owner = rq->owner;
    LIST_INSERT_HEAD(&j->calls, call, of_job);
    if (call->is_owner)
        orphan_forget(c, j);
}

void call_nodes(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__NodesRequest *rq = (const Accel__V1__NodesRequest *)ev->msg;
    Accel__V1__NodesReply reply = ACCEL__V1__NODES_REPLY__INIT;

    if (rq->n_names > coord_nodes_known(c)) { /* one of them is unknown, or named twice */
        out_fail(c, ev->call, ACCEL_EINVAL,
                 "%zu names, but %u nodes are known\ntry: accelctl nodes", rq->n_names,
                 coord_nodes_known(c));
        return;
    }

    reply.nodes =
        ARENA_ARRAY(&c->out->arena, Accel__V1__Node *, coord_nodes_known(c) + rq->n_names + 1);
    for (size_t i = 0; i < rq->n_names; i++) {
        const struct node *n = node_find(c, rq->names[i]);
        if (!n) {
            out_fail(c, ev->call, ACCEL_ENOENT, "no node %.80s\ntry: accelctl nodes", rq->names[i]);
            return;
        }
        reply.nodes[reply.n_nodes++] = view_node(c, n);
    }
    if (rq->n_names == 0)
        for (const struct node *n = c->nodes; n; n = n->hh.next)
            reply.nodes[reply.n_nodes++] = view_node(c, n);
    out_end(c, ev->call, &reply.base);
}

/* --- cancel and signal --- */

static void cancel_one(struct coord *c, const struct coord_event *ev, uint64_t id, bool kill,
                       Accel__V1__CancelReply__One *one)
{
    struct arena *a = &c->out->arena;
    struct job *j = job_find(c, id);
    struct job_event_data data = {.kill = kill};

    accel__v1__cancel_reply__one__init(one);
    one->job_id = id;
    if (!j)
        one->error = arena_printf(a, "no job %llu", (unsigned long long)id);
    else if (!job_may_control(j, ev->who)) {
        trust_refuse(c, COORD_REFUSED_RIGHTS, "%s asked to cancel job %llu of %s",
                     trust_who(c, ev->who), (unsigned long long)id, j->user->name);
        one->error =
            arena_printf(a, "job %llu belongs to %s", (unsigned long long)id, j->user->name);
    } else if (!job_is_live(j))
        one->error = arena_printf(a, "job %llu has ended", (unsigned long long)id);
    else
        job_apply(c, j, JOB_EV_CANCEL, &data);
}

static bool cancel_wants(const struct coord_event *ev, const Accel__V1__CancelRequest *rq,
                         const struct job *j)
{
    if (!job_is_live(j) || !job_is_of(j, ev->who))
        return false;
    return !rq->only_pending || j->state == JOB_PENDING;
}

void call_cancel(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__CancelRequest *rq = (const Accel__V1__CancelRequest *)ev->msg;
    Accel__V1__CancelReply reply = ACCEL__V1__CANCEL_REPLY__INIT;
    struct arena *a = &c->out->arena;

    if (request_answered(c, ev, rq->request_id, "Cancel") ||
        !count_allowed(c, ev, rq->n_job_ids, "job ids"))
        return;
    reply.jobs = ARENA_ARRAY(a, Accel__V1__CancelReply__One *,
                             rq->n_job_ids + (rq->all_mine ? c->job_count : 0) + 1);
    for (size_t i = 0; i < rq->n_job_ids; i++) {
        reply.jobs[reply.n_jobs] = ARENA_NEW(a, Accel__V1__CancelReply__One);
        cancel_one(c, ev, rq->job_ids[i], rq->kill, reply.jobs[reply.n_jobs++]);
    }
    for (size_t i = 0; rq->all_mine && i < c->job_count; i++) {
        if (!cancel_wants(ev, rq, c->jobs[i]))
            continue;
        reply.jobs[reply.n_jobs] = ARENA_NEW(a, Accel__V1__CancelReply__One);
        cancel_one(c, ev, c->jobs[i]->id, rq->kill, reply.jobs[reply.n_jobs++]);
    }
    request_end(c, ev, rq->request_id, "Cancel", &reply.base);
}

void call_signal(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__SignalRequest *rq = (const Accel__V1__SignalRequest *)ev->msg;
    Accel__V1__SignalReply reply = ACCEL__V1__SIGNAL_REPLY__INIT;
    Accel__V1__SignalRanks ranks = ACCEL__V1__SIGNAL_RANKS__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
    struct job *j = call_job(c, ev, rq->job_id);

    if (!j)
        return;
    if (rq->signo < 1 || rq->signo > 64) {
        out_fail(c, ev->call, ACCEL_EINVAL, "signal %d does not exist", rq->signo);
        return;
    }
    if (j->state == JOB_PENDING || j->state == JOB_ENDED) {
        out_fail(c, ev->call, ACCEL_ESTATE, "job %llu is %s: it has no process",
                 (unsigned long long)j->id, job_state_name(j->state));
        return;
    }
    struct attempt *at = attempt_find(j, 0);
    at->was_interrupted |= rq->signo == 2; /* SIGINT */
    ref.job_id = j->id;
    ref.attempt = at->number;
    ref.era = c->era;
    ranks.ref = &ref;
    ranks.signo = rq->signo;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_SIGNAL;
    down.signal = &ranks;
    for (size_t i = 0; i < at->share_count; i++)
        if (at->shares[i].node && !at->shares[i].ended)
            node_send(c, at->shares[i].node, &down);
    out_end(c, ev->call, &reply.base);
}
