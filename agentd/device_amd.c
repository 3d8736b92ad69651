/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AMD GPUs as the kernel's compute driver lists them: nodes of /sys/class/kfd with SIMDs. A GPU is
 * opened by /dev/kfd and its render node. HIP counts them in the order of the nodes, which is what
 * `visible` carries. Neighbours: device.c, device_sysfs.c. It must not load ROCm.
 * Fields: drivers/gpu/drm/amd/amdkfd/kfd_topology.c of Linux.
 */
#include <inttypes.h>
#include <string.h>

#include "agentd/device.h"
#include "agentd/device_sysfs.h"

#define NODES           "class/kfd/kfd/topology/nodes"
#define GPUS_MAX        64u /* of one host; compute partitions of eight MI300 count each */
#define HEAP_FB_PUBLIC  1
#define HEAP_FB_PRIVATE 2

/* "NAME VALUE" lines; 0 where the name is not there. */
static uint64_t property(const char *text, const char *name)
{
    size_t len = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, len) == 0 && line[len] == ' ')
            return strtoull(line + len + 1, NULL, 10);
    }
    return 0;
}

static uint64_t memory_bytes(struct arena *a, const char *root, const char *node)
{
    char **banks;
    uint64_t sum = 0;
    size_t count = sysfs_names(a, &banks, "%s/" NODES "/%s/mem_banks", root, node);
    for (size_t i = 0; i < count; i++) {
        const char *text =
            sysfs_text(a, "%s/" NODES "/%s/mem_banks/%s/properties", root, node, banks[i]);
        uint64_t heap = text ? property(text, "heap_type") : 0;
        if (heap == HEAP_FB_PUBLIC || heap == HEAP_FB_PRIVATE)
            sum += property(text, "size_in_bytes");
    }
    return sum;
}

/* The card's own name where its firmware tells one, else the architecture. */
static char *model(struct arena *a, const char *root, const char *text)
{
    uint64_t minor = property(text, "drm_render_minor");
    uint64_t gfx = property(text, "gfx_target_version"); /* 90402: gfx942 */
    char *name = sysfs_text(a, "%s/class/drm/renderD%" PRIu64 "/device/product_name", root, minor);
    if (name && name[0])
        return name;
    if (!gfx)
        return arena_strdup(a, "AMD GPU");
    return arena_printf(a, "AMD gfx%" PRIu64 "%" PRIu64 "%" PRIx64, gfx / 10000, gfx / 100 % 100,
                        gfx % 100);
}

static Accel__V1__Device *make_device(struct arena *a, const char *root, const char *node,
                                      const char *text, size_t index)
{
    const char *dev = sysfs_dev_root();
    uint64_t minor = property(text, "drm_render_minor"), unique = property(text, "unique_id");
    uint64_t location = property(text, "location_id");
    Accel__V1__Device *d = ARENA_NEW(a, Accel__V1__Device);
    accel__v1__device__init(d);
    d->kind = ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
    d->vendor = arena_strdup(a, "amd");
    d->model = model(a, root, text);
    d->memory_bytes = memory_bytes(a, root, node);
    d->visible = arena_printf(a, "%zu", index);
    d->bus = arena_printf(a, "%04" PRIx64 ":%02" PRIx64 ":%02" PRIx64 ".%" PRIx64,
                          property(text, "domain"), location >> 8 & 0xff, location >> 3 & 0x1f,
                          location & 7);
    /* Partitions of one card share its unique id; the render node tells them apart. */
    d->id = unique ? arena_printf(a, "gpu:amd-%016" PRIx64 "-%" PRIu64, unique, minor)
                   : arena_printf(a, "gpu:amd-%s-%" PRIu64, d->bus, minor);
    d->numa_node = (int)sysfs_number(-1, "%s/bus/pci/devices/%s/numa_node", root, d->bus);
    d->paths = ARENA_ARRAY(a, char *, 2);
    d->paths[d->n_paths++] = arena_printf(a, "%s/dri/renderD%" PRIu64, dev, minor);
    d->paths[d->n_paths++] = arena_printf(a, "%s/kfd", dev);
    for (size_t i = 0; i < d->n_paths && !d->fault[0]; i++) {
        if (!sysfs_exists("%s", d->paths[i]))
            d->fault = arena_printf(a, "%s is missing", d->paths[i]);
    }
    return d;
}

static int compare_numbers(const void *a, const void *b)
{
    long x = strtol(*(char *const *)a, NULL, 10), y = strtol(*(char *const *)b, NULL, 10);
    return (x > y) - (x < y);
}

static int amd_list(struct device_source *s, struct arena *a, Accel__V1__Device ***ret_devices,
                    size_t *ret_count, struct accel_error *err)
{
    const char *root = sysfs_root();
    char **nodes;
    size_t count = 0, node_count = sysfs_names(a, &nodes, "%s/" NODES, root);
    (void)s;
    if (node_count)
        qsort(nodes, node_count, sizeof(*nodes), compare_numbers);
    *ret_devices = ARENA_ARRAY(a, Accel__V1__Device *, GPUS_MAX);
    for (size_t i = 0; i < node_count; i++) {
        const char *text = sysfs_text(a, "%s/" NODES "/%s/properties", root, nodes[i]);
        if (!text || property(text, "simd_count") == 0)
            continue; /* a CPU, or a GPU that this container may not see */
        if (count == GPUS_MAX)
            return error_set(err, ACCEL_EFULL, "more than %u AMD GPUs on one host", GPUS_MAX);
        (*ret_devices)[count] = make_device(a, root, nodes[i], text, count);
        count++;
    }
    *ret_count = count;
    return 0;
}

static void amd_destroy(struct device_source *s)
{
    free(s);
}

static const struct device_source_ops amd_ops = {.list = amd_list, .destroy = amd_destroy};

struct device_source *device_amd_create(void)
{
    struct device_source *s = xcalloc(1, sizeof(*s));
    s->ops = &amd_ops;
    return s;
}
