/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coord_agent.c - the sessions of agents: the life of a session, what Hello settles between what we
 * believe and what the node has, and reports. A report is acknowledged in the step that takes it
 * in, so the acknowledgement leaves only after the commit; one about an attempt that is over is
 * acknowledged and otherwise ignored.
 */
#include "scheduler/coord_internal.h"
#include "scheduler/coord_trust.h"

static const char *const state_names[] = {"OPENING", "LIVE", "CLOSED"};
static const char *const event_names[] = {"HELLO", "MESSAGE", "REPLACED", "REFUSED", "LOST"};
static const char *const effect_names[] = {"bind node", "take message", "end call", "tell node"};

/* Eras are numbers of the store, which are signed, and one may be followed by many. They begin at
 * the time in ms. */
#define ERA_MAX (1ull << 62)

enum session_effect {
    EFFECT_BIND = 1 << 0,
    EFFECT_TAKE = 1 << 1,
    EFFECT_END = 1 << 2,
    EFFECT_TELL_NODE = 1 << 3,
};

#define MOVE(s, e, n, fx) LIFECYCLE_ROW(SESSION, SESSION_EV, s, e, NULL, MOVE, n, fx, NULL)
#define IGNORE(s, e, why) LIFECYCLE_ROW(SESSION, SESSION_EV, s, e, NULL, IGNORE, s, 0, why)
#define REFUSE(s, e, why) LIFECYCLE_ROW(SESSION, SESSION_EV, s, e, NULL, REFUSE, s, 0, why)

static const struct lifecycle_row rows[] = {
    MOVE(OPENING, HELLO, LIVE, EFFECT_BIND),
    REFUSE(OPENING, MESSAGE, "the first message of a session must be Hello"),
    IGNORE(OPENING, REPLACED, "it has no node yet"),
    MOVE(OPENING, REFUSED, CLOSED, 0),
    MOVE(OPENING, LOST, CLOSED, 0),
    REFUSE(LIVE, HELLO, "a session has one Hello"),
    MOVE(LIVE, MESSAGE, LIVE, EFFECT_TAKE),
    MOVE(LIVE, REPLACED, CLOSED, EFFECT_END | EFFECT_TELL_NODE),
    MOVE(LIVE, REFUSED, CLOSED, EFFECT_TELL_NODE),
    MOVE(LIVE, LOST, CLOSED, EFFECT_TELL_NODE),
    IGNORE(CLOSED, HELLO, "the session is over"),
    IGNORE(CLOSED, MESSAGE, "the session is over"),
    IGNORE(CLOSED, REPLACED, "the session is over"),
    IGNORE(CLOSED, REFUSED, "the session is over"),
    IGNORE(CLOSED, LOST, "the session is over"),
};

const struct lifecycle session_lifecycle = {
    .name = "session",
    .state_names = state_names,
    .state_count = SESSION_STATE_COUNT,
    .event_names = event_names,
    .event_count = SESSION_EVENT_COUNT,
    .effect_names = effect_names,
    .effect_count = ARRAY_LEN(effect_names),
    .rows = rows,
    .row_count = ARRAY_LEN(rows),
    .initial_state = SESSION_OPENING,
    .end_state = SESSION_CLOSED,
};

/* --- what runs on a node --- */

/* The live share that the reference means, or NULL if it is over, unknown or of another era. */
static struct share *share_of_ref(struct coord *c, const struct node *n,
                                  const Accel__V1__AttemptRef *ref)
{
    struct job *j = ref && ref->era == c->era ? job_find(c, ref->job_id) : NULL;
    const struct attempt *a =
        j && job_is_live(j) && j->run->attempt == ref->attempt ? attempt_find(j, 0) : NULL;
    struct share *s;

    LIST_FOREACH(s, &n->shares, on_node)
    {
        if (s->attempt == a)
            return s;
    }
    return NULL;
}

/* --- reports --- */

