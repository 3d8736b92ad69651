/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a node has told of itself that no row keeps, since it tells it again in each Hello: details
 * of its accelerators, its slice, what can be enforced there. CPU slots have no details.
 * Neighbours: node.c (devices that are placed), coord_agent.c, coord_view.c. It must not decide
 * anything.
 */
#include "scheduler/coord_internal.h"

#include "common/codec.h"

static Accel__V1__Node *copy_node(const Accel__V1__Node *node)
{
    size_t len = accel__v1__node__get_packed_size(node);
    AUTO_FREE uint8_t *packed = xcalloc(1, len + 1);
    accel__v1__node__pack(node, packed);
    Accel__V1__Node *copy = accel__v1__node__unpack(&codec_memory, len, packed);
    CHECK(copy);
    return copy;
}

static bool same_slice(const Accel__V1__Slice *a, const Accel__V1__Slice *b)
{
    if (!a || !b)
        return a == b;
    return !strcmp(a->name, b->name) && a->nodes == b->nodes && a->worker == b->worker;
}

void node_tell(struct coord *c, struct node *n, const Accel__V1__Node *node)
{
    Accel__V1__Node part = *node;
    AUTO_FREE Accel__V1__Device **devices = xcalloc(node->n_devices + 1, sizeof(*devices));

    part.n_devices = 0;
    part.devices = devices;
    for (size_t i = 0; i < node->n_devices; i++) {
        if (node->devices[i]->kind != ACCEL__V1__DEVICE_KIND__DEVICE_CPU)
            devices[part.n_devices++] = node->devices[i];
    }
    if (!same_slice(n->told ? n->told->slice : NULL, part.slice)) {
        c->nodes_changed = true;
        c->needs_placing = true;
    }
    Accel__V1__Node *copy = copy_node(&part);
    node_forget_told(n);
    n->told = copy;
}

void node_tell_beat(struct coord *c, struct node *n, const Accel__V1__Beat *beat)
{
    Accel__V1__Node node = ACCEL__V1__NODE__INIT;

    if (n->told)
        node = *n->told;
    node.devices = beat->devices;
    node.n_devices = beat->n_devices;
    if (beat->slice)
        node.slice = beat->slice;
    node_tell(c, n, &node);
}

void node_forget_told(struct node *n)
{
    if (n->told)
        accel__v1__node__free_unpacked(n->told, &codec_memory);
    n->told = NULL;
}

const Accel__V1__Slice *node_slice(const struct node *n)
{
    return n->told ? n->told->slice : NULL;
}

const Accel__V1__Device *node_told_device(const struct node *n, const char *id)
{
    for (size_t i = 0; n->told && i < n->told->n_devices; i++) {
        if (!strcmp(n->told->devices[i]->id, id))
            return n->told->devices[i];
    }
    return NULL;
}
