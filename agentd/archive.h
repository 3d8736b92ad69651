/* SPDX-License-Identifier: Apache-2.0 */
/*
 * archive.h - archives that jobs bring (--sync), fetched from the coordinator over the session,
 * part by part, checked by their SHA-256 and kept in STATE/files until the room is needed or the
 * machine is started again. Loop's thread; writes of one part go to the page cache.
 */
#ifndef ACCEL_AGENTD_ARCHIVE_H
#define ACCEL_AGENTD_ARCHIVE_H

#include "accel/v1/agent.pb-c.h"
#include "agentd/attempt.h"
#include "common/error.h"

#define ARCHIVE_TOTAL_BYTES (20ull << 30) /* kept on a node; the longest unused go first */

struct archives;
struct archive_callbacks {
    /* A packed AgentUp; ignored without a session. */
    void (*send)(void *ctx, const void *data, size_t len);
    /* Once per archives_fetch() that returned 0 and was not cancelled; never from inside a call of
     * ours but archives_on_data(). path is borrowed during the call; on a failure err says why. */
    void (*on_done)(void *ctx, struct attempt_id id, int r, const char *path,
                    const struct accel_error *err);
};
/* dir is made (0700); is_shared: users of this machine may pass through it to a file whose name
 * they know, which accel-spawn opens for them anyhow. What another boot left is removed. */
int archives_create(const char *dir, const struct archive_callbacks *cb, void *ctx,
                    struct archives **ret_archives, struct accel_error *err);
void archives_destroy(struct archives *a); /* parts under way are removed */
/* The archive of the start's spec (spec->sync is set). 1: it is here, at ret_path (PATH_MAX bytes);
 * 0: on_done will come, over sessions that break too. ACCEL_EINVAL: no hash of ours, or larger
 * than LIMIT_SYNC_BYTES. Asked again for an attempt it
 * goes on with the fetch that is under way. */
int archives_fetch(struct archives *a, const Accel__V1__Start *start, char *ret_path,
                   struct accel_error *err);
/* Was it being fetched? No on_done follows. */
bool archives_cancel(struct archives *a, struct attempt_id id);
void archives_on_data(struct archives *a, const Accel__V1__BlobData *msg);
void archives_on_session(struct archives *a); /* a new one was welcomed: goes on where it was */

/* The job's directory: what lay below the submitter's `source` lies below `tree` here. Moves
 * spec's cwd (to tree itself if it was outside) and those arguments; strings come from the arena.
 */
struct arena;
void archive_move(Accel__V1__AttemptSpec *spec, const Accel__V1__SyncRef *sync, const char *tree,
                  struct arena *arena);

#endif
