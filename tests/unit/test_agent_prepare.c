/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stories of a gang over several nodes as one of its nodes lives them: prepared, then launched or
 * given up (agent_story.h).
 */
#include "tests/unit/agent_story.h"

/* Ranks 2 and 3 of 4. */
static void prepare(uint64_t job, uint32_t attempt)
{
    Accel__V1__CoordDown msg = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__Start st = ACCEL__V1__START__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    Accel__V1__JobSpec spec = ACCEL__V1__JOB_SPEC__INIT;
    ProtobufCBinaryData argv[] = {{4, (uint8_t *)"/bin"}};
    char *devices[] = {(char *)"cpu:0", (char *)"cpu:1"};
    ref.job_id = job;
    ref.attempt = attempt;
    ref.era = 1;
    spec.argv = argv;
    spec.n_argv = 1;
    st.ref = &ref;
    st.spec = &spec;
    st.world_size = 4;
    st.first_rank = st.local_size = 2;
    st.node_rank = 1;
    st.node_count = 2;
    st.devices = devices;
    st.n_devices = 2;
    st.prepare = true;
    msg.body_case = ACCEL__V1__COORD_DOWN__BODY_START;
    msg.start = &st;
    down(&msg);
}

static void prepared(uint64_t job, uint32_t attempt)
{
    step(&(struct agent_event){
        .type = AGENT_EV_PREPARED, .id = id_of(job, attempt), .master_port = 20007});
}

static void go(uint64_t job, uint32_t attempt)
{
    Accel__V1__CoordDown msg = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__Go g = ACCEL__V1__GO__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    ref.job_id = job;
    ref.attempt = attempt;
    ref.era = 1;
    g.ref = &ref;
    g.master_addr = (char *)"10.0.0.1";
    g.master_port = 20001;
    msg.body_case = ACCEL__V1__COORD_DOWN__BODY_GO;
    msg.go = &g;
    down(&msg);
}

static void started_here(uint64_t job, uint32_t attempt)
{
    Accel__V1__RankExit e[2], *list[2];
    Accel__V1__ShimStarted msg = ACCEL__V1__SHIM_STARTED__INIT;
    for (uint32_t i = 0; i < 2; i++) {
        accel__v1__rank_exit__init(&e[i]);
        e[i].rank = 2 + i;
        e[i].pid = 72 + i;
        list[i] = &e[i];
    }
    msg.ranks = list;
    msg.n_ranks = 2;
    step(&(struct agent_event){
        .type = AGENT_EV_STARTED, .id = id_of(job, attempt), .started = &msg});
}

#define PREPARED                                                                                   \
    HELLO "[     0] n1       PREPARE job 5.1 ranks 2-3 of 4\n"                                     \
          "[     0] n1       SEND prepared job 5.1\n"
#define DROPPED(event)                                                                             \
    "[     0] n1       job 5.1 PREPARED -> GONE (" event ")\n"                                     \
    "[     0] n1       job 5.1 rank 2 PREPARED -> EXITED (SWEPT)\n"                                \
    "[     0] n1       job 5.1 rank 3 PREPARED -> EXITED (SWEPT)\n"

static void begin_prepared(void)
{
    begin(0);
    greet();
    prepare(5, 1);
    assert_int_equal(s.action_count, 1);
    assert_int_equal(s.last.type, AGENT_ACT_PREPARE);
    prepared(5, 1);
    Accel__V1__AgentUp *up = sent_up();
    assert_int_equal(up->body_case, ACCEL__V1__AGENT_UP__BODY_PREPARED);
    assert_int_equal(up->prepared->master_port, 20007);
    assert_string_equal(up->prepared->address, "127.0.0.1");
    accel__v1__agent_up__free_unpacked(up, NULL);
}

static void test_go(void **state)
{
    (void)state;
    begin_prepared();
    go(5, 1);
    assert_int_equal(s.last.type, AGENT_ACT_LAUNCH);
    go(5, 1); /* told again: nothing is launched twice */
    assert_int_equal(s.action_count, 0);
    started_here(5, 1);
    Accel__V1__AgentUp *up = sent_up();
    assert_string_equal(up->report->started->master_addr, "10.0.0.1");
    assert_int_equal(up->report->started->master_port, 20001);
    accel__v1__agent_up__free_unpacked(up, NULL);
    exited(5, 1, rank_exit(3, 7, 0, false));
    up = sent_up(); /* at once, before its other rank has gone */
    assert_int_equal(up->body_case, ACCEL__V1__AGENT_UP__BODY_FAILING);
    assert_int_equal(up->failing->rank, 3);
    accel__v1__agent_up__free_unpacked(up, NULL);
    end(PREPARED "[     0] n1       LAUNCH job 5.1 ranks 2-3 of 4\n"
                 "[     0] n1       GO job 5.1: ignored, it is LAUNCHED\n"
                 "[     0] n1       job 5.1 rank 2 PREPARED -> RUNNING (STARTED)\n"
                 "[     0] n1       job 5.1 rank 3 PREPARED -> RUNNING (STARTED)\n"
                 "[     0] n1       SEND #1 started job 5.1\n"
                 "[     0] n1       job 5.1 rank 3 RUNNING -> EXITED (FAIL)\n"
                 "[     0] n1       job 5.1 rank 2 RUNNING -> STOPPING (STOP)\n"
                 "[     0] n1       STOP job 5.1 worker_failed grace 2000 ms\n");
}

