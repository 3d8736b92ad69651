/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The TPU runtime's contract: the attempt's chips and peers as tpu_env.c wants them, its answer
 * into a rank's list. Pure. Neighbours: environ.c, which calls it for jobs that have chips;
 * tpu_env.c.
 */
#include <string.h>

#include "agentd/environ_contract.h"
#include "common/str.h"

int environ_add_chip(struct environ_chips *chips, const Accel__V1__Device *d,
                     struct accel_error *err)
{
    uint64_t index;
    if (parse_u64(d->visible, 0, UINT16_MAX, &index) < 0 || chips->count == TPU_CHIPS_MAX)
        return error_set(err, ACCEL_EINVAL, "device %s is no TPU chip that can be used", d->id);
    chips->indexes[chips->count++] = (uint32_t)index;
    return 0;
}

/* A host whose metadata nobody has read: its devices say what they are. */
static struct tpu_host host_of_devices(const struct environ_input *in)
{
    struct tpu_host h = {.slice = "",
                         .accelerator = "",
                         .topology = "",
                         .chips_per_host = "",
                         .host_bounds = "",
                         .wrap = "",
                         .alt = ""};
    for (size_t i = 0; i < in->device_count; i++) {
        if (in->devices[i]->kind != ACCEL__V1__DEVICE_KIND__DEVICE_TPU)
            continue;
        h.generation = tpu_generation_of(in->devices[i]->model);
        h.chips++;
    }
    return h;
}

int environ_set_tpu_rank(struct env_list *e, const struct environ_input *in,
                         const struct environ_chips *chips, uint32_t i, struct accel_error *err)
{
    struct tpu_host own = in->tpu_host ? *in->tpu_host : host_of_devices(in);
    struct tpu_peer *peers = ARENA_ARRAY(e->arena, struct tpu_peer, in->peer_count + 1);
    struct tpu_env_input tpu = {
        .host = &own,
        .chips = chips->indexes,
        .chip_count = chips->count,
        .local_size = in->start->local_size,
        .node_rank = in->start->node_rank,
        .peers = peers,
        .peer_count = in->start->node_count > 1 ? in->peer_count : 0,
        .megascale_port = in->aux_port,
    };
    struct tpu_vars vars;
    if (in->start->node_count > 1 && in->start->node_rank >= in->peer_count)
        return error_set(err, ACCEL_EINVAL, "the other nodes of a job on TPUs are not known");
    for (size_t k = 0; k < in->peer_count; k++)
        peers[k] = (struct tpu_peer){in->peers[k]->address, in->peers[k]->slice,
                                     in->peers[k]->slice_worker};
    int r = tpu_env_rank(&tpu, i, e->arena, &vars, err);
    for (size_t k = 0; r == 0 && k < vars.count; k++)
        env_set(e, vars.items[k].name, "%s", vars.items[k].value);
    return r;
}
