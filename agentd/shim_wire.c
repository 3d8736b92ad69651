/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shim's side of the talk with acceld: who owns us, what is told, what is obeyed, and stdin of
 * rank 0. Never waits for acceld: what it does not read stays in a buffer that the number of
 * ranks bounds, and a broken connection changes nothing for the ranks.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agentd/limits_cgroup.h"
#include "agentd/shim_internal.h"

/* The largest that acceld has for us: an exchange. */
#define FRAME_BYTES (LIMIT_FENCE_JOINED_BYTES + 4096u)

/* ---- connections ---- */

static void conn_open(struct shim_conn *c, int fd)
{
    *c = (struct shim_conn){.fd = fd};
    codec_reader_init(&c->in, FRAME_BYTES);
    str_init(&c->out);
}

static void conn_close(struct shim_conn *c)
{
    if (c->fd >= 0) {
        close(c->fd);
        codec_reader_done(&c->in);
        str_done(&c->out);
    }
    *c = (struct shim_conn){.fd = -1};
}

static void send_up(struct shim *s, Accel__V1__ShimUp *up)
{
    if (s->conn.fd >= 0) {
        codec_add(&s->conn.out, &up->base);
    }
}

/* What is enforced, for people: borrowed from s. */
static size_t limit_texts(const struct shim *s, char **texts)
{
    struct limits *limits = (struct limits *)s->start->limits;
    for (size_t i = 0; i < limits->text_count; i++) {
        texts[i] = limits->texts[i];
    }
    return limits->text_count;
}

static void send_hello(struct shim *s)
{
    char *texts[LIMIT_TEXTS];
    Accel__V1__ShimUp up = ACCEL__V1__SHIM_UP__INIT;
    Accel__V1__ShimHello hello = ACCEL__V1__SHIM_HELLO__INIT;
    AUTO_FREE Accel__V1__RankExit *exits = xcalloc(s->spec->n_ranks, sizeof(*exits));
    AUTO_FREE Accel__V1__RankExit **list = xcalloc(s->spec->n_ranks, sizeof(*list));
    for (size_t i = 0; i < s->rank_count; i++) {
        rank_fill_exit(&s->ranks[i], &exits[i]);
        list[i] = &exits[i];
        s->ranks[i].is_told = s->ranks[i].is_reaped;
    }
    hello.job_id = s->spec->job_id;
    hello.attempt = s->spec->attempt;
    hello.era = s->spec->era;
    hello.shim_pid = (uint32_t)s->pid;
    hello.started = s->is_started;
    hello.n_ranks = s->rank_count;
    hello.ranks = list;
    hello.n_limits = limit_texts(s, texts);
    hello.limits = texts;
    up.body_case = ACCEL__V1__SHIM_UP__BODY_HELLO;
    up.hello = &hello;
    send_up(s, &up);
}

void wire_init(struct shim *s, int conn_fd)
{
    s->conn.fd = -1;
    for (size_t i = 0; i < SHIM_PENDING_CONNS; i++) {
        s->pending[i].fd = -1;
    }
    str_init(&s->stdin_buf);
    if (conn_fd >= 0) {
        conn_open(&s->conn, conn_fd);
        shim_epoll(s, EPOLL_CTL_ADD, conn_fd, EPOLLIN, SOURCE_CONN, 0);
        send_hello(s);
        s->is_corked = true;
    }
}

void wire_flush(struct shim *s)
{
    struct shim_conn *c = &s->conn;
    size_t done = 0;
    if (c->fd < 0 || s->is_corked) {
        return;
    }
    while (done < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + done, c->out.len - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            break;
        }
        if (n < 0) {
            conn_close(c);
            return;
        }
        done += (size_t)n;
    }
    if (done > 0) {
        str_drop_front(&c->out, done);
    }
    if ((c->out.len > 0) != c->wants_write) {
        c->wants_write = c->out.len > 0;
        shim_epoll(s, EPOLL_CTL_MOD, c->fd, EPOLLIN | (c->wants_write ? EPOLLOUT : 0), SOURCE_CONN,
                   0);
    }
}

bool wire_is_flushed(const struct shim *s)
{
    return s->conn.fd < 0 || s->conn.out.len == 0;
}

