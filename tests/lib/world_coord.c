/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The coordinator's shell in virtual time, as scheduler/shell.c has it: step, collect, commit, and
 * only then let the outputs out. Neighbours: scheduler/api.c, whose service table is served here.
 * It decides nothing about jobs.
 */
#include "tests/lib/world.h"

#include "scheduler/shell.h"

static void flush(struct world_coord *c);

/* --- events --- */

static void step(struct world_coord *c, struct coord_event *ev)
{
    ev->now_ms = c->world->now_ms;
    ev->wall_ms = world_wall_ms(c->world);
    coord_step(c->core, ev, c->open);
    coord_check_all(c->core);
}

static void step_call(struct world_coord *c, enum rpc_event_type type, uint64_t call,
                      const struct rpc_method *method, const struct rpc_identity *who,
                      const ProtobufCMessage *msg)
{
    struct coord_event ev = {.type = COORD_EV_CALL,
                             .method = (enum coord_method)method->id,
                             .rpc_type = type,
                             .call = call,
                             .who = who,
                             .msg = msg};
    step(c, &ev);
}

static void keep(struct world_coord *c, struct deferred *d, const struct rpc_event *ev)
{
    bool has_room = deferred_keep(d, ev);
    WORLD_CHECK(c->world, has_room, "more waits than a world can say");
}

static void take_event(struct world_coord *c, const struct rpc_event *ev)
{
    bool is_user_open = ev->type == RPC_OPEN && ev->method->id != COORD_SESSION;
    if (c->is_failing && is_user_open)
        rpc_server_end(c->server, ev->call, NULL, 0, ACCEL_EUNAVAIL, "the store cannot write");
    else if (c->is_failing)
        keep(c, &c->deferred, ev);
    else
        step_call(c, ev->type, ev->call, ev->method, ev->who, ev->msg);
}

static void on_call(void *ctx, const struct rpc_event *ev)
{
    struct world_coord *c = ctx;
    if (c->is_stopped)
        keep(c, &c->inbox, ev);
    else
        take_event(c, ev);
}

static void take_deferred(void *ctx, const struct rpc_event *ev)
{
    step_call(ctx, ev->type, ev->call, ev->method, ev->who, ev->msg);
}

/* --- commits --- */

static void release_outputs(struct world_coord *c, struct coord_batch *b)
{
    for (size_t i = 0; i < b->output_count; i++) {
        const struct coord_output *o = &b->outputs[i];
        if (o->is_end)
            rpc_server_end(c->server, o->call, o->data, o->len, o->code, o->text ? o->text : "");
        else
            rpc_server_send(c->server, o->call, o->data, o->len);
    }
    coord_batch_reset(b);
}

static int commit_now(struct world_coord *c)
{
    struct accel_error err = {0};
    int r = c->world->store->ops->commit(c->world->store, &c->txn, &err);
    if (r == 0)
        books_say_commit(c->world, &c->txn);
    if (r == 0 || c->is_failure_applied)
        books_committed(c->world, &c->txn);
    WORLD_CHECK(c->world, r == 0 || r == ACCEL_ENOSPC, "the store refuses: %s", err.text);
    return r;
}

static void on_commit(void *ctx)
{
    struct world_coord *c = ctx;
    if (c->is_stopped) {
        c->is_commit_due = true;
        return;
    }
    int r = commit_now(c);
    if (r < 0) {
        int64_t wait_ms = LIMIT_STORE_RETRY_MIN_MS << MIN(c->failures, 5u);
        if (!c->is_failing)
            world_say(c->world, "store", "cannot write");
        c->is_failing = true;
        c->failures++;
        world_timer_set(c->world, &c->commit, MIN(wait_ms, LIMIT_STORE_RETRY_MAX_MS), on_commit, c);
        return;
    }
    struct coord_batch *b = STEAL_PTR(c->committing);
    release_outputs(c, b);
    c->failures = 0;
    if (c->is_failing) {
        world_say(c->world, "store", "can write again");
        c->is_failing = false;
        deferred_replay(&c->deferred, take_deferred, c);
    }
    flush(c);
}

static void flush(struct world_coord *c)
{
    struct world *w = c->world;
    if (c->committing)
        return;
    coord_collect(c->core, c->open);
    struct coord_batch *b = c->open;
    if (b->record_count == 0) {
        release_outputs(c, b);
        return;
    }
    c->committing = b;
    c->open = b == &c->batches[0] ? &c->batches[1] : &c->batches[0];
    c->txn = (struct store_txn){
        .records = b->records, .count = b->record_count, .epoch = coord_epoch(c->core)};
    world_timer_set(w, &c->commit, world_draw(w, w->config.commit) + c->slow_ms, on_commit, c);
}

void coord_fail_commits(struct world_coord *c, unsigned count, bool is_applied)
{
    store_mem_fail_commits(c->world->store, count, is_applied);
    c->is_failure_applied = is_applied;
}

/* --- time --- */

static bool may_tick(const struct world_coord *c)
{
    return c->core && !c->is_stopped && !c->is_failing;
}

int64_t coord_next_ms(const struct world_coord *c)
{
    return may_tick(c) ? coord_deadline_ms(c->core) : -1;
}

static void tick(struct world_coord *c)
{
    int64_t deadline_ms = coord_deadline_ms(c->core);
    if (deadline_ms < 0 || deadline_ms > c->world->now_ms)
        return;
    step(c, &(struct coord_event){.type = COORD_EV_TICK});
    WORLD_CHECK(c->world, coord_deadline_ms(c->core) != deadline_ms || deadline_ms == -1,
                "a deadline that passed stays");
}

