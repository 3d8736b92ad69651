/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choose.c - which nodes carry a job: the named and not the excluded ones, all of one kind of
 * device, the fullest first; whole slices where TPU chips are asked for. Neighbour: place.c, which
 * says what one node can carry and takes the devices.
 */
#include "scheduler/coord_trust.h"
#include "scheduler/place.h"

struct names choose_names(const struct job *j, struct arena *arena)
{
    struct names names = {0};

    if (!j->has_names)
        return names;
    const Accel__V1__JobSpec *spec = spec_unpack_bare(j, arena);
    names.list = spec->nodelist;
    names.list_count = spec->n_nodelist;
    names.exclude = spec->exclude;
    names.exclude_count = spec->n_exclude;
    return names;
}

static bool is_in(char *const *list, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (!strcmp(list[i], name))
            return true;
    return false;
}

bool choose_is_allowed(const struct names *names, const char *node)
{
    return (names->list_count == 0 || is_in(names->list, names->list_count, node)) &&
           !is_in(names->exclude, names->exclude_count, node);
}

/* --- one list of candidates --- */

struct candidate {
    struct node *node;
    uint32_t left; /* free devices that stay after it */
    size_t order;  /* of joining */
    const Accel__V1__Slice *slice;
};
struct list {
    struct candidate *items;
    size_t count;
};

static void list_add(struct list *l, struct node *n, uint32_t left)
{
    l->items[l->count] = (struct candidate){n, left, l->count, node_slice(n)};
    l->count++;
}

