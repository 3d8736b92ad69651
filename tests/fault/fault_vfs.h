/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault_vfs.h - a disk for SQLite that fails when told, and that forgets what was not synced.
 * Registered as the VFS "fault" over the default one, with real files; fsync is not passed on, it
 * only counts here. Calls that change something (open, write, truncate, sync, delete) are numbered
 * from 1 after each fault_vfs_arm(). Not for threads.
 */
#ifndef ACCEL_TESTS_FAULT_VFS_H
#define ACCEL_TESTS_FAULT_VFS_H

#include "common/base.h"

enum fault_kind {
    FAULT_NONE,   /* only counts */
    FAULT_ONCE,   /* call `at` fails; a write leaves half of its bytes behind */
    FAULT_STICKY, /* call `at` and all later ones fail until the next arm */
    FAULT_SYNC,   /* the at-th SYNC fails once, and the kernel forgets what it should have written:
                   * a later sync that succeeds does not bring it to the disk */
    FAULT_CRASH,  /* from call `at` on everything fails, reads too: the process is gone */
};

void fault_vfs_register(void);
/* is_full: writes fail for want of space, else by an I/O error. */
void fault_vfs_arm(enum fault_kind kind, unsigned at, bool is_full);
unsigned fault_vfs_calls(void); /* since arm; for FAULT_SYNC only syncs count */
bool fault_vfs_hit(void);       /* the fault of the last arm has struck */
/* Power returns: of each file every 512-byte sector not surely on the disk is, by the seed, as it
 * was written or as it was at the last sync that covered it (seed 0: all as they were). All files
 * must be closed. Forgets everything and arms FAULT_NONE. */
void fault_vfs_power_cycle(uint64_t seed);
void fault_vfs_forget(void); /* what is written now is on the disk; FAULT_NONE */

#endif
