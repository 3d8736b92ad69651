/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stories of the agent's core, compared line by line: what it heard and did at which millisecond.
 * Beside the narrative the packed messages are read where their content matters. No process, no
 * socket, no clock.
 */
#include "common/lifecycle.h"
#include "tests/unit/agent_story.h"

static void test_success(void **state)
{
    (void)state;
    begin(0);
    greet();
    start(1, 5, 1, 2);
    assert_int_equal(s.last.type, AGENT_ACT_LAUNCH);
    assert_string_equal(s.last.start->devices[1], "cpu:1");
    after_ms(10);
    started(5, 1, 2);
    Accel__V1__AgentUp *up = sent_up();
    assert_int_equal(up->report->started->master_port, 20001);
    assert_string_equal(up->report->started->master_addr, "127.0.0.1");
    assert_int_equal(up->report->started->ranks[1]->pid, 71);
    assert_string_equal(up->report->started->ranks[1]->devices[0], "cpu:1");
    accel__v1__agent_up__free_unpacked(up, NULL);
    after_ms(10);
    exited(5, 1, rank_exit(1, 0, 0, false));
    assert_int_equal(s.action_count, 0); /* one that is done early stops nobody */
    exited(5, 1, rank_exit(0, 0, 0, false));
    gone(5, 1, 0, false);
    up = sent_up();
    assert_int_equal(up->report->ended->first_failed_rank, -1);
    assert_memory_equal(up->report->ended->ranks[0]->stdout_path.data, "/state/attempts/5.1/0.out",
                        25);
    accel__v1__agent_up__free_unpacked(up, NULL);
    assert_int_equal(agent_attempts_live(s.agent), 0);
    ack(2);
    assert_int_equal(s.last.type, AGENT_ACT_MARK_ACKED);
    end(HELLO "[     0] n1       LAUNCH job 5.1 ranks 0-1 of 2\n"
              "[    10] n1       job 5.1 rank 0 PREPARED -> RUNNING (STARTED)\n"
              "[    10] n1       job 5.1 rank 1 PREPARED -> RUNNING (STARTED)\n"
              "[    10] n1       SEND #1 started job 5.1\n"
              "[    20] n1       job 5.1 rank 1 RUNNING -> EXITED (EXIT)\n"
              "[    20] n1       job 5.1 rank 0 RUNNING -> EXITED (EXIT)\n"
              "[    20] n1       SEND #2 ended job 5.1 succeeded: all 2 ranks exited with code 0\n"
              "[    20] n1       MARK job 5.1 acked\n");
}

/* Rank 1 is reaped first, but rank 0's exit is told first: the clock decides, not the order. */
static void test_two_failures(void **state)
{
    (void)state;
    begin(0);
    greet();
    start(1, 5, 1, 3);
    started(5, 1, 3);
    Accel__V1__RankExit first = rank_exit(1, 0, 9, false);
    after_ms(5);
    exited(5, 1, rank_exit(0, 1, 0, false));
    assert_int_equal(s.last.type, AGENT_ACT_STOP);
    exited(5, 1, first);
    assert_int_equal(s.action_count, 0); /* stopped once */
    after_ms(20);
    exited(5, 1, rank_exit(2, 0, 15, true));
    gone(5, 1, CAUSE(WORKER_FAILED), false);
    Accel__V1__AgentUp *up = sent_up();
    assert_int_equal(up->report->ended->first_failed_rank, 1);
    assert_int_equal(up->report->ended->first_failed_age_ns, 25000000);
    accel__v1__agent_up__free_unpacked(up, NULL);
    end(HELLO
        "[     0] n1       LAUNCH job 5.1 ranks 0-2 of 3\n"
        "[     0] n1       job 5.1 rank 0 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       job 5.1 rank 1 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       job 5.1 rank 2 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       SEND #1 started job 5.1\n"
        "[     5] n1       job 5.1 rank 0 RUNNING -> EXITED (FAIL)\n"
        "[     5] n1       job 5.1 rank 1 RUNNING -> STOPPING (STOP)\n"
        "[     5] n1       job 5.1 rank 2 RUNNING -> STOPPING (STOP)\n"
        "[     5] n1       STOP job 5.1 worker_failed grace 2000 ms\n"
        "[     5] n1       job 5.1 rank 1 STOPPING -> EXITED (FAIL)\n"
        "[    25] n1       job 5.1 rank 2 STOPPING -> EXITED (FAIL)\n"
        "[    25] n1       SEND #2 ended job 5.1 worker_failed: rank 1 (pid 71) was killed by "
        "signal 9 (Killed)\n");
}

