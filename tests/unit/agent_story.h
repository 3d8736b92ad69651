/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent_story.h - how test_agent*.c tell stories of the agent's core: one agent, its clock, the
 * events that happen to it as functions, and the trace that end() compares. A program has one story
 * at a time.
 */
#ifndef ACCEL_TESTS_UNIT_AGENT_STORY_H
#define ACCEL_TESTS_UNIT_AGENT_STORY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "agentd/agent.h"
#include "common/limits.h"

#define RANKS_MAX 8

struct story {
    struct trace trace;
    struct agent *agent;
    struct agent_actions actions;
    int64_t now_ms;
    struct agent_action last; /* the last action of the last step that had any; data copied */
    uint8_t *sent;            /* newest packed AgentUp */
    size_t sent_len, action_count;
};

static struct story s;

static inline void begin(int64_t idle_exit_ms)
{
    s = (struct story){.now_ms = 1000};
    trace_init(&s.trace, 1000);
    struct agent_config config = {.idle_exit_ms = idle_exit_ms,
                                  .incarnation = 3,
                                  .local_address = "127.0.0.1",
                                  .ifname = "lo",
                                  .node_name = "n1",
                                  .machine_id = "m",
                                  .attempts_dir = "/state/attempts",
                                  .trace = &s.trace};
    s.agent = agent_create(&config, 1, 4);
    agent_actions_init(&s.actions);
}

static inline void step(struct agent_event *ev)
{
    agent_check_all(s.agent);
    ev->now_ms = s.now_ms;
    ev->now_ns = (uint64_t)s.now_ms * 1000000;
    agent_actions_reset(&s.actions);
    agent_step(s.agent, ev, &s.actions);
    agent_check_all(s.agent);
    s.action_count = s.actions.len;
    for (size_t i = 0; i < s.actions.len; i++) {
        s.last = s.actions.items[i];
        if (s.last.type == AGENT_ACT_SEND) {
            free(s.sent);
            s.sent = xmemdup(s.last.data, s.last.len);
            s.sent_len = s.last.len;
        }
    }
}

static inline void after_ms(int64_t ms)
{
    s.now_ms += ms;
}

static inline void end(const char *expected)
{
    assert_string_equal(s.trace.text.data, expected);
    agent_actions_done(&s.actions);
    agent_destroy(s.agent);
    trace_done(&s.trace);
    free(s.sent);
}

/* ---- events ---- */

static inline void node(size_t devices)
{
    Accel__V1__Node n = ACCEL__V1__NODE__INIT;
    Accel__V1__Device d = ACCEL__V1__DEVICE__INIT;
    Accel__V1__Device *list[] = {&d, &d};
    d.id = (char *)"cpu:0";
    n.name = (char *)"n1";
    n.devices = list;
    n.n_devices = devices;
    step(&(struct agent_event){.type = AGENT_EV_NODE, .node = &n});
}

static inline void down(Accel__V1__CoordDown *msg)
{
    step(&(struct agent_event){.type = AGENT_EV_DOWN, .down = msg});
}

static inline void welcome(uint64_t era, uint64_t epoch)
{
    Accel__V1__CoordDown msg = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__Welcome w = ACCEL__V1__WELCOME__INIT;
    w.era = era;
    w.epoch = epoch;
    msg.body_case = ACCEL__V1__COORD_DOWN__BODY_WELCOME;
    msg.welcome = &w;
    down(&msg);
}

static inline void session_open(void)
{
    step(&(struct agent_event){.type = AGENT_EV_SESSION_OPEN});
}

static inline void session_lost(void)
{
    step(&(struct agent_event){.type = AGENT_EV_SESSION_LOST});
}

static inline void greet(void) /* node, session, welcome: how most stories begin */
{
    node(1);
    session_open();
    welcome(1, 4);
}

