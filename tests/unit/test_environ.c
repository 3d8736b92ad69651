/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a worker finds: hostile environments of an enclosing job, each contract's names, devices and
 * output patterns. Everything is a function of its input here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agentd/environ_contract.h"
#include "common/hostlist.h"
#include "common/limits.h"
#include "common/str.h"

#define ENV_MAX 64

struct fixture {
    struct arena arena;
    Accel__V1__Start start;
    Accel__V1__AttemptRef ref;
    Accel__V1__JobSpec spec;
    ProtobufCBinaryData argv[2], env[ENV_MAX];
    Accel__V1__Device gpu[4], cpu;
    const Accel__V1__Device *node[5];
    struct environ_input in;
    Accel__V1__AttemptSpec *built;
    struct accel_error err;
};

static struct fixture f;
static const char *const gpu_ids[] = {"gpu:A", "gpu:B", "gpu:C", "gpu:D"};
static const char *const gpu_visible[] = {"GPU-a", "GPU-b", "GPU-c", "3"};

static ProtobufCBinaryData bytes(const char *text)
{
    return (ProtobufCBinaryData){strlen(text), (uint8_t *)text};
}

static int setup(void **state)
{
    (void)state;
    memset(&f, 0, sizeof(f));
    arena_init(&f.arena);
    accel__v1__start__init(&f.start);
    accel__v1__attempt_ref__init(&f.ref);
    accel__v1__job_spec__init(&f.spec);
    f.ref.job_id = 12;
    f.ref.attempt = 3;
    f.ref.era = 1;
    f.argv[0] = bytes("/usr/local/bin/python3");
    f.argv[1] = bytes("train.py");
    f.spec.argv = f.argv;
    f.spec.n_argv = 2;
    f.spec.env = f.env;
    f.spec.max_restarts = 5;
    f.start.ref = &f.ref;
    f.start.spec = &f.spec;
    f.start.world_size = f.start.local_size = 2;
    f.start.node_count = 1;
    f.start.job_name = (char *)"charlm";
    f.start.user = (char *)"ann";
    f.start.last_cause = ACCEL__V1__CAUSE__CAUSE_WORKER_FAILED;
    accel__v1__device__init(&f.cpu);
    f.cpu.id = (char *)"cpu:0";
    f.cpu.kind = ACCEL__V1__DEVICE_KIND__DEVICE_CPU;
    f.node[0] = &f.cpu;
    for (size_t i = 0; i < 4; i++) {
        accel__v1__device__init(&f.gpu[i]);
        f.gpu[i].id = (char *)gpu_ids[i];
        f.gpu[i].visible = (char *)gpu_visible[i];
        f.gpu[i].kind = ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
        f.node[i + 1] = &f.gpu[i];
    }
    f.in = (struct environ_input){.start = &f.start,
                                  .devices = f.node,
                                  .device_count = 5,
                                  .master_addr = "127.0.0.1",
                                  .ifname = "lo",
                                  .node_name = "n1",
                                  .master_port = 20001,
                                  .pet_port = 20002,
                                  .incarnation = 4,
                                  .attempts_dir = "/state/attempts",
                                  .wall_ms = 99};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_done(&f.arena);
    return 0;
}

static void inherit(const char *text)
{
    assert_true(f.spec.n_env < ENV_MAX);
    f.env[f.spec.n_env++] = bytes(text);
}

static void build(void)
{
    if (environ_build(&f.in, &f.arena, &f.built, &f.err) < 0)
        fail_msg("%s", f.err.text);
}

/* The value in a list; NULL if it is not there; fails if it is there twice. */
static const char *value_in(const ProtobufCBinaryData *env, size_t count, const char *name)
{
    const char *value = NULL;
    size_t len = strlen(name);
    for (size_t i = 0; i < count; i++) {
        if (env[i].len <= len || memcmp(env[i].data, name, len) != 0 || env[i].data[len] != '=')
            continue;
        if (value)
            fail_msg("%s stands twice", name);
        char *copy = arena_alloc(&f.arena, env[i].len - len);
        memcpy(copy, env[i].data + len + 1, env[i].len - len - 1);
        value = copy;
    }
    return value;
}

