/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cgroups of the unified hierarchy as accel-spawn and the shim need them: a directory per attempt,
 * processes born into it, killed with it. Neighbours: spawn.c makes, shim_rank.c forks into,
 * shim_tree.c kills and removes. Sets no limits and moves no process that lives already: writing
 * cgroup.procs costs 10 ms where clone3 into the group costs nothing.
 */
#include "agentd/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define CHILD_STACK_BYTES (256u << 10) /* more than a child uses before its exec */
#endif

#include "agentd/procfs.h"
#include "common/path.h"

#define CGROUP2_MAGIC     0x63677270 /* CGROUP2_SUPER_MAGIC of linux/magic.h */
#define TRY_NAME          "try"      /* no attempt has this name */
#define PROC_CGROUP_BYTES 65536      /* /proc/self/cgroup has a line per hierarchy */

static uint64_t fnv1a(const char *s)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a, 64 bits (Fowler, Noll, Vo) */
    for (; *s != '\0'; s++) {
        h = (h ^ (unsigned char)*s) * 1099511628211u;
    }
    return h;
}

/* Where the unified hierarchy is mounted: on its own, or beside version 1. */
static const char *find_unified(void)
{
    static const char *const places[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        struct statfs fs;
        if (statfs(places[i], &fs) == 0 && fs.f_type == CGROUP2_MAGIC) {
            return places[i];
        }
    }
    return NULL;
}

