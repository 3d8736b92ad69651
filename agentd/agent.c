/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The attempts of this node: which Start is obeyed, when a gang is stopped, what has ended.
 * Neighbours: agent_session.c (sessions and reports), agent_report.c (what is said of an attempt),
 * worker.c (the life of a rank). It must do no I/O and read no clock: time comes with the event.
 */
#include "agentd/agent.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agentd/agent_impl.h"
#include "common/lifecycle.h"
#include "common/limits.h"
#include "common/str.h"

#define EACH_ATTEMPT(a, t)                                                                         \
    for (struct attempt *t = (a)->attempts; t; t = (struct attempt *)t->hh.next)

static const char *const cause_names[] = {
    [ACCEL__V1__CAUSE__CAUSE_NONE] = "none",
    [ACCEL__V1__CAUSE__CAUSE_SUCCEEDED] = "succeeded",
    [ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED] = "worker_failed",
    [ACCEL__V1__CAUSE__CAUSE_START_FAILED] = "start_failed",
    [ACCEL__V1__CAUSE__CAUSE_CANCELLED] = "cancelled",
    [ACCEL__V1__CAUSE__CAUSE_TIME_LIMIT] = "time_limit",
    [ACCEL__V1__CAUSE__CAUSE_SHIM_LOST] = "shim_lost",
    [ACCEL__V1__CAUSE__CAUSE_NODE_LOST] = "node_lost",
    [ACCEL__V1__CAUSE__CAUSE_FENCED] = "fenced",
    [ACCEL__V1__CAUSE__CAUSE_DEVICE_FAULT] = "device_fault",
};

const char *agent_cause_name(uint32_t cause)
{
    return cause < ARRAY_LEN(cause_names) ? cause_names[cause] : "unknown";
}

/* ---- actions ---- */

void agent_actions_init(struct agent_actions *a)
{
    *a = (struct agent_actions){0};
    arena_init(&a->arena);
}

void agent_actions_done(struct agent_actions *a)
{
    arena_done(&a->arena);
    free(a->items);
    *a = (struct agent_actions){0};
}

void agent_actions_reset(struct agent_actions *a)
{
    arena_reset(&a->arena);
    a->len = 0;
}

struct agent_action *agent_act(struct agent_actions *out, enum agent_action_type type,
                               const struct attempt *t)
{
    if (out->len == out->cap) {
        out->cap = out->cap ? out->cap * 2 : 16;
        out->items = xrealloc(out->items, out->cap * sizeof(*out->items));
    }
    struct agent_action *act = &out->items[out->len++];
    *act = (struct agent_action){.type = type, .rank = -1};
    if (t)
        act->id = (struct attempt_id){t->key.job_id, (uint32_t)t->key.attempt};
    return act;
}

/* ---- the tables of attempts and jobs ---- */

struct attempt *agent_find(const struct agent *a, uint64_t job_id, uint64_t attempt)
{
    struct attempt_key key = {job_id, attempt};
    struct attempt *t = NULL;
    HASH_FIND(hh, a->attempts, &key, sizeof(key), t);
    return t;
}

static struct job_seen *job_find(const struct agent *a, uint64_t job_id)
{
    struct job_seen *j = NULL;
    HASH_FIND(hh, a->jobs, &job_id, sizeof(job_id), j);
    return j;
}

/* Remembers the highest attempt of the job. */
static struct job_seen *job_note(struct agent *a, uint64_t job_id, uint64_t era, uint32_t attempt)
{
    struct job_seen *j = job_find(a, job_id);
    if (!j) {
        j = xcalloc(1, sizeof(*j));
        j->job_id = job_id;
        HASH_ADD(hh, a->jobs, job_id, sizeof(j->job_id), j);
    }
    if (era > j->era || (era == j->era && attempt > j->attempt)) {
        j->era = era;
        j->attempt = attempt;
    }
    return j;
}

