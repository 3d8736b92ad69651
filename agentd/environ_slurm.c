/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What srun would set, for scripts that look for nothing else (--slurm-env). Opt-in: DeepSpeed,
 * submitit, NeMo and Lightning act on these names. Pure. Neighbour: environ.c. Names and forms:
 * srun(1), "OUTPUT ENVIRONMENT VARIABLES".
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agentd/environ_contract.h"

static void set_counts(struct env_list *e, const struct environ_input *in)
{
    static const char *const tasks_names[] = {"SLURM_NTASKS", "SLURM_NPROCS",
                                              "SLURM_STEP_NUM_TASKS"};
    static const char *const nodes_names[] = {"SLURM_JOB_NUM_NODES", "SLURM_NNODES",
                                              "SLURM_STEP_NUM_NODES"};
    static const char *const per_node[] = {"SLURM_TASKS_PER_NODE", "SLURM_STEP_TASKS_PER_NODE"};
    const Accel__V1__Start *s = in->start;
    const char *tasks = in->tasks_per_node;
    char own[16];
    snprintf(own, sizeof(own), "%" PRIu32, s->local_size);
    if (!tasks || !tasks[0])
        tasks = own;
    for (size_t i = 0; i < ARRAY_LEN(tasks_names); i++)
        env_set(e, tasks_names[i], "%" PRIu32, s->world_size);
    for (size_t i = 0; i < ARRAY_LEN(nodes_names); i++)
        env_set(e, nodes_names[i], "%" PRIu32, s->node_count);
    for (size_t i = 0; i < ARRAY_LEN(per_node); i++)
        env_set(e, per_node[i], "%s", tasks);
    env_set(e, "SLURM_NTASKS_PER_NODE", "%" PRIu32, s->local_size);
    if (s->spec->cpus_per_proc)
        env_set(e, "SLURM_CPUS_PER_TASK", "%" PRIu32, s->spec->cpus_per_proc);
}

static void set_ranks_here(struct env_list *e, const Accel__V1__Start *s)
{
    AUTO_STR struct str ids;
    str_init(&ids);
    for (uint32_t i = 0; i < s->local_size; i++)
        str_addf(&ids, "%s%" PRIu32, i ? "," : "", s->first_rank + i);
    env_set(e, "SLURM_GTIDS", "%s", ids.data);
}

void environ_set_slurm(struct env_list *e, const struct environ_input *in,
                       const struct environ_gpus *gpus, const char *nodelist)
{
    static const char *const lists[] = {"SLURM_JOB_NODELIST", "SLURM_NODELIST",
                                        "SLURM_STEP_NODELIST"};
    const Accel__V1__Start *s = in->start;
    env_set(e, "SLURM_JOB_ID", "%" PRIu64, s->ref->job_id);
    env_set(e, "SLURM_JOBID", "%" PRIu64, s->ref->job_id);
    env_set(e, "SLURM_STEP_ID", "0");
    env_set(e, "SLURM_STEPID", "0");
    env_set(e, "SLURM_JOB_NAME", "%s", s->job_name);
    env_set(e, "SLURM_JOB_USER", "%s", s->user);
    env_set(e, "SLURM_JOB_UID", "%" PRIu32, s->uid);
    env_set(e, "SLURM_NODEID", "%" PRIu32, s->node_rank);
    env_set(e, "SLURMD_NODENAME", "%s", in->node_name);
    env_set(e, "SLURM_TOPOLOGY_ADDR", "%s", in->node_name);
    env_set(e, "SLURM_TOPOLOGY_ADDR_PATTERN", "node");
    env_set(e, "SLURM_LAUNCH_NODE_IPADDR", "%s", in->master_addr);
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        env_set(e, lists[i], "%s", nodelist);
    set_counts(e, in);
    set_ranks_here(e, s);
    if (s->ref->attempt > 1)
        env_set(e, "SLURM_RESTART_COUNT", "%" PRIu32, s->ref->attempt - 1);
    if (s->spec->cwd.len)
        env_set(e, "SLURM_SUBMIT_DIR", "%.*s", (int)s->spec->cwd.len,
                (const char *)s->spec->cwd.data);
    if (gpus->count) {
        env_set(e, "SLURM_JOB_GPUS", "%s", gpus->indices.data);
        env_set(e, "SLURM_STEP_GPUS", "%s", gpus->indices.data);
        env_set(e, "SLURM_GPUS_ON_NODE", "%zu", gpus->count);
    }
}

void environ_set_slurm_rank(struct env_list *e, uint32_t rank, uint32_t local_rank)
{
    env_set(e, "SLURM_PROCID", "%" PRIu32, rank);
    env_set(e, "SLURM_LOCALID", "%" PRIu32, local_rank);
}
