/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server of rpc_local. The tables of calls are in rpc.c, the byte streams in
 * rpc_local_stream.c; here are who may connect and who is calling. Callbacks of users only run from
 * the loop's own callbacks here, never from the functions of rpc_local.h. Nothing here may know a
 * service.
 */
#include "common/rpc_local.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/rpc_local_internal.h"
#include "common/str.h"

#define ACCEPTS_PER_TURN                                                                           \
    64 /* so that a storm of connects does not starve those who are connected */
#define ACCEPT_RETRY_MS                                                                            \
    100 /* after accept failed for want of memory: a level-triggered poll would spin */
#define STOP_FLUSH_MS 1000 /* what a stopping server gives slow readers; rpc.h */
#define USERS_CACHED  256u /* names by uid; above, the oldest entry goes */

struct local_user {
    uint32_t uid;
    char name[sizeof(((struct rpc_identity *)0)->user)];
};
struct local_server {
    struct rpc_core core;
    struct rpc_pump pump;
    uv_poll_t listener;
    uv_timer_t timer; /* accepting again; the end of a stop */
    int listen_fd, spare_fd;
    unsigned handles; /* open ones, connections apart */
    size_t conns_count;
    struct rpc_list conns;
    struct local_user *users;
    size_t users_len, users_next;
    bool is_listening, is_stopping;
    void (*on_stopped)(void *ctx);
    void *stopped_ctx;
};
struct local_conn {
    struct rpc_stream stream;
    struct rpc_conn conn;
    struct rpc_list node;
};

static struct local_server *conn_server(struct rpc_conn *c)
{
    return CONTAINER_OF(c->core, struct local_server, core);
}

static struct local_conn *stream_conn(struct rpc_stream *s)
{
    return CONTAINER_OF(s, struct local_conn, stream);
}

static int on_conn_frame(struct rpc_stream *s, const uint8_t *p, size_t len)
{
    return rpc_core_on_frame(&stream_conn(s)->conn, p, len);
}

static void on_conn_lost(struct rpc_stream *s)
{
    struct local_conn *c = stream_conn(s);
    rpc_conn_gone(&c->conn, false);
}

static void on_conn_closed(struct rpc_stream *s)
{
    struct local_conn *c = stream_conn(s);
    struct local_server *server = conn_server(&c->conn);
    rpc_list_remove(&c->node);
    server->conns_count--;
    free(c);
    if (server->is_stopping)
        rpc_pump_wake(&server->pump);
}

static const struct rpc_stream_hooks conn_stream_hooks = {on_conn_frame, on_conn_lost,
                                                          on_conn_closed};

static void conn_emit(struct rpc_conn *c, const struct rpc_frame *f)
{
    rpc_stream_write(&CONTAINER_OF(c, struct local_conn, conn)->stream, f);
}

static void conn_flow(struct rpc_conn *c, bool paused)
{
    if (!conn_server(c)->is_stopping) /* then nothing is read any more */
        rpc_stream_pause(&CONTAINER_OF(c, struct local_conn, conn)->stream, paused);
}

static void conn_fail(struct rpc_conn *c)
{
    rpc_stream_break(&CONTAINER_OF(c, struct local_conn, conn)->stream);
}

static const struct rpc_core_hooks conn_hooks = {conn_emit, conn_flow, conn_fail};

/* The name may cost a look into a directory service, hence the cache; a renamed user is seen after
 * a restart. */
static const char *user_name(struct local_server *s, uint32_t uid)
{
    struct passwd pw, *found = NULL;
    char buf[4096];
    for (size_t i = 0; i < s->users_len; i++)
        if (s->users[i].uid == uid)
            return s->users[i].name;
    if (!s->users)
        s->users = xcalloc(USERS_CACHED, sizeof(*s->users));
    struct local_user *u = &s->users[s->users_next];
    s->users_next = (s->users_next + 1) % USERS_CACHED;
    s->users_len = MAX(s->users_len, s->users_next ? s->users_next : USERS_CACHED);
    u->uid = uid;
    if (getpwuid_r(uid, &pw, buf, sizeof(buf), &found) == 0 && found &&
        str_copy(u->name, sizeof(u->name), found->pw_name))
        return u->name;
    snprintf(u->name, sizeof(u->name), "%u", uid);
    return u->name;
}

