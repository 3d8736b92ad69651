/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h - where the node's devices come from. device_cpu: CPU slots (online CPUs, at least 16,
 * or as told); device_fake: a scripted file, for tests; device_tpu and device_amd: what the kernel
 * shows of such chips; device_nvml: NVIDIA GPUs by the driver's library. list() is cheap and
 * repeatable; on_change tells when the answer changed.
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
    /* The rest is NULL where there is nothing to tell or to prove; ids of other sources' devices
     * are passed over. note: what is wrong with the source as a whole, "" if nothing; valid until
     * the loop's next turn. */
    const char *(*note)(struct device_source *s);
    /* An attempt is about to get these: looks at them (blocks for at most 1 s) and remembers how
     * they are. ACCEL_EBUSY: one is faulty or somebody else's, err says why; nothing was taken.
     * is_adopted: the attempt runs already; then it does not fail. */
    int (*take)(struct device_source *s, const char *const *ids, size_t count, bool is_adopted,
                struct accel_error *err);
    /* The attempt is over. True: on_free comes once, from the loop, never from inside the call,
     * when they are proven to be as before take, or after 30 s, and then what is not so has a fault
     * (on_change comes first). False: nothing to prove. on_free NULL: nothing ran, all is well. */
    bool (*release)(struct device_source *s, const char *const *ids, size_t count,
                    void (*on_free)(void *ctx), void *ctx);
};
struct device_source {
    const struct device_source_ops *ops;
};
/* slots 0: max(online CPUs, 16). */
struct device_source *device_cpu_create(uint32_t slots);
/* TPU chips on the PCI bus ("tpu:0"), AMD GPUs of the compute driver ("gpu:amd-..."). A machine
 * without any lists none. A chip that a process of nobody's attempt has open is faulty until that
 * process ends; on_change (may be NULL) tells. device_sysfs.h says how tests move the roots. */
struct device_source *device_tpu_create(uv_loop_t *loop, void (*on_change)(void *), void *ctx);
struct device_source *device_amd_create(void);
/* NVIDIA GPUs ("gpu:GPU-..."), MIG instances as devices of their own ("gpu:MIG-..."), by
 * libnvidia-ml.so.1, on threads of its own. Without the library or the driver there are none, which
 * is no error. Waits for the first look, at most answer_ms. on_change may be NULL. */
struct device_nvml_config {
    uv_loop_t *loop;
    const char *driver; /* NULL: $ACCEL_NVML_LIBRARY, else by the dynamic linker's rules */
    /* 0: the usual. A call that takes longer hangs (10 s); between two looks that nobody asked for
     * (5 s); until a GPU that is not free is called held (30 s) */
    int64_t answer_ms, sample_ms, proof_ms;
};
int device_nvml_create(const struct device_nvml_config *config, void (*on_change)(void *),
                       void *ctx, struct device_source **ret_source, struct accel_error *err);
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
