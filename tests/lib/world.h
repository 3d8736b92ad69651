/* SPDX-License-Identifier: Apache-2.0 */
/*
 * world.h - one coordinator, some nodes and some clients in virtual time. The two cores are those
 * that the daemons link; what is simulated is around them: a shell for each that keeps the order
 * contract of coord.h and agent.h, a disk that knows only what was committed, the network
 * (rpc_sim), processes (launcher_fake) that outlive their acceld, and users.
 *
 * Everything follows from the seed and the order of calls. Whatever must hold is checked after
 * every step and aborts with a line of its own at the end of the narrative (world.trace).
 * tests/sim lets faults happen here at random, tests/trace tells stories.
 */
#ifndef ACCEL_TESTS_LIB_WORLD_H
#define ACCEL_TESTS_LIB_WORLD_H

#include <sys/queue.h>

#include "accel/v1/agent.pb-c.h"
#include "accel/v1/event.pb-c.h"
#include "accel/v1/job.pb-c.h"
#include "accel/v1/node.pb-c.h"
#include "agentd/agent.h"
#include "agentd/launcher.h"
#include "common/heap.h"
#include "common/limits.h"
#include "common/prng.h"
#include "common/rpc_sim.h"
#include "common/trace.h"
#include "scheduler/coord.h"
#include "scheduler/deferred.h"
#include "scheduler/store.h"

#define WORLD_WALL_MS  1700000000000 /* the wall clock at virtual millisecond 0 */
#define WORLD_NODES    5
#define WORLD_CLIENTS  4
#define WORLD_JOBS     64
#define WORLD_ATTEMPTS 128 /* of one job: a run that needs more has gone wild */

struct world;
struct world_range { /* milliseconds, drawn anew each time */
    int64_t min, max;
};

struct world_config {
    uint64_t seed;
    uint32_t node_count, client_count;
    uint32_t cpus, gpus; /* devices of each node */
    uint32_t history_jobs;
    struct world_range network, commit, launch, term, sweep, reconnect, retry;
};
/* One or two milliseconds for everything: for stories. */
extern const struct world_config world_calm;

struct world_timer {
    struct heap_node node;
    void (*fire)(void *ctx);
    void *ctx;
};

/* --- the coordinator: world_coord.c --- */

struct world_coord {
    struct world *world;
    struct coord *core; /* NULL: not running */
    struct rpc_server *server;
    struct coord_batch batches[2];
    struct coord_batch *open, *committing;
    struct store_txn txn;
    bool is_failing, is_stopped, is_commit_due;
    bool is_failure_applied; /* a commit that fails has reached the disk */
    uint32_t failures;       /* of the running commit */
    /* A transport's events that wait: the store fails, or the process is stopped. */
    struct deferred deferred, inbox;
    struct world_timer commit, start, resume, calm;
    int64_t slow_ms; /* added to each commit */
    uint64_t epoch;  /* of the last start */
    struct rpc_method methods[COORD_METHOD_COUNT];
    struct rpc_service service;
};

/* --- a node: world_node.c has acceld, world_launcher.c the processes and attempts/JOB.N/ --- */

struct world_plan { /* what the ranks of a job do; travels in argv[1] */
    int run_ms;     /* -1: until told */
    int fails;      /* attempts that fail first; the failing one fails at half of run_ms */
    int fail_rank;
    int fail_code; /* < 0: a signal */
    int term_ms;   /* from SIGTERM to the end; -1: ignores it */
    int start;     /* 0: fine, 1: a rank cannot be started, 2: spawn fails, 3: acceld refuses */
};

enum world_attempt_state { ATTEMPT_LAUNCHING, ATTEMPT_RUNNING, ATTEMPT_ENDED };

struct world_rank {
    struct world_attempt *attempt;
    uint32_t rank, pid;
    bool is_alive, exited, stopped;
    int32_t code, signal;
    int64_t start_ms, end_ms;
    uint64_t end_ns;
    int next_code, next_signal; /* of the exit that `timer` brings */
    bool next_stopped;
    struct world_timer timer, kill;
};

struct world_attempt { /* one directory attempts/JOB.N, and its processes while they live */
    TAILQ_ENTRY(world_attempt) link;
    struct world_node *node;
    struct attempt_id id;
    Accel__V1__AttemptSpec *spec;
    struct world_plan plan;
    enum world_attempt_state state;
    struct world_rank *ranks;
    size_t rank_count;
    uint32_t stop_cause;
    bool is_acked, is_shim_lost, is_start_failed, is_early_stopped;
    uint64_t stop_grace_ms;
    const char *text;
    struct world_timer timer;
};
TAILQ_HEAD(world_attempts, world_attempt);