/* Goes through all only where there are so many that it matters. */
static bool has_too_many(const struct local_server *s, uint32_t uid)
{
    size_t count = 0;
    if (s->conns_count < LIMIT_CONNECTIONS_PER_USER || uid == 0 || uid == geteuid())
        return s->conns_count >= LIMIT_CONNECTIONS;
    for (struct rpc_list *node = s->conns.next; node != &s->conns; node = node->next)
        count += CONTAINER_OF(node, struct local_conn, node)->conn.who.uid == uid;
    return count >= LIMIT_CONNECTIONS_PER_USER || s->conns_count >= LIMIT_CONNECTIONS;
}

static void server_accept(struct local_server *s, int fd)
{
    AUTO_CLOSE int owned = fd;
    struct ucred cred;
    socklen_t size = sizeof(cred);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) != 0 || size != sizeof(cred) ||
        has_too_many(s, cred.uid))
        return;
    AUTO_FREE struct local_conn *c = xcalloc(1, sizeof(*c));
    struct rpc_identity who = {
        .role = RPC_ROLE_USER, .uid = cred.uid, .gid = cred.gid, .pid = (uint32_t)cred.pid};
    who.is_local = true;
    if (cred.uid == 0 || cred.uid == geteuid())
        who.role = RPC_ROLE_ADMIN;
    str_copy(who.user, sizeof(who.user), user_name(s, cred.uid));
    int r = rpc_stream_init(&c->stream, &s->pump, fd, &conn_stream_hooks, NULL);
    if (r < 0)
        return;
    owned = -1;
    rpc_conn_init(&c->conn, &s->core, &who);
    rpc_list_append(&s->conns, &c->node);
    s->conns_count++;
    c = NULL;
}

/* With no descriptor left, the spare one is given up to accept and close, so that clients see an
 * end and poll does not spin. */
static bool server_accept_spare(struct local_server *s)
{
    if (s->spare_fd < 0)
        return false;
    base_close_fd(&s->spare_fd);
    s->spare_fd = -1;
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    base_close_fd(&fd);
    s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd >= 0 || s->spare_fd >= 0;
}

static void on_accept_again(uv_timer_t *timer);

/* Returns false when nobody waits (or nothing can be done for now). */
static bool server_accept_next(struct local_server *s)
{
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        server_accept(s, fd);
        return true;
    }
    if (errno == EAGAIN)
        return false;
    if (errno == EINTR || errno == ECONNABORTED)
        return true;
    if ((errno == EMFILE || errno == ENFILE) && server_accept_spare(s))
        return true;
    uv_poll_stop(&s->listener);
    uv_timer_start(&s->timer, on_accept_again, ACCEPT_RETRY_MS, 0);
    return false;
}

static void on_listener_poll(uv_poll_t *poll, int status, int events)
{
    struct local_server *s = poll->data;
    (void)status;
    (void)events;
    for (int i = 0; i < ACCEPTS_PER_TURN && server_accept_next(s); i++)
        ;
}

static void on_accept_again(uv_timer_t *timer)
{
    struct local_server *s = timer->data;
    if (s->is_listening)
        uv_poll_start(&s->listener, UV_READABLE, on_listener_poll);
}

static void server_free(struct local_server *s)
{
    void (*on_stopped)(void *) = s->on_stopped;
    void *ctx = s->stopped_ctx;
    rpc_pump_done(&s->pump);
    rpc_core_done(&s->core);
    base_close_fd(&s->spare_fd);
    free(s->users);
    free(s);
    if (on_stopped)
        on_stopped(ctx);
}

