/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Output on its way to files: segments and their mark, a gigabyte in one line, copies, tails,
 * closed streams, watches, and disks that are full.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/limits.h"
#include "launcher_world.h"

#define SEGMENT ((int64_t)LIMIT_OUTPUT_SEGMENT_BYTES)

static bool is_filled(const char *data, size_t len, char c)
{
    for (size_t i = 0; i < len; i++) {
        if (data[i] != c) {
            return false;
        }
    }
    return true;
}

static int64_t shim_rss_kb(struct world *w, struct attempt_id id)
{
    char path[64];
    char text[4096];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)world_shim_pid(w, id));
    int fd = open(path, O_RDONLY);
    if (fd < 0) {
        return -1;
    }
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *p = strstr(text, "VmHWM:");
    return p == NULL ? -1 : strtoll(p + 6, NULL, 10);
}

/* 1 GB without a newline: the first segment, the newest, the mark; the shim stays small. */
static void test_gigabyte_in_one_line(void **state)
{
    struct world w;
    const uint64_t total = 1u << 30;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(
        &w, 1, 1,
        "trap 'exit 0' USR1; head -c 1073741824 /dev/zero | tr '\\0' x; echo end >&2; "
        "while :; do tail -f /dev/null & wait; done");
    world_wait_text(&w, a, "0.err", "end");
    int64_t rss = shim_rss_kb(&w, a->id);
    assert_true(rss > 0);
#ifndef __SANITIZE_ADDRESS__
    assert_in_range(rss, 1, 8 << 10);
#endif
    w.l->ops->signal(w.l, a->id, 0, SIGUSR1);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->record->ranks[0]->stdout_bytes, total);
    /* The last byte is the end of a segment: no empty one follows it. */
    int64_t last = (int64_t)total / SEGMENT - 1;
    for (int64_t i = 1; i <= last + 1; i++) {
        char file[32];
        bool is_kept = i > last - (int64_t)LIMIT_OUTPUT_SEGMENTS + 1 && i <= last;
        snprintf(file, sizeof(file), "0.out.%d", (int)i);
        assert_int_equal(world_size(&w, a->id, file), is_kept ? SEGMENT : -1);
    }
    size_t len;
    char mark[128];
    char *data = world_read(&w, a->id, "0.out", &len);
    int64_t cut_to = (last - (int64_t)LIMIT_OUTPUT_SEGMENTS + 2) * SEGMENT;
    snprintf(mark, sizeof(mark), "\n[accel: output from byte %lld to byte %lld was cut]\n",
             (long long)SEGMENT, (long long)cut_to);
    assert_true(is_filled(data, (size_t)SEGMENT, 'x'));
    assert_string_equal(data + SEGMENT, mark);
    free(data);
    world_close(&w);
}

/* Numbered lines, so that every byte kept can be told from every other. */
static void test_segments_keep_positions(void **state)
{
    struct world w;
    struct start s;
    char line[32];
    (void)state;
    world_open(&w);
    start_init(&s, 1, 1, 1, "/usr/bin/seq", "-f", "%015.0f", "1", "5000000", NULL);
    struct seen *a = world_launch(&w, &s);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->record->ranks[0]->stdout_bytes, 80000000);
    size_t len;
    char *data = world_read(&w, a->id, "0.out.4", &len);
    assert_int_equal(len, 80000000 - 4 * SEGMENT);
    /* 16 bytes a line, and segments are multiples of that. */
    snprintf(line, sizeof(line), "%015lld\n", (long long)(4 * SEGMENT / 16 + 1));
    assert_memory_equal(data, line, 16);
    assert_memory_equal(data + len - 16, "000000005000000\n", 16);
    free(data);
    assert_int_equal(world_size(&w, a->id, "0.out.3"), SEGMENT);
    assert_int_equal(world_size(&w, a->id, "0.out.2"), SEGMENT);
    assert_int_equal(world_size(&w, a->id, "0.out.1"), -1);
    world_close(&w);
}

