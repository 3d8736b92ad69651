/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_contract.h - what rpc.h promises of every transport, as tests: calls of every kind, how they
 * end, what callbacks may do, pauses. The including file has made rpc_world.h's server and says how
 * a client reaches it: client_connect(), and whether a loss ends calls in the order of their begin:
 * ENDS_IN_ORDER.
 */
#ifndef ACCEL_TESTS_UNIT_RPC_CONTRACT_H
#define ACCEL_TESTS_UNIT_RPC_CONTRACT_H

#include "rpc_world.h"

static void client_connect(struct client *c);

/* --- calls --- */

static void test_unary(void **state)
{
    (void)state;
    struct client c;
    struct result res;
    client_connect(&c);
    call_input(&c, &res, "/t/Echo", "hello", 5);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, 0);
    assert_int_equal(res.messages, 1);
    assert_int_equal(res.bytes, 5);
    assert_int_equal(w.who.role, RPC_ROLE_ADMIN);
    assert_true(w.who.user[0]);
    call_input(&c, &res, "/t/Echo", "", 0); /* messages of no bytes, both ways */
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, 0);
    assert_int_equal(res.messages, 1);
    client_close(&c);
    assert_int_equal(c.lost_count, 0);
}

static void test_errors(void **state)
{
    (void)state;
    struct client c;
    struct result res;
    char big[101] = {0};
    Accel__V1__InputRequest m = ACCEL__V1__INPUT_REQUEST__INIT;
    client_connect(&c);
    m.eof = true;
    memset(&res, 0, sizeof(res));
    rpc_channel_call(c.ch, "/t/Echo", &m.base, CHUNK, &handlers, &res);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, ACCEL_ENOENT);
    assert_string_equal(res.text, "no such thing\ntry: another");
    call_input(&c, &res, "/t/Ech", "x", 1);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, ACCEL_EUNIMPL);
    assert_non_null(strstr(res.text, "/t/Ech"));
    call_input(&c, &res, "/t/EchoSmall", big, sizeof(big));
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, ACCEL_EFULL);
    call_input(&c, &res, "/t/Echo", NULL, 0); /* no message, though it needs one */
    rpc_call_send(res.call, NULL);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, ACCEL_EINVAL);
    assert_int_equal(res.messages, 0);
    client_close(&c);
}

static void test_server_stream(void **state)
{
    (void)state;
    struct client c;
    struct result res;
    client_connect(&c);
    call_watch(&c, &res, "/t/Count", 100000); /* more than a socket holds */
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, 0);
    assert_int_equal(res.messages, 100000);
    assert_int_equal(res.last, 99999);
    client_close(&c);
}

static void test_bidi(void **state)
{
    (void)state;
    struct client c;
    struct result res;
    client_connect(&c);
    call_input(&c, &res, "/t/Chat", NULL, 0); /* a client stream may begin without a message */
    for (uint64_t i = 0; i < 1000; i++) {
        Accel__V1__InputRequest m = ACCEL__V1__INPUT_REQUEST__INIT;
        m.data.data = (uint8_t *)&i;
        m.data.len = sizeof(i);
        rpc_call_send(res.call, &m.base);
    }
    RUN_UNTIL(res.messages == 1000);
    assert_int_equal(res.last, 999);
    assert_int_equal(res.ends, 0);
    rpc_call_send(res.call, NULL);
    RUN_UNTIL(res.ends);
    assert_int_equal(w.half_closed_count, 1);
    assert_int_equal(w.closed_count, 0);
    client_close(&c);
}

static void test_large(void **state)
{
    (void)state;
    struct client c;
    struct result res;
    size_t len = 9u << 20;
    AUTO_FREE char *data = xcalloc(1, len);
    client_connect(&c);
    call_input(&c, &res, "/t/Echo", data, len);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, 0);
    assert_int_equal(res.bytes, len);
    client_close(&c);
}

static void test_many_in_flight(void **state)
{
    (void)state;
    struct client c;
    static struct result res[LIMIT_CALLS_PER_CONNECTION + 1];
    const size_t n = LIMIT_CALLS_PER_CONNECTION;
    client_connect(&c);
    for (size_t i = 0; i < n + 1; i++)
        call_watch(&c, &res[i], "/t/Park", i);
    RUN_UNTIL(w.parked_count == n && res[n].ends);
    assert_int_equal(res[n].code, ACCEL_EFULL);
    for (size_t i = n; i-- > 0;) {
        uint64_t v = w.parked_id[i]; /* they may have come in another order */
        send_chunk(w.parked[i], &v, sizeof(v), true);
    }
    for (size_t i = 0; i < n; i++) {
        RUN_UNTIL(res[i].ends);
        assert_int_equal(res[i].ends, 1);
        assert_int_equal(res[i].last, i);
    }
    call_watch(&c, &res[0], "/t/Park", 1); /* places are free again */
    RUN_UNTIL(w.parked_count == n + 1);
    client_close(&c);
    RUN_UNTIL(w.closed_count == 1);
}

/* --- ends of calls and connections --- */

