/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coord_internal.h - the core's own objects, shared by its files only. Everything is owned by
 * `struct coord`.
 *
 * Who changes what: a job's state only job_apply() (job.c), a node's only node_apply() (node.c), a
 * session's only session_apply() (coord_agent.c). Devices are taken and given back only in place.c.
 * mark_*() says that a row must be written.
 */
#ifndef ACCEL_SCHEDULER_COORD_INTERNAL_H
#define ACCEL_SCHEDULER_COORD_INTERNAL_H

#include <stdio.h>
#include <sys/queue.h>

#define uthash_fatal(msg) base_check_failed(msg, __FILE__, __LINE__)
#include <uthash.h>

#include "accel/v1/admin.pb-c.h"
#include "accel/v1/agent.pb-c.h"
#include "accel/v1/event.pb-c.h"
#include "accel/v1/job.pb-c.h"
#include "accel/v1/node.pb-c.h"
#include "common/heap.h"
#include "common/idset.h"
#include "common/lifecycle.h"
#include "common/limits.h"
#include "common/str.h"
#include "scheduler/coord.h"

enum job_state { JOB_PENDING, JOB_STARTING, JOB_RUNNING, JOB_STOPPING, JOB_ENDED, JOB_STATE_COUNT };
enum job_event {
    JOB_EV_PLACE,         /* the gang has its devices */
    JOB_EV_STARTED,       /* all ranks run */
    JOB_EV_ATTEMPT_ENDED, /* nothing of the attempt is left on any node */
    JOB_EV_CANCEL,
    JOB_EV_TIME_LIMIT,
    JOB_EVENT_COUNT
};

enum timer_kind {
    TIMER_JOB_LIMIT,
    TIMER_NODE_GRACE,
    TIMER_GANG_PREPARE,
    TIMER_PRUNE,
    TIMER_ORPHAN
};
struct timer {
    struct heap_node node;
    uint8_t kind;
};

struct environment { /* shared by jobs; see record_environment */
    uint64_t id;
    uint8_t *data; /* packed JobSpec with only env; NULL when forgotten (no live job) */
    size_t len;
    uint32_t refs, live_refs; /* jobs kept; of those not ended */
    bool is_idle, is_hashed, is_written;
    TAILQ_ENTRY(environment) idle;
    UT_hash_handle hh_content, hh_id;
};

/* Whose jobs, by name: the same person may come from several machines, and has another uid on
 * each. */
struct user {
    uint32_t uid; /* on the coordinator's host; UINT32_MAX: he has none there */
    char name[LIMIT_NAME_BYTES + 1];
    uint32_t log_reads; /* CALL_LOG of his */
    uint8_t role;       /* Accel__V1__UserRole; NONE: he has no row, and the rights of a user */
    int64_t created_ms; /* of the row */
    UT_hash_handle hh;
};

struct worker {
    uint32_t rank, local_rank, pid;
    bool exited, is_written; /* is_written: its row is what this is */
    int32_t exit_code, signal;
    int64_t start_ms, end_ms;
    char *devices, *error; /* NULL: "" */
    uint8_t *stderr_tail;
    size_t stderr_tail_len;
    char *stdout_path, *stderr_path; /* bytes, NUL-terminated; NULL: not known */
};

struct share {         /* what one node carries of an attempt */
    struct node *node; /* NULL: the node is not known any more */
    char *node_name;
    uint32_t first_rank, local_size;
    char **devices;
    size_t device_count;
    char *isolation;               /* what its node enforces, a line each; soft */
    bool prepared, started, ended; /* prepared: in the present session, and waits for Go */
    bool is_written;               /* its workers' rows are what they are */
    struct attempt *attempt;
    LIST_ENTRY(share) on_node; /* while !ended and node */
};