static inline void start(uint64_t era, uint64_t job, uint32_t attempt, uint32_t ranks)
{
    Accel__V1__CoordDown msg = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__Start st = ACCEL__V1__START__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    Accel__V1__JobSpec spec = ACCEL__V1__JOB_SPEC__INIT;
    ProtobufCBinaryData argv[] = {{4, (uint8_t *)"/bin"}};
    char *devices[] = {(char *)"cpu:0", (char *)"cpu:1"};
    ref.job_id = job;
    ref.attempt = attempt;
    ref.era = era;
    spec.argv = argv;
    spec.n_argv = 1;
    st.ref = &ref;
    st.spec = &spec;
    st.world_size = st.local_size = ranks;
    st.node_count = 1;
    st.devices = devices;
    st.n_devices = ranks <= 2 ? ranks : 0;
    msg.body_case = ACCEL__V1__COORD_DOWN__BODY_START;
    msg.start = &st;
    down(&msg);
}

static inline void stop(uint64_t job, uint32_t attempt, uint32_t cause, uint64_t grace_ms)
{
    Accel__V1__CoordDown msg = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__Stop st = ACCEL__V1__STOP__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    ref.job_id = job;
    ref.attempt = attempt;
    ref.era = 1;
    st.ref = &ref;
    st.cause = (Accel__V1__Cause)cause;
    st.grace_ms = grace_ms;
    msg.body_case = ACCEL__V1__COORD_DOWN__BODY_STOP;
    msg.stop = &st;
    down(&msg);
}

static inline void ack(uint64_t seq)
{
    Accel__V1__CoordDown msg = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__ReportAck a = ACCEL__V1__REPORT_ACK__INIT;
    a.seq = seq;
    msg.body_case = ACCEL__V1__COORD_DOWN__BODY_REPORT_ACK;
    msg.report_ack = &a;
    down(&msg);
}

static inline Accel__V1__RankExit rank_exit(uint32_t rank, int code, int signo, bool stopped)
{
    Accel__V1__RankExit e = ACCEL__V1__RANK_EXIT__INIT;
    e.rank = rank;
    e.pid = 70 + rank;
    e.exited = true;
    e.exit_code = code;
    e.signal = signo;
    e.stopped = stopped;
    e.end_boot_ns = (uint64_t)s.now_ms * 1000000;
    return e;
}

static inline struct attempt_id id_of(uint64_t job, uint32_t attempt)
{
    return (struct attempt_id){job, attempt};
}

static inline void started(uint64_t job, uint32_t attempt, uint32_t ranks)
{
    Accel__V1__RankExit e[RANKS_MAX], *list[RANKS_MAX];
    Accel__V1__ShimStarted msg = ACCEL__V1__SHIM_STARTED__INIT;
    for (uint32_t i = 0; i < ranks; i++) {
        accel__v1__rank_exit__init(&e[i]);
        e[i].rank = i;
        e[i].pid = 70 + i;
        list[i] = &e[i];
    }
    msg.ranks = list;
    msg.n_ranks = ranks;
    step(&(struct agent_event){.type = AGENT_EV_STARTED,
                               .id = id_of(job, attempt),
                               .started = &msg,
                               .master_port = 20001});
}

static inline void exited(uint64_t job, uint32_t attempt, Accel__V1__RankExit e)
{
    step(&(struct agent_event){.type = AGENT_EV_EXITED, .id = id_of(job, attempt), .exit = &e});
}

static inline void gone(uint64_t job, uint32_t attempt, uint32_t stop_cause, bool shim_lost)
{
    Accel__V1__ExitRecord record = ACCEL__V1__EXIT_RECORD__INIT;
    record.stop_cause = stop_cause;
    step(&(struct agent_event){.type = AGENT_EV_GONE,
                               .id = id_of(job, attempt),
                               .record = &record,
                               .shim_lost = shim_lost});
}

static inline Accel__V1__AgentUp *sent_up(void)
{
    Accel__V1__AgentUp *up = accel__v1__agent_up__unpack(NULL, s.sent_len, s.sent);
    assert_non_null(up);
    return up;
}

#define CAUSE(name) ACCEL__V1__CAUSE__CAUSE_##name
#define HELLO                                                                                      \
    "[     0] n1       SEND hello seen 1/4 attempts 0\n"                                           \
    "[     0] n1       session GREETING -> OPEN (WELCOME)\n"

#endif
