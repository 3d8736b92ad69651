/* SPDX-License-Identifier: Apache-2.0 */
/*
 * credentials.h - the key and certificates with which a program goes remote, from files: one file
 * with all of it (users), or a directory with one file each (nodes). Blocking, but small. Texts
 * only: whether they are any good, the module says (remote.h, pki.h).
 */
#ifndef ACCEL_COMMON_CREDENTIALS_H
#define ACCEL_COMMON_CREDENTIALS_H

#include "common/error.h"

struct credentials {
    char *ca_pem, *cert_pem, *key_pem; /* owned */
};
/* A file with a private key, the holder's certificate, and then those of the authority, as PEM
 * blocks in that order of certificates; the key may be anywhere. ACCEL_ENOENT; ACCEL_EPERM: others
 * may read it; ACCEL_EINVAL: a part is missing. */
int credentials_load_file(const char *path, struct credentials *ret, struct accel_error *err);
/* DIR/ca.pem, DIR/NAME.pem, DIR/NAME.key. */
int credentials_load_dir(const char *dir, const char *name, struct credentials *ret,
                         struct accel_error *err);
void credentials_done(struct credentials *c); /* wipes the key */

/* Which file a user goes to `host` with: $ACCEL_CREDENTIALS, else HOST.pem in
 * $XDG_CONFIG_HOME/accel/credentials (~/.config/...), else the only *.pem there. ACCEL_ENOENT says
 * what to do. */
int credentials_find(const char *host, char *path, size_t size, struct accel_error *err);

#endif
