/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What environ_build() makes of a Start with TPU chips: the runtime's variables per rank, claims
 * and device nodes, nothing stale from outside; and what a job without chips finds beside some.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agentd/environ.h"

static struct arena arena;
static struct accel_error err;
static Accel__V1__AttemptSpec *spec;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_done(&arena);
    return 0;
}

static Accel__V1__Device *chip(unsigned i)
{
    Accel__V1__Device *d = ARENA_NEW(&arena, Accel__V1__Device);
    accel__v1__device__init(d);
    d->id = arena_printf(&arena, "tpu:%u", i);
    d->kind = ACCEL__V1__DEVICE_KIND__DEVICE_TPU;
    d->vendor = (char *)"google";
    d->model = (char *)"TPU v4";
    d->visible = arena_printf(&arena, "%u", i);
    d->index = 16 + i; /* behind the CPU slots */
    d->paths = ARENA_ARRAY(&arena, char *, 1);
    d->paths[d->n_paths++] = arena_printf(&arena, "/dev/accel%u", i);
    return d;
}

static int build(uint32_t first, uint32_t chips, uint32_t procs, uint32_t nodes,
                 const struct tpu_host *host)
{
    static char *const env[] = {(char *)"TPU_WORKER_ID=7", (char *)"MEGASCALE_NUM_SLICES=4",
                                (char *)"LIBTPU_INIT_ARGS=--x", (char *)"HOME=/root"};
    static ProtobufCBinaryData argv = {9, (uint8_t *)"/bin/true"};
    ProtobufCBinaryData *items = ARENA_ARRAY(&arena, ProtobufCBinaryData, ARRAY_LEN(env));
    Accel__V1__Device **devices = ARENA_ARRAY(&arena, Accel__V1__Device *, 4);
    Accel__V1__AttemptRef ref = ACCEL__V1__ATTEMPT_REF__INIT;
    Accel__V1__JobSpec job = ACCEL__V1__JOB_SPEC__INIT;
    Accel__V1__Start start = ACCEL__V1__START__INIT;
    Accel__V1__Peer peers[2] = {ACCEL__V1__PEER__INIT, ACCEL__V1__PEER__INIT};
    const Accel__V1__Peer *list[] = {&peers[0], &peers[1]};
    char *ids[4];
    peers[0].address = (char *)"10.0.0.1";
    peers[1].address = (char *)"10.0.0.2";
    peers[0].slice = peers[1].slice = (char *)"s";
    peers[1].slice_worker = 1;
    for (unsigned i = 0; i < 4; i++)
        devices[i] = chip(i);
    for (unsigned i = 0; i < chips; i++)
        ids[i] = devices[first + i]->id;
    for (unsigned i = 0; i < ARRAY_LEN(env); i++)
        items[i] = (ProtobufCBinaryData){strlen(env[i]), (uint8_t *)env[i]};
    ref.job_id = ref.attempt = 1;
    job.argv = &argv;
    job.n_argv = 1;
    job.env = items;
    job.n_env = ARRAY_LEN(env);
    start.ref = &ref;
    start.spec = &job;
    start.local_size = procs;
    start.world_size = procs * nodes;
    start.node_count = nodes;
    start.devices = ids;
    start.n_devices = chips;
    struct environ_input in = {.start = &start,
                               .devices = (const Accel__V1__Device *const *)devices,
                               .device_count = 4,
                               .master_addr = "10.0.0.1",
                               .ifname = "lo",
                               .node_name = "n",
                               .aux_port = 20001,
                               .peers = list,
                               .peer_count = nodes,
                               .attempts_dir = "/a",
                               .tpu_host = host};
    return environ_build(&in, &arena, &spec, &err);
}

static const char *find(ProtobufCBinaryData *items, size_t count, const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < count; i++) {
        if (items[i].len > len && memcmp(items[i].data, name, len) == 0 &&
            items[i].data[len] == '=')
            return arena_printf(&arena, "%.*s", (int)(items[i].len - len - 1),
                                (char *)items[i].data + len + 1);
    }
    return "(unset)";
}

static const char *common(const char *name)
{
    return find(spec->env, spec->n_env, name);
}

static const char *of_rank(size_t rank, const char *name)
{
    return find(spec->ranks[rank]->env, spec->ranks[rank]->n_env, name);
}

static void test_split(void **state)
{
    (void)state;
    assert_int_equal(build(2, 2, 2, 1, NULL), 0);
    assert_string_equal(of_rank(0, "TPU_VISIBLE_CHIPS"), "2");
    assert_string_equal(of_rank(1, "TPU_VISIBLE_CHIPS"), "3");
    assert_string_equal(of_rank(1, "TPU_PROCESS_PORT"), "8479");
    assert_string_equal(of_rank(1, "CLOUD_TPU_TASK_ID"), "1");
    assert_string_equal(of_rank(1, "TPU_ACCELERATOR_TYPE"), "v4-4");
    assert_string_equal(of_rank(0, "TPU_WORKER_ID"), "0");
    assert_string_equal(common("TPU_WORKER_ID"), "(unset)"); /* stale */
    assert_string_equal(common("MEGASCALE_NUM_SLICES"), "(unset)");
    assert_string_equal(common("LIBTPU_INIT_ARGS"), "--x");
    assert_string_equal(common("ACCELERATE_USE_CPU"), "(unset)");
    assert_int_equal(spec->n_claims, 2);
    assert_string_equal(spec->claims[0], "/dev/accel2");
    assert_int_equal(spec->n_device_paths, 2);
    assert_string_equal(spec->device_paths[1], "/dev/accel3");
}

static void test_slice(void **state)
{
    static const struct tpu_host host = {TPU_V4,  4,  2,  0,  "s", "v4-16",
                                         "2x2x2", "", "", "", "",  false};
    (void)state;
    assert_int_equal(build(0, 4, 1, 2, &host), 0);
    assert_string_equal(of_rank(0, "TPU_WORKER_HOSTNAMES"), "10.0.0.1,10.0.0.2");
    assert_string_equal(of_rank(0, "TPU_HOST_BOUNDS"), "1,1,2");
    assert_string_equal(of_rank(0, "TPU_VISIBLE_CHIPS"), "(unset)");
    assert_int_equal(build(0, 2, 1, 2, &host), ACCEL_EINVAL);
    assert_non_null(strstr(err.text, "use all of each host"));
}

static void test_without(void **state)
{
    (void)state;
    assert_int_equal(build(0, 0, 1, 1, NULL), 0);
    assert_string_equal(common("JAX_PLATFORMS"), "cpu");
    assert_string_equal(common("PJRT_DEVICE"), "CPU");
    assert_string_equal(common("ACCELERATE_USE_CPU"), "true");
    assert_string_equal(of_rank(0, "TPU_VISIBLE_CHIPS"), "(unset)");
}

static void test_refused(void **state)
{
    (void)state;
    assert_int_equal(build(1, 2, 1, 1, NULL), ACCEL_EINVAL);
    assert_non_null(strstr(err.text, "no block"));
    assert_int_equal(build(0, 4, 3, 1, NULL), ACCEL_EINVAL);
    assert_non_null(strstr(err.text, "cannot be split"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_split, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slice, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
