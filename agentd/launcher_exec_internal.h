/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launcher_exec_internal.h - the state of launcher_exec, shared by launcher_exec.c (the running
 * system), launcher_wire.c (its connections), launcher_detach.c (shims that cannot be reached) and
 * adopt.c (what an earlier acceld left).
 */
#ifndef ACCEL_AGENTD_LAUNCHER_EXEC_INTERNAL_H
#define ACCEL_AGENTD_LAUNCHER_EXEC_INTERNAL_H

#include <sys/types.h>
#include <uv.h>

#include "agentd/launcher.h"
#include "common/codec.h"
#include "common/limits.h"

#define LAUNCHER_BUCKETS 1024u /* attempts of one node by job; chains stay short far beyond it */
#define LAUNCHER_INPUTS                                                                            \
    8u /* unanswered inputs of one attempt; one by contract, more are answered                     \
                                  `closed` */

#define LAUNCHER_RETRY_MIN_MS 20u /* to connect to a shim again; doubles */

enum attempt_state {
    ATTEMPT_LAUNCHING, /* START was sent */
    ATTEMPT_LIVE,
    /* There is no connection and the shim is not known to be dead: it is dying, it cannot answer
     * now, or it serves a newer acceld. Tried again until one or the other is known. */
    ATTEMPT_DETACHED,
    ATTEMPT_SWEEPING, /* SWEEP was sent */
    ATTEMPT_ENDED,    /* on_gone was called, or the directory was found so */
};

/* A stream socket on the loop. Freed when libuv lets go of the handle. */
struct wire {
    uv_poll_t poll;
    int fd;
    int events;
    struct codec_reader in;
    struct str out;
    void (*on_ready)(struct wire *w, int events);
    struct launcher_exec *l;
    struct attempt *a; /* NULL: accel-spawn's, or the attempt has let go */
};

/* What is known of a rank, for the record of a shim that was killed. */
struct rank_known {
    uint32_t rank;
    uint32_t pid;
    int64_t start_ms;
    Accel__V1__RankExit *exit; /* owned copy; NULL: not known to have ended */
};

struct attempt {
    struct attempt *next; /* in its bucket */
    struct attempt_id id;
    enum attempt_state state;
    bool has_directory; /* state before LAUNCHING was ENDED: put back if the launch is refused */
    bool is_forked;     /* accel-spawn or the shim itself said so */
    bool is_cut;        /* the connection ended before FORKED came */
    bool is_started;    /* on_started was called, or an earlier acceld had it */
    bool is_watched;
    bool is_adopting;    /* launcher_exec_adopt waits for SWEPT: no on_gone then */
    bool is_refused;     /* DETACHED: the shim let us in and hung up without a word */
    bool is_stop_asked;  /* by the coordinator; then a shim that refuses us does not protect it */
    uint32_t stop_cause; /* of the first stop; it is said again to a shim that comes back */
    uint64_t stop_grace_ms; /* the shortest asked */
    int64_t stop_until_ms;  /* clock_mono_ms(); so long for a shim that cannot be reached */
    uint64_t era;
    pid_t shim_pid;
    struct wire *wire;  /* to the shim; NULL: none */
    struct wire *pidfd; /* DETACHED: ready when the shim is dead; NULL: not to be had now */
    struct rank_known *ranks;
    size_t rank_count;
    uint64_t inputs[LAUNCHER_INPUTS];
    size_t input_count;
};

/* An answer that must not come from inside the call. */
struct deferred {
    struct deferred *next;
    struct attempt_id id;
    uint64_t input_id;
};

/* Bytes for accel-spawn, with the descriptor that goes with the first of them. */
struct request {
    struct request *next;
    int fd; /* -1: none, or sent */
    size_t done;
    struct str bytes;
};

/* A launch that waits for the name service. */
struct pending_launch {
    struct pending_launch *next;
    struct launcher_exec *l;
    struct attempt_id id;
    int fd; /* the shim's end of the connection */
    uint8_t *spec;
    size_t len;
};

struct identity_lookups;
struct launcher_exec {
    struct launcher base; /* first */
    struct launcher_callbacks cb;
    void *ctx;
    uv_loop_t *loop;
    char *dir;
    int dir_fd;
    uint64_t incarnation;
    struct wire *spawn; /* NULL: lost */
    struct request *requests, **requests_end;
    struct attempt *buckets[LAUNCHER_BUCKETS];
    bool is_indexed; /* every directory has an entry in buckets */
    struct deferred *deferred, **deferred_end;
    uv_idle_t idle;   /* runs while there is something deferred, and keeps the loop from waiting */
    uv_timer_t retry; /* runs while a DETACHED attempt has no connection */
    uint64_t retry_ms;
    uv_timer_t late; /* runs while a stopped attempt has not told that it started */
    struct identity_lookups *lookups; /* NULL: all jobs run as accel-spawn does */
    struct pending_launch *pending;
    size_t open_handles;
    bool is_closing;
    void (*on_closed)(void *ctx);
    void *closed_ctx;
};

