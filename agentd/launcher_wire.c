/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connections of the launcher: to shims, to accel-spawn, and pidfds, all as polled descriptors
 * on the loop. Bytes and frames only: what they mean is launcher_exec.c's. Nothing here waits.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agentd/launcher_exec_internal.h"

#define READ_BYTES 65536u

/* ---- wires ---- */

static void on_wire_closed(uv_handle_t *handle)
{
    struct wire *w = handle->data;
    struct launcher_exec *l = w->l;
    codec_reader_done(&w->in);
    str_done(&w->out);
    free(w);
    launcher_handle_closed(l);
}

/* The descriptor is closed at once (the other side sees it), the memory goes when libuv says. */
void wire_close(struct wire *w)
{
    if (w != NULL && w->fd >= 0) {
        uv_poll_stop(&w->poll);
        close(w->fd);
        w->fd = -1;
        w->a = NULL;
        uv_close((uv_handle_t *)&w->poll, on_wire_closed);
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct wire *w = poll->data;
    w->on_ready(w, status < 0 ? UV_READABLE : events);
}

void wire_want(struct wire *w, int events)
{
    if (w->events != events) {
        w->events = events;
        uv_poll_start(&w->poll, events, on_poll);
    }
}

/* Owns fd, on failure too. */
struct wire *wire_open(struct launcher_exec *l, int fd, void (*on_ready)(struct wire *, int))
{
    struct wire *w = xcalloc(1, sizeof(*w));
    w->l = l;
    w->fd = fd;
    w->on_ready = on_ready;
    w->poll.data = w;
    codec_reader_init(&w->in, LIMIT_FRAME_BYTES);
    str_init(&w->out);
    if (uv_poll_init(l->loop, &w->poll, fd) < 0) {
        close(fd);
        codec_reader_done(&w->in);
        str_done(&w->out);
        free(w);
        return NULL;
    }
    l->open_handles++;
    wire_want(w, UV_READABLE);
    return w;
}

/* False: the other side is gone; reading will tell. */
void wire_flush(struct wire *w)
{
    size_t done = 0;
    while (done < w->out.len) {
        ssize_t n = send(w->fd, w->out.data + done, w->out.len - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            break;
        }
        if (n < 0) {
            done = w->out.len; /* nobody will read it; the end of the stream is read as such */
            break;
        }
        done += (size_t)n;
    }
    if (done > 0) {
        str_drop_front(&w->out, done);
    }
    wire_want(w, UV_READABLE | (w->out.len > 0 ? UV_WRITABLE : 0));
}

/* Bytes read, 0 at the end of the stream, -1: nothing there now. */
ssize_t wire_read(struct wire *w)
{
    static char buf[READ_BYTES];
    ssize_t n = recv(w->fd, buf, sizeof(buf), MSG_DONTWAIT);
    if (n < 0) {
        return errno == EAGAIN || errno == EINTR ? -1 : 0;
    }
    codec_reader_feed(&w->in, buf, (size_t)n);
    return n;
}

void send_down(struct attempt *a, const Accel__V1__ShimDown *down)
{
    codec_add(&a->wire->out, &down->base);
    wire_flush(a->wire);
}

void send_stop(struct attempt *a)
{
    Accel__V1__ShimDown down = ACCEL__V1__SHIM_DOWN__INIT;
    Accel__V1__ShimStop stop = ACCEL__V1__SHIM_STOP__INIT;
    stop.grace_ms = a->stop_grace_ms;
    stop.cause = a->stop_cause;
    down.body_case = ACCEL__V1__SHIM_DOWN__BODY_STOP;
    down.stop = &stop;
    send_down(a, &down);
}

void wire_add_own(struct str *out, uint64_t incarnation)
{
    Accel__V1__ShimDown down = ACCEL__V1__SHIM_DOWN__INIT;
    Accel__V1__ShimOwn own = ACCEL__V1__SHIM_OWN__INIT;
    own.incarnation = incarnation;
    down.body_case = ACCEL__V1__SHIM_DOWN__BODY_OWN;
    down.own = &own;
    codec_add(out, &down.base);
}

/* ---- requests to accel-spawn ---- */

void request_free(struct request *q)
{
    base_close_fd(&q->fd);
    str_done(&q->bytes);
    free(q);
}

/* Sends the rest of q; false if accel-spawn takes no more now (or is gone: reading tells). */
static bool request_send(struct launcher_exec *l, struct request *q)
{
    while (q->done < q->bytes.len) {
        char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {0};
        struct iovec iov = {.iov_base = q->bytes.data + q->done, .iov_len = q->bytes.len - q->done};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
        if (q->fd >= 0) {
            msg.msg_control = control;
            msg.msg_controllen = sizeof(control);
            struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
            c->cmsg_level = SOL_SOCKET;
            c->cmsg_type = SCM_RIGHTS;
            c->cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(c), &q->fd, sizeof(int));
        }
        ssize_t n = sendmsg(l->spawn->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return false;
        }
        base_close_fd(&q->fd);
        q->fd = -1;
        q->done += (size_t)n;
    }
    return true;
}

void requests_flush(struct launcher_exec *l)
{
    while (l->spawn != NULL && l->requests != NULL && request_send(l, l->requests)) {
        struct request *q = l->requests;
        l->requests = q->next;
        if (l->requests == NULL) {
            l->requests_end = &l->requests;
        }
        request_free(q);
    }
    if (l->spawn != NULL) {
        wire_want(l->spawn, UV_READABLE | (l->requests != NULL ? UV_WRITABLE : 0));
    }
}

void request_add(struct launcher_exec *l, const Accel__V1__SpawnRequest *msg, int fd)
{
    struct request *q = xcalloc(1, sizeof(*q));
    q->fd = fd;
    str_init(&q->bytes);
    codec_add(&q->bytes, &msg->base);
    *l->requests_end = q;
    l->requests_end = &q->next;
    requests_flush(l);
}
