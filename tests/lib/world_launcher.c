/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processes of a node and what attempts/JOB.N/ keeps of them: behind launcher_fake, in virtual
 * time. They live on when acceld dies, and the next one adopts them, as launcher_exec and adopt.c
 * do it with real ones.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/world.h"

static void on_rank_timer(void *ctx);
static void on_end(void *ctx);

/* --- plans --- */

void plan_format(const struct world_plan *p, char *text, size_t size)
{
    snprintf(text, size, "run=%d fails=%d rank=%d code=%d term=%d start=%d", p->run_ms, p->fails,
             p->fail_rank, p->fail_code, p->term_ms, p->start);
}

struct world_plan plan_parse(const char *text)
{
    struct world_plan p;
    int n = sscanf(text, "run=%d fails=%d rank=%d code=%d term=%d start=%d", &p.run_ms, &p.fails,
                   &p.fail_rank, &p.fail_code, &p.term_ms, &p.start);
    CHECK(n == 6);
    return p;
}

/* --- attempts --- */

struct world_attempt *attempt_of(struct world_node *n, uint64_t job_id, uint32_t attempt)
{
    struct world_attempt *a;
    TAILQ_FOREACH(a, &n->attempts, link)
    {
        if (a->id.job_id == job_id && a->id.attempt == attempt)
            return a;
    }
    return NULL;
}

struct world_attempt *attempt_live(struct world *w, uint64_t job_id)
{
    struct world_attempt *a;
    for (uint32_t i = 0; i < w->config.node_count; i++) {
        TAILQ_FOREACH(a, &w->nodes[i].attempts, link)
        {
            if (a->id.job_id == job_id && a->state != ATTEMPT_ENDED)
                return a;
        }
    }
    return NULL;
}

static Accel__V1__AttemptSpec *spec_copy(const Accel__V1__AttemptSpec *spec)
{
    size_t len = accel__v1__attempt_spec__get_packed_size(spec);
    AUTO_FREE uint8_t *packed = xcalloc(1, len + 1);
    accel__v1__attempt_spec__pack(spec, packed);
    Accel__V1__AttemptSpec *copy = accel__v1__attempt_spec__unpack(NULL, len, packed);
    CHECK(copy);
    return copy;
}

static void attempt_free(struct world_attempt *a)
{
    struct world *w = a->node->world;
    for (size_t i = 0; i < a->rank_count; i++) {
        world_timer_clear(w, &a->ranks[i].timer);
        world_timer_clear(w, &a->ranks[i].kill);
    }
    world_timer_clear(w, &a->timer);
    TAILQ_REMOVE(&a->node->attempts, a, link);
    accel__v1__attempt_spec__free_unpacked(a->spec, NULL);
    free(a->ranks);
    free(a);
}

void attempts_done(struct world_node *n)
{
    while (!TAILQ_EMPTY(&n->attempts))
        attempt_free(TAILQ_FIRST(&n->attempts));
}

/* --- messages of a shim --- */

struct words { /* what records, hellos and exits are made of; valid until the next use */
    Accel__V1__RankExit exits[64], *list[64];
    size_t count;
};

static void fill_exit(Accel__V1__RankExit *m, const struct world_attempt *a, size_t i)
{
    const struct world_rank *k = &a->ranks[i];
    accel__v1__rank_exit__init(m);
    m->rank = k->rank;
    m->pid = k->pid;
    m->start_ms = k->start_ms;
    m->exited = k->exited;
    m->exit_code = k->code;
    m->signal = k->signal;
    m->stopped = k->stopped;
    m->end_ms = k->end_ms;
    m->end_boot_ns = k->end_ns;
    if (a->is_start_failed && a->plan.start == 1 && i == 0) {
        m->pid = 0;
        m->exited = false;
        m->error = (char *)"no such file";
        m->start_errno = 2;
    }
}

static void fill_words(struct words *words, const struct world_attempt *a)
{
    CHECK(a->rank_count <= ARRAY_LEN(words->exits));
    words->count = a->rank_count;
    for (size_t i = 0; i < a->rank_count; i++) {
        fill_exit(&words->exits[i], a, i);
        words->list[i] = &words->exits[i];
    }
}

static Accel__V1__ExitRecord make_record(struct words *words, const struct world_attempt *a)
{
    Accel__V1__ExitRecord m = ACCEL__V1__EXIT_RECORD__INIT;
    fill_words(words, a);
    m.job_id = a->id.job_id;
    m.attempt = a->id.attempt;
    m.era = a->spec->era;
    m.n_ranks = words->count;
    m.ranks = words->list;
    m.start_failed = a->is_start_failed;
    m.text = (char *)(a->text ? a->text : "");
    m.stop_cause = a->is_shim_lost ? ACCEL__V1__CAUSE__CAUSE_SHIM_LOST : a->stop_cause;
    return m;
}