static void test_tail_of_stderr(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 1, 1, "seq 1 100000 >&2; printf last >&2; exit 1");
    world_wait(&w, &a->gone, 1);
    const ProtobufCBinaryData *tail = &a->exits[0]->stderr_tail;
    assert_int_equal(tail->len, LIMIT_STDERR_TAIL_BYTES);
    assert_memory_equal(tail->data + tail->len - 11, "100000\nlast", 11);
    world_close(&w);
}

/* The last words are in the files although a descendant holds the pipes and is killed. */
static void test_last_words(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    for (uint64_t i = 1; i <= 10; i++) {
        struct seen *a = world_launch_shell(
            &w, i, 1, "setsid tail -f /dev/null & echo one; echo two >&2; exit 3");
        world_wait(&w, &a->gone, 1);
        size_t len;
        char *out = world_read(&w, a->id, "0.out", &len);
        assert_string_equal(out, "one\n");
        assert_int_equal(a->exits[0]->stderr_tail.len, 4);
        free(out);
    }
    world_close(&w);
}

static void test_closed_streams(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(&w, 1, 1,
                                        "exec >&- ; trap 'exit 4' USR1; echo still here >&2; "
                                        "while :; do tail -f /dev/null 2>/dev/null & wait; done");
    world_wait_text(&w, a, "0.err", "still here");
    assert_int_equal(a->exit_count, 0);
    w.l->ops->signal(w.l, a->id, 0, SIGUSR1);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->exits[0]->exit_code, 4);
    world_close(&w);
}

static void test_output_file(void **state)
{
    struct world w;
    struct start s;
    char path[300];
    struct stat st;
    (void)state;
    world_open(&w);
    snprintf(path, sizeof(path), "%s/copy", w.dir);
    for (uint32_t i = 1; i <= 2; i++) {
        start_init(&s, 1, i, 1, "/bin/sh", "-c", "echo out; echo err >&2", NULL);
        s.ranks[0].output_file = bytes_of(path);
        s.spec.umask = 027;
        struct seen *a = world_launch(&w, &s);
        world_wait(&w, &a->gone, 1);
    }
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(st.st_size, 16); /* appended by both attempts */
    world_close(&w);
}

/* A watch is answered at once for what was written since the last answer, and not before there
 * is something else. */
static void test_watch(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    struct seen *a = world_launch_shell(
        &w, 1, 1, "trap 'echo two' USR1; echo one; while :; do tail -f /dev/null & wait; done");
    world_wait_text(&w, a, "0.out", "one");
    /* Read to the end, nothing written since: after one stale answer at most, silence. */
    w.l->ops->watch(w.l, a->id);
    for (int i = 0; i < 200; i++) {
        uv_run(&w.loop, UV_RUN_NOWAIT);
        sched_yield();
    }
    int outputs = a->outputs;
    w.l->ops->watch(w.l, a->id);
    for (int i = 0; i < 200; i++) {
        uv_run(&w.loop, UV_RUN_NOWAIT);
        sched_yield();
    }
    assert_int_equal(a->outputs, outputs);
    w.l->ops->watch(w.l, a->id); /* several are one */
    w.l->ops->signal(w.l, a->id, 0, SIGUSR1);
    world_wait(&w, &a->outputs, outputs + 1);
    world_wait_text(&w, a, "0.out", "two");
    world_close(&w);
}

/* ---- full disks ---- */

/* A file system of one megabyte in the place of `dir`, for us and our children only. */
static bool mount_small(const char *dir)
{
    static bool is_unshared;
    if (geteuid() != 0) {
        return false;
    }
    if (!is_unshared &&
        (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)) {
        return false;
    }
    is_unshared = true;
    return mount("small", dir, "tmpfs", 0, "size=1m,mode=0700") == 0;
}

