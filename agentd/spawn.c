/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accel-spawn's loop: requests of acceld in, attempts' directories and shims out. Small and with
 * little memory on purpose, because every shim is a fork of it. Must not keep a descriptor of an
 * attempt after the fork (acceld notices a dead shim by the end of its connection), must not
 * wait for anything but the kernel, and opens no network.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agentd/remove.h"
#include "agentd/spawn_internal.h"
#include "common/path.h"

#define READ_BYTES    65536u
#define EPOLL_BATCH   64
#define SHIM_BACKLOG  64 /* ranks and an acceld that connect at once; further ones wait */
#define CLAIM_BACKLOG 8  /* only so that who is refused can ask for the owner */
#define CLAIM_PREFIX  "accel-claim-"

void spawn_epoll(struct spawn *sp, int op, int fd, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.fd = fd};
    if (epoll_ctl(sp->ep_fd, op, fd, &ev) < 0 && op == EPOLL_CTL_ADD) {
        sp->is_over = true; /* acceld starts another one */
    }
}

/* ---- answers ---- */

static void flush(struct spawn *sp)
{
    size_t done = 0;
    while (done < sp->out.len) {
        ssize_t n =
            send(sp->fd, sp->out.data + done, sp->out.len - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            sp->is_over = sp->is_over || errno != EAGAIN;
            break;
        }
        done += (size_t)n;
    }
    str_drop_front(&sp->out, done);
    if ((sp->out.len > 0) != sp->wants_write) {
        sp->wants_write = sp->out.len > 0;
        spawn_epoll(sp, EPOLL_CTL_MOD, sp->fd, EPOLLIN | (sp->wants_write ? EPOLLOUT : 0));
    }
}

void spawn_reply(struct spawn *sp, Accel__V1__SpawnReply *reply)
{
    codec_add(&sp->out, &reply->base);
    if (sp->out.len > LIMIT_SHIM_FRAME_BYTES) {
        sp->is_over = true; /* an acceld that asks and never reads */
    }
}

static void reply_failed(struct spawn *sp, const Accel__V1__AttemptSpec *spec,
                         const struct accel_error *err, bool exists)
{
    Accel__V1__SpawnReply reply = ACCEL__V1__SPAWN_REPLY__INIT;
    reply.job_id = spec->job_id;
    reply.attempt = spec->attempt;
    reply.kind = ACCEL__V1__SPAWN_REPLY__KIND__FAILED;
    reply.error = err->sys;
    reply.text = (char *)err->text;
    reply.exists = exists;
    spawn_reply(sp, &reply);
}

/* ---- what an attempt needs before its shim ---- */

/* What is open for an attempt while its shim is made. */
struct attempt_files {
    char name[40];
    int dir_fd, listen_fd;
    int archive_fd, work_fd; /* -1: the job brings none */
    struct spawn_groups groups;
    int *claim_fds;
    size_t claim_count;
    struct identity identity;
};

static void files_close(struct attempt_files *f)
{
    base_close_fd(&f->dir_fd);
    base_close_fd(&f->listen_fd);
    base_close_fd(&f->archive_fd);
    base_close_fd(&f->work_fd);
    spawn_groups_close(&f->groups);
    for (size_t i = 0; i < f->claim_count; i++) {
        base_close_fd(&f->claim_fds[i]);
    }
    free(f->claim_fds);
    identity_done(&f->identity);
}

