/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a dead shim leaves behind is killed here, until nothing is left. Three ways to find it, all
 * of them used: the attempt's cgroup, children of accel-spawn that are no shims (orphans come to
 * the nearest subreaper above), and every process whose environment holds the mark of the attempt
 * (its old accel-spawn may be dead too, then orphans went elsewhere). Never kills by name or by a
 * pid that was only read from a file: a pidfd is opened first, then the mark is looked at. The
 * first two are proofs. The third is not: a process that cleared its environment, or that forks
 * and exits faster than /proc can be read, is seen only by the other two, that is where there are
 * cgroups or where the accel-spawn that forked the shim has outlived it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agentd/procfs.h"
#include "agentd/shim_internal.h"
#include "agentd/spawn_internal.h"
#include "common/path.h"

#define ENVIRON_BYTES  (16u << 20) /* more than the kernel lets an exec have by default (2 MiB) */
#define PID_FILE_BYTES (1u << 20)  /* a line per rank */

static bool is_shim(void *ctx, pid_t pid)
{
    const struct spawn *sp = ctx;
    for (size_t i = 0; i < sp->shim_count; i++) {
        if (sp->shims[i].pid == pid) {
            return true;
        }
    }
    return false;
}

/* Whether the process was started with exactly this variable. */
static bool has_mark(pid_t pid, const char *mark)
{
    char path[40];
    AUTO_FREE char *text = NULL;
    size_t len;
    size_t mark_len = strlen(mark) + 1; /* with its NUL */
    snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
    int r = path_read_all(AT_FDCWD, path, ENVIRON_BYTES, &text, &len, NULL);
    if (r < 0) {
        return false; /* gone, or another user's */
    }
    for (const char *p = text; p < text + len; p += strlen(p) + 1) {
        if (strncmp(p, mark, mark_len) == 0) {
            return true;
        }
    }
    return false;
}

/* Kills it if it is of the attempt. True if it was; *pidfd becomes its descriptor. */
static bool kill_marked(pid_t pid, const char *mark, int *pidfd)
{
    if (pid == getpid() || !has_mark(pid, mark)) {
        return false;
    }
    AUTO_CLOSE int fd = proc_pidfd_open(pid);
    if (fd < 0 || !has_mark(pid, mark)) {
        return false; /* it has ended, and the pid may be another's by now */
    }
    proc_pidfd_kill(fd, SIGKILL);
    base_close_fd(pidfd);
    *pidfd = STEAL_FD(fd);
    return true;
}