static void worker_take(struct worker *w, const Accel__V1__Rank *m)
{
    w->is_written = false;
    w->pid = m->pid ? m->pid : w->pid;
    w->local_rank = m->local_rank;
    w->exited = m->exited;
    w->exit_code = m->exit_code;
    w->signal = m->signal;
    w->start_ms = m->start_ms ? m->start_ms : w->start_ms;
    w->end_ms = m->end_ms;
    if (m->error[0])
        job_set_text(&w->error, m->error);
    if (m->stderr_tail.len && !w->stderr_tail) {
        size_t len = MIN(m->stderr_tail.len, (size_t)LIMIT_STDERR_TAIL_BYTES);
        w->stderr_tail = xmemdup(m->stderr_tail.data + m->stderr_tail.len - len, len);
        w->stderr_tail_len = len;
    }
    if (m->stdout_path.len && !w->stdout_path) {
        w->stdout_path = xcalloc(1, m->stdout_path.len + 1);
        memcpy(w->stdout_path, m->stdout_path.data, m->stdout_path.len);
    }
    if (m->stderr_path.len && !w->stderr_path) {
        w->stderr_path = xcalloc(1, m->stderr_path.len + 1);
        memcpy(w->stderr_path, m->stderr_path.data, m->stderr_path.len);
    }
}

static void ranks_take(struct share *s, Accel__V1__Rank *const *ranks, size_t count)
{
    s->is_written = false;
    for (size_t i = 0; i < count; i++) {
        uint32_t rank = ranks[i]->rank;
        if (rank >= s->first_rank && rank - s->first_rank < s->local_size)
            worker_take(&s->attempt->workers[rank], ranks[i]);
    }
}

static void share_take_isolation(struct share *s, char *const *lines, size_t count)
{
    AUTO_STR struct str text;

    str_init(&text);
    for (size_t i = 0; i < count && i < LIMIT_ISOLATION_TEXTS; i++)
        str_addf(&text, "%.*s\n", (int)MIN(strcspn(lines[i], "\n"), LIMIT_REASON_BYTES - 1u),
                 lines[i]); /* a line of its own makes one of ours, whatever it holds */
    job_set_text(&s->isolation, text.len ? text.data : "");
}

static void report_started(struct coord *c, struct node *n, const Accel__V1__AttemptStarted *m)
{
    struct share *s = share_of_ref(c, n, m->ref);

    if (!s)
        return;
    struct attempt *a = s->attempt;
    ranks_take(s, m->ranks, m->n_ranks);
    s->started = true;
    share_take_isolation(s, m->isolation, m->n_isolation);
    if (s == &a->shares[0]) {
        job_set_text(&a->master_addr, m->master_addr);
        a->master_port = m->master_port;
    }
    if (gang_has_started(a))
        job_apply(c, a->job, JOB_EV_STARTED, NULL);
}

/* --- archives --- */

int coord_archive_owner(struct coord *c, uint64_t call, const Accel__V1__AttemptRef *ref,
                        const uint8_t hash[32], const char **ret_user, struct accel_error *err)
{
    struct call *session = NULL;
    struct arena arena;

    HASH_FIND(hh, c->calls, &call, sizeof(call), session);
    const struct node *n = session && session->kind == CALL_SESSION ? session->node : NULL;
    const struct share *s = n ? share_of_ref(c, n, ref) : NULL;
    if (!s) /* it may have ended while the node still asked */
        return error_set(err, n && !trust_is_forged(c, n, ref) ? ACCEL_ESTATE : ACCEL_EPERM,
                         "this node does not run that attempt");
    arena_init(&arena);
    const Accel__V1__JobSpec *spec = spec_unpack_bare(s->attempt->job, &arena);
    bool is_its =
        spec->sync && spec->sync->hash.len == 32 && !memcmp(spec->sync->hash.data, hash, 32);
    arena_done(&arena);
    if (!is_its)
        return error_set(err, ACCEL_EPERM, "that job does not bring this archive");
    *ret_user = s->attempt->job->user->name;
    return 0;
}

/* --- strays: fenced attempts that still have processes; what they hold is not free --- */

static void stray_add(struct node *n, const Accel__V1__AttemptRef *ref)
{
    n->strays = xrealloc(n->strays, (n->stray_count + 1) * sizeof(*n->strays));
    n->strays[n->stray_count++] = (struct stray){ref->era, ref->job_id, ref->attempt};
}

static void stray_gone(struct coord *c, struct node *n, const Accel__V1__AttemptRef *ref)
{
    for (size_t i = 0; ref && i < n->stray_count; i++) {
        const struct stray *s = &n->strays[i];
        if (s->era != ref->era || s->job_id != ref->job_id || s->attempt != ref->attempt)
            continue;
        n->strays[i] = n->strays[--n->stray_count];
        c->needs_placing = true;
        return;
    }
}

