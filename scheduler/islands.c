/* SPDX-License-Identifier: Apache-2.0 */
/*
 * islands.c - which GPUs of a node a job gets: those that are near to each other, and of those the
 * ones that leave the other islands whole. GPUs form nested islands: what NVLink joins lies in what
 * a PCIe switch joins, that in what a NUMA node joins. On each level the job goes into the fullest
 * island that has room for it, or, where none has, takes the largest whole and goes on. Neighbour:
 * place.c, which takes the devices. Pure.
 */
#include "scheduler/place.h"

#define MEMBERS_MAX 256u /* more is no machine of today; then the first free ones do */

/* Nearest first; a level is the index. Parts of one GPU are nearer than any two GPUs. */
static const char *const levels[] = {"part", "nvlink", "pix", "pxb", "phb", "node", "sys"};
#define LEVEL_PART 0
#define LEVEL_FAR  (ARRAY_LEN(levels) - 1)

struct field {
    const struct node *node;
    size_t count;
    size_t *at;    /* in node->devices, ascending */
    uint8_t *near; /* count x count: level */
    bool *is_free, *is_taken;
};

static uint8_t level_of(const char *kind)
{
    for (uint8_t i = LEVEL_PART + 1; i < ARRAY_LEN(levels); i++)
        if (!strcmp(levels[i], kind))
            return i;
    return LEVEL_FAR;
}

static void note_links(struct field *f, size_t i, const Accel__V1__Device *const *told)
{
    const Accel__V1__Device *d = told[i];

    for (size_t k = 0; d && k < f->count; k++) {
        uint8_t level = LEVEL_FAR;
        if (told[k] && d->parent[0] && !strcmp(d->parent, told[k]->parent))
            level = LEVEL_PART;
        for (size_t l = 0; l < d->n_links; l++)
            if (told[k] && d->links[l]->index == told[k]->index)
                level = MIN(level, level_of(d->links[l]->kind));
        f->near[i * f->count + k] = MIN(f->near[i * f->count + k], level);
        f->near[k * f->count + i] = MIN(f->near[k * f->count + i], level);
    }
}

/* Gives each member of the set the number of its island on this level, from 1; returns how many. */
static size_t number_islands(const struct field *f, const size_t *set, size_t count, uint8_t level,
                             size_t *ret_island)
{
    AUTO_FREE size_t *todo = xcalloc(count, sizeof(*todo));
    size_t islands = 0;

    for (size_t first = 0; first < count; first++) {
        size_t left = 0;
        if (ret_island[first])
            continue;
        ret_island[first] = ++islands;
        todo[left++] = first;
        while (left > 0) {
            size_t i = todo[--left];
            for (size_t k = 0; k < count; k++) {
                if (ret_island[k] || f->near[set[i] * f->count + set[k]] > level)
                    continue;
                ret_island[k] = islands;
                todo[left++] = k;
            }
        }
    }
    return islands;
}

struct room {
    size_t free, used;
};

/* Where `wanted` go: the island with the least room that has enough, else the one with most. */
static size_t best_island(const struct room *rooms, size_t islands, size_t wanted)
{
    size_t best = 0;

    for (size_t i = 1; i <= islands; i++) {
        const struct room *r = &rooms[i], *b = &rooms[best];
        bool fits = r->free >= wanted, best_fits = best && b->free >= wanted;
        bool is_tie = best && fits == best_fits && r->free == b->free;
        if (r->free == 0)
            continue;
        if (!best || (fits && !best_fits) || (is_tie && r->used > b->used) ||
            (!is_tie && fits && r->free < b->free) ||
            (!is_tie && !fits && !best_fits && r->free > b->free))
            best = i;
    }
    return best;
}

static void take(struct field *f, const size_t *set, size_t count, size_t wanted)
{
    for (size_t i = 0; i < count && wanted > 0; i++) {
        if (!f->is_free[set[i]] || f->is_taken[set[i]])
            continue;
        f->is_taken[set[i]] = true;
        wanted--;
    }
    CHECK(wanted == 0);
}

static void pick(struct field *f, const size_t *set, size_t count, size_t wanted, int level)
{
    if (level < LEVEL_PART) {
        take(f, set, count, wanted);
        return;
    }
    AUTO_FREE size_t *island = xcalloc(count, sizeof(*island));
    AUTO_FREE size_t *part = xcalloc(count, sizeof(*part));
    AUTO_FREE struct room *rooms = xcalloc(count + 1, sizeof(*rooms));
    size_t islands = number_islands(f, set, count, (uint8_t)level, island);
    for (size_t i = 0; i < count; i++) {
        rooms[island[i]].free += f->is_free[set[i]];
        rooms[island[i]].used += !f->is_free[set[i]];
    }
    while (wanted > 0) {
        size_t best = best_island(rooms, islands, wanted), in_part = 0;
        CHECK(best);
        for (size_t i = 0; i < count; i++)
            if (island[i] == best)
                part[in_part++] = set[i];
        size_t here = MIN(rooms[best].free, wanted);
        pick(f, part, in_part, here, level - 1);
        wanted -= here;
        rooms[best].free = 0;
    }
}

static void field_done(struct field *f)
{
    free(f->at);
    free(f->near);
    free(f->is_free);
    free(f->is_taken);
}

void islands_pick(const struct node *n, uint32_t kind, size_t wanted, size_t *ret_at)
{
    struct field f = {.node = n, .count = place_count(n, kind, false)};
    size_t m = 0, picked = 0;

    f.at = xcalloc(f.count, sizeof(*f.at));
    f.is_free = xcalloc(f.count, sizeof(bool));
    f.is_taken = xcalloc(f.count, sizeof(bool));
    AUTO_FREE const Accel__V1__Device **told = xcalloc(f.count, sizeof(*told));
    AUTO_FREE size_t *all = xcalloc(f.count, sizeof(*all));
    for (size_t i = 0; i < n->device_count; i++) {
        if (n->devices[i].kind != kind)
            continue;
        f.at[m] = i;
        f.is_free[m] = !n->devices[i].holder && !n->devices[i].fault;
        told[m] = node_told_device(n, n->devices[i].id);
        all[m] = m;
        m++;
    }
    CHECK(m == f.count && wanted <= place_count(n, kind, true));
    if (f.count > MEMBERS_MAX) {
        take(&f, all, f.count, wanted);
    } else {
        f.near = xcalloc(f.count * f.count, 1);
        memset(f.near, (int)LEVEL_FAR, f.count * f.count);
        for (size_t i = 0; i < f.count; i++)
            note_links(&f, i, told);
        pick(&f, all, f.count, wanted, (int)LEVEL_FAR);
    }
    for (size_t i = 0; i < f.count; i++)
        if (f.is_taken[i])
            ret_at[picked++] = f.at[i];
    CHECK(picked == wanted);
    field_done(&f);
}
