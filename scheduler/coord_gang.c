/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coord_gang.c - an attempt over its nodes: it starts on all of them or on none, and ends on all.
 * One node takes its Start at once. Several are prepared first; when all have said so, all get Go,
 * and no process was made anywhere before that. Until then the attempt can be given up without
 * waiting for anybody. Neighbours: coord_agent.c reads reports, job.c has the job's life, place.c
 * the devices. Nothing of the two steps is persisted: an attempt that is found at the start counts
 * as launched, and what its nodes do not have of it is lost.
 */
#include "common/hostlist.h"
#include "scheduler/coord_internal.h"

static void set_ref(const struct coord *c, const struct attempt *a, Accel__V1__AttemptRef *ret)
{
    accel__v1__attempt_ref__init(ret);
    ret->job_id = a->job->id;
    ret->attempt = a->number;
    ret->era = c->era;
}

static bool has_several(const struct attempt *a)
{
    return a->share_count > 1;
}

/* --- Start --- */

static void send_start(struct coord *c, struct share *s, Accel__V1__JobSpec *spec)
{
    struct attempt *a = s->attempt;
    struct job *j = a->job;
    Accel__V1__Start start = ACCEL__V1__START__INIT;
    Accel__V1__AttemptRef ref;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
    const struct attempt *before = TAILQ_PREV(a, attempt_list, of_job);

    set_ref(c, a, &ref);
    start.ref = &ref;
    start.spec = spec;
    start.world_size = a->world_size;
    start.node_rank = (uint32_t)(s - a->shares);
    start.node_count = (uint32_t)a->share_count;
    start.first_rank = s->first_rank;
    start.local_size = s->local_size;
    start.devices = s->devices;
    start.n_devices = s->device_count;
    start.user = j->user->name;
    start.uid = j->user->uid;
    start.gid = j->gid;
    start.last_cause = before ? before->cause : ACCEL__V1__CAUSE__CAUSE_NONE;
    start.job_name = (char *)job_name(j);
    start.restarts = j->run->restarts;
    start.prepare = has_several(a);
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_START;
    down.start = &start;
    node_send(c, s->node, &down);
}

static void arm_prepare(struct coord *c, struct attempt *a)
{
    if (a->prepare.node.pos == 0)
        heap_set(&c->timers, &a->prepare.node, c->now_ms + LIMIT_PREPARE_MS);
}

void gang_start(struct coord *c, struct attempt *a)
{
    Accel__V1__JobSpec *spec = spec_unpack(a->job, &c->out->arena);

    a->is_go = !has_several(a);
    if (!a->is_go)
        arm_prepare(c, a);
    for (size_t i = 0; i < a->share_count; i++)
        send_start(c, &a->shares[i], spec);
}

/* --- Prepared and Go --- */

/* Contracts that name all nodes to each: only these pay for it. */
static bool wants_names(const Accel__V1__JobSpec *spec)
{
    return spec->launcher == ACCEL__V1__LAUNCHER__LAUNCHER_JAX || spec->slurm_env;
}

static void add_names(struct coord *c, const struct attempt *a, Accel__V1__Go *go)
{
    AUTO_STR struct str list = {0}, tasks = {0};
    const char **names = ARENA_ARRAY(&c->out->arena, const char *, a->share_count);

    str_init(&list);
    str_init(&tasks);
    for (size_t i = 0; i < a->share_count; i++)
        names[i] = a->shares[i].node_name;
    hostlist_add(names, a->share_count, &list);
    for (size_t i = 0, end; i < a->share_count; i = end) {
        for (end = i + 1; end < a->share_count; end++)
            if (a->shares[end].local_size != a->shares[i].local_size)
                break;
        hostlist_add_run(&tasks, a->shares[i].local_size, end - i);
    }
    go->node_list = arena_strdup(&c->out->arena, list.data);
    go->tasks_per_node = arena_strdup(&c->out->arena, tasks.data);
}

static void add_peers(struct coord *c, const struct attempt *a, Accel__V1__Go *go)
{
    struct arena *arena = &c->out->arena;

    go->peers = ARENA_ARRAY(arena, Accel__V1__Peer *, a->share_count);
    for (size_t i = 0; i < a->share_count; i++) {
        const struct share *s = &a->shares[i];
        const Accel__V1__Slice *slice = node_slice(s->node);
        Accel__V1__Peer *peer = ARENA_NEW(arena, Accel__V1__Peer);
        accel__v1__peer__init(peer);
        peer->address = s->node->address ? s->node->address : (char *)"";
        if (slice) {
            peer->slice = slice->name;
            peer->slice_worker = slice->worker;
        }
        go->peers[go->n_peers++] = peer;
    }
}

