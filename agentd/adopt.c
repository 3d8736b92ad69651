/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is in attempts/JOB.N when acceld starts or a shim is lost: live shims are taken over,
 * records are read, and where there is neither, the processes are swept and a record is made up.
 * Blocking, within bounds, only before the loop runs. Nothing is swept on a guess: a shim that does
 * not answer is dead when its pid and start time say so.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "agentd/launcher_exec_internal.h"
#include "agentd/procfs.h"
#include "agentd/remove.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/path.h"

#define ADOPT_WAIT_MS  5000       /* for hellos and sweeps; callbacks bring what takes longer */
#define PID_FILE_BYTES (1u << 20) /* a line per rank */
#define REMOVE_DEPTH   64u        /* directories in directories; one more and they stay */

/* ---- files of an attempt ---- */

void attempt_path(struct attempt_id id, const char *file, char *path, size_t size)
{
    snprintf(path, size, "%" PRIu64 ".%u%s%s", id.job_id, id.attempt, file[0] != '\0' ? "/" : "",
             file);
}

static char *read_file(int dir_fd, struct attempt_id id, const char *file, size_t cap,
                       size_t *ret_len)
{
    char path[64];
    char *data = NULL;
    attempt_path(id, file, path, sizeof(path));
    int r = path_read_all(dir_fd, path, cap, &data, ret_len, NULL);
    return r == 0 ? data : NULL;
}

static bool has_file(int dir_fd, struct attempt_id id, const char *file)
{
    char path[64];
    attempt_path(id, file, path, sizeof(path));
    return faccessat(dir_fd, path, F_OK, 0) == 0;
}

int adopt_connect(int dir_fd, struct attempt_id id)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return ACCEL_EUNAVAIL;
    }
    snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d/%" PRIu64 ".%u/sock", dir_fd,
             id.job_id, id.attempt);
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        return errno == ECONNREFUSED || errno == ENOENT || errno == ENOTDIR ? ACCEL_ENOENT
                                                                            : ACCEL_EUNAVAIL;
    }
    /* The directory is the job's user's: what listens there counts only if accel-spawn made it. */
    struct ucred peer;
    socklen_t peer_len = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_len) < 0 ||
        (peer.uid != 0 && peer.uid != geteuid())) {
        return ACCEL_ENOENT;
    }
    return STEAL_FD(fd);
}

enum shim_life { SHIM_DEAD, SHIM_ALIVE, SHIM_NO_PID, SHIM_UNKNOWN };

/* start 0: any. */
static enum shim_life life_of(pid_t pid, uint64_t start)
{
    char state;
    pid_t parent;
    uint64_t found;
    if (proc_stat(pid, &state, &parent, &found)) {
        bool is_other = start != 0 && found != start;
        return is_other || state == 'Z' || state == 'X' ? SHIM_DEAD : SHIM_ALIVE;
    }
    return kill(pid, 0) < 0 && errno == ESRCH ? SHIM_DEAD : SHIM_UNKNOWN;
}

static enum shim_life shim_life(int dir_fd, struct attempt_id id, pid_t *pid)
{
    size_t len;
    int known;
    uint64_t start;
    AUTO_FREE char *text = read_file(dir_fd, id, "pid", PID_FILE_BYTES, &len);
    if (text == NULL && has_file(dir_fd, id, "pid")) {
        return SHIM_UNKNOWN;
    }
    if (text == NULL || sscanf(text, "%d %" SCNu64, &known, &start) != 2 || known <= 0) {
        return *pid > 0 ? life_of(*pid, 0) : SHIM_NO_PID; /* it has not come to write it */
    }
    *pid = known;
    return start == 0 ? SHIM_DEAD : life_of(known, start);
}

bool adopt_is_shim_dead(int dir_fd, struct attempt_id id, int connected, pid_t *pid)
{
    enum shim_life life = shim_life(dir_fd, id, pid);
    return life == SHIM_DEAD || (life == SHIM_NO_PID && connected == ACCEL_ENOENT);
}

Accel__V1__ExitRecord *adopt_read_record(int dir_fd, struct attempt_id id)
{
    size_t len;
    AUTO_FREE char *data = read_file(dir_fd, id, "exit", LIMIT_FRAME_BYTES, &len);
    return data == NULL ? NULL
                        : accel__v1__exit_record__unpack(&codec_memory, len, (const uint8_t *)data);
}

void adopt_free_record(Accel__V1__ExitRecord *record)
{
    accel__v1__exit_record__free_unpacked(record, NULL);
}

