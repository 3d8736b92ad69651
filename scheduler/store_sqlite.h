/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_sqlite.h - what store_sqlite.c and store_sqlite_rows.c share, and the open function with
 * which the fault tests reach the same code through a VFS of theirs. Nothing else includes this.
 */
#ifndef ACCEL_SCHEDULER_STORE_SQLITE_H
#define ACCEL_SCHEDULER_STORE_SQLITE_H

#include <sqlite3.h>

#include "scheduler/store.h"

struct store_sqlite_options {       /* all zero: as store_sqlite_open() */
    const char *vfs;                /* name of a registered sqlite3_vfs; NULL: the default */
    unsigned idle_pages;            /* instead of LIMIT_STORE_WAL_IDLE_PAGES; 0: that */
    const char *const *migrations;  /* instead of schema_migrations, `version` of them */
    int version;
};
int store_sqlite_open_with(const char *dir, const struct store_sqlite_options *options,
                           struct store **ret_store, struct accel_error *err);

/* The ACCEL_E* for a result of SQLite (never 0), with "cannot DOING PATH: ..." in err. db may be
 * NULL; its errno tells a full disk behind SQLITE_IOERR. */
int store_sqlite_error(sqlite3 *db, int sqlite_code, const char *doing, const char *path,
                       struct accel_error *err);

#define ROW_ERASES 4 /* statements to delete one record: a job takes its other rows along */
struct row_statements { /* prepared at first use; zero at start */
    sqlite3_stmt *upsert[RECORD_TABLE_COUNT];
    sqlite3_stmt *erase[RECORD_TABLE_COUNT][ROW_ERASES];
};
/* Writes or deletes one record within the open transaction. 0, or SQLite's (extended) code;
 * SQLITE_MISMATCH for a value that has no place in the table. */
int rows_write(sqlite3 *db, struct row_statements *st, const struct record *rec);
/* As store_ops.load. 0, or SQLite's code; SQLITE_CORRUPT for a row that cannot be. */
int rows_load(sqlite3 *db, void (*on_record)(void *ctx, const struct record *rec), void *ctx);
void rows_done(struct row_statements *st); /* finalizes all; st may be used again */

#endif