/* The line "0::/path" of /proc/self/cgroup; "" for the root or if there is none. */
static void own_cgroup(char *path, size_t size)
{
    AUTO_FREE char *text = NULL;
    size_t len;
    char *save = NULL;
    path[0] = '\0';
    int r = path_read_all(AT_FDCWD, "/proc/self/cgroup", PROC_CGROUP_BYTES, &text, &len, NULL);
    if (r < 0) {
        return;
    }
    for (char *line = strtok_r(text, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        /* A path with "/.." is above our cgroup namespace: out of reach. */
        if (strncmp(line, "0::/", 4) == 0 && line[4] != '\0' && strstr(line, "/..") == NULL) {
            snprintf(path, size, "%s", line + 3);
        }
    }
    char *leaf = strrchr(path, '/');
    if (leaf != NULL && strcmp(leaf, "/" CGROUP_LEAF) == 0) {
        *leaf = '\0';
    }
}

static void exit_at_once(void *arg)
{
    (void)arg;
    _exit(0);
}

/* There or made: readable for all whatever our umask is, since programs look up their own limits.
 */
static int make_group(int at_fd, const char *path)
{
    if (mkdirat(at_fd, path, 0755) < 0) {
        return errno == EEXIST ? 0 : -errno;
    }
    return fchmodat(at_fd, path, 0755, 0) < 0 ? -errno : 0;
}

/* Whether a process can be born into a group below the parent; into the parent itself it cannot
 * once that passes controllers on, as it does since an earlier accel-spawn. */
static bool try_fork(int parent_fd)
{
    bool in_cgroup = false;
    if (make_group(parent_fd, TRY_NAME) < 0) {
        return false;
    }
    AUTO_CLOSE int fd = openat(parent_fd, TRY_NAME, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int pid = fd < 0 ? -1 : cgroup_vfork(fd, exit_at_once, NULL, NULL, &in_cgroup);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
    (void)unlinkat(parent_fd, TRY_NAME, AT_REMOVEDIR);
    return pid > 0 && in_cgroup;
}

static bool root_open(struct cgroup_root *root)
{
    if (make_group(AT_FDCWD, root->path) < 0) {
        return false;
    }
    root->fd = open(root->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return root->fd >= 0;
}

static bool root_try(struct cgroup_root *root, const char *base, const char *below,
                     const char *name)
{
    int len = snprintf(root->path, sizeof(root->path), "%s%s/%s", base, below, name);
    if (len < 0 || (size_t)len >= sizeof(root->path)) {
        return false;
    }
    if (root_open(root) && faccessat(root->fd, "cgroup.kill", W_OK, 0) == 0 && try_fork(root->fd)) {
        return true;
    }
    base_close_fd(&root->fd);
    root->fd = -1;
    rmdir(root->path);
    return false;
}

void cgroup_parent_name(const char *attempts_dir, char *name, size_t size)
{
    /* Containers that see the host's cgroups have equal paths for different directories. */
    struct stat st = {0};
    char text[PATH_MAX + 64];
    int r = stat(attempts_dir, &st);
    if (r < 0) {
        st = (struct stat){0};
    }
    snprintf(text, sizeof(text), "%llx:%llx:%s", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino, attempts_dir);
    snprintf(name, size, "accel-%u-%016" PRIx64, (unsigned)geteuid(), fnv1a(text));
}

bool cgroup_root_init(struct cgroup_root *root, const char *attempts_dir, bool is_top)
{
    const char *base = find_unified();
    char own[PATH_MAX];
    char name[64];
    cgroup_parent_name(attempts_dir, name, sizeof(name));
    root->fd = -1;
    root->path[0] = '\0';
    if (base == NULL) {
        return false;
    }
    own_cgroup(own, sizeof(own));
    if (is_top) {
        own[0] = '\0';
    }
    return root_try(root, base, own, name) || (own[0] != '\0' && root_try(root, base, "", name));
}

void cgroup_root_done(struct cgroup_root *root)
{
    if (root->fd < 0) {
        return;
    }
    base_close_fd(&root->fd);
    root->fd = -1;
    rmdir(root->path);
}

int cgroup_make(struct cgroup_root *root, const char *name)
{
    int fd;
    int r = make_group(root->fd, name);
    if (r == -ENOENT || r == -ENODEV) {
        /* The last shim of an earlier accel-spawn has removed the parent behind us. */
        base_close_fd(&root->fd);
        r = root_open(root) ? make_group(root->fd, name) : -errno;
    }
    if (r < 0) {
        return r;
    }
    fd = openat(root->fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int cgroup_split(int cgroup_fd, uid_t uid, int *ret_shim_fd, int *ret_ranks_fd)
{
    static const char *const names[] = {"shim", "ranks"};
    int fds[2];
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        int r = make_group(cgroup_fd, names[i]);
        if (r < 0) {
            return r;
        }
    }
    /* Where it may put a process, what it shares with where that comes from, and the way to end
     * all. */
    if (fchownat(cgroup_fd, "cgroup.procs", uid, (gid_t)-1, 0) < 0 ||
        fchownat(cgroup_fd, "ranks/cgroup.procs", uid, (gid_t)-1, 0) < 0 ||
        fchownat(cgroup_fd, "ranks/cgroup.kill", uid, (gid_t)-1, 0) < 0) {
        return -errno;
    }
    fds[0] = openat(cgroup_fd, names[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fds[1] = openat(cgroup_fd, names[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fds[0] < 0 || fds[1] < 0) {
        int r = -errno;
        base_close_fd(&fds[0]);
        base_close_fd(&fds[1]);
        return r;
    }
    *ret_shim_fd = fds[0];
    *ret_ranks_fd = fds[1];
    return 0;
}

int cgroup_remove_split(const struct cgroup_root *root, const char *name)
{
    static const char *const below[] = {"/shim", "/ranks", ""};
    char path[NAME_MAX + sizeof("/ranks")];
    for (size_t i = 0; i < ARRAY_LEN(below); i++) {
        snprintf(path, sizeof(path), "%s%s", name, below[i]);
        if (unlinkat(root->fd, path, AT_REMOVEDIR) < 0 && errno != ENOENT && errno != ENODEV) {
            return -errno;
        }
    }
    return 0;
}

void cgroup_remove_empty(const struct cgroup_root *root)
{
    int fd = openat(root->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;
    while (dir != NULL && (e = readdir(dir)) != NULL) {
        if (e->d_type == DT_DIR && e->d_name[0] != '.') {
            (void)cgroup_remove_split(root, e->d_name); /* those with processes in them stay */
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
}

int cgroup_fork(int cgroup_fd)
{
    struct clone_args args = {
        .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)cgroup_fd};
    long pid = cgroup_fd >= 0 ? syscall(SYS_clone3, &args, sizeof(args)) : -1;
    if (pid < 0) {
        pid = fork();
    }
    return pid < 0 ? -errno : (int)pid;
}

bool cgroup_kill(int cgroup_fd)
{
    AUTO_CLOSE int fd = openat(cgroup_fd, "cgroup.kill", O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, "1", 1) == 1;
}

int cgroup_remove(struct cgroup_root *root, const char *name)
{
    if (unlinkat(root->fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT && errno != ENODEV) {
        return -errno;
    }
    return 0;
}

int cgroup_events_open(int cgroup_fd)
{
    int fd = openat(cgroup_fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

bool cgroup_is_populated(int events_fd)
{
    char text[256];
    ssize_t n = pread(events_fd, text, sizeof(text) - 1, 0);
    if (n <= 0) {
        return false; /* the group is gone */
    }
    text[n] = '\0';
    return strstr(text, "populated 1") != NULL;
}

/* clone3 as the C library's vfork() does it, with a call instead of a second return: the child runs
 * on the caller's stack below what the caller uses, and never comes back into its frame. -1 with
 * errno where it cannot be had; then nothing was made. */
static long clone_call(struct clone_args *args, void (*run)(void *arg), void *arg)
{
    long r = -ENOSYS;
#if defined(__x86_64__)
    /* 128: the red zone, which this function may be using. */
    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "subq $128, %%rsp\n\t"
                     "andq $-16, %%rsp\n\t"
                     "movq %[arg], %%rdi\n\t"
                     "callq *%[run]\n\t"
                     "ud2\n"
                     "1:"
                     : "=a"(r)
                     : "a"((long)SYS_clone3), "D"(args),
                       "S"(sizeof(*args)), [run] "r"(run), [arg] "r"(arg)
                     : "rcx", "r11", "memory", "cc");
#elif defined(__aarch64__)
    register long x0 __asm__("x0") = (long)args;
    register long x1 __asm__("x1") = (long)sizeof(*args);
    register long x8 __asm__("x8") = SYS_clone3;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x0, %[arg]\n\t"
                     "blr %[run]\n\t"
                     "brk #1\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x1), "r"(x8), [run] "r"(run), [arg] "r"(arg)
                     : "x30", "memory", "cc");
    r = x0;
#else
    (void)args;
    (void)run;
    (void)arg;
#endif
#ifdef __SANITIZE_ADDRESS__
    /* The child's frames were never left, and their marks are in our memory. */
    char *here = __builtin_frame_address(0);
    __asan_unpoison_memory_region(here - CHILD_STACK_BYTES, CHILD_STACK_BYTES);
#endif
    errno = r < 0 ? (int)-r : 0;
    return r < 0 ? -1 : r;
}

static pid_t plain_vfork(void (*run)(void *arg), void *arg)
{
    pid_t pid = vfork();
    if (pid == 0) {
        run(arg);
        _exit(1);
    }
    return pid;
}

int cgroup_vfork(int cgroup_fd, void (*run)(void *arg), void *arg, int *ret_pidfd,
                 bool *ret_in_cgroup)
{
    int pidfd = -1;
    bool in_cgroup = cgroup_fd >= 0;
    struct clone_args args = {
        .flags = CLONE_VM | CLONE_VFORK | (ret_pidfd != NULL ? CLONE_PIDFD : 0) |
                 (cgroup_fd >= 0 ? CLONE_INTO_CGROUP : 0),
        .pidfd = (uint64_t)(uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
        .cgroup = cgroup_fd >= 0 ? (uint64_t)cgroup_fd : 0,
    };
    /* A kernel before 5.7 refuses the size with the cgroup field in it unless that is zero. */
    long pid = clone_call(&args, run, arg);
    if (pid < 0 && errno != EAGAIN && errno != ENOMEM && cgroup_fd >= 0) {
        in_cgroup = false;
        args.flags &= ~(uint64_t)CLONE_INTO_CGROUP;
        args.cgroup = 0;
        pid = clone_call(&args, run, arg);
    }
    if (pid < 0 && errno != EAGAIN && errno != ENOMEM) {
        in_cgroup = false;
        pid = plain_vfork(run, arg);
        pidfd = pid > 0 && ret_pidfd != NULL ? proc_pidfd_open((pid_t)pid) : -1;
    }
    if (pid < 0) {
        return -errno;
    }
    if (ret_pidfd != NULL) {
        *ret_pidfd = pidfd;
    }
    *ret_in_cgroup = in_cgroup;
    return (int)pid;
}
