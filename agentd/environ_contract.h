/* SPDX-License-Identifier: Apache-2.0 */
/*
 * environ_contract.h - one function per contract that scripts look for. Each adds its names to the
 * list of all ranks (common) or of one rank; what overrides what is their order in environ.c.
 */
#ifndef ACCEL_AGENTD_ENVIRON_CONTRACT_H
#define ACCEL_AGENTD_ENVIRON_CONTRACT_H

#include "agentd/environ.h"
#include "agentd/environ_list.h"
#include "common/str.h"

struct environ_gpus {
    size_t count;
    bool is_amd;
    struct str visible; /* what CUDA_VISIBLE_DEVICES carries */
    struct str indices; /* their places on the node, comma separated */
};

struct environ_chips { /* of TPUs; indexes on the host, in the order given */
    uint32_t indexes[TPU_CHIPS_MAX];
    size_t count;
};

/* environ_contract.c */
void environ_set_torch(struct env_list *e, const struct environ_input *in);
void environ_set_devices(struct env_list *e, const struct environ_input *in,
                         const struct environ_gpus *gpus, bool has_chips);
void environ_set_mpi(struct env_list *e, const Accel__V1__Start *s);
void environ_set_jax(struct env_list *e, const struct environ_input *in, const char *nodelist);
void environ_set_pet(struct env_list *e, const struct environ_input *in,
                     const struct environ_gpus *gpus);
void environ_set_interfaces(struct env_list *e, const char *ifname);
void environ_set_accel(struct env_list *e, const struct environ_input *in);
/* The i-th rank of this node. */
void environ_set_rank(struct env_list *e, const struct environ_input *in,
                      const struct environ_gpus *gpus, uint32_t i);

/* environ_tpu.c: ACCEL_EINVAL as environ_build. */
int environ_add_chip(struct environ_chips *chips, const Accel__V1__Device *d,
                     struct accel_error *err);
int environ_set_tpu_rank(struct env_list *e, const struct environ_input *in,
                         const struct environ_chips *chips, uint32_t i, struct accel_error *err);

/* environ_slurm.c */
void environ_set_slurm(struct env_list *e, const struct environ_input *in,
                       const struct environ_gpus *gpus, const char *nodelist);
void environ_set_slurm_rank(struct env_list *e, uint32_t rank, uint32_t local_rank);

#endif
