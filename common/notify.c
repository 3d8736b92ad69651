/* SPDX-License-Identifier: Apache-2.0 */
/*
 * notify.c - datagrams to the service manager (sd_notify(3), "Notes"). One per process, like the
 * environment that it comes from.
 */
#include "common/notify.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/str.h"

static struct {
    struct sockaddr_un address;
    socklen_t address_len; /* 0: nobody is told */
    uint64_t watchdog_us;  /* 0: none */
    uv_timer_t timer;
    bool is_watching;
} manager;

static void take_address(const char *path)
{
    struct sockaddr_un *a = &manager.address;
    size_t len = strlen(path);

    /* A path, or '@' and a name in the abstract namespace. */
    if ((path[0] != '/' && path[0] != '@') || len < 2 || len >= sizeof(a->sun_path))
        return;
    a->sun_family = AF_UNIX;
    memcpy(a->sun_path, path, len);
    if (path[0] == '@')
        a->sun_path[0] = 0;
    manager.address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
}

void notify_init(void)
{
    const char *path = getenv("NOTIFY_SOCKET");
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    uint64_t number = 0;

    if (path)
        take_address(path);
    bool is_ours =
        !pid || (parse_u64(pid, 1, UINT32_MAX, &number) == 0 && number == (uint64_t)getpid());
    if (usec && is_ours && parse_u64(usec, 1, UINT64_MAX / 2, &number) == 0)
        manager.watchdog_us = number;
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

static void tell(const char *text)
{
    if (!manager.address_len)
        return;
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    ssize_t n = sendto(fd, text, strlen(text), MSG_NOSIGNAL,
                       (const struct sockaddr *)&manager.address, manager.address_len);
    (void)n; /* what it says is news, not a promise */
}

static void on_pet(uv_timer_t *timer)
{
    (void)timer;
    tell("WATCHDOG=1");
}

void notify_ready(uv_loop_t *loop)
{
    tell("READY=1");
    if (!manager.watchdog_us || !manager.address_len || manager.is_watching)
        return;
    uint64_t half_ms = MAX(manager.watchdog_us / 2000, 1u);
    CHECK(uv_timer_init(loop, &manager.timer) == 0);
    CHECK(uv_timer_start(&manager.timer, on_pet, 0, half_ms) == 0);
    uv_unref((uv_handle_t *)&manager.timer); /* it is no work that keeps the daemon alive */
    manager.is_watching = true;
}

void notify_extend(unsigned ms)
{
    char text[64];

    snprintf(text, sizeof(text), "EXTEND_TIMEOUT_USEC=%llu", ms * 1000ull);
    tell(text);
}

void notify_reloading(void)
{
    tell("RELOADING=1");
}

void notify_stopping(void)
{
    tell("STOPPING=1");
    if (manager.is_watching)
        uv_close((uv_handle_t *)&manager.timer, NULL);
    manager.is_watching = false;
}

void notify_status(const char *fmt, ...)
{
    char text[256] = "STATUS=";
    size_t used = strlen(text);
    va_list args;

    va_start(args, fmt);
    vsnprintf(text + used, sizeof(text) - used, fmt, args);
    va_end(args);
    text[used + strcspn(text + used, "\n")] = 0;
    tell(text);
}
