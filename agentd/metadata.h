/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metadata.h - asks the metadata server of a cloud machine, without blocking: one value now, or a
 * value and its changes by the server's long poll. HTTP by libcurl, which is loaded when the first
 * client is made and not before: a machine that is in no cloud never loads it. Loop's thread only.
 *
 * Google's protocol: GET http://HOST/computeMetadata/v1/KEY with Metadata-Flavor: Google both ways,
 * ?wait_for_change=true&timeout_sec=60&last_etag=E; a poll that times out returns the old value.
 */
#ifndef ACCEL_AGENTD_METADATA_H
#define ACCEL_AGENTD_METADATA_H

#include <uv.h>

#include "common/error.h"

#define METADATA_BODY_BYTES 65536u /* of one value; longer is ACCEL_EFULL */
#define METADATA_REQUESTS   32u    /* of one client at a time; further ones are ACCEL_EFULL */
#define METADATA_TRIES      10u    /* of a get that a server puts off (429, 5xx): about 25 s */
#define METADATA_CONNECTS   3u     /* of a get that nobody answers: then there is no server */

struct metadata;
struct metadata_config {
    uv_loop_t *loop;
    const char *host; /* HOST[:PORT]; NULL: $GCE_METADATA_HOST, $GCE_METADATA_IP, else Google's */
    int64_t retry_ms; /* the first back-off, doubled up to 50 times that; 0: 100 */
    int64_t connect_ms, answer_ms; /* 0: 1000, 5000 */
};
/* What came of a request. r 0: body (NUL-terminated, valid during the call) of len bytes.
 * ACCEL_ENOENT: there is no such key. ACCEL_EPERM: forbidden. ACCEL_EUNAVAIL: nobody answers, or
 * not for long. ACCEL_EPROTO: somebody answers who is no such server. ACCEL_EFULL: too long. */
typedef void (*metadata_fn)(void *ctx, int r, const char *body, size_t len);

/* ACCEL_EUNAVAIL: libcurl is not installed. */
int metadata_create(const struct metadata_config *config, struct metadata **ret_metadata,
                    struct accel_error *err);
/* No callback comes afterwards; may be called from one. Handles close on the loop's next turns. */
void metadata_destroy(struct metadata *m);
/* One answer, by fn, never from inside the call. key: "instance/attributes/tpu-env". */
int metadata_get(struct metadata *m, const char *key, metadata_fn fn, void *ctx,
                 struct accel_error *err);
/* fn at first and whenever the value differs from the last that was told, until destroy; failures
 * that may pass are retried for ever and not told, others are told once and end it. */
int metadata_watch(struct metadata *m, const char *key, metadata_fn fn, void *ctx,
                   struct accel_error *err);

#endif
