/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node.c - the life of a node: its table, node_apply() (the only place that changes a node's
 * state), and its description as its agent tells it. Which attempts run where is place.c's; what an
 * agent says is read in coord_agent.c.
 *
 * Everything on one host runs without a lease: a local node whose acceld is away stays SUSPECT
 * while workers of ours run on it, for their shims go on and the next acceld adopts them. Its
 * devices stay taken until it is heard again.
 */
#include "scheduler/coord_internal.h"

enum node_effect {
    EFFECT_READY = 1 << 0,       /* note it, place what waits */
    EFFECT_ARM_GRACE = 1 << 1,   /* wait for the next acceld */
    EFFECT_TELL_JOBS = 1 << 2,   /* watchers of its jobs see the change */
    EFFECT_LOST = 1 << 3,        /* note it */
    EFFECT_FAIL_CALLS = 1 << 4,  /* reads it owed an answer for */
    EFFECT_FAIL_PARKED = 1 << 5, /* reads that waited for it to come back */
};

static const char *const state_names[] = {"JOINING", "READY", "SUSPECT", "LOST"};
static const char *const event_names[] = {"HELLO", "SESSION_LOST", "SILENCE"};
static const char *const effect_names[] = {"note ready", "arm grace",      "tell jobs",
                                           "note lost",  "fail its calls", "fail parked reads"};

static bool guard_carries(const void *object, const void *event)
{
    const struct node *n = object;

    (void)event;
    return !LIST_EMPTY(&n->shares);
}

static const struct lifecycle_guard carries = {"it carries an attempt", guard_carries};

#define MOVE(s, e, g, n, fx) LIFECYCLE_ROW(NODE, NODE_EV, s, e, g, MOVE, n, fx, NULL)
#define IGNORE(s, e, why)    LIFECYCLE_ROW(NODE, NODE_EV, s, e, NULL, IGNORE, s, 0, why)

static const struct lifecycle_row rows[] = {
    MOVE(JOINING, HELLO, NULL, READY, EFFECT_READY),
    MOVE(JOINING, SESSION_LOST, NULL, SUSPECT, EFFECT_ARM_GRACE | EFFECT_TELL_JOBS),
    MOVE(JOINING, SILENCE, &carries, SUSPECT, EFFECT_TELL_JOBS | EFFECT_FAIL_PARKED),
    MOVE(JOINING, SILENCE, NULL, LOST, EFFECT_LOST | EFFECT_FAIL_PARKED),

    MOVE(READY, HELLO, NULL, READY, EFFECT_READY),
    MOVE(READY, SESSION_LOST, NULL, SUSPECT,
         EFFECT_FAIL_CALLS | EFFECT_ARM_GRACE | EFFECT_TELL_JOBS),
    IGNORE(READY, SILENCE, "it was heard in time"),

    MOVE(SUSPECT, HELLO, NULL, READY, EFFECT_READY | EFFECT_TELL_JOBS),
    IGNORE(SUSPECT, SESSION_LOST, "it has no session"),
    {NODE_SUSPECT, NODE_EV_SILENCE, &carries, LIFECYCLE_MOVE, NODE_SUSPECT, EFFECT_FAIL_PARKED,
     "no lease on one host: its workers run on, its devices stay taken"},
    MOVE(SUSPECT, SILENCE, NULL, LOST, EFFECT_LOST | EFFECT_FAIL_PARKED),

    MOVE(LOST, HELLO, NULL, READY, EFFECT_READY),
    IGNORE(LOST, SESSION_LOST, "it has no session"),
    IGNORE(LOST, SILENCE, "it is lost already"),
};

const struct lifecycle node_lifecycle = {
    .name = "node",
    .state_names = state_names,
    .state_count = NODE_STATE_COUNT,
    .event_names = event_names,
    .event_count = NODE_EVENT_COUNT,
    .effect_names = effect_names,
    .effect_count = ARRAY_LEN(effect_names),
    .rows = rows,
    .row_count = ARRAY_LEN(rows),
    .initial_state = NODE_JOINING,
    .end_state = LIFECYCLE_NO_END,
};

