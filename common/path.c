/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directories, locks, whole files and sockets by path. No name service is asked (this is linked
 * into static programs): homes and names of users come from the environment and /etc/passwd.
 * Nothing here trusts a directory that others can write.
 */
#include "common/path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/str.h"

#define PASSWD_BYTES_MAX (4u << 20) /* a longer /etc/passwd is not ours to read */
#define LOCK_TRIES       16 /* replaced under our hands as often as this: somebody plays games */
#define BIND_TRIES       3  /* a stale socket is removed and another appears at once */
#define READ_STEP_BYTES  4096u

/* ---- where things are ---- */

/* Whether this user could keep something below path, which need not exist yet. `su` and
 * containers leave variables behind that name another user's directories. */
static bool is_usable(const char *path)
{
    char dir[PATH_MAX];
    struct stat st;
    if (path[0] != '/' || !str_copy(dir, sizeof(dir), path)) {
        return false;
    }
    while (stat(dir, &st) < 0) {
        char *slash = strrchr(dir, '/');
        if (errno != ENOENT || slash == NULL || dir[1] == '\0') {
            return false;
        }
        slash[slash == dir ? 1 : 0] = '\0';
    }
    if (!S_ISDIR(st.st_mode)) {
        return false;
    }
    return st.st_uid == geteuid() || (geteuid() != 0 && access(dir, W_OK | X_OK) == 0);
}

/* Field `want` (from 0) of the passwd line whose third field is uid; caller frees; NULL if there
 * is none. */
static char *passwd_field(uid_t uid, int want)
{
    AUTO_FREE char *text = NULL;
    size_t len;
    char *save_line = NULL;
    int r = path_read_all(AT_FDCWD, "/etc/passwd", PASSWD_BYTES_MAX, &text, &len, NULL);
    if (r < 0) {
        return NULL;
    }
    for (char *line = strtok_r(text, "\n", &save_line); line != NULL;
         line = strtok_r(NULL, "\n", &save_line)) {
        char *fields[7] = {NULL};
        uint64_t value;
        for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
            fields[i] = strsep(&line, ":");
        }
        if (fields[6] != NULL && parse_u64(fields[2], 0, UINT32_MAX, &value) == 0 && value == uid) {
            return strdup(fields[want]);
        }
    }
    return NULL;
}

static int join(char *ret_path, size_t size, struct accel_error *err, const char *a, const char *b,
                const char *c)
{
    int len = snprintf(ret_path, size, "%s%s%s", a, b, c);
    if (len < 0 || (size_t)len >= size) {
        return error_set(err, ACCEL_EINVAL, "%s%s%s: the path is too long (%zu bytes at most)", a,
                         b, c, size - 1);
    }
    return 0;
}

int path_runtime_dir(char *ret_path, size_t size, struct accel_error *err)
{
    const char *base = getenv("XDG_RUNTIME_DIR");
    char uid[16];
    if (base != NULL && is_usable(base)) {
        return join(ret_path, size, err, base, "/accel", "");
    }
    snprintf(uid, sizeof(uid), "%u", (unsigned)geteuid());
    return join(ret_path, size, err, geteuid() == 0 ? "/run" : "/tmp", "/accel-", uid);
}

static bool is_machine_id(const char *s)
{
    return strlen(s) == 32 && strspn(s, "0123456789abcdef") == 32;
}

/* A name for this machine that lasts: homes may be shared with others. */
static void machine_id(char *id, size_t size)
{
    static const char *const files[] = {"/etc/machine-id", "/var/lib/dbus/machine-id"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        AUTO_FREE char *text = NULL;
        size_t len;
        int r = path_read_all(AT_FDCWD, files[i], 4096, &text, &len, NULL);
        if (r == 0) {
            text[strcspn(text, "\n")] = '\0';
            if (is_machine_id(text)) {
                str_copy(id, size, text);
                return;
            }
        }
    }
    /* Images of containers have none on purpose; their host name is all there is. */
    char host[256] = "";
    if (gethostname(host, sizeof(host) - 1) < 0 || !is_valid_name(host)) {
        str_copy(host, sizeof(host), "localhost");
    }
    str_copy(id, size, host);
}

