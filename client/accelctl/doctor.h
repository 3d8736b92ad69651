/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor.h - findings of `accelctl doctor`: how bad, about what, and what to try.
 */
#ifndef ACCEL_CLIENT_DOCTOR_H
#define ACCEL_CLIENT_DOCTOR_H

#include "client/accelctl/table.h"
#include "client/accelctl/view.h"

/* NOTE: not as much as there could be, but nothing to repair. */
enum doctor_level { DOCTOR_OK, DOCTOR_NOTE, DOCTOR_WARN, DOCTOR_BAD };
struct doctor {
    struct view_items *items; /* JSON and YAML */
    struct str text;          /* else: for people */
    size_t width;             /* of their terminal; 0: none */
    bool use_color;
    enum doctor_level worst;
};
/* Adds a finding. advice: "" for none. Cut at 511 bytes and at the first line's end. */
void doctor_add(struct doctor *d, const char *area, enum doctor_level level, const char *advice,
                const char *fmt, ...) PRINTF_LIKE(5, 6);

#endif