static struct attempt *attempt_add(struct agent *a, struct attempt_id id, uint64_t era,
                                   uint32_t local_size)
{
    CHECK(local_size > 0 && local_size <= LIMIT_PROCS_PER_NODE);
    const struct job_seen *before = job_find(a, id.job_id);
    struct attempt *t = xcalloc(1, sizeof(*t));
    t->before_era = before ? before->era : 0;
    t->before_attempt = before ? before->attempt : 0;
    t->key = (struct attempt_key){id.job_id, id.attempt};
    t->era = era;
    t->local_size = t->alive = local_size;
    t->workers = xcalloc(local_size, sizeof(*t->workers));
    t->first_failed = t->unstarted = -1;
    t->job = job_note(a, id.job_id, era, id.attempt);
    t->job->known++;
    HASH_ADD(hh, a->attempts, key, sizeof(t->key), t);
    a->live++;
    return t;
}

static void attempt_set_isolation(struct attempt *t, char *const *texts, size_t count)
{
    for (size_t i = 0; i < t->isolation_count; i++)
        free(t->isolation[i]);
    free(t->isolation);
    t->isolation_count = MIN(count, (size_t)LIMIT_ISOLATION_TEXTS);
    t->isolation = xcalloc(t->isolation_count + 1, sizeof(*t->isolation));
    for (size_t i = 0; i < t->isolation_count; i++)
        t->isolation[i] = xstrdup(texts[i]);
}

static void attempt_free(struct attempt *t)
{
    attempt_set_isolation(t, NULL, 0);
    free(t->isolation);
    for (uint32_t i = 0; i < t->local_size; i++)
        worker_done(&t->workers[i]);
    for (size_t i = 0; i < t->device_count; i++)
        free(t->devices[i]);
    free(t->devices);
    free(t->workers);
    free(t->master_addr);
    free(t->broken);
    free(t->start);
    free(t);
}

void agent_forget_attempt(struct agent *a, struct attempt *t)
{
    CHECK(t->is_gone && t->job->known > 0);
    t->job->known--;
    HASH_DEL(a->attempts, t);
    attempt_free(t);
}

void agent_unknow_attempt(struct agent *a, struct attempt *t)
{
    struct job_seen *j = t->job;
    if (j->era == t->era && j->attempt == t->key.attempt) {
        j->era = t->before_era;
        j->attempt = t->before_attempt;
    }
    agent_forget_attempt(a, t);
    if (j->known == 0 && j->attempt == 0) {
        HASH_DEL(a->jobs, j);
        free(j);
    }
}

static void attempt_check(const struct attempt *t)
{
    CHECK(t->is_gone == (t->stage == STAGE_GONE));
    CHECK(t->alive <= t->local_size);
    CHECK(!t->is_gone || t->alive == 0);
    CHECK(t->first_failed < (int32_t)t->local_size);
    CHECK(t->first_failed < 0 || t->workers[t->first_failed].state == WORKER_EXITED);
    CHECK(t->unstarted < (int32_t)t->local_size);
    CHECK(t->unstarted < 0 || t->workers[t->unstarted].error);
}

static struct worker *worker_by_rank(struct attempt *t, uint32_t rank)
{
    uint32_t i = rank - t->first_rank; /* wraps for a lower rank */
    if (i < t->local_size && t->workers[i].rank == rank)
        return &t->workers[i];
    for (i = 0; i < t->local_size; i++) { /* a spec of another version may list them otherwise */
        if (t->workers[i].rank == rank)
            return &t->workers[i];
    }
    return NULL;
}

/* ---- what happens to ranks ---- */

/* The one that was reaped first failed first; of two at the same nanosecond the first told. */
static void note_failure(struct attempt *t, const struct worker *w)
{
    if (t->first_failed < 0 || w->end_boot_ns < t->workers[t->first_failed].end_boot_ns)
        t->first_failed = (int32_t)(w - t->workers);
}

