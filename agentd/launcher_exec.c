/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acceld's hands: the launcher that drives accel-spawn and shims (launcher.h has the contract).
 * Everything runs on the loop's thread and nothing waits, except reading and writing small files
 * of attempts. Neighbours: launcher_wire.c (bytes), launcher_detach.c (shims that cannot be
 * reached), adopt.c (what an earlier acceld left). Decides nothing: whether a rank's
 * failure stops its gang is the core's business.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agentd/identity_lookup.h"
#include "agentd/launcher_exec_internal.h"
#include "common/clock.h"

#define STOP_WAIT_MS   5000 /* beyond its grace, for a shim that cannot be reached to hear it */
#define STOP_GRACE_MAX INT32_MAX

/* ---- attempts ---- */

static struct attempt **bucket_of(struct launcher_exec *l, uint64_t job_id)
{
    return &l->buckets[(job_id * 0x9e3779b97f4a7c15u >> 32) % LAUNCHER_BUCKETS];
}

struct attempt *attempt_find(struct launcher_exec *l, struct attempt_id id)
{
    struct attempt *a = *bucket_of(l, id.job_id);
    while (a != NULL && (a->id.job_id != id.job_id || a->id.attempt != id.attempt)) {
        a = a->next;
    }
    return a;
}

struct attempt *attempt_add(struct launcher_exec *l, struct attempt_id id, enum attempt_state state)
{
    struct attempt *a = xcalloc(1, sizeof(*a));
    struct attempt **bucket = bucket_of(l, id.job_id);
    a->id = id;
    a->state = state;
    a->next = *bucket;
    *bucket = a;
    return a;
}

static void attempt_clear_ranks(struct attempt *a)
{
    for (size_t i = 0; i < a->rank_count; i++) {
        if (a->ranks[i].exit != NULL) {
            accel__v1__rank_exit__free_unpacked(a->ranks[i].exit, NULL);
        }
    }
    free(a->ranks);
    a->ranks = NULL;
    a->rank_count = 0;
}

void attempt_set_ranks(struct attempt *a, const Accel__V1__AttemptSpec *spec)
{
    attempt_clear_ranks(a);
    a->era = spec->era;
    a->ranks = xcalloc(spec->n_ranks, sizeof(*a->ranks));
    a->rank_count = spec->n_ranks;
    for (size_t i = 0; i < spec->n_ranks; i++) {
        a->ranks[i].rank = spec->ranks[i]->rank;
    }
}

static struct rank_known *attempt_rank(struct attempt *a, size_t hint, uint32_t rank)
{
    if (hint < a->rank_count && a->ranks[hint].rank == rank) {
        return &a->ranks[hint]; /* both sides keep the order of the specification */
    }
    for (size_t i = 0; i < a->rank_count; i++) {
        if (a->ranks[i].rank == rank) {
            return &a->ranks[i];
        }
    }
    return NULL;
}

/* ---- closing ---- */

static void all_closed(struct launcher_exec *l)
{
    for (size_t i = 0; i < LAUNCHER_BUCKETS; i++) {
        while (l->buckets[i] != NULL) {
            struct attempt *a = l->buckets[i];
            l->buckets[i] = a->next;
            attempt_clear_ranks(a);
            free(a);
        }
    }
    void (*on_closed)(void *) = l->on_closed;
    void *ctx = l->closed_ctx;
    close(l->dir_fd);
    free(l->dir);
    free(l);
    if (on_closed != NULL) {
        on_closed(ctx);
    }
}

void launcher_handle_closed(struct launcher_exec *l)
{
    if (--l->open_handles == 0 && l->is_closing) {
        all_closed(l);
    }
}

/* ---- the end of an attempt ---- */

static void close_inputs(struct launcher_exec *l, struct attempt *a)
{
    while (a->input_count > 0) {
        l->cb.on_input_done(l->ctx, a->id, a->inputs[--a->input_count], true);
    }
}

