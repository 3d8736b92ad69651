/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What acceld says of its node. Neighbours: device*.c, shell.c. It must not decide what the devices
 * are used for.
 */
#include "agentd/node.h"

#include <fcntl.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "agentd/slice.h"
#include "common/limits.h"
#include "common/path.h"
#include "common/str.h"

#define SOURCES_MAX 16u /* of one node */

struct release { /* of devices that are not proven free yet */
    LIST_ENTRY(release) link;
    void (*on_free)(void *ctx);
    void *ctx;
    unsigned pending; /* sources that prove */
};

struct node {
    struct node_config config;
    LIST_HEAD(, release) releases;
    void (*on_change)(void *ctx);
    void *ctx;
    struct device_source *sources[SOURCES_MAX];
    size_t source_count;
    struct slice *slice; /* NULL: no TPU chip was seen */
    struct tpu_host tpu_host;
    struct arena arena; /* of the description */
    Accel__V1__Node *description;
};

static void on_source_change(void *ctx)
{
    struct node *n = ctx;
    n->on_change(n->ctx);
}

static int add_source(struct node *n, const char *text, struct accel_error *err);

/* Every kind that a machine may have: those that it has not list nothing. */
static int add_auto(struct node *n, struct accel_error *err)
{
    static const char *const kinds[] = {"cpu", "nvml", "amd", "tpu"};
    int r = 0;
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(kinds); i++)
        r = add_source(n, kinds[i], err);
    return r;
}

static int add_source(struct node *n, const char *text, struct accel_error *err)
{
    if (strcmp(text, "auto") == 0)
        return add_auto(n, err);
    struct device_source **slot = &n->sources[n->source_count];
    uint64_t slots = 0;
    int r = 0;
    if (n->source_count == SOURCES_MAX)
        return error_set(err, ACCEL_EFULL, "--devices: more than %u sources", SOURCES_MAX);
    if (strncmp(text, "fake:", 5) == 0) {
        r = device_fake_create(n->config.loop, text + 5, on_source_change, n, slot, err);
    } else if (strcmp(text, "cpu") == 0) {
        *slot = device_cpu_create(0);
    } else if (strncmp(text, "cpu:", 4) == 0 &&
               parse_u64(text + 4, 1, DEVICE_COUNT_MAX, &slots) == 0) {
        *slot = device_cpu_create((uint32_t)slots);
    } else if (strcmp(text, "nvml") == 0) {
        struct device_nvml_config nvml = {.loop = n->config.loop};
        r = device_nvml_create(&nvml, on_source_change, n, slot, err);
    } else if (strcmp(text, "tpu") == 0) {
        *slot = device_tpu_create(n->config.loop, on_source_change, n);
    } else if (strcmp(text, "amd") == 0) {
        *slot = device_amd_create();
    } else {
        return error_set(err, ACCEL_EINVAL,
                         "--devices %s: none of auto, cpu, cpu:N (1 to %u), nvml, amd, tpu, "
                         "fake:FILE",
                         text, DEVICE_COUNT_MAX);
    }
    if (r == 0)
        n->source_count++;
    return r;
}

/* What is wrong with a source as a whole stands where people look for what a node can do. */
static void add_notes(const struct node *n, Accel__V1__Node *d, struct arena *a)
{
    char **limits = ARENA_ARRAY(a, char *, d->n_limits + n->source_count + 2);
    for (size_t i = 0; i < d->n_limits; i++)
        limits[i] = d->limits[i];
    for (size_t i = 0; i < n->source_count; i++) {
        struct device_source *s = n->sources[i];
        const char *note = s->ops->note ? s->ops->note(s) : "";
        if (note[0])
            limits[d->n_limits++] = arena_printf(a, "GPUs: %s", note);
    }
    d->limits = limits;
}

/* Chips belong to a slice, which the metadata server knows: it is asked when the first is seen. */
static void add_slice(struct node *n, Accel__V1__Node *d, struct arena *a)
{
    const Accel__V1__Device *chip = NULL;
    uint32_t chips = 0;
    for (size_t i = 0; i < d->n_devices; i++) {
        if (d->devices[i]->kind != ACCEL__V1__DEVICE_KIND__DEVICE_TPU)
            continue;
        chip = d->devices[i];
        chips++;
    }
    if (!chip)
        return;
    if (!n->slice)
        n->slice = slice_create(n->config.loop, on_source_change, n);
    n->tpu_host = slice_host(n->slice, chips, chip->model);
    d->slice = slice_describe(n->slice, a);
    for (size_t i = 0; i < d->n_devices; i++) {
        Accel__V1__Device *each = d->devices[i];
        if (each->kind != ACCEL__V1__DEVICE_KIND__DEVICE_TPU)
            continue;
        if (n->tpu_host.generation != TPU_GENERATION_UNKNOWN)
            each->model = (char *)tpu_model(n->tpu_host.generation); /* v2 has the PCI id of v3 */
        if (!slice_is_known(n->slice) && !each->fault[0]) {
            each->fault = (char *)"waits for the metadata server to tell its slice";
            each->is_passing = true;
        }
    }
    if (slice_note(n->slice)[0])
        d->limits[d->n_limits++] = arena_printf(a, "TPU slice: %s", slice_note(n->slice));
}

