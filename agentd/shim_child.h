/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shim_child.h - a rank from its birth to its exec. Single-threaded; child_start() returns when the
 * program runs or could not be run.
 */
#ifndef ACCEL_AGENTD_SHIM_CHILD_H
#define ACCEL_AGENTD_SHIM_CHILD_H

#include "agentd/shim_internal.h"

struct child_pipes {
    int out, err, in; /* the rank's ends; in -1: /dev/null, which is our 0 */
    int pmi;          /* -1: none */
};

enum child_step { CHILD_DONE, CHILD_STDIO, CHILD_CWD, CHILD_EXEC };

struct child_failure {
    enum child_step step; /* CHILD_DONE: none, the program runs */
    int sys;              /* errno */
};

/* What the ranks of an attempt have in common, as execve wants it. */
struct child_plan {
    const struct shim *shim;
    char *mark, *home;  /* home: NULL, or instead of the one that came along */
    char **argv, **env; /* env: of the rank that is being started */
};
void child_plan_init(struct child_plan *p, const struct shim *s); /* borrows s and its spec */
void child_plan_done(struct child_plan *p);

/* Makes the process: its pid, with *ret_pidfd (-1: the kernel has none; NULL: not wanted), or
 * -errno when there is none. A program that could not be run leaves a process that has ended and
 * *ret_failure. */
int child_start(struct child_plan *p, const Accel__V1__RankSpec *rank,
                const struct child_pipes *pipes, int *ret_pidfd, bool *ret_in_cgroup,
                struct child_failure *ret_failure);

#endif