static uint32_t apply(struct agent *a, const struct agent_event *ev, struct attempt *t,
                      struct worker *w, enum worker_event event, const Accel__V1__RankExit *said)
{
    uint8_t before = w->state;
    uint32_t effects = worker_apply(w, event, said);
    if (a->trace && w->state != before)
        agent_trace(a, ev, "job %" PRIu64 ".%" PRIu64 " rank %" PRIu32 " %s -> %s (%s)",
                    t->key.job_id, t->key.attempt, w->rank, worker_state_name(before),
                    worker_state_name(w->state), worker_event_name(event));
    if (effects & WORKER_EFFECT_LEAVE) {
        CHECK(t->alive > 0);
        t->alive--;
    }
    if (effects & WORKER_EFFECT_FAILED)
        note_failure(t, w);
    if ((effects & WORKER_EFFECT_UNSTARTED) && t->unstarted < 0)
        t->unstarted = (int32_t)(w - t->workers);
    return effects;
}

static void act_stop(struct agent *a, const struct agent_event *ev, const struct attempt *t,
                     struct agent_actions *out)
{
    struct agent_action *act = agent_act(out, AGENT_ACT_STOP, t);
    act->cause = t->stop_cause;
    act->grace_ms = t->stop_grace_ms;
    agent_trace(a, ev, "STOP job %" PRIu64 ".%" PRIu64 " %s grace %" PRIu64 " ms", t->key.job_id,
                t->key.attempt, agent_cause_name(t->stop_cause), t->stop_grace_ms);
}

/* The first cause names the end; a later stop may only shorten the grace. */
static void stop_attempt(struct agent *a, const struct agent_event *ev, struct attempt *t,
                         uint32_t cause, uint64_t grace_ms, struct agent_actions *out)
{
    CHECK(cause != ACCEL__V1__CAUSE__CAUSE_NONE);
    if (attempt_apply(a, ev, t, STAGE_EV_STOP, cause, out))
        return; /* nothing was made yet */
    if (t->alive == 0 || (t->stop_cause && grace_ms >= t->stop_grace_ms)) {
        agent_trace(a, ev, "job %" PRIu64 ".%" PRIu64 " needs no stop (%s)", t->key.job_id,
                    t->key.attempt, agent_cause_name(cause));
        return;
    }
    if (!t->stop_cause)
        t->stop_cause = cause;
    t->stop_grace_ms = grace_ms;
    for (uint32_t i = 0; i < t->local_size; i++)
        apply(a, ev, t, &t->workers[i], WORKER_STOP, NULL);
    act_stop(a, ev, t, out);
}

/* A rank that failed by itself takes the others with it, once. */
static void stop_if_failed(struct agent *a, const struct agent_event *ev, struct attempt *t,
                           struct agent_actions *out)
{
    if (t->first_failed >= 0 && !t->stop_cause && t->alive > 0)
        stop_attempt(a, ev, t, ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED, LIMIT_FAILURE_GRACE_MS, out);
}

/* Those on other nodes are stopped by the coordinator. */
static void tell_if_first(struct agent *a, const struct agent_event *ev, struct attempt *t,
                          int32_t before, struct agent_actions *out)
{
    if (before < 0 && t->first_failed >= 0 && !t->stop_cause)
        agent_tell_failing(a, ev, t, out);
}

static void on_started(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    struct attempt *t = agent_find(a, ev->id.job_id, ev->id.attempt);
    if (!t || t->is_gone || t->is_started)
        return; /* told again by an adopted shim */
    if (ev->master_port)
        t->master_port = ev->master_port;
    attempt_set_isolation(t, ev->started->limits, ev->started->n_limits);
    for (size_t i = 0; i < ev->started->n_ranks; i++) {
        const Accel__V1__RankExit *said = ev->started->ranks[i];
        struct worker *w = worker_by_rank(t, said->rank);
        if (w)
            apply(a, ev, t, w, worker_event_of_start(said), said);
    }
    attempt_check(t);
    if (t->unstarted >= 0)
        return; /* the shim takes the others back; its record tells the end */
    t->is_started = true;
    agent_report_started(a, ev, t, out);
    if (t->stop_cause)
        act_stop(a, ev, t, out); /* the first one may have come before there was anyone to stop */
}

