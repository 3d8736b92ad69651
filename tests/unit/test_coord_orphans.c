/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the core ends when the accelctl that holds a job does not come back in time: the job, or the
 * input of rank 0.
 */
#include "tests/unit/core_world.h"

static uint64_t job;

static void set_kill(Accel__V1__JobSpec *spec)
{
    spec->kill_on_disconnect = true;
}

static void set_stdin(Accel__V1__JobSpec *spec)
{
    spec->want_stdin = true;
}

static void run_job(void (*change)(Accel__V1__JobSpec *spec))
{
    join("n0", 1);
    job = submit_as(&root, 1, change);
    say_started(1, job, 1, 0);
}

static uint64_t own(void)
{
    Accel__V1__WatchRequest rq = ACCEL__V1__WATCH_REQUEST__INIT;

    rq.job_id = job;
    rq.owner = true;
    return open_as(&root, COORD_WATCH, &rq);
}

static void leave(uint64_t call)
{
    step_call(COORD_WATCH, RPC_CLOSED, call, &root, NULL);
}

static Accel__V1__JobState state(void)
{
    Accel__V1__GetReply *m = get_job(job);
    Accel__V1__JobState found = m->job->state;

    free_message(m);
    return found;
}

static uint64_t come_back(uint32_t attempt)
{
    Accel__V1__AttemptRef ref = ref_of(job, attempt);
    Accel__V1__AttemptStatus has = ACCEL__V1__ATTEMPT_STATUS__INIT, *list = &has;

    has.ref = &ref;
    has.state = (char *)"RUNNING";
    uint64_t session = join_with("n0", 1, &list, 1);
    say_started(session, job, attempt, 0);
    return session;
}

/* The end of input that the last step sent to the node: its id; 0: none. */
static uint64_t eof_sent(uint64_t session, uint32_t attempt)
{
    uint64_t id = 0;

    for (size_t i = 0; i < w.batch.output_count; i++) {
        const struct coord_output *o = &w.batch.outputs[i];
        if (o->call != session || !o->data)
            continue;
        Accel__V1__CoordDown *down = accel__v1__coord_down__unpack(NULL, o->len, o->data);
        if (down->body_case == ACCEL__V1__COORD_DOWN__BODY_INPUT && down->input->data->eof) {
            assert_int_equal(down->input->ref->attempt, attempt);
            id = down->input->id;
        }
        free_message(down);
    }
    return id;
}

static void answer(uint64_t session, uint64_t id, uint32_t code)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__InputDone m = ACCEL__V1__INPUT_DONE__INIT;
    Accel__V1__InputReply reply = ACCEL__V1__INPUT_REPLY__INIT;

    m.id = id;
    m.code = code;
    m.reply = code ? NULL : &reply;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_INPUT_DONE;
    up.input_done = &m;
    say(session, &up);
}

static void test_a_job_without_its_owner(void **unused)
{
    (void)unused;
    run_job(set_kill);
    own();
    restart(); /* the owner dies meanwhile */
    come_back(1);
    pass(LIMIT_OWNER_GRACE_MS - 1);
    assert_int_equal(state(), ACCEL__V1__JOB_STATE__JOB_RUNNING);
    pass(1);
    Accel__V1__GetReply *m = get_job(job);
    assert_int_equal(m->job->state, ACCEL__V1__JOB_STATE__JOB_STOPPING);
    assert_string_equal(m->job->reason, "cancelled: its accelctl has not come back");
    free_message(m);
}

static void test_an_owner_that_comes_back(void **unused)
{
    (void)unused;
    run_job(set_kill);
    own();
    restart();
    come_back(1);
    pass(LIMIT_OWNER_GRACE_MS - 1);
    uint64_t call = own();
    pass(2 * LIMIT_OWNER_GRACE_MS);
    assert_int_equal(state(), ACCEL__V1__JOB_STATE__JOB_RUNNING);
    leave(call); /* now it is noticed at once */
    assert_int_equal(state(), ACCEL__V1__JOB_STATE__JOB_STOPPING);
}

