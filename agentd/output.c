/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads of output: what can be answered now is answered from the files, what has to wait is parked
 * with its attempt. Neighbours: output_file.c, which knows the segments of a stream; shell.c. It
 * must not write anything in an attempt's directory.
 */
#include "agentd/output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#define uthash_fatal(msg) base_check_failed(msg, __FILE__, __LINE__)
#include <uthash.h>

#include "agentd/output_file.h"
#include "common/arena.h"
#include "common/codec.h"
#include "common/limits.h"
#include "common/path.h"

#define CURSORS_MAX (2 * LIMIT_PROCS_PER_NODE)

struct attempt_key { /* without padding: hashed as bytes */
    uint64_t job_id, attempt;
};
struct cursor {
    uint32_t rank;
    bool is_stderr;
    uint64_t offset, tail_lines;
};
struct read {
    uint64_t id;
    struct attempt_key key;
    struct cursor *cursors; /* NULL: all ranks, which are not known before there is a spec */
    size_t cursor_count;
    uint32_t max_bytes;
    bool is_waiting;
    LIST_ENTRY(read) of_attempt;
    UT_hash_handle hh;
};
struct live {
    struct attempt_key key;
    bool is_watched; /* the shim will tell */
    LIST_HEAD(, read) parked;
    UT_hash_handle hh;
};
struct output {
    char *attempts_dir, *node_name;
    struct launcher *launcher;
    void (*reply)(void *ctx, const Accel__V1__LogData *msg);
    void *ctx;
    struct live *live;
    struct read *reads; /* parked ones, by id */
};

static struct live *find_live(const struct output *o, struct attempt_key key)
{
    struct live *l = NULL;
    HASH_FIND(hh, o->live, &key, sizeof(key), l);
    return l;
}

static struct attempt_key key_of(struct attempt_id id)
{
    return (struct attempt_key){id.job_id, id.attempt};
}

static void reply_error(struct output *o, uint64_t id, int code, const char *text)
{
    Accel__V1__LogData msg = ACCEL__V1__LOG_DATA__INIT;
    msg.id = id;
    msg.code = accel_error_to_grpc(code);
    msg.text = (char *)text;
    o->reply(o->ctx, &msg);
}

/* ---- which streams ---- */

static void set_cursors_of_ranks(struct read *rd, const uint32_t *ranks, size_t count)
{
    rd->cursors = xcalloc(2 * count + 1, sizeof(*rd->cursors));
    for (size_t i = 0; i < count; i++) {
        rd->cursors[rd->cursor_count++] = (struct cursor){.rank = ranks[i]};
        rd->cursors[rd->cursor_count++] = (struct cursor){.rank = ranks[i], .is_stderr = true};
    }
}

/* All ranks of this node, by the attempt's spec. ENOENT is no error here: not started yet. */
static int set_cursors_of_spec(struct read *rd, int dir_fd, struct accel_error *err)
{
    AUTO_FREE char *data = NULL;
    size_t len;
    int r = path_read_all(dir_fd, "spec", LIMIT_SHIM_FRAME_BYTES, &data, &len, err);
    if (r < 0)
        return r == ACCEL_ENOENT ? 0 : r;
    Accel__V1__AttemptSpec *spec =
        accel__v1__attempt_spec__unpack(&codec_memory, len, (const uint8_t *)data);
    if (!spec || spec->n_ranks > LIMIT_PROCS_PER_NODE) {
        accel__v1__attempt_spec__free_unpacked(spec, NULL);
        return error_set(err, ACCEL_ECORRUPT, "the attempt's spec cannot be read");
    }
    AUTO_FREE uint32_t *ranks = xcalloc(spec->n_ranks + 1, sizeof(*ranks));
    for (size_t i = 0; i < spec->n_ranks; i++)
        ranks[i] = spec->ranks[i]->rank;
    set_cursors_of_ranks(rd, ranks, spec->n_ranks);
    accel__v1__attempt_spec__free_unpacked(spec, NULL);
    return 0;
}

static struct read *read_create(const Accel__V1__LogRead *msg)
{
    const Accel__V1__LogReadRequest *q = msg->request;
    struct read *rd = xcalloc(1, sizeof(*rd));
    rd->id = msg->id;
    rd->key = (struct attempt_key){q->job_id, msg->attempt};
    rd->is_waiting = q->wait;
    rd->max_bytes = q->max_bytes ? MIN(q->max_bytes, LIMIT_LOG_CHUNK_BYTES) : LIMIT_LOG_CHUNK_BYTES;
    if (q->n_cursors) {
        rd->cursors = xcalloc(q->n_cursors, sizeof(*rd->cursors));
        for (size_t i = 0; i < q->n_cursors; i++)
            rd->cursors[rd->cursor_count++] = (struct cursor){
                .rank = q->cursors[i]->rank,
                .is_stderr = q->cursors[i]->stream == ACCEL__V1__LOG_CURSOR__STREAM__STDERR,
                .offset = q->cursors[i]->offset,
                .tail_lines = q->cursors[i]->offset ? 0 : q->cursors[i]->tail_lines,
            };
    } else if (q->n_ranks) {
        set_cursors_of_ranks(rd, q->ranks, q->n_ranks);
    }
    return rd;
}

