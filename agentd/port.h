/* SPDX-License-Identifier: Apache-2.0 */
/*
 * port.h - TCP ports for rendezvous: LIMIT_PORT_MIN..MAX, bind-probed, not reused on this node within LIMIT_PORT_REUSE_MS. Shell.
 */
#ifndef ACCEL_AGENTD_PORT_H
#define ACCEL_AGENTD_PORT_H

#include "common/error.h"

struct port_pool;
struct port_pool *port_pool_create(uint64_t seed);
void port_pool_destroy(struct port_pool *p);
/* Leases one port that nobody is bound to now (IPv4 and IPv6 wildcard probes). ACCEL_EFULL after LIMIT_PORT_TRIES. */
int port_pool_lease(struct port_pool *p, int64_t now_ms, uint32_t *ret_port, struct accel_error *err);

#endif
