/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that cannot fail, cleanup handlers and the failed invariant. Everything else in common/
 * rests on this. It must not log or clean up before it aborts: a core in this situation knows
 * nothing for sure any more.
 */
#include "common/base.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void base_free_ptr(void *pp)
{
    void *p;
    /* pp points to a pointer of any type: memcpy is how to read it without breaking the aliasing
     * rules. */
    memcpy(&p, pp, sizeof(p));
    free(p);
}

void base_close_fd(int *fd)
{
    if (*fd >= 0) {
        int saved = errno;
        close(*fd);
        errno = saved;
        *fd = -1;
    }
}

static _Noreturn void out_of_memory(void)
{
    static const char text[] = "fatal: out of memory\n";
    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
        abort();
    }
    abort();
}

void *xcalloc(size_t count, size_t size)
{
    void *p = calloc(MAX(count, 1), MAX(size, 1));
    if (p == NULL) {
        out_of_memory();
    }
    return p;
}

void *xrealloc(void *p, size_t size)
{
    void *grown = realloc(p, MAX(size, 1));
    if (grown == NULL) {
        out_of_memory();
    }
    return grown;
}

char *xstrdup(const char *s)
{
    return s == NULL ? NULL : xmemdup(s, strlen(s) + 1);
}

void *xmemdup(const void *p, size_t size)
{
    void *copy = xrealloc(NULL, size);
    if (size > 0) {
        memcpy(copy, p, size);
    }
    return copy;
}

_Noreturn void base_check_failed(const char *cond, const char *file, int line)
{
    dprintf(STDERR_FILENO, "fatal: %s:%d: check failed: %s\n", file, line, cond);
    abort();
}

#ifdef __SANITIZE_ADDRESS__
/*
 * The leak checker attaches to every thread when the program ends, and crashes on one that has been
 * joined but is still dying in the kernel ("Tracer caught signal 11"). So in sanitized builds the
 * end waits until those are gone.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>

#define SETTLE_ROUNDS 100000 /* of yielding; a thread that dies takes microseconds */
#define PF_EXITING    4ul    /* of linux/sched.h, in field 9 of /proc/PID/task/TID/stat */

static bool is_thread_dying(const char *tid)
{
    char path[64], text[512];
    unsigned long flags = 0;
    snprintf(path, sizeof(path), "/proc/self/task/%.20s/stat", tid);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    text[n > 0 ? n : 0] = 0;
    const char *end = strrchr(text, ')');
    return end && sscanf(end, ") %*c %*d %*d %*d %*d %*d %lu", &flags) == 1 && (flags & PF_EXITING);
}

static void settle_threads(void)
{
    bool is_dying = true;
    for (int i = 0; i < SETTLE_ROUNDS && is_dying; i++) {
        DIR *d = opendir("/proc/self/task");
        is_dying = false;
        for (struct dirent *e; d && (e = readdir(d));)
            is_dying |= e->d_name[0] != '.' && is_thread_dying(e->d_name);
        if (d)
            closedir(d);
        sched_yield();
    }
}

__attribute__((constructor)) static void settle_threads_at_exit(void)
{
    atexit(settle_threads); /* after the checker's own, so before it */
}
#endif
