/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seeds 1, 2, 3, ...: each a world of its own in which users want jobs while things break; then
 * nothing breaks any more and everything has to come to its end. A seed that fails prints how its
 * story ended and how to see it again. Seeds that once failed for a reason worth keeping have a
 * name.
 *
 *     sim                    named seeds, what a plain job costs, seeds 1-300
 *     sim --seeds A-B        only those seeds
 *     sim --seed N [--verbose]
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/sim/sim.h"

#define FAULTS_MS    15000
#define HEAL_MS      (40 * 60 * 1000)
#define PLAIN_WRITES 5u /* rows of a plain job's whole life, as record.h promises */
#define TAIL_LINES   60
#define SEED_SECONDS 20 /* of real time: a seed takes some milliseconds */

static const struct {
    uint64_t seed;
    const char *once_broke;
} named[] = {
    {37, "the id of a job that left the history was given out again after a restart"},
};

/* --- when it fails --- */

static const struct world *running;
static uint64_t running_seed;
static const char *program;
static bool is_verbose;

/* The narrative's last lines, or all of it. Only write(2): it runs in a signal handler. */
static void show_tail(void)
{
    const struct world *w = running;
    char head[256];
    running = NULL;
    if (!w)
        return;
    const char *text = w->trace.text.data, *p = text + w->trace.text.len;
    for (int lines = 0; p > text && (is_verbose || lines <= TAIL_LINES); p--)
        lines += p[-1] == '\n';
    int len =
        snprintf(head, sizeof(head), "\nnot ok - seed %llu\nagain: %s --seed %llu --verbose\n",
                 (unsigned long long)running_seed, program, (unsigned long long)running_seed);
    if (write(1, p, (size_t)(text + w->trace.text.len - p)) < 0 || write(1, head, (size_t)len) < 0)
        return;
}

static void on_abort(int signo)
{
    (void)signo;
    show_tail();
}

/* A step that never returns. */
static void on_alarm(int signo)
{
    (void)signo;
    show_tail();
    _exit(1);
}

__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));

static void catch_failures(void)
{
    struct sigaction sa = {.sa_handler = on_abort, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGABRT, &sa, NULL);
    sa.sa_handler = on_alarm;
    sigaction(SIGALRM, &sa, NULL);
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(show_tail);
}

/* --- a seed's world --- */

static int64_t range(struct prng *p, int64_t min, int64_t max)
{
    return min + (int64_t)prng_below(p, (uint64_t)(max - min) + 1);
}

static struct world_config draw_config(struct prng *p, uint64_t seed)
{
    struct world_config c = {
        .seed = seed,
        .node_count = (uint32_t)range(p, 1, 4),
        .client_count = (uint32_t)range(p, 1, WORLD_CLIENTS),
        .cpus = (uint32_t)range(p, 4, 8),
        .gpus = prng_chance(p, 50) ? 2 : 0,
        .history_jobs = prng_chance(p, 20) ? (uint32_t)range(p, 1, 4) : LIMIT_HISTORY_JOBS,
        .network = {0, range(p, 0, 40)},
        .commit = {0, range(p, 0, 30)},
        .launch = {1, range(p, 1, 60)},
        .sweep = {0, range(p, 0, 50)},
        .reconnect = {0, range(p, 0, 400)},
        .retry = {1, range(p, 1, 500)},
    };
    return c;
}

static struct world_plan draw_plan(struct prng *p)
{
    struct world_plan plan = {
        .run_ms = (int)(prng_chance(p, 20) ? range(p, 0, 5) : range(p, 10, 3000)),
        .fails = (int)(prng_chance(p, 40) ? range(p, 1, 3) : 0),
        .fail_rank = (int)range(p, 0, 3),
        .fail_code = (int)(prng_chance(p, 50) ? range(p, 1, 3) : -9),
        .term_ms = (int)(prng_chance(p, 20) ? -1 : range(p, 0, 200)),
    };
    if (prng_chance(p, 15))
        plan.run_ms = -1; /* until it is stopped */
    if (prng_chance(p, 10))
        plan.start = (int)range(p, 1, 3);
    return plan;
}

static struct world_job draw_job(struct prng *p, const struct world_config *c)
{
    struct world_job job = {
        .plan = draw_plan(p),
        .procs = (uint32_t)range(p, 0, 3),
        .device_kind = ACCEL__V1__DEVICE_KIND__DEVICE_CPU,
        .max_restarts = (uint32_t)range(p, 0, 3),
        .stop_grace_ms = (uint64_t)range(p, 1, 2000),
        .is_watched = prng_chance(p, 80),
    };
    if (c->gpus && prng_chance(p, 50)) {
        job.procs = (uint32_t)range(p, 0, 2);
        job.device_kind = prng_chance(p, 50) ? ACCEL__V1__DEVICE_KIND__DEVICE_GPU
                                             : ACCEL__V1__DEVICE_KIND__DEVICE_AUTO;
    }
    if (prng_chance(p, 20))
        job.time_limit_ms = (uint64_t)range(p, 1, 2500);
    if (prng_chance(p, 30))
        job.cancel_after_ms = range(p, 1, 3000);
    job.cancel_kill = prng_chance(p, 30);
    job.kill_on_disconnect = job.is_owner = job.is_watched && prng_chance(p, 15);
    return job;
}

/* Drawn apart, so that seeds keep what they had before there were several nodes. */
static void spread(struct prng *q, const struct world_config *c, struct world_job *job)
{
    if (c->node_count > 1 && prng_chance(q, 40))
        job->nodes = (uint32_t)range(q, 2, c->node_count);
}

