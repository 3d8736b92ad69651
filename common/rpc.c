/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames and the tables of open calls, shared by the transports that carry accel.v1.Frame:
 * rpc_local moves the bytes over unix sockets, rpc_sim in virtual time. The envelope is coded by
 * hand, because its one large field, the body, would be copied by a general decoder before the
 * message inside it is decoded; tests/fuzz compares with protobuf-c's own coder. Nothing here may
 * read, write, wait or know a file descriptor.
 */
#include "common/rpc_internal.h"

#include <stdio.h>
#include <string.h>

#include "common/pack.h"

static_assert((uint64_t)LIMIT_CONNECTIONS * LIMIT_CALLS_PER_CONNECTION <= 1u << RPC_SLOT_BITS,
              "slots");
static_assert(LIMIT_CALLS_PER_CONNECTION == 1024u, "ids of calls: 10 bits of slot, 22 of serial");

/* --- lists and buffers --- */

void rpc_list_splice(struct rpc_list *to, struct rpc_list *from)
{
    if (rpc_list_is_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    rpc_list_init(from);
}

uint8_t *rpc_buf_reserve(struct rpc_buf *b, size_t extra)
{
    if (b->cap - b->len < extra &&
        b->pos > b->len / 2) { /* moving less than was taken: linear in all */
        memmove(b->data, b->data + b->pos, b->len - b->pos);
        b->len -= b->pos;
        b->pos = 0;
    }
    if (b->cap - b->len < extra) {
        b->cap = MAX(b->len + extra, MAX(b->cap * 2, (size_t)512));
        b->data = xrealloc(b->data, b->cap);
    }
    return b->data + b->len;
}

void rpc_buf_add(struct rpc_buf *b, const void *p, size_t len)
{
    if (len == 0)
        return;
    memcpy(rpc_buf_reserve(b, len), p, len);
    b->len += len;
}

void rpc_buf_drop(struct rpc_buf *b, size_t len)
{
    CHECK(len <= rpc_buf_len(b));
    b->pos += len;
    if (b->pos < b->len)
        return;
    b->pos = b->len = 0;
    if (b->cap > RPC_KEEP_BYTES)
        rpc_buf_done(b);
}

void rpc_buf_done(struct rpc_buf *b)
{
    free(b->data);
    *b = (struct rpc_buf){0};
}

/* --- frames --- */

/* Tags of accel.v1.Frame: field number << 3 | wire type. */
enum frame_tag {
    TAG_KIND = 1 << 3 | 0,
    TAG_CALL = 2 << 3 | 0,
    TAG_METHOD = 3 << 3 | 2,
    TAG_HAS_BODY = 4 << 3 | 0,
    TAG_BODY = 5 << 3 | 2,
    TAG_CODE = 6 << 3 | 0,
    TAG_TEXT = 7 << 3 | 2,
};

static uint8_t *put_varint(uint8_t *p, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p++ = (uint8_t)v;
    return p;
}

static uint8_t *put_bytes(uint8_t *p, uint8_t tag, const void *data, size_t len)
{
    *p++ = tag;
    p = put_varint(p, len);
    if (len > 0)
        memcpy(p, data, len);
    return p + len;
}

void rpc_frame_add(struct rpc_buf *out, const struct rpc_frame *f)
{
    size_t body_len = f->msg ? protobuf_c_message_get_packed_size(f->msg) : f->body_len;
    uint8_t *start =
        rpc_buf_reserve(out, RPC_HEADER_BYTES + 64 + f->method_len + body_len + f->text_len);
    uint8_t *p = start + RPC_HEADER_BYTES;
    *p++ = TAG_KIND;
    *p++ = (uint8_t)f->kind;
    *p++ = TAG_CALL;
    p = put_varint(p, f->call);
    if (f->method_len > 0)
        p = put_bytes(p, TAG_METHOD, f->method, f->method_len);
    if (f->has_body) {
        *p++ = TAG_HAS_BODY;
        *p++ = 1;
        if (f->msg && body_len > 0) {
            *p++ = TAG_BODY;
            p = put_varint(p, body_len);
            p += protobuf_c_message_pack(f->msg, p);
        } else if (body_len > 0) {
            p = put_bytes(p, TAG_BODY, f->body, body_len);
        }
    }
    if (f->code != 0) {
        *p++ = TAG_CODE;
        p = put_varint(p, f->code);
    }
    if (f->text_len > 0)
        p = put_bytes(p, TAG_TEXT, f->text, f->text_len);
    size_t len = (size_t)(p - start) - RPC_HEADER_BYTES;
    CHECK(len <= LIMIT_FRAME_BYTES);
    for (unsigned i = 0; i < RPC_HEADER_BYTES; i++)
        start[i] = (uint8_t)(len >> (8 * i));
    out->len += RPC_HEADER_BYTES + len;
}

static int get_varint(const uint8_t **p, const uint8_t *end, uint64_t *ret_value)
{
    uint64_t v = 0;
    for (unsigned shift = 0; *p < end && shift < 70; shift += 7) {
        uint8_t b = *(*p)++;
        if (shift < 64)
            v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) {
            *ret_value = v;
            return 0;
        }
    }
    return ACCEL_EPROTO;
}

