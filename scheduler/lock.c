/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock.c - takes the state directory's lock, and tells a coordinator that is ending (worth waiting
 * for) from one that serves (two on one directory: refused). The wait is for the end of its
 * process, by pidfd, or for its word in the lock file that it serves: one that has only begun to
 * start looks like one that ends. Used by main.c only.
 */
#include "scheduler/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/limits.h"
#include "common/path.h"

/* The same text again leaves no moment in which the file says less. */
static int write_holder(int fd, const char *socket_path, struct accel_error *err)
{
    char text[PATH_MAX + 32];
    int len = snprintf(text, sizeof(text), "%d %s\n", (int)getpid(), socket_path);

    if (pwrite(fd, text, (size_t)len, 0) != len || ftruncate(fd, len) < 0)
        return error_sys(err, errno, "cannot write the lock file");
    return 0;
}

void state_lock_serves(int fd, const char *socket_path)
{
    write_holder(fd, socket_path, NULL); /* who waits for us is woken by the writing */
}

/* Until the process has ended, or has written into the lock file. */
static int wait_for_change(int pid, int watch_fd, int64_t deadline_ms, struct accel_error *err)
{
    AUTO_CLOSE int pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (pid > 0 && pidfd < 0)
        return 0; /* it has just ended: try again */
    struct pollfd p[2] = {{.fd = pidfd, .events = POLLIN}, {.fd = watch_fd, .events = POLLIN}};
    int64_t left = deadline_ms - clock_mono_ms();
    if (left > 0 && poll(p, 2, (int)left) != 0)
        return 0;
    return error_set(err, ACCEL_EBUSY,
                     "the coordinator before us (pid %d) does not end\ntry: look at its log", pid);
}

/* Waits for the process named in the file: for its end, or for what it says next. */
static int wait_for_holder(const char *path, int64_t deadline_ms, struct accel_error *err)
{
    AUTO_FREE char *text = NULL;
    AUTO_CLOSE int probe = -1;
    AUTO_CLOSE int watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK); /* -1: poll passes it over */
    size_t len;
    int pid = 0, used = 0, r;

    /* before the look at the socket, so that nothing is missed */
    if (watch_fd >= 0)
        inotify_add_watch(watch_fd, path, IN_MODIFY);
    r = path_read_all(AT_FDCWD, path, PATH_MAX + 32, &text, &len, err);
    if (r < 0)
        return r;
    if (len == 0 && watch_fd >= 0) /* it has just taken the lock */
        return wait_for_change(0, watch_fd, deadline_ms, err);
    if (sscanf(text, "%d %n", &pid, &used) < 1 || pid <= 1 || used == 0)
        return error_set(err, ACCEL_EBUSY, "%s is held by another process", path);
    char *nl = strchr(text, '\n');
    if (nl)
        *nl = 0;
    if (path_socket_connect(text + used, &probe, NULL) == 0)
        return error_set(
            err, ACCEL_EBUSY,
            "another coordinator (pid %d) runs on this state directory\nwhy: it serves %s\n"
            "try: use that one, or another --state-dir",
            pid, text + used);
    return wait_for_change(pid, watch_fd, deadline_ms, err);
}

int state_lock(const char *dir, const char *socket_path, int *ret_fd, struct accel_error *err)
{
    char path[PATH_MAX];
    int64_t deadline_ms = clock_mono_ms() + LIMIT_DAEMON_START_MS;
    int fd = -1, r;

    if ((size_t)snprintf(path, sizeof(path), "%s/lock", dir) >= sizeof(path))
        return error_set(err, ACCEL_EINVAL, "the state directory's path is too long");
    while ((r = path_lock(path, false, &fd, err)) == ACCEL_EBUSY) {
        r = wait_for_holder(path, deadline_ms, err);
        if (r < 0)
            return r;
        if (clock_mono_ms() >= deadline_ms)
            return error_set(err, ACCEL_EBUSY, "%s stays locked", path);
    }
    if (r < 0)
        return r;
    r = write_holder(fd, socket_path, err);
    if (r < 0) {
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}
