/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of an attempt on this node as a table, and the two steps in which a gang of several
 * nodes starts: prepared first (devices taken, ports leased, no process made), launched when the
 * coordinator says Go. What was only prepared is forgotten with the session: no process of it can
 * ever have been. Neighbours: agent.c, which applies events; worker.c, the life of a rank.
 */
#include <inttypes.h>
#include <string.h>

#include "agentd/agent_impl.h"
#include "common/codec.h"
#include "common/lifecycle.h"
#include "common/limits.h"

static const char *const stage_names[] = {"NEW", "PREPARING", "PREPARED", "LAUNCHED", "GONE"};
static const char *const event_names[] = {"PREPARE", "LAUNCH",       "READY", "GO",
                                          "STOP",    "SESSION_LOST", "END"};
static const char *const effect_names[] = {"ask",       "answer", "launch",
                                           "give back", "tell",   "forget"};

#define ASK       STAGE_EFFECT_ASK
#define ANSWER    STAGE_EFFECT_ANSWER
#define LAUNCH    STAGE_EFFECT_LAUNCH
#define GIVE_BACK STAGE_EFFECT_GIVE_BACK
#define TELL      STAGE_EFFECT_TELL
#define FORGET    STAGE_EFFECT_FORGET
#define MOVE(s, e, n, fx)                                                                          \
    {                                                                                              \
        STAGE_##s, STAGE_EV_##e, NULL, LIFECYCLE_MOVE, STAGE_##n, fx, NULL                         \
    }
#define IGNORE(s, e, why)                                                                          \
    {                                                                                              \
        STAGE_##s, STAGE_EV_##e, NULL, LIFECYCLE_IGNORE, STAGE_##s, 0, why                         \
    }

static const struct lifecycle_row rows[] = {
    MOVE(NEW, PREPARE, PREPARING, ASK),
    MOVE(NEW, LAUNCH, LAUNCHED, LAUNCH),
    IGNORE(NEW, READY, "nobody was asked"),
    IGNORE(NEW, GO, "it was not prepared"),
    IGNORE(NEW, STOP, "it has not begun"),
    IGNORE(NEW, SESSION_LOST, "it has not begun"),
    IGNORE(NEW, END, "it has not begun"),

    IGNORE(PREPARING, PREPARE, "it is being prepared"),
    IGNORE(PREPARING, LAUNCH, "it is one of several nodes"),
    MOVE(PREPARING, READY, PREPARED, ANSWER),
    IGNORE(PREPARING, GO, "it has not said that it is prepared"),
    MOVE(PREPARING, STOP, GONE, GIVE_BACK | TELL),
    MOVE(PREPARING, SESSION_LOST, GONE, GIVE_BACK | FORGET),
    MOVE(PREPARING, END, GONE, 0), /* the shell could not: it took nothing */

    IGNORE(PREPARED, PREPARE, "it is prepared"),
    IGNORE(PREPARED, LAUNCH, "it is one of several nodes"),
    IGNORE(PREPARED, READY, "it is prepared"),
    MOVE(PREPARED, GO, LAUNCHED, LAUNCH),
    MOVE(PREPARED, STOP, GONE, GIVE_BACK | TELL),
    MOVE(PREPARED, SESSION_LOST, GONE, GIVE_BACK | FORGET),
    IGNORE(PREPARED, END, "no process was made"),

    IGNORE(LAUNCHED, PREPARE, "it runs"),
    IGNORE(LAUNCHED, LAUNCH, "it runs"),
    IGNORE(LAUNCHED, READY, "it runs"),
    IGNORE(LAUNCHED, GO, "it runs"),
    IGNORE(LAUNCHED, STOP, "its workers are stopped, and then it ends"),
    IGNORE(LAUNCHED, SESSION_LOST, "workers run on without a coordinator"),
    MOVE(LAUNCHED, END, GONE, 0),

    IGNORE(GONE, PREPARE, "its end waits to be acknowledged"),
    IGNORE(GONE, LAUNCH, "its end waits to be acknowledged"),
    IGNORE(GONE, READY, "it was given up meanwhile"),
    IGNORE(GONE, GO, "its end was told"),
    IGNORE(GONE, STOP, "there is nothing to stop"),
    IGNORE(GONE, SESSION_LOST, "its end is told again"),
    IGNORE(GONE, END, "it has ended"),
};

