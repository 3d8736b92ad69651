/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages from outside: whatever bytes come, decoding into the arena as the transports do neither
 * reads beyond them nor keeps a pointer to them, agrees with decoding onto the heap, and what was
 * decoded packs and decodes again to the same bytes, by protobuf-c and by our own packing. The
 * first byte chooses the type.
 */
#include "fuzz.h"

#include <string.h>

#include "accel/v1/admin.pb-c.h"
#include "accel/v1/agent.pb-c.h"
#include "accel/v1/event.pb-c.h"
#include "accel/v1/job.pb-c.h"
#include "accel/v1/node.pb-c.h"
#include "accel/v1/shim.pb-c.h"
#include "common/pack.h"
#include "common/rpc_internal.h"

static const ProtobufCMessageDescriptor *const types[] = {
    &accel__v1__submit_request__descriptor, &accel__v1__list_request__descriptor,
    &accel__v1__get_reply__descriptor,      &accel__v1__watch_request__descriptor,
    &accel__v1__cancel_request__descriptor, &accel__v1__signal_request__descriptor,
    &accel__v1__input_request__descriptor,  &accel__v1__log_read_request__descriptor,
    &accel__v1__log_read_reply__descriptor, &accel__v1__events_request__descriptor,
    &accel__v1__frame__descriptor,          &accel__v1__agent_up__descriptor,
    &accel__v1__coord_down__descriptor,     &accel__v1__shim_up__descriptor,
    &accel__v1__shim_down__descriptor,      &accel__v1__attempt_spec__descriptor,
    &accel__v1__exit_record__descriptor,    &accel__v1__spawn_request__descriptor,
    &accel__v1__spawn_reply__descriptor,    &accel__v1__nodes_reply__descriptor,
    &accel__v1__status_reply__descriptor,   &accel__v1__events_reply__descriptor,
};

/* Our own packing gives the same bytes. */
static void check_pack(const ProtobufCMessage *m, const uint8_t *expected, size_t expected_len)
{
    struct arena arena;
    size_t len;
    arena_init(&arena);
    const uint8_t *packed = pack_message(m, &arena, &len);
    CHECK(len == expected_len && (len == 0 || memcmp(packed, expected, len) == 0));
    arena_done(&arena);
}

static size_t repack(const ProtobufCMessage *m, uint8_t **ret_data)
{
    size_t len = protobuf_c_message_get_packed_size(m);
    *ret_data = xrealloc(NULL, len);
    CHECK(protobuf_c_message_pack(m, *ret_data) == len);
    check_pack(m, *ret_data, len);
    return len;
}

static bool has_unknown(const ProtobufCMessage *m);

static bool field_has_unknown(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
    const char *at = (const char *)m + f->offset, *count = (const char *)m + f->quantifier_offset;
    if (f->type != PROTOBUF_C_TYPE_MESSAGE)
        return false;
    if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF && *(const uint32_t *)count != f->id)
        return false;
    if (f->label != PROTOBUF_C_LABEL_REPEATED)
        return *(ProtobufCMessage *const *)at && has_unknown(*(ProtobufCMessage *const *)at);
    for (size_t i = 0; i < *(const size_t *)count; i++) {
        if (has_unknown((*(ProtobufCMessage *const *const *)at)[i]))
            return true;
    }
    return false;
}

/* protobuf-c keeps unknown fields, even number 0 in an overlong code, which it refuses to read once
 * it has written it in the short one. */
static bool has_unknown(const ProtobufCMessage *m)
{
    for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
        if (field_has_unknown(m, &m->descriptor->fields[i]))
            return true;
    }
    return m->n_unknown_fields > 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const ProtobufCMessageDescriptor *type = types[data[0] % ARRAY_LEN(types)];
    struct arena arena, other;
    AUTO_FREE uint8_t *copy = xmemdup(data + 1, size - 1), *first = NULL, *second = NULL;
    arena_init(&arena);
    arena_init(&other);
    const ProtobufCMessage *m = rpc_unpack(&arena, type, copy, size - 1);
    ProtobufCMessage *heap = protobuf_c_message_unpack(type, NULL, size - 1, data + 1);
    CHECK((m == NULL) == (heap == NULL));
    if (m) {
        memset(copy, 0xa5, size - 1); /* nobody may look at it any more */
        size_t len = repack(m, &first);
        const ProtobufCMessage *again = rpc_unpack(&other, type, first, len);
        CHECK(again || has_unknown(m));
        CHECK(!again || (repack(again, &second) == len && memcmp(first, second, len) == 0));
        CHECK(protobuf_c_message_get_packed_size(heap) == len);
        CHECK(!protobuf_c_message_check(m) == !protobuf_c_message_check(heap));
        protobuf_c_message_free_unpacked(heap, NULL);
    }
    rpc_arena_reset(&arena);
    arena_done(&arena);
    arena_done(&other);
    return 0;
}

