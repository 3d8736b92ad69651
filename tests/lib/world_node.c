/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acceld's shell in virtual time, as agentd/shell.c and agentd/uplink.c have it: callbacks become
 * events, actions are carried out in their order, a lost session is opened again. Neighbour:
 * world_launcher.c. It decides nothing about attempts.
 */
#include <stdio.h>
#include <string.h>

#include "tests/lib/world.h"

#define MEMORY_BYTES (8ull << 30)

static void connect_now(void *ctx);

/* --- reports, for the books --- */

static void note_sent(struct world_node *n, const Accel__V1__Report *r)
{
    const Accel__V1__AttemptRef *ref =
        r->body_case == ACCEL__V1__REPORT__BODY_ENDED ? r->ended->ref : r->started->ref;
    uint64_t last = n->sent_count ? n->sent[n->sent_count - 1].seq : 0;
    WORLD_CHECK(n->world, r->seq <= last + 1, "report %llu after %llu", (unsigned long long)r->seq,
                (unsigned long long)last);
    WORLD_CHECK(n->world, r->seq > n->acked_seq, "report %llu was acknowledged",
                (unsigned long long)r->seq);
    if (r->seq <= last)
        return; /* sent again */
    n->sent = xrealloc(n->sent, (n->sent_count + 1) * sizeof(*n->sent));
    n->sent[n->sent_count++] =
        (struct world_sent){.seq = r->seq,
                            .job_id = ref->job_id,
                            .attempt = ref->attempt,
                            .era = ref->era,
                            .is_end = r->body_case == ACCEL__V1__REPORT__BODY_ENDED};
}

static void do_send(struct world_node *n, const struct agent_action *act)
{
    Accel__V1__AgentUp *up = accel__v1__agent_up__unpack(NULL, act->len, act->data);
    CHECK(up);
    WORLD_CHECK(n->world, n->session, "%s sends without a session", n->name);
    if (up->body_case == ACCEL__V1__AGENT_UP__BODY_REPORT)
        note_sent(n, up->report);
    if (up->body_case == ACCEL__V1__AGENT_UP__BODY_PREPARED)
        books_prepared(n, up->prepared->ref);
    rpc_call_send(n->session, &up->base);
    accel__v1__agent_up__free_unpacked(up, NULL);
}

/* --- actions --- */

size_t node_describe_devices(const struct world_node *n, Accel__V1__Device *devices, size_t cap)
{
    const struct world_config *c = &n->world->config;
    size_t count = 0;
    static char ids[64][16];
    for (uint32_t i = 0; i < c->cpus + c->gpus; i++) {
        bool is_gpu = i >= c->cpus;
        CHECK(count < cap && count < ARRAY_LEN(ids));
        Accel__V1__Device *d = &devices[count];
        accel__v1__device__init(d);
        snprintf(ids[count], sizeof(ids[count]), is_gpu ? "gpu:%u" : "cpu:%u",
                 is_gpu ? i - c->cpus : i);
        d->id = ids[count++];
        d->kind = is_gpu ? ACCEL__V1__DEVICE_KIND__DEVICE_GPU : ACCEL__V1__DEVICE_KIND__DEVICE_CPU;
        d->index = is_gpu ? i - c->cpus : i;
        d->visible = is_gpu ? d->id : (char *)"";
        if (i == 0)
            d->fault = (char *)n->fault;
    }
    return count;
}

