/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disk of the store's fault tests. For every file it keeps the content that sectors had when
 * they were last surely on the disk, as long as something newer is in the real file. SQLite sees
 * an ordinary VFS without shared memory. It must not hide an error of the real file system.
 */
#include "tests/fault/fault_vfs.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/prng.h"

#define SECTOR 512
#define FILES_MAX 32

struct sector {
    int64_t index;
    bool is_lost; /* a failed sync dropped it: only writing it again helps */
    bool by_truncate;
    unsigned len; /* of old: shorter at the end of the file, 0 beyond it */
    unsigned char old[SECTOR];
};

struct disk_file {
    char path[4400];
    int64_t synced_bytes; /* size at the last good sync */
    int64_t top;          /* no sector from this one on is in sectors */
    struct sector *sectors;
    size_t count, cap;
};

struct fault_file {
    sqlite3_file base;
    struct disk_file *disk; /* NULL: a temporary file without a name */
    sqlite3_file *real;     /* behind this struct */
};

static sqlite3_vfs *real_vfs;
static struct disk_file disk_files[FILES_MAX];
static enum fault_kind plan_kind;
static unsigned plan_at, calls;
static bool plan_is_full, is_hit, is_dead;

/* ---- the plan ---- */

void fault_vfs_arm(enum fault_kind kind, unsigned at, bool is_full)
{
    plan_kind = kind;
    plan_at = at;
    plan_is_full = is_full;
    calls = 0;
    is_hit = is_dead = false;
}

unsigned fault_vfs_calls(void)
{
    return calls;
}

bool fault_vfs_hit(void)
{
    return is_hit;
}

/* Counts one call; whether it is to fail. */
static bool strikes(bool is_sync)
{
    if (plan_kind == FAULT_SYNC && !is_sync) {
        return false;
    }
    calls++;
    bool now = plan_kind != FAULT_NONE && calls == plan_at;
    bool later = calls > plan_at && (plan_kind == FAULT_STICKY || plan_kind == FAULT_CRASH);
    is_hit |= now;
    is_dead |= now && plan_kind == FAULT_CRASH;
    return now || (is_hit && later);
}

/* ---- what is on the disk ---- */

static struct disk_file *disk_of(const char *path)
{
    struct disk_file *unused = NULL;
    for (size_t i = 0; i < FILES_MAX; i++) {
        if (strcmp(disk_files[i].path, path) == 0) {
            return &disk_files[i];
        }
        if (unused == NULL && disk_files[i].path[0] == '\0') {
            unused = &disk_files[i];
        }
    }
    CHECK(unused != NULL);
    struct stat st;
    snprintf(unused->path, sizeof(unused->path), "%s", path);
    unused->synced_bytes = stat(path, &st) == 0 ? st.st_size : 0;
    return unused;
}

static void disk_clear(struct disk_file *d)
{
    *d = (struct disk_file){.path = "", .sectors = d->sectors, .cap = d->cap};
}

void fault_vfs_forget(void)
{
    for (size_t i = 0; i < FILES_MAX; i++) {
        disk_clear(&disk_files[i]);
    }
    fault_vfs_arm(FAULT_NONE, 0, false);
}

/* Keeps what the sectors of [offset, offset + len) hold before they change. */
static void remember(struct fault_file *f, int64_t offset, int64_t len, bool by_truncate)
{
    struct disk_file *d = f->disk;
    sqlite3_int64 size = 0;
    int r = f->real->pMethods->xFileSize(f->real, &size);
    CHECK(r == SQLITE_OK);
    for (int64_t at = offset / SECTOR; d != NULL && at * SECTOR < offset + len; at++) {
        size_t i = at < d->top ? 0 : d->count;
        while (i < d->count && d->sectors[i].index != at) {
            i++;
        }
        if (i < d->count) {
            d->sectors[i].is_lost = false;
            continue;
        }
        if (d->count == d->cap) {
            d->cap = MAX(d->cap * 2, 64);
            d->sectors = xrealloc(d->sectors, d->cap * sizeof(d->sectors[0]));
        }
        struct sector *s = &d->sectors[d->count++];
        d->top = MAX(d->top, at + 1);
        int64_t left = MAX(size - at * SECTOR, 0);
        *s = (struct sector){.index = at, .by_truncate = by_truncate,
                             .len = (unsigned)MIN(left, SECTOR)};
        if (s->len > 0) {
            r = f->real->pMethods->xRead(f->real, s->old, (int)s->len, at * SECTOR);
            CHECK(r == SQLITE_OK);
        }
    }
}

static void sync_done(struct fault_file *f)
{
    struct disk_file *d = f->disk;
    size_t kept = 0;
    sqlite3_int64 size = 0;
    for (size_t i = 0; i < d->count; i++) {
        if (d->sectors[i].is_lost) {
            d->sectors[kept++] = d->sectors[i];
        }
    }
    d->count = kept;
    f->real->pMethods->xFileSize(f->real, &size);
    d->synced_bytes = size;
}

static void sync_failed(struct disk_file *d)
{
    for (size_t i = 0; i < d->count; i++) {
        d->sectors[i].is_lost = true;
    }
}

