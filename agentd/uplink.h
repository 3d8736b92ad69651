/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uplink.h - acceld's session with the coordinator over any rpc channel: connects (unix:PATH now), reconnects (at once after a loss, then
 * 50 ms doubling to 1 s with jitter, and at once when the socket file appears: inotify on its directory), opens Agent.Session,
 * passes messages. Decides nothing else.
 */
#ifndef ACCEL_AGENTD_UPLINK_H
#define ACCEL_AGENTD_UPLINK_H

#include <uv.h>

#include "accel/v1/agent.pb-c.h"
#include "common/rpc.h"

struct uplink;
struct uplink_callbacks {
    void (*on_open)(void *ctx);
    void (*on_down)(void *ctx, const Accel__V1__CoordDown *msg);
    void (*on_lost)(void *ctx, const char *why);
};
int uplink_create(uv_loop_t *loop, const char *address, const struct uplink_callbacks *cb, void *ctx,
                  struct uplink **ret_uplink, struct accel_error *err);
void uplink_send(struct uplink *u, const void *packed, size_t len); /* ignored without a session */
void uplink_reset(struct uplink *u);                                /* closes the session; reconnects with back-off */
void uplink_destroy(struct uplink *u, void (*on_closed)(void *), void *ctx);

#endif