static void test_cancel(void **state)
{
    (void)state;
    struct client c;
    struct result a, b;
    client_connect(&c);
    call_watch(&c, &a, "/t/Park", 1);
    call_watch(&c, &b, "/t/Park", 2);
    RUN_UNTIL(w.parked_count == 2);
    rpc_call_cancel(a.call);
    RUN_UNTIL(w.closed_count == 1);
    send_chunk(w.parked[0], "late", 4, true); /* ignored */
    send_chunk(w.parked[1], "ok", 2, true);
    RUN_UNTIL(b.ends);
    assert_int_equal(a.ends + a.messages, 0);
    /* The answer and the cancel cross: the answer must not reach the call that comes next. */
    call_watch(&c, &a, "/t/Park", 3);
    RUN_UNTIL(w.parked_count == 3);
    send_chunk(w.parked[2], "crossed", 7, true);
    rpc_call_cancel(a.call);
    call_watch(&c, &b, "/t/Park", 4);
    RUN_UNTIL(w.parked_count == 4);
    assert_int_equal(a.ends + b.ends + b.messages, 0);
    send_chunk(w.parked[3], "x", 1, true);
    RUN_UNTIL(b.ends);
    assert_int_equal(b.bytes, 1);
    client_close(&c);
}

/* What each callback does to its call, another call or the channel; see act(). */
enum action { ACT_NONE, ACT_CANCEL_SELF, ACT_CANCEL_OTHER, ACT_CLOSE, ACT_CALL };

static void act(struct result *res)
{
    switch ((enum action)res->action) {
    case ACT_NONE: break;
    case ACT_CANCEL_SELF:
        if (res->call)
            rpc_call_cancel(STEAL_PTR(res->call));
        break;
    case ACT_CANCEL_OTHER:
        if (res->other->call)
            rpc_call_cancel(STEAL_PTR(res->other->call));
        break;
    case ACT_CLOSE: rpc_channel_close(res->client->ch, on_flag, &res->client->is_closed); break;
    case ACT_CALL: {
        Accel__V1__WatchRequest m = ACCEL__V1__WATCH_REQUEST__INIT;
        res->other->call =
            rpc_channel_call(res->client->ch, "/t/Park", &m.base, CHUNK, &handlers, res->other);
        break;
    }
    }
    res->action = ACT_NONE;
}

static void on_message_act(void *ctx, const ProtobufCMessage *msg)
{
    on_message(ctx, msg);
    act(ctx);
}

static void on_end_act(void *ctx, int code, const char *text)
{
    on_end(ctx, code, text);
    act(ctx);
}

static const struct rpc_call_handlers acting = {on_message_act, on_end_act};

static void call_acting(struct client *c, struct result *res, struct result *other,
                        const char *method, int action)
{
    Accel__V1__WatchRequest m = ACCEL__V1__WATCH_REQUEST__INIT;
    m.job_id = 3;
    memset(res, 0, sizeof(*res));
    res->action = action;
    res->client = c;
    res->other = other;
    res->call = rpc_channel_call(c->ch, method, &m.base, CHUNK, &acting, res);
}

static void test_callbacks_act(void **state)
{
    (void)state;
    struct client c;
    struct result a, b;
    client_connect(&c);
    call_acting(&c, &a, NULL, "/t/Count", ACT_CANCEL_SELF); /* in its first of three messages */
    call_watch(&c, &b, "/t/Count", 2);
    RUN_UNTIL(b.ends);
    assert_int_equal(a.messages, 1);
    assert_int_equal(a.ends, 0);
    call_acting(&c, &a, &b, "/t/Count", ACT_CANCEL_OTHER);
    call_watch(&c, &b, "/t/Count", 2);
    RUN_UNTIL(a.ends);
    assert_int_equal(b.messages + b.ends, 0);
    call_acting(&c, &a, &b, "/t/Count", ACT_CLOSE);
    call_watch(&c, &b, "/t/Count", 2);
    RUN_UNTIL(c.is_closed);
    assert_int_equal(a.messages, 1);
    assert_int_equal(a.code, ACCEL_ECLOSED);
    assert_int_equal(b.code, ACCEL_ECLOSED);
    assert_int_equal(a.ends + b.ends, 2);
    assert_int_equal(c.lost_count, 0);
}

static void test_lost_with_open_calls(void **state)
{
    (void)state;
    struct client c;
    struct result a, b, d, extra;
    memset(&extra, 0, sizeof(extra));
    client_connect(&c);
    call_acting(&c, &a, &b, "/t/Park", ACT_CANCEL_OTHER); /* in the on_end that the loss brings */
    call_watch(&c, &b, "/t/Park", 0);
    call_acting(&c, &d, &extra, "/t/Park", ACT_CALL);
    RUN_UNTIL(w.parked_count == 3);
    server_stop();
    RUN_UNTIL(c.lost_count);
    assert_int_equal(a.code, ACCEL_ECLOSED);
    assert_int_equal(d.code, ACCEL_ECLOSED);
    if (ENDS_IN_ORDER)
        assert_int_equal(b.ends, 0);
    RUN_UNTIL(extra.ends && w.is_stopped);
    assert_int_equal(extra.code, ACCEL_ECLOSED);
    assert_int_equal(w.closed_count, 3);
    call_watch(&c, &a, "/t/Park", 0); /* a lost channel still ends its calls, from the loop */
    assert_int_equal(a.ends, 0);
    call_watch(&c, &b, "/t/Park", 0);
    rpc_call_cancel(b.call);
    RUN_UNTIL(a.ends);
    assert_int_equal(b.ends, 0);
    client_close(&c);
    assert_int_equal(c.lost_count, 1);
}

