/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The heap against a list that is searched from end to end: after each of many random inserts,
 * moves and removals both name the same node as the first to expire. Keys are few, so that most are
 * equal and the order of insertion decides.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/heap.h"
#include "common/prng.h"

enum { NODES = 200 };

struct model {
    bool is_in;
    int64_t key;
    uint64_t order; /* of the last insert or move */
};

static int model_min(const struct model *model)
{
    int best = -1;
    for (int i = 0; i < NODES; i++) {
        if (model[i].is_in &&
            (best < 0 || model[i].key < model[best].key ||
             (model[i].key == model[best].key && model[i].order < model[best].order))) {
            best = i;
        }
    }
    return best;
}

static void assert_same(const struct heap *heap, const struct heap_node *nodes,
                        const struct model *model)
{
    int best = model_min(model);
    assert_ptr_equal(heap_min(heap), best < 0 ? NULL : &nodes[best]);
    for (size_t i = 0; i < heap->len; i++) {
        assert_int_equal(heap->nodes[i]->pos, i + 1);
    }
}

static void test_model(void **state)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct heap heap;
        struct heap_node nodes[NODES] = {{0}};
        struct model model[NODES] = {{0}};
        struct prng prng;
        uint64_t order = 0;
        prng_init(&prng, seed);
        heap_init(&heap);
        for (int step = 0; step < 3000; step++) {
            int i = (int)prng_below(&prng, NODES);
            if (prng_chance(&prng, 60)) {
                int64_t key = (int64_t)prng_below(&prng, 12) - 6;
                heap_set(&heap, &nodes[i], key);
                if (!model[i].is_in || model[i].key != key) {
                    model[i] = (struct model){.is_in = true, .key = key, .order = ++order};
                }
            } else {
                heap_remove(&heap, &nodes[i]);
                model[i].is_in = false;
            }
            assert_same(&heap, nodes, model);
        }
        while (heap_min(&heap) != NULL) {
            struct heap_node *n = heap_min(&heap);
            heap_remove(&heap, n);
            assert_int_equal(n->pos, 0);
            model[n - nodes].is_in = false;
            assert_same(&heap, nodes, model);
        }
        heap_done(&heap);
    }
}

static void test_edges(void **state)
{
    struct heap heap;
    struct heap_node a = {0};
    struct heap_node b = {0};
    heap_init(&heap);
    assert_null(heap_min(&heap));
    heap_remove(&heap, &a);
    heap_set(&heap, &a, INT64_MAX);
    heap_set(&heap, &b, INT64_MIN);
    assert_ptr_equal(heap_min(&heap), &b);
    heap_set(&heap, &b, INT64_MAX); /* now behind a, which came first */
    assert_ptr_equal(heap_min(&heap), &a);
    heap_set(&heap, &a, INT64_MAX); /* no change: stays in front */
    assert_ptr_equal(heap_min(&heap), &a);
    heap_remove(&heap, &a);
    heap_remove(&heap, &a);
    assert_ptr_equal(heap_min(&heap), &b);
    heap_remove(&heap, &b);
    assert_null(heap_min(&heap));
    heap_done(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_edges),
    };
    return cmocka_run_group_tests_name("heap", tests, NULL, NULL);
}
