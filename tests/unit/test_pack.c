/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_message() against protobuf-c: for random messages of every type of the wire, filled field by
 * field (empty ones, negative numbers, empty texts, long ones, nested and repeated messages,
 * oneofs, unknown fields), both give the same bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "accel/v1/admin.pb-c.h"
#include "accel/v1/agent.pb-c.h"
#include "accel/v1/event.pb-c.h"
#include "accel/v1/job.pb-c.h"
#include "accel/v1/node.pb-c.h"
#include "accel/v1/rpc.pb-c.h"
#include "accel/v1/shim.pb-c.h"
#include "common/pack.h"
#include "common/prng.h"

enum { ROUNDS = 300, DEPTH_MAX = 4, REPEATED_MAX = 5 };

static const ProtobufCMessageDescriptor *const types[] = {
    &accel__v1__submit_request__descriptor, &accel__v1__list_reply__descriptor,
    &accel__v1__get_reply__descriptor,      &accel__v1__cancel_reply__descriptor,
    &accel__v1__log_read_reply__descriptor, &accel__v1__events_reply__descriptor,
    &accel__v1__frame__descriptor,          &accel__v1__agent_up__descriptor,
    &accel__v1__coord_down__descriptor,     &accel__v1__shim_up__descriptor,
    &accel__v1__shim_down__descriptor,      &accel__v1__attempt_spec__descriptor,
    &accel__v1__exit_record__descriptor,    &accel__v1__spawn_request__descriptor,
    &accel__v1__nodes_reply__descriptor,    &accel__v1__status_reply__descriptor,
};

static struct prng prng;
static struct arena arena;

static void *make_message(const ProtobufCMessageDescriptor *d, int depth);

static uint64_t number(void)
{
    uint64_t v = prng_next(&prng);

    switch (prng_below(&prng, 4)) {
    case 0: return 0;
    case 1: return v % 200;
    case 2: return ~(v % 200); /* negative */
    default: return v >> prng_below(&prng, 64);
    }
}

static size_t length(void)
{
    return prng_chance(&prng, 30) ? 0 : prng_below(&prng, prng_chance(&prng, 5) ? 6000 : 20);
}

static size_t fill_value(const ProtobufCFieldDescriptor *f, void *member, int depth)
{
    uint64_t v = number();
    uint32_t half = (uint32_t)v;
    size_t len = length();
    uint8_t *bytes = arena_alloc(&arena, len + 1);

    memset(bytes, 'x', len);
    switch (f->type) {
    case PROTOBUF_C_TYPE_STRING: memcpy(member, &bytes, sizeof(bytes)); return sizeof(bytes);
    case PROTOBUF_C_TYPE_BYTES:
        *(ProtobufCBinaryData *)member = (ProtobufCBinaryData){.len = len, .data = bytes};
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_MESSAGE:
        *(void **)member = make_message(f->descriptor, depth + 1);
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BOOL:
        *(protobuf_c_boolean *)member = (int)(v & 1);
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE: memcpy(member, &v, sizeof(v)); return sizeof(v);
    default: memcpy(member, &half, sizeof(half)); return sizeof(half);
    }
}

static void fill_field(uint8_t *msg, const ProtobufCFieldDescriptor *f, int depth)
{
    void *member = msg + f->offset, *quantifier = msg + f->quantifier_offset;

    if (prng_chance(&prng, 40) || (f->type == PROTOBUF_C_TYPE_MESSAGE && depth >= DEPTH_MAX))
        return;
    if (f->label == PROTOBUF_C_LABEL_REPEATED) {
        size_t count = prng_below(&prng, REPEATED_MAX), at = 0;
        uint8_t *members = arena_alloc(&arena, (count + 1) * 32);
        for (size_t i = 0; i < count; i++)
            at += fill_value(f, members + at, depth);
        memcpy(member, &members, sizeof(members));
        memcpy(quantifier, &count, sizeof(count));
        return;
    }
    if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
        memcpy(quantifier, &f->id, sizeof(f->id)); /* the last one wins; they share the member */
    fill_value(f, member, depth);
}

