/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a node has told of itself that no row keeps, since it tells it again in each Hello: details
 * of its accelerators, its slice, what can be enforced there. CPU slots have no details.
 * Neighbours: node.c (devices that are placed), coord_agent.c, coord_view.c. It must not decide
 * anything.
 */
#include "scheduler/coord_internal.h"

/* --- a message in one block: of thousands of nodes with linked GPUs each has a hundred parts ---
 */

struct block {
    uint8_t *at; /* NULL: only the size is asked for */
    size_t len;
};

static void *block_add(struct block *b, const void *p, size_t len, size_t align)
{
    size_t from = (b->len + align - 1) / align * align;

    b->len = from + len;
    return b->at && len > 0 ? memcpy(b->at + from, p, len) : NULL;
}

static ProtobufCMessage *block_message(struct block *b, const ProtobufCMessage *m);

/* A part of it: a text or a message. What is empty stays the static that it was. */
static void *block_part(struct block *b, ProtobufCType type, void *part)
{
    if (type == PROTOBUF_C_TYPE_MESSAGE)
        return part ? block_message(b, part) : NULL;
    return *(char *)part ? block_add(b, part, strlen(part) + 1, 1)
                         : (void *)protobuf_c_empty_string;
}

static void block_field(struct block *b, const ProtobufCFieldDescriptor *f,
                        const ProtobufCMessage *from, ProtobufCMessage *to)
{
    void **field = to ? (void **)((uint8_t *)to + f->offset) : NULL;
    void *const *was = (void *const *)((const uint8_t *)from + f->offset);
    bool is_part = f->type == PROTOBUF_C_TYPE_MESSAGE || f->type == PROTOBUF_C_TYPE_STRING;

    CHECK(f->type != PROTOBUF_C_TYPE_BYTES && !(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF));
    if (f->label != PROTOBUF_C_LABEL_REPEATED) {
        void *copy = is_part ? block_part(b, f->type, *was) : NULL;
        if (is_part && field)
            *field = copy;
        return;
    }
    CHECK(is_part); /* a node has no lists of numbers */
    size_t count = *(const size_t *)((const uint8_t *)from + f->quantifier_offset);
    void **parts = block_add(b, *was, count * sizeof(void *), sizeof(void *));
    for (size_t i = 0; i < count; i++) {
        void *copy = block_part(b, f->type, ((void **)*was)[i]);
        if (parts)
            parts[i] = copy;
    }
    if (field)
        *field = parts;
}

/* What is not known of the message is left behind. */
static ProtobufCMessage *block_message(struct block *b, const ProtobufCMessage *m)
{
    ProtobufCMessage *copy = block_add(b, m, m->descriptor->sizeof_message, sizeof(void *));

    if (copy)
        copy->n_unknown_fields = 0;
    for (unsigned i = 0; i < m->descriptor->n_fields; i++)
        block_field(b, &m->descriptor->fields[i], m, copy);
    return copy;
}

/* To be freed as one block. */
static Accel__V1__Node *copy_node(const Accel__V1__Node *node)
{
    struct block size = {0}, b = {0};

    block_message(&size, &node->base);
    b.at = xcalloc(1, size.len);
    block_message(&b, &node->base);
    CHECK(b.len == size.len);
    return (Accel__V1__Node *)b.at;
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
    free(n->told);
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
