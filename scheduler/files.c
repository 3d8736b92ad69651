/* SPDX-License-Identifier: Apache-2.0 */
/*
 * files.c - archives of jobs on the coordinator's disk. A finished one is HASH.USER, an upload
 * part.N; a name says everything, so there is no table to lose. Neighbours: api.c (Files.Stat and
 * Put) and shell.c (reads of agents). It must not know jobs.
 */
#include "scheduler/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/limits.h"
#include "common/path.h"
#include "common/str.h"

struct upload {
    struct files *files;
    char *name; /* HASH.USER */
    unsigned number;
    int fd;
    uint64_t size_bytes, have_bytes;
    struct hash hash;
    uint8_t wanted[HASH_BYTES];
    bool is_syncing;
    uv_work_t work;
    int sys; /* errno of the sync */
    void (*on_done)(void *ctx, int r, const struct files_progress *p,
                    const struct accel_error *err);
    void *ctx;
    TAILQ_ENTRY(upload) link;
};

struct files {
    uv_loop_t *loop;
    char *dir;
    int dir_fd;
    uint64_t total_bytes, used_bytes; /* of finished ones */
    TAILQ_HEAD(, upload) uploads;     /* the one touched last is the last */
    unsigned upload_count, next_number, syncing;
    bool is_closing;
};

static bool is_archive_name(const char *name)
{
    return strspn(name, "0123456789abcdef") == 2 * HASH_BYTES && name[2 * HASH_BYTES] == '.';
}

/* --- room --- */

struct entry {
    char *name;
    int64_t used_ms;
    uint64_t bytes;
};

static int by_use(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    return x->used_ms < y->used_ms ? -1 : x->used_ms > y->used_ms;
}

/* All finished ones; uploads of an earlier run are removed on the way. Caller frees. */
static struct entry *list_all(struct files *f, size_t *ret_count, bool is_start)
{
    struct entry *list = NULL;
    size_t count = 0, cap = 0;
    DIR *d = fdopendir(openat(f->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct stat st;

    for (struct dirent *e; d && (e = readdir(d));) {
        if (is_start && !strncmp(e->d_name, "part.", 5))
            unlinkat(f->dir_fd, e->d_name, 0);
        if (!is_archive_name(e->d_name) || fstatat(f->dir_fd, e->d_name, &st, 0) < 0)
            continue;
        if (count == cap) {
            cap = cap ? cap * 2 : 64;
            list = xrealloc(list, cap * sizeof(*list));
        }
        list[count++] = (struct entry){xstrdup(e->d_name),
                                       st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000,
                                       (uint64_t)st.st_size};
    }
    if (d)
        closedir(d);
    *ret_count = count;
    return list;
}

static void free_list(struct entry *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(list[i].name);
    free(list);
}

/* Removes the longest unused until `bytes` more fit. */
static bool make_room(struct files *f, uint64_t bytes)
{
    int64_t now_ms = clock_wall_ms();
    size_t count;

    if (f->used_bytes + bytes <= f->total_bytes)
        return true;
    struct entry *list = list_all(f, &count, false);
    qsort(list, count, sizeof(*list), by_use);
    for (size_t i = 0; i < count && f->used_bytes + bytes > f->total_bytes; i++) {
        if (now_ms - list[i].used_ms < FILES_FRESH_MS)
            break;
        if (unlinkat(f->dir_fd, list[i].name, 0) == 0)
            f->used_bytes -= MIN(f->used_bytes, list[i].bytes);
    }
    free_list(list, count);
    return f->used_bytes + bytes <= f->total_bytes;
}

int files_create(uv_loop_t *loop, const char *dir, uint64_t total_bytes, struct files **ret_files,
                 struct accel_error *err)
{
    int r = path_make_private(dir, err);
    size_t count;

    if (r < 0)
        return r;
    struct files *f = xcalloc(1, sizeof(*f));
    f->loop = loop;
    f->dir = xstrdup(dir);
    f->total_bytes = total_bytes;
    TAILQ_INIT(&f->uploads);
    f->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->dir_fd < 0) {
        r = error_sys(err, errno, "%s", dir);
        free(f->dir);
        free(f);
        return r;
    }
    struct entry *list = list_all(f, &count, true);
    for (size_t i = 0; i < count; i++)
        f->used_bytes += list[i].bytes;
    free_list(list, count);
    *ret_files = f;
    return 0;
}

/* --- uploads --- */

static void part_name(const struct upload *u, char *buf, size_t size)
{
    snprintf(buf, size, "part.%u", u->number);
}

static void upload_free(struct upload *u)
{
    struct files *f = u->files;
    char part[32];

    CHECK(!u->is_syncing);
    part_name(u, part, sizeof(part));
    unlinkat(f->dir_fd, part, 0); /* gone already when it was finished */
    close(u->fd);
    TAILQ_REMOVE(&f->uploads, u, link);
    f->upload_count--;
    free(u->name);
    free(u);
}

static void free_if_closed(struct files *f)
{
    if (!f->is_closing || f->syncing)
        return;
    close(f->dir_fd);
    free(f->dir);
    free(f);
}

void files_destroy(struct files *f)
{
    struct upload *u, *next;

    if (!f)
        return;
    f->is_closing = true;
    for (u = TAILQ_FIRST(&f->uploads); u; u = next) {
        next = TAILQ_NEXT(u, link);
        if (!u->is_syncing)
            upload_free(u);
    }
    free_if_closed(f);
}

static struct upload *find_upload(struct files *f, const char *name)
{
    struct upload *u;

