/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes wrong between machines: certificates of another CA, expired or of the wrong kind,
 * garbage and HTTP/1 on the port, links that go silent or break, addresses where nobody is. A relay
 * in a thread of its own stands for the link.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "rpc_grpc_world.h"

/* --- a link that can go silent --- */

struct relay {
    pthread_t thread;
    int listen_fd, wake[2];
    int fds[2]; /* client, server; -1: none */
    uint16_t port;
    atomic_bool is_silent, is_ended;
};

static bool relay_copy(int from, int to)
{
    char buf[16384];
    ssize_t n = read(from, buf, sizeof(buf));
    for (ssize_t done = 0; done < n;) {
        ssize_t m = write(to, buf + done, (size_t)(n - done));
        if (m <= 0)
            return false;
        done += m;
    }
    return n > 0;
}

static void relay_close(struct relay *l)
{
    for (int i = 0; i < 2; i++) {
        base_close_fd(&l->fds[i]);
        l->fds[i] = -1;
    }
}

static void *relay_run(void *arg)
{
    struct relay *l = arg;
    char byte;
    while (!atomic_load(&l->is_ended)) {
        bool is_silent = atomic_load(&l->is_silent);
        struct pollfd p[4] = {{l->wake[0], POLLIN, 0},
                              {l->listen_fd, POLLIN, 0},
                              {is_silent ? -1 : l->fds[0], POLLIN, 0},
                              {is_silent ? -1 : l->fds[1], POLLIN, 0}};
        poll(p, 4, -1);
        if (p[0].revents && read(l->wake[0], &byte, 1) == 1 && byte == 'x')
            relay_close(l);
        if (p[1].revents && l->fds[0] < 0) {
            l->fds[0] = accept(l->listen_fd, NULL, NULL);
            l->fds[1] = raw_connect();
            continue;
        }
        if ((p[2].revents && !relay_copy(l->fds[0], l->fds[1])) ||
            (p[3].revents && l->fds[0] >= 0 && !relay_copy(l->fds[1], l->fds[0])))
            relay_close(l);
    }
    return NULL;
}

static void relay_tell(struct relay *l, char what)
{
    assert_int_equal(write(l->wake[1], &what, 1), 1);
}

static int listen_any(uint16_t *ret_port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET};
    socklen_t len = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    *ret_port = ntohs(sa.sin_port);
    return fd;
}

static void relay_start(struct relay *l)
{
    memset(l, 0, sizeof(*l));
    l->fds[0] = l->fds[1] = -1;
    l->listen_fd = listen_any(&l->port);
    assert_int_equal(pipe2(l->wake, O_CLOEXEC), 0);
    assert_int_equal(pthread_create(&l->thread, NULL, relay_run, l), 0);
}

static void relay_end(struct relay *l)
{
    atomic_store(&l->is_ended, true);
    relay_tell(l, 'x');
    pthread_join(l->thread, NULL);
    close(l->listen_fd);
    close(l->wake[0]);
    close(l->wake[1]);
}

/* --- certificates --- */

/* What a client with these gets for a call, which must not reach a handler. */
static void check_refused(const struct remote_tls *tls, const char *server_name)
{
    struct client c;
    struct result res;
    struct remote_channel_config config = channel_config(&c, NULL);
    config.tls = *tls;
    config.server_name = server_name;
    seen.identified = seen.refused = 0;
    client_create(&c, &config);
    call_input(&c, &res, "/t/Echo", "x", 1);
    RUN_UNTIL(c.lost_count);
    assert_int_equal(res.ends, 1);
    assert_int_equal(res.code, ACCEL_EUNAVAIL);

    assert_int_equal(seen.identified, 0);
    client_close(&c);
}

static void test_other_authority(void **state)
{
    (void)state;
    struct accel_error err;
    struct cert cert;
    AUTO_FREE char *ca = NULL, *ca_key = NULL;
    assert_int_equal(r.ops->pki->make_ca(clock_wall_ms(), &ca_key, &ca, &err), 0);
    make_cert(ca_key, ca, PKI_USER, "ada", clock_wall_ms(), DAY_MS, &cert);
    /* The server does not believe the client's. */
    check_refused(&(struct remote_tls){r.ca, cert.pem, cert.key}, NULL);
    RUN_UNTIL(seen.refused);
    /* The client does not believe the server's. */
    check_refused(&(struct remote_tls){ca, r.user.pem, r.user.key}, NULL);
    cert_done(&cert);
}

