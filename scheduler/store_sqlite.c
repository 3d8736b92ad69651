/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store in one SQLite file: making, opening and migrating it, transactions, write-back of the
 * WAL, snapshots and checks. Rows are store_sqlite_rows.c's, the SQL of the tables schema.c's.
 *
 * Exactly one connection ever touches the file, from one thread at a time: SQLite before 3.51.3
 * can corrupt a WAL that two connections checkpoint. accel.db.lock is held (flock) as long as the
 * store lives, so that this stays true while the connection is made anew. After open() the file
 * accel.db must never be opened and closed by other code in this process: that would drop the
 * locks that SQLite holds on it (POSIX).
 *
 * A failed commit is rolled back on the same connection, never by a reopen. After a failed fsync
 * the kernel forgets which pages were not written, so frames that SQLite would find again in the
 * page cache may not be on the disk; the retry has to write them a second time. Where a new
 * connection cannot be avoided (start, damage) the WAL is written back and cut to zero first.
 */
#include "scheduler/store_sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/path.h"
#include "scheduler/schema.h"

#define DB_NAME "accel.db"

/* Of the log, as SQLite writes it with its usual page of 4 KiB. */
#define WAL_HEADER_BYTES 32
#define WAL_FRAME_BYTES  (24 + 4096)
#define WAL_ROOM_BYTES   (64 << 10) /* kept ahead: more than nearly all commits write */
#define WAL_ZEROS_BYTES  (32 << 10) /* one write of zeros */
#define WAL_STEP_WRITES  8          /* that many at a time: 256 KiB, room for 5-10 commits */

struct store_sqlite {
    struct store base;
    sqlite3 *db; /* NULL: to be opened anew before the next use */
    struct row_statements rows;
    sqlite3_stmt *begin, *commit, *epoch;
    struct store_sqlite_options options;
    int lock_fd;
    unsigned wal_pages; /* frames in the WAL after the last commit */
    char dir[PATH_MAX], path[PATH_MAX], text[PATH_MAX + 64];
};

/* ---- errors ---- */

static int code_of_io(int sys)
{
    return sys == ENOSPC || sys == EDQUOT ? ACCEL_ENOSPC : ACCEL_EIO;
}

static int code_of_sqlite(sqlite3 *db, int sqlite_code)
{
    int sys = db != NULL ? sqlite3_system_errno(db) : 0;
    switch (sqlite_code & 0xff) {
    case SQLITE_FULL: return ACCEL_ENOSPC;
    case SQLITE_IOERR: return sqlite_code == SQLITE_IOERR_NOMEM ? ACCEL_ENOMEM : code_of_io(sys);
    case SQLITE_NOMEM: return ACCEL_ENOMEM;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return ACCEL_EBUSY;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return ACCEL_ECORRUPT;
    case SQLITE_READONLY:
    case SQLITE_PERM: return ACCEL_EPERM;
    case SQLITE_CANTOPEN:
        return sys == EACCES || sys == EROFS || sys == EPERM ? ACCEL_EPERM : code_of_io(sys);
    case SQLITE_CONSTRAINT: return ACCEL_EEXIST;
    case SQLITE_MISMATCH:
    case SQLITE_TOOBIG: return ACCEL_EINVAL;
    default: return ACCEL_EINTERNAL;
    }
}

static const char *advice_of(int code)
{
    switch (code) {
    case ACCEL_ENOSPC:
        return "\nwhy: the file system is full, or a quota is reached"
               "\ntry: make room (df shows how much); what waits is then written by itself";
    case ACCEL_EIO:
        return "\nwhy: the disk or its file system reports an error"
               "\ntry: look at the kernel's messages (dmesg) and at the disk";
    case ACCEL_ECORRUPT:
        return "\ntry: set the file aside together with its -wal file; copy a backup to its name,"
               " or start without to have an empty store";
    case ACCEL_EPERM: return "\ntry: check owner and mode of the file, its -wal file and folder";
    case ACCEL_EBUSY: return "\nwhy: another process has it open";
    default: return "";
    }
}

