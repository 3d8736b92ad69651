/* SPDX-License-Identifier: Apache-2.0 */
/*
 * procfs.h - the little that is read from /proc by accel-spawn, the shim and acceld alike: when a
 * process started (so that a reused pid is not taken for the old one) and who its children are.
 * No memory is allocated, nothing blocks but the kernel.
 */
#ifndef ACCEL_AGENTD_PROCFS_H
#define ACCEL_AGENTD_PROCFS_H

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "common/base.h"

/* glibc 2.36 has no header that declares these without clashing with signal.h. */
static inline int proc_pidfd_open(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static inline int proc_pidfd_kill(int pidfd, int signo)
{
    return (int)syscall(SYS_pidfd_send_signal, pidfd, signo, NULL, 0);
}

/* Reads /proc/PID/stat; pid 0: this process. The fields are those of proc(5). False if there is no
 * such process. */
static inline bool proc_stat(pid_t pid, char *ret_state, pid_t *ret_parent, uint64_t *ret_start)
{
    char path[32];
    char text[1024];
    if (pid == 0) {
        snprintf(path, sizeof(path), "/proc/self/stat");
    } else {
        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    }
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n <= 0) {
        return false;
    }
    text[n] = '\0';
    /* The name, field 2, may hold anything, brackets too: the last one ends it. */
    const char *p = strrchr(text, ')');
    int parent;
    uint64_t start;
    char state;
    if (p == NULL || sscanf(p + 1,
                            " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d"
                            " %*d %*d %" SCNu64,
                            &state, &parent, &start) != 3) {
        return false;
    }
    *ret_state = state;
    *ret_parent = parent;
    *ret_start = start;
    return true;
}

/* Start time of a process in clock ticks since boot; 0 if there is none (or only its zombie). */
static inline uint64_t proc_start_time(pid_t pid)
{
    char state;
    pid_t parent;
    uint64_t start;
    if (!proc_stat(pid, &state, &parent, &start) || state == 'Z' || state == 'X') {
        return 0;
    }
    return start;
}

#endif