static void tell_gone(struct world_attempt *a)
{
    struct words words;
    Accel__V1__ExitRecord record = make_record(&words, a);
    node_step(a->node, &(struct agent_event){.type = AGENT_EV_GONE,
                                             .id = a->id,
                                             .record = &record,
                                             .shim_lost = a->is_shim_lost});
}

static void tell_started(struct world_attempt *a)
{
    struct words words;
    Accel__V1__ShimStarted m = ACCEL__V1__SHIM_STARTED__INIT;
    fill_words(&words, a);
    m.n_ranks = words.count;
    m.ranks = words.list;
    node_step(a->node, &(struct agent_event){.type = AGENT_EV_STARTED,
                                             .id = a->id,
                                             .started = &m,
                                             .master_port = a->spec->master_port});
}

/* --- ends --- */

static void begin_end(struct world_attempt *a)
{
    struct world *w = a->node->world;
    for (size_t i = 0; i < a->rank_count; i++)
        if (a->ranks[i].is_alive)
            return;
    world_timer_set(w, &a->timer, world_draw(w, w->config.sweep), on_end, a);
}

static void on_end(void *ctx)
{
    struct world_attempt *a = ctx;
    a->state = ATTEMPT_ENDED;
    tell_gone(a);
}

static void rank_exit(struct world_rank *k, int code, int sig, bool stopped, bool is_told)
{
    struct world_attempt *a = k->attempt;
    struct world *w = a->node->world;
    Accel__V1__RankExit m;
    CHECK(k->is_alive);
    world_timer_clear(w, &k->timer);
    world_timer_clear(w, &k->kill);
    k->is_alive = false;
    k->exited = is_told;
    k->stopped = stopped;
    k->code = code;
    k->signal = sig;
    k->end_ms = world_wall_ms(w);
    k->end_ns = (uint64_t)(w->now_ms + 1000) * 1000000;
    if (sig)
        world_say(w, a->node->name, "rank %u of job %llu.%u dies by signal %d", k->rank,
                  (unsigned long long)a->id.job_id, a->id.attempt, sig);
    else
        world_say(w, a->node->name, "rank %u of job %llu.%u exits with %d", k->rank,
                  (unsigned long long)a->id.job_id, a->id.attempt, code);
    if (!is_told)
        return; /* its shim is dead: nobody reaped it */
    fill_exit(&m, a, (size_t)(k - a->ranks));
    node_step(a->node, &(struct agent_event){.type = AGENT_EV_EXITED, .id = a->id, .exit = &m});
    begin_end(a);
}

static void on_rank_timer(void *ctx)
{
    struct world_rank *k = ctx;
    rank_exit(k, k->next_code, k->next_signal, k->next_stopped, true);
}

static void on_rank_kill(void *ctx)
{
    rank_exit(ctx, 0, SIGKILL, true, true);
}

void attempt_exit_rank(struct world_attempt *a, uint32_t rank, int code, int sig)
{
    for (size_t i = 0; i < a->rank_count; i++)
        if (a->ranks[i].rank == rank && a->ranks[i].is_alive)
            rank_exit(&a->ranks[i], code, sig, a->stop_cause != 0, true);
}

void attempt_kill_shim(struct world_attempt *a)
{
    struct world *w = a->node->world;
    if (a->state == ATTEMPT_ENDED || a->is_shim_lost)
        return;
    world_say(w, a->node->name, "the shim of job %llu.%u is killed",
              (unsigned long long)a->id.job_id, a->id.attempt);
    a->is_shim_lost = true;
    a->state = ATTEMPT_RUNNING;
    for (size_t i = 0; i < a->rank_count; i++)
        if (a->ranks[i].is_alive)
            rank_exit(&a->ranks[i], 0, SIGKILL, true, false);
    world_timer_set(w, &a->timer, world_draw(w, w->config.sweep), on_end, a);
}

/* --- starts --- */

static void plan_rank(struct world_rank *k)
{
    const struct world_attempt *a = k->attempt;
    struct world *w = a->node->world;
    if (a->plan.run_ms < 0)
        return;
    bool fails = (int)a->id.attempt <= a->plan.fails &&
                 k->rank == (uint32_t)a->plan.fail_rank %
                                ((uint32_t)a->rank_count * MAX(a->spec->node_count, 1u));
    k->next_code = fails && a->plan.fail_code > 0 ? a->plan.fail_code : 0;
    k->next_signal = fails && a->plan.fail_code < 0 ? -a->plan.fail_code : 0;
    k->next_stopped = false;
    world_timer_set(w, &k->timer, fails ? a->plan.run_ms / 2 : a->plan.run_ms, on_rank_timer, k);
}

