/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_files.c - archives that jobs bring: uploads of users (service Files), and reads of the nodes
 * that run such a job. They are no state of the core and pass beside its queue: content is known by
 * its hash, so there is no order to keep.
 */
#include <stdio.h>
#include <string.h>

#include "accel/v1/agent.pb-c.h"
#include "accel/v1/files.pb-c.h"
#include "common/codec.h"
#include "common/limits.h"
#include "scheduler/api_files.h"
#include "scheduler/files.h"
#include "scheduler/shell.h"

struct put { /* a part that is on its way to the disk */
    struct shell *shell;
    uint64_t call;
};

static void answer(struct shell *s, uint64_t call, const struct files_progress *p)
{
    Accel__V1__FileReply m = ACCEL__V1__FILE_REPLY__INIT;
    uint8_t packed[32];

    m.have_bytes = p->have_bytes;
    m.is_complete = p->is_complete;
    CHECK(accel__v1__file_reply__get_packed_size(&m) <= sizeof(packed));
    shell_end(s, call, packed, accel__v1__file_reply__pack(&m, packed), 0, "");
}

static void on_put(void *ctx, int r, const struct files_progress *p, const struct accel_error *err)
{
    struct put *put = ctx;
    struct shell *s = put->shell;

    s->admin_calls--;
    if (s->is_flushed)
        ; /* the server is going: the caller was told that the connection is gone */
    else if (r < 0)
        shell_end(s, put->call, NULL, 0, r, err->text);
    else
        answer(s, put->call, p);
    free(put);
}

static void put_part(struct shell *s, const struct rpc_event *ev,
                     const Accel__V1__FilePutRequest *rq)
{
    if (rq->size_bytes == 0 || rq->size_bytes > LIMIT_SYNC_BYTES ||
        rq->data.len > LIMIT_BLOB_CHUNK_BYTES) {
        shell_end(s, ev->call, NULL, 0, ACCEL_EINVAL,
                  "the archive, or the part of it, is empty or too large");
        return;
    }
    struct put *put = xcalloc(1, sizeof(*put));
    put->shell = s;
    put->call = ev->call;
    s->admin_calls++;
    files_put(s->files, ev->who->user, rq->hash.data, rq->size_bytes, rq->offset, rq->data.data,
              rq->data.len, on_put, put);
}

void api_files_on_call(void *ctx, const struct rpc_event *ev)
{
    struct shell *s = ctx;
    bool is_put = ev->method->id == API_FILES_PUT;
    struct files_progress p;

    if (ev->type != RPC_OPEN)
        return;
    const Accel__V1__FileStatRequest *stat = (const Accel__V1__FileStatRequest *)ev->msg;
    const Accel__V1__FilePutRequest *part = (const Accel__V1__FilePutRequest *)ev->msg;
    const ProtobufCBinaryData *hash = is_put ? &part->hash : &stat->hash;
    if (hash->len != HASH_BYTES) {
        shell_end(s, ev->call, NULL, 0, ACCEL_EINVAL, "an archive is named by 32 bytes of SHA-256");
    } else if (is_put) {
        put_part(s, ev, part);
    } else {
        files_stat(s->files, ev->who->user, hash->data, &p);
        answer(s, ev->call, &p);
    }
}

/* --- nodes --- */

static int read_part(struct shell *s, uint64_t call, const Accel__V1__BlobRead *rq, uint8_t *buf,
                     size_t *ret_len, struct accel_error *err)
{
    const char *user;

    if (rq->hash.len != HASH_BYTES || !rq->ref)
        return error_set(err, ACCEL_EINVAL, "no archive is named");
    int r = coord_archive_owner(s->core, call, rq->ref, rq->hash.data, &user, err);
    if (r < 0)
        return r;
    return files_read(s->files, user, rq->hash.data, rq->offset, buf, LIMIT_BLOB_CHUNK_BYTES,
                      ret_len, err);
}

bool api_files_on_session(struct shell *s, const struct rpc_event *ev)
{
    const Accel__V1__AgentUp *up = (const Accel__V1__AgentUp *)ev->msg;
    Accel__V1__CoordDown down = ACCEL__V1__COORD_DOWN__INIT;
    Accel__V1__BlobData data = ACCEL__V1__BLOB_DATA__INIT;
    struct accel_error err = {0};
    size_t len = 0;

    if (ev->type != RPC_MESSAGE || !up || up->body_case != ACCEL__V1__AGENT_UP__BODY_BLOB_READ)
        return false;
    AUTO_FREE uint8_t *buf = xcalloc(1, LIMIT_BLOB_CHUNK_BYTES);
    int r = read_part(s, ev->call, up->blob_read, buf, &len, &err);
    if (r == ACCEL_EPERM) {
        char text[sizeof(err.text) + sizeof(ev->who->node) + 64];
        snprintf(text, sizeof(text), "node %s asked for an archive: %s",
                 ev->who->node[0] ? ev->who->node : "of this host", err.text);
        shell_refused(s, COORD_REFUSED_REPORT, text);
    }
    data.id = up->blob_read->id;
    data.code = accel_error_to_grpc(r);
    data.text = r < 0 ? err.text : (char *)"";
    data.data = (ProtobufCBinaryData){len, buf};
    down.body_case = ACCEL__V1__COORD_DOWN__BODY_BLOB;
    down.blob = &data;
    size_t size = accel__v1__coord_down__get_packed_size(&down);
    AUTO_FREE uint8_t *packed = xcalloc(1, size);
    shell_send(s, ev->call, packed, accel__v1__coord_down__pack(&down, packed));
    return true;
}
