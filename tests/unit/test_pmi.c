/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PMI-1: the talk of an MPICH program line by line, barriers of one node and of two, and what no
 * MPI library would say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agentd/pmi.h"
#include "common/error.h"
#include "common/limits.h"

static struct pmi *make(uint32_t nodes, uint32_t local)
{
    struct pmi_config config = {.world_size = nodes * local,
                                .local_size = local,
                                .node_count = nodes,
                                .kvsname = "kvs_12.3"};
    return pmi_create(&config);
}

static int tell(struct pmi *p, uint32_t i, const char *text)
{
    return pmi_feed(p, i, text, strlen(text));
}

static void assert_says(struct pmi *p, uint32_t i, const char *expected)
{
    struct str *out = pmi_output(p, i);
    assert_string_equal(out->data, expected);
    str_clear(out);
}

#define ASK(p, i, text, expected)                                                                  \
    do {                                                                                           \
        assert_int_equal(tell(p, i, text), 0);                                                     \
        assert_says(p, i, expected);                                                               \
    } while (0)

static void test_an_mpich_program(void **state)
{
    struct pmi *p = make(1, 2);
    (void)state;
    ASK(p, 0, "cmd=init pmi_version=1 pmi_subversion=1\n",
        "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0\n");
    ASK(p, 0, "cmd=get_maxes\n", "cmd=maxes rc=0 kvsname_max=64 keylen_max=64 vallen_max=1024\n");
    ASK(p, 0, "cmd=get_appnum\n", "cmd=appnum rc=0 appnum=0\n");
    ASK(p, 0, "cmd=get_my_kvsname\n", "cmd=my_kvsname rc=0 kvsname=kvs_12.3\n");
    ASK(p, 0, "cmd=get_universe_size\n", "cmd=universe_size rc=0 size=2\n");
    ASK(p, 0, "cmd=get kvsname=kvs_12.3 key=PMI_process_mapping\n",
        "cmd=get_result rc=0 msg=success value=(vector,(0,1,2))\n");
    ASK(p, 0, "cmd=put kvsname=kvs_12.3 key=bc-0 value=mpi#0200ABCD$\n",
        "cmd=put_result rc=0 msg=success\n");
    ASK(p, 0, "cmd=barrier_in\n", "");
    ASK(p, 1, "cmd=barrier_in\n", "cmd=barrier_out rc=0\n");
    assert_says(p, 0, "cmd=barrier_out rc=0\n");
    ASK(p, 1, "cmd=get kvsname=kvs_12.3 key=bc-0\n",
        "cmd=get_result rc=0 msg=success value=mpi#0200ABCD$\n");
    ASK(p, 1, "cmd=get kvsname=kvs_12.3 key=bc-1\n",
        "cmd=get_result rc=-1 msg=key_not_found value=unknown\n");
    ASK(p, 1, "cmd=finalize\n", "cmd=finalize_ack rc=0\n");
    ASK(p, 0, "cmd=abort exitcode=3\n", "");
    pmi_destroy(p);
}

static void test_lines_in_pieces(void **state)
{
    static const char text[] = "cmd=put kvsname=kvs_12.3 key=a value=1\ncmd=get kvsname=kvs_12.3 "
                               "key=a\ncmd=fin";
    struct pmi *p = make(1, 1);
    (void)state;
    for (size_t i = 0; i < sizeof(text) - 1; i++)
        assert_int_equal(pmi_feed(p, 0, &text[i], 1), 0);
    assert_says(p, 0,
                "cmd=put_result rc=0 msg=success\n"
                "cmd=get_result rc=0 msg=success value=1\n");
    ASK(p, 0, "alize\n", "cmd=finalize_ack rc=0\n");
    pmi_destroy(p);
}

/* The number waited for, with what is given to it. */
static uint32_t fence(const struct pmi *p, const void **ret_data, size_t *ret_len)
{
    uint32_t number = pmi_fence(p);
    assert_true(number == 0 || pmi_fence_given(p, number, ret_data, ret_len));
    return number;
}

/* One exchange between two nodes of one rank each. */
static void exchange(struct pmi *a, struct pmi *b, uint32_t number)
{
    const void *data_a, *data_b;
    size_t len_a, len_b;
    AUTO_STR struct str all;
    str_init(&all);
    assert_int_equal(fence(a, &data_a, &len_a), number);
    str_add(&all, data_a, len_a);
    assert_int_equal(fence(b, &data_b, &len_b), number);
    str_add(&all, data_b, len_b);
    pmi_fence_done(a, number + 1, "k=9\n", 4); /* of another */
    assert_says(a, 0, "");
    pmi_fence_done(a, number, all.data, all.len);
    pmi_fence_done(b, number, all.data, all.len);
    assert_says(a, 0, "cmd=barrier_out rc=0\n");
    assert_says(b, 0, "cmd=barrier_out rc=0\n");
    pmi_fence_done(b, number, all.data, all.len); /* told twice */
    assert_says(b, 0, "");
}

