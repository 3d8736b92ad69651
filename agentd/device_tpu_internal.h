/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_tpu_internal.h - between device_tpu.c (what the bus shows) and device_tpu_use.c (who has
 * it, and the source made of both); and what tests of the lock file call.
 */
#ifndef ACCEL_AGENTD_DEVICE_TPU_INTERNAL_H
#define ACCEL_AGENTD_DEVICE_TPU_INTERNAL_H

#include "agentd/device.h"

#define TPU_LOCK_FILE "/tmp/libtpu_lockfile" /* $ACCEL_TPU_LOCK_FILE in its place, for tests */

/* The chips in the order in which libtpu counts them; in the arena. ACCEL_EFULL: too many. */
int tpu_list_chips(struct arena *a, Accel__V1__Device ***ret_devices, size_t *ret_count,
                   struct accel_error *err);

/* libtpu's lock survives SIGKILL of its owner, and the next process takes the TPU for busy. Removes
 * the file if no process has it open or locked and none has one of these device nodes open.
 * 1: removed; 0: there is none, or somebody has it. ACCEL_EPERM: left by the dead, but of another
 * user, and we are not root. Blocks for one walk over /proc. */
int tpu_lock_clear(const char *path, const char *const *nodes, size_t count,
                   struct accel_error *err);

#endif
