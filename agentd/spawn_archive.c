/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spawn_archive.c - opens the archive that a job brings and the directory that it goes into, with
 * the rights of accel-spawn. acceld names the archive and is not trusted blindly: only a plain file
 * of its own, directly in the directory where it keeps such files, is opened. Neighbour:
 * shim_archive.c, which unpacks as the job's user.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agentd/spawn_internal.h"

#define NAME_CHARS "0123456789abcdef."

static int open_archive(const struct spawn *sp, const char *name, int *ret_fd,
                        struct accel_error *err)
{
    AUTO_CLOSE int dir_fd =
        openat(sp->dir_fd, "../" ARCHIVE_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (name[0] == '.' || name[strspn(name, NAME_CHARS)] != 0) {
        return error_set(err, ACCEL_EINVAL, "that is no name of an archive");
    }
    if (dir_fd < 0) {
        return error_sys(err, errno, "%s/../" ARCHIVE_DIR, sp->dir);
    }
    AUTO_CLOSE int fd =
        openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        return error_sys(err, errno, "the archive that the job brings");
    }
    uid_t owner = sp->rules.is_switching ? sp->rules.agent_uid : geteuid();
    if (!S_ISREG(st.st_mode) || st.st_uid != owner || st.st_nlink != 1) {
        return error_set(err, ACCEL_EPERM, "the archive that the job brings is not acceld's own");
    }
    *ret_fd = STEAL_FD(fd);
    return 0;
}

/* JOB.work belongs to the job's user; only we make names in the directory that holds it. */
static int open_work(const struct spawn *sp, uint64_t job_id, const struct identity *id,
                     int *ret_fd, struct accel_error *err)
{
    char name[40];
    snprintf(name, sizeof(name), "%" PRIu64 "." ARCHIVE_WORK_SUFFIX, job_id);
    bool is_new = mkdirat(sp->dir_fd, name, 0700) == 0;
    if (!is_new && errno != EEXIST) {
        return error_sys(err, errno, "cannot make directory %s/%s", sp->dir, name);
    }
    AUTO_CLOSE int fd = openat(sp->dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return error_sys(err, errno, "cannot open directory %s/%s", sp->dir, name);
    }
    if (is_new && id->is_switched && fchown(fd, id->uid, id->gid) < 0) {
        return error_sys(err, errno, "cannot give directory %s/%s to the job's user", sp->dir,
                         name);
    }
    *ret_fd = STEAL_FD(fd);
    return 0;
}

int spawn_archive_open(struct spawn *sp, const Accel__V1__AttemptSpec *spec,
                       const struct identity *id, int *ret_archive_fd, int *ret_work_fd,
                       struct accel_error *err)
{
    if (spec->archive[0] == 0) {
        return 0;
    }
    int r = open_archive(sp, spec->archive, ret_archive_fd, err);
    if (r == 0) {
        r = open_work(sp, spec->job_id, id, ret_work_fd, err);
    }
    return r;
}
