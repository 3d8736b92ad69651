/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What leaves the history by its age, and what does not because the wall clock has jumped: ahead,
 * again, back, in small steps, or while there was no coordinator. And that the size of a job is
 * told alike while it waits, when it has ended and by the next coordinator.
 */
#include "tests/unit/core_world.h"

#define HOUR (3600ll * 1000)
#define DAY  (24 * HOUR)

/* One job, that has ended. */
static void end_a_job(void)
{
    uint64_t session = join("n0", 1);
    uint64_t job = submit(1);

    say_started(session, job, 1, 0);
    say_ended(session, job, 1, 0, ACCEL__V1__CAUSE__CAUSE_SUCCEEDED);
}

static bool is_kept(void)
{
    Accel__V1__GetRequest rq = ACCEL__V1__GET_REQUEST__INIT;

    rq.job_id = 1;
    int code = said_to(open_as(&root, COORD_GET, &rq))->code;
    assert_true(code == 0 || code == ACCEL_ENOENT);
    return code == 0;
}

/* What makes the core look at what is old: a timer of its own, or another job that ends. */
static void look(void)
{
    step(&(struct coord_event){.type = COORD_EV_TICK});
}

static void test_it_goes_when_it_is_old(void **state)
{
    (void)state;
    end_a_job();
    pass(LIMIT_HISTORY_MS - HOUR);
    assert_true(is_kept());
    pass(2 * HOUR);
    assert_false(is_kept());
}

static void test_a_clock_that_is_set_ahead(void **state)
{
    (void)state;
    end_a_job();
    pass(HOUR);
    w.wall_ms += 40 * DAY;
    look();
    assert_true(is_kept());
    pass(LIMIT_CLOCK_SETTLE_MS - HOUR);
    look();
    assert_true(is_kept());
    w.wall_ms -= 40 * DAY; /* somebody noticed */
    look();
    pass(2 * LIMIT_CLOCK_SETTLE_MS);
    assert_true(is_kept());
}

static void test_a_new_time_that_stands(void **state)
{
    (void)state;
    end_a_job();
    w.wall_ms += 40 * DAY;
    look();
    pass(LIMIT_CLOCK_SETTLE_MS / 2);
    w.wall_ms += 40 * DAY; /* again: counted anew */
    look();
    pass(LIMIT_CLOCK_SETTLE_MS - HOUR);
    assert_true(is_kept());
    pass(HOUR); /* by a timer of its own */
    assert_false(is_kept());
}

/* Or one that was off for so long; nobody can know. */
static void test_a_coordinator_that_starts_late(void **state)
{
    (void)state;
    end_a_job();
    w.wall_ms += 40 * DAY;
    restart();
    assert_true(is_kept());
    pass(LIMIT_CLOCK_SETTLE_MS - HOUR);
    assert_true(is_kept());
    pass(HOUR);
    assert_false(is_kept());
}

static void test_a_start_in_time(void **state)
{
    (void)state;
    end_a_job();
    pass(LIMIT_HISTORY_MS - HOUR);
    submit(1); /* the store is written, so it is known how late it is */
    restart();
    pass(2 * HOUR);
    assert_false(is_kept());
}

static void test_small_steps_and_back(void **state)
{
    (void)state;
    end_a_job();
    for (int i = 0; i < 100; i++) { /* as a clock that is corrected does */
        w.wall_ms += i % 2 ? HOUR : -HOUR;
        look();
    }
    w.wall_ms -= 400 * DAY;
    look();
    assert_true(is_kept());
}

static void check_size(uint64_t job, Accel__V1__JobState state, uint32_t nodes, uint32_t procs)
{
    Accel__V1__GetRequest rq = ACCEL__V1__GET_REQUEST__INIT;

    rq.job_id = job;
    Accel__V1__GetReply *reply = ask(COORD_GET, &rq, &accel__v1__get_reply__descriptor);
    assert_int_equal(reply->job->state, state);
    assert_int_equal(reply->job->nodes, nodes);
    assert_int_equal(reply->job->procs, procs);
    free_message(reply);
}

static void three_each(Accel__V1__JobSpec *spec)
{
    spec->procs_per_node = 3;
}

static void test_the_size_that_is_told(void **state)
{
    (void)state;
    uint64_t session[] = {join("n0", 1), join("n1", 1)};
    uint64_t job = submit(2);
    check_size(job, ACCEL__V1__JOB_STATE__JOB_STARTING, 2, 2);
    for (uint32_t i = 0; i < 2; i++)
        say_prepared(session[i], job, 1);
    for (uint32_t i = 0; i < 2; i++)
        say_started(session[i], job, 1, i);
    for (uint32_t i = 0; i < 2; i++)
        say_ended(session[i], job, 1, i, ACCEL__V1__CAUSE__CAUSE_SUCCEEDED);
    check_size(job, ACCEL__V1__JOB_STATE__JOB_ENDED, 2, 2);
    restart();
    check_size(job, ACCEL__V1__JOB_STATE__JOB_ENDED, 2, 2);
    join("n0", 3);
    join("n1", 3);
    submit_as(&root, 2, three_each);
    check_size(submit_as(&root, 2, three_each), ACCEL__V1__JOB_STATE__JOB_PENDING, 2, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_it_goes_when_it_is_old, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_clock_that_is_set_ahead, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_new_time_that_stands, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_coordinator_that_starts_late, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_start_in_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_small_steps_and_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_size_that_is_told, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
