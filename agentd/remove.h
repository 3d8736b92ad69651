/* SPDX-License-Identifier: Apache-2.0 */
/*
 * remove.h - removes what an attempt has left, whatever its processes made there.
 */
#ifndef ACCEL_AGENTD_REMOVE_H
#define ACCEL_AGENTD_REMOVE_H

#include "common/base.h"

/* Removes the directory `name` in dir_fd with all that is in it; follows no link, and so may be
 * called by root for a directory of a user who still changes it. True: it is gone, or was not
 * there. Blocks for the disk. */
bool remove_tree(int dir_fd, const char *name);

#endif
