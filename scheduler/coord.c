/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coord.c - the frame of the core: outputs, marks, the step, timers and checks. What each event
 * means is decided in the neighbours (job.c, node.c, place.c, coord_*.c). No I/O, no clock.
 */
#include "common/pack.h"
#include "scheduler/coord_internal.h"
#include "scheduler/coord_trust.h"

/* --- batches --- */

void coord_batch_init(struct coord_batch *b)
{
    *b = (struct coord_batch){0};
    arena_init(&b->arena);
}

void coord_batch_done(struct coord_batch *b)
{
    arena_done(&b->arena);
    free(b->outputs);
    free(b->notes);
    free(b->records);
    *b = (struct coord_batch){0};
}

void coord_batch_reset(struct coord_batch *b)
{
    arena_reset(&b->arena);
    b->output_count = 0;
    b->note_count = 0;
    b->record_count = 0;
    b->is_durable = false;
}

static struct coord_output *output_add(struct coord *c, uint64_t call)
{
    struct coord_batch *b = c->out;

    CHECK(b);
    if (b->output_count == b->output_cap) {
        b->output_cap = b->output_cap ? b->output_cap * 2 : 16;
        b->outputs = xrealloc(b->outputs, b->output_cap * sizeof(*b->outputs));
    }
    struct coord_output *o = &b->outputs[b->output_count++];
    *o = (struct coord_output){.call = call};
    return o;
}

static void output_pack(struct coord *c, struct coord_output *o, const ProtobufCMessage *msg)
{
    o->data = pack_message(msg, &c->out->arena, &o->len);
}

void out_send(struct coord *c, uint64_t call, const ProtobufCMessage *msg)
{
    output_pack(c, output_add(c, call), msg);
}

void out_again(struct coord *c, uint64_t call)
{
    CHECK(c->out->output_count > 0);
    const struct coord_output last = c->out->outputs[c->out->output_count - 1];
    struct coord_output *o = output_add(c, call);

    CHECK(!last.is_end);
    o->data = last.data;
    o->len = last.len;
}

void out_end(struct coord *c, uint64_t call, const ProtobufCMessage *msg)
{
    struct coord_output *o = output_add(c, call);

    o->is_end = true;
    if (msg)
        output_pack(c, o, msg);
}

void out_fail(struct coord *c, uint64_t call, int code, const char *fmt, ...)
{
    char text[ACCEL_ERROR_TEXT];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    make_utf8(text);
    struct coord_output *o = output_add(c, call);
    o->is_end = true;
    o->code = code;
    o->text = arena_strdup(&c->out->arena, text);
}

static void *arena_pb_alloc(void *data, size_t size)
{
    return arena_alloc(data, size);
}

static struct coord_note *note_add(struct coord *c)
{
    struct coord_batch *b = c->out;

    CHECK(b);
    if (b->note_count == b->note_cap) {
        b->note_cap = b->note_cap ? b->note_cap * 2 : 4;
        b->notes = xrealloc(b->notes, b->note_cap * sizeof(*b->notes));
    }
    struct coord_note *n = &b->notes[b->note_count++];
    *n = (struct coord_note){0};
    return n;
}

void note_log(struct coord *c, const char *text)
{
    note_add(c)->log = arena_strdup(&c->out->arena, text);
}

void note_drop(struct coord *c, const char *serial)
{
    note_add(c)->drop_serial = arena_strdup(&c->out->arena, serial);
}

static void arena_pb_free(void *data, void *p)
{
    (void)data;
    (void)p;
}

ProtobufCAllocator *arena_allocator(struct arena *a, ProtobufCAllocator *ret)
{
    *ret =
        (ProtobufCAllocator){.alloc = arena_pb_alloc, .free = arena_pb_free, .allocator_data = a};
    return ret;
}

/* --- marks --- */

void mark_job(struct coord *c, struct job *j)
{
    if (j->dirty_at)
        return;
    if (c->dirty_job_count == c->dirty_job_cap) {
        c->dirty_job_cap = c->dirty_job_cap ? c->dirty_job_cap * 2 : 16;
        c->dirty_jobs = xrealloc(c->dirty_jobs, c->dirty_job_cap * sizeof(struct job *));
    }
    c->dirty_jobs[c->dirty_job_count++] = j;
    j->dirty_at = (uint32_t)c->dirty_job_count;
}

static void attempt_is_dirty(struct coord *c, struct attempt *a)
{
    if (a->is_dirty)
        return;
    a->is_dirty = true;
    TAILQ_INSERT_TAIL(&c->dirty_attempts, a, dirty);
}

void mark_attempt(struct coord *c, struct attempt *a, bool with_workers)
{
    a->row_dirty = true;
    a->workers_dirty |= with_workers;
    attempt_is_dirty(c, a);
}

