/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_internal.h - what the transports that carry accel.v1.Frame (rpc_local, rpc_sim) have in
 * common: frames on bytes, and the table of open calls at each end (these rpc_grpc uses too: a
 * gRPC call is a connection of one call there, and its frames are never coded). A transport moves
 * bytes and calls rpc_core_on_frame or rpc_chan_on_frame for each frame that arrives; the tables
 * give frames back through their `emit` hook. Only common/rpc*.c include this, and tests.
 *
 * Everything on one thread; nothing blocks; memory by xcalloc and friends (abort). "From the loop"
 * means: by a caller that may run callbacks of users.
 */
#ifndef ACCEL_COMMON_RPC_INTERNAL_H
#define ACCEL_COMMON_RPC_INTERNAL_H

#include "accel/v1/rpc.pb-c.h"
#include "common/arena.h"
#include "common/limits.h"
#include "common/rpc.h"

/* Bytes of a frame that are not its body: kind, call, flags, code and a method or a text. */
#define RPC_TEXT_BYTES                                                                             \
    4096u /* of END's text; the rest is cut: it is a message for people, not data */
#define RPC_ENVELOPE_BYTES (RPC_TEXT_BYTES + 1024u)
#define RPC_BODY_BYTES                                                                             \
    (LIMIT_FRAME_BYTES - RPC_ENVELOPE_BYTES) /* largest body that is sent; see each sender */
#define RPC_HEADER_BYTES 4u                  /* the length before each frame, as in codec.h */
#define RPC_KEEP_BYTES                                                                             \
    65536u /* buffers above this are given back when empty: idle peers cost little */

/* --- a circular list; a node is removed without knowing its list --- */
struct rpc_list {
    struct rpc_list *prev, *next;
};
static inline void rpc_list_init(struct rpc_list *l)
{
    l->prev = l->next = l;
}
static inline bool rpc_list_is_empty(const struct rpc_list *l)
{
    return l->next == l;
}
static inline void rpc_list_append(struct rpc_list *head, struct rpc_list *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}
/* Removing a node twice is harmless. */
static inline void rpc_list_remove(struct rpc_list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    rpc_list_init(node);
}
/* Moves all of `from` to the end of `to`; from is empty then. */
void rpc_list_splice(struct rpc_list *to, struct rpc_list *from);

/* --- bytes waiting: data[pos..len) --- */
struct rpc_buf {
    uint8_t *data;
    size_t pos, len, cap;
};
static inline size_t rpc_buf_len(const struct rpc_buf *b)
{
    return b->len - b->pos;
}
/* Room for `extra` bytes at the end; returns where they go. The caller adds to len what it wrote.
 */
uint8_t *rpc_buf_reserve(struct rpc_buf *b, size_t extra);
void rpc_buf_add(struct rpc_buf *b, const void *p, size_t len);
void rpc_buf_drop(struct rpc_buf *b, size_t len); /* from the front */
void rpc_buf_done(struct rpc_buf *b);

/* --- frames --- */
struct rpc_frame {
    Accel__V1__Frame__Kind kind;
    uint32_t call;
    const char *method; /* not NUL-terminated */
    size_t method_len;
    bool has_body;
    const uint8_t *body;
    size_t body_len;
    const ProtobufCMessage *msg; /* rpc_frame_add only: packed in place as the body */
    uint32_t code;
    const char *text; /* not NUL-terminated */
    size_t text_len;
};
/* Appends the length and the frame, as protobuf would pack accel.v1.Frame; the body is copied (or
 * packed) once, to its place. */
void rpc_frame_add(struct rpc_buf *out, const struct rpc_frame *f);
/* Decodes a frame's content; pointers in *ret_frame are into p. Unknown fields are skipped, of
 * repeated ones the last counts, as protobuf has it. ACCEL_EPROTO: not a Frame. */
int rpc_frame_parse(const uint8_t *p, size_t len, struct rpc_frame *ret_frame);

/* Unpacks into the arena; NULL: not a message of that type. */
ProtobufCMessage *rpc_unpack(struct arena *a, const ProtobufCMessageDescriptor *type,
                                   const uint8_t *p, size_t len);
/* Forgets the arena's content, and its memory too when a message was large. */
void rpc_arena_reset(struct arena *a);

