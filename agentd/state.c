/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state directory of a node. Numbers in it only grow: a file that cannot be read is an error
 * and never taken for an empty one. Neighbours: main.c, shell.c.
 */
#include "agentd/state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agentd/procfs.h"
#include "common/log.h"
#include "common/path.h"
#include "common/str.h"

#define NUMBER_FILE_BYTES 64u  /* two decimal numbers fit */
#define SEAL_FILE_BYTES   128u /* and a hash in hex */
#define LOCK_TRIES        8    /* each after the end of another process that had the lock */
#define LOCK_WAIT_MS      5000
#define ENDING            " ending" /* behind the pid in the lock file */
#define KERNEL_PF_EXITING 0x4u      /* include/linux/sched.h: in do_exit() */

static int file_path(const struct state *s, const char *name, char *path, size_t size,
                     struct accel_error *err)
{
    if ((size_t)snprintf(path, size, "%s/%s", s->dir, name) >= size)
        return error_set(err, ACCEL_EINVAL, "%s: the path is too long", s->dir);
    return 0;
}

/* "A\n" or "A B\n"; a missing file leaves zeros. */
static int read_numbers(const struct state *s, const char *name, uint64_t *ret_a, uint64_t *ret_b,
                        struct accel_error *err)
{
    char path[PATH_MAX];
    AUTO_FREE char *text = NULL;
    size_t len;
    uint64_t a, b = 0;
    int r = file_path(s, name, path, sizeof(path), err);
    if (r == 0)
        r = path_read_all(AT_FDCWD, path, NUMBER_FILE_BYTES, &text, &len, err);
    if (r < 0)
        return r == ACCEL_ENOENT ? 0 : r;
    text[strcspn(text, "\n")] = 0;
    char *space = strchr(text, ' ');
    if (space)
        *space = 0;
    if (parse_u64(text, 0, UINT64_MAX - 1, &a) < 0 ||
        (space && parse_u64(space + 1, 0, UINT64_MAX - 1, &b) < 0) || (space && !ret_b))
        return error_set(err, ACCEL_ECORRUPT,
                         "%s: it does not hold a number\n"
                         "try: look what happened to it; removing it lets this node obey "
                         "coordinators of the past",
                         path);
    *ret_a = a;
    if (ret_b)
        *ret_b = b;
    return 0;
}

static int write_numbers(const struct state *s, const char *name, const char *text,
                         struct accel_error *err)
{
    char path[PATH_MAX];
    int r = file_path(s, name, path, sizeof(path), err);
    if (r < 0)
        return r;
    return path_write_atomic(AT_FDCWD, path, text, strlen(text), 0600, true, err);
}

static bool is_exiting(pid_t pid)
{
    char path[32];
    AUTO_FREE char *text = NULL;
    size_t len;
    unsigned flags = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    if (path_read_all(AT_FDCWD, path, 4096, &text, &len, NULL) < 0)
        return true;
    const char *p = strrchr(text, ')'); /* the end of the name */
    if (p == NULL || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) != 1)
        return false;
    return flags & KERNEL_PF_EXITING;
}

/* The session of an acceld that ends may be seen to end, and its successor be started, before its
 * lock is free: it has said so in the file, or was killed and the kernel is still at it. Waits for
 * such a one; false: the holder stays. */
static bool wait_for_dying(const char *path)
{
    AUTO_FREE char *text = NULL;
    size_t len;
    uint64_t pid;
    if (path_read_all(AT_FDCWD, path, NUMBER_FILE_BYTES, &text, &len, NULL) < 0)
        return false;
    bool is_ending = strstr(text, ENDING) != NULL;
    text[strcspn(text, " \n")] = 0;
    if (parse_u64(text, 2, INT32_MAX, &pid) < 0)
        return false;
    AUTO_CLOSE int pidfd = proc_pidfd_open((pid_t)pid);
    if (pidfd >= 0 && !is_ending && !is_exiting((pid_t)pid))
        return false;
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    return pidfd < 0 || poll(&p, 1, LOCK_WAIT_MS) > 0;
}

static int fail_held(const struct state *s, const char *path, struct accel_error *err)
{
    AUTO_FREE char *pid = NULL;
    size_t len;
    bool is_known = path_read_all(AT_FDCWD, path, NUMBER_FILE_BYTES, &pid, &len, NULL) == 0;
    if (is_known)
        pid[strcspn(pid, " \n")] = 0;
    return error_set(err, ACCEL_EBUSY,
                     "another acceld has the state directory %s\n"
                     "why: pid %s holds %s\ntry: end that one first, or use another --state-dir",
                     s->dir, is_known ? pid : "(unknown)", path);
}

static int lock(struct state *s, struct accel_error *err)
{
    char path[PATH_MAX], pid[32];
    int r = file_path(s, "lock", path, sizeof(path), err);
    if (r < 0)
        return r;
    r = path_lock(path, false, &s->lock_fd, err);
    for (int i = 0; r == ACCEL_EBUSY && i < LOCK_TRIES && wait_for_dying(path); i++)
        r = path_lock(path, false, &s->lock_fd, err);
    if (r == ACCEL_EBUSY)
        return fail_held(s, path, err);
    if (r < 0)
        return r;
    int len = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (pwrite(s->lock_fd, pid, (size_t)len, 0) != len || ftruncate(s->lock_fd, len) < 0)
        return error_sys(err, errno, "write %s", path);
    return 0;
}