/* The same words for each: packed once. */
static void send_go(struct coord *c, struct attempt *a, struct share *only)
{
    Accel__V1__Go go = ACCEL__V1__GO__INIT;
    Accel__V1__AttemptRef ref;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
    const Accel__V1__JobSpec *spec = spec_unpack_bare(a->job, &c->out->arena);
    bool is_packed = false;

    set_ref(c, a, &ref);
    go.ref = &ref;
    go.master_addr = a->master_addr ? a->master_addr : (char *)"";
    go.master_port = a->master_port;
    go.pet_port = a->pet_port;
    go.aux_port = a->aux_port;
    if (wants_names(spec))
        add_names(c, a, &go);
    if (a->is_on_tpus)
        add_peers(c, a, &go);
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_GO;
    down.go = &go;
    for (size_t i = 0; i < a->share_count; i++) {
        struct share *s = &a->shares[i];
        if ((only && s != only) || !s->node->session)
            continue;
        if (is_packed)
            out_again(c, s->node->session->id);
        else
            node_send(c, s->node, &down);
        is_packed = true;
    }
    if (c->config.trace)
        trace_add(c->config.trace, c->now_ms, "coord", "job %llu.%u GO %s",
                  (unsigned long long)a->job->id, a->number,
                  only ? only->node_name : "to every node");
}

/* Each looks on from where the last look ended: one pass in all over a gang of many nodes. */
static bool has_prepared(struct attempt *a)
{
    uint32_t *i = &a->first_unprepared;

    while (*i < a->share_count && (a->shares[*i].prepared || a->shares[*i].started))
        ++*i;
    return *i == a->share_count;
}

bool gang_has_started(struct attempt *a)
{
    uint32_t *i = &a->first_unstarted;

    while (*i < a->share_count && a->shares[*i].started)
        ++*i;
    return *i == a->share_count;
}

static bool has_ended(struct attempt *a)
{
    uint32_t *i = &a->first_live;

    while (*i < a->share_count && a->shares[*i].ended)
        ++*i;
    return *i == a->share_count;
}

void gang_take_prepared(struct coord *c, struct share *s, const Accel__V1__Prepared *m)
{
    struct attempt *a = s->attempt;

    if (!has_several(a) || s->started || s->prepared || a->stop_cause ||
        a->job->state != JOB_STARTING)
        return;
    s->prepared = true;
    if (s == &a->shares[0] && !a->is_go) {
        job_set_text(&a->master_addr, m->address[0] ? m->address : s->node->address);
        a->master_port = m->master_port;
        a->pet_port = m->pet_port;
        a->aux_port = m->aux_port;
    }
    bool all = has_prepared(a);
    if (all)
        heap_remove(&c->timers, &a->prepare.node);
    if (a->is_go) { /* its Go, or its Start, had been lost */
        send_go(c, a, s);
    } else if (all) {
        a->is_go = true;
        send_go(c, a, NULL);
    }
}

/* --- Stop --- */

static void send_stop(struct coord *c, struct share *s, uint32_t cause, uint64_t grace_ms)
{
    Accel__V1__Stop stop = ACCEL__V1__STOP__INIT;
    Accel__V1__AttemptRef ref;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;

    set_ref(c, s->attempt, &ref);
    stop.ref = &ref;
    stop.cause = (Accel__V1__Cause)cause;
    stop.grace_ms = grace_ms;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_STOP;
    down.stop = &stop;
    if (s->node && !s->ended)
        node_send(c, s->node, &down);
}

static uint32_t stop_cause(const struct job *j)
{
    return j->run->result == ACCEL__V1__JOB_RESULT__RESULT_TIMED_OUT
               ? ACCEL__V1__CAUSE__CAUSE_TIME_LIMIT
               : ACCEL__V1__CAUSE__CAUSE_CANCELLED;
}

static uint64_t stop_grace_ms(struct coord *c, const struct job *j)
{
    const Accel__V1__JobSpec *spec = spec_unpack_bare(j, &c->out->arena);

    return spec->stop_grace_ms ? spec->stop_grace_ms : LIMIT_STOP_GRACE_MS;
}

void job_send_stop(struct coord *c, struct job *j, bool kill)
{
    struct attempt *a = attempt_find(j, 0);

    j->run->is_killed |= kill; /* also when it has to be said again */
    uint64_t grace_ms = j->run->is_killed ? 0 : stop_grace_ms(c, j);
    for (size_t i = 0; i < a->share_count; i++)
        send_stop(c, &a->shares[i], stop_cause(j), grace_ms);
}