static void test_two_failures_in_order(void **state)
{
    (void)state;
    begin(0);
    greet();
    start(1, 5, 1, 2);
    started(5, 1, 2);
    exited(5, 1, rank_exit(1, 3, 0, false));
    after_ms(1);
    exited(5, 1, rank_exit(0, 7, 0, false)); /* by itself too, before the stop reached it */
    gone(5, 1, CAUSE(WORKER_FAILED), false);
    Accel__V1__AgentUp *up = sent_up();
    assert_int_equal(up->report->ended->first_failed_rank, 1);
    assert_string_equal(up->report->ended->text, "rank 1 (pid 71) exited with code 3");
    accel__v1__agent_up__free_unpacked(up, NULL);
    agent_actions_reset(&s.actions);
    str_clear(&s.trace.text);
    end("");
}

/* A single rank: nobody to stop. */
static void test_single_failure(void **state)
{
    (void)state;
    begin(0);
    greet();
    start(1, 5, 1, 1);
    started(5, 1, 1);
    exited(5, 1, rank_exit(0, 2, 0, false));
    assert_int_equal(s.action_count, 0);
    gone(5, 1, 0, false);
    end(HELLO "[     0] n1       LAUNCH job 5.1 ranks 0-0 of 1\n"
              "[     0] n1       job 5.1 rank 0 PREPARED -> RUNNING (STARTED)\n"
              "[     0] n1       SEND #1 started job 5.1\n"
              "[     0] n1       job 5.1 rank 0 RUNNING -> EXITED (FAIL)\n"
              "[     0] n1       SEND #2 ended job 5.1 worker_failed: rank 0 (pid 70) exited with "
              "code 2\n");
}

static void test_stop_before_started(void **state)
{
    (void)state;
    begin(0);
    greet();
    start(1, 5, 1, 1);
    stop(5, 1, CAUSE(CANCELLED), 500);
    stop(5, 1, CAUSE(TIME_LIMIT), 900); /* no shorter: nothing */
    assert_int_equal(s.action_count, 0);
    after_ms(3);
    started(5, 1, 1);
    assert_int_equal(s.last.type, AGENT_ACT_STOP); /* again, now that there is somebody */
    assert_int_equal(s.last.cause, CAUSE(CANCELLED));
    stop(5, 1, CAUSE(TIME_LIMIT), 0); /* shorter, but the first cause names the end */
    assert_int_equal(s.last.grace_ms, 0);
    exited(5, 1, rank_exit(0, 0, 15, true));
    gone(5, 1, CAUSE(CANCELLED), false);
    stop(5, 1, CAUSE(CANCELLED), 0); /* its report is on the way */
    assert_int_equal(s.action_count, 0);
    end(HELLO "[     0] n1       LAUNCH job 5.1 ranks 0-0 of 1\n"
              "[     0] n1       job 5.1 rank 0 PREPARED -> STOPPING (STOP)\n"
              "[     0] n1       STOP job 5.1 cancelled grace 500 ms\n"
              "[     0] n1       job 5.1 needs no stop (time_limit)\n"
              "[     3] n1       SEND #1 started job 5.1\n"
              "[     3] n1       STOP job 5.1 cancelled grace 500 ms\n"
              "[     3] n1       STOP job 5.1 cancelled grace 0 ms\n"
              "[     3] n1       job 5.1 rank 0 STOPPING -> EXITED (FAIL)\n"
              "[     3] n1       SEND #2 ended job 5.1 cancelled: stopped on request\n"
              "[     3] n1       job 5.1 needs no stop (cancelled)\n");
}

/* The stop was asked when every rank had done its work: that is success. One that traps SIGTERM and
 * exits 0 was stopped all the same. */
static void test_stop_that_came_late(void **state)
{
    (void)state;
    for (int is_obeyed = 0; is_obeyed < 2; is_obeyed++) {
        begin(0);
        greet();
        start(1, 5, 1, 1);
        started(5, 1, 1);
        stop(5, 1, CAUSE(CANCELLED), 500);
        exited(5, 1, rank_exit(0, 0, 0, is_obeyed));
        gone(5, 1, is_obeyed ? CAUSE(CANCELLED) : 0, false);
        Accel__V1__AgentUp *up = sent_up();
        assert_int_equal(up->report->ended->cause, is_obeyed ? CAUSE(CANCELLED) : CAUSE(SUCCEEDED));
        accel__v1__agent_up__free_unpacked(up, NULL);
        str_clear(&s.trace.text);
        end("");
    }
}

