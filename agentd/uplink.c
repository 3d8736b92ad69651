/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way up: one channel, one Session call on it, and when to try again. Neighbours: shell.c
 * above, common/rpc_local and common/remote below. It must not look into messages.
 */
#include "agentd/uplink.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agentd/tls_files.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/path.h"
#include "common/pki.h"
#include "common/prng.h"
#include "common/remote.h"
#include "common/rpc_local.h"

#define BACKOFF_MIN_MS         50
#define BACKOFF_MAX_MS         1000
#define BACKOFF_REMOTE_MS      4000   /* back within 10 s of a restart, with a thousand others */
#define BACKOFF_REFUSED_MS     4000   /* where we are not wanted; doubling */
#define BACKOFF_REFUSED_MAX_MS 300000 /* people have to do something first */
#define LIVED_MS               1000   /* a session of so long was no mere greeting */
#define BACKOFF_APPEARED_MS    1 /* the socket's file is there: its listener is a moment away */

struct uplink {
    uv_loop_t *loop;
    struct uplink_callbacks cb;
    void *ctx;
    char *path, *dir, *base;         /* of the socket; base points into path. NULL: remote */
    const struct remote_ops *remote; /* NULL: local */
    struct remote_address address;
    char *tls_dir;
    char told[ACCEL_ERROR_TEXT]; /* why the last try failed */
    struct prng prng;
    struct rpc_channel *channel; /* NULL: none */
    struct rpc_call *call;       /* the session; NULL: none */
    bool is_open;                /* on_open was called: on_lost will be */
    bool was_answered;           /* the coordinator has said something in this session */
    bool was_hasty;              /* tried at once after a session, and none has lived since */
    bool is_refused;             /* the last try ended so, and asking again will not change it */
    int64_t answered_ms;         /* clock_mono_ms() of that */
    int64_t valid_until_ms;      /* our certificate, on the wall clock; 0: not known */
    int64_t backoff_ms, keepalive_ms;
    struct loop_timer timer;
    uv_fs_event_t watch;
    unsigned open_handles; /* timer, watch, channels that are closing */
    bool is_closing;
    void (*on_closed)(void *ctx);
    void *closed_ctx;
};

static void handle_closed(struct uplink *u)
{
    CHECK(u->open_handles > 0);
    if (--u->open_handles > 0 || !u->is_closing)
        return;
    void (*on_closed)(void *) = u->on_closed;
    void *ctx = u->closed_ctx;
    free(u->path);
    free(u->dir);
    free(u->tls_dir);
    free(u);
    if (on_closed)
        on_closed(ctx);
}

static void on_channel_closed(void *ctx)
{
    handle_closed(ctx);
}

static void drop_channel(struct uplink *u)
{
    u->call = NULL;
    if (u->channel)
        rpc_channel_close(u->channel, on_channel_closed, u);
    u->channel = NULL;
}

/* ---- when to try again ---- */

static void retry_after(struct uplink *u, int64_t delay_ms)
{
    if (!u->is_closing)
        loop_timer_set(&u->timer, clock_mono_ms() + delay_ms);
}

static void retry_later(struct uplink *u)
{
    int64_t max_ms = u->is_refused ? BACKOFF_REFUSED_MAX_MS
                     : u->remote   ? BACKOFF_REMOTE_MS
                                   : BACKOFF_MAX_MS;
    u->backoff_ms =
        MIN(u->is_refused ? MAX(u->backoff_ms, BACKOFF_REFUSED_MS) : u->backoff_ms, max_ms);
    int64_t half = (u->backoff_ms + 1) / 2;
    int64_t delay_ms = half + (int64_t)prng_below(&u->prng, (uint64_t)half + 1);
    if (u->is_refused)
        log_debug("refused; the next try is in %lld ms", (long long)delay_ms);
    retry_after(u, delay_ms);
    u->backoff_ms = MIN(u->backoff_ms * 2, max_ms);
}

static void on_directory_event(uv_fs_event_t *watch, const char *filename, int events, int status)
{
    struct uplink *u = watch->data;
    (void)events;
    if (status < 0 || u->call || !filename || strcmp(filename, u->base) != 0)
        return;
    u->backoff_ms = BACKOFF_APPEARED_MS;
    retry_after(u, 0);
}

/* Anew before each try: the directory itself may have been made again since. */
static void watch_directory(struct uplink *u)
{
    if (!u->dir)
        return;
    uv_fs_event_stop(&u->watch);
    uv_fs_event_start(&u->watch, on_directory_event, u->dir, 0); /* if not, the back-off serves */
}

