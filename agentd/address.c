/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's own address. Neighbour: shell.c. Nothing is sent: a UDP socket that is connected has
 * asked the routing table, no more.
 */
#include "agentd/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base.h"
#include "common/str.h"

static const void *bytes_of(const struct sockaddr *addr, size_t *ret_len)
{
    if (addr->sa_family == AF_INET) {
        *ret_len = sizeof(struct in_addr);
        return &((const struct sockaddr_in *)addr)->sin_addr;
    }
    if (addr->sa_family == AF_INET6) {
        *ret_len = sizeof(struct in6_addr);
        return &((const struct sockaddr_in6 *)addr)->sin6_addr;
    }
    *ret_len = 0;
    return NULL;
}

static bool is_same_address(const struct sockaddr *a, const struct sockaddr *b)
{
    size_t a_len, b_len;
    const void *a_bytes = bytes_of(a, &a_len), *b_bytes = bytes_of(b, &b_len);
    return a_len && a_len == b_len && memcmp(a_bytes, b_bytes, a_len) == 0;
}

static int fill(const struct sockaddr *addr, struct node_address *ret, struct accel_error *err)
{
    struct ifaddrs *list = NULL;
    size_t len;
    const void *bytes = bytes_of(addr, &len);
    int r = ACCEL_EINVAL;
    if (!bytes || !inet_ntop(addr->sa_family, bytes, ret->text, sizeof(ret->text)))
        return error_set(err, ACCEL_EINVAL, "an address of no known family");
    if (getifaddrs(&list) < 0)
        return error_sys(err, errno, "listing the interfaces");
    for (const struct ifaddrs *i = list; i && r < 0; i = i->ifa_next) {
        if (!i->ifa_addr || !is_same_address(i->ifa_addr, addr))
            continue;
        str_copy(ret->ifname, sizeof(ret->ifname), i->ifa_name);
        r = 0;
    }
    freeifaddrs(list);
    if (r < 0)
        return error_set(err, r, "no interface of this host has the address %s\ntry: ip address",
                         ret->text);
    return 0;
}

static int parse_wanted(const char *text, struct sockaddr_storage *ret, struct accel_error *err)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;
    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        return 0;
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        return 0;
    }
    return error_set(err, ACCEL_EINVAL, "--address %s: not a numeric address of this host", text);
}

/* "HOST:PORT" or "[V6]:PORT" */
static int split(const char *text, char *host, size_t host_size, char *port, size_t port_size)
{
    const char *colon = strrchr(text, ':');
    bool is_bracketed = text[0] == '[';
    if (!colon || colon == text || (is_bracketed && colon[-1] != ']'))
        return ACCEL_EINVAL;
    size_t len = (size_t)(colon - text) - (is_bracketed ? 2 : 0);
    if (len >= host_size || strlen(colon + 1) >= port_size)
        return ACCEL_EINVAL;
    memcpy(host, text + is_bracketed, len);
    host[len] = 0;
    str_copy(port, port_size, colon + 1);
    return 0;
}

static int local_address_toward(const struct addrinfo *to, struct sockaddr_storage *ret)
{
    socklen_t len = sizeof(*ret);
    AUTO_CLOSE int fd = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, to->ai_addr, to->ai_addrlen) < 0)
        return ACCEL_EUNAVAIL;
    return getsockname(fd, (struct sockaddr *)ret, &len) < 0 ? ACCEL_EUNAVAIL : 0;
}

static int find_toward(const char *target, struct node_address *ret, struct accel_error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *list = NULL;
    struct sockaddr_storage local;
    char host[256], port[8];
    if (split(target, host, sizeof(host), port, sizeof(port)) < 0)
        return error_set(err, ACCEL_EINVAL, "%s is not HOST:PORT", target);
    int sys = getaddrinfo(host, port, &hints, &list);
    if (sys)
        return error_set(err, ACCEL_EUNAVAIL, "%s: %s", host, gai_strerror(sys));
    int r = ACCEL_EUNAVAIL;
    for (const struct addrinfo *i = list; i && r < 0; i = i->ai_next)
        r = local_address_toward(i, &local);
    freeaddrinfo(list);
    if (r < 0)
        return error_set(err, r, "there is no way to %s", host);
    return fill((struct sockaddr *)&local, ret, err);
}

int node_address_find(const char *coordinator, const char *wanted, struct node_address *ret,
                      struct accel_error *err)
{
    struct sockaddr_storage addr;
    if (wanted) {
        int r = parse_wanted(wanted, &addr, err);
        return r < 0 ? r : fill((struct sockaddr *)&addr, ret, err);
    }
    if (strncmp(coordinator, "tcp:", 4) == 0)
        return find_toward(coordinator + 4, ret, err);
    *ret = (struct node_address){"127.0.0.1", "lo"};
    return 0;
}
