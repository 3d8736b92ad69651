/* SPDX-License-Identifier: Apache-2.0 */
/*
 * history.c - the numbered events: a ring in memory that mirrors what the store keeps, the streams
 * that follow it, and the pruning of ended jobs by count and age. Derived events (those of a job's
 * plain life) cost no row of their own: their numbers and times are columns of jobs and attempts.
 * No I/O.
 */
#include "scheduler/coord_internal.h"

static const char *const kind_names[EVENT_KIND_COUNT] = {
    [EVENT_JOB_SUBMITTED] = "job.submitted",
    [EVENT_ATTEMPT_STARTED] = "attempt.started",
    [EVENT_ATTEMPT_RUNNING] = "attempt.running",
    [EVENT_ATTEMPT_ENDED] = "attempt.ended",
    [EVENT_JOB_ENDED] = "job.ended",
    [EVENT_JOB_STOPPING] = "job.stopping",
    [EVENT_NODE_READY] = "node.ready",
    [EVENT_NODE_SUSPECT] = "node.suspect",
    [EVENT_NODE_LOST] = "node.lost",
    [EVENT_STORE] = "coordinator.started",
    [EVENT_ROLLED_BACK] = "coordinator.rolled_back",
    [EVENT_NODE_ENROLLED] = "node.enrolled",
    [EVENT_NODE_REMOVED] = "node.removed",
    [EVENT_USER] = "user.changed",
    [EVENT_REFUSED] = "refused",
    [EVENT_DEVICE_FAULT] = "device.fault",
    [EVENT_DEVICE] = "device.changed",
};

static struct history_event *ring_at(const struct coord *c, size_t i)
{
    return &c->events[(c->event_first + i) % LIMIT_EVENTS];
}

static void event_done(struct history_event *e)
{
    free(e->node);
    free(e->text);
    *e = (struct history_event){0};
}

static void ring_drop_oldest(struct coord *c)
{
    struct history_event *e = ring_at(c, 0);

    if (e->kind >= EVENT_DERIVED_COUNT && !c->is_closing) {
        struct record *r = mark_loose(c, RECORD_EVENT);
        r->is_delete = true;
        r->u.event.seq = e->seq;
        r->u.event.kind = r->u.event.node = r->u.event.text = "";
    }
    event_done(e);
    c->event_first = (c->event_first + 1) % LIMIT_EVENTS;
    c->event_count--;
}

static struct history_event *ring_add(struct coord *c)
{
    if (c->event_count == LIMIT_EVENTS)
        ring_drop_oldest(c);
    struct history_event *e = ring_at(c, c->event_count++);
    *e = (struct history_event){0};
    return e;
}

static bool event_matches(const struct call *call, const struct history_event *e)
{
    if (call->filter_job && call->filter_job != e->job_id)
        return false;
    if (call->filter_node[0] && (!e->node || strcmp(call->filter_node, e->node)))
        return false;
    return true;
}

/* Of other people's jobs somebody who is no operator learns that something happened, as from a
 * list, not what. */
static bool may_follow(struct coord *c, const struct call *call, const struct history_event *e)
{
    const struct job *j = e->job_id ? job_find(c, e->job_id) : NULL;

    if (!call->only_user)
        return true;
    return e->kind != EVENT_USER && e->kind != EVENT_REFUSED &&
           (!j || strcmp(j->user->name, call->only_user) == 0);
}

static void tell_followers(struct coord *c, const struct history_event *e)
{
    const struct call *call;
    Accel__V1__EventsReply reply = ACCEL__V1__EVENTS_REPLY__INIT;
    Accel__V1__EventsReply nothing = ACCEL__V1__EVENTS_REPLY__INIT;

    if (LIST_EMPTY(&c->event_calls) || !c->out)
        return;
    Accel__V1__Event *view = view_event(c, e);
    reply.events = &view;
    reply.n_events = 1;
    LIST_FOREACH(call, &c->event_calls, of_events)
    {
        if (event_matches(call, e))
            out_send(c, call->id, may_follow(c, call, e) ? &reply.base : &nothing.base);
    }
}

