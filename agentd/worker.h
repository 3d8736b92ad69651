/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker.h - the life of one rank on this node: one table (worker.c), one function that writes the
 * state. Inside the core only.
 */
#ifndef ACCEL_AGENTD_WORKER_H
#define ACCEL_AGENTD_WORKER_H

#include "accel/v1/shim.pb-c.h"
#include "common/base.h"

enum worker_state { WORKER_PREPARED, WORKER_RUNNING, WORKER_STOPPING, WORKER_EXITED };

enum worker_event {
    WORKER_STARTED,   /* it has been exec'ed */
    WORKER_UNSTARTED, /* it could not be started */
    WORKER_STOP,      /* its gang is being stopped */
    WORKER_EXIT,      /* it exited with code 0 */
    WORKER_FAIL,      /* it exited with another code or by a signal */
    WORKER_SWEPT,     /* it is gone and nobody saw how */
};

/* What a move asks of the attempt. */
#define WORKER_EFFECT_LEAVE     1u /* one rank fewer is alive */
#define WORKER_EFFECT_FAILED    2u /* it failed by itself: a candidate for the first failing rank */
#define WORKER_EFFECT_UNSTARTED 4u /* the gang cannot be complete */

struct worker {
    uint8_t state; /* enum worker_state; written by worker_apply() only */
    uint32_t rank, local_rank, pid;
    bool exited, stopped, oom_killed;
    int32_t exit_code, signal, start_errno;
    int64_t start_ms, end_ms;
    uint64_t end_boot_ns;
    uint8_t *tail; /* end of stderr, of a failed rank; own */
    size_t tail_len;
    char *error; /* why it could not be started; own, NULL if it could */
};

void worker_init(struct worker *w, uint32_t rank, uint32_t local_rank);
void worker_done(struct worker *w);
/* Which event a shim's words about a rank amount to. */
enum worker_event worker_event_of_start(const Accel__V1__RankExit *said);
enum worker_event worker_event_of_exit(const Accel__V1__RankExit *said);
/* Moves by the table and keeps what was said (NULL with STOP and SWEPT). Returns the effects. */
uint32_t worker_apply(struct worker *w, enum worker_event event, const Accel__V1__RankExit *said);
/* The exit record's last word on a rank that has exited: the whole stderr tail. */
void worker_complete(struct worker *w, const Accel__V1__RankExit *said);
void worker_check(const struct worker *w);
const char *worker_state_name(uint8_t state);
const char *worker_event_name(uint8_t event);

#endif
