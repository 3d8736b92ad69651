/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two threads that call NVML. The looking one looks when asked, when an event came, and every
 * few seconds, because nothing tells of processes that come and go. The waiting one waits for
 * events. Both announce each call, and leave by themselves once the loop's end is gone: nobody
 * joins a thread that may be stuck in a driver. Neighbours: device_nvml.c, device_nvml_scan.c. They
 * must not log, nor touch anything of the loop but its uv_async.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "agentd/device_nvml_internal.h"
#include "common/clock.h"
#include "common/str.h"

#define WAIT_MS 2000 /* of one nvmlEventSetWait: how late a waiting thread may leave */

/* ---- what is shared ---- */

void nvml_shared_put(struct nvml_shared *sh)
{
    bool is_last = --sh->refs == 0;
    pthread_mutex_unlock(&sh->lock);
    if (!is_last)
        return;
    nvml_snapshot_free(sh->latest);
    pthread_cond_destroy(&sh->wake);
    pthread_cond_destroy(&sh->answered);
    pthread_cond_destroy(&sh->events_wake);
    pthread_mutex_destroy(&sh->lock);
    free(sh);
}

void nvml_call_begin(struct nvml_shared *sh, int who, enum nvml_function fn, int64_t more_ms)
{
    int64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&sh->lock);
    sh->calls[who] = (struct nvml_call){true, fn, now_ms, now_ms + sh->answer_ms + more_ms};
    pthread_mutex_unlock(&sh->lock);
}

void nvml_call_end(struct nvml_shared *sh, int who)
{
    int64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&sh->lock);
    bool was_overdue = now_ms >= sh->calls[who].overdue_ms;
    sh->calls[who].is_in = false;
    if (was_overdue && sh->async)
        uv_async_send(sh->async); /* it answers again */
    pthread_mutex_unlock(&sh->lock);
}

/* With the lock held. */
static void wait_until(struct nvml_shared *sh, pthread_cond_t *cond, int64_t deadline_ms)
{
    struct timespec at;
    int64_t left_ms = MAX(deadline_ms - clock_mono_ms(), 0);
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += left_ms / 1000;
    at.tv_nsec += left_ms % 1000 * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(cond, &sh->lock, &at);
}

/* ---- the waiting thread ---- */

static void take_event(struct nvml_shared *sh, const nvml_event_t *ev)
{
    if (sh->event_count < NVML_EVENTS_MAX)
        sh->events[sh->event_count++] = *ev;
    pthread_cond_signal(&sh->wake);
}

static void *waiter_main(void *arg)
{
    struct nvml_shared *sh = arg;
    pthread_setname_np(pthread_self(), "nvml-events");
    pthread_mutex_lock(&sh->lock);
    while (!sh->is_ending) {
        nvml_event_t ev = {.gpu_instance = NVML_NO_INSTANCE, .compute_instance = NVML_NO_INSTANCE};
        NVML_SET set = sh->set;
        if (!set) {
            pthread_cond_wait(&sh->events_wake, &sh->lock);
            continue;
        }
        sh->set_in_use = true;
        pthread_mutex_unlock(&sh->lock);
        nvml_call_begin(sh, NVML_WAITER, NVML_FN_event_wait, WAIT_MS);
        nvml_return_t r = sh->lib.event_wait(set, &ev, WAIT_MS);
        nvml_call_end(sh, NVML_WAITER);
        pthread_mutex_lock(&sh->lock);
        sh->set_in_use = false;
        pthread_cond_broadcast(&sh->events_wake);
        if (r == NVML_OK) {
            take_event(sh, &ev);
        } else if (r !=
                   NVML_TIMEOUT) { /* a GPU was lost, or the driver went: the look tells which */
            sh->asked++;
            pthread_cond_signal(&sh->wake);
            wait_until(sh, &sh->events_wake, clock_mono_ms() + sh->sample_ms);
        }
    }
    nvml_shared_put(sh);
    return NULL;
}

/* ---- the looking thread ---- */

static bool is_known(const struct nvml_snapshot *s, const struct nvml_gpu *g)
{
    for (size_t i = 0; s && i < s->count; i++) {
        if (s->gpus[i].handle == g->handle && !s->gpus[i].is_gone)
            return true;
    }
    return false;
}

/* Instances have no events of their own: their GPU is asked through the driver's list. */
static void register_events(struct nvml_looker *l)
{
    struct nvml_shared *sh = l->shared;
    unsigned count = 0;
    if (!l->set || NVML_CALL(sh, count, &count) != NVML_OK)
        return;
    for (unsigned i = 0; i < MIN(count, NVML_GPUS_MAX); i++) {
        struct nvmlDevice_st *handle = NULL;
        if (NVML_CALL(sh, by_index, i, &handle) == NVML_OK && handle)
            (void)NVML_CALL(sh, register_events, handle, NVML_EVENT_XID | NVML_EVENT_DOUBLE_BIT_ECC,
                            l->set);
    }
    pthread_mutex_lock(&sh->lock);
    sh->set = l->set;
    pthread_cond_broadcast(&sh->events_wake);
    pthread_mutex_unlock(&sh->lock);
}

