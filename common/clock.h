/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clock.h - the clocks of the shells. Cores never call this: their time comes with the event.
 * `mono` counts through suspend (CLOCK_BOOTTIME) and never jumps; `wall` is for people and records
 * only, never for deadlines.
 */
#ifndef ACCEL_COMMON_CLOCK_H
#define ACCEL_COMMON_CLOCK_H

#include "common/base.h"

struct clock_now {
    int64_t mono_ms;
    int64_t wall_ms;
};
struct clock_now clock_read(void);
int64_t clock_mono_ms(void);
uint64_t clock_mono_ns(void);
int64_t clock_wall_ms(void);
/* RFC 3339 in UTC with milliseconds, "2026-11-23T08:15:00.123Z"; size >= 32. 0 gives "". */
const char *clock_format_utc(int64_t wall_ms, char *buf, size_t size);

#endif
