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
#include "common/remote.h"
#include "common/rpc.h"
#include "scheduler/coord.h"
#include "scheduler/deferred.h"
#include "scheduler/enrol.h"
#include "scheduler/options.h"
#include "scheduler/store_thread.h"

struct files;
struct names;
struct parked; /* a Submit of a user whom the name service is asked for */

struct shell {
    uv_loop_t *loop;
    struct coordinator_options *options; /* SIGHUP changes some */
    struct coord *core;
    struct store *store; /* owned by `thread` once that runs */
    struct store_thread *thread;
    struct files *files; /* archives that jobs bring */
    struct rpc_server *server;       /* this host's; NULL: not yet, or not any more */
    const struct remote_ops *remote; /* NULL: this host only */
    struct rpc_server *remotes[OPTIONS_LISTEN_MAX]; /* of tag index + 1 */
    unsigned servers;        /* that still run: the store is closed after the last */
    struct enrol *enrol;     /* with remote */
    struct names *names;     /* with remote, while it serves */
    struct parked *parked, **parked_tail;
    size_t parked_count, parked_bytes;
    struct loop_timer renew; /* of our own certificate */
    struct coord_batch batches[2];
    struct coord_batch *open;       /* collects the outputs of steps */
    struct coord_batch *committing; /* NULL: no commit runs */
    struct store_txn txn;
    uv_check_t check;           /* after the sockets of one turn were read: flush */
    struct loop_timer deadline; /* of the core */
    uv_idle_t drain;            /* runs while is_tick_due: the loop polls without waiting */
    struct loop_timer idle;
    struct loop_signals signals;
    uv_fs_event_t socket_watch; /* the socket's file: without it nobody finds us */
    uint64_t socket_inode;
    struct accel_error failing; /* code != 0: the store cannot write */
    struct deferred deferred; /* what agents say while the store cannot write */
    uint32_t admin_calls;
    int64_t start_wall_ms;
    bool is_tick_due; /* the deadline has passed; what the sockets hold is stepped before */
    bool is_stopping;
    bool is_flushed; /* stopping, and nothing is stepped or said any more */
    bool is_stale;   /* a higher epoch wrote the store */
    int exit_status;
};

/* Opens the store, loads the core, commits the new epoch. Blocking. */
int shell_init(struct shell *s, uv_loop_t *loop, struct coordinator_options *options,
               struct accel_error *err);
/* Serves calls on the listening socket, which it then owns. */
int shell_serve(struct shell *s, int listen_fd, struct accel_error *err);
/* Planned end: no new connections, the running commit finishes, outputs leave, the store is closed;
 * then the loop ends. */
void shell_stop(struct shell *s, const char *why);
void shell_done(struct shell *s); /* after the loop has ended */

/* One event of the transport for a method of the core; grant: of a call of Trust, or NULL. */
void shell_on_call(struct shell *s, const struct rpc_event *ev, const struct coord_grant *grant);
/* To whichever server the call came by; ignored when that is gone. */
void shell_send(struct shell *s, uint64_t call, const void *packed, size_t len);
void shell_end(struct shell *s, uint64_t call, const void *packed, size_t len, int code,
               const char *text);

/* shell_remote.c: what is there only with --listen tcp:. */
int shell_remote_open(struct shell *s, struct accel_error *err);        /* keys; blocks */
int shell_remote_serve(struct shell *s, struct accel_error *err);       /* the core is loaded */
void shell_remote_stop(struct shell *s, void (*on_stopped)(void *ctx)); /* each server */
void shell_remote_drop(struct shell *s, const char *serial);
void shell_refused(struct shell *s, enum coord_refusal kind, const char *text);
/* Handlers of struct rpc_service. */
void shell_on_submit(void *ctx, const struct rpc_event *ev);
void shell_on_trust(void *ctx, const struct rpc_event *ev);
void shell_on_role_refused(void *ctx, const struct rpc_identity *who, const char *text);
void shell_refresh_role(void *ctx, struct rpc_identity *who);

/* api.c: the service table; ctx of its handlers is the shell. */
extern const struct rpc_service *api_service(struct shell *s);

#endif
