/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the files with which a node goes remote. Neighbour: uplink.c, before each connection. It
 * must not look into keys or certificates.
 */
#include "agentd/tls_files.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "common/path.h"

#define TLS_FILE_BYTES 65536u /* a few certificates; more is no such file */

void tls_files_done(struct tls_files *f)
{
    if (f->key_pem)
        explicit_bzero(f->key_pem, strlen(f->key_pem));
    free(f->ca_pem);
    free(f->cert_pem);
    free(f->key_pem);
    *f = (struct tls_files){.ca_pem = NULL};
}

static int load_one(const char *dir, const char *name, char **ret_text, struct accel_error *err)
{
    char path[PATH_MAX];
    size_t len;
    int n = snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof(path))
        return error_set(err, ACCEL_EINVAL, "%.200s: the path is too long", dir);
    int r = path_read_all(AT_FDCWD, path, TLS_FILE_BYTES, ret_text, &len, err);
    return r == 0 && strcmp(name, "node.key") == 0 ? path_check_secret(path, err) : r;
}

int tls_files_load(const char *dir, struct tls_files *ret, struct accel_error *err)
{
    struct tls_files f = {.ca_pem = NULL};
    int r = load_one(dir, "ca.pem", &f.ca_pem, err);
    if (r == 0)
        r = load_one(dir, "node.pem", &f.cert_pem, err);
    if (r == 0)
        r = load_one(dir, "node.key", &f.key_pem, err);
    if (r < 0) {
        tls_files_done(&f);
        return r;
    }
    *ret = f;
    return 0;
}
