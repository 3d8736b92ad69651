/* SPDX-License-Identifier: Apache-2.0 */
/*
 * objects.c - making, finding and freeing the core's objects: jobs, attempts, users, environments.
 * No decision is made here; states are changed in job.c only.
 */
#include "scheduler/coord_internal.h"

/* --- jobs: a vector of pointers sorted by id; new ids are the highest, so adding is appending ---
 */

size_t job_lower_bound(const struct coord *c, uint64_t id)
{
    size_t lo = 0, hi = c->job_count;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (c->jobs[mid]->id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct job *job_find(const struct coord *c, uint64_t id)
{
    size_t i = job_lower_bound(c, id);

    return i < c->job_count && c->jobs[i]->id == id ? c->jobs[i] : NULL;
}

struct job *job_new(struct coord *c, uint64_t id)
{
    CHECK(c->job_count == 0 || c->jobs[c->job_count - 1]->id < id);
    if (c->job_count == c->job_cap) {
        c->job_cap = c->job_cap ? c->job_cap * 2 : 64;
        c->jobs = xrealloc(c->jobs, c->job_cap * sizeof(struct job *));
    }
    struct job *j = xcalloc(1, sizeof(*j));
    j->id = id;
    j->run = (struct job_run *)&job_no_run;
    LIST_INIT(&j->calls);
    c->jobs[c->job_count++] = j;
    return j;
}

/* Read through job.run by all jobs that never ran; constant, so that a write to it is a crash. */
const struct job_run job_no_run = {
    .attempts = {NULL, (struct attempt **)(uintptr_t)&job_no_run.attempts.tqh_first},
};

struct job_run *job_run(struct job *j)
{
    if (j->run != &job_no_run)
        return j->run;
    j->run = xcalloc(1, sizeof(*j->run));
    j->run->job = j;
    j->run->limit.kind = TIMER_JOB_LIMIT;
    TAILQ_INIT(&j->run->attempts);
    return j->run;
}

void job_set_request(struct coord *c, struct job *j, const uint8_t *id)
{
    memcpy(j->request_id, id, sizeof(j->request_id));
    idset_add(&c->by_request, j);
}

static void run_free(struct coord *c, struct job *j)
{
    struct attempt *a;

    if (j->run == &job_no_run)
        return;
    while ((a = TAILQ_FIRST(&j->run->attempts)))
        attempt_free(c, a);
    heap_remove(&c->timers, &j->run->limit.node);
    free(j->run->reason);
    free(j->run);
}

void job_free(struct coord *c, struct job *j)
{
    orphan_forget(c, j);
    size_t i = job_lower_bound(c, j->id);

    CHECK(i < c->job_count && c->jobs[i] == j && LIST_EMPTY(&j->calls));
    run_free(c, j);
    if (j->dirty_at)
        c->dirty_jobs[j->dirty_at - 1] = NULL;
    if (j->state == JOB_PENDING)
        queue_remove(c, j);
    if (j->state == JOB_ENDED) {
        TAILQ_REMOVE(&c->ended, j, queue);
        c->ended_count--;
    } else {
        c->live_count--;
        if (j->env)
            environment_unref_live(c, j->env);
    }
    if (j->env)
        environment_unref(c, j->env);
    idset_remove(&c->by_request, j);
    memmove(c->jobs + i, c->jobs + i + 1, (c->job_count - i - 1) * sizeof(struct job *));
    c->job_count--;
    free(j->text);
    free(j);
}

/* --- a job's texts: one block, for many jobs wait and every block costs --- */

void job_set_texts(struct job *j, const char *name, const char *command, const void *spec,
                   size_t spec_len)
{
    size_t name_size = strlen(name) + 1, command_size = strlen(command) + 1;
    char *text = xcalloc(1, name_size + command_size + spec_len);

    CHECK(spec_len <= UINT32_MAX);
    memcpy(text, name, name_size);
    memcpy(text + name_size, command, command_size);
    if (spec_len)
        memcpy(text + name_size + command_size, spec, spec_len);
    free(j->text);
    j->text = text;
    j->spec_len = (uint32_t)spec_len;
}

const char *job_name(const struct job *j)
{
    return j->text;
}

const char *job_command(const struct job *j)
{
    return j->text + strlen(j->text) + 1;
}

const uint8_t *job_spec(const struct job *j)
{
    const char *command = job_command(j);

    return (const uint8_t *)command + strlen(command) + 1;
}

void job_drop_spec(struct job *j)
{
    j->text = xrealloc(j->text, (size_t)((const char *)job_spec(j) - j->text));
    j->spec_len = 0;
}

void job_set_text(char **field, const char *text)
{
    free(*field);
    *field = text && *text ? xstrdup(text) : NULL;
    if (*field)
        make_utf8(*field); /* it may have been cut, or hold somebody's path */
}

/* --- attempts --- */

struct attempt *attempt_new(struct job *j, uint32_t number, uint32_t world_size, size_t share_count)
{
    struct attempt *a = xcalloc(1, sizeof(*a));

    a->job = j;
    a->number = number;
    a->world_size = world_size;
    a->first_failed_rank = -1;
    a->prepare.kind = TIMER_GANG_PREPARE;
    a->workers = world_size ? xcalloc(world_size, sizeof(*a->workers)) : NULL;
    for (uint32_t r = 0; r < world_size; r++)
        a->workers[r].rank = r;
    a->shares = share_count ? xcalloc(share_count, sizeof(*a->shares)) : NULL;
    a->share_count = share_count;
    for (size_t i = 0; i < share_count; i++)
        a->shares[i].attempt = a;
    TAILQ_INSERT_TAIL(&job_run(j)->attempts, a, of_job);
    return a;
}

static void share_done(struct share *s)
{
    free(s->isolation);
    if (s->node && !s->ended)
        LIST_REMOVE(s, on_node);
    for (size_t i = 0; i < s->device_count; i++)
        free(s->devices[i]);
    free(s->devices);
    free(s->node_name);
}

void attempt_free(struct coord *c, struct attempt *a)
{
    for (size_t i = 0; i < a->share_count; i++) {
        struct share *s = &a->shares[i];
        if (s->node && !s->ended)
            place_give_back(c, s);
        share_done(s);
    }
    for (uint32_t r = 0; r < a->world_size; r++) {
        struct worker *w = &a->workers[r];
        free(w->devices);
        free(w->error);
        free(w->stderr_tail);
        free(w->stdout_path);
        free(w->stderr_path);
    }
    fence_free(a);
    heap_remove(&c->timers, &a->prepare.node);
    if (a->is_dirty)
        TAILQ_REMOVE(&c->dirty_attempts, a, dirty);
    TAILQ_REMOVE(&a->job->run->attempts, a, of_job);
    free(a->workers);
    free(a->shares);
    free(a->text);
    free(a->lost_output);
    free(a->master_addr);
    free(a);
}

struct attempt *attempt_find(const struct job *j, uint32_t number)
{
    struct attempt *a;

    if (number == 0)
        return TAILQ_LAST(&j->run->attempts, attempt_list);
    TAILQ_FOREACH_REVERSE(a, &j->run->attempts, attempt_list, of_job)
    {
        if (a->number == number)
            return a;
    }
    return NULL;
}

/* Shares are in the order of their ranks. */
struct share *attempt_share(const struct attempt *a, uint32_t rank)
{
    size_t lo = 0, hi = a->share_count;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        struct share *s = &a->shares[mid];
        if (rank < s->first_rank)
            hi = mid;
        else if (rank - s->first_rank < s->local_size)
            return s;
        else
            lo = mid + 1;
    }
    return NULL;
}

/* --- users --- */

struct user *user_find(const struct coord *c, const char *name)
{
    struct user *u = NULL;

    HASH_FIND_STR(c->users, name, u);
    return u;
}

struct user *user_intern(struct coord *c, uint32_t uid, const char *name)
{
    char cut[LIMIT_NAME_BYTES + 1];

    str_copy(cut, sizeof(cut), name);
    struct user *u = user_find(c, cut);
    if (!u) {
        u = xcalloc(1, sizeof(*u));
        u->uid = UINT32_MAX;
        str_copy(u->name, sizeof(u->name), cut);
        HASH_ADD_STR(c->users, name, u);
    }
    if (uid != UINT32_MAX)
        u->uid = uid;
    return u;
}

/* --- environments: one row for all jobs submitted from the same shell --- */

static void environment_hash(struct coord *c, struct environment *e)
{
    HASH_ADD_KEYPTR(hh_content, c->env_by_content, e->data, e->len, e);
    e->is_hashed = true;
}

static void environment_forget_content(struct coord *c, struct environment *e)
{
    if (e->is_hashed)
        HASH_DELETE(hh_content, c->env_by_content, e);
    e->is_hashed = false;
    if (e->data)
        c->live_bytes -= e->len;
    free(e->data);
    e->data = NULL;
}

static struct environment *environment_new(struct coord *c, uint64_t id, const void *data,
                                           size_t len)
{
    struct environment *e = xcalloc(1, sizeof(*e));

    e->id = id;
    e->data = xmemdup(data, len);
    e->len = len;
    c->live_bytes += len;
    HASH_ADD(hh_id, c->env_by_id, id, sizeof(e->id), e);
    return e;
}

struct environment *environment_intern(struct coord *c, const void *data, size_t len)
{
    struct environment *e = NULL;

    if (len == 0)
        return NULL;
    HASH_FIND(hh_content, c->env_by_content, data, len, e);
    if (!e) {
        e = environment_new(c, c->environment_id_next++, data, len);
        environment_hash(c, e);
    }
    return e;
}

struct environment *environment_load(struct coord *c, uint64_t id, const void *data, size_t len)
{
    struct environment *older = NULL; /* a row with the same content, kept by its own jobs */

    CHECK(len > 0);
    HASH_FIND(hh_content, c->env_by_content, data, len, older);
    struct environment *e = environment_new(c, id, data, len);
    if (!older)
        environment_hash(c, e);
    e->is_written = true;
    c->environment_id_next = MAX(c->environment_id_next, id + 1);
    return e;
}

static void environment_trim(struct coord *c)
{
    while (c->env_idle_count > LIMIT_IDLE_ENVIRONMENTS) {
        struct environment *e = TAILQ_FIRST(&c->env_idle);
        TAILQ_REMOVE(&c->env_idle, e, idle);
        c->env_idle_count--;
        e->is_idle = false;
        environment_forget_content(c, e);
    }
}

static void environment_set_idle(struct coord *c, struct environment *e)
{
    if (e->is_idle || !e->data)
        return;
    TAILQ_INSERT_TAIL(&c->env_idle, e, idle);
    e->is_idle = true;
    c->env_idle_count++;
}

void environment_ref(struct coord *c, struct environment *e, bool live)
{
    e->refs++;
    if (!live)
        return;
    CHECK(e->data);
    e->live_refs++;
    if (e->is_idle) {
        TAILQ_REMOVE(&c->env_idle, e, idle);
        c->env_idle_count--;
        e->is_idle = false;
    }
}

void environment_unref_live(struct coord *c, struct environment *e)
{
    CHECK(e->live_refs > 0);
    /* Content that was never written (its job was freed in the same commit) must not be forgotten
     * before. */
    if (--e->live_refs == 0)
        environment_set_idle(c, e);
    if (e->is_written)
        environment_trim(c);
}

void environment_unref(struct coord *c, struct environment *e)
{
    CHECK(e->refs > e->live_refs);
    if (--e->refs > 0)
        return;
    if (e->is_idle) {
        TAILQ_REMOVE(&c->env_idle, e, idle);
        c->env_idle_count--;
    }
    if (e->is_written && !c->is_closing) {
        struct record *r = mark_loose(c, RECORD_ENVIRONMENT);
        r->is_delete = true;
        r->u.environment.id = e->id;
    }
    environment_forget_content(c, e);
    HASH_DELETE(hh_id, c->env_by_id, e);
    free(e);
}

void environment_settle(struct coord *c)
{
    struct environment *e, *next;

    HASH_ITER(hh_id, c->env_by_id, e, next) {
        if (e->refs == 0) {
            e->refs = 1; /* an orphan row: drop it */
            environment_unref(c, e);
        } else if (e->live_refs == 0) {
            environment_set_idle(c, e);
        }
    }
    environment_trim(c);
}
