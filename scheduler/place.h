/* SPDX-License-Identifier: Apache-2.0 */
/*
 * place.h - between place.c (what a node has, and who gets it), choose.c (which nodes carry a gang)
 * and place_why.c (the same in words). Nothing here changes anything.
 */
#ifndef ACCEL_SCHEDULER_PLACE_H
#define ACCEL_SCHEDULER_PLACE_H

#include "scheduler/coord_internal.h"

struct need { /* of one node */
    uint32_t kind, devices, procs;
};
uint32_t place_count(const struct node *n, uint32_t kind, bool only_free);
/* islands.c: indices of `wanted` free devices, ascending; so many are free. Links are those that
 * the node has told; without any the first do. */
void islands_pick(const struct node *n, uint32_t kind, size_t wanted, size_t *ret_at);
struct need place_need(const struct job *j, const struct node *n);
bool place_could_carry(const struct job *j, const struct node *n);
bool place_can_carry_now(const struct job *j, const struct node *n);
const char *place_kind_name(uint32_t kind); /* "GPU" */

struct names { /* of a job's spec: --nodelist, --exclude */
    char **list, **exclude;
    size_t list_count, exclude_count;
};
struct names choose_names(const struct job *j, struct arena *arena); /* live in the arena */
bool choose_is_allowed(const struct names *names, const char *node);

/* The nodes for a gang, in order of node rank. */
struct choice {
    struct node **nodes; /* of the arena; NULL if it cannot be carried now */
    size_t count;
    size_t could;     /* nodes that could each carry a part, were they free: the most of one kind */
    bool is_possible; /* the gang could be carried, were all nodes free and here */
    bool is_near;     /* the same without nodes that are LOST */
};
/* Taken are the nodes that are left with the fewest free devices, so that whole ones stay for
 * gangs; of equal ones the first by name for one node, those that joined first for several. Nodes
 * of a TPU slice are taken all or none. */
void choose_nodes(const struct coord *c, const struct job *j, struct arena *arena,
                  struct choice *ret);
/* ACCEL_EINVAL: a node of --nodelist or --exclude that nobody knows (one that has enrolled is known
 * before its first Hello); too few are left. */
int choose_check_names(const struct coord *c, const struct job *j, struct accel_error *err);

#endif
