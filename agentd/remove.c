/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Removing directories by descriptors only, never by a path of more than one name: nobody who owns
 * a part of the tree can lead this elsewhere. Used by acceld for its own, by accel-spawn for
 * users'.
 */
#include "agentd/remove.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define REMOVE_DEPTH 64u /* directories in directories; one more and they stay */

/* Empties a directory (owned here); ranks may have made others in it. Returns whether all went. */
static bool remove_entries(int dir_fd, unsigned depth)
{
    DIR *dir = depth < REMOVE_DEPTH ? fdopendir(dir_fd) : NULL;
    bool is_empty = dir != NULL;
    struct dirent *e;
    if (dir == NULL) {
        base_close_fd(&dir_fd);
        return false;
    }
    while ((e = readdir(dir)) != NULL) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            unlinkat(dir_fd, e->d_name, 0) == 0) {
            continue;
        }
        int fd = openat(dir_fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        bool is_gone = fd >= 0 && remove_entries(fd, depth + 1) &&
                       unlinkat(dir_fd, e->d_name, AT_REMOVEDIR) == 0;
        is_empty = is_empty && is_gone;
    }
    closedir(dir);
    return is_empty;
}

bool remove_tree(int dir_fd, const char *name)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT;
    }
    return remove_entries(fd, 0) && unlinkat(dir_fd, name, AT_REMOVEDIR) == 0;
}
