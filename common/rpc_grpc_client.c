/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client of the module: a channel is one connection, as in rpc_local. gRPC would reconnect by
 * itself; here the owner does, because a session has to begin anew anyway. The table of calls is in
 * rpc.c; here are gRPC's calls and the life of the connection: connecting, ready, doomed (no new
 * calls; those that are open end by themselves, or are ended), lost. Nothing here retries.
 */
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/rpc_grpc_internal.h"

#define KEEPALIVE_TIME_MS 20000
#define KEEPALIVE_WAIT_MS 10000
#define CONNECT_MS        10000
/* Open calls end by themselves when their connection has; more than what a stopping server takes to
 * flush. */
#define DOOMED_MS 2000

struct grpc_chan {
    struct rpc_chan chan; /* first */
    struct wire_runtime *rt;
    grpc_channel *channel;
    grpc_connectivity_state state; /* last seen */
    struct wire_op watch, deliver;
    struct wire_timer timer; /* connecting: until it counts as failed; doomed: the same */
    struct rpc_list calls;   /* until their last operation is back */
    struct sent **by_slot;   /* by the low bits of their id */
    char target[300];
    void (*on_ready)(void *ctx);
    void (*on_lost)(void *ctx);
    void *ctx;
    void (*on_closed)(void *ctx);
    void *closed_ctx;
    bool is_told; /* on_ready was called */
    bool was_ready, is_doomed, is_lost, is_closing, is_timed_out;
};

struct sent { /* one call */
    struct rpc_list node;
    struct grpc_chan *ch;
    uint32_t id; /* 0: nobody waits for it any more */
    grpc_call *call;
    struct wire_op begin, send, recv, status, later;
    unsigned refs;
    struct wire_outbox outbox;
    grpc_metadata_array head, tail;
    grpc_byte_buffer *received;
    grpc_status_code code;
    grpc_slice details;
    bool has_half_close, is_half_closed, is_read_done, is_status_done, is_too_large;
};

static void channel_check(struct grpc_chan *ch);
static void channel_doom(struct grpc_chan *ch);

/* --- one call: operations --- */

static void sent_batch(struct sent *c, struct wire_op *op, void (*on_done)(struct wire_op *, bool),
                       const grpc_op *ops, size_t count)
{
    c->refs++;
    grpc_call_error e =
        grpc_call_start_batch(c->call, ops, count, wire_op_start(op, on_done), NULL);
    CHECK(e == GRPC_CALL_OK);
}

static void sent_unref(struct sent *c)
{
    struct grpc_chan *ch = c->ch;
    CHECK(c->refs > 0);
    if (--c->refs > 0)
        return;
    CHECK(c->id == 0);
    rpc_list_remove(&c->node);
    wire_outbox_clear(&c->outbox);
    grpc_metadata_array_destroy(&c->head);
    grpc_metadata_array_destroy(&c->tail);
    grpc_slice_unref(c->details);
    if (c->received)
        grpc_byte_buffer_destroy(c->received);
    grpc_call_unref(c->call);
    free(c);
    channel_check(ch);
}

/* Nobody waits for it any more; its operations come back soon. */
static void sent_forget(struct sent *c)
{
    if (c->id == 0)
        return;
    c->ch->by_slot[c->id % LIMIT_CALLS_PER_CONNECTION] = NULL;
    c->id = 0;
}

static void sent_pump(struct sent *c);

static void on_sent(struct wire_op *op, bool ok)
{
    struct sent *c = CONTAINER_OF(op, struct sent, send);
    (void)ok; /* the status says why */
    sent_pump(c);
    sent_unref(c);
}

static void sent_pump(struct sent *c)
{
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    if (c->send.is_busy || c->id == 0 || c->is_status_done || c->is_half_closed)
        return;
    grpc_byte_buffer *buf = wire_outbox_take(&c->outbox);
    if (!buf && !c->has_half_close)
        return;
    if (buf) {
        op.data.send_message.send_message = buf;
    } else {
        op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
        c->is_half_closed = true;
    }
    sent_batch(c, &c->send, on_sent, &op, 1);
    if (buf)
        grpc_byte_buffer_destroy(buf);
}

/* --- the end of a call --- */

static void sent_end(struct sent *c, int code, const char *text)
{
    uint32_t id = c->id;
    sent_forget(c);
    rpc_chan_end(&c->ch->chan, id, code, text);
}

/* Without what gRPC says of each address, "failed to connect to all addresses; last error: KIND: ".
 */
