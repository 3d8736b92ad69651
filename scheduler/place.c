/* SPDX-License-Identifier: Apache-2.0 */
/*
 * place.c - which node carries which gang: first come, first served, all of a gang or nothing, no
 * device twice. Devices are taken and given back here only. A job that no known node could ever
 * carry is set aside (queue.c) until the nodes change: it blocks nobody, and costs nothing.
 */
#include "scheduler/place.h"

uint32_t place_count(const struct node *n, uint32_t kind, bool only_free)
{
    uint32_t count = 0;

    for (size_t i = 0; i < n->device_count; i++) {
        const struct device *d = &n->devices[i];
        if (d->kind != kind)
            continue;
        if (only_free && (d->holder || d->fault))
            continue;
        count++;
    }
    return count;
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

bool place_could_carry(const struct job *j, const struct node *n)
{
    struct need need = place_need(j, n);

    return has_devices(n, &need, false) &&
           (j->memory_bytes == 0 || j->memory_bytes <= n->memory_bytes);
}

bool place_can_carry_now(const struct job *j, const struct node *n)
{
    struct need need = place_need(j, n);

    return n->state == NODE_READY && n->stray_count == 0 && has_devices(n, &need, true) &&
           (j->memory_bytes == 0 ||
            j->memory_bytes <= n->memory_bytes - MIN(n->memory_used, n->memory_bytes));
}

static void share_fill(struct share *s, struct node *n, const struct need *need)
{
    s->node = n;
    s->node_name = xstrdup(n->name);
    s->local_size = need->procs;
    s->devices = xcalloc(need->devices, sizeof(char *));
    bool is_block = need->kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU;
    size_t i = is_block ? find_block(n, need->devices, true) : 0;
    for (; i < n->device_count && s->device_count < need->devices; i++) {
        const struct device *d = &n->devices[i];
        if (d->kind == need->kind && !d->holder && !d->fault)
            s->devices[s->device_count++] = xstrdup(d->id);
    }
    CHECK(s->device_count == need->devices);
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
        else if (choice.is_possible)
            break; /* first come, first served: nobody overtakes */
        else
            queue_set_aside(c, j);
    }
    arena_done(&arena);
}

const char *place_kind_name(uint32_t kind)
{
    return kind == ACCEL__V1__DEVICE_KIND__DEVICE_GPU   ? "GPU"
           : kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU ? "TPU chip"
                                                        : "CPU slot";
}

static void say_what_exists(const struct coord *c, char *text, size_t size)
{
    size_t used = 0;

    text[0] = 0;
    for (const struct node *n = c->nodes; n && used + 1 < size; n = n->hh.next) {
        uint32_t gpus = place_count(n, ACCEL__V1__DEVICE_KIND__DEVICE_GPU, false);
        uint32_t cpus = place_count(n, ACCEL__V1__DEVICE_KIND__DEVICE_CPU, false);
        uint32_t tpus = place_count(n, ACCEL__V1__DEVICE_KIND__DEVICE_TPU, false);
        char chips[32] = "";
        if (tpus)
            snprintf(chips, sizeof(chips), " %u TPU chips,", tpus);
        int len = snprintf(text + used, size - used,
                           "%snode %s has %u CPU slots,%s %u GPUs and %llu MiB of memory",
                           used ? "; " : "", n->name, cpus, chips, gpus,
                           (unsigned long long)(n->memory_bytes >> 20));
        used += len > 0 ? (size_t)len : 0;
    }
}

static const struct node *first_node(const struct coord *c)
{
    const struct node *n = c->nodes;

    while (n && n->state == NODE_LOST)
        n = n->hh.next;
    return n;
}

/* "3 nodes with 2 GPUs each" */
static void say_asked(const struct job *j, const struct need *need, char *text, size_t size)
{
    const char *s = need->devices == 1 ? "" : "s";
    const char *memory = j->memory_bytes ? " and memory" : "";

    if (j->nodes <= 1)
        snprintf(text, size, "%u %s%s%s on one node", need->devices, place_kind_name(need->kind), s,
                 memory);
    else
        snprintf(text, size, "%u nodes with %u %s%s%s each", j->nodes, need->devices,
                 place_kind_name(need->kind), s, memory);
}

