/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The variables of the TPU runtime as a table: generations, whole slices, chips split among
 * processes, parts of a host, several slices, and what is refused with which words.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agentd/tpu_env.h"
#include "common/str.h"

/* BLANK first, then what a row says. */
#pragma GCC diagnostic ignored "-Woverride-init"
#define BLANK                                                                                      \
    .slice = "", .accelerator = "", .topology = "", .chips_per_host = "", .host_bounds = "",       \
    .wrap = "", .alt = ""

struct shape {
    const char *name;
    struct tpu_host host;
    uint32_t first_chip, chip_count, local_size, node_rank, peer_count, local_rank;
    const struct tpu_peer *peers;
    const char *want; /* the variables in order, or the error */
};

static const struct tpu_peer four[] = {
    {"10.0.0.1", "s", 0}, {"10.0.0.2", "s", 1}, {"10.0.0.3", "s", 2}, {"10.0.0.4", "s", 3}};
static const struct tpu_peer turned[] = {/* node ranks need not follow the slice's own order */
                                         {"10.0.0.2", "s", 1},
                                         {"10.0.0.1", "s", 0}};
static const struct tpu_peer two_slices[] = {
    {"10.0.0.1", "a", 0}, {"10.0.0.2", "a", 1}, {"10.0.1.1", "b", 0}, {"10.0.1.2", "b", 1}};
static const struct tpu_peer alone_twice[] = {{"10.0.0.1", "", 0}, {"10.0.0.2", "", 0}};
static const struct tpu_peer twice[] = {{"10.0.0.1", "s", 0}, {"10.0.0.2", "s", 0}};
static const struct tpu_peer v6[] = {{"fd00::1", "s", 0}, {"fd00::2", "s", 1}};

