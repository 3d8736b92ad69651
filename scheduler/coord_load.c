/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coord_load.c - from rows back to objects when the coordinator starts, and the marks of a new
 * epoch. Live attempts are taken up as STARTING (RUNNING is soft): their agents will tell. Rows
 * that make no sense are skipped, never trusted.
 */
#include "common/codec.h"
#include "scheduler/coord_internal.h"
#include "scheduler/coord_trust.h"

static void load_run(struct job *j, const struct record_job *r)
{
    if (r->attempt == 0 && r->end_ms == 0)
        return;
    struct job_run *run = job_run(j);
    run->result = (uint8_t)r->result;
    run->attempt = r->attempt;
    run->restarts = r->restarts;
    run->exit_code = r->exit_code;
    run->start_ms = r->start_ms;
    run->end_ms = r->end_ms;
    run->end_seq = r->end_seq;
    job_set_text(&run->reason, r->reason);
}

static void load_spec(struct job *j, const struct record_job *r)
{
    Accel__V1__JobSpec *spec =
        r->spec.len ? accel__v1__job_spec__unpack(&codec_memory, r->spec.len, r->spec.data) : NULL;

    CHECK(spec || !job_is_live(j));
    if (spec)
        spec_load(j, r->name, r->command, spec);
    else
        job_set_texts(j, r->name, r->command, NULL, 0);
    if (!job_is_live(j))
        job_drop_spec(j);
    accel__v1__job_spec__free_unpacked(spec, NULL);
    j->max_restarts = (uint16_t)MIN(r->max_restarts, LIMIT_RESTARTS);
}

static void load_job(struct coord *c, const struct record_job *r)
{
    if (c->job_count && c->jobs[c->job_count - 1]->id >= r->id)
        return;
    struct job *j = job_new(c, r->id);
    struct environment *env = NULL;
    uint8_t request_id[LIMIT_REQUEST_ID_BYTES] = {0};

    job_load_state(j, job_state_from_proto(r->state));
    j->user = user_intern(c, r->uid, r->user);
    j->gid = r->gid;
    j->submit_ms = r->submit_ms;
    j->submit_seq = r->submit_seq;
    load_run(j, r);
    load_spec(j, r);
    memcpy(request_id, r->request_id.data, MIN(r->request_id.len, sizeof(request_id)));
    job_set_request(c, j, request_id);
    c->job_id_next = MAX(c->job_id_next, j->id + 1);
    HASH_FIND(hh_id, c->env_by_id, &r->environment_id, sizeof(r->environment_id), env);
    if (env) {
        j->env = env;
        environment_ref(c, env, job_is_live(j));
    }
    if (job_is_live(j)) {
        c->live_count++;
        if (j->state == JOB_PENDING)
            queue_add(c, j);
    } else {
        c->ended_count++;
        TAILQ_INSERT_TAIL(&c->ended, j, queue); /* by id; sorted by end in coord_start */
    }
    history_load_derived(c, EVENT_JOB_SUBMITTED, j->submit_seq, j->submit_ms, j->id, 0);
    history_load_derived(c, EVENT_JOB_ENDED, j->run->end_seq, j->run->end_ms, j->id,
                         j->run->attempt);
}

static size_t count_lines(const char *text)
{
    size_t count = 0;

    for (const char *p = text; *p; p++)
        count += *p == '\n';
    return count;
}

/* "NODE FIRST_RANK LOCAL_SIZE DEVICE,DEVICE..."; a "!" in front: see load_share_end() */
static bool load_share(struct coord *c, struct share *s, const char *line, size_t len)
{
    char buf[LIMIT_NAME_BYTES + 1];
    int used = 0;

    s->started = s->ended = *line == '!';
    line += s->ended;
    len -= s->ended;
    if (sscanf(line, "%64s %u %u %n", buf, &s->first_rank, &s->local_size, &used) < 3)
        return false;
    s->node_name = xstrdup(buf);
    s->node = node_find(c, buf);
    const char *p = line + used, *end = line + len;
    while (p < end) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        const char *stop = comma ? comma : end;
        s->devices = xrealloc(s->devices, (s->device_count + 1) * sizeof(char *));
        char *id = xcalloc(1, (size_t)(stop - p) + 1);
        memcpy(id, p, (size_t)(stop - p));
        s->devices[s->device_count++] = id;
        p = stop + 1;
    }
    return true;
}

