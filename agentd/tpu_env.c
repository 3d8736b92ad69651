/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The variables of the TPU runtime, from numbers. Neighbours: environ.c, which puts them into the
 * AttemptSpec; device_tpu.c and slice.c, which know the host. It must not read the machine.
 */
#include "agentd/tpu_env.h"

#include <inttypes.h>
#include <string.h>

#include "common/str.h"

static const struct {
    enum tpu_generation generation;
    const char *type, *model;
    uint32_t cores; /* what the number in an accelerator type counts for each chip */
    bool is_3d;
} generations[] = {
    {TPU_V2, "v2-", "TPU v2", 2, false},          {TPU_V3, "v3-", "TPU v3", 2, false},
    {TPU_V4, "v4-", "TPU v4", 2, true},           {TPU_V5P, "v5p-", "TPU v5p", 2, true},
    {TPU_V5E, "v5litepod-", "TPU v5e", 1, false}, {TPU_V6E, "v6e-", "TPU v6e", 1, false},
    {TPU_7X, "tpu7x-", "TPU 7x", 2, true},
};

enum tpu_generation tpu_generation_of(const char *text)
{
    for (size_t i = 0; i < ARRAY_LEN(generations); i++) {
        if (strncmp(text, generations[i].type, strlen(generations[i].type)) == 0 ||
            strcmp(text, generations[i].model) == 0)
            return generations[i].generation;
    }
    return strncmp(text, "v5e-", 4) == 0 ? TPU_V5E : TPU_GENERATION_UNKNOWN;
}

const char *tpu_type_prefix(enum tpu_generation g)
{
    return g == TPU_GENERATION_UNKNOWN ? "" : generations[g - 1].type;
}

const char *tpu_model(enum tpu_generation g)
{
    return g == TPU_GENERATION_UNKNOWN ? "TPU" : generations[g - 1].model;
}

/* ---- layouts ---- */

static uint32_t bounds_size(struct tpu_bounds b)
{
    return b.x * b.y * b.z;
}

int tpu_bounds_parse(const char *text, struct tpu_bounds *ret_bounds)
{
    uint32_t dims[3] = {1, 1, 1};
    size_t count = 0;
    for (const char *p = text;; p++) {
        uint32_t n = 0;
        if (*p < '0' || *p > '9' || count == ARRAY_LEN(dims))
            return ACCEL_EINVAL;
        for (; *p >= '0' && *p <= '9'; p++) {
            n = n * 10 + (uint32_t)(*p - '0');
            if (n > 1024) /* beyond any pod; keeps products in range */
                return ACCEL_EINVAL;
        }
        if (n == 0)
            return ACCEL_EINVAL;
        dims[count++] = n;
        if (!*p)
            break;
        if (*p != 'x' && *p != ',')
            return ACCEL_EINVAL;
    }
    *ret_bounds = (struct tpu_bounds){dims[0], dims[1], dims[2]};
    return 0;
}

int tpu_bounds_of_count(size_t chips, struct tpu_bounds *ret_bounds)
{
    switch (chips) {
    case 1: *ret_bounds = (struct tpu_bounds){1, 1, 1}; return 0;
    case 2: *ret_bounds = (struct tpu_bounds){1, 2, 1}; return 0;
    case 4: *ret_bounds = (struct tpu_bounds){2, 2, 1}; return 0;
    case 8: *ret_bounds = (struct tpu_bounds){2, 4, 1}; return 0;
    case 16: *ret_bounds = (struct tpu_bounds){4, 4, 1}; return 0;
    default: return ACCEL_EINVAL;
    }
}

static int host_bounds(const struct tpu_host *h, struct tpu_bounds *ret_bounds,
                       struct accel_error *err)
{
    if (tpu_bounds_parse(h->chips_per_host, ret_bounds) == 0 &&
        bounds_size(*ret_bounds) == h->chips)
        return 0;
    if (tpu_bounds_of_count(h->chips, ret_bounds) == 0)
        return 0;
    return error_set(err, ACCEL_EINVAL, "a host with %" PRIu32 " chips: no known layout", h->chips);
}

/* Of the slice, in chips: v2 and v3 tell none, but they are the nearest to a square. */
static int slice_topology(const struct tpu_host *h, struct tpu_bounds *ret_bounds)
{
    if (tpu_bounds_parse(h->topology, ret_bounds) == 0)
        return 0;
    struct tpu_bounds b = {1, 1, 1};
    for (uint32_t left = h->chips * h->slice_nodes; left > 1; left /= 2) {
        if (left % 2)
            return ACCEL_EINVAL;
        if (b.y > b.x)
            b.x *= 2;
        else
            b.y *= 2;
    }
    *ret_bounds = b;
    return h->generation == TPU_V2 || h->generation == TPU_V3 ? 0 : ACCEL_EINVAL;
}

