/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real NVML source over a fake library whose machine is a file (tests/lib/fake_nvml.c): what is
 * listed, what is wrong with it, a driver that hangs, and devices given out and taken back.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agentd/device.h"
#include "agentd/device_nvml_internal.h"

#define DEADLINE_MS 60000 /* of one wait; it will never come after that */

static char dir[] = "/tmp/accel-nvml-XXXXXX";
static uv_loop_t loop;
static uv_timer_t deadline;
static struct device_source *source;
static struct arena arena;
static Accel__V1__Device **devices;
static size_t count;
static struct accel_error err;
static unsigned changes, frees;

static const char eight[] =
    "driver 575.1\n"
    "gpu GPU-7 bus=d1 minor=7\n" /* not in the order of the bus */
    "gpu GPU-0 bus=11 minor=0 model=H200 memory=143771 used=4\n"
    "gpu GPU-1 bus=21 minor=1\ngpu GPU-2 bus=31 minor=2\ngpu GPU-3 bus=41 minor=3\n"
    "gpu GPU-4 bus=91 minor=4\ngpu GPU-5 bus=a1 minor=5\ngpu GPU-6 bus=b1 minor=6\n";

static void write_at(const char *name, const char *text)
{
    char path[256], next[300];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    snprintf(next, sizeof(next), "%s.new", path);
    FILE *f = fopen(next, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(rename(next, path), 0);
}

PRINTF_LIKE(1, 2) static void machine(const char *fmt, ...)
{
    char text[4096];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    write_at("machine", text);
}

static void make_dirs(const char *path)
{
    char full[256];
    snprintf(full, sizeof(full), "%s/%s", dir, path);
    for (char *c = full + strlen(dir) + 1; *c; c++) {
        if (*c == '/') {
            *c = 0;
            mkdir(full, 0700);
            *c = '/';
        }
    }
    mkdir(full, 0700);
}

static void on_deadline(uv_timer_t *timer)
{
    fail_msg("it did not come within %d ms", DEADLINE_MS);
}

static void on_change(void *ctx)
{
    changes++;
}

static void on_free(void *ctx)
{
    frees++;
}

static void open_source(const char *library, int64_t answer_ms, int64_t proof_ms)
{
    struct device_nvml_config config = {.loop = &loop,
                                        .driver = library,
                                        .answer_ms = answer_ms,
                                        .sample_ms = 20,
                                        .proof_ms = proof_ms};
    if (device_nvml_create(&config, on_change, NULL, &source, &err) < 0)
        fail_msg("%s", err.text);
}

static void list(void)
{
    arena_reset(&arena);
    assert_int_equal(
        device_list_all((struct device_source *const *)&source, 1, &arena, &devices, &count, &err),
        0);
}

static const Accel__V1__Device *device(const char *uuid)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(devices[i]->visible, uuid) == 0)
            return devices[i];
    }
    return NULL;
}

/* Runs the loop until the fault of the device contains the text ("" for none). */
static const Accel__V1__Device *wait_fault(const char *uuid, const char *text)
{
    for (;;) {
        list();
        const Accel__V1__Device *d = device(uuid);
        if (d && (text[0] ? strstr(d->fault, text) != NULL : !d->fault[0]))
            return d;
        uv_run(&loop, UV_RUN_ONCE);
    }
}

static int setup(void **state)
{
    arena_init(&arena);
    assert_int_equal(uv_loop_init(&loop), 0);
    uv_timer_init(&loop, &deadline);
    uv_timer_start(&deadline, on_deadline, DEADLINE_MS, 0);
    changes = frees = 0;
    return 0;
}