static const char *last_error(const char *details)
{
    static const char mark[] = "last error: ";
    const char *at = strstr(details, mark);
    if (!at)
        return details;
    at += sizeof(mark) - 1;
    size_t kind = strspn(at, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_");
    return kind > 0 && strncmp(at + kind, ": ", 2) == 0 ? at + kind + 2 : at;
}

/* The first line is the same for each try that fails in the same way; the clock comes after it. */
static void no_connection(const struct grpc_chan *ch, const char *details, char *text, size_t size)
{
    char clock[40];
    const char *why = "nobody serves that address, or something on the way is closed";
    const char *hint = "does accel-coordinator run there, with --listen tcp:? may this machine "
                       "reach that port?";
    bool is_dated = strstr(details, "certificate verify failed") != NULL;
    if (is_dated) {
        why = "its certificate is of another authority, or not valid at this time";
        hint = "compare the clocks of both machines; is it the coordinator that is meant?";
    } else if (strstr(details, "Socket closed")) {
        is_dated = true;
        why = "it hung up in the handshake; does it accept this certificate (its authority, its "
              "dates)?";
        hint = "look into its log, and compare the clocks; or it is no coordinator";
    } else if (strstr(details, "DNS resolution failed")) {
        why = "the name is not known here, or no name server answers";
        hint = "getent hosts NAME; or use an address";
    }
    clock_format_utc(clock_wall_ms(), clock, sizeof(clock));
    snprintf(text, size, "cannot connect to %s: %.2000s\nwhy: %s%s%s\ntry: %s", ch->target,
             last_error(details), why, is_dated ? "; this machine's clock says " : "",
             is_dated ? clock : "", hint);
}

/* A status without our mark was made on the way: there is no connection, or it broke. */
static void end_unmarked(struct sent *c, const char *details)
{
    struct grpc_chan *ch = c->ch;
    char text[RPC_TEXT_BYTES];
    if (c->code != GRPC_STATUS_UNAVAILABLE) {
        sent_end(c, accel_error_from_grpc(c->code), details);
        return;
    }
    channel_doom(ch); /* gRPC would connect again for the next call */
    if (!ch->was_ready) {
        no_connection(ch, details, text, sizeof(text));
        sent_end(c, ACCEL_EUNAVAIL, text);
    } else {
        snprintf(text, sizeof(text), "the connection to %s ended: %.3000s", ch->target, details);
        sent_end(c, ACCEL_ECLOSED, text);
    }
}

static bool is_marked(const struct sent *c)
{
    for (size_t i = 0; i < c->tail.count; i++)
        if (grpc_slice_str_cmp(c->tail.metadata[i].key, WIRE_MARK_KEY) == 0)
            return true;
    return false;
}

static void sent_maybe_end(struct sent *c)
{
    char text[RPC_TEXT_BYTES];
    if (!c->is_status_done || !c->is_read_done || c->id == 0)
        return;
    size_t n = MIN(GRPC_SLICE_LENGTH(c->details), sizeof(text) - 1);
    memcpy(text, GRPC_SLICE_START_PTR(c->details), n);
    text[n] = 0;
    if (is_marked(c)) {
        c->ch->was_ready = true; /* the news of it may be behind */
        int code = accel_error_from_grpc(c->code);
        sent_end(c, code, n > 0 || code == 0 ? text : accel_error_sentence(code));
    } else if (c->code == GRPC_STATUS_OK) { /* of another server: health, say */
        sent_end(c, 0, text);
    } else {
        end_unmarked(c, n > 0 ? text : "no reason was given");
    }
}

static void on_status(struct wire_op *op, bool ok)
{
    struct sent *c = CONTAINER_OF(op, struct sent, status);
    (void)ok;
    c->is_status_done = true;
    sent_maybe_end(c);
    sent_unref(c);
}

/* --- receiving --- */

static void on_received(struct wire_op *op, bool ok);

static void sent_receive(struct sent *c)
{
    grpc_op ops[2] = {{.op = GRPC_OP_RECV_MESSAGE}};
    ops[0].data.recv_message.recv_message = &c->received;
    sent_batch(c, &c->recv, on_received, ops, 1);
}

static void on_received(struct wire_op *op, bool ok)
{
    struct sent *c = CONTAINER_OF(op, struct sent, recv);
    grpc_slice body;
    struct rpc_frame f = {.kind = ACCEL__V1__FRAME__KIND__MESSAGE, .call = c->id, .has_body = true};
    if (!ok || !c->received) {
        c->is_read_done = true;
        sent_maybe_end(c);
        sent_unref(c);
        return;
    }
    if (c->id != 0 && wire_bytes_read(c->received, &body)) {
        c->ch->was_ready = true; /* the news of it may be behind */
        f.body = GRPC_SLICE_START_PTR(body);
        f.body_len = GRPC_SLICE_LENGTH(body);
        CHECK(rpc_chan_take(&c->ch->chan, &f) == 0);
        grpc_slice_unref(body);
    }
    grpc_byte_buffer_destroy(c->received);
    c->received = NULL;
    sent_receive(c);
    sent_unref(c);
}

/* --- the beginning of a call --- */

static void on_begun(struct wire_op *op, bool ok)
{
    struct sent *c = CONTAINER_OF(op, struct sent, begin);
    (void)ok;
    sent_unref(c);
}

static void sent_start(struct grpc_chan *ch, const struct rpc_frame *f)
{
    struct sent *c = xcalloc(1, sizeof(*c));
    c->ch = ch;
    c->id = f->call;
    c->details = grpc_empty_slice();
    wire_outbox_init(&c->outbox);
    grpc_metadata_array_init(&c->head);
    grpc_metadata_array_init(&c->tail);
    rpc_list_append(&ch->calls, &c->node);
    ch->by_slot[f->call % LIMIT_CALLS_PER_CONNECTION] = c;
    grpc_slice method = grpc_slice_from_copied_buffer(f->method, f->method_len);
    c->call = grpc_channel_create_call(ch->channel, NULL, GRPC_PROPAGATE_DEFAULTS, ch->rt->cq,
                                       method, NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    grpc_slice_unref(method);
    grpc_op ops[3] = {{.op = GRPC_OP_RECV_STATUS_ON_CLIENT}};
    ops[0].data.recv_status_on_client.trailing_metadata = &c->tail;
    ops[0].data.recv_status_on_client.status = &c->code;
    ops[0].data.recv_status_on_client.status_details = &c->details;
    sent_batch(c, &c->status, on_status, ops, 1);
    ops[0] = (grpc_op){.op = GRPC_OP_RECV_INITIAL_METADATA};
    ops[0].data.recv_initial_metadata.recv_initial_metadata = &c->head;
    sent_batch(c, &c->begin, on_begun, ops, 1);
    sent_receive(c);
    ops[0] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
    grpc_byte_buffer *buf = f->has_body ? wire_bytes_pack(f->msg) : NULL;
    if (buf)
        ops[1] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = buf};
    sent_batch(c, &c->send, on_sent, ops, buf ? 2 : 1);
    if (buf)
        grpc_byte_buffer_destroy(buf);
}

/* --- what the table of calls asks for --- */

static void on_too_large(struct wire_op *op, bool ok)
{
    struct sent *c = CONTAINER_OF(op, struct sent, later);
    (void)ok;
    if (c->id != 0)
        sent_end(c, ACCEL_EFULL, "the other side reads too slowly: too much waits to be sent");
    grpc_call_cancel(c->call, NULL);
    sent_unref(c);
}

static void sent_add(struct sent *c, const struct rpc_frame *f)
{
    size_t len = protobuf_c_message_get_packed_size(f->msg);
    if (c->is_too_large)
        return;
    if (c->outbox.bytes + len > LIMIT_SEND_QUEUE_BYTES) {
        c->is_too_large = true;
        c->refs++;
        wire_op_post(c->ch->rt, &c->later, on_too_large);
        return;
    }
    wire_outbox_add(&c->outbox, wire_bytes_pack(f->msg), len);
    sent_pump(c);
}

static void chan_emit(struct rpc_chan *chan, const struct rpc_frame *f)
{
    struct grpc_chan *ch = CONTAINER_OF(chan, struct grpc_chan, chan);
    if (f->kind == ACCEL__V1__FRAME__KIND__OPEN) {
        sent_start(ch, f);
        return;
    }
    struct sent *c = ch->by_slot[f->call % LIMIT_CALLS_PER_CONNECTION];
    if (!c || c->id != f->call)
        return;
    if (f->kind == ACCEL__V1__FRAME__KIND__MESSAGE) {
        sent_add(c, f);
    } else if (f->kind == ACCEL__V1__FRAME__KIND__HALF_CLOSE) {
        c->has_half_close = true;
        sent_pump(c);
    } else {
        sent_forget(c);
        grpc_call_cancel(c->call, NULL);
    }
}

static void on_deliver(struct wire_op *op, bool ok)
{
    struct grpc_chan *ch = CONTAINER_OF(op, struct grpc_chan, deliver);
    (void)ok;
    rpc_chan_deliver(&ch->chan);
    channel_check(ch);
}

static void chan_wake(struct rpc_chan *chan)
{
    struct grpc_chan *ch = CONTAINER_OF(chan, struct grpc_chan, chan);
    if (!ch->deliver.is_busy)
        wire_op_post(ch->rt, &ch->deliver, on_deliver);
}

static const struct rpc_chan_hooks chan_hooks = {chan_emit, chan_wake};

/* --- the connection --- */

static bool has_waiting(const struct grpc_chan *ch)
{
    const struct rpc_list *node = ch->calls.next;
    for (; node != &ch->calls; node = node->next)
        if (CONTAINER_OF(node, struct sent, node)->id != 0)
            return true;
    return !rpc_list_is_empty(&ch->chan.failed);
}

static void channel_free(struct grpc_chan *ch)
{
    struct wire_runtime *rt = ch->rt;
    void (*on_closed)(void *) = ch->on_closed;
    void *ctx = ch->closed_ctx;
    while (!rpc_list_is_empty(&ch->chan.failed)) /* begun by the last callbacks */
        rpc_chan_deliver(&ch->chan);
    rpc_chan_done(&ch->chan);
    free(ch->by_slot);
    free(ch);
    wire_runtime_put(rt, on_closed, ctx);
}

/* Something has ended: is it the last of what the owner waits for? */
static void channel_check(struct grpc_chan *ch)
{
    if (ch->is_doomed && !ch->is_lost && !ch->is_closing && !has_waiting(ch)) {
        ch->is_lost = true;
        wire_timer_stop(&ch->timer);
        if (ch->on_lost)
            ch->on_lost(ch->ctx); /* may close it; it is freed from the loop only */
    }
    if (ch->is_closing && rpc_list_is_empty(&ch->calls) && !ch->watch.is_busy &&
        !ch->deliver.is_busy)
        channel_free(ch);
}

static void channel_doom(struct grpc_chan *ch)
{
    if (ch->is_doomed)
        return;
    ch->is_doomed = true;
    ch->chan.is_dead = true;
    wire_timer_set(ch->rt, &ch->timer, DOOMED_MS);
    chan_wake(&ch->chan); /* channel_check, when no call is open */
}

static void on_state(struct wire_op *op, bool ok);

static void channel_watch(struct grpc_chan *ch)
{
    grpc_channel_watch_connectivity_state(ch->channel, ch->state,
                                          gpr_inf_future(GPR_CLOCK_MONOTONIC), ch->rt->cq,
                                          wire_op_start(&ch->watch, on_state));
}

static void on_state(struct wire_op *op, bool ok)
{
    struct grpc_chan *ch = CONTAINER_OF(op, struct grpc_chan, watch);
    (void)ok;
    if (ch->is_closing) {
        channel_check(ch);
        return;
    }
    ch->state = grpc_channel_check_connectivity_state(ch->channel, 0);
    if (ch->state == GRPC_CHANNEL_READY) {
        bool is_news = !ch->is_told;
        ch->was_ready = ch->is_told = true;
        wire_timer_stop(&ch->timer);
        channel_watch(ch);
        if (is_news && ch->on_ready)
            ch->on_ready(ch->ctx);
        return;
    }
    if (ch->was_ready || ch->state == GRPC_CHANNEL_TRANSIENT_FAILURE ||
        ch->state == GRPC_CHANNEL_SHUTDOWN) {
        channel_doom(ch);
        return; /* nothing more is to be learnt */
    }
    channel_watch(ch);
}

/* Connecting took too long, or calls outlive their connection. */
static void on_timer(struct wire_timer *t)
{
    struct grpc_chan *ch = CONTAINER_OF(t, struct grpc_chan, timer);
    char text[600];
    int code = ch->was_ready ? ACCEL_ECLOSED : ACCEL_EUNAVAIL;
    snprintf(text, sizeof(text),
             ch->was_ready ? "the connection to %s ended"
                           : "%s does not answer\n"
                             "why: neither an answer to its name nor a connection came in time\n"
                             "try: is the address right? may this machine reach it, and its name "
                             "server?",
             ch->target);
    channel_doom(ch);
    struct rpc_list now;
    rpc_list_init(&now);
    rpc_list_splice(&now, &ch->calls);
    while (!rpc_list_is_empty(&now)) { /* callbacks may cancel any of them */
        struct sent *c = CONTAINER_OF(now.next, struct sent, node);
        rpc_list_remove(&c->node);
        rpc_list_append(&ch->calls, &c->node);
        grpc_call_cancel(c->call, NULL);
        if (c->id != 0)
            sent_end(c, code, text);
    }
    chan_wake(&ch->chan);
}

static void on_channel_close(struct grpc_chan *ch)
{
    for (struct rpc_list *node = ch->calls.next; node != &ch->calls; node = node->next) {
        struct sent *c = CONTAINER_OF(node, struct sent, node);
        sent_forget(c);
        grpc_call_cancel(c->call, NULL);
    }
}

static void channel_close(struct rpc_channel *channel, void (*on_closed)(void *), void *ctx)
{
    struct grpc_chan *ch = (struct grpc_chan *)channel;
    CHECK(!ch->is_closing);
    ch->is_closing = true;
    ch->on_closed = on_closed;
    ch->closed_ctx = ctx;
    wire_timer_stop(&ch->timer);
    rpc_chan_fail(&ch->chan, "the connection was closed");
    on_channel_close(ch);
    grpc_channel_destroy(ch->channel); /* calls and the watch hold it until they are back */
    chan_wake(&ch->chan);
}

static const struct rpc_channel_ops channel_ops = {rpc_chan_start, rpc_chan_send, rpc_chan_cancel,
                                                   channel_close};

/* --- making one --- */

static grpc_arg int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

static grpc_channel *make_channel(const struct remote_channel_config *config, const char *target,
                                  grpc_channel_credentials *creds)
{
    int time_ms = (int)(config->keepalive_time_ms ? config->keepalive_time_ms : KEEPALIVE_TIME_MS);
    int wait_ms =
        (int)(config->keepalive_timeout_ms ? config->keepalive_timeout_ms : KEEPALIVE_WAIT_MS);
    int connect_ms = (int)(config->connect_timeout_ms ? config->connect_timeout_ms : CONNECT_MS);
    const char *name = config->server_name ? config->server_name : REMOTE_SERVER_NAME;
    grpc_arg args[] = {
        {.type = GRPC_ARG_STRING,
         .key = (char *)GRPC_SSL_TARGET_NAME_OVERRIDE_ARG,
         .value.string = (char *)name},
        int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        int_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
        int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1), /* a new channel is a new connection */
        int_arg(GRPC_ARG_ENABLE_RETRIES, 0),
        int_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0),
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)LIMIT_FRAME_BYTES),
        int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1),
        int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
        int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, time_ms),
        int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, wait_ms),
        int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, connect_ms), /* also of the first try */
        /* Half: a name of the hosts file is asked for as IPv6 too, and used after this time. */
        int_arg(GRPC_ARG_DNS_ARES_QUERY_TIMEOUT_MS, connect_ms / 2),
        int_arg(GRPC_ARG_CLIENT_IDLE_TIMEOUT_MS, INT32_MAX),
    };
    grpc_channel_args all = {ARRAY_LEN(args), args};
    return grpc_channel_create(target, creds, &all);
}