const char *node_state_name(uint8_t state)
{
    return state_names[state];
}

struct node *node_find(const struct coord *c, const char *name)
{
    struct node *n = NULL;

    HASH_FIND_STR(c->nodes, name, n);
    return n;
}

struct node *node_new(struct coord *c, const char *name)
{
    struct node *n = xcalloc(1, sizeof(*n));

    str_copy(n->name, sizeof(n->name), name);
    n->grace.kind = TIMER_NODE_GRACE;
    n->since_ms = c->wall_ms;
    LIST_INIT(&n->shares);
    LIST_INIT(&n->calls);
    HASH_ADD_STR(c->nodes, name, n);
    return n;
}

void node_free(struct coord *c, struct node *n)
{
    CHECK(LIST_EMPTY(&n->shares) && LIST_EMPTY(&n->calls));
    heap_remove(&c->timers, &n->grace.node);
    if (n->is_dirty)
        TAILQ_REMOVE(&c->dirty_nodes, n, dirty);
    HASH_DELETE(hh, c->nodes, n);
    node_free_devices(n);
    node_forget_told(n);
    free(n->machine_id);
    free(n->address);
    free(n->version);
    free(n->isolation);
    free(n->strays);
    free(n);
}

void node_check(const struct node *n)
{
    CHECK(n->state < NODE_STATE_COUNT);
    if (n->state == NODE_READY)
        CHECK(n->session);
    if (n->state == NODE_SUSPECT || n->state == NODE_LOST)
        CHECK(!n->session);
    const struct call *call;
    LIST_FOREACH(call, &n->calls, of_node)
    {
        CHECK(n->state != NODE_LOST || call->is_missing);
    }
}

static void tell_jobs(struct coord *c, struct node *n)
{
    struct share *s;

    LIST_FOREACH(s, &n->shares, on_node) job_changed(c, s->attempt->job);
}

void node_apply(struct coord *c, struct node *n, enum node_event ev)
{
    const struct lifecycle_row *row = lifecycle_find(&node_lifecycle, n->state, ev, n, NULL);
    uint32_t fx = row->effects;
    uint8_t before = n->state;

    if (row->kind == LIFECYCLE_IGNORE)
        return;
    if (c->config.trace)
        trace_add(c->config.trace, c->now_ms, "coord", "node %s %s -> %s (%s)", n->name,
                  state_names[n->state], state_names[row->next], event_names[ev]);
    n->state = row->next;
    if (n->state != before) {
        n->since_ms = c->wall_ms;
        mark_node(c, n);
        if (n->state == NODE_LOST || before == NODE_LOST)
            c->needs_placing = c->nodes_changed = true; /* who waits for it blocks nobody */
    }
    if (fx & EFFECT_READY) {
        heap_remove(&c->timers, &n->grace.node);
        if (before != NODE_READY)
            history_add(c, EVENT_NODE_READY, 0, 0, n->name, "node %s is ready with %zu devices",
                        n->name, n->device_count);
        c->needs_placing = true;
    }
    if (ev == NODE_EV_SESSION_LOST)
        gang_node_away(n);
    if (fx & EFFECT_FAIL_CALLS)
        node_fail_calls(c, n, "its acceld is away");
    if (fx & EFFECT_FAIL_PARKED)
        node_fail_parked(c, n, "its acceld is away");
    if (fx & EFFECT_ARM_GRACE) {
        heap_set(&c->timers, &n->grace.node, c->now_ms + c->config.session_grace_ms);
        history_add(c, EVENT_NODE_SUSPECT, 0, 0, n->name, "the session with node %s broke",
                    n->name);
    }
    if (fx & EFFECT_TELL_JOBS)
        tell_jobs(c, n);
    if (fx & EFFECT_LOST)
        history_add(c, EVENT_NODE_LOST, 0, 0, n->name, "node %s has not come back", n->name);
    node_check(n);
}

void node_send(struct coord *c, struct node *n, const Accel__V1__CoordDown *msg)
{
    if (n->session)
        out_send(c, n->session->id, &msg->base);
}
