/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The name service behind threads of our own: those of libuv cannot be left behind while they hang,
 * and its loop would not end. Results come back through a mailbox that belongs to all threads still
 * out and to the loop together. Neighbour: launcher_user.c.
 */
#include "agentd/identity_lookup.h"

#include <errno.h>
#include <grp.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>

#include "common/clock.h"

#define IDENTITY_LOOKUPS 16u /* threads at once; further lookups wait, up to the next */
#define IDENTITY_WAIT_MS                                                                           \
    30000 /* for an answer, the wait for a thread included; then it is refused */
#define PASSWD_BYTES       65536u /* of one entry; larger ones are ACCEL_EIO */
#define GROUPS_FIRST_GUESS 32

/* ---- one lookup, on whatever thread ---- */

static int lookup_groups(const char *user, struct identity_account *a, struct accel_error *err)
{
    int count = GROUPS_FIRST_GUESS;
    gid_t *groups = xcalloc((size_t)count, sizeof(*groups));
    if (getgrouplist(user, a->gid, groups, &count) < 0) {
        if (count <= GROUPS_FIRST_GUESS || (unsigned)count > IDENTITY_GROUPS_MAX) {
            free(groups);
            return error_set(err, ACCEL_EIO, "user %s has more than %u groups", user,
                             IDENTITY_GROUPS_MAX);
        }
        groups = xrealloc(groups, (size_t)count * sizeof(*groups));
        if (getgrouplist(user, a->gid, groups, &count) < 0) {
            free(groups);
            return error_set(err, ACCEL_EIO, "the groups of user %s cannot be listed", user);
        }
    }
    for (int i = 0; i < count; i++) {
        if (groups[i] != a->gid) {
            groups[a->group_count++] = groups[i];
        }
    }
    a->groups = groups;
    return 0;
}

int identity_lookup_now(const char *user, struct identity_account *ret_account,
                        struct accel_error *err)
{
    AUTO_FREE char *buf = xcalloc(1, PASSWD_BYTES);
    struct passwd pw;
    struct passwd *found = NULL;
    struct identity_account a = {0};
    int sys = getpwnam_r(user, &pw, buf, PASSWD_BYTES, &found);
    if (found == NULL && (sys == 0 || sys == ENOENT || sys == ESRCH)) {
        return error_set(err, ACCEL_ENOENT,
                         "user %s is not known on this node\n"
                         "try: make the account here, or leave this node out with --exclude",
                         user);
    }
    if (found == NULL) {
        return error_sys(err, sys, "cannot look up user %s", user);
    }
    a.uid = pw.pw_uid;
    a.gid = pw.pw_gid;
    int r = lookup_groups(user, &a, err);
    if (r < 0) {
        return r;
    }
    a.home = xstrdup(pw.pw_dir != NULL ? pw.pw_dir : "");
    *ret_account = a;
    return 0;
}

void identity_account_done(struct identity_account *a)
{
    free(a->home);
    free(a->groups);
    *a = (struct identity_account){0};
}

/* ---- threads and the loop ---- */

struct lookup {
    struct lookup *next;     /* waiting, or out: the loop's */
    struct lookup *next_box; /* under the mailbox's lock */
    struct mailbox *box;
    char *user;
    int64_t deadline_ms;
    void (*done)(void *ctx, const struct identity_account *a, const struct accel_error *err);
    void *ctx; /* done NULL: nobody waits any more */
    int r;
    struct identity_account account;
    struct accel_error err;
};

/* Of the loop and the threads together; the last one frees it. */
struct mailbox {
    pthread_mutex_t lock;
    size_t users;
    uv_async_t *async; /* NULL: the loop has left */
    struct lookup *finished;
};

struct identity_lookups {
    uv_loop_t *loop;
    uv_async_t async;
    uv_timer_t timer;
    struct mailbox *box;
    struct lookup *waiting, **waiting_end; /* for a thread */
    struct lookup *out;                    /* on a thread, or just back */
    size_t out_count;
    unsigned open_handles;
    void (*on_closed)(void *ctx);
    void *closed_ctx;
};

static void lookup_free(struct lookup *k)
{
    identity_account_done(&k->account);
    free(k->user);
    free(k);
}

/* Gives the lock back and up a share. */
static void mailbox_leave(struct mailbox *box)
{
    size_t left = --box->users;
    struct lookup *k = left == 0 ? box->finished : NULL;
    pthread_mutex_unlock(&box->lock);
    if (left > 0) {
        return;
    }
    while (k != NULL) {
        struct lookup *next = k->next_box;
        lookup_free(k);
        k = next;
    }
    pthread_mutex_destroy(&box->lock);
    free(box);
}

static void *lookup_thread(void *arg)
{
    struct lookup *k = arg;
    struct mailbox *box = k->box;
    k->r = identity_lookup_now(k->user, &k->account, &k->err);
    pthread_mutex_lock(&box->lock);
    k->next_box = box->finished;
    box->finished = k;
    if (box->async != NULL) {
        uv_async_send(box->async);
    }
    mailbox_leave(box);
    return NULL;
}

static int thread_start(struct lookup *k)
{
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, before;
    pthread_mutex_lock(&k->box->lock);
    k->box->users++;
    pthread_mutex_unlock(&k->box->lock);
    sigfillset(&all);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int sys = pthread_create(&thread, &attr, lookup_thread, k);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (sys != 0) {
        pthread_mutex_lock(&k->box->lock);
        mailbox_leave(k->box);
    }
    return sys;
}

