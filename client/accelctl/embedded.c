/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts the user's own daemons: finds the programs, detaches them, waits for their word on a pipe,
 * and shows the end of their log when they die instead. A flock on RUNTIME/start.lock makes racing
 * commands start one pair. This file decides nothing about jobs and speaks no rpc; session.c does.
 */
#include "client/accelctl/embedded.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/limits.h"
#include "common/path.h"
#include "common/str.h"

#define LOG_KEEP_BYTES (4 << 20) /* a daemon's log above this is renamed before the next start */
#define LOG_TAIL_BYTES 2048      /* shown when a daemon dies: the last lines within this */
#define LOG_TAIL_LINES 4
#define READY_FD       3

struct places {
    char runtime[PATH_MAX];
    char state[PATH_MAX];
    char socket[PATH_MAX + 32];
};

static int places_find(struct places *p, struct accel_error *err)
{
    int r = path_runtime_dir(p->runtime, sizeof p->runtime, err);

    if (r < 0)
        return r;
    r = path_state_dir(p->state, sizeof p->state, err);
    if (r < 0)
        return r;
    snprintf(p->socket, sizeof p->socket, "%s/coordinator.sock", p->runtime);
    return 0;
}

static bool is_program(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

/* Beside this program, where an installation puts them, or in PATH. */
static int find_program(const char *name, char *ret_path, size_t size, struct accel_error *err)
{
    static const char *const beside[] = {"", "../bin/", "../libexec/accel/", "../sbin/"};
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    const char *path = getenv("PATH");

    if (n > 0) {
        self[n] = '\0';
        char *slash = strrchr(self, '/');

        if (slash)
            slash[1] = '\0';
        for (size_t i = 0; i < ARRAY_LEN(beside); i++) {
            int len = snprintf(ret_path, size, "%s%s%s", self, beside[i], name);

            if (len > 0 && (size_t)len < size && is_program(ret_path))
                return 0;
        }
    }
    while (path && *path != '\0') {
        size_t len = strcspn(path, ":");
        int total = snprintf(ret_path, size, "%.*s/%s", (int)len, path, name);

        if (len > 0 && total > 0 && (size_t)total < size && is_program(ret_path))
            return 0;
        path += len;
        path += *path == ':';
    }
    return error_set(err, ACCEL_ENOENT,
                     "cannot find the program %s\nwhy: it is neither beside accelctl nor in PATH\n"
                     "try: install accel again, or name a coordinator with --coordinator",
                     name);
}

static int open_log(const char *path, long *ret_offset, int *ret_fd, struct accel_error *err)
{
    struct stat st;
    int fd;

    if (stat(path, &st) == 0 && st.st_size > LOG_KEEP_BYTES) {
        char old[PATH_MAX + 64];

        snprintf(old, sizeof old, "%s.1", path);
        rename(path, old); /* if it fails the log only grows */
    }
    fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_sys(err, errno, "%s: cannot be opened", path);
    *ret_offset = fstat(fd, &st) == 0 ? (long)st.st_size : 0;
    *ret_fd = fd;
    return 0;
}

/* In the grandchild. Only calls that are safe after fork. */
_Noreturn static void become_daemon(char *const *argv, int null_fd, int log_fd, int ready_fd)
{
    struct sigaction dfl = {.sa_handler = SIG_DFL};
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int signo = 1; signo < NSIG; signo++)
        sigaction(signo, &dfl, NULL);
    umask(077);
    if (chdir("/") < 0)
        _exit(127);
    /* Above the ones to be filled, so that none is overwritten before it was copied. */
    ready_fd = fcntl(ready_fd, F_DUPFD, 10);
    log_fd = fcntl(log_fd, F_DUPFD, 10);
    null_fd = fcntl(null_fd, F_DUPFD, 10);
    if (dup2(null_fd, 0) < 0 || dup2(log_fd, 1) < 0 || dup2(log_fd, 2) < 0 ||
        dup2(ready_fd, READY_FD) < 0)
        _exit(127);
    close_range(READY_FD + 1, ~0u, 0);
    execv(argv[0], argv);
    dprintf(2, "%s: cannot be executed: %s\n", argv[0], strerror(errno));
    _exit(127);
}

/* Forks twice, so that the daemon is nobody's child and no terminal's. */
static int spawn_detached(char *const *argv, int null_fd, int log_fd, int ready_fd,
                          struct accel_error *err)
{
    pid_t pid = fork();
    int status;

