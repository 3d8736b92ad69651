/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The narrative of a simulated run as text. The layout is compared with golden files (tests/trace):
 * changing it means regenerating them.
 */
#include "common/trace.h"

#include <inttypes.h>
#include <stdio.h>

void trace_init(struct trace *t, int64_t start_ms)
{
    str_init(&t->text);
    t->start_ms = start_ms;
}

void trace_done(struct trace *t)
{
    str_done(&t->text);
}

void trace_add(struct trace *t, int64_t now_ms, const char *who, const char *fmt, ...)
{
    if (t == NULL) {
        return;
    }
    va_list args;
    str_addf(&t->text, "[%6" PRId64 "] %-8s ", now_ms - t->start_ms, who);
    va_start(args, fmt);
    str_addv(&t->text, fmt, args);
    va_end(args);
    str_addc(&t->text, '\n');
}
