/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node_devices.c - the devices of a node as its agent tells them: their rows, who holds them, and
 * the lines of the history when an accelerator breaks, goes, or is fit for use again. Neighbours:
 * node.c (the node's life), place.c (who gets them). It must not decide what becomes of a job.
 */
#include "scheduler/coord_internal.h"

static void devices_free(struct device *d, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(d[i].id);
        free(d[i].model);
        free(d[i].visible);
        free(d[i].fault);
    }
    free(d);
}

void node_free_devices(struct node *n)
{
    devices_free(n->devices, n->device_count);
    n->devices = NULL;
    n->device_count = 0;
}

static bool same_text(const char *a, const char *b)
{
    return !strcmp(a ? a : "", b ? b : "");
}

static bool devices_equal(const struct node *n, Accel__V1__Device *const *devices, size_t count)
{
    if (n->device_count != count)
        return false;
    for (size_t i = 0; i < count; i++) {
        const struct device *d = &n->devices[i];
        const Accel__V1__Device *m = devices[i];
        if (strcmp(d->id, m->id) || d->kind != m->kind || d->index != m->index ||
            d->memory_bytes != m->memory_bytes || !same_text(d->model, m->model) ||
            !same_text(d->visible, m->visible) || !same_text(d->fault, m->fault))
            return false;
    }
    return true;
}

static struct attempt *holder_of(const struct node *n, const char *id)
{
    const struct share *s;

    LIST_FOREACH(s, &n->shares, on_node)
    {
        for (size_t i = 0; i < s->device_count; i++)
            if (!strcmp(s->devices[i], id))
                return s->attempt;
    }
    return NULL;
}

/* --- the history --- */

/* A node whose devices come and go in a loop must not push everything else out of the history. */
static bool may_tell(struct coord *c, struct node *n)
{
    if (n->told_events == 0 || c->now_ms - n->told_window_ms >= LIMIT_DEVICE_EVENTS_WINDOW_MS) {
        n->told_window_ms = c->now_ms;
        n->told_events = 0;
    }
    if (n->told_events >= LIMIT_DEVICE_EVENTS) {
        n->untold_events++;
        return false;
    }
    n->told_events++;
    if (n->untold_events > 0)
        history_add(c, EVENT_DEVICE, 0, 0, n->name,
                    "%u more changes of its devices before were not told one by one",
                    n->untold_events);
    n->untold_events = 0;
    return true;
}

/* `new` NULL: it is not there any more. Who uses a device and what is not ready yet is no news. */
static void tell_change(struct coord *c, struct node *n, const struct device *old,
                        const Accel__V1__Device *new)
{
    bool was_bad = old && old->fault && !old->is_passing;
    bool is_bad = new &&new->fault[0] && !new->is_passing;

    if (!new &&may_tell(c, n))
        history_add(c, EVENT_DEVICE, 0, 0, n->name, "%s is not there any more", old->id);
    else if (is_bad && !(was_bad && same_text(old->fault, new->fault)) && may_tell(c, n))
        history_add(c, EVENT_DEVICE_FAULT, 0, 0, n->name, "%s: %s", new->id, new->fault);
    else if (new &&was_bad && !is_bad && may_tell(c, n))
        history_add(c, EVENT_DEVICE, 0, 0, n->name, "%s is fit for use again (it was: %s)", new->id,
                    old->fault);
    else if (new && !old && !is_bad && n->device_count > 0 && may_tell(c, n))
        history_add(c, EVENT_DEVICE, 0, 0, n->name, "%s is new", new->id);
}

static const struct device *find_old(const struct node *n, const char *id)
{
    for (size_t i = 0; i < n->device_count; i++)
        if (!strcmp(n->devices[i].id, id))
            return &n->devices[i];
    return NULL;
}

static bool is_slot(uint32_t kind)
{
    return kind == ACCEL__V1__DEVICE_KIND__DEVICE_CPU;
}

static void tell_changes(struct coord *c, struct node *n, Accel__V1__Device *const *devices,
                         size_t count)
{
    for (size_t i = 0; i < n->device_count; i++) {
        bool stays = is_slot(n->devices[i].kind);
        for (size_t k = 0; k < count && !stays; k++)
            stays = !strcmp(n->devices[i].id, devices[k]->id);
        if (!stays)
            tell_change(c, n, &n->devices[i], NULL);
    }
    for (size_t k = 0; k < count; k++)
        if (!is_slot((uint32_t)devices[k]->kind))
            tell_change(c, n, find_old(n, devices[k]->id), devices[k]);
}

/* --- the devices --- */

void node_set_devices(struct coord *c, struct node *n, Accel__V1__Device *const *devices,
                      size_t count)
{
    if (devices_equal(n, devices, count))
        return;
    tell_changes(c, n, devices, count);
    for (size_t i = 0; i < n->device_count; i++) { /* rows of devices that went away */
        bool stays = false;
        for (size_t k = 0; k < count && !stays; k++)
            stays = !strcmp(n->devices[i].id, devices[k]->id);
        if (stays)
            continue;
        struct record *r = mark_loose(c, RECORD_DEVICE);
        r->is_delete = true;
        r->u.device.node = arena_strdup(&c->loose_arena, n->name);
        r->u.device.id = arena_strdup(&c->loose_arena, n->devices[i].id);
    }
    devices_free(n->devices, n->device_count);
    n->devices = count ? xcalloc(count, sizeof(*n->devices)) : NULL;
    n->device_count = count;
    for (size_t i = 0; i < count; i++) {
        struct device *d = &n->devices[i];
        d->id = xstrdup(devices[i]->id);
        d->kind = (uint32_t)devices[i]->kind;
        d->index = devices[i]->index;
        d->memory_bytes = devices[i]->memory_bytes;
        job_set_text(&d->model, devices[i]->model);
        job_set_text(&d->visible, devices[i]->visible);
        job_set_text(&d->fault, devices[i]->fault);
        d->is_passing = devices[i]->is_passing;
        d->holder = holder_of(n, d->id);
    }
    place_recount(n);
    mark_node(c, n);
    c->needs_placing = c->nodes_changed = true;
}
