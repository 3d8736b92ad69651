/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_local_internal.h - bytes on a unix socket for both ends of rpc_local: one read() per wake-up,
 * frames handed out in place, and everything that was written in one turn of the loop sent by one
 * send() at its end. Only rpc_local*.c include this.
 */
#ifndef ACCEL_COMMON_RPC_LOCAL_INTERNAL_H
#define ACCEL_COMMON_RPC_LOCAL_INTERNAL_H

#include <uv.h>

#include "common/rpc_internal.h"

#define RPC_SCRATCH_BYTES                                                                          \
    65536u /* of one read: a turn of the loop serves one peer for at most this long */
#define RPC_SEND_EARLY_BYTES 262144u /* waiting for the end of the turn does not pay above this */

/* The end of the turn, for one server or channel. The check handle runs right after poll; the idle
 * handle, active only when there is work, keeps poll from blocking when the work came up elsewhere
 * (timers, other checks, before the loop ran). */
struct rpc_pump {
    uv_check_t check;
    uv_idle_t idle;
    struct rpc_list dirty; /* streams with something to do */
    uint8_t *scratch;
    bool is_awake;
    void (*on_turn)(struct rpc_pump *p); /* after the dirty streams */
};
void rpc_pump_init(struct rpc_pump *p, uv_loop_t *loop, void (*on_turn)(struct rpc_pump *p),
                   void *data);
void rpc_pump_wake(struct rpc_pump *p); /* on_turn will run soon */
void rpc_pump_close(struct rpc_pump *p,
                    uv_close_cb on_closed); /* on_closed runs twice, once for each handle */
void rpc_pump_done(struct rpc_pump *p);

struct rpc_stream;
struct rpc_stream_hooks {
    /* Negative: the stream is broken. May call anything, rpc_stream_close included. */
    int (*on_frame)(struct rpc_stream *s, const uint8_t *p, size_t len);
    void (*on_lost)(struct rpc_stream *s);   /* it broke or ended, once; it is closed already */
    void (*on_closed)(struct rpc_stream *s); /* its memory may go */
};
struct rpc_stream {
    uv_poll_t poll;
    int fd;
    struct rpc_pump *pump;
    const struct rpc_stream_hooks *hooks;
    struct rpc_list dirty;
    struct rpc_buf in;  /* an incomplete frame; whole ones only while paused */
    struct rpc_buf out; /* not yet sent */
    int events;         /* asked of uv */
    bool is_paused;     /* reads nothing, hands out nothing */
    bool is_blocked;    /* the socket was full */
    bool is_broken;     /* on_lost comes, from the loop */
    bool is_deaf;       /* the peer reads no more; what it had sent is still handed out */
    bool is_closing;
};
/* Owns fd (non-blocking from here) if it succeeds. */
int rpc_stream_init(struct rpc_stream *s, struct rpc_pump *pump, int fd,
                    const struct rpc_stream_hooks *hooks, struct accel_error *err);
void rpc_stream_write(struct rpc_stream *s, const struct rpc_frame *f);
void rpc_stream_pause(struct rpc_stream *s, bool paused);
void rpc_stream_break(struct rpc_stream *s); /* on_lost, from the loop */
void rpc_stream_lose(struct rpc_stream *s);  /* on_lost, now; from a callback of the loop */
void rpc_stream_flush(struct rpc_stream *s); /* what the socket takes now */
void rpc_stream_close(struct rpc_stream *s); /* at once, once; unsent bytes are lost */

#endif
