/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launcher.h - the vtable between acceld's shell and whatever makes processes. launcher_exec drives
 * accel-spawn and shims; launcher_fake is scripted, for the simulator and tests. All calls return
 * at once; results arrive by the callbacks, on the loop's thread, never from inside the call. One
 * attempt is known by (job, attempt) on this node.
 *
 * Contract of the callbacks for one attempt: launch() is answered by exactly one of on_started,
 * on_gone or on_refused. After on_started, on_exited comes once per rank that has a process (pid
 * not 0) as the kernel tells, in the order of the deaths; then on_gone exactly once, when no
 * process of the attempt exists any more, its output files are complete and the exit record is on
 * disk (unless the disk took not even that). Nothing follows on_gone. A killed shim cuts this
 * short: on_gone may come without on_exited, or without on_started. Calls may be made from inside
 * callbacks.
 */
#ifndef ACCEL_AGENTD_LAUNCHER_H
#define ACCEL_AGENTD_LAUNCHER_H

#include "accel/v1/shim.pb-c.h"
#include "agentd/attempt.h"
#include "common/error.h"

struct launcher_callbacks {
    /* ranks: pid, start_ms. A rank that could not be started has `error` and `start_errno`; then
     * the gang is being killed, its exit has code 127 (not found) or 126, and on_gone follows with
     * start_failed. The others of such a gang are `stopped`, or have pid 0: never started. */
    void (*on_started)(void *ctx, struct attempt_id id, const Accel__V1__ShimStarted *msg);
    void (*on_exited)(void *ctx, struct attempt_id id, const Accel__V1__RankExit *exit);
    /* record is the exit record; shim_lost: the shim was killed (the tree has been swept; exits are
     * what is known: a rank whose exit is not known has exited false). exists: launch was refused
     * because the attempt's directory exists (a late START); record has text then. */
    void (*on_gone)(void *ctx, struct attempt_id id, const Accel__V1__ExitRecord *record,
                    bool shim_lost, bool exists);
    void (*on_output)(void *ctx, struct attempt_id id); /* answers watch(), once */
    /* Answers input(): the data was taken, or (closed) nobody takes any more. Every input is
     * answered, those of an unknown or ended attempt too (then also after on_gone). */
    void (*on_input_done)(void *ctx, struct attempt_id id, uint64_t input_id, bool closed);
    /* accel-spawn is gone: acceld must exit (its unit starts both again). */
    void (*on_spawn_lost)(void *ctx);
    /* The ranks here have given to an exchange with other nodes (PMI), or give again to a new
     * acceld. NULL: nobody serves it. */
    void (*on_fence)(void *ctx, struct attempt_id id, const Accel__V1__ShimFence *fence);
    /* Instead of on_started or on_gone: nothing was made, and text says why. NULL: only where no
     * users are looked up. */
    void (*on_refused)(void *ctx, struct attempt_id id, const char *text);
};

struct launcher;
struct launcher_ops {
    /* Starts the gang's ranks of this node. spec is borrowed during the call. Errors that are known
     * at once are returned (nothing was made then; ACCEL_EEXIST: it runs already, ACCEL_EUNAVAIL:
     * accel-spawn is gone); all else by on_gone. */
    int (*launch)(struct launcher *l, const Accel__V1__AttemptSpec *spec, struct accel_error *err);
    /* SIGTERM to all ranks, SIGKILL to the whole tree after grace_ms (0: at once). A second stop
     * may only shorten. cause (Accel__V1__Cause) of the first goes into the exit record. Unknown
     * attempts are ignored. */
    void (*stop)(struct launcher *l, struct attempt_id id, uint64_t grace_ms, uint32_t cause);
    /* To the process groups of the ranks; rank -1: all. */
    void (*signal)(struct launcher *l, struct attempt_id id, int32_t rank, int32_t signo);
    void (*input)(struct launcher *l, struct attempt_id id, const Accel__V1__ShimInput *in);
    /* on_output once when output grew or closed since the last on_output (shim.h has the rule). One
     * that is not answered yet serves all askers. */
    void (*watch)(struct launcher *l, struct attempt_id id);
    /* What all nodes gave to an exchange. Unknown attempts are ignored. */
    void (*fence_done)(struct launcher *l, struct attempt_id id, const Accel__V1__ShimFence *fence);
    /* The end is committed: exit -> exit.acked. */
    void (*mark_acked)(struct launcher *l, struct attempt_id id);
    /* Removes the directories of all ended attempts of the job; not what accel-spawn has set aside
     * (JOB.N.era-E): it is of another state of the store, and a person's to remove. */
    void (*forget)(struct launcher *l, uint64_t job_id);
    /* Leaves running attempts alone. on_closed after the last handle has closed. */
    void (*destroy)(struct launcher *l, void (*on_closed)(void *), void *ctx);
};
struct launcher { /* first member of an implementation's own struct */
    const struct launcher_ops *ops;
};

