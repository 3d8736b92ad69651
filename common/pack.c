/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packing from the last byte to the first: when the length of a nested message is to be written it
 * is known, so nothing is measured beforehand. Fields go by the message's descriptor, the highest
 * number first. The rules (what is empty, what is left out) are those of protobuf_c_message_pack;
 * tests/unit/test_pack.c compares the two.
 */
#include "common/pack.h"

#include <string.h>

#include "common/base.h"
#include "common/str.h"

#define PACK_STACK_BYTES 2048u /* a plain answer fits, and costs no allocation of its own */

struct out {
    uint8_t *base; /* the packed bytes are those from base + at to base + cap */
    size_t cap, at;
    bool is_heap;
};

static void grow(struct out *o, size_t need)
{
    size_t used = o->cap - o->at, cap = o->cap * 2;

    while (cap - used < need)
        cap *= 2;
    uint8_t *base = xrealloc(NULL, cap);
    memcpy(base + cap - used, o->base + o->at, used);
    if (o->is_heap)
        free(o->base);
    *o = (struct out){.base = base, .cap = cap, .at = cap - used, .is_heap = true};
}

/* Where the next size bytes go, before all others. */
static inline uint8_t *room(struct out *o, size_t size)
{
    if (o->at < size)
        grow(o, size);
    o->at -= size;
    return o->base + o->at;
}

static inline void put_varint(struct out *o, uint64_t v)
{
    if (v < 0x80) {
        *room(o, 1) = (uint8_t)v;
        return;
    }
    size_t size = (size_t)(63 - __builtin_clzll(v)) / 7 + 1;
    uint8_t *p = room(o, size);
    for (; v >= 0x80; v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p = (uint8_t)v;
}

static void put_bytes(struct out *o, const void *data, size_t len)
{
    if (len)
        memcpy(room(o, len), data, len);
    put_varint(o, len);
}

static uint64_t zigzag32(int32_t v)
{
    return ((uint32_t)v << 1) ^ (uint32_t)(v >> 31);
}

static uint64_t zigzag64(int64_t v)
{
    return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63);
}

static void put_message(struct out *o, const ProtobufCMessage *msg);

/* The value alone; the wire type that belongs to it. */
static unsigned put_value(struct out *o, const ProtobufCFieldDescriptor *f, const void *member)
{
    const ProtobufCMessage *msg;
    const ProtobufCBinaryData *bytes;
    const char *text;
    size_t end = o->cap - o->at;

    switch (f->type) {
    case PROTOBUF_C_TYPE_ENUM:
    case PROTOBUF_C_TYPE_INT32:
        put_varint(o, (uint64_t)(int64_t) * (const int32_t *)member);
        return 0;
    case PROTOBUF_C_TYPE_UINT32: put_varint(o, *(const uint32_t *)member); return 0;
    case PROTOBUF_C_TYPE_SINT32: put_varint(o, zigzag32(*(const int32_t *)member)); return 0;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64: put_varint(o, *(const uint64_t *)member); return 0;
    case PROTOBUF_C_TYPE_SINT64: put_varint(o, zigzag64(*(const int64_t *)member)); return 0;
    case PROTOBUF_C_TYPE_BOOL: put_varint(o, *(const protobuf_c_boolean *)member != 0); return 0;
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE: memcpy(room(o, 8), member, 8); return 1; /* little endian */
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FLOAT: memcpy(room(o, 4), member, 4); return 5;
    case PROTOBUF_C_TYPE_STRING:
        text = *(const char *const *)member;
        put_bytes(o, text, text ? strlen(text) : 0);
        return 2;
    case PROTOBUF_C_TYPE_BYTES:
        bytes = member;
        put_bytes(o, bytes->data, bytes->len);
        return 2;
    case PROTOBUF_C_TYPE_MESSAGE:
        msg = *(const ProtobufCMessage *const *)member;
        if (msg)
            put_message(o, msg);
        put_varint(o, o->cap - o->at - end);
        return 2;
    }
    CHECK(!"a type of protobuf");
    return 0;
}

static inline void put_field(struct out *o, const ProtobufCFieldDescriptor *f, const void *member)
{
    unsigned wire_type = put_value(o, f, member);

    put_varint(o, (uint64_t)f->id << 3 | wire_type);
}

static inline bool is_zero(const ProtobufCFieldDescriptor *f, const void *member)
{
    const char *text;

    switch (f->type) {
    case PROTOBUF_C_TYPE_BOOL: return *(const protobuf_c_boolean *)member == 0;
    case PROTOBUF_C_TYPE_ENUM:
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32: return *(const uint32_t *)member == 0;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64: return *(const uint64_t *)member == 0;
    case PROTOBUF_C_TYPE_FLOAT: return *(const float *)member == 0; /* also -0 */
    case PROTOBUF_C_TYPE_DOUBLE: return *(const double *)member == 0;
    case PROTOBUF_C_TYPE_STRING: text = *(const char *const *)member; return !text || !*text;
    case PROTOBUF_C_TYPE_BYTES: return ((const ProtobufCBinaryData *)member)->len == 0;
    case PROTOBUF_C_TYPE_MESSAGE: return !*(const void *const *)member;
    }
    CHECK(!"a type of protobuf");
    return true;
}

