/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The byte streams of both ends of rpc_local (rpc_local_internal.h): sockets and the end of the
 * loop's turn. uv_poll with our own read and send rather than uv_pipe: a unary call then costs one
 * of each at either side and no allocation for the transfer. Neighbours: rpc_local.c, the server,
 * and rpc_local_client.c. Nothing here may know a call.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/rpc_local_internal.h"

/* --- the end of the turn --- */

static void stream_turn(struct rpc_stream *s);

static void on_check(uv_check_t *check)
{
    struct rpc_pump *p = CONTAINER_OF(check, struct rpc_pump, check);
    p->is_awake = false;
    while (!rpc_list_is_empty(&p->dirty)) {
        struct rpc_stream *s = CONTAINER_OF(p->dirty.next, struct rpc_stream, dirty);
        rpc_list_remove(&s->dirty);
        stream_turn(s);
    }
    p->on_turn(p);
    if (!p->is_awake && !uv_is_closing((uv_handle_t *)check)) {
        uv_check_stop(&p->check);
        uv_idle_stop(&p->idle);
    }
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* it only keeps poll from blocking */
}

void rpc_pump_init(struct rpc_pump *p, uv_loop_t *loop, void (*on_turn)(struct rpc_pump *p),
                   void *data)
{
    rpc_list_init(&p->dirty);
    p->scratch = xrealloc(NULL, RPC_SCRATCH_BYTES);
    p->is_awake = false;
    p->on_turn = on_turn;
    uv_check_init(loop, &p->check);
    uv_idle_init(loop, &p->idle);
    p->check.data = p->idle.data = data;
}

void rpc_pump_wake(struct rpc_pump *p)
{
    if (p->is_awake || uv_is_closing((uv_handle_t *)&p->check))
        return;
    p->is_awake = true;
    uv_check_start(&p->check, on_check);
    uv_idle_start(&p->idle, on_idle);
}

void rpc_pump_close(struct rpc_pump *p, uv_close_cb on_closed)
{
    uv_close((uv_handle_t *)&p->check, on_closed);
    uv_close((uv_handle_t *)&p->idle, on_closed);
}

void rpc_pump_done(struct rpc_pump *p)
{
    CHECK(rpc_list_is_empty(&p->dirty));
    free(p->scratch);
    p->scratch = NULL;
}

/* --- streams --- */

static void on_stream_poll(uv_poll_t *poll, int status, int events);

/* Asks uv for what is wanted now. */
static void stream_watch(struct rpc_stream *s)
{
    int want = (s->is_paused ? 0 : UV_READABLE) | (s->is_blocked ? UV_WRITABLE : 0);
    if (s->is_closing || want == s->events)
        return;
    s->events = want;
    int r = want ? uv_poll_start(&s->poll, want, on_stream_poll) : uv_poll_stop(&s->poll);
    CHECK(r == 0);
}

static void stream_mark(struct rpc_stream *s)
{
    if (s->is_closing || !rpc_list_is_empty(&s->dirty))
        return;
    rpc_list_append(&s->pump->dirty, &s->dirty);
    rpc_pump_wake(s->pump);
}

int rpc_stream_init(struct rpc_stream *s, struct rpc_pump *pump, int fd,
                    const struct rpc_stream_hooks *hooks, struct accel_error *err)
{
    memset(s, 0, sizeof(*s));
    s->fd = fd;
    s->pump = pump;
    s->hooks = hooks;
    rpc_list_init(&s->dirty);
    int r = uv_poll_init(pump->check.loop, &s->poll, fd); /* sets O_NONBLOCK */
    if (r < 0)
        return error_sys(err, -r, "cannot watch descriptor %d", fd);
    stream_watch(s);
    return 0;
}

static void on_stream_closed(uv_handle_t *handle)
{
    struct rpc_stream *s = CONTAINER_OF((uv_poll_t *)handle, struct rpc_stream, poll);
    s->hooks->on_closed(s);
}

void rpc_stream_close(struct rpc_stream *s)
{
    CHECK(!s->is_closing);
    s->is_closing = true;
    rpc_list_remove(&s->dirty);
    uv_close((uv_handle_t *)&s->poll, on_stream_closed);
    base_close_fd(&s->fd);
    rpc_buf_done(&s->in); /* a frame being handed out may be in it: see stream_hand_out_in */
    rpc_buf_done(&s->out);
}

void rpc_stream_break(struct rpc_stream *s)
{
    s->is_broken = true;
    stream_mark(s);
}

void rpc_stream_lose(struct rpc_stream *s)
{
    if (s->is_closing)
        return;
    rpc_stream_close(s);
    s->hooks->on_lost(s);
}

void rpc_stream_pause(struct rpc_stream *s, bool paused)
{
    if (s->is_closing || s->is_paused == paused)
        return;
    s->is_paused = paused;
    stream_watch(s);
    if (paused && s->is_deaf)
        rpc_stream_break(s); /* no read would tell us */
    if (!paused && rpc_buf_len(&s->in) > 0)
        stream_mark(s); /* frames may be waiting there */
}

