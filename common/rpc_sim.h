/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_sim.h - the transport of the simulated world: same handlers, packed messages, virtual time.
 * The world decides when each frame arrives, and may cut a connection visibly (both ends are told)
 * or silently (frames vanish, nobody is told until rpc_sim_cut_visible or the other end gives up).
 * Order within a connection is kept.
 */
#ifndef ACCEL_COMMON_RPC_SIM_H
#define ACCEL_COMMON_RPC_SIM_H

#include "common/prng.h"
#include "common/rpc.h"

struct rpc_sim;
struct rpc_sim_config {
    uint64_t seed;
    int64_t latency_min_ms, latency_max_ms; /* of one frame */
};
struct rpc_sim *rpc_sim_create(const struct rpc_sim_config *config);
void rpc_sim_destroy(struct rpc_sim *sim); /* every server and channel must be gone */

/* A server known by `address`; at most one per address. Ending it (ops->stop) cuts its connections
 * visibly. */
struct rpc_server *rpc_sim_serve(struct rpc_sim *sim, const char *address,
                                 const struct rpc_service *svc);
/* ACCEL_ECLOSED if nobody serves the address. `who` is copied: the identity the server will see. */
int rpc_sim_connect(struct rpc_sim *sim, const char *address, const struct rpc_identity *who,
                    void (*on_lost)(void *ctx), void *ctx, struct rpc_channel **ret_channel);
void rpc_sim_cut(struct rpc_sim *sim, struct rpc_channel *ch, bool visible);
/* A process died (kill -9): its channel or server goes without a callback on its own side; peers
 * see a visible cut. */
void rpc_sim_kill_channel(struct rpc_sim *sim, struct rpc_channel *ch);
void rpc_sim_kill_server(struct rpc_sim *sim, struct rpc_server *s);

/* Virtual time of the next delivery, or -1. rpc_sim_run delivers everything due at or before
 * now_ms, in order. */
int64_t rpc_sim_next_ms(const struct rpc_sim *sim);
void rpc_sim_run(struct rpc_sim *sim, int64_t now_ms);

#endif
