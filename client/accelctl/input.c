/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our stdin to rank 0. uv_poll would make the descriptor non-blocking, and the shell shares it; so
 * it sits in an epoll set of its own, and uv polls the set. A regular file cannot be polled and
 * need not be. A terminal is read only while this command is in its foreground, else the kernel
 * would stop us.
 */
#include "client/accelctl/input.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "accel/v1/job.pb-c.h"
#include "common/limits.h"

#define RETRY_FIRST_MS   100 /* after a refused chunk; doubling; until the job has ended */
#define RETRY_LONGEST_MS 2000

struct input {
    struct session *session;
    uint64_t job_id;
    int epoll_fd; /* -1: stdin is a regular file */
    uv_poll_t poll;
    uv_idle_t idle; /* in place of poll for a regular file */
    uint8_t *chunk;
    size_t chunk_len;
    uint64_t offset; /* of chunk in the whole input */
    bool has_chunk, is_eof, is_over, is_allowed;
    struct rpc_call *call;
    uv_timer_t retry;
    uint64_t retry_ms; /* 0: the last chunk was not refused */
    unsigned handles;  /* open ones */
};

bool input_is_wanted(void)
{
    struct stat st;
    int flags = fcntl(STDIN_FILENO, F_GETFL);

    if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY || fstat(STDIN_FILENO, &st) < 0)
        return false;
    if (S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))
        return false;
    return !isatty(STDIN_FILENO) || tcgetpgrp(STDIN_FILENO) == getpgrp();
}

static void stop_reading(struct input *in)
{
    if (in->epoll_fd >= 0)
        uv_poll_stop(&in->poll);
    else
        uv_idle_stop(&in->idle);
}

static void send_chunk(struct input *in);

static void read_chunk(struct input *in)
{
    ssize_t n = read(STDIN_FILENO, in->chunk, LIMIT_INPUT_CHUNK_BYTES);

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    stop_reading(in);
    in->chunk_len = n > 0 ? (size_t)n : 0;
    in->is_eof = n <= 0;
    in->has_chunk = true;
    send_chunk(in);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    read_chunk(poll->data);
}

static void on_idle(uv_idle_t *idle)
{
    read_chunk(idle->data);
}

static void start_reading(struct input *in)
{
    if (in->epoll_fd >= 0)
        uv_poll_start(&in->poll, UV_READABLE, on_readable);
    else
        uv_idle_start(&in->idle, on_idle);
}

static void on_input_message(void *ctx, const ProtobufCMessage *msg)
{
    struct input *in = ctx;

    if (((const Accel__V1__InputReply *)msg)->closed)
        in->is_over = true;
}

static void on_retry(uv_timer_t *timer)
{
    input_resume(timer->data);
}

static void on_input_end(void *ctx, int code, const char *text)
{
    struct input *in = ctx;

    in->call = NULL;
    if (code == ACCEL_ECLOSED)
        return; /* input_resume */
    if (code < 0) {
        /* Between two attempts, the chunk before is not taken yet, the coordinator cannot write
         * its records: nothing that the job tells will say when that is over. The offset makes
         * a repetition safe; the end of the job ends it. */
        in->retry_ms = in->retry_ms ? MIN(in->retry_ms * 2, (uint64_t)RETRY_LONGEST_MS)
                                    : (uint64_t)RETRY_FIRST_MS;
        uv_timer_start(&in->retry, on_retry, in->retry_ms, 0);
        return;
    }
    in->retry_ms = 0;
    in->offset += in->chunk_len;
    in->has_chunk = false;
    if (in->is_eof)
        in->is_over = true;
    if (!in->is_over)
        start_reading(in);
}

static void send_chunk(struct input *in)
{
    static const struct rpc_call_handlers handlers = {on_input_message, on_input_end};
    Accel__V1__InputRequest req = ACCEL__V1__INPUT_REQUEST__INIT;
    struct rpc_channel *ch = session_channel(in->session);

    if (!ch || in->call || !in->is_allowed)
        return;
    req.job_id = in->job_id;
    req.offset = in->offset;
    req.data.data = in->chunk;
    req.data.len = in->chunk_len;
    req.eof = in->is_eof;
    in->call = rpc_channel_call(ch, "/accel.v1.Jobs/Input", &req.base,
                                &accel__v1__input_reply__descriptor, &handlers, in);
}

struct input *input_create(struct session *s, uint64_t job_id)
{
    struct input *in = xcalloc(1, sizeof *in);
    struct epoll_event ev = {.events = EPOLLIN};

    in->session = s;
    in->job_id = job_id;
    in->chunk = xcalloc(1, LIMIT_INPUT_CHUNK_BYTES);
    in->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (in->epoll_fd >= 0 && epoll_ctl(in->epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &ev) < 0)
        base_close_fd(&in->epoll_fd);
    if (in->epoll_fd >= 0) {
        uv_poll_init(session_loop(s), &in->poll, in->epoll_fd);
        in->poll.data = in;
    } else {
        uv_idle_init(session_loop(s), &in->idle);
        in->idle.data = in;
    }
    uv_timer_init(session_loop(s), &in->retry);
    in->retry.data = in;
    in->handles = 2;
    return in;
}

static void on_closed(uv_handle_t *handle)
{
    struct input *in = handle->data;

    if (--in->handles > 0)
        return;
    base_close_fd(&in->epoll_fd);
    free(in->chunk);
    free(in);
}

void input_destroy(struct input *in)
{
    if (!in)
        return;
    if (in->call)
        rpc_call_cancel(STEAL_PTR(in->call));
    uv_close(in->epoll_fd >= 0 ? (uv_handle_t *)&in->poll : (uv_handle_t *)&in->idle, on_closed);
    uv_close((uv_handle_t *)&in->retry, on_closed);
}

void input_go(struct input *in)
{
    if (in->is_allowed) {
        if (in->retry_ms > 0)
            input_resume(in);
        return;
    }
    in->is_allowed = true;
    start_reading(in);
}

void input_resume(struct input *in)
{
    if (in->has_chunk && !in->is_over)
        send_chunk(in);
}