int store_sqlite_error(sqlite3 *db, int sqlite_code, const char *doing, const char *path,
                       struct accel_error *err)
{
    int code = code_of_sqlite(db, sqlite_code);
    int sys = db != NULL ? sqlite3_system_errno(db) : 0;
    /* sqlite3_errmsg() says more (which constraint), unless it speaks of a later call. */
    bool has_message = db != NULL && sqlite3_extended_errcode(db) == sqlite_code;
    const char *message = has_message ? sqlite3_errmsg(db) : sqlite3_errstr(sqlite_code);
    error_set(err, code, "cannot %s %.200s: %.120s (SQLite %d)%s", doing, path, message,
              sqlite_code, advice_of(code));
    if (err != NULL && (code == ACCEL_ENOSPC || code == ACCEL_EIO)) {
        err->sys = sys;
    }
    return code;
}

/* ---- the file, before SQLite sees it ---- */

/* Whether `path` exists and is not empty. */
static bool file_has_bytes(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && st.st_size > 0;
}

static uint32_t big_endian_32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int error_newer(const char *path, uint32_t version, int ours, struct accel_error *err)
{
    return error_set(err, ACCEL_ENEWER,
                     "%.200s has version %u of the tables, but this program (%s) knows %d"
                     "\nwhy: a newer accel-coordinator has used it"
                     "\ntry: start that newer version again, or stop it and put back the backup"
                     " that it made: mv %.100s.before-v%d %.100s (what came later is lost)",
                     path, version, ACCEL_VERSION, ours, DB_NAME, ours + 1, DB_NAME);
}

/* Refuses by its first bytes what is not ours, so that SQLite does not even replay its journal.
 * The numbers may be older than those in the WAL, but never foreign or newer than our own. */
static int check_header(struct store_sqlite *s, struct accel_error *err)
{
    unsigned char h[100] = {0};
    struct stat st;
    AUTO_CLOSE int fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return error_sys(err, errno, "cannot open %s", s->path);
    }
    ssize_t n = pread(fd, h, sizeof(h), 0);
    if (n < 0 || fstat(fd, &st) != 0) {
        return error_sys(err, errno, "cannot read %s", s->path);
    }
    if (n < (ssize_t)sizeof(h) || !S_ISREG(st.st_mode)) {
        return error_set(err, ACCEL_ECORRUPT, "%.200s was cut to %lld bytes%s", s->path,
                         (long long)st.st_size, advice_of(ACCEL_ECORRUPT));
    }
    if (memcmp(h, "SQLite format 3", 16) != 0) {
        return error_set(err, ACCEL_ECORRUPT, "%.200s is not a database%s", s->path,
                         advice_of(ACCEL_ECORRUPT));
    }
    if (big_endian_32(h + 68) != SCHEMA_APPLICATION_ID) {
        return error_set(err, ACCEL_ECORRUPT,
                         "%.200s is a database of another program (application_id 0x%x)"
                         "\ntry: give accel-coordinator a folder of its own",
                         s->path, big_endian_32(h + 68));
    }
    if (big_endian_32(h + 60) > (uint32_t)s->options.version) {
        return error_newer(s->path, big_endian_32(h + 60), s->options.version, err);
    }
    char wal[PATH_MAX + 8];
    snprintf(wal, sizeof(wal), "%s-wal", s->path);
    /* 1 means 65536. With a WAL the file may be shorter: a write-back was interrupted. */
    uint32_t page_bytes = (uint32_t)h[16] << 8 | h[17];
    uint64_t want = (uint64_t)big_endian_32(h + 28) * (page_bytes == 1 ? 65536 : page_bytes);
    if ((uint64_t)st.st_size < want && !file_has_bytes(wal)) {
        return error_set(err, ACCEL_ECORRUPT, "%.200s was cut: %lld bytes of %llu are left%s",
                         s->path, (long long)st.st_size, (unsigned long long)want,
                         advice_of(ACCEL_ECORRUPT));
    }
    return 0;
}

static int sync_dir(const char *dir, struct accel_error *err)
{
    AUTO_CLOSE int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0) {
        return error_sys(err, errno, "cannot sync the folder %s", dir);
    }
    return 0;
}