    if (pid < 0)
        return error_sys(err, errno, "%s: cannot be started", argv[0]);
    if (pid == 0) {
        setsid();
        pid = fork();
        if (pid != 0)
            _exit(pid < 0 ? 1 : 0);
        become_daemon(argv, null_fd, log_fd, ready_fd);
    }
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return error_sys(err, errno, "%s: cannot be started", argv[0]);
    }
    if (status != 0)
        return error_set(err, ACCEL_EIO, "%s: cannot be started\nwhy: fork failed", argv[0]);
    return 0;
}

static void idle_exit_text(char *buf, size_t size)
{
    const char *text = getenv("ACCEL_IDLE_EXIT");
    uint64_t sec;

    if (!text || parse_u64(text, 0, 1000000000, &sec) < 0)
        sec = LIMIT_IDLE_EXIT_MS / 1000;
    snprintf(buf, size, "%llu", (unsigned long long)sec);
}

/* Starts one daemon; its ready pipe goes to *ret_start. */
static int start_daemon(const struct places *p, bool is_agent, const char *socket,
                        struct embedded_start *ret_start, struct accel_error *err)
{
    char program[PATH_MAX], address[PATH_MAX + 64], dir[PATH_MAX + 32], idle[24],
        log_path[PATH_MAX + 32];
    AUTO_CLOSE int log_fd = -1, null_fd = -1, read_end = -1, write_end = -1;
    const char *devices = getenv("ACCEL_DEVICES");
    char *argv[16];
    int n = 0, ends[2];
    int r = find_program(is_agent ? "acceld" : "accel-coordinator", program, sizeof program, err);

    if (r < 0)
        return r;
    snprintf(log_path, sizeof log_path, "%s/%s.log", p->state, is_agent ? "node" : "coordinator");
    r = open_log(log_path, &ret_start->log_offset, &log_fd, err);
    if (r < 0)
        return r;
    null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0 || pipe2(ends, O_CLOEXEC) < 0)
        return error_sys(err, errno, "%s: cannot be started", program);
    read_end = ends[0];
    write_end = ends[1];
    snprintf(address, sizeof address, "unix:%s", socket);
    snprintf(dir, sizeof dir, "%s/%s", p->state, is_agent ? "node" : "coordinator");
    idle_exit_text(idle, sizeof idle);
    argv[n++] = program;
    argv[n++] = is_agent ? "--coordinator" : "--listen";
    argv[n++] = address;
    argv[n++] = "--state-dir";
    argv[n++] = dir;
    argv[n++] = "--idle-exit";
    argv[n++] = idle;
    argv[n++] = "--ready-fd";
    argv[n++] = "3"; /* READY_FD */
    if (is_agent && devices && devices[0] != '\0') {
        argv[n++] = "--devices";
        argv[n++] = (char *)devices;
    }
    argv[n] = NULL;
    r = spawn_detached(argv, null_fd, log_fd, write_end, err);
    if (r < 0)
        return r;
    ret_start->ready_fd = STEAL_FD(read_end);
    str_copy(ret_start->log_path, sizeof ret_start->log_path, log_path);
    return 0;
}

/* The last lines a daemon wrote since it was started. */
static void read_log_tail(const struct embedded_start *start, char *buf, size_t size)
{
    AUTO_CLOSE int fd = open(start->log_path, O_RDONLY | O_CLOEXEC);
    long from = start->log_offset;
    off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    int lines = 0;

    buf[0] = '\0';
    if (fd < 0 || end <= from)
        return;
    if (end - from > (off_t)size - 1)
        from = (long)end - (long)size + 1;
    ssize_t n = pread(fd, buf, size - 1, from);

    if (n <= 0)
        return;
    while (n > 0 && buf[n - 1] == '\n')
        n--;
    buf[n] = '\0';
    for (ssize_t i = n - 1; i >= 0; i--) {
        if (buf[i] == '\n' && ++lines == LOG_TAIL_LINES) {
            memmove(buf, buf + i + 1, (size_t)(n - i));
            return;
        }
    }
}

static bool is_disk_full(const char *path)
{
    struct statvfs disk;

    return statvfs(path, &disk) == 0 && (disk.f_bavail == 0 || disk.f_favail == 0);
}

/* A daemon's last words: its lines are joined, but for what it says itself that may help. */
static int daemon_died(const struct embedded_start *start, const char *what,
                       struct accel_error *err)
{
    AUTO_STR struct str why = {0};
    char tail[400];
    const char *help = NULL;

