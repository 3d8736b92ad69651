/* SPDX-License-Identifier: Apache-2.0 */
/*
 * devctl.h - which accelerators the processes of an attempt may open. Only character devices of
 * accelerators are ever refused (NVIDIA's majors, kfd, drm, accel, vfio groups); all else stays
 * open. Two ways: a program on a cgroup of the unified hierarchy (BPF_PROG_TYPE_CGROUP_DEVICE, put
 * together here, loaded by bpf(2)), and the devices controller of version 1. Used by accel-spawn as
 * root; nothing blocks but the kernel.
 */
#ifndef ACCEL_AGENTD_DEVCTL_H
#define ACCEL_AGENTD_DEVCTL_H

#include <linux/bpf.h>

#include "common/error.h"

#define DEVCTL_MAJORS_MAX 64u   /* of accelerators; further ones stay open */
#define DEVCTL_ALLOW_MAX  1024u /* device nodes of one attempt; more are refused */
#define DEVCTL_ANY        UINT32_MAX

struct devctl_device {
    uint32_t major, minor; /* minor DEVCTL_ANY: all */
};
struct devctl {
    uint32_t majors[DEVCTL_MAJORS_MAX]; /* closed, but for what is allowed */
    size_t major_count;
    struct devctl_device *allow;
    size_t allow_count;
};

/* The majors of accelerators by /proc/devices. */
void devctl_init(struct devctl *d);
void devctl_done(struct devctl *d);
/* Adds the majors that the text (of /proc/devices) has; for devctl_init and tests. */
void devctl_add_majors(struct devctl *d, const char *text);
/* Opens a device node, with the control nodes that go with it. ACCEL_ENOENT, ACCEL_EINVAL: it is no
 * character device; ACCEL_EFULL. */
int devctl_allow(struct devctl *d, const char *path, struct accel_error *err);
/* The program, and the most instructions that it can have. A device that is neither allowed nor of
 * a closed major is let through. */
size_t devctl_program_max(const struct devctl *d);
size_t devctl_program(const struct devctl *d, struct bpf_insn *ret_insns);
/* Puts the program on a cgroup; it counts for all that is below. 0 or -errno. */
int devctl_attach(const struct devctl *d, int cgroup_fd);
/* Writes devices.deny and devices.allow of a group of version 1. 0 or -errno. */
int devctl_write(const struct devctl *d, int dir_fd);
/* Whether this kernel takes such programs on the cgroup: tries, and leaves none there. 0 or -errno.
 */
int devctl_try_attach(int cgroup_fd);

#endif