static int compare_fit(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static int compare_order(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    return x->order < y->order ? -1 : x->order > y->order;
}

static bool pick_plain(struct list *l, size_t wanted)
{
    if (l->count < wanted)
        return false;
    qsort(l->items, l->count, sizeof(*l->items), compare_fit);
    l->count = wanted;
    qsort(l->items, l->count, sizeof(*l->items), compare_order);
    return true;
}

/* --- slices --- */

static uint32_t slice_size(const struct candidate *k)
{
    return k->slice ? MAX(k->slice->nodes, 1u) : 1;
}

static int compare_slices(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    uint32_t x_size = slice_size(x), y_size = slice_size(y);

    if (x_size != y_size)
        return x_size > y_size ? -1 : 1; /* as few slices as can be */
    int by_name = x_size > 1 ? strcmp(x->slice->name, y->slice->name) : 0;
    if (by_name)
        return by_name;
    if (x_size > 1 && x->slice->worker != y->slice->worker)
        return x->slice->worker < y->slice->worker ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* How many candidates from `at` on are one whole slice: 0 if it is not whole. */
static size_t whole_slice(const struct list *l, size_t at)
{
    const struct candidate *first = &l->items[at];
    size_t size = slice_size(first);

    if (size == 1)
        return 1;
    for (size_t i = 0; i < size; i++)
        if (at + i >= l->count || !l->items[at + i].slice ||
            strcmp(l->items[at + i].slice->name, first->slice->name) ||
            l->items[at + i].slice->worker != i)
            return 0;
    return size;
}

/* Whole slices of one size, as large as possible, that make up `wanted` nodes. */
static bool pick_slices(struct list *l, size_t wanted)
{
    qsort(l->items, l->count, sizeof(*l->items), compare_slices);
    for (size_t at = 0; at < l->count;) {
        size_t size = slice_size(&l->items[at]), picked = 0, begin = at;
        for (; at < l->count && slice_size(&l->items[at]) == size;) {
            size_t whole = whole_slice(l, at);
            if (whole && wanted % size == 0 && picked < wanted) {
                memmove(l->items + begin + picked, l->items + at, whole * sizeof(*l->items));
                picked += whole;
            }
            at += whole ? whole : 1;
        }
        if (picked == wanted) {
            memmove(l->items, l->items + begin, wanted * sizeof(*l->items));
            l->count = wanted;
            return true;
        }
    }
    return false;
}

static bool pick(struct list *l, uint32_t kind, size_t wanted)
{
    return kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU ? pick_slices(l, wanted)
                                                      : pick_plain(l, wanted);
}

/* --- all of it --- */

static void choose_kind(const struct coord *c, const struct job *j, const struct names *names,
                        uint32_t kind, struct arena *arena, struct choice *ret)
{
    size_t known = HASH_CNT(hh, c->nodes);
    struct list now = {ARENA_ARRAY(arena, struct candidate, known + 1), 0};
    struct list could = {ARENA_ARRAY(arena, struct candidate, known + 1), 0};
    struct list near = {ARENA_ARRAY(arena, struct candidate, known + 1), 0};

    for (struct node *n = c->nodes; n; n = n->hh.next) {
        struct need need = place_need(j, n);
        if (need.kind != kind || !choose_is_allowed(names, n->name) || !place_could_carry(j, n))
            continue;
        list_add(&could, n, 0);
        if (n->state != NODE_LOST)
            list_add(&near, n, 0);
        if (place_can_carry_now(j, n))
            list_add(&now, n, place_count(n, kind, true) - need.devices);
    }
    ret->could = MAX(ret->could, could.count);
    if (!ret->nodes && pick(&now, kind, j->nodes)) {
        ret->nodes = ARENA_ARRAY(arena, struct node *, now.count);
        for (size_t i = 0; i < now.count; i++)
            ret->nodes[ret->count++] = now.items[i].node;
    }
    ret->is_near = ret->is_near || ret->nodes || pick(&near, kind, j->nodes);
    ret->is_possible = ret->is_possible || ret->is_near || pick(&could, kind, j->nodes);
}

/* GPUs, then TPU chips, then CPU slots, as for several nodes; then who is left with least. */
static bool is_better(const struct candidate *a, uint32_t a_kind, const struct candidate *b,
                      uint32_t b_kind)
{
    static const uint8_t order[] = {[ACCEL__V1__DEVICE_KIND__DEVICE_GPU] = 0,
                                    [ACCEL__V1__DEVICE_KIND__DEVICE_TPU] = 1,
                                    [ACCEL__V1__DEVICE_KIND__DEVICE_CPU] = 2};

    if (!b->node)
        return true;
    if (a_kind != b_kind)
        return order[a_kind] < order[b_kind];
    if (a->left != b->left)
        return a->left < b->left;
    return strcmp(a->node->name, b->node->name) < 0;
}

/* One node of any kind, without a list. */
static void choose_one(const struct coord *c, const struct job *j, struct arena *arena,
                       struct choice *ret)
{
    struct candidate best = {0};
    uint32_t best_kind = 0;

    for (struct node *n = c->nodes; n; n = n->hh.next) {
        const Accel__V1__Slice *slice = node_slice(n);
        struct need need = place_need(j, n);
        if (slice && slice->nodes > 1 && need.kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU)
            continue; /* taken with the rest of its slice only */
        if (!place_could_carry(j, n))
            continue;
        ret->could++;
        ret->is_possible = true;
        ret->is_near |= n->state != NODE_LOST;
        if (!place_can_carry_now(j, n))
            continue;
        struct candidate this = {.node = n, .left = place_count(n, need.kind, true) - need.devices};
        if (is_better(&this, need.kind, &best, best_kind)) {
            best = this;
            best_kind = need.kind;
        }
    }
    if (!best.node)
        return;
    ret->nodes = ARENA_NEW(arena, struct node *);
    ret->nodes[ret->count++] = best.node;
}

void choose_nodes(const struct coord *c, const struct job *j, struct arena *arena,
                  struct choice *ret)
{
    static const uint32_t kinds[] = {ACCEL__V1__DEVICE_KIND__DEVICE_GPU,
                                     ACCEL__V1__DEVICE_KIND__DEVICE_TPU,
                                     ACCEL__V1__DEVICE_KIND__DEVICE_CPU};

    *ret = (struct choice){0};
    if (j->nodes <= 1 && !j->has_names) {
        choose_one(c, j, arena, ret);
        return;
    }
    struct names names = choose_names(j, arena);
    for (size_t i = 0; i < ARRAY_LEN(kinds) && !ret->nodes; i++)
        if (j->device_kind == ACCEL__V1__DEVICE_KIND__DEVICE_AUTO || j->device_kind == kinds[i])
            choose_kind(c, j, &names, kinds[i], arena, ret);
}

/* --- names --- */

static bool is_known(const struct coord *c, const char *name)
{
    if (node_find(c, name))
        return true;
    for (const struct certificate *k = NULL; (k = trust_next_unheard(c, k));)
        if (!strcmp(k->name, name))
            return true;
    return false;
}

static const char *nearest(const struct coord *c, const char *name)
{
    const char *best = NULL;
    unsigned best_distance = 3;

    for (const struct node *n = c->nodes; n; n = n->hh.next) {
        unsigned d = edit_distance(name, n->name, best_distance);
        if (d < best_distance) {
            best_distance = d;
            best = n->name;
        }
    }
    return best;
}

static void say_nodes(const struct coord *c, char *text, size_t size)
{
    size_t used = 0;

    text[0] = 0;
    for (const struct node *n = c->nodes; n && used + 1 < size; n = n->hh.next) {
        int len = snprintf(text + used, size - used, "%s%s", used ? ", " : "", n->name);
        used += len > 0 ? (size_t)len : 0;
    }
}

static int check_list(const struct coord *c, const char *option, char *const *list, size_t count,
                      struct accel_error *err)
{
    char exists[192];

    for (size_t i = 0; i < count; i++) {
        if (is_known(c, list[i]))
            continue;
        const char *near = nearest(c, list[i]);
        say_nodes(c, exists, sizeof(exists));
        return error_set(err, ACCEL_EINVAL, "%s: no node %.64s\nwhy: the nodes are %s\ntry: %s%s",
                         option, list[i], exists, near ? near : "accelctl nodes", near ? "?" : "");
    }
    return 0;
}

int choose_check_names(const struct coord *c, const struct job *j, struct accel_error *err)
{
    struct arena arena;

    if (!j->has_names || !c->nodes)
        return 0;
    arena_init(&arena);
    struct names names = choose_names(j, &arena);
    int r = check_list(c, "--nodelist", names.list, names.list_count, err);
    if (r == 0)
        r = check_list(c, "--exclude", names.exclude, names.exclude_count, err);
    if (r == 0 && names.list_count && names.list_count < j->nodes)
        r = error_set(err, ACCEL_EINVAL,
                      "--nodelist names %zu nodes\nwhy: the job asks for %u\ntry: --nodes %zu",
                      names.list_count, j->nodes, names.list_count);
    arena_done(&arena);
    return r;
}
