/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whom a node becomes and whom never, and names that the name service of this machine knows or
 * does not. The accounts are those of the machine; what it lacks is made up. No root is needed:
 * nobody is become here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agentd/identity.h"
#include "agentd/identity_lookup.h"

#define NO_ACCOUNT 4000000000u /* a uid and a gid that no machine has */

static const struct identity_rules rules = {
    .is_switching = true, .min_uid = 1000, .agent_uid = 2000, .agent_gid = 2001};

static Accel__V1__AttemptSpec spec_of(uint32_t uid, uint32_t gid)
{
    Accel__V1__AttemptSpec spec = ACCEL__V1__ATTEMPT_SPEC__INIT;
    spec.user = (char *)"somebody";
    spec.uid = uid;
    spec.gid = gid;
    return spec;
}

static void test_refused(void **state)
{
    static const struct {
        uint32_t uid, gid;
        const char *want;
    } cases[] = {
        {0, NO_ACCOUNT, "this node runs no job as user id 0: never"},
        {UINT32_MAX, NO_ACCOUNT, "this node runs no job as user id 4294967295: never"},
        {2000, NO_ACCOUNT, "this node runs no job as user id 2000: it is acceld's own"},
        {999, NO_ACCOUNT, "this node runs no job as user id 999: it is below --min-uid"},
        {NO_ACCOUNT, 0, "this node runs no job as group id 0: never"},
        {NO_ACCOUNT, UINT32_MAX, "this node runs no job as group id 4294967295: never"},
        {NO_ACCOUNT, 2001, "this node runs no job as group id 2001: never"},
        {NO_ACCOUNT, 999,
         "this node runs no job as group id 999: it is the system's and not this user's"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct accel_error err = {0};
        struct identity id = {.uid = 1};
        Accel__V1__AttemptSpec spec = spec_of(cases[i].uid, cases[i].gid);
        assert_int_equal(identity_check(&rules, &spec, &id, &err), ACCEL_EPERM);
        assert_string_equal(err.text, cases[i].want);
        assert_int_equal(err.sys, EPERM);
        assert_int_equal(id.uid, 1);
    }
}

/* Of the groups that are asked for, those of the system need proof; 0 and acceld's have none. */
static void test_groups(void **state)
{
    struct accel_error err;
    struct identity id;
    uint32_t groups[] = {0, 999, 1000, 2001, UINT32_MAX, NO_ACCOUNT - 1};
    Accel__V1__AttemptSpec spec = spec_of(NO_ACCOUNT, NO_ACCOUNT);
    (void)state;
    spec.groups = groups;
    spec.n_groups = ARRAY_LEN(groups);
    assert_int_equal(identity_check(&rules, &spec, &id, &err), 0);
    assert_true(id.is_switched);
    assert_int_equal(id.uid, NO_ACCOUNT);
    assert_int_equal(id.gid, NO_ACCOUNT);
    assert_int_equal(id.group_count, 2);
    assert_int_equal(id.groups[0], 1000);
    assert_int_equal(id.groups[1], NO_ACCOUNT - 1);
    assert_int_equal(id.dropped, 4);
    identity_done(&id);
    spec.n_groups = IDENTITY_GROUPS_MAX + 1; /* refused before it is read */
    assert_int_equal(identity_check(&rules, &spec, &id, &err), ACCEL_EPERM);
    assert_non_null(strstr(err.text, "too many groups"));
}

/* /etc/group is proof, for the user that it names and for no other. */
static void test_member(void **state)
{
    struct accel_error err;
    struct identity id;
    struct group *g;
    (void)state;
    setgrent();
    while ((g = getgrent()) != NULL && (g->gr_mem[0] == NULL || g->gr_gid == 0)) {}
    if (g == NULL) {
        endgrent();
        skip(); /* no group of this machine has members */
    }
    const struct identity_rules strict = {
        .is_switching = true, .min_uid = NO_ACCOUNT - 10, .agent_uid = 1, .agent_gid = UINT32_MAX};
    Accel__V1__AttemptSpec spec = spec_of(NO_ACCOUNT, NO_ACCOUNT);
    uint32_t gid = g->gr_gid;
    spec.groups = &gid;
    spec.n_groups = 1;
    assert_int_equal(identity_check(&strict, &spec, &id, &err), 0);
    assert_int_equal(id.group_count, 0);
    assert_int_equal(id.dropped, 1);
    identity_done(&id);
    spec.user = g->gr_mem[0];
    assert_int_equal(identity_check(&strict, &spec, &id, &err), 0);
    assert_int_equal(id.group_count, 1);
    assert_int_equal(id.groups[0], gid);
    identity_done(&id);
    spec.gid = gid;
    assert_int_equal(identity_check(&strict, &spec, &id, &err), 0);
    identity_done(&id);
    endgrent();
}

/* Without --user: one's own jobs, as who one is. */
static void test_own(void **state)
{
    static const struct identity_rules own = {.min_uid = 1000};
    struct accel_error err;
    struct identity id;
    Accel__V1__AttemptSpec spec = spec_of(geteuid(), getegid());
    (void)state;
    assert_int_equal(identity_check(&own, &spec, &id, &err), 0);
    assert_false(id.is_switched);
    identity_done(&id);
    spec.uid = geteuid() + 1;
    assert_int_equal(identity_check(&own, &spec, &id, &err), ACCEL_EPERM);
    assert_non_null(strstr(err.text, "not of user id"));
    spec.uid = UINT32_MAX;
    assert_int_equal(identity_check(&own, &spec, &id, &err), ACCEL_EPERM);
    assert_non_null(strstr(err.text, "not of user somebody"));
}

/* ---- names ---- */

static void test_lookup(void **state)
{
    struct identity_account a;
    struct accel_error err;
    (void)state;
    assert_int_equal(identity_lookup_now("root", &a, &err), 0);
    assert_int_equal(a.uid, 0);
    assert_int_equal(a.gid, 0);
    for (size_t i = 0; i < a.group_count; i++) {
        assert_int_not_equal(a.groups[i], a.gid);
    }
    identity_account_done(&a);
    assert_int_equal(identity_lookup_now("no-such-user-here", &a, &err), ACCEL_ENOENT);
    assert_non_null(strstr(err.text, "user no-such-user-here is not known on this node\ntry: "));
    assert_int_equal(identity_lookup_now("", &a, &err), ACCEL_ENOENT);
}

struct answers {
    size_t found, unknown, closed;
};

static void on_answer(void *ctx, const struct identity_account *a, const struct accel_error *err)
{
    struct answers *n = ctx;
    if (a != NULL) {
        assert_int_equal(a->uid, 0);
        n->found++;
    } else {
        assert_int_equal(err->code, ACCEL_ENOENT);
        n->unknown++;
    }
}

static void on_closed(void *ctx)
{
    struct answers *n = ctx;
    n->closed++;
}

/* More than run at once; then some that nobody waits for any more. */
static void test_lookups(void **state)
{
    uv_loop_t loop;
    struct answers n = {0};
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    struct identity_lookups *l = identity_lookups_create(&loop);
    for (size_t i = 0; i < 40; i++) {
        identity_lookup(l, i % 2 == 0 ? "root" : "no-such-user-here", on_answer, &n);
        assert_int_equal(n.found + n.unknown, 0); /* never from inside */
    }
    while (n.found + n.unknown < 40) {
        uv_run(&loop, UV_RUN_ONCE);
    }
    assert_int_equal(n.found, 20);
    for (size_t i = 0; i < 40; i++) {
        identity_lookup(l, "root", on_answer, &n);
    }
    identity_lookups_destroy(l, on_closed, &n);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(n.closed, 1);
    assert_int_equal(n.found, 20);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused), cmocka_unit_test(test_groups),
        cmocka_unit_test(test_member),  cmocka_unit_test(test_own),
        cmocka_unit_test(test_lookup),  cmocka_unit_test(test_lookups),
    };
    return cmocka_run_group_tests_name("identity", tests, NULL, NULL);
}
