/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shell.c - carries out what the core decides; see shell.h. It decides nothing about jobs or nodes
 * itself. Neighbours: api.c (service table), store_thread.c (commits), coord.c (the core).
 */
#include "scheduler/shell.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/rpc_local.h"
#include "scheduler/files.h"

static void shell_flush(struct shell *s);

/* --- answers --- */

static struct rpc_server *server_of(const struct shell *s, uint64_t call)
{
    unsigned tag = remote_call_tag(call);

    return tag == 0 ? s->server : tag <= ARRAY_LEN(s->remotes) ? s->remotes[tag - 1] : NULL;
}

void shell_send(struct shell *s, uint64_t call, const void *packed, size_t len)
{
    struct rpc_server *server = server_of(s, call);

    if (server)
        rpc_server_send(server, call, packed, len);
}

void shell_end(struct shell *s, uint64_t call, const void *packed, size_t len, int code,
               const char *text)
{
    struct rpc_server *server = server_of(s, call);

    if (server)
        rpc_server_end(server, call, packed, len, code, text);
}

/* --- outputs: only after the commit that covers them --- */

static void release_outputs(struct shell *s, struct coord_batch *b)
{
    CHECK(b->record_count == 0 || b->is_durable); /* the order contract */
    for (size_t i = 0; i < b->output_count; i++) {
        const struct coord_output *o = &b->outputs[i];
        if (o->is_end)
            shell_end(s, o->call, o->data, o->len, o->code, o->text ? o->text : "");
        else
            shell_send(s, o->call, o->data, o->len);
    }
    for (size_t i = 0; i < b->note_count; i++) {
        if (b->notes[i].log)
            log_warn("refused: %s", b->notes[i].log);
        if (b->notes[i].drop_serial)
            shell_remote_drop(s, b->notes[i].drop_serial);
    }
    coord_batch_reset(b);
}

static struct coord_batch *other_batch(struct shell *s)
{
    return s->open == &s->batches[0] ? &s->batches[1] : &s->batches[0];
}

static void arm_timers(struct shell *s)
{
    loop_timer_set(&s->deadline, coord_deadline_ms(s->core));
    bool idle = coord_is_idle(s->core) && s->admin_calls == 0;
    if (s->options->idle_exit_ms == 0 || s->is_stopping || !idle)
        loop_timer_set(&s->idle, -1);
    else if (s->idle.deadline_ms < 0)
        loop_timer_set(&s->idle, clock_mono_ms() + s->options->idle_exit_ms);
}

static void maybe_finish_stop(struct shell *s);

/* Steps taken while a commit runs share the next one. */
static void shell_flush(struct shell *s)
{
    if (s->is_flushed)
        return;
    if (s->committing) {
        maybe_finish_stop(s);
        return;
    }
    coord_collect(s->core, s->open);
    struct coord_batch *b = s->open;
    if (b->record_count == 0) {
        if (b->output_count || b->note_count)
            release_outputs(s, b);
    } else {
        s->committing = b;
        s->open = other_batch(s);
        s->txn = (struct store_txn){
            .records = b->records, .count = b->record_count, .epoch = coord_epoch(s->core)};
        store_thread_commit(s->thread, &s->txn);
    }
    arm_timers(s);
    maybe_finish_stop(s);
}

static void step(struct shell *s, struct coord_event *ev)
{
    struct clock_now now = clock_read();

    ev->now_ms = now.mono_ms;
    ev->wall_ms = now.wall_ms;
    coord_step(s->core, ev, s->open);
}

static void step_call(struct shell *s, enum rpc_event_type type, uint64_t call,
                      const struct rpc_method *method, const struct rpc_identity *who,
                      const ProtobufCMessage *msg, const struct coord_grant *grant)
{
    struct coord_event ev = {.type = COORD_EV_CALL,
                             .method = (enum coord_method)method->id,
                             .rpc_type = type,
                             .call = call,
                             .who = who,
                             .msg = msg,
                             .grant = grant};

    step(s, &ev);
}

/* --- while the store cannot write --- */

static void take_deferred(void *ctx, const struct rpc_event *ev)
{
    step_call(ctx, ev->type, ev->call, ev->method, ev->who, ev->msg, NULL);
}

void shell_on_call(struct shell *s, const struct rpc_event *ev, const struct coord_grant *grant)
{
    /* From here on nothing is decided: what closing connections would mean is for the next start.
     */
    if (s->is_flushed)
        return;
    if (s->failing.code && ev->type == RPC_OPEN)
        shell_end(s, ev->call, NULL, 0, ACCEL_EUNAVAIL, s->failing.text);
    else if (s->failing.code && !deferred_keep(&s->deferred, ev))
        shell_end(s, ev->call, NULL, 0, ACCEL_EUNAVAIL, "the store cannot write; come back later");
    else if (!s->failing.code)
        step_call(s, ev->type, ev->call, ev->method, ev->who, ev->msg, grant);
}

