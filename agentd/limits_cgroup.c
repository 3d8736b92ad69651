/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits by cgroup, see limits_cgroup.h. Neighbours: spawn.c makes and removes, cgroup.c tracks and
 * kills, devctl.c knows devices. Decides no number: they come with the specification.
 */
#include "agentd/limits_cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agentd/devctl.h"
#include "common/path.h"
#include "common/str.h"

#define CPU_PERIOD_US 100000u /* cpu.max and cpu.cfs_period_us: the kernel's own default */
#define MOUNTS_BYTES  (1u << 20)

static const struct {
    const char *name; /* of the controller */
    const char *title;
} kinds[LIMIT_KINDS] = {
    [LIMIT_KIND_MEMORY] = {"memory", "memory"},
    [LIMIT_KIND_CPU] = {"cpu", "cpu"},
    [LIMIT_KIND_PIDS] = {"pids", "processes"},
    [LIMIT_KIND_DEVICES] = {"devices", "devices"},
};

/* ---- files ---- */

static int write_control(const struct limits_root *l, int dir_fd, const char *file,
                         const char *text)
{
    AUTO_CLOSE int fd =
        openat(dir_fd, file, O_WRONLY | O_CLOEXEC | (l->is_test ? O_CREAT | O_APPEND : 0), 0600);
    if (fd < 0) {
        return -errno;
    }
    return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* Whether the word is in the file (a list separated by blanks or commas). */
static bool has_word(const char *text, const char *word)
{
    size_t len = strlen(word);
    for (const char *p = text; (p = strstr(p, word)) != NULL; p += len) {
        bool begins = p == text || strchr(" ,\n:", p[-1]) != NULL;
        if (begins && (p[len] == '\0' || strchr(" ,\n:", p[len]) != NULL)) {
            return true;
        }
    }
    return false;
}

static char *read_text(int dir_fd, const char *path)
{
    char *text = NULL;
    size_t len;
    int r = path_read_all(dir_fd, path, MOUNTS_BYTES, &text, &len, NULL);
    return r == 0 ? text : NULL;
}

/* ---- version 2 ---- */

static bool has_controller(int dir_fd, const char *name)
{
    AUTO_FREE char *text = read_text(dir_fd, "cgroup.controllers");
    return text != NULL && has_word(text, name);
}

/* Whether nobody is in the group but us and who started us; then it was made for us. */
static bool is_delegated(int dir_fd)
{
    AUTO_FREE char *text = read_text(dir_fd, "cgroup.procs");
    char *rest = text;
    char *line;
    size_t count = 0;
    while (rest != NULL && (line = strsep(&rest, "\n")) != NULL) {
        uint64_t pid;
        if (line[0] == '\0') {
            continue;
        }
        if (parse_u64(line, 1, INT32_MAX, &pid) < 0 ||
            (pid != (uint64_t)getpid() && pid != (uint64_t)getppid())) {
            return false;
        }
        count++;
    }
    return count > 0;
}

static bool move_to_leaf(const struct limits_root *l, int dir_fd)
{
    char pid[16];
    if (!is_delegated(dir_fd) || (mkdirat(dir_fd, CGROUP_LEAF, 0755) < 0 && errno != EEXIST)) {
        return false;
    }
    AUTO_CLOSE int leaf = openat(dir_fd, CGROUP_LEAF, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(pid, sizeof(pid), "%d", (int)getppid());
    return leaf >= 0 && write_control(l, leaf, "cgroup.procs", pid) == 0 &&
           write_control(l, leaf, "cgroup.procs", "0") == 0;
}

/* A group with processes that passes a controller on makes the groups below it unfit for processes:
 * the kernel refuses it (memory), or takes it for a tree of threads (cpu, pids). Only the root of
 * the tree may, which alone has no type. */
static int make_empty(const struct limits_root *l, int dir_fd)
{
    if (faccessat(dir_fd, "cgroup.type", F_OK, 0) < 0 && errno == ENOENT) {
        return 0;
    }
    AUTO_FREE char *text = read_text(dir_fd, "cgroup.procs");
    return (text != NULL && text[0] == '\0') || move_to_leaf(l, dir_fd) ? 0 : -EBUSY;
}

/* For people, why a step towards a controller failed. */
static const char *why_not(int r)
{
    switch (r) {
    case -EROFS: return "cgroups are read-only";
    case -EBUSY: return "other processes are in the group of acceld";
    case -EACCES:
    case -EPERM: return geteuid() != 0 ? "not root" : "cgroups cannot be written";
    default: return strerror(-r);
    }
}

/* Makes the controller one of our parent's children: NULL, or why not. */
static const char *enable_unified(const struct limits_root *l, const char *name)
{
    const struct cgroup_root *root = l->unified;
    char above[PATH_MAX];
    char enable[24];
    int r = 0;
    snprintf(enable, sizeof(enable), "+%s", name);
    if (!has_controller(root->fd, name)) {
        str_copy(above, sizeof(above), root->path);
        char *slash = strrchr(above, '/');
        CHECK(slash != NULL);
        *slash = '\0';
        AUTO_CLOSE int dir_fd = open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir_fd < 0 || !has_controller(dir_fd, name)) {
            return "the controller is not given to the group of acceld";
        }
        r = make_empty(l, dir_fd);
        if (r == 0) {
            r = write_control(l, dir_fd, "cgroup.subtree_control", enable);
        }
    }
    if (r == 0) {
        r = write_control(l, root->fd, "cgroup.subtree_control", enable);
    }
    return r == 0 ? NULL : why_not(r);
}

static const char *try_devices(const struct limits_root *l)
{
    int r = devctl_try_attach(l->unified->fd);
    return r == 0                         ? NULL
           : r == -EINVAL || r == -ENOSYS ? "this kernel takes no device program"
                                          : why_not(r);
}

/* ---- version 1 ---- */

/* Where the controller of version 1 (name NULL: version 2) is mounted; "" if it is not. */
static void find_mount(const char *mounts, const char *name, char *path, size_t size)
{
    AUTO_FREE char *text = read_text(AT_FDCWD, mounts);
    char *rest = text;
    char *line;
    path[0] = '\0';
    while (rest != NULL && (line = strsep(&rest, "\n")) != NULL) {
        char where[512];
        char type[32];
        char options[512];
        if (sscanf(line, "%*s %511s %31s %511s", where, type, options) == 3 &&
            strcmp(type, name != NULL ? "cgroup" : "cgroup2") == 0 &&
            (name == NULL || has_word(options, name))) {
            str_copy(path, size, where);
            return;
        }
    }
}

/* The line "4:memory:/path" of /proc/self/cgroup. */
static void own_path(const char *name, char *path, size_t size)
{
    AUTO_FREE char *text = read_text(AT_FDCWD, "/proc/self/cgroup");
    char *rest = text;
    char *line;
    path[0] = '\0';
    while (rest != NULL && (line = strsep(&rest, "\n")) != NULL) {
        char *first = strchr(line, ':');
        char *second = first != NULL ? strchr(first + 1, ':') : NULL;
        if (second == NULL) {
            continue;
        }
        *second = '\0';
        if (has_word(first + 1, name) && strcmp(second + 1, "/") != 0 &&
            strstr(second + 1, "/..") == NULL) {
            str_copy(path, size, second + 1);
        }
    }
}

/* False, with c->why as it was, where no such controller is mounted. */
static bool find_v1(struct limit_controller *c, const char *kind, const char *name,
                    const char *mounts)
{
    char base[512];
    char own[PATH_MAX / 2];
    char dir[PATH_MAX];
    int sys = 0;
    find_mount(mounts, kind, base, sizeof(base));
    if (base[0] == '\0') {
        return false;
    }
    own_path(kind, own, sizeof(own));
    for (int i = 0; i < 2; i++, own[0] = '\0') { /* beside ourselves, else at the top */
        if (snprintf(dir, sizeof(dir), "%s%s", base, own) < (int)sizeof(dir) &&
            access(dir, W_OK) == 0 &&
            snprintf(c->path, sizeof(c->path), "%s%s/%s", base, own, name) < (int)sizeof(c->path)) {
            c->version = 1;
            return true;
        }
        sys = errno;
    }
    str_copy(c->why, sizeof(c->why), why_not(-sys));
    return true;
}

/* ---- the node ---- */

/* Why accel-spawn could not use version 2 at all. */
static const char *why_no_unified(const char *mounts)
{
    char base[512];
    find_mount(mounts, NULL, base, sizeof(base));
    if (base[0] == '\0') {
        return "this machine has no such controller for us";
    }
    return access(base, W_OK) < 0 ? why_not(-errno) : "cgroups are not used here";
}

void limits_root_init(struct limits_root *l, const struct cgroup_root *unified, const char *name,
                      const char *mounts)
{
    bool is_test = l->is_test;
    *l = (struct limits_root){.unified = unified, .is_test = is_test};
    for (size_t i = 0; i < LIMIT_KINDS; i++) {
        struct limit_controller *c = &l->controllers[i];
        const char *why = unified == NULL           ? why_no_unified(mounts)
                          : i == LIMIT_KIND_DEVICES ? try_devices(l)
                                                    : enable_unified(l, kinds[i].name);
        if (why == NULL) {
            c->version = 2;
        } else if (!find_v1(c, kinds[i].name, name, mounts)) {
            str_copy(c->why, sizeof(c->why), why);
        }
    }
}

void limits_describe(const struct limits_root *l, char texts[][LIMIT_TEXT_BYTES])
{
    for (size_t i = 0; i < LIMIT_KINDS; i++) {
        const struct limit_controller *c = &l->controllers[i];
        if (c->version == 0) {
            snprintf(texts[i], LIMIT_TEXT_BYTES, "%s: not enforced (%s)", kinds[i].title, c->why);
        } else {
            snprintf(texts[i], LIMIT_TEXT_BYTES, "%s: cgroup v%d", kinds[i].title, c->version);
        }
    }
}

void limits_root_done(struct limits_root *l)
{
    for (size_t i = 0; i < LIMIT_KINDS; i++) {
        if (l->controllers[i].version == 1) {
            rmdir(l->controllers[i].path); /* stays while shims are in it */
        }
    }
}

/* ---- one attempt ---- */

static void add_text(struct limits *s, enum limit_kind kind, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

static void add_text(struct limits *s, enum limit_kind kind, const char *fmt, ...)
{
    va_list ap;
    if (s->text_count == LIMIT_TEXTS) {
        return;
    }
    va_start(ap, fmt);
    vsnprintf(s->texts[s->text_count], LIMIT_TEXT_BYTES, fmt, ap);
    va_end(ap);
    s->text_kinds[s->text_count++] = kind;
}

void limits_add_text(struct limits *s, const char *text)
{
    add_text(s, (enum limit_kind)LIMIT_KINDS, "%s", text);
}

static int set_memory(const struct limits_root *l, int version, int fd, uint64_t bytes)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRIu64, bytes);
    int r = write_control(l, fd, version == 2 ? "memory.max" : "memory.limit_in_bytes", text);
    /* What does not fit is to be killed, not to fill the swap. Kernels without swap have neither.
     */
    (void)write_control(l, fd, version == 2 ? "memory.swap.max" : "memory.memsw.limit_in_bytes",
                        version == 2 ? "0" : text);
    return r;
}

