/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stories of the two cores: what each part did at which virtual millisecond, compared line by line
 * with NAME.golden. A difference is either a mistake or a change of what happens, which the golden
 * file then tells in its own diff.
 *
 *     stories DIR             compares every story, TAP
 *     stories --update DIR    writes the golden files anew
 *     stories --print NAME    tells one story
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/world.h"

static const struct world *running;

/* --- what the stories wait for --- */

static bool is_quiet(struct world *w, uint64_t arg)
{
    (void)arg;
    for (uint32_t i = 0; i < w->config.node_count; i++)
        if (!node_is_settled(&w->nodes[i]))
            return false;
    return ops_are_done(w) && w->coord.core && coord_jobs_live(w->coord.core) == 0 &&
           !w->coord.committing;
}

static bool is_node_ready(struct world *w, uint64_t arg)
{
    (void)arg;
    for (uint32_t i = 0; i < w->config.node_count; i++)
        if (!w->nodes[i].core || !agent_is_welcomed(w->nodes[i].core))
            return false;
    return true;
}

/* Every rank of the attempt runs, and the coordinator was told and has acknowledged it. */
static bool is_running(struct world *w, uint64_t attempt)
{
    for (uint32_t i = 0; i < w->config.node_count; i++) {
        struct world_node *n = &w->nodes[i];
        const struct world_attempt *a = attempt_of(n, 1, (uint32_t)attempt);
        if (!a || a->state != ATTEMPT_RUNNING || n->sent_count == 0 ||
            n->acked_seq != n->sent[n->sent_count - 1].seq)
            return false;
    }
    return true;
}

static bool is_launching(struct world *w, uint64_t attempt)
{
    return attempt_of(&w->nodes[0], 1, (uint32_t)attempt) != NULL;
}

static bool has_sent(struct world *w, uint64_t seq)
{
    const struct world_node *n = &w->nodes[0];
    return n->sent_count && n->sent[n->sent_count - 1].seq >= seq;
}

static bool is_committing(struct world *w, uint64_t arg)
{
    (void)arg;
    return w->coord.committing != NULL;
}

static void until(struct world *w, bool (*is_true)(struct world *w, uint64_t arg), uint64_t arg)
{
    bool ok = world_run_until(w, is_true, arg, 60000);
    WORLD_CHECK(w, ok, "the story does not go on");
}

static struct world *begin(struct world_config config)
{
    struct world *w = world_create(&config);
    running = w;
    until(w, is_node_ready, 0);
    world_run(w, 20 - w->now_ms);
    return w;
}

static void end(struct world *w)
{
    until(w, is_quiet, 0);
    books_check_healed(w);
}

static void submit(struct world *w, struct world_job want)
{
    want.is_watched = true;
    client_submit(&w->clients[0], &want, 0);
}

static void exit_ranks(struct world *w, uint32_t attempt, uint32_t count)
{
    for (uint32_t rank = 0; rank < count; rank++)
        attempt_exit_rank(attempt_of(&w->nodes[0], 1, attempt), rank, 0, 0);
}

#define UNTIL_TOLD                                                                                 \
    {                                                                                              \
        .run_ms = -1, .term_ms = 3                                                                 \
    }

/* --- the stories --- */

static struct world *tell_plain(void)
{
    struct world *w = begin(world_calm);
    submit(w, (struct world_job){.plan = {.run_ms = 50}});
    end(w);
    return w;
}

static struct world *tell_restart(void)
{
    struct world *w = begin(world_calm);
    submit(w, (struct world_job){.plan = UNTIL_TOLD, .procs = 2, .max_restarts = 1});
    until(w, is_running, 1);
    attempt_exit_rank(attempt_of(&w->nodes[0], 1, 1), 1, 0, SIGKILL);
    until(w, is_running, 2);
    exit_ranks(w, 2, 2);
    end(w);
    return w;
}

