/* SPDX-License-Identifier: Apache-2.0 */
/*
 * join.h - how a node comes into a cluster, and stays in it: `acceld --join` redeems a token once
 * and keeps what it got in STATE/tls/{node.key,node.pem,ca.pem,coordinator} (0600); later starts
 * need no token; the certificate is renewed at 2/3 of its life.
 */
#ifndef ACCEL_AGENTD_JOIN_H
#define ACCEL_AGENTD_JOIN_H

#include <uv.h>

#include "agentd/options.h"
#include "agentd/state.h"

/* Before the shell is made, on a loop that runs nothing else. With a token (--join or
 * $ACCEL_JOIN_TOKEN, both forgotten then) and no certificate yet it enrols: blocks, at most a
 * minute. Then, if the node is enrolled, fills o->coordinator and o->node_name where the command
 * line left them out. ACCEL_EINVAL: no token; ACCEL_EPERM: the coordinator refused it;
 * ACCEL_EUNAVAIL: none of its addresses answers; ACCEL_ESTALE: this node's clock and the
 * certificate disagree; ACCEL_EEXIST: the node is enrolled under another name. */
int join_start(uv_loop_t *loop, struct acceld_options *o, const struct state *state,
               struct accel_error *err);

struct join_renewal; /* opaque */
/* NULL if the coordinator is on this host. Loop's thread; a failure is logged and tried again. */
struct join_renewal *join_renewal_create(uv_loop_t *loop, const char *coordinator,
                                         const struct state *state);
void join_renewal_destroy(struct join_renewal *n); /* accepts NULL; freed by the loop */

#endif