struct attempt {
    struct job *job;
    uint32_t number, cause;
    char *text;
    char *lost_output; /* of the first node that told of some; not stored before the end */
    int64_t start_ms, run_ms, end_ms;
    uint64_t start_seq, run_seq, end_seq;
    int32_t first_failed_rank;
    int64_t first_failed_at_ns; /* of the core's clock: receive time minus age */
    char *master_addr;
    uint32_t master_port, pet_port, aux_port; /* of node rank 0 */
    struct timer prepare;                     /* several nodes: until Go; in coord.timers */
    uint32_t stop_cause; /* why its nodes were told to end it, one having failed; 0: not */
    bool is_go;          /* its nodes may have processes */
    /* The first share of which it is not so, or one before it. Shares that were passed stay so, but
     * for prepared, which begins anew. */
    uint32_t first_unprepared, first_unstarted, first_live;
    bool is_loaded; /* it began in an earlier epoch */
    bool is_on_tpus;
    struct share *shares;
    size_t share_count;
    struct worker *workers;
    uint32_t world_size;
    bool is_dirty; /* in coord.dirty_attempts, for: */
    bool row_dirty, workers_dirty;
    bool was_interrupted; /* its user sent SIGINT */
    struct fence *fence;  /* coord_fence.c; NULL: none */
    TAILQ_ENTRY(attempt) of_job;
    TAILQ_ENTRY(attempt) dirty;
};
TAILQ_HEAD(attempt_list, attempt);

/* What a job has once it was placed or has ended; before, its `run` is job_no_run, all zero. Of the
 * many that only wait there may be 100,000: they do without. */
struct job_run {
    struct job *job;
    struct attempt_list attempts; /* oldest first */
    struct timer limit;           /* time limit, in coord.timers */
    int64_t start_ms, end_ms;
    uint64_t end_seq;
    char *reason; /* NULL: "" */
    uint32_t attempt, restarts, free_restarts;
    int32_t exit_code;
    uint8_t result;
    bool is_killed;
};

struct job {
    uint64_t id;
    struct user *user;
    struct environment *env; /* NULL: none */
    struct job_run *run;     /* to be read only; job_run() where it is written */
    char *text;              /* name NUL command NUL spec; see job_name() */
    LIST_HEAD(, call) calls; /* watchers and parked reads */
    TAILQ_ENTRY(job) queue;  /* in coord.pending, .aside or .ended */
    uint8_t request_id[LIMIT_REQUEST_ID_BYTES];
    int64_t submit_ms;
    uint64_t submit_seq, time_limit_ms, memory_bytes;
    uint32_t gid, spec_len, dirty_at; /* place in coord.dirty_jobs, from 1; 0: not in it */
    /* see limits.h */
    uint16_t nodes, procs_per_node, gpus_per_node, cpus_per_proc, max_restarts;
    uint8_t state;
    uint8_t device_kind : 2; /* with the bits below, one byte: there may be 100,000 jobs */
    bool kill_on_disconnect : 1, wants_stdin : 1, is_aside : 1;
    bool has_names : 1;                        /* --nodelist or --exclude, in the spec */
    bool spec_has_name : 1, spec_has_argv : 1; /* else they are those of text; see spec.c */
};
TAILQ_HEAD(job_list, job);

enum node_state { NODE_JOINING, NODE_READY, NODE_SUSPECT, NODE_LOST, NODE_STATE_COUNT };
enum node_event { NODE_EV_HELLO, NODE_EV_SESSION_LOST, NODE_EV_SILENCE, NODE_EVENT_COUNT };

struct device {
    char *id, *model, *visible, *fault;
    bool is_passing; /* the fault, and not known of one from the store */
    uint32_t kind, index;
    uint64_t memory_bytes;
    struct attempt *holder;
};

#define NODE_KINDS 4 /* enum DeviceKind, of which AUTO is none */
struct stray {       /* a fenced attempt that still has processes on the node */
    uint64_t era, job_id;
    uint32_t attempt;
};

struct node {
    char name[LIMIT_NAME_BYTES + 1];
    char *machine_id, *address, *version, *isolation;
    uint8_t state;
    bool is_dirty, is_local;
    int64_t since_ms;
    uint64_t incarnation;
    uint32_t cpus;
    uint64_t memory_bytes, memory_used;
    struct device *devices;
    size_t device_count;
    struct {
        uint32_t all, free;
    } counts[NODE_KINDS];  /* place.c: of the devices, by kind */
    Accel__V1__Node *told; /* in its last Hello, CPU slots aside; NULL: not since we started */
    struct call *session;  /* NULL: none */
    struct timer grace;    /* session grace, in coord.timers */
    LIST_HEAD(, share) shares;
    int64_t told_window_ms; /* of lines of the history about its devices; core's clock */
    uint32_t told_events, untold_events;
    uint64_t log_bytes;   /* that the reads it was asked may answer */
    struct stray *strays; /* while there are any, nothing is placed there */
    size_t stray_count;
    LIST_HEAD(, call) calls; /* reads and inputs it owes an answer for */
    TAILQ_ENTRY(node) dirty;
    UT_hash_handle hh;
};
TAILQ_HEAD(node_list, node);