const struct lifecycle attempt_lifecycle = {
    .name = "attempt",
    .state_names = stage_names,
    .state_count = ARRAY_LEN(stage_names),
    .event_names = event_names,
    .event_count = ARRAY_LEN(event_names),
    .effect_names = effect_names,
    .effect_count = ARRAY_LEN(effect_names),
    .rows = rows,
    .row_count = ARRAY_LEN(rows),
    .initial_state = STAGE_NEW,
    .end_state = STAGE_GONE,
};

const char *attempt_stage_name(uint8_t stage)
{
    CHECK(stage < ARRAY_LEN(stage_names));
    return stage_names[stage];
}

static bool is_waiting(uint8_t stage)
{
    return stage == STAGE_PREPARING || stage == STAGE_PREPARED;
}

/* ---- effects ---- */

static void *arena_pb_alloc(void *ctx, size_t size)
{
    return arena_alloc(ctx, size);
}

static void arena_pb_free(void *ctx, void *p)
{
    (void)ctx;
    (void)p;
}

/* A deep copy in the actions' arena: it outlives the event and the attempt. */
static const Accel__V1__Start *start_of(const struct attempt *t, struct arena *arena)
{
    ProtobufCAllocator allocator = {arena_pb_alloc, arena_pb_free, arena};
    CHECK(t->start);
    Accel__V1__Start *start = accel__v1__start__unpack(&allocator, t->start_len, t->start);
    CHECK(start);
    return start;
}

static void drop_start(struct attempt *t)
{
    free(t->start);
    t->start = NULL;
}

static const Accel__V1__Go *copy_go(const Accel__V1__Go *go, struct arena *arena)
{
    size_t len = accel__v1__go__get_packed_size(go);
    uint8_t *packed = arena_alloc(arena, len + 1);
    CHECK(accel__v1__go__pack(go, packed) == len);
    ProtobufCAllocator allocator = {arena_pb_alloc, arena_pb_free, arena};
    Accel__V1__Go *copy = accel__v1__go__unpack(&allocator, len, packed);
    CHECK(copy);
    return copy;
}

static void launch(struct agent *a, const struct agent_event *ev, struct attempt *t,
                   struct agent_actions *out)
{
    struct agent_action *act = agent_act(out, AGENT_ACT_LAUNCH, t);
    act->start = start_of(t, &out->arena);
    if (ev->type == AGENT_EV_DOWN && ev->down->body_case == ACCEL__V1__COORD_DOWN__BODY_GO) {
        act->go = copy_go(ev->down->go, &out->arena);
        free(t->master_addr);
        t->master_addr = xstrdup(act->go->master_addr);
        t->master_port = act->go->master_port;
    }
    drop_start(t);
    agent_trace(a, ev,
                "LAUNCH job %" PRIu64 ".%" PRIu64 " ranks %" PRIu32 "-%" PRIu32 " of %" PRIu32,
                t->key.job_id, t->key.attempt, t->first_rank, t->first_rank + t->local_size - 1,
                t->world_size);
}

static void ask(struct agent *a, const struct agent_event *ev, const struct attempt *t,
                struct agent_actions *out)
{
    struct agent_action *act = agent_act(out, AGENT_ACT_PREPARE, t);
    act->start = start_of(t, &out->arena);
    agent_trace(a, ev,
                "PREPARE job %" PRIu64 ".%" PRIu64 " ranks %" PRIu32 "-%" PRIu32 " of %" PRIu32,
                t->key.job_id, t->key.attempt, t->first_rank, t->first_rank + t->local_size - 1,
                t->world_size);
}

static void set_ref(Accel__V1__AttemptRef *ref, const struct attempt *t)
{
    accel__v1__attempt_ref__init(ref);
    ref->job_id = t->key.job_id;
    ref->attempt = (uint32_t)t->key.attempt;
    ref->era = t->era;
}

