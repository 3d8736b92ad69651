/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Output of ranks, from Logs.Read to our stdout and stderr. Keeps one cursor per stream; a chunk
 * that was seen already, or in part, is recognised by its offset. Decides nothing about attempts:
 * attach.c says which one to read.
 */
#include "client/accelctl/follow.h"

#include <string.h>
#include <unistd.h>

#include "common/limits.h"

#define LINE_BYTES_MAX                                                                             \
    65536u /* of a labelled line that is held until its end; longer ones are cut into several */

struct follow_stream {
    uint32_t rank;
    bool is_stderr;
    bool is_eof;
    uint64_t offset;
    uint64_t tail_lines;
    struct str line; /* labelled: what came after the last newline */
};

static void follow_read(struct follow *f);

static void write_labelled(struct follow_stream *s, const char *p, size_t len, bool is_last)
{
    int fd = s->is_stderr ? STDERR_FILENO : STDOUT_FILENO;
    AUTO_STR struct str out = {0};

    str_init(&out);
    while (len > 0) {
        const char *end = memchr(p, '\n', len);
        size_t n = end ? (size_t)(end - p) : len;
        bool is_full = s->line.len + n > LINE_BYTES_MAX;

        str_add(&s->line, p, n);
        if (end || is_full) {
            str_addf(&out, "[%u] ", s->rank);
            str_add(&out, s->line.data, s->line.len);
            str_addc(&out, '\n');
            str_clear(&s->line);
        }
        n += end != NULL;
        p += n;
        len -= n;
    }
    if (is_last && s->line.len > 0) {
        str_addf(&out, "[%u] ", s->rank);
        str_add(&out, s->line.data, s->line.len);
        str_addc(&out, '\n');
        str_clear(&s->line);
    }
    cli_write(fd, out.data, out.len);
}

static struct follow_stream *find_stream(struct follow *f, uint32_t rank, bool is_stderr)
{
    size_t low = 0, high = f->stream_count;

    while (low < high) {
        size_t mid = (low + high) / 2;
        const struct follow_stream *s = &f->streams[mid];

        if (s->rank < rank || (s->rank == rank && s->is_stderr < is_stderr))
            low = mid + 1;
        else
            high = mid;
    }
    if (low < f->stream_count && f->streams[low].rank == rank &&
        f->streams[low].is_stderr == is_stderr)
        return &f->streams[low];
    return NULL;
}

static void take_chunk(struct follow *f, const Accel__V1__LogChunk *c)
{
    struct follow_stream *s =
        find_stream(f, c->rank, c->stream == ACCEL__V1__LOG_CURSOR__STREAM__STDERR);
    const char *p = (const char *)c->data.data;
    size_t len = c->data.len;

    if (!s || s->is_eof)
        return;
    if (c->offset < s->offset) {
        uint64_t seen = MIN(s->offset - c->offset, (uint64_t)len);

        p += seen;
        len -= seen;
    }
    if (c->cut_bytes > 0)
        cli_say("rank %u: %llu bytes of %s were not kept", s->rank,
                (unsigned long long)c->cut_bytes, s->is_stderr ? "stderr" : "stdout");
    if (len > 0)
        f->is_quiet = false;
    s->offset = MAX(s->offset, c->offset + c->data.len);
    s->tail_lines = 0;
    s->is_eof = c->eof;
    if (f->is_labelled)
        write_labelled(s, p, len, c->eof);
    else
        cli_write(s->is_stderr ? STDERR_FILENO : STDOUT_FILENO, p, len);
}

static void take_missing(struct follow *f, const Accel__V1__LogReadReply *reply)
{
    str_clear(&f->missing);
    for (size_t i = 0; i < reply->n_missing_nodes; i++)
        str_addf(&f->missing, "%s%s", i ? ", " : "", reply->missing_nodes[i]);
}

/* Once, as soon as it is known: the others' output goes on. */
static void say_missing(struct follow *f)
{
    if (f->missing.len == 0 || (f->said.len && strcmp(f->said.data, f->missing.data) == 0))
        return;
    cli_say("attempt %u: the output of node %s is missing: its acceld is away", f->attempt,
            f->missing.data);
    str_clear(&f->said);
    str_adds(&f->said, f->missing.data);
}

static bool is_all_eof(const struct follow *f)
{
    for (size_t i = 0; i < f->stream_count; i++) {
        if (!f->streams[i].is_eof)
            return false;
    }
    return true;
}

static void on_read_message(void *ctx, const ProtobufCMessage *msg)
{
    struct follow *f = ctx;
    const Accel__V1__LogReadReply *reply = (const Accel__V1__LogReadReply *)msg;

    f->is_quiet = true;
    f->is_empty = reply->n_chunks == 0;
    take_missing(f, reply);
    for (size_t i = 0; i < reply->n_chunks; i++)
        take_chunk(f, reply->chunks[i]);
    if (!f->is_quiet || reply->ended)
        say_missing(f);
    if (reply->ended || reply->attempt == 0 || is_all_eof(f))
        f->is_done = true;
    if (f->on_answer)
        f->on_answer(f->ctx);
}

