/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.h - a narrative sink for tests: what each part did at which virtual millisecond, one line
 * each. The cores call it with a NULL sink in production, which costs a compare. Not a log.
 */
#ifndef ACCEL_COMMON_TRACE_H
#define ACCEL_COMMON_TRACE_H

#include "common/str.h"

struct trace {
    struct str text;  /* "[    12] coord    job 1 PENDING -> STARTING (PLACE)\n" ... */
    int64_t start_ms; /* shown times are relative to it */
};
void trace_init(struct trace *t, int64_t start_ms);
void trace_done(struct trace *t);
void trace_add(struct trace *t, int64_t now_ms, const char *who, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

#endif