static const struct shape shapes[] = {
    {"v2-8: one host of 2x2",
     {TPU_V2, 4, 1, 0, BLANK, .accelerator = "v2-8"},
     .chip_count = 4,
     .local_size = 1,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true TPU_WORKER_HOSTNAMES=localhost "
             "TPU_WORKER_ID=0 TPU_ACCELERATOR_TYPE=v2-8 TPU_CHIPS_PER_HOST_BOUNDS=2,2,1 "
             "TPU_HOST_BOUNDS=1,1,1"},
    {"v3-32: four hosts, no topology told",
     {TPU_V3, 4, 4, 2, BLANK, .slice = "s", .accelerator = "v3-32"},
     .chip_count = 4,
     .local_size = 1,
     .node_rank = 2,
     .peer_count = 4,
     .peers = four,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true "
             "TPU_WORKER_HOSTNAMES=10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4 TPU_WORKER_ID=2 "
             "TPU_ACCELERATOR_TYPE=v3-32 TPU_CHIPS_PER_HOST_BOUNDS=2,2,1 TPU_HOST_BOUNDS=2,2,1"},
    {"v4-16: 2x2x2 over two hosts, node ranks turned",
     {TPU_V4, 4, 2, 1, BLANK, .slice = "s", .accelerator = "v4-16", .topology = "2x2x2",
      .wrap = "false,false,true"},
     .chip_count = 4,
     .local_size = 1,
     .node_rank = 0,
     .peer_count = 2,
     .peers = turned,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true TPU_WORKER_HOSTNAMES=10.0.0.1,10.0.0.2 "
             "TPU_WORKER_ID=1 TPU_ACCELERATOR_TYPE=v4-16 TPU_TOPOLOGY=2x2x2 "
             "TPU_TOPOLOGY_WRAP=false,false,true TPU_CHIPS_PER_HOST_BOUNDS=2,2,1 "
             "TPU_HOST_BOUNDS=1,1,2"},
    {"v5p: a process for each chip of two hosts",
     {TPU_V5P, 4, 2, 0, BLANK, .slice = "s", .accelerator = "v5p-16", .topology = "2x2x2",
      .chips_per_host = "2,2,1", .host_bounds = "1,1,2"},
     .chip_count = 4,
     .local_size = 4,
     .node_rank = 0,
     .local_rank = 3,
     .peer_count = 2,
     .peers = turned,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true TPU_WORKER_HOSTNAMES=10.0.0.1,10.0.0.2 "
             "TPU_WORKER_ID=1 TPU_ACCELERATOR_TYPE=v5p-16 TPU_TOPOLOGY=2x2x2 TPU_VISIBLE_CHIPS=3 "
             "TPU_VISIBLE_DEVICES=3 TPU_CHIPS_PER_PROCESS_BOUNDS=1,1,1 TPU_PROCESS_BOUNDS=2,2,2 "
             "TPU_PROCESS_ADDRESSES=10.0.0.1:8476,10.0.0.1:8477,10.0.0.1:8478,10.0.0.1:8479,"
             "10.0.0.2:8476,10.0.0.2:8477,10.0.0.2:8478,10.0.0.2:8479 TPU_PROCESS_PORT=8479 "
             "CLOUD_TPU_TASK_ID=7 ALLOW_MULTIPLE_LIBTPU_LOAD=true"},
    {"v5litepod-16: four hosts of 2x2",
     {TPU_V5E, 4, 4, 3, BLANK, .slice = "s", .accelerator = "v5litepod-16", .topology = "4x4"},
     .chip_count = 4,
     .local_size = 1,
     .node_rank = 3,
     .peer_count = 4,
     .peers = four,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true "
             "TPU_WORKER_HOSTNAMES=10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4 TPU_WORKER_ID=3 "
             "TPU_ACCELERATOR_TYPE=v5litepod-16 TPU_TOPOLOGY=4x4 TPU_CHIPS_PER_HOST_BOUNDS=2,2,1 "
             "TPU_HOST_BOUNDS=2,2,1"},
    {"v5litepod-8: eight chips, two processes",
     {TPU_V5E, 8, 1, 0, BLANK, .slice = "s", .accelerator = "v5litepod-8", .topology = "2x4"},
     .chip_count = 8,
     .local_size = 2,
     .local_rank = 1,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true TPU_WORKER_HOSTNAMES=localhost "
             "TPU_WORKER_ID=0 TPU_ACCELERATOR_TYPE=v5litepod-8 TPU_TOPOLOGY=2x4 "
             "TPU_VISIBLE_CHIPS=4,5,6,7 TPU_VISIBLE_DEVICES=4,5,6,7 "
             "TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 TPU_PROCESS_BOUNDS=1,2,1 "
             "TPU_PROCESS_ADDRESSES=localhost:8476,localhost:8480 TPU_PROCESS_PORT=8480 "
             "CLOUD_TPU_TASK_ID=1 ALLOW_MULTIPLE_LIBTPU_LOAD=true"},
    {"v5e: one chip of eight, alone",
     {TPU_V5E, 8, 1, 0, BLANK, .slice = "s", .accelerator = "v5litepod-8", .topology = "2x4"},
     .first_chip = 5,
     .chip_count = 1,
     .local_size = 1,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true TPU_WORKER_HOSTNAMES=localhost "
             "TPU_WORKER_ID=0 TPU_ACCELERATOR_TYPE=v5litepod-1 TPU_VISIBLE_CHIPS=5 "
             "TPU_VISIBLE_DEVICES=5 TPU_CHIPS_PER_PROCESS_BOUNDS=1,1,1 TPU_PROCESS_BOUNDS=1,1,1 "
             "TPU_PROCESS_ADDRESSES=localhost:8481 TPU_PROCESS_PORT=8481 CLOUD_TPU_TASK_ID=0 "
             "ALLOW_MULTIPLE_LIBTPU_LOAD=true"},
    {"v5e: the only chip",
     {TPU_V5E, 1, 1, 0, BLANK},
     .chip_count = 1,
     .local_size = 1,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true TPU_WORKER_HOSTNAMES=localhost "
             "TPU_WORKER_ID=0 TPU_ACCELERATOR_TYPE=v5litepod-1 TPU_CHIPS_PER_HOST_BOUNDS=1,1,1 "
             "TPU_HOST_BOUNDS=1,1,1"},
    {"v4: two chips of four, a process each",
     {TPU_V4, 4, 1, 0, BLANK, .accelerator = "v4-8"},
     .first_chip = 2,
     .chip_count = 2,
     .local_size = 2,
     .local_rank = 1,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true TPU_WORKER_HOSTNAMES=localhost "
             "TPU_WORKER_ID=0 TPU_ACCELERATOR_TYPE=v4-4 TPU_VISIBLE_CHIPS=3 TPU_VISIBLE_DEVICES=3 "
             "TPU_CHIPS_PER_PROCESS_BOUNDS=1,1,1 TPU_PROCESS_BOUNDS=1,2,1 "
             "TPU_PROCESS_ADDRESSES=localhost:8478,localhost:8479 TPU_PROCESS_PORT=8479 "
             "CLOUD_TPU_TASK_ID=1 ALLOW_MULTIPLE_LIBTPU_LOAD=true"},
    {"v6e-8: eight chips, four processes of two",
     {TPU_V6E, 8, 1, 0, BLANK, .accelerator = "v6e-8", .topology = "2x4"},
     .chip_count = 8,
     .local_size = 4,
     .local_rank = 2,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true TPU_WORKER_HOSTNAMES=localhost "
             "TPU_WORKER_ID=0 TPU_ACCELERATOR_TYPE=v6e-8 TPU_TOPOLOGY=2x4 TPU_VISIBLE_CHIPS=4,5 "
             "TPU_VISIBLE_DEVICES=4,5 TPU_CHIPS_PER_PROCESS_BOUNDS=1,2,1 TPU_PROCESS_BOUNDS=2,2,1 "
             "TPU_PROCESS_ADDRESSES=localhost:8476,localhost:8478,localhost:8480,localhost:8482 "
             "TPU_PROCESS_PORT=8480 CLOUD_TPU_TASK_ID=2 ALLOW_MULTIPLE_LIBTPU_LOAD=true"},
    {"one host of a slice of four, alone",
     {TPU_V6E, 4, 4, 3, BLANK, .slice = "s", .accelerator = "v6e-16", .topology = "4x4"},
     .chip_count = 4,
     .local_size = 1,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true TPU_WORKER_HOSTNAMES=localhost "
             "TPU_WORKER_ID=0 TPU_ACCELERATOR_TYPE=v6e-4 TPU_CHIPS_PER_HOST_BOUNDS=2,2,1 "
             "TPU_HOST_BOUNDS=1,1,1"},
    {"the metadata knows of slices that this job has not",
     {TPU_V6E, 4, 1, 0, BLANK, .slice = "s", .accelerator = "v6e-4", .has_megascale = true},
     .chip_count = 4,
     .local_size = 1,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true TPU_WORKER_HOSTNAMES=localhost "
             "TPU_WORKER_ID=0 TPU_ACCELERATOR_TYPE=v6e-4 TPU_CHIPS_PER_HOST_BOUNDS=2,2,1 "
             "TPU_HOST_BOUNDS=1,1,1 MEGASCALE_COORDINATOR_ADDRESS=localhost "
             "MEGASCALE_NUM_SLICES=1 MEGASCALE_SLICE_ID=0 MEGASCALE_PORT=8081"},
    {"two slices of two hosts",
     {TPU_V5E, 4, 2, 0, BLANK, .slice = "b", .accelerator = "v5litepod-8", .topology = "2x4"},
     .chip_count = 4,
     .local_size = 1,
     .node_rank = 2,
     .peer_count = 4,
     .peers = two_slices,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true TPU_WORKER_HOSTNAMES=10.0.1.1,10.0.1.2 "
             "TPU_WORKER_ID=0 TPU_ACCELERATOR_TYPE=v5litepod-8 TPU_TOPOLOGY=2x4 "
             "TPU_CHIPS_PER_HOST_BOUNDS=2,2,1 TPU_HOST_BOUNDS=1,2,1 "
             "MEGASCALE_COORDINATOR_ADDRESS=10.0.0.1 MEGASCALE_NUM_SLICES=2 MEGASCALE_SLICE_ID=1 "
             "MEGASCALE_PORT=8081"},
    {"two hosts that are slices of one, unnamed",
     {TPU_V5E, 1, 0, 0, BLANK},
     .chip_count = 1,
     .local_size = 1,
     .node_rank = 1,
     .peer_count = 2,
     .peers = alone_twice,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true TPU_WORKER_HOSTNAMES=10.0.0.2 "
             "TPU_WORKER_ID=0 TPU_ACCELERATOR_TYPE=v5litepod-1 TPU_CHIPS_PER_HOST_BOUNDS=1,1,1 "
             "TPU_HOST_BOUNDS=1,1,1 MEGASCALE_COORDINATOR_ADDRESS=10.0.0.1 "
             "MEGASCALE_NUM_SLICES=2 MEGASCALE_SLICE_ID=1 MEGASCALE_PORT=8081"},
    {"IPv6 in addresses with ports",
     {TPU_V5E, 4, 2, 0, BLANK, .slice = "s", .accelerator = "v5litepod-8", .topology = "2x4"},
     .chip_count = 4,
     .local_size = 2,
     .peer_count = 2,
     .peers = v6,
     .want = "PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=true TPU_WORKER_HOSTNAMES=fd00::1,fd00::2 "
             "TPU_WORKER_ID=0 TPU_ACCELERATOR_TYPE=v5litepod-8 TPU_TOPOLOGY=2x4 "
             "TPU_VISIBLE_CHIPS=0,1 TPU_VISIBLE_DEVICES=0,1 TPU_CHIPS_PER_PROCESS_BOUNDS=1,2,1 "
             "TPU_PROCESS_BOUNDS=2,2,1 TPU_PROCESS_ADDRESSES=[fd00::1]:8476,[fd00::1]:8478,"
             "[fd00::2]:8476,[fd00::2]:8478 TPU_PROCESS_PORT=8476 CLOUD_TPU_TASK_ID=0 "
             "ALLOW_MULTIPLE_LIBTPU_LOAD=true"},

    {"three chips",
     {TPU_V5E, 8, 1, 0, BLANK},
     .chip_count = 3,
     .local_size = 1,
     .want = "!3 chips of a host: 1, 2, 4 or 8 can be used"},
    {"no block",
     {TPU_V5E, 8, 1, 0, BLANK},
     .first_chip = 1,
     .chip_count = 2,
     .local_size = 1,
     .want = "!chips 1 to 2 are no block"},
    {"three processes",
     {TPU_V5E, 4, 1, 0, BLANK},
     .chip_count = 4,
     .local_size = 3,
     .want = "!4 chips cannot be split over 3 processes: 1, 2, 4 or 8 each"},
    {"two hosts of four",
     {TPU_V5E, 4, 4, 0, BLANK, .slice = "s", .topology = "4x4"},
     .chip_count = 4,
     .local_size = 1,
     .peer_count = 2,
     .peers = four,
     .want = "!2 of the 4 hosts of slice s: a slice is used whole, or one host alone"},
    {"half of each host",
     {TPU_V5E, 4, 4, 0, BLANK, .slice = "s", .topology = "4x4"},
     .chip_count = 2,
     .local_size = 1,
     .peer_count = 4,
     .peers = four,
     .want = "!2 of 4 chips on several hosts: use all of each host"},
    {"a number twice",
     {TPU_V5E, 4, 2, 0, BLANK, .slice = "s", .topology = "2x4"},
     .chip_count = 4,
     .local_size = 1,
     .peer_count = 2,
     .peers = twice,
     .want = "!slice s: its hosts are not numbered from 0, each once"},
    {"a topology that does not fit",
     {TPU_V4, 4, 4, 0, BLANK, .slice = "s", .topology = "2x2x2"},
     .chip_count = 4,
     .local_size = 1,
     .peer_count = 4,
     .peers = four,
     .want = "!slice s: topology '2x2x2' needs 2 hosts, it has 4"},
    {"an odd host",
     {TPU_V5E, 6, 1, 0, BLANK},
     .chip_count = 6,
     .local_size = 1,
     .want = "!a host with 6 chips: no known layout"},
};

