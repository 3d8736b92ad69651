/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job.c - the life of a job: its table, and job_apply(), the only place that changes a job's state.
 * Effects are small functions below, run in bit order. Neighbours: place.c gives a gang its devices
 * and then applies JOB_EV_PLACE; coord_agent.c turns reports into JOB_EV_STARTED and
 * JOB_EV_ATTEMPT_ENDED.
 */
#include "scheduler/coord_internal.h"

enum job_effect {
    EFFECT_START = 1 << 0,         /* persist the new attempt, send Start to its nodes */
    EFFECT_RUNNING = 1 << 1,       /* note that all ranks run */
    EFFECT_STOP = 1 << 2,          /* send Stop with the cause */
    EFFECT_KILL = 1 << 3,          /* send Stop without grace */
    EFFECT_CLOSE_ATTEMPT = 1 << 4, /* write the attempt's end and its workers */
    EFFECT_COUNT_RESTART = 1 << 5, /* one of max_restarts is used, or a free one */
    EFFECT_ENQUEUE = 1 << 6,       /* back into the queue, at its id's place */
    EFFECT_DEQUEUE = 1 << 7,       /* out of the queue */
    EFFECT_INTEND = 1 << 8,        /* remember what the end will be called */
    EFFECT_FINISH = 1 << 9,        /* result, exit code, end; free what only a live job needs */
};

static const char *const state_names[] = {"PENDING", "STARTING", "RUNNING", "STOPPING", "ENDED"};
static const char *const event_names[] = {"PLACE", "STARTED", "ATTEMPT_ENDED", "CANCEL",
                                          "TIME_LIMIT"};
static const char *const effect_names[] = {"start",         "note running",  "stop",    "kill",
                                           "close attempt", "count restart", "enqueue", "dequeue",
                                           "intend",        "finish"};

static bool guard_retry(const void *object, const void *event)
{
    const struct job *j = object;
    const struct attempt *a = attempt_find(j, 0);

    (void)event;
    switch (a->cause) {
    case ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED:
        if (a->was_interrupted) /* its user's Ctrl-C is not a failure to recover from */
            return false;
        return j->run->restarts < j->max_restarts;
    case ACCEL__V1__CAUSE__CAUSE_SHIM_LOST: return j->run->restarts < j->max_restarts;
    case ACCEL__V1__CAUSE__CAUSE_NODE_LOST:
    case ACCEL__V1__CAUSE__CAUSE_DEVICE_FAULT:
    case ACCEL__V1__CAUSE__CAUSE_FENCED: return j->run->free_restarts < LIMIT_FREE_RESTARTS;
    default: return false;
    }
}

static bool guard_kill(const void *object, const void *event)
{
    const struct job_event_data *data = event;

    (void)object;
    return data && data->kill;
}

static const struct lifecycle_guard restart_allowed = {"a restart is allowed for the cause",
                                                       guard_retry};
static const struct lifecycle_guard is_kill = {"without grace", guard_kill};

#define MOVE(s, e, g, n, fx) LIFECYCLE_ROW(JOB, JOB_EV, s, e, g, MOVE, n, fx, NULL)
#define IGNORE(s, e, why)    LIFECYCLE_ROW(JOB, JOB_EV, s, e, NULL, IGNORE, s, 0, why)
#define REFUSE(s, e, why)    LIFECYCLE_ROW(JOB, JOB_EV, s, e, NULL, REFUSE, s, 0, why)

