/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server of the module: listens, accepts calls, drains and stops. One call is rpc_grpc_call.c;
 * the table of calls is rpc.c. Nothing here may know a service.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/rpc_grpc_internal.h"

#define ACCEPTS           64u  /* calls that may come between two turns of the loop; more wait */
#define STOP_FLUSH_MS     1000 /* what a stopping server gives slow readers; rpc.h */
#define STOP_CLOSE_MS     100  /* and connections without a call, to hear that it goes */
#define KEEPALIVE_TIME_MS 20000
#define KEEPALIVE_WAIT_MS 10000
#define IDLE_MS           300000 /* a connection without a call; agents always have one */
#define PING_MIN_MS       500    /* who asks more often is sent away; acceld: 1 s at least */
#define METADATA_BYTES    16384  /* of one call's headers; refused */
#define FRAME_BYTES       4096   /* of TLS, sent: each connection has such a buffer; usual: 16384 */
#define TAG_SHIFT         (61 - RPC_SLOT_BITS) /* remote_call_tag(); see rpc_core.serial */

struct accept {
    struct wire_op op;
    struct wire_listener *listener;
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
};

static struct wire_listener *listener_of(struct rpc_server *s)
{
    return CONTAINER_OF(s, struct wire_listener, core.base);
}

/* --- accepting --- */

static void accept_next(struct wire_listener *l, struct accept *a);

static void accept_free(struct accept *a)
{
    grpc_call_details_destroy(&a->details);
    grpc_metadata_array_destroy(&a->metadata);
    free(a);
}

static void maybe_end(struct wire_listener *l);

static void on_accepted(struct wire_op *op, bool ok)
{
    struct accept *a = CONTAINER_OF(op, struct accept, op);
    struct wire_listener *l = a->listener;
    l->accepts--;
    if (!ok) {
        accept_free(a);
        maybe_end(l);
        return;
    }
    grpc_call *call = a->call;
    grpc_call_details details = a->details;
    grpc_metadata_array_destroy(&a->metadata);
    if (l->is_stopping)
        free(a);
    else
        accept_next(l, a);
    wire_served_start(l, call, &details);
}

static void accept_next(struct wire_listener *l, struct accept *a)
{
    *a = (struct accept){.listener = l};
    grpc_call_details_init(&a->details);
    grpc_metadata_array_init(&a->metadata);
    l->accepts++;
    grpc_call_error e =
        grpc_server_request_call(l->server, &a->call, &a->details, &a->metadata, l->rt->cq,
                                 l->rt->cq, wire_op_start(&a->op, on_accepted));
    CHECK(e == GRPC_CALL_OK);
}

/* --- the end --- */

static void listener_free(struct wire_listener *l)
{
    wire_standard_done(&l->standard_state);
    rpc_core_done(&l->core);
    rpc_core_done(&l->standard);
    wire_tls_destroy(l->tls);
    free(l);
}

static void maybe_end(struct wire_listener *l)
{
    if (!l->is_shut_down || l->calls_len > 0 || l->accepts > 0)
        return;
    void (*on_stopped)(void *) = l->on_stopped;
    void *ctx = l->stopped_ctx;
    struct wire_runtime *rt = l->rt;
    wire_timer_stop(&l->stop_timer);
    rpc_list_remove(&l->refused.node);
    grpc_server_destroy(l->server);
    listener_free(l);
    wire_runtime_put(rt, on_stopped, ctx);
}

static void on_shut_down(struct wire_op *op, bool ok)
{
    struct wire_listener *l = CONTAINER_OF(op, struct wire_listener, shutdown);
    (void)ok;
    l->is_shut_down = true;
    maybe_end(l);
}

static void on_stop_due(struct wire_timer *t)
{
    grpc_server_cancel_all_calls(CONTAINER_OF(t, struct wire_listener, stop_timer)->server);
}

void wire_listener_call_gone(struct wire_listener *l)
{
    l->calls_len--;
    if (l->is_stopping && l->calls_len == 0 && !l->is_shut_down)
        wire_timer_set(l->rt, &l->stop_timer, STOP_CLOSE_MS);
    maybe_end(l);
}

