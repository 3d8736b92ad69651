/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport of the simulated world. The tables of calls and the frames are those of rpc_local
 * (rpc.c), so a simulated message goes through the same packing, checks and caps; only the way of
 * the bytes differs: a heap of deliveries in virtual time. Everything follows from the seed and the
 * order of calls: no clock, no pointer decides an order here.
 *
 * A cut lets a random first part of what is under way arrive: an ordered, gap-free prefix, as on a
 * real network.
 */
#include "common/rpc_sim.h"

#include <string.h>

#include "common/heap.h"
#include "common/rpc_internal.h"

enum sim_side { TO_SERVER = 0, TO_CLIENT = 1 };
enum sim_kind {
    SIM_FRAME,
    SIM_EOF,     /* the connection is gone, for the receiving side */
    SIM_RESUME,  /* hand out what a pause held back */
    SIM_WAKE,    /* a channel has calls that failed, or is closing */
    SIM_STOPPED, /* a server's stop */
};

struct rpc_sim {
    struct rpc_sim_config config;
    struct prng prng;
    struct heap heap;
    int64_t now_ms;
    struct rpc_list servers, conns;
    size_t channels;
    bool is_delivering; /* callbacks may be running: nobody can be killed now */
};
struct sim_event {
    struct heap_node heap;
    struct rpc_list node; /* of its connection's way, or held back; alone otherwise */
    enum sim_kind kind;
    enum sim_side side;
    struct sim_conn *conn;
    struct sim_server *server;
    struct rpc_buf bytes; /* of a frame, with its length */
};
struct sim_server {
    struct rpc_core core;
    struct rpc_sim *sim;
    struct rpc_list node;
    char *address;
    struct sim_event *stop; /* not NULL: stopping */
    void (*on_stopped)(void *ctx);
    void *stopped_ctx;
};
/* One connection with both its ends. It lives until the server's end is gone and the client has
 * closed. */
struct sim_conn {
    struct rpc_chan chan; /* first: what the client holds */
    struct rpc_conn end;  /* the server's */
    struct rpc_sim *sim;
    struct rpc_list node;
    struct rpc_list ways[2]; /* deliveries under way, in order */
    struct rpc_list held;    /* arrived while paused */
    int64_t last_ms[2];      /* order is kept: nothing arrives before this */
    size_t bytes[2];         /* under way or held */
    struct sim_event *wake, *resume;
    bool is_silent;                          /* frames vanish */
    bool has_server, has_client, is_closing; /* has_client: the channel object lives */
    bool is_cut;                             /* nothing can be sent any more */
    bool is_paused;
    void (*on_lost)(void *ctx);
    void *ctx;
    void (*on_closed)(void *ctx);
    void *closed_ctx;
};

static struct sim_conn *end_conn(struct rpc_conn *end)
{
    return CONTAINER_OF(end, struct sim_conn, end);
}

/* --- events --- */

static struct sim_event *event_add(struct rpc_sim *sim, enum sim_kind kind, struct sim_conn *conn,
                                   int64_t at_ms)
{
    struct sim_event *ev = xcalloc(1, sizeof(*ev));
    ev->kind = kind;
    ev->conn = conn;
    rpc_list_init(&ev->node);
    heap_set(&sim->heap, &ev->heap, at_ms);
    return ev;
}

static void event_free(struct rpc_sim *sim, struct sim_event *ev)
{
    if (!ev)
        return;
    heap_remove(&sim->heap, &ev->heap);
    rpc_list_remove(&ev->node);
    if (ev->conn && ev->kind == SIM_FRAME)
        ev->conn->bytes[ev->side] -= rpc_buf_len(&ev->bytes);
    rpc_buf_done(&ev->bytes);
    free(ev);
}

static struct sim_event *list_event(struct rpc_list *node)
{
    return CONTAINER_OF(node, struct sim_event, node);
}

static void events_free(struct rpc_sim *sim, struct rpc_list *list)
{
    while (!rpc_list_is_empty(list))
        event_free(sim, list_event(list->next));
}

/* A delivery to one side, behind all that is under way to it. */
static struct sim_event *way_add(struct sim_conn *c, enum sim_kind kind, enum sim_side side)
{
    struct rpc_sim *sim = c->sim;
    int64_t spread = sim->config.latency_max_ms - sim->config.latency_min_ms;
    int64_t at = sim->now_ms + sim->config.latency_min_ms +
                 (int64_t)prng_below(&sim->prng, (uint64_t)spread + 1);
    c->last_ms[side] = MAX(c->last_ms[side], at);
    struct sim_event *ev = event_add(sim, kind, c, c->last_ms[side]);
    ev->side = side;
    rpc_list_append(&c->ways[side], &ev->node);
    return ev;
}

/* --- connections --- */