static int teardown(void **state)
{
    machine("init 9\n"); /* nothing hangs in it any more */
    source->ops->destroy(source);
    uv_close((uv_handle_t *)&deadline, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    arena_done(&arena);
    return 0;
}

static const Accel__V1__DeviceLink *link_to(const Accel__V1__Device *d, uint32_t index)
{
    for (size_t i = 0; i < d->n_links; i++) {
        if (d->links[i]->index == index)
            return d->links[i];
    }
    fail_msg("no link to %u", index);
    return NULL;
}

static void test_eight(void **state)
{
    char path[128];
    machine("%snvlink GPU-0 GPU-1\nnvlink GPU-1 GPU-0\nsame-board GPU-2 GPU-3\n"
            "nvswitch GPU-6 18\nnvswitch GPU-7 12\n",
            eight);
    make_dirs("sys/bus/pci/devices/0000:91:00.0");
    write_at("sys/bus/pci/devices/0000:91:00.0/numa_node", "1\n");
    open_source(FAKE_NVML_SO, 0, 0);
    list();
    assert_int_equal(count, 8);
    for (size_t i = 0; i < count; i++) {
        char id[32];
        snprintf(id, sizeof(id), "gpu:GPU-%zu", i);
        assert_string_equal(devices[i]->id, id);
        assert_string_equal(devices[i]->visible, id + 4);
        assert_string_equal(devices[i]->fault, "");
        assert_string_equal(devices[i]->vendor, "nvidia");
        assert_int_equal(devices[i]->index, i);
        snprintf(path, sizeof(path), "%s/dev/nvidia%zu", dir, i);
        assert_string_equal(devices[i]->paths[0], path);
        assert_int_equal(devices[i]->numa_node, i == 4 ? 1 : -1);
    }
    assert_string_equal(devices[0]->model, "H200");
    assert_int_equal(devices[0]->memory_bytes, 143771ull << 20);
    assert_string_equal(devices[0]->bus, "0000:11:00.0");
    assert_int_equal(devices[0]->n_links, 7);
    assert_string_equal(link_to(devices[0], 1)->kind, "nvlink");
    assert_int_equal(link_to(devices[0], 1)->count, 2);
    assert_string_equal(link_to(devices[2], 3)->kind, "pix");
    assert_string_equal(link_to(devices[2], 4)->kind, "sys");
    assert_string_equal(link_to(devices[7], 6)->kind, "nvlink");
    assert_int_equal(link_to(devices[7], 6)->count, 12); /* the lesser of both */
    assert_int_equal(changes, 0);
}

static void test_links_after_other_sources(void **state)
{
    struct device_source *both[2] = {device_cpu_create(3)};
    machine("gpu GPU-0 bus=1\ngpu GPU-1 bus=2\n");
    open_source(FAKE_NVML_SO, 0, 0);
    both[1] = source;
    assert_int_equal(device_list_all(both, 2, &arena, &devices, &count, &err), 0);
    assert_int_equal(count, 5);
    assert_int_equal(devices[3]->links[0]->index, 4);
    assert_int_equal(devices[4]->links[0]->index, 3);
    both[0]->ops->destroy(both[0]);
}

static void test_mig(void **state)
{
    make_dirs("proc/driver/nvidia/capabilities/gpu0/mig/gi2/ci0");
    write_at("proc/driver/nvidia/capabilities/gpu0/mig/gi2/access", "DeviceFileMinor: 21\n");
    write_at("proc/driver/nvidia/capabilities/gpu0/mig/gi2/ci0/access", "DeviceFileMinor: 22\n");
    make_dirs("dev/nvidia-caps");
    write_at("dev/nvidia-caps/nvidia-cap21", "");
    write_at("dev/nvidia-caps/nvidia-cap22", "");
    machine("gpu GPU-0 bus=11 minor=0 model=A100 mig\ngpu GPU-1 bus=21 minor=1 mig\n"
            "mig MIG-b parent=GPU-0 gi=3 ci=0 memory=5120\nmig MIG-a parent=GPU-0 gi=2 ci=0\n");
    open_source(FAKE_NVML_SO, 0, 0);
    list();
    assert_int_equal(count, 3);
    assert_string_equal(devices[0]->id, "gpu:MIG-a");
    assert_string_equal(devices[0]->parent, "GPU-0");
    assert_string_equal(devices[0]->bus, "0000:11:00.0");
    assert_int_equal(devices[0]->n_paths, 6);
    assert_non_null(strstr(devices[0]->paths[4], "/nvidia-caps/nvidia-cap21"));
    assert_non_null(strstr(devices[0]->paths[5], "/nvidia-caps/nvidia-cap22"));
    assert_int_equal(devices[1]->memory_bytes, 5120ull << 20);
    assert_int_equal(devices[1]->n_paths, 4);
    assert_non_null(strstr(devices[2]->fault, "no instances"));
    /* an instance that is taken away is no fault, and a new one is listed */
    machine("gpu GPU-0 bus=11 minor=0 mig\ngpu GPU-1 bus=21 minor=1\n"
            "mig MIG-c parent=GPU-0 gi=1 ci=0\nevent GPU-0 95 1 1 0\n");
    (void)wait_fault("GPU-1", "");
    list();
    assert_int_equal(count, 2);
    assert_true(wait_fault("MIG-c", "XID 95 (uncontained ECC error)")->is_broken);
}

static void test_events(void **state)
{
    machine("%sevent GPU-0 31 11\nevent GPU-1 79 12\nevent GPU-2 ecc 13\nevent GPU-3 64 14\n"
            "event GPU-4 999 15\nevent GPU-1 45 16\n",
            eight);
    open_source(FAKE_NVML_SO, 0, 0);
    assert_true(wait_fault("GPU-1", "XID 79 (GPU has fallen off the bus)")->is_broken);
    assert_true(wait_fault("GPU-2", "double bit ECC error")->is_broken);
    assert_false(wait_fault("GPU-3", "XID 64")->is_broken);
    assert_false(wait_fault("GPU-4", "XID 999")->is_broken);
    assert_string_equal(device("GPU-0")->fault, ""); /* page faults are the program's */
    assert_true(changes > 0);
    /* gone and back, as by a reset: what was said of it is over */
    machine("gpu GPU-0 bus=11\n");
    (void)wait_fault("GPU-5", "gone from the driver's list");
    assert_non_null(strstr(device("GPU-3")->fault, "XID 64"));
    assert_non_null(strstr(device("GPU-1")->fault, "XID 79"));
    machine("%s", eight);
    (void)wait_fault("GPU-1", "");
}

static void test_lost(void **state)
{
    machine("%s", eight);
    open_source(FAKE_NVML_SO, 0, 0);
    machine("gpu GPU-0 bus=11\ngpu GPU-1 bus=21 lost\ngpu GPU-2 bus=31 failed-rows\n"
            "gpu GPU-3 bus=41 ecc=3\ngpu GPU-4 bus=91 ecc=4 pending-rows\n");
    assert_true(wait_fault("GPU-1", "fallen off the bus")->is_broken);
    assert_false(wait_fault("GPU-2", "row remapping failed")->is_broken);
    assert_string_equal(device("GPU-3")->fault, ""); /* its rows were replaced */
    assert_string_equal(device("GPU-4")->fault, "4 uncorrected ECC errors since the driver was "
                                                "loaded; a row waits for a reset to be replaced");
    assert_string_equal(device("GPU-0")->fault, "");
    assert_int_equal(count, 8);
}

static void test_no_driver(void **state)
{
    machine("init 9\n");
    open_source(FAKE_NVML_SO, 0, 0);
    list();
    assert_int_equal(count, 0);
    assert_string_equal(source->ops->note(source), "");
}

static void test_mismatch(void **state)
{
    machine("gpu GPU-0 bus=1\n");
    open_source(FAKE_NVML_SO, 0, 0);
    machine("init 18\n");
    (void)wait_fault("GPU-0", "of different versions");
    assert_false(device("GPU-0")->is_broken); /* what runs on it goes on */
    assert_non_null(strstr(source->ops->note(source), "different versions"));
    machine("gpu GPU-0 bus=1\n");
    (void)wait_fault("GPU-0", "of different versions"); /* tried again after a while only */
}

static void test_mismatch_from_the_start(void **state)
{
    machine("init 18\ngpu GPU-0 bus=1\n");
    open_source(FAKE_NVML_SO, 0, 0);
    list();
    assert_int_equal(count, 0);
    assert_non_null(strstr(source->ops->note(source), "different versions"));
}

static void test_hang(void **state)
{
    machine("gpu GPU-0 bus=1\n");
    open_source(FAKE_NVML_SO, 60, 0);
    list();
    assert_string_equal(devices[0]->fault, "");
    machine("gpu GPU-0 bus=1\nhang nvmlDeviceGetCount\n");
    (void)wait_fault("GPU-0", "the driver does not answer for 1 s (nvmlDeviceGetCount)");
    assert_non_null(strstr(source->ops->note(source), "does not answer"));
    const char *ids[] = {"gpu:GPU-0"};
    assert_int_equal(source->ops->take(source, ids, 1, false, &err), ACCEL_EBUSY);
    assert_non_null(strstr(err.text, "does not answer"));
    machine("gpu GPU-0 bus=1\n");
    (void)wait_fault("GPU-0", "");
}

static void test_hang_from_the_start(void **state)
{
    machine("hang nvmlInit\ngpu GPU-0 bus=1\n");
    open_source(FAKE_NVML_SO, 60, 0);
    list();
    assert_int_equal(count, 0);
    while (!strstr(source->ops->note(source), "does not answer for 1 s (nvmlInit)"))
        uv_run(&loop, UV_RUN_ONCE);
    machine("gpu GPU-0 bus=1\n");
    (void)wait_fault("GPU-0", "");
}

/* GPUs that only the kernel's driver tells of are there, with why they cannot be used. */
static void test_hearsay(void **state)
{
    const char name[] = "proc/driver/nvidia/gpus/0000:1b:00.0/information";
    char path[128];
    make_dirs("proc/driver/nvidia/gpus/0000:1b:00.0");
    write_at(name, "Model: \t\t NVIDIA H200\nIRQ:   \t\t 0\nGPU UUID: \t GPU-0\n"
                   "Bus Location: \t 0000:1b:00.0\nDevice Minor: \t 5\n");
    make_dirs("proc/driver/nvidia/gpus/0000:2b:00.0");
    write_at("proc/driver/nvidia/gpus/0000:2b:00.0/information",
             "Model: \t\t NVIDIA H200\nGPU UUID: \t GPU-?"
             "?\n");
    machine("hang nvmlInit\ninit 18\n");
    open_source(FAKE_NVML_SO, 60, 0);
    (void)wait_fault("GPU-0", "the driver does not answer for 1 s (nvmlInit)");
    assert_int_equal(count, 2);
    assert_string_equal(devices[0]->model, "NVIDIA H200");
    assert_string_equal(devices[0]->bus, "0000:1b:00.0");
    assert_non_null(strstr(devices[0]->paths[0], "/nvidia5"));
    assert_string_equal(devices[1]->id, "gpu:0000:2b:00.0");
    machine("init 18\n");
    (void)wait_fault("GPU-0", "different versions");
    assert_false(device("GPU-0")->is_broken);
    source->ops->destroy(source);
    machine("gpu GPU-0 bus=1b\ngpu GPU-1 bus=2b\n");
    open_source(FAKE_NVML_SO, 0, 0);
    (void)wait_fault("GPU-1", "");
    assert_int_equal(count, 2); /* the one without a UUID has its name now */
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/proc/driver/nvidia/gpus/0000:%db:00.0/information", dir,
                 i + 1);
        assert_int_equal(unlink(path), 0);
    }
}

