/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.h - memory that is freed together: everything one step or one message needs. Aborts when
 * memory ends.
 */
#ifndef ACCEL_COMMON_ARENA_H
#define ACCEL_COMMON_ARENA_H

#include "common/base.h"

struct arena {
    struct arena_block *head; /* newest block */
    size_t used_bytes;        /* of all blocks, for tests */
};

void arena_init(struct arena *a);
void arena_done(struct arena *a);  /* frees all; a may be used again after arena_init */
void arena_reset(struct arena *a); /* forgets all content, keeps one block for reuse */
void *arena_alloc(struct arena *a, size_t size); /* zeroed, aligned to 16 */
void *arena_dup(struct arena *a, const void *p, size_t size);
char *arena_strdup(struct arena *a, const char *s); /* NULL gives "" */
char *arena_printf(struct arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3);
#define ARENA_NEW(a, type)      ((type *)arena_alloc((a), sizeof(type)))
#define ARENA_ARRAY(a, type, n) ((type *)arena_alloc((a), sizeof(type) * (size_t)(n)))

#endif