enum session_state { SESSION_OPENING, SESSION_LIVE, SESSION_CLOSED, SESSION_STATE_COUNT };
enum session_event {
    SESSION_EV_HELLO,
    SESSION_EV_MESSAGE,
    SESSION_EV_REPLACED,
    SESSION_EV_REFUSED,
    SESSION_EV_LOST,
    SESSION_EVENT_COUNT
};

/* Numbers that the core gives itself. The highest three bits of a transport's call are the number
 * of its server, 4 at most (remote_call_tag). */
#define CALL_TAG(id)   ((unsigned)((id) >> 61))
#define CALL_TAG_PART  6u /* of a CALL_LOG_PART */
#define CALL_TAG_INPUT 7u /* of an Input of our own, to a node */

enum call_kind { CALL_WATCH, CALL_LOG, CALL_LOG_PART, CALL_INPUT, CALL_EVENTS, CALL_SESSION };
struct call { /* a call that was not answered in the step that opened it */
    uint64_t id;
    enum call_kind kind;
    struct user *user; /* whose; NULL: of a node, or of nobody who is known by a job or role */
    struct job *job;   /* CALL_WATCH, CALL_LOG, CALL_INPUT */
    struct node *node; /* CALL_LOG and CALL_INPUT once forwarded; CALL_SESSION once known */
    bool is_owner;     /* CALL_WATCH */
    uint8_t session_state;
    bool session_is_local;
    char *peer_node;  /* CALL_SESSION of a certificate: the only node it may be; else NULL */
    uint8_t *request; /* CALL_LOG: packed LogReadRequest while parked */
    size_t request_len;
    /* CALL_LOG over several nodes: one CALL_LOG_PART to each, whose id is not the transport's */
    LIST_HEAD(, call) parts;
    struct call *whole; /* CALL_LOG_PART */
    bool is_split, is_waiting, has_unended;
    bool is_missing;    /* CALL_LOG_PART: nothing was asked, its node is away */
    uint32_t attempt;   /* CALL_LOG that is_split */
    uint32_t max_bytes; /* of the answer of the node that was asked; counted in node.log_bytes */
    uint8_t *joined;    /* packed answers, one after the other */
    size_t joined_len;
    uint64_t filter_job; /* CALL_EVENTS */
    char filter_node[LIMIT_NAME_BYTES + 1];
    char *only_user; /* CALL_EVENTS: who may be told of his own jobs only; NULL: of all */
    LIST_ENTRY(call) of_job, of_node, of_events, of_whole;
    UT_hash_handle hh;
};

/* history.c. Kinds whose text and durability come from jobs and attempts rows are `derived`. */
enum event_kind {
    EVENT_JOB_SUBMITTED,
    EVENT_ATTEMPT_STARTED,
    EVENT_ATTEMPT_RUNNING,
    EVENT_ATTEMPT_ENDED,
    EVENT_JOB_ENDED,
    EVENT_DERIVED_COUNT,
    EVENT_JOB_STOPPING = EVENT_DERIVED_COUNT,
    EVENT_NODE_READY,
    EVENT_NODE_SUSPECT,
    EVENT_NODE_LOST,
    EVENT_STORE,
    EVENT_ROLLED_BACK,
    EVENT_NODE_ENROLLED,
    EVENT_NODE_REMOVED,
    EVENT_USER, /* a certificate, a role */
    EVENT_REFUSED,
    EVENT_DEVICE_FAULT,
    EVENT_DEVICE, /* it is back, new, or not there any more */
    EVENT_KIND_COUNT
};
struct history_event {
    uint64_t seq;
    int64_t time_ms;
    uint8_t kind;
    uint32_t attempt;
    uint64_t job_id;
    char *node, *text; /* NULL: "" */
};