static int write_spec(int dir_fd, const Accel__V1__AttemptSpec *spec, mode_t mode,
                      struct accel_error *err)
{
    size_t len = accel__v1__attempt_spec__get_packed_size(spec);
    AUTO_FREE uint8_t *data = xcalloc(1, len + 1);
    size_t done = 0;
    AUTO_CLOSE int fd = openat(dir_fd, "spec", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    if (fd < 0) {
        return error_sys(err, errno, "cannot write the attempt's specification");
    }
    accel__v1__attempt_spec__pack(spec, data);
    while (done < len) {
        ssize_t n = write(fd, data + done, len - done);
        if (n < 0 && errno != EINTR) {
            return error_sys(err, errno, "cannot write the attempt's specification");
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static int make_listener(struct attempt_files *f, mode_t mode, struct accel_error *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d/sock", f->dir_fd);
    f->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* The mode of a socket's file comes from the mode of its descriptor, less the umask. */
    if (f->listen_fd < 0 || fchmod(f->listen_fd, mode) < 0 ||
        bind(f->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        listen(f->listen_fd, SHIM_BACKLOG) < 0) {
        return error_sys(err, errno, "cannot make the attempt's socket");
    }
    return 0;
}

/* Who holds a claim that we cannot have, for people. */
static void describe_owner(const struct sockaddr_un *addr, socklen_t len, char *text, size_t size)
{
    struct ucred peer;
    socklen_t peer_len = sizeof(peer);
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    text[0] = '\0';
    if (fd >= 0 && connect(fd, (const struct sockaddr *)addr, len) == 0 &&
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_len) == 0) {
        snprintf(text, size, " of user id %u", (unsigned)peer.uid);
    }
}

static int take_claim(const char *claim, int *ret_fd, struct accel_error *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    char owner[48];
    /* Abstract: it goes with its last holder, and it counts for every user of the host. */
    int len = snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1, CLAIM_PREFIX "%s", claim);
    if (len < 0 || (size_t)len >= sizeof(addr.sun_path) - 1) {
        return error_set(err, ACCEL_EINVAL, "the name of device %s is too long", claim);
    }
    socklen_t addr_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return error_sys(err, errno, "cannot claim device %s", claim);
    }
    if (bind(fd, (struct sockaddr *)&addr, addr_len) < 0) {
        if (errno != EADDRINUSE) {
            return error_sys(err, errno, "cannot claim device %s", claim);
        }
        describe_owner(&addr, addr_len, owner, sizeof(owner));
        error_set(err, ACCEL_EBUSY, "device %s is in use by another attempt%s on this host", claim,
                  owner);
        err->sys = EADDRINUSE;
        return ACCEL_EBUSY;
    }
    (void)listen(fd, CLAIM_BACKLOG); /* without it only the owner's name is missing */
    *ret_fd = STEAL_FD(fd);
    return 0;
}

static int take_claims(struct attempt_files *f, const Accel__V1__AttemptSpec *spec,
                       struct accel_error *err)
{
    f->claim_fds = xcalloc(spec->n_claims + 1, sizeof(*f->claim_fds));
    for (size_t i = 0; i < spec->n_claims; i++) {
        int r = take_claim(spec->claims[i], &f->claim_fds[i], err);
        if (r < 0) {
            return r;
        }
        f->claim_count++;
    }
    return 0;
}

static int check_spec(const Accel__V1__AttemptSpec *spec, struct accel_error *err)
{
    if (spec->n_argv == 0 || spec->n_ranks == 0 || spec->n_ranks > LIMIT_PROCS_PER_NODE) {
        return error_set(err, ACCEL_EINVAL, "a start needs a program and 1 to %u ranks",
                         LIMIT_PROCS_PER_NODE);
    }
    return 0;
}

/* The directory of an ended attempt of another era (the coordinator's store was replaced, ids begin
 * again) is no tombstone for this one: it is kept under another name for whoever wants its logs. */
static bool set_aside(struct spawn *sp, const char *name, uint64_t era)
{
    char path[96];
    AUTO_FREE char *data = NULL;
    size_t len = 0;
    snprintf(path, sizeof(path), "%s/spec", name);
    if (path_read_all(sp->dir_fd, path, LIMIT_SHIM_FRAME_BYTES, &data, &len, NULL) < 0) {
        return false;
    }
    Accel__V1__AttemptSpec *old =
        accel__v1__attempt_spec__unpack(&codec_memory, len, (const uint8_t *)data);
    if (!old) {
        return false;
    }
    uint64_t old_era = old->era;
    accel__v1__attempt_spec__free_unpacked(old, NULL);
    snprintf(path, sizeof(path), "%s/exit", name);
    bool has_ended = faccessat(sp->dir_fd, path, F_OK, 0) == 0;
    snprintf(path, sizeof(path), "%s/exit.acked", name);
    has_ended = has_ended || faccessat(sp->dir_fd, path, F_OK, 0) == 0;
    if (!has_ended || old_era == era) {
        return false;
    }
    snprintf(path, sizeof(path), "%s.era-%" PRIu64, name, old_era);
    return renameat(sp->dir_fd, name, sp->dir_fd, path) == 0;
}

static int make_directory(struct spawn *sp, const char *name, uint64_t era)
{
    int r = mkdirat(sp->dir_fd, name, 0700);
    if (r < 0 && errno == EEXIST) {
        r = set_aside(sp, name, era) ? mkdirat(sp->dir_fd, name, 0700) : -1;
        errno = r < 0 ? EEXIST : errno;
    }
    return r;
}

/* Acceld's group from the start: what is made in it is its, so that acceld may read and end it. */
static int own_directory(const struct spawn *sp, const struct attempt_files *f,
                         struct accel_error *err)
{
    if (sp->rules.is_switching &&
        (fchown(f->dir_fd, 0, sp->rules.agent_gid) < 0 || fchmod(f->dir_fd, 02770) < 0)) {
        return error_sys(err, errno, "cannot give away the attempt's directory");
    }
    return 0;
}

/* Last: while root makes files in it, nobody else may. */
static int give_directory(const struct attempt_files *f, struct accel_error *err)
{
    if (f->identity.is_switched &&
        (fchownat(f->dir_fd, "sock", f->identity.uid, (gid_t)-1, AT_SYMLINK_NOFOLLOW) < 0 ||
         fchown(f->dir_fd, f->identity.uid, (gid_t)-1) < 0)) {
        return error_sys(err, errno, "cannot give away the attempt's directory");
    }
    return 0;
}

/* Makes everything; on failure the directory stays (unless *ret_exists) as the tombstone. */
static int make_files(struct spawn *sp, const Accel__V1__AttemptSpec *spec, struct attempt_files *f,
                      bool *ret_exists, struct accel_error *err)
{
    snprintf(f->name, sizeof(f->name), "%" PRIu64 ".%u", spec->job_id, spec->attempt);
    if (make_directory(sp, f->name, spec->era) < 0) {
        *ret_exists = errno == EEXIST;
        return error_sys(err, errno, "cannot make directory %s/%s", sp->dir, f->name);
    }
    f->dir_fd = openat(sp->dir_fd, f->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (f->dir_fd < 0) {
        return error_sys(err, errno, "cannot open directory %s/%s", sp->dir, f->name);
    }
    int r = own_directory(sp, f, err);
    if (r == 0) {
        r = write_spec(f->dir_fd, spec, sp->rules.is_switching ? 0640 : 0600, err);
    }
    if (r == 0) {
        r = check_spec(spec, err);
    }
    if (r == 0) {
        r = identity_check(&sp->rules, spec, &f->identity, err);
    }
    if (r == 0) {
        r = take_claims(f, spec, err);
    }
    if (r == 0) {
        r = make_listener(f, sp->rules.is_switching ? 0660 : 0600, err);
    }
    if (r == 0) {
        r = give_directory(f, err);
    }
    if (r == 0) {
        r = spawn_archive_open(sp, spec, &f->identity, &f->archive_fd, &f->work_fd, err);
    }
    if (r == 0) {
        spawn_limits_make(sp, f->name, spec, &f->identity, &f->groups);
    }
    return r;
}

/* ---- requests ---- */

/* A request lives for one turn, and a shim lives in the copy of it: one piece instead of hundreds,
 * and zeroed with a byte to spare, so that each field of bytes ends with a NUL as execve wants. */
static void *request_alloc(void *arena, size_t size)
{
    return arena_alloc(arena, size + 1);
}

static void request_free(void *arena, void *p)
{
    (void)arena;
    (void)p;
}

static void shim_add(struct spawn *sp, pid_t pid, const Accel__V1__AttemptSpec *spec,
                     bool is_limited)
{
    if (sp->shim_count == sp->shim_cap) {
        sp->shim_cap = MAX(sp->shim_cap * 2, (size_t)16);
        sp->shims = xrealloc(sp->shims, sp->shim_cap * sizeof(*sp->shims));
    }
    sp->shims[sp->shim_count++] = (struct spawn_shim){
        .pid = pid, .job_id = spec->job_id, .attempt = spec->attempt, .is_limited = is_limited};
}

/* In the child: from root to the job's user. What it needs root for is done before. */
static void become(const struct attempt_files *f)
{
    int r = f->identity.is_switched ? identity_switch(&f->identity) : 0;
    if (r < 0) {
        dprintf(2, "accel-shim %s: cannot become user id %u: %s\n", f->name,
                (unsigned)f->identity.uid, strerror(-r));
        _exit(1);
    }
    if (f->identity.is_switched) {
        prctl(PR_SET_DUMPABLE, 1); /* else a rank's /proc/self is root's until its exec */
    }
    for (size_t i = 0; i < f->claim_count && f->identity.is_switched; i++) {
        (void)listen(f->claim_fds[i], CLAIM_BACKLOG); /* so that it says whose it is */
    }
}

static int fork_shim(struct spawn *sp, Accel__V1__AttemptSpec *spec, struct attempt_files *f,
                     int conn_fd, struct accel_error *err)
{
    pid_t self = getpid();
    pid_t pid = cgroup_fork(f->groups.shim_fd);
    if (pid == 0) {
        spawn_limits_enter(sp, spec, &f->identity, &f->groups);
        struct shim_start start = {
            .spec = spec,
            .attempts_dir = sp->dir,
            .dir_fd = f->dir_fd,
            .listen_fd = f->listen_fd,
            .conn_fd = conn_fd,
            .archive_fd = f->archive_fd,
            .work_fd = f->work_fd,
            .claim_fds = f->claim_fds,
            .claim_count = f->claim_count,
            .cgroups = sp->has_cgroups ? &sp->cgroups : NULL,
            .cgroup_fd = f->groups.ranks_fd,
            .is_cgroup_split = f->groups.is_split,
            .limits = &f->groups.limits,
            .oom_score_adj =
                f->groups.is_shielded || sp->is_oom_favoured ? sp->oom_score_adj : NULL,
            .identity = &f->identity,
            .agent_uid = sp->rules.agent_uid,
            .file_mode = f->identity.is_switched ? 0640 : 0600,
            .spawn_pid = self,
            .nofile = sp->nofile,
        };
        become(f);
        shim_run(&start);
    }
    if (pid < 0) {
        return error_sys(err, -pid, "cannot make a process for the attempt's shim");
    }
    shim_add(sp, pid, spec, f->groups.limits.text_count > 0);
    Accel__V1__SpawnReply reply = ACCEL__V1__SPAWN_REPLY__INIT;
    reply.job_id = spec->job_id;
    reply.attempt = spec->attempt;
    reply.kind = ACCEL__V1__SPAWN_REPLY__KIND__FORKED;
    reply.pid = (uint32_t)pid;
    spawn_reply(sp, &reply);
    return 0;
}

static void on_start(struct spawn *sp, Accel__V1__AttemptSpec *spec)
{
    struct attempt_files f = {
        .dir_fd = -1,
        .listen_fd = -1,
        .archive_fd = -1,
        .work_fd = -1,
        .groups = {.ranks_fd = -1,
                   .shim_fd = -1,
                   .limits = {.join_fds = {-1, -1, -1, -1}, .oom_fd = -1}},
    };
    struct accel_error err = {0};
    bool exists = false;
    AUTO_CLOSE int conn_fd = -1;
    if (sp->fd_count > 0) {
        conn_fd = sp->fds[0];
        memmove(&sp->fds[0], &sp->fds[1], --sp->fd_count * sizeof(sp->fds[0]));
    }
    int r = make_files(sp, spec, &f, &exists, &err);
    if (r == 0) {
        r = fork_shim(sp, spec, &f, conn_fd, &err);
    }
    if (r < 0) {
        if (!exists) {
            spawn_limits_remove(sp, f.name);
        }
        reply_failed(sp, spec, &err, exists);
    }
    files_close(&f);
}

/* Attempts count from 1; 0 is the directory that all of a job's share. */
static void attempt_name(uint64_t job_id, uint32_t attempt, char *buf, size_t size)
{
    if (attempt == 0) {
        snprintf(buf, size, "%" PRIu64 "." ARCHIVE_WORK_SUFFIX, job_id);
    } else {
        snprintf(buf, size, "%" PRIu64 ".%u", job_id, attempt);
    }
}

static void on_remove(struct spawn *sp, const Accel__V1__SpawnSweep *which)
{
    char name[40];
    attempt_name(which->job_id, which->attempt, name, sizeof(name));
    if (which->attempt > 0) {
        spawn_limits_remove(sp, name); /* a shim that outlived its accel-spawn left them */
    }
    if (!remove_tree(sp->dir_fd, name)) {
        dprintf(2, "accel-spawn: cannot remove all of %s/%s: remove what is left by hand\n",
                sp->dir, name);
    }
}

static void spawn_request_dispatch(struct spawn *sp, Accel__V1__SpawnRequest *request)
{
    switch (request->body_case) {
    case ACCEL__V1__SPAWN_REQUEST__BODY_START: on_start(sp, request->start); break;
    case ACCEL__V1__SPAWN_REQUEST__BODY_SWEEP:
        sweep_add(sp, request->sweep->job_id, request->sweep->attempt);
        break;
    case ACCEL__V1__SPAWN_REQUEST__BODY_REMOVE: on_remove(sp, request->remove); break;
    case ACCEL__V1__SPAWN_REQUEST__BODY__NOT_SET: /* acceld and we are one version */
    default: sp->is_over = true; break;
    }
}

static void take_fds(struct spawn *sp, struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
            if (sp->fd_count < SPAWN_FDS) {
                sp->fds[sp->fd_count++] = fd;
            } else {
                close(fd);
            }
        }
    }
}

/* One read. The kernel ends a read after a packet that carried descriptors, so these arrive no
 * later than the last byte of their START and in its order. */
static void on_request(struct spawn *sp)
{
    static char buf[READ_BYTES];
    char control[CMSG_SPACE(sizeof(int) * SPAWN_FDS)] __attribute__((aligned(8)));
    struct iovec iov = {.iov_base = buf, .iov_len = sizeof(buf)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof(control)};
    const uint8_t *data;
    size_t len;
    int r;
    ProtobufCAllocator memory = {request_alloc, request_free, &sp->request};
    ssize_t n = recvmsg(sp->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        sp->is_over = true;
        return;
    }
    take_fds(sp, &msg);
    codec_reader_feed(&sp->in, buf, (size_t)n);
    while ((r = codec_reader_next(&sp->in, &data, &len)) > 0) {
        Accel__V1__SpawnRequest *request = accel__v1__spawn_request__unpack(&memory, len, data);
        if (request == NULL) {
            r = ACCEL_EPROTO;
            break;
        }
        spawn_request_dispatch(sp, request);
        arena_reset(&sp->request);
    }
    sp->is_over = sp->is_over || r < 0;
}

/* ---- children ---- */

/* What a shim cannot remove: it is in it, or is not root. What is not empty waits for the sweep. */
static void remove_groups(struct spawn *sp, const struct spawn_shim *shim)
{
    char name[40];
    snprintf(name, sizeof(name), "%" PRIu64 ".%u", shim->job_id, shim->attempt);
    if (sp->rules.is_switching) {
        spawn_limits_remove(sp, name);
    } else if (shim->is_limited) {
        (void)limits_remove(&sp->limits, name);
    }
}

static void on_child(struct spawn *sp, pid_t pid, int status)
{
    size_t i = 0;
    while (i < sp->shim_count && sp->shims[i].pid != pid) {
        i++;
    }
    if (i == sp->shim_count) {
        sweep_on_ready(sp, -1); /* an orphan that was killed */
        return;
    }
    struct spawn_shim shim = sp->shims[i];
    sp->shims[i] = sp->shims[--sp->shim_count];
    remove_groups(sp, &shim);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return; /* it has told acceld itself, and nothing is left */
    }
    Accel__V1__SpawnReply reply = ACCEL__V1__SPAWN_REPLY__INIT;
    reply.job_id = shim.job_id;
    reply.attempt = shim.attempt;
    reply.kind = ACCEL__V1__SPAWN_REPLY__KIND__SHIM_DIED;
    reply.pid = (uint32_t)pid;
    spawn_reply(sp, &reply);
    sp->may_have_orphans = true;
    sweep_on_ready(sp, -1);
}

