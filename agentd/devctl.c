/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device control by cgroup, see devctl.h. The program is a chain of comparisons; no libbpf, no
 * compiler at run time. Neighbour: limits_cgroup.c. Must not refuse a device that it does not know
 * to be an accelerator: a job needs its terminals, disks and null devices.
 */
#include "agentd/devctl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/path.h"
#include "common/str.h"

#define PROC_DEVICES_BYTES 65536u
#define MAJOR_NVIDIA       195u /* Documentation/admin-guide/devices.txt of Linux */
#define MINOR_NVIDIACTL    255u
#define MINOR_MODESET      254u
#define V1_MAJORS          512u /* CHRDEV_MAJOR_MAX of Linux */

/* As drivers register themselves; "vfio" are the groups (the container node is a misc device). */
static const char *const names[] = {
    "nvidia",
    "nvidia-frontend",
    "nvidia-uvm",
    "nvidia-caps",
    "nvidia-caps-imex-channels",
    "nvidiactl",
    "nvidia-nvswitch",
    "nvidia-nvlink",
    "accel",
    "apex",
    "kfd",
    "drm",
    "vfio",
    "vfio-dev",
};

static bool has_major(const struct devctl *d, uint32_t major)
{
    for (size_t i = 0; i < d->major_count; i++) {
        if (d->majors[i] == major) {
            return true;
        }
    }
    return false;
}

static void add_major(struct devctl *d, uint32_t major)
{
    if (d->major_count < DEVCTL_MAJORS_MAX && !has_major(d, major)) {
        d->majors[d->major_count++] = major;
    }
}

void devctl_add_majors(struct devctl *d, const char *text)
{
    const char *end = strstr(text, "Block devices:");
    const char *line = text;
    while (line != NULL && *line != '\0' && (end == NULL || line < end)) {
        unsigned major;
        char name[64];
        if (sscanf(line, "%u %63s", &major, name) == 2) {
            for (size_t i = 0; i < ARRAY_LEN(names); i++) {
                if (strcmp(names[i], name) == 0) {
                    add_major(d, major);
                }
            }
        }
        line = strchr(line, '\n');
        line += line != NULL;
    }
}

void devctl_init(struct devctl *d)
{
    AUTO_FREE char *text = NULL;
    size_t len;
    *d = (struct devctl){0};
    add_major(d, MAJOR_NVIDIA);
    int r = path_read_all(AT_FDCWD, "/proc/devices", PROC_DEVICES_BYTES, &text, &len, NULL);
    if (r == 0) {
        devctl_add_majors(d, text);
    }
}

void devctl_done(struct devctl *d)
{
    free(d->allow);
    *d = (struct devctl){0};
}

static int add_allowed(struct devctl *d, uint32_t major, uint32_t minor, struct accel_error *err)
{
    for (size_t i = 0; i < d->allow_count; i++) {
        if (d->allow[i].major == major && d->allow[i].minor == minor) {
            return 0;
        }
    }
    if (d->allow_count == DEVCTL_ALLOW_MAX) {
        return error_set(err, ACCEL_EFULL, "an attempt may have %u device nodes at most",
                         DEVCTL_ALLOW_MAX);
    }
    d->allow = xrealloc(d->allow, (d->allow_count + 1) * sizeof(*d->allow));
    d->allow[d->allow_count++] = (struct devctl_device){major, minor};
    return 0;
}

/* Control nodes give no memory and no cores of a device; without them none can be used. */
static int add_control_nodes(struct devctl *d, uint32_t major, struct accel_error *err)
{
    struct stat st;
    int r = 0;
    if (major != MAJOR_NVIDIA) {
        return 0;
    }
    r = add_allowed(d, MAJOR_NVIDIA, MINOR_NVIDIACTL, err);
    if (r == 0) {
        r = add_allowed(d, MAJOR_NVIDIA, MINOR_MODESET, err);
    }
    if (r == 0 && stat("/dev/nvidia-uvm", &st) == 0 && S_ISCHR(st.st_mode)) {
        r = add_allowed(d, major(st.st_rdev), DEVCTL_ANY, err);
    }
    return r;
}

int devctl_allow(struct devctl *d, const char *path, struct accel_error *err)
{
    struct stat st;
    if (stat(path, &st) < 0) {
        return error_sys(err, errno, "device %s", path);
    }
    if (!S_ISCHR(st.st_mode)) {
        return error_set(err, ACCEL_EINVAL, "device %s: it is no character device", path);
    }
    int r = add_allowed(d, major(st.st_rdev), minor(st.st_rdev), err);
    return r == 0 ? add_control_nodes(d, major(st.st_rdev), err) : r;
}

/* ---- the program ---- */

#define INSN(c, d, s, o, i)                                                                        \
    ((struct bpf_insn){                                                                            \
        .code = (c), .dst_reg = (d), .src_reg = (s), .off = (int16_t)(o), .imm = (int32_t)(i)})
#define HEAD_INSNS 5u
#define TAIL_INSNS 4u

size_t devctl_program_max(const struct devctl *d)
{
    return HEAD_INSNS + 2 * d->allow_count + d->major_count + TAIL_INSNS;
}

