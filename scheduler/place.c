/* SPDX-License-Identifier: Apache-2.0 */
/*
 * place.c - which node carries which gang: first come, first served, all of a gang or nothing, no
 * device twice. Devices are taken and given back here only. A job that no nodes could ever carry,
 * or none without one that is lost, is set aside (queue.c) until the nodes change: it blocks
 * nobody, and costs nothing.
 */
#include "scheduler/place.h"

uint32_t place_count(const struct node *n, uint32_t kind, bool only_free)
{
    CHECK(kind < NODE_KINDS);
    return only_free ? n->counts[kind].free : n->counts[kind].all;
}

void place_recount(struct node *n)
{
    memset(n->counts, 0, sizeof(n->counts));
    for (size_t i = 0; i < n->device_count; i++) {
        const struct device *d = &n->devices[i];
        if (d->kind >= NODE_KINDS)
            continue;
        n->counts[d->kind].all++;
        n->counts[d->kind].free += !d->holder && !d->fault;
    }
}

/* TPU chips of a job are wired to each other only if they lie side by side, in a block that begins
 * at a multiple of its size. The index of the first device of such a block, device_count for none.
 */
static size_t find_block(const struct node *n, uint32_t size, bool only_free)
{
    size_t ordinal = 0, start = 0;
    bool is_good = false;

    for (size_t i = 0; i < n->device_count; i++) {
        const struct device *d = &n->devices[i];
        if (d->kind != ACCEL__V1__DEVICE_KIND__DEVICE_TPU)
            continue;
        if (ordinal % size == 0) {
            start = i;
            is_good = true;
        }
        is_good = is_good && !(only_free && (d->holder || d->fault));
        if (++ordinal % size == 0 && is_good)
            return start;
    }
    return n->device_count;
}

static bool has_devices(const struct node *n, const struct need *need, bool only_free)
{
    if (need->kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU)
        return need->devices % need->procs == 0 &&
               find_block(n, need->devices, only_free) < n->device_count;
    return place_count(n, need->kind, only_free) >= need->devices;
}

/* What an accelerator for whoever does not care is on this node. */
static uint32_t kind_on(const struct job *j, const struct node *n)
{
    if (place_count(n, ACCEL__V1__DEVICE_KIND__DEVICE_GPU, false))
        return ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
    if (place_count(n, ACCEL__V1__DEVICE_KIND__DEVICE_TPU, false))
        return ACCEL__V1__DEVICE_KIND__DEVICE_TPU;
    return j->gpus_per_node ? ACCEL__V1__DEVICE_KIND__DEVICE_GPU
                            : ACCEL__V1__DEVICE_KIND__DEVICE_CPU;
}

/* What the job needs on this node: `auto` means GPUs or TPU chips where the node has any. A TPU job
 * has all chips of the host and one process for them, unless it says otherwise. */
struct need place_need(const struct job *j, const struct node *n)
{
    struct need need = {.kind = j->device_kind, .procs = j->procs_per_node};

    if (need.kind == ACCEL__V1__DEVICE_KIND__DEVICE_AUTO)
        need.kind = kind_on(j, n);
    if (need.kind == ACCEL__V1__DEVICE_KIND__DEVICE_GPU) {
        need.devices = j->gpus_per_node ? j->gpus_per_node : MAX(need.procs, 1u);
        if (need.procs == 0)
            need.procs = need.devices;
    } else if (need.kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU) {
        need.devices = j->gpus_per_node ? j->gpus_per_node : place_count(n, need.kind, false);
        need.devices = MAX(need.devices, 1u); /* of a node that has none */
        need.procs = MAX(need.procs, 1u);
    } else {
        if (need.procs == 0)
            need.procs = 1;
        need.devices = need.procs;
    }
    return need;
}

/* Slots may be more than there are CPUs; time of a CPU that is asked for must exist. A node that
 * does not tell how many it has is believed. */
static bool has_cpus(const struct job *j, const struct node *n, const struct need *need)
{
    return n->cpus == 0 || (uint64_t)j->cpus_per_proc * need->procs <= n->cpus;
}

bool place_could_carry(const struct job *j, const struct node *n)
{
    struct need need = place_need(j, n);

    return has_devices(n, &need, false) && has_cpus(j, n, &need) &&
           (j->memory_bytes == 0 || j->memory_bytes <= n->memory_bytes);
}

bool place_can_carry_now(const struct job *j, const struct node *n)
{
    struct need need = place_need(j, n);

    return n->state == NODE_READY && n->stray_count == 0 && has_devices(n, &need, true) &&
           has_cpus(j, n, &need) &&
           (j->memory_bytes == 0 ||
            j->memory_bytes <= n->memory_bytes - MIN(n->memory_used, n->memory_bytes));
}

