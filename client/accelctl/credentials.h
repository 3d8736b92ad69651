/* SPDX-License-Identifier: Apache-2.0 */
/*
 * credentials.h - a user's key and certificate for a coordinator on another machine: one file with
 * the private key, the certificate and the CA's, all PEM, that only its owner may read. Blocking.
 */
#ifndef ACCEL_CLIENT_CREDENTIALS_H
#define ACCEL_CLIENT_CREDENTIALS_H

#include "common/remote.h"

struct credentials {
    char *key, *cert, *ca; /* PEM */
};
/* The file that $ACCEL_CREDENTIALS names; else of $XDG_CONFIG_HOME/accel/credentials (or
 * ~/.config/accel/credentials) the first of HOST:PORT.pem, HOST.pem and default.pem. ACCEL_EPERM:
 * there is none, or others may read it. ACCEL_EINVAL: it does not hold all three. */
int credentials_load(const struct remote_address *coordinator, struct credentials *ret_credentials,
                     struct accel_error *err);
void credentials_done(struct credentials *c); /* accepts one that is all zero */
/* Writes such a file (0600, atomically). ACCEL_EEXIST: there is one at path. */
int credentials_save(const char *path, const struct credentials *c, struct accel_error *err);

#endif