static void on_exited(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    struct attempt *t = agent_find(a, ev->id.job_id, ev->id.attempt);
    struct worker *w = t && !t->is_gone ? worker_by_rank(t, ev->exit->rank) : NULL;
    if (!w)
        return;
    int32_t before = t->first_failed;
    apply(a, ev, t, w, worker_event_of_exit(ev->exit), ev->exit);
    tell_if_first(a, ev, t, before, out);
    stop_if_failed(a, ev, t, out);
    attempt_check(t);
}

/* The record's words on ranks whose exit was not told, or not in full. */
static void apply_record(struct agent *a, const struct agent_event *ev, struct attempt *t,
                         const Accel__V1__ExitRecord *record, bool is_shim_lost)
{
    for (size_t i = 0; record && i < record->n_ranks; i++) {
        Accel__V1__RankExit said = *record->ranks[i];
        struct worker *w = worker_by_rank(t, said.rank);
        if (!w)
            continue;
        if (w->state == WORKER_EXITED) {
            worker_complete(w, &said);
            continue;
        }
        if (is_shim_lost)
            said.stopped = true; /* it died with its shim, not by itself */
        apply(a, ev, t, w, worker_event_of_exit(&said), &said);
    }
}

void agent_end_attempt(struct agent *a, const struct agent_event *ev, struct attempt *t)
{
    for (uint32_t i = 0; i < t->local_size; i++)
        apply(a, ev, t, &t->workers[i], WORKER_SWEPT, NULL);
    CHECK(t->alive == 0 && a->live > 0);
    t->is_gone = true;
    a->live--;
    attempt_check(t);
}

static void on_gone(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    struct attempt *t = agent_find(a, ev->id.job_id, ev->id.attempt);
    if (!t || t->is_gone)
        return;
    if (ev->exists) {
        const char *text =
            ev->record && ev->record->text[0] ? ev->record->text : "this attempt was here before";
        (void)attempt_apply(a, ev, t, STAGE_EV_END, 0, out);
        agent_report_never_started(a, ev, t->key, t->era, ACCEL__V1__CAUSE__CAUSE_FENCED, text,
                                   out);
        return;
    }
    apply_record(a, ev, t, ev->record, ev->shim_lost);
    (void)attempt_apply(a, ev, t, STAGE_EV_END, 0, out);
    agent_report_ended(a, ev, t, ev->record, ev->shim_lost, out);
}

static void on_launch_refused(struct agent *a, const struct agent_event *ev,
                              struct agent_actions *out)
{
    struct attempt *t = agent_find(a, ev->id.job_id, ev->id.attempt);
    if (!t || t->is_gone)
        return;
    uint32_t cause = ev->cause ? ev->cause : ACCEL__V1__CAUSE__CAUSE_START_FAILED;
    (void)attempt_apply(a, ev, t, STAGE_EV_END, 0, out);
    agent_report_never_started(a, ev, t->key, t->era, cause,
                               ev->text ? ev->text : "it could not be launched", out);
}

/* ---- devices ---- */

static const Accel__V1__Device *broken_device(const struct attempt *t, const Accel__V1__Node *node)
{
    for (size_t i = 0; i < node->n_devices; i++) {
        const Accel__V1__Device *d = node->devices[i];
        for (size_t k = 0; d->is_broken && k < t->device_count; k++) {
            if (strcmp(t->devices[k], d->id) == 0)
                return d;
        }
    }
    return NULL;
}

void agent_on_devices(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    EACH_ATTEMPT(a, t)
    {
        const Accel__V1__Device *d = t->is_gone || t->broken ? NULL : broken_device(t, ev->node);
        if (!d)
            continue;
        AUTO_STR struct str text = {0};
        str_init(&text);
        str_addf(&text, "%s: %s", d->id, d->fault);
        t->broken = str_steal(&text);
        stop_attempt(a, ev, t, ACCEL__V1__CAUSE__CAUSE_DEVICE_FAULT, LIMIT_FAILURE_GRACE_MS, out);
        attempt_check(t);
    }
}