static void on_signal(struct spawn *sp)
{
    struct signalfd_siginfo info[8];
    int status;
    pid_t pid;
    while (read(sp->signal_fd, info, sizeof(info)) > 0) {}
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        on_child(sp, pid, status);
    }
}

/* ---- life ---- */

/* Where users are switched, nobody but root may have made or may rename what is in the directory.
 */
static int check_directory(const struct spawn *sp)
{
    struct stat st;
    if (!sp->rules.is_switching) {
        return 0;
    }
    if (fstat(sp->dir_fd, &st) < 0 || st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        fprintf(stderr, "accel-spawn: %s: it must belong to root and be writable by nobody else\n",
                sp->dir);
        return -1;
    }
    return 0;
}

static int spawn_init(struct spawn *sp, int fd, const char *attempts_dir)
{
    const char *setting = getenv(SPAWN_CGROUP_VARIABLE);
    sigset_t mask;
    sp->fd = fd;
    codec_reader_init(&sp->in, LIMIT_SHIM_FRAME_BYTES);
    arena_init(&sp->request);
    str_init(&sp->out);
    sp->cgroups.fd = -1;
    AUTO_CLOSE int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0) {
        perror("accel-spawn: /dev/null");
        return -1;
    }
    if (realpath(attempts_dir, sp->dir) == NULL ||
        (sp->dir_fd = open(sp->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0) {
        fprintf(stderr, "accel-spawn: %s: %s\n", attempts_dir, strerror(errno));
        return -1;
    }
    if (check_directory(sp) < 0) {
        return -1;
    }
    /* A shim needs five descriptors a rank. The ranks get back what was set. */
    getrlimit(RLIMIT_NOFILE, &sp->nofile);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){sp->nofile.rlim_max, sp->nofile.rlim_max});
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_SETMASK, &mask, NULL);
    sp->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    sp->ep_fd = epoll_create1(EPOLL_CLOEXEC);
    if (sp->signal_fd < 0 || sp->ep_fd < 0) {
        perror("accel-spawn");
        return -1;
    }
    spawn_epoll(sp, EPOLL_CTL_ADD, sp->signal_fd, EPOLLIN);
    spawn_epoll(sp, EPOLL_CTL_ADD, sp->fd, EPOLLIN);
    sp->has_cgroups =
        (setting == NULL || strcmp(setting, "0") != 0) &&
        cgroup_root_init(&sp->cgroups, sp->dir, setting != NULL && strcmp(setting, "/") == 0);
    spawn_limits_init(sp);
    return sp->is_over ? -1 : 0;
}

