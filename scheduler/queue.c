/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue.c - the jobs that wait for a place, oldest first, in two lists: those that place.c looks
 * at, and those set aside because no nodes but lost ones could carry them. What is placed when is
 * place.c's; only this file links and unlinks waiting jobs.
 */
#include "scheduler/coord_internal.h"

static void insert_by_id(struct job_list *list, struct job *j)
{
    struct job *o = TAILQ_LAST(list, job_list);

    if (!o || o->id < j->id) { /* a new job is the youngest */
        TAILQ_INSERT_TAIL(list, j, queue);
        return;
    }
    TAILQ_FOREACH(o, list, queue) /* one that comes back is among the oldest */
    {
        if (o->id > j->id)
            break;
    }
    TAILQ_INSERT_BEFORE(o, j, queue);
}

void queue_add(struct coord *c, struct job *j)
{
    CHECK(j->state == JOB_PENDING && !j->is_aside);
    insert_by_id(&c->pending, j);
    c->needs_placing = true;
}

void queue_remove(struct coord *c, struct job *j)
{
    TAILQ_REMOVE(j->is_aside ? &c->aside : &c->pending, j, queue);
    j->is_aside = false;
}

void queue_set_aside(struct coord *c, struct job *j)
{
    CHECK(!j->is_aside);
    TAILQ_REMOVE(&c->pending, j, queue);
    insert_by_id(&c->aside, j);
    j->is_aside = true;
}

void queue_reunite(struct coord *c)
{
    struct job_list merged;
    struct job *j;

    TAILQ_INIT(&merged);
    while (!TAILQ_EMPTY(&c->aside) || !TAILQ_EMPTY(&c->pending)) {
        struct job *a = TAILQ_FIRST(&c->aside), *p = TAILQ_FIRST(&c->pending);
        j = !p || (a && a->id < p->id) ? a : p;
        queue_remove(c, j);
        TAILQ_INSERT_TAIL(&merged, j, queue);
    }
    TAILQ_CONCAT(&c->pending, &merged, queue);
}

static uint32_t check_list(const struct job_list *list, bool is_aside)
{
    const struct job *j, *before = NULL;
    uint32_t count = 0;

    TAILQ_FOREACH(j, list, queue)
    {
        CHECK(j->state == JOB_PENDING && j->is_aside == is_aside);
        CHECK(!before || before->id < j->id);
        before = j;
        count++;
    }
    return count;
}

uint32_t queue_check(const struct coord *c)
{
    return check_list(&c->pending, false) + check_list(&c->aside, true);
}
