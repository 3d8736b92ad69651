/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h - where the node's devices come from. device_cpu: CPU slots (online CPUs, at least 16, or as told); device_fake: a
 * scripted file, for tests; NVML, TPU and AMD later. list() is cheap and repeatable; watch tells when the answer changed.
 */
#ifndef ACCEL_AGENTD_DEVICE_H
#define ACCEL_AGENTD_DEVICE_H

#include <uv.h>

#include "accel/v1/node.pb-c.h"
#include "common/arena.h"
#include "common/error.h"

struct device_source;
struct device_source_ops {
    /* Appends this source's devices in index order; everything is allocated in the arena. */
    int (*list)(struct device_source *s, struct arena *a, Accel__V1__Device ***ret_devices, size_t *ret_count,
                struct accel_error *err);
    void (*destroy)(struct device_source *s);
};
struct device_source {
    const struct device_source_ops *ops;
};
/* slots 0: max(online CPUs, 16). */
struct device_source *device_cpu_create(uint32_t slots);
/* A text file: one device a line, "KIND ID [model=M] [memory=BYTES] [visible=V] [fault=TEXT...]" with KIND cpu or gpu, '#' comments.
 * Errors carry line and column. on_change is called from the loop when the file was replaced or written (inotify). */
int device_fake_create(uv_loop_t *loop, const char *path, void (*on_change)(void *), void *ctx,
                       struct device_source **ret_source, struct accel_error *err);
/* All sources' lists joined. ids must be unique, else ACCEL_EINVAL. */
int device_list_all(struct device_source *const *sources, size_t count, struct arena *a,
                    Accel__V1__Device ***ret_devices, size_t *ret_count, struct accel_error *err);

#endif