void attempt_close(struct launcher_exec *l, struct attempt *a)
{
    close_inputs(l, a);
    wire_close(a->wire);
    wire_close(a->pidfd);
    a->wire = a->pidfd = NULL;
    a->state = ATTEMPT_ENDED;
    attempt_clear_ranks(a);
}

/* The last word about a; it may be freed inside (forget). */
static void attempt_end(struct launcher_exec *l, struct attempt *a,
                        const Accel__V1__ExitRecord *record, bool shim_lost, bool exists)
{
    attempt_close(l, a);
    l->cb.on_gone(l->ctx, a->id, record, shim_lost, exists);
}

void attempt_sweep(struct launcher_exec *l, struct attempt *a)
{
    Accel__V1__SpawnRequest request = ACCEL__V1__SPAWN_REQUEST__INIT;
    Accel__V1__SpawnSweep sweep = ACCEL__V1__SPAWN_SWEEP__INIT;
    wire_close(a->wire);
    wire_close(a->pidfd);
    a->wire = a->pidfd = NULL;
    a->state = ATTEMPT_SWEEPING;
    sweep.job_id = a->id.job_id;
    sweep.attempt = a->id.attempt;
    request.body_case = ACCEL__V1__SPAWN_REQUEST__BODY_SWEEP;
    request.sweep = &sweep;
    request_add(l, &request, -1);
}

/* ---- what shims say ---- */

static void on_started(struct launcher_exec *l, struct attempt *a,
                       const Accel__V1__ShimStarted *msg)
{
    for (size_t i = 0; i < msg->n_ranks; i++) {
        struct rank_known *k = attempt_rank(a, i, msg->ranks[i]->rank);
        if (k != NULL) {
            k->pid = msg->ranks[i]->pid;
            k->start_ms = msg->ranks[i]->start_ms;
        }
    }
    if (!a->is_started) {
        a->is_started = true;
        l->cb.on_started(l->ctx, a->id, msg);
    }
}

static Accel__V1__RankExit *copy_exit(const Accel__V1__RankExit *x)
{
    size_t len = accel__v1__rank_exit__get_packed_size(x);
    AUTO_FREE uint8_t *data = xcalloc(1, len + 1);
    accel__v1__rank_exit__pack(x, data);
    return accel__v1__rank_exit__unpack(&codec_memory, len, data);
}

static void on_exited(struct launcher_exec *l, struct attempt *a, size_t hint,
                      const Accel__V1__RankExit *x, bool tell)
{
    struct rank_known *k = attempt_rank(a, hint, x->rank);
    if (k == NULL || k->exit != NULL) {
        return; /* once per rank */
    }
    k->exit = copy_exit(x);
    if (tell) {
        l->cb.on_exited(l->ctx, a->id, x);
    }
}

void attempt_on_hello(struct launcher_exec *l, struct attempt *a, const Accel__V1__ShimHello *hello,
                      bool tell)
{
    a->state = ATTEMPT_LIVE;
    a->is_forked = true;
    a->shim_pid = (pid_t)hello->shim_pid;
    a->is_refused = false;
    l->retry_ms = LAUNCHER_RETRY_MIN_MS;
    wire_close(a->pidfd);
    a->pidfd = NULL;
    if (hello->started && hello->n_ranks > 0) {
        Accel__V1__ShimStarted started = ACCEL__V1__SHIM_STARTED__INIT;
        started.n_ranks = hello->n_ranks;
        started.ranks = hello->ranks;
        started.n_limits = hello->n_limits;
        started.limits = hello->limits;
        a->is_started = a->is_started || !tell;
        on_started(l, a, &started);
    }
    for (size_t i = 0; i < hello->n_ranks && a->state == ATTEMPT_LIVE; i++) {
        if (hello->ranks[i]->exited && hello->ranks[i]->pid != 0) {
            on_exited(l, a, i, hello->ranks[i], tell);
        }
    }
    if (a->state == ATTEMPT_LIVE && a->is_stop_asked && a->wire != NULL) {
        send_stop(a); /* it may never have heard it */
    }
    if (a->state == ATTEMPT_LIVE && a->is_watched && a->wire != NULL) {
        a->is_watched = false;
        l->base.ops->watch(&l->base, a->id);
    }
}