uint64_t history_add(struct coord *c, enum event_kind kind, uint64_t job_id, uint32_t attempt,
                     const char *node, const char *fmt, ...)
{
    char text[LIMIT_REASON_BYTES];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    make_utf8(text);
    struct history_event *e = ring_add(c);
    e->seq = c->seq_next++;
    e->time_ms = c->wall_ms;
    e->kind = (uint8_t)kind;
    e->job_id = job_id;
    e->attempt = attempt;
    job_set_text(&e->node, node);
    job_set_text(&e->text, text);
    if (kind >= EVENT_DERIVED_COUNT) {
        struct record *r = mark_loose(c, RECORD_EVENT);
        r->u.event = (struct record_event){
            .seq = e->seq,
            .time_ms = e->time_ms,
            .kind = kind_names[kind],
            .job_id = job_id,
            .attempt = attempt,
            .node = arena_strdup(&c->loose_arena, node),
            .text = arena_strdup(&c->loose_arena, text),
        };
    }
    tell_followers(c, e);
    return e->seq;
}

/* --- load: rows come table by table, so the ring is filled unordered and sorted once --- */

void history_load(struct coord *c, const struct record_event *ev)
{
    uint8_t kind = EVENT_STORE;

    for (uint8_t k = 0; k < EVENT_KIND_COUNT; k++)
        if (!strcmp(kind_names[k], ev->kind))
            kind = k;
    c->loaded = xrealloc(c->loaded, (c->loaded_count + 1) * sizeof(*c->loaded));
    struct history_event *e = &c->loaded[c->loaded_count++];
    *e = (struct history_event){.seq = ev->seq,
                                .time_ms = ev->time_ms,
                                .kind = kind,
                                .attempt = ev->attempt,
                                .job_id = ev->job_id};
    job_set_text(&e->node, ev->node);
    job_set_text(&e->text, ev->text);
}

void history_load_derived(struct coord *c, enum event_kind kind, uint64_t seq, int64_t time_ms,
                          uint64_t job_id, uint32_t attempt)
{
    if (seq == 0)
        return;
    c->loaded = xrealloc(c->loaded, (c->loaded_count + 1) * sizeof(*c->loaded));
    c->loaded[c->loaded_count++] = (struct history_event){.seq = seq,
                                                          .time_ms = time_ms,
                                                          .kind = (uint8_t)kind,
                                                          .attempt = attempt,
                                                          .job_id = job_id};
}

