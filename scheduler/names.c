/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The name service behind threads of our own: those of libuv cannot be left behind while they hang,
 * and a coordinator that is told to end would not. Answers come back through a mailbox that belongs
 * to the loop and to all threads still out together. Neighbour: shell_remote.c. It must not decide
 * what a user may.
 */
#include "scheduler/names.h"

#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>

#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/str.h"

#define NAMES_KEPT    64u   /* above, the one asked for longest ago goes */
#define NAMES_KEPT_MS 60000 /* then it is asked again, and the old answer serves meanwhile */
#define NAMES_THREADS 4u    /* at once: a dead server shall not take more */
#define NAMES_WAIT_MS 2000  /* then it counts as not known, until it answers */
#define PASSWD_BYTES  65536u

struct entry {
    char name[LIMIT_NAME_BYTES + 1]; /* "": free */
    uint32_t uid, gid;
    bool is_known; /* there was an answer */
    bool is_out;   /* a thread asks */
    int64_t asked_ms;
};

struct ask { /* of one thread, then of the mailbox */
    struct ask *next;
    struct mailbox *box;
    char name[LIMIT_NAME_BYTES + 1];
    uint32_t uid, gid;
};

/* Of the loop and the threads together; the last one frees it. */
struct mailbox {
    pthread_mutex_t lock;
    size_t users;
    uv_async_t *async; /* NULL: the loop has left */
    struct ask *finished;
};

struct names {
    uv_async_t async;
    uv_timer_t timer;
    struct mailbox *box;
    struct entry entries[NAMES_KEPT];
    unsigned out_count, open_handles;
    void (*on_news)(void *ctx);
    void *ctx;
};

/* --- the threads --- */

/* Gives the lock back and up a share. */
static void mailbox_leave(struct mailbox *box)
{
    size_t left = --box->users;
    struct ask *a = left == 0 ? box->finished : NULL;

    pthread_mutex_unlock(&box->lock);
    if (left > 0)
        return;
    for (struct ask *next; a; a = next) {
        next = a->next;
        free(a);
    }
    pthread_mutex_destroy(&box->lock);
    free(box);
}

static void *ask_thread(void *arg)
{
    struct ask *a = arg;
    struct mailbox *box = a->box;
    AUTO_FREE char *buf = xcalloc(1, PASSWD_BYTES);
    struct passwd pw, *found = NULL;

    a->uid = a->gid = UINT32_MAX;
    if (getpwnam_r(a->name, &pw, buf, PASSWD_BYTES, &found) == 0 && found) {
        a->uid = pw.pw_uid;
        a->gid = pw.pw_gid;
    }
    pthread_mutex_lock(&box->lock);
    a->next = box->finished;
    box->finished = a;
    if (box->async)
        uv_async_send(box->async);
    mailbox_leave(box);
    return NULL;
}

static bool thread_start(struct ask *a)
{
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, before;

    pthread_mutex_lock(&a->box->lock);
    a->box->users++;
    pthread_mutex_unlock(&a->box->lock);
    sigfillset(&all);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int sys = pthread_create(&thread, &attr, ask_thread, a);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (sys != 0) {
        pthread_mutex_lock(&a->box->lock);
        mailbox_leave(a->box);
    }
    return sys == 0;
}

/* --- the table --- */

static struct entry *entry_find(struct names *n, const char *name)
{
    for (unsigned i = 0; i < NAMES_KEPT; i++)
        if (!strcmp(n->entries[i].name, name))
            return &n->entries[i];
    return NULL;
}

/* A free one, or that of the oldest answer; NAMES_THREADS at most are out. */
static struct entry *entry_new(struct names *n, const char *name)
{
    struct entry *e = NULL;

    for (unsigned i = 0; i < NAMES_KEPT; i++) {
        struct entry *each = &n->entries[i];
        if (!each->is_out && (!e || each->asked_ms < e->asked_ms))
            e = each;
    }
    CHECK(e);
    *e = (struct entry){.uid = UINT32_MAX, .gid = UINT32_MAX};
    str_copy(e->name, sizeof(e->name), name);
    return e;
}

