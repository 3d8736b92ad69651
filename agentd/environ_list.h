/* SPDX-License-Identifier: Apache-2.0 */
/*
 * environ_list.h - a list of NAME=VALUE in which each name stands once: what environ.c and the
 * contracts build a worker's environment with. All memory is the arena's; a list lives as long.
 */
#ifndef ACCEL_AGENTD_ENVIRON_LIST_H
#define ACCEL_AGENTD_ENVIRON_LIST_H

#include "accel/v1/job.pb-c.h"
#include "common/arena.h"
#include "common/base.h"

struct env_slot { /* open addressing; entry 0 of a slot means empty, else index + 1 */
    uint32_t entry;
    uint32_t hash;
};
struct env_list {
    struct arena *arena;
    ProtobufCBinaryData *items; /* `len` of them, in order of their first setting */
    size_t len, cap;
    struct env_slot *slots; /* a power of two, at most half full */
    size_t slot_count;
};

/* cap: the most names it will ever hold; setting one more aborts. */
void env_init(struct env_list *e, struct arena *arena, size_t cap);
bool env_has(const struct env_list *e, const char *name);
/* Takes the place of an earlier value. */
void env_set(struct env_list *e, const char *name, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Only where the name is not there: the user's own value stays. */
void env_default(struct env_list *e, const char *name, const char *value);
/* The job's own, without what an enclosing job left (ranks, PMI, Slurm, launchers; of the TPU
 * runtime if has_chips) and what is no NAME=VALUE at all. Borrows the strings of spec. */
void env_inherit(struct env_list *e, const Accel__V1__JobSpec *spec, bool has_chips);

/* Does the text of len bytes begin with one of n prefixes? */
bool env_starts_with_any(const char *text, size_t len, const char *const *prefixes, size_t n);
#define ENV_STARTS_WITH_ANY(text, len, list) env_starts_with_any(text, len, list, ARRAY_LEN(list))

#endif
