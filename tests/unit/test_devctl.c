/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device program, instruction by instruction: an interpreter of the few that it is made of runs
 * it beside a plain definition of what may pass. That a kernel takes it is seen in tests/vm.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "agentd/devctl.h"

#define READ_WRITE ((uint32_t)(BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE) << 16)

/* Jumps go forwards only and the end is an exit, as the kernel wants it, so this ends. */
static uint64_t interpret(const struct bpf_insn *p, size_t count, uint32_t type, uint32_t major,
                          uint32_t minor, bool *visited)
{
    const struct bpf_cgroup_dev_ctx ctx = {READ_WRITE | type, major, minor};
    uint64_t reg[5] = {0};
    for (size_t i = 0; i < count; i++) {
        const struct bpf_insn *x = &p[i];
        bool is_equal = reg[x->dst_reg] == (uint64_t)(int64_t)x->imm;
        visited[i] = true;
        assert_true(x->off >= 0 && x->dst_reg < 5);
        switch (x->code) {
        case BPF_LDX | BPF_MEM | BPF_W: {
            uint32_t value;
            assert_int_equal(x->src_reg, 1);
            memcpy(&value, (const char *)&ctx + x->off, sizeof(value));
            reg[x->dst_reg] = value;
            break;
        }
        case BPF_ALU | BPF_AND | BPF_K: reg[x->dst_reg] &= (uint32_t)x->imm; break;
        case BPF_ALU64 | BPF_MOV | BPF_K: reg[x->dst_reg] = (uint64_t)(int64_t)x->imm; break;
        case BPF_JMP | BPF_JEQ | BPF_K: i += is_equal ? (size_t)x->off : 0; break;
        case BPF_JMP | BPF_JNE | BPF_K: i += is_equal ? 0 : (size_t)x->off; break;
        case BPF_JMP | BPF_EXIT: return reg[0];
        default: fail_msg("instruction %zu has code %#x", i, x->code);
        }
    }
    fail_msg("ran off its end");
    return 0;
}

static bool is_passed(const struct devctl *d, uint32_t type, uint32_t major, uint32_t minor)
{
    bool is_closed = false;
    for (size_t i = 0; i < d->allow_count; i++) {
        if (d->allow[i].major == major &&
            (d->allow[i].minor == minor || d->allow[i].minor == DEVCTL_ANY)) {
            return true;
        }
    }
    for (size_t i = 0; i < d->major_count; i++) {
        is_closed = is_closed || d->majors[i] == major;
    }
    return type != BPF_DEVCG_DEV_CHAR || !is_closed;
}

/* All of a small world of devices, and every instruction is reached: the kernel refuses others. */
static void check_program(const struct devctl *d)
{
    static const uint32_t numbers[] = {0, 1, 2, 3, 195, 254, 255, 256, 511, 0xfffff};
    struct bpf_insn *p = xcalloc(devctl_program_max(d), sizeof(*p));
    size_t count = devctl_program(d, p);
    bool *visited = xcalloc(count, sizeof(*visited));
    assert_true(count <= devctl_program_max(d));
    for (uint32_t type = BPF_DEVCG_DEV_BLOCK; type <= BPF_DEVCG_DEV_CHAR; type++) {
        for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
            for (size_t k = 0; k < ARRAY_LEN(numbers); k++) {
                uint64_t got = interpret(p, count, type, numbers[i], numbers[k], visited);
                assert_int_equal(got, is_passed(d, type, numbers[i], numbers[k]));
            }
        }
    }
    for (size_t i = 0; i < count; i++) {
        assert_true(visited[i]);
    }
    free(visited);
    free(p);
}

static void test_program(void **state)
{
    struct devctl_device allow[] = {{195, 0}, {195, 255}, {511, DEVCTL_ANY}, {2, 3}};
    struct devctl d = {0};
    (void)state;
    check_program(&d);
    d.majors[d.major_count++] = 195;
    check_program(&d);
    d.allow = allow;
    for (d.allow_count = 1; d.allow_count <= ARRAY_LEN(allow); d.allow_count++) {
        check_program(&d);
    }
    d.allow_count = ARRAY_LEN(allow);
    d.majors[d.major_count++] = 511;
    d.majors[d.major_count++] = 2;
    check_program(&d);
}

