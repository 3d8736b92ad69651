/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timers and signals on a real loop, the start-up duties in a child of their own, log lines as they
 * arrive on stderr. A timer may be late on a busy machine, never early: only that is asserted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/loop.h"

struct fixture {
    uv_loop_t loop;
    struct loop_timer timer;
    struct loop_timer other;
    struct loop_signals signals;
    int64_t due_ms;
    int64_t late_ms;
    int fired;
    int signo;
    int signal_count;
};

static void on_due(void *ctx, int64_t late_ms)
{
    struct fixture *f = ctx;
    f->fired++;
    f->late_ms = late_ms;
    f->due_ms = clock_mono_ms();
}

static void run_and_close(struct fixture *f)
{
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
}

static void test_timer(void **state)
{
    struct fixture f = {0};
    assert_int_equal(uv_loop_init(&f.loop), 0);
    assert_int_equal(loop_timer_init(&f.loop, &f.timer, on_due, &f), 0);
    int64_t deadline_ms = clock_mono_ms() + 30;
    loop_timer_set(&f.timer, deadline_ms + 100000);
    loop_timer_set(&f.timer, deadline_ms);
    uv_run(&f.loop, UV_RUN_DEFAULT);
    assert_int_equal(f.fired, 1);
    assert_true(f.due_ms >= deadline_ms);
    assert_true(f.late_ms >= 0 && f.late_ms <= f.due_ms - deadline_ms);
    loop_timer_set(&f.timer, clock_mono_ms() -
                                 500); /* past already: fires from the loop, and says how late */
    assert_int_equal(f.fired, 1);
    uv_run(&f.loop, UV_RUN_DEFAULT);
    assert_int_equal(f.fired, 2);
    assert_true(f.late_ms >= 500);
    for (int i = 0; i < 100; i++) { /* the clocks tick at different moments: some would be early */
        deadline_ms = clock_mono_ms() + 1 + i % 3;
        loop_timer_set(&f.timer, deadline_ms);
        uv_run(&f.loop, UV_RUN_DEFAULT);
        assert_true(f.late_ms >= 0 && f.due_ms >= deadline_ms);
    }
    f.fired = 2;
    loop_timer_set(&f.timer, clock_mono_ms());
    loop_timer_set(&f.timer, -1);
    loop_timer_set(&f.timer, INT64_MAX);
    loop_timer_set(&f.timer, -7);
    uv_run(&f.loop, UV_RUN_DEFAULT); /* nothing is armed: it returns */
    assert_int_equal(f.fired, 2);
    loop_timer_set(&f.timer, clock_mono_ms());
    loop_timer_close(&f.timer, NULL);
    run_and_close(&f);
    assert_int_equal(f.fired, 2);
}

static void on_due_again(void *ctx, int64_t late_ms)
{
    struct fixture *f = ctx;
    if (++f->fired < 3) {
        loop_timer_set(&f->timer, clock_mono_ms() + 1);
    } else {
        loop_timer_close(&f->timer, NULL);
    }
}

static void test_timer_again(void **state)
{
    struct fixture f = {0};
    assert_int_equal(uv_loop_init(&f.loop), 0);
    assert_int_equal(loop_timer_init(&f.loop, &f.timer, on_due_again, &f), 0);
    loop_timer_set(&f.timer, 0);
    run_and_close(&f);
    assert_int_equal(f.fired, 3);
}

static void on_stop(void *ctx, int signo)
{
    struct fixture *f = ctx;
    f->signo = signo;
    if (++f->signal_count == 1) {
        kill(getpid(), SIGINT);
    } else {
        loop_signals_close(&f->signals);
    }
}

static void test_signals(void **state)
{
    struct fixture f = {0};
    assert_int_equal(uv_loop_init(&f.loop), 0);
    assert_int_equal(loop_signals_init(&f.loop, &f.signals, on_stop, &f), 0);
    kill(getpid(), SIGTERM);
    run_and_close(&f);
    assert_int_equal(f.signal_count, 2);
    assert_int_equal(f.signo, SIGINT);
}

