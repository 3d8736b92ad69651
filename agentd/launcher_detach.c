/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attempts whose shim cannot be talked to: tried again until the shim takes us back or is proven
 * dead, and a bound on how long a stop waits for a shim that does not come to hear it. Neighbours:
 * launcher_exec.c, adopt.c. Must not sweep on a guess.
 */
#include <unistd.h>

#include "agentd/launcher_exec_internal.h"
#include "agentd/procfs.h"
#include "common/clock.h"

#define RETRY_MAX_MS 1000u /* to connect to a shim again, doubling from LAUNCHER_RETRY_MIN_MS */

static void retry_later(struct launcher_exec *l);

static void on_shim_dead(struct wire *w, int events)
{
    (void)events;
    attempt_sweep(w->l, w->a);
}

/* False: the shim is dead. Without a pidfd, at a want of descriptors, each try asks again. */
static bool watch_death(struct launcher_exec *l, struct attempt *a, int connected)
{
    if (a->pidfd != NULL) {
        return true;
    }
    if (adopt_is_shim_dead(l->dir_fd, a->id, connected, &a->shim_pid)) {
        return false;
    }
    int fd = a->shim_pid > 0 ? proc_pidfd_open(a->shim_pid) : -1;
    a->pidfd = fd >= 0 ? wire_open(l, fd, on_shim_dead) : NULL;
    if (a->pidfd != NULL) {
        a->pidfd->a = a;
    }
    return true;
}

/* One try. It is dying (then this fails or breaks again and the pidfd tells), it has taken offence
 * at what we sent or cannot answer now (then it takes us back), or a newer acceld owns it (then it
 * refuses, and the attempt is not ours to touch). */
static void reattach(struct launcher_exec *l, struct attempt *a)
{
    int fd = adopt_connect(l->dir_fd, a->id);
    bool is_late = a->is_stop_asked && clock_mono_ms() >= a->stop_until_ms;
    if (!watch_death(l, a, fd) || (fd < 0 && is_late)) {
        base_close_fd(&fd);
        attempt_sweep(l, a);
        return;
    }
    if (fd < 0 || attempt_connect(l, a, fd) < 0) {
        retry_later(l);
        return;
    }
    wire_add_own(&a->wire->out, l->incarnation);
    wire_flush(a->wire);
}

static void on_retry(uv_timer_t *timer)
{
    struct launcher_exec *l = timer->data;
    for (size_t i = 0; i < LAUNCHER_BUCKETS; i++) {
        for (struct attempt *a = l->buckets[i]; a != NULL; a = a->next) {
            if (a->state == ATTEMPT_DETACHED && a->wire == NULL) {
                reattach(l, a);
            }
        }
    }
}

static void retry_later(struct launcher_exec *l)
{
    if (!l->is_closing && !uv_is_active((uv_handle_t *)&l->retry)) {
        uv_timer_start(&l->retry, on_retry, l->retry_ms, 0);
        l->retry_ms = MIN(l->retry_ms * 2, (uint64_t)RETRY_MAX_MS);
    }
}

void attempt_detach(struct launcher_exec *l, struct attempt *a)
{
    wire_close(a->wire);
    a->wire = NULL;
    a->is_refused = false;
    a->state = ATTEMPT_DETACHED;
    reattach(l, a);
}

/* The connection to the shim has ended without `gone`. */
void attempt_on_cut(struct launcher_exec *l, struct attempt *a)
{
    wire_close(a->wire);
    a->wire = NULL;
    if (a->state == ATTEMPT_LAUNCHING && !a->is_forked) {
        a->is_cut = true; /* accel-spawn's answer says why */
    } else if (a->state == ATTEMPT_LAUNCHING || a->state == ATTEMPT_LIVE) {
        attempt_detach(l, a);
    } else if (a->state == ATTEMPT_DETACHED && a->is_stop_asked) {
        attempt_sweep(l, a);
    } else if (a->state == ATTEMPT_DETACHED) {
        a->is_refused = true;
        retry_later(l);
    }
}

static void on_late(uv_timer_t *timer)
{
    struct launcher_exec *l = timer->data;
    int64_t now = clock_mono_ms();
    int64_t next = INT64_MAX;
    for (size_t i = 0; i < LAUNCHER_BUCKETS; i++) {
        for (struct attempt *a = l->buckets[i]; a != NULL; a = a->next) {
            bool is_starting = a->state == ATTEMPT_LAUNCHING || a->state == ATTEMPT_LIVE;
            if (!is_starting || !a->is_stop_asked || a->is_started) {
                continue;
            }
            if (now >= a->stop_until_ms) {
                attempt_sweep(l, a);
            } else {
                next = MIN(next, a->stop_until_ms - now);
            }
        }
    }
    if (next != INT64_MAX) {
        uv_timer_start(timer, on_late, (uint64_t)next, 0);
    }
}

void attempt_bound_stop(struct launcher_exec *l)
{
    if (!l->is_closing) {
        uv_update_time(l->loop);
        on_late(&l->late);
    }
}