static void *make_message(const ProtobufCMessageDescriptor *d, int depth)
{
    ProtobufCMessage *m = arena_alloc(&arena, d->sizeof_message);

    protobuf_c_message_init(d, m);
    for (unsigned i = 0; i < d->n_fields; i++)
        fill_field((uint8_t *)m, &d->fields[i], depth);
    if (prng_chance(&prng, 10)) {
        m->n_unknown_fields = 2;
        m->unknown_fields = ARENA_ARRAY(&arena, ProtobufCMessageUnknownField, 2);
        for (uint32_t i = 0; i < 2; i++)
            m->unknown_fields[i] =
                (ProtobufCMessageUnknownField){.tag = 1000 + i,
                                               .wire_type = PROTOBUF_C_WIRE_TYPE_VARINT,
                                               .len = i,
                                               .data = (uint8_t *)"\1"};
    }
    return m;
}

static void test_same_bytes(void **state)
{
    arena_init(&arena);
    prng_init(&prng, 1);
    for (size_t i = 0; i < ROUNDS * ARRAY_LEN(types); i++) {
        const ProtobufCMessage *m = make_message(types[i % ARRAY_LEN(types)], 0);
        size_t len, expected_len = protobuf_c_message_get_packed_size(m);
        uint8_t *expected = arena_alloc(&arena, expected_len + 1);
        protobuf_c_message_pack(m, expected);
        const uint8_t *packed = pack_message(m, &arena, &len);
        assert_int_equal(len, expected_len);
        assert_memory_equal(packed, expected, len);
        arena_reset(&arena);
    }
    arena_done(&arena);
    (void)state;
}

static void test_empty(void **state)
{
    Accel__V1__ListReply m = ACCEL__V1__LIST_REPLY__INIT;
    size_t len = 1;

    arena_init(&arena);
    assert_non_null(pack_message(&m.base, &arena, &len));
    assert_int_equal(len, 0);
    arena_done(&arena);
    (void)state;
}

/* --- strings --- */

static void test_strings_are_made_utf8(void **state)
{
    static const char bad[] = "a\xff\xc3", rest[] = "a??";
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Hello hello = ACCEL__V1__HELLO__INIT;
    Accel__V1__Node node = ACCEL__V1__NODE__INIT;
    Accel__V1__Device device = ACCEL__V1__DEVICE__INIT, *devices = &device;
    Accel__V1__Rank rank = ACCEL__V1__RANK__INIT;
    char *limits[] = {(char *)bad, (char *)"\xc3\xa9t\xc3\xa9"}, copy[64];
    size_t len;

    (void)state;
    node.name = (char *)"n\xf0\x9f\x98\x80";
    node.limits = limits;
    node.n_limits = 2;
    device.fault = (char *)bad;
    node.devices = &devices;
    node.n_devices = 1;
    hello.node = &node;
    up.body_case = ACCEL__V1__AGENT_UP__BODY_HELLO; /* one of a oneof; the others are not there */
    up.hello = &hello;
    const uint8_t *packed = pack_message(&up.base, &arena, &len);
    Accel__V1__AgentUp *m = accel__v1__agent_up__unpack(NULL, len, packed);
    message_clean(&m->base);
    assert_string_equal(m->hello->node->name, node.name);
    assert_string_equal(m->hello->node->limits[0], rest);
    assert_string_equal(m->hello->node->limits[1], limits[1]);
    assert_string_equal(m->hello->node->devices[0]->fault, rest);
    accel__v1__agent_up__free_unpacked(m, NULL);

    rank.error = memcpy(copy, bad, sizeof(bad));
    rank.stderr_path = (ProtobufCBinaryData){3, (uint8_t *)bad}; /* bytes are bytes */
    message_clean(&rank.base);
    assert_string_equal(rank.error, rest);
    assert_memory_equal(rank.stderr_path.data, bad, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_strings_are_made_utf8),
    };
    return cmocka_run_group_tests_name("pack", tests, NULL, NULL);
}