/* The value of one field: a number, or *ret_value bytes at *ret_data. Groups (wire types 3 and 4)
 * are not proto3. */
static int get_field(const uint8_t **p, const uint8_t *end, unsigned wire_type,
                     const uint8_t **ret_data, uint64_t *ret_value)
{
    size_t left;
    int r;
    switch (wire_type) {
    case 0: return get_varint(p, end, ret_value);
    case 1: *ret_value = 8; break;
    case 2:
        r = get_varint(p, end, ret_value);
        if (r < 0)
            return r;
        break;
    case 5: *ret_value = 4; break;
    default: return ACCEL_EPROTO;
    }
    left = (size_t)(end - *p);
    if (*ret_value > left)
        return ACCEL_EPROTO;
    *ret_data = *p;
    *p += *ret_value;
    return 0;
}

int rpc_frame_parse(const uint8_t *p, size_t len, struct rpc_frame *ret_frame)
{
    struct rpc_frame f = {.kind = ACCEL__V1__FRAME__KIND__INVALID};
    const uint8_t *end = p + len;
    while (p < end) {
        const uint8_t *data = p;
        uint64_t tag, v;
        int r = get_varint(&p, end, &tag);
        if (r < 0 || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
            return ACCEL_EPROTO;
        r = get_field(&p, end, tag & 7, &data, &v);
        if (r < 0)
            return r;
        switch (tag) {
        case TAG_KIND:
            f.kind = v <= INT32_MAX ? (Accel__V1__Frame__Kind)v : ACCEL__V1__FRAME__KIND__INVALID;
            break;
        case TAG_CALL: f.call = (uint32_t)v; break;
        case TAG_METHOD:
            f.method = (const char *)data;
            f.method_len = v;
            break;
        case TAG_HAS_BODY: f.has_body = v != 0; break;
        case TAG_BODY:
            f.body = data;
            f.body_len = v;
            break;
        case TAG_CODE: f.code = (uint32_t)v; break;
        case TAG_TEXT:
            f.text = (const char *)data;
            f.text_len = v;
            break;
        default:
            if (tag >> 3 <= TAG_TEXT >> 3) /* a field of ours, of another type */
                return ACCEL_EPROTO;
            break;
        }
    }
    *ret_frame = f;
    return 0;
}

static void *unpack_alloc(void *arena, size_t size)
{
    return arena_alloc(arena, size);
}

static void unpack_free(void *arena, void *p)
{
    (void)arena;
    (void)p;
}

ProtobufCMessage *rpc_unpack(struct arena *a, const ProtobufCMessageDescriptor *type,
                             const uint8_t *p, size_t len)
{
    ProtobufCAllocator alloc = {unpack_alloc, unpack_free, a};
    return protobuf_c_message_unpack(type, &alloc, len, p);
}

void rpc_arena_reset(struct arena *a)
{
    if (a->used_bytes <= RPC_KEEP_BYTES) {
        arena_reset(a);
        return;
    }
    arena_done(a);
    arena_init(a);
}

/* --- calls at the server --- */

static const struct rpc_method *find_method(const struct rpc_service *svc, const char *name,
                                            size_t len)
{
    for (size_t i = 0; i < svc->count; i++) {
        const struct rpc_method *m = &svc->methods[i];
        if (strnlen(m->name, len + 1) == len && memcmp(m->name, name, len) == 0)
            return m;
    }
    return NULL;
}

const struct rpc_method *rpc_find_method(const struct rpc_service *svc, const char *name)
{
    return find_method(svc, name, strlen(name));
}

void rpc_core_init(struct rpc_core *core, const struct rpc_server_ops *ops,
                   const struct rpc_core_hooks *hooks, const struct rpc_service *svc)
{
    *core = (struct rpc_core){.base.ops = ops, .hooks = hooks, .svc = svc, .free_head = UINT32_MAX};
    arena_init(&core->arena);
}

void rpc_core_done(struct rpc_core *core)
{
    arena_done(&core->arena);
    free(core->slots);
    core->slots = NULL;
}

void rpc_conn_init(struct rpc_conn *c, struct rpc_core *core, const struct rpc_identity *who)
{
    *c = (struct rpc_conn){.core = core, .who = *who};
}

static uint32_t slot_take(struct rpc_core *core)
{
    uint32_t i = core->free_head;
    if (i != UINT32_MAX) {
        core->free_head = core->slots[i].next_free;
        return i;
    }
    if (core->slots_len == core->slots_cap) {
        core->slots_cap = MAX(core->slots_cap * 2, 16u);
        core->slots = xrealloc(core->slots, core->slots_cap * sizeof(*core->slots));
    }
    CHECK(core->slots_len < 1u << RPC_SLOT_BITS);
    return core->slots_len++;
}

static struct rpc_slot *slot_find(struct rpc_core *core, uint64_t number)
{
    uint32_t i = (uint32_t)(number & ((1u << RPC_SLOT_BITS) - 1));
    if (number == 0 || i >= core->slots_len || core->slots[i].number != number)
        return NULL;
    return &core->slots[i];
}

static struct rpc_slot *call_open(struct rpc_conn *c, uint32_t client_call,
                                  const struct rpc_method *m)
{
    struct rpc_core *core = c->core;
    uint32_t i = slot_take(core);
    core->slots[i] = (struct rpc_slot){.number = ++core->serial << RPC_SLOT_BITS | i,
                                       .conn = c,
                                       .method = m,
                                       .client_call = client_call};
    if (c->count == c->cap) {
        c->cap = MAX(c->cap * 2, 4u);
        c->calls = xrealloc(c->calls, c->cap * sizeof(*c->calls));
    }
    c->calls[c->count++] = (struct rpc_conn_call){client_call, i};
    return &core->slots[i];
}

static struct rpc_slot *call_find(struct rpc_conn *c, uint32_t client_call)
{
    for (uint32_t i = 0; i < c->count; i++)
        if (c->calls[i].client_call == client_call)
            return &c->core->slots[c->calls[i].slot];
    return NULL;
}

static void call_pause(struct rpc_slot *s, bool paused)
{
    struct rpc_conn *c = s->conn;
    if (s->is_paused == paused)
        return;
    s->is_paused = paused;
    c->paused += paused ? 1u : -1u;
    if (c->paused == (paused ? 1u : 0u))
        c->core->hooks->flow(c, paused);
}

/* The number is dead from here on; a pause it asked for ends with it. */
static void call_remove(struct rpc_slot *s)
{
    struct rpc_conn *c = s->conn;
    uint32_t slot = (uint32_t)(s - c->core->slots), i = 0;
    call_pause(s, false);
    while (c->calls[i].slot != slot)
        i++;
    memmove(&c->calls[i], &c->calls[i + 1], (c->count - i - 1) * sizeof(*c->calls));
    c->count--;
    s->number = 0;
    s->next_free = c->core->free_head;
    c->core->free_head = slot;
}

static void dispatch(struct rpc_conn *c, enum rpc_event_type type, uint64_t number,
                     const struct rpc_method *m, const ProtobufCMessage *msg)
{
    struct rpc_event ev = {.type = type, .call = number, .method = m, .who = &c->who, .msg = msg};
    m->handler(c->core->svc->ctx, &ev);
}

static void call_close(struct rpc_slot *s)
{
    struct rpc_conn *c = s->conn;
    uint64_t number = s->number;
    const struct rpc_method *m = s->method;
    call_remove(s);
    dispatch(c, RPC_CLOSED, number, m, NULL);
}

static void emit_end(struct rpc_conn *c, uint32_t client_call, int code, const char *text)
{
    struct rpc_frame f = {.kind = ACCEL__V1__FRAME__KIND__END, .call = client_call};
    f.code = accel_error_to_grpc(code);
    f.text = text;
    f.text_len = MIN(strlen(text), (size_t)RPC_TEXT_BYTES);
    c->core->hooks->emit(c, &f);
}

/* A node's session is a node's alone, except that root and the daemon's own user are the host. */
static bool is_allowed(const struct rpc_identity *who, enum rpc_role need)
{
    if (need == RPC_ROLE_NONE)
        return true;
    if (need == RPC_ROLE_NODE)
        return who->role == RPC_ROLE_NODE || (who->role == RPC_ROLE_ADMIN && who->is_local);
    return who->role != RPC_ROLE_NODE && who->role >= need;
}

static const char *role_name(enum rpc_role role)
{
    switch (role) {
    case RPC_ROLE_NONE: break;
    case RPC_ROLE_NODE: return "node";
    case RPC_ROLE_USER: return "user";
    case RPC_ROLE_OPERATOR: return "operator";
    case RPC_ROLE_ADMIN: return "admin";
    }
    return "none";
}

/* In the words of who typed it, for he may not know that there are methods. */
static int role_refused(const struct rpc_method *m, const struct rpc_identity *who,
                        struct accel_error *err)
{
    const char *what = m->people ? m->people : m->name, *need = role_name(m->role);
    const char *name = who->user[0] ? who->user : "the caller";
    char try[160];

    if (m->role == RPC_ROLE_NODE)
        snprintf(try, sizeof(try), "acceld --join, which shows the certificate of a node");
    else if (who->role == RPC_ROLE_NONE || who->role == RPC_ROLE_NODE)
        snprintf(try, sizeof(try), "ask an admin for a certificate: accelctl user cert YOU");
    else
        snprintf(try, sizeof(try),
                 "ask an admin to do it, or for the role: accelctl user role %s %s", name, need);
    return error_set(err, ACCEL_EPERM,
                     "%s is not for %s\nwhy: it is for the role %s; %s has the role %s\ntry: %s",
                     what, name, need, name, role_name(who->role), try);
}

int rpc_caller_check(const struct rpc_service *svc, const char *name, size_t len,
                     const struct rpc_identity *who, const struct rpc_method **ret_method,
                     struct accel_error *err)
{
    const struct rpc_method *m = find_method(svc, name, len);
    if (!m) {
        char text[128];
        size_t n = MIN(len, sizeof(text) - 1);
        for (size_t i = 0; i < n; i++)
            text[i] = name[i] > ' ' && name[i] < 0x7f ? name[i] : '?';
        text[n] = 0;
        return error_set(err, ACCEL_EUNIMPL, "there is no method \"%s\" here", text);
    }
    if (!is_allowed(who, m->role)) {
        char text[256];
        snprintf(text, sizeof(text), "%s is for the role %s; %s has the role %s", m->name,
                 role_name(m->role), who->user[0] ? who->user : "the caller", role_name(who->role));
        if (svc->on_refused)
            svc->on_refused(svc->ctx, who, text);
        return role_refused(m, who, err);
    }
    *ret_method = m;
    return 0;
}

/* Whether this connection may open the call; else the code that ends it. */
static int open_check(const struct rpc_conn *c, const struct rpc_frame *f,
                      const struct rpc_method **ret_method, struct accel_error *err)
{
    int r = rpc_caller_check(c->core->svc, f->method ? f->method : "", f->method_len, &c->who,
                             ret_method, err);
    if (r < 0)
        return r;
    const struct rpc_method *m = *ret_method;
    if (c->count >= LIMIT_CALLS_PER_CONNECTION)
        return error_set(err, ACCEL_EFULL,
                         "this connection has %u calls open, which is the most there may be",
                         c->count);
    if (!f->has_body && !m->is_client_stream)
        return error_set(err, ACCEL_EINVAL, "%s needs a request", m->name);
    return 0;
}

static int request_unpack(struct rpc_core *core, const struct rpc_frame *f,
                          const struct rpc_method *m, const ProtobufCMessage **ret_msg,
                          struct accel_error *err)
{
    if (f->body_len > m->cap_bytes)
        return error_set(err, ACCEL_EFULL,
                         "the request of %zu bytes is above the limit of %u bytes of %s",
                         f->body_len, m->cap_bytes, m->name);
    ProtobufCMessage *msg = rpc_unpack(&core->arena, m->request, f->body, f->body_len);
    if (msg)
        message_clean(msg); /* what comes in is shown to others */
    *ret_msg = msg;
    if (!*ret_msg)
        return error_set(err, ACCEL_EINVAL, "the request to %s cannot be decoded as %s", m->name,
                         m->request->name);
    return 0;
}

static int on_open(struct rpc_conn *c, const struct rpc_frame *f)
{
    struct accel_error err;
    const ProtobufCMessage *msg = NULL;
    if (call_find(c, f->call))
        return ACCEL_EPROTO;
    const struct rpc_method *m = NULL;
    if (c->core->svc->refresh)
        c->core->svc->refresh(c->core->svc->ctx, &c->who);
    int r = open_check(c, f, &m, &err);
    if (r == 0 && f->has_body)
        r = request_unpack(c->core, f, m, &msg, &err);
    if (r < 0) {
        emit_end(c, f->call, r, err.text);
        return 0;
    }
    dispatch(c, RPC_OPEN, call_open(c, f->call, m)->number, m, msg);
    return 0;
}

/* A message of a client stream. One that cannot be taken ends its call, and the handler is told. */
static int on_message(struct rpc_conn *c, struct rpc_slot *s, const struct rpc_frame *f)
{
    struct accel_error err;
    const ProtobufCMessage *msg;
    if (!s->method->is_client_stream || s->is_half_closed)
        return ACCEL_EPROTO;
    int r = request_unpack(c->core, f, s->method, &msg, &err);
    if (r < 0) {
        emit_end(c, f->call, r, err.text);
        call_close(s);
        return 0;
    }
    dispatch(c, RPC_MESSAGE, s->number, s->method, msg);
    return 0;
}

static int on_half_close(struct rpc_conn *c, struct rpc_slot *s)
{
    if (s->is_half_closed)
        return ACCEL_EPROTO;
    s->is_half_closed = true;
    if (s->method->is_client_stream)
        dispatch(c, RPC_HALF_CLOSE, s->number, s->method, NULL);
    return 0;
}

int rpc_core_take(struct rpc_conn *c, const struct rpc_frame *f)
{
    int r = 0;
    struct rpc_core *core = c->core;
    if (f->kind == ACCEL__V1__FRAME__KIND__OPEN) {
        r = on_open(c, f);
        rpc_arena_reset(&core->arena);
        return r;
    }
    if (f->kind != ACCEL__V1__FRAME__KIND__MESSAGE &&
        f->kind != ACCEL__V1__FRAME__KIND__HALF_CLOSE && f->kind != ACCEL__V1__FRAME__KIND__CANCEL)
        return ACCEL_EPROTO;
    struct rpc_slot *s = call_find(c, f->call);
    if (!s)
        return 0; /* it crossed the call's end on the way */
    if (f->kind == ACCEL__V1__FRAME__KIND__MESSAGE)
        r = on_message(c, s, f);
    else if (f->kind == ACCEL__V1__FRAME__KIND__HALF_CLOSE)
        r = on_half_close(c, s);
    else
        call_close(s);
    rpc_arena_reset(&core->arena);
    return r;
}

int rpc_core_on_frame(struct rpc_conn *c, const uint8_t *p, size_t len)
{
    struct rpc_frame f;
    int r = rpc_frame_parse(p, len, &f);
    return r < 0 ? r : rpc_core_take(c, &f);
}

void rpc_conn_gone(struct rpc_conn *c, bool silent)
{
    while (c->count > 0) {
        struct rpc_slot *s = &c->core->slots[c->calls[0].slot];
        if (silent)
            call_remove(s);
        else
            call_close(s);
    }
    free(c->calls);
    c->calls = NULL;
    c->cap = 0;
}

void rpc_core_send(struct rpc_server *server, uint64_t call, const void *packed, size_t len)
{
    struct rpc_slot *s = slot_find((struct rpc_core *)server, call);
    if (!s)
        return;
    CHECK(s->method->is_server_stream);
    if (len > RPC_BODY_BYTES) { /* a stream with a hole would be worse than none */
        s->conn->core->hooks->fail(s->conn);
        return;
    }
    struct rpc_frame f = {.kind = ACCEL__V1__FRAME__KIND__MESSAGE, .call = s->client_call};
    f.has_body = true;
    f.body = packed;
    f.body_len = len;
    s->conn->core->hooks->emit(s->conn, &f);
}

void rpc_core_end(struct rpc_server *server, uint64_t call, const void *packed, size_t len,
                  int code, const char *text)
{
    struct rpc_slot *s = slot_find((struct rpc_core *)server, call);
    if (!s)
        return;
    struct rpc_conn *c = s->conn;
    struct rpc_frame f = {.kind = ACCEL__V1__FRAME__KIND__END, .call = s->client_call};
    if (code == 0 && len > RPC_BODY_BYTES) {
        code = ACCEL_EFULL;
        text = "the answer is too large for one message";
    }
    if (code == 0) {
        f.has_body = packed || !s->method->is_server_stream; /* a unary answer may be of 0 bytes */
        f.body = packed;
        f.body_len = packed ? len : 0;
    } else {
        f.code = accel_error_to_grpc(code);
        f.text = text ? text : accel_error_sentence(code);
        f.text_len = strnlen(f.text, RPC_TEXT_BYTES);
    }
    call_remove(s);
    c->core->hooks->emit(c, &f);
}

void rpc_core_pause(struct rpc_server *server, uint64_t call, bool paused)
{
    struct rpc_slot *s = slot_find((struct rpc_core *)server, call);
    if (s)
        call_pause(s, paused);
}

/* --- calls at the client --- */

void rpc_chan_init(struct rpc_chan *ch, const struct rpc_channel_ops *ops,
                   const struct rpc_chan_hooks *hooks)
{
    memset(ch, 0, sizeof(*ch));
    ch->base.ops = ops;
    ch->hooks = hooks;
    rpc_list_init(&ch->open);
    rpc_list_init(&ch->failed);
    ch->free_count = LIMIT_CALLS_PER_CONNECTION;
    for (uint32_t i = 0; i < ch->free_count; i++)
        ch->free_slots[i] = (uint16_t)(ch->free_count - 1 - i);
    arena_init(&ch->arena);
}

static struct rpc_chan_call *list_call(struct rpc_list *node)
{
    return CONTAINER_OF(node, struct rpc_chan_call, node);
}

static void call_free(struct rpc_chan_call *c)
{
    rpc_list_remove(&c->node);
    free(c);
}

void rpc_chan_done(struct rpc_chan *ch)
{
    rpc_list_splice(&ch->failed, &ch->open);
    while (!rpc_list_is_empty(&ch->failed))
        call_free(list_call(ch->failed.next));
    arena_done(&ch->arena);
}

/* Serials keep a late answer to a cancelled call from being taken for the answer to a new one in
 * its slot. */
static void id_take(struct rpc_chan *ch, struct rpc_chan_call *c)
{
    uint16_t slot = ch->free_slots[--ch->free_count];
    ch->serial = (ch->serial + 1) & 0x3fffff;
    if (ch->serial == 0)
        ch->serial = 1;
    c->id = ch->serial << 10 | slot;
    ch->slots[slot] = c;
}

static void id_release(struct rpc_chan *ch, struct rpc_chan_call *c)
{
    if (c->id == 0)
        return;
    ch->slots[c->id & 1023] = NULL;
    ch->free_slots[ch->free_count++] = (uint16_t)(c->id & 1023);
    c->id = 0;
}

static struct rpc_chan_call *id_find(struct rpc_chan *ch, uint32_t id)
{
    struct rpc_chan_call *c = ch->slots[id & 1023];
    return c && c->id == id ? c : NULL;
}

static void call_fail(struct rpc_chan *ch, struct rpc_chan_call *c, int code, const char *text)
{
    id_release(ch, c);
    c->code = code;
    c->text = text;
    rpc_list_remove(&c->node);
    rpc_list_append(&ch->failed, &c->node);
}

struct rpc_call *rpc_chan_start(struct rpc_channel *channel, const char *method,
                                const ProtobufCMessage *msg,
                                const ProtobufCMessageDescriptor *response,
                                const struct rpc_call_handlers *h, void *ctx)
{
    struct rpc_chan *ch = (struct rpc_chan *)channel;
    struct rpc_chan_call *c = xcalloc(1, sizeof(*c));
    c->base.channel = channel;
    c->response = response;
    c->h = h;
    c->ctx = ctx;
    rpc_list_init(&c->node);
    if (ch->is_dead) {
        call_fail(ch, c, ACCEL_ECLOSED, "the connection is closed");
    } else if (ch->free_count == 0) {
        call_fail(ch, c, ACCEL_EFULL, "too many calls are open on this connection");
    } else if (msg && protobuf_c_message_get_packed_size(msg) > RPC_BODY_BYTES) {
        call_fail(ch, c, ACCEL_EFULL, "the request is too large for one message");
    } else {
        struct rpc_frame f = {
            .kind = ACCEL__V1__FRAME__KIND__OPEN, .method = method, .method_len = strlen(method)};
        id_take(ch, c);
        rpc_list_append(&ch->open, &c->node);
        f.call = c->id;
        f.has_body = msg != NULL;
        f.msg = msg;
        ch->hooks->emit(ch, &f);
        return &c->base;
    }
    ch->hooks->wake(ch);
    return &c->base;
}

void rpc_chan_send(struct rpc_call *call, const ProtobufCMessage *msg)
{
    struct rpc_chan_call *c = (struct rpc_chan_call *)call;
    struct rpc_chan *ch = (struct rpc_chan *)call->channel;
    struct rpc_frame f = {.kind = ACCEL__V1__FRAME__KIND__MESSAGE, .call = c->id};
    if (c->id == 0)
        return; /* it has failed; its end is on the way */
    if (!msg) {
        f.kind = ACCEL__V1__FRAME__KIND__HALF_CLOSE;
    } else if (protobuf_c_message_get_packed_size(msg) > RPC_BODY_BYTES) {
        f.kind = ACCEL__V1__FRAME__KIND__CANCEL;
        call_fail(ch, c, ACCEL_EFULL, "the message is too large");
        ch->hooks->wake(ch);
    } else {
        f.has_body = true;
        f.msg = msg;
    }
    ch->hooks->emit(ch, &f);
}

void rpc_chan_cancel(struct rpc_call *call)
{
    struct rpc_chan_call *c = (struct rpc_chan_call *)call;
    struct rpc_chan *ch = (struct rpc_chan *)call->channel;
    struct rpc_frame f = {.kind = ACCEL__V1__FRAME__KIND__CANCEL, .call = c->id};
    if (c->id != 0) {
        id_release(ch, c);
        ch->hooks->emit(ch, &f);
    }
    call_free(c);
}

void rpc_chan_fail(struct rpc_chan *ch, const char *text)
{
    ch->is_dead = true;
    while (!rpc_list_is_empty(&ch->open))
        call_fail(ch, list_call(ch->open.next), ACCEL_ECLOSED, text);
}

/* The last callback of a call; the call is gone before it, so that whatever the callback does is
 * safe. */
static void call_end(struct rpc_chan *ch, struct rpc_chan_call *c, int code, const char *text)
{
    const struct rpc_call_handlers *h = c->h;
    void *ctx = c->ctx;
    id_release(ch, c);
    call_free(c);
    if (h->on_end)
        h->on_end(ctx, code, text);
}

void rpc_chan_deliver(struct rpc_chan *ch)
{
    struct rpc_list now;
    rpc_list_init(&now);
    rpc_list_splice(&now, &ch->failed);
    while (!rpc_list_is_empty(&now)) { /* callbacks may cancel any of them */
        struct rpc_chan_call *c = list_call(now.next);
        call_end(ch, c, c->code, c->text);
    }
}

static void end_with_text(struct rpc_chan *ch, struct rpc_chan_call *c, const struct rpc_frame *f)
{
    char text[RPC_TEXT_BYTES + 1];
    size_t n = MIN(f->text_len, sizeof(text) - 1);
    int code = accel_error_from_grpc(f->code);
    if (n > 0)
        memcpy(text, f->text, n);
    text[n] = 0;
    call_end(ch, c, code, n > 0 || code == 0 ? text : accel_error_sentence(code));
}

void rpc_chan_end(struct rpc_chan *ch, uint32_t id, int code, const char *text)
{
    struct rpc_chan_call *c = id_find(ch, id);
    if (c)
        call_end(ch, c, code, text);
}

int rpc_chan_on_frame(struct rpc_chan *ch, const uint8_t *p, size_t len)
{
    struct rpc_frame f;
    int r = rpc_frame_parse(p, len, &f);
    return r < 0 ? r : rpc_chan_take(ch, &f);
}

int rpc_chan_take(struct rpc_chan *ch, const struct rpc_frame *f)
{
    bool is_end = f->kind == ACCEL__V1__FRAME__KIND__END;
    if (!is_end && (f->kind != ACCEL__V1__FRAME__KIND__MESSAGE || !f->has_body))
        return ACCEL_EPROTO;
    struct rpc_chan_call *c = id_find(ch, f->call);
    if (!c)
        return 0; /* cancelled; this was on the way */
    if (f->has_body) {
        const ProtobufCMessage *msg = rpc_unpack(&ch->arena, c->response, f->body, f->body_len);
        if (!msg) {
            struct rpc_frame cancel = {.kind = ACCEL__V1__FRAME__KIND__CANCEL, .call = f->call};
            if (!is_end)
                ch->hooks->emit(ch, &cancel);
            call_end(ch, c, ACCEL_EPROTO,
                     "the answer cannot be decoded; are both sides of the same version?");
            rpc_arena_reset(&ch->arena);
            return 0;
        }
        if (c->h->on_message)
            c->h->on_message(c->ctx, msg);
        rpc_arena_reset(&ch->arena);
        c = id_find(ch, f->call); /* the callback may have cancelled it or closed the channel */
    }
    if (is_end && c)
        end_with_text(ch, c, f);
    return 0;
}
