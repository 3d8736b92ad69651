/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coord_collect.c - turns the marks of past steps into records, the last version of each row once.
 * Strings are copied into the batch, which lives until its commit. Changes nothing but the marks.
 */
#include "scheduler/coord_internal.h"

static struct record *record_add(struct coord_batch *b, enum record_table table)
{
    if (b->record_count == b->record_cap) {
        b->record_cap = b->record_cap ? b->record_cap * 2 : 16;
        b->records = xrealloc(b->records, b->record_cap * sizeof(*b->records));
    }
    struct record *r = &b->records[b->record_count++];
    memset(r, 0, sizeof(*r));
    r->table = table;
    return r;
}

static const char *text_dup(struct arena *a, const char *s)
{
    return s ? arena_strdup(a, s) : "";
}

static struct record_blob blob_dup(struct arena *a, const void *p, size_t len)
{
    return (struct record_blob){.data = len ? arena_dup(a, p, len) : NULL, .len = len};
}

static struct record_blob path_blob(struct arena *a, const char *path)
{
    return blob_dup(a, path, path ? strlen(path) : 0);
}

static void collect_environment(struct coord_batch *b, struct environment *e)
{
    struct record *r = record_add(b, RECORD_ENVIRONMENT);

    r->u.environment.id = e->id;
    r->u.environment.env = blob_dup(&b->arena, e->data, e->len);
    e->is_written = true;
}

/* As it came. The rows of ended jobs have it already. */
static struct record_blob spec_blob(struct arena *a, const struct job *j)
{
    struct record_blob blob = {0};

    if (j->spec_len == 0)
        return blob;
    Accel__V1__JobSpec *spec = spec_unpack_bare(j, a);
    blob.len = accel__v1__job_spec__get_packed_size(spec);
    uint8_t *data = arena_alloc(a, blob.len);
    accel__v1__job_spec__pack(spec, data);
    blob.data = data;
    return blob;
}

static void collect_job(struct coord *c, struct coord_batch *b, struct job *j)
{
    struct arena *a = &b->arena;

    if (j->env && !j->env->is_written && j->env->data)
        collect_environment(b, j->env);
    struct record_job *r = &record_add(b, RECORD_JOB)->u.job;
    *r = (struct record_job){
        .id = j->id,
        .name = arena_strdup(a, job_name(j)),
        .user = text_dup(a, j->user->name),
        .uid = j->user->uid,
        .gid = j->gid,
        .state = job_state_to_proto(j->state),
        .result = j->run->result,
        .reason = text_dup(a, j->run->reason),
        .attempt = j->run->attempt,
        .restarts = j->run->restarts,
        .max_restarts = j->max_restarts,
        .exit_code = j->run->exit_code,
        .submit_ms = j->submit_ms,
        .start_ms = j->run->start_ms,
        .end_ms = j->run->end_ms,
        .submit_seq = j->submit_seq,
        .end_seq = j->run->end_seq,
        .command = arena_strdup(a, job_command(j)),
        .environment_id = j->env ? j->env->id : 0,
        .request_id = blob_dup(a, j->request_id, sizeof(j->request_id)),
        .spec = spec_blob(a, j),
    };
}

static void collect_attempt(struct coord_batch *b, const struct attempt *at)
{
    struct arena *a = &b->arena;
    struct record_attempt *r = &record_add(b, RECORD_ATTEMPT)->u.attempt;

    *r = (struct record_attempt){
        .job_id = at->job->id,
        .attempt = at->number,
        .cause = at->cause,
        .text = text_dup(a, at->text),
        .start_ms = at->start_ms,
        .run_ms = at->run_ms,
        .end_ms = at->end_ms,
        .start_seq = at->start_seq,
        .run_seq = at->run_seq,
        .end_seq = at->end_seq,
        .first_failed_rank = at->first_failed_rank,
        .master_addr = text_dup(a, at->master_addr),
        .master_port = at->master_port,
        .placement = attempt_placement_text(at, a),
    };
}

static void collect_worker(struct coord_batch *b, const struct attempt *at, const struct share *s,
                           struct worker *w)
{
    struct arena *a = &b->arena;
    struct record_worker *r = &record_add(b, RECORD_WORKER)->u.worker;

    w->is_written = true;
    *r = (struct record_worker){
        .job_id = at->job->id,
        .attempt = at->number,
        .rank = w->rank,
        .node = text_dup(a, s->node_name),
        .local_rank = w->local_rank,
        .pid = w->pid,
        .exited = w->exited,
        .exit_code = w->exit_code,
        .signal = w->signal,
        .start_ms = w->start_ms,
        .end_ms = w->end_ms,
        .devices = text_dup(a, w->devices),
        .error = text_dup(a, w->error),
        .stderr_tail = blob_dup(a, w->stderr_tail, w->stderr_tail_len),
        .stdout_path = path_blob(a, w->stdout_path),
        .stderr_path = path_blob(a, w->stderr_path),
    };
}

/* Each once, when its node has said the last word on it. A node at a time: this runs again for each
 * of a thousand nodes that end one by one. */
