/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fail_alloc.c - a library for LD_PRELOAD that makes the n-th allocation of one program return
 * NULL. Used by test_alloc.py. The environment says which:
 *
 *   FAIL_ALLOC_PROGRAM  its short name; all other programs are left alone
 *   FAIL_ALLOC_AT       n, from 1; counted over all threads, from before main() on
 *   FAIL_ALLOC_RUN      how many fail from there on (default 1)
 *   FAIL_ALLOC_MARK     a file that must not exist: made by the first process that fails, with a
 *                       line for each failure; a process that finds it there is left alone
 *
 * It must not allocate, nor call what could.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* glibc's own, which a preloaded malloc() does not hide. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);

static unsigned long first, last; /* of those that fail; 0: none */
static atomic_ulong count;
static int mark_fd = -1;
static atomic_bool is_over; /* another process was first */

static unsigned long number_of(const char *name, unsigned long otherwise)
{
    const char *text = getenv(name);

    return text ? strtoul(text, NULL, 10) : otherwise;
}

__attribute__((constructor)) static void prepare(void)
{
    const char *program = getenv("FAIL_ALLOC_PROGRAM");

    if (!program || strcmp(program, program_invocation_short_name) != 0)
        return;
    unsigned long at = number_of("FAIL_ALLOC_AT", 0);
    last = at + number_of("FAIL_ALLOC_RUN", 1) - 1;
    atomic_store(&count, 0);
    first = at;
}

/* Which call it was, so that a failing test can be understood: module and offset, for addr2line. */
static void note(unsigned long n, const void *caller)
{
    char line[512];
    Dl_info where = {0};

    if (dladdr(caller, &where) == 0 || !where.dli_fname)
        where.dli_fname = "?";
    int len = snprintf(line, sizeof(line), "%lu %s+0x%lx %s\n", n, where.dli_fname,
                       (unsigned long)((const char *)caller - (const char *)where.dli_fbase),
                       where.dli_sname ? where.dli_sname : "");
    if (write(mark_fd, line, (size_t)len) < 0)
        is_over = true;
}

static bool is_to_fail(const void *caller)
{
    if (first == 0 || is_over)
        return false;
    unsigned long n = atomic_fetch_add(&count, 1) + 1;
    if (n < first || n > last)
        return false;
    int saved = errno;
    if (mark_fd < 0) {
        const char *path = getenv("FAIL_ALLOC_MARK");
        mark_fd = path ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600) : -1;
        if (mark_fd < 0)
            is_over = true;
    }
    if (!is_over)
        note(n, caller);
    errno = is_over ? saved : ENOMEM;
    return !is_over;
}

EXPORT void *malloc(size_t size)
{
    return is_to_fail(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

EXPORT void *calloc(size_t n, size_t size)
{
    return is_to_fail(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size);
}

EXPORT void *realloc(void *p, size_t size)
{
    return is_to_fail(__builtin_return_address(0)) ? NULL : __libc_realloc(p, size);
}
