/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text of enrolment tokens: every length comes back, and what is no token is refused without
 * being repeated.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/token.h"

static void every_length_comes_back(void **state)
{
    uint8_t bytes[100];

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 37 + 250);
    for (size_t len = 1; len <= sizeof(bytes); len++) {
        AUTO_STR struct str text = {0};
        AUTO_FREE uint8_t *back = NULL;
        size_t back_len = 0;
        str_init(&text);
        str_adds(&text, " \n");
        token_encode(bytes, len, &text);
        str_adds(&text, "\n");
        assert_int_equal(token_decode(text.data, &back, &back_len, NULL), 0);
        assert_int_equal(back_len, len);
        assert_memory_equal(back, bytes, len);
    }
}

static void known_text(void **state)
{
    AUTO_STR struct str text = {0};

    str_init(&text);
    token_encode("\xfb\xff\xbf\x00", 4, &text);
    assert_string_equal(text.data, "accel--_-_AA"); /* RFC 4648: +/+/AA in the other alphabet */
}

static void garbage_is_refused(void **state)
{
    static const char *const bad[] = {
        "",           "accel-", "accel-a b",    "accel-a=",       "accel-+/",
        "Accel-QUJD", "QUJD",   "accel-QU\x01", "accel-\xff\xfe", "accel-QUJD accel-QUJD"};
    AUTO_FREE char *huge = xcalloc(1, TOKEN_TEXT_BYTES + 8);
    uint8_t *data = NULL;
    size_t len;
    struct accel_error err;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(token_decode(bad[i], &data, &len, &err), ACCEL_EINVAL);
        assert_null(data);
        if (strlen(bad[i]) > 8)
            assert_null(strstr(err.text, bad[i]));
    }
    memset(huge, 'A', TOKEN_TEXT_BYTES + 1);
    memcpy(huge, "accel-", 6);
    assert_int_equal(token_decode(huge, &data, &len, &err), ACCEL_EINVAL);
    huge[TOKEN_TEXT_BYTES] = 0;
    assert_int_equal(token_decode(huge, &data, &len, &err), 0);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_length_comes_back),
        cmocka_unit_test(known_text),
        cmocka_unit_test(garbage_is_refused),
    };
    return cmocka_run_group_tests_name("token", tests, NULL, NULL);
}
