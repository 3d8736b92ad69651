/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool of ports: nothing is leased twice, busy ones are passed over, and what is released comes
 * again only when it may.
 */
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "agentd/port.h"
#include "common/limits.h"

#define PORT_COUNT (LIMIT_PORT_MAX - LIMIT_PORT_MIN + 1)

static struct accel_error err;

static void test_all_once(void **state)
{
    static bool is_leased[65536];
    struct port_pool *p = port_pool_create(7);
    uint32_t port;
    unsigned count = 0;
    (void)state;
    while (port_pool_lease(p, 0, &port, &err) == 0) {
        assert_true(port >= LIMIT_PORT_MIN && port <= LIMIT_PORT_MAX);
        assert_false(is_leased[port]);
        is_leased[port] = true;
        count++;
    }
    assert_int_equal(err.code, ACCEL_EFULL);
    assert_true(count > PORT_COUNT - 64 && count <= PORT_COUNT); /* others may be at work here */
    port_pool_release(p, 20005, 0, true);
    port_pool_release(p, 20005, 0, true); /* twice is once */
    assert_int_equal(port_pool_lease(p, 0, &port, &err), 0);
    assert_int_equal(port, 20005);
    assert_true(port_pool_lease(p, 0, &port, &err) < 0);
    port_pool_destroy(p);
}

/* A thousand short jobs a second for a minute: proven ports come again, each as late as
 * possible. */
static void test_many_short_jobs(void **state)
{
    struct port_pool *p = port_pool_create(7);
    uint32_t first = 0, port;
    (void)state;
    for (int i = 0; i < 30000; i++) {
        assert_int_equal(port_pool_lease(p, i, &port, &err), 0);
        if (i == 0)
            first = port;
        else if (i < PORT_COUNT - 64)
            assert_int_not_equal(port, first);
        port_pool_release(p, port, i, true);
    }
    port_pool_destroy(p);
}

static void test_reuse_time(void **state)
{
    struct port_pool *p = port_pool_create(7);
    uint32_t port, again;
    (void)state;
    for (int i = 0; i < PORT_COUNT; i++)
        port_pool_hold(p, (uint32_t)(LIMIT_PORT_MIN + i));
    port_pool_hold(p, 5);
    port_pool_hold(p, 70000);
    assert_int_equal(port_pool_lease(p, 0, &port, &err), ACCEL_EFULL);
    for (port = 20010; port < 20042; port++) /* several: one may be somebody else's */
        port_pool_release(p, port, 1000, false);
    assert_int_equal(port_pool_lease(p, 1000 + LIMIT_PORT_REUSE_MS - 1, &again, &err), ACCEL_EFULL);
    assert_int_equal(port_pool_lease(p, 1000 + LIMIT_PORT_REUSE_MS, &again, &err), 0);
    assert_true(again >= 20010 && again < 20042);
    port_pool_destroy(p);
}

static void bind_to(uint32_t port, bool is_v6, int *ret_fd)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
                              .sin6_port = htons((uint16_t)port),
                              .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (bind(fd, is_v6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4,
             is_v6 ? sizeof(v6) : sizeof(v4)) < 0) {
        assert_true(errno == EADDRINUSE || errno == EADDRNOTAVAIL);
        close(fd);
        fd = -1;
    }
    *ret_fd = fd;
}

/* The next two ports of the same seed are taken by others, one on each family's loopback. */
static void test_busy_ports(void **state)
{
    struct port_pool *scout = port_pool_create(99);
    struct port_pool *p = port_pool_create(99);
    uint32_t a, b, port;
    int fd4, fd6;
    (void)state;
    assert_int_equal(port_pool_lease(scout, 0, &a, &err), 0);
    assert_int_equal(port_pool_lease(scout, 0, &b, &err), 0);
    bind_to(a, false, &fd4);
    bind_to(b, true, &fd6);
    assert_int_equal(port_pool_lease(p, 0, &port, &err), 0);
    assert_int_not_equal(port, a);
    if (fd6 >= 0)
        assert_int_not_equal(port, b);
    close(fd4);
    if (fd6 >= 0)
        close(fd6);
    port_pool_destroy(scout);
    port_pool_destroy(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_once),
        cmocka_unit_test(test_many_short_jobs),
        cmocka_unit_test(test_reuse_time),
        cmocka_unit_test(test_busy_ports),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