/* What was only prepared is forgotten with the session, and may be asked for again. */
static void test_session_lost(void **state)
{
    (void)state;
    begin_prepared();
    session_lost();
    assert_int_equal(s.action_count, 1);
    assert_int_equal(s.last.type, AGENT_ACT_UNPREPARE);
    assert_int_equal(agent_attempts_live(s.agent), 0);
    session_open();
    Accel__V1__AgentUp *up = sent_up();
    assert_int_equal(up->hello->n_attempts, 0);
    assert_int_equal(up->hello->n_kept_jobs, 0);
    accel__v1__agent_up__free_unpacked(up, NULL);
    welcome(1, 4);
    prepare(5, 1); /* the same number: it never began here */
    assert_int_equal(s.last.type, AGENT_ACT_PREPARE);
    end(PREPARED "[     0] n1       session OPEN -> CLOSED (LOST)\n" DROPPED("SESSION_LOST") HELLO
        "[     0] n1       PREPARE job 5.1 ranks 2-3 of 4\n");
}

static void test_stop(void **state)
{
    (void)state;
    begin_prepared();
    stop(5, 1, CAUSE(CANCELLED), 30000);
    Accel__V1__AgentUp *up = sent_up();
    assert_true(up->report->ended->never_started);
    assert_int_equal(up->report->ended->cause, CAUSE(CANCELLED));
    accel__v1__agent_up__free_unpacked(up, NULL);
    go(5, 1); /* crossed the end: nothing is launched any more */
    assert_int_equal(s.action_count, 0);
    prepared(5, 1);
    assert_int_equal(s.action_count, 0);
    prepare(5, 1); /* its end waits for the acknowledgement */
    assert_int_equal(s.action_count, 0);
    ack(1);
    prepare(5, 1); /* and fences after it */
    assert_int_equal(s.last.type, AGENT_ACT_SEND);
    end(PREPARED DROPPED("STOP") "[     0] n1       SEND #1 ended job 5.1 cancelled (never "
                                 "started): stopped before it was started\n"
                                 "[     0] n1       GO job 5.1: ignored, it is GONE\n"
                                 "[     0] n1       START job 5.1 again: ignored\n"
                                 "[     0] n1       refused job 5.1: attempt 1 of job 5 was here "
                                 "already\n"
                                 "[     0] n1       SEND #2 ended job 5.1 fenced (never started): "
                                 "attempt 1 of job 5 was here already\n");
}

static void test_refused(void **state)
{
    (void)state;
    begin(0);
    greet();
    prepare(5, 1);
    step(&(struct agent_event){.type = AGENT_EV_LAUNCH_REFUSED,
                               .id = id_of(5, 1),
                               .cause = CAUSE(DEVICE_FAULT),
                               .text = "cpu:0 is busy"});
    assert_int_equal(s.action_count, 1); /* nothing is given back: nothing was taken */
    Accel__V1__AgentUp *up = sent_up();
    assert_true(up->report->ended->never_started);
    assert_int_equal(up->report->ended->cause, CAUSE(DEVICE_FAULT));
    accel__v1__agent_up__free_unpacked(up, NULL);
    go(5, 9); /* of nothing */
    up = sent_up();
    assert_int_equal(up->report->ended->cause, CAUSE(NODE_LOST));
    accel__v1__agent_up__free_unpacked(up, NULL);
    end(HELLO "[     0] n1       PREPARE job 5.1 ranks 2-3 of 4\n"
              "[     0] n1       job 5.1 PREPARING -> GONE (END)\n"
              "[     0] n1       job 5.1 rank 2 PREPARED -> EXITED (SWEPT)\n"
              "[     0] n1       job 5.1 rank 3 PREPARED -> EXITED (SWEPT)\n"
              "[     0] n1       SEND #1 ended job 5.1 device_fault (never started): cpu:0 is "
              "busy\n"
              "[     0] n1       refused job 5.9: this node knows nothing of the attempt\n"
              "[     0] n1       SEND #2 ended job 5.9 node_lost (never started): this node knows "
              "nothing of the attempt\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_go),
        cmocka_unit_test(test_session_lost),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
