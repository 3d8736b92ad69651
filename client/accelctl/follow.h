/* SPDX-License-Identifier: Apache-2.0 */
/*
 * follow.h - reads the output of one attempt after another and writes it to stdout and stderr, each
 * byte once, over broken connections too: what was written is counted per stream, and reading goes
 * on from there. One thread, the session's loop.
 */
#ifndef ACCEL_CLIENT_FOLLOW_H
#define ACCEL_CLIENT_FOLLOW_H

#include "accel/v1/job.pb-c.h"
#include "client/accelctl/session.h"

struct follow_stream;
struct follow {
    /* set before follow_begin */
    struct session *session;
    uint64_t job_id;
    const uint32_t *ranks; /* chosen ones, sorted, borrowed; NULL: all */
    size_t rank_count;
    bool want_stdout, want_stderr;
    bool is_labelled;             /* "[rank] " before each line */
    bool is_waiting;              /* for more, until the attempt is over; else what there is */
    uint64_t tail_lines;          /* of the first attempt begun; 0: from the start */
    void (*on_change)(void *ctx); /* is_done or is_broken became true */
    void (*on_answer)(void *ctx); /* an answer came and was written; may be NULL */
    void *ctx;
    /* to be read */
    uint32_t attempt; /* the one that is or was read; 0: none begun */
    bool is_done;     /* read to its end (or it will never exist) */
    bool is_broken;   /* reading failed: why is in err; follow_resume tries again */
    bool is_missing;  /* same, because the nodes that have the rest are away */
    struct accel_error err;
    /* own */
    struct follow_stream *streams;
    size_t stream_count;
    struct rpc_call *call;
    bool is_quiet, is_empty; /* the answer had no data; not even an end */
    struct str missing;      /* nodes whose output is not in the answer, "a, b" */
    struct str said;         /* those that were told of */
};

/* Begins attempt number `attempt` with `world` ranks (used when all are wanted). */
void follow_begin(struct follow *f, uint32_t attempt, uint32_t world);
/* Goes on from where it was: after a new connection, or when it is broken. Nothing to do is no
 * error. */
void follow_resume(struct follow *f);
/* Gives up the rest of a broken one: done. */
void follow_skip(struct follow *f);
void follow_done(struct follow *f);

#endif