static struct world *tell_cancel_starting(void)
{
    struct world_config config = world_calm;
    config.launch = (struct world_range){50, 50};
    struct world *w = begin(config);
    submit(w, (struct world_job){.plan = UNTIL_TOLD, .cancel_after_ms = 10});
    end(w);
    return w;
}

static struct world *tell_cancel_running(void)
{
    struct world *w = begin(world_calm);
    submit(w, (struct world_job){.plan = {.run_ms = -1, .term_ms = -1}, /* ignores SIGTERM */
                                 .stop_grace_ms = 200,
                                 .cancel_after_ms = 100});
    end(w);
    return w;
}

static struct world *tell_time_limit(void)
{
    struct world *w = begin(world_calm);
    submit(w, (struct world_job){.plan = UNTIL_TOLD, .time_limit_ms = 100});
    end(w);
    return w;
}

static struct world *tell_coordinator_restart(void)
{
    struct world *w = begin(world_calm);
    submit(w, (struct world_job){.plan = UNTIL_TOLD});
    until(w, is_running, 1);
    world_run(w, 10);
    coord_kill(&w->coord, 100);
    world_run(w, 300);
    exit_ranks(w, 1, 1);
    end(w);
    return w;
}

static struct world *tell_acceld_restart(void)
{
    struct world *w = begin(world_calm);
    submit(w, (struct world_job){.plan = UNTIL_TOLD, .procs = 2});
    until(w, is_running, 1);
    world_run(w, 10);
    node_kill(&w->nodes[0], 100);
    world_run(w, 50);
    attempt_exit_rank(attempt_of(&w->nodes[0], 1, 1), 0, 0, 0); /* nobody is there to hear it */
    world_run(w, 150);
    attempt_exit_rank(attempt_of(&w->nodes[0], 1, 1), 1, 0, 0);
    end(w);
    return w;
}

static struct world *tell_report_resent(void)
{
    struct world *w = begin(world_calm);
    submit(w, (struct world_job){.plan = UNTIL_TOLD});
    until(w, is_running, 1);
    world_run(w, 10);
    exit_ranks(w, 1, 1);
    until(w, has_sent, 2);
    until(w, is_committing, 0); /* the end is taken in, its acknowledgement waits for the disk */
    node_cut(&w->nodes[0], true, 0);
    end(w);
    return w;
}

static struct world *tell_submit_retried(void)
{
    struct world *w = begin(world_calm);
    submit(w, (struct world_job){.plan = {.run_ms = 50}});
    until(w, is_committing, 0);
    client_cut(&w->clients[0]); /* the answer will not come */
    end(w);
    return w;
}

static struct world *tell_two_jobs(void)
{
    struct world *w = begin(world_calm);
    submit(w, (struct world_job){.plan = {.run_ms = 50}, .procs = 3});
    submit(w, (struct world_job){.plan = {.run_ms = 50}, .procs = 2});
    submit(w, (struct world_job){.plan = {.run_ms = 10}, .procs = 1}); /* would fit, and waits */
    end(w);
    return w;
}

static struct world *tell_gpu_auto(void)
{
    struct world_config config = world_calm;
    config.gpus = 2;
    struct world *w = begin(config);
    submit(w, (struct world_job){.plan = {.run_ms = 50}, .procs = 2});
    end(w);
    return w;
}

static struct world *tell_shim_lost(void)
{
    struct world *w = begin(world_calm);
    submit(w, (struct world_job){.plan = UNTIL_TOLD, .procs = 2});
    until(w, is_running, 1);
    attempt_kill_shim(attempt_of(&w->nodes[0], 1, 1));
    end(w);
    return w;
}

static struct world *tell_store_fails(void)
{
    struct world *w = begin(world_calm);
    coord_fail_commits(&w->coord, 2, false);
    submit(w, (struct world_job){.plan = {.run_ms = 50}});
    end(w);
    return w;
}

static struct world *tell_start_lost(void)
{
    struct world *w = begin(world_calm);
    submit(w, (struct world_job){.plan = {.run_ms = 50}});
    until(w, is_committing, 0); /* the attempt's row is on its way, and its Start behind it */
    node_cut(&w->nodes[0], false, 30);
    until(w, is_launching, 1);
    end(w);
    return w;
}