static void draw_users(struct prng *p, struct prng *q, struct world *w)
{
    int64_t jobs = range(p, 1, 14);
    for (int64_t i = 0; i < jobs; i++) {
        struct world_job want = draw_job(p, &w->config);
        spread(q, &w->config, &want);
        struct world_client *c = &w->clients[prng_below(p, w->config.client_count)];
        struct world_job *job = client_submit(c, &want, range(p, 0, FAULTS_MS * 2 / 3));
        if (prng_chance(p, 10))
            client_do(c, OP_WATCH, job, range(p, 0, FAULTS_MS)); /* a second one looks on */
        if (prng_chance(p, 20))
            client_do(c, OP_GET, job, range(p, 0, FAULTS_MS));
    }
    for (int64_t i = range(p, 0, 6); i > 0; i--)
        client_do(&w->clients[prng_below(p, w->config.client_count)], OP_LIST, NULL,
                  range(p, 0, FAULTS_MS));
    w->is_followed = w->config.history_jobs == LIMIT_HISTORY_JOBS;
    client_do(&w->clients[0], OP_EVENTS, NULL, 0);
}

/* --- the end --- */

static bool is_quiet(struct world *w, uint64_t arg)
{
    (void)arg;
    if (!ops_are_done(w) || !w->coord.core || coord_jobs_live(w->coord.core) > 0 ||
        w->coord.committing)
        return false;
    for (uint32_t i = 0; i < w->config.node_count; i++)
        if (!node_is_settled(&w->nodes[i]))
            return false;
    return true;
}

static bool is_answered(struct world *w, uint64_t arg)
{
    (void)arg;
    return ops_are_done(w);
}

/* Endless jobs are ended by who is told that they run: that has to be told, and the stop obeyed. */
static void end_endless(struct world *w)
{
    w->is_ending = true;
    for (size_t i = 0; i < w->job_count; i++)
        if (w->jobs[i].plan.run_ms < 0)
            client_do(w->jobs[i].client, OP_WATCH, &w->jobs[i], 0);
}

static void heal(struct world *w)
{
    end_endless(w);
    bool ok = world_run_until(w, is_quiet, 0, HEAL_MS);
    WORLD_CHECK(w, ok, "no fault any more, and it does not come to an end");
    world_run(w, 5000); /* nothing is under way */
    w->is_healed = true;
    client_do(&w->clients[0], OP_NODES, NULL, 0);
    client_do(&w->clients[0], OP_LIST, NULL, 0);
    ok = world_run_until(w, is_answered, 0, 10000);
    WORLD_CHECK(w, ok, "a call is not answered");
    world_run(w, 1000); /* the last events */
    books_check_healed(w);
}

static void run_seed(uint64_t seed)
{
    struct prng p, q;
    struct faults faults;
    alarm(SEED_SECONDS);
    prng_init(&p, seed);
    prng_init(&q, seed ^ 0x90d5);
    struct world_config config = draw_config(&p, seed);
    if (prng_chance(&q, 15))
        config.node_count = WORLD_NODES;
    struct world *w = world_create(&config);
    running = w;
    running_seed = seed;
    draw_users(&p, &q, w);
    faults_begin(&faults, w, seed, FAULTS_MS);
    world_run(w, FAULTS_MS);
    faults_end(&faults);
    heal(w);
    running = NULL;
    if (is_verbose)
        fwrite(w->trace.text.data, 1, w->trace.text.len, stdout);
    world_destroy(w);
}

/* A plain job of one worker, and nothing else happens. */
static uint64_t writes_of_plain_job(struct world *w)
{
    uint64_t before = w->store->row_writes;
    struct world_job want = {.plan = {.run_ms = 50}, .is_watched = true};
    client_submit(&w->clients[0], &want, 0);
    bool ok = world_run_until(w, is_quiet, 0, 10000);
    WORLD_CHECK(w, ok, "a plain job does not end");
    return w->store->row_writes - before;
}

static void run_plain(void)
{
    struct world *w = world_create(&world_calm);
    running = w;
    running_seed = 0;
    world_run(w, 100);
    writes_of_plain_job(w); /* the first one brings its environment and fills the node's row */
    for (int i = 0; i < 3; i++) {
        uint64_t writes = writes_of_plain_job(w);
        WORLD_CHECK(w, writes <= PLAIN_WRITES, "a plain job costs %llu row writes",
                    (unsigned long long)writes);
    }
    running = NULL;
    world_destroy(w);
}

/* --- the program --- */

static void run_range(uint64_t first, uint64_t last)
{
    for (uint64_t seed = first; seed <= last; seed++)
        run_seed(seed);
}

static void run_all(void)
{
    size_t n = 0;
    printf("1..%zu\n", ARRAY_LEN(named) + 2);
    for (size_t i = 0; i < ARRAY_LEN(named); i++) {
        run_seed(named[i].seed);
        printf("ok %zu - seed %llu: %s\n", ++n, (unsigned long long)named[i].seed,
               named[i].once_broke);
    }
    run_plain();
    printf("ok %zu - a plain job costs at most %u row writes\n", ++n, PLAIN_WRITES);
    run_range(1, 300);
    printf("ok %zu - seeds 1-300\n", ++n);
}

int main(int argc, char **argv)
{
    unsigned long long first = 0, last = 0;
    program = argv[0];
    catch_failures();
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--verbose") == 0)
            is_verbose = true;
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc &&
                 sscanf(argv[i + 1], "%llu", &first) == 1)
            last = first, i++;
        else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc &&
                 sscanf(argv[i + 1], "%llu-%llu", &first, &last) == 2)
            i++;
        else {
            fprintf(stderr, "usage: sim [--seed N | --seeds A-B] [--verbose]\n");
            return 2;
        }
    }
    if (last == 0) {
        run_all();
        return 0;
    }
    printf("1..1\n");
    run_range(first, last);
    printf("ok 1 - seeds %llu-%llu\n", first, last);
    return 0;
}
