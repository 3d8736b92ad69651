/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds and loads the module that goes remote, and lends it our loop: libuv is linked statically
 * into each program, so the module must not bring a second one. Neighbours: rpc_grpc*.c, which are
 * the module. Nothing here may include gRPC.
 */
#include "common/remote.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/str.h"

#define MODULE "accel-grpc.so"

/* --- the loop, lent --- */

struct waker {
    uv_async_t async;
    uv_timer_t timer;
    void (*on_wake)(void *ctx);
    void (*on_due)(void *ctx);
    void (*on_closed)(void *ctx);
    void *ctx;
    unsigned handles; /* open ones */
};

static void on_async(uv_async_t *async)
{
    struct waker *w = async->data;
    if (!w->on_closed)
        w->on_wake(w->ctx);
}

static void on_timer(uv_timer_t *timer)
{
    struct waker *w = timer->data;
    w->on_due(w->ctx);
}

static void *waker_create(void *loop, void (*on_wake)(void *), void (*on_due)(void *), void *ctx)
{
    struct waker *w = xcalloc(1, sizeof(*w));
    CHECK(uv_async_init(loop, &w->async, on_async) == 0);
    CHECK(uv_timer_init(loop, &w->timer) == 0);
    w->async.data = w->timer.data = w;
    w->handles = 2;
    w->on_wake = on_wake;
    w->on_due = on_due;
    w->ctx = ctx;
    return w;
}

static void waker_wake(void *waker)
{
    uv_async_send(&((struct waker *)waker)->async);
}

static void waker_timer(void *waker, int64_t timeout_ms)
{
    struct waker *w = waker;
    if (timeout_ms < 0) {
        uv_timer_stop(&w->timer);
        return;
    }
    uv_update_time(w->timer.loop); /* else the time may have begun in the past */
    uv_timer_start(&w->timer, on_timer, (uint64_t)timeout_ms, 0);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct waker *w = handle->data;
    if (--w->handles > 0)
        return;
    void (*on_closed)(void *) = w->on_closed;
    void *ctx = w->ctx;
    free(w);
    on_closed(ctx);
}

static void waker_close(void *waker, void (*on_closed)(void *))
{
    struct waker *w = waker;
    w->on_closed = on_closed;
    uv_close((uv_handle_t *)&w->async, on_handle_closed);
    uv_close((uv_handle_t *)&w->timer, on_handle_closed);
}

static void host_log(int level, const char *text)
{
    log_line((enum log_level)level, "%s", text);
}

static const struct remote_host host = {waker_create, waker_wake, waker_timer, waker_close,
                                        host_log};

/* --- the module --- */

/* Tries DIR/SUB/accel-grpc.so. ACCEL_ENOENT: there is no such file. */
static int try_open(const char *dir, const char *sub, void **ret_module, struct accel_error *err)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s%s/" MODULE, dir, sub);
    if (n < 0 || (size_t)n >= sizeof(path) || access(path, F_OK) < 0)
        return ACCEL_ENOENT;
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!module)
        return error_set(err, ACCEL_EUNIMPL,
                         "cannot load %s\nwhy: %s\ntry: install libgrpc (Debian: libgrpc29)", path,
                         dlerror());
    *ret_module = module;
    return 0;
}

static int find_module(void **ret_module, struct accel_error *err)
{
    /* The last two are where the build tree has it, seen from programs and from tests. */
    static const char *const subs[] = {"", "/../lib/accel", "/../common", "/../../common"};
    char dir[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);
    int r = ACCEL_ENOENT;
    if (n < 0)
        return error_sys(err, errno, "cannot tell where this program is");
    dir[n] = 0;
    char *slash = strrchr(dir, '/');
    if (slash)
        *slash = 0;
    for (size_t i = 0; i < ARRAY_LEN(subs) && r == ACCEL_ENOENT; i++)
        r = try_open(dir, subs[i], ret_module, err);
    if (r == ACCEL_ENOENT)
        r = try_open(ACCEL_MODULE_DIR, "", ret_module, err);
    if (r == ACCEL_ENOENT)
        return error_set(err, r,
                         "this program cannot speak to other machines\n"
                         "why: " MODULE " is not in %.200s nor in " ACCEL_MODULE_DIR "\n"
                         "try: install it, or use a coordinator on this host (unix:PATH)",
                         dir);
    return r;
}

int remote_load(const struct remote_ops **ret_ops, struct accel_error *err)
{
    static const struct remote_ops *loaded;
    void *module = NULL;
    if (!loaded) {
        int r = find_module(&module, err);
        if (r < 0)
            return r;
        remote_open_fn open_module = (remote_open_fn)dlsym(module, REMOTE_OPEN_SYMBOL);
        loaded = open_module ? open_module(REMOTE_ABI, &host) : NULL;
        if (!loaded)
            return error_set(err, ACCEL_ENEWER,
                             MODULE " is of another version than this program\n"
                                    "try: install both from the same build");
    }
    *ret_ops = loaded;
    return 0;
}
