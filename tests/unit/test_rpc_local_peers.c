/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_local against peers that break the protocol or want too much: one end is played by hand with
 * raw bytes. The peer loses its connection or its call; nobody else notices.
 */
#include "rpc_local_world.h"

static void add_frame(struct str *out, int kind, uint32_t call, const char *method,
                      const void *body, size_t len)
{
    Accel__V1__Frame f = ACCEL__V1__FRAME__INIT;
    f.kind = (Accel__V1__Frame__Kind)kind;
    f.call = call;
    if (method)
        f.method = (char *)method;
    f.has_body = body != NULL;
    f.body.data = (uint8_t *)body;
    f.body.len = len;
    codec_add(out, &f.base);
}

/* Sends bytes to the server by hand; it must close the connection, and serve a bystander as before.
 */
static void expect_server_closes(const void *p, size_t len, bool shut)
{
    struct client bystander;
    struct result parked, res;
    char buf[8192];
    size_t before = w.parked_count;
    client_open(&bystander, raw_connect());
    call_watch(&bystander, &parked, "/t/Park", 1);
    RUN_UNTIL(w.parked_count > before);
    int fd = raw_connect();
    assert_int_equal(codec_write_all(fd, p, len, NULL), 0);
    if (shut)
        shutdown(fd, SHUT_WR);
    RUN_UNTIL(rpc_local_server_connections(w.server) == 2);
    RUN_UNTIL(rpc_local_server_connections(w.server) == 1);
    ssize_t n;
    while ((n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
        ;
    assert_true(n == 0 || errno == ECONNRESET);
    close(fd);
    call_watch(&bystander, &res, "/t/Count", 1);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, 0);
    assert_int_equal(parked.ends, 0);
    client_close(&bystander);
    RUN_UNTIL(rpc_local_server_connections(w.server) == 0);
}

static void test_server_bad_bytes(void **state)
{
    (void)state;
    AUTO_STR struct str s;
    str_init(&s);
    expect_server_closes("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27, false); /* an enormous length */
    expect_server_closes("\x05\0\0\0\xff\xff\xff\xff\xff", 9, false);     /* not a message */
    expect_server_closes("\0\0\0\0", 4, false);                           /* a frame of no kind */
    expect_server_closes("\x01\0\0\x04", 4, false);               /* one byte above 64 MiB */
    expect_server_closes("\x05\0\0\0\x08\x01", 6, true);          /* cut off */
    add_frame(&s, ACCEL__V1__FRAME__KIND__END, 1, NULL, NULL, 0); /* only servers send this */
    expect_server_closes(s.data, s.len, false);
    str_clear(&s);
    add_frame(&s, 99, 1, NULL, NULL, 0);
    expect_server_closes(s.data, s.len, false);
    str_clear(&s); /* a call number twice */
    add_frame(&s, ACCEL__V1__FRAME__KIND__OPEN, 5, "/t/Park", "", 0);
    add_frame(&s, ACCEL__V1__FRAME__KIND__OPEN, 5, "/t/Park", "", 0);
    w.closed_count = 0;
    expect_server_closes(s.data, s.len, false);
    assert_int_equal(w.closed_count, 2); /* that call, and the bystander's */
    str_clear(&s);                       /* a second message for a method that takes one */
    add_frame(&s, ACCEL__V1__FRAME__KIND__OPEN, 5, "/t/Park", "", 0);
    add_frame(&s, ACCEL__V1__FRAME__KIND__MESSAGE, 5, NULL, "", 0);
    expect_server_closes(s.data, s.len, false);
    str_clear(&s); /* a message after the half close */
    add_frame(&s, ACCEL__V1__FRAME__KIND__OPEN, 5, "/t/Chat", NULL, 0);
    add_frame(&s, ACCEL__V1__FRAME__KIND__MESSAGE, 5, NULL, "\x08\x01", 2);
    w.pause_after_open = false;
    add_frame(&s, ACCEL__V1__FRAME__KIND__OPEN, 5, "/t/Chat", NULL, 0);
    expect_server_closes(s.data, s.len, false);
}

static int read_end(int fd, uint32_t *ret_code, char *text, size_t size)
{
    uint8_t *data = NULL;
    size_t len;
    RUN_UNTIL(recv(fd, &len, 1, MSG_PEEK | MSG_DONTWAIT) > 0);
    int r = codec_read_frame(fd, LIMIT_FRAME_BYTES, &data, &len, NULL);
    if (r < 0)
        return r;
    Accel__V1__Frame *f = accel__v1__frame__unpack(NULL, len, data);
    assert_non_null(f);
    *ret_code = f->code;
    str_copy(text, size, f->text);
    r = (int)f->kind;
    accel__v1__frame__free_unpacked(f, NULL);
    free(data);
    return r;
}

static void test_server_refuses_one_call(void **state)
{
    (void)state;
    int fd = raw_connect();
    uint32_t code = 0;
    char text[600];
    AUTO_STR struct str s;
    str_init(&s);
    add_frame(&s, ACCEL__V1__FRAME__KIND__MESSAGE, 77, NULL, "",
              0); /* for calls that ended: no harm */
    add_frame(&s, ACCEL__V1__FRAME__KIND__CANCEL, 78, NULL, NULL, 0);
    add_frame(&s, ACCEL__V1__FRAME__KIND__HALF_CLOSE, 79, NULL, NULL, 0);
    add_frame(&s, ACCEL__V1__FRAME__KIND__OPEN, 1, "/t/Echo", "\xff\xff",
              2); /* not an InputRequest */
    add_frame(&s, ACCEL__V1__FRAME__KIND__OPEN, 2, "/t/\x01\xff", "", 0);
    assert_int_equal(codec_write_all(fd, s.data, s.len, NULL), 0);
    assert_int_equal(read_end(fd, &code, text, sizeof(text)), ACCEL__V1__FRAME__KIND__END);
    assert_int_equal(code, 3);
    assert_non_null(strstr(text, "InputRequest"));
    assert_int_equal(read_end(fd, &code, text, sizeof(text)), ACCEL__V1__FRAME__KIND__END);
    assert_int_equal(code, 12);
    assert_non_null(strstr(text, "/t/??"));
    str_clear(&s); /* in the middle of a stream: that call ends, and its handler knows */
    add_frame(&s, ACCEL__V1__FRAME__KIND__OPEN, 3, "/t/Chat", NULL, 0);
    add_frame(&s, ACCEL__V1__FRAME__KIND__MESSAGE, 3, NULL, "\xff\xff", 2);
    add_frame(&s, ACCEL__V1__FRAME__KIND__MESSAGE, 3, NULL, "", 0);
    assert_int_equal(codec_write_all(fd, s.data, s.len, NULL), 0);
    assert_int_equal(read_end(fd, &code, text, sizeof(text)), ACCEL__V1__FRAME__KIND__END);
    assert_int_equal(code, 3);
    assert_int_equal(w.closed_count, 1);
    assert_int_equal(w.message_count, 0);
    str_clear(&s);
    for (uint32_t i = 0; i <= LIMIT_CALLS_PER_CONNECTION; i++)
        add_frame(&s, ACCEL__V1__FRAME__KIND__OPEN, 1000 + i, "/t/Park", "", 0);
    assert_int_equal(codec_write_all(fd, s.data, s.len, NULL), 0);
    assert_int_equal(read_end(fd, &code, text, sizeof(text)), ACCEL__V1__FRAME__KIND__END);
    assert_int_equal(code, 8);
    assert_int_equal(w.parked_count, LIMIT_CALLS_PER_CONNECTION);
    close(fd);
    RUN_UNTIL(w.closed_count == 1 + LIMIT_CALLS_PER_CONNECTION);
}

static void test_byte_by_byte(void **state)
{
    (void)state;
    int fd = raw_connect();
    uint32_t code = 9;
    char text[600];
    AUTO_STR struct str s;
    str_init(&s);
    for (uint32_t i = 0; i < 3; i++)
        add_frame(&s, ACCEL__V1__FRAME__KIND__OPEN, i, "/t/Echo", "\x1a\x02hi", 4);
    for (size_t i = 0; i < s.len; i++) {
        assert_int_equal(send(fd, s.data + i, 1, 0), 1);
        uv_run(&w.loop, UV_RUN_NOWAIT);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(read_end(fd, &code, text, sizeof(text)), ACCEL__V1__FRAME__KIND__END);
        assert_int_equal(code, 0);
    }
    close(fd);
}

/* A server played by hand sends bytes to a client with a call open. */
static void expect_client_lost(const void *p, size_t len, bool end)
{
    struct client c;
    struct result res;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    client_open(&c, pair[0]);
    call_watch(&c, &res, "/t/Count", 1);
    assert_int_equal(codec_write_all(pair[1], p, len, NULL), 0);
    if (end)
        close(pair[1]);
    RUN_UNTIL(c.lost_count);
    assert_int_equal(res.ends, 1);
    assert_int_equal(res.code, ACCEL_ECLOSED);
    if (!end)
        close(pair[1]);
    client_close(&c);
    assert_int_equal(c.lost_count, 1);
}

static void test_client_bad_bytes(void **state)
{
    (void)state;
    AUTO_STR struct str s;
    str_init(&s);
    expect_client_lost("", 0, true);
    expect_client_lost("\x05\0\0\0\x08\x01", 6, true);
    expect_client_lost("\xff\xff\xff\xff", 4, false);
    expect_client_lost("\x01\0\0\0\x08", 5, false);
    add_frame(&s, ACCEL__V1__FRAME__KIND__OPEN, 1, "/t/Count", "", 0);
    expect_client_lost(s.data, s.len, false);
    str_clear(&s);
    add_frame(&s, ACCEL__V1__FRAME__KIND__MESSAGE, 1, NULL, NULL, 0);
    expect_client_lost(s.data, s.len, false);
    str_clear(&s); /* answers to calls that are not open are ignored; then the end */
    add_frame(&s, ACCEL__V1__FRAME__KIND__END, 12345, NULL, NULL, 0);
    add_frame(&s, ACCEL__V1__FRAME__KIND__MESSAGE, 0, NULL, "", 0);
    expect_client_lost(s.data, s.len, true);
}

static void test_client_bad_answer(void **state)
{
    (void)state;
    struct client c;
    struct result res;
    int pair[2];
    uint8_t *data = NULL;
    size_t len;
    AUTO_STR struct str s;
    str_init(&s);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    client_open(&c, pair[0]);
    call_watch(&c, &res, "/t/Count", 1);
    uv_run(&w.loop, UV_RUN_NOWAIT);
    assert_int_equal(codec_read_frame(pair[1], 4096, &data, &len, NULL), 0);
    Accel__V1__Frame *f = accel__v1__frame__unpack(NULL, len, data);
    assert_non_null(f);
    assert_string_equal(f->method, "/t/Count");
    add_frame(&s, ACCEL__V1__FRAME__KIND__MESSAGE, f->call, NULL, "\xff\xff", 2);
    assert_int_equal(codec_write_all(pair[1], s.data, s.len, NULL), 0);
    accel__v1__frame__free_unpacked(f, NULL);
    free(data);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, ACCEL_EPROTO);
    assert_int_equal(c.lost_count, 0); /* that call only */
    uv_run(&w.loop, UV_RUN_NOWAIT);
    assert_int_equal(codec_read_frame(pair[1], 4096, &data, &len, NULL), 0);
    f = accel__v1__frame__unpack(NULL, len, data);
    assert_non_null(f);
    assert_int_equal(f->kind, ACCEL__V1__FRAME__KIND__CANCEL);
    accel__v1__frame__free_unpacked(f, NULL);
    free(data);
    client_close(&c);
    close(pair[1]);
}

static void test_no_descriptors_left(void **state)
{
    (void)state;
    struct rlimit old, low;
    struct client c;
    struct result res;
    client_open(&c, raw_connect());
    call_watch(&c, &res, "/t/Count", 1);
    RUN_UNTIL(res.ends);
    int fd = raw_connect();
    int probe = dup(fd);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    low = old;
    low.rlim_cur = (rlim_t)probe; /* the next descriptor would be this one */
    close(probe);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    char byte;
    RUN_UNTIL(recv(fd, &byte, 1, MSG_DONTWAIT) == 0); /* closed at accept, not left hanging */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    call_watch(&c, &res, "/t/Count", 1);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, 0);
    assert_int_equal(rpc_local_server_connections(w.server), 1);
    close(fd);
    client_close(&c);
}