static const struct lifecycle_row rows[] = {
    MOVE(PENDING, PLACE, NULL, STARTING, EFFECT_DEQUEUE | EFFECT_START),
    IGNORE(PENDING, STARTED, "a late word of an attempt that is over"),
    IGNORE(PENDING, ATTEMPT_ENDED, "a late word of an attempt that is over"),
    MOVE(PENDING, CANCEL, NULL, ENDED, EFFECT_DEQUEUE | EFFECT_INTEND | EFFECT_FINISH),
    MOVE(PENDING, TIME_LIMIT, NULL, ENDED, EFFECT_DEQUEUE | EFFECT_INTEND | EFFECT_FINISH),

    REFUSE(STARTING, PLACE, "it has its devices already"),
    MOVE(STARTING, STARTED, NULL, RUNNING, EFFECT_RUNNING),
    MOVE(STARTING, ATTEMPT_ENDED, &restart_allowed, PENDING,
         EFFECT_CLOSE_ATTEMPT | EFFECT_COUNT_RESTART | EFFECT_ENQUEUE),
    MOVE(STARTING, ATTEMPT_ENDED, NULL, ENDED, EFFECT_CLOSE_ATTEMPT | EFFECT_FINISH),
    MOVE(STARTING, CANCEL, &is_kill, STOPPING, EFFECT_INTEND | EFFECT_KILL),
    MOVE(STARTING, CANCEL, NULL, STOPPING, EFFECT_INTEND | EFFECT_STOP),
    MOVE(STARTING, TIME_LIMIT, NULL, STOPPING, EFFECT_INTEND | EFFECT_STOP),

    REFUSE(RUNNING, PLACE, "it has its devices already"),
    IGNORE(RUNNING, STARTED, "told again in a new session"),
    MOVE(RUNNING, ATTEMPT_ENDED, &restart_allowed, PENDING,
         EFFECT_CLOSE_ATTEMPT | EFFECT_COUNT_RESTART | EFFECT_ENQUEUE),
    MOVE(RUNNING, ATTEMPT_ENDED, NULL, ENDED, EFFECT_CLOSE_ATTEMPT | EFFECT_FINISH),
    MOVE(RUNNING, CANCEL, &is_kill, STOPPING, EFFECT_INTEND | EFFECT_KILL),
    MOVE(RUNNING, CANCEL, NULL, STOPPING, EFFECT_INTEND | EFFECT_STOP),
    MOVE(RUNNING, TIME_LIMIT, NULL, STOPPING, EFFECT_INTEND | EFFECT_STOP),

    REFUSE(STOPPING, PLACE, "it is stopping"),
    IGNORE(STOPPING, STARTED, "it is stopped anyway"),
    MOVE(STOPPING, ATTEMPT_ENDED, NULL, ENDED, EFFECT_CLOSE_ATTEMPT | EFFECT_FINISH),
    MOVE(STOPPING, CANCEL, &is_kill, STOPPING, EFFECT_KILL),
    MOVE(STOPPING, CANCEL, NULL, STOPPING, EFFECT_STOP),
    IGNORE(STOPPING, TIME_LIMIT, "it is stopping already"),

    REFUSE(ENDED, PLACE, "it has ended"),
    IGNORE(ENDED, STARTED, "a late word of an attempt that is over"),
    IGNORE(ENDED, ATTEMPT_ENDED, "a late word of an attempt that is over"),
    IGNORE(ENDED, CANCEL, "it has ended"),
    IGNORE(ENDED, TIME_LIMIT, "it has ended"),
};

const struct lifecycle job_lifecycle = {
    .name = "job",
    .state_names = state_names,
    .state_count = JOB_STATE_COUNT,
    .event_names = event_names,
    .event_count = JOB_EVENT_COUNT,
    .effect_names = effect_names,
    .effect_count = ARRAY_LEN(effect_names),
    .rows = rows,
    .row_count = ARRAY_LEN(rows),
    .initial_state = JOB_PENDING,
    .end_state = JOB_ENDED,
};

const char *job_state_name(uint8_t state)
{
    return state_names[state];
}

bool job_is_live(const struct job *j)
{
    return j->state != JOB_ENDED;
}

