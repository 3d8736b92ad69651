/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spawn_internal.h - accel-spawn's state, shared by spawn.c (requests, forking, children) and
 * spawn_sweep.c (killing what a dead shim left).
 */
#ifndef ACCEL_AGENTD_SPAWN_INTERNAL_H
#define ACCEL_AGENTD_SPAWN_INTERNAL_H

#include <signal.h>
#include <sys/resource.h>

#include "agentd/cgroup.h"
#include "agentd/identity.h"
#include "agentd/shim.h"
#include "common/arena.h"
#include "common/codec.h"
#include "common/limits.h"

#define SPAWN_FDS                                                                                  \
    16u /* descriptors received ahead of the START they belong to; further ones                    \
                            are closed, and that attempt lives without a connection */
#define SPAWN_SWEEPS LIMIT_CONNECTIONS /* at once; acceld asks once per attempt. Above: exit */

/* What people send to groups of processes; accel-spawn ends with acceld's end of the socketpair.
 * Every other signal does what it does by default, here and so in shims and ranks. */
static const int spawn_ignored[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGPIPE, SIGUSR1,
                                    SIGUSR2, SIGXFSZ, SIGTSTP, SIGTTIN, SIGTTOU, SIGALRM};

struct spawn_shim {
    pid_t pid;
    uint64_t job_id;
    uint32_t attempt;
};

/* One SWEEP that is not answered yet. */
struct spawn_sweep {
    uint64_t job_id;
    uint32_t attempt;
    bool is_due;          /* something has ended: look again */
    int pidfd;            /* a process that was killed and has to die before we look again; or -1 */
    int cgroup_events_fd; /* or -1 */
};

struct spawn {
    int fd, ep_fd, signal_fd;
    int dir_fd;         /* the attempts directory */
    char dir[PATH_MAX]; /* canonical */
    bool has_cgroups;
    struct cgroup_root cgroups;
    struct rlimit nofile; /* as we found it */
    struct identity_rules rules;
    struct codec_reader in;
    struct arena request; /* the one being carried out; after the fork the shim's spec lies in it */
    struct str out;
    bool wants_write;
    bool is_over; /* acceld is gone */
    int fds[SPAWN_FDS];
    size_t fd_count;
    struct spawn_shim *shims; /* alive, our children */
    size_t shim_count, shim_cap;
    bool may_have_orphans; /* a shim died: children that are no shims are being killed */
    struct spawn_sweep *sweeps;
    size_t sweep_count, sweep_cap;
};

/* spawn.c */
void spawn_reply(struct spawn *sp, Accel__V1__SpawnReply *reply);
void spawn_epoll(struct spawn *sp, int op, int fd, uint32_t events);

/* spawn_sweep.c */
void sweep_add(struct spawn *sp, uint64_t job_id, uint32_t attempt);
/* fd is ready (-1: a child that is no shim, or a shim that was killed, has ended). */
void sweep_on_ready(struct spawn *sp, int fd);
/* After each wake: kills orphans, goes on with due sweeps, answers those that are done. */
void sweep_advance(struct spawn *sp);

#endif
