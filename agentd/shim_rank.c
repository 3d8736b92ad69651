/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ranks: their pipes, their birth, why they could not be started, and their deaths in the order
 * in which they died. Neighbours: cgroup.c forks, shim_output.c reads the pipes. The child
 * side runs between fork and exec in a copy of a single-threaded process, so it may allocate.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agentd/procfs.h"
#include "agentd/shim_internal.h"
#include "common/clock.h"

#define EXIT_NOT_FOUND 127 /* as every shell says it */
#define EXIT_NOT_RUN   126
#define EXIT_NOT_OURS  125 /* nothing is wrong with the program */
#define REAP_BATCH     64

enum start_step { STEP_FORK, STEP_STDIO, STEP_CWD, STEP_EXEC };

/* What a child says over the exec pipe before it ends; far below PIPE_BUF, so never mixed. */
struct start_failure {
    uint32_t index;
    int32_t step;
    int32_t sys;
};

/* ---- the child ---- */

struct child_pipes {
    int out, err, in; /* the rank's ends; in -1: /dev/null, which is our 0 */
};

_Noreturn static void child_fail(const struct shim *s, size_t index, enum start_step step, int fd)
{
    int sys = errno;
    struct start_failure f = {.index = (uint32_t)index, .step = step, .sys = sys};
    (void)s;
    while (write(fd, &f, sizeof(f)) < 0 && errno == EINTR) {}
    _exit(step == STEP_EXEC && sys == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_RUN);
}

/* protobuf-c's bytes have no NUL at their end; execve wants one. */
static char *text_of(const ProtobufCBinaryData *b)
{
    char *text = xcalloc(b->len + 1, 1);
    if (b->len > 0) {
        memcpy(text, b->data, b->len);
    }
    return text;
}

static size_t name_length(const ProtobufCBinaryData *b)
{
    const uint8_t *eq = b->len > 0 ? memchr(b->data, '=', b->len) : NULL;
    return eq != NULL ? (size_t)(eq - b->data) + 1 : b->len;
}

static bool is_overlaid(const ProtobufCBinaryData *common, const Accel__V1__RankSpec *rank)
{
    size_t len = name_length(common);
    if (len == sizeof(SHIM_MARK_NAME) && memcmp(common->data, SHIM_MARK_NAME "=", len) == 0) {
        return true;
    }
    for (size_t i = 0; i < rank->n_env; i++) {
        if (rank->env[i].len >= len && memcmp(rank->env[i].data, common->data, len) == 0) {
            return true;
        }
    }
    return false;
}

static char **build_env(const struct shim *s, const struct shim_rank *k)
{
    const Accel__V1__AttemptSpec *spec = s->spec;
    char **env = xcalloc(spec->n_env + k->spec->n_env + 2, sizeof(*env));
    size_t n = 0;
    AUTO_STR struct str mark = {0};
    str_init(&mark);
    str_addf(&mark, "%s=%s/%s", SHIM_MARK_NAME, s->start->attempts_dir, s->name);
    env[n++] = str_steal(&mark);
    for (size_t i = 0; i < spec->n_env; i++) {
        if (!is_overlaid(&spec->env[i], k->spec)) {
            env[n++] = text_of(&spec->env[i]);
        }
    }
    for (size_t i = 0; i < k->spec->n_env; i++) {
        env[n++] = text_of(&k->spec->env[i]);
    }
    return env;
}

static char **build_argv(const Accel__V1__AttemptSpec *spec)
{
    char **argv = xcalloc(spec->n_argv + 1, sizeof(*argv));
    for (size_t i = 0; i < spec->n_argv; i++) {
        argv[i] = text_of(&spec->argv[i]);
    }
    return argv;
}

/* A limit above what this process may set is cut to what it may: a caller with more rights than the
 * daemon must not make the job fail. */
static void set_limits(const struct shim *s)
{
    const struct rlimit nofile = s->start->nofile;
    setrlimit(RLIMIT_NOFILE, &nofile);
    for (size_t i = 0; i < s->spec->n_rlimits; i++) {
        const Accel__V1__Rlimit *want = s->spec->rlimits[i];
        struct rlimit now;
        struct rlimit l = {.rlim_cur = want->soft, .rlim_max = want->hard};
        if (setrlimit((__rlimit_resource_t)want->resource, &l) == 0 ||
            getrlimit((__rlimit_resource_t)want->resource, &now) < 0) {
            continue;
        }
        l.rlim_max = MIN(l.rlim_max, now.rlim_max);
        l.rlim_cur = MIN(l.rlim_cur, l.rlim_max);
        setrlimit((__rlimit_resource_t)want->resource, &l);
    }
}

/* The kernel's own call, because glibc keeps 32 and 33 to itself, and an ancestor may have ignored
 * them. All zeros is SIG_DFL without flags. Everything was blocked since before the fork, so a
 * signal meant for the rank waits until here and then does what it does by default. */