static void test_expired(void **state)
{
    (void)state;
    struct cert cert;
    make_cert(r.ca_key, r.ca, PKI_USER, "ada", clock_wall_ms() - 2 * DAY_MS, DAY_MS, &cert);
    check_refused(&(struct remote_tls){r.ca, cert.pem, cert.key}, NULL);
    RUN_UNTIL(seen.refused);
    cert_done(&cert);
}

static void test_not_the_coordinator(void **state)
{
    (void)state;
    struct accel_error err;
    struct rpc_server *other;
    struct remote_server_config config = server_config();
    bool is_stopped = false;
    uint16_t port = seen.port;
    check_refused(&(struct remote_tls){r.ca, r.user.pem, r.user.key}, "somebody.example");
    /* A node of the same cluster that plays coordinator. */
    config.tag = 2;
    config.tls = (struct remote_tls){r.ca, r.node.pem, r.node.key};
    assert_int_equal(r.ops->server_create(&w.loop, &config, &other, &err), 0);
    seen.port = r.ops->server_port(other);
    check_refused(&(struct remote_tls){r.ca, r.user.pem, r.user.key}, NULL);
    seen.port = port;
    rpc_server_stop(other, on_flag, &is_stopped);
    RUN_UNTIL(is_stopped);
}

static void test_expires_while_connected(void **state)
{
    (void)state;
    struct client c;
    struct result res;
    struct cert cert;
    int64_t life_ms = 2000;
    make_cert(r.ca_key, r.ca, PKI_USER, "ada", clock_wall_ms(), life_ms, &cert);
    client_open(&c, &cert);
    do { /* until the clock has come to its end */
        call_input(&c, &res, "/t/Echo", "x", 1);
        RUN_UNTIL(res.ends);
        if (res.code == 0)
            assert_true(cert.is.end_ms + 1000 > clock_wall_ms());
    } while (res.code == 0);
    assert_int_equal(res.code, ACCEL_EUNAUTH);
    assert_non_null(strstr(res.text, "expired"));
    client_close(&c);
    cert_done(&cert);
}

static void test_bad_texts(void **state)
{
    (void)state;
    struct client c = {0};
    struct accel_error err;
    struct remote_channel_config config = channel_config(&c, &r.user);
    config.tls.key_pem = r.node.key;
    assert_int_equal(r.ops->channel_create(&w.loop, &config, &c.ch, &err), ACCEL_EINVAL);
    config.tls.key_pem = NULL;
    assert_int_equal(r.ops->channel_create(&w.loop, &config, &c.ch, &err), ACCEL_EINVAL);
    config = channel_config(&c, &r.user);
    config.tls.cert_pem = "-----BEGIN CERTIFICATE-----\ngarbage\n-----END CERTIFICATE-----\n";
    assert_int_equal(r.ops->channel_create(&w.loop, &config, &c.ch, &err), ACCEL_EINVAL);
    config.tls.ca_pem = NULL;
    assert_int_equal(r.ops->channel_create(&w.loop, &config, &c.ch, &err), ACCEL_EINVAL);
}

/* --- who does not speak our language --- */

