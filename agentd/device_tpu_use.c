/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who uses the TPU chips: a chip that a process of no attempt of ours has open is faulty until that
 * process ends (its pidfd tells, nothing is polled), and the lock file that libtpu leaves behind
 * when it is killed is cleared before chips are given out. Neighbours: device_tpu.c, gpu_users.c.
 * It must not touch a lock that somebody may hold.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agentd/device_tpu_internal.h"
#include "agentd/gpu_users.h"
#include "agentd/tpu_env.h"
#include "common/log.h"
#include "common/path.h"
#include "common/str.h"

#define WATCHES_MAX      TPU_CHIPS_MAX /* foreign processes; of more the end is not noticed */
#define PROC_LOCKS_BYTES (4u << 20)    /* /proc/locks; longer: taken for locked */

struct watch { /* the end of a foreign process */
    LIST_ENTRY(watch) link;
    struct tpu_source *owner;
    uv_poll_t poll;
    uint32_t pid;
    int fd;
};

struct tpu_source {
    struct device_source source;
    uv_async_t changed;
    void (*on_change)(void *ctx);
    void *ctx;
    bool is_taken[TPU_CHIPS_MAX]; /* by index: what its users are, is the shim's to know */
    LIST_HEAD(, watch) watches;
    size_t watch_count;
    unsigned open_handles;
};

/* ---- the lock file ---- */

/* By inode alone: on some file systems the kernel and stat() name the device differently. */
static bool is_locked(ino_t inode)
{
    AUTO_FREE char *text = NULL;
    size_t len;
    char want[32];
    if (path_read_all(AT_FDCWD, "/proc/locks", PROC_LOCKS_BYTES, &text, &len, NULL) < 0)
        return true;
    snprintf(want, sizeof(want), ":%ju ", (uintmax_t)inode);
    return strstr(text, want) != NULL;
}

static void on_user(void *ctx, size_t i, uint32_t pid)
{
    (void)i;
    *(uint32_t *)ctx = pid;
}

int tpu_lock_clear(const char *path, const char *const *nodes, size_t count,
                   struct accel_error *err)
{
    struct stat st;
    uint32_t user = 0;
    const char *paths[TPU_CHIPS_MAX + 1] = {path};
    CHECK(count <= TPU_CHIPS_MAX);
    if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode))
        return 0;
    for (size_t i = 0; i < count; i++)
        paths[i + 1] = nodes[i];
    gpu_users_scan(paths, count + 1, NULL, on_user, &user);
    if (user || is_locked(st.st_ino))
        return 0;
    if (geteuid() != 0 && st.st_uid != geteuid())
        return error_set(err, ACCEL_EPERM,
                         "%s was left behind by uid %u, and libtpu takes the TPU for busy\n"
                         "try: as root: rm %s",
                         path, (unsigned)st.st_uid, path);
    if (unlink(path) < 0)
        return errno == ENOENT ? 0 : error_sys(err, errno, "removing %s", path);
    return 1;
}

static void clear_lock(Accel__V1__Device *const *devices, size_t count)
{
    const char *nodes[TPU_CHIPS_MAX], *path = getenv("ACCEL_TPU_LOCK_FILE");
    struct accel_error err;
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        if (devices[i]->n_paths)
            nodes[n++] = devices[i]->paths[0];
    }
    path = path && path[0] == '/' ? path : TPU_LOCK_FILE;
    int r = tpu_lock_clear(path, nodes, n, &err);
    if (r > 0)
        log_info("removed %s, left by a process that is gone", path);
    else if (r < 0)
        log_warn("%s", err.text);
}

/* ---- foreign users ---- */

struct scan {
    struct tpu_source *s;
    struct arena *arena;
    Accel__V1__Device **chips[TPU_CHIPS_MAX];
};

static void on_handle_closed(struct tpu_source *s)
{
    CHECK(s->open_handles > 0);
    if (--s->open_handles == 0)
        free(s);
}

static void on_watch_closed(uv_handle_t *handle)
{
    struct watch *w = handle->data;
    struct tpu_source *s = w->owner;
    close(w->fd);
    free(w);
    on_handle_closed(s);
}

static void watch_end(struct watch *w)
{
    LIST_REMOVE(w, link);
    w->owner->watch_count--;
    uv_close((uv_handle_t *)&w->poll, on_watch_closed);
}

static void on_process_end(uv_poll_t *poll, int status, int events)
{
    struct watch *w = poll->data;
    struct tpu_source *s = w->owner;
    (void)status;
    (void)events;
    watch_end(w);
    if (s->on_change)
        s->on_change(s->ctx);
}

static void watch_process(struct tpu_source *s, uint32_t pid)
{
    struct watch *w;
    LIST_FOREACH(w, &s->watches, link)
    {
        if (w->pid == pid)
            return;
    }
    int fd = s->watch_count < WATCHES_MAX ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (fd < 0) /* it has ended meanwhile: look again */
        return (void)uv_async_send(&s->changed);
    w = xcalloc(1, sizeof(*w));
    *w = (struct watch){.owner = s, .pid = pid, .fd = fd};
    w->poll.data = w;
    CHECK(uv_poll_init(s->changed.loop, &w->poll, fd) == 0);
    CHECK(uv_poll_start(&w->poll, UV_READABLE, on_process_end) == 0);
    LIST_INSERT_HEAD(&s->watches, w, link);
    s->watch_count++;
    s->open_handles++;
}

