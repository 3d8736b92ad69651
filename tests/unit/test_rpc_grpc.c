/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The module that goes remote over real loopback sockets with certificates: the contract of every
 * transport (rpc_contract.h), who a caller is, revocation, draining, health, and one channel after
 * another. What peers do wrong is in test_rpc_grpc_peers.c.
 */
#include "rpc_grpc_world.h"

#define ENDS_IN_ORDER false
#include "rpc_contract.h"

static void client_connect(struct client *c)
{
    client_open(c, &r.user);
}

static void test_identity(void **state)
{
    (void)state;
    struct client c, n;
    struct result res;
    client_open(&c, &r.user);
    client_open(&n, &r.node);
    call_input(&c, &res, "/t/Echo", "hello", 5);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, 0);
    assert_string_equal(seen.peer.kind, "user");
    assert_string_equal(seen.peer.name, "ada");
    assert_string_equal(seen.peer.serial, r.user.is.serial);
    assert_int_equal(seen.peer.not_after_ms, r.user.is.end_ms);
    assert_string_equal(w.who.serial, r.user.is.serial);
    assert_string_equal(w.who.user, "ada");
    assert_int_equal(strncmp(seen.peer.address, "ipv4:127.0.0.1:", 15), 0);
    call_input(&n, &res, "/t/Echo", "hello", 5);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, ACCEL_EPERM); /* this identify gives nodes no role */
    assert_string_equal(seen.peer.kind, "node");
    assert_string_equal(seen.peer.name, "n1");
    assert_int_equal(seen.identified, 2);
    client_close(&c);
    client_close(&n);
}

static void test_no_certificate(void **state)
{
    (void)state;
    struct client c;
    struct result res;
    client_open(&c, NULL);
    call_input(&c, &res, "/t/Echo", "hello", 5);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, ACCEL_EPERM);
    assert_non_null(strstr(res.text, "has the role none"));
    assert_false(seen.peer.has_certificate);
    assert_int_equal(w.refused_count, 1);
    call_input(&c, &res, "/grpc.health.v1.Health/Check", NULL, 0);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, ACCEL_EUNAUTH);
    assert_int_equal(w.refused_count, 2);
    call_input(&c, &res, "/t/Open", "hello", 5); /* as Enroll is: for anybody */
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, 0);
    assert_int_equal(res.bytes, 5);
    client_close(&c);
}

static void test_revoked(void **state)
{
    (void)state;
    struct client c;
    struct result parked, chat, res;
    client_open(&c, &r.user);
    call_watch(&c, &parked, "/t/Park", 1);
    call_input(&c, &chat, "/t/Chat", NULL, 0);
    RUN_UNTIL(w.parked_count == 1 && w.last_call);
    assert_int_equal(r.ops->server_calls(w.server), 2);
    assert_int_equal(remote_call_tag(w.last_call), 1);
    snprintf(seen.revoked, sizeof(seen.revoked), "%s", r.user.is.serial);
    assert_int_equal(r.ops->server_drop(w.server, r.node.is.serial), 0);
    assert_int_equal(r.ops->server_drop(w.server, r.user.is.serial), 2);
    assert_int_equal(w.closed_count, 0); /* not inside the call */
    RUN_UNTIL(parked.ends && chat.ends);
    assert_int_equal(parked.code, ACCEL_EPERM);
    assert_int_equal(chat.code, ACCEL_EPERM);
    assert_int_equal(w.closed_count, 2);
    call_input(&c, &res, "/t/Echo", "x", 1); /* the connection is still there */
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, ACCEL_EPERM);
    assert_non_null(strstr(res.text, "revoked"));
    client_close(&c);
}

static void test_drain(void **state)
{
    (void)state;
    struct client c;
    struct result parked, res;
    client_open(&c, &r.user);
    call_watch(&c, &parked, "/t/Park", 1);
    RUN_UNTIL(w.parked_count == 1);
    r.ops->server_drain(w.server);
    call_input(&c, &res, "/t/Echo", "x", 1);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, ACCEL_EUNAVAIL);
    assert_int_equal(c.lost_count, 0);
    send_chunk(w.parked[0], "ok", 2, true);
    RUN_UNTIL(parked.ends);
    assert_int_equal(parked.code, 0);
    client_close(&c);
}

