/* SPDX-License-Identifier: Apache-2.0 */
/*
 * files.h - archives that jobs bring (files.proto), in STATE/files/HASH.USER. Uploads come in order
 * and are hashed on the way; the last part is synced on libuv's threads before the answer. What was
 * not used longest goes first when the room is used up. Loop's thread; reads and writes of one part
 * go to the page cache.
 */
#ifndef ACCEL_SCHEDULER_FILES_H
#define ACCEL_SCHEDULER_FILES_H

#include <uv.h>

#include "common/error.h"
#include "common/hash.h"

#define FILES_UPLOADS_MAX 64u                /* under way at once; the oldest is forgotten */
#define FILES_TOTAL_BYTES (20ull << 30)      /* default of the setting files-bytes */
#define FILES_FRESH_MS    (60 * 60 * 1000ll) /* used within this: not removed for room */

struct files;
struct files_progress {
    uint64_t have_bytes;
    bool is_complete;
};

/* The directory is made (0700) if it is not there; parts of uploads in it are removed. */
int files_create(uv_loop_t *loop, const char *dir, uint64_t total_bytes, struct files **ret_files,
                 struct accel_error *err);
/* Uploads that are being synced are waited for by the loop; their on_done still comes. */
void files_destroy(struct files *f);

void files_stat(struct files *f, const char *user, const uint8_t hash[HASH_BYTES],
                struct files_progress *ret_progress);
/* One part. on_done comes once, perhaps from inside the call: r 0 and how far it is, or ACCEL_EFULL
 * (no room), ACCEL_ECORRUPT (the content is not what the hash says; the upload is forgotten),
 * ACCEL_ENOSPC, ACCEL_EIO, with text. data is borrowed during the call. */
void files_put(struct files *f, const char *user, const uint8_t hash[HASH_BYTES],
               uint64_t size_bytes, uint64_t offset, const void *data, size_t len,
               void (*on_done)(void *ctx, int r, const struct files_progress *p,
                               const struct accel_error *err),
               void *ctx);
/* Up to cap bytes from offset; 0 at the end. ACCEL_ENOENT: it was never uploaded, or has gone. */
int files_read(struct files *f, const char *user, const uint8_t hash[HASH_BYTES], uint64_t offset,
               void *buf, size_t cap, size_t *ret_len, struct accel_error *err);

#endif