static void load_attempt(struct coord *c, const struct record_attempt *r)
{
    struct job *j = job_find(c, r->job_id);
    size_t lines = count_lines(r->placement);

    if (!j)
        return;
    struct attempt *a = attempt_new(j, r->attempt, 0, lines);
    const char *p = r->placement;
    for (size_t i = 0; i < lines; i++) {
        const char *end = strchr(p, '\n');
        if (!load_share(c, &a->shares[i], p, (size_t)(end - p)))
            a->shares[i].node_name = xstrdup("?");
        a->world_size = MAX(a->world_size, a->shares[i].first_rank + a->shares[i].local_size);
        a->shares[i].ended |= r->end_ms > 0;
        p = end + 1;
    }
    a->world_size = MIN(a->world_size, LIMIT_PROCS_PER_NODE * LIMIT_NODES_PER_JOB);
    a->workers = a->world_size ? xcalloc(a->world_size, sizeof(*a->workers)) : NULL;
    for (uint32_t k = 0; k < a->world_size; k++)
        a->workers[k].rank = k;
    a->cause = r->cause;
    job_set_text(&a->text, r->text);
    j->run->attempt = MAX(j->run->attempt, r->attempt);
    if (j->run->start_ms == 0)
        j->run->start_ms = r->start_ms;
    a->start_ms = r->start_ms;
    a->run_ms = r->run_ms;
    a->end_ms = r->end_ms;
    a->start_seq = r->start_seq;
    a->run_seq = r->run_seq;
    a->end_seq = r->end_seq;
    a->first_failed_rank = r->first_failed_rank;
    job_set_text(&a->master_addr, r->master_addr);
    a->master_port = r->master_port;
    history_load_derived(c, EVENT_ATTEMPT_STARTED, a->start_seq, a->start_ms, j->id, a->number);
    history_load_derived(c, EVENT_ATTEMPT_RUNNING, a->run_seq, a->run_ms, j->id, a->number);
    history_load_derived(c, EVENT_ATTEMPT_ENDED, a->end_seq, a->end_ms, j->id, a->number);
}

static char *blob_text(struct record_blob b)
{
    if (b.len == 0)
        return NULL;
    char *text = xcalloc(1, b.len + 1);
    memcpy(text, b.data, b.len);
    return text;
}

/* Rows of workers are written when their node has said the last word on them. */
static void load_share_end(struct attempt *a, uint32_t rank)
{
    struct share *s = a->end_ms == 0 ? attempt_share(a, rank) : NULL;

    if (s)
        s->started = s->ended = true;
}

static void load_worker(struct coord *c, const struct record_worker *r)
{
    struct job *j = job_find(c, r->job_id);
    struct attempt *a = j ? attempt_find(j, r->attempt) : NULL;

    if (!a || a->number != r->attempt || r->rank >= a->world_size)
        return;
    struct worker *w = &a->workers[r->rank];
    if (w->stdout_path)
        return; /* a second row of the same rank: impossible, but never leak */
    w->local_rank = r->local_rank;
    w->pid = r->pid;
    w->exited = r->exited;
    w->exit_code = r->exit_code;
    w->signal = r->signal;
    w->start_ms = r->start_ms;
    w->end_ms = r->end_ms;
    job_set_text(&w->devices, r->devices);
    job_set_text(&w->error, r->error);
    w->stderr_tail = r->stderr_tail.len ? xmemdup(r->stderr_tail.data, r->stderr_tail.len) : NULL;
    w->stderr_tail_len = r->stderr_tail.len;
    w->is_written = true;
    load_share_end(a, r->rank);
    w->stdout_path = blob_text(r->stdout_path);
    w->stderr_path = blob_text(r->stderr_path);
}

/* Nodes come after attempts: shares find theirs in coord_start. */
static void load_node(struct coord *c, const struct record_node *r)
{
    if (!is_valid_name(r->name) || node_find(c, r->name))
        return;
    struct node *n = node_new(c, r->name);
    job_set_text(&n->machine_id, r->machine_id);
    job_set_text(&n->address, r->address);
    job_set_text(&n->version, r->version);
    job_set_text(&n->isolation, r->isolation);
    n->since_ms = r->since_ms;
    n->incarnation = r->incarnation;
    n->cpus = r->cpus;
    n->memory_bytes = r->memory_bytes;
    n->is_local = true;
}

static void load_device(struct coord *c, const struct record_device *r)
{
    struct node *n = node_find(c, r->node);

    if (!n || r->kind >= NODE_KINDS)
        return;
    n->devices = xrealloc(n->devices, (n->device_count + 1) * sizeof(*n->devices));
    struct device *d = &n->devices[n->device_count++];
    *d = (struct device){.kind = r->kind, .index = r->index, .memory_bytes = r->memory_bytes};
    d->id = xstrdup(r->id);
    job_set_text(&d->model, r->model);
    job_set_text(&d->visible, r->visible);
    job_set_text(&d->fault, r->fault);
}