static void on_foreign(void *ctx, size_t i, uint32_t pid)
{
    struct scan *scan = ctx;
    Accel__V1__Device *d = *scan->chips[i];
    char who[128];
    watch_process(scan->s, pid);
    if (d->fault[0])
        return;
    gpu_user_text(pid, who, sizeof(who));
    d->fault = arena_printf(scan->arena, "in use by %s", who);
    d->is_passing = true;
}

/* Gives those that a process of no attempt has open their fault. */
static void find_foreign(struct tpu_source *s, struct arena *a, Accel__V1__Device **devices,
                         size_t count)
{
    struct scan scan = {.s = s, .arena = a};
    const char *paths[TPU_CHIPS_MAX];
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        if (s->is_taken[i] || !devices[i]->n_paths)
            continue;
        scan.chips[n] = &devices[i];
        paths[n++] = devices[i]->paths[0];
    }
    if (n)
        gpu_users_scan(paths, n, NULL, on_foreign, &scan);
}

/* ---- the source ---- */

static int tpu_list(struct device_source *source, struct arena *a, Accel__V1__Device ***ret_devices,
                    size_t *ret_count, struct accel_error *err)
{
    struct tpu_source *s = CONTAINER_OF(source, struct tpu_source, source);
    int r = tpu_list_chips(a, ret_devices, ret_count, err);
    if (r == 0)
        find_foreign(s, a, *ret_devices, *ret_count);
    return r;
}

/* Whether the id is one of ours, "tpu:N". */
static bool parse_id(const char *id, size_t *ret_index)
{
    uint64_t n;
    if (strncmp(id, "tpu:", 4) != 0 || parse_u64(id + 4, 0, TPU_CHIPS_MAX - 1, &n) < 0)
        return false;
    *ret_index = (size_t)n;
    return true;
}

static int check_free(Accel__V1__Device *const *devices, size_t count, size_t index,
                      struct accel_error *err)
{
    if (index >= count)
        return error_set(err, ACCEL_EBUSY, "device tpu:%zu is gone", index);
    if (devices[index]->fault[0])
        return error_set(err, ACCEL_EBUSY, "device tpu:%zu: %s", index, devices[index]->fault);
    return 0;
}

static int tpu_take(struct device_source *source, const char *const *ids, size_t count,
                    bool is_adopted, struct accel_error *err)
{
    struct tpu_source *s = CONTAINER_OF(source, struct tpu_source, source);
    struct arena arena;
    Accel__V1__Device **devices = NULL;
    size_t device_count = 0, chips = 0, index;
    int r = 0;
    for (size_t i = 0; i < count; i++)
        chips += parse_id(ids[i], &index);
    if (chips == 0)
        return 0;
    arena_init(&arena);
    if (!is_adopted)
        r = tpu_list(source, &arena, &devices, &device_count, err);
    for (size_t i = 0; i < count && r == 0 && !is_adopted; i++)
        r = parse_id(ids[i], &index) ? check_free(devices, device_count, index, err) : 0;
    if (r == 0 && !is_adopted)
        clear_lock(devices, device_count);
    arena_done(&arena);
    for (size_t i = 0; i < count && r == 0; i++) {
        if (parse_id(ids[i], &index))
            s->is_taken[index] = true;
    }
    /* What was found in use at first was ours, or what was free is somebody's. */
    if (is_adopted || r < 0)
        uv_async_send(&s->changed);
    return r;
}

static bool tpu_release(struct device_source *source, const char *const *ids, size_t count,
                        void (*on_free)(void *ctx), void *ctx)
{
    struct tpu_source *s = CONTAINER_OF(source, struct tpu_source, source);
    size_t index;
    (void)ctx;
    for (size_t i = 0; i < count; i++) {
        if (!parse_id(ids[i], &index))
            continue;
        s->is_taken[index] = false;
        if (on_free) /* whoever has it open still is none of ours; take() looks again too */
            uv_async_send(&s->changed);
    }
    return false;
}

static void on_changed(uv_async_t *async)
{
    struct tpu_source *s = async->data;
    if (s->on_change)
        s->on_change(s->ctx);
}

static void on_async_closed(uv_handle_t *handle)
{
    on_handle_closed(handle->data);
}

static void tpu_destroy(struct device_source *source)
{
    struct tpu_source *s = CONTAINER_OF(source, struct tpu_source, source);
    for (struct watch *w; (w = LIST_FIRST(&s->watches));)
        watch_end(w);
    uv_close((uv_handle_t *)&s->changed, on_async_closed);
}

static const struct device_source_ops tpu_ops = {
    .list = tpu_list, .destroy = tpu_destroy, .take = tpu_take, .release = tpu_release};

struct device_source *device_tpu_create(uv_loop_t *loop, void (*on_change)(void *), void *ctx)
{
    struct tpu_source *s = xcalloc(1, sizeof(*s));
    s->source.ops = &tpu_ops;
    s->on_change = on_change;
    s->ctx = ctx;
    CHECK(uv_async_init(loop, &s->changed, on_changed) == 0);
    s->changed.data = s;
    s->open_handles = 1;
    return &s->source;
}
