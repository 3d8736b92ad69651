/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading small files of sysfs, whichever root it has. Neighbours: device_tpu.c, device_amd.c. It
 * must not know what the files mean.
 */
#include "agentd/device_sysfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/path.h"

const char *sysfs_root(void)
{
    const char *root = getenv("ACCEL_SYSFS_ROOT");
    return root && root[0] == '/' ? root : "/sys";
}

const char *sysfs_dev_root(void)
{
    const char *root = getenv("ACCEL_DEV_ROOT");
    return root && root[0] == '/' ? root : "/dev";
}

#define FORMAT_PATH(path, fmt)                                                                     \
    __extension__({                                                                                \
        va_list args_;                                                                             \
        va_start(args_, fmt);                                                                      \
        int n_ = vsnprintf(path, sizeof(path), fmt, args_);                                        \
        va_end(args_);                                                                             \
        n_ > 0 && (size_t)n_ < sizeof(path);                                                       \
    })

static char *read_text(struct arena *a, const char *path)
{
    AUTO_FREE char *text = NULL;
    size_t len;
    if (path_read_all(AT_FDCWD, path, SYSFS_FILE_BYTES, &text, &len, NULL) < 0)
        return NULL;
    while (len > 0 && (unsigned char)text[len - 1] <= ' ')
        text[--len] = 0;
    return arena_strdup(a, text);
}

char *sysfs_text(struct arena *a, const char *fmt, ...)
{
    char path[PATH_MAX];
    return FORMAT_PATH(path, fmt) ? read_text(a, path) : NULL;
}

long long sysfs_number(long long otherwise, const char *fmt, ...)
{
    char path[PATH_MAX];
    AUTO_FREE char *text = NULL;
    size_t len;
    if (!FORMAT_PATH(path, fmt) ||
        path_read_all(AT_FDCWD, path, SYSFS_FILE_BYTES, &text, &len, NULL) < 0)
        return otherwise;
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 0);
    return end == text || errno ? otherwise : value;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

size_t sysfs_names(struct arena *a, char ***ret_names, const char *fmt, ...)
{
    char path[PATH_MAX];
    size_t count = 0, cap = 0;
    char **names = NULL;
    DIR *dir = FORMAT_PATH(path, fmt) ? opendir(path) : NULL;
    *ret_names = NULL;
    if (!dir)
        return 0;
    for (struct dirent *e; count < SYSFS_ENTRIES_MAX && (e = readdir(dir));) {
        if (e->d_name[0] == '.')
            continue;
        if (count == cap) {
            cap = cap ? cap * 2 : 32;
            names = xrealloc(names, cap * sizeof(*names));
        }
        names[count++] = arena_strdup(a, e->d_name);
    }
    closedir(dir);
    if (count) {
        qsort(names, count, sizeof(*names), compare_names);
        *ret_names = arena_dup(a, names, count * sizeof(*names));
    }
    free(names);
    return count;
}

char *sysfs_link_name(struct arena *a, const char *fmt, ...)
{
    char path[PATH_MAX], target[PATH_MAX];
    ssize_t len = FORMAT_PATH(path, fmt) ? readlink(path, target, sizeof(target) - 1) : -1;
    target[len < 0 ? 0 : len] = 0;
    const char *slash = strrchr(target, '/');
    return arena_strdup(a, slash ? slash + 1 : target);
}

bool sysfs_exists(const char *fmt, ...)
{
    char path[PATH_MAX];
    return FORMAT_PATH(path, fmt) && access(path, F_OK) == 0;
}
