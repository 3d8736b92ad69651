/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of an enrolment: STATE/tls, and STATE/tls.new in which a new one is made until it is
 * whole. Neighbours: join.c, join_renewal.c. It must not look into keys or certificates.
 *
 * `coordinator` is written last: a directory that has it is whole. The old one steps aside
 * (STATE/tls.old) and the new one takes its place by two renames; a start that finds them cut off
 * goes on with them, for the token of the new one is used up.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agentd/join_internal.h"
#include "agentd/remove.h"
#include "common/path.h"

static const char current[] = "tls", fresh[] = "tls.new", aside[] = "tls.old";

int join_path(const char *dir, const char *name, char *path, struct accel_error *err)
{
    if ((size_t)snprintf(path, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
        return error_set(err, ACCEL_EINVAL, "%s: the path is too long", dir);
    return 0;
}

int join_write(const char *dir, const char *name, const char *text, struct accel_error *err)
{
    char path[PATH_MAX];
    int r = join_path(dir, name, path, err);

    return r < 0 ? r : path_write_atomic(AT_FDCWD, path, text, strlen(text), 0600, true, err);
}

static int open_state(const char *state_dir, int *ret_fd, struct accel_error *err)
{
    *ret_fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret_fd < 0 ? error_sys(err, errno, "cannot open %s", state_dir) : 0;
}

static bool is_whole(int state_fd, const char *name)
{
    char path[32];

    snprintf(path, sizeof(path), "%s/coordinator", name);
    return faccessat(state_fd, path, F_OK, 0) == 0;
}

/* What `fresh` has is whole from here on, whatever happens. */
static int put_in_place(int state_fd, const char *state_dir, struct accel_error *err)
{
    remove_tree(state_fd, aside);
    if (renameat(state_fd, current, state_fd, aside) < 0 && errno != ENOENT)
        return error_sys(err, errno, "cannot move %s/%s aside", state_dir, current);
    if (renameat(state_fd, fresh, state_fd, current) < 0 || fsync(state_fd) < 0)
        return error_sys(err, errno, "cannot put %s/%s in its place", state_dir, fresh);
    remove_tree(state_fd, aside);
    return 0;
}

int join_recover(const char *state_dir, struct accel_error *err)
{
    AUTO_CLOSE int fd = -1;
    int r = open_state(state_dir, &fd, err);

    if (r < 0)
        return r;
    if (is_whole(fd, fresh))
        return put_in_place(fd, state_dir, err);
    remove_tree(fd, fresh);
    remove_tree(fd, aside);
    return 0;
}

int join_replace(const char *state_dir, const struct join_files *f, struct accel_error *err)
{
    AUTO_CLOSE int fd = -1;
    char dir[PATH_MAX];
    int r = join_path(state_dir, fresh, dir, err);

    if (r == 0)
        r = open_state(state_dir, &fd, err);
    if (r < 0)
        return r;
    remove_tree(fd, fresh);
    r = path_make_private(dir, err);
    if (r == 0)
        r = join_write(dir, "node.key", f->key_pem, err);
    if (r == 0)
        r = join_write(dir, "ca.pem", f->ca_pem, err);
    if (r == 0)
        r = join_write(dir, "node.pem", f->cert_pem, err);
    if (r == 0)
        r = join_write(dir, "token", f->token_hash, err);
    if (r == 0)
        r = join_write(dir, "coordinator", f->address, err);
    return r < 0 ? r : put_in_place(fd, state_dir, err);
}