/* ---- adoption ---- */

static struct attempt *attempt_from_spec(struct agent *a, const struct launcher_found *f)
{
    const Accel__V1__AttemptSpec *spec = f->spec;
    size_t device_count = 0;
    struct attempt *t = attempt_add(a, f->id, f->era, (uint32_t)spec->n_ranks);
    t->first_rank = spec->ranks[0]->rank;
    for (size_t i = 0; i < spec->n_ranks; i++) {
        worker_init(&t->workers[i], spec->ranks[i]->rank, spec->ranks[i]->local_rank);
        device_count += spec->ranks[i]->n_devices;
    }
    t->devices = xcalloc(device_count + 1, sizeof(*t->devices));
    for (size_t i = 0; i < spec->n_ranks; i++) {
        for (size_t d = 0; d < spec->ranks[i]->n_devices; d++)
            t->devices[t->device_count++] = xstrdup(spec->ranks[i]->devices[d]);
    }
    t->master_addr = xstrdup(spec->master_addr);
    t->master_port = spec->master_port;
    t->memory_bytes = spec->memory_bytes;
    return t;
}

static void adopt_live(struct agent *a, const struct agent_event *ev, struct attempt *t,
                       const Accel__V1__ShimHello *hello, struct agent_actions *out)
{
    for (size_t i = 0; hello && i < hello->n_ranks; i++) {
        const Accel__V1__RankExit *said = hello->ranks[i];
        struct worker *w = worker_by_rank(t, said->rank);
        if (!w)
            continue;
        if (said->pid || said->error[0])
            apply(a, ev, t, w, worker_event_of_start(said), said);
        if (said->exited)
            apply(a, ev, t, w, worker_event_of_exit(said), said);
    }
    if (hello)
        attempt_set_isolation(t, hello->limits, hello->n_limits);
    t->is_started = hello && hello->started && t->unstarted < 0; /* told after the Welcome */
    stop_if_failed(a, ev, t, out); /* nobody was here to do it when the rank failed */
}

static void on_found(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    const struct launcher_found *f = ev->found;
    CHECK(a->session == SESSION_CLOSED);
    if (agent_find(a, f->id.job_id, f->id.attempt))
        return;
    if (!f->spec || f->spec->n_ranks == 0 || f->spec->n_ranks > LIMIT_PROCS_PER_NODE) {
        /* Nothing that can be spoken of: the crash came before its spec was whole, and the launcher
         * has swept it. The coordinator misses it in Hello; here it only has to stop being found.
         */
        if (!f->is_live)
            agent_act(out, AGENT_ACT_MARK_ACKED, NULL)->id = f->id;
        return;
    }
    struct attempt *t = attempt_from_spec(a, f);
    t->stage = STAGE_LAUNCHED; /* its life began before ours */
    agent_trace(a, ev, "FOUND job %" PRIu64 ".%" PRIu64 " era %" PRIu64 " %s", t->key.job_id,
                t->key.attempt, t->era, f->is_live ? "live" : "ended");
    if (f->is_live) {
        adopt_live(a, ev, t, f->hello, out);
        attempt_check(t);
        return;
    }
    apply_record(a, ev, t, f->record, f->shim_lost);
    (void)attempt_apply(a, ev, t, STAGE_EV_END, 0, out);
    agent_report_ended(a, ev, t, f->record, f->shim_lost || !f->record, out);
}

/* It fences late Starts as its directory would, and waits for its Forget. */
static void on_kept(struct agent *a, const struct agent_event *ev)
{
    CHECK(a->session == SESSION_CLOSED);
    (void)job_note(a, ev->id.job_id, ev->era, ev->id.attempt);
}

void agent_on_welcomed(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    EACH_ATTEMPT(a, t)
    {
        if (t->is_gone)
            continue;
        if (t->era != a->era)
            stop_attempt(a, ev, t, ACCEL__V1__CAUSE__CAUSE_FENCED, LIMIT_FAILURE_GRACE_MS, out);
        else if (t->is_started && t->started_seq <= a->acked_seq)
            agent_report_started(a, ev, t, out);
    }
}