    TAILQ_FOREACH(u, &f->uploads, link)
    {
        if (!strcmp(u->name, name))
            return u;
    }
    return NULL;
}

static struct upload *oldest_idle(struct files *f)
{
    struct upload *u;

    TAILQ_FOREACH(u, &f->uploads, link)
    {
        if (!u->is_syncing)
            return u;
    }
    return NULL;
}

static int begin_upload(struct files *f, const char *name, const uint8_t hash[HASH_BYTES],
                        uint64_t size_bytes, struct upload **ret_upload, struct accel_error *err)
{
    char part[32];

    if (!make_room(f, size_bytes))
        return error_set(err, ACCEL_EFULL,
                         "no room for an archive of %llu bytes\nwhy: %llu of %llu bytes are used "
                         "by archives that jobs have needed within the last hour\n"
                         "try: --sync-exclude what the job does not need, or a larger files_bytes",
                         (unsigned long long)size_bytes, (unsigned long long)f->used_bytes,
                         (unsigned long long)f->total_bytes);
    if (f->upload_count >= FILES_UPLOADS_MAX) {
        struct upload *old = oldest_idle(f);
        if (!old)
            return error_set(err, ACCEL_EFULL, "%u uploads are under way", f->upload_count);
        upload_free(old);
    }
    struct upload *u = xcalloc(1, sizeof(*u));
    u->files = f;
    u->number = f->next_number++;
    part_name(u, part, sizeof(part));
    u->fd = openat(f->dir_fd, part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (u->fd < 0) {
        free(u);
        return error_sys(err, errno, "%s/%s", f->dir, part);
    }
    u->name = xstrdup(name);
    u->size_bytes = size_bytes;
    memcpy(u->wanted, hash, HASH_BYTES);
    hash_init(&u->hash);
    TAILQ_INSERT_TAIL(&f->uploads, u, link);
    f->upload_count++;
    *ret_upload = u;
    return 0;
}

/* On a thread of libuv's: the content, its name, and the name of the name. */
static void do_sync(uv_work_t *work)
{
    struct upload *u = work->data;
    char part[32];

    part_name(u, part, sizeof(part));
    u->sys = 0;
    if (fdatasync(u->fd) < 0 || renameat(u->files->dir_fd, part, u->files->dir_fd, u->name) < 0 ||
        fsync(u->files->dir_fd) < 0)
        u->sys = errno;
}

static void on_synced(uv_work_t *work, int status)
{
    struct upload *u = work->data;
    struct files *f = u->files;
    struct files_progress p = {.have_bytes = u->size_bytes, .is_complete = u->sys == 0};
    struct accel_error err = {0};

    CHECK(status == 0); /* it is never cancelled */
    u->is_syncing = false;
    f->syncing--;
    int r = u->sys ? error_sys(&err, u->sys, "the archive cannot be kept in %s", f->dir) : 0;
    if (r == 0)
        f->used_bytes += u->size_bytes;
    u->on_done(u->ctx, r, &p, &err);
    upload_free(u);
    free_if_closed(f);
}

static int write_all(int fd, const uint8_t *data, size_t len, uint64_t offset)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, (off_t)offset);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n < 0)
            continue;
        data += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