Accel__V1__ExitRecord *adopt_make_record(struct launcher_exec *l, const struct attempt *a,
                                         Accel__V1__Cause cause, const char *text)
{
    Accel__V1__ExitRecord record = ACCEL__V1__EXIT_RECORD__INIT;
    AUTO_FREE Accel__V1__RankExit *exits = xcalloc(a->rank_count + 1, sizeof(*exits));
    AUTO_FREE Accel__V1__RankExit **list = xcalloc(a->rank_count + 1, sizeof(*list));
    char path[64];
    for (size_t i = 0; i < a->rank_count; i++) {
        const struct rank_known *k = &a->ranks[i];
        list[i] = k->exit != NULL ? k->exit : &exits[i];
        accel__v1__rank_exit__init(&exits[i]);
        exits[i].rank = k->rank;
        exits[i].pid = k->pid;
        exits[i].start_ms = k->start_ms;
    }
    record.job_id = a->id.job_id;
    record.attempt = a->id.attempt;
    record.era = a->era;
    record.n_ranks = a->rank_count;
    record.ranks = list;
    record.start_failed = cause != ACCEL__V1__CAUSE__CAUSE_SHIM_LOST;
    record.stop_cause = cause == ACCEL__V1__CAUSE__CAUSE_START_FAILED ? 0 : cause;
    record.text = (char *)text;
    size_t len = accel__v1__exit_record__get_packed_size(&record);
    AUTO_FREE uint8_t *data = xcalloc(1, len + 1);
    accel__v1__exit_record__pack(&record, data);
    attempt_path(a->id, "exit", path, sizeof(path));
    /* Without a directory, or on a full disk, there is only what acceld reports now. */
    (void)path_write_atomic(l->dir_fd, path, data, len, 0600, false, NULL);
    return accel__v1__exit_record__unpack(&codec_memory, len, data);
}

static Accel__V1__AttemptSpec *read_spec(int dir_fd, struct attempt_id id)
{
    size_t len;
    AUTO_FREE char *data = read_file(dir_fd, id, "spec", LIMIT_SHIM_FRAME_BYTES, &len);
    return data == NULL
               ? NULL
               : accel__v1__attempt_spec__unpack(&codec_memory, len, (const uint8_t *)data);
}

void adopt_remove(struct launcher_exec *l, struct attempt_id id)
{
    char path[64];
    if (id.attempt == 0) {
        work_path(id.job_id, path, sizeof(path));
    } else {
        attempt_path(id, "", path, sizeof(path));
    }
    if (l->lookups != NULL) { /* its files are another user's, and the directory above is root's */
        Accel__V1__SpawnRequest request = ACCEL__V1__SPAWN_REQUEST__INIT;
        Accel__V1__SpawnSweep which = ACCEL__V1__SPAWN_SWEEP__INIT;
        which.job_id = id.job_id;
        which.attempt = id.attempt;
        request.body_case = ACCEL__V1__SPAWN_REQUEST__BODY_REMOVE;
        request.remove = &which;
        request_add(l, &request, -1);
    } else if (!remove_tree(l->dir_fd, path)) {
        log_warn("cannot remove all of %s/%s: remove what is left by hand", l->dir, path);
    }
}

/* ---- adoption ---- */

enum adopt_phase {
    ADOPT_DONE, /* told, or nothing to tell */
    ADOPT_HELLO,
    ADOPT_SWEEP,
};

/* One directory on its way to being told. */
struct orphan {
    struct attempt *a;
    enum adopt_phase phase;
    int fd; /* ADOPT_HELLO: to the shim */
    uint8_t head[CODEC_HEADER_BYTES];
    uint8_t *body;
    size_t have, need; /* of head, then of body */
    Accel__V1__AttemptSpec *spec;
};

struct adoption {
    struct launcher_exec *l;
    void (*found)(void *ctx, const struct launcher_found *f);
    void *ctx;
    struct orphan *orphans;
    size_t count;
};

static bool parse_name(const char *name, struct attempt_id *ret_id)
{
    char job[24];
    const char *dot = strchr(name, '.');
    uint64_t job_id;
    uint64_t attempt;
    if (dot == NULL || (size_t)(dot - name) >= sizeof(job)) {
        return false;
    }
    memcpy(job, name, (size_t)(dot - name));
    job[dot - name] = '\0';
    if (parse_u64(job, 1, UINT64_MAX, &job_id) < 0 ||
        parse_u64(dot + 1, 0, UINT32_MAX, &attempt) < 0) {
        return false;
    }
    *ret_id = (struct attempt_id){job_id, (uint32_t)attempt};
    return true;
}