static size_t size_of(const ProtobufCFieldDescriptor *f)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_BOOL: return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_ENUM:
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FLOAT: return 4;
    case PROTOBUF_C_TYPE_BYTES: return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE: return sizeof(void *);
    default: return 8;
    }
}

static void put_repeated(struct out *o, const ProtobufCFieldDescriptor *f, size_t count,
                         const uint8_t *members)
{
    bool is_packed = f->flags & PROTOBUF_C_FIELD_FLAG_PACKED;
    size_t size = size_of(f), end = o->cap - o->at;

    for (size_t i = count; i > 0; i--) {
        if (is_packed)
            put_value(o, f, members + (i - 1) * size);
        else
            put_field(o, f, members + (i - 1) * size);
    }
    if (!is_packed || count == 0)
        return;
    put_varint(o, o->cap - o->at - end);
    put_varint(o, (uint64_t)f->id << 3 | 2);
}

static bool is_pointer(const ProtobufCFieldDescriptor *f)
{
    return f->type == PROTOBUF_C_TYPE_MESSAGE || f->type == PROTOBUF_C_TYPE_STRING;
}

/* Of proto3 singular fields in a oneof, and of proto2 optional ones. */
static bool is_present(const ProtobufCFieldDescriptor *f, const uint8_t *msg, const void *member)
{
    const void *pointer = is_pointer(f) ? *(const void *const *)member : NULL;
    const void *quantifier = msg + f->quantifier_offset;

    if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
        if (*(const uint32_t *)quantifier != f->id)
            return false;
    } else if (!is_pointer(f)) {
        return *(const protobuf_c_boolean *)quantifier;
    }
    return !is_pointer(f) || (pointer && pointer != f->default_value);
}

static void put_unknown(struct out *o, const ProtobufCMessage *msg)
{
    for (unsigned i = msg->n_unknown_fields; i > 0; i--) {
        const ProtobufCMessageUnknownField *u = &msg->unknown_fields[i - 1];
        if (u->len)
            memcpy(room(o, u->len), u->data, u->len);
        put_varint(o, (uint64_t)u->tag << 3 | (unsigned)u->wire_type);
    }
}

static void put_message(struct out *o, const ProtobufCMessage *msg)
{
    const ProtobufCMessageDescriptor *d = msg->descriptor;
    const uint8_t *bytes = (const uint8_t *)msg;

    CHECK(d->magic == PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC);
    put_unknown(o, msg);
    for (unsigned i = d->n_fields; i > 0; i--) {
        const ProtobufCFieldDescriptor *f = &d->fields[i - 1];
        const void *member = bytes + f->offset;
        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t count = *(const size_t *)(const void *)(bytes + f->quantifier_offset);
            if (count)
                put_repeated(o, f, count, *(const uint8_t *const *)member);
        } else if (f->label == PROTOBUF_C_LABEL_NONE && !(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)) {
            if (!is_zero(f, member))
                put_field(o, f, member);
        } else if (f->label == PROTOBUF_C_LABEL_REQUIRED || is_present(f, bytes, member)) {
            put_field(o, f, member);
        }
    }
}

uint8_t *pack_message(const ProtobufCMessage *msg, struct arena *a, size_t *ret_len)
{
    uint8_t stack[PACK_STACK_BYTES];
    struct out o = {.base = stack, .cap = sizeof(stack), .at = sizeof(stack)};

    put_message(&o, msg);
    *ret_len = o.cap - o.at;
    uint8_t *packed = arena_dup(a, o.base + o.at, *ret_len);
    if (o.is_heap)
        free(o.base);
    return packed;
}

/* --- strings --- */

static bool is_filled(const ProtobufCMessage *msg, const ProtobufCFieldDescriptor *f)
{
    const uint32_t *which = (const uint32_t *)((const char *)msg + f->quantifier_offset);
    return !(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) || *which == f->id;
}

static void clean_one(const ProtobufCFieldDescriptor *f, void *value)
{
    if (!value)
        return;
    if (f->type == PROTOBUF_C_TYPE_STRING)
        make_utf8(value);
    else
        message_clean(value);
}

void message_clean(ProtobufCMessage *msg)
{
    const ProtobufCMessageDescriptor *type = msg->descriptor;

    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &type->fields[i];
        void *at = (char *)msg + f->offset;
        if (f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        if (f->label != PROTOBUF_C_LABEL_REPEATED) {
            if (is_filled(msg, f))
                clean_one(f, *(void **)at);
            continue;
        }
        size_t count = *(const size_t *)((const char *)msg + f->quantifier_offset);
        for (size_t k = 0; k < count; k++)
            clean_one(f, (*(void ***)at)[k]);
    }
}