static int sync_file(const char *path, uint64_t *ret_bytes, struct accel_error *err)
{
    struct stat st;
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0 || fstat(fd, &st) != 0) {
        return error_sys(err, errno, "cannot sync %s", path);
    }
    *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

/* An empty file that only we may read; SQLite takes its mode for the WAL too. */
static int make_empty(const char *path, struct accel_error *err)
{
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || fchmod(fd, 0600) != 0) {
        return error_sys(err, errno, "cannot create %s", path);
    }
    return 0;
}

static void remove_with_journals(const char *path)
{
    static const char *const ends[] = {"", "-wal", "-journal"};
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        char name[PATH_MAX + 16];
        snprintf(name, sizeof(name), "%s%s", path, ends[i]);
        unlink(name);
    }
}

/* ---- one connection ---- */

static int on_wal(void *ctx, sqlite3 *db, const char *name, int pages)
{
    struct store_sqlite *s = ctx;
    s->wal_pages = (unsigned)pages;
    return SQLITE_OK;
}

static int pragma_u32(sqlite3 *db, const char *sql, uint32_t *ret_value)
{
    sqlite3_stmt *stmt = NULL;
    int r = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
    if (r == SQLITE_OK && (r = sqlite3_step(stmt)) == SQLITE_ROW) {
        *ret_value = (uint32_t)sqlite3_column_int64(stmt, 0);
        r = SQLITE_OK;
    }
    sqlite3_finalize(stmt);
    return r == SQLITE_DONE ? SQLITE_CORRUPT : r;
}

/* The journal mode is an answer, not an error: SQLite keeps the old one where WAL cannot be. */
static int use_wal(sqlite3 *db)
{
    sqlite3_stmt *stmt = NULL;
    int r = sqlite3_prepare_v2(db, "PRAGMA journal_mode = WAL", -1, &stmt, NULL);
    if (r == SQLITE_OK && (r = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *mode = (const char *)sqlite3_column_text(stmt, 0);
        r = mode != NULL && strcmp(mode, "wal") == 0 ? SQLITE_OK : SQLITE_CANTOPEN;
    }
    sqlite3_finalize(stmt);
    return r;
}

/* Unless all is written back (is_clean), without the write-back and removal of the WAL that SQLite
 * would do by itself: on a file that turned out not to be ours, or whose disk fails, nothing more
 * is to be written. */
static void connection_close(struct store_sqlite *s, bool is_clean)
{
    rows_done(&s->rows);
    sqlite3_finalize(s->begin);
    sqlite3_finalize(s->commit);
    sqlite3_finalize(s->epoch);
    s->begin = s->commit = s->epoch = NULL;
    if (s->db != NULL) {
        sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !is_clean, NULL);
        int r = sqlite3_close(s->db);
        CHECK(r == SQLITE_OK); /* BUSY: a statement was forgotten */
        s->db = NULL;
    }
}

static void connection_drop(struct store_sqlite *s)
{
    connection_close(s, false);
}

static int connection_set_up(struct store_sqlite *s, const char *path)
{
    int r =
        sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, s->options.vfs);
    if (r != SQLITE_OK) {
        return r;
    }
    sqlite3_extended_result_codes(s->db, 1);
    if (sqlite3_db_readonly(s->db, "main") == 1) { /* SQLite falls back to reading */
        return SQLITE_READONLY;
    }
    /* EXCLUSIVE before the first read: then the index of the WAL is in memory, with no -shm. Rows
     * are read once, at the start; what is written lies together at the end of each table, so half
     * a megabyte of pages is plenty. */
    r = sqlite3_exec(s->db,
                     "PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL;"
                     "PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -512;"
                     "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;",
                     NULL, NULL, NULL);
    if (r != SQLITE_OK) {
        return r;
    }
    sqlite3_wal_autocheckpoint(s->db, 0);
    sqlite3_wal_hook(s->db, on_wal, s);
    s->wal_pages = 0;
    return use_wal(s->db);
}

static int prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret_stmt)
{
    return sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret_stmt, NULL);
}