static void test_connection_cap(void **state)
{
    (void)state;
    struct rlimit lim;
    static int fds[LIMIT_CONNECTIONS + 1];
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &lim), 0);
    lim.rlim_cur = lim.rlim_max;
    if (lim.rlim_max < 2 * LIMIT_CONNECTIONS + 100 || setrlimit(RLIMIT_NOFILE, &lim) != 0)
        skip();
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        fds[i] = raw_connect();
        if (i % 128 == 0)
            uv_run(&w.loop, UV_RUN_NOWAIT);
        if (i % 128 == 127)
            RUN_UNTIL(rpc_local_server_connections(w.server) == i + 1);
    }
    char byte;
    RUN_UNTIL(recv(fds[LIMIT_CONNECTIONS], &byte, 1, MSG_DONTWAIT) == 0);
    assert_int_equal(rpc_local_server_connections(w.server), LIMIT_CONNECTIONS);
    close(fds[0]);
    RUN_UNTIL(rpc_local_server_connections(w.server) == LIMIT_CONNECTIONS - 1);
    for (size_t i = 1; i < ARRAY_LEN(fds); i++)
        close(fds[i]);
    RUN_UNTIL(rpc_local_server_connections(w.server) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_server_bad_bytes),  TEST(test_server_refuses_one_call),
        TEST(test_byte_by_byte),      TEST(test_client_bad_bytes),
        TEST(test_client_bad_answer), TEST(test_no_descriptors_left),
        TEST(test_connection_cap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
