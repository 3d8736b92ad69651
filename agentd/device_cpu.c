/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPU slots: a slot is a place for one process, not a core. Neighbour: device.c. It must not pin
 * anything.
 */
#include <unistd.h>

#include "agentd/device.h"

struct device_cpu {
    struct device_source source;
    uint32_t slots;
};

static int cpu_list(struct device_source *s, struct arena *a, Accel__V1__Device ***ret_devices,
                    size_t *ret_count, struct accel_error *err)
{
    const struct device_cpu *cpu = CONTAINER_OF(s, struct device_cpu, source);
    (void)err;
    *ret_devices = ARENA_ARRAY(a, Accel__V1__Device *, cpu->slots + 1);
    for (uint32_t i = 0; i < cpu->slots; i++) {
        Accel__V1__Device *d = ARENA_NEW(a, Accel__V1__Device);
        accel__v1__device__init(d);
        d->id = arena_printf(a, "cpu:%u", i);
        d->kind = ACCEL__V1__DEVICE_KIND__DEVICE_CPU;
        (*ret_devices)[i] = d;
    }
    *ret_count = cpu->slots;
    return 0;
}

static void cpu_destroy(struct device_source *s)
{
    free(CONTAINER_OF(s, struct device_cpu, source));
}

static const struct device_source_ops cpu_ops = {.list = cpu_list, .destroy = cpu_destroy};

struct device_source *device_cpu_create(uint32_t slots)
{
    struct device_cpu *cpu = xcalloc(1, sizeof(*cpu));
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    if (slots == 0 && online > (long)DEVICE_CPU_SLOTS_MIN)
        slots = (uint32_t)online;
    cpu->source.ops = &cpu_ops;
    cpu->slots = MIN(slots ? slots : DEVICE_CPU_SLOTS_MIN, DEVICE_COUNT_MAX);
    return &cpu->source;
}
