/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nothing is left of an attempt: descendants that were detached, deaf, stopped or forking in a
 * storm, at the end of the ranks, at a stop, and after the shim itself was killed. on_gone's own
 * check (no process has the attempt's mark) is part of every test here.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launcher_world.h"

static struct seen *launch_naughty(struct world *w, uint64_t job_id, const char *a, const char *b,
                                   const char *c, const char *d, const char *e)
{
    struct start s;
    start_init(&s, job_id, 1, 1, world_naughty_path, a, b, c, d, e, NULL);
    struct seen *seen = world_launch(w, &s);
    return seen;
}

static const char *const kinds[] = {"setsid", "double", "ignore", "stopped", "reaper", "storm"};

/* The rank ends well and leaves something behind. */
static void test_left_behind(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct seen *a = launch_naughty(&w, i + 1, kinds[i], "leave", NULL, NULL, NULL);
        world_wait(&w, &a->gone, 1);
        assert_int_equal(a->exits[0]->exit_code, 0);
        assert_false(a->shim_lost);
    }
    world_close(&w);
}

static void test_stopped_tree(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = launch_naughty(&w, 1, "deaf", "setsid", "double", "storm", "reaper");
    world_wait_text(&w, a, "0.out", "ready");
    assert_true(world_count_marked(&w, a->id) > 3);
    w.l->ops->stop(w.l, a->id, 20, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->exits[0]->signal, SIGKILL);
    world_close(&w);
}

/* One rank ends; the other's processes are not touched until it ends too. */
static void test_tree_waits_for_the_last_rank(void **state)
{
    struct world w;
    struct start s;
    (void)state;
    world_open(&w);
    start_init(&s, 1, 1, 2, world_naughty_path, "setsid", NULL);
    struct seen *a = world_launch(&w, &s);
    world_wait_text(&w, a, "0.out", "ready");
    world_wait_text(&w, a, "1.out", "ready");
    kill((pid_t)a->start->ranks[0]->pid, SIGKILL);
    world_wait_size(&w, &a->exit_count, 1);
    assert_int_equal(world_count_marked(&w, a->id), 3); /* rank 1, and a child of each */
    kill((pid_t)a->start->ranks[1]->pid, SIGTERM);
    world_wait(&w, &a->gone, 1);
    assert_false(a->exits[1]->stopped);
    world_close(&w);
}

/* ---- the shim is killed ---- */

static void check_shim_lost(struct world *w, struct seen *a)
{
    kill(world_shim_pid(w, a->id), SIGKILL);
    world_wait(w, &a->gone, 1);
    assert_true(a->shim_lost);
    assert_false(a->record->start_failed);
    assert_int_equal(a->record->stop_cause, ACCEL__V1__CAUSE__CAUSE_SHIM_LOST);
    assert_int_equal(a->record->ranks[0]->pid, a->start->ranks[0]->pid);
    assert_true(world_size(w, a->id, "exit") > 0);
}

static void test_shim_killed(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 1, 3, "exit $RANK; exec tail -f /dev/null");
    world_wait(&w, &a->gone, 1);
    a = world_launch_shell(&w, 2, 3, "[ $RANK = 1 ] && exit 7; exec tail -f /dev/null");
    world_wait_size(&w, &a->exit_count, 1);
    check_shim_lost(&w, a);
    assert_int_equal(a->record->ranks[1]->exit_code, 7); /* what is known stays known */
    assert_true(a->record->ranks[1]->exited);
    assert_false(a->record->ranks[0]->exited);
    world_close(&w);
}

static void test_shim_killed_with_tree(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct seen *a = launch_naughty(&w, i + 1, "deaf", kinds[i], NULL, NULL, NULL);
        world_wait_text(&w, a, "0.out", "ready");
        check_shim_lost(&w, a);
    }
    world_close(&w);
}

