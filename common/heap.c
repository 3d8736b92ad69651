/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The binary heap of heap.h. Nodes know their place, so a deadline can be moved or dropped without
 * a search. The heap never owns a node: whoever frees one removes it first.
 */
#include "common/heap.h"

#define HEAP_CAP_MIN 16u

void heap_init(struct heap *h)
{
    *h = (struct heap){0};
}

void heap_done(struct heap *h)
{
    free(h->nodes);
    heap_init(h);
}

static bool is_before(const struct heap_node *a, const struct heap_node *b)
{
    return a->key != b->key ? a->key < b->key : a->serial < b->serial;
}

static void put(struct heap *h, size_t i, struct heap_node *n)
{
    h->nodes[i] = n;
    n->pos = i + 1;
}

static void sift_up(struct heap *h, size_t i, struct heap_node *n)
{
    while (i > 0) {
        size_t parent = (i - 1) / 2;
        if (!is_before(n, h->nodes[parent])) {
            break;
        }
        put(h, i, h->nodes[parent]);
        i = parent;
    }
    put(h, i, n);
}

static void sift_down(struct heap *h, size_t i, struct heap_node *n)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= h->len) {
            break;
        }
        if (child + 1 < h->len && is_before(h->nodes[child + 1], h->nodes[child])) {
            child++;
        }
        if (!is_before(h->nodes[child], n)) {
            break;
        }
        put(h, i, h->nodes[child]);
        i = child;
    }
    put(h, i, n);
}

/* Puts n, whose key is new, where it belongs, starting from the free place i. */
static void settle(struct heap *h, size_t i, struct heap_node *n)
{
    if (i > 0 && is_before(n, h->nodes[(i - 1) / 2])) {
        sift_up(h, i, n);
    } else {
        sift_down(h, i, n);
    }
}

static void check_in(const struct heap *h, const struct heap_node *n)
{
    CHECK(n->pos <= h->len && h->nodes[n->pos - 1] == n);
}

void heap_set(struct heap *h, struct heap_node *n, int64_t key)
{
    size_t i;
    if (n->pos == 0) {
        if (h->len == h->cap) {
            h->cap = MAX(h->cap * 2, HEAP_CAP_MIN);
            h->nodes = xrealloc(h->nodes, h->cap * sizeof(struct heap_node *));
        }
        i = h->len++;
    } else {
        check_in(h, n);
        if (n->key == key) {
            return; /* it keeps its place among its equals */
        }
        i = n->pos - 1;
    }
    n->key = key;
    n->serial = ++h->serial;
    settle(h, i, n);
}

void heap_remove(struct heap *h, struct heap_node *n)
{
    if (n->pos == 0) {
        return;
    }
    check_in(h, n);
    size_t i = n->pos - 1;
    struct heap_node *last = h->nodes[--h->len];
    n->pos = 0;
    if (last != n) {
        settle(h, i, last);
    }
}

struct heap_node *heap_min(const struct heap *h)
{
    return h->len > 0 ? h->nodes[0] : NULL;
}
