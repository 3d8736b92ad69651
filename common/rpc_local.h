/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_local.h - the transport of one host: length-prefixed accel.v1.Frame on a unix stream socket;
 * the kernel says who (SO_PEERCRED). A command starts in 2 ms with it. Caps: common/limits.h. A
 * peer that sends garbage, an oversize frame or an unknown frame kind loses its connection, nobody
 * else notices.
 */
#ifndef ACCEL_COMMON_RPC_LOCAL_H
#define ACCEL_COMMON_RPC_LOCAL_H

#include <uv.h>

#include "common/rpc.h"

/* Serves `svc` on a listening socket (path_socket_listen), which it then owns. Roles: uid 0 and the
 * server's own euid are ADMIN, everyone else USER. svc must outlive the server. */
int rpc_local_server_create(uv_loop_t *loop, int listen_fd, const struct rpc_service *svc,
                            struct rpc_server **ret_server, struct accel_error *err);
size_t rpc_local_server_connections(const struct rpc_server *s);
/* Closes the listener only: connected clients are served on. */
void rpc_local_server_refuse_new(struct rpc_server *s);

/* A client on a connected socket (path_socket_connect), which it then owns. on_lost (may be NULL)
 * is called once, from the loop, when the connection ends by itself; all open calls have got
 * on_end(ACCEL_ECLOSED) before. */
int rpc_local_channel_create(uv_loop_t *loop, int fd, void (*on_lost)(void *ctx), void *ctx,
                             struct rpc_channel **ret_channel, struct accel_error *err);

#endif
