/* SPDX-License-Identifier: Apache-2.0 */
/*
 * result.h - how a job ended: the exit code, and the words and the table for people. Pure but for
 * writing to stderr.
 */
#ifndef ACCEL_CLIENT_RESULT_H
#define ACCEL_CLIENT_RESULT_H

#include "accel/v1/job.pb-c.h"
#include "client/accelctl/cli.h"

/* What launch, wait and submit --wait exit with; job is ENDED and has its attempts. */
int result_exit_code(const Accel__V1__Job *job);
/* "rank 1 (pid 71) was killed by signal 9 (Killed)", "rank 0 (pid 70) exited with code 3", or
 * the attempt's own text. */
void result_add_attempt_end(struct str *out, const Accel__V1__Attempt *a);
/* "exit code 3", "signal 9 (Killed)", "running", ... */
void result_add_rank_end(struct str *out, const Accel__V1__Rank *rank);
/* For a job that did not succeed: which rank failed first and how, a table of the ranks, the
 * last lines of its stderr, where the logs are; to be written to stderr. python is the
 * interpreter it ran under, or NULL. */
void result_add_report(struct str *out, const Accel__V1__Job *job, const char *python,
                       bool use_color);
/* "accelctl: 4096 bytes of output were lost: No space left on device; ...", a line for stderr;
 * nothing when the reason of the job tells of no such loss. */
void result_add_loss(struct str *out, const Accel__V1__Job *job);
/* The attempt of that number, or NULL. */
const Accel__V1__Attempt *result_find_attempt(const Accel__V1__Job *job, uint32_t number);

#endif
