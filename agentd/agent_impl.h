/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent_impl.h - what the files of the core share: agent.c (attempts), agent_session.c (session and
 * reports), agent_report.c (what is said of an attempt). Nobody else includes it.
 *
 * Attempts stay here from Start or adoption until their end is acknowledged. Iteration is in order
 * of insertion (uthash keeps it), so equal events give equal actions.
 */
#ifndef ACCEL_AGENTD_AGENT_IMPL_H
#define ACCEL_AGENTD_AGENT_IMPL_H

#include "agentd/agent.h"
#include "agentd/worker.h"

#define uthash_fatal(msg) base_check_failed(msg, __FILE__, __LINE__)
#include <uthash.h>

struct attempt_key { /* without padding: it is hashed as bytes */
    uint64_t job_id, attempt;
};

/* The highest attempt seen of a job: a late Start is refused by it. Leaves with Forget; Hello names
 * those that wait for it, as a Forget may have been lost with its session. */
struct job_seen {
    uint64_t job_id, era;
    uint32_t attempt;
    uint32_t known; /* attempts of the job in the table */
    UT_hash_handle hh;
};

struct attempt {
    struct attempt_key key;
    uint64_t era;
    struct job_seen *job;
    uint32_t node_rank, world_size, first_rank, local_size;
    struct worker *workers; /* local_size */
    uint32_t alive;         /* workers not EXITED */
    bool is_started, is_gone;
    uint64_t started_seq;   /* of the newest report that it started; 0: none */
    uint32_t stop_cause;    /* Cause of the first stop asked; 0: none */
    uint64_t stop_grace_ms; /* the shortest asked */
    int32_t first_failed;   /* index of the worker that failed first by itself; -1: none */
    int32_t unstarted;      /* index of the first that could not be started; -1: none */
    uint32_t master_port;
    char *master_addr;
    char **devices; /* of this node, in order */
    size_t device_count;
    char *broken; /* what broke of its devices: that, and not its ranks, is why it ends; or NULL */
    UT_hash_handle hh;
};

struct report {
    struct report *next;
    uint64_t seq;
    struct attempt_key key;
    bool is_end, leaves_mark; /* leaves_mark: an exit record on disk is to be marked when acked */
    uint64_t event_ns, failed_ns; /* failed_ns 0: no first failing rank */
    uint8_t *packed;              /* AgentUp with the ages of its first sending */
    size_t len;
};

enum session_state { SESSION_GREETING, SESSION_OPEN, SESSION_CLOSED };

struct agent {
    int64_t idle_exit_ms;
    uint64_t incarnation;
    char *local_address, *node_name, *machine_id, *attempts_dir;
    struct trace *trace;

    uint8_t session;     /* enum session_state; written by session_apply() only */
    uint64_t era, epoch; /* of the session, once OPEN */
    uint64_t seen_era, seen_epoch;
    bool is_bye, is_exiting;
    int64_t idle_since_ms; /* no session and nothing live since; -1 before the first event */

    uint8_t *node; /* packed Node, NULL before the first NODE event */
    size_t node_len;

    struct attempt *attempts; /* by key */
    struct job_seen *jobs;    /* by job_id */
    size_t live;              /* attempts not gone */

    struct report *first_report, **end_report; /* in order of seq; unacknowledged */
    size_t report_count;
    uint64_t last_seq, acked_seq;
};

/* --- agent.c --- */
struct attempt *agent_find(const struct agent *a, uint64_t job_id, uint64_t attempt);
struct agent_action *agent_act(struct agent_actions *out, enum agent_action_type type,
                               const struct attempt *t);
void agent_forget_attempt(struct agent *a, struct attempt *t); /* its end was acknowledged */
/* The coordinator's commands of an open session. */
void agent_on_start(struct agent *a, const struct agent_event *ev, struct agent_actions *out);
void agent_on_stop(struct agent *a, const struct agent_event *ev, struct agent_actions *out);
void agent_on_signal(struct agent *a, const struct agent_event *ev, struct agent_actions *out);
void agent_on_forget(struct agent *a, const struct agent_event *ev, struct agent_actions *out);
/* Stops every live attempt that has a broken device. */
void agent_on_devices(struct agent *a, const struct agent_event *ev, struct agent_actions *out);
/* A session was welcomed and the unacknowledged reports are out: stops every live attempt of
 * another era, and tells again what runs, so that a new coordinator learns the pids. */
void agent_on_welcomed(struct agent *a, const struct agent_event *ev, struct agent_actions *out);

/* --- agent_session.c --- */
void agent_session_on_open(struct agent *a, const struct agent_event *ev,
                           struct agent_actions *out);
void agent_session_on_lost(struct agent *a, const struct agent_event *ev);
void agent_session_on_down(struct agent *a, const struct agent_event *ev,
                           struct agent_actions *out);
void agent_session_on_node(struct agent *a, const struct agent_event *ev,
                           struct agent_actions *out);
void agent_session_check(const struct agent *a);
void agent_session_check_all(const struct agent *a);
/* Queues a report (seq and ages are filled in) and sends it if a session is open. failed_ns:
 * CLOCK_BOOTTIME of the first failure, 0 for none. Returns its seq. */
uint64_t agent_session_report(struct agent *a, const struct agent_event *ev, struct attempt_key key,
                              Accel__V1__Report *report, uint64_t failed_ns, bool leaves_mark,
                              struct agent_actions *out);

/* --- agent_report.c --- */
void agent_report_started(struct agent *a, const struct agent_event *ev, struct attempt *t,
                          struct agent_actions *out);
/* The end of an attempt whose processes are all gone, by what its workers and the record say. */
void agent_report_ended(struct agent *a, const struct agent_event *ev, struct attempt *t,
                        const Accel__V1__ExitRecord *record, bool is_shim_lost,
                        struct agent_actions *out);
/* An end without a beginning: refused, or unknown here. */
void agent_report_never_started(struct agent *a, const struct agent_event *ev,
                                struct attempt_key key, uint64_t era, uint32_t cause,
                                const char *text, struct agent_actions *out);

#define agent_trace(a, ev, ...) trace_add((a)->trace, (ev)->now_ms, (a)->node_name, __VA_ARGS__)

#endif
