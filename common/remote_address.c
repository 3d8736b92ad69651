/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How addresses of other machines are written: tcp:HOST:PORT and shorter (remote.h). Neighbours:
 * remote.c, which loads what connects to them. Nothing here resolves a name or opens a socket.
 */
#include <string.h>

#include "common/remote.h"
#include "common/str.h"

int remote_address_parse(const char *text, struct remote_address *ret_address,
                         struct accel_error *err)
{
    struct remote_address a = {.port = REMOTE_DEFAULT_PORT};
    const char *host_text = strncmp(text, "tcp:", 4) == 0 ? text + 4 : text, *port = NULL;
    size_t len = strcspn(host_text, ":");
    uint64_t value;
    if (host_text[0] == '[') {
        host_text++;
        len = strcspn(host_text, "]");
        if (host_text[len] == 0 || (host_text[len + 1] != 0 && host_text[len + 1] != ':'))
            goto bad;
        port = host_text[len + 1] ? host_text + len + 2 : NULL;
    } else if (host_text[len] == ':') {
        port = host_text + len + 1;
    }
    if (len == 0 || len >= sizeof(a.host) || strcspn(host_text, "/ \t\n%") < len)
        goto bad;
    memcpy(a.host, host_text, len);
    if (port && parse_u64(port, 0, UINT16_MAX, &value) < 0)
        goto bad;
    if (port)
        a.port = (uint16_t)value;
    *ret_address = a;
    return 0;
bad:
    return error_set(err, ACCEL_EINVAL,
                     "%.200s: not an address of another machine\n"
                     "try: tcp:HOST:PORT, for example tcp:coordinator.example:7443",
                     text);
}