static void conn_free_if_done(struct sim_conn *c)
{
    if (c->has_server || c->has_client)
        return;
    struct rpc_sim *sim = c->sim;
    events_free(sim, &c->ways[TO_SERVER]);
    events_free(sim, &c->ways[TO_CLIENT]);
    events_free(sim, &c->held);
    event_free(sim, c->wake);
    event_free(sim, c->resume);
    rpc_list_remove(&c->node);
    free(c);
}

/* Drops all but a random first part of what is under way. */
static void way_cut(struct sim_conn *c, enum sim_side side)
{
    size_t n = 0;
    for (struct rpc_list *p = c->ways[side].next; p != &c->ways[side]; p = p->next)
        n++;
    for (uint64_t keep = prng_below(&c->sim->prng, n + 1); n > keep; n--)
        event_free(c->sim, list_event(c->ways[side].prev));
}

static void server_end_gone(struct sim_conn *c)
{
    events_free(c->sim, &c->held);
    events_free(c->sim, &c->ways[TO_SERVER]);
    c->has_server = false;
}

/* From now on nothing can be sent; the ends named are told in order behind what still arrives. */
static void conn_cut(struct sim_conn *c, bool tell_server, bool tell_client)
{
    if (c->is_cut)
        return;
    c->is_cut = true;
    way_cut(c, TO_SERVER);
    way_cut(c, TO_CLIENT);
    if (tell_server && c->has_server)
        way_add(c, SIM_EOF, TO_SERVER);
    if (tell_client && c->has_client)
        way_add(c, SIM_EOF, TO_CLIENT);
}

static void conn_emit(struct sim_conn *c, enum sim_side side, const struct rpc_frame *f)
{
    if (c->is_cut || c->is_silent)
        return;
    struct sim_event *ev = way_add(c, SIM_FRAME, side);
    rpc_frame_add(&ev->bytes, f);
    c->bytes[side] += rpc_buf_len(&ev->bytes);
    if (c->bytes[side] > LIMIT_SEND_QUEUE_BYTES)
        conn_cut(c, true, true);
}

/* --- server --- */

static void server_emit(struct rpc_conn *end, const struct rpc_frame *f)
{
    conn_emit(end_conn(end), TO_CLIENT, f);
}

static void server_flow(struct rpc_conn *end, bool paused)
{
    struct sim_conn *c = end_conn(end);
    c->is_paused = paused;
    if (!paused && !rpc_list_is_empty(&c->held) && !c->resume)
        c->resume = event_add(c->sim, SIM_RESUME, c, c->sim->now_ms);
}

/* The server has had enough of this peer: nothing more is taken from it. */
static void conn_refuse(struct sim_conn *c)
{
    events_free(c->sim, &c->held);
    events_free(c->sim, &c->ways[TO_SERVER]);
    conn_cut(c, true, true);
}

static void server_fail(struct rpc_conn *end)
{
    conn_refuse(end_conn(end));
}

static const struct rpc_core_hooks sim_core_hooks = {server_emit, server_flow, server_fail};

static void server_free(struct sim_server *s)
{
    rpc_list_remove(&s->node);
    event_free(s->sim, s->stop);
    rpc_core_done(&s->core);
    free(s->address);
    free(s);
}

/* The server's ends go. `silent`: without a callback to its handlers. */
static void server_drop_conns(struct sim_server *s, bool silent)
{
    struct rpc_list *node = s->sim->conns.next, *next;
    for (; node != &s->sim->conns; node = next) {
        struct sim_conn *c = CONTAINER_OF(node, struct sim_conn, node);
        if (c->has_server && c->end.core == &s->core) {
            rpc_conn_gone(&c->end, silent);
            server_end_gone(c);
            conn_cut(c, false, true);
        }
        next = node->next; /* callbacks free no connection; the next line only this one */
        conn_free_if_done(c);
    }
}

static void sim_stop(struct rpc_server *server, void (*on_stopped)(void *), void *ctx)
{
    struct sim_server *s = (struct sim_server *)server;
    CHECK(!s->stop);
    s->on_stopped = on_stopped;
    s->stopped_ctx = ctx;
    s->stop = event_add(s->sim, SIM_STOPPED, NULL, s->sim->now_ms);
    s->stop->server = s;
}

static void server_stopped(struct sim_server *s)
{
    void (*on_stopped)(void *) = s->on_stopped;
    void *ctx = s->stopped_ctx;
    server_drop_conns(s, false);
    server_free(s);
    if (on_stopped)
        on_stopped(ctx);
}

static const struct rpc_server_ops sim_server_ops = {rpc_core_send, rpc_core_end, sim_stop,
                                                     rpc_core_pause};

