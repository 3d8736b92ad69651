/* SPDX-License-Identifier: Apache-2.0 */
/*
 * schema.h - the tables of accel.db as numbered SQL, embedded. Version n is `PRAGMA user_version`;
 * a database of another `application_id` is not ours and is never written to.
 *
 * A migration is only ever appended: what has been released is never edited. It runs inside one
 * transaction with the change of user_version, after a backup (store_sqlite.c).
 */
#ifndef ACCEL_SCHEDULER_SCHEMA_H
#define ACCEL_SCHEDULER_SCHEMA_H

#define SCHEMA_APPLICATION_ID 0x4143434c /* "ACCL" */
#define SCHEMA_VERSION        2

/* schema_migrations[n] takes a database from version n to n + 1. */
extern const char *const schema_migrations[SCHEMA_VERSION];

/* Queries with one text column: every row is a problem. NULL-terminated. */
extern const char *const schema_findings[];

#endif
