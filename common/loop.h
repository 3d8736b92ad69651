/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.h - what both daemons need around uv_loop_t: signals, daemon start-up duties, a queue from
 * other threads, and one-shot timers on CLOCK_BOOTTIME deadlines.
 */
#ifndef ACCEL_COMMON_LOOP_H
#define ACCEL_COMMON_LOOP_H

#include <uv.h>

#include "common/error.h"

/* libuv gets memory as the cores do: aborts with a line on stderr when there is none, where libuv
 * itself aborts without a word (a watcher) or fails in the midst of a change. Before any other call
 * of libuv. */
void loop_memory_prepare(void);

/* Start-up duties of a daemon, before any thread: descriptors from 3 up become CLOEXEC, SIGPIPE is
 * ignored, umask 077, descriptors 0-2 exist, loop_memory_prepare(). */
void loop_daemon_prepare(void);

/* As many open files as the hard limit allows. A server that runs out of them may never accept
 * again (gRPC 1.51). What is forked from here on inherits it: after the last fork of a program that
 * is not ours to change. */
void loop_files_prepare(void);

/* Whether `count` more files (64 at most) can be opened now; ACCEL_EFULL with what to try. stderr
 * is open. Before uv_loop_init(), which aborts without a word when its first few cannot. */
int loop_files_check(unsigned count, struct accel_error *err);

/* A deadline timer: fires once when clock_mono_ms() >= deadline; setting it again moves it.
 * deadline < 0 disarms. */
struct loop_timer {
    uv_timer_t uv;
    void (*on_due)(void *ctx,
                   int64_t late_ms); /* late_ms: how much later than asked the loop came to it */
    void *ctx;
    int64_t deadline_ms;
};
int loop_timer_init(uv_loop_t *loop, struct loop_timer *t, void (*on_due)(void *, int64_t),
                    void *ctx);
void loop_timer_set(struct loop_timer *t, int64_t deadline_ms);
void loop_timer_close(struct loop_timer *t, uv_close_cb on_closed);

/* SIGTERM and SIGINT call on_stop (once per signal) on the loop, SIGHUP calls on_reload (NULL: it
 * is ignored). */
struct loop_signals {
    uv_signal_t term, intr, hup;
    void (*on_reload)(void *ctx); /* set after loop_signals_init() */
    void (*on_stop)(void *ctx, int signo);
    void *ctx;
};
int loop_signals_init(uv_loop_t *loop, struct loop_signals *s, void (*on_stop)(void *, int),
                      void *ctx);
void loop_signals_close(struct loop_signals *s);

#endif
