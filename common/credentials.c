/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds and reads the files with which a program goes remote. Neighbours: client/accelctl/session.c
 * and agentd/uplink.c. It must not look into keys or certificates.
 */
#include "common/credentials.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/path.h"
#include "common/str.h"

#define CREDENTIALS_BYTES 65536u /* a key and a few certificates; more is no such file */

void credentials_done(struct credentials *c)
{
    if (c->key_pem)
        explicit_bzero(c->key_pem, strlen(c->key_pem));
    free(c->ca_pem);
    free(c->cert_pem);
    free(c->key_pem);
    *c = (struct credentials){.ca_pem = NULL};
}

/* The next "-----BEGIN ...-----END ...-----\n"; NULL: none. */
static const char *next_block(const char *text, size_t *ret_len)
{
    static const char begin[] = "-----BEGIN ", end[] = "-----END ";
    const char *from = strstr(text, begin);
    const char *to = from ? strstr(from, end) : NULL;
    if (!to)
        return NULL;
    to += strcspn(to, "\n");
    *ret_len = (size_t)(to - from) + (*to == '\n');
    return from;
}

static void append(char **to, const char *p, size_t len)
{
    size_t old = *to ? strlen(*to) : 0;
    *to = xrealloc(*to, old + len + 1);
    memcpy(*to + old, p, len);
    (*to)[old + len] = 0;
}

static void split(const char *text, struct credentials *c)
{
    static const char begin[] = "-----BEGIN CERTIFICATE";
    size_t len;
    for (const char *p = next_block(text, &len); p; p = next_block(p + len, &len)) {
        if (strncmp(p, begin, sizeof(begin) - 1) != 0)
            append(&c->key_pem, p, len);
        else
            append(c->cert_pem ? &c->ca_pem : &c->cert_pem, p, len);
    }
}

int credentials_load_file(const char *path, struct credentials *ret, struct accel_error *err)
{
    struct credentials c = {.ca_pem = NULL};
    struct stat st;
    char *text = NULL;
    size_t len;
    if (stat(path, &st) == 0 && (st.st_mode & 077))
        return error_set(err, ACCEL_EPERM,
                         "%s: others may read this file\nwhy: it holds a private key\n"
                         "try: chmod 600 %s, and have it revoked if it was seen",
                         path, path);
    int r = path_read_all(AT_FDCWD, path, CREDENTIALS_BYTES, &text, &len, err);
    if (r < 0)
        return r;
    split(text, &c);
    explicit_bzero(text, len);
    free(text);
    if (!c.key_pem || !c.cert_pem || !c.ca_pem) {
        credentials_done(&c);
        return error_set(err, ACCEL_EINVAL,
                         "%s: these are no credentials\n"
                         "why: a key, a certificate and that of the authority are needed\n"
                         "try: an admin makes them: accelctl user cert NAME",
                         path);
    }
    *ret = c;
    return 0;
}

static int load_one(const char *dir, const char *name, const char *ending, char **ret_text,
                    struct accel_error *err)
{
    char path[PATH_MAX];
    size_t len;
    int n = snprintf(path, sizeof(path), "%s/%s%s", dir, name, ending);
    if (n < 0 || (size_t)n >= sizeof(path))
        return error_set(err, ACCEL_EINVAL, "%.200s: the path is too long", dir);
    return path_read_all(AT_FDCWD, path, CREDENTIALS_BYTES, ret_text, &len, err);
}

int credentials_load_dir(const char *dir, const char *name, struct credentials *ret,
                         struct accel_error *err)
{
    struct credentials c = {.ca_pem = NULL};
    int r = load_one(dir, "ca", ".pem", &c.ca_pem, err);
    if (r == 0)
        r = load_one(dir, name, ".pem", &c.cert_pem, err);
    if (r == 0)
        r = load_one(dir, name, ".key", &c.key_pem, err);
    if (r < 0) {
        credentials_done(&c);
        return r;
    }
    *ret = c;
    return 0;
}

/* --- a user's file --- */

static bool is_pem(const char *name)
{
    size_t len = strlen(name);
    return len > 4 && name[0] != '.' && strcmp(name + len - 4, ".pem") == 0;
}

/* HOST.pem, or the only one. Returns how many there are. */
static size_t look(const char *dir, const char *host, char *name, size_t size)
{
    char wanted[NAME_MAX + 1];
    size_t count = 0;
    DIR *list = opendir(dir);
    snprintf(wanted, sizeof(wanted), "%.240s.pem", host);
    for (struct dirent *e; list && (e = readdir(list));) {
        if (!is_pem(e->d_name))
            continue;
        count++;
        snprintf(name, size, "%s", e->d_name);
        if (strcmp(e->d_name, wanted) == 0) {
            count = 1;
            break;
        }
    }
    if (list)
        closedir(list);
    return count;
}

int credentials_find(const char *host, char *path, size_t size, struct accel_error *err)
{
    const char *named = getenv("ACCEL_CREDENTIALS"), *config = getenv("XDG_CONFIG_HOME");
    const char *home = getenv("HOME");
    char dir[PATH_MAX], name[NAME_MAX + 1] = "";
    if (named && named[0]) {
        if (!str_copy(path, size, named))
            return error_set(err, ACCEL_EINVAL, "ACCEL_CREDENTIALS is too long");
        return 0;
    }
    if (config && config[0] == '/')
        snprintf(dir, sizeof(dir), "%s/accel/credentials", config);
    else
        snprintf(dir, sizeof(dir), "%s/.config/accel/credentials", home ? home : "");
    size_t count = look(dir, host, name, sizeof(name));
    int n = snprintf(path, size, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= size)
        return error_set(err, ACCEL_EINVAL, "%.200s: the path is too long", dir);
    if (count == 1)
        return 0;
    return error_set(err, ACCEL_ENOENT,
                     count ? "several credentials are in %.200s, and none is named %.64s.pem\n"
                             "try: ACCEL_CREDENTIALS=FILE"
                           : "there are no credentials in %.200s for %.64s\n"
                             "why: another machine wants to know who you are\n"
                             "try: an admin makes them: accelctl user cert NAME; save the file "
                             "there, mode 600",
                     dir, host);
}
