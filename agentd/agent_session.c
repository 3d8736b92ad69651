/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session with the coordinator as the agent sees it, and the reports that outlive sessions:
 * sent at once, kept until acknowledged, resent in order with fresh ages. Neighbours: agent.c,
 * which obeys the commands. It must not decide about attempts.
 */
#include <inttypes.h>
#include <string.h>

#include "agentd/agent_impl.h"
#include "common/codec.h"
#include "common/lifecycle.h"
#include "common/limits.h"

/* ---- one session, one life ---- */

enum session_event { SESSION_WELCOME, SESSION_COMMAND, SESSION_ABORT, SESSION_LOST };

#define EFFECT_CLOSE   1u /* hang up: we do not go on with this coordinator */
#define EFFECT_PERSIST 2u /* a higher (era, epoch) than ever obeyed: durable first */
#define EFFECT_RESEND  4u /* reports that were never acknowledged, then what runs */

static bool is_stale(const void *object, const void *event)
{
    const struct agent *a = object;
    const Accel__V1__Welcome *w = event;
    return w->era < a->seen_era || (w->era == a->seen_era && w->epoch < a->seen_epoch);
}
static const struct lifecycle_guard guard_stale = {"older than one obeyed", is_stale};

static bool is_news(const void *object, const void *event)
{
    const struct agent *a = object;
    const Accel__V1__Welcome *w = event;
    if (w->era == a->seen_era && w->epoch == a->seen_epoch)
        return !a->has_seal && w->seal.len == sizeof(a->seal);
    return w->era > a->seen_era || (w->era == a->seen_era && w->epoch > a->seen_epoch);
}
static const struct lifecycle_guard guard_news = {"newer than any obeyed", is_news};

static const char *const state_names[] = {"GREETING", "OPEN", "CLOSED"};
static const char *const event_names[] = {"WELCOME", "COMMAND", "ABORT", "LOST"};
static const char *const effect_names[] = {"CLOSE", "PERSIST", "RESEND"};

#define MOVE(s, e, g, n, fx) LIFECYCLE_ROW(SESSION, SESSION, s, e, g, MOVE, n, fx, NULL)
#define IGNORE(s, e, why)    LIFECYCLE_ROW(SESSION, SESSION, s, e, NULL, IGNORE, s, 0, why)

static const struct lifecycle_row rows[] = {
    MOVE(GREETING, WELCOME, &guard_stale, CLOSED, EFFECT_CLOSE),
    MOVE(GREETING, WELCOME, &guard_news, OPEN, EFFECT_PERSIST | EFFECT_RESEND),
    MOVE(GREETING, WELCOME, NULL, OPEN, EFFECT_RESEND),
    MOVE(GREETING, COMMAND, NULL, CLOSED, EFFECT_CLOSE),
    MOVE(GREETING, ABORT, NULL, CLOSED, EFFECT_CLOSE),
    MOVE(GREETING, LOST, NULL, CLOSED, 0),

    MOVE(OPEN, WELCOME, NULL, CLOSED, EFFECT_CLOSE),
    MOVE(OPEN, COMMAND, NULL, OPEN, 0),
    MOVE(OPEN, ABORT, NULL, CLOSED, EFFECT_CLOSE),
    MOVE(OPEN, LOST, NULL, CLOSED, 0),

    IGNORE(CLOSED, WELCOME, "of a session that we have closed"),
    IGNORE(CLOSED, COMMAND, "of a session that we have closed"),
    IGNORE(CLOSED, ABORT, "it is closed"),
    IGNORE(CLOSED, LOST, "it is closed"),
};

const struct lifecycle agent_session_lifecycle = {
    .name = "agent session",
    .state_names = state_names,
    .state_count = ARRAY_LEN(state_names),
    .event_names = event_names,
    .event_count = ARRAY_LEN(event_names),
    .effect_names = effect_names,
    .effect_count = ARRAY_LEN(effect_names),
    .rows = rows,
    .row_count = ARRAY_LEN(rows),
    .initial_state = SESSION_GREETING,
    .end_state = SESSION_CLOSED,
};