static const char *common_value(const char *name)
{
    return value_in(f.built->env, f.built->n_env, name);
}

static const char *rank_value(size_t rank, const char *name)
{
    return value_in(f.built->ranks[rank]->env, f.built->ranks[rank]->n_env, name);
}

static void assert_value(const char *name, const char *expected)
{
    const char *value = common_value(name);
    if (!value || strcmp(value, expected) != 0)
        fail_msg("%s is %s, not %s", name, value ? value : "unset", expected);
}

static const char *const dropped[] = {
    "SLURM_PROCID=3",
    "SLURM_JOB_ID=9",
    "SLURMD_NODENAME=x",
    "PMI_RANK=1",
    "PMI_SIZE=8",
    "PMI_FD=5",
    "PMIX_NAMESPACE=n",
    "OMPI_COMM_WORLD_RANK=3",
    "OMPI_COMM_WORLD_SIZE=4",
    "OMPI_MCA_orte_hnp_uri=1.0;tcp://1.2.3.4:5",
    "OMPI_UNIVERSE_SIZE=4",
    "PET_NNODES=4",
    "TORCHELASTIC_ENABLE_FILE_TIMER=1",
    "NODE_RANK=2",
    "LOCAL_SIZE=9",
    "CROSS_RANK=1",
    "JAX_COORDINATOR_ADDRESS=h:1",
    "JAX_LOCAL_DEVICE_IDS=0",
    "ACCEL_ATTEMPT_DIR=/x",
    "ACCEL_LOST=1",
    "=C:",
    "no equals sign",
    "",
};
static const char *const kept[] = {
    "ACCELERATE_MIXED_PRECISION=bf16",
    "LOCAL_DATA=/d",
    "OMPI_MCA_btl=tcp,self",
    "OMPI_ALLOW_RUN_AS_ROOT=1",
    "MV2_ENABLE_AFFINITY=0",
    "TORCH_FR_BUFFER_SIZE=2000",
    "TORCH_NCCL_DUMP_ON_TIMEOUT=1",
    "TORCH_NCCL_DEBUG_INFO_PIPE_FILE=/p",
    "MEGATRON_LM_TP_DEGREE=1",
    "FSDP_VERSION=2",
    "RANKED=1",
    "HOME=/h",
    "EMPTY=",
    "TWO=a=b",
};

