/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the shims of this node gave to exchanges, until their attempts are over. Neighbours:
 * shell.c, which brings it in from the launcher and out to the coordinator; pmi.c and
 * scheduler/coord_fence.c at the two ends. It decides nothing.
 */
#include "agentd/exchange.h"

#include <string.h>

#define uthash_fatal(msg) base_check_failed(msg, __FILE__, __LINE__)
#include <uthash.h>

struct exchange_key { /* without padding: hashed as bytes */
    uint64_t job_id, attempt;
};

struct given {
    uint32_t number; /* 0: none */
    uint64_t era;
    uint8_t *data;
    size_t len;
};

struct giver {
    struct exchange_key key;
    struct given newest[2]; /* by number */
    UT_hash_handle hh;
};

struct exchange {
    void (*send)(void *ctx, const void *data, size_t len);
    void *ctx;
    struct giver *givers;
};

struct exchange *exchange_create(void (*send)(void *ctx, const void *data, size_t len), void *ctx)
{
    struct exchange *x = xcalloc(1, sizeof(*x));
    x->send = send;
    x->ctx = ctx;
    return x;
}

static void giver_free(struct exchange *x, struct giver *g)
{
    HASH_DEL(x->givers, g);
    free(g->newest[0].data);
    free(g->newest[1].data);
    free(g);
}

void exchange_destroy(struct exchange *x)
{
    struct giver *g, *next;
    if (!x)
        return;
    HASH_ITER(hh, x->givers, g, next)
        giver_free(x, g);
    free(x);
}

static struct giver *find(struct exchange *x, struct attempt_id id)
{
    struct exchange_key key = {id.job_id, id.attempt};
    struct giver *g = NULL;
    HASH_FIND(hh, x->givers, &key, sizeof(key), g);
    return g;
}

static void send_given(struct exchange *x, const struct giver *g, const struct given *what)
{
    Accel__V1__AgentUp up = ACCEL__V1__AGENT_UP__INIT;
    Accel__V1__Fence fence = ACCEL__V1__FENCE__INIT;
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    ref.job_id = g->key.job_id;
    ref.attempt = (uint32_t)g->key.attempt;
    ref.era = what->era;
    fence.ref = &ref;
    fence.number = what->number;
    fence.data = (ProtobufCBinaryData){.len = what->len, .data = what->data};
    up.body_case = ACCEL__V1__AGENT_UP__BODY_FENCE;
    up.fence = &fence;
    size_t len = accel__v1__agent_up__get_packed_size(&up);
    AUTO_FREE uint8_t *packed = xcalloc(1, len + 1);
    x->send(x->ctx, packed, accel__v1__agent_up__pack(&up, packed));
}

void exchange_give(struct exchange *x, struct attempt_id id, const Accel__V1__ShimFence *fence,
                   bool is_open)
{
    struct giver *g = find(x, id);
    if (fence->number == 0)
        return;
    if (!g) {
        g = xcalloc(1, sizeof(*g));
        g->key = (struct exchange_key){id.job_id, id.attempt};
        HASH_ADD(hh, x->givers, key, sizeof(g->key), g);
    }
    struct given *slot = &g->newest[fence->number % 2];
    free(slot->data);
    *slot = (struct given){.number = fence->number, .era = fence->era, .len = fence->data.len};
    slot->data = xmemdup(fence->data.data, fence->data.len);
    if (is_open)
        send_given(x, g, slot);
}

void exchange_tell_again(struct exchange *x)
{
    for (struct giver *g = x->givers; g; g = g->hh.next) {
        const struct given *newest = g->newest;
        bool swap = newest[0].number > newest[1].number; /* the older one first */
        for (size_t i = 0; i < 2; i++) {
            if (newest[i ^ swap].number)
                send_given(x, g, &newest[i ^ swap]);
        }
    }
}

void exchange_forget(struct exchange *x, struct attempt_id id)
{
    struct giver *g = find(x, id);
    if (g)
        giver_free(x, g);
}