/* As many as there can be: a jump over all of them still fits its 16 bits. */
static void test_program_largest(void **state)
{
    struct devctl d = {.allow_count = DEVCTL_ALLOW_MAX};
    (void)state;
    d.allow = xcalloc(d.allow_count, sizeof(*d.allow));
    for (uint32_t i = 0; i < d.allow_count; i++) {
        d.allow[i] = (struct devctl_device){195, 1000 + i};
    }
    for (d.major_count = 0; d.major_count < DEVCTL_MAJORS_MAX; d.major_count++) {
        d.majors[d.major_count] = 195 + (uint32_t)d.major_count;
    }
    size_t max = devctl_program_max(&d);
    struct bpf_insn *p = xcalloc(max, sizeof(*p));
    bool *visited = xcalloc(max, sizeof(*visited));
    size_t count = devctl_program(&d, p);
    assert_true(count <= INT16_MAX);
    assert_int_equal(interpret(p, count, BPF_DEVCG_DEV_CHAR, 195, 1000, visited), 1);
    assert_int_equal(interpret(p, count, BPF_DEVCG_DEV_CHAR, 195, 2023, visited), 1);
    assert_int_equal(interpret(p, count, BPF_DEVCG_DEV_CHAR, 195, 2024, visited), 0);
    assert_int_equal(interpret(p, count, BPF_DEVCG_DEV_CHAR, 258, 1, visited), 0);
    assert_int_equal(interpret(p, count, BPF_DEVCG_DEV_CHAR, 259, 1, visited), 1);
    assert_int_equal(interpret(p, count, BPF_DEVCG_DEV_BLOCK, 195, 1, visited), 1);
    free(visited);
    free(p);
    devctl_done(&d);
}

static void test_majors(void **state)
{
    struct devctl d = {0};
    (void)state;
    devctl_add_majors(&d, "Character devices:\n  1 mem\n  4 tty\n195 nvidia-frontend\n"
                          "195 nvidiactl\n226 drm\n236 nvidia-uvm\n240 nvidia-unheard-of\n"
                          "261 accel\n\nBlock devices:\n  8 sd\n259 kfd\n");
    const uint32_t want[] = {195, 226, 236, 261};
    assert_int_equal(d.major_count, ARRAY_LEN(want));
    assert_memory_equal(d.majors, want, sizeof(want));
    devctl_add_majors(&d, "");
    devctl_add_majors(&d, "nothing at all");
    assert_int_equal(d.major_count, ARRAY_LEN(want));
    devctl_done(&d);
}

static void test_allow(void **state)
{
    struct devctl d = {0};
    struct accel_error err;
    struct stat st;
    (void)state;
    assert_int_equal(stat("/dev/null", &st), 0);
    assert_int_equal(devctl_allow(&d, "/dev/null", &err), 0);
    assert_int_equal(devctl_allow(&d, "/dev/null", &err), 0);
    assert_int_equal(d.allow_count, 1);
    assert_int_equal(d.allow[0].major, major(st.st_rdev));
    assert_int_equal(d.allow[0].minor, minor(st.st_rdev));
    assert_int_equal(devctl_allow(&d, "/dev", &err), ACCEL_EINVAL);
    assert_string_equal(err.text, "device /dev: it is no character device");
    assert_int_equal(devctl_allow(&d, "/dev/no-such-device", &err), ACCEL_ENOENT);
    assert_int_equal(d.allow_count, 1);
    devctl_done(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_program),
        cmocka_unit_test(test_program_largest),
        cmocka_unit_test(test_majors),
        cmocka_unit_test(test_allow),
    };
    return cmocka_run_group_tests_name("devctl", tests, NULL, NULL);
}
