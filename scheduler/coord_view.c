/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coord_view.c - the core's objects as messages for people, built in the running step's arena.
 * Nothing is changed here, and nobody's rights are checked: that is the callers' part.
 */
#include "scheduler/coord_internal.h"

static ProtobufCBinaryData bytes_of(const char *text)
{
    return (ProtobufCBinaryData){.data = (uint8_t *)(text ? text : ""),
                                 .len = text ? strlen(text) : 0};
}

static char *text_of(const char *text)
{
    return (char *)(text
                        ? text
                        : ""); /* lives until the step's end, and messages are packed before that */
}

char *attempt_placement_text(const struct attempt *a, struct arena *arena)
{
    AUTO_STR struct str s = {0};

    str_init(&s);
    for (size_t i = 0; i < a->share_count; i++) {
        const struct share *sh = &a->shares[i];
        str_addf(&s, "%s%s %u %u ", sh->ended && a->end_ms == 0 ? "!" : "", sh->node_name,
                 sh->first_rank, sh->local_size);
        for (size_t d = 0; d < sh->device_count; d++)
            str_addf(&s, "%s%s", d ? "," : "", sh->devices[d]);
        str_addc(&s, '\n');
    }
    return arena_strdup(arena, s.data);
}

static void split_devices(struct arena *a, const char *text, Accel__V1__Rank *v)
{
    size_t count = 1, i = 0;

    if (!text || !*text)
        return;
    char *copy = arena_strdup(a, text);
    for (const char *p = copy; *p; p++)
        count += *p == ',';
    v->devices = ARENA_ARRAY(a, char *, count);
    v->n_devices = count;
    for (char *p = copy; p && i < count; i++) {
        char *comma = strchr(p, ',');
        if (comma)
            *comma = 0;
        v->devices[i] = p;
        p = comma ? comma + 1 : NULL;
    }
}

static Accel__V1__Rank *view_rank(struct arena *a, const struct attempt *at, const struct worker *w)
{
    Accel__V1__Rank *v = ARENA_NEW(a, Accel__V1__Rank);
    const struct share *s = attempt_share(at, w->rank);

    accel__v1__rank__init(v);
    v->rank = w->rank;
    v->local_rank = w->local_rank;
    v->node = text_of(s ? s->node_name : NULL);
    v->pid = w->pid;
    v->exited = w->exited;
    v->state = (char *)(w->exited    ? "EXITED"
                        : at->end_ms ? "EXITED"
                        : w->pid     ? "RUNNING"
                                     : "PREPARED");
    v->exit_code = w->exit_code;
    v->signal = w->signal;
    v->start_ms = w->start_ms;
    v->end_ms = w->end_ms;
    split_devices(a, w->devices, v);
    v->stderr_tail = (ProtobufCBinaryData){.data = w->stderr_tail, .len = w->stderr_tail_len};
    v->stdout_path = bytes_of(w->stdout_path);
    v->stderr_path = bytes_of(w->stderr_path);
    v->error = text_of(w->error);
    return v;
}

/* The lines of all nodes; with the node's name where they differ. */
static void view_isolation(struct arena *a, const struct attempt *at, Accel__V1__Attempt *v)
{
    bool is_same = true;

    for (size_t i = 1; i < at->share_count; i++)
        is_same &= strcmp(text_of(at->shares[i].isolation), text_of(at->shares[0].isolation)) == 0;
    size_t shares = is_same ? MIN(at->share_count, (size_t)1) : at->share_count;
    v->isolation = ARENA_ARRAY(a, char *, shares *LIMIT_ISOLATION_TEXTS + 1);
    for (size_t i = 0; i < shares; i++) {
        const struct share *s = &at->shares[i];
        char *rest = arena_strdup(a, text_of(s->isolation)), *line;
        while ((line = strsep(&rest, "\n")) && line[0] &&
               v->n_isolation < shares * LIMIT_ISOLATION_TEXTS)
            v->isolation[v->n_isolation++] =
                is_same ? line : arena_printf(a, "%s on %s", line, s->node_name);
    }
}

static Accel__V1__Attempt *view_attempt(struct arena *a, const struct attempt *at)
{
    Accel__V1__Attempt *v = ARENA_NEW(a, Accel__V1__Attempt);

    accel__v1__attempt__init(v);
    v->number = at->number;
    v->cause = (Accel__V1__Cause)at->cause;
    v->text = text_of(at->text);
    v->start_ms = at->start_ms;
    v->run_ms = at->run_ms;
    v->end_ms = at->end_ms;
    v->first_failed_rank = at->first_failed_rank;
    v->master_addr = text_of(at->master_addr);
    v->master_port = at->master_port;
    view_isolation(a, at, v);
    v->n_ranks = at->world_size;
    v->ranks = ARENA_ARRAY(a, Accel__V1__Rank *, at->world_size + 1);
    for (uint32_t i = 0; i < at->world_size; i++)
        v->ranks[i] = view_rank(a, at, &at->workers[i]);
    return v;
}

static const struct node *away_node(const struct job *j)
{
    const struct attempt *at = attempt_find(j, 0);

    if (j->state == JOB_PENDING || j->state == JOB_ENDED)
        return NULL;
    for (size_t i = 0; i < at->share_count; i++)
        if (!at->shares[i].ended && at->shares[i].node && !at->shares[i].node->session)
            return at->shares[i].node;
    return NULL;
}

static char *view_reason(struct coord *c, const struct job *j, struct place_why *why)
{
    struct arena *a = &c->out->arena;
    const struct node *away = away_node(j);

    if (away && !attempt_find(j, 0)->is_go)
        return arena_printf(a, "node %s is away: it waits for it to come back", away->name);
    if (away)
        return arena_printf(a, "agent away: node %s runs on without its acceld", away->name);
    return text_of(j->state == JOB_PENDING ? place_why(why, j) : j->run->reason);
}

