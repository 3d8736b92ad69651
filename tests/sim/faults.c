/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which faults a seed brings, and when. Neighbour: tests/lib/world.h, which carries them out. It
 * must not know what is right or wrong afterwards.
 */
#include <signal.h>
#include <stdio.h>

#include "tests/sim/sim.h"

static const uint32_t most[FAULT_KIND_COUNT] = {
    [FAULT_CUT] = 6,        [FAULT_CUT_SILENT] = 3,  [FAULT_COORD_KILL] = 4,
    [FAULT_COORD_STOP] = 2, [FAULT_COMMIT_FAIL] = 3, [FAULT_COMMIT_SLOW] = 2,
    [FAULT_AGENT_KILL] = 4, [FAULT_SHIM_KILL] = 3,   [FAULT_RANK_KILL] = 4,
    [FAULT_CLIENT_CUT] = 4, [FAULT_CLIENT_KILL] = 2, [FAULT_SUBMIT_TWICE] = 4,
    [FAULT_CLOCK_JUMP] = 2, [FAULT_DEVICE] = 4,
};

static int64_t draw(struct faults *f, int64_t min, int64_t max)
{
    return min + (int64_t)prng_below(&f->prng, (uint64_t)(max - min) + 1);
}

static struct world_attempt *any_attempt(struct faults *f)
{
    struct world *w = f->world;
    struct world_attempt *list[64], *a;
    size_t count = 0;
    for (uint32_t i = 0; i < w->config.node_count; i++) {
        TAILQ_FOREACH(a, &w->nodes[i].attempts, link)
        {
            if (a->state != ATTEMPT_ENDED && count < ARRAY_LEN(list))
                list[count++] = a;
        }
    }
    return count ? list[prng_below(&f->prng, count)] : NULL;
}

static void kill_rank(struct faults *f)
{
    struct world_attempt *a = any_attempt(f);
    if (a)
        attempt_exit_rank(a, a->ranks[prng_below(&f->prng, a->rank_count)].rank, 0, SIGKILL);
}

static void kill_shim(struct faults *f)
{
    struct world_attempt *a = any_attempt(f);
    if (a)
        attempt_kill_shim(a);
}

static void submit_twice(struct faults *f)
{
    struct world *w = f->world;
    if (w->job_count == 0)
        return;
    struct world_job *job = &w->jobs[prng_below(&f->prng, w->job_count)];
    client_do(job->client, OP_SUBMIT, job, 0);
}

static void toggle_device(struct faults *f, struct world_node *n)
{
    snprintf(n->fault, sizeof(n->fault), "%s", n->fault[0] ? "" : "it smells");
    world_say(f->world, n->name, "cpu:0 is %s", n->fault[0] ? n->fault : "well");
    if (n->core)
        node_tell_devices(n);
}

static void happen_dispatch(struct faults *f, enum fault_kind kind)
{
    struct world *w = f->world;
    struct world_node *n = &w->nodes[prng_below(&f->prng, w->config.node_count)];
    struct world_client *c = &w->clients[prng_below(&f->prng, w->config.client_count)];
    switch (kind) {
    case FAULT_CUT: node_cut(n, true, 0); break;
    case FAULT_CUT_SILENT: node_cut(n, false, draw(f, 20, 4000)); break;
    case FAULT_COORD_KILL: coord_kill(&w->coord, draw(f, 0, 2500)); break;
    case FAULT_COORD_STOP: coord_stop(&w->coord, draw(f, 200, 4000)); break;
    case FAULT_COMMIT_FAIL:
        coord_fail_commits(&w->coord, (unsigned)draw(f, 1, 5), prng_chance(&f->prng, 50));
        break;
    case FAULT_COMMIT_SLOW: coord_slow(&w->coord, draw(f, 50, 1500), draw(f, 500, 4000)); break;
    case FAULT_AGENT_KILL: node_kill(n, draw(f, 0, 3000)); break;
    case FAULT_SHIM_KILL: kill_shim(f); break;
    case FAULT_RANK_KILL: kill_rank(f); break;
    case FAULT_CLIENT_CUT: client_cut(c); break;
    case FAULT_CLIENT_KILL: client_kill(c); break;
    case FAULT_SUBMIT_TWICE: submit_twice(f); break;
    case FAULT_CLOCK_JUMP: w->wall_offset_ms += draw(f, -600000, 600000); break;
    case FAULT_DEVICE: toggle_device(f, n); break;
    case FAULT_KIND_COUNT: break;
    }
}

static void on_timer(void *ctx)
{
    struct faults *f = ctx;
    uint64_t pick = prng_below(&f->prng, f->left);
    enum fault_kind kind = 0;
    while (pick >= f->budget[kind])
        pick -= f->budget[kind++];
    f->budget[kind]--;
    f->left--;
    happen_dispatch(f, kind);
    /* Some come close together: that is where two faults meet. */
    if (f->left)
        world_timer_set(f->world, &f->timer,
                        prng_chance(&f->prng, 30) ? draw(f, 0, 20) : draw(f, 0, 2 * f->gap_ms),
                        on_timer, f);
}

void faults_begin(struct faults *f, struct world *w, uint64_t seed, int64_t over_ms)
{
    *f = (struct faults){.world = w};
    prng_init(&f->prng, seed ^ 0xfa017);
    for (int k = 0; k < FAULT_KIND_COUNT; k++) {
        if (prng_chance(&f->prng, 50))
            f->budget[k] = (uint32_t)prng_below(&f->prng, most[k] + 1);
        f->left += f->budget[k];
    }
    f->gap_ms = f->left ? over_ms / f->left : 0;
    if (f->left)
        world_timer_set(w, &f->timer, draw(f, 0, 2 * f->gap_ms), on_timer, f);
}

void faults_end(struct faults *f)
{
    struct world *w = f->world;
    world_timer_clear(w, &f->timer);
    coord_fail_commits(&w->coord, 0, false);
    for (uint32_t i = 0; i < w->config.node_count; i++)
        if (w->nodes[i].fault[0])
            toggle_device(f, &w->nodes[i]);
    world_say(w, "world", "no more faults");
}