int tpu_host_grid(const struct tpu_host *h, struct tpu_bounds *ret_grid, struct accel_error *err)
{
    struct tpu_bounds all, host;
    uint32_t nodes = MAX(h->slice_nodes, 1u);
    if (nodes == 1) {
        *ret_grid = (struct tpu_bounds){1, 1, 1};
        return 0;
    }
    if (tpu_bounds_parse(h->host_bounds, ret_grid) == 0 && bounds_size(*ret_grid) == nodes)
        return 0;
    int r = host_bounds(h, &host, err);
    if (r < 0)
        return r;
    if (slice_topology(h, &all) < 0 || all.x % host.x || all.y % host.y || all.z % host.z)
        return error_set(err, ACCEL_EINVAL,
                         "slice %s: topology '%s' cannot be laid out on hosts of %" PRIu32 " chips",
                         h->slice, h->topology, h->chips);
    *ret_grid = (struct tpu_bounds){all.x / host.x, all.y / host.y, all.z / host.z};
    if (bounds_size(*ret_grid) != nodes)
        return error_set(err, ACCEL_EINVAL,
                         "slice %s: topology '%s' needs %" PRIu32 " hosts, it has %" PRIu32,
                         h->slice, h->topology, bounds_size(*ret_grid), nodes);
    return 0;
}

/* ---- which nodes make which slice ---- */

struct plan { /* of one process */
    const struct tpu_env_input *in;
    struct arena *arena;
    struct tpu_vars *vars;
    struct tpu_bounds host;     /* chips of the host that the job has */
    struct tpu_bounds grid;     /* hosts of the slice that the job has */
    const char *const *workers; /* addresses, by index in the slice */
    uint32_t worker_count, worker;
    uint32_t slice_count, slice_id;
    const char *megascale; /* address of worker 0 of the first slice */
    bool is_whole_host;
};

static void put(struct plan *p, const char *name, const char *value)
{
    CHECK(p->vars->count < TPU_VARS_MAX);
    p->vars->items[p->vars->count++] = (struct tpu_var){name, value};
}

static void put_number(struct plan *p, const char *name, uint32_t value)
{
    put(p, name, arena_printf(p->arena, "%" PRIu32, value));
}

static void put_bounds(struct plan *p, const char *name, struct tpu_bounds b)
{
    put(p, name, arena_printf(p->arena, "%" PRIu32 ",%" PRIu32 ",%" PRIu32, b.x, b.y, b.z));
}

static bool same_slice(const struct tpu_peer *a, const struct tpu_peer *b)
{
    return a == b || (a->slice[0] && strcmp(a->slice, b->slice) == 0);
}

/* Numbers the slices in the order in which they first appear, and collects the workers of ours. */
static int find_slices(struct plan *p, struct accel_error *err)
{
    const struct tpu_env_input *in = p->in;
    const struct tpu_peer *own = &in->peers[in->node_rank];
    const char **workers = ARENA_ARRAY(p->arena, const char *, in->peer_count);
    p->worker = own->worker;
    for (size_t i = 0; i < in->peer_count; i++) {
        const struct tpu_peer *peer = &in->peers[i];
        size_t first = 0;
        while (!same_slice(&in->peers[first], peer))
            first++;
        if (same_slice(peer, own)) {
            if (first == i)
                p->slice_id = p->slice_count;
            if (peer->worker >= in->peer_count || workers[peer->worker])
                return error_set(err, ACCEL_EINVAL,
                                 "slice %s: its hosts are not numbered from 0, each once",
                                 own->slice);
            workers[peer->worker] = peer->address;
            p->worker_count++;
        }
        if (first == i)
            p->slice_count++;
        if (same_slice(peer, &in->peers[0]) && peer->worker == 0)
            p->megascale = peer->address;
    }
    p->workers = workers;
    return 0;
}