void wire_on_listen(struct shim *s)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ||
        (peer.uid != geteuid() && peer.uid != 0 && peer.uid != s->start->agent_uid)) {
        close(fd);
        return;
    }
    size_t at = 0;
    while (at < SHIM_PENDING_CONNS && s->pending[at].fd >= 0) {
        at++;
    }
    if (at == SHIM_PENDING_CONNS) { /* the oldest has had its time */
        conn_close(&s->pending[0]);
        memmove(&s->pending[0], &s->pending[1], sizeof(s->pending[0]) * (SHIM_PENDING_CONNS - 1));
        at = SHIM_PENDING_CONNS - 1;
        s->pending[at].fd = -1;
        for (size_t i = 0; i < at; i++) {
            shim_epoll(s, EPOLL_CTL_MOD, s->pending[i].fd, EPOLLIN, SOURCE_PENDING, i);
        }
    }
    conn_open(&s->pending[at], fd);
    shim_epoll(s, EPOLL_CTL_ADD, fd, EPOLLIN, SOURCE_PENDING, at);
}

/* ---- what is told ---- */

void wire_send_started(struct shim *s)
{
    Accel__V1__ShimUp up = ACCEL__V1__SHIM_UP__INIT;
    Accel__V1__ShimStarted started = ACCEL__V1__SHIM_STARTED__INIT;
    char *texts[LIMIT_TEXTS];
    AUTO_FREE Accel__V1__RankExit *exits = xcalloc(s->rank_count, sizeof(*exits));
    AUTO_FREE Accel__V1__RankExit **list = xcalloc(s->rank_count, sizeof(*list));
    for (size_t i = 0; i < s->rank_count; i++) {
        Accel__V1__RankExit full;
        rank_fill_exit(&s->ranks[i], &full);
        accel__v1__rank_exit__init(&exits[i]);
        exits[i].rank = full.rank;
        exits[i].pid = full.pid;
        exits[i].start_ms = full.start_ms;
        exits[i].error = full.error;
        exits[i].start_errno = full.start_errno;
        exits[i].exit_code = full.error[0] != '\0' ? full.exit_code : 0;
        list[i] = &exits[i];
    }
    started.n_ranks = s->rank_count;
    started.ranks = list;
    started.n_limits = limit_texts(s, texts);
    started.limits = texts;
    up.body_case = ACCEL__V1__SHIM_UP__BODY_STARTED;
    up.started = &started;
    s->is_corked = false;
    s->is_started = true;
    send_up(s, &up);
}

void wire_send_exits(struct shim *s)
{
    if (!s->is_started) {
        return;
    }
    for (size_t i = 0; i < s->exit_count; i++) {
        struct shim_rank *k = &s->ranks[s->exit_order[i]];
        Accel__V1__ShimUp up = ACCEL__V1__SHIM_UP__INIT;
        Accel__V1__RankExit x;
        if (k->is_told) {
            continue;
        }
        k->is_told = s->conn.fd >= 0;
        rank_fill_exit(k, &x);
        up.body_case = ACCEL__V1__SHIM_UP__BODY_EXITED;
        up.exited = &x;
        send_up(s, &up);
    }
}

void wire_send_gone(struct shim *s, const Accel__V1__ExitRecord *record)
{
    Accel__V1__ShimUp up = ACCEL__V1__SHIM_UP__INIT;
    up.body_case = ACCEL__V1__SHIM_UP__BODY_GONE;
    up.gone = (Accel__V1__ExitRecord *)record;
    send_up(s, &up);
}

void wire_output_changed(struct shim *s)
{
    Accel__V1__ShimUp up = ACCEL__V1__SHIM_UP__INIT;
    Accel__V1__ShimOutput output = ACCEL__V1__SHIM_OUTPUT__INIT;
    bool is_news = s->is_told_any ? s->changes != s->told_changes : s->changes > 0;
    if (!s->is_watched || !is_news) {
        return;
    }
    s->is_watched = false;
    s->is_told_any = true;
    s->told_changes = s->changes;
    output.grew = true;
    up.body_case = ACCEL__V1__SHIM_UP__BODY_OUTPUT;
    up.output = &output;
    send_up(s, &up);
}