/* A session breaks with two reports unacknowledged and one to come; all three come in order, with
 * ages; the acknowledgement of all ends the story. */
static void test_resend(void **state)
{
    (void)state;
    begin(0);
    greet();
    start(1, 5, 1, 1);
    started(5, 1, 1);
    start(1, 6, 1, 1);
    started(6, 1, 1);
    session_lost();
    session_lost(); /* ignored */
    after_ms(100);
    exited(5, 1, rank_exit(0, 1, 0, false));
    gone(5, 1, 0, false);
    assert_int_equal(s.action_count, 0);
    after_ms(900);
    session_open();
    Accel__V1__AgentUp *up = sent_up();
    assert_int_equal(up->hello->n_attempts, 2);
    assert_string_equal(up->hello->attempts[0]->state, "EXITED");
    assert_string_equal(up->hello->attempts[1]->state, "RUNNING");
    accel__v1__agent_up__free_unpacked(up, NULL);
    welcome(1, 4);
    up = sent_up(); /* the newest is the last one sent */
    assert_int_equal(up->report->seq, 3);
    assert_int_equal(up->report->age_ns, 900000000);
    assert_int_equal(up->report->ended->first_failed_age_ns, 900000000);
    accel__v1__agent_up__free_unpacked(up, NULL);
    ack(3);
    session_lost();
    session_open();
    welcome(1, 5); /* a new coordinator hears what runs */
    end(HELLO
        "[     0] n1       LAUNCH job 5.1 ranks 0-0 of 1\n"
        "[     0] n1       job 5.1 rank 0 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       SEND #1 started job 5.1\n"
        "[     0] n1       LAUNCH job 6.1 ranks 0-0 of 1\n"
        "[     0] n1       job 6.1 rank 0 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       SEND #2 started job 6.1\n"
        "[     0] n1       session OPEN -> CLOSED (LOST)\n"
        "[   100] n1       job 5.1 rank 0 RUNNING -> EXITED (FAIL)\n"
        "[   100] n1       keep #3 ended job 5.1 worker_failed: rank 0 (pid 70) exited with "
        "code 1\n"
        "[  1000] n1       SEND hello seen 1/4 attempts 2\n"
        "[  1000] n1       session GREETING -> OPEN (WELCOME)\n"
        "[  1000] n1       RESEND #1 started job 5.1\n"
        "[  1000] n1       RESEND #2 started job 6.1\n"
        "[  1000] n1       RESEND #3 ended job 5.1 worker_failed: rank 0 (pid 70) exited with "
        "code 1\n"
        "[  1000] n1       MARK job 5.1 acked\n"
        "[  1000] n1       session OPEN -> CLOSED (LOST)\n"
        "[  1000] n1       SEND hello seen 1/4 attempts 1\n"
        "[  1000] n1       session GREETING -> OPEN (WELCOME)\n"
        "[  1000] n1       PERSIST seen 1/5\n"
        "[  1000] n1       SEND #4 started job 6.1\n");
}

