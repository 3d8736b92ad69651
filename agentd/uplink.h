/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uplink.h - acceld's session with the coordinator over any rpc channel: connects (unix:PATH, or
 * tcp:HOST:PORT by the module that goes remote), reconnects, opens Agent.Session, passes messages.
 * Decides nothing else.
 *
 * unix: After a session that had been answered and lived for 1 s, or the first such: at once; else
 * after 50 ms doubling to 1 s with jitter; and at once when the socket file appears (inotify on its
 * directory; its listener may be a moment later than the file, so the back-off starts at 1 ms
 * then). tcp: the same with up to 4 s, so that a thousand nodes do not come at once and each is
 * back within 10 s; a coordinator that refuses this node (it was removed, its name is another's,
 * its certificate has expired) is asked after 4 s doubling to 5 min; why it fails is logged when
 * that changes. Loop's thread; connecting and looking up names do not block. Callbacks come from
 * the loop only.
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
    /* Once per on_open, except after uplink_reset() and uplink_destroy(). */
    void (*on_lost)(void *ctx, const char *why);
};
/* tls_dir: ca.pem, node.pem and node.key are read there before each try (tcp only; borrowed during
 * the call). ACCEL_EINVAL: an address of no known kind. A coordinator that is not there yet is no
 * error, nor are certificates that are not. */
int uplink_create(uv_loop_t *loop, const char *address, const char *tls_dir,
                  const struct uplink_callbacks *cb, void *ctx, struct uplink **ret_uplink,
                  struct accel_error *err);
/* From the next connection on (tcp only): a coordinator that is silent for so long is asked, and is
 * lost when it has not answered after half of it. */
#define UPLINK_KEEPALIVE_MS 20000 /* unless set */
void uplink_set_keepalive(struct uplink *u, int64_t keepalive_ms);
void uplink_send(struct uplink *u, const void *packed, size_t len); /* ignored without a session */
void uplink_reset(struct uplink *u); /* closes the session; reconnects with back-off */
/* Closes, frees u, then calls on_closed from the loop. */
void uplink_destroy(struct uplink *u, void (*on_closed)(void *), void *ctx);

#endif
