/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An arena's pieces are zeroed, aligned, apart from each other and stay as written until the reset,
 * whatever the sizes. Blocks that were reused are the interesting ones: their memory is dirty.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "common/arena.h"
#include "common/prng.h"

static size_t random_size(struct prng *prng)
{
    switch (prng_below(prng, 10)) {
    case 0: return 0;
    case 1: return prng_below(prng, 100000);
    case 2: return 4096 - 32 + prng_below(prng, 64); /* around the first block's size */
    default: return prng_below(prng, 200);
    }
}

static void test_pieces(void **state)
{
    enum { PIECES = 300 };
    struct arena arena;
    struct prng prng;
    prng_init(&prng, 1);
    arena_init(&arena);
    for (int round = 0; round < 20; round++) {
        unsigned char *pieces[PIECES];
        size_t sizes[PIECES];
        for (int i = 0; i < PIECES; i++) {
            sizes[i] = random_size(&prng);
            pieces[i] = arena_alloc(&arena, sizes[i]);
            assert_int_equal((uintptr_t)pieces[i] % 16, 0);
            for (size_t j = 0; j < sizes[i]; j++) {
                assert_int_equal(pieces[i][j], 0);
            }
            memset(pieces[i], 1 + i % 255, sizes[i]);
        }
        for (int i = 0; i < PIECES; i++) {
            for (size_t j = 0; j < sizes[i]; j++) {
                assert_int_equal(pieces[i][j], 1 + i % 255);
            }
        }
        arena_reset(&arena);
        assert_int_equal(arena.used_bytes, 0);
    }
    arena_done(&arena);
}

static void test_large(void **state)
{
    struct arena arena;
    arena_init(&arena);
    char *large = arena_alloc(&arena, 10u << 20);
    large[(10u << 20) - 1] = 'x';
    assert_true(arena.used_bytes >= 10u << 20);
    char *small = arena_alloc(&arena, 1);
    assert_true(small < large || small >= large + (10u << 20));
    arena_reset(&arena);
    assert_int_equal(*(char *)arena_alloc(&arena, 1), 0);
    arena_done(&arena);
    arena_done(&arena);
    arena_reset(&arena);
}

static void test_text(void **state)
{
    char text[20000];
    struct arena arena;
    arena_init(&arena);
    memset(text, 'y', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_string_equal(arena_strdup(&arena, NULL), "");
    assert_string_equal(arena_strdup(&arena, ""), "");
    assert_string_equal(arena_strdup(&arena, text), text);
    assert_string_equal(arena_printf(&arena, "%d-%s", 7, "a"), "7-a");
    char *long_text = arena_printf(&arena, "%s!", text);
    assert_int_equal(strlen(long_text), sizeof(text));
    assert_int_equal(long_text[sizeof(text) - 1], '!');
    assert_memory_equal(arena_dup(&arena, "a\0b", 3), "a\0b", 3);
    assert_non_null(arena_dup(&arena, NULL, 0));
    int *array = ARENA_ARRAY(&arena, int, 3);
    assert_int_equal(array[0] + array[1] + array[2], 0);
    arena_done(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests_name("arena", tests, NULL, NULL);
}