static void report_ended(struct coord *c, struct node *n, const Accel__V1__AttemptEnded *m)
{
    struct share *s = share_of_ref(c, n, m->ref);

    if (!s) {
        stray_gone(c, n, m->ref);
        return;
    }
    struct attempt *a = s->attempt;
    ranks_take(s, m->ranks, m->n_ranks);
    gang_note_end(c, a, m);
    gang_share_ended(c, s);
}

static void send_ack(struct coord *c, const struct call *session, uint64_t seq)
{
    Accel__V1__ReportAck ack = ACCEL__V1__REPORT_ACK__INIT;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;

    ack.seq = seq;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_REPORT_ACK;
    down.report_ack = &ack;
    out_send(c, session->id, &down.base);
}

static void take_message(struct coord *c, struct call *session, const Accel__V1__AgentUp *up)
{
    struct node *n = session->node;

    trust_watch(c, n, up);
    switch (up->body_case) {
    case ACCEL__V1__AGENT_UP__BODY_REPORT:
        if (up->report->body_case == ACCEL__V1__REPORT__BODY_STARTED)
            report_started(c, n, up->report->started);
        if (up->report->body_case == ACCEL__V1__REPORT__BODY_ENDED)
            report_ended(c, n, up->report->ended);
        send_ack(c, session, up->report->seq);
        break;
    case ACCEL__V1__AGENT_UP__BODY_LOG_DATA: logs_answer(c, n, up->log_data); break;
    case ACCEL__V1__AGENT_UP__BODY_INPUT_DONE: input_answer(c, n, up->input_done); break;
    case ACCEL__V1__AGENT_UP__BODY_BEAT:
        if (up->beat->n_devices) {
            node_set_devices(c, n, up->beat->devices, up->beat->n_devices);
            node_tell_beat(c, n, up->beat);
        }
        break;
    case ACCEL__V1__AGENT_UP__BODY_PREPARED: {
        struct share *s = share_of_ref(c, n, up->prepared->ref);
        if (s)
            gang_take_prepared(c, s, up->prepared);
        break;
    }
    case ACCEL__V1__AGENT_UP__BODY_FAILING: {
        struct share *s = share_of_ref(c, n, up->failing->ref);
        if (s)
            gang_take_failing(c, s);
        break;
    }
    case ACCEL__V1__AGENT_UP__BODY_FENCE: {
        struct share *s = share_of_ref(c, n, up->fence->ref);
        if (s)
            fence_take(c, s, up->fence);
        break;
    }
    default: break; /* something newer than we are */
    }
}

/* --- Hello: what the node has against what we believe --- */

static const Accel__V1__AttemptStatus *hello_find(const Accel__V1__Hello *h, const struct coord *c,
                                                  const struct attempt *a)
{
    for (size_t i = 0; i < h->n_attempts; i++) {
        const Accel__V1__AttemptRef *ref = h->attempts[i]->ref;
        if (ref && ref->era == c->era && ref->job_id == a->job->id && ref->attempt == a->number)
            return h->attempts[i];
    }
    return NULL;
}

static void send_fence(struct coord *c, struct node *n, const Accel__V1__AttemptRef *ref)
{
    Accel__V1__Stop stop = ACCEL__V1__STOP__INIT;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;

    stop.ref = (Accel__V1__AttemptRef *)ref;
    stop.cause = ACCEL__V1__CAUSE__CAUSE_FENCED;
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_STOP;
    down.stop = &stop;
    node_send(c, n, &down);
}

static void settle_node(struct coord *c, struct node *n, const Accel__V1__Hello *h, bool is_same)
{
    struct share *s, *next;

    n->stray_count = 0;
    for (size_t i = 0; i < h->n_attempts; i++) {
        const Accel__V1__AttemptRef *ref = h->attempts[i]->ref;
        /* One that has exited is only waiting for its report to be acknowledged. */
        if (!ref || share_of_ref(c, n, ref) || !strcmp(h->attempts[i]->state, "EXITED"))
            continue;
        stray_add(n, ref); /* until its end is reported */
        send_fence(c, n, ref);
    }
    for (s = LIST_FIRST(&n->shares); s; s = next) {
        next = LIST_NEXT(s, on_node);
        gang_settle(c, s, hello_find(h, c, s->attempt) != NULL, is_same);
    }
}

/* Directories of jobs that left our history while the node was away. A node that last obeyed
 * another store keeps what it has: that store's people may still want it. */