static void send_input_done(struct shim *s, uint64_t id, bool closed)
{
    Accel__V1__ShimUp up = ACCEL__V1__SHIM_UP__INIT;
    Accel__V1__ShimInputDone done = ACCEL__V1__SHIM_INPUT_DONE__INIT;
    done.id = id;
    done.closed = closed;
    up.body_case = ACCEL__V1__SHIM_UP__BODY_INPUT_DONE;
    up.input_done = &done;
    send_up(s, &up);
}

void wire_send_fence(struct shim *s, uint32_t number, const void *data, size_t len)
{
    Accel__V1__ShimUp up = ACCEL__V1__SHIM_UP__INIT;
    Accel__V1__ShimFence fence = ACCEL__V1__SHIM_FENCE__INIT;
    fence.number = number;
    fence.era = s->spec->era;
    fence.data = (ProtobufCBinaryData){.len = len, .data = (uint8_t *)data};
    up.body_case = ACCEL__V1__SHIM_UP__BODY_FENCE;
    up.fence = &fence;
    send_up(s, &up);
}

/* ---- stdin of rank 0 ---- */

void wire_close_stdin(struct shim *s)
{
    base_close_fd(&s->stdin_fd);
    s->stdin_fd = -1;
    str_clear(&s->stdin_buf);
    for (size_t i = 0; i < s->input_count; i++) {
        send_input_done(s, s->inputs[i].id, true);
    }
    s->input_count = 0;
}

/* Answers the inputs whose bytes have all been taken. */
static void answer_inputs(struct shim *s)
{
    size_t n = 0;
    while (n < s->input_count && s->inputs[n].end <= s->stdin_taken) {
        send_input_done(s, s->inputs[n].id, false);
        n++;
    }
    memmove(&s->inputs[0], &s->inputs[n], (s->input_count - n) * sizeof(s->inputs[0]));
    s->input_count -= n;
}

static void push_stdin(struct shim *s)
{
    size_t done = 0;
    while (s->stdin_fd >= 0 && done < s->stdin_buf.len) {
        ssize_t n = write(s->stdin_fd, s->stdin_buf.data + done, s->stdin_buf.len - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            break;
        }
        if (n < 0) {
            wire_close_stdin(s); /* the rank closed its end */
            return;
        }
        done += (size_t)n;
    }
    s->stdin_taken += done;
    str_drop_front(&s->stdin_buf, done);
    answer_inputs(s);
    if (s->stdin_fd >= 0 && s->stdin_buf.len == 0 && s->stdin_eof) {
        close(s->stdin_fd);
        s->stdin_fd = -1;
    }
    if (s->stdin_fd >= 0) {
        shim_epoll(s, EPOLL_CTL_MOD, s->stdin_fd, s->stdin_buf.len > 0 ? EPOLLOUT : 0, SOURCE_STDIN,
                   0);
    }
}

void wire_on_stdin(struct shim *s, uint32_t events)
{
    if (s->stdin_fd >= 0 && (events & EPOLLERR) != 0) {
        wire_close_stdin(s);
    } else if (s->stdin_fd >= 0) {
        push_stdin(s);
    }
}

static void on_input(struct shim *s, const Accel__V1__ShimInput *in)
{
    const uint8_t *data = in->data.data;
    size_t len = in->data.len;
    if (s->stdin_fd < 0) {
        /* After an end of input that we were told of, a repeated chunk was taken, not refused. */
        send_input_done(s, in->id, !(s->stdin_eof && in->offset + len <= s->stdin_taken));
        return;
    }
    if (s->input_count == SHIM_INPUTS) {
        wire_close_stdin(s); /* who does not wait for the answers gets told that it is over */
        send_input_done(s, in->id, true);
        return;
    }
    if (!s->has_input) { /* the client goes on counting where the attempt before has ended */
        s->has_input = true;
        s->stdin_next = s->stdin_taken = in->offset;
    }
    if (in->offset < s->stdin_next) { /* repeated, whole or in part */
        size_t known = (size_t)MIN(s->stdin_next - in->offset, (uint64_t)len);
        data += known;
        len -= known;
    }
    str_add(&s->stdin_buf, data, len);
    s->stdin_next += len;
    s->stdin_eof = s->stdin_eof || in->eof;
    s->inputs[s->input_count++] =
        (struct shim_input){.id = in->id, .end = MIN(in->offset + in->data.len, s->stdin_next)};
    push_stdin(s);
}