static void lookup_tell(struct lookup *k, const struct identity_account *a,
                        const struct accel_error *err)
{
    void (*done)(void *, const struct identity_account *, const struct accel_error *) = k->done;
    k->done = NULL;
    if (done != NULL) {
        done(k->ctx, a, err);
    }
}

static void refuse_late(struct lookup *k)
{
    struct accel_error err;
    error_set(&err, ACCEL_ETIME,
              "cannot look up user %s: the name service of this node has not answered for %d s",
              k->user, IDENTITY_WAIT_MS / 1000);
    lookup_tell(k, NULL, &err);
}

static void lookups_advance(struct identity_lookups *l);

static void on_timer(uv_timer_t *timer)
{
    struct identity_lookups *l = timer->data;
    int64_t now = clock_mono_ms();
    for (struct lookup *k = l->out; k != NULL; k = k->next) {
        if (k->done != NULL && now >= k->deadline_ms) {
            refuse_late(k);
        }
    }
    while (l->waiting != NULL && now >= l->waiting->deadline_ms) {
        struct lookup *k = l->waiting;
        l->waiting = k->next;
        refuse_late(k);
        lookup_free(k);
    }
    if (l->waiting == NULL) {
        l->waiting_end = &l->waiting;
    }
    lookups_advance(l);
}

static void arm_timer(struct identity_lookups *l)
{
    int64_t first = l->waiting != NULL ? l->waiting->deadline_ms : INT64_MAX;
    for (const struct lookup *k = l->out; k != NULL; k = k->next) {
        first = k->done != NULL ? MIN(first, k->deadline_ms) : first;
    }
    if (first == INT64_MAX) {
        uv_timer_stop(&l->timer);
        return;
    }
    uv_update_time(l->loop);
    uv_timer_start(&l->timer, on_timer, (uint64_t)MAX(first - clock_mono_ms(), (int64_t)1), 0);
}

static void lookups_advance(struct identity_lookups *l)
{
    while (l->waiting != NULL && l->out_count < IDENTITY_LOOKUPS) {
        struct lookup *k = l->waiting;
        struct lookup *rest = k->next;
        k->next = l->out;
        if (thread_start(k) != 0) {
            k->next = rest; /* no thread now: the next one that comes back, or the timer */
            break;
        }
        l->waiting = rest;
        l->out = k;
        l->out_count++;
    }
    if (l->waiting == NULL) {
        l->waiting_end = &l->waiting;
    }
    arm_timer(l);
}

static void on_finished(uv_async_t *async)
{
    struct identity_lookups *l = async->data;
    pthread_mutex_lock(&l->box->lock);
    struct lookup *k = l->box->finished;
    l->box->finished = NULL;
    pthread_mutex_unlock(&l->box->lock);
    while (k != NULL) {
        struct lookup *next = k->next_box;
        struct lookup **link = &l->out;
        while (*link != k) {
            link = &(*link)->next;
        }
        *link = k->next;
        l->out_count--;
        lookup_tell(k, k->r == 0 ? &k->account : NULL, &k->err);
        lookup_free(k);
        k = next;
    }
    lookups_advance(l);
}

struct identity_lookups *identity_lookups_create(uv_loop_t *loop)
{
    struct identity_lookups *l = xcalloc(1, sizeof(*l));
    l->loop = loop;
    l->box = xcalloc(1, sizeof(*l->box));
    pthread_mutex_init(&l->box->lock, NULL);
    l->box->users = 1;
    l->box->async = &l->async;
    l->waiting_end = &l->waiting;
    CHECK(uv_async_init(loop, &l->async, on_finished) == 0);
    uv_timer_init(loop, &l->timer);
    l->async.data = l->timer.data = l;
    l->open_handles = 2;
    return l;
}

void identity_lookup(struct identity_lookups *l, const char *user,
                     void (*done)(void *ctx, const struct identity_account *a,
                                  const struct accel_error *err),
                     void *ctx)
{
    struct lookup *k = xcalloc(1, sizeof(*k));
    k->box = l->box;
    k->user = xstrdup(user);
    k->done = done;
    k->ctx = ctx;
    k->deadline_ms = clock_mono_ms() + IDENTITY_WAIT_MS;
    *l->waiting_end = k;
    l->waiting_end = &k->next;
    lookups_advance(l);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct identity_lookups *l = handle->data;
    if (--l->open_handles == 0) {
        l->on_closed(l->closed_ctx);
        free(l);
    }
}

void identity_lookups_destroy(struct identity_lookups *l, void (*on_closed)(void *), void *ctx)
{
    l->on_closed = on_closed;
    l->closed_ctx = ctx;
    while (l->waiting != NULL) {
        struct lookup *k = l->waiting;
        l->waiting = k->next;
        lookup_free(k);
    }
    pthread_mutex_lock(&l->box->lock);
    l->box->async = NULL;
    mailbox_leave(l->box); /* what is out is freed with the last thread */
    uv_close((uv_handle_t *)&l->async, on_handle_closed);
    uv_close((uv_handle_t *)&l->timer, on_handle_closed);
}