static bool is_waiting_alone(struct world *w, uint64_t arg)
{
    (void)arg;
    return ops_are_done(w) && w->coord.core && coord_jobs_live(w->coord.core) == 1;
}

/* Devices go away: the job that needs them blocks nobody, and runs when they are back. */
static struct world *tell_aside(void)
{
    struct world_config config = world_calm;
    config.cpus = 4;
    struct world *w = begin(config);
    client_submit(&w->clients[0], &(struct world_job){.plan = UNTIL_TOLD, .procs = 4}, 0);
    until(w, is_running, 1);
    client_submit(&w->clients[0], &(struct world_job){.plan = {.run_ms = 20}, .procs = 4}, 0);
    client_submit(&w->clients[0], &(struct world_job){.plan = {.run_ms = 10}, .procs = 1}, 0);
    world_run(w, 20);
    w->config.cpus = 2;
    node_tell_devices(&w->nodes[0]);
    world_run(w, 20);
    exit_ranks(w, 1, 4);
    until(w, is_waiting_alone, 0);
    w->config.cpus = 4;
    node_tell_devices(&w->nodes[0]);
    end(w);
    return w;
}

static bool is_suspect(struct world *w, uint64_t arg)
{
    (void)arg;
    return strstr(w->trace.text.data, "READY -> SUSPECT") != NULL;
}

/* The node comes back at once, but nobody listens: for that it must not be declared lost. Whether
 * the timer or the sockets come first afterwards depends on the seed. */
static struct world *stand_still(uint64_t seed)
{
    struct world_config config = world_calm;
    config.seed = seed;
    struct world *w = begin(config);
    node_cut(&w->nodes[0], true, 0);
    until(w, is_suspect, 0);
    coord_stop(&w->coord, 10000);
    world_run(w, 12000);
    WORLD_CHECK(w, strstr(w->trace.text.data, "stood still"), "nobody noticed");
    WORLD_CHECK(w, !strstr(w->trace.text.data, "-> LOST"), "a node is lost");
    return w;
}

static struct world *tell_standstill(void)
{
    for (uint64_t seed = 2; seed < 10; seed++)
        world_destroy(stand_still(seed));
    struct world *w = stand_still(1);
    submit(w, (struct world_job){.plan = {.run_ms = 50}});
    end(w);
    return w;
}

/* A day forward, two back: the time limit counts on the other clock, and the session stays. */
static struct world *tell_clock_jumps(void)
{
    struct world_config config = world_calm;
    const int64_t day_ms = 24 * 3600 * 1000;
    struct world *w = begin(config);
    submit(w, (struct world_job){.plan = UNTIL_TOLD, .time_limit_ms = 400});
    until(w, is_running, 1);
    world_run(w, 100);
    w->wall_offset_ms += day_ms;
    world_run(w, 100);
    w->wall_offset_ms -= 2 * day_ms;
    world_run(w, 100);
    WORLD_CHECK(w, is_running(w, 1), "a limit has passed early");
    until(w, is_quiet, 0);
    coord_kill(&w->coord, 10); /* starts again, before the epoch it had */
    world_run(w, 2000);
    submit(w, (struct world_job){.plan = {.run_ms = 10}});
    end(w);
    return w;
}

static bool are_running(struct world *w, uint64_t jobs)
{
    for (uint64_t id = 1; id <= jobs; id++) {
        const struct world_attempt *a = attempt_live(w, id);
        if (!a || a->state != ATTEMPT_RUNNING)
            return false;
    }
    return true;
}

/* Two launches, one of which dies while there is no coordinator to notice it. The other comes back,
 * and keeps its job. */
