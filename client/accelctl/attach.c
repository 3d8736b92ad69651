/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A job watched until it ends. Joins two streams, the job's states and its output, which come in no
 * fixed order: an attempt is announced and read only after the one before was read to its end, and
 * the end is told only when both are through. launch.c, logs.c and wait.c sit above it.
 */
#include "client/accelctl/attach.h"

#include <string.h>

#include "client/accelctl/result.h"
#include "common/codec.h"

#define LOG_RETRY_FIRST_MS                                                                         \
    200 /* after a failed read; doubling; a change of the job retries at once */
#define LOG_RETRY_LONGEST_MS 5000
/* Output of an attempt that has a successor is given up after this pause, the fourth: its node may
 * be gone for good, and the successor has output too. */
#define LOG_RETRY_PAST_MS 1600
/* The job has ended and no answer comes for 10 s: the rest of its output is lost or away. In
 * ticks, because a timer also runs out while our reader holds us up or we are stopped: one tick of
 * that at most counts, and then the loop looks whether answers lie there. */
#define LOG_END_TICK_MS 1000
#define LOG_END_TICKS   10

static void progress(struct attach *a);
static void arm(struct attach *a, uint64_t ms);

bool attach_has_ended(const struct attach *a)
{
    return a->job && a->job->state == ACCEL__V1__JOB_STATE__JOB_ENDED;
}

const Accel__V1__Job *attach_report_job(const struct attach *a)
{
    return a->job && a->job->n_attempts > 0 ? a->job : a->detail ? a->detail : a->job;
}

static Accel__V1__Job *copy_job(const Accel__V1__Job *job)
{
    size_t len = accel__v1__job__get_packed_size(job);
    AUTO_FREE uint8_t *packed = xcalloc(1, len + 1);

    accel__v1__job__pack(job, packed);
    return accel__v1__job__unpack(&codec_memory, len, packed);
}

static void drop_job(Accel__V1__Job **job)
{
    if (*job)
        accel__v1__job__free_unpacked(STEAL_PTR(*job), NULL);
}

static void finish(struct attach *a, int code, const char *text)
{
    if (a->is_finished)
        return;
    a->is_finished = true;
    if (code < 0)
        error_set(&a->err, code, "%s", text);
    if (a->has_timer)
        uv_timer_stop(&a->timer);
}

static void on_timer(uv_timer_t *timer)
{
    struct attach *a = timer->data;

    if (a->is_finished)
        return;
    if (attach_has_ended(a)) {
        /* without a connection nothing can come; session.c says when to give up */
        a->silent_ticks += session_channel(a->session) != NULL;
        if (a->silent_ticks < LOG_END_TICKS) {
            arm(a, LOG_END_TICK_MS);
            return;
        }
        a->log_err = a->follow.err;
        if (a->log_err.code == 0)
            error_set(&a->log_err, ACCEL_ETIME, "no answer for 10 s");
        finish(a, 0, "");
    } else {
        follow_resume(&a->follow);
    }
    a->on_change(a->ctx);
}

static void arm(struct attach *a, uint64_t ms)
{
    if (!a->has_timer) {
        uv_timer_init(session_loop(a->session), &a->timer);
        a->timer.data = a;
        a->has_timer = true;
    }
    uv_timer_start(&a->timer, on_timer, ms, 0);
}

/* What the end of attempt `number` was, on stderr, before the next one's output. */
static void tell_restart(struct attach *a, uint32_t number)
{
    AUTO_STR struct str text = {0};
    const Accel__V1__Attempt *ended = NULL;

    if (!a->tells_restarts)
        return;
    if (a->job)
        ended = result_find_attempt(a->job, number);
    if (!ended && a->detail)
        ended = result_find_attempt(a->detail, number);
    str_init(&text);
    str_addf(&text, "accelctl: attempt %u ended", number);
    if (ended) {
        str_adds(&text, ": ");
        result_add_attempt_end(&text, ended);
    }
    str_addf(&text, "; starting attempt %u\n", number + 1);
    cli_write_str(2, &text);
}

/* Does the job have, or will it surely get, attempt `number`? */
static bool is_attempt_known(const struct attach *a, uint32_t number)
{
    return a->job && a->job->attempt >= number;
}

/* A past attempt that cannot be read to its end does not hold up those after it. */
static void pass_over_lost(struct attach *a)
{
    struct follow *f = &a->follow;
    const char *why = strchr(f->err.text, '\n');

    if (!f->is_broken || !is_attempt_known(a, f->attempt + 1))
        return;
    bool is_known = f->err.code == ACCEL_ENOENT || f->is_missing;
    if (!is_known && a->retry_ms < LOG_RETRY_PAST_MS && !attach_has_ended(a))
        return;
    follow_skip(f);
    cli_say("the rest of the output of attempt %u cannot be read: %.*s", f->attempt,
            why ? (int)(why - f->err.text) : (int)strlen(f->err.text), f->err.text);
}

