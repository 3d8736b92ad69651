/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One stream in its segments. The shim may drop a segment between any two calls here, so what is
 * missing is looked for again instead of being remembered. Neighbours: output.c; shim_output.c,
 * which writes what this reads.
 */
#include "agentd/output_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/str.h"

#define SEGMENT_BYTES    ((uint64_t)LIMIT_OUTPUT_SEGMENT_BYTES)
#define TAIL_BLOCK_BYTES 65536u /* of the search backwards */
#define NO_SEGMENT       UINT64_MAX

struct stream {
    int dir_fd;
    char name[32]; /* "R.out", which is segment 0 */
};

static struct stream stream_of(int dir_fd, uint32_t rank, bool is_stderr)
{
    struct stream s = {.dir_fd = dir_fd};
    snprintf(s.name, sizeof(s.name), "%" PRIu32 ".%s", rank, is_stderr ? "err" : "out");
    return s;
}

/* 0 with *ret_fd -1 when there is no such segment. */
static int open_segment(const struct stream *s, uint64_t segment, int *ret_fd,
                        struct accel_error *err)
{
    char name[64];
    if (segment == 0)
        snprintf(name, sizeof(name), "%s", s->name);
    else
        snprintf(name, sizeof(name), "%s.%" PRIu64, s->name, segment);
    /* The directory is the job's user's, who may have put a pipe here: nobody waits for it. */
    AUTO_CLOSE int fd =
        openat(s->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && errno != ENOENT)
        return error_sys(err, errno, "opening %s", name);
    struct stat st, dir;
    if (fd >= 0 && (fstat(fd, &st) < 0 || fstat(s->dir_fd, &dir) < 0))
        return error_sys(err, errno, "looking at %s", name);
    if (fd >= 0 &&
        (!S_ISREG(st.st_mode) || st.st_uid != dir.st_uid)) /* a link to what is another's */
        return error_set(err, ACCEL_ESTATE,
                         "the output in %s is gone\nwhy: the job put something else in its place",
                         name);
    *ret_fd = STEAL_FD(fd);
    return 0;
}

/* The lowest segment of at least `from` (is_last: the highest of all) that exists, or
 * NO_SEGMENT. */
static int find_segment(const struct stream *s, uint64_t from, bool is_last, uint64_t *ret_segment,
                        struct accel_error *err)
{
    int fd = openat(s->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int sys = errno;
        base_close_fd(&fd);
        return error_sys(err, sys, "listing an attempt's directory");
    }
    size_t len = strlen(s->name);
    uint64_t best = NO_SEGMENT;
    for (struct dirent *e; (e = readdir(dir));) {
        uint64_t segment = 0;
        if (strncmp(e->d_name, s->name, len) != 0)
            continue;
        if (e->d_name[len] && (e->d_name[len] != '.' ||
                               parse_u64(e->d_name + len + 1, 1, NO_SEGMENT - 1, &segment) < 0))
            continue;
        if (segment >= from && (best == NO_SEGMENT || (is_last ? segment > best : segment < best)))
            best = segment;
    }
    closedir(dir);
    *ret_segment = best;
    return 0;
}

static int read_at(int fd, void *to, size_t len, uint64_t offset, size_t *ret_len,
                   struct accel_error *err)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = pread(fd, (char *)to + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_sys(err, errno, "reading output");
        if (n == 0)
            break;
        done += (size_t)n;
    }
    *ret_len = done;
    return 0;
}