/* ---- the session ---- */

static void on_message(void *ctx, const ProtobufCMessage *msg)
{
    struct uplink *u = ctx;
    if (!u->was_answered)
        u->answered_ms = clock_mono_ms();
    u->was_answered = true;
    u->told[0] = 0;
    u->cb.on_down(u->ctx, (const Accel__V1__CoordDown *)msg);
}

/* One that answered was alive: its successor may be there already. But one that ends each session
 * after its greeting would be asked in a tight loop. */
static bool is_hasty(struct uplink *u)
{
    if (!u->was_answered || u->is_refused)
        return false;
    if (!u->was_hasty || clock_mono_ms() - u->answered_ms >= LIVED_MS) {
        u->was_hasty = true;
        u->backoff_ms = BACKOFF_MIN_MS;
        return true;
    }
    return false;
}

/* Once per change of the first line: those that follow may tell the time. */
static void tell(struct uplink *u, const char *text)
{
    int len = (int)MIN(strcspn(text, "\n"), sizeof(u->told) - 1);
    bool is_news = strncmp(u->told, text, (size_t)len) != 0 || u->told[len];
    if (is_news && u->is_refused)
        log_error("the coordinator refuses this node, and is asked again every few minutes: %s",
                  text);
    else if (is_news)
        log_warn("no way to the coordinator yet: %s", text);
    snprintf(u->told, sizeof(u->told), "%.*s", len, text);
}

/* Removed, another's name, or out of time: by our clock, too, since a handshake that fails does not
 * say why. What is told of the latter replaces *text. */
static bool is_refusal(struct uplink *u, int code, const char **text, struct accel_error *err)
{
    bool is_handshake = code == ACCEL_EUNAVAIL && !u->was_answered;
    bool is_expired = u->valid_until_ms > 0 && u->valid_until_ms < clock_wall_ms();
    if (!u->remote)
        return false;
    if (is_handshake && is_expired) {
        error_set(
            err, code,
            "the certificate in %s has expired\nwhy: %.*s\ntry: accelctl node token, and start"
            " its acceld with --join TOKEN",
            u->tls_dir, (int)strcspn(*text, "\n"), *text);
        *text = err->text;
        return true;
    }
    return code == ACCEL_EPERM || code == ACCEL_EUNAUTH;
}

static void on_end(void *ctx, int code, const char *text)
{
    struct uplink *u = ctx;
    struct accel_error err;
    bool was_open = u->is_open;
    u->is_open = false;
    u->is_refused = is_refusal(u, code, &text, &err);
    drop_channel(u);
    if (is_hasty(u))
        retry_after(u, 0);
    else
        retry_later(u);
    if (!u->was_answered || u->is_refused)
        tell(u, text); /* it was not let in */
    if (was_open)
        u->cb.on_lost(u->ctx, text);
}

static const struct rpc_call_handlers call_handlers = {on_message, on_end};

static int connect_local(struct uplink *u)
{
    int fd;
    watch_directory(u);
    int r = path_socket_connect(u->path, &fd, NULL);
    if (r < 0)
        return r;
    r = rpc_local_channel_create(u->loop, fd, NULL, NULL, &u->channel, NULL);
    if (r < 0)
        close(fd);
    else
        uv_fs_event_stop(&u->watch);
    return r;
}

static void on_ready(void *ctx)
{
    struct uplink *u = ctx;
    if (!u->call || u->is_open)
        return;
    u->is_open = true;
    u->cb.on_open(u->ctx);
}

/* The files are read each time: a certificate may have been renewed, or come only now. */
static int connect_remote(struct uplink *u)
{
    struct tls_files files;
    struct accel_error err = {0};
    struct pki_cert cert = {0};
    int r = tls_files_load(u->tls_dir, &files, &err);
    if (r == 0) {
        u->remote->pki->parse(files.cert_pem, &cert, NULL); /* if not, the module says why */
        u->valid_until_ms = cert.end_ms;
        struct remote_channel_config config = {
            .host = u->address.host,
            .port = u->address.port,
            .tls = {files.ca_pem, files.cert_pem, files.key_pem},
            .on_ready = on_ready,
            .ctx = u,
            .keepalive_time_ms = (unsigned)u->keepalive_ms,
            .keepalive_timeout_ms = (unsigned)u->keepalive_ms / 2,
        };
        r = u->remote->channel_create(u->loop, &config, &u->channel, &err);
        tls_files_done(&files);
    }
    if (r < 0) {
        u->is_refused = false;
        error_wrap(&err, r, "cannot use key and certificates in %s", u->tls_dir);
        tell(u, err.text);
    }
    return r;
}

