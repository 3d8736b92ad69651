/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must be true, whatever happens: kept from what was committed and what was told, never from
 * inside the cores. Told is only what is on disk; what was told stays true; no device and no job
 * is run twice; in the end all is quiet.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/world.h"

#define ENDED    ACCEL__V1__JOB_STATE__JOB_ENDED
#define STOPPING ACCEL__V1__JOB_STATE__JOB_STOPPING

struct world_book *book_of(struct world *w, uint64_t job_id)
{
    WORLD_CHECK(w, job_id > 0 && job_id < ARRAY_LEN(w->books), "job %" PRIu64, job_id);
    return &w->books[job_id];
}

/* --- commits --- */

static void committed_job(struct world *w, const struct record *rec)
{
    const struct record_job *r = &rec->u.job;
    struct world_book *b = book_of(w, r->id);
    if (rec->is_delete) {
        b->is_deleted = true; /* its end and its leaving may share a commit */
        b->state = ENDED;
        return;
    }
    WORLD_CHECK(w, !b->is_deleted, "job %" PRIu64 " comes back", r->id);
    if (b->is_written) {
        WORLD_CHECK(w, r->attempt >= b->attempt, "job %" PRIu64 " goes back to attempt %u", r->id,
                    r->attempt);
        bool same = r->state == ENDED && r->result == b->result && r->exit_code == b->exit_code;
        WORLD_CHECK(w, b->state != ENDED || same, "the end of job %" PRIu64 " changes", r->id);
    } else {
        CHECK(r->request_id.len == sizeof(b->request_id));
        memcpy(b->request_id, r->request_id.data, sizeof(b->request_id));
    }
    if (b->cancel_told)
        WORLD_CHECK(w, r->attempt == b->attempt_at_cancel && r->state >= STOPPING,
                    "job %" PRIu64 " goes on after a cancel that was accepted", r->id);
    b->is_written = true;
    b->state = r->state;
    b->result = r->result;
    b->attempt = r->attempt;
    b->exit_code = r->exit_code;
}

static void committed_attempt(struct world *w, const struct record *rec)
{
    const struct record_attempt *r = &rec->u.attempt;
    struct world_book *b = book_of(w, r->job_id);
    WORLD_CHECK(w, r->attempt > 0 && r->attempt < WORLD_ATTEMPTS, "attempt %u of job %" PRIu64,
                r->attempt, r->job_id);
    if (rec->is_delete)
        return;
    bool was_ended = b->attempts[r->attempt].is_ended;
    WORLD_CHECK(w, !was_ended || r->end_ms > 0, "attempt %u of job %" PRIu64 " lives again",
                r->attempt, r->job_id);
    b->attempts[r->attempt].is_written = true;
    b->attempts[r->attempt].is_ended = r->end_ms > 0;
}

/* Its node has said the last word on it. */
static void committed_worker(struct world *w, const struct record *rec)
{
    const struct record_worker *r = &rec->u.worker;
    struct world_book *b = book_of(w, r->job_id);
    for (uint32_t i = 0; i < w->config.node_count && !rec->is_delete; i++) {
        if (strcmp(r->node, w->nodes[i].name) == 0)
            b->attempts[r->attempt].ended_nodes |= 1u << i;
    }
}

void books_committed(struct world *w, const struct store_txn *txn)
{
    for (size_t i = 0; i < txn->count; i++) {
        const struct record *rec = &txn->records[i];
        if (rec->table == RECORD_JOB)
            committed_job(w, rec);
        if (rec->table == RECORD_ATTEMPT)
            committed_attempt(w, rec);
        if (rec->table == RECORD_WORKER)
            committed_worker(w, rec);
    }
}

/* "commit: job 1, attempt 1.1, worker 1.1 r0 (and 1 more)" */
void books_say_commit(struct world *w, const struct store_txn *txn)
{
    AUTO_STR struct str s = {0};
    size_t others = 0;
    str_init(&s);
    for (size_t i = 0; i < txn->count; i++) {
        const struct record *r = &txn->records[i];
        const char *sep = s.len ? ", " : "";
        const char *gone = r->is_delete ? "no " : "";
        if (r->table == RECORD_JOB)
            str_addf(&s, "%s%sjob %" PRIu64, sep, gone, r->u.job.id);
        else if (r->table == RECORD_ATTEMPT)
            str_addf(&s, "%s%sattempt %" PRIu64 ".%u", sep, gone, r->u.attempt.job_id,
                     r->u.attempt.attempt);
        else if (r->table == RECORD_WORKER)
            str_addf(&s, "%s%sworker %" PRIu64 ".%u r%u", sep, gone, r->u.worker.job_id,
                     r->u.worker.attempt, r->u.worker.rank);
        else if (r->table == RECORD_REQUEST)
            str_addf(&s, "%s%srequest %s", sep, gone, r->u.request.method);
        else if (r->table == RECORD_EVENT && !r->is_delete)
            str_addf(&s, "%sevent %s", sep, r->u.event.kind);
        else
            others++;
    }
    if (others)
        world_say(w, "store", "commit: %s%s%zu more", s.data, s.len ? ", and " : "", others);
    else
        world_say(w, "store", "commit: %s", s.data);
}