static void progress_output(struct attach *a)
{
    struct follow *f = &a->follow;

    pass_over_lost(a);
    if (f->is_broken && !attach_has_ended(a)) {
        a->retry_ms =
            a->retry_ms ? MIN(a->retry_ms * 2, (uint64_t)LOG_RETRY_LONGEST_MS) : LOG_RETRY_FIRST_MS;
        arm(a, a->retry_ms);
        return;
    }
    a->retry_ms = 0;
    if (f->attempt == 0 && is_attempt_known(a, 1) && (f->ranks || a->job->procs > 0)) {
        follow_begin(f, 1, a->job->procs);
    } else if (f->attempt > 0 && f->is_done && is_attempt_known(a, f->attempt + 1)) {
        tell_restart(a, f->attempt);
        follow_begin(f, f->attempt + 1, a->job->procs);
    }
}

static bool is_output_through(const struct attach *a)
{
    const struct follow *f = &a->follow;

    if (!a->has_follow || a->job->attempt == 0)
        return true;
    return f->is_done && f->attempt >= a->job->attempt;
}

/* Every event ends here. */
static void progress(struct attach *a)
{
    if (a->is_finished || !a->job)
        return;
    if (a->has_follow)
        progress_output(a);
    if (attach_has_ended(a)) {
        if (is_output_through(a)) {
            finish(a, 0, "");
        } else if (a->follow.is_broken) {
            a->log_err = a->follow.err;
            finish(a, 0, "");
        } else {
            a->silent_ticks = 0;
            arm(a, LOG_END_TICK_MS);
        }
    }
}

static void on_follow_change(void *ctx)
{
    struct attach *a = ctx;

    progress(a);
    if (!a->is_finished)
        return;
    a->on_change(a->ctx);
}

/* However long the reader of our output takes, answers that come are waited for. */
static void on_follow_answer(void *ctx)
{
    struct attach *a = ctx;

    a->retry_ms = 0;
    a->silent_ticks = 0;
}

static void on_watch_message(void *ctx, const ProtobufCMessage *msg)
{
    struct attach *a = ctx;
    const Accel__V1__WatchReply *reply = (const Accel__V1__WatchReply *)msg;

    if (!reply->job)
        return;
    if (a->job && a->job->n_attempts > 0) {
        drop_job(&a->detail);
        a->detail = STEAL_PTR(a->job);
    }
    drop_job(&a->job);
    a->job = copy_job(reply->job);
    if (a->job->reason && strncmp(a->job->reason, "agent away", 10) == 0)
        session_ensure_agent(a->session);
    if (a->has_follow && a->follow.is_broken)
        follow_resume(&a->follow);
    progress(a);
    a->on_change(a->ctx);
}

static void on_watch_end(void *ctx, int code, const char *text)
{
    struct attach *a = ctx;

    a->watch = NULL;
    if (code == ACCEL_ECLOSED)
        return; /* attach_resume comes with the new connection */
    if (code == 0 && attach_has_ended(a))
        return;
    finish(a, code < 0 ? code : ACCEL_EPROTO,
           code < 0 && text[0] != '\0' ? text : accel_error_sentence(code));
    a->on_change(a->ctx);
}

static void watch(struct attach *a)
{
    static const struct rpc_call_handlers handlers = {on_watch_message, on_watch_end};
    Accel__V1__WatchRequest req = ACCEL__V1__WATCH_REQUEST__INIT;
    struct rpc_channel *ch = session_channel(a->session);

    if (!ch || a->watch)
        return;
    req.job_id = a->job_id;
    req.owner = a->is_owner;
    a->watch = rpc_channel_call(ch, "/accel.v1.Jobs/Watch", &req.base,
                                &accel__v1__watch_reply__descriptor, &handlers, a);
}

void attach_start(struct attach *a, uint32_t first_attempt)
{
    a->follow.session = a->session;
    a->follow.job_id = a->job_id;
    a->follow.on_change = on_follow_change;
    a->follow.on_answer = on_follow_answer;
    a->follow.ctx = a;
    watch(a);
    if (a->has_follow && first_attempt > 0 && a->follow.ranks)
        follow_begin(&a->follow, first_attempt, 0);
}

void attach_resume(struct attach *a)
{
    if (a->is_finished)
        return;
    if (!attach_has_ended(a))
        watch(a);
    follow_resume(&a->follow);
}

void attach_stop(struct attach *a)
{
    if (a->watch)
        rpc_call_cancel(STEAL_PTR(a->watch));
    finish(a, 0, "");
}

void attach_done(struct attach *a)
{
    if (a->watch)
        rpc_call_cancel(STEAL_PTR(a->watch));
    follow_done(&a->follow);
    if (a->has_timer)
        uv_close((uv_handle_t *)&a->timer, NULL);
    drop_job(&a->job);
    drop_job(&a->detail);
}