/* ---- what is obeyed ---- */

static void shim_obey_dispatch(struct shim *s, const Accel__V1__ShimDown *down)
{
    switch (down->body_case) {
    case ACCEL__V1__SHIM_DOWN__BODY_OWN:
        s->incarnation = MAX(s->incarnation, down->own->incarnation);
        break;
    case ACCEL__V1__SHIM_DOWN__BODY_STOP:
        shim_stop(s, down->stop->grace_ms, down->stop->cause);
        break;
    case ACCEL__V1__SHIM_DOWN__BODY_SIGNAL:
        if (down->signal->signo > 0 && down->signal->signo < NSIG) {
            shim_signal(s, down->signal->rank, down->signal->signo);
        }
        break;
    case ACCEL__V1__SHIM_DOWN__BODY_INPUT: on_input(s, down->input); break;
    case ACCEL__V1__SHIM_DOWN__BODY_WATCH:
        s->is_watched = true;
        wire_output_changed(s);
        break;
    case ACCEL__V1__SHIM_DOWN__BODY_FENCE_DONE: shim_pmi_fence_done(s, down->fence_done); break;
    case ACCEL__V1__SHIM_DOWN__BODY__NOT_SET: /* of a newer acceld: nothing we know */
    default: break;
    }
}

/* Reads what is there; false: the connection is over. */
static bool conn_read(struct shim_conn *c)
{
    static char buf[SHIM_READ_BYTES];
    ssize_t n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);
    if (n < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    codec_reader_feed(&c->in, buf, (size_t)n);
    return n > 0;
}

/* 1 and the next message (caller frees it), 0, or ACCEL_EPROTO. */
static int conn_next(struct shim_conn *c, Accel__V1__ShimDown **ret_down)
{
    const uint8_t *data;
    size_t len;
    int r = codec_reader_next(&c->in, &data, &len);
    if (r <= 0) {
        return r;
    }
    *ret_down = accel__v1__shim_down__unpack(&codec_memory, len, data);
    return *ret_down != NULL ? 1 : ACCEL_EPROTO;
}

static void obey_all(struct shim *s)
{
    Accel__V1__ShimDown *down;
    int r = 0;
    while (s->conn.fd >= 0 && (r = conn_next(&s->conn, &down)) > 0) {
        shim_obey_dispatch(s, down);
        accel__v1__shim_down__free_unpacked(down, NULL);
    }
    if (r < 0) {
        conn_close(&s->conn);
    }
}

void wire_on_conn(struct shim *s, uint32_t events)
{
    if (s->conn.fd < 0) {
        return;
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && !conn_read(&s->conn)) {
        obey_all(s); /* what it said last counts */
        conn_close(&s->conn);
        s->is_corked = false;
        return;
    }
    obey_all(s);
}

/* The connection becomes the one: the old acceld is gone, or is to be ignored from now on. */
static void adopt(struct shim *s, size_t index, uint64_t incarnation)
{
    conn_close(&s->conn);
    s->conn = s->pending[index];
    s->pending[index] = (struct shim_conn){.fd = -1};
    s->conn.wants_write = false;
    s->incarnation = incarnation;
    s->is_corked = false;
    s->is_told_any = false;
    s->is_watched = false;
    s->input_count = 0; /* asked by the old one; the new one asks again, and offsets tell */
    shim_epoll(s, EPOLL_CTL_MOD, s->conn.fd, EPOLLIN, SOURCE_CONN, 0);
    send_hello(s);
    shim_pmi_tell_again(s);
}

void wire_on_pending(struct shim *s, size_t index)
{
    struct shim_conn *c = &s->pending[index];
    Accel__V1__ShimDown *down = NULL;
    if (c->fd < 0) {
        return;
    }
    bool is_open = conn_read(c);
    int r = conn_next(c, &down);
    if (r == 0 && is_open) {
        return;
    }
    if (r > 0 && is_open && down->body_case == ACCEL__V1__SHIM_DOWN__BODY_OWN &&
        down->own->incarnation >= s->incarnation && s->phase != SHIM_ENDED) {
        adopt(s, index, down->own->incarnation);
        obey_all(s);
    } else {
        conn_close(c);
    }
    if (r > 0) {
        accel__v1__shim_down__free_unpacked(down, NULL);
    }
}
