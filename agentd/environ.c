/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a Start to the AttemptSpec: the devices and their split, the common environment as layers of
 * contracts, each rank's own, output files. Pure: a Start and facts of the node in, a spec out.
 * Neighbours: environ_list.c (lists, what is inherited), environ_contract.c and environ_slurm.c
 * (names); shell.c, which leases the ports and launches; the shim, which lays a rank's list over
 * the common one.
 */
#include "agentd/environ.h"

#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "agentd/environ_contract.h"
#include "common/limits.h"

/* ---- devices ---- */

void environ_split(size_t count, size_t ranks, size_t i, size_t *ret_first, size_t *ret_len)
{
    CHECK(i < ranks);
    if (count < ranks) {
        *ret_first = count ? i * count / ranks : 0;
        *ret_len = count ? 1 : 0;
        return;
    }
    *ret_first = i * count / ranks;
    *ret_len = (i + 1) * count / ranks - *ret_first;
}

static const Accel__V1__Device *find_device(const struct environ_input *in, const char *id)
{
    for (size_t i = 0; i < in->device_count; i++) {
        if (strcmp(in->devices[i]->id, id) == 0)
            return in->devices[i];
    }
    return NULL;
}

/* A UUID names one piece of hardware to the whole host; a scripted name or an index does not,
 * and two daemons with fake devices must not get in each other's way. */
static bool is_claimed(const Accel__V1__Device *d)
{
    static const char *const uuids[] = {"GPU-", "MIG-"};
    if (strcmp(d->vendor, "google") == 0 || strcmp(d->vendor, "amd") == 0)
        return d->n_paths > 0; /* the device node names it */
    return ENV_STARTS_WITH_ANY(d->visible, strlen(d->visible), uuids);
}

static char *claim_of(const Accel__V1__Device *d)
{
    return strcmp(d->vendor, "nvidia") != 0 && d->n_paths > 0 ? d->paths[0] : d->id;
}

/* What the attempt's devices are, the claims that the shim holds for them and what it may open. */
static int collect_devices(const struct environ_input *in, struct arena *a,
                           struct environ_gpus *gpus, struct environ_chips *chips,
                           Accel__V1__AttemptSpec *spec, struct accel_error *err)
{
    const Accel__V1__Start *s = in->start;
    size_t paths = 0;
    for (size_t i = 0; i < in->device_count; i++)
        paths += in->devices[i]->n_paths;
    spec->limit_devices = paths > 0; /* else there is nothing here to be kept apart */
    spec->claims = ARENA_ARRAY(a, char *, s->n_devices + 1);
    spec->device_paths = ARENA_ARRAY(a, char *, paths + 1);
    for (size_t i = 0; i < s->n_devices; i++) {
        const Accel__V1__Device *d = find_device(in, s->devices[i]);
        if (!d)
            return error_set(err, ACCEL_ENOENT, "this node has no device %s", s->devices[i]);
        for (size_t k = 0; k < d->n_paths && spec->n_device_paths < paths; k++)
            spec->device_paths[spec->n_device_paths++] = d->paths[k];
        if (is_claimed(d))
            spec->claims[spec->n_claims++] = claim_of(d);
        if (d->kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU) {
            int r = environ_add_chip(chips, d, err);
            if (r < 0)
                return r;
        }
        if (d->kind != ACCEL__V1__DEVICE_KIND__DEVICE_GPU)
            continue;
        str_addf(&gpus->visible, "%s%s", gpus->count ? "," : "", d->visible);
        str_addf(&gpus->indices, "%s%" PRIu32, gpus->count ? "," : "", d->index);
        gpus->count++;
        gpus->is_amd = strcmp(d->vendor, "amd") == 0;
    }
    return 0;
}

/* ---- the common environment ---- */

#define COMMON_NAMES_MAX 96 /* names that the contracts can add */
#define RANK_NAMES_MAX   (32 + TPU_VARS_MAX)

/* The names of all nodes as Slurm writes them; this node's own where it is the only one. */
static int check_nodelist(const struct environ_input *in, const char **ret_text,
                          struct accel_error *err)
{
    const char *list = in->node_list && in->node_list[0] ? in->node_list : in->node_name;
    if (strlen(list) + sizeof("SLURM_STEP_NODELIST=") > LIMIT_ARG_BYTES)
        return error_set(err, ACCEL_EINVAL,
                         "the names of %" PRIu32 " nodes do not fit in one variable (%zu bytes)",
                         in->start->node_count, strlen(list));
    *ret_text = list;
    return 0;
}