static void on_input_done(struct launcher_exec *l, struct attempt *a,
                          const Accel__V1__ShimInputDone *done)
{
    for (size_t i = 0; i < a->input_count; i++) {
        if (a->inputs[i] == done->id) {
            a->inputs[i] = a->inputs[--a->input_count];
            l->cb.on_input_done(l->ctx, a->id, done->id, done->closed);
            return;
        }
    }
}

static void shim_up_dispatch(struct launcher_exec *l, struct attempt *a,
                             const Accel__V1__ShimUp *up)
{
    switch (up->body_case) {
    case ACCEL__V1__SHIM_UP__BODY_HELLO: attempt_on_hello(l, a, up->hello, true); break;
    case ACCEL__V1__SHIM_UP__BODY_STARTED:
        a->state = ATTEMPT_LIVE;
        on_started(l, a, up->started);
        break;
    case ACCEL__V1__SHIM_UP__BODY_EXITED: on_exited(l, a, 0, up->exited, true); break;
    case ACCEL__V1__SHIM_UP__BODY_GONE: attempt_end(l, a, up->gone, false, false); break;
    case ACCEL__V1__SHIM_UP__BODY_OUTPUT:
        a->is_watched = false;
        l->cb.on_output(l->ctx, a->id);
        break;
    case ACCEL__V1__SHIM_UP__BODY_INPUT_DONE: on_input_done(l, a, up->input_done); break;
    case ACCEL__V1__SHIM_UP__BODY_FENCE:
        if (l->cb.on_fence != NULL) {
            l->cb.on_fence(l->ctx, a->id, up->fence);
        }
        break;
    case ACCEL__V1__SHIM_UP__BODY__NOT_SET: /* of a newer shim: nothing we know */
    default: break;
    }
}

/* Reads once and does what it says; whether there was anything. */
static bool shim_read(struct wire *w)
{
    const uint8_t *data;
    size_t len;
    int r = 0;
    ssize_t n = wire_read(w);
    /* A callback may end the attempt or the launcher: then w->a is NULL. */
    while (w->a != NULL && (r = codec_reader_next(&w->in, &data, &len)) > 0) {
        Accel__V1__ShimUp *up = accel__v1__shim_up__unpack(&codec_memory, len, data);
        if (up == NULL) {
            r = ACCEL_EPROTO;
            break;
        }
        shim_up_dispatch(w->l, w->a, up);
        accel__v1__shim_up__free_unpacked(up, NULL);
    }
    if (w->a != NULL && (n == 0 || r < 0)) {
        attempt_on_cut(w->l, w->a);
    }
    return n > 0;
}

static void on_shim_ready(struct wire *w, int events)
{
    if ((events & UV_WRITABLE) != 0) {
        wire_flush(w);
    }
    if ((events & UV_READABLE) != 0) {
        shim_read(w);
    }
}

int attempt_connect(struct launcher_exec *l, struct attempt *a, int fd)
{
    a->wire = wire_open(l, fd, on_shim_ready);
    if (a->wire == NULL) {
        return ACCEL_EIO;
    }
    a->wire->a = a;
    return 0;
}

/* ---- what accel-spawn says ---- */

static void on_forked(struct launcher_exec *l, struct attempt *a, pid_t pid)
{
    a->is_forked = true;
    a->shim_pid = pid;
    if (a->is_cut) {
        attempt_detach(l, a);
    }
}

static void on_failed(struct launcher_exec *l, struct attempt *a,
                      const Accel__V1__SpawnReply *reply)
{
    if (reply->exists) {
        Accel__V1__ExitRecord record = ACCEL__V1__EXIT_RECORD__INIT;
        record.job_id = a->id.job_id;
        record.attempt = a->id.attempt;
        record.era = a->era;
        record.start_failed = true;
        record.text = reply->text;
        attempt_end(l, a, &record, false, true);
        return;
    }
    Accel__V1__ExitRecord *record =
        adopt_make_record(l, a, ACCEL__V1__CAUSE__CAUSE_START_FAILED, reply->text);
    attempt_end(l, a, record, false, false);
    adopt_free_record(record);
}

