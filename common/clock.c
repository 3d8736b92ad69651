/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The only place that asks the kernel for the time. Cores never link against what they could misuse
 * here: tests/tidy.py keeps clock.h out of them.
 */
#include "common/clock.h"

#include <stdio.h>
#include <time.h>

static struct timespec read_clock(clockid_t id)
{
    struct timespec ts;
    int r = clock_gettime(id, &ts);
    CHECK(r == 0);
    return ts;
}

static int64_t to_ms(struct timespec ts)
{
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t clock_mono_ms(void)
{
    return to_ms(read_clock(CLOCK_BOOTTIME));
}

uint64_t clock_mono_ns(void)
{
    struct timespec ts = read_clock(CLOCK_BOOTTIME);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int64_t clock_wall_ms(void)
{
    return to_ms(read_clock(CLOCK_REALTIME));
}

struct clock_now clock_read(void)
{
    return (struct clock_now){.mono_ms = clock_mono_ms(), .wall_ms = clock_wall_ms()};
}

const char *clock_format_utc(int64_t wall_ms, char *buf, size_t size)
{
    CHECK(size >= 32);
    int64_t ms = wall_ms % 1000;
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm tm;
    if (ms < 0) { /* before 1970: a remainder counts forwards too */
        ms += 1000;
        seconds--;
    }
    buf[0] = '\0';
    if (wall_ms != 0 && gmtime_r(&seconds, &tm) != NULL) {
        /* The years of a broken record may have more digits than fit: then it is cut. */
        size_t len = strftime(buf, size, "%Y-%m-%dT%H:%M:%S", &tm);
        snprintf(buf + len, size - len, ".%03dZ", (int)ms);
    }
    return buf;
}
