/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock.c - takes the state directory's lock, and tells a coordinator that is ending (worth waiting
 * for) from one that serves (two on one directory: refused). The wait is for the end of its
 * process, by pidfd. Used by main.c only.
 */
#include "scheduler/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/limits.h"
#include "common/path.h"

static int write_holder(int fd, const char *socket_path, struct accel_error *err)
{
    char text[PATH_MAX + 32];
    int len = snprintf(text, sizeof(text), "%d %s\n", (int)getpid(), socket_path);

    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)len, 0) != len)
        return error_sys(err, errno, "cannot write the lock file");
    return 0;
}

/* Waits for the end of the process named in the file. */
static int wait_for_holder(const char *path, int64_t deadline_ms, struct accel_error *err)
{
    AUTO_FREE char *text = NULL;
    AUTO_CLOSE int probe = -1;
    AUTO_CLOSE int pidfd = -1;
    size_t len;
    int pid = 0, used = 0, r;

    r = path_read_all(AT_FDCWD, path, PATH_MAX + 32, &text, &len, err);
    if (r < 0)
        return r;
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
    pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0)
        return 0; /* it has just ended: try again */
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    int64_t left = deadline_ms - clock_mono_ms();
    if (left <= 0 || poll(&p, 1, (int)left) == 0)
        return error_set(err, ACCEL_EBUSY,
                         "the coordinator before us (pid %d) does not end\ntry: look at its log",
                         pid);
    return 0;
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