static void forget_unknown(struct coord *c, struct node *n, const Accel__V1__Hello *h)
{
    Accel__V1__Forget forget = ACCEL__V1__FORGET__INIT;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;

    down.body_case = ACCEL__V1__COORD_DOWN__BODY_FORGET;
    down.forget = &forget;
    for (size_t i = 0; h->era == c->era && i < h->n_kept_jobs; i++) {
        forget.job_id = h->kept_jobs[i];
        if (!job_find(c, forget.job_id))
            node_send(c, n, &down);
    }
}

static void node_describe(struct coord *c, struct node *n, const Accel__V1__Hello *h)
{
    job_set_text(&n->machine_id, h->machine_id);
    job_set_text(&n->address, h->node->address);
    job_set_text(&n->version, h->node->version);
    job_set_text(&n->isolation, h->node->isolation);
    if (n->incarnation != h->node->incarnation)
        mark_node(c, n);
    n->incarnation = h->node->incarnation;
    c->nodes_changed |= n->cpus != h->node->cpus || n->memory_bytes != h->node->memory_bytes;
    n->cpus = h->node->cpus;
    n->memory_bytes = h->node->memory_bytes;
}

static void session_apply(struct coord *c, struct call *session, enum session_event ev,
                          const Accel__V1__AgentUp *up);

