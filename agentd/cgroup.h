/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup.h - one cgroup of the unified hierarchy per attempt, for tracking and killing (limits:
 * limits_cgroup.h). accel-spawn makes the parent directory accel-UID-HASH (HASH of the attempts
 * directory, so that two daemons of one user stay apart) below its own cgroup or, where that cannot
 * be written, below the root; the ranks go to PARENT/JOB.N. Used by accel-spawn and, after the
 * fork, by the shim. Single-threaded; nothing blocks but the kernel.
 */
#ifndef ACCEL_AGENTD_CGROUP_H
#define ACCEL_AGENTD_CGROUP_H

#include <limits.h>
#include <sys/types.h>

#include "common/base.h"

#define CGROUP_LEAF "supervisor" /* of a delegated group: where acceld and accel-spawn move to */

struct cgroup_root {
    int fd; /* of the parent directory, -1: no cgroups */
    char path[PATH_MAX];
};

/* The last part of the parent's path: the same for the same directory, also after a restart, and
 * no other's, also where containers have the same path for theirs. The directory exists. */
void cgroup_parent_name(const char *attempts_dir, char *name, size_t size);
/* Finds or makes the parent and tries it with a process. In a leaf CGROUP_LEAF it goes beside the
 * leaf, as before accel-spawn (or systemd's DelegateSubgroup) had put us there. is_top: below the
 * root of the tree at once, not below our own. False where cgroups cannot be used. */
bool cgroup_root_init(struct cgroup_root *root, const char *attempts_dir, bool is_top);
/* Removes the parent if no attempt lives in it. */
void cgroup_root_done(struct cgroup_root *root);
/* Makes PARENT/name, empty; returns its descriptor or -errno. */
int cgroup_make(struct cgroup_root *root, const char *name);
/* For a shim that is not root: PARENT/name/{shim,ranks}, where a process of `uid` in the first may
 * make processes in the second and kill what is there. It cannot leave PARENT/name, and limits that
 * are set there are out of its reach. 0 and the two descriptors, or -errno. */
int cgroup_split(int cgroup_fd, uid_t uid, int *ret_shim_fd, int *ret_ranks_fd);
/* Removes PARENT/name with the two; 0 or -errno as cgroup_remove. */
int cgroup_remove_split(const struct cgroup_root *root, const char *name);
/* Removes the empty groups of attempts that an earlier accel-spawn has left. */
void cgroup_remove_empty(const struct cgroup_root *root);
/* fork() into a cgroup (-1, or a kernel that cannot: as the parent). The pid, 0, or -errno. */
int cgroup_fork(int cgroup_fd);
/* SIGKILL to all in it, atomically; they may be still dying on return. False: it did not work. */
bool cgroup_kill(int cgroup_fd);
/* Removes PARENT/name: 0 is the proof that no process is in it (or it never was there), else -errno
 * (EBUSY: there are). */
int cgroup_remove(struct cgroup_root *root, const char *name);
/* Opens cgroup.events: poll() tells POLLPRI when `populated` changes. -errno. */
int cgroup_events_open(int cgroup_fd);
bool cgroup_is_populated(int events_fd);

/* A child that runs run(arg) in a cgroup (cgroup_fd -1: as the parent), on the memory of the
 * caller, which waits in the kernel until the child has exec'ed or ended: nothing is copied, and
 * what run() writes to *arg is there on return. run() must end in execve or _exit; it may call what
 * changes the child alone (descriptors, directory, limits, signals), and must not allocate. Returns
 * the pid or -errno; *ret_pidfd is -1 where the kernel has no pidfds; NULL: not wanted. A kernel or
 * policy without clone3 gets a vfork(), which is not in the cgroup: *ret_in_cgroup says. */
int cgroup_vfork(int cgroup_fd, void (*run)(void *arg), void *arg, int *ret_pidfd,
                 bool *ret_in_cgroup);

#endif