static void test_old_driver(void **state)
{
    machine("driver 390.1\ngpu GPU-0 bus=1 minor=3 model=K80 memory=12000\n");
    open_source(FAKE_NVML_OLD_SO, 0, 0);
    list();
    assert_int_equal(count, 1);
    assert_string_equal(devices[0]->model, "K80");
    assert_string_equal(devices[0]->fault, "");
    assert_int_equal(devices[0]->n_links, 0);
}

static void test_wrong_library(void **state)
{
    struct device_nvml_config config = {.loop = &loop, .driver = "/no/such/library.so"};
    assert_int_equal(device_nvml_create(&config, NULL, NULL, &source, &err), ACCEL_ENOENT);
    assert_non_null(strstr(err.text, "/no/such/library.so"));
    config.driver = "libuv.so.1"; /* there, and something else */
    assert_int_equal(device_nvml_create(&config, NULL, NULL, &source, &err), 0);
    assert_non_null(strstr(source->ops->note(source), "nvmlInit_v2"));
    list();
    assert_int_equal(count, 0);
}

static void test_busy(void **state)
{
    char text[64];
    const char *ids[] = {"cpu:0", "gpu:GPU-0", "gpu:GPU-1"};
    machine("gpu GPU-0 bus=1\ngpu GPU-1 bus=2\nprocess GPU-1 %d\n", (int)getpid());
    open_source(FAKE_NVML_SO, 0, 0);
    list();
    snprintf(text, sizeof(text), "busy: pid %d (", (int)getpid());
    assert_string_equal(devices[0]->fault, "");
    assert_memory_equal(devices[1]->fault, text, strlen(text));
    assert_false(devices[1]->is_broken);
    assert_int_equal(source->ops->take(source, ids, 3, false, &err), ACCEL_EBUSY);
    assert_non_null(strstr(err.text, "gpu:GPU-1: busy: pid"));
    assert_int_equal(source->ops->take(source, ids, 2, false, &err), 0); /* none was taken before */
    assert_int_equal(source->ops->take(source, ids, 2, false, &err), ACCEL_EBUSY);
    machine("gpu GPU-0 bus=1\ngpu GPU-1 bus=2\nprocess GPU-1 999999999\nprocess GPU-1 1\n");
    (void)wait_fault("GPU-1", "busy: pid 999999999 and 1 more");
    /* what has come right before a start is seen, though no sample was due */
    machine("gpu GPU-0 bus=1\ngpu GPU-1 bus=2\n");
    assert_int_equal(source->ops->take(source, &ids[2], 1, false, &err), 0);
}