static void test_hostile_environment(void **state)
{
    (void)state;
    inherit("RANK=7");
    inherit("WORLD_SIZE=64");
    inherit("MASTER_ADDR=10.0.0.1");
    inherit("MASTER_PORT=1");
    inherit("LOCAL_RANK=5");
    inherit("MV2_COMM_WORLD_SIZE=9");
    inherit("TWICE=first");
    inherit("TWICE=second");
    for (size_t i = 0; i < ARRAY_LEN(dropped); i++)
        inherit(dropped[i]);
    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        inherit(kept[i]);
    f.in.pet_port = 0;
    build();
    for (size_t i = 0; i < ARRAY_LEN(dropped); i++) {
        for (size_t k = 0; k < f.built->n_env; k++)
            assert_false(f.built->env[k].len == strlen(dropped[i]) &&
                         memcmp(f.built->env[k].data, dropped[i], f.built->env[k].len) == 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        char name[64];
        size_t len = strcspn(kept[i], "=");
        snprintf(name, sizeof(name), "%.*s", (int)len, kept[i]);
        assert_value(name, kept[i] + len + 1);
    }
    assert_value("TWICE", "second");
    assert_value("WORLD_SIZE", "2");
    assert_value("MASTER_ADDR", "127.0.0.1");
    assert_value("MV2_COMM_WORLD_SIZE", "2");
    assert_null(common_value("RANK")); /* of the ranks' own lists */
    assert_null(common_value("LOCAL_RANK"));
    assert_null(common_value("PET_NNODES"));
    assert_null(common_value("PMI_SIZE")); /* no process manager answers here */
    assert_null(common_value("OMPI_COMM_WORLD_SIZE"));
}

static void test_names_of_each_contract(void **state)
{
    (void)state;
    build();
    assert_value("MASTER_PORT", "20001");
    assert_value("LOCAL_WORLD_SIZE", "2");
    assert_value("GROUP_RANK", "0");
    assert_value("GROUP_WORLD_SIZE", "1");
    assert_value("ROLE_NAME", "default");
    assert_value("TORCHELASTIC_RUN_ID", "12");
    assert_value("TORCHELASTIC_RESTART_COUNT", "2");
    assert_value("TORCHELASTIC_MAX_RESTARTS", "5");
    assert_value("TORCHELASTIC_USE_AGENT_STORE", "False");
    assert_value("OMP_NUM_THREADS", "1");
    assert_value("PYTHONUNBUFFERED", "1");
    assert_value("GLOO_SOCKET_IFNAME", "lo");
    assert_value("NCCL_SOCKET_IFNAME", "lo");
    assert_value("TP_SOCKET_IFNAME", "lo");
    assert_value("ACCEL_JOB_ID", "12");
    assert_value("ACCEL_JOB_NAME", "charlm");
    assert_value("ACCEL_ATTEMPT", "3");
    assert_value("ACCEL_ATTEMPT_CAUSE", "worker_failed");
    assert_value("ACCEL_WORLD_SIZE", "2");
    assert_value("ACCEL_NODE", "n1");
    assert_value("PET_NNODES", "2"); /* every rank is a node to a torchrun in it */
    assert_value("PET_NPROC_PER_NODE", "1");
    assert_null(common_value("PET_NODE_RANK"));
    assert_string_equal(rank_value(1, "PET_NODE_RANK"), "1");
    assert_value("PET_MASTER_PORT", "20002");
    assert_null(common_value("PET_REDIRECTS"));
    assert_string_equal(rank_value(1, "RANK"), "1");
    assert_string_equal(rank_value(1, "LOCAL_RANK"), "1");
    assert_string_equal(rank_value(1, "ROLE_RANK"), "1");
    assert_string_equal(rank_value(1, "ACCEL_RANK"), "1");
    assert_string_equal(rank_value(1, "MV2_COMM_WORLD_LOCAL_RANK"), "1");
    assert_string_equal(rank_value(0, "TORCHELASTIC_ERROR_FILE"),
                        "/state/attempts/12.3/0.error.json");
    assert_int_equal(f.built->incarnation, 4);
    assert_int_equal(f.built->created_ms, 99);
    assert_int_equal(f.built->n_argv, 2);
}

/* 2 nodes of 4 ranks, this is the second. */
static void two_nodes(void)
{
    f.start.world_size = 8;
    f.start.local_size = f.start.first_rank = 4;
    f.start.node_rank = 1;
    f.start.node_count = 2;
    f.in.node_name = "n2";
    f.in.master_addr = "10.0.0.1";
    f.in.node_list = "n[1-2]";
    f.in.tasks_per_node = "4(x2)";
    f.in.aux_port = 20003;
}

static void test_jax(void **state)
{
    char *gpus[] = {(char *)"gpu:A", (char *)"gpu:B", (char *)"gpu:C", (char *)"gpu:D"};
    (void)state;
    two_nodes();
    f.spec.launcher = ACCEL__V1__LAUNCHER__LAUNCHER_JAX;
    build();
    assert_value("SLURM_JOB_ID", "12");
    assert_value("SLURM_STEP_NODELIST", "n[1-2]");
    assert_value("SLURM_NTASKS", "8");
    assert_value("SLURM_JOB_NAME", "interactive");
    assert_value("JAX_COORDINATOR_ADDRESS", "10.0.0.1:20003");
    assert_value("JAX_COORDINATOR_BIND_ADDRESS", "10.0.0.1:20003");
    assert_null(common_value("SLURM_NTASKS_PER_NODE")); /* no more of Slurm than JAX needs */
    assert_string_equal(rank_value(1, "SLURM_PROCID"), "5");
    assert_string_equal(rank_value(1, "SLURM_LOCALID"), "1");
    assert_null(rank_value(1, "JAX_LOCAL_DEVICE_IDS"));
    assert_int_equal(f.built->aux_port, 20003);
    f.in.master_addr = "fd00::1";
    f.start.local_size = 2;
    f.start.devices = gpus;
    f.start.n_devices = 4;
    build();
    assert_value("JAX_COORDINATOR_ADDRESS", "[fd00::1]:20003");
    assert_string_equal(rank_value(1, "JAX_LOCAL_DEVICE_IDS"), "2,3");
    assert_true(environ_wants_aux_port(&f.spec));
    f.spec.launcher = ACCEL__V1__LAUNCHER__LAUNCHER_AUTO;
    assert_false(environ_wants_aux_port(&f.spec));
    build();
    assert_null(common_value("SLURM_JOB_ID"));
    assert_null(rank_value(0, "SLURM_PROCID"));
}

static void test_mpi(void **state)
{
    (void)state;
    two_nodes();
    build();
    assert_int_equal(f.built->pmi_size, 0);
    f.spec.launcher = ACCEL__V1__LAUNCHER__LAUNCHER_MPI;
    build();
    assert_value("PMI_SIZE", "8");
    assert_value("OMPI_COMM_WORLD_SIZE", "8");
    assert_value("OMPI_COMM_WORLD_LOCAL_SIZE", "4");
    assert_string_equal(rank_value(2, "PMI_RANK"), "6");
    assert_string_equal(rank_value(2, "OMPI_COMM_WORLD_RANK"), "6");
    assert_string_equal(rank_value(2, "OMPI_COMM_WORLD_LOCAL_RANK"), "2");
    assert_value("PMI_FD", "3");
    assert_int_equal(f.built->pmi_size, 8);
    assert_int_equal(f.built->pmi_first_rank, 4);
    assert_int_equal(f.built->node_count, 2);
}

static void test_slurm(void **state)
{
    char *gpus[] = {(char *)"gpu:B", (char *)"gpu:D"};
    (void)state;
    two_nodes();
    f.spec.slurm_env = true;
    f.spec.cwd = bytes("/data/ann");
    f.spec.cpus_per_proc = 3;
    f.gpu[1].index = 1;
    f.gpu[3].index = 3;
    f.start.devices = gpus;
    f.start.n_devices = 2;
    build();
    assert_value("SLURM_JOB_ID", "12");
    assert_value("SLURM_JOB_NAME", "charlm");
    assert_value("SLURM_NTASKS", "8");
    assert_value("SLURM_NTASKS_PER_NODE", "4");
    assert_value("SLURM_TASKS_PER_NODE", "4(x2)");
    assert_value("SLURM_JOB_NUM_NODES", "2");
    assert_value("SLURM_JOB_NODELIST", "n[1-2]");
    assert_value("SLURM_NODEID", "1");
    assert_value("SLURMD_NODENAME", "n2");
    assert_value("SLURM_GTIDS", "4,5,6,7");
    assert_value("SLURM_RESTART_COUNT", "2");
    assert_value("SLURM_SUBMIT_DIR", "/data/ann");
    assert_value("SLURM_JOB_GPUS", "1,3");
    assert_value("SLURM_GPUS_ON_NODE", "2");
    assert_value("SLURM_CPUS_PER_TASK", "3");
    assert_string_equal(rank_value(3, "SLURM_PROCID"), "7");
    f.in.node_list = f.in.tasks_per_node = NULL; /* one node knows itself */
    build();
    assert_value("SLURM_JOB_NODELIST", "n2");
    assert_value("SLURM_TASKS_PER_NODE", "4");
}

static void assert_compressed(const char *names, const char *expected)
{
    const char *list[16];
    size_t count = 0;
    AUTO_STR struct str out;
    for (char *p = arena_strdup(&f.arena, names); *p;) {
        size_t len = strcspn(p, " ");
        list[count++] = p;
        p += len;
        if (*p)
            *p++ = 0;
    }
    str_init(&out);
    hostlist_add(list, count, &out);
    assert_string_equal(out.data, expected);
}

static void test_host_lists(void **state)
{
    (void)state;
    assert_compressed("n1", "n1");
    assert_compressed("n1 n2 n3", "n[1-3]");
    assert_compressed("n1 n2 n3 n7", "n[1-3,7]");
    assert_compressed("n8 n9 n10 n11", "n[8-11]");
    assert_compressed("n08 n09 n10", "n[08-10]");
    assert_compressed("n08 n9", "n[08,9]");
    assert_compressed("n3 n1 n2", "n[3,1-2]"); /* node rank 0 stays in front */
    assert_compressed("a1 a2 b1 head", "a[1-2],b1,head");
    assert_compressed("x-1.lan x-2.lan", "x-1.lan,x-2.lan");
    assert_compressed("10 11", "10,11");
    assert_compressed("n4294967295 n4294967296", "n4294967295,n4294967296");
}

static void test_runs(void **state)
{
    AUTO_STR struct str out = {0};
    (void)state;
    str_init(&out);
    hostlist_add_run(&out, 4, 2);
    hostlist_add_run(&out, 2, 1);
    hostlist_add_run(&out, 4294967295u, 1280);
    assert_string_equal(out.data, "4(x2),2,4294967295(x1280)");
}

static void test_long_node_list(void **state)
{
    AUTO_STR struct str list = {0};
    (void)state;
    str_init(&list);
    for (size_t i = 0; i < 4000; i++)
        str_addf(&list, "node-%zu-with-a-name-of-some-length,", i);
    f.in.node_list = list.data;
    f.start.node_count = 4000;
    build(); /* not asked for */
    f.spec.slurm_env = true;
    assert_int_equal(environ_build(&f.in, &f.arena, &f.built, &f.err), ACCEL_EINVAL);
    assert_non_null(strstr(f.err.text, "4000 nodes"));
}

static void test_what_the_user_set_stays(void **state)
{
    (void)state;
    inherit("OMP_NUM_THREADS=8");
    inherit("GLOO_SOCKET_IFNAME=eth7");
    inherit("PYTHONUNBUFFERED=");
    inherit("ACCELERATE_USE_CPU=false");
    build();
    assert_value("OMP_NUM_THREADS", "8");
    assert_value("GLOO_SOCKET_IFNAME", "eth7");
    assert_value("NCCL_SOCKET_IFNAME", "lo");
    assert_value("PYTHONUNBUFFERED", "");
    assert_value("ACCELERATE_USE_CPU", "false");
    f.start.world_size = f.start.local_size = 1;
    f.spec.n_env = 0;
    build();
    assert_null(common_value("OMP_NUM_THREADS"));
}

static void test_debian_torchrun(void **state)
{
    (void)state;
    f.argv[0] = bytes("/usr/bin/torchrun");
    build();
    assert_value("PET_REDIRECTS", "1");
    assert_value("PET_TEE", "1");
}

static void test_devices(void **state)
{
    char *three[] = {(char *)"gpu:B", (char *)"gpu:D", (char *)"gpu:A"};
    char *cpu[] = {(char *)"cpu:0"};
    char *missing[] = {(char *)"gpu:Z"};
    (void)state;
    f.start.devices = three;
    f.start.n_devices = 3;
    build();
    assert_value("CUDA_VISIBLE_DEVICES", "GPU-b,3,GPU-a");
    assert_value("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
    assert_null(common_value("ACCELERATE_USE_CPU"));
    assert_int_equal(f.built->n_claims, 2); /* an index names no hardware */
    assert_int_equal(f.built->ranks[0]->n_devices, 1);
    assert_int_equal(f.built->ranks[1]->n_devices, 2);
    assert_string_equal(f.built->ranks[1]->devices[0], "gpu:D");
    f.start.devices = cpu;
    f.start.n_devices = 1;
    build();
    assert_value("CUDA_VISIBLE_DEVICES", "");
    assert_value("ACCELERATE_USE_CPU", "true");
    assert_int_equal(f.built->n_claims, 0);
    f.in.device_count = 1; /* a node without GPUs: nothing to hide */
    build();
    assert_null(common_value("CUDA_VISIBLE_DEVICES"));
    f.start.devices = missing;
    assert_int_equal(environ_build(&f.in, &f.arena, &f.built, &f.err), ACCEL_ENOENT);
    assert_non_null(strstr(f.err.text, "gpu:Z"));
}

static void test_split(void **state)
{
    (void)state;
    for (size_t ranks = 1; ranks < 12; ranks++) {
        for (size_t count = 0; count < 24; count++) {
            size_t next = 0;
            for (size_t i = 0; i < ranks; i++) {
                size_t first, len;
                environ_split(count, ranks, i, &first, &len);
                assert_true(first + len <= count);
                if (count >= ranks) { /* each device once, sizes differ by one at most */
                    assert_int_equal(first, next);
                    assert_true(len == count / ranks || len == count / ranks + 1);
                } else {
                    assert_int_equal(len, count ? 1 : 0);
                }
                next = first + len;
            }
            assert_int_equal(next, count);
        }
    }
}

static void assert_output(size_t rank, const char *expected)
{
    const ProtobufCBinaryData *path = &f.built->ranks[rank]->output_file;
    assert_int_equal(path->len, strlen(expected));
    assert_memory_equal(path->data, expected, path->len);
}

static void test_output_pattern(void **state)
{
    (void)state;
    f.spec.output_pattern = bytes("/o/%u/%x-%j.%A.%N%%.r%r");
    build();
    assert_output(0, "/o/ann/charlm-12.3.n1%.r0");
    assert_output(1, "/o/ann/charlm-12.3.n1%.r1");
    f.spec.output_pattern = bytes("/o/%j.out");
    build();
    assert_output(0, "/o/12.out");
    assert_int_equal(f.built->ranks[1]->output_file.len, 0);
    f.spec.output_pattern = bytes("/o/%q");
    assert_int_equal(environ_build(&f.in, &f.arena, &f.built, &f.err), ACCEL_EINVAL);
    assert_non_null(strstr(f.err.text, "%q is none of"));
    f.spec.output_pattern = bytes("/o/%");
    assert_int_equal(environ_build(&f.in, &f.arena, &f.built, &f.err), ACCEL_EINVAL);
    f.spec.output_pattern = bytes("relative");
    assert_int_equal(environ_build(&f.in, &f.arena, &f.built, &f.err), ACCEL_EINVAL);
}

static void test_bad_starts(void **state)
{
    (void)state;
    f.spec.n_argv = 0;
    assert_int_equal(environ_build(&f.in, &f.arena, &f.built, &f.err), ACCEL_EINVAL);
    f.spec.n_argv = 1;
    f.start.first_rank = 1; /* 1 + 2 > 2 */
    assert_int_equal(environ_build(&f.in, &f.arena, &f.built, &f.err), ACCEL_EINVAL);
    f.start.first_rank = UINT32_MAX;
    assert_int_equal(environ_build(&f.in, &f.arena, &f.built, &f.err), ACCEL_EINVAL);
    f.start.first_rank = 0;
    f.start.local_size = 0;
    assert_int_equal(environ_build(&f.in, &f.arena, &f.built, &f.err), ACCEL_EINVAL);
    f.start.local_size = 2;
    f.ref.attempt = 0;
    assert_int_equal(environ_build(&f.in, &f.arena, &f.built, &f.err), ACCEL_EINVAL);
}

/* As many names as a shell may have, some of them large. */
static void test_large_environment(void **state)
{
    enum { COUNT = 5000 };
    ProtobufCBinaryData *env = arena_alloc(&f.arena, COUNT * sizeof(*env));
    char *big = arena_alloc(&f.arena, 100001);
    (void)state;
    memset(big, 'x', 100000);
    memcpy(big, "BIG=", 4);
    for (size_t i = 0; i < COUNT - 1; i++)
        env[i] = bytes(arena_printf(&f.arena, "NAME_%zu=%zu", i % 4000, i));
    env[COUNT - 1] = bytes(big);
    f.spec.env = env;
    f.spec.n_env = COUNT;
    build();
    assert_value("NAME_0", "4000");
    assert_value("NAME_3999", "3999");
    assert_int_equal(strlen(common_value("BIG")), 99996);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hostile_environment, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names_of_each_contract, setup, teardown),
        cmocka_unit_test_setup_teardown(test_jax, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mpi, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slurm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_host_lists, setup, teardown),
        cmocka_unit_test_setup_teardown(test_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_node_list, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_the_user_set_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_debian_torchrun, setup, teardown),
        cmocka_unit_test_setup_teardown(test_devices, setup, teardown),
        cmocka_unit_test(test_split),
        cmocka_unit_test_setup_teardown(test_output_pattern, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_starts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_environment, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
