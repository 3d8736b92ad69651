/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl launch`: submit, stay attached, and end as the job ends. What is sent before the first
 * line of output can appear is two round trips: Submit; then Watch and Logs.Read together. Signals
 * of the terminal become calls; a connection that breaks is brought back by session.c and
 * everything goes on where it was.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/accelctl/attach.h"
#include "client/accelctl/input.h"
#include "client/accelctl/result.h"
#include "client/accelctl/submit.h"
#include "common/clock.h"

#define INTERRUPT_AGAIN_MS  2000 /* a second Ctrl-C within this cancels */
#define WAIT_SHOWN_AFTER_MS 700  /* a job that waits longer is explained on a terminal */

struct launch {
    struct cli *cli;
    struct session *session;
    struct submission submission;
    struct attach attach;
    struct input *input;
    uv_signal_t signals[3];
    uv_timer_t status;
    struct rpc_call *submit, *cancel;
    uint64_t job_id; /* 0: not known yet */
    int64_t interrupted_ms;
    unsigned interrupts;
    bool wants_cancel, wants_kill; /* until acknowledged */
    uint8_t cancel_id[LIMIT_REQUEST_ID_BYTES];
    bool is_over;
    bool tells_status;  /* on stderr: a terminal, or --verbose */
    bool shows_waiting; /* the job has waited long enough to say why */
    uint32_t told_attempt;
    char told_reason[LIMIT_REASON_BYTES + 1];
    int exit_code;
    int no_agent_code; /* not 0: the job was cancelled because no node can be started */
};

static void launch_over(struct launch *l, int exit_code)
{
    if (!l->is_over)
        l->exit_code = exit_code;
    l->is_over = true;
}

/* --- cancelling and signals --- */

static void send_cancel(struct launch *l);

static void on_cancel_end(void *ctx, int code, const char *text)
{
    struct launch *l = ctx;

    l->cancel = NULL;
    if (code == ACCEL_ECLOSED)
        return; /* sent again with the new connection */
    l->wants_cancel = false;
    if (code < 0) {
        struct accel_error err = {0};

        error_set(&err, code, "%s", text);
        cli_error(&err);
    }
    if (l->wants_kill && code == 0) { /* asked for meanwhile */
        l->wants_cancel = true;
        request_id_make(l->cancel_id);
        send_cancel(l);
        l->wants_kill = false;
    }
}

static void send_cancel(struct launch *l)
{
    static const struct rpc_call_handlers handlers = {NULL, on_cancel_end};
    Accel__V1__CancelRequest req = ACCEL__V1__CANCEL_REQUEST__INIT;
    struct rpc_channel *ch = session_channel(l->session);

    if (!ch || l->job_id == 0 || l->cancel || !l->wants_cancel)
        return;
    req.request_id.data = l->cancel_id;
    req.request_id.len = sizeof l->cancel_id;
    req.job_ids = &l->job_id;
    req.n_job_ids = 1;
    req.kill = l->wants_kill;
    l->cancel = rpc_channel_call(ch, "/accel.v1.Jobs/Cancel", &req.base,
                                 &accel__v1__cancel_reply__descriptor, &handlers, l);
}

static void cancel_job(struct launch *l, bool kill)
{
    if (l->wants_cancel && l->wants_kill >= kill)
        return;
    l->wants_cancel = true;
    l->wants_kill = kill;
    request_id_make(l->cancel_id);
    send_cancel(l);
}

static void on_ignored_end(void *ctx, int code, const char *text) {}

static void send_signal(struct launch *l, int signo)
{
    static const struct rpc_call_handlers handlers = {NULL, on_ignored_end};
    Accel__V1__SignalRequest req = ACCEL__V1__SIGNAL_REQUEST__INIT;
    struct rpc_channel *ch = session_channel(l->session);

    if (!ch)
        return;
    req.job_id = l->job_id;
    req.signo = signo;
    rpc_channel_call(ch, "/accel.v1.Jobs/Signal", &req.base, &accel__v1__signal_reply__descriptor,
                     &handlers, l);
}

static void on_interrupt(struct launch *l)
{
    int64_t now = clock_mono_ms();
    const Accel__V1__Job *job = l->attach.job;
    bool is_running = job && (job->state == ACCEL__V1__JOB_STATE__JOB_RUNNING ||
                              job->state == ACCEL__V1__JOB_STATE__JOB_STOPPING);

    if (l->interrupts > 0 && now - l->interrupted_ms > INTERRUPT_AGAIN_MS)
        l->interrupts = 0;
    l->interrupted_ms = now;
    l->interrupts++;
    if (l->interrupts == 1 && is_running) {
        send_signal(l, SIGINT);
        if (l->tells_status)
            cli_say("interrupt passed on; once more within 2 s cancels job %llu",
                    (unsigned long long)l->job_id);
        return;
    }
    if (l->tells_status)
        cli_say(l->interrupts > 2 ? "killing the job" : "cancelling the job");
    cancel_job(l, l->interrupts > 2);
}

static void on_hangup(struct launch *l)
{
    if (option_given(&l->cli->opt, OPT_KILL_ON_DISCONNECT)) {
        cancel_job(l, false);
        return;
    }
    if (l->job_id != 0)
        cli_say_goes_on(l->job_id);
    launch_over(l, EXIT_CODE_SIGNAL + SIGHUP);
}

static void on_signal(uv_signal_t *handle, int signo)
{
    struct launch *l = handle->data;

    if (signo == SIGINT)
        on_interrupt(l);
    else if (signo == SIGHUP)
        on_hangup(l);
    else
        cancel_job(l, false);
}

/* --- what people are told while it goes --- */

static void tell_status(struct launch *l)
{
    const Accel__V1__Job *job = l->attach.job;

    if (!l->tells_status || !job)
        return;
    if (job->state == ACCEL__V1__JOB_STATE__JOB_PENDING && l->shows_waiting && job->reason &&
        strncmp(l->told_reason, job->reason, LIMIT_REASON_BYTES) != 0) {
        str_copy(l->told_reason, sizeof l->told_reason, job->reason);
        cli_say("job %llu %s%s", (unsigned long long)job->id,
                strncmp(job->reason, "waits ", 6) == 0 ? "" : "waits: ", job->reason);
    }
    if (job->state == ACCEL__V1__JOB_STATE__JOB_RUNNING && l->told_attempt < job->attempt) {
        l->told_attempt = job->attempt;
        if (l->cli->is_verbose || l->shows_waiting)
            cli_say("job %llu runs: attempt %u, %u process%s on %s", (unsigned long long)job->id,
                    job->attempt, job->procs, job->procs == 1 ? "" : "es",
                    job->n_where > 0 ? job->where[0] : "its node");
    }
}

static void on_status_timer(uv_timer_t *timer)
{
    struct launch *l = timer->data;

    l->shows_waiting = true;
    tell_status(l);
}

/* --- the life of it --- */

static void on_attach_change(void *ctx)
{
    struct launch *l = ctx;

    tell_status(l);
    if (l->input && l->attach.job && l->attach.job->state == ACCEL__V1__JOB_STATE__JOB_RUNNING)
        input_go(l->input);
    if (l->attach.is_finished)
        l->is_over = true;
}

static void begin_attached(struct launch *l)
{
    static const uint32_t main_rank = 0;
    struct attach *a = &l->attach;
    bool is_labelled = option_given(&l->cli->opt, OPT_LABEL);

    if (!option_given(&l->cli->opt, OPT_KILL_ON_DISCONNECT))
        cli_leaves_job(l->job_id);
    a->session = l->session;
    a->job_id = l->job_id;
    a->is_owner = true;
    a->has_follow = true;
    a->tells_restarts = true;
    a->on_change = on_attach_change;
    a->ctx = l;
    a->follow.want_stdout = a->follow.want_stderr = true;
    a->follow.is_waiting = true;
    a->follow.is_labelled = is_labelled;
    if (!is_labelled) {
        a->follow.ranks = &main_rank;
        a->follow.rank_count = 1;
    }
    attach_start(a, 1);
    if (l->submission.spec.want_stdin)
        l->input = input_create(l->session, l->job_id);
    if (l->cli->is_verbose)
        cli_say("job %llu submitted", (unsigned long long)l->job_id);
    send_cancel(l); /* Ctrl-C may have come already */
}

static void on_submit_message(void *ctx, const ProtobufCMessage *msg)
{
    struct launch *l = ctx;

    l->job_id = ((const Accel__V1__SubmitReply *)msg)->job_id;
}

static void on_submit_end(void *ctx, int code, const char *text)
{
    struct launch *l = ctx;

    l->submit = NULL;
    if (code == ACCEL_ECLOSED)
        return; /* sent again, with the same id, over the new connection */
    if (code < 0)
        launch_over(l,
                    submission_refused(code, text[0] != '\0' ? text : accel_error_sentence(code)));
    else
        begin_attached(l);
}

static void submit(struct launch *l)
{
    static const struct rpc_call_handlers handlers = {on_submit_message, on_submit_end};
    struct rpc_channel *ch = session_channel(l->session);

    if (!ch)
        return;
    l->submit = rpc_channel_call(ch, "/accel.v1.Jobs/Submit", &l->submission.req.base,
                                 &accel__v1__submit_reply__descriptor, &handlers, l);
}

static void on_back(void *ctx)
{
    struct launch *l = ctx;

    if (l->cli->is_verbose)
        cli_say("connected to the coordinator again");
    if (l->job_id == 0) {
        submit(l);
    } else {
        attach_resume(&l->attach);
        if (l->input)
            input_resume(l->input);
        send_cancel(l);
    }
    session_check_agent(l->session);
}

static void on_gone(void *ctx, const struct accel_error *err)
{
    struct launch *l = ctx;

    cli_error(err);
    if (l->job_id != 0)
        cli_say_goes_on(l->job_id);
    launch_over(l, EXIT_CODE_UNREACHABLE);
}

/* What has begun is left to go on; what waits would wait for ever. */
static void on_no_agent(void *ctx, int exit_code)
{
    struct launch *l = ctx;
    const Accel__V1__Job *job = l->attach.job;

    if (job && job->state != ACCEL__V1__JOB_STATE__JOB_PENDING)
        return;
    l->no_agent_code = exit_code;
    cancel_job(l, false);
}

static void catch_signals(struct launch *l)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};

    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        struct sigaction old;

        uv_signal_init(session_loop(l->session), &l->signals[i]);
        l->signals[i].data = l;
        uv_unref((uv_handle_t *)&l->signals[i]);
        /* nohup: what was ignored before stays ignored */
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN)
            continue;
        uv_signal_start(&l->signals[i], on_signal, numbers[i]);
    }
    uv_timer_init(session_loop(l->session), &l->status);
    l->status.data = l;
    uv_timer_start(&l->status, on_status_timer, WAIT_SHOWN_AFTER_MS, 0);
}

static void launch_done(struct launch *l)
{
    session_attach(l->session, NULL, NULL);
    if (l->submit)
        rpc_call_cancel(STEAL_PTR(l->submit));
    if (l->cancel)
        rpc_call_cancel(STEAL_PTR(l->cancel));
    attach_done(&l->attach);
    input_destroy(l->input);
    for (size_t i = 0; i < ARRAY_LEN(l->signals); i++)
        uv_close((uv_handle_t *)&l->signals[i], NULL);
    uv_close((uv_handle_t *)&l->status, NULL);
    session_close(l->session);
}

/* The job has ended and its output was shown. */
static int outcome(struct launch *l)
{
    const struct attach *a = &l->attach;
    const Accel__V1__Job *job;
    AUTO_STR struct str text = {0};
    int code;

    if (!a->is_finished)
        return l->exit_code;
    if (a->err.code < 0) {
        cli_error(&a->err);
        return exit_code_not_run();
    }
    job = attach_report_job(a);
    code = result_exit_code(a->job);
    if (a->job->n_attempts > 0)
        job = a->job;
    if (a->log_err.code < 0)
        cli_say("the output of job %llu could not be read to its end: %.*s; accelctl logs %llu has "
                "what is kept",
                (unsigned long long)l->job_id, (int)strcspn(a->log_err.text, "\n"), a->log_err.text,
                (unsigned long long)l->job_id);
    str_init(&text);
    if (code != EXIT_CODE_OK)
        result_add_report(&text, job, l->submission.python, l->cli->use_color_stderr);
    if (!strstr(text.data, STR_OUTPUT_LOST))
        result_add_loss(&text, job);
    if (text.len > 0)
        cli_write_str(STDERR_FILENO, &text);
    return l->no_agent_code ? l->no_agent_code : code;
}

int verb_launch(struct cli *cli)
{
    static const struct session_hooks hooks = {on_back, on_gone, on_no_agent};
    AUTO_FREE struct launch *l = xcalloc(1, sizeof *l);
    struct accel_error err = {0};
    int code = submission_prepare(cli, &l->submission);

    l->cli = cli;
    l->tells_status = cli->is_verbose || isatty(STDERR_FILENO);
    if (code == 0 && session_open(cli, &l->session, &err) < 0)
        code = cli_error(&err);
    if (code == 0) {
        code = submission_upload(&l->submission, l->session);
        if (code != 0)
            session_close(l->session);
    }
    if (code == 0) {
        session_attach(l->session, &hooks, l);
        catch_signals(l);
        submit(l);
        session_check_agent(l->session);
        while (!l->is_over)
            uv_run(session_loop(l->session), UV_RUN_ONCE);
        code = outcome(l);
        launch_done(l);
    }
    submission_done(&l->submission);
    return code;
}