struct world_sent { /* a report */
    uint64_t seq, job_id, era;
    uint32_t attempt;
    bool is_end;
};

struct world_node {
    struct world *world;
    char name[16];
    struct agent *core; /* NULL: acceld does not run */
    struct launcher *launcher;
    struct agent_actions actions;
    bool is_stepping, is_silent;
    uint64_t incarnation, seen_era, seen_epoch; /* on disk */
    struct rpc_channel *channel;
    struct rpc_call *session;
    struct world_timer connect, start, notice, refuse;
    struct world_outcome {
        struct attempt_id id;
        bool is_prepared; /* else refused */
        uint32_t port;    /* of the rendezvous, if prepared */
    } outcomes[16];       /* launches that failed at once, and what PREPARE came to */
    size_t outcome_count;
    struct world_attempts attempts;
    struct world_sent *sent;
    size_t sent_count;
    uint64_t acked_seq;
    uint32_t pid_next, port_next;
    char fault[64]; /* of device 0; "": none */
};

/* --- users: world_client.c --- */

enum world_op_kind { OP_SUBMIT, OP_WATCH, OP_CANCEL, OP_LIST, OP_GET, OP_NODES, OP_EVENTS };
struct world_client {
    struct world *world;
    char name[16];
    struct rpc_identity who;
    struct rpc_channel *channel;
    struct world_timer connect;
};
struct world_op {
    TAILQ_ENTRY(world_op) link;
    struct world_client *client;
    struct world_job *job; /* NULL: of none */
    enum world_op_kind kind;
    struct rpc_call *call;
    struct world_timer timer;
    uint8_t request_id[LIMIT_REQUEST_ID_BYTES];
    bool is_kill, is_owner, is_done, told_end;
    uint64_t after_seq;
    uint32_t tries;
};
TAILQ_HEAD(world_ops, world_op);

struct world_job { /* what a user wants */
    char name[16];
    struct world_client *client;
    struct world_plan plan;
    uint32_t nodes, procs, gpus, max_restarts; /* procs and gpus: on each node */
    const char *nodelist;                      /* one name; NULL: any */
    Accel__V1__DeviceKind device_kind;
    uint64_t time_limit_ms, stop_grace_ms;
    bool kill_on_disconnect, is_watched, is_owner, is_cancelled;
    int64_t cancel_after_ms; /* after the submit was answered; 0: never */
    bool cancel_kill;
    uint8_t request_id[LIMIT_REQUEST_ID_BYTES];
    uint64_t id; /* 0: not answered yet */
};

/* --- what must be true: world_books.c --- */

struct world_book { /* of one job, by id */
    bool is_written, is_deleted, submit_told, cancel_told;
    uint32_t state, result, attempt, attempt_at_cancel;
    int32_t exit_code;
    uint8_t request_id[LIMIT_REQUEST_ID_BYTES];
    struct {
        bool is_written, is_ended;
        uint32_t prepared, launched, ended_nodes; /* by number */
        uint64_t ranks;                           /* launched */
        uint32_t master_port;                     /* that its nodes were told; 0: not yet */
    } attempts[WORLD_ATTEMPTS];
    uint32_t ended_events, submitted_events, rows;
};

struct world {
    struct world_config config;
    struct trace trace;
    struct prng prng;
    struct rpc_sim *sim;
    struct heap timers;
    int64_t now_ms, wall_offset_ms;
    bool is_ending;   /* who sees an endless job run cancels it */
    bool is_healed;   /* nodes are told to be free now */
    bool is_followed; /* user0 follows all events, and none is pruned */
    uint64_t turns;
    struct store *store;
    struct world_coord coord;
    struct world_node nodes[WORLD_NODES];
    struct world_client clients[WORLD_CLIENTS];
    struct world_job jobs[WORLD_JOBS];
    size_t job_count;
    struct world_ops ops;
    struct world_book books[WORLD_JOBS * 2]; /* by job id */
};

