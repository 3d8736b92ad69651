/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_world.h - what the tests of the transports share: one loop, a server with a few methods, and
 * clients. Nothing waits for time to pass: the loop runs until something has happened, and a guard
 * timer fails the test when it does not. How a server is made and reached is the including file's:
 * rpc_local_world.h or test_rpc_grpc.c.
 */
#ifndef ACCEL_TESTS_UNIT_RPC_WORLD_H
#define ACCEL_TESTS_UNIT_RPC_WORLD_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include <cmocka.h>

#include "accel/v1/job.pb-c.h"
#include "common/codec.h"
#include "common/rpc_internal.h"

#define GUARD_MS 60000 /* a sanitized build on a loaded machine stays far below */

enum method_id { M_ECHO, M_COUNT, M_CHAT, M_PARK, M_FLOOD };

/* --- the world of a test --- */

struct world {
    uv_loop_t loop;
    uv_timer_t guard;
    char dir[64], path[96];
    struct rpc_server *server;
    bool is_stopping, is_stopped;
    /* what the handlers saw */
    uint64_t parked[2048], parked_id[2048];
    size_t parked_count, closed_count, message_count, half_closed_count;
    uint64_t last_call, flood_call;
    struct rpc_identity who;
    size_t refused_count; /* for want of a role */
    bool pause_after_open, pause_each;
};
static struct world w;

static inline void send_chunk(uint64_t call, const void *data, size_t len, bool is_end)
{
    uint8_t small[256];
    Accel__V1__LogChunk m = ACCEL__V1__LOG_CHUNK__INIT;
    m.data.data = (uint8_t *)data;
    m.data.len = len;
    size_t size = accel__v1__log_chunk__get_packed_size(&m);
    AUTO_FREE uint8_t *large = NULL;
    uint8_t *p = small;
    if (size > sizeof(small))
        p = large = xrealloc(NULL, size);
    accel__v1__log_chunk__pack(&m, p);
    if (is_end)
        rpc_server_end(w.server, call, p, size, 0, NULL);
    else
        rpc_server_send(w.server, call, p, size);
}

static inline void on_echo(const struct rpc_event *ev)
{
    const Accel__V1__InputRequest *m = (const Accel__V1__InputRequest *)ev->msg;
    if (ev->type == RPC_CLOSED)
        return;
    w.who = *ev->who;
    if (m->eof)
        rpc_server_end(w.server, ev->call, NULL, 0, ACCEL_ENOENT, "no such thing\ntry: another");
    else
        send_chunk(ev->call, m->data.data, m->data.len, true);
}

static inline void on_count(const struct rpc_event *ev)
{
    if (ev->type != RPC_OPEN)
        return;
    uint64_t n = ((const Accel__V1__WatchRequest *)ev->msg)->job_id;
    for (uint64_t i = 0; i < n; i++)
        send_chunk(ev->call, &i, sizeof(i), false);
    rpc_server_end(w.server, ev->call, NULL, 0, 0, NULL);
    rpc_server_end(w.server, ev->call, NULL, 0, 0, NULL); /* no longer open: ignored */
}

static inline void on_chat(const struct rpc_event *ev)
{
    const Accel__V1__InputRequest *m = (const Accel__V1__InputRequest *)ev->msg;
    w.last_call = ev->call;
    switch (ev->type) {
    case RPC_OPEN:
        if (w.pause_after_open)
            rpc_server_pause(w.server, ev->call, true);
        break;
    case RPC_MESSAGE:
        if (w.pause_each)
            rpc_server_pause(w.server, ev->call, true);
        break;
    case RPC_HALF_CLOSE:
        w.half_closed_count++;
        rpc_server_end(w.server, ev->call, NULL, 0, 0, NULL);
        return;
    case RPC_CLOSED: w.closed_count++; return;
    }
    if (m) {
        w.message_count++;
        send_chunk(ev->call, m->data.data, m->data.len, false);
    }
}

static inline void on_park(const struct rpc_event *ev)
{
    if (ev->type == RPC_CLOSED)
        w.closed_count++;
    if (ev->type != RPC_OPEN)
        return;
    w.parked_id[w.parked_count % ARRAY_LEN(w.parked)] =
        ((const Accel__V1__WatchRequest *)ev->msg)->job_id;
    w.parked[w.parked_count++ % ARRAY_LEN(w.parked)] = ev->call;
}

static inline void on_flood(const struct rpc_event *ev)
{
    w.flood_call = ev->type == RPC_CLOSED ? 0 : ev->call;
    w.closed_count += ev->type == RPC_CLOSED;
}

static inline void on_event(void *ctx, const struct rpc_event *ev)
{
    assert_ptr_equal(ctx, &w);
    if (ev->type == RPC_OPEN || ev->type == RPC_MESSAGE)
        assert_true(ev->msg || (ev->type == RPC_OPEN && ev->method->is_client_stream));
    else
        assert_null(ev->msg);
    switch ((enum method_id)ev->method->id) {
    case M_ECHO: on_echo(ev); break;
    case M_COUNT: on_count(ev); break;
    case M_CHAT: on_chat(ev); break;
    case M_PARK: on_park(ev); break;
    case M_FLOOD: on_flood(ev); break;
    }
}