static int connection_prepare(struct store_sqlite *s)
{
    int r = prepare(s->db, "BEGIN IMMEDIATE", &s->begin);
    if (r == SQLITE_OK) {
        r = prepare(s->db, "COMMIT", &s->commit);
    }
    if (r == SQLITE_OK) {
        r = prepare(s->db, "SELECT epoch FROM meta", &s->epoch);
    }
    return r;
}

static int check_version(struct store_sqlite *s, uint32_t *ret_version, struct accel_error *err)
{
    uint32_t id = 0;
    uint32_t version = 0;
    int r = pragma_u32(s->db, "PRAGMA application_id", &id);
    if (r == SQLITE_OK) {
        r = pragma_u32(s->db, "PRAGMA user_version", &version);
    }
    if (r != SQLITE_OK) {
        return store_sqlite_error(s->db, r, "read", s->path, err);
    }
    if (id != SCHEMA_APPLICATION_ID || version == 0) {
        return error_set(err, ACCEL_ECORRUPT, "%.200s is a database of another program%s", s->path,
                         advice_of(ACCEL_ECORRUPT));
    }
    if (version > (uint32_t)s->options.version) {
        return error_newer(s->path, version, s->options.version, err);
    }
    *ret_version = version;
    return 0;
}

/* ---- making, migrating, opening ---- */

static int migrate_step(sqlite3 *db, const char *sql, int version)
{
    char pragma[64];
    snprintf(pragma, sizeof(pragma), "PRAGMA user_version = %d", version);
    int r = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (r == SQLITE_OK) {
        r = sqlite3_exec(db, sql, NULL, NULL, NULL);
    }
    if (r == SQLITE_OK) {
        r = sqlite3_exec(db, pragma, NULL, NULL, NULL);
    }
    if (r == SQLITE_OK) {
        r = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    }
    if (r != SQLITE_OK && !sqlite3_get_autocommit(db)) {
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    }
    return r;
}

static int checkpoint(struct store_sqlite *s, int mode)
{
    int frames = 0;
    int done = 0;
    int r = sqlite3_wal_checkpoint_v2(s->db, "main", mode, &frames, &done);
    /* With one connection nobody can be in its way: less than all means that a write failed. */
    return r == SQLITE_OK && done < frames ? SQLITE_IOERR : r;
}

static int fill_new(struct store_sqlite *s, const char *path)
{
    /* The time, so that a store made in place of another has the higher era: agents obey only
     * upwards. */
    uint64_t era = (uint64_t)MAX(clock_wall_ms(), 1);
    char sql[256];
    snprintf(sql, sizeof(sql),
             "PRAGMA application_id = %d; INSERT INTO meta VALUES (1, %" PRIu64 ", 0, 0, 0);",
             SCHEMA_APPLICATION_ID, era);
    int r = connection_set_up(s, path);
    for (int v = 0; r == SQLITE_OK && v < s->options.version; v++) {
        r = migrate_step(s->db, s->options.migrations[v], v + 1);
    }
    if (r == SQLITE_OK) {
        r = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    }
    /* All of it into the file itself: only that one is renamed. */
    return r == SQLITE_OK ? checkpoint(s, SQLITE_CHECKPOINT_TRUNCATE) : r;
}

/* Made under another name and renamed when whole and on the disk: an accel.db that is empty or
 * half made is therefore always damage, never a start that was interrupted. */
static int create_file(struct store_sqlite *s, struct accel_error *err)
{
    char path[PATH_MAX];
    char wal[PATH_MAX + 8];
    uint64_t bytes;
    snprintf(wal, sizeof(wal), "%s-wal", s->path);
    if (file_has_bytes(wal)) { /* SQLite would replay it into the new file */
        return error_set(err, ACCEL_ECORRUPT,
                         "%.200s is missing, but its write-ahead log %s-wal is there"
                         "\nwhy: someone moved or removed the one without the other"
                         "\ntry: put %s back, or set %s-wal aside to start with an empty store",
                         s->path, DB_NAME, DB_NAME, DB_NAME);
    }
    if (snprintf(path, sizeof(path), "%s.new", s->path) >= (int)sizeof(path)) {
        return error_set(err, ACCEL_EINVAL, "the path %.200s... is too long", s->path);
    }
    remove_with_journals(path);
    int r = make_empty(path, err);
    if (r != 0) {
        return r;
    }
    r = fill_new(s, path);
    if (r != SQLITE_OK) {
        r = store_sqlite_error(s->db, r, "create", s->path, err);
    }
    connection_drop(s);
    if (r == 0) {
        r = sync_file(path, &bytes, err);
    }
    if (r == 0 && rename(path, s->path) != 0) {
        r = error_sys(err, errno, "cannot rename %s to %s", path, DB_NAME);
    }
    remove_with_journals(path);
    return r != 0 ? r : sync_dir(s->dir, err);
}

