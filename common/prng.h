/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prng.h - SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): small, seeded, for simulation, jitter and
 * port choice. Not for secrets.
 */
#ifndef ACCEL_COMMON_PRNG_H
#define ACCEL_COMMON_PRNG_H

#include "common/base.h"

struct prng {
    uint64_t state;
};
static inline void prng_init(struct prng *p, uint64_t seed)
{
    p->state = seed;
}
uint64_t prng_next(struct prng *p);
uint64_t prng_below(struct prng *p, uint64_t n); /* uniform in [0, n); n > 0 */
bool prng_chance(struct prng *p, unsigned percent);

#endif
