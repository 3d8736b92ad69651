/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a command line to a JobSpec: programs found and refused, the environment of launch and of
 * submit, strings that execve would not take. Real files in a directory of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/accelctl/cli.h"
#include "client/accelctl/spec.h"
#include "common/limits.h"

static char dir[64];

struct built {
    int r, code;
    struct options o;
    struct arena a;
    Accel__V1__JobSpec spec;
    struct accel_error err;
};

static void build_with(struct built *b, char **argv, char *const *environment)
{
    struct spec_caller caller = {
        .environment = environment, .cwd = dir, .umask = 022, .has_stdin = true};
    int argc = 0;

    while (argv[argc])
        argc++;
    memset(b, 0, sizeof *b);
    arena_init(&b->a);
    assert_int_equal(options_parse(argc, argv, &b->o, &b->err), 0);
    b->r = spec_build(&b->a, &b->o, &caller, &b->spec, &b->code, &b->err);
}

static void done(struct built *b)
{
    options_done(&b->o);
    arena_done(&b->a);
}

static char path_variable[128];
static char *small_environment[] = {path_variable, "HOME=/h", NULL};

#define BUILD(b, ...) build_with(b, (char *[]){"accelctl", __VA_ARGS__, NULL}, small_environment)

static void assert_arg(const struct built *b, size_t i, const char *want)
{
    assert_true(i < b->spec.n_argv);
    assert_int_equal(b->spec.argv[i].len, strlen(want));
    assert_memory_equal(b->spec.argv[i].data, want, strlen(want));
}

static const char *variable(const struct built *b, const char *name)
{
    size_t n = strlen(name);

    for (size_t i = 0; i < b->spec.n_env; i++) {
        const char *e = (const char *)b->spec.env[i].data;

        if (strncmp(e, name, n) == 0 && e[n] == '=')
            return e + n + 1;
    }
    return NULL;
}

static void make_file(const char *name, mode_t mode)
{
    int fd = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, mode);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, "#!/bin/sh\n", 10), 10);
    close(fd);
    assert_int_equal(chmod(name, mode), 0);
}

