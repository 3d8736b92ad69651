/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_sim: the same calls in virtual time. Roles are tested here, because identities can be chosen;
 * cuts and kills; and that a run follows from its seed alone. The last test lets random things
 * happen to clients and servers under many seeds and keeps books on both sides.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "accel/v1/job.pb-c.h"
#include "common/rpc_internal.h"
#include "common/rpc_sim.h"
#include "common/str.h"

#define PARKED 4096u

enum method_id { M_COUNT, M_CHAT, M_PARK };

struct world {
    struct rpc_sim *sim;
    struct rpc_server *server;
    uint64_t parked[PARKED];
    size_t parked_count, closed_count, message_count, opened_count;
    uint64_t last_call, last_value;
    bool pause_each;
    struct str trace;
};
static struct world w;

static void send_value(uint64_t call, uint64_t value, bool is_end)
{
    uint8_t buf[32];
    Accel__V1__SubmitReply m = ACCEL__V1__SUBMIT_REPLY__INIT;
    m.job_id = value;
    size_t len = accel__v1__submit_reply__pack(&m, buf);
    if (is_end)
        rpc_server_end(w.server, call, buf, len, 0, NULL);
    else
        rpc_server_send(w.server, call, buf, len);
}

static void on_event(void *ctx, const struct rpc_event *ev)
{
    const Accel__V1__WatchRequest *m = (const Accel__V1__WatchRequest *)ev->msg;
    assert_ptr_equal(ctx, &w);
    w.last_call = ev->call;
    w.opened_count += ev->type == RPC_OPEN;
    w.closed_count += ev->type == RPC_CLOSED;
    str_addf(&w.trace, "server %s %d\n", ev->method->name, (int)ev->type);
    if (ev->method->id == M_COUNT && ev->type == RPC_OPEN) {
        for (uint64_t i = 0; i < m->job_id; i++)
            send_value(ev->call, i, false);
        rpc_server_end(w.server, ev->call, NULL, 0, 0, NULL);
    } else if (ev->method->id == M_PARK && ev->type == RPC_OPEN) {
        w.parked[w.parked_count++ % PARKED] = ev->call;
    } else if (ev->method->id == M_CHAT && ev->type == RPC_MESSAGE) {
        assert_true(m->job_id > w.last_value); /* in order */
        w.last_value = m->job_id;
        w.message_count++;
        send_value(ev->call, m->job_id, false);
        if (w.pause_each)
            rpc_server_pause(w.server, ev->call, true);
    } else if (ev->method->id == M_CHAT && ev->type == RPC_HALF_CLOSE) {
        rpc_server_end(w.server, ev->call, NULL, 0, 0, NULL);
    }
}

#define WATCH &accel__v1__watch_request__descriptor
#define REPLY &accel__v1__submit_reply__descriptor
static const struct rpc_method methods[] = {
    {"/t/Count", WATCH, REPLY, false, true, RPC_ROLE_USER, 100, on_event, M_COUNT},
    {"/t/Chat", WATCH, REPLY, true, true, RPC_ROLE_USER, 100, on_event, M_CHAT},
    {"/t/Park", WATCH, REPLY, false, false, RPC_ROLE_USER, 100, on_event, M_PARK},
    {"/t/Node", WATCH, REPLY, false, true, RPC_ROLE_NODE, 100, on_event, M_COUNT},
    {"/t/Operate", WATCH, REPLY, false, true, RPC_ROLE_OPERATOR, 100, on_event, M_COUNT},
    {"/t/Admin", WATCH, REPLY, false, true, RPC_ROLE_ADMIN, 100, on_event, M_COUNT},
};
static const struct rpc_service service = {methods, ARRAY_LEN(methods), &w};

static void world_open(uint64_t seed)
{
    struct rpc_sim_config config = {seed, 1, 20};
    memset(&w, 0, sizeof(w));
    str_init(&w.trace);
    w.sim = rpc_sim_create(&config);
    w.server = rpc_sim_serve(w.sim, "coordinator", &service);
}

