/* SPDX-License-Identifier: Apache-2.0 */
/*
 * environ.h - what a worker finds: from a Start and facts of the node to the AttemptSpec that goes
 * to the shim. The common environment (the job's own with inherited rank, PMI, Slurm and launcher
 * variables dropped, ours laid over) and per rank RANK, LOCAL_RANK, ... docs/ENVIRONMENT.md names
 * every variable. Pure; all in the arena, but strings of the input and of its Start are borrowed by
 * the result.
 */
#ifndef ACCEL_AGENTD_ENVIRON_H
#define ACCEL_AGENTD_ENVIRON_H

#include "accel/v1/agent.pb-c.h"
#include "accel/v1/shim.pb-c.h"
#include "agentd/tpu_env.h"
#include "common/arena.h"
#include "common/error.h"

struct environ_input {
    const Accel__V1__Start *start;
    const Accel__V1__Device *const *devices; /* of the node, to look up `visible` */
    size_t device_count;
    const char *master_addr, *ifname, *node_name; /* ifname: interface of this node's address */
    uint32_t master_port;
    uint32_t pet_port; /* for a torchrun inside the job; 0: no PET_* variables */
    uint32_t aux_port; /* of JAX's (or the TPU runtime's) coordinator; 0: none was leased */
    /* All nodes of the gang in order of node rank; empty where it is not on TPUs. */
    const Accel__V1__Peer *const *peers;
    size_t peer_count;
    const char *node_list, *tasks_per_node; /* as in Go; NULL or "": this node's own */
    const struct tpu_host *tpu_host; /* NULL: known from the devices alone */
    uint64_t incarnation;
    const char *attempts_dir;
    bool private_tmp; /* of the node's configuration */
    int64_t wall_ms;
};
/* ACCEL_EINVAL: no argv, a rank range that makes no sense, an --output pattern that makes no sense,
 * names of nodes that do not fit in one variable; chips that cannot be used together; ACCEL_ENOENT:
 * a device that this node does not have. */
int environ_build(const struct environ_input *in, struct arena *a,
                  Accel__V1__AttemptSpec **ret_spec, struct accel_error *err);
/* Is a third port to be leased on node rank 0? */
bool environ_wants_aux_port(const Accel__V1__JobSpec *spec);
/* Which of `count` devices the i-th of `ranks` ranks gets: an even split in order; with fewer
 * devices than ranks they are shared, neighbours together. */
void environ_split(size_t count, size_t ranks, size_t i, size_t *ret_first, size_t *ret_len);

#endif
