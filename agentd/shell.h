/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shell.h - acceld around its core: callbacks of uplink, launcher and devices become events, the
 * core's actions are carried out in their order, LogRead and Input pass by it. Loop's thread.
 */
#ifndef ACCEL_AGENTD_SHELL_H
#define ACCEL_AGENTD_SHELL_H

#include <uv.h>

#include "agentd/state.h"
#include "common/error.h"

struct shell;
struct shell_config { /* borrowed until shell_destroy has called back */
    uv_loop_t *loop;
    struct state *state;
    const char *coordinator, *node_name;
    const char *address;   /* that peers dial; NULL: as address.h finds it */
    const char *isolation; /* what accel-spawn said */
    char *const *limits;   /* the same: what can be enforced */
    size_t limit_count;
    bool is_switching;          /* each job runs as its own user */
    bool private_tmp;           /* and has its own /tmp and /dev/shm */
    const char *const *devices; /* see node.h */
    size_t device_count;
    int64_t idle_exit_ms;
    int64_t keepalive_ms; /* see uplink.h */
    int ready_fd; /* written and closed after the first Welcome; -1: none; owned from here */
    int spawn_fd; /* to accel-spawn; owned from here */
};
/* Makes the launcher, adopts what an earlier acceld left, starts to connect. on_end is called once,
 * from the loop, when the daemon has to end: status 0 (idle) or 1 (accel-spawn is gone, or what has
 * to be durable cannot be written). */
int shell_create(const struct shell_config *config, void (*on_end)(void *ctx, int status),
                 void *ctx, struct shell **ret_shell, struct accel_error *err);
/* Leaves every attempt running. The loop ends when the last handle is closed, and the shell is
 * freed then; NULL is accepted. */
void shell_destroy(struct shell *s);

#endif