/* In a child: 0-2 closed, a descriptor left open. Which duty was not done, 0: none. */
static int try_prepare(void)
{
    struct sigaction got;
    struct stat st;
    struct stat null;
    int high = fcntl(STDERR_FILENO, F_DUPFD, 100);
    if (high < 100) {
        return 1;
    }
    close(0);
    close(1);
    close(2);
    loop_daemon_prepare();
    if (stat("/dev/null", &null) < 0) {
        return 2;
    }
    for (int fd = 0; fd <= 2; fd++) {
        if (fstat(fd, &st) < 0 || st.st_rdev != null.st_rdev ||
            (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0) {
            return 3;
        }
    }
    if ((fcntl(high, F_GETFD) & FD_CLOEXEC) == 0 || fcntl(3, F_GETFD) >= 0) {
        return 4;
    }
    if (sigaction(SIGPIPE, NULL, &got) < 0 || got.sa_handler != SIG_IGN) {
        return 5;
    }
    return umask(0) == 077 ? 0 : 6;
}

static void test_prepare(void **state)
{
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        for (int fd = 3; fd < 50; fd++) {
            close(fd); /* what the test's parent left open */
        }
        _exit(try_prepare());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* What a child's stderr gets. */
static void collect_log(char *text, size_t size)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char large[10000];
        memset(large, 'l', sizeof(large) - 1);
        large[sizeof(large) - 1] = '\0';
        dup2(ends[1], STDERR_FILENO);
        setenv("JOURNAL_STREAM", "1:1", 1); /* not ours: it was redirected */
        log_init("acceld", LOG_LEVEL_WARN);
        log_error("no %s\nwhy: \x1b[2J", "disk");
        log_info("not shown");
        log_warn("%s", large);
        log_warn("last");
        _exit(0);
    }
    close(ends[1]);
    size_t len = 0;
    ssize_t n;
    while (len < size - 1 && (n = read(ends[0], text + len, size - 1 - len)) > 0) {
        len += (size_t)n;
    }
    text[len] = '\0';
    close(ends[0]);
    waitpid(pid, NULL, 0);
}

static void test_log(void **state)
{
    char text[16384];
    size_t lines = 0;
    collect_log(text, sizeof(text));
    for (const char *p = text; *p != '\0'; p++) {
        lines += *p == '\n';
        assert_true(*p == '\n' || *p >= 0x20);
    }
    assert_int_equal(lines, 3);
    assert_memory_equal(text + 24, " acceld: error: no disk; why:  [2J\n", 35);
    assert_int_equal(text[23], 'Z');
    assert_true(strlen(text) < 4096 + 200);
    assert_non_null(strstr(text, "acceld: warning: last\n"));
    assert_null(strstr(text, "not shown"));
}

static void test_clock(void **state)
{
    char text[32];
    assert_string_equal(clock_format_utc(0, text, sizeof(text)), "");
    assert_string_equal(clock_format_utc(1, text, sizeof(text)), "1970-01-01T00:00:00.001Z");
    assert_string_equal(clock_format_utc(-1, text, sizeof(text)), "1969-12-31T23:59:59.999Z");
    assert_string_equal(clock_format_utc(1795421700123, text, sizeof(text)),
                        "2026-11-23T08:15:00.123Z");
    assert_string_equal(clock_format_utc(1709164800000, text, sizeof(text)),
                        "2024-02-29T00:00:00.000Z");
    clock_format_utc(INT64_MAX, text, sizeof(text));
    clock_format_utc(INT64_MIN, text, sizeof(text));
    struct clock_now a = clock_read();
    struct clock_now b = clock_read();
    assert_true(b.mono_ms >= a.mono_ms && a.wall_ms > 1700000000000);
    assert_true(clock_mono_ns() / 1000000 >= (uint64_t)b.mono_ms);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timer),   cmocka_unit_test(test_timer_again),
        cmocka_unit_test(test_signals), cmocka_unit_test(test_prepare),
        cmocka_unit_test(test_log),     cmocka_unit_test(test_clock),
    };
    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