/* VACUUM INTO writes without syncing, so it goes to a name of its own first. */
static int copy_to(struct store_sqlite *s, const char *path, unsigned rename_flags,
                   uint64_t *ret_bytes, struct accel_error *err)
{
    char temp[PATH_MAX];
    char dir[PATH_MAX];
    sqlite3_stmt *stmt = NULL;
    if (snprintf(temp, sizeof(temp), "%s.partial", path) >= (int)sizeof(temp)) {
        return error_set(err, ACCEL_EINVAL, "the path %.200s... is too long", path);
    }
    snprintf(dir, sizeof(dir), "%s", path);
    char *slash = strrchr(dir, '/');
    if (slash == NULL) {
        snprintf(dir, sizeof(dir), ".");
    } else {
        slash[slash == dir] = '\0'; /* "/" stays */
    }
    unlink(temp); /* of an attempt that was interrupted */
    int r = make_empty(temp, err);
    if (r != 0) {
        return r;
    }
    r = sqlite3_prepare_v2(s->db, "VACUUM INTO ?", -1, &stmt, NULL);
    if (r == SQLITE_OK) {
        r = sqlite3_bind_text(stmt, 1, temp, -1, SQLITE_STATIC);
    }
    if (r == SQLITE_OK) {
        r = sqlite3_step(stmt);
    }
    sqlite3_finalize(stmt);
    r = r == SQLITE_DONE ? 0 : store_sqlite_error(s->db, r, "write a copy to", path, err);
    if (r == 0) {
        r = sync_file(temp, ret_bytes, err);
    }
    if (r == 0 && renameat2(AT_FDCWD, temp, AT_FDCWD, path, rename_flags) != 0) {
        r = error_sys(err, errno, "cannot put a copy at %s", path);
    }
    if (r == 0) {
        r = sync_dir(dir, err);
    }
    if (r != 0) {
        remove_with_journals(temp);
    }
    return r;
}

static int migrate(struct store_sqlite *s, uint32_t version, struct accel_error *err)
{
    for (uint32_t v = version; v < (uint32_t)s->options.version; v++) {
        char backup[PATH_MAX];
        uint64_t bytes;
        if (snprintf(backup, sizeof(backup), "%s.before-v%u", s->path, v + 1) >=
            (int)sizeof(backup)) {
            return error_set(err, ACCEL_EINVAL, "the path %.200s... is too long", s->path);
        }
        /* One of an earlier try is replaced: ours is not older. */
        int r = copy_to(s, backup, 0, &bytes, err);
        if (r != 0) {
            return error_wrap(err, r, "no backup before migrating to version %u", v + 1);
        }
        r = migrate_step(s->db, s->options.migrations[v], (int)v + 1);
        if (r != SQLITE_OK) {
            return store_sqlite_error(s->db, r, "migrate", s->path, err);
        }
    }
    return 0;
}

static int connection_open(struct store_sqlite *s, struct accel_error *err)
{
    uint32_t version = 0;
    int r = check_header(s, err);
    if (r != 0) {
        return r;
    }
    r = connection_set_up(s, s->path);
    if (r != SQLITE_OK) {
        return store_sqlite_error(s->db, r, "open", s->path, err);
    }
    r = check_version(s, &version, err);
    if (r != 0) {
        return r;
    }
    /* See the head of this file. A full disk is no reason not to serve what is there. */
    r = checkpoint(s, SQLITE_CHECKPOINT_TRUNCATE);
    if (r != SQLITE_OK && code_of_sqlite(s->db, r) == ACCEL_ECORRUPT) {
        return store_sqlite_error(s->db, r, "write back the log of", s->path, err);
    }
    r = migrate(s, version, err);
    if (r != 0) {
        return r;
    }
    r = connection_prepare(s);
    return r == SQLITE_OK ? 0 : store_sqlite_error(s->db, r, "open", s->path, err);
}

