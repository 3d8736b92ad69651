/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of one rank on this node as a table. Neighbours: agent.c, which applies events and acts
 * on the effects, and common/lifecycle. It must not know of sessions, reports or other ranks.
 */
#include "agentd/worker.h"

#include "agentd/agent.h"
#include "common/lifecycle.h"
#include "common/limits.h"

static bool ended_by_itself(const void *object, const void *event)
{
    const Accel__V1__RankExit *said = event;
    return !said->stopped;
}
static const struct lifecycle_guard guard_by_itself = {"ended by itself", ended_by_itself};

static const char *const state_names[] = {"PREPARED", "RUNNING", "STOPPING", "EXITED"};
static const char *const event_names[] = {"STARTED", "UNSTARTED", "STOP", "EXIT", "FAIL", "SWEPT"};
static const char *const effect_names[] = {"LEAVE", "FAILED", "UNSTARTED"};

#define LEAVE                   WORKER_EFFECT_LEAVE
#define MOVE(s, e, n, fx)       LIFECYCLE_ROW(WORKER, WORKER, s, e, NULL, MOVE, n, fx, NULL)
#define MOVE_IF(s, e, g, n, fx) LIFECYCLE_ROW(WORKER, WORKER, s, e, g, MOVE, n, fx, NULL)
#define IGNORE(s, e, why)       LIFECYCLE_ROW(WORKER, WORKER, s, e, NULL, IGNORE, s, 0, why)

static const struct lifecycle_row rows[] = {
    MOVE(PREPARED, STARTED, RUNNING, 0),
    MOVE(PREPARED, UNSTARTED, EXITED, LEAVE | WORKER_EFFECT_UNSTARTED),
    MOVE(PREPARED, STOP, STOPPING, 0), /* a Stop may overtake the start */
    MOVE(PREPARED, EXIT, EXITED, LEAVE),
    MOVE_IF(PREPARED, FAIL, &guard_by_itself, EXITED, LEAVE | WORKER_EFFECT_FAILED),
    MOVE(PREPARED, FAIL, EXITED, LEAVE),
    MOVE(PREPARED, SWEPT, EXITED, LEAVE),

    IGNORE(RUNNING, STARTED, "an adopted shim may tell it again"),
    IGNORE(RUNNING, UNSTARTED, "it was started"),
    MOVE(RUNNING, STOP, STOPPING, 0),
    MOVE(RUNNING, EXIT, EXITED, LEAVE),
    MOVE_IF(RUNNING, FAIL, &guard_by_itself, EXITED, LEAVE | WORKER_EFFECT_FAILED),
    MOVE(RUNNING, FAIL, EXITED, LEAVE),
    MOVE(RUNNING, SWEPT, EXITED, LEAVE),

    MOVE(STOPPING, STARTED, STOPPING, 0), /* its pid is news; the stop reaches it all the same */
    MOVE(STOPPING, UNSTARTED, EXITED, LEAVE | WORKER_EFFECT_UNSTARTED),
    IGNORE(STOPPING, STOP, "it is being stopped; a shorter grace is the shim's affair"),
    MOVE(STOPPING, EXIT, EXITED, LEAVE),
    /* It failed before the stop reached it: two ranks can fail at the same time. */
    MOVE_IF(STOPPING, FAIL, &guard_by_itself, EXITED, LEAVE | WORKER_EFFECT_FAILED),
    MOVE(STOPPING, FAIL, EXITED, LEAVE),
    MOVE(STOPPING, SWEPT, EXITED, LEAVE),

    IGNORE(EXITED, STARTED, "an adopted shim may tell it again"),
    IGNORE(EXITED, UNSTARTED, "the exit record tells it again"),
    IGNORE(EXITED, STOP, "there is nothing left to stop"),
    IGNORE(EXITED, EXIT, "the exit record tells it again"),
    IGNORE(EXITED, FAIL, "the exit record tells it again"),
    IGNORE(EXITED, SWEPT, "its exit was seen"),
};