void mark_workers(struct coord *c, struct attempt *a)
{
    a->workers_dirty = true;
    attempt_is_dirty(c, a);
}

void mark_node(struct coord *c, struct node *n)
{
    if (n->is_dirty)
        return;
    n->is_dirty = true;
    TAILQ_INSERT_TAIL(&c->dirty_nodes, n, dirty);
}

struct record *mark_loose(struct coord *c, enum record_table table)
{
    if (c->loose_count == c->loose_cap) {
        c->loose_cap = c->loose_cap ? c->loose_cap * 2 : 16;
        c->loose = xrealloc(c->loose, c->loose_cap * sizeof(*c->loose));
    }
    struct record *r = &c->loose[c->loose_count++];
    memset(r, 0, sizeof(*r));
    r->table = table;
    return r;
}

/* --- calls kept open --- */

struct call *call_new(struct coord *c, uint64_t id, enum call_kind kind)
{
    struct call *call = xcalloc(1, sizeof(*call));

    call->id = id;
    call->kind = kind;
    if (kind != CALL_SESSION)
        call->user = c->for_user ? c->for_user : c->who ? user_find(c, c->who->user) : NULL;
    if (kind == CALL_LOG && call->user)
        call->user->log_reads++;
    HASH_ADD(hh, c->calls, id, sizeof(call->id), call);
    if (kind != CALL_SESSION)
        c->user_calls++;
    return call;
}

void call_free(struct coord *c, struct call *call)
{
    struct call *part;

    while ((part = LIST_FIRST(&call->parts))) {
        log_part_cancel(c, part);
        call_free(c, part);
    }
    if (call->kind == CALL_LOG && call->user)
        call->user->log_reads--;
    if (call->max_bytes)
        call->node->log_bytes -= call->max_bytes;
    if (call->whole)
        LIST_REMOVE(call, of_whole);
    if (call->job)
        LIST_REMOVE(call, of_job);
    if (call->node && call->kind != CALL_SESSION)
        LIST_REMOVE(call, of_node);
    if (call->kind == CALL_EVENTS)
        LIST_REMOVE(call, of_events);
    if (call->kind != CALL_SESSION)
        c->user_calls--;
    HASH_DELETE(hh, c->calls, call);
    free(call->request);
    free(call->joined);
    free(call->only_user);
    free(call->peer_node);
    free(call);
}

static void call_closed(struct coord *c, uint64_t id)
{
    struct call *call = NULL;

    HASH_FIND(hh, c->calls, &id, sizeof(id), call);
    if (!call)
        return;
    if (call->kind == CALL_LOG && call->node) {
        Accel__V1__LogCancel cancel = ACCEL__V1__LOG_CANCEL__INIT;
        Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
        cancel.id = id;
        down.body_case = ACCEL__V1__COORD_DOWN__BODY_LOG_CANCEL;
        down.log_cancel = &cancel;
        node_send(c, call->node, &down);
    }
    struct job *owned = call->kind == CALL_WATCH && call->is_owner ? call->job : NULL;
    call_free(c, call);
    if (owned && owned->kill_on_disconnect && job_is_live(owned))
        job_apply(c, owned, JOB_EV_CANCEL, NULL);
    else if (owned)
        orphan_wait(c, owned);
}

/* --- the step --- */

static void step_open(struct coord *c, const struct coord_event *ev)
{
    switch (ev->method) {
    case COORD_SUBMIT: call_submit(c, ev); break;
    case COORD_LIST: call_list(c, ev); break;
    case COORD_GET: call_get(c, ev); break;
    case COORD_WATCH: call_watch(c, ev); break;
    case COORD_CANCEL: call_cancel(c, ev); break;
    case COORD_SIGNAL: call_signal(c, ev); break;
    case COORD_INPUT: call_input(c, ev); break;
    case COORD_LOG_READ: call_log_read(c, ev); break;
    case COORD_NODES: call_nodes(c, ev); break;
    case COORD_EVENTS: call_events(c, ev); break;
    case COORD_ENROLL:
    case COORD_RENEW:
    case COORD_CREATE_TOKEN:
    case COORD_SIGN_USER:
    case COORD_REVOKE_USER:
    case COORD_REMOVE_NODE:
    case COORD_LIST_USERS:
    case COORD_SET_ROLE: call_trust(c, ev); break;
    case COORD_SESSION:
    case COORD_METHOD_COUNT: CHECK(!"a unary method"); break;
    }
}