    read_log_tail(start, tail, sizeof tail);
    str_init(&why);
    /* A line of the log has the lines of an error in one, with ';' between. */
    for (char *c = strstr(tail, ";try: "); c; c = strstr(c, ";try: "))
        *c = '\n';
    for (char *line = tail; line && *line != '\0';) {
        char *end = strchr(line, '\n');

        if (end)
            *end++ = '\0';
        if (strncmp(line, "try: ", 5) == 0)
            help = line + 5;
        else
            str_addf(&why, "%s%s", why.len > 0 ? "; " : "",
                     strncmp(line, "why: ", 5) == 0 ? line + 5 : line);
        line = end;
    }
    if (why.len == 0 && is_disk_full(start->log_path)) {
        str_adds(&why, "its disk is full: not even its log can be written");
        help = "make room (df shows how much), and again";
    }
    if (help)
        return error_set(err, ACCEL_EUNAVAIL, "%s\nwhy: %s\ntry: %s", what, why.data, help);
    return error_set(err, ACCEL_EUNAVAIL, "%s\nwhy: %s\ntry: cat %s", what,
                     why.len > 0 ? why.data : "it wrote nothing into its log", start->log_path);
}

/* Did it only find that another one has the state directory already? That one serves as well. */
static bool is_other_there(const struct embedded_start *start)
{
    char tail[LOG_TAIL_BYTES];

    read_log_tail(start, tail, sizeof tail);
    return strstr(tail, accel_error_sentence(ACCEL_EBUSY)) != NULL ||
           strstr(tail, "another acceld") != NULL ||
           strstr(tail, "another coordinator (pid") != NULL;
}

int embedded_start_result(struct embedded_start *start, struct accel_error *err)
{
    char c;
    ssize_t n;

    do
        n = read(start->ready_fd, &c, 1);
    while (n < 0 && errno == EINTR);
    if (n > 0 || is_other_there(start))
        return 0;
    return daemon_died(start, "the node daemon (acceld) did not start", err);
}

int embedded_start_wait(struct embedded_start *start, struct accel_error *err)
{
    struct pollfd pfd = {.fd = start->ready_fd, .events = POLLIN};
    int64_t deadline = clock_mono_ms() + LIMIT_DAEMON_START_MS;
    int n;

    do
        n = poll(&pfd, 1, (int)MAX(deadline - clock_mono_ms(), 0));
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return daemon_died(start, "the node daemon (acceld) is not ready after 15 s", err);
    return embedded_start_result(start, err);
}

void embedded_start_done(struct embedded_start *start)
{
    base_close_fd(&start->ready_fd);
    base_close_fd(&start->lock_fd);
    start->ready_fd = start->lock_fd = -1;
}

int embedded_start_agent(const char *socket_path, struct embedded_start *ret_start,
                         struct accel_error *err)
{
    struct embedded_start start = {.ready_fd = -1, .lock_fd = -1};
    AUTO_FREE struct places *p = xcalloc(1, sizeof *p);
    char lock[PATH_MAX + 16];
    int r = places_find(p, err);

    if (r < 0)
        return r;
    snprintf(lock, sizeof lock, "%s/start.lock", p->runtime);
    r = path_lock(lock, false, &start.lock_fd, err);
    if (r < 0)
        return r;
    r = start_daemon(p, true, socket_path, &start, err);
    if (r < 0) {
        embedded_start_done(&start);
        return r;
    }
    *ret_start = start;
    return 0;
}

/* Waits for the word of both, of the coordinator in any case: while one starts, nobody may start
 * another. Either may find another one there: that is as good. */
static int wait_for_pair(struct embedded_start *coord, struct embedded_start *agent,
                         struct accel_error *err)
{
    int64_t deadline = clock_mono_ms() + LIMIT_DAEMON_START_MS;
    bool coord_ready = false, agent_ready = false;
    int r = 0;

    while (!coord_ready || !agent_ready) {
        struct pollfd pfd[2] = {{.fd = coord_ready ? -1 : coord->ready_fd, .events = POLLIN},
                                {.fd = agent_ready ? -1 : agent->ready_fd, .events = POLLIN}};
        int64_t left = deadline - clock_mono_ms();
        int n = left > 0 ? poll(pfd, 2, (int)left) : 0;
        char c;

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return daemon_died(coord_ready ? agent : coord,
                               coord_ready ? "the node daemon (acceld) is not ready after 15 s"
                                           : "the coordinator is not ready after 15 s",
                               err);
        if (pfd[0].revents) {
            if (read(coord->ready_fd, &c, 1) <= 0 && !is_other_there(coord))
                return daemon_died(coord, "the coordinator did not start", err);
            coord_ready = true;
        }
        if (pfd[1].revents) {
            r = embedded_start_result(agent, err);
            agent_ready = true;
        }
    }
    return r;
}

