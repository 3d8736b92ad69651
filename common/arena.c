/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A chain of blocks with a moving end. Blocks double up to a bound, so that a step of any size
 * costs few allocations and a small one costs none after the first (arena_reset keeps a block).
 * Under AddressSanitizer nothing is kept: use after a reset is then found like any other use after
 * free.
 */
#include "common/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ARENA_ALIGN           16u
#define ARENA_BLOCK_MIN_BYTES 4096u /* a plain step fits */
#define ARENA_BLOCK_MAX_BYTES                                                                      \
    (1u << 20) /* larger blocks only for one large request; never kept for reuse */

struct arena_block {
    struct arena_block *next; /* older */
    size_t size;              /* of data */
    size_t used;
    _Alignas(ARENA_ALIGN) unsigned char data[];
};

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_KEEPS false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_KEEPS false
#endif
#endif
#ifndef ARENA_KEEPS
#define ARENA_KEEPS true
#endif

void arena_init(struct arena *a)
{
    *a = (struct arena){0};
}

static void free_blocks(struct arena_block *b)
{
    while (b != NULL) {
        struct arena_block *next = b->next;
        free(b);
        b = next;
    }
}

void arena_done(struct arena *a)
{
    free_blocks(a->head);
    arena_init(a);
}

void arena_reset(struct arena *a)
{
    struct arena_block *keep = a->head;
    if (keep == NULL) {
        return;
    }
    if (!ARENA_KEEPS || keep->size > ARENA_BLOCK_MAX_BYTES) {
        arena_done(a);
        return;
    }
    free_blocks(keep->next);
    keep->next = NULL;
    keep->used = 0;
    a->used_bytes = 0;
}

static struct arena_block *add_block(struct arena *a, size_t need)
{
    size_t size =
        a->head == NULL ? ARENA_BLOCK_MIN_BYTES : MAX(a->head->size, ARENA_BLOCK_MIN_BYTES) * 2;
    size = MAX(MIN(size, ARENA_BLOCK_MAX_BYTES), need);
    struct arena_block *b = xrealloc(NULL, sizeof(*b) + size);
    b->next = a->head;
    b->size = size;
    b->used = 0;
    a->head = b;
    return b;
}

void *arena_alloc(struct arena *a, size_t size)
{
    CHECK(size <= SIZE_MAX / 4);
    size_t need = (MAX(size, 1) + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    struct arena_block *b = a->head;
    if (b == NULL || b->size - b->used < need) {
        b = add_block(a, need);
    }
    void *p = b->data + b->used;
    b->used += need;
    a->used_bytes += need;
    memset(p, 0, need);
    return p;
}

void *arena_dup(struct arena *a, const void *p, size_t size)
{
    void *copy = arena_alloc(a, size);
    if (size > 0) {
        memcpy(copy, p, size);
    }
    return copy;
}

char *arena_strdup(struct arena *a, const char *s)
{
    return s == NULL ? arena_alloc(a, 1) : arena_dup(a, s, strlen(s) + 1);
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list args;
    CHECK(fmt != NULL); /* gcc with UBSan takes the other case for possible, and warns */
    va_start(args, fmt);
    int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    CHECK(len >= 0);
    char *text = arena_alloc(a, (size_t)len + 1);
    va_start(args, fmt);
    vsnprintf(text, (size_t)len + 1, fmt, args);
    va_end(args);
    return text;
}