static void answer(struct agent *a, const struct agent_event *ev, const struct attempt *t,
                   struct agent_actions *out)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Prepared prepared = ACCEL__V1__PREPARED__INIT;
    Accel__V1__AttemptRef ref;
    set_ref(&ref, t);
    prepared.ref = &ref;
    prepared.address = a->address ? a->address : a->local_address;
    prepared.master_port = ev->master_port;
    prepared.pet_port = ev->pet_port;
    prepared.aux_port = ev->aux_port;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_PREPARED;
    up.prepared = &prepared;
    agent_session_say(a, &up, out);
    agent_trace(a, ev, "SEND prepared job %" PRIu64 ".%" PRIu64, t->key.job_id, t->key.attempt);
}

static void run_effects(struct agent *a, const struct agent_event *ev, struct attempt *t,
                        uint32_t fx, uint32_t cause, struct agent_actions *out)
{
    if (fx & ASK)
        ask(a, ev, t, out);
    if (fx & ANSWER)
        answer(a, ev, t, out);
    if (fx & LAUNCH)
        launch(a, ev, t, out);
    if (fx & GIVE_BACK)
        (void)agent_act(out, AGENT_ACT_UNPREPARE, t);
    if (t->stage == STAGE_GONE)
        agent_end_attempt(a, ev, t);
    if (fx & TELL)
        agent_report_never_started(a, ev, t->key, t->era, cause,
                                   t->broken ? t->broken : "stopped before it was started", out);
    if (fx & FORGET)
        agent_unknow_attempt(a, t);
}

bool attempt_apply(struct agent *a, const struct agent_event *ev, struct attempt *t,
                   enum attempt_event event, uint32_t cause, struct agent_actions *out)
{
    const struct lifecycle_row *row = lifecycle_find(&attempt_lifecycle, t->stage, event, t, NULL);
    CHECK(t->is_gone == (t->stage == STAGE_GONE));
    if (row->kind != LIFECYCLE_MOVE)
        return false;
    if (row->next == STAGE_GONE && is_waiting(t->stage))
        agent_trace(a, ev, "job %" PRIu64 ".%" PRIu64 " %s -> GONE (%s)", t->key.job_id,
                    t->key.attempt, stage_names[t->stage], event_names[event]);
    a->prepared -= is_waiting(t->stage);
    a->prepared += is_waiting(row->next);
    t->stage = row->next;
    if (t->stage == STAGE_GONE)
        drop_start(t);
    run_effects(a, ev, t, row->effects, cause, out);
    return true;
}

/* ---- events ---- */

void agent_on_prepared(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    struct attempt *t = agent_find(a, ev->id.job_id, ev->id.attempt);
    if (t)
        (void)attempt_apply(a, ev, t, STAGE_EV_READY, 0, out);
}

void agent_on_go(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    const Accel__V1__Go *go = ev->down->go;
    struct attempt *t = agent_find(a, go->ref->job_id, go->ref->attempt);
    if (!t || t->era != go->ref->era) {
        agent_refuse(a, ev, go->ref, ACCEL__V1__CAUSE__CAUSE_NODE_LOST,
                     "this node knows nothing of the attempt", out);
        return;
    }
    if (!attempt_apply(a, ev, t, STAGE_EV_GO, 0, out))
        agent_trace(a, ev, "GO job %" PRIu64 ".%" PRIu64 ": ignored, it is %s", t->key.job_id,
                    t->key.attempt, stage_names[t->stage]);
}

void agent_drop_prepared(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    for (struct attempt *t = a->attempts, *next; t && a->prepared > 0; t = next) {
        next = t->hh.next;
        if (is_waiting(t->stage))
            (void)attempt_apply(a, ev, t, STAGE_EV_SESSION_LOST, 0, out);
    }
    CHECK(a->prepared == 0);
}

void agent_tell_failing(struct agent *a, const struct agent_event *ev, const struct attempt *t,
                        struct agent_actions *out)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__AttemptFailing failing = ACCEL__V1__ATTEMPT_FAILING__INIT;
    Accel__V1__AttemptRef ref;
    const struct worker *w = &t->workers[t->first_failed];
    if (t->world_size <= t->local_size)
        return;
    set_ref(&ref, t);
    failing.ref = &ref;
    failing.rank = w->rank;
    failing.age_ns = ev->now_ns > w->end_boot_ns ? ev->now_ns - w->end_boot_ns : 0;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_FAILING;
    up.failing = &failing;
    agent_session_say(a, &up, out);
}
