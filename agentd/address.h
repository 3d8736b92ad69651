/* SPDX-License-Identifier: Apache-2.0 */
/*
 * address.h - under which address the peers of this node dial it, and the interface that has it:
 * what was told (acceld --address), else the local address of the way to the coordinator, which the
 * kernel knows: by the route to its address, or by the connection to its name. A coordinator on
 * this host's unix socket means loopback: nothing else is dialled.
 */
#ifndef ACCEL_AGENTD_ADDRESS_H
#define ACCEL_AGENTD_ADDRESS_H

#include <net/if.h>
#include <netinet/in.h>

#include "common/error.h"

struct node_address {
    char text[INET6_ADDRSTRLEN]; /* numeric */
    char ifname[IF_NAMESIZE];
};
/* coordinator: "unix:PATH", "tcp:HOST[:PORT]" or "tcp:[V6][:PORT]". wanted: numeric, NULL for none.
 * ACCEL_EINVAL: wanted is no address of this host; ACCEL_EUNAVAIL: there is no way to the
 * coordinator now, or, where HOST is a name, this process has no connection to it. Never blocks. */
int node_address_find(const char *coordinator, const char *wanted, struct node_address *ret,
                      struct accel_error *err);

#endif