static void test_given_and_back(void **state)
{
    const char *ids[] = {"gpu:GPU-0"};
    machine("gpu GPU-0 bus=1 used=100\n");
    open_source(FAKE_NVML_SO, 0, 0);
    assert_int_equal(source->ops->take(source, ids, 1, false, &err), 0);
    machine("gpu GPU-0 bus=1 used=900\nprocess GPU-0 1\n");
    for (int i = 0; i < 3; i++) /* looks that see the process: it is the attempt's own */
        uv_run(&loop, UV_RUN_ONCE);
    list();
    assert_string_equal(devices[0]->fault, "");
    assert_true(source->ops->release(source, ids, 1, on_free, NULL));
    assert_int_equal(frees, 0);
    for (int i = 0; i < 5; i++)
        uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(frees, 0);
    machine("gpu GPU-0 bus=1 used=120\n");
    while (frees == 0)
        uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(frees, 1);
    list();
    assert_string_equal(devices[0]->fault, "");
    assert_false(source->ops->release(source, ids, 1, on_free, NULL)); /* nobody has it */
}

static void test_held(void **state)
{
    const char *ids[] = {"gpu:GPU-0", "gpu:GPU-1"};
    machine("gpu GPU-0 bus=1 used=100\ngpu GPU-1 bus=2\n");
    open_source(FAKE_NVML_SO, 0, 100);
    assert_int_equal(source->ops->take(source, ids, 2, false, &err), 0);
    machine("gpu GPU-0 bus=1 used=900\ngpu GPU-1 bus=2\nprocess GPU-1 1\n");
    assert_true(source->ops->release(source, ids, 2, on_free, NULL));
    while (frees == 0)
        uv_run(&loop, UV_RUN_ONCE);
    list();
    assert_string_equal(device("GPU-0")->fault, "held by 800 MiB of its memory that nobody owns");
    assert_non_null(strstr(device("GPU-1")->fault, "held by pid 1 ("));
    assert_int_equal(source->ops->take(source, ids, 1, false, &err), ACCEL_EBUSY);
    machine("gpu GPU-0 bus=1 used=100\ngpu GPU-1 bus=2\n");
    (void)wait_fault("GPU-0", "");
    (void)wait_fault("GPU-1", "");
    assert_int_equal(source->ops->take(source, ids, 2, false, &err), 0);
    assert_false(source->ops->release(source, ids, 2, NULL, NULL)); /* it was never started */
    assert_int_equal(source->ops->take(source, ids, 2, false, &err), 0);
}

