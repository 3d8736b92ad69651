/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs whose accelctl is not there, though something hangs on it: it may have died, also while
 * there was no coordinator, or be on its way back. One that does not come within
 * LIMIT_OWNER_GRACE_MS ends what was to end with it: the job (kill_on_disconnect), or the input of
 * rank 0, which else would wait for ever. Neighbours: coord_job_calls.c (Watch), coord_logs.c
 * (Input), job.c. Soft state: a coordinator that has just started waits for all of them again.
 */
#include "scheduler/coord_internal.h"

struct orphan {
    uint64_t job_id;
    struct timer timer; /* not armed: the input of the present attempt was ended */
    UT_hash_handle hh;
};

static struct orphan *orphan_find(const struct coord *c, uint64_t job_id)
{
    struct orphan *o = NULL;

    HASH_FIND(hh, c->orphans, &job_id, sizeof(job_id), o);
    return o;
}

static bool has_owner(const struct job *j)
{
    const struct call *call;

    LIST_FOREACH(call, &j->calls, of_job)
    {
        if (call->kind == CALL_WATCH && call->is_owner)
            return true;
    }
    return false;
}

void orphan_wait(struct coord *c, struct job *j)
{
    struct orphan *o = orphan_find(c, j->id);

    if (!job_is_live(j) || has_owner(j) || (!j->kill_on_disconnect && !j->wants_stdin))
        return;
    if (!o) {
        o = xcalloc(1, sizeof(*o));
        o->job_id = j->id;
        o->timer.kind = TIMER_ORPHAN;
        HASH_ADD(hh, c->orphans, job_id, sizeof(o->job_id), o);
    }
    heap_set(&c->timers, &o->timer.node, c->now_ms + LIMIT_OWNER_GRACE_MS);
}

void orphan_heard(struct coord *c, const struct job *j)
{
    struct orphan *o = orphan_find(c, j->id);

    if (o)
        heap_set(&c->timers, &o->timer.node, c->now_ms + LIMIT_OWNER_GRACE_MS);
}

void orphan_forget(struct coord *c, const struct job *j)
{
    struct orphan *o = orphan_find(c, j->id);

    if (!o)
        return;
    heap_remove(&c->timers, &o->timer.node);
    HASH_DELETE(hh, c->orphans, o);
    free(o);
}

void orphan_started(struct coord *c, const struct job *j)
{
    struct orphan *o = orphan_find(c, j->id);

    if (o && o->timer.node.pos == 0) /* a new attempt has an open input again */
        heap_set(&c->timers, &o->timer.node, c->now_ms);
}

void orphans_shift(struct coord *c, int64_t by_ms)
{
    for (struct orphan *o = c->orphans; o; o = o->hh.next)
        if (o->timer.node.pos)
            heap_set(&c->timers, &o->timer.node, o->timer.node.key + by_ms);
}

/* What was given before is still taken; a second end does no harm. */
static void end_input(struct coord *c, struct job *j, struct orphan *o)
{
    const struct attempt *a = attempt_find(j, 0);
    Accel__V1__InputRequest data = ACCEL__V1__INPUT_REQUEST__INIT;
    Accel__V1__Input input = ACCEL__V1__INPUT__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;

    if (j->state == JOB_PENDING || j->state == JOB_STARTING || !a->shares[0].node)
        return; /* orphan_started() */
    ref.job_id = data.job_id = j->id;
    ref.attempt = a->number;
    ref.era = c->era;
    data.eof = true;
    input.ref = &ref;
    input.id = (uint64_t)CALL_TAG_INPUT << 61 | j->id;
    input.data = &data;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_INPUT;
    down.input = &input;
    node_send(c, a->shares[0].node, &down);
    /* Until the node says that it was done: it may be away, or the rank has not read what came
     * before. */
    heap_set(&c->timers, &o->timer.node, c->now_ms + LIMIT_OWNER_GRACE_MS);
}

bool orphan_input_answer(struct coord *c, const struct node *n, const Accel__V1__InputDone *msg)
{
    bool is_ours = CALL_TAG(msg->id) == CALL_TAG_INPUT;
    struct job *j = is_ours ? job_find(c, msg->id << 3 >> 3) : NULL;
    struct orphan *o = j ? orphan_find(c, j->id) : NULL;
    const struct attempt *a = j ? attempt_find(j, 0) : NULL;

    if (o && a && a->shares[0].node == n && msg->code == 0)
        heap_remove(&c->timers, &o->timer.node);
    return is_ours;
}

void orphan_timeout(struct coord *c, struct timer *t)
{
    struct orphan *o = CONTAINER_OF(t, struct orphan, timer);
    struct job *j = job_find(c, o->job_id);
    const struct job_event_data gone = {.why = "cancelled: its accelctl has not come back"};

    CHECK(j && job_is_live(j) && !has_owner(j));
    if (!j->kill_on_disconnect) {
        end_input(c, j, o);
        return;
    }
    orphan_forget(c, j);
    job_apply(c, j, JOB_EV_CANCEL, &gone);
}