int output_file_read(int dir_fd, uint32_t rank, bool is_stderr, size_t limit,
                     struct output_piece *piece, struct accel_error *err)
{
    struct stream s = stream_of(dir_fd, rank, is_stderr);
    struct output_piece got = {.offset = piece->offset, .data = piece->data};
    CHECK(limit > 0);
    while (got.len < limit) {
        uint64_t at = got.offset + got.len;
        uint64_t segment = at / SEGMENT_BYTES;
        AUTO_CLOSE int fd = -1;
        int r = open_segment(&s, segment, &fd, err);
        if (r < 0)
            return r;
        if (fd < 0) {
            uint64_t next;
            r = find_segment(&s, segment, false, &next, err);
            if (r < 0)
                return r;
            if (next == NO_SEGMENT)
                got.is_end = true;
            if (next == NO_SEGMENT || got.len)
                break; /* a cut after data is the next read's */
            if (next > segment) {
                got.cut_bytes += next * SEGMENT_BYTES - at;
                got.offset = next * SEGMENT_BYTES;
            }
            continue;
        }
        /* Not beyond the segment: what follows in segment 0 is the shim's mark of a cut. */
        size_t want = (size_t)MIN(limit - got.len, SEGMENT_BYTES - at % SEGMENT_BYTES);
        size_t n = 0;
        r = read_at(fd, got.data + got.len, want, at % SEGMENT_BYTES, &n, err);
        if (r < 0)
            return r;
        got.len += n;
        if (n < want) {
            got.is_end = true;
            break;
        }
    }
    *piece = got;
    return 0;
}

/* ---- the last lines ---- */

/* Where the stream ends now: the last segment and its length in bytes. */
static int find_end(const struct stream *s, uint64_t *ret_segment, uint64_t *ret_len,
                    struct accel_error *err)
{
    AUTO_CLOSE int fd = -1;
    uint64_t segment;
    struct stat st;
    int r = find_segment(s, 0, true, &segment, err);
    if (r < 0)
        return r;
    *ret_segment = segment == NO_SEGMENT ? 0 : segment;
    *ret_len = 0;
    r = open_segment(s, *ret_segment, &fd, err);
    if (r < 0 || fd < 0)
        return r;
    if (fstat(fd, &st) < 0)
        return error_sys(err, errno, "reading output");
    *ret_len = MIN((uint64_t)st.st_size, SEGMENT_BYTES);
    return 0;
}

struct search {
    uint64_t lines;    /* newlines still to be found */
    uint64_t offset;   /* how far back it has come */
    bool is_last_byte; /* the very last byte ends a line and begins none */
};

/* Goes back through one segment; true when all newlines are found. */
static int search_segment(int fd, uint64_t base, uint64_t len, struct search *f, bool *ret_found,
                          struct accel_error *err)
{
    AUTO_FREE char *block = xcalloc(1, TAIL_BLOCK_BYTES);
    *ret_found = false;
    while (len > 0) {
        size_t want = (size_t)MIN(len, TAIL_BLOCK_BYTES);
        size_t n = 0;
        int r = read_at(fd, block, want, len - want, &n, err);
        if (r < 0)
            return r;
        for (size_t i = n; i-- > 0;) {
            bool is_counted = block[i] == '\n' && !f->is_last_byte;
            f->is_last_byte = false;
            if (is_counted && --f->lines == 0) {
                f->offset = base + len - want + i + 1;
                *ret_found = true;
                return 0;
            }
        }
        len -= want;
        f->offset = base + len;
    }
    return 0;
}

int output_file_tail(int dir_fd, uint32_t rank, bool is_stderr, uint64_t lines,
                     uint64_t *ret_offset, struct accel_error *err)
{
    struct stream s = stream_of(dir_fd, rank, is_stderr);
    uint64_t segment, len;
    int r = find_end(&s, &segment, &len, err);
    if (r < 0)
        return r;
    struct search f = {
        .lines = lines, .offset = segment * SEGMENT_BYTES + len, .is_last_byte = true};
    for (bool found = lines == 0; !found; segment--, len = SEGMENT_BYTES) {
        AUTO_CLOSE int fd = -1;
        r = open_segment(&s, segment, &fd, err);
        if (r < 0)
            return r;
        if (fd < 0)
            break; /* cut here, or nothing was written at all */
        r = search_segment(fd, segment * SEGMENT_BYTES, len, &f, &found, err);
        if (r < 0)
            return r;
        if (segment == 0)
            break;
    }
    *ret_offset = f.offset;
    return 0;
}