/* It died after its Submit was answered. */
static void test_an_owner_that_never_came(void **unused)
{
    (void)unused;
    run_job(set_kill);
    pass(LIMIT_OWNER_GRACE_MS);
    assert_int_equal(state(), ACCEL__V1__JOB_STATE__JOB_STOPPING);
}

static void test_others_run_on(void **unused)
{
    (void)unused;
    run_job(NULL);
    leave(own());
    restart();
    come_back(1);
    pass(10 * LIMIT_OWNER_GRACE_MS);
    assert_int_equal(state(), ACCEL__V1__JOB_STATE__JOB_RUNNING);
}

static void test_the_input_ends(void **unused)
{
    (void)unused;
    run_job(set_stdin);
    leave(own());
    pass(LIMIT_OWNER_GRACE_MS - 1);
    assert_int_equal(eof_sent(1, 1), 0);
    pass(1);
    uint64_t id = eof_sent(1, 1);
    assert_int_not_equal(id, 0);
    assert_int_equal(state(), ACCEL__V1__JOB_STATE__JOB_RUNNING);
    answer(1, id, 6); /* what came before has not been read */
    pass(LIMIT_OWNER_GRACE_MS);
    id = eof_sent(1, 1);
    assert_int_not_equal(id, 0);
    answer(1, id, 0);
    assert_int_equal(coord_deadline_ms(w.core), -1); /* once is enough */
    say_ended(1, job, 1, 0, ACCEL__V1__CAUSE__CAUSE_FENCED);
    assert_int_equal(eof_sent(1, 2), 0);
    say_started(1, job, 2, 0); /* the next attempt waits for input as well */
    pass(0);
    assert_int_not_equal(eof_sent(1, 2), 0);
}

static void test_the_input_goes_on(void **unused)
{
    Accel__V1__InputRequest rq = ACCEL__V1__INPUT_REQUEST__INIT;

    (void)unused;
    run_job(set_stdin);
    leave(own());
    pass(LIMIT_OWNER_GRACE_MS - 1);
    uint64_t call = own();
    pass(2 * LIMIT_OWNER_GRACE_MS);
    assert_int_equal(coord_deadline_ms(w.core), -1);
    leave(call);
    pass(LIMIT_OWNER_GRACE_MS - 1);
    rq.job_id = job;
    open_as(&root, COORD_INPUT, &rq); /* who gives input is there, though it does not watch */
    pass(LIMIT_OWNER_GRACE_MS - 1);
    assert_int_equal(eof_sent(1, 1), 0);
    pass(1);
    assert_int_not_equal(eof_sent(1, 1), 0);
}

/* Numbers of calls carry the number of their server in the highest bits. */
static void test_answers_of_others(void **unused)
{
    Accel__V1__InputRequest rq = ACCEL__V1__INPUT_REQUEST__INIT;

    (void)unused;
    run_job(set_stdin);
    rq.job_id = job;
    for (uint64_t server = 0; server <= 4; server++) {
        w.calls = server << 61 | CALLS_FROM;
        uint64_t call = open_as(&root, COORD_INPUT, &rq);
        answer(1, call, 0);
        assert_non_null(said_to(call));
    }
}

static void test_the_input_ends_after_a_restart(void **unused)
{
    (void)unused;
    run_job(set_stdin);
    own();
    restart();
    pass(LIMIT_OWNER_GRACE_MS); /* the node is away as well */
    uint64_t session = come_back(1);
    pass(0);
    assert_int_not_equal(eof_sent(session, 1), 0);
    say_ended(session, job, 1, 0, ACCEL__V1__CAUSE__CAUSE_SUCCEEDED); /* and never answers */
    assert_int_equal(state(), ACCEL__V1__JOB_STATE__JOB_ENDED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_job_without_its_owner, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_owner_that_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_owner_that_never_came, setup, teardown),
        cmocka_unit_test_setup_teardown(test_others_run_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_input_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_input_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_answers_of_others, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_input_ends_after_a_restart, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