static void on_stop(struct wire_op *op, bool ok)
{
    struct wire_listener *l = CONTAINER_OF(op, struct wire_listener, stop);
    (void)ok;
    for (struct rpc_list *node = l->calls.next; node != &l->calls; node = node->next)
        wire_served_stop(node); /* nodes only leave when operations come back */
    wire_timer_set(l->rt, &l->stop_timer, l->calls_len > 0 ? STOP_FLUSH_MS : STOP_CLOSE_MS);
    grpc_server_shutdown_and_notify(l->server, l->rt->cq,
                                    wire_op_start(&l->shutdown, on_shut_down));
}

static void server_stop(struct rpc_server *s, void (*on_stopped)(void *), void *ctx)
{
    struct wire_listener *l = listener_of(s);
    CHECK(!l->is_stopping);
    l->is_stopping = l->is_draining = true;
    l->on_stopped = on_stopped;
    l->stopped_ctx = ctx;
    wire_op_post(l->rt, &l->stop, on_stop);
}

/* --- what remote.h has beside rpc.h --- */

uint16_t wire_server_port(const struct rpc_server *s)
{
    return listener_of((struct rpc_server *)s)->port;
}

size_t wire_server_calls(const struct rpc_server *s)
{
    const struct wire_listener *l = listener_of((struct rpc_server *)s);
    size_t count = 0;
    for (const struct rpc_list *node = l->calls.next; node != &l->calls; node = node->next)
        count += wire_served_is_open(node);
    return count;
}

size_t wire_server_drop(struct rpc_server *s, const char *serial)
{
    struct wire_listener *l = listener_of(s);
    size_t count = 0;
    for (struct rpc_list *node = l->calls.next; node != &l->calls; node = node->next) {
        if (!wire_served_is_open(node) || strcmp(wire_served_serial(node), serial) != 0)
            continue;
        wire_served_drop(node, ACCEL_EPERM);
        count++;
    }
    return count;
}

void wire_server_drain(struct rpc_server *s)
{
    struct wire_listener *l = listener_of(s);
    if (l->is_draining)
        return;
    l->is_draining = true;
    wire_standard_drain(&l->standard_state);
}

int wire_server_set_tls(struct rpc_server *s, const struct remote_tls *tls, struct accel_error *err)
{
    return wire_tls_set(listener_of(s)->tls, tls, err);
}

static void on_refused(struct wire_refused *r, const char *text)
{
    struct wire_listener *l = CONTAINER_OF(r, struct wire_listener, refused);
    if (l->config.on_refused && !l->is_stopping)
        l->config.on_refused(l->config.ctx, text);
}

/* --- the beginning --- */

static const struct rpc_server_ops server_ops = {rpc_core_send, rpc_core_end, server_stop,
                                                 rpc_core_pause};

/* The largest message that any method takes; each method's own cap is checked by rpc.c. */
static int largest_message(const struct rpc_service *svc)
{
    uint32_t bytes = LIMIT_SMALL_MESSAGE_BYTES;
    for (size_t i = 0; i < svc->count; i++)
        bytes = MAX(bytes, svc->methods[i].cap_bytes);
    return (int)bytes;
}

static grpc_arg int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

static grpc_server *make_server(const struct remote_server_config *config)
{
    int time_ms = (int)(config->keepalive_time_ms ? config->keepalive_time_ms : KEEPALIVE_TIME_MS);
    int wait_ms =
        (int)(config->keepalive_timeout_ms ? config->keepalive_timeout_ms : KEEPALIVE_WAIT_MS);
    grpc_arg args[] = {
        int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0),
        int_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0), /* half of the CPU of a beat */
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, largest_message(config->service)),
        int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1),
        int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0), /* see wire_bytes_read */
        int_arg(GRPC_ARG_TSI_MAX_FRAME_SIZE, FRAME_BYTES),
        int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, (int)LIMIT_CALLS_PER_CONNECTION),
        int_arg(GRPC_ARG_MAX_METADATA_SIZE, METADATA_BYTES),
        int_arg(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, wait_ms), /* who connects and says nothing */
        int_arg(GRPC_ARG_MAX_CONNECTION_IDLE_MS, IDLE_MS),
        int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, time_ms),
        int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, wait_ms),
        int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, PING_MIN_MS),
    };
    grpc_channel_args all = {ARRAY_LEN(args), args};
    return grpc_server_create(&all, NULL);
}