static struct world *tell_owner_gone(void)
{
    struct world_config config = world_calm;
    config.client_count = 2;
    struct world *w = begin(config);
    const struct world_job job = {
        .plan = UNTIL_TOLD, .kill_on_disconnect = true, .is_watched = true, .is_owner = true};
    client_submit(&w->clients[0], &job, 0);
    until(w, are_running, 1);
    client_submit(&w->clients[1], &job, 0);
    until(w, are_running, 2);
    world_run(w, 10);
    coord_kill(&w->coord, 100);
    client_leave(&w->clients[0]);
    world_run(w, 2 * LIMIT_OWNER_GRACE_MS);
    WORLD_CHECK(w, !attempt_live(w, 1), "a job runs on without its owner");
    WORLD_CHECK(w, attempt_live(w, 2), "a job was cancelled though its owner came back");
    attempt_exit_rank(attempt_live(w, 2), 0, 0, 0);
    end(w);
    return w;
}

/* --- several nodes --- */

static struct world_config two_nodes(void)
{
    struct world_config config = world_calm;
    config.node_count = 2;
    return config;
}

static bool has_prepared(struct world *w, uint64_t nodes)
{
    return w->books[1].attempts[1].prepared == nodes;
}

static bool is_second_launched(struct world *w, uint64_t attempt)
{
    return attempt_of(&w->nodes[1], 1, (uint32_t)attempt) != NULL;
}

static struct world *tell_two_nodes(void)
{
    struct world *w = begin(two_nodes());
    submit(w, (struct world_job){.plan = UNTIL_TOLD, .nodes = 2, .procs = 2, .max_restarts = 1});
    until(w, is_running, 1);
    attempt_exit_rank(attempt_of(&w->nodes[1], 1, 1), 3, 7, 0);
    until(w, is_running, 2);
    for (uint32_t rank = 0; rank < 4; rank++)
        attempt_exit_rank(attempt_of(&w->nodes[rank / 2], 1, 2), rank, 0, 0);
    end(w);
    return w;
}

static struct world *tell_prepare_lost(void)
{
    struct world *w = begin(two_nodes());
    submit(w, (struct world_job){.plan = {.run_ms = 50}, .nodes = 2});
    until(w, is_committing, 0); /* its Starts wait for the disk */
    node_cut(&w->nodes[1], false, 30);
    end(w);
    return w;
}

static struct world *tell_go_lost(void)
{
    struct world *w = begin(two_nodes());
    submit(w, (struct world_job){.plan = {.run_ms = 50}, .nodes = 2});
    until(w, has_prepared, 3);
    world_run(w, 1); /* the coordinator has heard both, and its Gos are on the way */
    node_cut(&w->nodes[1], false, 30);
    until(w, is_second_launched, 1);
    end(w);
    return w;
}

static struct world *tell_node_dies_prepared(void)
{
    struct world *w = begin(two_nodes());
    submit(w, (struct world_job){.plan = {.run_ms = 50}, .nodes = 2});
    until(w, is_committing, 0);
    node_kill(&w->nodes[1], 2500); /* longer than the coordinator waits for the next acceld */
    end(w);
    return w;
}

static const struct {
    const char *name, *what;
    struct world *(*tell)(void);
} stories[] = {
    {"plain", "a plain job", tell_plain},
    {"restart", "a rank is killed, and the gang starts again", tell_restart},
    {"cancel_starting", "cancelled while starting", tell_cancel_starting},
    {"cancel_running", "cancelled while running: SIGTERM, grace, SIGKILL", tell_cancel_running},
    {"time_limit", "the time limit passes", tell_time_limit},
    {"coordinator_restart", "the coordinator restarts, the job runs on", tell_coordinator_restart},
    {"acceld_restart", "acceld restarts, the job runs on", tell_acceld_restart},
    {"report_resent", "a session breaks before a report is acknowledged", tell_report_resent},
    {"submit_retried", "a submit whose answer is lost is asked again", tell_submit_retried},
    {"two_jobs", "first come, first served", tell_two_jobs},
    {"gpu_auto", "a job that takes GPUs because there are some", tell_gpu_auto},
    {"shim_lost", "the shim is killed", tell_shim_lost},
    {"store_fails", "the disk is full for a while", tell_store_fails},
    {"start_lost", "a Start is lost on the way", tell_start_lost},
    {"two_nodes", "prepared, started; a rank fails, both nodes stop, and start again",
     tell_two_nodes},
    {"prepare_lost", "one of two Starts is lost on the way", tell_prepare_lost},
    {"go_lost", "one of two Gos is lost on the way", tell_go_lost},
    {"node_dies_prepared", "a node goes away before its gang is started", tell_node_dies_prepared},
    {"owner_gone", "an owner dies while the coordinator is down, another comes back",
     tell_owner_gone},
    {"aside", "a job waits for devices that went away", tell_aside},
    {"standstill", "the coordinator stands still for ten seconds", tell_standstill},
    {"clock_jumps", "the wall clock jumps forward and back", tell_clock_jumps},
};