int path_state_dir(char *ret_path, size_t size, struct accel_error *err)
{
    char id[256];
    const char *base = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");
    machine_id(id, sizeof(id));
    if (base != NULL && is_usable(base)) {
        return join(ret_path, size, err, base, "/accel/", id);
    }
    if (home != NULL && is_usable(home)) {
        return join(ret_path, size, err, home, "/.local/state/accel/", id);
    }
    AUTO_FREE char *own_home = passwd_field(geteuid(), 5);
    if (own_home != NULL && is_usable(own_home)) {
        return join(ret_path, size, err, own_home, "/.local/state/accel/", id);
    }
    return error_set(err, ACCEL_ENOENT,
                     "no directory for state: uid %u has no home that it can write"
                     "\ntry: set XDG_STATE_HOME to a directory of your own",
                     (unsigned)geteuid());
}

/* ---- private directories ---- */

static int check_private(const char *path, struct accel_error *err)
{
    AUTO_CLOSE int fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP)) {
        return error_set(err, ACCEL_EPERM, "%s is not a directory (a link is not taken)", path);
    }
    if (fd < 0 || fstat(fd, &st) < 0) {
        return error_sys(err, errno, "%s", path);
    }
    if (st.st_uid != geteuid()) {
        AUTO_FREE char *owner = passwd_field(st.st_uid, 0);
        return error_set(err, ACCEL_EPERM, "%s belongs to %s (uid %u), not to you (uid %u)", path,
                         owner != NULL ? owner : "somebody else", (unsigned)st.st_uid,
                         (unsigned)geteuid());
    }
    if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return error_set(err, ACCEL_EPERM,
                         "%s can be written by others (mode %04o)\ntry: chmod 700 '%s'", path,
                         (unsigned)(st.st_mode & 07777), path);
    }
    return 0;
}

int path_check_secret(const char *path, struct accel_error *err)
{
    struct stat st;
    if (stat(path, &st) < 0) {
        return error_sys(err, errno, "%s", path);
    }
    if ((st.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        return error_set(err, ACCEL_EPERM,
                         "%s can be read by others (mode %04o)\nwhy: it holds a private key\n"
                         "try: chmod 600 '%s'; and if others were on this machine, make a new one",
                         path, (unsigned)(st.st_mode & 07777), path);
    }
    return 0;
}

int path_make_private(const char *path, struct accel_error *err)
{
    char dir[PATH_MAX];
    if (path[0] == '\0' || !str_copy(dir, sizeof(dir), path)) {
        return error_set(err, ACCEL_EINVAL, "%s: the path is empty or too long", path);
    }
    size_t len = strlen(dir);
    while (len > 1 && dir[len - 1] == '/') {
        dir[--len] = '\0'; /* a slash at the end would make the kernel follow a link */
    }
    for (size_t i = 1; i <= len; i++) {
        if (dir[i] != '/' && dir[i] != '\0') {
            continue;
        }
        char saved = dir[i];
        dir[i] = '\0';
        if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
            int sys = errno;
            struct stat st;
            /* An existing one may be reported as read-only or as forbidden. */
            if (stat(dir, &st) < 0 || !S_ISDIR(st.st_mode)) {
                return error_sys(err, sys, "make directory %s", dir);
            }
        }
        dir[i] = saved;
    }
    return check_private(dir, err);
}

/* ---- locks and files ---- */

