/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl logs`: the output of a job that may be over, run or not have begun. The reading itself
 * is follow.h, and with -f attach.h takes it through later attempts and new connections.
 */
#include <string.h>
#include <unistd.h>

#include "client/accelctl/attach.h"
#include "client/accelctl/result.h"

struct logs {
    struct cli *cli;
    struct session *session;
    struct attach attach;
    uint32_t *ranks;
    size_t rank_count;
    uint32_t attempt, procs;
    bool is_over;
    bool is_gone;
    struct accel_error err;
};

static void on_job(void *ctx, const ProtobufCMessage *msg)
{
    struct logs *l = ctx;
    const Accel__V1__Job *job = ((const Accel__V1__GetReply *)msg)->job;

    if (!job)
        return;
    l->attempt = job->attempt;
    l->procs = job->procs;
    for (size_t i = 0; i < job->n_attempts; i++)
        l->procs = MAX(l->procs, (uint32_t)job->attempts[i]->n_ranks);
}

static void on_attach_change(void *ctx)
{
    struct logs *l = ctx;

    l->is_over = l->attach.is_finished;
}

static void on_read(void *ctx)
{
    ((struct logs *)ctx)->is_over = true;
}

static void on_back(void *ctx)
{
    struct logs *l = ctx;

    if (l->attach.session)
        attach_resume(&l->attach);
    else
        follow_resume(&l->attach.follow); /* read_once: nothing is watched */
}

static void on_gone(void *ctx, const struct accel_error *err)
{
    struct logs *l = ctx;

    l->is_over = l->is_gone = true;
    l->err = *err;
}

static void set_up_follow(struct logs *l)
{
    const struct options *o = &l->cli->opt;
    struct follow *f = &l->attach.follow;
    size_t shown = l->ranks ? l->rank_count : l->procs;

    f->session = l->session;
    f->job_id = l->attach.job_id;
    f->ranks = l->ranks;
    f->rank_count = l->rank_count;
    f->want_stdout = !option_given(o, OPT_STDERR) || option_given(o, OPT_STDOUT);
    f->want_stderr = !option_given(o, OPT_STDOUT) || option_given(o, OPT_STDERR);
    f->is_labelled = shown > 1 || option_given(o, OPT_LABEL);
    f->tail_lines = o->v[OPT_LINES].number;
    f->is_waiting = option_given(o, OPT_FOLLOW);
}

/* What there is, and the end. */
static void read_once(struct logs *l)
{
    struct follow *f = &l->attach.follow;

    f->on_change = on_read;
    f->ctx = l;
    follow_begin(f, l->attempt, l->procs);
}

static int check_ranks(const struct logs *l, struct accel_error *err)
{
    for (size_t i = 0; i < l->rank_count && l->procs > 0; i++) {
        if (l->ranks[i] >= l->procs)
            return error_set(
                err, ACCEL_ENOENT,
                "job %llu has no rank %u\nwhy: it has %u, counted from 0\ntry: accelctl logs %llu",
                (unsigned long long)l->attach.job_id, l->ranks[i], l->procs,
                (unsigned long long)l->attach.job_id);
    }
    return 0;
}

static int choose_attempt(struct logs *l, struct accel_error *err)
{
    const struct opt_value *wanted = &l->cli->opt.v[OPT_ATTEMPT];

    if (wanted->count == 0)
        return 0;
    if (wanted->number > l->attempt && !option_given(&l->cli->opt, OPT_FOLLOW))
        return error_set(
            err, ACCEL_ENOENT,
            "job %llu has no attempt %llu\nwhy: it has had %u\ntry: accelctl describe %llu",
            (unsigned long long)l->attach.job_id, (unsigned long long)wanted->number, l->attempt,
            (unsigned long long)l->attach.job_id);
    l->attempt = (uint32_t)wanted->number;
    return 0;
}

static int run(struct logs *l, struct accel_error *err)
{
    static const struct session_hooks hooks = {.on_back = on_back, .on_gone = on_gone};
    const struct options *o = &l->cli->opt;
    Accel__V1__GetRequest req = ACCEL__V1__GET_REQUEST__INIT;
    struct attach *a = &l->attach;
    int r;

    session_check_agent(l->session);
    req.job_id = a->job_id;
    r = session_call(l->session, "/accel.v1.Jobs/Get", &req.base, &accel__v1__get_reply__descriptor,
                     on_job, l, err);
    if (r == 0)
        r = choose_attempt(l, err);
    if (r == 0)
        r = check_ranks(l, err);
    if (r < 0)
        return r;
    session_settle(l->session);
    if (option_given(o, OPT_LINES) && o->v[OPT_LINES].number == 0 && !option_given(o, OPT_FOLLOW))
        return 0;
    set_up_follow(l);
    session_attach(l->session, &hooks, l);
    session_end_with_reader(l->session);
    if (option_given(o, OPT_FOLLOW) && !option_given(o, OPT_ATTEMPT)) {
        a->session = l->session;
        a->has_follow = true;
        a->tells_restarts = true;
        a->on_change = on_attach_change;
        a->ctx = l;
        attach_start(a, 0);
        if (l->attempt > 0)
            follow_begin(&a->follow, l->attempt, l->procs);
    } else if (l->attempt > 0) {
        read_once(l);
    } else {
        return 0;
    }
    while (!l->is_over)
        uv_run(session_loop(l->session), UV_RUN_ONCE);
    if (l->is_gone)
        *err = l->err;
    else if (a->err.code < 0)
        *err = a->err;
    else if (a->follow.is_broken)
        *err = a->follow.err;
    return err->code;
}

int verb_logs(struct cli *cli)
{
    AUTO_FREE uint64_t *ids = NULL;
    AUTO_FREE struct logs *l = xcalloc(1, sizeof *l);
    struct accel_error err = {0};
    int r = parse_job_ids(&cli->opt, 1, &ids, &err);

    l->cli = cli;
    if (r == 0 && cli->opt.arg_count > 1)
        r = error_set(&err, ACCEL_EINVAL,
                      "too many arguments\nwhy: logs shows one job\ntry: accelctl logs %s",
                      cli->opt.args[0]);
    if (r == 0 && option_given(&cli->opt, OPT_RANK))
        r = parse_ranks(cli->opt.v[OPT_RANK].text, &l->ranks, &l->rank_count, &err);
    if (r == 0)
        r = session_open(cli, &l->session, &err);
    if (r == 0) {
        l->attach.job_id = ids[0];
        r = run(l, &err);
        session_attach(l->session, NULL, NULL);
        attach_done(&l->attach);
    }
    session_close(l->session);
    free(l->ranks);
    return r < 0 ? cli_error(&err) : EXIT_CODE_OK;
}