/* Until nothing is under way. */
static void settle(void)
{
    while (rpc_sim_next_ms(w.sim) >= 0)
        rpc_sim_run(w.sim, rpc_sim_next_ms(w.sim));
}

static void on_flag(void *ctx)
{
    *(bool *)ctx = true;
}

static void world_close(void)
{
    bool is_stopped = false;
    rpc_server_stop(w.server, on_flag, &is_stopped);
    assert_false(is_stopped);
    settle();
    assert_true(is_stopped);
    assert_int_equal(rpc_sim_next_ms(w.sim), -1);
    rpc_sim_destroy(w.sim);
    str_done(&w.trace);
}

static int setup(void **state)
{
    (void)state;
    world_open(1);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    world_close();
    return 0;
}

struct result {
    int messages, ends, code;
    uint64_t last;
    struct rpc_call *call;
    char text[200];
};

static void on_message(void *ctx, const ProtobufCMessage *msg)
{
    struct result *res = ctx;
    assert_int_equal(res->ends, 0);
    res->messages++;
    res->last = ((const Accel__V1__SubmitReply *)msg)->job_id;
    str_addf(&w.trace, "client %u\n", (unsigned)res->last);
}

static void on_end(void *ctx, int code, const char *text)
{
    struct result *res = ctx;
    res->ends++;
    res->code = code;
    res->call = NULL;
    str_copy(res->text, sizeof(res->text), text);
    str_addf(&w.trace, "client end %s\n", accel_error_name(code));
}

static const struct rpc_call_handlers handlers = {on_message, on_end};
static const struct rpc_identity somebody = {.role = RPC_ROLE_USER, .uid = 1000, .user = "ann"};

static struct rpc_channel *connect_as(const struct rpc_identity *who, bool *lost)
{
    struct rpc_channel *ch = NULL;
    *lost = false;
    assert_int_equal(rpc_sim_connect(w.sim, "coordinator", who, on_flag, lost, &ch), 0);
    return ch;
}

static void close_now(struct rpc_channel *ch)
{
    bool closed = false;
    rpc_channel_close(ch, on_flag, &closed);
    assert_false(closed);
    settle();
    assert_true(closed);
}

static void call(struct rpc_channel *ch, struct result *res, const char *method, uint64_t n)
{
    Accel__V1__WatchRequest m = ACCEL__V1__WATCH_REQUEST__INIT;
    m.job_id = n;
    memset(res, 0, sizeof(*res));
    res->call = rpc_channel_call(ch, method, &m.base, REPLY, &handlers, res);
}

static void send_more(struct result *res, uint64_t n)
{
    Accel__V1__WatchRequest m = ACCEL__V1__WATCH_REQUEST__INIT;
    m.job_id = n;
    rpc_call_send(res->call, &m.base);
}

static void test_calls(void **state)
{
    (void)state;
    struct result a, b;
    bool lost;
    struct rpc_channel *ch = connect_as(&somebody, &lost);
    assert_int_equal(rpc_sim_next_ms(w.sim), -1);
    call(ch, &a, "/t/Count", 50);
    int64_t due = rpc_sim_next_ms(w.sim);
    assert_in_range(due, 1, 20);
    rpc_sim_run(w.sim, due - 1);
    assert_int_equal(w.opened_count, 0);
    rpc_sim_run(w.sim, due);
    assert_int_equal(w.opened_count, 1);
    assert_int_equal(a.messages, 0);
    rpc_sim_run(w.sim, due + 20);
    assert_int_equal(a.messages, 50);
    assert_int_equal(a.last, 49);
    assert_int_equal(a.code, 0);
    call(ch, &a, "/t/Chat", 0);
    for (uint64_t i = 1; i <= 50; i++)
        send_more(&a, i);
    rpc_call_send(a.call, NULL);
    call(ch, &b, "/t/None", 0);
    settle();
    assert_int_equal(a.last, 50);
    assert_int_equal(a.ends, 1);
    assert_int_equal(b.code, ACCEL_EUNIMPL);
    struct rpc_channel *none = NULL;
    assert_int_equal(rpc_sim_connect(w.sim, "nobody", &somebody, NULL, NULL, &none), ACCEL_ECLOSED);
    close_now(ch);
    assert_false(lost);
}