static void reset_signals(void)
{
    static const char deflt[64];
    sigset_t none;
    for (int i = 1; i < NSIG; i++) {
        syscall(SYS_rt_sigaction, i, deflt, NULL, 8);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

_Noreturn static void child_run(const struct shim *s, size_t index, const struct child_pipes *p,
                                int exec_fd)
{
    const struct shim_rank *k = &s->ranks[index];
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != s->pid) {
        _exit(EXIT_NOT_RUN); /* the shim died before the line above */
    }
    char **argv = build_argv(s->spec);
    char **env = build_env(s, k);
    if ((p->in >= 0 && dup2(p->in, 0) < 0) || dup2(p->out, 1) < 0 || dup2(p->err, 2) < 0) {
        child_fail(s, index, STEP_STDIO, exec_fd);
    }
    close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
    umask((mode_t)s->spec->umask & 0777);
    if (s->spec->cwd.len > 0 && chdir(text_of(&s->spec->cwd)) < 0) {
        child_fail(s, index, STEP_CWD, exec_fd);
    }
    set_limits(s);
    reset_signals();
    execve(argv[0], argv, env);
    child_fail(s, index, STEP_EXEC, exec_fd);
}

/* ---- why a rank could not be started ---- */

static void set_error(struct shim *s, struct shim_rank *k, int sys, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

static void set_error(struct shim *s, struct shim_rank *k, int sys, const char *fmt, ...)
{
    AUTO_STR struct str text = {0};
    va_list ap;
    str_init(&text);
    va_start(ap, fmt);
    str_addv(&text, fmt, ap);
    va_end(ap);
    k->start_errno = sys;
    free(k->error);
    k->error = str_steal(&text);
    s->start_failed = true;
    if (s->start_text == NULL) {
        s->start_text = xstrdup(k->error);
    }
}

/* What the "#!" line of a script names, "" if it has none. */
static void read_interpreter(const char *path, char *name, size_t size)
{
    char line[256];
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
    name[0] = '\0';
    if (n > 2 && line[0] == '#' && line[1] == '!') {
        line[n] = '\0';
        const char *p = line + 2 + strspn(line + 2, " \t");
        snprintf(name, size, "%.*s", (int)strcspn(p, " \t\r\n"), p);
    }
}

static void describe_exec(struct shim *s, struct shim_rank *k, int sys)
{
    AUTO_FREE char *program = text_of(&s->spec->argv[0]);
    AUTO_STR struct str shown = {0};
    char interpreter[256];
    struct stat st;
    str_init(&shown);
    str_add_shell_quoted(&shown, s->spec->argv[0].data, s->spec->argv[0].len);
    if (sys == E2BIG) {
        size_t bytes = 0;
        for (size_t i = 0; i < s->spec->n_argv; i++) {
            bytes += s->spec->argv[i].len + 1;
        }
        for (size_t i = 0; i < s->spec->n_env; i++) {
            bytes += s->spec->env[i].len + 1;
        }
        for (size_t i = 0; i < k->spec->n_env; i++) {
            bytes += k->spec->env[i].len + 1;
        }
        set_error(s, k, sys, "cannot run %s: arguments and environment are too long (%zu bytes)",
                  shown.data, bytes);
        return;
    }
    read_interpreter(program, interpreter, sizeof(interpreter));
    if ((sys == ENOENT || sys == EACCES) && interpreter[0] != '\0' && access(program, X_OK) == 0) {
        set_error(s, k, sys, "cannot run %s: its interpreter %s: %s", shown.data, interpreter,
                  strerror(sys));
    } else if (sys == EACCES && stat(program, &st) == 0 && S_ISDIR(st.st_mode)) {
        set_error(s, k, sys, "cannot run %s: it is a directory", shown.data);
    } else if (sys == ENOEXEC) {
        set_error(s, k, sys, "cannot run %s: %s (no program and no script that begins with #!)",
                  shown.data, strerror(sys));
    } else {
        set_error(s, k, sys, "cannot run %s: %s", shown.data, strerror(sys));
    }
}

static void on_failure(struct shim *s, const struct start_failure *f)
{
    if (f->index >= s->rank_count) {
        return;
    }
    struct shim_rank *k = &s->ranks[f->index];
    AUTO_STR struct str shown = {0};
    str_init(&shown);
    switch ((enum start_step)f->step) {
    case STEP_CWD:
        str_add_shell_quoted(&shown, s->spec->cwd.data, s->spec->cwd.len);
        set_error(s, k, f->sys, "cannot change to directory %s: %s", shown.data, strerror(f->sys));
        break;
    case STEP_EXEC: describe_exec(s, k, f->sys); break;
    case STEP_FORK:
    case STEP_STDIO:
        set_error(s, k, f->sys, "cannot prepare the process: %s", strerror(f->sys));
        break;
    }
}

void ranks_on_exec_pipe(struct shim *s)
{
    struct start_failure f[16];
    if (s->exec_fd < 0) {
        return;
    }
    for (;;) {
        ssize_t n = read(s->exec_fd, f, sizeof(f));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        for (ssize_t i = 0; i < n / (ssize_t)sizeof(f[0]); i++) {
            on_failure(s, &f[i]);
        }
        if (n < 0) {
            return; /* some are on their way still */
        }
        if (n == 0) {
            break;
        }
    }
    close(s->exec_fd);
    s->exec_fd = -1;
    s->is_started = true;
    wire_send_started(s);
}

/* ---- birth ---- */

/* A pipe whose end for us does not block. */
static int make_pipe(int *ret_ours, int *ret_theirs, bool we_read)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0) {
        return -errno;
    }
    *ret_ours = fds[we_read ? 0 : 1];
    *ret_theirs = fds[we_read ? 1 : 0];
    if (fcntl(*ret_ours, F_SETFL, O_NONBLOCK) < 0) {
        return -errno;
    }
    return 0;
}

