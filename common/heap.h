/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap.h - a binary min-heap of deadlines, embedded in what expires. O(log n) insert, change and
 * remove. Order among equal keys is by insertion number, so that two runs with the same events
 * expire in the same order. Aborts when memory ends.
 */
#ifndef ACCEL_COMMON_HEAP_H
#define ACCEL_COMMON_HEAP_H

#include "common/base.h"

struct heap_node {
    int64_t key;     /* milliseconds of the core's clock */
    uint64_t serial; /* set by heap_insert */
    size_t pos;      /* index + 1; 0: not in a heap */
};
struct heap {
    struct heap_node **nodes;
    size_t len, cap;
    uint64_t serial;
};
void heap_init(struct heap *h);
void heap_done(struct heap *h);
void heap_set(struct heap *h, struct heap_node *n,
              int64_t key);                            /* inserts, or moves to the new key */
void heap_remove(struct heap *h, struct heap_node *n); /* nothing if not in */
struct heap_node *heap_min(const struct heap *h);      /* NULL when empty */

#endif