/* A connection, the old one or a new one. */
static int connection_need(struct store_sqlite *s, struct accel_error *err)
{
    if (s->db != NULL) {
        return 0;
    }
    int r = connection_open(s, err);
    if (r != 0) {
        connection_drop(s);
    }
    return r;
}

/* ---- transactions ---- */

/* After any failure: nothing stays open, and a connection that cannot go on is dropped. */
static void roll_back(struct store_sqlite *s, int sqlite_code)
{
    if (!sqlite3_get_autocommit(s->db)) {
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    }
    int kind = sqlite_code & 0xff;
    if (!sqlite3_get_autocommit(s->db) || kind == SQLITE_CORRUPT || kind == SQLITE_NOTADB ||
        kind == SQLITE_MISUSE) {
        connection_drop(s);
    }
}

static int step_once(sqlite3_stmt *stmt)
{
    int r = sqlite3_step(stmt);
    sqlite3_reset(stmt);
    return r == SQLITE_DONE ? SQLITE_OK : r;
}

static int read_epoch(struct store_sqlite *s, uint64_t *ret_epoch)
{
    int r = sqlite3_step(s->epoch);
    if (r == SQLITE_ROW) {
        *ret_epoch = (uint64_t)sqlite3_column_int64(s->epoch, 0);
    }
    sqlite3_reset(s->epoch);
    return r == SQLITE_ROW ? SQLITE_OK : r == SQLITE_DONE ? SQLITE_CORRUPT : r;
}

/* Unlinked or renamed under us, commits would go to a file that nobody will find again. */
static bool has_moved(struct store_sqlite *s)
{
    int moved = 0;
    int r = sqlite3_file_control(s->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved);
    return r == SQLITE_OK && moved != 0;
}

static bool is_stale(const struct store_txn *txn, uint64_t stored)
{
    for (size_t i = 0; i < txn->count; i++) {
        const struct record *rec = &txn->records[i];
        if (rec->table == RECORD_META && rec->u.meta.epoch < stored) {
            return true;
        }
    }
    return txn->epoch < stored;
}

/* SQLITE_ABORT, which SQLite itself does not return here: the transaction is stale. */
static int transact(struct store_sqlite *s, const struct store_txn *txn, uint64_t *ret_epoch)
{
    int r = step_once(s->begin);
    if (r == SQLITE_OK) {
        r = read_epoch(s, ret_epoch);
    }
    if (r != SQLITE_OK || is_stale(txn, *ret_epoch)) {
        return r != SQLITE_OK ? r : SQLITE_ABORT;
    }
    for (size_t i = 0; i < txn->count && r == SQLITE_OK; i++) {
        r = rows_write(s->db, &s->rows, &txn->records[i]);
    }
    return r == SQLITE_OK ? step_once(s->commit) : r;
}

/* Fills the log with zeros ahead of what is used. Otherwise each commit makes the file longer, and
 * its sync has to write the inode too, which doubles its time. SQLite reads no further than the
 * last frame whose checksum is right. Not in the way of anything: what fails is left. */
static void extend_wal(struct store_sqlite *s)
{
    static char zeros[WAL_ZEROS_BYTES]; /* not const: then it is in no file */
    int64_t used = WAL_HEADER_BYTES + (int64_t)s->wal_pages * WAL_FRAME_BYTES;
    sqlite3_int64 size = 0;
    sqlite3_file *wal = NULL;
    int r = sqlite3_file_control(s->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &wal);
    if (r != SQLITE_OK || wal == NULL || wal->pMethods == NULL ||
        wal->pMethods->xFileSize(wal, &size) != SQLITE_OK || size < used ||
        used + WAL_ROOM_BYTES <= size || s->wal_pages >= LIMIT_STORE_WAL_PAGES) {
        return;
    }
    for (int i = 0; i < WAL_STEP_WRITES && r == SQLITE_OK; i++) {
        r = wal->pMethods->xWrite(wal, zeros, sizeof(zeros), size);
        size += (int64_t)sizeof(zeros);
    }
}

