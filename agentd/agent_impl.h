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
#include "common/hash.h"

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

/* The life of an attempt on this node: agent_prepare.c. */
enum attempt_stage {
    STAGE_NEW,
    STAGE_PREPARING, /* the shell looks at devices and leases ports */
    STAGE_PREPARED,  /* told so; no process was made, and none will be without a Go */
    STAGE_LAUNCHED,
    STAGE_GONE,
};
enum attempt_event {
    STAGE_EV_PREPARE, /* a Start of several nodes */
    STAGE_EV_LAUNCH,  /* a Start of one node, or found at the start */
    STAGE_EV_READY,   /* the shell has what the attempt needs */
    STAGE_EV_GO,
    STAGE_EV_STOP,
    STAGE_EV_SESSION_LOST,
    STAGE_EV_END, /* nothing of it is left, or nothing was made */
};
#define STAGE_EFFECT_ASK       1u  /* the shell prepares */
#define STAGE_EFFECT_ANSWER    2u  /* say Prepared */
#define STAGE_EFFECT_LAUNCH    4u  /* the shell launches */
#define STAGE_EFFECT_GIVE_BACK 8u  /* the shell gives back what it took while preparing */
#define STAGE_EFFECT_TELL      16u /* report an end without a beginning */
#define STAGE_EFFECT_FORGET    32u /* as if its Start had never come */

struct attempt {
    struct attempt_key key;
    uint8_t stage;  /* enum attempt_stage; written by attempt_apply() only */
    uint8_t *start; /* packed Start, while it may still be launched; own */
    size_t start_len;
    uint64_t before_era; /* what job_seen was before its Start */
    uint32_t before_attempt;
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
    uint64_t memory_bytes;  /* its limit here; 0: none */
    char **isolation;       /* what is enforced for it, as the shim says */
    size_t isolation_count;
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
    char *address; /* of this node, as its peers dial it */
    struct trace *trace;

    uint8_t session;     /* enum session_state; written by session_apply() only */
    uint64_t era, epoch; /* of the session, once OPEN */
    uint64_t seen_era, seen_epoch;
    uint8_t seal[HASH_BYTES]; /* of these, as the coordinator made it */
    bool has_seal;
    bool is_bye, is_exiting;
    int64_t idle_since_ms; /* no session and nothing live since; -1 before the first event */

    uint8_t *node; /* packed Node, NULL before the first NODE event */
    size_t node_len;

    struct attempt *attempts; /* by key */
    struct job_seen *jobs;    /* by job_id */
    size_t live;              /* attempts not gone */
    size_t prepared;          /* of them PREPARING or PREPARED */

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

/* Nothing of it is left: every worker leaves, and it is not live any more. */
void agent_end_attempt(struct agent *a, const struct agent_event *ev, struct attempt *t);
/* Takes it out of the table: its Start never came. */
void agent_unknow_attempt(struct agent *a, struct attempt *t);
/* An end without a beginning, for a command that cannot be obeyed. */
void agent_refuse(struct agent *a, const struct agent_event *ev, const Accel__V1__AttemptRef *ref,
                  uint32_t cause, const char *text, struct agent_actions *out);

/* --- agent_prepare.c --- */
/* Moves the attempt and carries out what the row says; cause: of a Stop. False: ignored. */
bool attempt_apply(struct agent *a, const struct agent_event *ev, struct attempt *t,
                   enum attempt_event event, uint32_t cause, struct agent_actions *out);
const char *attempt_stage_name(uint8_t stage);
void agent_on_prepared(struct agent *a, const struct agent_event *ev, struct agent_actions *out);
void agent_on_go(struct agent *a, const struct agent_event *ev, struct agent_actions *out);
/* There is no session: what was only prepared is forgotten. */
void agent_drop_prepared(struct agent *a, const struct agent_event *ev, struct agent_actions *out);
/* A rank of a gang over several nodes failed by itself. */
void agent_tell_failing(struct agent *a, const struct agent_event *ev, const struct attempt *t,
                        struct agent_actions *out);

/* --- agent_session.c --- */
/* Dropped unless the session is open. */
void agent_session_say(struct agent *a, const Accel__V1__AgentUp *up, struct agent_actions *out);
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
