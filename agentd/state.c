/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state directory of a node. Numbers in it only grow: a file that cannot be read is an error
 * and never taken for an empty one. Neighbours: main.c, shell.c.
 */
#include "agentd/state.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/path.h"
#include "common/str.h"

#define NUMBER_FILE_BYTES 64u /* two decimal numbers fit */

static int file_path(const struct state *s, const char *name, char *path, size_t size,
                     struct accel_error *err)
{
    if ((size_t)snprintf(path, size, "%s/%s", s->dir, name) >= size)
        return error_set(err, ACCEL_EINVAL, "%s: the path is too long", s->dir);
    return 0;
}

/* "A\n" or "A B\n"; a missing file leaves zeros. */
static int read_numbers(const struct state *s, const char *name, uint64_t *ret_a, uint64_t *ret_b,
                        struct accel_error *err)
{
    char path[PATH_MAX];
    AUTO_FREE char *text = NULL;
    size_t len;
    uint64_t a, b = 0;
    int r = file_path(s, name, path, sizeof(path), err);
    if (r == 0)
        r = path_read_all(AT_FDCWD, path, NUMBER_FILE_BYTES, &text, &len, err);
    if (r < 0)
        return r == ACCEL_ENOENT ? 0 : r;
    text[strcspn(text, "\n")] = 0;
    char *space = strchr(text, ' ');
    if (space)
        *space = 0;
    if (parse_u64(text, 0, UINT64_MAX - 1, &a) < 0 ||
        (space && parse_u64(space + 1, 0, UINT64_MAX - 1, &b) < 0) || (space && !ret_b))
        return error_set(err, ACCEL_ECORRUPT,
                         "%s: it does not hold a number\n"
                         "try: look what happened to it; removing it lets this node obey "
                         "coordinators of the past",
                         path);
    *ret_a = a;
    if (ret_b)
        *ret_b = b;
    return 0;
}

static int write_numbers(const struct state *s, const char *name, const char *text,
                         struct accel_error *err)
{
    char path[PATH_MAX];
    int r = file_path(s, name, path, sizeof(path), err);
    if (r < 0)
        return r;
    return path_write_atomic(AT_FDCWD, path, text, strlen(text), 0600, true, err);
}

static int lock(struct state *s, struct accel_error *err)
{
    char path[PATH_MAX];
    int r = file_path(s, "lock", path, sizeof(path), err);
    if (r == 0)
        r = path_lock(path, false, &s->lock_fd, err);
    if (r == ACCEL_EBUSY)
        return error_set(err, ACCEL_EBUSY, "another acceld has the state directory %s", s->dir);
    return r;
}

int state_open(struct state *s, const char *dir, struct accel_error *err)
{
    char text[NUMBER_FILE_BYTES];
    *s = (struct state){.lock_fd = -1};
    if (!str_copy(s->dir, sizeof(s->dir), dir))
        return error_set(err, ACCEL_EINVAL, "%s: the path is too long", dir);
    int r = file_path(s, "attempts", s->attempts_dir, sizeof(s->attempts_dir), err);
    if (r == 0)
        r = path_make_private(s->dir, err);
    if (r == 0)
        r = lock(s, err);
    if (r == 0)
        r = path_make_private(s->attempts_dir, err);
    if (r == 0)
        r = read_numbers(s, "incarnation", &s->incarnation, NULL, err);
    if (r == 0)
        r = read_numbers(s, "seen", &s->seen_era, &s->seen_epoch, err);
    if (r == 0) {
        snprintf(text, sizeof(text), "%" PRIu64 "\n", ++s->incarnation);
        r = write_numbers(s, "incarnation", text, err);
    }
    if (r < 0)
        state_close(s);
    return r;
}

void state_close(struct state *s)
{
    base_close_fd(&s->lock_fd);
    s->lock_fd = -1;
}

int state_save_seen(struct state *s, uint64_t era, uint64_t epoch, struct accel_error *err)
{
    char text[NUMBER_FILE_BYTES];
    CHECK(era > s->seen_era || (era == s->seen_era && epoch > s->seen_epoch));
    snprintf(text, sizeof(text), "%" PRIu64 " %" PRIu64 "\n", era, epoch);
    int r = write_numbers(s, "seen", text, err);
    if (r < 0)
        return r;
    s->seen_era = era;
    s->seen_epoch = epoch;
    return 0;
}