/* Aborts; the reason ends the narrative. */
#define WORLD_CHECK(w, cond, ...)                                                                  \
    do {                                                                                           \
        if (!(cond))                                                                               \
            world_fail((w), #cond, __VA_ARGS__);                                                   \
    } while (0)
_Noreturn void world_fail(struct world *w, const char *cond, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

/* --- world.c --- */
struct world *world_create(const struct world_config *config);
void world_destroy(struct world *w);
int64_t world_draw(struct world *w, struct world_range r);
int64_t world_wall_ms(const struct world *w);
void world_timer_set(struct world *w, struct world_timer *t, int64_t delay_ms,
                     void (*fire)(void *ctx), void *ctx);
void world_timer_clear(struct world *w, struct world_timer *t);
void world_run(struct world *w, int64_t ms);
/* False if it did not come true within `ms`. */
bool world_run_until(struct world *w, bool (*is_true)(struct world *w, uint64_t arg), uint64_t arg,
                     int64_t ms);
#define world_say(w, who, ...) trace_add(&(w)->trace, (w)->now_ms, (who), __VA_ARGS__)

/* --- world_coord.c: outside of a step only --- */
void coord_init(struct world *w);
void coord_done(struct world_coord *c);
void coord_boot(struct world_coord *c);
/* kill -9. What was not committed is forgotten; whether a running commit came through is drawn. */
void coord_kill(struct world_coord *c, int64_t down_ms);
void coord_stop(struct world_coord *c, int64_t ms);                /* SIGSTOP, and SIGCONT later */
void coord_slow(struct world_coord *c, int64_t by_ms, int64_t ms); /* a slow disk for a while */
/* The next `count` commits fail, after the data has reached the disk or before. */
void coord_fail_commits(struct world_coord *c, unsigned count, bool is_applied);
int64_t coord_next_ms(const struct world_coord *c); /* -1: none */
void coord_turn(struct world_coord *c);             /* ticks and flushes */

/* --- world_node.c --- */
void node_init(struct world *w, struct world_node *n, uint32_t index);
void node_done(struct world_node *n);
void node_boot(struct world_node *n);
void node_kill(struct world_node *n,
               int64_t down_ms); /* kill -9 of acceld: its processes live on */
/* visible: both ends are told. Else frames vanish, and acceld gives up after notice_ms. */
void node_cut(struct world_node *n, bool visible, int64_t notice_ms);
void node_tell_devices(struct world_node *n);
int64_t node_next_ms(const struct world_node *n);
void node_turn(struct world_node *n);
/* For world_launcher.c; dropped when acceld does not run. */
void node_step(struct world_node *n, struct agent_event *ev);
bool node_is_settled(
    const struct world_node *n); /* welcomed, all reports acknowledged, nothing alive */
size_t node_describe_devices(const struct world_node *n, Accel__V1__Device *devices, size_t cap);

/* --- world_launcher.c --- */
extern const struct launcher_fake_ops world_launcher_ops;
void attempts_adopt(struct world_node *n); /* FOUND events */
void attempts_done(struct world_node *n);
struct world_attempt *attempt_of(struct world_node *n, uint64_t job_id, uint32_t attempt);
struct world_attempt *attempt_live(struct world *w, uint64_t job_id); /* any node; NULL: none */
void attempt_kill_shim(struct world_attempt *a);
void attempt_exit_rank(struct world_attempt *a, uint32_t rank, int code,
                       int signal); /* by itself, now */
struct world_plan plan_parse(const char *text);
void plan_format(const struct world_plan *p, char *text, size_t size);

/* --- world_client.c --- */
void clients_init(struct world *w);
void clients_done(struct world *w);
struct world_job *client_submit(struct world_client *c, const struct world_job *want,
                                int64_t delay_ms);
struct world_op *client_do(struct world_client *c, enum world_op_kind kind, struct world_job *job,
                           int64_t delay_ms);
void client_kill(struct world_client *c); /* its calls are gone; the user starts it again */
void client_leave(struct world_client *c); /* dies for good, with all that it wanted */
void client_cut(struct world_client *c);
bool ops_are_done(struct world *w); /* all but followers of events */

/* --- world_books.c --- */
struct world_book *book_of(struct world *w, uint64_t job_id);
void books_committed(struct world *w, const struct store_txn *txn);
void books_say_commit(struct world *w, const struct store_txn *txn);
void books_reply_submit(struct world *w, const struct world_job *job, uint64_t id);
void books_reply_cancel(struct world *w, uint64_t id, bool is_accepted);
void books_told_job(struct world *w, const Accel__V1__Job *job);
void books_got_start(struct world_node *n, const Accel__V1__Start *start);
/* Several nodes: said Prepared; launches, with what it was told. */
void books_prepared(struct world_node *n, const Accel__V1__AttemptRef *ref);
void books_launch(struct world_node *n, const Accel__V1__Start *start, const Accel__V1__Go *go);
void books_got_ack(struct world_node *n, uint64_t seq);
void books_check(struct world *w);        /* across the nodes, after every turn */
void books_check_healed(struct world *w); /* when all has calmed down */

#endif
