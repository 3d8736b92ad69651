/* SPDX-License-Identifier: Apache-2.0 */
/*
 * archive.c - fetches archives of jobs and keeps them. A file's name is HASH.USER: knowing a hash
 * gives nobody what another user has sent. Neighbours: shell.c asks and launches; the shim unpacks,
 * as the job's user. It must not know what is in an archive.
 */
#include "agentd/archive.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/arena.h"
#include "common/hash.h"
#include "common/limits.h"
#include "common/path.h"
#include "common/str.h"

struct fetch {
    struct attempt_id id;
    uint64_t era, read_id, size_bytes, have_bytes;
    uint8_t wanted[HASH_BYTES];
    struct hash hash;
    char *name; /* HASH.USER */
    int fd;
    LIST_ENTRY(fetch) link;
};

struct archives {
    char dir[PATH_MAX - NAME_MAX - 2]; /* room for a name below it */
    int dir_fd;
    const struct archive_callbacks *cb;
    void *ctx;
    uint64_t next_id;
    LIST_HEAD(, fetch) fetches;
};

static void part_name(const struct fetch *f, char *buf, size_t size)
{
    snprintf(buf, size, "part.%llu", (unsigned long long)f->read_id);
}

/* --- room, and what another boot left --- */

static bool is_kept(const char *name)
{
    return strspn(name, "0123456789abcdef") == 2 * HASH_BYTES && name[2 * HASH_BYTES] == '.';
}

static void remove_all(struct archives *a, bool only_parts)
{
    DIR *d = fdopendir(openat(a->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));

    for (struct dirent *e; d && (e = readdir(d));)
        if (!strncmp(e->d_name, "part.", 5) || (!only_parts && is_kept(e->d_name)))
            unlinkat(a->dir_fd, e->d_name, 0);
    if (d)
        closedir(d);
}

