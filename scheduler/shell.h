/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shell.h - the coordinator's shell: calls become events, the core steps, records are committed,
 * and only then outputs leave (the order contract of coord.h). One thread, the loop's; the store
 * has its own.
 *
 * While a commit fails (disk full), it is retried as it is; calls of users are refused with
 * ACCEL_EUNAVAIL and messages of agents wait, in order, up to LIMIT_DEFERRED_MESSAGES.
 */
#ifndef ACCEL_SCHEDULER_SHELL_H
#define ACCEL_SCHEDULER_SHELL_H

#include <uv.h>

#include "common/loop.h"
#include "common/rpc.h"
#include "scheduler/coord.h"
#include "scheduler/options.h"
#include "scheduler/store_thread.h"

struct deferred; /* a message of an agent that waits for the store */

struct shell {
    uv_loop_t *loop;
    const struct coordinator_options *options;
    struct coord *core;
    struct store *store; /* owned by `thread` once that runs */
    struct store_thread *thread;
    struct rpc_server *server;
    struct coord_batch batches[2];
    struct coord_batch *open;       /* collects the outputs of steps */
    struct coord_batch *committing; /* NULL: no commit runs */
    struct store_txn txn;
    uv_check_t check;           /* after the sockets of one turn were read: flush */
    struct loop_timer deadline; /* of the core */
    struct loop_timer idle;
    struct loop_signals signals;
    uv_fs_event_t socket_watch; /* the socket's file: without it nobody finds us */
    uint64_t socket_inode;
    struct accel_error failing; /* code != 0: the store cannot write */
    struct deferred *deferred_head, **deferred_tail;
    uint32_t deferred_count, admin_calls;
    size_t deferred_bytes;
    int64_t start_wall_ms;
    bool is_stopping;
    bool is_flushed; /* stopping, and nothing is stepped or said any more */
    bool is_stale;   /* a higher epoch wrote the store */
    int exit_status;
};

/* Opens the store, loads the core, commits the new epoch. Blocking. */
int shell_init(struct shell *s, uv_loop_t *loop, const struct coordinator_options *options,
               struct accel_error *err);
/* Serves calls on the listening socket, which it then owns. */
int shell_serve(struct shell *s, int listen_fd, struct accel_error *err);
/* Planned end: no new connections, the running commit finishes, outputs leave, the store is closed;
 * then the loop ends. */
void shell_stop(struct shell *s, const char *why);
void shell_done(struct shell *s); /* after the loop has ended */

/* One event of the transport for a method of the core. */
void shell_on_call(struct shell *s, const struct rpc_event *ev);

/* api.c: the service table; ctx of its handlers is the shell. */
extern const struct rpc_service *api_service(struct shell *s);

#endif
