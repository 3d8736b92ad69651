/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shim_archive.c - unpacks what the job brings, with tar(1), as the job's user and inside its
 * limits. The tree appears under its name when it is whole, so a later attempt finds all of it or
 * nothing. The archive is the user's own: tar may do with it what the user may do. Neighbour:
 * spawn_archive.c, which opened both ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agentd/remove.h"
#include "agentd/shim_internal.h"
#include "common/str.h"

#define PART       "part" /* what an interrupted one has left */
#define TEXT_BYTES 512    /* of what tar says, kept for people */

static _Noreturn void run_tar(const struct shim_start *start, int part_fd, int said_fd)
{
    static char *const argv[] = {"tar", "--extract", "--no-same-owner", "--file=-", NULL};
    static char *const env[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", NULL};
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    umask(start->spec->umask & 0777);
    if (dup2(start->archive_fd, 0) < 0 || dup2(said_fd, 1) < 0 || dup2(said_fd, 2) < 0 ||
        lseek(0, 0, SEEK_SET) < 0 || fchdir(part_fd) < 0) {
        _exit(125);
    }
    close_range(3, ~0U, 0);
    static const char *const paths[] = {"/usr/bin/tar", "/bin/tar", "/usr/local/bin/tar"};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        execve(paths[i], argv, env);
    }
    dprintf(2, "tar cannot be run: %s", strerror(errno));
    _exit(127);
}

static bool extract(const struct shim_start *start, int part_fd, struct str *said)
{
    char buf[TEXT_BYTES];
    int fds[2];
    int status = 0;
    if (pipe2(fds, O_CLOEXEC) < 0) {
        str_addf(said, "no pipe: %s", strerror(errno));
        return false;
    }
    pid_t pid = fork();
    if (pid == 0) {
        run_tar(start, part_fd, fds[1]);
    }
    close(fds[1]);
    for (ssize_t n;
         pid > 0 && ((n = read(fds[0], buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR));) {
        if (n > 0 && said->len < TEXT_BYTES) {
            str_add(said, buf, MIN((size_t)n, TEXT_BYTES - said->len));
        }
    }
    close(fds[0]);
    if (pid < 0) {
        str_addf(said, "no process: %s", strerror(errno));
        return false;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    if (status != 0 && said->len == 0) {
        str_addf(said, "tar ended with status %d", status);
    }
    return status == 0;
}

bool shim_unpack(const struct shim_start *start, char **ret_error)
{
    AUTO_STR struct str said = {0};
    struct stat st;
    if (start->work_fd < 0 ||
        fstatat(start->work_fd, ARCHIVE_TREE, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        return true;
    }
    str_init(&said);
    remove_tree(start->work_fd, PART);
    bool is_made = mkdirat(start->work_fd, PART, 0700) == 0;
    AUTO_CLOSE int part_fd =
        is_made ? openat(start->work_fd, PART, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                : -1;
    if (part_fd < 0) {
        str_addf(&said, "no directory for it: %s", strerror(errno));
    } else if (extract(start, part_fd, &said)) {
        if (renameat(start->work_fd, PART, start->work_fd, ARCHIVE_TREE) == 0) {
            return true;
        }
        str_addf(&said, "it cannot get its name: %s", strerror(errno));
    }
    for (char *c = said.data; *c; c++) {
        *c = *c == '\n' && c[1] ? ';' : *c == '\n' ? 0 : *c;
    }
    AUTO_STR struct str text = {0};
    str_init(&text);
    str_addf(&text, "the directory that the job brings cannot be unpacked: %s", said.data);
    *ret_error = str_steal(&text);
    return false;
}
