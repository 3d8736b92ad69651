/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu_users.h - who has an accelerator open, by /proc. Without root only processes of the own user
 * can be looked into; of others nothing is found. Any thread; blocks for one walk over /proc
 * (about 1 us per descriptor there is).
 */
#ifndef ACCEL_AGENTD_GPU_USERS_H
#define ACCEL_AGENTD_GPU_USERS_H

#include "common/base.h"

/* Calls found(ctx, i, pid) once per process (not this one) that has paths[i] open, and, if `also`
 * is not NULL, `also` as well: who computes with an NVIDIA GPU has nvidia-uvm open, who only
 * watches it has not. count <= GPU_USERS_PATHS_MAX. A path that does not exist is open by nobody.
 */
#define GPU_USERS_PATHS_MAX 256u
void gpu_users_scan(const char *const *paths, size_t count, const char *also,
                    void (*found)(void *ctx, size_t i, uint32_t pid), void *ctx);
/* "pid 71 (python3) of bob"; what cannot be seen is left out; size > 0. May ask the name service.
 */
void gpu_user_text(uint32_t pid, char *buf, size_t size);

#endif