static int plan_membership(struct plan *p, struct accel_error *err)
{
    static const char *const here[] = {"localhost"};
    const struct tpu_host *h = p->in->host;
    uint32_t nodes = MAX(h->slice_nodes, 1u);
    p->workers = here;
    p->worker_count = 1;
    p->slice_count = 1;
    p->grid = (struct tpu_bounds){1, 1, 1};
    if (p->in->peer_count <= 1)
        return 0;
    p->worker_count = p->slice_count = 0;
    int r = find_slices(p, err);
    if (r < 0)
        return r;
    if (p->worker_count == nodes)
        return tpu_host_grid(h, &p->grid, err);
    return error_set(err, ACCEL_EINVAL,
                     "%" PRIu32 " of the %" PRIu32 " hosts of slice %s: a slice is used whole, or "
                     "one host alone",
                     p->worker_count, nodes, h->slice);
}

/* The job's chips on this host, as one block of a known shape. */
static int plan_chips(struct plan *p, struct accel_error *err)
{
    const struct tpu_env_input *in = p->in;
    size_t n = in->chip_count;
    CHECK(n > 0 && in->local_size > 0);
    p->is_whole_host = n == in->host->chips;
    int r =
        p->is_whole_host ? host_bounds(in->host, &p->host, err) : tpu_bounds_of_count(n, &p->host);
    if (r < 0)
        return p->is_whole_host ? r
                                : error_set(err, ACCEL_EINVAL,
                                            "%zu chips of a host: 1, 2, 4 or 8 can be used", n);
    for (size_t i = 0; i < n; i++) {
        if (in->chips[i] != in->chips[0] + i || (!p->is_whole_host && in->chips[0] % n))
            return error_set(err, ACCEL_EINVAL, "chips %" PRIu32 " to %" PRIu32 " are no block",
                             in->chips[0], in->chips[n - 1]);
    }
    if (!p->is_whole_host && in->peer_count > 1)
        return error_set(err, ACCEL_EINVAL,
                         "%zu of %" PRIu32 " chips on several hosts: use all of each host", n,
                         in->host->chips);
    return 0;
}

/* ---- the variables ---- */

static void put_workers(struct plan *p)
{
    AUTO_STR struct str list;
    str_init(&list);
    for (uint32_t i = 0; i < p->worker_count; i++)
        str_addf(&list, "%s%s", i ? "," : "", p->workers[i]);
    put(p, "TPU_WORKER_HOSTNAMES", arena_strdup(p->arena, list.data));
    put_number(p, "TPU_WORKER_ID", p->worker);
}

static void put_type(struct plan *p)
{
    const struct tpu_host *h = p->in->host;
    bool is_whole_slice = p->is_whole_host && p->worker_count == MAX(h->slice_nodes, 1u);
    if (is_whole_slice && h->accelerator[0]) {
        put(p, "TPU_ACCELERATOR_TYPE", h->accelerator);
    } else if (h->generation != TPU_GENERATION_UNKNOWN) { /* of the part that the job has */
        uint32_t chips = (uint32_t)p->in->chip_count * p->worker_count;
        put(p, "TPU_ACCELERATOR_TYPE",
            arena_printf(p->arena, "%s%" PRIu32, tpu_type_prefix(h->generation),
                         chips * generations[h->generation - 1].cores));
    }
    if (is_whole_slice && h->topology[0])
        put(p, "TPU_TOPOLOGY", h->topology);
    if (is_whole_slice && h->wrap[0])
        put(p, "TPU_TOPOLOGY_WRAP", h->wrap);
    if (is_whole_slice && h->alt[0])
        put(p, "TPU_TOPOLOGY_ALT", h->alt);
}

static void put_addresses(struct plan *p, uint32_t chips_each)
{
    AUTO_STR struct str list;
    str_init(&list);
    for (uint32_t w = 0; w < p->worker_count; w++) {
        for (uint32_t k = 0; k < p->in->local_size; k++) {
            bool is_v6 = strchr(p->workers[w], ':') != NULL;
            str_addf(&list, is_v6 ? "%s[%s]:%" PRIu32 : "%s%s:%" PRIu32, list.len ? "," : "",
                     p->workers[w], TPU_PORT_BASE + p->in->chips[0] + k * chips_each);
        }
    }
    put(p, "TPU_PROCESS_ADDRESSES", arena_strdup(p->arena, list.data));
}

static void put_visible(struct plan *p, const uint32_t *chips, uint32_t count)
{
    AUTO_STR struct str list;
    str_init(&list);
    for (uint32_t i = 0; i < count; i++)
        str_addf(&list, "%s%" PRIu32, i ? "," : "", chips[i]);
    const char *text = arena_strdup(p->arena, list.data);
    put(p, "TPU_VISIBLE_CHIPS", text);
    put(p, "TPU_VISIBLE_DEVICES", text); /* what it was called before */
}