/* --- corpus --- */

static void add(struct str *out, const ProtobufCMessage *m)
{
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (types[i] == m->descriptor) {
            AUTO_FREE uint8_t *data = NULL;
            size_t len = repack(m, &data);
            str_addc(out, (char)i);
            str_add(out, data, len);
            return;
        }
    }
    CHECK(!"a type of the corpus is in the table");
}

static void add_submit(struct str *out)
{
    Accel__V1__SubmitRequest m = ACCEL__V1__SUBMIT_REQUEST__INIT;
    Accel__V1__JobSpec spec = ACCEL__V1__JOB_SPEC__INIT;
    Accel__V1__Rlimit limit = ACCEL__V1__RLIMIT__INIT, *limits[] = {&limit};
    ProtobufCBinaryData argv[] = {{9, (uint8_t *)"/bin/true"}, {1, (uint8_t *)"x"}};
    limit.resource = 7;
    limit.soft = limit.hard = UINT64_MAX;
    m.request_id = (ProtobufCBinaryData){16, (uint8_t *)"0123456789abcdef"};
    m.spec = &spec;
    spec.name = (char *)"true";
    spec.n_argv = spec.n_env = ARRAY_LEN(argv);
    spec.argv = spec.env = argv;
    spec.n_rlimits = 1;
    spec.rlimits = limits;
    spec.procs_per_node = 2;
    spec.time_limit_ms = 60000;
    add(out, &m.base);
}

static void add_get_reply(struct str *out)
{
    Accel__V1__GetReply m = ACCEL__V1__GET_REPLY__INIT;
    Accel__V1__Job job = ACCEL__V1__JOB__INIT;
    Accel__V1__Attempt attempt = ACCEL__V1__ATTEMPT__INIT, *attempts[] = {&attempt};
    Accel__V1__Rank rank = ACCEL__V1__RANK__INIT, *ranks[] = {&rank, &rank};
    char *where[] = {(char *)"node-1", (char *)"node-2"};
    rank.exit_code = -1;
    rank.n_devices = 2;
    rank.devices = where;
    attempt.first_failed_rank = -1;
    attempt.n_ranks = 2;
    attempt.ranks = ranks;
    job.id = 1ull << 40;
    job.n_attempts = 1;
    job.attempts = attempts;
    job.n_where = 2;
    job.where = where;
    m.job = &job;
    add(out, &m.base);
}

static void add_list(struct str *out)
{
    Accel__V1__ListRequest m = ACCEL__V1__LIST_REQUEST__INIT;
    uint64_t ids[] = {1, 300, UINT64_MAX};
    m.n_ids = 3;
    m.ids = ids;
    add(out, &m.base);
}

static void add_log_reply(struct str *out)
{
    Accel__V1__LogReadReply m = ACCEL__V1__LOG_READ_REPLY__INIT;
    Accel__V1__LogChunk chunk = ACCEL__V1__LOG_CHUNK__INIT, *chunks[] = {&chunk, &chunk};
    chunk.data = (ProtobufCBinaryData){6, (uint8_t *)"hello\n"};
    chunk.cut_bytes = 1u << 20;
    m.n_chunks = 2;
    m.chunks = chunks;
    m.ended = true;
    add(out, &m.base);
}

bool fuzz_corpus(size_t i, struct str *out)
{
    switch (i) {
    case 0: add_submit(out); return true;
    case 1: add_get_reply(out); return true;
    case 2: add_list(out); return true;
    case 3: add_log_reply(out); return true;
    default: break;
    }
    if (i - 4 >= ARRAY_LEN(types))
        return false;
    str_addc(out, (char)(i - 4)); /* a few fields with numbers of any type */
    str_add(out, "\x08\x01\x12\x02\x08\x05\x1a\x00\x20\x07\x2a\x04\x0a\x02hi\x30\x01\x3a\x00", 20);
    return true;
}