void coord_load(struct coord *c, const struct record *rec)
{
    switch (rec->table) {
    case RECORD_META:
        c->era = rec->u.meta.era;
        c->epoch = rec->u.meta.epoch;
        c->seq_next = MAX(c->seq_next, rec->u.meta.seq_reserved);
        c->job_id_floor = rec->u.meta.job_id_floor;
        c->job_id_next = MAX(c->job_id_next, c->job_id_floor);
        break;
    case RECORD_ENVIRONMENT:
        if (rec->u.environment.env.len)
            environment_load(c, rec->u.environment.id, rec->u.environment.env.data,
                             rec->u.environment.env.len);
        break;
    case RECORD_JOB: load_job(c, &rec->u.job); break;
    case RECORD_ATTEMPT: load_attempt(c, &rec->u.attempt); break;
    case RECORD_WORKER: load_worker(c, &rec->u.worker); break;
    case RECORD_NODE: load_node(c, &rec->u.node); break;
    case RECORD_DEVICE: load_device(c, &rec->u.device); break;
    case RECORD_REQUEST: request_load(c, &rec->u.request); break;
    case RECORD_EVENT: history_load(c, &rec->u.event); break;
    case RECORD_USER:
    case RECORD_CERTIFICATE:
    case RECORD_TOKEN: trust_load(c, rec); break;
    case RECORD_TABLE_COUNT: break;
    }
}

/* --- start --- */

static int compare_end(const void *a, const void *b)
{
    const struct job *x = *(struct job *const *)a, *y = *(struct job *const *)b;

    if (x->run->end_ms != y->run->end_ms)
        return x->run->end_ms < y->run->end_ms ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void sort_ended(struct coord *c)
{
    struct job **list = xcalloc(c->ended_count + 1, sizeof(*list)), *j;
    size_t count = 0;

    TAILQ_FOREACH(j, &c->ended, queue) list[count++] = j;
    qsort(list, count, sizeof(*list), compare_end);
    TAILQ_INIT(&c->ended);
    for (size_t i = 0; i < count; i++)
        TAILQ_INSERT_TAIL(&c->ended, list[i], queue);
    free(list);
}

/* The attempt goes on where it was: its devices are taken, and its node must tell. */
static void take_up_attempt(struct coord *c, struct job *j)
{
    struct attempt *a = attempt_find(j, 0);

    CHECK(a && a->number == j->run->attempt && a->share_count);
    a->is_go = a->is_loaded = true;
    if (a->cause != ACCEL__V1__CAUSE__CAUSE_SUCCEEDED) /* one of its nodes has failed: the others */
        a->stop_cause = a->cause;                      /* were told, or will be */
    if (j->state == JOB_PENDING) /* its row was not written again when the attempt was */
        job_take_up(c, j);
    for (size_t i = 0; i < a->share_count; i++) {
        struct share *s = &a->shares[i];
        s->node = node_find(c, s->node_name);
        if (!s->node && !s->ended) { /* its row is gone: nobody will ever report; a node of that
                           name may still come */
            s->node = node_new(c, is_valid_name(s->node_name) ? s->node_name : "unknown");
            mark_node(c, s->node);
        }
    }
    place_take(c, a);
    place_split_devices(a);
    job_arm_limit(c, j);
}

void coord_start(struct coord *c, int64_t now_ms, int64_t wall_ms, uint64_t new_era)
{
    c->now_ms = now_ms;
    c->wall_ms = wall_ms;
    if (c->era == 0)
        c->era = new_era;
    /* The time, where it is ahead: what an agent obeyed between the epoch of our store and this one
     * then shows that the store is an older copy (roll_era). */
    c->loaded_epoch = c->epoch;
    c->epoch = MAX(c->epoch + 1, (uint64_t)MAX(wall_ms, 0));
    c->seq_reserved = c->seq_next + LIMIT_SEQ_RESERVE;
    c->meta_dirty = true;
    history_settle(c);
    history_age_start(c);
    for (struct node *n = c->nodes; n; n = n->hh.next)
        place_recount(n);
    for (size_t i = 0; i < c->job_count; i++) {
        struct job *j = c->jobs[i];
        const struct attempt *a = attempt_find(j, 0);
        if (job_is_live(j) && a && a->end_ms == 0)
            take_up_attempt(c, j);
        else if (j->state == JOB_PENDING)
            job_arm_limit(c, j);
    }
    for (size_t i = 0; i < c->job_count; i++) {
        c->live_bytes += job_is_live(c->jobs[i]) ? c->jobs[i]->spec_len : 0;
        orphan_wait(c, c->jobs[i]);
    }
    for (struct node *n = c->nodes; n; n = n->hh.next) /* known, but not heard in this epoch */
        heap_set(&c->timers, &n->grace.node, now_ms + c->config.session_grace_ms);
    sort_ended(c);
    environment_settle(c);
    history_add(c, EVENT_STORE, 0, 0, NULL, "coordinator epoch %llu", (unsigned long long)c->epoch);
    history_prune_jobs(c);
    coord_check_all(c);
}
