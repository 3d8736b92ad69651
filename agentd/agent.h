/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent.h - the pure core of acceld. agent_step() takes one event with the time in it and appends
 * actions; no I/O, clock, thread or environment inside. The shell (shell.c) turns callbacks of
 * uplink and launcher into events, steps, carries the actions out in their order, and arms one
 * timer for agent_deadline_ms().
 *
 * What it decides: which Start is obeyed (era, epoch, tombstones), when a gang is stopped because
 * a rank failed, what the end of an attempt is called and which rank failed first, which reports
 * are (re)sent, when an idle daemon exits. It aborts when memory ends.
 */
#ifndef ACCEL_AGENTD_AGENT_H
#define ACCEL_AGENTD_AGENT_H

#include "accel/v1/agent.pb-c.h"
#include "accel/v1/shim.pb-c.h"
#include "agentd/attempt.h"
#include "agentd/environ.h"
#include "common/arena.h"
#include "common/error.h"
#include "common/trace.h"

struct agent; /* opaque */

struct agent_config { /* texts are copied */
    /* 0: never; else EXIT after so long without session and live attempts; before the first Welcome
     * after LIMIT_DAEMON_START_MS at the earliest */
    int64_t idle_exit_ms;
    uint64_t incarnation;
    uint64_t seed;             /* for port choice, which the shell makes; the core draws nothing */
    const char *local_address; /* MASTER_ADDR on one node: "127.0.0.1" */
    const char *ifname;        /* interface of that address: "lo" */
    const char *node_name;
    const char *machine_id;   /* for Hello; NULL: "" */
    const uint8_t *seal;      /* HASH_BYTES, of seen_era and seen_epoch; NULL: none */
    const char *attempts_dir; /* only to name paths in reports */
    struct trace *trace;      /* NULL in production */
};

enum agent_event_type {
    AGENT_EV_TICK,         /* the deadline passed */
    AGENT_EV_NODE,         /* node description changed (devices): node. Before the first session.
                            * Live attempts with a device that is broken now are stopped */
    AGENT_EV_FOUND,        /* adoption, before the first session: found */
    AGENT_EV_KEPT,         /* adoption, before the first session, after FOUND: the directory of this
                            * ended attempt is here: id, era */
    AGENT_EV_SESSION_OPEN, /* connected: the core sends Hello */
    AGENT_EV_SESSION_LOST,
    AGENT_EV_DOWN, /* down: Welcome, Start, Go, Stop, SignalRanks, ReportAck, Forget, Bye; the
                    * data plane (LogRead, LogCancel, Input) never comes here */
    AGENT_EV_LAUNCH_REFUSED, /* id, cause, text: the shell could not prepare or start it (no port,
                              * launcher error, a device that is not free); nothing was made */
    AGENT_EV_PREPARED,       /* id, master_port, pet_port, aux_port: answers PREPARE */
    AGENT_EV_STARTED,        /* id, started, master_port */
    AGENT_EV_EXITED,         /* id, exit */
    AGENT_EV_GONE,           /* id, record, shim_lost, exists */
};
struct agent_event {
    enum agent_event_type type;
    int64_t now_ms; /* mono */
    int64_t wall_ms;
    uint64_t now_ns; /* CLOCK_BOOTTIME, for ages */
    struct attempt_id id;
    const Accel__V1__Node *node;
    const struct launcher_found *found;
    const Accel__V1__CoordDown *down;
    const Accel__V1__ShimStarted *started;
    const Accel__V1__RankExit *exit;
    const Accel__V1__ExitRecord *record;
    uint64_t era;                             /* 0: not known */
    uint32_t master_port, pet_port, aux_port; /* 0: none */
    uint32_t cause;                           /* Cause; 0: START_FAILED */
    bool shim_lost, exists;
    const char *text;
};

enum agent_action_type {
    AGENT_ACT_SEND,          /* packed AgentUp: data, len */
    AGENT_ACT_CLOSE_SESSION, /* protocol error or stale coordinator: text; the shell reconnects with
                              * back-off. No SESSION_LOST is needed after it (one is ignored) */
    AGENT_ACT_LAUNCH,        /* id, start, go: the shell leases ports (port.h), calls
                              * environ_build(), launches. go: of several nodes; what PREPARE took
                              * is used, and addresses and ports are those of go. Else NULL */
    AGENT_ACT_PREPARE,       /* id, start: take the devices, lease ports if node_rank is 0; make
                              * nothing. Answered by PREPARED or LAUNCH_REFUSED */
    AGENT_ACT_UNPREPARE,     /* id: give back what PREPARE took */
    AGENT_ACT_STOP,          /* id, grace_ms, cause */
    AGENT_ACT_SIGNAL,        /* id, rank (-1 all), signo */
    AGENT_ACT_MARK_ACKED,    /* id */
    AGENT_ACT_FORGET,        /* id.job_id */
    AGENT_ACT_PERSIST_SEEN,  /* era, epoch obeyed, and their seal (data, len; may be empty):
                              * durable before anything after it is carried out */
    AGENT_ACT_EXIT,          /* idle: end the daemon */
};
struct agent_action {
    enum agent_action_type type;
    struct attempt_id id;
    const void *data;
    size_t len;
    const Accel__V1__Start *start; /* in the actions' arena, as is go */
    const Accel__V1__Go *go;
    uint64_t grace_ms, era, epoch;
    uint32_t cause;
    int32_t rank, signo;
    const char *text;
};
struct agent_actions {
    struct arena arena; /* owns everything the actions point to; reset by the shell after them */
    struct agent_action *items;
    size_t len, cap;
};
void agent_actions_init(struct agent_actions *a);
void agent_actions_done(struct agent_actions *a);
void agent_actions_reset(struct agent_actions *a);

/* seen_era and seen_epoch: the highest pair that was persisted, 0 and 0 for none; its seal is in
 * the config. */
struct agent *agent_create(const struct agent_config *config, uint64_t seen_era,
                           uint64_t seen_epoch);
void agent_destroy(struct agent *a);
/* Appends to out. Event content is borrowed during the call. */
void agent_step(struct agent *a, const struct agent_event *ev, struct agent_actions *out);
int64_t agent_deadline_ms(const struct agent *a); /* -1: none */
size_t agent_attempts_live(const struct agent *a);
bool agent_is_welcomed(const struct agent *a); /* a session is open and its Welcome was obeyed */
bool agent_is_bye(const struct agent *a);      /* the last coordinator said it was going */
/* Abort when an invariant is broken. agent_step() runs agent_check() (O(1)) before and after each
 * step and checks the attempt that it touches; agent_check_all() looks at everything, for tests. */
void agent_check(const struct agent *a);
void agent_check_all(const struct agent *a);

/* "none", "succeeded", "worker_failed", ...: the lower-case name of an Accel__V1__Cause; static. */
const char *agent_cause_name(uint32_t cause);

/* The tables of the agent's lives, for docs/LIFECYCLES.md and lifecycle_verify(). A worker (one
 * rank on this node): PREPARED, RUNNING, STOPPING, EXITED. A session as the agent sees it:
 * GREETING, OPEN, CLOSED. An attempt: NEW, PREPARING, PREPARED, LAUNCHED, GONE. */
struct lifecycle;
extern const struct lifecycle attempt_lifecycle, worker_lifecycle;
extern const struct lifecycle agent_session_lifecycle;

#endif