/* --- comparing --- */

static void on_abort(int signo)
{
    (void)signo;
    if (running)
        fwrite(running->trace.text.data, 1, running->trace.text.len, stderr);
}

static char *read_golden(const char *path)
{
    AUTO_STR struct str s = {0};
    char buf[4096];
    size_t len;
    FILE *f = fopen(path, "re");
    str_init(&s);
    if (!f)
        return str_steal(&s);
    while ((len = fread(buf, 1, sizeof(buf), f)) > 0)
        str_add(&s, buf, len);
    fclose(f);
    return str_steal(&s);
}

/* Prints the first line that differs; true if there is none. */
static bool is_same(const char *name, const char *want, const char *got)
{
    int line = 1;
    const char *want_line = want, *got_line = got;
    while (*want && *want == *got) {
        if (*want == '\n') {
            line++;
            want_line = want + 1;
            got_line = got + 1;
        }
        want++;
        got++;
    }
    if (!*want && !*got)
        return true;
    printf("# %s.golden:%d:\n#   it was: %.*s\n#   it is:  %.*s\n"
           "# if that is right: stories --update DIR, and read the diff\n",
           name, line, (int)strcspn(want_line, "\n"), want_line, (int)strcspn(got_line, "\n"),
           got_line);
    return false;
}

static bool write_golden(const char *path, const struct str *text)
{
    FILE *f = fopen(path, "we");
    if (!f)
        return false;
    bool ok = fwrite(text->data, 1, text->len, f) == text->len;
    return fclose(f) == 0 && ok;
}

static bool check_story(size_t i, const char *dir, bool update)
{
    char path[4096];
    struct world *w = stories[i].tell();
    snprintf(path, sizeof(path), "%s/%s.golden", dir, stories[i].name);
    AUTO_FREE char *want = read_golden(path);
    bool ok = update ? write_golden(path, &w->trace.text)
                     : is_same(stories[i].name, want, w->trace.text.data);
    running = NULL;
    world_destroy(w);
    printf("%sok %zu - %s\n", ok ? "" : "not ", i + 1, stories[i].what);
    return ok;
}

static int print_story(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(stories); i++) {
        if (strcmp(stories[i].name, name) != 0)
            continue;
        struct world *w = stories[i].tell();
        fwrite(w->trace.text.data, 1, w->trace.text.len, stdout);
        running = NULL;
        world_destroy(w);
        return 0;
    }
    return 2;
}

int main(int argc, char **argv)
{
    struct sigaction sa = {.sa_handler = on_abort, .sa_flags = (int)SA_RESETHAND};
    bool update = argc == 3 && strcmp(argv[1], "--update") == 0, ok = true;
    sigaction(SIGABRT, &sa, NULL);
    if (argc == 3 && strcmp(argv[1], "--print") == 0)
        return print_story(argv[2]);
    if (argc != 2 && !update) {
        fprintf(stderr, "usage: stories [--update] DIR | --print NAME\n");
        return 2;
    }
    printf("1..%zu\n", ARRAY_LEN(stories));
    for (size_t i = 0; i < ARRAY_LEN(stories); i++)
        ok &= check_story(i, argv[argc - 1], update);
    return ok ? 0 : 1;
}