static int build_common(const struct environ_input *in, const struct environ_gpus *gpus,
                        bool has_chips, struct arena *a, Accel__V1__AttemptSpec *spec,
                        struct accel_error *err)
{
    const Accel__V1__JobSpec *job = in->start->spec;
    bool is_jax = job->launcher == ACCEL__V1__LAUNCHER__LAUNCHER_JAX;
    const char *nodelist = NULL;
    struct env_list e;
    int r = is_jax || job->slurm_env ? check_nodelist(in, &nodelist, err) : 0;
    if (r < 0)
        return r;
    env_init(&e, a, job->n_env + COMMON_NAMES_MAX);
    env_inherit(&e, job, has_chips);
    environ_set_torch(&e, in);
    environ_set_mpi(&e, in->start);
    environ_set_devices(&e, in, gpus, has_chips);
    if (is_jax)
        environ_set_jax(&e, in, nodelist);
    if (job->slurm_env)
        environ_set_slurm(&e, in, gpus, nodelist);
    if (in->pet_port)
        environ_set_pet(&e, in, gpus);
    environ_set_interfaces(&e, in->ifname);
    environ_set_accel(&e, in);
    env_default(&e, "PYTHONUNBUFFERED", "1");
    spec->env = e.items;
    spec->n_env = e.len;
    return 0;
}

/* ---- one rank ---- */

static int expand_pattern(const struct environ_input *in, uint32_t rank, struct str *path,
                          bool *ret_names_rank, struct accel_error *err)
{
    const Accel__V1__Start *s = in->start;
    const ProtobufCBinaryData *pattern = &s->spec->output_pattern;
    *ret_names_rank = false;
    for (size_t i = 0; i < pattern->len; i++) {
        if (pattern->data[i] != '%') {
            str_addc(path, (char)pattern->data[i]);
            continue;
        }
        char what = ++i < pattern->len ? (char)pattern->data[i] : 0;
        switch (what) {
        case 'j': str_addf(path, "%" PRIu64, s->ref->job_id); break;
        case 'x': str_adds(path, s->job_name); break;
        case 'r':
            str_addf(path, "%" PRIu32, rank);
            *ret_names_rank = true;
            break;
        case 'A': str_addf(path, "%" PRIu32, s->ref->attempt); break;
        case 'N': str_adds(path, in->node_name); break;
        case 'u': str_adds(path, s->user); break;
        case '%': str_addc(path, '%'); break;
        default:
            return error_set(err, ACCEL_EINVAL,
                             "--output: %%%c is none of %%j %%x %%r %%A %%N %%u %%%%",
                             what >= ' ' && what < 127 ? what : '?');
        }
    }
    if (path->len >= PATH_MAX || (path->len && path->data[0] != '/') ||
        memchr(path->data, 0, path->len))
        return error_set(err, ACCEL_EINVAL, "--output: it does not give an absolute path");
    return 0;
}

static int set_output_file(const struct environ_input *in, struct arena *a,
                           Accel__V1__RankSpec *rank, struct accel_error *err)
{
    AUTO_STR struct str path;
    bool names_rank;
    str_init(&path);
    int r = expand_pattern(in, rank->rank, &path, &names_rank, err);
    if (r < 0)
        return r;
    /* Without %r all ranks would write over each other: the main rank has the file. */
    if (path.len && (names_rank || rank->rank == 0)) {
        rank->output_file.data = arena_dup(a, path.data, path.len);
        rank->output_file.len = path.len;
    }
    return 0;
}