static void test_duplicates(void **state)
{
    (void)state;
    begin(0);
    greet();
    start(1, 5, 2, 1);
    start(1, 5, 2, 1); /* live: its own reports answer */
    assert_int_equal(s.action_count, 0);
    start(1, 5, 1, 1); /* lower */
    started(5, 2, 1);
    started(5, 2, 1); /* told again */
    assert_int_equal(s.action_count, 0);
    exited(5, 2, rank_exit(0, 0, 0, false));
    exited(5, 2, rank_exit(0, 9, 0, false)); /* told again, and wrong: the first word stands */
    gone(5, 2, 0, false);
    gone(5, 2, 0, false);
    assert_int_equal(s.action_count, 0);
    start(1, 5, 2, 1); /* ended, not acknowledged */
    assert_int_equal(s.action_count, 0);
    ack(3);
    ack(3);
    start(1, 5, 2, 1); /* acknowledged: a tombstone */
    start(2, 6, 1, 1); /* another era */
    end(HELLO
        "[     0] n1       LAUNCH job 5.2 ranks 0-0 of 1\n"
        "[     0] n1       START job 5.2 again: ignored\n"
        "[     0] n1       refused job 5.1: attempt 2 of job 5 was here already\n"
        "[     0] n1       SEND #1 ended job 5.1 fenced (never started): attempt 2 of job 5 was "
        "here already\n"
        "[     0] n1       job 5.2 rank 0 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       SEND #2 started job 5.2\n"
        "[     0] n1       job 5.2 rank 0 RUNNING -> EXITED (EXIT)\n"
        "[     0] n1       SEND #3 ended job 5.2 succeeded: the rank exited with code 0\n"
        "[     0] n1       START job 5.2 again: ignored\n"
        "[     0] n1       MARK job 5.2 acked\n"
        "[     0] n1       refused job 5.2: attempt 2 of job 5 was here already\n"
        "[     0] n1       SEND #4 ended job 5.2 fenced (never started): attempt 2 of job 5 was "
        "here already\n"
        "[     0] n1       refused job 6.1: it is of era 2, this is era 1\n"
        "[     0] n1       SEND #5 ended job 6.1 fenced (never started): it is of era 2, this "
        "is era 1\n");
}

/* A higher attempt while the one before still runs: two generations never run side by side. */
static void test_newer_attempt_fences(void **state)
{
    (void)state;
    begin(0);
    greet();
    start(1, 5, 1, 1);
    started(5, 1, 1);
    start(1, 5, 2, 1);
    assert_int_equal(s.action_count, 2);
    exited(5, 1, rank_exit(0, 0, 15, true));
    gone(5, 1, CAUSE(FENCED), false);
    end(HELLO "[     0] n1       LAUNCH job 5.1 ranks 0-0 of 1\n"
              "[     0] n1       job 5.1 rank 0 PREPARED -> RUNNING (STARTED)\n"
              "[     0] n1       SEND #1 started job 5.1\n"
              "[     0] n1       job 5.1 rank 0 RUNNING -> STOPPING (STOP)\n"
              "[     0] n1       STOP job 5.1 fenced grace 2000 ms\n"
              "[     0] n1       LAUNCH job 5.2 ranks 0-0 of 1\n"
              "[     0] n1       job 5.1 rank 0 STOPPING -> EXITED (FAIL)\n"
              "[     0] n1       SEND #2 ended job 5.1 fenced: stopped: a newer attempt or era "
              "exists\n");
}

static void test_stale_coordinator(void **state)
{
    (void)state;
    begin(0);
    node(1);
    session_open();
    welcome(1, 3);
    assert_int_equal(s.last.type, AGENT_ACT_CLOSE_SESSION);
    assert_false(agent_is_welcomed(s.agent));
    start(1, 5, 1, 1); /* what it still had on the wire */
    assert_int_equal(s.action_count, 0);
    session_open();
    start(1, 5, 1, 1); /* before Welcome */
    session_open();
    welcome(2, 1); /* a higher era wins whatever its epoch */
    welcome(2, 1);
    session_open();
    welcome(1, 99);
    end("[     0] n1       SEND hello seen 1/4 attempts 0\n"
        "[     0] n1       session GREETING -> CLOSED (WELCOME)\n"
        "[     0] n1       CLOSE: a stale coordinator\n"
        "[     0] n1       SEND hello seen 1/4 attempts 0\n"
        "[     0] n1       session GREETING -> CLOSED (COMMAND)\n"
        "[     0] n1       CLOSE: a command before the Welcome\n"
        "[     0] n1       SEND hello seen 1/4 attempts 0\n"
        "[     0] n1       session GREETING -> OPEN (WELCOME)\n"
        "[     0] n1       PERSIST seen 2/1\n"
        "[     0] n1       session OPEN -> CLOSED (WELCOME)\n"
        "[     0] n1       CLOSE: a second Welcome\n"
        "[     0] n1       SEND hello seen 2/1 attempts 0\n"
        "[     0] n1       session GREETING -> CLOSED (WELCOME)\n"
        "[     0] n1       CLOSE: a stale coordinator\n");
}