static void stop_ranks(struct world_attempt *a, uint64_t grace_ms)
{
    struct world *w = a->node->world;
    for (size_t i = 0; i < a->rank_count; i++) {
        struct world_rank *k = &a->ranks[i];
        if (!k->is_alive)
            continue;
        int64_t kill_in_ms = (int64_t)MIN(grace_ms, 1000000u);
        if (k->kill.node.pos == 0 || k->kill.node.key > w->now_ms + kill_in_ms)
            world_timer_set(w, &k->kill, kill_in_ms, on_rank_kill, k);
        if (a->plan.term_ms < 0 || grace_ms == 0)
            continue;
        if (k->timer.node.pos == 0 || k->timer.node.key > w->now_ms + a->plan.term_ms) {
            k->next_code = 0;
            k->next_signal = SIGTERM;
            k->next_stopped = true;
            world_timer_set(w, &k->timer, a->plan.term_ms, on_rank_timer, k);
        }
    }
}

static void on_launched(void *ctx)
{
    struct world_attempt *a = ctx;
    struct world_node *n = a->node;
    if (a->plan.start == 2) { /* no shim was made */
        a->is_start_failed = true;
        a->text = "out of processes";
        on_end(a);
        return;
    }
    a->is_start_failed = a->plan.start == 1;
    a->state = ATTEMPT_RUNNING;
    for (size_t i = 0; i < a->rank_count; i++) {
        struct world_rank *k = &a->ranks[i];
        k->is_alive = !a->is_start_failed || i > 0;
        k->pid = k->is_alive ? n->pid_next++ : 0;
        k->start_ms = world_wall_ms(n->world);
        if (k->is_alive && !a->is_start_failed)
            plan_rank(k);
        if (k->is_alive && a->is_start_failed) {
            k->next_signal = SIGKILL;
            k->next_stopped = true;
            world_timer_set(n->world, &k->timer, 1, on_rank_timer, k);
        }
    }
    tell_started(a);
    if (a->is_early_stopped)
        stop_ranks(a, a->stop_grace_ms);
    begin_end(a);
}

struct late { /* the answer to a launch of what is there already */
    struct world_timer timer;
    struct world_node *node;
    struct attempt_id id;
    uint64_t incarnation;
};

static void on_late(void *ctx)
{
    struct late *late = ctx;
    Accel__V1__ExitRecord record = ACCEL__V1__EXIT_RECORD__INIT;
    record.text = (char *)"its directory exists";
    if (late->node->incarnation == late->incarnation)
        node_step(late->node,
                  &(struct agent_event){
                      .type = AGENT_EV_GONE, .id = late->id, .record = &record, .exists = true});
    free(late);
}

/* --- the launcher's calls --- */

static void say_launch(const struct world_attempt *a)
{
    AUTO_STR struct str s = {0};
    str_init(&s);
    for (size_t i = 0; i < a->rank_count; i++) {
        const Accel__V1__RankSpec *r = a->spec->ranks[i];
        str_addf(&s, "%srank %u on", i ? ", " : "", r->rank);
        for (size_t d = 0; d < r->n_devices; d++)
            str_addf(&s, " %s", r->devices[d]);
    }
    world_say(a->node->world, a->node->name, "forks the shim of job %llu.%u: %s",
              (unsigned long long)a->id.job_id, a->id.attempt, s.data);
}

static void on_launch(void *ctx, struct launcher *l, const Accel__V1__AttemptSpec *spec)
{
    struct world_node *n = ctx;
    struct world *w = n->world;
    if (attempt_of(n, spec->job_id, spec->attempt)) {
        struct late *late = xcalloc(1, sizeof(*late));
        late->node = n;
        late->id = (struct attempt_id){spec->job_id, spec->attempt};
        late->incarnation = n->incarnation;
        world_timer_set(w, &late->timer, 0, on_late, late);
        return;
    }
    struct world_attempt *a = xcalloc(1, sizeof(*a));
    a->node = n;
    a->id = (struct attempt_id){spec->job_id, spec->attempt};
    a->spec = spec_copy(spec);
    a->rank_count = spec->n_ranks;
    a->ranks = xcalloc(a->rank_count, sizeof(*a->ranks));
    for (size_t i = 0; i < a->rank_count; i++) {
        a->ranks[i].attempt = a;
        a->ranks[i].rank = spec->ranks[i]->rank;
    }
    CHECK(spec->n_argv == 2);
    AUTO_FREE char *text = xcalloc(1, spec->argv[1].len + 1);
    memcpy(text, spec->argv[1].data, spec->argv[1].len);
    a->plan = plan_parse(text);
    TAILQ_INSERT_TAIL(&n->attempts, a, link);
    say_launch(a);
    world_timer_set(w, &a->timer, world_draw(w, w->config.launch), on_launched, a);
}