static void collect_workers(struct coord_batch *b, struct attempt *at)
{
    for (size_t i = 0; i < at->share_count; i++) {
        struct share *s = &at->shares[i];
        if (s->is_written || (at->end_ms == 0 && !s->ended))
            continue;
        s->is_written = true;
        for (uint32_t k = 0; k < s->local_size && s->first_rank + k < at->world_size; k++) {
            struct worker *w = &at->workers[s->first_rank + k];
            if (!w->is_written)
                collect_worker(b, at, s, w);
        }
    }
}

static void collect_node(struct coord_batch *b, const struct node *n)
{
    struct arena *a = &b->arena;
    struct record_node *r = &record_add(b, RECORD_NODE)->u.node;

    *r = (struct record_node){
        .name = text_dup(a, n->name),
        .machine_id = text_dup(a, n->machine_id),
        .address = text_dup(a, n->address),
        .version = text_dup(a, n->version),
        .state = node_state_name(n->state),
        .reason = "",
        .isolation = text_dup(a, n->isolation),
        .since_ms = n->since_ms,
        .incarnation = n->incarnation,
        .cpus = n->cpus,
        .memory_bytes = n->memory_bytes,
    };
    for (size_t i = 0; i < n->device_count; i++) {
        const struct device *d = &n->devices[i];
        record_add(b, RECORD_DEVICE)->u.device = (struct record_device){
            .node = text_dup(a, n->name),
            .id = text_dup(a, d->id),
            .model = text_dup(a, d->model),
            .visible = text_dup(a, d->visible),
            .fault = text_dup(a, d->fault),
            .kind = d->kind,
            .index = d->index,
            .memory_bytes = d->memory_bytes,
        };
    }
}

static void collect_loose(struct coord *c, struct coord_batch *b)
{
    /* Their strings live in loose_arena, which is reused at once, while the batch lives until its
     * commit: copy. */
    for (size_t i = 0; i < c->loose_count; i++) {
        struct record *r = record_add(b, c->loose[i].table);
        struct arena *a = &b->arena;
        *r = c->loose[i];
        switch (r->table) {
        case RECORD_EVENT:
            r->u.event.kind = text_dup(a, r->u.event.kind);
            r->u.event.node = text_dup(a, r->u.event.node);
            r->u.event.text = text_dup(a, r->u.event.text);
            break;
        case RECORD_REQUEST:
            r->u.request.id = blob_dup(a, r->u.request.id.data, r->u.request.id.len);
            r->u.request.method = text_dup(a, r->u.request.method);
            r->u.request.reply = blob_dup(a, r->u.request.reply.data, r->u.request.reply.len);
            break;
        case RECORD_DEVICE: /* deletes: key only */
            r->u.device.node = text_dup(a, r->u.device.node);
            r->u.device.id = text_dup(a, r->u.device.id);
            break;
        case RECORD_NODE: /* deletes: key only */
            r->u.node = (struct record_node){.name = text_dup(a, r->u.node.name)};
            break;
        case RECORD_USER: r->u.user.name = text_dup(a, r->u.user.name); break;
        case RECORD_CERTIFICATE:
            r->u.certificate.serial = text_dup(a, r->u.certificate.serial);
            r->u.certificate.name = text_dup(a, r->u.certificate.name);
            break;
        case RECORD_TOKEN:
            r->u.token.hash = blob_dup(a, r->u.token.hash.data, r->u.token.hash.len);
            r->u.token.by = text_dup(a, r->u.token.by);
            break;
        default: /* keys are numbers */ break;
        }
    }
    c->loose_count = 0;
    arena_reset(&c->loose_arena);
}

void coord_collect(struct coord *c, struct coord_batch *out)
{
    struct attempt *a;
    struct node *n;

    collect_loose(c, out);
    for (size_t i = 0; i < c->dirty_job_count; i++) {
        if (!c->dirty_jobs[i])
            continue;
        c->dirty_jobs[i]->dirty_at = 0;
        collect_job(c, out, c->dirty_jobs[i]);
    }
    c->dirty_job_count = 0;
    while ((a = TAILQ_FIRST(&c->dirty_attempts))) {
        TAILQ_REMOVE(&c->dirty_attempts, a, dirty);
        if (a->row_dirty)
            collect_attempt(out, a);
        if (a->workers_dirty)
            collect_workers(out, a);
        a->is_dirty = a->row_dirty = a->workers_dirty = false;
    }
    while ((n = TAILQ_FIRST(&c->dirty_nodes))) {
        TAILQ_REMOVE(&c->dirty_nodes, n, dirty);
        n->is_dirty = false;
        collect_node(out, n);
    }
    if (c->seq_next + LIMIT_SEQ_RESERVE / 2 > c->seq_reserved) {
        c->seq_reserved = c->seq_next + LIMIT_SEQ_RESERVE;
        c->meta_dirty = true;
    }
    if (c->meta_dirty) {
        c->meta_dirty = false;
        record_add(out, RECORD_META)->u.meta = (struct record_meta){
            .era = c->era,
            .epoch = c->epoch,
            .seq_reserved = c->seq_reserved,
            .job_id_floor = c->job_id_floor,
        };
    }
}
