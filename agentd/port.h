/* SPDX-License-Identifier: Apache-2.0 */
/*
 * port.h - TCP ports for rendezvous: LIMIT_PORT_MIN..MAX, bind-probed, held by an attempt until it
 * is released. The port that was released longest ago goes first, and one whose holders may still
 * be alive somewhere is not given out for LIMIT_PORT_REUSE_MS. Shell; blocks only in bind().
 */
#ifndef ACCEL_AGENTD_PORT_H
#define ACCEL_AGENTD_PORT_H

#include "common/error.h"

struct port_pool;
struct port_pool *port_pool_create(uint64_t seed); /* aborts when memory ends */
void port_pool_destroy(struct port_pool *p);
/* Leases one port that nobody is bound to now (IPv4 and IPv6 wildcard probes). ACCEL_EFULL after
 * LIMIT_PORT_TRIES busy ones, or when every port is held or too young. */
int port_pool_lease(struct port_pool *p, int64_t now_ms, uint32_t *ret_port,
                    struct accel_error *err);
/* An adopted attempt has it. Ports out of range are ignored, here and below. */
void port_pool_hold(struct port_pool *p, uint32_t port);
/* Its attempt is over. is_proven: no process that knew it exists any more (an attempt of one node
 * that is gone), so that a thousand short jobs a second do not run out of ports. */
void port_pool_release(struct port_pool *p, uint32_t port, int64_t now_ms, bool is_proven);

#endif
