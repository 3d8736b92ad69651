/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shim's life: from the fork to `gone`, one epoll loop over everything that can happen to an
 * attempt. Decides nothing about jobs: it starts, records, tells acceld and obeys ShimStop. The
 * neighbours that do the work are named in shim_internal.h. Must not block on acceld, on
 * output files that are full, or on any rank; must not die of a signal that somebody sends to all.
 */
#include "agentd/shim.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "agentd/limits_cgroup.h"
#include "agentd/procfs.h"
#include "agentd/shim_internal.h"
#include "agentd/spawn_internal.h"
#include "common/clock.h"

#define EXIT_ROOM_BYTES                                                                            \
    4096 /* kept free for the exit record: one page; tails are left out if it                      \
                                does not fit and the disk is full */
#define EPOLL_BATCH 64

void shim_epoll(struct shim *s, int op, int fd, uint32_t events, enum shim_source source,
                size_t index)
{
    struct epoll_event ev = {.events = events, .data.u64 = (uint64_t)source << 32 | index};
    if (epoll_ctl(s->ep_fd, op, fd, &ev) < 0 && op == EPOLL_CTL_ADD) {
        /* Without its events the shim would wait for ever: better to be found dead and swept. */
        _exit(1);
    }
}

/* ---- files of the attempt ---- */