static int sqlite_commit(struct store *base, const struct store_txn *txn, struct accel_error *err)
{
    struct store_sqlite *s = CONTAINER_OF(base, struct store_sqlite, base);
    uint64_t epoch = 0;
    int r = connection_need(s, err);
    if (r != 0) {
        return r;
    }
    if (has_moved(s)) {
        return error_set(err, ACCEL_EIO,
                         "cannot write %.200s: it was moved or removed while in use"
                         "\ntry: put it back under its name, or restart the coordinator",
                         s->path);
    }
    r = transact(s, txn, &epoch);
    if (r == SQLITE_OK) {
        __atomic_fetch_add(&base->row_writes, txn->count, __ATOMIC_RELAXED);
        __atomic_fetch_add(&base->commits, 1, __ATOMIC_RELAXED);
        if (s->wal_pages >= LIMIT_STORE_WAL_PAGES) {
            checkpoint(s, SQLITE_CHECKPOINT_PASSIVE); /* a failure costs nothing: tried again */
        }
        extend_wal(s);
        return 0;
    }
    int code;
    if (r == SQLITE_ABORT) {
        code = error_set(err, ACCEL_ESTALE,
                         "a newer coordinator (epoch %" PRIu64 ", ours is %" PRIu64 ") has written"
                         " to %.200s",
                         epoch, txn->epoch, s->path);
    } else {
        code = store_sqlite_error(s->db, r, "write", s->path, err);
    }
    roll_back(s, r);
    return code;
}

static int sqlite_load(struct store *base, void (*on_record)(void *ctx, const struct record *rec),
                       void *ctx, struct accel_error *err)
{
    struct store_sqlite *s = CONTAINER_OF(base, struct store_sqlite, base);
    int r = connection_need(s, err);
    if (r != 0) {
        return r;
    }
    r = rows_load(s->db, on_record, ctx);
    return r == SQLITE_OK ? 0 : store_sqlite_error(s->db, r, "read", s->path, err);
}

static void sqlite_idle(struct store *base)
{
    struct store_sqlite *s = CONTAINER_OF(base, struct store_sqlite, base);
    unsigned threshold =
        s->options.idle_pages != 0 ? s->options.idle_pages : LIMIT_STORE_WAL_IDLE_PAGES;
    if (s->db != NULL && s->wal_pages >= threshold &&
        checkpoint(s, SQLITE_CHECKPOINT_PASSIVE) == SQLITE_OK) {
        s->wal_pages = 0; /* the next commit starts the log anew */
    }
}

static int sqlite_snapshot(struct store *base, const char *path, uint64_t *ret_bytes,
                           struct accel_error *err)
{
    struct store_sqlite *s = CONTAINER_OF(base, struct store_sqlite, base);
    struct stat st;
    int r = connection_need(s, err);
    if (r != 0) {
        return r;
    }
    if (lstat(path, &st) == 0) {
        return error_set(err, ACCEL_EEXIST, "%.300s exists already\ntry: another name", path);
    }
    return copy_to(s, path, RENAME_NOREPLACE, ret_bytes, err);
}

/* ---- check ---- */

static int report_rows(struct store_sqlite *s, const char *sql,
                       void (*on_problem)(void *ctx, const char *text), void *ctx)
{
    sqlite3_stmt *stmt = NULL;
    int r = sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL);
    while (r == SQLITE_OK && (r = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(stmt, 0);
        if (text != NULL && strcmp(text, "ok") != 0) {
            on_problem(ctx, text);
        }
        r = SQLITE_OK;
    }
    sqlite3_finalize(stmt);
    return r == SQLITE_DONE ? SQLITE_OK : r;
}

