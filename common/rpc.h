/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc.h - calls between processes, with the transport left out. A server has one table of methods;
 * a transport (rpc_local over unix sockets, rpc_sim in virtual time, rpc_grpc later) turns bytes
 * into the handler calls below. Handlers know no transport. Everything happens on the loop's
 * thread; nothing blocks; callbacks never run inside the call that caused them (they come from the
 * loop, or from rpc_sim's step).
 *
 * A call is a number, unique for the life of the server object. It is open from RPC_OPEN until
 * RPC_CLOSED or until rpc_server_end(), whichever comes first; sending to a call that is no longer
 * open is ignored, because the client may go at any time. Per call, messages arrive in the order
 * sent.
 */
#ifndef ACCEL_COMMON_RPC_H
#define ACCEL_COMMON_RPC_H

#include <protobuf-c/protobuf-c.h>
#include <sys/types.h>

#include "common/caller.h"
#include "common/error.h"

struct rpc_method;
struct rpc_event {
    enum rpc_event_type type;
    uint64_t call;
    const struct rpc_method *method;
    const struct rpc_identity *who; /* valid during the handler */
    const ProtobufCMessage *msg;    /* of type method->request; valid during the handler */
};

/* One row of the service table. */
struct rpc_method {
    const char *name; /* "/accel.v1.Jobs/Submit" */
    const ProtobufCMessageDescriptor *request;
    const ProtobufCMessageDescriptor *response;
    bool is_client_stream, is_server_stream;
    enum rpc_role
        role; /* least role that may call; NONE: anybody; NODE: nodes (locally: any admin) */
    uint32_t cap_bytes; /* of one request message; larger is RESOURCE_EXHAUSTED */
    void (*handler)(void *ctx, const struct rpc_event *ev);
    int id;             /* for the handler's own dispatch */
    const char *people; /* what people type to call it: "accelctl node remove"; NULL: the name */
};

struct rpc_service {
    const struct rpc_method *methods;
    size_t count;
    void *ctx; /* given to the handlers */
    /* rpc_local, before each call: brings the role of a caller on this host up to date. May be
     * NULL: root and the server's own user are ADMIN, everyone else USER. */
    void (*refresh)(void *ctx, struct rpc_identity *who);
    /* Somebody called a method that is not for his role, or health or reflection without a
     * certificate; may be NULL. Text: one sentence. */
    void (*on_refused)(void *ctx, const struct rpc_identity *who, const char *text);
};

/* --- server --- */
struct rpc_server;
struct rpc_server_ops {
    void (*send)(struct rpc_server *s, uint64_t call, const void *packed, size_t len);
    void (*end)(struct rpc_server *s, uint64_t call, const void *packed, size_t len, int code,
                const char *text);
    void (*stop)(struct rpc_server *s, void (*on_stopped)(void *), void *ctx);
    void (*pause)(struct rpc_server *s, uint64_t call, bool paused);
};
struct rpc_server { /* first member of a transport's own struct */
    const struct rpc_server_ops *ops;
};

/* Sends one packed response message of a server stream. */
static inline void rpc_server_send(struct rpc_server *s, uint64_t call, const void *packed,
                                   size_t len)
{
    s->ops->send(s, call, packed, len);
}
/* Ends the call: OK (code 0) with a last message (packed may be NULL for streams), or ACCEL_E* with
 * text for people. */
static inline void rpc_server_end(struct rpc_server *s, uint64_t call, const void *packed,
                                  size_t len, int code, const char *text)
{
    s->ops->end(s, call, packed, len, code, text);
}
/* While paused, no more messages of that call's connection are read (back pressure). */
static inline void rpc_server_pause(struct rpc_server *s, uint64_t call, bool paused)
{
    s->ops->pause(s, call, paused);
}
/* Stops listening, flushes what is queued (bounded: 1 s), closes all connections, frees s, then
 * calls on_stopped. */
static inline void rpc_server_stop(struct rpc_server *s, void (*on_stopped)(void *), void *ctx)
{
    s->ops->stop(s, on_stopped, ctx);
}
/* Finds a method by name; NULL if there is none. */
const struct rpc_method *rpc_find_method(const struct rpc_service *svc, const char *name);

/* --- client --- */
struct rpc_channel;
struct rpc_call;
struct rpc_call_handlers {
    /* One response message (for a unary call: the only one), of type `response`; valid during the
     * callback. */
    void (*on_message)(void *ctx, const ProtobufCMessage *msg);
    /* The call is over: 0 or ACCEL_E*; text for people (never NULL). Always the last callback; the
     * call is freed after. */
    void (*on_end)(void *ctx, int code, const char *text);
};
struct rpc_channel_ops {
    struct rpc_call *(*call)(struct rpc_channel *ch, const char *method,
                             const ProtobufCMessage *msg,
                             const ProtobufCMessageDescriptor *response,
                             const struct rpc_call_handlers *h, void *ctx);
    void (*send)(struct rpc_call *call, const ProtobufCMessage *msg);
    void (*cancel)(struct rpc_call *call);
    void (*close)(struct rpc_channel *ch, void (*on_closed)(void *), void *ctx);
};
struct rpc_channel { /* first member of a transport's own struct */
    const struct rpc_channel_ops *ops;
};
struct rpc_call { /* first member of a transport's own struct */
    struct rpc_channel *channel;
};
/* Starts a call; msg may be NULL for a client-streaming method. Never NULL (aborts when memory
 * ends); a channel that is closed ends the call with ACCEL_ECLOSED from the loop. */
static inline struct rpc_call *rpc_channel_call(struct rpc_channel *ch, const char *method,
                                                const ProtobufCMessage *msg,
                                                const ProtobufCMessageDescriptor *response,
                                                const struct rpc_call_handlers *h, void *ctx)
{
    return ch->ops->call(ch, method, msg, response, h, ctx);
}
/* msg NULL: the half close; no more messages follow. */
static inline void rpc_call_send(struct rpc_call *call, const ProtobufCMessage *msg)
{
    call->channel->ops->send(call, msg);
}
/* No further callback comes, not even on_end; the call is freed. */
static inline void rpc_call_cancel(struct rpc_call *call)
{
    call->channel->ops->cancel(call);
}
/* Ends every open call with ACCEL_ECLOSED, closes, frees ch, then calls on_closed (may be NULL). */
static inline void rpc_channel_close(struct rpc_channel *ch, void (*on_closed)(void *), void *ctx)
{
    ch->ops->close(ch, on_closed, ctx);
}

#endif