#define INPUT &accel__v1__input_request__descriptor
#define WATCH &accel__v1__watch_request__descriptor
#define CHUNK &accel__v1__log_chunk__descriptor
static const struct rpc_method methods[] = {
    {"/t/Echo", INPUT, CHUNK, false, false, RPC_ROLE_USER, 1u << 24, on_event, M_ECHO},
    {"/t/Open", INPUT, CHUNK, false, false, RPC_ROLE_NONE, 100, on_event, M_ECHO},
    {"/t/EchoSmall", INPUT, CHUNK, false, false, RPC_ROLE_USER, 100, on_event, M_ECHO},
    {"/t/Count", WATCH, CHUNK, false, true, RPC_ROLE_USER, 100, on_event, M_COUNT},
    {"/t/Chat", INPUT, CHUNK, true, true, RPC_ROLE_ADMIN, 1u << 20, on_event, M_CHAT},
    {"/t/Park", WATCH, CHUNK, false, false, RPC_ROLE_NODE, 100, on_event, M_PARK},
    {"/t/Flood", WATCH, CHUNK, false, true, RPC_ROLE_USER, 100, on_event, M_FLOOD},
};
static inline void on_role_refused(void *ctx, const struct rpc_identity *who, const char *text)
{
    assert_ptr_equal(ctx, &w);
    assert_non_null(who);
    assert_true(text[0]);
    w.refused_count++;
}

static const struct rpc_service service = {methods, ARRAY_LEN(methods), &w, NULL, on_role_refused};

static inline void on_guard(uv_timer_t *timer)
{
    (void)timer;
    fprintf(stderr, "the loop waited %d ms for something that did not happen\n", GUARD_MS);
    abort();
}

/* Runs the loop until cond. */
#define RUN_UNTIL(cond)                                                                            \
    do {                                                                                           \
        while (!(cond))                                                                            \
            uv_run(&w.loop, UV_RUN_ONCE);                                                          \
    } while (0)

static inline void world_init(void)
{
    memset(&w, 0, sizeof(w));
    uv_loop_init(&w.loop);
    uv_timer_init(&w.loop, &w.guard);
    uv_timer_start(&w.guard, on_guard, GUARD_MS, 0);
}

static inline void on_flag(void *ctx)
{
    *(bool *)ctx = true;
}

static inline void server_stop(void)
{
    if (!w.is_stopping)
        rpc_server_stop(w.server, on_flag, &w.is_stopped);
    w.is_stopping = true;
}

static inline void world_done(void)
{
    server_stop();
    RUN_UNTIL(w.is_stopped);
    uv_unref((uv_handle_t *)&w.guard); /* it still guards this */
    while (uv_run(&w.loop, UV_RUN_DEFAULT) != 0)
        ;
    uv_close((uv_handle_t *)&w.guard, NULL);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w.loop), 0); /* no handle was forgotten */
}

/* --- clients --- */

struct client {
    struct rpc_channel *ch;
    int lost_count;
    bool is_closed;
};
struct result {
    int messages, ends, code;
    uint64_t last;
    size_t bytes;
    char text[600];
    struct rpc_call *call;
    struct client *client;
    int action; /* of the tests about what callbacks may do */
    struct result *other;
};

static inline void on_lost(void *ctx)
{
    ((struct client *)ctx)->lost_count++;
}

static inline void client_close(struct client *c)
{
    rpc_channel_close(c->ch, on_flag, &c->is_closed);
    assert_false(c->is_closed);
    RUN_UNTIL(c->is_closed);
}

static inline void on_message(void *ctx, const ProtobufCMessage *msg)
{
    struct result *res = ctx;
    const Accel__V1__LogChunk *m = (const Accel__V1__LogChunk *)msg;
    assert_int_equal(res->ends, 0);
    res->messages++;
    res->bytes += m->data.len;
    if (m->data.len == sizeof(res->last))
        memcpy(&res->last, m->data.data, sizeof(res->last));
}

static inline void on_end(void *ctx, int code, const char *text)
{
    struct result *res = ctx;
    res->ends++;
    res->code = code;
    res->call = NULL;
    snprintf(res->text, sizeof(res->text), "%s", text);
}

static const struct rpc_call_handlers handlers = {on_message, on_end};

static inline void call_input(struct client *c, struct result *res, const char *method,
                              const void *data, size_t len)
{
    Accel__V1__InputRequest m = ACCEL__V1__INPUT_REQUEST__INIT;
    m.data.data = (uint8_t *)data;
    m.data.len = len;
    memset(res, 0, sizeof(*res));
    res->call = rpc_channel_call(c->ch, method, data ? &m.base : NULL, CHUNK, &handlers, res);
    assert_int_equal(res->ends, 0);
}

static inline void call_watch(struct client *c, struct result *res, const char *method, uint64_t n)
{
    Accel__V1__WatchRequest m = ACCEL__V1__WATCH_REQUEST__INIT;
    m.job_id = n;
    memset(res, 0, sizeof(*res));
    res->call = rpc_channel_call(c->ch, method, &m.base, CHUNK, &handlers, res);
}

#endif
