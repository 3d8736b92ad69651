/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exchange.h - exchanges between the nodes of an attempt (PMI barriers) on their way through
 * acceld: what the shims here give goes up, and again in each new session, because what the
 * coordinator knows of it is soft. The newest two of an attempt are kept: others may still wait
 * for the one before. Shell; copies what it keeps; aborts when memory ends.
 */
#ifndef ACCEL_AGENTD_EXCHANGE_H
#define ACCEL_AGENTD_EXCHANGE_H

#include "accel/v1/agent.pb-c.h"
#include "accel/v1/shim.pb-c.h"
#include "agentd/attempt.h"

struct exchange; /* opaque */

/* send: one packed AgentUp, borrowed; dropped there while no session is open. */
struct exchange *exchange_create(void (*send)(void *ctx, const void *data, size_t len), void *ctx);
void exchange_destroy(struct exchange *x);
/* A shim has given. is_open: the session was welcomed, send it now. */
void exchange_give(struct exchange *x, struct attempt_id id, const Accel__V1__ShimFence *fence,
                   bool is_open);
/* A session was welcomed: everything kept is sent again. */
void exchange_tell_again(struct exchange *x);
void exchange_forget(struct exchange *x, struct attempt_id id); /* the attempt is over */

#endif