/* Returns the row that applied; CLOSE is carried out here. */
static const struct lifecycle_row *session_apply(struct agent *a, const struct agent_event *ev,
                                                 enum session_event event, const void *said,
                                                 const char *why, struct agent_actions *out)
{
    const struct lifecycle_row *row =
        lifecycle_find(&agent_session_lifecycle, a->session, event, a, said);
    if (row->kind != LIFECYCLE_MOVE)
        return row;
    if (row->next != a->session)
        agent_trace(a, ev, "session %s -> %s (%s)", state_names[a->session], state_names[row->next],
                    event_names[event]);
    a->session = row->next;
    if (row->effects & EFFECT_CLOSE) {
        agent_act(out, AGENT_ACT_CLOSE_SESSION, NULL)->text = why;
        agent_trace(a, ev, "CLOSE: %s", why ? why : "");
    }
    return row;
}

/* ---- sending ---- */

static void send_up(struct agent *a, const Accel__V1__AgentUp *up, struct agent_actions *out)
{
    CHECK(a->session != SESSION_CLOSED);
    struct agent_action *act = agent_act(out, AGENT_ACT_SEND, NULL);
    act->len = accel__v1__agent_up__get_packed_size(up);
    uint8_t *packed = arena_alloc(&out->arena, act->len);
    CHECK(accel__v1__agent_up__pack(up, packed) == act->len);
    act->data = packed;
}

void agent_session_say(struct agent *a, const Accel__V1__AgentUp *up, struct agent_actions *out)
{
    if (a->session == SESSION_OPEN)
        send_up(a, up, out);
}

static uint64_t age_of(uint64_t now_ns, uint64_t then_ns)
{
    return now_ns > then_ns ? now_ns - then_ns : 0; /* another boot's clock says nothing */
}

static void set_ages(Accel__V1__Report *report, uint64_t now_ns, uint64_t event_ns,
                     uint64_t failed_ns)
{
    report->age_ns = age_of(now_ns, event_ns);
    if (report->body_case == ACCEL__V1__REPORT__BODY_ENDED && failed_ns)
        report->ended->first_failed_age_ns = age_of(now_ns, failed_ns);
}

static void trace_report(struct agent *a, const struct agent_event *ev, const char *how,
                         const Accel__V1__Report *report)
{
    if (!a->trace)
        return;
    if (report->body_case == ACCEL__V1__REPORT__BODY_STARTED)
        agent_trace(a, ev, "%s #%" PRIu64 " started job %" PRIu64 ".%" PRIu32, how, report->seq,
                    report->started->ref->job_id, report->started->ref->attempt);
    else
        agent_trace(a, ev, "%s #%" PRIu64 " ended job %" PRIu64 ".%" PRIu32 " %s%s: %s", how,
                    report->seq, report->ended->ref->job_id, report->ended->ref->attempt,
                    agent_cause_name(report->ended->cause),
                    report->ended->never_started ? " (never started)" : "", report->ended->text);
}

uint64_t agent_session_report(struct agent *a, const struct agent_event *ev, struct attempt_key key,
                              Accel__V1__Report *report, uint64_t failed_ns, bool leaves_mark,
                              struct agent_actions *out)
{
    struct report *kept = xcalloc(1, sizeof(*kept));
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_REPORT;
    up.report = report;
    report->seq = kept->seq = ++a->last_seq;
    set_ages(report, ev->now_ns, ev->now_ns, failed_ns);
    kept->key = key;
    kept->is_end = report->body_case == ACCEL__V1__REPORT__BODY_ENDED;
    kept->leaves_mark = leaves_mark;
    kept->event_ns = ev->now_ns;
    kept->failed_ns = failed_ns;
    kept->len = accel__v1__agent_up__get_packed_size(&up);
    kept->packed = xcalloc(1, kept->len + 1);
    CHECK(accel__v1__agent_up__pack(&up, kept->packed) == kept->len);
    *a->end_report = kept;
    a->end_report = &kept->next;
    a->report_count++;
    if (a->session == SESSION_OPEN) {
        struct agent_action *act = agent_act(out, AGENT_ACT_SEND, NULL);
        act->len = kept->len;
        act->data = arena_dup(&out->arena, kept->packed, kept->len);
    }
    trace_report(a, ev, a->session == SESSION_OPEN ? "SEND" : "keep", report);
    return report->seq;
}