static bool has_new(const struct nvml_snapshot *s, const struct nvml_snapshot *last)
{
    for (size_t i = 0; i < s->count; i++) {
        if (s->gpus[i].handle && !is_known(last, &s->gpus[i]))
            return true;
    }
    return false;
}

static struct nvml_snapshot *bring_up(struct nvml_looker *l)
{
    struct nvml_shared *sh = l->shared;
    nvml_return_t r = NVML_CALL(sh, init);
    if (r == NVML_OK) {
        l->is_up = true;
        if (sh->lib.event_wait && NVML_CALL(sh, event_set_create, &l->set) != NVML_OK)
            l->set = NULL;
        return NULL;
    }
    l->retry_ms = clock_mono_ms() + NVML_RETRY_MS;
    /* A machine without a driver has no NVIDIA devices, which is no error; one that had some has.
     */
    bool is_plain =
        (r == NVML_DRIVER_NOT_LOADED || r == NVML_GPU_NOT_FOUND) && !(l->last && l->last->count);
    return nvml_scan_down(l, is_plain ? "" : nvml_error_text(&sh->lib, r));
}

/* The driver went (an update, a reset of all): the next look begins anew. */
static void bring_down(struct nvml_looker *l)
{
    struct nvml_shared *sh = l->shared;
    pthread_mutex_lock(&sh->lock);
    sh->set = NULL;
    while (sh->set_in_use && !sh->is_ending)
        pthread_cond_wait(&sh->events_wake, &sh->lock);
    pthread_mutex_unlock(&sh->lock);
    if (l->set)
        (void)NVML_CALL(sh, event_set_free, l->set);
    l->set = NULL;
    (void)NVML_CALL(sh, shutdown);
    l->is_up = false;
    l->retry_ms = clock_mono_ms() + sh->sample_ms;
}

static struct nvml_snapshot *look(struct nvml_looker *l, const nvml_event_t *events, size_t count,
                                  bool with_users)
{
    bool is_down = false;
    if (!l->is_up) {
        struct nvml_snapshot *none =
            clock_mono_ms() < l->retry_ms ? nvml_scan_down(l, l->last->note) : bring_up(l);
        if (none)
            return none;
    }
    struct nvml_snapshot *s = nvml_scan(l, events, count, with_users, &is_down);
    if (is_down)
        bring_down(l);
    else if (has_new(s, l->last))
        register_events(l);
    return s;
}

static void publish(struct nvml_looker *l, struct nvml_snapshot *s, uint64_t asked)
{
    struct nvml_shared *sh = l->shared;
    pthread_mutex_lock(&sh->lock);
    nvml_snapshot_free(sh->latest);
    sh->latest = l->last = s;
    sh->looked = asked;
    pthread_cond_broadcast(&sh->answered);
    if (sh->async)
        uv_async_send(sh->async);
    pthread_mutex_unlock(&sh->lock);
}

static void *looker_main(void *arg)
{
    AUTO_FREE struct nvml_looker *l = arg;
    struct nvml_shared *sh = l->shared;
    nvml_event_t events[NVML_EVENTS_MAX];
    int64_t next_ms = 0;
    pthread_setname_np(pthread_self(), "nvml");
    publish(l, nvml_scan_proc(l), 0); /* answers nobody, but is there if NVML never answers */
    pthread_mutex_lock(&sh->lock);
    while (!sh->is_ending) {
        if (sh->asked == sh->looked && sh->event_count == 0 && clock_mono_ms() < next_ms) {
            wait_until(sh, &sh->wake, next_ms);
            continue;
        }
        uint64_t asked = sh->asked;
        bool with_users = sh->asked_users || !sh->lib.processes;
        size_t count = sh->event_count;
        memcpy(events, sh->events, count * sizeof(*events));
        sh->event_count = 0;
        sh->asked_users = false;
        pthread_mutex_unlock(&sh->lock);
        publish(l, look(l, events, count, with_users), asked);
        next_ms = clock_mono_ms() + sh->sample_ms;
        pthread_mutex_lock(&sh->lock);
    }
    nvml_shared_put(sh);
    return NULL;
}

static int start_thread(struct nvml_shared *sh, void *(*run)(void *), void *arg,
                        struct accel_error *err)
{
    pthread_t thread;
    sh->refs++;
    int code = pthread_create(&thread, NULL, run, arg);
    if (code) {
        sh->refs--;
        return error_sys(err, code, "starting a thread for the NVIDIA driver");
    }
    pthread_detach(thread);
    return 0;
}

int nvml_watch_start(struct nvml_shared *sh, struct accel_error *err)
{
    struct nvml_looker *l = xcalloc(1, sizeof(*l));
    l->shared = sh;
    pthread_mutex_lock(&sh->lock);
    int r = sh->lib.event_wait ? start_thread(sh, waiter_main, sh, err) : 0;
    if (r == 0)
        r = start_thread(sh, looker_main, l, err);
    pthread_mutex_unlock(&sh->lock);
    if (r < 0)
        free(l);
    return r;
}
