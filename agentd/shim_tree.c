/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of everything that an attempt has started. The shim is a subreaper: whatever the ranks
 * leave behind, however it was detached, becomes the shim's child when its parent dies. So
 * `no child left` is the proof that nothing is left, with a cgroup or without; the cgroup only
 * makes the killing atomic. Also used by accel-spawn for the orphans of a dead shim.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "agentd/limits_cgroup.h"
#include "agentd/procfs.h"
#include "agentd/shim_internal.h"

static size_t kill_child(pid_t pid, bool (*keep)(void *ctx, pid_t pid), void *ctx)
{
    if (keep != NULL && keep(ctx, pid)) {
        return 0;
    }
    /* A child of ours cannot be replaced by a stranger before we reap it. */
    kill(pid, SIGKILL);
    return 1;
}

/* Kernels without CONFIG_PROC_CHILDREN. */
static size_t kill_by_parent(bool (*keep)(void *ctx, pid_t pid), void *ctx)
{
    DIR *dir = opendir("/proc");
    size_t count = 0;
    struct dirent *e;
    while (dir != NULL && (e = readdir(dir)) != NULL) {
        uint64_t pid;
        char state;
        pid_t parent;
        uint64_t start;
        if (parse_u64(e->d_name, 1, INT32_MAX, &pid) == 0 &&
            proc_stat((pid_t)pid, &state, &parent, &start) && parent == getpid()) {
            count += kill_child((pid_t)pid, keep, ctx);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return count;
}

size_t tree_kill_children(bool (*keep)(void *ctx, pid_t pid), void *ctx)
{
    char path[64];
    char text[4096];
    size_t count = 0;
    pid_t pid = 0;
    snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return kill_by_parent(keep, ctx);
    }
    for (;;) {
        ssize_t n = read(fd, text, sizeof(text));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            break;
        }
        for (ssize_t i = 0; i < n; i++) {
            if (text[i] >= '0' && text[i] <= '9') {
                pid = pid * 10 + (text[i] - '0');
            } else if (pid > 0) {
                count += kill_child(pid, keep, ctx);
                pid = 0;
            }
        }
    }
    return count + (pid > 0 ? kill_child(pid, keep, ctx) : 0);
}

static int remove_own_cgroup(struct shim *s)
{
    s->has_oom = s->has_oom || limits_oom_kills(s->start->limits->oom_fd) > 0;
    return cgroup_remove(s->start->cgroups, s->name);
}

/* Whether the cgroup is gone. A process in it that is no child of ours was put there by somebody
 * with the right to; it goes too. */
static bool cgroup_is_gone(struct shim *s)
{
    bool is_ours = s->cgroup_fd >= 0 && !s->start->is_cgroup_split;
    if (s->cgroup_fd < 0 || (is_ours && remove_own_cgroup(s) != -EBUSY)) {
        base_close_fd(&s->cgroup_events_fd); /* of a removed group it would be ready for ever */
        s->cgroup_events_fd = -1;
        return true;
    }
    cgroup_kill(s->cgroup_fd);
    if (s->cgroup_events_fd < 0) {
        s->cgroup_events_fd = cgroup_events_open(s->cgroup_fd);
        if (s->cgroup_events_fd < 0) {
            return true;
        }
        shim_epoll(s, EPOLL_CTL_ADD, s->cgroup_events_fd, EPOLLPRI, SOURCE_CGROUP, 0);
    }
    /* Looked at after the watch began: either it is empty by now or an event will come. */
    if (cgroup_is_populated(s->cgroup_events_fd)) {
        return false;
    }
    base_close_fd(&s->cgroup_events_fd);
    s->cgroup_events_fd = -1;
    if (is_ours) {
        remove_own_cgroup(s);
    }
    return true;
}

bool tree_kill_round(struct shim *s)
{
    if (!s->has_no_children) {
        ranks_reap(s);
    }
    if (s->has_no_children) {
        return cgroup_is_gone(s);
    }
    if (s->cgroup_fd >= 0 && !s->is_cgroup_killed) {
        s->is_cgroup_killed = cgroup_kill(s->cgroup_fd);
    }
    /* Each death is told by a SIGCHLD after the dead one's children have become ours, so the
     * next round sees them; a child that forks in a storm loses more than it wins. */
    tree_kill_children(NULL, NULL);
    return false;
}