struct request { /* first answers of mutating calls */
    uint8_t id[LIMIT_REQUEST_ID_BYTES];
    int64_t created_ms;
    char *method;
    uint8_t *reply;
    size_t reply_len;
    TAILQ_ENTRY(request) by_age;
    UT_hash_handle hh;
};

TAILQ_HEAD(request_list, request);

struct coord {
    struct coord_config config;
    uint64_t era, epoch, loaded_epoch, seq_next, seq_reserved, job_id_next, environment_id_next;
    uint64_t job_id_floor;
    bool meta_dirty, is_closing; /* is_closing: coord_destroy runs, nothing is marked */
    int64_t now_ms, wall_ms;

    struct job **jobs; /* by id, ascending */
    size_t job_count, job_cap;
    uint32_t live_count, ended_count;
    struct idset by_request;           /* jobs */
    struct job_list pending, aside;    /* by id; aside: no nodes that are not lost could carry it */
    struct job_list ended;             /* by end */
    bool needs_placing, needs_pruning; /* at the end of the step */
    bool nodes_changed;                /* devices or memory: jobs aside may have become possible */
    uint64_t live_bytes; /* of the specs of jobs that have not ended, and of environments */
    struct environment *env_by_content, *env_by_id;
    TAILQ_HEAD(, environment) env_idle;
    uint32_t env_idle_count;
    struct user *users;
    struct trust *trust; /* coord_trust.h */
    struct node *nodes;  /* in order of joining */
    struct call *calls;
    uint32_t user_calls; /* of kinds other than CALL_SESSION */
    uint64_t part_next;  /* number of the next CALL_LOG_PART */
    LIST_HEAD(, call) event_calls;
    struct orphan *orphans; /* coord_orphans.c */
    struct request *requests;
    struct request_list requests_by_age;
    struct heap timers; /* job.limit and node.grace */
    struct timer prune_timer;
    struct {                               /* history_age_wall_ms() */
        int64_t wall_ms, now_ms;           /* the last time that was believed, and when */
        int64_t doubt_offset_ms, doubt_ms; /* wall above core's clock, since when (0: no doubt) */
    } age;

    struct history_event *events; /* ring of LIMIT_EVENTS */
    size_t event_first, event_count;
    struct history_event *loaded; /* between coord_load and coord_start */
    size_t loaded_count;

    struct job **dirty_jobs; /* NULL: gone meanwhile */
    size_t dirty_job_count, dirty_job_cap;
    struct attempt_list dirty_attempts;
    struct node_list dirty_nodes;
    struct record *loose; /* events, requests, environments, deletes */
    size_t loose_count, loose_cap;
    struct arena loose_arena;
    struct coord_batch *out;        /* of the running step */
    const struct rpc_identity *who; /* same: of a call; else NULL */
    struct user *for_user;          /* whose call is taken up again, whoever has called now */
};

/* coord.c: outputs of the running step. Messages are packed at once. */
void out_send(struct coord *c, uint64_t call, const ProtobufCMessage *msg);
void out_end(struct coord *c, uint64_t call,
             const ProtobufCMessage *msg); /* OK with a last message, or NULL */