static int compare_seq(const void *a, const void *b)
{
    const struct history_event *x = a, *y = b;

    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

void history_settle(struct coord *c)
{
    if (c->loaded_count)
        qsort(c->loaded, c->loaded_count, sizeof(*c->loaded), compare_seq);
    for (size_t i = 0; i < c->loaded_count; i++)
        *ring_add(c) = c->loaded[i];
    free(c->loaded);
    c->loaded = NULL;
    c->loaded_count = 0;
}

void coord_set_history(struct coord *c, uint32_t jobs, int64_t ms)
{
    c->config.history_jobs = jobs;
    c->config.history_ms = ms;
    c->needs_pruning = true;
}

void history_done(struct coord *c)
{
    while (c->event_count)
        ring_drop_oldest(c);
    free(c->events);
    c->events = NULL;
}

/* --- what people see --- */

#define NODES_NAMED_MAX 4u /* in one line of the history; of more, how many */

static const char *nodes_text(struct arena *a, const struct attempt *at)
{
    const char *text = at->share_count ? at->shares[0].node_name : "?";

    if (at->share_count > NODES_NAMED_MAX)
        return arena_printf(a, "%s and %zu other nodes", text, at->share_count - 1);
    for (size_t i = 1; i < at->share_count; i++)
        text = arena_printf(a, "%s, %s", text, at->shares[i].node_name);
    return text;
}

static const char *derived_text(struct coord *c, const struct history_event *e)
{
    struct arena *a = &c->out->arena;
    const struct job *j = job_find(c, e->job_id);
    const struct attempt *at = j ? attempt_find(j, e->attempt) : NULL;

    if (!j)
        return "";
    switch (e->kind) {
    case EVENT_JOB_SUBMITTED: return arena_printf(a, "%s submitted %s", j->user->name, job_name(j));
    case EVENT_ATTEMPT_STARTED:
        if (!e->attempt || !at)
            return "";
        return arena_printf(a, "attempt %u is starting %u process%s on %s", e->attempt,
                            at->world_size, at->world_size == 1 ? "" : "es", nodes_text(a, at));
    case EVENT_ATTEMPT_RUNNING: return arena_printf(a, "attempt %u: every rank runs", e->attempt);
    case EVENT_ATTEMPT_ENDED:
        if (!e->attempt || !at)
            return "";
        return arena_printf(a, "attempt %u ended, %s: %s", e->attempt, cause_name(at->cause),
                            at->text ? at->text : "");
    case EVENT_JOB_ENDED: return arena_printf(a, "%s", j->run->reason ? j->run->reason : "");
    default: return "";
    }
}

Accel__V1__Event *view_event(struct coord *c, const struct history_event *e)
{
    struct arena *a = &c->out->arena;
    Accel__V1__Event *v = ARENA_NEW(a, Accel__V1__Event);

    accel__v1__event__init(v);
    v->seq = e->seq;
    v->time_ms = e->time_ms;
    v->kind = (char *)kind_names[e->kind];
    v->job_id = e->job_id;
    v->attempt = e->attempt;
    v->node = arena_strdup(a, e->node);
    v->text = e->kind < EVENT_DERIVED_COUNT ? (char *)derived_text(c, e) : arena_strdup(a, e->text);
    return v;
}

static bool may_see_event(struct coord *c, const struct rpc_identity *who,
                          const struct history_event *e)
{
    const struct job *j = e->job_id ? job_find(c, e->job_id) : NULL;

    if (e->kind == EVENT_USER || e->kind == EVENT_REFUSED)
        return who->role >= RPC_ROLE_OPERATOR;
    return !j || job_may_control(j, who);
}

void call_events(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__EventsRequest *rq = (const Accel__V1__EventsRequest *)ev->msg;
    Accel__V1__EventsReply reply = ACCEL__V1__EVENTS_REPLY__INIT;
    struct call filter = {.filter_job = rq->job_id};
    size_t count = 0, first;

    str_copy(filter.filter_node, sizeof(filter.filter_node), rq->node);
    if (rq->job_id && !call_job(c, ev, rq->job_id))
        return;
    reply.events = ARENA_ARRAY(&c->out->arena, Accel__V1__Event *, c->event_count + 1);
    reply.oldest_kept = c->event_count ? ring_at(c, 0)->seq : c->seq_next;
    for (size_t i = 0; i < c->event_count; i++) {
        const struct history_event *e = ring_at(c, i);
        if (e->seq <= rq->after_seq || !event_matches(&filter, e) || !may_see_event(c, ev->who, e))
            continue;
        reply.events[count++] =
            (Accel__V1__Event *)(uintptr_t)(i + 1); /* index for now: only those shown are built */
    }
    first = rq->limit && count > rq->limit ? count - rq->limit : 0;
    for (size_t i = first; i < count; i++)
        reply.events[i] = view_event(c, ring_at(c, (size_t)(uintptr_t)reply.events[i] - 1));
    reply.events += first;
    reply.n_events = count - first;
    if (!rq->follow) {
        out_end(c, ev->call, &reply.base);
        return;
    }
    out_send(c, ev->call, &reply.base);
    struct call *call = call_new(c, ev->call, CALL_EVENTS);
    call->filter_job = filter.filter_job;
    call->only_user = ev->who->role < RPC_ROLE_OPERATOR ? xstrdup(ev->who->user) : NULL;
    memcpy(call->filter_node, filter.filter_node, sizeof(call->filter_node));
    LIST_INSERT_HEAD(&c->event_calls, call, of_events);
}

/* --- pruning --- */

static void forget_on_nodes(struct coord *c, const struct job *j)
{
    Accel__V1__Forget forget = ACCEL__V1__FORGET__INIT;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;

    forget.job_id = j->id;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_FORGET;
    down.forget = &forget;
    for (struct node *n = c->nodes; n; n = n->hh.next)
        if (c->out)
            node_send(c, n, &down);
}

static void prune_job(struct coord *c, struct job *j)
{
    if (c->wall_ms - j->submit_ms < LIMIT_REQUEST_KEEP_MS) {
        Accel__V1__SubmitReply reply = ACCEL__V1__SUBMIT_REPLY__INIT;
        uint8_t packed[16];
        reply.job_id = j->id;
        CHECK(accel__v1__submit_reply__get_packed_size(&reply) <= sizeof(packed));
        size_t len = accel__v1__submit_reply__pack(&reply, packed);
        request_remember(c, j->request_id, "Submit", packed, len);
    }
    forget_on_nodes(c, j);
    struct record *r = mark_loose(c, RECORD_JOB);
    r->is_delete = true;
    r->u.job.id = j->id;
    if (j->id >= c->job_id_floor) { /* once its row is gone, nothing else says that it was used */
        c->job_id_floor = c->job_id_next;
        c->meta_dirty = true;
    }
    job_free(c, j);
}

static bool has_calls(const struct job *j)
{
    return !LIST_EMPTY(&j->calls);
}

void history_age_start(struct coord *c)
{
    int64_t last_ms = 0;

    for (size_t i = 0; i < c->job_count; i++)
        last_ms = MAX(last_ms, MAX(c->jobs[i]->submit_ms, c->jobs[i]->run->end_ms));
    for (size_t i = 0; i < c->event_count; i++)
        last_ms = MAX(last_ms, ring_at(c, i)->time_ms);
    c->age.wall_ms = last_ms ? last_ms : c->wall_ms;
    c->age.now_ms = c->now_ms;
    c->age.doubt_ms = 0;
}

int64_t history_age_wall_ms(struct coord *c)
{
    int64_t expected_ms = c->age.wall_ms + (c->now_ms - c->age.now_ms);
    int64_t offset_ms = c->wall_ms - c->now_ms;
    bool is_ahead = c->wall_ms - expected_ms > LIMIT_CLOCK_JUMP_MS;
    int64_t again_ms = offset_ms - c->age.doubt_offset_ms;

    if (is_ahead && (c->age.doubt_ms == 0 || again_ms > LIMIT_CLOCK_JUMP_MS ||
                     again_ms < -LIMIT_CLOCK_JUMP_MS)) {
        c->age.doubt_ms = MAX(c->now_ms, 1);
        c->age.doubt_offset_ms = offset_ms;
    }
    if (is_ahead && c->now_ms - c->age.doubt_ms < LIMIT_CLOCK_SETTLE_MS)
        return expected_ms;
    c->age.wall_ms = c->wall_ms;
    c->age.now_ms = c->now_ms;
    c->age.doubt_ms = 0;
    return c->wall_ms;
}

void history_prune_jobs(struct coord *c)
{
    struct job *j;
    int64_t wall_ms = history_age_wall_ms(c), wait_ms;

    /* A job that somebody is still looking at stays until he has gone; it is the oldest then, and
     * goes at the next end. */
    while ((j = TAILQ_FIRST(&c->ended)) && !has_calls(j) &&
           (c->ended_count > c->config.history_jobs ||
            wall_ms - j->run->end_ms > c->config.history_ms))
        prune_job(c, j);
    if (!j)
        return;
    wait_ms = MAX(j->run->end_ms + c->config.history_ms - wall_ms, 0) + 1000;
    if (c->age.doubt_ms)
        wait_ms = MIN(wait_ms, c->age.doubt_ms + LIMIT_CLOCK_SETTLE_MS - c->now_ms);
    if (c->prune_timer.node.pos == 0 || c->prune_timer.node.key > c->now_ms + wait_ms)
        heap_set(&c->timers, &c->prune_timer.node, c->now_ms + wait_ms);
}