static void connect_now(void *ctx, int64_t late_ms)
{
    struct uplink *u = ctx;
    (void)late_ms;
    if (u->call || u->is_closing)
        return;
    int r = u->remote ? connect_remote(u) : connect_local(u);
    if (r < 0) {
        retry_later(u);
        return;
    }
    u->open_handles++;
    u->was_answered = false;
    u->call = rpc_channel_call(u->channel, "/accel.v1.Agent/Session", NULL,
                               &accel__v1__coord_down__descriptor, &call_handlers, u);
    if (!u->remote)
        on_ready(u);
}

void uplink_set_keepalive(struct uplink *u, int64_t keepalive_ms)
{
    u->keepalive_ms = keepalive_ms;
}

void uplink_send(struct uplink *u, const void *packed, size_t len)
{
    if (!u->call || !u->is_open)
        return;
    /* The packed message goes out as it is: all of AgentUp is one field with a one-byte tag, and a
     * field that a message does not know is packed unchanged. */
    const uint8_t *bytes = packed;
    CHECK(len >= 2 && bytes[0] < 0x80);
    ProtobufCMessageUnknownField field = {
        .tag = bytes[0] >> 3,
        .wire_type = (ProtobufCWireType)(bytes[0] & 7),
        .len = len - 1,
        .data = (uint8_t *)bytes + 1,
    };
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    up.base.n_unknown_fields = 1;
    up.base.unknown_fields = &field;
    rpc_call_send(u->call, &up.base);
}

void uplink_reset(struct uplink *u)
{
    if (u->call)
        rpc_call_cancel(u->call);
    u->is_open = false;
    drop_channel(u);
    u->is_refused = false;
    if (u->was_answered && clock_mono_ms() - u->answered_ms >= LIVED_MS)
        u->backoff_ms = BACKOFF_MIN_MS;
    retry_later(u);
}

/* ---- life ---- */

static int set_address(struct uplink *u, const char *address, const char *tls_dir,
                       struct accel_error *err)
{
    if (strncmp(address, "tcp:", 4) == 0) {
        u->tls_dir = xstrdup(tls_dir);
        int r = remote_address_parse(address, &u->address, err);
        return r < 0 ? r : remote_load(&u->remote, err);
    }
    if (strncmp(address, "unix:", 5) != 0 || address[5] != '/')
        return error_set(err, ACCEL_EINVAL,
                         "%s is no address of a coordinator: unix:/PATH or HOST[:PORT]", address);
    u->path = xstrdup(address + 5);
    u->dir = xstrdup(u->path);
    u->base = strrchr(u->path, '/') + 1;
    u->dir[u->base - 1 == u->path ? 1 : u->base - 1 - u->path] = 0;
    return 0;
}

int uplink_create(uv_loop_t *loop, const char *address, const char *tls_dir,
                  const struct uplink_callbacks *cb, void *ctx, struct uplink **ret_uplink,
                  struct accel_error *err)
{
    struct uplink *u = xcalloc(1, sizeof(*u));
    int r = set_address(u, address, tls_dir, err);
    if (r < 0) {
        free(u->tls_dir);
        free(u);
        return r;
    }
    u->loop = loop;
    u->cb = *cb;
    u->ctx = ctx;
    prng_init(&u->prng, clock_mono_ns() ^ (uint64_t)getpid());
    u->backoff_ms = BACKOFF_MIN_MS;
    u->keepalive_ms = UPLINK_KEEPALIVE_MS;
    CHECK(loop_timer_init(loop, &u->timer, connect_now, u) == 0);
    CHECK(uv_fs_event_init(loop, &u->watch) == 0);
    u->watch.data = u;
    u->open_handles = 2;
    retry_after(u, 0);
    *ret_uplink = u;
    return 0;
}

static void on_timer_closed(uv_handle_t *handle)
{
    handle_closed(CONTAINER_OF((uv_timer_t *)handle, struct uplink, timer.uv));
}

static void on_watch_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

void uplink_destroy(struct uplink *u, void (*on_closed)(void *), void *ctx)
{
    CHECK(!u->is_closing);
    u->is_closing = true;
    u->on_closed = on_closed;
    u->closed_ctx = ctx;
    if (u->call)
        rpc_call_cancel(u->call);
    drop_channel(u);
    loop_timer_close(&u->timer, on_timer_closed);
    uv_close((uv_handle_t *)&u->watch, on_watch_closed);
}