static int set_cpu(const struct limits_root *l, int version, int fd, uint32_t cpus)
{
    char text[48];
    uint64_t quota = (uint64_t)cpus * CPU_PERIOD_US;
    if (version == 2) {
        snprintf(text, sizeof(text), "%" PRIu64 " %u", quota, CPU_PERIOD_US);
        return write_control(l, fd, "cpu.max", text);
    }
    snprintf(text, sizeof(text), "%u", CPU_PERIOD_US);
    int r = write_control(l, fd, "cpu.cfs_period_us", text);
    snprintf(text, sizeof(text), "%" PRIu64, quota);
    return r < 0 ? r : write_control(l, fd, "cpu.cfs_quota_us", text);
}

static int set_pids(const struct limits_root *l, int fd, uint32_t pids)
{
    char text[16];
    snprintf(text, sizeof(text), "%u", pids);
    return write_control(l, fd, "pids.max", text);
}

static int set_devices(int version, int fd, const Accel__V1__AttemptSpec *spec)
{
    struct devctl d;
    int r = 0;
    devctl_init(&d);
    for (size_t i = 0; i < spec->n_device_paths && r == 0; i++) {
        struct accel_error err = {0};
        r = devctl_allow(&d, spec->device_paths[i], &err);
        r = r < 0 ? -(err.sys != 0 ? err.sys : EINVAL) : 0;
    }
    if (r == 0) {
        r = version == 2 ? devctl_attach(&d, fd) : devctl_write(&d, fd);
    }
    devctl_done(&d);
    return r;
}