int node_refresh(struct node *n, struct accel_error *err)
{
    struct arena arena;
    Accel__V1__Device **devices;
    size_t count;
    arena_init(&arena);
    int r = device_list_all(n->sources, n->source_count, &arena, &devices, &count, err);
    if (r < 0) {
        arena_done(&arena);
        return r;
    }
    Accel__V1__Node *d = ARENA_NEW(&arena, Accel__V1__Node);
    accel__v1__node__init(d);
    d->name = (char *)n->config.name;
    d->address = arena_strdup(&arena, n->config.address);
    d->ifname = arena_strdup(&arena, n->config.ifname ? n->config.ifname : "");
    d->isolation = (char *)n->config.isolation;
    d->limits = (char **)n->config.limits;
    d->n_limits = n->config.limit_count;
    d->version = ACCEL_VERSION;
    d->incarnation = n->config.incarnation;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    d->cpus = cpus > 0 ? (uint32_t)cpus : 1;
    d->memory_bytes = uv_get_total_memory();
    d->devices = devices;
    d->n_devices = count;
    add_notes(n, d, &arena);
    add_slice(n, d, &arena);
    arena_done(&n->arena);
    n->arena = arena;
    n->description = d;
    return 0;
}

/* ---- given out and taken back ---- */

int node_take_devices(struct node *n, const char *const *ids, size_t count, bool is_adopted,
                      struct accel_error *err)
{
    int r = 0;
    size_t i;
    for (i = 0; r == 0 && i < n->source_count; i++) {
        struct device_source *s = n->sources[i];
        r = s->ops->take ? s->ops->take(s, ids, count, is_adopted, err) : 0;
    }
    for (i = r < 0 ? i - 1 : 0; i > 0; i--) { /* all or none */
        struct device_source *s = n->sources[i - 1];
        if (s->ops->release)
            (void)s->ops->release(s, ids, count, NULL, NULL);
    }
    return r;
}

static void on_source_free(void *ctx)
{
    struct release *release = ctx;
    CHECK(release->pending > 0);
    if (--release->pending > 0)
        return;
    void (*on_free)(void *) = release->on_free;
    void *free_ctx = release->ctx;
    LIST_REMOVE(release, link);
    free(release);
    on_free(free_ctx);
}

bool node_release_devices(struct node *n, const char *const *ids, size_t count,
                          void (*on_free)(void *ctx), void *ctx)
{
    struct release *release = on_free ? xcalloc(1, sizeof(*release)) : NULL;
    if (release)
        *release = (struct release){.on_free = on_free, .ctx = ctx};
    for (size_t i = 0; i < n->source_count; i++) {
        struct device_source *s = n->sources[i];
        if (s->ops->release &&
            s->ops->release(s, ids, count, release ? on_source_free : NULL, release) && release)
            release->pending++;
    }
    if (!release || release->pending == 0) {
        free(release);
        return false;
    }
    LIST_INSERT_HEAD(&n->releases, release, link);
    return true;
}

const Accel__V1__Node *node_description(const struct node *n)
{
    return n->description;
}

const struct tpu_host *node_tpu_host(const struct node *n)
{
    return n->slice ? &n->tpu_host : NULL;
}

int node_create(const struct node_config *config, void (*on_change)(void *), void *ctx,
                struct node **ret_node, struct accel_error *err)
{
    struct node *n = xcalloc(1, sizeof(*n));
    int r = 0;
    n->config = *config;
    n->on_change = on_change;
    n->ctx = ctx;
    arena_init(&n->arena);
    for (size_t i = 0; r == 0 && i < config->device_count; i++)
        r = add_source(n, config->devices[i], err);
    if (r == 0)
        r = node_refresh(n, err);
    if (r < 0) {
        node_destroy(n);
        return r;
    }
    *ret_node = n;
    return 0;
}

void node_destroy(struct node *n)
{
    if (!n)
        return;
    for (size_t i = 0; i < n->source_count; i++)
        n->sources[i]->ops->destroy(n->sources[i]);
    slice_destroy(n->slice);
    for (struct release *release; (release = LIST_FIRST(&n->releases));) {
        LIST_REMOVE(release, link);
        free(release);
    }
    arena_done(&n->arena);
    free(n);
}

void node_machine_id(char *buf, size_t size)
{
    AUTO_FREE char *text = NULL;
    size_t len;
    buf[0] = 0;
    if (path_read_all(AT_FDCWD, "/etc/machine-id", 4096, &text, &len, NULL) < 0)
        return;
    text[strcspn(text, "\n")] = 0;
    str_copy(buf, size, text);
}