int adopt_index(struct launcher_exec *l, struct accel_error *err)
{
    struct dirent *e;
    int fd = openat(l->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL) {
        int r = error_sys(err, errno, "cannot list directory %s", l->dir);
        base_close_fd(&fd);
        return r;
    }
    while ((e = readdir(dir)) != NULL) {
        struct attempt_id id;
        if (parse_name(e->d_name, &id) && attempt_find(l, id) == NULL) {
            attempt_add(l, id, ATTEMPT_ENDED);
        }
    }
    closedir(dir);
    l->is_indexed = true;
    return 0;
}

static int compare_orphans(const void *pa, const void *pb)
{
    const struct attempt_id *a = &((const struct orphan *)pa)->a->id;
    const struct attempt_id *b = &((const struct orphan *)pb)->a->id;
    if (a->job_id != b->job_id) {
        return a->job_id < b->job_id ? -1 : 1;
    }
    return a->attempt < b->attempt ? -1 : a->attempt > b->attempt;
}

/* Everything that has a directory and is not ours already, in the order of the jobs. */
static void list_orphans(struct adoption *ad)
{
    size_t cap = 0;
    for (size_t i = 0; i < LAUNCHER_BUCKETS; i++) {
        for (struct attempt *a = ad->l->buckets[i]; a != NULL; a = a->next) {
            if (a->state != ATTEMPT_ENDED || has_file(ad->l->dir_fd, a->id, "exit.acked")) {
                continue;
            }
            if (ad->count == cap) {
                cap = MAX(cap * 2, (size_t)16);
                ad->orphans = xrealloc(ad->orphans, cap * sizeof(*ad->orphans));
            }
            ad->orphans[ad->count++] = (struct orphan){.a = a, .fd = -1};
        }
    }
    if (ad->count > 1) {
        qsort(ad->orphans, ad->count, sizeof(*ad->orphans), compare_orphans);
    }
}

static void tell(struct adoption *ad, struct orphan *o, const Accel__V1__ShimHello *hello,
                 const Accel__V1__ExitRecord *record, bool shim_lost)
{
    struct launcher_found f = {
        .id = o->a->id,
        .era = record != NULL ? record->era : o->a->era,
        .is_live = record == NULL,
        .spec = o->spec,
        .hello = hello,
        .record = record,
        .shim_lost = shim_lost,
    };
    o->phase = ADOPT_DONE;
    ad->found(ad->ctx, &f);
}

/* True if the attempt has ended and left its record. */
static bool tell_record(struct adoption *ad, struct orphan *o)
{
    Accel__V1__ExitRecord *record = adopt_read_record(ad->l->dir_fd, o->a->id);
    if (record == NULL) {
        return false;
    }
    o->a->state = ATTEMPT_ENDED;
    tell(ad, o, NULL, record, record->stop_cause == ACCEL__V1__CAUSE__CAUSE_SHIM_LOST);
    adopt_free_record(record);
    return true;
}

static void begin_sweep(struct adoption *ad, struct orphan *o)
{
    o->phase = ADOPT_SWEEP;
    o->a->is_adopting = true;
    attempt_sweep(ad->l, o->a);
}

static void tell_live(struct adoption *ad, struct orphan *o);

/* There is no talking with the shim; connected: what adopt_connect() said. */
static void on_unreachable(struct adoption *ad, struct orphan *o, int connected)
{
    struct launcher_exec *l = ad->l;
    base_close_fd(&o->fd);
    o->fd = -1;
    if (tell_record(ad, o)) { /* it may have ended while we came */
        return;
    }
    if (adopt_is_shim_dead(l->dir_fd, o->a->id, connected, &o->a->shim_pid)) {
        begin_sweep(ad, o);
        return;
    }
    o->a->state = ATTEMPT_DETACHED; /* a stop from inside found() is kept for it */
    tell_live(ad, o);
    attempt_detach(l, o->a);
}

static void on_swept(struct adoption *ad, struct orphan *o)
{
    bool had_shim = has_file(ad->l->dir_fd, o->a->id, "pid");
    if (tell_record(ad, o)) {
        return;
    }
    Accel__V1__ExitRecord *record = adopt_make_record(
        ad->l, o->a,
        had_shim ? ACCEL__V1__CAUSE__CAUSE_SHIM_LOST : ACCEL__V1__CAUSE__CAUSE_NODE_LOST,
        had_shim ? "the shim of the attempt was killed"
                 : "acceld or accel-spawn ended while the attempt was being "
                   "started");
    tell(ad, o, NULL, record, had_shim);
    adopt_free_record(record);
}

