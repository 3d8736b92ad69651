/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the ranks' pipes to files: segments with a cap, a copy where the user asked for one, the
 * last bytes of stderr in memory. shim.h describes the files. A write that fails loses data, never
 * time: it is counted and the loss is told in the stream as soon as writing works again. Memory
 * per rank is bounded by the tail; one read buffer serves all.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agentd/shim_internal.h"

#define SEGMENT ((uint64_t)LIMIT_OUTPUT_SEGMENT_BYTES)
#define DRAIN_BYTES                                                                                \
    (4u << 20) /* more than a pipe can be made to hold by default (1 MiB): who                     \
                                    still writes then is no process of ours */
#define MARK_BYTES 160

static void segment_name(const struct shim_rank *k, size_t which, uint32_t segment, char *name,
                         size_t size)
{
    const char *suffix = which == 0 ? "out" : "err";
    if (segment == 0) {
        snprintf(name, size, "%u.%s", k->spec->rank, suffix);
    } else {
        snprintf(name, size, "%u.%s.%u", k->spec->rank, suffix, segment);
    }
}

static int segment_create(struct shim *s, const struct shim_rank *k, size_t which, uint32_t segment)
{
    char name[48];
    segment_name(k, which, segment, name, sizeof(name));
    int fd =
        openat(s->dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
               s->start->file_mode);
    return fd < 0 ? -errno : fd;
}

/* Makes room for segment `next`: the mark first, so that nobody finds a hole unexplained. */
static void rotate(struct shim *s, struct shim_rank *k, size_t which, uint32_t next)
{
    struct shim_stream *st = &k->streams[which];
    const uint32_t kept = LIMIT_OUTPUT_SEGMENTS - 1; /* above 0 */
    char name[48];
    if (next < st->oldest + kept) {
        return;
    }
    uint32_t oldest = next - kept + 1;
    char mark[MARK_BYTES];
    int len = snprintf(mark, sizeof(mark),
                       "\n[accel: output from byte %" PRIu64 " to byte %" PRIu64 " was cut]\n",
                       SEGMENT, oldest * SEGMENT);
    segment_name(k, which, 0, name, sizeof(name));
    AUTO_CLOSE int fd = openat(s->dir_fd, name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0) {
        /* A full disk takes no mark; the missing segments tell the same. */
        (void)!pwrite(fd, mark, (size_t)len, (off_t)SEGMENT);
    }
    for (; st->oldest < oldest; st->oldest++) {
        segment_name(k, which, st->oldest, name, sizeof(name));
        unlinkat(s->dir_fd, name, 0);
    }
}

/* Writes the beginning of data to the place where the stream stands; how much, or -errno. */
static ssize_t segment_write(struct shim *s, struct shim_rank *k, size_t which, const char *data,
                             size_t len)
{
    struct shim_stream *st = &k->streams[which];
    uint32_t segment = (uint32_t)(st->bytes / SEGMENT);
    uint64_t at = st->bytes % SEGMENT;
    if (st->file_fd < 0 || st->segment != segment) {
        if (segment > 0) {
            rotate(s, k, which, segment);
        }
        int fd = segment_create(s, k, which, segment);
        if (fd < 0) {
            return fd;
        }
        base_close_fd(&st->file_fd);
        st->file_fd = fd;
        st->segment = segment;
    }
    ssize_t n;
    do {
        n = pwrite(st->file_fd, data, (size_t)MIN((uint64_t)len, SEGMENT - at), (off_t)at);
    } while (n < 0 && errno == EINTR);
    if (n <= 0) {
        return n < 0 ? -errno : -ENOSPC;
    }
    st->bytes += (uint64_t)n;
    s->changes += (uint64_t)n;
    return n;
}

