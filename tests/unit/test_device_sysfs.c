/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TPU chips and AMD GPUs out of trees that look like /sys and /dev of such machines, made here in a
 * directory of their own.
 */
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agentd/device_tpu_internal.h"
#include "common/str.h"

static char root[] = "/tmp/accel-sysfs-XXXXXX";
static struct arena arena;
static Accel__V1__Device **devices;
static size_t count;
static struct accel_error err;
static uv_loop_t loop;
static unsigned changes;

static void on_change(void *ctx)
{
    (void)ctx;
    changes++;
    uv_stop(&loop);
}

static void make_dirs(char *path) /* of everything before the last slash */
{
    for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = 0;
        mkdir(path, 0755);
        *p = '/';
    }
}

static char *path_of(char *buf, size_t size, const char *fmt, va_list args)
{
    int n = snprintf(buf, size, "%s/", root);
    vsnprintf(buf + n, size - (size_t)n, fmt, args);
    make_dirs(buf);
    return buf;
}

__attribute__((format(printf, 2, 3))) static void put(const char *text, const char *fmt, ...)
{
    char path[512];
    va_list args;
    va_start(args, fmt);
    FILE *f = fopen(path_of(path, sizeof(path), fmt, args), "w");
    va_end(args);
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

__attribute__((format(printf, 2, 3))) static void put_link(const char *target, const char *fmt, ...)
{
    char path[512];
    va_list args;
    va_start(args, fmt);
    assert_int_equal(symlink(target, path_of(path, sizeof(path), fmt, args)), 0);
    va_end(args);
}

static void put_pci(const char *bus, const char *device, const char *class)
{
    put("0x1ae0\n", "sys/bus/pci/devices/%s/vendor", bus);
    put(device, "sys/bus/pci/devices/%s/device", bus);
    put(class, "sys/bus/pci/devices/%s/class", bus);
    put("1\n", "sys/bus/pci/devices/%s/numa_node", bus);
}

static int setup(void **state)
{
    static char sys[64], dev[64];
    (void)state;
    arena_init(&arena);
    changes = 0;
    assert_int_equal(uv_loop_init(&loop), 0);
    memcpy(root + strlen(root) - 6, "XXXXXX", 6);
    assert_non_null(mkdtemp(root));
    assert_int_equal(chmod(root, 0755), 0); /* one test looks in as another user */
    snprintf(sys, sizeof(sys), "%s/sys", root);
    snprintf(dev, sizeof(dev), "%s/dev", root);
    setenv("ACCEL_SYSFS_ROOT", sys, 1);
    setenv("ACCEL_DEV_ROOT", dev, 1);
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int teardown(void **state)
{
    (void)state;
    arena_done(&arena);
    uv_run(&loop, UV_RUN_DEFAULT); /* what was destroyed closes */
    assert_int_equal(uv_loop_close(&loop), 0);
    return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void list(struct device_source *s, int want)
{
    assert_int_equal(s->ops->list(s, &arena, &devices, &count, &err), want);
    s->ops->destroy(s);
}

static const char *in_dev(const char *name)
{
    return arena_printf(&arena, "%s/dev/%s", root, name);
}

static void test_nothing(void **state)
{
    (void)state;
    list(device_tpu_create(&loop, on_change, NULL), 0);
    assert_int_equal(count, 0);
    list(device_amd_create(), 0);
    assert_int_equal(count, 0);
}

static void test_tpu_accel(void **state)
{
    (void)state;
    put_pci("0000:00:04.0", "0x0042\n", "0x020000\n"); /* gVNIC: the same vendor */
    put_pci("0000:00:05.0", "0x0063\n", "0xff0000\n");
    put_pci("0000:00:06.0", "0x0063\n", "0xff0000\n");
    put("0x8086\n", "sys/bus/pci/devices/0000:00:07.0/vendor");
    put("", "sys/bus/pci/devices/0000:00:05.0/accel/accel1/dev"); /* not in the order of the bus */
    put("", "sys/bus/pci/devices/0000:00:06.0/accel/accel0/dev");
    put("", "dev/accel0");
    list(device_tpu_create(&loop, on_change, NULL), 0);
    assert_int_equal(count, 2);
    assert_string_equal(devices[0]->id, "tpu:0");
    assert_string_equal(devices[0]->bus, "0000:00:06.0");
    assert_int_equal(devices[0]->kind, ACCEL__V1__DEVICE_KIND__DEVICE_TPU);
    assert_string_equal(devices[0]->vendor, "google");
    assert_string_equal(devices[0]->model, "TPU v5e");
    assert_string_equal(devices[0]->visible, "0");
    assert_int_equal(devices[0]->memory_bytes, 16ull << 30);
    assert_int_equal(devices[0]->numa_node, 1);
    assert_int_equal(devices[0]->n_paths, 1);
    assert_string_equal(devices[0]->paths[0], in_dev("accel0"));
    assert_string_equal(devices[0]->fault, "");
    assert_string_equal(devices[1]->bus, "0000:00:05.0");
    assert_non_null(strstr(devices[1]->fault, "accel1 is missing"));
}

static void test_tpu_vfio(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        char bus[32], group[64];
        snprintf(bus, sizeof(bus), "0000:00:%02x.0", 8 + i);
        snprintf(group, sizeof(group), "../../../kernel/iommu_groups/%d",
                 12 - i); /* 12, 11, 10, 9 */
        put_pci(bus, "0x006f\n", "0x120000\n");
        put_link(group, "sys/bus/pci/devices/%s/iommu_group", bus);
        if (i != 3)
            put("", "dev/vfio/%d", 12 - i);
    }
    put("", "dev/vfio/vfio");
    list(device_tpu_create(&loop, on_change, NULL), 0);
    assert_int_equal(count, 4);
    assert_string_equal(devices[0]->paths[0], in_dev("vfio/10"));
    assert_string_equal(devices[0]->paths[1], in_dev("vfio/vfio"));
    assert_string_equal(devices[0]->bus, "0000:00:0a.0");
    assert_string_equal(devices[2]->paths[0], in_dev("vfio/12"));
    assert_string_equal(devices[0]->model, "TPU v6e");
    assert_int_equal(devices[3]->n_paths, 0); /* bound to nothing that we could open */
    assert_non_null(strstr(devices[3]->fault, "driver"));
}

static void test_tpu_old_driver(void **state)
{
    (void)state;
    put_pci("0000:00:04.0", "0x005e\n", "0xff0000\n");
    put_pci("0000:00:05.0", "0x005e\n", "0xff0000\n");
    put_pci("0000:00:06.0", "0x00fe\n", "0x120000\n"); /* a TPU of tomorrow */
    put("", "dev/accel0");
    put("", "dev/accel1");
    put("", "dev/accel2");
    list(device_tpu_create(&loop, on_change, NULL), 0);
    assert_int_equal(count, 3);
    assert_string_equal(devices[1]->paths[0], in_dev("accel1"));
    assert_string_equal(devices[1]->model, "TPU v4");
    assert_string_equal(devices[2]->model, "TPU");
    assert_string_equal(devices[2]->fault, "");
}

static void test_tpu_odd_files(void **state)
{
    (void)state;
    put("", "sys/bus/pci/devices/0000:00:01.0/vendor");
    put("0x1ae0\n", "sys/bus/pci/devices/0000:00:02.0/vendor"); /* no device file: gone meanwhile */
    put("zzz\n", "sys/bus/pci/devices/0000:00:03.0/vendor");
    put_pci("0000:00:04.0", "0x0063\n", "junk\n");
    put("", "sys/bus/pci/devices/0000:00:04.0/accel/accelX/dev");
    list(device_tpu_create(&loop, on_change, NULL), 0);
    assert_int_equal(count, 1);
    assert_non_null(strstr(devices[0]->fault, "no device node"));
    for (int i = 0; i < 65; i++) {
        char bus[32];
        snprintf(bus, sizeof(bus), "0001:%02x:00.0", i);
        put_pci(bus, "0x0063\n", "0x120000\n");
    }
    list(device_tpu_create(&loop, on_change, NULL), ACCEL_EFULL);
}

/* ---- who uses them ---- */

/* A child that has the files open until its stdin ends; it has said so before this returns. */
struct user {
    pid_t pid;
    int hold; /* closing it ends the child */
};

static struct user start_user(const char *path, const char *lock)
{
    int hold[2], ready[2];
    char byte;
    struct user u;
    assert_int_equal(pipe2(hold, O_CLOEXEC), 0);
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    u.pid = fork();
    assert_true(u.pid >= 0);
    if (u.pid == 0) {
        close(hold[1]);
        if (path && open(path, O_RDWR) < 0)
            _exit(1);
        int fd = lock ? open(lock, O_RDWR | O_CREAT, 0644) : -1;
        if (lock && (fd < 0 || lockf(fd, F_TLOCK, 0) < 0)) /* as libtpu does */
            _exit(1);
        if (write(ready[1], "x", 1) != 1 || read(hold[0], &byte, 1) < 0)
            _exit(1);
        _exit(0);
    }
    close(hold[0]);
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    u.hold = hold[1];
    return u;
}

static void end_user(struct user u, int signo) /* 0: it ends by itself */
{
    if (signo)
        kill(u.pid, signo);
    close(u.hold);
    assert_int_equal(waitpid(u.pid, NULL, 0), u.pid);
}

static void make_chips(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        char bus[32];
        snprintf(bus, sizeof(bus), "0000:00:%02x.0", 4 + i);
        put_pci(bus, "0x0063\n", "0xff0000\n");
        put("", "dev/accel%u", i);
    }
}

static void test_tpu_in_use(void **state)
{
    static const char *const first[] = {"cpu:0", "tpu:0"}, *const second[] = {"tpu:1"};
    struct device_source *s = device_tpu_create(&loop, on_change, NULL);
    (void)state;
    make_chips(2);
    struct user u = start_user(in_dev("accel0"), NULL);
    assert_int_equal(s->ops->list(s, &arena, &devices, &count, &err), 0);
    assert_non_null(strstr(devices[0]->fault, arena_printf(&arena, "in use by pid %d", u.pid)));
    assert_string_equal(devices[1]->fault, "");
    assert_int_equal(s->ops->take(s, first, 2, false, &err), ACCEL_EBUSY);
    assert_non_null(strstr(err.text, "device tpu:0: in use by pid"));
    assert_int_equal(s->ops->take(s, second, 1, false, &err), 0);
    uv_run(&loop, UV_RUN_NOWAIT);
    changes = 0;
    end_user(u, SIGKILL);
    uv_run(&loop, UV_RUN_DEFAULT); /* its end is told, nobody asks */
    assert_int_equal(changes, 1);
    assert_int_equal(s->ops->take(s, first, 2, false, &err), 0);
    u = start_user(in_dev("accel0"), NULL); /* a worker of ours */
    assert_int_equal(s->ops->list(s, &arena, &devices, &count, &err), 0);
    assert_string_equal(devices[0]->fault, "");
    assert_false(s->ops->release(s, first, 2, on_change, NULL));
    assert_int_equal(s->ops->take(s, first, 2, false, &err), ACCEL_EBUSY); /* it has not gone */
    assert_int_equal(s->ops->take(s, first, 2, true, &err), 0);            /* adopted: it may be */
    end_user(u, 0);
    s->ops->destroy(s);
}

static void test_tpu_lock(void **state)
{
    const char *path = arena_printf(&arena, "%s/lockfile", root);
    const char *node = in_dev("accel0");
    (void)state;
    make_chips(1);
    assert_int_equal(tpu_lock_clear(path, &node, 1, &err), 0); /* there is none */
    struct user u = start_user(NULL, path);
    assert_int_equal(tpu_lock_clear(path, &node, 1, &err), 0); /* locked */
    assert_int_equal(access(path, F_OK), 0);
    end_user(u, SIGKILL);
    u = start_user(node, NULL); /* unlocked, but somebody has a chip */
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(tpu_lock_clear(path, &node, 1, &err), 0);
    assert_int_equal(access(path, F_OK), 0);
    end_user(u, 0);
    u = start_user(path, NULL); /* open, not locked yet */
    assert_int_equal(tpu_lock_clear(path, &node, 1, &err), 0);
    end_user(u, 0);
    assert_int_equal(tpu_lock_clear(path, &node, 1, &err), 1); /* the dead's */
    assert_int_not_equal(access(path, F_OK), 0);
    put_link(node, "lockfile");
    assert_int_equal(tpu_lock_clear(path, &node, 1, &err), 0); /* no file of libtpu's */
    assert_int_equal(access(path, F_OK), 0);
}

/* Another user's: only root may clear it. */
static void test_tpu_lock_of_another(void **state)
{
    const char *path = arena_printf(&arena, "%s/lockfile", root), *node = in_dev("accel0");
    (void)state;
    if (geteuid() != 0)
        skip();
    put("", "lockfile");
    assert_int_equal(chown(path, 12345, 12345), 0);
    assert_int_equal(seteuid(4321), 0);
    int r = tpu_lock_clear(path, &node, 1, &err);
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(r, ACCEL_EPERM);
    assert_non_null(strstr(err.text, "uid 12345"));
    assert_int_equal(tpu_lock_clear(path, &node, 1, &err), 1);
}

static void put_kfd(int node, const char *properties)
{
    put(properties, "sys/class/kfd/kfd/topology/nodes/%d/properties", node);
}

static void test_amd(void **state)
{
    (void)state;
    put_kfd(0, "cpu_cores_count 64\nsimd_count 0\ndrm_render_minor 0\n");
    put_kfd(10, "cpu_cores_count 0\nsimd_count 1216\ngfx_target_version 90402\nvendor_id 4098\n"
                "location_id 12032\ndomain 1\ndrm_render_minor 130\nunique_id 7747013923231124\n");
    put_kfd(2, "simd_count 880\nmax_simd_count 5\ngfx_target_version 90010\nlocation_id 768\n"
               "domain 0\ndrm_render_minor 128\nunique_id 0\n");
    put("size_in_bytes 68702699520\nheap_type 1\n",
        "sys/class/kfd/kfd/topology/nodes/2/mem_banks/0/properties");
    put("heap_type 5\nsize_in_bytes 65536\n", /* LDS: no memory of ours */
        "sys/class/kfd/kfd/topology/nodes/2/mem_banks/1/properties");
    put("AMD Instinct MI250X\n", "sys/class/drm/renderD128/device/product_name");
    put("1\n", "sys/bus/pci/devices/0000:03:00.0/numa_node");
    put("", "dev/kfd");
    put("", "dev/dri/renderD128");
    list(device_amd_create(), 0);
    assert_int_equal(count, 2);
    assert_string_equal(devices[0]->id, "gpu:amd-0000:03:00.0-128");
    assert_string_equal(devices[0]->model, "AMD Instinct MI250X");
    assert_int_equal(devices[0]->memory_bytes, 68702699520ull);
    assert_string_equal(devices[0]->bus, "0000:03:00.0");
    assert_int_equal(devices[0]->numa_node, 1);
    assert_string_equal(devices[0]->vendor, "amd");
    assert_string_equal(devices[0]->visible, "0");
    assert_string_equal(devices[0]->paths[0], in_dev("dri/renderD128"));
    assert_string_equal(devices[0]->paths[1], in_dev("kfd"));
    assert_string_equal(devices[0]->fault, "");
    assert_string_equal(devices[1]->id, "gpu:amd-001b85de3cf6d594-130");
    assert_string_equal(devices[1]->model, "AMD gfx942");
    assert_string_equal(devices[1]->bus, "0001:2f:00.0");
    assert_string_equal(devices[1]->visible, "1");
    assert_int_equal(devices[1]->numa_node, -1);
    assert_non_null(strstr(devices[1]->fault, "renderD130 is missing"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tpu_accel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tpu_vfio, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tpu_old_driver, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tpu_odd_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tpu_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tpu_lock, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tpu_lock_of_another, setup, teardown),
        cmocka_unit_test_setup_teardown(test_amd, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