static void read_free(struct read *rd)
{
    free(rd->cursors);
    free(rd);
}

/* ---- answering ---- */

struct answer {
    struct arena arena;
    Accel__V1__LogReadReply reply;
    Accel__V1__LogChunk **chunks;
    uint8_t *room; /* for what may still be read */
    size_t left;   /* bytes of it */
    bool has_something;
    size_t ends; /* cursors at their end */
};

static int read_cursor(int dir_fd, struct cursor *c, size_t limit, bool is_gone, struct answer *ans,
                       struct accel_error *err)
{
    if (c->tail_lines) { /* resolved once: while it waits the end moves on */
        int r = output_file_tail(dir_fd, c->rank, c->is_stderr, c->tail_lines, &c->offset, err);
        if (r < 0)
            return r;
        c->tail_lines = 0;
    }
    struct output_piece piece = {.offset = c->offset, .data = ans->room};
    int r = output_file_read(dir_fd, c->rank, c->is_stderr, limit, &piece, err);
    if (r < 0)
        return r;
    bool is_eof = is_gone && piece.is_end;
    ans->room += piece.len;
    ans->left -= piece.len;
    ans->ends += is_eof;
    if (piece.len == 0 && piece.cut_bytes == 0 && !is_eof)
        return 0;
    Accel__V1__LogChunk *chunk = ARENA_NEW(&ans->arena, Accel__V1__LogChunk);
    accel__v1__log_chunk__init(chunk);
    chunk->rank = c->rank;
    chunk->stream = c->is_stderr ? ACCEL__V1__LOG_CURSOR__STREAM__STDERR
                                 : ACCEL__V1__LOG_CURSOR__STREAM__STDOUT;
    chunk->offset = piece.offset;
    chunk->data = (ProtobufCBinaryData){piece.len, piece.data};
    chunk->eof = is_eof;
    chunk->cut_bytes = piece.cut_bytes;
    ans->chunks[ans->reply.n_chunks++] = chunk;
    ans->has_something = true;
    return 0;
}

/* Reads every cursor; each gets an even share of what is left. */
static int read_all(struct read *rd, int dir_fd, bool is_gone, struct answer *ans,
                    struct accel_error *err)
{
    ans->left = rd->max_bytes;
    ans->room = arena_alloc(&ans->arena, ans->left);
    ans->chunks = ARENA_ARRAY(&ans->arena, Accel__V1__LogChunk *, rd->cursor_count + 1);
    for (size_t i = 0; i < rd->cursor_count && ans->left > 0; i++) {
        size_t share = ans->left / (rd->cursor_count - i);
        int r = read_cursor(dir_fd, &rd->cursors[i], MAX(share, 1), is_gone, ans, err);
        if (r < 0)
            return r;
    }
    ans->reply.chunks = ans->chunks;
    ans->reply.ended = is_gone && ans->ends == rd->cursor_count;
    return 0;
}

static int open_attempt(const struct output *o, struct attempt_key key, int *ret_fd)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s/%" PRIu64 ".%" PRIu64, o->attempts_dir, key.job_id,
                     key.attempt);
    if (n < 0 || (size_t)n >= sizeof(path))
        return ENAMETOOLONG;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno;
    *ret_fd = fd;
    return 0;
}

static void reply_missing(struct output *o, const struct read *rd, int sys)
{
    struct accel_error err;
    if (sys == ENOENT)
        error_set(&err, ACCEL_ENOENT,
                  "the logs of job %" PRIu64 " attempt %" PRIu64
                  " are gone from node %s: it never started there, or its directory was removed",
                  rd->key.job_id, rd->key.attempt, o->node_name);
    else
        error_sys(&err, sys, "opening the logs of job %" PRIu64 " attempt %" PRIu64 " on node %s",
                  rd->key.job_id, rd->key.attempt, o->node_name);
    reply_error(o, rd->id, err.code, err.text);
}

static void send_answer(struct output *o, const struct read *rd, struct answer *ans)
{
    Accel__V1__LogData msg = ACCEL__V1__LOG_DATA__INIT;
    ans->reply.attempt = (uint32_t)rd->key.attempt;
    msg.id = rd->id;
    msg.reply = &ans->reply;
    o->reply(o->ctx, &msg);
}

/* True if it was answered, be it with an error. was_parked: it has waited for a start that came to
 * nothing, so a missing directory is the end and not an error. */