const struct lifecycle worker_lifecycle = {
    .name = "worker",
    .state_names = state_names,
    .state_count = ARRAY_LEN(state_names),
    .event_names = event_names,
    .event_count = ARRAY_LEN(event_names),
    .effect_names = effect_names,
    .effect_count = ARRAY_LEN(effect_names),
    .rows = rows,
    .row_count = ARRAY_LEN(rows),
    .initial_state = WORKER_PREPARED,
    .end_state = WORKER_EXITED,
};

const char *worker_state_name(uint8_t state)
{
    CHECK(state < ARRAY_LEN(state_names));
    return state_names[state];
}

const char *worker_event_name(uint8_t event)
{
    CHECK(event < ARRAY_LEN(event_names));
    return event_names[event];
}

void worker_init(struct worker *w, uint32_t rank, uint32_t local_rank)
{
    *w = (struct worker){.state = WORKER_PREPARED, .rank = rank, .local_rank = local_rank};
}

void worker_done(struct worker *w)
{
    free(w->tail);
    free(w->error);
    w->tail = NULL;
    w->error = NULL;
}

enum worker_event worker_event_of_start(const Accel__V1__RankExit *said)
{
    /* A rank without a pid did not start, whatever else is said. */
    return said->pid != 0 && !said->error[0] ? WORKER_STARTED : WORKER_UNSTARTED;
}

enum worker_event worker_event_of_exit(const Accel__V1__RankExit *said)
{
    if (said->error[0])
        return WORKER_UNSTARTED;
    if (!said->exited)
        return WORKER_SWEPT;
    return said->exit_code == 0 && said->signal == 0 ? WORKER_EXIT : WORKER_FAIL;
}

void worker_check(const struct worker *w)
{
    CHECK(w->state <= WORKER_EXITED);
    CHECK(w->state != WORKER_PREPARED || (w->pid == 0 && !w->exited && !w->error));
    CHECK(w->state != WORKER_RUNNING || (w->pid != 0 && !w->error));
    CHECK(!w->exited || w->state == WORKER_EXITED);
    CHECK(!w->error || w->state == WORKER_EXITED);
    CHECK(w->tail_len == 0 || w->tail);
}

static void keep_tail(struct worker *w, const Accel__V1__RankExit *said)
{
    size_t len = MIN(said->stderr_tail.len, LIMIT_STDERR_TAIL_BYTES);
    if (len <= w->tail_len)
        return;
    free(w->tail);
    w->tail = xmemdup(said->stderr_tail.data + said->stderr_tail.len - len, len);
    w->tail_len = len;
}

static void keep_what_was_said(struct worker *w, enum worker_event event,
                               const Accel__V1__RankExit *said)
{
    if (said->pid)
        w->pid = said->pid;
    if (said->start_ms)
        w->start_ms = said->start_ms;
    if (event == WORKER_UNSTARTED) {
        w->error = xstrdup(said->error[0] ? said->error : "the shim gave no reason");
        w->start_errno = said->start_errno;
        w->exit_code = said->exit_code;
        w->end_ms = said->end_ms;
        w->end_boot_ns = said->end_boot_ns;
    }
    if (event == WORKER_EXIT || event == WORKER_FAIL) {
        w->exited = true;
        w->exit_code = said->exit_code;
        w->oom_killed = said->oom_killed;
        w->signal = said->signal;
        w->stopped = said->stopped;
        w->end_ms = said->end_ms;
        w->end_boot_ns = said->end_boot_ns;
    }
    if (event == WORKER_FAIL)
        keep_tail(w, said);
}

uint32_t worker_apply(struct worker *w, enum worker_event event, const Accel__V1__RankExit *said)
{
    worker_check(w);
    CHECK(said || event == WORKER_STOP || event == WORKER_SWEPT);
    const struct lifecycle_row *row = lifecycle_find(&worker_lifecycle, w->state, event, w, said);
    if (row->kind != LIFECYCLE_MOVE)
        return 0;
    w->state = row->next;
    if (said)
        keep_what_was_said(w, event, said);
    worker_check(w);
    return row->effects;
}

void worker_complete(struct worker *w, const Accel__V1__RankExit *said)
{
    CHECK(w->state == WORKER_EXITED);
    if (w->exited && (w->exit_code || w->signal))
        keep_tail(w, said);
}