/* Pids from the shim's file, for records and for a hello that does not come. */
static void read_ranks(struct launcher_exec *l, struct attempt *a)
{
    size_t len;
    char *save = NULL;
    AUTO_FREE char *text = read_file(l->dir_fd, a->id, "pid", PID_FILE_BYTES, &len);
    char *lines = text;
    for (int i = 0; i < 2 && lines != NULL; i++) { /* the shim's own */
        lines = strchr(lines, '\n');
        lines += lines != NULL;
    }
    if (lines == NULL) {
        return;
    }
    for (char *line = strtok_r(lines, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        unsigned rank;
        unsigned pid;
        if (sscanf(line, "%u %u", &rank, &pid) != 2) {
            continue;
        }
        for (size_t i = 0; i < a->rank_count; i++) {
            if (a->ranks[i].rank == rank) {
                a->ranks[i].pid = pid;
            }
        }
    }
}

static void begin(struct adoption *ad, struct orphan *o)
{
    struct launcher_exec *l = ad->l;
    AUTO_STR struct str own = {0};
    o->spec = read_spec(l->dir_fd, o->a->id);
    if (o->spec != NULL) {
        attempt_set_ranks(o->a, o->spec);
        read_ranks(l, o->a);
    }
    if (tell_record(ad, o)) {
        return;
    }
    o->fd = adopt_connect(l->dir_fd, o->a->id);
    if (o->fd < 0) {
        on_unreachable(ad, o, o->fd);
        return;
    }
    str_init(&own);
    wire_add_own(&own, l->incarnation);
    /* A dozen bytes into an empty socket: all or nothing. */
    if (send(o->fd, own.data, own.len, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)own.len) {
        on_unreachable(ad, o, 0);
        return;
    }
    o->phase = ADOPT_HELLO;
}

/* The shim is ours; what it says from here on comes through the loop. */
static void take_over(struct adoption *ad, struct orphan *o, const Accel__V1__ShimHello *hello)
{
    o->a->state = ATTEMPT_LIVE;
    bool is_ours = attempt_connect(ad->l, o->a, STEAL_FD(o->fd)) == 0;
    if (hello != NULL) {
        attempt_on_hello(ad->l, o->a, hello, false);
    }
    if (!is_ours) {
        attempt_detach(ad->l, o->a); /* it could not be watched; later it may */
    }
}

/* Reads exactly one frame, so that all that follows it stays for the loop. */
static void on_hello_readable(struct adoption *ad, struct orphan *o)
{
    for (;;) {
        bool is_head = o->body == NULL;
        size_t need = is_head ? sizeof(o->head) : o->need;
        uint8_t *at = is_head ? o->head : o->body;
        ssize_t n = need > o->have ? recv(o->fd, at + o->have, need - o->have, MSG_DONTWAIT) : 0;
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (n < 0 || (n == 0 && need > o->have)) {
            on_unreachable(ad, o, 0);
            return;
        }
        o->have += (size_t)n;
        if (o->have < need) {
            continue;
        }
        if (!is_head) {
            break;
        }
        o->need = (size_t)o->head[0] | (size_t)o->head[1] << 8 | (size_t)o->head[2] << 16 |
                  (size_t)o->head[3] << 24;
        o->have = 0;
        if (o->need == 0 || o->need > LIMIT_FRAME_BYTES) {
            on_unreachable(ad, o, 0);
            return;
        }
        o->body = xcalloc(1, o->need);
    }
    Accel__V1__ShimUp *up = accel__v1__shim_up__unpack(&codec_memory, o->need, o->body);
    if (up == NULL || up->body_case != ACCEL__V1__SHIM_UP__BODY_HELLO) {
        on_unreachable(ad, o, 0);
    } else {
        take_over(ad, o, up->hello);
        tell(ad, o, up->hello, NULL, false);
    }
    if (up != NULL) {
        accel__v1__shim_up__free_unpacked(up, NULL);
    }
}

/* Told as live with what the files say; callbacks bring the rest. */
static void tell_live(struct adoption *ad, struct orphan *o)
{
    Accel__V1__ShimHello hello = ACCEL__V1__SHIM_HELLO__INIT;
    struct attempt *a = o->a;
    AUTO_FREE Accel__V1__RankExit *exits = xcalloc(a->rank_count + 1, sizeof(*exits));
    AUTO_FREE Accel__V1__RankExit **list = xcalloc(a->rank_count + 1, sizeof(*list));
    for (size_t i = 0; i < a->rank_count; i++) {
        accel__v1__rank_exit__init(&exits[i]);
        exits[i].rank = a->ranks[i].rank;
        exits[i].pid = a->ranks[i].pid;
        list[i] = &exits[i];
    }
    hello.job_id = a->id.job_id;
    hello.attempt = a->id.attempt;
    hello.era = a->era;
    hello.started = has_file(ad->l->dir_fd, a->id, "pid"); /* written after the start */
    hello.n_ranks = a->rank_count;
    hello.ranks = list;
    a->is_started = hello.started;
    a->is_adopting = false;
    tell(ad, o, &hello, NULL, false);
}

/* Time is up. */
static void on_late(struct adoption *ad, struct orphan *o)
{
    struct attempt *a = o->a;
    if (o->phase == ADOPT_HELLO) {
        size_t head_len = o->body != NULL ? sizeof(o->head) : o->have;
        take_over(ad, o, NULL);
        if (a->wire != NULL) { /* what came of its hello already */
            codec_reader_feed(&a->wire->in, o->head, head_len);
            if (o->body != NULL) {
                codec_reader_feed(&a->wire->in, o->body, o->have);
            }
        }
    }
    tell_live(ad, o);
}

static void wait_all(struct adoption *ad)
{
    int64_t deadline = clock_mono_ms() + ADOPT_WAIT_MS;
    AUTO_FREE struct pollfd *fds = xcalloc(ad->count + 1, sizeof(*fds));
    AUTO_FREE struct orphan **who = xcalloc(ad->count + 1, sizeof(*who));
    for (;;) {
        size_t n = 0;
        size_t open = 0;
        for (size_t i = 0; i < ad->count; i++) {
            struct orphan *o = &ad->orphans[i];
            if (o->phase == ADOPT_SWEEP && !o->a->is_adopting) {
                on_swept(ad, o);
            }
            open += o->phase != ADOPT_DONE;
            if (o->phase == ADOPT_HELLO) {
                who[n] = o;
                fds[n++] = (struct pollfd){.fd = o->fd, .events = POLLIN};
            }
        }
        int64_t left = deadline - clock_mono_ms();
        if (open == 0 || left <= 0) {
            return;
        }
        struct wire *spawn = ad->l->spawn;
        size_t shims = n;
        if (spawn != NULL) {
            fds[n++] = (struct pollfd){.fd = spawn->fd,
                                       .events = POLLIN | (ad->l->requests != NULL ? POLLOUT : 0)};
        }
        if (poll(fds, n, (int)left) < 0) {
            continue; /* a signal */
        }
        for (size_t i = 0; i < shims; i++) {
            if (fds[i].revents != 0) {
                on_hello_readable(ad, who[i]);
            }
        }
        if (n > shims && fds[shims].revents != 0) {
            spawn->on_ready(spawn, ((fds[shims].revents & ~POLLOUT) != 0 ? UV_READABLE : 0) |
                                       ((fds[shims].revents & POLLOUT) != 0 ? UV_WRITABLE : 0));
        }
    }
}

int launcher_exec_adopt(struct launcher *base,
                        void (*found)(void *ctx, const struct launcher_found *f), void *ctx,
                        struct accel_error *err)
{
    struct adoption ad = {.l = (struct launcher_exec *)base, .found = found, .ctx = ctx};
    int r = adopt_index(ad.l, err);
    if (r < 0) {
        return r;
    }
    list_orphans(&ad);
    for (size_t i = 0; i < ad.count; i++) {
        begin(&ad, &ad.orphans[i]);
    }
    wait_all(&ad);
    for (size_t i = 0; i < ad.count; i++) {
        struct orphan *o = &ad.orphans[i];
        if (o->phase != ADOPT_DONE) {
            on_late(&ad, o);
        }
        if (o->spec != NULL) {
            accel__v1__attempt_spec__free_unpacked(o->spec, NULL);
        }
        base_close_fd(&o->fd);
        free(o->body);
    }
    free(ad.orphans);
    return 0;
}

void launcher_exec_kept(struct launcher *base,
                        void (*kept)(void *ctx, struct attempt_id id, uint64_t era), void *ctx)
{
    struct launcher_exec *l = (struct launcher_exec *)base;
    for (size_t i = 0; i < LAUNCHER_BUCKETS; i++) {
        for (struct attempt *a = l->buckets[i]; a != NULL; a = a->next) {
            if (a->state != ATTEMPT_ENDED) {
                continue;
            }
            if (a->era == 0) {
                Accel__V1__AttemptSpec *spec = read_spec(l->dir_fd, a->id);
                a->era = spec != NULL ? spec->era : 0;
                accel__v1__attempt_spec__free_unpacked(spec, NULL);
            }
            kept(ctx, a->id, a->era);
        }
    }
}