static int write_all_at(int fd, const void *p, size_t len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = pwrite(fd, (const char *)p + done, len - done, (off_t)done);
        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* The ranks run as the same user: the open of a pipe that one of them put there must not hang. */
#define FILE_FLAGS (O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)

static void write_file(struct shim *s, const char *name, const struct str *text)
{
    AUTO_CLOSE int fd = openat(s->dir_fd, name, FILE_FLAGS | O_TRUNC, s->start->file_mode);
    if (fd >= 0) {
        (void)write_all_at(fd, text->data, text->len); /* evidence only; the work goes on without */
    }
}

/* pid and the room for exit: after the ranks were sent off, so that they do not wait for it. */
static void write_files(struct shim *s)
{
    AUTO_STR struct str text = {0};
    static const char zeros[EXIT_ROOM_BYTES];
    str_init(&text);
    str_addf(&text, "%d %" PRIu64 "\n", (int)s->pid, proc_start_time(0));
    if (s->cgroup_fd >= 0) {
        str_addf(&text, "%s/%s", s->start->cgroups->path, s->name);
    }
    str_addc(&text, '\n');
    for (size_t i = 0; i < s->rank_count; i++) {
        if (s->ranks[i].pid > 0) {
            str_addf(&text, "%u %d\n", s->ranks[i].spec->rank, (int)s->ranks[i].pid);
        }
    }
    write_file(s, "pid", &text);
    s->exit_fd = openat(s->dir_fd, "exit.tmp", FILE_FLAGS | O_TRUNC, s->start->file_mode);
    if (s->exit_fd >= 0) {
        (void)write_all_at(s->exit_fd, zeros, sizeof(zeros));
    }
}

static int write_record(struct shim *s, const Accel__V1__ExitRecord *record)
{
    size_t len = accel__v1__exit_record__get_packed_size(record);
    AUTO_FREE uint8_t *data = malloc(len + 1);
    if (data == NULL) {
        return -ENOMEM;
    }
    accel__v1__exit_record__pack(record, data);
    if (s->exit_fd < 0) {
        s->exit_fd = openat(s->dir_fd, "exit.tmp", FILE_FLAGS, s->start->file_mode);
    }
    if (s->exit_fd < 0) {
        return -errno;
    }
    int r = write_all_at(s->exit_fd, data, len);
    if (r < 0) {
        return r;
    }
    if (ftruncate(s->exit_fd, (off_t)len) < 0 ||
        renameat(s->dir_fd, "exit.tmp", s->dir_fd, "exit") < 0) {
        return -errno;
    }
    return 0;
}

static void finish_record(struct shim *s)
{
    Accel__V1__ExitRecord record = ACCEL__V1__EXIT_RECORD__INIT;
    AUTO_FREE Accel__V1__RankExit *exits = xcalloc(s->rank_count, sizeof(*exits));
    AUTO_FREE Accel__V1__RankExit **list = xcalloc(s->rank_count, sizeof(*list));
    for (size_t i = 0; i < s->rank_count; i++) {
        rank_fill_exit(&s->ranks[i], &exits[i]);
        list[i] = &exits[i];
    }
    record.job_id = s->spec->job_id;
    record.attempt = s->spec->attempt;
    record.era = s->spec->era;
    record.n_ranks = s->rank_count;
    record.ranks = list;
    record.start_failed = s->start_failed;
    record.text = s->start_text != NULL ? s->start_text : record.text;
    record.stop_cause = s->stop_cause;
    record.oom_killed = s->has_oom || limits_oom_kills(s->start->limits->oom_fd) > 0;
    if (write_record(s, &record) < 0) {
        /* The disk is full: the tails go, the rest fits in the room that was kept. */
        for (size_t i = 0; i < s->rank_count; i++) {
            exits[i].stderr_tail.len = 0;
        }
        (void)write_record(s, &record); /* acceld gets it on the socket in any case */
    }
    for (size_t i = 0; i < s->start->claim_count; i++) {
        close(s->start->claim_fds[i]); /* a successor may start as soon as `gone` is read */
    }
    wire_send_gone(s, &record);
}

/* ---- stopping ---- */

void shim_signal(struct shim *s, int32_t rank, int signo)
{
    for (size_t i = 0; i < s->rank_count; i++) {
        const struct shim_rank *k = &s->ranks[i];
        if (k->pid <= 0 || k->is_reaped || (rank >= 0 && k->spec->rank != (uint32_t)rank)) {
            continue; /* a reaped rank's pid may be somebody else's by now */
        }
        if (kill(-k->pid, signo) < 0 && errno == ESRCH) {
            kill(k->pid, signo); /* it has not come to its setpgid yet */
        }
    }
}

void shim_begin_kill(struct shim *s)
{
    if (s->phase < SHIM_KILLING) {
        s->phase = SHIM_KILLING;
    }
}

void shim_stop(struct shim *s, uint64_t grace_ms, uint32_t cause)
{
    uint64_t now = clock_mono_ns();
    uint64_t deadline = now + MIN(grace_ms, (uint64_t)INT32_MAX) * 1000000u;
    if (s->phase >= SHIM_KILLING && (s->is_stopping || s->start_failed || s->rank_live == 0)) {
        return;
    }
    if (!s->is_stopping) {
        s->is_stopping = true;
        s->stop_cause = cause;
        if (grace_ms > 0) {
            shim_signal(s, -1, SIGTERM);
            shim_signal(s, -1, SIGCONT); /* a stopped rank would not see the SIGTERM */
        }
    }
    if (grace_ms == 0) {
        shim_begin_kill(s);
        return;
    }
    if (s->stop_deadline_ns == 0 || deadline < s->stop_deadline_ns) {
        struct itimerspec when = {.it_value = {.tv_sec = (time_t)(deadline / 1000000000u),
                                               .tv_nsec = (long)(deadline % 1000000000u)}};
        s->stop_deadline_ns = deadline;
        if (s->timer_fd < 0) {
            s->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
            if (s->timer_fd < 0) {
                shim_begin_kill(s); /* no clock, no grace */
                return;
            }
            shim_epoll(s, EPOLL_CTL_ADD, s->timer_fd, EPOLLIN, SOURCE_TIMER, 0);
        }
        timerfd_settime(s->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
    }
}

static void on_timer(struct shim *s)
{
    uint64_t count;
    if (read(s->timer_fd, &count, sizeof(count)) == (ssize_t)sizeof(count) &&
        clock_mono_ns() >= s->stop_deadline_ns) {
        shim_begin_kill(s);
    }
}

/* ---- the loop ---- */

static void on_signal(struct shim *s)
{
    struct signalfd_siginfo info[4];
    (void)!read(s->signal_fd, info, sizeof(info)); /* SIGCHLD alone, and it does not queue */
    ranks_reap(s);
}

static void shim_dispatch(struct shim *s, const struct epoll_event *ev)
{
    size_t index = (size_t)(uint32_t)ev->data.u64;
    switch ((enum shim_source)(ev->data.u64 >> 32)) {
    case SOURCE_SIGNAL: on_signal(s); break;
    case SOURCE_LISTEN: wire_on_listen(s); break;
    case SOURCE_CONN: wire_on_conn(s, ev->events); break;
    case SOURCE_PENDING: wire_on_pending(s, index); break;
    case SOURCE_TIMER: on_timer(s); break;
    case SOURCE_STDIN: wire_on_stdin(s, ev->events); break;
    case SOURCE_STREAM: output_on_readable(s, index); break;
    case SOURCE_PMI: shim_pmi_on_ready(s, index, ev->events); break;
    case SOURCE_CGROUP: break; /* the next round looks */
    }
}

/* Nothing of the attempt lives any more. */
static void shim_finish(struct shim *s)
{
    for (size_t i = 0; i < s->rank_count; i++) {
        output_drain(s, &s->ranks[i]);
        output_close(s, &s->ranks[i]);
    }
    wire_close_stdin(s);
    wire_send_exits(s);
    finish_record(s);
    s->phase = SHIM_ENDED;
}

static void shim_advance(struct shim *s)
{
    if (s->start_failed || (s->phase == SHIM_RUNNING && s->rank_live == 0)) {
        shim_begin_kill(s);
    }
    if (s->phase == SHIM_KILLING && tree_kill_round(s)) {
        shim_finish(s);
    }
    wire_send_exits(s);
    wire_flush(s);
}

/* Closes all but the n descriptors given (sorted here) and 0 to 2. */
static void close_others(int *keep, size_t n)
{
    unsigned from = 3;
    for (size_t i = 1; i < n; i++) {
        for (size_t j = i; j > 0 && keep[j - 1] > keep[j]; j--) {
            int t = keep[j];
            keep[j] = keep[j - 1];
            keep[j - 1] = t;
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (keep[i] < (int)from) {
            continue;
        }
        if (keep[i] > (int)from) {
            close_range(from, (unsigned)keep[i] - 1, 0);
        }
        from = (unsigned)keep[i] + 1;
    }
    close_range(from, ~0U, 0);
}

static void close_inherited(const struct shim_start *start)
{
    size_t n = 0;
    AUTO_FREE int *keep = xcalloc(start->claim_count + 8, sizeof(*keep));
    keep[n++] = start->dir_fd;
    keep[n++] = start->listen_fd;
    keep[n++] = start->conn_fd;
    keep[n++] = start->cgroup_fd;
    keep[n++] = start->archive_fd;
    keep[n++] = start->work_fd;
    keep[n++] = start->limits->oom_fd;
    keep[n++] = start->cgroups != NULL ? start->cgroups->fd : -1;
    for (size_t i = 0; i < start->claim_count; i++) {
        keep[n++] = start->claim_fds[i];
    }
    close_others(keep, n);
}

/* Blocked, none of them can hurt us, and the ranks must not inherit it. */
static void signals_reset(void)
{
    struct sigaction deflt = {.sa_handler = SIG_DFL};
    for (size_t i = 0; i < ARRAY_LEN(spawn_ignored); i++) {
        sigaction(spawn_ignored[i], &deflt, NULL);
    }
}

static void shim_init(struct shim *s, const struct shim_start *start)
{
    sigset_t mask;
    *s = (struct shim){.start = start,
                       .spec = start->spec,
                       .pid = getpid(),
                       .timer_fd = -1,
                       .exit_fd = -1,
                       .cgroup_events_fd = -1,
                       .dir_fd = start->dir_fd,
                       .listen_fd = start->listen_fd,
                       .cgroup_fd = start->cgroup_fd,
                       .stdin_fd = -1,
                       .incarnation = start->spec->incarnation};
    snprintf(s->name, sizeof(s->name), "%" PRIu64 ".%u", s->spec->job_id, s->spec->attempt);
    umask(0777 & ~(S_IRWXU | S_IRGRP | S_IXGRP)); /* file_mode is meant as it is said */
    setsid();
    prctl(PR_SET_NAME, "accel-shim");
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    close_inherited(start);
    sigfillset(&mask);
    sigprocmask(SIG_SETMASK, &mask, NULL); /* for life: ranks unblock at their exec */
    signals_reset();
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    s->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    s->ep_fd = epoll_create1(EPOLL_CLOEXEC);
    /* Who is alone needs no order. */
    s->pid_ep_fd = s->spec->n_ranks > 1 ? epoll_create1(EPOLL_CLOEXEC) : -1;
    if (s->signal_fd < 0 || s->ep_fd < 0 || (s->spec->n_ranks > 1 && s->pid_ep_fd < 0)) {
        _exit(1);
    }
    shim_epoll(s, EPOLL_CTL_ADD, s->signal_fd, EPOLLIN, SOURCE_SIGNAL, 0);
    if (s->listen_fd >= 0) {
        shim_epoll(s, EPOLL_CTL_ADD, s->listen_fd, EPOLLIN, SOURCE_LISTEN, 0);
    }
    wire_init(s, start->conn_fd);
}

_Noreturn void shim_run(const struct shim_start *start)
{
    static struct shim shim; /* too large for a careful stack, and there is only one */
    struct shim *s = &shim;
    shim_init(s, start);
    ranks_start(s);
    write_files(s);
    dup2(0, 2); /* the log of an acceld that will be gone one day */
    shim_advance(s);
    while (s->phase != SHIM_ENDED || !wire_is_flushed(s)) {
        struct epoll_event events[EPOLL_BATCH];
        int n = epoll_wait(s->ep_fd, events, EPOLL_BATCH, -1);
        for (int i = 0; i < n; i++) {
            shim_dispatch(s, &events[i]);
        }
        shim_advance(s);
    }
    if (start->cgroups != NULL && getppid() != start->spawn_pid) {
        cgroup_root_done(start->cgroups); /* our accel-spawn is gone and cannot */
    }
    _exit(0);
}