static int build_spec(struct world_node *n, const struct agent_action *act, struct arena *arena,
                      Accel__V1__AttemptSpec **ret_spec)
{
    Accel__V1__Device devices[64], *list[64];
    struct accel_error err = {0};
    const Accel__V1__Go *go = act->go;
    size_t count = node_describe_devices(n, devices, ARRAY_LEN(devices));
    for (size_t i = 0; i < count; i++)
        list[i] = &devices[i];
    struct environ_input in = {
        .start = act->start,
        .devices = (const Accel__V1__Device *const *)list,
        .device_count = count,
        .master_addr = go ? go->master_addr : (char *)"127.0.0.1",
        .master_port = go ? go->master_port : n->port_next++,
        .pet_port = go ? go->pet_port : n->port_next++,
        .peers = go ? (const Accel__V1__Peer *const *)go->peers : NULL,
        .peer_count = go ? go->n_peers : 0,
        .node_list = go ? go->node_list : NULL,
        .tasks_per_node = go ? go->tasks_per_node : NULL,
        .ifname = "lo",
        .node_name = n->name,
        .incarnation = n->incarnation,
        .attempts_dir = "/attempts",
        .wall_ms = world_wall_ms(n->world),
    };
    int r = environ_build(&in, arena, ret_spec, &err);
    WORLD_CHECK(n->world, r == 0, "no spec: %s", err.text);
    return r;
}

static void say_outcomes(void *ctx)
{
    struct world_node *n = ctx;
    while (n->outcome_count > 0) {
        struct world_outcome o = n->outcomes[--n->outcome_count];
        node_step(n, &(struct agent_event){.type = o.is_prepared ? AGENT_EV_PREPARED
                                                                 : AGENT_EV_LAUNCH_REFUSED,
                                           .id = o.id,
                                           .master_port = o.port,
                                           .text = "no port is free"});
    }
}

static void add_outcome(struct world_node *n, struct attempt_id id, uint32_t port, bool is_prepared)
{
    CHECK(n->outcome_count < ARRAY_LEN(n->outcomes));
    n->outcomes[n->outcome_count++] =
        (struct world_outcome){.id = id, .is_prepared = is_prepared, .port = port};
    world_timer_set(n->world, &n->refuse, 0, say_outcomes, n);
}

static bool is_refused(const struct agent_action *act)
{
    char plan[128];
    CHECK(act->start->spec->n_argv == 2);
    snprintf(plan, sizeof(plan), "%.*s", (int)act->start->spec->argv[1].len,
             (const char *)act->start->spec->argv[1].data);
    return plan_parse(plan).start == 3;
}

static void do_prepare(struct world_node *n, const struct agent_action *act)
{
    bool is_first = act->start->node_rank == 0;
    add_outcome(n, act->id, is_first ? n->port_next++ : 0, !is_refused(act));
}

static void do_launch(struct world_node *n, const struct agent_action *act)
{
    if (!act->go && is_refused(act)) {
        add_outcome(n, act->id, 0, false);
        return;
    }
    books_launch(n, act->start, act->go);
    Accel__V1__AttemptSpec *spec;
    struct accel_error err;
    int r = build_spec(n, act, &n->actions.arena, &spec);
    CHECK(r == 0);
    r = n->launcher->ops->launch(n->launcher, spec, &err);
    CHECK(r == 0);
}

static void drop_channel(struct world_node *n)
{
    if (n->channel)
        rpc_channel_close(n->channel, NULL, NULL);
    n->channel = NULL;
    n->session = NULL;
    n->is_silent = false;
    world_timer_clear(n->world, &n->notice);
}

static void connect_later(struct world_node *n)
{
    int64_t wait_ms = MAX(world_draw(n->world, n->world->config.reconnect), 1);
    world_timer_set(n->world, &n->connect, wait_ms, connect_now, n);
}

static void close_session(struct world_node *n)
{
    CHECK(n->session);
    rpc_call_cancel(n->session);
    drop_channel(n);
    connect_later(n);
}

static void persist_seen(struct world_node *n, const struct agent_action *act)
{
    WORLD_CHECK(n->world, act->era == n->seen_era || n->seen_era == 0, "another era");
    WORLD_CHECK(n->world, act->epoch > n->seen_epoch, "epoch %llu after %llu",
                (unsigned long long)act->epoch, (unsigned long long)n->seen_epoch);
    n->seen_era = act->era;
    n->seen_epoch = act->epoch;
}