static void step_call(struct coord *c, const struct coord_event *ev)
{
    if (ev->method == COORD_SESSION) {
        call_session(c, ev);
        return;
    }
    switch (ev->rpc_type) {
    case RPC_OPEN: step_open(c, ev); break;
    case RPC_CLOSED: call_closed(c, ev->call); break;
    case RPC_MESSAGE:
    case RPC_HALF_CLOSE: break; /* unary and server-streaming calls have nothing more to say */
    }
}

static void step_tick(struct coord *c)
{
    struct heap_node *h;

    while ((h = heap_min(&c->timers)) && h->key <= c->now_ms) {
        struct timer *t = CONTAINER_OF(h, struct timer, node);
        heap_remove(&c->timers, h);
        switch (t->kind) {
        case TIMER_JOB_LIMIT:
            job_apply(c, CONTAINER_OF(t, struct job_run, limit)->job, JOB_EV_TIME_LIMIT, NULL);
            break;
        case TIMER_NODE_GRACE:
            gang_node_silent(c, CONTAINER_OF(t, struct node, grace));
            node_apply(c, CONTAINER_OF(t, struct node, grace), NODE_EV_SILENCE);
            break;
        case TIMER_GANG_PREPARE:
            gang_prepare_timeout(c, CONTAINER_OF(t, struct attempt, prepare));
            break;
        case TIMER_ORPHAN: orphan_timeout(c, t); break;
        case TIMER_PRUNE: break; /* below */
        }
    }
    history_prune_jobs(c);
}

/* We stood still (SIGSTOP, a suspended machine): nobody could be heard meanwhile, and what was said
 * may still lie in the sockets. Silence is counted on from where it was at the last step. */
static void forgive_standstill(struct coord *c, int64_t now_ms)
{
    const struct heap_node *h = heap_min(&c->timers);

    if (!h || now_ms - h->key <= LIMIT_STANDSTILL_MS)
        return;
    for (struct node *n = c->nodes; n; n = n->hh.next)
        if (n->grace.node.pos)
            heap_set(&c->timers, &n->grace.node, n->grace.node.key + now_ms - c->now_ms);
    orphans_shift(c, now_ms - c->now_ms);
    if (c->config.trace)
        trace_add(c->config.trace, now_ms, "coord", "stood still for %lld ms",
                  (long long)(now_ms - c->now_ms));
}

static void step_stop(struct coord *c)
{
    Accel__V1__Bye bye = ACCEL__V1__BYE__INIT;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;

    bye.reason = (char *)"planned stop";
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_BYE;
    down.bye = &bye;
    for (struct node *n = c->nodes; n; n = n->hh.next)
        node_send(c, n, &down);
}

void coord_step(struct coord *c, const struct coord_event *ev, struct coord_batch *out)
{
    CHECK(c->epoch > 0 && !c->out);
    coord_check(c);
    c->out = out;
    c->who = ev->type == COORD_EV_CALL ? ev->who : NULL;
    forgive_standstill(c, ev->now_ms);
    c->now_ms = MAX(c->now_ms, ev->now_ms);
    c->wall_ms = ev->wall_ms;
    switch (ev->type) {
    case COORD_EV_TICK: step_tick(c); break;
    case COORD_EV_STOP: step_stop(c); break;
    case COORD_EV_CALL: step_call(c, ev); break;
    case COORD_EV_REFUSED: trust_refuse(c, ev->refusal, "%s", ev->text); break;
    }
    if (c->needs_placing)
        place_pending(c);
    if (c->needs_pruning)
        history_prune_jobs(c);
    c->needs_pruning = false;
    c->out = NULL;
    c->who = NULL;
    coord_check(c);
}

/* --- life of the core --- */

struct coord *coord_create(const struct coord_config *config)
{
    struct coord *c = xcalloc(1, sizeof(*c));

    lifecycle_verify(&job_lifecycle);
    lifecycle_verify(&node_lifecycle);
    lifecycle_verify(&session_lifecycle);
    c->config = *config;
    c->trust = trust_create();
    c->seq_next = 1;
    c->job_id_next = 1;
    c->environment_id_next = 1;
    TAILQ_INIT(&c->pending);
    TAILQ_INIT(&c->aside);
    TAILQ_INIT(&c->ended);
    TAILQ_INIT(&c->env_idle);
    TAILQ_INIT(&c->requests_by_age);
    idset_init(&c->by_request, offsetof(struct job, request_id));
    TAILQ_INIT(&c->dirty_attempts);
    TAILQ_INIT(&c->dirty_nodes);
    LIST_INIT(&c->event_calls);
    heap_init(&c->timers);
    c->prune_timer.kind = TIMER_PRUNE;
    c->events = xcalloc(LIMIT_EVENTS, sizeof(*c->events));
    arena_init(&c->loose_arena);
    return c;
}