/* The agent has said what cannot be, or what it may not say. */
static void session_refuse(struct coord *c, struct call *session, int code, const char *text)
{
    out_fail(c, session->id, code, "%s", text);
    session_apply(c, session, SESSION_EV_REFUSED, NULL);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static const char *devices_problem(Accel__V1__Device *const *devices, size_t count)
{
    const char *problem = NULL;

    if (count > LIMIT_PROCS_PER_NODE * 2)
        return "the node has too many devices";
    AUTO_FREE const char **names = xcalloc(count, sizeof(*names));
    for (size_t i = 0; i < count; i++) {
        names[i] = devices[i]->id;
        if (!*names[i] || strlen(names[i]) > 128 || strpbrk(names[i], ", \n"))
            return "a device's name is not valid";
        if (!protobuf_c_enum_descriptor_get_value(&accel__v1__device_kind__descriptor,
                                                  (int)devices[i]->kind))
            return "a device is of a kind that this coordinator does not know";
    }
    qsort(names, count, sizeof(*names), compare_names);
    for (size_t i = 1; i < count; i++)
        if (!strcmp(names[i - 1], names[i]))
            problem = "two devices have the same name";
    return problem;
}

static const char *hello_problem(const struct coord *c, const Accel__V1__Hello *h,
                                 const struct node *n)
{
    const Accel__V1__Node *d = h->node;

    if (!d || !is_valid_name(d->name))
        return "the node's name is not valid";
    if (h->era > c->era && h->era >= ERA_MAX)
        return "no coordinator has had the era that the node names";
    if (n && n->machine_id && h->machine_id[0] && strcmp(n->machine_id, h->machine_id) &&
        n->session)
        return "another machine of that name is connected";
    if (n && n->session && d->incarnation < n->incarnation)
        return "a newer acceld of that node is connected";
    return devices_problem(d->devices, d->n_devices);
}

static const char *message_problem(const Accel__V1__AgentUp *up)
{
    return up->body_case == ACCEL__V1__AGENT_UP__BODY_BEAT
               ? devices_problem(up->beat->devices, up->beat->n_devices)
               : NULL;
}

static void begin_era(struct coord *c, uint64_t above)
{
    const uint64_t million = 1000000;

    c->era = MAX(MAX(c->era, above) + 1, (uint64_t)MAX(c->wall_ms, 0));
    c->job_id_next = (c->job_id_next / million + 1) * million;
    c->job_id_floor = MAX(c->job_id_floor, c->job_id_next);
    c->meta_dirty = true;
}

void coord_begin_era(struct coord *c)
{
    begin_era(c, 0);
    history_add(c, EVENT_ROLLED_BACK, 0, 0, NULL,
                "asked to at the start: era %llu begins, job ids go on at %llu",
                (unsigned long long)c->era, (unsigned long long)c->job_id_next);
}

/* The node has obeyed what our store does not know: the store is an older copy, or it lies. */
static bool is_newer(const struct coord *c, const Accel__V1__Hello *h)
{
    return h->era > c->era ||
           (h->era == c->era && h->epoch > c->loaded_epoch && h->epoch != c->epoch);
}

static bool is_sealed(const struct coord *c, const Accel__V1__Hello *h)
{
    uint8_t seal[HASH_BYTES], differs = 0;

    if (h->seal.len != HASH_BYTES || !trust_seal(c, h->era, h->epoch, seal))
        return false;
    for (size_t i = 0; i < HASH_BYTES; i++) /* as long for each: it is guessed at from outside */
        differs |= h->seal.data[i] ^ seal[i];
    return differs == 0;
}

/* An agent that has obeyed more than our store knows proves that it was rolled back (a backup was
 * put in its place). What ran since is unknown to us and fenced; its job ids are never given out
 * again. */
static void roll_era(struct coord *c, const Accel__V1__Hello *h)
{
    begin_era(c, h->era);
    history_add(
        c, EVENT_ROLLED_BACK, 0, 0, NULL,
        "node %s has obeyed a newer state of the store: era %llu begins, job ids go on at %llu",
        h->node->name, (unsigned long long)c->era, (unsigned long long)c->job_id_next);
    for (struct node *n = c->nodes; n; n = n->hh.next)
        if (n->session) /* they come back and learn the new era */
            session_apply(c, n->session, SESSION_EV_REPLACED, NULL);
}

static void effect_bind(struct coord *c, struct call *session, const Accel__V1__Hello *h)
{
    Accel__V1__Welcome welcome = ACCEL__V1__WELCOME__INIT;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
    uint8_t seal[HASH_BYTES];

    if (is_newer(c, h))
        roll_era(c, h);
    struct node *n = node_find(c, h->node->name);
    bool is_same = n && n->incarnation == h->node->incarnation;
    if (n && n->session)
        session_apply(c, n->session, SESSION_EV_REPLACED, NULL);
    if (!n) {
        n = node_new(c, h->node->name);
        mark_node(c, n);
    }
    session->node = n;
    n->session = session;
    n->is_local = session->session_is_local;
    node_describe(c, n, h);
    welcome.era = c->era;
    welcome.epoch = c->epoch;
    if (trust_seal(c, c->era, c->epoch, seal))
        welcome.seal = (ProtobufCBinaryData){sizeof(seal), seal};
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_WELCOME;
    down.welcome = &welcome;
    node_send(c, n, &down);
    node_set_devices(c, n, h->node->devices, h->node->n_devices);
    node_tell(c, n, h->node);
    node_apply(c, n, NODE_EV_HELLO);
    settle_node(c, n, h, is_same);
    forget_unknown(c, n, h);
    node_resume_parked(c, n);
}

/* What a certificate does not allow. Local sessions are those of root and our own user, who are the
 * host. NULL: all is well; the text is for the caller. */
static const char *hello_lie(struct coord *c, const struct call *session, const Accel__V1__Hello *h)
{
    const char *name = h->node ? h->node->name : "";
    const struct node *n = node_find(c, name);

    if (!session->peer_node)
        return NULL;
    if (strcmp(session->peer_node, name)) {
        trust_refuse(c, COORD_REFUSED_SESSION, "node %s said that it is node %.64s",
                     session->peer_node, name);
        return arena_printf(&c->out->arena,
                            "the certificate is of node %s\ntry: acceld --node-name %s",
                            session->peer_node, session->peer_node);
    }
    if (is_newer(c, h) && !is_sealed(c, h)) {
        trust_refuse(c, COORD_REFUSED_SESSION,
                     "node %s says, without proof, that it has obeyed a newer coordinator", name);
        return "this node says that it has obeyed a coordinator of a newer era or epoch, and cannot"
               " prove it\nwhy: it comes from another cluster, its acceld is of an older version,"
               " or it lies\ntry: if an older store was put back: accel-coordinator --new-era,"
               " once; if the node comes from elsewhere: remove its STATE/seen";
    }
    if (n && n->session && n->machine_id && strcmp(n->machine_id, h->machine_id)) {
        trust_refuse(c, COORD_REFUSED_SESSION, "another machine came with the certificate of %s",
                     name);
        return arena_printf(&c->out->arena,
                            "another machine is connected as node %s\nwhy: its state directory was"
                            " copied\ntry: accelctl node remove %s, and enrol both again",
                            name, name);
    }
    return NULL;
}

static void session_apply(struct coord *c, struct call *session, enum session_event ev,
                          const Accel__V1__AgentUp *up)
{
    const struct lifecycle_row *row =
        lifecycle_find(&session_lifecycle, session->session_state, ev, session, up);

    if (row->kind == LIFECYCLE_IGNORE)
        return;
    const char *why = row->kind == LIFECYCLE_REFUSE ? row->why
                      : ev == SESSION_EV_MESSAGE    ? message_problem(up)
                                                    : NULL;
    if (why) {
        session_refuse(c, session, ACCEL_EPROTO, why);
        return;
    }
    if (ev == SESSION_EV_HELLO) {
        const char *lie = hello_lie(c, session, up->hello);
        if (lie) {
            session_refuse(c, session, ACCEL_EPERM, lie);
            return;
        }
        const char *problem = hello_problem(
            c, up->hello, up->hello->node ? node_find(c, up->hello->node->name) : NULL);
        if (problem) {
            session_refuse(c, session, ACCEL_ESTALE, problem);
            return;
        }
    }
    session->session_state = row->next;
    if (row->effects & EFFECT_BIND)
        effect_bind(c, session, up->hello);
    if (row->effects & EFFECT_TAKE)
        take_message(c, session, up);
    if (row->effects & EFFECT_END)
        out_fail(c, session->id, ACCEL_ESTALE, "a newer session of this node exists");
    if (row->effects & EFFECT_TELL_NODE) {
        struct node *n = session->node;
        n->session = NULL;
        node_apply(c, n, NODE_EV_SESSION_LOST);
    }
    if (row->next == SESSION_CLOSED)
        call_free(c, session);
}

/* A pointer that outlives its node would be worse than none. */
static void forget_node(struct coord *c, const struct node *n)
{
    for (size_t i = 0; i < c->job_count; i++) {
        struct attempt *a;
        TAILQ_FOREACH(a, &c->jobs[i]->run->attempts, of_job)
        {
            for (size_t k = 0; k < a->share_count; k++)
                if (a->shares[k].node == n)
                    a->shares[k].node = NULL;
        }
    }
}

static void delete_node_rows(struct coord *c, const struct node *n)
{
    struct record *r = mark_loose(c, RECORD_NODE);

    r->is_delete = true;
    r->u.node.name = arena_strdup(&c->loose_arena, n->name);
    for (size_t i = 0; i < n->device_count; i++) {
        r = mark_loose(c, RECORD_DEVICE);
        r->is_delete = true;
        r->u.device.node = arena_strdup(&c->loose_arena, n->name);
        r->u.device.id = arena_strdup(&c->loose_arena, n->devices[i].id);
    }
}

uint32_t node_remove(struct coord *c, struct node *n)
{
    char text[LIMIT_REASON_BYTES];
    struct call *session = n->session;
    uint32_t attempts = 0;
    struct share *s;

    LIST_FOREACH(s, &n->shares, on_node)
    {
        Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
        ref.job_id = s->attempt->job->id;
        ref.attempt = s->attempt->number;
        ref.era = c->era;
        send_fence(c, n, &ref); /* if it still listens, nothing runs on unseen */
    }
    if (session) {
        out_fail(c, session->id, ACCEL_EPERM,
                 "node %s was removed\ntry: accelctl node token, and start its acceld with --join"
                 " TOKEN",
                 n->name);
        session_apply(c, session, SESSION_EV_LOST, NULL);
    }
    snprintf(text, sizeof(text), "node %s was removed", n->name);
    for (; (s = LIST_FIRST(&n->shares)); attempts++)
        gang_share_lost(c, s, text);
    node_fail_calls(c, n, "it was removed");
    node_fail_parked(c, n, "it was removed");
    delete_node_rows(c, n);
    forget_node(c, n);
    node_free(c, n);
    c->nodes_changed = true;
    c->needs_placing = true;
    return attempts;
}

void call_session(struct coord *c, const struct coord_event *ev)
{
    const Accel__V1__AgentUp *up = (const Accel__V1__AgentUp *)ev->msg;
    struct call *session = NULL;

    HASH_FIND(hh, c->calls, &ev->call, sizeof(ev->call), session);
    if (ev->rpc_type == RPC_OPEN) {
        CHECK(!session);
        session = call_new(c, ev->call, CALL_SESSION);
        session->session_state = SESSION_OPENING;
        session->session_is_local = ev->who->is_local;
        if (ev->who->role == RPC_ROLE_NODE)
            session->peer_node = xstrdup(ev->who->node);
    }
    if (!session)
        return;
    if (ev->rpc_type == RPC_CLOSED || ev->rpc_type == RPC_HALF_CLOSE)
        session_apply(c, session, SESSION_EV_LOST, NULL);
    else if (up && up->body_case == ACCEL__V1__AGENT_UP__BODY_HELLO)
        session_apply(c, session, SESSION_EV_HELLO, up);
    else if (up)
        session_apply(c, session, SESSION_EV_MESSAGE, up);
}