static struct sim_server *server_find(struct rpc_sim *sim, const char *address)
{
    for (struct rpc_list *p = sim->servers.next; p != &sim->servers; p = p->next) {
        struct sim_server *s = CONTAINER_OF(p, struct sim_server, node);
        if (!s->stop && strcmp(s->address, address) == 0)
            return s;
    }
    return NULL;
}

struct rpc_server *rpc_sim_serve(struct rpc_sim *sim, const char *address,
                                 const struct rpc_service *svc)
{
    CHECK(!server_find(sim, address));
    struct sim_server *s = xcalloc(1, sizeof(*s));
    rpc_core_init(&s->core, &sim_server_ops, &sim_core_hooks, svc);
    s->sim = sim;
    s->address = xstrdup(address);
    rpc_list_append(&sim->servers, &s->node);
    return &s->core.base;
}

void rpc_sim_kill_server(struct rpc_sim *sim, struct rpc_server *server)
{
    struct sim_server *s = (struct sim_server *)server;
    CHECK(s->sim == sim && !sim->is_delivering);
    server_drop_conns(s, true);
    server_free(s);
}

/* --- client --- */

static void channel_emit(struct rpc_chan *chan, const struct rpc_frame *f)
{
    conn_emit((struct sim_conn *)chan, TO_SERVER, f);
}

static void channel_wake(struct rpc_chan *chan)
{
    struct sim_conn *c = (struct sim_conn *)chan;
    if (!c->wake)
        c->wake = event_add(c->sim, SIM_WAKE, c, c->sim->now_ms);
}

static const struct rpc_chan_hooks sim_chan_hooks = {channel_emit, channel_wake};

/* The client's end is no more. */
static void channel_gone(struct sim_conn *c)
{
    rpc_chan_done(&c->chan);
    events_free(c->sim, &c->ways[TO_CLIENT]);
    c->has_client = false;
    c->sim->channels--;
    if (c->is_cut)
        conn_free_if_done(c);
    else
        conn_cut(c, true, false);
}

static void channel_close(struct rpc_channel *channel, void (*on_closed)(void *), void *ctx)
{
    struct sim_conn *c = (struct sim_conn *)channel;
    CHECK(!c->is_closing);
    c->is_closing = true;
    c->on_closed = on_closed;
    c->closed_ctx = ctx;
    rpc_chan_fail(&c->chan, "the connection was closed");
    channel_wake(&c->chan);
}

static const struct rpc_channel_ops sim_channel_ops = {rpc_chan_start, rpc_chan_send,
                                                       rpc_chan_cancel, channel_close};

int rpc_sim_connect(struct rpc_sim *sim, const char *address, const struct rpc_identity *who,
                    void (*on_lost)(void *ctx), void *ctx, struct rpc_channel **ret_channel)
{
    struct sim_server *s = server_find(sim, address);
    if (!s)
        return ACCEL_ECLOSED;
    struct sim_conn *c = xcalloc(1, sizeof(*c));
    rpc_chan_init(&c->chan, &sim_channel_ops, &sim_chan_hooks);
    rpc_conn_init(&c->end, &s->core, who);
    c->sim = sim;
    c->on_lost = on_lost;
    c->ctx = ctx;
    c->has_server = c->has_client = true;
    rpc_list_init(&c->ways[TO_SERVER]);
    rpc_list_init(&c->ways[TO_CLIENT]);
    rpc_list_init(&c->held);
    rpc_list_append(&sim->conns, &c->node);
    sim->channels++;
    *ret_channel = &c->chan.base;
    return 0;
}

void rpc_sim_cut(struct rpc_sim *sim, struct rpc_channel *channel, bool visible)
{
    struct sim_conn *c = (struct sim_conn *)channel;
    CHECK(c->sim == sim);
    if (visible) {
        conn_cut(c, true, true);
        return;
    }
    if (c->is_cut)
        return;
    c->is_silent = true;
    way_cut(c, TO_SERVER);
    way_cut(c, TO_CLIENT);
}

void rpc_sim_kill_channel(struct rpc_sim *sim, struct rpc_channel *channel)
{
    struct sim_conn *c = (struct sim_conn *)channel;
    CHECK(c->sim == sim && !sim->is_delivering);
    event_free(sim, c->wake);
    c->wake = NULL;
    channel_gone(c);
}

/* --- delivery --- */

static void lost_at_server(struct sim_conn *c)
{
    rpc_conn_gone(&c->end, false);
    server_end_gone(c);
    conn_free_if_done(c);
}

static void lost_at_client(struct sim_conn *c)
{
    rpc_chan_fail(&c->chan, "the connection was closed by the other side");
    rpc_chan_deliver(&c->chan);
    if (!c->is_closing && c->on_lost)
        c->on_lost(c->ctx);
}

