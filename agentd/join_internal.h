/* SPDX-License-Identifier: Apache-2.0 */
/*
 * join_internal.h - what join.c and join_renewal.c share: the files of an enrolment, in STATE/tls.
 * Blocking; durable when a function has returned 0.
 */
#ifndef ACCEL_AGENTD_JOIN_INTERNAL_H
#define ACCEL_AGENTD_JOIN_INTERNAL_H

#include "common/pki.h"
#include "common/remote.h"

/* path: PATH_MAX bytes. */
int join_path(const char *dir, const char *name, char *path, struct accel_error *err);
/* 0600, atomically. dir: STATE/tls. */
int join_write(const char *dir, const char *name, const char *text, struct accel_error *err);

struct join_files {
    const char *key_pem, *ca_pem, *cert_pem;
    const char *token_hash; /* of the token that was redeemed: SHA-256 of its secret, hex */
    const char *address;    /* of the coordinator */
};
/* These and no others are what STATE/tls holds, or it holds what it held. */
int join_replace(const char *state_dir, const struct join_files *f, struct accel_error *err);
/* Before the first look: a replacement that was cut off is finished if its files are all there. */
int join_recover(const char *state_dir, struct accel_error *err);

#endif