/* One of its nodes failed: the others are ended too, once. */
static void stop_rest(struct coord *c, struct attempt *a, uint32_t cause, const struct share *but)
{
    if (a->stop_cause)
        return;
    a->stop_cause = cause;
    for (size_t i = 0; i < a->share_count; i++)
        if (&a->shares[i] != but)
            send_stop(c, &a->shares[i], cause, LIMIT_FAILURE_GRACE_MS);
}

void gang_take_failing(struct coord *c, struct share *s)
{
    if (s->attempt->is_go && has_several(s->attempt))
        stop_rest(c, s->attempt, ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED, s);
}

/* --- the end --- */

static void finish(struct coord *c, struct attempt *a)
{
    heap_remove(&c->timers, &a->prepare.node);
    fence_free(a);
    if (has_several(a) && a->cause == ACCEL__V1__CAUSE__CAUSE_SUCCEEDED)
        job_set_text(&a->text, arena_printf(&c->out->arena, "all %u ranks exited with code 0",
                                            a->world_size));
    if (a->lost_output) /* by whichever node: it is not why the attempt ended */
        job_set_text(&a->text, arena_printf(&c->out->arena, "%s; %s",
                                            a->text ? a->text : "it ended", a->lost_output));
    job_apply(c, a->job, JOB_EV_ATTEMPT_ENDED, NULL);
}

/* No node was told Go, so no process can ever be of it: it ends here and now on all of them. A node
 * that is away has forgotten it. */
static void give_up(struct coord *c, struct attempt *a)
{
    CHECK(!a->is_go && a->cause != ACCEL__V1__CAUSE__CAUSE_NONE);
    for (size_t i = 0; i < a->share_count; i++) {
        struct share *s = &a->shares[i];
        if (s->ended)
            continue;
        send_stop(c, s, a->cause, 0);
        place_give_back(c, s);
    }
    finish(c, a);
}

void gang_share_ended(struct coord *c, struct share *s)
{
    struct attempt *a = s->attempt;

    place_give_back(c, s);
    if (has_ended(a)) {
        finish(c, a);
        return;
    }
    if (!a->is_go) {
        give_up(c, a);
        return;
    }
    mark_workers(c, a); /* its node forgets it once that is acknowledged */
    if (a->cause != ACCEL__V1__CAUSE__CAUSE_SUCCEEDED && a->job->state != JOB_STOPPING)
        stop_rest(c, a, a->cause, NULL);
}

/* Ends that no rank can have caused: where ranks of other nodes failed too, they failed of it. */
static bool is_origin(uint32_t cause)
{
    return cause == ACCEL__V1__CAUSE__CAUSE_SHIM_LOST ||
           cause == ACCEL__V1__CAUSE__CAUSE_NODE_LOST ||
           cause == ACCEL__V1__CAUSE__CAUSE_DEVICE_FAULT;
}

void gang_share_lost(struct coord *c, struct share *s, const char *text)
{
    struct attempt *a = s->attempt;

    if (a->cause == ACCEL__V1__CAUSE__CAUSE_NONE || a->cause == ACCEL__V1__CAUSE__CAUSE_SUCCEEDED ||
        (has_several(a) && a->cause == ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED)) {
        a->cause = ACCEL__V1__CAUSE__CAUSE_NODE_LOST;
        a->first_failed_rank = -1;
        job_set_text(&a->text, text);
        mark_attempt(c, a, false);
    }
    gang_share_ended(c, s);
}

/* What its node says of the end; in a gang of several, which node where no rank tells it. */
static void note_text(struct coord *c, struct attempt *a, const Accel__V1__AttemptEnded *m)
{
    bool is_of_node = is_origin(a->cause) || a->cause == ACCEL__V1__CAUSE__CAUSE_START_FAILED;

    job_set_text(&a->text, m->text);
    for (size_t i = 0; i < a->share_count && is_of_node && has_several(a) && m->n_ranks; i++) {
        const struct share *s = &a->shares[i];
        if (m->ranks[0]->rank - s->first_rank < s->local_size) /* unsigned: not before it either */
            job_set_text(&a->text, arena_printf(&c->out->arena, "%s: %s", s->node_name, m->text));
    }
}

/* Numbers beyond the enumeration come as they are: the store could not write such a row. */
static uint32_t end_cause(const Accel__V1__AttemptEnded *m)
{
    if (m->cause == ACCEL__V1__CAUSE__CAUSE_NONE)
        return ACCEL__V1__CAUSE__CAUSE_NODE_LOST;
    return protobuf_c_enum_descriptor_get_value(&accel__v1__cause__descriptor, (int)m->cause)
               ? (uint32_t)m->cause
               : ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED;
}

