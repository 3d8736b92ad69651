/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls_files.h - the key and certificates of a node, in STATE/tls: ca.pem, node.pem, node.key.
 * Blocking, but small. Texts only: whether they are any good, the module says (remote.h, pki.h).
 */
#ifndef ACCEL_AGENTD_TLS_FILES_H
#define ACCEL_AGENTD_TLS_FILES_H

#include "common/error.h"

struct tls_files {
    char *ca_pem, *cert_pem, *key_pem; /* owned */
};
/* ACCEL_ENOENT: not enrolled yet. */
int tls_files_load(const char *dir, struct tls_files *ret, struct accel_error *err);
void tls_files_done(struct tls_files *f); /* wipes the key */

#endif
