/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ranks: their pipes, their birth, why they could not be started, and their deaths in the order
 * in which they died. Neighbours: shim_child.c is the rank before its exec, shim_output.c reads the
 * pipes.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agentd/limits_cgroup.h"
#include "agentd/procfs.h"
#include "agentd/shim_child.h"
#include "common/clock.h"

#define EXIT_NOT_FOUND 127 /* as every shell says it */
#define EXIT_NOT_RUN   126
#define EXIT_NOT_OURS  125 /* nothing is wrong with the program */
#define REAP_BATCH     64

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
    const char *program = s->spec->argv[0].len > 0 ? (char *)s->spec->argv[0].data : "";
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

static void on_failure(struct shim *s, struct shim_rank *k, const struct child_failure *f)
{
    AUTO_STR struct str shown = {0};
    str_init(&shown);
    switch (f->step) {
    case CHILD_DONE: break;
    case CHILD_CWD:
        str_add_shell_quoted(&shown, s->spec->cwd.data, s->spec->cwd.len);
        set_error(s, k, f->sys, "cannot change to directory %s: %s", shown.data, strerror(f->sys));
        break;
    case CHILD_EXEC: describe_exec(s, k, f->sys); break;
    case CHILD_STDIO:
        set_error(s, k, f->sys, "cannot prepare the process: %s", strerror(f->sys));
        break;
    }
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

static int start_rank(struct shim *s, size_t index, struct child_plan *plan)
{
    struct shim_rank *k = &s->ranks[index];
    struct child_failure failure;
    AUTO_CLOSE int out_end = -1;
    AUTO_CLOSE int err_end = -1;
    AUTO_CLOSE int in_end = -1;
    AUTO_CLOSE int pmi_end = -1;
    bool in_cgroup = true;
    int r = make_pipe(&k->streams[0].fd, &out_end, true);
    if (r == 0) {
        r = make_pipe(&k->streams[1].fd, &err_end, true);
    }
    if (r == 0 && s->spec->want_stdin && k->spec->rank == 0 && s->stdin_fd < 0) {
        r = make_pipe(&s->stdin_fd, &in_end, false);
    }
    if (r == 0) {
        r = shim_pmi_open(s, index, &pmi_end);
    }
    if (r < 0) {
        set_error(s, k, -r, "cannot make pipes for the output of rank %u: %s", k->spec->rank,
                  strerror(-r));
        return r;
    }
    const struct child_pipes theirs = {out_end, err_end, in_end, pmi_end};
    k->start_ms = clock_wall_ms();
    r = child_start(plan, k->spec, &theirs, s->pid_ep_fd >= 0 ? &k->pidfd : NULL, &in_cgroup,
                    &failure);
    if (r < 0) {
        set_error(s, k, -r, "cannot make a process for rank %u: %s", k->spec->rank, strerror(-r));
        return r;
    }
    if (s->cgroup_fd >= 0 && !in_cgroup) {
        say_no_cgroup(s);
    }
    k->pid = r;
    s->rank_live++;
    on_failure(s, k, &failure);
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

/* The first rank has the text; none is started. */
static bool unpack(struct shim *s)
{
    AUTO_FREE char *why = NULL;
    if (shim_unpack(s->start, &why)) {
        return true;
    }
    set_error(s, &s->ranks[0], EIO, "%s", why);
    s->ranks[0].is_copy_failed = true;
    return false;
}

void ranks_start(struct shim *s)
{
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
    shim_pmi_init(s);
    if (unpack(s) && open_copies(s)) {
        struct child_plan plan;
        int r = 0;
        child_plan_init(&plan, s);
        for (size_t i = 0; i < s->rank_count && r >= 0; i++) {
            r = start_rank(s, i, &plan);
        }
        child_plan_done(&plan);
    }
    for (size_t i = 0; i < s->rank_count; i++) {
        watch_rank(s, i);
    }
    if (s->stdin_fd >= 0) {
        /* No events asked for: only the news that the rank closed its end. */
        shim_epoll(s, EPOLL_CTL_ADD, s->stdin_fd, 0, SOURCE_STDIN, 0);
    }
    wire_send_started(s);
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
    /* It has begun to end before it was told to: a rank that failed to start is no victim. */
    k->stopped = (s->is_stopping || s->phase >= SHIM_KILLING) && k->start_errno == 0;
    if (k->signal == SIGKILL && limits_oom_kills(s->start->limits->oom_fd) > s->oom_count) {
        k->is_oom = true; /* the kernel counts before it kills */
        s->oom_count++;
    }
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
        if (s->rank_live > 0 && s->pid_ep_fd >= 0) {
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

static void fill_loss(const struct shim_rank *k, Accel__V1__RankExit *x)
{
    const struct shim_loss *all[] = {&k->streams[0].loss, &k->streams[1].loss, &k->copy_loss};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        x->lost_bytes += all[i]->bytes;
        x->lost_errno = all[i]->bytes > 0 ? all[i]->sys : x->lost_errno;
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
    fill_loss(k, &x);
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
        x.oom_killed = k->is_oom;
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
