/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a worker finds in its environment, in all the forms that unmodified scripts look for, and
 * the AttemptSpec around it. Pure: a Start and facts of the node in, a spec out. Neighbours:
 * shell.c, which leases the ports and launches; the shim, which lays a rank's list over the common
 * one. Names and exact forms: facts/worker-environment.md.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "agentd/agent.h"
#include "common/limits.h"

/* ---- what may not come from outside ---- */

/* Whole names of an enclosing job: a worker that reads them would join the wrong gang. */
static const char *const dropped_names[] = {
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "LOCAL_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_NAME",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "NODE_RANK",
    "CROSS_RANK",
    "CROSS_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "JAX_PARTITION_INDEX",
    "JAX_LOCAL_DEVICE_IDS",
};
/* Families. Names that only begin alike (LOCAL_DATA, ACCELERATE_*) are the user's own. */
static const char *const dropped_prefixes[] = {
    "TORCHELASTIC_", "PET_",    "PMI_",  "PMIX_", "MPI_LOCAL",        "MV2_COMM_WORLD_",
    "SLURM_",        "SLURMD_", "SRUN_", "OMPI_", "JAX_COORDINATOR_", "ACCEL_",
};
/* How the user tunes Open MPI, not what a launcher says of a job. */
static const char *const kept_prefixes[] = {"OMPI_MCA_", "OMPI_ALLOW_RUN_AS_ROOT"};
/* But these MCA parameters are the launcher's wiring. */
static const char *const dropped_wiring[] = {
    "OMPI_MCA_orte_", "OMPI_MCA_ess", "OMPI_MCA_pmix", "OMPI_MCA_plm", "OMPI_MCA_initial_wdir",
};

static bool starts_with_any(const char *name, size_t len, const char *const *prefixes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t plen = strlen(prefixes[i]);
        if (len >= plen && memcmp(name, prefixes[i], plen) == 0)
            return true;
    }
    return false;
}
#define STARTS_WITH_ANY(name, len, list) starts_with_any(name, len, list, ARRAY_LEN(list))

static bool is_dropped(const char *name, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(dropped_names); i++) {
        if (strlen(dropped_names[i]) == len && memcmp(dropped_names[i], name, len) == 0)
            return true;
    }
    if (!STARTS_WITH_ANY(name, len, dropped_prefixes))
        return false;
    return STARTS_WITH_ANY(name, len, dropped_wiring) || !STARTS_WITH_ANY(name, len, kept_prefixes);
}

/* ---- a list of NAME=VALUE in which each name stands once ---- */

struct env_slot { /* open addressing; entry 0 of a slot means empty, else index + 1 */
    uint32_t entry;
    uint32_t hash;
};
struct env_list {
    struct arena *arena;
    ProtobufCBinaryData *items;
    size_t len, cap;
    struct env_slot *slots; /* a power of two, at most half full */
    size_t slot_count;
};

static uint32_t hash_name(const char *name, size_t len)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)name[i]) * 16777619u;
    return h;
}

static void env_init(struct env_list *e, struct arena *arena, size_t cap)
{
    *e = (struct env_list){.arena = arena, .cap = cap, .slot_count = 16};
    while (e->slot_count < cap * 2)
        e->slot_count *= 2;
    e->items = ARENA_ARRAY(arena, ProtobufCBinaryData, cap);
    e->slots = ARENA_ARRAY(arena, struct env_slot, e->slot_count);
}

static bool has_name(const ProtobufCBinaryData *item, const char *name, size_t len)
{
    return item->len > len && memcmp(item->data, name, len) == 0 && item->data[len] == '=';
}

/* The slot of the name, or the empty one where it belongs. */
static struct env_slot *env_slot_of(const struct env_list *e, const char *name, size_t len,
                                    uint32_t hash)
{
    size_t i = hash & (e->slot_count - 1);
    while (e->slots[i].entry &&
           (e->slots[i].hash != hash || !has_name(&e->items[e->slots[i].entry - 1], name, len)))
        i = (i + 1) & (e->slot_count - 1);
    return &e->slots[i];
}

static bool env_has(const struct env_list *e, const char *name)
{
    size_t len = strlen(name);
    return env_slot_of(e, name, len, hash_name(name, len))->entry != 0;
}

static void env_put(struct env_list *e, ProtobufCBinaryData item, size_t name_len)
{
    const char *name = (const char *)item.data;
    uint32_t hash = hash_name(name, name_len);
    struct env_slot *slot = env_slot_of(e, name, name_len, hash);
    if (slot->entry) { /* of two the later one holds, as in a shell */
        e->items[slot->entry - 1] = item;
        return;
    }
    CHECK(e->len < e->cap);
    e->items[e->len++] = item;
    *slot = (struct env_slot){(uint32_t)e->len, hash};
}

