/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `--sync DIR`. The archive is tar's, because every machine has tar and everybody can look into it;
 * it is hashed while it is written and sent in parts, each of which may be repeated.
 */
#include "client/accelctl/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "accel/v1/files.pb-c.h"
#include "common/limits.h"

#define IGNORE_FILE   ".accelignore"
#define EXCLUDES_MAX  256u        /* --sync-exclude given this often; more is an error */
#define TELL_BYTES    (16u << 20) /* an upload larger than this is told of */
#define UPLOAD_ROUNDS 4u /* the coordinator forgot how far it was: restarted, or too many uploads  \
                          */

extern char **environ;

void sync_archive_done(struct sync_archive *archive)
{
    if (archive->fd >= 0)
        close(archive->fd);
    archive->fd = -1;
}

/* In $TMPDIR, without a name: nothing is left behind. */
static int open_unnamed(int *ret_fd, struct accel_error *err)
{
    const char *dir = getenv("TMPDIR");
    char path[PATH_MAX];

    dir = dir && dir[0] == '/' ? dir : "/tmp";
    *ret_fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (*ret_fd >= 0)
        return 0;
    snprintf(path, sizeof(path), "%.*s/accel-sync.XXXXXX", PATH_MAX - 32, dir);
    *ret_fd = mkostemp(path, O_CLOEXEC); /* a file system that has no unnamed ones */
    if (*ret_fd < 0)
        return error_sys(err, errno, "--sync: no file can be made in %s", dir);
    unlink(path);
    return 0;
}