static void resend_reports(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    for (const struct report *kept = a->first_report; kept; kept = kept->next) {
        Accel__V1__AgentUp *up =
            accel__v1__agent_up__unpack(&codec_memory, kept->len, kept->packed);
        CHECK(up && up->body_case == ACCEL__V1__AGENT_UP__BODY_REPORT);
        set_ages(up->report, ev->now_ns, kept->event_ns, kept->failed_ns);
        send_up(a, up, out);
        trace_report(a, ev, "RESEND", up->report);
        accel__v1__agent_up__free_unpacked(up, NULL);
    }
}

/* ---- opening ---- */

static const char *attempt_state(const struct attempt *t)
{
    if (t->is_gone)
        return worker_state_name(WORKER_EXITED);
    if (t->stop_cause)
        return worker_state_name(WORKER_STOPPING);
    return worker_state_name(t->is_started ? WORKER_RUNNING : WORKER_PREPARED);
}

static void add_statuses(const struct agent *a, Accel__V1__Hello *hello, struct arena *arena)
{
    size_t count = HASH_COUNT(a->attempts);
    hello->attempts = ARENA_ARRAY(arena, Accel__V1__AttemptStatus *, count + 1);
    for (const struct attempt *t = a->attempts; t; t = t->hh.next) {
        Accel__V1__AttemptStatus *status = ARENA_NEW(arena, Accel__V1__AttemptStatus);
        accel__v1__attempt_status__init(status);
        status->ref = ARENA_NEW(arena, Accel__V1__AttemptRef);
        accel__v1__attempt_ref__init(status->ref);
        status->ref->job_id = t->key.job_id;
        status->ref->attempt = (uint32_t)t->key.attempt;
        status->ref->era = t->era;
        status->state = arena_strdup(arena, attempt_state(t));
        hello->attempts[hello->n_attempts++] = status;
    }
    CHECK(hello->n_attempts == count);
}

/* In order of insertion: at the cap the later ones wait until those before them are forgotten. Not
 * those of another era: a coordinator with an older or an empty store does not know them, and would
 * have their output removed. */
static void add_kept(const struct agent *a, Accel__V1__Hello *hello, struct arena *arena)
{
    size_t cap = MIN((size_t)HASH_COUNT(a->jobs), (size_t)LIMIT_KEPT_JOBS);
    hello->kept_jobs = ARENA_ARRAY(arena, uint64_t, cap + 1);
    for (const struct job_seen *j = a->jobs; j && hello->n_kept_jobs < cap; j = j->hh.next) {
        if (j->known == 0 && j->era == a->seen_era)
            hello->kept_jobs[hello->n_kept_jobs++] = j->job_id;
    }
}

void agent_session_on_open(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    CHECK(a->session == SESSION_CLOSED); /* one at a time: the shell tells the loss first */
    CHECK(a->node);                      /* and what the node is before anything */
    a->session = SESSION_GREETING;
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Hello hello = ACCEL__V1__HELLO__INIT;
    Accel__V1__Node *node = accel__v1__node__unpack(&codec_memory, a->node_len, a->node);
    CHECK(node);
    node->incarnation = a->incarnation;
    hello.node = node;
    hello.machine_id = a->machine_id;
    hello.era = a->seen_era;
    hello.epoch = a->seen_epoch;
    if (a->has_seal)
        hello.seal = (ProtobufCBinaryData){sizeof(a->seal), a->seal};
    add_statuses(a, &hello, &out->arena);
    add_kept(a, &hello, &out->arena);
    up.body_case = ACCEL__V1__AGENT_UP__BODY_HELLO;
    up.hello = &hello;
    send_up(a, &up, out);
    agent_trace(a, ev, "SEND hello seen %" PRIu64 "/%" PRIu64 " attempts %zu", a->seen_era,
                a->seen_epoch, hello.n_attempts);
    accel__v1__node__free_unpacked(node, NULL);
}