Accel__V1__JobState job_state_to_proto(uint8_t state)
{
    static const Accel__V1__JobState map[] = {
        [JOB_PENDING] = ACCEL__V1__JOB_STATE__JOB_PENDING,
        [JOB_STARTING] = ACCEL__V1__JOB_STATE__JOB_STARTING,
        [JOB_RUNNING] = ACCEL__V1__JOB_STATE__JOB_RUNNING,
        [JOB_STOPPING] = ACCEL__V1__JOB_STATE__JOB_STOPPING,
        [JOB_ENDED] = ACCEL__V1__JOB_STATE__JOB_ENDED,
    };
    return map[state];
}

uint8_t job_state_from_proto(uint32_t state)
{
    for (uint8_t s = 0; s < JOB_STATE_COUNT; s++)
        if ((uint32_t)job_state_to_proto(s) == state)
            return s;
    return JOB_ENDED;
}

const char *cause_name(uint32_t cause)
{
    static const char *const names[] = {"none",         "succeeded", "worker_failed",
                                        "start_failed", "cancelled", "time_limit",
                                        "shim_lost",    "node_lost", "fenced"};
    return cause < ARRAY_LEN(names) ? names[cause] : "unknown";
}

/* --- effects --- */

static void effect_start(struct coord *c, struct job *j)
{
    struct attempt *a = attempt_find(j, 0);

    CHECK(a && a->number == j->run->attempt && a->end_ms == 0);
    a->start_ms = c->wall_ms;
    a->start_seq = history_add(c, EVENT_ATTEMPT_STARTED, j->id, a->number, NULL, "%s", "");
    if (j->run->start_ms == 0)
        j->run->start_ms = c->wall_ms;
    job_arm_limit(c, j);
    /* The attempt's row says that the job runs: one that waited costs no third write of its own. */
    mark_attempt(c, a, false);
    gang_start(c, a);
}

static void effect_running(struct coord *c, struct job *j)
{
    struct attempt *a = attempt_find(j, 0);

    /* Not marked: RUNNING is soft, agents tell it again after a restart; run_ms is written with the
     * attempt's end. */
    if (a->run_ms == 0)
        a->run_ms = c->wall_ms;
    a->run_seq = history_add(c, EVENT_ATTEMPT_RUNNING, j->id, a->number, NULL, "%s", "");
    orphan_started(c, j);
}

static void trim_attempts(struct coord *c, struct job *j)
{
    uint32_t count = 0;
    struct attempt *a;

    TAILQ_FOREACH(a, &j->run->attempts, of_job) count++;
    if (count <= LIMIT_ATTEMPTS_KEPT)
        return;
    a = TAILQ_NEXT(TAILQ_FIRST(&j->run->attempts), of_job);
    struct record *r = mark_loose(c, RECORD_ATTEMPT);
    r->is_delete = true;
    r->u.attempt.job_id = j->id;
    r->u.attempt.attempt = a->number;
    attempt_free(c, a);
}

static void effect_close_attempt(struct coord *c, struct job *j)
{
    struct attempt *a = attempt_find(j, 0);

    a->end_ms = c->wall_ms;
    a->end_seq = history_add(c, EVENT_ATTEMPT_ENDED, j->id, a->number, NULL, "%s", "");
    mark_attempt(c, a, true);
    mark_job(c, j);
    trim_attempts(c, j);
}

static void effect_count_restart(struct coord *c, struct job *j)
{
    const struct attempt *a = attempt_find(j, 0);
    bool is_free = a->cause == ACCEL__V1__CAUSE__CAUSE_NODE_LOST ||
                   a->cause == ACCEL__V1__CAUSE__CAUSE_DEVICE_FAULT ||
                   a->cause == ACCEL__V1__CAUSE__CAUSE_FENCED;

    (void)c;
    if (is_free)
        j->run->free_restarts++;
    else
        j->run->restarts++;
}

