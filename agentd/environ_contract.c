/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contracts of torch, torchelastic, Accelerate, torchrun (PET_*), JAX and the MPIs, as lists of
 * names. Pure. Neighbours: environ.c, which says in what order they are laid over each other;
 * environ_slurm.c. Where the names come from: docs/ENVIRONMENT.md.
 */
#include "agentd/environ_contract.h"

#include <inttypes.h>
#include <string.h>

#include "agentd/agent.h"
#include "agentd/pmi.h"

/* ---- torch, torchelastic, Accelerate ---- */

void environ_set_torch(struct env_list *e, const struct environ_input *in)
{
    const Accel__V1__Start *s = in->start;
    env_set(e, "MASTER_ADDR", "%s", in->master_addr);
    env_set(e, "MASTER_PORT", "%" PRIu32, in->master_port);
    env_set(e, "WORLD_SIZE", "%" PRIu32, s->world_size);
    env_set(e, "LOCAL_WORLD_SIZE", "%" PRIu32, s->local_size);
    env_set(e, "GROUP_RANK", "%" PRIu32, s->node_rank);
    env_set(e, "GROUP_WORLD_SIZE", "%" PRIu32, s->node_count);
    env_set(e, "ROLE_NAME", "default");
    env_set(e, "ROLE_WORLD_SIZE", "%" PRIu32, s->world_size);
    env_set(e, "TORCHELASTIC_RUN_ID", "%" PRIu64, s->ref->job_id);
    env_set(e, "TORCHELASTIC_RESTART_COUNT", "%" PRIu32, s->ref->attempt - 1);
    env_set(e, "TORCHELASTIC_MAX_RESTARTS", "%" PRIu32, s->spec->max_restarts);
    /* Only the exact text "True" makes every rank a client of a store that somebody else hosts;
     * nobody does, so rank 0 hosts it. */
    env_set(e, "TORCHELASTIC_USE_AGENT_STORE", "False");
    env_default(e, "TORCH_NCCL_ASYNC_ERROR_HANDLING", "1");
    if (s->local_size > 1)
        env_default(e, "OMP_NUM_THREADS", "1"); /* as torchrun; else every rank takes every core */
}

static bool node_has(const struct environ_input *in, Accel__V1__DeviceKind kind)
{
    for (size_t i = 0; i < in->device_count; i++) {
        if (in->devices[i]->kind == kind)
            return true;
    }
    return false;
}