static int spawn_tar(const char *dir, const char *const *excludes, size_t count, pid_t *ret_pid,
                     int *ret_fd, struct accel_error *err)
{
    static const char *const fixed[] = {"tar",
                                        "--create",
                                        "--file=-",
                                        "--format=gnu",
                                        "--sort=name",
                                        "--owner=0",
                                        "--group=0",
                                        "--numeric-owner",
                                        "--mtime=@0",
                                        "--exclude-vcs",
                                        "--exclude=__pycache__"};
    AUTO_STR struct str ignore = {0};
    const char *argv[ARRAY_LEN(fixed) + EXCLUDES_MAX + 5];
    char *owned[EXCLUDES_MAX];
    posix_spawn_file_actions_t actions;
    size_t n = 0;
    int fds[2];

    if (count > EXCLUDES_MAX)
        return error_set(err, ACCEL_EINVAL,
                         "--sync-exclude is given more than %u times\n"
                         "why: that is the most there may be\ntry: a file " IGNORE_FILE,
                         EXCLUDES_MAX);
    if (pipe2(fds, O_CLOEXEC) < 0)
        return error_sys(err, errno, "--sync: no pipe to tar");
    for (; n < ARRAY_LEN(fixed); n++)
        argv[n] = fixed[n];
    for (size_t i = 0; i < count; i++) {
        AUTO_STR struct str text = {0};
        str_init(&text);
        str_addf(&text, "--exclude=%s", excludes[i]);
        argv[n++] = owned[i] = str_steal(&text);
    }
    str_init(&ignore);
    str_addf(&ignore, "--exclude-from=%s/" IGNORE_FILE, dir);
    if (access(strchr(ignore.data, '=') + 1, R_OK) == 0)
        argv[n++] = ignore.data;
    argv[n++] = "--directory";
    argv[n++] = dir;
    argv[n++] = ".";
    argv[n] = NULL;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
    int sys = posix_spawnp(ret_pid, "tar", &actions, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    for (size_t i = 0; i < count; i++)
        free(owned[i]);
    close(fds[1]);
    if (sys == 0) {
        *ret_fd = fds[0];
        return 0;
    }
    close(fds[0]);
    return error_set(err, ACCEL_ENOENT, "--sync: tar cannot be run\nwhy: %s\ntry: apt install tar",
                     strerror(sys));
}

static int write_all(int fd, const uint8_t *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

static int copy_and_hash(int from, struct sync_archive *a, struct accel_error *err)
{
    AUTO_FREE uint8_t *buf = xcalloc(1, LIMIT_BLOB_CHUNK_BYTES);
    struct hash hash;

    hash_init(&hash);
    for (;;) {
        ssize_t n = read(from, buf, LIMIT_BLOB_CHUNK_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_sys(err, errno, "--sync: the archive cannot be read from tar");
        if (n == 0)
            break;
        a->size_bytes += (uint64_t)n;
        if (a->size_bytes > LIMIT_SYNC_BYTES)
            return error_set(err, ACCEL_EFULL,
                             "--sync %s: more than %llu MiB\nwhy: that is the most that travels "
                             "with a job\ntry: --sync-exclude PATTERN, or a path that the nodes "
                             "share, for data and checkpoints",
                             a->source, (unsigned long long)(LIMIT_SYNC_BYTES >> 20));
        hash_add(&hash, buf, (size_t)n);
        int sys = -write_all(a->fd, buf, (size_t)n);
        if (sys)
            return error_sys(err, sys,
                             "--sync: the archive cannot be written (TMPDIR names where)");
    }
    hash_end(&hash, a->hash);
    return 0;
}

/* 1 is "a file changed as we read it": what was read is what is sent. */
static int tar_result(pid_t pid, struct accel_error *err)
{
    int status = 0;

    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status) <= 1)
        return 0;
    return error_set(err, ACCEL_EIO,
                     "--sync: tar could not read all of it\n"
                     "why: see what it says above\n"
                     "try: --sync-exclude what may not be read");
}

int sync_pack(const char *dir, const char *const *excludes, size_t exclude_count,
              struct sync_archive *ret_archive, struct accel_error *err)
{
    struct sync_archive a = {.fd = -1};
    struct stat st;
    int from = -1;
    pid_t pid;

    if (!realpath(dir, a.source) || stat(a.source, &st) < 0)
        return error_set(err, ACCEL_EINVAL,
                         "--sync %s: not possible\nwhy: %s\ntry: ls, from this directory", dir,
                         strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return error_set(err, ACCEL_EINVAL,
                         "--sync %s: not possible\nwhy: it is not a directory\n"
                         "try: --sync with the directory it is in",
                         dir);
    int r = open_unnamed(&a.fd, err);
    if (r == 0)
        r = spawn_tar(a.source, excludes, exclude_count, &pid, &from, err);
    if (r == 0) {
        r = copy_and_hash(from, &a, err);
        close(from); /* tar, if it still writes, ends by it */
        struct accel_error tar_err = {0};
        int tar_r = tar_result(pid, &tar_err);
        if (r == 0 && tar_r < 0) {
            r = tar_r;
            *err = tar_err;
        }
    }
    if (r < 0)
        sync_archive_done(&a);
    else
        *ret_archive = a;
    return r;
}

/* --- sending --- */

static void on_reply(void *ctx, const ProtobufCMessage *msg)
{
    Accel__V1__FileReply *last = ctx;
    const Accel__V1__FileReply *reply = (const Accel__V1__FileReply *)msg;

    last->have_bytes = reply->have_bytes;
    last->is_complete = reply->is_complete;
}

static int send_part(struct session *session, const struct sync_archive *a, uint8_t *buf,
                     Accel__V1__FileReply *last, struct accel_error *err)
{
    Accel__V1__FilePutRequest put = ACCEL__V1__FILE_PUT_REQUEST__INIT;
    size_t want = (size_t)MIN(a->size_bytes - last->have_bytes, (uint64_t)LIMIT_BLOB_CHUNK_BYTES);
    ssize_t n = pread(a->fd, buf, want, (off_t)last->have_bytes);

    if (n < 0 || (size_t)n != want)
        return error_sys(err, n < 0 ? errno : EIO, "--sync: the archive cannot be read again");
    put.hash.data = (uint8_t *)a->hash;
    put.hash.len = HASH_BYTES;
    put.size_bytes = a->size_bytes;
    put.offset = last->have_bytes;
    put.data.data = buf;
    put.data.len = want;
    return session_call(session, "/accel.v1.Files/Put", &put.base,
                        &accel__v1__file_reply__descriptor, on_reply, last, err);
}

int sync_upload(struct session *session, const struct sync_archive *archive,
                struct accel_error *err)
{
    AUTO_FREE uint8_t *buf = xcalloc(1, LIMIT_BLOB_CHUNK_BYTES);
    Accel__V1__FileStatRequest stat_rq = ACCEL__V1__FILE_STAT_REQUEST__INIT;
    Accel__V1__FileReply last = ACCEL__V1__FILE_REPLY__INIT;
    unsigned rounds = 0;

    stat_rq.hash.data = (uint8_t *)archive->hash;
    stat_rq.hash.len = HASH_BYTES;
    int r = session_call(session, "/accel.v1.Files/Stat", &stat_rq.base,
                         &accel__v1__file_reply__descriptor, on_reply, &last, err);
    if (r == 0 && !last.is_complete && archive->size_bytes > TELL_BYTES)
        cli_say("sending %llu MiB of %s", (unsigned long long)(archive->size_bytes >> 20),
                archive->source);
    while (r == 0 && !last.is_complete) {
        uint64_t before = last.have_bytes;
        r = send_part(session, archive, buf, &last, err);
        if (r == 0 && !last.is_complete && last.have_bytes <= before && ++rounds == UPLOAD_ROUNDS)
            return error_set(err, ACCEL_EUNAVAIL,
                             "--sync: the coordinator forgets the upload\nwhy: it restarts, or too "
                             "many uploads are under way\ntry: again");
    }
    return r;
}