/* A neighbour of the killed shim, with the same kind of tree, is not touched. */
static void test_shim_killed_beside_another(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = launch_naughty(&w, 1, "setsid", "double", NULL, NULL, NULL);
    struct seen *b = launch_naughty(&w, 2, "setsid", "double", NULL, NULL, NULL);
    world_wait_text(&w, a, "0.out", "ready");
    world_wait_text(&w, b, "0.out", "ready");
    check_shim_lost(&w, a);
    assert_int_equal(b->exit_count, 0);
    assert_int_equal(world_count_marked(&w, b->id), 3);
    world_close(&w);
}

/* Two daemons on one host have the same job numbers: a sweep of the one spares the other. */
static void test_sweep_spares_other_directories(void **state)
{
    struct world w;
    struct world other;
    (void)state;
    world_open(&w);
    world_open(&other);
    struct seen *a = launch_naughty(&w, 1, "setsid", NULL, NULL, NULL, NULL);
    struct seen *b = launch_naughty(&other, 1, "setsid", NULL, NULL, NULL, NULL);
    world_wait_text(&w, a, "0.out", "ready");
    world_wait_text(&other, b, "0.out", "ready");
    check_shim_lost(&w, a);
    assert_int_equal(world_count_marked(&other, b->id), 2);
    assert_int_equal(b->exit_count, 0);
    world_close(&other);
    world_close(&w);
}

/* The shim dies in the middle of its work of killing. */
static void test_shim_killed_while_stopping(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = launch_naughty(&w, 1, "deaf", "storm", "double", NULL, NULL);
    world_wait_text(&w, a, "0.out", "ready");
    pid_t shim = world_shim_pid(&w, a->id);
    w.l->ops->stop(w.l, a->id, 0, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    kill(shim, SIGKILL);
    world_wait(&w, &a->gone, 1);
    world_close(&w);
}

/* Killed as early as can be: whatever was there, exactly one end is told. */
static void test_shim_killed_early(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    for (uint64_t i = 1; i <= 20; i++) {
        struct seen *a = world_launch_shell(&w, i, 2, "exec tail -f /dev/null");
        while (world_size(&w, a->id, "pid") <= 0 && a->gone == 0) {
            uv_run(&w.loop, UV_RUN_NOWAIT);
        }
        size_t len;
        char *text = world_read(&w, a->id, "pid", &len);
        int pid = 0;
        if (sscanf(text, "%d", &pid) == 1 && pid > 1) {
            kill(pid, SIGKILL);
        }
        free(text);
        world_wait(&w, &a->gone, 1);
        assert_true(a->shim_lost);
    }
    world_close(&w);
}

static void test_spawn_killed(void **state)
{
    struct world w;
    struct start s;
    struct accel_error err = {0};
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 1, 1, "echo up; exec tail -f /dev/null");
    world_wait_text(&w, a, "0.out", "up");
    kill(w.spawn_pid, SIGKILL);
    while (!w.is_spawn_lost) {
        world_run_once(&w);
    }
    start_init(&s, 2, 1, 1, "/bin/true", NULL);
    assert_int_equal(w.l->ops->launch(w.l, &s.spec, &err), ACCEL_EUNAVAIL);
    /* The shim lives on and obeys. */
    assert_int_equal(a->gone, 0);
    w.l->ops->stop(w.l, a->id, 0, ACCEL__V1__CAUSE__CAUSE_CANCELLED);
    world_wait(&w, &a->gone, 1);
    assert_false(a->shim_lost);
    /* Its parent cgroup goes with the next accel-spawn. */
    world_abandon(&w);
    world_reopen(&w);
    world_close(&w);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_left_behind),
        cmocka_unit_test(test_stopped_tree),
        cmocka_unit_test(test_tree_waits_for_the_last_rank),
        cmocka_unit_test(test_shim_killed),
        cmocka_unit_test(test_shim_killed_with_tree),
        cmocka_unit_test(test_shim_killed_beside_another),
        cmocka_unit_test(test_sweep_spares_other_directories),
        cmocka_unit_test(test_shim_killed_while_stopping),
        cmocka_unit_test(test_shim_killed_early),
        cmocka_unit_test(test_spawn_killed),
    };
    if (!world_main(argc, argv)) {
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
