/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of credentials: found, read, written. Neighbours: session.c, which shows them to a
 * coordinator, and user.c, which makes them. Knows PEM only as blocks between two lines; what is in
 * them is checked where they are used.
 */
#include "client/accelctl/credentials.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/path.h"
#include "common/pki.h"
#include "common/str.h"

#define FILE_BYTES (4 * PKI_PEM_BYTES) /* three blocks and what people write around them */

/* The n-th block (from 0) whose title ends so; NULL if there is none. */
static char *find_block(const char *text, const char *title, unsigned n)
{
    static const char begin[] = "-----BEGIN ", end[] = "-----END ";

    for (const char *p = text; (p = strstr(p, begin)); p++) {
        const char *name = p + strlen(begin), *stop = strstr(name, "-----");
        size_t len = stop ? (size_t)(stop - name) : 0;
        bool fits = len >= strlen(title) && !memcmp(stop - strlen(title), title, strlen(title));
        if (!fits || n-- > 0)
            continue;
        const char *last = strstr(stop, end);
        if (!last)
            return NULL;
        last += strcspn(last, "\n");
        char *block = xcalloc(1, (size_t)(last - p) + 2);
        memcpy(block, p, (size_t)(last - p));
        block[last - p] = '\n';
        return block;
    }
    return NULL;
}

static int parse(const char *path, const char *text, struct credentials *c, struct accel_error *err)
{
    c->key = find_block(text, "PRIVATE KEY", 0);
    c->cert = find_block(text, "CERTIFICATE", 0);
    c->ca = find_block(text, "CERTIFICATE", 1);
    if (c->key && c->cert && c->ca)
        return 0;
    credentials_done(c);
    return error_set(err, ACCEL_EINVAL,
                     "%s does not hold credentials\nwhy: a private key, its certificate and that"
                     " of the CA are needed, in this order\ntry: accelctl user cert makes such a"
                     " file",
                     path);
}

static int check_private(const char *path, struct accel_error *err)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return error_sys(err, errno, "cannot read %s", path);
    if (!(st.st_mode & 077) && (st.st_uid == geteuid() || st.st_uid == 0))
        return 0;
    return error_set(err, ACCEL_EPERM,
                     "%s can be read by others\nwhy: it holds a private key\ntry: chmod 600 it;"
                     " it must belong to you",
                     path);
}

static int load(const char *path, struct credentials *c, struct accel_error *err)
{
    char *text = NULL;
    size_t len;
    int r = check_private(path, err);

    if (r == 0)
        r = path_read_all(AT_FDCWD, path, FILE_BYTES, &text, &len, err);
    if (r < 0)
        return r;
    r = parse(path, text, c, err);
    explicit_bzero(text, len);
    free(text);
    return r;
}

static void config_dir(char *dir, size_t size)
{
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");

    if (config && config[0] == '/')
        snprintf(dir, size, "%s/accel/credentials", config);
    else
        snprintf(dir, size, "%s/.config/accel/credentials", home ? home : "");
}

int credentials_load(const struct remote_address *coordinator, struct credentials *ret_credentials,
                     struct accel_error *err)
{
    const char *named = getenv("ACCEL_CREDENTIALS");
    char dir[PATH_MAX], path[PATH_MAX + 512];
    struct credentials c = {0};
    int r = ACCEL_ENOENT;

    config_dir(dir, sizeof(dir));
    if (named && named[0])
        r = load(named, &c, err);
    for (int i = 0; i < 3 && !(named && named[0]) && r == ACCEL_ENOENT; i++) {
        if (i == 0)
            snprintf(path, sizeof(path), "%s/%s:%u.pem", dir, coordinator->host, coordinator->port);
        else
            snprintf(path, sizeof(path), "%s/%s.pem", dir, i == 1 ? coordinator->host : "default");
        if (i == 2 || access(path, F_OK) == 0)
            r = load(path, &c, err);
    }
    if (r == ACCEL_ENOENT && !(named && named[0]))
        return error_set(err, ACCEL_EPERM,
                         "no credentials for %s\nwhy: there is no %s/%s.pem\ntry: ask an admin for"
                         " \"accelctl user cert YOU\", or set ACCEL_CREDENTIALS",
                         coordinator->host, dir, coordinator->host);
    if (r == 0)
        *ret_credentials = c;
    return r;
}

void credentials_done(struct credentials *c)
{
    if (c->key)
        explicit_bzero(c->key, strlen(c->key));
    free(c->key);
    free(c->cert);
    free(c->ca);
    *c = (struct credentials){0};
}

int credentials_save(const char *path, const struct credentials *c, struct accel_error *err)
{
    AUTO_STR struct str text = {0};

    if (access(path, F_OK) == 0)
        return error_set(err, ACCEL_EEXIST,
                         "%s exists\nwhy: it may hold somebody's only key\ntry: another --out, or"
                         " remove it",
                         path);
    str_init(&text);
    str_addf(&text, "%s%s%s", c->key, c->cert, c->ca);
    int r = path_write_atomic(AT_FDCWD, path, text.data, text.len, 0600, true, err);
    explicit_bzero(text.data, text.len);
    return r;
}