void coord_turn(struct world_coord *c)
{
    if (may_tick(c))
        tick(c);
    if (c->core && !c->is_stopped)
        flush(c);
}

/* --- life --- */

static void load_record(void *ctx, const struct record *rec)
{
    coord_load(ctx, rec);
}

void coord_boot(struct world_coord *c)
{
    struct world *w = c->world;
    struct accel_error err;
    struct coord_config config = {.session_grace_ms = LIMIT_SESSION_GRACE_MS,
                                  .history_jobs = w->config.history_jobs,
                                  .history_ms = LIMIT_HISTORY_MS,
                                  .trace = &w->trace};
    CHECK(!c->core);
    c->core = coord_create(&config);
    int r = w->store->ops->load(w->store, load_record, c->core, &err);
    CHECK(r == 0);
    coord_start(c->core, w->now_ms, world_wall_ms(w), 1);
    coord_check_all(c->core);
    WORLD_CHECK(w, coord_epoch(c->core) > c->epoch, "epoch %llu again",
                (unsigned long long)coord_epoch(c->core));
    c->epoch = coord_epoch(c->core);
    world_say(w, "coord", "starts, epoch %llu", (unsigned long long)c->epoch);
    coord_collect(c->core, c->open);
    c->txn = (struct store_txn){
        .records = c->open->records, .count = c->open->record_count, .epoch = c->epoch};
    coord_fail_commits(c, 0, false); /* a full disk would only delay the start */
    r = commit_now(c);
    CHECK(r == 0 && c->open->output_count == 0);
    coord_batch_reset(c->open);
    c->server = rpc_sim_serve(w->sim, "coordinator", &c->service);
}

static void on_start(void *ctx)
{
    coord_boot(ctx);
}

static void forget(struct world_coord *c)
{
    struct world *w = c->world;
    coord_destroy(c->core);
    c->core = NULL;
    deferred_done(&c->inbox);
    deferred_done(&c->deferred);
    world_timer_clear(w, &c->commit);
    world_timer_clear(w, &c->resume);
    world_timer_clear(w, &c->calm);
    coord_batch_reset(&c->batches[0]);
    coord_batch_reset(&c->batches[1]);
    c->open = &c->batches[0];
    c->committing = NULL;
    c->is_failing = c->is_stopped = c->is_commit_due = false;
    c->failures = 0;
    c->slow_ms = 0;
}

void coord_kill(struct world_coord *c, int64_t down_ms)
{
    struct world *w = c->world;
    if (!c->core)
        return;
    world_say(w, "coord", "kill -9");
    if (c->committing && prng_chance(&w->prng, 50))
        commit_now(c); /* it reached the disk, and nobody was told */
    rpc_sim_kill_server(w->sim, c->server);
    c->server = NULL;
    forget(c);
    world_timer_set(w, &c->start, down_ms, on_start, c);
}

static void take_inbox(void *ctx, const struct rpc_event *ev)
{
    take_event(ctx, ev);
}

static void on_resume(void *ctx)
{
    struct world_coord *c = ctx;
    world_say(c->world, "coord", "goes on");
    c->is_stopped = false;
    if (may_tick(c) && prng_chance(&c->world->prng, 50))
        tick(c); /* what the loop does first is not ours to choose */
    deferred_replay(&c->inbox, take_inbox, c);
    if (c->is_commit_due)
        on_commit(c);
    c->is_commit_due = false;
}

void coord_stop(struct world_coord *c, int64_t ms)
{
    if (!c->core || c->is_stopped)
        return;
    world_say(c->world, "coord", "SIGSTOP");
    c->is_stopped = true;
    world_timer_set(c->world, &c->resume, ms, on_resume, c);
}

static void on_calm(void *ctx)
{
    ((struct world_coord *)ctx)->slow_ms = 0;
}

void coord_slow(struct world_coord *c, int64_t by_ms, int64_t ms)
{
    if (!c->core)
        return;
    world_say(c->world, "store", "slow by %lld ms", (long long)by_ms);
    c->slow_ms = by_ms;
    world_timer_set(c->world, &c->calm, ms, on_calm, c);
}

void coord_init(struct world *w)
{
    struct world_coord *c = &w->coord;
    const struct rpc_service *api = api_service(NULL);
    c->world = w;
    deferred_init(&c->deferred);
    deferred_init(&c->inbox);
    coord_batch_init(&c->batches[0]);
    coord_batch_init(&c->batches[1]);
    c->open = &c->batches[0];
    for (size_t i = 0; i < api->count; i++) {
        if (api->methods[i].id >= COORD_METHOD_COUNT)
            continue; /* Admin's are the shell's own */
        CHECK(c->service.count < ARRAY_LEN(c->methods));
        struct rpc_method *m = &c->methods[c->service.count++];
        *m = api->methods[i];
        m->handler = on_call;
    }
    CHECK(c->service.count == COORD_METHOD_COUNT - 1);
    c->service.methods = c->methods;
    c->service.ctx = c;
}

void coord_done(struct world_coord *c)
{
    world_timer_clear(c->world, &c->start);
    if (c->core) {
        rpc_sim_kill_server(c->world->sim, c->server);
        forget(c);
    }
    coord_batch_done(&c->batches[0]);
    coord_batch_done(&c->batches[1]);
}