/* Who has the device and the memory driver open computes with it, though NVML may not say so. */
static void test_open_descriptors(void **state)
{
    const char *ids[] = {"gpu:GPU-0"};
    char path[128], uvm[128];
    int ready[2], go[2], status;
    char c;
    write_at("dev/nvidia5", "");
    snprintf(path, sizeof(path), "%s/dev/nvidia5", dir);
    snprintf(uvm, sizeof(uvm), "%s/dev/nvidia-uvm", dir);
    machine("gpu GPU-0 bus=1 minor=5\n");
    open_source(FAKE_NVML_SO, 0, 100);
    assert_int_equal(pipe(ready) | pipe(go), 0);
    assert_int_equal(source->ops->take(source, ids, 1, false, &err), 0);
    pid_t pid = fork();
    if (pid == 0) {
        bool ok = open(path, O_RDONLY) >= 0 && open(uvm, O_RDONLY) >= 0 &&
                  write(ready[1], "x", 1) == 1 && close(go[1]) == 0;
        _exit(ok && read(go[0], &c, 1) == 0 ? 0 : 1);
    }
    assert_int_equal(read(ready[0], &c, 1), 1);
    assert_true(source->ops->release(source, ids, 1, on_free, NULL));
    while (frees == 0)
        uv_run(&loop, UV_RUN_ONCE);
    snprintf(path, sizeof(path), "held by pid %d (", (int)pid);
    (void)wait_fault("GPU-0", path);
    close(go[0]);
    close(go[1]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    (void)wait_fault("GPU-0", "");
    close(ready[0]);
    close(ready[1]);
}

static void test_adopted(void **state)
{
    const char *ids[] = {"gpu:GPU-0"};
    machine("gpu GPU-0 bus=1 used=900\nprocess GPU-0 1\n");
    open_source(FAKE_NVML_SO, 0, 0);
    (void)wait_fault("GPU-0", "busy: pid 1");
    assert_int_equal(source->ops->take(source, ids, 1, true, &err), 0);
    list();
    assert_string_equal(devices[0]->fault, "");
    assert_true(source->ops->release(source, ids, 1, on_free, NULL));
    machine("gpu GPU-0 bus=1 used=900\n"); /* what it was before nobody knows */
    while (frees == 0)
        uv_run(&loop, UV_RUN_ONCE);
    (void)wait_fault("GPU-0", "");
}

static void test_xids(void **state)
{
    const char *text;
    assert_int_equal(xid_classify(13, &text), XID_APP);
    assert_int_equal(xid_classify(31, &text), XID_APP);
    assert_int_equal(xid_classify(43, &text), XID_APP);
    assert_int_equal(xid_classify(45, &text), XID_APP);
    assert_int_equal(xid_classify(48, &text), XID_FATAL);
    assert_int_equal(xid_classify(79, &text), XID_FATAL);
    assert_non_null(text);
    assert_int_equal(xid_classify(4711, &text), XID_WORN);
    assert_null(text);
}

#define SOURCE_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SOURCE_TEST(test_eight),
        SOURCE_TEST(test_links_after_other_sources),
        SOURCE_TEST(test_mig),
        SOURCE_TEST(test_events),
        SOURCE_TEST(test_lost),
        SOURCE_TEST(test_no_driver),
        SOURCE_TEST(test_mismatch),
        SOURCE_TEST(test_mismatch_from_the_start),
        SOURCE_TEST(test_hang),
        SOURCE_TEST(test_hang_from_the_start),
        SOURCE_TEST(test_hearsay),
        SOURCE_TEST(test_old_driver),
        SOURCE_TEST(test_wrong_library),
        SOURCE_TEST(test_busy),
        SOURCE_TEST(test_given_and_back),
        SOURCE_TEST(test_held),
        SOURCE_TEST(test_open_descriptors),
        SOURCE_TEST(test_adopted),
        cmocka_unit_test(test_xids),
    };
    char path[128];
    assert_non_null(mkdtemp(dir));
    const char *roots[][2] = {{"FAKE_NVML", "machine"},
                              {"ACCEL_DEV_ROOT", "dev"},
                              {"ACCEL_SYSFS_ROOT", "sys"},
                              {"ACCEL_PROC_ROOT", "proc"}};
    for (size_t i = 0; i < ARRAY_LEN(roots); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, roots[i][1]);
        setenv(roots[i][0], path, 1);
    }
    make_dirs("dev");
    write_at("dev/nvidia-uvm", "");
    write_at("dev/nvidia-uvm-tools", "");
    int failed = cmocka_run_group_tests_name("device_nvml", tests, NULL, NULL);
    char *const argv[] = {"rm", "-rf", dir, NULL};
    if (fork() == 0)
        execvp(argv[0], argv);
    wait(NULL);
    return failed;
}
