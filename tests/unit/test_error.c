/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Codes are part of files and wire, so their values are written out here a second time. Text must
 * stay whole whatever is put into it: too long, its own text, nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "common/error.h"

static void test_values(void **state)
{
    static const struct {
        int code;
        int value;
        const char *name;
    } all[] = {
        {ACCEL_OK, 0, "OK"},
        {ACCEL_ENOMEM, -1, "ENOMEM"},
        {ACCEL_EINVAL, -2, "EINVAL"},
        {ACCEL_ENOENT, -3, "ENOENT"},
        {ACCEL_EEXIST, -4, "EEXIST"},
        {ACCEL_EPERM, -5, "EPERM"},
        {ACCEL_EFULL, -6, "EFULL"},
        {ACCEL_EUNAVAIL, -7, "EUNAVAIL"},
        {ACCEL_ESTALE, -8, "ESTALE"},
        {ACCEL_EPROTO, -9, "EPROTO"},
        {ACCEL_EIO, -10, "EIO"},
        {ACCEL_ECLOSED, -11, "ECLOSED"},
        {ACCEL_ETIME, -12, "ETIME"},
        {ACCEL_ECANCELLED, -13, "ECANCELLED"},
        {ACCEL_ESTATE, -14, "ESTATE"},
        {ACCEL_ENOSPC, -15, "ENOSPC"},
        {ACCEL_EBUSY, -16, "EBUSY"},
        {ACCEL_ECORRUPT, -17, "ECORRUPT"},
        {ACCEL_ENEWER, -18, "ENEWER"},
        {ACCEL_EUNIMPL, -19, "EUNIMPL"},
        {ACCEL_EUNAUTH, -20, "EUNAUTH"},
        {ACCEL_EINTERNAL, -21, "EINTERNAL"},
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        assert_int_equal(all[i].code, all[i].value);
        assert_string_equal(accel_error_name(all[i].code), all[i].name);
        assert_true(strlen(accel_error_sentence(all[i].code)) > 0);
    }
}

static void test_unknown_codes(void **state)
{
    static const int strange[] = {1, 21, -22, -1000, INT_MIN, INT_MAX};
    for (size_t i = 0; i < ARRAY_LEN(strange); i++) {
        assert_string_equal(accel_error_name(strange[i]), "EINTERNAL");
        assert_int_equal(accel_error_to_grpc(strange[i]), 13);
    }
    assert_int_equal(accel_error_from_grpc(17), ACCEL_EINTERNAL);
    assert_int_equal(accel_error_from_grpc(UINT32_MAX), ACCEL_EINTERNAL);
}

/* A code that crosses the wire as a gRPC status comes back as one with the same status. */
static void test_grpc(void **state)
{
    for (int code = 0; code >= ACCEL_EINTERNAL; code--) {
        uint32_t status = accel_error_to_grpc(code);
        assert_int_equal(accel_error_to_grpc(accel_error_from_grpc(status)), status);
        assert_int_equal(status == 0, code == 0);
    }
    assert_int_equal(accel_error_from_grpc(5), ACCEL_ENOENT);
    assert_int_equal(accel_error_from_grpc(14), ACCEL_EUNAVAIL);
    assert_int_equal(accel_error_from_grpc(8), ACCEL_EFULL);
}

static void test_set(void **state)
{
    struct accel_error err = {.sys = 7};
    assert_int_equal(error_set(&err, ACCEL_EINVAL, "no %s of %d", "rank", 3), ACCEL_EINVAL);
    assert_int_equal(err.code, ACCEL_EINVAL);
    assert_int_equal(err.sys, 0);
    assert_string_equal(err.text, "no rank of 3");
    assert_int_equal(error_set(NULL, ACCEL_EBUSY, "x"), ACCEL_EBUSY);
}

static void test_cut(void **state)
{
    char text[2 * ACCEL_ERROR_TEXT];
    struct accel_error err = {0};
    memset(text, 'a', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    error_set(&err, ACCEL_EIO, "%s", text);
    assert_int_equal(strlen(err.text), ACCEL_ERROR_TEXT - 1);
    error_wrap(&err, ACCEL_EIO, "b");
    assert_int_equal(strlen(err.text), ACCEL_ERROR_TEXT - 1);
    assert_memory_equal(err.text, "b: aaa", 6);
    error_sys(&err, ENOENT, "%s", text);
    assert_int_equal(strlen(err.text), ACCEL_ERROR_TEXT - 1);
    error_wrap(&err, ACCEL_EIO, "%s", text);
    assert_int_equal(strlen(err.text), ACCEL_ERROR_TEXT - 1);
}

static void test_own_text(void **state)
{
    struct accel_error err = {0};
    error_set(&err, ACCEL_EIO, "disk");
    error_set(&err, ACCEL_EIO, "%s and %s", err.text, err.text);
    assert_string_equal(err.text, "disk and disk");
    error_wrap(&err, ACCEL_EIO, "%s", err.text);
    assert_string_equal(err.text, "disk and disk: disk and disk");
}

static void test_errno(void **state)
{
    static const struct {
        int sys;
        int code;
    } pairs[] = {
        {ENOENT, ACCEL_ENOENT},
        {EACCES, ACCEL_EPERM},
        {EPERM, ACCEL_EPERM},
        {EROFS, ACCEL_EPERM},
        {ENOSPC, ACCEL_ENOSPC},
        {EDQUOT, ACCEL_ENOSPC},
        {ENOMEM, ACCEL_ENOMEM},
        {EMFILE, ACCEL_EFULL},
        {EEXIST, ACCEL_EEXIST},
        {EPIPE, ACCEL_ECLOSED},
        {ECONNREFUSED, ACCEL_ECLOSED},
        {EIO, ACCEL_EIO},
        {9999, ACCEL_EIO},
        {0, ACCEL_EIO},
    };
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        struct accel_error err = {0};
        assert_int_equal(error_sys(&err, pairs[i].sys, "x"), pairs[i].code);
        assert_int_equal(err.code, pairs[i].code);
        assert_int_equal(err.sys, pairs[i].sys);
        assert_int_equal(error_sys(NULL, pairs[i].sys, "x"), pairs[i].code);
    }
    struct accel_error err = {0};
    error_sys(&err, ENOSPC, "write %s", "a");
    assert_string_equal(err.text, "write a: No space left on device");
}

static void test_wrap(void **state)
{
    struct accel_error err = {0};
    error_sys(&err, ENOSPC, "write a");
    assert_int_equal(error_wrap(&err, ACCEL_ENOSPC, "commit %d", 4), ACCEL_ENOSPC);
    assert_string_equal(err.text, "commit 4: write a: No space left on device");
    assert_int_equal(err.sys, ENOSPC);
    /* A layer below that could not say more than its code. */
    struct accel_error none = {0};
    assert_int_equal(error_wrap(&none, ACCEL_EBUSY, "start"), ACCEL_EBUSY);
    assert_int_equal(none.code, ACCEL_EBUSY);
    assert_string_equal(none.text, "start: in use");
    assert_int_equal(error_wrap(NULL, ACCEL_ETIME, "x"), ACCEL_ETIME);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values), cmocka_unit_test(test_unknown_codes),
        cmocka_unit_test(test_grpc),   cmocka_unit_test(test_set),
        cmocka_unit_test(test_cut),    cmocka_unit_test(test_own_text),
        cmocka_unit_test(test_errno),  cmocka_unit_test(test_wrap),
    };
    return cmocka_run_group_tests_name("error", tests, NULL, NULL);
}