static void say_no_cgroup(const struct shim *s)
{
    static bool is_said;
    if (!is_said) {
        dprintf(2,
                "accel-shim %s: ranks cannot be started in a cgroup; the tree is kept together "
                "without one\n",
                s->name);
    }
    is_said = true;
}

static int start_rank(struct shim *s, size_t index, int exec_fd)
{
    struct shim_rank *k = &s->ranks[index];
    struct child_pipes theirs = {-1, -1, -1};
    AUTO_CLOSE int out_end = -1;
    AUTO_CLOSE int err_end = -1;
    AUTO_CLOSE int in_end = -1;
    bool in_cgroup = true;
    int r = make_pipe(&k->streams[0].fd, &out_end, true);
    if (r == 0) {
        r = make_pipe(&k->streams[1].fd, &err_end, true);
    }
    if (r == 0 && s->spec->want_stdin && k->spec->rank == 0 && s->stdin_fd < 0) {
        r = make_pipe(&s->stdin_fd, &in_end, false);
    }
    if (r < 0) {
        set_error(s, k, -r, "cannot make pipes for the output of rank %u: %s", k->spec->rank,
                  strerror(-r));
        return r;
    }
    theirs = (struct child_pipes){out_end, err_end, in_end};
    k->start_ms = clock_wall_ms();
    r = cgroup_fork(s->cgroup_fd, &k->pidfd, &in_cgroup);
    if (r == 0) {
        child_run(s, index, &theirs, exec_fd);
    }
    if (r < 0) {
        set_error(s, k, -r, "cannot make a process for rank %u: %s", k->spec->rank, strerror(-r));
        return r;
    }
    if (s->cgroup_fd >= 0 && !in_cgroup) {
        say_no_cgroup(s);
    }
    k->pid = r;
    s->rank_live++;
    if (k->pidfd >= 0) {
        struct epoll_event ev = {.events = EPOLLIN, .data.u64 = index};
        if (epoll_ctl(s->pid_ep_fd, EPOLL_CTL_ADD, k->pidfd, &ev) < 0) {
            base_close_fd(&k->pidfd);
            k->pidfd = -1;
        }
    }
    return 0;
}

static void watch_rank(struct shim *s, size_t index)
{
    for (size_t i = 0; i < 2; i++) {
        if (s->ranks[index].streams[i].fd >= 0) {
            shim_epoll(s, EPOLL_CTL_ADD, s->ranks[index].streams[i].fd, EPOLLIN, SOURCE_STREAM,
                       index * 2 + i);
        }
    }
}

static bool open_copies(struct shim *s)
{
    for (size_t i = 0; i < s->rank_count; i++) {
        int r = output_open_copy(s, &s->ranks[i]);
        if (r < 0) {
            s->start_failed = true;
            s->ranks[i].start_errno = -r;
            s->ranks[i].is_copy_failed = true;
            if (s->start_text == NULL) {
                s->start_text = xstrdup(s->ranks[i].error);
            }
        }
    }
    return !s->start_failed;
}