static void test_shapes(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        const struct shape *s = &shapes[i];
        struct arena arena;
        struct tpu_vars vars;
        struct accel_error err = {0};
        uint32_t chips[TPU_CHIPS_MAX];
        AUTO_STR struct str found = {0};
        struct tpu_env_input in = {.host = &s->host,
                                   .chips = chips,
                                   .chip_count = s->chip_count,
                                   .local_size = s->local_size,
                                   .node_rank = s->node_rank,
                                   .peers = s->peers,
                                   .peer_count = s->peer_count};
        for (uint32_t k = 0; k < s->chip_count; k++)
            chips[k] = s->first_chip + k;
        arena_init(&arena);
        str_init(&found);
        int r = tpu_env_rank(&in, s->local_rank, &arena, &vars, &err);
        if (r < 0)
            str_addf(&found, "!%s", err.text);
        for (size_t k = 0; r == 0 && k < vars.count; k++)
            str_addf(&found, "%s%s=%s", k ? " " : "", vars.items[k].name, vars.items[k].value);
        if (strcmp(found.data, s->want) != 0)
            fail_msg("%s:\nfound  %s\nwanted %s", s->name, found.data, s->want);
        for (size_t k = 0; r == 0 && k < vars.count; k++) /* ours are the ones that must not leak */
            assert_true(strcmp(vars.items[k].name, "PJRT_DEVICE") == 0 ||
                        strcmp(vars.items[k].name, "ALLOW_MULTIPLE_LIBTPU_LOAD") == 0 ||
                        tpu_env_is_dropped(vars.items[k].name, strlen(vars.items[k].name)));
        arena_done(&arena);
    }
}

