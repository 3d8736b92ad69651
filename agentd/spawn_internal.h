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
#include "agentd/limits_cgroup.h"
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
    bool is_limited; /* it may have groups of its own in cgroup version 1 */
};

/* Where an attempt's processes are. */
struct spawn_groups {
    int ranks_fd, shim_fd; /* of cgroup version 2; -1: none, shim_fd -1: as accel-spawn */
    bool is_split;
    bool is_shielded; /* the shim is not to be killed for memory, and ranks are */
    struct limits limits;
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
    struct limits_root limits;
    char oom_score_adj[16]; /* of ranks: as we found it, but never better than others' */
    bool is_oom_favoured;   /* we found it better */
    struct rlimit nofile;   /* as we found it */
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

/* spawn_limits.c: what an attempt's processes are put into, as root, and rid of */
void spawn_limits_init(struct spawn *sp);
/* Removes the groups of attempts that have ended without a word to us. */
void spawn_limits_tidy(struct spawn *sp);
/* The attempt's groups, with the limits that spec asks for. Never fails: see limits->texts. */
void spawn_limits_make(struct spawn *sp, const char *name, const Accel__V1__AttemptSpec *spec,
                       const struct identity *id, struct spawn_groups *ret);
/* In the child of the fork, still root: joins them, shields the shim, makes /tmp its own. */
void spawn_limits_enter(struct spawn *sp, const Accel__V1__AttemptSpec *spec,
                        const struct identity *id, struct spawn_groups *g);
void spawn_groups_close(struct spawn_groups *g);
/* Nothing of the attempt lives any more (else what is not empty stays). */
void spawn_limits_remove(struct spawn *sp, const char *name);

/* spawn_archive.c: the archive that the job brings, and the job's directory for it, made for its
 * user if it is not there; -1 and -1 if it brings none. Only a file of acceld's own is opened:
 * accel-spawn may read more than acceld and the job may. */
int spawn_archive_open(struct spawn *sp, const Accel__V1__AttemptSpec *spec,
                       const struct identity *id, int *ret_archive_fd, int *ret_work_fd,
                       struct accel_error *err);

/* spawn_sweep.c */
void sweep_add(struct spawn *sp, uint64_t job_id, uint32_t attempt);
/* fd is ready (-1: a child that is no shim, or a shim that was killed, has ended). */
void sweep_on_ready(struct spawn *sp, int fd);
/* After each wake: kills orphans, goes on with due sweeps, answers those that are done. */
void sweep_advance(struct spawn *sp);

#endif
