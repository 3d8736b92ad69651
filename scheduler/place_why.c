/* SPDX-License-Identifier: Apache-2.0 */
/*
 * place_why.c - in words: why no node can carry a job, and what a pending one waits for. A job that
 * fits on the nodes that are known waits, whether they are here or away, and so does one that may
 * fit on a node that is known and has not told yet what it is; any other is refused. Neighbours:
 * place.c, choose.c, which decide. Nothing is changed here.
 */
#include "scheduler/coord_trust.h"
#include "scheduler/place.h"

#define NAMES_SAID_MAX 8u /* nodes in one sentence; then how many more */

const char *place_kind_name(uint32_t kind)
{
    return kind == ACCEL__V1__DEVICE_KIND__DEVICE_GPU   ? "GPU"
           : kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU ? "TPU chip"
                                                        : "CPU slot";
}

/* --- names of nodes in a sentence --- */

struct said {
    char *text;
    size_t size, used, count;
};

static void say_name(struct said *s, const char *name)
{
    if (s->count++ >= NAMES_SAID_MAX || s->used + 1 >= s->size)
        return;
    int len = snprintf(s->text + s->used, s->size - s->used, "%s%s", s->used ? ", " : "", name);
    s->used = MIN(s->used + (size_t)MAX(len, 0), s->size - 1);
}

static void say_rest(struct said *s)
{
    if (s->count > NAMES_SAID_MAX)
        snprintf(s->text + s->used, s->size - s->used, " and %zu more", s->count - NAMES_SAID_MAX);
}

/* --- what there is --- */

