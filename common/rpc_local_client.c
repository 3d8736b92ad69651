/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client of rpc_local: one channel on one connected socket. The table of calls is in rpc.c, the
 * bytes are moved by rpc_local.c; here is the life of a channel: open, lost (the peer went; calls
 * fail, the object stays until its owner closes it), closing. Nothing here connects or reconnects:
 * that is a policy of the owner.
 */
#include <string.h>

#include "common/rpc_local.h"
#include "common/rpc_local_internal.h"

struct local_channel {
    struct rpc_chan chan;
    struct rpc_stream stream;
    struct rpc_pump pump;
    void (*on_lost)(void *ctx);
    void *ctx;
    void (*on_closed)(void *ctx);
    void *closed_ctx;
    unsigned handles; /* open ones */
    bool is_closing;
};

static struct local_channel *stream_channel(struct rpc_stream *s)
{
    return CONTAINER_OF(s, struct local_channel, stream);
}

static void handle_closed(struct local_channel *ch)
{
    if (--ch->handles > 0)
        return;
    while (!rpc_list_is_empty(&ch->chan.failed)) /* begun by the last callbacks */
        rpc_chan_deliver(&ch->chan);
    void (*on_closed)(void *) = ch->on_closed;
    void *ctx = ch->closed_ctx;
    rpc_chan_done(&ch->chan);
    rpc_pump_done(&ch->pump);
    free(ch);
    if (on_closed)
        on_closed(ctx);
}

static void on_pump_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

static int on_channel_frame(struct rpc_stream *s, const uint8_t *p, size_t len)
{
    return rpc_chan_on_frame(&stream_channel(s)->chan, p, len);
}

static void on_channel_lost(struct rpc_stream *s)
{
    struct local_channel *ch = stream_channel(s);
    rpc_chan_fail(&ch->chan, "the connection was closed by the other side");
    rpc_chan_deliver(&ch->chan);
    if (!ch->is_closing && ch->on_lost)
        ch->on_lost(ch->ctx);
}

static void on_channel_stream_closed(struct rpc_stream *s)
{
    handle_closed(stream_channel(s));
}

static const struct rpc_stream_hooks channel_stream_hooks = {on_channel_frame, on_channel_lost,
                                                             on_channel_stream_closed};

static void on_channel_turn(struct rpc_pump *p)
{
    struct local_channel *ch = CONTAINER_OF(p, struct local_channel, pump);
    rpc_chan_deliver(&ch->chan);
    if (ch->is_closing && !uv_is_closing((uv_handle_t *)&p->check))
        rpc_pump_close(p, on_pump_closed);
}

static void channel_emit(struct rpc_chan *chan, const struct rpc_frame *f)
{
    rpc_stream_write(&CONTAINER_OF(chan, struct local_channel, chan)->stream, f);
}

static void channel_wake(struct rpc_chan *chan)
{
    rpc_pump_wake(&CONTAINER_OF(chan, struct local_channel, chan)->pump);
}

static const struct rpc_chan_hooks channel_hooks = {channel_emit, channel_wake};

static void channel_close(struct rpc_channel *channel, void (*on_closed)(void *), void *ctx)
{
    struct local_channel *ch = (struct local_channel *)channel;
    CHECK(!ch->is_closing);
    ch->is_closing = true;
    ch->on_closed = on_closed;
    ch->closed_ctx = ctx;
    if (!ch->stream.is_closing) {
        rpc_stream_flush(&ch->stream); /* a cancel, say; what the socket takes at once */
        rpc_stream_close(&ch->stream);
    }
    rpc_chan_fail(&ch->chan, "the connection was closed");
    rpc_pump_wake(&ch->pump);
}

static const struct rpc_channel_ops channel_ops = {rpc_chan_start, rpc_chan_send, rpc_chan_cancel,
                                                   channel_close};

int rpc_local_channel_create(uv_loop_t *loop, int fd, void (*on_lost)(void *ctx), void *ctx,
                             struct rpc_channel **ret_channel, struct accel_error *err)
{
    AUTO_FREE struct local_channel *ch = xcalloc(1, sizeof(*ch));
    /* The stream first: uv_poll_init is the only one that can fail, and then uv knows no handle of
     * ours yet. */
    ch->pump.check.loop = loop;
    int r = rpc_stream_init(&ch->stream, &ch->pump, fd, &channel_stream_hooks, err);
    if (r < 0)
        return r;
    rpc_pump_init(&ch->pump, loop, on_channel_turn, ch);
    rpc_chan_init(&ch->chan, &channel_ops, &channel_hooks);
    ch->handles = 3;
    ch->on_lost = on_lost;
    ch->ctx = ctx;
    *ret_channel = &ch->chan.base;
    ch = NULL;
    return 0;
}
