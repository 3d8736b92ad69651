/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SplitMix64. The constants are those of the paper named in prng.h and of Vigna's public domain
 * splitmix64.c. The sequence is part of the simulator's promise (a seed replays): never change it.
 */
#include "common/prng.h"

uint64_t prng_next(struct prng *p)
{
    uint64_t z = (p->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t prng_below(struct prng *p, uint64_t n)
{
    CHECK(n > 0);
    /* The 2^64 mod n lowest values are thrown away, so that every remainder is equally frequent. */
    uint64_t skip = (0 - n) % n;
    uint64_t x = prng_next(p);
    while (x < skip) {
        x = prng_next(p);
    }
    return x % n;
}

bool prng_chance(struct prng *p, unsigned percent)
{
    return prng_below(p, 100) < percent;
}