static void test_protocol_errors(void **state)
{
    (void)state;
    Accel__V1__CoordDown msg = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__Start st = ACCEL__V1__START__INIT;
    begin(0);
    greet();
    ack(1); /* of what was never sent */
    session_open();
    welcome(1, 4);
    msg.body_case = ACCEL__V1__COORD_DOWN__BODY_START;
    msg.start = &st;
    down(&msg);
    assert_int_equal(s.last.type, AGENT_ACT_CLOSE_SESSION);
    session_open();
    welcome(1, 4);
    msg.body_case = (Accel__V1__CoordDown__BodyCase)99; /* of a newer coordinator */
    down(&msg);
    assert_int_equal(s.action_count, 0);
    start(1, 5, 1, 0);
    end(HELLO
        "[     0] n1       session OPEN -> CLOSED (ABORT)\n"
        "[     0] n1       CLOSE: an acknowledgement of what was never sent\n" HELLO
        "[     0] n1       session OPEN -> CLOSED (ABORT)\n"
        "[     0] n1       CLOSE: a Start of nothing\n" HELLO
        "[     0] n1       refused job 5.1: the start has no ranks for this node, or too many\n"
        "[     0] n1       SEND #1 ended job 5.1 start_failed (never started): the start has no "
        "ranks for this node, or too many\n");
}

static void test_start_fails(void **state)
{
    Accel__V1__RankExit e[2], *list[] = {&e[0], &e[1]};
    Accel__V1__ShimStarted msg = ACCEL__V1__SHIM_STARTED__INIT;
    (void)state;
    begin(0);
    greet();
    start(1, 5, 1, 1);
    step(&(struct agent_event){
        .type = AGENT_EV_LAUNCH_REFUSED, .id = id_of(5, 1), .text = "no port is free"});
    ack(1); /* nothing on disk to mark */
    start(1, 6, 1, 1);
    step(&(struct agent_event){.type = AGENT_EV_GONE, .id = id_of(6, 1), .exists = true});
    start(1, 7, 1, 2);
    accel__v1__rank_exit__init(&e[0]);
    accel__v1__rank_exit__init(&e[1]);
    e[0].pid = 70;
    e[1].rank = 1;
    e[1].error = (char *)"train.py: No such file or directory";
    e[1].start_errno = 2;
    msg.ranks = list;
    msg.n_ranks = 2;
    step(&(struct agent_event){.type = AGENT_EV_STARTED, .id = id_of(7, 1), .started = &msg});
    assert_int_equal(s.action_count, 0); /* the shim takes the other back */
    exited(7, 1, rank_exit(0, 0, 9, true));
    gone(7, 1, 0, false);
    Accel__V1__AgentUp *up = sent_up();
    assert_false(up->report->ended->never_started);
    assert_int_equal(up->report->ended->first_failed_rank, 1);
    assert_int_equal(up->report->ended->ranks[1]->exit_code, 127);
    assert_string_equal(up->report->ended->ranks[1]->error, "train.py: No such file or directory");
    accel__v1__agent_up__free_unpacked(up, NULL);
    end(HELLO
        "[     0] n1       LAUNCH job 5.1 ranks 0-0 of 1\n"
        "[     0] n1       job 5.1 rank 0 PREPARED -> EXITED (SWEPT)\n"
        "[     0] n1       SEND #1 ended job 5.1 start_failed (never started): no port is "
        "free\n"
        "[     0] n1       LAUNCH job 6.1 ranks 0-0 of 1\n"
        "[     0] n1       job 6.1 rank 0 PREPARED -> EXITED (SWEPT)\n"
        "[     0] n1       SEND #2 ended job 6.1 fenced (never started): this attempt was here "
        "before\n"
        "[     0] n1       LAUNCH job 7.1 ranks 0-1 of 2\n"
        "[     0] n1       job 7.1 rank 0 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       job 7.1 rank 1 PREPARED -> EXITED (UNSTARTED)\n"
        "[     0] n1       job 7.1 rank 0 RUNNING -> EXITED (FAIL)\n"
        "[     0] n1       SEND #3 ended job 7.1 start_failed: rank 1 could not be started: "
        "train.py: No such file or directory\n");
}