static void on_committed(void *ctx)
{
    struct shell *s = ctx;
    struct coord_batch *b = s->committing;

    s->committing = NULL;
    if (s->is_flushed) { /* the server is going: nobody is left to be told */
        coord_batch_reset(b);
        return;
    }
    b->is_durable = true;
    release_outputs(s, b);
    if (s->failing.code) {
        log_info("the store can write again");
        s->failing.code = 0;
        deferred_replay(&s->deferred, take_deferred, s);
    }
    shell_flush(s);
}

static void on_commit_failing(void *ctx, const struct accel_error *err)
{
    struct shell *s = ctx;

    if (!s->failing.code)
        log_error("the store cannot write: %s", err->text);
    error_set(&s->failing, ACCEL_EUNAVAIL,
              "the coordinator cannot write its store now (what was accepted before is kept, and "
              "running work goes on): %.300s",
              err->text);
    maybe_finish_stop(s); /* a store that cannot write is not waited for */
}

static void on_stale(void *ctx, const struct accel_error *err)
{
    struct shell *s = ctx;

    log_error("another coordinator has taken over: %s", err->text);
    s->exit_status = 1;
    s->is_stale = true; /* no output leaves any more: what was decided is not ours to say */
    s->is_flushed = true;
    shell_stop(s, "taken over");
}

/* --- loop callbacks --- */

static void on_drain(uv_idle_t *idle)
{
    (void)idle; /* only there so that the loop does not wait */
}

static void tick(struct shell *s)
{
    struct coord_event ev = {.type = COORD_EV_TICK};

    s->is_tick_due = false;
    uv_idle_stop(&s->drain);
    if (s->is_flushed)
        return;
    if (s->failing.code) {
        loop_timer_set(&s->deadline, clock_mono_ms() + LIMIT_STORE_RETRY_MIN_MS);
        return;
    }
    step(s, &ev);
}

static void on_check(uv_check_t *check)
{
    struct shell *s = check->data;

    if (s->is_tick_due)
        tick(s);
    shell_flush(s);
}

/* The sockets first: what they hold was said in time, and silence is judged afterwards. libuv runs
 * timers before it polls, so the tick waits for the poll of the same turn. */
static void on_deadline(void *ctx, int64_t late_ms)
{
    struct shell *s = ctx;

    (void)late_ms;
    s->is_tick_due = true;
    uv_idle_start(&s->drain, on_drain);
}

static void on_idle(void *ctx, int64_t late_ms)
{
    struct shell *s = ctx;

    (void)late_ms;
    if (coord_is_idle(s->core) && s->admin_calls == 0)
        shell_stop(s, "idle");
}

/* A runtime directory goes at the last logout. We could not be found any more, so we make room for
 * the next one, which adopts everything as after any restart. */
static void on_socket_event(uv_fs_event_t *watch, const char *name, int events, int status)
{
    struct shell *s = watch->data;
    struct stat st;

    (void)name;
    (void)events;
    (void)status;
    if (stat(s->options->socket_path, &st) < 0 || st.st_ino != s->socket_inode)
        shell_stop(s, "its socket was removed");
}

static int watch_socket(struct shell *s)
{
    struct stat st;

    uv_fs_event_init(s->loop, &s->socket_watch);
    s->socket_watch.data = s;
    if (stat(s->options->socket_path, &st) < 0)
        return -1;
    s->socket_inode = st.st_ino;
    return uv_fs_event_start(&s->socket_watch, on_socket_event, s->options->socket_path, 0);
}

static void on_signal(void *ctx, int signo)
{
    shell_stop(ctx, strsignal(signo));
}

static void on_reload(void *ctx)
{
    struct shell *s = ctx;
    struct accel_error err = {0};

    notify_reloading();
    if (options_reload(s->options, log_setting, s, &err) < 0)
        log_error("the settings stay as they are: %s", err.text);
    log_set_level(s->options->log_level);
    coord_set_history(s->core, (uint32_t)s->options->history_jobs, s->options->history_ms);
    notify_ready(s->loop);
}

/* --- life --- */

static uint64_t random_era(void)
{
    uint64_t era = 0;

    while (era == 0 && getrandom(&era, sizeof(era), 0) != sizeof(era))
        continue;
    return era >> 16 ? era >> 16 : 1; /* 48 bits: exact in every JSON reader */
}

static void load_record(void *ctx, const struct record *rec)
{
    struct shell *s = ctx;

    coord_load(s->core, rec);
}

static int load_core(struct shell *s, struct accel_error *err)
{
    struct clock_now now = clock_read();
    int r = s->store->ops->load(s->store, load_record, s, err);

    if (r < 0)
        return error_wrap(err, r, "cannot load the store");
    coord_start(s->core, now.mono_ms, now.wall_ms, random_era());
    if (s->options->is_new_era)
        coord_begin_era(s->core);
    coord_collect(s->core, s->open);
    struct store_txn txn = {
        .records = s->open->records, .count = s->open->record_count, .epoch = coord_epoch(s->core)};
    r = s->store->ops->commit(s->store, &txn, err);
    if (r < 0)
        return error_wrap(err, r, "cannot write the new epoch");
    coord_batch_reset(s->open);
    return 0;
}