static int put_split(struct plan *p, uint32_t local_rank, struct accel_error *err)
{
    const struct tpu_env_input *in = p->in;
    uint32_t each = (uint32_t)in->chip_count / in->local_size;
    struct tpu_bounds b;
    if (in->chip_count % in->local_size || tpu_bounds_of_count(each, &b) < 0 || p->host.x % b.x ||
        p->host.y % b.y)
        return error_set(err, ACCEL_EINVAL,
                         "%zu chips cannot be split over %" PRIu32 " processes: 1, 2, 4 or 8 each",
                         in->chip_count, in->local_size);
    struct tpu_bounds processes = {p->grid.x * (p->host.x / b.x), p->grid.y * (p->host.y / b.y),
                                   p->grid.z * p->host.z};
    put_visible(p, in->chips + local_rank * each, each);
    put_bounds(p, "TPU_CHIPS_PER_PROCESS_BOUNDS", b);
    put_bounds(p, "TPU_PROCESS_BOUNDS", processes);
    put_addresses(p, each);
    put_number(p, "TPU_PROCESS_PORT", TPU_PORT_BASE + in->chips[local_rank * each]);
    put_number(p, "CLOUD_TPU_TASK_ID", p->worker * in->local_size + local_rank);
    put(p, "ALLOW_MULTIPLE_LIBTPU_LOAD",
        "true"); /* one lock file for the host, several processes */
    return 0;
}

static void put_megascale(struct plan *p)
{
    uint32_t port = p->in->megascale_port;
    if (p->slice_count == 1 && !p->in->host->has_megascale)
        return;
    /* With one slice as well, where the metadata would tell of slices that this job has not. */
    put(p, "MEGASCALE_COORDINATOR_ADDRESS", p->megascale ? p->megascale : p->workers[0]);
    put_number(p, "MEGASCALE_NUM_SLICES", p->slice_count);
    put_number(p, "MEGASCALE_SLICE_ID", p->slice_id);
    put_number(p, "MEGASCALE_PORT", port ? port : TPU_MEGASCALE_PORT);
}

int tpu_env_rank(const struct tpu_env_input *in, uint32_t local_rank, struct arena *a,
                 struct tpu_vars *ret_vars, struct accel_error *err)
{
    struct tpu_vars vars = {0};
    struct plan p = {.in = in, .arena = a, .vars = &vars};
    CHECK(local_rank < in->local_size && (in->peer_count == 0 || in->node_rank < in->peer_count));
    int r = plan_chips(&p, err);
    if (r == 0)
        r = plan_membership(&p, err);
    if (r < 0)
        return r;
    put(&p, "PJRT_DEVICE", "TPU");
    put(&p, "TPU_SKIP_MDS_QUERY", "true");
    put_workers(&p);
    put_type(&p);
    if (p.is_whole_host && in->local_size == 1) {
        put_bounds(&p, "TPU_CHIPS_PER_HOST_BOUNDS", p.host);
        put_bounds(&p, "TPU_HOST_BOUNDS", p.grid);
    } else {
        r = put_split(&p, local_rank, err);
    }
    if (r < 0)
        return r;
    put_megascale(&p);
    *ret_vars = vars;
    return 0;
}

bool tpu_env_is_dropped(const char *name, size_t len)
{
    static const char *const names[] = {
        "TPU_VISIBLE_CHIPS",
        "TPU_VISIBLE_DEVICES",
        "TPU_CHIPS_PER_PROCESS_BOUNDS",
        "TPU_CHIPS_PER_HOST_BOUNDS",
        "TPU_PROCESS_BOUNDS",
        "TPU_HOST_BOUNDS",
        "TPU_PROCESS_ADDRESSES",
        "TPU_PROCESS_PORT",
        "TPU_WORKER_ID",
        "TPU_WORKER_HOSTNAMES",
        "TPU_ACCELERATOR_TYPE",
        "TPU_TOPOLOGY",
        "TPU_TOPOLOGY_WRAP",
        "TPU_TOPOLOGY_ALT",
        "TPU_SKIP_MDS_QUERY",
        "TPU_MESH_CONTROLLER_ADDRESS",
        "TPU_MESH_CONTROLLER_PORT",
        "CLOUD_TPU_TASK_ID",
        "MEGASCALE_COORDINATOR_ADDRESS",
        "MEGASCALE_NUM_SLICES",
        "MEGASCALE_SLICE_ID",
        "MEGASCALE_PORT",
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0)
            return true;
    }
    return false;
}
