/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A service manager that is a datagram socket: what it is told, in which order, and that children
 * do not learn of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/notify.h"

static int listen_at(const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    memcpy(a.sun_path + 1, name, strlen(name)); /* abstract: leaves nothing behind */
    assert_int_equal(bind(fd, (struct sockaddr *)&a,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name))),
                     0);
    return fd;
}

static void expect(int fd, const char *text)
{
    char got[512] = "";
    ssize_t n = recv(fd, got, sizeof(got) - 1, 0);

    assert_true(n > 0);
    assert_string_equal(got, text);
}

static void on_pets(uv_poll_t *poll, int status, int events)
{
    unsigned *pets = poll->data;
    int fd;

    (void)status;
    (void)events;
    assert_int_equal(uv_fileno((uv_handle_t *)poll, &fd), 0);
    expect(fd, "WATCHDOG=1");
    if (++*pets == 3)
        uv_close((uv_handle_t *)poll, NULL);
}

static void test_life(void **state)
{
    (void)state;
    char name[64], path[80], pid[32];
    unsigned pets = 0;
    uv_loop_t loop;
    uv_poll_t poll;

    notify_ready(&loop); /* nobody is told, nothing is made */
    snprintf(name, sizeof(name), "accel-notify-%d", (int)getpid());
    snprintf(path, sizeof(path), "@%s", name);
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    int fd = listen_at(name);
    setenv("NOTIFY_SOCKET", path, 1);
    setenv("WATCHDOG_USEC", "20000", 1);
    setenv("WATCHDOG_PID", pid, 1);
    notify_init();
    assert_null(getenv("NOTIFY_SOCKET"));
    assert_null(getenv("WATCHDOG_USEC"));
    assert_null(getenv("WATCHDOG_PID"));

    assert_int_equal(uv_loop_init(&loop), 0);
    notify_extend(60000);
    expect(fd, "EXTEND_TIMEOUT_USEC=60000000");
    notify_ready(&loop);
    expect(fd, "READY=1");
    notify_status("%d jobs\nsecond line", 3);
    expect(fd, "STATUS=3 jobs");
    assert_int_equal(uv_poll_init(&loop, &poll, fd), 0);
    poll.data = &pets;
    assert_int_equal(uv_poll_start(&poll, UV_READABLE, on_pets), 0);
    uv_run(&loop, UV_RUN_DEFAULT); /* ends with the poll: the watchdog keeps nothing alive */
    assert_int_equal(pets, 3);
    notify_reloading();
    notify_ready(&loop);
    notify_stopping();
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    expect(fd, "RELOADING=1");
    expect(fd, "READY=1");
    expect(fd, "STOPPING=1");
    close(fd);
    notify_status("nobody listens any more"); /* is no error */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_life)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
