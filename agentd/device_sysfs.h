/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_sysfs.h - small files of sysfs for device sources. Roots can be moved, so that a tree made
 * by a test runs under the real code: ACCEL_SYSFS_ROOT (else /sys) and ACCEL_DEV_ROOT (else /dev).
 * Blocking, but the kernel answers from memory. Absent is no error here.
 */
#ifndef ACCEL_AGENTD_DEVICE_SYSFS_H
#define ACCEL_AGENTD_DEVICE_SYSFS_H

#include <limits.h>

#include "common/arena.h"

#define SYSFS_FILE_BYTES  65536u /* of one attribute; longer ones are as good as absent */
#define SYSFS_ENTRIES_MAX 8192u  /* of one directory: more PCI functions than any machine has */

const char *sysfs_root(void); /* of the environment or static */
const char *sysfs_dev_root(void);

/* The file's text without blanks at its end, NUL-terminated, in the arena; NULL if it cannot be
 * read. */
char *sysfs_text(struct arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* A number as the kernel writes it ("0x1ae0", "-1", "12"); otherwise if there is none. */
long long sysfs_number(long long otherwise, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Names in the directory but dot files, sorted as bytes, in the arena; 0 if it cannot be read. */
size_t sysfs_names(struct arena *a, char ***ret_names, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The last part of where the link points, "" if it is none. */
char *sysfs_link_name(struct arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3);
bool sysfs_exists(const char *fmt, ...) PRINTF_LIKE(1, 2);

#endif
