/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accelctl without the loader of accel-grpc.so: a static program has no dlopen. Who asks for the
 * module makes it become accelctl-remote, the same program with the loader, from its beginning; so
 * a verb asks before it has read, written or sent anything. Linked into accelctl alone, before
 * common/remote.c, whose place it takes.
 */
#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/accelctl/cli.h"
#include "common/remote.h"

#define NAME "accelctl-remote"

/* libuv refers to it for a function that nobody here calls; the C library's own would load what a
 * static program must not. */
int getpwuid_r(uid_t uid, struct passwd *pw, char *buf, size_t size, struct passwd **ret_found)
{
    (void)uid, (void)pw, (void)buf, (void)size;
    *ret_found = NULL;
    return ENOSYS;
}

int remote_load(const struct remote_ops **ret_ops, struct accel_error *err)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - sizeof(NAME));
    (void)ret_ops;
    if (n < 0)
        return error_sys(err, errno, "cannot tell where this program is");
    path[n] = 0;
    char *name = strrchr(path, '/');
    memcpy(name ? name + 1 : path, NAME, sizeof(NAME));
    execv(path, cli_argv);
    return error_set(err, errno == ENOENT ? ACCEL_ENOENT : ACCEL_EIO,
                     "cannot speak to other machines\nwhy: %.300s: %s\n"
                     "try: install it beside accelctl, or use a coordinator on this host "
                     "(unix:PATH)",
                     path, strerror(errno));
}