/* What each node has that the job may use, and which it may not. */
static void say_what_exists(const struct coord *c, const struct names *names, char *text,
                            size_t size)
{
    char out[160] = "";
    struct said left_out = {.text = out, .size = sizeof(out)};
    size_t used = 0;

    text[0] = 0;
    for (const struct node *n = c->nodes; n; n = n->hh.next)
        if (!choose_is_allowed(names, n->name))
            say_name(&left_out, n->name);
    say_rest(&left_out);
    if (left_out.count)
        used = (size_t)snprintf(text, size, "left out by %s: %s",
                                names->exclude_count == 0 ? "--nodelist"
                                : names->list_count == 0  ? "--exclude"
                                                          : "--nodelist and --exclude",
                                out);
    for (const struct node *n = c->nodes; n && used + 1 < size; n = n->hh.next) {
        if (!choose_is_allowed(names, n->name))
            continue;
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

static bool is_any_here(const struct coord *c)
{
    for (const struct node *n = c->nodes; n; n = n->hh.next)
        if (n->state != NODE_LOST)
            return true;
    return false;
}

/* For sentences: a node that could carry it, else one that it may use, else any. */
static const struct node *example(const struct coord *c, const struct names *names,
                                  const struct job *j)
{
    const struct node *best = c->nodes;

    for (const struct node *n = c->nodes; n; n = n->hh.next) {
        if (!choose_is_allowed(names, n->name))
            continue;
        if (place_could_carry(j, n))
            return n;
        if (!choose_is_allowed(names, best->name) ||
            (best->state == NODE_LOST && n->state != NODE_LOST))
            best = n;
    }
    return best;
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

/* The job would fit if it asked for the time of fewer CPUs. */
static int too_many_cpus(const struct coord *c, const struct job *j, const struct names *names,
                         struct accel_error *err)
{
    const struct node *n, *most = NULL;

    for (n = c->nodes; n; n = n->hh.next)
        if (choose_is_allowed(names, n->name) && (!most || n->cpus > most->cpus))
            most = n;
    CHECK(most);
    uint32_t procs = MAX(place_need(j, most).procs, 1u);
    return error_set(err, ACCEL_EINVAL,
                     "too few CPUs: %u process%s with %u CPU%s each on %s\nwhy: %s has %u, and no "
                     "node has more\ntry: %s--cpus-per-task %u",
                     procs, procs == 1 ? "" : "es", j->cpus_per_proc,
                     j->cpus_per_proc == 1 ? "" : "s", j->nodes > 1 ? "every node" : "one node",
                     most->name, most->cpus, procs > 1 ? "fewer --procs, or " : "",
                     MAX(most->cpus / procs, 1u));
}

static bool fits_without_cpus(const struct coord *c, const struct job *j, struct arena *arena)
{
    struct job other = *j; /* only read */
    struct choice choice;

    if (j->cpus_per_proc == 0)
        return false;
    other.cpus_per_proc = 0;
    choose_nodes(c, &other, arena, &choice);
    return choice.is_possible;
}

static int infeasible(const struct coord *c, const struct job *j, const struct names *names,
                      const struct choice *choice, struct accel_error *err)
{
    struct need need = place_need(j, example(c, names, j));
    bool tpu = need.kind == ACCEL__V1__DEVICE_KIND__DEVICE_TPU;
    const char *less = need.kind == ACCEL__V1__DEVICE_KIND__DEVICE_GPU
                           ? "fewer --gpus, or --devices cpu"
                       : tpu             ? "fewer --tpus, or --devices cpu"
                       : j->memory_bytes ? "fewer --procs, or less --mem"
                                         : "fewer --procs";
    char exists[256], asked[96];

    say_what_exists(c, names, exists, sizeof(exists));
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

/* --- nodes that are known and have not told what they are --- */

/* What a node has is known from the store, but not which slice it belongs to: that comes with its
 * Hello, or later, and until then none of its chips can be used. */
static bool is_untold(const struct node *n)
{
    const uint32_t tpu = ACCEL__V1__DEVICE_KIND__DEVICE_TPU;

    return place_count(n, tpu, false) > 0 &&
           (!n->told ||
            (!n->told->slice && place_count(n, tpu, true) == 0 && LIST_EMPTY(&n->shares)));
}

/* Names the nodes that the job may come to fit on once they have told; false: it will not. */
static bool may_yet_fit(const struct coord *c, const struct job *j, const struct names *names,
                        const struct choice *choice, struct said *ret)
{
    struct said none = {0};
    struct said *said = ret ? ret : &none;
    size_t more = 0;

    for (const struct certificate *k = NULL; (k = trust_next_unheard(c, k));) {
        if (!choose_is_allowed(names, k->name))
            continue;
        say_name(said, k->name);
        more++;
    }
    for (const struct node *n = c->nodes; n; n = n->hh.next)
        if (choose_is_allowed(names, n->name) && is_untold(n))
            say_name(said, n->name);
    say_rest(said);
    return said->count > 0 && choice->could + more >= j->nodes;
}

int place_feasible(const struct coord *c, const struct job *j, struct accel_error *err)
{
    struct choice choice;
    struct arena arena;
    int r = choose_check_names(c, j, err);

    if (r < 0 || !is_any_here(c))
        return r;
    arena_init(&arena);
    choose_nodes(c, j, &arena, &choice);
    struct names names = choose_names(j, &arena);
    if (!choice.is_possible && !may_yet_fit(c, j, &names, &choice, NULL))
        r = fits_without_cpus(c, j, &arena) ? too_many_cpus(c, j, &names, err)
                                            : infeasible(c, j, &names, &choice, err);
    arena_done(&arena);
    return r;
}

/* --- why jobs wait --- */

static bool is_same_kind(const struct job *a, const struct job *b)
{
    return a->device_kind == b->device_kind && a->procs_per_node == b->procs_per_node &&
           a->gpus_per_node == b->gpus_per_node && a->cpus_per_proc == b->cpus_per_proc &&
           a->memory_bytes == b->memory_bytes && a->nodes == b->nodes && !a->has_names &&
           !b->has_names;
}

/* The nodes that could carry a part of it, were they here; NULL: enough of them are. */
static const char *why_away(const struct place_why *w, const struct names *names,
                            const struct job *j)
{
    char text[160] = "";
    struct said away = {.text = text, .size = sizeof(text)};
    size_t here = 0;

    for (const struct node *n = w->c->nodes; n; n = n->hh.next) {
        if (!choose_is_allowed(names, n->name) || !place_could_carry(j, n))
            continue;
        if (n->state == NODE_READY)
            here++;
        else
            say_name(&away, n->name);
    }
    say_rest(&away);
    if (here >= j->nodes || away.count == 0)
        return NULL;
    return arena_printf(w->arena, "waits for node%s %s to come back", away.count > 1 ? "s" : "",
                        text);
}

static const char *why_impossible(struct place_why *w, const struct job *j)
{
    char names_text[160] = "", exists[192];
    struct said said = {.text = names_text, .size = sizeof(names_text)};
    struct names names = choose_names(j, w->arena);
    struct choice choice;

    if (w->impossible_of && is_same_kind(w->impossible_of, j))
        return w->impossible;
    choose_nodes(w->c, j, w->arena, &choice);
    const char *away = choice.is_possible ? why_away(w, &names, j) : NULL;
    if (away)
        return away;
    w->impossible_of = j;
    if (may_yet_fit(w->c, j, &names, &choice, &said))
        return w->impossible = arena_printf(w->arena, "waits for node%s %s to tell what %s",
                                            said.count > 1 ? "s" : "", names_text,
                                            said.count > 1 ? "they are" : "it is");
    say_what_exists(w->c, &names, exists, sizeof(exists));
    return w->impossible = arena_printf(w->arena, "no node can ever run it: %s", exists);
}

/* Whether the nodes that are not lost could carry the job. Jobs of one kind often come in a row, so
 * the last answer is kept. */
static bool is_near(struct place_why *w, const struct job *j)
{
    struct choice choice;

    if (j->is_aside && !w->c->nodes_changed)
        return false;
    if (w->kind && is_same_kind(w->kind, j))
        return w->kind_near;
    choose_nodes(w->c, j, w->arena, &choice);
    w->kind = j;
    w->kind_near = choice.is_near;
    return choice.is_near;
}

static void find_head(struct place_why *w)
{
    const struct job *j;

    TAILQ_FOREACH(j, &w->c->pending, queue)
    {
        if (is_near(w, j))
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
    if (!is_near(w, j))
        return why_impossible(w, j);
    if (!w->head)
        find_head(w);
    if (w->head && w->head != j)
        return w->behind;
    struct names names = choose_names(j, w->arena);
    const char *away = why_away(w, &names, j);
    if (away)
        return away;
    struct need need = place_need(j, example(w->c, &names, j));
    if (j->nodes > 1)
        return arena_printf(w->arena, "waits for %u nodes with %u free %ss each", j->nodes,
                            need.devices, place_kind_name(need.kind));
    return arena_printf(w->arena, "waits for %u free %ss", need.devices,
                        place_kind_name(need.kind));
}
