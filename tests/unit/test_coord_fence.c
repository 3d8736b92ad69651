/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exchanges between the nodes of a gang, in the coordinator's core: who gets what and when, over
 * lost sessions, restarts and the end of the attempt. Node rank N is session N + 1.
 */
#include "tests/unit/core_world.h"

#define NODES_MAX 16u

static uint64_t job;

/* So many nodes run attempt 1 of one job. */
static void gang(uint32_t nodes)
{
    static const char *const names[] = {"n00", "n01", "n02", "n03", "n04", "n05", "n06", "n07",
                                        "n08", "n09", "n10", "n11", "n12", "n13", "n14", "n15"};

    assert_true(nodes <= NODES_MAX);
    for (uint32_t i = 0; i < nodes; i++)
        join(names[i], 1);
    job = submit(nodes);
    for (uint32_t i = 0; i < nodes; i++)
        say_prepared(i + 1, job, 1);
    for (uint32_t i = 0; i < nodes; i++)
        say_started(i + 1, job, 1, i);
}

static void give_bytes(uint64_t session, uint32_t attempt, uint32_t number, const void *data,
                       size_t len)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Fence m = ACCEL__V1__FENCE__INIT;
    Accel__V1__AttemptRef ref = ref_of(job, attempt);

    m.ref = &ref;
    m.number = number;
    m.data = (ProtobufCBinaryData){len, (uint8_t *)data};
    up.body_case = ACCEL__V1__AGENT_UP__BODY_FENCE;
    up.fence = &m;
    say(session, &up);
}

static void give(uint64_t session, uint32_t number, const char *text)
{
    give_bytes(session, 1, number, text, strlen(text));
}

/* What the last step told a node: "NUMBER:DATA", "" for nothing. */
static const char *told(uint64_t session)
{
    static char text[128];

    text[0] = 0;
    for (size_t i = 0; i < w.batch.output_count; i++) {
        const struct coord_output *o = &w.batch.outputs[i];
        if (o->call != session || !o->data)
            continue;
        Accel__V1__CoordDown *down = accel__v1__coord_down__unpack(NULL, o->len, o->data);
        assert_non_null(down);
        if (down->body_case == ACCEL__V1__COORD_DOWN__BODY_FENCE_DONE) {
            const Accel__V1__FenceDone *m = down->fence_done;
            assert_int_equal(m->ref->job_id, job);
            assert_string_equal(text, ""); /* once */
            snprintf(text, sizeof(text), "%u:%.*s", m->number, (int)m->data.len,
                     (const char *)m->data.data);
        }
        free_message(down);
    }
    return text;
}

static void test_joined_in_order_of_node_rank(void **state)
{
    (void)state;
    gang(3);
    give(3, 1, "cc");
    give(1, 1, "a");
    assert_string_equal(told(1), ""); /* not before all have given */
    give(2, 1, "bbb");
    for (uint64_t i = 1; i <= 3; i++)
        assert_string_equal(told(i), "1:abbbcc");
    give(2, 2, "");
    give(3, 2, "z");
    give(1, 2, ""); /* a barrier carries nothing */
    for (uint64_t i = 1; i <= 3; i++)
        assert_string_equal(told(i), "2:z");
}

static void test_who_gives_twice(void **state)
{
    (void)state;
    gang(2);
    give(1, 1, "old");
    give(1, 1, "new"); /* the same number again is no second node */
    assert_string_equal(told(1), "");
    give(2, 1, "b");
    assert_string_equal(told(1), "1:newb");
    assert_string_equal(told(2), "1:newb");
    give(2, 1, "x"); /* it has missed the answer: it gets that, and nobody else does */
    assert_string_equal(told(2), "1:newb");
    assert_string_equal(told(1), "");
    give(1, 2, "c");
    give(2, 2, "d");
    assert_string_equal(told(1), "2:cd");
    give(1, 1, "late"); /* all were through it */
    assert_string_equal(told(1), "");
}

static void test_caps(void **state)
{
    AUTO_FREE char *big = xcalloc(1, LIMIT_FENCE_BYTES + 1);
    const uint32_t nodes = LIMIT_FENCE_JOINED_BYTES / LIMIT_FENCE_BYTES + 1;

    (void)state;
    memset(big, 'x', LIMIT_FENCE_BYTES + 1);
    gang(nodes);
    give_bytes(1, 1, 1, big, LIMIT_FENCE_BYTES + 1); /* no agent of ours gives so much */
    for (uint32_t i = 2; i <= nodes; i++)
        give(i, 1, "y");
    assert_string_equal(told(2), "");
    give(1, 1, "x");
    assert_string_equal(told(2), "1:xyyyyyyyyyyyy");
    for (uint32_t i = 1; i <= nodes; i++) /* each may, and all together are too much */
        give_bytes(i, 1, 2, big, LIMIT_FENCE_BYTES);
    for (uint32_t i = 1; i <= nodes; i++)
        assert_string_equal(told(i), "2:");
    give(1, 0, "x"); /* no number */
    assert_string_equal(told(1), "");
}

