/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames. Three things at once, from one input: the envelope as rpc.c decodes it must agree with
 * protobuf-c's own decoder wherever that accepts it, and what rpc.c writes must come back from
 * protobuf-c unchanged; the length-prefixed stream cut at odd places gives the same frames as in
 * one piece; and a server's and a client's table of calls, given the frames, keep their books.
 */
#include "fuzz.h"

#include <string.h>

#include "accel/v1/job.pb-c.h"
#include "common/codec.h"
#include "common/rpc_internal.h"

/* --- the envelope --- */

static void check_roundtrip(const struct rpc_frame *f)
{
    struct rpc_buf out = {0};
    struct rpc_frame copy = *f, again;
    copy.msg = NULL;
    copy.kind = (Accel__V1__Frame__Kind)((unsigned)f->kind & 0x7f);
    rpc_frame_add(&out, &copy);
    size_t len = rpc_buf_len(&out) - RPC_HEADER_BYTES;
    uint8_t *content = out.data + RPC_HEADER_BYTES;
    CHECK(rpc_frame_parse(content, len, &again) == 0);
    CHECK(again.kind == copy.kind && again.call == f->call && again.code == f->code);
    CHECK(again.method_len == f->method_len && again.text_len == f->text_len);
    CHECK(again.has_body == f->has_body && (!f->has_body || again.body_len == f->body_len));
    Accel__V1__Frame *pb = accel__v1__frame__unpack(NULL, len, content);
    CHECK(pb && pb->call == f->call && pb->has_body == f->has_body && pb->code == f->code);
    CHECK(!f->has_body || pb->body.len == f->body_len);
    CHECK(pb->body.len == 0 || memcmp(pb->body.data, f->body, f->body_len) == 0);
    accel__v1__frame__free_unpacked(pb, NULL);
    rpc_buf_done(&out);
}

static void check_envelope(const uint8_t *p, size_t len)
{
    struct rpc_frame f;
    int r = rpc_frame_parse(p, len, &f);
    Accel__V1__Frame *pb = accel__v1__frame__unpack(NULL, len, p);
    if (r == 0)
        check_roundtrip(&f);
    if (r == 0 && pb) {
        CHECK(f.call == pb->call && f.has_body == pb->has_body && f.code == pb->code);
        CHECK(f.body_len == pb->body.len);
        CHECK(f.body_len == 0 || memcmp(f.body, pb->body.data, f.body_len) == 0);
        CHECK(strnlen(f.method ? f.method : "", f.method_len) == strlen(pb->method));
        CHECK(strnlen(f.text ? f.text : "", f.text_len) == strlen(pb->text));
    }
    if (pb)
        accel__v1__frame__free_unpacked(pb, NULL);
}

/* --- the stream --- */

static size_t count_frames(const uint8_t *p, size_t len, size_t piece, uint64_t *ret_sum)
{
    struct codec_reader reader;
    const uint8_t *data;
    size_t n = 0, frame_len;
    int r = 0;
    codec_reader_init(&reader, 4096);
    *ret_sum = 0;
    for (size_t at = 0; at < len && r >= 0; at += piece) {
        codec_reader_feed(&reader, p + at, MIN(piece, len - at));
        while ((r = codec_reader_next(&reader, &data, &frame_len)) == 1) {
            CHECK(frame_len <= 4096);
            for (size_t i = 0; i < frame_len; i++)
                *ret_sum = *ret_sum * 31 + data[i];
            n++;
        }
    }
    codec_reader_done(&reader);
    return n;
}

static void check_stream(const uint8_t *p, size_t len)
{
    uint64_t whole, pieces;
    size_t n = count_frames(p, len, MAX(len, (size_t)1), &whole);
    CHECK(count_frames(p, len, 3, &pieces) == n && whole == pieces);
}

/* --- the tables of calls --- */

static struct rpc_core core;
static size_t opened, ended;

static void on_emit(struct rpc_conn *c, const struct rpc_frame *f)
{
    struct rpc_buf out = {0};
    rpc_frame_add(&out, f);
    check_envelope(out.data + RPC_HEADER_BYTES, rpc_buf_len(&out) - RPC_HEADER_BYTES);
    rpc_buf_done(&out);
}

static void on_flow(struct rpc_conn *c, bool paused)
{
    CHECK(paused == (c->paused > 0));
}

static void on_fail(struct rpc_conn *c)
{
    CHECK(!"a send of this target is never too large");
}

static const struct rpc_core_hooks core_hooks = {on_emit, on_flow, on_fail};

static void on_event(void *ctx, const struct rpc_event *ev)
{
    CHECK(!ev->msg || ev->msg->descriptor == ev->method->request);
    opened += ev->type == RPC_OPEN;
    ended += ev->type == RPC_CLOSED;
    if (ev->type == RPC_CLOSED)
        return;
    uint64_t dice = ev->msg ? ((const Accel__V1__WatchRequest *)ev->msg)->job_id : 1;
    rpc_core_pause(&core.base, ev->call, dice & 1);
    if (ev->method->is_server_stream)
        rpc_core_send(&core.base, ev->call, "", 0);
    if (dice & 2) {
        ended++;
        rpc_core_end(&core.base, ev->call, NULL, 0, dice & 4 ? ACCEL_ENOENT : 0, NULL);
    }
}

