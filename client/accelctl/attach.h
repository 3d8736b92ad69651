/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach.h - a job watched until it ends: its states by Jobs.Watch, its output by follow.h attempt
 * after attempt, over broken connections and restarted daemons. One per job; the session's loop.
 */
#ifndef ACCEL_CLIENT_ATTACH_H
#define ACCEL_CLIENT_ATTACH_H

#include "client/accelctl/follow.h"

struct attach {
    /* set before attach_start */
    struct session *session;
    uint64_t job_id;
    bool is_owner;       /* this command holds the job: Jobs.Watch owner */
    bool has_follow;     /* follow is set up and output is wanted */
    bool tells_restarts; /* on stderr */
    struct follow follow;
    void (*on_change)(void *ctx); /* the job changed, or is_finished became true */
    void *ctx;
    /* to be read */
    Accel__V1__Job *job;    /* as last told; NULL before */
    Accel__V1__Job *detail; /* the last one that had attempts; may be the same; NULL before */
    bool
        /* the job has ended and its output was read, or watching failed: err.code < 0 */
        is_finished;
    struct accel_error err;
    struct accel_error log_err; /* code < 0: output could not be read to its end */
    /* own */
    struct rpc_call *watch;
    uv_timer_t timer;
    uint64_t retry_ms;
    bool has_timer;
    unsigned silent_ticks; /* after the job's end, since the last answer */
};

/* Starts watching, and reading where the ranks are known without being told (first_attempt > 0:
 * read that at once). */
void attach_start(struct attach *a, uint32_t first_attempt);
/* After a new connection. */
void attach_resume(struct attach *a);
/* Watches no more, as if all had been told; what was told stays. Not from within on_change. */
void attach_stop(struct attach *a);
void attach_done(struct attach *a);
bool attach_has_ended(const struct attach *a); /* the job has; output may still come */
/* The job with its attempts for a report; NULL if nothing was told. */
const Accel__V1__Job *attach_report_job(const struct attach *a);

#endif