static void test_shim_lost(void **state)
{
    (void)state;
    begin(0);
    greet();
    start(1, 5, 1, 2);
    started(5, 1, 2);
    gone(5, 1, CAUSE(SHIM_LOST), true);
    start(1, 6, 1, 2);
    started(6, 1, 2);
    exited(6, 1, rank_exit(1, 1, 0, false)); /* a rank failed first, then the shim went too */
    gone(6, 1, CAUSE(SHIM_LOST), true);
    end(HELLO
        "[     0] n1       LAUNCH job 5.1 ranks 0-1 of 2\n"
        "[     0] n1       job 5.1 rank 0 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       job 5.1 rank 1 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       SEND #1 started job 5.1\n"
        "[     0] n1       job 5.1 rank 0 RUNNING -> EXITED (SWEPT)\n"
        "[     0] n1       job 5.1 rank 1 RUNNING -> EXITED (SWEPT)\n"
        "[     0] n1       SEND #2 ended job 5.1 shim_lost: the shim was killed; its 2 workers "
        "went with it\n"
        "[     0] n1       LAUNCH job 6.1 ranks 0-1 of 2\n"
        "[     0] n1       job 6.1 rank 0 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       job 6.1 rank 1 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       SEND #3 started job 6.1\n"
        "[     0] n1       job 6.1 rank 1 RUNNING -> EXITED (FAIL)\n"
        "[     0] n1       job 6.1 rank 0 RUNNING -> STOPPING (STOP)\n"
        "[     0] n1       STOP job 6.1 worker_failed grace 2000 ms\n"
        "[     0] n1       job 6.1 rank 0 STOPPING -> EXITED (SWEPT)\n"
        "[     0] n1       SEND #4 ended job 6.1 worker_failed: rank 1 (pid 71) exited with "
        "code 1\n");
}

static void test_unknown_attempts(void **state)
{
    Accel__V1__CoordDown msg = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__Forget forget = ACCEL__V1__FORGET__INIT;
    Accel__V1__SignalRanks sig = ACCEL__V1__SIGNAL_RANKS__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    (void)state;
    begin(0);
    greet();
    stop(9, 4, CAUSE(CANCELLED), 0);
    ref.job_id = 9;
    ref.attempt = 4;
    sig.ref = &ref;
    msg.body_case = ACCEL__V1__COORD_DOWN__BODY_SIGNAL;
    msg.signal = &sig;
    down(&msg);
    assert_int_equal(s.action_count, 0);
    start(1, 5, 1, 1);
    ref = (Accel__V1__AttemptRef)ACCEL__V1__ATTEMPT_REF__INIT;
    ref.job_id = 5;
    ref.attempt = 1;
    ref.era = 1;
    sig.signo = 10;
    down(&msg);
    assert_int_equal(s.last.type, AGENT_ACT_SIGNAL);
    assert_int_equal(s.last.rank, -1);
    msg.body_case = ACCEL__V1__COORD_DOWN__BODY_FORGET;
    msg.forget = &forget;
    forget.job_id = 5;
    down(&msg);
    assert_int_equal(s.action_count, 0); /* it runs */
    forget.job_id = 77;
    down(&msg);
    assert_int_equal(s.last.type, AGENT_ACT_FORGET);
    end(HELLO "[     0] n1       refused job 9.4: this node knows nothing of the attempt\n"
              "[     0] n1       SEND #1 ended job 9.4 node_lost (never started): this node knows "
              "nothing of the attempt\n"
              "[     0] n1       LAUNCH job 5.1 ranks 0-0 of 1\n"
              "[     0] n1       SIGNAL 10 job 5.1\n"
              "[     0] n1       FORGET job 5: ignored, attempts are known\n"
              "[     0] n1       FORGET job 77\n");
}

/* ---- adoption ---- */

static void found(uint64_t era, uint64_t job, bool is_live, const Accel__V1__ShimHello *hello,
                  const Accel__V1__ExitRecord *record)
{
    Accel__V1__AttemptSpec spec = ACCEL__V1__ATTEMPT_SPEC__INIT;
    Accel__V1__RankSpec r[2], *ranks[] = {&r[0], &r[1]};
    char *device[] = {(char *)"cpu:9"};
    for (uint32_t i = 0; i < 2; i++) {
        accel__v1__rank_spec__init(&r[i]);
        r[i].rank = r[i].local_rank = i;
        r[i].devices = device;
        r[i].n_devices = 1;
    }
    spec.ranks = ranks;
    spec.n_ranks = 2;
    spec.master_port = 20009;
    struct launcher_found f = {.id = id_of(job, 1),
                               .era = era,
                               .is_live = is_live,
                               .spec = &spec,
                               .hello = hello,
                               .record = record};
    step(&(struct agent_event){.type = AGENT_EV_FOUND, .id = f.id, .found = &f});
}

