/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lifecycle.h - one life, one table (STYLE 4). A table of rows {state, event, guard, next, effects}
 * is data: it drives the core, is verified at start-up, and draws docs/LIFECYCLES.md. Only the
 * life's own x_apply() writes the state.
 *
 * Every (state, event) pair must be covered: by rows whose last has no guard, or by one IGNORE row
 * with its reason, or by one REFUSE row with what the caller is told. Model: flux-core
 * src/broker/state_machine.c, s6 src/supervision/s6-supervise.c.
 */
#ifndef ACCEL_COMMON_LIFECYCLE_H
#define ACCEL_COMMON_LIFECYCLE_H

#include "common/str.h"

enum lifecycle_kind {
    LIFECYCLE_MOVE,   /* goes to next (which may be the same state) and runs effects */
    LIFECYCLE_IGNORE, /* nothing happens; why says so */
    LIFECYCLE_REFUSE, /* nothing happens; why is what the caller is told */
};

#define LIFECYCLE_NO_END 0xff

struct lifecycle_guard {
    const char *name;                                     /* "restarts left" */
    bool (*holds)(const void *object, const void *event); /* pure */
};

struct lifecycle_row {
    uint8_t state;
    uint8_t event;
    const struct lifecycle_guard *guard; /* NULL: always */
    uint8_t kind;                        /* enum lifecycle_kind */
    uint8_t next;
    uint32_t effects; /* bits, named in lifecycle.effect_names */
    const char *why;  /* IGNORE and REFUSE: required; MOVE: may be NULL */
};

/* A row of a table whose states are P_... and whose events are E_..., for the short names of a
 * table: #define MOVE(s, e, n, fx) LIFECYCLE_ROW(JOB, JOB_EV, s, e, NULL, MOVE, n, fx, NULL) No
 * event may then be a macro of its own. */
#define LIFECYCLE_ROW(P, E, state, event, guard, kind, next, effects, why)                         \
    {                                                                                              \
        P##_##state, E##_##event, guard, LIFECYCLE_##kind, P##_##next, effects, why                \
    }

struct lifecycle {
    const char *name; /* "job" */
    const char *const *state_names;
    uint8_t state_count;
    const char *const *event_names;
    uint8_t event_count;
    const char *const *effect_names; /* by bit number */
    uint8_t effect_count;
    const struct lifecycle_row *rows;
    size_t row_count;
    uint8_t initial_state;
    uint8_t
        end_state; /* captive: every row of it stays in it; LIFECYCLE_NO_END: this life has none */
};

/* The row that applies: the first whose guard holds. Never NULL for a verified table. O(rows of the
 * state). */
const struct lifecycle_row *lifecycle_find(const struct lifecycle *lc, uint8_t state, uint8_t event,
                                           const void *object, const void *ev);
/* Aborts with the offending pair when a rule above is broken. Called once per table at start and by
 * a unit test. */
void lifecycle_verify(const struct lifecycle *lc);
/* Same, but returns ACCEL_EINVAL with text (for tests of the verifier). */
int lifecycle_test(const struct lifecycle *lc, char *text, size_t size);
/* Appends a Markdown section: a table of moves, and of the ignored and refused pairs with their
 * reasons. */
void lifecycle_draw(const struct lifecycle *lc, struct str *out);

#endif