static void on_server_handle_closed(uv_handle_t *handle)
{
    struct local_server *s = handle->data;
    if (--s->handles == 0)
        server_free(s);
}

/* Closes those that have sent all, or all of them. */
static void server_close_conns(struct local_server *s, bool all)
{
    struct rpc_list *node = s->conns.next, *next;
    for (; node != &s->conns; node = next) {
        struct rpc_stream *stream = &CONTAINER_OF(node, struct local_conn, node)->stream;
        next = node->next; /* nodes only leave in uv's close callbacks */
        if (all || stream->is_broken || rpc_buf_len(&stream->out) == 0)
            rpc_stream_lose(stream);
    }
}

static void on_server_turn(struct rpc_pump *p)
{
    struct local_server *s = CONTAINER_OF(p, struct local_server, pump);
    if (!s->is_stopping)
        return;
    server_close_conns(s, false);
    if (s->conns_count > 0 || uv_is_closing((uv_handle_t *)&s->timer))
        return;
    uv_close((uv_handle_t *)&s->timer, on_server_handle_closed);
    rpc_pump_close(&s->pump, on_server_handle_closed);
}

static void on_stop_due(uv_timer_t *timer)
{
    server_close_conns(timer->data, true);
}

void rpc_local_server_refuse_new(struct rpc_server *server)
{
    struct local_server *s = (struct local_server *)server;
    if (!s->is_listening)
        return;
    /* Whoever is in the backlog has connected, as far as it can tell: it is served. */
    for (int i = 0; i < LIMIT_RPC_BACKLOG && server_accept_next(s); i++)
        ;
    s->is_listening = false;
    uv_timer_stop(&s->timer);
    uv_close((uv_handle_t *)&s->listener, on_server_handle_closed);
    base_close_fd(&s->listen_fd);
}

static void server_stop(struct rpc_server *server, void (*on_stopped)(void *), void *ctx)
{
    struct local_server *s = (struct local_server *)server;
    CHECK(!s->is_stopping);
    rpc_local_server_refuse_new(server);
    s->is_stopping = true;
    s->on_stopped = on_stopped;
    s->stopped_ctx = ctx;
    for (struct rpc_list *node = s->conns.next; node != &s->conns; node = node->next)
        rpc_stream_pause(&CONTAINER_OF(node, struct local_conn, node)->stream, true);
    uv_update_time(s->timer.loop); /* else the second may have begun in the past */
    uv_timer_start(&s->timer, on_stop_due, STOP_FLUSH_MS, 0);
    rpc_pump_wake(&s->pump);
}

size_t rpc_local_server_connections(const struct rpc_server *server)
{
    return ((const struct local_server *)server)->conns_count;
}

static const struct rpc_server_ops server_ops = {rpc_core_send, rpc_core_end, server_stop,
                                                 rpc_core_pause};

int rpc_local_server_create(uv_loop_t *loop, int listen_fd, const struct rpc_service *svc,
                            struct rpc_server **ret_server, struct accel_error *err)
{
    AUTO_FREE struct local_server *s = xcalloc(1, sizeof(*s));
    int r = uv_poll_init(loop, &s->listener, listen_fd);
    if (r < 0)
        return error_sys(err, -r, "cannot watch the listening socket");
    rpc_core_init(&s->core, &server_ops, &conn_hooks, svc);
    rpc_pump_init(&s->pump, loop, on_server_turn, s);
    uv_timer_init(loop, &s->timer);
    s->listener.data = s->timer.data = s;
    s->handles = 4;
    s->listen_fd = listen_fd;
    s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    s->is_listening = true;
    rpc_list_init(&s->conns);
    r = uv_poll_start(&s->listener, UV_READABLE, on_listener_poll);
    CHECK(r == 0);
    *ret_server = &s->core.base;
    s = NULL;
    return 0;
}
