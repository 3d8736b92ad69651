/* SPDX-License-Identifier: Apache-2.0 */
/*
 * idset.h - a set of objects found by the 16 bytes that each holds at the same offset: the ids that
 * clients make for their requests. A table of pointers alone, about 16 bytes for each object. The
 * set owns no object: whoever frees one removes it first. No two objects may have the same id.
 * Aborts without memory. Not for several threads.
 */
#ifndef ACCEL_COMMON_IDSET_H
#define ACCEL_COMMON_IDSET_H

#include "common/base.h"
#include "common/limits.h"

struct idset {
    void **slots;             /* NULL: free */
    size_t count, slot_count; /* slot_count: 0 or a power of two */
    size_t offset;            /* of the id in an object */
};
void idset_init(struct idset *s, size_t offset);
void idset_done(struct idset *s);
void idset_add(struct idset *s, void *object);              /* its id is not in the set */
void idset_remove(struct idset *s, void *object);           /* it is in the set */
void *idset_find(const struct idset *s, const uint8_t *id); /* LIMIT_REQUEST_ID_BYTES; or NULL */

#endif
