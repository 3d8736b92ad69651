/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hostlist.h - lists as Slurm writes them: "n[1-3,7],gpu[09-10]" and "4(x2),2".
 */
#ifndef ACCEL_COMMON_HOSTLIST_H
#define ACCEL_COMMON_HOSTLIST_H

#include "common/str.h"

/* Appends the names as a list of hosts, in the order given (which is that of the ranks: Slurm's own
 * lists are sorted, ours name node rank 0 first). */
void hostlist_add(const char *const *names, size_t count, struct str *out);
/* Appends one run, "4(x2)", to a list of such; a run of one is "4". count > 0. */
void hostlist_add_run(struct str *out, uint32_t number, size_t count);

#endif