int wire_channel_create(uv_loop_t *loop, const struct remote_channel_config *config,
                        struct rpc_channel **ret_channel, struct accel_error *err)
{
    bool is_v6 = strchr(config->host, ':') != NULL && config->host[0] != '[';
    char target[320];
    int r = wire_tls_check(&config->tls, false, err);
    if (r < 0)
        return r;
    struct grpc_chan *ch = xcalloc(1, sizeof(*ch));
    snprintf(ch->target, sizeof(ch->target), is_v6 ? "[%.256s]:%u" : "%.256s:%u", config->host,
             config->port);
    snprintf(target, sizeof(target), "dns:///%s", ch->target);
    ch->rt = wire_runtime_get(loop);
    ch->by_slot = xcalloc(LIMIT_CALLS_PER_CONNECTION, sizeof(struct sent *));
    rpc_list_init(&ch->calls);
    rpc_chan_init(&ch->chan, &channel_ops, &chan_hooks);
    wire_timer_init(&ch->timer, on_timer);
    ch->on_ready = config->on_ready;
    ch->on_lost = config->on_lost;
    ch->ctx = config->ctx;
    grpc_ssl_pem_key_cert_pair pair = {config->tls.key_pem, config->tls.cert_pem};
    grpc_channel_credentials *creds = grpc_ssl_credentials_create_ex(
        config->tls.ca_pem, config->tls.cert_pem ? &pair : NULL, NULL, NULL);
    ch->channel = make_channel(config, target, creds);
    grpc_channel_credentials_release(creds);
    ch->state = grpc_channel_check_connectivity_state(ch->channel, 1);
    channel_watch(ch);
    wire_timer_set(ch->rt, &ch->timer,
                   config->connect_timeout_ms ? config->connect_timeout_ms : CONNECT_MS);
    *ret_channel = &ch->chan.base;
    return 0;
}
