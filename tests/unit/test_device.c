/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device sources: CPU slots, the fake's file with each error at its line and column, the joined
 * list, and that a replaced file is noticed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "agentd/device.h"

static struct arena arena;
static Accel__V1__Device **devices;
static size_t count;
static struct accel_error err;

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

static void test_parse(void **state)
{
    static const char text[] = "# a server\n"
                               "\n"
                               "gpu gpu:GPU-1 model=H200 memory=141G  fault=XID 79, off the bus  \n"
                               "\tcpu  cpu:0#1 # only a word of its own begins a comment\n"
                               "gpu x:2 visible=MIG-7 # a comment\n"
                               "gpu other";
    (void)state;
    assert_int_equal(device_fake_parse("f", text, &arena, &devices, &count, &err), 0);
    assert_int_equal(count, 4);
    assert_string_equal(devices[0]->id, "gpu:GPU-1");
    assert_string_equal(devices[0]->model, "H200");
    assert_string_equal(devices[0]->visible, "GPU-1");
    assert_string_equal(devices[0]->fault, "XID 79, off the bus");
    assert_int_equal(devices[0]->memory_bytes, 141ull << 30);
    assert_int_equal(devices[1]->kind, ACCEL__V1__DEVICE_KIND__DEVICE_CPU);
    assert_string_equal(devices[1]->id, "cpu:0#1");
    assert_string_equal(devices[1]->visible, "");
    assert_string_equal(devices[2]->visible, "MIG-7");
    assert_string_equal(devices[3]->visible, "other");
    assert_int_equal(device_fake_parse("f", "", &arena, &devices, &count, &err), 0);
    assert_int_equal(count, 0);
}

static void test_parse_errors(void **state)
{
    static const struct {
        const char *text, *where;
    } cases[] = {
        {"tpu x", "f:1:1: a line begins with cpu or gpu"},
        {"cpu a\n  gpu", "f:2:6: the id of the device is missing"},
        {"gpu model=H200", "f:1:5: the id of the device comes before"},
        {"cpu a\ncpu b memory=lots", "f:2:14: memory= needs a number"},
        {"cpu a colour=red", "f:1:7: none of model="},
        {"\n\ncpu a fault=  ", "f:3:13: fault= needs a text"},
        {"cpu a\ncpu b\ncpu a\n", "f:3:1: this id was given before"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int r = device_fake_parse("f", cases[i].text, &arena, &devices, &count, &err);
        assert_int_equal(r, ACCEL_EINVAL);
        if (strncmp(err.text, cases[i].where, strlen(cases[i].where)) != 0)
            fail_msg("'%s' does not begin with '%s'", err.text, cases[i].where);
    }
}

static void test_cpu_and_joined(void **state)
{
    struct device_source *sources[] = {device_cpu_create(0), device_cpu_create(2)};
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    (void)state;
    assert_int_equal(device_list_all(sources, 1, &arena, &devices, &count, &err), 0);
    assert_int_equal(count, online > 16 ? online : 16);
    assert_string_equal(devices[15]->id, "cpu:15");
    assert_int_equal(devices[15]->index, 15);
    assert_int_equal(device_list_all(sources, 2, &arena, &devices, &count, &err), ACCEL_EINVAL);
    assert_non_null(strstr(err.text, "cpu:"));
    assert_int_equal(device_list_all(sources, 0, &arena, &devices, &count, &err), 0);
    assert_int_equal(count, 0);
    sources[0]->ops->destroy(sources[0]);
    sources[1]->ops->destroy(sources[1]);
}

static unsigned changes;

static void on_change(void *ctx)
{
    changes++;
    uv_stop(ctx);
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void test_replaced_file(void **state)
{
    char dir[] = "/tmp/accel-test-XXXXXX", path[64], next[64];
    struct device_source *source;
    uv_loop_t loop;
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/d", dir);
    snprintf(next, sizeof(next), "%s/d.new", dir);
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(device_fake_create(&loop, path, on_change, &loop, &source, &err), 0);
    assert_true(source->ops->list(source, &arena, &devices, &count, &err) < 0);
    write_file(next, "cpu a\n");
    assert_int_equal(rename(next, path), 0);
    for (changes = 0; changes == 0;)
        uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(source->ops->list(source, &arena, &devices, &count, &err), 0);
    assert_int_equal(count, 1);
    source->ops->destroy(source);
    assert_int_equal(device_fake_create(&loop, "/no/such/dir/d", NULL, NULL, &source, &err),
                     ACCEL_ENOENT);
    assert_non_null(strstr(err.text, "/no/such/dir"));
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    unlink(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_parse, setup, teardown),
        cmocka_unit_test_setup_teardown(test_parse_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cpu_and_joined, setup, teardown),
        cmocka_unit_test_setup_teardown(test_replaced_file, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