/* The job runs on, bytes are lost and counted, and the stream says so once there is room. */
static void run_full_disk(struct world *w)
{
    char script[1024];
    char path[512];
    snprintf(script, sizeof(script),
             "trap 'echo after; exit 5' USR2; head -c 4000000 /dev/zero | tr '\\0' y; "
             ": >%s/written; while :; do tail -f /dev/null & wait; done",
             w->dir);
    struct seen *a = world_launch_shell(w, 1, 1, script);
    snprintf(path, sizeof(path), "%s/written", w->dir);
    while (access(path, F_OK) < 0) { /* all but what a pipe holds has been read, and lost */
        uv_run(&w->loop, UV_RUN_NOWAIT);
        sched_yield();
        assert_int_equal(a->gone, 0);
    }
    unlink(path);
    /* Room for more than a pipe holds. */
    snprintf(path, sizeof(path), "%s/ballast", w->attempts);
    assert_int_equal(unlink(path), 0);
    w->l->ops->signal(w->l, a->id, 0, SIGUSR2);
    world_wait(w, &a->gone, 1);
    assert_int_equal(a->exits[0]->exit_code, 5);
    size_t len;
    char *out = world_read(w, a->id, "0.out", &len);
    const char *mark = strstr(out, "\n[accel: ");
    unsigned long long lost = 0;
    assert_non_null(mark);
    assert_int_equal(sscanf(mark, "\n[accel: %llu bytes of output were lost", &lost), 1);
    assert_true(is_filled(out, (size_t)(mark - out), 'y'));
    const char *rest = strstr(mark, "No space left on device]\n");
    assert_non_null(rest);
    rest += strlen("No space left on device]\n");
    size_t late = strspn(rest, "y");
    assert_string_equal(rest + late, "after\n");
    assert_int_equal((unsigned long long)(mark - out) + lost + late, 4000000);
    assert_int_equal(a->record->ranks[0]->stdout_bytes, len);
    free(out);
    assert_true(world_size(w, a->id, "exit") > 0);
}

static void test_disk_full(void **state)
{
    struct world w;
    char path[512];
    static char zeros[256 << 10];
    (void)state;
    world_open(&w);
    world_abandon(&w);
    if (!mount_small(w.attempts)) {
        world_reopen(&w);
        world_close(&w);
        skip();
    }
    snprintf(path, sizeof(path), "%s/ballast", w.attempts);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, zeros, sizeof(zeros)), sizeof(zeros));
    close(fd);
    world_reopen(&w);
    run_full_disk(&w);
    world_close(&w);
    umount(w.attempts);
    rmdir(w.attempts);
    rmdir(w.dir);
}

/* No room from the first byte to the last: it runs, ends, and its end is on disk. */
static void test_disk_full_all_the_time(void **state)
{
    struct world w;
    char path[512];
    static char zeros[64 << 10];
    (void)state;
    world_open(&w);
    world_abandon(&w);
    if (!mount_small(w.attempts)) {
        world_reopen(&w);
        world_close(&w);
        skip();
    }
    world_reopen(&w);
    struct seen *a =
        world_launch_shell(&w, 1, 1,
                           "trap 'head -c 9000 /dev/zero; echo bad >&2; exit 7' USR1; echo up; "
                           "while :; do tail -f /dev/null & wait; done");
    world_wait_text(&w, a, "0.out", "up");
    snprintf(path, sizeof(path), "%s/ballast", w.attempts);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    while (write(fd, zeros, sizeof(zeros)) > 0) {}
    assert_int_equal(errno, ENOSPC);
    close(fd);
    w.l->ops->signal(w.l, a->id, 0, SIGUSR1);
    world_wait(&w, &a->gone, 1);
    assert_int_equal(a->exits[0]->exit_code, 7);
    assert_int_equal(a->exits[0]->stderr_tail.len, 4);
    assert_true(world_size(&w, a->id, "exit") > 0);
    /* And a start that cannot even write its specification is refused by name. */
    struct seen *b = world_launch_shell(&w, 2, 1, "exit 0");
    world_wait(&w, &b->gone, 1);
    assert_true(b->record->start_failed);
    assert_non_null(strstr(b->record->text, "No space left"));
    world_close(&w);
    umount(w.attempts);
    rmdir(w.attempts);
    rmdir(w.dir);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gigabyte_in_one_line),
        cmocka_unit_test(test_segments_keep_positions),
        cmocka_unit_test(test_tail_of_stderr),
        cmocka_unit_test(test_last_words),
        cmocka_unit_test(test_closed_streams),
        cmocka_unit_test(test_output_file),
        cmocka_unit_test(test_watch),
        cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_disk_full_all_the_time),
    };
    if (!world_main(argc, argv)) {
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
