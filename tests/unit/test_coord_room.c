/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much the jobs that wait or run may bring along, all together: arguments of each, and an
 * environment once for all that share it.
 */
#include "tests/unit/core_world.h"

#define ROOM 1000u
#define HALF 400u /* with what a spec needs otherwise less than half of ROOM, more than a third */

static uint8_t text[HALF];

static int submit_half(const char *env)
{
    Accel__V1__SubmitRequest rq = ACCEL__V1__SUBMIT_REQUEST__INIT;
    Accel__V1__JobSpec spec = ACCEL__V1__JOB_SPEC__INIT;
    ProtobufCBinaryData argv[] = {{9, (uint8_t *)"/bin/true"}, {sizeof(text), text}};
    ProtobufCBinaryData pair = {env ? strlen(env) : 0, (uint8_t *)env};
    uint8_t id[LIMIT_REQUEST_ID_BYTES] = {++w.requests};

    memset(text, 'x', sizeof(text));
    spec.n_argv = env ? 1 : 2;
    spec.argv = argv;
    spec.n_env = env ? 1 : 0;
    spec.env = &pair;
    spec.cwd = (ProtobufCBinaryData){1, (uint8_t *)"/"};
    spec.nodes = spec.procs_per_node = 1;
    rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
    rq.spec = &spec;
    return said_to(open_as(&root, COORD_SUBMIT, &rq))->code;
}

static void cancel(uint64_t job)
{
    Accel__V1__CancelRequest rq = ACCEL__V1__CANCEL_REQUEST__INIT;
    uint8_t id[LIMIT_REQUEST_ID_BYTES] = {++w.requests};

    rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
    rq.job_ids = &job;
    rq.n_job_ids = 1;
    assert_int_equal(said_to(open_as(&root, COORD_CANCEL, &rq))->code, 0);
}

static int setup_small(void **state)
{
    setup(state);
    w.config.live_bytes = ROOM;
    restart();
    join("n0", 1);
    return 0;
}

static void test_arguments(void **state)
{
    (void)state;
    assert_int_equal(submit_half(NULL), 0);
    assert_int_equal(submit_half(NULL), 0);
    assert_int_equal(submit_half(NULL), ACCEL_EFULL);
    restart();
    join("n0", 1);
    assert_int_equal(submit_half(NULL), ACCEL_EFULL);
    cancel(2);
    assert_int_equal(submit_half(NULL), 0);
    assert_int_equal(submit_half(NULL), ACCEL_EFULL);
}

static void test_environments(void **state)
{
    char env[2][HALF + 1] = {"A=", "B="};

    (void)state;
    for (int i = 0; i < 2; i++)
        memset(env[i] + 2, 'x', HALF - 2);
    for (int i = 0; i < 4; i++)
        assert_int_equal(submit_half(env[0]), 0);
    assert_int_equal(submit_half(env[1]), 0);
    assert_int_equal(submit_half(NULL), ACCEL_EFULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_arguments, setup_small, teardown),
        cmocka_unit_test_setup_teardown(test_environments, setup_small, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
