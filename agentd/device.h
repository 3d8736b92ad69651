/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h - where the node's devices come from. device_cpu: CPU slots (online CPUs, at least 16,
 * or as told); device_fake: a scripted file, for tests; device_tpu and device_amd: what the kernel
 * shows of such chips. list() is cheap and repeatable; on_change tells when the answer changed.
 * Loop's thread; list() may read a file.
 */
#ifndef ACCEL_AGENTD_DEVICE_H
#define ACCEL_AGENTD_DEVICE_H

#include <uv.h>

#include "accel/v1/node.pb-c.h"
#include "common/arena.h"
#include "common/error.h"

#define DEVICE_CPU_SLOTS_MIN 16u /* small machines still run small gangs (ARCHITECTURE) */
#define DEVICE_COUNT_MAX                                                                           \
    4096u /* of one source; LIMIT_PROCS_PER_NODE needs no more; refused above */
#define DEVICE_FILE_BYTES_MAX (1u << 20) /* a fake's file; refused above */

struct device_source;
struct device_source_ops {
    /* Appends this source's devices in index order; everything is allocated in the arena. */
    int (*list)(struct device_source *s, struct arena *a, Accel__V1__Device ***ret_devices,
                size_t *ret_count, struct accel_error *err);
    void (*destroy)(struct device_source *s); /* open handles close on the loop's next turn */
};
struct device_source {
    const struct device_source_ops *ops;
};
/* slots 0: max(online CPUs, 16). */
struct device_source *device_cpu_create(uint32_t slots);
/* TPU chips on the PCI bus ("tpu:0"), AMD GPUs of the compute driver ("gpu:amd-..."). A machine
 * without any lists none. device_sysfs.h says how tests move the roots. */
struct device_source *device_tpu_create(void);
struct device_source *device_amd_create(void);
/* A text file: one device a line, "KIND ID [model=M] [memory=BYTES] [visible=V] [fault=TEXT...]"
 * with KIND cpu or gpu, '#' comments. Errors carry line and column. on_change is called from the
 * loop when the file was replaced or written (inotify); it may be NULL. */
int device_fake_create(uv_loop_t *loop, const char *path, void (*on_change)(void *), void *ctx,
                       struct device_source **ret_source, struct accel_error *err);
/* The parser of it, for tests: text is NUL-terminated, `name` stands in errors ("NAME:3:7:
 * ..."). */
int device_fake_parse(const char *name, const char *text, struct arena *a,
                      Accel__V1__Device ***ret_devices, size_t *ret_count, struct accel_error *err);
/* All sources' lists joined and numbered. ids must be unique, else ACCEL_EINVAL. */
int device_list_all(struct device_source *const *sources, size_t count, struct arena *a,
                    Accel__V1__Device ***ret_devices, size_t *ret_count, struct accel_error *err);

#endif