/* --- launcher_exec --- */
struct uv_loop_s; /* libuv stays out of what the pure core includes */

struct launcher_exec_config {
    struct uv_loop_s *loop;
    int spawn_fd; /* socketpair to accel-spawn, which has sent READY; owned by the launcher */
    const char *attempts_dir; /* absolute; copied */
    uint64_t incarnation;
    bool is_switching; /* as accel-spawn was told: users are looked up by their names */
};
int launcher_exec_create(const struct launcher_exec_config *config,
                         const struct launcher_callbacks *cb, void *ctx,
                         struct launcher **ret_launcher, struct accel_error *err);

struct launcher_spawn_config {
    const char *path; /* NULL: beside this executable, else in PATH */
    const char *attempts_dir;
    /* Each job as its own user: accel-spawn is root, min_uid and the numbers that acceld takes on
     * after this are its rules (identity.h). Else all run as accel-spawn itself. */
    bool is_switching;
    uint32_t min_uid, agent_uid, agent_gid;
};
#define LAUNCHER_LIMITS_MAX 16u /* lines of READY kept */
struct launcher_spawned {
    int fd;
    char isolation[16];                /* "cgroup2" or "none" */
    char *limits[LAUNCHER_LIMITS_MAX]; /* what can be enforced here (Node.limits) */
    size_t limit_count;
};
/* Forks and execs accel-spawn (before threads, before the loop) and waits for READY. Blocking,
 * bounded by LIMIT_DAEMON_START_MS. */
int launcher_exec_start_spawn(const struct launcher_spawn_config *config,
                              struct launcher_spawned *ret_spawned, struct accel_error *err);
void launcher_spawned_done(
    struct launcher_spawned *s); /* the texts; fd is the launcher's by then */

/* What an earlier acceld left (adopt.c). Reads every attempts/JOB.N: connects to live shims (sends
 * ShimOwn), reads exit records, sweeps attempts whose shim is dead without an exit record. Calls
 * found() once per attempt that is live or ended but not acked, before returning; for live ones the
 * callbacks above follow as if this launcher had started them (on_started is not repeated, nor is
 * on_exited for ends that hello tells). For ended ones the record is given. spec is NULL where it
 * could not be read. Blocking for at most 5 s: a shim that does not answer by then, or a sweep that
 * has not ended, is found live with what the files say, and callbacks bring the rest. */
int launcher_exec_adopt(struct launcher *l,
                        void (*found)(void *ctx, const struct launcher_found *f), void *ctx,
                        struct accel_error *err);

/* After launcher_exec_adopt(): calls kept() for each directory of an ended attempt, which only
 * forget() takes away. era 0: it cannot be read. Blocks for one small file each. */
void launcher_exec_kept(struct launcher *l,
                        void (*kept)(void *ctx, struct attempt_id id, uint64_t era), void *ctx);

/* --- launcher_fake: everything is decided by who drives it (simulator, tests) --- */
struct launcher_fake_ops {
    void (*on_launch)(void *world, struct launcher *l, const Accel__V1__AttemptSpec *spec);
    void (*on_stop)(void *world, struct launcher *l, struct attempt_id id, uint64_t grace_ms,
                    uint32_t cause);
    void (*on_signal)(void *world, struct launcher *l, struct attempt_id id, int32_t rank,
                      int32_t signo);
    void (*on_acked)(void *world, struct launcher *l, struct attempt_id id);
    void (*on_forget)(void *world, struct launcher *l, uint64_t job_id);
};
struct launcher *launcher_fake_create(const struct launcher_fake_ops *ops, void *world);

#endif