/* Takes ev, which is out of the heap and of every list. */
static void deliver_to_server(struct sim_conn *c, struct sim_event *ev)
{
    int r = 0;
    bool is_eof = ev->kind == SIM_EOF;
    if (!is_eof)
        r = rpc_core_on_frame(&c->end, ev->bytes.data + RPC_HEADER_BYTES,
                              rpc_buf_len(&ev->bytes) - RPC_HEADER_BYTES);
    event_free(c->sim, ev);
    if (is_eof)
        lost_at_server(c);
    else if (r < 0)
        conn_refuse(c);
}

static void deliver_to_client(struct sim_conn *c, struct sim_event *ev)
{
    int r = 0;
    bool is_eof = ev->kind == SIM_EOF;
    if (!is_eof && !c->chan.is_dead)
        r = rpc_chan_on_frame(&c->chan, ev->bytes.data + RPC_HEADER_BYTES,
                              rpc_buf_len(&ev->bytes) - RPC_HEADER_BYTES);
    event_free(c->sim, ev);
    if (r < 0)
        events_free(c->sim, &c->ways[TO_CLIENT]);
    if (is_eof)
        lost_at_client(c);
    else if (r < 0)
        conn_cut(c, true, true);
}

static void deliver_held(struct sim_conn *c)
{
    /* A connection that goes takes its held deliveries along, and is freed; so the last one ends
     * the loop by itself. */
    while (!c->is_paused && !rpc_list_is_empty(&c->held)) {
        struct sim_event *ev = list_event(c->held.next);
        bool is_eof = ev->kind == SIM_EOF;
        rpc_list_remove(&ev->node);
        deliver_to_server(c, ev);
        if (is_eof)
            return;
    }
}

static void deliver_wake(struct sim_conn *c)
{
    rpc_chan_deliver(&c->chan);
    if (!c->is_closing)
        return;
    while (!rpc_list_is_empty(&c->chan.failed)) /* begun by the last callbacks */
        rpc_chan_deliver(&c->chan);
    void (*on_closed)(void *) = c->on_closed;
    void *ctx = c->closed_ctx;
    event_free(c->sim, c->wake);
    c->wake = NULL;
    channel_gone(c);
    if (on_closed)
        on_closed(ctx);
}

static void deliver(struct rpc_sim *sim, struct sim_event *ev)
{
    struct sim_conn *c = ev->conn;
    heap_remove(&sim->heap, &ev->heap);
    rpc_list_remove(&ev->node);
    switch (ev->kind) {
    case SIM_FRAME:
    case SIM_EOF:
        if (ev->side == TO_CLIENT)
            deliver_to_client(c, ev);
        else if (c->is_paused || !rpc_list_is_empty(&c->held))
            rpc_list_append(&c->held, &ev->node);
        else
            deliver_to_server(c, ev);
        break;
    case SIM_RESUME:
        c->resume = NULL;
        event_free(sim, ev);
        deliver_held(c);
        break;
    case SIM_WAKE:
        c->wake = NULL;
        event_free(sim, ev);
        deliver_wake(c);
        break;
    case SIM_STOPPED: server_stopped(ev->server); break;
    }
}

int64_t rpc_sim_next_ms(const struct rpc_sim *sim)
{
    struct heap_node *min = heap_min(&sim->heap);
    return min ? min->key : -1;
}

void rpc_sim_run(struct rpc_sim *sim, int64_t now_ms)
{
    struct heap_node *min;
    while ((min = heap_min(&sim->heap)) && min->key <= now_ms) {
        sim->now_ms = MAX(sim->now_ms, min->key);
        sim->is_delivering = true;
        deliver(sim, CONTAINER_OF(min, struct sim_event, heap));
        sim->is_delivering = false;
    }
    sim->now_ms = MAX(sim->now_ms, now_ms);
}

struct rpc_sim *rpc_sim_create(const struct rpc_sim_config *config)
{
    CHECK(config->latency_min_ms >= 0 && config->latency_max_ms >= config->latency_min_ms);
    struct rpc_sim *sim = xcalloc(1, sizeof(*sim));
    sim->config = *config;
    prng_init(&sim->prng, config->seed);
    heap_init(&sim->heap);
    rpc_list_init(&sim->servers);
    rpc_list_init(&sim->conns);
    return sim;
}

void rpc_sim_destroy(struct rpc_sim *sim)
{
    if (!sim)
        return;
    CHECK(rpc_list_is_empty(&sim->servers) && sim->channels == 0);
    while (!rpc_list_is_empty(&sim->conns)) { /* cut silently from a client that is gone */
        struct sim_conn *c = CONTAINER_OF(sim->conns.next, struct sim_conn, node);
        c->has_server = c->has_client = false;
        conn_free_if_done(c);
    }
    heap_done(&sim->heap);
    free(sim);
}
