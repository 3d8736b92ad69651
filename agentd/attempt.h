/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attempt.h - how an attempt is named on this node, and what is found of one that an earlier acceld
 * left. Types only, apart from launcher.h so that the pure core reaches no libuv.
 */
#ifndef ACCEL_AGENTD_ATTEMPT_H
#define ACCEL_AGENTD_ATTEMPT_H

#include "accel/v1/shim.pb-c.h"
#include "common/base.h"

/* Names of directories; see shim.h. */
#define ARCHIVE_WORK_SUFFIX "work" /* attempts/JOB.work/tree: what the job has brought */
#define ARCHIVE_TREE        "tree"
#define ARCHIVE_DIR         "files" /* beside attempts/ */

struct attempt_id {
    uint64_t job_id;
    uint32_t attempt;
};

/* One attempts/JOB.N that is live, or ended and not yet acknowledged. Everything is borrowed
 * during the call. */
struct launcher_found {
    struct attempt_id id;
    uint64_t era;
    bool is_live;
    const Accel__V1__AttemptSpec *spec;
    const Accel__V1__ShimHello *hello;   /* live only */
    const Accel__V1__ExitRecord *record; /* ended only; of a swept attempt: what is known */
    bool shim_lost;
};

#endif
