/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtual time: the next thing that is due happens, then everybody is looked at. Neighbours:
 * world.h. It must not know what a job is.
 */
#include <stdarg.h>
#include <stdio.h>

#include "tests/lib/world.h"

#define TURNS_MAX 1000000u /* more is a loop in which time hardly moves */

const struct world_config world_calm = {
    .seed = 1,
    .node_count = 1,
    .client_count = 1,
    .cpus = 4,
    .history_jobs = LIMIT_HISTORY_JOBS,
    .network = {1, 1},
    .commit = {2, 2},
    .launch = {5, 5},
    .term = {3, 3},
    .sweep = {2, 2},
    .reconnect = {10, 10},
    .retry = {10, 10},
};

void world_fail(struct world *w, const char *cond, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    world_say(w, "BROKEN", "%s (%s)", text, cond);
    abort(); /* who runs the world prints the narrative */
}

int64_t world_draw(struct world *w, struct world_range r)
{
    return r.min + (int64_t)prng_below(&w->prng, (uint64_t)(r.max - r.min) + 1);
}

int64_t world_wall_ms(const struct world *w)
{
    return WORLD_WALL_MS + w->now_ms + w->wall_offset_ms;
}

/* --- timers --- */

void world_timer_set(struct world *w, struct world_timer *t, int64_t delay_ms,
                     void (*fire)(void *ctx), void *ctx)
{
    CHECK(delay_ms >= 0);
    t->fire = fire;
    t->ctx = ctx;
    heap_set(&w->timers, &t->node, w->now_ms + delay_ms);
}

void world_timer_clear(struct world *w, struct world_timer *t)
{
    heap_remove(&w->timers, &t->node);
}

static void fire_timers(struct world *w)
{
    struct heap_node *h;
    while ((h = heap_min(&w->timers)) && h->key <= w->now_ms) {
        struct world_timer *t = CONTAINER_OF(h, struct world_timer, node);
        heap_remove(&w->timers, h);
        t->fire(t->ctx);
    }
}

/* --- turns --- */

static int64_t sooner(int64_t a, int64_t b)
{
    return a < 0 ? b : b < 0 ? a : MIN(a, b);
}

static int64_t next_ms(const struct world *w)
{
    const struct heap_node *h = heap_min(&w->timers);
    int64_t next = sooner(rpc_sim_next_ms(w->sim), h ? h->key : -1);
    next = sooner(next, coord_next_ms(&w->coord));
    for (uint32_t i = 0; i < w->config.node_count; i++)
        next = sooner(next, node_next_ms(&w->nodes[i]));
    return next;
}

/* False when nothing is due until then. */
static bool world_turn(struct world *w, int64_t until_ms)
{
    int64_t next = next_ms(w);
    if (next < 0 || next > until_ms) {
        w->now_ms = MAX(w->now_ms, until_ms);
        return false;
    }
    w->now_ms = MAX(w->now_ms, next);
    w->turns++;
    WORLD_CHECK(w, w->turns < TURNS_MAX, "time stands still");
    rpc_sim_run(w->sim, w->now_ms);
    fire_timers(w);
    for (uint32_t i = 0; i < w->config.node_count; i++)
        node_turn(&w->nodes[i]);
    coord_turn(&w->coord);
    books_check(w);
    return true;
}

void world_run(struct world *w, int64_t ms)
{
    int64_t until_ms = w->now_ms + ms;
    while (world_turn(w, until_ms))
        continue;
}

bool world_run_until(struct world *w, bool (*is_true)(struct world *w, uint64_t arg), uint64_t arg,
                     int64_t ms)
{
    int64_t until_ms = w->now_ms + ms;
    while (!is_true(w, arg))
        if (!world_turn(w, until_ms))
            return is_true(w, arg);
    return true;
}

/* --- life --- */

struct world *world_create(const struct world_config *config)
{
    struct world *w = xcalloc(1, sizeof(*w));
    CHECK(config->node_count <= WORLD_NODES && config->client_count <= WORLD_CLIENTS);
    w->config = *config;
    trace_init(&w->trace, 0);
    prng_init(&w->prng, config->seed);
    heap_init(&w->timers);
    struct rpc_sim_config sim = {.seed = config->seed ^ 0x5eed,
                                 .latency_min_ms = config->network.min,
                                 .latency_max_ms = config->network.max};
    w->sim = rpc_sim_create(&sim);
    w->store = store_mem_create(7);
    TAILQ_INIT(&w->ops);
    coord_init(w);
    coord_boot(&w->coord);
    for (uint32_t i = 0; i < config->node_count; i++) {
        node_init(w, &w->nodes[i], i);
        node_boot(&w->nodes[i]);
    }
    clients_init(w);
    return w;
}

void world_destroy(struct world *w)
{
    if (!w)
        return;
    clients_done(w);
    for (uint32_t i = 0; i < w->config.node_count; i++)
        node_done(&w->nodes[i]);
    coord_done(&w->coord);
    rpc_sim_destroy(w->sim);
    w->store->ops->close(w->store);
    heap_done(&w->timers);
    trace_done(&w->trace);
    free(w);
}