void agent_session_on_lost(struct agent *a, const struct agent_event *ev)
{
    session_apply(a, ev, SESSION_LOST, NULL, NULL, NULL); /* has no actions: see the rows */
}

void agent_session_on_node(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    size_t len = accel__v1__node__get_packed_size(ev->node);
    uint8_t *packed = xcalloc(1, len + 1);
    CHECK(accel__v1__node__pack(ev->node, packed) == len);
    bool is_same = a->node && a->node_len == len && memcmp(a->node, packed, len) == 0;
    free(a->node);
    a->node = packed;
    a->node_len = len;
    /* While greeting, Hello has gone with what was known then: the change follows it. */
    if (is_same || a->session == SESSION_CLOSED)
        return;
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Beat beat = ACCEL__V1__BEAT__INIT;
    beat.n_devices = ev->node->n_devices;
    beat.devices = ev->node->devices;
    beat.slice = ev->node->slice;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_BEAT;
    up.beat = &beat;
    send_up(a, &up, out);
    agent_trace(a, ev, "SEND beat devices %zu", beat.n_devices);
}

static void on_welcome(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    const Accel__V1__Welcome *w = ev->down->welcome;
    const char *why = a->session == SESSION_OPEN ? "a second Welcome" : "a stale coordinator";
    const struct lifecycle_row *row = session_apply(a, ev, SESSION_WELCOME, w, why, out);
    if (row->kind != LIFECYCLE_MOVE || row->next != SESSION_OPEN)
        return;
    a->era = w->era;
    a->epoch = w->epoch;
    a->is_bye = false;
    if (row->effects & EFFECT_PERSIST) {
        struct agent_action *act = agent_act(out, AGENT_ACT_PERSIST_SEEN, NULL);
        act->era = a->seen_era = w->era;
        act->epoch = a->seen_epoch = w->epoch;
        a->has_seal = w->seal.len == sizeof(a->seal);
        if (a->has_seal) {
            memcpy(a->seal, w->seal.data, sizeof(a->seal));
            act->data = arena_dup(&out->arena, a->seal, sizeof(a->seal));
            act->len = sizeof(a->seal);
        }
        agent_trace(a, ev, "PERSIST seen %" PRIu64 "/%" PRIu64, w->era, w->epoch);
    }
    if (row->effects & EFFECT_RESEND) {
        resend_reports(a, ev, out);
        agent_on_welcomed(a, ev, out);
    }
}

/* ---- commands ---- */

static void on_report_ack(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    uint64_t seq = ev->down->report_ack->seq;
    while (a->first_report && a->first_report->seq <= seq) {
        struct report *kept = a->first_report;
        a->first_report = kept->next;
        if (!a->first_report)
            a->end_report = &a->first_report;
        CHECK(a->report_count > 0);
        a->report_count--;
        a->acked_seq = kept->seq;
        if (kept->leaves_mark) {
            struct agent_action *act = agent_act(out, AGENT_ACT_MARK_ACKED, NULL);
            act->id = (struct attempt_id){kept->key.job_id, (uint32_t)kept->key.attempt};
            agent_trace(a, ev, "MARK job %" PRIu64 ".%" PRIu64 " acked", kept->key.job_id,
                        kept->key.attempt);
        }
        struct attempt *t = NULL;
        if (kept->is_end)
            t = agent_find(a, kept->key.job_id, kept->key.attempt);
        if (t && t->is_gone)
            agent_forget_attempt(a, t);
        free(kept->packed);
        free(kept);
    }
}