static bool try_answer(struct output *o, struct read *rd, bool is_gone, bool was_parked)
{
    struct answer ans = {.reply = ACCEL__V1__LOG_READ_REPLY__INIT};
    struct accel_error err = {0};
    AUTO_CLOSE int dir_fd = -1;
    int sys = open_attempt(o, rd->key, &dir_fd);
    bool is_missing_yet = sys == ENOENT && (!is_gone || was_parked);
    if (sys && !is_missing_yet) {
        reply_missing(o, rd, sys);
        return true;
    }
    arena_init(&ans.arena);
    int r = 0;
    if (!rd->cursors && dir_fd >= 0)
        r = set_cursors_of_spec(rd, dir_fd, &err);
    if (r == 0 && rd->cursors && dir_fd >= 0)
        r = read_all(rd, dir_fd, is_gone, &ans, &err);
    else if (r == 0)
        ans.reply.ended = is_gone;
    bool is_done = r < 0 || ans.has_something || is_gone || !rd->is_waiting;
    if (r < 0)
        reply_error(o, rd->id, r, err.text);
    else if (is_done)
        send_answer(o, rd, &ans);
    arena_done(&ans.arena);
    return is_done;
}

/* ---- parking ---- */

static void unpark(struct output *o, struct read *rd)
{
    LIST_REMOVE(rd, of_attempt);
    HASH_DEL(o->reads, rd);
    read_free(rd);
}

static void watch(struct output *o, struct live *l)
{
    if (l->is_watched)
        return;
    l->is_watched = true;
    struct attempt_id id = {l->key.job_id, (uint32_t)l->key.attempt};
    o->launcher->ops->watch(o->launcher, id);
}

void output_read(struct output *o, const Accel__V1__LogRead *msg)
{
    output_cancel(o, msg->id);
    if (!msg->request || msg->request->n_cursors > CURSORS_MAX ||
        msg->request->n_ranks > LIMIT_PROCS_PER_NODE) {
        reply_error(o, msg->id, ACCEL_EINVAL, "more streams than a node can have");
        return;
    }
    struct read *rd = read_create(msg);
    struct live *l = find_live(o, rd->key);
    if (try_answer(o, rd, !l, false)) {
        read_free(rd);
        return;
    }
    CHECK(l);
    if (HASH_COUNT(o->reads) >= LIMIT_LOG_READS) {
        reply_error(o, rd->id, ACCEL_EFULL, "too many readers wait for output on this node");
        read_free(rd);
        return;
    }
    HASH_ADD(hh, o->reads, id, sizeof(rd->id), rd);
    LIST_INSERT_HEAD(&l->parked, rd, of_attempt);
    watch(o, l);
}

void output_cancel(struct output *o, uint64_t id)
{
    struct read *rd = NULL;
    HASH_FIND(hh, o->reads, &id, sizeof(id), rd);
    if (rd)
        unpark(o, rd);
}

void output_cancel_all(struct output *o)
{
    struct read *rd, *next;
    HASH_ITER(hh, o->reads, rd, next) {
        unpark(o, rd);
    }
}

void output_on_live(struct output *o, struct attempt_id id)
{
    struct attempt_key key = key_of(id);
    if (find_live(o, key))
        return;
    struct live *l = xcalloc(1, sizeof(*l));
    l->key = key;
    LIST_INIT(&l->parked);
    HASH_ADD(hh, o->live, key, sizeof(l->key), l);
}

static void answer_parked(struct output *o, struct live *l, bool is_gone)
{
    struct read *next;
    for (struct read *rd = LIST_FIRST(&l->parked); rd; rd = next) {
        next = LIST_NEXT(rd, of_attempt);
        if (try_answer(o, rd, is_gone, true))
            unpark(o, rd);
    }
}

void output_on_grown(struct output *o, struct attempt_id id)
{
    struct live *l = find_live(o, key_of(id));
    if (!l)
        return;
    l->is_watched = false;
    answer_parked(o, l, false);
    if (!LIST_EMPTY(&l->parked))
        watch(o, l);
}

void output_on_gone(struct output *o, struct attempt_id id)
{
    struct live *l = find_live(o, key_of(id));
    if (!l)
        return;
    answer_parked(o, l, true);
    CHECK(LIST_EMPTY(&l->parked));
    HASH_DEL(o->live, l);
    free(l);
}

size_t output_parked(const struct output *o)
{
    return HASH_COUNT(o->reads);
}

/* ---- life ---- */

struct output *output_create(const char *attempts_dir, const char *node_name,
                             struct launcher *launcher,
                             void (*reply)(void *ctx, const Accel__V1__LogData *msg), void *ctx)
{
    struct output *o = xcalloc(1, sizeof(*o));
    o->attempts_dir = xstrdup(attempts_dir);
    o->node_name = xstrdup(node_name);
    o->launcher = launcher;
    o->reply = reply;
    o->ctx = ctx;
    return o;
}

void output_destroy(struct output *o)
{
    if (!o)
        return;
    output_cancel_all(o);
    struct live *l, *next;
    HASH_ITER(hh, o->live, l, next) {
        HASH_DEL(o->live, l);
        free(l);
    }
    free(o->attempts_dir);
    free(o->node_name);
    free(o);
}
