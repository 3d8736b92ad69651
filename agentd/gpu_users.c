/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open accelerators by /proc/PID/fd. Links are read and not followed, since what a descriptor of
 * somebody else points to may hang (a dead file server); only one that has the right name is looked
 * at. Neighbours: device_nvml_scan.c. It must not judge who may.
 */
#include "agentd/gpu_users.h"

#include <dirent.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/str.h"

#define PASSWD_BYTES 4096u /* of one entry; with a longer one the uid is told */

struct target {
    const char *path, *base;
    struct stat st;
    bool exists;
};

static struct target target_of(const char *path)
{
    struct target t = {.path = path};
    const char *slash = strrchr(path, '/');
    t.base = slash ? slash + 1 : path;
    t.exists = stat(path, &t.st) == 0;
    return t;
}

/* A device is known by its number, under whatever path (containers); a plain file (tests) by what
 * it is. */
static bool is_target(const struct target *t, int dir, const char *fd_name, const char *link)
{
    struct stat st;
    const char *slash = strrchr(link, '/');
    if (!t->exists || strcmp(slash ? slash + 1 : link, t->base) != 0)
        return false;
    if (fstatat(dir, fd_name, &st, 0) < 0)
        return false;
    if (S_ISCHR(t->st.st_mode))
        return S_ISCHR(st.st_mode) && st.st_rdev == t->st.st_rdev;
    return st.st_dev == t->st.st_dev && st.st_ino == t->st.st_ino;
}

/* Which targets the process has open, as a row of flags; the last is `also`. */
static void look_into(const char *pid, const struct target *targets, size_t count, bool *ret_open)
{
    char path[32], link[256];
    snprintf(path, sizeof(path), "/proc/%.10s/fd", pid);
    DIR *d = opendir(path);
    if (!d)
        return; /* it has ended, or is not ours to look into */
    for (const struct dirent *e; (e = readdir(d));) {
        ssize_t len =
            e->d_name[0] == '.' ? 0 : readlinkat(dirfd(d), e->d_name, link, sizeof(link) - 1);
        if (len <= 0 || link[0] != '/')
            continue;
        link[len] = 0;
        for (size_t i = 0; i < count; i++) {
            if (!ret_open[i])
                ret_open[i] = is_target(&targets[i], dirfd(d), e->d_name, link);
        }
    }
    closedir(d);
}

void gpu_users_scan(const char *const *paths, size_t count, const char *also,
                    void (*found)(void *ctx, size_t i, uint32_t pid), void *ctx)
{
    bool is_open[GPU_USERS_PATHS_MAX + 1];
    CHECK(count <= GPU_USERS_PATHS_MAX);
    AUTO_FREE struct target *targets = xcalloc(count + 1, sizeof(*targets));
    for (size_t i = 0; i < count; i++)
        targets[i] = target_of(paths[i]);
    if (also)
        targets[count] = target_of(also);
    DIR *proc = opendir("/proc");
    if (!proc)
        return;
    for (const struct dirent *e; (e = readdir(proc));) {
        uint64_t pid;
        if (e->d_name[0] < '1' || e->d_name[0] > '9' ||
            parse_u64(e->d_name, 1, INT32_MAX, &pid) < 0 || (pid_t)pid == getpid())
            continue;
        memset(is_open, 0, sizeof(is_open));
        look_into(e->d_name, targets, count + (also != NULL), is_open);
        for (size_t i = 0; i < count; i++) {
            if (is_open[i] && (!also || is_open[count]))
                found(ctx, i, (uint32_t)pid);
        }
    }
    closedir(proc);
}

static void add_owner(uid_t uid, char *buf, size_t size)
{
    char room[PASSWD_BYTES];
    struct passwd pw, *found = NULL;
    size_t len = strlen(buf);
    if (getpwuid_r(uid, &pw, room, sizeof(room), &found) == 0 && found)
        snprintf(buf + len, size - len, " of %s", pw.pw_name);
    else
        snprintf(buf + len, size - len, " of uid %u", (unsigned)uid);
}

void gpu_user_text(uint32_t pid, char *buf, size_t size)
{
    char path[32], status[1024], name[32] = "";
    unsigned uid;
    snprintf(buf, size, "pid %u", pid);
    snprintf(path, sizeof(path), "/proc/%u/status", pid);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, status, sizeof(status) - 1);
    if (n <= 0)
        return;
    status[n] = 0;
    size_t len = strlen(buf);
    /* The kernel escapes the name, which a process chooses itself. */
    if (sscanf(status, "Name:%*[\t]%31[ -~]", name) == 1)
        snprintf(buf + len, size - len, " (%s)", name);
    const char *line = strstr(status, "\nUid:");
    if (line && sscanf(line, "\nUid:%u", &uid) == 1)
        add_owner(uid, buf, size);
}