static void destroy_environments(struct coord *c)
{
    struct environment *e, *next;

    HASH_CLEAR(hh_content, c->env_by_content);
    HASH_ITER(hh_id, c->env_by_id, e, next) {
        HASH_DELETE(hh_id, c->env_by_id, e);
        free(e->data);
        free(e);
    }
}

void coord_destroy(struct coord *c)
{
    if (!c)
        return;
    struct node *n, *next_node;
    struct user *u, *next_user;
    struct request *r, *next_request;

    c->is_closing = true;
    while (c->calls)
        call_free(c, c->calls);
    while (c->job_count)
        job_free(c, c->jobs[c->job_count - 1]);
    HASH_ITER(hh, c->nodes, n, next_node)
        node_free(c, n);
    HASH_ITER(hh, c->users, u, next_user) {
        HASH_DELETE(hh, c->users, u);
        free(u);
    }
    HASH_ITER(hh, c->requests, r, next_request) {
        HASH_DELETE(hh, c->requests, r);
        free(r->method);
        free(r->reply);
        free(r);
    }
    destroy_environments(c);
    trust_destroy(c->trust);
    history_done(c);
    free(c->jobs);
    free(c->dirty_jobs);
    idset_done(&c->by_request);
    free(c->loose);
    arena_done(&c->loose_arena);
    heap_done(&c->timers);
    free(c);
}

int64_t coord_deadline_ms(const struct coord *c)
{
    const struct heap_node *h = heap_min(&c->timers);

    return h ? h->key : -1;
}

/* --- checks --- */

void coord_check(const struct coord *c)
{
    CHECK(c->live_count + c->ended_count == c->job_count);
    CHECK(c->seq_next <= c->seq_reserved || c->meta_dirty ||
          c->seq_next - c->seq_reserved < LIMIT_SEQ_RESERVE);
    CHECK(c->event_count <= LIMIT_EVENTS);
    CHECK(!TAILQ_FIRST(&c->pending) || TAILQ_FIRST(&c->pending)->state == JOB_PENDING);
    CHECK(!TAILQ_FIRST(&c->ended) || TAILQ_FIRST(&c->ended)->state == JOB_ENDED);
}

static void check_device_holders(const struct coord *c)
{
    for (const struct node *n = c->nodes; n; n = n->hh.next) {
        size_t held = 0, named = 0, unheld = 0, counted = 0;
        const struct share *s;
        for (size_t i = 0; i < n->device_count; i++)
            held += n->devices[i].holder != NULL;
        for (size_t i = 0; i < n->device_count; i++)
            unheld += !n->devices[i].holder && !n->devices[i].fault;
        for (size_t k = 0; k < NODE_KINDS; k++)
            counted += n->counts[k].free;
        CHECK(counted == unheld);
        LIST_FOREACH(s, &n->shares, on_node)
        {
            CHECK(!s->ended && s->node == n && job_is_live(s->attempt->job));
            named += s->device_count;
            for (size_t d = 0; d < s->device_count; d++)
                for (size_t i = 0; i < n->device_count; i++)
                    if (!strcmp(n->devices[i].id, s->devices[d]))
                        CHECK(n->devices[i].holder == s->attempt);
        }
        CHECK(held <= named); /* a device that vanished from the node is named but held nowhere */
        node_check(n);
    }
}

void coord_check_all(const struct coord *c)
{
    uint32_t live = 0, pending = 0;
    uint64_t bytes = 0;
    const struct job *j, *before = NULL;

    for (size_t i = 0; i < c->job_count; i++) {
        j = c->jobs[i];
        CHECK(!before || before->id < j->id);
        before = j;
        live += job_is_live(j);
        bytes += job_is_live(j) ? j->spec_len : 0;
        pending += j->state == JOB_PENDING;
        job_check(j);
    }
    for (const struct environment *e = c->env_by_id; e; e = e->hh_id.next)
        bytes += e->data ? e->len : 0;
    CHECK(live == c->live_count && bytes == c->live_bytes);
    CHECK(queue_check(c) == pending);
    check_device_holders(c);
    coord_check(c);
}

/* --- questions of the shell --- */

uint64_t coord_era(const struct coord *c)
{
    return c->era;
}

uint64_t coord_epoch(const struct coord *c)
{
    return c->epoch;
}

uint32_t coord_jobs_live(const struct coord *c)
{
    return c->live_count;
}

uint32_t coord_nodes_ready(const struct coord *c)
{
    uint32_t count = 0;

    for (const struct node *n = c->nodes; n; n = n->hh.next)
        count += n->state == NODE_READY;
    return count;
}

uint32_t coord_nodes_known(const struct coord *c)
{
    return HASH_CNT(hh, c->nodes);
}

bool coord_is_idle(const struct coord *c)
{
    return c->live_count == 0 && c->user_calls == 0;
}
