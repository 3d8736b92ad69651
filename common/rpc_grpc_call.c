/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One call at the server: from the moment gRPC has it until its last operation is back. To the
 * table of calls in rpc.c it is a connection with one call in it, so roles, caps, texts and the
 * order of events are those of every transport. Neighbours: rpc_grpc_server.c, which accepts and
 * stops. Nothing here may know a service.
 */
#include <stdio.h>
#include <string.h>

#include "common/rpc_grpc_internal.h"

#define CALL_ID 1u /* the call's name in its own connection */

struct served {
    struct rpc_conn conn;
    struct rpc_list node;
    struct wire_listener *listener;
    grpc_call *call;
    grpc_call_details details;
    struct wire_op close, recv, send, later;
    unsigned refs; /* operations in flight */
    int was_cancelled;
    grpc_byte_buffer *received; /* by recv; kept while paused */
    struct wire_outbox outbox;
    grpc_slice end_text;
    grpc_status_code end_code;
    int drop_code;      /* not 0: `later` is to end the call with it */
    bool has_conn;      /* the table of calls knows it */
    bool is_opened;     /* the handler does */
    bool has_head;      /* initial metadata are sent */
    bool has_end;       /* the status is known; after what is queued it goes */
    bool is_end_marked; /* it is ours, and not for want of a server */
    bool is_end_sent;
    bool is_receiving;                     /* inside on_received: `received` is in use */
    bool is_held;                          /* `received` (NULL: the half close) came while paused */
    bool is_paused, is_read_done, is_dead; /* dead: nothing can be sent any more */
};

static void served_pump(struct served *c);
static void on_received(struct wire_op *op, bool ok);
static void served_receive(struct served *c);

static struct served *node_served(const struct rpc_list *node)
{
    return CONTAINER_OF(node, struct served, node);
}

static bool has_open_call(const struct served *c)
{
    return c->has_conn && c->conn.count > 0;
}

/* --- operations --- */

static void served_batch(struct served *c, struct wire_op *op,
                         void (*on_done)(struct wire_op *, bool), const grpc_op *ops, size_t count)
{
    c->refs++;
    grpc_call_error e =
        grpc_call_start_batch(c->call, ops, count, wire_op_start(op, on_done), NULL);
    CHECK(e == GRPC_CALL_OK);
}

static void served_unref(struct served *c)
{
    struct wire_listener *l = c->listener;
    CHECK(c->refs > 0);
    if (--c->refs > 0)
        return;
    CHECK(!has_open_call(c));
    rpc_list_remove(&c->node);
    grpc_call_details_destroy(&c->details);
    wire_outbox_clear(&c->outbox);
    if (c->received)
        grpc_byte_buffer_destroy(c->received);
    grpc_slice_unref(c->end_text);
    grpc_call_unref(c->call);
    free(c->conn.calls);
    free(c);
    wire_listener_call_gone(l);
}

/* --- sending --- */

static void served_end(struct served *c, int code, const char *text, size_t len)
{
    if (c->has_end)
        return;
    c->has_end = true;
    c->is_end_marked = code != ACCEL_ECLOSED; /* that is for the caller the end of the connection */
    c->end_code = (grpc_status_code)accel_error_to_grpc(code);
    grpc_slice_unref(c->end_text);
    c->end_text = grpc_slice_from_copied_buffer(text, MIN(len, (size_t)RPC_TEXT_BYTES));
    served_pump(c);
}

static void served_end_error(struct served *c, const struct accel_error *err)
{
    served_end(c, err->code, err->text, strlen(err->text));
}

/* The call's connection in the table is gone; its handler is told unless the call had ended. */
static void served_gone(struct served *c)
{
    if (c->has_conn)
        rpc_conn_gone(&c->conn, false);
}

static void on_sent(struct wire_op *op, bool ok)
{
    struct served *c = CONTAINER_OF(op, struct served, send);
    if (!ok)
        c->is_dead = true; /* on_closed says why */
    served_pump(c);
    served_unref(c);
}

