/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PMI-1 for the ranks: one stream socket each, whose other end is PMI_RANK_FD in the rank. Moves
 * bytes between them and pmi.c, and exchanges between pmi.c and acceld. Never waits: a rank that
 * does not read its answers is not read from either.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agentd/pmi.h"
#include "agentd/shim_internal.h"

#define UNREAD_BYTES 65536u /* answers that a rank has not read; above, its questions wait */

struct shim_pmi {
    struct pmi *pmi;
    struct pmi_wire {
        int fd; /* -1: closed */
        uint32_t events;
    } * wires;      /* rank_count */
    uint32_t given; /* the exchange that acceld was told of */
};

void shim_pmi_init(struct shim *s)
{
    char kvsname[64];
    struct pmi_config config = {.world_size = s->spec->pmi_size,
                                .first_rank = s->spec->pmi_first_rank,
                                .local_size = (uint32_t)s->rank_count,
                                .node_count = MAX(s->spec->node_count, 1u),
                                .kvsname = kvsname};
    if (s->spec->pmi_size == 0 || s->rank_count == 0) {
        return;
    }
    snprintf(kvsname, sizeof(kvsname), "accel_%s", s->name);
    s->pmi = xcalloc(1, sizeof(*s->pmi));
    s->pmi->pmi = pmi_create(&config);
    s->pmi->wires = xcalloc(s->rank_count, sizeof(*s->pmi->wires));
    for (size_t i = 0; i < s->rank_count; i++) {
        s->pmi->wires[i].fd = -1;
    }
}

int shim_pmi_open(struct shim *s, size_t index, int *ret_theirs)
{
    int fds[2];
    if (s->pmi == NULL) {
        return 0;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        return -errno;
    }
    s->pmi->wires[index] = (struct pmi_wire){fds[0], EPOLLIN};
    shim_epoll(s, EPOLL_CTL_ADD, fds[0], EPOLLIN, SOURCE_PMI, index);
    *ret_theirs = fds[1];
    return 0;
}

static void cut(struct shim *s, size_t index)
{
    struct pmi_wire *w = s->pmi->wires;
    base_close_fd(&w[index].fd);
    w[index].fd = -1;
    pmi_closed(s->pmi->pmi, (uint32_t)index);
    for (size_t i = 0; i < s->rank_count; i++) {
        if (w[i].fd >= 0 && pmi_is_stuck(s->pmi->pmi, (uint32_t)i)) {
            base_close_fd(&w[i].fd);
            w[i].fd = -1;
            pmi_closed(s->pmi->pmi, (uint32_t)i);
        }
    }
}

static void push(struct shim *s, size_t index)
{
    struct pmi_wire *w = &s->pmi->wires[index];
    struct str *out = pmi_output(s->pmi->pmi, (uint32_t)index);
    size_t done = 0;
    while (w->fd >= 0 && done < out->len) {
        ssize_t n = send(w->fd, out->data + done, out->len - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            break;
        }
        if (n < 0) {
            cut(s, index);
            return;
        }
        done += (size_t)n;
    }
    str_drop_front(out, done);
    uint32_t events = (out->len > 0 ? EPOLLOUT : 0) | (out->len < UNREAD_BYTES ? EPOLLIN : 0);
    if (w->fd >= 0 && events != w->events) {
        w->events = events;
        shim_epoll(s, EPOLL_CTL_MOD, w->fd, events, SOURCE_PMI, index);
    }
}

static void push_all(struct shim *s)
{
    for (size_t i = 0; i < s->rank_count; i++) {
        if (s->pmi->wires[i].fd >= 0 && pmi_output(s->pmi->pmi, (uint32_t)i)->len > 0) {
            push(s, i);
        }
    }
}

static void give(struct shim *s, uint32_t number)
{
    const void *data;
    size_t len;
    if (pmi_fence_given(s->pmi->pmi, number, &data, &len)) {
        wire_send_fence(s, number, data, len);
    }
}

void shim_pmi_on_ready(struct shim *s, size_t index, uint32_t events)
{
    static char buf[SHIM_READ_BYTES];
    struct pmi_wire *w = &s->pmi->wires[index];
    if (w->fd < 0) {
        return;
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
        ssize_t n = recv(w->fd, buf, sizeof(buf), MSG_DONTWAIT);
        bool is_over = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
        if (is_over || (n > 0 && pmi_feed(s->pmi->pmi, (uint32_t)index, buf, (size_t)n) < 0)) {
            cut(s, index);
        }
    }
    uint32_t number = pmi_fence(s->pmi->pmi);
    if (number != 0 && number != s->pmi->given) {
        s->pmi->given = number;
        give(s, number);
    }
    push(s, index);
    push_all(s); /* a barrier opens for all */
}

void shim_pmi_fence_done(struct shim *s, const Accel__V1__ShimFence *fence)
{
    if (s->pmi != NULL) {
        pmi_fence_done(s->pmi->pmi, fence->number, fence->data.data, fence->data.len);
        push_all(s);
    }
}

/* What this node gave before may be wanted again: not all have it, and who knew it is gone. */
void shim_pmi_tell_again(struct shim *s)
{
    if (s->pmi != NULL && s->pmi->given > 0) {
        give(s, s->pmi->given - 1);
        give(s, s->pmi->given);
    }
}
