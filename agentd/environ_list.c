/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The list behind a worker's environment, and which names of the submitter's environment may not
 * enter it. Pure. Neighbours: environ.c and the contracts, which fill lists.
 */
#include "agentd/environ_list.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agentd/tpu_env.h"

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

bool env_starts_with_any(const char *name, size_t len, const char *const *prefixes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t plen = strlen(prefixes[i]);
        if (len >= plen && memcmp(name, prefixes[i], plen) == 0)
            return true;
    }
    return false;
}
static bool is_dropped(const char *name, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(dropped_names); i++) {
        if (strlen(dropped_names[i]) == len && memcmp(dropped_names[i], name, len) == 0)
            return true;
    }
    if (!ENV_STARTS_WITH_ANY(name, len, dropped_prefixes))
        return false;
    return ENV_STARTS_WITH_ANY(name, len, dropped_wiring) ||
           !ENV_STARTS_WITH_ANY(name, len, kept_prefixes);
}

/* ---- a list of NAME=VALUE in which each name stands once ---- */

static uint32_t hash_name(const char *name, size_t len)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)name[i]) * 16777619u;
    return h;
}

void env_init(struct env_list *e, struct arena *arena, size_t cap)
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

bool env_has(const struct env_list *e, const char *name)
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

void env_set(struct env_list *e, const char *name, const char *fmt, ...)
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

void env_default(struct env_list *e, const char *name, const char *value)
{
    if (!env_has(e, name))
        env_set(e, name, "%s", value);
}

void env_inherit(struct env_list *e, const Accel__V1__JobSpec *spec, bool has_chips)
{
    for (size_t i = 0; i < spec->n_env; i++) {
        const ProtobufCBinaryData *item = &spec->env[i];
        const char *text = (const char *)item->data;
        const char *eq = item->len ? memchr(text, '=', item->len) : NULL;
        if (!eq || eq == text || memchr(text, 0, item->len))
            continue;
        size_t len = (size_t)(eq - text);
        if (!is_dropped(text, len) && !(has_chips && tpu_env_is_dropped(text, len)))
            env_put(e, *item, (size_t)(eq - text));
    }
}