/* Takes one part; *ret_upload is NULL when it was damaged or could not be kept. */
static int take_part(struct files *f, struct upload *u, const void *data, size_t len,
                     struct accel_error *err)
{
    uint8_t found[HASH_BYTES];

    int r = write_all(u->fd, data, len, u->have_bytes);
    if (r < 0) {
        error_sys(err, -r, "the archive cannot be kept in %s", f->dir);
        r = err->code;
        upload_free(u);
        return r;
    }
    hash_add(&u->hash, data, len);
    u->have_bytes += len;
    TAILQ_REMOVE(&f->uploads, u, link);
    TAILQ_INSERT_TAIL(&f->uploads, u, link);
    if (u->have_bytes < u->size_bytes)
        return 0;
    hash_end(&u->hash, found);
    if (!memcmp(found, u->wanted, HASH_BYTES))
        return 0;
    upload_free(u);
    return error_set(err, ACCEL_ECORRUPT,
                     "the archive is not what its hash says\n"
                     "why: it changed while it was sent\ntry: again");
}

void files_stat(struct files *f, const char *user, const uint8_t hash[HASH_BYTES],
                struct files_progress *ret_progress)
{
    AUTO_FREE char *name = hash_file_name(hash, user);
    const struct upload *u = find_upload(f, name);
    struct stat st;

    *ret_progress = (struct files_progress){.have_bytes = u ? u->have_bytes : 0};
    if (u || fstatat(f->dir_fd, name, &st, 0) < 0)
        return;
    *ret_progress = (struct files_progress){(uint64_t)st.st_size, true};
    utimensat(f->dir_fd, name, NULL, 0); /* it is wanted: not the first to go */
}

void files_put(struct files *f, const char *user, const uint8_t hash[HASH_BYTES],
               uint64_t size_bytes, uint64_t offset, const void *data, size_t len,
               void (*on_done)(void *ctx, int r, const struct files_progress *p,
                               const struct accel_error *err),
               void *ctx)
{
    AUTO_FREE char *name = hash_file_name(hash, user);
    struct accel_error err = {0};
    struct files_progress p;
    struct upload *u = find_upload(f, name);
    int r = 0;

    files_stat(f, user, hash, &p);
    if (!p.is_complete && !u && offset == 0)
        r = begin_upload(f, name, hash, size_bytes, &u, &err);
    bool is_next = u && !u->is_syncing && offset == u->have_bytes && size_bytes == u->size_bytes &&
                   len <= u->size_bytes - u->have_bytes;
    if (r == 0 && is_next) {
        r = take_part(f, u, data, len, &err);
        if (r == 0)
            p.have_bytes = u->have_bytes;
    }
    if (r < 0 || !is_next || u->have_bytes < u->size_bytes) {
        on_done(ctx, r, &p, &err);
        return;
    }
    u->on_done = on_done;
    u->ctx = ctx;
    u->is_syncing = true;
    u->work.data = u;
    f->syncing++;
    CHECK(uv_queue_work(f->loop, &u->work, do_sync, on_synced) == 0);
}

int files_read(struct files *f, const char *user, const uint8_t hash[HASH_BYTES], uint64_t offset,
               void *buf, size_t cap, size_t *ret_len, struct accel_error *err)
{
    AUTO_FREE char *name = hash_file_name(hash, user);
    AUTO_CLOSE int fd = openat(f->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n;

    if (fd < 0)
        return error_set(err, ACCEL_ENOENT,
                         "the archive that the job brought is not kept any more\n"
                         "why: it was not needed for long, and others needed the room\n"
                         "try: submit the job again");
    do
        n = pread(fd, buf, cap, (off_t)offset);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return error_sys(err, errno, "%s/%s", f->dir, name);
    if (offset == 0)
        utimensat(f->dir_fd, name, NULL, 0);
    *ret_len = (size_t)n;
    return 0;
}
