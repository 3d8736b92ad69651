/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node.h - the description of this node as it goes up in Hello, and the device sources behind it.
 */
#ifndef ACCEL_AGENTD_NODE_H
#define ACCEL_AGENTD_NODE_H

#include "agentd/device.h"
#include "agentd/tpu_env.h"

struct node;
struct node_config { /* borrowed until node_destroy */
    uv_loop_t *loop;
    const char *name, *isolation;
    const char *address, *ifname; /* read at each refresh: they may change */
    char *const *limits; /* what can be enforced, for people */
    size_t limit_count;
    const char *const *devices; /* "auto", "cpu[:N]", "nvml", "amd", "tpu" or "fake:FILE" */
    size_t device_count;
    uint64_t incarnation;
};
/* on_change: the devices may have changed; from the loop. Reads them once, so a fake file with
 * errors is refused here. */
int node_create(const struct node_config *config, void (*on_change)(void *), void *ctx,
                struct node **ret_node, struct accel_error *err);
/* Lists the devices again. On failure the last description stays. */
int node_refresh(struct node *n, struct accel_error *err);
/* Valid until the next node_refresh that succeeds. */
const Accel__V1__Node *node_description(const struct node *n);
/* For environ_build; NULL without TPU chips. Valid as long as the description. */
const struct tpu_host *node_tpu_host(const struct node *n);
/* An attempt is about to get these devices, or (is_adopted) runs with them already: see
 * device_source_ops.take. ACCEL_EBUSY: err says which and why; nothing was taken. */
int node_take_devices(struct node *n, const char *const *ids, size_t count, bool is_adopted,
                      struct accel_error *err);
/* It is over: see device_source_ops.release. True: on_free comes later, from the loop, once, unless
 * the node is destroyed before. */
bool node_release_devices(struct node *n, const char *const *ids, size_t count,
                          void (*on_free)(void *ctx), void *ctx);
void node_destroy(struct node *n); /* handles close on the loop's next turn */
/* /etc/machine-id, "" if there is none; size >= 40. */
void node_machine_id(char *buf, size_t size);

#endif