static void power_cycle_file(struct disk_file *d, struct prng *prng, bool all)
{
    int fd = open(d->path, O_RDWR | O_CLOEXEC);
    struct stat st;
    if (fd < 0) { /* renamed or removed since: it was synced before that, or is not wanted */
        CHECK(errno == ENOENT);
        return;
    }
    int r = fstat(fd, &st);
    CHECK(r == 0);
    int64_t end = d->synced_bytes;
    bool undo_truncate = all || prng_below(prng, 2) == 0;
    static const unsigned char zeros[SECTOR];
    for (size_t i = 0; i < d->count; i++) {
        struct sector *s = &d->sectors[i];
        bool undo = s->by_truncate ? undo_truncate : all || prng_below(prng, 2) == 0;
        int64_t offset = s->index * SECTOR;
        if (!undo) {
            end = MAX(end, MIN(offset + SECTOR, st.st_size));
            continue;
        }
        if (offset < st.st_size) {
            ssize_t n = pwrite(fd, zeros, (size_t)MIN(SECTOR, st.st_size - offset), offset);
            CHECK(n > 0);
        }
        if (s->len > 0) {
            ssize_t n = pwrite(fd, s->old, s->len, offset);
            CHECK(n == (ssize_t)s->len);
            end = MAX(end, offset + s->len);
        }
    }
    /* Sizes are as of the last sync, except where newer sectors made it to the disk. */
    if (!undo_truncate && st.st_size < d->synced_bytes) {
        end = st.st_size;
    }
    r = ftruncate(fd, end);
    CHECK(r == 0);
    close(fd);
}

void fault_vfs_power_cycle(uint64_t seed)
{
    struct prng prng;
    prng_init(&prng, seed);
    for (size_t i = 0; i < FILES_MAX; i++) {
        if (disk_files[i].count > 0) {
            power_cycle_file(&disk_files[i], &prng, seed == 0);
        }
    }
    fault_vfs_forget();
}

/* ---- one file, as SQLite sees it ---- */

#define REAL(file) (((struct fault_file *)(file))->real)

static int file_close(sqlite3_file *file)
{
    return REAL(file)->pMethods->xClose(REAL(file));
}

static int file_read(sqlite3_file *file, void *p, int len, sqlite3_int64 offset)
{
    return is_dead ? SQLITE_IOERR_READ : REAL(file)->pMethods->xRead(REAL(file), p, len, offset);
}

static int file_write(sqlite3_file *file, const void *p, int len, sqlite3_int64 offset)
{
    struct fault_file *f = (struct fault_file *)file;
    bool must_fail = strikes(false);
    if (must_fail && (is_dead || len < 2)) {
        return SQLITE_IOERR_WRITE;
    }
    remember(f, offset, len, false);
    int r = f->real->pMethods->xWrite(f->real, p, must_fail ? len / 2 : len, offset);
    return !must_fail ? r : plan_is_full ? SQLITE_FULL : SQLITE_IOERR_WRITE;
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    struct fault_file *f = (struct fault_file *)file;
    sqlite3_int64 old = 0;
    if (strikes(false)) {
        return SQLITE_IOERR_TRUNCATE;
    }
    f->real->pMethods->xFileSize(f->real, &old);
    if (old > size) {
        remember(f, size, old - size, true);
    }
    return f->real->pMethods->xTruncate(f->real, size);
}

static int file_sync(sqlite3_file *file, int flags)
{
    struct fault_file *f = (struct fault_file *)file;
    if (strikes(true)) {
        if (f->disk != NULL && plan_kind == FAULT_SYNC) {
            sync_failed(f->disk);
        }
        return SQLITE_IOERR_FSYNC;
    }
    if (f->disk != NULL) {
        sync_done(f);
    }
    return SQLITE_OK;
}

static int file_size(sqlite3_file *file, sqlite3_int64 *ret_size)
{
    return is_dead ? SQLITE_IOERR_FSTAT : REAL(file)->pMethods->xFileSize(REAL(file), ret_size);
}

static int file_lock(sqlite3_file *file, int level)
{
    return REAL(file)->pMethods->xLock(REAL(file), level);
}

static int file_unlock(sqlite3_file *file, int level)
{
    return REAL(file)->pMethods->xUnlock(REAL(file), level);
}

static int file_check_lock(sqlite3_file *file, int *ret_held)
{
    return REAL(file)->pMethods->xCheckReservedLock(REAL(file), ret_held);
}

static int file_control(sqlite3_file *file, int op, void *arg)
{
    return REAL(file)->pMethods->xFileControl(REAL(file), op, arg);
}

static int file_sector_size(sqlite3_file *file)
{
    return REAL(file)->pMethods->xSectorSize(REAL(file));
}

static int file_characteristics(sqlite3_file *file)
{
    return REAL(file)->pMethods->xDeviceCharacteristics(REAL(file));
}

static const sqlite3_io_methods file_methods = {
    .iVersion = 1,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_check_lock,
    .xFileControl = file_control,
    .xSectorSize = file_sector_size,
    .xDeviceCharacteristics = file_characteristics,
};

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
                    int *ret_flags)
{
    struct fault_file *f = (struct fault_file *)file;
    *f = (struct fault_file){.real = (sqlite3_file *)(f + 1)};
    if (strikes(false)) {
        return SQLITE_CANTOPEN;
    }
    int r = real_vfs->xOpen(real_vfs, name, f->real, flags, ret_flags);
    if (r == SQLITE_OK) {
        f->disk = name != NULL ? disk_of(name) : NULL;
        f->base.pMethods = &file_methods;
    }
    return r;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_dir)
{
    if (strikes(false)) {
        return SQLITE_IOERR_DELETE;
    }
    disk_clear(disk_of(name));
    return real_vfs->xDelete(real_vfs, name, sync_dir);
}

void fault_vfs_register(void)
{
    static sqlite3_vfs vfs;
    real_vfs = sqlite3_vfs_find(NULL);
    CHECK(real_vfs != NULL);
    vfs = *real_vfs; /* what is not ours goes to the same functions; they do not look at vfs */
    vfs.zName = "fault";
    vfs.szOsFile += (int)sizeof(struct fault_file);
    vfs.xOpen = vfs_open;
    vfs.xDelete = vfs_delete;
    vfs.pNext = NULL;
    int r = sqlite3_vfs_register(&vfs, 0);
    CHECK(r == SQLITE_OK);
}