static void carry_out(struct world_node *n, const struct agent_action *act)
{
    const struct launcher_ops *ops = n->launcher->ops;
    switch (act->type) {
    case AGENT_ACT_SEND: do_send(n, act); break;
    case AGENT_ACT_CLOSE_SESSION: close_session(n); break;
    case AGENT_ACT_LAUNCH: do_launch(n, act); break;
    case AGENT_ACT_PREPARE: do_prepare(n, act); break;
    case AGENT_ACT_UNPREPARE: break; /* it holds nothing here */
    case AGENT_ACT_STOP: ops->stop(n->launcher, act->id, act->grace_ms, act->cause); break;
    case AGENT_ACT_SIGNAL: ops->signal(n->launcher, act->id, act->rank, act->signo); break;
    case AGENT_ACT_MARK_ACKED: ops->mark_acked(n->launcher, act->id); break;
    case AGENT_ACT_FORGET: ops->forget(n->launcher, act->id.job_id); break;
    case AGENT_ACT_PERSIST_SEEN: persist_seen(n, act); break;
    case AGENT_ACT_EXIT: world_fail(n->world, "idle_exit_ms == 0", "acceld exits"); break;
    }
}

void node_step(struct world_node *n, struct agent_event *ev)
{
    if (!n->core)
        return;
    CHECK(!n->is_stepping);
    n->is_stepping = true;
    ev->now_ms = n->world->now_ms;
    ev->wall_ms = world_wall_ms(n->world);
    ev->now_ns = (uint64_t)(n->world->now_ms + 1000) * 1000000;
    agent_step(n->core, ev, &n->actions);
    agent_check_all(n->core);
    for (size_t i = 0; i < n->actions.len; i++)
        carry_out(n, &n->actions.items[i]);
    agent_actions_reset(&n->actions);
    n->is_stepping = false;
}

/* --- the session --- */

static void on_message(void *ctx, const ProtobufCMessage *msg)
{
    struct world_node *n = ctx;
    const Accel__V1__CoordDown *down = (const Accel__V1__CoordDown *)msg;
    if (down->body_case == ACCEL__V1__COORD_DOWN__BODY_START)
        books_got_start(n, down->start);
    if (down->body_case == ACCEL__V1__COORD_DOWN__BODY_REPORT_ACK)
        books_got_ack(n, down->report_ack->seq);
    node_step(n, &(struct agent_event){.type = AGENT_EV_DOWN, .down = down});
}

static void on_end(void *ctx, int code, const char *text)
{
    struct world_node *n = ctx;
    world_say(n->world, n->name, "the session ended: %s", text);
    n->session = NULL;
    drop_channel(n);
    connect_later(n);
    node_step(n, &(struct agent_event){.type = AGENT_EV_SESSION_LOST});
}

static const struct rpc_call_handlers handlers = {on_message, on_end};

static void connect_now(void *ctx)
{
    struct world_node *n = ctx;
    static const struct rpc_identity who = {
        .role = RPC_ROLE_ADMIN, .uid = 0, .user = "root", .is_local = true};
    CHECK(n->core && !n->channel);
    if (rpc_sim_connect(n->world->sim, "coordinator", &who, NULL, NULL, &n->channel) < 0) {
        n->channel = NULL;
        connect_later(n);
        return;
    }
    n->session = rpc_channel_call(n->channel, "/accel.v1.Agent/Session", NULL,
                                  &accel__v1__coord_down__descriptor, &handlers, n);
    node_step(n, &(struct agent_event){.type = AGENT_EV_SESSION_OPEN});
}

static void on_notice(void *ctx)
{
    struct world_node *n = ctx;
    world_say(n->world, n->name, "notices that nobody answers");
    rpc_call_cancel(n->session);
    drop_channel(n);
    node_step(n, &(struct agent_event){.type = AGENT_EV_SESSION_LOST});
    connect_now(n); /* its Hello may come before the end of the old one is known */
}

