/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The set of ids against a plain array: after each of many random additions and removals, it finds
 * what is in and nothing else. Ids differ in one byte, at one of four places, as random ids and ids
 * that begin with a time do.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/idset.h"
#include "common/prng.h"

enum { OBJECTS = 1000 };

struct object {
    bool is_in;
    uint8_t id[LIMIT_REQUEST_ID_BYTES];
};

static void assert_same(const struct idset *set, const struct object *objects)
{
    size_t count = 0;

    for (size_t i = 0; i < OBJECTS; i++) {
        const struct object *found = idset_find(set, objects[i].id);
        assert_ptr_equal(found, objects[i].is_in ? &objects[i] : NULL);
        count += objects[i].is_in;
    }
    assert_int_equal(set->count, count);
}

static void test_model(void **state)
{
    static struct object objects[OBJECTS];

    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct idset set;
        struct prng prng;
        prng_init(&prng, seed);
        idset_init(&set, offsetof(struct object, id));
        memset(objects, 0, sizeof(objects));
        for (size_t i = 0; i < OBJECTS; i++) {
            objects[i].id[seed % 4 * 4] = (uint8_t)i;
            objects[i].id[seed % 4 * 4 + 3] = (uint8_t)(i >> 8);
        }
        for (int step = 0; step < 4000; step++) {
            struct object *o = &objects[prng_below(&prng, step < 2000 ? OBJECTS : 40)];
            if (o->is_in)
                idset_remove(&set, o);
            else
                idset_add(&set, o);
            o->is_in = !o->is_in;
            if (step % 50 == 0)
                assert_same(&set, objects);
        }
        assert_same(&set, objects);
        idset_done(&set);
    }
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_model)};

    return cmocka_run_group_tests_name("idset", tests, NULL, NULL);
}