/* What was held back of lines without an end. */
static void flush_lines(struct follow *f)
{
    for (size_t i = 0; f->is_labelled && i < f->stream_count; i++)
        write_labelled(&f->streams[i], "", 0, true);
}

static void on_read_end(void *ctx, int code, const char *text)
{
    struct follow *f = ctx;

    f->call = NULL;
    if (code == ACCEL_ECLOSED)
        return; /* follow_resume comes with the new connection */
    if (code < 0) {
        f->is_broken = true;
        error_set(&f->err, code, "%s", text[0] != '\0' ? text : accel_error_sentence(code));
        f->on_change(f->ctx);
        return;
    }
    if (!f->is_done && f->missing.len && (f->is_waiting ? f->is_empty : f->is_quiet)) {
        f->is_broken = f->is_missing = true;
        error_set(&f->err, ACCEL_EUNAVAIL,
                  "the output of job %llu attempt %u is on node %s\nwhy: its acceld is away\n"
                  "try: again when it is back",
                  (unsigned long long)f->job_id, f->attempt, f->missing.data);
        f->on_change(f->ctx);
        return;
    }
    if (!f->is_waiting && f->is_quiet)
        f->is_done = true;
    if (!f->is_done) {
        follow_read(f);
        return;
    }
    flush_lines(f);
    f->on_change(f->ctx);
}

static void follow_read(struct follow *f)
{
    static const struct rpc_call_handlers handlers = {on_read_message, on_read_end};
    Accel__V1__LogReadRequest req = ACCEL__V1__LOG_READ_REQUEST__INIT;
    AUTO_FREE Accel__V1__LogCursor *cursors = NULL;
    AUTO_FREE Accel__V1__LogCursor **list = NULL;
    struct rpc_channel *ch = session_channel(f->session);
    size_t n = 0;

    if (!ch)
        return;
    cursors = xcalloc(f->stream_count + 1, sizeof cursors[0]);
    list = xcalloc(f->stream_count + 1, sizeof(Accel__V1__LogCursor *));
    for (size_t i = 0; i < f->stream_count; i++) {
        const struct follow_stream *s = &f->streams[i];

        if (s->is_eof)
            continue;
        cursors[n] = (Accel__V1__LogCursor)ACCEL__V1__LOG_CURSOR__INIT;
        cursors[n].rank = s->rank;
        cursors[n].stream = s->is_stderr ? ACCEL__V1__LOG_CURSOR__STREAM__STDERR
                                         : ACCEL__V1__LOG_CURSOR__STREAM__STDOUT;
        cursors[n].offset = s->offset;
        cursors[n].tail_lines = s->offset == 0 ? s->tail_lines : 0;
        list[n] = &cursors[n];
        n++;
    }
    req.job_id = f->job_id;
    req.attempt = f->attempt;
    req.cursors = list;
    req.n_cursors = n;
    req.wait = f->is_waiting;
    req.tell_missing = true;
    f->is_broken = f->is_missing = false;
    f->call = rpc_channel_call(ch, "/accel.v1.Logs/Read", &req.base,
                               &accel__v1__log_read_reply__descriptor, &handlers, f);
}

static void streams_free(struct follow *f)
{
    for (size_t i = 0; i < f->stream_count; i++)
        str_done(&f->streams[i].line);
    free(f->streams);
    f->streams = NULL;
    f->stream_count = 0;
}

static void texts_free(struct follow *f)
{
    str_done(&f->missing);
    str_done(&f->said);
}

void follow_begin(struct follow *f, uint32_t attempt, uint32_t world)
{
    size_t ranks = f->ranks ? f->rank_count : world;
    uint64_t tail = f->attempt == 0 ? f->tail_lines : 0;

    streams_free(f);
    texts_free(f);
    str_init(&f->missing);
    str_init(&f->said);
    f->streams = xcalloc(ranks * 2 + 1, sizeof f->streams[0]);
    for (size_t i = 0; i < ranks; i++) {
        for (int is_stderr = 0; is_stderr < 2; is_stderr++) {
            struct follow_stream *s;

            if (is_stderr ? !f->want_stderr : !f->want_stdout)
                continue;
            s = &f->streams[f->stream_count++];
            s->rank = f->ranks ? f->ranks[i] : (uint32_t)i;
            s->is_stderr = is_stderr;
            s->tail_lines = tail;
            str_init(&s->line);
        }
    }
    f->attempt = attempt;
    f->is_done = false;
    f->is_broken = f->is_missing = false;
    follow_read(f);
}

void follow_resume(struct follow *f)
{
    if (f->attempt > 0 && !f->is_done && !f->call)
        follow_read(f);
}

void follow_skip(struct follow *f)
{
    flush_lines(f);
    f->is_broken = f->is_missing = false;
    f->is_done = true;
}

void follow_done(struct follow *f)
{
    if (f->call)
        rpc_call_cancel(STEAL_PTR(f->call));
    streams_free(f);
    texts_free(f);
}