int shell_init(struct shell *s, uv_loop_t *loop, struct coordinator_options *options,
               struct accel_error *err)
{
    static const struct store_thread_callbacks callbacks = {on_committed, on_commit_failing,
                                                            on_stale};
    int r;

    *s = (struct shell){.loop = loop, .options = options, .start_wall_ms = clock_wall_ms()};
    deferred_init(&s->deferred);
    coord_batch_init(&s->batches[0]);
    coord_batch_init(&s->batches[1]);
    s->open = &s->batches[0];
    struct coord_config config = {.session_grace_ms = LIMIT_SESSION_GRACE_MS,
                                  .history_jobs = (uint32_t)options->history_jobs,
                                  .history_ms = (int64_t)options->history_ms};
    s->core = coord_create(&config);
    r = store_sqlite_open(options->state_dir, &s->store, err);
    if (r < 0)
        return r;
    r = load_core(s, err);
    if (r < 0)
        return r;
    r = shell_remote_open(s, err);
    if (r < 0)
        return r;
    char files_dir[PATH_MAX];
    snprintf(files_dir, sizeof(files_dir), "%s/files", options->state_dir);
    r = files_create(loop, files_dir, options->files_bytes, &s->files, err);
    if (r < 0)
        return r;
    r = store_thread_start(loop, s->store, &callbacks, s, &s->thread, err);
    if (r < 0)
        return r;
    uv_check_init(loop, &s->check);
    s->check.data = s;
    uv_idle_init(loop, &s->drain);
    r = loop_timer_init(loop, &s->deadline, on_deadline, s);
    if (r == 0)
        r = loop_timer_init(loop, &s->idle, on_idle, s);
    if (r == 0)
        r = loop_signals_init(loop, &s->signals, on_signal, s);
    s->signals.on_reload = on_reload;
    return r < 0 ? error_set(err, r, "cannot set up the event loop") : 0;
}

int shell_serve(struct shell *s, int listen_fd, struct accel_error *err)
{
    int r = rpc_local_server_create(s->loop, listen_fd, api_service(s), &s->server, err);

    if (r < 0)
        return r;
    s->servers = 1;
    r = shell_remote_serve(s, err);
    if (r < 0)
        return r;
    if (watch_socket(s) < 0)
        log_warn("cannot watch %s: should it be removed, nobody will find us",
                 s->options->socket_path);
    uv_check_start(&s->check, on_check);
    arm_timers(s);
    return 0;
}

static void on_store_stopped(void *ctx)
{
    struct shell *s = ctx;

    s->thread = NULL;
    s->store = NULL;
    files_destroy(s->files);
    s->files = NULL;
    uv_close((uv_handle_t *)&s->check, NULL);
    uv_close((uv_handle_t *)&s->drain, NULL);
    uv_close((uv_handle_t *)&s->socket_watch, NULL);
    loop_timer_close(&s->deadline, NULL);
    loop_timer_close(&s->idle, NULL);
    loop_signals_close(&s->signals);
}

static void on_server_stopped(void *ctx)
{
    struct shell *s = ctx;

    if (--s->servers == 0)
        store_thread_stop(s->thread, on_store_stopped, s);
}

static void stop_servers(struct shell *s)
{
    struct rpc_server *server = s->server;

    s->server = NULL; /* nobody is told anything from here on */
    shell_remote_stop(s, on_server_stopped);
    rpc_server_stop(server, on_server_stopped, s);
}

/* The server goes when nothing is left to be committed or said. */
static void maybe_finish_stop(struct shell *s)
{
    if (!s->is_stopping || s->is_flushed)
        return;
    if (s->committing && !s->failing.code)
        return;
    s->is_flushed = true;
    stop_servers(s);
}

void shell_stop(struct shell *s, const char *why)
{
    if (s->is_stopping)
        return;
    log_info("stopping: %s", why);
    s->is_stopping = true;
    notify_stopping();
    /* The name goes first: who comes now starts a successor, which waits for our lock. */
    struct stat st;
    if (stat(s->options->socket_path, &st) == 0 && st.st_ino == s->socket_inode)
        unlink(s->options->socket_path);
    rpc_local_server_refuse_new(s->server);
    struct coord_event ev = {.type = COORD_EV_STOP};
    if (!s->is_stale && !s->failing.code)
        step(s, &ev);
    if (s->is_flushed)
        stop_servers(s);
    else
        shell_flush(s);
}

void shell_done(struct shell *s)
{
    if (s->store && !s->thread)
        s->store->ops->close(s->store);
    deferred_done(&s->deferred);
    coord_destroy(s->core);
    enrol_destroy(s->enrol);
    coord_batch_done(&s->batches[0]);
    coord_batch_done(&s->batches[1]);
}