static void result_of_attempt(struct job *j, const struct attempt *a)
{
    const struct worker *first =
        a->first_failed_rank >= 0 && (uint32_t)a->first_failed_rank < a->world_size
            ? &a->workers[a->first_failed_rank]
            : NULL;
    int32_t code = first && first->signal      ? 128 + first->signal
                   : first && first->exit_code ? first->exit_code
                                               : 0;

    switch (a->cause) {
    case ACCEL__V1__CAUSE__CAUSE_SUCCEEDED:
        j->run->result = ACCEL__V1__JOB_RESULT__RESULT_SUCCEEDED;
        j->run->exit_code = 0;
        break;
    case ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED:
        j->run->result = ACCEL__V1__JOB_RESULT__RESULT_FAILED;
        j->run->exit_code = code ? code : 1;
        break;
    case ACCEL__V1__CAUSE__CAUSE_START_FAILED:
        j->run->result = ACCEL__V1__JOB_RESULT__RESULT_FAILED;
        j->run->exit_code = code ? code : 125;
        break;
    case ACCEL__V1__CAUSE__CAUSE_CANCELLED:
        j->run->result = ACCEL__V1__JOB_RESULT__RESULT_CANCELLED;
        j->run->exit_code = 130;
        break;
    case ACCEL__V1__CAUSE__CAUSE_TIME_LIMIT:
        j->run->result = ACCEL__V1__JOB_RESULT__RESULT_TIMED_OUT;
        j->run->exit_code = 124;
        break;
    default:
        j->run->result = ACCEL__V1__JOB_RESULT__RESULT_LOST;
        j->run->exit_code = 125;
        break;
    }
    job_set_text(&j->run->reason, a->text);
}

static void effect_intend(struct coord *c, struct job *j, enum job_event ev,
                          const struct job_event_data *data, bool is_end)
{
    const char *why = data && data->why ? data->why : "cancelled";
    bool limit = ev == JOB_EV_TIME_LIMIT;
    struct job_run *run = job_run(j);

    run->result =
        limit ? ACCEL__V1__JOB_RESULT__RESULT_TIMED_OUT : ACCEL__V1__JOB_RESULT__RESULT_CANCELLED;
    run->exit_code = limit ? 124 : 130;
    job_set_text(&run->reason, limit ? "its time limit has passed" : why);
    heap_remove(&c->timers, &run->limit.node);
    mark_job(c, j);
    if (!is_end) /* else the end that follows at once says the same */
        history_add(c, EVENT_JOB_STOPPING, j->id, run->attempt, NULL, "%s", run->reason);
}

/* Ends that say nothing of the workers: a stop that found them so still ends as the user asked. */
static bool is_loss(uint32_t cause)
{
    return cause == ACCEL__V1__CAUSE__CAUSE_NODE_LOST ||
           cause == ACCEL__V1__CAUSE__CAUSE_SHIM_LOST ||
           cause == ACCEL__V1__CAUSE__CAUSE_DEVICE_FAULT || cause == ACCEL__V1__CAUSE__CAUSE_FENCED;
}

static void effect_finish(struct coord *c, struct job *j, uint8_t from)
{
    struct attempt *a = attempt_find(j, 0);
    bool was_stopping = from == JOB_STOPPING;

    if (from != JOB_PENDING && !(was_stopping && is_loss(a->cause)))
        result_of_attempt(j, a);
    j->run->end_ms = c->wall_ms;
    j->run->end_seq = history_add(c, EVENT_JOB_ENDED, j->id, j->run->attempt, NULL, "%s", "");
    heap_remove(&c->timers, &j->run->limit.node);
    c->live_count--;
    c->ended_count++;
    TAILQ_INSERT_TAIL(&c->ended, j, queue);
    mark_job(c, j);
}

void job_arm_limit(struct coord *c, struct job *j)
{
    if (j->time_limit_ms == 0 || j->run->start_ms == 0)
        return;
    int64_t gone = MAX(c->wall_ms - j->run->start_ms, 0);
    int64_t left = MAX((int64_t)j->time_limit_ms - gone, 0);
    if (j->run->limit.node.pos == 0)
        heap_set(&c->timers, &j->run->limit.node, c->now_ms + left);
}

