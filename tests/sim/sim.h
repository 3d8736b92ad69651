/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim.h - the fault plan of a seed. Every kind has a budget, drawn from the seed; many seeds leave
 * whole kinds out, so that the others are seen alone.
 */
#ifndef ACCEL_TESTS_SIM_SIM_H
#define ACCEL_TESTS_SIM_SIM_H

#include "tests/lib/world.h"

enum fault_kind {
    FAULT_CUT,         /* of a session, seen by both ends */
    FAULT_CUT_SILENT,  /* noticed by acceld later */
    FAULT_COORD_KILL,  /* what is not committed is forgotten */
    FAULT_COORD_STOP,  /* a gap in its time */
    FAULT_COMMIT_FAIL, /* before or after the data is there */
    FAULT_COMMIT_SLOW,
    FAULT_AGENT_KILL, /* workers live on, the next one adopts */
    FAULT_SHIM_KILL,
    FAULT_RANK_KILL,
    FAULT_CLIENT_CUT,
    FAULT_CLIENT_KILL,
    FAULT_SUBMIT_TWICE, /* the same request id, at the same time */
    FAULT_CLOCK_JUMP,   /* of the wall clock */
    FAULT_DEVICE,       /* one gets a fault, or is well again */
    FAULT_KIND_COUNT
};

struct faults {
    struct world *world;
    struct prng prng; /* of its own: a fault more or less does not change the rest of the world */
    uint32_t budget[FAULT_KIND_COUNT], left;
    int64_t gap_ms;
    struct world_timer timer;
};
/* Spreads the seed's faults over about so many milliseconds from now. */
void faults_begin(struct faults *f, struct world *w, uint64_t seed, int64_t over_ms);
/* No more of them, and what they left is mended: daemons start again by themselves. */
void faults_end(struct faults *f);

#endif