#define WATCH &accel__v1__watch_request__descriptor
static const struct rpc_method methods[] = {
    {"/a/U", WATCH, WATCH, false, false, RPC_ROLE_USER, 64, on_event, 0},
    {"/a/S", WATCH, WATCH, false, true, RPC_ROLE_USER, 64, on_event, 1},
    {"/a/B", WATCH, WATCH, true, true, RPC_ROLE_USER, 64, on_event, 2},
    {"/a/N", WATCH, WATCH, true, true, RPC_ROLE_NODE, 64, on_event, 3},
};
static const struct rpc_service service = {methods, ARRAY_LEN(methods), NULL};

static void on_answer(void *ctx, const ProtobufCMessage *msg)
{
    CHECK(msg->descriptor == WATCH);
}

static void on_end(void *ctx, int code, const char *text)
{
    CHECK(code <= 0 && text);
    ended++;
}

static void on_chan_emit(struct rpc_chan *ch, const struct rpc_frame *f)
{
    (void)f;
}

static void on_chan_wake(struct rpc_chan *ch)
{
    (void)ch;
}

static const struct rpc_chan_hooks chan_hooks = {on_chan_emit, on_chan_wake};
static const struct rpc_call_handlers handlers = {on_answer, on_end};

/* Feeds the frames of p to one side until it refuses one. */
static void feed(struct rpc_conn *c, struct rpc_chan *ch, const uint8_t *p, size_t len)
{
    int r = 0;
    while (len >= RPC_HEADER_BYTES && r == 0) {
        size_t n = p[0] | (size_t)p[1] << 8;
        p += RPC_HEADER_BYTES;
        len -= RPC_HEADER_BYTES;
        n = MIN(n, len);
        r = c ? rpc_core_on_frame(c, p, n) : rpc_chan_on_frame(ch, p, n);
        p += n;
        len -= n;
    }
}

static void check_server(const uint8_t *p, size_t len)
{
    static const struct rpc_identity who = {.role = RPC_ROLE_USER, .user = "ann"};
    struct rpc_conn c;
    opened = ended = 0;
    rpc_core_init(&core, NULL, &core_hooks, &service);
    rpc_conn_init(&c, &core, &who);
    feed(&c, NULL, p, len);
    CHECK(c.count == opened - ended);
    rpc_conn_gone(&c, false);
    CHECK(opened == ended && c.paused == 0);
    rpc_core_done(&core);
}

static void check_client(const uint8_t *p, size_t len)
{
    static struct rpc_chan ch;
    opened = 5;
    ended = 0;
    rpc_chan_init(&ch, NULL, &chan_hooks);
    for (size_t i = 0; i < opened; i++)
        rpc_chan_start(&ch.base, "/a/U", NULL, WATCH, &handlers, NULL);
    feed(NULL, &ch, p, len);
    rpc_chan_fail(&ch, "over");
    rpc_chan_deliver(&ch);
    CHECK(opened == ended);
    rpc_chan_done(&ch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_envelope(data, size);
    check_stream(data, size);
    check_server(data, size);
    check_client(data, size);
    return 0;
}

/* --- corpus --- */

static void add(struct str *out, int kind, uint32_t id, const char *method, const char *body)
{
    Accel__V1__Frame f = ACCEL__V1__FRAME__INIT;
    f.kind = (Accel__V1__Frame__Kind)kind;
    f.call = id;
    f.method = (char *)method;
    f.has_body = body != NULL;
    f.body.data = (uint8_t *)body;
    f.body.len = body ? strlen(body) : 0;
    if (kind == ACCEL__V1__FRAME__KIND__END && !body) {
        f.code = 5;
        f.text = (char *)"no such job\ntry: accelctl ps";
    }
    codec_add(out, &f.base);
}

bool fuzz_corpus(size_t i, struct str *out)
{
    enum { OPEN = 1, MESSAGE, HALF_CLOSE, END, CANCEL };
    uint32_t first = 1 << 10; /* the id of a client's first call, see rpc.c */
    switch (i) {
    case 0: add(out, OPEN, 1, "/a/U", "\x08\x02"); break;
    case 1: add(out, OPEN, 7, "/a/S", "\x08\x01\x10\x01"); break;
    case 2:
        add(out, OPEN, 1, "/a/B", NULL);
        add(out, MESSAGE, 1, "", "\x08\x04");
        add(out, HALF_CLOSE, 1, "", NULL);
        add(out, CANCEL, 1, "", NULL);
        break;
    case 3:
        for (uint32_t k = 0; k < 8; k++)
            add(out, OPEN, k, k % 2 ? "/a/U" : "/a/B", "\x08\x01");
        add(out, CANCEL, 3, "", NULL);
        add(out, MESSAGE, 4, "", "\x08\x03");
        break;
    case 4:
        add(out, MESSAGE, first, "", "\x08\x01");
        add(out, END, first, "", "\x08\x01");
        add(out, END, first * 2 + 1, "", NULL);
        add(out, MESSAGE, first * 3 + 2, "", "\x08\x01\x10\x01");
        break;
    case 5: add(out, OPEN, 1, "/a/N", NULL); break;
    case 6: str_add(out, "\x08\x01\x10\x81\x80\x80\x80\x08\x20\x01\x2a\x02hi\x30\x0b", 16); break;
    default: return false;
    }
    return true;
}