/* One runs and had lost a rank while nobody was here, one has ended, one is of another era. */
static void test_adoption(void **state)
{
    Accel__V1__RankExit e[2], *list[] = {&e[0], &e[1]};
    Accel__V1__ShimHello hello = ACCEL__V1__SHIM_HELLO__INIT;
    Accel__V1__ExitRecord record = ACCEL__V1__EXIT_RECORD__INIT;
    (void)state;
    begin(0);
    node(1);
    hello.started = true;
    hello.ranks = list;
    hello.n_ranks = 2;
    e[0] = rank_exit(0, 1, 0, false);
    accel__v1__rank_exit__init(&e[1]);
    e[1].rank = 1;
    e[1].pid = 71;
    found(1, 5, true, &hello, NULL);
    e[1] = rank_exit(1, 0, 0, false);
    record.ranks = list;
    record.n_ranks = 2;
    record.stop_cause = CAUSE(TIME_LIMIT); /* of the acceld before */
    e[0] = rank_exit(0, 0, 15, true);
    found(1, 6, false, NULL, &record);
    accel__v1__rank_exit__init(&e[0]);
    e[0].pid = 80;
    accel__v1__rank_exit__init(&e[1]);
    e[1].rank = 1;
    e[1].pid = 81;
    found(9, 7, true, &hello, NULL);
    session_open();
    welcome(1, 4);
    assert_int_equal(agent_attempts_live(s.agent), 2);
    end("[     0] n1       FOUND job 5.1 era 1 live\n"
        "[     0] n1       job 5.1 rank 0 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       job 5.1 rank 0 RUNNING -> EXITED (FAIL)\n"
        "[     0] n1       job 5.1 rank 1 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       job 5.1 rank 1 RUNNING -> STOPPING (STOP)\n"
        "[     0] n1       STOP job 5.1 worker_failed grace 2000 ms\n"
        "[     0] n1       FOUND job 6.1 era 1 ended\n"
        "[     0] n1       job 6.1 rank 0 PREPARED -> EXITED (FAIL)\n"
        "[     0] n1       job 6.1 rank 1 PREPARED -> EXITED (EXIT)\n"
        "[     0] n1       keep #1 ended job 6.1 time_limit: stopped at its time limit\n"
        "[     0] n1       FOUND job 7.1 era 9 live\n"
        "[     0] n1       job 7.1 rank 0 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       job 7.1 rank 1 PREPARED -> RUNNING (STARTED)\n"
        "[     0] n1       SEND hello seen 1/4 attempts 3\n"
        "[     0] n1       session GREETING -> OPEN (WELCOME)\n"
        "[     0] n1       RESEND #1 ended job 6.1 time_limit: stopped at its time limit\n"
        "[     0] n1       SEND #2 started job 5.1\n"
        "[     0] n1       job 7.1 rank 0 RUNNING -> STOPPING (STOP)\n"
        "[     0] n1       job 7.1 rank 1 RUNNING -> STOPPING (STOP)\n"
        "[     0] n1       STOP job 7.1 fenced grace 2000 ms\n");
}

/* ---- the daemon itself ---- */

static void forget(uint64_t job)
{
    Accel__V1__CoordDown msg = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__Forget body = ACCEL__V1__FORGET__INIT;
    body.job_id = job;
    msg.body_case = ACCEL__V1__COORD_DOWN__BODY_FORGET;
    msg.forget = &body;
    down(&msg);
}