/* ---- commands ---- */

void agent_refuse(struct agent *a, const struct agent_event *ev, const Accel__V1__AttemptRef *ref,
                  uint32_t cause, const char *text, struct agent_actions *out)
{
    agent_trace(a, ev, "refused job %" PRIu64 ".%" PRIu32 ": %s", ref->job_id, ref->attempt, text);
    agent_report_never_started(a, ev, (struct attempt_key){ref->job_id, ref->attempt}, ref->era,
                               cause, text, out);
}

/* Why this Start is not obeyed because of its numbers; false if nothing speaks against it. */
static bool is_fenced(const struct agent *a, const Accel__V1__AttemptRef *ref, char *text,
                      size_t size)
{
    const struct job_seen *j = job_find(a, ref->job_id);
    if (ref->era != a->era) {
        snprintf(text, size, "it is of era %" PRIu64 ", this is era %" PRIu64, ref->era, a->era);
        return true;
    }
    if (!j || j->era < ref->era || (j->era == ref->era && j->attempt < ref->attempt))
        return false;
    snprintf(text, size, "attempt %" PRIu32 " of job %" PRIu64 " was here already", j->attempt,
             ref->job_id);
    return true;
}

static const char *start_fault(const Accel__V1__Start *s)
{
    if (!s->spec || s->spec->n_argv == 0)
        return "the start has no program";
    if (s->local_size == 0 || s->local_size > LIMIT_PROCS_PER_NODE)
        return "the start has no ranks for this node, or too many";
    if (s->world_size < s->local_size || s->first_rank > s->world_size - s->local_size)
        return "the start's ranks are outside of its world";
    return NULL;
}

static struct attempt *attempt_from_start(struct agent *a, const Accel__V1__Start *s)
{
    struct attempt_id id = {s->ref->job_id, s->ref->attempt};
    struct attempt *t = attempt_add(a, id, s->ref->era, s->local_size);
    t->node_rank = s->node_rank;
    t->world_size = s->world_size;
    t->first_rank = s->first_rank;
    t->memory_bytes = s->spec->memory_bytes;
    t->start_len = accel__v1__start__get_packed_size(s);
    t->start = xcalloc(1, t->start_len + 1);
    CHECK(accel__v1__start__pack(s, t->start) == t->start_len);
    for (uint32_t i = 0; i < t->local_size; i++)
        worker_init(&t->workers[i], s->first_rank + i, i);
    t->devices = xcalloc(s->n_devices + 1, sizeof(*t->devices));
    for (size_t i = 0; i < s->n_devices; i++)
        t->devices[t->device_count++] = xstrdup(s->devices[i]);
    t->master_addr = xstrdup(s->master_addr[0] ? s->master_addr : a->local_address);
    return t;
}

void agent_on_start(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    const Accel__V1__Start *s = ev->down->start;
    char text[LIMIT_REASON_BYTES];
    if (agent_find(a, s->ref->job_id, s->ref->attempt)) {
        /* Live, or ended and not acknowledged: its own reports answer. "Never started" would be a
         * lie that ends it at the coordinator while it runs here. */
        agent_trace(a, ev, "START job %" PRIu64 ".%" PRIu32 " again: ignored", s->ref->job_id,
                    s->ref->attempt);
        return;
    }
    if (is_fenced(a, s->ref, text, sizeof(text))) {
        agent_refuse(a, ev, s->ref, ACCEL__V1__CAUSE__CAUSE_FENCED, text, out);
        return;
    }
    if (start_fault(s)) {
        agent_refuse(a, ev, s->ref, ACCEL__V1__CAUSE__CAUSE_START_FAILED, start_fault(s), out);
        return;
    }
    struct job_seen *j = job_find(a, s->ref->job_id);
    struct attempt *older = j ? agent_find(a, j->job_id, j->attempt) : NULL;
    if (older && !older->is_gone) /* numbers fence: two generations never run side by side */
        stop_attempt(a, ev, older, ACCEL__V1__CAUSE__CAUSE_FENCED, LIMIT_FAILURE_GRACE_MS, out);
    struct attempt *t = attempt_from_start(a, s);
    (void)attempt_apply(a, ev, t, s->prepare ? STAGE_EV_PREPARE : STAGE_EV_LAUNCH, 0, out);
}

