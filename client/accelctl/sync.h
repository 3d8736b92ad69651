/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sync.h - `--sync DIR`: a directory becomes an archive that travels with the job, known by its
 * content. Blocking; tells progress of large ones on stderr.
 */
#ifndef ACCEL_CLIENT_SYNC_H
#define ACCEL_CLIENT_SYNC_H

#include "client/accelctl/session.h"
#include "common/hash.h"

struct sync_archive {
    int fd; /* an unnamed file; -1: none */
    uint64_t size_bytes;
    uint8_t hash[HASH_BYTES];
    char source[PATH_MAX]; /* the directory, absolute, without links */
};

/* Packs dir with tar(1): names in order, owners and times left out, so that the same content gives
 * the same hash. Left out too: what version control keeps for itself, __pycache__, the patterns,
 * and those in dir/.accelignore. ACCEL_EFULL above LIMIT_SYNC_BYTES. */
int sync_pack(const char *dir, const char *const *excludes, size_t exclude_count,
              struct sync_archive *ret_archive, struct accel_error *err);
/* Sends what the coordinator does not have. */
int sync_upload(struct session *session, const struct sync_archive *archive,
                struct accel_error *err);
void sync_archive_done(struct sync_archive *archive);

#endif
