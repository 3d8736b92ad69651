/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shim_internal.h - the shim's state and what its files offer each other: shim.c (life and loop),
 * shim_rank.c (ranks: starting, reaping), shim_child.c (a rank before its exec), shim_output.c
 * (pipes to files), shim_tree.c (killing all), shim_wire.c (acceld: connection, messages, stdin).
 * One process, one thread, one struct shim.
 */
#ifndef ACCEL_AGENTD_SHIM_INTERNAL_H
#define ACCEL_AGENTD_SHIM_INTERNAL_H

#include "agentd/cgroup.h"
#include "agentd/shim.h"
#include "common/codec.h"
#include "common/limits.h"

#define SHIM_PENDING_CONNS 4u /* connections that have not said ShimOwn; the oldest is closed */
#define SHIM_INPUTS                                                                                \
    8u /* ShimInputs not yet taken; one is outstanding by contract, more end                       \
         the input */
#define SHIM_READ_BYTES 65536u /* one read of a pipe: what a pipe holds */

enum shim_phase {
    SHIM_RUNNING,
    SHIM_KILLING, /* everything is being killed until nothing is left */
    SHIM_ENDED,   /* the exit record is written; `gone` is on its way */
};

enum shim_source {
    SOURCE_SIGNAL,
    SOURCE_LISTEN,
    SOURCE_CONN,
    SOURCE_PENDING,
    SOURCE_TIMER,
    SOURCE_STDIN,
    SOURCE_STREAM, /* index: rank * 2 + stream */
    SOURCE_CGROUP,
    SOURCE_PMI, /* index: rank */
};

/* Bytes that a file did not take. */
struct shim_loss {
    uint64_t bytes;
    int sys; /* errno */
};

struct shim_stream {
    int fd;           /* read end of the pipe; -1: closed */
    int file_fd;      /* segment being written; -1: none open */
    uint32_t segment; /* index of file_fd */
    uint32_t oldest;  /* lowest index kept above segment 0 */
    uint64_t bytes;   /* of the stream, recorded */
    struct shim_loss loss;
};

struct shim_rank {
    const Accel__V1__RankSpec *spec;
    pid_t pid; /* 0: never started */
    int pidfd;
    struct shim_stream streams[2]; /* stdout, stderr */
    int copy_fd;                   /* RankSpec.output_file */
    struct shim_loss copy_loss;
    uint8_t *tail; /* last bytes of stderr, LIMIT_STDERR_TAIL_BYTES of room */
    size_t tail_len;
    bool is_reaped;
    bool is_told; /* ShimUp.exited was queued */
    bool is_oom;  /* the kernel killed it for memory */
    bool stopped;
    int exit_code, signal;
    uint64_t end_boot_ns;
    int64_t start_ms, end_ms;
    int start_errno;
    bool is_copy_failed; /* its output file could not be opened: not the program's fault */
    char *error;         /* why it could not be started */
};

struct shim_conn {
    int fd; /* -1: none */
    bool wants_write;
    struct codec_reader in;
    struct str out;
};

struct shim_input {
    uint64_t id;
    uint64_t end; /* done when so many bytes were taken */
    bool is_eof;
};

struct shim {
    const struct shim_start *start;
    const Accel__V1__AttemptSpec *spec;
    char name[40]; /* JOB.N */
    enum shim_phase phase;
    pid_t pid;
    int ep_fd, pid_ep_fd, signal_fd, timer_fd, exit_fd, cgroup_events_fd;
    int dir_fd, listen_fd, cgroup_fd;

    struct shim_rank *ranks;
    size_t rank_count;
    size_t rank_live;   /* forked and not reaped */
    size_t *exit_order; /* indices of reaped ranks, in the order of their deaths */
    size_t exit_count;
    size_t oom_count; /* ranks that were killed for memory */
    bool has_oom;     /* so was something of ours: the kernel forgets it with the group */
    bool is_started;  /* every rank runs its program or has failed to; it was said */
    bool start_failed;
    char *start_text;
    bool has_no_children; /* the last reaping ended with ECHILD */
    bool is_cgroup_killed;

    bool is_stopping;
    uint32_t stop_cause;
    uint64_t stop_deadline_ns; /* CLOCK_BOOTTIME, 0: none */