void agent_on_stop(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    const Accel__V1__Stop *s = ev->down->stop;
    struct attempt *t = agent_find(a, s->ref->job_id, s->ref->attempt);
    if (!t || t->era != s->ref->era) {
        agent_refuse(a, ev, s->ref, ACCEL__V1__CAUSE__CAUSE_NODE_LOST,
                     "this node knows nothing of the attempt", out);
        return;
    }
    uint32_t cause = s->cause ? s->cause : ACCEL__V1__CAUSE__CAUSE_CANCELLED;
    stop_attempt(a, ev, t, cause, s->grace_ms, out);
    attempt_check(t);
}

void agent_on_signal(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    const Accel__V1__SignalRanks *s = ev->down->signal;
    struct attempt *t = agent_find(a, s->ref->job_id, s->ref->attempt);
    if (!t || t->era != s->ref->era || t->alive == 0)
        return; /* it has ended: its report says so */
    struct agent_action *act = agent_act(out, AGENT_ACT_SIGNAL, t);
    act->signo = s->signo;
    agent_trace(a, ev, "SIGNAL %" PRId32 " job %" PRIu64 ".%" PRIu64, s->signo, t->key.job_id,
                t->key.attempt);
}

void agent_on_forget(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    uint64_t job_id = ev->down->forget->job_id;
    struct job_seen *j = job_find(a, job_id);
    if (j && j->known > 0) {
        agent_trace(a, ev, "FORGET job %" PRIu64 ": ignored, attempts are known", job_id);
        return;
    }
    if (j) {
        HASH_DEL(a->jobs, j);
        free(j);
    }
    struct agent_action *act = agent_act(out, AGENT_ACT_FORGET, NULL);
    act->id.job_id = job_id;
    agent_trace(a, ev, "FORGET job %" PRIu64, job_id);
}

/* ---- the core ---- */

struct agent *agent_create(const struct agent_config *config, uint64_t seen_era,
                           uint64_t seen_epoch)
{
    lifecycle_verify(&attempt_lifecycle);
    lifecycle_verify(&worker_lifecycle);
    lifecycle_verify(&agent_session_lifecycle);
    struct agent *a = xcalloc(1, sizeof(*a));
    a->idle_exit_ms = config->idle_exit_ms;
    a->incarnation = config->incarnation;
    a->local_address = xstrdup(config->local_address ? config->local_address : "");
    a->node_name = xstrdup(config->node_name ? config->node_name : "agent");
    a->machine_id = xstrdup(config->machine_id ? config->machine_id : "");
    a->attempts_dir = xstrdup(config->attempts_dir ? config->attempts_dir : "");
    a->trace = config->trace;
    a->session = SESSION_CLOSED;
    a->seen_era = seen_era;
    a->seen_epoch = seen_epoch;
    a->has_seal = config->seal != NULL;
    if (config->seal)
        memcpy(a->seal, config->seal, sizeof(a->seal));
    a->idle_since_ms = -1;
    a->end_report = &a->first_report;
    return a;
}

void agent_destroy(struct agent *a)
{
    if (!a)
        return;
    for (struct report *next; a->first_report; a->first_report = next) {
        next = a->first_report->next;
        free(a->first_report->packed);
        free(a->first_report);
    }
    struct attempt *t, *t_next;
    HASH_ITER(hh, a->attempts, t, t_next) {
        HASH_DEL(a->attempts, t);
        attempt_free(t);
    }
    struct job_seen *j, *j_next;
    HASH_ITER(hh, a->jobs, j, j_next) {
        HASH_DEL(a->jobs, j);
        free(j);
    }
    free(a->node);
    free(a->local_address);
    free(a->address);
    free(a->node_name);
    free(a->machine_id);
    free(a->attempts_dir);
    free(a);
}

