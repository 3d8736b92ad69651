/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What srun would set, for scripts that look for nothing else (--slurm-env), and how Slurm writes
 * lists. Opt-in: DeepSpeed, submitit, NeMo and Lightning act on these names. Pure. Neighbour:
 * environ.c. Names and forms: srun(1), "OUTPUT ENVIRONMENT VARIABLES".
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agentd/environ_contract.h"

#define DIGITS_MAX 9 /* of a number in a host list: fits in 32 bits */

/* ---- lists of hosts ---- */

struct host { /* a name as prefix and number; width 0: no number at its end */
    const char *name;
    size_t prefix_len, width;
    uint32_t number;
};

static struct host parse_host(const char *name)
{
    size_t len = strlen(name), digits = 0;
    struct host h = {.name = name, .prefix_len = len};
    while (digits < len && name[len - digits - 1] >= '0' && name[len - digits - 1] <= '9')
        digits++;
    if (digits == 0 || digits > DIGITS_MAX || digits == len)
        return h;
    h.prefix_len = len - digits;
    h.width = digits;
    for (const char *p = name + h.prefix_len; *p; p++)
        h.number = h.number * 10 + (uint32_t)(*p - '0');
    return h;
}

static bool is_same_prefix(const struct host *a, const struct host *b)
{
    return a->width && b->width && a->prefix_len == b->prefix_len &&
           memcmp(a->name, b->name, a->prefix_len) == 0;
}

/* Is b written as the one after a in a range that begins with so many digits? */
static bool is_next(const struct host *a, const struct host *b, size_t width)
{
    char text[DIGITS_MAX + 2];
    if (b->number != a->number + 1)
        return false;
    snprintf(text, sizeof(text), "%0*" PRIu32, (int)width, b->number);
    return strcmp(text, b->name + b->prefix_len) == 0;
}

/* The numbers of hosts [from, to), all of one prefix: "1-3,7". */
static void add_numbers(const char *const *names, size_t from, size_t to, struct str *out)
{
    for (size_t i = from; i < to;) {
        struct host first = parse_host(names[i]), last = first;
        size_t end = i + 1;
        for (; end < to; end++) {
            struct host next = parse_host(names[end]);
            if (!is_next(&last, &next, first.width))
                break;
            last = next;
        }
        if (i > from)
            str_addc(out, ',');
        str_adds(out, first.name + first.prefix_len);
        if (end - i > 1) {
            str_addc(out, '-');
            str_adds(out, last.name + last.prefix_len);
        }
        i = end;
    }
}

void environ_compress_names(const char *const *names, size_t count, struct str *out)
{
    for (size_t i = 0; i < count;) {
        struct host first = parse_host(names[i]);
        size_t end = i + 1;
        for (; end < count; end++) {
            struct host next = parse_host(names[end]);
            if (!is_same_prefix(&first, &next))
                break;
        }
        if (i)
            str_addc(out, ',');
        if (end - i == 1) {
            str_adds(out, names[i]);
        } else {
            str_add(out, first.name, first.prefix_len);
            str_addc(out, '[');
            add_numbers(names, i, end, out);
            str_addc(out, ']');
        }
        i = end;
    }
}

/* ---- the variables ---- */

/* "4(x2),2": runs of equal numbers in order of node rank. */
static void add_tasks(const struct environ_input *in, struct str *out)
{
    size_t count = MAX(in->peer_count, (size_t)1);
    for (size_t i = 0; i < count;) {
        uint32_t size = in->peer_count ? in->peers[i]->local_size : in->start->local_size;
        size_t end = i + 1;
        while (end < in->peer_count && in->peers[end]->local_size == size)
            end++;
        str_addf(out, "%s%" PRIu32, i ? "," : "", size);
        if (end - i > 1)
            str_addf(out, "(x%zu)", end - i);
        i = end;
    }
}

static void set_counts(struct env_list *e, const struct environ_input *in)
{
    static const char *const tasks_names[] = {"SLURM_NTASKS", "SLURM_NPROCS",
                                              "SLURM_STEP_NUM_TASKS"};
    static const char *const nodes_names[] = {"SLURM_JOB_NUM_NODES", "SLURM_NNODES",
                                              "SLURM_STEP_NUM_NODES"};
    static const char *const per_node[] = {"SLURM_TASKS_PER_NODE", "SLURM_STEP_TASKS_PER_NODE"};
    const Accel__V1__Start *s = in->start;
    AUTO_STR struct str tasks;
    str_init(&tasks);
    add_tasks(in, &tasks);
    for (size_t i = 0; i < ARRAY_LEN(tasks_names); i++)
        env_set(e, tasks_names[i], "%" PRIu32, s->world_size);
    for (size_t i = 0; i < ARRAY_LEN(nodes_names); i++)
        env_set(e, nodes_names[i], "%" PRIu32, s->node_count);
    for (size_t i = 0; i < ARRAY_LEN(per_node); i++)
        env_set(e, per_node[i], "%s", tasks.data);
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