/* The attempt's group of a version 1 controller, and its cgroup.procs for the shim. */
static int open_v1(const struct limit_controller *c, const char *name, int *ret_join_fd)
{
    char path[PATH_MAX + 64];
    if (mkdir(c->path, 0755) == 0) {
        (void)chmod(c->path, 0755); /* programs look up their own limits, whatever our umask is */
    } else if (errno != EEXIST) {
        return -errno;
    }
    snprintf(path, sizeof(path), "%s/%s", c->path, name);
    if (mkdir(path, 0755) == 0) {
        (void)chmod(path, 0755);
    } else if (errno != EEXIST) {
        return -errno;
    }
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    *ret_join_fd = openat(fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    return *ret_join_fd < 0 ? -errno : STEAL_FD(fd);
}

static int set_kind(const struct limits_root *l, enum limit_kind kind, int fd,
                    const Accel__V1__AttemptSpec *spec, uint32_t pids)
{
    int version = l->controllers[kind].version;
    switch (kind) {
    case LIMIT_KIND_MEMORY: return set_memory(l, version, fd, spec->memory_bytes);
    case LIMIT_KIND_CPU: return set_cpu(l, version, fd, spec->cpus);
    case LIMIT_KIND_PIDS: return set_pids(l, fd, pids);
    case LIMIT_KIND_DEVICES: return set_devices(version, fd, spec);
    }
    return -EINVAL;
}

static void say_set(struct limits *s, enum limit_kind kind, int version,
                    const Accel__V1__AttemptSpec *spec, uint32_t pids)
{
    bool is_large = spec->memory_bytes >= 1 << 30;
    switch (kind) {
    case LIMIT_KIND_MEMORY:
        add_text(s, kind, "memory: %.1f %s (cgroup v%d)",
                 (double)spec->memory_bytes / (is_large ? 1 << 30 : 1 << 20),
                 is_large ? "GiB" : "MiB", version);
        break;
    case LIMIT_KIND_CPU:
        add_text(s, kind, "cpu: %u CPU%s (cgroup v%d)", spec->cpus, spec->cpus == 1 ? "" : "s",
                 version);
        break;
    case LIMIT_KIND_PIDS: add_text(s, kind, "processes: %u (cgroup v%d)", pids, version); break;
    case LIMIT_KIND_DEVICES:
        add_text(s, kind, "devices: only its own (cgroup v%d)", version);
        break;
    }
}

static int open_oom(int version, int fd)
{
    return openat(fd, version == 2 ? "memory.events" : "memory.oom_control", O_RDONLY | O_CLOEXEC);
}

static void make_kind(const struct limits_root *l, enum limit_kind kind, const char *name,
                      int group_fd, const Accel__V1__AttemptSpec *spec, uint32_t pids,
                      struct limits *s)
{
    const struct limit_controller *c = &l->controllers[kind];
    AUTO_CLOSE int v1_fd = -1;
    int fd = group_fd;
    if (c->version == 0 || (c->version == 2 && group_fd < 0)) {
        add_text(s, kind, "%s: not enforced (%s)", kinds[kind].title,
                 c->version == 0 ? c->why : "the attempt has no cgroup");
        return;
    }
    if (c->version == 1) {
        v1_fd = open_v1(c, name, &s->join_fds[kind]);
        fd = v1_fd;
    }
    int r = fd < 0 ? fd : set_kind(l, kind, fd, spec, pids);
    if (r < 0) {
        base_close_fd(&s->join_fds[kind]);
        s->join_fds[kind] = -1;
        add_text(s, kind, "%s: not enforced (%s)", kinds[kind].title, strerror(-r));
        return;
    }
    if (kind == LIMIT_KIND_MEMORY) {
        s->oom_fd = open_oom(c->version, fd);
    }
    say_set(s, kind, c->version, spec, pids);
}

void limits_make(const struct limits_root *l, const char *name, int group_fd,
                 const Accel__V1__AttemptSpec *spec, uint32_t default_pids, struct limits *ret)
{
    uint32_t pids = spec->pids != 0 ? spec->pids : default_pids;
    const bool asked[LIMIT_KINDS] = {
        [LIMIT_KIND_MEMORY] = spec->memory_bytes > 0,
        [LIMIT_KIND_CPU] = spec->cpus > 0,
        [LIMIT_KIND_PIDS] = pids > 0,
        [LIMIT_KIND_DEVICES] = spec->limit_devices,
    };
    *ret = (struct limits){.join_fds = {-1, -1, -1, -1}, .oom_fd = -1};
    for (size_t i = 0; i < LIMIT_KINDS; i++) {
        if (asked[i]) {
            make_kind(l, (enum limit_kind)i, name, group_fd, spec, pids, ret);
        }
    }
}

void limits_join(struct limits *s)
{
    for (size_t i = 0; i < s->text_count; i++) {
        enum limit_kind kind = s->text_kinds[i];
        if ((size_t)kind >= LIMIT_KINDS || s->join_fds[kind] < 0 ||
            write(s->join_fds[kind], "0", 1) == 1) {
            continue;
        }
        snprintf(s->texts[i], LIMIT_TEXT_BYTES, "%s: not enforced (%s)", kinds[kind].title,
                 strerror(errno));
    }
}

void limits_done(struct limits *s)
{
    for (size_t i = 0; i < LIMIT_KINDS; i++) {
        base_close_fd(&s->join_fds[i]);
        s->join_fds[i] = -1;
    }
    base_close_fd(&s->oom_fd);
    s->oom_fd = -1;
}

bool limits_remove(const struct limits_root *l, const char *name)
{
    char path[PATH_MAX + 64];
    bool is_gone = true;
    for (size_t i = 0; i < LIMIT_KINDS; i++) {
        const struct limit_controller *c = &l->controllers[i];
        if (c->version == 1) {
            snprintf(path, sizeof(path), "%s/%s", c->path, name);
            is_gone = (rmdir(path) == 0 || errno == ENOENT) && is_gone;
        }
    }
    return is_gone;
}

void limits_remove_empty(const struct limits_root *l)
{
    for (size_t i = 0; i < LIMIT_KINDS; i++) {
        const struct limit_controller *c = &l->controllers[i];
        DIR *dir = c->version == 1 ? opendir(c->path) : NULL;
        struct dirent *e;
        while (dir != NULL && (e = readdir(dir)) != NULL) {
            if (e->d_type == DT_DIR && e->d_name[0] != '.') {
                (void)unlinkat(dirfd(dir), e->d_name, AT_REMOVEDIR); /* not those in use */
            }
        }
        if (dir != NULL) {
            closedir(dir);
        }
    }
}

uint64_t limits_oom_kills(int oom_fd)
{
    char text[512];
    uint64_t count = 0;
    ssize_t n = oom_fd < 0 ? -1 : pread(oom_fd, text, sizeof(text) - 1, 0);
    if (n <= 0) {
        return 0;
    }
    text[n] = '\0';
    /* Both files have a line "oom_kill N"; version 1 also has "oom_kill_disable N". */
    for (const char *p = text; (p = strstr(p, "oom_kill ")) != NULL; p++) {
        if (p == text || p[-1] == '\n') {
            return sscanf(p, "oom_kill %" SCNu64, &count) == 1 ? count : 0;
        }
    }
    return 0;
}