static int setup(void **state)
{
    snprintf(dir, sizeof dir, "/tmp/accel-test-cli-XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(chdir(dir), 0);
    snprintf(path_variable, sizeof path_variable, "PATH=/nowhere:%s/bin", dir);
    assert_int_equal(mkdir("bin", 0700), 0);
    make_file("bin/python3", 0700);
    make_file("bin/tool", 0700);
    make_file("bin/plain", 0600);
    make_file("train.py", 0600);
    make_file("run.sh", 0600);
    return 0;
}

static int teardown(void **state)
{
    static const char *const files[] = {"bin/python3", "bin/tool", "bin/plain", "train.py",
                                        "run.sh",      "torchrun", "prog"};

    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        unlink(files[i]);
    rmdir("bin");
    assert_int_equal(chdir("/"), 0);
    return rmdir(dir);
}

static void test_programs(void **state)
{
    struct built b;
    char want[128];

    snprintf(want, sizeof want, "%s/bin/python3", dir);
    BUILD(&b, "launch", "train.py", "--epochs", "\xff\xfe");
    assert_int_equal(b.r, 0);
    assert_int_equal(b.spec.n_argv, 4);
    assert_arg(&b, 0, want);
    assert_arg(&b, 1, "train.py");
    assert_arg(&b, 3, "\xff\xfe");
    assert_string_equal(b.spec.name, "train");
    done(&b);
    BUILD(&b, "launch", "-m", "pkg.mod", "--x");
    assert_int_equal(b.r, 0);
    assert_arg(&b, 0, want);
    assert_arg(&b, 1, "-m");
    assert_arg(&b, 2, "pkg.mod");
    assert_arg(&b, 3, "--x");
    assert_string_equal(b.spec.name, "pkg.mod");
    done(&b);
    BUILD(&b, "launch", "--python", "bin/tool", "run.sh");
    assert_int_equal(b.r, 0);
    assert_arg(&b, 0, "bin/tool");
    assert_arg(&b, 1, "run.sh");
    done(&b);
    BUILD(&b, "launch", "tool");
    snprintf(want, sizeof want, "%s/bin/tool", dir);
    assert_arg(&b, 0, want);
    done(&b);
    BUILD(&b, "launch", "--wrap", "echo $HOME | cat");
    assert_int_equal(b.spec.n_argv, 3);
    assert_arg(&b, 0, "/bin/sh");
    assert_arg(&b, 2, "echo $HOME | cat");
    done(&b);
}

/* One torchrun a node, however many processes it is to start. */
static void test_torchrun(void **state)
{
    struct built b;

    make_file("torchrun", 0755);
    BUILD(&b, "launch", "--procs", "4", "--devices", "gpu", "./torchrun", "a.py");
    assert_int_equal(b.r, 0);
    assert_arg(&b, 1, "--nproc_per_node=4");
    assert_arg(&b, 2, "a.py");
    assert_int_equal(b.spec.procs_per_node, 1);
    assert_int_equal(b.spec.gpus_per_node, 4);
    done(&b);
    BUILD(&b, "launch", "--gpus", "2", "./torchrun", "a.py");
    assert_int_equal(b.r, 0);
    assert_arg(&b, 1, "a.py");
    assert_int_equal(b.spec.procs_per_node, 1);
    assert_int_equal(b.spec.gpus_per_node, 2);
    done(&b);
    BUILD(&b, "launch", "-p2", "--python", "./torchrun", "-m", "torch.distributed.run", "a.py");
    assert_int_equal(b.r, 0);
    assert_arg(&b, 2, "torch.distributed.run");
    assert_arg(&b, 3, "--nproc_per_node=2");
    assert_arg(&b, 4, "a.py");
    done(&b);
    BUILD(&b, "launch", "-p2", "--wrap", "torchrun a.py");
    assert_int_equal(b.spec.procs_per_node, 2);
    done(&b);
}

static void test_launchers(void **state)
{
    struct built b;

    make_file("prog", 0755);
    BUILD(&b, "launch", "./prog");
    assert_int_equal(b.spec.launcher, ACCEL__V1__LAUNCHER__LAUNCHER_AUTO);
    assert_false(b.spec.slurm_env);
    done(&b);
    BUILD(&b, "launch", "--launcher", "jax", "./prog");
    assert_int_equal(b.spec.launcher, ACCEL__V1__LAUNCHER__LAUNCHER_JAX);
    done(&b);
    BUILD(&b, "submit", "--launcher=mpi", "--slurm-env", "./prog");
    assert_int_equal(b.spec.launcher, ACCEL__V1__LAUNCHER__LAUNCHER_MPI);
    assert_true(b.spec.slurm_env);
    done(&b);
}

static void assert_variable(const struct built *b, const char *name, const char *want)
{
    const char *value = variable(b, name);

    if (!value || strcmp(value, want) != 0)
        fail_msg("%s is %s, not %s", name, value ? value : "unset", want);
}

static void test_options_of_accelerate(void **state)
{
    struct built b;

    make_file("prog", 0755);
    BUILD(&b, "launch", "--num_processes", "2", "--use_fsdp", "--fsdp_sharding_strategy",
          "SHARD_GRAD_OP", "--fsdp_transformer_layer_cls_to_wrap=Block", "--fsdp-use-orig-params",
          "False", "--gradient_accumulation_steps", "4", "--dynamo_backend", "inductor",
          "--dynamo_use_dynamic", "--env", "FSDP_VERSION=2", "./prog", "--zero_stage", "3");
    assert_int_equal(b.r, 0);
    assert_int_equal(b.spec.procs_per_node, 2);
    assert_variable(&b, "ACCELERATE_USE_FSDP", "true");
    assert_variable(&b, "FSDP_SHARDING_STRATEGY", "SHARD_GRAD_OP");
    assert_variable(&b, "FSDP_TRANSFORMER_CLS_TO_WRAP", "Block");
    assert_variable(&b, "FSDP_USE_ORIG_PARAMS", "false");
    assert_variable(&b, "FSDP_SYNC_MODULE_STATES", "true"); /* as the command's own default */
    assert_variable(&b, "FSDP_VERSION", "2");               /* --env is last */
    assert_variable(&b, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4");
    assert_variable(&b, "ACCELERATE_DYNAMO_BACKEND", "INDUCTOR");
    assert_variable(&b, "ACCELERATE_DYNAMO_USE_DYNAMIC", "True");
    assert_null(variable(&b, "ACCELERATE_DEEPSPEED_ZERO_STAGE")); /* it is the program's */
    assert_arg(&b, 1, "--zero_stage");
    done(&b);
    BUILD(&b, "submit", "--use_deepspeed", "--zero_stage=3", "--offload_param_device", "CPU",
          "--deepspeed_config_file", "ds.json", "./prog");
    assert_int_equal(b.r, 0);
    assert_variable(&b, "ACCELERATE_USE_DEEPSPEED", "true");
    assert_variable(&b, "ACCELERATE_DEEPSPEED_ZERO_STAGE", "3");
    assert_variable(&b, "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "cpu");
    assert_variable(&b, "ACCELERATE_DEEPSPEED_CONFIG_FILE", "ds.json");
    assert_null(variable(&b, "FSDP_VERSION"));
    done(&b);
    BUILD(&b, "launch", "--zero_stage", "3", "./prog");
    assert_int_equal(b.r, ACCEL_EINVAL);
    assert_non_null(strstr(b.err.text, "--use-deepspeed"));
    done(&b);
}

static void test_programs_that_cannot_run(void **state)
{
    static const struct {
        const char *program;
        int code;
    } rows[] = {{"nosuch", 127},   {"./nosuch", 127}, {"missing.py", 127}, {"plain", 126},
                {"./run.sh", 126}, {"./bin", 126},    {"bin/plain", 126}};
    struct built b;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        BUILD(&b, "launch", (char *)rows[i].program);
        assert_true(b.r < 0);
        if (b.code != rows[i].code)
            fail_msg("%s: %d %s", rows[i].program, b.code, b.err.text);
        assert_non_null(strstr(b.err.text, rows[i].program));
        done(&b);
    }
    assert_int_equal(mkdir("a dir", 0755), 0);
    BUILD(&b, "launch", "a dir"); /* what is to be tried can be pasted */
    assert_int_equal(b.code, 127);
    assert_non_null(strstr(b.err.text, "try: './a dir'"));
    done(&b);
    assert_int_equal(rmdir("a dir"), 0);
    BUILD(&b, "launch");
    assert_int_equal(b.code, 2);
    done(&b);
    BUILD(&b, "launch", "--wrap", "true", "tool");
    assert_int_equal(b.code, 2);
    done(&b);
}

static void test_environment(void **state)
{
    char *env[] = {path_variable,
                   "HOME=/h",
                   "USER=u",
                   "LANG=C",
                   "VIRTUAL_ENV=/v",
                   "CONDA_PREFIX=/c",
                   "LD_LIBRARY_PATH=/l",
                   "PYTHONPATH=/p",
                   "SECRET=s",
                   "HF_TOKEN=t",
                   "RANK=3",
                   "SLURM_JOB_ID=1",
                   "PMI_RANK=0",
                   "MASTER_ADDR=a",
                   "TORCHELASTIC_RUN_ID=x",
                   "OMPI_COMM_WORLD_RANK=1",
                   "RANKING=keep",
                   "noequals",
                   NULL};
    static const char *const dropped[] = {
        "RANK",        "SLURM_JOB_ID",        "PMI_RANK",
        "MASTER_ADDR", "TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_RANK"};
    static const char *const passed[] = {
        "PATH",      "HOME", "USER", "LANG", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH",
        "PYTHONPATH"};
    struct built b;

    for (int is_submit = 0; is_submit < 2; is_submit++) {
        build_with(&b,
                   (char *[]){"accelctl", is_submit ? "submit" : "launch", "--env", "A=1", "--env",
                              "A=2", "--env", "HOME=/other", "--mixed_precision", "bf16",
                              "--pass-env", "HF_TOKEN", "tool", NULL},
                   env);
        assert_int_equal(b.r, 0);
        for (size_t i = 0; i < ARRAY_LEN(dropped); i++)
            assert_null(variable(&b, dropped[i]));
        for (size_t i = 0; i < ARRAY_LEN(passed); i++)
            assert_non_null(variable(&b, passed[i]));
        assert_string_equal(variable(&b, "A"), "2");
        assert_string_equal(variable(&b, "HOME"), "/other");
        assert_string_equal(variable(&b, "HF_TOKEN"), "t");
        assert_string_equal(variable(&b, "ACCELERATE_MIXED_PRECISION"), "bf16");
        assert_int_equal(variable(&b, "SECRET") != NULL, !is_submit);
        assert_int_equal(variable(&b, "RANKING") != NULL, !is_submit);
        assert_int_equal(b.spec.n_rlimits > 0, !is_submit);
        assert_int_equal(b.spec.want_stdin, !is_submit);
        done(&b);
    }
    BUILD(&b, "launch", "--env", "NOT_SET_HERE", "tool");
    assert_int_equal(b.code, 2);
    assert_non_null(strstr(b.err.text, "NOT_SET_HERE"));
    done(&b);
    BUILD(&b, "launch", "--env", "=x", "tool");
    assert_int_equal(b.code, 2);
    done(&b);
}

static void test_long_strings_are_refused_by_name(void **state)
{
    struct built b;
    AUTO_FREE char *longest = xcalloc(1, LIMIT_ARG_BYTES + 16),
                   *big = xcalloc(1, LIMIT_ARG_BYTES + 16);

    memset(longest, 'a', LIMIT_ARG_BYTES - 1); /* with its NUL exactly what the kernel takes */
    BUILD(&b, "launch", "tool", longest);
    assert_int_equal(b.r, 0);
    done(&b);
    longest[LIMIT_ARG_BYTES - 1] = 'a';
    BUILD(&b, "launch", "tool", "x", longest);
    assert_int_equal(b.code, 2);
    assert_non_null(strstr(b.err.text, "argument 2 is too long"));
    done(&b);
    snprintf(big, LIMIT_ARG_BYTES + 16, "BIG_ONE=%s", longest);
    BUILD(&b, "launch", "--env", big, "tool");
    assert_int_equal(b.code, 2);
    assert_non_null(strstr(b.err.text, "BIG_ONE"));
    done(&b);
}

static void test_gres(void **state)
{
    static const struct {
        const char *text, *error;
        uint32_t gpus;
    } rows[] = {{"gpu:2", NULL, 2},
                {"gpu", NULL, 1},
                {"gpu:h100:2", "it names a model", 0},
                {"gpu:0", "it is gpu:N", 0},
                {"shard:2", "it is gpu:N", 0},
                {"gpus:2", "it is gpu:N", 0}};

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct built b;

        BUILD(&b, "launch", "--gres", (char *)rows[i].text, "tool");
        if (rows[i].error) {
            assert_int_equal(b.r, ACCEL_EINVAL);
            assert_int_equal(b.code, EXIT_CODE_USAGE);
            assert_non_null(strstr(b.err.text, rows[i].error));
        } else {
            assert_int_equal(b.r, 0);
            assert_int_equal(b.spec.gpus_per_node, rows[i].gpus);
            assert_int_equal(b.spec.device_kind, ACCEL__V1__DEVICE_KIND__DEVICE_GPU);
        }
        done(&b);
    }
}

static void test_sizes_and_devices(void **state)
{
    struct built b;

    BUILD(&b, "launch", "--num_processes", "8", "--num_machines", "2", "tool");
    assert_int_equal(b.spec.nodes, 2);
    assert_int_equal(b.spec.procs_per_node, 4);
    done(&b);
    BUILD(&b, "launch", "--num_processes", "3", "--num_machines", "2", "tool");
    assert_int_equal(b.code, 2);
    done(&b);
    BUILD(&b, "launch", "-j", "3x2", "-w", "a,b", "-w", "b,c", "--exclude", "d", "tool");
    assert_int_equal(b.spec.nodes, 3);
    assert_int_equal(b.spec.procs_per_node, 2);
    assert_int_equal(b.spec.n_nodelist, 3);
    assert_string_equal(b.spec.nodelist[2], "c");
    assert_int_equal(b.spec.n_exclude, 1);
    assert_string_equal(b.spec.exclude[0], "d");
    done(&b);
    BUILD(&b, "launch", "-j", "4", "tool");
    assert_int_equal(b.spec.nodes, 1);
    assert_int_equal(b.spec.procs_per_node, 4);
    done(&b);
    static char no_sizes[][8] = {"2x", "x2", "0x2", "2x0", "2x2x2", "a"};
    for (size_t i = 0; i < ARRAY_LEN(no_sizes); i++) {
        BUILD(&b, "launch", "-j", no_sizes[i], "tool");
        assert_int_equal(b.code, 2);
        done(&b);
    }
    static char no_names[][8] = {"a,,b", ",", "a b", "a/b"};
    for (size_t i = 0; i < ARRAY_LEN(no_names); i++) {
        BUILD(&b, "launch", "--nodelist", no_names[i], "tool");
        assert_int_equal(b.code, 2);
        done(&b);
    }
    BUILD(&b, "launch", "--cpu", "tool");
    assert_int_equal(b.spec.device_kind, ACCEL__V1__DEVICE_KIND__DEVICE_CPU);
    assert_string_equal(variable(&b, "ACCELERATE_USE_CPU"), "true");
    done(&b);
    BUILD(&b, "launch", "--gpus", "4", "tool");
    assert_int_equal(b.spec.device_kind, ACCEL__V1__DEVICE_KIND__DEVICE_GPU);
    assert_int_equal(b.spec.gpus_per_node, 4);
    done(&b);
    BUILD(&b, "launch", "--gpus", "4", "--cpu", "tool");
    assert_int_equal(b.code, 2);
    done(&b);
    BUILD(&b, "launch", "--tpus", "4", "tool");
    assert_int_equal(b.spec.device_kind, ACCEL__V1__DEVICE_KIND__DEVICE_TPU);
    assert_int_equal(b.spec.gpus_per_node, 4);
    done(&b);
    BUILD(&b, "launch", "--tpu", "tool");
    assert_int_equal(b.spec.device_kind, ACCEL__V1__DEVICE_KIND__DEVICE_TPU);
    done(&b);
    BUILD(&b, "launch", "--devices", "tpu", "--gpus", "1", "tool");
    assert_int_equal(b.code, 2);
    done(&b);
    BUILD(&b, "launch", "--tpus", "4", "--gpus", "4", "tool");
    assert_int_equal(b.code, 2);
    done(&b);
    BUILD(&b, "launch", "--time", "4:00:00", "--mem", "2G", "--max-restarts", "3", "--grace", "5",
          "tool");
    assert_int_equal(b.spec.time_limit_ms, 4 * 3600000);
    assert_int_equal(b.spec.memory_bytes, 2ll << 30);
    assert_int_equal(b.spec.max_restarts, 3);
    assert_int_equal(b.spec.stop_grace_ms, 5000);
    assert_int_equal(b.spec.umask, 022);
    done(&b);
}

static void test_names_and_patterns(void **state)
{
    struct built b;
    char want[128];

    BUILD(&b, "launch", "--name", "my job", "tool");
    assert_int_equal(b.code, 2);
    done(&b);
    BUILD(&b, "launch", "--output", "out/%x-%j.%r", "tool");
    snprintf(want, sizeof want, "%s/out/%%x-%%j.%%r", dir);
    assert_int_equal(b.spec.output_pattern.len, strlen(want));
    assert_memory_equal(b.spec.output_pattern.data, want, strlen(want));
    done(&b);
    BUILD(&b, "launch", "--output", "/tmp", "tool");
    assert_int_equal(b.code, 2);
    assert_non_null(strstr(b.err.text, "try: --output /tmp/%x-%j.out"));
    done(&b);
    BUILD(&b, "launch", "--output", "/tmp//", "tool");
    assert_non_null(strstr(b.err.text, "try: --output /tmp/%x-%j.out"));
    done(&b);
    BUILD(&b, "launch", "--output", "/tmp/%q", "tool");
    assert_int_equal(b.code, 2);
    done(&b);
    BUILD(&b, "launch", "--output", "/tmp/%", "tool");
    assert_int_equal(b.code, 2);
    done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_programs),
        cmocka_unit_test(test_torchrun),
        cmocka_unit_test(test_launchers),
        cmocka_unit_test(test_options_of_accelerate),
        cmocka_unit_test(test_programs_that_cannot_run),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_long_strings_are_refused_by_name),
        cmocka_unit_test(test_sizes_and_devices),
        cmocka_unit_test(test_gres),
        cmocka_unit_test(test_names_and_patterns),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