static size_t kill_all_marked(const char *mark, int *pidfd)
{
    DIR *dir = opendir("/proc");
    size_t count = 0;
    struct dirent *e;
    while (dir != NULL && (e = readdir(dir)) != NULL) {
        uint64_t pid;
        if (parse_u64(e->d_name, 1, INT32_MAX, &pid) == 0) {
            count += kill_marked((pid_t)pid, mark, pidfd);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return count;
}

/* The real user of a process; undumpable ones hide it in the owner of /proc/PID. -1: none. */
static uint64_t user_of(pid_t pid)
{
    char path[40];
    AUTO_FREE char *text = NULL;
    size_t len;
    unsigned uid;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    int r = path_read_all(AT_FDCWD, path, ENVIRON_BYTES, &text, &len, NULL);
    const char *line = r == 0 ? strstr(text, "\nUid:") : NULL;
    return line != NULL && sscanf(line, "\nUid: %u", &uid) == 1 ? uid : UINT64_MAX;
}

/* Where users are switched the file is the job's user's: it may name processes of his and no
 * others, and a cgroup of this attempt under a parent of ours (any accel-spawn's of this
 * directory). */
static bool may_kill(const struct spawn *sp, const struct spawn_sweep *sw, pid_t pid)
{
    char name[40];
    struct stat st;
    snprintf(name, sizeof(name), "%" PRIu64 ".%u", sw->job_id, sw->attempt);
    return !sp->rules.is_switching ||
           (fstatat(sp->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_uid == user_of(pid));
}

static bool is_own_cgroup(const struct spawn *sp, const struct spawn_sweep *sw, const char *path)
{
    char end[96];
    const char *parent = strrchr(sp->cgroups.path, '/');
    if (!sp->rules.is_switching) {
        return true;
    }
    snprintf(end, sizeof(end), "%s/%" PRIu64 ".%u", parent != NULL ? parent : "/none", sw->job_id,
             sw->attempt);
    size_t len = strlen(path);
    return strncmp(path, "/sys/fs/cgroup/", 15) == 0 && strstr(path, "/../") == NULL &&
           len > strlen(end) && strcmp(path + len - strlen(end), end) == 0;
}

/* The shim by its own file, where it is not our child: with the start time, a pid is a name. */
static size_t kill_shim(struct spawn *sp, const struct spawn_sweep *sw, int *pidfd, char *cgroup,
                        size_t cgroup_size)
{
    char path[64];
    AUTO_FREE char *text = NULL;
    size_t len;
    int pid = 0;
    uint64_t start = 0;
    cgroup[0] = '\0';
    for (size_t i = 0; i < sp->shim_count; i++) {
        if (sp->shims[i].job_id == sw->job_id && sp->shims[i].attempt == sw->attempt) {
            kill(sp->shims[i].pid, SIGKILL);
            return 1;
        }
    }
    snprintf(path, sizeof(path), "%" PRIu64 ".%u/pid", sw->job_id, sw->attempt);
    int r = path_read_all(sp->dir_fd, path, PID_FILE_BYTES, &text, &len, NULL);
    if (r < 0 || sscanf(text, "%d %" SCNu64, &pid, &start) != 2 || pid <= 1) {
        return 0;
    }
    const char *second = strchr(text, '\n');
    if (second != NULL && second[1] == '/') {
        snprintf(cgroup, cgroup_size, "%.*s", (int)strcspn(second + 1, "\n"), second + 1);
        cgroup[0] = is_own_cgroup(sp, sw, cgroup) ? cgroup[0] : '\0';
    }
    AUTO_CLOSE int fd = proc_pidfd_open(pid);
    if (fd < 0 || start == 0 || proc_start_time(pid) != start || !may_kill(sp, sw, pid)) {
        return 0;
    }
    proc_pidfd_kill(fd, SIGKILL);
    base_close_fd(pidfd);
    *pidfd = STEAL_FD(fd);
    return 1;
}

static int remove_group(const char *path)
{
    char below[PATH_MAX + 96];
    snprintf(below, sizeof(below), "%s/shim", path); /* of a split one */
    rmdir(below);
    snprintf(below, sizeof(below), "%s/ranks", path);
    rmdir(below);
    return rmdir(path);
}

/* 0: the cgroup is gone; 1: something in it was killed and may be dying still. */
static size_t kill_cgroup(struct spawn *sp, struct spawn_sweep *sw, const char *path)
{
    if (path[0] == '\0' || remove_group(path) == 0 || errno != EBUSY) {
        base_close_fd(&sw->cgroup_events_fd); /* of a removed group it would be ready for ever */
        sw->cgroup_events_fd = -1;
        return 0;
    }
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    cgroup_kill(fd);
    if (sw->cgroup_events_fd < 0) {
        sw->cgroup_events_fd = cgroup_events_open(fd);
        if (sw->cgroup_events_fd < 0) {
            return 0;
        }
        spawn_epoll(sp, EPOLL_CTL_ADD, sw->cgroup_events_fd, EPOLLPRI);
    }
    /* Looked at after the watch began: either it is empty by now or an event will come. */
    if (cgroup_is_populated(sw->cgroup_events_fd)) {
        return 1;
    }
    base_close_fd(&sw->cgroup_events_fd);
    sw->cgroup_events_fd = -1;
    (void)remove_group(path);
    return 0;
}

/* One round; true when nothing of the attempt was found. Else something was killed whose end will
 * wake us: a child by SIGCHLD, others by their pidfd or the cgroup. */
static bool sweep_round(struct spawn *sp, struct spawn_sweep *sw)
{
    char mark[PATH_MAX + 64];
    char cgroup[PATH_MAX + 64];
    int pidfd = -1;
    size_t found = 0;
    snprintf(mark, sizeof(mark), "%s=%s/%" PRIu64 ".%u", SHIM_MARK_NAME, sp->dir, sw->job_id,
             sw->attempt);
    if (sw->pidfd >= 0) {
        close(sw->pidfd);
        sw->pidfd = -1;
    }
    found += kill_shim(sp, sw, &pidfd, cgroup, sizeof(cgroup));
    if (cgroup[0] == '\0' && sp->has_cgroups) { /* it died before it wrote its pid */
        snprintf(cgroup, sizeof(cgroup), "%s/%" PRIu64 ".%u", sp->cgroups.path, sw->job_id,
                 sw->attempt);
    }
    found += kill_cgroup(sp, sw, cgroup);
    found += tree_kill_children(is_shim, sp);
    found += kill_all_marked(mark, &pidfd);
    if (found > 0 && pidfd >= 0) {
        sw->pidfd = pidfd;
        spawn_epoll(sp, EPOLL_CTL_ADD, pidfd, EPOLLIN);
        return false;
    }
    base_close_fd(&pidfd);
    return found == 0;
}

void sweep_on_ready(struct spawn *sp, int fd)
{
    for (size_t i = 0; i < sp->sweep_count; i++) {
        struct spawn_sweep *sw = &sp->sweeps[i];
        sw->is_due = sw->is_due || fd < 0 || fd == sw->pidfd || fd == sw->cgroup_events_fd;
    }
}

void sweep_add(struct spawn *sp, uint64_t job_id, uint32_t attempt)
{
    if (sp->sweep_count == SPAWN_SWEEPS) {
        sp->is_over = true;
        return;
    }
    if (sp->sweep_count == sp->sweep_cap) {
        sp->sweep_cap = MAX(sp->sweep_cap * 2, (size_t)8);
        sp->sweeps = xrealloc(sp->sweeps, sp->sweep_cap * sizeof(*sp->sweeps));
    }
    sp->sweeps[sp->sweep_count++] = (struct spawn_sweep){
        .job_id = job_id, .attempt = attempt, .is_due = true, .pidfd = -1, .cgroup_events_fd = -1};
}

static void sweep_finish(struct spawn *sp, size_t index)
{
    char name[40];
    struct spawn_sweep sw = sp->sweeps[index];
    Accel__V1__SpawnReply reply = ACCEL__V1__SPAWN_REPLY__INIT;
    base_close_fd(&sw.pidfd);
    base_close_fd(&sw.cgroup_events_fd);
    sp->sweeps[index] = sp->sweeps[--sp->sweep_count];
    reply.job_id = sw.job_id;
    reply.attempt = sw.attempt;
    reply.kind = ACCEL__V1__SPAWN_REPLY__KIND__SWEPT;
    spawn_reply(sp, &reply);
    snprintf(name, sizeof(name), "%" PRIu64 ".%u", sw.job_id, sw.attempt);
    (void)limits_remove(&sp->limits, name);
}

void sweep_advance(struct spawn *sp)
{
    for (size_t i = sp->sweep_count; i > 0; i--) {
        struct spawn_sweep *sw = &sp->sweeps[i - 1];
        if (!sw->is_due) {
            continue;
        }
        sw->is_due = false;
        if (sweep_round(sp, sw)) {
            sweep_finish(sp, i - 1);
        }
    }
    if (sp->may_have_orphans && sp->sweep_count == 0) {
        sp->may_have_orphans = tree_kill_children(is_shim, sp) > 0;
    }
}