void ranks_start(struct shim *s)
{
    int exec_fd = -1;
    s->rank_count = s->spec->n_ranks;
    s->ranks = xcalloc(s->rank_count, sizeof(*s->ranks));
    s->exit_order = xcalloc(s->rank_count, sizeof(*s->exit_order));
    for (size_t i = 0; i < s->rank_count; i++) {
        struct shim_rank *k = &s->ranks[i];
        k->spec = s->spec->ranks[i];
        k->pidfd = k->copy_fd = -1;
        for (size_t j = 0; j < 2; j++) {
            k->streams[j] = (struct shim_stream){.fd = -1, .file_fd = -1, .oldest = 1};
        }
    }
    int r = make_pipe(&s->exec_fd, &exec_fd, true);
    if (r < 0) {
        _exit(1);
    }
    shim_epoll(s, EPOLL_CTL_ADD, s->exec_fd, EPOLLIN, SOURCE_EXEC, 0);
    if (open_copies(s)) {
        for (size_t i = 0; i < s->rank_count && r == 0; i++) {
            r = start_rank(s, i, exec_fd);
        }
    }
    close(exec_fd);
    for (size_t i = 0; i < s->rank_count; i++) {
        output_create(s, &s->ranks[i]);
        watch_rank(s, i);
    }
    if (s->stdin_fd >= 0) {
        /* No events asked for: only the news that the rank closed its end. */
        shim_epoll(s, EPOLL_CTL_ADD, s->stdin_fd, 0, SOURCE_STDIN, 0);
    }
}

/* ---- death ---- */

static void rank_reap(struct shim *s, size_t index)
{
    struct shim_rank *k = &s->ranks[index];
    int status;
    pid_t r = waitpid(k->pid, &status, WNOHANG);
    if (k->is_reaped || r == 0) {
        return;
    }
    k->end_boot_ns = clock_mono_ns();
    k->end_ms = clock_wall_ms();
    k->is_reaped = true;
    /* ECHILD cannot be: nobody else reaps. Said as it would look. */
    k->signal = r < 0 ? SIGKILL : WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    k->exit_code = r > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    if (k->pidfd >= 0) {
        close(k->pidfd);
        k->pidfd = -1;
    }
    s->rank_live--;
    s->exit_order[s->exit_count++] = index;
    if (!s->is_started) {
        ranks_on_exec_pipe(s); /* what it said there belongs to its exit */
    }
    /* It has begun to end before it was told to: a rank that failed to start is no victim. */
    k->stopped = (s->is_stopping || s->phase >= SHIM_KILLING) && k->start_errno == 0;
    output_drain(s, k);
    if (s->spec->want_stdin && k->spec->rank == 0) {
        wire_close_stdin(s);
    }
}

static size_t find_rank(const struct shim *s, pid_t pid)
{
    size_t i = 0;
    while (i < s->rank_count && (s->ranks[i].pid != pid || s->ranks[i].is_reaped)) {
        i++;
    }
    return i;
}

/* pidfds become ready in the order of the deaths, where waitpid(-1) goes by age. */
static void reap_ready_ranks(struct shim *s)
{
    struct epoll_event events[REAP_BATCH];
    int n;
    while ((n = epoll_wait(s->pid_ep_fd, events, REAP_BATCH, 0)) > 0) {
        for (int i = 0; i < n; i++) {
            rank_reap(s, (size_t)events[i].data.u64);
        }
    }
}

void ranks_reap(struct shim *s)
{
    pid_t last = 0;
    for (;;) {
        siginfo_t info = {0};
        if (s->rank_live > 0) {
            reap_ready_ranks(s);
        }
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0) {
            s->has_no_children = errno == ECHILD;
            return;
        }
        s->has_no_children = false;
        if (info.si_pid == 0) {
            return;
        }
        size_t index = find_rank(s, info.si_pid);
        if (index == s->rank_count) {
            waitpid(info.si_pid, NULL, WNOHANG); /* an orphan that came to us */
        } else if (s->ranks[index].pidfd < 0 || last == info.si_pid) {
            rank_reap(s, index);
        }
        last = info.si_pid; /* a rank that died just now: its pidfd is ready in the next round */
    }
}

void rank_fill_exit(const struct shim_rank *k, Accel__V1__RankExit *ret_exit)
{
    Accel__V1__RankExit x = ACCEL__V1__RANK_EXIT__INIT;
    x.rank = k->spec->rank;
    x.pid = (uint32_t)k->pid;
    x.start_ms = k->start_ms;
    x.stdout_bytes = k->streams[0].bytes;
    x.stderr_bytes = k->streams[1].bytes;
    x.start_errno = k->start_errno;
    if (k->error != NULL) {
        x.error = k->error;
    }
    if (k->is_reaped || (k->pid == 0 && k->error != NULL)) {
        x.exited = true;
        x.exit_code = k->exit_code;
        x.signal = k->signal;
        x.end_boot_ns = k->end_boot_ns;
        x.end_ms = k->end_ms;
        x.stopped = k->stopped;
        x.stderr_tail = (ProtobufCBinaryData){.len = k->tail_len, .data = k->tail};
    }
    if (k->error != NULL) { /* whether its own exit or our SIGKILL came first */
        x.exit_code = k->is_copy_failed          ? EXIT_NOT_OURS
                      : k->start_errno == ENOENT ? EXIT_NOT_FOUND
                                                 : EXIT_NOT_RUN;
        x.signal = 0;
    }
    *ret_exit = x;
}
