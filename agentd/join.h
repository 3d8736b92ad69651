/* SPDX-License-Identifier: Apache-2.0 */
/*
 * join.h - how a node comes into a cluster, and stays in it: `acceld --join` redeems a token once
 * and keeps what it got in STATE/tls/{node.key,node.pem,ca.pem,coordinator} (0600), and in `token`
 * a hash by which it knows that token again; later starts need no token; the certificate is renewed
 * at 2/3 of its life. A token that this node has not seen yet is redeemed even so: the machine was
 * removed, its certificate has ended, or the cluster was made anew. What it had is replaced only
 * when everything new is there.
 */
#ifndef ACCEL_AGENTD_JOIN_H
#define ACCEL_AGENTD_JOIN_H

#include <uv.h>

#include "agentd/options.h"
#include "agentd/state.h"

/* Before the shell is made, on a loop that runs nothing else. With a new token (--join or
 * $ACCEL_JOIN_TOKEN, both forgotten then) it enrols: blocks, about a minute, and where the node is
 * enrolled already 3 s for each address that does not answer. Then, if the node is enrolled, fills
 * o->coordinator and o->node_name where the command line left them out. ACCEL_EEXIST: the node is
 * enrolled under another name. Of a node that is not enrolled: ACCEL_EINVAL: no token; ACCEL_EPERM:
 * the coordinator refused it; ACCEL_EUNAVAIL: none of its addresses answers; ACCEL_ESTALE: this
 * node's clock and the certificate disagree. Where it is, these are logged. With o->is_enrol_only
 * they are errors there too, and ACCEL_EINVAL is also: neither enrolled nor a token. */
int join_start(uv_loop_t *loop, struct acceld_options *o, const struct state *state,
               struct accel_error *err);

struct join_renewal; /* opaque */
/* NULL if the coordinator is on this host. Loop's thread; a failure is logged and tried again. */
struct join_renewal *join_renewal_create(uv_loop_t *loop, const char *coordinator,
                                         const struct state *state);
void join_renewal_destroy(struct join_renewal *n); /* accepts NULL; freed by the loop */

#endif