/* --- what users were told --- */

void books_reply_submit(struct world *w, const struct world_job *job, uint64_t id)
{
    struct world_book *b = book_of(w, id);
    WORLD_CHECK(w, b->is_written, "%s is job %" PRIu64 ", which is not on disk", job->name, id);
    WORLD_CHECK(w, job->id == 0 || job->id == id, "%s was job %" PRIu64 ", now %" PRIu64, job->name,
                job->id, id);
    WORLD_CHECK(w, memcmp(b->request_id, job->request_id, sizeof(b->request_id)) == 0,
                "%s is told of another's job %" PRIu64, job->name, id);
    b->submit_told = true;
}

void books_reply_cancel(struct world *w, uint64_t id, bool is_accepted)
{
    struct world_book *b = book_of(w, id);
    if (!is_accepted) {
        WORLD_CHECK(w, b->state == ENDED, "the cancel of job %" PRIu64 " is refused", id);
        return;
    }
    WORLD_CHECK(w, b->state >= STOPPING, "job %" PRIu64 " does not stop on disk", id);
    if (!b->cancel_told)
        b->attempt_at_cancel = b->attempt;
    b->cancel_told = true;
}

void books_told_job(struct world *w, const Accel__V1__Job *job)
{
    struct world_book *b = book_of(w, job->id);
    WORLD_CHECK(w, b->is_written, "told of job %" PRIu64 ", which is not on disk", job->id);
    if (job->state != ENDED)
        return;
    WORLD_CHECK(w, b->state == ENDED, "told of the end of job %" PRIu64 " before it is on disk",
                job->id);
    bool same = (uint32_t)job->result == b->result && job->exit_code == b->exit_code;
    WORLD_CHECK(w, same || b->is_deleted, "told of another end of job %" PRIu64 " than is on disk",
                job->id);
    WORLD_CHECK(w, job->result != ACCEL__V1__JOB_RESULT__RESULT_NONE, "no result");
}

/* --- what nodes were told --- */

static void check_lives(struct world *w, const Accel__V1__Start *start)
{
    const struct world_book *b = book_of(w, start->ref->job_id);
    WORLD_CHECK(w, !b->attempts[start->ref->attempt].is_ended && b->state != ENDED,
                "attempt %u of job %" PRIu64 " has ended and is started", start->ref->attempt,
                start->ref->job_id);
}

void books_got_start(struct world_node *n, const Accel__V1__Start *start)
{
    struct world *w = n->world;
    uint64_t id = start->ref->job_id;
    struct world_book *b = book_of(w, id);
    WORLD_CHECK(w, start->ref->attempt < WORLD_ATTEMPTS, "attempt %u", start->ref->attempt);
    WORLD_CHECK(w, b->attempts[start->ref->attempt].is_written,
                "attempt %u of job %" PRIu64 " is started before it is on disk",
                start->ref->attempt, id);
    if (!start->prepare) /* else it may have been given up meanwhile: a Stop is behind this */
        check_lives(w, start);
}

void books_prepared(struct world_node *n, const Accel__V1__AttemptRef *ref)
{
    struct world *w = n->world;
    book_of(w, ref->job_id)->attempts[ref->attempt].prepared |= 1u << (n - w->nodes);
}

void books_launch(struct world_node *n, const Accel__V1__Start *start, const Accel__V1__Go *go)
{
    struct world *w = n->world;
    uint64_t id = start->ref->job_id;
    uint32_t bit = 1u << (n - w->nodes), number = start->ref->attempt;
    struct world_book *b = book_of(w, id);
    if (start->node_count <= 1)
        return;
    check_lives(w, start);
    WORLD_CHECK(w, go, "attempt %u of job %" PRIu64 " is launched without a Go", number, id);
    WORLD_CHECK(w, (uint32_t)__builtin_popcount(b->attempts[number].prepared) >= start->node_count,
                "job %" PRIu64 ".%u: Go before all were prepared", id, number);
    WORLD_CHECK(w, !(b->attempts[number].launched & bit), "job %" PRIu64 ".%u: launched twice", id,
                number);
    b->attempts[number].launched |= bit;
    for (uint32_t i = 0; i < start->local_size; i++) {
        uint64_t rank = 1ull << (start->first_rank + i);
        WORLD_CHECK(w,
                    start->first_rank + i < start->world_size && start->world_size <= 64 &&
                        !(b->attempts[number].ranks & rank),
                    "job %" PRIu64 ".%u: rank %u twice", id, number, start->first_rank + i);
        b->attempts[number].ranks |= rank;
    }
    if ((uint32_t)__builtin_popcount(b->attempts[number].launched) == start->node_count)
        WORLD_CHECK(w, b->attempts[number].ranks == (1ull << start->world_size) - 1,
                    "job %" PRIu64 ".%u: ranks are missing", id, number);
    WORLD_CHECK(w, go->master_addr[0] && go->master_port, "no rendezvous");
    WORLD_CHECK(
        w, !b->attempts[number].master_port || b->attempts[number].master_port == go->master_port,
        "job %" PRIu64 ".%u: two rendezvous ports", id, number);
    b->attempts[number].master_port = go->master_port;
}