static void test_roles(void **state)
{
    (void)state;
    static const struct {
        enum rpc_role role;
        const char *method;
        int code;
        bool is_remote;
    } cases[] = {
        {RPC_ROLE_NONE, "/t/Count", ACCEL_EPERM, true},
        {RPC_ROLE_NONE, "/t/Node", ACCEL_EPERM, true},
        {RPC_ROLE_ADMIN, "/t/Node", ACCEL_EPERM, true}, /* from elsewhere: not this host */
        {RPC_ROLE_NODE, "/t/Node", 0},
        {RPC_ROLE_USER, "/t/Node", ACCEL_EPERM},
        {RPC_ROLE_OPERATOR, "/t/Node", ACCEL_EPERM},
        {RPC_ROLE_ADMIN, "/t/Node", 0},
        {RPC_ROLE_NODE, "/t/Count", ACCEL_EPERM},
        {RPC_ROLE_USER, "/t/Count", 0},
        {RPC_ROLE_ADMIN, "/t/Count", 0},
        {RPC_ROLE_USER, "/t/Operate", ACCEL_EPERM},
        {RPC_ROLE_OPERATOR, "/t/Operate", 0},
        {RPC_ROLE_OPERATOR, "/t/Admin", ACCEL_EPERM},
        {RPC_ROLE_ADMIN, "/t/Admin", 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct rpc_identity who = somebody;
        struct result res;
        bool lost;
        who.role = cases[i].role;
        who.is_local = !cases[i].is_remote;
        struct rpc_channel *ch = connect_as(&who, &lost);
        call(ch, &res, cases[i].method, 1);
        settle();
        assert_int_equal(res.ends, 1);
        assert_int_equal(res.code, cases[i].code);
        assert_int_equal(res.messages, cases[i].code == 0);
        if (cases[i].code < 0)
            assert_non_null(strstr(res.text, "ann"));
        close_now(ch);
    }
}

static void test_visible_cut(void **state)
{
    (void)state;
    struct result a, b;
    bool lost;
    struct rpc_channel *ch = connect_as(&somebody, &lost);
    call(ch, &a, "/t/Park", 0);
    rpc_sim_run(w.sim, 100);
    rpc_sim_cut(w.sim, ch, true);
    assert_false(lost);
    assert_int_equal(a.ends, 0);
    rpc_sim_run(w.sim, 200);
    assert_true(lost);
    assert_int_equal(a.code, ACCEL_ECLOSED);
    assert_int_equal(w.closed_count, 1);
    send_value(w.parked[0], 1, true); /* ignored */
    call(ch, &b, "/t/Park", 0);
    assert_int_equal(b.ends, 0);
    rpc_sim_run(w.sim, 300);
    assert_int_equal(b.code, ACCEL_ECLOSED);
    close_now(ch);
}

static void test_silent_cut(void **state)
{
    (void)state;
    struct result a, b, c;
    bool lost, other_lost;
    struct rpc_channel *ch = connect_as(&somebody, &lost),
                       *other = connect_as(&somebody, &other_lost);
    call(ch, &a, "/t/Park", 0);
    call(other, &c, "/t/Park", 0);
    rpc_sim_run(w.sim, 100);
    rpc_sim_cut(w.sim, ch, false);
    rpc_sim_cut(w.sim, other, false);
    call(ch, &b, "/t/Park", 0);
    for (size_t i = 0; i < 2; i++)
        send_value(w.parked[i], 1, true);
    assert_int_equal(rpc_sim_next_ms(w.sim), -1); /* nothing will arrive */
    rpc_sim_run(w.sim, 1000000);
    assert_int_equal(a.ends + b.ends + c.ends + lost + other_lost, 0);
    assert_int_equal(w.closed_count, 0);
    rpc_sim_cut(w.sim, ch, true);
    rpc_sim_run(w.sim, 2000000);
    assert_true(lost && a.ends && b.ends);
    assert_int_equal(w.parked_count, 2);
    close_now(ch);
    close_now(other); /* giving up; its call had ended at the server */
    assert_int_equal(c.code, ACCEL_ECLOSED);
    assert_int_equal(w.closed_count, 0);
}

static void test_kills(void **state)
{
    (void)state;
    struct result a, b;
    bool lost, lost_b;
    struct rpc_channel *ch = connect_as(&somebody, &lost), *other = connect_as(&somebody, &lost_b);
    call(ch, &a, "/t/Park", 0);
    call(other, &b, "/t/Park", 0);
    rpc_sim_run(w.sim, 100);
    rpc_sim_kill_channel(w.sim, ch);
    rpc_sim_run(w.sim, 200);
    assert_int_equal(a.ends + lost, 0); /* its own side is no more */
    assert_int_equal(w.closed_count, 1);
    rpc_sim_kill_server(w.sim, w.server);
    assert_int_equal(w.closed_count, 1);
    assert_int_equal(b.ends + lost_b, 0);
    w.server = rpc_sim_serve(w.sim, "coordinator", &service); /* the next one */
    rpc_sim_run(w.sim, 300);
    assert_int_equal(b.code, ACCEL_ECLOSED);
    assert_true(lost_b);
    close_now(other);
    ch = connect_as(&somebody, &lost);
    call(ch, &a, "/t/Count", 3);
    settle();
    assert_int_equal(a.messages, 3);
    close_now(ch);
}

static void test_pause(void **state)
{
    (void)state;
    struct result a;
    bool lost;
    struct rpc_channel *ch = connect_as(&somebody, &lost);
    w.pause_each = true;
    call(ch, &a, "/t/Chat", 0);
    for (uint64_t i = 1; i <= 20; i++)
        send_more(&a, i);
    for (uint64_t i = 1; i <= 20; i++) {
        rpc_sim_run(w.sim, (int64_t)i * 1000);
        assert_int_equal(w.message_count, i);
        rpc_server_pause(w.server, w.last_call, false);
        assert_int_equal(w.message_count, i);
    }
    rpc_server_pause(w.server, w.last_call, true);
    rpc_sim_cut(w.sim, ch, true); /* waits behind the pause, at the server */
    rpc_sim_run(w.sim, 50000);
    assert_true(lost);
    assert_int_equal(w.closed_count, 0);
    rpc_server_pause(w.server, w.last_call, false);
    settle();
    assert_int_equal(w.closed_count, 1);
    close_now(ch);
}

static void test_stop(void **state)
{
    (void)state;
    struct result a, b;
    bool lost, is_stopped = false;
    struct rpc_channel *ch = connect_as(&somebody, &lost), *none = NULL;
    call(ch, &a, "/t/Park", 0);
    rpc_sim_run(w.sim, 100);
    rpc_server_stop(w.server, on_flag, &is_stopped);
    assert_int_equal(rpc_sim_connect(w.sim, "coordinator", &somebody, NULL, NULL, &none),
                     ACCEL_ECLOSED);
    rpc_sim_run(w.sim, 200);
    assert_true(is_stopped && lost);
    assert_int_equal(w.closed_count, 1);
    call(ch, &b, "/t/Park", 0);
    rpc_call_cancel(b.call);
    close_now(ch);
    assert_int_equal(a.ends, 1);
    assert_int_equal(b.ends, 0);
    w.server = rpc_sim_serve(w.sim, "coordinator", &service);
}

/* --- random runs --- */

enum { CLIENTS = 4, CALLS = 8, STEPS = 300 };

struct monkey {
    struct prng prng;
    struct rpc_channel *ch[CLIENTS];
    bool lost[CLIENTS];
    struct result res[CLIENTS][CALLS];
    unsigned started, ended, cancelled, killed; /* calls, at the client */
};

static unsigned count_open(struct monkey *k, unsigned c, bool ended)
{
    unsigned n = 0;
    for (unsigned i = 0; i < CALLS; i++)
        n += ended ? (unsigned)k->res[c][i].ends : k->res[c][i].call != NULL;
    return n;
}

static void monkey_call(struct monkey *k, unsigned c)
{
    static const char *const names[] = {"/t/Count", "/t/Park", "/t/Chat"};
    struct result *res = &k->res[c][prng_below(&k->prng, CALLS)];
    uint64_t dice = prng_below(&k->prng, 3);
    if (res->call && dice == 0) {
        rpc_call_cancel(STEAL_PTR(res->call));
        k->cancelled++;
    } else if (!res->call) {
        k->ended += (unsigned)res->ends;
        call(k->ch[c], res, names[dice], prng_below(&k->prng, 5));
        k->started++;
    }
}

static void monkey_client_ends(struct monkey *k, unsigned c, bool kill)
{
    if (kill) {
        k->killed += count_open(k, c, false);
        rpc_sim_kill_channel(w.sim, k->ch[c]);
        for (unsigned i = 0; i < CALLS; i++)
            k->res[c][i].call = NULL;
    } else {
        rpc_channel_close(k->ch[c], NULL, NULL);
        rpc_sim_run(w.sim, rpc_sim_next_ms(w.sim));
    }
    k->ch[c] = NULL;
}

static void monkey_step(struct monkey *k, int64_t *now)
{
    unsigned c = (unsigned)prng_below(&k->prng, CLIENTS);
    uint64_t dice = prng_below(&k->prng, 100);
    *now += (int64_t)prng_below(&k->prng, 10);
    rpc_sim_run(w.sim, *now);
    if (!k->ch[c])
        k->ch[c] = connect_as(&somebody, &k->lost[c]);
    else if (dice < 60)
        monkey_call(k, c);
    else if (dice < 85 && w.parked_count > 0)
        send_value(w.parked[prng_below(&k->prng, MIN(w.parked_count, PARKED))], dice, true);
    else if (dice < 90)
        rpc_sim_cut(w.sim, k->ch[c], dice < 88);
    else if (dice < 96)
        monkey_client_ends(k, c, dice < 93);
    else if (dice == 99) {
        rpc_sim_kill_server(w.sim, w.server);
        w.server = rpc_sim_serve(w.sim, "coordinator", &service);
        w.parked_count = 0;
    }
}

/* One run; its trace is left in w.trace. */
static void monkey_run(uint64_t seed, struct monkey *k)
{
    int64_t now = 0;
    memset(k, 0, sizeof(*k));
    prng_init(&k->prng, seed);
    for (int i = 0; i < STEPS; i++)
        monkey_step(k, &now);
    for (unsigned c = 0; c < CLIENTS; c++) {
        if (k->ch[c])
            rpc_channel_close(k->ch[c], NULL, NULL);
    }
    settle();
    for (unsigned c = 0; c < CLIENTS; c++) {
        assert_int_equal(count_open(k, c, false), 0);
        k->ended += count_open(k, c, true);
    }
    /* Every call ended exactly once, was cancelled, or died with its process. */
    assert_int_equal(k->started, k->ended + k->cancelled + k->killed);
}

static void test_seeds(void **state)
{
    (void)state;
    static struct monkey k;
    size_t differ = 0, cancelled = 0, killed = 0;
    AUTO_STR struct str before;
    str_init(&before);
    for (uint64_t seed = 1; seed <= 150; seed++) {
        AUTO_STR struct str first;
        str_init(&first);
        for (int round = 0; round < 2; round++) {
            world_close();
            world_open(seed);
            w.last_value = 0;
            monkey_run(seed, &k);
            if (round == 0)
                str_adds(&first, w.trace.data);
        }
        assert_string_equal(first.data, w.trace.data);
        assert_true(k.ended > 10 && w.trace.len > 1000);
        cancelled += k.cancelled;
        killed += k.killed;
        differ += strcmp(before.data, first.data) != 0;
        str_clear(&before);
        str_adds(&before, first.data);
    }
    assert_int_equal(differ, 150);
    assert_true(cancelled > 300 && killed > 300);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_calls), TEST(test_roles), TEST(test_visible_cut), TEST(test_silent_cut),
        TEST(test_kills), TEST(test_pause), TEST(test_stop),        TEST(test_seeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