static void on_swept(struct launcher_exec *l, struct attempt *a)
{
    if (a->is_adopting) {
        a->is_adopting = false;
        a->state = ATTEMPT_ENDED;
        return;
    }
    /* It may have come as far as the record before it was killed. */
    Accel__V1__ExitRecord *record = adopt_read_record(l->dir_fd, a->id);
    bool shim_lost = record == NULL;
    if (shim_lost) {
        record = adopt_make_record(l, a, ACCEL__V1__CAUSE__CAUSE_SHIM_LOST,
                                   "the shim of the attempt was killed");
    }
    attempt_end(l, a, record, shim_lost, false);
    adopt_free_record(record);
}

static void on_shim_died(struct launcher_exec *l, struct attempt *a)
{
    struct wire *w = a->wire;
    while (w != NULL && w->a == a && shim_read(w)) {
        /* Its last words come first; they are all there by now. */
    }
    if (w != NULL && w->a == NULL) {
        return; /* `gone` was among them, or the sweep has begun */
    }
    if (a->state == ATTEMPT_LIVE || a->state == ATTEMPT_DETACHED || a->state == ATTEMPT_LAUNCHING) {
        attempt_sweep(l, a);
    }
}

static void spawn_reply_dispatch(struct launcher_exec *l, const Accel__V1__SpawnReply *reply)
{
    struct attempt_id id = {reply->job_id, reply->attempt};
    struct attempt *a = attempt_find(l, id);
    if (a == NULL || l->is_closing) {
        return;
    }
    switch (reply->kind) {
    case ACCEL__V1__SPAWN_REPLY__KIND__FORKED:
        if (a->state != ATTEMPT_ENDED) {
            on_forked(l, a, (pid_t)reply->pid);
        }
        break;
    case ACCEL__V1__SPAWN_REPLY__KIND__FAILED:
        if (a->state == ATTEMPT_LAUNCHING) {
            on_failed(l, a, reply);
        }
        break;
    case ACCEL__V1__SPAWN_REPLY__KIND__SWEPT:
        if (a->state == ATTEMPT_SWEEPING) {
            on_swept(l, a);
        }
        break;
    case ACCEL__V1__SPAWN_REPLY__KIND__SHIM_DIED: on_shim_died(l, a); break;
    case ACCEL__V1__SPAWN_REPLY__KIND__READY:
    case ACCEL__V1__SPAWN_REPLY__KIND__INVALID:
    default: break;
    }
}

static void on_spawn_ready(struct wire *w, int events)
{
    struct launcher_exec *l = w->l;
    const uint8_t *data;
    size_t len;
    int r = 0;
    if ((events & UV_WRITABLE) != 0) {
        requests_flush(l);
    }
    if ((events & UV_READABLE) == 0) {
        return;
    }
    ssize_t n = wire_read(w);
    while (l->spawn == w && (r = codec_reader_next(&w->in, &data, &len)) > 0) {
        Accel__V1__SpawnReply *reply = accel__v1__spawn_reply__unpack(&codec_memory, len, data);
        if (reply == NULL) {
            r = ACCEL_EPROTO;
            break;
        }
        spawn_reply_dispatch(l, reply);
        accel__v1__spawn_reply__free_unpacked(reply, NULL);
    }
    if (l->spawn == w && (n == 0 || r < 0)) {
        wire_close(w);
        l->spawn = NULL;
        l->cb.on_spawn_lost(l->ctx);
    }
}

/* ---- the vtable ---- */

