/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The open table of idset.h: linear probing, and what follows a removed object moves up, so that
 * there are no tombstones. At most three quarters are in use.
 */
#include "common/idset.h"

#include <string.h>

#define IDSET_SLOTS_MIN 64u

static const uint8_t *id_of(const struct idset *s, const void *object)
{
    return (const uint8_t *)object + s->offset;
}

/* Where an id belongs. Ids may be random or begin with a time: every byte counts. */
static size_t home_of(const struct idset *s, const uint8_t *id)
{
    uint64_t a, b;

    _Static_assert(LIMIT_REQUEST_ID_BYTES == sizeof(a) + sizeof(b), "two words");
    memcpy(&a, id, sizeof(a));
    memcpy(&b, id + sizeof(a), sizeof(b));
    a = (a ^ (b << 29 | b >> 35)) * 0x9e3779b97f4a7c15u; /* 2^64 / golden ratio */
    a = (a ^ a >> 32) * 0xd6e8feb86659fd93u;             /* of the rrmxmx mixer, P. Evensen 2018 */
    return (size_t)(a ^ a >> 32) & (s->slot_count - 1);
}

void idset_init(struct idset *s, size_t offset)
{
    *s = (struct idset){.offset = offset};
}

void idset_done(struct idset *s)
{
    free(s->slots);
    idset_init(s, s->offset);
}

static void put(struct idset *s, void *object)
{
    size_t i = home_of(s, id_of(s, object));

    while (s->slots[i])
        i = (i + 1) & (s->slot_count - 1);
    s->slots[i] = object;
}

static void grow(struct idset *s)
{
    void **old = s->slots;
    size_t old_count = s->slot_count;

    s->slot_count = old_count ? old_count * 2 : IDSET_SLOTS_MIN;
    s->slots = xcalloc(s->slot_count, sizeof(*s->slots));
    for (size_t i = 0; i < old_count; i++)
        if (old[i])
            put(s, old[i]);
    free(old);
}

void idset_add(struct idset *s, void *object)
{
    if (s->count + 1 > s->slot_count / 4 * 3)
        grow(s);
    put(s, object);
    s->count++;
}

static bool has_id(const struct idset *s, size_t i, const uint8_t *id)
{
    return !memcmp(id_of(s, s->slots[i]), id, LIMIT_REQUEST_ID_BYTES);
}

void *idset_find(const struct idset *s, const uint8_t *id)
{
    if (s->count == 0)
        return NULL;
    for (size_t i = home_of(s, id); s->slots[i]; i = (i + 1) & (s->slot_count - 1))
        if (has_id(s, i, id))
            return s->slots[i];
    return NULL;
}

void idset_remove(struct idset *s, void *object)
{
    size_t mask = s->slot_count - 1, hole = home_of(s, id_of(s, object));

    while (s->slots[hole] != object) {
        CHECK(s->slots[hole]);
        hole = (hole + 1) & mask;
    }
    for (size_t i = (hole + 1) & mask; s->slots[i]; i = (i + 1) & mask) {
        size_t home = home_of(s, id_of(s, s->slots[i]));
        if (((i - home) & mask) < ((i - hole) & mask))
            continue; /* it would come before its home */
        s->slots[hole] = s->slots[i];
        hole = i;
    }
    s->slots[hole] = NULL;
    s->count--;
}