/* --- apply --- */

void job_check(const struct job *j)
{
    const struct attempt *a = TAILQ_LAST(&j->run->attempts, attempt_list);

    CHECK(j->state < JOB_STATE_COUNT);
    CHECK((j->run->attempt == 0) == (a == NULL));
    CHECK(!a || a->number == j->run->attempt);
    switch (j->state) {
    case JOB_PENDING:
        CHECK(!a || a->end_ms > 0);
        CHECK(j->run->end_ms == 0 && j->spec_len);
        break;
    case JOB_STARTING:
    case JOB_RUNNING:
    case JOB_STOPPING:
        CHECK(a && a->end_ms == 0 && a->world_size > 0 && a->share_count > 0);
        CHECK(j->run->end_ms == 0 && j->spec_len && j->run->start_ms > 0);
        break;
    case JOB_ENDED:
        CHECK(j->run->end_ms > 0 && j->run->result != ACCEL__V1__JOB_RESULT__RESULT_NONE);
        CHECK(!a || a->end_ms > 0);
        break;
    default: CHECK(!"a known state");
    }
}

void job_load_state(struct job *j, uint8_t state)
{
    j->state = state == JOB_RUNNING ? JOB_STARTING : state;
}

void job_take_up(struct coord *c, struct job *j)
{
    CHECK(j->state == JOB_PENDING);
    queue_remove(c, j);
    j->state = JOB_STARTING;
}

static void run_effects(struct coord *c, struct job *j, const struct lifecycle_row *row,
                        enum job_event ev, const struct job_event_data *data)
{
    uint32_t fx = row->effects;

    if (fx & EFFECT_DEQUEUE) {
        queue_remove(c, j);
        c->needs_placing |= !(fx & EFFECT_START); /* it may have held up those behind it */
    }
    if (fx & EFFECT_INTEND)
        effect_intend(c, j, ev, data, fx & EFFECT_FINISH);
    if (fx & EFFECT_START)
        effect_start(c, j);
    if (fx & EFFECT_RUNNING)
        effect_running(c, j);
    if (fx & EFFECT_STOP)
        job_send_stop(c, j, false);
    if (fx & EFFECT_KILL)
        job_send_stop(c, j, true);
    if (fx & EFFECT_CLOSE_ATTEMPT)
        effect_close_attempt(c, j);
    if (fx & EFFECT_COUNT_RESTART)
        effect_count_restart(c, j);
    if (fx & EFFECT_ENQUEUE)
        queue_add(c, j);
    if (fx & EFFECT_FINISH)
        effect_finish(c, j, row->state);
}

void job_apply(struct coord *c, struct job *j, enum job_event ev, const struct job_event_data *data)
{
    const struct lifecycle_row *row = lifecycle_find(&job_lifecycle, j->state, ev, j, data);

    if (row->kind == LIFECYCLE_IGNORE)
        return;
    CHECK(row->kind == LIFECYCLE_MOVE); /* callers ask first where a row refuses */
    if (j->state != JOB_PENDING || ev != JOB_EV_PLACE)
        job_check(j);
    if (c->config.trace)
        trace_add(c->config.trace, c->now_ms, "coord", "job %llu %s -> %s (%s)",
                  (unsigned long long)j->id, state_names[j->state], state_names[row->next],
                  event_names[ev]);
    j->state = row->next;
    run_effects(c, j, row, ev, data);
    job_check(j);
    job_changed(c, j);
    if (j->state == JOB_ENDED) { /* after the watchers were told: what only a live job needs */
        c->live_bytes -= j->spec_len;
        job_drop_spec(j);
        if (j->env)
            environment_unref_live(c, j->env);
        c->needs_pruning = true;
        orphan_forget(c, j);
    }
}