static bool is_idle(const struct agent *a)
{
    return a->session == SESSION_CLOSED && a->live == 0;
}

static void on_tick(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    int64_t deadline_ms = agent_deadline_ms(a);
    if (deadline_ms < 0 || ev->now_ms < deadline_ms)
        return;
    a->is_exiting = true;
    agent_act(out, AGENT_ACT_EXIT, NULL);
    agent_trace(a, ev, "EXIT: idle");
}

void agent_step(struct agent *a, const struct agent_event *ev, struct agent_actions *out)
{
    agent_check(a);
    if (a->idle_since_ms < 0 && is_idle(a))
        a->idle_since_ms = ev->now_ms; /* the first event */
    switch (ev->type) {
    case AGENT_EV_TICK: on_tick(a, ev, out); break;
    case AGENT_EV_NODE:
        free(a->address);
        a->address = ev->node->address[0] ? xstrdup(ev->node->address) : NULL;
        agent_session_on_node(a, ev, out);
        agent_on_devices(a, ev, out);
        break;
    case AGENT_EV_FOUND: on_found(a, ev, out); break;
    case AGENT_EV_KEPT: on_kept(a, ev); break;
    case AGENT_EV_SESSION_OPEN: agent_session_on_open(a, ev, out); break;
    case AGENT_EV_SESSION_LOST: agent_session_on_lost(a, ev); break;
    case AGENT_EV_DOWN: agent_session_on_down(a, ev, out); break;
    case AGENT_EV_LAUNCH_REFUSED: on_launch_refused(a, ev, out); break;
    case AGENT_EV_PREPARED: agent_on_prepared(a, ev, out); break;
    case AGENT_EV_STARTED: on_started(a, ev, out); break;
    case AGENT_EV_EXITED: on_exited(a, ev, out); break;
    case AGENT_EV_GONE: on_gone(a, ev, out); break;
    }
    if (a->session == SESSION_CLOSED && a->prepared > 0)
        agent_drop_prepared(a, ev, out);
    if (!is_idle(a))
        a->idle_since_ms = -1; /* counted again from the event that ends it */
    else if (a->idle_since_ms < 0)
        a->idle_since_ms = ev->now_ms;
    agent_check(a);
}

int64_t agent_deadline_ms(const struct agent *a)
{
    if (a->idle_exit_ms <= 0 || a->is_exiting || a->idle_since_ms < 0)
        return -1;
    /* Who started us may still be starting the coordinator. */
    int64_t wait_ms =
        a->epoch == 0 ? MAX(a->idle_exit_ms, (int64_t)LIMIT_DAEMON_START_MS) : a->idle_exit_ms;
    return a->idle_since_ms + wait_ms;
}

size_t agent_attempts_live(const struct agent *a)
{
    return a->live;
}

void agent_check(const struct agent *a)
{
    CHECK(a->live <= HASH_COUNT(a->attempts));
    CHECK(a->prepared <= a->live && (a->prepared == 0 || a->session == SESSION_OPEN));
    CHECK(is_idle(a) || a->idle_since_ms < 0);
    CHECK(HASH_COUNT(a->jobs) > 0 || HASH_COUNT(a->attempts) == 0);
    agent_session_check(a);
}

void agent_check_all(const struct agent *a)
{
    size_t live = 0;
    agent_check(a);
    agent_session_check_all(a);
    EACH_ATTEMPT(a, t)
    {
        uint32_t alive = 0;
        attempt_check(t);
        CHECK(t->job->job_id == t->key.job_id && t->job->known > 0);
        CHECK(t->job->era > t->era || t->job->attempt >= t->key.attempt);
        for (uint32_t i = 0; i < t->local_size; i++) {
            worker_check(&t->workers[i]);
            alive += t->workers[i].state != WORKER_EXITED;
        }
        CHECK(alive == t->alive);
        live += !t->is_gone;
    }
    CHECK(live == a->live);
}
