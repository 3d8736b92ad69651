/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_grpc_internal.h - what the files of the module accel-grpc.so share: one completion queue with
 * one thread for the whole process, which hands every finished operation to the loop. All state
 * lives on the loop's thread; the other one only appends to a list. Only common/rpc_grpc*.c include
 * this.
 *
 * An operation in flight is a struct wire_op, embedded in the object it is for; the same one is
 * never started twice at a time. The object is freed when the last of its operations is back.
 */
#ifndef ACCEL_COMMON_RPC_GRPC_INTERNAL_H
#define ACCEL_COMMON_RPC_GRPC_INTERNAL_H

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>

#include "common/remote.h"
#include "common/rpc_internal.h"

extern const struct remote_host *wire_host; /* set before anything else of the module is called */

/* The module's symbol; see remote_open_fn. */
const struct remote_ops *accel_remote_open(uint32_t abi, const struct remote_host *host);

/* --- operations --- */
struct wire_op {
    void (*on_done)(struct wire_op *op, bool ok); /* on the loop's thread */
    struct wire_op *next;
    bool ok;
    bool is_busy; /* in flight */
};
/* To be given to gRPC as the tag; CHECKs that it is not in flight. */
void *wire_op_start(struct wire_op *op, void (*on_done)(struct wire_op *op, bool ok));

/* --- timers --- */
struct wire_timer {
    struct rpc_list node; /* in none while disarmed */
    int64_t due_ms;
    void (*on_due)(struct wire_timer *t);
};

/* --- the runtime: one while there is a server or a channel --- */
struct wire_runtime {
    void *loop, *waker;
    grpc_completion_queue *cq;
    struct rpc_list timers;  /* earliest first */
    struct rpc_list refused; /* servers that want to hear of failed handshakes */
    unsigned users;
};
struct wire_runtime *wire_runtime_get(void *loop);
/* From on_done or on_due of a user that has no operation in flight nor a timer. on_closed (may be
 * NULL) is called at the end of the turn or later. */
void wire_runtime_put(struct wire_runtime *rt, void (*on_closed)(void *), void *ctx);
/* The operation comes back from the loop, soon, with ok. The loop's thread only. */
void wire_op_post(struct wire_runtime *rt, struct wire_op *op,
                  void (*on_done)(struct wire_op *op, bool ok));
void wire_timer_init(struct wire_timer *t, void (*on_due)(struct wire_timer *t));
void wire_timer_set(struct wire_runtime *rt, struct wire_timer *t, int64_t delay_ms);
void wire_timer_stop(struct wire_timer *t);
/* Sets the hooks into gRPC that are for the whole process. */
void wire_runtime_prepare(void);
struct wire_refused { /* in a runtime's list of them */
    struct rpc_list node;
    void (*on_refused)(struct wire_refused *r, const char *text);
};

/* --- bytes --- */
grpc_byte_buffer *wire_bytes_copy(const void *p, size_t len);
grpc_byte_buffer *wire_bytes_pack(const ProtobufCMessage *msg);
/* The content in one piece; valid until the slice is unref'd. false: compressed, which nobody may
 * send us, since a small message could unpack to a huge one. */
bool wire_bytes_read(grpc_byte_buffer *buf, grpc_slice *ret_slice);

/* Messages that wait for their turn: gRPC takes one per call at a time. */
struct wire_outbox {
    struct wire_out {
        struct wire_out *next;
        grpc_byte_buffer *buf;
        size_t len;
    } * head, **tail;
    size_t bytes;
};
void wire_outbox_init(struct wire_outbox *o);
void wire_outbox_add(struct wire_outbox *o, grpc_byte_buffer *buf, size_t len);
grpc_byte_buffer *wire_outbox_take(struct wire_outbox *o); /* NULL: empty */
void wire_outbox_clear(struct wire_outbox *o);

/* Trailing metadata of every status that one of our servers sends: without it the status was made
 * on the way. */
#define WIRE_MARK_KEY "accel-status"

/* --- TLS (rpc_grpc_tls.c) --- */
struct wire_tls; /* of a server; changes under running handshakes */
/* For all connections of the process; before the first of them, once. */
void wire_tls_prepare(void);
/* ACCEL_EINVAL: what is wrong with the texts. */
int wire_tls_check(const struct remote_tls *tls, bool is_server, struct accel_error *err);
int wire_tls_create(const struct remote_tls *tls, struct wire_tls **ret_tls,
                    struct accel_error *err);
int wire_tls_set(struct wire_tls *t, const struct remote_tls *tls, struct accel_error *err);
grpc_server_credentials *wire_tls_credentials(struct wire_tls *t);
void wire_tls_destroy(struct wire_tls *t); /* after the server; NULL is accepted */
/* Who is at the other end of a call. */
void wire_tls_peer(grpc_call *call, struct remote_peer *ret_peer);

/* --- server (rpc_grpc_server.c, rpc_grpc_call.c) --- */
struct wire_service_state {    /* of the standard services */
    struct rpc_server *server; /* numbers of their calls are of this */
    struct rpc_list watches;   /* of health */
    bool is_draining;
};
struct wire_listener {        /* our server */
    struct rpc_core core;     /* first: the user's service */
    struct rpc_core standard; /* health and reflection */
    struct rpc_service standard_service;
    struct wire_service_state standard_state;
    struct wire_runtime *rt;
    grpc_server *server;
    struct wire_tls *tls;
    struct remote_server_config config;
    struct wire_refused refused;
    uint16_t port;
    struct rpc_list calls; /* all of them, until their last operation is back */
    size_t calls_len;      /* same */
    unsigned accepts;      /* in flight */
    struct wire_op shutdown, stop;
    struct wire_timer stop_timer;
    bool is_stopping, is_draining, is_shut_down;
    void (*on_stopped)(void *ctx);
    void *stopped_ctx;
};
/* A call has come; the two are owned by the call from here. */
void wire_served_start(struct wire_listener *l, grpc_call *call, grpc_call_details *details);
/* Ends the call with an error, from the loop, soon. */
void wire_served_drop(struct rpc_list *node, int code);
const char *wire_served_serial(const struct rpc_list *node);
bool wire_served_is_open(const struct rpc_list *node);
/* The server stops: the handler is told; what is queued still goes. */
void wire_served_stop(struct rpc_list *node);
/* The last operation of a call is back and the call is gone. */
void wire_listener_call_gone(struct wire_listener *l);

extern const struct rpc_core_hooks wire_served_hooks;

int wire_server_create(uv_loop_t *loop, const struct remote_server_config *config,
                       struct rpc_server **ret_server, struct accel_error *err);
uint16_t wire_server_port(const struct rpc_server *s);
size_t wire_server_calls(const struct rpc_server *s);
size_t wire_server_drop(struct rpc_server *s, const char *serial);
void wire_server_drain(struct rpc_server *s);
int wire_server_set_tls(struct rpc_server *s, const struct remote_tls *tls,
                        struct accel_error *err);

/* --- standard services (rpc_grpc_standard.c, rpc_grpc_reflect.c) --- */
/* Fills the service: grpc.health.v1.Health and reflection; ctx is a wire_service_state. */
void wire_standard_service(struct wire_service_state *state, struct rpc_service *ret_service);
void wire_standard_drain(struct wire_service_state *state);
void wire_reflect(void *ctx, const struct rpc_event *ev); /* handler */
void wire_standard_done(struct wire_service_state *state);

/* --- client (rpc_grpc_client.c) --- */
int wire_channel_create(uv_loop_t *loop, const struct remote_channel_config *config,
                        struct rpc_channel **ret_channel, struct accel_error *err);

#endif