/* launcher_exec.c */
struct attempt *attempt_find(struct launcher_exec *l, struct attempt_id id);
struct attempt *attempt_add(struct launcher_exec *l, struct attempt_id id,
                            enum attempt_state state);
/* The attempt talks with its shim over fd (owned from here) from now on. */
int attempt_connect(struct launcher_exec *l, struct attempt *a, int fd);
/* Takes over what hello says; tell: on_exited for ends that are news. */
void attempt_on_hello(struct launcher_exec *l, struct attempt *a, const Accel__V1__ShimHello *hello,
                      bool tell);
void attempt_set_ranks(struct attempt *a, const Accel__V1__AttemptSpec *spec);
void attempt_sweep(struct launcher_exec *l, struct attempt *a);
/* Lets go of its connections and ranks: it ends without a word from a shim. */
void attempt_close(struct launcher_exec *l, struct attempt *a);
void launcher_handle_closed(struct launcher_exec *l); /* one of open_handles */

/* launcher_user.c */
/* Sends the START once it is known who the user is here, or calls on_refused. Owns fd. */
void attempt_launch_as_user(struct launcher_exec *l, const Accel__V1__AttemptSpec *spec, int fd);
void attempt_forget_pending(struct launcher_exec *l); /* all: the launcher is closing */

/* launcher_detach.c */
/* The shim cannot be talked to: tries until it takes us back, sweeps when it is dead. Only what is
 * proven dead is swept: a job must not die of our want of descriptors. */
void attempt_detach(struct launcher_exec *l, struct attempt *a);
/* The connection to the shim has ended without `gone`. */
void attempt_on_cut(struct launcher_exec *l, struct attempt *a);
/* A shim whose ranks hang in exec hears nothing (shim_child.c says why): an attempt that was
 * stopped and has not told that it started is swept at its stop_until_ms. */
void attempt_bound_stop(struct launcher_exec *l);

/* launcher_wire.c */
/* Owns fd, on failure too (NULL). */
struct wire *wire_open(struct launcher_exec *l, int fd, void (*on_ready)(struct wire *, int));
/* The descriptor is closed at once (the other side sees it), the memory goes when libuv says. */
void wire_close(struct wire *w);
void wire_want(struct wire *w, int events);
/* If the other side is gone, reading will tell. */
void wire_flush(struct wire *w);
/* Bytes read into w->in, 0 at the end of the stream, -1: nothing there now. */
ssize_t wire_read(struct wire *w);
/* ShimOwn, at the head of a new connection. */
void wire_add_own(struct str *out, uint64_t incarnation);
void send_down(struct attempt *a, const Accel__V1__ShimDown *down);
void send_stop(struct attempt *a); /* what was asked last */
void request_free(struct request *q);
/* Queues for accel-spawn; fd (owned; -1: none) goes with the first byte. */
void request_add(struct launcher_exec *l, const Accel__V1__SpawnRequest *msg, int fd);
void requests_flush(struct launcher_exec *l);

/* adopt.c */
/* Connects to JOB.N/sock: a descriptor, ACCEL_ENOENT (nobody listens there), or ACCEL_EUNAVAIL (it
 * cannot be told now: no descriptors, or the shim is behind with its connections). */
int adopt_connect(int dir_fd, struct attempt_id id);
/* Whether the shim is proven dead; connected: what adopt_connect() said. *pid is what is known of
 * its number (0: nothing), and what its file says afterwards. */
bool adopt_is_shim_dead(int dir_fd, struct attempt_id id, int connected, pid_t *pid);
/* The record on disk, NULL if there is none (readable); caller frees with free_unpacked. */
Accel__V1__ExitRecord *adopt_read_record(int dir_fd, struct attempt_id id);
/* Makes up the record of an attempt whose shim did not write one and puts it on disk. cause:
 * SHIM_LOST; START_FAILED, the job's own fault and never retried; NODE_LOST, a start that ended
 * with acceld. rank pointers go into `a`; caller calls adopt_free_record. */
Accel__V1__ExitRecord *adopt_make_record(struct launcher_exec *l, const struct attempt *a,
                                         Accel__V1__Cause cause, const char *text);
void adopt_free_record(Accel__V1__ExitRecord *record);
/* Removes JOB.N with all that is in it; follows no link. What cannot be removed is logged. */
/* attempt 0: JOB.work, the directory that the job has brought. */
void adopt_remove(struct launcher_exec *l, struct attempt_id id);
/* "JOB.work", relative to the attempts directory. */
static inline void work_path(uint64_t job_id, char *buf, size_t size)
{
    snprintf(buf, size, "%llu." ARCHIVE_WORK_SUFFIX, (unsigned long long)job_id);
}
/* Adds entries for all directories. ACCEL_EIO if they cannot be listed. */
int adopt_index(struct launcher_exec *l, struct accel_error *err);
void attempt_path(struct attempt_id id, const char *file, char *path, size_t size);

#endif