/* Indices, ascending: chips that lie side by side, GPUs that are near, the first slots. */
static void choose_devices(const struct node *n, const struct need *need, size_t *ret_at)
{
    bool is_block = need->kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU;
    size_t i = is_block ? find_block(n, need->devices, true) : 0, count = 0;

    if (need->kind == ACCEL__V1__DEVICE_KIND__DEVICE_GPU) {
        islands_pick(n, need->kind, need->devices, ret_at);
        return;
    }
    for (; i < n->device_count && count < need->devices; i++) {
        const struct device *d = &n->devices[i];
        if (d->kind == need->kind && !d->holder && !d->fault)
            ret_at[count++] = i;
    }
    CHECK(count == need->devices);
}

static void share_fill(struct share *s, struct node *n, const struct need *need)
{
    s->node = n;
    s->node_name = xstrdup(n->name);
    s->local_size = need->procs;
    s->devices = xcalloc(need->devices, sizeof(char *));
    size_t *at = xcalloc(need->devices, sizeof(*at));
    choose_devices(n, need, at);
    for (size_t i = 0; i < need->devices; i++)
        s->devices[s->device_count++] = xstrdup(n->devices[at[i]].id);
    free(at);
}

static void share_take(struct share *s)
{
    struct node *n = s->node;

    for (size_t k = 0; k < s->device_count; k++) {
        for (size_t i = 0; i < n->device_count; i++) {
            struct device *d = &n->devices[i];
            if (strcmp(d->id, s->devices[k]))
                continue;
            CHECK(!d->holder);
            d->holder = s->attempt;
        }
    }
    place_recount(n);
    n->memory_used += s->attempt->job->memory_bytes;
    LIST_INSERT_HEAD(&n->shares, s, on_node);
}

void place_take(struct coord *c, struct attempt *a)
{
    (void)c;
    for (size_t i = 0; i < a->share_count; i++)
        if (a->shares[i].node && !a->shares[i].ended)
            share_take(&a->shares[i]);
}

void place_give_back(struct coord *c, struct share *s)
{
    struct node *n = s->node;

    CHECK(n && !s->ended);
    for (size_t k = 0; k < s->device_count; k++) {
        for (size_t i = 0; i < n->device_count; i++)
            if (!strcmp(n->devices[i].id, s->devices[k]) && n->devices[i].holder == s->attempt)
                n->devices[i].holder = NULL;
    }
    place_recount(n);
    CHECK(n->memory_used >= s->attempt->job->memory_bytes);
    n->memory_used -= s->attempt->job->memory_bytes;
    s->ended = true;
    LIST_REMOVE(s, on_node);
    c->needs_placing = true;
}

static void split_devices(struct attempt *a, const struct share *s)
{
    AUTO_STR struct str text = {0};

    for (uint32_t local = 0; local < s->local_size; local++) {
        struct worker *w = &a->workers[s->first_rank + local];
        size_t first = local * s->device_count / s->local_size;
        size_t last = (local + 1) * s->device_count / s->local_size;
        if (last == first)
            last = first + 1; /* more processes than GPUs: they share */
        str_init(&text);
        for (size_t d = first; d < last && d < s->device_count; d++)
            str_addf(&text, "%s%s", text.len ? "," : "", s->devices[d]);
        job_set_text(&w->devices, text.data);
        w->local_rank = local;
        str_done(&text);
        text = (struct str){0};
    }
}

void place_split_devices(struct attempt *a)
{
    for (size_t i = 0; i < a->share_count; i++)
        split_devices(a, &a->shares[i]);
}

static void place_on(struct coord *c, struct job *j, const struct choice *choice)
{
    uint32_t world_size = 0;

    for (size_t i = 0; i < choice->count; i++)
        world_size += place_need(j, choice->nodes[i]).procs;
    struct attempt *a = attempt_new(j, ++job_run(j)->attempt, world_size, choice->count);
    for (size_t i = 0, first_rank = 0; i < choice->count; i++) {
        struct need need = place_need(j, choice->nodes[i]);
        struct share *s = &a->shares[i];
        s->first_rank = (uint32_t)first_rank;
        first_rank += need.procs;
        a->is_on_tpus |= need.kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU;
        share_fill(s, choice->nodes[i], &need);
        share_take(s);
    }
    place_split_devices(a);
    job_set_text(&j->run->reason, NULL);
    job_apply(c, j, JOB_EV_PLACE, NULL);
}

void place_pending(struct coord *c)
{
    struct job *j, *next;
    struct choice choice;
    struct arena arena;

    arena_init(&arena);
    c->needs_placing = false;
    if (c->nodes_changed)
        queue_reunite(c);
    c->nodes_changed = false;
    for (j = TAILQ_FIRST(&c->pending); j; j = next) {
        next = TAILQ_NEXT(j, queue);
        arena_reset(&arena);
        choose_nodes(c, j, &arena, &choice);
        if (choice.nodes)
            place_on(c, j, &choice);
        else if (choice.is_near)
            break; /* first come, first served: nobody overtakes */
        else
            queue_set_aside(c, j);
    }
    arena_done(&arena);
}