static int exec_launch(struct launcher *base, const Accel__V1__AttemptSpec *spec,
                       struct accel_error *err)
{
    struct launcher_exec *l = (struct launcher_exec *)base;
    struct attempt_id id = {spec->job_id, spec->attempt};
    struct attempt *a = attempt_find(l, id);
    Accel__V1__SpawnRequest request = ACCEL__V1__SPAWN_REQUEST__INIT;
    AUTO_CLOSE int theirs = -1;
    int fds[2];
    if (l->spawn == NULL) {
        return error_set(err, ACCEL_EUNAVAIL, "accel-spawn is gone");
    }
    if (spec->n_argv == 0 || spec->n_ranks == 0) {
        return error_set(err, ACCEL_EINVAL, "a start needs a program and a rank");
    }
    if (l->lookups != NULL && spec->user[0] == '\0') {
        return error_set(err, ACCEL_EINVAL, "the start does not say whose it is");
    }
    if (a != NULL && a->state != ATTEMPT_ENDED) {
        return error_set(err, ACCEL_EEXIST, "attempt %" PRIu64 ".%u is running already", id.job_id,
                         id.attempt);
    }
    request.body_case = ACCEL__V1__SPAWN_REQUEST__BODY_START;
    request.start = (Accel__V1__AttemptSpec *)spec;
    if (accel__v1__spawn_request__get_packed_size(&request) > LIMIT_SHIM_FRAME_BYTES) {
        return error_set(err, ACCEL_EINVAL, "the start has more than %u bytes",
                         LIMIT_SHIM_FRAME_BYTES);
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        return error_sys(err, errno, "cannot make a connection to a shim");
    }
    theirs = fds[1];
    if (a == NULL) {
        a = attempt_add(l, id, ATTEMPT_LAUNCHING);
    }
    a->state = ATTEMPT_LAUNCHING;
    a->is_forked = a->is_cut = a->is_started = a->is_watched = false;
    a->is_stop_asked = a->is_refused = false;
    a->shim_pid = 0;
    attempt_set_ranks(a, spec);
    int r = attempt_connect(l, a, fds[0]);
    if (r < 0) {
        a->state = ATTEMPT_ENDED;
        return error_set(err, r, "cannot watch the connection to a shim");
    }
    if (spec->incarnation != l->incarnation) { /* else the specification says it */
        wire_add_own(&a->wire->out, l->incarnation);
        wire_flush(a->wire);
    }
    if (l->lookups != NULL) {
        attempt_launch_as_user(l, spec, STEAL_FD(theirs));
    } else {
        request_add(l, &request, STEAL_FD(theirs));
    }
    return 0;
}

/* The attempt if it can be talked to. DETACHED with a wire: ShimOwn is on its way, and a shim that
 * takes it obeys what follows it. */
static struct attempt *reachable(struct launcher_exec *l, struct attempt_id id)
{
    struct attempt *a = attempt_find(l, id);
    return a != NULL && a->wire != NULL ? a : NULL;
}

static void exec_stop(struct launcher *base, struct attempt_id id, uint64_t grace_ms,
                      uint32_t cause)
{
    struct launcher_exec *l = (struct launcher_exec *)base;
    struct attempt *a = attempt_find(l, id);
    if (a == NULL || a->state == ATTEMPT_ENDED || a->state == ATTEMPT_SWEEPING) {
        return;
    }
    if (!a->is_stop_asked || grace_ms < a->stop_grace_ms) {
        a->stop_grace_ms = grace_ms;
        a->stop_until_ms =
            clock_mono_ms() + (int64_t)MIN(grace_ms, (uint64_t)STOP_GRACE_MAX) + STOP_WAIT_MS;
    }
    a->stop_cause = a->is_stop_asked ? a->stop_cause : cause;
    a->is_stop_asked = true;
    if (!a->is_started) {
        attempt_bound_stop(l);
    }
    if (a->wire != NULL) {
        send_stop(a);
    } else if (a->is_refused) {
        attempt_sweep(l, a); /* a shim that does not listen must not keep the job alive */
    }
}

static void exec_signal(struct launcher *base, struct attempt_id id, int32_t rank, int32_t signo)
{
    struct attempt *a = reachable((struct launcher_exec *)base, id);
    Accel__V1__ShimDown down = ACCEL__V1__SHIM_DOWN__INIT;
    Accel__V1__ShimSignal sig = ACCEL__V1__SHIM_SIGNAL__INIT;
    if (a == NULL) {
        return;
    }
    sig.rank = rank;
    sig.signo = signo;
    down.body_case = ACCEL__V1__SHIM_DOWN__BODY_SIGNAL;
    down.signal = &sig;
    send_down(a, &down);
}