    struct shim_conn conn;
    struct shim_conn pending[SHIM_PENDING_CONNS];
    uint64_t incarnation; /* highest that owned us */
    bool is_corked;       /* nothing is sent before `started`: one packet for both */
    uint64_t changes;     /* bytes written and streams closed */
    uint64_t told_changes;
    bool is_told_any; /* told_changes counts for this connection */
    bool is_watched;

    int stdin_fd; /* write end of rank 0's pipe; -1: closed or never asked for */
    struct str stdin_buf;
    bool has_input;       /* the first has come: it says where this attempt's input begins */
    uint64_t stdin_next;  /* offset of the first byte not yet accepted */
    uint64_t stdin_taken; /* written to the pipe */
    bool stdin_eof;
    struct shim_input inputs[SHIM_INPUTS];
    size_t input_count;

    struct shim_pmi *pmi; /* NULL: not asked for */
};

/* shim.c */
void shim_epoll(struct shim *s, int op, int fd, uint32_t events, enum shim_source source,
                size_t index);
void shim_stop(struct shim *s, uint64_t grace_ms, uint32_t cause);
void shim_signal(struct shim *s, int32_t rank, int signo);
/* Kills everything from here on; idempotent. */
void shim_begin_kill(struct shim *s);

/* shim_rank.c */
/* On return every rank runs its program or has failed to, and `started` is on its way. */
void ranks_start(struct shim *s);
/* Reaps whatever has died, ranks in the order of their deaths; sets has_no_children. */
void ranks_reap(struct shim *s);
/* Fills a RankExit that points into k. */
void rank_fill_exit(const struct shim_rank *k, Accel__V1__RankExit *ret_exit);

/* shim_output.c */
/* Opens what the user asked for, before any rank runs: 0, or -errno with k->error set. */
int output_open_copy(struct shim *s, struct shim_rank *k);
void output_on_readable(struct shim *s, size_t index);
/* Reads what the rank has written until now; bounded by what pipes can hold. */
void output_drain(struct shim *s, struct shim_rank *k);
/* Writes the marks that are due, closes everything. */
void output_close(struct shim *s, struct shim_rank *k);

/* shim_tree.c */
/* One round: kills all that is left. True when nothing is left; else it has to be called again at
 * the next SIGCHLD or when the cgroup has emptied. */
bool tree_kill_round(struct shim *s);
/* SIGKILL to every child of this process for which keep() is false; the number of them. Where
 * /proc/self/task/TID/children is missing, the parents in /proc/PID/stat tell. */
size_t tree_kill_children(bool (*keep)(void *ctx, pid_t pid), void *ctx);

/* shim_wire.c */
void wire_init(struct shim *s, int conn_fd);
void wire_on_listen(struct shim *s);
void wire_on_conn(struct shim *s, uint32_t events);
void wire_on_pending(struct shim *s, size_t index);
void wire_on_stdin(struct shim *s, uint32_t events);
void wire_close_stdin(struct shim *s); /* the rank takes no more */
void wire_send_started(struct shim *s);
void wire_send_exits(struct shim *s); /* those not told yet, in order; nothing before started */
void wire_send_gone(struct shim *s, const Accel__V1__ExitRecord *record);
void wire_output_changed(struct shim *s);
void wire_flush(struct shim *s);
bool wire_is_flushed(const struct shim *s);
void wire_send_fence(struct shim *s, uint32_t number, const void *data, size_t len);

/* shim_archive.c: unpacks what the job brings, once per job; blocks until tar has ended. True: it
 * is there, or there is nothing to unpack. *ret_error says why not; the caller frees it. */
bool shim_unpack(const struct shim_start *start, char **ret_error);

/* shim_pmi.c. Without a PMI that was asked for, all do nothing. */
void shim_pmi_init(struct shim *s); /* before the first rank is started */
/* The rank's end of its connection, closed on exec: 0 (-1 in ret_theirs stays where there is no
 * PMI), or -errno. */
int shim_pmi_open(struct shim *s, size_t index, int *ret_theirs);
void shim_pmi_on_ready(struct shim *s, size_t index, uint32_t events);
void shim_pmi_fence_done(struct shim *s, const Accel__V1__ShimFence *fence);
void shim_pmi_tell_again(struct shim *s); /* to a new acceld */

#endif