void out_fail(struct coord *c, uint64_t call, int code, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* The last message once more, to another call. */
void out_again(struct coord *c, uint64_t call);
void note_log(struct coord *c, const char *text);
void note_drop(struct coord *c, const char *serial);
void mark_job(struct coord *c, struct job *j);
void mark_attempt(struct coord *c, struct attempt *a, bool with_workers);
/* A node said the last word on its share: the rows of its workers tell that too (coord_load.c), so
 * that of a gang on a thousand nodes the long row is not written a thousand times. */
void mark_workers(struct coord *c, struct attempt *a);
void mark_node(struct coord *c, struct node *n);
struct record *mark_loose(struct coord *c, enum record_table table); /* strings from loose_arena */
struct call *call_new(struct coord *c, uint64_t id, enum call_kind kind);
void call_free(struct coord *c, struct call *call); /* forgets it; says nothing to the client */
ProtobufCAllocator *arena_allocator(struct arena *a, ProtobufCAllocator *ret);

/* objects.c: making, finding and freeing jobs, attempts, users, environments. */
extern const struct job_run job_no_run;
struct job *job_new(struct coord *c, uint64_t id);
struct job_run *job_run(struct job *j); /* to be written; made if there was none */
void job_set_request(struct coord *c, struct job *j, const uint8_t *id);
/* Copies; spec_len 0: none. The texts of a job are one block, which each call makes anew. */
void job_set_texts(struct job *j, const char *name, const char *command, const void *spec,
                   size_t spec_len);
void job_drop_spec(struct job *j);
const char *job_name(const struct job *j);
const char *job_command(const struct job *j);
const uint8_t *job_spec(const struct job *j); /* spec_len bytes */
void job_free(struct coord *c, struct job *j);
struct job *job_find(const struct coord *c, uint64_t id);
size_t job_lower_bound(const struct coord *c,
                       uint64_t id); /* index of the first job with at least this id */
void job_set_text(char **field, const char *text);
struct attempt *attempt_new(struct job *j, uint32_t number, uint32_t world_size,
                            size_t share_count);
void attempt_free(struct coord *c, struct attempt *a);
struct attempt *attempt_find(const struct job *j,
                             uint32_t number); /* 0: the last; NULL if there is none */
struct share *attempt_share(const struct attempt *a, uint32_t rank); /* that has it; or NULL */
struct user *user_find(const struct coord *c, const char *name);
/* uid UINT32_MAX: not known, the one that he may have stays. */
struct user *user_intern(struct coord *c, uint32_t uid, const char *name);
struct environment *environment_intern(struct coord *c, const void *data, size_t len);
struct environment *environment_load(struct coord *c, uint64_t id, const void *data, size_t len);
void environment_ref(struct coord *c, struct environment *e, bool live);
void environment_unref_live(struct coord *c, struct environment *e); /* a job ended */
void environment_unref(struct coord *c, struct environment *e);      /* a job left the history */
void environment_settle(struct coord *c);                            /* after load */

/* job.c */
struct job_event_data { /* what comes with JOB_EV_CANCEL (kill) */
    bool kill;
    const char *why; /* for people; NULL: it was cancelled */
};
void job_apply(struct coord *c, struct job *j, enum job_event ev,
               const struct job_event_data *data);
/* While loading, where no effect of a move is wanted: the state of its row, and that of a waiting
 * job whose attempt turns out to be open. RUNNING is soft: agents tell it again. */
void job_load_state(struct job *j, uint8_t state);
void job_take_up(struct coord *c, struct job *j);
const char *job_state_name(uint8_t state);
Accel__V1__JobState job_state_to_proto(uint8_t state);
uint8_t job_state_from_proto(uint32_t state);
bool job_is_live(const struct job *j);
void job_changed(struct coord *c, struct job *j); /* tells the watchers */
void job_arm_limit(struct coord *c, struct job *j);
void job_check(const struct job *j);
const char *cause_name(uint32_t cause); /* "worker_failed" */

/* coord_gang.c: an attempt over its nodes. */
void gang_start(struct coord *c, struct attempt *a);
void job_send_stop(struct coord *c, struct job *j, bool kill);
void gang_take_prepared(struct coord *c, struct share *s, const Accel__V1__Prepared *m);
bool gang_has_started(struct attempt *a); /* on every node */
void gang_take_failing(struct coord *c, struct share *s);
void gang_note_end(struct coord *c, struct attempt *a, const Accel__V1__AttemptEnded *m);
/* Nothing of it is left on that node. Not from inside job_apply(). */
void gang_share_ended(struct coord *c, struct share *s);
void gang_share_lost(struct coord *c, struct share *s, const char *text);
void gang_settle(struct coord *c, struct share *s, bool has, bool is_same); /* a Hello came */
void gang_node_away(struct node *n);                                        /* its session broke */
void gang_node_silent(struct coord *c, struct node *n); /* and it did not come back in time */
void gang_prepare_timeout(struct coord *c, struct attempt *a);

/* node.c */
struct node *node_find(const struct coord *c, const char *name);
struct node *node_new(struct coord *c, const char *name);
void node_free(struct coord *c, struct node *n);
void node_apply(struct coord *c, struct node *n, enum node_event ev);
/* node_told.c: what is kept in memory only, and told again in each Hello. */
void node_tell(struct coord *c, struct node *n, const Accel__V1__Node *node); /* copied */
void node_tell_beat(struct coord *c, struct node *n, const Accel__V1__Beat *beat);
void node_forget_told(struct node *n);
const Accel__V1__Slice *node_slice(const struct node *n); /* NULL: a slice of one */
/* NULL: a CPU slot, or not told since we started. */
const Accel__V1__Device *node_told_device(const struct node *n, const char *id);
/* node_devices.c */
void node_free_devices(struct node *n);
void node_set_devices(struct coord *c, struct node *n, Accel__V1__Device *const *devices,
                      size_t count);
void node_send(struct coord *c, struct node *n,
               const Accel__V1__CoordDown *msg); /* dropped without a session */
const char *node_state_name(uint8_t state);
void node_check(const struct node *n);

/* place.c: first come, first served; all of a gang or nothing. In words: place_why.c. */
void place_pending(struct coord *c);
/* 0 if the nodes that are known could ever carry the spec, here or away, or might once all of them
 * have told what they are (or none is known yet); else ACCEL_EINVAL with what exists. */
int place_feasible(const struct coord *c, const struct job *j, struct accel_error *err);
void place_take(struct coord *c, struct attempt *a); /* after load: devices named in the shares */
void place_split_devices(struct attempt *a);         /* of each node over its ranks */
void place_give_back(struct coord *c, struct share *s);
void place_recount(struct node *n); /* its devices are others, or their faults */
/* Why pending jobs wait. What many jobs share is found out once, so one such object is good for
 * many jobs, as long as nothing of the coordinator changes. Texts live in the arena. */
struct place_why {
    const struct coord *c;
    struct arena *arena;
    bool is_no_node_ready, kind_near;
    const struct job *kind, *head;   /* the last job looked at; the one that the others wait for */
    const struct job *impossible_of; /* what `impossible` was said of */
    const char *behind, *impossible;
};
void place_why_init(struct place_why *w, const struct coord *c, struct arena *arena);
const char *place_why(struct place_why *w, const struct job *j);

/* queue.c: the jobs in JOB_PENDING. Each is in it exactly while it has that state. */
void queue_add(struct coord *c, struct job *j); /* at its id's place */
void queue_remove(struct coord *c, struct job *j);
void queue_set_aside(struct coord *c, struct job *j);
void queue_reunite(struct coord *c);         /* those aside are looked at again */
uint32_t queue_check(const struct coord *c); /* asserts the order; how many there are */

/* history.c */
uint64_t history_add(struct coord *c, enum event_kind kind, uint64_t job_id, uint32_t attempt,
                     const char *node, const char *fmt, ...) PRINTF_LIKE(6, 7);
void history_load(struct coord *c, const struct record_event *ev);
void history_load_derived(struct coord *c, enum event_kind kind, uint64_t seq, int64_t time_ms,
                          uint64_t job_id, uint32_t attempt);
void history_settle(struct coord *c); /* after load: sorts, cuts */
void history_prune_jobs(struct coord *c);
/* The wall clock as far as things grow old by it: what has jumped ahead is believed when it has
 * stood for a while. start: how late it was when the store was written last. */
void history_age_start(struct coord *c);
int64_t history_age_wall_ms(struct coord *c);
void history_done(struct coord *c);
void call_events(struct coord *c, const struct coord_event *ev);

/* coord_job_calls.c, coord_agent.c, coord_logs.c: one function per method; ev is COORD_EV_CALL with
 * RPC_OPEN */
void call_submit(struct coord *c, const struct coord_event *ev);
void call_list(struct coord *c, const struct coord_event *ev);
void call_get(struct coord *c, const struct coord_event *ev);
void call_watch(struct coord *c, const struct coord_event *ev);
void call_cancel(struct coord *c, const struct coord_event *ev);
void call_signal(struct coord *c, const struct coord_event *ev);
void call_nodes(struct coord *c, const struct coord_event *ev);
void call_log_read(struct coord *c, const struct coord_event *ev);
void call_input(struct coord *c, const struct coord_event *ev);
void call_session(struct coord *c, const struct coord_event *ev); /* any rpc_type */
/* Forgets the node: its session ends, what runs there is lost. Returns how many attempts were. */
uint32_t node_remove(struct coord *c, struct node *n);
void logs_attempt_changed(struct coord *c, struct job *j); /* parked reads may go on */
/* n: who says so; an answer to what another was asked is none. */
void log_part_cancel(struct coord *c, const struct call *part);
void logs_answer(struct coord *c, const struct node *n, const Accel__V1__LogData *msg);
void input_answer(struct coord *c, const struct node *n, const Accel__V1__InputDone *msg);
void node_fail_calls(struct coord *c, struct node *n, const char *why);
void node_fail_parked(struct coord *c, struct node *n, const char *why);
void node_resume_parked(struct coord *c, struct node *n);
void request_load(struct coord *c, const struct record_request *r);
/* True when the call was answered from memory, or refused because the id is bad. */
bool request_answered(struct coord *c, const struct coord_event *ev, ProtobufCBinaryData id,
                      const char *method);
/* Ends the call with this answer, which is the first and is remembered. */
void request_end(struct coord *c, const struct coord_event *ev, ProtobufCBinaryData id,
                 const char *method, const ProtobufCMessage *reply);
void request_remember(struct coord *c, const uint8_t *id, const char *method, const void *reply,
                      size_t len);
/* coord_orphans.c: what hangs on the accelctl that holds a job. */
void orphan_wait(struct coord *c, struct job *j);        /* if anything does, and it is not there */
void orphan_heard(struct coord *c, const struct job *j); /* a sign of life, if it is waited for */
void orphan_forget(struct coord *c, const struct job *j); /* it is there, or the job is over */
void orphan_started(struct coord *c, const struct job *j);
void orphan_timeout(struct coord *c, struct timer *t);
void orphans_shift(struct coord *c, int64_t by_ms); /* we stood still */
/* True if it answers an Input of ours. */
bool orphan_input_answer(struct coord *c, const struct node *n, const Accel__V1__InputDone *msg);
/* coord_fence.c */
void fence_take(struct coord *c, struct share *s, const Accel__V1__Fence *m);
void fence_free(struct attempt *a);
bool job_is_of(const struct job *j, const struct rpc_identity *who);
/* His own, or he is an operator. */
bool job_may_control(const struct job *j, const struct rpc_identity *who);
/* The job, if the caller may see or control it; else the call is failed and NULL returned. */
struct job *call_job(struct coord *c, const struct coord_event *ev, uint64_t job_id);

/* coord_view.c: messages for people, in the batch's arena */
Accel__V1__Job *view_job(struct coord *c, const struct job *j, bool with_argv);
/* Without attempts, for lists; why: of this call, for all its jobs. */
Accel__V1__Job *view_job_brief(struct coord *c, const struct job *j, struct place_why *why);
/* Adds what only the spec says: directory, pattern of the output, arguments; of a job that has
 * ended nothing. */
void view_spec(struct arena *a, const struct job *j, Accel__V1__Job *v, bool with_argv);
Accel__V1__Node *view_node(struct coord *c, const struct node *n);
Accel__V1__Event *view_event(struct coord *c, const struct history_event *e);
char *attempt_placement_text(const struct attempt *a, struct arena *arena);

/* spec.c */
int spec_validate(const Accel__V1__JobSpec *spec, struct accel_error *err);
void spec_to_job(struct coord *c, struct job *j,
                 const Accel__V1__JobSpec *spec); /* scalar fields, texts, environment */
/* After load: name and command are those of the row; no environment. */
void spec_load(struct job *j, const char *name, const char *command,
               const Accel__V1__JobSpec *spec);
char *spec_command_text(const Accel__V1__JobSpec *spec);               /* caller frees */
Accel__V1__JobSpec *spec_unpack(const struct job *j, struct arena *a); /* as it came, with env */
Accel__V1__JobSpec *spec_unpack_bare(const struct job *j, struct arena *a); /* without env */

#endif
