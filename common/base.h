/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base.h - what every file may assume: fixed-size types, a few macros, and cleanup attributes.
 *
 * Memory: daemons' cores abort when memory ends (xmalloc and friends); shells and libraries use
 * malloc and return ACCEL_ENOMEM. Which one a function uses is said in its header.
 */
#ifndef ACCEL_COMMON_BASE_H
#define ACCEL_COMMON_BASE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define ARRAY_LEN(a)                    (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
/* sys/param.h, which uv.h includes, has the same two. */
#undef MIN
#undef MAX
#define MIN(a, b)         ((a) < (b) ? (a) : (b))
#define MAX(a, b)         ((a) > (b) ? (a) : (b))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#define MUST_CHECK        __attribute__((warn_unused_result))

/* Cleanup attributes (STYLE 13). The variable must be initialised. */
#define AUTO_FREE  __attribute__((cleanup(base_free_ptr)))
#define AUTO_CLOSE __attribute__((cleanup(base_close_fd))) /* int fd = -1 */

/* Takes the value out of an AUTO_ variable so that it survives the scope. */
#define STEAL_PTR(p)                                                                               \
    (__extension__({                                                                               \
        __typeof__(p) stolen_ = (p);                                                               \
        (p) = NULL;                                                                                \
        stolen_;                                                                                   \
    }))
#define STEAL_FD(fd)                                                                               \
    (__extension__({                                                                               \
        int stolen_ = (fd);                                                                        \
        (fd) = -1;                                                                                 \
        stolen_;                                                                                   \
    }))

void base_free_ptr(void *pp); /* frees *(void **)pp */
void base_close_fd(int *fd);  /* closes *fd if >= 0; keeps errno */

/* For cores: never return NULL; abort with a line on stderr when memory ends. Zeroed. Freed with
 * free(). */
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *p, size_t size); /* not zeroed */
char *xstrdup(const char *s);         /* NULL gives NULL */
void *xmemdup(const void *p, size_t size);

/* An invariant that holds or the process aborts, in release too (STYLE 5, 16). Never for input of
 * users. */
#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond))                                                                               \
            base_check_failed(#cond, __FILE__, __LINE__);                                          \
    } while (0)
_Noreturn void base_check_failed(const char *cond, const char *file, int line);

#endif