static int sqlite_check(struct store *base, void (*on_problem)(void *ctx, const char *text),
                        void *ctx, struct accel_error *err)
{
    struct store_sqlite *s = CONTAINER_OF(base, struct store_sqlite, base);
    int r = connection_need(s, err);
    if (r != 0) {
        return r;
    }
    r = report_rows(s, "PRAGMA integrity_check", on_problem, ctx);
    for (size_t i = 0; r == SQLITE_OK && schema_findings[i] != NULL; i++) {
        r = report_rows(s, schema_findings[i], on_problem, ctx);
    }
    if ((r & 0xff) == SQLITE_CORRUPT) { /* too broken to be read is a finding as well */
        on_problem(ctx, sqlite3_errmsg(s->db));
        return 0;
    }
    return r == SQLITE_OK ? 0 : store_sqlite_error(s->db, r, "check", s->path, err);
}

/* ---- the store as a whole ---- */

static const char *sqlite_describe(struct store *base)
{
    return CONTAINER_OF(base, struct store_sqlite, base)->text;
}

static void sqlite_close(struct store *base)
{
    struct store_sqlite *s = CONTAINER_OF(base, struct store_sqlite, base);
    /* What cannot be written back stays in the WAL. */
    bool is_clean = s->db != NULL && checkpoint(s, SQLITE_CHECKPOINT_TRUNCATE) == SQLITE_OK;
    connection_close(s, is_clean);
    base_close_fd(&s->lock_fd);
    free(s);
}

static const struct store_ops sqlite_ops = {
    .load = sqlite_load,
    .commit = sqlite_commit,
    .idle = sqlite_idle,
    .snapshot = sqlite_snapshot,
    .check = sqlite_check,
    .describe = sqlite_describe,
    .close = sqlite_close,
};

static int open_locked(struct store_sqlite *s, struct accel_error *err)
{
    char lock[PATH_MAX + 8];
    struct stat st;
    if (stat(s->dir, &st) != 0) {
        return error_sys(err, errno, "cannot use the folder %s", s->dir);
    }
    snprintf(lock, sizeof(lock), "%s.lock", s->path);
    int r = path_lock(lock, false, &s->lock_fd, err);
    if (r != 0) {
        return r == ACCEL_EBUSY ? error_set(err, r,
                                            "%.200s is in use by another accel-coordinator"
                                            "\ntry: stop that one, or use another folder",
                                            s->path)
                                : r;
    }
    r = stat(s->path, &st) == 0 ? 0 : errno;
    if (r == ENOENT) {
        r = create_file(s, err);
    } else if (r != 0) {
        r = error_sys(err, r, "cannot open %s", s->path);
    }
    return r != 0 ? r : connection_need(s, err);
}

int store_sqlite_open_with(const char *dir, const struct store_sqlite_options *options,
                           struct store **ret_store, struct accel_error *err)
{
    struct store_sqlite *s = calloc(1, sizeof(*s));
    if (s == NULL) {
        return error_set(err, ACCEL_ENOMEM, "out of memory");
    }
    s->base.ops = &sqlite_ops;
    s->lock_fd = -1;
    s->options = *options;
    if (s->options.migrations == NULL) {
        s->options.migrations = schema_migrations;
        s->options.version = SCHEMA_VERSION;
    }
    int r;
    /* Room for the longest name made from it: accel.db.before-v1000000.partial-journal */
    if (strlen(dir) + 64 > sizeof(s->dir)) {
        r = error_set(err, ACCEL_EINVAL, "the path %.200s... is too long", dir);
    } else {
        snprintf(s->dir, sizeof(s->dir), "%s", dir);
        snprintf(s->path, sizeof(s->path), "%.*s/%s", PATH_MAX - 64, dir, DB_NAME);
        snprintf(s->text, sizeof(s->text), "sqlite %s %s", sqlite3_libversion(), s->path);
        r = open_locked(s, err);
    }
    if (r != 0) {
        connection_drop(s);
        base_close_fd(&s->lock_fd);
        free(s);
        return r;
    }
    *ret_store = &s->base;
    return 0;
}

int store_sqlite_open(const char *dir, struct store **ret_store, struct accel_error *err)
{
    /* Counting every allocation under a lock was 5 % of what a row costs. Refused, and no harm
     * done, where SQLite runs already. */
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    return store_sqlite_open_with(dir, &(struct store_sqlite_options){0}, ret_store, err);
}