__attribute__((format(printf, 3, 4))) static void env_set(struct env_list *e, const char *name,
                                                          const char *fmt, ...)
{
    char small[256];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(small, sizeof(small), fmt, args);
    va_end(args);
    CHECK(n >= 0);
    size_t name_len = strlen(name);
    size_t len = name_len + 1 + (size_t)n;
    char *text = arena_alloc(e->arena, len + 1);
    memcpy(text, name, name_len);
    text[name_len] = '=';
    if ((size_t)n < sizeof(small)) {
        memcpy(text + name_len + 1, small, (size_t)n);
    } else { /* a path or a list of devices */
        va_start(args, fmt);
        vsnprintf(text + name_len + 1, (size_t)n + 1, fmt, args);
        va_end(args);
    }
    env_put(e, (ProtobufCBinaryData){len, (uint8_t *)text}, name_len);
}

static void env_default(struct env_list *e, const char *name, const char *value)
{
    if (!env_has(e, name))
        env_set(e, name, "%s", value);
}

/* The job's own, without what an enclosing job left and what is no NAME=VALUE at all. */
static void env_inherit(struct env_list *e, const Accel__V1__JobSpec *spec)
{
    for (size_t i = 0; i < spec->n_env; i++) {
        const ProtobufCBinaryData *item = &spec->env[i];
        const char *text = (const char *)item->data;
        const char *eq = item->len ? memchr(text, '=', item->len) : NULL;
        if (!eq || eq == text || memchr(text, 0, item->len))
            continue;
        if (!is_dropped(text, (size_t)(eq - text)))
            env_put(e, *item, (size_t)(eq - text));
    }
}

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

static bool node_has_gpus(const struct environ_input *in)
{
    for (size_t i = 0; i < in->device_count; i++) {
        if (in->devices[i]->kind == ACCEL__V1__DEVICE_KIND__DEVICE_GPU)
            return true;
    }
    return false;
}

struct gpus {
    size_t count;
    struct str visible; /* what CUDA_VISIBLE_DEVICES carries */
};

/* A UUID names one piece of hardware to the whole host; a scripted name or an index does not,
 * and two daemons with fake devices must not get in each other's way. */
static bool is_claimed(const Accel__V1__Device *d)
{
    static const char *const uuids[] = {"GPU-", "MIG-"};
    return STARTS_WITH_ANY(d->visible, strlen(d->visible), uuids);
}

/* The GPUs among the attempt's devices, and the claims that the shim holds for them. */
static int collect_gpus(const struct environ_input *in, struct arena *a, struct gpus *gpus,
                        Accel__V1__AttemptSpec *spec, struct accel_error *err)
{
    const Accel__V1__Start *s = in->start;
    spec->claims = ARENA_ARRAY(a, char *, s->n_devices + 1);
    for (size_t i = 0; i < s->n_devices; i++) {
        const Accel__V1__Device *d = find_device(in, s->devices[i]);
        if (!d)
            return error_set(err, ACCEL_ENOENT, "this node has no device %s", s->devices[i]);
        if (d->kind != ACCEL__V1__DEVICE_KIND__DEVICE_GPU)
            continue;
        if (gpus->count++)
            str_addc(&gpus->visible, ',');
        str_adds(&gpus->visible, d->visible);
        if (is_claimed(d))
            spec->claims[spec->n_claims++] = s->devices[i];
    }
    return 0;
}

/* ---- the common environment ---- */

static void set_torch(struct env_list *e, const struct environ_input *in)
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

/* Sizes under MPI names. MV2_COMM_WORLD_* and Hydra's MPI_LOCAL* are read by scripts (Accelerate,
 * device choice before MPI_Init) and start nothing. PMI_RANK and PMI_SIZE stay unset: to an MPI
 * library they mean that a process manager answers at PMI_FD. OMPI_COMM_WORLD_* stay unset too:
 * DeepSpeed, submitit and NeMo take them for an mpirun and then load MPI (facts b4: opt-in). */
static void set_mpi(struct env_list *e, const Accel__V1__Start *s)
{
    env_set(e, "MV2_COMM_WORLD_SIZE", "%" PRIu32, s->world_size);
    env_set(e, "MV2_COMM_WORLD_LOCAL_SIZE", "%" PRIu32, s->local_size);
    env_set(e, "MPI_LOCALNRANKS", "%" PRIu32, s->local_size);
}