static int make_owned(const char *path, uid_t uid, gid_t gid, mode_t mode, struct accel_error *err)
{
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return error_sys(err, errno, "make directory %s", path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fchown(fd, uid, gid) < 0 || fchmod(fd, mode) < 0)
        return error_sys(err, errno, "give directory %s to its owner", path);
    return 0;
}

int state_prepare_shared(const char *dir, uid_t uid, gid_t gid, struct accel_error *err)
{
    char path[PATH_MAX];
    for (size_t i = 1; dir[i]; i++) {
        if (dir[i] != '/')
            continue;
        if (snprintf(path, sizeof(path), "%.*s", (int)i, dir) >= (int)sizeof(path))
            return error_set(err, ACCEL_EINVAL, "%s: the path is too long", dir);
        if (mkdir(path, 0755) < 0 && errno != EEXIST)
            return error_sys(err, errno, "make directory %s", path);
    }
    int r = make_owned(dir, uid, gid, 0711, err);
    if (r == 0 && snprintf(path, sizeof(path), "%s/attempts", dir) >= (int)sizeof(path))
        r = error_set(err, ACCEL_EINVAL, "%s: the path is too long", dir);
    return r == 0 ? make_owned(path, 0, gid, 0751, err) : r;
}

/* A file of its own: an older acceld reads `seen`, and two numbers there. */
static int save_seal(struct state *s, uint64_t era, uint64_t epoch, const uint8_t *seal,
                     struct accel_error *err)
{
    char text[SEAL_FILE_BYTES], hex[HASH_HEX_SIZE];
    snprintf(text, sizeof(text), "%" PRIu64 " %" PRIu64 " %s\n", era, epoch, hash_hex(seal, hex));
    return write_numbers(s, "seal", text, err);
}

/* One that is of another pair, or unreadable, proves nothing and is none. */
static void read_seal(struct state *s)
{
    char path[PATH_MAX], wanted[SEAL_FILE_BYTES], hex[HASH_HEX_SIZE];
    AUTO_FREE char *text = NULL;
    size_t len;
    int n =
        snprintf(wanted, sizeof(wanted), "%" PRIu64 " %" PRIu64 " ", s->seen_era, s->seen_epoch);
    if (file_path(s, "seal", path, sizeof(path), NULL) < 0 ||
        path_read_all(AT_FDCWD, path, SEAL_FILE_BYTES, &text, &len, NULL) < 0 ||
        strncmp(text, wanted, (size_t)n) != 0)
        return;
    for (size_t i = 0; i < HASH_BYTES; i++) {
        unsigned byte;
        if (sscanf(text + n + 2 * i, "%2x", &byte) != 1)
            return;
        s->seal[i] = (uint8_t)byte;
    }
    s->has_seal = strncmp(text + n, hash_hex(s->seal, hex), HASH_HEX_SIZE - 1) == 0;
}

int state_open(struct state *s, const char *dir, bool is_shared, struct accel_error *err)
{
    char text[NUMBER_FILE_BYTES];
    *s = (struct state){.lock_fd = -1};
    if (!str_copy(s->dir, sizeof(s->dir), dir))
        return error_set(err, ACCEL_EINVAL, "%s: the path is too long", dir);
    int r = file_path(s, "attempts", s->attempts_dir, sizeof(s->attempts_dir), err);
    if (r == 0)
        r = path_make_private(s->dir, err);
    if (r == 0)
        r = lock(s, err);
    if (r == 0 && !is_shared)
        r = path_make_private(s->attempts_dir, err);
    if (r == 0)
        r = read_numbers(s, "incarnation", &s->incarnation, NULL, err);
    if (r == 0)
        r = read_numbers(s, "seen", &s->seen_era, &s->seen_epoch, err);
    if (r == 0)
        read_seal(s);
    if (r == 0) {
        snprintf(text, sizeof(text), "%" PRIu64 "\n", ++s->incarnation);
        r = write_numbers(s, "incarnation", text, err);
    }
    if (r < 0)
        state_close(s);
    return r;
}

void state_say_ending(struct state *s)
{
    char text[NUMBER_FILE_BYTES];
    int len = snprintf(text, sizeof(text), "%d" ENDING "\n", (int)getpid());
    if (s->lock_fd >= 0 && pwrite(s->lock_fd, text, (size_t)len, 0) != len)
        log_debug("the lock file does not say that we end"); /* a successor gives up then */
}

void state_close(struct state *s)
{
    base_close_fd(&s->lock_fd);
    s->lock_fd = -1;
}

int state_save_seen(struct state *s, uint64_t era, uint64_t epoch, const uint8_t *seal,
                    struct accel_error *err)
{
    char text[NUMBER_FILE_BYTES];
    bool is_same = era == s->seen_era && epoch == s->seen_epoch;
    CHECK(era > s->seen_era || (era == s->seen_era && epoch > s->seen_epoch) || (is_same && seal));
    int r = seal ? save_seal(s, era, epoch, seal, err) : 0;
    if (r < 0)
        return r;
    if (is_same)
        return 0;
    snprintf(text, sizeof(text), "%" PRIu64 " %" PRIu64 "\n", era, epoch);
    r = write_numbers(s, "seen", text, err);
    if (r < 0)
        return r;
    s->seen_era = era;
    s->seen_epoch = epoch;
    return 0;
}