static void test_close_in_on_end_of_loss(void **state)
{
    (void)state;
    struct client c;
    struct result a, b;
    client_connect(&c);
    call_acting(&c, &a, NULL, "/t/Park", ACT_CLOSE);
    call_watch(&c, &b, "/t/Park", 0);
    RUN_UNTIL(w.parked_count == 2);
    server_stop();
    RUN_UNTIL(c.is_closed && w.is_stopped);
    assert_int_equal(a.ends + b.ends, 2);
    assert_int_equal(c.lost_count, 0); /* the owner closed it: nothing is news to it */
}

/* --- pauses and the planned end --- */

static void test_stop_flushes(void **state)
{
    (void)state;
    struct client c;
    struct result a;
    client_connect(&c);
    call_watch(&c, &a, "/t/Flood", 0);
    RUN_UNTIL(w.flood_call);
    static char block[65536];
    for (int i = 0; i < 64; i++)
        send_chunk(w.flood_call, block, sizeof(block), false);
    rpc_server_end(w.server, w.flood_call, NULL, 0, 0, NULL);
    server_stop();
    RUN_UNTIL(c.lost_count && w.is_stopped);
    assert_int_equal(a.messages, 64);
    assert_int_equal(a.code, 0);
    client_close(&c);
}

static void test_pause(void **state)
{
    (void)state;
    struct client c, other;
    struct result a, b;
    w.pause_after_open = true;
    client_connect(&c);
    client_connect(&other);
    call_input(&c, &a, "/t/Chat", NULL, 0);
    for (uint64_t i = 0; i < 100; i++) {
        Accel__V1__InputRequest m = ACCEL__V1__INPUT_REQUEST__INIT;
        m.data.data = (uint8_t *)&i;
        m.data.len = sizeof(i);
        rpc_call_send(a.call, &m.base);
    }
    RUN_UNTIL(w.last_call);
    call_watch(&other, &b, "/t/Count", 1000); /* others are served */
    RUN_UNTIL(b.ends);
    assert_int_equal(w.message_count, 0);
    rpc_server_pause(w.server, w.last_call, false);
    assert_int_equal(w.message_count, 0); /* not inside the call */
    RUN_UNTIL(a.messages == 100);
    assert_int_equal(a.last, 99);
    /* A call that ends takes its pause along. */
    rpc_server_pause(w.server, w.last_call, true);
    rpc_server_end(w.server, w.last_call, NULL, 0, 0, NULL);
    call_watch(&c, &b, "/t/Count", 1);
    RUN_UNTIL(b.ends);
    assert_int_equal(a.ends, 1);
    client_close(&c);
    client_close(&other);
}

static void test_pause_holds_back_a_flood(void **state)
{
    (void)state;
    struct client c;
    struct result a;
    static char block[60000];
    w.pause_after_open = w.pause_each = true;
    client_connect(&c);
    call_input(&c, &a, "/t/Chat", NULL, 0);
    for (int i = 0; i < 200; i++) {
        Accel__V1__InputRequest m = ACCEL__V1__INPUT_REQUEST__INIT;
        m.data.data = (uint8_t *)block;
        m.data.len = sizeof(block);
        rpc_call_send(a.call, &m.base);
    }
    RUN_UNTIL(w.last_call);
    for (int i = 0; i < 20; i++)
        uv_run(&w.loop, UV_RUN_NOWAIT);
    assert_int_equal(w.message_count, 0);
    for (size_t i = 0; i < 200; i++) { /* one at a time: the handler pauses again */
        rpc_server_pause(w.server, w.last_call, false);
        RUN_UNTIL(w.message_count > i);
        for (int k = 0; k < 3; k++)
            uv_run(&w.loop, UV_RUN_NOWAIT);
        assert_int_equal(w.message_count, i + 1);
    }
    RUN_UNTIL(a.messages == 200);
    client_close(&c);
}

#define CONTRACT_TESTS                                                                             \
    TEST(test_unary), TEST(test_errors), TEST(test_server_stream), TEST(test_bidi),                \
        TEST(test_large), TEST(test_many_in_flight), TEST(test_cancel), TEST(test_callbacks_act),  \
        TEST(test_lost_with_open_calls), TEST(test_close_in_on_end_of_loss),                       \
        TEST(test_stop_flushes), TEST(test_pause), TEST(test_pause_holds_back_a_flood)

#endif
