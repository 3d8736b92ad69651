/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Glue between libuv and the daemons' shells. libuv counts time on a clock that stands still while
 * the machine sleeps; deadlines are on CLOCK_BOOTTIME, so a timer compares when it fires, and is
 * armed again with every step of the core.
 */
#include "common/loop.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/str.h"

static int from_uv(int status)
{
    return status < 0 ? error_sys(NULL, -status, "libuv") : 0;
}

/* For kernels before Linux 5.11 and sandboxes without close_range. */
static void mark_all_cloexec(void)
{
    DIR *dir = opendir("/proc/self/fd");
    const struct dirent *entry;
    uint64_t fd;
    CHECK(dir != NULL);
    while ((entry = readdir(dir)) != NULL) {
        if (parse_u64(entry->d_name, STDERR_FILENO + 1, INT_MAX, &fd) == 0) {
            fcntl((int)fd, F_SETFD, FD_CLOEXEC);
        }
    }
    closedir(dir);
}

static void *uv_malloc(size_t size)
{
    return xrealloc(NULL, size);
}

void loop_memory_prepare(void)
{
    int r = uv_replace_allocator(uv_malloc, xrealloc, xcalloc, free);
    CHECK(r == 0);
}

void loop_daemon_prepare(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    int fd;
    /* A daemon started with 0-2 closed must not print into its database. */
    do {
        fd = open("/dev/null", O_RDWR);
        CHECK(fd >= 0);
    } while (fd <= STDERR_FILENO);
    close(fd);
    if (close_range(STDERR_FILENO + 1, ~0u, CLOSE_RANGE_CLOEXEC) < 0) {
        mark_all_cloexec();
    }
    sigaction(SIGPIPE, &ignore, NULL);
    umask(077);
    loop_memory_prepare();
}

void loop_files_prepare(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files); /* if not, we live with fewer */
    }
}

int loop_files_check(unsigned count, struct accel_error *err)
{
    struct rlimit files = {0};
    int fds[64];
    unsigned n = 0;
    CHECK(count <= ARRAY_LEN(fds));
    while (n < count && (fds[n] = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)) >= 0)
        n++;
    for (unsigned i = 0; i < n; i++)
        close(fds[i]);
    if (n == count)
        return 0;
    getrlimit(RLIMIT_NOFILE, &files);
    return error_set(err, ACCEL_EFULL,
                     "too few files can be opened\nwhy: at least %u are needed, and the limit of"
                     " %llu open files leaves %u\ntry: ulimit -n 1024",
                     count, (unsigned long long)files.rlim_cur, n);
}

/* ---- timers ---- */

static void on_uv_timer(uv_timer_t *uv)
{
    struct loop_timer *t = uv->data;
    int64_t late_ms = clock_mono_ms() - t->deadline_ms;
    if (t->deadline_ms < 0) {
        return;
    }
    if (late_ms < 0) { /* libuv rounds to milliseconds of its own clock */
        loop_timer_set(t, t->deadline_ms);
        return;
    }
    t->deadline_ms = -1;
    t->on_due(t->ctx, late_ms);
}

int loop_timer_init(uv_loop_t *loop, struct loop_timer *t, void (*on_due)(void *, int64_t),
                    void *ctx)
{
    *t = (struct loop_timer){.on_due = on_due, .ctx = ctx, .deadline_ms = -1};
    int r = uv_timer_init(loop, &t->uv);
    t->uv.data = t;
    return from_uv(r);
}

void loop_timer_set(struct loop_timer *t, int64_t deadline_ms)
{
    t->deadline_ms = deadline_ms < 0 ? -1 : deadline_ms;
    if (deadline_ms < 0) {
        uv_timer_stop(&t->uv);
        return;
    }
    int64_t now_ms = clock_mono_ms();
    uint64_t wait_ms = deadline_ms > now_ms ? (uint64_t)(deadline_ms - now_ms) : 0;
    /* The timeout counts from the loop's idea of now, which may be old. */
    uv_update_time(t->uv.loop);
    int r = uv_timer_start(&t->uv, on_uv_timer, wait_ms, 0);
    CHECK(r == 0); /* it fails only on a closing handle */
}

void loop_timer_close(struct loop_timer *t, uv_close_cb on_closed)
{
    t->deadline_ms = -1;
    uv_close((uv_handle_t *)&t->uv, on_closed);
}

/* ---- signals ---- */

static void on_uv_signal(uv_signal_t *uv, int signo)
{
    struct loop_signals *s = uv->data;
    s->on_stop(s->ctx, signo);
}

static void on_uv_hup(uv_signal_t *uv, int signo)
{
    struct loop_signals *s = uv->data;
    (void)signo;
    if (s->on_reload)
        s->on_reload(s->ctx);
}

int loop_signals_init(uv_loop_t *loop, struct loop_signals *s, void (*on_stop)(void *, int),
                      void *ctx)
{
    *s = (struct loop_signals){.on_stop = on_stop, .ctx = ctx};
    uv_signal_t *const all[] = {&s->term, &s->intr, &s->hup};
    static const int signos[] = {SIGTERM, SIGINT, SIGHUP};
    int r = 0;
    for (size_t i = 0; i < ARRAY_LEN(all) && r == 0; i++) {
        r = uv_signal_init(loop, all[i]);
        all[i]->data = s;
        if (r == 0)
            r = uv_signal_start(all[i], signos[i] == SIGHUP ? on_uv_hup : on_uv_signal, signos[i]);
    }
    return from_uv(r);
}

void loop_signals_close(struct loop_signals *s)
{
    uv_close((uv_handle_t *)&s->term, NULL);
    uv_close((uv_handle_t *)&s->intr, NULL);
    uv_close((uv_handle_t *)&s->hup, NULL);
}