static void on_idle(uv_idle_t *idle)
{
    struct launcher_exec *l = idle->data;
    struct deferred *list = l->deferred;
    l->deferred = NULL;
    l->deferred_end = &l->deferred;
    uv_idle_stop(idle);
    while (list != NULL) {
        struct deferred *d = list;
        list = d->next;
        if (!l->is_closing) {
            l->cb.on_input_done(l->ctx, d->id, d->input_id, true);
        }
        free(d);
    }
}

static void defer_closed(struct launcher_exec *l, struct attempt_id id, uint64_t input_id)
{
    struct deferred *d = xcalloc(1, sizeof(*d));
    d->id = id;
    d->input_id = input_id;
    *l->deferred_end = d;
    l->deferred_end = &d->next;
    uv_idle_start(&l->idle, on_idle);
}

static void exec_input(struct launcher *base, struct attempt_id id, const Accel__V1__ShimInput *in)
{
    struct launcher_exec *l = (struct launcher_exec *)base;
    struct attempt *a = reachable(l, id);
    Accel__V1__ShimDown down = ACCEL__V1__SHIM_DOWN__INIT;
    if (a == NULL || a->input_count == LAUNCHER_INPUTS || in->data.len > LIMIT_INPUT_CHUNK_BYTES) {
        defer_closed(l, id, in->id);
        return;
    }
    a->inputs[a->input_count++] = in->id;
    down.body_case = ACCEL__V1__SHIM_DOWN__BODY_INPUT;
    down.input = (Accel__V1__ShimInput *)in;
    send_down(a, &down);
}

static void exec_watch(struct launcher *base, struct attempt_id id)
{
    struct attempt *a = reachable((struct launcher_exec *)base, id);
    Accel__V1__ShimDown down = ACCEL__V1__SHIM_DOWN__INIT;
    Accel__V1__ShimWatch watch = ACCEL__V1__SHIM_WATCH__INIT;
    if (a == NULL || a->is_watched) {
        return; /* one unanswered watch tells of all that comes */
    }
    a->is_watched = true;
    down.body_case = ACCEL__V1__SHIM_DOWN__BODY_WATCH;
    down.watch = &watch;
    send_down(a, &down);
}

static void exec_fence_done(struct launcher *base, struct attempt_id id,
                            const Accel__V1__ShimFence *fence)
{
    struct attempt *a = attempt_find((struct launcher_exec *)base, id);
    Accel__V1__ShimDown down = ACCEL__V1__SHIM_DOWN__INIT;
    if (a == NULL || a->state != ATTEMPT_LIVE || a->wire == NULL) {
        return; /* one that comes back gives again and is answered again */
    }
    down.body_case = ACCEL__V1__SHIM_DOWN__BODY_FENCE_DONE;
    down.fence_done = (Accel__V1__ShimFence *)fence;
    send_down(a, &down);
}