static int build_rank(const struct environ_input *in, const struct environ_gpus *gpus,
                      const struct environ_chips *chips, uint32_t i, struct arena *a,
                      Accel__V1__RankSpec **ret_rank, struct accel_error *err)
{
    const Accel__V1__Start *s = in->start;
    Accel__V1__RankSpec *rank = ARENA_NEW(a, Accel__V1__RankSpec);
    struct env_list e;
    size_t first, len;
    accel__v1__rank_spec__init(rank);
    rank->rank = s->first_rank + i;
    rank->local_rank = i;
    environ_split(s->n_devices, s->local_size, i, &first, &len);
    rank->n_devices = len;
    rank->devices = s->devices + first;
    env_init(&e, a, RANK_NAMES_MAX);
    environ_set_rank(&e, in, gpus, i);
    int r = chips->count ? environ_set_tpu_rank(&e, in, chips, i, err) : 0;
    if (r < 0)
        return r;
    rank->env = e.items;
    rank->n_env = e.len;
    *ret_rank = rank;
    return set_output_file(in, a, rank, err);
}

/* ---- the whole ---- */

static int check_start(const Accel__V1__Start *s, struct accel_error *err)
{
    if (!s->ref || !s->spec || s->spec->n_argv == 0 || s->spec->argv[0].len == 0)
        return error_set(err, ACCEL_EINVAL, "the start has no program");
    if (s->ref->attempt == 0)
        return error_set(err, ACCEL_EINVAL, "attempts count from 1");
    if (s->local_size == 0 || s->local_size > LIMIT_PROCS_PER_NODE ||
        s->world_size < s->local_size || s->first_rank > s->world_size - s->local_size)
        return error_set(err, ACCEL_EINVAL,
                         "%" PRIu32 " ranks from %" PRIu32 " do not fit in a world of %" PRIu32,
                         s->local_size, s->first_rank, s->world_size);
    return 0;
}

static void fill_spec(const struct environ_input *in, Accel__V1__AttemptSpec *spec)
{
    const Accel__V1__Start *s = in->start;
    spec->job_id = s->ref->job_id;
    spec->attempt = s->ref->attempt;
    spec->era = s->ref->era;
    spec->incarnation = in->incarnation;
    spec->argv = s->spec->argv;
    spec->n_argv = s->spec->n_argv;
    spec->cwd = s->spec->cwd;
    spec->umask = s->spec->umask;
    spec->rlimits = s->spec->rlimits;
    spec->n_rlimits = s->spec->n_rlimits;
    spec->uid = s->uid;
    spec->gid = s->gid;
    spec->want_stdin = s->spec->want_stdin && s->first_rank == 0;
    spec->master_addr = (char *)in->master_addr;
    spec->master_port = in->master_port;
    spec->job_name = s->job_name;
    spec->created_ms = in->wall_ms;
    spec->node_count = s->node_count;
    spec->aux_port = in->aux_port;
    spec->memory_bytes = s->spec->memory_bytes;
    spec->cpus = s->spec->cpus_per_proc * s->local_size;
    spec->user = s->user;
    spec->private_tmp = in->private_tmp;
    if (s->spec->launcher == ACCEL__V1__LAUNCHER__LAUNCHER_MPI) {
        spec->pmi_first_rank = s->first_rank;
        spec->pmi_size = s->world_size;
    }
}

static int build_all(const struct environ_input *in, struct environ_gpus *gpus, struct arena *a,
                     Accel__V1__AttemptSpec *spec, struct accel_error *err)
{
    uint32_t count = in->start->local_size;
    struct environ_chips chips = {.count = 0};
    int r = collect_devices(in, a, gpus, &chips, spec, err);
    if (r == 0)
        r = build_common(in, gpus, chips.count > 0, a, spec, err);
    spec->ranks = ARENA_ARRAY(a, Accel__V1__RankSpec *, count);
    for (uint32_t i = 0; i < count && r == 0; i++) {
        r = build_rank(in, gpus, &chips, i, a, &spec->ranks[i], err);
        spec->n_ranks++;
    }
    return r;
}

int environ_build(const struct environ_input *in, struct arena *a,
                  Accel__V1__AttemptSpec **ret_spec, struct accel_error *err)
{
    int r = check_start(in->start, err);
    if (r < 0)
        return r;
    Accel__V1__AttemptSpec *spec = ARENA_NEW(a, Accel__V1__AttemptSpec);
    struct environ_gpus gpus = {0};
    accel__v1__attempt_spec__init(spec);
    fill_spec(in, spec);
    str_init(&gpus.visible);
    str_init(&gpus.indices);
    r = build_all(in, &gpus, a, spec, err);
    str_done(&gpus.visible);
    str_done(&gpus.indices);
    if (r == 0)
        *ret_spec = spec;
    return r;
}