/* As a rank that was left alone does: what was given is forgotten with the attempt. */
static void test_an_attempt_that_ends_in_a_fence(void **state)
{
    (void)state;
    gang(2);
    give(1, 1, "old");
    say_ended(1, job, 1, 0, ACCEL__V1__CAUSE__CAUSE_FENCED); /* nobody's fault: it starts again */
    give(2, 1, "b"); /* who has ended had given; the other goes on */
    assert_string_equal(told(1), "");
    assert_string_equal(told(2), "1:oldb");
    give(2, 2, "open");
    say_ended(2, job, 1, 1, ACCEL__V1__CAUSE__CAUSE_FENCED);
    for (uint64_t i = 1; i <= 2; i++)
        say_prepared(i, job, 2);
    for (uint64_t i = 1; i <= 2; i++)
        say_started(i, job, 2, (uint32_t)i - 1);
    give(2, 1, "late word of the first"); /* is about an attempt that is over */
    give_bytes(1, 2, 1, "n", 1);
    assert_string_equal(told(1), "");
    give_bytes(2, 2, 1, "m", 1);
    assert_string_equal(told(1), "1:nm");
    assert_string_equal(told(2), "1:nm");
}

static uint64_t come_back(const char *name)
{
    Accel__V1__AttemptRef ref = ref_of(job, 1);
    Accel__V1__AttemptStatus has = ACCEL__V1__ATTEMPT_STATUS__INIT, *list = &has;

    has.ref = &ref;
    has.state = (char *)"RUNNING";
    return join_with(name, 1, &list, 1);
}

static void test_a_node_that_was_away(void **state)
{
    (void)state;
    gang(2);
    give(2, 1, "b");
    hang_up(2);
    give(1, 1, "a"); /* the answer meets no session */
    assert_string_equal(told(1), "1:ab");
    assert_string_equal(told(2), "");
    give(1, 2, "c");
    uint64_t back = come_back("n01");
    assert_string_equal(told(back), "");
    give(back, 1, "b"); /* as every agent does after a Welcome */
    assert_string_equal(told(back), "1:ab");
    assert_string_equal(told(1), "");
    give(back, 2, "d");
    assert_string_equal(told(back), "2:cd");
    assert_string_equal(told(1), "2:cd");
}

static void remove_node(const char *name)
{
    Accel__V1__RemoveNodeRequest rq = ACCEL__V1__REMOVE_NODE_REQUEST__INIT;
    uint8_t id[LIMIT_REQUEST_ID_BYTES] = {++w.requests};

    rq.request_id = (ProtobufCBinaryData){sizeof(id), id};
    rq.name = (char *)name;
    assert_int_equal(said_to(open_as(&root, COORD_REMOVE_NODE, &rq))->code, 0);
}

/* A removed node ends the attempt; the fence opens for nobody, and nothing of it is left. */
static void test_a_node_that_is_lost(void **state)
{
    (void)state;
    gang(3);
    give(1, 1, "a");
    give(2, 1, "b");
    remove_node("n02");
    give(1, 1, "a");
    give(2, 1, "b");
    assert_string_equal(told(1), "");
    assert_string_equal(told(2), "");
    say_ended(1, job, 1, 0, ACCEL__V1__CAUSE__CAUSE_NODE_LOST);
    say_ended(2, job, 1, 1, ACCEL__V1__CAUSE__CAUSE_NODE_LOST);
    Accel__V1__GetReply *m = get_job(job);
    assert_int_equal(m->job->state, ACCEL__V1__JOB_STATE__JOB_PENDING);
    free_message(m);
}

/* A new coordinator knows nothing of it: one node waits for exchange 2, the other missed the answer
 * to 1, and both give their newest two. */
static void test_a_coordinator_that_was_restarted(void **state)
{
    (void)state;
    gang(2);
    give(1, 1, "a");
    give(2, 1, "b");
    restart();
    uint64_t first = come_back("n00"), second = come_back("n01");
    give(first, 1, "a");
    give(first, 2, "c");
    give(second, 1, "b");
    assert_string_equal(told(second), "1:ab");
    assert_string_equal(told(first), "1:ab"); /* it knows, and passes over it */
    give(second, 2, "d");
    assert_string_equal(told(first), "2:cd");
    assert_string_equal(told(second), "2:cd");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_joined_in_order_of_node_rank, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_gives_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(test_caps, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_attempt_that_ends_in_a_fence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_node_that_was_away, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_node_that_is_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_coordinator_that_was_restarted, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
