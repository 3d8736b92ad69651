/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl wait`: several jobs watched at once over one connection. The exit code is that of the
 * first job given that did not end well, whichever ended first.
 */
#include <stdio.h>
#include <unistd.h>

#include "client/accelctl/attach.h"
#include "client/accelctl/result.h"
#include "client/accelctl/waiting.h"

struct waiting {
    struct session *session;
    struct attach *jobs;
    size_t count;
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
    for (size_t i = 0; i < w->count; i++) {
        if (!is_satisfied(w, &w->jobs[i]))
            return false;
    }
    return true;
}

static void on_job_change(void *ctx) {}

static void on_back(void *ctx)
{
    struct waiting *w = ctx;

    for (size_t i = 0; i < w->count; i++)
        attach_resume(&w->jobs[i]);
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
        int code = is_satisfied(w, &w->jobs[i]) ? job_outcome(cli, w, &w->jobs[i], python)
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
    static const struct session_hooks hooks = {on_back, on_gone};
    struct waiting w = {
        .session = session, .count = count, .for_running = cli->opt.v[OPT_FOR].number == 1};
    AUTO_FREE struct attach *jobs = xcalloc(count, sizeof jobs[0]);
    uv_timer_t timer;
    int code;

    w.jobs = jobs;
    session_attach(session, &hooks, &w);
    uv_timer_init(session_loop(session), &timer);
    timer.data = &w;
    if (option_given(&cli->opt, OPT_TIMEOUT))
        uv_timer_start(&timer, on_timeout, cli->opt.v[OPT_TIMEOUT].number, 0);
    for (size_t i = 0; i < count; i++) {
        jobs[i].session = session;
        jobs[i].job_id = ids[i];
        jobs[i].on_change = on_job_change;
        jobs[i].ctx = &w;
        attach_start(&jobs[i], 0);
    }
    while (!is_over(&w) && !w.is_timed_out && !w.is_gone)
        uv_run(session_loop(session), UV_RUN_ONCE);
    code = outcome(cli, &w, python);
    session_attach(session, NULL, NULL);
    for (size_t i = 0; i < count; i++)
        attach_done(&jobs[i]);
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
