/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The services that every gRPC server is expected to have: health here, reflection in
 * rpc_grpc_reflect.c. They are methods as any other, in a table of calls of their own; who may call
 * is decided in rpc_grpc_call.c. They know nothing of accel's services.
 */
#include <string.h>

#include "common/rpc_grpc_internal.h"
#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"

#define WATCHES_MAX 1024u /* of health; further ones are refused */

struct watch {
    struct rpc_list node;
    uint64_t call;
};

static size_t pack_status(const struct wire_service_state *s, uint8_t *buf, size_t size)
{
    Grpc__Health__V1__HealthCheckResponse m = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    m.status = s->is_draining ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
                              : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
    CHECK(protobuf_c_message_get_packed_size(&m.base) <= size);
    return protobuf_c_message_pack(&m.base, buf);
}

static bool is_known(const struct rpc_event *ev)
{
    const Grpc__Health__V1__HealthCheckRequest *rq =
        (const Grpc__Health__V1__HealthCheckRequest *)ev->msg;
    return rq->service[0] == 0 || strncmp(rq->service, "accel.v1.", 9) == 0;
}

static void on_check(void *ctx, const struct rpc_event *ev)
{
    struct wire_service_state *s = ctx;
    uint8_t buf[16];
    if (ev->type != RPC_OPEN)
        return;
    if (!is_known(ev))
        rpc_server_end(s->server, ev->call, NULL, 0, ACCEL_ENOENT, "there is no such service");
    else
        rpc_server_end(s->server, ev->call, buf, pack_status(s, buf, sizeof(buf)), 0, NULL);
}

static struct watch *find_watch(struct wire_service_state *s, uint64_t call, size_t *ret_count)
{
    size_t count = 0;
    struct watch *found = NULL;
    for (struct rpc_list *node = s->watches.next; node != &s->watches; node = node->next) {
        struct watch *w = CONTAINER_OF(node, struct watch, node);
        if (w->call == call)
            found = w;
        count++;
    }
    *ret_count = count;
    return found;
}

static void on_watch(void *ctx, const struct rpc_event *ev)
{
    struct wire_service_state *s = ctx;
    uint8_t buf[16];
    size_t count;
    struct watch *w = find_watch(s, ev->call, &count);
    if (ev->type == RPC_CLOSED && w) {
        rpc_list_remove(&w->node);
        free(w);
    }
    if (ev->type != RPC_OPEN)
        return;
    if (count >= WATCHES_MAX) {
        rpc_server_end(s->server, ev->call, NULL, 0, ACCEL_EFULL, "too many watch already");
        return;
    }
    w = xcalloc(1, sizeof(*w));
    w->call = ev->call;
    rpc_list_append(&s->watches, &w->node);
    rpc_server_send(s->server, ev->call, buf, pack_status(s, buf, sizeof(buf)));
}

void wire_standard_drain(struct wire_service_state *s)
{
    uint8_t buf[16];
    s->is_draining = true;
    size_t len = pack_status(s, buf, sizeof(buf));
    for (struct rpc_list *node = s->watches.next; node != &s->watches; node = node->next)
        rpc_server_send(s->server, CONTAINER_OF(node, struct watch, node)->call, buf, len);
}

void wire_standard_done(struct wire_service_state *s)
{
    CHECK(rpc_list_is_empty(&s->watches)); /* each was closed with its call */
}

#define HEALTH(name) &grpc__health__v1__##name##__descriptor
#define REFLECT(name)                                                                              \
    {                                                                                              \
        name, &grpc__reflection__v1__server_reflection_request__descriptor,                        \
            &grpc__reflection__v1__server_reflection_response__descriptor, true, true,             \
            RPC_ROLE_NONE, LIMIT_SMALL_MESSAGE_BYTES, wire_reflect, 0                              \
    }

void wire_standard_service(struct wire_service_state *state, struct rpc_service *ret_service)
{
    static const struct rpc_method methods[] = {
        {"/grpc.health.v1.Health/Check", HEALTH(health_check_request),
         HEALTH(health_check_response), false, false, RPC_ROLE_NONE, LIMIT_SMALL_MESSAGE_BYTES,
         on_check, 0},
        {"/grpc.health.v1.Health/Watch", HEALTH(health_check_request),
         HEALTH(health_check_response), false, true, RPC_ROLE_NONE, LIMIT_SMALL_MESSAGE_BYTES,
         on_watch, 0},
        REFLECT("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
        REFLECT("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
    };
    rpc_list_init(&state->watches);
    *ret_service = (struct rpc_service){methods, ARRAY_LEN(methods), state};
}