/* --- calls at the server --- */
struct rpc_conn_call {
    uint32_t client_call;
    uint32_t slot;
};
/* One connection; embedded in the transport's. */
struct rpc_conn {
    struct rpc_core *core;
    struct rpc_identity who;
    struct rpc_conn_call
        *calls; /* open ones, oldest first; searched linearly: most connections have one or two */
    uint32_t count, cap;
    uint32_t paused; /* calls that ask for a pause */
};
struct rpc_slot {
    uint64_t number; /* 0: free */
    struct rpc_conn *conn;
    const struct rpc_method *method;
    uint32_t client_call;
    bool is_paused, is_half_closed;
    uint32_t next_free;
};
struct rpc_core_hooks {
    void (*emit)(struct rpc_conn *c, const struct rpc_frame *f); /* ignored when c is gone */
    void (*flow)(struct rpc_conn *c, bool paused);               /* stop or go on reading */
    void (*fail)(struct rpc_conn *c); /* drop the connection, later, from the loop */
};
struct rpc_core { /* first member of a transport's server */
    struct rpc_server base;
    const struct rpc_core_hooks *hooks;
    const struct rpc_service *svc;
    struct rpc_slot *slots; /* a call number is serial << RPC_SLOT_BITS | index here, so finding one
                               is one load */
    uint32_t slots_len, slots_cap, free_head;
    uint64_t serial;
    struct arena arena; /* the request being handled */
};
#define RPC_SLOT_BITS 22 /* LIMIT_CONNECTIONS * LIMIT_CALLS_PER_CONNECTION */

void rpc_core_init(struct rpc_core *core, const struct rpc_server_ops *ops,
                   const struct rpc_core_hooks *hooks, const struct rpc_service *svc);
void rpc_core_done(struct rpc_core *core);
void rpc_conn_init(struct rpc_conn *c, struct rpc_core *core, const struct rpc_identity *who);
/* One frame has arrived; calls handlers. ACCEL_EPROTO: the peer must lose its connection. */
int rpc_core_on_frame(struct rpc_conn *c, const uint8_t *p, size_t len);
/* The same for a frame that is decoded already. */
int rpc_core_take(struct rpc_conn *c, const struct rpc_frame *f);
/* Finds the method and compares roles, as opening a call does. ACCEL_EUNIMPL, ACCEL_EPERM. */
int rpc_caller_check(const struct rpc_service *svc, const char *name, size_t len,
                     const struct rpc_identity *who, const struct rpc_method **ret_method,
                     struct accel_error *err);
/* The connection is gone: handlers of its open calls get RPC_CLOSED (unless silent), oldest first.
 */
void rpc_conn_gone(struct rpc_conn *c, bool silent);
/* For struct rpc_server_ops. */
void rpc_core_send(struct rpc_server *s, uint64_t call, const void *packed, size_t len);
void rpc_core_end(struct rpc_server *s, uint64_t call, const void *packed, size_t len, int code,
                  const char *text);
void rpc_core_pause(struct rpc_server *s, uint64_t call, bool paused);

/* --- calls at the client --- */
struct rpc_chan;
struct rpc_chan_hooks {
    void (*emit)(struct rpc_chan *ch, const struct rpc_frame *f);
    void (*wake)(struct rpc_chan *ch); /* run rpc_chan_deliver from the loop */
};
struct rpc_chan_call {
    struct rpc_call base;
    struct rpc_list node; /* in open or failed */
    uint32_t id;          /* on the wire; 0: not on it (any more) */
    const ProtobufCMessageDescriptor *response;
    const struct rpc_call_handlers *h;
    void *ctx;
    int code; /* in failed: why */
    const char *text;
};
struct rpc_chan { /* first member of a transport's channel */
    struct rpc_channel base;
    const struct rpc_chan_hooks *hooks;
    bool is_dead; /* the connection is gone: calls fail */
    struct rpc_list open, failed;
    uint32_t serial;
    uint32_t free_count;
    uint16_t free_slots[LIMIT_CALLS_PER_CONNECTION];
    struct rpc_chan_call *slots[LIMIT_CALLS_PER_CONNECTION];
    struct arena arena; /* the answer being delivered */
};
void rpc_chan_init(struct rpc_chan *ch, const struct rpc_channel_ops *ops,
                   const struct rpc_chan_hooks *hooks);
void rpc_chan_done(struct rpc_chan *ch); /* frees what calls are left, without a callback */
/* One frame has arrived; calls callbacks. ACCEL_EPROTO: the peer must lose its connection. */
int rpc_chan_on_frame(struct rpc_chan *ch, const uint8_t *p, size_t len);
/* The same for a frame that is decoded already. */
int rpc_chan_take(struct rpc_chan *ch, const struct rpc_frame *f);
/* Gives on_end to the call with this id, if it is open. From the loop. */
void rpc_chan_end(struct rpc_chan *ch, uint32_t id, int code, const char *text);
/* The connection is gone: open calls fail with ACCEL_ECLOSED and text (static), and new ones will.
 * No callback yet. */
void rpc_chan_fail(struct rpc_chan *ch, const char *text);
/* Gives on_end to calls that have failed before this call, not to those that callbacks start. */
void rpc_chan_deliver(struct rpc_chan *ch);
/* For struct rpc_channel_ops. rpc_chan_send with a NULL message: no more will be sent
 * (RPC_HALF_CLOSE). */
struct rpc_call *rpc_chan_start(struct rpc_channel *channel, const char *method,
                                const ProtobufCMessage *msg,
                                const ProtobufCMessageDescriptor *response,
                                const struct rpc_call_handlers *h, void *ctx);
void rpc_chan_send(struct rpc_call *call, const ProtobufCMessage *msg);
void rpc_chan_cancel(struct rpc_call *call);

#endif
