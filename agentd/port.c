/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool of rendezvous ports: a queue in which the port at rest for longest stands first,
 * shuffled at the start so that two pools on one host rarely try the same. Neighbour: shell.c. It
 * must not keep a port bound: rank 0 binds it.
 */
#include "agentd/port.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/prng.h"

#define PORT_COUNT (LIMIT_PORT_MAX - LIMIT_PORT_MIN + 1)
#define NO_PORT    UINT16_MAX
static_assert(PORT_COUNT < NO_PORT, "indexes are 16 bits");

struct port {
    int64_t usable_ms; /* not to be given out before */
    uint16_t next;     /* in the queue */
    bool is_held;
};
struct port_pool {
    struct port ports[PORT_COUNT];
    uint16_t first, last;
};

static void append(struct port_pool *p, uint16_t i)
{
    p->ports[i].next = NO_PORT;
    if (p->first == NO_PORT)
        p->first = i;
    else
        p->ports[p->last].next = i;
    p->last = i;
}

static uint16_t take_first(struct port_pool *p)
{
    uint16_t i = p->first;
    CHECK(i != NO_PORT && !p->ports[i].is_held);
    p->first = p->ports[i].next;
    return i;
}

struct port_pool *port_pool_create(uint64_t seed)
{
    struct port_pool *p = xcalloc(1, sizeof(*p));
    uint16_t order[PORT_COUNT];
    struct prng prng;
    prng_init(&prng, seed);
    for (uint16_t i = 0; i < PORT_COUNT; i++)
        order[i] = i;
    for (uint16_t i = PORT_COUNT - 1; i > 0; i--) {
        uint16_t j = (uint16_t)prng_below(&prng, i + 1u);
        uint16_t other = order[j];
        order[j] = order[i];
        order[i] = other;
    }
    p->first = p->last = NO_PORT;
    for (uint16_t i = 0; i < PORT_COUNT; i++)
        append(p, order[i]);
    return p;
}

void port_pool_destroy(struct port_pool *p)
{
    free(p);
}

/* 0, or the errno of socket() or bind(). */
static int probe(int family, const struct sockaddr *addr, socklen_t len)
{
    AUTO_CLOSE int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int v6only = 0;
    if (fd < 0)
        return errno;
    if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only)))
        return errno;
    return bind(fd, addr, len) == 0 ? 0 : errno;
}

/* A wildcard of both families in one bind(), which collides with anybody on either: this is on the
 * way of every start. Where there is no IPv6, of IPv4 alone. */
static int probe_both(uint32_t port)
{
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int sys = probe(AF_INET6, (struct sockaddr *)&v6, sizeof(v6));
    if (sys == EAFNOSUPPORT || sys == EADDRNOTAVAIL || sys == EPERM)
        sys = probe(AF_INET, (struct sockaddr *)&v4, sizeof(v4));
    return sys;
}

int port_pool_lease(struct port_pool *p, int64_t now_ms, uint32_t *ret_port,
                    struct accel_error *err)
{
    for (unsigned tries = 0; tries < LIMIT_PORT_TRIES; tries++) {
        /* The queue is nearly in order of usable_ms: proven ports may wait behind a young one. */
        for (unsigned skips = 0; p->first != NO_PORT && skips < LIMIT_PORT_TRIES; skips++) {
            if (p->ports[p->first].usable_ms <= now_ms)
                break;
            append(p, take_first(p));
        }
        if (p->first == NO_PORT || p->ports[p->first].usable_ms > now_ms)
            return error_set(err, ACCEL_EFULL,
                             "every port from %d to %d is in use or was until just now",
                             LIMIT_PORT_MIN, LIMIT_PORT_MAX);
        uint16_t i = take_first(p);
        int sys = probe_both(LIMIT_PORT_MIN + i);
        if (sys == 0) {
            p->ports[i].is_held = true;
            *ret_port = LIMIT_PORT_MIN + i;
            return 0;
        }
        append(p, i);
        if (sys != EADDRINUSE && sys != EACCES)
            return error_sys(err, sys, "probing port %d", LIMIT_PORT_MIN + i);
    }
    return error_set(err, ACCEL_EFULL, "%d ports from %d to %d were tried and all are busy",
                     LIMIT_PORT_TRIES, LIMIT_PORT_MIN, LIMIT_PORT_MAX);
}

static bool in_range(uint32_t port)
{
    return port >= LIMIT_PORT_MIN && port <= LIMIT_PORT_MAX;
}

void port_pool_hold(struct port_pool *p, uint32_t port)
{
    if (!in_range(port) || p->ports[port - LIMIT_PORT_MIN].is_held)
        return;
    uint16_t wanted = (uint16_t)(port - LIMIT_PORT_MIN);
    uint16_t before = NO_PORT;
    for (uint16_t i = p->first; i != NO_PORT; before = i, i = p->ports[i].next) {
        if (i != wanted)
            continue;
        if (before == NO_PORT)
            p->first = p->ports[i].next;
        else
            p->ports[before].next = p->ports[i].next;
        if (p->last == i)
            p->last = before;
        p->ports[i].is_held = true;
        return;
    }
    CHECK(!"a port that is not held stands in the queue");
}

void port_pool_release(struct port_pool *p, uint32_t port, int64_t now_ms, bool is_proven)
{
    if (!in_range(port) || !p->ports[port - LIMIT_PORT_MIN].is_held)
        return;
    uint16_t i = (uint16_t)(port - LIMIT_PORT_MIN);
    p->ports[i].is_held = false;
    p->ports[i].usable_ms = is_proven ? now_ms : now_ms + LIMIT_PORT_REUSE_MS;
    append(p, i);
}
