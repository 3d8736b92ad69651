/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exchanges between the nodes of an attempt: each node gives its bytes once per number, and when
 * all have, each gets all of them, joined in order of node rank. Soft state: a coordinator that was
 * started again knows none of it, and the nodes give again what they gave last, so the one before
 * the newest can come back too; it is joined and answered like any other. Nothing is persisted, and
 * nothing here changes the life of a job.
 */
#include <string.h>

#include "scheduler/coord_internal.h"

struct part {
    bool is_given;
    uint8_t *data;
    size_t len;
};
struct round {       /* an exchange that not all have given to */
    uint32_t number; /* 0: none */
    size_t given, bytes;
    struct part *parts; /* one per share */
};

/* Two rounds are open at once after a restart: who is ahead gives again to the one that others wait
 * for, and to the one that it waits for. */
struct fence {
    struct round rounds[2]; /* by number */
    /* The newest that was joined, for a node whose session broke before it got the answer. */
    uint32_t done;
    uint8_t *joined;
    size_t joined_len;
};

static void round_clear(struct round *r, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(r->parts[i].data);
    memset(r->parts, 0, count * sizeof(*r->parts));
    r->number = 0;
    r->given = r->bytes = 0;
}

void fence_free(struct attempt *a)
{
    if (!a->fence)
        return;
    for (size_t i = 0; i < ARRAY_LEN(a->fence->rounds); i++) {
        round_clear(&a->fence->rounds[i], a->share_count);
        free(a->fence->rounds[i].parts);
    }
    free(a->fence->joined);
    free(a->fence);
    a->fence = NULL;
}

static void send_done(struct coord *c, const struct share *s)
{
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__FenceDone done = ACCEL__V1__FENCE_DONE__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    const struct fence *f = s->attempt->fence;

    if (!s->node || s->ended)
        return;
    ref.job_id = s->attempt->job->id;
    ref.attempt = s->attempt->number;
    ref.era = c->era;
    done.ref = &ref;
    done.number = f->done;
    done.data = (ProtobufCBinaryData){.len = f->joined_len, .data = f->joined};
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_FENCE_DONE;
    down.fence_done = &done;
    node_send(c, s->node, &down);
}

static void join(struct coord *c, struct attempt *a, struct round *r)
{
    struct fence *f = a->fence;
    /* Too much for every node to be sent: the barrier opens, what was put is not found, and the
     * program says so. */
    bool fits = r->bytes <= LIMIT_FENCE_JOINED_BYTES;

    free(f->joined);
    f->joined = xcalloc(1, fits ? r->bytes + 1 : 1);
    f->joined_len = 0;
    for (size_t i = 0; fits && i < a->share_count; i++) {
        if (r->parts[i].len)
            memcpy(f->joined + f->joined_len, r->parts[i].data, r->parts[i].len);
        f->joined_len += r->parts[i].len;
    }
    f->done = r->number;
    round_clear(r, a->share_count);
    for (size_t i = 0; i < a->share_count; i++)
        send_done(c, &a->shares[i]);
}

static struct fence *fence_of(struct attempt *a)
{
    if (!a->fence) {
        a->fence = xcalloc(1, sizeof(*a->fence));
        for (size_t i = 0; i < ARRAY_LEN(a->fence->rounds); i++)
            a->fence->rounds[i].parts = xcalloc(a->share_count, sizeof(struct part));
    }
    return a->fence;
}

void fence_take(struct coord *c, struct share *s, const Accel__V1__Fence *m)
{
    struct attempt *a = s->attempt;

    if (m->number == 0 || m->data.len > LIMIT_FENCE_BYTES)
        return;
    struct fence *f = fence_of(a);
    struct round *r = &f->rounds[m->number % 2];

    if (m->number == f->done) {
        send_done(c, s); /* it may have missed it; one that has not ignores it */
        return;
    }
    if (m->number < f->done || m->number < r->number)
        return; /* all were through it, or nobody could have come so far */
    if (m->number > r->number) {
        round_clear(r, a->share_count);
        r->number = m->number;
    }
    struct part *part = &r->parts[s - a->shares];
    r->bytes += m->data.len - part->len;
    free(part->data);
    part->data = xmemdup(m->data.data, m->data.len);
    part->len = m->data.len;
    r->given += !part->is_given;
    part->is_given = true;
    if (r->given == a->share_count)
        join(c, a, r);
}
