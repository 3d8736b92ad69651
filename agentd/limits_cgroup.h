/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limits_cgroup.h - what the kernel enforces for an attempt: memory, CPU time, processes, devices,
 * by the controllers of cgroup version 2 where they are, else of version 1 (a machine may have
 * both). A missing or read-only controller is no error: the job runs, and the texts say what does
 * not hold. Used by accel-spawn and, in the child of the fork, by the shim-to-be. Joining a group
 * of version 1 costs up to 10 ms, so only what was asked for is joined, once, by the shim; ranks
 * inherit it.
 */
#ifndef ACCEL_AGENTD_LIMITS_CGROUP_H
#define ACCEL_AGENTD_LIMITS_CGROUP_H

#include <limits.h>

#include "agentd/cgroup.h"
#include "agentd/shim.h"

enum limit_kind { LIMIT_KIND_MEMORY, LIMIT_KIND_CPU, LIMIT_KIND_PIDS, LIMIT_KIND_DEVICES };
#define LIMIT_KINDS      4u
#define LIMIT_TEXT_BYTES 128u
#define LIMIT_TEXTS      8u /* of one attempt: the kinds, and what is said besides */

struct limit_controller {
    int version;         /* 0: not to be had, 1 or 2 */
    char path[PATH_MAX]; /* version 1: PARENT, made when it is needed first */
    char why[64];        /* version 0, for people */
};
struct limits_root {
    const struct cgroup_root *unified; /* NULL: none */
    bool is_test;                      /* files are made, where the kernel would have them */
    struct limit_controller controllers[LIMIT_KINDS];
};
/* Looks what there is. unified may be NULL. `name` is that of our parent group, as in unified;
 * mounts: "/proc/self/mounts". Enables controllers of version 2 on the way to the parent; in a
 * group that is delegated to us (nobody in it but accel-spawn and acceld) both move to a leaf
 * `supervisor` first, since groups with processes cannot pass controllers on. */
void limits_root_init(struct limits_root *l, const struct cgroup_root *unified, const char *name,
                      const char *mounts);
/* "memory: cgroup v1", "cpu: not enforced (cgroups are read-only)": LIMIT_KINDS lines. */
void limits_describe(const struct limits_root *l, char texts[][LIMIT_TEXT_BYTES]);
void limits_root_done(struct limits_root *l);

struct limits {
    int join_fds[LIMIT_KINDS]; /* cgroup.procs of version 1, for limits_join; -1: none */
    int oom_fd;                /* the kernel's count of processes killed for memory; -1: none */
    char texts[LIMIT_TEXTS][LIMIT_TEXT_BYTES];
    size_t text_count;
    enum limit_kind text_kinds[LIMIT_TEXTS];
};
/* Makes the groups of an attempt and sets what spec asks for. group_fd: its group in unified, or
 * -1. default_pids: where spec asks for none, 0: no limit. Never fails: see texts. */
void limits_make(const struct limits_root *l, const char *name, int group_fd,
                 const Accel__V1__AttemptSpec *spec, uint32_t default_pids, struct limits *ret);
/* This process, and what it starts from now on, joins those of version 1. */
void limits_join(struct limits *s);
void limits_add_text(struct limits *s, const char *text);
void limits_done(struct limits *s);
/* Removes the groups of version 1 once they are empty; true: they are gone. */
bool limits_remove(const struct limits_root *l, const char *name);
/* The same for all attempts that an earlier accel-spawn has left, or we leave. */
void limits_remove_empty(const struct limits_root *l);
/* How many processes the kernel has killed for memory by now. */
uint64_t limits_oom_kills(int oom_fd);

#endif