static int start_pair(const struct places *p, struct accel_error *err)
{
    struct embedded_start coord = {.ready_fd = -1, .lock_fd = -1}, agent = coord;
    char program[PATH_MAX];
    /* Half an installation is none: no coordinator for a node daemon that is not there. */
    int r = find_program("acceld", program, sizeof program, err);

    if (r == 0)
        r = start_daemon(p, false, p->socket, &coord, err);
    if (r == 0)
        r = start_daemon(p, true, p->socket, &agent, err);
    if (r == 0)
        r = wait_for_pair(&coord, &agent, err);
    embedded_start_done(&coord);
    embedded_start_done(&agent);
    return r;
}

/* Is it only that nobody answers? Then a coordinator may be started. */
static bool is_nobody_there(int r)
{
    return r == ACCEL_ENOENT || r == ACCEL_ECLOSED;
}

/* A coordinator of the same state may serve in another runtime directory (cron, su, a session of
 * its own): its lock says where. */
static int connect_by_lock(struct places *p, int *ret_fd)
{
    char path[PATH_MAX + 32];
    AUTO_FREE char *text = NULL;
    AUTO_CLOSE int lock_fd = -1;
    size_t len = 0;
    int used = 0, pid = 0;

    snprintf(path, sizeof path, "%s/coordinator/lock", p->state);
    if (access(path, F_OK) < 0 || path_lock(path, false, &lock_fd, NULL) != ACCEL_EBUSY)
        return ACCEL_ENOENT; /* nobody holds it */
    if (path_read_all(AT_FDCWD, path, PATH_MAX + 32, &text, &len, NULL) < 0 ||
        sscanf(text, "%d %n", &pid, &used) < 1 || used == 0)
        return ACCEL_ENOENT;
    text[strcspn(text, "\n")] = '\0';
    if (path_socket_connect(text + used, ret_fd, NULL) < 0 ||
        !str_copy(p->socket, sizeof p->socket, text + used))
        return ACCEL_ENOENT;
    return 0;
}

static int unusable(struct accel_error *err, const char *what, const char *variable)
{
    const struct accel_error why = *err;

    return error_set(err, why.code,
                     "cannot use the %s directory\nwhy: %.*s\ntry: export %s=a directory of yours",
                     what, (int)strcspn(why.text, "\n"), why.text, variable);
}

static int start_under_lock(struct places *p, int *ret_fd, struct accel_error *err)
{
    AUTO_CLOSE int lock_fd = -1;
    char lock[PATH_MAX + 16];
    int r = path_make_private(p->runtime, err);

    if (r < 0)
        return unusable(err, "runtime", "XDG_RUNTIME_DIR");
    r = path_make_private(p->state, err);
    if (r < 0)
        return unusable(err, "state", "XDG_STATE_HOME");
    snprintf(lock, sizeof lock, "%s/start.lock", p->runtime);
    r = path_lock(lock, true, &lock_fd, err);
    if (r < 0)
        return r;
    r = path_socket_connect(p->socket, ret_fd, err); /* somebody else may have been first */
    if (!is_nobody_there(r))
        return r;
    if (connect_by_lock(p, ret_fd) == 0)
        return 0;
    r = start_pair(p, err);
    if (r < 0)
        return r;
    return path_socket_connect(p->socket, ret_fd, err);
}

int embedded_connect(char *ret_path, int *ret_fd, struct accel_error *err)
{
    AUTO_FREE struct places *p = xcalloc(1, sizeof *p);
    int r = places_find(p, err);

    if (r < 0)
        return r;
    if (!str_copy(ret_path, PATH_MAX, p->socket))
        return error_set(err, ACCEL_EINVAL, "%s: the path is too long", p->socket);
    r = path_socket_connect(p->socket, ret_fd, err);
    if (is_nobody_there(r))
        r = start_under_lock(p, ret_fd, err);
    if (r == 0)
        str_copy(ret_path, PATH_MAX, p->socket); /* it may serve elsewhere */
    return r;
}