static void on_stop(void *ctx, struct launcher *l, struct attempt_id id, uint64_t grace_ms,
                    uint32_t cause)
{
    struct world_node *n = ctx;
    struct world_attempt *a = attempt_of(n, id.job_id, id.attempt);
    if (!a || a->state == ATTEMPT_ENDED || a->is_shim_lost)
        return;
    /* Before there is a shim, nobody may be there to hear it. */
    if (a->state == ATTEMPT_LAUNCHING && prng_chance(&n->world->prng, 50))
        return;
    bool any = a->state == ATTEMPT_LAUNCHING;
    for (size_t i = 0; i < a->rank_count; i++)
        any |= a->ranks[i].is_alive;
    if (!any)
        return;
    if (!a->stop_cause)
        a->stop_cause = cause;
    if (a->state == ATTEMPT_RUNNING) {
        stop_ranks(a, grace_ms);
        return;
    }
    a->stop_grace_ms = a->is_early_stopped ? MIN(a->stop_grace_ms, grace_ms) : grace_ms;
    a->is_early_stopped = true;
}

static void on_acked(void *ctx, struct launcher *l, struct attempt_id id)
{
    struct world_node *n = ctx;
    struct world_attempt *a = attempt_of(n, id.job_id, id.attempt);
    WORLD_CHECK(n->world, !a || a->state == ATTEMPT_ENDED, "job %llu.%u lives, and is acked",
                (unsigned long long)id.job_id, id.attempt);
    if (a)
        a->is_acked = true;
}

static void on_forget(void *ctx, struct launcher *l, uint64_t job_id)
{
    struct world_node *n = ctx;
    struct world_attempt *a, *next;
    for (a = TAILQ_FIRST(&n->attempts); a; a = next) {
        next = TAILQ_NEXT(a, link);
        if (a->id.job_id == job_id && a->state == ATTEMPT_ENDED)
            attempt_free(a);
    }
}

const struct launcher_fake_ops world_launcher_ops = {
    .on_launch = on_launch, .on_stop = on_stop, .on_acked = on_acked, .on_forget = on_forget};

/* --- adoption --- */

static void adopt(struct world_attempt *a)
{
    struct words words, more;
    Accel__V1__ShimHello hello = ACCEL__V1__SHIM_HELLO__INIT;
    if (a->is_shim_lost && a->state != ATTEMPT_ENDED) { /* swept while adopting */
        world_timer_clear(a->node->world, &a->timer);
        a->state = ATTEMPT_ENDED;
    }
    Accel__V1__ExitRecord record = make_record(&more, a);
    fill_words(&words, a);
    hello.job_id = a->id.job_id;
    hello.attempt = a->id.attempt;
    hello.era = a->spec->era;
    hello.n_ranks = words.count;
    hello.ranks = words.list;
    hello.started = a->state == ATTEMPT_RUNNING && !a->is_start_failed;
    if (a->state == ATTEMPT_LAUNCHING)
        hello.n_ranks = 0;
    struct launcher_found found = {
        .id = a->id,
        .era = a->spec->era,
        .is_live = a->state != ATTEMPT_ENDED,
        .spec = a->spec,
        .hello = a->state != ATTEMPT_ENDED ? &hello : NULL,
        .record = a->state == ATTEMPT_ENDED ? &record : NULL,
        .shim_lost = a->is_shim_lost,
    };
    node_step(a->node, &(struct agent_event){.type = AGENT_EV_FOUND, .id = a->id, .found = &found});
}

void attempts_adopt(struct world_node *n)
{
    struct world_attempt *a;
    TAILQ_FOREACH(a, &n->attempts, link)
    {
        if (!a->is_acked)
            adopt(a);
    }
    TAILQ_FOREACH(a, &n->attempts, link)
    {
        if (a->state == ATTEMPT_ENDED)
            node_step(
                n, &(struct agent_event){.type = AGENT_EV_KEPT, .id = a->id, .era = a->spec->era});
    }
}
