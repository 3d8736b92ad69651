/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl wait`: several jobs watched over one connection, some hundred at once, because the
 * coordinator bounds the calls of a connection; the next is begun when one has come. The exit code
 * is that of the first job given that did not end well, whichever ended first.
 */
#include <stdio.h>
#include <unistd.h>

#include "client/accelctl/attach.h"
#include "client/accelctl/result.h"
#include "client/accelctl/waiting.h"

#define WATCHES_MAX 256u /* open at once; well below LIMIT_CALLS_PER_CONNECTION */

struct waiting;
struct waited {
    struct attach attach;
    struct waiting *all;
    bool is_satisfied; /* is counted so */
    bool is_over;      /* its watch has ended and is counted so */
};

struct waiting {
    struct session *session;
    struct waited *jobs;
    size_t count;
    size_t begun;     /* the first so many are, or were, watched */
    size_t satisfied; /* of them */
    size_t open;      /* watches */
    bool for_running;
    bool is_timed_out, is_gone;
    struct accel_error err;
};

static bool is_satisfied(const struct waiting *w, const struct attach *a)
{
    if (a->is_finished || attach_has_ended(a))
        return true;
    return w->for_running && a->job && a->job->state == ACCEL__V1__JOB_STATE__JOB_RUNNING;
}

static bool is_over(const struct waiting *w)
{
    return w->satisfied == w->count;
}

static void on_job_change(void *ctx)
{
    struct waited *j = ctx;
    struct waiting *w = j->all;
    bool is_now = is_satisfied(w, &j->attach);

    if (is_now && !j->is_satisfied)
        w->satisfied++;
    else if (!is_now && j->is_satisfied)
        w->satisfied--; /* it ran, and waits to run again */
    j->is_satisfied = is_now;
    if (j->attach.is_finished && !j->is_over) {
        j->is_over = true;
        w->open--;
    }
}

/* For --for=running: what runs gives its watch to one that was not asked for yet. */
static void stop_running(struct waiting *w)
{
    for (size_t i = 0; i < w->begun; i++) {
        struct waited *j = &w->jobs[i];

        if (j->is_satisfied && !j->is_over) {
            attach_stop(&j->attach);
            on_job_change(j);
        }
    }
}

static void begin_more(struct waiting *w)
{
    if (w->begun < w->count && w->open == WATCHES_MAX && w->satisfied > w->begun - w->open)
        stop_running(w);
    while (w->begun < w->count && w->open < WATCHES_MAX) {
        attach_start(&w->jobs[w->begun++].attach, 0);
        w->open++;
    }
}

static void on_back(void *ctx)
{
    struct waiting *w = ctx;

    for (size_t i = 0; i < w->begun; i++)
        attach_resume(&w->jobs[i].attach);
}

static void on_gone(void *ctx, const struct accel_error *err)
{
    struct waiting *w = ctx;

    w->is_gone = true;
    w->err = *err;
}

static void on_timeout(uv_timer_t *timer)
{
    ((struct waiting *)timer->data)->is_timed_out = true;
}

/* The exit code for one job; tells what went wrong. */
static int job_outcome(struct cli *cli, const struct waiting *w, const struct attach *a,
                       const char *python)
{
    AUTO_STR struct str text = {0};
    int code;

    if (a->is_finished && a->err.code < 0)
        return cli_error(&a->err);
    if (!attach_has_ended(a))
        return EXIT_CODE_OK; /* it runs, and that was asked for */
    code = result_exit_code(attach_report_job(a)->state == ACCEL__V1__JOB_STATE__JOB_ENDED
                                ? attach_report_job(a)
                                : a->job);
    if (code != EXIT_CODE_OK) {
        str_init(&text);
        result_add_report(&text, attach_report_job(a), python, cli->use_color_stderr);
        cli_write_str(STDERR_FILENO, &text);
    }
    return code;
}

static int outcome(struct cli *cli, const struct waiting *w, const char *python)
{
    int first = EXIT_CODE_OK;

    if (w->is_gone)
        return cli_error(&w->err);
    for (size_t i = 0; i < w->count; i++) {
        int code = w->jobs[i].is_satisfied ? job_outcome(cli, w, &w->jobs[i].attach, python)
                                           : EXIT_CODE_TIMEOUT;

        if (first == EXIT_CODE_OK)
            first = code;
    }
    if (!is_over(w))
        cli_say("timed out; what was waited for has not come");
    return first;
}

int wait_for_jobs(struct cli *cli, struct session *session, const uint64_t *ids, size_t count,
                  const char *python)
{
    static const struct session_hooks hooks = {.on_back = on_back, .on_gone = on_gone};
    struct waiting w = {
        .session = session, .count = count, .for_running = cli->opt.v[OPT_FOR].number == 1};
    AUTO_FREE struct waited *jobs = xcalloc(count, sizeof jobs[0]);
    uv_timer_t timer;
    int code;

    w.jobs = jobs;
    session_attach(session, &hooks, &w);
    uv_timer_init(session_loop(session), &timer);
    timer.data = &w;
    if (option_given(&cli->opt, OPT_TIMEOUT))
        uv_timer_start(&timer, on_timeout, cli->opt.v[OPT_TIMEOUT].number, 0);
    for (size_t i = 0; i < count; i++) {
        jobs[i].all = &w;
        jobs[i].attach.session = session;
        jobs[i].attach.job_id = ids[i];
        jobs[i].attach.on_change = on_job_change;
        jobs[i].attach.ctx = &jobs[i];
    }
    while (!is_over(&w) && !w.is_timed_out && !w.is_gone) {
        begin_more(&w);
        uv_run(session_loop(session), UV_RUN_ONCE);
    }
    code = outcome(cli, &w, python);
    session_attach(session, NULL, NULL);
    for (size_t i = 0; i < count; i++)
        attach_done(&jobs[i].attach);
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(session_loop(session), UV_RUN_NOWAIT); /* the handles live here */
    return code;
}

int verb_wait(struct cli *cli)
{
    AUTO_SESSION struct session *session = NULL;
    AUTO_FREE uint64_t *ids = NULL;
    struct accel_error err = {0};
    int r = parse_job_ids(&cli->opt, 1, &ids, &err);

    if (r < 0)
        return cli_error(&err);
    r = session_open(cli, &session, &err);
    if (r < 0)
        return cli_error(&err);
    return wait_for_jobs(cli, session, ids, cli->opt.arg_count, NULL);
}