static void spawn_done(struct spawn *sp)
{
    for (size_t i = 0; i < sp->fd_count; i++) {
        close(sp->fds[i]);
    }
    spawn_limits_tidy(sp);
    cgroup_root_done(&sp->cgroups);
    limits_root_done(&sp->limits);
    codec_reader_done(&sp->in);
    arena_done(&sp->request);
    str_done(&sp->out);
    free(sp->shims);
    free(sp->sweeps);
}

int spawn_run(int fd, const char *attempts_dir, const struct identity_rules *rules)
{
    static struct spawn spawn;
    struct spawn *sp = &spawn;
    sp->rules = *rules;
    if (rules->is_switching) {
        umask(007); /* acceld's group may read what is made for it */
    }
    int r = spawn_init(sp, fd, attempts_dir);
    if (r < 0) {
        return 1;
    }
    Accel__V1__SpawnReply ready = ACCEL__V1__SPAWN_REPLY__INIT;
    ready.kind = ACCEL__V1__SPAWN_REPLY__KIND__READY;
    ready.pid = (uint32_t)getpid();
    ready.isolation = (char *)(sp->has_cgroups ? "cgroup2" : "none");
    char texts[LIMIT_KINDS][LIMIT_TEXT_BYTES];
    char *lines[LIMIT_KINDS];
    limits_describe(&sp->limits, texts);
    for (size_t i = 0; i < LIMIT_KINDS; i++) {
        lines[i] = texts[i];
    }
    ready.limits = lines;
    ready.n_limits = LIMIT_KINDS;
    spawn_reply(sp, &ready);
    flush(sp);
    while (!sp->is_over) {
        struct epoll_event events[EPOLL_BATCH];
        int n = epoll_wait(sp->ep_fd, events, EPOLL_BATCH, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == sp->signal_fd) {
                on_signal(sp);
            } else if (events[i].data.fd == sp->fd) {
                on_request(sp);
            } else {
                sweep_on_ready(sp, events[i].data.fd);
            }
        }
        sweep_advance(sp);
        flush(sp);
    }
    spawn_done(sp);
    return 0;
}
