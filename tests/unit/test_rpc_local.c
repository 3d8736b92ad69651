/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_local over real unix sockets, both ends in one loop: the contract of every transport
 * (rpc_contract.h), and what is its own. Peers that break the protocol are in
 * test_rpc_local_peers.c.
 */
#include "rpc_local_world.h"

#define ENDS_IN_ORDER true
#include "rpc_contract.h"

static void client_connect(struct client *c)
{
    client_open(c, raw_connect());
}

static void test_identity(void **state)
{
    (void)state;
    struct client c;
    struct result res;
    client_connect(&c);
    call_input(&c, &res, "/t/Echo", "hello", 5);
    RUN_UNTIL(res.ends);
    assert_int_equal(w.who.uid, geteuid());
    assert_int_equal(w.who.pid, getpid());
    assert_true(w.who.is_local && w.who.user[0]);
    assert_int_equal(rpc_local_server_connections(w.server), 1);
    client_close(&c);
    RUN_UNTIL(rpc_local_server_connections(w.server) == 0);
    assert_int_equal(c.lost_count, 0);
}

static void test_refuse_new(void **state)
{
    (void)state;
    struct client c, late;
    struct result a, b;
    client_open(&c, raw_connect());
    client_open(&late, raw_connect()); /* connected, though not accepted yet */
    rpc_local_server_refuse_new(w.server);
    int fd = -1;
    assert_true(path_socket_connect(w.path, &fd, NULL) < 0);
    call_watch(&c, &a, "/t/Count", 1);
    call_watch(&late, &b, "/t/Count", 1);
    RUN_UNTIL(a.ends && b.ends);
    assert_int_equal(a.code + b.code, 0);
    client_close(&c);
    client_close(&late);
}

static void test_stop_is_bounded(void **state)
{
    (void)state;
    int fd = raw_connect();
    AUTO_STR struct str out;
    Accel__V1__Frame f = ACCEL__V1__FRAME__INIT;
    f.kind = ACCEL__V1__FRAME__KIND__OPEN;
    f.call = 7;
    f.method = (char *)"/t/Flood";
    f.has_body = true;
    str_init(&out);
    codec_add(&out, &f.base);
    assert_int_equal(codec_write_all(fd, out.data, out.len, NULL), 0);
    RUN_UNTIL(w.flood_call);
    static char block[65536];
    for (int i = 0; i < 64; i++) /* nobody reads them */
        send_chunk(w.flood_call, block, sizeof(block), false);
    uint64_t start = uv_hrtime();
    server_stop();
    RUN_UNTIL(w.is_stopped);
    assert_int_equal(w.closed_count, 1);
    assert_true(uv_hrtime() - start >= 900000000u);
    close(fd);
}

/* --- caps --- */

static void test_send_queue_cap(void **state)
{
    (void)state;
    int fd = raw_connect();
    AUTO_STR struct str out;
    Accel__V1__Frame f = ACCEL__V1__FRAME__INIT;
    f.kind = ACCEL__V1__FRAME__KIND__OPEN;
    f.call = 1;
    f.method = (char *)"/t/Flood";
    f.has_body = true;
    str_init(&out);
    codec_add(&out, &f.base);
    assert_int_equal(codec_write_all(fd, out.data, out.len, NULL), 0);
    RUN_UNTIL(w.flood_call);
    AUTO_FREE char *block = xcalloc(1, 32u << 20);
    uint64_t call = w.flood_call;
    for (int i = 0; i < 6; i++)
        send_chunk(call, block, 32u << 20, false);
    assert_int_equal(w.closed_count, 0); /* not inside the call */
    RUN_UNTIL(w.closed_count);
    RUN_UNTIL(rpc_local_server_connections(w.server) == 0);
    close(fd);
}

static void test_coalesced(void **state)
{
    (void)state;
    struct client c;
    struct result res[10];
    int pair[2];
    char buf[4096];
    /* Each send is one packet here, so packets count system calls. */
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    client_open(&c, pair[0]);
    for (int i = 0; i < 10; i++)
        call_watch(&c, &res[i], "/t/Count", 1);
    assert_true(recv(pair[1], buf, sizeof(buf), MSG_DONTWAIT) < 0);
    uv_run(&w.loop, UV_RUN_NOWAIT);
    ssize_t n = recv(pair[1], buf, sizeof(buf), MSG_DONTWAIT);
    assert_true(n > 10 * (ssize_t)strlen("/t/Count"));
    assert_true(recv(pair[1], buf, sizeof(buf), MSG_DONTWAIT) < 0 && errno == EAGAIN);
    client_close(&c);
    close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CONTRACT_TESTS,
        TEST(test_identity),
        TEST(test_refuse_new),
        TEST(test_stop_is_bounded),
        TEST(test_send_queue_cap),
        TEST(test_coalesced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