/* The next batch: what has to go first, one message, and the status behind the last one. */
static void served_pump(struct served *c)
{
    grpc_op ops[3] = {{.op = GRPC_OP_SEND_INITIAL_METADATA}};
    size_t n = c->has_head ? 0 : 1;
    grpc_metadata mark = {.key = grpc_slice_from_static_string(WIRE_MARK_KEY),
                          .value = grpc_slice_from_static_string("1")};
    if (c->is_dead)
        wire_outbox_clear(&c->outbox);
    if (c->send.is_busy || c->is_dead || c->is_end_sent || (!c->outbox.head && !c->has_end))
        return;
    grpc_byte_buffer *buf = wire_outbox_take(&c->outbox);
    if (buf)
        ops[n++] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = buf};
    if (c->has_end && !c->outbox.head) {
        ops[n] = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
        ops[n].data.send_status_from_server.status = c->end_code;
        ops[n].data.send_status_from_server.status_details = &c->end_text;
        if (c->is_end_marked) {
            ops[n].data.send_status_from_server.trailing_metadata_count = 1;
            ops[n].data.send_status_from_server.trailing_metadata = &mark;
        }
        n++;
        c->is_end_sent = true;
    }
    c->has_head = true;
    served_batch(c, &c->send, on_sent, ops, n);
    if (buf)
        grpc_byte_buffer_destroy(buf); /* the batch has its own */
}

static struct served *conn_served(struct rpc_conn *conn)
{
    return CONTAINER_OF(conn, struct served, conn);
}

static void conn_emit(struct rpc_conn *conn, const struct rpc_frame *f)
{
    struct served *c = conn_served(conn);
    if (c->is_dead || c->has_end)
        return;
    if (f->has_body)
        wire_outbox_add(&c->outbox, wire_bytes_copy(f->body, f->body_len), f->body_len);
    if (f->kind == ACCEL__V1__FRAME__KIND__END) {
        c->has_end = true;
        c->is_end_marked = true;
        c->end_code = (grpc_status_code)f->code;
        if (f->text_len > 0)
            c->end_text = grpc_slice_from_copied_buffer(f->text, f->text_len);
    } else if (c->outbox.bytes > LIMIT_SEND_QUEUE_BYTES) {
        wire_served_drop(&c->node, ACCEL_EFULL);
    }
    served_pump(c);
}

/* --- the end that others make --- */

static const char *drop_text(int code)
{
    switch (code) {
    case ACCEL_EPERM: return "the certificate of this caller was revoked";
    case ACCEL_EFULL: return "the caller reads too slowly, or a message is too large to be sent";
    default: return accel_error_sentence(code);
    }
}

static void on_later(struct wire_op *op, bool ok)
{
    struct served *c = CONTAINER_OF(op, struct served, later);
    (void)ok;
    if (c->drop_code != 0 && !c->is_dead) {
        const char *text = drop_text(c->drop_code);
        served_gone(c);
        wire_outbox_clear(&c->outbox);
        served_end(c, c->drop_code, text, strlen(text));
    } else if (c->is_held && !c->is_paused) {
        c->is_held = false;
        c->refs++; /* of the operation that had brought it */
        on_received(&c->recv, true);
    }
    served_unref(c);
}

static void served_later(struct served *c)
{
    if (c->later.is_busy)
        return;
    c->refs++;
    wire_op_post(c->listener->rt, &c->later, on_later);
}

void wire_served_drop(struct rpc_list *node, int code)
{
    struct served *c = node_served(node);
    c->drop_code = code;
    served_later(c);
}

static void conn_flow(struct rpc_conn *conn, bool paused)
{
    struct served *c = conn_served(conn);
    c->is_paused = paused;
    if (!paused && c->is_held)
        served_later(c);
    else if (!paused && c->is_opened)
        served_receive(c);
}