static void expect_kept(const uint64_t *jobs, size_t count)
{
    Accel__V1__AgentUp *up = sent_up();
    assert_int_equal(up->body_case, ACCEL__V1__AGENT_UP__BODY_HELLO);
    assert_int_equal(up->hello->n_kept_jobs, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(up->hello->kept_jobs[i], jobs[i]);
    accel__v1__agent_up__free_unpacked(up, NULL);
}

/* Hello names what waits for its Forget: what was found, and what ended here and is acknowledged;
 * not what lives, what waits for its acknowledgement, what is forgotten, or another era's. */
static void test_kept_jobs(void **state)
{
    struct agent_event kept = {.type = AGENT_EV_KEPT, .era = 1};
    (void)state;
    begin(0);
    node(1);
    for (uint32_t i = 0; i < 3; i++) {
        kept.id = (struct attempt_id){i < 2 ? 30 : 10, i + 1};
        step(&kept);
    }
    kept.id = (struct attempt_id){7, 1};
    kept.era = 9;
    step(&kept);
    session_open();
    expect_kept((uint64_t[]){30, 10}, 2);
    welcome(1, 4);
    start(1, 30, 2, 1); /* the second attempt was here */
    Accel__V1__AgentUp *up = sent_up();
    assert_string_equal(up->report->ended->text, "attempt 2 of job 30 was here already");
    accel__v1__agent_up__free_unpacked(up, NULL);
    start(1, 30, 3, 1);
    start(1, 40, 1, 1);
    started(40, 1, 1);
    session_lost();
    session_open();
    expect_kept((uint64_t[]){10}, 1);
    welcome(1, 4);
    exited(40, 1, rank_exit(0, 0, 0, false));
    gone(40, 1, 0, false);
    session_lost();
    session_open();
    expect_kept((uint64_t[]){10}, 1);
    welcome(1, 4);
    ack(3);
    forget(10);
    session_lost();
    session_open();
    expect_kept((uint64_t[]){40}, 1);
    str_clear(&s.trace.text);
    end("");
}

static void test_idle_exit(void **state)
{
    (void)state;
    begin(1000);
    node(1);
    assert_int_equal(agent_deadline_ms(s.agent), 1000 + LIMIT_DAEMON_START_MS); /* nobody yet */
    after_ms(500);
    session_open();
    welcome(1, 4);
    assert_int_equal(agent_deadline_ms(s.agent), -1);
    start(1, 5, 1, 1);
    session_lost();
    assert_int_equal(agent_deadline_ms(s.agent), -1); /* something runs */
    after_ms(5000);
    gone(5, 1, 0, false);
    assert_int_equal(agent_deadline_ms(s.agent), 7500);
    after_ms(999);
    step(&(struct agent_event){.type = AGENT_EV_TICK});
    assert_int_equal(s.action_count, 0);
    after_ms(1);
    step(&(struct agent_event){.type = AGENT_EV_TICK});
    assert_int_equal(s.last.type, AGENT_ACT_EXIT);
    assert_int_equal(agent_deadline_ms(s.agent), -1);
    str_clear(&s.trace.text);
    end("");
}

static void test_devices_change(void **state)
{
    Accel__V1__CoordDown msg = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__Bye bye = ACCEL__V1__BYE__INIT;
    (void)state;
    begin(0);
    greet();
    node(1); /* the same */
    assert_int_equal(s.action_count, 0);
    node(2);
    msg.body_case = ACCEL__V1__COORD_DOWN__BODY_BYE;
    msg.bye = &bye;
    bye.reason = (char *)"upgrade";
    assert_false(agent_is_bye(s.agent));
    down(&msg);
    assert_true(agent_is_bye(s.agent));
    end(HELLO "[     0] n1       SEND beat devices 2\n"
              "[     0] n1       the coordinator goes: upgrade\n");
}

static void test_tables(void **state)
{
    char text[256];
    (void)state;
    if (lifecycle_test(&worker_lifecycle, text, sizeof(text)) != 0)
        fail_msg("%s", text);
    if (lifecycle_test(&agent_session_lifecycle, text, sizeof(text)) != 0)
        fail_msg("%s", text);
    assert_string_equal(agent_cause_name(CAUSE(SHIM_LOST)), "shim_lost");
    assert_string_equal(agent_cause_name(99), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_success),
        cmocka_unit_test(test_two_failures),
        cmocka_unit_test(test_two_failures_in_order),
        cmocka_unit_test(test_single_failure),
        cmocka_unit_test(test_stop_before_started),
        cmocka_unit_test(test_stop_that_came_late),
        cmocka_unit_test(test_resend),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_newer_attempt_fences),
        cmocka_unit_test(test_stale_coordinator),
        cmocka_unit_test(test_protocol_errors),
        cmocka_unit_test(test_start_fails),
        cmocka_unit_test(test_shim_lost),
        cmocka_unit_test(test_unknown_attempts),
        cmocka_unit_test(test_adoption),
        cmocka_unit_test(test_kept_jobs),
        cmocka_unit_test(test_idle_exit),
        cmocka_unit_test(test_devices_change),
        cmocka_unit_test(test_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
