/* SPDX-License-Identifier: Apache-2.0 */
/*
 * deferred.c - copies of events, packed, because a message lives no longer than the callback that
 * brings it; see deferred.h. It must not know what they mean.
 */
#include "scheduler/deferred.h"

#include <string.h>

#include "common/codec.h"
#include "common/limits.h"

struct deferred_event {
    struct deferred_event *next;
    enum rpc_event_type type;
    uint64_t call;
    const struct rpc_method *method;
    struct rpc_identity who;
    size_t len;
    bool has_msg;
    uint8_t packed[];
};

void deferred_init(struct deferred *d)
{
    *d = (struct deferred){0};
    d->tail = &d->head;
}

static void free_list(struct deferred_event *e)
{
    while (e) {
        struct deferred_event *next = e->next;
        free(e);
        e = next;
    }
}

void deferred_done(struct deferred *d)
{
    free_list(d->head);
    deferred_init(d);
}

static void keep(struct deferred *d, const struct rpc_event *ev, size_t len)
{
    struct deferred_event *e = xcalloc(1, sizeof(*e) + len + 1);

    e->type = ev->type;
    e->call = ev->call;
    e->method = ev->method;
    e->who = *ev->who;
    e->has_msg = ev->msg != NULL;
    e->len = len;
    if (ev->msg)
        protobuf_c_message_pack(ev->msg, e->packed);
    *d->tail = e;
    d->tail = &e->next;
    d->count++;
    d->bytes += len;
}

bool deferred_keep(struct deferred *d, const struct rpc_event *ev)
{
    size_t len = ev->msg ? protobuf_c_message_get_packed_size(ev->msg) : 0;
    bool is_full =
        d->count >= LIMIT_DEFERRED_MESSAGES || d->bytes + len > (size_t)LIMIT_DEFERRED_BYTES;

    if (!is_full || ev->type != RPC_MESSAGE) {
        keep(d, ev, len);
        return true;
    }
    struct rpc_event closed = *ev;
    closed.type = RPC_CLOSED;
    closed.msg = NULL;
    keep(d, &closed, 0);
    return false;
}

void deferred_replay(struct deferred *d, void (*take)(void *ctx, const struct rpc_event *ev),
                     void *ctx)
{
    struct deferred_event *e = d->head;

    deferred_init(d);
    while (e) {
        struct deferred_event *next = e->next;
        ProtobufCMessage *msg =
            e->has_msg
                ? protobuf_c_message_unpack(e->method->request, &codec_memory, e->len, e->packed)
                : NULL;
        const struct rpc_event ev = {e->type, e->call, e->method, &e->who, msg};
        take(ctx, &ev);
        if (msg)
            protobuf_c_message_free_unpacked(msg, NULL);
        free(e);
        e = next;
    }
}