struct listen_address {
    char text[INET6_ADDRSTRLEN + 16]; /* as gRPC wants it */
    struct sockaddr_storage sa;
    socklen_t len;
};

static int address_resolve(const struct remote_server_config *config, struct listen_address *a,
                           struct accel_error *err)
{
    char host[INET6_ADDRSTRLEN] = "";
    struct sockaddr_in *v4 = (struct sockaddr_in *)&a->sa;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a->sa;
    size_t len = strlen(config->host);
    bool has_brackets = len > 2 && config->host[0] == '[' && config->host[len - 1] == ']';
    memset(a, 0, sizeof(*a));
    if (len < sizeof(host))
        memcpy(host, config->host + has_brackets, len - 2u * has_brackets);
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(config->port);
        a->len = sizeof(*v4);
        snprintf(a->text, sizeof(a->text), "%s:%u", host, config->port);
        return 0;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(config->port);
        a->len = sizeof(*v6);
        snprintf(a->text, sizeof(a->text), "[%s]:%u", host, config->port);
        return 0;
    }
    return error_set(err, ACCEL_EINVAL,
                     "cannot listen on %.200s\nwhy: it is not an IP address\n"
                     "try: 0.0.0.0 for all of this host's, or one of them",
                     config->host);
}

/* gRPC only logs why it cannot bind: asked again, by ourselves. */
static int bind_error(const struct listen_address *a, struct accel_error *err)
{
    AUTO_CLOSE int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (fd < 0 || bind(fd, (const struct sockaddr *)&a->sa, a->len) < 0 || listen(fd, 1) < 0)
        return error_sys(err, errno, "cannot listen on %s", a->text);
    return error_set(err, ACCEL_EBUSY, "cannot listen on %s", a->text);
}

static int listener_bind(struct wire_listener *l, struct accel_error *err)
{
    struct listen_address a;
    int r = address_resolve(&l->config, &a, err);
    if (r < 0)
        return r;
    grpc_server_credentials *creds = wire_tls_credentials(l->tls);
    if (!creds)
        return error_set(err, ACCEL_EINVAL, "the certificates cannot be used for TLS");
    int port = grpc_server_add_http2_port(l->server, a.text, creds);
    grpc_server_credentials_release(creds);
    if (port <= 0)
        return bind_error(&a, err);
    l->port = (uint16_t)port;
    return 0;
}

int wire_server_create(uv_loop_t *loop, const struct remote_server_config *config,
                       struct rpc_server **ret_server, struct accel_error *err)
{
    struct wire_tls *tls;
    CHECK(config->tag >= 1 && config->tag <= 7);
    int r = wire_tls_create(&config->tls, &tls, err);
    if (r < 0)
        return r;
    struct wire_listener *l = xcalloc(1, sizeof(*l));
    l->config = *config;
    l->tls = tls;
    l->rt = wire_runtime_get(loop);
    rpc_list_init(&l->calls);
    rpc_list_init(&l->refused.node);
    wire_timer_init(&l->stop_timer, on_stop_due);
    wire_standard_service(&l->standard_state, &l->standard_service);
    rpc_core_init(&l->core, &server_ops, &wire_served_hooks, config->service);
    rpc_core_init(&l->standard, &server_ops, &wire_served_hooks, &l->standard_service);
    l->core.serial = (uint64_t)config->tag << TAG_SHIFT;
    l->standard_state.server = &l->standard.base;
    l->server = make_server(config);
    grpc_server_register_completion_queue(l->server, l->rt->cq, NULL);
    r = listener_bind(l, err);
    grpc_server_start(l->server); /* also one that is not to be: only so can it be shut down */
    if (r < 0) {
        l->is_stopping = true;
        l->on_stopped = NULL;
        wire_op_post(l->rt, &l->stop, on_stop);
        return r;
    }
    l->refused.on_refused = on_refused;
    rpc_list_append(&l->rt->refused, &l->refused.node);
    for (unsigned i = 0; i < ACCEPTS; i++)
        accept_next(l, xcalloc(1, sizeof(struct accept)));
    *ret_server = &l->core.base;
    return 0;
}