/* What makes this command a breach of the protocol, NULL if nothing. */
static const char *command_fault(const struct agent *a, const Accel__V1__CoordDown *down)
{
    switch (down->body_case) {
    case ACCEL__V1__COORD_DOWN__BODY_START:
        if (a->report_count >= LIMIT_DEFERRED_MESSAGES)
            return "too many reports wait for their acknowledgement";
        return down->start->ref ? NULL : "a Start of nothing";
    case ACCEL__V1__COORD_DOWN__BODY_GO: return down->go->ref ? NULL : "a Go of nothing";
    case ACCEL__V1__COORD_DOWN__BODY_STOP: return down->stop->ref ? NULL : "a Stop of nothing";
    case ACCEL__V1__COORD_DOWN__BODY_SIGNAL:
        return down->signal->ref ? NULL : "a signal for nothing";
    case ACCEL__V1__COORD_DOWN__BODY_REPORT_ACK:
        return down->report_ack->seq <= a->last_seq ? NULL
                                                    : "an acknowledgement of what was never sent";
    default: return NULL; /* unknown ones are a newer coordinator's; it knows our version */
    }
}

void agent_session_on_down(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    if (ev->down->body_case == ACCEL__V1__COORD_DOWN__BODY_WELCOME) {
        on_welcome(a, ev, out);
        return;
    }
    const char *fault = command_fault(a, ev->down);
    session_apply(a, ev, fault ? SESSION_ABORT : SESSION_COMMAND, NULL,
                  fault ? fault : "a command before the Welcome", out);
    if (a->session != SESSION_OPEN)
        return;
    switch (ev->down->body_case) {
    case ACCEL__V1__COORD_DOWN__BODY_START: agent_on_start(a, ev, out); break;
    case ACCEL__V1__COORD_DOWN__BODY_GO: agent_on_go(a, ev, out); break;
    case ACCEL__V1__COORD_DOWN__BODY_STOP: agent_on_stop(a, ev, out); break;
    case ACCEL__V1__COORD_DOWN__BODY_SIGNAL: agent_on_signal(a, ev, out); break;
    case ACCEL__V1__COORD_DOWN__BODY_REPORT_ACK: on_report_ack(a, ev, out); break;
    case ACCEL__V1__COORD_DOWN__BODY_FORGET: agent_on_forget(a, ev, out); break;
    case ACCEL__V1__COORD_DOWN__BODY_BYE:
        a->is_bye = true;
        agent_trace(a, ev, "the coordinator goes: %s", ev->down->bye->reason);
        break;
    default: break;
    }
}

bool agent_is_welcomed(const struct agent *a)
{
    return a->session == SESSION_OPEN;
}

bool agent_is_bye(const struct agent *a)
{
    return a->is_bye;
}

/* ---- invariants ---- */

void agent_session_check(const struct agent *a)
{
    CHECK(a->session <= SESSION_CLOSED);
    CHECK((a->first_report == NULL) == (a->report_count == 0));
    CHECK(a->first_report || a->end_report == &a->first_report);
    CHECK(*a->end_report == NULL);
    CHECK(a->acked_seq + a->report_count == a->last_seq);
    CHECK(!a->first_report || a->first_report->seq == a->acked_seq + 1);
    /* Open means obeyed: nothing older than what is durable. */
    CHECK(a->session != SESSION_OPEN || (a->era == a->seen_era && a->epoch == a->seen_epoch));
}

void agent_session_check_all(const struct agent *a)
{
    size_t count = 0;
    uint64_t seq = a->acked_seq;
    for (const struct report *kept = a->first_report; kept; kept = kept->next) {
        CHECK(kept->seq == ++seq);
        CHECK(!kept->leaves_mark || kept->is_end);
        count++;
    }
    CHECK(count == a->report_count);
}