void node_cut(struct world_node *n, bool visible, int64_t notice_ms)
{
    if (!n->channel || n->is_silent)
        return;
    world_say(n->world, n->name, visible ? "connection cut" : "connection cut silently");
    rpc_sim_cut(n->world->sim, n->channel, visible);
    if (visible)
        return;
    n->is_silent = true;
    world_timer_set(n->world, &n->notice, notice_ms, on_notice, n);
}

/* --- what the node is --- */

void node_tell_devices(struct world_node *n)
{
    Accel__V1__Node node = ACCEL__V1__NODE__INIT;
    Accel__V1__Device devices[64], *list[64];
    node.name = n->name;
    node.address = (char *)"127.0.0.1";
    node.version = (char *)"sim";
    node.isolation = (char *)"none";
    node.cpus = n->world->config.cpus;
    node.memory_bytes = MEMORY_BYTES;
    node.n_devices = node_describe_devices(n, devices, ARRAY_LEN(devices));
    node.devices = list;
    for (size_t i = 0; i < node.n_devices; i++)
        list[i] = &devices[i];
    node_step(n, &(struct agent_event){.type = AGENT_EV_NODE, .node = &node});
}

bool node_is_settled(const struct world_node *n)
{
    return n->core && agent_is_welcomed(n->core) && agent_attempts_live(n->core) == 0 &&
           (n->sent_count == 0 || n->sent[n->sent_count - 1].seq == n->acked_seq);
}

int64_t node_next_ms(const struct world_node *n)
{
    return n->core ? agent_deadline_ms(n->core) : -1;
}

void node_turn(struct world_node *n)
{
    int64_t deadline_ms = node_next_ms(n);
    if (deadline_ms >= 0 && deadline_ms <= n->world->now_ms)
        node_step(n, &(struct agent_event){.type = AGENT_EV_TICK});
}

/* --- life --- */

void node_boot(struct world_node *n)
{
    struct agent_config config = {
        .incarnation = ++n->incarnation,
        .seed = n->incarnation,
        .local_address = "127.0.0.1",
        .ifname = "lo",
        .node_name = n->name,
        .machine_id = n->name,
        .attempts_dir = "/attempts",
        .trace = &n->world->trace,
    };
    CHECK(!n->core);
    world_say(n->world, n->name, "acceld starts, incarnation %llu",
              (unsigned long long)n->incarnation);
    n->core = agent_create(&config, n->seen_era, n->seen_epoch);
    n->launcher = launcher_fake_create(&world_launcher_ops, n);
    n->sent_count = 0;
    n->acked_seq = 0;
    node_tell_devices(n);
    attempts_adopt(n);
    connect_now(n);
}

static void on_start(void *ctx)
{
    node_boot(ctx);
}

static void forget(struct world_node *n)
{
    struct world *w = n->world;
    if (n->channel)
        rpc_sim_kill_channel(w->sim, n->channel);
    n->channel = NULL;
    n->session = NULL;
    n->is_silent = false;
    n->outcome_count = 0;
    world_timer_clear(w, &n->connect);
    world_timer_clear(w, &n->notice);
    world_timer_clear(w, &n->refuse);
    n->launcher->ops->destroy(n->launcher, NULL, NULL);
    n->launcher = NULL;
    agent_destroy(n->core);
    n->core = NULL;
}

void node_kill(struct world_node *n, int64_t down_ms)
{
    if (!n->core)
        return;
    world_say(n->world, n->name, "kill -9 of acceld");
    forget(n);
    world_timer_set(n->world, &n->start, down_ms, on_start, n);
}

void node_init(struct world *w, struct world_node *n, uint32_t index)
{
    n->world = w;
    snprintf(n->name, sizeof(n->name), "n%u", index);
    TAILQ_INIT(&n->attempts);
    agent_actions_init(&n->actions);
    n->pid_next = 100 * (index + 1);
    n->port_next = 20000;
}

void node_done(struct world_node *n)
{
    world_timer_clear(n->world, &n->start);
    if (n->core)
        forget(n);
    attempts_done(n);
    agent_actions_done(&n->actions);
    free(n->sent);
}