/* Content is not synced: a file that a crash of the machine has cut would have the right name. */
static void forget_other_boot(struct archives *a)
{
    char boot[64] = "", seen[64] = "";
    AUTO_CLOSE int from = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    AUTO_CLOSE int at = openat(a->dir_fd, "boot", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (from >= 0 && read(from, boot, sizeof(boot) - 1) < 0)
        boot[0] = 0;
    if (at >= 0 && read(at, seen, sizeof(seen) - 1) < 0)
        seen[0] = 0;
    remove_all(a, boot[0] && !strcmp(boot, seen));
    path_write_atomic(a->dir_fd, "boot", boot, strlen(boot), 0600, false, NULL);
}

static uint64_t find_oldest(struct archives *a, char *ret_name, size_t size)
{
    DIR *d = fdopendir(openat(a->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct timespec oldest = {0};
    uint64_t total_bytes = 0;
    struct stat st;

    ret_name[0] = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!is_kept(e->d_name) || fstatat(a->dir_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        total_bytes += (uint64_t)st.st_size;
        if (!ret_name[0] || st.st_mtim.tv_sec < oldest.tv_sec) {
            oldest = st.st_mtim;
            snprintf(ret_name, size, "%s", e->d_name);
        }
    }
    if (d)
        closedir(d);
    return total_bytes;
}

static void make_room(struct archives *a, uint64_t bytes)
{
    char name[NAME_MAX + 1];

    while (find_oldest(a, name, sizeof(name)) + bytes > ARCHIVE_TOTAL_BYTES && name[0])
        if (unlinkat(a->dir_fd, name, 0) < 0)
            break;
}

int archives_create(const char *dir, const struct archive_callbacks *cb, void *ctx,
                    struct archives **ret_archives, struct accel_error *err)
{
    int r = path_make_private(dir, err);

    if (r < 0)
        return r;
    struct archives *a = xcalloc(1, sizeof(*a));
    a->cb = cb;
    a->ctx = ctx;
    a->next_id = 1;
    LIST_INIT(&a->fetches);
    a->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (a->dir_fd < 0 || !str_copy(a->dir, sizeof(a->dir), dir)) {
        r = a->dir_fd < 0 ? error_sys(err, errno, "%s", dir)
                          : error_set(err, ACCEL_EINVAL, "%s: too long", dir);
        base_close_fd(&a->dir_fd);
        free(a);
        return r;
    }
    forget_other_boot(a);
    *ret_archives = a;
    return 0;
}

/* --- one fetch --- */

static void fetch_free(struct archives *a, struct fetch *f)
{
    char part[32];

    part_name(f, part, sizeof(part));
    unlinkat(a->dir_fd, part, 0); /* renamed already when it was complete */
    close(f->fd);
    LIST_REMOVE(f, link);
    free(f->name);
    free(f);
}

void archives_destroy(struct archives *a)
{
    if (!a)
        return;
    while (!LIST_EMPTY(&a->fetches))
        fetch_free(a, LIST_FIRST(&a->fetches));
    close(a->dir_fd);
    free(a);
}

static void ask(struct archives *a, const struct fetch *f)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__BlobRead rq = ACCEL__V1__BLOB_READ__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;

    ref.job_id = f->id.job_id;
    ref.attempt = f->id.attempt;
    ref.era = f->era;
    rq.id = f->read_id;
    rq.hash = (ProtobufCBinaryData){HASH_BYTES, (uint8_t *)f->wanted};
    rq.offset = f->have_bytes;
    rq.ref = &ref;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_BLOB_READ;
    up.blob_read = &rq;
    uint8_t packed[256]; /* numbers and a hash */
    CHECK(accel__v1__agent_up__get_packed_size(&up) <= sizeof(packed));
    a->cb->send(a->ctx, packed, accel__v1__agent_up__pack(&up, packed));
}

static bool is_here(struct archives *a, const char *name, uint64_t size_bytes)
{
    struct stat st;

    if (fstatat(a->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
        (uint64_t)st.st_size != size_bytes)
        return false;
    utimensat(a->dir_fd, name, NULL, 0); /* not the first to go */
    return true;
}

int archives_fetch(struct archives *a, const Accel__V1__Start *start, char *ret_path,
                   struct accel_error *err)
{
    const Accel__V1__SyncRef *sync = start->spec->sync;
    char part[32];

    if (sync->hash.len != HASH_BYTES || sync->size_bytes == 0 ||
        sync->size_bytes > LIMIT_SYNC_BYTES)
        return error_set(err, ACCEL_EINVAL, "the archive that the job brings is not named rightly");
    struct fetch *under_way;
    LIST_FOREACH(under_way, &a->fetches, link)
    {
        if (under_way->id.job_id == start->ref->job_id &&
            under_way->id.attempt == start->ref->attempt)
            return 0; /* begun while it was prepared */
    }
    AUTO_FREE char *name = hash_file_name(sync->hash.data, start->user);
    if (is_here(a, name, sync->size_bytes)) {
        snprintf(ret_path, PATH_MAX, "%s/%.*s", a->dir, NAME_MAX, name);
        return 1;
    }
    make_room(a, sync->size_bytes);
    struct fetch *f = xcalloc(1, sizeof(*f));
    f->id = (struct attempt_id){start->ref->job_id, start->ref->attempt};
    f->era = start->ref->era;
    f->read_id = a->next_id++;
    f->size_bytes = sync->size_bytes;
    memcpy(f->wanted, sync->hash.data, HASH_BYTES);
    hash_init(&f->hash);
    part_name(f, part, sizeof(part));
    f->fd = openat(a->dir_fd, part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (f->fd < 0) {
        free(f);
        return error_sys(err, errno, "%s/%s", a->dir, part);
    }
    f->name = STEAL_PTR(name);
    LIST_INSERT_HEAD(&a->fetches, f, link);
    ask(a, f);
    return 0;
}

bool archives_cancel(struct archives *a, struct attempt_id id)
{
    struct fetch *f;

    LIST_FOREACH(f, &a->fetches, link)
    {
        if (f->id.job_id == id.job_id && f->id.attempt == id.attempt) {
            fetch_free(a, f);
            return true;
        }
    }
    return false;
}

void archives_on_session(struct archives *a)
{
    struct fetch *f;

    LIST_FOREACH(f, &a->fetches, link) ask(a, f);
}

/* --- its parts --- */

static int write_part(struct fetch *f, const uint8_t *data, size_t len, struct accel_error *err)
{
    hash_add(&f->hash, data, len);
    while (len > 0) {
        ssize_t n = pwrite(f->fd, data, len, (off_t)f->have_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_sys(err, errno, "the archive that the job brings cannot be written");
        data += n;
        len -= (size_t)n;
        f->have_bytes += (uint64_t)n;
    }
    return 0;
}

static int complete(struct archives *a, struct fetch *f, struct accel_error *err)
{
    uint8_t found[HASH_BYTES];
    char part[32];

    hash_end(&f->hash, found);
    if (memcmp(found, f->wanted, HASH_BYTES))
        return error_set(err, ACCEL_ECORRUPT,
                         "the archive that the job brings came damaged\ntry: submit it again");
    part_name(f, part, sizeof(part));
    if (renameat(a->dir_fd, part, a->dir_fd, f->name) < 0)
        return error_sys(err, errno, "%s/%s", a->dir, f->name);
    return 0;
}

static int take(struct archives *a, struct fetch *f, const Accel__V1__BlobData *msg,
                struct accel_error *err)
{
    if (msg->code)
        return error_set(err, accel_error_from_grpc(msg->code), "%.400s", msg->text);
    if (msg->data.len == 0 || msg->data.len > f->size_bytes - f->have_bytes)
        return error_set(err, ACCEL_ECORRUPT,
                         "the archive that the job brings has another size than it said\n"
                         "try: submit it again");
    int r = write_part(f, msg->data.data, msg->data.len, err);
    if (r == 0 && f->have_bytes == f->size_bytes)
        r = complete(a, f, err);
    return r;
}

void archives_on_data(struct archives *a, const Accel__V1__BlobData *msg)
{
    struct accel_error err = {0};
    char path[PATH_MAX];
    struct fetch *f;

    LIST_FOREACH(f, &a->fetches, link)
    {
        if (f->read_id == msg->id)
            break;
    }
    if (!f)
        return; /* cancelled */
    int r = take(a, f, msg, &err);
    if (r == 0 && f->have_bytes < f->size_bytes) {
        ask(a, f);
        return;
    }
    struct attempt_id id = f->id;
    snprintf(path, sizeof(path), "%s/%.*s", a->dir, NAME_MAX, f->name);
    fetch_free(a, f);
    a->cb->on_done(a->ctx, id, r, path, &err);
}

/* --- the job's directory --- */

static bool is_below(const ProtobufCBinaryData *path, const ProtobufCBinaryData *dir)
{
    return path->len >= dir->len && !memcmp(path->data, dir->data, dir->len) &&
           (path->len == dir->len || path->data[dir->len] == '/');
}

static ProtobufCBinaryData moved(const ProtobufCBinaryData *path, const ProtobufCBinaryData *from,
                                 const char *to, struct arena *arena)
{
    size_t to_len = strlen(to), rest = path->len - from->len;
    uint8_t *text = arena_alloc(arena, to_len + rest + 1);

    memcpy(text, to, to_len);
    memcpy(text + to_len, path->data + from->len, rest);
    return (ProtobufCBinaryData){to_len + rest, text};
}

void archive_move(Accel__V1__AttemptSpec *spec, const Accel__V1__SyncRef *sync, const char *tree,
                  struct arena *arena)
{
    ProtobufCBinaryData *argv = ARENA_ARRAY(arena, ProtobufCBinaryData, spec->n_argv + 1);

    spec->cwd = is_below(&spec->cwd, &sync->source)
                    ? moved(&spec->cwd, &sync->source, tree, arena)
                    : moved(&sync->source, &sync->source, tree, arena);
    for (size_t i = 0; i < spec->n_argv; i++) /* the list may be shared with the job's spec */
        argv[i] = is_below(&spec->argv[i], &sync->source)
                      ? moved(&spec->argv[i], &sync->source, tree, arena)
                      : spec->argv[i];
    spec->argv = argv;
}
