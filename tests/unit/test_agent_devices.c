/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stories of attempts whose devices break, or were not free after all: what the core of acceld
 * answers, step by step (agent_story.h).
 */
#include "tests/unit/agent_story.h"

static void fault(const char *text, bool is_broken)
{
    Accel__V1__Node n = ACCEL__V1__NODE__INIT;
    Accel__V1__Device d = ACCEL__V1__DEVICE__INIT;
    Accel__V1__Device *list[] = {&d};
    d.id = (char *)"cpu:0";
    d.fault = (char *)text;
    d.is_broken = is_broken;
    n.name = (char *)"n1";
    n.devices = list;
    n.n_devices = 1;
    step(&(struct agent_event){.type = AGENT_EV_NODE, .node = &n});
}

static void test_device_breaks(void **state)
{
    (void)state;
    begin(0);
    greet();
    start(1, 5, 1, 1);
    started(5, 1, 1);
    fault("busy: pid 7", false); /* told, but what runs goes on */
    assert_int_equal(s.action_count, 1);
    fault("XID 79", true);
    assert_int_equal(s.action_count, 2);
    assert_int_equal(s.last.type, AGENT_ACT_STOP);
    assert_int_equal(s.last.cause, CAUSE(DEVICE_FAULT));
    fault("XID 48", true); /* the first is why */
    exited(5, 1, rank_exit(0, 0, 15, true));
    gone(5, 1, CAUSE(DEVICE_FAULT), false);
    Accel__V1__AgentUp *up = sent_up();
    assert_int_equal(up->report->ended->cause, CAUSE(DEVICE_FAULT));
    accel__v1__agent_up__free_unpacked(up, NULL);
    end(HELLO "[     0] n1       LAUNCH job 5.1 ranks 0-0 of 1\n"
              "[     0] n1       job 5.1 rank 0 PREPARED -> RUNNING (STARTED)\n"
              "[     0] n1       SEND #1 started job 5.1\n"
              "[     0] n1       SEND beat devices 1\n"
              "[     0] n1       SEND beat devices 1\n"
              "[     0] n1       job 5.1 rank 0 RUNNING -> STOPPING (STOP)\n"
              "[     0] n1       STOP job 5.1 device_fault grace 2000 ms\n"
              "[     0] n1       SEND beat devices 1\n"
              "[     0] n1       job 5.1 rank 0 STOPPING -> EXITED (FAIL)\n"
              "[     0] n1       SEND #2 ended job 5.1 device_fault: cpu:0: XID 79\n");
}

/* The program fails first and the driver tells why after that: the program is not to blame. */
static void test_device_breaks_late(void **state)
{
    (void)state;
    begin(0);
    greet();
    start(1, 5, 1, 1);
    started(5, 1, 1);
    exited(5, 1, rank_exit(0, 1, 0, false));
    fault("XID 79", true);
    gone(5, 1, 0, false);
    Accel__V1__AgentUp *up = sent_up();
    assert_int_equal(up->report->ended->cause, CAUSE(DEVICE_FAULT));
    assert_string_equal(up->report->ended->text, "cpu:0: XID 79");
    assert_int_equal(up->report->ended->first_failed_rank, 0);
    accel__v1__agent_up__free_unpacked(up, NULL);
    start(1, 6, 1, 2);
    step(&(struct agent_event){.type = AGENT_EV_LAUNCH_REFUSED,
                               .id = id_of(6, 1),
                               .cause = CAUSE(DEVICE_FAULT),
                               .text = "cpu:0: busy: pid 7"});
    up = sent_up();
    assert_int_equal(up->report->ended->cause, CAUSE(DEVICE_FAULT));
    assert_true(up->report->ended->never_started);
    accel__v1__agent_up__free_unpacked(up, NULL);
    end(HELLO "[     0] n1       LAUNCH job 5.1 ranks 0-0 of 1\n"
              "[     0] n1       job 5.1 rank 0 PREPARED -> RUNNING (STARTED)\n"
              "[     0] n1       SEND #1 started job 5.1\n"
              "[     0] n1       job 5.1 rank 0 RUNNING -> EXITED (FAIL)\n"
              "[     0] n1       SEND beat devices 1\n"
              "[     0] n1       job 5.1 needs no stop (device_fault)\n"
              "[     0] n1       SEND #2 ended job 5.1 device_fault: cpu:0: XID 79\n"
              "[     0] n1       LAUNCH job 6.1 ranks 0-1 of 2\n"
              "[     0] n1       job 6.1 rank 0 PREPARED -> EXITED (SWEPT)\n"
              "[     0] n1       job 6.1 rank 1 PREPARED -> EXITED (SWEPT)\n"
              "[     0] n1       SEND #3 ended job 6.1 device_fault (never started): cpu:0: busy: "
              "pid 7\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device_breaks),
        cmocka_unit_test(test_device_breaks_late),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