int path_lock(const char *path, bool wait, int *ret_fd, struct accel_error *err)
{
    for (int try = 0; try < LOCK_TRIES; try++) {
        AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        struct stat ours;
        struct stat named;
        if (fd < 0) {
            return error_sys(err, errno, "open %s", path);
        }
        while (flock(fd, LOCK_EX | (wait ? 0 : LOCK_NB)) < 0) {
            if (errno == EWOULDBLOCK) {
                return error_set(err, ACCEL_EBUSY, "%s is locked by another process", path);
            }
            if (errno != EINTR) {
                return error_sys(err, errno, "lock %s", path);
            }
        }
        if (fstat(fd, &ours) < 0) {
            return error_sys(err, errno, "look at %s", path);
        }
        /* The file may have been removed or replaced while we waited: then the lock protects
         * nothing. */
        if (lstat(path, &named) == 0 && named.st_dev == ours.st_dev &&
            named.st_ino == ours.st_ino) {
            *ret_fd = STEAL_FD(fd);
            return 0;
        }
    }
    return error_set(err, ACCEL_EBUSY, "%s is replaced again and again", path);
}

static int write_file(int fd, const void *p, size_t len)
{
    const char *next = p;
    while (len > 0) {
        ssize_t n = write(fd, next, len);
        if (n < 0 && errno != EINTR) {
            return -1;
        }
        if (n > 0) {
            next += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

/* The directory of path: opened, and the last component. */
static int open_parent(int dirfd, const char *path, int flags, const char **ret_name)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t len = slash == NULL ? 0 : (size_t)(slash - path);
    if (len >= sizeof(dir)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(dir, path, len);
    dir[len] = '\0';
    *ret_name = slash == NULL ? path : slash + 1;
    return openat(dirfd,
                  slash == NULL ? "."
                  : len == 0    ? "/"
                                : dir,
                  flags | O_DIRECTORY | O_CLOEXEC);
}

static int sync_parent(int dirfd, const char *path)
{
    const char *name;
    AUTO_CLOSE int fd = open_parent(dirfd, path, O_RDONLY, &name);
    return fd < 0 ? -1 : fsync(fd);
}

int path_write_atomic(int dirfd, const char *path, const void *p, size_t len, mode_t mode,
                      bool durable, struct accel_error *err)
{
    char temp[PATH_MAX];
    int r = join(temp, sizeof(temp), err, path, ".tmp", "");
    if (r < 0) {
        return r;
    }
    /* A leftover of a crash may be in the way, with whatever mode and owner. */
    if (unlinkat(dirfd, temp, 0) < 0 && errno != ENOENT) {
        return error_sys(err, errno, "remove %s", temp);
    }
    AUTO_CLOSE int fd =
        openat(dirfd, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_sys(err, errno, "create %s", temp);
    }
    if (fchmod(fd, mode) < 0 || write_file(fd, p, len) < 0 || (durable && fsync(fd) < 0) ||
        renameat(dirfd, temp, dirfd, path) < 0) {
        r = error_sys(err, errno, "write %s", path);
        unlinkat(dirfd, temp, 0);
        return r;
    }
    if (durable && sync_parent(dirfd, path) < 0) {
        return error_sys(err, errno, "sync the directory of %s", path);
    }
    return 0;
}

int path_read_all(int dirfd, const char *path, size_t cap, char **ret_data, size_t *ret_len,
                  struct accel_error *err)
{
    /* O_NONBLOCK: the open of a pipe that nobody writes must not hang. */
    AUTO_CLOSE int fd = openat(dirfd, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    AUTO_FREE char *data = NULL;
    size_t len = 0;
    size_t size = 0;
    if (fd < 0) {
        return error_sys(err, errno, "open %s", path);
    }
    for (;;) {
        if (size - len <
            2) { /* one more byte than the cap shows that there is more; and one for the NUL */
            size = MAX(size * 2, READ_STEP_BYTES);
            char *grown = realloc(data, size);
            if (grown == NULL) {
                return error_set(err, ACCEL_ENOMEM, "no memory to read %s", path);
            }
            data = grown;
        }
        ssize_t n = read(fd, data + len, MIN(size - len - 1, cap - len + 1));
        if (n < 0 && errno != EINTR) {
            return error_sys(err, errno, "read %s", path);
        }
        if (n == 0) {
            break;
        }
        len += n > 0 ? (size_t)n : 0;
        if (len > cap) {
            return error_set(err, ACCEL_EFULL, "%s has more than %zu bytes", path, cap);
        }
    }
    data[len] = '\0';
    *ret_data = STEAL_PTR(data);
    *ret_len = len;
    return 0;
}

/* ---- sockets ---- */

/* Fills addr. For a long path it holds *ret_dir, a descriptor of the directory, which must stay
 * open while addr is used. */
static int make_address(const char *path, struct sockaddr_un *addr, int *ret_dir,
                        struct accel_error *err)
{
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (path[0] == '\0') {
        return error_set(err, ACCEL_EINVAL, "a socket needs a path");
    }
    if (str_copy(addr->sun_path, sizeof(addr->sun_path), path)) {
        return 0;
    }
    const char *name;
    AUTO_CLOSE int dir = open_parent(AT_FDCWD, path, O_PATH, &name);
    if (dir < 0) {
        return error_sys(err, errno, "the directory of %s", path);
    }
    int len = snprintf(addr->sun_path, sizeof(addr->sun_path), "/proc/self/fd/%d/%s", dir, name);
    if (len < 0 || (size_t)len >= sizeof(addr->sun_path)) {
        return error_set(err, ACCEL_EINVAL, "%s: the name is too long for a socket", path);
    }
    *ret_dir = STEAL_FD(dir);
    return 0;
}

static int open_socket(int flags)
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
}

/* What is in the way of a bind: 0 if it was stale and is gone now. */
static int remove_stale(const char *path, const struct sockaddr_un *addr, struct accel_error *err)
{
    struct stat st;
    AUTO_CLOSE int probe = open_socket(SOCK_NONBLOCK);
    if (probe < 0) {
        return error_sys(err, errno, "make a socket");
    }
    if (lstat(path, &st) < 0) {
        return errno == ENOENT ? 0 : error_sys(err, errno, "look at %s", path);
    }
    if (!S_ISSOCK(st.st_mode)) {
        return error_set(err, ACCEL_EEXIST, "%s exists and is not a socket", path);
    }
    if (connect(probe, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno == EAGAIN ||
        errno == EPROTOTYPE) { /* EAGAIN: its backlog is full */
        return error_set(err, ACCEL_EBUSY, "somebody serves on %s already", path);
    }
    if (errno != ECONNREFUSED) {
        return errno == ENOENT ? 0 : error_sys(err, errno, "try %s", path);
    }
    if (unlink(path) < 0 && errno != ENOENT) {
        return error_sys(err, errno, "remove the stale socket %s", path);
    }
    return 0;
}

int path_socket_listen(const char *path, int backlog, int *ret_fd, struct accel_error *err)
{
    struct sockaddr_un addr;
    AUTO_CLOSE int dir = -1;
    AUTO_CLOSE int fd = -1;
    int r = make_address(path, &addr, &dir, err);
    if (r < 0) {
        return r;
    }
    fd = open_socket(0);
    /* Linux gives the file the mode of the descriptor: there is no moment at which others could
     * connect. */
    if (fd < 0 || fchmod(fd, 0600) < 0) {
        return error_sys(err, errno, "make a socket");
    }
    for (int try = 1; bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0; try++) {
        if (errno != EADDRINUSE || try == BIND_TRIES) {
            return error_sys(err, errno, "listen on %s", path);
        }
        r = remove_stale(path, &addr, err);
        if (r < 0) {
            return r;
        }
    }
    if (listen(fd, backlog) < 0) {
        return error_sys(err, errno, "listen on %s", path);
    }
    *ret_fd = STEAL_FD(fd);
    return 0;
}

int path_socket_connect(const char *path, int *ret_fd, struct accel_error *err)
{
    struct sockaddr_un addr;
    AUTO_CLOSE int dir = -1;
    AUTO_CLOSE int fd = -1;
    int r = make_address(path, &addr, &dir, err);
    if (r < 0) {
        return r;
    }
    fd = open_socket(0);
    if (fd < 0) {
        return error_sys(err, errno, "make a socket");
    }
    while (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
        if (errno != EINTR) {
            return error_sys(err, errno, "connect to %s", path);
        }
    }
    *ret_fd = STEAL_FD(fd);
    return 0;
}