void rpc_stream_flush(struct rpc_stream *s)
{
    size_t len = rpc_buf_len(&s->out);
    if (s->is_closing || len == 0)
        return;
    ssize_t n = send(s->fd, s->out.data + s->out.pos, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EINTR && errno != ENOBUFS) {
        s->is_deaf = true;
        n = (ssize_t)len;
        if (s->is_paused)
            rpc_stream_break(s); /* no read would tell us */
    }
    rpc_buf_drop(&s->out, n > 0 ? (size_t)n : 0);
    s->is_blocked = rpc_buf_len(&s->out) > 0;
    stream_watch(s);
}

void rpc_stream_write(struct rpc_stream *s, const struct rpc_frame *f)
{
    if (s->is_closing || s->is_broken || s->is_deaf)
        return;
    rpc_frame_add(&s->out, f);
    if (rpc_buf_len(&s->out) > RPC_SEND_EARLY_BYTES && !s->is_blocked)
        rpc_stream_flush(s);
    if (rpc_buf_len(&s->out) > LIMIT_SEND_QUEUE_BYTES)
        rpc_stream_break(s);
    else if (!s->is_blocked)
        stream_mark(s);
}

static uint32_t frame_len(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Hands out the whole frames at p; returns the bytes they took. Stops when somebody pauses, breaks
 * or closes the stream. */
static size_t stream_hand_out(struct rpc_stream *s, const uint8_t *p, size_t len)
{
    size_t pos = 0;
    while (len - pos >= RPC_HEADER_BYTES && !s->is_paused && !s->is_broken && !s->is_closing) {
        uint32_t n = frame_len(p + pos);
        if (n > LIMIT_FRAME_BYTES) {
            s->is_broken = true;
            break;
        }
        if (len - pos - RPC_HEADER_BYTES < n)
            break;
        int r = s->hooks->on_frame(s, p + pos + RPC_HEADER_BYTES, n);
        if (r < 0)
            s->is_broken = true;
        pos += RPC_HEADER_BYTES + n;
    }
    return pos;
}

/* The same for what was kept. The bytes are taken out of the stream while callbacks run, because
 * these may close it. */
static void stream_hand_out_in(struct rpc_stream *s)
{
    struct rpc_buf in = s->in;
    s->in = (struct rpc_buf){0};
    rpc_buf_drop(&in, stream_hand_out(s, in.data + in.pos, rpc_buf_len(&in)));
    if (s->is_closing)
        rpc_buf_done(&in);
    else
        s->in = in;
}

/* How much of the frame that has begun in s->in to ask for. What a peer announces costs no memory
 * until it comes. */
static size_t stream_missing(const struct rpc_stream *s)
{
    size_t have = rpc_buf_len(&s->in);
    if (have == 0)
        return 0;
    if (have < RPC_HEADER_BYTES)
        return RPC_HEADER_BYTES - have;
    size_t whole = RPC_HEADER_BYTES + (size_t)frame_len(s->in.data + s->in.pos);
    return MIN(whole - have, MAX(have, (size_t)RPC_SCRATCH_BYTES));
}

/* One read, and the frames in it. Returns false when there is nothing more to read now. */
static bool stream_read(struct rpc_stream *s)
{
    if (rpc_buf_len(&s->in) >= RPC_HEADER_BYTES)
        stream_hand_out_in(s); /* whole frames from before a pause */
    if (s->is_closing || s->is_broken || s->is_paused)
        return false;
    size_t missing = stream_missing(s);
    struct iovec iov[2] = {{NULL, missing}, {s->pump->scratch, RPC_SCRATCH_BYTES}};
    if (missing > 0)
        iov[0].iov_base = rpc_buf_reserve(&s->in, missing);
    ssize_t n = readv(s->fd, iov, 2);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        s->is_broken = true;
        return false;
    }
    size_t to_in = MIN((size_t)n, missing), rest = (size_t)n - to_in, done = 0;
    if (to_in > 0) {
        s->in.len += to_in;
        stream_hand_out_in(s);
    }
    if (s->is_closing || s->is_broken)
        return false;
    if (rpc_buf_len(&s->in) == 0)
        done = stream_hand_out(s, s->pump->scratch, rest);
    if (s->is_closing || s->is_broken)
        return false;
    rpc_buf_add(&s->in, s->pump->scratch + done, rest - done);
    if (to_in > 0 && rest > 0)
        stream_hand_out_in(s); /* the rest may have completed the frame that had begun */
    return !s->is_paused && !s->is_closing && !s->is_broken;
}

static void on_stream_poll(uv_poll_t *poll, int status, int events)
{
    struct rpc_stream *s = CONTAINER_OF(poll, struct rpc_stream, poll);
    if (status <
        0) { /* a reset: uv has stopped watching; what came before it is still there to be read */
        s->events = 0;
        while (!s->is_paused && stream_read(s))
            ;
        if (!s->is_paused)
            s->is_broken = true;
    } else if (events & UV_READABLE && !s->is_paused) {
        stream_read(s);
    }
    if (s->is_broken)
        rpc_stream_lose(s);
    if (events & UV_WRITABLE) {
        rpc_stream_flush(s);
        if (!s->is_blocked)
            rpc_pump_wake(s->pump); /* a stopping server waits for this */
    }
}

static void stream_turn(struct rpc_stream *s)
{
    if (!s->is_paused && !s->is_broken && rpc_buf_len(&s->in) >= RPC_HEADER_BYTES)
        stream_hand_out_in(s);
    if (!s->is_blocked)
        rpc_stream_flush(s);
    if (s->is_broken)
        rpc_stream_lose(s);
}