static void entry_ask(struct names *n, struct entry *e)
{
    if (e->is_out || n->out_count >= NAMES_THREADS)
        return; /* the next that comes back makes room */
    struct ask *a = xcalloc(1, sizeof(*a));
    a->box = n->box;
    str_copy(a->name, sizeof(a->name), e->name);
    if (!thread_start(a)) {
        free(a);
        return;
    }
    e->is_out = true;
    n->out_count++;
}

static bool entry_is_late(const struct entry *e, int64_t now_ms)
{
    return now_ms - e->asked_ms >= NAMES_WAIT_MS;
}

static void on_late(uv_timer_t *timer);

static void arm(struct names *n)
{
    int64_t now_ms = clock_mono_ms(), first = INT64_MAX;

    for (unsigned i = 0; i < NAMES_KEPT; i++) {
        const struct entry *e = &n->entries[i];
        if (e->name[0] && !e->is_known && !entry_is_late(e, now_ms))
            first = MIN(first, e->asked_ms + NAMES_WAIT_MS);
    }
    if (first == INT64_MAX)
        uv_timer_stop(&n->timer);
    else
        uv_timer_start(&n->timer, on_late, (uint64_t)MAX(first - now_ms, (int64_t)1), 0);
}

static void on_late(uv_timer_t *timer)
{
    struct names *n = timer->data;

    log_warn("the name service of this host has not answered for %d s; jobs of users whom it does"
             " not know run on nodes that know them",
             NAMES_WAIT_MS / 1000);
    uv_async_send(&n->async); /* as if it had answered: what comes of it is said after the poll */
}

static void on_finished(uv_async_t *async)
{
    struct names *n = async->data;

    pthread_mutex_lock(&n->box->lock);
    struct ask *a = n->box->finished;
    n->box->finished = NULL;
    pthread_mutex_unlock(&n->box->lock);
    for (struct ask *next; a; a = next) {
        struct entry *e = entry_find(n, a->name);
        next = a->next;
        CHECK(e && e->is_out && n->out_count > 0);
        e->uid = a->uid;
        e->gid = a->gid;
        e->is_known = true;
        e->is_out = false;
        n->out_count--;
        free(a);
    }
    for (unsigned i = 0; i < NAMES_KEPT; i++) /* what had found no thread */
        if (n->entries[i].name[0] && !n->entries[i].is_known)
            entry_ask(n, &n->entries[i]);
    arm(n);
    n->on_news(n->ctx);
}

bool names_get(struct names *n, const char *name, uint32_t *ret_uid, uint32_t *ret_gid)
{
    struct entry *e = entry_find(n, name);
    int64_t now_ms = clock_mono_ms();
    bool is_first = !e, is_old = e && e->is_known && now_ms - e->asked_ms >= NAMES_KEPT_MS;

    if (is_first)
        e = entry_new(n, name);
    if (is_first || is_old)
        e->asked_ms = now_ms;
    if (is_first || is_old || !e->is_known)
        entry_ask(n, e);
    if (is_first)
        arm(n);
    *ret_uid = e->uid;
    *ret_gid = e->gid;
    return e->is_known || entry_is_late(e, now_ms);
}

/* --- life --- */

struct names *names_create(uv_loop_t *loop, void (*on_news)(void *ctx), void *ctx)
{
    struct names *n = xcalloc(1, sizeof(*n));

    n->box = xcalloc(1, sizeof(*n->box));
    pthread_mutex_init(&n->box->lock, NULL);
    n->box->users = 1;
    n->box->async = &n->async;
    n->on_news = on_news;
    n->ctx = ctx;
    CHECK(uv_async_init(loop, &n->async, on_finished) == 0);
    CHECK(uv_timer_init(loop, &n->timer) == 0);
    n->async.data = n->timer.data = n;
    n->open_handles = 2;
    return n;
}

static void on_closed(uv_handle_t *handle)
{
    struct names *n = handle->data;

    if (--n->open_handles == 0)
        free(n);
}

void names_destroy(struct names *n)
{
    if (!n)
        return;
    pthread_mutex_lock(&n->box->lock);
    n->box->async = NULL;
    mailbox_leave(n->box); /* what is out is freed with the last thread */
    uv_close((uv_handle_t *)&n->async, on_closed);
    uv_close((uv_handle_t *)&n->timer, on_closed);
}