static void test_two_nodes(void **state)
{
    struct pmi *a = make(2, 1), *b = make(2, 1);
    const void *data;
    size_t len;
    (void)state;
    ASK(a, 0, "cmd=get kvsname=kvs_12.3 key=PMI_process_mapping\n",
        "cmd=get_result rc=0 msg=success value=(vector,(0,2,1))\n");
    tell(a, 0, "cmd=put kvsname=kvs_12.3 key=k value=of-a=b\n");
    tell(b, 0, "cmd=put kvsname=kvs_12.3 key=l value=of-b\n");
    str_clear(pmi_output(a, 0));
    str_clear(pmi_output(b, 0));
    assert_int_equal(fence(a, &data, &len), 0);
    ASK(a, 0, "cmd=barrier_in\n", "");
    ASK(b, 0, "cmd=barrier_in\n", "");
    exchange(a, b, 1);
    ASK(b, 0, "cmd=get kvsname=kvs_12.3 key=k\n", "cmd=get_result rc=0 msg=success value=of-a=b\n");
    ASK(a, 0, "cmd=get kvsname=kvs_12.3 key=l\n", "cmd=get_result rc=0 msg=success value=of-b\n");
    ASK(a, 0, "cmd=barrier_in\n", "");
    ASK(b, 0, "cmd=barrier_in\n", "");
    assert_int_equal(fence(a, &data, &len), 2);
    assert_int_equal(len, 0); /* only what is new is given */
    exchange(a, b, 2);
    assert_false(pmi_fence_given(a, 1, &data, &len));
    assert_true(pmi_fence_given(a, 2, &data, &len)); /* b may have to ask again */
    assert_false(pmi_fence_given(a, 0, &data, &len));
    pmi_destroy(a);
    pmi_destroy(b);
}

static void test_what_is_refused(void **state)
{
    struct pmi *p = make(2, 2);
    char line[PMI_LINE_BYTES + 64];
    (void)state;
    ASK(p, 0, "cmd=init pmi_version=2 pmi_subversion=0\n",
        "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=-1\n");
    ASK(p, 0, "cmd=put kvsname=other key=a value=1\n", "cmd=put_result rc=-1 msg=not_understood\n");
    ASK(p, 0, "cmd=put kvsname=kvs_12.3 key= value=1\n",
        "cmd=put_result rc=-1 msg=too_long_or_no_room\n");
    memset(line, 'x', sizeof(line));
    snprintf(line + 1200, sizeof(line) - 1200, "\n");
    memcpy(line, "cmd=put kvsname=kvs_12.3 key=a value=", 37);
    ASK(p, 0, line, "cmd=put_result rc=-1 msg=too_long_or_no_room\n");
    ASK(p, 0, "mcmd=spawn\nnprocs=2\nexecname=x\nendcmd\n",
        "cmd=spawn_result rc=-1 msg=a_gang_has_the_size_it_was_launched_with\n");
    ASK(p, 0, "cmd=lookup_name service=x\n",
        "cmd=lookup_result rc=-1 info=no_name_service msg=no_name_service\n");
    ASK(p, 0, "cmd=juggle\n", "cmd=juggle_result rc=-1 msg=not_supported\n");
    ASK(p, 0, "cmd=barrier_in\ncmd=barrier_in\n", ""); /* twice is once */
    const void *data;
    size_t len;
    assert_int_equal(fence(p, &data, &len), 0);
    assert_int_equal(tell(p, 1, "hello\n"), ACCEL_EPROTO);
    pmi_closed(p, 1);
    assert_int_equal(tell(p, 1, "cmd=get_maxes\n"), ACCEL_EPROTO);
    memset(line, 'x', sizeof(line));
    assert_int_equal(pmi_feed(p, 0, line, sizeof(line)), ACCEL_EPROTO); /* no end of line */
    pmi_destroy(p);
}

/* One that ends without the barrier leaves nobody waiting for ever. */
static void test_who_leaves(void **state)
{
    struct pmi *p = make(1, 3);
    (void)state;
    ASK(p, 0, "cmd=barrier_in\n", "");
    assert_false(pmi_is_stuck(p, 0));
    pmi_closed(p, 2);
    assert_true(pmi_is_stuck(p, 0));
    assert_false(pmi_is_stuck(p, 1));
    assert_int_equal(tell(p, 1, "cmd=get_maxes\n"), 0); /* not all needs the others */
    assert_int_equal(tell(p, 1, "cmd=barrier_in\n"), ACCEL_EPROTO);
    pmi_destroy(p);
    p = make(2, 2); /* all are in: others may still come */
    ASK(p, 0, "cmd=barrier_in\n", "");
    ASK(p, 1, "cmd=barrier_in\n", "");
    pmi_closed(p, 1);
    assert_false(pmi_is_stuck(p, 0));
    pmi_destroy(p);
}

static void test_a_full_exchange(void **state)
{
    struct pmi *p = make(2, 1);
    char line[1200];
    unsigned taken = 0;
    (void)state;
    for (unsigned i = 0; i < 1200; i++) {
        int n =
            snprintf(line, sizeof(line), "cmd=put kvsname=kvs_12.3 key=k%u value=%01000u\n", i, i);
        assert_int_equal(pmi_feed(p, 0, line, (size_t)n), 0);
        taken += strstr(pmi_output(p, 0)->data, "rc=0") != NULL;
        str_clear(pmi_output(p, 0));
    }
    assert_true(taken > 1000 && taken < 1200);
    tell(p, 0, "cmd=barrier_in\n");
    const void *data;
    size_t len;
    assert_int_equal(fence(p, &data, &len), 1);
    assert_true(len <= LIMIT_FENCE_BYTES);
    /* Bytes that are nothing: the barrier opens, nothing else happens. */
    pmi_fence_done(p, 1, "\n\n=x\nno pair\na b=c\nk=\n", 22);
    assert_says(p, 0, "cmd=barrier_out rc=0\n");
    ASK(p, 0, "cmd=get kvsname=kvs_12.3 key=k\n", "cmd=get_result rc=0 msg=success value=\n");
    pmi_destroy(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_mpich_program), cmocka_unit_test(test_lines_in_pieces),
        cmocka_unit_test(test_two_nodes),        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_who_leaves),       cmocka_unit_test(test_a_full_exchange),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
