/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What accel-spawn puts around the processes of an attempt while it has the rights: cgroups,
 * limits, a shim that the kernel does not kill for the memory of its ranks, a /tmp of their own.
 * Neighbours: spawn.c (when), cgroup.c and limits_cgroup.c (how). Without the rights an attempt
 * runs without, and its texts say so.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "agentd/spawn_internal.h"
#include "common/path.h"
#include "common/str.h"

#define OOM_FILE   "/proc/self/oom_score_adj"
#define OOM_SHIELD "-1000" /* never: OOM_SCORE_ADJ_MIN of Linux */

void spawn_limits_init(struct spawn *sp)
{
    char name[64];
    AUTO_FREE char *text = NULL;
    size_t len;
    cgroup_parent_name(sp->dir, name, sizeof(name));
    limits_root_init(&sp->limits, sp->has_cgroups ? &sp->cgroups : NULL, name, "/proc/self/mounts");
    int r = path_read_all(AT_FDCWD, OOM_FILE, 64, &text, &len, NULL);
    sp->is_oom_favoured = r == 0 && text[0] == '-';
    str_copy(sp->oom_score_adj, sizeof(sp->oom_score_adj),
             r == 0 && !sp->is_oom_favoured ? text : "0");
    spawn_limits_tidy(sp);
}

void spawn_limits_tidy(struct spawn *sp)
{
    if (sp->has_cgroups && sp->rules.is_switching) {
        cgroup_remove_empty(&sp->cgroups);
    }
    limits_remove_empty(&sp->limits);
}

void spawn_limits_make(struct spawn *sp, const char *name, const Accel__V1__AttemptSpec *spec,
                       const struct identity *id, struct spawn_groups *ret)
{
    struct spawn_groups g = {.ranks_fd = -1, .shim_fd = -1};
    uint32_t pids = sp->rules.is_switching ? LIMIT_ATTEMPT_PIDS : 0;
    if (sp->has_cgroups && sp->rules.is_switching) {
        /* Shims of an earlier accel-spawn have left theirs, and we were not told of their ends. Of
         * version 1 that waits for the next start: there, a shim joins later than its group is
         * made. */
        cgroup_remove_empty(&sp->cgroups);
    }
    int fd = sp->has_cgroups ? cgroup_make(&sp->cgroups, name) : -1;
    fd = fd < 0 ? -1 : fd; /* the shim keeps the tree together without it */
    limits_make(&sp->limits, name, fd, spec, pids, &g.limits);
    if (id->is_switched && fd >= 0) {
        g.is_split = cgroup_split(fd, id->uid, &g.shim_fd, &g.ranks_fd) == 0;
        base_close_fd(&fd);
    } else {
        g.ranks_fd = fd;
    }
    g.is_shielded = g.limits.oom_fd >= 0 && geteuid() == 0;
    *ret = g;
}

static void private_mount(struct limits *limits)
{
    int r = unshare(CLONE_NEWNS);
    if (r == 0) {
        r = mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL);
    }
    if (r == 0) {
        r = mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
    }
    if (r == 0) {
        r = mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
    }
    char text[LIMIT_TEXT_BYTES];
    snprintf(text, sizeof(text), r == 0 ? "/tmp, /dev/shm: its own" : "/tmp, /dev/shm: shared (%s)",
             strerror(errno));
    limits_add_text(limits, text);
}

void spawn_limits_enter(struct spawn *sp, const Accel__V1__AttemptSpec *spec,
                        const struct identity *id, struct spawn_groups *g)
{
    char text[LIMIT_TEXT_BYTES];
    limits_join(&g->limits);
    if (g->is_shielded) {
        AUTO_CLOSE int fd = open(OOM_FILE, O_WRONLY | O_CLOEXEC);
        g->is_shielded = fd >= 0 && write(fd, OOM_SHIELD, strlen(OOM_SHIELD)) > 0;
    }
    if (spec->private_tmp) {
        private_mount(&g->limits);
    }
    if (id->dropped > 0) {
        snprintf(text, sizeof(text), "groups: %zu of the system not given (not in /etc/group)",
                 id->dropped);
        limits_add_text(&g->limits, text);
    }
    (void)sp;
}

void spawn_groups_close(struct spawn_groups *g)
{
    base_close_fd(&g->ranks_fd);
    base_close_fd(&g->shim_fd);
    limits_done(&g->limits);
}

void spawn_limits_remove(struct spawn *sp, const char *name)
{
    if (sp->has_cgroups) {
        (void)cgroup_remove_split(&sp->cgroups, name);
    }
    (void)limits_remove(&sp->limits, name);
}
