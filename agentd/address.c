/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's own address. Neighbour: shell.c. Nothing is sent, and no name server asked, which may
 * hang: a UDP socket that is connected has asked the routing table, no more; and where the
 * coordinator has a name, the connection to it stands, and its socket is among ours.
 */
#include "agentd/address.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <ifaddrs.h>
#include <limits.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base.h"
#include "common/remote.h"
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

static int local_address_toward(const struct addrinfo *to, struct sockaddr_storage *ret)
{
    socklen_t len = sizeof(*ret);
    AUTO_CLOSE int fd = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, to->ai_addr, to->ai_addrlen) < 0)
        return ACCEL_EUNAVAIL;
    return getsockname(fd, (struct sockaddr *)ret, &len) < 0 ? ACCEL_EUNAVAIL : 0;
}

/* One of both families shows IPv4 addresses as ::ffff:A.B.C.D (RFC 4291, 2.5.5.2). */
static void unmap(struct sockaddr_storage *a)
{
    const struct sockaddr_in6 v6 = *(const struct sockaddr_in6 *)a;
    struct sockaddr_in *v4 = (struct sockaddr_in *)a;
    if (a->ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr))
        return;
    memset(a, 0, sizeof(*a));
    v4->sin_family = AF_INET;
    v4->sin_port = v6.sin6_port;
    memcpy(&v4->sin_addr, v6.sin6_addr.s6_addr + 12, sizeof(v4->sin_addr));
}

static bool is_connected_to(int fd, in_port_t port, struct sockaddr_storage *ret_local)
{
    struct sockaddr_storage peer;
    socklen_t peer_len = sizeof(peer), local_len = sizeof(*ret_local);
    int type = 0;
    socklen_t type_len = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) < 0 || type != SOCK_STREAM ||
        getpeername(fd, (struct sockaddr *)&peer, &peer_len) < 0 ||
        getsockname(fd, (struct sockaddr *)ret_local, &local_len) < 0)
        return false;
    bool is_there =
        (peer.ss_family == AF_INET && ((struct sockaddr_in *)&peer)->sin_port == port) ||
        (peer.ss_family == AF_INET6 && ((struct sockaddr_in6 *)&peer)->sin6_port == port);
    unmap(ret_local);
    return is_there;
}

/* The newest of our connections to this port: an older one may be on its way out. */
static int local_address_of_connection(in_port_t port, struct sockaddr_storage *ret)
{
    DIR *dir = opendir("/proc/self/fd");
    struct sockaddr_storage local;
    const struct dirent *e;
    ino_t newest = 0;
    uint64_t fd;
    while (dir && (e = readdir(dir))) {
        struct stat st;
        if (parse_u64(e->d_name, 0, INT_MAX, &fd) < 0 || fstat((int)fd, &st) < 0 ||
            !S_ISSOCK(st.st_mode) || st.st_ino < newest || !is_connected_to((int)fd, port, &local))
            continue;
        newest = st.st_ino;
        *ret = local;
    }
    if (dir)
        closedir(dir);
    return newest ? 0 : ACCEL_EUNAVAIL;
}

static int find_toward(const char *coordinator, struct node_address *ret, struct accel_error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST}, *list = NULL;
    struct remote_address to;
    struct sockaddr_storage local;
    char port[8];
    int r = remote_address_parse(coordinator, &to, err);
    if (r < 0)
        return r;
    snprintf(port, sizeof(port), "%u", to.port);
    r = ACCEL_EUNAVAIL;
    if (getaddrinfo(to.host, port, &hints, &list) == 0) {
        for (const struct addrinfo *i = list; i && r < 0; i = i->ai_next)
            r = local_address_toward(i, &local);
        freeaddrinfo(list);
    } else {
        r = local_address_of_connection(htons(to.port), &local);
    }
    if (r < 0)
        return error_set(err, r, "there is no way to %s", to.host);
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
        return find_toward(coordinator, ret, err);
    *ret = (struct node_address){"127.0.0.1", "lo"};
    return 0;
}