static void set_devices(struct env_list *e, const struct environ_input *in, const struct gpus *gpus)
{
    if (gpus->count) {
        /* All GPUs of the attempt on the node for every rank: LOCAL_RANK chooses, as scripts do. */
        env_set(e, "CUDA_VISIBLE_DEVICES", "%s", gpus->visible.data);
        env_set(e, "CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        return;
    }
    if (node_has_gpus(in))
        env_set(e, "CUDA_VISIBLE_DEVICES", "%s", ""); /* they are somebody else's */
    env_default(e, "ACCELERATE_USE_CPU", "true");
}

/* Does this look like the torchrun of Debian 12? torch 1.13 on Python 3.11 dies in its log handling
 * unless both are set; with others they would only put a prefix before each line. */
static bool is_debian_torchrun(const Accel__V1__JobSpec *spec)
{
    static const char *const programs[] = {"/usr/bin/torchrun", "/usr/bin/python3"};
    return STARTS_WITH_ANY((const char *)spec->argv[0].data, spec->argv[0].len, programs);
}

/* Defaults of every torchrun option, so that a bare `torchrun train.py` inside the job joins. */
static void set_pet(struct env_list *e, const struct environ_input *in, const struct gpus *gpus)
{
    const Accel__V1__Start *s = in->start;
    env_set(e, "PET_NNODES", "%" PRIu32, s->node_count);
    env_set(e, "PET_NODE_RANK", "%" PRIu32, s->node_rank);
    env_set(e, "PET_NPROC_PER_NODE", "%zu",
            s->local_size == 1 && gpus->count ? gpus->count : (size_t)s->local_size);
    env_set(e, "PET_MASTER_ADDR", "%s", in->master_addr);
    env_set(e, "PET_MASTER_PORT", "%" PRIu32, in->pet_port);
    env_set(e, "PET_RDZV_ID", "%" PRIu64 ".%" PRIu32, s->ref->job_id, s->ref->attempt);
    env_set(e, "PET_MAX_RESTARTS", "0"); /* we restart */
    if (is_debian_torchrun(s->spec)) {
        env_set(e, "PET_REDIRECTS", "1");
        env_set(e, "PET_TEE", "1");
    }
}

static void set_interfaces(struct env_list *e, const char *ifname)
{
    static const char *const names[] = {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME",
                                        "TP_SOCKET_IFNAME"};
    for (size_t i = 0; ifname[0] && i < ARRAY_LEN(names); i++)
        env_default(e, names[i], ifname);
}

static void set_accel(struct env_list *e, const struct environ_input *in)
{
    const Accel__V1__Start *s = in->start;
    env_set(e, "ACCEL_JOB_ID", "%" PRIu64, s->ref->job_id);
    env_set(e, "ACCEL_JOB_NAME", "%s", s->job_name);
    env_set(e, "ACCEL_ATTEMPT", "%" PRIu32, s->ref->attempt);
    env_set(e, "ACCEL_ATTEMPT_CAUSE", "%s", agent_cause_name(s->last_cause));
    env_set(e, "ACCEL_WORLD_SIZE", "%" PRIu32, s->world_size);
    env_set(e, "ACCEL_NODE", "%s", in->node_name);
}

#define COMMON_NAMES_MAX 48 /* names that the functions above can add */
#define RANK_NAMES_MAX   16

static void build_common(const struct environ_input *in, const struct gpus *gpus, struct arena *a,
                         Accel__V1__AttemptSpec *spec)
{
    struct env_list e;
    env_init(&e, a, in->start->spec->n_env + COMMON_NAMES_MAX);
    env_inherit(&e, in->start->spec);
    set_torch(&e, in);
    set_mpi(&e, in->start);
    set_devices(&e, in, gpus);
    if (in->pet_port)
        set_pet(&e, in, gpus);
    set_interfaces(&e, in->ifname);
    set_accel(&e, in);
    env_default(&e, "PYTHONUNBUFFERED", "1");
    spec->env = e.items;
    spec->n_env = e.len;
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

static int build_rank(const struct environ_input *in, uint32_t i, struct arena *a,
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
    env_set(&e, "RANK", "%" PRIu32, rank->rank);
    env_set(&e, "LOCAL_RANK", "%" PRIu32, i);
    env_set(&e, "ROLE_RANK", "%" PRIu32, rank->rank);
    env_set(&e, "MV2_COMM_WORLD_RANK", "%" PRIu32, rank->rank);
    env_set(&e, "MV2_COMM_WORLD_LOCAL_RANK", "%" PRIu32, i);
    env_set(&e, "MPI_LOCALRANKID", "%" PRIu32, i);
    env_set(&e, "ACCEL_RANK", "%" PRIu32, rank->rank);
    env_set(&e, "ACCEL_LOCAL_RANK", "%" PRIu32, i);
    env_set(&e, "TORCHELASTIC_ERROR_FILE", "%s/%" PRIu64 ".%" PRIu32 "/%" PRIu32 ".error.json",
            in->attempts_dir, s->ref->job_id, s->ref->attempt, rank->rank);
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
}

int environ_build(const struct environ_input *in, struct arena *a,
                  Accel__V1__AttemptSpec **ret_spec, struct accel_error *err)
{
    const Accel__V1__Start *s = in->start;
    int r = check_start(s, err);
    if (r < 0)
        return r;
    Accel__V1__AttemptSpec *spec = ARENA_NEW(a, Accel__V1__AttemptSpec);
    struct gpus gpus = {0};
    accel__v1__attempt_spec__init(spec);
    fill_spec(in, spec);
    str_init(&gpus.visible);
    r = collect_gpus(in, a, &gpus, spec, err);
    if (r == 0)
        build_common(in, &gpus, a, spec);
    str_done(&gpus.visible);
    if (r < 0)
        return r;
    spec->ranks = ARENA_ARRAY(a, Accel__V1__RankSpec *, s->local_size);
    for (uint32_t i = 0; i < s->local_size; i++) {
        r = build_rank(in, i, a, &spec->ranks[i], err);
        if (r < 0)
            return r;
        spec->n_ranks++;
    }
    *ret_spec = spec;
    return 0;
}
