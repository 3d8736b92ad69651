/* SPDX-License-Identifier: Apache-2.0 */
/*
 * join_internal.h - what join.c and join_renewal.c share: files of STATE/tls.
 */
#ifndef ACCEL_AGENTD_JOIN_INTERNAL_H
#define ACCEL_AGENTD_JOIN_INTERNAL_H

#include "common/pki.h"
#include "common/remote.h"

/* path: PATH_MAX bytes. */
int join_path(const char *dir, const char *name, char *path, struct accel_error *err);
/* 0600, atomically, durable. */
int join_write(const char *dir, const char *name, const char *text, struct accel_error *err);

#endif