/* The first failing rank of the gang is the one that was reaped first: receive time minus age, no
 * wall clocks. */
void gang_note_end(struct coord *c, struct attempt *a, const Accel__V1__AttemptEnded *m)
{
    uint32_t cause = end_cause(m);
    int64_t at_ns =
        c->now_ms * 1000000 - (int64_t)MIN(m->first_failed_age_ns, (uint64_t)INT64_MAX / 2);
    bool is_worse =
        a->cause == ACCEL__V1__CAUSE__CAUSE_NONE || a->cause == ACCEL__V1__CAUSE__CAUSE_SUCCEEDED;
    bool is_first =
        m->first_failed_rank >= 0 && (a->first_failed_rank < 0 || at_ns < a->first_failed_at_ns);
    bool is_older = a->cause == ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED && is_origin(cause) &&
                    a->stop_cause != cause;

    if (m->lost_output && m->lost_output[0] && !a->lost_output)
        job_set_text(&a->lost_output, m->lost_output);
    if (!is_worse && is_origin(a->cause))
        return; /* it is why the ranks of this node ended */
    if (is_first || is_older) {
        a->first_failed_rank = m->first_failed_rank;
        a->first_failed_at_ns = at_ns;
    }
    if (!is_worse && !is_first && !is_older)
        return;
    if (a->cause != cause || is_first || is_older)
        mark_attempt(c, a, false);
    a->cause = cause;
    note_text(c, a, m);
}

/* --- nodes that go and come --- */

void gang_node_away(struct node *n)
{
    struct share *s;

    LIST_FOREACH(s, &n->shares, on_node)
    {
        s->prepared = false; /* it has forgotten */
        s->attempt->first_unprepared = 0;
    }
}

static void lose(struct coord *c, struct share *s, const char *fmt)
{
    char text[LIMIT_REASON_BYTES];

    snprintf(text, sizeof(text), fmt, s->node_name);
    send_stop(c, s, ACCEL__V1__CAUSE__CAUSE_NODE_LOST, 0);
    gang_share_lost(c, s, text);
}

static struct share *waiting_share(const struct node *n)
{
    struct share *s;

    LIST_FOREACH(s, &n->shares, on_node)
    {
        if (!s->attempt->is_go)
            return s;
    }
    return NULL;
}

void gang_node_silent(struct coord *c, struct node *n)
{
    struct share *s;

    while (!n->session && (s = waiting_share(n)))
        lose(c, s, "node %s went away before the gang was started");
}

void gang_prepare_timeout(struct coord *c, struct attempt *a)
{
    for (size_t i = 0; i < a->share_count && a->end_ms == 0; i++) {
        struct share *s = &a->shares[i];
        if (!s->ended && !s->started && !s->prepared)
            lose(c, s, "node %s did not get ready for the start in time");
    }
    if (a->end_ms == 0 && !a->is_go) { /* all are, and it is stopping: they have not answered */
        if (a->cause == ACCEL__V1__CAUSE__CAUSE_NONE)
            a->cause = ACCEL__V1__CAUSE__CAUSE_NODE_LOST;
        give_up(c, a);
    }
}

/* A node of the same acceld says Hello and does not have its share. */
static bool may_start_again(const struct share *s, bool is_same)
{
    const struct attempt *a = s->attempt;

    if (a->job->state != JOB_STARTING || s->started || a->stop_cause)
        return false;
    if (!has_several(a))
        return is_same; /* its tombstone refuses it, if the node did have it */
    if (!a->is_go)
        return true;
    /* The ports that the others were told are node rank 0's, and it has given them back. */
    return is_same && !a->is_loaded && s != &a->shares[0];
}

void gang_settle(struct coord *c, struct share *s, bool has, bool is_same)
{
    struct attempt *a = s->attempt;

    if (has) {
        if (a->job->state == JOB_STOPPING)
            job_send_stop(c, a->job, false);
        else if (a->stop_cause)
            send_stop(c, s, a->stop_cause, LIMIT_FAILURE_GRACE_MS);
        return;
    }
    if (!may_start_again(s, is_same)) {
        gang_share_lost(
            c, s,
            "the node has no trace of the attempt: it was restarted, or its state directory was "
            "removed");
        return;
    }
    s->prepared = false;
    a->first_unprepared = 0;
    if (has_several(a))
        arm_prepare(c, a);
    send_start(c, s, spec_unpack(a->job, &c->out->arena));
}
