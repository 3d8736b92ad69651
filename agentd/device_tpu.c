/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TPU chips as the PCI bus shows them: vendor 0x1ae0 and a device id that is a TPU's, since
 * Google's network cards carry the same vendor. A chip is opened by /dev/accelN (its driver's
 * directory `accel` names it) or, passed through, by /dev/vfio/GROUP. Neighbours: device.c,
 * device_sysfs.c. It must not open a chip: libtpu wants it alone. Ids: jax/_src/hardware_utils.py.
 */
#include <inttypes.h>
#include <string.h>

#include "agentd/device_sysfs.h"
#include "agentd/device_tpu_internal.h"
#include "agentd/tpu_env.h"
#include "common/str.h"

#define VENDOR_GOOGLE     0x1ae0
#define CLASS_ACCELERATOR 0x12 /* of PCI: processing accelerators */
#define NUMBER_UNKNOWN    UINT32_MAX

static const struct {
    uint32_t id;
    enum tpu_generation generation;
    uint64_t memory_gib; /* HBM of one chip: cloud.google.com/tpu/docs/system-architecture-tpu-vm */
} chip_ids[] = {
    {0x0027, TPU_V3, 32},  {0x005e, TPU_V4, 32},  {0x0062, TPU_V5P, 95},
    {0x0063, TPU_V5E, 16}, {0x006f, TPU_V6E, 32}, {0x0076, TPU_7X, 192},
};
static const uint32_t other_chips[] = {0x0056, 0x007c, 0x0083}; /* TPUs without a name here */

struct chip {
    const char *bus, *path, *extra_path;
    uint32_t number; /* of the device node: the order in which libtpu counts */
    enum tpu_generation generation;
    uint64_t memory_bytes;
    int numa_node;
};

/* False: this function of the bus is no TPU. */
static bool read_chip(const char *root, const char *bus, struct chip *c)
{
    if (sysfs_number(0, "%s/bus/pci/devices/%s/vendor", root, bus) != VENDOR_GOOGLE)
        return false;
    long long id = sysfs_number(-1, "%s/bus/pci/devices/%s/device", root, bus);
    long long class = sysfs_number(0, "%s/bus/pci/devices/%s/class", root, bus);
    bool is_chip = class >> 16 == CLASS_ACCELERATOR;
    *c = (struct chip){.bus = bus, .number = NUMBER_UNKNOWN};
    for (size_t i = 0; i < ARRAY_LEN(other_chips); i++)
        is_chip |= other_chips[i] == id;
    for (size_t i = 0; i < ARRAY_LEN(chip_ids); i++) {
        if (chip_ids[i].id != id)
            continue;
        is_chip = true;
        c->generation = chip_ids[i].generation;
        c->memory_bytes = chip_ids[i].memory_gib << 30;
    }
    c->numa_node = (int)sysfs_number(-1, "%s/bus/pci/devices/%s/numa_node", root, bus);
    return is_chip;
}

static bool parse_number(const char *text, uint32_t *ret_number)
{
    uint64_t n;
    if (parse_u64(text, 0, UINT16_MAX, &n) < 0)
        return false;
    *ret_number = (uint32_t)n;
    return true;
}

/* Which device node opens the chip. */
static void find_path(struct arena *a, const char *root, const char *dev, struct chip *c)
{
    char **names;
    size_t count = sysfs_names(a, &names, "%s/bus/pci/devices/%s/accel", root, c->bus);
    for (size_t i = 0; i < count; i++) {
        if (strncmp(names[i], "accel", 5) != 0 || !parse_number(names[i] + 5, &c->number))
            continue;
        bool is_drm = sysfs_exists("%s/accel/%s", dev, names[i]); /* the newer place */
        c->path = arena_printf(a, is_drm ? "%s/accel/%s" : "%s/%s", dev, names[i]);
        return;
    }
    const char *group = sysfs_link_name(a, "%s/bus/pci/devices/%s/iommu_group", root, c->bus);
    if (parse_number(group, &c->number) && sysfs_exists("%s/vfio/%s", dev, group)) {
        c->path = arena_printf(a, "%s/vfio/%s", dev, group);
        c->extra_path = arena_printf(a, "%s/vfio/vfio", dev); /* every user of VFIO opens it */
    } else {
        c->number = NUMBER_UNKNOWN;
    }
}

static int compare_chips(const void *a, const void *b)
{
    const struct chip *x = a, *y = b;
    if (x->number != y->number)
        return x->number < y->number ? -1 : 1;
    return strcmp(x->bus, y->bus);
}

/* Older drivers make /dev/accelN without saying for which chip: the order of the bus then. */
static void number_the_rest(struct arena *a, const char *dev, struct chip *chips, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (chips[i].path)
            return; /* some are known: no guesses about the others */
    }
    for (size_t i = 0; i < count && sysfs_exists("%s/accel%zu", dev, i); i++) {
        chips[i].path = arena_printf(a, "%s/accel%zu", dev, i);
        chips[i].number = (uint32_t)i;
    }
}

static Accel__V1__Device *make_device(struct arena *a, const struct chip *c, size_t index)
{
    Accel__V1__Device *d = ARENA_NEW(a, Accel__V1__Device);
    accel__v1__device__init(d);
    d->id = arena_printf(a, "tpu:%zu", index);
    d->kind = ACCEL__V1__DEVICE_KIND__DEVICE_TPU;
    d->vendor = arena_strdup(a, "google");
    d->model = arena_strdup(a, tpu_model(c->generation));
    d->memory_bytes = c->memory_bytes;
    d->visible = arena_printf(a, "%zu", index);
    d->bus = arena_strdup(a, c->bus);
    d->numa_node = c->numa_node;
    d->paths = ARENA_ARRAY(a, char *, 2);
    if (c->path)
        d->paths[d->n_paths++] = (char *)c->path;
    if (c->extra_path)
        d->paths[d->n_paths++] = (char *)c->extra_path;
    if (!c->path)
        d->fault = arena_strdup(a, "no device node: is its driver loaded?");
    else if (!sysfs_exists("%s", c->path))
        d->fault = arena_printf(a, "%s is missing", c->path);
    return d;
}

int tpu_list_chips(struct arena *a, Accel__V1__Device ***ret_devices, size_t *ret_count,
                   struct accel_error *err)
{
    const char *root = sysfs_root(), *dev = sysfs_dev_root();
    struct chip chips[TPU_CHIPS_MAX];
    char **buses;
    size_t count = 0, bus_count = sysfs_names(a, &buses, "%s/bus/pci/devices", root);
    for (size_t i = 0; i < bus_count; i++) {
        struct chip c;
        if (!read_chip(root, buses[i], &c))
            continue;
        if (count == TPU_CHIPS_MAX)
            return error_set(err, ACCEL_EFULL, "more than %u TPU chips on one host", TPU_CHIPS_MAX);
        find_path(a, root, dev, &c);
        chips[count++] = c;
    }
    number_the_rest(a, dev, chips, count);
    if (count)
        qsort(chips, count, sizeof(*chips), compare_chips);
    *ret_devices = ARENA_ARRAY(a, Accel__V1__Device *, count + 1);
    for (size_t i = 0; i < count; i++)
        (*ret_devices)[i] = make_device(a, &chips[i], i);
    *ret_count = count;
    return 0;
}