static void test_garbage_on_the_port(void **state)
{
    (void)state;
    static const char http[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    struct client c;
    struct result res;
    char noise[4096];
    int fds[3];
    for (size_t i = 0; i < sizeof(noise); i++)
        noise[i] = (char)(i * 7919 >> 3);
    for (int i = 0; i < 3; i++)
        fds[i] = raw_connect();
    assert_int_equal(write(fds[0], http, sizeof(http) - 1), sizeof(http) - 1);
    assert_int_equal(write(fds[1], noise, sizeof(noise)), sizeof(noise));
    /* The third says nothing. Others are served, and the first two are closed. */
    client_open(&c, &r.user);
    call_input(&c, &res, "/t/Echo", "x", 1);
    RUN_UNTIL(res.ends);
    assert_int_equal(res.code, 0);
    for (int i = 0; i < 2; i++) {
        while (recv(fds[i], noise, sizeof(noise), 0) > 0)
            ; /* an alert may come first */
        close(fds[i]);
    }
    RUN_UNTIL(seen.refused >= 2);
    close(fds[2]);
    client_close(&c);
}

/* --- links --- */

static struct remote_channel_config relay_config(const struct relay *l, struct client *c)
{
    struct remote_channel_config config = channel_config(c, &r.user);
    config.port = l->port;
    config.keepalive_time_ms = 200;
    config.keepalive_timeout_ms = 200;
    return config;
}

static void test_silent_link(void **state)
{
    (void)state;
    struct relay link;
    struct client c;
    struct result parked, chat;
    relay_start(&link);
    struct remote_channel_config config = relay_config(&link, &c);
    client_create(&c, &config);
    call_watch(&c, &parked, "/t/Park", 1);
    call_input(&c, &chat, "/t/Chat", NULL, 0);
    RUN_UNTIL(w.parked_count == 1 && w.last_call);
    atomic_store(&link.is_silent, true);
    relay_tell(&link, 's');
    RUN_UNTIL(c.lost_count); /* by keepalive */
    assert_int_equal(parked.code, ACCEL_ECLOSED);
    assert_int_equal(chat.code, ACCEL_ECLOSED);
    client_close(&c);
    relay_end(&link);
    RUN_UNTIL(w.closed_count == 2);
}

static void test_client_gone(void **state)
{
    (void)state;
    struct relay link;
    struct client c;
    struct result chat;
    relay_start(&link);
    struct remote_channel_config config = relay_config(&link, &c);
    client_create(&c, &config);
    call_input(&c, &chat, "/t/Chat", NULL, 0);
    RUN_UNTIL(w.last_call);
    relay_tell(&link, 'x');
    RUN_UNTIL(w.closed_count == 1 && c.lost_count);
    assert_int_equal(w.half_closed_count, 0);
    assert_int_equal(chat.code, ACCEL_ECLOSED);
    client_close(&c);
    relay_end(&link);
}

static void check_unreachable(const char *host, uint16_t port)
{
    struct client c;
    struct result res;
    struct remote_channel_config config = channel_config(&c, &r.user);
    config.host = host;
    config.port = port;
    config.connect_timeout_ms = 500;
    client_create(&c, &config);
    call_input(&c, &res, "/t/Echo", "x", 1);
    RUN_UNTIL(c.lost_count);
    assert_int_equal(res.code, ACCEL_EUNAVAIL);
    assert_non_null(strstr(res.text, host));
    client_close(&c);
}

static void test_nobody_there(void **state)
{
    (void)state;
    uint16_t port;
    int fd = listen_any(&port); /* accepts, in the kernel, and says nothing */
    check_unreachable("127.0.0.1", port);
    close(fd);
    check_unreachable("127.0.0.1", port);
    check_unreachable("no-such-host.invalid", 7443);
}

static void test_silent_client(void **state)
{
    (void)state;
    struct accel_error err;
    struct relay link;
    struct client c;
    struct result chat;
    struct remote_server_config config = server_config();
    config.keepalive_time_ms = config.keepalive_timeout_ms = 200;
    server_stop();
    RUN_UNTIL(w.is_stopped);
    w.is_stopping = w.is_stopped = false;
    assert_int_equal(r.ops->server_create(&w.loop, &config, &w.server, &err), 0);
    seen.port = r.ops->server_port(w.server);
    relay_start(&link);
    struct remote_channel_config from = relay_config(&link, &c);
    from.keepalive_time_ms = 3600000;
    client_create(&c, &from);
    call_input(&c, &chat, "/t/Chat", NULL, 0);
    RUN_UNTIL(w.last_call);
    atomic_store(&link.is_silent, true);
    relay_tell(&link, 's');
    RUN_UNTIL(w.closed_count == 1); /* the server's keepalive */
    relay_end(&link);
    client_close(&c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_other_authority),     TEST(test_expired),
        TEST(test_not_the_coordinator), TEST(test_expires_while_connected),
        TEST(test_bad_texts),           TEST(test_garbage_on_the_port),
        TEST(test_silent_link),         TEST(test_client_gone),
        TEST(test_nobody_there),        TEST(test_silent_client),
    };
    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL);
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