static void conn_fail(struct rpc_conn *conn)
{
    wire_served_drop(&conn_served(conn)->node, ACCEL_EFULL);
}

const struct rpc_core_hooks wire_served_hooks = {conn_emit, conn_flow, conn_fail};

void wire_served_stop(struct rpc_list *node)
{
    struct served *c = node_served(node);
    static const char text[] = "the server has stopped";
    served_gone(c);
    served_end(c, ACCEL_ECLOSED, text, sizeof(text) - 1);
}

const char *wire_served_serial(const struct rpc_list *node)
{
    return node_served(node)->conn.who.serial;
}

bool wire_served_is_open(const struct rpc_list *node)
{
    const struct served *c = node_served(node);
    return has_open_call(c) || !c->has_end;
}

static void on_close(struct wire_op *op, bool ok)
{
    struct served *c = CONTAINER_OF(op, struct served, close);
    if (!ok || c->was_cancelled) {
        c->is_dead = true;
        c->has_end = true;
        wire_outbox_clear(&c->outbox);
        served_gone(c);
    }
    served_unref(c);
}

/* --- receiving --- */

static void served_receive(struct served *c)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &c->received};
    if (!c->is_read_done && !c->recv.is_busy && !c->is_held && !c->is_receiving)
        served_batch(c, &c->recv, on_received, &op, 1);
}

/* The frame that rpc_local would have got. */
static void served_take(struct served *c, const grpc_slice *body)
{
    struct rpc_frame f = {.kind = ACCEL__V1__FRAME__KIND__MESSAGE, .call = CALL_ID};
    if (!c->is_opened) {
        f.kind = ACCEL__V1__FRAME__KIND__OPEN;
        f.method = (const char *)GRPC_SLICE_START_PTR(c->details.method);
        f.method_len = GRPC_SLICE_LENGTH(c->details.method);
        c->is_opened = true;
    }
    if (body) {
        f.has_body = true;
        f.body = GRPC_SLICE_START_PTR(*body);
        f.body_len = GRPC_SLICE_LENGTH(*body);
    } else if (f.kind == ACCEL__V1__FRAME__KIND__MESSAGE) {
        f.kind = ACCEL__V1__FRAME__KIND__HALF_CLOSE;
    }
    int r = rpc_core_take(&c->conn, &f);
    CHECK(r == 0 || r == ACCEL_EPROTO);
    if (r < 0)
        wire_served_drop(&c->node, r);
}

static void on_received(struct wire_op *op, bool ok)
{
    struct served *c = CONTAINER_OF(op, struct served, recv);
    grpc_slice body;
    c->is_receiving = true; /* `received` is in use */
    if (c->has_end || c->listener->is_stopping || !ok) {
        c->is_read_done = true; /* nobody asks for it any more */
    } else if (!c->received && grpc_call_failed_before_recv_message(c->call)) {
        c->is_read_done = true; /* no half close: on_close comes */
    } else if (c->is_paused) {
        c->is_held = true;
        c->is_receiving = false;
        served_unref(c);
        return;
    } else if (!c->received) {
        c->is_read_done = true;
        served_take(c, NULL);
    } else if (!wire_bytes_read(c->received, &body)) {
        c->is_read_done = true;
        wire_served_drop(&c->node, ACCEL_EUNIMPL);
    } else {
        served_take(c, &body);
        grpc_slice_unref(body);
        if (c->has_conn && c->conn.count == 0)
            c->is_read_done = true;
    }
    if (c->received)
        grpc_byte_buffer_destroy(c->received);
    c->received = NULL;
    c->is_receiving = false;
    if (!c->is_paused)
        served_receive(c);
    served_unref(c);
}

/* --- the beginning --- */

static bool is_standard(const struct served *c)
{
    static const char prefix[] = "/grpc.";
    size_t len = sizeof(prefix) - 1;
    return GRPC_SLICE_LENGTH(c->details.method) > len &&
           memcmp(GRPC_SLICE_START_PTR(c->details.method), prefix, len) == 0;
}