static void exec_mark_acked(struct launcher *base, struct attempt_id id)
{
    struct launcher_exec *l = (struct launcher_exec *)base;
    char from[64];
    char to[64];
    attempt_path(id, "exit", from, sizeof(from));
    attempt_path(id, "exit.acked", to, sizeof(to));
    if (renameat(l->dir_fd, from, l->dir_fd, to) < 0 && errno == ENOENT) {
        /* The record could not be written; the tombstone has to say that it is over all the same.
         */
        int fd =
            openat(l->dir_fd, to, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
        base_close_fd(&fd);
    }
}

static void exec_forget(struct launcher *base, uint64_t job_id)
{
    struct launcher_exec *l = (struct launcher_exec *)base;
    if (!l->is_indexed) {
        (void)adopt_index(l, NULL); /* what cannot be listed cannot be removed either */
    }
    struct attempt **link = bucket_of(l, job_id);
    while (*link != NULL) {
        struct attempt *a = *link;
        if (a->id.job_id != job_id || a->state != ATTEMPT_ENDED) {
            link = &a->next;
            continue;
        }
        *link = a->next;
        adopt_remove(l, a->id);
        attempt_clear_ranks(a);
        free(a);
    }
    char work[64];
    work_path(job_id, work, sizeof(work));
    if (faccessat(l->dir_fd, work, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        adopt_remove(l, (struct attempt_id){job_id, 0});
    }
}

static void on_own_closed(uv_handle_t *handle)
{
    launcher_handle_closed(handle->data);
}

static void on_lookups_closed(void *ctx)
{
    launcher_handle_closed(ctx);
}

static void exec_destroy(struct launcher *base, void (*on_closed)(void *), void *ctx)
{
    struct launcher_exec *l = (struct launcher_exec *)base;
    if (l->is_closing) {
        return;
    }
    l->is_closing = true;
    l->on_closed = on_closed;
    l->closed_ctx = ctx;
    for (size_t i = 0; i < LAUNCHER_BUCKETS; i++) {
        for (struct attempt *a = l->buckets[i]; a != NULL; a = a->next) {
            wire_close(a->wire);
            wire_close(a->pidfd);
            a->wire = a->pidfd = NULL;
        }
    }
    while (l->requests != NULL) {
        struct request *q = l->requests;
        l->requests = q->next;
        request_free(q);
    }
    while (l->deferred != NULL) {
        struct deferred *d = l->deferred;
        l->deferred = d->next;
        free(d);
    }
    attempt_forget_pending(l);
    if (l->lookups != NULL) {
        identity_lookups_destroy(l->lookups, on_lookups_closed, l);
        l->lookups = NULL;
    }
    wire_close(l->spawn);
    l->spawn = NULL;
    uv_close((uv_handle_t *)&l->idle, on_own_closed);
    uv_close((uv_handle_t *)&l->retry, on_own_closed);
    uv_close((uv_handle_t *)&l->late, on_own_closed);
}

static const struct launcher_ops exec_ops = {
    .launch = exec_launch,
    .stop = exec_stop,
    .signal = exec_signal,
    .input = exec_input,
    .watch = exec_watch,
    .fence_done = exec_fence_done,
    .mark_acked = exec_mark_acked,
    .forget = exec_forget,
    .destroy = exec_destroy,
};

int launcher_exec_create(const struct launcher_exec_config *config,
                         const struct launcher_callbacks *cb, void *ctx,
                         struct launcher **ret_launcher, struct accel_error *err)
{
    AUTO_CLOSE int spawn_fd = config->spawn_fd;
    AUTO_CLOSE int dir_fd = open(config->attempts_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0) {
        return error_sys(err, errno, "cannot open directory %s", config->attempts_dir);
    }
    struct launcher_exec *l = xcalloc(1, sizeof(*l));
    l->base.ops = &exec_ops;
    l->cb = *cb;
    l->ctx = ctx;
    l->loop = config->loop;
    l->incarnation = config->incarnation;
    l->requests_end = &l->requests;
    l->deferred_end = &l->deferred;
    l->spawn = wire_open(l, STEAL_FD(spawn_fd), on_spawn_ready);
    if (l->spawn == NULL) {
        free(l);
        return error_set(err, ACCEL_EIO, "cannot watch the connection to accel-spawn");
    }
    l->dir = xstrdup(config->attempts_dir);
    l->dir_fd = STEAL_FD(dir_fd);
    uv_idle_init(l->loop, &l->idle);
    l->idle.data = l;
    uv_timer_init(l->loop, &l->retry);
    l->retry.data = l;
    l->retry_ms = LAUNCHER_RETRY_MIN_MS;
    uv_timer_init(l->loop, &l->late);
    l->late.data = l;
    l->open_handles += 3;
    if (config->is_switching) {
        l->lookups = identity_lookups_create(l->loop);
        l->open_handles++;
    }
    *ret_launcher = &l->base;
    return 0;
}