/* 0, or -errno with what was not written in *ret_left. */
static int write_segments(struct shim *s, struct shim_rank *k, size_t which, const char *data,
                          size_t len, size_t *ret_left)
{
    while (len > 0) {
        ssize_t n = segment_write(s, k, which, data, len);
        if (n < 0) {
            *ret_left = len;
            return (int)n;
        }
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

static size_t loss_mark(const struct shim_loss *loss, char *mark)
{
    int len = snprintf(mark, MARK_BYTES, "\n[accel: %" PRIu64 " bytes of output were lost: %s]\n",
                       loss->bytes, strerror(loss->sys));
    return MIN((size_t)len, (size_t)MARK_BYTES - 1);
}

static void record(struct shim *s, struct shim_rank *k, size_t which, const char *data, size_t len)
{
    struct shim_stream *st = &k->streams[which];
    size_t left = len;
    int r = 0;
    if (st->loss.bytes > 0) {
        char mark[MARK_BYTES];
        size_t mark_left = 0;
        size_t mark_len = loss_mark(&st->loss, mark);
        r = write_segments(s, k, which, mark, mark_len, &mark_left);
        if (r == 0) {
            st->loss = (struct shim_loss){0};
        }
    }
    if (r == 0) {
        r = write_segments(s, k, which, data, len, &left);
    }
    if (r < 0) {
        st->loss.bytes += left;
        st->loss.sys = -r;
    }
}

/* 0 or -errno with what was not written in *ret_left. */
static int write_copy(int fd, const char *data, size_t len, size_t *ret_left)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            *ret_left = len;
            return n < 0 ? -errno : -ENOSPC;
        }
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

static void copy(struct shim_rank *k, const char *data, size_t len)
{
    size_t left = len;
    int r = 0;
    if (k->copy_loss.bytes > 0) {
        char mark[MARK_BYTES];
        size_t mark_left = 0;
        r = write_copy(k->copy_fd, mark, loss_mark(&k->copy_loss, mark), &mark_left);
        if (r == 0) {
            k->copy_loss = (struct shim_loss){0};
        }
    }
    if (r == 0) {
        r = write_copy(k->copy_fd, data, len, &left);
    }
    if (r < 0) {
        k->copy_loss.bytes += left;
        k->copy_loss.sys = -r;
    }
}

static void keep_tail(struct shim_rank *k, const char *data, size_t len)
{
    const size_t room = LIMIT_STDERR_TAIL_BYTES;
    if (k->tail == NULL) {
        k->tail = malloc(room);
        if (k->tail == NULL) {
            return;
        }
    }
    if (len >= room) {
        memcpy(k->tail, data + len - room, room);
        k->tail_len = room;
        return;
    }
    if (k->tail_len + len > room) {
        size_t drop = k->tail_len + len - room;
        memmove(k->tail, k->tail + drop, k->tail_len - drop);
        k->tail_len -= drop;
    }
    memcpy(k->tail + k->tail_len, data, len);
    k->tail_len += len;
}

static void close_stream(struct shim *s, struct shim_stream *st)
{
    if (st->fd >= 0) {
        close(st->fd);
        st->fd = -1;
        s->changes++;
        wire_output_changed(s);
    }
}

/* Reads once: bytes, 0 at the end (then it is closed), -1: nothing there now. */
static ssize_t read_stream(struct shim *s, struct shim_rank *k, size_t which)
{
    static char buf[SHIM_READ_BYTES];
    struct shim_stream *st = &k->streams[which];
    if (st->fd < 0) {
        return 0;
    }
    ssize_t n = read(st->fd, buf, sizeof(buf));
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return -1;
    }
    if (n <= 0) {
        close_stream(s, st);
        return 0;
    }
    if (which == 1) {
        keep_tail(k, buf, (size_t)n);
    }
    record(s, k, which, buf, (size_t)n);
    if (k->copy_fd >= 0) {
        copy(k, buf, (size_t)n);
    }
    wire_output_changed(s);
    return n;
}

void output_on_readable(struct shim *s, size_t index)
{
    if (index / 2 < s->rank_count) {
        read_stream(s, &s->ranks[index / 2], index % 2);
    }
}

void output_drain(struct shim *s, struct shim_rank *k)
{
    for (size_t which = 0; which < 2; which++) {
        size_t total = 0;
        ssize_t n;
        while (total < DRAIN_BYTES && (n = read_stream(s, k, which)) > 0) {
            total += (size_t)n;
        }
    }
}

void output_close(struct shim *s, struct shim_rank *k)
{
    for (size_t which = 0; which < 2; which++) {
        struct shim_stream *st = &k->streams[which];
        if (st->loss.bytes > 0) {
            record(s, k, which, NULL, 0); /* the mark alone, if it fits by now */
        }
        close_stream(s, st);
        base_close_fd(&st->file_fd);
        st->file_fd = -1;
    }
    if (k->copy_fd >= 0) {
        if (k->copy_loss.bytes > 0) {
            copy(k, NULL, 0);
        }
        close(k->copy_fd);
        k->copy_fd = -1;
    }
}

static int open_copy(struct shim *s, struct shim_rank *k)
{
    AUTO_STR struct str path = {0};
    AUTO_STR struct str text = {0};
    str_init(&path);
    str_init(&text);
    str_add(&path, k->spec->output_file.data, k->spec->output_file.len);
    /* As the job would. O_NONBLOCK: a pipe that nobody reads is an error, not a reason to wait. */
    mode_t own = umask((mode_t)s->spec->umask & 0777);
    k->copy_fd =
        open(path.data, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    int sys = errno;
    umask(own);
    if (k->copy_fd >= 0) {
        return 0;
    }
    str_adds(&text, "cannot open the output file ");
    str_add_shell_quoted(&text, path.data, path.len);
    str_addf(&text, ": %s", strerror(sys));
    k->error = str_steal(&text);
    return -sys;
}

int output_open_copy(struct shim *s, struct shim_rank *k)
{
    return k->spec->output_file.len > 0 ? open_copy(s, k) : 0;
}