static void test_reconnect(void **state)
{
    (void)state;
    struct accel_error err;
    struct remote_server_config config = server_config();
    struct client c;
    struct result res;
    config.port = seen.port;
    for (int i = 0; i < 3; i++) {
        client_open(&c, &r.user);
        call_watch(&c, &res, "/t/Park", 1);
        RUN_UNTIL(w.parked_count == (size_t)i + 1);
        server_stop();
        RUN_UNTIL(c.lost_count && w.is_stopped);
        assert_int_equal(res.code, ACCEL_ECLOSED);
        client_close(&c);
        client_open(&c, &r.user); /* nobody is there */
        call_watch(&c, &res, "/t/Park", 1);
        RUN_UNTIL(c.lost_count);
        assert_int_equal(res.code, ACCEL_EUNAVAIL);
        assert_non_null(strstr(res.text, "Connection refused"));
        client_close(&c);
        w.is_stopping = w.is_stopped = false;
        assert_int_equal(r.ops->server_create(&w.loop, &config, &w.server, &err), 0);
    }
}

static void test_port_in_use(void **state)
{
    (void)state;
    struct accel_error err = {0};
    struct rpc_server *other = NULL;
    struct remote_server_config config = server_config();
    config.tag = 2;
    config.port = seen.port;
    assert_int_equal(r.ops->server_create(&w.loop, &config, &other, &err), ACCEL_EBUSY);
    assert_non_null(strstr(err.text, "in use"));
    config.host = "no.address.example";
    assert_int_equal(r.ops->server_create(&w.loop, &config, &other, &err), ACCEL_EINVAL);
    config.host = "192.0.2.1"; /* TEST-NET-1: not of this host */
    assert_true(r.ops->server_create(&w.loop, &config, &other, &err) < 0);
    config.tls.key_pem = r.user.key; /* of another certificate */
    assert_int_equal(r.ops->server_create(&w.loop, &config, &other, &err), ACCEL_EINVAL);
    assert_null(other);
}

static void test_slow_reader_is_bounded(void **state)
{
    (void)state;
    struct client c;
    struct result res;
    static char block[65536];
    client_open(&c, &r.user);
    call_watch(&c, &res, "/t/Flood", 0);
    RUN_UNTIL(w.flood_call);
    uint64_t call = w.flood_call;
    /* Within one turn nothing can leave: the queue grows to its cap, and the call ends. */
    for (size_t sent = 0; sent <= LIMIT_SEND_QUEUE_BYTES; sent += sizeof(block))
        send_chunk(call, block, sizeof(block), false);
    assert_int_equal(w.closed_count, 0);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, ACCEL_EFULL);
    assert_int_equal(w.closed_count, 1);
    call_input(&c, &res, "/t/Echo", "x", 1); /* others are not harmed */
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, 0);
    client_close(&c);
}

static void test_renewed_certificate(void **state)
{
    (void)state;
    struct client c;
    struct result res;
    struct cert renewed;
    struct accel_error err;
    client_open(&c, &r.user);
    call_input(&c, &res, "/t/Echo", "x", 1);
    RUN_UNTIL(res.ends);
    make_cert(r.ca_key, r.ca, PKI_COORDINATOR, PKI_COORDINATOR_NAME, clock_wall_ms(), DAY_MS,
              &renewed);
    struct remote_tls tls = {r.ca, renewed.pem, renewed.key};
    assert_int_equal(r.ops->server_set_tls(w.server, &tls, &err), 0);
    tls.key_pem = r.user.key;
    assert_int_equal(r.ops->server_set_tls(w.server, &tls, &err), ACCEL_EINVAL);
    call_input(&c, &res, "/t/Echo", "x", 1);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, 0);
    client_close(&c);
    client_open(&c, &r.user);
    call_input(&c, &res, "/t/Echo", "x", 1);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, 0);
    client_close(&c);
    cert_done(&renewed);
}

static void test_cancel_is_no_half_close(void **state)
{
    (void)state;
    struct client c;
    struct result res;
    client_open(&c, &r.user);
    for (size_t i = 0; i < 50; i++) {
        w.last_call = 0;
        call_input(&c, &res, "/t/Chat", NULL, 0);
        RUN_UNTIL(w.last_call);
        rpc_call_cancel(res.call);
        RUN_UNTIL(w.closed_count == i + 1);
        assert_int_equal(w.half_closed_count, 0);
    }
    client_close(&c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        CONTRACT_TESTS,
        TEST(test_identity),
        TEST(test_no_certificate),
        TEST(test_revoked),
        TEST(test_drain),
        TEST(test_reconnect),
        TEST(test_port_in_use),
        TEST(test_slow_reader_is_bounded),
        TEST(test_renewed_certificate),
        TEST(test_cancel_is_no_half_close),
    };
    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL);
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