void books_got_ack(struct world_node *n, uint64_t seq)
{
    struct world *w = n->world;
    WORLD_CHECK(w, n->sent_count && seq <= n->sent[n->sent_count - 1].seq,
                "report %" PRIu64 " was never sent", seq);
    for (size_t i = 0; i < n->sent_count; i++) {
        const struct world_sent *s = &n->sent[i];
        if (s->seq <= n->acked_seq || s->seq > seq || !s->is_end)
            continue;
        const struct world_book *b = book_of(w, s->job_id);
        bool is_ended = b->attempts[s->attempt].is_ended ||
                        (b->attempts[s->attempt].ended_nodes & 1u << (n - w->nodes));
        WORLD_CHECK(w, b->is_deleted || is_ended,
                    "the end of %" PRIu64 ".%u is acknowledged before it is on disk", s->job_id,
                    s->attempt);
    }
    n->acked_seq = MAX(n->acked_seq, seq);
}

/* --- what runs --- */

static bool is_fenced(const struct world_attempt *a)
{
    return a->stop_cause == ACCEL__V1__CAUSE__CAUSE_FENCED;
}

static bool share_device(const struct world_attempt *a, const struct world_attempt *b,
                         const char **ret_device)
{
    for (size_t i = 0; i < a->rank_count; i++)
        for (size_t d = 0; d < a->spec->ranks[i]->n_devices; d++)
            for (size_t k = 0; k < b->rank_count; k++)
                for (size_t e = 0; e < b->spec->ranks[k]->n_devices; e++)
                    if (!strcmp(a->spec->ranks[i]->devices[d], b->spec->ranks[k]->devices[e])) {
                        *ret_device = a->spec->ranks[i]->devices[d];
                        return true;
                    }
    return false;
}

static void check_pair(struct world *w, const struct world_attempt *a,
                       const struct world_attempt *b)
{
    const char *device = NULL;
    if (a->node == b->node && share_device(a, b, &device))
        WORLD_CHECK(w, false, "%s of %s is held by %" PRIu64 ".%u and %" PRIu64 ".%u", device,
                    a->node->name, a->id.job_id, a->id.attempt, b->id.job_id, b->id.attempt);
    bool is_other = a->id.job_id != b->id.job_id || a->id.attempt == b->id.attempt;
    WORLD_CHECK(w, is_other || is_fenced(a) || is_fenced(b),
                "attempts %u and %u of job %" PRIu64 " run side by side", a->id.attempt,
                b->id.attempt, a->id.job_id);
}

void books_check(struct world *w)
{
    const struct world_attempt *live[256], *a;
    size_t count = 0;
    for (uint32_t i = 0; i < w->config.node_count; i++) {
        TAILQ_FOREACH(a, &w->nodes[i].attempts, link)
        {
            if (a->state != ATTEMPT_ENDED && count < ARRAY_LEN(live))
                live[count++] = a;
        }
    }
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < i; k++)
            check_pair(w, live[i], live[k]);
}

/* --- in the end --- */

static void check_row(void *ctx, const struct record *rec)
{
    struct world *w = ctx;
    if (rec->table != RECORD_JOB)
        return;
    struct world_book *b = book_of(w, rec->u.job.id);
    WORLD_CHECK(w, b->is_written && !b->is_deleted && b->state == rec->u.job.state,
                "the row of job %" PRIu64 " is not what was committed", rec->u.job.id);
    b->rows++;
}

static void check_problem(void *ctx, const char *text)
{
    world_fail(ctx, "a store in order", "%s", text);
}

void books_check_healed(struct world *w)
{
    struct accel_error err;
    struct world_attempt *a;
    for (uint32_t i = 0; i < w->config.node_count; i++) {
        WORLD_CHECK(w, node_is_settled(&w->nodes[i]), "%s is not quiet", w->nodes[i].name);
        TAILQ_FOREACH(a, &w->nodes[i].attempts, link)
        {
            WORLD_CHECK(w, a->is_acked, "the end of %" PRIu64 ".%u was never acknowledged",
                        a->id.job_id, a->id.attempt);
        }
    }
    int r = w->store->ops->load(w->store, check_row, w, &err);
    CHECK(r == 0);
    r = w->store->ops->check(w->store, check_problem, w, &err);
    CHECK(r == 0);
    for (uint64_t id = 1; id < ARRAY_LEN(w->books); id++) {
        const struct world_book *b = &w->books[id];
        WORLD_CHECK(w, !b->is_written || b->state == ENDED, "job %" PRIu64 " never ends", id);
        WORLD_CHECK(w, b->rows == (b->is_written && !b->is_deleted), "job %" PRIu64 ": %u rows", id,
                    b->rows);
        WORLD_CHECK(w, !w->is_followed || b->ended_events == b->is_written,
                    "job %" PRIu64 ": %u ends were told in events", id, b->ended_events);
        WORLD_CHECK(w, !w->is_followed || b->submitted_events == b->is_written,
                    "job %" PRIu64 ": %u submits were told in events", id, b->submitted_events);
    }
}