void environ_set_devices(struct env_list *e, const struct environ_input *in,
                         const struct environ_gpus *gpus, bool has_chips)
{
    if (has_chips)
        return; /* each rank has its own */
    if (gpus->count && gpus->is_amd) {
        env_set(e, "HIP_VISIBLE_DEVICES", "%s", gpus->visible.data);
        return;
    }
    if (gpus->count) {
        /* All GPUs of the attempt on the node for every rank: LOCAL_RANK chooses, as scripts do. */
        env_set(e, "CUDA_VISIBLE_DEVICES", "%s", gpus->visible.data);
        env_set(e, "CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        return;
    }
    if (node_has(in, ACCEL__V1__DEVICE_KIND__DEVICE_TPU)) { /* libtpu takes what it can open */
        env_default(e, "JAX_PLATFORMS", "cpu");
        env_default(e, "PJRT_DEVICE", "CPU");
    }
    if (node_has(in, ACCEL__V1__DEVICE_KIND__DEVICE_GPU)) { /* they are somebody else's */
        env_set(e, "CUDA_VISIBLE_DEVICES", "%s", "");
        env_set(e, "HIP_VISIBLE_DEVICES", "%s", "");
    }
    env_default(e, "ACCELERATE_USE_CPU", "true");
}

void environ_set_interfaces(struct env_list *e, const char *ifname)
{
    static const char *const names[] = {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME",
                                        "TP_SOCKET_IFNAME"};
    for (size_t i = 0; ifname[0] && i < ARRAY_LEN(names); i++)
        env_default(e, names[i], ifname);
}

/* ---- torchrun inside the job ---- */

/* Does this look like the torchrun of Debian 12? torch 1.13 on Python 3.11 dies in its log handling
 * unless both are set; with others they would only put a prefix before each line. */
static bool is_debian_torchrun(const Accel__V1__JobSpec *spec)
{
    static const char *const programs[] = {"/usr/bin/torchrun", "/usr/bin/python3"};
    return ENV_STARTS_WITH_ANY((const char *)spec->argv[0].data, spec->argv[0].len, programs);
}

/* Defaults of every torchrun option, so that a bare `torchrun train.py` inside the job joins. Every
 * rank of ours is a "node" to it: one torchrun per rank, whatever their number on a machine. */
void environ_set_pet(struct env_list *e, const struct environ_input *in,
                     const struct environ_gpus *gpus)
{
    const Accel__V1__Start *s = in->start;
    env_set(e, "PET_NNODES", "%" PRIu32, s->world_size);
    env_set(e, "PET_NPROC_PER_NODE", "%zu",
            s->local_size == 1 && gpus->count ? gpus->count : (size_t)1);
    env_set(e, "PET_MASTER_ADDR", "%s", in->master_addr);
    env_set(e, "PET_MASTER_PORT", "%" PRIu32, in->pet_port);
    env_set(e, "PET_RDZV_ID", "%" PRIu64 ".%" PRIu32, s->ref->job_id, s->ref->attempt);
    env_set(e, "PET_MAX_RESTARTS", "0"); /* we restart */
    if (is_debian_torchrun(s->spec)) {
        env_set(e, "PET_REDIRECTS", "1");
        env_set(e, "PET_TEE", "1");
    }
}

/* ---- MPI ---- */

/* Sizes under MPI names. MV2_COMM_WORLD_* and Hydra's MPI_LOCAL* are read by scripts (Accelerate,
 * device choice before MPI_Init) and start nothing. PMI_RANK and PMI_SIZE tell an MPI library that
 * a process manager answers at PMI_FD, and OMPI_COMM_WORLD_* make DeepSpeed, submitit and NeMo
 * load MPI: both only with --launcher mpi, where the shim does answer. */
void environ_set_mpi(struct env_list *e, const Accel__V1__Start *s)
{
    env_set(e, "MV2_COMM_WORLD_SIZE", "%" PRIu32, s->world_size);
    env_set(e, "MV2_COMM_WORLD_LOCAL_SIZE", "%" PRIu32, s->local_size);
    env_set(e, "MPI_LOCALNRANKS", "%" PRIu32, s->local_size);
    if (s->spec->launcher != ACCEL__V1__LAUNCHER__LAUNCHER_MPI)
        return;
    env_set(e, "PMI_SIZE", "%" PRIu32, s->world_size);
    env_set(e, "PMI_FD", "%d", PMI_RANK_FD);
    env_set(e, "OMPI_COMM_WORLD_SIZE", "%" PRIu32, s->world_size);
    env_set(e, "OMPI_COMM_WORLD_LOCAL_SIZE", "%" PRIu32, s->local_size);
    env_set(e, "OMPI_UNIVERSE_SIZE", "%" PRIu32, s->world_size);
}

/* ---- JAX ---- */

bool environ_wants_aux_port(const Accel__V1__JobSpec *spec)
{
    return spec->launcher == ACCEL__V1__LAUNCHER__LAUNCHER_JAX ||
           spec->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU;
}

/* jax.distributed.initialize() without arguments takes count and id only from a cluster that it
 * knows: these five are how it knows Slurm. The address is ours and not derived from the list.
 * Bound to that address, not to every interface, as its default would be. */
void environ_set_jax(struct env_list *e, const struct environ_input *in, const char *nodelist)
{
    const Accel__V1__Start *s = in->start;
    static const char *const names[] = {"JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_BIND_ADDRESS"};
    bool is_v6 = strchr(in->master_addr, ':') != NULL;
    env_set(e, "SLURM_JOB_ID", "%" PRIu64, s->ref->job_id);
    env_set(e, "SLURM_STEP_NODELIST", "%s", nodelist);
    env_set(e, "SLURM_NTASKS", "%" PRIu32, s->world_size);
    env_set(e, "SLURM_JOB_NAME", "interactive"); /* Lightning then does not take it for Slurm */
    for (size_t i = 0; in->aux_port && i < ARRAY_LEN(names); i++)
        env_set(e, names[i], "%s%s%s:%" PRIu32, is_v6 ? "[" : "", in->master_addr, is_v6 ? "]" : "",
                in->aux_port);
}

/* Without this JAX gives each process the one device of its local rank. */
static void set_jax_devices(struct env_list *e, size_t first, size_t len)
{
    AUTO_STR struct str ids;
    str_init(&ids);
    for (size_t i = 0; i < len; i++)
        str_addf(&ids, "%s%zu", i ? "," : "", first + i);
    env_set(e, "JAX_LOCAL_DEVICE_IDS", "%s", ids.data);
}

/* ---- ours ---- */

void environ_set_accel(struct env_list *e, const struct environ_input *in)
{
    const Accel__V1__Start *s = in->start;
    env_set(e, "ACCEL_JOB_ID", "%" PRIu64, s->ref->job_id);
    env_set(e, "ACCEL_JOB_NAME", "%s", s->job_name);
    env_set(e, "ACCEL_ATTEMPT", "%" PRIu32, s->ref->attempt);
    env_set(e, "ACCEL_ATTEMPT_CAUSE", "%s", agent_cause_name(s->last_cause));
    env_set(e, "ACCEL_WORLD_SIZE", "%" PRIu32, s->world_size);
    env_set(e, "ACCEL_NODE", "%s", in->node_name);
    env_set(e, "ACCEL_NODE_RANK", "%" PRIu32, s->node_rank);
    env_set(e, "ACCEL_NODE_COUNT", "%" PRIu32, s->node_count);
}

/* ---- one rank ---- */

static void set_mpi_rank(struct env_list *e, const Accel__V1__Start *s, uint32_t rank, uint32_t i)
{
    env_set(e, "MV2_COMM_WORLD_RANK", "%" PRIu32, rank);
    env_set(e, "MV2_COMM_WORLD_LOCAL_RANK", "%" PRIu32, i);
    env_set(e, "MPI_LOCALRANKID", "%" PRIu32, i);
    if (s->spec->launcher != ACCEL__V1__LAUNCHER__LAUNCHER_MPI)
        return;
    env_set(e, "PMI_RANK", "%" PRIu32, rank);
    env_set(e, "OMPI_COMM_WORLD_RANK", "%" PRIu32, rank);
    env_set(e, "OMPI_COMM_WORLD_LOCAL_RANK", "%" PRIu32, i);
    env_set(e, "OMPI_COMM_WORLD_NODE_RANK", "%" PRIu32, i);
}

void environ_set_rank(struct env_list *e, const struct environ_input *in,
                      const struct environ_gpus *gpus, uint32_t i)
{
    const Accel__V1__Start *s = in->start;
    uint32_t rank = s->first_rank + i;
    bool is_jax = s->spec->launcher == ACCEL__V1__LAUNCHER__LAUNCHER_JAX;
    env_set(e, "RANK", "%" PRIu32, rank);
    env_set(e, "LOCAL_RANK", "%" PRIu32, i);
    env_set(e, "ROLE_RANK", "%" PRIu32, rank);
    set_mpi_rank(e, s, rank, i);
    env_set(e, "ACCEL_RANK", "%" PRIu32, rank);
    env_set(e, "ACCEL_LOCAL_RANK", "%" PRIu32, i);
    env_set(e, "TORCHELASTIC_ERROR_FILE", "%s/%" PRIu64 ".%" PRIu32 "/%" PRIu32 ".error.json",
            in->attempts_dir, s->ref->job_id, s->ref->attempt, rank);
    if (in->pet_port)
        env_set(e, "PET_NODE_RANK", "%" PRIu32, rank);
    if (is_jax || s->spec->slurm_env)
        environ_set_slurm_rank(e, rank, i);
    if (is_jax && gpus->count >= s->local_size) {
        size_t first, len;
        environ_split(gpus->count, s->local_size, i, &first, &len);
        set_jax_devices(e, first, len);
    }
}
