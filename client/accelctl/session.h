/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.h - the connection to the coordinator: which one, the embedded start when it is the
 * user's own, one call and its answer for short verbs, and reconnecting for verbs that stay
 * attached. One thread.
 */
#ifndef ACCEL_CLIENT_SESSION_H
#define ACCEL_CLIENT_SESSION_H

#include <limits.h>
#include <uv.h>

#include "client/accelctl/cli.h"
#include "common/rpc.h"

struct session; /* opaque */

/* Connects; may start the user's own daemons (blocking, bounded by LIMIT_DAEMON_START_MS). */
int session_open(const struct cli *cli, struct session **ret_session, struct accel_error *err);
/* Connects only if somebody answers; never starts anything. */
int session_open_existing(const struct cli *cli, struct session **ret_session,
                          struct accel_error *err);
void session_close(struct session *s); /* accepts NULL */
#define AUTO_SESSION __attribute__((cleanup(session_cleanup)))
void session_cleanup(struct session **s);

uv_loop_t *session_loop(struct session *s);

/* One call, waited for; on_message gets each answer. Sent again over a new connection if the old
 * one breaks, a few times: the method must be safe to repeat (a read, or with a request id). */
int session_call(struct session *s, const char *method, const ProtobufCMessage *req,
                 const ProtobufCMessageDescriptor *response,
                 void (*on_message)(void *ctx, const ProtobufCMessage *msg), void *ctx,
                 struct accel_error *err);

/* For attached verbs: the channel, or NULL while there is none (on_back will come). */
struct rpc_channel *session_channel(struct session *s);
struct session_hooks {
    void (*on_back)(void *ctx); /* a new channel is there: start your calls again */
    void (*on_gone)(void *ctx, const struct accel_error *err); /* and will not come back */
    /* May be NULL. The only node of the embedded coordinator cannot be started; why is told, and
     * exit_code says it. */
    void (*on_no_agent)(void *ctx, int exit_code);
};
void session_attach(struct session *s, const struct session_hooks *hooks, void *ctx);
/* For verbs that go on: from now on a pipe on stdout whose reader has gone ends the program
 * silently, as the next write to it would. */
void session_end_with_reader(struct session *s);

/* Starts acceld if the coordinator is the embedded one; what goes wrong is told on stderr.
 * Returns at once; the loop does the rest. */
void session_ensure_agent(struct session *s);
/* The same, and waits until it is ready. */
int session_ensure_agent_now(struct session *s, struct accel_error *err);
/* Asks how many nodes are ready and starts acceld if none is; over the running loop, no waiting. */
void session_check_agent(struct session *s);
/* Runs the loop until every check begun by session_check_agent is answered. */
void session_settle(struct session *s);

#endif