/* Offsets of jumps count from the next instruction. */
size_t devctl_program(const struct devctl *d, struct bpf_insn *p)
{
    size_t n = 0;
    size_t tests = 0;
    for (size_t i = 0; i < d->allow_count; i++) {
        tests += d->allow[i].minor == DEVCTL_ANY ? 1 : 2;
    }
    size_t pass = HEAD_INSNS + tests + d->major_count;
    size_t deny = pass + 2;
    p[n++] =
        INSN(BPF_LDX | BPF_MEM | BPF_W, 2, 1, offsetof(struct bpf_cgroup_dev_ctx, access_type), 0);
    p[n++] = INSN(BPF_ALU | BPF_AND | BPF_K, 2, 0, 0, 0xffff); /* the upper half is the access */
    p[n] = INSN(BPF_JMP | BPF_JNE | BPF_K, 2, 0, pass - n - 1, BPF_DEVCG_DEV_CHAR);
    n++;
    p[n++] = INSN(BPF_LDX | BPF_MEM | BPF_W, 3, 1, offsetof(struct bpf_cgroup_dev_ctx, major), 0);
    p[n++] = INSN(BPF_LDX | BPF_MEM | BPF_W, 4, 1, offsetof(struct bpf_cgroup_dev_ctx, minor), 0);
    for (size_t i = 0; i < d->allow_count; i++) {
        const struct devctl_device *a = &d->allow[i];
        if (a->minor == DEVCTL_ANY) {
            p[n] = INSN(BPF_JMP | BPF_JEQ | BPF_K, 3, 0, pass - n - 1, a->major);
            n++;
            continue;
        }
        p[n++] = INSN(BPF_JMP | BPF_JNE | BPF_K, 3, 0, 1, a->major);
        p[n] = INSN(BPF_JMP | BPF_JEQ | BPF_K, 4, 0, pass - n - 1, a->minor);
        n++;
    }
    for (size_t i = 0; i < d->major_count; i++) {
        p[n] = INSN(BPF_JMP | BPF_JEQ | BPF_K, 3, 0, deny - n - 1, d->majors[i]);
        n++;
    }
    CHECK(n == pass);
    p[n++] = INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1);
    p[n++] = INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    if (d->major_count > 0) { /* the kernel takes no program with a part that is never reached */
        p[n++] = INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0);
        p[n++] = INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }
    return n;
}

/* Its descriptor, or -errno. */
static int load_program(const struct devctl *d)
{
    AUTO_FREE struct bpf_insn *insns = xcalloc(devctl_program_max(d), sizeof(*insns));
    union bpf_attr attr;
    memset(&attr, 0, sizeof(attr));
    attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attr.insns = (uint64_t)(uintptr_t)insns;
    attr.insn_cnt = (uint32_t)devctl_program(d, insns);
    attr.license = (uint64_t)(uintptr_t) "Apache-2.0"; /* no helper is called that asks for GPL */
    memcpy(attr.prog_name, "accel_devices", sizeof("accel_devices"));
    int fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
    return fd < 0 ? -errno : fd;
}

/* BPF_PROG_ATTACH and BPF_PROG_DETACH. */
static int bind_program(int command, int prog_fd, int cgroup_fd)
{
    union bpf_attr attr;
    memset(&attr, 0, sizeof(attr));
    attr.target_fd = (uint32_t)cgroup_fd;
    attr.attach_bpf_fd = (uint32_t)prog_fd;
    attr.attach_type = BPF_CGROUP_DEVICE;
    if (command == BPF_PROG_ATTACH) {
        attr.attach_flags = BPF_F_ALLOW_MULTI; /* beside those of systemd and container engines */
    }
    return syscall(SYS_bpf, command, &attr, sizeof(attr)) < 0 ? -errno : 0;
}

int devctl_attach(const struct devctl *d, int cgroup_fd)
{
    AUTO_CLOSE int prog_fd = load_program(d);
    return prog_fd < 0 ? prog_fd : bind_program(BPF_PROG_ATTACH, prog_fd, cgroup_fd);
}

int devctl_try_attach(int cgroup_fd)
{
    static const struct devctl nothing; /* lets all pass */
    AUTO_CLOSE int prog_fd = load_program(&nothing);
    if (prog_fd < 0) {
        return prog_fd;
    }
    int r = bind_program(BPF_PROG_ATTACH, prog_fd, cgroup_fd);
    if (r == 0) { /* a group takes 64 programs, and this one may outlive many of our starts */
        r = bind_program(BPF_PROG_DETACH, prog_fd, cgroup_fd);
    }
    return r;
}

/* ---- version 1 ---- */

static int write_line(int fd, const char *text)
{
    return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* From `all are denied` upwards: there, an exception to an exception does not exist. */
int devctl_write(const struct devctl *d, int dir_fd)
{
    char line[64];
    AUTO_CLOSE int deny_fd = openat(dir_fd, "devices.deny", O_WRONLY | O_CLOEXEC);
    AUTO_CLOSE int allow_fd = openat(dir_fd, "devices.allow", O_WRONLY | O_CLOEXEC);
    if (deny_fd < 0 || allow_fd < 0) {
        return -errno;
    }
    int r = write_line(deny_fd, "a");
    if (r == 0) {
        r = write_line(allow_fd, "b *:* rwm");
    }
    for (uint32_t major = 0; major < V1_MAJORS && r == 0; major++) {
        if (!has_major(d, major)) {
            snprintf(line, sizeof(line), "c %u:* rwm", major);
            r = write_line(allow_fd, line);
        }
    }
    for (size_t i = 0; i < d->allow_count && r == 0; i++) {
        const struct devctl_device *a = &d->allow[i];
        if (a->minor == DEVCTL_ANY) {
            snprintf(line, sizeof(line), "c %u:* rwm", a->major);
        } else {
            snprintf(line, sizeof(line), "c %u:%u rwm", a->major, a->minor);
        }
        r = write_line(allow_fd, line);
    }
    return r;
}
