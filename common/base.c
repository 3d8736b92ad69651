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
 * Sanitized builds: GCC 12's runtime takes any thread-local block of a dlopened library that
 * happens to lie 16 bytes behind a page for one of glibc 2.19, reads a header that is not there,
 * and the leak checker dies at exit of what it found ("Tracer caught signal 11"). glibc has these
 * blocks from malloc, where the checker finds them without that.
 */
__attribute__((visibility("default"))) const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "intercept_tls_get_addr=0";
}
#endif