static int infeasible(const struct coord *c, const struct job *j, const struct choice *choice,
                      struct accel_error *err)
{
    struct need need = place_need(j, first_node(c));
    bool tpu = need.kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU;
    const char *less = need.kind == ACCEL__V1__DEVICE_KIND__DEVICE_GPU
                           ? "fewer --gpus, or --devices cpu"
                       : tpu             ? "fewer --tpus, or --devices cpu"
                       : j->memory_bytes ? "fewer --procs, or less --mem"
                                         : "fewer --procs";
    char exists[256], asked[96];

    say_what_exists(c, exists, sizeof(exists));
    say_asked(j, &need, asked, sizeof(asked));
    if (tpu && need.devices % need.procs)
        return error_set(err, ACCEL_EINVAL,
                         "%u TPU chips cannot be split evenly over %u processes\nwhy: a chip "
                         "belongs to one process\ntry: another --procs, or --tpus",
                         need.devices, need.procs);
    if (choice->could >= j->nodes && tpu)
        return error_set(err, ACCEL_EINVAL,
                         "no nodes can run this job: it asks for %s\nwhy: the nodes of a TPU slice "
                         "run one job together, and no slices have %u nodes\ntry: --nodes with "
                         "the size of a slice: accelctl nodes -o wide",
                         asked, j->nodes);
    if (choice->could)
        return error_set(err, ACCEL_EINVAL,
                         "too few nodes can run this job: it asks for %s; %zu node%s ha%s that\n"
                         "why: %s\ntry: --nodes %zu, or %s",
                         asked, choice->could, choice->could == 1 ? "" : "s",
                         choice->could == 1 ? "s" : "ve", exists, choice->could, less);
    return error_set(err, ACCEL_EINVAL,
                     "no node can run this job: it asks for %s\nwhy: %s\ntry: %s", asked, exists,
                     less);
}

int place_feasible(const struct coord *c, const struct job *j, struct accel_error *err)
{
    struct choice choice;
    struct arena arena;
    int r = choose_check_names(c, j, err);

    if (r < 0 || !first_node(c))
        return r;
    arena_init(&arena);
    choose_nodes(c, j, &arena, &choice);
    r = choice.is_possible ? 0 : infeasible(c, j, &choice, err);
    arena_done(&arena);
    return r;
}

/* --- why jobs wait --- */

static const char *why_impossible(struct place_why *w)
{
    char exists[192];

    if (!w->impossible) {
        say_what_exists(w->c, exists, sizeof(exists));
        w->impossible = arena_printf(w->arena, "no node can ever run it: %s", exists);
    }
    return w->impossible;
}

static bool is_same_kind(const struct job *a, const struct job *b)
{
    return a->device_kind == b->device_kind && a->procs_per_node == b->procs_per_node &&
           a->gpus_per_node == b->gpus_per_node && a->memory_bytes == b->memory_bytes &&
           a->nodes == b->nodes && !a->has_names && !b->has_names;
}

/* Whether some node could ever carry the job. Jobs of one kind often come in a row, so the last
 * answer is kept. */
static bool is_possible(struct place_why *w, const struct job *j)
{
    struct choice choice;

    if (j->is_aside && !w->c->nodes_changed)
        return false;
    if (w->kind && is_same_kind(w->kind, j))
        return w->kind_possible;
    choose_nodes(w->c, j, w->arena, &choice);
    w->kind = j;
    w->kind_possible = choice.is_possible;
    return choice.is_possible;
}

static void find_head(struct place_why *w)
{
    const struct job *j;

    TAILQ_FOREACH(j, &w->c->pending, queue)
    {
        if (is_possible(w, j))
            break;
    }
    w->head = j;
    if (j)
        w->behind = arena_printf(w->arena, "waits behind job %llu", (unsigned long long)j->id);
}

void place_why_init(struct place_why *w, const struct coord *c, struct arena *arena)
{
    *w = (struct place_why){.c = c, .arena = arena};
    w->is_no_node_ready = coord_nodes_ready(c) == 0;
}

const char *place_why(struct place_why *w, const struct job *j)
{
    if (w->is_no_node_ready)
        return "no node is ready";
    if (!is_possible(w, j))
        return why_impossible(w);
    if (!w->head)
        find_head(w);
    if (w->head && w->head != j)
        return w->behind;
    struct need need = place_need(j, w->c->nodes);
    if (j->nodes > 1)
        return arena_printf(w->arena, "waits for %u nodes with %u free %ss each", j->nodes,
                            need.devices, place_kind_name(need.kind));
    return arena_printf(w->arena, "waits for %u free %ss", need.devices,
                        place_kind_name(need.kind));
}