void view_spec(struct arena *a, const struct job *j, Accel__V1__Job *v, bool with_argv)
{
    if (j->spec_len == 0)
        return;
    const Accel__V1__JobSpec *spec = spec_unpack_bare(j, a);
    v->cwd = spec->cwd;
    v->output_pattern = spec->output_pattern;
    if (!with_argv)
        return;
    v->n_argv = spec->n_argv;
    v->argv = spec->argv;
    v->n_nodelist = spec->n_nodelist;
    v->nodelist = spec->nodelist;
    v->n_exclude = spec->n_exclude;
    v->exclude = spec->exclude;
}

Accel__V1__Job *view_job_brief(struct coord *c, const struct job *j, struct place_why *why)
{
    struct arena *a = &c->out->arena;
    Accel__V1__Job *v = ARENA_NEW(a, Accel__V1__Job);
    const struct attempt *at = attempt_find(j, 0);

    accel__v1__job__init(v);
    v->id = j->id;
    v->name = (char *)job_name(j);
    v->user = j->user->name;
    v->uid = j->user->uid;
    v->state = job_state_to_proto(j->state);
    v->result = j->state == JOB_ENDED ? (Accel__V1__JobResult)j->run->result
                                      : ACCEL__V1__JOB_RESULT__RESULT_NONE;
    v->reason = view_reason(c, j, why);
    v->attempt = j->run->attempt;
    v->max_restarts = j->max_restarts;
    v->restarts = j->run->restarts;
    v->submit_ms = j->submit_ms;
    v->start_ms = j->run->start_ms;
    v->end_ms = j->run->end_ms;
    /* Of a job that had ended before this coordinator began only its attempts are known. */
    v->nodes = j->nodes ? j->nodes : at ? MAX((uint32_t)at->share_count, 1u) : 1;
    v->procs = at ? at->world_size : v->nodes * j->procs_per_node;
    v->device_kind = (Accel__V1__DeviceKind)j->device_kind;
    v->gpus_per_node = j->gpus_per_node;
    v->exit_code = j->run->exit_code;
    v->command = bytes_of(job_command(j));
    v->time_limit_ms = j->time_limit_ms;
    v->memory_bytes = j->memory_bytes;
    v->cpus_per_proc = j->cpus_per_proc;
    if (at) {
        v->n_where = at->share_count;
        v->where = ARENA_ARRAY(a, char *, at->share_count + 1);
        for (size_t i = 0; i < at->share_count; i++)
            v->where[i] = at->shares[i].node_name;
    }
    return v;
}

Accel__V1__Job *view_job(struct coord *c, const struct job *j, bool with_argv)
{
    struct arena *a = &c->out->arena;
    const struct attempt *each;
    struct place_why why;
    size_t count = 0;

    place_why_init(&why, c, a);
    Accel__V1__Job *v = view_job_brief(c, j, &why);
    view_spec(a, j, v, with_argv);
    TAILQ_FOREACH(each, &j->run->attempts, of_job) count++;
    v->attempts = ARENA_ARRAY(a, Accel__V1__Attempt *, count + 1);
    TAILQ_FOREACH(each, &j->run->attempts, of_job)
    v->attempts[v->n_attempts++] = view_attempt(a, each);
    return v;
}

static Accel__V1__Device *view_device(struct arena *a, const struct node *n, const struct device *d)
{
    Accel__V1__Device *v = ARENA_NEW(a, Accel__V1__Device);

    const Accel__V1__Device *told = node_told_device(n, d->id);
    accel__v1__device__init(v);
    if (told)
        *v = *told;
    v->id = d->id;
    v->kind = (Accel__V1__DeviceKind)d->kind;
    v->model = text_of(d->model);
    v->memory_bytes = d->memory_bytes;
    v->index = d->index;
    v->visible = text_of(d->visible);
    v->fault = text_of(d->fault);
    return v;
}

Accel__V1__Node *view_node(struct coord *c, const struct node *n)
{
    struct arena *a = &c->out->arena;
    Accel__V1__Node *v = ARENA_NEW(a, Accel__V1__Node);

    accel__v1__node__init(v);
    v->name = (char *)n->name;
    v->state = (char *)node_state_name(n->state);
    v->reason = (char *)(n->state == NODE_READY ? "" : "its acceld is away");
    v->address = text_of(n->address);
    v->version = text_of(n->version);
    v->isolation = text_of(n->isolation);
    v->cpus = n->cpus;
    v->memory_bytes = n->memory_bytes;
    v->incarnation = n->incarnation;
    v->since_ms = n->since_ms;
    if (n->told) {
        v->slice = n->told->slice;
        v->limits = n->told->limits;
        v->n_limits = n->told->n_limits;
        v->ifname = n->told->ifname;
    }
    v->devices = ARENA_ARRAY(a, Accel__V1__Device *, n->device_count + 1);
    v->uses = ARENA_ARRAY(a, Accel__V1__DeviceUse *, n->device_count + 1);
    for (size_t i = 0; i < n->device_count; i++) {
        const struct device *d = &n->devices[i];
        v->devices[v->n_devices++] = view_device(a, n, d);
        if (!d->holder)
            continue;
        Accel__V1__DeviceUse *use = ARENA_NEW(a, Accel__V1__DeviceUse);
        accel__v1__device_use__init(use);
        use->device = d->id;
        use->job_id = d->holder->job->id;
        use->attempt = d->holder->number;
        v->uses[v->n_uses++] = use;
    }
    return v;
}