static int identify(struct wire_listener *l, const struct remote_peer *peer,
                    struct rpc_identity *who, struct accel_error *err)
{
    *who = (struct rpc_identity){.uid = UINT32_MAX, .gid = UINT32_MAX};
    if (l->config.identify) {
        int r = l->config.identify(l->config.ctx, peer, who, err);
        if (r < 0)
            return r;
    } else if (strcmp(peer->kind, "node") == 0) {
        who->role = RPC_ROLE_NODE;
        memcpy(who->node, peer->name, sizeof(who->node));
        memcpy(who->user, peer->name, sizeof(who->user));
    } else if (strcmp(peer->kind, "user") == 0) {
        who->role = RPC_ROLE_USER;
        memcpy(who->user, peer->name, sizeof(who->user));
    }
    if (peer->has_expired)
        return error_set(err, ACCEL_EUNAUTH, "the certificate of %s %s has expired", peer->kind,
                         peer->name);
    memcpy(who->serial, peer->serial, sizeof(who->serial));
    return 0;
}

/* Health and reflection have no roles, but are for nobody who could not be named. */
static int refuse_nameless(const struct rpc_service *svc, const struct remote_peer *peer,
                           const struct rpc_identity *who, struct accel_error *err)
{
    char text[160];
    snprintf(text, sizeof(text),
             "a service of every gRPC server was called without a certificate, from %s",
             peer->address);
    if (svc->on_refused)
        svc->on_refused(svc->ctx, who, text);
    return error_set(err, ACCEL_EUNAUTH,
                     "a certificate is needed\ntry: ask an admin for one: accelctl user cert YOU");
}

/* Who calls, and whether he may: before a byte of the request is read. Who may not is told to the
 * service's owner, who counts: by identify, or by on_refused of the service. */
static int served_admit(struct served *c, const struct rpc_method **ret_method,
                        struct accel_error *err)
{
    struct wire_listener *l = c->listener;
    struct remote_peer peer;
    struct rpc_identity who;
    bool standard = is_standard(c);
    wire_tls_peer(c->call, &peer);
    if (l->is_draining && !standard)
        return error_set(err, ACCEL_EUNAVAIL, "this coordinator is stopping");
    if (l->calls_len > LIMIT_REMOTE_CALLS)
        return error_set(err, ACCEL_EFULL, "too many calls are open here; come back later");
    int r = identify(l, &peer, &who, err);
    if (r < 0)
        return r;
    if (standard && !peer.has_certificate)
        return refuse_nameless(l->core.svc, &peer, &who, err);
    struct rpc_core *core = standard ? &l->standard : &l->core;
    rpc_conn_init(&c->conn, core, &who);
    c->has_conn = true;
    return rpc_caller_check(core->svc, (const char *)GRPC_SLICE_START_PTR(c->details.method),
                            GRPC_SLICE_LENGTH(c->details.method), &who, ret_method, err);
}

void wire_served_start(struct wire_listener *l, grpc_call *call, grpc_call_details *details)
{
    struct served *c = xcalloc(1, sizeof(*c));
    const struct rpc_method *m = NULL;
    struct accel_error err = {0};
    c->listener = l;
    c->call = call;
    c->details = *details;
    c->end_text = grpc_empty_slice();
    wire_outbox_init(&c->outbox);
    rpc_list_append(&l->calls, &c->node);
    l->calls_len++;
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    op.data.recv_close_on_server.cancelled = &c->was_cancelled;
    served_batch(c, &c->close, on_close, &op, 1);
    int r = served_admit(c, &m, &err);
    if (r < 0) {
        served_end_error(c, &err);
        return;
    }
    if (m->is_client_stream)
        served_take(c, NULL); /* its messages follow, as they come */
    served_receive(c);
}