static void test_parsing(void **state)
{
    static const char *const bad[] = {"", "x", "4x", "0x4", "4x4x4x4", "4 x4", "9999999999", "-1"};
    struct tpu_bounds b;
    (void)state;
    assert_int_equal(tpu_bounds_parse("4x8", &b), 0);
    assert_true(b.x == 4 && b.y == 8 && b.z == 1);
    assert_int_equal(tpu_bounds_parse("2,2,16", &b), 0);
    assert_true(b.x == 2 && b.y == 2 && b.z == 16);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(tpu_bounds_parse(bad[i], &b), ACCEL_EINVAL);
    assert_int_equal(tpu_generation_of("v5litepod-16"), TPU_V5E);
    assert_int_equal(tpu_generation_of("v5e-16"), TPU_V5E);
    assert_int_equal(tpu_generation_of("v5p-128"), TPU_V5P);
    assert_int_equal(tpu_generation_of("TPU v4"), TPU_V4);
    assert_int_equal(tpu_generation_of("v9x-1"), TPU_GENERATION_UNKNOWN);
    assert_string_equal(tpu_model(TPU_V6E), "TPU v6e");
    assert_string_equal(tpu_model(TPU_GENERATION_UNKNOWN), "TPU");
}

/* Host grids that a table of torch_xla gives for v2 and v3, and that real v4 slices have. */
static void test_grids(void **state)
{
    static const struct {
        enum tpu_generation generation;
        const char *topology;
        uint32_t nodes, x, y, z;
    } rows[] = {
        {TPU_V2, "", 4, 2, 2, 1},        {TPU_V3, "", 8, 2, 4, 1},
        {TPU_V3, "", 16, 4, 4, 1},       {TPU_V3, "", 32, 4, 8, 1},
        {TPU_V3, "", 256, 16, 16, 1},    {TPU_V3, "", 128, 8, 16, 1},
        {TPU_V4, "4x4x8", 32, 2, 2, 8},  {TPU_V5P, "4x4x4", 16, 2, 2, 4},
        {TPU_V5E, "16x16", 64, 8, 8, 1},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct tpu_host h = {rows[i].generation,          4, rows[i].nodes, 0, BLANK,
                             .topology = rows[i].topology};
        struct tpu_bounds g;
        assert_int_equal(tpu_host_grid(&h, &g, NULL), 0);
        assert_int_equal(g.x, rows[i].x);
        assert_int_equal(g.y, rows[i].y);
        assert_int_equal(g.z, rows[i].z);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_parsing),
        cmocka_unit_test(test_grids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
